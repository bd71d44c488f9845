"""What can become of a document on its way to a target, as exceptions."""

from __future__ import annotations


class SinkError(RuntimeError):
    """A document, or a whole run, has not got where it belongs."""


class JournalError(SinkError):
    """A journal could not be written or read; ``path`` is its file or folder, and the cause says why."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path

    def __reduce__(self) -> tuple[type[JournalError], tuple[str, ...]]:
        return type(self), (str(self.args[0]), self.path)


class DocumentError(SinkError, ValueError):
    """A document that no journal can hold, or that belongs to no run that has begun."""


class DeliveryError(SinkError):
    """The target has not taken a run; the journal holds it, and `replay` delivers it later."""


class DeliveryTimeoutError(DeliveryError, TimeoutError):
    """The target has not taken a run in time."""
