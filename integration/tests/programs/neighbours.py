"""Another client of the same PV in the same process: both put, get and monitor, and each sees what the other wrote.

Usage: neighbours.py (p4p | pyepics) PV
"""

import sys
import threading

from epicsrs_native import Reading, caught_panic_count, get_context

which, pv = sys.argv[1:]
channels = [get_context().channel(pv), get_context().channel(f"pva://{pv}")]
changed = threading.Condition()
ours: dict[str, float] = {}
theirs: list[float] = []


def update(name: str, reading: Reading) -> None:
    with changed:
        ours[name] = reading.value
        changed.notify_all()


def seen(value: float) -> None:
    with changed:
        theirs.append(value)
        changed.notify_all()


subscriptions = [channel.monitor(lambda reading, name=channel.protocol: update(name, reading)) for channel in channels]
if which == "p4p":
    from p4p.client.thread import Context

    other = Context("pva")
    # p4p ends a monitor that nobody holds, whenever Python's collector comes by.
    held = other.monitor(pv, lambda value: seen(float(value)))

    def get() -> float:
        return float(other.get(pv))

    def put(value: float) -> None:
        other.put(pv, value)

else:
    import epics

    record = epics.PV(pv, auto_monitor=True, callback=lambda value, **_: seen(value))
    assert record.wait_for_connection(10.0)

    def get() -> float:
        return record.get(use_monitor=False)

    def put(value: float) -> None:
        record.put(value, wait=True)


for number in range(100):
    put(float(number))
    for channel in channels:
        assert channel.get().value == number
    channels[number % 2].put(number + 0.5)
    assert get() == number + 0.5
with changed:
    assert changed.wait_for(lambda: theirs and {theirs[-1], *ours.values()} == {99.5} and len(ours) == 2, 10.0), (
        theirs[-3:],
        len(theirs),
        ours,
    )
assert caught_panic_count() == 0
print("each saw the other")
