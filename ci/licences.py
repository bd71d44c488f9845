"""Keep the licences of the crates inside native's wheels where the wheel takes them from.

    python ci/licences.py check    # fail when LICENSES/third-party.txt is not up to date
    python ci/licences.py write

The crates are those that cargo links for any platform a wheel is built for; build scripts and procedural macros leave
nothing in it. Where a crate gives a choice, MIT is taken. The EPICS crates are in LICENSES/epics-rs.txt.
"""

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "packages" / "epicsrs-native" / "LICENSES"
WRITTEN = FOLDER / "third-party.txt"
TARGETS = [
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-msvc",
]
NAMED = re.compile(r"(LICEN[CS]E|COPYING|COPYRIGHT|NOTICE)", re.IGNORECASE)
HEAD = """What the compiled module of epicsrs-native contains besides its own code and the EPICS crates (epics-rs.txt):
these crates, on every platform or on some, and the Rust standard library.
"""


def cargo(*arguments: str) -> str:
    """What it prints."""
    command = ["cargo", *arguments, "--locked"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def linked() -> set[tuple[str, str]]:
    """Name and version of each crate that ends up in a wheel."""
    targets = [f"--target={target}" for target in TARGETS]
    edges = ["--edges=normal,no-proc-macro", "--prefix=none", "--no-dedupe", "--format={p}"]
    lines = cargo("tree", "--package=epicsrs-native", *edges, *targets).splitlines()
    crates = {(line.split()[0], line.split()[1].removeprefix("v")) for line in lines if line}
    return {crate for crate in crates if not crate[0].startswith("epics")}


def texts(folder: Path, expression: str) -> list[str]:
    """What a crate's licence asks to be passed on, and what the C sources in it ask for."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and NAMED.match(file.name))
    mit = [file for file in files if "MIT" in file.name.upper()]
    if mit and "MIT" in re.split(r" OR |/", expression):
        files = mit
    # mimalloc: one version of its sources is compiled, and both have the same licence.
    files += sorted(folder.glob("c_src/*/*/LICENSE"))[:1]
    return ["\n".join(line.rstrip() for line in file.read_text().strip().splitlines()) for file in files]


def collected() -> str:
    """Each licence once, below the crates that have it."""
    wanted = linked()
    packages = json.loads(cargo("metadata", "--format-version=1"))["packages"]
    users: defaultdict[str, list[str]] = defaultdict(list)
    without: list[str] = ["the Rust standard library (MIT OR Apache-2.0), by the Rust Project's contributors"]
    apache = ""
    for package in sorted(packages, key=lambda package: (package["name"], package["version"])):
        if (package["name"], package["version"]) not in wanted:
            continue
        line = f"{package['name']} {package['version']} ({package['license']})"
        folder = Path(package["manifest_path"]).parent
        found = texts(folder, package["license"])
        for text in found:
            users[text].append(line)
        if not found:
            without.append(line)
        apache = apache or next((file.read_text().strip() for file in folder.glob("LICENSE-APACHE")), "")
    users[apache] += without
    parts = [HEAD]
    for text, lines in sorted(users.items(), key=lambda item: item[1]):
        parts += ["=" * 100, *lines, "-" * 100, text, ""]
    return "\n".join(parts)


def main(what: str) -> None:
    """Compare, or write."""
    text = collected()
    if what == "write":
        WRITTEN.write_text(text)
    elif WRITTEN.read_text() != text:
        sys.exit(f"{WRITTEN.relative_to(ROOT)} is not up to date: python ci/licences.py write")


if __name__ == "__main__":
    if sys.argv[1:] not in (["check"], ["write"]):
        sys.exit(__doc__)
    main(sys.argv[1])
