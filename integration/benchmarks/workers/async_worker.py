"""Worker for ophyd-async over one of its backends: ``async_worker.py BACKEND``."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from serve import serve

from client import Client, Update

BACKEND = sys.argv[1]
if BACKEND in ("epicsrs", "soft signal"):
    # The workspace has it for its tests, and ophyd-async imports it where it is; our users do not need it.
    sys.modules["p4p"] = None  # type: ignore[assignment]
if BACKEND == "epicsrs":
    from ophyd_epicsrs_async import epicsrs_signal_rw as signal_rw
elif BACKEND == "ophyd-epicsrs":
    from ophyd_epicsrs.ophyd_async import epicsrs_signal_rw as signal_rw
elif BACKEND == "stock":
    from ophyd_async.epics.core import epics_signal_rw as signal_rw
else:
    from ophyd_async.core import soft_signal_rw

    def signal_rw(datatype: Any, pv: str, name: str) -> Any:  # noqa: ARG001 (as the others)
        """Nothing behind it: what ophyd-async itself takes."""
        return soft_signal_rw(datatype, 1.5, name)


import measurements_async  # noqa: E402 (the backend first)
from ophyd_async.core import Array1D, SignalRW  # noqa: E402

CONNECT_LIMIT = 30.0


class OphydAsync(Client):
    """Signals are made as users make them; all calls are theirs."""

    blocking = False

    def value(self, reading: Any) -> Any:
        return reading

    def timestamp(self, reading: Any) -> float:
        raise NotImplementedError

    def connect_all(self, pvs: Sequence[str], timeout: float) -> None:
        async def connect() -> None:
            self.signals = [signal_rw(float, pv, name=pv) for pv in pvs]
            await asyncio.gather(*(signal.connect(timeout=timeout) for signal in self.signals))

        self.loop.run_until_complete(connect())

    def async_getter(self, pv: str) -> Callable[[], Awaitable[Any]]:
        return self.connected(float, pv).get_value

    def async_getters(self, pvs: Sequence[str]) -> list[Callable[[], Awaitable[Any]]]:
        self.connect_all(pvs, CONNECT_LIMIT)
        return [signal.get_value for signal in self.signals]

    def async_putter(self, pv: str) -> Callable[[float], Awaitable[object]]:
        return self.connected(float, pv).set

    def monitor(self, pvs: Sequence[str], update: Update) -> Callable[[], None]:
        self.connect_all(pvs, CONNECT_LIMIT)
        return self.subscribe(update)

    def subscribe(self, update: Update) -> Callable[[], None]:
        """Watch all that are connected; returns the call that ends it."""

        async def start() -> None:
            for signal in self.signals:
                signal.subscribe_reading(update)

        async def stop() -> None:
            for signal in self.signals:
                signal.clear_sub(update)

        self.loop.run_until_complete(start())
        return lambda: self.loop.run_until_complete(stop())

    def array(self, pv: str) -> SignalRW[Any]:
        """A signal of a waveform of doubles."""
        return self.connected(Array1D[np.float64], pv)

    def connected(self, datatype: Any, pv: str) -> SignalRW[Any]:
        """A signal of one PV."""

        async def connect() -> SignalRW[Any]:
            signal = signal_rw(datatype, pv, name=pv)
            await signal.connect(timeout=CONNECT_LIMIT)
            return signal

        return self.loop.run_until_complete(connect())


serve(OphydAsync, measurements_async.TASKS)
