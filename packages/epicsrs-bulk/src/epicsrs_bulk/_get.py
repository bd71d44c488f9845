"""The values of many PVs, without their evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from epicsrs_bulk._read import BulkRead, bulk_read, bulk_read_async
from epicsrs_native import EpicsError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    from epicsrs_native import Channel

    OnError: TypeAlias = Literal["raise", "return"]


def bulk_get(
    pvs: Iterable[str | Channel], *, on_error: OnError = "raise", timeout: float | None = 5.0
) -> dict[str, Any]:
    """The value of each PV, by name and in the order given; one bulk read.

    Args:
        pvs: As for ``bulk_read``.
        on_error: ``"raise"``, or ``"return"``: the EpicsError stands in the place of the value.
        timeout: Seconds for the whole call, connections included; None waits for ever.

    Raises:
        EpicsError: A PV did not connect or reply in time, or its server refused; a note names the others that failed.
        TypeError: As ``bulk_read``.
        ValueError: As ``bulk_read``; or ``on_error`` is neither word.
    """
    check_on_error(on_error)
    return _values(bulk_read(pvs, timeout=timeout), on_error)


async def bulk_get_async(
    pvs: Iterable[str | Channel], *, on_error: OnError = "raise", timeout: float | None = 5.0
) -> dict[str, Any]:
    """Awaitable twin of ``bulk_get``."""
    check_on_error(on_error)
    return _values(await bulk_read_async(pvs, timeout=timeout), on_error)


def bulk_caget(pvs: Iterable[str | Channel], timeout: float | None = 5.0) -> dict[str, Any]:
    """The value of each PV, and None for those that cannot be read, as code that knows this name expects it."""
    answers = bulk_read(pvs, timeout=timeout).answers
    return {pv: None if isinstance(answer, EpicsError) else answer.value for pv, answer in answers.items()}


def check_on_error(on_error: str) -> None:
    """ValueError where it is neither ``"raise"`` nor ``"return"``."""
    if on_error not in ("raise", "return"):
        raise ValueError(f"on_error is 'raise' or 'return', not {on_error!r}")


def _values(result: BulkRead, on_error: OnError) -> dict[str, Any]:
    if on_error == "raise":
        result.raise_first()
    return {pv: answer if isinstance(answer, EpicsError) else answer.value for pv, answer in result.answers.items()}
