"""One IOC with a counter board, for the tests of this package."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from event_model import DocumentNames, schema_validators

from epicsrs_bulk import ClockCounts, Column, WaveformFlyer, close_channels
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


@pytest.fixture(scope="session")
def engine() -> Iterator[RunEngine]:
    """A RunEngine that leaves the signals of this process alone."""
    engine = RunEngine({}, context_managers=[])
    yield engine
    engine.loop.call_soon_threadsafe(engine.loop.stop)


@pytest.fixture
def run(engine: RunEngine) -> Callable[..., list[tuple[str, dict[str, Any]]]]:
    """Run a plan to its end, or to the error it must end with; its documents, each valid by event-model's schemas."""

    def documents_of(plan: Any, error: type[Exception] | None = None) -> list[tuple[str, dict[str, Any]]]:
        documents: list[tuple[str, dict[str, Any]]] = []

        def keep(name: str, doc: dict[str, Any]) -> None:
            schema_validators[DocumentNames[name]].validate(doc)
            documents.append((name, doc))

        with nullcontext() if error is None else pytest.raises(error):
            engine(plan, keep)
        return documents

    return documents_of
