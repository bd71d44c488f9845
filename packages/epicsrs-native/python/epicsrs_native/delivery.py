"""Where callbacks run: a Delivery, drained by a thread or by an event loop."""

from __future__ import annotations

from _thread import allocate_lock  # noqa: PLC2701 (documented, and `threading` takes 4 ms)

from epicsrs_native._native import DeliveryQueue

# Most of an import's time is what it imports itself: `typing`, `threading` and `weakref` wait until they are needed.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable
    from typing import Any, TypeAlias
    from weakref import WeakKeyDictionary, ref

    from epicsrs_native._native import Subscription, Watch

    Batch: TypeAlias = list[tuple[Callable[..., object], tuple[Any, ...], Subscription | Watch | None]]


class Delivery(DeliveryQueue):
    """One lane from the network to Python: its callbacks run one at a time, in the order of the wire.

    Whoever drains it decides where they run::

        lane = Delivery("monitor")
        threading.Thread(target=lane.run, name="monitor", daemon=True).start()
        channel.monitor(print, delivery=lane)

    Lanes never wait for each other. Monitor updates are bounded per subscription; connection and access events, put
    errors and functions given to ``call`` are never dropped.
    """

    def run(self) -> None:
        """Run callbacks on the calling thread until ``close``; Ctrl-C works where that is the main thread."""
        while True:
            try:
                batch = self.take()
            except Exception as error:
                report("a batch could not be taken", None, error)
                continue
            if batch is None:
                return
            deliver(batch)
            # Else the last callbacks and readings live until something else comes.
            del batch

    def drain(self) -> None:
        """Run the callbacks that are due now, without waiting; for an owner with an event loop of its own."""
        batch = self.take(timeout=0.0)
        if batch is not None:
            deliver(batch)


def deliver(batch: Batch) -> None:
    """Run one batch; a callback that raises is logged with its PV and stops nothing.

    SystemExit and KeyboardInterrupt leave the main thread, whose they are; another thread has other callbacks to run.
    """
    for callback, arguments, source in batch:
        if source is not None and source.closed:
            continue
        try:
            callback(*arguments)
        except BaseException as error:
            if not isinstance(error, Exception) and in_main_thread():
                raise
            pv = None if source is None else source.pv
            report(f"{callback if pv is None else pv}: callback raised", pv, error)


def in_main_thread() -> bool:
    """Whether a callback runs in the main thread, which Ctrl-C and sys.exit() may leave."""
    import threading

    return threading.current_thread() is threading.main_thread()


def report(message: str, pv: str | None, error: BaseException) -> None:
    """Log what a callback raised, or what kept it from being called, with the PV it was for."""
    import logging

    logging.getLogger("epicsrs.delivery").error(message, exc_info=error, extra={"pv": pv})


def unreadable(pv: str, error: BaseException) -> None:
    """Log an update or a result that could not be made into Python."""
    report(f"{pv}: an update cannot be read", pv, error)


def hand_on(records: list[tuple[str, int, str]], dropped: int) -> None:
    """Give the network code's log records, each with its logger and level, to ``logging``."""
    import logging

    if dropped:
        logging.getLogger("epicsrs.native").warning("%d log records were dropped before the next one", dropped)
    for logger, level, text in records:
        logging.getLogger(logger).log(level, "%s", text)


_default: list[Delivery] = []
_starting = allocate_lock()


def get_delivery() -> Delivery:
    """The process's default lane, drained by a thread of its own; it hands on what the network code logs as well."""
    import threading

    with _starting:
        if not _default or _default[0].closed:
            _default[:] = [Delivery("epicsrs-delivery")]
            _default[0].hand_on_logs()
            threading.Thread(target=_default[0].run, name=_default[0].name, daemon=True).start()
        return _default[0]


# A loop holds its delivery, as what it watches, and lets go of it when it is closed.
_of_loops: list[WeakKeyDictionary[AbstractEventLoop, ref[Delivery]]] = []


def loop_delivery(loop: AbstractEventLoop) -> Delivery:
    """The lane of one event loop, drained by it: one wake-up for all that has come since the last."""
    from weakref import WeakKeyDictionary, ref

    with _starting:
        if not _of_loops:
            _of_loops.append(WeakKeyDictionary())
    known = _of_loops[0].get(loop)
    delivery = None if known is None else known()
    if delivery is not None and delivery.closed:
        loop.remove_reader(delivery.fileno())
        delivery = None
    if delivery is None:
        delivery = Delivery("epicsrs-loop")
        loop.add_reader(delivery.fileno(), delivery.drain)
        _of_loops[0][loop] = ref(delivery)
    return delivery
