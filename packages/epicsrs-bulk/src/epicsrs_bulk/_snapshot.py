"""Many PVs as one Readable, for the baseline of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from epicsrs_bulk._channels import channels
from epicsrs_bulk._columns import check_key, check_unique
from epicsrs_bulk._read import BulkRead, bulk_read_async, checked_pvs, name_of
from epicsrs_native import EnumValue, EpicsError, get_context

if TYPE_CHECKING:
    from bluesky.protocols import Reading
    from event_model import DataKey


class BulkSnapshot:
    """The values of many PVs at one moment, read at once; a device for ``SupplementalData(baseline=[...])``.

    An enum is its label, or its index as text where the record has no label for that. Arrays are described with the
    length that they have when a run begins; not all readers of documents take one whose length changes within a run.

    Args:
        name: The device's, in documents.
        pvs: Names by key; or names alone, whose keys are the names with ``_`` for ``.``, ``/`` and ``://``.
        timeout: Seconds for each read, connections included.

    Raises:
        TypeError: A key or a PV is not a str.
        ValueError: No PV, one PV or key twice, a key that documents do not allow, a timeout that is not positive.
    """

    parent = None

    def __init__(self, name: str, pvs: Mapping[str, str] | Iterable[str], *, timeout: float = 5.0) -> None:
        named = _named(pvs)
        checked_pvs([pv for _, pv in named], "BulkSnapshot")
        for key, pv in named:
            check_key(key, pv)
        check_unique(key for key, _ in named)
        if not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f"{name}: timeout is positive, not {timeout!r}")
        self._name = name
        self._pvs = dict(named)
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<BulkSnapshot {self._name}: {len(self._pvs)} PVs>"

    @property
    def name(self) -> str:
        return self._name

    async def read(self) -> dict[str, Reading[Any]]:
        """A value and its timestamp by the IOC's clock for each key; 0.0 where a server gives no timestamp.

        Raises:
            EpicsError: A PV did not connect or reply in time, or its server refused; a note names the others.
        """
        readings = await bulk_read_async(self._pvs.values(), timeout=self._timeout)
        readings.raise_first()
        return {
            key: {"value": plain(readings[pv].value), "timestamp": readings[pv].timestamp or 0.0}
            for key, pv in self._pvs.items()
        }

    async def describe(self) -> dict[str, DataKey]:
        """The data keys of what ``read`` gives, with units.

        Raises:
            EpicsError: As ``read``.
        """
        with channels.lend(list(self._pvs.values())) as opened:
            answers = await get_context().get_many_async(opened, form="ctrl", timeout=self._timeout)
        BulkRead.of([*self._pvs.values()], answers).raise_first()
        keys: dict[str, DataKey] = {}
        for (key, pv), answer in zip(self._pvs.items(), answers, strict=True):
            assert not isinstance(answer, EpicsError), "raise_first() would have raised"
            keys[key] = described(pv, answer.value, answer.metadata.units)
        return keys

    def read_configuration(self) -> dict[str, Reading[Any]]:
        return {}

    def describe_configuration(self) -> dict[str, DataKey]:
        return {}


def _named(pvs: Mapping[str, str] | Iterable[str]) -> list[tuple[str, str]]:
    if isinstance(pvs, Mapping):
        return list(cast("Mapping[str, str]", pvs).items())
    return [(key_of(name_of(pv)), name_of(pv)) for pv in checked_pvs(pvs, "BulkSnapshot")]


def key_of(pv: str) -> str:
    """A key that documents allow, from a PV's name."""
    return pv.replace("://", "_").replace(".", "_").replace("/", "_")


def plain(value: Any) -> Any:
    """A value as documents hold it."""
    if not isinstance(value, EnumValue):
        return value
    return str(int(value)) if value.label is None else value.label


def described(pv: str, value: Any, units: str | None) -> DataKey:
    """The data key of one value."""
    array = np.asarray(plain(value))
    kinds = {"f": "number", "i": "integer", "u": "integer", "b": "boolean", "U": "string"}
    key: Any = {
        "source": pv if "://" in pv else f"ca://{pv}",
        "dtype": "array" if array.ndim else kinds.get(array.dtype.kind, "string"),
        "shape": list(array.shape),
    }
    if array.dtype.kind in "fiub":
        key["dtype_numpy"] = array.dtype.str
    if units:
        key["units"] = units
    return key
