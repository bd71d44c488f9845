"""Mock mode: ophyd-async's own backend stands in, with what ours knows before any connection."""

import asyncio

from ophyd_async.core import (
    Device,
    SignalRW,
    StrictEnum,
    TriggerableCommand,
    callback_on_mock_put,
    init_devices,
    set_mock_value,
)

from ophyd_epicsrs_async import epicsrs_signal_rw, epicsrs_triggerable_command


class Mode(StrictEnum):
    FAST = "Fast"
    SLOW = "Slow"


class Camera(Device):
    mode: SignalRW[Mode]
    start: TriggerableCommand

    def __init__(self, prefix: str, name: str = "") -> None:
        self.mode = epicsrs_signal_rw(Mode, f"{prefix}Mode")
        self.exposure = epicsrs_signal_rw(float, f"{prefix}Exposure", f"{prefix}Exposure_SP")
        self.start = epicsrs_triggerable_command(f"pva://{prefix}Start")
        super().__init__(name=name)


def test_a_mocked_device_reads_and_sets_what_it_is_told(run):
    async def main():
        async with init_devices(mock=True):
            camera = Camera("CAM:")
        assert camera.mode.source == "mock+ca://CAM:Mode"
        assert camera.start.source == "mock+pva://CAM:Start"
        assert await camera.mode.get_value() is Mode.FAST
        set_mock_value(camera.exposure, 0.5)
        assert await camera.exposure.get_value() == 0.5
        with callback_on_mock_put(camera.exposure, lambda value: set_mock_value(camera.mode, Mode.SLOW)):
            await camera.exposure.set(2.0)
        assert await camera.mode.get_value() is Mode.SLOW
        await camera.start.trigger()

    run(main())


def test_mock_describes_like_the_real_one(ioc):
    async def main():
        real = epicsrs_signal_rw(float, ioc.pv("float"), name="signal")
        mock = epicsrs_signal_rw(float, ioc.pv("float"), name="signal")
        await asyncio.gather(real.connect(), mock.connect(mock=True))
        described, mocked = (await real.describe())["signal"], (await mock.describe())["signal"]
        assert {key: described[key] for key in ("dtype", "shape", "dtype_numpy")} == {
            key: mocked[key] for key in ("dtype", "shape", "dtype_numpy")
        }

    asyncio.run(main())
