"""One run: its IOC, and ophyd with our control layer; or with another one, to compare.

`OPHYD_CONTROL_LAYER=pyepics pytest packages/ophyd-epicsrs-sync` runs, over Channel Access, what is no matter of ours
alone. other_layers.toml has what pyepics and caproto fail.
"""

import os
import signal
import tomllib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import ophyd
import pytest
from ophyd import Component, EpicsSignal, EpicsSignalRO, PVPositioner, PVPositionerPC

from ioc import NETWORK, Ioc

NETWORK.enter()

RECORDS = Path(__file__).parent / "records.db"
LAYER = os.environ.get("OPHYD_CONTROL_LAYER", "epicsrs")
# Of our layer alone: files, and tests of others.
OURS: dict[str, str] = tomllib.loads((Path(__file__).parent / "other_layers.toml").read_text())["ours"]
# Seconds after which a test on another layer has failed: some wait for ever there.
LIMIT = 30


class Stage(PVPositioner):
    """Moves until its done PV says so."""

    setpoint = Component(EpicsSignal, "stage", limits=True)
    readback = Component(EpicsSignalRO, "stage_RBV")
    done = Component(EpicsSignalRO, "stage_done")
    stop_signal = Component(EpicsSignal, "stage_stop")


class StagePC(PVPositionerPC):
    """Moves until its put is finished."""

    setpoint = Component(EpicsSignal, "stage", limits=True)
    stop_signal = Component(EpicsSignal, "stage_stop")
    readback = Component(EpicsSignalRO, "stage_RBV")


@pytest.fixture(scope="session")
def ioc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ioc]:
    """The IOC of most tests; it runs from first to last."""
    ioc = Ioc(NETWORK.iocs[3], tmp_path_factory.mktemp("ioc"), [RECORDS])
    ioc.start()
    yield ioc
    ioc.kill()


@pytest.fixture
def mortal_ioc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ioc]:
    """An IOC of the test's own, to kill and restart."""
    ioc = Ioc(NETWORK.iocs[2], tmp_path_factory.mktemp("ioc"), [RECORDS])
    ioc.start()
    yield ioc
    ioc.kill()


@pytest.fixture(params=["ca", "pva"])
def protocol(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def layer() -> Iterator[None]:
    """Our control layer in ophyd, which is as it was afterwards; or the one that is asked for."""
    if LAYER != "epicsrs":
        ophyd.set_cl(LAYER)
        assert ophyd.get_cl().name == LAYER
        yield
        return
    import ophyd_epicsrs_sync

    ophyd_epicsrs_sync.use_epicsrs()
    yield
    ophyd_epicsrs_sync.uninstall()


@pytest.fixture
def make(layer: None) -> Iterator[Callable[..., Any]]:
    """Signals and devices that are destroyed after the test; called with their class and its arguments."""
    made: list[Any] = []

    def make(kind: Callable[..., Any], *args: Any, name: str = "thing", **kwargs: Any) -> Any:
        made.append(kind(*args, name=name, **kwargs))
        return made[-1]

    yield make
    for thing in made:
        thing.destroy()


@pytest.fixture
def get_pv(layer: None) -> Iterator[Callable[..., Any]]:
    """PVs from `ophyd.cl.get_pv`, released after the test."""
    made: list[Any] = []

    def get_pv(*args: Any, **kwargs: Any) -> Any:
        made.append(ophyd.get_cl().get_pv(*args, **kwargs))
        # As ophyd's signals do.
        made[-1]._reference_count += 1  # noqa: SLF001
        return made[-1]

    yield get_pv
    ophyd.get_cl().release_pvs(*made)


@pytest.fixture(params=["done", "completion"])
def stage(request: pytest.FixtureRequest, ioc: Ioc, protocol: str, make: Callable[..., Any]) -> Any:
    """A connected stage of the IOC, that moves until its done PV or until its put says so."""
    kind = {"done": Stage, "completion": StagePC}[request.param]
    stage = make(kind, ioc.pv("", protocol), name="stage")
    stage.wait_for_connection(timeout=5.0)
    return stage


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A test that fails shows what the IOCs printed."""
    report = yield
    if report.failed:
        for ioc in Ioc.running:
            report.sections.append((f"output of IOC {ioc.prefix}", ioc.output))
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Another layer knows no pvAccess, and runs no test of what is ours."""
    if LAYER == "epicsrs":
        return
    left_out = [item for item in items if item.path.parent == RECORDS.parent and is_ours(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def is_ours(item: pytest.Item) -> bool:
    """Whether it is left out on another layer."""
    if (
        isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and item.callspec.params.get("protocol") == "pva"
    ):
        return True
    return not OURS.keys().isdisjoint({item.path.stem, f"{item.path.stem}::{item.name.partition('[')[0]}"})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """On another layer, end a test that waits for ever."""
    if LAYER == "epicsrs":
        return (yield)
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"not ended within {LIMIT} s"))
    signal.alarm(LIMIT)
    try:
        return (yield)
    finally:
        signal.alarm(0)
