"""The folder that journals lie in."""

from __future__ import annotations

import tempfile
from pathlib import Path

from epicsrs_bulk._files import lock, sync, sync_folder
from epicsrs_bulk._journal import DELIVERED, UNDELIVERED
from epicsrs_bulk._sink_errors import JournalError


def check_folder(folder: Path) -> Path:
    """Make the folder where it is missing, and see that a journal can be written there; its absolute path.

    Raises:
        JournalError: It cannot, and why.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            lock(probe.fileno())
            probe.write(b"epicsrs")
            probe.flush()
            sync(probe.fileno())
        sync_folder(folder)
    except OSError as error:
        raise JournalError(f"{folder}: no journal can be written here: {error}", str(folder)) from error
    return folder.resolve()


def journals(path: Path) -> list[Path]:
    """The journals in a folder, oldest first, or the one that `path` names; delivered ones included.

    Raises:
        JournalError: There is no such file or folder.
    """
    try:
        if not path.is_dir():
            path.stat()
            return [path]
        found = [file for suffix in (UNDELIVERED, DELIVERED) for file in path.glob(f"*{suffix}")]
        return sorted(found, key=lambda file: (_modified(file), file.name))
    except OSError as error:
        raise JournalError(f"{path}: {error}", str(path)) from error


def _modified(file: Path) -> float:
    """When it was written last; a rename does not change that."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # delivered and renamed meanwhile
        return 0.0
