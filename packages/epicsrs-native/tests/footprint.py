"""What this process holds: threads, file descriptors, memory."""

import os
import socket
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
    found: Counter[str] = Counter()
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
            if target.startswith("socket:"):
                target = _socket(int(entry))
        except OSError:  # the one we list with, or one that was closed while we looked
            continue
        found["file" if target.startswith("/") else target.split(":[")[0]] += 1
    return found


def _socket(descriptor: int) -> str:
    """What a socket is. The kernel's tables leave out rows, or have them twice, where sockets come and go meanwhile."""
    with socket.socket(fileno=os.dup(descriptor)) as same:
        if same.family not in (socket.AF_INET, socket.AF_INET6):
            return "socket of another kind"
        try:
            peer = int(same.getpeername()[1])
        except OSError:
            peer = 0
        return f"tcp to port {peer}" if same.type == socket.SOCK_STREAM else "udp" + " connected" * bool(peer)


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
