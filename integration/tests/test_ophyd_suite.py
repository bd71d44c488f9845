"""ophyd's own tests, as its wheel has them, on our control layer, with pyepics as the control.

Each file runs on both layers, each in a process with IOCs of its own: caproto's, which the tests start, and a beamline
with the motors and the areaDetector that they ask for. What passes on pyepics has to pass on ours. suites/ophyd.toml
has how many that are, and every test that pyepics itself does not pass here, with the reason. A skip has not passed.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Literal

import pytest

from epicsrs_beamline import Beamline
from ioc import free_ports

from .suites.suite import LAYERS, Layer, Run, Suite, counted

FILES: dict[str, dict[str, Any]] = tomllib.loads((Path(__file__).parent / "suites/ophyd.toml").read_text())
EARLIER: dict[str, dict[str, Any]] = tomllib.loads((Path(__file__).parent / "suites/ophyd_earlier.toml").read_text())
VERSION = distribution("ophyd").version
# mypy is what the tests of bluesky's protocols run.
PACKAGES = ["caproto==1.3.0", "mypy==2.4.1"]
# The files of an areaDetector are looked for with its handlers.
HANDLERS = ["databroker==1.2.5"]
# Seconds for a file, unless it has a limit of its own.
LIMIT = 120.0
START_LIMIT = 60.0
# How often a test that is listed under races is run again.
RACES = 3
# Of the files without areaDetector.
AT_LEAST = 423


QUICK = [file for file, known in FILES.items() if known.get("quick")]


def run(files: Sequence[str], folder: Path, version: str, layer: Layer) -> Run:
    """Some files on one layer, in one process; again those with a test that races with itself and has lost.

    The whole file, since such a test may leave the others' motor where they do not expect it.
    """
    run = attempt(files, folder / layer, version, layer)
    for number in range(RACES):
        for file in files:
            raced = named(file, FILES[file], "races") & run.not_passed.keys()
            if raced:
                run = run.then(attempt([file], folder / f"{layer}-{file}-{number}", version, layer), because=raced)
    return run


def named(file: str, known: Mapping[str, Any], which: Literal["not_passed", "races"]) -> set[str]:
    """The tests of a file that are listed there."""
    return {f"{file}::{test}" for test in known.get(which, {})}


def attempt(files: Sequence[str], folder: Path, version: str, layer: Layer) -> Run:
    folder.mkdir()
    # As in ophyd's repository: its wheel does not say that it is typed.
    (folder / "mypy.ini").write_text("[mypy]\nignore_missing_imports = true\n")
    handlers = HANDLERS if any(FILES[file].get("handlers") for file in files) else []
    suite = Suite(
        target=["--pyargs", *(f"ophyd.tests.{file}" for file in files)],
        plugins=["pytester", "ophyd_layer"],
        packages=[*clients(version), *PACKAGES, *handlers],
        limit=sum(FILES[file].get("limit", LIMIT) for file in files),
    )
    # Two servers cannot share a UDP port of 127.0.0.1.
    served, repeated = free_ports(2)
    with ExitStack() as stack:
        # For its end only: by itself it would start with a shorter limit.
        beamline = Beamline(ophyd_names=True, log=folder / "beamline.log").start(timeout=START_LIMIT)
        stack.push(beamline)
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


def clients(version: str) -> list[str]:
    """The ophyd that is not here already, and the newest pyepics that it takes."""
    if version == VERSION:
        return ["pyepics==3.5.10"]
    return [f"ophyd=={version}", f"pyepics=={EARLIER[version]['pyepics']}"]


def on_both(files: Sequence[str], folder: Path, version: str = VERSION) -> dict[Layer, Run]:
    alone = any(FILES[file].get("alone") for file in files)
    with ThreadPoolExecutor(1 if alone else len(LAYERS)) as executor:
        return dict(zip(LAYERS, executor.map(partial(run, files, folder, version), LAYERS), strict=True))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[Layer, Run]:
    """The files of every run, in one process a layer."""
    return on_both(QUICK, tmp_path_factory.mktemp("quick"))


def check(file: str, runs: Mapping[Layer, Run], known: Mapping[str, Any]) -> None:
    control, ours = runs["pyepics"], runs["epicsrs"]
    assert ours.crashes == 0, ours.said
    assert not control.passed - ours.passed, f"{sorted(control.passed - ours.passed)}\n{ours.said}"
    listed = named(file, known, "not_passed")
    # A test may be listed with its parameters or without.
    found = {test if test in listed else test.partition("[")[0] for test in control.not_passed}
    assert found == listed, f"{control.not_passed}\n{control.said}"
    assert len(control.passed) == known["passed"]


@pytest.mark.parametrize("file", QUICK)
def test_what_passes_on_pyepics_passes_here(
    file: str, quick: Mapping[Layer, Run], shown: Callable[[str], None]
) -> None:
    runs = {layer: run.of(file) for layer, run in quick.items()}

    shown(counted("ophyd", file, runs))
    check(file, runs, FILES[file])


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_each_file_by_itself(file: str, shown: Callable[[str], None], tmp_path: Path) -> None:
    runs = on_both([file], tmp_path)

    shown(counted("ophyd", file, runs))
    check(file, runs, FILES[file])


@pytest.mark.slow
@pytest.mark.parametrize("version", EARLIER)
def test_the_core_of_an_earlier_version(version: str, shown: Callable[[str], None], tmp_path: Path) -> None:
    files: dict[str, dict[str, Any]] = EARLIER[version]["files"]
    runs = on_both(list(files), tmp_path, version)

    for file, known in files.items():
        of_file = {layer: run.of(file) for layer, run in runs.items()}
        shown(counted(f"ophyd {version}", file, of_file))
        check(file, of_file, known)


def test_the_control_passes_as_many_as_it_has_to() -> None:
    assert sum(known["passed"] for file, known in FILES.items() if file != "test_areadetector") >= AT_LEAST


def test_every_file_that_the_wheel_has_is_listed() -> None:
    wheel = distribution("ophyd").files or []

    assert {file.stem for file in wheel if file.match("ophyd/tests/test_*.py")} == FILES.keys()
