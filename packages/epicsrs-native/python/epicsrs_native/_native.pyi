from collections.abc import Callable, Iterable
from types import GenericAlias
from typing import Any, Generic, Literal, ParamSpec, Self, TypeAlias, final, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar, disjoint_base

from epicsrs_native.errors import EpicsError
from epicsrs_native.operation import Operation
from epicsrs_native.submitted import Submitted
from epicsrs_native.values import Structure

__all__ = [
    "ABI",
    "Channel",
    "Columns",
    "Context",
    "DeliveryQueue",
    "Info",
    "Limits",
    "Metadata",
    "Reading",
    "Subscription",
    "Ticket",
    "Watch",
    "__version__",
    "_exit",
    "_forked",
    "caught_panic_count",
    "configure",
    "get_context",
    "shutdown_all",
]

_Form: TypeAlias = Literal["value", "time", "ctrl"]
_Plain: TypeAlias = Literal["value", "time"]
_P = ParamSpec("_P")
_T = TypeVar("_T")
# What a reading has of metadata: with form="ctrl" all, with another form nothing.
_M_co = TypeVar("_M_co", bound=Metadata | None, default=Metadata | None, covariant=True)

ABI: tuple[int, int]
__version__: str

def get_context() -> Context: ...
def configure(**settings: str | list[str] | tuple[str, ...] | float | bool | None) -> None: ...
def shutdown_all() -> None: ...
def caught_panic_count() -> int: ...
def _exit() -> None: ...
def _forked() -> None: ...

@final
class Context:
    @property
    def config(self) -> dict[str, str]: ...
    def channel(self, pv: str) -> Channel: ...
    def connect_many(self, channels: Iterable[Channel], *, timeout: float | None = 5.0) -> list[EpicsError | None]: ...
    def connect_many_async(
        self, channels: Iterable[Channel], *, timeout: float | None = 5.0
    ) -> Operation[list[EpicsError | None]]: ...
    @overload
    def get_many(  # pyright: ignore[reportOverlappingOverload]
        self,
        channels: Iterable[Channel],
        *,
        form: _Plain = "time",
        count: int | None = None,
        columns: Literal[False] = False,
        timeout: float | None = 5.0,
    ) -> list[Reading[None] | EpicsError]: ...
    @overload
    def get_many(  # pyright: ignore[reportOverlappingOverload]
        self,
        channels: Iterable[Channel],
        *,
        form: Literal["ctrl"],
        count: int | None = None,
        columns: Literal[False] = False,
        timeout: float | None = 5.0,
    ) -> list[Reading[Metadata] | EpicsError]: ...
    @overload
    def get_many(
        self,
        channels: Iterable[Channel],
        *,
        form: _Form,
        count: int | None = None,
        columns: Literal[False] = False,
        timeout: float | None = 5.0,
    ) -> list[Reading | EpicsError]: ...
    @overload
    def get_many(
        self,
        channels: Iterable[Channel],
        *,
        form: _Form = "time",
        count: int | None = None,
        columns: Literal[True],
        timeout: float | None = 5.0,
    ) -> Columns: ...
    @overload
    def get_many_async(  # pyright: ignore[reportOverlappingOverload]
        self,
        channels: Iterable[Channel],
        *,
        form: _Plain = "time",
        count: int | None = None,
        columns: Literal[False] = False,
        timeout: float | None = 5.0,
    ) -> Operation[list[Reading[None] | EpicsError]]: ...
    @overload
    def get_many_async(  # pyright: ignore[reportOverlappingOverload]
        self,
        channels: Iterable[Channel],
        *,
        form: Literal["ctrl"],
        count: int | None = None,
        columns: Literal[False] = False,
        timeout: float | None = 5.0,
    ) -> Operation[list[Reading[Metadata] | EpicsError]]: ...
    @overload
    def get_many_async(
        self,
        channels: Iterable[Channel],
        *,
        form: _Form,
        count: int | None = None,
        columns: Literal[False] = False,
        timeout: float | None = 5.0,
    ) -> Operation[list[Reading | EpicsError]]: ...
    @overload
    def get_many_async(
        self,
        channels: Iterable[Channel],
        *,
        form: _Form = "time",
        count: int | None = None,
        columns: Literal[True],
        timeout: float | None = 5.0,
    ) -> Operation[Columns]: ...
    def put_many(
        self,
        channels: Iterable[Channel],
        values: Iterable[object],
        *,
        wait: bool = True,
        timeout: float | None = 5.0,
    ) -> list[EpicsError | ValueError | TypeError | None]: ...
    def put_many_async(
        self,
        channels: Iterable[Channel],
        values: Iterable[object],
        *,
        wait: bool = True,
        timeout: float | None = 5.0,
    ) -> Operation[list[EpicsError | ValueError | TypeError | None]]: ...

@final
class Columns:
    @property
    def value(self) -> NDArray[np.float64] | NDArray[np.int64] | list[Any]: ...
    @property
    def timestamp_ns(self) -> NDArray[np.int64]: ...
    @property
    def severity(self) -> NDArray[np.int32]: ...
    @property
    def status(self) -> NDArray[np.int32]: ...
    @property
    def error(self) -> dict[str, EpicsError]: ...
    def __len__(self) -> int: ...

@final
class Channel:
    @property
    def pv(self) -> str: ...
    @property
    def protocol(self) -> Literal["ca", "pva"]: ...
    @property
    def connected(self) -> bool: ...
    @property
    def closed(self) -> bool: ...
    @property
    def refused(self) -> int: ...
    def connect(self, *, timeout: float | None = 5.0) -> None: ...
    def connect_async(self, *, timeout: float | None = 5.0) -> Operation[None]: ...
    @overload
    def get(
        self,
        *,
        form: _Plain = "time",
        count: int | None = None,
        cached: bool = False,
        string: bool = False,
        request: str | None = None,
        timeout: float | None = 5.0,
    ) -> Reading[None]: ...
    @overload
    def get(
        self,
        *,
        form: Literal["ctrl"],
        count: int | None = None,
        cached: bool = False,
        string: bool = False,
        request: str | None = None,
        timeout: float | None = 5.0,
    ) -> Reading[Metadata]: ...
    @overload
    def get(
        self,
        *,
        form: _Form,
        count: int | None = None,
        cached: bool = False,
        string: bool = False,
        request: str | None = None,
        timeout: float | None = 5.0,
    ) -> Reading: ...
    @overload
    def get_async(  # pyright: ignore[reportOverlappingOverload]
        self,
        *,
        form: _Plain = "time",
        count: int | None = None,
        cached: bool = False,
        string: bool = False,
        request: str | None = None,
        timeout: float | None = 5.0,
    ) -> Operation[Reading[None]]: ...
    @overload
    def get_async(  # pyright: ignore[reportOverlappingOverload]
        self,
        *,
        form: Literal["ctrl"],
        count: int | None = None,
        cached: bool = False,
        string: bool = False,
        request: str | None = None,
        timeout: float | None = 5.0,
    ) -> Operation[Reading[Metadata]]: ...
    @overload
    def get_async(
        self,
        *,
        form: _Form,
        count: int | None = None,
        cached: bool = False,
        string: bool = False,
        request: str | None = None,
        timeout: float | None = 5.0,
    ) -> Operation[Reading]: ...
    def put(
        self, value: object, *, wait: bool = True, request: str | None = None, timeout: float | None = 5.0
    ) -> None: ...
    def put_async(
        self, value: object, *, wait: bool = True, request: str | None = None, timeout: float | None = 5.0
    ) -> Operation[None]: ...
    @overload
    def monitor(
        self,
        callback: Callable[[Reading[None]], object] | None = None,
        *,
        form: _Plain = "time",
        mask: int | None = None,
        string: bool = False,
        request: str | None = None,
        delivery: DeliveryQueue | None = None,
        queue: int = 1000,
        queue_bytes: int = 67108864,
        wait: bool = True,
        timeout: float | None = 5.0,
    ) -> Subscription[None]: ...
    @overload
    def monitor(
        self,
        callback: Callable[[Reading[Metadata]], object] | None = None,
        *,
        form: Literal["ctrl"],
        mask: int | None = None,
        string: bool = False,
        request: str | None = None,
        delivery: DeliveryQueue | None = None,
        queue: int = 1000,
        queue_bytes: int = 67108864,
        wait: bool = True,
        timeout: float | None = 5.0,
    ) -> Subscription[Metadata]: ...
    @overload
    def monitor(
        self,
        callback: Callable[[Reading], object] | None = None,
        *,
        form: _Form,
        mask: int | None = None,
        string: bool = False,
        request: str | None = None,
        delivery: DeliveryQueue | None = None,
        queue: int = 1000,
        queue_bytes: int = 67108864,
        wait: bool = True,
        timeout: float | None = 5.0,
    ) -> Subscription: ...
    @overload
    def monitor_async(  # pyright: ignore[reportOverlappingOverload]
        self,
        callback: Callable[[Reading[None]], object] | None = None,
        *,
        form: _Plain = "time",
        mask: int | None = None,
        string: bool = False,
        request: str | None = None,
        delivery: DeliveryQueue | None = None,
        queue: int = 1000,
        queue_bytes: int = 67108864,
        wait: bool = True,
        timeout: float | None = 5.0,
    ) -> Operation[Subscription[None]]: ...
    @overload
    def monitor_async(  # pyright: ignore[reportOverlappingOverload]
        self,
        callback: Callable[[Reading[Metadata]], object] | None = None,
        *,
        form: Literal["ctrl"],
        mask: int | None = None,
        string: bool = False,
        request: str | None = None,
        delivery: DeliveryQueue | None = None,
        queue: int = 1000,
        queue_bytes: int = 67108864,
        wait: bool = True,
        timeout: float | None = 5.0,
    ) -> Operation[Subscription[Metadata]]: ...
    @overload
    def monitor_async(
        self,
        callback: Callable[[Reading], object] | None = None,
        *,
        form: _Form,
        mask: int | None = None,
        string: bool = False,
        request: str | None = None,
        delivery: DeliveryQueue | None = None,
        queue: int = 1000,
        queue_bytes: int = 67108864,
        wait: bool = True,
        timeout: float | None = 5.0,
    ) -> Operation[Subscription]: ...
    def info(self, *, timeout: float | None = 5.0) -> Info: ...
    def info_async(self, *, timeout: float | None = 5.0) -> Operation[Info]: ...
    def on_connection(self, callback: Callable[[bool], object], *, delivery: DeliveryQueue | None = None) -> Watch: ...
    def on_access(
        self, callback: Callable[[bool | None, bool | None], object], *, delivery: DeliveryQueue | None = None
    ) -> Watch: ...
    def on_error(self, callback: Callable[[EpicsError], object], *, delivery: DeliveryQueue | None = None) -> Watch: ...
    def close(self) -> None: ...

@final
class Subscription(Generic[_M_co]):
    @classmethod
    def __class_getitem__(cls, key: Any) -> GenericAlias: ...
    @property
    def pv(self) -> str: ...
    @property
    def closed(self) -> bool: ...
    @property
    def paused(self) -> bool: ...
    @property
    def dropped(self) -> int: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None: ...
    def __aiter__(self) -> Subscription[_M_co]: ...
    def __anext__(self) -> Operation[Reading[_M_co]]: ...

@final
class Watch:
    @property
    def pv(self) -> str: ...
    @property
    def closed(self) -> bool: ...
    def close(self) -> None: ...

@final
class Reading(Generic[_M_co]):
    @classmethod
    def __class_getitem__(cls, key: Any) -> GenericAlias: ...
    @property
    def value(self) -> Any: ...
    @property
    def timestamp(self) -> float | None: ...
    @property
    def timestamp_ns(self) -> int | None: ...
    @property
    def severity(self) -> int | None: ...
    @property
    def status(self) -> int | None: ...
    @property
    def message(self) -> str | None: ...
    @property
    def metadata(self) -> _M_co: ...
    @property
    def fields(self) -> Structure | None: ...
    @property
    def age(self) -> float | None: ...

@final
class Metadata:
    @property
    def units(self) -> str | None: ...
    @property
    def precision(self) -> int | None: ...
    @property
    def choices(self) -> tuple[str, ...] | None: ...
    @property
    def limits(self) -> Limits | None: ...
    @property
    def description(self) -> str | None: ...

@final
class Limits:
    @property
    def display(self) -> tuple[float, float] | None: ...
    @property
    def control(self) -> tuple[float, float] | None: ...
    @property
    def warning(self) -> tuple[float, float] | None: ...
    @property
    def alarm(self) -> tuple[float, float] | None: ...

@final
class Info:
    @property
    def pv(self) -> str: ...
    @property
    def protocol(self) -> Literal["ca", "pva"]: ...
    @property
    def address(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def count(self) -> int | None: ...
    @property
    def readable(self) -> bool | None: ...
    @property
    def writable(self) -> bool | None: ...
    @property
    def circuit(self) -> Literal["connected", "unresponsive"]: ...
    @property
    def structure(self) -> Structure | None: ...

@disjoint_base
class DeliveryQueue:
    def __new__(cls, name: str = ...) -> Self: ...
    @property
    def name(self) -> str: ...
    @property
    def closed(self) -> bool: ...
    @property
    def pending(self) -> int: ...
    def call(self, function: Callable[..., object], *args: object) -> None: ...
    def submit(self, call: Callable[_P, Operation[_T]], *args: _P.args, **kwargs: _P.kwargs) -> Submitted[_T]: ...
    def take(
        self, *, timeout: float | None = None
    ) -> list[tuple[Callable[..., object], tuple[Any, ...], Subscription | Watch | None]] | None: ...
    def hand_on_logs(self) -> None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...

@final
class Ticket:
    def withdraw(self) -> None: ...
