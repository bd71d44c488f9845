"""Fork after the import but before any use, then use it in the child.

Usage: forked_before_use.py PV
"""

import os
import sys

from talk import say

from epicsrs_native import get_context

child = os.fork()
if child == 0:
    say(get_context().channel(sys.argv[1]).get().value)
    sys.exit(0)
os.waitpid(child, 0)
