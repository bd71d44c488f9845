"""A PV's connection, as those hear of it who use the PV."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from epicsrs_native import NotConnectedError, RemoteError, ReplyTimeoutError
from ophyd_epicsrs_sync._pv import fields, inquiry

if TYPE_CHECKING:
    from epicsrs_native import Channel, Info, Reading
    from ophyd_epicsrs_sync._dispatcher import Lane

logger = logging.getLogger("ophyd.epicsrs")

_waiting = threading.Lock()


class Listener(Protocol):
    """Who is told, on the metadata lane."""

    def learned(self, info: Info, reading: Reading | None) -> None: ...
    def came_up(self) -> None: ...
    def went_down(self) -> None: ...
    def access_changed(self, readable: bool | None, writable: bool | None) -> None: ...


class Connection:
    """Up when the server serves the PV *and* its type, access rights and metadata have been read.

    Nothing here blocks: what has to be known is asked for when the channel connects, and told when it has come, so
    that any number of PVs connect in one batch. The same at each reconnect. The state changes on the metadata lane
    only.
    """

    def __init__(self, channel: Channel, lane: Lane, listener: Listener) -> None:
        self.channel = channel
        self.connected = False
        # The channel is connected, and its metadata are on their way.
        self.learning = False
        # Counts connections of the channel: what was asked in an earlier one is no answer for this one.
        self.number = 0
        self.lane = lane
        self._listener = listener
        # Made by the first who waits: of many PVs, hardly one is waited for.
        self._ready: threading.Event | None = None
        self._access: tuple[bool | None, bool | None] | None = None

    def start(self) -> None:
        """From now on the listener is told."""
        delivery = self.lane.delivery
        self.channel.on_access(self._access_event, delivery=delivery)
        self.channel.on_connection(self._event, delivery=delivery)

    def close(self) -> None:
        """The listener is told nothing more; the channel goes with it."""
        self.channel.close()
        self.connected = self.learning = False

    @property
    def is_awaited(self) -> bool:
        """Whether what comes from the server belongs to a connection that is not up yet."""
        return self.learning or (self.number == 0 and not self.connected)

    def wait(self, timeout: float | None) -> bool:
        """Whether it is up within `timeout` seconds; None waits for ever."""
        if self.connected:
            return True
        end = None if timeout is None else time.monotonic() + timeout
        try:
            self.channel.connect(timeout=timeout)
            if self.lane.here and not self.connected:
                self._learn_now(end)
        except (NotConnectedError, ReplyTimeoutError):
            return False
        # Short waits, because Ctrl-C does not end a long one on every platform.
        while not (self.lane.here or self.channel.closed or self._wait_ready(_left(end, 0.1))):
            if end is not None and time.monotonic() > end:
                break
        return self.connected

    def _wait_ready(self, timeout: float | None) -> bool:
        with _waiting:
            ready = self._ready = self._ready or threading.Event()
        # Either it is up by now, or who brings it up finds the event.
        return self.connected or ready.wait(timeout)

    def _learn_now(self, end: float | None) -> None:
        """A callback on the metadata lane waits for this PV, whose events wait behind it: ask on the spot."""
        info, reading = self.channel.info(timeout=_left(end)), None
        if not fields.is_all_value(info):
            request = fields.metadata_request(info)
            try:
                reading = self.channel.get(form="ctrl", count=0, request=request, timeout=_left(end))
            except RemoteError as error:
                self._unreadable(error)
        self._announce(info, reading)

    def _unreadable(self, error: BaseException) -> None:
        """Still connected: a PV that may be written and not read, for example."""
        logger.warning("%s: connected, but its metadata cannot be read: %s", self.channel.pv, error)

    def _event(self, up: bool) -> None:
        if up == (self.connected or self.learning):
            return
        self.number += 1
        if up:
            self.learning = True
            self.lane.gather(inquiry.inquire, (self, self.number))
        else:
            was_connected = self.connected
            self.connected = self.learning = False
            self._ready = None
            if was_connected:
                self._listener.went_down()

    def needs(self, number: int) -> bool:
        """Whether an answer to what was asked in this connection is still of use."""
        return not self.channel.closed and not self.connected and number == self.number

    def ask_type(self, number: int) -> None:
        """Ask this PV's server what it serves, and then for its metadata."""
        asked = self.lane.delivery.submit(self.channel.info_async, timeout=None)
        asked.add_done_callback(lambda done: self._type_came(number, done))

    def _type_came(self, number: int, asked: Any) -> None:
        if not self.needs(number):
            return
        error = asked.exception()
        if isinstance(error, NotConnectedError):
            # Waits for the connection. If that is a new one, its own question is the one that counts.
            self.ask_type(number)
        elif error is not None:
            logger.error("%s: its type cannot be read, so that nobody can use it: %s", self.channel.pv, error)
        else:
            self.ask_metadata(number, asked.result())

    def ask_metadata(self, number: int, info: Info) -> None:
        """Ask this PV's server for its metadata alone."""
        if fields.is_all_value(info):
            self._announce(info, None)
            return
        request = fields.metadata_request(info)
        asked = self.lane.delivery.submit(self.channel.get_async, form="ctrl", count=0, request=request, timeout=None)
        asked.add_done_callback(lambda done: self.metadata_came(number, info, done.exception() or done.result()))

    def metadata_came(self, number: int, info: Info, reply: Reading | BaseException) -> None:
        """The PV is up, unless nobody needs the reply any more."""
        if not self.needs(number):
            return
        if isinstance(reply, NotConnectedError):
            self.ask_type(number)
        elif isinstance(reply, BaseException):
            self._unreadable(reply)
            self._announce(info, None)
        else:
            self._announce(info, reply)

    def _announce(self, info: Info, reading: Reading | None) -> None:
        if self.connected:
            return
        self._access = (info.readable, info.writable)
        self._listener.learned(info, reading)
        self.connected, self.learning = True, False
        self._listener.came_up()
        # The last: who waits for the connection finds that everybody has been told.
        if self._ready is not None:
            self._ready.set()

    def _access_event(self, readable: bool | None, writable: bool | None) -> None:
        # Before it is up, `info` says the same with it.
        if self.connected and (readable, writable) != self._access:
            self._access = (readable, writable)
            self._listener.access_changed(readable, writable)


def _left(end: float | None, most: float | None = None) -> float | None:
    """Seconds until `end`, at most `most`; None is for ever."""
    left = None if end is None else max(end - time.monotonic(), 0.0)
    return most if left is None or (most is not None and most < left) else left
