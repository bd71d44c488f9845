"""The channels that bulk reads keep open, so that the second read of the same PVs is one round trip."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from epicsrs_native import Channel, get_context

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

# Connected channels kept between reads; the ones that nobody has read for longest go first.
KEPT_CHANNELS = 10_000


class Lent(list[Channel]):
    """Channels for one use; who knows that every one of them is connected says so."""

    all_connected = False


class ChannelStore:
    """Channels by PV name, of which at most ``limit`` stay open while no read uses them.

    A channel that did not connect during its read is closed at its end: a mistyped name is not searched for ever.
    """

    def __init__(self, limit: int = KEPT_CHANNELS) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._channels: OrderedDict[str, Channel] = OrderedDict()
        # The lists of names that reads use at this moment.
        self._lent: list[list[str]] = []
        # What was lent last, as long as every one of these channels is kept: most read the same PVs again.
        self._last: tuple[list[str], list[Channel]] = ([], [])

    def lent_last(self, pvs: Sequence[str | Channel]) -> bool:
        """Whether these are names, and those that were lent last."""
        return {*map(type, pvs)} == {str} and pvs == self._last[0]

    @contextmanager
    def lend(self, pvs: Sequence[str | Channel]) -> Generator[Lent]:
        """Channels to the PVs, in their order; those that were opened here go back at the end.

        Raises:
            ValueError: A name that native refuses, or a Channel that is closed.
        """
        with self._lock:
            names, opened = self._last
            # The user may have shut the whole client down, with all channels.
            again = names == pvs and opened and not opened[0].closed
            if not again:
                names = [pv for pv in pvs if isinstance(pv, str)]
            self._lent.append(names)
        lent = Lent()
        try:
            if not again:
                with self._lock:
                    opened = self._open(names)
            if len(opened) < len(pvs):
                by_name = dict(zip(names, opened, strict=True))
                lent.extend(by_name[pv] if isinstance(pv, str) else pv for pv in pvs)
            else:
                lent.extend(opened)
            yield lent
        finally:
            with self._lock:
                # One list may be lent several times.
                place = next(place for place, others in enumerate(self._lent) if others is names)
                del self._lent[place]
                self._release(names, all_connected=lent.all_connected)

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

    def _open(self, pvs: list[str]) -> list[Channel]:
        kept = self._channels
        self._last = ([], [])
        opened: list[Channel] = []
        for pv in pvs:
            channel = kept.get(pv)
            # The user may have shut the whole client down; the next read opens a fresh one.
            if channel is None or channel.closed:
                channel = kept[pv] = get_context().channel(pv)
            kept.move_to_end(pv)
            opened.append(channel)
        self._last = (pvs, opened)
        return opened

    def _release(self, pvs: list[str], *, all_connected: bool) -> None:
        kept = self._channels
        unconnected = [] if all_connected else [pv for pv in pvs if pv in kept and not kept[pv].connected]
        if unconnected:
            used = self._used()
            for pv in unconnected:
                if pv not in used:
                    self._close(pv)
        self._close_surplus(self._limit)

    def _close_surplus(self, limit: int) -> int:
        surplus = len(self._channels) - limit
        if surplus <= 0:
            return 0
        used = self._used()
        unused = [pv for pv in self._channels if pv not in used][:surplus]
        for pv in unused:
            self._close(pv)
        return len(unused)

    def _used(self) -> set[str]:
        return {pv for names in self._lent for pv in names}

    def _close(self, pv: str) -> None:
        self._last = ([], [])
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
