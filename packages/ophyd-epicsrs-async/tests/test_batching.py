"""What one gather of many signals costs on the wire."""

import asyncio

from deadline import eventually
from ophyd_epicsrs_async import epicsrs_signal_r
from segments import sent_to

# Fields of records that have many numbers: A to U, and what they were before.
RECORDS = ("count", "counter", "setpoint_RBV", "slow", "very_slow", "motor")
NAMES = [f"{record}.{last}{field}" for record in RECORDS for last in ("", "L") for field in "ABCDEFGHIJKLMNOPQRSTU"]
# A request is at least a header: 16 bytes of Channel Access, 8 of pvAccess with two ids and a command behind it.
REQUEST = {"ca": 16, "pva": 17}


def test_all_signals_of_a_gather_have_asked_before_the_first_is_answered(ioc, run, protocol):
    async def main():
        signals = [epicsrs_signal_r(float, ioc.pv(name, protocol)) for name in NAMES]
        await asyncio.gather(*(signal.connect() for signal in signals))
        # pvAccess first asks for the way to get, and only then gets.
        await asyncio.gather(*(signal.read() for signal in signals))
        with ioc.frozen():
            # A server that answers nothing: what waits for an answer stays here.
            reading = asyncio.gather(*(signal.read() for signal in signals))
            await eventually(lambda: ioc.unread(protocol) >= len(NAMES) * REQUEST[protocol])
            assert not reading.done()
        assert len(await reading) == len(NAMES)

    run(main())


def test_the_reads_of_a_gather_leave_in_one_packet(ioc, run, protocol):
    port = ioc.ports.ca if protocol == "ca" else ioc.ports.pva

    async def main():
        signals = [epicsrs_signal_r(float, ioc.pv(name, protocol)) for name in NAMES[::4]]
        await asyncio.gather(*(signal.connect() for signal in signals))
        await asyncio.gather(*(signal.read() for signal in signals))
        packets = []
        for _ in range(40):
            before = sent_to(port)
            assert len(await asyncio.gather(*(signal.read() for signal in signals))) == len(signals)
            packets.append(sent_to(port) - before)
        return packets

    # A turn of the loop is cut where its thread has to wait for a processor.
    assert run(main()).count(1) >= 10
