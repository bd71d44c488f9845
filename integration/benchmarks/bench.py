"""Carry out rows: every client in turn, again and again."""

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from interrupt import measure_interrupt
from process import Figures, Process, Source, TaskError, start
from records import SOURCE
from rows import Figure, Goal, Row
from start import measure_start

from epicsrs_demo.ioc import SoftIoc


@dataclass
class Result:
    """What a row gave: for each client the figures of each repetition, or why there are none."""

    row: Row
    repetitions: dict[str, list[Figures]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

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

    def meets(self, ours: str, figure: Figure, goal: Goal) -> bool | None:
        """Whether our median meets a goal, and no repetition failed; None where there is nothing to compare."""
        if ours in self.errors:
            return False
        value = self.ratio(ours, figure, goal.against) if goal.against else self.value(ours, figure)
        if value is None:
            return None
        return value >= goal.limit if figure.more_is_better else value <= goal.limit


def measure(row: Row, ioc: SoftIoc, repetitions: int, log: Path) -> Result:
    """All repetitions of one row, the clients in turn within each; a client that fails is left out from then on."""
    result = Result(row)
    with _on_one_core(ioc.pid, row.one_core), _processes(row, ioc, result, log) as processes:
        for _ in range(repetitions):
            for client in row.clients:
                if client in result.errors:
                    continue
                try:
                    figures = _measure_once(row, client, ioc, processes, log)
                    result.repetitions.setdefault(client, []).append(figures)
                except (TaskError, OSError, subprocess.SubprocessError) as error:
                    result.errors[client] = str(error)
    return result


def _measure_once(row: Row, client: str, ioc: SoftIoc, processes: dict[str, Process], log: Path) -> Figures:
    if row.place == "interrupt":
        return measure_interrupt(client, ioc, row.task, log)
    if row.place == "start":
        return measure_start(client, ioc.environment)
    if not row.sources:
        return processes[client].run(row.task)
    found: list[Figures] = []
    for rate in row.sources:
        with Source(ioc.environment, SOURCE, rate):
            found.append(processes[client].run(row.task))
    return {
        figure.key: (max if figure.more_is_better else min)(figures[figure.key] for figures in found)
        for figure in row.figures
    }


@contextmanager
def _processes(row: Row, ioc: SoftIoc, result: Result, log: Path) -> Generator[dict[str, Process]]:
    """A process of each client for the time of one row."""
    processes: dict[str, Process] = {}
    try:
        for client in row.clients if row.place == "worker" else ():
            try:
                processes[client] = start(client, ioc.environment, log)
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
