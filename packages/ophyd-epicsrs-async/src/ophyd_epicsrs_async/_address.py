"""A PV's name with the protocol that it is served by."""

from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias, cast

Protocol: TypeAlias = Literal["ca", "pva"]


class Address(NamedTuple):
    """One PV: `protocol` is how it is reached, `name` what its server publishes."""

    protocol: Protocol
    name: str

    def __str__(self) -> str:
        """The PV's name with its scheme, as sources and messages show it."""
        return f"{self.protocol}://{self.name}"


# Signals ask at each use, since their PVs may be changed at any time.
@lru_cache(maxsize=65536)
def parse_pv(pv: str, default: Protocol = "ca") -> Address:
    """Split a PV name from its scheme.

    Args:
        pv: `NAME`, `ca://NAME` or `pva://NAME`.
        default: The protocol of a name without a scheme.

    Raises:
        ValueError: Another scheme.
    """
    scheme, separator, name = pv.partition("://")
    if not separator:
        return Address(default, pv)
    if scheme not in {"ca", "pva"}:
        raise ValueError(f"{pv}: {scheme!r} is not a valid EpicsProtocol, which are 'ca' and 'pva'")
    return Address(cast("Protocol", scheme), name)


# ophyd-async asks twice for each value that is read.
@lru_cache(maxsize=65536)
def source_of(pv: str, default: Protocol = "ca") -> str:
    """The PV's name with its scheme, of what `parse_pv` takes."""
    return str(parse_pv(pv, default))


def parse_named_pv(pv: str) -> Address:
    """The same for a signal that is made with the name of its PV.

    Raises:
        ValueError: Another scheme, or no name.
    """
    address = parse_pv(pv)
    if not address.name:
        raise ValueError(f"{pv!r}: a PV needs a name")
    return address
