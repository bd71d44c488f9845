"""Dead-time factors as columns of a flyer, made from the raw columns beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from epicsrs_bulk._columns import VALID, check_key, data_key, frozen
from epicsrs_bulk._deadtime import Corrected, icr_ocr, nonparalyzable, paralyzable, xspress3

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from event_model import DataKey
    from numpy.typing import NDArray

# How many columns each model takes, and what it makes of them.
_MODELS = {
    "nonparalyzable": (1, "n / m, n = m / (1 - m tau)"),
    "paralyzable": (1, "n / m, m = n exp(-n tau), n tau <= 1"),
    "icr_ocr": (2, "ICR / OCR"),
    "xspress3": (3, "T / (T - R - A w)"),
}
_RATES = ("nonparalyzable", "paralyzable")


@dataclass(frozen=True)
class DeadTime:
    """A column of factors by which the counts of a detector are too low, row by row.

    The raw columns stay as they are. Beside the factors, which are NaN where the model has no answer or a cell was not
    measured, stands ``<key>_valid``; the formula with its numbers is the ``source`` of the data key, and in the
    configuration of the flyer.

    Attributes:
        key: The column's name in the documents.
        model: ``"nonparalyzable"`` and ``"paralyzable"`` take the counts of one column, ``"icr_ocr"`` the input and the
            output counts, ``"xspress3"`` clock ticks, reset ticks and all events; see the functions of these names.
        columns: The keys of the flyer's columns that the model takes, in that order.
        parameter: The dead time in s, for ``xspress3`` the event width in ticks; ``icr_ocr`` has none.
        seconds: For the models of rates how long each row counted: in s, or the key of a column of clock counts and the
            clock's frequency in Hz.
    """

    key: str
    model: Literal["nonparalyzable", "paralyzable", "icr_ocr", "xspress3"]
    columns: Sequence[str]
    parameter: float = 0.0
    seconds: float | tuple[str, float] | None = None

    def __post_init__(self) -> None:
        check_key(self.key)
        if self.model not in _MODELS:
            raise ValueError(f"{self.key}: the model is one of {', '.join(_MODELS)}, not {self.model!r}")
        if isinstance(self.columns, str) or len(self.columns) != _MODELS[self.model][0]:
            raise ValueError(f"{self.key}: {self.model} takes {_MODELS[self.model][0]} columns, not {self.columns!r}")
        object.__setattr__(self, "columns", tuple(self.columns))
        if (self.seconds is not None) != (self.model in _RATES):
            raise ValueError(f"{self.key}: seconds are for {' and '.join(_RATES)}, which need them")
        for number in (self._unit, self.parameter):
            if isinstance(number, bool) or not isinstance(number, int | float):  # pyright: ignore[reportUnnecessaryIsInstance] (callers need not be typed)
                raise TypeError(f"{self.key}: parameter and seconds are numbers, not {number!r}")
        if not (math.isfinite(self._unit) and self._unit > 0):
            raise ValueError(f"{self.key}: seconds, or a clock's frequency, are positive, not {self._unit!r}")
        # The limits of the parameter are those of the model.
        self._corrected([np.ones(1)] * len(self.inputs))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The keys of all columns that are looked at."""
        return (*self.columns, self.seconds[0]) if isinstance(self.seconds, tuple) else tuple(self.columns)

    @property
    def formula(self) -> str:
        """The model with its columns and numbers, for people."""
        letters = {"icr_ocr": ("ICR", "OCR"), "xspress3": ("T", "R", "A")}.get(self.model)
        if letters is None:
            time = (
                f"({self.seconds[0]} / {self._unit:g} Hz)" if isinstance(self.seconds, tuple) else f"{self._unit:g} s"
            )
            parts = [f"m = {self.columns[0]} / {time}", f"tau = {self.parameter:g} s"]
        else:
            parts = [f"{letter} = {key}" for letter, key in zip(letters, self.columns, strict=True)]
            parts += [f"w = {self.parameter:g}"] if self.model == "xspress3" else []
        return ", ".join([f"{self.model}: {_MODELS[self.model][1]}", *parts])

    def renamed(self, prefix: str) -> DeadTime:
        """The same for columns whose keys have something in front."""
        seconds = (prefix + self.seconds[0], self.seconds[1]) if isinstance(self.seconds, tuple) else self.seconds
        columns = [prefix + key for key in self.columns]
        return replace(self, key=prefix + self.key, columns=columns, seconds=seconds)

    def describe(self) -> dict[str, DataKey]:
        """The descriptor's entries of the factors and of their validity; a new dict each time."""
        return {
            self.key: data_key(self.formula, np.dtype(np.float64), None),
            self.key + VALID: data_key(self.formula, np.dtype(np.bool_), None),
        }

    def build(self, data: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The factors and their validity, of the raw columns and theirs; read-only."""
        factors, good = self._corrected([data[key].astype(np.float64) for key in self.inputs])
        for key in self.inputs:
            good = good & data[key + VALID]
        return {self.key: frozen(np.where(good, factors, np.nan)), self.key + VALID: frozen(good)}

    def _corrected(self, values: Sequence[NDArray[np.float64]]) -> Corrected:
        if self.model == "xspress3":
            return xspress3(*values, event_width=self.parameter)
        if self.model == "icr_ocr":
            return icr_ocr(*values)
        model = nonparalyzable if self.model == "nonparalyzable" else paralyzable
        with np.errstate(divide="ignore", invalid="ignore"):
            rates = values[0] / (values[1] / self._unit if isinstance(self.seconds, tuple) else self._unit)
            true, good = model(rates, self.parameter)
            # What counts nothing has lost nothing.
            return Corrected(np.where(rates == 0.0, 1.0, true / rates), good)

    @property
    def _unit(self) -> float:
        """Seconds of a row, or of a clock the counts in one."""
        return self.seconds[1] if isinstance(self.seconds, tuple) else 1.0 if self.seconds is None else self.seconds
