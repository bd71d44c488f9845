"""End the interpreter while daemon threads are in their first calls, the one that imports numpy among them.

Usage: leaving_in_import.py PV...
"""

import sys
import threading

from talk import say

from epicsrs_native import get_context

context = get_context()
channels = [context.channel(pv) for pv in sys.argv[1:]] * 50
context.connect_many(channels)
never = threading.Event()


def work() -> None:
    while True:
        context.get_many(channels, columns=True)


for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
while "numpy" not in sys.modules:
    never.wait(0.001)
say("leaving")
sys.exit(3)
