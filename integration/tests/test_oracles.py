"""What other clients read from the same servers: pyepics and aioca over Channel Access, p4p over pvAccess.

Each runs in a process and an environment of its own. Where they and we differ is written down in DIFFERENCES, with the
reason; any other difference fails, and one that is gone fails too.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ioc import NETWORK, RECORDS, Ioc
from pva_server import pva_server

HERE = Path(__file__).parent / "oracles"
IOC, SERVER = NETWORK.iocs[6:8]
DATABASES = [RECORDS, HERE / "records.db"]
# For the environments to be made, from the network at worst.
LIMIT = 180.0

PACKAGES = {"pyepics": "pyepics==3.5.10", "aioca": "aioca==2.1", "p4p": "p4p==4.3.0"}
# What each can tell at all.
CA_FACTS = {"kind", "value", "timestamp_ns", "severity", "status", "units", "precision", "choices"}
CA_FACTS |= {"display", "control", "warning", "alarm"}
FACTS = {"pyepics": CA_FACTS, "aioca": CA_FACTS, "p4p": {*CA_FACTS, "message", "description", "label", "labels", "id"}}

# Every record but for those that tests put to, and the one that changes by itself.
RECORD = re.compile(r'^record\(\w+, "\$\(P\)(?!put_|counter")(\w+)"\)', re.MULTILINE)
RECORD_NAMES = [name for database in DATABASES for name in RECORD.findall(database.read_text())]
FIELDS = """text.VAL$ double.DESC$ double.DESC double.PREC double.PINI double.HOPR double.NAME double.RTYP
double.SEVR""".split()
GROUPS = ["group"]
STRUCTURES = """table enum refusing unstamped uint64 int64 image_3d image_1d image_compressed shapes
pair union""".split()
STRUCTURES += [f"{shape}_{code}" for shape in ("scalar", "array") for code in "?bBhHiIlLfds"]
STRUCTURES += [f"image_{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
STRUCTURES += ["image_float32", "image_float64"]

READ = {
    "pyepics": [*RECORD_NAMES, *FIELDS],
    "aioca": [*RECORD_NAMES, *FIELDS],
    "p4p": [*RECORD_NAMES, *FIELDS, *GROUPS, *(f"served:{name}" for name in STRUCTURES)],
}
CASES = [(oracle, name) for oracle, names in READ.items() for name in names]


class Difference(NamedTuple):
    """Where an oracle's fact is not ours, and how the two are related."""

    oracles: Sequence[str]
    names: Sequence[str]
    fact: str
    related: Callable[[Any, Any], bool]
    reason: str


def indices(value: Any) -> Any:
    """With each structure of index and choices as its index."""
    if isinstance(value, dict):
        return value["index"] if value.keys() == {"index", "choices"} else {k: indices(v) for k, v in value.items()}
    return value


DIFFERENCES = [
    Difference(
        ["pyepics", "aioca"],
        ["strings", "single_string"],
        "kind",
        lambda theirs, ours: (theirs, ours) == ("ndarray", "list"),
        "strings are a list of str here, an array of fixed width there",
    ),
    Difference(
        ["pyepics", "aioca"],
        ["strings", "single_string"],
        "value",
        lambda theirs, ours: theirs["elements"] == ours,
        "strings are a list of str here, an array of fixed width there",
    ),
    Difference(
        ["aioca"],
        ["text.VAL$", "double.DESC$"],
        "kind",
        lambda theirs, ours: (theirs, ours) == ("str", "ndarray"),
        "aioca takes every name that ends in $ for a text; to us it is the array of CHAR that the server serves",
    ),
    Difference(
        ["aioca"],
        ["text.VAL$", "double.DESC$"],
        "value",
        lambda theirs, ours: theirs == bytes(ours["elements"]).rstrip(b"\0").decode(),
        "aioca takes every name that ends in $ for a text; to us it is the array of CHAR that the server serves",
    ),
    Difference(
        ["pyepics"],
        ["uchars"],
        "display",
        lambda theirs, ours: (theirs, ours) == ([0, -1], [0.0, 255.0]),
        "the bytes of dbr_char_t have no sign (db_access.h); pyepics gives its limits one, and its values none",
    ),
    Difference(
        ["pyepics"],
        ["uchars"],
        "control",
        lambda theirs, ours: (theirs, ours) == ([0, -1], [0.0, 255.0]),
        "the bytes of dbr_char_t have no sign (db_access.h); pyepics gives its limits one, and its values none",
    ),
    Difference(
        ["pyepics", "p4p"],
        ["latin", "latin_text"],
        "error",
        lambda theirs, ours: theirs.startswith("UnicodeDecodeError") and ours is None,
        "bytes that are not UTF-8 are an error there; here they come through, as surrogates",
    ),
    Difference(
        ["aioca"],
        ["latin"],
        "units",
        lambda theirs, ours: (theirs, ours.encode(errors="surrogateescape")) == ("\ufffdm", b"\xb5m"),
        "bytes that are not UTF-8 are lost there; here they come through, as surrogates",
    ),
    Difference(
        ["aioca"],
        ["latin_text"],
        "value",
        lambda theirs, ours: (theirs, ours.encode(errors="surrogateescape")) == ("20\ufffdC", b"20\xb0C"),
        "bytes that are not UTF-8 are lost there; here they come through, as surrogates",
    ),
    Difference(
        ["aioca"],
        ["long_string", "unset_string"],
        "error",
        lambda theirs, ours: theirs.startswith("IndexError") and ours is None,
        "an empty string comes as no string at all, which aioca does not expect",
    ),
    Difference(
        ["pyepics"],
        ["long_string", "unset_string"],
        "kind",
        lambda theirs, ours: (theirs, ours) == ("list", "str"),
        "an empty string comes as no string at all: an empty str here, an empty list there",
    ),
    Difference(
        ["pyepics"],
        ["long_string", "unset_string"],
        "value",
        lambda theirs, ours: (theirs, ours) == ([], ""),
        "an empty string comes as no string at all: an empty str here, an empty list there",
    ),
    Difference(
        ["pyepics"],
        ["no_labels", "enums"],
        "choices",
        lambda theirs, ours: theirs is None and ours == [],
        "an enum without labels has an empty list of them here, none there",
    ),
    Difference(
        ["p4p"],
        ["enums"],
        "error",
        lambda theirs, ours: theirs.startswith("RemoteError: ") and theirs[len("RemoteError: ") :] in ours,
        "QSRV refuses arrays of enums; our error names the PV, p4p's does not",
    ),
    Difference(
        ["p4p"],
        [f"served:{name}" for name in STRUCTURES if name not in ("shapes", "pair", "union")],
        "timestamp_ns",
        lambda theirs, ours: theirs == 0 and ours is None,
        "a time of 0 is no time here",
    ),
    Difference(
        ["p4p"],
        ["group"],
        "id",
        lambda theirs, ours: (theirs, ours) == ("structure", ""),
        "a structure without an id has none here, a word for it there",
    ),
    Difference(
        ["p4p"],
        ["group"],
        "value",
        lambda theirs, ours: indices(theirs) == ours,
        "an enum within a structure is a value that knows its label here, a structure of index and choices there",
    ),
]


def run(command: Sequence[str], program: str, pvs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The facts that a program of oracles/ prints of each PV."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("EPICS_", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [*command, str(HERE / program), *pvs],
        env={**environment, **NETWORK.client(IOC, SERVER)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


Pairs = dict[tuple[str, str], tuple[dict[str, Any], dict[str, Any]]]


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairs]:
    """What each oracle reads of a PV, and what we do."""
    folder = tmp_path_factory.mktemp("oracles")
    ioc = Ioc(IOC, folder, DATABASES)
    ioc.start()
    try:
        with pva_server("structures.py", "served:", SERVER, folder / "served"):
            yield {
                (oracle, name): pair
                for oracle, names in READ.items()
                for name, pair in zip(names, both(ioc, oracle, names), strict=True)
            }
    finally:
        ioc.kill()


def both(ioc: Ioc, oracle: str, names: Sequence[str]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    pvs = [name if name.startswith("served:") else ioc.pv(name) for name in names]
    python = f"--python={sys.version_info.major}.{sys.version_info.minor}"
    uv = ["uv", "run", "--quiet", "--no-project", "--isolated", python, "--with", PACKAGES[oracle], "python"]
    theirs = run(uv, f"read_{oracle}.py", pvs)
    scheme = "pva://" if oracle == "p4p" else "ca://"
    ours = run([sys.executable], "read_epicsrs.py", [scheme + pv for pv in pvs])
    for pv in pvs:
        yield theirs[pv], ours[scheme + pv]


def differing(pair: tuple[dict[str, Any], dict[str, Any]], oracle: str) -> dict[str, tuple[Any, Any]]:
    """The facts that are not the same; of a reading that failed there is but one, its error."""
    theirs, ours = pair
    facts = {"error"} if "error" in theirs or "error" in ours else FACTS[oracle]
    return {fact: (theirs.get(fact), ours.get(fact)) for fact in facts if theirs.get(fact) != ours.get(fact)}


def listed(oracle: str, name: str) -> dict[str, Difference]:
    """The differences that are known, by fact."""
    return {known.fact: known for known in DIFFERENCES if oracle in known.oracles and name in known.names}


@pytest.mark.parametrize(("oracle", "name"), CASES)
def test_a_pv_reads_as_another_client_reads_it(readings: Pairs, oracle: str, name: str) -> None:
    found, known = differing(readings[oracle, name], oracle), listed(oracle, name)

    for fact, (theirs, ours) in found.items():
        assert fact in known, f"{fact}: {oracle} has {theirs!r}, we have {ours!r}"
        assert known[fact].related(theirs, ours), f"{known[fact].reason}? {oracle} has {theirs!r}, we have {ours!r}"
    for fact, difference in known.items():
        assert fact in found, f"{fact} is the same by now, but listed: {difference.reason}"


def test_every_listed_difference_is_of_something_that_is_read() -> None:
    for known in DIFFERENCES:
        for oracle in known.oracles:
            assert set(known.names) <= set(READ[oracle]), known.reason
            assert known.fact in FACTS[oracle] | {"error"}, known.reason
