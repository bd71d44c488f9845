"""The command line."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

FOLDER = Path("epicsrs-demo-documents")
# What a shell reports of a command that was called wrongly.
REFUSED = 2


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    folder: Path
    quick: bool
    keep_ioc: bool

    @property
    def log(self) -> Path:
        """What bluesky and ophyd log, tracebacks of plans that failed among it."""
        return self.folder / "log.txt"

    @property
    def picture(self) -> Path:
        """The picture that is drawn."""
        return self.folder / "epicsrs-demo.png"


def parse() -> Options:
    """The options of this process; its folder is there and can be written to.

    Raises:
        SystemExit: They are wrong, with one sentence and status 2; or it was --help that was asked for.
    """
    parser = _Parser(prog="epicsrs-demo", description=__doc__, allow_abbrev=False)
    parser.description = "Scans a simulated beamline with one RunEngine, through every package of epicsrs."
    parser.add_argument("--quick", action="store_true", help="fewer points")
    parser.add_argument(
        "--out", type=Path, default=FOLDER, metavar="DIR", help=f"where documents, frames and picture go ({FOLDER})"
    )
    parser.add_argument(
        "--keep-ioc", action="store_true", help="at the end, say how to talk to the IOC, and leave it until Ctrl-C"
    )
    words = parser.parse_args()
    options = Options(words.out, words.quick, words.keep_ioc)
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        options.log.write_text("")
    except OSError as error:
        parser.refuse(f"{options.folder} cannot be written to: {error.strerror}")
    return options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.refuse(f"{message}; --help lists the options")

    def refuse(self, sentence: str) -> NoReturn:
        self.exit(REFUSED, f"{self.prog}: {sentence}\n")
