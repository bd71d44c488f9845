"""What `import epicsrs_native` gives, and what it costs."""

import asyncio
import subprocess
import sys

import pytest

import epicsrs_native

NAMES = """ABI Channel Context Delivery EnumValue EpicsError NotConnectedError ReplyTimeoutError RemoteError
AccessDeniedError Info Limits Metadata Reading Subscription Watch Operation caught_panic_count get_context
get_delivery require_abi shutdown_all __version__""".split()

IMPORT = """
import os, sys
threads = len(os.listdir("/proc/self/task"))
files = len(os.listdir("/proc/self/fd"))
before = set(sys.modules)
import epicsrs_native
print(*(sorted({"numpy", "asyncio", "logging"} & (set(sys.modules) - before))))
print(len(os.listdir("/proc/self/task")) - threads, len(os.listdir("/proc/self/fd")) - files)
"""


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there(name: str) -> None:
    assert hasattr(epicsrs_native, name)
    assert name in epicsrs_native.__all__


def test_import_is_light() -> None:
    """No numpy, asyncio or logging, no thread and no socket before they are needed."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=20, check=True)

    assert done.stdout.splitlines() == ["", "0 0"]
    assert done.stderr == ""


def test_operation_is_an_asyncio_future() -> None:
    assert issubclass(epicsrs_native.Operation, asyncio.Future)


def test_abi_is_major_and_minor_of_the_version() -> None:
    assert epicsrs_native.ABI == tuple(map(int, epicsrs_native.__version__.split(".")[:2]))


def test_require_abi_accepts_this_version_and_older_minors() -> None:
    major, minor = epicsrs_native.ABI

    for wanted in range(minor + 1):
        epicsrs_native.require_abi(major, wanted, "some-adapter")


@pytest.mark.parametrize("step", [(0, 1), (1, 0), (-1, 0)], ids=["newer minor", "newer major", "older major"])
def test_require_abi_refuses_another_version_and_says_which(step: tuple[int, int]) -> None:
    major, minor = epicsrs_native.ABI[0] + step[0], epicsrs_native.ABI[1] + step[1]

    with pytest.raises(ImportError) as caught:
        epicsrs_native.require_abi(major, minor, "some-adapter")

    message = str(caught.value)
    assert f"some-adapter needs epicsrs-native>={major}.{minor},<{major + 1}" in message
    assert f"found {epicsrs_native.__version__}" in message
