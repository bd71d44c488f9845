"""The beamline as ophyd-async sees it: its own classes, on the backends of ophyd-epicsrs-async."""

import time
from pathlib import Path

from ophyd_async.core import StaticFilenameProvider, StaticPathProvider
from ophyd_async.epics.adcore import NDStatsIO, PluginSignalDataLogic
from ophyd_async.epics.core import epics_signal_r
from ophyd_async.epics.motor import Motor

from epicsrs_beamline.ophyd_async_devices import Camera
from epicsrs_demo.records import PREFIX


class AsyncBeamline:
    """The motor of the beam's spot, the camera that sees it, the ring; connected by a plan, in the RunEngine's loop.

    The motor and the ring over pvAccess, the camera over Channel Access.
    """

    def __init__(self, folder: Path) -> None:
        self.spot_x = Motor(f"pva://{PREFIX}m3", name="spot_x")
        paths = StaticPathProvider(StaticFilenameProvider(f"frames-{time.strftime('%Y%m%dT%H%M%S')}"), folder.resolve())
        self.camera = Camera(f"{PREFIX}cam:", paths, name="camera")
        self.stats = self.camera.get_plugin("stats", NDStatsIO)
        # Read beside each frame.
        self.camera.add_detector_logics(PluginSignalDataLogic(self.camera.driver, self.stats.total))
        self.current = epics_signal_r(float, f"pva://{PREFIX}current", name="ring_current")

    @property
    def devices(self) -> list[Motor | Camera]:
        return [self.spot_x, self.camera]
