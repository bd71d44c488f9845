"""Writes runs through a sink into a Tiled catalog, or replays them, in a process for each line on standard input.

Each says its process id, then what has been done, then ``killed`` when it is gone. What takes long is imported once.
"""

import os
import sys
from pathlib import Path

import bluesky_tiled_plugins  # noqa: F401 (what the children need)
import tiled.client  # noqa: F401 (the same)

from epicsrs_bulk import Sink, TiledTarget, replay

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiled_runs import MadeRun


def say(*words: object) -> None:
    # In one piece, so that a kill cuts between lines.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def write(url: str, folder: str) -> None:
    """Runs without end."""
    sink = Sink(TiledTarget(url, batch_rows=3), folder, sigterm=False)
    while True:
        run = MadeRun({"x": {"dtype": "number"}}, killed=True)
        rows = 0
        sink(*run.start)
        say("took", run.uid, "start", 0)
        sink(*run.descriptor)
        for _ in range(2):
            sink(*run.page(x=[rows, rows + 1]))
            rows += 2
            say("took", run.uid, "event_page", rows)
            for document in run.events(x=[rows, rows + 1]):
                sink(*document)
                rows += 1
                say("took", run.uid, "event", rows)
        sink(*run.stop)
        say("took", run.uid, "stop", rows)


def main() -> None:
    url, folder = sys.argv[1:]
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            say(os.getpid())
            if line == "write\n":
                write(url, folder)
            replay(folder, TiledTarget(url), progress=lambda *_: say("replayed"))
            # However little there was to replay.
            while True:
                say("replayed")
        os.waitpid(pid, 0)
        say("killed")


if __name__ == "__main__":
    main()
