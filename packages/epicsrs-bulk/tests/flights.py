"""The plan that flies detectors of ophyd-async together."""

from collections.abc import Mapping
from typing import Any

import bluesky.plan_stubs as bps
from ophyd_async.core import TriggerInfo
from ophyd_async.plan_stubs import ensure_connected


def flying(triggers: Mapping[Any, TriggerInfo], flights: int = 1) -> Any:
    """A run in which each detector takes what its TriggerInfo says in each flight, all in one stream."""
    yield from ensure_connected(*triggers)
    yield from bps.stage_all(*triggers)
    for flight in range(flights):
        for detector, info in triggers.items():
            yield from bps.prepare(detector, info, wait=True)
        if flight == 0:
            yield from bps.open_run()
            yield from bps.declare_stream(*triggers, name="primary", collect=True)
        yield from bps.kickoff_all(*triggers, wait=True)
        yield from bps.collect_while_completing(triggers, triggers, flush_period=0.05, stream_name="primary")
    yield from bps.close_run()
    yield from bps.unstage_all(*triggers)
