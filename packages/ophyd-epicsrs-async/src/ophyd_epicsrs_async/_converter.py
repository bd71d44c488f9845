"""A signal's datatype against what its PVs carry: whether they go together, and how values are read and written."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, cast, get_args, get_origin

import numpy as np
from ophyd_async.core import (
    EnumTypes,
    StrictEnum,
    SubsetEnum,
    Table,
    get_dtype,
    get_enum_cls,
    get_unique,
)

from ._address import Address
from ._shape import Kind, Shape

# Integers that may be asked for as bool, 0 being False.
_FLAGS = {
    "ca": {np.uint8, np.int16},
    "pva": {np.int8, np.uint8, np.int32, np.uint32},
}


def _same(value: Any) -> Any:
    return value


@dataclass(slots=True)
class Converter:
    """How values of one signal are read from and written to its PVs.

    Attributes:
        datatype: What the values are.
        kind: What the PV's elements are.
        read: A native value to a value of the datatype.
        write: A value of the datatype to one that native takes.
        choices: The labels that may be written, where there is a list of them.
    """

    datatype: Any
    kind: Kind
    read: Callable[[Any], Any] = _same
    write: Callable[[Any], Any] = _same
    choices: tuple[str, ...] | None = None


def make_converter(datatype: Any, shapes: Sequence[Shape]) -> Converter:
    """Check that a datatype can be had from all of a signal's PVs, and find the way.

    Args:
        datatype: What the signal was made with; None takes what the PVs carry.
        shapes: The read PV and, where it is another, the write PV.

    Raises:
        TypeError: The PVs differ, or carry something else; the message names the PV and both types.
    """
    shape = shapes[0]
    if len(shapes) > 1:
        get_unique({str(s.address): s.wire_type for s in shapes}, "datatypes")
    wanted = _canonical(datatype)
    for rule in _RULES:
        if converter := rule(wanted, shapes):
            converter.read = _checked(shape, converter.read)
            return converter
    if shape.kind is Kind.OTHER:
        raise TypeError(f"{shape.address} is a structure of type {shape.wire_type!r}, which is not supported yet")
    inferred = format_datatype(shape.datatype)
    if shape.kind is Kind.ENUM and not shape.array:
        inferred = "str | StrictEnum | SubsetEnum | SupersetEnum"
    raise TypeError(
        f"{shape.address} with inferred datatype {inferred} from {shape.wire_type!r}"
        f" cannot be coerced to {format_datatype(wanted)}"
    )


def format_datatype(datatype: Any) -> str:
    """A datatype as a device's author writes it: `Array1D[np.int32]`, `Sequence[str]`, `float`."""
    if get_origin(datatype) is np.ndarray:
        return f"Array1D[np.{get_dtype(datatype).name}]"
    if get_origin(datatype) is Sequence:
        return f"Sequence[{format_datatype(get_args(datatype)[0])}]"
    return datatype.__name__ if isinstance(datatype, type) else str(datatype)


def _canonical(datatype: Any) -> Any:
    # typing.Sequence[str] and collections.abc.Sequence[str] are not equal.
    if get_origin(datatype) is Sequence:
        return Sequence[get_args(datatype)[0]]
    return datatype


def _plain(wanted: Any, shapes: Sequence[Shape]) -> Converter | None:
    """A number as it is: what most signals are, so the first to be looked for."""
    shape = shapes[0]
    if wanted is not None and shape.kind in {Kind.INTEGER, Kind.FLOAT} and wanted is shape.scalar:
        return Converter(wanted, shape.kind)
    return None


def _flag(wanted: Any, shapes: Sequence[Shape]) -> Converter | None:
    """A bool from a boolean, from an integer, or from an enum of two choices, whatever their labels."""
    shape = shapes[0]
    if wanted is not bool or shape.array:
        return None
    if shape.kind is Kind.ENUM:
        count = get_unique({str(s.address): len(s.choices or ()) for s in shapes}, "number of choices")
        if count != 2:
            raise TypeError(f"{shape.address} has {count} choices, can't map to bool")
    elif shape.kind is not Kind.BOOLEAN and shape.element not in _FLAGS[shape.address.protocol]:
        return None

    def write(value: Any) -> bool:
        if not isinstance(value, Hashable) or value not in {False, True}:
            raise ValueError(f"{shape.address}: {value!r} is neither True nor False")
        return bool(value)

    return Converter(bool, shape.kind, bool, write)


def _label(wanted: Any, shapes: Sequence[Shape]) -> Converter | None:
    """The label of an enum, as str or as a member of an enum class."""
    shape = shapes[0]
    if shape.kind is not Kind.ENUM or shape.array:
        return None
    enum = get_enum_cls(wanted)
    if get_origin(wanted) is not None or (enum is None and wanted not in {None, str}):
        return None
    choices = get_unique({str(s.address): s.choices or () for s in shapes}, "choices")
    if enum is not None:
        _check_choices(shape.address, enum, choices)
    member = _member(shape.address, enum) if enum else _same

    def read(value: Any) -> str:
        if value.label is None:
            raise ValueError(f"{shape.address}: index {int(value)} has no label among {list(choices)}")
        return member(value.label)

    return Converter(str, shape.kind, read, choices=choices)


def _check_choices(address: Address, enum: type[EnumTypes], choices: tuple[str, ...]) -> None:
    requested = [member.value for member in enum]
    if issubclass(enum, StrictEnum):
        agree, relation = set(requested) == set(choices), "strictly equal to"
    elif issubclass(enum, SubsetEnum):
        agree, relation = set(requested) <= set(choices), "a subset of"
    else:
        agree, relation = set(requested) >= set(choices), "a superset of"
    if not agree:
        raise TypeError(f"{address} has choices {choices}, but {enum} requested {requested} to be {relation} them.")


def _member(address: Address, enum: type[EnumTypes]) -> Callable[[str], Any]:
    """Labels to members; a SubsetEnum leaves other labels as they are, the others refuse them."""

    def member(label: str) -> Any:
        try:
            return enum(label)
        except ValueError as error:
            raise ValueError(f"{address}: {label!r} is no value of {enum}") from error

    return member


def _text(wanted: Any, shapes: Sequence[Shape]) -> Converter | None:
    """Strings that stand for members of an enum class, which their server does not know of."""
    shape = shapes[0]
    enum = get_enum_cls(wanted) if shape.kind is Kind.STRING else None
    if enum is None:
        return None
    if shape.array and get_origin(wanted) is Sequence:
        member = _member(shape.address, enum)
        return Converter(wanted, shape.kind, lambda texts: [member(text) for text in texts], list)
    # Channel Access gives an enum its labels; over pvAccess there are servers that send only the text.
    if not shape.array and get_origin(wanted) is None and shape.address.protocol == "pva":
        return Converter(str, shape.kind)
    return None


def _whole_number(wanted: Any, shapes: Sequence[Shape]) -> Converter | None:
    """An int from a float that shows no digits behind its point, as the record shows it."""
    shape = shapes[0]
    if wanted is not int or shape.kind is not Kind.FLOAT or shape.array:
        return None
    if get_unique({str(s.address): s.precision for s in shapes}, "precision") != 0:
        return None

    def read(value: Any) -> int:
        if not isfinite(value):
            raise ValueError(f"{shape.address}: {value} is no whole number")
        return round(value)

    return Converter(int, shape.kind, read)


def _long_string(wanted: Any, shapes: Sequence[Shape]) -> Converter | None:
    """Text in an array of characters, up to its first NUL; native appends one where there is room."""
    shape = shapes[0]
    characters = np.uint8 if shape.address.protocol == "ca" else np.int8
    if wanted is not str or not shape.array or shape.element is not characters:
        return None

    def read(value: Any) -> str:
        return value.tobytes().partition(b"\0")[0].decode("utf-8", "surrogateescape")

    return Converter(str, shape.kind, read)


def _table(wanted: Any, shapes: Sequence[Shape]) -> Converter | None:
    shape = shapes[0]
    datatype = Table if wanted is None else wanted
    if shape.kind is not Kind.TABLE or not (isinstance(datatype, type) and issubclass(datatype, Table)):
        return None

    # Columns go by name, so a table of any class will do, or a dict.
    return Converter(datatype, shape.kind, lambda columns: datatype(**columns), dict)


def _image(wanted: Any, shapes: Sequence[Shape]) -> Converter | None:
    shape = shapes[0]
    if shape.kind is not Kind.IMAGE or wanted not in {None, np.ndarray}:
        return None

    def read(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            raise ValueError(f"{shape.address} holds no image yet")
        return value

    def write(_value: Any) -> Any:
        raise TypeError(f"{shape.address}: a put to an NTNDArray is not supported")

    return Converter(np.ndarray, shape.kind, read, write)


def _inferred(wanted: Any, shapes: Sequence[Shape]) -> Converter | None:
    shape = shapes[0]
    if shape.datatype is None or (wanted is not None and wanted != shape.datatype):
        return None
    if shape.kind is Kind.ENUM and shape.array:
        # Channel Access sends the indices of an array of enums, and no labels with them.
        return Converter(shape.datatype, shape.kind, lambda value: [str(index) for index in value], list)
    return Converter(shape.datatype, shape.kind)


_RULES = (_plain, _flag, _label, _text, _whole_number, _long_string, _table, _image, _inferred)


def _checked(shape: Shape, read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Read values of the type that the PV had at connect; its server may come back with another."""
    if shape.numbers:
        dtype = np.dtype(shape.element)

        def checked_array(value: Any) -> Any:
            if isinstance(value, list) and not value:
                return read(np.empty(0, dtype))  # what its server has never set
            if type(value) is not np.ndarray or value.dtype != dtype:
                raise _changed(shape, value)
            return read(value)

        return checked_array
    scalar = shape.scalar
    if scalar is None:
        return read

    def checked(value: Any) -> Any:
        if type(value) is scalar:
            return read(value)
        # An array with room for one element is a scalar over Channel Access, even while it holds none.
        if not isinstance(value, list | np.ndarray) or len(cast("Sequence[Any]", value)):
            raise _changed(shape, value)
        if scalar is str:
            return read("")
        raise ValueError(f"{shape.address} holds no value: it is an array without elements")

    return checked


def _changed(shape: Shape, value: Any) -> TypeError:
    datatype = format_datatype(shape.datatype)
    return TypeError(
        f"{shape.address} was {datatype} when it was connected, and now carries {value!r}: connect it again"
    )
