"""Values that a stable-ABI extension cannot define itself."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

# Events of a Channel Access monitor's mask (caeventmask.h).
DBE_VALUE = 1
DBE_LOG = 2
DBE_ALARM = 4
DBE_PROPERTY = 8


class EnumValue(int):
    """An enum's index that knows its label: an ``int`` in every comparison and format.

    ``label`` is None where the server names no choice for the index.
    """

    label: str | None

    def __new__(cls, index: int, label: str | None = None) -> EnumValue:
        self = super().__new__(cls, index)
        self.label = label
        return self

    __str__ = int.__repr__

    def __repr__(self) -> str:
        return f"EnumValue({int(self)}, {self.label!r})"

    def __reduce__(self) -> tuple[type[EnumValue], tuple[int, str | None]]:
        return type(self), (int(self), self.label)


class Structure(dict[str, "Any"]):
    """A pvAccess structure: its fields by name, in order; ``id`` is the type's id, "" where it has none."""

    id: str

    def __init__(self, fields: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), id: str = "") -> None:  # noqa: A002
        super().__init__(fields)
        self.id = id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({super().__repr__()}, id={self.id!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self.id)


class Table(Structure):
    """An NTTable: its columns by name, in order, each a numpy array, shape (rows,), or a list of str.

    ``labels`` are the headings for display, one for each column.
    """

    labels: tuple[str, ...]

    def __init__(
        self,
        columns: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        id: str = "",  # noqa: A002
        labels: tuple[str, ...] = (),
    ) -> None:
        super().__init__(columns, id)
        self.labels = labels

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self.id, self.labels)
