"""ophyd's control layer on epicsrs-native."""

import epicsrs_native

epicsrs_native.require_abi(1, 0, "ophyd-epicsrs-sync")

__all__: list[str] = []
