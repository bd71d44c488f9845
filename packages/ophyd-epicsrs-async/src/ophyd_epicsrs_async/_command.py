"""Commands: puts that set something off. ophyd-async has them since 0.19."""

from typing import ClassVar

from ophyd_async.core import DEFAULT_TIMEOUT, NotConnectedError, TriggerableCommand
from ophyd_async.epics.core import EpicsCommandBackend

import epicsrs_native

from ._address import Address, Protocol, parse_named_pv, parse_pv
from ._channels import Channels

# What a trigger PV carries: PROC fields are integers, and a float means that it is the wrong PV.
_TRIGGERS: dict[Protocol, tuple[set[str], str]] = {
    "ca": ({"short", "char", "long", "enum"}, "a scalar numeric PV"),
    "pva": (
        {"boolean", "byte", "short", "int", "long", "ubyte", "ushort", "uint", "ulong", "enum_t"},
        "a scalar boolean, scalar numeric, or enum PV",
    ),
}


class EpicsRsCommandBackend(EpicsCommandBackend):
    """Writes `execute_value` to `write_pv` and waits until the record has finished processing.

    Args:
        write_pv: `NAME`, `ca://NAME` or `pva://NAME`; a bare name is a Channel Access one. May be set later.
        execute_value: What is written.
    """

    default_protocol: ClassVar[Protocol] = "ca"

    def __init__(self, write_pv: str = "", execute_value: int = 1) -> None:
        super().__init__(write_pv, execute_value)
        self._channels = Channels()

    def source(self, name: str) -> str:  # noqa: ARG002 (ophyd-async's signature)
        """The PV with its scheme; `name` does not matter."""
        return str(self._address)

    async def connect(self, timeout: float) -> None:
        """Find the PV and check that it is one to set something off with.

        Raises:
            NotConnectedError: It was not found, or did not answer, in time.
            TypeError: It is an array, a string or a float.
        """
        address = self._address
        try:
            info = await self._channels[address].info_async(timeout=timeout)
        except epicsrs_native.NotConnectedError as error:
            self._channels.close(address)
            raise NotConnectedError(str(address)) from error
        except epicsrs_native.ReplyTimeoutError as error:
            raise NotConnectedError(str(error)) from error
        allowed, requirement = _TRIGGERS[address.protocol]
        if info.type not in allowed or (info.count or 1) > 1:
            kind = f"{info.count} elements of {info.type!r}" if (info.count or 1) > 1 else repr(info.type)
            raise TypeError(f"{address} carries {kind}; {type(self).__name__} requires {requirement}")

    async def execute(self) -> None:
        """Write, and return when the record has finished.

        Raises:
            EpicsError: The server refused, or the circuit was lost before the completion.
        """
        await self._channels[self._address].put_async(self._execute_value, timeout=None)

    @property
    def _address(self) -> Address:
        return parse_pv(self.write_pv, self.default_protocol)


class EpicsRsCaCommandBackend(EpicsRsCommandBackend):
    """The same; a bare name is a Channel Access one."""

    default_protocol = "ca"


class EpicsRsPvaCommandBackend(EpicsRsCommandBackend):
    """The same; a bare name is a pvAccess one."""

    default_protocol = "pva"


def epicsrs_triggerable_command(
    write_pv: str, execute_value: int = 1, name: str = "", timeout: float | None = DEFAULT_TIMEOUT
) -> TriggerableCommand:
    """A command whose trigger writes a value, and is done when the record has finished processing.

    Args:
        write_pv: The PV: an integer, an enum, or over pvAccess a boolean.
        execute_value: What is written.
        name: The command's name; a device names its own.
        timeout: Seconds for each trigger; None waits for ever.
    """
    parse_named_pv(write_pv)
    return TriggerableCommand(EpicsRsCommandBackend(write_pv, execute_value), name=name, timeout=timeout)
