"""Somebody else's source distribution from PyPI, which has their tests; never part of this repository."""

import subprocess
import tarfile
from pathlib import Path

# pip asks a source distribution for its metadata, even to download it; these are what makes them.
TOOLS = ["--with=pip==26.2", "--with=setuptools==80.9.0", "--with=setuptools-scm==9.2.2"]
# From the network at worst; pip keeps what it has fetched.
LIMIT = 180.0


def fetch(name: str, version: str, folder: Path) -> Path:
    """Its unpacked folder, inside the given one."""
    uv = ["uv", "run", "--quiet", "--no-project", "--isolated", *TOOLS]
    pip = ["python", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    source = [f"--no-binary={name}", "--no-build-isolation", f"--dest={folder}", f"{name}=={version}"]
    done = subprocess.run([*uv, *pip, *source], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")
