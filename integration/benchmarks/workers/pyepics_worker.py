"""Worker for pyepics."""

from collections.abc import Callable, Sequence
from typing import Any

import epics
from serve import serve

from client import Client, Update, name


class Pyepics(Client):
    def value(self, reading: Any) -> Any:
        return reading["value"]

    def timestamp(self, reading: Any) -> float:
        return reading["timestamp"]

    def connect(self, pv: str, timeout: float) -> None:
        epics.PV(name(pv), auto_monitor=False).wait_for_connection(timeout=timeout)

    def getter(self, pv: str, timeout: float = 5.0) -> Callable[[], Any]:
        get = self._connected(pv).get_with_metadata
        return lambda: get(form="time", use_monitor=False, timeout=timeout)

    def putter(self, pv: str, timeout: float = 5.0) -> Callable[[float], object]:
        put = self._connected(pv).put
        return lambda value: put(value, wait=True, timeout=timeout)

    def sender(self, pv: str) -> Callable[[float], object]:
        put = self._connected(pv).put
        return lambda value: put(value, wait=False)

    def monitor(self, pvs: Sequence[str], update: Update) -> Callable[[], None]:
        def forward(**reading: Any) -> None:
            update(reading)

        handles = [epics.PV(name(pv), callback=forward, auto_monitor=True, form="time") for pv in pvs]

        def close() -> None:
            for handle in handles:
                handle.disconnect()

        return close

    def _connected(self, pv: str) -> epics.PV:
        handle = epics.PV(name(pv), auto_monitor=False, form="time")
        if not handle.wait_for_connection(timeout=5.0):
            raise TimeoutError(f"{pv} did not connect")
        return handle


serve(Pyepics)
