"""One read of many PVs: per PV a value with its evidence, or the error that stands in its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from epicsrs_bulk._channels import Lent, channels
from epicsrs_native import Channel, EpicsError, Reading, get_context

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# The longest part of a list of failed PVs that a message tells.
_TOLD = 5


@dataclass(frozen=True)
class PvReading:
    """What one PV answered. Where it did not, ``error`` says why, and every other attribute raises that error.

    Attributes:
        pv: The name it was asked by.
        error: NotConnectedError, ReplyTimeoutError or RemoteError; None where there is a value.
    """

    pv: str
    error: EpicsError | None
    _reading: Reading | None

    @property
    def value(self) -> Any:
        """A number, str, EnumValue, list of str, or a read-only numpy array with the elements that the record holds."""
        return self._answer().value

    @property
    def timestamp_ns(self) -> int | None:
        """Nanoseconds since the UNIX epoch by the IOC's clock; None where the server gives no timestamp (pvAccess)."""
        return self._answer().timestamp_ns

    @property
    def timestamp(self) -> float | None:
        """The same in seconds; a float64 has steps of 238 ns there."""
        return self._answer().timestamp

    @property
    def severity(self) -> int | None:
        """0 none, 1 minor, 2 major, 3 invalid, 4 undefined (pvAccess only)."""
        return self._answer().severity

    @classmethod
    def of(cls, pv: str, answer: Reading | EpicsError) -> PvReading:
        """What native gave for a PV."""
        return cls(pv, None, answer) if isinstance(answer, Reading) else cls(pv, answer, None)

    @property
    def answer(self) -> Reading | EpicsError:
        """The native Reading, or the error in its place."""
        if self._reading is not None:
            return self._reading
        assert self.error is not None, "a PV has a reading or an error"
        return self.error

    def _answer(self) -> Reading:
        if self._reading is None:
            # Each time a new one: the traceback of an exception that is raised twice grows.
            raise again(self.error)
        return self._reading


class BulkRead(Mapping[str, PvReading]):
    """The result of one bulk read: a PvReading for every PV that was asked for, by name and in that order."""

    def __init__(self, readings: Iterable[PvReading]) -> None:
        self._by_name: dict[str, Reading | EpicsError] | None = {reading.pv: reading.answer for reading in readings}
        self._given: tuple[Sequence[str | Channel], Sequence[Reading | EpicsError]] = ((), ())
        self._complete = False

    @classmethod
    def of(cls, pvs: Sequence[str | Channel], answers: Sequence[Reading | EpicsError]) -> BulkRead:
        """What a bulk read by native has given, PV for PV."""
        result = cls(())
        result._by_name, result._given = None, (pvs, answers)
        result._complete = complete(answers)
        return result

    @property
    def _answers(self) -> dict[str, Reading | EpicsError]:
        if self._by_name is None:
            # Made when asked for, as the PvReadings are.
            pvs, answers = self._given
            self._by_name = dict(zip(map(name_of, pvs), answers, strict=True))
        return self._by_name

    def __getitem__(self, pv: str) -> PvReading:
        # Made when asked for: of 10,000 PVs that takes as long as to read them.
        return PvReading.of(pv, self._answers[pv])

    def __iter__(self) -> Iterator[str]:
        return iter(self._answers)

    def __len__(self) -> int:
        return len(self._answers)

    def __repr__(self) -> str:
        return f"<BulkRead: {len(self)} PVs, {len(self.errors)} failed>"

    @property
    def errors(self) -> dict[str, EpicsError]:
        """The error of each PV that failed, by PV."""
        if self._complete:
            return {}
        return {pv: answer for pv, answer in self._answers.items() if isinstance(answer, EpicsError)}

    @property
    def answers(self) -> Mapping[str, Reading | EpicsError]:
        """What native gave for each PV, by name: a Reading, or the error in its place."""
        return MappingProxyType(self._answers)

    @property
    def failed(self) -> list[str]:
        """The PVs that failed."""
        return list(self.errors)

    def raise_first(self) -> None:
        """Raise the first error, with the names of the other failed PVs as a note; nothing where all answered."""
        errors = list(self.errors.values())
        if errors:
            error = again(errors[0])
            if len(errors) > 1:
                error.add_note(f"{len(errors)} of {len(self)} PVs failed: {some(self.failed)}")
            raise error


def bulk_read(pvs: Iterable[str | Channel], *, timeout: float | None = 5.0) -> BulkRead:
    """Read many PVs at once, scalars and waveforms, Channel Access and ``pva://`` mixed.

    All requests leave together. The channels of up to 10,000 PVs stay open, so that the next read of the same PVs is
    one round trip; ``keep_channels`` sets another bound and ``close_channels`` closes them. A PV that did not connect
    is not kept.

    Args:
        pvs: Names, or native Channels of the caller's own, which are left as they are. None twice.
        timeout: Seconds for the whole call, connections included; None waits for ever.

    Returns:
        A value, timestamp and severity per PV, or an EpicsError in its place. A PV that is missing costs the
        timeout, and nothing of the others.

    Raises:
        TypeError: ``pvs`` is one str, an element is neither str nor Channel, or ``timeout`` is not a number.
        ValueError: No PV, one PV twice, a bad name, a closed Channel, or a timeout that is negative or NaN.
    """
    wanted = checked_pvs(pvs)
    with channels.lend(wanted) as opened:
        return _result(wanted, opened, get_context().get_many(opened, timeout=timeout))


async def bulk_read_async(pvs: Iterable[str | Channel], *, timeout: float | None = 5.0) -> BulkRead:
    """Awaitable twin of ``bulk_read``."""
    wanted = checked_pvs(pvs)
    with channels.lend(wanted) as opened:
        return _result(wanted, opened, await get_context().get_many_async(opened, timeout=timeout))


def _result(wanted: list[str | Channel], opened: Lent, answers: Sequence[Reading | EpicsError]) -> BulkRead:
    opened.all_connected = complete(answers)
    return BulkRead.of(wanted, answers)


def complete(answers: Sequence[Reading | EpicsError]) -> bool:
    """Whether there is no error among them."""
    return {*map(type, answers)} <= {Reading}


def checked_pvs(pvs: Iterable[str | Channel], caller: str = "bulk_read") -> list[str | Channel]:
    """The PVs as a list; TypeError or ValueError where one is no PV, is there twice, or there is none."""
    if isinstance(pvs, str | Channel):
        raise TypeError(f"{caller} takes a list of PVs; for one, give [{name_of(pvs)!r}]")
    wanted = list(pvs)
    if channels.lent_last(wanted):
        # Checked before.
        return wanted
    if not wanted:
        raise ValueError(f"{caller} needs at least one PV; the list is empty")
    seen: set[str] = set()
    for pv in wanted:
        if not isinstance(pv, str | Channel):  # pyright: ignore[reportUnnecessaryIsInstance] (callers need not be typed)
            raise TypeError(f"a PV is a str or a Channel, not {pv!r}")
        name = name_of(pv).removeprefix("ca://")
        if name in seen:
            raise ValueError(f"{name_of(pv)}: given twice")
        seen.add(name)
    return wanted


def name_of(pv: str | Channel) -> str:
    """What the results call a PV."""
    return pv if isinstance(pv, str) else pv.pv


def again(error: EpicsError | None) -> EpicsError:
    """The same error, to be raised once more."""
    assert error is not None, "a PV has a reading or an error"
    kind, arguments = error.__reduce__()[:2]
    return kind(*arguments)


def some(pvs: list[str]) -> str:
    """The first names of a list."""
    return ", ".join(pvs[:_TOLD]) + (f" and {len(pvs) - _TOLD} more" if len(pvs) > _TOLD else "")
