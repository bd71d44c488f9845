"""A pytest plugin for ophyd's own tests: they run on the layer that OPHYD_CONTROL_LAYER names, and on no other."""

import os
from collections.abc import Iterator

import caproto.tests.conftest
import example_iocs
import ophyd
import pytest

caproto.tests.conftest.run_example_ioc = example_iocs.run_example_ioc


@pytest.fixture(autouse=True, scope="session")
def cl_selector() -> Iterator[None]:
    """In place of theirs, which runs everything on caproto and on pyepics."""
    wanted = os.environ["OPHYD_CONTROL_LAYER"]
    assert ophyd.get_cl().name == wanted
    yield
    assert ophyd.get_cl().name == wanted


@pytest.hookimpl(tryfirst=True)
def pytest_plugin_registered(plugin: object) -> None:
    """Before the fixtures of their conftest are known."""
    if getattr(plugin, "__name__", None) == "ophyd.tests.conftest":
        plugin.cl_selector = cl_selector  # pyright: ignore[reportAttributeAccessIssue]
