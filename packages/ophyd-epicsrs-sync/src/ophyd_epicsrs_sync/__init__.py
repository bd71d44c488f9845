"""ophyd's control layer on epicsrs-native.

One line, before or after `import ophyd`::

    from ophyd_epicsrs_sync import use_epicsrs

    use_epicsrs()
"""

import epicsrs_native

epicsrs_native.require_abi(1, 0, "ophyd-epicsrs-sync")

from ophyd_epicsrs_sync._selection import install, uninstall, use_epicsrs

__all__ = ["install", "uninstall", "use_epicsrs"]
