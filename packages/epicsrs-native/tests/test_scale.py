"""A thousand PVs take no more threads than one."""

from pathlib import Path

from ioc import Ioc
from program import Program

COUNT = 1000


def test_a_thousand_monitors_on_at_most_four_threads(mortal_ioc: Ioc, protocol: str, tmp_path: Path) -> None:
    database = tmp_path / "many.db"
    database.write_text("".join(f'record(longout, "$(P)many{number}") {{ }}\n' for number in range(COUNT)))
    mortal_ioc.databases.append(database)
    mortal_ioc.kill()
    mortal_ioc.start()

    with Program("many_monitors.py", mortal_ioc.pv("many", protocol), str(COUNT)) as program:
        complete, threads = program.hear(40.0)
        assert complete
        assert 1 <= threads <= 4
        assert program.hear(40.0) == [True, True]
        assert program.hear() <= 4
        program.say()
        ending = program.finish()
        assert (ending.code, ending.errors) == (0, "")
