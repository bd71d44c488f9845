"""Carry out rows: every client in turn, again and again."""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from interrupt import measure_interrupt
from process import Figures, Process, Source, WorkerProcess, start
from records import SOURCE
from row import Figure, Goal, Row
from server import serving
from start import measure_start

from ioc import SoftIoc

# A client that has used up so many seconds in a row gets no further repetition of it.
CLIENT_LIMIT = 25.0
# What a client says of its failure may hold every name.
WORDS_LIMIT = 200


@dataclass
class Result:
    """What a row gave: for each client the figures of each repetition, or why there are none."""

    row: Row
    repetitions: dict[str, list[Figures]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def values(self, client: str, figure: Figure) -> list[float]:
        """A client's values of one figure, one per repetition; fewer where the client failed."""
        return [figures[figure.key] for figures in self.repetitions.get(client, [])]

    def value(self, client: str, figure: Figure) -> float | None:
        """The median of them."""
        values = self.values(client, figure)
        return median(values) if values else None

    def ratio(self, ours: str, figure: Figure, against: tuple[str, ...]) -> float | None:
        """Our median divided by that of the best of some clients."""
        mine = self.value(ours, figure)
        others = [value for client in against if (value := self.value(client, figure)) is not None]
        if mine is None or not others:
            return None
        return mine / (max(others) if figure.more_is_better else min(others))

    def reached(self, ours: str, figure: Figure, goal: Goal) -> float | None:
        """What a goal is compared with; None where there is nothing to compare."""
        if goal.against:
            return self.ratio(ours, figure, goal.against)
        values = self.values(ours, figure)
        if not values or not goal.always:
            return self.value(ours, figure)
        return min(values) if figure.more_is_better else max(values)

    def meets(self, ours: str, figure: Figure, goal: Goal) -> bool | None:
        """Whether we meet a goal, and no repetition failed; None where there is nothing to compare."""
        if ours in self.errors:
            return False
        reached = self.reached(ours, figure, goal)
        if reached is None:
            return None
        return reached >= goal.limit if figure.more_is_better else reached <= goal.limit


def measure(row: Row, ioc: SoftIoc, repetitions: int, log: Path) -> Result:
    """All repetitions of one row, the clients in turn within each.

    A client that fails is left out from then on, unless each repetition has a process of its own.
    """
    result = Result(row)
    try:
        with (
            _on_one_core(ioc.pid, row.one_core),
            serving(row, ioc, log) as epics,
            _processes(row, epics, result, log) as processes,
        ):
            for _ in range(repetitions):
                for client in row.clients:
                    if _takes_part(result, client):
                        _measure(result, client, _Place(ioc, epics, processes, log))
    except Exception as error:  # a row without its server is no reason to lose the others
        result.errors.update(dict.fromkeys(row.clients, _words(error)))
    return result


def _takes_part(result: Result, client: str) -> bool:
    failed = client in result.errors and result.row.place != "fresh"
    return not failed and result.seconds.get(client, 0.0) < CLIENT_LIMIT


@dataclass
class _Place:
    """Where a row is measured."""

    ioc: SoftIoc
    epics: dict[str, str]
    processes: dict[str, Process]
    log: Path


def _measure(result: Result, client: str, place: _Place) -> None:
    begin = time.monotonic()
    try:
        figures = _figures(result.row, client, place)
        result.repetitions.setdefault(client, []).append(figures)
    except Exception as error:  # whatever happens to a client is its result
        result.errors[client] = _words(error)
    result.seconds[client] = result.seconds.get(client, 0.0) + time.monotonic() - begin


def _words(error: Exception) -> str:
    words = str(error) or type(error).__name__
    return words if len(words) <= WORDS_LIMIT else f"{words[:WORDS_LIMIT]} ..."


def _figures(row: Row, client: str, place: _Place) -> Figures:
    if row.place == "interrupt":
        return measure_interrupt(client, place.ioc, row.task, place.log)
    if row.place == "start":
        return measure_start(client, place.epics, row.layer)
    if row.place == "fresh":
        with WorkerProcess(client, place.epics, place.log, row.layer) as worker:
            return worker.run(row.task)
    if not row.sources:
        return place.processes[client].run(row.task)
    found: list[Figures] = []
    for rate in row.sources:
        with Source(place.epics, SOURCE, rate):
            found.append(place.processes[client].run(row.task))
    return {
        figure.key: (max if figure.more_is_better else min)(figures[figure.key] for figures in found)
        for figure in row.figures
    }


@contextmanager
def _processes(row: Row, epics: dict[str, str], result: Result, log: Path) -> Generator[dict[str, Process]]:
    """A process of each client for the time of one row."""
    processes: dict[str, Process] = {}
    try:
        for client in row.clients if row.place == "worker" else ():
            try:
                processes[client] = start(client, epics, log, row.layer)
            except OSError as error:
                result.errors[client] = str(error)
        yield processes
    finally:
        for process in processes.values():
            process.end()


@contextmanager
def _on_one_core(ioc: int, wanted: bool) -> Generator[None]:
    """Keep the IOC and what is started within the block on one core, if ``wanted``."""
    cores = os.sched_getaffinity(0)
    if not wanted:
        yield
        return
    try:
        _place(ioc, {min(cores)})
        yield
    finally:
        _place(ioc, cores)


def _place(ioc: int, cores: set[int]) -> None:
    # Processes inherit from this one; threads that run already are moved one by one.
    for thread in (0, *map(int, os.listdir(f"/proc/{ioc}/task"))):
        os.sched_setaffinity(thread, cores)
