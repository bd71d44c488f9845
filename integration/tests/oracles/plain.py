"""Readings of different clients as the same JSON: facts by their names; what a client does not have is absent."""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """A value with its type where JSON would lose it: arrays have their dtype and shape, and NaN is a word."""
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "shape": list(value.shape), "elements": plain(value.ravel().tolist())}
    if isinstance(value, Mapping):
        return {str(name): plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [plain(member) for member in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def kind(value: Any) -> str:
    """What a value is, by the built-in type it is or extends."""
    types = (bool, int, float, str, np.ndarray, Mapping, list)
    return next((kind.__name__ for kind in types if isinstance(value, kind)), type(value).__name__)


def tell(pvs: Sequence[str], read: Callable[[str], Mapping[str, Any]]) -> None:
    """Print the facts of each PV, with the kind of its value; what raises is the error's class and words."""
    facts: dict[str, Any] = {}
    for pv in pvs:
        try:
            found = read(pv)
            facts[pv] = {"kind": kind(found["value"]), **plain(found)}
        except Exception as error:
            facts[pv] = {"error": f"{type(error).__name__}: {error}"}
    json.dump(facts, sys.stdout)
