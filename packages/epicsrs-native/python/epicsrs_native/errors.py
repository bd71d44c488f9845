"""What the network can do to a call, as exceptions.

A caller's own mistake (a bad name, value or timeout, a closed channel) is a ``ValueError`` or ``TypeError``.
"""


class EpicsError(Exception):
    """Something between this process and a PV went wrong; ``pv`` is the name the caller gave."""

    def __init__(self, message: str, pv: str = "") -> None:
        # Only the message goes up: with two arguments an OSError subclass would read the first as errno.
        super().__init__(message)
        self.pv = pv

    def __reduce__(self) -> tuple[type["EpicsError"], tuple[str, ...]]:
        return type(self), (str(self.args[0]), self.pv)


class NotConnectedError(EpicsError, ConnectionError):
    """No server answered for the PV within the timeout, or its circuit was lost."""


class ReplyTimeoutError(EpicsError, TimeoutError):
    """The PV is connected, but its server did not reply within the timeout."""


class RemoteError(EpicsError):
    """The server refused; ``reason`` holds its own words."""

    def __init__(self, message: str, pv: str = "", reason: str = "") -> None:
        super().__init__(message, pv)
        self.reason = reason

    def __reduce__(self) -> tuple[type["RemoteError"], tuple[str, ...]]:
        return type(self), (str(self.args[0]), self.pv, self.reason)


class AccessDeniedError(RemoteError, PermissionError):
    """The server's access security does not allow this client to read or write the PV."""
