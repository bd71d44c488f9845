"""Runs the Python of pages of the documentation, the blocks of each in their order, as one program.

Usage: pages.py PAGE.md...
Prints each page's name and how many blocks it has; what the blocks print goes to stderr.
"""

import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ophyd_epicsrs_async import uninstall

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

for page in map(Path, sys.argv[1:]):
    text = page.read_text()
    session: dict[str, Any] = {"__name__": "__main__"}
    blocks = list(BLOCK.finditer(text))
    with redirect_stdout(sys.stderr):
        for block in blocks:
            # Its lines in a traceback are those of the page.
            above = "\n" * (text.count("\n", 0, block.start()) + 1)
            exec(compile(above + block[1], page, "exec", dont_inherit=True), session)
    uninstall()
    print(f"{page.name}: {len(blocks)}", flush=True)
