"""How long one read takes, and one update of a monitor, through each layer."""

import time
from collections.abc import Callable
from inspect import isawaitable
from itertools import count
from typing import Any, Literal, TypeAlias

import numpy as np
from ophyd import EpicsSignal

from epicsrs_demo.ages import Take, ages
from epicsrs_demo.crowd import PROTOCOLS, Protocol
from epicsrs_demo.records import SCALARS
from epicsrs_native import get_context
from ophyd_epicsrs_async import epicsrs_signal_r

Kind: TypeAlias = Literal["read", "update"]
Layer: TypeAlias = Literal["channel", "ophyd", "ophyd_async"]

CALLS: dict[Kind, dict[Layer, str]] = {
    "read": {
        "channel": "Channel.get()",
        "ophyd": "EpicsSignal.get()",
        "ophyd_async": "await signal.get_value()",
    },
    "update": {
        "channel": "Channel.monitor()",
        "ophyd": "EpicsSignal.subscribe()",
        "ophyd_async": "subscribe_reading()",
    },
}
# Of each kind through each layer, for each event.
TIMES = 60


class LatencyMeter:
    """Reads one PV `TIMES` times through each layer in turn, then watches as many updates of it, for each event.

    Each layer has its share without a break, so that none pays for a hand-over from another. A read is from the call to
    the value; an update is from the IOC's time stamp, by the clock of the machine that both share, to the callback.

    Its readings are arrays of seconds, named ``<protocol>_<kind>_<layer>``.
    """

    name = "latency"
    parent = None

    def __init__(self) -> None:
        pvs = {protocol: f"{protocol}://{SCALARS[0]}" for protocol in PROTOCOLS}
        self._pvs = pvs
        self._channels = {protocol: get_context().channel(pv) for protocol, pv in pvs.items()}
        self._old_signals = {protocol: EpicsSignal(pv, name=f"{protocol}_ophyd") for protocol, pv in pvs.items()}
        self.signals = {p: epicsrs_signal_r(float, pv, name=f"{p}_ophyd_async") for p, pv in pvs.items()}
        # None that the PV may have: the same again would be no update.
        self._values = count(1000.5)
        for protocol in PROTOCOLS:
            self._channels[protocol].connect()
            self._old_signals[protocol].wait_for_connection(timeout=5.0)

    def describe(self) -> dict[str, dict[str, Any]]:
        return {
            f"{protocol}_{kind}_{layer}": {
                "source": self._pvs[protocol],
                "dtype": "array",
                "dtype_numpy": "<f8",
                "shape": [TIMES],
                "units": "s",
            }
            for protocol in PROTOCOLS
            for kind, layers in CALLS.items()
            for layer in layers
        }

    async def read(self) -> dict[str, dict[str, Any]]:
        readings: dict[str, dict[str, Any]] = {}
        for protocol in PROTOCOLS:
            for layer, call in self._reads(protocol).items():
                readings[f"{protocol}_read_{layer}"] = {"value": await _time(call), "timestamp": time.time()}
            for layer, watch in self._watches(protocol).items():
                seconds = await ages(self._pvs[protocol], self._write, watch, TIMES)
                readings[f"{protocol}_update_{layer}"] = {"value": seconds, "timestamp": time.time()}
        return readings

    def _write(self) -> None:
        self._channels["ca"].put(next(self._values), wait=False)

    def _reads(self, protocol: Protocol) -> dict[Layer, Callable[[], Any]]:
        return {
            "channel": self._channels[protocol].get,
            "ophyd": self._old_signals[protocol].get,
            "ophyd_async": self.signals[protocol].get_value,
        }

    def _watches(self, protocol: Protocol) -> dict[Layer, Callable[[Take], Callable[[], object]]]:
        """What starts a monitor through each layer and returns what ends it."""

        def channel(take: Take) -> Callable[[], object]:
            return self._channels[protocol].monitor(lambda reading: take(reading.timestamp)).close

        def ophyd(take: Take) -> Callable[[], object]:
            # One that has no monitor before and after, since a signal that has one reads what that has brought.
            signal = EpicsSignal(self._pvs[protocol], name=f"{protocol}_watched")
            signal.wait_for_connection(timeout=5.0)
            signal.subscribe(lambda *, timestamp, **_: take(timestamp))
            return signal.destroy

        def ophyd_async(take: Take) -> Callable[[], object]:
            signal = self.signals[protocol]

            def updated(reading: dict[str, Any]) -> None:
                take(reading[signal.name]["timestamp"])

            signal.subscribe_reading(updated)
            return lambda: signal.clear_sub(updated)

        return {"channel": channel, "ophyd": ophyd, "ophyd_async": ophyd_async}


async def _time(read: Callable[[], Any]) -> np.ndarray:
    seconds = np.empty(TIMES)
    for index in range(TIMES):
        start = time.perf_counter()
        answer = read()
        if isawaitable(answer):
            await answer
        seconds[index] = time.perf_counter() - start
    return seconds
