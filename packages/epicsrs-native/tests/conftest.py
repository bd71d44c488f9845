"""One run: its ports, its IOCs, its client, and the check that a test leaves nothing behind."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy  # noqa: F401  (its threads, if any, are there before we count ours)
import pytest

from deadline import until
from epicsrs_native import Delivery, caught_panic_count, get_delivery
from footprint import descriptors, growth, threads
from ioc import NETWORK, Ioc

NETWORK.enter()


@pytest.fixture(scope="session")
def ioc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ioc]:
    """The IOC of most tests; it runs from first to last."""
    ioc = Ioc(NETWORK.iocs[0], tmp_path_factory.mktemp("ioc"))
    ioc.start()
    yield ioc
    ioc.kill()


@pytest.fixture(scope="session")
def second_ioc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ioc]:
    """An IOC that tests may freeze."""
    ioc = Ioc(NETWORK.iocs[1], tmp_path_factory.mktemp("ioc"))
    ioc.start()
    yield ioc
    ioc.kill()


@pytest.fixture
def mortal_ioc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ioc]:
    """An IOC of the test's own, to stop, kill and restart; no client has ever seen its PVs."""
    ioc = Ioc(NETWORK.iocs[2], tmp_path_factory.mktemp("ioc"))
    ioc.start()
    yield ioc
    ioc.kill()


@pytest.fixture(params=["ca", "pva"])
def protocol(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run one operation through either twin."""

    def run(operation: Callable[..., Any], *args: object, **kwargs: object) -> Any:
        if request.param == "sync":
            return operation(*args, **kwargs)

        async def main() -> Any:
            twin = getattr(operation.__self__, f"{operation.__name__}_async")
            try:
                return await twin(*args, **kwargs)
            finally:
                assert asyncio.all_tasks() == {asyncio.current_task()}, "tasks left behind"

        return asyncio.run(main())

    return run


@pytest.fixture
def lane() -> Iterator[Delivery]:
    """A Delivery of the test's own, drained by a thread of its own."""
    delivery = Delivery("lane")
    thread = threading.Thread(target=delivery.run, name="lane", daemon=True)
    thread.start()
    yield delivery
    delivery.close()
    thread.join(5.0)
    assert not thread.is_alive(), "a closed Delivery goes on running"


@pytest.fixture(scope="session")
def warm_client(ioc: Ioc) -> None:
    """The client with everything it keeps for good: its threads, its sockets, the default Delivery."""
    updates: list[object] = []
    for protocol in ("ca", "pva"):
        channel = ioc.channel("counter", protocol)
        channel.get()
        subscription = channel.monitor(updates.append)
        until(lambda: updates)
        subscription.close()
    # The CA client starts a repeater of its own, a second after it has found none.
    until(NETWORK.has_repeater, 15.0)
    assert get_delivery() is not None
    # What is there by now stays: each test's collection looks at what is newer only.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_left_behind(warm_client: None) -> Iterator[None]:
    """A test closes what it opens; no thread, no descriptor, no panic stays."""
    gc.collect()
    before = threads() + descriptors()
    panics = caught_panic_count()
    yield
    for channel in Ioc.opened:
        if not channel.closed:
            channel.close()
    Ioc.opened.clear()
    # A loop that was closed with calls under way is garbage when they are through, not before.
    until(lambda: gc.collect() >= 0 and not growth(before), what=partial(growth, before))
    assert caught_panic_count() == panics, "a panic was caught"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A test that fails shows what the IOCs printed."""
    report = yield
    if report.failed:
        for ioc in Ioc.running:
            report.sections.append((f"output of IOC {ioc.prefix}", ioc.output))
    return report
