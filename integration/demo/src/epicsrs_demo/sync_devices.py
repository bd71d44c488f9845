"""The beamline as legacy ophyd sees it, through ophyd-epicsrs-sync."""

from ophyd import EpicsMotor

from epicsrs_beamline.ophyd_devices import Monochromator, PointDetector, Scaler
from epicsrs_demo.records import PREFIX

# The scaler's channels that are connected, and those that the live view shows.
CHANNELS = range(1, 6)
SHOWN = ("It", "If")


class SyncBeamline:
    """The sample's motor, the monochromator, and what counts; connected.

    Raises:
        TimeoutError: A PV was not found.
    """

    def __init__(self) -> None:
        self.sample_x = EpicsMotor(f"{PREFIX}m1", name="sample_x")
        self.monochromator = Monochromator(PREFIX, name="dcm")
        self.energy = self.monochromator.energy
        self.scaler = Scaler(f"{PREFIX}scaler1", name="scaler")
        # On the place of the sample, and on the Bragg angle.
        self.diode = PointDetector(f"{PREFIX}det1:", name="diode")
        self.analyser = PointDetector(f"{PREFIX}det3:", name="analyser")
        for device in (self.sample_x, self.monochromator, self.scaler, self.diode, self.analyser):
            device.wait_for_connection(timeout=5.0)
        # What the documents call them.
        self.energy.name = self.energy.readback.name = "energy"
        self.monochromator.theta.name = self.monochromator.theta.user_readback.name = "theta"
        self.monochromator.theta.user_readback.kind = "normal"
        self.diode.value.name, self.analyser.value.name = "diode", "analyser"
        self._name_channels()

    def _name_channels(self) -> None:
        """The scaler's channels are called what its record calls them."""
        self.scaler.names.kind = "omitted"
        for number, channel in enumerate(self.scaler.channels.component_names, 1):
            signal = getattr(self.scaler.channels, channel)
            signal.kind = "omitted"
            if number in CHANNELS:
                signal.name = getattr(self.scaler.names, f"name{number}").get()
                signal.kind = "hinted" if signal.name in SHOWN else "normal"
