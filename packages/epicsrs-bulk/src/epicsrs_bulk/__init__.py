"""Many PVs at once on epicsrs-native: reads as columns, and flyers."""

import epicsrs_native

epicsrs_native.require_abi(1, 0, "epicsrs-bulk")

__all__: list[str] = []
