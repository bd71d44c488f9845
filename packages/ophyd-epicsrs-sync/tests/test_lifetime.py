import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import ophyd
import pytest
from ophyd import EpicsSignal
from ophyd.utils import DestroyedError

from deadline import until


def test_a_destroyed_signal_is_done(ioc, protocol, layer):
    signal = EpicsSignal(ioc.pv("double", protocol), name="signal")
    signal.wait_for_connection(timeout=5.0)

    signal.destroy()

    with pytest.raises(DestroyedError):
        signal.wait_for_connection(timeout=1.0)


def test_a_pv_is_closed_with_its_last_signal(ioc, protocol, get_pv, layer):
    signal = EpicsSignal(ioc.pv("double", protocol), name="signal")
    signal.wait_for_connection(timeout=5.0)
    pv = signal._read_pv  # noqa: SLF001 (only the signal has it)

    pv._reference_count += 1  # noqa: SLF001 (as ophyd does)
    signal.destroy()
    assert not pv.chid.closed
    ophyd.get_cl().release_pvs(pv)
    assert pv.chid.closed


def test_nothing_holds_a_destroyed_signal_or_its_pv(ioc, protocol, layer):
    signal = EpicsSignal(ioc.pv("double", protocol), name="signal", auto_monitor=True, put_complete=True)
    signal.subscribe(lambda **_: None)
    signal.wait_for_connection(timeout=5.0)
    signal.set(3.25).wait(5.0)
    alive = weakref.ref(signal), weakref.ref(signal._read_pv)  # noqa: SLF001 (only the signal has it)

    signal.destroy()
    del signal

    def gone():
        # Each lane holds what it ran last until there is something new.
        for lane in ophyd.get_cl().get_dispatcher().threads.values():
            lane.delivery.call(int)
        gc.collect()
        return [ref() for ref in alive] == [None, None]

    until(gone)


def test_signals_come_and_go_from_any_thread(ioc, protocol, layer):
    counter = ioc.pv("counter", protocol)
    errors = []

    def churn():
        try:
            for _ in range(100):
                made = EpicsSignal(counter, name="churn", auto_monitor=True)
                made.subscribe(lambda **_: None)
                made.destroy()
        except Exception as error:
            errors.append(error)

    EpicsSignal(counter, name="first").wait_for_connection(timeout=5.0)
    gc.collect()
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)

    assert errors == []
    gc.collect()
    until(lambda: (threading.active_count(), len(os.listdir("/proc/self/fd"))) <= before)


@pytest.mark.slow
def test_two_thousand_signals_leave_nothing(ioc, layer):
    counter = ioc.pv("counter")

    def cycle(count):
        for n in range(count):
            made = EpicsSignal(counter, name="made", auto_monitor=True)
            made.subscribe(lambda **_: None)
            if n % 20 == 0:
                made.wait_for_connection(timeout=5.0)
            made.destroy()
        gc.collect()

    def footprint():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return threading.active_count(), len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGESIZE") / 1e6

    kept = EpicsSignal(counter, name="kept")
    kept.wait_for_connection(timeout=5.0)
    cycle(500)
    until(lambda: ophyd.get_cl().get_dispatcher().lane("metadata").delivery.pending == 0)
    threads, descriptors, megabytes = footprint()

    cycle(2000)

    after = footprint()
    assert after[:2] <= (threads, descriptors)
    assert after[2] - megabytes < 5.0
    kept.destroy()


def test_caget_and_caput(ioc, protocol, layer):
    cl = ophyd.get_cl()

    assert cl.caput(ioc.pv("put_string", protocol), "ready", wait=True) == 1
    assert cl.caget(ioc.pv("put_string", protocol)) == "ready"
    assert cl.caget(ioc.pv("choice", protocol)) == 1
    assert cl.caget(ioc.pv("choice", protocol), as_string=True) == "Moving"
    assert cl.caget("no:such:pv", timeout=0.2) is None


def program(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "import ophyd_epicsrs_sync; ophyd_epicsrs_sync.use_epicsrs()\n" + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_forked_child_is_told_at_once_and_its_parent_goes_on(ioc):
    running = program(
        "from ophyd import EpicsSignal; import os, sys\n"
        f"signal = EpicsSignal({ioc.pv('double')!r}, name='s'); signal.wait_for_connection(timeout=5.0)\n"
        "if os.fork() == 0:\n"
        "    for use in (signal.get, lambda: signal.put(1), lambda: EpicsSignal('new', name='new')):\n"
        "        try: use()\n"
        "        except RuntimeError as error: print('used before fork' in str(error), flush=True)\n"
        "    os._exit(0)\n"
        "os.wait(); print(signal.get())"
    )
    out, _ = running.communicate(timeout=60.0)

    assert out.split() == ["True", "True", "True", "3.25"]


@pytest.mark.parametrize("code", [3, *(pytest.param(code, marks=pytest.mark.slow) for code in range(4, 53))])
def test_a_program_with_live_monitors_ends_quietly_with_its_own_code(ioc, code):
    running = program(
        "from ophyd import EpicsSignal; import sys\n"
        f"signals = [EpicsSignal({ioc.pv('counter')!r}, name='s', auto_monitor=True) for _ in range(20)]\n"
        "for signal in signals: signal.subscribe(lambda **_: None)\n"
        "for signal in signals: signal.wait_for_connection(timeout=5.0)\n"
        f"sys.exit({code})"
    )
    out, err = running.communicate(timeout=60.0)

    assert (running.returncode, out, err) == (code, "", "")


def test_after_a_shutdown_of_the_client_new_signals_work_and_old_ones_may_be_destroyed(ioc):
    running = program(
        "from ophyd import EpicsSignal; from epicsrs_native import shutdown_all\n"
        f"old = EpicsSignal({ioc.pv('counter')!r}, name='old', auto_monitor=True)\n"
        "old.wait_for_connection(timeout=5.0); shutdown_all()\n"
        f"new, seen = EpicsSignal({ioc.pv('counter')!r}, name='new', auto_monitor=True), []\n"
        "new.subscribe(lambda value, **_: seen.append(value)); new.wait_for_connection(timeout=5.0)\n"
        "old.destroy(); new.put(0, wait=True)\n"
        "import time; end = time.monotonic() + 5.0\n"
        "while len(seen) < 4 and time.monotonic() < end: time.sleep(0.01)\n"
        "print(len(seen) > 3)"
    )
    out, err = running.communicate(timeout=60.0)

    assert (running.returncode, out, err) == (0, "True\n", "")


@pytest.mark.parametrize(
    "wait",
    [
        "EpicsSignal('no:such:pv', name='s').wait_for_connection(timeout=None)",
        "EpicsSignal('no:such:pv', name='s').get(connection_timeout=60)",
        "EpicsSignal(SLOW, name='s').put(1, wait=True)",
    ],
)
def test_ctrl_c_ends_what_blocks(ioc, wait):
    running = program(
        f"from ophyd import EpicsSignal; import time; SLOW = {ioc.pv('slower.A')!r}\n"
        "EpicsSignal(SLOW, name='first').wait_for_connection(timeout=5.0)\n"
        "print('begun', flush=True)\n"
        f"try: {wait}\n"
        "except KeyboardInterrupt: print(time.time())"
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "begun\n"
    # Inside the wait: nothing outside tells when it has begun.
    assert running.poll() is None
    time.sleep(0.5)
    sent = time.time()
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30.0)

    assert float(out) - sent < 1.0, err
