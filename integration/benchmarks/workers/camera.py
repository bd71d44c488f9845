"""An areaDetector as beamlines use it: a camera and its plugins. As a program: the records that it needs."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ophyd import Component as Cpt
from ophyd import DetectorBase, Device
from ophyd.areadetector import cam, plugins
from ophyd.areadetector.base import EpicsSignalWithRBV
from ophyd.areadetector.paths import EpicsPathSignal
from ophyd.signal import EpicsSignalBase

# The beamline IOC's databases of areaDetector: which type of record each PV is.
TEMPLATES = Path(__file__).resolve().parents[2] / "beamline" / "db"
RECORD = re.compile(r'record\s*\(\s*"?(\w+)"?\s*,\s*"\$\(P\)\$\(R\)(\w+)"')
FIELDS = {
    "ai": 'field(EGU, "s") field(PREC, "3")',
    "ao": 'field(EGU, "s") field(PREC, "3")',
    "bi": 'field(ZNAM, "No") field(ONAM, "Yes")',
    "bo": 'field(ZNAM, "No") field(ONAM, "Yes")',
    "mbbi": 'field(ZRST, "Single") field(ONST, "Multiple") field(TWST, "Continuous")',
    "mbbo": 'field(ZRST, "Single") field(ONST, "Multiple") field(TWST, "Continuous")',
    "waveform": 'field(FTVL, "CHAR") field(NELM, "256")',
    "longin": "",
    "longout": "",
    "stringin": "",
    "stringout": "",
}


# An image of 2 x 2, which ophyd shapes while it connects.
VALUES = {"ArrayData": "[1, 2, 3, 4]", "NDimensions_RBV": "2"} | {f"ArraySize{index}_RBV": "2" for index in range(3)}


class Camera(DetectorBase):
    """1215 signals on 1490 PVs."""

    SIGNALS = 1215

    cam = Cpt(cam.SimDetectorCam, "cam1:")
    image = Cpt(plugins.ImagePlugin, "image1:")
    colour1 = Cpt(plugins.ColorConvPlugin, "CC1:")
    colour2 = Cpt(plugins.ColorConvPlugin, "CC2:")
    roi = Cpt(plugins.ROIPlugin, "ROI1:")
    stats1 = Cpt(plugins.StatsPlugin, "Stats1:")
    stats2 = Cpt(plugins.StatsPlugin, "Stats2:")
    stats3 = Cpt(plugins.StatsPlugin, "Stats3:")
    stats4 = Cpt(plugins.StatsPlugin, "Stats4:")
    stats5 = Cpt(plugins.StatsPlugin, "Stats5:")
    transform = Cpt(plugins.TransformPlugin, "Trans1:")
    overlay = Cpt(plugins.OverlayPlugin, "Over1:")
    hdf = Cpt(plugins.HDF5Plugin, "HDF1:")
    jpeg = Cpt(plugins.JPEGPlugin, "JPEG1:")


def database(prefix: str) -> str:
    """Its records, as EPICS text."""
    templates = "\n".join(file.read_text() for file in sorted(TEMPLATES.glob("*.template")))
    types = {name: kind for kind, name in RECORD.findall(templates)}
    lines: list[str] = []
    for record, device in {pv.partition(".")[0]: device for pv, device in _pvs(Camera, prefix)}.items():
        name = record.rpartition(":")[2]
        kind = types.get(name, "ao")
        fields = FIELDS[kind] if kind in FIELDS else FIELDS[kind := "ao"]
        if name == "PluginType_RBV":
            # ophyd compares it with the class.
            kind, fields = "stringin", f'field(VAL, "{device._plugin_type}") field(PINI, "YES")'  # noqa: SLF001
        elif name in VALUES:
            fields += f' field({"INP" if kind == "waveform" else "VAL"}, "{VALUES[name]}")'
        lines.append(f'record({kind}, "{record}") {{ {fields} }}')
    return "\n".join(lines)


def _pvs(device: type[Device], prefix: str) -> Iterator[tuple[str, type[Device]]]:
    for attribute in device.component_names:
        component = getattr(device, attribute)
        pv = prefix + (component.suffix or "")
        if issubclass(component.cls, Device):
            yield from _pvs(component.cls, pv)
        elif issubclass(component.cls, EpicsSignalBase):
            yield pv, device
            if issubclass(component.cls, (EpicsPathSignal, EpicsSignalWithRBV)):
                yield f"{pv}_RBV", device


if __name__ == "__main__":
    print(database(sys.argv[1]))
