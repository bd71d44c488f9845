"""The callbacks of one PV, by the index that `add_callback` gave."""

from __future__ import annotations

import logging
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Callback: TypeAlias = Callable[..., object]

logger = logging.getLogger("ophyd.epicsrs")


def run(callback: Callback, pv: str, /, *arguments: Any, **keywords: Any) -> None:
    """Call it; what it raises is logged with its name and PV, so that the others still hear of the event."""
    try:
        callback(*arguments, **keywords)
    except Exception:
        name = getattr(callback, "__qualname__", repr(callback))
        logger.exception("%s: callback %s raised", pv, name)


class Callbacks(dict[int, "tuple[Callback, dict[str, Any]]"]):
    """Index -> (callback, its keyword arguments); indices begin at 1, since ophyd takes 0 for "none"."""

    def __init__(self) -> None:
        super().__init__()
        self._indices = count(1)
        self._sleeping: set[int] = set()

    def add(self, callback: Callback, index: int | None, keywords: dict[str, Any]) -> int:
        """Enter a callback that sleeps until `wake`."""
        if not callable(callback):
            raise TypeError(f"a callback has to be callable, not {callback!r}")
        if index is None:
            index = next(number for number in self._indices if number not in self)
        self._sleeping.add(index)
        self[index] = (callback, keywords)
        return index

    def wake(self, index: int) -> None:
        """From now on it is called."""
        self._sleeping.discard(index)

    def awake(self) -> Iterable[int]:
        return [index for index in list(self) if index not in self._sleeping]
