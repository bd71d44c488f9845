"""A catalog's server that does not come, or ends; and targets without one."""

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deadline import Stopwatch, until
from epicsrs_bulk import CatalogError, LocalCatalog, TiledError, TiledTarget


def test_a_folder_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(CatalogError, match=r"file/catalog: no catalog: Not a directory"):
        LocalCatalog(tmp_path / "file" / "catalog").start()


@pytest.mark.slow  # all of tiled is imported to hear it
def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    catalog = LocalCatalog(tmp_path)
    (tmp_path / "catalog.db").write_text("no database")

    with pytest.raises(CatalogError, match=r"the server ended, status [1-9].*not a database"):
        catalog.start().wait()
    catalog.stop()


def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from epicsrs_bulk import LocalCatalog; catalog = LocalCatalog(sys.argv[1]).start(); "
        "print(catalog.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = int(parent.stdout.readline())
    assert Path(f"/proc/{server}").exists()

    parent.send_signal(signal.SIGKILL)
    parent.communicate()

    until(lambda: not Path(f"/proc/{server}/exe").exists(), 30.0)


def test_a_catalog_that_was_not_started_is_named(tmp_path: Path) -> None:
    catalog = LocalCatalog(tmp_path)

    for ask in (lambda: catalog.uri, lambda: catalog.pid, catalog.client, catalog.wait):
        with pytest.raises(CatalogError, match="is not served; start"):
            ask()
    assert not catalog.serving
    catalog.stop()


@pytest.mark.parametrize("key", ["with-hyphen", "", "schlüssel"])
def test_an_api_key_that_tiled_does_not_take_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="letters and digits"):
        LocalCatalog(tmp_path, api_key=key)


def test_a_server_that_is_down_is_named_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        clock = Stopwatch()
        with pytest.raises(TiledError, match=f"{url}/api/v1: cannot be reached: .*refused"):
            TiledTarget(f"{url}/api/v1?api_key=secret").connect()
    assert clock.elapsed < 5.0


@pytest.mark.parametrize("catalog", ["127.0.0.1:8000", "ftp://host", "http://", "catalog.db"])
def test_what_is_no_url_is_refused(catalog: str) -> None:
    with pytest.raises(ValueError, match="a catalog is at a URL like http://host:8000, not"):
        TiledTarget(catalog)


@pytest.mark.parametrize(
    ("options", "error"), [({"batch_rows": 0}, ValueError), ({"batch_seconds": np.nan}, ValueError)]
)
def test_a_batch_that_makes_no_sense_is_refused(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="batch_"):
        TiledTarget("http://127.0.0.1:8000", **options)


def test_what_is_no_catalog_is_refused() -> None:
    with pytest.raises(TypeError, match="not 8000"):
        TiledTarget(8000)
