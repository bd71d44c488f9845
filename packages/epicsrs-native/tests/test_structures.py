"""pvAccess structures: tables, images, unions, variants, structures without a value."""

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from deadline import until
from epicsrs_native import Channel, Reading, RemoteError, Structure, Table
from ioc import NETWORK, Ioc
from pva_server import Served, pva_server

Call = Callable[..., Any]
PREFIX = "S:"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Opens channels to the p4p server of structures."""
    with pva_server("structures.py", PREFIX, NETWORK.iocs[2], tmp_path_factory.mktemp("p4p") / "log") as channel:
        yield channel


def monitored(channel: Channel) -> Reading:
    """The first update of a monitor."""
    readings: list[Reading] = []
    subscription = channel.monitor(readings.append)
    until(lambda: readings)
    subscription.close()
    return readings[0]


def test_a_table_is_its_columns(served: Served, call: Call) -> None:
    reading = call(served("table").get)

    table = reading.value
    assert isinstance(table, Table)
    assert table.id == "epics:nt/NTTable:1.0"
    assert list(table) == ["names", "numbers", "flags", "bytes"]
    assert table.labels == ("names", "numbers", "flags", "bytes")
    assert table["names"] == ["a", "b"]
    assert (table["numbers"].dtype, table["numbers"].tolist()) == (np.float64, [1.5, 2.5])
    assert (table["flags"].dtype, table["flags"].tolist()) == (np.bool_, [True, False])
    assert (table["bytes"].dtype, table["bytes"].tolist()) == (np.uint8, [0, 255])
    assert reading.severity == 0
    assert reading.fields is None


def test_a_table_is_written_by_its_columns(served: Served, call: Call) -> None:
    channel = served("table")
    before = channel.get().value

    call(channel.put, {"names": ["x"], "numbers": np.array([9.0]), "flags": [False], "bytes": [7]})
    written = channel.get().value
    call(channel.put, before)

    assert written["names"] == ["x"]
    assert written["numbers"].tolist() == [9.0]
    assert written["bytes"].tolist() == [7]
    assert channel.get().value["names"] == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"names": ["x"], "numbers": [1.0, 2.0]}, "different lengths"),
        ({"nonsense": [1.0]}, "nonsense"),
        ({"bytes": [256]}, "256"),
        ({"numbers": ["x"]}, "strings"),
        ([1.0, 2.0], "structure"),
        (5, "structure"),
    ],
)
def test_what_is_no_such_table_is_refused(served: Served, call: Call, value: Any, words: str) -> None:
    channel = served("table")

    with pytest.raises((ValueError, TypeError), match=rf"{channel.pv}.*") as caught:
        call(channel.put, value)
    assert words in str(caught.value) or "epics:nt" in str(caught.value)
    assert channel.get().value["names"] == ["a", "b"]


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
)
def test_an_image_has_its_dtype_and_shape(served: Served, call: Call, dtype: str) -> None:
    channel = served(f"image_{dtype}")
    for reading in (call(channel.get), monitored(channel)):
        image = reading.value

        assert image.dtype == np.dtype(dtype)
        assert image.shape == (3, 4)
        assert image.tolist() == np.arange(12).reshape(3, 4).tolist()
        assert not image.flags.writeable
        assert image.flags.c_contiguous


def test_images_of_other_dimensions(served: Served, call: Call) -> None:
    assert call(served("image_3d").get).value.tolist() == np.arange(24).reshape(2, 3, 4).tolist()
    assert call(served("image_1d").get).value.tolist() == [0, 1, 2, 3, 4]


def test_an_image_says_what_is_around_it(served: Served, call: Call) -> None:
    reading = call(served("image_uint8").get)

    assert isinstance(reading.fields, Structure)
    assert reading.fields.id == "epics:nt/NTNDArray:1.0"
    assert reading.fields["codec"]["name"] == ""
    assert [dimension["size"] for dimension in reading.fields["dimension"]] == [4, 3]
    assert reading.severity == 0


def test_a_compressed_image_is_its_bytes_and_names_its_codec(served: Served, call: Call) -> None:
    reading = call(served("image_compressed").get)

    assert reading.value.tolist() == [0, 1, 2, 3, 4, 5]
    assert reading.fields["codec"]["name"] == "lz4"
    assert reading.fields["uniqueId"] == 77
    assert reading.fields["attribute"][0]["name"] == "ColorMode"
    assert reading.fields["attribute"][0]["value"] == 0


def test_a_structure_without_value_is_its_fields(served: Served, call: Call) -> None:
    channel = served("shapes")
    for reading in (
        call(channel.get),
        call(channel.get, form="value"),
        call(channel.get, form="ctrl"),
        monitored(channel),
    ):
        shapes = reading.value

        assert isinstance(shapes, Structure)
        assert shapes.id == "shapes_t"
        assert list(shapes) == ["number", "inner", "points", "choice", "choices", "anything", "nothing", "anythings"]
        assert shapes["number"] == 3
        assert shapes["inner"].id == "inner_t"
        assert shapes["inner"]["text"] == "hello"
        assert shapes["inner"]["array"].tolist() == [1.0, 2.0]
        assert shapes["points"] == [{"x": 1.0, "y": 2.0}, {"x": 3.0, "y": 4.0}]
        assert shapes["points"][0].id == "point_t"
        assert shapes["choice"] == "text"
        assert shapes["choices"] == [4, "x"]
        assert shapes["anything"] == 2.5
        assert shapes["nothing"] is None
        assert shapes["anythings"] == [1, "two"]
        assert (reading.timestamp, reading.severity) == (None, None)


def test_a_union_value_is_its_member(served: Served, call: Call) -> None:
    reading = call(served("union").get)

    assert reading.value["value"].tolist() == [1.0, 2.0]
    assert reading.severity == 1


def test_fields_of_a_structure_are_written_by_name(served: Served, call: Call) -> None:
    channel = served("pair")

    call(channel.put, {"second": {"text": "b"}})
    assert channel.get().value == {"first": 1.0, "second": {"text": "b", "count": 2}}

    call(channel.put, Structure({"first": 4.0, "second": {"text": "a"}}))
    assert channel.get().value == {"first": 4.0, "second": {"text": "a", "count": 2}}
    call(channel.put, {"first": 1.0})


@pytest.mark.parametrize(
    "value", [{"third": 1}, {"second": 5}, {"second": {"count": 1.5}}, {"first": "x"}, {5: 1}, 3.0]
)
def test_fields_that_do_not_fit_are_refused(served: Served, call: Call, value: Any) -> None:
    channel = served("pair")

    with pytest.raises((ValueError, TypeError), match=channel.pv):
        call(channel.put, value)
    assert channel.get().value["second"]["count"] == 2


@pytest.mark.parametrize("code", "?bBhHiIlLfds")
def test_every_scalar_and_array_type_goes_both_ways(served: Served, call: Call, code: str) -> None:
    scalar, array = served(f"scalar_{code}"), served(f"array_{code}")
    kind = {"?": bool, "f": float, "d": float, "s": str}.get(code, int)
    dtypes = {
        "?": "?",
        "b": "i1",
        "B": "u1",
        "h": "i2",
        "H": "u2",
        "i": "i4",
        "I": "u4",
        "l": "i8",
        "L": "u8",
        "f": "f4",
        "d": "f8",
    }
    new = {"?": False, "s": "new"}.get(code, 5)

    call(scalar.put, new)
    assert type(call(scalar.get).value) is kind
    assert call(scalar.get).value == new
    call(array.put, [new, new, new])
    value = call(array.get).value
    if code == "s":
        assert value == [new] * 3
    else:
        assert value.dtype == np.dtype(dtypes[code])
        assert value.tolist() == [new] * 3


def test_64_bits_are_exact(served: Served, call: Call) -> None:
    assert call(served("uint64").get).value == 2**64 - 1
    assert call(served("int64").get).value == -(2**63)
    call(served("uint64").put, 2**64 - 3)
    assert call(served("uint64").get).value == 2**64 - 3
    call(served("uint64").put, 2**64 - 1)


def test_a_value_without_a_time_has_none(served: Served, call: Call) -> None:
    channel = served("pair")

    assert call(channel.get).timestamp is None
    assert call(channel.get).timestamp_ns is None


def test_a_refusal_carries_the_servers_words(served: Served, call: Call) -> None:
    channel = served("refusing")

    with pytest.raises(RemoteError, match="no thanks") as caught:
        call(channel.put, 2.0)
    assert caught.value.pv == channel.pv
    assert caught.value.reason == "no thanks"


def test_an_enum_of_a_python_server(served: Served, call: Call) -> None:
    channel = served("enum")

    assert call(channel.get).value.label == "On"
    call(channel.put, "Off")
    assert call(channel.get).value.label == "Off"
    with pytest.raises(ValueError, match="Ajar"):
        call(channel.put, "Ajar")
    call(channel.put, 1)


def test_a_group_of_an_ioc_is_a_structure(ioc: Ioc, call: Call) -> None:
    channel = ioc.channel("group", "pva")

    group = call(channel.get).value

    assert isinstance(group, Structure)
    assert group["first"]["value"] == 1.5
    assert group["second"]["value"].label == "On"
    call(channel.put, {"first": {"value": 2.5}})
    assert ioc.channel("group_first").get().value == 2.5
    call(channel.put, {"first": {"value": 1.5}})


def test_a_monitored_group_keeps_what_did_not_change(ioc: Ioc, call: Call) -> None:
    readings: list[Reading] = []
    subscription = ioc.channel("group", "pva").monitor(readings.append)
    until(lambda: readings)
    ioc.channel("group_first").put(3.5)
    until(lambda: readings[-1].value["first"]["value"] == 3.5)
    subscription.close()

    assert readings[-1].value["second"]["value"].label == "On"
    ioc.channel("group_first").put(1.5)


def test_structures_and_tables_travel_between_processes() -> None:
    table = pickle.loads(pickle.dumps(Table({"a": [1]}, "epics:nt/NTTable:1.0", ("A",))))

    assert (table, table.id, table.labels) == ({"a": [1]}, "epics:nt/NTTable:1.0", ("A",))
    assert pickle.loads(pickle.dumps(Structure({"x": 1}, "point_t"))).id == "point_t"
