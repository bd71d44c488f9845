"""`OPHYD_CONTROL_LAYER=epicsrs` in the environment: our layer is chosen when ophyd is imported.

ophyd itself refuses a name that it does not know. `ophyd_epicsrs_sync.pth` installs the hook when Python starts, where
the variable says so and only there; programs, queue servers and their children need no other line.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ophyd_epicsrs_sync import _selection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class OphydLoader:
    """Runs ophyd's own loader, and chooses our layer at the end."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with _selection.no_layer():
            self._loader.exec_module(module)
        _selection.use_epicsrs()
        if OphydFinder in sys.meta_path:
            sys.meta_path.remove(OphydFinder)


class OphydFinder:
    """Finds ophyd as the other finders do, as often as somebody looks for it; gone when it is imported."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "ophyd":
            return None
        found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not cls)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = OphydLoader(spec.loader)  # pyright: ignore[reportAttributeAccessIssue]
        return spec


def install() -> None:
    """Wait for ophyd's import; once."""
    if "ophyd" not in sys.modules and OphydFinder not in sys.meta_path:
        sys.meta_path.insert(0, OphydFinder)
