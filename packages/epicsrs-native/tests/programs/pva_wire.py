"""pvAccess messages: headers, type descriptions and values that a server sends."""

import struct

VALIDATION, ECHO, SEARCH, FOUND, CREATE, DESTROY, VALIDATED, GET = 1, 2, 3, 4, 7, 8, 9, 10
MONITOR, GET_FIELD = 13, 17
INIT = 0x08
OK = b"\xff"
# What a sane answer holds.
VALUE = 3.25
WRONG = -99.0


def text(words: bytes) -> bytes:
    return bytes([len(words)]) + words


def structure(name: bytes, *fields: tuple[bytes, bytes]) -> bytes:
    return b"\x80" + text(name) + bytes([len(fields)]) + b"".join(text(field) + kind for field, kind in fields)


INT, LONG, DOUBLE, STRING = b"\x22", b"\x23", b"\x43", b"\x60"
ALARM = structure(b"alarm_t", (b"severity", INT), (b"status", INT), (b"message", STRING))
TIME = structure(b"time_t", (b"secondsPastEpoch", LONG), (b"nanoseconds", INT), (b"userTag", INT))


def scalar(kind: bytes) -> bytes:
    """The type of an NTScalar."""
    return structure(b"epics:nt/NTScalar:1.0", (b"value", kind), (b"alarm", ALARM), (b"timeStamp", TIME))


def failure(words: bytes) -> bytes:
    """A status that is an error."""
    return b"\x02" + text(words) + text(b"")


REST = struct.pack("<ii", 0, 0) + text(b"") + struct.pack("<qii", 1_600_000_000, 123_456_789, 0)


def reading(value: float = VALUE) -> bytes:
    """All of an NTScalar, after the bit that says so."""
    return b"\x01\x01" + struct.pack("<d", value) + REST


def message(command: int, payload: bytes = b"", flags: int = 0x40) -> bytes:
    return struct.pack("<BBBBI", 0xCA, 2, flags, command, len(payload)) + payload
