"""configure(): the client's parameters from the program, in place of the environment."""

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from epicsrs_native import configure, get_context
from ioc import HERE, NETWORK, Ioc


def configured(settings: dict[str, Any], *pvs: str) -> dict[str, Any]:
    """What programs/configured.py says, without an EPICS variable in its environment."""
    done = subprocess.run(
        [sys.executable, str(HERE / "programs/configured.py"), json.dumps(settings), *pvs],
        env={name: value for name, value in os.environ.items() if not name.startswith("EPICS_")},
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def parameters(ioc: Ioc) -> dict[str, Any]:
    """What a client needs to find this IOC and no other."""
    return {
        "EPICS_CA_ADDR_LIST": ["127.0.0.1:1", f"127.0.0.1:{ioc.ports.ca}"],
        "EPICS_CA_AUTO_ADDR_LIST": False,
        "EPICS_CA_REPEATER_PORT": NETWORK.repeater,
        "EPICS_PVA_ADDR_LIST": f"127.0.0.1:{ioc.ports.search}",
        "EPICS_PVA_AUTO_ADDR_LIST": False,
        "EPICS_PVA_BROADCAST_PORT": NETWORK.beacons,
    }


def test_a_program_configures_its_client(ioc: Ioc, protocol: str) -> None:
    said = configured(parameters(ioc), ioc.pv("double", protocol))

    assert said["answers"][0][0] == 3.25
    assert said["config"]["EPICS_CA_ADDR_LIST"] == f"127.0.0.1:1 127.0.0.1:{ioc.ports.ca}"
    assert said["config"]["EPICS_CA_AUTO_ADDR_LIST"] == "NO"
    assert "shutdown_all" in said["again"]
    assert said["environment"] == []


def test_name_servers_are_enough(ioc: Ioc, protocol: str) -> None:
    settings = {
        "EPICS_CA_NAME_SERVERS": f"127.0.0.1:{ioc.ports.ca}",
        "EPICS_CA_AUTO_ADDR_LIST": False,
        "EPICS_CA_REPEATER_PORT": NETWORK.repeater,
        "EPICS_PVA_NAME_SERVERS": [f"127.0.0.1:{ioc.ports.pva}"],
        "EPICS_PVA_AUTO_ADDR_LIST": False,
        "EPICS_PVA_BROADCAST_PORT": NETWORK.beacons,
    }

    assert configured(settings, ioc.pv("double", protocol))["answers"][0][0] == 3.25


def test_a_reply_over_the_limit_is_an_error_at_once_and_the_circuit_stays(ioc: Ioc) -> None:
    ioc.channel("large").put([1.5] * 100_000)
    settings = {**parameters(ioc), "EPICS_CA_MAX_ARRAY_BYTES": 20_000, "EPICS_CA_AUTO_ARRAY_BYTES": False}

    said = configured(settings, ioc.pv("double"), ioc.pv("large"), ioc.pv("double"))

    (before, _), (refused, seconds), (after, _) = said["answers"]
    assert before == after == 3.25
    assert re.search(rf"{ioc.pv('large')}.*larger than the receive limit of 20024 bytes", refused)
    assert seconds < 2.0


def test_the_usual_limit_lets_large_arrays_pass(ioc: Ioc) -> None:
    ioc.channel("large").put([1.5] * 100_000)

    assert configured(parameters(ioc), ioc.pv("large"))["answers"][0][0] == 100_000


def test_the_context_says_how_it_is_configured(ioc: Ioc) -> None:
    config = get_context().config

    assert config["EPICS_CA_AUTO_ADDR_LIST"] == "NO"
    assert config["EPICS_PVA_ADDR_LIST"] == os.environ["EPICS_PVA_ADDR_LIST"]


def test_an_open_client_is_not_configured_again(ioc: Ioc) -> None:
    ioc.channel("double").connect()

    with pytest.raises(RuntimeError, match="open already"):
        configure(EPICS_CA_ADDR_LIST="127.0.0.1")


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("EPICS_CA_ADDRESSES", "127.0.0.1", ValueError),
        ("EPICS_CA_ADDR_LIST", 5, TypeError),
        ("EPICS_CA_ADDR_LIST", [5], TypeError),
        ("EPICS_CA_SERVER_PORT", 70_000, ValueError),
        ("EPICS_CA_SERVER_PORT", 0, ValueError),
        ("EPICS_CA_SERVER_PORT", "5064", TypeError),
        ("EPICS_CA_SERVER_PORT", True, TypeError),
        ("EPICS_CA_AUTO_ADDR_LIST", "NO", TypeError),
        ("EPICS_CA_CONN_TMO", -1.0, ValueError),
        ("EPICS_CA_CONN_TMO", float("nan"), ValueError),
        ("EPICS_CA_CONN_TMO", "30", TypeError),
    ],
)
def test_a_bad_parameter_is_named(name: str, value: Any, error: type[Exception]) -> None:
    given = "float('nan')" if value != value else repr(value)
    program = f"""
from epicsrs_native import configure
try:
    configure({name}={given})
except Exception as error:
    print(type(error).__name__, error)
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60.0, check=False)

    assert done.stdout.startswith(f"{error.__name__} {name}"), (done.stdout, done.stderr)
