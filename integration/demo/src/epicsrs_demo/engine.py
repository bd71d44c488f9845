"""The RunEngine, which ends with the first Ctrl-C."""

import threading
from typing import Any

from bluesky import RunEngine
from bluesky.utils import DuringTask, MsgGenerator, RunEngineInterrupted


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
        """Run a plan.

        Raises:
            KeyboardInterrupt: It was aborted by Ctrl-C.
        """
        try:
            self.engine(plan)
        except RunEngineInterrupted:
            raise KeyboardInterrupt from None

    def close(self) -> None:
        """End its loop's thread."""
        self.engine.loop.call_soon_threadsafe(self.engine.loop.stop)
