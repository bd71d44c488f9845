"""Worker for p4p."""

from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from typing import Any

from p4p.client import asyncio as p4p_asyncio
from p4p.client import thread
from serve import serve

from client import Client, Update, name

# What the others read too; the default would add the record's metadata.
FIELDS = "field(value,alarm,timeStamp)"


class P4p(Client):
    def __init__(self) -> None:
        super().__init__()
        self.context = thread.Context("pva")

    def value(self, reading: Any) -> Any:
        return reading

    def timestamp(self, reading: Any) -> float:
        return reading.timestamp

    def connect(self, pv: str, timeout: float) -> None:
        self.context.get(name(pv), timeout=timeout)

    def bulk_getter(self, pvs: Sequence[str], timeout: float) -> Callable[[], Any]:
        get, names, requests = self.context.get, [name(pv) for pv in pvs], [FIELDS] * len(pvs)
        return lambda: get(names, request=requests, timeout=timeout)

    def getter(self, pv: str, timeout: float = 5.0) -> Callable[[], Any]:
        get, bare = self.context.get, name(pv)
        return lambda: get(bare, request=FIELDS, timeout=timeout)

    def async_getter(self, pv: str) -> Callable[[], Awaitable[Any]]:
        get, bare = self._async_context.get, name(pv)
        return lambda: get(bare, request=FIELDS)

    def putter(self, pv: str, timeout: float = 5.0) -> Callable[[float], object]:
        put, bare = self.context.put, name(pv)
        # Without get=False each put would be two round trips.
        return lambda value: put(bare, value, wait=True, get=False, timeout=timeout)

    def monitor(self, pvs: Sequence[str], update: Update) -> Callable[[], None]:
        subscriptions = [self.context.monitor(name(pv), update, request=FIELDS) for pv in pvs]

        def close() -> None:
            for subscription in subscriptions:
                subscription.close()

        return close

    def watch_images(self, pv: str, update: Update) -> Callable[[], None]:
        # The default request: the shape is a field of its own.
        return self.context.monitor(name(pv), update).close

    @cached_property
    def _async_context(self) -> p4p_asyncio.Context:
        async def make() -> p4p_asyncio.Context:
            return p4p_asyncio.Context("pva")

        return self.loop.run_until_complete(make())


serve(P4p)
