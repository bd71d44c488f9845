"""ophyd's event dispatcher over native Deliveries: one lane, one thread for each kind of event."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, TypeVar

from epicsrs_native import Delivery

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from logging import Logger
    from typing import Any

    Item: TypeAlias = tuple[Callable[..., object], tuple[Any, ...], Mapping[str, Any]]

P = ParamSpec("P")
T = TypeVar("T")

# metadata: connection, access rights and first metadata. monitor: all value callbacks, and what ophyd runs in the
# "monitor" context. get_put: completions of puts. util0: whatever `schedule_utility_task` is given.
LANES = ("metadata", "monitor", "get_put", "util0")


class LaneQueue:
    """A lane as `ophyd._dispatch.wrap_callback` sees it: something to put (function, args, kwargs) into."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def put(self, item: Item) -> None:
        function, arguments, keywords = item
        self._delivery.call(partial(function, *arguments, **keywords))

    def qsize(self) -> int:
        return self._delivery.pending


class Lane(threading.Thread):
    """A Delivery with the thread that drains it; a Thread, because ophyd compares threads by identity."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.delivery = Delivery(name)
        self.queue = LaneQueue(self.delivery)
        self._gathered: dict[Callable[..., object], list[Any]] = {}

    def run(self) -> None:
        self.delivery.run()

    def gather(self, function: Callable[[list[T]], object], item: T) -> None:
        """From this lane: have the function called once, with what all ask it to be called with, behind what waits."""
        gathered = self._gathered.setdefault(function, [])
        gathered.append(item)
        if len(gathered) == 1:
            self.delivery.call(self._hand_over, function)

    def _hand_over(self, function: Callable[[list[T]], object]) -> None:
        function(self._gathered.pop(function))

    @property
    def here(self) -> bool:
        """Whether the caller runs on this lane."""
        return threading.current_thread() is self


class LaneContext:
    """What ophyd calls a dispatcher thread context."""

    def __init__(self, dispatcher: Dispatcher, event_type: str) -> None:
        self.dispatcher = dispatcher
        self.event_type = event_type

    @property
    def event_thread(self) -> Lane:
        return self.dispatcher.lane(self.event_type)

    def run(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run it now where the caller is on this lane already, else in its turn."""
        lane = self.event_thread
        if lane.here:
            function(*args, **kwargs)
        else:
            lane.delivery.call(partial(function, *args, **kwargs))

    __call__ = run


class Dispatcher:
    """The lanes on which ophyd hears of its PVs.

    Lanes never wait for each other, and nothing drains or joins one inside a blocking call: a callback may read,
    write, and connect other PVs. The number of threads does not depend on the number of PVs.
    """

    def __init__(self, logger: Logger) -> None:
        self.logger = logger
        self.context = None
        # ophyd's own dispatcher polls its queues this often; the lanes are woken instead.
        self.timeout = 0.1
        self.stop_event = threading.Event()
        self._starting = threading.Lock()
        self._threads: dict[str, Lane] = {}
        for name in LANES:
            self.lane(name)

    def lane(self, name: str) -> Lane:
        """The lane of that name; a new one where the client was shut down and has closed the last."""
        lane = self._threads.get(name)
        if lane is not None and not lane.delivery.closed:
            return lane
        if name not in LANES:
            raise KeyError(f"no dispatcher thread {name!r}, only {', '.join(LANES)}")
        with self._starting:
            lane = self._threads.get(name)
            if lane is None or lane.delivery.closed:
                lane = self._threads[name] = Lane(name)
                lane.start()
            return lane

    @property
    def threads(self) -> dict[str, Lane]:
        return dict(self._threads)

    def is_alive(self) -> bool:
        return any(lane.is_alive() for lane in self.threads.values())

    def get_thread_context(self, name: str) -> LaneContext:
        return LaneContext(self, name)

    def schedule_utility_task(self, callback: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run it on a thread where it may take its time."""
        self.lane("util0").delivery.call(partial(callback, *args, **kwargs))

    def stop(self) -> None:
        """End the lanes; what waits in them is not run any more."""
        self.stop_event.set()
        for lane in self.threads.values():
            lane.delivery.close()
            if not lane.here:
                lane.join()
        self._threads.clear()
