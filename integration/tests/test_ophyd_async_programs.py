"""At the simulated beamline: the program of the installation test, and what is in the documentation."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from epicsrs_beamline import Beamline

PROGRAMS = Path(__file__).parent / "programs"
ROOT = PROGRAMS.parents[2]
PAGES = {
    "packages/ophyd-epicsrs-async/README.md": 2,
    "docs/how-to/ophyd-async-device-in-20-lines.md": 4,
    "docs/how-to/move-from-aioca-and-p4p.md": 4,
}
# For a scan with its imports on a machine with other work.
LIMIT = 120.0


@pytest.fixture(scope="module")
def beamline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beamline]:
    """The one that the pages have their reader start."""
    with Beamline(prefix="bl:", log=tmp_path_factory.mktemp("beamline") / "log.txt") as running:
        yield running


def output(beamline: Beamline, program: str, *arguments: str) -> str:
    """What a program prints that ends well."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("EPICS_")}
    command = [sys.executable, str(PROGRAMS / program), *arguments]
    done = subprocess.run(
        command, env=inherited | beamline.env, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_motor_moves_and_flies_with_a_camera(beamline: Beamline) -> None:
    assert output(beamline, "alone_async.py", beamline.prefix) == "moved, and flew with 10 frames\n"


def test_the_code_of_the_documentation_runs(beamline: Beamline) -> None:
    printed = output(beamline, "pages.py", *(str(ROOT / page) for page in PAGES))

    assert printed.splitlines() == [f"{Path(page).name}: {blocks}" for page, blocks in PAGES.items()]
