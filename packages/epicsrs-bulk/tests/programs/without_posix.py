"""A sink and a replay in a Python that has only what Windows has; prints what became of each run.

`msvcrt.locking` is one that locks a byte of a file of Linux.
"""

# First of all, as the standard library knows a Windows by its modules.
import asyncio  # noqa: F401
import fcntl
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

for name in ("fork", "register_at_fork", "O_DIRECTORY", "O_CLOEXEC", "posix_fallocate", "getuid", "geteuid"):
    delattr(os, name)
for module in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[module] = None  # pyright: ignore[reportArgumentType] (import then raises)


class Msvcrt(ModuleType):
    LK_UNLCK, LK_NBLCK = 0, 2

    @staticmethod
    def locking(fd: int, mode: int, size: int) -> None:
        place = os.lseek(fd, 0, os.SEEK_CUR)
        assert size == 1 and place > 2**30
        # By the open file, as Windows does it.
        fcntl.flock(fd, {0: fcntl.LOCK_UN, 2: fcntl.LOCK_EX | fcntl.LOCK_NB}[mode])


sys.modules["msvcrt"] = Msvcrt("msvcrt")

import epicsrs_bulk  # noqa: E402
from epicsrs_bulk import (  # noqa: E402
    _journal,  # noqa: PLC2701
    _replay,  # noqa: PLC2701
)

# Windows gives no other name to a file that is open.
_journal.RENAMES_OPEN_FILES = _replay.RENAMES_OPEN_FILES = False

folder = Path(sys.argv[1])
documents: list[str] = []


def down(name: str, doc: dict[str, Any]) -> None:
    if doc["uid"] == "second":
        raise ConnectionError("down")
    documents.append(name)


def open_files() -> list[str]:
    links = [Path("/proc/self/fd") / fd for fd in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if link.is_symlink()]


rename = Path.rename


def renamed(self: Path, target: Path) -> Path:
    assert str(self) not in open_files()
    return rename(self, target)


Path.rename = renamed
sink = epicsrs_bulk.Sink(down, folder, on_error="degrade")
for uid in ("first", "second", "third"):
    sink("start", {"uid": uid, "time": 1.0})
    if uid != "third":
        sink("stop", {"uid": f"{uid} stop", "run_start": uid, "time": 2.0, "exit_status": "success"})
with suppress(epicsrs_bulk.DeliveryError):
    sink.flush()
print([run.outcome for run in epicsrs_bulk.replay(folder, print).runs if run.run_uid == "third"])
with suppress(epicsrs_bulk.DeliveryError):
    sink.close()
report = epicsrs_bulk.replay(folder, lambda name, _: documents.append(name))
print(sorted((run.run_uid, run.outcome) for run in report.runs))
print(sorted(path.name for path in folder.iterdir()), documents.count("start"))
