"""ophyd-async's own EPICS classes on our backends."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import ophyd_async.epics.core as theirs
import pytest
from ophyd_async.core import Device, NotConnectedError, SignalR, SignalRW, StandardReadable, TriggerableCommand
from ophyd_async.epics import adcore, motor

from ophyd_epicsrs_async import EpicsRsCommandBackend, EpicsRsSignalBackend, install, uninstall

HERE = Path(__file__).parent
SIGNAL = "ophyd_async.epics.core._signal"


@pytest.fixture
def installed():
    with install():
        yield


class Stage(StandardReadable, theirs.EpicsDevice):
    setpoint: Annotated[SignalRW[float], theirs.PvSuffix.rbv("setpoint")]
    count: Annotated[SignalR[float], theirs.PvSuffix("count")]
    start: Annotated[TriggerableCommand, theirs.PvSuffix("trigger.PROC")]


class Block(Device):
    level: SignalR[float]


class Box(theirs.EpicsDevice):
    gain: SignalRW[int]
    arm: TriggerableCommand
    block: Block


def test_it_works_where_neither_aioca_nor_p4p_is_installed(ioc):
    # Their import fails, as where they are not installed.
    without = "import runpy, sys; sys.modules.update(aioca=None, p4p=None); runpy.run_path(sys.argv[1])"
    command = [sys.executable, "-c", without, HERE / "programs/without_transports.py", ioc.prefix]
    outcome = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60.0)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout == "all of it works\n"


def test_factories_of_ophyd_async_use_us(ioc, installed, run, protocol):
    async def main():
        signal = theirs.epics_signal_rw_rbv(float, ioc.pv("setpoint", protocol))
        command = theirs.epics_triggerable_command(ioc.pv("trigger.PROC", protocol))
        await asyncio.gather(signal.connect(), command.connect())
        assert signal.source == f"{protocol}://{ioc.prefix}setpoint_RBV"
        await signal.set(1.5)
        assert await signal.get_value() == -1.5
        await command.trigger()

    run(main())


def test_a_bare_name_is_channel_access(ioc, installed):
    assert theirs.epics_signal_r(float, "X").source == "ca://X"


def test_a_declared_device_connects_reads_and_sets(ioc, installed, run, protocol):
    async def main():
        stage = Stage(f"{protocol}://{ioc.prefix}", name="stage")
        stage.add_readables([stage.count])
        await stage.connect()
        assert stage.setpoint.source == f"{protocol}://{ioc.prefix}setpoint_RBV"
        await stage.setpoint.set(4.0)
        assert await stage.setpoint.locate() == {"setpoint": 4.0, "readback": -4.0}
        before = (await stage.read())["stage-count"]["value"]
        await stage.start.trigger()
        assert (await stage.read())["stage-count"]["value"] == before + 1

    run(main())


def test_a_device_finds_its_pvs_by_pvi(ioc, installed, run):
    async def main():
        box = Box(f"{ioc.prefix}box:", with_pvi=True, name="box")
        await box.connect(timeout=5.0)
        assert box.gain.source == f"pva://{ioc.prefix}box:Gain"
        assert await box.gain.get_value() == 3
        assert await box.block.level.get_value() == 0.5
        await box.arm.trigger()

    run(main())


def test_an_absent_pvi_pv_is_named(ioc, installed, run):
    async def main():
        box = Box(f"{ioc.prefix}absent:", with_pvi=True, name="box")
        with pytest.raises(NotConnectedError, match=f"pva://{ioc.prefix}absent:PVI"):
            await box.connect(timeout=0.2)

    run(main())


def test_an_area_detector_base_connects_and_counts(ioc, installed, run, protocol):
    async def main():
        camera = adcore.NDArrayBaseIO(f"{protocol}://{ioc.prefix}cam:", name="camera")
        await camera.connect(timeout=5.0)
        assert await camera.data_type.get_value() is adcore.ADBaseDataType.UINT16
        assert await camera.color_mode.get_value() is adcore.ADBaseColorMode.MONO
        await camera.array_counter.set(5)
        assert await camera.array_counter.get_value() == 5
        path = "/data/2026/a/path/that/is/longer/than/forty/characters.xml"
        await camera.nd_attributes_file.set(path)
        assert await camera.nd_attributes_file.get_value() == path

    run(main())


def test_a_motor_can_be_made_and_mocked(installed, run):
    async def main():
        axis = motor.Motor("BL:M1", name="axis")
        assert axis.user_readback.source == "ca://BL:M1.RBV"
        await axis.connect(mock=True)
        await axis.read()

    run(main())


@pytest.mark.parametrize(("taken", "other"), [("ca", "Pva"), ("pva", "Ca")])
def test_one_protocol_alone_can_be_taken_over(taken, other):
    before = getattr(theirs, f"{other}SignalBackend"), getattr(theirs, f"{other}CommandBackend")
    with install([taken]):
        assert theirs.epics_signal_r(float, f"{taken}://X").source == f"{taken}://X"
        assert issubclass(getattr(theirs, f"{taken.title()}SignalBackend"), EpicsRsSignalBackend)
        assert (getattr(theirs, f"{other}SignalBackend"), getattr(theirs, f"{other}CommandBackend")) == before


def test_it_may_be_nested_and_repeated_and_ends_as_it_began():
    before = dict(vars(theirs)), dict(vars(sys.modules[SIGNAL]))
    install()
    install()
    with install(["ca"]):
        assert not issubclass(theirs.PvaSignalBackend, EpicsRsSignalBackend)
    assert issubclass(theirs.PvaSignalBackend, EpicsRsSignalBackend)
    assert issubclass(theirs.CaCommandBackend, EpicsRsCommandBackend)
    uninstall()
    uninstall()
    assert (dict(vars(theirs)), dict(vars(sys.modules[SIGNAL]))) == before


def test_a_signal_made_before_the_end_goes_on(ioc, run):
    with install():
        signal = theirs.epics_signal_r(float, ioc.pv("float"))

    async def main():
        await signal.connect()
        assert await signal.get_value() == 3.25

    run(main())


def test_an_ophyd_async_built_differently_is_refused_and_left_alone(monkeypatch):
    monkeypatch.delattr(f"{SIGNAL}.PvaCommandBackend")
    monkeypatch.delattr(f"{SIGNAL}._default_epics_protocol")
    before = theirs.CaSignalBackend
    with pytest.raises(RuntimeError, match=rf"has no {SIGNAL}.PvaCommandBackend, {SIGNAL}._default_epics_protocol: "):
        install()
    assert theirs.CaSignalBackend is before


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ValueError, match="'tango'"):
        install(["tango"])


def test_a_test_suite_runs_with_the_plugin(tmp_path):
    suite = tmp_path / "test_suite.py"
    suite.write_text(
        "from ophyd_async.epics.core import CaSignalBackend, PvaSignalBackend\n"
        "from ophyd_epicsrs_async import EpicsRsSignalBackend\n"
        "def test_all():\n"
        "    assert issubclass(CaSignalBackend, EpicsRsSignalBackend)\n"
        "    assert issubclass(PvaSignalBackend, EpicsRsSignalBackend)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "ophyd_epicsrs_async.pytest_plugin", str(suite)]
    outcome = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60.0)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "1 passed" in outcome.stdout
