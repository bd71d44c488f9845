"""A value as pyepics shows it in `char_value`."""

from __future__ import annotations

from math import log10
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from ophyd_epicsrs_sync._pv.fields import Array, Fields


def of_fields(fields: Fields) -> Any:
    """The text of a PV's value; an array of strings is a list of them.

    A float has its record's PREC, an enum its label, an array of characters is the text up to its NUL, any other array
    names its size and type.
    """
    value: Any = fields["value"]
    native = str(fields["type"]).rpartition("_")[2]
    if value is None:
        return "None"
    if native == "string":
        return cast("Array", value).tolist() if isinstance(value, np.ndarray) else value
    if native == "char":
        return of_characters(value)
    if isinstance(value, np.ndarray):
        return f"<array size={len(cast('Array', value))}, type={fields['type']}>"
    if isinstance(value, float):
        return of_float(value, fields["precision"])
    choices = fields["enum_strs"]
    if choices and 0 <= value < len(choices):
        return choices[value]
    return repr(value)


def of_float(value: float, precision: int | None) -> str:
    """With `precision` digits after the point, or as many in all where it is beyond 1e5 or below 1e-5, as pyepics."""
    if precision is None:
        return str(value)
    try:
        far = abs(int(log10(abs(value + 1e-9)))) > 4
    except (ValueError, OverflowError):
        return str(value)
    return f"{value:.{precision}{'g' if far else 'f'}}"


def of_characters(value: Any) -> str:
    """The text that an array of characters holds, or the one character of a scalar."""
    data = np.atleast_1d(np.asarray(value)).astype(np.uint8).tobytes().partition(b"\0")[0]
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.rstrip()
