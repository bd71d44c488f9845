"""A thousand PVs take no more threads than one, and each of thousands connects."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from epicsrs_native import get_context
from ioc import Ioc
from program import Program

COUNT = 1000


def test_a_thousand_monitors_on_at_most_four_threads(mortal_ioc: Ioc, protocol: str, tmp_path: Path) -> None:
    database = tmp_path / "many.db"
    database.write_text("".join(f'record(longout, "$(P)many{number}") {{ }}\n' for number in range(COUNT)))
    mortal_ioc.databases.append(database)
    mortal_ioc.kill()
    mortal_ioc.start()

    with Program("many_monitors.py", mortal_ioc.pv("many", protocol), str(COUNT)) as program:
        complete, threads = program.hear(40.0)
        assert complete
        assert 1 <= threads <= 4
        assert program.hear(40.0) == [True, True]
        assert program.hear() <= 4
        program.say()
        ending = program.finish()
        assert (ending.code, ending.errors) == (0, "")


@pytest.fixture
def one_core() -> Iterator[None]:
    """Every thread of this process on one core: whoever wakes another is put off by it."""
    threads = [int(thread) for thread in os.listdir("/proc/self/task")]
    cores = os.sched_getaffinity(0)
    for thread in threads:
        os.sched_setaffinity(thread, {min(cores)})
    yield
    for thread in threads:
        os.sched_setaffinity(thread, cores)


@pytest.mark.slow
def test_each_channel_of_thousands_in_turn_connects(ioc: Ioc, protocol: str, one_core: None) -> None:
    """However soon the server's answer comes: the thread that makes the channel may be put off while it does."""
    for _ in range(1000):
        # Not through the fixture, which keeps what it has opened: each is to search and to connect.
        channel = get_context().channel(ioc.pv("double", protocol))
        assert channel.get(timeout=5.0).value == 3.25
        channel.close()
        del channel
