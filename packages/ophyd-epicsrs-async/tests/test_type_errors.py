"""What connect says where datatype and PV do not go together."""

import asyncio
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import pytest
from ophyd_async.core import Array1D, StrictEnum, SubsetEnum, SupersetEnum

from ophyd_epicsrs_async import epicsrs_signal_r, epicsrs_signal_rw, epicsrs_triggerable_command


class WrongStrict(StrictEnum):
    A = "Aaa"
    B = "B"


class WrongSubset(SubsetEnum):
    A = "Aaa"
    B = "B"


class WrongSuperset(SupersetEnum):
    A = "Aaa"
    B = "Bbb"


class Plain(Enum):
    A = "Aaa"


CASES: list[tuple[Any, str, str, str]] = [
    (int, "string", "with inferred datatype str from 'string'", "cannot be coerced to int"),
    (str, "float", "with inferred datatype float from 'double'", "cannot be coerced to str"),
    (int, "float", "with inferred datatype float from 'double'", "cannot be coerced to int"),
    (bool, "float", "with inferred datatype float from 'double'", "cannot be coerced to bool"),
    (str, "strings", "with inferred datatype Sequence[str] from 'string[]'", "cannot be coerced to str"),
    (int, "uchars", "with inferred datatype Array1D[np.uint8] from ", "cannot be coerced to int"),
    (
        float,
        "enum",
        "with inferred datatype str | StrictEnum | SubsetEnum | SupersetEnum",
        "cannot be coerced to float",
    ),
    (
        Array1D[np.int32],
        "doubles",
        "with inferred datatype Array1D[np.float64] from 'double[]'",
        "cannot be coerced to Array1D[np.int32]",
    ),
    (bool, "enum", "enum has 3 choices, can't map to bool", ""),
    (
        WrongStrict,
        "enum",
        "enum has choices ('Aaa', 'Bbb', 'Ccc'), but <enum 'WrongStrict'> requested",
        " ['Aaa', 'B'] to be strictly equal to them.",
    ),
    (
        WrongSubset,
        "enum",
        "enum has choices ('Aaa', 'Bbb', 'Ccc'), but <enum 'WrongSubset'> requested",
        " ['Aaa', 'B'] to be a subset of them.",
    ),
    (
        WrongSuperset,
        "enum",
        "enum has choices ('Aaa', 'Bbb', 'Ccc'), but <enum 'WrongSuperset'> requested",
        " ['Aaa', 'Bbb'] to be a superset of them.",
    ),
    (Plain, "enum", "should inherit from ophyd_async.core.SubsetEnum or ophyd_async.core.StrictEnum", ""),
]


@pytest.mark.parametrize(("datatype", "name", "start", "end"), CASES)
def test_a_mismatch_names_pv_and_both_types(ioc, run, protocol, datatype, name, start, end):
    async def main():
        with pytest.raises(TypeError) as refusal:
            await epicsrs_signal_rw(datatype, ioc.pv(name, protocol)).connect()
        text = str(refusal.value)
        assert start in text and end in text
        if datatype is not Plain:
            assert f"{protocol}://{ioc.prefix}{name}" in text

    run(main())


def test_read_and_write_pv_must_carry_the_same(ioc, run, protocol):
    async def main():
        read, write = ioc.pv("float", protocol), ioc.pv("int", protocol)
        with pytest.raises(
            TypeError, match=r"Differing datatypes: \w+://.*float has double, \w+://.*int has (long|int)"
        ):
            await epicsrs_signal_rw(float, read, write).connect()

    run(main())


def test_read_and_write_pv_must_have_the_same_labels_unless_they_are_bool(ioc, run, protocol):
    async def main():
        read, write = ioc.pv("enum", protocol), ioc.pv("other_enum", protocol)
        with pytest.raises(TypeError, match=r"Differing choices: .*'Aaa'.*'In'"):
            await epicsrs_signal_rw(str, read, write).connect()
        flag = epicsrs_signal_rw(bool, ioc.pv("bool", protocol), ioc.pv("other_enum", protocol))
        await flag.connect()
        assert await flag.get_value() is True

    run(main())


def test_an_unknown_structure_is_named_with_its_type(ioc, run):
    async def main():
        with pytest.raises(
            TypeError, match=r"pva://.*custom is a structure of type 'beamline:thing:1.0'.* not supported"
        ):
            await epicsrs_signal_r(None, ioc.pv("custom", "pva")).connect()

    run(main())


def test_protocols_of_read_and_write_pv_must_be_the_same():
    with pytest.raises(TypeError, match="Differing protocols: A has ca, pva://B has pva"):
        epicsrs_signal_rw(float, "A", "pva://B")


def test_an_unknown_scheme_is_refused_when_the_signal_is_made():
    with pytest.raises(ValueError, match="http://A: 'http' is not a valid EpicsProtocol"):
        epicsrs_signal_r(float, "http://A")


@pytest.mark.parametrize("pv", ["", "ca://", "pva://"])
@pytest.mark.parametrize("factory", [partial(epicsrs_signal_rw, float), epicsrs_triggerable_command])
def test_a_name_is_needed_when_a_signal_is_made(factory, pv):
    with pytest.raises(ValueError, match="a PV needs a name"):
        factory(pv)


OTHER_TYPES = """
record(stringin, "$(P)float") { field(VAL, "three") field(PINI, "YES") }
record(waveform, "$(P)longs") { field(FTVL, "DOUBLE") field(NELM, "8") field(INP, [1.5]) field(PINI, "YES") }
record(ao, "$(P)enum") { field(VAL, "1.5") field(PINI, "YES") }
"""


def test_a_pv_that_comes_back_with_another_type_is_refused_until_it_is_connected_again(
    mortal_ioc, run, protocol, tmp_path
):
    other = tmp_path / "other.db"
    other.write_text(OTHER_TYPES)

    async def main():
        pvs = {float: "float", Array1D[np.int32]: "longs", str: "enum"}
        signals = [epicsrs_signal_rw(datatype, mortal_ioc.pv(name, protocol)) for datatype, name in pvs.items()]
        await asyncio.gather(*(signal.connect() for signal in signals))
        mortal_ioc.kill()
        mortal_ioc.databases = [other]
        mortal_ioc.start()
        for signal, name, was in zip(signals, pvs.values(), ("float", r"Array1D\[np.int32\]", "str"), strict=True):
            with pytest.raises(TypeError, match=f"{protocol}://.*{name} was {was} when it was connected"):
                await asyncio.wait_for(signal.get_value(), 30.0)
        with pytest.raises(TypeError, match="inferred datatype str"):
            await signals[0].connect(force_reconnect=True)

    run(main())
