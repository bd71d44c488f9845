"""Fork after use; the child does nothing of ours and ends like any other interpreter.

Usage: forked_quietly.py PV
"""

import os
import sys

from talk import say

from epicsrs_native import get_context

channel = get_context().channel(sys.argv[1])
subscription = channel.monitor(lambda reading: None)
child = os.fork()
if child == 0:
    sys.exit(6)
say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
say(channel.get().value)
