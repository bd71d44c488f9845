"""The demo's command, as a user runs it: in a folder of its own, without a display."""

import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from event_model import DocumentNames, compose_run, schema_validators

from deadline import until
from epicsrs_demo.documents import DocumentsError, Journal, Run

LIMIT = 120.0
COMMAND = Path(sysconfig.get_path("scripts"), "epicsrs-demo")
# With --quick: how many events each run has.
RUNS = {"step": 9, "energy": 5, "frames": 5, "fly": 100, "latency": 2}
REGIONS = 48
# Lattice spacing of Si(111) in the monochromator, and h c, in keV ångström.
TWICE_D, HC = 2 * 3.1356, 12.39842

Document = tuple[str, dict[str, Any]]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the command; at the end of the test nothing that it started may be running, nor its files be there."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EPICS_")}
        process = subprocess.Popen(
            [COMMAND, "--quick", *options],
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


def documents(folder: Path, run: str) -> list[Document]:
    text = (folder / f"{run}.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return [(line["name"], line["doc"]) for line in lines]


def columns(found: list[Document]) -> dict[str, np.ndarray]:
    """The events of the primary stream, by key."""
    [primary] = [doc["uid"] for name, doc in found if name == "descriptor" and doc["name"] == "primary"]
    events = [doc["data"] for name, doc in found if name == "event" and doc["descriptor"] == primary]
    return {key: np.array([event[key] for event in events]) for key in events[0]}


def test_it_scans_and_leaves_valid_documents_and_a_picture(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "some" / "where"
    process = start("--out", str(folder))

    output, errors = process.communicate(timeout=LIMIT)

    assert process.returncode == 0, errors
    assert errors == ""
    for words in ("epicsrs-native alone", "Runs of one RunEngine", "Dead time of 48", "median of 120", "What took how"):
        assert words in output
    assert str(folder / "epicsrs-demo.png") in output
    assert session(process.pid) == []

    picture = (folder / "epicsrs-demo.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">II", picture[16:24]) == (1760, 1430)
    # A picture without curves has less.
    assert len(picture) > 100_000

    assert {path.stem for path in folder.glob("*.jsonl")} == set(RUNS)
    for run, events in RUNS.items():
        found = documents(folder, run)
        for name, doc in found:
            schema_validators[DocumentNames[name]].validate(doc)
        assert found[0][0] == "start" and found[-1][0] == "stop"
        assert found[-1][1]["exit_status"] == "success"
        assert found[-1][1]["num_events"]["primary"] == events
        assert run == "latency" or found[-1][1]["num_events"]["ring_current_monitor"] > 1
    check_step(columns(documents(folder, "step")))
    check_energy(columns(documents(folder, "energy")))
    check_frames(documents(folder, "frames"), folder)
    check_flight(documents(folder, "fly"))


def check_step(found: dict[str, np.ndarray]) -> None:
    """At each step the sample has arrived, and the scaler has counted there."""
    x = found["sample_x"]
    assert x == pytest.approx(np.linspace(-5.0, 5.0, RUNS["step"]), abs=1e-3)
    assert (found["I0"] > 100_000).all()
    assert found["It"] / found["I0"] == pytest.approx(1 - 0.8 * np.exp(-(x**2) / 2), rel=0.02)
    # The beam has between 480 and 500 mA.
    assert found["diode"] == pytest.approx(490 * np.exp(-((x / 2) ** 2) / 2), abs=20)


def check_energy(found: dict[str, np.ndarray]) -> None:
    """At each energy the crystals stand at Bragg's angle, and what the analyser sees follows it."""
    energy, theta = found["energy"], found["theta"]
    assert energy == pytest.approx(np.linspace(7.0, 13.0, RUNS["energy"]), abs=2e-3)
    assert TWICE_D * np.sin(np.radians(theta)) == pytest.approx(HC / energy, rel=1e-3)
    assert found["analyser"] == pytest.approx(490 * np.exp(-((theta - 12) ** 2) / 2), abs=30)


def check_frames(found: list[Document], folder: Path) -> None:
    """The file has a frame for each step, with the spot where the motor has put it."""
    x = columns(found)["spot_x"]
    assert x == pytest.approx(np.linspace(-150.0, 150.0, RUNS["frames"]), abs=1e-3)
    assert max(doc["indices"]["stop"] for name, doc in found if name == "stream_datum") == RUNS["frames"]
    with h5py.File(folder / "frames.h5") as file:
        frames = np.asarray(file["/entry/data/data"])
    assert (frames.shape, frames.dtype) == ((RUNS["frames"], 512, 512), np.dtype("u2"))
    across = frames.astype(float).sum(axis=1)
    assert across.argmax(axis=1) == pytest.approx(256 + x, abs=6)
    assert columns(found)["camera-stats-total"] == pytest.approx(frames.sum(axis=(1, 2), dtype=float), rel=1e-6)


def check_flight(found: list[Document]) -> None:
    """The page has a row for each point, and what the dead time took can be given back."""
    [page] = [doc for name, doc in found if name == "event_page"]
    data = {key: np.array(values) for key, values in page["data"].items()}
    assert {len(values) for values in data.values()} == {RUNS["fly"]}
    assert all(values.all() for key, values in data.items() if key.endswith("_valid"))
    encoder = data["encoder"]
    assert (np.diff(encoder) >= 0).all()
    assert encoder[0] == pytest.approx(-5.0, abs=0.5) and encoder[-1] == pytest.approx(5.0, abs=1.0)
    times = data["fly_time_ns"]
    assert np.diff(times) == pytest.approx(1e7, rel=1e-6)
    assert page["timestamps"]["encoder"] == pytest.approx(times / 1e9)
    detector = found[0][1]["detector"]
    ticks, resets, events = (data[key] for key in ("clock_ticks", "reset_ticks", "all_events"))
    factor = ticks / (ticks - resets - events * detector["event_width"])
    assert factor.max() > 1.2
    for region in range(1, REGIONS + 1):
        counted, came = data[f"roi{region}"], data["true_events"] * detector["share"][region - 1]
        assert counted.sum() > 0
        assert counted * factor == pytest.approx(came, abs=1.0), region


def test_the_ioc_stays_until_ctrl_c_and_can_be_talked_to(start: Start, tmp_path: Path) -> None:
    process = start("--keep-ioc")
    assert process.stdout is not None
    environment: dict[str, str] = {}
    while "EPICS_PVA_BROADCAST_PORT" not in environment:
        line = process.stdout.readline()
        assert line, process.communicate()
        if found := re.fullmatch(r"export (EPICS_\w+)=(.*)\n", line):
            environment[found[1]] = found[2].strip("'")
    # Written when it starts.
    assert len((tmp_path / "epicsrs-demo-documents" / "epicsrs-demo.png").read_bytes()) > 100_000

    code = "from epicsrs_native import get_context; print(get_context().channel('pva://bl:m1.RBV').get().value)"
    read = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30.0,
        check=False,
    )
    assert read.stdout == "5.0\n", read.stderr

    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30.0)

    assert (process.returncode, errors) == (130, "epicsrs-demo: ended by Ctrl-C\n")
    for port in ("EPICS_CA_SERVER_PORT", "EPICS_PVA_SERVER_PORT"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(environment[port])))


def test_ctrl_c_ends_it_and_its_run(start: Start, tmp_path: Path) -> None:
    run = random.choice(["step", "energy", "frames", "fly"])
    path = tmp_path / "epicsrs-demo-documents" / f"{run}.jsonl"
    process = start()
    # The descriptor and updates of the current are there: the run is under way.
    until(lambda: path.exists() and path.read_text().count("\n") > 4, 60.0)

    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30.0)

    assert process.returncode == 130, (run, errors)
    assert errors == "epicsrs-demo: ended by Ctrl-C\n", run
    name, doc = documents(path.parent, run)[-1]
    assert (name, doc["exit_status"]) == ("stop", "abort"), run
    assert not (path.parent / "epicsrs-demo.png").exists()


def test_ctrl_c_ends_it_before_it_scans(start: Start) -> None:
    process = start()
    assert process.stdout is not None
    assert process.stdout.readline().startswith("The beamline serves Channel Access on port ")

    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30.0)

    assert (process.returncode, errors) == (130, "epicsrs-demo: ended by Ctrl-C\n")


def test_a_part_that_fails_is_one_sentence_and_a_failure(start: Start, tmp_path: Path) -> None:
    process = start()
    folder = tmp_path / "epicsrs-demo-documents"
    path = folder / "fly.jsonl"
    until(lambda: path.exists() and path.read_text().count("\n") > 4, 60.0)

    [ioc] = [pid for pid in session(process.pid) if pid != process.pid]
    os.kill(ioc, signal.SIGKILL)
    _, errors = process.communicate(timeout=60.0)

    assert process.returncode == 1
    # With the PV that does not answer any more.
    assert re.fullmatch(r"epicsrs-demo: the fly scan with epicsrs-bulk failed: \w+: .*bl:.*\n", errors)
    assert "Traceback" in (folder / "log.txt").read_text()
    assert not (folder / "epicsrs-demo.png").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--fast"], "unrecognized arguments: --fast; --help lists the options"),
        (["--out"], "argument --out: expected one argument; --help lists the options"),
        (["--out", "scratch/file/folder"], "scratch/file/folder cannot be written to: Not a directory"),
        (["--out", "scratch/file"], "scratch/file cannot be written to: File exists"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(start: Start, tmp_path: Path, options: list[str], sentence: str) -> None:
    file = tmp_path / "scratch" / "file"
    file.touch()

    process = start(*options)
    output, errors = process.communicate(timeout=30.0)
    file.unlink()

    assert (process.returncode, output) == (2, "")
    assert errors == f"epicsrs-demo: {sentence}\n"


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
