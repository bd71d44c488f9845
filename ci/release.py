"""What a tag releases; refused where the tag, the package's manifest and its CHANGELOG.md differ.

python ci/release.py native-v1.0.0    # prints the distribution's name, "epicsrs-native"
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "native": "epicsrs-native",
    "sync": "ophyd-epicsrs-sync",
    "async": "ophyd-epicsrs-async",
    "bulk": "epicsrs-bulk",
}


class RefusedError(Exception):
    """This must not be released."""


def version(folder: Path) -> str:
    """The version in the manifest: Cargo.toml's for the compiled package."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    if "version" in project:
        return project["version"]
    return tomllib.loads((folder / "Cargo.toml").read_text())["package"]["version"]


def released(tag: str, root: Path = ROOT) -> str:
    """The name of the distribution that the tag releases.

    Raises:
        RefusedError: Nothing is released by such a tag, or the manifest or the changelog does not agree with it.
    """
    parts = re.fullmatch(r"(\w+)-v(\d+\.\d+\.\d+)", tag)
    if parts is None or parts[1] not in PACKAGES:
        raise RefusedError(f"{tag}: a release's tag is one of {', '.join(PACKAGES)}, then -v and a version, as 1.2.3")
    name = PACKAGES[parts[1]]
    folder = root / "packages" / name
    if version(folder) != parts[2]:
        raise RefusedError(f"{tag}: the manifest of {name} says {version(folder)}")
    newest = re.search(r"(?m)^## (.*)$", (folder / "CHANGELOG.md").read_text())
    if newest is None or not re.fullmatch(rf"{re.escape(parts[2])} \(\d{{4}}-\d\d-\d\d\)", newest[1]):
        heading = None if newest is None else newest[1]
        raise RefusedError(f"{tag}: CHANGELOG.md of {name} begins with {heading!r}, not with that version and its date")
    return name


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        print(released(sys.argv[1]))
    except RefusedError as refusal:
        sys.exit(str(refusal))
