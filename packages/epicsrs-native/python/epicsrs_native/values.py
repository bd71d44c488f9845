"""Values that a stable-ABI extension cannot define itself."""

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

    def __new__(cls, index: int, label: str | None = None) -> "EnumValue":
        self = super().__new__(cls, index)
        self.label = label
        return self

    __str__ = int.__repr__

    def __repr__(self) -> str:
        return f"EnumValue({int(self)}, {self.label!r})"

    def __reduce__(self) -> tuple[type["EnumValue"], tuple[int, str | None]]:
        return type(self), (int(self), self.label)
