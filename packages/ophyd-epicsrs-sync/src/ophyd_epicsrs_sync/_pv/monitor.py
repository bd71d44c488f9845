"""A PV's subscription and who hears of its updates."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Protocol

from ophyd_epicsrs_sync._pv import callbacks
from ophyd_epicsrs_sync._pv import fields as pv_fields
from ophyd_epicsrs_sync._pv.callbacks import Callbacks

if TYPE_CHECKING:
    from collections.abc import Callable

    from epicsrs_native import Channel, Metadata, Reading, Subscription
    from ophyd_epicsrs_sync._dispatcher import Lane
    from ophyd_epicsrs_sync._pv.connection import Connection
    from ophyd_epicsrs_sync._pv.fields import Fields


logger = logging.getLogger("ophyd.epicsrs")


class Owner(Protocol):
    """The PV."""

    pvname: str

    def updated(self, reading: Reading | None) -> Fields: ...
    def metadata_changed(self) -> None: ...


class Monitor:
    """One subscription for all callbacks of a PV; they run on the monitor lane, in the order of the wire.

    Each update carries the record's metadata as they are then. A change of those alone makes an update as well, of
    which the PV is told, and its callbacks only if it changes how the value reads.

    Updates of a connection whose type is still on its way wait for it, and so come after the notice of the connection.
    """

    def __init__(self, channel: Channel, connection: Connection, lane: Lane, owner: Owner, delta: float | None) -> None:
        self.callbacks = Callbacks()
        self.subscription: Subscription | None = None
        # The events that the present subscription is told of, as Channel Access numbers them.
        self.mask: int | None = None
        self.delta = delta
        self._channel = channel
        self._connection = connection
        self._lane = lane
        self._owner = owner
        self._early: list[Reading] = []
        # Whether the present subscription's dropped updates have been logged.
        self._drop_logged = False
        # All fields of the last update that callbacks had, its metadata, and the number of the connection that it was
        # delivered in.
        self._last: Fields = {}
        self._last_metadata: Metadata | None = None
        self._delivered_in: int | None = None
        # Reentrant: a finalizer may close the PV while its own thread opens another subscription.
        self._opening = threading.RLock()

    @property
    def delivered(self) -> bool:
        """Whether an update has been delivered in this connection."""
        return self._connection.connected and self._delivered_in == self._connection.number

    def open(self, mask: int) -> None:
        """Subscribe to these events, if nobody has yet and the PV has not been disconnected; never waits."""
        with self._opening:
            if self.subscription is not None and self.mask != mask:
                self.close()
            if self.subscription is None and not self._channel.closed:
                self._drop_logged = False
                self.mask = mask
                self.subscription = self._channel.monitor(
                    self._update,
                    form="ctrl",
                    mask=mask if self._channel.protocol == "ca" else None,
                    delivery=self._lane.delivery,
                    wait=False,
                )

    def attach(self, channel: Channel, connection: Connection) -> None:
        """Subscribe to this channel from now on."""
        with self._opening:
            self._channel, self._connection = channel, connection

    def close(self) -> None:
        with self._opening:
            if self.subscription is not None:
                self.subscription.close()
            self.subscription = self.mask = None
            self._delivered_in, self._last = None, {}

    def add(self, callback: Callable[..., object], index: int | None, run_now: bool, keywords: dict[str, Any]) -> int:
        """Call it for each update from now on; the last one comes first, in its turn, with `run_now`.

        To be followed by `open`: a callback that is added before gets the first update.
        """
        with self._opening:
            # Before there is a subscription nothing is under way that it must not hear, and no last update.
            sleeping = self.subscription is not None
            index = self.callbacks.add(callback, index, keywords, sleeping=sleeping)
        if sleeping:
            self._lane.delivery.call(self._wake, index, run_now)
        return index

    def _wake(self, index: int, run_now: bool) -> None:
        self.callbacks.wake(index)
        if run_now and self.delivered:
            self.run(index, self._owner.updated(None))

    def metadata_came(self) -> None:
        """Updates that have waited for it are delivered."""
        self._lane.delivery.call(self._deliver_early)

    def _deliver_early(self) -> None:
        early, self._early = self._early, []
        for reading in early:
            self._deliver(reading)

    @property
    def dropped(self) -> int:
        """How many updates of the present subscription were dropped, because callbacks were too slow for them."""
        subscription = self.subscription
        return 0 if subscription is None else subscription.dropped

    def _log_dropped(self) -> None:
        if not self._drop_logged and (dropped := self.dropped):
            self._drop_logged = True
            logger.warning(
                "%s: %d updates were dropped so far, because the callbacks on the monitor lane are too slow for them; "
                "its own are %s. PV.dropped counts on",
                self._owner.pvname,
                dropped,
                ", ".join(callbacks.name(callback) for callback, _ in list(self.callbacks.values())) or "none",
            )

    def _update(self, reading: Reading) -> None:
        self._log_dropped()
        if self._connection.is_awaited or self._early:
            self._early.append(reading)
        else:
            self._deliver(reading)

    def _deliver(self, reading: Reading) -> None:
        last = self._last if self.delivered else None
        fields, metadata = self._owner.updated(reading), reading.metadata
        changed = last is not None and metadata != self._last_metadata
        self._delivered_in, self._last_metadata = self._connection.number, metadata
        if changed:
            self._owner.metadata_changed()
        if last is not None and self._tells_nothing(last, fields, changed):
            return
        self._last = fields
        for index in self.callbacks.awake():
            self.run(index, fields)

    def _tells_nothing(self, last: Fields, fields: Fields, changed: bool) -> bool:
        """Whether callbacks, which had the last update, need not have this one."""
        if changed:
            return pv_fields.agree(last, fields, pv_fields.OF_AN_UPDATE)
        return self.delta is not None and pv_fields.nearer(last, fields, self.delta)

    def run(self, index: int, fields: Fields) -> None:
        """Call one callback with all the fields of an update, as pyepics does."""
        entered = self.callbacks.get(index)
        if entered is None:
            # Removed meanwhile, perhaps by the callback before it.
            return
        callback, keywords = entered
        arguments = {**fields, **keywords, "cb_info": (index, self._owner)}
        callbacks.run(callback, self._owner.pvname, **arguments)
