"""Commands: what sets something off."""

import asyncio

import pytest
from ophyd_async.core import NotConnectedError

from deadline import Stopwatch
from epicsrs_native import RemoteError
from ophyd_epicsrs_async import EpicsRsCommandBackend, epicsrs_signal_r, epicsrs_triggerable_command


def test_a_trigger_processes_the_record(ioc, run, protocol):
    async def main():
        command = epicsrs_triggerable_command(ioc.pv("trigger.PROC", protocol), name="command")
        count = epicsrs_signal_r(float, ioc.pv("count", protocol))
        await asyncio.gather(command.connect(), count.connect())
        before = await count.get_value()
        await command.trigger()
        assert await count.get_value() == before + 1
        await command.execute()
        assert await count.get_value() == before + 2

    run(main())


def test_a_trigger_is_done_when_the_record_is(ioc, run, protocol):
    async def main():
        command = epicsrs_triggerable_command(ioc.pv("slow.PROC", protocol))
        await command.connect()
        watch = Stopwatch()
        await command.trigger()
        assert 0.45 <= watch.elapsed < 2.0

    run(main())


@pytest.mark.parametrize("name", ["int", "enum", "bool", "trigger.PROC"])
def test_integers_and_enums_can_be_triggers(ioc, run, protocol, name):
    async def main():
        await epicsrs_triggerable_command(ioc.pv(name, protocol)).connect()

    run(main())


REQUIREMENTS = {
    "ca": "EpicsRsCommandBackend requires a scalar numeric PV",
    "pva": "EpicsRsCommandBackend requires a scalar boolean, scalar numeric, or enum PV",
}


@pytest.mark.parametrize("name", ["float", "string", "longs"])
def test_others_are_refused_by_their_name(ioc, run, protocol, name):
    async def main():
        with pytest.raises(TypeError, match=rf"{protocol}://.*{name} carries .*; {REQUIREMENTS[protocol]}"):
            await epicsrs_triggerable_command(ioc.pv(name, protocol)).connect()

    run(main())


def test_an_absent_pv_is_named_at_the_timeout(ioc, run, protocol):
    async def main():
        with pytest.raises(NotConnectedError, match=f" {protocol}://{ioc.prefix}absent"):
            await epicsrs_triggerable_command(ioc.pv("absent", protocol)).connect(timeout=0.2)

    run(main())


def test_a_refused_trigger_raises(ioc, run, protocol):
    async def main():
        backend = EpicsRsCommandBackend(ioc.pv("locked.HHSV", protocol), 2)
        await backend.connect(5.0)
        assert backend.source("") == f"{protocol}://{ioc.prefix}locked.HHSV"
        with pytest.raises(RemoteError, match="locked"):
            await backend.execute()

    run(main())
