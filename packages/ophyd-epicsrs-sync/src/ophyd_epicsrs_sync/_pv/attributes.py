"""pyepics' PV attributes: each is one field of the PV, read from the IOC when it is not known yet."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ophyd_epicsrs_sync._pv import alarm, text
from ophyd_epicsrs_sync._pv.state import State

if TYPE_CHECKING:
    from ophyd_epicsrs_sync._pv import fields

_OF_A_READING = ("value", "status", "severity", "timestamp", "posixseconds", "nanoseconds")


def _field(name: str, meaning: str) -> Any:
    """A read-only attribute; None where the PV is not connected in time, or has no such thing."""

    def read(self: Attributes) -> Any:
        return self._known(name)  # pyright: ignore[reportPrivateUsage]

    return property(read, doc=meaning)


class Attributes(State):
    """The fields of a PV as attributes."""

    connection_timeout: float | None

    @abstractmethod
    def get_with_metadata(self, *arguments: Any, **keywords: Any) -> Any: ...
    @abstractmethod
    def put(self, value: Any) -> Any: ...

    def _known(self, name: str) -> Any:
        if not self.connected and not self.wait_for_connection(self.connection_timeout):
            return None
        if name in _OF_A_READING and (self._args[name] is None or self._monitor.delivered):
            known = self.get_with_metadata(timeout=self.connection_timeout)
            return None if known is None else known.get(name, self._args[name])
        return self._args[name]

    @property
    def char_value(self) -> Any:
        """The value as text: with PREC digits, as an enum's label, as the text in an array of characters."""
        value = self._known("value")
        return text.of_fields({**self._args, "value": value})

    @property
    def count(self) -> Any:
        """How many elements the value has or, before it was read, may have."""
        value = self._args["value"]
        return len(cast("fields.Array", value)) if isinstance(value, np.ndarray) else self._known("count")

    @property
    def char_status(self) -> str | None:
        """The name of the alarm status."""
        status: int | None = self._known("status")
        return None if status is None else alarm.STATUSES[status]

    @property
    def char_severity(self) -> str | None:
        """The name of the alarm severity."""
        severity: int | None = self._known("severity")
        return None if severity is None else alarm.SEVERITIES[severity]

    access = _field("access", "Access rights in words, such as read-only.")
    enum_strs = _field("enum_strs", "An enum's labels.")
    host = _field("host", "The server's address and port.")
    lower_alarm_limit = _field("lower_alarm_limit", "LOLO, in the record's units.")
    lower_ctrl_limit = _field("lower_ctrl_limit", "The lowest value that may be put, in the record's units.")
    lower_disp_limit = _field("lower_disp_limit", "LOPR, in the record's units.")
    lower_warning_limit = _field("lower_warning_limit", "LOW, in the record's units.")
    nanoseconds = _field("nanoseconds", "What is left of the time stamp after its whole seconds.")
    nelm = _field("nelm", "How many elements the PV may hold; None where the server does not say.")
    posixseconds = _field("posixseconds", "Whole seconds of the time stamp since the UNIX epoch.")
    precision = _field("precision", "PREC: digits after the point.")
    read_access = _field("read_access", "Whether the server lets us read.")
    severity = _field("severity", "Alarm severity, 0 to 3.")
    status = _field("status", "Alarm status, as Channel Access numbers it.")
    timestamp = _field("timestamp", "The IOC's time of the value, seconds since the UNIX epoch.")
    type = _field("type", "The type in Channel Access's words, such as time_double.")
    typefull = _field("typefull", "The same as `type`.")
    units = _field("units", "EGU.")
    upper_alarm_limit = _field("upper_alarm_limit", "HIHI, in the record's units.")
    upper_ctrl_limit = _field("upper_ctrl_limit", "The highest value that may be put, in the record's units.")
    upper_disp_limit = _field("upper_disp_limit", "HOPR, in the record's units.")
    upper_warning_limit = _field("upper_warning_limit", "HIGH, in the record's units.")
    write_access = _field("write_access", "Whether the server lets us write.")
