"""The signal backends: ophyd-async's SignalBackend over native channels."""

import os
import time
from typing import Any, ClassVar, Literal, TypeVar

from bluesky.protocols import Reading
from event_model import DataKey
from ophyd_async.core import Callback, NotConnectedError, SignalBackend, SignalDatatypeT, wait_for_connection
from ophyd_async.epics.core import EpicsOptions

import epicsrs_native
from epicsrs_native import Operation

from ._address import Address, Protocol, parse_pv, source_of
from ._channels import Channels
from ._converter import Converter, make_converter
from ._datakey import datakey
from ._monitor import Monitor
from ._shape import Kind, Shape

T = TypeVar("T")
U = TypeVar("U")

# Updates that may wait for an event loop that is busy.
_KEEP_ALL = 100_000


class EpicsRsSignalBackend(SignalBackend[SignalDatatypeT]):
    """A signal over one PV, or over one to read and one to write.

    Nothing happens on the network before `connect`. `read_pv`, `write_pv` and `options` may be set at any time and
    hold from the next call on.

    Args:
        datatype: What the values are; None takes what the PVs carry.
        read_pv: `NAME`, `ca://NAME` or `pva://NAME`; a bare name is a Channel Access one.
        write_pv: The same, for puts and setpoints.
        options: Whether a put waits until the record has finished processing.

    Attributes:
        mark_disconnected: Whether a monitor whose PV loses its server delivers its last value once more, with severity
            -1 and the time of the loss by this machine's clock. Without, the last value stands as it was. Set it on
            the class for all signals, or on one backend; it holds from the next callback on.
    """

    default_protocol: ClassVar[Protocol] = "ca"
    mark_disconnected: bool = False

    def __init__(
        self,
        datatype: type[SignalDatatypeT] | None,
        read_pv: str = "",
        write_pv: str = "",
        options: EpicsOptions[Any] | None = None,
    ) -> None:
        self.read_pv = read_pv
        self.write_pv = write_pv
        self.options: EpicsOptions[Any] = options or EpicsOptions()
        self._keep_all = os.environ.get("OPHYD_ASYNC_EPICS_CA_KEEP_ALL_UPDATES", "True") == "True"
        self._channels = Channels()
        self._converter: Converter | None = None
        self._initial: dict[Address, Any] = {}
        self._monitor: Monitor | None = None
        super().__init__(datatype)

    @property
    def dropped(self) -> int:
        """How many updates the running monitor has dropped because the event loop was too slow for them."""
        return 0 if self._monitor is None else self._monitor.dropped

    def source(self, name: str, read: bool) -> str:  # noqa: ARG002 (ophyd-async's signature)
        """The PV with its scheme; `name` does not matter."""
        return source_of(self.read_pv if read else self.write_pv, self.default_protocol)

    async def connect(self, timeout: float) -> None:
        """Find the PVs and check that they carry the datatype.

        Args:
            timeout: Seconds for both PVs together.

        Raises:
            NotConnectedError: A PV was not found, or did not answer, in time; it names which.
            TypeError: A PV carries something else, or the two differ.
        """
        exact = (
            self._read_address.protocol == "ca" or self._read_address != self._write_address or self.datatype is bool
        )
        try:
            self._converter = make_converter(self.datatype, await self._look(timeout, exact))
        except TypeError:
            if exact:
                raise
            self._converter = make_converter(self.datatype, await self._look(timeout, exact=True))

    async def put(self, value: SignalDatatypeT | None) -> None:
        """Write to the write PV, and wait as `options.wait` says.

        Args:
            value: None writes the value that the write PV had at `connect`, so that the record processes.

        Raises:
            ValueError: The PV cannot hold the value; an unknown label of an enum is one.
            TypeError: A value of another type.
            EpicsError: The server refused, or the circuit was lost before the completion.
        """
        address, converter = self._write_address, self._known_converter
        if value is None and converter.kind is not Kind.IMAGE:
            native = self._initial_value(address)
        else:
            native = converter.write(value)
        wait = self.options.wait
        if callable(wait):
            wait = wait(converter.read(native) if value is None else value)
        channel = self._channels[address] if wait else self._channels.watched(address)
        try:
            await channel.put_async(native, wait=bool(wait), timeout=None)
        except ValueError as error:
            if converter.choices is None or not isinstance(value, str) or value in converter.choices:
                raise
            raise ValueError(
                f"{value} is not a valid choice for {address}, valid choices: {list(converter.choices)}"
            ) from error

    async def get_datakey(self, source: str) -> DataKey:
        """Describe the read PV as it is now."""
        return datakey(self._known_converter, await self._get(self._read_address, "ctrl"), source)

    async def get_reading(self) -> Reading[SignalDatatypeT]:
        """Read value, time and alarm severity of the read PV."""
        return _reading(self._known_converter, await self._get(self._read_address, "time"))

    async def get_value(self) -> SignalDatatypeT:
        """Read the read PV's value."""
        return self._known_converter.read((await self._get(self._read_address, "value")).value)

    async def get_setpoint(self) -> SignalDatatypeT:
        """Read the write PV's value."""
        return self._known_converter.read((await self._get(self._write_address, "value")).value)

    def set_callback(self, callback: Callback[Reading[SignalDatatypeT]] | None) -> None:
        """Have each update of the read PV delivered in the running loop, the present value first; None ends that.

        Raises:
            RuntimeError: There is a callback already, or no running loop.
            NotConnectedError: `connect` has not succeeded yet.
        """
        if callback is None:
            if self._monitor is not None:
                self._monitor.close()
                self._monitor = None
            return
        if self._monitor is not None:
            raise RuntimeError("Cannot set a callback when one is already set")
        address, converter = self._read_address, self._known_converter
        # The variable's name says for which protocol it is.
        queue = 1 if address.protocol == "ca" and not self._keep_all else _KEEP_ALL
        last: list[Reading[Any]] = []

        def update(reading: epicsrs_native.Reading) -> None:
            last[:] = [_reading(converter, reading)]
            callback(last[0])

        def lose() -> None:
            if last:
                callback({"value": last[0]["value"], "timestamp": time.time(), "alarm_severity": -1})

        self._monitor = Monitor(address, update, lose if self.mark_disconnected else None, queue)

    @property
    def _read_address(self) -> Address:
        return parse_pv(self.read_pv, self.default_protocol)

    @property
    def _write_address(self) -> Address:
        return parse_pv(self.write_pv, self.default_protocol)

    @property
    def _known_converter(self) -> Converter:
        if self._converter is None:
            raise NotConnectedError(f"{self._read_address}: connect() has not been called")
        return self._converter

    async def _look(self, timeout: float, exact: bool) -> list[Shape]:
        """What the PVs carry, the read PV first; `exact` asks them also for the width of numbers."""
        read, write = self._read_address, self._write_address
        if read == write:
            return [await self._look_at(read, timeout, exact)]
        shapes: dict[Address, Shape] = {}

        async def look(address: Address) -> None:
            shapes[address] = await self._look_at(address, timeout, exact)

        await wait_for_connection(read_pv=look(read), write_pv=look(write))
        return [shapes[read], shapes[write]]

    async def _look_at(self, address: Address, timeout: float, exact: bool) -> Shape:
        # No local name for the channel: a traceback would keep it, and its search, alive.
        try:
            reading = self._channels[address].get_async(form="ctrl", timeout=timeout)
            if exact:
                reading, info = await _both(reading, self._channels[address].info_async(timeout=timeout))
            else:
                reading, info = await reading, None
        except epicsrs_native.NotConnectedError as error:
            self._channels.close(address)
            raise NotConnectedError(str(address)) from error
        except epicsrs_native.ReplyTimeoutError as error:
            raise NotConnectedError(str(error)) from error
        self._initial[address] = reading.value
        return Shape.of(address, reading, info)

    def _initial_value(self, address: Address) -> Any:
        if address not in self._initial:
            raise NotConnectedError(f"{address}: connect() has not read a value to write back")
        return self._initial[address]

    def _get(self, address: Address, form: Literal["value", "time", "ctrl"]) -> Operation[epicsrs_native.Reading]:
        return self._channels[address].get_async(form=form, timeout=None)


class EpicsRsCaSignalBackend(EpicsRsSignalBackend[SignalDatatypeT]):
    """The same; a bare name is a Channel Access one."""

    default_protocol = "ca"


class EpicsRsPvaSignalBackend(EpicsRsSignalBackend[SignalDatatypeT]):
    """The same; a bare name is a pvAccess one."""

    default_protocol = "pva"


async def _both(first: Operation[T], second: Operation[U]) -> tuple[T, U]:
    """Both answers; where one fails, the other is given up."""
    try:
        return await first, await second
    finally:
        for operation in (first, second):
            # What nobody looks at, asyncio reports.
            if not operation.cancel() and not operation.cancelled():
                operation.exception()


def _reading(converter: Converter, reading: epicsrs_native.Reading) -> Reading[Any]:
    """A bluesky Reading: severity -1 stands for all that is worse than major.

    A server that stamps nothing leaves the time of arrival by this machine's clock; one without alarms, no severity.
    """
    timestamp = time.time() if reading.timestamp is None else reading.timestamp
    made: Reading[Any] = {"value": converter.read(reading.value), "timestamp": timestamp}
    if reading.severity is not None:
        made["alarm_severity"] = -1 if reading.severity > 2 else reading.severity
    return made
