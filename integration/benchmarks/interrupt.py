"""How soon Ctrl-C comes out of a call that the IOC does not answer."""

import json
import os
import signal
import time
from pathlib import Path

from process import Figures, NoAnswerError, Task, TaskError, WorkerProcess

from ioc import SoftIoc

READY_LIMIT = 30.0
# The call is under way by then.
BEFORE_SIGNAL = 0.3
# A client that takes longer counts as this long.
AFTER_SIGNAL = 5.0


def measure_interrupt(client: str, ioc: SoftIoc, task: Task, log: Path) -> Figures:
    """Milliseconds from SIGINT to KeyboardInterrupt in a process of its own; the IOC is frozen meanwhile."""
    with WorkerProcess(client, ioc.environment, log) as worker:
        worker.send(json.dumps(task))
        answer = worker.answer(READY_LIMIT)
        if "ready" not in answer:
            raise TaskError(answer.get("error", str(answer)))
        ioc.freeze()
        try:
            worker.send("go")
            time.sleep(BEFORE_SIGNAL)
            sent = time.monotonic()
            os.kill(worker.pid, signal.SIGINT)
            return {"ms": (worker.figures(AFTER_SIGNAL)["at"] - sent) * 1e3}
        except NoAnswerError:
            return {"ms": AFTER_SIGNAL * 1e3}
        finally:
            ioc.thaw()
