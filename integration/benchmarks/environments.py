"""Where each client lives: an environment of its own with exact pins, or a program compiled here."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE / ".envs"
PYTHON = "3.11"
OURS = "epicsrs"
# ophyd over a layer, and ophyd-async over a backend, that has nothing to do: what they themselves take.
READY = "ready dict"
SOFT = "soft signal"
RAW = ("raw_ca", "raw_pva")
# Who lives in the workspace's environment, as this script does.
WORKSPACE = (OURS, READY, SOFT)
# What a client is called through: itself, ophyd, ophyd-async.
NATIVE = "native"


def python(client: str, layer: str = NATIVE) -> Path:
    """The interpreter of a client."""
    return Path(sys.executable) if client in WORKSPACE else FOLDER / layer / client / "bin" / "python"


def worker(client: str, layer: str = NATIVE) -> list[str | Path]:
    """The command that serves tasks with a client."""
    if layer == NATIVE:
        return [python(client), HERE / "workers" / f"{client.replace('-', '_')}_worker.py"]
    return [python(client, layer), HERE / "workers" / f"{layer}_worker.py", client]


def variables(epics: dict[str, str]) -> dict[str, str]:
    """The environment variables of a client's process, which finds the IOC of ``epics``.

    numpy's own threads are nobody's client threads. Compiled modules are kept, as those of an installed package are:
    a client is not measured by the time that Python takes to compile it.
    """
    ours = {"OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(FOLDER / "pycache")}
    return {**os.environ, **epics, **ours}


def program(client: str) -> Path:
    """The compiled raw client."""
    return FOLDER / client


def install(client: str, layer: str = NATIVE) -> None:
    """Make a client ready, unless it is already."""
    FOLDER.mkdir(exist_ok=True)
    if client in RAW:
        _compile(client)
    elif client not in WORKSPACE:
        _install_peer(client, layer)


def _compile(client: str) -> None:
    source, target = HERE / "raw" / f"{client}.c", program(client)
    newest = max(source.stat().st_mtime, (HERE / "raw" / "wire.h").stat().st_mtime)
    if not target.exists() or target.stat().st_mtime < newest:
        subprocess.run(["cc", "-O2", "-o", target, source], check=True)


def _install_peer(client: str, layer: str) -> None:
    requirements = HERE / "requirements" / layer / f"{client}.txt"
    folder = FOLDER / layer / client
    # Written last: an environment that was interrupted or pinned otherwise is made anew.
    stamp = folder / "installed.txt"
    if stamp.exists() and stamp.read_text() == requirements.read_text():
        return
    subprocess.run(["uv", "venv", "--quiet", "--clear", "-p", PYTHON, folder], check=True)
    # The lists are complete. --no-deps: ophyd-epicsrs asks for an old ophyd.
    command = ["uv", "pip", "install", "--quiet", "--no-deps", "--python", python(client, layer), "-r", requirements]
    subprocess.run(command, check=True)
    stamp.write_text(requirements.read_text())
