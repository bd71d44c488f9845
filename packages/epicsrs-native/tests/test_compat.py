"""The names of ophyd-epicsrs 0.8 and what they return; the expectations are what 0.8.0 gave for the same records."""

import asyncio
import gc
import queue
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from epicsrs_native import compat
from ioc import Ioc

CONTEXTS = {"ca": compat.get_ca_context, "pva": compat.get_pva_context}
TIMEOUT = 5.0


@pytest.fixture
def made() -> Iterator[list[compat.EpicsRsPV]]:
    """The PVs of a test, disconnected at its end."""
    pvs: list[compat.EpicsRsPV] = []
    yield pvs
    for pv in pvs:
        pv.disconnect()


@pytest.fixture
def create(ioc: Ioc, protocol: str, made: list[compat.EpicsRsPV]) -> Any:
    """create_pv of either context, by the record's name."""

    def create(record: str) -> compat.EpicsRsPV:
        made.append(CONTEXTS[protocol]().create_pv(ioc.prefix + record))
        return made[-1]

    return create


@pytest.mark.parametrize(
    ("record", "value", "text"),
    [
        ("double", 3.25, "3.25"),
        ("double_in", -1.5e-9, "-0.0000000015"),
        ("micro", 1.0, "1"),
        ("long", -42, "-42"),
        ("string", "hello", "hello"),
        ("binary", 1, "Open"),
        ("choice", 2, "Fault"),
        ("uchars", [0, 128, 255, 0, 0, 0, 0, 0], ""),
        ("shorts", [-32768, 0, 32767, 0, 0, 0, 0, 0], "[-32768, 0, 32767]"),
        ("floats", [-1.5, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0], "[-1.5, 0, 0.25]"),
        ("strings", ["a", "", "bc", "", "", "", "", ""], '["a", "", "bc"]'),
        ("single", [4.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], "[4.5]"),
        ("empty", [0.0] * 8, "[]"),
    ],
)
def test_values_have_the_types_of_0_8(create: Any, protocol: str, record: str, value: Any, text: str) -> None:
    pv = create(record)
    if isinstance(value, list) and protocol == "pva":
        # pvAccess does not say how many elements the record can hold.
        value = value[: {"single": 1, "empty": 0}.get(record, 3)]

    reading = pv.get_with_metadata(TIMEOUT)

    assert reading["value"] == value
    assert type(reading["value"]) is type(value)
    if isinstance(value, list):
        assert [type(element) for element in reading["value"]] == [type(element) for element in value]
    assert reading["char_value"] == text
    assert asyncio.run(pv.get_value_async(TIMEOUT)) == value


def test_a_reading_is_a_dict_with_the_keys_of_pyepics(create: Any, ioc: Ioc, protocol: str) -> None:
    pv = create("double")
    expected = {
        "value": 3.25,
        "status": 0,
        "severity": 0,
        "char_value": "3.25",
        "precision": 3,
        "units": "mbar",
        "upper_disp_limit": 10.0,
        "lower_disp_limit": 0.0,
        "upper_alarm_limit": 9.0,
        "lower_alarm_limit": -9.0,
        "upper_warning_limit": 7.0,
        "lower_warning_limit": -7.0,
        "upper_ctrl_limit": 20.0,
        "lower_ctrl_limit": -20.0,
    }

    reading = pv.get_with_metadata(timeout=TIMEOUT, form="time")

    times = {key: reading.pop(key) for key in ("timestamp", "posixseconds", "nanoseconds")}
    assert reading == expected
    time_ns = ioc.channel("double", protocol).get().timestamp_ns
    assert times["posixseconds"] * 1_000_000_000 + times["nanoseconds"] == time_ns
    assert times["timestamp"] == pytest.approx(time_ns / 1e9, abs=1e-6)
    for other in (pv.get_timevars(TIMEOUT), pv.get_ctrlvars(TIMEOUT), asyncio.run(pv.get_reading_async(TIMEOUT))):
        assert other == reading | times
    assert pv.connect_and_prefetch(TIMEOUT) == reading | times | pv.get_channel_info()


def test_an_enum_has_its_strings_and_an_alarm_its_severity(create: Any) -> None:
    enum = create("choice").get_with_metadata(TIMEOUT)
    assert enum["enum_strs"] == ("Idle", "Moving", "Fault")
    assert "units" not in enum
    assert create("too_high").get_with_metadata(TIMEOUT)["severity"] == 2


def test_channel_info_has_the_type_and_the_server(create: Any, ioc: Ioc, protocol: str) -> None:
    info = create("binary").get_channel_info()

    access = {"read_access": True, "write_access": True}
    if protocol == "ca":
        assert info == {"ftype": 3, "type": "enum", "count": 1, "host": f"127.0.0.1:{ioc.ports.ca}", **access}
    else:
        assert info == {"type": "pva", "host": f"127.0.0.1:{ioc.ports.pva}", **access}


def test_a_description_is_nested_over_pvaccess_and_none_over_channel_access(create: Any, protocol: str) -> None:
    description = asyncio.run(create("doubles").get_field_desc_async(TIMEOUT))

    if protocol == "ca":
        assert description is None
        return
    assert (description["kind"], description["struct_id"]) == ("structure", "epics:nt/NTScalarArray:1.0")
    fields = dict(description["fields"])
    assert fields["value"] == {"kind": "scalar_array", "scalar_type": "double"}
    assert fields["alarm"] == {
        "kind": "structure",
        "struct_id": "alarm_t",
        "fields": [
            ("severity", {"kind": "scalar", "scalar_type": "int"}),
            ("status", {"kind": "scalar", "scalar_type": "int"}),
            ("message", {"kind": "scalar", "scalar_type": "string"}),
        ],
    }


def test_what_fails_is_false_none_or_an_error_of_0_8(create: Any, caplog: pytest.LogCaptureFixture) -> None:
    nobody = create("nobody")

    assert nobody.wait_for_connection(timeout=0.1) is False
    assert nobody.get_with_metadata(timeout=0.1) is None
    assert nobody.pvname in caplog.text
    assert nobody.connect_and_prefetch(timeout=0.1) is None

    async def main() -> None:
        assert await nobody.connect_async(0.1) is False
        assert await nobody.get_field_desc_async(timeout=0.1) is None
        for attempt in (nobody.get_value_async, nobody.get_reading_async, nobody.connect_and_prefetch_async):
            with pytest.raises(RuntimeError, match=nobody.pvname):
                await attempt(timeout=0.1)
        with pytest.raises(RuntimeError, match=nobody.pvname):
            await nobody.put_async(1.0, timeout=0.1)

    asyncio.run(main())


@pytest.mark.parametrize("protocol", ["ca"])  # over pvAccess it ends softIocPVX of pvxslibs 1.5.3
def test_a_refused_put_is_a_runtime_error(create: Any) -> None:
    locked = create("locked")
    with pytest.raises(RuntimeError, match=locked.pvname):
        locked.put(1.0, wait=True, timeout=TIMEOUT)


def test_puts_write_and_tell_their_callback(create: Any) -> None:
    pv = create("put_double")
    told: queue.SimpleQueue[tuple[object, ...]] = queue.SimpleQueue()

    assert pv.put(1.5, wait=True, callback=lambda *done: told.put(done)) is None
    assert (told.get_nowait(), pv.get_with_metadata(TIMEOUT)["value"]) == ((), 1.5)
    pv.put(2.5, callback=lambda *done: told.put(done))
    assert (told.get(timeout=TIMEOUT), pv.get_with_metadata(TIMEOUT)["value"]) == ((True,), 2.5)
    assert asyncio.run(pv.put_async(3.5)) is True
    assert pv.get_with_metadata(TIMEOUT)["value"] == 3.5


def test_the_last_monitor_callback_gets_every_update_by_keyword(create: Any, protocol: str) -> None:
    pv = create("put_doubles")
    pv.put([1.0, 2.0], wait=True)
    updates: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    pv.add_monitor_callback(lambda **update: updates.put({"replaced": update}))
    assert "replaced" in updates.get(timeout=TIMEOUT)
    pv.add_monitor_callback(lambda **update: updates.put(update))

    first = updates.get(timeout=TIMEOUT)
    pv.put([3.0], wait=True)
    second = updates.get(timeout=TIMEOUT)

    assert set(first) == {"pvname", "value", "timestamp", "status", "severity", "char_value"}
    padding = [0.0] * 6 if protocol == "ca" else []
    assert (first["pvname"], first["value"], first["char_value"]) == (pv.pvname, [1.0, 2.0, *padding], "[1, 2]")
    assert second["value"][:1] == [3.0]
    pv.clear_monitors()


def test_connection_and_access_callbacks_tell_the_present_state(create: Any) -> None:
    pv = create("gated")
    told: queue.SimpleQueue[tuple[object, ...]] = queue.SimpleQueue()
    pv.set_access_callback(lambda *rights: told.put(rights))
    pv.set_access_callback(lambda *rights: told.put(rights))
    assert pv.wait_for_connection(TIMEOUT)
    assert told.get(timeout=TIMEOUT) == (True, True)
    pv.set_connection_callback(lambda *connected: told.put(connected))
    assert told.get(timeout=TIMEOUT) in [(True, True), (True,)]


def test_bulk_calls_ask_for_all_pvs_at_once_and_say_none_for_what_is_not_there(
    create: Any, ioc: Ioc, protocol: str
) -> None:
    context = CONTEXTS[protocol]()
    names = [ioc.prefix + record for record in ("double", "choice", "doubles", "nobody")]

    for _ in range(2):
        values = context.bulk_caget(names, timeout=0.3)
        assert list(values) == names
        assert (values[names[0]], values[names[1]], values[names[3]]) == (3.25, 2, None)
        assert type(values[names[1]]) is int
        assert values[names[2]][:3] == [-1.5e-300, 0.0, 0.1]
        assert len(values[names[2]]) == (8 if protocol == "ca" else 3)

    pvs = [create("double"), create("nobody")]
    prefetched = context.bulk_connect_and_prefetch(pvs, timeout=0.3)
    assert prefetched == {pvs[0].pvname: pvs[0].connect_and_prefetch(), pvs[1].pvname: None}


def test_shutdown_is_refused_as_long_as_a_pv_lives(ioc: Ioc) -> None:
    pv = compat.get_ca_context().create_pv(ioc.prefix + "double")
    assert not compat.get_ca_context().is_unused()
    with pytest.raises(RuntimeError, match="release them first"):
        compat.shutdown_all()
    assert pv.get_with_metadata(TIMEOUT) is not None
    pv.disconnect()
    del pv
    gc.collect()
    assert compat.get_ca_context().is_unused()


SHUTDOWN = """
import sys
from epicsrs_native import compat

context = compat.get_ca_context()
before = context.bulk_caget(sys.argv[1:])
compat.shutdown_all()
assert context.bulk_caget(sys.argv[1:]) == before
pv = context.create_pv(sys.argv[1])
print(before[sys.argv[1]], pv.wait_for_connection(5.0))
"""


def test_after_shutdown_a_call_opens_a_fresh_client(ioc: Ioc) -> None:
    """In a process of its own, for the client of this one stays."""
    command = [sys.executable, "-c", SHUTDOWN, ioc.prefix + "double", ioc.prefix + "choice"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=30.0, check=False)

    assert (done.stdout, done.returncode) == ("3.25 True\n", 0), done.stderr


def test_what_is_the_same_for_all_is_here_too() -> None:
    assert compat.caught_panic_count() == 0
    assert compat.reset_log_cache() is True
    assert compat.get_ca_context() is compat.get_ca_context()
    assert isinstance(compat.get_pva_context(), compat.EpicsRsPvaContext)
