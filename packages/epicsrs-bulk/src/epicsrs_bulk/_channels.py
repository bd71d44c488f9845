"""The channels that bulk reads keep open, so that the second read of the same PVs is one round trip."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from epicsrs_native import Channel, get_context

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

# Connected channels kept between reads; the ones that nobody has read for longest go first.
KEPT_CHANNELS = 10_000


class ChannelStore:
    """Channels by PV name, of which at most ``limit`` stay open while no read uses them.

    A channel that did not connect during its read is closed at its end: a mistyped name is not searched for ever.
    """

    def __init__(self, limit: int = KEPT_CHANNELS) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._channels: OrderedDict[str, Channel] = OrderedDict()
        self._used: Counter[str] = Counter()

    @contextmanager
    def lend(self, pvs: Sequence[str | Channel]) -> Generator[list[Channel]]:
        """Channels to the PVs, in their order; those that were opened here go back at the end.

        Raises:
            ValueError: A name that native refuses, or a Channel that is closed.
        """
        names = [pv for pv in pvs if isinstance(pv, str)]
        with self._lock:
            self._used.update(names)
        try:
            with self._lock:
                opened = {pv: self._open(pv) for pv in names}
            yield [opened[pv] if isinstance(pv, str) else pv for pv in pvs]
        finally:
            with self._lock:
                self._used.subtract(names)
                self._release(names)

    def keep(self, limit: int) -> int:
        """Set the bound, at once; the one that was in force before."""
        with self._lock:
            before, self._limit = self._limit, limit
            self._close_surplus(limit)
        return before

    def close(self) -> int:
        """Close the channels that no read uses; how many."""
        with self._lock:
            return self._close_surplus(0)

    def _open(self, pv: str) -> Channel:
        channel = self._channels.get(pv)
        # The user may have shut the whole client down; the next read opens a fresh one.
        if channel is None or channel.closed:
            channel = self._channels[pv] = get_context().channel(pv)
        self._channels.move_to_end(pv)
        return channel

    def _release(self, pvs: list[str]) -> None:
        for pv in pvs:
            if not self._used[pv]:
                del self._used[pv]
                if pv in self._channels and not self._channels[pv].connected:
                    self._close(pv)
        self._close_surplus(self._limit)

    def _close_surplus(self, limit: int) -> int:
        surplus = max(len(self._channels) - limit, 0)
        unused = [pv for pv in self._channels if pv not in self._used][:surplus]
        for pv in unused:
            self._close(pv)
        return len(unused)

    def _close(self, pv: str) -> None:
        self._channels.pop(pv).close()


channels = ChannelStore()


def close_channels() -> int:
    """Close every channel that bulk reads have kept open and that no read uses at this moment; how many they were."""
    return channels.close()


def keep_channels(limit: int) -> int:
    """Keep at most ``limit`` channels open between bulk reads, of the PVs that were read last; 10,000 by default.

    Returns:
        The limit that was in force before.

    Raises:
        TypeError: ``limit`` is not an int.
        ValueError: It is negative.
    """
    if not isinstance(limit, int) or isinstance(limit, bool):  # pyright: ignore[reportUnnecessaryIsInstance] (callers need not be typed)
        raise TypeError(f"the number of channels to keep is an int, not {limit!r}")
    if limit < 0:
        raise ValueError(f"the number of channels to keep is 0 or more, not {limit}")
    return channels.keep(limit)
