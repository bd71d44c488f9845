"""The examples of the pages on ophyd, and of its package's README, do at the beamline what is written below them."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from epicsrs_beamline import Beamline

from .examples import check_examples
from .suites.suite import python

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs/how-to"
OURS = [sys.executable]
# One page shows both layers in one process.
BOTH = python(["pyepics==3.5.10"])


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """That of a reader who has started the beamline."""
    beamline = Beamline(log=tmp_path_factory.mktemp("beamline") / "beamline.log").start(timeout=60.0)
    clean = {name: value for name, value in os.environ.items() if name not in {"OPHYD_CONTROL_LAYER", "VIRTUAL_ENV"}}
    yield {**clean, **beamline.env}
    beamline.stop()


@pytest.mark.parametrize(
    ("page", "interpreter"),
    [
        (ROOT / "packages/ophyd-epicsrs-sync/README.md", OURS),
        (PAGES / "migrate-an-ophyd-profile.md", OURS),
        (PAGES / "choose-a-layer-per-signal.md", BOTH),
        (PAGES / "pvaccess-in-ophyd.md", OURS),
    ],
    ids=["readme", "migrate", "choose", "pvaccess"],
)
def test_every_example_of_a_page_prints_what_it_says(
    page: Path, interpreter: Sequence[str], environment: dict[str, str], tmp_path: Path
) -> None:
    check_examples(interpreter, page, environment, tmp_path)
