"""A PV that is read."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np

from epicsrs_native import EpicsError, ReplyTimeoutError
from ophyd_epicsrs_sync._pv import callbacks, fields, text
from ophyd_epicsrs_sync._pv.attributes import Attributes

if TYPE_CHECKING:
    from collections.abc import Callable

    from ophyd_epicsrs_sync._pv.fields import Fields


_FORMS: Final[dict[str, Literal["value", "time", "ctrl"]]] = {"native": "value", "time": "time", "ctrl": "ctrl"}


class Readable(Attributes):
    """The reads of a PV, each with a timeout for the whole call; None waits for ever."""

    _count: int | None
    _metadata_callbacks: list[Callable[[str, Fields], object]]

    @property
    def value(self) -> Any:
        """What `get` returns; to set it is to put."""
        return self.get(timeout=self.connection_timeout)

    @value.setter
    def value(self, value: Any) -> None:
        self.put(value)

    def get(
        self,
        count: int | None = None,
        as_string: bool = False,
        as_numpy: bool = True,
        timeout: float | None = None,
        with_ctrlvars: bool = False,
        use_monitor: bool = True,
    ) -> Any:
        """The value; None where it did not come within `timeout` seconds. None waits for ever."""
        data = self.get_with_metadata(count, as_string, as_numpy, timeout, with_ctrlvars, None, use_monitor)
        return None if data is None else data["value"]

    def get_with_metadata(
        self,
        count: int | None = None,
        as_string: bool = False,
        as_numpy: bool = True,
        timeout: float | None = None,
        with_ctrlvars: bool = False,
        form: str | None = None,
        use_monitor: bool = True,
        as_namespace: bool = False,
    ) -> Any:
        """The value with what is known beside it, by pyepics' names.

        A running monitor brings everything; a request, what `form` says: alarm and time, or alarm, units, precision,
        choices and limits (and the time, to a PV whose own form is "time").

        Args:
            count: At most so many elements of an array.
            as_string: The value as text.
            as_numpy: False gives an array as a list.
            timeout: Seconds for the whole call; None waits for ever.
            with_ctrlvars: Ask the IOC for the metadata too, as form "ctrl" does.
            form: "native", "time" or "ctrl".
            use_monitor: Give the last update of a running monitor instead of asking the IOC.
            as_namespace: A SimpleNamespace instead of a dict.

        Returns:
            None where no reply came in time.

        Raises:
            NotConnectedError: The connection was lost before the reply.
            RemoteError: The server refused.
        """
        form = form or self.form
        try:
            if use_monitor and form == self.form and not with_ctrlvars and self._monitor.delivered:
                told = known = self._last_update(timeout)
                if isinstance(known["value"], np.ndarray):
                    known["count"] = len(cast("fields.Array", known["value"]))
                known["char_value"] = text.of_fields(known)
            else:
                end = None if timeout is None else time.monotonic() + timeout
                if not self.wait_for_connection(timeout):
                    return None
                everything = with_ctrlvars or not self._has_metadata
                left = None if end is None else max(end - time.monotonic(), 0.0)
                known = self._read("ctrl" if with_ctrlvars else form, count or self._count, left)
                told = known if everything else {name: known[name] for name in fields.brought(form, self.form)}
        except ReplyTimeoutError:
            return None
        if as_string or isinstance(known["value"], np.ndarray):
            told["value"] = self._as_asked(known, count or self._count, as_string, as_numpy)
        return SimpleNamespace(**told) if as_namespace else told

    def last_value(self, count: int | None = None) -> tuple[Any, float | None] | None:
        """Value and time of the last update of a running monitor, at most `count` elements of it; never waits.

        Returns:
            None where no monitor has brought one in this connection, or the PV's own form is another than "time". The
            time is None where the server tells none.
        """
        if self.form != "time" or not self._monitor.delivered:
            return None
        try:
            reading = self.chid.get(cached=True, timeout=0.0)
        except EpicsError:
            # Lost in this moment.
            return None
        value = reading.value
        if type(value) is not float:
            value = self._as_asked({"value": fields.of_value(value)}, count or self._count, False, True)
        return value, reading.timestamp

    def _last_update(self, timeout: float | None) -> Fields:
        # Native has it before the callbacks: what a put has changed when it is finished is read after it. The metadata
        # are those that came before.
        reading = self.chid.get(cached=True, timeout=timeout)
        return fields.of_reading(reading, self._protocol, self._args.copy())

    def _read(self, form: str, count: int | None, timeout: float | None) -> Fields:
        # Metadata that could not be read when it connected come with the first reading.
        reading = self.chid.get(form=_FORMS[form] if self._has_metadata else "ctrl", count=count, timeout=timeout)
        # A newer update of the monitor may have come meanwhile; a part of an array is not the value.
        return self._learn_from(reading, newest=count == self._count and not self._monitor.delivered)

    def _read_metadata(self, timeout: float | None) -> Fields:
        """Everything but an array's value."""
        assert self._info is not None, "a connected PV knows its type"
        request = fields.metadata_request(self._info)
        reading = self.chid.get(form="ctrl", count=0, request=request, timeout=timeout)
        is_scalar = not fields.is_array(self._info)
        return self._learn_from(reading, newest=not self._monitor.delivered, with_value=is_scalar)

    def _as_asked(self, known: Fields, count: int | None, as_string: bool, as_numpy: bool) -> Any:
        value = known["value"]
        if isinstance(value, np.ndarray):
            value = cast("fields.Array", value)[:count]
        if as_string:
            return text.of_fields({**known, "value": value})
        if isinstance(value, np.ndarray):
            # Native lends its buffer read-only; pyepics' users write into what they got.
            return cast("fields.Array", value).copy() if as_numpy else value.tolist()
        return value

    def _metadata(self) -> Fields:
        known = self._args.copy()
        del known["value"], known["char_value"]
        return known

    def get_all_metadata_blocking(self, timeout: float | None = None) -> Fields:
        """Everything but the value.

        Raises:
            NotConnectedError: Not connected within `timeout` seconds.
        """
        self._need_connection(timeout)
        return self._metadata()

    def get_all_metadata_callback(self, callback: Callable[[str, Fields], object], *, timeout: float | None) -> None:
        """Call `callback(pvname, metadata)` when they are known, and again with those of each later connection.

        Where a monitor runs, also when the IOC changes units, precision, choices or limits.

        `timeout` is there because ophyd gives it: nothing waits, so nothing can be late.
        """
        del timeout
        self._metadata_callbacks.append(callback)
        if self.connected:
            self._dispatcher.get_thread_context("metadata").run(
                callbacks.run, callback, self.pvname, self.pvname, self._metadata()
            )

    def get_ctrlvars(self, timeout: float | None = 5.0, warn: bool = True) -> Fields:
        """Ask the IOC for units, precision, choices, limits and alarm now.

        Raises:
            NotConnectedError, ReplyTimeoutError: It did not come within `timeout` seconds.
        """
        del warn
        self._need_connection(timeout)
        known = self._read_metadata(timeout)
        return {name: known[name] for name in (*fields.METADATA, "status", "severity")}

    def get_timevars(self, timeout: float | None = 5.0, warn: bool = True) -> Fields:
        """Ask the IOC for alarm and time now; raises as `get_ctrlvars` does."""
        del warn
        self._need_connection(timeout)
        known = self._read_metadata(timeout)
        return {name: known[name] for name in ("status", "severity", "timestamp", "posixseconds", "nanoseconds")}
