"""The examples of a page of the documentation, run as its reader would."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ioc import HERE

PROGRAM = HERE / "programs/examples.py"
LIMIT = 180.0


def check_examples(interpreter: Sequence[str], page: Path, environment: Mapping[str, str], folder: Path) -> None:
    """Each prints what stands below it; a page has more than eight."""
    done = subprocess.run(
        [*interpreter, str(PROGRAM), str(page)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) > 8
