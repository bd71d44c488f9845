"""Worker for ophyd over one of its control layers: ``ophyd_worker.py LAYER``."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from serve import serve

from client import Client, Update, name

LAYER = sys.argv[1]
if LAYER in ("epicsrs", "ready dict"):
    from ophyd_epicsrs_sync import use_epicsrs

    use_epicsrs()
elif LAYER == "ophyd-epicsrs":
    from ophyd_epicsrs import use_epicsrs

    use_epicsrs()
else:
    os.environ["OPHYD_CONTROL_LAYER"] = LAYER

import measurements_ophyd  # noqa: E402 (the layer first)
from ophyd import EpicsSignal  # noqa: E402
from ophyd.signal import EpicsSignalBase  # noqa: E402

# A lazy signal has 1 s otherwise, and a layer fails where it is only slow.
CONNECT_LIMIT = 10.0
EpicsSignalBase.set_defaults(connection_timeout=CONNECT_LIMIT, timeout=CONNECT_LIMIT)


class ReadyPv:
    """In a signal's place of a PV, what costs nothing."""

    def __init__(self, pv: Any) -> None:
        self.pvname = pv.pvname
        self._reading = {"value": 1.5, "timestamp": time.time(), "severity": 0, "status": 0}

    def get_with_metadata(self, **_: Any) -> dict[str, Any]:
        # ophyd takes the value out of it.
        return self._reading.copy()


class Ophyd(Client):
    """Signals are made as users make them; all calls are theirs."""

    def value(self, reading: Any) -> Any:
        return reading

    def timestamp(self, reading: Any) -> float:
        raise NotImplementedError

    def connect_all(self, pvs: Sequence[str], timeout: float, monitored: bool = False) -> None:
        self.signals = [EpicsSignal(name(pv), name=name(pv), auto_monitor=monitored) for pv in pvs]
        for signal in self.signals:
            signal.wait_for_connection(timeout=timeout)

    def getter(self, pv: str, timeout: float = 5.0) -> Callable[[], Any]:
        get = self.connected(pv).get
        return lambda: get(timeout=timeout)

    def cached_getter(self, pv: str) -> Callable[[], Any]:
        """A call that gives the last value of a monitor."""
        signal = self.connected(pv, auto_monitor=True)
        signal.get()
        if LAYER == "ready dict":
            signal._read_pv = ReadyPv(signal._read_pv)  # noqa: SLF001
        return signal.get

    def putter(self, pv: str, timeout: float = 5.0) -> Callable[[float], object]:
        put = self.connected(pv).put
        return lambda value: put(value, wait=True, timeout=timeout)

    def monitor(self, pvs: Sequence[str], update: Update) -> Callable[[], None]:
        def forward(value: Any, **_: Any) -> None:
            update(value)

        self.connect_all(pvs, CONNECT_LIMIT, monitored=True)
        tokens = [signal.subscribe(forward) for signal in self.signals]

        def close() -> None:
            for signal, token in zip(self.signals, tokens, strict=True):
                signal.unsubscribe(token)

        return close

    def connected(self, pv: str, **options: Any) -> EpicsSignal:
        """A signal of one PV."""
        signal = EpicsSignal(name(pv), name=name(pv), **options)
        signal.wait_for_connection(timeout=CONNECT_LIMIT)
        return signal


serve(Ophyd, measurements_ophyd.TASKS)
