"""A PV's name with the protocol that it is served by."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

Protocol: TypeAlias = Literal["ca", "pva"]


@dataclass(frozen=True)
class Address:
    """One PV: `protocol` is how it is reached, `name` what its server publishes."""

    protocol: Protocol
    name: str

    @classmethod
    def parse(cls, pv: str, default: Protocol = "ca") -> "Address":
        """Split a PV name from its scheme.

        Args:
            pv: `NAME`, `ca://NAME` or `pva://NAME`.
            default: The protocol of a name without a scheme.

        Raises:
            ValueError: Another scheme.
        """
        scheme, separator, name = pv.partition("://")
        if not separator:
            return cls(default, pv)
        if scheme not in {"ca", "pva"}:
            raise ValueError(f"{pv}: {scheme!r} is not a valid EpicsProtocol, which are 'ca' and 'pva'")
        return cls(cast("Protocol", scheme), name)

    def __str__(self) -> str:
        """The PV's name with its scheme, as sources and messages show it."""
        return f"{self.protocol}://{self.name}"
