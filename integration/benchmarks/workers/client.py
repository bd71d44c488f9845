"""What a worker's client can do, in one shape for all of them."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias

Update: TypeAlias = Callable[[Any], None]


def name(pv: str) -> str:
    """The PV's name without its protocol."""
    return pv.partition("://")[2]


class Client(ABC):
    """One client library. Each method hands out the library's own call, so that the loops in measurements.py time that.

    PVs come as ``ca://NAME`` or ``pva://NAME``. Readings and updates are whatever the library gives; ``value`` and
    ``timestamp`` look into them.
    """

    # False where the library only has awaitable calls.
    blocking = True

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def begin(self) -> None:  # noqa: B027 (some have none)
        """Make the library's context, where it has one; nothing is connected yet."""

    def wait(self, seconds: float) -> None:
        """Let updates come in."""
        if self.blocking:
            time.sleep(seconds)
        else:
            self.loop.run_until_complete(asyncio.sleep(seconds))

    def read(self, pv: str) -> Any:
        """The value of one PV, now."""
        if self.blocking:
            return self.value(self.getter(pv)())
        return self.value(self.loop.run_until_complete(self.async_getter(pv)()))

    @abstractmethod
    def value(self, reading: Any) -> Any:
        """The value in a reading or an update."""

    @abstractmethod
    def timestamp(self, reading: Any) -> float:
        """The IOC's time in an update."""

    def connect(self, pv: str, timeout: float) -> None:
        """Block until one PV is connected."""
        raise NotImplementedError

    def connect_all(self, pvs: Sequence[str], timeout: float) -> None:
        """Block until many PVs are connected, and keep them so."""
        raise NotImplementedError

    def bulk_getter(self, pvs: Sequence[str], timeout: float) -> Callable[[], Any]:
        """A call that reads many PVs at once and blocks; the first call may connect them."""
        raise NotImplementedError

    def bulk_values(self, result: Any) -> Iterable[float]:
        """The values in what that call gives, in the order of the PVs."""
        return [self.value(reading) for reading in result]

    def getter(self, pv: str, timeout: float = 5.0) -> Callable[[], Any]:
        """A call that reads value, alarm and time stamp from the IOC and blocks."""
        raise NotImplementedError

    def async_getter(self, pv: str) -> Callable[[], Awaitable[Any]]:
        """The same, awaited on ``loop``."""
        raise NotImplementedError

    def async_getters(self, pvs: Sequence[str]) -> list[Callable[[], Awaitable[Any]]]:
        """The same for many PVs."""
        return [self.async_getter(pv) for pv in pvs]

    def putter(self, pv: str, timeout: float = 5.0) -> Callable[[float], object]:
        """A call that writes and blocks until the record has been processed."""
        raise NotImplementedError

    def async_putter(self, pv: str) -> Callable[[float], Awaitable[object]]:
        """The same, awaited on ``loop``."""
        raise NotImplementedError

    def sender(self, pv: str) -> Callable[[float], object]:
        """A blocking call that writes without waiting for the IOC."""
        raise NotImplementedError

    def async_sender(self, pv: str) -> Callable[[float], Awaitable[object]]:
        """A call on ``loop`` whose write goes out although nobody awaits its result."""
        raise NotImplementedError

    def monitor(self, pvs: Sequence[str], update: Update) -> Callable[[], None]:
        """Subscribe to PVs; returns the call that ends the subscriptions."""
        raise NotImplementedError

    def watch_images(self, pv: str, update: Update) -> Callable[[], None]:
        """Subscribe to an NTNDArray; ``value`` of an update has its shape."""
        return self.monitor([pv], update)
