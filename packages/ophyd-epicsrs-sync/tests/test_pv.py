"""pyepics' PV, by all its words."""

import pytest

from deadline import until

ATTRIBUTES = (
    "access auto_monitor auto_monitor_mask callbacks char_severity char_status char_value chid connected "
    "connection_callbacks connection_timeout context count enum_strs form ftype host info lower_alarm_limit "
    "lower_ctrl_limit lower_disp_limit lower_warning_limit monitor_delta nanoseconds nelm posixseconds precision "
    "put_complete pvname read_access severity status timestamp type typefull units upper_alarm_limit "
    "upper_ctrl_limit upper_disp_limit upper_warning_limit value verbose write_access access_callbacks"
).split()
METHODS = (
    "add_callback clear_auto_monitor clear_callbacks connect disconnect force_read_access_rights get get_ctrlvars "
    "get_timevars get_with_metadata poll put reconnect remove_callback run_callback run_callbacks wait_for_connection "
    "force_connect get_all_metadata_blocking get_all_metadata_callback"
).split()


def test_it_has_every_word(ioc, protocol, get_pv):
    pv = get_pv(ioc.pv("double", protocol))

    assert [name for name in ATTRIBUTES if not hasattr(pv, name)] == []
    assert [name for name in METHODS if not callable(getattr(pv, name, None))] == []


def test_attributes_of_a_double(ioc, protocol, get_pv):
    pv = get_pv(ioc.pv("double", protocol))

    assert (pv.value, pv.char_value, pv.units, pv.precision, pv.enum_strs) == (3.25, "3.250", "mbar", 3, None)
    assert (pv.count, pv.nelm, pv.type, pv.typefull, pv.ftype) == (1, 1, "time_double", "time_double", 20)
    assert (pv.status, pv.char_status, pv.severity, pv.char_severity) == (0, "NO_ALARM", 0, "NO_ALARM")
    assert (pv.lower_ctrl_limit, pv.upper_ctrl_limit) == (-20.0, 20.0)
    assert (pv.lower_disp_limit, pv.upper_disp_limit) == (0.0, 10.0)
    assert (pv.lower_alarm_limit, pv.upper_alarm_limit) == (-9.0, 9.0)
    assert (pv.lower_warning_limit, pv.upper_warning_limit) == (-7.0, 7.0)
    assert (pv.access, pv.read_access, pv.write_access) == ("read/write", True, True)
    assert pv.timestamp == pytest.approx(pv.posixseconds + pv.nanoseconds * 1e-9, abs=1e-6)
    assert pv.host.startswith("127.0.0.1:")


@pytest.mark.parametrize(
    ("record", "kind"),
    [("long", "time_long"), ("string", "time_string"), ("choice", "time_enum"), ("partial", "time_double")],
)
def test_types_have_channel_accesss_names(ioc, protocol, get_pv, record, kind):
    assert get_pv(ioc.pv(record, protocol)).type == kind


def test_attributes_of_an_array(ioc, protocol, get_pv):
    pv = get_pv(ioc.pv("partial", protocol))

    assert pv.value.tolist() == [1.5, 2.5, 3.5]
    assert pv.count == 3
    assert pv.nelm == (8 if protocol == "ca" else None)
    assert pv.char_value == "<array size=3, type=time_double>"


def test_the_value_may_be_set(ioc, protocol, get_pv):
    pv = get_pv(ioc.pv("put_double", protocol), auto_monitor=False)

    pv.value = 2.5

    assert pv.value == 2.5


def test_the_paragraph_shows_what_there_is(ioc, protocol, get_pv):
    info = get_pv(ioc.pv("choice", protocol), auto_monitor=False).info

    assert ioc.pv("choice", protocol) in info
    assert "value           = 1\n" in info
    assert "char_value      = Moving\n" in info
    assert "2 = Fault" in info
    assert "NOT internally monitored" in info


def test_attributes_of_an_absent_pv_are_none_in_time(get_pv):
    pv = get_pv("no:such:pv", timeout=0.1)

    assert (pv.value, pv.units, pv.info, pv.connected) == (None, None, None, False)
    assert not pv.reconnect()
    assert repr(pv) == "<PV 'no:such:pv': not connected>"


def test_forms_bring_more_or_less(ioc, protocol, get_pv):
    pv = get_pv(ioc.pv("double", protocol), form="ctrl", connect=True, auto_monitor=False)

    assert pv.get_with_metadata(as_namespace=True).units == "mbar"
    assert pv.get_ctrlvars()["upper_ctrl_limit"] == 20.0
    assert "timestamp" not in pv.get_ctrlvars()
    assert pv.get_timevars()["timestamp"] == pv.timestamp
    with pytest.raises(ValueError, match="form"):
        get_pv(ioc.pv("double", protocol), form="gr")


def test_another_context_is_refused(get_pv):
    with pytest.raises(ValueError, match="context"):
        get_pv("x", context=5)


def test_a_monitor_may_be_ended_and_begun(ioc, protocol, get_pv):
    pv, seen = get_pv(ioc.pv("counter", protocol), auto_monitor=False), []
    pv.add_callback(lambda value, **_: seen.append(value))
    until(lambda: len(seen) > 1)
    assert pv.auto_monitor

    pv.clear_auto_monitor()
    assert (pv.auto_monitor, pv.auto_monitor_mask) == (False, None)
    pv.auto_monitor = True

    count = len(seen)
    until(lambda: len(seen) > count + 1)


def test_callbacks_may_be_given_with_the_pv(ioc, get_pv):
    one, two = [], []
    get_pv(ioc.pv("double"), callback=lambda value, **_: one.append(value))
    get_pv(ioc.pv("double"), callback=[lambda value, **_: two.append(value), lambda value, **_: two.append(value)])

    until(lambda: (one, two) == ([3.25], [3.25, 3.25]), what=lambda: (one, two))


def test_to_ask_for_metadata_does_not_shorten_an_array(ioc, protocol, get_pv):
    pv = get_pv(ioc.pv("partial", protocol))
    assert pv.get().tolist() == [1.5, 2.5, 3.5]

    pv.get_ctrlvars()
    pv.get(count=1)

    assert pv.count == 3


def test_a_request_brings_what_its_form_says(ioc, protocol, get_pv):
    pv = get_pv(ioc.pv("double", protocol), form="native", connect=True, auto_monitor=False)

    assert set(pv.get_with_metadata()) == {"value"}
    time = pv.get_with_metadata(form="time")
    assert (time["value"], time["severity"]) == (3.25, 0)
    assert "timestamp" in time and "units" not in time
    ctrl = pv.get_with_metadata(form="ctrl")
    assert (ctrl["value"], ctrl["units"]) == (3.25, "mbar")
    assert "timestamp" not in ctrl
    assert {"timestamp", "units", "nelm"} <= set(pv.get_with_metadata(with_ctrlvars=True))
    timed = get_pv(pv.pvname, form="time", auto_monitor=False)
    assert {"timestamp", "units"} <= set(timed.get_with_metadata(form="ctrl"))


def test_a_monitor_brings_everything(ioc, protocol, get_pv):
    pv = get_pv(ioc.pv("double", protocol), auto_monitor=True, connect=True)

    until(lambda: {"timestamp", "units", "nelm"} <= set(pv.get_with_metadata()))


def test_count_limits_what_callbacks_are_given(ioc, protocol, get_pv):
    pv, seen = get_pv(ioc.pv("partial", protocol), count=2, connect=True, auto_monitor=False), []

    pv.add_callback(lambda value, count, **_: seen.append((value.tolist(), count)))

    until(lambda: seen == [([1.5, 2.5], 2)], what=lambda: seen)
    assert pv.get().tolist() == [1.5, 2.5]
    assert pv.get(count=3).tolist() == [1.5, 2.5, 3.5]


@pytest.mark.parametrize("how", ["force_connect", "reconnect"])
def test_a_disconnected_pv_may_be_connected_again(ioc, protocol, get_pv, how):
    pv, before, after = get_pv(ioc.pv("counter", protocol), auto_monitor=True, connect=True), [], []
    pv.add_callback(lambda value, **_: before.append(value))
    until(lambda: before)

    pv.disconnect()
    assert not pv.connected
    pv.add_callback(lambda value, **_: after.append(value))
    count = len(before)
    getattr(pv, how)()

    assert pv.wait_for_connection(5.0)
    until(lambda: len(after) > 1)
    assert pv.get() >= after[0]
    assert len(before) == count
