"""A pytest plugin: ophyd-async's own EPICS backends refuse to connect, so that what passes has passed on ours."""

import sys
from typing import NoReturn

import ophyd_async.epics.core as _  # noqa: F401  (imports the modules below)

MODULES = ["ophyd_async.epics.core._aioca", "ophyd_async.epics.core._p4p"]


def refuse(*args: object, **settings: object) -> NoReturn:
    raise AssertionError(f"a backend of ophyd-async's own was used: {args}, {settings}")


for module in MODULES:
    names = vars(sys.modules[module])
    backends = [value for name, value in names.items() if name.endswith("Backend") and value.__module__ == module]
    assert backends
    for backend in backends:
        backend.connect = refuse
