"""The journal of one run: a file of framed documents that outlives the process."""

from __future__ import annotations

import os
import struct
import time
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote
from weakref import WeakSet

from epicsrs_bulk._files import BINARY, RENAMES_OPEN_FILES, in_each_child, lock, sync, sync_folder, unlock
from epicsrs_bulk._journal_encoding import legible, pack, unpack
from epicsrs_bulk._sink_errors import DocumentError, JournalError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNDELIVERED = ".journal"
DELIVERED = ".delivered"
# Documents that belong to no run; no replay takes them.
STRAY = ".stray"
# A document that could not be written as it is, under its name: what is legible of it, for people.
QUARANTINED = "quarantined"

_MAGIC = b"epicsrs-journal 1\n"
# Length and CRC-32 of a document, little endian. No document is 0 bytes long: zeros, which a file system may leave at
# the end of a file when the power fails, are not a frame.
_FRAME = struct.Struct("<II")
_LONGEST = 2**32 - 1
_SYNCED = frozenset({"descriptor", "event_page", "datum_page", "stream_resource", "stop"})
# Seconds for which documents of other kinds may be on their way from the operating system to the disk.
_SYNC_INTERVAL = 1.0


_journals: WeakSet[Journal] = WeakSet()


def _close_in_child() -> None:
    """A child that outlives its parent does not hold the locks of journals that it never writes."""
    for journal in list(_journals):
        journal.close()


in_each_child(_close_in_child)


class Journal:
    """The documents of one run on their way to a target, in a file ``<run uid>.journal`` that only grows.

    When `append` returns, the document has been handed to the operating system and outlives this process. Descriptors,
    pages, stream resources and stops are on the disk as well (fsync), and other documents at the latest with the next
    one that comes a second later: they outlive a power failure.

    The file is locked until it is closed, so that nobody replays a run that is still being written.

    Args:
        folder: Where the file is made, by `open`.
        run_uid: The run's.

    Attributes:
        made: Whether there is a file.
        whole: Whether every document that it was given is in it.
    """

    def __init__(self, folder: Path, run_uid: str, suffix: str = UNDELIVERED) -> None:
        self.path = folder / f"{quote(run_uid, safe='')}{suffix}"
        self.whole = False
        self._fd = -1
        self._synced = 0.0
        self._size = len(_MAGIC)
        self.made = False
        _journals.add(self)

    def open(self) -> None:
        """Make the file.

        Raises:
            JournalError: It cannot be made, or there is a journal of this run in the folder.
        """
        folder = self.path.parent
        try:
            if self.path.with_suffix(DELIVERED).exists():
                raise FileExistsError(f"{self.path.with_suffix(DELIVERED).name} is there")
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | BINARY, 0o666)
            self.made = True
            lock(self._fd)
            _write(self._fd, _MAGIC)
            sync_folder(folder)
        except OSError as error:
            self.close()
            raise JournalError(f"{folder}: no journal {self.path.name}: {error}", str(folder)) from error
        self.whole = True
        self._synced = time.monotonic()

    def append(self, name: str, payload: bytes) -> None:
        """Write a document that `pack` made.

        A file that could not be written whole is cut back to what it held, and takes no more: a document after a gap
        would make the run look complete.

        Raises:
            JournalError: It could not be written.
            DocumentError: It is longer than 4 GiB.
        """
        if len(payload) > _LONGEST:
            raise DocumentError(f"{name}: {len(payload)} bytes; a journal takes 4 GiB at most")
        if not self.writable:
            raise JournalError(f"{self.path}: not open, {name} not written", str(self.path))
        try:
            _write(self._fd, _FRAME.pack(len(payload), zlib.crc32(payload)))
            _write(self._fd, payload)
            if name in _SYNCED or time.monotonic() - self._synced >= _SYNC_INTERVAL:
                sync(self._fd)
                self._synced = time.monotonic()
        except BaseException as error:
            self._cut_back()
            self.whole = False
            if not isinstance(error, OSError):
                raise
            raise JournalError(f"{self.path}: {name} not written: {error}", str(self.path)) from error
        self._size += _FRAME.size + len(payload)

    @property
    def writable(self) -> bool:
        """Whether the file is open and takes documents."""
        return self._fd >= 0

    def quarantine(self, name: str, doc: dict[str, Any], error: BaseException) -> None:
        """Write what is legible of a document that cannot be written as it is."""
        self.whole = False
        self.append(
            QUARANTINED, pack(QUARANTINED, {"name": name, "error": str(error) or repr(error), "document": legible(doc)})
        )

    def mark_delivered(self) -> None:
        """Rename the file, where there is one, to ``<run uid>.delivered`` and close it.

        Raises:
            JournalError: It could not be renamed.
        """
        if not RENAMES_OPEN_FILES:
            self.close()
        if self.made:
            mark_delivered(self.path)
        self.close()

    def close(self) -> None:
        """Close the file, which also unlocks it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _cut_back(self) -> None:
        with suppress(OSError):
            os.ftruncate(self._fd, self._size)
        self.close()


class JournalReader:
    """The documents in a journal, up to where it ends or can be read no further.

    Args:
        path: A file that a `Journal` wrote.

    Attributes:
        run_uid: As the name of the file has it.
        unread: Bytes at the end that are no whole document, known after iteration. The call of the sink that was
            writing there did not return, unless the file was damaged afterwards.

    Raises:
        JournalError: The file cannot be read, or is no journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_uid = run_uid(path)
        self.unread = 0
        try:
            self._file = path.open("rb")
            self.size = os.fstat(self._file.fileno()).st_size
            self._magic = self._file.read(len(_MAGIC))
        except OSError as error:
            raise JournalError(f"{path}: {error}", str(path)) from error
        if not _MAGIC.startswith(self._magic):
            self._file.close()
            raise JournalError(f"{path}: not a journal of epicsrs-bulk, or of a later version", str(path))

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any], int]]:
        """Name, document and bytes of each."""
        position = len(self._magic)
        self._file.seek(position)
        while (payload := self._frame(self.size - position)) is not None:
            try:
                name, doc = unpack(payload)
            except ValueError:
                break
            length = _FRAME.size + len(payload)
            position += length
            yield name, doc, length
        self.unread = self.size - position

    def lock(self) -> bool:
        """Whether nobody writes or replays this journal now, and until `close` nobody can but us."""
        try:
            lock(self._file.fileno())
            # It may have been delivered and renamed between opening and locking.
            return os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except OSError:
            return False

    def in_use(self) -> bool:
        """Whether somebody writes or replays this journal now."""
        if not self.lock():
            return True
        unlock(self._file.fileno())
        return False

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _frame(self, left: int) -> bytes | None:
        if left < _FRAME.size:
            return None
        length, crc = _FRAME.unpack(self._file.read(_FRAME.size))
        if not 0 < length <= left - _FRAME.size:
            return None
        payload = self._file.read(length)
        return payload if zlib.crc32(payload) == crc else None


def run_uid(path: Path) -> str:
    """The run in a journal, by the name of its file."""
    return unquote(path.stem)


def mark_delivered(path: Path) -> None:
    """Rename a journal so that no replay takes it again.

    Raises:
        JournalError: It could not be renamed.
    """
    try:
        path.rename(path.with_suffix(DELIVERED))
        sync_folder(path.parent)
    except OSError as error:
        raise JournalError(f"{path}: delivered, but not marked as such: {error}", str(path)) from error


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
