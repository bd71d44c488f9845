"""``uv run epicsrs-demo``: a control system of 1,000 PVs, read, watched and written over both protocols."""

import os
import sys
from pathlib import Path

from epicsrs_demo.ioc import IocError, SoftIoc
from epicsrs_demo.records import database

__all__ = ["main"]

PICTURE = Path("epicsrs-demo.png")


def main() -> None:
    """Start the IOC, tell the story, print its tables and draw its picture in the current folder."""
    try:
        with SoftIoc(database()) as ioc:
            os.environ.update(ioc.environment)
            _show(PICTURE)
    except IocError as error:
        sys.exit(str(error))


def _show(path: Path) -> None:
    # Only now: the client reads the EPICS_* variables of the IOC above.
    import epicsrs_native
    from epicsrs_demo.picture import draw
    from epicsrs_demo.story import tell
    from epicsrs_demo.tables import show_readings, show_times

    try:
        story = tell()
        show_times(story)
        show_readings(story)
        draw(story, path)
    finally:
        epicsrs_native.shutdown_all()
    print(f"drawn: {path.resolve()}")
