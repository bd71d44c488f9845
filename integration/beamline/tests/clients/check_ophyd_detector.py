"""Through ophyd's areaDetector classes, and h5py for the file."""

import time

import h5py
import numpy as np
import pytest

from epicsrs_beamline.ophyd_devices import Camera

LIMIT = 30.0


@pytest.fixture(scope="module")
def camera(pv):
    camera = Camera(pv("cam:"), name="camera")
    camera.wait_for_connection(all_signals=True, timeout=LIMIT)
    camera.hdf.warmup()
    camera.cam.wait_for_plugins.set("Yes").wait(LIMIT)
    return camera


def take(camera):
    """Acquire, and wait for the frames and the plugins."""
    camera.cam.acquire.put(1, wait=True, timeout=LIMIT)


def awaited(signal, value):
    end = time.monotonic() + LIMIT
    while signal.get() != value:
        assert time.monotonic() < end, (signal.pvname, signal.get(), value)


def test_every_signal_connects_pool_max_buffers_too(camera):
    assert camera.cam.pool_max_buffers.connected
    count = sum(1 for _ in camera.walk_signals(include_lazy=True))
    assert count > 600


def test_a_trigger_takes_a_picture(camera):
    camera.cam.num_images.set(1).wait(LIMIT)
    camera.stage()
    before = camera.cam.array_counter.get()
    camera.trigger().wait(LIMIT)
    awaited(camera.cam.array_counter, before + 1)
    camera.unstage()


def test_the_image_plugin_holds_the_spot(camera):
    camera.cam.image_mode.set("Single").wait(LIMIT)
    take(camera)
    image = np.reshape(camera.image.array_data.get(), (512, 512))
    row, column = np.unravel_index(int(np.argmax(image)), image.shape)
    assert (abs(row - 256) < 5, abs(column - 256) < 5) == (True, True)


def test_a_region_and_binning_make_a_smaller_picture(camera):
    camera.cam.size.size_x.set(128).wait(LIMIT)
    camera.cam.bin_y.set(2).wait(LIMIT)
    take(camera)
    awaited(camera.cam.array_size.array_size_x, 128)
    awaited(camera.cam.array_size.array_size_y, 256)
    camera.cam.size.size_x.set(512).wait(LIMIT)
    camera.cam.bin_y.set(1).wait(LIMIT)


def test_a_captured_file_holds_the_frames(camera, tmp_path):
    hdf, cam = camera.hdf, camera.cam
    # The plugin makes the file like the last frame that it has seen.
    hdf.enable.set(1).wait(LIMIT)
    cam.image_mode.set("Single").wait(LIMIT)
    take(camera)
    for signal, value in [
        (cam.image_mode, "Multiple"),
        (cam.num_images, 5),
        (hdf.file_path, f"{tmp_path}/"),
        (hdf.file_name, "frames"),
        (hdf.file_template, "%s%s.h5"),
        (hdf.file_write_mode, "Stream"),
        (hdf.num_capture, 5),
    ]:
        signal.set(value).wait(LIMIT)
    hdf.capture.put(1)
    awaited(hdf.capture, 1)
    take(camera)
    awaited(hdf.num_captured, 5)
    awaited(hdf.capture, 0)

    with h5py.File(tmp_path / "frames.h5") as file:
        data = file["/entry/data/data"]
        assert (data.shape, data.dtype) == ((5, 512, 512), np.dtype("u2"))
        assert data[:].max(axis=(1, 2)).min() > 1000
        numbers = file["/entry/instrument/NDAttributes/NDArrayUniqueId"][:]
        assert numbers.tolist() == [1, 2, 3, 4, 5]
