"""Which tags release what, and which are refused."""

from pathlib import Path

import pytest
import release


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with native 1.2.3 and the async adapter 0.4.0, both ready for their release."""
    for name, changes in (("epicsrs-native", "1.2.3 (2026-11-30)"), ("ophyd-epicsrs-async", "0.4.0 (2026-11-30)")):
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        (folder / "CHANGELOG.md").write_text(f"# Changes\n\n## {changes}\n\n- All of it.\n\n## 0.1.0 (2026-01-01)\n")
    native, adapter = tmp_path / "packages/epicsrs-native", tmp_path / "packages/ophyd-epicsrs-async"
    (native / "pyproject.toml").write_text('[project]\nname = "epicsrs-native"\ndynamic = ["version"]\n')
    (native / "Cargo.toml").write_text('[package]\nname = "epicsrs-native"\nversion = "1.2.3"\n')
    (adapter / "pyproject.toml").write_text('[project]\nname = "ophyd-epicsrs-async"\nversion = "0.4.0"\n')
    return tmp_path


@pytest.mark.parametrize(
    ("tag", "name"), [("native-v1.2.3", "epicsrs-native"), ("async-v0.4.0", "ophyd-epicsrs-async")]
)
def test_a_tag_that_agrees_names_its_package(root: Path, tag: str, name: str) -> None:
    assert release.released(tag, root) == name


@pytest.mark.parametrize(
    ("tag", "why"),
    [
        ("native-v1.2.4", "the manifest of epicsrs-native says 1.2.3"),
        ("async-v1.2.3", "the manifest of ophyd-epicsrs-async says 0.4.0"),
        ("epicsrs-v1.2.3", "one of native, sync, async, bulk"),
        ("native-1.2.3", "one of native, sync, async, bulk"),
        ("native-v1.2.3rc1", "one of native, sync, async, bulk"),
        ("v1.2.3", "one of native, sync, async, bulk"),
    ],
)
def test_a_tag_that_differs_is_refused(root: Path, tag: str, why: str) -> None:
    with pytest.raises(release.RefusedError, match=why):
        release.released(tag, root)


@pytest.mark.parametrize("heading", ["1.2.3 (not released)", "1.2.2 (2026-11-01)", "1.2.3"])
def test_a_release_without_its_page_in_the_changelog_is_refused(root: Path, heading: str) -> None:
    (root / "packages/epicsrs-native/CHANGELOG.md").write_text(f"# Changes\n\n## {heading}\n\n- Something.\n")

    with pytest.raises(release.RefusedError, match="not with that version and its date"):
        release.released("native-v1.2.3", root)


@pytest.mark.parametrize("name", release.PACKAGES.values())
def test_every_package_has_a_version_and_a_changelog_about_it(name: str) -> None:
    folder = release.ROOT / "packages" / name

    assert f"\n## {release.version(folder)} (" in (folder / "CHANGELOG.md").read_text()
