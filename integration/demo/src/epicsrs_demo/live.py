"""What the scans do, while they do it: progress bars, and the last steps of the present run."""

from collections import deque
from types import TracebackType
from typing import Any, Self

from rich.bar import Bar
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

ROWS = 12
BAR = 8


class LiveView:
    """Subscribed to the RunEngine, shows each run in the terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._live = Live(console=console, refresh_per_second=12)
        self._task: TaskID | None = None
        self._start: dict[str, Any] = {}
        self._descriptor = ""
        self._motors: list[str] = []
        self._detectors: list[str] = []
        self._units: dict[str, str] = {}
        self._rows: deque[dict[str, Any]] = deque(maxlen=ROWS)
        self._highest: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        self._live.console.print()

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        if name == "start":
            self._start = doc
            self._task = self._progress.add_task(doc["title"], total=doc["num_points"])
        elif name == "stop":
            self._task = None
        elif name == "descriptor" and doc["name"] == "primary":
            self._begin(doc)
        elif name == "event" and doc["descriptor"] == self._descriptor:
            self._add(doc)
        elif name == "stream_datum" and doc["descriptor"] == self._descriptor:
            self.reached(doc["indices"]["stop"])
        else:
            return
        self._live.update(Group(self._progress, self._table()))

    def reached(self, points: int) -> None:
        """Move the present run's bar, if there is a run."""
        if self._task is not None:
            self._progress.update(self._task, completed=points)

    def _begin(self, descriptor: dict[str, Any]) -> None:
        """A new table, where the run's devices hint at what to show."""
        self._descriptor = descriptor["uid"]
        hinted = sorted(field for hints in descriptor["hints"].values() for field in hints.get("fields", ()))
        # Frames are in a file.
        fields = [field for field in hinted if "external" not in descriptor["data_keys"][field]]
        if fields:
            self._motors = [field for field in fields if field in self._start["motors"]]
            self._detectors = [field for field in fields if field not in self._motors]
            self._units = {field: descriptor["data_keys"][field].get("units") or "" for field in fields}
            self._highest = dict.fromkeys(self._detectors, 1.0)
            self._rows.clear()

    def _add(self, event: dict[str, Any]) -> None:
        self.reached(event["seq_num"])
        if self._units.keys() <= event["data"].keys():
            self._rows.append(event)
            self._highest = {field: max(highest, event["data"][field]) for field, highest in self._highest.items()}

    def _table(self) -> Table:
        table = Table(box=SIMPLE_HEAD)
        table.add_column("step", justify="right")
        for field in self._motors:
            table.add_column(self._heading(field), justify="right")
        for field in self._detectors:
            table.add_column(self._heading(field), justify="right")
            table.add_column("", width=BAR)
        for event in self._rows:
            data = event["data"]
            cells: list[RenderableType] = [str(event["seq_num"])]
            cells += [f"{data[field]:.3f}" for field in self._motors]
            for field in self._detectors:
                bar = Bar(self._highest[field], 0, data[field], width=BAR, color="cyan")
                cells += [f"{data[field]:,.0f}", bar]
            table.add_row(*cells)
        return table

    def _heading(self, field: str) -> str:
        return f"{field}\n{self._units[field]}"
