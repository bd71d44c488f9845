"""What is measured of ophyd-async's signals."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from measurements import Figures, timed_awaits

from footprint import resident, threads

MIB = 2**20
LIMIT = 30.0


def await_cached(client: Any, pv: str, count: int) -> Figures:
    """``get_value`` of a signal that is monitored."""
    close = client.monitor([pv], lambda _: None)
    signal = client.signals[0]
    figures = client.loop.run_until_complete(timed_awaits(lambda _: signal.get_value(), count))
    close()
    return figures


def crowd(client: Any, pv: str, size: int) -> Figures:
    """Make, connect and monitor so many signals.

    Milliseconds until they are connected, those of the processor, threads more than before, memory of the process.
    """
    before, seen = threads(), set[str]()
    start, cpu = time.perf_counter(), time.process_time()
    client.connect_all([f"{pv}{index}" for index in range(size)], LIMIT)
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
    close = client.subscribe(seen.update)
    end = time.monotonic() + LIMIT
    while len(seen) < size:
        if time.monotonic() > end:
            raise RuntimeError(f"{len(seen)} of {size} PVs have an update after {LIMIT:g} s")
        client.wait(0.05)
    held = {"threads": threads() - before, "mib": resident() / MIB}
    close()
    return {"ms": elapsed * 1e3, "cpu": cpu * 1e3, **held}


def await_array(client: Any, pv: str, size: int, seconds: float) -> Figures:
    """Read and write a large array, each awaited: milliseconds."""
    signal = client.array(pv)
    values = np.arange(size, dtype=np.float64)

    async def get() -> None:
        array = await signal.get_value()
        if len(array) != size or array[-1] != values[-1]:
            raise RuntimeError(f"{len(array)} elements instead of {size}, the last {array[-1]}")

    async def put() -> None:
        # The answer to each can be told from that to the last.
        values[0] += 1
        await signal.set(values, timeout=LIMIT)

    async def run() -> Figures:
        figures = {"get": await _median(get, seconds), "put": await _median(put, seconds)}
        if (await signal.get_value())[0] != values[0]:
            raise RuntimeError("the last array did not arrive")
        return figures

    return client.loop.run_until_complete(run())


async def _median(call: Callable[[], Awaitable[None]], seconds: float) -> float:
    await call()
    times: list[float] = []
    end = time.monotonic() + seconds
    while not times or time.monotonic() < end:
        start = time.perf_counter()
        await call()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] * 1e3


TASKS = (await_cached, crowd, await_array)
