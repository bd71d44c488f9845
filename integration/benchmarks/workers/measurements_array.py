"""What is measured of large values."""

import time
from contextlib import suppress
from typing import Any

from client import Client
from footprint import resident, resident_peak

Figures = dict[str, float]

MIB = 2**20
CONNECT_LIMIT = 30.0
IMAGE = (2048, 2048)
# How long a client may wait for the rest of a reply, and how long its memory is watched after it has given up.
HOSTILE_LIMIT = 5.0
AFTERWARDS = 0.5


def fill(client: Client, pv: str, size: int) -> Figures:
    """Give the record its elements 0, 1, 2, ... for the rows that read them."""
    import numpy as np

    client.putter(pv, CONNECT_LIMIT)(np.arange(size, dtype=np.float64))
    return {}


def array(client: Client, pv: str, size: int, count: int) -> Figures:
    """One blocking read of a large array at a time: megabytes per second, CPU milliseconds of this process per read."""
    read = client.getter(pv, CONNECT_LIMIT)
    for _ in range(3):
        _check(client.value(read()), size)
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        _check(client.value(read()), size)
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - start
    return {"mb_per_second": 8 * size * count / seconds / 1e6, "cpu": cpu / count * 1e3}


def frames(client: Client, pv: str, seconds: float) -> Figures:
    """Images as fast as they come, each in its shape and whole: CPU milliseconds of this process per image."""
    wrong: list[Any] = []
    received = 0

    def update(reading: Any) -> None:
        nonlocal received
        image = client.value(reading)
        if getattr(image, "shape", None) != IMAGE or image[0, 0] != image[-1, -1]:
            wrong.append(getattr(image, "shape", type(image)))
        received += 1

    close = client.watch_images(pv, update)
    deadline = time.monotonic() + CONNECT_LIMIT
    while received < 3:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{received} images in {CONNECT_LIMIT:g} s")
        client.wait(0.1)
    start, cpu, before = time.perf_counter(), time.process_time(), received
    client.wait(seconds)
    cpu, count, seconds = time.process_time() - cpu, received - before, time.perf_counter() - start
    close()
    if wrong:
        raise RuntimeError(f"{len(wrong)} of {received} images are not whole: {wrong[0]}")
    return {"cpu": cpu / count * 1e3, "per_second": count / seconds}


def oversized(client: Client, pv: str) -> Figures:
    """A reply far beyond what anybody wants: until the call ends, with an error or a value, and memory taken."""
    client.begin()
    before, start = resident(), time.perf_counter()
    with suppress(Exception):
        client.getter(pv, HOSTILE_LIMIT)()
    elapsed = time.perf_counter() - start
    client.wait(AFTERWARDS)
    return {"ms": elapsed * 1e3, "mib": (resident_peak() - before) / MIB}


def _check(values: Any, size: int) -> None:
    if len(values) != size or values[-1] != size - 1:
        raise RuntimeError(f"{len(values)} elements instead of {size}, the last {values[-1]}")
