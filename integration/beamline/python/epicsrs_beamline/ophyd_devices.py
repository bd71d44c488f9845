"""The beamline's devices for ophyd."""

# ophyd has no types.
# pyright: reportMissingTypeStubs=false

from ophyd import Component as Cpt
from ophyd import Device, EpicsMotor, EpicsSignal, EpicsSignalRO, PVPositioner
from ophyd.areadetector import ADComponent, CamBase, DetectorBase, SingleTrigger
from ophyd.areadetector.plugins import HDF5Plugin_V34, ImagePlugin_V34, PvaPlugin_V34, ROIPlugin_V34, StatsPlugin_V34
from ophyd.scaler import EpicsScaler

__all__ = ["Cam", "Camera", "FaultyMotor", "FlyCounter", "Monochromator", "PointDetector", "Scaler", "Shutter", "Slit"]

Scaler = EpicsScaler


class FaultyMotor(EpicsMotor):
    """m7: it fails as it is told."""

    fault = Cpt(EpicsSignal, ":fault", string=True, kind="omitted")


class Energy(PVPositioner):
    """The energy in keV; a move ends when theta, y and z rest."""

    setpoint = Cpt(EpicsSignal, "BraggEAO")
    readback = Cpt(EpicsSignalRO, "BraggERdbkAO")
    done = Cpt(EpicsSignalRO, "KohzuMoving")
    done_value = 0


class Monochromator(Device):
    """The double-crystal monochromator; its prefix is the beamline's."""

    energy = Cpt(Energy, "")
    wavelength = Cpt(EpicsSignalRO, "BraggLambdaRdbkAO", kind="config")
    theta = Cpt(EpicsMotor, "dcm:theta")
    y = Cpt(EpicsMotor, "dcm:y")
    z = Cpt(EpicsMotor, "dcm:z")
    mode = Cpt(EpicsSignal, "KohzuModeBO", string=True, kind="config")
    message = Cpt(EpicsSignalRO, "KohzuSeqMsg2SI", kind="omitted")


class Slit(Device):
    """One direction of a slit, Slit1H or Slit1V."""

    size = Cpt(EpicsSignal, "size")
    center = Cpt(EpicsSignal, "center")
    size_readback = Cpt(EpicsSignalRO, "t2.C")
    center_readback = Cpt(EpicsSignalRO, "t2.D")
    sync = Cpt(EpicsSignal, "sync.PROC", kind="omitted")


class Shutter(Device):
    """Puts are answered when the blade has arrived."""

    open = Cpt(EpicsSignal, "open", put_complete=True, kind="omitted")
    close = Cpt(EpicsSignal, "close", put_complete=True, kind="omitted")
    state = Cpt(EpicsSignalRO, "state", string=True)


class PointDetector(Device):
    """det1, det2 or det3."""

    value = Cpt(EpicsSignalRO, "value", kind="hinted")
    center = Cpt(EpicsSignal, "center", kind="config")
    sigma = Cpt(EpicsSignal, "sigma", kind="config")
    noise = Cpt(EpicsSignal, "noise", kind="config")
    exposure = Cpt(EpicsSignal, "exp", kind="config")


class Cam(CamBase):
    """The camera itself."""

    wait_for_plugins = ADComponent(EpicsSignal, "WaitForPlugins", string=True, kind="config")


class Camera(SingleTrigger, DetectorBase):  # pyright: ignore[reportIncompatibleMethodOverride] (ophyd's own)
    """The camera on the beam spot, with its plugins."""

    cam = ADComponent(Cam, "cam1:")
    image = ADComponent(ImagePlugin_V34, "image1:")
    roi = ADComponent(ROIPlugin_V34, "ROI1:")
    stats = ADComponent(StatsPlugin_V34, "Stats1:")
    hdf = ADComponent(HDF5Plugin_V34, "HDF1:")
    pva = ADComponent(PvaPlugin_V34, "Pva1:")


class FlyCounter(Device):
    """The fly-scan counter, mcs1."""

    acquire = Cpt(EpicsSignal, "Acquire", put_complete=True, kind="omitted")
    arm = Cpt(EpicsSignal, "Arm", kind="omitted")
    trigger_point = Cpt(EpicsSignal, "Trigger", kind="omitted")
    trigger_mode = Cpt(EpicsSignal, "TriggerMode", string=True, kind="config")
    mode = Cpt(EpicsSignal, "Mode", string=True, kind="config")
    points = Cpt(EpicsSignal, "NumPoints", kind="config")
    dwell = Cpt(EpicsSignal, "Dwell", kind="config")
    current_point = Cpt(EpicsSignalRO, "CurrentPoint", kind="omitted")
    encoder = Cpt(EpicsSignalRO, "Encoder")
    i0 = Cpt(EpicsSignalRO, "I0")
    clock_ticks = Cpt(EpicsSignalRO, "ClockTicks")
    reset_ticks = Cpt(EpicsSignalRO, "ResetTicks")
    all_events = Cpt(EpicsSignalRO, "AllEvents")
    roi1 = Cpt(EpicsSignalRO, "ROI1")
