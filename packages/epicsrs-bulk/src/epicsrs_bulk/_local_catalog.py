"""A Tiled catalog that needs no administrator: a server of one's own, on this machine and for this process."""

# tiled has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

# How uvicorn, which serves for tiled, says where.
_SERVING = re.compile(r"running on \S*?(http://127\.0\.0\.1:\d+)")
# Seconds between two looks at what it says.
_PAUSE = 0.05


class CatalogError(RuntimeError):
    """The server of a local catalog did not start, or has ended; the message ends with what it said last."""


class LocalCatalog:
    """A folder with a Tiled catalog in it, served on a free port of 127.0.0.1 from `start` to `stop`, or in a `with`.

    In the folder are ``catalog.db`` (SQLite: runs and their metadata), ``tables.duckdb`` (rows), ``arrays``, and
    ``server.log``. A folder that is there already is served again, with what it holds. One server at a time.

    The server is a process of its own, which imports some hundred modules before it serves: 5 to 30 s. `start` does
    not wait for that. It ends with `stop`, or as soon as this process is gone, whatever ended it; a terminal's Ctrl-C
    does not reach it.

    Args:
        folder: Of the catalog, made where it is missing.
        readable: Folders with files that documents point to; what lies elsewhere the server does not open.
        api_key: Letters and digits; one that nobody knows unless given.
        port: A free one unless given.

    Raises:
        ImportError: tiled's server is not installed.
        ValueError: The API key has other characters; Tiled takes none of them.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        readable: Sequence[str | os.PathLike[str]] = (),
        api_key: str | None = None,
        port: int = 0,
    ) -> None:
        if find_spec("uvicorn") is None or find_spec("duckdb") is None:
            raise ImportError("LocalCatalog needs Tiled's server; pip install 'tiled[server]' brings it")
        if api_key is not None and not (api_key.isascii() and api_key.isalnum()):
            raise ValueError("an API key of Tiled has letters and digits only")
        self.folder = Path(folder).absolute()
        self.api_key = api_key if api_key is not None else secrets.token_hex(16)
        self._readable = [Path(path).absolute() for path in readable]
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._uri = ""

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.folder / "server.log"

    @property
    def pid(self) -> int:
        """The server's process.

        Raises:
            CatalogError: It was not started.
        """
        return self._running().pid

    @property
    def serving(self) -> bool:
        """Whether it serves by now."""
        if self._process is None:
            return False
        if not self._uri and (found := _SERVING.search(self._said())):
            self._uri = found[1]
        return bool(self._uri)

    @property
    def uri(self) -> str:
        """Its URL; known once it serves."""
        self.wait()
        return self._uri

    @property
    def command(self) -> str:
        """A shell command that serves the same catalog, to whoever is on this machine."""
        return shlex.join(["tiled", "serve", "catalog", str(self._database), *self._storage(), "--public"])

    def start(self) -> Self:
        """Start the server and return at once.

        Raises:
            CatalogError: It runs already, or the folder cannot be written to.
        """
        if self._process is not None:
            raise CatalogError(f"{self.folder} is served already")
        try:
            (self.folder / "arrays").mkdir(parents=True, exist_ok=True)
            log = self.log.open("wb")
        except OSError as error:
            raise CatalogError(f"{self.folder}: no catalog: {error.strerror}") from error
        # -P: beside the script are modules of this package.
        python = [sys.executable, "-P", str(Path(__file__).with_name("_catalog_process.py"))]
        with log:
            self._process = subprocess.Popen(
                [*python, f"sqlite:///{self._database}", *self._storage(), "--port", str(self._port)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TILED_SINGLE_USER_API_KEY": self.api_key},
                process_group=0,
            )
        self._uri = ""
        return self

    def wait(self, timeout: float = 300.0) -> Self:
        """Wait until it serves; the time is for a machine that is busy, a server that ends is not waited for.

        Raises:
            CatalogError: It was not started, has ended, or does not serve within ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while not self.serving:
            process = self._running()
            if process.poll() is not None:
                raise CatalogError(f"{self.folder}: the server ended, status {process.returncode}: {self._end()}")
            if time.monotonic() > deadline:
                raise CatalogError(f"{self.folder}: the server does not serve within {timeout:g} s: {self._end()}")
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PAUSE)
        return self

    def client(self) -> Any:
        """A tiled client of the catalog, once it serves; ``TiledTarget(catalog.client)`` calls it when it has to."""
        self.wait()
        from tiled.client import from_uri

        return from_uri(self._uri, api_key=self.api_key)

    def stop(self, timeout: float = 10.0) -> None:
        """End the server; by force where it does not end within ``timeout`` seconds."""
        process, self._process = self._process, None
        self._uri = ""
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            if process.stdin is not None:
                process.stdin.close()

    def __enter__(self) -> Self:
        self.start()
        try:
            return self.wait()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"LocalCatalog({str(self.folder)!r})"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise CatalogError(f"{self.folder} is not served; start() comes first")
        return self._process

    @property
    def _database(self) -> Path:
        return self.folder / "catalog.db"

    def _storage(self) -> list[str]:
        options = ["--write", str(self.folder / "arrays"), "--write", f"duckdb:///{self.folder / 'tables.duckdb'}"]
        for path in self._readable:
            options += ["--read", str(path)]
        return options

    def _said(self) -> str:
        return re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(errors="replace"))

    def _end(self) -> str:
        return " ".join(self._said()[-1000:].split()) or "nothing was said"
