"""The structure at a PVI PV, which lists the PVs of a device."""

from typing import Any, cast

from ophyd_async.core import NotConnectedError

import epicsrs_native
from epicsrs_native import get_context

from ._address import parse_pv


class Structure:
    """A pvAccess structure with the two methods that ophyd-async's PVI connector asks of it."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> Any:
        field = self._fields[name]
        return Structure(cast("dict[str, Any]", field)) if isinstance(field, dict) else field

    def todict(self) -> dict[str, Any]:
        """Its fields; structures within are dicts, lists of structures may hold None."""
        return self._fields


async def pvget_with_timeout(pv: str, timeout: float) -> Structure:
    """Read the whole structure of a pvAccess PV.

    Args:
        pv: Its name, bare or with `pva://`.
        timeout: Seconds to find it and to get the answer.

    Raises:
        NotConnectedError: It was not found, or did not answer, in time.
        TypeError: It carries a plain value.
    """
    address = parse_pv(pv, "pva")
    channel = get_context().channel(str(address))
    try:
        reading = await channel.get_async(form="value", timeout=timeout)
    except epicsrs_native.NotConnectedError as error:
        raise NotConnectedError(str(address)) from error
    except epicsrs_native.ReplyTimeoutError as error:
        raise NotConnectedError(str(error)) from error
    finally:
        channel.close()
    value: object = reading.value
    if not isinstance(value, dict):
        raise TypeError(f"{address} carries {value!r}, not a structure")
    return Structure(cast("dict[str, Any]", value))
