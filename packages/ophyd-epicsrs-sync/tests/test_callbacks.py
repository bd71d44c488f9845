import threading

import pytest
from ophyd import EpicsSignal, EpicsSignalRO, EpicsSignalWithRBV

from deadline import until

# What pyepics gives a value callback; ophyd's users take these by name.
KEYWORDS = set(
    "pvname value char_value status severity timestamp posixseconds nanoseconds precision units enum_strs "
    "upper_disp_limit lower_disp_limit upper_alarm_limit lower_alarm_limit upper_warning_limit lower_warning_limit "
    "upper_ctrl_limit lower_ctrl_limit count nelm type typefull ftype host chid access read_access write_access "
    "monitor_delta cb_info".split()
)


def test_a_subscriber_gets_the_present_value_and_each_change_once(ioc, make):
    signal, writer = make(EpicsSignalRO, ioc.pv("put_long")), make(EpicsSignal, ioc.pv("put_long"))
    writer.put(-1, wait=True)
    seen, again = [], []
    signal.subscribe(lambda value, **_: seen.append(value))
    signal.subscribe(lambda value, **_: again.append(value))
    until(lambda: seen == [-1])

    for value in range(100):
        writer.put(value)

    until(lambda: seen[-1:] == [99])
    assert seen == [-1, *range(100)]
    assert again[-100:] == list(range(100))


def test_two_signals_of_one_pv_hear_of_it_each_once(ioc, make):
    signals = [make(EpicsSignalRO, ioc.pv("put_long"), name=name, auto_monitor=True) for name in ("one", "two")]
    writer, seen = make(EpicsSignal, ioc.pv("put_long")), {"one": [], "two": []}
    writer.put(-1, wait=True)
    for signal in signals:
        signal.subscribe(lambda value, obj, **_: seen[obj.name].append(value))
    until(lambda: all(values[-1:] == [-1] for values in seen.values()))
    for values in seen.values():
        values.clear()
    signals[0].destroy()
    for value in range(10):
        writer.put(value)

    until(lambda: seen["two"] == list(range(10)))
    assert seen["one"] == []


def test_all_value_callbacks_run_on_one_thread_in_the_order_of_the_wire(ioc, protocol, make):
    num, acquired = make(EpicsSignal, ioc.pv("num", protocol)), make(EpicsSignal, ioc.pv("acquired", protocol))
    acquire, seen, threads = make(EpicsSignal, ioc.pv("acquire")), [], set()
    acquire.put(1, wait=True)

    def see(value, obj, **_):
        threads.add(threading.current_thread().name)
        seen.append((obj.name, value))

    readers = [make(EpicsSignalRO, ioc.pv(record, protocol), name=record) for record in ("num", "acquired")]
    for reader in readers:
        reader.subscribe(see)
    until(lambda: len(seen) >= 2)
    seen.clear()
    for step in range(1, 51):
        num.put(step, wait=True)
        acquire.put(1, wait=True)
        assert acquired.get() == step

    until(lambda: seen[-1:] == [("acquired", 50)])
    expected = [(name, step) for step in range(1, 51) for name in ("num", "acquired")]
    # Over pvAccess an IOC may post one change twice.
    assert list(dict.fromkeys(seen)) == expected
    assert threads == {"monitor"}


@pytest.mark.parametrize("updates", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_done_that_blinks_among_many_readbacks_is_never_missed(ioc, make, updates):
    setpoint, done = make(EpicsSignal, ioc.pv("put_double")), make(EpicsSignal, ioc.pv("stage_done"))
    done.put(1, wait=True)
    readback, arrived = make(EpicsSignalRO, ioc.pv("put_double")), make(EpicsSignalRO, ioc.pv("stage_done"))
    places, states = [], []
    readback.subscribe(lambda value, **_: places.append(value))
    arrived.subscribe(lambda value, **_: states.append(value))
    until(lambda: places and states)
    states.clear()

    for place in range(1, updates + 1):
        setpoint.put(place)
        if place % (updates // 5) == 0:
            done.put(0)
            done.put(1)
        # A server whose queue is full leaves out events itself.
        if place % 20 == 0:
            until(lambda place=place: places[-1] == place, 20.0, what=lambda: places[-1])

    until(lambda: len(states) == 10, 20.0, what=lambda: states)
    assert states == [0, 1] * 5


def test_a_value_callback_gets_every_word_of_pyepics(ioc, protocol, get_pv):
    pv, seen = get_pv(ioc.pv("double", protocol), auto_monitor=False), []

    index = pv.add_callback(lambda **k: seen.append(k), motor="x")

    until(lambda: seen)
    assert index == 1
    assert seen[0].keys() >= KEYWORDS
    assert seen[0]["cb_info"] == (1, pv)
    assert seen[0]["motor"] == "x"
    assert {name: seen[0][name] for name in ("value", "char_value", "units", "precision", "count", "type")} == {
        "value": 3.25,
        "char_value": "3.250",
        "units": "mbar",
        "precision": 3,
        "count": 1,
        "type": "time_double",
    }


def test_a_late_callback_gets_the_last_value_when_it_asks_for_it(ioc, protocol, get_pv):
    pv, first, late, later = get_pv(ioc.pv("double", protocol), auto_monitor=False), [], [], []
    pv.add_callback(lambda value, **_: first.append(value))
    until(lambda: first)

    assert pv.add_callback(lambda value, **_: late.append(value), run_now=True) == 2
    pv.add_callback(lambda value, **_: later.append(value))

    until(lambda: late)
    assert (first, late, later) == ([3.25], [3.25], [])


def test_a_removed_callback_is_called_no_more(ioc, get_pv):
    pv, kept, removed = get_pv(ioc.pv("counter"), auto_monitor=False), [], []
    pv.add_callback(lambda value, **_: kept.append(value))
    index = pv.add_callback(lambda value, **_: removed.append(value))
    until(lambda: len(removed) > 1)

    pv.remove_callback(index)

    count, more = len(removed), len(kept) + 5
    until(lambda: len(kept) > more)
    assert len(removed) <= count + 1


def test_a_callback_that_raises_is_logged_and_the_others_go_on(ioc, get_pv, caplog):
    pv, seen = get_pv(ioc.pv("counter"), auto_monitor=False), []

    def broken(**_):
        raise RuntimeError("out of order")

    pv.add_callback(broken)
    pv.add_callback(lambda value, **_: seen.append(value))

    until(lambda: len(seen) > 2)
    assert f"{pv.pvname}: callback" in caplog.text
    assert "broken" in caplog.text
    assert "out of order" in caplog.text


def test_a_slow_callback_is_logged_with_its_pv(ioc, get_pv, caplog):
    pv, never = get_pv(ioc.pv("double"), auto_monitor=False), threading.Event()

    def reads_a_book(**_):
        never.wait(1.2)

    pv.add_callback(reads_a_book)

    until(lambda: f"{pv.pvname}: callback" in caplog.text)
    assert "reads_a_book took 1.2 s" in caplog.text


def test_dropped_updates_are_counted_and_logged_once(ioc, protocol, make, caplog):
    signal, writer = (
        make(EpicsSignalRO, ioc.pv("put_long", protocol), name="slow"),
        make(EpicsSignal, ioc.pv("put_long")),
    )
    writer.put(-1, wait=True)
    seen, held, go_on = [], threading.Event(), threading.Event()

    def reads_a_book(value, **_):
        held.set()
        go_on.wait(60.0)
        seen.append(value)

    signal.subscribe(reads_a_book)
    assert held.wait(5.0)
    pv = signal._read_pv  # noqa: SLF001 (only the signal has it)
    assert pv.dropped == 0
    written = 0
    while pv.dropped < 100 and written < 20_000:
        written += 1
        writer.put(written, wait=True)
    go_on.set()

    until(lambda: seen[-1:] == [written])
    assert pv.dropped >= 100
    warnings = [record.getMessage() for record in caplog.records if "dropped so far" in record.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{signal.pvname}: ")
    assert "_read_changed of slow" in warnings[0]
    assert any(character.isdigit() for character in warnings[0].removeprefix(signal.pvname))


def test_a_text_signal_gets_texts(ioc, protocol, make):
    signal, seen = make(EpicsSignal, ioc.pv("put_choice", protocol), string=True), []
    signal.put("Idle", wait=True)
    signal.subscribe(lambda value, **_: seen.append(value))

    signal.put("Fault", wait=True)

    until(lambda: seen[-1:] == ["Fault"])
    assert all(isinstance(value, str) for value in seen)


def test_a_setpoint_tells_its_own_changes(ioc, protocol, make):
    signal, seen = make(EpicsSignalWithRBV, ioc.pv("current", protocol)), []
    signal.subscribe(lambda value, **_: seen.append(value), event_type="setpoint")
    until(lambda: seen)

    signal.set(12.5).wait(5.0)

    until(lambda: 12.5 in seen)
    assert signal.get() == signal.get_setpoint() == 12.5


def test_metadata_subscribers_hear_of_the_connection_once(ioc, protocol, make):
    signal, seen = make(EpicsSignal, ioc.pv("double", protocol)), []
    signal.subscribe(lambda **k: seen.append((threading.current_thread().name, k["connected"], k["units"])), "meta")
    signal.wait_for_connection(timeout=5.0)

    signal.get()

    until(lambda: seen)
    assert seen == [("monitor", True, "mbar")]


def test_no_thread_is_added_by_more_pvs(ioc, make):
    make(EpicsSignalRO, ioc.pv("counter"), auto_monitor=True).wait_for_connection(timeout=5.0)
    before = threading.active_count()

    signals = [make(EpicsSignalRO, ioc.pv("double"), name=f"s{n}", auto_monitor=True) for n in range(50)]
    for signal in signals:
        signal.wait_for_connection(timeout=5.0)

    assert threading.active_count() == before
