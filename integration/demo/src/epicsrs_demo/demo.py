"""The demo from the start of the IOC to its end."""

import os
from contextlib import ExitStack

from rich.console import Console

from epicsrs_demo.ioc import keep, serving
from epicsrs_demo.log import Log
from epicsrs_demo.options import Options
from epicsrs_demo.parts import Parts
from epicsrs_demo.storage import Storage


def demo(options: Options) -> None:
    """Start the IOC and the catalog, go on the tour, end both.

    Raises:
        PartError: A part failed.
        KeyboardInterrupt: Ctrl-C.
    """
    console, parts = Console(), Parts()
    with ExitStack() as stack:
        with parts.part("start of the IOC"):
            stack.callback(Log(options.log).tell)
            storage = Storage(options.folder)
            stack.callback(storage.close)
            # It takes its time, which is that of all that comes before the first run.
            storage.start()
            ioc = stack.enter_context(serving(options.folder))
            # Before any client is opened, which reads them.
            os.environ.update(ioc.env)
        ports = "Channel Access on port {ca_port}, pvAccess on {pva_port}".format(**ioc.ports)
        console.print(f"The beamline serves {ports}.", highlight=False)
        with parts.part("import of ophyd, ophyd-async, bluesky and tiled"):
            # Before ophyd is imported, which then loads no other client.
            from ophyd_epicsrs_sync import use_epicsrs

            use_epicsrs()
            # Before an ophyd-async device is made.
            from ophyd_epicsrs_async import install

            install()
            from epicsrs_demo.tour import tour
            from epicsrs_native import shutdown_all
        stack.callback(shutdown_all)
        tour(options, storage, parts, console)
        if options.keep_ioc:
            keep(ioc, storage.catalog, console)
