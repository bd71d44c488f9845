"""The EPICS client: Channel Access and pvAccess behind one Channel, for threads and for asyncio."""

from __future__ import annotations

from epicsrs_native._native import (
    ABI,
    Channel,
    Columns,
    Context,
    Info,
    Limits,
    Metadata,
    Reading,
    Subscription,
    Watch,
    __version__,
    caught_panic_count,
    configure,
    get_context,
    shutdown_all,
)
from epicsrs_native.delivery import Delivery, get_delivery
from epicsrs_native.errors import AccessDeniedError, EpicsError, NotConnectedError, RemoteError, ReplyTimeoutError
from epicsrs_native.values import DBE_ALARM, DBE_LOG, DBE_PROPERTY, DBE_VALUE, EnumValue, Structure, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from epicsrs_native.operation import Operation
    from epicsrs_native.submitted import Submitted

__all__ = [
    "ABI",
    "DBE_ALARM",
    "DBE_LOG",
    "DBE_PROPERTY",
    "DBE_VALUE",
    "AccessDeniedError",
    "Channel",
    "Columns",
    "Context",
    "Delivery",
    "EnumValue",
    "EpicsError",
    "Info",
    "Limits",
    "Metadata",
    "NotConnectedError",
    "Operation",
    "Reading",
    "RemoteError",
    "ReplyTimeoutError",
    "Structure",
    "Submitted",
    "Subscription",
    "Table",
    "Watch",
    "__version__",
    "caught_panic_count",
    "configure",
    "get_context",
    "get_delivery",
    "require_abi",
    "shutdown_all",
]


def require_abi(major: int, minor: int, who: str) -> None:
    """Refuse to go on with an installed epicsrs-native that ``who`` was not written for.

    Serves sites that overlay paths or install without dependencies: there, no resolver has compared the versions.

    Args:
        major: The major version that ``who`` needs, exactly.
        minor: The lowest minor version that ``who`` needs.
        who: The distribution that asks, as its user knows it.

    Raises:
        ImportError: Another major or a lower minor version is installed; the message names both and the folder.
    """
    if ABI[0] != major or ABI[1] < minor:
        raise ImportError(
            f"{who} needs epicsrs-native>={major}.{minor},<{major + 1}; found {__version__} at {__path__[0]}",
            name=__name__,
            path=__path__[0],
        )


def __getattr__(name: str) -> object:
    # Futures of asyncio and concurrent.futures: who does not use them does not pay for importing them.
    if name == "Operation":
        from epicsrs_native.operation import Operation

        return Operation
    if name == "Submitted":
        from epicsrs_native.submitted import Submitted

        return Submitted
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
