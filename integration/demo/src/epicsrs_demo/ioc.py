"""The beamline's IOC, for the demo and for whoever wants to look at it afterwards."""

import shlex
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from rich.console import Console

from epicsrs_beamline import Beamline
from epicsrs_bulk import LocalCatalog
from epicsrs_demo.parts import PartError
from epicsrs_demo.records import PREFIX, database


@contextmanager
def serving(folder: Path) -> Generator[Beamline]:
    """The IOC with the demo's records besides; what it says is kept in the folder."""
    records = folder / "records.db"
    records.write_text(database())
    with Beamline(prefix=PREFIX, databases=[records], log=folder / "ioc.txt") as beamline:
        yield beamline


def keep(beamline: Beamline, catalog: LocalCatalog, console: Console) -> None:
    """Say how to talk to the IOC and the catalog, and wait.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        PartError: The IOC has ended.
    """
    from epicsrs_native import get_context

    console.print("\nThe IOC and the catalog go on until Ctrl-C. To talk to them from another shell:")
    for name, value in beamline.env.items():
        # Not by rich, which would break long lines.
        print(f"export {name}={shlex.quote(value)}", flush=True)
    print(f"export TILED_API_KEY={catalog.api_key}  # for {catalog.uri}", flush=True)
    gone = Event()
    channel = get_context().channel(f"{PREFIX}current")
    channel.connect()
    channel.on_connection(lambda connected: None if connected else gone.set())
    gone.wait()
    raise PartError(f"the IOC is gone; {beamline.log} has what it said")
