"""What ``Delivery.submit`` returns."""

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import TypeVar

from epicsrs_native._native import DeliveryQueue, Ticket

T = TypeVar("T")


class Submitted(Future[T]):
    """A running call whose result comes through a Delivery; what is given to ``add_done_callback`` runs there.

    (Where the call is cancelled: in the thread that cancels it.)

    ``result`` waits for it in any other thread than the Delivery's own. Cancelling withdraws the call: what has not
    been sent is never sent, and a reply that comes later is dropped.
    """

    ticket: Ticket | None = None

    def __init__(self, delivery: DeliveryQueue) -> None:
        super().__init__()
        self._delivery = delivery

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        # There, and not here, also when the result has come meanwhile.
        self._delivery.call(super().add_done_callback, fn)

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled and self.ticket is not None:
            self.ticket.withdraw()
        return cancelled

    def settle(self, value: T, error: BaseException | None) -> None:
        """Called by the Delivery, once."""
        try:
            if error is None:
                self.set_result(value)
            else:
                self.set_exception(error)
        except InvalidStateError:
            if not self.cancelled():
                raise
