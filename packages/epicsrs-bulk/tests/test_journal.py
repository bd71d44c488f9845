"""What is written into a journal comes out of it, or is refused by name; a damaged file gives what is whole in it."""

import datetime
import enum
import errno
import fcntl
import os
from collections import ChainMap
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_dtypes, array_shapes, arrays, scalar_dtypes

from epicsrs_bulk import DocumentError, JournalError
from epicsrs_bulk._journal import Journal, JournalReader  # noqa: PLC2701 (the file by itself)
from epicsrs_bulk._journal_encoding import pack, unpack  # noqa: PLC2701 (the bytes by themselves)

ARRAYS = [
    np.array([1, -2, 3], "i8"),
    np.array([0, 2**64 - 1], "u8"),
    np.array([1, -1], ">i2"),
    np.array([0.1, np.nan, np.inf], "f4"),
    np.array([1e308, -np.nan]),
    np.array([1, 2], "f2"),
    np.array([1 + 2j], "c16"),
    np.array([np.pi], np.longdouble),
    np.array([True, False]),
    np.array(["hutch", "é", ""]),
    np.array([b"a\0b", b""]),
    np.array(["2026-11-26T18:34:29.000000001", "NaT"], "M8[ns]"),
    np.array([5], "m8[ms]"),
    np.array([(1, 2.5, "x")], [("n", "i4"), ("x", "f8"), ("s", "U3")]),
    np.arange(24.0).reshape(2, 3, 4)[:, ::2],
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.array(7.5),
    np.zeros((0, 3), "i2"),
    np.array([""], "U0"),
]


def through(value: Any) -> Any:
    name, doc = unpack(pack("event", {"data": {"x": value}}))
    assert name == "event"
    return doc["data"]["x"]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_an_array_comes_back_with_its_type_shape_and_bits(array: Any) -> None:
    back = through(array)

    assert type(back) is np.ndarray
    assert back.dtype == array.dtype and back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert not back.flags.writeable and back.flags.aligned


def test_an_array_that_stands_in_many_places_is_written_once() -> None:
    times, other = np.arange(1000) * 0.5, np.arange(1000) * 0.5
    page = {"data": {"x": times, "y": other}, "timestamps": dict.fromkeys("xyz", times), "time": [times, np.float64(1)]}

    payload = pack("event_page", page)
    _, back = unpack(payload)

    assert 2 * times.nbytes < len(payload) < 2.1 * times.nbytes
    assert back["data"]["y"].tobytes() == other.tobytes()
    for same in (back["data"]["x"], *back["timestamps"].values(), back["time"][0]):
        assert same.tobytes() == times.tobytes() and not same.flags.writeable
    assert back["time"][1] == 1.0


def test_arrays_that_are_made_while_they_are_written_are_not_taken_for_each_other() -> None:
    class Made(ChainMap[str, Any]):
        """Gives a new array each time it is asked."""

        def __getitem__(self, key: str) -> Any:
            return np.full(3, int(key))

    _, back = unpack(pack("event", {"data": [Made(dict.fromkeys("123")) for _ in range(50)]}))

    assert all(row[key].tolist() == [int(key)] * 3 for row in back["data"] for key in "123")


@pytest.mark.parametrize("scalar", [np.int16(-3), np.uint64(2**64 - 1), np.float32(0.1), np.bool_(True)], ids=repr)
def test_a_scalar_of_numpy_comes_back_with_its_type(scalar: Any) -> None:
    assert type(through(scalar)) is type(scalar)
    assert through(scalar) == scalar


@pytest.mark.parametrize("date", [np.datetime64("2026-11-26T18:34:29.000000001"), np.timedelta64(3, "ms")], ids=repr)
def test_a_date_of_numpy_keeps_its_unit(date: Any) -> None:
    assert through(date) == date and through(date).dtype == date.dtype


class Shutter(enum.StrEnum):
    OPEN = "open"


@pytest.mark.parametrize(
    ("value", "back"),
    [
        (None, None),
        (True, True),
        (-(2**63), -(2**63)),
        (2**64 - 1, 2**64 - 1),
        (float("inf"), float("inf")),
        ("é\0", "é\0"),
        # Bytes of an IOC that are no UTF-8, beside such as are.
        ("\udcb0C", "\udcb0C"),
        ({"M\udcfcller": ["é", "\udcff"]}, {"M\udcfcller": ["é", "\udcff"]}),
        (b"\0\xff", b"\0\xff"),
        ((1, [2.5, {}]), [1, [2.5, {}]]),
        ({1: "int", None: "none"}, {1: "int", None: "none"}),
        (ChainMap({"a": 1}, {"b": 2}), {"a": 1, "b": 2}),
        (Shutter.OPEN, "open"),
        (
            datetime.datetime(2026, 11, 26, 18, 34, 29, 123456, tzinfo=datetime.UTC),
            datetime.datetime(2026, 11, 26, 18, 34, 29, 123456, tzinfo=datetime.UTC),
        ),
        (np.array(["a", None, 3], object), ["a", None, 3]),
    ],
    ids=repr,
)
def test_a_plain_value_comes_back(value: Any, back: Any) -> None:
    assert through(value) == back


@pytest.mark.parametrize(
    "value",
    [
        2**64,
        1j,
        {1, 2},
        Decimal("0.1"),
        Path("/data"),
        object(),
        datetime.datetime(2026, 11, 26),  # noqa: DTZ001 (whose clock?)
        np.ma.masked_array([1, 2], [0, 1]),
        np.array([object()]),
        "\ud800",
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_written_is_refused_with_where_it_is(value: Any) -> None:
    doc = {"uid": "e1", "data": {"fine": 1.0, "odd": [0, value]}}

    with pytest.raises(DocumentError, match=r"^event e1: \['data'\]\['odd'\]\[1\] cannot be written: "):
        pack("event", doc)


def test_later_changes_of_a_document_do_not_show() -> None:
    doc = {"data": {"x": np.arange(3), "y": [1]}}
    payload = pack("event_page", doc)

    doc["data"]["x"][:] = -1
    doc["data"]["y"].append(2)

    back = unpack(payload)[1]["data"]
    assert back["x"].tolist() == [0, 1, 2] and back["y"] == [1]


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
)
DOCUMENT = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner), max_leaves=20)


@settings(deadline=None, max_examples=60)
@given(DOCUMENT)
def test_any_plain_document_comes_back(value: Any) -> None:
    assert through(value) == value


@settings(deadline=None, max_examples=60)
@given(arrays(st.one_of(scalar_dtypes(), array_dtypes(scalar_dtypes())), array_shapes(min_dims=0, min_side=0)))
def test_any_array_comes_back(array: Any) -> None:
    back = through(array)

    assert back.dtype == array.dtype and back.shape == array.shape and back.tobytes() == array.tobytes()


DOCUMENTS = [("start", {"uid": "run"}), ("descriptor", {"uid": "d", "x": np.arange(3)}), ("stop", {"uid": "s"})]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    journal = Journal(tmp_path, "run")
    journal.open()
    for name, doc in DOCUMENTS:
        journal.append(name, pack(name, doc))
    journal.close()
    return journal.path


def read(path: Path) -> tuple[list[str], int]:
    with JournalReader(path) as reader:
        return [name for name, _, _ in reader], reader.unread


def test_a_journal_is_read_as_it_was_written(written: Path) -> None:
    with JournalReader(written) as reader:
        documents = list(reader)
        assert [name for name, _, _ in documents] == ["start", "descriptor", "stop"]
        assert documents[1][1]["x"].tolist() == [0, 1, 2]
        assert reader.run_uid == "run" and reader.unread == 0


def test_a_journal_cut_anywhere_gives_each_document_before_the_cut(written: Path) -> None:
    whole = written.read_bytes()
    lengths = [8 + len(pack(name, doc)) for name, doc in DOCUMENTS]
    ends = [len(whole) - sum(lengths[n:]) for n in range(len(lengths) + 1)]

    for cut in range(len(whole)):
        written.write_bytes(whole[:cut])
        names, unread = read(written)
        count = sum(end <= cut for end in ends[1:])
        assert names == ["start", "descriptor", "stop"][:count]
        assert unread == max(cut - ends[count], 0) if cut >= ends[0] else unread == 0


def test_a_flipped_bit_ends_a_journal_before_its_document(written: Path) -> None:
    whole = written.read_bytes()

    for place in range(len(b"epicsrs-journal 1\n"), len(whole)):
        written.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        names, unread = read(written)
        assert names == ["start", "descriptor", "stop"][: len(names)] and len(names) < 3
        assert unread > 0


def test_zeros_at_the_end_are_no_document(written: Path) -> None:
    with written.open("ab") as file:
        file.write(bytes(4096))

    assert read(written) == (["start", "descriptor", "stop"], 4096)


def test_another_file_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "run.journal").write_text("something else, longer than the first line of a journal")

    with pytest.raises(JournalError, match=r"run\.journal: not a journal"):
        JournalReader(tmp_path / "run.journal")


@pytest.mark.parametrize("uid", ["../up", "a/b", "a.b", ".", "a b\n", "é"])
def test_any_uid_makes_a_file_in_the_folder(uid: str, tmp_path: Path) -> None:
    journal = Journal(tmp_path, uid)
    journal.open()
    journal.mark_delivered()

    [path] = tmp_path.iterdir()
    with JournalReader(path) as reader:
        assert reader.run_uid == uid


@pytest.mark.parametrize("delivered", [False, True])
def test_a_run_has_one_journal_in_a_folder(delivered: bool, tmp_path: Path) -> None:
    first = Journal(tmp_path, "run")
    first.open()
    if delivered:
        first.mark_delivered()

    with pytest.raises(JournalError, match=rf"^{tmp_path}: no journal run\.journal: "):
        Journal(tmp_path, "run").open()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("refused", [False, True])
def test_a_document_is_on_the_disk_as_the_system_has_it(
    refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MacOS leaves what is synced in the disk's memory, unless it is asked for more; not all file systems can."""
    asked: list[int] = []

    def command(fd: int, number: int) -> int:
        asked.append(number)
        if refused:
            raise OSError(errno.ENOTSUP, "not supported")
        return 0

    synced: list[int] = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", command)
    monkeypatch.setattr(os, "fsync", synced.append)
    journal = Journal(tmp_path, "run")
    journal.open()

    journal.append("stop", b"x")

    # Of the folder, and of the file.
    assert asked == [51, 51]
    assert len(synced) == (2 if refused else 0)
    journal.close()
