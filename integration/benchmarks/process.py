"""A client's process: tasks go in, figures come out."""

import json
import select
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import environments

Figures = dict[str, float]
Task = dict[str, Any]

# Beyond the longest task; a client that hangs is reported and killed.
TASK_LIMIT = 60.0
END_LIMIT = 3.0


class TaskError(RuntimeError):
    """The client could not do the task; the message is the client's own."""


class NoAnswerError(TaskError):
    """The client has not answered in time."""


class Process(Protocol):
    """What a row's loop needs of a client."""

    def run(self, task: Task) -> Figures: ...
    def end(self) -> None: ...


def start(client: str, epics: dict[str, str], log: Path, layer: str = environments.NATIVE) -> Process:
    """The process of one client, which finds the IOC of ``epics``."""
    return RawProcess(client, epics) if client in environments.RAW else WorkerProcess(client, epics, log, layer)


class WorkerProcess:
    """A Python worker, alive for all repetitions of a row."""

    def __init__(self, client: str, epics: dict[str, str], log: Path, layer: str = environments.NATIVE) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                environments.worker(client, layer),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=environments.variables(epics),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, task: Task) -> Figures:
        """Send one task and wait for its figures."""
        self.send(json.dumps(task))
        return self.figures(TASK_LIMIT)

    def send(self, line: str) -> None:
        """Write one line to the worker."""
        if self._process.stdin is None or self._process.poll() is not None:
            raise TaskError(self._last_words())
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def figures(self, limit: float) -> Figures:
        """The next answer's figures."""
        answer = self.answer(limit)
        if "error" in answer:
            raise TaskError(answer["error"])
        return answer["figures"]

    def answer(self, limit: float) -> Task:
        """The next line from the worker, within ``limit`` seconds."""
        pipe = self._process.stdout
        if pipe is None or not select.select([pipe], [], [], limit)[0]:
            self.end()
            raise NoAnswerError(f"no answer within {limit:g} s")
        line = pipe.readline()
        if not line:
            raise TaskError(self._last_words())
        return json.loads(line)

    def _last_words(self) -> str:
        code = self._process.wait(END_LIMIT)
        said = self._log.read_text(errors="replace").splitlines() or [""]
        return f"the worker ended with code {code}: {said[-1]}"

    def end(self) -> None:
        """Ask the worker to leave, then make it."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class RawProcess:
    """A compiled client: one process per task, so that each is placed on a core anew."""

    def __init__(self, client: str, epics: dict[str, str]) -> None:
        self._command = command(client, epics)

    def run(self, task: Task) -> Figures:
        """Run the program once."""
        pv = task["pv"].partition("://")[2]
        match task["task"]:
            case "get":
                arguments = ["get", pv, task["count"], round(task.get("gap", 0) * 1e6)]
            case "put":
                arguments = ["put", pv, task["count"]]
            case "puts":
                arguments = ["puts", pv, task["count"], 1]
            case "bulk":
                arguments = ["bulk", pv, task["size"], task["calls"]]
            case "delivered":
                arguments = ["monitor", pv, task["seconds"]]
            case other:
                raise TaskError(f"no {other} in the raw client")
        line = [*self._command, *map(str, arguments)]
        result = subprocess.run(line, capture_output=True, text=True, timeout=TASK_LIMIT, check=False)
        if result.returncode:
            raise TaskError(result.stderr.strip())
        return json.loads(result.stdout)

    def end(self) -> None:
        """Nothing runs between two tasks."""


class Source:
    """The raw client as a steady writer into one record, for as long as the ``with`` block lasts."""

    # Longer than any task; the block's end stops it.
    SECONDS = 600

    def __init__(self, epics: dict[str, str], pv: str, rate: int) -> None:
        self._command = [*command("raw_ca", epics), "write", pv, str(rate), str(self.SECONDS)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def command(client: str, epics: dict[str, str]) -> list[str]:
    """A raw client's program with the IOC's address."""
    port = epics["EPICS_CA_SERVER_PORT"] if client == "raw_ca" else epics["EPICS_PVAS_SERVER_PORT"]
    return [str(environments.program(client)), "127.0.0.1", port]
