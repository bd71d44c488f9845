"""pvAccess structures at the edges of the normative types: faithful, whatever they are; and what changes."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from deadline import until
from epicsrs_native import Channel, EnumValue, EpicsError, Reading, RemoteError, Structure, Table
from ioc import NETWORK
from pva_server import Served, pva_server

Call = Callable[..., Any]
PREFIX = "odd:"

MEMBERS = {"boolean": "?", "byte": "i1", "ubyte": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
MEMBERS |= {"long": "i8", "ulong": "u8", "float": "f4", "double": "f8"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Opens channels to the p4p server of odd structures."""
    with pva_server("odd_structures.py", PREFIX, NETWORK.iocs[4], tmp_path_factory.mktemp("odd") / "log") as channel:
        yield channel


def read_and_monitored(channel: Channel, call: Call) -> list[Any]:
    """The value as each form of get gives it, and as a monitor does."""
    values = [call(channel.get, form=form).value for form in ("value", "time", "ctrl")]
    readings: list[Reading] = []
    subscription = channel.monitor(readings.append)
    until(lambda: readings)
    subscription.close()
    return [*values, readings[0].value]


def test_a_table_has_columns_of_every_type(served: Served, call: Call) -> None:
    dtypes = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
    for table in read_and_monitored(served("table_of_every_type"), call):
        assert isinstance(table, Table)
        *numbers, texts = table.values()
        assert [column.dtype for column in numbers] == [np.dtype(dtype) for dtype in dtypes]
        assert [column.tolist() for column in numbers] == [[0, 1]] * len(dtypes)
        assert texts == ["x", "x"]


def test_a_table_without_rows_has_its_columns(served: Served, call: Call) -> None:
    for table in read_and_monitored(served("table_without_rows"), call):
        assert list(table) == ["numbers", "texts"]
        assert [len(column) for column in table.values()] == [0, 0]
        assert table.labels == ("numbers", "texts")


def test_a_table_is_given_as_it_is(served: Served, call: Call) -> None:
    for table in read_and_monitored(served("table_of_uneven_columns"), call):
        assert table["numbers"].tolist() == [1.0, 2.0, 3.0]
        assert table["texts"] == ["x"]
        assert table.labels == ("N", "T")
    for table in read_and_monitored(served("table_without_labels"), call):
        assert (table["numbers"].tolist(), table["texts"], table.labels) == ([1.0], ["x"], ())
    for table in read_and_monitored(served("table_of_structures"), call):
        assert table == {"eithers": [1, "q"], "anythings": [1, "b"], "points": [{"x": 1.0}, {"x": 2.0}]}
        assert table["points"][0].id == "point_t"


@pytest.mark.parametrize("member", MEMBERS)
def test_an_image_is_whichever_member_of_the_union(served: Served, call: Call, member: str) -> None:
    dtype = np.dtype(MEMBERS[member])
    low, high = (False, True) if dtype == "?" else (0.25, 3) if dtype.kind == "f" else (None, None)
    if low is None:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max

    for image in read_and_monitored(served(f"image_{member}"), call):
        assert (image.dtype, image.tolist()) == (dtype, [[low, high], [1, 0]])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("without_dimensions", (12,)),
        ("of_wrong_dimensions", (12,)),
        ("of_negative_dimensions", (12,)),
        ("of_dimensions_that_overflow", (0,)),
        ("of_huge_empty_dimensions", (0,)),
        ("of_seventy_dimensions", (1,)),
        ("of_five_dimensions", (2, 1, 2, 1, 3)),
        ("without_elements", (5, 0)),
        ("compressed_to_its_own_size", (12,)),
    ],
)
def test_an_image_of_no_shape_is_its_elements(served: Served, call: Call, name: str, shape: tuple[int, ...]) -> None:
    channel = served(f"image_{name}")
    for image in read_and_monitored(channel, call):
        assert image.shape == shape
        assert image.ravel().tolist() == list(range(image.size))


def test_an_image_of_nothing_has_no_value(served: Served, call: Call) -> None:
    for image in read_and_monitored(served("image_of_nothing"), call):
        assert isinstance(image, Structure)
        assert image["value"] is None
        assert image["dimension"] == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("union_of_nothing", None),
        ("union_of_whole", 7),
        ("union_of_words", "text"),
        ("union_of_point", {"x": 2.5}),
        ("variant_of_nothing", None),
        ("variant_of_long", 2**63 - 1),
        ("variant_of_text", "text"),
        ("variant_of_texts", ["a", "b"]),
        ("variant_of_boolean", True),
        ("variant_of_point", {"x": 4.0}),
        ("unions", [1, None, "z"]),
        ("no_unions", []),
        ("points", [{"x": 1.0}, None, {"x": 2.0}]),
        ("no_variants", []),
    ],
)
def test_a_union_or_variant_is_what_it_holds(served: Served, call: Call, name: str, expected: Any) -> None:
    for structure in read_and_monitored(served(name), call):
        assert structure == {"value": expected}
        assert type(structure["value"]) in (type(expected), Structure)
        assert getattr(structure["value"], "id", "point_t") == "point_t"


def test_structures_without_and_beside_a_value(served: Served, call: Call) -> None:
    for structure in read_and_monitored(served("structure_of_nothing"), call):
        assert structure == {"inner": {}}
    for value in read_and_monitored(served("matrix"), call):
        assert value.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert call(served("matrix").get, request="field(dim)").value["dim"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("name", "index", "label", "choices"),
    [
        ("without_choices", 0, None, ()),
        ("beyond_its_choices", 7, None, ("a", "b")),
        ("below_its_choices", -1, None, ("a", "b")),
        ("of_forty", 33, "choice 33", tuple(f"choice {n}" for n in range(40))),
    ],
)
def test_an_enum_has_a_label_where_there_is_one(
    served: Served, call: Call, name: str, index: int, label: str | None, choices: tuple[str, ...]
) -> None:
    channel = served(f"enum_{name}")
    for value in read_and_monitored(channel, call):
        assert (type(value), int(value), value.label) == (EnumValue, index, label)
        repr(value)
    assert call(channel.get, form="ctrl").metadata.choices == choices
    with pytest.raises(ValueError, match=channel.pv):
        call(channel.put, "nowhere")


def test_choices_that_change_are_the_new_ones_everywhere(served: Served) -> None:
    channel = served("enum_that_changes")
    plain: list[Reading] = []
    full: list[Reading] = []
    subscriptions = [channel.monitor(plain.append), channel.monitor(full.append, form="ctrl")]
    until(lambda: plain and full)

    served("orders").put("change")
    until(lambda: len(plain) == len(full) == 2)
    for subscription in subscriptions:
        subscription.close()

    assert [(int(reading.value), reading.value.label) for reading in plain] == [(1, "b"), (2, "e")]
    assert [reading.metadata and reading.metadata.choices for reading in full] == [("a", "b"), ("q", "w", "e")]
    with pytest.raises(ValueError, match=r"choices.*q.*w.*e"):
        channel.put("b")
    channel.put("w")
    assert channel.get().value.label == "w"


def test_a_channel_that_the_server_closes_is_down_and_comes_back(served: Served, call: Call) -> None:
    channel, orders = served("closing"), served("orders")
    values: list[float] = []
    edges: list[bool] = []
    subscription = channel.monitor(lambda reading: values.append(reading.value))
    watch = channel.on_connection(edges.append)
    until(lambda: values and edges)
    before = list(values)

    orders.put("close")
    until(lambda: False in edges)
    with pytest.raises(EpicsError, match=channel.pv):
        call(channel.get, timeout=0.2)
    orders.put("open")

    until(lambda: len(values) > len(before), 10.0, lambda: values)
    assert values == [*before, 2.0]
    assert call(channel.get, timeout=10.0).value == 2.0
    assert edges[:2] == [True, False]
    subscription.close()
    watch.close()


def test_a_handler_that_breaks_is_a_refusal_in_its_words(served: Served, call: Call) -> None:
    channel = served("broken")

    for _ in range(2):
        with pytest.raises(RemoteError, match="it broke: µ") as caught:
            call(channel.put, 2.0)
        assert caught.value.pv == channel.pv
    assert call(channel.get).value == 1.0


def test_an_update_that_cannot_be_shown_costs_no_other(served: Served) -> None:
    """Of one loop: those after it in the same batch come, and what is awaited is answered."""
    odd, sane = served("image_of_huge_empty_dimensions"), served("image_ubyte")
    for channel in (odd, sane):
        channel.connect()

    async def main() -> int:
        readings: list[Reading] = []
        loud = [await odd.monitor_async(readings.append, wait=False) for _ in range(3)]
        quiet = [await sane.monitor_async(readings.append) for _ in range(3)]
        answers = await asyncio.gather(*(sane.get_async() for _ in range(20)))
        for subscription in loud + quiet:
            subscription.close()
        assert len([reading for reading in readings if reading.value.size == 4]) == 3
        return len(answers)

    assert asyncio.run(asyncio.wait_for(main(), 10.0)) == 20
