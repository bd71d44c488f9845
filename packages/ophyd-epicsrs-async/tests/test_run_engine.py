"""Devices of such signals in a RunEngine."""

import asyncio
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky import RunEngine
from bluesky.protocols import Movable
from ophyd_async.core import AsyncStatus, StandardReadable, StandardReadableFormat
from ophyd_async.plan_stubs import ensure_connected

from deadline import Stopwatch, until
from ophyd_epicsrs_async import epicsrs_signal_r, epicsrs_signal_rw


class Detector(StandardReadable):
    def __init__(self, ioc: Any, protocol: str) -> None:
        with self.add_children_as_readables(StandardReadableFormat.HINTED_SIGNAL):
            self.counts = epicsrs_signal_r(float, ioc.pv("detector", protocol))
        with self.add_children_as_readables():
            self.position = epicsrs_signal_r(float, ioc.pv("motor_RBV", protocol))
        with self.add_children_as_readables(StandardReadableFormat.CONFIG_SIGNAL):
            self.mode = epicsrs_signal_r(str, ioc.pv("enum", protocol))
        super().__init__(name="detector")


class Motor(StandardReadable, Movable[float]):
    """Moves in 0.3 s; the put is finished when it has arrived."""

    def __init__(self, ioc: Any, protocol: str) -> None:
        with self.add_children_as_readables(StandardReadableFormat.HINTED_SIGNAL):
            self.readback = epicsrs_signal_r(float, ioc.pv("motor_RBV", protocol))
        self.setpoint = epicsrs_signal_rw(float, ioc.pv("motor.A", protocol))
        super().__init__(name="motor")

    @AsyncStatus.wrap
    async def set(self, value: float) -> None:
        await self.setpoint.set(value)


@pytest.fixture
def engine():
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    engine = RunEngine({}, call_returns_result=True, loop=loop)
    yield engine
    loop.call_soon_threadsafe(loop.stop)
    until(lambda: not loop.is_running())
    assert [task for task in asyncio.all_tasks(loop) if not task.done()] == []
    loop.close()


@pytest.fixture
def documents(engine):
    documents: dict[str, list[dict[str, Any]]] = {}
    engine.subscribe(lambda name, document: documents.setdefault(name, []).append(document))
    return documents


def test_count_reads_a_device(ioc, engine, documents, protocol):
    detector = Detector(ioc, protocol)

    def plan():
        yield from ensure_connected(detector)
        yield from bp.count([detector], num=3)

    assert engine(plan()).exit_status == "success"
    descriptor = documents["descriptor"][0]
    assert descriptor["data_keys"]["detector-counts"]["units"] == "counts"
    assert descriptor["data_keys"]["detector-counts"]["source"] == f"{protocol}://{ioc.prefix}detector"
    assert descriptor["configuration"]["detector"]["data"] == {"detector-mode": "Bbb"}
    assert descriptor["hints"]["detector"]["fields"] == ["detector-counts"]
    assert [event["data"]["detector-counts"] for event in documents["event"]] == [17.0] * 3


def test_trigger_and_read_reads_a_signal(ioc, engine, documents, protocol):
    signal = epicsrs_signal_r(float, ioc.pv("float", protocol), name="pressure")

    def plan():
        yield from ensure_connected(signal)
        yield from bps.open_run()
        yield from bps.trigger_and_read([signal])
        yield from bps.close_run()

    assert engine(plan()).exit_status == "success"
    assert documents["event"][0]["data"] == {"pressure": 3.25}


def test_scan_moves_and_reads_where_it_has_arrived(ioc, engine, documents, protocol):
    detector, motor = Detector(ioc, protocol), Motor(ioc, protocol)

    def plan():
        yield from ensure_connected(detector, motor)
        yield from bp.scan([detector], motor, 1.0, 3.0, 3)

    assert engine(plan()).exit_status == "success"
    events = [event["data"] for event in documents["event"]]
    assert [event["motor-readback"] for event in events] == [1.0, 2.0, 3.0]
    assert [event["detector-position"] for event in events] == [1.0, 2.0, 3.0]


def test_a_plan_monitors_a_signal(ioc, engine, documents, protocol):
    signal = epicsrs_signal_rw(int, ioc.pv("stream", protocol), name="stream")

    def values() -> list[int]:
        return [event["data"]["stream"] for event in documents.get("event", [])]

    def plan():
        yield from ensure_connected(signal)
        yield from bps.abs_set(signal, 0, wait=True)
        yield from bps.open_run()
        yield from bps.monitor(signal, name="stream_monitor")
        for value in (1, 2, 3):
            yield from bps.mv(signal, value)
        watch = Stopwatch()
        while not values() or values()[-1] != 3:
            assert watch.elapsed < 5.0
            yield from bps.sleep(0.01)
        yield from bps.unmonitor(signal)
        yield from bps.close_run()

    assert engine(plan()).exit_status == "success"
    # The first is the value of when the server has started the monitor, which nobody waits for.
    assert values() in ([0, 1, 2, 3], [1, 2, 3])


def test_a_set_that_is_refused_fails_the_plan(ioc, engine, protocol):
    signal = epicsrs_signal_rw(float, ioc.pv("locked", protocol), name="locked")

    def plan():
        yield from ensure_connected(signal)
        yield from bps.mv(signal, 1.0)

    with pytest.raises(Exception, match="locked"):
        engine(plan())
