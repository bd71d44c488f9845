"""Tiled's command line, run as a script, which ends with its standard input: so with the process that started it."""

# tiled has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false

import os
import signal
import sys
import threading


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    from tiled.commandline.main import main

    main()
