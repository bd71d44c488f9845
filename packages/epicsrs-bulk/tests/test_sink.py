"""A sink between a plan and a target that takes its documents, is slow, refuses them, or is down."""

import logging
import os
import sys
import threading
import uuid
from collections import UserDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from bluesky import RunEngine

from deadline import Stopwatch, until
from epicsrs_bulk import (
    CallbackTarget,
    DeliveryError,
    DeliveryTimeoutError,
    DocumentError,
    JournalError,
    JsonLinesTarget,
    Sink,
    SinkError,
    Target,
    replay,
)
from epicsrs_bulk._journal import JournalReader  # noqa: PLC2701 (whether it is locked)

Document = tuple[str, dict[str, Any]]


class Store:
    """A target that keeps what it takes, and does with it what a test wants."""

    def __init__(self, act: Callable[[str, dict[str, Any]], object] = lambda name, doc: None) -> None:
        self.documents: list[Document] = []
        self.act = act
        self.threads: set[str] = set()
        self.flushed: list[float] = []
        self.closed = False

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        self.threads.add(threading.current_thread().name)
        self.act(name, doc)
        self.documents.append((name, doc))

    def forget(self, run_uid: str) -> None:
        self.documents = [(name, doc) for name, doc in self.documents if doc.get("run_start", doc["uid"]) != run_uid]

    def flush(self, timeout: float) -> None:
        self.flushed.append(timeout)

    def close(self) -> None:
        self.closed = True

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.documents]


class Down(Store):
    """A target that refuses until it is told otherwise."""

    def __init__(self) -> None:
        super().__init__(self.refuse)
        self.down = True

    def refuse(self, name: str, doc: dict[str, Any]) -> None:
        if self.down:
            raise ConnectionError("nobody there")


class Stuck(Store):
    """A target that does not return from an event or a page before it is let go."""

    def __init__(self) -> None:
        super().__init__(self.wait)
        self.let_go = threading.Event()

    def wait(self, name: str, doc: dict[str, Any]) -> None:
        if name.startswith("event"):
            assert self.let_go.wait(30.0)


class Run:
    """The documents of one run, one by one."""

    def __init__(self) -> None:
        self.uid = str(uuid.uuid4())
        self.stream = f"{self.uid}-primary"
        self.start: Document = ("start", {"uid": self.uid, "time": 1.0})
        self.descriptor: Document = (
            "descriptor",
            {"uid": self.stream, "run_start": self.uid, "name": "primary", "time": 2.0, "data_keys": {}},
        )
        self.stop: Document = (
            "stop",
            {"uid": f"{self.uid}-stop", "run_start": self.uid, "time": 9.0, "exit_status": "success"},
        )

    def event(self, **data: Any) -> Document:
        return "event", {"uid": str(uuid.uuid4()), "descriptor": self.stream, "time": 3.0, "seq_num": 1, "data": data}

    def documents(self, events: int = 2) -> list[Document]:
        return [self.start, self.descriptor, *(self.event(x=n) for n in range(events)), self.stop]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def sink(journal: Path) -> Iterator[Callable[..., Sink]]:
    """Make a sink; what is left of it at the end is thrown away."""
    made: list[Sink] = []

    def make(target: Any, **options: Any) -> Sink:
        made.append(Sink(target, journal, **options))
        return made[-1]

    yield make
    for sink in made:
        try:
            sink.close(1.0)
        except SinkError:
            assert sink.health().closed


def feed(sink: Sink, documents: list[Document]) -> None:
    for name, doc in documents:
        sink(name, doc)


def journalled(journal: Path) -> list[Document]:
    """All that a replay of everything would deliver."""
    found: list[Document] = []
    assert not any(run.error for run in replay(journal, lambda name, doc: found.append((name, doc)), again=True).runs)
    return found


Make = Callable[..., Sink]


def test_a_run_is_in_the_target_and_marked_once_its_stop_has_been_taken(sink: Make, journal: Path) -> None:
    target, run = Store(), Run()
    taker = sink(target, stop_timeout=17.0)

    feed(taker, run.documents())

    assert target.documents == run.documents()[:2] + target.documents[2:4] + [run.stop]
    assert target.flushed == [17.0]
    assert [path.name for path in journal.iterdir()] == [f"{run.uid}.delivered"]
    health = taker.health()
    assert health.delivered == (run.uid,) and health.documents == 5
    assert (health.queued, health.queued_bytes, health.started, health.error) == (0, 0, (), None)
    assert health.journal == journal


def test_the_target_is_used_and_closed_in_one_thread_of_the_sinks_own(sink: Make) -> None:
    target = Store()
    taker = sink(target)

    feed(taker, Run().documents())
    taker.close()

    [thread] = target.threads
    assert thread.startswith("epicsrs-bulk sink") and target.closed
    assert thread not in {thread.name for thread in threading.enumerate()}


def test_the_target_gets_the_document_as_it_was_when_it_was_taken(sink: Make) -> None:
    target, run = Stuck(), Run()
    taker = sink(target)
    feed(taker, [run.start, run.descriptor])
    name, doc = run.event(x=np.arange(3), y=[1])

    taker(name, doc)
    doc["data"]["x"][:] = -1
    doc["data"]["y"].append(2)
    target.let_go.set()
    taker(*run.stop)

    data = target.documents[2][1]["data"]
    assert data["x"].tolist() == [0, 1, 2] and data["y"] == [1]
    with pytest.raises(ValueError, match="read-only"):
        data["x"][0] = 5


def test_runs_may_be_interleaved(sink: Make) -> None:
    target, first, second = Store(), Run(), Run()
    taker = sink(target)

    feed(taker, [first.start, second.start, second.descriptor, first.descriptor, first.event(x=1), first.stop])
    assert taker.health().started == (second.uid,)
    feed(taker, [second.event(x=2), second.stop])

    assert taker.health().delivered == (first.uid, second.uid)
    assert target.names == ["start", "start", "descriptor", "descriptor", "event", "stop", "event", "stop"]


def test_resources_and_their_data_go_with_their_run(sink: Make) -> None:
    target, run = Store(), Run()
    uids = {"run_start": run.uid, "descriptor": run.stream}
    documents: list[Document] = [
        run.start,
        run.descriptor,
        ("resource", {"uid": "r", **uids}),
        ("datum", {"datum_id": "r/0", "resource": "r"}),
        ("datum_page", {"datum_id": ["r/1"], "resource": "r"}),
        ("stream_resource", {"uid": "s", **uids}),
        ("stream_datum", {"uid": "s/0", "stream_resource": "s", "descriptor": run.stream}),
        run.stop,
    ]

    feed(sink(target), documents)

    assert target.documents == documents


def test_an_error_of_the_target_is_raised_at_each_document_until_the_stop_and_the_next_run_is_delivered(
    sink: Make, journal: Path
) -> None:
    target, run, later = Down(), Run(), Run()
    taker = sink(target)

    # The worker may refuse the start before or after its call has returned.
    until(lambda: _raises(DeliveryError, lambda: taker(*(run.start if not taker.health().started else run.descriptor))))
    for document in (run.event(x=1), run.event(x=2), run.stop):
        with pytest.raises(
            DeliveryError, match=rf"did not take start of run {run.uid}: ConnectionError: nobody"
        ) as error:
            taker(*document)
        assert isinstance(error.value.__cause__, ConnectionError)
    assert list(taker.health().undelivered) == [run.uid] and taker.health().error is not None

    target.down = False
    feed(taker, later.documents())
    assert taker.health().delivered == (later.uid,)
    with pytest.raises(DeliveryError, match=rf"1 runs not delivered: .*{run.uid}.*\(whole in the journal\)"):
        taker.flush()
    with pytest.raises(DeliveryError, match="1 runs not delivered"):
        taker.close()

    assert replay(journal, target).ok
    assert [doc["uid"] for name, doc in target.documents if name == "start"] == [later.uid, run.uid]


def _raises(kind: type[Exception], call: Callable[[], object]) -> bool:
    try:
        call()
    except kind:
        return True
    return False


def test_the_stop_of_a_refused_run_waits_until_its_journal_can_be_replayed(sink: Make, journal: Path) -> None:
    refused, other = Run(), Run()
    let_go = threading.Event()

    def act(name: str, doc: dict[str, Any]) -> None:
        if doc["uid"] == refused.uid:
            raise ConnectionError("nobody there")
        if name == "event":
            assert let_go.wait(30.0)

    taker = sink(Store(act))

    def stop() -> bool:
        with pytest.raises(DeliveryError, match=f"did not take start of run {refused.uid}"):
            taker(*refused.stop)
        with JournalReader(journal / f"{refused.uid}.journal") as reader:
            return reader.in_use()

    taker(*refused.start)
    until(lambda: taker.health().error)
    assert _raises(DeliveryError, lambda: taker(*refused.descriptor))
    feed(taker, [other.start, other.descriptor, other.event(x=1)])
    until(lambda: "event" in (taker.health().delivering or ""))
    with ThreadPoolExecutor(1) as pool:
        in_use = pool.submit(stop)
        until(lambda: taker.health().queued == 2)
        let_go.set()
        assert not in_use.result(30.0)


def test_a_plan_fails_of_a_target_that_is_down_and_the_journal_has_its_run(
    sink: Make, journal: Path, engine: RunEngine
) -> None:
    target = Down()
    taker = sink(target)

    with pytest.raises(DeliveryError, match="ConnectionError: nobody there"):
        engine(_counting_until(lambda: taker.health().error), taker)

    assert [path.suffix for path in journal.iterdir()] == [".journal"]
    target.down = False
    assert replay(journal, target).ok
    assert target.names[:2] == ["start", "descriptor"] and target.names[-1] == "stop"
    assert target.documents[-1][1]["exit_status"] == "fail"


def _counting_until(condition: Callable[[], object]) -> Any:
    from ophyd.sim import det

    yield from bps.open_run()
    yield from bps.declare_stream(det, name="primary")
    until(condition)
    yield from bps.trigger_and_read([det])
    yield from bps.close_run()


def test_a_plan_goes_on_with_a_degraded_sink_and_its_run_is_replayed(
    sink: Make, journal: Path, engine: RunEngine, caplog: pytest.LogCaptureFixture
) -> None:
    from ophyd.sim import det

    target = Down()
    taker = sink(target, on_error="degrade")

    with caplog.at_level(logging.ERROR, "epicsrs.bulk"):
        engine(bp.count([det], 3), taker)

    [uid] = taker.health().undelivered
    assert len([record for record in caplog.records if uid in record.getMessage()]) == 1
    with pytest.raises(DeliveryError, match=uid):
        taker.flush()
    target.down = False
    assert replay(journal, target).ok
    assert target.names == ["start", "descriptor", "event", "event", "event", "stop"]
    assert target.documents[-1][1]["exit_status"] == "success"


def test_a_full_queue_holds_the_plan_for_so_long_then_fails_it_and_says_why(sink: Make, journal: Path) -> None:
    target, run = Stuck(), Run()
    taker = sink(target, max_bytes=2500, queue_timeout=0.2)
    feed(taker, [run.start, run.descriptor, run.event(x=bytes(900)), run.event(x=bytes(900))])
    until(lambda: taker.health().queued == 2)
    watch = Stopwatch()

    with pytest.raises(DeliveryTimeoutError, match=rf"no room .* within 0.2 s: .* taking event of run {run.uid} for"):
        taker(*run.event(x=bytes(900)))

    assert watch.elapsed >= 0.2
    assert taker.health().queued == 2 and 1800 < taker.health().queued_bytes <= 2500
    with pytest.raises(DeliveryTimeoutError):
        taker(*run.stop)
    target.let_go.set()
    until(lambda: not taker.health().queued)
    # Nothing after the gap was given to the target, and the run is not marked.
    assert "stop" not in target.names and not list(journal.glob("*.delivered"))
    assert [name for name, _ in journalled(journal)] == ["start", "descriptor", "event", "event", "event", "stop"]


def test_a_document_larger_than_the_queue_is_let_in_alone(sink: Make) -> None:
    target, run = Store(), Run()
    taker = sink(target, max_bytes=1000, queue_timeout=20.0)

    feed(taker, [run.start, run.descriptor, run.event(x=bytes(50_000)), run.stop])

    assert len(target.documents[2][1]["data"]["x"]) == 50_000


def test_a_target_too_slow_for_the_stop_is_told_of_and_the_run_is_delivered_later(sink: Make) -> None:
    target, run = Stuck(), Run()
    taker = sink(target, stop_timeout=0.1)
    feed(taker, [run.start, run.descriptor, run.event(x=1)])

    with pytest.raises(
        DeliveryTimeoutError, match=rf"{run.uid}: not delivered within 0.1 s, goes on in the background"
    ):
        taker(*run.stop)
    with pytest.raises(DeliveryTimeoutError, match=r"not delivered within 0.1 s: .* taking event of run"):
        taker.flush(0.1)
    target.let_go.set()
    taker.flush()

    assert taker.health().delivered == (run.uid,)


def test_what_fails_after_its_stop_is_raised_at_the_next_document_once(sink: Make) -> None:
    target, run, later = Stuck(), Run(), Run()
    taker = sink(target, stop_timeout=0.0)
    with pytest.raises(DeliveryTimeoutError):
        feed(taker, run.documents(events=1))
    target.act = lambda name, doc: 1 / 0 if doc.get("run_start") == run.uid else None
    target.let_go.set()
    until(lambda: taker.health().error)

    with pytest.raises(DeliveryError, match=f"stop of run {run.uid}: ZeroDivisionError"):
        taker(*later.start)
    taker(*later.descriptor)


def test_what_fails_after_its_stop_is_told_run_by_run(sink: Make) -> None:
    def refuse(name: str, doc: dict[str, Any]) -> None:
        if doc.get("run_start") in refused:
            assert let_go.wait(30.0)
            raise ConnectionError("too late")

    refused, let_go = list[str](), threading.Event()
    taker, runs, later = sink(Store(refuse), stop_timeout=0.0), [Run(), Run()], Run()
    refused += [run.uid for run in runs]
    for run in runs:
        taker(*run.start)
        with pytest.raises(DeliveryTimeoutError):
            taker(*run.stop)
    let_go.set()
    until(lambda: len(taker.health().undelivered) == 2)

    for run, document in zip(runs, later.documents(), strict=False):
        with pytest.raises(DeliveryError, match=f"of run {run.uid}: ConnectionError: too late"):
            taker(*document)
    taker(*later.event(x=1))


def test_to_close_does_not_wait_for_a_stop_that_waits(sink: Make) -> None:
    target, run = Stuck(), Run()
    taker = sink(target, stop_timeout=60.0)
    feed(taker, run.documents()[:-1])
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(taker, *run.stop)
        # Its start and descriptor are delivered, its events and its stop are not.
        until(lambda: taker.health().queued == 3 and not taker.health().started)
        watch = Stopwatch()
        with pytest.raises(DeliveryTimeoutError, match=r"within 0\.2 s"):
            taker.close(0.2)
        assert watch.elapsed < 5.0
        target.let_go.set()
        stopping.result(30.0)


def test_a_callback_that_exits_fails_its_run_and_not_the_worker(sink: Make) -> None:
    run, later = Run(), Run()
    target = Store(lambda name, doc: sys.exit(5) if doc["uid"] == run.uid else None)
    taker = sink(target)

    with pytest.raises(DeliveryError, match="SystemExit: 5"):
        feed(taker, run.documents())
    if taker.health().started:
        with pytest.raises(DeliveryError):
            taker(*run.stop)
    feed(taker, later.documents())

    assert taker.health().delivered == (later.uid,)


@pytest.mark.parametrize("on_error", ["raise", "degrade"])
def test_a_document_that_cannot_be_written_is_quarantined_by_name(sink: Make, journal: Path, on_error: str) -> None:
    target, run, later = Store(), Run(), Run()
    taker = sink(target, on_error=on_error)
    feed(taker, [run.start, run.descriptor, run.event(x=1)])
    name, poison = run.event(x=2, where=Path("/data"))

    documents = [(name, poison), run.event(x=3), run.stop]
    failed = [_raises(DocumentError, partial(taker, *document)) for document in documents]
    assert failed == [on_error == "raise"] * 3

    health = taker.health()
    assert health.quarantined == (f"event {poison['uid']}",)
    assert "['data']['where'] cannot be written: PosixPath('/data')" in health.undelivered[run.uid]
    assert "stop" not in target.names
    feed(taker, later.documents())
    assert taker.health().delivered == (later.uid,)

    again = Store()
    report = replay(journal, again)
    assert not report.ok
    [of_run] = [report for report in report.runs if report.run_uid == run.uid]
    assert of_run.outcome == "delivered" and of_run.quarantined == (f"event {poison['uid']}",) and of_run.complete
    # All that came before and after it.
    assert again.names == ["start", "descriptor", "event", "event", "stop"]
    assert [doc["data"]["x"] for name, doc in again.documents if name == "event"] == [1, 3]


def test_ctrl_c_while_a_document_is_taken_leaves_no_gap_that_looks_complete(sink: Make, journal: Path) -> None:
    class Interrupted(UserDict[str, Any]):
        raised = False

        def __iter__(self) -> Iterator[str]:
            if not self.raised:
                self.raised = True
                raise KeyboardInterrupt
            return super().__iter__()

    target, run = Store(), Run()
    taker = sink(target)
    feed(taker, [run.start, run.descriptor])

    with pytest.raises(KeyboardInterrupt):
        taker("event", {**run.event(x=1)[1], "data": Interrupted()})
    with pytest.raises(DeliveryError, match="taking it was broken off by KeyboardInterrupt"):
        taker(*run.stop)

    assert "stop" not in target.names and taker.health().unjournalled == ()
    assert not replay(journal, target).ok


@pytest.mark.parametrize(
    "document",
    [
        ("event", {"uid": "e", "descriptor": "unknown"}),
        ("stop", {"uid": "s", "run_start": "unknown"}),
        ("start", {"time": 1.0}),
        ("start", {"uid": ""}),
        ("bulk_events", {}),
        ("nonsense", {"uid": "n"}),
    ],
    ids=str,
)
def test_a_document_of_no_run_is_refused_and_kept_aside(sink: Make, journal: Path, document: Document) -> None:
    target, run = Store(), Run()
    taker = sink(target)

    with pytest.raises(DocumentError):
        taker(*document)
    feed(taker, run.documents())

    assert target.names == ["start", "descriptor", "event", "event", "stop"]
    assert len(list(journal.glob("*.stray"))) == 1 and len(taker.health().quarantined) == 1


def test_a_run_that_is_in_the_folder_already_is_refused(sink: Make, journal: Path) -> None:
    target, run = Store(), Run()
    taker = sink(target)
    feed(taker, run.documents())

    with pytest.raises(JournalError, match=rf"{journal}: no journal {run.uid}.journal: .*delivered is there"):
        taker(*run.start)

    assert len(target.documents) == 5


def test_a_closed_sink_takes_nothing_and_says_so(sink: Make) -> None:
    taker = sink(Store())
    taker.close()
    taker.close()

    with pytest.raises(SinkError, match="is closed: start not taken"):
        taker(*Run().start)


def test_close_gives_up_after_its_timeout_and_the_journal_stays(sink: Make, journal: Path) -> None:
    target, run = Stuck(), Run()
    taker = sink(target)
    feed(taker, [run.start, run.descriptor, run.event(x=1)])

    with pytest.raises(DeliveryTimeoutError):
        taker.close(0.1)

    # The target may still write, so nobody else does.
    assert [report.outcome for report in replay(journal, Store()).runs] == ["in use"]
    target.let_go.set()
    until(lambda: replay(journal, Store()).ok)


def test_a_with_block_closes_and_raises_what_is_not_delivered(journal: Path) -> None:
    with pytest.raises(DeliveryError, match="nobody there"), Sink(Down(), journal, on_error="degrade") as taker:
        feed(taker, Run().documents())

    assert taker.health().closed


def test_an_error_of_closing_the_target_is_raised(sink: Make) -> None:
    target = Store()
    target.close = lambda: 1 / 0
    taker = sink(target)

    with pytest.raises(DeliveryError, match="closing the target"):
        taker.close()


def test_a_run_without_a_stop_stays_undelivered_when_the_sink_is_closed(sink: Make, journal: Path) -> None:
    target, run = Store(), Run()
    taker = sink(target)
    feed(taker, run.documents()[:-1])

    taker.close()

    assert target.names == ["start", "descriptor", "event", "event"]
    assert replay(journal, target).ok
    assert target.documents[-1][1]["exit_status"] == "fail"


def test_runs_of_before_are_told_of(sink: Make, journal: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run()
    first = sink(Store())
    feed(first, run.documents()[:-1])
    first.close()

    sink(Store())

    assert f"1 runs of before are not delivered (epicsrs-bulk replay): {run.uid}" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 0}, "max_bytes"),
        ({"queue_timeout": -1.0}, "queue_timeout"),
        ({"stop_timeout": float("nan")}, "stop_timeout"),
        ({"on_error": "ignore"}, "on_error"),
    ],
)
def test_options_without_sense_are_refused(sink: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sink(Store(), **options)


def test_a_target_has_to_be_callable(sink: Make) -> None:
    with pytest.raises(TypeError, match="not callable"):
        sink("nothing")


def test_targets_are_targets(tmp_path: Path) -> None:
    for target in (Store(), JsonLinesTarget(tmp_path), CallbackTarget(print)):
        assert isinstance(target, Target)


def test_a_forked_child_neither_writes_nor_holds_its_parents_journals(sink: Make, journal: Path) -> None:
    taker, run = sink(Store()), Run()
    feed(taker, [run.start, run.descriptor])
    ready, stay = os.pipe(), os.pipe()

    if (child := os.fork()) == 0:
        refused = _raises(SinkError, lambda: taker(*run.stop))
        os.write(ready[1], b"x")
        os.close(stay[1])
        os.read(stay[0], 1)
        os._exit(0 if refused else 1)
    os.read(ready[0], 1)
    taker.close()
    report = replay(journal, Store())
    os.close(stay[1])

    assert os.waitpid(child, 0)[1] == 0
    assert report.ok and report.count("delivered") == 1
    for end in (*ready, stay[0]):
        os.close(end)
