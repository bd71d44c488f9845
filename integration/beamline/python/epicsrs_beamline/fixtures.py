"""What pytest gets by installing this package."""

import os
from collections.abc import Iterator

import pytest

from epicsrs_beamline._beamline import Beamline


@pytest.fixture(scope="session")
def beamline() -> Iterator[Beamline]:
    """A simulated beamline that this process's clients find, for the whole run; its log ends up in a failure."""
    before = dict(os.environ)
    with Beamline() as running:
        os.environ.update(running.env)
        try:
            yield running
        finally:
            os.environ.clear()
            os.environ.update(before)
