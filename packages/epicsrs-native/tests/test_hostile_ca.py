"""Channel Access servers that answer wrongly: a typed error that names the PV, in time, and no wrong value.

Each PV of programs/hostile_ca.py has its own way; its name says which.
"""

import asyncio
from collections.abc import Iterator

import pytest

from client import Client
from deadline import Stopwatch, until
from epicsrs_native import (
    EnumValue,
    EpicsError,
    NotConnectedError,
    RemoteError,
    ReplyTimeoutError,
)
from hostile import PREFIX, TIMEOUT, Call, Served, refused, serving
from ioc import NETWORK

PORTS = NETWORK.iocs[7]
# To find a server again, with slack: it sends no beacons, and the client searches every second.
BACK = 10.0


@pytest.fixture
def served() -> Iterator[Served]:
    """A server that has seen no client."""
    with serving("hostile_ca.py", PORTS.ca, "ca") as channel:
        yield channel


@pytest.mark.parametrize("form", ["value", "time", "ctrl"])
def test_a_sane_answer_is_a_value(served: Served, call: Call, form: str) -> None:
    """So that what fails below fails for its own reason."""
    assert call(served("sane").get, form=form).value == 3.25


@pytest.mark.parametrize("name", ["black_hole", "refused"])
def test_a_server_that_makes_no_channel_is_not_connected(served: Served, call: Call, name: str) -> None:
    channel = served(name)
    for _ in range(2):
        refused(call, channel, NotConnectedError)
    assert not channel.connected


@pytest.mark.parametrize("name", ["deaf", "stalled_in_mid_payload", "unknown_request"])
def test_an_answer_that_does_not_come_is_no_reply(served: Served, call: Call, name: str) -> None:
    channel = served(name)
    channel.connect()
    for _ in range(2):
        refused(call, channel, ReplyTimeoutError)
    assert channel.connected


@pytest.mark.parametrize(
    "name", ["reset_in_mid_payload", "end_in_mid_header", "end_in_mid_payload", "gone", "unknown_command"]
)
def test_a_circuit_that_breaks_in_mid_answer_is_lost_at_once(served: Served, call: Call, name: str) -> None:
    channel = served(name)
    channel.connect()
    refused(call, channel, NotConnectedError)


@pytest.mark.parametrize("name", ["reset_in_mid_payload", "end_in_mid_header"])
def test_a_broken_circuit_is_made_again(served: Served, name: str) -> None:
    channel = served(name)
    channel.connect()
    with pytest.raises(NotConnectedError):
        channel.get()

    assert channel.get(timeout=BACK).value == 3.25


@pytest.mark.parametrize("form", ["value", "time", "ctrl"])
def test_an_answer_byte_by_byte_is_the_answer(served: Served, call: Call, form: str) -> None:
    assert call(served("byte_at_a_time").get, form=form).value == 3.25


def test_a_monitor_byte_by_byte_is_a_monitor(served: Served, call: Call) -> None:
    values: list[float] = []
    subscription = call(served("byte_at_a_time").monitor, lambda reading: values.append(reading.value))
    until(lambda: values == [3.25])
    subscription.close()


@pytest.mark.parametrize("form", ["time", "ctrl"])
@pytest.mark.parametrize("name", ["no_payload", "half_a_time", "unknown_type"])
def test_an_answer_that_cannot_be_read_is_an_error_that_says_so(
    served: Served, call: Call, name: str, form: str
) -> None:
    channel = served(name)

    words = refused(call, channel, EpicsError, form=form)

    assert "DBR type" in words
    assert channel.connected


@pytest.mark.parametrize(
    "name", ["half_a_time", "unknown_type", "unknown_status", "fewer_bytes_than_count", "another_type"]
)
def test_a_first_update_that_cannot_be_read_is_an_error(served: Served, call: Call, name: str) -> None:
    channel = served(name)
    with pytest.raises(EpicsError, match=channel.pv):
        call(channel.monitor, str, timeout=TIMEOUT)


@pytest.mark.parametrize("form", ["value", "time", "ctrl"])
@pytest.mark.parametrize("name", ["fewer_bytes_than_count", "another_type"])
def test_an_answer_that_is_not_what_was_asked_for_is_an_error(served: Served, call: Call, name: str, form: str) -> None:
    channel = served(name)

    assert "DBR type" in refused(call, channel, EpicsError, form=form)

    assert channel.connected


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("get_failed", "Channel read request failed"),
        ("error_message", "data type specified is invalid"),
        ("unknown_status", "caerr.h"),
    ],
)
def test_a_refusal_carries_the_words_of_its_status(served: Served, call: Call, name: str, words: str) -> None:
    assert words in refused(call, served(name), RemoteError)


def test_an_answer_beyond_the_receive_limit_is_an_error_at_once(served: Served, call: Call) -> None:
    channel = served("four_gigabytes")
    channel.connect()
    watch = Stopwatch()

    with pytest.raises(EpicsError, match=channel.pv):
        call(channel.get, timeout=10.0)

    assert watch.elapsed < 1.0


def test_answers_to_nobody_are_ignored(served: Served, call: Call) -> None:
    channel = served("unknown_request_first")
    assert [call(channel.get).value for _ in range(5)] == [3.25] * 5


def test_an_answer_that_comes_twice_is_taken_once(served: Served, call: Call) -> None:
    channel = served("twice")
    assert [call(channel.get).value for _ in range(5)] == [3.25, 4.25, 5.25, 6.25, 7.25]


def test_an_answer_that_comes_too_late_is_dropped(served: Served, call: Call) -> None:
    channel = served("late")
    refused(call, channel, ReplyTimeoutError)
    assert [call(channel.get).value for _ in range(5)] == [3.25] * 5


def test_answers_in_another_order_go_to_their_own_requests(served: Served) -> None:
    channel = served("backwards")
    channel.connect()

    async def main() -> list[float]:
        return [reading.value for reading in await asyncio.gather(*(channel.get_async() for _ in range(3)))]

    for _ in range(3):
        assert asyncio.run(main()) == [0.0, 1.0, 2.0]


def test_an_answer_after_its_cancellation_is_dropped(served: Served) -> None:
    """Three are asked, one of them no more when they are answered."""
    channel = served("backwards")
    channel.connect()

    async def main() -> list[float]:
        first, second = channel.get_async(), channel.get_async()
        await asyncio.sleep(0.1)
        second.cancel()
        third = channel.get_async()
        return [(await first).value, (await third).value]

    assert asyncio.run(main()) == [0.0, 2.0]


def test_a_string_without_an_end_that_is_not_utf_8_comes_through(served: Served, call: Call) -> None:
    for form in ("value", "time", "ctrl"):
        reading = call(served("strings").get, form=form)
        assert reading.value.encode(errors="surrogateescape") == b"\xb5" * 40
        repr(reading)


def test_an_enum_beyond_its_labels_has_none(served: Served, call: Call) -> None:
    """Twenty labels are announced, sixteen can be, and the index is none of them."""
    channel = served("labels")

    for form in ("value", "time", "ctrl"):
        reading = call(channel.get, form=form)
        assert (type(reading.value), int(reading.value), reading.value.label) == (EnumValue, 65535, None)
        repr(reading)

    choices = channel.get(form="ctrl").metadata.choices
    assert [choice.encode(errors="surrogateescape") for choice in choices] == [
        b"%02d" % n + b"\xb5" * 24 for n in range(16)
    ]


def test_a_search_that_was_lost_is_sent_again(served: Served) -> None:
    served("first_search_lost").connect(timeout=2 * BACK)


def test_a_search_that_was_lost_is_sent_again_soon(served: Served) -> None:
    # Without the beacons of other servers, which hurry it.
    with Client({**NETWORK.client(PORTS), "EPICS_CA_REPEATER_PORT": str(PORTS.pva)}) as asked:
        assert asked.ask("get", PREFIX + "first_search_lost", 5.0) == 3.25


def test_a_server_with_an_unknown_type_harms_no_other(served: Served) -> None:
    with Client(NETWORK.client(PORTS)) as asked:
        assert asked.try_("get", PREFIX + "unknown_native_type", TIMEOUT)[0] == "raised"
        assert asked.try_("watch", PREFIX + "unknown_native_type", TIMEOUT)[0] == "raised"
        assert asked.ask("get", PREFIX + "sane") == 3.25
        asked.ask("watch", PREFIX + "sane")
        assert asked.ask("caught_panic_count") == 0


def test_servers_that_do_not_answer_cost_nothing_that_stays(served: Served, call: Call) -> None:
    """Channels and calls on them come and go; the fixtures count threads and descriptors."""
    for _ in range(10):
        for name in ("black_hole", "deaf", "no_payload"):
            channel = served(name)
            with pytest.raises(EpicsError):
                call(channel.get, timeout=0.05)
            channel.close()
