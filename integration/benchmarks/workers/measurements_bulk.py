"""What is measured of many PVs at once."""

import gc
import time

from client import Client
from footprint import resident

Figures = dict[str, float]

LIMIT = 30.0


def bulk(client: Client, pv: str, size: int, calls: int, seconds: float) -> Figures:
    """Read so many connected PVs in one call, until there were so many calls or seconds: microseconds per PV."""
    read = client.bulk_getter(_names(pv, size), LIMIT)
    _check(client, read(), size)
    times: list[float] = []
    end = time.monotonic() + seconds
    while not times or (len(times) < calls and time.monotonic() < end):
        start = time.perf_counter()
        result = read()
        times.append(time.perf_counter() - start)
    _check(client, result, size)
    return {"p50": sorted(times)[len(times) // 2] / size * 1e6}


def connect_all(client: Client, pv: str, size: int) -> Figures:
    """Connect so many PVs in a fresh process: milliseconds, and memory per PV."""
    names = _names(pv, size)
    client.begin()
    before, start = _settled(), time.perf_counter()
    client.connect_all(names, LIMIT)
    elapsed = time.perf_counter() - start
    return {"ms": elapsed * 1e3, "kib": (_settled() - before) / size / 1024}


def read_all(client: Client, pv: str, size: int) -> Figures:
    """The same until there is a value of each."""
    names = _names(pv, size)
    client.begin()
    before, start = _settled(), time.perf_counter()
    result = client.bulk_getter(names, LIMIT)()
    elapsed = time.perf_counter() - start
    _check(client, result, size)
    del result
    return {"ms": elapsed * 1e3, "kib": (_settled() - before) / size / 1024}


def _names(pv: str, size: int) -> list[str]:
    return [f"{pv}{index}" for index in range(size)]


def _check(client: Client, result: object, size: int) -> None:
    if [float(value) for value in client.bulk_values(result)] != list(range(size)):
        raise RuntimeError("a value is not its record's number")


def _settled() -> int:
    gc.collect()
    return resident()
