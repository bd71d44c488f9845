"""The PV that ophyd's signals drive: pyepics' PV on a native Channel."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

from epicsrs_native import get_context
from ophyd_epicsrs_sync._pv import callbacks, fields, monitored, paragraph
from ophyd_epicsrs_sync._pv.connection import Connection
from ophyd_epicsrs_sync._pv.monitor import Monitor
from ophyd_epicsrs_sync._pv.monitored import Monitored
from ophyd_epicsrs_sync._pv.putter import Putter
from ophyd_epicsrs_sync._pv.readable import Readable
from ophyd_epicsrs_sync._pv.writable import Writable

if TYPE_CHECKING:
    from collections.abc import Callable

    from epicsrs_native import Info, Reading
    from ophyd_epicsrs_sync._dispatcher import Dispatcher

logger = logging.getLogger("ophyd.epicsrs")

FORMS = ("native", "time", "ctrl")


class PV(Writable, Monitored, Readable):
    """One PV under the name the user gave, with pyepics' words.

    Its search starts at once and nothing waits for it. `start` begins to call back.
    """

    def __init__(
        self,
        pvname: str,
        *,
        dispatcher: Dispatcher,
        callback: Any = None,
        form: str = "time",
        auto_monitor: int | None = None,
        count: int | None = None,
        connection_callback: Callable[..., object] | None = None,
        connection_timeout: float | None = None,
        access_callback: Callable[..., object] | None = None,
        verbose: bool = False,
        monitor_delta: float | None = None,
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"{pvname}: form is one of {', '.join(FORMS)}, not {form!r}")
        change = monitored.change(pvname, monitor_delta)
        self.context = get_context()
        self.pvname = pvname
        self.form = form
        self.verbose = verbose
        self.connection_timeout = connection_timeout
        self.put_complete = None
        self.ftype: int | None = None
        self.connection_callbacks = [connection_callback] if connection_callback else []
        self.access_callbacks = [access_callback] if access_callback else []
        # ophyd counts the signals that use the PV; `release_pvs` counts back.
        self._reference_count = 0
        self._count = count
        self._dispatcher = dispatcher
        self._info, self._has_metadata, self._metadata_known = None, False, None
        self.putter = Putter(pvname, dispatcher)
        self.pending = set()
        self._metadata_callbacks = []
        self._args = dict.fromkeys(fields.NAMES)
        self._args.update(pvname=pvname, type="unknown", typefull="unknown", access="unknown", monitor_delta=change)

        self._open_channel()
        self._monitor = Monitor(self.chid, self._connection, dispatcher.lane("monitor"), self, change)
        self._auto_monitor = monitored.events(self.chid, auto_monitor)
        self.callbacks = self._monitor.callbacks
        several = cast("list[Callable[..., object]]", callback) if isinstance(callback, list | tuple) else [callback]
        for each in several:
            if each is not None:
                self._monitor.add(each, None, False, {})
        if self.callbacks:
            self._subscribe()

    def _open_channel(self) -> None:
        self.chid = self._args["chid"] = self.context.channel(self.pvname)
        self._protocol = self.chid.protocol
        self._connection = Connection(self.chid, self._dispatcher.lane("metadata"), self)

    def start(self) -> None:
        """Begin to call back; the last thing that `get_pv` does, so that its caller has the PV first."""
        self.chid.on_error(self._refused_later, delivery=self._dispatcher.lane("get_put").delivery)
        self._connection.start()

    def __repr__(self) -> str:
        if not self.connected:
            return f"<PV {self.pvname!r}: not connected>"
        return f"<PV {self.pvname!r}, count={self.count}, type={self.typefull}, access={self.access}>"

    # ---- what the connection tells, on the metadata lane; the monitor tells changes of the metadata

    def learned(self, info: Info, reading: Reading | None) -> None:
        self._info, self._has_metadata = info, False
        self._args.update(fields.of_info(info, self.form))
        self.ftype = self._args["ftype"]
        self._choose_monitor()
        is_array = fields.is_array(info)
        if is_array:
            # Of an earlier connection.
            self._args["value"] = None
        if reading is not None:
            self._learn_from(reading, newest=True, with_value=not is_array)

    def came_up(self) -> None:
        # Of a subscription that begins from here on, nothing has come before the metadata.
        was_monitored = self._monitor.subscription is not None
        # Metadata and rights first: the notice of the connection that ophyd gives its users shows them, and its
        # EpicsSignalBase looks only then whether it has them.
        self._tell_metadata()
        self._tell_access()
        self._tell_connection(True)
        # After ophyd has added its own callback, which thereby gets the first update.
        if self._auto_monitor:
            self._subscribe()
        if was_monitored:
            self._monitor.metadata_came()

    def went_down(self) -> None:
        self._tell_connection(False)

    def access_changed(self, readable: bool | None, writable: bool | None) -> None:
        self._args.update(fields.of_access(readable, writable))
        if writable is False:
            self._lose_write_access()
        self._tell_access()

    def _tell_metadata(self) -> None:
        for callback in list(self._metadata_callbacks):
            callbacks.run(callback, self.pvname, self.pvname, self._metadata())

    def _tell_connection(self, up: bool) -> None:
        for callback in list(self.connection_callbacks):
            callbacks.run(callback, self.pvname, pvname=self.pvname, conn=up, pv=self)

    def _tell_access(self) -> None:
        for callback in list(self.access_callbacks):
            callbacks.run(callback, self.pvname, self._args["read_access"], self._args["write_access"], pv=self)

    def _refused_later(self, error: Exception) -> None:
        if not self.putter.is_refused():
            return
        hear = list(self.putter.refusal_callbacks)
        for callback in hear:
            callbacks.run(callback, self.pvname, error)
        if not hear:
            logger.error("%s: refused by the server, and no caller waits for it: %s", self.pvname, error)

    def metadata_changed(self) -> None:
        """Told on the metadata lane, as those of a new connection are."""
        self._dispatcher.get_thread_context("metadata").run(self._tell_metadata)

    def clear_callbacks(self, with_access_callback: bool = True, with_connect_callback: bool = True) -> None:
        """Call nobody any more."""
        self.callbacks.clear()
        if with_access_callback:
            self.access_callbacks.clear()
        if with_connect_callback:
            self.connection_callbacks.clear()
            self._metadata_callbacks.clear()

    # ---- pyepics' words for what happens by itself

    def connect(self, timeout: float | None = None) -> bool:
        """The same as `wait_for_connection`: the search began when the PV was made."""
        return self.wait_for_connection(timeout)

    def reconnect(self) -> bool:
        """Whether it is connected within `connection_timeout`: a lost PV is searched by itself."""
        self.force_connect()
        return self.wait_for_connection(self.connection_timeout)

    def poll(self, evt: float = 1e-4, iot: float = 1.0) -> None:
        """Nothing has to be polled."""
        del evt, iot

    def force_read_access_rights(self) -> None:
        """Nothing has to be forced: the server tells each change."""

    @property
    def info(self) -> str | None:
        """A paragraph with all that is known of the PV; None where it is not connected in time."""
        if self.get(timeout=self.connection_timeout) is None:
            return None
        running = self._monitor.subscription is not None
        return paragraph.of_fields(self.updated(None), callbacks=len(self.callbacks) if running else None)

    # ---- the end

    def disconnect(self) -> None:
        """Close the PV; nobody is called back any more."""
        self.clear_callbacks()
        self.putter.leave()
        self._monitor.close()
        self._connection.close()

    def force_connect(self) -> None:
        """Open a PV again that was disconnected, with the callbacks that it was given meanwhile; never waits."""
        if self.chid.closed:
            self._open_channel()
            self._monitor.attach(self.chid, self._connection)
            if self.callbacks:
                self._subscribe()
            self.start()
