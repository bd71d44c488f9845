"""A TCP connection of a server that may end it badly."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any


class Stream:
    """One client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def finish(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Close with a RST."""
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.close()


class Answers(dict[str, Callable[[Any, Any, int], Awaitable[None]]]):
    """The answers of a server by the name of the PV: each to the n-th request of it, from 0.

    Those that are bad in the same way over every protocol are there from the beginning.

    Args:
        sane: The bytes of a good answer to a request.
        wrong: The bytes of one whose value nobody may ever see.
        header: So many bytes of one are less than its header.
        payload: So many are its header and less than its payload.
    """

    def __init__(
        self, sane: Callable[[Any], bytes], wrong: Callable[[Any], bytes], *, header: int, payload: int
    ) -> None:
        super().__init__()

        def broken_once(length: int, end: Callable[[Stream], None]) -> Callable[[Stream, Any, int], Awaitable[None]]:
            async def answer(stream: Stream, asked: Any, n: int) -> None:
                if n:
                    await stream.send(sane(asked))
                else:
                    await stream.send(wrong(asked)[:length])
                    end(stream)

            return answer

        async def good(stream: Stream, asked: Any, n: int) -> None:
            await stream.send(sane(asked))

        async def deaf(stream: Stream, asked: Any, n: int) -> None:
            return

        async def stalled(stream: Stream, asked: Any, n: int) -> None:
            if not n:
                await stream.send(sane(asked)[:payload])

        async def byte_at_a_time(stream: Stream, asked: Any, n: int) -> None:
            for byte in sane(asked):
                await stream.send(bytes([byte]))
                await asyncio.sleep(0.002)

        self.update(
            sane=good,
            deaf=deaf,
            reset_in_mid_payload=broken_once(payload, Stream.reset),
            end_in_mid_header=broken_once(header, Stream.finish),
            end_in_mid_payload=broken_once(payload, Stream.finish),
            stalled_in_mid_payload=stalled,
            byte_at_a_time=byte_at_a_time,
        )

    def add(self, function: Callable[[Any, Any, int], Awaitable[None]]) -> Callable[[Any, Any, int], Awaitable[None]]:
        """The answer of the PV with the function's name."""
        self[function.__name__] = function
        return function
