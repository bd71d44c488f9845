import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from ophyd import EpicsSignal, EpicsSignalRO


@pytest.fixture
def run(layer):
    """Run a plan to its end; its documents by name."""
    engine, documents = RunEngine({}), {}
    engine.subscribe(lambda name, document: documents.setdefault(name, []).append(document))

    def run(plan):
        documents.clear()
        engine(plan)
        return documents

    return run


def test_count(ioc, protocol, make, run):
    records = ("double", "choice", "string", "partial")
    detectors = [make(EpicsSignalRO, ioc.pv(record, protocol), name=record) for record in records]
    for detector in detectors:
        detector.wait_for_connection(timeout=5.0)

    documents = run(bp.count(detectors, num=3))

    assert documents["stop"][0]["exit_status"] == "success"
    assert len(documents["event"]) == 3
    data = documents["event"][0]["data"]
    assert (data["double"], data["choice"], data["string"]) == (3.25, 1, "hello")
    assert list(data["partial"]) == [1.5, 2.5, 3.5]
    keys = documents["descriptor"][0]["data_keys"]
    assert keys["double"]["units"] == "mbar"
    assert keys["choice"]["enum_strs"] == ("Idle", "Moving", "Fault")


def test_scan(ioc, protocol, make, run, stage):
    detector = make(EpicsSignalRO, ioc.pv("stage_RBV", protocol), name="detector")
    detector.wait_for_connection(timeout=5.0)

    documents = run(bp.scan([detector], stage, -1.0, 1.0, 5))

    assert [event["data"]["detector"] for event in documents["event"]] == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert [event["data"]["stage_readback"] for event in documents["event"]] == [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_moves_of_one_plan_step_run_together(ioc, protocol, make, run):
    signals = [
        make(EpicsSignal, ioc.pv(f"{name}.A", protocol), name=name, put_complete=True) for name in ("slow_a", "slow_b")
    ]

    for signal in signals:
        signal.wait_for_connection(timeout=5.0)

    def plan():
        yield from bps.mv(signals[0], 3, signals[1], 4)
        assert (yield from bps.rd(signals[0])) == 3.0
        assert (yield from bps.rd(signals[1])) == 4.0

    run(plan())


def test_a_monitor_is_a_stream_of_events(ioc, protocol, make, run):
    counter = make(EpicsSignalRO, ioc.pv("counter", protocol), name="counter")
    counter.wait_for_connection(timeout=5.0)

    def plan():
        yield from bps.open_run()
        yield from bps.monitor(counter, name="monitor")
        yield from bps.sleep(0.5)
        yield from bps.unmonitor(counter)
        yield from bps.close_run()

    events = [(event["timestamps"]["counter"], event["data"]["counter"]) for event in run(plan())["event"]]
    # A record that processes in the moment of the subscription is sent twice: as its present value, and as its new one.
    if events[0] == events[1]:
        del events[0]
    values = [value for _, value in events]

    assert len(values) >= 3
    assert values == list(range(int(values[0]), int(values[0]) + len(values)))


def test_a_plan_fails_with_the_reason_of_a_refused_put(ioc, protocol, make, run):
    locked = make(EpicsSignal, ioc.pv("locked", protocol), name="locked", put_complete=True)
    locked.wait_for_connection(timeout=5.0)

    with pytest.raises(Exception, match="locked") as failed:
        run(bps.mv(locked, 1))
    assert "RemoteError" in repr(failed.value.__cause__) + repr(failed.value)
