"""What the parts of a PV share."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING, cast

import numpy as np

from epicsrs_native import NotConnectedError
from ophyd_epicsrs_sync._pv import fields

if TYPE_CHECKING:
    from epicsrs_native import Channel, Info, Metadata, Reading
    from ophyd_epicsrs_sync._dispatcher import Dispatcher
    from ophyd_epicsrs_sync._pv.connection import Connection
    from ophyd_epicsrs_sync._pv.fields import Fields
    from ophyd_epicsrs_sync._pv.monitor import Monitor


class State(ABC):
    """A PV's channel, its connection, its monitor, and what is known of it."""

    pvname: str
    form: str
    chid: Channel
    _protocol: str
    _dispatcher: Dispatcher
    _connection: Connection
    _monitor: Monitor
    _info: Info | None
    # Whether this connection has brought metadata, and the last that came.
    _has_metadata: bool
    _metadata_known: Metadata | None
    # pyepics' words; set as a whole or by dict.update, so that every thread sees one reading's fields together.
    _args: Fields

    @property
    def connected(self) -> bool:
        """Whether the server serves the PV, and its type and metadata are known."""
        return self._connection.connected

    def wait_for_connection(self, timeout: float | None = None) -> bool:
        """Whether it is connected within `timeout` seconds; None waits for ever."""
        return self._connection.wait(timeout)

    def _need_connection(self, timeout: float | None) -> None:
        if not self.wait_for_connection(timeout):
            raise NotConnectedError(f"{self.pvname}: not connected within {timeout} s", self.pvname)

    def _learn_from(
        self, reading: Reading, *, newest: bool, with_value: bool = True, count: int | None = None
    ) -> Fields:
        """All fields, with what the reading brings; its value, alarm and time are kept if they are the newest.

        Without `with_value`, the reading was asked for the rest only. At most `count` elements of an array are kept.
        """
        new = fields.of_reading(reading, self._protocol, {})
        if isinstance(new["value"], np.ndarray):
            new["value"] = cast("fields.Array", new["value"])[:count]
        if not with_value:
            del new["value"]
        metadata = reading.metadata
        if metadata is not None:
            # Each update carries them, and they hardly ever change.
            if metadata != self._metadata_known:
                self._args.update(fields.of_metadata(metadata))
                self._metadata_known = metadata
            self._has_metadata = True
        if newest:
            self._args.update(new)
        return {**self._args, **new}
