"""The tutorial's examples do what is written below them."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ioc import HERE, NETWORK, Ioc

TUTORIALS = HERE.parents[2] / "docs/tutorials"


@pytest.fixture(scope="module")
def beamline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ioc]:
    """The IOC that the tutorial has its reader start."""
    ioc = Ioc(NETWORK.iocs[2], tmp_path_factory.mktemp("ioc"), [TUTORIALS / "beamline.db"])
    ioc.start()
    yield ioc
    ioc.kill()


def test_every_example_of_the_native_client_prints_what_the_page_says(beamline: Ioc) -> None:
    # In a process of its own: the page closes the client, and configures another.
    done = subprocess.run(
        [sys.executable, str(HERE / "programs/examples.py"), str(TUTORIALS / "native-client.md")],
        env={**os.environ, **NETWORK.client(beamline.ports)},
        capture_output=True,
        text=True,
        timeout=120.0,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) > 100
