"""A process that ends with a monitor open and a put under way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ioc import Ioc

HERE = Path(__file__).parent


every_end = pytest.mark.parametrize(("how", "code"), [("return", 0), ("exit", 3)])


@every_end
def test_it_ends_as_it_means_to_and_says_nothing(ioc, protocol, how, code):
    end(ioc, protocol, how, code)


@pytest.mark.slow
@every_end
def test_it_does_so_every_time(ioc, protocol, how, code):
    for _ in range(25):
        end(ioc, protocol, how, code)


def end(ioc: Ioc, protocol: str, how: str, code: int) -> None:
    pvs = [ioc.pv("counter", protocol), ioc.pv("slow.A", protocol)]
    program = [sys.executable, HERE / "programs/left_open.py", *pvs, how]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    outcome = subprocess.run(program, check=False, env=environment, capture_output=True, text=True, timeout=30.0)
    assert (outcome.returncode, outcome.stderr) == (code, "")
