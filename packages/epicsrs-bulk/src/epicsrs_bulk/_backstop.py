"""Whether a collect is bluesky's own, for a plan that has died."""

from __future__ import annotations

import inspect


def called_by_backstop() -> bool:
    """Whether the RunEngine collects while it cleans up, after an error in the plan; to be asked within a collect.

    It makes the same call as a plan that wants the rows which are there, as ``bps.collect_while_completing`` does, but
    nobody comes back for the rest. Of flyers that were kicked off, bluesky stops none; only the caller tells
    (``RunBundler.backstop_collect`` of bluesky 1.15).
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "backstop_collect":
            return True
        frame = frame.f_back
    return False
