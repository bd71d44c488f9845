"""The worker's loop: one JSON task a line on standard input, one JSON answer a line on standard output."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, TextIO, TypeAlias

import measurements
import measurements_array
import measurements_bulk

from client import Client

Task: TypeAlias = Callable[..., measurements.Figures]
TASKS: dict[str, Task] = {
    task.__name__: task
    for task in (
        measurements.get,
        measurements.await_get,
        measurements.gather,
        measurements.put,
        measurements.puts,
        measurements.monitors,
        measurements.delivered,
        measurements.latency,
        measurements_array.array,
        measurements_array.fill,
        measurements_array.frames,
        measurements_array.oversized,
        measurements_bulk.bulk,
        measurements_bulk.connect_all,
        measurements_bulk.read_all,
    )
}
# Longer than anybody waits for the answer to Ctrl-C.
BLOCKED = 20.0
CONNECTED_CALLS = 10


def serve(make: Callable[[], Client], more: Iterable[Task] = ()) -> None:
    """Carry out tasks until standard input ends; ``more`` are those of this client alone."""
    answers, tasks = _answers(), {**TASKS, **{task.__name__: task for task in more}}
    client = make()
    for line in sys.stdin:
        task: dict[str, Any] = json.loads(line)
        name = task.pop("task")
        try:
            if name == "interrupt":
                answer = _interrupt(client, answers, **task)
            else:
                answer = {"figures": tasks[name](client, **task)}
        except Exception as error:  # whatever a library raises is its result
            answer = {"error": f"{type(error).__name__}: {error}"}
        _say(answers, answer)


def _interrupt(client: Client, answers: TextIO, operation: str, pv: str) -> dict[str, Any]:
    """Say when Ctrl-C came out of a call that gets no answer; the other side stops the IOC once we are ready."""
    call = _call(client, operation, pv)
    if operation != "connect":
        # More than once: a client may still hold an answer that it fetched while connecting.
        for _ in range(CONNECTED_CALLS):
            call()
    _say(answers, {"ready": True})
    sys.stdin.readline()
    try:
        # Where Ctrl-C waits until the library's own timeout has raised, it comes out behind that.
        with suppress(Exception):
            call()
        raise RuntimeError("the call returned")
    except KeyboardInterrupt:
        return {"figures": {"at": time.monotonic()}}


def _call(client: Client, operation: str, pv: str) -> Callable[[], object]:
    match operation:
        case "connect":
            return partial(client.connect, pv, BLOCKED)
        case "get":
            return client.getter(pv, BLOCKED)
        case _:
            return partial(client.putter(pv, BLOCKED), 1.0)


def _answers() -> TextIO:
    """Standard output, for answers alone: what a library prints goes to standard error from now on."""
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return own


def _say(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
