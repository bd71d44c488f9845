"""Children that are killed while they write documents or replay a journal.

Reads a task per line, as JSON, from stdin; each is done in a fork of this process, whose pid goes to stdout, so that
a child starts within milliseconds. A child tells what its calls of the sink have returned from on the FIFO `tell`.
"""

import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from epicsrs_bulk import (
    JsonLinesTarget,
    Sink,
    _journal,  # noqa: PLC2701 (to be killed inside them)
    _replay,  # noqa: PLC2701
    replay,
)

Document = dict[str, Any]


def documents(seed: int) -> Iterator[tuple[str, Document]]:
    """Runs without end: events and pages of many sizes, two runs at a time."""
    chance = random.Random(seed)
    numbers = np.random.default_rng(seed)
    serial = iter(range(10**9))

    def uid(kind: str) -> str:
        return f"{kind}-{seed}-{next(serial)}"

    def one() -> Iterator[tuple[str, Document]]:
        run, stream = uid("run"), uid("descriptor")
        yield "start", {"uid": run, "time": 1.5}
        yield "descriptor", {"uid": stream, "run_start": run, "name": "primary", "time": 2.5, "data_keys": {}}
        for row in range(chance.randrange(4)):
            data = {"x": numbers.random(), "n": np.uint16(row), "image": numbers.integers(0, 9, (3, 4))}
            yield "event", {"uid": uid("event"), "descriptor": stream, "time": 3.5, "seq_num": row + 1, "data": data}
        for _ in range(chance.randrange(3)):
            rows = chance.choice([1, 10, 300])
            data = {"f": numbers.random(rows).astype("f4"), "t": np.arange(rows) * 1.0, "b": np.zeros(rows, "?")}
            times = np.arange(rows) * 0.5
            yield "event_page", {"uid": [uid("row")] * rows, "descriptor": stream, "time": times, "data": data}
        yield "stop", {"uid": uid("stop"), "run_start": run, "time": 9.5, "exit_status": "success"}

    running = [one(), one()]
    while True:
        turn = chance.randrange(2)
        document = next(running[turn], None)
        if document is None:
            running[turn] = one()
        else:
            yield document


def line(name: str, doc: Document) -> str:
    """What a target has to hold."""
    return json.dumps([name, doc], default=lambda array: array.tolist())


def run_of(known: dict[str, str], name: str, doc: Document) -> str:
    if name == "start":
        known[doc["uid"]] = doc["uid"]
        return doc["uid"]
    run = known[doc.get("run_start") or doc["descriptor"]]
    if name == "descriptor":
        known[doc["uid"]] = run
    return run


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write(task: Document) -> None:
    """Write documents until killed; `die_in_write` is the write, and how much of it still happens."""
    if "die_in_write" in task:
        last, part = task["die_in_write"]
        left = iter(range(last, -1, -1))

        class Os:
            def __getattr__(self, name: str) -> Any:
                return getattr(os, name)

            def write(self, fd: int, data: memoryview) -> int:
                if next(left) == 0:
                    os.write(fd, data[: int(len(data) * part)])
                    die()
                return os.write(fd, data)

        _journal.os = Os()
    known: dict[str, str] = {}
    with open(task["tell"], "w", buffering=1) as tell:
        sink = Sink(JsonLinesTarget(task["out"]), task["journal"])
        for name, doc in documents(task["seed"]):
            run, digest = run_of(known, name, doc), hashlib.sha256(line(name, doc).encode()).hexdigest()
            sink(name, doc)
            tell.write(f"{run} {digest}\n")


def replayed(task: Document) -> None:
    """Replay until the target has been called so often, or until so many runs are about to be marked, or are."""

    class Target(JsonLinesTarget):
        calls = 0

        def __call__(self, name: str, doc: Document) -> None:
            if self.calls == task.get("die_before"):
                die()
            super().__call__(name, doc)
            if self.calls == task.get("die_after"):
                die()
            self.calls += 1

        def forget(self, run_uid: str) -> None:
            super().forget(run_uid)
            if task.get("die_forgetting"):
                die()

    mark = _replay.mark_delivered

    def mark_and_die(path: Any) -> None:
        if task.get("die_marking") == "before":
            die()
        mark(path)
        if task.get("die_marking") == "after":
            die()

    _replay.mark_delivered = mark_and_die
    with open(task["tell"], "w"):
        replay(task["journal"], Target(task["out"]))


for order in sys.stdin:
    asked = json.loads(order)
    if (child := os.fork()) == 0:
        try:
            {"write": write, "replay": replayed}[asked["do"]](asked)
        finally:
            os._exit(3)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
