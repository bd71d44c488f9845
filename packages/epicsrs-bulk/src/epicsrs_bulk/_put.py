"""Many PVs written, or connected, at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from epicsrs_bulk._channels import channels
from epicsrs_bulk._get import check_on_error
from epicsrs_bulk._read import again, checked_pvs, name_of, some
from epicsrs_native import EpicsError, get_context

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from epicsrs_bulk._get import OnError
    from epicsrs_native import Channel


def bulk_put(
    values: Mapping[str, object] | Mapping[Channel, object],
    *,
    wait: bool = True,
    on_error: OnError = "raise",
    timeout: float | None = 5.0,
) -> dict[str, Exception]:
    """Write many PVs at once; all requests leave together, those to one server in the order given.

    Args:
        values: What to write, by PV.
        wait: Return when the records have finished processing.
        on_error: ``"raise"``, or ``"return"`` the failures.
        timeout: Seconds for the whole call, connections included; None waits for ever.

    Returns:
        What went wrong, by PV; empty where all was written.

    Raises:
        EpicsError: The first PV that did not connect or reply in time, or whose server refused; a note names the
            others. All that could be written was.
        TypeError: ``values`` is no mapping, or the first value that does not fit is of the wrong type.
        ValueError: No PV, one PV twice, or the first value that does not fit its record.
    """
    wanted = _checked(values, on_error)
    with channels.lend(wanted) as opened:
        results = get_context().put_many(opened, list(values.values()), wait=wait, timeout=timeout)
    return _failures(wanted, results, on_error)


async def bulk_put_async(
    values: Mapping[str, object] | Mapping[Channel, object],
    *,
    wait: bool = True,
    on_error: OnError = "raise",
    timeout: float | None = 5.0,
) -> dict[str, Exception]:
    """Awaitable twin of ``bulk_put``."""
    wanted = _checked(values, on_error)
    with channels.lend(wanted) as opened:
        results = await get_context().put_many_async(opened, list(values.values()), wait=wait, timeout=timeout)
    return _failures(wanted, results, on_error)


def bulk_connect(
    pvs: Iterable[str | Channel], *, on_error: OnError = "raise", timeout: float | None = 5.0
) -> dict[str, Exception]:
    """Connect many PVs, so that the first bulk read of them takes no longer than the second.

    Args:
        pvs: As for ``bulk_read``.
        on_error: ``"raise"``, or ``"return"`` the failures.
        timeout: Seconds for the whole call; None waits for ever.

    Returns:
        The NotConnectedError of each PV that did not connect, by PV; empty where all are connected.

    Raises:
        EpicsError: The first PV that did not connect; a note names the others.
        TypeError: As ``bulk_read``.
        ValueError: As ``bulk_read``.
    """
    check_on_error(on_error)
    wanted = checked_pvs(pvs, "bulk_connect")
    with channels.lend(wanted) as opened:
        return _failures(wanted, get_context().connect_many(opened, timeout=timeout), on_error)


async def bulk_connect_async(
    pvs: Iterable[str | Channel], *, on_error: OnError = "raise", timeout: float | None = 5.0
) -> dict[str, Exception]:
    """Awaitable twin of ``bulk_connect``."""
    check_on_error(on_error)
    wanted = checked_pvs(pvs, "bulk_connect")
    with channels.lend(wanted) as opened:
        return _failures(wanted, await get_context().connect_many_async(opened, timeout=timeout), on_error)


def _checked(values: Mapping[str, object] | Mapping[Channel, object], on_error: OnError) -> list[str | Channel]:
    check_on_error(on_error)
    if not isinstance(values, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] (callers need not be typed)
        raise TypeError(f"bulk_put takes a dict of values by PV, not {type(values).__name__}")
    return checked_pvs(values, "bulk_put")


def _failures(
    wanted: Sequence[str | Channel], results: Sequence[Exception | None], on_error: OnError
) -> dict[str, Exception]:
    failures = {name_of(pv): error for pv, error in zip(wanted, results, strict=True) if error is not None}
    if failures and on_error == "raise":
        first = next(iter(failures.values()))
        error = again(first) if isinstance(first, EpicsError) else first
        if len(failures) > 1:
            error.add_note(f"{len(failures)} of {len(wanted)} PVs failed: {some(list(failures))}")
        raise error
    return failures
