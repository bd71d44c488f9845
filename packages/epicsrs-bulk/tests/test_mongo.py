"""Runs in MongoDB, over the wire, in a server that is an emulator: nx-27017, which keeps its data in SQLite.

It shows what is sent to a server and what comes back; how MongoDB itself would store it, it does not show. It takes
neither NaN nor infinity, which MongoDB does; for these the bytes are looked at.
"""

import os
import re
import runpy
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bluesky.plans as bp
import bson
import numpy as np
import pymongo
import pytest
from bluesky import RunEngine
from event_model import unpack_event_page

from deadline import until
from epicsrs_bulk import (
    AsyncMongoWriter,
    DeliveryError,
    DocumentError,
    MongoTarget,
    Sink,
    replay,
)
from epicsrs_bulk._cli import main  # noqa: PLC2701 (what the entry point calls)
from epicsrs_bulk._mongo import _bson  # noqa: PLC2701 (for what the emulator refuses)
from ioc import free_ports

Document = tuple[str, dict[str, Any]]


class Server:
    """The emulator, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        [port] = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(self.uri)

    @property
    def uri(self) -> str:
        return f"mongodb://{self.address}/?serverSelectionTimeoutMS=5000"

    def start(self) -> None:
        host, port = self.address.split(":")
        program = str(Path(sys.executable).with_name("nx-27017"))
        files = ["--log-file", str(self._folder / "log"), "--pid-file", str(self._folder / "pid")]
        place = ["--data-dir", str(self._folder / "data"), "--host", host, "-p", port]
        self._process = subprocess.Popen(
            [program, *place, *files], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda: self._listens(host, int(port)), 30.0)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @staticmethod
    def _listens(host: str, port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((host, port)) == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mongo"))
    server.start()
    yield server
    server.client.close()
    server.kill()


@pytest.fixture
def database(server: Server, request: pytest.FixtureRequest) -> Any:
    """A database of this test's own."""
    return server.client[re.sub(r"\W", "_", request.node.name)[:60]]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def stored(database: Any, collection: str) -> list[dict[str, Any]]:
    """The documents of a collection, in the order in which they came."""
    return list(database[collection].find({}, {"_id": False}))


def run(uid: str, *, rows: int = 4) -> list[Document]:
    """A run with all kinds of documents."""
    times = np.arange(rows) * 0.5
    data = {
        "f8": times * 1.1,
        "f4": times.astype("f4") / 3,
        "i2": np.arange(rows, dtype="i2") - 2,
        "u4": np.full(rows, 2**32 - 1, "u4"),
        "b": times > 1,
        "s": np.array([f"é{n}" for n in range(rows)]),
        "when": np.datetime64("2026-11-26T18:34:29.000000001") + np.arange(rows),
        "image": np.arange(rows * 6).reshape(rows, 2, 3),
    }
    page = {
        "descriptor": f"{uid}-d",
        "uid": [f"{uid}-row-{n}" for n in range(rows)],
        "seq_num": list(range(1, rows + 1)),
        "time": times.tolist(),
        "data": data,
        "timestamps": dict.fromkeys(data, times),
        "filled": {},
    }
    event = {
        "uid": f"{uid}-event",
        "descriptor": f"{uid}-d",
        "seq_num": rows + 1,
        "time": 7.0,
        "data": {"f8": np.float64(1.5), "f4": np.float32(0.1), "i2": np.int16(-7), "image": np.zeros((2, 3))},
        "timestamps": {},
        "filled": {},
    }
    return [
        ("start", {"uid": uid, "time": 1.0, "scan_id": 1, "shape": (2, 3), "nothing": None, "raw": b"\0\xff"}),
        ("descriptor", {"uid": f"{uid}-d", "run_start": uid, "time": 2.0, "name": "primary", "data_keys": {}}),
        ("event_page", page),
        ("event", event),
        ("resource", {"uid": f"{uid}-r", "run_start": uid, "spec": "X", "resource_kwargs": {}}),
        ("datum", {"datum_id": f"{uid}-r/0", "resource": f"{uid}-r", "datum_kwargs": {"n": np.int64(0)}}),
        ("datum_page", {"datum_id": [f"{uid}-r/1"], "resource": f"{uid}-r", "datum_kwargs": {"n": [1]}}),
        ("stream_resource", {"uid": f"{uid}-sr", "run_start": uid, "uri": "file://localhost/x.h5"}),
        ("stream_datum", {"uid": f"{uid}-sr/0", "stream_resource": f"{uid}-sr", "descriptor": f"{uid}-d"}),
        ("stop", {"uid": f"{uid}-stop", "run_start": uid, "time": 9.0, "exit_status": "success"}),
    ]


def plain(value: Any) -> Any:
    """What a reader gets."""
    if isinstance(value, np.ndarray | np.generic):
        return (value.astype(str) if value.dtype.kind == "M" else value).tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def expected(documents: list[Document]) -> dict[str, list[dict[str, Any]]]:
    """The collections that hold these documents."""
    names = {"start": "run_start", "descriptor": "event_descriptor", "stop": "run_stop"}
    found: dict[str, list[dict[str, Any]]] = {}
    for name, doc in documents:
        if name == "event_page":
            found["event"] = list(unpack_event_page(plain(doc)))
        elif name == "datum_page":
            found["datum"].append({**doc, "datum_id": doc["datum_id"][0], "datum_kwargs": {"n": 1}})
        else:
            found.setdefault(names.get(name, name), []).append(plain(doc))
    return found


def check(database: Any, documents: list[Document]) -> None:
    for collection, docs in expected(documents).items():
        assert stored(database, collection) == docs, collection


def test_a_run_is_stored_whole_with_a_document_for_each_row(server: Server, database: Any, journal: Path) -> None:
    with Sink(MongoTarget(server.uri, database.name), journal) as sink:
        for name, doc in run("a"):
            sink(name, doc)

    check(database, run("a"))
    assert database.event.find_one({"uid": "a-row-3"})["data"]["f4"] == float(np.float32(0.5))
    assert [path.name for path in journal.iterdir()] == ["a.delivered"]


def test_a_scan_of_bluesky_is_stored(server: Server, database: Any, journal: Path, engine: RunEngine) -> None:
    from ophyd.sim import det, motor

    documents: list[Document] = []

    with AsyncMongoWriter(server.uri, database.name, 100, journal_folder=journal) as writer:
        engine(bp.scan([det], motor, -1, 1, 3), [writer, lambda name, doc: documents.append((name, doc))])

        assert stored(database, "run_stop") == [documents[-1][1]]  # when the plan ends, not after a batch
    assert [len(stored(database, name)) for name in ("run_start", "event_descriptor", "event")] == [1, 1, 3]
    events = [doc["data"] for name, doc in documents if name == "event"]
    assert [doc["data"] for doc in stored(database, "event")] == events


def test_a_large_page_is_stored_row_by_row(server: Server, database: Any, journal: Path) -> None:
    rows = 2000
    with Sink(MongoTarget(server.uri, database.name), journal) as sink:
        for name, doc in run("a", rows=rows):
            sink(name, doc)

    assert database.event.count_documents({"descriptor": "a-d"}) == rows + 1
    assert database.event.find_one({"seq_num": rows})["data"]["i2"] == rows - 3


def test_a_server_that_is_down_keeps_runs_in_the_journal_and_a_replay_delivers_them(
    tmp_path: Path, journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(tmp_path)
    uri = f"mongodb://{server.address}/?serverSelectionTimeoutMS=200"
    writer = AsyncMongoWriter(uri, "runs", journal_folder=journal)
    with pytest.raises(DeliveryError, match="did not take start of run a: ServerSelectionTimeoutError"):
        for name, doc in run("a"):
            writer(name, doc)
            if name == "stop":
                pytest.fail("the stop was taken")
    with pytest.raises(DeliveryError):
        writer.close()

    server.start()
    status = main(["replay", str(journal), "--to", f"mongo:{server.address}/runs?serverSelectionTimeoutMS=5000"])

    assert status == 0, capsys.readouterr()
    # Without a stop of its own, if the error came before.
    [start], [stop] = stored(server.client.runs, "run_start"), stored(server.client.runs, "run_stop")
    assert start["uid"] == stop["run_start"] == "a"
    server.client.close()
    server.kill()


def test_a_run_that_is_written_again_is_there_once(server: Server, database: Any, journal: Path) -> None:
    target = MongoTarget(server.uri, database.name)
    with Sink(lambda name, doc: None, journal) as sink:
        for name, doc in [*run("a"), *run("b")]:
            sink(name, doc)
    for name, doc in run("a")[:4]:  # as a writer that was killed leaves it
        target(name, doc)

    for _ in range(2):
        assert replay(journal, target, again=True).ok

    for collection, docs in expected(run("a")).items():
        assert len(stored(database, collection)) == 2 * len(docs), collection
    target.forget("b")
    target.forget("unknown")
    check(database, run("a"))


@pytest.mark.parametrize(
    "value",
    [2**63, np.array([2**63], "u8"), 1j, np.array([1j]), np.array([0.1], "f16"), {1: "key"}, [0, {"deep": 1j}]],
    ids=repr,
)
def test_what_cannot_be_stored_as_it_is_is_refused_with_where_it_is(server: Server, database: Any, value: Any) -> None:
    target = MongoTarget(server.uri, database.name)

    with pytest.raises(DocumentError, match=r"^start a: \['md'\]"):
        target("start", {"uid": "a", "time": 1.0, "md": value})

    assert stored(database, "run_start") == []


def test_text_that_is_no_utf_8_is_sent_as_latin_1() -> None:
    values = {"units": "\udcb0C", "list": ["é", "\udcb5m"], "array": np.array(["\udcb5m", "漢"])}

    back = bson.decode(bson.encode(_bson(values, "")))

    assert back == {"units": "°C", "list": ["é", "µm"], "array": ["µm", "漢"]}


def test_nan_and_infinity_are_sent_as_they_are() -> None:
    values = {"array": np.array([np.nan, np.inf, -np.inf]), "scalar": np.float32("nan"), "list": [float("nan")]}

    back = bson.decode(bson.encode(_bson(values, "")))

    assert np.array_equal(back["array"], values["array"], equal_nan=True)
    assert np.isnan(back["scalar"]) and np.isnan(back["list"][0])


def test_what_the_server_refuses_fails_the_run_and_stays_in_the_journal(
    server: Server, database: Any, journal: Path
) -> None:
    sink = Sink(MongoTarget(server.uri, database.name), journal, on_error="degrade")
    documents = run("a")
    documents[3][1]["data"]["f8"] = float("nan")  # MongoDB would take it
    for name, doc in documents:
        sink(name, doc)

    with pytest.raises(DeliveryError, match="did not take event of run a"):
        sink.close()
    assert [path.name for path in journal.iterdir()] == ["a.journal"]


def test_the_journal_lies_in_the_state_folder_by_default(
    server: Server, database: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    with AsyncMongoWriter(server.uri, database.name) as writer:
        assert writer.health().journal == tmp_path / "epicsrs-bulk" / database.name


def test_a_password_is_not_shown() -> None:
    target = MongoTarget("mongodb://user:secret@localhost:1/", "runs")

    assert "secret" not in repr(target)


@pytest.mark.parametrize("to", ["mongo:localhost:27017", "mongo:http://localhost/runs"])
def test_a_uri_without_sense_is_refused(to: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["replay", "journal", "--to", to])
    assert "names no database" in (err := capsys.readouterr().err) or "no URI of a MongoDB server" in err


def test_the_page_about_mongo_does_what_it_says(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv("MONGO_URI", f"mongodb://{server.address}")
    monkeypatch.setattr(sys, "argv", ["follow.py", "runs-to-mongo.md"])

    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(Path(__file__).parent / "programs/follow.py"))

    assert not end.value.code, capsys.readouterr().out
