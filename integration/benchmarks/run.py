"""Compare epicsrs with its peers: ``uv run integration/benchmarks/run.py``."""

import argparse
import fnmatch
import json
import platform
import time
from contextlib import suppress
from pathlib import Path

import environments
from bench import Result, measure
from records import database
from rows import Row, rows
from table import as_json, show

from epicsrs_demo.ioc import SoftIoc


def main() -> None:
    """Measure the chosen rows, print the table, write the JSON file."""
    options = _options()
    chosen = _chosen(rows(options.quick), options.rows)
    # The raw client is also the source of what monitors watch.
    for client in dict.fromkeys(["raw_ca", *(client for row in chosen for client in row.clients)]):
        environments.install(client)
    log = environments.FOLDER / "workers.log"
    log.write_text("")
    results: list[Result] = []
    # Ctrl-C ends the measuring; what has been measured is shown.
    with suppress(KeyboardInterrupt), SoftIoc(database()) as ioc:
        for row in chosen:
            start = time.monotonic()
            results.append(measure(row, ioc, options.reps or (2 if options.quick else 5), log))
            print(f"{row.key}: {time.monotonic() - start:.0f} s", flush=True)
    show(results)
    print(f"what the workers said: {log}")
    if options.json is not None:
        machine = {"machine": platform.platform(), "python": platform.python_version()}
        options.json.write_text(json.dumps({**machine, "figures": as_json(results)}, indent=1, ensure_ascii=False))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", nargs="+", default=["*"], metavar="ROW", help="rows by name or pattern: ca_get 'pva_*'"
    )
    parser.add_argument("--reps", type=int, help="repetitions of each row (5; 2 with --quick)")
    parser.add_argument("--quick", action="store_true", help="short tasks, to see that everything runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every repetition here")
    return parser.parse_args()


def _chosen(known: list[Row], patterns: list[str]) -> list[Row]:
    chosen = [row for row in known if any(fnmatch.fnmatch(row.key, pattern) for pattern in patterns)]
    if not chosen:
        raise SystemExit(f"no such row; there are: {' '.join(row.key for row in known)}")
    return chosen


if __name__ == "__main__":
    main()
