"""What --help and --list print."""

import subprocess
from pathlib import Path

from epicsrs_beamline import Beamline

LISTING = Path(__file__).parents[3] / "docs" / "reference" / "beamline-pvs.txt"


def printed(*options: str) -> list[str]:
    done = subprocess.run([Beamline().command()[0], *options], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.splitlines()


def test_help_names_every_option() -> None:
    text = "\n".join(printed("--help"))
    for option in "ca-port pva-port pva-broadcast-port prefix ophyd-names db log exit-with-stdin list help".split():
        assert f"--{option}" in text


def test_the_listing_in_the_repository_is_the_program_s_own() -> None:
    # Written by: epicsrs-beamline --list > docs/reference/beamline-pvs.txt
    assert LISTING.read_text().splitlines() == printed("--list")


def test_every_pv_is_listed_with_its_type_and_what_it_is() -> None:
    lines = printed("--list", "--ophyd-names")
    own = [line for line in lines if line.startswith("bl:") and not line.startswith("bl:cam:")]
    kinds = {line.split()[1] for line in lines}
    assert {"motor", "scaler", "busy", "waveform", "lso", "int64out", "mbbo", "calc"} <= kinds
    assert len([line for line in lines if line.split()[1] == "motor"]) == 8 + 3 + 4 + 6 + 2
    undescribed = [
        line for line in own if len(line.split(maxsplit=2)) < 3 and "Kohzu" not in line and "Bragg" not in line
    ]
    assert [line for line in undescribed if not line.startswith(("bl:Slit", "bl:zSim", "bl:ySim", "bl:thetaSim"))] == []
