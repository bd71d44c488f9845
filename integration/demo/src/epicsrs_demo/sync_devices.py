"""The beamline as legacy ophyd sees it, through ophyd-epicsrs-sync."""

from typing import Any

from ophyd import Component as Cpt
from ophyd import Device, EpicsSignal, EpicsSignalRO, PVPositionerPC
from ophyd import FormattedComponent as FCpt


class Stage(PVPositionerPC):
    """A stage whose put is answered when it has arrived."""

    setpoint = Cpt(EpicsSignal, "")
    readback = Cpt(EpicsSignalRO, ":RBV")
    done = FCpt(EpicsSignalRO, "pva://{prefix}:done")
    done_value = 1

    def __init__(self, prefix: str, *, name: str) -> None:
        super().__init__(prefix, name=name)
        # The readback is what the stage is called in the documents.
        self.readback.name = name


class Detectors(Device):
    """Three detectors that count together; two of them over pvAccess."""

    expose = Cpt(EpicsSignal, "expose", put_complete=True, kind="omitted")
    i0 = Cpt(EpicsSignalRO, "i0", kind="hinted")
    it = FCpt(EpicsSignalRO, "pva://{prefix}it", kind="hinted")
    fluo = FCpt(EpicsSignalRO, "pva://{prefix}fluo", kind="hinted")

    def trigger(self) -> Any:
        """Expose; the status ends when all have counted."""
        return self.expose.set(1)


class SyncBeamline:
    """All of it, connected.

    Raises:
        TimeoutError: A PV was not found.
    """

    name = "ophyd"

    def __init__(self) -> None:
        self.stage = Stage("demo:stage", name="stage")
        self.detectors = Detectors("demo:", name="detectors")
        # Read at each step, and no column of the live table.
        self.current = EpicsSignalRO("pva://demo:ring:current", name="current", kind="normal")
        for thing in (self.stage, self.detectors, self.current):
            thing.wait_for_connection(timeout=5.0)

    @property
    def readables(self) -> list[Any]:
        """What is read at each step."""
        return [self.detectors, self.current]
