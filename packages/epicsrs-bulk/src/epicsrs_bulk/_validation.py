"""Validation of large EventPages without looking at each element, of which the schema asks nothing."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Generator

    from event_model import DocumentNames


@contextmanager
def fast_event_page_validation() -> Generator[bool]:
    """Let event-model accept valid EventPages in a small part of the time, for the whole process.

    event-model's schema of a page says of each column ``"items": {}``: elements of any kind; its validator looks at
    all of them, twice, to find out that this is so. Here they are counted only, and what is not accepted at once is
    left to event-model's own validator and its messages::

        with fast_event_page_validation():
            RE(plan())

    Yields:
        Whether it makes a difference; False where event-model's schema is not as described, and nothing is changed.
    """
    changed = _replacement.enter()
    try:
        yield changed
    finally:
        _replacement.leave()


class QuickValidator:
    """Accepts what the quick schema accepts; anything else is for the stock validator to judge."""

    def __init__(self, stock: Any, quick_schema: dict[str, Any]) -> None:
        self._stock = stock
        # Not by the stock validator's `evolve`, which would go on resolving "$ref" in the schema that it came from.
        self._quick = type(stock)(schema=quick_schema)

    def validate(self, doc: Any) -> None:
        if not self._quick.is_valid(doc):
            self._stock.validate(doc)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)


class _Replacement:
    """The validator of pages while anybody is inside, and the one to put back when the last one leaves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._stock: Any = None
        self._quick: Any = None

    def enter(self) -> bool:
        """Replace it; whether that makes a difference."""
        from event_model import DocumentNames

        validators = _validators()
        with self._lock:
            if self._inside == 0:
                self._stock = validators[DocumentNames.event_page]
                schema = _quick_schema(self._stock.schema)
                self._quick = self._stock if schema is None else QuickValidator(self._stock, schema)
                validators[DocumentNames.event_page] = self._quick
            self._inside += 1
            return self._quick is not self._stock

    def leave(self) -> None:
        """Put back what was there, unless somebody else has replaced it since."""
        from event_model import DocumentNames

        validators = _validators()
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and validators[DocumentNames.event_page] is self._quick:
                validators[DocumentNames.event_page] = self._stock


_replacement = _Replacement()


def elements_are_looked_at() -> bool:
    """Whether event-model's validator would look at each element of a page now, to no purpose."""
    from event_model import DocumentNames

    validator = _validators()[DocumentNames.event_page]
    return not isinstance(validator, QuickValidator) and _quick_schema(validator.schema) is not None


def _validators() -> dict[DocumentNames, Any]:
    import event_model

    return cast("Any", event_model).schema_validators


def _quick_schema(schema: dict[str, Any]) -> dict[str, Any] | None:
    """A schema that accepts only what ``schema`` accepts; None where that one is not of the form that is known.

    ``unevaluatedProperties: false`` beside ``properties`` and ``allOf`` refuses every name that none of them lists; the
    names alone say the same, without a second look at the values.
    """
    known = {"title", "description", "type", "allOf", "$defs", "properties", "required", "unevaluatedProperties"}
    if set(schema) != known or schema["unevaluatedProperties"] is not False:
        return None
    names = set(schema["properties"])
    for part in schema["allOf"]:
        place = str(part.get("$ref", "")).removeprefix("#/$defs/")
        if set(part) != {"$ref"} or place not in schema["$defs"]:
            return None
        names |= set(schema["$defs"][place].get("properties", {}))
    quick = _without_items(schema)
    if quick == schema:
        # Nothing is looked at in vain.
        return None
    del quick["unevaluatedProperties"]
    return {**quick, "propertyNames": {"enum": sorted(names)}}


def _without_items(schema: Any) -> Any:
    """The schema with ``minItems: 0`` for ``items: {}``: both ask of an array only that it has a length."""
    if isinstance(schema, list):
        return [_without_items(part) for part in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    quick = {key: _without_items(part) for key, part in cast("dict[str, Any]", schema).items()}
    if quick.get("type") == "array" and quick.get("items") == {}:
        del quick["items"]
        quick["minItems"] = 0
    return quick
