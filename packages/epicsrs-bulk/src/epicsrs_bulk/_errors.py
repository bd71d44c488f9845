"""What can become of a flight, as exceptions. What the network does to a PV is an EpicsError, here as the cause."""

from __future__ import annotations


class FlightError(RuntimeError):
    """A flight could not begin, or was asked for something out of turn; ``flyer`` is its name."""

    def __init__(self, message: str, flyer: str = "") -> None:
        super().__init__(message)
        self.flyer = flyer

    def __reduce__(self) -> tuple[type[FlightError], tuple[str, ...]]:
        return type(self), (str(self.args[0]), self.flyer)


class FlightTimeoutError(FlightError, TimeoutError):
    """The IOC did not say within the timeout that the flight is done; it was disarmed."""


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

    def __reduce__(self) -> tuple[type[FlightError], tuple[str, ...]]:
        return type(self), (str(self.args[0]), self.flyer, *self.problems)
