"""The tutorial's program, as its page says: beamline, flyer, journal, catalog, read back, picture."""

import os
import re
import subprocess
import sys
from pathlib import Path

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
# Seconds; the catalog's server is what takes long to start on a busy machine.
LIMIT = 500.0


def test_the_program_flies_stores_reads_back_and_draws(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EPICS_")}
    program = subprocess.run(
        [sys.executable, TUTORIALS / "first_fly_scan.py", tmp_path / "scan"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=environment,
        check=False,
    )

    assert program.returncode == 0, program.stderr
    first, second, *_ = program.stdout.splitlines()
    columns, rows, size = map(int, re.findall(r"\d+", first.replace(",", "")))
    # 53 waveforms and the time, each with its validity.
    assert (columns, rows) == (108, 200)
    assert size == 200 * 54 * (8 + 1)
    plan, sweep, flush = map(float, re.findall(r"\d+\.\d+", second))
    assert plan > sweep == 2.0
    assert flush > 0.0
    assert (tmp_path / "scan" / "first-fly-scan.png").read_bytes().startswith(b"\x89PNG")
    assert [path.suffix for path in (tmp_path / "scan" / "journal").iterdir()] == [".delivered"]


def test_the_page_shows_the_program() -> None:
    """What the page quotes is in the program, line by line and in its order."""
    program = (TUTORIALS / "first_fly_scan.py").read_text()
    blocks = re.findall(r"```python\n(.*?)```", (TUTORIALS / "your-first-fly-scan.md").read_text(), re.S)

    assert len(blocks) >= 4
    place = 0
    for block in blocks:
        # The page leaves out the indentation of what is inside a function.
        lines = [line.strip() for line in block.splitlines() if line.strip()]
        for line in lines:
            found = program.find(line, place)
            assert found >= 0, f"not in the program after what comes before: {line}"
            place = found
