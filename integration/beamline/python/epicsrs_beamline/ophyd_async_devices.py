"""The beamline's devices for ophyd-async."""

# ophyd-async leaves some type parameters open.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from typing import Annotated

import numpy as np
from ophyd_async.core import (
    Array1D,
    Device,
    PathProvider,
    SignalR,
    SignalRW,
    StandardReadable,
    StrictEnum,
    TriggerableCommand,
    non_zero,
)
from ophyd_async.core import StandardReadableFormat as Format
from ophyd_async.epics.adcore import ADWriterFactory, NDPluginBaseIO, NDStatsIO
from ophyd_async.epics.adsimdetector import SimDetector
from ophyd_async.epics.core import EpicsDevice, EpicsOptions, PvSuffix, epics_signal_rw
from ophyd_async.epics.motor import Motor

__all__ = [
    "Camera",
    "Fault",
    "FaultyMotor",
    "FlyCounter",
    "FlyMode",
    "Mode",
    "Part",
    "PointDetector",
    "SelfDescribing",
    "TriggerMode",
]


class Fault(StrictEnum):
    """What an axis does wrong."""

    NONE = "None"
    STALL = "Stall"
    HIGH_LIMIT = "High limit"
    LOW_LIMIT = "Low limit"


class FaultyMotor(Motor):
    """m7: it fails as it is told."""

    def __init__(self, prefix: str, name: str = "") -> None:
        self.fault = epics_signal_rw(Fault, f"{prefix}:fault")
        super().__init__(prefix, name=name)


class PointDetector(StandardReadable, EpicsDevice):
    """det1, det2 or det3."""

    value: Annotated[SignalR[float], PvSuffix("value"), Format.HINTED_UNCACHED_SIGNAL]
    center: Annotated[SignalRW[float], PvSuffix("center"), Format.CONFIG_SIGNAL]
    sigma: Annotated[SignalRW[float], PvSuffix("sigma"), Format.CONFIG_SIGNAL]
    noise: Annotated[SignalRW[float], PvSuffix("noise"), Format.CONFIG_SIGNAL]
    exposure: Annotated[SignalRW[float], PvSuffix("exp"), Format.CONFIG_SIGNAL]


class Camera(SimDetector):
    """The camera on the beam spot; its prefix is the beamline's followed by `cam:`.

    Args:
        prefix: In front of `cam1:` and the plugins.
        path_provider: Where its HDF5 files go.
        name: Of the device.
    """

    def __init__(self, prefix: str, path_provider: PathProvider, name: str = "") -> None:
        plugins: dict[str, NDPluginBaseIO] = {"stats": NDStatsIO(prefix + "Stats1:")}
        super().__init__(prefix, ADWriterFactory.hdf(path_provider), plugins=plugins, name=name)


class TriggerMode(StrictEnum):
    """What takes a point."""

    INTERNAL = "Internal"
    EXTERNAL = "External"


class FlyMode(StrictEnum):
    """When and what the arrays show."""

    AT_END = "At end"
    GROWING = "Growing"
    LATE = "Late"


class FlyCounter(EpicsDevice):
    """The fly-scan counter, mcs1."""

    acquire: Annotated[SignalRW[bool], PvSuffix("Acquire"), EpicsOptions(wait=non_zero)]
    arm: Annotated[SignalRW[bool], PvSuffix("Arm"), EpicsOptions(wait=False)]
    trigger_point: Annotated[SignalRW[bool], PvSuffix("Trigger"), EpicsOptions(wait=False)]
    trigger_mode: Annotated[SignalRW[TriggerMode], PvSuffix("TriggerMode")]
    mode: Annotated[SignalRW[FlyMode], PvSuffix("Mode")]
    points: Annotated[SignalRW[int], PvSuffix("NumPoints")]
    dwell: Annotated[SignalRW[float], PvSuffix("Dwell")]
    current_point: Annotated[SignalR[int], PvSuffix("CurrentPoint")]
    encoder: Annotated[SignalR[Array1D[np.float64]], PvSuffix("Encoder")]
    i0: Annotated[SignalR[Array1D[np.float64]], PvSuffix("I0")]
    clock_ticks: Annotated[SignalR[Array1D[np.float64]], PvSuffix("ClockTicks")]
    reset_ticks: Annotated[SignalR[Array1D[np.float64]], PvSuffix("ResetTicks")]
    all_events: Annotated[SignalR[Array1D[np.float64]], PvSuffix("AllEvents")]
    roi1: Annotated[SignalR[Array1D[np.float64]], PvSuffix("ROI1")]


class Mode(StrictEnum):
    """The states of the part's mode."""

    SLOW = "Slow"
    FAST = "Fast"


class Part(Device):
    """The part of the device that describes itself."""

    mode: SignalRW[Mode]


class SelfDescribing(EpicsDevice):
    """A device whose signals the IOC lists; make it `with_pvi`, its prefix the beamline's followed by `pvi:`."""

    speed: SignalRW[float]
    count: SignalR[int]
    go: TriggerableCommand
    part: Part
