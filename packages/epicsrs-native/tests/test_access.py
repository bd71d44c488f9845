"""A record that may not be read: nothing is sent, all are told, and a monitor goes on when the right comes back."""

from collections.abc import Callable
from typing import Any

import pytest

from deadline import Stopwatch, until
from epicsrs_native import AccessDeniedError, Delivery, Reading, get_context
from ioc import Ioc

Call = Callable[..., Any]


@pytest.fixture
def gate(ioc: Ioc) -> Callable[[float], None]:
    """Shuts and opens the secret record."""
    channel, secret = ioc.channel("secret_gate"), ioc.channel("secret")

    def move(value: float) -> None:
        channel.put(value)
        until(lambda: secret.info().readable is (value == 0))

    move(0.0)
    return move


@pytest.mark.parametrize("form", ["value", "time", "ctrl"])
def test_what_may_not_be_read_is_an_error_at_once(
    ioc: Ioc, call: Call, gate: Callable[[float], None], form: str
) -> None:
    channel = ioc.channel("secret")
    gate(1.0)
    watch = Stopwatch()
    try:
        for operation in (channel.get, channel.monitor):
            with pytest.raises(AccessDeniedError, match=channel.pv) as caught:
                call(operation, form=form)
            assert caught.value.pv == channel.pv
        [result] = call(get_context().get_many, [channel], form=form)
        assert isinstance(result, AccessDeniedError) and result.pv == channel.pv
        assert channel.connected and watch.elapsed < 1.0
    finally:
        gate(0.0)
    assert call(channel.get, form=form).value == 7.0


def test_a_monitor_goes_on_when_the_right_comes_back(ioc: Ioc, lane: Delivery, gate: Callable[[float], None]) -> None:
    channel = ioc.channel("secret")
    rights: list[tuple[object, object]] = []
    readings: list[Reading] = []
    watch = channel.on_access(lambda read, write: rights.append((read, write)), delivery=lane)
    subscription = channel.monitor(readings.append, delivery=lane)
    until(lambda: readings)

    gate(1.0)
    gate(0.0)

    until(lambda: len(readings) > 1 and len(rights) == 3)
    assert rights == [(True, False), (False, False), (True, False)]
    assert {reading.value for reading in readings} == {7.0}
    subscription.close()
    watch.close()
