"""Puts to what is no plain value: images, tables, unions, variants, arrays of structures."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from ioc import NETWORK
from pva_server import Served, pva_server

Call = Callable[..., Any]
PREFIX = "put:"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Opens channels to a p4p server of odd structures, which others than these tests do not put to."""
    with pva_server("odd_structures.py", PREFIX, NETWORK.iocs[4], tmp_path_factory.mktemp("put") / "log") as channel:
        yield channel


@pytest.mark.parametrize(
    "name",
    [
        "union_of_whole",
        "union_of_words",
        "union_of_point",
        "variant_of_long",
        "variant_of_text",
        "variant_of_texts",
        "variant_of_boolean",
        "variant_of_point",
        "unions",
        "points",
        "table_of_structures",
    ],
)
def test_what_was_read_can_be_put(served: Served, call: Call, name: str) -> None:
    channel = served(name)
    value = call(channel.get).value

    call(channel.put, value)

    assert call(channel.get).value == value


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("union_of_whole", [5, "text", -(2**31)]),
        ("variant_of_long", [5, "text", 1.5, True, 2**64 - 1, ["a", "b"], [{"x": 1}]]),
        ("unions", [["b", 1], [], [None]]),
        ("no_variants", [[1, "b", None, 2.5], []]),
        ("points", [[{"x": 4.0}], []]),
    ],
)
def test_a_union_or_variant_takes_what_it_can_hold(served: Served, call: Call, name: str, values: list[Any]) -> None:
    channel = served(name)
    for value in values:
        call(channel.put, value)
        got = call(channel.get).value["value"]
        assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("union_of_whole", [1.5, 2**31, {"nonsense": 1}, [1.5], None, object()]),
        ("variant_of_long", [None, object(), 1j]),
        ("unions", ["text", 5, [1.5], [2**31], [object()]]),
        ("points", [5, "text", [5], [{"x": "text"}], [{"nonsense": 1.0}]]),
    ],
)
def test_what_no_member_holds_is_refused(served: Served, call: Call, name: str, values: list[Any]) -> None:
    channel = served(name)
    before = call(channel.get).value
    for value in values:
        with pytest.raises((TypeError, ValueError), match=channel.pv):
            call(channel.put, value)
    assert call(channel.get).value == before


@pytest.mark.parametrize(
    "image",
    [
        np.arange(6, dtype="u2").reshape(2, 3),
        np.arange(24, dtype="f4").reshape(2, 3, 4),
        np.asfortranarray(np.arange(6, dtype="u1").reshape(2, 3)),
        np.arange(24, dtype=">i4").reshape(4, 6)[::2, ::3],
        np.zeros((0, 3), "i8"),
        np.array([[True], [False]]),
        np.arange(6.0),
        np.array([7], "i2"),
    ],
    ids=lambda image: f"{image.dtype} {image.shape}",
)
def test_an_image_arrives_in_its_shape(served: Served, call: Call, image: np.ndarray) -> None:
    channel = served("image_ubyte")
    call(channel.put, np.zeros((3, 2), "u1"))

    call(channel.put, image)

    reading = call(channel.get)
    assert (reading.value.dtype, reading.value.shape) == (image.dtype.newbyteorder("="), image.shape)
    assert np.array_equal(reading.value, image)
    assert [dimension["size"] for dimension in reading.fields["dimension"]] == list(reversed(image.shape))


def test_a_list_is_an_image_of_one_dimension(served: Served, call: Call) -> None:
    channel = served("image_ubyte")
    call(channel.put, np.zeros((3, 2), "u1"))

    call(channel.put, [1, 2, 3, 4, 5, 6])

    assert call(channel.get).value.tolist() == [1, 2, 3, 4, 5, 6]


def test_what_is_no_image_is_refused(served: Served, call: Call) -> None:
    channel = served("image_short")
    before = call(channel.get).value
    for value in (np.zeros((2, 2), "c16"), np.array([["a"]]), np.array([[None]]), None, object(), [["a", "b"]]):
        with pytest.raises((TypeError, ValueError), match=channel.pv):
            call(channel.put, value)
    assert np.array_equal(call(channel.get).value, before)
