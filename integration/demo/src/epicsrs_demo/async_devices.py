"""The beamline as ophyd-async sees it, through ophyd-epicsrs-async.

Its signals are uncached: each is read from the IOC once the put is answered. A cached one gives the last update of a
monitor, and that of the move or exposure may come later than the answer.
"""

from typing import Any

from bluesky.protocols import Movable, Triggerable
from ophyd_async.core import AsyncStatus, StandardReadable, StandardReadableFormat

from ophyd_epicsrs_async import epicsrs_signal_r, epicsrs_signal_rw, epicsrs_triggerable_command


class Stage(StandardReadable, Movable[float]):
    """A stage whose put is answered when it has arrived."""

    def __init__(self, prefix: str, name: str = "") -> None:
        with self.add_children_as_readables(StandardReadableFormat.HINTED_UNCACHED_SIGNAL):
            self.readback = epicsrs_signal_r(float, f"{prefix}:RBV")
        self.setpoint = epicsrs_signal_rw(float, prefix)
        super().__init__(name=name)

    def set_name(self, name: str, *, child_name_separator: str | None = None) -> None:
        super().set_name(name, child_name_separator=child_name_separator)
        # The readback is what the stage is called in the documents.
        self.readback.set_name(name)

    @AsyncStatus.wrap
    async def set(self, value: float) -> None:
        await self.setpoint.set(value)


class Detectors(StandardReadable, Triggerable):
    """Three detectors that count together; two of them over pvAccess."""

    def __init__(self, prefix: str, name: str = "") -> None:
        with self.add_children_as_readables(StandardReadableFormat.HINTED_UNCACHED_SIGNAL):
            self.i0 = epicsrs_signal_r(float, f"{prefix}i0")
            self.it = epicsrs_signal_r(float, f"pva://{prefix}it")
            self.fluo = epicsrs_signal_r(float, f"pva://{prefix}fluo")
        self.expose = epicsrs_triggerable_command(f"{prefix}expose")
        super().__init__(name=name)

    @AsyncStatus.wrap
    async def trigger(self) -> None:
        await self.expose.trigger()


class AsyncBeamline:
    """All of it; connected by a plan, in the RunEngine's loop."""

    name = "ophyd-async"

    def __init__(self) -> None:
        self.stage = Stage("demo:stage", name="stage")
        self.detectors = Detectors("demo:", name="detectors")
        self.current = epicsrs_signal_r(float, "pva://demo:ring:current", name="ring_current")

    @property
    def readables(self) -> list[Any]:
        """What is read at each step."""
        return [self.detectors]
