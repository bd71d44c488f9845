"""The awaitable that the ``…_async`` calls return."""

import asyncio
from typing import Any, TypeVar

from epicsrs_native._native import Ticket

T = TypeVar("T")


class Operation(asyncio.Future[T]):
    """A running call, already sent where the channel is connected; awaiting it gives the result.

    Cancelling withdraws the call: what has not been sent is never sent, and a reply that comes later is dropped.
    Throwing the future away withdraws nothing.
    """

    ticket: Ticket | None = None

    def cancel(self, msg: Any | None = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled and self.ticket is not None:
            self.ticket.withdraw()
        return cancelled
