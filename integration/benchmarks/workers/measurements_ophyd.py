"""What is measured of ophyd's signals and devices."""

import time
from typing import Any

from camera import Camera
from measurements import Figures, percentiles, timed

from footprint import threads

LIMIT = 50.0


def cached(client: Any, pv: str, count: int) -> Figures:
    """``get`` of a monitored signal."""
    return percentiles(timed(client.cached_getter(pv), count))


def read(client: Any, pv: str, count: int) -> Figures:
    """``read`` of a signal that is not monitored."""
    signal = client.connected(pv)
    float(signal.read()[signal.name]["value"])
    return percentiles(timed(signal.read, count))


def set_and_wait(client: Any, pv: str, count: int, put_complete: bool) -> Figures:
    """``set(...).wait()``, done by put completion or by reading back."""
    signal = client.connected(pv, put_complete=put_complete)
    values = iter(range(-1000, count))
    return percentiles(timed(lambda: signal.set(float(next(values))).wait(LIMIT), count))


def connect(client: Any, pv: str, size: int, monitored: bool) -> Figures:
    """Make and connect so many signals: milliseconds, those of the processor, and threads more than before."""
    before, start, cpu = threads(), time.perf_counter(), time.process_time()
    client.connect_all([f"{pv}{index}" for index in range(size)], LIMIT, monitored=monitored)
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
    if [signal.get() for signal in client.signals] != list(range(size)):
        raise RuntimeError("a value is not its record's number")
    return {"ms": elapsed * 1e3, "cpu": cpu * 1e3, "threads": threads() - before}


def device(client: Any, prefix: str) -> Figures:  # noqa: ARG001 (a task)
    """Make an areaDetector with its plugins and connect all its signals, most of which it makes when asked for."""
    start, cpu = time.perf_counter(), time.process_time()
    camera = Camera(prefix, name="camera")
    camera.wait_for_connection(all_signals=True, timeout=LIMIT)
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
    signals = [walk.item for walk in camera.walk_signals() if hasattr(walk.item, "pvname")]
    if len(signals) != Camera.SIGNALS or not all(signal.connected for signal in signals):
        raise RuntimeError(f"{sum(signal.connected for signal in signals)} of {Camera.SIGNALS} signals are connected")
    return {"ms": elapsed * 1e3, "cpu": cpu * 1e3}


TASKS = (cached, read, set_and_wait, connect, device)
