"""The tests of ophyd-epicsrs-sync on the control layers that ophyd brings: what these do not pass is written down.

packages/ophyd-epicsrs-sync/tests/other_layers.toml has it, with the reasons, and what a layer passes now and then. A
test with parameters is there by its name alone: with one of them, at least, it fails.
"""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .suites.suite import Suite

PACKAGES = Path(__file__).parents[2] / "packages"
TESTS = PACKAGES / "ophyd-epicsrs-sync/tests"
KNOWN: dict[str, Any] = tomllib.loads((TESTS / "other_layers.toml").read_text())
FILES = sorted(file.stem for file in TESTS.glob("test_*.py") if file.stem not in KNOWN["ours"])
LAYERS = {"pyepics": "pyepics==3.5.10", "caproto": "caproto==1.3.0"}
# Seconds for a file. pyepics does not always end when its tests have.
LIMIT = 300.0


def listed(layer: str, which: str, file: str) -> set[str]:
    tests = {test for reason in KNOWN[layer][which] for test in reason["tests"]}
    return {test for test in tests if test.startswith(f"{file}::")}


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("layer", LAYERS)
def test_another_layer_fails_what_is_written_down(
    layer: Any, file: str, shown: Callable[[str], None], tmp_path: Path
) -> None:
    # As in this repository, but for its settings of a run.
    options = ["--import-mode=importlib", "-o", f"pythonpath={PACKAGES / 'epicsrs-native/tests'}", "-m", "not slow"]
    suite = Suite(target=[*options, str(TESTS / f"{file}.py")], plugins=[], packages=[LAYERS[layer]], limit=LIMIT)

    run = suite.run(layer, tmp_path, {})

    shown(f"{file} on {layer}: {run.counted()}")
    failed = {test.partition("[")[0] for test in run.not_passed}
    assert failed - listed(layer, "unsteady", file) == listed(layer, "failed", file), run.said
