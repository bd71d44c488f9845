"""The RunEngine, which ends with the first Ctrl-C."""

import threading
from typing import Any

from bluesky import Msg, RunEngine
from bluesky.preprocessors import msg_mutator
from bluesky.utils import DuringTask, MsgGenerator, RunEngineInterrupted

# Seconds for each wait of a plan; the longest is that for the fly scan.
WAIT_LIMIT = 15.0


class AbortOnCtrlC(DuringTask):
    """Waits for the plan; Ctrl-C aborts it, so that it cleans up and its run gets a stop document."""

    engine: RunEngine

    def block(self, blocking_event: threading.Event) -> None:
        try:
            blocking_event.wait()
        except KeyboardInterrupt:
            self.engine.abort("Ctrl-C")
            blocking_event.wait()


class Engine:
    """One RunEngine that runs plans to their end."""

    def __init__(self) -> None:
        waiting = AbortOnCtrlC()
        # Without bluesky's own handler, which pauses and waits for a second Ctrl-C.
        self.engine = waiting.engine = RunEngine({}, context_managers=[], during_task=waiting)

    def run(self, plan: MsgGenerator[Any]) -> None:
        """Run a plan; each of its waits has a deadline, for a move or count may not hear that its IOC has ended.

        Raises:
            KeyboardInterrupt: It was aborted by Ctrl-C.
        """
        try:
            self.engine(msg_mutator(plan, _limited))
        except RunEngineInterrupted:
            raise KeyboardInterrupt from None

    def close(self) -> None:
        """End its loop's thread."""
        self.engine.loop.call_soon_threadsafe(self.engine.loop.stop)


def _limited(message: Msg) -> Msg:
    if message.command != "wait":
        return message
    return message._replace(kwargs={**message.kwargs, "timeout": WAIT_LIMIT})
