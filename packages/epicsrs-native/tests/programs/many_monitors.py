"""Monitor COUNT records PREFIX0, PREFIX1, ... and say how many threads that took.

Usage: many_monitors.py PREFIX COUNT
"""

import os
import sys
import threading

import numpy  # noqa: F401  (its threads are not ours)
from talk import hear, say

before = len(os.listdir("/proc/self/task"))

from epicsrs_native import Reading, get_context  # noqa: E402

prefix, count = sys.argv[1], int(sys.argv[2])
values: dict[int, list[int]] = {number: [] for number in range(count)}
changed = threading.Condition()


def update(number: int, reading: Reading) -> None:
    with changed:
        values[number].append(reading.value)
        changed.notify()


def told(length: int) -> bool:
    with changed:
        return changed.wait_for(lambda: all(len(seen) >= length for seen in values.values()), 20.0)


channels = [get_context().channel(f"{prefix}{number}") for number in range(count)]
subscriptions = [
    channel.monitor(lambda reading, number=number: update(number, reading), wait=False)
    for number, channel in enumerate(channels)
]
first = told(1)
say([first, len(os.listdir("/proc/self/task")) - before])
for number, channel in enumerate(channels):
    channel.put(number + 1, wait=False)
second = told(2)
say([second, all(seen == [0, number + 1] for number, seen in values.items())])
for subscription in subscriptions:
    subscription.close()
say(len(os.listdir("/proc/self/task")) - before)
hear()
