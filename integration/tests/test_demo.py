"""The demo's command, as a user runs it: in a folder of its own, without a display."""

import json
import os
import signal
import struct
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_model import DocumentNames, compose_run, schema_validators

from deadline import until
from epicsrs_demo.documents import DocumentsError, Journal, Run

LIMIT = 120.0
COMMAND = Path(sysconfig.get_path("scripts"), "epicsrs-demo")
RUNS = {"step-ophyd": 41, "step-ophyd-async": 41, "fly-bulk": 500, "latency": 10}

Start = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the command; at the end of the test nothing that it started may be running, nor its files be there."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EPICS_")}
        process = subprocess.Popen(
            [COMMAND],
            cwd=tmp_path,
            env={**environment, "TMPDIR": str(scratch)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Its session tells its processes from others.
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
        until(lambda process=process: not session(process.pid))
    assert list(scratch.iterdir()) == []


def session(leader: int) -> list[int]:
    """The processes of a session."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getsid(int(entry.name)) == leader:
                found.append(int(entry.name))
        except ProcessLookupError:
            continue
    return found


def documents(folder: Path, run: str) -> list[tuple[str, dict[str, Any]]]:
    text = (folder / "epicsrs-demo-documents" / f"{run}.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return [(line["name"], line["doc"]) for line in lines]


def test_it_scans_and_leaves_valid_documents_and_a_picture(start: Start, tmp_path: Path) -> None:
    process = start()

    output, errors = process.communicate(timeout=LIMIT)

    assert process.returncode == 0, errors
    assert errors == ""
    for words in ("epicsrs-native alone", "Runs of one RunEngine", "median of 600", "What took how long"):
        assert words in output

    picture = (tmp_path / "epicsrs-demo.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">II", picture[16:24]) == (1680, 1080)
    # A picture without curves has less.
    assert len(picture) > 50_000

    assert {path.stem for path in (tmp_path / "epicsrs-demo-documents").glob("*.jsonl")} == set(RUNS)
    for run, events in RUNS.items():
        found = documents(tmp_path, run)
        for name, doc in found:
            schema_validators[DocumentNames[name]].validate(doc)
        assert found[0][0] == "start" and found[-1][0] == "stop"
        assert found[-1][1]["exit_status"] == "success"
        assert found[-1][1]["num_events"]["primary"] == events
    for run, separator in (("step-ophyd", "_"), ("step-ophyd-async", "-")):
        check_steps(documents(tmp_path, run), f"detectors{separator}")
    [page] = [doc for name, doc in documents(tmp_path, "fly-bulk") if name == "event_page"]
    times = page["data"]["fly_time_ns"]
    assert times == sorted(set(times)) and 2.0e9 < times[-1] - times[0] < 20.0e9


def check_steps(found: list[tuple[str, dict[str, Any]]], detectors: str) -> None:
    """At each step the stage has arrived, and the detectors have counted there."""
    events = [doc for name, doc in found if name == "event" and "stage" in doc["data"]]
    keys = ("stage", f"{detectors}i0", f"{detectors}it", f"{detectors}fluo")
    stage, i0, it, _ = (np.array([event["data"][key] for event in events]) for key in keys)
    assert stage == pytest.approx(np.linspace(-5.0, 5.0, 41))
    assert it / i0 == pytest.approx(0.03 + 0.8 * np.exp(-0.5 * ((stage + 1.0) / 1.2) ** 2), rel=0.05)
    for key in keys:
        times = [event["timestamps"][key] for event in events]
        assert times == sorted(set(times)), key


def test_ctrl_c_ends_it_and_its_run(start: Start, tmp_path: Path) -> None:
    process = start()
    path = tmp_path / "epicsrs-demo-documents" / "step-ophyd.jsonl"
    until(lambda: path.exists() and path.read_text().count("\n") > 10, 60.0)

    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30.0)

    assert process.returncode == 130
    assert errors == "epicsrs-demo: ended by Ctrl-C\n"
    name, doc = documents(tmp_path, "step-ophyd")[-1]
    assert (name, doc["exit_status"]) == ("stop", "abort")
    assert not (tmp_path / "epicsrs-demo.png").exists()


def test_a_part_that_fails_is_one_sentence_and_a_failure(start: Start, tmp_path: Path) -> None:
    process = start()
    path = tmp_path / "epicsrs-demo-documents" / "step-ophyd.jsonl"
    until(lambda: path.exists() and path.read_text().count("\n") > 10, 60.0)

    [ioc] = [pid for pid in session(process.pid) if pid != process.pid]
    os.kill(ioc, signal.SIGKILL)
    _, errors = process.communicate(timeout=30.0)

    assert process.returncode == 1
    assert errors.count("\n") == 1
    assert errors.startswith("epicsrs-demo: the step scan with ophyd failed: NotConnectedError: ")
    assert "demo:" in errors.partition("NotConnectedError")[2]
    assert "Traceback" in (tmp_path / "epicsrs-demo-documents" / "log.txt").read_text()
    assert not (tmp_path / "epicsrs-demo.png").exists()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of one event, with an array and a NaN, as it was emitted and written."""
    bundle = compose_run(metadata={"scan": "example"})
    descriptor = bundle.compose_descriptor(
        name="primary", data_keys={"spectrum": {"source": "ca://spectrum", "dtype": "array", "shape": [2]}}
    )
    event = descriptor.compose_event(
        data={"spectrum": np.array([1.0, np.nan])}, timestamps={"spectrum": np.float64(1.5)}
    )
    journal = Journal(tmp_path)
    for name, doc in [
        ("start", bundle.start_doc),
        ("descriptor", descriptor.descriptor_doc),
        ("event", event),
        ("stop", bundle.compose_stop()),
    ]:
        journal(name, doc)
    return journal.runs[0]


def test_documents_come_back_as_they_were_emitted(run: Run) -> None:
    assert np.array_equal(run.read_back().stream("primary").data["spectrum"], [[1.0, np.nan]], equal_nan=True)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("[1.0, NaN]", "[1.0, 2.0]", "line 3: not the event"),
        ('"num_events": {"primary": 1}', '"num_events": {"primary": 2}', "line 4: not the stop"),
        ('{"name": "stop"', '{"name": "stopped"', "line 4: not the stop"),
    ],
)
def test_a_document_that_differs_is_named(run: Run, before: str, after: str, words: str) -> None:
    text = run.path.read_text()
    assert before in text
    run.path.write_text(text.replace(before, after))

    with pytest.raises(DocumentsError, match=words):
        run.read_back()


def test_a_document_that_is_missing_is_an_error(run: Run) -> None:
    run.path.write_text("".join(run.path.read_text().splitlines(keepends=True)[:-1]))

    with pytest.raises(DocumentsError, match="3 documents, 4 were emitted"):
        run.read_back()
