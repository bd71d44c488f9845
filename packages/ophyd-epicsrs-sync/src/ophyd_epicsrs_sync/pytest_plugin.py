"""`pytest -p ophyd_epicsrs_sync.pytest_plugin`: a suite of ophyd devices runs on epicsrs, unchanged."""

from __future__ import annotations

import pytest

from ophyd_epicsrs_sync import use_epicsrs


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Before any conftest imports ophyd."""
    use_epicsrs()
