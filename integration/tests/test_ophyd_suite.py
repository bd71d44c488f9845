"""ophyd's own tests, as its wheel has them, on our control layer, with pyepics as the control.

Each file runs on both layers, each in a process with IOCs of its own: caproto's, which the tests start, and a beamline
with the motors and the areaDetector that they ask for. What passes on pyepics has to pass on ours. suites/ophyd.toml
has how many that are, and every test that pyepics itself does not pass here, with the reason. A skip has not passed.
"""

import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from epicsrs_beamline import Beamline
from ioc import free_ports

from .suites.suite import LAYERS, Layer, Run, Suite, show

FILES: dict[str, dict[str, Any]] = tomllib.loads((Path(__file__).parent / "suites/ophyd.toml").read_text())
# mypy is what the tests of bluesky's protocols run.
PACKAGES = ["pyepics==3.5.10", "caproto==1.3.0", "mypy==2.4.1"]
# The files of an areaDetector are looked for with its handlers.
HANDLERS = ["databroker==1.2.5"]
# Of the files without areaDetector.
AT_LEAST = 423


def run(file: str, folder: Path, layer: Layer) -> Run:
    """One file on one layer."""
    folder /= layer
    folder.mkdir()
    # As in ophyd's repository: its wheel does not say that it is typed.
    (folder / "mypy.ini").write_text("[mypy]\nignore_missing_imports = true\n")
    suite = Suite(
        target=["--pyargs", f"ophyd.tests.{file}"],
        plugins=["pytester", "ophyd_layer"],
        packages=[*PACKAGES, *(HANDLERS if FILES[file].get("handlers") else [])],
        limit=FILES[file].get("limit", 150.0),
    )
    # Two servers cannot share a UDP port of 127.0.0.1.
    served, repeated = free_ports(2)
    with Beamline(ophyd_names=True, log=folder / "beamline.log") as beamline:
        environment = {
            **beamline.env,
            "EPICS_CA_ADDR_LIST": f"127.0.0.1:{served} {beamline.env['EPICS_CA_ADDR_LIST']}",
            "EPICS_CA_SERVER_PORT": str(served),
            "EPICS_CA_REPEATER_PORT": str(repeated),
            "EPICS_CAS_SERVER_PORT": str(served),
            "EPICS_CAS_INTF_ADDR_LIST": "127.0.0.1",
            "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
            "EPICS_CAS_BEACON_ADDR_LIST": "127.0.0.1",
        }
        return suite.run(layer, folder, environment)


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[dict[str, dict[Layer, Run]]]:
    """What each file came to, shown at the end."""
    runs: dict[str, dict[Layer, Run]] = {}
    yield runs
    show(request.config, "ophyd's own tests", runs)


def chosen() -> Iterator[Any]:
    for file, known in FILES.items():
        yield pytest.param(file, marks=() if known.get("quick") else pytest.mark.slow)


@pytest.mark.parametrize("file", chosen())
def test_what_passes_on_pyepics_passes_here(file: str, table: dict[str, dict[Layer, Run]], tmp_path: Path) -> None:
    known = FILES[file]
    with ThreadPoolExecutor(1 if known.get("alone") else len(LAYERS)) as executor:
        runs = dict(zip(LAYERS, executor.map(partial(run, file, tmp_path), LAYERS), strict=True))
    table[file] = runs
    control, ours = runs["pyepics"], runs["epicsrs"]

    assert ours.crashes == 0, ours.said
    assert not control.passed - ours.passed, f"{sorted(control.passed - ours.passed)}\n{ours.said}"
    listed = {f"{file}::{test}" for test in known.get("not_passed", {})}
    assert control.not_passed.keys() == listed, f"{control.not_passed}\n{control.said}"
    assert len(control.passed) == known["passed"]


def test_the_control_passes_as_many_as_it_has_to() -> None:
    assert sum(known["passed"] for file, known in FILES.items() if file != "test_areadetector") >= AT_LEAST


def test_every_file_that_the_wheel_has_is_listed() -> None:
    import ophyd

    assert {file.stem for file in Path(ophyd.__file__).parent.glob("tests/test_*.py")} == FILES.keys()
