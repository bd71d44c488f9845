"""The file of what is logged."""

import logging
import sys
from pathlib import Path


class Log(logging.FileHandler):
    """Takes warnings and errors of every library, so that the terminal is free for the live view."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, mode="w")
        self.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
        self._failure: OSError | None = None
        logging.getLogger().addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.stream.write(f"{self.format(record)}\n")
            self.stream.flush()
        except OSError as error:
            # A full disk, say. The terminal hears of it once, not of every record.
            self._failure = self._failure or error

    def tell(self) -> None:
        """Say whether something that was logged could not be written."""
        if self._failure:
            print(f"epicsrs-demo: {self.baseFilename} is not whole: {self._failure}", file=sys.stderr)
