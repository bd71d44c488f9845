"""What users of pyepics put, as values that native takes: it converts nothing that would lose something."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger("ophyd.epicsrs")

Scalar: TypeAlias = bool | int | float | str


def coerce(pv: str, value: Any, *, kind: str, count: int | None, choices: Sequence[str] | None) -> Any:
    """The value to put to a PV.

    Args:
        pv: Its name, for errors.
        value: What the user gave: an integer PV also takes 3.7 (and drops the fraction), "12" and "0x10"; a float PV
            "1.5"; an enum its label, its index, or 1.0; an array of characters a str or bytes.
        kind: What it is made of, as `fields.element` names it.
        count: How many elements it holds; 1 for a scalar, None where the server does not say.
        choices: An enum's labels.

    Raises:
        ValueError: The value does not fit; the message names the PV, the value and, for an enum, its choices.
        TypeError: No value of that type fits.
    """
    if value is None:
        raise TypeError(f"{pv}: cannot put None")
    if kind not in _SCALARS:
        return value
    try:
        if count == 1:
            return _choice(_single(value), choices) if kind == "enum" else _SCALARS[kind](_single(value))
        if kind in _CHARACTERS and isinstance(value, str | bytes):
            return _text(value, count).view(_CHARACTERS[kind])
        elements = _array(value, kind)
    except (ValueError, TypeError, OverflowError) as error:
        raised = TypeError if isinstance(error, TypeError) else ValueError
        raise raised(f"{pv}: cannot put {value!r} to a PV of type {kind}: {error}") from error
    if count is not None and len(elements) > count:
        logger.warning("%s: %d elements put, the PV holds %d: the rest is left out", pv, len(elements), count)
        return elements[:count]
    return elements


def _single(value: Any) -> Any:
    """The only element of a sequence, or what is none; a numpy scalar as Python's."""
    if isinstance(value, np.ndarray | list | tuple):
        elements: list[Any] = np.asarray(cast("Any", value)).ravel().tolist()
        if len(elements) != 1:
            raise ValueError(f"{len(elements)} elements, the PV is a scalar")
        return elements[0]
    return cast("Any", value).item() if isinstance(value, np.generic) else value


def _plain(value: Any) -> Scalar:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} is no value of such a PV")


def _integer(value: Any) -> int:
    value = _plain(value)
    if isinstance(value, str):
        value = _number(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("no integer")
    return int(value)


def _number(text: str) -> int | float:
    """The number that a text spells, as in Python: 12, 0x10, 1e3; 012 is twelve."""
    for spelled in (lambda: int(text, 0), lambda: int(text), lambda: float(text)):
        try:
            return spelled()
        except ValueError:
            continue
    raise ValueError("no number")


def _float(value: Any) -> float:
    value = _plain(value)
    return float(_number(value) if isinstance(value, str) else value)


def _string(value: Any) -> str:
    return str(_plain(value))


def _choice(value: Any, choices: Sequence[str] | None = None) -> int:
    value = _plain(value)
    known = list(choices or ())
    if value in known:
        return known.index(str(value))
    try:
        number = _number(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"its choices are {known}") from None
    # Also false for NaN.
    if number // 1 == number:
        return int(number)
    raise ValueError(f"no index of its choices {known}")


def _text(text: str | bytes, count: int | None) -> np.ndarray[Any, Any]:
    """Bytes with a NUL at their end, where there is room for it."""
    data = text if isinstance(text, bytes) else text.encode()
    if count is not None and len(data) > count:
        raise ValueError(f"{len(data)} bytes, the PV holds {count}")
    if count is None or len(data) < count:
        data += b"\0"
    return np.frombuffer(data, dtype=np.uint8)


def _array(value: Any, kind: str) -> Any:
    """A flat list of strings, or a flat numpy array of a type that the PV's elements are made from."""
    if kind == "string":
        items = [value] if isinstance(value, str | bytes) else np.atleast_1d(np.asarray(value, dtype=object)).ravel()
        return [_string(_single(item)) for item in items]
    elements: np.ndarray[Any, Any] = np.atleast_1d(np.asarray(value)).ravel()
    if elements.dtype.kind in "USO":
        elements = np.array([_SCALARS[kind](_single(item)) for item in elements])
    if elements.dtype.kind not in "biuf":
        raise TypeError(f"elements of type {elements.dtype}")
    if kind == "boolean":
        return elements.astype(bool)
    if kind == "float" or elements.dtype.kind in "iu":
        return elements
    # Also false for NaN; beyond int64 the conversion would wrap.
    if not (np.abs(elements.astype(float)) < 2.0**63).all():
        raise ValueError("not every element is an integer")
    return np.trunc(elements).astype(np.int64)


# Channel Access's characters have no sign, pvAccess's bytes have one.
_CHARACTERS: Final = {"byte": np.int8, "char": np.uint8}

_SCALARS: Final[dict[str, Callable[[Any], Any]]] = {
    "boolean": bool,
    "byte": _integer,
    "char": _integer,
    "enum": _choice,
    "float": _float,
    "integer": _integer,
    "string": _string,
}
