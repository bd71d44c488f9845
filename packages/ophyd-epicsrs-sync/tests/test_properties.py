"""Units, precision, limits and labels that change while the IOC runs."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import ophyd
import pytest
from ophyd import EpicsSignal, EpicsSignalRO, EpicsSignalWithRBV

from deadline import until
from ioc import Ioc


@pytest.fixture
def change(ioc: Ioc) -> Iterator[Callable[[str, Any], None]]:
    """Put to a field of a record; afterwards it has its old value again."""
    before: list[tuple[Any, Any]] = []

    def change(field: str, value: Any) -> None:
        channel = ioc.channel(field)
        before.append((channel, channel.get().value))
        channel.put(value)

    yield change
    for channel, value in reversed(before):
        channel.put(value)


def watched(signal: Any) -> tuple[list[Any], list[dict[str, Any]]]:
    """The connected signal's values and its SUB_META from now on."""
    values: list[Any] = []
    told: list[dict[str, Any]] = []
    signal.subscribe(lambda value, **_: values.append(value), run=False)
    signal.wait_for_connection(timeout=5.0)
    until(lambda: values)
    # The notice of the connection may still be on its way.
    for lane in ("metadata", "monitor"):
        passed = threading.Event()
        ophyd.get_cl().get_dispatcher().get_thread_context(lane).run(passed.set)
        assert passed.wait(5.0)
    signal.subscribe(lambda **metadata: told.append(metadata), event_type="meta", run=False)
    return values, told


@pytest.mark.parametrize("auto_monitor", [True, False])
@pytest.mark.parametrize(
    ("field", "value", "key", "described"),
    [
        ("EGU", "deg", "units", "units"),
        ("PREC", 5, "precision", "precision"),
        ("DRVH", 7.5, "upper_ctrl_limit", "upper_ctrl_limit"),
        ("DRVL", -7.5, "lower_ctrl_limit", "lower_ctrl_limit"),
    ],
)
def test_a_change_reaches_a_monitored_signal(ioc, protocol, make, change, auto_monitor, field, value, key, described):
    signal = make(EpicsSignal, ioc.pv("tuned", protocol), auto_monitor=auto_monitor)
    _, told = watched(signal)

    change(f"tuned.{field}", value)

    until(lambda: told)
    assert told[0][key] == value
    assert signal.metadata[key] == value
    assert signal.describe()["thing"][described] == value
    # The next change comes next: there was one notice of the first.
    change("tuned.EGU", "rad")
    until(lambda: told[-1]["units"] == "rad")
    assert len(told) == 2
    assert signal.precision == (value if field == "PREC" else 3)


def test_new_units_are_no_new_value(ioc, protocol, make, change):
    signal, writer = make(EpicsSignalRO, ioc.pv("tuned", protocol)), make(EpicsSignal, ioc.pv("tuned"))
    values, told = watched(signal)
    seen = len(values)

    change("tuned.EGU", "deg")
    until(lambda: told)
    writer.put(2.5, wait=True)

    until(lambda: values[-1] == 2.5)
    writer.put(1.5, wait=True)
    assert 1.5 not in values[seen:-1]


def test_new_labels_are_those_of_the_signal(ioc, protocol, make, change):
    signal = make(EpicsSignal, ioc.pv("mode", protocol))
    _, told = watched(signal)

    change("mode.TWST", "Tripped")

    until(lambda: told)
    assert signal.enum_strs == told[0]["enum_strs"] == ("Idle", "Moving", "Tripped")
    assert signal.describe()["thing"]["enum_strs"] == ("Idle", "Moving", "Tripped")
    signal.put("Tripped", wait=True)
    assert signal.get(use_monitor=False) == 2
    signal.put("Moving", wait=True)


def test_the_new_label_of_its_choice_is_a_text_signals_new_value(ioc, protocol, make, change):
    signal = make(EpicsSignal, ioc.pv("mode", protocol), string=True)
    values, _ = watched(signal)
    until(lambda: values[-1] == "Moving")

    change("mode.ONST", "Homing")

    until(lambda: values[-1] == "Homing")
    assert signal.get() == "Homing"


def test_new_units_of_an_array_reach_its_signal(ioc, protocol, make, change):
    signal = make(EpicsSignalRO, ioc.pv("curve", protocol))
    _, told = watched(signal)

    change("curve.EGU", "mV")

    until(lambda: told)
    assert signal.metadata["units"] == signal.describe()["thing"]["units"] == "mV"
    assert signal.get().tolist() == [1.0, 2.0]


def test_a_setpoint_and_its_readback_each_tell_their_own(ioc, protocol, make, change):
    signal = make(EpicsSignalWithRBV, ioc.pv("aim", protocol), auto_monitor=True, limits=True)
    _, told = watched(signal)
    until(lambda: signal.get_setpoint() is not None)

    change("aim.DRVH", 50.0)
    until(lambda: signal.limits == (-5.0, 50.0))
    change("aim_RBV.PREC", 4)
    until(lambda: signal.precision == 4)
    change("aim.PREC", 6)
    until(lambda: signal.metadata["setpoint_precision"] == 6)

    until(lambda: len(told) == 3)
    assert signal.precision == 4
    signal.put(49.0, wait=True)


def test_who_asks_for_metadata_hears_of_their_changes(ioc, protocol, get_pv, change):
    pv, given = get_pv(ioc.pv("tuned", protocol), auto_monitor=True, connect=True), []
    until(lambda: pv.get(use_monitor=True) == 1.5 and pv.auto_monitor)
    pv.get_all_metadata_callback(lambda pvname, fields: given.append((pvname, fields["units"])), timeout=5.0)
    until(lambda: given == [(pv.pvname, "mm")])
    values = []
    pv.add_callback(lambda value, **_: values.append(value), run_now=True)
    until(lambda: values)

    change("tuned.EGU", "deg")

    until(lambda: given[1:] == [(pv.pvname, "deg")])
    assert pv.units == "deg"


def test_a_signal_without_a_monitor_has_them_from_its_next_reading_in_full(ioc, protocol, make, change):
    signal = make(EpicsSignalRO, ioc.pv("tuned", protocol))
    signal.wait_for_connection(timeout=5.0)

    change("tuned.EGU", "deg")

    signal.get(form="ctrl")
    assert signal.metadata["units"] == "deg"
