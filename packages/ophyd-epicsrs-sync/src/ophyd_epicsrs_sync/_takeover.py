"""Two methods of ophyd that call every put a success, replaced while this control layer is installed.

ophyd's `EpicsSignal.set` with put completion, and the move of a `PVPositionerPC`, end their Status when they are called
back, and have no way to hear that the put was refused or that the IOC went away meanwhile: pyepics then reports a
success. The replacements do the same as the originals and fail the Status with the exception. Signals of other control
layers go on as before.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ophyd_epicsrs_sync._pv import PV

if TYPE_CHECKING:
    from collections.abc import Callable

_originals: dict[tuple[Any, str], Callable[..., Any]] = {}


class SignalSet:
    """The put callback of `EpicsSignal.set`: ends its Status, for good or ill."""

    def __init__(self, status: Any) -> None:
        self._status = status

    def __call__(self, **_: Any) -> None:
        self._status.set_finished()

    def failed(self, error: Exception) -> None:
        self._status.set_exception(error)


class Move:
    """The put callback of a `PVPositionerPC`: ends its move, for good or ill."""

    def __init__(self, positioner: Any) -> None:
        self._positioner = positioner

    def __call__(self, **_: Any) -> None:
        self._positioner._done_moving(success=True)  # noqa: SLF001 (as ophyd's own callback)

    def failed(self, error: Exception) -> None:
        positioner = self._positioner
        event = positioner._SUB_REQ_DONE  # noqa: SLF001 (holds the MoveStatus, which nothing else does)
        waiting = list(positioner._unwrapped_callbacks[event].values())  # noqa: SLF001
        positioner._reset_sub(event)  # noqa: SLF001
        for finished in waiting:
            finished.__self__.set_exception(error)
        positioner._done_moving(success=False)  # noqa: SLF001


def install() -> None:
    """Replace both; once."""
    if _originals:
        return
    # By name, since ophyd says nothing of its types.
    positioner: Any = import_module("ophyd.pv_positioner").PVPositionerPC
    signal: Any = import_module("ophyd.signal").EpicsSignal
    default: Any = import_module("ophyd.signal").DEFAULT_WRITE_TIMEOUT
    status_class: Any = import_module("ophyd.status").Status
    original_set = _originals[signal, "set"] = signal.set
    original_setup_move = _originals[positioner, "_setup_move"] = positioner._setup_move  # noqa: SLF001

    def set_(self: Any, value: Any, *, timeout: Any = default, settle_time: float | None = None) -> Any:
        if not (self.put_complete and isinstance(self._write_pv, PV)):
            return original_set(self, value, timeout=timeout, settle_time=settle_time)
        if timeout is default:
            timeout = self.write_timeout
        status = status_class(self, timeout=timeout, settle_time=settle_time)
        self.put(value, use_complete=True, callback=SignalSet(status))
        return status

    def setup_move(self: Any, position: Any) -> None:
        last = self.setpoint if self.actuate is None else self.actuate
        if not isinstance(getattr(last, "_write_pv", None), PV):
            original_setup_move(self, position)
            return
        if self.done is None:
            # Nobody else says that it moves.
            self._move_changed(value=1 - self.done_value)
        if self.actuate is not None:
            self.setpoint.put(position, wait=True)
            self.actuate.put(self.actuate_value, wait=False, callback=Move(self))
        else:
            self.setpoint.put(position, wait=False, callback=Move(self))

    set_.__doc__ = original_set.__doc__
    setup_move.__doc__ = original_setup_move.__doc__
    signal.set = set_
    positioner._setup_move = setup_move  # noqa: SLF001


def uninstall() -> None:
    """Put the originals back."""
    while _originals:
        (owner, attribute), original = _originals.popitem()
        setattr(owner, attribute, original)
