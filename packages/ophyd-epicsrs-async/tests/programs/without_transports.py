"""All that a site has with neither aioca nor p4p. Usage: without_transports.py prefix of the test IOC."""

import asyncio
import sys

from ophyd_async.epics.adcore import ADBaseIO, NDFileHDF5IO
from ophyd_async.epics.core import EpicsDevice, epics_signal_r, epics_triggerable_command
from ophyd_async.epics.motor import Motor

from ophyd_epicsrs_async import install

prefix = sys.argv[-1]


def refused(make, *arguments) -> bool:
    try:
        make(*arguments)
    except NotImplementedError as error:
        return "not available" in str(error)
    return False


assert refused(epics_signal_r, float, "ca://X")
assert refused(epics_signal_r, float, "pva://X")
assert refused(Motor, "X")

with install(["pva"]):
    # Where there is only pvAccess, a bare name is its.
    assert epics_signal_r(float, "X").source == "pva://X"
    assert refused(epics_signal_r, float, "ca://X")

with install():
    assert epics_signal_r(float, "X").source == "ca://X"
    motor = Motor("BL:M1", name="motor")
    for device in (motor, ADBaseIO("BL:CAM:"), NDFileHDF5IO("pva://BL:HDF:"), EpicsDevice("BL:BOX:", with_pvi=True)):
        if type(device) is not EpicsDevice:
            asyncio.run(device.connect(mock=True))
    assert motor.user_readback.source == "mock+ca://BL:M1.RBV"
    signals = [epics_signal_r(float, f"{scheme}{prefix}float") for scheme in ("ca://", "pva://")]
    command = epics_triggerable_command(f"{prefix}trigger.PROC")
    box = EpicsDevice(f"{prefix}box:", with_pvi=True, name="box")

    async def main() -> None:
        await asyncio.gather(*(device.connect(timeout=5.0) for device in (*signals, command, box)))
        assert [await signal.get_value() for signal in signals] == [3.25, 3.25]
        await command.trigger()
        assert await box.gain.get_value() == 3

    asyncio.run(main())

assert refused(epics_signal_r, float, "X")
print("all of it works")
