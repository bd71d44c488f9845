"""Access rights that the IOC takes away and gives back while it runs, and those of another start of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ophyd import Component, Device, EpicsSignal, EpicsSignalRO, PVPositionerPC
from ophyd.status import Status
from ophyd.utils import ReadOnlyError

from deadline import Stopwatch, until
from epicsrs_native import AccessDeniedError, RemoteError
from ioc import NETWORK, Ioc

RECORDS = Path(__file__).parent / "access.db"
# What the server says is known within this, in seconds.
SOON = 1.0

Move = Callable[[str, float], None]


@pytest.fixture(scope="module")
def ioc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ioc]:
    """An IOC that tests may restart."""
    ioc = Ioc(NETWORK.iocs[2], tmp_path_factory.mktemp("access"), [RECORDS])
    ioc.start()
    yield ioc
    ioc.kill()


@pytest.fixture
def move(ioc: Ioc) -> Iterator[Move]:
    """Shut (1) and open (0) a gate; both are open afterwards."""

    def move(gate: str, value: float) -> None:
        ioc.channel(gate).put(value)

    yield move
    for gate in ("gate", "secret_gate"):
        move(gate, 0.0)


def restart(ioc: Ioc, folder: Path, **macros: int) -> None:
    """Start it again with its gates as given."""
    text = RECORDS.read_text()
    for name, value in macros.items():
        text = text.replace(f"$({name}=0)", str(value))
    ioc.databases = [folder / "restarted.db"]
    ioc.databases[0].write_text(text)
    ioc.kill()
    ioc.start()


@pytest.fixture
def restarts(ioc: Ioc, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Restart the IOC; it is as it was afterwards."""
    yield lambda **macros: restart(ioc, tmp_path, **macros)
    restart(ioc, tmp_path)


def test_each_change_of_rights_is_told_once(ioc: Ioc, get_pv: Callable[..., Any], move: Move) -> None:
    told: list[tuple[bool, bool]] = []
    pv = get_pv(ioc.pv("gated"), access_callback=lambda read, write, pv: told.append((read, write)))
    until(lambda: told == [(True, True)])

    for number, value in enumerate((1, 0, 1, 0)):
        move("gate", value)
        until(lambda number=number: len(told) == number + 2, what=lambda: told)
        assert (pv.read_access, pv.write_access) == told[-1]
        assert pv.access == ("read/write" if told[-1][1] else "read-only")

    assert told == [(True, True), (True, False)] * 2 + [(True, True)]


def test_metadata_subscribers_hear_of_each_change(ioc: Ioc, make: Callable[..., Any], move: Move) -> None:
    signal, told = make(EpicsSignal, ioc.pv("gated")), []
    signal.wait_for_connection(timeout=5.0)
    signal.subscribe(
        lambda connected, read_access, write_access, **_: told.append((connected, read_access, write_access)),
        event_type="meta",
    )

    for number, value in enumerate((1, 0)):
        move("gate", value)
        until(lambda number=number: told[-1:] == [(True, True, bool(number))], what=lambda: told)
        assert signal.write_access is bool(number)


@pytest.mark.parametrize("put_complete", [False, True])
def test_what_may_not_be_written_is_refused_at_once_and_taken_when_the_right_is_back(
    ioc: Ioc, make: Callable[..., Any], move: Move, put_complete: bool
) -> None:
    signal = make(EpicsSignal, ioc.pv("gated"), put_complete=put_complete)
    signal.set(2.0).wait(5.0)
    move("gate", 1)
    until(lambda: not signal.write_access)

    watch = Stopwatch()
    with pytest.raises(ReadOnlyError):
        signal.put(3.0)
    with pytest.raises(ReadOnlyError):
        signal.set(3.0).wait(5.0)
    assert watch.elapsed < SOON
    assert signal.get() == 2.0

    move("gate", 0)
    until(lambda: signal.write_access)
    signal.set(4.0).wait(5.0)
    assert signal.get() == 4.0


class Counter(Device):
    """Triggered by a put that takes its time."""

    count = Component(EpicsSignal, "slow_trigger.A", trigger_value=1)


class SlowStage(PVPositionerPC):
    """Moves until its put is finished."""

    setpoint = Component(EpicsSignal, "slow_move.A")
    readback = Component(EpicsSignalRO, "slow_move")


def started(ioc: Ioc, make: Callable[..., Any], start: str) -> Any:
    """The Status of a put that takes 20 s."""
    if start == "trigger":
        counter = make(Counter, ioc.pv(""), name="counter")
        counter.wait_for_connection(timeout=5.0)
        return counter.trigger()
    if start == "move":
        stage = make(SlowStage, ioc.pv(""), name="stage")
        stage.wait_for_connection(timeout=5.0)
        return stage.set(1.0)
    signal = make(EpicsSignal, ioc.pv(f"slow_{start}.A"), put_complete=True)
    signal.wait_for_connection(timeout=5.0)
    if start == "set":
        return signal.set(1.0)
    status = Status()
    signal.put(1.0, callback=status._finished)  # noqa: SLF001 (as devices do)
    return status


@pytest.mark.parametrize("start", ["set", "trigger", "move", "callback"])
def test_to_lose_the_right_before_a_put_is_finished_fails_its_status(
    ioc: Ioc, make: Callable[..., Any], move: Move, start: str
) -> None:
    status = started(ioc, make, start)
    pv = ioc.channel(f"slow_{start}.A")
    until(lambda: pv.get().value == 1.0)
    assert not status.done

    watch = Stopwatch()
    move("gate", 1)
    with pytest.raises(AccessDeniedError, match=f"slow_{start}.A: write access was lost") as lost:
        status.wait(5.0)

    assert watch.elapsed < SOON
    assert not status.success
    assert lost.value.pv == pv.pv


def test_a_put_that_is_finished_before_the_right_is_lost_was_a_success(
    ioc: Ioc, make: Callable[..., Any], move: Move
) -> None:
    signal = make(EpicsSignal, ioc.pv("gated"), put_complete=True)
    status = signal.set(6.0)
    status.wait(5.0)

    move("gate", 1)
    until(lambda: not signal.write_access)

    assert status.success
    move("gate", 0)
    until(lambda: signal.write_access)
    signal.set(7.0).wait(5.0)


def test_a_put_that_waits_names_the_pv_it_may_not_write(ioc: Ioc, get_pv: Callable[..., Any], move: Move) -> None:
    pv = get_pv(ioc.pv("gated"), connect=True)
    pv.put(2.0, wait=True)
    move("gate", 1)
    until(lambda: not pv.write_access)

    watch = Stopwatch()
    with pytest.raises(AccessDeniedError, match=pv.pvname) as refused:
        pv.put(3.0, wait=True)
    assert watch.elapsed < SOON
    assert refused.value.pv == pv.pvname
    assert pv.get() == 2.0


def test_over_pvaccess_which_tells_no_rights_the_servers_refusal_fails_the_status(
    ioc: Ioc, make: Callable[..., Any], move: Move
) -> None:
    signal = make(EpicsSignal, ioc.pv("gated", "pva"), put_complete=True)
    signal.set(2.0).wait(5.0)
    move("gate", 1)
    assert signal.write_access

    watch = Stopwatch()
    with pytest.raises(RemoteError, match=signal.pvname):
        signal.put(3.0, wait=True)
    with pytest.raises(RemoteError, match=signal.pvname):
        signal.set(3.0).wait(5.0)
    assert watch.elapsed < SOON

    move("gate", 0)
    signal.set(4.0).wait(5.0)
    assert signal.get() == 4.0


class Stage(PVPositionerPC):
    """Moves while it is let."""

    setpoint = Component(EpicsSignal, "gated")
    readback = Component(EpicsSignalRO, "gated")


def test_a_positioner_that_may_not_move_says_so_and_moves_again(ioc: Ioc, make: Callable[..., Any], move: Move) -> None:
    stage = make(Stage, ioc.pv(""), name="stage")
    stage.wait_for_connection(timeout=5.0)
    move("gate", 1)
    until(lambda: not stage.setpoint.write_access)

    with pytest.raises(ReadOnlyError):
        stage.set(3.0).wait(5.0)

    move("gate", 0)
    until(lambda: stage.setpoint.write_access)
    stage.set(4.0).wait(5.0)
    assert stage.readback.get() == 4.0


def test_what_may_not_be_read_is_an_error_at_once_and_a_monitor_goes_on(
    ioc: Ioc, make: Callable[..., Any], move: Move
) -> None:
    """Over Channel Access: softIocPVX lets everybody read over pvAccess."""
    signal, values = make(EpicsSignalRO, ioc.pv("secret")), []
    monitored = make(EpicsSignalRO, ioc.pv("secret"), name="monitored")
    monitored.subscribe(lambda value, **_: values.append(value))
    until(lambda: values == [7.0])
    assert signal.get() == 7.0

    move("secret_gate", 1)
    until(lambda: not monitored.read_access)
    watch = Stopwatch()
    with pytest.raises(AccessDeniedError, match=signal.pvname):
        signal.get()
    assert watch.elapsed < SOON
    assert signal.connected and monitored.connected

    move("secret_gate", 0)
    until(lambda: monitored.read_access)
    assert signal.get() == 7.0
    until(lambda: values[1:] == [7.0], what=lambda: values)


def test_a_signal_that_may_not_be_read_connects_and_has_everything_when_it_may(
    ioc: Ioc, make: Callable[..., Any], move: Move
) -> None:
    move("secret_gate", 1)
    signal = make(EpicsSignalRO, ioc.pv("secret"))
    signal.wait_for_connection(timeout=5.0)
    assert not signal.read_access
    with pytest.raises(AccessDeniedError, match=signal.pvname):
        signal.get()

    move("secret_gate", 0)
    until(lambda: signal.read_access)
    assert signal.get() == 7.0
    until(lambda: signal.metadata["units"] == "mbar", what=lambda: signal.metadata)


@pytest.mark.parametrize("gate", [0, 1])
def test_a_connection_brings_the_rights_of_the_new_start_with_it(
    ioc: Ioc, make: Callable[..., Any], get_pv: Callable[..., Any], restarts: Callable[..., None], gate: int
) -> None:
    """The notice of the connection shows them already: nobody sees the old ones after it."""
    restarts(GATE=1 - gate)
    signal, told, rights = make(EpicsSignal, ioc.pv("gated")), [], []
    get_pv(ioc.pv("gated"), access_callback=lambda read, write, pv: rights.append((read, write)))
    signal.wait_for_connection(timeout=5.0)
    until(lambda: rights == [(True, bool(gate))], what=lambda: rights)
    signal.subscribe(
        lambda connected, write_access, **_: told.append((connected, write_access)), event_type="meta", run=False
    )

    restarts(GATE=gate)

    # Of the first connection something may still have been under way.
    until(lambda: len([connected for connected, _ in told if not connected]) == 1 and told[-1][0], 30.0, lambda: told)
    loss = told.index((False, bool(gate)))
    assert told[loss:] == [(False, bool(gate)), (True, not gate)]
    assert signal.write_access is (not gate)
    until(lambda: rights == [(True, bool(gate)), (True, not gate)], what=lambda: rights)


def test_rights_that_are_the_same_after_a_restart_are_told_again(
    ioc: Ioc, get_pv: Callable[..., Any], restarts: Callable[..., None]
) -> None:
    """Signals wait for that with every connection."""
    told: list[tuple[bool, bool]] = []
    get_pv(ioc.pv("gated"), access_callback=lambda read, write, pv: told.append((read, write)))
    until(lambda: told == [(True, True)])

    restarts()

    until(lambda: told == [(True, True), (True, True)], 30.0, lambda: told)
