"""``uv run epicsrs-demo``: a simulated beamline, scanned by one RunEngine through every package of epicsrs."""

import sys

__all__ = ["main"]

# What a shell reports of a program that Ctrl-C has ended.
INTERRUPTED = 130


def main() -> None:
    """Start the IOC, scan, print the tables, save the documents and the picture."""
    try:
        from epicsrs_demo.demo import demo
        from epicsrs_demo.options import parse
        from epicsrs_demo.parts import PartError

        try:
            demo(parse())
        except PartError as error:
            sys.exit(f"epicsrs-demo: {error}")
    except KeyboardInterrupt:
        print("epicsrs-demo: ended by Ctrl-C", file=sys.stderr)
        sys.exit(INTERRUPTED)
