"""fast_event_page_validation: the same verdicts as event-model's own, without looking at each element."""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import event_model
import numpy as np
import pytest
from event_model import DocumentNames, schema_validators
from hypothesis import event, given, settings
from hypothesis import strategies as st
from jsonschema import ValidationError

from epicsrs_bulk import fast_event_page_validation

PAGE: dict[str, Any] = {
    "descriptor": "d",
    "uid": ["a", "b"],
    "seq_num": [1, 2],
    "time": [1.0, 2.0],
    "data": {"i0": [1.0, 2.0], "name": ["x", "y"], "spectrum": [[1, 2], [3, 4]]},
    "timestamps": {"i0": [1.0, 2.0], "name": [1.0, 2.0], "spectrum": [1.0, 2.0]},
    "filled": {"i0": [True, "f"]},
}
# What a key of a page may turn out to be.
THINGS: list[Any] = [
    None, 0, 1.5, "text", True, [], {}, [1, "a", None], ["a"], [[1], [2]], (1, 2), {"i0": 3}, {"i0": None}, {"i0": "x"},
    {"i0": {}}, {"i0": [1]}, {3: [1]}, {"i0": (1,)}, {"i0": np.array([1, 2])}, {"i0": np.float64(3)},
    {"i0": np.array(5)}, {"i0": np.zeros((2, 2))}, {"i0": np.array(["a"])}, {"i0": [np.int64(3)]}, np.arange(3),
    {"i0": [object()]}, {"i0": range(2)}, {"i0": {1, 2}}, [1.0, "a"], [True], [None],
]  # fmt: skip

# What else JSON can hold.
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=2),
    lambda part: st.lists(part, max_size=2) | st.dictionaries(st.text(max_size=2), part, max_size=2),
    max_leaves=3,
)


def verdict(page: Any) -> tuple[type[Exception], str] | None:
    """What event-model's present validator has against a page; None where it accepts it."""
    try:
        schema_validators[DocumentNames.event_page].validate(page)
    except Exception as error:
        return type(error), str(error)
    return None


@st.composite
def pages(draw: st.DrawFn) -> dict[str, Any]:
    """A page with up to three things wrong with it."""
    page = copy.deepcopy(PAGE)
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from([*PAGE, "extra"]))
        how = draw(st.sampled_from(["leave out", "change a column", "replace"]))
        if how == "leave out":
            page.pop(key, None)
        elif how == "change a column" and isinstance(page.get(key), dict):
            page[key][draw(st.sampled_from(["i0", "name", "more"]))] = draw(st.sampled_from(THINGS) | json)
        else:
            page[key] = draw(st.sampled_from(THINGS) | json)
    return page


@settings(max_examples=100, deadline=None)
@given(pages())
def test_the_verdicts_are_those_of_event_model(page: dict[str, Any]) -> None:
    stock = verdict(page)

    with fast_event_page_validation() as changed:
        quick = verdict(page)

    assert changed
    assert quick == stock
    event("accepted" if stock is None else f"refused: {stock[0].__name__}")


class Counting:
    """An array that counts how often somebody asks for an element."""

    def __init__(self, length: int) -> None:
        self.asked = 0
        self._length = length

    def __array__(self) -> Any:
        raise AssertionError("not needed to validate")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> float:
        self.asked += 1
        return 0.0


def test_elements_are_not_looked_at() -> None:
    column = Counting(1000)
    page = {**PAGE, "data": {"i0": column}, "timestamps": {"i0": column}}

    with fast_event_page_validation():
        assert verdict(page) is None
    assert column.asked == 0

    assert verdict(page) is None
    assert column.asked >= 2000, "event-model's own asks once for each element and column, at least"


def test_run_bundles_compose_pages_as_before() -> None:
    run = event_model.compose_run()
    descriptor = run.compose_descriptor(
        name="primary", data_keys={"i0": {"source": "ca://X", "dtype": "number", "shape": []}}
    )
    with fast_event_page_validation():
        page = descriptor.compose_event_page(data={"i0": np.arange(3.0)}, timestamps={"i0": np.arange(3.0)})
        assert list(page["seq_num"]) == [1, 2, 3]
        with pytest.raises(ValidationError):
            descriptor.compose_event_page(data={"i0": "abc"}, timestamps={"i0": np.arange(3.0)})


def test_the_own_validator_is_back_afterwards() -> None:
    before = schema_validators[DocumentNames.event_page]

    with pytest.raises(LookupError), fast_event_page_validation():
        with fast_event_page_validation() as changed:
            assert changed
        assert schema_validators[DocumentNames.event_page] is not before
        raise LookupError

    assert schema_validators[DocumentNames.event_page] is before


def test_many_threads_may_enter_and_leave() -> None:
    before = schema_validators[DocumentNames.event_page]

    def enter_and_leave(n: int) -> bool:
        with fast_event_page_validation() as changed:
            return changed and verdict(PAGE) is None

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(enter_and_leave, range(200)))
    assert schema_validators[DocumentNames.event_page] is before


@pytest.mark.parametrize(
    "change",
    [
        {"unevaluatedProperties": True},
        {"additionalProperties": False},
        {"allOf": [{"$ref": "#/$defs/PartialEventPage"}, {"type": "object"}]},
        {"allOf": [{"$ref": "other.json"}]},
    ],
)
def test_it_changes_nothing_where_upstreams_schema_has_another_form(change: dict[str, Any]) -> None:
    stock = schema_validators[DocumentNames.event_page]
    other = type(stock)(schema={**stock.schema, **change})
    schema_validators[DocumentNames.event_page] = other
    try:
        with fast_event_page_validation() as changed:
            assert not changed
            assert schema_validators[DocumentNames.event_page] is other
        assert schema_validators[DocumentNames.event_page] is other
    finally:
        schema_validators[DocumentNames.event_page] = stock


def test_it_changes_nothing_where_upstreams_schema_is_mended() -> None:
    def mended(part: Any) -> Any:
        if isinstance(part, list):
            return [mended(item) for item in part]
        if not isinstance(part, dict):
            return part
        return {key: mended(item) for key, item in part.items() if (key, item) != ("items", {})}

    stock = schema_validators[DocumentNames.event_page]
    other = type(stock)(schema=mended(stock.schema))
    schema_validators[DocumentNames.event_page] = other
    try:
        with fast_event_page_validation() as changed:
            assert not changed
            assert schema_validators[DocumentNames.event_page] is other
    finally:
        schema_validators[DocumentNames.event_page] = stock


def test_the_rest_of_a_validator_is_event_models_own() -> None:
    with fast_event_page_validation():
        validator = schema_validators[DocumentNames.event_page]
        assert [error.message for error in validator.iter_errors({**PAGE, "time": None})]
        assert "unevaluatedProperties" in validator.schema


def test_what_somebody_else_puts_there_meanwhile_stays() -> None:
    stock = schema_validators[DocumentNames.event_page]
    other = type(stock)(schema={})
    try:
        with fast_event_page_validation():
            schema_validators[DocumentNames.event_page] = other
        assert schema_validators[DocumentNames.event_page] is other
    finally:
        schema_validators[DocumentNames.event_page] = stock
