"""The seam with ophyd-async: the names through which all its EPICS devices find their backends."""

import sys
from collections.abc import Iterable
from importlib.metadata import version
from types import TracebackType
from typing import Any

import ophyd_async.core

from ._address import Protocol
from ._backend import EpicsRsCaSignalBackend, EpicsRsPvaSignalBackend
from ._pvi import pvget_with_timeout

_OURS: dict[Protocol, dict[str, Any]] = {
    "ca": {"CaSignalBackend": EpicsRsCaSignalBackend},
    "pva": {"PvaSignalBackend": EpicsRsPvaSignalBackend, "pvget_with_timeout": pvget_with_timeout},
}
if hasattr(ophyd_async.core, "TriggerableCommand"):
    from ._command import EpicsRsCaCommandBackend, EpicsRsPvaCommandBackend

    _OURS["ca"]["CaCommandBackend"] = EpicsRsCaCommandBackend
    _OURS["pva"]["PvaCommandBackend"] = EpicsRsPvaCommandBackend

# Factories, EpicsDevice and all devices built on them look into `_signal` at each call; the PVI connector has names of
# its own; `epics.core` is where users look.
_SIGNAL = "ophyd_async.epics.core._signal"
_SEAM = {
    _SIGNAL: ("CaSignalBackend", "CaCommandBackend", "PvaSignalBackend", "PvaCommandBackend", "pvget_with_timeout"),
    "ophyd_async.epics.core._pvi_connector": ("PvaSignalBackend", "PvaCommandBackend", "pvget_with_timeout"),
    "ophyd_async.epics.core": ("CaSignalBackend", "CaCommandBackend", "PvaSignalBackend", "PvaCommandBackend"),
}
_PLACES = [
    (module, name) for module, names in _SEAM.items() for name in names if any(name in ours for ours in _OURS.values())
]
_BARE_NAME = (_SIGNAL, "_default_epics_protocol")

_installed: set[Protocol] = set()
_theirs: dict[tuple[str, str], Any] = {}


class Takeover:
    """What `install` returns; as a context manager it puts back at its end what was there before."""

    def __init__(self, before: Iterable[Protocol]) -> None:
        self._before = frozenset(before)

    def __enter__(self) -> "Takeover":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _select(self._before)


def install(protocols: Iterable[Protocol] = ("ca", "pva")) -> Takeover:
    """Give all of ophyd-async's EPICS classes our backends, with aioca and p4p installed or not.

    Its factories, EpicsDevice with PvSuffix or PVI, motors, areaDetectors and commands that are made from now on use
    epicsrs. Objects that exist keep what they have, and so do modules that imported a backend class by name before.
    Nothing is opened. A second call changes the protocols.

    Args:
        protocols: Which to take over; the other stays ophyd-async's own.

    Returns:
        A context manager: `with install(): ...` undoes it at its end. It need not be used.

    Raises:
        ValueError: A protocol that is none.
        RuntimeError: This ophyd-async is built differently; the message lists what is missing. Nothing is changed.
    """
    wanted = set(protocols)
    if unknown := wanted - _OURS.keys():
        raise ValueError(f"{sorted(unknown)}: the protocols are 'ca' and 'pva'")
    _check_seam()
    takeover = Takeover(_installed)
    _select(wanted)
    return takeover


def uninstall() -> None:
    """Give ophyd-async its own backends back; objects that exist keep ours. Without `install` it does nothing."""
    _select(())


def _check_seam() -> None:
    missing = [
        f"{module}.{name}" for module, name in [*_PLACES, _BARE_NAME] if not hasattr(sys.modules.get(module), name)
    ]
    if missing:
        raise RuntimeError(
            f"ophyd-async {version('ophyd-async')} has no {', '.join(missing)}: its EPICS devices cannot be taken over;"
            " epicsrs_signal_rw and the other factories work without"
        )


def _select(protocols: Iterable[Protocol]) -> None:
    """Put ours in place for these protocols, and theirs for the others."""
    for place, value in _theirs.items():
        _put(place, value)
    _theirs.clear()
    _installed.clear()
    _installed.update(protocols)
    if not _installed:
        return
    _theirs.update({place: getattr(sys.modules[place[0]], place[1]) for place in [*_PLACES, _BARE_NAME]})
    ours = {name: value for protocol in _installed for name, value in _OURS[protocol].items()}
    for place in _PLACES:
        _put(place, ours.get(place[1], _theirs[place]))
    _put(_BARE_NAME, _bare_name())


def _put(place: tuple[str, str], value: Any) -> None:
    setattr(sys.modules[place[0]], place[1], value)


def _bare_name() -> Any:
    """What a name without a scheme means: Channel Access wherever it is to be had, as ophyd-async has it."""
    theirs = _theirs[_BARE_NAME]
    if "ca" in _installed:
        return type(theirs)("ca")
    # ophyd-async's stand-in for a missing aioca is made in the module itself.
    if _theirs[_SIGNAL, "CaSignalBackend"].__module__ == _SIGNAL:
        return type(theirs)("pva")
    return theirs
