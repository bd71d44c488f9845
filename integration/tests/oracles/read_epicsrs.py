"""Read PVs with epicsrs_native.

Usage: read_epicsrs.py PV...
"""

import sys
from typing import Any

from plain import tell

from epicsrs_native import EnumValue, Structure, Table, get_context


def read(pv: str) -> dict[str, Any]:
    """Its facts."""
    reading = get_context().channel(pv).get(form="ctrl", timeout=10.0)
    metadata = reading.metadata
    assert metadata is not None
    facts = {
        "value": reading.value,
        "timestamp_ns": reading.timestamp_ns,
        "severity": reading.severity,
        "status": reading.status,
        "message": reading.message,
        "units": metadata.units,
        "precision": metadata.precision,
        "choices": metadata.choices,
        "description": metadata.description,
    }
    if metadata.limits is not None:
        facts |= {pair: getattr(metadata.limits, pair) for pair in ("display", "control", "warning", "alarm")}
    if isinstance(reading.value, EnumValue):
        facts["label"] = reading.value.label
    if isinstance(reading.value, Structure):
        facts["id"] = reading.value.id
    if isinstance(reading.value, Table):
        facts["labels"] = reading.value.labels
    return {fact: value for fact, value in facts.items() if value is not None}


tell(sys.argv[1:], read)
