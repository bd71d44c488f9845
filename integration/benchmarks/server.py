"""Who answers in a row: the IOC, or a program that does what an IOC does not, on ports of its own."""

import os
import select
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import environments
from process import TaskError
from row import Row

from ioc import SoftIoc

HERE = Path(__file__).resolve().parent
HOSTILE = HERE.parents[1] / "packages" / "epicsrs-native" / "tests" / "programs"
START_LIMIT = 20.0
# NTNDArray of 2048 x 2048 uint16
FRAMES = "bench:frames"
# an areaDetector's records (workers/camera.py)
CAMERA = "bench:camera:"
# double, whose readings are 512 MiB long
OVERSIZED = "bench:half_a_gigabyte"


@contextmanager
def serving(row: Row, ioc: SoftIoc, log: Path) -> Generator[dict[str, str]]:
    """The EPICS_* variables under which clients find the row's server and no other."""
    if row.server == "ioc":
        yield ioc.environment
        return
    if row.server == "camera":
        with SoftIoc(_camera_records()) as camera:
            yield camera.environment
        return
    # Never started: for its ports.
    network = SoftIoc("")
    environment = network.environment
    with log.open("ab") as output:
        process = subprocess.Popen(
            _command(row.server, environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            env={**os.environ, **environment},
        )
    try:
        # Each says a line when it serves.
        if not select.select([process.stdout], [], [], START_LIMIT)[0] or not process.stdout.readline():
            raise TaskError(f"{row.server} does not serve")
        yield environment
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        network.stop()


def _camera_records() -> str:
    # In a process of its own: ophyd stays out of this one.
    return subprocess.run(
        [sys.executable, HERE / "workers" / "camera.py", CAMERA],
        env={**os.environ, "OPHYD_CONTROL_LAYER": "dummy"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def _command(server: str, environment: dict[str, str]) -> list[str | Path]:
    if server == "frames":
        return [environments.python("p4p"), HERE / "servers" / "frames.py", FRAMES]
    searches = "EPICS_CA_SERVER_PORT" if server == "hostile_ca" else "EPICS_PVAS_BROADCAST_PORT"
    return [sys.executable, HOSTILE / f"{server}.py", OVERSIZED.partition(":")[0] + ":", environment[searches]]
