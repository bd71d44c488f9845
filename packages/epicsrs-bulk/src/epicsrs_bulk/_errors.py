"""What can become of a flight or a waveform, as exceptions. What the network does to a PV is an EpicsError."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from epicsrs_native import EpicsError

if TYPE_CHECKING:
    from epicsrs_bulk._read import BulkRead


class ShortWaveformError(EpicsError, TimeoutError):
    """A waveform did not get as long as it was wanted within the timeout.

    Attributes:
        pv: The first PV that was too short.
        got: How many elements it had.
        wanted: How many were wanted.
        readings: What was read last, of all PVs.
    """

    def __init__(self, pv: str, got: int, wanted: int, timeout: float, readings: BulkRead) -> None:
        super().__init__(f"{pv}: {got} elements within {timeout:g} s, {wanted} wanted", pv)
        self.got = got
        self.wanted = wanted
        self.timeout = timeout
        self.readings = readings

    def __reduce__(self) -> tuple[type[EpicsError], tuple[object, ...]]:  # pyright: ignore[reportIncompatibleMethodOverride] (other arguments)
        return type(self), (self.pv, self.got, self.wanted, self.timeout, self.readings)


class FlightError(RuntimeError):
    """A flight could not begin, or was asked for something out of turn; ``flyer`` is its name."""

    def __init__(self, message: str, flyer: str = "") -> None:
        super().__init__(message)
        self.flyer = flyer

    def __reduce__(self) -> tuple[type[FlightError], tuple[Any, ...]]:
        return type(self), (str(self.args[0]), self.flyer)


class FlightTimeoutError(FlightError, TimeoutError):
    """The IOC did not say within the timeout that the flight is done; it was disarmed."""


class FlightFileError(FlightError, OSError):
    """The file for a flight's rows could not be made, or written to its end.

    Attributes:
        path: The file.
        page: The rows that could not be written, as a partial EventPage; None where there were none.
    """

    def __init__(self, message: str, flyer: str = "", path: str = "", page: dict[str, Any] | None = None) -> None:
        super().__init__(message, flyer)
        self.path = path
        self.page = page

    def __reduce__(self) -> tuple[type[FlightError], tuple[Any, ...]]:
        return type(self), (str(self.args[0]), self.flyer, self.path, self.page)


class FlightStoppedError(FlightError):
    """The flight was broken off before it was done; what had been measured is collected once."""


class FlightDataError(FlightError):
    """The flight is done, but some of its data is missing or doubtful; the rest is collected as usual.

    Attributes:
        problems: One line for each PV concerned, which begins with its name.
    """

    def __init__(self, message: str, flyer: str = "", *problems: str) -> None:
        super().__init__(message, flyer)
        self.problems = problems

    def __reduce__(self) -> tuple[type[FlightError], tuple[Any, ...]]:
        return type(self), (str(self.args[0]), self.flyer, *self.problems)
