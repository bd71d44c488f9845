"""A Channel Access server that answers wrongly, each PV in its own way: the name after the prefix says how.

Usage: hostile_ca.py PREFIX PORT
Speaks just enough of the protocol (Channel Access protocol specification, version 4.13) for a search, a channel, reads,
writes and monitors. Each PV has a TCP port of its own, so that one which breaks its circuit disturbs no other.
"""

import asyncio
import itertools
import struct
import sys
from typing import Any

from ca_wire import (
    BAD_TYPE,
    CLEAR,
    CREATE,
    CREATE_FAILED,
    DOUBLE,
    ECHO,
    ENUM,
    ERROR,
    EVENT_ADD,
    EVENT_CANCEL,
    GET_FAILED,
    NORMAL,
    READ,
    RIGHTS,
    SEARCH,
    SERVER_DISCONNECTED,
    STRING,
    VALUE,
    VERSION,
    WRITE,
    WRONG,
    Header,
    body,
    message,
)
from stream import Answers, Stream
from talk import say

prefix, port = sys.argv[1], int(sys.argv[2])


class Circuit(Stream):
    """One client's connection to one PV."""

    async def hear(self) -> tuple[Header, bytes]:
        header = Header(*struct.unpack(">HHHHII", await self.reader.readexactly(16)))
        return header, await self.reader.readexactly(header.size)


def reply(asked: Header, value: float = VALUE, ioid: int = 0) -> bytes:
    """A sane answer to a read; ``ioid`` is added to the number of the request."""
    return message(asked.command, asked.type, 1, NORMAL, asked.second + ioid, body(asked.type, value))


ANSWERS = Answers(reply, lambda asked: reply(asked, WRONG), header=9, payload=26)


@ANSWERS.add
async def fewer_bytes_than_count(circuit: Circuit, asked: Header, n: int) -> None:
    await circuit.send(message(asked.command, asked.type, 10, NORMAL, asked.second, body(asked.type)))


@ANSWERS.add
async def no_payload(circuit: Circuit, asked: Header, n: int) -> None:
    await circuit.send(message(asked.command, asked.type, 1, NORMAL, asked.second))


@ANSWERS.add
async def half_a_time(circuit: Circuit, asked: Header, n: int) -> None:
    await circuit.send(message(asked.command, asked.type, 1, NORMAL, asked.second, bytes(8)))


@ANSWERS.add
async def unknown_type(circuit: Circuit, asked: Header, n: int) -> None:
    await circuit.send(message(asked.command, 99, 1, NORMAL, asked.second, bytes(64)))


@ANSWERS.add
async def another_type(circuit: Circuit, asked: Header, n: int) -> None:
    await circuit.send(message(asked.command, STRING, 1, NORMAL, asked.second, b"3.25".ljust(40, b"\0")))


@ANSWERS.add
async def unknown_status(circuit: Circuit, asked: Header, n: int) -> None:
    await circuit.send(message(asked.command, asked.type, 1, 0xDEADBEE8, asked.second, body(asked.type)))


@ANSWERS.add
async def get_failed(circuit: Circuit, asked: Header, n: int) -> None:
    await circuit.send(message(asked.command, asked.type, 1, GET_FAILED, asked.second))


@ANSWERS.add
async def error_message(circuit: Circuit, asked: Header, n: int) -> None:
    """CA_PROTO_ERROR: the header of the request and words of the server."""
    about = struct.pack(">HHHHII", *asked)
    await circuit.send(message(ERROR, 0, 0, 1, BAD_TYPE, about + b"no such thing\0"))


@ANSWERS.add
async def four_gigabytes(circuit: Circuit, asked: Header, n: int) -> None:
    """An extended header that announces 4 GiB less 8, of which 1 MiB comes."""
    head_ = struct.pack(">HHHHIIII", asked.command, 0xFFFF, asked.type, 0, NORMAL, asked.second, 0xFFFFFFF8, 0x1FFFFFFF)
    await circuit.send(head_ + bytes(2**20))


@ANSWERS.add
async def half_a_gigabyte(circuit: Circuit, asked: Header, n: int) -> None:
    """All of the 512 MiB that an extended header announces."""
    size = 2**29
    head_ = struct.pack(">HHHHIIII", asked.command, 0xFFFF, asked.type, 0, NORMAL, asked.second, size, size // 8 - 2)
    await circuit.send(head_)
    for _ in range(size // 2**20):
        await circuit.send(bytes(2**20))


@ANSWERS.add
async def unknown_request(circuit: Circuit, asked: Header, n: int) -> None:
    """A reply to a request that nobody made."""
    await circuit.send(reply(asked, WRONG, 1000))


@ANSWERS.add
async def unknown_request_first(circuit: Circuit, asked: Header, n: int) -> None:
    await circuit.send(reply(asked, WRONG, 1000) + reply(asked))


@ANSWERS.add
async def twice(circuit: Circuit, asked: Header, n: int) -> None:
    await circuit.send(reply(asked, VALUE + n) + reply(asked, WRONG))


@ANSWERS.add
async def late(circuit: Circuit, asked: Header, n: int) -> None:
    """The first answer comes when it has long been given up, just before the second."""
    if n:
        await circuit.send(reply(asked, WRONG, -1) + reply(asked))


@ANSWERS.add
async def every_other(circuit: Circuit, asked: Header, n: int) -> None:
    """The first, the third and so on, each with its own number of arrival."""
    if n % 2 == 0:
        await circuit.send(reply(asked, n))


@ANSWERS.add
async def hangs_up(circuit: Circuit, asked: Header, n: int) -> None:
    """After two answers; later circuits are sane."""
    if n == 2:
        raise ConnectionAbortedError
    await circuit.send(reply(asked, n))


@ANSWERS.add
async def by_turns(circuit: Circuit, asked: Header, n: int) -> None:
    """Each way in its turn."""
    ways = ["sane", "get_failed", "error_message", "unknown_request_first", "twice", "another_type", "no_payload"]
    await ANSWERS[ways[n % len(ways)]](circuit, asked, n)


waiting: list[Header] = []


@ANSWERS.add
async def backwards(circuit: Circuit, asked: Header, n: int) -> None:
    """Three requests, the last answered first; each with its own number of arrival."""
    waiting.append(asked)
    if len(waiting) == 3:
        for number in (2, 1, 0):
            await circuit.send(reply(waiting[number], number))
        waiting.clear()


@ANSWERS.add
async def unknown_command(circuit: Circuit, asked: Header, n: int) -> None:
    await circuit.send(message(77, 1, 2, 3, 4, bytes(24)) + reply(asked))


@ANSWERS.add
async def gone(circuit: Circuit, asked: Header, n: int) -> None:
    """The first read is answered by the end of the channel, whose circuit stays."""
    await circuit.send(reply(asked) if n else message(SERVER_DISCONNECTED, 0, 0, CID))


CID = 0
TYPES = {"strings": STRING, "labels": ENUM, "unknown_native_type": 99}


class Behaviour:
    """One PV: its TCP port, and what it does there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reads = itertools.count()
        self.searches = itertools.count()
        self.port = 0

    def answers_search(self) -> bool:
        """Every search but the first for one of them."""
        return next(self.searches) > 0 or self.name != "first_search_lost"

    async def listen(self) -> None:
        server = await asyncio.start_server(self.serve, "127.0.0.1")
        self.port = server.sockets[0].getsockname()[1]
        self.server = server

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        circuit = Circuit(reader, writer)
        try:
            if self.name == "black_hole":
                await reader.read(-1)
            await circuit.send(message(VERSION, 0, 13))
            while True:
                await self.answer(circuit, *await circuit.hear())
        except (ConnectionError, asyncio.IncompleteReadError):
            circuit.finish()

    async def answer(self, circuit: Circuit, asked: Header, payload: bytes) -> None:
        global CID  # noqa: PLW0603 (one channel a PV)
        if asked.command == CREATE:
            CID = asked.first
            if self.name == "refused":
                await circuit.send(message(CREATE_FAILED, 0, 0, asked.first))
                return
            await circuit.send(message(RIGHTS, 0, 0, asked.first, 3))
            native = TYPES.get(self.name, DOUBLE)
            count = 10 if self.name == "fewer_bytes_than_count" else 1
            await circuit.send(message(CREATE, native, count, asked.first, 1))
        elif asked.command in (READ, EVENT_ADD):
            await ANSWERS.get(self.name, ANSWERS["sane"])(circuit, asked, next(self.reads))
        elif asked.command == EVENT_CANCEL:
            await circuit.send(message(EVENT_ADD, asked.type, 0, asked.first, asked.second))
        elif asked.command == WRITE:
            await circuit.send(message(WRITE, asked.type, asked.count, NORMAL, asked.second))
        elif asked.command == CLEAR:
            await circuit.send(message(CLEAR, 0, 0, asked.first, asked.second))
        elif asked.command == ECHO:
            await circuit.send(message(ECHO))


behaviours: dict[str, Behaviour] = {}


class Searches(asyncio.DatagramProtocol):
    """Answers the searches for PVs of the prefix."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        while len(data) >= 16:
            header = Header(*struct.unpack(">HHHHII", data[:16]))
            payload, data = data[16 : 16 + header.size], data[16 + header.size :]
            name = payload.rstrip(b"\0").decode()
            if header.command == SEARCH and name.startswith(prefix):
                behaviour = behaviours.get(name.removeprefix(prefix))
                if behaviour is not None and behaviour.answers_search():
                    version = struct.pack(">H", 13)
                    found = message(SEARCH, behaviour.port, 0, 0xFFFFFFFF, header.first, version)
                    self.transport.sendto(message(VERSION, 0, 13) + found, addr)


async def main() -> None:
    for name in [*ANSWERS, *TYPES, "black_hole", "refused", "first_search_lost"]:
        behaviours[name] = Behaviour(name)
        await behaviours[name].listen()
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Searches, ("127.0.0.1", port))
    say("ready")
    await asyncio.Event().wait()


asyncio.run(main())
