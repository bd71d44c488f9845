"""What this process holds: threads, file descriptors, memory."""

import os
import threading
from collections import Counter
from pathlib import Path


def threads() -> Counter[str]:
    """The threads of the process, Python's and others, by name."""
    names: Counter[str] = Counter()
    for task in Path("/proc/self/task").iterdir():
        try:
            names[(task / "comm").read_text().strip()] += 1
        except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
            continue
    # Python 3.14 tells the kernel the names of its threads, older ones do not.
    python = Counter(f"Python thread {thread.name}" for thread in threading.enumerate())
    return Counter({"threads": sum(names.values())}) + python


def descriptors() -> Counter[str]:
    """Open files by what they are; a TCP connection by the port it goes to."""
    sockets: dict[str, str] = {}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            row = line.split()
            peer = int(row[2].rsplit(":")[1], 16)
            sockets[row[9]] = table[:3] + (f" to port {peer}" if table[:3] == "tcp" else " connected" * bool(peer))
    found: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:  # the one we list with
            continue
        if target.startswith("socket:"):
            target = sockets.get(target[8:-1], "socket of another kind")
        elif target.startswith("/"):
            target = "file"
        found[target.split(":[")[0]] += 1
    return found


def growth(before: Counter[str]) -> Counter[str]:
    """What there is now beyond what there was, but for what the client may keep.

    That is one circuit to each server, and the connected sockets of the CA repeater in this process to its own clients.
    """
    now = threads() + descriptors()
    return Counter(
        {
            kind: n - before[kind]
            for kind, n in now.items()
            if n > max(before[kind], 1 if kind.startswith("tcp to") else 0) and kind != "udp connected"
        }
    )


def resident() -> int:
    """Bytes of memory in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
