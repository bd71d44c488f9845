"""Alarms in ophyd's numbers, which are Channel Access's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from epicsrs_native import Reading

# epicsSeverity and epicsAlarmCondition in alarm.h of EPICS Base, in the order of their numbers.
SEVERITIES: Final[tuple[str, ...]] = ("NO_ALARM", "MINOR", "MAJOR", "INVALID")
STATUSES: Final[tuple[str, ...]] = (
    "NO_ALARM", "READ", "WRITE", "HIHI", "HIGH", "LOLO", "LOW", "STATE", "COS", "COMM", "TIMEOUT", "HWLIMIT", "CALC",
    "SCAN", "LINK", "SOFT", "BAD_SUB", "UDF", "DISABLE", "SIMM", "READ_ACCESS", "WRITE_ACCESS",
)  # fmt: skip

# pvAccess counts eight kinds of alarm; each as the Channel Access status that it most often stands for.
# Source: pvData, alarm.h: none, device, driver, record, DB, configuration, undefined, client.
_KINDS: Final = ("NO_ALARM", "STATE", "COMM", "SOFT", "LINK", "BAD_SUB", "UDF", "READ_ACCESS")


INVALID: Final = SEVERITIES.index("INVALID")


def status(reading: Reading) -> int | None:
    """The Channel Access alarm status of a reading of pvAccess.

    An IOC of EPICS Base names the status in the alarm's message; where another server says something else, its kind of
    alarm is translated.
    """
    if reading.status is None:
        return None
    if reading.message in STATUSES:
        return STATUSES.index(reading.message)
    kind = _KINDS[reading.status] if reading.status < len(_KINDS) else "SOFT"
    return STATUSES.index(kind)
