"""The IOC as a child process."""

import json
import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROGRAM = "epicsrs-beamline"
# Its exit status where a port is taken: a free one may be gone before the servers have it.
_TAKEN = 3
_MORE_ATTEMPTS = 4


class BeamlineError(RuntimeError):
    """The IOC did not start, or did not stop; the message ends with what it said."""


def program() -> str:
    """The executable: beside this Python's scripts, or on PATH."""
    beside = Path(sysconfig.get_path("scripts"), PROGRAM)
    found = str(beside) if beside.exists() else shutil.which(PROGRAM)
    if found is None:
        raise BeamlineError(f"{PROGRAM} is not installed: neither {beside} nor on PATH")
    return found


def free_udp_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses now."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Beamline:
    """A simulated beamline on free ports of 127.0.0.1, from `start` to `stop`, or within a `with`.

    Args:
        prefix: In front of every PV.
        ophyd_names: Also serve the PVs that ophyd's own tests ask for.
        databases: More databases to load, with macro P, the prefix.
        log: Where what the IOC says is kept; a temporary file unless given.
        ca_port, pva_port, pva_broadcast_port: Free ones unless given. A second start has those of the first.
        executable: The program, unless it is the installed one.
    """

    def __init__(
        self,
        *,
        prefix: str = "bl:",
        ophyd_names: bool = False,
        databases: Sequence[str | os.PathLike[str]] = (),
        log: str | os.PathLike[str] | None = None,
        ca_port: int | None = None,
        pva_port: int | None = None,
        pva_broadcast_port: int | None = None,
        executable: str | os.PathLike[str] | None = None,
    ) -> None:
        self.prefix = prefix
        self.ophyd_names = ophyd_names
        self.databases = [Path(database) for database in databases]
        self.ports = {"ca_port": ca_port, "pva_port": pva_port, "pva_broadcast_port": pva_broadcast_port}
        self.executable = executable
        self._own_log = log is None
        self.log = Path(log) if log is not None else Path(tempfile.mkstemp(prefix="beamline-", suffix=".log")[1])
        self._process: subprocess.Popen[str] | None = None
        # Where clients listen for beacons. On the port of the searches they would take those from the IOC.
        self._beacons, self._repeater = free_udp_ports(2)

    def command(self) -> list[str]:
        """The command line that `start` runs."""
        command = [str(self.executable or program()), "--prefix", self.prefix, "--exit-with-stdin"]
        command += ["--log", str(self.log)]
        for name, port in self.ports.items():
            if port is not None:
                command += [f"--{name.replace('_', '-')}", str(port)]
        for database in self.databases:
            command += ["--db", str(database)]
        return [*command, "--ophyd-names"] if self.ophyd_names else command

    def start(self, *, timeout: float = 10.0) -> Self:
        """Start it and wait until it serves.

        Raises:
            BeamlineError: It ended, or did not serve within `timeout` seconds.
        """
        line, status = self._first_line(timeout)
        for _ in range(_MORE_ATTEMPTS if None in self.ports.values() else 0):
            if status == _TAKEN:
                line, status = self._first_line(timeout)
        if not line:
            raise BeamlineError(f"{PROGRAM} did not start, exit status {status}: {self.said()}")
        ready: dict[str, Any] = json.loads(line)
        self.ports = {name: int(ready[name]) for name in self.ports}
        return self

    def _first_line(self, timeout: float) -> tuple[str, int]:
        """Start it once: what it says when it serves; or nothing, and its exit status."""
        # In a process group of its own: a terminal's Ctrl-C is for the client, which may still have to stop a motor.
        process = subprocess.Popen(
            self.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )
        self._process = process
        watchdog = threading.Timer(timeout, process.kill)
        watchdog.start()
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
        except BaseException:
            self.stop()
            raise
        finally:
            watchdog.cancel()
        return line, 0 if line else self._ended(process, timeout)

    def said(self, count: int = 2000) -> str:
        """The end of the log; nothing where it did not come to that."""
        return self.log.read_text(errors="replace")[-count:].strip() if self.log.exists() else ""

    def pv(self, name: str) -> str:
        """The full name of a PV: `pv("m1.RBV")`."""
        return self.prefix + name

    @property
    def pid(self) -> int:
        """The IOC's process."""
        return self._running().pid

    @property
    def env(self) -> dict[str, str]:
        """The environment with which a client finds this beamline and nothing else."""
        self._running()
        ca, pva, broadcast = (str(port) for port in self.ports.values())
        return {
            "EPICS_CA_ADDR_LIST": f"127.0.0.1:{ca}",
            "EPICS_CA_AUTO_ADDR_LIST": "NO",
            "EPICS_CA_NAME_SERVERS": "",
            "EPICS_CA_SERVER_PORT": ca,
            "EPICS_CA_REPEATER_PORT": str(self._repeater),
            "EPICS_CA_MAX_ARRAY_BYTES": "100000000",
            "EPICS_PVA_ADDR_LIST": f"127.0.0.1:{broadcast}",
            "EPICS_PVA_AUTO_ADDR_LIST": "NO",
            "EPICS_PVA_NAME_SERVERS": "",
            "EPICS_PVA_SERVER_PORT": pva,
            "EPICS_PVA_BROADCAST_PORT": str(self._beacons),
        }

    def stop(self, *, timeout: float = 10.0) -> int:
        """End it by SIGTERM; its exit status, 0 when all went well."""
        process = self._running()
        process.terminate()
        return self._ended(process, timeout)

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would."""
        process = self._running()
        process.kill()
        self._ended(process, 10.0)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise BeamlineError(f"{PROGRAM} is not running: start() it")
        return self._process

    def _ended(self, process: subprocess.Popen[str], timeout: float) -> int:
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise BeamlineError(f"{PROGRAM} did not stop within {timeout} s: {self.said()}") from None
        finally:
            self._process = None
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        return status

    def __enter__(self) -> Self:
        try:
            return self.start()
        except KeyboardInterrupt:
            self._remove_own_log()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.stop()
        if kind is None:
            self._remove_own_log()

    def _remove_own_log(self) -> None:
        if self._own_log:
            self.log.unlink(missing_ok=True)
