"""Compare epicsrs with its peers: ``uv run integration/benchmarks/run.py``."""

import argparse
import time
from contextlib import suppress
from pathlib import Path

import environments
from archive import Archive
from bench import Result, measure
from process import WorkerProcess
from records import ARRAY, ARRAY_SIZE, database
from row import Row, fits
from rows import rows
from table import show

from ioc import SoftIoc


def main() -> None:
    """Measure the chosen rows, print the table, write the JSON file."""
    options = _options()
    archive = None if options.json is None else Archive(options.json)
    chosen = _chosen(rows(options.quick), options.rows)
    if options.missing and archive is not None:
        chosen = [row for row in chosen if not archive.has(row.key, options.quick)]
    repetitions = options.reps or (2 if options.quick else 5)
    # The raw client is also the source of what monitors watch; arrays come from p4p.
    environments.install("raw_ca")
    environments.install("p4p")
    for client, layer in dict.fromkeys((client, row.layer) for row in chosen for client in row.clients):
        environments.install(client, layer)
    log = environments.FOLDER / "workers.log"
    log.write_text("")
    results: list[Result] = []
    # Ctrl-C ends the measuring; what has been measured is shown.
    with suppress(KeyboardInterrupt), SoftIoc(database()) as ioc:
        _fill(ioc, log)
        for row in chosen:
            start = time.monotonic()
            results.append(measure(row, ioc, repetitions, log))
            if archive is not None:
                archive.add(results[-1], repetitions, options.quick)
            print(f"{row.key}: {time.monotonic() - start:.0f} s", flush=True)
    show(results)
    print(f"what the workers said: {log}")


def _fill(ioc: SoftIoc, log: Path) -> None:
    """A database file cannot give a record a million elements."""
    with WorkerProcess("p4p", ioc.environment, log) as worker:
        worker.run({"task": "fill", "pv": f"pva://{ARRAY}", "size": ARRAY_SIZE})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", nargs="+", default=["*"], metavar="ROW", help="rows by name or pattern: ca_get 'pva_*'"
    )
    parser.add_argument("--reps", type=int, help="repetitions of each row (5; 2 with --quick)")
    parser.add_argument("--quick", action="store_true", help="short tasks, to see that everything runs")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write every repetition here; rows not measured now stay in the file"
    )
    parser.add_argument("--missing", action="store_true", help="only rows that the file lacks, to go on after a break")
    return parser.parse_args()


def _chosen(known: list[Row], patterns: list[str]) -> list[Row]:
    chosen = [row for row in known if fits(row.key, patterns)]
    if not chosen:
        raise SystemExit(f"no such row; there are: {' '.join(row.key for row in known)}")
    return chosen


if __name__ == "__main__":
    main()
