"""What ``get_ca_context`` and ``get_pva_context`` return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from epicsrs_native import EpicsError, get_context
from epicsrs_native.compat.pv import EpicsRsPV, EpicsRsPvaPV, prefetched
from epicsrs_native.compat.shapes import value_of_0_8

if TYPE_CHECKING:
    from collections.abc import Sequence


class EpicsRsContext:
    """Channel Access."""

    kind: type[EpicsRsPV] = EpicsRsPV

    def __init__(self) -> None:
        self._made: WeakSet[EpicsRsPV] = WeakSet()
        self._kept: dict[str, EpicsRsPV] = {}

    def create_pv(self, pvname: str) -> EpicsRsPV:
        """A PV by its name without protocol; it connects when it is first used."""
        pv = self.kind(pvname)
        self._made.add(pv)
        return pv

    def is_unused(self) -> bool:
        """Whether no PV that ``create_pv`` has made is alive."""
        return not self._made

    def bulk_caget(self, pvnames: Sequence[str], timeout: float = 5.0) -> dict[str, Any]:
        """The value of each PV by its name, None where it cannot be read; all are asked at once.

        Their channels stay, so that the next call need not connect, until ``shutdown_all``.
        """
        pvs = [self._keep(pvname) for pvname in pvnames]
        readings = get_context().get_many([pv.channel for pv in pvs], timeout=timeout)
        return {
            pv.pvname: None if isinstance(reading, EpicsError) else value_of_0_8(reading.value, pv.width(reading.value))
            for pv, reading in zip(pvs, readings, strict=True)
        }

    def bulk_connect_and_prefetch(
        self, pvs: Sequence[EpicsRsPV], timeout: float = 5.0
    ) -> dict[str, dict[str, Any] | None]:
        """What ``connect_and_prefetch`` gives for each PV, by its name; all are asked at once."""
        return prefetched(pvs, timeout)

    def _keep(self, pvname: str) -> EpicsRsPV:
        kept = self._kept.get(pvname)
        if kept is None or kept.channel.closed:
            kept = self._kept[pvname] = self.kind(pvname)
        return kept


class EpicsRsPvaContext(EpicsRsContext):
    """pvAccess."""

    kind = EpicsRsPvaPV
