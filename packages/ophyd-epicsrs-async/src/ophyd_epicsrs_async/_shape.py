"""What a PV carries, in the same words for both protocols."""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, NamedTuple, cast

import numpy as np
from ophyd_async.core import Array1D, Table

from epicsrs_native import EnumValue, Info, Reading, Structure

from ._address import Address, Protocol


class Kind(Enum):
    """What the elements of a value are."""

    BOOLEAN = auto()
    INTEGER = auto()
    FLOAT = auto()
    STRING = auto()
    ENUM = auto()
    TABLE = auto()
    IMAGE = auto()
    OTHER = auto()


# Channel Access: the DBR types. pvAccess: the scalar types of its specification, and `enum_t` of the normative types.
_ELEMENTS: dict[Protocol, dict[str, type[Any]]] = {
    "ca": {
        "string": str,
        "short": np.int16,
        "float": np.float32,
        "enum": Enum,
        "char": np.uint8,
        "long": np.int32,
        "double": np.float64,
    },
    "pva": {
        "boolean": np.bool_,
        "byte": np.int8,
        "short": np.int16,
        "int": np.int32,
        "long": np.int64,
        "ubyte": np.uint8,
        "ushort": np.uint16,
        "uint": np.uint32,
        "ulong": np.uint64,
        "float": np.float32,
        "double": np.float64,
        "string": str,
        "enum_t": Enum,
    },
}

_ARITHMETIC = {Kind.BOOLEAN, Kind.INTEGER, Kind.FLOAT}
_STRUCTURES = {"epics:nt/NTTable:1.0": Kind.TABLE, "epics:nt/NTNDArray:1.0": Kind.IMAGE}

_SCALARS: dict[Kind, type[Any]] = {
    Kind.BOOLEAN: bool,
    Kind.INTEGER: int,
    Kind.FLOAT: float,
    Kind.STRING: str,
    Kind.ENUM: EnumValue,
}


class Shape(NamedTuple):
    """The type of one PV, and those of its metadata that decide how it may be read.

    Attributes:
        address: The PV.
        wire_type: The server's own word for its type, with `[]` where it is an array: "double", "long[]", or a
            structure's id.
        kind: What its elements are.
        element: The numpy type of a number; `str` for a string.
        array: Whether it is an array. A Channel Access array has room for more than one element.
        choices: An enum's labels.
        precision: Digits behind the decimal point, of a float.
    """

    address: Address
    wire_type: str
    kind: Kind
    element: type[Any] | None
    array: bool
    choices: tuple[str, ...] | None
    precision: int | None

    @classmethod
    def of(cls, address: Address, reading: Reading, info: Info | None) -> "Shape":
        """The shape of a connected PV, from a reading with `form="ctrl"`.

        Over pvAccess it does without `info`, but for the width of a scalar number: it is taken to be the widest.
        """
        known, count = (_word(reading), 1) if info is None else (info.type, info.count or 1)
        word = known.removesuffix("[]")
        array = word != known or count > 1
        element = _ELEMENTS[address.protocol].get(word)
        metadata = reading.metadata
        return cls(
            address=address,
            wire_type=word + "[]" if array else word,
            kind=_STRUCTURES.get(known, Kind.OTHER) if element is None else _kind(element),
            element=element,
            array=array,
            choices=None if metadata is None else metadata.choices,
            precision=None if metadata is None else metadata.precision,
        )

    @property
    def datatype(self) -> Any:
        """The datatype of a signal that asks for none; None where there is no such datatype."""
        if self.numbers:
            element: Any = self.element
            return Array1D[element]
        match self.kind:
            case Kind.STRING | Kind.ENUM:
                return Sequence[str] if self.array else str
            case Kind.BOOLEAN:
                return bool
            case Kind.INTEGER:
                return int
            case Kind.FLOAT:
                return float
            case Kind.TABLE:
                return Table
            case Kind.IMAGE:
                return np.ndarray
            case Kind.OTHER:
                return None

    @property
    def scalar(self) -> type[Any] | None:
        """The Python type of native's values; None where they are no scalars."""
        return None if self.array else _SCALARS.get(self.kind)

    @property
    def numbers(self) -> bool:
        """Whether it is an array of numbers."""
        return self.array and self.kind in _ARITHMETIC


def _kind(element: type[Any]) -> Kind:
    if element is Enum:
        return Kind.ENUM
    if element is str:
        return Kind.STRING
    if element is np.bool_:
        return Kind.BOOLEAN
    return Kind.FLOAT if issubclass(element, np.floating) else Kind.INTEGER


# Looked up by the exact type: a bool is an int, and so is an EnumValue.
_WORDS: dict[object, str] = {bool: "boolean", int: "long", float: "double", str: "string", EnumValue: "enum_t"}
_NUMBERS: dict[str, str] = {
    np.dtype(element).name: word for word, element in _ELEMENTS["pva"].items() if _kind(element) in _ARITHMETIC
}


def _word(reading: Reading) -> str:
    """What pvAccess calls the type of a reading's value, or the id of its structure; "" where that is left open."""
    value: Any = reading.value
    if isinstance(value, bool | int | float | str):
        return _WORDS[type(value)]
    if isinstance(value, Structure):
        return value.id
    if isinstance(value, list):
        # One that its server has never set is empty, whatever it is of.
        items = cast("list[Any]", value)
        return "string[]" if items and all(isinstance(item, str) for item in items) else ""
    # An image has more around its value.
    return _NUMBERS[value.dtype.name] + "[]" if reading.fields is None else reading.fields.id
