"""A script of programs/ in a process of its own."""

import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from deadline import Stopwatch

PYTHON = (sys.executable,)
PROGRAMS = Path(__file__).parent / "programs"


class Ending(NamedTuple):
    """How a program ended, and how long that took from the moment we waited for it."""

    code: int
    errors: str
    seconds: float


class Program:
    """A running script; it and the test talk in lines of JSON (programs/talk.py).

    Args:
        script: Its name in programs/.
        arguments: What follows on its command line.
        environment: All of its environment, where that is not the test's.
        command: What runs it, where that is not this Python.
    """

    def __init__(
        self,
        script: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = PYTHON,
    ) -> None:
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [*command, str(PROGRAMS / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            stream.close()

    @property
    def errors(self) -> str:
        """What it has printed to stderr."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def hear(self, timeout: float = 20.0) -> Any:
        """The next thing it says; AssertionError with its stderr when it ends or is silent."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"silent for {timeout} s; stderr:\n{self.errors}") from None
        assert line, f"it ended; stderr:\n{self.errors}"
        return json.loads(line)

    def say(self, message: Any = "go") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def finish(self, timeout: float = 20.0) -> Ending:
        """Wait for its end."""
        watch = Stopwatch()
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s; stderr:\n{self.errors}") from None
        return Ending(code, self.errors, watch.elapsed)
