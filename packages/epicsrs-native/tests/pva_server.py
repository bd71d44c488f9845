"""A p4p server in a process of its own, on ports of this run."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deadline import until
from epicsrs_native import Channel, get_context
from ioc import HERE, NETWORK, Ioc, Ports

# Opens channels, closed at the end of the test, by their names without the prefix.
Served = Callable[[str], Channel]


@contextmanager
def pva_server(program: str, prefix: str, ports: Ports, log: Path) -> Iterator[Served]:
    """Run a program of programs/ until the block ends; AssertionError with its output where it does not serve."""

    def channel(name: str) -> Channel:
        opened = get_context().channel(f"pva://{prefix}{name}")
        Ioc.opened.append(opened)
        return opened

    environment = {**os.environ, **NETWORK.client(), **NETWORK.server(ports)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "programs" / program), prefix],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    assert process.stdin is not None
    try:
        until(lambda: "READY" in log.read_text() or process.poll() is not None, 20.0, log.read_text)
        assert process.poll() is None, log.read_text()
        yield channel
    finally:
        process.stdin.close()
        process.kill()
        process.wait(10.0)
