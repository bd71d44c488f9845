"""What pytest has in an environment with this package."""

import os
import subprocess
import sys
from pathlib import Path

TEST = """
import os
from epicsrs_native import get_context

def test_it(beamline):
    assert os.environ["EPICS_CA_ADDR_LIST"] == beamline.env["EPICS_CA_ADDR_LIST"]
    assert get_context().channel(beamline.pv("m1.DESC")).get().value == "sample x"
"""


def test_a_test_that_asks_for_a_beamline_finds_its_pvs(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TEST)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
