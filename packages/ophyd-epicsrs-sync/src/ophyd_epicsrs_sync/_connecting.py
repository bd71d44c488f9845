"""`Device.wait_for_connection` for all signals of a device together.

ophyd makes the lazy ones one after the other, and waits for each: a search, an answer and a reading for every one of
the thousand signals of an areaDetector. Made without that, they are searched, read and subscribed to in one batch.
"""

from __future__ import annotations

import inspect
import math
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ophyd_epicsrs_sync._control_layer import get_dispatcher
from ophyd_epicsrs_sync._pv import PV

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds without a signal that connects, after which ophyd's own wait goes on: it looks every 50 ms.
_AWHILE: Final = 0.1
# Seconds for that, at least: it says what is missing.
_LAST_LOOK: Final = 0.01


def together(wait_for_connection: Callable[..., Any]) -> Callable[..., Any]:
    """`Device.wait_for_connection`, that makes all lazy signals before it waits for the first."""
    # A number of seconds in ophyd 1.9; then what stands for the device's own.
    default: Any = inspect.signature(wait_for_connection).parameters["timeout"].default

    def wait_together(self: Any, all_signals: bool = False, timeout: Any = default) -> None:
        if timeout is default and not isinstance(default, float):
            timeout = self.connection_timeout
        end = time.monotonic() + (math.inf if timeout is None else timeout)
        if all_signals:
            _make_lazy_signals(self)
        for walk in self.walk_signals(include_lazy=all_signals):
            if not isinstance(getattr(walk.item, "_read_pv", None), PV):
                continue
            left = max(end - time.monotonic(), 0.0)
            # On the metadata lane nothing comes by itself.
            most = left if get_dispatcher().lane("metadata").here else min(left, _AWHILE)
            try:
                walk.item.wait_for_connection(timeout=None if most == math.inf else most)
            except TimeoutError:
                # The others had as long as this one.
                break
        wait_for_connection(self, all_signals=all_signals, timeout=max(end - time.monotonic(), _LAST_LOOK))

    wait_together.__doc__ = wait_for_connection.__doc__
    return wait_together


def _make_lazy_signals(device: Any) -> None:
    do_not_wait = import_module("ophyd.device").do_not_wait_for_lazy_connection
    device_class = import_module("ophyd.device").Device
    with do_not_wait(device):
        components = [getattr(device, name) for name in device.component_names]
    for component in components:
        if isinstance(component, device_class):
            _make_lazy_signals(component)
