"""softIocPVX (EPICS Base: Channel Access and pvAccess) from the pvxslibs wheel, seen by this machine only."""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

START_LIMIT = 20.0
STOP_LIMIT = 5.0
HOST = "127.0.0.1"
# Below the ports that Linux gives to outgoing connections.
PORTS = range(20000, 32000)


class IocError(RuntimeError):
    """The IOC did not start, or ended early; the message ends with what it printed."""


class SoftIoc:
    """One softIocPVX process that serves a database until the ``with`` block ends.

    ``environment`` holds the EPICS_* variables under which clients (and the IOC itself) find only this IOC.
    """

    def __init__(self, database: str) -> None:
        self.environment = _environment()
        self._folder = tempfile.TemporaryDirectory(prefix="epicsrs-ioc-")
        self._database = Path(self._folder.name, "records.db")
        self._database.write_text(database)
        self._log = Path(self._folder.name, "ioc.log")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def output(self) -> str:
        """Everything the IOC has printed."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def pid(self) -> int:
        """The IOC's process."""
        return self._running.pid

    def freeze(self) -> None:
        """Stop the IOC's process without closing its connections, as a hung IOC does."""
        self._running.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen IOC go on."""
        self._running.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the IOC and remove its files."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(STOP_LIMIT)
            if process.stdin is not None:
                process.stdin.close()
        self._folder.cleanup()

    def _start(self) -> None:
        command = [sys.executable, "-m", "pvxslibs.ioc", "-d", str(self._database)]
        with self._log.open("wb") as log:
            # Its shell reads standard input, so the IOC also ends when this process dies. In a group of its own, it
            # does not hear the terminal's Ctrl-C, and is there while the plan cleans up.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                process_group=0,
            )
        deadline = time.monotonic() + START_LIMIT
        while "IOC Running" not in self.output:
            if (code := self._process.poll()) is not None:
                raise IocError(f"the IOC ended with code {code} before it served a PV:\n{self.output}")
            if time.monotonic() > deadline:
                raise IocError(f"the IOC did not run within {START_LIMIT:g} s:\n{self.output}")
            time.sleep(0.02)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise IocError("the IOC is not running")
        return self._process


def _environment() -> dict[str, str]:
    ca, repeater, pva, search, beacons = (str(port) for port in _free_ports(5))
    return {
        "EPICS_CA_ADDR_LIST": HOST,
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_SERVER_PORT": ca,
        "EPICS_CA_REPEATER_PORT": repeater,
        "EPICS_CAS_SERVER_PORT": ca,
        "EPICS_CAS_INTF_ADDR_LIST": HOST,
        "EPICS_CAS_BEACON_ADDR_LIST": HOST,
        "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
        # Server and clients listen on UDP ports of their own: a datagram sent to one address reaches one socket only.
        "EPICS_PVA_ADDR_LIST": f"{HOST}:{search}",
        "EPICS_PVA_AUTO_ADDR_LIST": "NO",
        "EPICS_PVA_BROADCAST_PORT": beacons,
        "EPICS_PVA_SERVER_PORT": pva,
        "EPICS_PVAS_SERVER_PORT": pva,
        "EPICS_PVAS_BROADCAST_PORT": search,
        "EPICS_PVAS_INTF_ADDR_LIST": HOST,
        "EPICS_PVAS_BEACON_ADDR_LIST": f"{HOST}:{beacons}",
        "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
    }


def _free_ports(count: int) -> list[int]:
    ports: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        if len(ports) == count:
            break
        if _is_free(port):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
    ):
        try:
            stream.bind(("", port))
            datagram.bind(("", port))
        except OSError:
            return False
    return True
