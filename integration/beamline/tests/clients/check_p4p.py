"""Through p4p: pvAccess."""

import threading
import time

import numpy as np
import pytest
from p4p.client.thread import Context

LIMIT = 10.0


@pytest.fixture
def context():
    with Context("pva", nt=False) as context:
        yield context


@pytest.fixture
def normative():
    with Context("pva") as context:
        yield context


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("float1", 1.5, "d"),
        ("int10", 10, "i"),
        ("int64", 1234567890123, "l"),
        ("types:int64in", -(2**63), "l"),
        ("types:int64out", 9007199254740993, "l"),
        ("str3", "text 3", "s"),
        ("longstr", "a text of more than forty characters, which only a long string holds", "s"),
        ("wf:char", [1, -2, 3], "ab"),
        ("wf:uchar", [1, 200, 3], "aB"),
        ("wf:ushort", [1, 65535, 3], "aH"),
        ("wf:ulong", [1, 4294967295, 3], "aI"),
        ("wf:int64", [1, -2, 3], "al"),
        ("wf:uint64", [1, 2, 3], "aL"),
        ("wf:float", [0.5, 1.5, 2.5], "af"),
        ("wf:string", ["one", "two", "three"], "as"),
        ("wf:empty", [], "ad"),
    ],
)
def test_a_record_has_its_value_and_type(context, pv, name, value, code):
    record = context.get(pv(name))

    found = record.value.tolist() if isinstance(record.value, np.ndarray) else record.value
    assert found == value
    assert record.type()["value"] == code


def test_an_enum_takes_a_label_and_an_index(context, pv):
    for given, index in [("two", 2), (1, 1)]:
        context.put(pv("enum3"), {"value.index": index} if given == index else {"value": given}, wait=True)
        value = context.get(pv("enum3")).value
        assert (value.index, value.choices[value.index]) == (index, ["zero", "one", "two", "three"][index])


def test_metadata_and_alarm_come_with_the_value(context, pv):
    context.put(pv("alarm"), 6.0, wait=True)
    record = context.get(pv("alarm"))
    assert (record.alarm.severity, record.alarm.message) == (1, "HIGH")
    assert record.display.units == "degC"
    assert abs(record.timeStamp.secondsPastEpoch - time.time()) < 60
    context.put(pv("alarm"), 0.0, wait=True)


def test_a_protected_record_refuses_puts(context, pv):
    with pytest.raises(Exception, match=r"(?i)permitted|denied|access|write"):
        context.put(pv("protected:readonly"), 5.0, wait=True)
    assert context.get(pv("protected:readonly")).value == 1.0


def test_a_group_comes_whole(context, pv):
    group = context.get(pv("grp"))
    assert group.getID() == "epics:nt/NTTable:1.0"
    assert (group.a, group.b.value) == (1.25, 2.5)

    second = context.get(pv("grp2"))
    assert second.x == context.get(pv("m1.RBV")).value
    assert 470 < second.current.value <= 500


def test_a_motor_answers_a_put_when_it_is_there(context, pv):
    start = time.monotonic()
    context.put(pv("m1.VAL"), 3.0, wait=True, timeout=LIMIT)
    assert time.monotonic() - start > 0.2
    assert context.get(pv("m1.RBV")).value == 3.0
    context.put(pv("m1.VAL"), 0.0, wait=True, timeout=LIMIT)


def test_a_million_doubles_come_back_as_they_were_put(context, pv):
    values = np.arange(1_000_000, dtype=float)[::-1]
    context.put(pv("wf:big"), values, wait=True, timeout=LIMIT)
    assert np.array_equal(context.get(pv("wf:big")).value, values)


def test_a_monitor_brings_each_change(context, pv):
    values, done = [], threading.Event()

    def came(record):
        if not isinstance(record, Exception):
            values.append(record.value)
            if len(values) == 12:
                done.set()

    subscription = context.monitor(pv("counter:10Hz"), came)
    assert done.wait(LIMIT)
    subscription.close()
    assert values == list(range(values[0], values[0] + len(values)))


@pytest.mark.parametrize(
    ("data_type", "dtype", "binning"), [("UInt8", "u1", 1), ("UInt16", "u2", 2), ("Float32", "f4", 4)]
)
def test_frames_come_as_ntndarray(normative, pv, data_type, dtype, binning):
    cam = pv("cam:cam1:")
    put = lambda name, value: normative.put(cam + name, value, wait=True, timeout=LIMIT)  # noqa: E731
    put("DataType", data_type)
    for axis in "XY":
        put(f"Bin{axis}", binning)
    put("ImageMode", "Multiple")
    put("NumImages", 5)
    frames, done = [], threading.Event()

    def came(frame):
        if not isinstance(frame, Exception):
            frames.append(frame)
            if len({int(f.raw.uniqueId) for f in frames if f.shape == (512 // binning,) * 2}) >= 5:
                done.set()

    subscription = normative.monitor(pv("cam:Pva1:Image"), came)
    try:
        put("Acquire", 1)
        assert done.wait(LIMIT), [f.shape for f in frames]
    finally:
        subscription.close()
        for axis in "XY":
            put(f"Bin{axis}", 1)
        put("DataType", "UInt16")
    frame = frames[-1]
    assert frame.dtype == np.dtype(dtype)
    assert frame.shape == (512 // binning, 512 // binning)
    row, column = np.unravel_index(int(np.argmax(np.asarray(frame))), frame.shape)
    if dtype != "u1":  # which saturates
        assert abs(row - 256 // binning) <= 3 and abs(column - 256 // binning) <= 3


def test_the_spot_follows_the_motors(normative, pv):
    normative.put(pv("m3.VAL"), 100.0, wait=True, timeout=LIMIT)
    normative.put(pv("m4.VAL"), -50.0, wait=True, timeout=LIMIT)
    normative.put(pv("cam:cam1:ImageMode"), "Single", wait=True)
    normative.put(pv("cam:Stats1:ComputeCentroid"), "Yes", wait=True)
    normative.put(pv("cam:Stats1:CentroidThreshold"), 100.0, wait=True)
    number = normative.get(pv("cam:Stats1:UniqueId_RBV"))
    try:
        found = threading.Event()

        def came(value):
            if not isinstance(value, Exception) and abs(float(value) - 356) < 1.5:
                found.set()

        subscription = normative.monitor(pv("cam:Stats1:CentroidX_RBV"), came)
        normative.put(pv("cam:cam1:Acquire"), 1, wait=True, timeout=LIMIT)
        assert found.wait(LIMIT), (float(normative.get(pv("cam:Stats1:CentroidX_RBV"))), int(number))
        subscription.close()
        assert float(normative.get(pv("cam:Stats1:CentroidY_RBV"))) == pytest.approx(206, abs=1.5)
    finally:
        normative.put(pv("m3.VAL"), 0.0, wait=True, timeout=LIMIT)
        normative.put(pv("m4.VAL"), 0.0, wait=True, timeout=LIMIT)


def test_a_device_describes_itself(context, pv):
    value = context.get(pv("pvi:PVI")).value
    assert value.speed.rw == pv("pvi:speed")
    assert value.count.r == pv("pvi:count")
    assert value.go.x == pv("pvi:go")
    assert value.part.d == pv("pvi:part:PVI")
    assert context.get(pv("pvi:part:PVI")).value.mode.rw == pv("pvi:part:mode")
