"""One IOC with a counter board, for the tests of this package."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from epicsrs_bulk import close_channels
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
