"""A move that waits for its done PV, and whose IOC goes away meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from epicsrs_native import NotConnectedError
from ophyd_epicsrs_sync._pv import PV

if TYPE_CHECKING:
    from collections.abc import Callable

# Where an EpicsMotor and a PVPositioner hear that they have arrived.
_DONE_SIGNALS = ("motor_done_move", "done")


def watched(move: Callable[..., Any]) -> Callable[..., Any]:
    """`PositionerBase.move`, whose Status also fails where the done PV is lost: nobody would end it."""

    def watched_move(self: Any, *arguments: Any, **keywords: Any) -> Any:
        status = move(self, *arguments, **keywords)
        signals = (getattr(self, name, None) for name in _DONE_SIGNALS if name in getattr(self, "component_names", ()))
        for signal in signals:
            if isinstance(getattr(signal, "_read_pv", None), PV):
                _fail_with(signal, status, self)
        return status

    watched_move.__doc__ = move.__doc__
    return watched_move


def _fail_with(signal: Any, status: Any, positioner: Any) -> None:
    def changed(connected: bool, **_: Any) -> None:
        if connected or status.done:
            return
        # It waits for an end that is not told any more; that of a later move is none of its own.
        positioner._reset_sub(positioner._SUB_REQ_DONE)  # noqa: SLF001 (as ophyd's own callback)
        # Else the 1 with which DMOV comes back would be the end of a move that has begun meanwhile.
        positioner._moving = False  # noqa: SLF001
        lost = NotConnectedError(f"{signal.pvname}: the connection was lost during a move", signal.pvname)
        status.set_exception(lost)

    subscribed = signal.subscribe(changed, event_type="meta", run=False)

    def ended(_: Any) -> None:
        signal.unsubscribe(subscribed)

    status.add_callback(ended)
    changed(connected=signal.connected)
