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
        return told(self, pv, last(self, pv, count, as_string, form, use_monitor), given)

    def get_last_of_all(self: Any, pv: Any, *given: Any) -> dict[str, Any]:
        _, _, as_string, form, use_monitor = given
        return told(self, pv, last(self, pv, None, as_string, form, use_monitor), given)

    def told(signal: Any, pv: Any, update: tuple[Any, float | None] | None, given: tuple[Any, ...]) -> dict[str, Any]:
        if update is None:
            known = get_with_timeout(signal, pv, *given)
            timestamp = known.get("timestamp")
        else:
            value, timestamp = update
            known = {"value": value}
        if timestamp is not None and signal._monitors.get(pv.pvname) is not None:  # noqa: SLF001
            # What `read` puts beside the value: the callbacks, which bring it otherwise, may come later.
            if pv is signal._read_pv:  # noqa: SLF001
                signal._metadata["timestamp"] = timestamp  # noqa: SLF001
            if pv is getattr(signal, "_write_pv", None) and "setpoint_timestamp" in signal._metadata:  # noqa: SLF001
                signal._metadata["setpoint_timestamp"] = timestamp  # noqa: SLF001
        return known

    # ophyd 1.9 has no count.
    replacement = get_last if "count" in inspect.signature(get_with_timeout).parameters else get_last_of_all
    replacement.__doc__ = get_with_timeout.__doc__
    return replacement
