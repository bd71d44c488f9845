"""The eight names that ophyd expects of a control layer."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from ophyd_epicsrs_sync._dispatcher import Dispatcher
from ophyd_epicsrs_sync._pv import PV

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["caget", "caput", "get_dispatcher", "get_pv", "name", "release_pvs", "setup", "thread_class"]

name = "epicsrs"
thread_class = threading.Thread

_dispatchers: list[Dispatcher] = []
_starting = threading.Lock()
# PVs of `caget` and `caput`, which stay connected for the next call.
_kept: dict[str, PV] = {}


def setup(logger: logging.Logger) -> Dispatcher:
    """Start the dispatcher, once."""
    with _starting:
        if not _dispatchers:
            _dispatchers.append(Dispatcher(logger))
        return _dispatchers[0]


def get_dispatcher() -> Dispatcher:
    """The dispatcher; started here if nobody has."""
    return _dispatchers[0] if _dispatchers else setup(logging.getLogger("ophyd"))


def get_pv(
    pvname: str,
    form: str = "time",
    connect: bool = False,
    context: Any = None,
    timeout: float | None = 5.0,
    connection_callback: Callable[..., object] | None = None,
    access_callback: Callable[..., object] | None = None,
    callback: Any = None,
    verbose: bool = False,
    count: int | None = None,
    auto_monitor: Any = None,
    monitor_delta: float | None = None,
) -> PV:
    """A PV, whose search has started; waits for nothing without `connect`.

    Every call makes a PV of its own; those of one name share what lies below them.

    Args:
        pvname: A name, for Channel Access, or `ca://…` or `pva://…`.
        form: "native", "time" or "ctrl": what its readings bring.
        connect: Wait for the connection.
        context: There is one client in a process: None.
        timeout: Seconds to wait for the connection.
        connection_callback: Called as `cb(pvname=, conn=, pv=)` on the metadata lane.
        access_callback: Called as `cb(read_access, write_access, pv=)` on the metadata lane, at each connection too.
        callback: One or several, called for each update as `PV.add_callback` says.
        verbose: Changes nothing; the PV keeps it as an attribute.
        count: At most so many elements of an array.
        auto_monitor: Whether to subscribe when it connects; over Channel Access also to which events, a sum of DBE_
            numbers. None: unless it is an array that may be longer than 65535.
        monitor_delta: By how much a number has to change before callbacks hear of it.

    Raises:
        ValueError, TypeError: A name or an argument that is none.
    """
    if context is not None:
        raise ValueError(f"{pvname}: context has to be None, there is one client in a process")
    pv = PV(
        pvname,
        dispatcher=get_dispatcher(),
        callback=callback,
        form=form,
        auto_monitor=auto_monitor,
        count=count,
        connection_callback=connection_callback,
        connection_timeout=timeout,
        access_callback=access_callback,
        verbose=verbose,
        monitor_delta=monitor_delta,
    )
    pv.start()
    if connect:
        pv.wait_for_connection(timeout)
    return pv


def release_pvs(*pvs: PV) -> None:
    """Close each PV that no signal uses any more; from any thread, at interpreter exit as well."""
    for pv in pvs:
        pv._reference_count -= 1  # noqa: SLF001 (ophyd's word, and ophyd counts up)  # pyright: ignore[reportPrivateUsage]
        if pv._reference_count <= 0:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            pv.disconnect()


def _keep(pvname: str) -> PV:
    with _starting:
        pv = _kept.get(pvname)
        if pv is not None and not pv.chid.closed:
            return pv
    pv = _kept[pvname] = get_pv(pvname, auto_monitor=False)
    return pv


def caget(
    pvname: str,
    as_string: bool = False,
    count: int | None = None,
    as_numpy: bool = True,
    use_monitor: bool = False,
    timeout: float | None = 5.0,
) -> Any:
    """The value of a PV now, as `PV.get` gives it; None where it did not come within `timeout` seconds."""
    return _keep(pvname).get(count, as_string, as_numpy, timeout, use_monitor=use_monitor)


def caput(pvname: str, value: Any, wait: bool = False, timeout: float | None = 60.0) -> int:
    """Write a PV, as `PV.put` does; 1, or an exception."""
    return _keep(pvname).put(value, wait=wait, timeout=timeout)
