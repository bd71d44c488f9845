"""What native calls a Reading, Metadata and Info, in pyepics' words."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import numpy as np

from ophyd_epicsrs_sync._pv import alarm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from epicsrs_native import Info, Metadata, Reading

Fields: TypeAlias = dict[str, Any]
Array: TypeAlias = np.ndarray[Any, Any]

NAMES: Final = (
    "pvname", "value", "char_value", "status", "ftype", "chid", "host", "count", "access", "write_access",
    "read_access", "severity", "timestamp", "posixseconds", "nanoseconds", "precision", "units", "enum_strs",
    "monitor_delta", "upper_disp_limit", "lower_disp_limit", "upper_alarm_limit", "lower_alarm_limit",
    "lower_warning_limit", "upper_warning_limit", "upper_ctrl_limit", "lower_ctrl_limit", "nelm", "type", "typefull",
)  # fmt: skip

# What Metadata bring.
METADATA: Final = (
    "units", "precision", "enum_strs", "upper_disp_limit", "lower_disp_limit", "upper_alarm_limit",
    "lower_alarm_limit", "upper_warning_limit", "lower_warning_limit", "upper_ctrl_limit", "lower_ctrl_limit",
)  # fmt: skip

TIME: Final = ("timestamp", "posixseconds", "nanoseconds")

# What an update brings, and how its value reads: with a new PREC or a new label, a text signal has a new value.
OF_AN_UPDATE: Final = ("value", "char_value", "status", "severity", "timestamp")

# Channel Access's name of each pvAccess type: what a client of Channel Access would see of the same record.
# 64-bit integers are doubles there.
_CA_TYPES: Final = {
    "boolean": "enum", "byte": "char", "ubyte": "char", "short": "short", "ushort": "long", "int": "long",
    "uint": "double", "long": "double", "ulong": "double", "float": "float", "double": "double", "string": "string",
    "enum_t": "enum",
}  # fmt: skip
# db_access.h of EPICS Base: DBR_STRING is 0, and each class of types begins 7 further on.
_NUMBERS: Final = ("string", "short", "float", "enum", "char", "long", "double")
_CLASSES: Final = {"native": ("", 0), "time": ("time_", 14), "ctrl": ("ctrl_", 28)}

# What a value is made of, for both protocols' types: the words of `coercion.coerce`.
_ELEMENTS: Final = {
    "boolean": "boolean", "byte": "byte", "ubyte": "char", "char": "char", "short": "integer", "ushort": "integer",
    "int": "integer", "uint": "integer", "long": "integer", "ulong": "integer", "float": "float", "double": "float",
    "string": "string", "enum": "enum", "enum_t": "enum",
}  # fmt: skip

# Where a pvAccess structure has alarm, time and metadata.
_BESIDE_VALUE: Final = ("alarm", "timeStamp", "display", "control", "valueAlarm")

NANOSECONDS: Final = 1_000_000_000


@cache
def brought(form: str, own: str) -> tuple[str, ...]:
    """What a request of this form brings to a PV whose own form is `own`, as in Channel Access's types.

    Those with metadata have no time. A PV of form "time" is told it all the same: ophyd takes the client's time for
    that of a reading that has none.
    """
    if form == "native":
        return ("value",)
    if form == "time":
        return ("value", "status", "severity", *TIME)
    return ("value", "status", "severity", *METADATA, *(TIME if own == "time" else ()))


def native_type(info: Info) -> str:
    """The type as Channel Access names it; a pvAccess structure that no record serves keeps its own name."""
    return info.type if info.protocol == "ca" else _CA_TYPES.get(info.type.removesuffix("[]"), info.type)


def element(info: Info) -> str:
    """boolean, byte, char, enum, float, integer or string; a structure's own name."""
    return _ELEMENTS.get(info.type.removesuffix("[]"), info.type)


def is_array(info: Info) -> bool:
    """Whether the PV may hold another number of elements than one."""
    return info.count != 1 if info.protocol == "ca" else info.type not in _CA_TYPES


def metadata_request(info: Info) -> str | None:
    """A pvRequest for all but the value of a pvAccess array, which comes in full or not at all.

    None where the value is small or left out by its count, and where there is nothing but a value.
    """
    if info.protocol == "ca" or not is_array(info):
        return None
    names = [name for name in _BESIDE_VALUE if name in (info.structure or ())]
    return f"field({','.join(names)})" if names else None


def is_all_value(info: Info) -> bool:
    """Whether a pvAccess array has nothing beside its value, so that there are no metadata to ask for."""
    return info.protocol == "pva" and is_array(info) and metadata_request(info) is None


def of_info(info: Info, form: str) -> Fields:
    """Type, count, server and access rights of a connection."""
    native = native_type(info)
    prefix, offset = _CLASSES[form]
    count = 1 if not is_array(info) else info.count
    return {
        "type": prefix + native,
        "typefull": prefix + native,
        "ftype": offset + _NUMBERS.index(native) if native in _NUMBERS else None,
        "host": info.address,
        "count": count,
        "nelm": count,
        **of_access(info.readable, info.writable),
    }


def of_access(readable: bool | None, writable: bool | None) -> Fields:
    """Access rights; pvAccess does not tell them, so everything counts as allowed until the server refuses."""
    read, write = readable is not False, writable is not False
    words = ("no access", "read-only", "write-only", "read/write")
    return {"read_access": read, "write_access": write, "access": words[read + 2 * write]}


def of_reading(reading: Reading, protocol: str, fields: Fields) -> Fields:
    """These fields with value, alarm and time. What the server does not say is left as it is."""
    value, severity, timestamp = reading.value, reading.severity, reading.timestamp_ns
    fields["value"] = value if type(value) is float else of_value(value)
    if severity is not None:
        # pvAccess's 4, undefined, counts as INVALID.
        fields["severity"] = severity if severity < alarm.INVALID else alarm.INVALID
        fields["status"] = reading.status if protocol == "ca" else alarm.status(reading)
    if timestamp is not None:
        fields["timestamp"] = reading.timestamp
        fields["posixseconds"], fields["nanoseconds"] = divmod(timestamp, NANOSECONDS)
    return fields


def of_value(value: object) -> Any:
    """Enums by their plain index; an array of strings as a numpy array."""
    if isinstance(value, list):
        items = cast("list[Any]", value)
        if not all(isinstance(item, str) for item in items):
            return items
        texts = np.array(items, dtype=str)
        # All who hear of an update are given the same one, as those of numbers.
        texts.setflags(write=False)
        return texts
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return value


def of_metadata(metadata: Metadata) -> Fields:
    """Units, precision, choices and limits, as far as the PV has them."""
    fields: Fields = {
        "units": metadata.units,
        "precision": metadata.precision,
        "enum_strs": metadata.choices or None,
    }
    for name in ("disp", "ctrl", "warning", "alarm"):
        fields[f"lower_{name}_limit"] = fields[f"upper_{name}_limit"] = None
    if metadata.limits is not None:
        pairs = {
            "disp": metadata.limits.display,
            "ctrl": metadata.limits.control,
            "warning": metadata.limits.warning,
            "alarm": metadata.limits.alarm,
        }
        for name, pair in pairs.items():
            if pair is not None:
                fields[f"lower_{name}_limit"], fields[f"upper_{name}_limit"] = pair
    return fields


def agree(one: Fields, other: Fields, names: Iterable[str]) -> bool:
    """Whether two PVs' worth of fields say the same under these names; a NaN agrees with nothing."""
    return all(np.array_equal(one[name], other[name]) for name in names)


def nearer(one: Fields, other: Fields, delta: float) -> bool:
    """Whether the numbers of two updates are less than `delta` apart, and their alarms the same."""
    value, before = one["value"], other["value"]
    if not (isinstance(value, float) and isinstance(before, float)):
        return False
    return abs(value - before) < delta and all(one[name] == other[name] for name in ("severity", "status"))
