"""Channel Access messages: headers, and payloads that a server sends."""

import struct
from typing import NamedTuple

VERSION, EVENT_ADD, EVENT_CANCEL, SEARCH, ERROR, CLEAR, READ = 0, 1, 2, 6, 11, 12, 15
CREATE, WRITE, RIGHTS, ECHO, CREATE_FAILED, SERVER_DISCONNECTED = 18, 19, 22, 23, 26, 27
STRING, ENUM, DOUBLE = 0, 3, 6
NORMAL, GET_FAILED, BAD_TYPE = 1, 152, 114
# What a sane answer holds.
VALUE = 3.25
WRONG = -99.0


class Header(NamedTuple):
    """The first 16 bytes of a message."""

    command: int
    size: int = 0
    type: int = 0
    count: int = 0
    first: int = 0
    second: int = 0


def message(
    command: int, kind: int = 0, count: int = 0, first: int = 0, second: int = 0, payload: bytes = b""
) -> bytes:
    padded = payload + bytes(-len(payload) % 8)
    return struct.pack(">HHHHII", command, len(padded), kind, count, first, second) + padded


def head(kind: int) -> bytes:
    """What stands before the value in a reply of a type: alarm, time, limits."""
    family, native = divmod(kind, 7)
    if family == 0:
        return b""
    alarm = struct.pack(">hh", 0, 0)
    if family == 1:
        return alarm + (bytes(4) if native == DOUBLE else b"")
    if family == 2:
        time = alarm + struct.pack(">II", 1_000_000_000, 123_456_789)
        return time + {DOUBLE: bytes(4), ENUM: bytes(2)}.get(native, b"")
    if native == DOUBLE:
        return alarm + struct.pack(">hh8s", 3, 0, b"mm") + struct.pack(">8d", *range(8))[: 64 if family == 4 else 48]
    return alarm + (LABELS if native == ENUM else b"")


# 16 labels of 26 bytes without a NUL, and more of them announced than there is room for.
LABELS = struct.pack(">H", 20) + b"".join(b"%02d" % n + b"\xb5" * 24 for n in range(16))


def body(kind: int, value: float = VALUE) -> bytes:
    """The payload of a reply: 40 bytes without a NUL, an index beyond all labels, or a number."""
    native = kind % 7
    return head(kind) + {STRING: b"\xb5" * 40, ENUM: struct.pack(">H", 65535)}.get(native, struct.pack(">d", value))
