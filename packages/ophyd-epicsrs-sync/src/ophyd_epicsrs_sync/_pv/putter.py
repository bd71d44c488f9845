"""Who puts without waiting, and whose a refusal is.

Channel Access tells a refusal of such a put to the name, and so to all PVs of it. But a server answers in the order of
the requests: what it refuses before it answers a read was put before that read. Between two reads that are answered,
where one PV alone has put, a refusal has one owner.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet, WeakValueDictionary

from epicsrs_native import EpicsError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from epicsrs_native import Channel
    from ophyd_epicsrs_sync._dispatcher import Dispatcher

# Seconds that a put waits for another one of its name, whose server does not answer.
_PATIENCE: Final = 0.5
# Seconds for that answer, where the caller waits anyway.
_MOST: Final = 3.0


class Puts:
    """Those to one name, by all PVs of it."""

    def __init__(self) -> None:
        self.putters: WeakSet[Putter] = WeakSet()
        # Reentrant: who puts alone puts in its own turn.
        self.turn = threading.RLock()
        self.last: Putter | None = None
        # Whose the refusals are that come now; changed on their lane, in the order of puts and refusals.
        self.owner: Putter | None = None

    def settle(self, channel: Channel, timeout: float) -> None:
        """Return when the server has refused what it will of the puts so far, or does not answer."""
        # One that is lost would be waited for.
        with suppress(EpicsError, ValueError):
            if channel.connected:
                channel.get(count=0, timeout=timeout)

    def pass_to(self, putter: Putter | None) -> None:
        self.owner = putter


_names: WeakValueDictionary[str, Puts] = WeakValueDictionary()
_entering = threading.Lock()


class Putter:
    """One PV as the one that puts; of no account until its first put."""

    def __init__(self, pvname: str, dispatcher: Dispatcher) -> None:
        self.name = pvname.removeprefix("ca://")
        # Who hears of a refusal; else it is logged.
        self.refusal_callbacks: list[Callable[[Exception], object]] = []
        self._dispatcher = dispatcher
        self._puts: Puts | None = None

    def put(self, channel: Channel, value: Any, timeout: float | None) -> None:
        """Put, and wait neither for the record nor for a refusal."""
        puts = self._puts or self._enter(channel)
        in_turn = puts.turn.acquire(timeout=_PATIENCE)
        try:
            # Out of its turn it leaves refusals to whose turn it is.
            if in_turn and puts.last is not self:
                self._pass(puts, self)
            channel.put(value, wait=False, timeout=timeout)
        finally:
            if in_turn:
                puts.turn.release()

    @contextmanager
    def alone(self, channel: Channel) -> Generator[None]:
        """Puts between whose refusals are told to nobody else, while those of others are not told to this PV.

        Returns when the server has refused what it will, if other PVs of the name put too.
        """
        puts = self._puts or self._enter(channel)
        if len(puts.putters) == 1 or not puts.turn.acquire(timeout=_PATIENCE):
            yield
            return
        try:
            if puts.last is not None:
                puts.settle(channel, _MOST)
            yield
            puts.settle(channel, _MOST)
            self._pass(puts, None)
        finally:
            puts.turn.release()

    def _pass(self, puts: Puts, putter: Putter | None) -> None:
        puts.last = putter
        self._dispatcher.lane("get_put").delivery.call(puts.pass_to, putter)

    def _enter(self, channel: Channel) -> Puts:
        with _entering:
            puts = _names.get(self.name) or _names.setdefault(self.name, Puts())
            puts.putters.add(self)
            self._puts = puts
        last = puts.last
        if last is not None and last.refusal_callbacks:
            # It was the only one when it put, and has not waited for a refusal.
            puts.settle(channel, _PATIENCE)
        return puts

    def leave(self) -> None:
        """It puts no more."""
        puts, self._puts = self._puts, None
        if puts is not None:
            puts.putters.discard(self)

    def is_refused(self) -> bool:
        """Whether a refusal that comes now may be of a put of this PV; on the lane of refusals."""
        puts = _names.get(self.name)
        owner = None if puts is None else puts.owner
        return owner is None or owner is self
