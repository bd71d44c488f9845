"""One signal's monitor: a native subscription whose readings go to a callback in an event loop."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from epicsrs_native import Operation, Reading, Subscription, get_context

from ._address import Address
from ._channels import log_refusal

logger = logging.getLogger("ophyd_async.epicsrs")


class Monitor:
    """Calls `update` for each update in the running loop, in their order, the present value first, until `close`.

    It survives reconnects. What a callback raises goes to the loop's exception handler, and the next update comes all
    the same. There is no task: the loop wakes once for all updates that have come.

    Args:
        address: The PV.
        update: Called with each reading.
        lose: Called when the PV has lost its server, if that is of interest.
        queue: At most so many updates wait for the loop; beyond that the oldest are dropped, the last never.
            1 means that only the latest is wanted.
    """

    def __init__(
        self, address: Address, update: Callable[[Reading], object], lose: Callable[[], object] | None, queue: int
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._update = update
        self._lose = lose
        self._lost = False
        self._told = queue == 1
        self._subscription: Subscription[None] | None = None
        self._closed = False
        # A channel of its own, which ends everything when it is closed.
        self._channel = get_context().channel(str(address))
        self._channel.on_error(log_refusal)
        if lose is not None:
            self._channel.on_connection(self._connection_changed)
        self._channel.monitor_async(self._take, queue=queue, wait=False).add_done_callback(self._started)

    @property
    def dropped(self) -> int:
        """How many updates were dropped because the loop was too slow for them."""
        return 0 if self._subscription is None else self._subscription.dropped

    def close(self) -> None:
        """End it; no callback starts after this, from any thread."""
        self._closed = True
        self._channel.close()
        # It holds our callback, where the garbage collector does not look.
        self._subscription = None

    def _started(self, operation: Operation[Subscription[None]]) -> None:
        if not operation.cancelled() and not self._closed:
            self._subscription = operation.result()

    def _take(self, reading: Reading) -> None:
        if not self._told and self.dropped:
            self._told = True
            logger.warning("%s: updates come faster than the event loop takes them; some are dropped", self._address)
        self._call(self._update, reading)
        if self._lost:
            # It may have come before the loss, and only now to the loop.
            self._lost = not self._channel.connected
            self._tell_loss()

    def _connection_changed(self, connected: bool) -> None:
        """In native's delivery thread."""
        if not connected:
            # A loop that has been closed has nobody to tell.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._fall)

    def _fall(self) -> None:
        self._lost = not self._closed and not self._channel.connected
        self._tell_loss()

    def _tell_loss(self) -> None:
        if self._lost and self._lose is not None:
            self._call(self._lose)

    def _call(self, callback: Callable[..., object], *arguments: Any) -> None:
        if self._closed:
            return
        try:
            callback(*arguments)
        except Exception as error:
            message = f"{self._address}: the callback of a monitor raised"
            self._loop.call_exception_handler({"message": message, "exception": error})
