"""pyepics' PV on a native Channel; pyepics' words live here only."""

from ophyd_epicsrs_sync._pv import callbacks
from ophyd_epicsrs_sync._pv.pv import PV

__all__ = ["PV", "callbacks"]
