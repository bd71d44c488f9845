"""ophyd's control layer on epicsrs-native.

One line, before or after `import ophyd`::

    from ophyd_epicsrs_sync import use_epicsrs

    use_epicsrs()
"""

import epicsrs_native

epicsrs_native.require_abi(1, 0, "ophyd-epicsrs-sync")

from ophyd_epicsrs_sync._selection import install, uninstall, use_epicsrs

__all__ = ["install", "load_ipython_extension", "uninstall", "unload_ipython_extension", "use_epicsrs"]


def load_ipython_extension(_ipython: object) -> None:
    """`%load_ext ophyd_epicsrs_sync` is `use_epicsrs()`."""
    use_epicsrs()


def unload_ipython_extension(_ipython: object) -> None:
    """`%unload_ext ophyd_epicsrs_sync` is `uninstall()`."""
    uninstall()
