"""Nine methods of ophyd that are replaced while this control layer is installed.

`EpicsSignal.set` with put completion, the move of a `PVPositionerPC`, and `Device.trigger` end their Status when they
are called back, and have no way to hear that the put was refused or that the IOC went away meanwhile: pyepics then
reports a success. The replacements do the same as the originals and fail the Status with the exception.

`Device._instantiate_component` looks whether a signal is connected, and subscribes its device's methods a moment later.
What the PV brings in that moment reaches nobody, and a method that is `required_for_connection` keeps its device
unconnected for ever. The replacement hands the method what it has missed.

`EpicsSignalBase._initial_metadata_callback` keeps the metadata that it is called with and tells nobody: in pyepics they
never change while the PV is connected. The replacement tells SUB_META where they have.

`PositionerBase.move` gives an EpicsMotor or a PVPositioner a Status that its done PV ends. If the IOC goes away, nobody
does. The replacement fails it with a NotConnectedError.

`Signal._set_and_wait`, which is `EpicsSignal.set` without put completion, looks at the readback ever more seldom. The
replacement looks with each update of a monitor, and fails the Status where the put is refused or the connection lost.

`Device.wait_for_connection` makes lazy signals one after the other, and waits for each. The replacement makes all of
them and then waits.

`EpicsSignalBase._get_with_timeout` reads for `get`, which takes the value of a monitored signal out of all that is
known of its PV. The replacement gives it the value alone.

Signals of other control layers go on as before.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ophyd_epicsrs_sync import _connecting, _last_update, _lost_move, _readback
from ophyd_epicsrs_sync._control_layer import get_dispatcher
from ophyd_epicsrs_sync._pv import PV, callbacks

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


class Acquisition:
    """The put callback of `Device.trigger`: ends its Status, for good or ill."""

    def __init__(self, device: Any, status: Any) -> None:
        self._device = device
        self._status = status
        self._subscribed = device.subscribe(status._finished, event_type=device.SUB_ACQ_DONE, run=False)  # noqa: SLF001 (as ophyd's own)

    def __call__(self, **_: Any) -> None:
        self._device._done_acquiring()  # noqa: SLF001 (as ophyd's own callback)

    def failed(self, error: Exception) -> None:
        self._device.unsubscribe(self._subscribed)
        self._status.set_exception(error)


def install() -> None:
    """Replace them; once."""
    if _originals:
        return
    # By name, since ophyd says nothing of its types.
    positioner: Any = import_module("ophyd.pv_positioner").PVPositionerPC
    positioner_base: Any = import_module("ophyd.positioner").PositionerBase
    soft_signal: Any = import_module("ophyd.signal").Signal
    signal: Any = import_module("ophyd.signal").EpicsSignal
    device: Any = import_module("ophyd.device").Device
    default: Any = import_module("ophyd.signal").DEFAULT_WRITE_TIMEOUT
    signal_base: Any = import_module("ophyd.signal").EpicsSignalBase
    status_class: Any = import_module("ophyd.status").Status
    device_status: Any = import_module("ophyd.status").DeviceStatus
    original_set = _originals[signal, "set"] = signal.set
    original_setup_move = _originals[positioner, "_setup_move"] = positioner._setup_move  # noqa: SLF001
    original_instantiate = _originals[device, "_instantiate_component"] = device._instantiate_component  # noqa: SLF001
    original_trigger = _originals[device, "trigger"] = device.trigger
    original_wait = _originals[device, "wait_for_connection"] = device.wait_for_connection
    original_set_and_wait = _originals[soft_signal, "_set_and_wait"] = soft_signal._set_and_wait  # noqa: SLF001
    original_move = _originals[positioner_base, "move"] = positioner_base.move
    original_get = _originals[signal_base, "_get_with_timeout"] = signal_base._get_with_timeout  # noqa: SLF001
    original_metadata = _originals[signal_base, "_initial_metadata_callback"] = signal_base._initial_metadata_callback  # noqa: SLF001

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

    def trigger(self: Any) -> Any:
        signals = self.trigger_signals
        if len(signals) != 1 or not isinstance(getattr(signals[0], "_write_pv", None), PV):
            return original_trigger(self)
        status = device_status(self)
        value = self._sig_attrs[signals[0].attr_name].trigger_value
        signals[0].put(value, wait=False, callback=Acquisition(self, status))
        return status

    def instantiate_component(self: Any, attr: str) -> Any:
        component = original_instantiate(self, attr)
        if isinstance(getattr(component, "_read_pv", None), PV):
            _hand_on_missed(self, component, self._sig_attrs[attr]._subscriptions)  # noqa: SLF001
        return component

    def metadata_callback(self: Any, pvname: str, metadata: Any) -> None:
        was_connected = self._metadata["connected"]
        original_metadata(self, pvname, metadata)
        # Otherwise SUB_META tells them with the connection; on other threads, who waits for that brings them himself.
        if was_connected and isinstance(self._read_pv, PV) and get_dispatcher().lane("metadata").here:
            self._run_metadata_callbacks()

    set_.__doc__ = original_set.__doc__
    setup_move.__doc__ = original_setup_move.__doc__
    trigger.__doc__ = original_trigger.__doc__
    instantiate_component.__doc__ = original_instantiate.__doc__
    metadata_callback.__doc__ = original_metadata.__doc__
    signal_base._initial_metadata_callback = metadata_callback  # noqa: SLF001
    signal_base._get_with_timeout = _last_update.alone(original_get)  # noqa: SLF001
    signal.set = set_
    device.trigger = trigger
    device.wait_for_connection = _connecting.together(original_wait)
    soft_signal._set_and_wait = _readback.watched(original_set_and_wait)  # noqa: SLF001
    positioner_base.move = _lost_move.watched(original_move)
    device._instantiate_component = instantiate_component  # noqa: SLF001
    positioner._setup_move = setup_move  # noqa: SLF001


def _hand_on_missed(device: Any, signal: Any, subscriptions: dict[str, list[Any]]) -> None:
    """Run each required method of the device that waits for an event which the signal has had already."""

    def hand_on(method: Any, key: Any, event: str) -> None:
        # On the monitor lane, as events are: it has run meanwhile, or nothing runs it now.
        if key in device._required_for_connection:  # noqa: SLF001
            arguments, keywords = signal._args_cache[event]  # noqa: SLF001
            callbacks.run(method, signal.name, *arguments, **keywords)

    for event, functions in subscriptions.items():
        for function in functions:
            method = getattr(device, function.__name__)
            key, _ = getattr(method, "_required_for_connection", (None, None))
            if key in device._required_for_connection and signal._args_cache[event] is not None:  # noqa: SLF001
                signal._metadata_thread_ctx.run(hand_on, method, key, event)  # noqa: SLF001


def uninstall() -> None:
    """Put the originals back."""
    while _originals:
        (owner, attribute), original = _originals.popitem()
        setattr(owner, attribute, original)
