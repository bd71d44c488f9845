"""Does all that a page of the documentation says, in its order and in one session, in the present folder.

Usage: follow.py PAGE.md. Commands for the shell are run where they stand, with the programs of this environment.
"""

import os
import re
import runpy
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[4]


def in_python(commands: re.Match[str]) -> str:
    call = f"subprocess.run(['bash', '-euc', {commands[1]!r}], stdout=subprocess.DEVNULL).returncode"
    return f"```python\n>>> {call}\n0\n```"


page = REPOSITORY / "docs/how-to" / sys.argv[1]
session = re.sub(r"^```sh\n(.*?)^```", in_python, page.read_text(), flags=re.MULTILINE | re.DOTALL)
Path(page.name).write_text(f"```python\n>>> import subprocess\n```\n{session}")
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
sys.argv = ["examples.py", page.name]
runpy.run_path(str(REPOSITORY / "packages/epicsrs-native/tests/programs/examples.py"))
