"""The command epicsrs-bulk: look into journals, and deliver what is in them."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epicsrs_bulk._journal import DELIVERED
from epicsrs_bulk._journal_folder import journals
from epicsrs_bulk._journal_summary import summary
from epicsrs_bulk._replay import ReplayReport, replay
from epicsrs_bulk._sink_errors import JournalError
from epicsrs_bulk._target import close

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epicsrs_bulk._target import Target

_TARGETS = "tiled:URL, mongo:URI/DATABASE or jsonl:FOLDER"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when all is well, 1 when a run is not delivered or cannot be read, 2 for wrong arguments."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except JournalError as error:
        print(f"epicsrs-bulk: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="epicsrs-bulk", description="Journals of document sinks.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    again = commands.add_parser(
        "replay",
        help="deliver the runs in a journal that no target has taken",
        description="Deliver the runs in a journal that no target has taken. What the target holds of such a run is "
        "removed first, so that a replay may be broken off and repeated. Status 1: a run is not delivered, is "
        "in use by a sink, or lacks a document that could not be written.",
    )
    again.add_argument("journal", type=Path, metavar="JOURNAL", help="a sink's folder, or the journal of one run")
    again.add_argument("--to", required=True, type=_target, metavar="TARGET", help=_TARGETS)
    again.add_argument("--again", action="store_true", help="deliver also what is marked as delivered")
    again.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="for the end of each run (60)")
    again.set_defaults(command=_replay)
    show = commands.add_parser("show", help="list the runs in a journal")
    show.add_argument("journal", type=Path, metavar="JOURNAL", help="a sink's folder, or the journal of one run")
    show.set_defaults(command=_show)
    return parser


def _target(text: str) -> Target:
    kind, _, place = text.partition(":")
    if not place:
        raise argparse.ArgumentTypeError(f"{text!r} is not {_TARGETS}")
    try:
        if kind == "jsonl":
            from epicsrs_bulk._target_json_lines import JsonLinesTarget

            return JsonLinesTarget(place)
        if kind == "mongo":
            from epicsrs_bulk._mongo import MongoTarget

            return MongoTarget(*_mongo(place))
        if kind == "tiled":
            from epicsrs_bulk._tiled import TiledTarget

            return TiledTarget(place)
    except (ImportError, JournalError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    raise argparse.ArgumentTypeError(f"{text!r} is not {_TARGETS}")


def _mongo(place: str) -> tuple[str, str]:
    """The server's URI without the database in it, and the database."""
    uri = place if "://" in place else f"mongodb://{place}"
    scheme, _, rest = uri.partition("://")
    address, question, options = rest.partition("?")
    hosts, _, database = address.partition("/")
    if not database:
        raise ValueError(f"mongo:{place} names no database; write mongo:URI/DATABASE")
    return f"{scheme}://{hosts}/{question}{options}", database


def _replay(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    waiting = [path for path in journals(options.journal) if options.again or path.suffix != DELIVERED]
    total = sum(path.stat().st_size for path in waiting if path.exists())
    with tqdm(total=total, unit="B", unit_scale=True, disable=None, desc="replay") as bar:

        def progress(_: Path, length: int) -> None:
            bar.update(length)

        report = replay(options.journal, options.to, again=options.again, timeout=options.timeout, progress=progress)
    close(options.to)
    _tell(report)
    return 0 if report.ok else 1


def _tell(report: ReplayReport) -> None:
    for run in report.runs:
        if run.outcome == "skipped":
            continue
        words = [f"{run.run_uid}: {run.outcome}"]
        if run.documents:
            words.append(f"{run.documents} documents")
        if not run.complete:
            words.append("incomplete, a stop was added")
        if run.unread:
            words.append(f"{run.unread} bytes at the end of the journal are no document")
        words.extend(f"without {lost}, which could not be written" for lost in run.quarantined)
        if run.error is not None:
            words.append(" ".join([str(run.error) or repr(run.error), *getattr(run.error, "__notes__", [])]))
        print(", ".join(words))
    delivered, skipped = report.count("delivered"), report.count("skipped")
    print(f"{delivered} of {len(report.runs) - skipped} runs delivered, {skipped} were before")


def _show(options: argparse.Namespace) -> int:
    rows: list[tuple[Any, ...]] = [("run", "started", "plan", "documents", "events", "ended", "state", "MB", "notes")]
    ok = True
    for path in journals(options.journal):
        try:
            run = summary(path)
        except JournalError as error:
            print(f"epicsrs-bulk: {error}", file=sys.stderr)
            ok = False
            continue
        started = "" if run.time is None else datetime.fromtimestamp(run.time).astimezone().isoformat(" ", "seconds")
        size = f"{run.size / 1e6:.3g}"
        notes = ", ".join(run.notes)
        rows.append((run.run_uid, started, run.plan, run.documents, run.events, run.ended, run.state, size, notes))
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0 if ok else 1
