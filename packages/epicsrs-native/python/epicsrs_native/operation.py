"""The awaitable that the ``…_async`` calls return."""

import asyncio
from typing import Any, TypeVar

from epicsrs_native._native import Ticket

T = TypeVar("T")


class Operation(asyncio.Future[T]):
    """A running call; awaiting it gives the result.

    Where the channel is connected it is sent when it is made, or together with the other calls of its turn of the event
    loop. Cancelling withdraws the call: what has not been sent is never sent, and a reply that comes later is dropped.
    Throwing the future away withdraws nothing.
    """

    # Without a dict of its own: in a gather of many reads, making them and collecting them counts.
    __slots__ = ("ticket",)
    ticket: Ticket

    def cancel(self, msg: Any | None = None) -> bool:
        cancelled = super().cancel(msg)
        # A call that was through when it was made has none.
        ticket = getattr(self, "ticket", None)
        if cancelled and ticket is not None:
            ticket.withdraw()
        return cancelled
