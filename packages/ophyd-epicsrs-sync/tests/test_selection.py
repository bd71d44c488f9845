import os
import subprocess
import sys
import threading
from pathlib import Path

import ophyd
import pytest

import ophyd_epicsrs_sync

NAMES = {"setup", "caput", "caget", "get_pv", "thread_class", "name", "release_pvs", "get_dispatcher"}


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own; an ophyd that nobody has imported."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )


def test_ophyd_gets_the_eight_names(layer):
    assert vars(ophyd.get_cl()).keys() == NAMES
    assert ophyd.get_cl().name == "epicsrs"
    assert ophyd.get_cl().thread_class is threading.Thread


def everything():
    """What is replaced in ophyd."""
    methods = ophyd.EpicsSignal.set, ophyd.PVPositionerPC._setup_move, ophyd.Device._instantiate_component  # noqa: SLF001
    return ophyd.set_cl, ophyd.cl, *methods


def test_to_install_twice_is_to_install_once():
    before = everything()

    ophyd_epicsrs_sync.install()
    wrapped = ophyd.set_cl
    ophyd_epicsrs_sync.use_epicsrs()
    assert ophyd.set_cl is wrapped

    ophyd_epicsrs_sync.uninstall()
    assert everything() == before


def test_set_cl_goes_away_and_back(layer):
    ophyd.set_cl("dummy")
    assert ophyd.get_cl().name == "dummy"

    ophyd.set_cl("EpicsRS")
    assert ophyd.get_cl().name == "epicsrs"


def test_set_cl_reads_the_environment(layer, monkeypatch):
    ophyd.set_cl("dummy")
    monkeypatch.setenv("OPHYD_CONTROL_LAYER", "epicsrs")

    ophyd.set_cl()

    assert ophyd.get_cl().name == "epicsrs"


def test_an_unknown_layer_is_refused_as_before(layer):
    with pytest.raises(ValueError, match="unknown control_layer"):
        ophyd.set_cl("tango")


def test_pv_telemetry_counts_names(ioc, layer):
    ophyd.set_cl("epicsrs", pv_telemetry=True)

    for _ in range(2):
        ophyd.EpicsSignal(ioc.pv("double"), name="double").destroy()

    assert ophyd.get_cl().get_pv.counter == {ioc.pv("double"): 2}


@pytest.mark.parametrize("first", ["ophyd", "ophyd_epicsrs_sync"])
def test_ophyd_may_be_imported_before_or_after(first):
    done = python(
        f"import {first}, sys, os, ophyd_epicsrs_sync; ophyd_epicsrs_sync.use_epicsrs(); import ophyd\n"
        "print(ophyd.get_cl().name, 'epics' in sys.modules, os.environ.get('OPHYD_CONTROL_LAYER'))",
        OPHYD_CONTROL_LAYER="dummy",
    )
    assert done.stdout == "epicsrs False dummy\n", done.stderr


def test_a_program_that_installs_reads_a_pv_and_ends_by_itself(ioc):
    done = python(
        "import ophyd_epicsrs_sync; ophyd_epicsrs_sync.use_epicsrs()\n"
        "from ophyd import EpicsSignal\n"
        f"signal = EpicsSignal({ioc.pv('counter')!r}, name='counter', auto_monitor=True)\n"
        "signal.wait_for_connection(timeout=5.0); print(signal.get() > 0)"
    )
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
    assert "Traceback" not in done.stderr


def test_a_failed_import_of_ophyd_leaves_the_environment(tmp_path: Path):
    (tmp_path / "ophyd.py").write_text("raise ImportError('broken')")
    done = python(
        "import os, ophyd_epicsrs_sync\n"
        "try: ophyd_epicsrs_sync.use_epicsrs()\n"
        "except ImportError as error: print(error, os.environ.get('OPHYD_CONTROL_LAYER'))",
        PYTHONPATH=os.pathsep.join([str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
        OPHYD_CONTROL_LAYER="any",
    )
    assert done.stdout == "broken any\n", done.stderr


SOURCES = Path(ophyd_epicsrs_sync.__file__).parents[1]


def test_the_environment_alone_chooses_our_layer():
    """As a wheel does it: with the .pth file in a folder of site-packages."""
    start = f"import site; site.addsitedir({str(SOURCES)!r})\n"
    show = "import sys, os, ophyd; print(ophyd.cl.name, os.environ['OPHYD_CONTROL_LAYER'], 'epics' in sys.modules)"

    assert python(start + show, OPHYD_CONTROL_LAYER="epicsrs").stdout == "epicsrs epicsrs False\n"
    assert python(start + show, OPHYD_CONTROL_LAYER="dummy").stdout == "dummy dummy False\n"


@pytest.mark.parametrize("looked_for", ["ophyd", "ophyd.__main__"])
def test_to_look_for_ophyd_before_its_import_changes_nothing(looked_for):
    code = f"import importlib.util; importlib.util.find_spec({looked_for!r}); import ophyd; print(ophyd.get_cl().name)"

    done = python(code, OPHYD_CONTROL_LAYER="epicsrs")

    assert (done.returncode, done.stdout) == (0, "epicsrs\n"), done.stderr


def test_without_the_variable_nothing_is_loaded():
    done = python(f"import site, sys; site.addsitedir({str(SOURCES)!r}); print('epicsrs_native' in sys.modules)")

    assert done.stdout == "False\n"


def test_a_suite_runs_on_our_layer_with_the_pytest_plugin(tmp_path: Path):
    (tmp_path / "conftest.py").write_text("import ophyd; NAME = ophyd.get_cl().name")
    (tmp_path / "test_layer.py").write_text("import conftest\ndef test(): assert conftest.NAME == 'epicsrs'")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "ophyd_epicsrs_sync.pytest_plugin", tmp_path],
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout


def test_the_ipython_extension_installs_and_uninstalls():
    before = ophyd.set_cl

    ophyd_epicsrs_sync.load_ipython_extension(None)
    assert ophyd.get_cl().name == "epicsrs"
    ophyd_epicsrs_sync.unload_ipython_extension(None)

    assert ophyd.set_cl is before
