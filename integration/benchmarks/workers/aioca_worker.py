"""Worker for aioca."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aioca
from serve import serve

from client import Client, Update, name


class Aioca(Client):
    blocking = False

    def value(self, reading: Any) -> Any:
        return reading

    def timestamp(self, reading: Any) -> float:
        return reading.timestamp

    def connect(self, pv: str, timeout: float) -> None:
        self.loop.run_until_complete(aioca.connect(name(pv), timeout=timeout))

    def connect_all(self, pvs: Sequence[str], timeout: float) -> None:
        self.loop.run_until_complete(aioca.connect([name(pv) for pv in pvs], timeout=timeout))

    def bulk_getter(self, pvs: Sequence[str], timeout: float) -> Callable[[], Any]:
        names = [name(pv) for pv in pvs]
        return lambda: self.loop.run_until_complete(aioca.caget(names, format=aioca.FORMAT_TIME, timeout=timeout))

    def getter(self, pv: str, timeout: float = 5.0) -> Callable[[], Any]:
        # There is no blocking call.
        bare = name(pv)
        return lambda: self.loop.run_until_complete(aioca.caget(bare, format=aioca.FORMAT_TIME, timeout=timeout))

    def async_getter(self, pv: str) -> Callable[[], Awaitable[Any]]:
        bare = name(pv)
        return lambda: aioca.caget(bare, format=aioca.FORMAT_TIME)

    def putter(self, pv: str, timeout: float = 5.0) -> Callable[[float], object]:
        bare = name(pv)
        return lambda value: self.loop.run_until_complete(aioca.caput(bare, value, wait=True, timeout=timeout))

    def async_putter(self, pv: str) -> Callable[[float], Awaitable[object]]:
        bare = name(pv)
        return lambda value: aioca.caput(bare, value, wait=True)

    def async_sender(self, pv: str) -> Callable[[float], Awaitable[object]]:
        bare = name(pv)
        return lambda value: asyncio.ensure_future(aioca.caput(bare, value))

    def monitor(self, pvs: Sequence[str], update: Update) -> Callable[[], None]:
        async def start() -> list[Any]:
            return [aioca.camonitor(name(pv), update, format=aioca.FORMAT_TIME, all_updates=True) for pv in pvs]

        subscriptions = self.loop.run_until_complete(start())

        def close() -> None:
            for subscription in subscriptions:
                subscription.close()

        return close


serve(Aioca)
