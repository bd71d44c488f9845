"""Runs the examples of a page of the documentation in their order, as one session.

Usage: examples.py PAGE.md. Prints how many there were; ends with 1 and a report where one does not do what is written.
"""

import doctest
import re
import sys
from pathlib import Path

page = Path(sys.argv[1])
text = page.read_text()
for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
    assert block.startswith(">>> "), f"a block that is not run:\n{block}"
# A fence would be read as the last line of what an example prints.
session = re.sub(r"^```.*$", "", text, flags=re.MULTILINE)
examples = doctest.DocTestParser().get_doctest(session, {"__name__": "__main__"}, page.name, str(page), 0)
failed, attempted = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples)
print(f"{attempted} examples")
sys.exit(failed > 0)
