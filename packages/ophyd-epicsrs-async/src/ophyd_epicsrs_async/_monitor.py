"""One signal's monitor: a native subscription whose readings go to a callback in an event loop."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from epicsrs_native import Operation, Reading, Subscription, get_context

from ._address import Address
from ._channels import log_refusal

logger = logging.getLogger("ophyd_async.epicsrs")


class Monitor:
    """Calls `callback` for each update in the running loop, in their order, the present value first, until `close`.

    It survives reconnects. What a callback raises goes to the loop's exception handler, and the next update comes all
    the same. There is no task: the loop wakes once for all updates that have come.

    Args:
        address: The PV.
        callback: What is called with each reading.
        queue: At most so many updates wait for the loop; beyond that the oldest are dropped, the last never.
            1 means that only the latest is wanted.
    """

    def __init__(self, address: Address, callback: Callable[[Reading], object], queue: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._callback = callback
        self._told = queue == 1
        self._subscription: Subscription | None = None
        self._closed = False
        # A channel of its own, which ends everything when it is closed.
        self._channel = get_context().channel(str(address))
        self._channel.on_error(log_refusal)
        self._channel.monitor_async(self._update, queue=queue, wait=False).add_done_callback(self._started)

    @property
    def dropped(self) -> int:
        """How many updates were dropped because the loop was too slow for them."""
        return 0 if self._subscription is None else self._subscription.dropped

    def close(self) -> None:
        """End it; no callback starts after this, from any thread."""
        self._closed = True
        self._channel.close()

    def _started(self, operation: Operation[Subscription]) -> None:
        if not operation.cancelled() and not self._closed:
            self._subscription = operation.result()

    def _update(self, reading: Reading) -> None:
        if self._closed:
            return
        if not self._told and self.dropped:
            self._told = True
            logger.warning("%s: updates come faster than the event loop takes them; some are dropped", self._address)
        try:
            self._callback(reading)
        except Exception as error:
            self._report(error)

    def _report(self, error: Exception) -> None:
        context: dict[str, Any] = {"message": f"{self._address}: the callback of a monitor raised", "exception": error}
        self._loop.call_exception_handler(context)
