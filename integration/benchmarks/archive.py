"""The JSON file of figures: written after each row, so that an interrupted run keeps what it has."""

import json
import os
import platform
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import Result
from environments import OURS
from row import Figure, fits
from rows import rows
from table import goal_words

# A row, or a figure, as it lies in the file.
Entry = dict[str, Any]


class Archive:
    """The rows in a file. A row that is measured again replaces its predecessor, the others stay."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows: dict[str, Entry] = json.loads(file.read_text())["rows"] if file.exists() else {}

    def has(self, key: str, quick: bool) -> bool:
        """Whether a row is there, measured no shorter than asked, and without a failure of ours."""
        row = self._rows.get(key)
        return row is not None and (quick or not row["quick"]) and OURS not in row["errors"]

    def add(self, result: Result, repetitions: int, quick: bool) -> None:
        """Write a row into the file."""
        now = datetime.now().astimezone().isoformat(timespec="minutes")
        self._rows[result.row.key] = {
            "group": result.row.group,
            "measured": now,
            "asked_repetitions": repetitions,
            "quick": quick,
            # Of the last minute, the benchmark's own included.
            "load": round(os.getloadavg()[0], 1),
            "errors": result.errors,
            "figures": [_entry(result, figure) for figure in result.row.figures],
        }
        known = [row.key for row in rows(quick)]
        self._rows = {key: self._rows[key] for key in known if key in self._rows}
        text = json.dumps({"machine": machine(), "rows": self._rows}, indent=1, ensure_ascii=False)
        draft = self._file.with_suffix(".tmp")
        draft.write_text(text + "\n")
        draft.replace(self._file)


def read(file: Path, patterns: list[str]) -> tuple[Entry, list[Entry]]:
    """The machine and the rows of a file, those whose names one of the patterns fits."""
    content = json.loads(file.read_text())
    return content["machine"], [row for key, row in content["rows"].items() if fits(key, patterns)]


def machine() -> Entry:
    """What the figures were measured on."""
    cpu = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
    }


def _entry(result: Result, figure: Figure) -> Entry:
    goal = figure.goal
    clients = {
        client: {"median": result.value(client, figure), "repetitions": result.values(client, figure)}
        for client in result.row.clients
        if result.values(client, figure)
    }
    judged = goal and {
        **asdict(goal),
        "words": goal_words(goal, figure.more_is_better),
        "reached": result.reached(OURS, figure, goal),
        "met": result.meets(OURS, figure, goal),
    }
    return {
        "title": figure.title,
        "unit": figure.unit,
        "more_is_better": figure.more_is_better,
        "clients": clients,
        "goal": judged,
    }
