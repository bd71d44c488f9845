"""A client in a process of its own, with the environment it was started with, told line by line what to do.

Usage: client.py
Hears [verb, argument...] and says the answer: ["returned", what] or ["raised", class, message].
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from talk import say

from epicsrs_native import Channel, EnumValue, Reading, caught_panic_count, get_context, get_delivery


class Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[str, str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append((record.name, record.levelname, record.getMessage()))


records = Records()
logging.getLogger("epicsrs").addHandler(records)
get_delivery()
channels: dict[str, Channel] = {}
values: dict[str, list[Any]] = {}
edges: dict[str, list[bool]] = {}
kept: list[object] = []


def channel(pv: str) -> Channel:
    if pv not in channels:
        channels[pv] = get_context().channel(pv)
    return channels[pv]


def plain(value: Any) -> Any:
    """As JSON has it: an enum is its label, an array its dtype and elements."""
    if isinstance(value, EnumValue):
        return value.label
    return [str(value.dtype), value.tolist()] if isinstance(value, np.ndarray) else value


def get(pv: str, timeout: float = 5.0) -> Any:
    return plain(channel(pv).get(timeout=timeout).value)


def units(pv: str) -> Any:
    metadata = channel(pv).get(form="ctrl").metadata
    return None if metadata is None else metadata.units


def put(pv: str, value: Any) -> None:
    channel(pv).put(value)


def info(pv: str) -> Any:
    found = channel(pv).info()
    return {"address": found.address, "type": found.type, "count": found.count, "circuit": found.circuit}


def watch(pv: str, timeout: float = 5.0) -> None:
    """Wait until it is connected, and monitor it and its connection from there."""

    def update(reading: Reading) -> None:
        values[pv].append(plain(reading.value))

    channel(pv).connect(timeout=timeout)
    values[pv], edges[pv] = [], []
    kept.append(channel(pv).on_connection(edges[pv].append))
    kept.append(channel(pv).monitor(update, timeout=timeout))


def seen(pv: str) -> Any:
    return {"values": values[pv], "edges": edges[pv]}


def mine(table: str) -> list[list[str]]:
    """The rows of /proc/net/TABLE for the sockets of this process."""
    held = {os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if os.path.lexists(entry)}
    rows = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return [row for row in rows if f"socket:[{row[9]}]" in held]


def listening() -> list[str]:
    """The addresses where it accepts TCP connections, in hexadecimal."""
    return [row[1] for table in ("tcp", "tcp6") for row in mine(table) if row[3] == "0A"]


def datagrams() -> list[str]:
    """The addresses of its UDP sockets, in hexadecimal."""
    return [row[1] for table in ("udp", "udp6") for row in mine(table)]


def log() -> Any:
    return records.kept


VERBS = {
    verb.__name__: verb for verb in (get, put, units, info, watch, seen, listening, datagrams, log, caught_panic_count)
}

say("ready")
for line in sys.stdin:
    verb, *arguments = json.loads(line)
    try:
        say(["returned", VERBS[verb](*arguments)])
    except Exception as error:
        say(["raised", type(error).__name__, str(error)])
