"""The comparison of epicsrs_native's names with the snapshot: each kind of change on purpose."""

import abi
import pytest

SNAPSHOT = abi.SNAPSHOT.read_text()
GET = "def get(self, /, *, form='time', count=None,"


def changed(before: str, after: str) -> str:
    assert before in SNAPSHOT
    return SNAPSHOT.replace(before, after)


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        (GET, GET.replace("count=", "elements="), "Channel.get(count)"),
        (GET, GET.replace("form='time'", "form='ctrl'"), "Channel.get(form)"),
        (GET, GET.replace("*,", "*, protocol,"), "Channel.get(protocol)"),
        ("def get_many(", "def read_many(", "Context.get_many"),
        ("    dropped: ...\n", "", "Subscription.dropped"),
        ("    severity: ...\n    status: ...\n    timestamp: ", "    severity: ...\n    timestamp: ", "Reading.status"),
        ("class NotConnectedError(EpicsError, ConnectionError):", "class NotConnectedError(EpicsError):", "NotConn"),
        ("def get_delivery(): ...\n", "", "get_delivery"),
    ],
)
def test_what_breaks_an_adapter_is_found(before: str, after: str, what: str) -> None:
    found = abi.breakages(SNAPSHOT, changed(before, after))

    assert any(what in line for line in found), found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        (GET, GET.replace("count=", "fresh=True, count=")),
        ("def get_delivery(", "def get_subscriptions(): ...\ndef get_delivery("),
        ("    dropped: ...\n", "    dropped: ...\n    late: ...\n"),
    ],
)
def test_what_is_added_passes(before: str, after: str) -> None:
    assert abi.breakages(SNAPSHOT, changed(before, after)) == []


def test_the_names_of_the_compiled_module_are_compared_with_their_keywords() -> None:
    assert GET in abi.current()
