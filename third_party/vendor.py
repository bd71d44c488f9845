"""Keep the modified upstream crates equal to published crate + patches.

    python third_party/vendor.py check    # fail when a folder differs
    python third_party/vendor.py write    # rebuild the folders
    python third_party/vendor.py diff     # print what the folders add to the last patch

A published crate loses its tests, benches, examples, manuals and command line tools, which we neither build nor
ship, and gains MODIFIED.md. Its licence stays. The published files come out of cargo's own download cache, which
cargo has verified against the checksum given in crates.toml.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
DROPPED = (
    *("tests", "benches", "examples", "doc", "tools", "src/bin", "BENCHMARKS.md", "TESTING.md"),
    *("Cargo.toml.orig", "Cargo.lock", ".cargo_vcs_info.json", ".gitignore"),
)
DROPPED_TABLES = re.compile(r"^\[(\[(bin|test|bench|example)\]\]|dev-dependencies)")


def published(name: str, version: str, sha256: str) -> Path:
    """The downloaded crate archive, fetched by cargo when it is not there yet."""
    cache = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "registry" / "cache"
    archives = list(cache.glob(f"*/{name}-{version}.crate"))
    if not archives:
        with tempfile.TemporaryDirectory() as folder:
            manifest = Path(folder, "Cargo.toml")
            package = '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2024"\n'
            manifest.write_text(f'{package}[dependencies]\n{name} = "={version}"\n')
            Path(folder, "src").mkdir()
            Path(folder, "src", "lib.rs").touch()
            subprocess.run(["cargo", "fetch", "--manifest-path", manifest], check=True)
        archives = list(cache.glob(f"*/{name}-{version}.crate"))
    archive = archives[0]
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != sha256:
        sys.exit(f"{name} {version}: the downloaded crate has sha256 {digest}, crates.toml says {sha256}")
    return archive


def trimmed_manifest(text: str) -> str:
    """Cargo.toml without the tables of targets and dependencies that the copy does not carry."""
    tables = re.split(r"(?m)^(?=\[)", text)
    return "".join(table for table in tables if not DROPPED_TABLES.match(table))


def unpacked(crate: dict[str, str], into: Path) -> Path:
    """The trimmed copy of one published crate, without our patches."""
    name, version = crate["name"], crate["version"]
    with tarfile.open(published(name, version, crate["sha256"])) as archive:
        archive.extractall(into, filter="data")
    folder = into / name
    (into / f"{name}-{version}").rename(folder)
    for dropped in DROPPED:
        path = folder / dropped
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    manifest = folder / "Cargo.toml"
    manifest.write_text(trimmed_manifest(manifest.read_text()))
    return folder


def patches(name: str) -> list[Path]:
    return sorted((HERE / "patches" / name).glob("*.patch"))


def rebuilt(crate: dict[str, str], into: Path) -> Path:
    """The copy as it has to lie in third_party/."""
    folder = unpacked(crate, into)
    for patch in patches(crate["name"]):
        subprocess.run(["git", "apply", "--whitespace=nowarn", patch.resolve()], cwd=folder, check=True)
    names = "".join(f"- {patch.name}\n" for patch in patches(crate["name"]))
    (folder / "MODIFIED.md").write_text(
        f"# Modified copy of {crate['name']} {crate['version']}\n\n"
        "Changed from the crate published on crates.io: tests, benches, examples, manuals and command line tools are\n"
        f"left out, and these patches (third_party/patches/{crate['name']}) are applied:\n\n{names}"
    )
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def replace(target: Path, source: Path) -> None:
    """Make target's files those of source; what is equal already keeps its time, so that cargo rebuilds no more."""
    old, new = files(target), files(source)
    for path in old.keys() - new.keys():
        (target / path).unlink()
    for path, content in new.items():
        if old.get(path) != content:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes(content)


def main() -> int:
    action = sys.argv[1] if len(sys.argv) == 2 else ""
    if action not in ("check", "write", "diff"):
        sys.exit(__doc__)
    crates = tomllib.loads((HERE / "crates.toml").read_text())["crate"]
    different = 0
    for crate in crates:
        with tempfile.TemporaryDirectory() as scratch:
            folder = rebuilt(crate, Path(scratch))
            target = HERE / crate["name"]
            if action == "write":
                replace(target, folder)
            elif action == "diff":
                subprocess.run(["git", "diff", "--no-index", "--no-prefix", folder, target], check=False)
            else:
                ours, theirs = files(target), files(folder)
                for path in sorted(ours.keys() | theirs.keys()):
                    if ours.get(path) != theirs.get(path):
                        print(f"{crate['name']}: {path} is not published crate + patches")
                        different += 1
        print(f"{crate['name']} {crate['version']}: {len(patches(crate['name']))} patches")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
