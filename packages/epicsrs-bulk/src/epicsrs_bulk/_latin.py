"""Text of an IOC that is no UTF-8, for those who take nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

# A byte that is no UTF-8 in the text that Python makes of it (PEP 383).
_BYTES = re.compile("[\udc80-\udcff]")
_FIRST, _LAST, _SHIFT = 0xDC80, 0xDCFF, 0xDC00


def as_latin(value: Any) -> Any:
    """A value of a document with each byte that is no UTF-8 as the character that it is in Latin-1: byte 0xb0 as "°".

    Mappings, lists, tuples and arrays are gone through; what holds no such byte comes back as it is, or a copy of it.
    """
    if isinstance(value, str):
        return value if value.isascii() else _BYTES.sub(lambda found: chr(ord(found[0]) - _SHIFT), value)
    if isinstance(value, Mapping):
        return {as_latin(key): as_latin(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [as_latin(item) for item in cast("list[Any]", value)]
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        return _array(cast("np.ndarray[Any, np.dtype[np.str_]]", value))
    return value


def _array(texts: np.ndarray[Any, np.dtype[np.str_]]) -> np.ndarray[Any, np.dtype[np.str_]]:
    if not texts.size or not texts.dtype.itemsize:
        return texts
    order = texts.dtype.byteorder
    codes = np.array(texts, order="C").reshape(-1).view(np.dtype(np.uint32).newbyteorder(order))
    odd = (codes >= _FIRST) & (codes <= _LAST)
    if not odd.any():
        return texts
    codes[odd] -= _SHIFT
    return codes.view(texts.dtype).reshape(texts.shape)
