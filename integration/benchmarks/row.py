"""What a row of the table is."""

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from environments import NATIVE

# The tables by the first part of a row's key.
HEADINGS = {
    "ca": "Channel Access",
    "pva": "pvAccess",
    "start": "Fresh processes",
    "ophyd": "ophyd",
    "async": "ophyd-async",
}
PEERS_CA = ("ophyd-epicsrs", "pyepics", "aioca")
PEERS_PVA = ("ophyd-epicsrs", "p4p")


def fits(key: str, patterns: Iterable[str]) -> bool:
    """Whether a row is one of those that are named, by their keys or by patterns: ``pva_*``."""
    return any(fnmatch.fnmatch(key, pattern) for pattern in patterns)


@dataclass(frozen=True)
class Goal:
    """A limit: on our figure, or on ours divided by that of the best of some clients.

    ``always``: for each repetition, where others are for the median.
    """

    limit: float
    against: tuple[str, ...] = ()
    always: bool = False


@dataclass(frozen=True)
class Figure:
    """One line of the table: one of the numbers that a task gives."""

    key: str
    title: str
    unit: str
    goal: Goal | None = None
    more_is_better: bool = False


@dataclass(frozen=True)
class Row:
    """One task for several clients in turn.

    With ``sources`` the raw client writes so many values per second into the watched record meanwhile; of several
    rates the best figure counts. ``one_core`` puts the IOC and the clients on one core, as the kernel does or does
    not at will: all are then in their fast mode. ``server`` is who answers (server.py). ``place`` is where the task
    runs: in a worker for all repetitions, in a fresh one for each, in processes interrupted by Ctrl-C, or in
    processes that only start.
    """

    key: str
    task: dict[str, Any]
    clients: tuple[str, ...]
    figures: tuple[Figure, ...]
    sources: tuple[int, ...] = ()
    one_core: bool = False
    server: Literal["ioc", "camera", "frames", "hostile_ca", "hostile_pva"] = "ioc"
    place: Literal["worker", "fresh", "interrupt", "start"] = "worker"

    @property
    def group(self) -> str:
        """The table it belongs to."""
        return self.key.partition("_")[0]

    @property
    def layer(self) -> str:
        """What its clients are called through."""
        return self.group if self.group in ("ophyd", "async") else NATIVE
