"""What ``create_pv`` returns."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from epicsrs_native import EpicsError, ReplyTimeoutError, get_context, get_delivery
from epicsrs_native.compat.shapes import description_of_0_8, info_of_0_8, reading_of_0_8, update_of_0_8, value_of_0_8

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from epicsrs_native import Channel, Reading, Subscription, Watch

logger = logging.getLogger("epicsrs.compat")


@contextmanager
def errors_of_0_8() -> Generator[None]:
    """TimeoutError for a server that does not reply, RuntimeError for what else the network does."""
    try:
        yield
    except ReplyTimeoutError:
        raise
    except EpicsError as error:
        raise RuntimeError(str(error)) from error


class EpicsRsPV:
    """One PV over Channel Access; ``channel`` is the way out of this module."""

    scheme = "ca://"

    def __init__(self, pvname: str) -> None:
        self.channel: Channel = get_context().channel(self.scheme + pvname)
        self._pvname = pvname
        self._monitor: Subscription | None = None
        self._watches: dict[str, Watch] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._pvname!r})"

    @property
    def pvname(self) -> str:
        """The name without its protocol."""
        return self._pvname

    def wait_for_connection(self, timeout: float) -> bool:
        """Whether it is connected within ``timeout`` seconds."""
        return get_context().connect_many([self.channel], timeout=timeout) == [None]

    async def connect_async(self, timeout: float = 5.0) -> bool:
        """Awaitable twin of ``wait_for_connection``."""
        return await get_context().connect_many_async([self.channel], timeout=timeout) == [None]

    def get_with_metadata(
        self,
        timeout: float = 2.0,
        form: str = "time",  # noqa: ARG002
        count: int = 0,
    ) -> dict[str, Any] | None:
        """A reading with all its metadata, whatever the form; None, and a line in the log, where that fails."""
        try:
            reading = self.channel.get(form="ctrl", count=count or None, timeout=timeout)
            return reading_of_0_8(reading, count or self.width(reading.value))
        except EpicsError as error:
            logger.warning("%s", error)
            return None

    def get_timevars(self, timeout: float = 1.0) -> dict[str, Any] | None:
        """The same as ``get_with_metadata``."""
        return self.get_with_metadata(timeout)

    def get_ctrlvars(self, timeout: float = 1.0) -> dict[str, Any] | None:
        """The same as ``get_with_metadata``."""
        return self.get_with_metadata(timeout)

    def get_channel_info(self) -> dict[str, Any]:
        """The channel's type, element count, server and access rights."""
        with errors_of_0_8():
            return info_of_0_8(self.channel.info())

    def connect_and_prefetch(self, timeout: float = 5.0) -> dict[str, Any] | None:
        """Both in one dict, the reading with its metadata and what ``get_channel_info`` gives; None where it fails."""
        return prefetched([self], timeout)[self._pvname]

    async def connect_and_prefetch_async(self, timeout: float = 5.0) -> None:
        """Connect. 0.8's manual has it, 0.8 itself does not."""
        with errors_of_0_8():
            await self.channel.connect_async(timeout=timeout)

    async def get_value_async(self, timeout: float = 10.0) -> Any:
        """The value alone; TimeoutError or RuntimeError where it cannot be read."""
        with errors_of_0_8():
            value = (await self.channel.get_async(timeout=timeout)).value
            return value_of_0_8(value, self.width(value))

    async def get_reading_async(self, timeout: float = 10.0, form: str = "time") -> dict[str, Any]:  # noqa: ARG002
        """What ``get_with_metadata`` gives; TimeoutError or RuntimeError where it cannot be read."""
        with errors_of_0_8():
            reading = await self.channel.get_async(form="ctrl", timeout=timeout)
            return reading_of_0_8(reading, self.width(reading.value))

    async def get_field_desc_async(self, timeout: float = 2.0) -> dict[str, Any] | None:
        """The types of a pvAccess structure, nested; None over Channel Access, and where there is no server."""
        try:
            structure = (await self.channel.info_async(timeout=timeout)).structure
        except EpicsError:
            return None
        return None if structure is None else description_of_0_8(structure)

    def put(
        self,
        value: object,
        wait: bool = False,
        timeout: float = 300.0,
        callback: Callable[..., object] | None = None,
    ) -> None:
        """Write; ``callback()`` follows a put that waits, ``callback(done)`` comes later for one that does not."""
        if callback is not None and not wait:
            submitted = get_delivery().submit(self.channel.put_async, value, timeout=timeout)
            submitted.add_done_callback(lambda end: callback(not end.cancelled() and end.exception() is None))
            return
        with errors_of_0_8():
            self.channel.put(value, wait=wait, timeout=timeout)
        if callback is not None:
            callback()

    async def put_async(self, value: object, timeout: float = 300.0) -> bool:
        """Write and wait for the record; True, for a failure is a TimeoutError or RuntimeError."""
        with errors_of_0_8():
            await self.channel.put_async(value, timeout=timeout)
        return True

    def set_monitor_callback(self, callback: Callable[..., object]) -> None:
        """Have ``callback(pvname=, value=, timestamp=, status=, severity=, char_value=)`` called, and no other."""
        self.clear_monitors()

        def update(reading: Reading) -> None:
            callback(pvname=self._pvname, **update_of_0_8(reading, self.width(reading.value)))

        self._monitor = self.channel.monitor(update, wait=False)

    add_monitor_callback = set_monitor_callback

    def clear_monitors(self) -> None:
        """No more updates."""
        if self._monitor is not None:
            self._monitor.close()

    def set_connection_callback(self, callback: Callable[[bool], object]) -> None:
        """Have ``callback(connected)`` called, now and at each change, in place of any before."""
        self._watch("connection", self.channel.on_connection(callback))

    def set_access_callback(self, callback: Callable[[bool, bool], object]) -> None:
        """Have ``callback(read, write)`` called at each change, in place of any before; (True, True) over pvAccess."""
        watch = self.channel.on_access(lambda read, write: callback(read is not False, write is not False))
        self._watch("access", watch)

    def disconnect(self) -> None:
        """Close the channel; this PV cannot be used any more."""
        self.channel.close()

    def width(self, value: Any) -> int | None:
        """How many elements an array of 0.8 has, where ``value`` is one and the server tells."""
        return self.channel.info().count if isinstance(value, (np.ndarray, list)) else None

    def _watch(self, what: str, watch: Watch) -> None:
        before = self._watches.pop(what, None)
        if before is not None:
            before.close()
        self._watches[what] = watch


class EpicsRsPvaPV(EpicsRsPV):
    """One PV over pvAccess."""

    scheme = "pva://"


def prefetched(pvs: Sequence[EpicsRsPV], timeout: float) -> dict[str, dict[str, Any] | None]:
    """What ``connect_and_prefetch`` gives for each PV, by its name; all are asked at once."""
    result: dict[str, dict[str, Any] | None] = {}
    readings = get_context().get_many([pv.channel for pv in pvs], form="ctrl", timeout=timeout)
    for pv, reading in zip(pvs, readings, strict=True):
        result[pv.pvname] = None
        if not isinstance(reading, EpicsError):
            info = pv.channel.info()
            result[pv.pvname] = reading_of_0_8(reading, info.count) | info_of_0_8(info)
    return result
