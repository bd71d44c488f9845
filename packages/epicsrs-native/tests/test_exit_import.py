"""The interpreter ends cleanly while a call of a daemon thread imports numpy."""

from ioc import Ioc
from program import Program


def test_exit_while_a_call_imports_numpy(ioc: Ioc) -> None:
    pvs = [ioc.pv("double", protocol) for protocol in ("ca", "pva")]
    for _ in range(3):
        with Program("leaving_in_import.py", *pvs) as program:
            assert program.hear() == "leaving"
            ending = program.finish()
            assert (ending.code, ending.errors) == (3, "")
            assert ending.seconds < 2.0
