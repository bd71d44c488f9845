"""Runs a test suite of ophyd-async devices on epicsrs: `pytest -p ophyd_epicsrs_async.pytest_plugin`.

pytest imports it before any conftest and test module, so that all of them find our classes.
"""

from ophyd_epicsrs_async import install, uninstall

install()


def pytest_unconfigure() -> None:
    """Leave the process as it was."""
    uninstall()
