"""Where each client lives: an environment of its own with exact pins, or a program compiled here."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE / ".envs"
PYTHON = "3.11"
OURS = "epicsrs"
PEERS = ("ophyd-epicsrs", "pyepics", "aioca", "p4p")
RAW = ("raw_ca", "raw_pva")


def python(client: str) -> Path:
    """The interpreter of a client; ours runs in the workspace's environment, as this script does."""
    return Path(sys.executable) if client == OURS else FOLDER / client / "bin" / "python"


def worker(client: str) -> Path:
    """The script that serves tasks with a client."""
    return HERE / "workers" / f"{client.replace('-', '_')}_worker.py"


def program(client: str) -> Path:
    """The compiled raw client."""
    return FOLDER / client


def install(client: str) -> None:
    """Make a client ready, unless it is already."""
    FOLDER.mkdir(exist_ok=True)
    if client in RAW:
        _compile(client)
    elif client in PEERS:
        _install_peer(client)


def _compile(client: str) -> None:
    source, target = HERE / "raw" / f"{client}.c", program(client)
    newest = max(source.stat().st_mtime, (HERE / "raw" / "wire.h").stat().st_mtime)
    if not target.exists() or target.stat().st_mtime < newest:
        subprocess.run(["cc", "-O2", "-o", target, source], check=True)


def _install_peer(client: str) -> None:
    requirements = HERE / "requirements" / f"{client}.txt"
    folder = FOLDER / client
    # Written last: an environment that was interrupted or pinned otherwise is made anew.
    stamp = folder / "installed.txt"
    if stamp.exists() and stamp.read_text() == requirements.read_text():
        return
    subprocess.run(["uv", "venv", "--quiet", "--clear", "-p", PYTHON, folder], check=True)
    # The lists are complete. --no-deps: ophyd-epicsrs asks for an ophyd that its native part does not need.
    command = ["uv", "pip", "install", "--quiet", "--no-deps", "--python", python(client), "-r", requirements]
    subprocess.run(command, check=True)
    stamp.write_text(requirements.read_text())
