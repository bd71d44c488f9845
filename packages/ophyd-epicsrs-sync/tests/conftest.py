"""One run: its IOC, and ophyd with our control layer."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ophyd import Component, EpicsSignal, EpicsSignalRO, PVPositioner, PVPositionerPC

from ioc import NETWORK, Ioc

NETWORK.enter()

RECORDS = Path(__file__).parent / "records.db"


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
    """Our control layer in ophyd, which is as it was afterwards."""
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
    import ophyd

    made: list[Any] = []

    def get_pv(*args: Any, **kwargs: Any) -> Any:
        made.append(ophyd.get_cl().get_pv(*args, **kwargs))
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
