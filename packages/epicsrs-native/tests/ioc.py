"""A real IOC on ports of its own: EPICS Base with CA and PVA, from the pvxslibs wheel."""

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar, NamedTuple

from deadline import until
from epicsrs_native import Channel, get_context

HERE = Path(__file__).parent
RECORDS = HERE / "records.db"


class Ports(NamedTuple):
    """Where one IOC serves: CA (UDP and TCP), PVA (TCP), PVA searches (UDP)."""

    ca: int
    pva: int
    search: int


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses, below the range from which the kernel gives out its own.

    Each worker of pytest-xdist has ports of its own, also those that its servers do not use yet.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    found: list[int] = []
    with ExitStack() as held:
        for port in random.sample(range(20000 + worker, 32000, workers), 2000 // workers):
            try:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    held.enter_context(socket.socket(socket.AF_INET, kind)).bind(("", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError(f"no {count} free ports between 20000 and 32000")


class Network:
    """The ports of one test run; the process's one client sees every IOC that serves on them."""

    def __init__(self, iocs: int) -> None:
        self.repeater, self.beacons, *ports = free_ports(2 + 3 * iocs)
        self.iocs = [Ports(*ports[n : n + 3]) for n in range(0, len(ports), 3)]

    def has_repeater(self) -> bool:
        """Whether somebody repeats CA beacons on this run's port."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", self.repeater))
            except OSError:
                return True
            return False

    def enter(self) -> None:
        """Make it the network of this process, before its client is opened, which reads the environment once."""
        for name in [name for name in os.environ if name.startswith("EPICS_")]:
            del os.environ[name]
        os.environ.update(self.client())

    def client(self, *only: Ports) -> dict[str, str]:
        """The environment of clients: all IOCs of this run, or only these, and nothing else, over loopback."""
        iocs = only or self.iocs
        return {
            "EPICS_CA_ADDR_LIST": " ".join(f"127.0.0.1:{ports.ca}" for ports in iocs),
            "EPICS_CA_AUTO_ADDR_LIST": "NO",
            "EPICS_CA_SERVER_PORT": str(iocs[0].ca),
            "EPICS_CA_REPEATER_PORT": str(self.repeater),
            "EPICS_PVA_ADDR_LIST": " ".join(f"127.0.0.1:{ports.search}" for ports in iocs),
            "EPICS_PVA_AUTO_ADDR_LIST": "NO",
            "EPICS_PVA_SERVER_PORT": str(iocs[0].pva),
            "EPICS_PVA_BROADCAST_PORT": str(self.beacons),
        }

    def server(self, ports: Ports) -> dict[str, str]:
        """What one IOC adds to that: its ports, loopback only."""
        return {
            "EPICS_CAS_SERVER_PORT": str(ports.ca),
            "EPICS_CAS_INTF_ADDR_LIST": "127.0.0.1",
            "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
            "EPICS_CAS_BEACON_ADDR_LIST": "127.0.0.1",
            "EPICS_PVAS_SERVER_PORT": str(ports.pva),
            "EPICS_PVAS_BROADCAST_PORT": str(ports.search),
            "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1",
            "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
            "EPICS_PVAS_BEACON_ADDR_LIST": f"127.0.0.1:{self.beacons}",
        }


# Here, so that the tests of every package that run in one process share it.
NETWORK = Network(iocs=8)


class Ioc:
    """One IOC. Its records carry a prefix of their own, so no PV of one IOC was ever seen on another.

    But for one that is to serve the PVs of another IOC: it is given that one's prefix.
    """

    running: ClassVar[list["Ioc"]] = []
    opened: ClassVar[list[Channel]] = []
    _numbers = itertools.count()

    def __init__(
        self, ports: Ports, folder: Path, databases: Sequence[Path] = (RECORDS,), prefix: str | None = None
    ) -> None:
        number = next(Ioc._numbers)
        self.prefix = prefix or f"T{number}:"
        self.ports = ports
        self.databases = list(databases)
        self._environment = {**os.environ, **NETWORK.client(), **NETWORK.server(ports)}
        self._log = folder / f"ioc-{number}.txt"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> str:
        """What the IOC has printed since its last start."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def pid(self) -> int:
        assert self._process is not None, "the IOC does not run"
        return self._process.pid

    def start(self) -> None:
        """Return when the IOC serves; AssertionError with its output if it does not."""
        command = [sys.executable, str(HERE / "programs/softioc.py"), f"P={self.prefix}", *map(str, self.databases)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=self._environment
            )
        process = self._process
        Ioc.running.append(self)
        until(lambda: "IOC Running" in self.output or process.poll() is not None, 20.0)
        # pvxs gives up where it finds no port that is free under IPv4 and IPv6 both; another try does.
        if "Unable to bind random UDP6 port" in self.output:
            self.kill()
            self.start()
            return
        if process.poll() is not None or "rror" in self.output:
            self.kill()
            raise AssertionError(f"the IOC did not start:\n{self.output}")

    def stop(self) -> None:
        """End it in good order, as `exit` in its shell does."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(10.0)
            self._end(signal.SIGKILL)

    def kill(self) -> None:
        """End it at once, frozen or not."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(10.0)
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process = None
            Ioc.running.remove(self)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """A server that is there and never answers."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)
        try:
            yield
        finally:
            # A test may have killed it meanwhile.
            if self._process is not None:
                os.kill(self.pid, signal.SIGCONT)

    def unread(self, protocol: str) -> int:
        """Bytes that have reached the IOC's TCP sockets and that it has not read: requests to a frozen IOC."""
        port = self.ports.ca if protocol == "ca" else self.ports.pva
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(int(row[4].split(":")[1], 16) for row in rows if int(row[1].split(":")[1], 16) == port)

    def pv(self, record: str, protocol: str = "ca") -> str:
        """The name to give to a client."""
        return ("pva://" if protocol == "pva" else "") + self.prefix + record

    def channel(self, record: str, protocol: str = "ca") -> Channel:
        """A channel to one of its records, closed at the end of the test."""
        channel = get_context().channel(self.pv(record, protocol))
        Ioc.opened.append(channel)
        return channel
