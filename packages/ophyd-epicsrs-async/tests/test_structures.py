"""pvAccess structures: tables, images, and those that lack what others have."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from ophyd_async.core import Array1D, Table

from ioc import NETWORK
from ophyd_epicsrs_async import epicsrs_signal_r, epicsrs_signal_rw
from pva_server import pva_server


class Row(Table):
    on: Array1D[np.bool_]
    position: Array1D[np.float64]
    name: Sequence[str]


def test_a_table_is_read_by_its_class(ioc, run):
    async def main():
        signal = epicsrs_signal_rw(Row, ioc.pv("table", "pva"), name="signal")
        await signal.connect()
        row = await signal.get_value()
        assert row.on.dtype == np.bool_
        assert row.on.tolist() == [False, True]
        assert row.position.tolist() == [1.5, -2.5]
        assert row.name == ["a", "b"]

    run(main())


@pytest.mark.parametrize("datatype", [Row, None])
def test_a_table_is_put_and_monitored_whole(ioc, run, datatype):
    async def main():
        signal = epicsrs_signal_rw(datatype, ioc.pv("put_table", "pva"), name="signal")
        await signal.connect()
        updates: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        signal.subscribe_reading(updates.put_nowait)
        await asyncio.wait_for(updates.get(), 5.0)
        for rows in ([True, False, True], [False]):
            row = Row(on=np.array(rows), position=np.arange(len(rows)) + 0.5, name=["x"] * len(rows))
            await signal.set(row)
            async with asyncio.timeout(5.0):
                while len((update := await updates.get())["signal"]["value"].name) != len(rows):
                    pass
            assert update["signal"]["value"].on.tolist() == rows
            assert (await signal.get_value()).position.tolist() == row.position.tolist()
        signal.clear_sub(updates.put_nowait)
        assert (await signal.describe())["signal"]["shape"] == [1]

    run(main())


def test_none_writes_a_table_back(ioc, run):
    async def main():
        signal = epicsrs_signal_rw(Row, ioc.pv("put_table", "pva"), name="signal")
        await signal.connect()
        await signal.set(Row(on=np.array([True]), position=np.array([7.5]), name=["before"]))
        await signal.connect(force_reconnect=True)
        await signal.set(Row(on=np.array([False]), position=np.array([8.5]), name=["after"]))
        await signal.set(None)
        assert (await signal.get_value()).name == ["before"]

    run(main())


def test_a_table_without_a_class_has_its_columns_as_they_come(ioc, run):
    async def main():
        signal = epicsrs_signal_r(None, ioc.pv("table", "pva"), name="signal")
        await signal.connect()
        table = await signal.get_value()
        columns = dict(table)
        assert columns["on"].dtype == np.uint8
        assert columns["position"].tolist() == [1.5, -2.5]
        assert columns["name"] == ["a", "b"]

    run(main())


def test_an_image_is_monitored_in_its_shape_and_cannot_be_put(ioc, run):
    async def main():
        signal = epicsrs_signal_rw(np.ndarray, ioc.pv("image", "pva"), name="signal")
        await signal.connect()
        updates: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        signal.subscribe_reading(updates.put_nowait)
        update = await asyncio.wait_for(updates.get(), 5.0)
        signal.clear_sub(updates.put_nowait)
        assert update["signal"]["value"].tolist() == [[0, 1, 2], [3, 4, 5]]
        with pytest.raises(TypeError, match="a put to an NTNDArray is not supported"):
            await signal.set(np.zeros((2, 3)))
        with pytest.raises(TypeError, match="a put to an NTNDArray is not supported"):
            await signal.set(None)

    run(main())


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A server whose images are unions, as those of areaDetector are."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with pva_server("structures.py", "images:", NETWORK.iocs[2], log):
        yield "pva://images:image_"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("uint8", np.arange(12, dtype=np.uint8).reshape(3, 4)),
        ("float64", np.arange(12, dtype=np.float64).reshape(3, 4)),
        ("3d", np.arange(24, dtype=np.uint16).reshape(2, 3, 4)),
        ("1d", np.arange(5, dtype=np.int32)),
    ],
)
@pytest.mark.parametrize("datatype", [np.ndarray, None])
def test_an_image_of_a_union_has_its_dtype_and_shape(images, run, name, expected, datatype):
    async def main():
        signal = epicsrs_signal_r(datatype, images + name, name="signal")
        await signal.connect()
        for image in (await signal.get_value(), (await signal.read())["signal"]["value"]):
            assert image.dtype == expected.dtype
            np.testing.assert_array_equal(image, expected)
        key = (await signal.describe())["signal"]
        assert (key["shape"], key["dtype_numpy"]) == (list(expected.shape), expected.dtype.str)

    run(main())


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize(("code", "dtype"), [("d", np.float64), ("b", np.int8), ("I", np.uint32)])
def test_an_array_that_was_never_set_is_an_empty_one_of_its_type(images, run, code, dtype, typed):
    async def main():
        datatype = Array1D[dtype] if typed else None
        signal = epicsrs_signal_r(datatype, images.replace("image_", f"never_set_{code}"), name="signal")
        await signal.connect()
        value = await signal.get_value()
        assert (value.dtype, value.shape) == (dtype, (0,))
        key = (await signal.describe())["signal"]
        assert (key["dtype"], key["shape"], key["dtype_numpy"]) == ("array", [0], np.dtype(dtype).str)

    run(main())


def test_an_image_that_was_never_set_is_no_value(images, run):
    async def main():
        signal = epicsrs_signal_r(None, images + "never_set", name="signal")
        await signal.connect()
        for read in (signal.get_value, signal.read, signal.describe):
            with pytest.raises(ValueError, match="pva://images:image_never_set holds no image yet"):
                await read()

    run(main())


def test_a_server_without_alarm_and_time_is_read_all_the_same(ioc, run):
    async def main():
        signal = epicsrs_signal_r(int, ioc.pv("plain", "pva"), name="signal")
        await signal.connect()
        reading = (await signal.read())["signal"]
        assert reading["value"] == 7
        assert "alarm_severity" not in reading
        assert reading["timestamp"] > 1e9

    run(main())
