"""Worker for epicsrs_native."""

import importlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from serve import serve

from client import Client, Update
from epicsrs_native import Columns, Reading, get_context


class Epicsrs(Client):
    def value(self, reading: Reading) -> Any:
        return reading.value

    def timestamp(self, reading: Reading) -> float:
        return reading.timestamp or 0.0

    def connect(self, pv: str, timeout: float) -> None:
        get_context().channel(pv).connect(timeout=timeout)

    def begin(self) -> None:
        get_context()
        # Ours is imported with the first columns, the peers' with themselves.
        importlib.import_module("numpy")

    def connect_all(self, pvs: Sequence[str], timeout: float) -> None:
        context = get_context()
        self.channels = [context.channel(pv) for pv in pvs]
        for error in context.connect_many(self.channels, timeout=timeout):
            if error is not None:
                raise error

    def bulk_getter(self, pvs: Sequence[str], timeout: float) -> Callable[[], Columns]:
        context = get_context()
        channels = [context.channel(pv) for pv in pvs]
        return lambda: context.get_many(channels, columns=True, timeout=timeout)

    def bulk_values(self, result: Columns) -> Iterable[float]:
        return result.value

    def getter(self, pv: str, timeout: float = 5.0) -> Callable[[], Reading]:
        get = get_context().channel(pv).get
        return lambda: get(timeout=timeout)

    def async_getter(self, pv: str) -> Callable[[], Awaitable[Reading]]:
        return get_context().channel(pv).get_async

    def putter(self, pv: str, timeout: float = 5.0) -> Callable[[float], object]:
        put = get_context().channel(pv).put
        return lambda value: put(value, timeout=timeout)

    def sender(self, pv: str) -> Callable[[float], object]:
        put = get_context().channel(pv).put
        return lambda value: put(value, wait=False)

    def async_sender(self, pv: str) -> Callable[[float], Awaitable[object]]:
        put = get_context().channel(pv).put_async
        return lambda value: put(value, wait=False)

    def monitor(self, pvs: Sequence[str], update: Update) -> Callable[[], None]:
        channels = [get_context().channel(pv) for pv in pvs]
        subscriptions = [channel.monitor(update, wait=False) for channel in channels]

        def close() -> None:
            for subscription, channel in zip(subscriptions, channels, strict=True):
                subscription.close()
                channel.close()

        return close


serve(Epicsrs)
