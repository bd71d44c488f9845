"""What becomes of queued documents when a process ends."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from epicsrs_bulk import JsonLinesTarget, replay

PROGRAM = Path(__file__).parent / "programs/sink_at_exit.py"


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    """A process with documents in the queue of its sink."""
    started: list[subprocess.Popen[str]] = []

    def start(how: str) -> "subprocess.Popen[str]":
        command = [sys.executable, str(PROGRAM), how, str(tmp_path)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "queued\n"
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.communicate()


@pytest.mark.parametrize(
    ("how", "status"), [("end", 0), ("error", 1), ("terminated", 128 + signal.SIGTERM), ("handled", 7)]
)
def test_an_exit_waits_for_the_target(
    process: Callable[[str], "subprocess.Popen[str]"], how: str, status: int, tmp_path: Path
) -> None:
    child = process(how)
    if status > 1:
        child.terminate()

    _, errors = child.communicate(timeout=60.0)

    assert child.returncode == status, errors
    assert len((tmp_path / "out/run.jsonl.part").read_text().splitlines()) == 32
    assert [path.name for path in (tmp_path / "journal").iterdir()] == ["run.journal"]


@pytest.mark.parametrize(("how", "status"), [("left", -signal.SIGTERM), ("stuck", 0)])
def test_what_the_target_has_not_taken_when_the_process_ends_is_replayed(
    process: Callable[[str], "subprocess.Popen[str]"], how: str, status: int, tmp_path: Path
) -> None:
    child = process(how)
    if how == "left":
        child.terminate()

    _, errors = child.communicate(timeout=60.0)

    assert child.returncode == status
    assert ("at exit: Sink(" in errors) == (how == "stuck"), errors
    assert replay(tmp_path / "journal", JsonLinesTarget(tmp_path / "out")).ok
    assert len((tmp_path / "out/run.jsonl").read_text().splitlines()) == 33
