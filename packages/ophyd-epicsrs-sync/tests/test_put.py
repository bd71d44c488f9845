import threading

import numpy as np
import pytest
from ophyd import EpicsSignal, EpicsSignalRO
from ophyd.utils import ReadOnlyError

from deadline import Stopwatch, until
from epicsrs_native import EpicsError, RemoteError

COERCED = [
    ("put_long", 3.7, 3),
    ("put_long", np.float32(-2.5), -2),
    ("put_long", "12", 12),
    ("put_long", "0x10", 16),
    ("put_long", True, 1),
    ("put_long", np.int64(7), 7),
    ("put_long", [8], 8),
    ("put_double", 2, 2.0),
    ("put_double", "1.5", 1.5),
    ("put_double", True, 1.0),
    ("put_double", np.float32(0.5), 0.5),
    ("put_choice", "Fault", 2),
    ("put_choice", 1, 1),
    ("put_choice", 2.0, 2),
    ("put_choice", "1", 1),
    ("put_choice", np.int64(0), 0),
    ("put_string", "abc", "abc"),
    ("put_string", b"abc", "abc"),
    ("put_string", 39 * "x", 39 * "x"),
    ("put_string", 5, "5"),
    ("put_chars", "ab", [97, 98, 0]),
    ("put_chars", b"ab", [97, 98, 0]),
    ("put_chars", [1, 2], [1, 2]),
    ("put_doubles", [1, 2, 3], [1.0, 2.0, 3.0]),
    ("put_doubles", 4.5, [4.5]),
    ("put_doubles", np.arange(8), list(range(8))),
    ("put_longs", [1.9, -1.9], [1, -1]),
    ("put_longs", (True, False), [1, 0]),
    ("put_strings", ["a", "bc"], ["a", "bc"]),
    ("put_strings", "abc", ["abc"]),
]

REFUSED = [
    ("put_long", "many", ValueError, "'many'"),
    ("put_long", float("nan"), ValueError, "nan"),
    ("put_long", 2**40, ValueError, str(2**40)),
    ("put_long", [1, 2], ValueError, "2 elements"),
    ("put_long", {}, TypeError, "dict"),
    ("put_double", "warm", ValueError, "'warm'"),
    ("put_double", object(), TypeError, "object"),
    ("put_choice", "Broken", ValueError, "Idle.*Moving.*Fault"),
    ("put_choice", 1.5, ValueError, "1.5"),
    ("put_choice", -1, ValueError, "-1"),
    ("put_longs", [1.0, float("inf")], ValueError, "inf"),
    ("put_doubles", ["a"], ValueError, "'a'"),
]


@pytest.mark.parametrize(("record", "value", "expected"), COERCED)
def test_what_users_of_pyepics_put_is_taken(ioc, protocol, make, record, value, expected):
    signal = make(EpicsSignal, ioc.pv(record, protocol))

    signal.put(value, wait=True)

    read = signal.get()
    assert (read.tolist() if isinstance(read, np.ndarray) else read) == expected


@pytest.mark.parametrize(("record", "value", "error", "words"), REFUSED)
def test_what_does_not_fit_is_refused_with_the_pv(ioc, protocol, make, record, value, error, words):
    signal = make(EpicsSignal, ioc.pv(record, protocol))

    with pytest.raises(error, match=words) as refusal:
        signal.put(value)

    assert signal.pvname in str(refusal.value)


@pytest.mark.parametrize(("record", "text"), [("put_string", 40 * "x"), ("put_chars", 101 * "x")])
def test_a_text_that_is_too_long_is_refused(ioc, make, record, text):
    """Over Channel Access, which tells how much the PV holds; pvAccess does not."""
    signal = make(EpicsSignal, ioc.pv(record))

    with pytest.raises(ValueError, match=f"{signal.pvname}.* bytes"):
        signal.put(text)


def test_an_array_that_is_too_long_is_cut_and_that_is_logged(ioc, make, caplog):
    signal = make(EpicsSignal, ioc.pv("put_doubles"))

    signal.put(np.arange(10.0), wait=True)

    assert signal.get().tolist() == list(range(8))
    assert f"{signal.pvname}: 10 elements put, the PV holds 8" in caplog.text


def test_a_plain_put_does_not_wait_for_the_record(ioc, protocol, make):
    signal = make(EpicsSignal, ioc.pv("slow_a.A", protocol))
    signal.wait_for_connection(timeout=5.0)
    watch = Stopwatch()

    signal.put(1)

    assert watch.elapsed < 0.4


def test_a_put_that_waits_does(ioc, protocol, make):
    signal, watch = make(EpicsSignal, ioc.pv("slow_a.A", protocol)), Stopwatch()

    signal.put(1, wait=True)

    assert watch.elapsed > 0.45


def test_the_last_put_of_a_burst_is_the_last(ioc, make):
    signal = make(EpicsSignal, ioc.pv("sequence"))
    history = make(EpicsSignalRO, ioc.pv("history"))
    make(EpicsSignal, ioc.pv("history.RES")).put(1, wait=True)

    for burst in range(50):
        for step in range(20):
            signal.put(burst * 20 + step)
        assert signal.get() == burst * 20 + 19

    assert history.get().tolist() == list(range(1000))


def test_puts_keep_their_order_over_two_pvs(ioc, make):
    num, acquire, acquired = (make(EpicsSignal, ioc.pv(name)) for name in ("num", "acquire", "acquired"))

    for step in range(200):
        num.put(step)
        acquire.put(1)
        assert acquired.get() == step


def test_set_waits_for_the_readback(ioc, protocol, make):
    signal = make(EpicsSignal, ioc.pv("put_double", protocol))

    signal.set(4.5).wait(5.0)

    assert signal.get() == 4.5


@pytest.mark.parametrize("value", [[1.0, 2.0], (3.0,), np.array([5.0, 6.0, 7.0])])
def test_set_of_a_short_array(ioc, protocol, make, value):
    signal = make(EpicsSignal, ioc.pv("put_doubles", protocol))

    signal.set(value).wait(5.0)

    assert signal.get().tolist() == list(value)


def test_a_read_only_signal_is_not_written(ioc, make):
    with pytest.raises(ReadOnlyError):
        make(EpicsSignalRO, ioc.pv("double")).put(1)


def test_a_refused_put_raises_in_the_caller_that_waits(ioc, protocol, make):
    signal = make(EpicsSignal, ioc.pv("locked", protocol))

    with pytest.raises(RemoteError, match="locked"):
        signal.put(1, wait=True)


def test_a_late_refusal_is_logged_with_the_pv(ioc, make, caplog):
    signal = make(EpicsSignal, ioc.pv("locked"))

    signal.put(1)

    until(lambda: f"{signal.pvname}: refused by the server" in caplog.text)


def test_a_put_to_a_lost_pv_is_an_epics_error(mortal_ioc, protocol, get_pv):
    pv = get_pv(mortal_ioc.pv("slower.A", protocol), connect=True)
    errors = []

    def put():
        try:
            pv.put(1, wait=True)
        except EpicsError as error:
            errors.append(error)

    putting = threading.Thread(target=put)
    putting.start()
    until(lambda: pv.put_complete is False)
    mortal_ioc.kill()
    putting.join(10.0)

    assert [error.pv for error in errors] == [pv.pvname]
