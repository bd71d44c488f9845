"""An IOC with the PVs of a multichannel analyzer, as ophyd's EpicsMCA asks for them.

It runs on caproto: neither EPICS Base nor the beamline has an mca record. A put to `EraseStart` counts for `.PRTM`
seconds and is answered when the spectrum is there: channel n holds RATES[n] counts for each second. The counts from
channel `.R0LO` to `.R0HI` are in `.R0`.

Usage: mca.py PREFIX. Prints READY when it serves.
"""

import asyncio
import sys

from caproto import ChannelType
from caproto.server import PVGroup, pvproperty, run

# A peak of 16 channels on a background.
RATES = [1100 if 1016 <= channel < 1032 else 100 for channel in range(2048)]
SECONDS = {"units": "s", "precision": 3}
# What EpicsMCA wants besides, and nobody uses here.
OTHERS = "Start Stop Erase CheckACQG ClientWait EnableWait Read SetClientWait Status WhenAcqStops Why1 Why2 Why3 Why4"
Others = type("Others", (PVGroup,), {name.lower(): pvproperty(name=name, value=0) for name in OTHERS.split()})


class Analyzer(Others):
    spectrum = pvproperty(name=".VAL", value=[0] * len(RATES), units="counts", read_only=True)
    background = pvproperty(name=".BG", value=[0] * len(RATES), read_only=True)
    mode = pvproperty(name=".MODE", value="MCS", enum_strings=["PHA", "MCS", "List"], dtype=ChannelType.ENUM)
    preset_real = pvproperty(name=".PRTM", value=1.0, **SECONDS)
    preset_live = pvproperty(name=".PLTM", value=0.0, **SECONDS)
    elapsed_real = pvproperty(name=".ERTM", value=0.0, read_only=True, **SECONDS)
    elapsed_live = pvproperty(name=".ELTM", value=0.0, read_only=True, **SECONDS)
    low = pvproperty(name=".R0LO", value=-1)
    high = pvproperty(name=".R0HI", value=-1)
    region = pvproperty(name=".R0", value=0.0, units="counts", read_only=True)
    erase_start = pvproperty(name="EraseStart", value=0)

    @erase_start.putter
    async def erase_start(self, instance, value):
        if value:
            seconds = self.preset_real.value
            await self.spectrum.write([0] * len(RATES))
            await asyncio.sleep(seconds)
            counted = [round(rate * seconds) for rate in RATES]
            await self.spectrum.write(counted)
            await self.region.write(float(sum(counted[self.low.value : self.high.value + 1])))
            await self.elapsed_real.write(seconds)
            await self.elapsed_live.write(seconds)
        return 0


async def ready(_library):
    print("READY", flush=True)


pvs = Analyzer(prefix=sys.argv[1]).pvdb
run(pvs, module_name="caproto.asyncio.server", interfaces=["127.0.0.1"], startup_hook=ready)
