"""The Python of ophyd-epicsrs 0.8.0's manual runs on the packages here, with nothing but its imports changed.

The manual is in the metadata of the wheel on PyPI, fetched for this. Two more words are changed: the Mongo server's
port, and the field of a motor that is written, which no IOC allows.
"""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest

from deadline import until
from epicsrs_beamline import Beamline
from ioc import free_ports

from .suites.sdist import TOOLS

PROGRAM = Path(__file__).parent / "programs" / "manual_of_0_8.py"
# From the network at worst, and on a machine that is busy.
LIMIT = 180.0


@pytest.fixture
def manual(tmp_path: Path) -> Path:
    uv = ["uv", "run", "--quiet", "--no-project", "--isolated", *TOOLS]
    pip = ["python", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    wheel = ["--only-binary=:all:", f"--dest={tmp_path}", "ophyd-epicsrs==0.8.0"]
    subprocess.run([*uv, *pip, *wheel], check=True, timeout=LIMIT)
    [archive] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(archive) as opened:
        metadata = message_from_bytes(opened.read("ophyd_epicsrs-0.8.0.dist-info/METADATA"))
    manual = tmp_path / "manual.md"
    manual.write_bytes(metadata.get_payload(decode=True))
    return manual


@pytest.fixture
def mongo(tmp_path: Path) -> Iterator[str]:
    """The address of a server that speaks MongoDB's wire protocol."""
    [port] = free_ports(1)
    log = tmp_path / "mongo.txt"
    command = [str(Path(sys.executable).parent / "nx-27017"), "--db=memory", f"--port={port}", f"--log-file={log}"]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, cwd=tmp_path)
    try:
        until(lambda: listening(port) or server.poll() is not None, 30.0)
        assert server.poll() is None, log.read_text()
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def listening(port: int) -> bool:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def test_the_manual_of_0_8_runs_with_other_imports(manual: Path, mongo: str, tmp_path: Path) -> None:
    with Beamline(prefix="IOC:", databases=[PROGRAM.with_suffix(".db")]) as beamline:
        done = subprocess.run(
            [sys.executable, str(PROGRAM), str(manual), mongo],
            env={**os.environ, **beamline.env, "XDG_STATE_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "-- 5 events of run " in done.stdout
