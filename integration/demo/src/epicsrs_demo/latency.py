"""How long one read takes, through each layer."""

import time
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

import numpy as np
from ophyd import EpicsSignal

from epicsrs_demo.crowd import PROTOCOLS, Protocol
from epicsrs_demo.records import SCALARS
from epicsrs_native import get_context
from ophyd_epicsrs_async import epicsrs_signal_r

LAYERS = {
    "channel": "Channel.get()",
    "ophyd": "EpicsSignal.get()",
    "ophyd_async": "await signal.get_value()",
}
GETS = 60


class LatencyMeter:
    """Reads one PV ``GETS`` times through each layer in turn, for each event, in the RunEngine's loop.

    Each layer reads its share without a break, so that none pays for a hand-over from another.

    Its readings are arrays of seconds, named ``<protocol>_<layer>``.
    """

    name = "latency"
    parent = None

    def __init__(self) -> None:
        pvs = {protocol: f"{protocol}://{SCALARS[0]}" for protocol in PROTOCOLS}
        self._pvs = pvs
        self._channels = {protocol: get_context().channel(pv) for protocol, pv in pvs.items()}
        self._old_signals = {protocol: EpicsSignal(pv, name=f"{protocol}_ophyd") for protocol, pv in pvs.items()}
        self.signals = {p: epicsrs_signal_r(float, pv, name=f"{p}_ophyd_async") for p, pv in pvs.items()}
        for protocol in PROTOCOLS:
            self._channels[protocol].connect()
            self._old_signals[protocol].wait_for_connection(timeout=5.0)

    def describe(self) -> dict[str, dict[str, Any]]:
        return {
            f"{protocol}_{layer}": {
                "source": self._pvs[protocol],
                "dtype": "array",
                "dtype_numpy": "<f8",
                "shape": [GETS],
                "units": "s",
            }
            for protocol in PROTOCOLS
            for layer in LAYERS
        }

    async def read(self) -> dict[str, dict[str, Any]]:
        readings: dict[str, dict[str, Any]] = {}
        for protocol in PROTOCOLS:
            times = await self._measure(protocol)
            for layer, seconds in zip(LAYERS, times, strict=True):
                readings[f"{protocol}_{layer}"] = {"value": seconds, "timestamp": time.time()}
        return readings

    async def _measure(self, protocol: Protocol) -> list[np.ndarray]:
        """The seconds of each read, an array for each layer."""
        reads = (self._channels[protocol].get, self._old_signals[protocol].get, self.signals[protocol].get_value)
        return [await _time(read) for read in reads]


async def _time(read: Callable[[], Any]) -> np.ndarray:
    seconds = np.empty(GETS)
    for index in range(GETS):
        start = time.perf_counter()
        answer = read()
        if isawaitable(answer):
            await answer
        seconds[index] = time.perf_counter() - start
    return seconds
