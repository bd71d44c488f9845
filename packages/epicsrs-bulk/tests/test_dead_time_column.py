"""Dead-time factors beside the raw columns of a flight, and what the documents say of them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epicsrs_bulk import Column, DeadTime, FileFlyer, WaveformFlyer, icr_ocr, nonparalyzable, paralyzable, xspress3
from ioc import Ioc

Fly = Callable[..., WaveformFlyer]
Measure = Callable[..., None]
Plan = Callable[..., Any]
Run = Callable[..., Any]

# Of 80 MHz; the last row is one that no model explains.
TICKS, RESETS, EVENTS = [800_000, 800_000, 800_000, 800], [1000.0, 0.0, 2000.0, 900.0], [50_000, 0, 20_000, 100]


@pytest.fixture(autouse=True)
def measured(board: Ioc, measure: Measure, three_rows: None) -> None:
    measure(clock=TICKS, i0=RESETS, it=[0.0] * 4, encoder=EVENTS)


@pytest.fixture
def counter(board: Ioc, flyer: Fly) -> Fly:
    columns = [
        Column(board.pv("clock"), "ticks"),
        Column(board.pv("i0"), "resets"),
        Column(board.pv("encoder"), "events", "i4", fill=-1),
        Column(board.pv("it"), "busy", bool, fill=0),
    ]
    return lambda *dead_times, **options: flyer(columns=columns, dead_times=dead_times, **options)


WIDE = DeadTime("factor", "xspress3", ["ticks", "resets", "events"], 5.5)


def test_factors_stand_beside_raw_columns_and_the_descriptor_has_the_formula(
    counter: Fly, run: Run, declared: Plan
) -> None:
    device = counter(WIDE)

    documents = run(declared(device))

    [page], [descriptor] = documents.of("event_page"), documents.of("descriptor")
    data = page["data"]
    assert (data["ticks"].tolist(), data["resets"].tolist(), data["events"].tolist()) == (TICKS, RESETS, EVENTS)
    factor, valid = xspress3(TICKS, RESETS, EVENTS, 5.5)
    assert data["factor"].tobytes() == factor.tobytes() and math.isnan(data["factor"][3])
    assert data["factor_valid"].tolist() == valid.tolist() == [True, True, True, False]
    assert not data["factor"].flags.writeable
    formula = "xspress3: T / (T - R - A w), T = ticks, R = resets, A = events, w = 5.5"
    assert descriptor["configuration"]["board"]["data"]["board_factor_formula"] == formula
    assert descriptor["data_keys"]["factor"]["source"] == formula
    assert list(descriptor["data_keys"])[-2:] == ["factor", "factor_valid"] == list(data)[-2:]


def test_a_file_has_them_too(counter: Fly, run: Run, declared: Plan, tmp_path: Path) -> None:
    device = counter(WIDE).stored_in(tmp_path)
    assert isinstance(device, FileFlyer)

    documents = run(declared(device))

    columns = documents.stored()
    assert columns["factor"].tobytes() == xspress3(TICKS, RESETS, EVENTS, 5.5).value.tobytes()
    assert columns["events"].tolist() == EVENTS
    assert "board_factor_formula" in documents.of("descriptor")[0]["configuration"]["board"]["data"]


def test_cells_that_were_not_measured_have_no_factor(counter: Fly, measure: Measure, run: Run, declared: Plan) -> None:
    measure(encoder=EVENTS[:1])

    [page] = run(declared(counter(WIDE))).of("event_page")

    assert page["data"]["events"].tolist() == [50_000, -1, -1, -1]
    assert page["data"]["factor_valid"].tolist() == [True, False, False, False]
    assert np.isnan(page["data"]["factor"][1:]).all()


@pytest.mark.parametrize(
    ("dead_time", "expected", "formula"),
    [
        (
            DeadTime("f", "nonparalyzable", ["events"], 1e-8, seconds=("ticks", 80e6)),
            lambda rates: nonparalyzable(rates, 1e-8),
            "nonparalyzable: n / m, n = m / (1 - m tau), m = events / (ticks / 8e+07 Hz), tau = 1e-08 s",
        ),
        (
            DeadTime("f", "paralyzable", ["events"], 2e-8, seconds=("ticks", 80e6)),
            lambda rates: paralyzable(rates, 2e-8),
            "paralyzable: n / m, m = n exp(-n tau), n tau <= 1, m = events / (ticks / 8e+07 Hz), tau = 2e-08 s",
        ),
    ],
)
def test_models_of_rates_give_the_true_rate_over_the_measured_one(
    counter: Fly, run: Run, declared: Plan, dead_time: DeadTime, expected: Any, formula: str
) -> None:
    [page] = run(declared(counter(dead_time))).of("event_page")

    rates = np.array(EVENTS) / (np.array(TICKS) / 80e6)
    corrected = expected(rates)
    factor = page["data"]["f"]
    assert factor[[0, 2, 3]] == pytest.approx(corrected.value[[0, 2, 3]] / rates[[0, 2, 3]], rel=1e-12)
    # No event in this row.
    assert factor[1] == 1.0
    assert page["data"]["f_valid"].all() and dead_time.formula == formula


def test_a_rate_that_the_model_excludes_is_not_valid(counter: Fly, run: Run, declared: Plan) -> None:
    # 5e6, 0, 2e6 and 1e4 in 1/s, of which 2e6 times 1 us is beyond both models.
    models: list[Any] = ["nonparalyzable", "paralyzable"]
    columns = [DeadTime(model, model, ["events"], 1e-6, seconds=0.01) for model in models]

    [page] = run(declared(counter(*columns))).of("event_page")

    for model in models:
        assert page["data"][f"{model}_valid"].tolist() == [False, True, False, True]
        assert np.isnan(page["data"][model]).tolist() == [True, False, True, False]


def test_input_over_output(counter: Fly, run: Run, declared: Plan) -> None:
    dead_time = DeadTime("f", "icr_ocr", ["events", "resets"])

    [page] = run(declared(counter(dead_time))).of("event_page")

    assert page["data"]["f"].tobytes() == icr_ocr(EVENTS, RESETS).value.tobytes()
    assert dead_time.formula == "icr_ocr: ICR / OCR, ICR = events, OCR = resets"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": "xspress"}, ValueError, "the model is one of nonparalyzable"),
        ({"columns": ["ticks"]}, ValueError, "f: xspress3 takes 3 columns"),
        ({"columns": "abc"}, ValueError, "f: xspress3 takes 3 columns"),
        ({"parameter": -1.0}, ValueError, "event_width is 0 or more"),
        ({"parameter": math.nan}, ValueError, "event_width is 0 or more"),
        ({"parameter": "5"}, TypeError, "f: parameter and seconds are numbers"),
        ({"seconds": 1.0}, ValueError, "f: seconds are for"),
        ({"model": "paralyzable", "columns": ["events"]}, ValueError, "f: seconds are for"),
        ({"model": "paralyzable", "columns": ["events"], "seconds": 0.0}, ValueError, "are positive"),
        ({"model": "paralyzable", "columns": ["events"], "seconds": ("ticks", -1.0)}, ValueError, "are positive"),
        ({"key": "time"}, ValueError, "reserved"),
    ],
)
def test_a_bad_one_is_refused_when_it_is_made(options: dict[str, Any], error: type[Exception], words: str) -> None:
    usual: dict[str, Any] = {"key": "f", "model": "xspress3", "columns": ["ticks", "resets", "events"]}

    with pytest.raises(error, match=words):
        DeadTime(**{**usual, **options})


@pytest.mark.parametrize(
    ("dead_time", "words"),
    [
        (DeadTime("f", "icr_ocr", ["events", "absent"]), "f: 'absent' is no column of numbers here"),
        (DeadTime("f", "icr_ocr", ["events", "busy"]), "f: 'busy' is no column of numbers here"),
        (DeadTime("f", "paralyzable", ["events"], seconds=("absent", 1.0)), "f: 'absent' is no column"),
        (DeadTime("events", "icr_ocr", ["events", "resets"]), "two columns are called 'events'"),
        (DeadTime("resets_valid", "icr_ocr", ["events", "resets"]), "two columns are called 'resets_valid'"),
    ],
)
def test_one_that_does_not_go_with_the_columns_is_refused(counter: Fly, dead_time: DeadTime, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        counter(dead_time)
