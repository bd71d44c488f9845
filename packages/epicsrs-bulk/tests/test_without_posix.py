"""The package works without what only POSIX has: its wheels are for Windows as well."""

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent / "programs" / "without_posix.py"


def test_a_sink_and_a_replay_need_nothing_of_posix(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path], capture_output=True, text=True, timeout=60.0, check=False
    )

    assert done.returncode == 0, done.stderr
    *delivered, in_use, outcomes, files = done.stdout.splitlines()
    # The first replay, to print.
    assert [line.split()[0] for line in delivered] == ["start", "stop"] and "'second'" in delivered[0]
    # The sink holds the lock of a run that has no stop yet.
    assert in_use == "['in use']"
    assert outcomes == "[('first', 'skipped'), ('second', 'skipped'), ('third', 'delivered')]"
    assert files == "['first.delivered', 'second.delivered', 'third.delivered'] 3"
