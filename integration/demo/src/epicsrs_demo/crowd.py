"""A thousand PVs at once, and one PV a thousand times, on the native client alone."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from epicsrs_demo.records import SCALARS
from epicsrs_native import EpicsError, get_context

Protocol: TypeAlias = Literal["ca", "pva"]

PROTOCOLS: tuple[Protocol, ...] = ("ca", "pva")
GETS = 1000


@dataclass(frozen=True)
class Phase:
    """What was done over one protocol, how often, and in how many seconds."""

    name: str
    protocol: Protocol
    operations: int
    seconds: float


def crowd() -> list[Phase]:
    """Connect, read and write 1,000 PVs, then read one again and again, over both protocols.

    Raises:
        EpicsError: A PV did not answer.
        RuntimeError: The IOC answered something else than what was written.
    """
    phases: list[Phase] = []
    for protocol in PROTOCOLS:
        _through(protocol, phases)
    return phases


def _through(protocol: Protocol, phases: list[Phase]) -> None:
    @contextmanager
    def phase(name: str, operations: int) -> Generator[None]:
        start = time.perf_counter()
        yield
        phases.append(Phase(name, protocol, operations, time.perf_counter() - start))

    context = get_context()
    with phase("connect", len(SCALARS)):
        channels = [context.channel(f"{protocol}://{pv}") for pv in SCALARS]
        _raise_first(context.connect_many(channels))
    # Each protocol writes something of its own, so that reading it back proves who wrote it.
    values = np.arange(len(SCALARS)) / 8 + PROTOCOLS.index(protocol)
    with phase("write, each answered", len(SCALARS)):
        _raise_first(context.put_many(channels, values))
    with phase("read, all at once", len(SCALARS)):
        columns = context.get_many(channels, columns=True)
    _raise_first(list(columns.error.values()))
    if not np.array_equal(columns.value, values):
        raise RuntimeError(f"{protocol}: the IOC does not answer what was written")
    with phase("read, one by one", GETS):
        for _ in range(GETS):
            channels[0].get()


def _raise_first(answers: list[EpicsError | ValueError | TypeError | None] | list[EpicsError | None]) -> None:
    for answer in answers:
        if answer is not None:
            raise answer
