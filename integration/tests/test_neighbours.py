"""Beside other clients in one process: pyepics with its libca, p4p with its pvxs. Neither disturbs the other."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import epicsrs_native
from ioc import NETWORK, Ioc

PROGRAM = Path(__file__).parent / "programs" / "neighbours.py"
SLOT = NETWORK.iocs[6]
# For the environment to be made, from the network at worst.
LIMIT = 180.0


@pytest.fixture
def ioc(tmp_path: Path) -> Iterator[Ioc]:
    ioc = Ioc(SLOT, tmp_path)
    ioc.start()
    yield ioc
    ioc.kill()


@pytest.mark.parametrize("which", ["p4p", "pyepics"])
def test_another_client_in_the_same_process_is_no_disturbance(ioc: Ioc, which: str) -> None:
    python = [sys.executable]
    options = NETWORK.client(SLOT)
    if which == "pyepics":
        # In an environment of its own, with the native client as it is installed here.
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        needs = [part for package in ("pyepics==3.5.10", "numpy") for part in ("--with", package)]
        python = ["uv", "run", "--quiet", "--no-project", "--isolated", f"--python={version}", *needs, "python"]
        options["PYTHONPATH"] = str(Path(epicsrs_native.__file__).parent.parent)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("EPICS_", "VIRTUAL_ENV"))}

    done = subprocess.run(
        [*python, str(PROGRAM), which, ioc.pv("put_double")],
        env={**environment, **options},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "each saw the other\n", "")
