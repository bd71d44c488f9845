"""SIGTERM as an ordinary exit, for what is registered with atexit."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


class ExitOnSigterm:
    """Makes SIGTERM raise SystemExit in the main thread, while somebody wants that and nobody else handles it."""

    _wanted = 0

    @classmethod
    def want(cls) -> bool:
        """Whether it does so from now on; `unwant` has to follow."""
        if threading.current_thread() is not threading.main_thread():
            return False
        if signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, _exit):
            return False
        signal.signal(signal.SIGTERM, _exit)
        cls._wanted += 1
        return True

    @classmethod
    def unwant(cls) -> None:
        """Give SIGTERM back to the operating system once nobody wants it any more."""
        cls._wanted -= 1
        in_main = threading.current_thread() is threading.main_thread()
        if not cls._wanted and in_main and signal.getsignal(signal.SIGTERM) is _exit:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
