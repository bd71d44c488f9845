"""Sinks and replays that are killed with SIGKILL: what a call has returned from is delivered by the next replay."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from epicsrs_bulk import JsonLinesTarget, replay

PROGRAM = Path(__file__).parent / "programs/killed.py"

Returned = dict[str, list[str]]


class Nursery:
    """Children that are killed, one after the other."""

    def __init__(self) -> None:
        self.folder = Path()
        self._parent = subprocess.Popen(
            [sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def enter(self, folder: Path) -> None:
        """Where the next children have their journal and their target."""
        self.folder = folder
        (folder / "journal").mkdir(parents=True)

    def child(self, kill_after: int | None = None, **task: Any) -> Returned:
        """What the sink's calls had returned from when the child died, by run, as digests of documents.

        With `kill_after` it is killed once it has told of so many.
        """
        tell = self.folder / "tell"
        tell.unlink(missing_ok=True)
        os.mkfifo(tell)
        order = {"journal": str(self.folder / "journal"), "out": str(self.folder / "out"), "tell": str(tell), **task}
        print(json.dumps(order), file=self._parent.stdin, flush=True)
        pid = int(self._line())
        returned: Returned = {}
        with tell.open() as told:
            if kill_after == 0:
                os.kill(pid, signal.SIGKILL)
            for count, line in enumerate(told, start=1):
                run, digest = line.split()
                returned.setdefault(run, []).append(digest)
                if count == kill_after:
                    os.kill(pid, signal.SIGKILL)
        assert int(self._line()) == -signal.SIGKILL
        return returned

    def close(self) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        self._parent.wait(10.0)

    def _line(self) -> str:
        assert self._parent.stdout is not None
        return self._parent.stdout.readline()


@pytest.fixture(scope="module")
def parent() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory, where there is such a place: what a killed process wrote is left, and fsync costs nothing."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as name:
        yield Path(name)


@pytest.fixture
def nursery(parent: Nursery, folder: Path) -> Nursery:
    parent.enter(folder)
    return parent


def delivered(out: Path) -> dict[str, list[str]]:
    """The lines of each run in the target."""
    assert not list(out.glob("*.part"))
    return {file.stem: file.read_text().splitlines() for file in out.glob("*.jsonl")}


def check(folder: Path, returned: Returned) -> None:
    """After a replay the target holds what had returned, in order, and another replay changes nothing."""
    out = folder / "out"
    report = replay(folder / "journal", JsonLinesTarget(out))

    assert report.ok, report
    held = delivered(out)
    assert set(returned) <= set(held)
    for run, lines in held.items():
        digests = [sha256(line.encode()).hexdigest() for line in lines]
        wanted = returned.get(run, [])
        # One more may have been written when the child was killed, and a stop that the replay made.
        assert digests[: len(wanted)] == wanted
        assert len(digests) <= len(wanted) + 2
        name, stop = json.loads(lines[-1])
        assert name == "stop"
        assert stop["exit_status"] == "success" or stop["reason"].startswith("incomplete")
        assert sum(json.loads(line)[0] == "stop" for line in lines) == 1

    once_more = replay(folder / "journal", JsonLinesTarget(out))
    assert once_more.ok and once_more.count("skipped") == len(once_more.runs)
    assert delivered(out) == held
    from_start = replay(folder / "journal", JsonLinesTarget(out), again=True)
    assert from_start.ok and from_start.count("skipped") == 0
    assert delivered(out) == held


def kill_at_random(nursery: Nursery, folder: Path) -> None:
    seed = int(folder.name)
    nursery.enter(folder)

    returned = nursery.child(kill_after=random.Random(seed).randrange(25), do="write", seed=seed)

    check(folder, returned)


@pytest.mark.parametrize("tens", range(10))
def test_a_hundred_kills_at_random_points_lose_nothing_that_had_returned(
    nursery: Nursery, tens: int, folder: Path
) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        kill_at_random(nursery, folder / str(seed))


@pytest.mark.slow
def test_a_thousand_more_kills(nursery: Nursery, folder: Path) -> None:
    for seed in range(1000, 2000):
        kill_at_random(nursery, folder / str(seed))


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("write", [0, 1, 2, 5, 8, 21])
def test_a_kill_inside_a_write_of_the_journal(nursery: Nursery, write: int, part: float) -> None:
    returned = nursery.child(do="write", seed=write, die_in_write=[write, part])

    check(nursery.folder, returned)


@pytest.mark.parametrize(
    "death",
    [
        *({"die_before": n} for n in (0, 1, 7, 12)),
        *({"die_after": n} for n in (0, 3, 6)),
        {"die_forgetting": True},
        {"die_marking": "before"},
        {"die_marking": "after"},
    ],
    ids=str,
)
def test_a_kill_inside_a_replay(nursery: Nursery, death: dict[str, Any]) -> None:
    returned = nursery.child(kill_after=30, do="write", seed=7)
    # As after a night in which the target was down.
    for path in (nursery.folder / "out").iterdir():
        path.unlink()
    for path in (nursery.folder / "journal").glob("*.delivered"):
        path.rename(path.with_suffix(".journal"))

    nursery.child(do="replay", **death)
    nursery.child(do="replay", **death)

    check(nursery.folder, returned)
