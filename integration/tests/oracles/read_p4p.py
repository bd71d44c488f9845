"""Read PVs with p4p.

Usage: read_p4p.py PV...
"""

import sys
from typing import Any

from p4p import Value
from p4p.client.thread import Context
from p4p.nt import NTNDArray
from plain import tell

# Fact, the field it lies in.
FIELDS = {
    "severity": "alarm.severity",
    "status": "alarm.status",
    "message": "alarm.message",
    "units": "display.units",
    "precision": "display.precision",
    "description": "display.description",
}
LIMITS = {
    "display": ("display.limitLow", "display.limitHigh"),
    "control": ("control.limitLow", "control.limitHigh"),
    "warning": ("valueAlarm.lowWarningLimit", "valueAlarm.highWarningLimit"),
    "alarm": ("valueAlarm.lowAlarmLimit", "valueAlarm.highAlarmLimit"),
}


def bare(value: Any) -> Any:
    """Without p4p's types."""
    if isinstance(value, Value):
        return {name: bare(value[name]) for name in value}
    return [bare(member) for member in value] if isinstance(value, list) else value


def read(pv: str) -> dict[str, Any]:
    """Its facts."""
    found = context.get(pv, timeout=10.0)
    kind = found.getID()
    if "value" not in found:
        return {"id": kind, "value": bare(found)}
    facts: dict[str, Any] = {"value": found.value}
    if kind.startswith("epics:nt/NTEnum"):
        index, choices = found.value.index, found.value.choices
        facts |= {"value": index, "choices": choices}
        if index < len(choices):
            facts["label"] = choices[index]
    elif kind.startswith("epics:nt/NTTable"):
        facts |= {"id": kind, "value": bare(found.value), "labels": found.labels}
    elif kind.startswith("epics:nt/NTUnion"):
        facts |= {"id": kind, "value": bare(found)}
    elif kind.startswith("epics:nt/NTNDArray") and not found.codec.name:
        facts["value"] = NTNDArray().unwrap(found)
    if "timeStamp" in found:
        facts["timestamp_ns"] = found.timeStamp.secondsPastEpoch * 10**9 + found.timeStamp.nanoseconds
    facts |= {fact: found[field] for fact, field in FIELDS.items() if field in found}
    return facts | {pair: [found[field] for field in fields] for pair, fields in LIMITS.items() if fields[0] in found}


with Context("pva", nt=False) as context:
    tell(sys.argv[1:], read)
