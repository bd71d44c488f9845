"""The callbacks of one PV, by the index that `add_callback` gave."""

from __future__ import annotations

import logging
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Callback: TypeAlias = Callable[..., object]

# Seconds that a callback may take before it is logged.
SLOW = 1.0

logger = logging.getLogger("ophyd.epicsrs")


def run(callback: Callback, pv: str, /, *arguments: Any, **keywords: Any) -> None:
    """Call it; what it raises is logged with its name and PV, so that the others still hear of the event.

    One that takes long is logged too: all others of its lane wait for it.
    """
    begun = monotonic()
    try:
        callback(*arguments, **keywords)
    except Exception:
        logger.exception("%s: callback %s raised", pv, name(callback))
    taken = monotonic() - begun
    if taken > SLOW:
        logger.warning("%s: callback %s took %.1f s, and everybody behind it waited", pv, name(callback), taken)


def name(callback: Callback) -> str:
    """What a log calls it: its qualified name and, for the method of a signal or device, whose."""
    owner: object = getattr(getattr(callback, "__self__", None), "name", None)
    called: str = getattr(callback, "__qualname__", repr(callback))
    return f"{called} of {owner}" if isinstance(owner, str) else called


class Callbacks(dict[int, "tuple[Callback, dict[str, Any]]"]):
    """Index -> (callback, its keyword arguments); indices begin at 1, since ophyd takes 0 for "none"."""

    def __init__(self) -> None:
        super().__init__()
        self._indices = count(1)
        self._sleeping: set[int] = set()

    def add(self, callback: Callback, index: int | None, keywords: dict[str, Any], *, sleeping: bool) -> int:
        """Enter a callback; one that sleeps is not called until `wake`."""
        if not callable(callback):
            raise TypeError(f"a callback has to be callable, not {callback!r}")
        if index is None:
            index = next(number for number in self._indices if number not in self)
        if sleeping:
            self._sleeping.add(index)
        self[index] = (callback, keywords)
        return index

    def wake(self, index: int) -> None:
        """From now on it is called."""
        self._sleeping.discard(index)

    def awake(self) -> Iterable[int]:
        return [index for index in list(self) if index not in self._sleeping]
