"""Interrupt one waiting call with Ctrl-C. The server is frozen meanwhile.

Usage: interrupted.py OPERATION PV
"""

import os
import signal
import sys
import threading
import time

from talk import hear, say

from epicsrs_native import get_context

operation, pv = sys.argv[1:]
# On stderr, where the test looks: a monitor that was interrupted before its start has no updates to give.
arguments = {"put": [1.0], "monitor": [lambda reading: print("an update", file=sys.stderr)]}.get(operation, [])
# These wait for a connection, the others for a reply.
unconnected = operation in ("connect", "info")

if not unconnected:
    channel = get_context().channel(pv)
    channel.get()
say("ready")
hear()
if unconnected:
    channel = get_context().channel(pv)

pressed: list[float] = []


def press() -> None:
    pressed.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)


timer = threading.Timer(0.3, press)
timer.start()
try:
    getattr(channel, operation)(*arguments, timeout=30.0)
    outcome = "returned"
except BaseException as error:
    outcome = type(error).__name__
say([outcome, time.monotonic() - pressed[0] if pressed else None])
timer.join()
hear()
channel.connect(timeout=20.0)
channel.put(2.5)
say([type(channel.get().value).__name__, channel.get().value])
