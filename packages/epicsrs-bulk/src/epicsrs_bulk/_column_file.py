"""Columns of a flyer in an HDF5 file, and the documents that announce them."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from epicsrs_bulk._errors import FlightFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from bluesky.protocols import StreamAsset
    from event_model import ComposeStreamResourceBundle, DataKey

MIMETYPE = "application/x-hdf5"
# Rows in a chunk of each dataset; readers want the same one in all files of a stream.
CHUNK = 1024
# Bytes that a dataset's header and attributes may take, and its index for each chunk.
_OVERHEAD, _INDEX = 4096, 64


class ColumnFile:
    """One HDF5 file with a dataset for each key, all of one length; open during flights only.

    It is made when the first flight begins, and opened again for the next one of the same run, whose rows follow. While
    it is open, others may read it (SWMR).

    Args:
        name: The flyer's.
        path: Of a file that does not exist yet.
        keys: What is described, with ``dtype_numpy``.

    Attributes:
        written: Rows that are in the file, and that a reader finds there.
        announced: Rows that documents have announced.
    """

    def __init__(self, name: str, path: Path, keys: Mapping[str, DataKey]) -> None:
        self.path = path.absolute()
        self.written = 0
        self.announced = 0
        self._name = name
        self._keys = keys
        self._file: Any = None
        self._bundles: list[ComposeStreamResourceBundle] = []

    @property
    def uri(self) -> str:
        """As Tiled and ophyd-async write and read it: without percent signs for what is not a letter."""
        return f"file://localhost/{self.path.as_posix().removeprefix('/')}"

    def begin(self, expected: int | None) -> None:
        """Make the file and its datasets, or open it again.

        Raises:
            FlightFileError: It cannot be made or written to, or the disk has no room for the rows that are expected.
        """
        try:
            if {"#", "?"} & set(str(self.path)):
                raise OSError("a reader of the documents does not find a path with '#' or '?' in it")
            self._check_room(expected or CHUNK)
            self._open()
        except (OSError, RuntimeError) as error:
            self._give_up()
            raise self._error("cannot be written", error) from error

    def add(self, page: dict[str, Any]) -> None:
        """Append the rows of a partial EventPage; documents announce all of them or none.

        Raises:
            FlightFileError: They could not be written, as on a disk that is full; it has the page.
        """
        assert self._file is not None, "begin() comes first"
        end = self.written + len(page["time"])
        try:
            self._reserve(end)
            for key, values in page["data"].items():
                dataset = self._file[key]
                dataset.resize(end, axis=0)
                dataset[self.written :] = values
            self._file.flush()
        except (OSError, RuntimeError) as error:
            raise self._error(f"{end - self.written} rows were not written", error, page) from error
        self.written = end

    def end(self) -> None:
        """Close it.

        Raises:
            FlightFileError: That failed; what was written is not safe.
        """
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.close()
        except (OSError, RuntimeError) as error:
            raise self._error("could not be closed", error) from error

    def documents(self, upto: int) -> Iterator[StreamAsset]:
        """StreamResources at the first rows, and StreamDatums for rows that were not announced, up to one of them."""
        start, stop = self.announced, min(upto, self.written)
        if stop <= start:
            return
        if not start:
            for bundle in self._bundles:
                yield "stream_resource", bundle.stream_resource_doc
        self.announced = stop
        for bundle in self._bundles:
            # Not validated: in the RunEngine's loop that takes as long as all the rest.
            yield "stream_datum", bundle.compose_stream_datum({"start": start, "stop": stop}, validate=False)

    def _open(self) -> None:
        # It has no types, and takes a fifth of a second that reads of many PVs need not spend.
        h5py: Any = import_module("h5py")
        if self._bundles:
            try:
                self._file = h5py.File(self.path, "r+", libver="v110")
            except BlockingIOError:
                # A reader without SWMR has locked it; nobody else writes.
                self._file = h5py.File(self.path, "r+", libver="v110", locking=False)
        else:
            self._file = h5py.File(self.path, "x", libver="v110")
            for key, described in self._keys.items():
                dataset = self._file.create_dataset(
                    key, (0,), np.dtype(described.get("dtype_numpy")), maxshape=(None,), chunks=(CHUNK,)
                )
                for attribute in ("source", "units"):
                    dataset.attrs[attribute] = described.get(attribute) or ""
            self._bundles = [self._compose(key) for key in self._keys]
        self._file.swmr_mode = True

    def _give_up(self) -> None:
        """Leave no file behind that was made and cannot be used."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError, RuntimeError):
                file.close()
            if not self._bundles:
                self.path.unlink(missing_ok=True)

    def _compose(self, key: str) -> ComposeStreamResourceBundle:
        from event_model import ComposeStreamResource

        return ComposeStreamResource()(
            mimetype=MIMETYPE,
            uri=self.uri,
            data_key=key,
            parameters={"dataset": f"/{key}", "chunk_shape": [CHUNK]},
        )

    def _check_room(self, rows: int) -> None:
        needed = self._size(rows)
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise OSError(f"{rows} rows need {needed:.3g} bytes, and the disk has {free:.3g} free")

    def _reserve(self, end: int) -> None:
        """Take the disk space for rows up to one, so that HDF5 finds it: of a disk that is full it crashes.

        Seen with HDF5 2.0 in a flush of a file in SWMR mode: a segmentation fault.
        """
        if sys.platform != "linux":
            return
        descriptor = os.open(self.path, os.O_RDWR)
        try:
            more = self._size(0) + self._size(end) - self._size(self.written)
            os.posix_fallocate(descriptor, 0, self._file.id.get_filesize() + more)
        except OSError as error:
            # Not every C library fills in for a file system that reserves nothing.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
        finally:
            os.close(descriptor)

    def _size(self, rows: int) -> int:
        """The bytes of so many rows, in whole chunks, with what HDF5 needs to find them."""
        sizes = [np.dtype(described.get("dtype_numpy")).itemsize for described in self._keys.values()]
        chunks = -(-rows // CHUNK)
        return sum((size * CHUNK + _INDEX) * chunks for size in sizes) + _OVERHEAD * len(sizes)

    def _error(self, what: str, error: Exception, page: dict[str, Any] | None = None) -> FlightFileError:
        return FlightFileError(f"{self._name}: {self.path}: {what}: {error}", self._name, str(self.path), page)
