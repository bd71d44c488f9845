"""What POSIX and Windows do differently with files: locks, names that outlive a power failure, names of open files."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    import fcntl
except ModuleNotFoundError:
    fcntl = None
    # Its stub is for Windows only.
    msvcrt: Any = import_module("msvcrt")

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Windows changes the line ends of a file that is not binary.
BINARY: int = getattr(os, "O_BINARY", 0)
# Whether an open file can be given another name.
RENAMES_OPEN_FILES = sys.platform != "win32"
# The one byte that is locked on Windows, where nobody else can read what is; the C runtime may know none beyond.
_LOCKED_BYTE = 2**31 - 2


def lock(fd: int) -> None:
    """Lock an open file; OSError where somebody else holds it. A lock ends with its process."""
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        _lock_byte(fd, msvcrt.LK_NBLCK)


def unlock(fd: int) -> None:
    """Let others lock it."""
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_UN)
    else:
        _lock_byte(fd, msvcrt.LK_UNLCK)


def sync(fd: int) -> None:
    """Have what was written on the disk; what fsync leaves in the disk's own memory on macOS as well."""
    full: int | None = getattr(fcntl, "F_FULLFSYNC", None)
    if fcntl is not None and full is not None:
        with suppress(OSError):  # of a file system that knows no such thing
            fcntl.fcntl(fd, full)
            return
    os.fsync(fd)


def sync_folder(folder: Path) -> None:
    """See to it that names made or changed in this folder outlive a power failure; Windows has no call for that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(fd)
    finally:
        os.close(fd)


def in_each_child(call: Callable[[], None]) -> None:
    """Call this in each process that is forked from this one, where processes are forked."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=call)


def _lock_byte(fd: int, mode: int) -> None:
    position = os.lseek(fd, 0, os.SEEK_CUR)
    os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(fd, mode, 1)
    finally:
        os.lseek(fd, position, os.SEEK_SET)
