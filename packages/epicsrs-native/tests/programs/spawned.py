"""Workers made with spawn are clients of their own.

Usage: spawned.py PV
"""

import multiprocessing
import sys

from talk import say

from epicsrs_native import get_context


def read(pv: str) -> float:
    return get_context().channel(pv).get().value


if __name__ == "__main__":
    here = read(sys.argv[1])
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        say([here, *pool.map(read, [sys.argv[1]] * 2)])
