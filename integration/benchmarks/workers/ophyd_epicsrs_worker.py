"""Worker for ophyd-epicsrs: its native objects, below ophyd."""

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from ophyd_epicsrs import get_ca_context, get_pva_context
from serve import serve

from client import Client, Update, name

CONNECT_LIMIT = 30.0


class OphydEpicsrs(Client):
    def value(self, reading: Any) -> Any:
        return reading["value"]

    def timestamp(self, reading: Any) -> float:
        return reading["timestamp"]

    def connect(self, pv: str, timeout: float) -> None:
        self._pv(pv).wait_for_connection(timeout=timeout)

    def begin(self) -> None:
        get_ca_context()
        get_pva_context()

    def connect_all(self, pvs: Sequence[str], timeout: float) -> None:
        self.handles = [self._pv(pv) for pv in pvs]
        deadline = time.monotonic() + timeout
        for handle in self.handles:
            if not handle.wait_for_connection(timeout=max(deadline - time.monotonic(), 1e-3)):
                raise TimeoutError(f"{handle.pvname} did not connect")

    def bulk_getter(self, pvs: Sequence[str], timeout: float) -> Callable[[], Any]:
        self.names = [name(pv) for pv in pvs]
        # Over Channel Access it gives values alone.
        read = (get_ca_context() if pvs[0].startswith("ca://") else get_pva_context()).bulk_get
        return lambda: read(self.names, timeout=timeout)

    def bulk_values(self, result: Any) -> Iterable[float]:
        readings = [result[bare] for bare in self.names]
        return readings if isinstance(readings[0], float) else [self.value(reading) for reading in readings]

    def getter(self, pv: str, timeout: float = 5.0) -> Callable[[], Any]:
        get = self._connected(pv).get_with_metadata
        return lambda: get(timeout=timeout, form="time")

    def async_getter(self, pv: str) -> Callable[[], Awaitable[Any]]:
        get = self._connected(pv).get_reading_async
        return lambda: get(form="time")

    def putter(self, pv: str, timeout: float = 5.0) -> Callable[[float], object]:
        put = self._connected(pv).put
        return lambda value: put(value, wait=True, timeout=timeout)

    def sender(self, pv: str) -> Callable[[float], object]:
        put = self._connected(pv).put
        return lambda value: put(value, wait=False)

    def async_sender(self, pv: str) -> Callable[[float], Awaitable[object]]:
        return self._connected(pv).put_nowait_async

    def monitor(self, pvs: Sequence[str], update: Update) -> Callable[[], None]:
        def forward(**reading: Any) -> None:
            update(reading)

        handles = [self._pv(pv) for pv in pvs]
        for handle in handles:
            handle.set_monitor_callback(forward)

        def close() -> None:
            for handle in handles:
                handle.clear_monitors()

        return close

    def _pv(self, pv: str) -> Any:
        return (get_ca_context() if pv.startswith("ca://") else get_pva_context()).create_pv(name(pv))

    def _connected(self, pv: str) -> Any:
        handle = self._pv(pv)
        if not handle.wait_for_connection(timeout=CONNECT_LIMIT):
            raise TimeoutError(f"{pv} did not connect")
        # The first read gives the value of the time of connecting.
        handle.get_with_metadata(form="time")
        return handle


serve(OphydEpicsrs)
