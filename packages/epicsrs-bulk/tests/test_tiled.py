"""Runs in a Tiled catalog come back as they were, over HTTP from a server in a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from epicsrs_bulk import (
    CatalogError,
    DeliveryError,
    FileFlyer,
    JsonLinesTarget,
    LocalCatalog,
    Sink,
    TiledError,
    TiledTarget,
    replay,
)
from ioc import HERE as IOC_TESTS
from tiled_runs import Document, MadeRun

HERE = Path(__file__).parent
EXAMPLES = IOC_TESTS / "programs" / "examples.py"


NUMBER = {"dtype": "number"}
Given = Callable[..., Any]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCatalog]:
    """One server for all tests, which takes its time to start."""
    # A place whose name has to be quoted.
    folder = tmp_path_factory.mktemp("a catalog")
    with LocalCatalog(folder / "runs", readable=[folder]) as catalog:
        yield catalog


@pytest.fixture(scope="module")
def client(catalog: LocalCatalog) -> Any:
    return catalog.client()


@pytest.fixture
def target(client: Any) -> TiledTarget:
    return TiledTarget(client)


@pytest.fixture
def given(target: TiledTarget, client: Any) -> Given:
    """Give a run to the target; what is then in the catalog of its stream."""

    def give(*documents: Document) -> Any:
        for name, doc in documents:
            target(name, doc)
        return client[documents[0][1]["uid"]]["primary"]

    return give


EXTREMES = {
    "i1": [-128, 127, 0],
    "u1": [255, 0, 1],
    "i2": [-32768, 32767, 0],
    "u2": [65535, 0, 1],
    "i4": [-(2**31), 2**31 - 1, 0],
    "u4": [2**32 - 1, 0, 1],
    "i8": [-(2**63), 2**63 - 1, 2**53 + 1],
    "u8": [2**64 - 1, 2**63, 0],
    "f4": [np.nan, -0.0, 1e-45],
    "f8": [np.nan, -np.inf, 5e-324],
    "?": [True, False, True],
}


@pytest.mark.parametrize("single", [False, True], ids=["page", "events"])
def test_each_type_of_value_comes_back_bit_by_bit(given: Given, single: bool) -> None:
    columns = {f"x_{dtype.replace('?', 'b')}": np.array(values, dtype) for dtype, values in EXTREMES.items()}
    run = MadeRun({key: {"dtype": "number", "dtype_numpy": values.dtype.str} for key, values in columns.items()})

    stream = given(*run.with_rows(*(run.events(**columns) if single else [run.page(**columns)])))

    table = stream.base["internal"].read()
    for number, (key, values) in enumerate(columns.items()):
        assert table[key].to_numpy().dtype == values.dtype
        assert table[key].to_numpy().tobytes() == values.tobytes()
        assert table[f"ts_{key}"].tolist() == [row + number / 1000 for row in (1, 2, 3)]
    assert table["seq_num"].tolist() == [1, 2, 3]
    assert table["time"].tolist() == [1.5, 2.5, 3.5]


def test_texts_come_back_and_one_that_is_missing_does_not(given: Given) -> None:
    texts = ["", 'it\'s "µ漢"', None, "x" * 5000]
    run = MadeRun({"state": {"dtype": "string", "dtype_numpy": "|S40"}})

    table = given(*run.with_rows(run.page(state=texts))).base["internal"].read()

    assert table["state"].isna().tolist() == [False, False, True, False]
    assert [text for text in table["state"].tolist() if isinstance(text, str)] == [t for t in texts if t is not None]


@pytest.mark.parametrize("single", [False, True], ids=["page", "events"])
def test_text_that_is_no_utf_8_comes_back_as_latin_1(given: Given, client: Any, single: bool) -> None:
    run = MadeRun({"x": {"dtype": "number", "units": "\udcb0C"}, "name": {"dtype": "string"}}, operator="M\udcfcller")
    columns = {"x": [1.0, 2.0], "name": ["\udcb5m", "漢"]}

    stream = given(*run.with_rows(*(run.events(**columns) if single else [run.page(**columns)])))

    assert stream.base["internal"].read()["name"].tolist() == ["µm", "漢"]
    assert stream.metadata["data_keys"]["x"]["units"] == "°C"
    assert client[run.uid].start["operator"] == "Müller"


def test_rows_are_there_before_the_end_of_a_run(client: Any) -> None:
    run = MadeRun({"x": NUMBER})
    target = TiledTarget(client, batch_rows=2, batch_seconds=60.0)
    for name, doc in [run.start, run.descriptor, *run.events(x=[1.0, 2.0, 3.0])]:
        target(name, doc)

    assert client[run.uid]["primary"]["x"].read().tolist() == [1.0, 2.0]

    target(*run.stop)
    assert client[run.uid]["primary"]["x"].read().tolist() == [1.0, 2.0, 3.0]


def test_rows_do_not_wait_longer_than_asked_for(client: Any) -> None:
    run = MadeRun({"x": NUMBER})
    target = TiledTarget(client, batch_seconds=0.0)
    for name, doc in [run.start, run.descriptor, *run.events(x=[1.0, 2.0])]:
        target(name, doc)

    assert client[run.uid]["primary"]["x"].read().tolist() == [1.0, 2.0]


def test_start_and_stop_are_the_metadata_of_a_run(given: Given, client: Any) -> None:
    run = MadeRun({"x": NUMBER}, plan_name="fly_scan", detector={"share": [0.5, 0.25]}, operator="Zoë")
    documents = run.with_rows(run.page(x=[1.0]))

    given(*documents)

    assert client[run.uid].start == documents[0][1]
    assert client[run.uid].stop == documents[-1][1]
    assert client[run.uid]["primary"].metadata["data_keys"]["x"]["source"] == "ca://x"


def test_keys_that_tiled_has_for_itself_get_an_underscore(given: Given) -> None:
    run = MadeRun({"time": NUMBER, "seq_num": NUMBER, "x": NUMBER})

    table = given(*run.with_rows(run.page(time=[7.0], seq_num=[8.0], x=[9.0]))).base["internal"].read()

    assert table[["seq_num", "time", "time_", "seq_num_", "x"]].to_numpy().tolist() == [[1.0, 1.5, 7.0, 8.0, 9.0]]


def test_more_columns_than_a_table_has(given: Given) -> None:
    keys = [f"c{number:04}" for number in range(1100)]
    run = MadeRun(dict.fromkeys(keys, NUMBER))
    columns = {key: np.array([number, -number], float) for number, key in enumerate(keys)}

    stream = given(*run.with_rows(run.page(**columns)))

    back = stream.read([*keys[::100], "ts_c1099"])
    assert all(back[key].to_numpy().tobytes() == columns[key].tobytes() for key in keys[::100])
    assert back["ts_c1099"].to_numpy().tolist() == [1 + 1099 / 1000, 2 + 1099 / 1000]


def test_names_that_no_table_can_have(given: Given) -> None:
    keys = ["X", "x", "µ", "it's", "1st", "k" * 70, "a (b) = c"]
    run = MadeRun({**dict.fromkeys(keys, NUMBER), "state X": {"dtype": "string"}, "STATE x": {"dtype": "string"}})
    columns = {key: np.array([1.0, 2.0]) * (number + 1) for number, key in enumerate(keys)}
    texts = {"state X": ["on", "off"], "STATE x": ["up", "down"]}

    stream = given(*run.with_rows(run.page(**columns, **texts)))

    for key, values in columns.items():
        assert stream[key].read().tolist() == values.tolist(), key
        assert stream[f"ts_{key}"].read().tolist() == [1 + keys.index(key) / 1000, 2 + keys.index(key) / 1000], key
    assert stream["STATE x"].read().tolist() == ["up", "down"]


@pytest.mark.parametrize("single", [False, True], ids=["page", "events"])
def test_arrays_in_each_row(client: Any, single: bool) -> None:
    arrays = {
        "spectrum": np.linspace(0, 1, 4 * 50, dtype="f4").reshape(4, 50),
        "image": np.arange(4 * 3 * 5, dtype="u2").reshape(4, 3, 5),
        "few": np.array([[2**53 + 1, -1]] * 4),
        "names": np.array([["a", "bc"], ["d", "e"]] * 2),
    }
    run = MadeRun(
        {key: {"dtype": "array", "shape": values.shape[1:]} for key, values in arrays.items()} | {"x": NUMBER}
    )
    target = TiledTarget(client, batch_rows=2)
    rows = [run.events(**arrays, x=np.arange(4.0))] if single else []
    pages = [] if single else [run.page(**{key: values[:3] for key, values in arrays.items()}, x=np.arange(3.0))]
    pages += [] if single else [run.page(**{key: values[3:] for key, values in arrays.items()}, x=[3.0])]

    for name, doc in run.with_rows(*(row for events in rows for row in events), *pages):
        target(name, doc)

    stream = client[run.uid]["primary"]
    for key, values in arrays.items():
        back = stream[key].read()
        assert (back.shape, back.dtype) == (values.shape, values.dtype)
        assert np.array_equal(back, values)
    assert stream["x"].read().tolist() == [0.0, 1.0, 2.0, 3.0]
    # As one dataset as well.
    assert stream.read(["spectrum", "image"])["image"].shape == (4, 3, 5)


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        ({"x": [1, 2]}, {"x": [1.5]}, "stream primary: x: .*1.5.* in a column of int64"),
        ({"x": [[1.0, 2.0]]}, {"x": [[1.0, 2.0, 3.0]]}, r"stream primary: x: rows of shape \(2,\) and \(3,\); Tiled"),
        ({"x": [np.zeros(2), np.zeros(3)]}, {"x": []}, r"stream primary: x: rows of shape \(2,\) and \(3,\); Tiled"),
        ({"x": [[]]}, {"x": []}, "stream primary: x: .*empty"),
        ({"x": [1]}, {"y": [1]}, "stream primary: rows with and without x, y"),
        ({"z": [1]}, {"z": [1]}, "stream primary: z not in its descriptor"),
    ],
)
def test_rows_that_do_not_go_together_are_named(given: Given, first: Any, then: Any, words: str) -> None:
    run = MadeRun({"x": {"dtype": "integer"}, "y": NUMBER})

    with pytest.raises(ValueError, match=words):
        given(run.start, run.descriptor, run.page(**first), run.page(**then))


@pytest.mark.parametrize("single", [False, True], ids=["pages", "events"])
def test_rows_that_grow_fail_the_plan_with_what_to_do_and_stay_in_the_journal(
    client: Any, tmp_path: Path, single: bool
) -> None:
    run = MadeRun({"x": {"dtype": "array", "shape": [2]}})
    target = TiledTarget(client, batch_rows=1)
    pages = [{"x": [[1.0, 2.0]]}, {"x": [[3.0, 4.0, 5.0]]}]
    rows = [document for page in pages for document in (run.events(**page) if single else [run.page(**page)])]
    sink = Sink(target, tmp_path / "journal")

    with pytest.raises(DeliveryError, match=r"x: rows of shape .* same length, or send such runs to MongoTarget"):
        for document in run.with_rows(*rows):
            sink(*document)
    with pytest.raises(DeliveryError, match="whole in the journal"):
        sink.close()
    assert replay(tmp_path / "journal", JsonLinesTarget(tmp_path / "lines")).ok
    [lines] = (tmp_path / "lines").iterdir()
    stored = [json.loads(line) for line in lines.read_text().splitlines()]
    values = [doc["data"]["x"] for name, doc in stored if name.startswith("event")]
    assert values == ([[1.0, 2.0], [3.0, 4.0, 5.0]] if single else [[[1.0, 2.0]], [[3.0, 4.0, 5.0]]])


def test_a_column_that_begins_with_what_was_not_declared_has_the_type_of_that(given: Given) -> None:
    run = MadeRun({"x": {"dtype": "integer"}})

    stream = given(*run.with_rows(run.page(x=[1.5, 2.0]), run.page(x=[3])))

    assert stream["x"].read().tolist() == [1.5, 2.0, 3.0]


def test_a_file_that_documents_announce_is_read_where_it_is_and_stays(
    given: Given, target: TiledTarget, client: Any, catalog: LocalCatalog
) -> None:
    path = catalog.folder.parent / "a file.h5"
    values = np.random.default_rng(1).random(300)
    with h5py.File(path, "x") as file:
        file.create_dataset("counts", data=values, chunks=(100,))
    run = MadeRun({"counts": {**NUMBER, "dtype_numpy": "<f8", "external": "STREAM:"}})
    resource = run.bundle.compose_stream_resource(
        mimetype="application/x-hdf5",
        uri=f"file://localhost{str(path).replace(' ', '%20')}",
        data_key="counts",
        parameters={"dataset": "/counts", "chunk_shape": [100]},
    )
    datum = resource.compose_stream_datum(
        {"start": 0, "stop": 300}, seq_nums={"start": 1, "stop": 301}, descriptor=run.stream.descriptor_doc
    )
    documents = [("stream_resource", dict(resource.stream_resource_doc)), ("stream_datum", dict(datum))]

    stream = given(*run.with_rows(*documents))

    assert stream["counts"].read().tobytes() == values.tobytes()

    target.forget(run.uid)
    assert run.uid not in client
    with h5py.File(path) as file:
        assert len(file["counts"]) == 300


def test_rows_that_refer_to_files_by_resource_and_datum(given: Given, catalog: LocalCatalog) -> None:
    path = catalog.folder.parent / "frames.h5"
    frames = np.arange(2 * 3 * 4, dtype="f8").reshape(2, 3, 4)
    with h5py.File(path, "x") as file:
        file.create_dataset("/entry/data/data", data=frames, chunks=(1, 3, 4))
    run = MadeRun(
        {"x": NUMBER, "image": {"dtype": "array", "dtype_numpy": "<f8", "shape": [3, 4], "external": "FILESTORE:"}}
    )
    resource = run.bundle.compose_resource(
        spec="AD_HDF5", root=str(path.parent), resource_path=path.name, resource_kwargs={"chunk_shape": [1, 3, 4]}
    )
    datums = [resource.compose_datum(datum_kwargs={"point_number": number}) for number in range(2)]
    events = list(run.events(x=[1.0, 2.0], image=[datum["datum_id"] for datum in datums]))
    for _, event in events:
        event["filled"] = {"image": False}
    documents = [("resource", dict(resource.resource_doc)), *(("datum", dict(datum)) for datum in datums), *events]

    stream = given(*run.with_rows(*documents))

    assert stream["x"].read().tolist() == [1.0, 2.0]
    assert stream["image"].read().tolist() == frames.tolist()


def test_a_run_that_is_there_is_refused_until_it_is_forgotten(target: TiledTarget, given: Given, client: Any) -> None:
    run = MadeRun({"x": NUMBER})
    documents = run.with_rows(run.page(x=[1.0, 2.0]))
    given(*documents)

    with pytest.raises(TiledError, match=f"http://.*run {run.uid} is in the catalog already"):
        target(*run.start)

    target.forget(run.uid)
    assert run.uid not in client
    assert given(*documents)["x"].read().tolist() == [1.0, 2.0]
    # One that nobody knows is no error.
    target.forget("nobody")


def test_a_run_that_is_half_written_can_be_written_again(given: Given, target: TiledTarget) -> None:
    run = MadeRun({"x": NUMBER, "s": {"dtype": "array", "shape": [30]}})
    documents = run.with_rows(run.page(x=[1.0], s=np.ones((1, 30))), run.page(x=[2.0], s=np.zeros((1, 30))))
    given(*documents[:3])

    target.forget(run.uid)
    stream = given(*documents)

    assert stream["x"].read().tolist() == [1.0, 2.0]
    assert stream["s"].read().shape == (2, 30)


def test_runs_may_be_interleaved(target: TiledTarget, client: Any) -> None:
    runs = [MadeRun({"x": NUMBER}) for _ in range(2)]
    documents = [run.with_rows(run.page(x=[float(number)])) for number, run in enumerate(runs)]

    for both in zip(*documents, strict=True):
        for name, doc in both:
            target(name, doc)

    assert [client[run.uid]["primary"]["x"].read().tolist() for run in runs] == [[0.0], [1.0]]


def test_a_document_of_no_run_is_named(target: TiledTarget) -> None:
    run = MadeRun({"x": NUMBER})

    with pytest.raises(ValueError, match=f"descriptor {run.descriptor[1]['uid']}: belongs to no run"):
        target(*run.descriptor)


def test_a_wrong_api_key_is_said_to_be_one(catalog: LocalCatalog) -> None:
    with pytest.raises(TiledError, match=f"{catalog.uri}: no connection: the server does not let this API key"):
        TiledTarget(catalog.uri, api_key="wrong").connect()


def test_a_catalog_that_is_served_already_is_named(catalog: LocalCatalog) -> None:
    with pytest.raises(CatalogError, match="is served already"):
        catalog.start()


def test_no_document_is_lost_by_kill_9(catalog: LocalCatalog, client: Any, tmp_path: Path) -> None:
    """Two processes are killed while they write runs, one while it replays them."""
    generator = np.random.default_rng()
    told: list[str] = []
    zygote = subprocess.Popen(
        [sys.executable, HERE / "programs" / "sink_to_tiled.py", catalog.uri, str(tmp_path)],
        env={**os.environ, "TILED_API_KEY": catalog.api_key},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert zygote.stdin is not None and zygote.stdout is not None
    kills: list[int] = []
    for task in ("write", "write", "replay"):
        zygote.stdin.write(f"{task}\n")
        zygote.stdin.flush()
        pid = int(zygote.stdout.readline())
        kills.append(int(generator.integers(1, 5) if task == "replay" else generator.integers(1, 40)))
        told.extend(zygote.stdout.readline().strip() for _ in range(kills[-1]))
        os.kill(pid, signal.SIGKILL)
        # What it has told until then.
        while (line := zygote.stdout.readline()) != "killed\n":
            told.append(line.strip())
    zygote.communicate()

    report = replay(tmp_path, TiledTarget(client))

    assert report.ok, (kills, report)
    written = [line.split() for line in told if line.startswith("took")]
    assert written
    for _, uid, name, rows in written:
        run = client[uid]
        assert run.start["uid"] == uid
        if name == "stop":
            assert run.stop["exit_status"] == "success", kills
        if int(rows):
            assert run["primary"]["x"].read().tolist()[: int(rows)] == list(range(int(rows))), kills
    runs = [client[path.stem] for path in tmp_path.iterdir() if path.stem in client]
    broken_off = [run for run in runs if run.stop["exit_status"] == "fail"]
    # One of each process at most.
    assert len(broken_off) <= 2
    for run in broken_off:
        assert run.stop["reason"].startswith("incomplete")
        rows = run.stop["num_events"].get("primary", 0)
        assert (run["primary"]["x"].read().tolist() if rows else []) == list(range(rows))
    assert {run.outcome for run in replay(tmp_path, TiledTarget(client)).runs} == {"skipped"}


def test_a_sink_delivers_a_run_before_its_stop_returns(client: Any, tmp_path: Path) -> None:
    run = MadeRun({"x": NUMBER})

    with Sink(TiledTarget(client), tmp_path) as sink:
        for name, doc in run.with_rows(run.page(x=np.arange(5.0))):
            sink(name, doc)

        assert client[run.uid]["primary"]["x"].read().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [path.suffix for path in tmp_path.iterdir()] == [".delivered"]


@pytest.mark.usefixtures("three_rows")
def test_a_flight_in_a_file_goes_by_a_run_engine_and_a_sink_into_the_catalog_and_comes_back_equal(
    client: Any, catalog: LocalCatalog, stored: Callable[..., FileFlyer], engine: Any, declared: Any, tmp_path: Path
) -> None:
    device = stored(folder=catalog.folder.parent)

    with Sink(TiledTarget(client), tmp_path, stop_timeout=60.0) as sink:
        (uid,) = engine(declared(device), sink)

    stream = client[uid]["primary"]
    assert client[uid].stop["num_events"] == {"primary": 3}
    with h5py.File(device.path) as file:
        assert set(file) == set(client[uid]["primary"].metadata["data_keys"])
        for key, dataset in file.items():
            back = stream[key].read()
            assert (back.dtype, back.tobytes()) == (dataset.dtype, dataset[()].tobytes()), key
    assert stream["i0"].read().tolist() == [1.5, 2.5, 3.5]
    assert stream["it_valid"].read().tolist() == [True, True, False]


def test_the_page_on_tiled_does_what_it_says(catalog: LocalCatalog, tmp_path: Path) -> None:
    page = HERE.parents[2] / "docs" / "how-to" / "runs-to-tiled.md"

    done = subprocess.run(
        [sys.executable, EXAMPLES, page],
        cwd=tmp_path,
        env={**os.environ, "TILED_URL": catalog.uri, "TILED_API_KEY": catalog.api_key},
        capture_output=True,
        text=True,
        timeout=300.0,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) > 8
