"""One IOC with a counter board, for the tests of this package."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import bluesky.plan_stubs as bps
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus
from event_model import DocumentNames, schema_validators

from deadline import until
from epicsrs_bulk import ClockCounts, Column, FileFlyer, RecordTime, WaveformFlyer, close_channels
from ioc import NETWORK, Ioc

HERE = Path(__file__).parent

NETWORK.enter()


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ioc]:
    """The IOC of most tests; it runs from first to last."""
    ioc = Ioc(NETWORK.iocs[5], tmp_path_factory.mktemp("ioc"), [HERE / "records.db"])
    ioc.start()
    yield ioc
    close_channels()
    ioc.kill()


@pytest.fixture
def measure(board: Ioc) -> Callable[..., None]:
    """Say what the counter board will have measured after its next flight."""

    def put(**sources: Any) -> None:
        for name, values in sources.items():
            board.channel(f"{name}_source").put(values)

    return put


@pytest.fixture
def flyer(board: Ioc) -> Callable[..., WaveformFlyer]:
    """A flyer of the counter board: three detectors, a clock of 1 MHz, and what a test wants otherwise."""
    usual: dict[str, Any] = {
        "columns": [
            Column(board.pv("i0"), "i0"),
            Column(board.pv("it", "pva"), "it", units="counts"),
            Column(board.pv("encoder"), "encoder", np.int32, fill=-1),
        ],
        "times": ClockCounts(board.pv("clock"), 1e6),
        "done": (board.pv("busy"), "Done"),
        "start": [(board.pv("start"), 1)],
        "disarm": [(board.pv("abort"), 1)],
        "timeout": 10.0,
    }

    def make(**options: Any) -> WaveformFlyer:
        return WaveformFlyer("board", **{**usual, **options})

    return make


@pytest.fixture
def filled(board: Ioc) -> Callable[[], bool]:
    """Whether a flight that is busy for as long as a test wants has measured its rows."""
    i0, busy = board.channel("i0"), board.channel("manual_busy")

    def ask() -> bool:
        measured, began = i0.get().timestamp_ns, busy.get().timestamp_ns
        assert measured is not None and began is not None
        return measured > began

    return ask


@pytest.fixture
def three_rows(board: Ioc, measure: Callable[..., None]) -> None:
    """The board is at rest, and will measure three rows; of one column only two."""
    measure(clock=[1000, 1000, 1000], i0=[1.5, 2.5, 3.5], it=[4.0, 5.0], encoder=[-1, 0, 1])
    board.channel("abort").put(0)
    board.channel("manual_busy").put(0)
    # A flight that the test before has left behind goes on by itself.
    busy = board.channel("busy")
    until(lambda: busy.get().value == 0)


@pytest.fixture
def stored(flyer: Callable[..., WaveformFlyer], tmp_path: Path) -> Callable[..., FileFlyer]:
    """The same flyer with its rows in a file."""

    def make(folder: Any = tmp_path, **options: Any) -> FileFlyer:
        device = flyer(**options).stored_in(folder)
        assert isinstance(device, FileFlyer)
        return device

    return make


@pytest.fixture
def endless_options(board: Ioc) -> dict[str, Any]:
    """Of a flight that never ends by itself: the start makes it busy, and has one row measured."""
    return {
        "columns": [Column(board.pv("i0"), "i0")],
        "times": RecordTime(board.pv("i0")),
        "start": [(board.pv("manual_busy"), 1), (board.pv("fill.PROC"), 1)],
        "done": (board.pv("manual_busy"), 0),
        "disarm": [(board.pv("abort"), 1), (board.pv("manual_busy"), 0)],
    }


@pytest.fixture
def endless_stored(endless_options: dict[str, Any], stored: Callable[..., FileFlyer]) -> Callable[..., FileFlyer]:
    """A flyer of files with such a flight."""
    return lambda **options: stored(**{**endless_options, **options})


@pytest.fixture
def forgetful() -> Callable[[Any], Any]:
    """A plan that does not collect."""

    def plan(device: Any) -> Any:
        yield from bps.open_run()
        yield from bps.kickoff(device, wait=True)
        yield from bps.complete(device, wait=True)
        yield from bps.close_run()

    return plan


@pytest.fixture(scope="session")
def engine() -> Iterator[RunEngine]:
    """A RunEngine that leaves the signals of this process alone."""
    engine = RunEngine({}, context_managers=[])
    yield engine
    engine.loop.call_soon_threadsafe(engine.loop.stop)


class Documents(list[tuple[str, dict[str, Any]]]):
    """What a plan has emitted, and the error that it ended with."""

    error: BaseException | None = None

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The documents of one kind."""
        return [doc for name, doc in self if name == kind]

    def announced(self, key: str) -> list[tuple[int, int]]:
        """The ranges of rows that the StreamDatums of one column announce, one after the other."""
        uids = [doc["uid"] for doc in self.of("stream_resource") if doc["data_key"] == key]
        found = [doc["indices"] for doc in self.of("stream_datum") if [doc["stream_resource"]] == uids]
        return [(indices["start"], indices["stop"]) for indices in found]

    def stored(self) -> dict[str, Any]:
        """The columns that StreamDatums announce, read by nothing but the documents."""
        import h5py

        columns: dict[str, list[Any]] = {}
        resources = {doc["uid"]: doc for doc in self.of("stream_resource")}
        for datum in self.of("stream_datum"):
            resource, rows = resources[datum["stream_resource"]], datum["indices"]
            with h5py.File(urlparse(resource["uri"]).path) as file:
                part = file[resource["parameters"]["dataset"]][rows["start"] : rows["stop"]]
            columns.setdefault(resource["data_key"], []).append(part)
        return {key: np.concatenate(parts) for key, parts in columns.items()}

    @property
    def keep(self) -> Callable[[str, dict[str, Any]], None]:
        """Takes one more, which has to be valid by event-model's schema.

        A function: bluesky holds the methods of objects weakly, and trips when one is collected while it unsubscribes.
        """

        def take(name: str, doc: dict[str, Any]) -> None:
            schema_validators[DocumentNames[name]].validate(doc)
            self.append((name, doc))

        return take


@pytest.fixture
def documents() -> Documents:
    """For plans that are interrupted, where `run` does not return."""
    return Documents()


@pytest.fixture
def run(engine: RunEngine) -> Callable[..., Documents]:
    """Run a plan to its end, or to the error it must end with: for a failed status, what it failed of."""

    def documents_of(plan: Any, error: type[Exception] | None = None) -> Documents:
        documents = Documents()
        if error is None:
            engine(plan, documents.keep)
            return documents
        with pytest.raises((error, FailedStatus)) as caught:
            engine(plan, documents.keep)
        documents.error = caught.value.__cause__ if isinstance(caught.value, FailedStatus) else caught.value
        assert type(documents.error) is error
        return documents

    return documents_of


@pytest.fixture
def declared() -> Callable[..., Any]:
    """A plan that declares the stream of a flyer; steps are taken while it flies."""

    def plan(device: Any, steps: Callable[[], object] = lambda: None) -> Any:
        yield from bps.open_run()
        yield from bps.declare_stream(device, name="primary", collect=True)
        yield from bps.kickoff(device, wait=True)
        yield from bps.complete(device, group="flight")
        steps()
        yield from bps.wait("flight")
        yield from bps.collect(device, return_payload=False)
        yield from bps.close_run()

    return plan
