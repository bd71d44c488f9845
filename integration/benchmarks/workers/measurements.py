"""What is measured: one function per kind of task, the same for every client."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

from client import Client
from footprint import threads

Figures = dict[str, float]

# Calls before the measured ones, as in raw/wire.h.
WARM_UP = 200
GATHERS = 10
CONNECT_LIMIT = 30.0


def get(client: Client, pv: str, count: int, gap: float = 0.0) -> Figures:
    """One blocking read at a time, ``gap`` seconds of sleep between two."""
    read = client.getter(pv)
    float(client.value(read()))
    return percentiles(timed(read, count, gap))


def await_get(client: Client, pv: str, count: int) -> Figures:
    """One awaited read at a time."""
    read = client.async_getter(pv)
    return client.loop.run_until_complete(timed_awaits(lambda _: read(), count))


def gather(client: Client, pvs: list[str]) -> Figures:
    """Read many PVs at once with ``asyncio.gather``: microseconds per PV."""
    reads = client.async_getters(pvs)

    async def run() -> list[float]:
        times: list[float] = []
        for _ in range(GATHERS + 1):
            start = time.perf_counter()
            readings = await asyncio.gather(*(read() for read in reads))
            times.append(time.perf_counter() - start)
            for reading in readings:
                float(client.value(reading))
        return times[1:]

    return {"p50": percentiles(client.loop.run_until_complete(run()))["p50"] / len(pvs)}


def put(client: Client, pv: str, count: int) -> Figures:
    """One write at a time, each answered when the record has been processed."""
    if client.blocking:
        write = client.putter(pv)
        values = iter(range(-WARM_UP, count))
        figures = percentiles(timed(lambda: write(float(next(values))), count))
    else:
        write_async = client.async_putter(pv)
        figures = client.loop.run_until_complete(timed_awaits(lambda index: write_async(float(index)), count))
    if client.read(pv) != count - 1:
        raise RuntimeError("the last value did not arrive")
    return figures


def puts(client: Client, pv: str, order: str, count: int, awaitable: bool) -> Figures:
    """Writes that nobody waits for, until a read behind them is answered; all must have been processed in order."""

    def state() -> tuple[float, float, float]:
        return tuple(float(client.read(f"{order}.{field}")) for field in "BCD")

    last, wrong, processed = state()
    client.read(pv)
    numbers = [last + 1 + index for index in range(count)]
    if awaitable:
        sending = _sent_and_forgotten(client.async_sender(pv), client.async_getter(pv), numbers)
        seconds = client.loop.run_until_complete(sending)
    else:
        send, read = client.sender(pv), client.getter(pv)
        start = time.perf_counter()
        for number in numbers:
            send(number)
        read()
        seconds = time.perf_counter() - start
    last_after, wrong_after, processed_after = state()
    if (last_after, wrong_after, processed_after) != (numbers[-1], wrong, processed + count):
        raise RuntimeError(
            f"of {count} writes {processed_after - processed:.0f} were processed,"
            f" {wrong_after - wrong:.0f} out of order, the last was {last_after:.0f} of {numbers[-1]:.0f}"
        )
    return {"per_second": count / seconds}


def monitors(client: Client, pvs: list[str], seconds: float) -> Figures:
    """Many monitors: CPU microseconds of this process per update, and its threads besides the main one."""
    received: list[int] = []
    close = _count_updates(client, pvs, received)
    start, cpu, before = time.perf_counter(), time.process_time(), len(received)
    client.wait(seconds)
    cpu, updates, seconds = time.process_time() - cpu, len(received) - before, time.perf_counter() - start
    running = threads()
    close()
    return {"cpu": cpu / updates * 1e6, "per_second": updates / seconds, "threads": running}


def delivered(client: Client, pv: str, seconds: float) -> Figures:
    """Updates of one fast PV that reach the callback in a second."""
    received: list[int] = []
    close = _count_updates(client, [pv], received)
    start, before = time.perf_counter(), len(received)
    client.wait(seconds)
    rate = (len(received) - before) / (time.perf_counter() - start)
    close()
    return {"per_second": rate}


def latency(client: Client, pv: str, seconds: float) -> Figures:
    """Microseconds from the record's time stamp to the callback; both clocks are this machine's."""
    late: list[float] = []

    def update(reading: Any) -> None:
        late.append(time.time() - client.timestamp(reading))

    close = client.monitor([pv], update)
    client.wait(0.3)
    late.clear()
    client.wait(seconds)
    close()
    return {**percentiles(late), "per_second": len(late) / seconds}


def _count_updates(client: Client, pvs: list[str], received: list[int]) -> Callable[[], None]:
    """Subscribe; returns when updates come in for all PVs on average."""

    def update(reading: Any) -> None:
        client.value(reading)
        received.append(1)

    close = client.monitor(pvs, update)
    deadline = time.monotonic() + CONNECT_LIMIT
    while len(received) < 2 * len(pvs):
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {len(received)} updates of {len(pvs)} PVs in {CONNECT_LIMIT:g} s")
        client.wait(0.1)
    return close


async def _sent_and_forgotten(
    send: Callable[[float], Awaitable[object]], read: Callable[[], Awaitable[Any]], numbers: list[float]
) -> float:
    await read()
    start = time.perf_counter()
    for number in numbers[:-1]:
        send(number)
    # Clients that send in a task of their own would be overtaken by a read that is awaited first.
    await send(numbers[-1])
    await read()
    return time.perf_counter() - start


def timed(call: Callable[[], object], count: int, gap: float = 0.0) -> list[float]:
    """Seconds of each call, after some that warm up; ``gap`` seconds of sleep between two."""
    for _ in range(1 if gap else WARM_UP):
        call()
    clock = time.perf_counter
    times: list[float] = []
    for _ in itertools.repeat(None, count):
        if gap:
            time.sleep(gap)
        start = clock()
        call()
        times.append(clock() - start)
    return times


async def timed_awaits(call: Callable[[int], Awaitable[object]], count: int) -> Figures:
    """Microseconds of each awaited call, which is given its number."""
    for index in range(WARM_UP):
        await call(index)
    clock = time.perf_counter
    times: list[float] = []
    for index in range(count):
        start = clock()
        await call(index)
        times.append(clock() - start)
    return percentiles(times)


def percentiles(seconds: list[float]) -> Figures:
    """p50 and p99 in microseconds."""
    ordered = sorted(seconds)
    return {"p50": ordered[len(ordered) // 2] * 1e6, "p99": ordered[int(len(ordered) * 0.99)] * 1e6}
