"""Documents as msgpack and back, arrays included, without loss and without code in them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any, cast

import msgpack  # pyright: ignore[reportMissingTypeStubs]
import numpy as np

from epicsrs_bulk._sink_errors import DocumentError

_msgpack = cast("Any", msgpack)
_Array = np.ndarray[Any, np.dtype[Any]]

# msgpack's extension types. Not those of msgpack-numpy, which pickles arrays of objects, so that reading a journal
# could run code, and which has no way for dates.
_ARRAY = 1
_SCALAR = 2
# An array that stands earlier in the document, by its number there: a page's times are those of each of its columns.
_SAME = 3
# Text with bytes that are no UTF-8, as an IOC may send it; asked for only where there is such text, as it is slower.
_ANY_BYTES = {"unicode_errors": "surrogateescape"}
# An array's elements begin at a multiple of this, where numpy and Arrow like them to.
_ALIGNMENT = 16


def pack(name: str, doc: Mapping[str, Any]) -> bytes:
    """One document as bytes, which are a copy: later changes of the document or its arrays do not show.

    Raises:
        DocumentError: It holds what cannot be written; the message says where.
    """
    try:
        return _packed([name, doc])
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        where, value = next(unwritable(doc), ("", doc))
        raise DocumentError(
            f"{name} {doc.get('uid', '')}: {where or 'it'} cannot be written: {_short(value)} ({error})"
        ) from error


def unpack(payload: bytes) -> tuple[str, dict[str, Any]]:
    """The name and the document; its arrays are read-only."""
    try:
        name, doc = _unpacked(payload)
    except UnicodeDecodeError:
        name, doc = _unpacked(payload, **_ANY_BYTES)
    return name, doc


def unwritable(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Each leaf of a document that cannot be written, with the keys that lead to it."""
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            if not isinstance(key, str | int | float | bytes | None):
                yield f"{where}[{key!r}]", key
            yield from unwritable(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(cast("list[Any]", value)):
            yield from unwritable(item, f"{where}[{index}]")
    elif not _writable(value):
        yield where, value


def legible(value: Any) -> Any:
    """The same with each leaf that cannot be written as the text that Python shows for it."""
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str | int | float | bytes | None) else repr(key): legible(item)
            for key, item in cast("Mapping[Any, Any]", value).items()
        }
    if isinstance(value, list | tuple):
        return [legible(item) for item in cast("list[Any]", value)]
    return value if _writable(value) else repr(value)


def _writable(value: Any) -> bool:
    try:
        _packed(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return False
    return True


def _packed(value: Any) -> bytes:
    try:
        return _msgpack.packb(value, default=_Extensions().packed, datetime=True)
    except UnicodeEncodeError:
        return _msgpack.packb(value, default=_Extensions().packed, datetime=True, **_ANY_BYTES)


def _unpacked(payload: bytes, **options: str) -> Any:
    return _msgpack.unpackb(payload, ext_hook=_Extensions().value, strict_map_key=False, timestamp=3, **options)


class _Extensions:
    """What msgpack does not know of one document, on its way there or back; each array is written once."""

    def __init__(self) -> None:
        self._arrays: list[_Array] = []
        self._numbers: dict[int, int] = {}

    def packed(self, value: Any) -> Any:
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError("a masked array: its mask has no place in a document")
        if isinstance(value, np.ndarray | np.generic):
            array = cast("_Array", value)
            if array.dtype.hasobject:
                return array.tolist()
            if isinstance(value, np.generic):
                return _msgpack.ExtType(_SCALAR, _head(array.dtype, ()) + array.tobytes())
            if (number := self._numbers.setdefault(id(array), len(self._arrays))) < len(self._arrays):
                return _msgpack.ExtType(_SAME, _msgpack.packb(number))
            # Kept, so that no other array gets its id meanwhile.
            self._arrays.append(array)
            return _msgpack.ExtType(_ARRAY, _head(array.dtype, array.shape) + array.tobytes())
        if isinstance(value, Mapping):
            return dict(cast("Mapping[Any, Any]", value))
        raise TypeError(f"no {type(value).__name__} in a journal")

    def value(self, code: int, data: bytes) -> Any:
        if code == _SAME:
            number: int = _msgpack.unpackb(data)
            if not 0 <= number < len(self._arrays):
                raise ValueError(f"array {number} of {len(self._arrays)}")
            return self._arrays[number]
        if code not in (_ARRAY, _SCALAR):
            raise ValueError(f"unknown msgpack extension {code}")
        array = _array(data)
        if code == _SCALAR:
            return cast("Any", array[()])
        self._arrays.append(array)
        return array


def _head(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Type and shape, filled up to the alignment, with the number of bytes before the elements in front."""
    descr = dtype.str if dtype.fields is None else repr(np.lib.format.dtype_to_descr(dtype))
    head = _msgpack.packb([descr, shape])
    start = -(-(len(head) + 2) // _ALIGNMENT) * _ALIGNMENT
    return start.to_bytes(2, "little") + head.ljust(start - 2, b"\0")


def _array(data: bytes) -> _Array:
    start = int.from_bytes(data[:2], "little")
    unpacker = _msgpack.Unpacker()
    unpacker.feed(data[2:start])
    descr, shape = unpacker.unpack()
    dtype = np.lib.format.descr_to_dtype(ast.literal_eval(descr)) if descr.startswith("[") else np.dtype(descr)
    return np.ndarray(shape, dtype, buffer=data, offset=start)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
