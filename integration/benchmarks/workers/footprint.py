"""What this process holds in memory, in bytes."""

import os
from pathlib import Path


def resident() -> int:
    """What it holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def resident_peak() -> int:
    """The most it has held until now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def threads() -> int:
    """Its threads besides the main one."""
    return len(os.listdir("/proc/self/task")) - 1
