"""ophyd-async's own tests on our backends: fetched with its sdist, run in a process and an environment of their own.

suites/ophyd_async.toml lists what each file of them must give. A test that is skipped has not passed.
"""

import os
import subprocess
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from ioc import free_ports

from .suites.sdist import fetch
from .suites.suite import end_group

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SUITES = HERE / "suites"
EXPECTED = tomllib.loads((SUITES / "ophyd_async.toml").read_text())
# For the environment to be made, from the network at worst, and for their tests on a machine with other work.
LIMIT = 600.0

# pytest 9.2 compares approx() with mock's ANY otherwise than their tests mean it.
PACKAGES = [
    "pytest==9.0.3",
    "pytest-asyncio==1.3.0",
    "pytest-timeout==2.4.0",
    "inflection==0.5.1",
    "pyepics==3.5.10",  # for the ophyd device of one test
]
OURS = ["ophyd_epicsrs_async.pytest_plugin", "ophyd_async_alone"]


class Outcome(NamedTuple):
    """How one test ended."""

    file: str
    test: str
    result: str


def download(version: str, folder: Path) -> Path:
    """ophyd-async's sdist, unpacked."""
    unpacked = fetch("ophyd-async", version, folder)
    # It prepares each test for Tango.
    (unpacked / "tests/system_tests/conftest.py").unlink()
    return unpacked


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def sdist(version: str) -> Path:
        if version not in folders:
            folders[version] = download(version, tmp_path_factory.mktemp("ophyd_async"))
        return folders[version]

    return sdist


def environment() -> dict[str, str]:
    """Ports that no other IOC has: of two that hear one search over loopback, only one answers."""
    ca, repeater, pva, search = map(str, free_ports(4))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("EPICS_", "PYTEST_"))}
    return inherited | {
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_REPEATER_PORT": repeater,
        "EPICS_CA_SERVER_PORT": ca,
        "EPICS_CAS_SERVER_PORT": ca,
        "EPICS_PVA_AUTO_ADDR_LIST": "NO",
        "EPICS_PVA_BROADCAST_PORT": search,
        "EPICS_PVA_SERVER_PORT": pva,
        "EPICS_PVAS_BROADCAST_PORT": search,
        "EPICS_PVAS_SERVER_PORT": pva,
        "MPLBACKEND": "agg",
        "PYTHONPATH": str(SUITES),
    }


def run(unpacked: Path, version: str, tests: list[str], plugins: list[str], report: Path) -> tuple[int, str]:
    """Run their tests; the exit status and what was printed. Nothing outlives it."""
    packages = [f"--with={package}" for package in [f"ophyd-async[ca,pva,sim]=={version}", *PACKAGES]]
    uv = ["uv", "run", "--quiet", "--no-sync", f"--project={ROOT}", *packages]
    settings = [
        "--override-ini=addopts=--tb=short --strict-markers",
        "--override-ini=junit_family=xunit1",  # with each test's file
        "--override-ini=timeout_func_only=true",  # the 3 s that some tests have are not meant for an IOC to start
    ]
    process = subprocess.Popen(
        [
            *uv,
            *("python", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(f"-p{plugin}" for plugin in plugins),
            *settings,
            f"--junit-xml={report}",
            *tests,
        ],
        env=environment(),
        cwd=unpacked,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        end_group(process)
        pytest.fail(f"not done after {LIMIT:.0f} s\n{process.communicate()[0]}")
    end_group(process)
    return process.returncode, printed


def outcomes(report: Path) -> list[Outcome]:
    """One for each test; of a test that is reported twice, for its teardown, the worse."""
    ranks = ("passed", "skipped", "failed")
    results: dict[tuple[str, str], str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        test = case.get("file", case.get("classname", "")), case.get("name", "")
        ends = {
            "skipped" if end.tag == "skipped" else "failed"
            for end in case
            if end.tag in {"skipped", "failure", "error"}
        }
        results[test] = max([*ends, results.get(test, "passed")], key=ranks.index)
    return [Outcome(*test, result) for test, result in results.items()]


def table(counted: dict[str, Counter[str]]) -> str:
    rows = [(file, *(counts[result] for result in ("passed", "failed", "skipped"))) for file, counts in counted.items()]
    total = ("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:]))
    return "\n".join(
        f"{file:75} {passed:4} {failed:4} {skipped:4}"
        for file, passed, failed, skipped in [("", "pass", "fail", "skip"), *rows, total]
    )


@pytest.mark.parametrize(
    ("version", "suite", "plugins"),
    [
        pytest.param("0.21.3", "core", [], id="core-0.21.3-qsrv"),
        pytest.param("0.21.3", "core", ["ophyd_async_qsrv2"], id="core-0.21.3-qsrv2"),
        pytest.param("0.21.3", "mock", [], id="mock-0.21.3"),
        pytest.param("0.21.3", "tutorial", [], id="tutorial-0.21.3"),
        pytest.param("0.19.4", "core", [], id="core-0.19.4", marks=pytest.mark.slow),
        pytest.param("0.16", "core", [], id="core-0.16", marks=pytest.mark.slow),
    ],
)
def test_their_tests_pass_on_our_backends(
    version: str,
    suite: str,
    plugins: list[str],
    sdist: Callable[[str], Path],
    tmp_path: Path,
    shown: Callable[[str], None],
) -> None:
    expected = EXPECTED[version][suite]
    reasons: dict[str, str] = expected["cannot_pass"]
    report = tmp_path / "report.xml"

    status, printed = run(sdist(version), version, expected["tests"], OURS + plugins, report)

    assert report.exists(), f"exit status {status}\n{printed}"
    ended = outcomes(report)
    counted: dict[str, Counter[str]] = {}
    for outcome in ended:
        counted.setdefault(outcome.file, Counter())[outcome.result] += 1
    shown(f"ophyd-async {version}, {suite} {' '.join(plugins)}\n{table(counted)}")
    assert {outcome.test for outcome in ended if outcome.result != "passed"} == set(reasons), printed
    assert {file: counts["passed"] for file, counts in counted.items()} == expected["passed"]
    assert status == (1 if reasons else 0), printed
