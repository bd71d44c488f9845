"""A PV that is monitored."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from epicsrs_native import DBE_ALARM, DBE_LOG, DBE_PROPERTY, DBE_VALUE
from ophyd_epicsrs_sync._pv import text
from ophyd_epicsrs_sync._pv.state import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from epicsrs_native import Channel, Reading
    from ophyd_epicsrs_sync._pv.callbacks import Callbacks
    from ophyd_epicsrs_sync._pv.fields import Array, Fields

# What a monitor is told of unless its mask says otherwise.
USUAL_MASK: Final = DBE_VALUE | DBE_ALARM
EVERY_EVENT: Final = DBE_VALUE | DBE_LOG | DBE_ALARM | DBE_PROPERTY
# With auto_monitor None, arrays that may be longer are not monitored; pyepics draws the line here too.
LONGEST_MONITORED: Final = 65536


def _plain(given: object) -> object:
    return cast("np.generic[Any]", given).item() if isinstance(given, np.generic) else given


def events(channel: Channel, auto_monitor: object) -> int | None:
    """What `auto_monitor` may be: None, a bool, or the events of Channel Access that a monitor is told of.

    Raises:
        ValueError: It is something else; or a mask, and the channel is of pvAccess, which has none.
    """
    given = _plain(auto_monitor)
    if given is None or isinstance(given, bool):
        return given
    if not (isinstance(given, int) and 0 <= given <= EVERY_EVENT):
        raise ValueError(f"{channel.pv}: auto_monitor is None, a bool or a mask of events, not {auto_monitor!r}")
    if channel.protocol == "pva" and given not in {0, USUAL_MASK}:
        raise ValueError(f"{channel.pv}: auto_monitor {auto_monitor!r} is a mask of events, which pvAccess has not")
    return given


def change(pv: str, delta: object) -> float | None:
    """What `monitor_delta` may be: None, or a number from 0 on; a ValueError otherwise."""
    given = _plain(delta)
    if given is None or (isinstance(given, int | float) and 0 <= given < math.inf):
        return given
    raise ValueError(f"{pv}: monitor_delta is None or a number from 0 on, not {delta!r}")


class Monitored(State):
    """The updates of a PV, and who hears of them."""

    callbacks: Callbacks
    _auto_monitor: int | None
    _count: int | None

    def updated(self, reading: Reading | None) -> Fields:
        """What callbacks are given: all fields, with those that the update brings."""
        known = dict(self._args) if reading is None else self._learn_from(reading, newest=True, count=self._count)
        known["char_value"] = text.of_fields(known)
        if isinstance(known["value"], np.ndarray):
            known["count"] = len(cast("Array", known["value"]))
        return known

    def add_callback(
        self,
        callback: Callable[..., object],
        index: int | None = None,
        run_now: bool = False,
        with_ctrlvars: bool = True,
        **kw: Any,
    ) -> int:
        """Call `callback(**fields, **kw, cb_info=(index, pv))` on the monitor lane for each update from now on.

        Where a monitor runs already, `run_now` brings its last update first, in its turn. `with_ctrlvars` changes
        nothing: the metadata are there before the first update. With a `monitor_delta`, an update whose number is less
        than that from the last one that callbacks had is not told, unless its alarm is another.

        Returns:
            Its index, from 1; for `remove_callback`.
        """
        del with_ctrlvars
        index = self._monitor.add(callback, index, run_now, kw)
        self._subscribe()
        return index

    def remove_callback(self, index: int | None = None) -> None:
        """Call it no more; an index that is not in use changes nothing."""
        if index is not None:
            self.callbacks.pop(index, None)

    def run_callback(self, index: int) -> None:
        """Call one callback with the last update, on this thread."""
        self._monitor.run(index, self.updated(None))

    def run_callbacks(self) -> None:
        """Call every callback with the last update, on this thread."""
        for index in list(self.callbacks):
            self.run_callback(index)

    def _subscribe(self) -> None:
        """Have a monitor run, for the events that `auto_monitor` says."""
        if not self._auto_monitor:
            self._auto_monitor = USUAL_MASK
        self._monitor.open(USUAL_MASK if self._auto_monitor is True else self._auto_monitor)

    @property
    def auto_monitor(self) -> int | None:
        """Whether a monitor runs, or will when the PV connects; a sum of DBE_ numbers where it has a mask.

        None until it connects leaves it to the PV: a monitor runs unless it is an array that may be longer than 65535.
        """
        return self._auto_monitor

    @auto_monitor.setter
    def auto_monitor(self, wanted: int | None) -> None:
        self._auto_monitor = events(self.chid, wanted)
        if self.connected:
            self._choose_monitor()
        if self._auto_monitor:
            self._subscribe()
        elif self._auto_monitor is not None:
            self._monitor.close()

    def _choose_monitor(self) -> None:
        """What None means, when it is known how many elements there may be."""
        if self._auto_monitor is None:
            self._auto_monitor = (self._args["count"] or math.inf) < LONGEST_MONITORED

    def clear_auto_monitor(self) -> None:
        """End the monitor."""
        self.auto_monitor = False

    @property
    def auto_monitor_mask(self) -> int | None:
        """Channel Access's events that the running monitor is told of; None where none runs."""
        return self._monitor.mask

    @property
    def dropped(self) -> int:
        """How many updates of the running monitor nobody got, because callbacks were too slow."""
        return self._monitor.dropped

    @property
    def monitor_delta(self) -> float | None:
        """By how much a number has to change before callbacks hear of it; the record's MDEL stays as it is."""
        return self._monitor.delta
