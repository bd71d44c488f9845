"""A fast source: put 1 to COUNT to an integer PV as fast as it goes.

Usage: source.py PV COUNT
"""

import sys

from talk import hear, say

from epicsrs_native import get_context

pv, count = sys.argv[1], int(sys.argv[2])
channel = get_context().channel(pv)
channel.put(0)
say("ready")
hear()
for value in range(1, count):
    channel.put(value, wait=False, timeout=60.0)
channel.put(count, timeout=60.0)
say("done")
