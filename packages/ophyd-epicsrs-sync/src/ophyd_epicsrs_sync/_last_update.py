"""`EpicsSignal.get` of a monitored signal: the value of the last update, and nothing else.

ophyd looks again whether the signal is connected, asks for all that is known of the PV, and takes the value out of it:
who has a monitor has had the rest with its updates.
"""

from __future__ import annotations

import inspect
import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ophyd_epicsrs_sync._pv import PV

if TYPE_CHECKING:
    from collections.abc import Callable


def alone(get_with_timeout: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """`EpicsSignalBase._get_with_timeout`, whose dict has the value alone where ophyd looks for nothing else."""
    logs: Callable[[int], bool] = import_module("ophyd.log").control_layer_logger.isEnabledFor

    def last(signal: Any, pv: Any, count: int | None, as_string: bool, form: str, use_monitor: Any) -> Any:
        if (
            use_monitor
            and form == "time"
            and not as_string
            and isinstance(pv, PV)
            and signal._monitors[pv.pvname] is not None  # noqa: SLF001
            and signal.connected
            # ophyd says of each get when it begins and ends.
            and not logs(logging.DEBUG)
        ):
            return pv.last_value(count)
        return None

    def get_last(self: Any, pv: Any, *given: Any) -> dict[str, Any]:
        _, _, count, as_string, form, use_monitor = given
        value = last(self, pv, count, as_string, form, use_monitor)
        return get_with_timeout(self, pv, *given) if value is None else {"value": value}

    def get_last_of_all(self: Any, pv: Any, *given: Any) -> dict[str, Any]:
        _, _, as_string, form, use_monitor = given
        value = last(self, pv, None, as_string, form, use_monitor)
        return get_with_timeout(self, pv, *given) if value is None else {"value": value}

    # ophyd 1.9 has no count.
    replacement = get_last if "count" in inspect.signature(get_with_timeout).parameters else get_last_of_all
    replacement.__doc__ = get_with_timeout.__doc__
    return replacement
