"""How old an update is when its callback runs."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

# Is given the IOC's time stamp of each update, in any thread.
Take: TypeAlias = Callable[[float], None]
# Seconds in which an update has to come.
LIMIT = 5.0


async def ages(
    pv: str, write: Callable[[], object], watch: Callable[[Take], Callable[[], object]], times: int
) -> np.ndarray:
    """Write so many values, each when the one before has come back; the seconds from its time stamp to the callback.

    Args:
        pv: The PV, for the error.
        write: Writes another value than before.
        watch: Starts the monitor; what it returns ends it.
        times: How many.

    Raises:
        TimeoutError: An update did not come.
    """
    loop = asyncio.get_running_loop()
    came: asyncio.Queue[tuple[float, float]] = asyncio.Queue()

    def take(timestamp: float) -> None:
        loop.call_soon_threadsafe(came.put_nowait, (timestamp, time.time() - timestamp))

    async def next_after(moment: float) -> float:
        try:
            async with asyncio.timeout(LIMIT):
                while True:
                    timestamp, age = await came.get()
                    if timestamp >= moment:
                        return age
        except TimeoutError:
            raise TimeoutError(f"{pv}: no update within {LIMIT} s of a write") from None

    seconds = np.empty(times)
    end = watch(take)
    try:
        # The value that is there already.
        await next_after(0.0)
        for index in range(times):
            sent = time.time()
            write()
            seconds[index] = await next_after(sent)
    finally:
        end()
    return seconds
