"""pvAccess servers that answer wrongly: a typed error that names the PV, in time, and no wrong value.

Each PV of programs/hostile_pva.py has its own way; its name says which.
"""

from collections.abc import Iterator

import pytest

from deadline import Stopwatch, until
from epicsrs_native import EpicsError, NotConnectedError, RemoteError, ReplyTimeoutError
from footprint import resident
from hostile import TIMEOUT, Call, Served, refused, serving
from ioc import NETWORK

MIB = 2**20
# To find a server again, with slack.
BACK = 20.0

BAD_TYPES = [
    "unknown_type_code",
    "type_of_unknown_id",
    "endless_type",
    "type_of_two_billion_fields",
    "type_that_ends_early",
    "no_type",
]
BAD_VALUES = [
    "value_that_ends_early",
    "no_value",
    "two_billion_bits",
    "string_of_two_billion",
    "string_of_negative_size",
]
BROKEN = ["reset_in_mid_payload", "end_in_mid_header", "end_in_mid_payload", "not_a_message", "gone"]


@pytest.fixture
def served() -> Iterator[Served]:
    """A server that has seen no client."""
    with serving("hostile_pva.py", NETWORK.iocs[7].search, "pva") as channel:
        yield channel


def test_a_sane_answer_is_a_value(served: Served, call: Call) -> None:
    """So that what fails below fails for its own reason."""
    channel = served("sane")
    for form in ("value", "time", "ctrl"):
        assert call(channel.get, form=form).value == 3.25
    values: list[float] = []
    subscription = call(channel.monitor, lambda reading: values.append(reading.value))
    until(lambda: values == [3.25])
    subscription.close()


@pytest.mark.parametrize("name", ["black_hole", "never_validated", "refused"])
def test_a_server_that_makes_no_channel_is_not_connected(served: Served, call: Call, name: str) -> None:
    channel = served(name)
    for _ in range(2):
        refused(call, channel, NotConnectedError)
    assert not channel.connected


@pytest.mark.parametrize("name", ["deaf", "no_type_ever", "stalled_in_mid_payload", "unknown_request"])
def test_an_answer_that_does_not_come_is_no_reply(served: Served, call: Call, name: str) -> None:
    channel = served(name)
    channel.connect()
    refused(call, channel, ReplyTimeoutError)


@pytest.mark.parametrize("name", BROKEN)
def test_a_connection_that_breaks_in_mid_answer_is_lost_at_once_and_made_again(
    served: Served, call: Call, name: str
) -> None:
    channel = served(name)
    channel.connect()
    refused(call, channel, NotConnectedError)

    assert call(channel.get, timeout=BACK).value == 3.25


def test_an_answer_byte_by_byte_is_the_answer(served: Served, call: Call) -> None:
    for form in ("value", "time", "ctrl"):
        assert call(served("byte_at_a_time").get, form=form).value == 3.25


@pytest.mark.parametrize("name", [*BAD_TYPES, *BAD_VALUES, "unknown_status"])
def test_an_answer_that_cannot_be_read_is_an_error_that_says_so(served: Served, call: Call, name: str) -> None:
    channel = served(name)
    channel.connect()
    before = resident()

    assert "decode error" in refused(call, channel, EpicsError)

    assert resident() - before < 64 * MIB


@pytest.mark.parametrize("name", [*BAD_TYPES, *BAD_VALUES])
def test_a_first_update_that_cannot_be_read_is_an_error(served: Served, call: Call, name: str) -> None:
    channel = served(name)
    channel.connect()
    watch = Stopwatch()

    with pytest.raises(EpicsError, match=channel.pv) as caught:
        call(channel.monitor, str, timeout=TIMEOUT)

    assert watch.elapsed <= TIMEOUT + 0.2
    assert caught.value.pv == channel.pv


def test_a_refusal_carries_the_words_of_the_server(served: Served, call: Call) -> None:
    channel = served("get_failed")
    for _ in range(3):
        assert "broken beyond repair" in refused(call, channel, RemoteError)
    assert channel.connected


def test_a_refused_channel_carries_the_words_of_the_server(served: Served, call: Call) -> None:
    assert "not for you" in refused(call, served("refused"), NotConnectedError)


def test_an_answer_beyond_the_receive_limit_is_an_error_at_once(served: Served, call: Call) -> None:
    channel = served("four_gigabytes")
    channel.connect()
    before, watch = resident(), Stopwatch()

    with pytest.raises(EpicsError, match=channel.pv):
        call(channel.get, timeout=10.0)

    assert watch.elapsed < 1.0
    assert resident() - before < 64 * MIB


@pytest.mark.parametrize("name", ["unknown_request_first", "unknown_command"])
def test_answers_to_nobody_are_ignored(served: Served, call: Call, name: str) -> None:
    channel = served(name)
    assert [call(channel.get).value for _ in range(5)] == [3.25] * 5


def test_an_answer_that_comes_twice_is_taken_once(served: Served, call: Call) -> None:
    channel = served("twice")
    assert [call(channel.get).value for _ in range(5)] == [3.25, 4.25, 5.25, 6.25, 7.25]


def test_an_answer_that_comes_too_late_is_dropped(served: Served, call: Call) -> None:
    channel = served("late")
    refused(call, channel, ReplyTimeoutError)
    assert [call(channel.get).value for _ in range(5)] == [3.25] * 5


def test_a_string_that_is_not_utf_8_comes_through(served: Served, call: Call) -> None:
    reading = call(served("strings").get)
    assert reading.value.encode(errors="surrogateescape") == b"20\xb0C"
    repr(reading)


def test_a_search_that_was_lost_is_sent_again(served: Served) -> None:
    served("first_search_lost").connect(timeout=BACK)


def test_servers_that_do_not_answer_cost_nothing_that_stays(served: Served, call: Call) -> None:
    """Channels and calls on them come and go; the fixtures count threads and descriptors."""
    for _ in range(10):
        for name in ("black_hole", "never_validated", "deaf", "no_value"):
            channel = served(name)
            with pytest.raises(EpicsError):
                call(channel.get, timeout=0.05)
            channel.close()
