"""Worker for pyepics."""

import time
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

    def begin(self) -> None:
        epics.ca.initialize_libca()

    def connect_all(self, pvs: Sequence[str], timeout: float) -> None:
        self.handles = [epics.PV(name(pv), auto_monitor=False, form="time") for pv in pvs]
        deadline = time.monotonic() + timeout
        for handle in self.handles:
            if not handle.wait_for_connection(timeout=max(deadline - time.monotonic(), 1e-3)):
                raise TimeoutError(f"{handle.pvname} did not connect")

    def bulk_getter(self, pvs: Sequence[str], timeout: float) -> Callable[[], Any]:
        self.connect_all(pvs, timeout)
        chids = [handle.chid for handle in self.handles]
        kind = epics.dbr.TIME_DOUBLE

        # As epics.caget_many() does, which gives no time stamps.
        def read() -> list[Any]:
            for chid in chids:
                epics.ca.get_with_metadata(chid, ftype=kind, wait=False)
            epics.ca.poll()
            complete = epics.ca.get_complete_with_metadata
            return [complete(chid, ftype=kind, timeout=timeout) for chid in chids]

        return read

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
