"""From a journal to a target, once more and as often as one likes; and the command that does it."""

import json
import logging
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_model import DocumentNames, schema_validators

from epicsrs_bulk import CallbackTarget, JournalError, JsonLinesTarget, Sink, SinkError, replay
from epicsrs_bulk._cli import main  # noqa: PLC2701 (what the entry point calls)

Document = tuple[str, dict[str, Any]]


def run(uid: str, stop: bool = True) -> list[Document]:
    """A run of three events in two streams, with or without a stop."""
    page = {
        "uid": [f"{uid}-1", f"{uid}-2"],
        "descriptor": f"{uid}-primary",
        "seq_num": [1, 2],
        "time": [3.0, 4.0],
        "data": {"x": np.array([1.5, 2.5])},
        "timestamps": {"x": np.array([3.0, 4.0])},
    }
    event = {"uid": f"{uid}-3", "descriptor": f"{uid}-base", "seq_num": 1, "time": 5.0, "data": {}, "timestamps": {}}
    documents: list[Document] = [
        ("start", {"uid": uid, "time": 1.0, "plan_name": "fly", "scan_id": 7}),
        *(
            ("descriptor", {"uid": f"{uid}-{name}", "run_start": uid, "time": 2.0, "name": name, "data_keys": {}})
            for name in ("primary", "base", "empty")
        ),
        ("event_page", page),
        ("event", event),
    ]
    end: Document = ("stop", {"uid": f"{uid}-stop", "run_start": uid, "time": 9.0, "exit_status": "success"})
    return [*documents, end] if stop else documents


class Store:
    """Keeps documents; refuses those of a run, or forgets nothing."""

    def __init__(self, refuse: str = "") -> None:
        self.documents: list[Document] = []
        self.forgotten: list[str] = []
        self.refuse = refuse

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        if self.refuse and self.refuse in str(doc["uid"]):
            raise ConnectionError("not this one")
        self.documents.append((name, doc))

    def forget(self, run_uid: str) -> None:
        self.forgotten.append(run_uid)

    def of(self, uid: str) -> list[Document]:
        return [(name, doc) for name, doc in self.documents if uid in str(doc["uid"])]


class Down:
    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        raise ConnectionError("nobody there")

    def forget(self, run_uid: str) -> None:
        pass


def keep(journal: Path, *runs: list[Document], target: Any = None) -> Path:
    """Journals of runs, by default of a sink whose target is down."""
    sink = Sink(target or Down(), journal, on_error="degrade")
    for documents in runs:
        for name, doc in documents:
            sink(name, doc)
    try:
        sink.close()
    except SinkError:
        assert target is None
    return journal


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def same(documents: list[Document], expected: list[Document]) -> bool:
    plain = [json.dumps(each, default=lambda array: array.tolist()) for each in (documents, expected)]
    return plain[0] == plain[1]


def test_undelivered_runs_are_forgotten_then_written_whole_and_the_oldest_first(journal: Path) -> None:
    keep(journal, run("a"), run("b"))
    target = Store()

    report = replay(journal, target)

    assert same(target.documents, run("a") + run("b"))
    assert target.forgotten == ["a", "b"]
    assert [(of.run_uid, of.outcome, of.documents, of.complete) for of in report.runs] == [
        ("a", "delivered", 7, True),
        ("b", "delivered", 7, True),
    ]
    assert report.ok and sorted(path.name for path in journal.iterdir()) == ["a.delivered", "b.delivered"]


def test_delivered_runs_are_skipped_unless_asked_for_again(journal: Path) -> None:
    keep(journal, run("a"), target=Store())
    target = Store()

    assert replay(journal, target).count("skipped") == 1 and not target.documents

    assert replay(journal, target, again=True).count("delivered") == 1
    assert same(target.documents, run("a"))
    assert [path.name for path in journal.iterdir()] == ["a.delivered"]


def test_the_journal_of_one_run_may_be_named(journal: Path) -> None:
    keep(journal, run("a"), run("b"))
    target = Store()

    assert [of.run_uid for of in replay(journal / "b.journal", target).runs] == ["b"]
    assert same(target.documents, run("b"))


def test_rows_in_files_are_counted_once_whatever_announces_them(journal: Path) -> None:
    def datum(key: str, stop: int) -> Document:
        announced = {"start": stop - 2, "stop": stop}
        doc = {"descriptor": "a-base", "stream_resource": key, "seq_nums": announced, "indices": announced}
        return "stream_datum", {"uid": f"a-{key}/{stop}", **doc}

    files = [("stream_resource", {"uid": f"a-{key}", "run_start": "a", "data_key": key}) for key in "xy"]
    rows = [datum(f"a-{key}", stop) for stop in (3, 5, 8) for key in "xy"]
    keep(journal, [*run("a", stop=False), *files, *rows])
    target = Store()

    assert replay(journal, target).ok

    assert target.documents[-1][1]["num_events"] == {"primary": 2, "base": 7, "empty": 0}


def test_a_run_without_a_stop_gets_one_that_says_so_the_same_in_each_replay(journal: Path) -> None:
    keep(journal, run("a", stop=False))
    first, second = Store(), Store()

    [report] = replay(journal, first).runs
    replay(journal, second, again=True)

    assert not report.complete and report.outcome == "delivered" and report.documents == 7
    name, stop = first.documents[-1]
    assert name == "stop"
    schema_validators[DocumentNames.stop].validate(stop)
    assert stop["reason"] == "incomplete: the journal of this run has no stop document"
    assert {key: stop[key] for key in ("run_start", "time", "exit_status", "num_events")} == {
        "run_start": "a",
        "time": 5.0,
        "exit_status": "fail",
        "num_events": {"primary": 2, "base": 1, "empty": 0},
    }
    assert same(first.documents, second.documents)


@pytest.mark.parametrize("rows", [2, 0])
def test_the_time_of_that_stop_is_the_last_one_known(journal: Path, rows: int) -> None:
    page = {"uid": [""] * rows, "descriptor": "a-primary", "time": np.arange(rows) + 11.0, "data": {}}
    keep(journal, [*run("a", stop=False), ("event_page", page)])
    target = Store()

    assert replay(journal, target).ok

    assert target.documents[-1][1]["time"] == (12.0 if rows else 5.0)


def test_a_torn_end_is_told_of_and_the_rest_delivered(journal: Path) -> None:
    path = keep(journal, run("a")) / "a.journal"
    path.write_bytes(path.read_bytes()[:-10])
    target = Store()

    [report] = replay(journal, target).runs

    assert report.outcome == "delivered" and not report.complete and report.unread > 50
    assert same(target.documents[:-1], run("a", stop=False))


@pytest.mark.parametrize("content", [b"", b"epicsrs", b"epicsrs-journal 1\n", b"epicsrs-journal 1\n\x05\0"])
def test_a_journal_in_which_no_document_was_finished_is_empty(journal: Path, content: bytes) -> None:
    journal.mkdir()
    (journal / "a.journal").write_bytes(content)
    target = Store()

    report = replay(journal, target)

    assert report.ok and [of.outcome for of in report.runs] == ["empty"] and not target.documents
    assert replay(journal, target).count("skipped") == 1


def test_a_run_that_the_target_refuses_is_reported_and_the_others_are_delivered(journal: Path) -> None:
    keep(journal, run("a"), run("b"), run("c"))
    target = Store(refuse="b-3")

    report = replay(journal, target)

    assert [of.outcome for of in report.runs] == ["delivered", "failed", "delivered"] and not report.ok
    error = report.runs[1].error
    assert isinstance(error, ConnectionError)
    assert error.__notes__ == [f"event b-3, document 6 of {journal}/b.journal"]
    assert same(target.of("c"), run("c"))

    target.refuse = ""
    assert replay(journal, target).ok
    assert target.forgotten == ["a", "b", "c", "b"] and same(target.of("b")[-7:], run("b"))


def test_a_target_that_is_down_is_not_tried_for_every_run(journal: Path, tmp_path: Path) -> None:
    keep(journal, *(run(uid) for uid in "abcde"))

    report = replay(journal, Down())

    assert [of.outcome for of in report.runs] == ["failed"] * 3 + ["not tried"] * 2 and not report.ok
    assert replay(journal, Store()).count("delivered") == 5


def test_a_target_that_does_not_flush_has_not_taken_the_run(journal: Path) -> None:
    keep(journal, run("a"))
    target = Store()
    target.flush = lambda timeout: 1 / 0  # type: ignore[attr-defined]

    [report] = replay(journal, target).runs

    assert report.outcome == "failed" and (journal / "a.journal").exists()


def test_a_run_that_a_sink_still_writes_is_left_alone(journal: Path) -> None:
    sink, target = Sink(Store(), journal), Store()
    for name, doc in run("a", stop=False):
        sink(name, doc)

    report = replay(journal, target)

    assert [of.outcome for of in report.runs] == ["in use"] and not report.ok and not target.documents
    sink.close()
    assert replay(journal, target).ok


def test_a_callback_is_delivered_to_at_least_once_and_a_warning_says_so(
    journal: Path, caplog: pytest.LogCaptureFixture
) -> None:
    documents: list[Document] = []
    keep(journal, run("a"))

    with caplog.at_level(logging.WARNING, "epicsrs.bulk"):
        report = replay(journal, lambda name, doc: documents.append((name, doc)))

    assert report.ok and same(documents, run("a"))
    assert "cannot forget run a" in caplog.text
    assert "flush" not in dir(CallbackTarget(print))


def test_progress_counts_the_bytes_of_the_journals(journal: Path) -> None:
    keep(journal, run("a"), run("b", stop=False))
    sizes = {path: path.stat().st_size for path in journal.iterdir()}
    seen: dict[Path, int] = {}

    def progress(path: Path, length: int) -> None:
        seen[path] = seen.get(path, len(b"epicsrs-journal 1\n")) + length

    replay(journal, Store(), progress=progress)

    assert seen == sizes


def test_a_journal_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="nowhere"):
        replay(tmp_path / "nowhere", Store())


def test_json_lines_are_whole_when_their_name_says_so(tmp_path: Path) -> None:
    target = JsonLinesTarget(tmp_path)
    for name, doc in run("a", stop=False):
        target(name, doc)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl.part"]

    target(*run("a")[-1])

    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert same([tuple(line) for line in lines], run("a"))
    target.forget("a")
    target.forget("a")
    assert not list(tmp_path.iterdir())


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = main([str(argument) for argument in arguments])
    return status, capsys.readouterr().out


def test_the_command_delivers_says_what_it_did_and_delivers_nothing_twice(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(journal, run("a"), run("b", stop=False))
    to = f"jsonl:{tmp_path}/out"

    status, out = command(capsys, "replay", journal, "--to", to)
    assert status == 0
    assert out.splitlines() == [
        "a: delivered, 7 documents",
        "b: delivered, 7 documents, incomplete, a stop was added",
        "2 of 2 runs delivered, 0 were before",
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jsonl", "b.jsonl"]
    assert command(capsys, "replay", journal, "--to", to) == (0, "0 of 0 runs delivered, 2 were before\n")
    assert command(capsys, "replay", journal, "--to", to, "--again")[1].endswith(
        "2 of 2 runs delivered, 0 were before\n"
    )


def test_the_command_ends_with_1_when_a_run_is_not_delivered(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(journal, run("a"))
    (journal / "b.journal").write_text("no journal")

    status, out = command(capsys, "replay", journal, "--to", f"jsonl:{tmp_path}/out")

    assert status == 1
    assert f"b: failed, {journal}/b.journal: not a journal of epicsrs-bulk" in out
    assert "1 of 2 runs delivered" in out


@pytest.mark.parametrize(
    "arguments", [[], ["replay", "x"], ["replay", "x", "--to", "y"], ["replay", "x", "--to", "z:y"], ["show"]], ids=str
)
def test_the_command_ends_with_2_for_arguments_without_sense(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


def test_the_command_shows_what_is_in_a_journal(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(journal, run("a"), target=Store())
    keep(journal, [*run("b")[:-1], ("event", {"uid": "bad", "descriptor": "b-primary", "data": {"x": {1}}})])

    status, out = command(capsys, "show", journal)

    assert status == 0
    head, a, b = (line.split() for line in out.splitlines())
    assert head == ["run", "started", "plan", "documents", "events", "ended", "state", "MB", "notes"]
    assert a[0] == "a" and a[3:9] == ["fly", "7", "7", "3", "success", "delivered"]
    assert b[0] == "b" and b[3:10] == ["fly", "7", "6", "3", "no", "stop", "undelivered"]
    assert out.splitlines()[2].endswith(
        "event quarantined: event bad: ['data']['x'] cannot be written: {1} (no set in a journal)"
    )


def test_the_command_is_installed_and_names_a_folder_that_is_not_there(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("epicsrs-bulk")

    done = subprocess.run(
        [program, "show", tmp_path / "nowhere"], capture_output=True, text=True, timeout=60.0, check=False
    )

    assert done.returncode == 1
    assert done.stderr.startswith(f"epicsrs-bulk: {tmp_path}/nowhere: ")


def test_the_page_about_journals_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setattr(sys, "argv", ["follow.py", "replay-a-journal.md"])

    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(Path(__file__).parent / "programs/follow.py"))

    assert not end.value.code, capsys.readouterr().out
    assert len(list((tmp_path / "runs").glob("*.jsonl"))) == len(list((tmp_path / "journal").glob("*.delivered"))) == 2
