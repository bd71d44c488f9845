"""The parts of the demo: how long each took, and which one failed."""

import time
from collections.abc import Generator
from contextlib import contextmanager

from epicsrs_bulk import SinkError


class PartError(RuntimeError):
    """A part failed; the message is one sentence that names it and says why."""


class Parts:
    """The seconds that each part took, by name and in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        """Time the ``with`` block.

        Raises:
            PartError: Whatever the block raised, as one sentence.
        """
        start = time.perf_counter()
        try:
            yield
        except Exception as error:
            raise PartError(f"the {name} failed: {_reason(error)}") from error
        self.seconds[name] = time.perf_counter() - start


def _reason(error: Exception) -> str:
    # bluesky's FailedStatus and its like say less than what made them fail; a cancellation, or a timeout without words,
    # says nothing.
    chain = [error]
    while isinstance(chain[-1].__cause__, Exception):
        chain.append(chain[-1].__cause__)
    told = next((cause for cause in reversed(chain) if str(cause)), error)
    # Of a full disk, the system does not say under what.
    told = next((cause for cause in chain if isinstance(cause, SinkError)), told)
    return f"{type(told).__name__}: {' '.join(str(told).split())}"
