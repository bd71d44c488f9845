"""Signals of a device, by the names of their PVs.

A PV is named `NAME` or `ca://NAME` for Channel Access, `pva://NAME` for pvAccess.
"""

import warnings
from collections.abc import Callable
from typing import Any

from ophyd_async.core import (
    DEFAULT_TIMEOUT,
    SignalDatatypeT,
    SignalR,
    SignalRW,
    SignalW,
    SignalX,
    get_unique,
)
from ophyd_async.epics.core import EpicsOptions

from ._address import parse_named_pv
from ._backend import EpicsRsSignalBackend


def epicsrs_signal_rw(
    datatype: type[SignalDatatypeT] | None,
    read_pv: str,
    write_pv: str | None = None,
    name: str = "",
    timeout: float | None = DEFAULT_TIMEOUT,
    attempts: int = 1,
    wait: bool | Callable[[SignalDatatypeT], bool] = True,
) -> SignalRW[SignalDatatypeT]:
    """A signal to read and write.

    Args:
        datatype: What its values are; checked at connect. None takes what the PV carries.
        read_pv: The PV to read and monitor.
        write_pv: The PV to write; `read_pv` without.
        name: The signal's name; a device names its own.
        timeout: Seconds for each read and write; None waits for ever.
        attempts: How often a write is tried that is not finished within `timeout`.
        wait: True: a set is done when the record has finished processing. False: when it is on its way. A function
            of the value decides for each.

    Raises:
        TypeError: The PVs are of different protocols.
        ValueError: A scheme other than `ca` and `pva`, or an empty name.
    """
    backend = _backend(datatype, read_pv, write_pv or read_pv, wait)
    return SignalRW(backend, name=name, timeout=timeout, attempts=attempts)


def epicsrs_signal_rw_rbv(
    datatype: type[SignalDatatypeT] | None,
    write_pv: str,
    read_suffix: str = "_RBV",
    name: str = "",
    timeout: float | None = DEFAULT_TIMEOUT,
    attempts: int = 1,
    wait: bool | Callable[[SignalDatatypeT], bool] = True,
) -> SignalRW[SignalDatatypeT]:
    """A signal to read and write, whose read PV is the write PV with a suffix on its record: `X.VAL` and `X_RBV.VAL`.

    Args:
        datatype: What its values are; checked at connect. None takes what the PVs carry.
        write_pv: The PV to write.
        read_suffix: What the name of the record to read has more.
        name: The signal's name; a device names its own.
        timeout: Seconds for each read and write; None waits for ever.
        attempts: How often a write is tried that is not finished within `timeout`.
        wait: As for `epicsrs_signal_rw`.
    """
    record, dot, field = write_pv.partition(".")
    read_pv = f"{record}{read_suffix}{dot}{field}"
    return epicsrs_signal_rw(datatype, read_pv, write_pv, name, timeout, attempts, wait)


def epicsrs_signal_r(
    datatype: type[SignalDatatypeT] | None,
    read_pv: str,
    name: str = "",
    timeout: float | None = DEFAULT_TIMEOUT,
) -> SignalR[SignalDatatypeT]:
    """A signal to read and monitor.

    Args:
        datatype: What its values are; checked at connect. None takes what the PV carries.
        read_pv: The PV.
        name: The signal's name; a device names its own.
        timeout: Seconds for each read; None waits for ever.
    """
    return SignalR(_backend(datatype, read_pv, read_pv, True), name=name, timeout=timeout)


def epicsrs_signal_w(
    datatype: type[SignalDatatypeT] | None,
    write_pv: str,
    name: str = "",
    timeout: float | None = DEFAULT_TIMEOUT,
    attempts: int = 1,
    wait: bool | Callable[[SignalDatatypeT], bool] = True,
) -> SignalW[SignalDatatypeT]:
    """A signal to write.

    Args:
        datatype: What its values are; checked at connect. None takes what the PV carries.
        write_pv: The PV.
        name: The signal's name; a device names its own.
        timeout: Seconds for each write; None waits for ever.
        attempts: How often a write is tried that is not finished within `timeout`.
        wait: As for `epicsrs_signal_rw`.
    """
    return SignalW(_backend(datatype, write_pv, write_pv, wait), name=name, timeout=timeout, attempts=attempts)


def epicsrs_signal_x(write_pv: str, name: str = "", timeout: float | None = DEFAULT_TIMEOUT) -> SignalX:
    """A signal whose trigger writes the value that the PV had at connect; ophyd-async has deprecated it.

    Use `epicsrs_triggerable_command`, which says what is written.

    Args:
        write_pv: The PV.
        name: The signal's name; a device names its own.
        timeout: Seconds for each trigger; None waits for ever.
    """
    warnings.warn("epicsrs_signal_x is deprecated, use epicsrs_triggerable_command", DeprecationWarning, stacklevel=2)
    with warnings.catch_warnings():
        # ophyd-async says the same of SignalX, to us.
        warnings.simplefilter("ignore", DeprecationWarning)
        return SignalX(_backend(None, write_pv, write_pv, True), name=name, timeout=timeout)


def _backend(datatype: Any, read_pv: str, write_pv: str, wait: Any) -> EpicsRsSignalBackend[Any]:
    get_unique({pv: parse_named_pv(pv).protocol for pv in (read_pv, write_pv)}, "protocols")
    return EpicsRsSignalBackend(datatype, read_pv, write_pv, EpicsOptions(wait=wait))
