"""The native channels of one backend."""

import logging
from contextlib import suppress

from epicsrs_native import Channel, get_context

from ._address import Address

logger = logging.getLogger("ophyd_async.epicsrs")


class Channels:
    """Opens each PV when it is first used, and closes all with the backend they belong to.

    Channels of one PV share its connection, whoever opens them.
    """

    def __init__(self) -> None:
        self._open: dict[Address, Channel] = {}
        self._watched: set[Address] = set()

    def __getitem__(self, address: Address) -> Channel:
        """The PV's channel, without waiting for its connection.

        Raises:
            ValueError: A name that no PV can have.
        """
        channel = self._open.get(address)
        if channel is None or channel.closed:
            channel = self._open[address] = get_context().channel(str(address))
            self._watched.discard(address)
        return channel

    def watched(self, address: Address) -> Channel:
        """The same, for a put that nobody waits for: what its server refuses later is logged."""
        channel = self[address]
        if address not in self._watched:
            self._watched.add(address)
            channel.on_error(log_refusal)
        return channel

    def close(self, address: Address) -> None:
        """Stop looking for a PV, unless others do."""
        if channel := self._open.pop(address, None):
            channel.close()

    def __del__(self) -> None:
        # In a child of fork() the connections are its parent's.
        with suppress(RuntimeError):
            while self._open:
                self._open.popitem()[1].close()


def log_refusal(error: Exception) -> None:
    """Log what a server refused when nobody was waiting any more."""
    logger.error("%s", error)
