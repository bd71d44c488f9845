"""The examples of the pages on flyers and dead time do at the beamline what is written below them."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from epicsrs_beamline import Beamline

from .examples import check_examples

PAGES = Path(__file__).parents[2] / "docs/how-to"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """That of a reader who has started the beamline."""
    beamline = Beamline(log=tmp_path_factory.mktemp("beamline") / "beamline.log").start(timeout=60.0)
    yield {**os.environ, **beamline.env, "BEAMLINE": beamline.prefix}
    beamline.stop()


@pytest.mark.parametrize(
    "page",
    [
        "dead-time.md",
        "page-or-stream.md",
        "sis3820-like-flyer.md",
        "waveforms-in-ophyd-async.md",
        "xspress3-like-flyer.md",
    ],
)
def test_every_example_of_a_page_prints_what_it_says(page: str, environment: dict[str, str], tmp_path: Path) -> None:
    check_examples([sys.executable], PAGES / page, environment, tmp_path)
