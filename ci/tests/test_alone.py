"""What the separation jobs would find."""

import alone
import pytest


@pytest.mark.parametrize(
    ("adapter", "brought", "found"),
    [
        ("ophyd-epicsrs-async", {"ophyd-async", "bluesky", "numpy"}, []),
        ("ophyd-epicsrs-async", {"ophyd-async", "ophyd", "p4p"}, ["ophyd", "p4p"]),
        ("ophyd-epicsrs-sync", {"ophyd", "ophyd-async"}, ["ophyd-async"]),
        ("epicsrs-bulk", {"bluesky", "ophyd-epicsrs-sync"}, ["ophyd-epicsrs-sync"]),
        ("epicsrs-bulk", {"bluesky", "ophyd"}, ["ophyd"]),
    ],
)
def test_siblings_and_transports_in_the_tree_are_found(adapter: str, brought: set[str], found: list[str]) -> None:
    assert alone.unexpected(adapter, {adapter, "epicsrs-native"} | brought) == found


@pytest.mark.parametrize("adapter", alone.ADAPTERS)
def test_each_adapter_declares_a_native_that_is_built_for_its_test(adapter: str) -> None:
    assert f"{alone.floor(adapter)}.0" in {f"{alone.this_native()}.0", *alone.versions()}
    assert f"{alone.next_native()}.0" in alone.versions()
