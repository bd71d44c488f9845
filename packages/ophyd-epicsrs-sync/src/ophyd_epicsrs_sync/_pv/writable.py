"""A PV that is written."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from ophyd_epicsrs_sync._pv import coercion, fields
from ophyd_epicsrs_sync._pv.completion import Completion
from ophyd_epicsrs_sync._pv.state import State

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from ophyd_epicsrs_sync._pv.putter import Putter


class Writable(State):
    """The puts of a PV."""

    # None for a put whose completion nobody has asked for.
    put_complete: bool | None
    putter: Putter
    # What ends the puts that are not finished yet.
    pending: set[Completion]

    def put(
        self,
        value: Any,
        wait: bool = False,
        timeout: float | None = None,
        use_complete: bool = False,
        callback: Callable[..., object] | None = None,
        callback_data: Any = None,
    ) -> int:
        """Write the PV; in the order of this thread's puts and gets, to all PVs of one Channel Access server.

        Args:
            value: What `coercion.coerce` makes a value of the PV's type.
            wait: Return when the record has finished processing. Otherwise return at once.
            timeout: Seconds for the connection, and for the processing where somebody waits for it; None is for ever.
            use_complete: Have the server tell when the processing is finished, for `callback` and `put_complete`.
            callback: Called on the get_put lane when it is, with `pvname=` and `data=`; implies `use_complete`.
            callback_data: For `data=`, or a dict of keyword arguments instead.

        Returns:
            1, as pyepics does for a put that did not fail.

        Raises:
            ValueError, TypeError: The value does not fit.
            NotConnectedError, ReplyTimeoutError, RemoteError: What became of the put, where the call waited for it;
                otherwise the callback hears of it if it has a method `failed(error)`, and the log if not.
        """
        self._need_connection(timeout)
        assert self._info is not None, "a connected PV knows its type"
        value = coercion.coerce(
            self.pvname,
            value,
            kind=fields.element(self._info),
            count=1 if not fields.is_array(self._info) else self._info.count,
            choices=self._args["enum_strs"],
        )
        if wait:
            self.put_complete = False
            self.chid.put(value, timeout=timeout)
            self.put_complete = True
            if callback is not None:
                get_put = self._dispatcher.lane("get_put").delivery
                get_put.call(Completion(self, value, callback, callback_data).succeeded)
        elif use_complete or callback is not None:
            self.put_complete = False
            get_put = self._dispatcher.lane("get_put").delivery
            completion = Completion(self, value, callback, callback_data)
            submitted = get_put.submit(self.chid.put_async, value, timeout=timeout)
            self.pending.add(completion)
            submitted.add_done_callback(completion)
        else:
            self.put_complete = None
            if self._protocol == "ca":
                self.putter.put(self.chid, value, timeout)
            else:
                # A refusal is raised here.
                self.chid.put(value, wait=False, timeout=timeout)
        return 1

    def _lose_write_access(self) -> None:
        """Fail the puts that are not finished, in their turn."""
        get_put = self._dispatcher.lane("get_put").delivery
        for completion in list(self.pending):
            get_put.call(completion.lose_access)

    def putting_alone(self) -> AbstractContextManager[None]:
        """Puts between are told of their own refusals, and of no other PV's of this name."""
        if self._protocol == "ca":
            return self.putter.alone(self.chid)
        return nullcontext()
