"""Tiled's server of one catalog, run as a script; it ends with its standard input, so with who started it."""

# tiled has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false

import os
import signal
import sys
import threading


def _end_with_stdin() -> None:
    # By its number: at the exit of the interpreter nobody may hold the lock of sys.stdin.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    from tiled.commandline.main import main

    database, *options = sys.argv[1:]
    # Not by the server's option --init, which imports all of tiled once more, in another process.
    main(["catalog", "init", "--if-not-exists", database], standalone_mode=False)
    main(["serve", "catalog", database, *options])
