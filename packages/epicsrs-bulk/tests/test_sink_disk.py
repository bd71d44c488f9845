"""A journal folder that is full, read-only, or gone."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epicsrs_bulk import DeliveryError, JournalError, Sink, replay

Document = tuple[str, dict[str, Any]]

START: Document = ("start", {"uid": "run", "time": 1.0})
DESCRIPTOR: Document = ("descriptor", {"uid": "d", "run_start": "run", "time": 2.0, "name": "primary"})
STOP: Document = ("stop", {"uid": "s", "run_start": "run", "time": 9.0, "exit_status": "success"})
ROOM = 128 * 1024


def page(rows: int) -> Document:
    times = np.arange(rows) * 1.0
    return "event_page", {"uid": ["u"] * rows, "descriptor": "d", "time": times, "data": {"x": times}}


class Store(list[Document]):
    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        self.append((name, doc))

    def forget(self, run_uid: str) -> None:
        self.clear()

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 128 KiB: a file system of its own, or a limit to every file of this process."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    if (
        os.geteuid() == 0
        and shutil.which("mount")
        and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    ):
        yield folder
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    else:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, before[1]))
        yield folder
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_fails_the_plan_with_the_journals_name_and_what_was_written_before_is_whole(
    small_disk: Path,
) -> None:
    target = Store()
    sink = Sink(target, small_disk)
    for document in (START, DESCRIPTOR, page(1000)):
        sink(*document)

    with pytest.raises(
        JournalError, match=rf"^{small_disk}/run.journal: event_page not written: .*(space|large)"
    ) as full:
        sink(*page(20_000))
    assert full.value.path == f"{small_disk}/run.journal" and isinstance(full.value.__cause__, OSError)
    # A stop, for which there is room, would make the run look complete.
    with pytest.raises(JournalError, match="event_page not written"):
        sink(*STOP)

    assert sink.health().unjournalled == ("run",)
    with pytest.raises(DeliveryError, match="NOT whole in the journal"):
        sink.close()
    later = Store()
    [report] = replay(small_disk, later).runs
    assert (report.outcome, report.complete, report.unread) == ("delivered", False, 0)
    assert later.names == ["start", "descriptor", "event_page", "stop"]
    assert later[-1][1]["exit_status"] == "fail"


def test_a_degraded_sink_goes_on_to_the_target_when_the_disk_is_full(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = Store()
    with Sink(target, small_disk, on_error="degrade") as sink:
        for document in (START, DESCRIPTOR, page(20_000), page(10), STOP):
            sink(*document)

    assert target.names == ["start", "descriptor", "event_page", "event_page", "stop"]
    assert sink.health().unjournalled == ("run",) and sink.health().delivered == ("run",)
    assert sum("goes to the target without a journal" in record.getMessage() for record in caplog.records) == 1
    assert [path.name for path in small_disk.iterdir()] == ["run.delivered"]


@pytest.mark.parametrize("on_error", ["raise", "degrade"])
def test_a_folder_that_is_gone_is_named_at_the_start_of_a_run(tmp_path: Path, on_error: Any) -> None:
    target, folder = Store(), tmp_path / "journal"
    sink = Sink(target, folder, on_error=on_error)
    shutil.rmtree(folder)

    if on_error == "raise":
        for document in (START, DESCRIPTOR, STOP):
            with pytest.raises(JournalError, match=rf"^{folder}: no journal run.journal: "):
                sink(*document)
        assert not target
        with pytest.raises(DeliveryError, match="NOT whole"):
            sink.close()
    else:
        for document in (START, DESCRIPTOR, STOP):
            sink(*document)
        assert target.names == ["start", "descriptor", "stop"]
        sink.close()


READ_ONLY = """
import os, sys
from epicsrs_bulk import Sink
if os.geteuid() == 0:
    os.seteuid(65534)
Sink(print, sys.argv[1])
"""


def test_a_read_only_folder_is_refused_when_the_sink_is_made(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)

    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(tmp_path)], capture_output=True, text=True, timeout=60.0, check=False
    )

    tmp_path.chmod(0o755)
    assert done.returncode == 1
    assert f"JournalError: {tmp_path}: no journal can be written here: [Errno 13] Permission denied" in done.stderr


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(JournalError, match=f"^{tmp_path}/file/journal: no journal can be written here: "):
        Sink(print, tmp_path / "file/journal")
