"""Two machines on one Ethernet, as network namespaces of the kernel: nothing is configured. Needs root."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client import Client
from deadline import until
from ioc import HERE, RECORDS
from program import PROGRAMS

pytestmark = pytest.mark.slow

PREFIX = "N:"
BACK = 20.0
# No EPICS variable: what a beamline's workstation has.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("EPICS_")}


def ip(command: str) -> None:
    done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {command}: {done.stderr}"


@pytest.fixture
def network() -> Iterator[tuple[str, str]]:
    """The names of two namespaces, and a cable between them."""
    names = f"epicsrs-ioc-{os.getpid()}", f"epicsrs-client-{os.getpid()}"
    made: list[str] = []
    try:
        for name in names:
            ip(f"netns add {name}")
            made.append(name)
        ip(f"link add eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}")
        for host, name in enumerate(names, 1):
            ip(f"-n {name} addr add 192.168.77.{host}/24 brd + dev eth0")
            ip(f"-n {name} link set lo up")
            ip(f"-n {name} link set eth0 up")
        yield names
    finally:
        for name in made:
            ip(f"netns del {name}")


@contextmanager
def ioc(namespace: str, log: Path) -> Iterator[None]:
    """An IOC on the default ports of a namespace."""
    program = ["ip", "netns", "exec", namespace, sys.executable, str(PROGRAMS / "softioc.py")]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*program, f"P={PREFIX}", str(RECORDS)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            cwd=HERE,
        )
    assert process.stdin is not None
    try:
        until(lambda: "IOC Running" in log.read_text() or process.poll() is not None, 20.0)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.kill()
        process.wait(10.0)
        process.stdin.close()


@contextmanager
def client(namespace: str) -> Iterator[Client]:
    with Client(ENVIRONMENT, ["ip", "netns", "exec", namespace, sys.executable]) as program:
        yield program


def pv(record: str, protocol: str) -> str:
    return ("pva://" if protocol == "pva" else "") + PREFIX + record


def test_an_ioc_of_the_same_netns_link_is_found_by_broadcast(
    network: tuple[str, str], tmp_path: Path, protocol: str
) -> None:
    with ioc(network[0], tmp_path / "log"), client(network[1]) as asked:
        port = 5064 if protocol == "ca" else 5075

        assert asked.ask("get", pv("double", protocol)) == 3.25
        assert asked.ask("info", pv("double", protocol))["address"] == f"192.168.77.1:{port}"
        asked.ask("watch", pv("counter", protocol))
        until(lambda: len(asked.ask("seen", pv("counter", protocol))["values"]) > 3)
        assert (asked.ask("caught_panic_count"), asked.errors) == (0, "")


def test_it_is_found_when_it_starts_after_its_client(network: tuple[str, str], tmp_path: Path, protocol: str) -> None:
    with client(network[1]) as asked:
        assert asked.try_("get", pv("double", protocol), 2.0)[:2] == ["raised", "NotConnectedError"]
        with ioc(network[0], tmp_path / "log"):
            asked.ask("watch", pv("counter", protocol), BACK, timeout=2 * BACK)


def test_a_pulled_cable_is_no_lost_connection(network: tuple[str, str], tmp_path: Path, protocol: str) -> None:
    """TCP waits for it: a get ends at its deadline, the monitor goes on where it was."""
    with ioc(network[0], tmp_path / "log"), client(network[1]) as asked:
        counter = pv("counter", protocol)
        asked.ask("watch", counter)
        ip(f"-n {network[0]} link set eth0 down")
        assert asked.try_("get", counter, 1.0)[:2] == ["raised", "ReplyTimeoutError"]
        before = asked.ask("seen", counter)["values"][-1]
        ip(f"-n {network[0]} link set eth0 up")
        until(lambda: asked.ask("seen", counter)["values"][-1] > before, BACK)
        assert asked.ask("get", counter) > before
        assert asked.ask("seen", counter)["edges"] == [True]
