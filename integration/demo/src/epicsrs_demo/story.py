"""What the demo does with the IOC, and how long each part takes."""

import asyncio
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from epicsrs_demo.records import COUNTER, MODE, PROFILE_LENGTH, SCALARS, SINE, SLOW, SLOW_SECONDS, WAVEFORMS
from epicsrs_native import Channel, Reading, get_context

Protocol: TypeAlias = Literal["ca", "pva"]

PROTOCOLS: tuple[Protocol, ...] = ("ca", "pva")
WATCH_SECONDS = 2.0
SYNC_GETS = 2000
PUTS = 100
# Each protocol writes something of its own, so that reading it back proves who wrote it.
LABELS: dict[Protocol, str] = {"ca": "Align", "pva": "Measure"}
POSITIONS: dict[Protocol, float] = {"ca": 1.5, "pva": 2.5}
PROFILES: dict[Protocol, str] = dict(zip(PROTOCOLS, WAVEFORMS, strict=False))


@dataclass(frozen=True)
class Phase:
    """One part of the story on one protocol."""

    name: str
    protocol: Protocol
    operations: int
    seconds: float


@dataclass
class Story:
    """What came of it."""

    phases: list[Phase] = field(default_factory=list)
    readings: dict[tuple[Protocol, str], Reading] = field(default_factory=dict)
    waves: dict[Protocol, list[Reading]] = field(default_factory=dict)
    ticks: dict[Protocol, list[Reading]] = field(default_factory=dict)
    latencies: dict[Protocol, list[float]] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str, protocol: Protocol, operations: int) -> Generator[None]:
        """Time the ``with`` block as one phase."""
        start = time.perf_counter()
        yield
        self.phases.append(Phase(name, protocol, operations, time.perf_counter() - start))


def tell() -> Story:
    """Connect, read, watch and write over both protocols."""
    story = Story()
    asyncio.run(_crowd(story))
    for protocol in PROTOCOLS:
        _one_by_one(story, protocol)
    asyncio.run(_watch(story))
    for protocol in PROTOCOLS:
        _write(story, protocol)
    _read_back(story)
    return story


def _open(pv: str, protocol: Protocol) -> Channel:
    return get_context().channel(f"{protocol}://{pv}")


async def _crowd(story: Story) -> None:
    """Connect, read and write many PVs at once, awaiting all of them together."""
    for protocol in PROTOCOLS:
        with story.phase("connect", protocol, len(SCALARS)):
            channels = [_open(pv, protocol) for pv in SCALARS]
            await asyncio.gather(*(channel.connect_async() for channel in channels))
        with story.phase("read, all at once", protocol, len(SCALARS)):
            readings = await asyncio.gather(*(channel.get_async() for channel in channels))
        _check(protocol, [reading.value for reading in readings], [index / 10 for index in range(len(SCALARS))])
        with story.phase("write, each answered", protocol, PUTS):
            await asyncio.gather(*(channel.put_async(index / 10) for index, channel in enumerate(channels[:PUTS])))


def _one_by_one(story: Story, protocol: Protocol) -> None:
    """Read one PV again and again with the blocking call."""
    channel = _open(SCALARS[0], protocol)
    channel.connect()
    latencies: list[float] = []
    with story.phase("read, one by one", protocol, SYNC_GETS):
        for _ in range(SYNC_GETS):
            start = time.perf_counter()
            channel.get()
            latencies.append(time.perf_counter() - start)
    story.latencies[protocol] = latencies


async def _watch(story: Story) -> None:
    """Follow the sine wave and the counter on both protocols at the same time."""
    subscriptions = []
    for protocol in PROTOCOLS:
        for pv, updates in ((SINE, story.waves), (COUNTER, story.ticks)):
            received = updates.setdefault(protocol, [])
            subscriptions.append(await _open(pv, protocol).monitor_async(received.append))
    await asyncio.sleep(WATCH_SECONDS)
    for subscription in subscriptions:
        subscription.close()


def _write(story: Story, protocol: Protocol) -> None:
    """Write to a record that is slow, an enum by its label, and an array; each answered when processed."""
    slow, mode, profile = (_open(pv, protocol) for pv in (SLOW, MODE, PROFILES[protocol]))
    for channel in (slow, mode, profile):
        channel.connect()
    with story.phase(f"write a {SLOW_SECONDS:g} s record", protocol, 1):
        slow.put(POSITIONS[protocol])
    _check(protocol, [_open(f"{SLOW}:done", protocol).get().value], [POSITIONS[protocol]])
    with story.phase("write an enum by its label", protocol, 1):
        mode.put(LABELS[protocol])
    _check(protocol, [mode.get().value.label], [LABELS[protocol]])
    values = np.hanning(PROFILE_LENGTH)
    with story.phase(f"write, read {PROFILE_LENGTH:,} doubles", protocol, 1):
        profile.put(values)
        answer = profile.get().value
    _check(protocol, answer, values)


def _read_back(story: Story) -> None:
    """Read a PV of each kind with its metadata."""
    for protocol in PROTOCOLS:
        for pv in (SCALARS[42], SINE, COUNTER, MODE, f"{SLOW}:done", PROFILES[protocol]):
            story.readings[protocol, pv] = _open(pv, protocol).get(form="ctrl")


def _check(protocol: Protocol, found: Sequence[object] | np.ndarray, wanted: Sequence[object] | np.ndarray) -> None:
    if not np.array_equal(np.asarray(found), np.asarray(wanted)):
        raise RuntimeError(f"{protocol}: the IOC answered {found!r}, not {wanted!r}")
