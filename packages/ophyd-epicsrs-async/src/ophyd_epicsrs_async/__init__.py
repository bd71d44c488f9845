"""ophyd-async's signals and commands on epicsrs-native: Channel Access and pvAccess through one client."""

import epicsrs_native

epicsrs_native.require_abi(1, 0, "ophyd-epicsrs-async")

import ophyd_async.core

from ._backend import EpicsRsSignalBackend
from ._signal import (
    epicsrs_signal_r,
    epicsrs_signal_rw,
    epicsrs_signal_rw_rbv,
    epicsrs_signal_w,
    epicsrs_signal_x,
)
from ._takeover import install, uninstall

__all__ = [
    "EpicsRsSignalBackend",
    "epicsrs_signal_r",
    "epicsrs_signal_rw",
    "epicsrs_signal_rw_rbv",
    "epicsrs_signal_w",
    "epicsrs_signal_x",
    "install",
    "uninstall",
]

if hasattr(ophyd_async.core, "TriggerableCommand"):
    from ._command import EpicsRsCommandBackend, epicsrs_triggerable_command

    __all__ += ["EpicsRsCommandBackend", "epicsrs_triggerable_command"]
