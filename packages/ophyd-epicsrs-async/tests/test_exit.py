"""A process that ends with a monitor open and a put under way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(("how", "code"), [("return", 0), ("exit", 3)])
def test_it_ends_as_it_means_to_and_says_nothing(ioc, protocol, how, code):
    program = [
        sys.executable,
        HERE / "programs/left_open.py",
        ioc.pv("counter", protocol),
        ioc.pv("slow.A", protocol),
        how,
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    outcome = subprocess.run(program, check=False, env=environment, capture_output=True, text=True, timeout=30.0)
    assert (outcome.returncode, outcome.stderr) == (code, "")
