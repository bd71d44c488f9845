"""pyepics' own tests of its PV, from its sdist, with our PVs in place of its own, and pyepics as the control.

They run on the IOC and the simulator that come with them, and on a motor of the beamline. One of the fifty,
test_type_converions_2, speaks to pyepics' `ca` only.
"""

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from deadline import until
from epicsrs_beamline import Beamline
from ioc import NETWORK, Ioc, Ports, free_ports

from .suites.sdist import fetch
from .suites.suite import LAYERS, Layer, Run, Suite, counted, end_group, python

VERSION = "3.5.10"
PYEPICS = f"pyepics=={VERSION}"
# How many tests each file has, all of which pass. The last one leaves pyepics without numpy.
FILES = {
    "test_pv_unittests": 40,
    "test_pv_callback": 1,
    "test_pv_initcallbacks": 2,
    "test_pvsubarray": 1,
    "test_pv_typeconversion": 6,
}
LIMIT = 150.0


@pytest.fixture(scope="module")
def tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests of pyepics."""
    return fetch("pyepics", VERSION, tmp_path_factory.mktemp("sdist")) / "tests"


@contextmanager
def station(tests: Path, folder: Path) -> Iterator[Mapping[str, str]]:
    """The IOC of pyepics with its simulator, and a beamline; the environment of their clients."""
    folder.mkdir()
    ports = Ports(*free_ports(3))
    ioc = Ioc(ports, folder, [tests / "Setup/pydebug.db"], prefix="PyTest:")
    ioc.start()
    try:
        with Beamline(ophyd_names=True, log=folder / "beamline.log") as beamline:
            environment = {**beamline.env, **NETWORK.client(ports), "EPICS_CA_MAX_ARRAY_BYTES": "20100300"}
            environment["EPICS_CA_ADDR_LIST"] += f" {beamline.env['EPICS_CA_ADDR_LIST']}"
            with simulator(tests, folder / "simulator.log", environment):
                yield environment
    finally:
        ioc.kill()


@contextmanager
def simulator(tests: Path, log: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """The simulator of pyepics, while it changes the IOC's values."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("EPICS_", "VIRTUAL_ENV"))}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*python([PYEPICS]), "-u", str(tests / "Setup/simulator.py")],
            env={**clean, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until(lambda: "running" in log.read_text() or process.poll() is not None, 60.0)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        end_group(process)


@pytest.fixture(scope="module")
def runs(tests: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[Layer, Run]:
    """What they come to on each layer, at a station of its own."""
    folder = tmp_path_factory.mktemp("pyepics")
    targets = [str(tests / f"{file}.py") for file in FILES]
    suite = Suite(target=targets, plugins=["pyepics_layer"], packages=[PYEPICS], limit=LIMIT)

    def run(layer: Layer) -> Run:
        with station(tests, folder / layer) as environment:
            return suite.run(layer, folder, environment)

    with ThreadPoolExecutor(len(LAYERS)) as executor:
        return dict(zip(LAYERS, executor.map(run, LAYERS), strict=True))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("file", FILES)
def test_all_of_a_file_pass(runs: Mapping[Layer, Run], file: str, layer: Layer, shown: Callable[[str], None]) -> None:
    run = runs[layer].of(file)

    shown(counted("pyepics", file, {layer: run}))
    assert run.not_passed == {}, run.said
    assert len(run.passed) == FILES[file]


def test_our_pvs_take_no_process_with_them(runs: Mapping[Layer, Run]) -> None:
    assert runs["epicsrs"].crashes == 0, runs["epicsrs"].said
