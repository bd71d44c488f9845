"""What describe() says."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from ophyd_async.core import Array1D, StrictEnum

from ophyd_epicsrs_async import epicsrs_signal_r


class Abc(StrictEnum):
    A = "Aaa"
    B = "Bbb"
    C = "Ccc"


def scalar(dtype: str, dtype_numpy: str, **metadata: Any) -> dict[str, Any]:
    return {"dtype": dtype, "dtype_numpy": dtype_numpy, "shape": [], **metadata}


def array(dtype_numpy: str, shape: list[int], **metadata: Any) -> dict[str, Any]:
    return {"dtype": "array", "dtype_numpy": dtype_numpy, "shape": shape, **metadata}


LIMITS = {
    "alarm": {"low": -9, "high": 9},
    "control": {"low": -20, "high": 20},
    "display": {"low": 0, "high": 10},
    "warning": {"low": -7, "high": 7},
}

CASES: list[tuple[str, Any, str, dict[str, Any]]] = [
    ("ca pva", float, "float", scalar("number", "<f8", units="mbar", precision=3, limits=LIMITS)),
    # Both ends 0 or NaN: nobody has set them.
    ("ca pva", float, "bare_float", scalar("number", "<f8", units="", precision=0)),
    # One end NaN.
    (
        "ca pva",
        float,
        "alarmed",
        scalar("number", "<f8", units="", precision=0, limits={"alarm": {"low": None, "high": 10}}),
    ),
    # JSON knows no infinity.
    (
        "ca pva",
        float,
        "boundless",
        scalar("number", "<f8", units="", precision=0, limits={"display": {"low": None, "high": 10}}),
    ),
    (
        "ca pva",
        int,
        "int",
        scalar(
            "integer",
            "<i8",
            units="steps",
            limits={"control": {"low": 10, "high": 90}, "display": {"low": 0, "high": 100}},
        ),
    ),
    ("ca pva", int, "whole", scalar("integer", "<i8", units="mm")),
    ("ca pva", bool, "bool", scalar("boolean", "|b1")),
    ("ca pva", str, "string", scalar("string", "|S40")),
    ("ca pva", str, "long_string", scalar("string", "|S40")),
    ("ca pva", str, "enum", scalar("string", "|S40", choices=["Aaa", "Bbb", "Ccc"])),
    ("ca pva", Abc, "enum", scalar("string", "|S40", choices=["Aaa", "Bbb", "Ccc"])),
    ("ca pva", Array1D[np.float64], "doubles", array("<f8", [2], units="V", precision=2)),
    ("ca pva", Array1D[np.int32], "longs", array("<i4", [2], units="")),
    ("ca pva", Array1D[np.float64], "empty", array("<f8", [0], units="", precision=0)),
    ("ca pva", Sequence[str], "strings", array("|S40", [2])),
    ("pva", np.ndarray, "image", array("<u2", [2, 3])),
    ("pva", None, "table", array([["on", "|u1"], ["position", "<f8"], ["name", "|S40"]], [2])),  # type: ignore[arg-type]
    ("pva", int, "plain", scalar("integer", "<i8")),
    ("ca pva", None, "float", scalar("number", "<f8", units="mbar", precision=3, limits=LIMITS)),
    ("ca pva", None, "string", scalar("string", "|S40")),
    ("ca pva", None, "enum", scalar("string", "|S40", choices=["Aaa", "Bbb", "Ccc"])),
    ("ca pva", None, "doubles", array("<f8", [2], units="V", precision=2)),
    ("ca pva", None, "longs", array("<i4", [2], units="")),
    ("ca pva", None, "empty", array("<f8", [0], units="", precision=0)),
    ("ca pva", None, "strings", array("|S40", [2])),
    ("pva", None, "image", array("<u2", [2, 3])),
]


@pytest.mark.parametrize(
    ("protocol", "datatype", "name", "expected"),
    [(protocol, *rest) for protocols, *rest in CASES for protocol in protocols.split()],
)
def test_describe_gives_type_shape_and_metadata(ioc, run, protocol, datatype, name, expected):
    async def main():
        signal = epicsrs_signal_r(datatype, ioc.pv(name, protocol), name="signal")
        await signal.connect()
        # Through JSON without NaN, as documents go.
        key = json.loads(json.dumps(await signal.describe(), allow_nan=False))["signal"]
        assert key == {"source": f"{protocol}://{ioc.prefix}{name}", **expected}

    run(main())


def test_describe_gives_the_shape_of_now(ioc, run, protocol):
    from ophyd_epicsrs_async import epicsrs_signal_rw

    async def main():
        signal = epicsrs_signal_rw(Array1D[np.int16], ioc.pv("put_shorts", protocol), name="signal")
        await signal.connect()
        for length in (3, 5, 1):
            await signal.set(np.arange(length, dtype=np.int16))
            assert (await signal.describe())["signal"]["shape"] == [length]

    run(main())
