"""Every operation has two forms with one signature, and says what it does."""

import asyncio
import inspect
import pydoc
from typing import Any

import pytest

import epicsrs_native
from epicsrs_native import (
    Channel,
    Columns,
    Context,
    Delivery,
    Info,
    Limits,
    Metadata,
    Operation,
    Reading,
    Subscription,
    Watch,
)
from ioc import Ioc

CLASSES = [Channel, Columns, Context, Delivery, Info, Limits, Metadata, Reading, Subscription, Watch]
TWINS = [
    (kind, name.removesuffix("_async")) for kind in CLASSES for name in sorted(vars(kind)) if name.endswith("_async")
]
WAITING = ["connect", "get", "put", "monitor", "info"]


def public(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_")]


def test_every_waiting_call_of_a_channel_has_a_twin() -> None:
    assert {name for kind, name in TWINS if kind is Channel} == set(WAITING)


@pytest.mark.parametrize(("kind", "name"), TWINS, ids=lambda part: getattr(part, "__name__", part))
def test_twins_have_one_signature(kind: type, name: str) -> None:
    plain = inspect.signature(getattr(kind, name))
    twin = inspect.signature(getattr(kind, f"{name}_async"))

    assert list(plain.parameters.values()) == list(twin.parameters.values())
    timeout = plain.parameters["timeout"]
    assert timeout.kind is inspect.Parameter.KEYWORD_ONLY
    assert timeout.default == 5.0


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_everything_public_has_a_docstring(kind: type) -> None:
    assert kind.__doc__, kind
    assert [name for name in public(kind) if not (getattr(kind, name).__doc__ or "").strip()] == []


@pytest.mark.parametrize("name", ["get_context", "shutdown_all", "caught_panic_count", "get_delivery", "require_abi"])
def test_functions_have_a_docstring(name: str) -> None:
    assert (getattr(epicsrs_native, name).__doc__ or "").strip()


def test_help_on_get_tells_units_errors_and_timeout() -> None:
    text = pydoc.render_doc(Channel.get, renderer=pydoc.plaintext)

    for word in ("units", "NotConnectedError", "ReplyTimeoutError", "timeout"):
        assert word in text


@pytest.mark.parametrize("name", WAITING)
def test_a_twin_gives_an_operation_of_the_running_loop(ioc: Ioc, protocol: str, name: str) -> None:
    channel = ioc.channel("double", protocol)
    arguments: dict[str, list[Any]] = {"put": [3.25], "monitor": [str]}

    async def main() -> None:
        operation = getattr(channel, f"{name}_async")(*arguments.get(name, []))
        assert isinstance(operation, Operation)
        assert operation.get_loop() is asyncio.get_running_loop()
        await operation

    asyncio.run(main())


@pytest.mark.parametrize("name", WAITING)
def test_a_twin_without_a_running_loop_is_an_error(ioc: Ioc, protocol: str, name: str) -> None:
    channel = ioc.channel("double", protocol)
    arguments: dict[str, list[Any]] = {"put": [3.25], "monitor": [str]}

    with pytest.raises(RuntimeError, match="loop"):
        getattr(channel, f"{name}_async")(*arguments.get(name, []))
