"""A pytest plugin for pyepics' tests of its PV: where OPHYD_CONTROL_LAYER says so, the PVs that they get are ours.

caget and caput of pyepics make their PVs by the factory that is replaced here. Its caget_many and caput_many are no
methods of a PV, and ask `ca` itself or take a failed put for a number: the context's stand in for them.
"""

import os
from collections.abc import Sequence
from typing import Any

import epics

from epicsrs_native import EpicsError, get_context


class Factory:
    """pyepics' `PV` and `get_pv`, which have a monitor unless they are told not to; ophyd always says."""

    def __call__(self, pvname: str, callback: Any = None, auto_monitor: Any = True, **options: Any) -> Any:
        # Its import gives pyepics another PV, where it runs on pyepics.
        import ophyd

        return ophyd.get_cl().get_pv(pvname, callback=callback, auto_monitor=auto_monitor, **options)


def caget_many(pvlist: Sequence[str]) -> list[Any]:
    context = get_context()
    readings = context.get_many([context.channel(pv) for pv in pvlist])
    return [None if isinstance(reading, EpicsError) else reading.value for reading in readings]


def caput_many(
    pvlist: Sequence[str], values: Sequence[Any], wait: Any, connection_timeout: float, put_timeout: float = 60.0
) -> list[int]:
    context = get_context()
    channels = [context.channel(pv) for pv in pvlist]
    connected = context.connect_many(channels, timeout=connection_timeout)
    served = [n for n, error in enumerate(connected) if error is None]
    errors = context.put_many(
        [channels[n] for n in served], [values[n] for n in served], wait=bool(wait), timeout=put_timeout
    )
    put = {n for n, error in zip(served, errors, strict=True) if error is None}
    return [1 if n in put else -1 for n in range(len(pvlist))]


if os.environ["OPHYD_CONTROL_LAYER"] == "epicsrs":
    epics.PV = epics.get_pv = Factory()
    epics.caget_many, epics.caput_many = caget_many, caput_many
