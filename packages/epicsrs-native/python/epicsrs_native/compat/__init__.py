"""The names of ophyd-epicsrs 0.8, for code that cannot change yet.

Here alone things have the shapes that 0.8 gave them: a dict with pyepics' keys for a reading, lists as long as the
record's array can be, a plain int for an enum, None and False for what failed. Everywhere else in this package a call
raises, and gives Readings and numpy arrays. The how-to "Names of ophyd-epicsrs" has what to write instead.
"""

import epicsrs_native
from epicsrs_native import caught_panic_count
from epicsrs_native.compat.context import EpicsRsContext, EpicsRsPvaContext
from epicsrs_native.compat.pv import EpicsRsPV, EpicsRsPvaPV

__all__ = [
    "EpicsRsContext",
    "EpicsRsPV",
    "EpicsRsPvaContext",
    "EpicsRsPvaPV",
    "caught_panic_count",
    "get_ca_context",
    "get_pva_context",
    "reset_log_cache",
    "shutdown_all",
]

_ca = EpicsRsContext()
_pva = EpicsRsPvaContext()


def get_ca_context() -> EpicsRsContext:
    """The process's Channel Access client."""
    return _ca


def get_pva_context() -> EpicsRsPvaContext:
    """The process's pvAccess client; below it is the same one."""
    return _pva


def shutdown_all() -> None:
    """Close the client; a later call opens a fresh one.

    Raises:
        RuntimeError: A PV that ``create_pv`` has made is still alive.
    """
    if not (_ca.is_unused() and _pva.is_unused()):
        raise RuntimeError("shutdown_all: PVs that create_pv() has made are still alive; release them first")
    epicsrs_native.shutdown_all()


def reset_log_cache() -> bool:
    """True, and nothing to do: a logger's new level counts at once."""
    return True
