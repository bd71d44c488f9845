"""Fork after use: what a child does with a delivery of its parent ends at once, whatever comes of it.

Usage: forked_delivery.py PV
"""

import os
import signal
import sys
import threading

from talk import say

from epicsrs_native import Delivery, get_context, get_delivery

channel = get_context().channel(sys.argv[1])
subscription = channel.monitor(lambda reading: None)
lane = Delivery("lane")
thread = threading.Thread(target=lane.run)
thread.start()

child = os.fork()
if child == 0:
    # Ends it where something hangs.
    signal.alarm(3)
    for _ in range(3):
        for delivery in (lane, get_delivery):
            for use in ("closed", "pending", "close", "fileno", "drain", "call"):
                try:
                    found = getattr(delivery() if callable(delivery) else delivery, use)
                    found(print) if use == "call" else callable(found) and found()
                except RuntimeError as error:
                    assert "used before fork" in str(error)
        for use in (subscription.pause, subscription.resume):
            try:
                use()
            except RuntimeError as error:
                assert "used before fork" in str(error)
    os._exit(5)
say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
lane.close()
thread.join(5.0)
say([thread.is_alive(), subscription.closed])
subscription.close()
