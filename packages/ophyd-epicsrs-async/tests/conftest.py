"""The IOC of this package's tests."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ioc import NETWORK, Ioc

HERE = Path(__file__).parent
T = TypeVar("T")

NETWORK.enter()


@pytest.fixture(scope="session")
def ioc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ioc]:
    ioc = Ioc(NETWORK.iocs[4], tmp_path_factory.mktemp("ioc"), [HERE / "records.db"])
    ioc.start()
    yield ioc
    ioc.kill()


@pytest.fixture
def mortal_ioc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ioc]:
    """An IOC of the test's own, to stop, kill and restart."""
    ioc = Ioc(NETWORK.iocs[2], tmp_path_factory.mktemp("ioc"), [HERE / "records.db"])
    ioc.start()
    yield ioc
    ioc.kill()


@pytest.fixture(params=["ca", "pva"])
def protocol(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Run a coroutine in a loop of its own, in debug mode; nothing may be reported to the loop, no task may be left."""

    def run(coroutine: Coroutine[Any, Any, T]) -> T:
        reported: list[dict[str, Any]] = []

        async def main() -> T:
            asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
            result = await coroutine
            assert asyncio.all_tasks() == {asyncio.current_task()}, "tasks left behind"
            return result

        result = asyncio.run(main(), debug=True)
        assert not reported
        return result

    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A test that fails shows what the IOCs printed."""
    report = yield
    if report.failed:
        for ioc in Ioc.running:
            report.sections.append((f"output of IOC {ioc.prefix}", ioc.output))
    return report
