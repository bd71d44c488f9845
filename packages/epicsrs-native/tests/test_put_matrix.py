"""Every kind of value to every type of record: what fits arrives, what does not is refused here and changes nothing."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from epicsrs_native import AccessDeniedError, Channel, EnumValue, EpicsError, Reading, RemoteError
from ioc import HERE, NETWORK, Ioc

Call = Callable[..., Any]


class Wire(NamedTuple):
    """How a protocol serves a record's value: a dtype, "text" or "enum"; how many elements, None for one."""

    kind: str
    count: int | None = None


# The integers of Channel Access have a sign and at most 32 bits; what they do not hold goes as a double.
OVER_CA = {"i1": "u1", "u2": "i4", "u4": "f8", "i8": "f8", "u8": "f8"}

# Record or field, and what it holds: a dtype with or without a number of elements.
TYPES = {
    "ai": "f8", "ao": "f8", "calc": "f8", "calcout": "f8", "dfanout": "f8", "calc.A": "f8", "seq.DO1": "f8",
    "longin": "i4", "longout": "i4", "mbboDirect": "i4", "mbbiDirect": "i4", "seq": "i4", "fanout": "i4", "aSub": "i4",
    "int64in": "i8", "int64out": "i8", "permissive": "u2", "mbbo.ZRVL": "u4", "ao.PREC": "i2",
    "bi": "enum", "bo": "enum", "mbbi": "enum", "mbbo": "enum", "mbbo_numbers": "enum", "mbbo_gaps": "enum",
    "mbbo_full": "enum", "ao.PINI": "enum", "ao.HHSV": "enum",
    "stringin": "text", "stringout": "text", "event": "text", "lsi": "text", "lso": "text", "ao.DESC": "text",
    "aai": "8f8", "aao": "8i4", "subArray": "8f8", "aSub.A": "8f8", "aSub.B": "8text", "chars": "8i1", "uchars": "8u1",
    "shorts": "8i2", "ushorts": "8u2", "longs": "8i4", "ulongs": "8u4", "int64s": "8i8", "uint64s": "8u8",
    "floats": "8f4", "doubles": "8f8", "strings": "8text", "one_double": "f8", "one_string": "text",
}  # fmt: skip

packed = np.array([(1, 1.5), (2, -2.5)], dtype=[("odd", "u1"), ("value", "f8")])
uneven = np.array([(1, 2, 3), (4, 5, 6)], dtype=[("a", "i4"), ("b", "i2"), ("c", "i4")])
read_only = np.arange(3.0)
read_only.flags.writeable = False

NUMBERS: list[Any] = [0, 1, -1, 2, 3, 15, 16, 127, 128, 255, 256, 32767, 32768, -32769, 65535, 65536, True, False]
NUMBERS += [sign * 2**bits + more for bits in (31, 32, 53, 63, 64) for sign in (1, -1) for more in (-1, 0, 1)]
NUMBERS += [0.0, 1.0, -0.0, 0.1, 3.7, 1e19, 1e300, 5e-324, math.nan, math.inf, -math.inf]
NUMBERS += [np.bool_(True), np.int8(-3), np.uint8(200), np.int16(-300), np.uint16(60000), np.int32(-7), np.uint32(7)]
NUMBERS += [np.int64(-(2**63)), np.uint64(2**64 - 1), np.float16(1.5), np.float32(0.1), np.float64(-2.0), np.array(2.0)]
NUMBERS += [EnumValue(0), EnumValue(1, "On"), EnumValue(2, "bogus"), EnumValue(99, "Off"), EnumValue(-1)]
TEXTS = ["", "Off", "On", "Fault", "off", " On", "0", "1", "2", "0x1", "1.5", "nan", "a", "x" * 39, "x" * 40, "x" * 200]
TEXTS += ["µ", "é" * 20, "a\0b", "\udcff", "\ud800", "1234567890123456789012345", np.str_("On")]
ARRAYS: list[Any] = [
    (),
    [1],
    ["On"],
    np.array([2.5]),
    [1, 2],
    (1.5, 2.5),
    [True, False],
    ["On", ""],
    ["x" * 40, "y"],
    [math.nan, 1.0],
    [2**63, 1],
]
ARRAYS += [[-1, 2**63], [-1, 0], list(range(8)), list(range(9)), ["s"] * 9, [EnumValue(1, "On"), 2], [np.int64(3), 4]]
ARRAYS += [
    np.arange(3),
    np.arange(3, dtype=">f8"),
    np.arange(6.0)[::2],
    np.arange(3.0)[::-1],
    np.ones(2, "f2"),
    read_only,
]
ARRAYS += [np.array([True, False]), np.array(["a", "µ"]), np.array([2**64 - 1, 0], "u8"), np.zeros(3, "i1"), b"On"]
ARRAYS += [packed["value"], uneven["c"], np.broadcast_to(np.float64(2.5), (3,)), bytearray(b"ab")]
# Nothing that EPICS can hold, whatever the record.
NOTHING: list[Any] = [None, object(), 1j, {"first": 1}, {1}, range(2), [None], [1, "a"], [1.0, None], [[1], [2, 3]]]
NOTHING += [[[1, 2]], 10**400, np.complex64(1), np.array([1j, 2]), np.array([None]), np.zeros((2, 2)), np.zeros((1, 3))]
NOTHING += [packed, np.array([1, 2], "M8[ns]"), np.datetime64(5, "ns"), np.timedelta64(5, "ns"), np.ma.masked]
NOTHING += [np.ma.array([1.0, 2.0], mask=[False, True])]


def wire(held: str, protocol: str) -> Wire:
    count, kind = (8, held[1:]) if held[0].isdigit() else (None, held)
    return Wire(OVER_CA.get(kind, kind) if protocol == "ca" else kind, count)


def plain(value: Any) -> Any:
    """A value as Python has it: bytes and arrays as lists."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return list(value) if isinstance(value, (bytes, bytearray, tuple)) else value


def elements(value: Any) -> list[Any]:
    """A scalar is a list of one."""
    listed = plain(value)
    return listed if isinstance(listed, list) else [listed]


def together(values: list[Any]) -> bool:
    """Whether one type of 64 bits holds all the integers among them."""
    whole = [value for value in values if isinstance(value, int)]
    return not whole or -(2**63) <= min(whole) <= max(whole) < 2**63 or 0 <= min(whole) <= max(whole) < 2**64


def number(value: Any, kind: str) -> Any:
    """What a wire type makes of one number; None where it cannot hold it."""
    if isinstance(value, str):
        return None
    if kind == "f8":
        return float(value) if isinstance(value, float) or int(float(value)) == value else None
    if kind == "f4":
        with warnings.catch_warnings(action="ignore"):
            narrow = float(np.float32(value))
        exact = isinstance(value, float) or int(narrow) == value if math.isfinite(narrow) else not math.isfinite(value)
        return narrow if exact else None
    if isinstance(value, float) and (not math.isfinite(value) or value != int(value)):
        return None
    low, high = (0, 65535) if kind == "enum" else (np.iinfo(kind).min, np.iinfo(kind).max)
    return int(value) if low <= value <= high else None


def text(value: Any, protocol: str) -> str | None:
    """What arrives of one text; the limit of 39 bytes is told over Channel Access only, by its DBR_STRING."""
    if not isinstance(value, str) or "\0" in value or "\ud800" in value:
        return None
    too_long = len(value.encode(errors="surrogateescape")) > 39
    return None if too_long and protocol == "ca" else value


def sent(value: Any, to: Wire, protocol: str, choices: tuple[str, ...]) -> list[Any] | None:
    """The elements that a put sends; None where it is refused."""
    value = plain(value)
    if not together(elements(value)):
        return None
    if isinstance(value, str) and to.kind in ("i1", "u1") and to.count:
        if "\ud800" in value:
            return None
        octets = np.frombuffer(value.encode(errors="surrogateescape") + b"\0", to.kind).tolist()
        return octets if len(octets) <= to.count + 1 or protocol == "pva" else None
    # One element is as good as a scalar.
    if isinstance(value, list) and not to.count:
        if len(value) != 1:
            return None
        value = value[0]
    each = elements(value)
    if to.count and len(each) > to.count and protocol == "ca":
        return None
    if to.kind == "text":
        made = [text(one, protocol) for one in each]
    elif to.kind == "enum" and isinstance(value, str):
        made = [choices.index(value) if value and value in choices else None]
    else:
        made = [number(one, to.kind) for one in each]
    return None if None in made else made


def shown(element: Any, held: str, to: Wire) -> Any:
    """What the record makes of a sent element, read over a protocol; ... where only the server knows."""
    kind = held.lstrip("8")
    if kind in ("text", "enum", "f8", "f4"):
        return element
    if isinstance(element, float) and not (
        math.isfinite(element) and np.iinfo(kind).min <= element <= np.iinfo(kind).max
    ):
        return ...
    whole = int(np.array(int(element) % 2 ** (8 * np.dtype(kind).itemsize), f"u{kind[1]}").view(kind))
    return np.array(whole).astype(to.kind).item() if to.kind != kind else whole


def agrees(got: Any, put: list[Any], held: str, to: Wire) -> bool:
    """Whether a value that was read is the one that was put; the servers cut what is longer than the record."""
    found = elements(got)
    if to.kind == "text":
        octets = [one.encode(errors="surrogateescape") for one in put[: to.count]]
        return all(
            one.encode(errors="surrogateescape") in (whole, whole[:39], whole[:99])
            for one, whole in zip(found, octets, strict=True)
        )
    expected = [shown(element, held, to) for element in put[: to.count]]
    return len(found) == len(expected) and all(
        one is ... or one == two or (one != one and two != two) for one, two in zip(expected, found, strict=True)
    )


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ioc]:
    """An IOC with a record of every type."""
    ioc = Ioc(NETWORK.iocs[2], tmp_path_factory.mktemp("every"), [HERE / "every_record.db"])
    ioc.start()
    yield ioc
    ioc.kill()


def describe(value: Any) -> str:
    return f"{type(value).__name__} {' '.join(ascii(value).split())[:60]}"


def put_all(values: Sequence[Any], protocol: str, channels: dict[str, Channel], held: str) -> Iterator[str]:
    """Put each value, and say what is wrong with what came of it."""
    channel, to = channels[protocol], wire(held, protocol)
    metadata = channel.get(form="ctrl").metadata
    choices = (metadata.choices if metadata else None) or ()

    def read() -> list[Reading]:
        return [other.get() for other in channels.values()]

    processed = [reading.timestamp_ns for reading in read()]
    for value in values:
        put = None if any(value is one for one in NOTHING) else sent(value, to, protocol, choices)
        try:
            if put is not None and [reading.timestamp_ns for reading in read()] != processed:
                yield f"before {describe(value)}: the record was processed by what was refused"
            channel.put(value)
        except (ValueError, TypeError, EpicsError) as error:
            if put is not None or isinstance(error, EpicsError):
                yield f"{describe(value)}: {error!r}"
            elif channel.pv not in str(error):
                yield f"{describe(value)}: the PV is not in {error!r}"
            continue
        if put is None:
            yield f"{describe(value)}: taken for {channel.get().value!r}"
            continue
        readings = read()
        processed = [reading.timestamp_ns for reading in readings]
        for name, reading in zip(channels, readings, strict=True):
            if not agrees(reading.value, put, held, wire(held, name)):
                yield f"{describe(value)}: {describe(reading.value)} over {name}"
    if [reading.timestamp_ns for reading in read()] != processed:
        yield "the record was processed by what was refused"


@pytest.mark.parametrize("record", TYPES)
def test_what_fits_arrives_and_what_does_not_is_refused(every: Ioc, protocol: str, record: str) -> None:
    channels = {name: every.channel(record, name) for name in ("ca", "pva")}

    # An empty text to an enum has a test of its own.
    texts = TEXTS[1:] if TYPES[record] == "enum" else TEXTS

    assert list(put_all([*NUMBERS, *texts, *ARRAYS, *NOTHING], protocol, channels, TYPES[record])) == []


@pytest.mark.parametrize("record", ["compress", "histogram", "printf", "state"])
def test_a_record_that_makes_its_own_value_refuses_what_is_none(every: Ioc, protocol: str, record: str) -> None:
    channel = every.channel(record, protocol)
    before = channel.get().value

    for value in NOTHING:
        with pytest.raises((ValueError, TypeError), match=channel.pv):
            channel.put(value)

    assert elements(channel.get().value) == elements(before)


@pytest.mark.parametrize("record", ["bo_unlabelled", "mbbo_gaps"])
def test_an_empty_text_is_no_label(every: Ioc, protocol: str, record: str) -> None:
    channel = every.channel(record, protocol)

    with pytest.raises(ValueError, match=channel.pv):
        channel.put("")


def test_an_array_of_enums_takes_their_indices(every: Ioc) -> None:
    """Over Channel Access: QSRV serves no arrays of enums."""
    channel = every.channel("enums")

    for value in ([0, 65535], [EnumValue(1, "On"), 2], np.array([3, 4], "i8")):
        channel.put(value)
        assert channel.get().value.tolist() == list(value)
    for value in ([-1, 0], [65536, 0], [0.5, 1.0], list(range(9))):
        with pytest.raises(ValueError, match=channel.pv):
            channel.put(value)
    with pytest.raises((TypeError, EpicsError), match=channel.pv):
        channel.put(["On", "Off"])
    assert channel.get().value.tolist() == [3, 4]


@pytest.mark.parametrize("record", ["sel", "ao.NAME", "ao.STAT", "doubles.NORD"])
def test_a_field_that_cannot_be_written_says_so(every: Ioc, protocol: str, record: str) -> None:
    """Without completion: pvxs 1.5.3 ends where it waits for a put that the record refuses."""
    channel = every.channel(record, protocol)
    before = channel.get().value

    with pytest.raises(RemoteError, match=channel.pv) as caught:
        channel.put(before, wait=False)

    if protocol == "ca":
        # Known before anything is sent.
        assert isinstance(caught.value, AccessDeniedError)
    assert channel.get().value == before


@pytest.mark.parametrize("length", [0, 1, 65_535, 65_536])
def test_arrays_at_the_edge_of_a_16_bit_count(every: Ioc, protocol: str, call: Call, length: int) -> None:
    channel = every.channel("edge", protocol)
    values = (np.arange(length) % 40_000).astype("u2")

    call(channel.put, values)

    for name, dtype in (("ca", "int32"), ("pva", "uint16")):
        got = call(every.channel("edge", name).get).value
        assert (got.dtype, got.shape) == (np.dtype(dtype), values.shape)
        assert np.array_equal(got, values)
