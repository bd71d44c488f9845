"""`EpicsSignal.get` of a monitored signal: the value of the last update, and nothing else.

ophyd looks again whether the signal is connected, asks for all that is known of the PV, and takes the value out of it:
who has a monitor has had the rest with its updates.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ophyd_epicsrs_sync._pv import PV

if TYPE_CHECKING:
    from collections.abc import Callable


def alone(get_with_timeout: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """`EpicsSignalBase._get_with_timeout`, whose dict has the value alone where ophyd looks for nothing else."""
    logs: Callable[[int], bool] = import_module("ophyd.log").control_layer_logger.isEnabledFor

    def get_last(
        self: Any,
        pv: Any,
        timeout: Any,
        connection_timeout: Any,
        count: int | None,
        as_string: bool,
        form: str,
        use_monitor: Any,
    ) -> dict[str, Any]:
        if (
            use_monitor
            and form == "time"
            and not as_string
            and isinstance(pv, PV)
            and self._monitors[pv.pvname] is not None
            and self.connected
            # ophyd says of each get when it begins and ends.
            and not logs(logging.DEBUG)
        ):
            value = pv.last_value(count)
            if value is not None:
                return {"value": value}
        return get_with_timeout(self, pv, timeout, connection_timeout, count, as_string, form, use_monitor)

    get_last.__doc__ = get_with_timeout.__doc__
    return get_last
