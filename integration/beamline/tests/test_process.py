"""The IOC as a process: how it starts, where it listens, how it ends."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from epicsrs_beamline import Beamline, BeamlineError

LIMIT = 10.0
GIVEN = {"ca_port": 1, "pva_port": 2, "pva_broadcast_port": 3}


def sockets(pid: int) -> Iterator[tuple[str, str, bool]]:
    """Protocol, local address and whether it listens or is unconnected, of each internet socket of a process."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    for protocol in ("tcp", "udp", "tcp6", "udp6"):
        for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                host, port = fields[1].split(":")
                address = socket.inet_ntoa(struct.pack("<I", int(host, 16))) if len(host) == 8 else host
                yield protocol, f"{address}:{int(port, 16)}", fields[3] in ("0A", "07")


def test_it_listens_on_loopback_only() -> None:
    with Beamline() as beamline:
        found = list(sockets(beamline.pid))

        ports = beamline.ports
        tcp = {address for protocol, address, _ in found if protocol.startswith("tcp")}
        assert tcp == {f"127.0.0.1:{ports['ca_port']}", f"127.0.0.1:{ports['pva_port']}"}
        assert f"127.0.0.1:{ports['ca_port']}" in {address for protocol, address, _ in found if protocol == "udp"}
        # No repeater; searches of pvAccess come on the port that was given, beacons leave from others.
        assert not [address for _, address, _ in found if address.endswith((":5065", ":5064", ":5075", ":5076"))]
        assert {protocol for protocol, _, _ in found} <= {"tcp", "udp"}


def test_it_needs_a_moment_to_be_ready() -> None:
    # How many milliseconds is for integration/benchmarks/beamline.py to say.
    start = time.monotonic()
    with Beamline():
        assert time.monotonic() - start < 5.0


def test_several_run_at_once() -> None:
    with ExitStack() as stack:
        beamlines = [stack.enter_context(Beamline(prefix=f"bl{i}:")) for i in range(4)]
        ports = [port for beamline in beamlines for port in beamline.ports.values()]
        assert len(set(ports)) == len(ports)


def test_the_ready_line_is_all_that_standard_output_carries() -> None:
    beamline = Beamline()
    process = subprocess.Popen([*beamline.command(), "--ophyd-names"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    process.stdin.close()

    assert process.stdout.read() == b""
    assert process.wait(LIMIT) == 0
    assert (ready["ready"], ready["prefix"], ready["pid"]) == (True, "bl:", process.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [Beamline().command()[0]],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)

    assert process.wait(LIMIT) == 0
    assert list(temporary.iterdir()) == []


def test_a_signal_while_it_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [Beamline().command()[0]],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    # It unpacks its databases, which the start needs.
    end = time.monotonic() + LIMIT
    while not list(tmp_path.iterdir()):
        assert time.monotonic() < end
        assert process.poll() is None
    process.terminate()

    assert process.wait(LIMIT) == 0
    assert process.stdout is not None
    assert process.stdout.read() == b""
    assert list(tmp_path.iterdir()) == []


def test_after_a_kill_it_starts_on_the_same_ports() -> None:
    beamline = Beamline().start()
    ports = dict(beamline.ports)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", ports["ca_port"])):
            beamline.kill()
        beamline.start()
        assert beamline.ports == ports
    assert beamline.stop() == 0


def test_it_ends_with_its_parent() -> None:
    program = f"""
import subprocess, sys
process = subprocess.Popen({Beamline().command()!r}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print(process.stdout.readline().decode(), flush=True)
sys.stdin.read()
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = json.loads(parent.stdout.readline())["pid"]
    parent.kill()
    parent.wait()
    end = time.monotonic() + LIMIT
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < end, f"{pid} lives on"


@pytest.mark.parametrize("name", ["ca_port", "pva_port"])
def test_a_port_that_is_taken_is_refused(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [Beamline().command()[0], f"--{name.replace('_', '-')}", str(port)],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    assert (done.returncode, done.stdout) == (3, "")
    protocol = {"ca_port": "Channel Access", "pva_port": "pvAccess"}[name]
    assert done.stderr.startswith(f"epicsrs-beamline: {protocol} port {port} on 127.0.0.1 cannot be had:")


@pytest.mark.parametrize(("taken", "ports", "starts"), [(2, {}, 3), (9, {}, 5), (9, {"ca_port": 1}, 5), (9, GIVEN, 1)])
def test_another_free_port_is_looked_for_where_one_is_gone(
    taken: int, ports: dict[str, int], starts: int, tmp_path: Path
) -> None:
    tries = tmp_path / "tries"
    program = tmp_path / "program"
    real = Beamline().command()[0]
    program.write_text(
        f'#!/bin/sh\necho >> "{tries}"\n[ $(wc -l < "{tries}") -gt {taken} ] || exit 3\nexec "{real}" "$@"\n'
    )
    program.chmod(0o755)
    beamline = Beamline(executable=program, **ports)

    if taken < starts:
        assert beamline.start().stop() == 0
    else:
        with pytest.raises(BeamlineError, match="exit status 3"):
            beamline.start()

    assert len(tries.read_text().splitlines()) == starts


@pytest.mark.parametrize(
    "record",
    [
        'record(ao, "$(P)extra") { field(NOSUCH, "1") }',
        'record(nosuch, "$(P)extra") { }',
        'record(ao, "$(P)extra") { field(VAL, "1")',
    ],
)
def test_a_bad_record_stops_the_start(record: str, tmp_path: Path) -> None:
    database = tmp_path / "extra.db"
    database.write_text(record)
    beamline = Beamline(databases=[database], log=tmp_path / "log")

    with pytest.raises(BeamlineError, match="exit status 1"):
        beamline.start()
    assert "extra.db" in beamline.said()


def test_a_database_of_the_users_is_served(tmp_path: Path) -> None:
    database = tmp_path / "extra.db"
    database.write_text('record(ao, "$(P)extra") { field(VAL, "1") }')
    with Beamline(databases=[database], log=tmp_path / "log"):
        pass
    assert (tmp_path / "log").stat().st_size > 0


def test_what_is_wrong_with_the_command_line_is_said() -> None:
    done = subprocess.run([Beamline().command()[0], "--nonsense"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "epicsrs-beamline: --nonsense is no option; --help lists them\n")


def test_garbage_on_its_ports_does_not_end_it() -> None:
    with Beamline() as beamline:
        for name in ("ca_port", "pva_port"):
            for length in (1, 100, 100_000):
                with socket.create_connection(("127.0.0.1", beamline.ports[name])) as connection:
                    connection.sendall(bytes(range(256)) * (length // 256 + 1))
        assert beamline.stop() == 0
