"""What 0.8 returned, made of what this package returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from epicsrs_native import EnumValue, Structure

if TYPE_CHECKING:
    from epicsrs_native import Info, Metadata, Reading

# db_access.h
FTYPES = {"string": 0, "short": 1, "float": 2, "enum": 3, "char": 4, "long": 5, "double": 6}
INTEGERS = {sign + size for sign in ("", "u") for size in ("byte", "short", "int", "long")}
SCALARS = INTEGERS | {"boolean", "double", "float", "string"}


def value_of_0_8(value: Any, width: int | None) -> Any:
    """A value without numpy; an array filled up to ``width`` elements, all that the record can hold."""
    if isinstance(value, EnumValue):
        return int(value)
    if isinstance(value, np.ndarray):
        value = cast("np.ndarray[Any, Any]", value).tolist()
    if isinstance(value, list):
        elements = cast("list[Any]", value)
        fill: Any = type(elements[0])() if elements else 0.0
        return elements + [fill] * ((width or 0) - len(elements))
    return value


def text_of_0_8(value: Any) -> str:
    """The ``char_value`` of pyepics: a label, the text in an array of characters, a number without an exponent."""
    if isinstance(value, EnumValue):
        return str(int(value)) if value.label is None else value.label
    if isinstance(value, np.ndarray):
        array = cast("np.ndarray[Any, Any]", value)
        if array.dtype.itemsize == 1:
            return array.tobytes().split(b"\0")[0].decode(errors="replace")
        value = array.tolist()
    if isinstance(value, list):
        elements = cast("list[Any]", value)
        return "[" + ", ".join(f'"{each}"' if isinstance(each, str) else text_of_0_8(each) for each in elements) + "]"
    if isinstance(value, float):
        return np.format_float_positional(value, trim="-")
    return str(value)


def reading_of_0_8(reading: Reading[Metadata], width: int | None) -> dict[str, Any]:
    """Value, alarm, time and metadata in one dict; without the keys of what the PV does not have."""
    seconds, nanoseconds = divmod(reading.timestamp_ns or 0, 1_000_000_000)
    result: dict[str, Any] = {
        "value": value_of_0_8(reading.value, width),
        "status": reading.status or 0,
        "severity": reading.severity or 0,
        "timestamp": reading.timestamp or 0.0,
        "posixseconds": seconds,
        "nanoseconds": nanoseconds,
        "char_value": text_of_0_8(reading.value),
    }
    metadata = reading.metadata
    if metadata.choices is not None:
        result["enum_strs"] = metadata.choices
    if metadata.units is not None:
        result |= {"precision": metadata.precision or 0, "units": metadata.units}
    limits = metadata.limits
    if limits is not None:
        pairs = {"disp": limits.display, "alarm": limits.alarm, "warning": limits.warning, "ctrl": limits.control}
        for name, pair in pairs.items():
            if pair is not None:
                result |= {f"upper_{name}_limit": float(pair[1]), f"lower_{name}_limit": float(pair[0])}
    return result


def update_of_0_8(reading: Reading, width: int | None) -> dict[str, Any]:
    """What a monitor's callback gets, but for the PV's name."""
    return {
        "value": value_of_0_8(reading.value, width),
        "timestamp": reading.timestamp or 0.0,
        "status": reading.status or 0,
        "severity": reading.severity or 0,
        "char_value": text_of_0_8(reading.value),
    }


def info_of_0_8(info: Info) -> dict[str, Any]:
    """The channel's type, size, server and access rights; pvAccess does not tell the latter, and says yes."""
    access = {
        "host": info.address,
        "read_access": info.readable is not False,
        "write_access": info.writable is not False,
    }
    if info.protocol == "pva":
        return {"type": "pva"} | access
    return {"ftype": FTYPES[info.type], "type": info.type, "count": info.count} | access


def description_of_0_8(described: Any) -> dict[str, Any]:
    """A field of a pvAccess structure; what is neither scalar nor structure is a kind by its name, as in "any"."""
    if isinstance(described, Structure):
        fields = [(name, description_of_0_8(field)) for name, field in described.items()]
        return {"kind": "structure", "struct_id": described.id, "fields": fields}
    element = described.removesuffix("[]")
    if element not in SCALARS:
        return {"kind": described}
    return {"kind": "scalar" if element == described else "scalar_array", "scalar_type": element}
