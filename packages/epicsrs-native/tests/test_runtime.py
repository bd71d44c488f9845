"""Several loops and threads, cancellation: nothing is mixed up and nothing piles up."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from deadline import eventually, until
from epicsrs_native import Operation, Reading, get_delivery
from footprint import resident
from ioc import Ioc

MIB = 1024 * 1024


def test_two_loops_in_two_threads(ioc: Ioc, protocol: str) -> None:
    def work(record: str) -> tuple[set[object], list[float]]:
        async def main() -> tuple[set[object], list[float]]:
            channel = ioc.channel(record, protocol)
            loop, values = asyncio.get_running_loop(), []
            subscription = await ioc.channel("counter", protocol).monitor_async(
                lambda reading: values.append(reading.value if asyncio.get_running_loop() is loop else None)
            )
            readings: set[object] = set()
            while len(values) < 10:
                readings |= {r.value for r in await asyncio.gather(*(channel.get_async() for _ in range(100)))}
                await asyncio.sleep(0)
            subscription.close()
            return readings, values

        return asyncio.run(asyncio.wait_for(main(), 20.0))

    with ThreadPoolExecutor(2) as pool:
        for (readings, values), expected in zip(pool.map(work, ("long", "string")), (-42, "hello"), strict=True):
            assert readings == {expected}
            assert values == [values[0] + n for n in range(len(values))]


def test_loops_one_after_the_other(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("long", protocol)

    async def main() -> Reading:
        return await channel.get_async()

    for _ in range(50):
        assert asyncio.run(main()).value == -42


def test_blocking_calls_beside_a_loop(ioc: Ioc, protocol: str) -> None:
    """Threads that block and a loop that awaits share one client."""
    channel = ioc.channel("long", protocol)
    stop = threading.Event()

    def block() -> int:
        count = 0
        while not stop.is_set():
            assert channel.get(timeout=10.0).value == -42
            count += 1
        return count

    async def main() -> None:
        for _ in range(10):
            readings = await asyncio.gather(*(channel.get_async(timeout=10.0) for _ in range(200)))
            assert {reading.value for reading in readings} == {-42}

    with ThreadPoolExecutor(2) as pool:
        counts = [pool.submit(block) for _ in range(2)]
        try:
            asyncio.run(main())
        finally:
            stop.set()
        assert all(count.result() > 0 for count in counts)


def test_a_blocking_call_inside_a_loop_works(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("long", protocol)

    async def main() -> None:
        operation = channel.get_async()
        assert channel.get().value == -42
        assert (await operation).value == -42

    asyncio.run(main())


def test_an_operation_is_sent_before_it_is_awaited(second_ioc: Ioc, protocol: str) -> None:
    """The request reaches the server though the loop does not run."""
    channel = second_ioc.channel("put_double", protocol)
    channel.get()

    async def main() -> None:
        with second_ioc.frozen():
            idle = second_ioc.unread(protocol)
            operation = channel.put_async(1.0)
            until(lambda: second_ioc.unread(protocol) > idle)
        await operation

    asyncio.run(main())


def test_a_cancelled_operation_is_cancelled_and_the_channel_goes_on(second_ioc: Ioc, protocol: str) -> None:
    channel = second_ioc.channel("double", protocol)
    channel.get()

    async def main() -> None:
        with second_ioc.frozen():
            operation = channel.get_async()
            operation.cancel()
            with pytest.raises(asyncio.CancelledError):
                await operation
        assert (await channel.get_async()).value == 3.25

    asyncio.run(main())


def test_a_cancelled_task_cancels_its_operation(second_ioc: Ioc, protocol: str) -> None:
    channel = second_ioc.channel("double", protocol)
    channel.get()

    async def main() -> None:
        operations: list[Operation[Reading]] = []

        async def wait() -> None:
            operations.append(channel.get_async())
            await operations[0]

        with second_ioc.frozen():
            task = asyncio.create_task(wait())
            await eventually(lambda: operations)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert operations[0].cancelled()

    asyncio.run(main())


def test_cancelled_gets_do_not_pile_up(ioc: Ioc, protocol: str) -> None:
    """50,000 of them; memory stays, and gets are answered afterwards."""
    channel = ioc.channel("long", protocol)
    channel.connect()

    async def storm(rounds: int) -> None:
        for _ in range(rounds):
            operations = [channel.get_async(timeout=30.0) for _ in range(500)]
            for operation in operations:
                operation.cancel()
            assert (await channel.get_async(timeout=30.0)).value == -42
            assert all(operation.cancelled() for operation in operations)

    async def main() -> int:
        await storm(20)
        before = resident()
        await storm(80)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return resident() - before

    assert asyncio.run(main()) < 16 * MIB
    assert get_delivery().pending == 0
    assert channel.get().value == -42


def test_gets_that_time_out_do_not_pile_up(second_ioc: Ioc, protocol: str) -> None:
    channel = second_ioc.channel("long", protocol)
    channel.get()

    async def storm(rounds: int) -> None:
        for _ in range(rounds):
            operations = [channel.get_async(timeout=0.02) for _ in range(200)]
            errors = await asyncio.gather(*operations, return_exceptions=True)
            assert {type(error).__name__ for error in errors} == {"ReplyTimeoutError"}

    with second_ioc.frozen():
        asyncio.run(storm(5))
        before = resident()
        asyncio.run(storm(10))
        assert resident() - before < 16 * MIB

    assert channel.get(timeout=20.0).value == -42


def test_a_loop_closed_with_calls_pending_leaves_no_trace(
    second_ioc: Ioc, protocol: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is answered later is for nobody: no word of it, and the next loop works."""
    channel = second_ioc.channel("long", protocol)
    channel.get()

    async def leave() -> list[asyncio.Future[Reading]]:
        return [channel.get_async(timeout=None) for _ in range(100)]

    with second_ioc.frozen():
        loop = asyncio.new_event_loop()
        operations = loop.run_until_complete(leave())
        loop.close()

    async def main() -> list[int]:
        return [(await channel.get_async()).value for _ in range(100)]

    assert asyncio.run(main()) == [-42] * 100
    assert not any(operation.done() for operation in operations)
    assert [record for record in caplog.records if not record.name.startswith("epicsrs.")] == []
    assert capfd.readouterr().err == ""


def test_a_thousand_at_once_each_get_their_own(ioc: Ioc, protocol: str) -> None:
    channels = [ioc.channel(record, protocol) for record in ("double", "long", "string", "choice")]

    async def main() -> list[Reading]:
        return await asyncio.gather(*(channels[n % 4].get_async() for n in range(1000)))

    assert [reading.value for reading in asyncio.run(main())] == [3.25, -42, "hello", 2] * 250


def test_channels_do_not_pile_up(ioc: Ioc, protocol: str) -> None:
    """2,000 made, used, closed."""

    def storm(rounds: int) -> None:
        for number in range(rounds):
            channel = ioc.channel("long" if number % 2 else "double", protocol)
            assert channel.get().value in (-42, 3.25)
            channel.close()
        Ioc.opened.clear()

    storm(200)
    before = resident()
    storm(1800)
    assert resident() - before < 16 * MIB


def test_subscriptions_do_not_pile_up(ioc: Ioc, protocol: str) -> None:
    channel = ioc.channel("long", protocol)

    def storm(rounds: int) -> None:
        for _ in range(rounds):
            channel.monitor(str).close()

    storm(100)
    before = resident()
    storm(900)
    assert resident() - before < 16 * MIB
    until(lambda: get_delivery().pending == 0)


def test_an_operation_thrown_away_in_error_disturbs_no_other(ioc: Ioc, protocol: str) -> None:
    channel, absent = ioc.channel("long", protocol), ioc.channel("absent", protocol)

    async def main() -> None:
        absent.get_async(timeout=0.05)
        end = asyncio.get_running_loop().time() + 0.3
        while asyncio.get_running_loop().time() < end:
            assert (await channel.get_async()).value == -42

    asyncio.run(main())
