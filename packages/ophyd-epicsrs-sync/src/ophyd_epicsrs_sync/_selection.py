"""Which control layer ophyd uses: ours is chosen here."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import sys
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

NAME = "epicsrs"
VARIABLE = "OPHYD_CONTROL_LAYER"

# ophyd's own set_cl and the layer that was there before ours, while ours is installed.
_before: dict[str, Any] = {}


def use_epicsrs() -> None:
    """Let ophyd speak EPICS through epicsrs.

    May come before or after `import ophyd`, and again at any time. Where ophyd is not imported yet, it is imported
    here so that it loads no other client library. Signals that exist already keep their control layer.
    `ophyd.set_cl("epicsrs")` works from then on, as do ophyd's other layers and the way back.
    """
    from ophyd_epicsrs_sync import _takeover

    ophyd = import_ophyd()
    if not _before:
        _before.update(set_cl=ophyd.set_cl, cl=ophyd.cl)
        ophyd.set_cl = _with_epicsrs(ophyd)
    _takeover.install()
    ophyd.set_cl(NAME)


install = use_epicsrs


def uninstall() -> None:
    """Give ophyd back as it was: its `set_cl`, the layer it had, and the methods that `_takeover` replaced."""
    if _before:
        from ophyd_epicsrs_sync import _takeover

        ophyd = import_ophyd()
        _takeover.uninstall()
        ophyd.set_cl, ophyd.cl = _before["set_cl"], _before["cl"]
        _before.clear()


def import_ophyd() -> Any:
    """ophyd; if it is imported here for the first time, with its layer that loads nothing."""
    if "ophyd" in sys.modules:
        return sys.modules["ophyd"]
    with no_layer():
        return importlib.import_module("ophyd")


@contextmanager
def no_layer() -> Generator[None]:
    """Have ophyd choose the layer that loads nothing, while it is imported."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "dummy"
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def _with_epicsrs(ophyd: Any) -> Callable[..., None]:
    """The set_cl of ophyd that also knows "epicsrs", as argument and in the environment."""
    original = ophyd.set_cl

    @functools.wraps(original)
    def set_cl(control_layer: str | None = None, *, pv_telemetry: bool = False) -> None:
        wanted = os.environ.get(VARIABLE, "any") if control_layer is None else control_layer
        if wanted.lower() == NAME:
            ophyd.cl = namespace(pv_telemetry=pv_telemetry)
        else:
            original(control_layer, pv_telemetry=pv_telemetry)

    return set_cl


def namespace(*, pv_telemetry: bool = False) -> SimpleNamespace:
    """Our layer as ophyd holds one; `pv_telemetry` has `get_pv.counter` count the names."""
    from ophyd_epicsrs_sync import _control_layer as layer

    layer.setup(logging.getLogger("ophyd"))
    names = SimpleNamespace(**{name: getattr(layer, name) for name in layer.__all__})
    if pv_telemetry:
        names.get_pv = _counted(layer.get_pv)
    return names


def _counted(get_pv: Callable[..., Any]) -> Any:
    counter: Counter[str] = Counter()

    @functools.wraps(get_pv)
    def counting(pvname: str, *args: Any, **kwargs: Any) -> Any:
        counter[pvname] += 1
        return get_pv(pvname, *args, **kwargs)

    counted: Any = counting
    counted.counter = counter
    return counted
