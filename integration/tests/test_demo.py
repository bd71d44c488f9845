"""The demo's command, as a user runs it: in a folder of its own, without a display."""

import copy
import os
import random
import re
import resource
import shlex
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import h5py
import numpy as np
import pytest
from event_model import DocumentNames, compose_run, sanitize_doc, schema_validators
from tiled.client import from_uri

from deadline import until
from epicsrs_bulk import replay
from epicsrs_demo.documents import Emitted, Recorder
from epicsrs_demo.stored import StoredError, read_back

# Seconds; the catalog's server is what takes long to start on a busy machine.
LIMIT = 300.0
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
        hidden = ("EPICS_", "DISPLAY", "WAYLAND_", "MPLBACKEND")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
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


def journals(folder: Path) -> list[Path]:
    """Those of the runs that have begun, in their order."""
    while True:
        # One may be renamed meanwhile, as it is delivered.
        with suppress(FileNotFoundError):
            return sorted((folder / "journal").glob("*.*"), key=lambda path: path.stat().st_ctime_ns)


def documents(folder: Path) -> dict[str, list[Document]]:
    """The documents in the journal, by run."""
    runs: dict[str, list[Document]] = {}
    found: list[Document] = []

    def take(name: str, doc: dict[str, Any]) -> None:
        if name == "start":
            found.clear()
        found.append((name, doc))
        if name == "stop":
            runs[found[0][1]["scan"]] = found.copy()

    assert replay(folder / "journal", take, again=True).ok
    return runs


def columns(found: list[Document]) -> dict[str, np.ndarray]:
    """The events of the primary stream, and what it has in files, by key."""
    [primary] = [doc["uid"] for name, doc in found if name == "descriptor" and doc["name"] == "primary"]
    events = [doc["data"] for name, doc in found if name == "event" and doc["descriptor"] == primary]
    data = {key: np.array([event[key] for event in events]) for key in events[0]} if events else {}
    for name, doc in found:
        if name == "stream_resource":
            with h5py.File(unquote(urlparse(doc["uri"]).path)) as file:
                data[doc["data_key"]] = np.asarray(file[doc["parameters"]["dataset"]])
    return data


def under_way(folder: Path, run: str) -> bool:
    """Whether a run has begun, with its descriptor and updates of the current, and is not delivered yet."""
    begun = journals(folder)
    place = list(RUNS).index(run)
    with suppress(FileNotFoundError):
        return len(begun) > place and begun[place].suffix == ".journal" and begun[place].stat().st_size > 4000
    return False


@pytest.fixture
def usual_ports() -> Iterator[None]:
    """The ports of Channel Access, pvAccess and Tiled are taken, by us or by others."""
    with ExitStack() as stack:
        for port in (5064, 5065, 5075, 5076, 8000):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                taken = stack.enter_context(socket.socket(type=kind))
                with suppress(OSError):
                    taken.bind(("", port))
                    if kind is socket.SOCK_STREAM:
                        taken.listen()
        yield


@pytest.mark.usefixtures("usual_ports")
def test_it_scans_stores_and_draws_and_stays_until_ctrl_c_where_asked_to(start: Start, tmp_path: Path) -> None:
    """Also where somebody else has the usual ports, and there is no display."""
    folder = tmp_path / "some" / "where"
    process = start("--out", str(folder), "--keep-ioc")
    assert process.stdout is not None
    output: list[str] = []
    environment: dict[str, str] = {}
    while "TILED_API_KEY" not in environment:
        output.append(process.stdout.readline())
        assert output[-1], process.communicate()
        if found := re.fullmatch(r"export (\w+)=(\S*)(?:  # for (\S+))?\n", output[-1]):
            environment[found[1]] = found[2].strip("'")
            server = found[3]

    tables = ("epicsrs-native alone", "Runs of one", "Dead time of 48", "One read of", "One update of", "What took how")
    for words in tables:
        assert words in "".join(output)
    for place in ("catalog", "journal", "epicsrs-demo.png"):
        assert str(folder / place) in "".join(output)
    assert shlex.split(next(line for line in output if line.startswith("tiled serve")))[3] == str(
        folder / "catalog" / "catalog.db"
    )
    check_picture(folder / "epicsrs-demo.png")
    check_journal(folder)
    check_catalog(server, environment["TILED_API_KEY"], documents(folder))
    check_ioc(environment)

    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)

    assert (process.returncode, errors) == (130, "epicsrs-demo: ended by Ctrl-C\n")
    assert session(process.pid) == []
    ports = [environment["EPICS_CA_SERVER_PORT"], environment["EPICS_PVA_SERVER_PORT"], server.rpartition(":")[2]]
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(port)))


def check_picture(path: Path) -> None:
    picture = path.read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">II", picture[16:24]) == (1760, 1430)
    # A picture without curves has less.
    assert len(picture) > 100_000


def check_journal(folder: Path) -> None:
    assert {path.suffix for path in journals(folder)} == {".delivered"}
    found = documents(folder)
    assert list(found) == list(RUNS)
    for run, events in RUNS.items():
        for name, doc in found[run]:
            schema_validators[DocumentNames[name]].validate(sanitize_doc(doc))
        assert found[run][-1][1]["exit_status"] == "success"
        assert found[run][-1][1]["num_events"]["primary"] == events
        assert run == "latency" or found[run][-1][1]["num_events"]["ring_current_monitor"] > 1
    check_step(columns(found["step"]))
    check_energy(columns(found["energy"]))
    check_frames(columns(found["frames"]))
    check_flight(found["fly"])
    check_latency(columns(found["latency"]))


def check_catalog(server: str, api_key: str, found: dict[str, list[Document]]) -> None:
    """It has what the journal has, for whoever asks."""
    client = from_uri(server, api_key=api_key)
    assert {run.start["scan"] for run in client.values()} == set(RUNS)
    for documents in found.values():
        run = client[documents[0][1]["uid"]]
        assert run.stop["uid"] == documents[-1][1]["uid"]
    step = columns(found["step"])
    stored = client[found["step"][0][1]["uid"]]["primary"].base["internal"].read()
    for key, values in step.items():
        assert stored[key].tolist() == values.tolist()
    fly = client[found["fly"][0][1]["uid"]]["primary"].base
    assert fly["roi48"].read().tolist() == columns(found["fly"])["roi48"].tolist()


def check_ioc(environment: dict[str, str]) -> None:
    code = "from epicsrs_native import get_context; print(get_context().channel('pva://bl:m1.RBV').get().value)"
    read = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert read.stdout == "5.0\n", read.stderr


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


def check_frames(found: dict[str, np.ndarray]) -> None:
    """There is a frame for each step, with the spot where the motor has put it."""
    x, frames = found["spot_x"], found["camera"]
    assert x == pytest.approx(np.linspace(-150.0, 150.0, RUNS["frames"]), abs=1e-3)
    assert (frames.shape, frames.dtype) == ((RUNS["frames"], 512, 512), np.dtype("u2"))
    across = frames.astype(float).sum(axis=1)
    assert across.argmax(axis=1) == pytest.approx(256 + x, abs=6)
    assert found["camera-stats-total"] == pytest.approx(frames.sum(axis=(1, 2), dtype=float), rel=1e-6)


def check_flight(found: list[Document]) -> None:
    """The file has a row for each point, and what the dead time took can be given back."""
    data = columns(found)
    assert not [name for name, _ in found if name == "event_page"]
    assert {len(values) for values in data.values()} == {RUNS["fly"]}
    assert all(values.all() for key, values in data.items() if key.endswith("_valid"))
    encoder = data["encoder"]
    assert (np.diff(encoder) >= 0).all()
    assert encoder[0] == pytest.approx(-5.0, abs=0.5) and encoder[-1] == pytest.approx(5.0, abs=1.0)
    assert np.diff(data["fly_time_ns"]) == pytest.approx(1e7, rel=1e-6)
    detector = found[0][1]["detector"]
    ticks, resets, events = (data[key] for key in ("clock_ticks", "reset_ticks", "all_events"))
    factor = ticks / (ticks - resets - events * detector["event_width"])
    assert factor.max() > 1.2
    for region in range(1, REGIONS + 1):
        counted, came = data[f"roi{region}"], data["true_events"] * detector["share"][region - 1]
        assert counted.sum() > 0
        assert counted * factor == pytest.approx(came, abs=1.0), region


def check_latency(found: dict[str, np.ndarray]) -> None:
    """Of both protocols there are reads and updates through each of three layers, and each took some time."""
    assert len(found) == 2 * 2 * 3
    for key, seconds in found.items():
        assert seconds.shape == (RUNS["latency"], 60), key
        assert (seconds > 0).all() and (seconds < 5).all(), key


def test_ctrl_c_ends_it_and_its_run(start: Start, tmp_path: Path) -> None:
    run = random.choice(["step", "energy", "frames", "fly"])
    folder = tmp_path / "epicsrs-demo-documents"
    process = start()
    until(lambda: under_way(folder, run), LIMIT)

    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)

    assert process.returncode == 130, (run, errors)
    assert errors == "epicsrs-demo: ended by Ctrl-C\n", run
    name, doc = documents(folder)[run][-1]
    assert (name, doc["exit_status"]) == ("stop", "abort"), run
    assert not (folder / "epicsrs-demo.png").exists()


def test_ctrl_c_ends_it_before_it_scans(start: Start) -> None:
    process = start()
    assert process.stdout is not None
    assert process.stdout.readline().startswith("The beamline serves Channel Access on port ")

    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)

    assert (process.returncode, errors) == (130, "epicsrs-demo: ended by Ctrl-C\n")


def test_a_part_that_fails_is_one_sentence_and_a_failure(start: Start, tmp_path: Path) -> None:
    process = start()
    folder = tmp_path / "epicsrs-demo-documents"
    until(lambda: under_way(folder, "fly"), LIMIT)

    [ioc] = [pid for pid in session(process.pid) if b"epicsrs-beamline" in command(pid)]
    os.kill(ioc, signal.SIGKILL)
    _, errors = process.communicate(timeout=LIMIT)

    assert process.returncode == 1
    # With the PV that does not answer any more.
    assert re.fullmatch(r"epicsrs-demo: the fly scan with epicsrs-bulk failed: \w+: .*bl:.*\n", errors)
    assert "Traceback" in (folder / "log.txt").read_text()
    assert not (folder / "epicsrs-demo.png").exists()


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_disk_that_is_full_under_the_journal_is_one_sentence_and_a_failure(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "epicsrs-demo-documents"
    process = start()
    until(lambda: under_way(folder, "step"), LIMIT)
    # From now on the journal does not grow.
    size = journals(folder)[0].stat().st_size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    _, errors = process.communicate(timeout=LIMIT)

    assert process.returncode == 1
    sentence = r"epicsrs-demo: the step scan with ophyd failed: \w*Error: .*/journal/.*File too large\n"
    # The log is a file of that process, too, and may be as long already.
    log = rf"(epicsrs-demo: {folder}/log.txt is not whole: .*File too large\n)?"
    assert re.fullmatch(log + sentence, errors)


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
    output, errors = process.communicate(timeout=LIMIT)
    file.unlink()

    assert (process.returncode, output) == (2, "")
    assert errors == f"epicsrs-demo: {sentence}\n"


@pytest.fixture
def emitted() -> Emitted:
    """A run of one event, with an array and a NaN."""
    bundle = compose_run(metadata={"scan": "example"})
    descriptor = bundle.compose_descriptor(
        name="primary",
        data_keys={
            "spectrum": {"source": "ca://spectrum", "dtype": "array", "shape": [2]},
            "x": {"source": "ca://x", "dtype": "number", "shape": [], "units": "mm"},
        },
    )
    event = descriptor.compose_event(
        data={"spectrum": np.array([1.0, np.nan]), "x": 2.0}, timestamps={"spectrum": np.float64(1.5), "x": 2.5}
    )
    recorder = Recorder()
    for name, doc in [
        ("start", bundle.start_doc),
        ("descriptor", descriptor.descriptor_doc),
        ("event", event),
        ("stop", bundle.compose_stop()),
    ]:
        recorder(name, doc)
    return recorder.runs[0]


class Catalog:
    """What `read_back` asks of a client, with a run's rows in it, to be falsified."""

    def __init__(self, emitted: Emitted) -> None:
        [descriptor], [event] = emitted.named("descriptor"), emitted.named("event")
        self.start, self.stop = copy.deepcopy(emitted.start), copy.deepcopy(emitted.named("stop")[0])
        self.metadata = copy.deepcopy(dict(descriptor))
        self.table = {"seq_num": [1], "time": [event["time"]], "x": [2.0], "ts_x": [2.5], "ts_spectrum": [1.5]}
        self.spectrum = [[1.0, np.nan]]

    def __getitem__(self, key: str) -> "Catalog":
        return self

    def __iter__(self) -> Iterator[str]:
        return iter(["primary"])

    @property
    def base(self) -> dict[str, Any]:
        return {"internal": Part(self.table), "spectrum": Part(np.array(self.spectrum))}


class Part:
    def __init__(self, values: Any) -> None:
        self.values = values

    def read(self) -> Any:
        return self.values


def test_documents_come_back_as_they_were_emitted(emitted: Emitted) -> None:
    stored = read_back(Catalog(emitted), emitted)

    assert np.array_equal(stored.stream("primary").data["spectrum"], [[1.0, np.nan]], equal_nan=True)
    assert stored.stream("primary").timestamps["x"].tolist() == [2.5]
    assert (stored.documents, stored.units("x"), stored.sources) == (4, "mm", {"ca://spectrum", "ca://x"})


@pytest.mark.parametrize(
    ("falsify", "words"),
    [
        (lambda catalog: catalog.start.update(scan="other"), "start, scan"),
        (lambda catalog: catalog.stop.update(exit_status="abort"), "stop, exit_status"),
        (lambda catalog: catalog.metadata["data_keys"]["x"].update(units="m"), "stream primary, data_keys, x, units"),
        (lambda catalog: catalog.table.update(x=[2.1]), "stream primary, x"),
        (lambda catalog: catalog.table.update(ts_x=[2.6]), "stream primary, timestamps of x"),
        (lambda catalog: catalog.table.update(seq_num=[2]), "stream primary, seq_num"),
        (lambda catalog: setattr(catalog, "spectrum", [[1.0, 2.0]]), "stream primary, spectrum"),
    ],
)
def test_what_differs_is_named(emitted: Emitted, falsify: Callable[[Catalog], object], words: str) -> None:
    catalog = Catalog(emitted)
    falsify(catalog)

    with pytest.raises(StoredError, match=f"run example, {words}: "):
        read_back(catalog, emitted)
