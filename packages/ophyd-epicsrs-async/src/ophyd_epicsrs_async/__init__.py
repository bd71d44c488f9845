"""ophyd-async's signals and commands on epicsrs-native: Channel Access and pvAccess through one client."""

import epicsrs_native

epicsrs_native.require_abi(1, 0, "ophyd-epicsrs-async")

from ._backend import EpicsRsSignalBackend
from ._command import EpicsRsCommandBackend
from ._signal import (
    epicsrs_signal_r,
    epicsrs_signal_rw,
    epicsrs_signal_rw_rbv,
    epicsrs_signal_w,
    epicsrs_signal_x,
    epicsrs_triggerable_command,
)
from ._takeover import install, uninstall

__all__ = [
    "EpicsRsCommandBackend",
    "EpicsRsSignalBackend",
    "epicsrs_signal_r",
    "epicsrs_signal_rw",
    "epicsrs_signal_rw_rbv",
    "epicsrs_signal_w",
    "epicsrs_signal_x",
    "epicsrs_triggerable_command",
    "install",
    "uninstall",
]
