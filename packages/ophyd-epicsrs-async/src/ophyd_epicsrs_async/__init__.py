"""ophyd-async's signal backends on epicsrs-native."""

import epicsrs_native

epicsrs_native.require_abi(1, 0, "ophyd-epicsrs-async")

__all__: list[str] = []
