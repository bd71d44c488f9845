"""A pvAccess server that answers wrongly, each PV in its own way: the name after the prefix says how.

Usage: hostile_pva.py PREFIX PORT
Speaks just enough of the protocol (pvAccess protocol specification, version 1) for a search, a channel, gets and
monitors. Each PV has a TCP port of its own, so that one which breaks its connection disturbs no other.
"""

import asyncio
import itertools
import struct
import sys
from typing import Any

from pva_wire import (
    CREATE,
    DESTROY,
    DOUBLE,
    ECHO,
    FOUND,
    GET,
    GET_FIELD,
    INIT,
    MONITOR,
    OK,
    REST,
    SEARCH,
    STRING,
    VALIDATED,
    VALIDATION,
    VALUE,
    WRONG,
    failure,
    message,
    reading,
    scalar,
    text,
)
from stream import Answers, Stream
from talk import say

prefix, port = sys.argv[1], int(sys.argv[2])


# The types that PVs of these names have; the others are doubles.
TYPES = {
    "strings": scalar(STRING),
    "unknown_type_code": scalar(b"\x1f"),
    "type_of_unknown_id": b"\xfe\x34\x12",
    "endless_type": (b"\x80\x00\x01" + text(b"x")) * 20000,
    "type_of_two_billion_fields": b"\x80\x00\xfe\xff\xff\xff\x7f",
    "type_that_ends_early": scalar(DOUBLE)[:30],
    "no_type": b"\xff",
}
# What is sent for a reading of these.
READINGS = {
    "strings": b"\x01\x01" + text(b"20\xb0C") + REST,
    "value_that_ends_early": reading()[:7],
    "no_value": b"",
    "bits_beyond_the_structure": b"\x02\x00\x80" + reading()[2:],
    "two_billion_bits": b"\xfe\xff\xff\xff\x7f" + reading()[2:],
    "string_of_two_billion": b"\x01\x01" + struct.pack("<dii", VALUE, 0, 0) + b"\xfe\xff\xff\xff\x7f" + REST[9:],
    "string_of_negative_size": b"\x01\x01" + struct.pack("<dii", VALUE, 0, 0) + b"\xfe\xfe\xff\xff\xff" + REST[9:],
}


class Connection(Stream):
    """One client's connection to one PV."""

    async def hear(self) -> tuple[int, bytes]:
        """The next command, with its payload; control messages have none and are left out."""
        while True:
            _, _, flags, command, size = struct.unpack("<BBBBI", await self.reader.readexactly(8))
            if not flags & 1:
                return command, await self.reader.readexactly(size)


def answer(ioid: int, value: float = VALUE) -> bytes:
    """A sane answer to a get."""
    return message(GET, struct.pack("<IB", ioid, 0) + OK + reading(value))


ANSWERS = Answers(answer, lambda ioid: answer(ioid, WRONG), header=5, payload=26)


@ANSWERS.add
async def get_failed(connection: Connection, ioid: int, n: int) -> None:
    await connection.send(message(GET, struct.pack("<IB", ioid, 0) + failure(b"broken beyond repair")))


@ANSWERS.add
async def unknown_status(connection: Connection, ioid: int, n: int) -> None:
    await connection.send(message(GET, struct.pack("<IB", ioid, 0) + b"\x09" + text(b"odd") + text(b"")))


@ANSWERS.add
async def four_gigabytes(connection: Connection, ioid: int, n: int) -> None:
    """A header that announces 4 GiB less 1, of which 1 MiB comes."""
    await connection.send(struct.pack("<BBBBI", 0xCA, 2, 0x40, GET, 0xFFFFFFFF) + bytes(2**20))


@ANSWERS.add
async def half_a_gigabyte(connection: Connection, ioid: int, n: int) -> None:
    """A sane answer and zeros, 512 MiB in all, every one of which is sent."""
    sane = answer(ioid)
    rest = 2**29 - (len(sane) - 8)
    await connection.send(sane[:4] + struct.pack("<I", 2**29) + sane[8:] + bytes(rest % 2**20))
    for _ in range(rest // 2**20):
        await connection.send(bytes(2**20))


@ANSWERS.add
async def not_a_message(connection: Connection, ioid: int, n: int) -> None:
    await connection.send(answer(ioid) if n else bytes(64))


@ANSWERS.add
async def unknown_request(connection: Connection, ioid: int, n: int) -> None:
    await connection.send(answer(ioid + 1000, WRONG))


@ANSWERS.add
async def unknown_request_first(connection: Connection, ioid: int, n: int) -> None:
    await connection.send(answer(ioid + 1000, WRONG) + answer(ioid))


@ANSWERS.add
async def twice(connection: Connection, ioid: int, n: int) -> None:
    await connection.send(answer(ioid, VALUE + n) + answer(ioid, WRONG))


given_up: list[int] = []


@ANSWERS.add
async def late(connection: Connection, ioid: int, n: int) -> None:
    """The first answer comes when it has long been given up, just before the second."""
    if n == 0:
        given_up.append(ioid)
    elif n == 1:
        await connection.send(answer(given_up[0], WRONG) + answer(ioid))
    else:
        await connection.send(answer(ioid))


@ANSWERS.add
async def unknown_command(connection: Connection, ioid: int, n: int) -> None:
    await connection.send(message(99, bytes(24)) + answer(ioid))


@ANSWERS.add
async def gone(connection: Connection, ioid: int, n: int) -> None:
    """The first get is answered by the end of the channel, whose connection stays."""
    await connection.send(answer(ioid) if n else message(DESTROY, struct.pack("<II", 1, CID)))


CID = 0
OTHERS = ["black_hole", "never_validated", "refused", "no_type_ever", "first_search_lost"]


class Behaviour:
    """One PV: its TCP port, and what it does there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gets = itertools.count()
        self.searches = itertools.count()
        self.port = 0

    def answers_search(self) -> bool:
        """Every search but the first for one of them."""
        return next(self.searches) > 0 or self.name != "first_search_lost"

    async def listen(self) -> None:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1")
        self.port = self.server.sockets[0].getsockname()[1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        try:
            if self.name == "black_hole":
                await reader.read(-1)
            await connection.send(message(2, flags=0x41))
            ways = b"\x01" + text(b"anonymous")
            await connection.send(message(VALIDATION, struct.pack("<IH", 0x10000, 0x7FFF) + ways))
            while True:
                await self.answer(connection, *await connection.hear())
        except (ConnectionError, asyncio.IncompleteReadError):
            connection.finish()

    async def answer(self, connection: Connection, command: int, payload: bytes) -> None:
        global CID  # noqa: PLW0603 (one channel a PV)
        if command == VALIDATION and self.name != "never_validated":
            await connection.send(message(VALIDATED, OK))
        elif command == ECHO:
            await connection.send(message(ECHO, payload))
        elif command == CREATE:
            CID = struct.unpack_from("<I", payload, 2)[0]
            status = failure(b"not for you") if self.name == "refused" else OK
            await connection.send(message(CREATE, struct.pack("<II", CID, 1) + status))
        elif command in (GET, MONITOR):
            _, ioid, way = struct.unpack_from("<IIB", payload)
            await self.operate(connection, command, ioid, way)
        elif command == GET_FIELD:
            ioid = struct.unpack_from("<I", payload, 4)[0]
            await connection.send(message(GET_FIELD, struct.pack("<I", ioid) + OK + self.type))

    @property
    def type(self) -> bytes:
        return TYPES.get(self.name, scalar(DOUBLE))

    async def operate(self, connection: Connection, command: int, ioid: int, way: int) -> None:
        if way & INIT:
            if self.name != "no_type_ever":
                await connection.send(message(command, struct.pack("<IB", ioid, INIT) + OK + self.type))
        elif self.name in READINGS and command == GET:
            await connection.send(message(GET, struct.pack("<IB", ioid, 0) + OK + READINGS[self.name]))
        elif command == GET:
            await ANSWERS.get(self.name, ANSWERS["sane"])(connection, ioid, next(self.gets))
        elif way & 0x44 == 0x44:
            update = READINGS.get(self.name, reading())
            await connection.send(message(MONITOR, struct.pack("<IB", ioid, 0) + update + b"\x00"))


behaviours: dict[str, Behaviour] = {}


class Searches(asyncio.DatagramProtocol):
    """Answers the searches for PVs of the prefix; each datagram is one message."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        order = ">" if data[2] & 0x80 else "<"
        if data[3] != SEARCH:
            return
        sequence, *_, reply_port, ways = struct.unpack_from(order + "IB3x16sHB", data, 8)
        at = 8 + 27
        for _ in range(ways):
            at += 1 + data[at]
        (count,) = struct.unpack_from(order + "H", data, at)
        at += 2
        for _ in range(count):
            (cid,) = struct.unpack_from(order + "I", data, at)
            name = data[at + 5 : at + 5 + data[at + 4]].decode()
            at += 5 + data[at + 4]
            behaviour = behaviours.get(name.removeprefix(prefix))
            if name.startswith(prefix) and behaviour is not None and behaviour.answers_search():
                # A GUID for each: they are different servers.
                guid = struct.pack(">III", 0, 0, behaviour.port)
                found = guid + struct.pack("<I16sH", sequence, bytes(16), behaviour.port) + text(b"tcp")
                self.transport.sendto(
                    message(FOUND, found + struct.pack("<BHI", 1, 1, cid)), (addr[0], reply_port or addr[1])
                )


async def main() -> None:
    for name in [*ANSWERS, *TYPES, *READINGS, *OTHERS]:
        behaviours[name] = Behaviour(name)
        await behaviours[name].listen()
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Searches, ("127.0.0.1", port))
    say("ready")
    await asyncio.Event().wait()


asyncio.run(main())
