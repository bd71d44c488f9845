"""The beamline as clients see it that are not ours, each in a process and an environment of its own.

The checks lie in clients/; here they run, and a check that is skipped has not passed.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from epicsrs_beamline import Beamline

HERE = Path(__file__).parent / "clients"
PACKAGE = Path(__file__).parent.parent / "python"
# For the environments to be made, from the network at worst, and for ophyd's own sleeps.
LIMIT = 600.0

OPHYD = ["ophyd==1.11.2", "pyepics==3.5.10", "h5py==3.16.0"]
CLIENTS = {
    "pyepics": ["pyepics==3.5.10"],
    "motors": ["pyepics==3.5.10"],
    "fly_counter": ["pyepics==3.5.10"],
    "p4p": ["p4p==4.3.0"],
    "caproto": ["caproto==1.3.0"],
    "ophyd": OPHYD,
    "ophyd_detector": OPHYD,
    "ophyd_async": ["ophyd-async[ca,pva]==0.21.3", "h5py==3.16.0", "bluesky==1.15.1"],
    "monochromator": ["p4p==4.3.0"],
    "full_rate": ["p4p==4.3.0"],
}


@pytest.fixture(scope="module")
def beamline() -> Iterator[Beamline]:
    """For programs in environments of their own: that of this process stays as it is."""
    with Beamline() as running:
        yield running


def check(beamline: Beamline, client: str, folder: Path, limit: float = LIMIT, **settings: str) -> None:
    """Run the checks of one client; all of them must pass."""
    outcomes = folder / "outcomes.json"
    python = f"--python={sys.version_info.major}.{sys.version_info.minor}"
    packages = [f"--with={package}" for package in ["pytest==9.2.0", *CLIENTS[client]]]
    uv = ["uv", "run", "--quiet", "--no-project", "--isolated", python, *packages]
    program = shutil.which(beamline.command()[0])
    assert program is not None
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("EPICS_", "VIRTUAL_ENV"))}
    environment |= settings | {
        **beamline.env,
        "BEAMLINE_PREFIX": beamline.prefix,
        "OUTCOMES": str(outcomes),
        "PATH": f"{Path(program).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{PACKAGE}{os.pathsep}{HERE}",
    }

    done = subprocess.run(
        # Without the repository's own settings for pytest.
        [
            *uv,
            "python",
            "-m",
            "pytest",
            "-q",
            "-c",
            os.devnull,
            "-p",
            "checks",
            "-p",
            "no:cacheprovider",
            f"{HERE}/check_{client}.py",
        ],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{beamline.said()}"
    counted = json.loads(outcomes.read_text())
    assert counted["passed"] > 0
    assert counted["passed"] == counted["collected"], counted


@pytest.mark.parametrize("client", CLIENTS)
def test_every_check_of_a_client_passes(beamline: Beamline, client: str, tmp_path: Path) -> None:
    check(beamline, client, tmp_path)


@pytest.mark.slow
def test_the_monochromator_moves_50_times_after_each_of_20_boots(beamline: Beamline, tmp_path: Path) -> None:
    check(beamline, "monochromator", tmp_path, 1800.0, MONOCHROMATOR="20,50")
