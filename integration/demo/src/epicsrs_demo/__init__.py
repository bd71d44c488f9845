"""``uv run epicsrs-demo``: a simulated beamline, scanned by one RunEngine through every package of epicsrs."""

import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from epicsrs_demo.ioc import SoftIoc
from epicsrs_demo.parts import PartError, Parts
from epicsrs_demo.records import database

__all__ = ["main"]

PICTURE = Path("epicsrs-demo.png")
DOCUMENTS = Path("epicsrs-demo-documents")
LOG = DOCUMENTS / "log.txt"
# What a shell reports of a program that Ctrl-C has ended.
INTERRUPTED = 130


def main() -> None:
    """Start the IOC, scan, print the tables, save the documents and the picture in the current folder."""
    try:
        _show(Parts())
    except PartError as error:
        sys.exit(f"epicsrs-demo: {error}")
    except KeyboardInterrupt:
        print("epicsrs-demo: ended by Ctrl-C", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _show(parts: Parts) -> None:
    with ExitStack() as stack:
        with parts.part("start of the IOC"):
            DOCUMENTS.mkdir(exist_ok=True)
            # The terminal is for the live view; bluesky logs the traceback of a plan that failed.
            logging.basicConfig(filename=LOG, filemode="w", level=logging.WARNING)
            ioc = stack.enter_context(SoftIoc(database()))
            # Before any client is opened, which reads them.
            os.environ.update(ioc.environment)
        with parts.part("import of ophyd, ophyd-async and bluesky"):
            # Before ophyd is imported, which then loads no other client.
            from ophyd_epicsrs_sync import use_epicsrs

            use_epicsrs()
            from epicsrs_demo.tour import tour
        tour(parts, DOCUMENTS, PICTURE)
