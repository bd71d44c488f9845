"""The paragraph about a PV that pyepics calls its `info`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from ophyd_epicsrs_sync._pv.fields import Array, Fields

_LINES = (
    "char_value", "count", "nelm", "type", "units", "precision", "host", "access", "status", "severity", "timestamp",
    "posixseconds", "nanoseconds", "upper_ctrl_limit", "lower_ctrl_limit", "upper_disp_limit", "lower_disp_limit",
    "upper_alarm_limit", "lower_alarm_limit", "upper_warning_limit", "lower_warning_limit",
)  # fmt: skip

# An array shows so many of its elements.
_SHOWN = 5


def of_fields(fields: Fields, *, callbacks: int | None) -> str:
    """All fields that the PV has, one a line; `callbacks` is how many a running monitor calls."""
    value = fields["value"]
    if isinstance(value, np.ndarray):
        elements = cast("Array", value)
        shown = ", ".join(str(element) for element in elements[:_SHOWN])
        value = f"array [{shown}{', ...' if len(elements) > _SHOWN else ''}]"
    lines = [f"== {fields['pvname']}  ({fields['typefull']}) ==", f"   value           = {value}"]
    lines += [f"   {name:<15} = {fields[name]}" for name in _LINES if fields[name] is not None]
    if fields["enum_strs"]:
        lines.append("   enum strings:")
        lines += [f"       {index} = {label}" for index, label in enumerate(fields["enum_strs"])]
    if callbacks is None:
        lines.append("   PV is NOT internally monitored")
    else:
        lines.append(f"   PV is internally monitored, with {callbacks} user-defined callbacks")
    return "\n".join([*lines, "============================="])
