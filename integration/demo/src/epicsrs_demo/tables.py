"""The story as tables for a terminal."""

from datetime import datetime

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from epicsrs_demo.story import PROTOCOLS, WATCH_SECONDS, Phase, Story
from epicsrs_native import EnumValue, Reading

# pvAccess alone has the last.
SEVERITIES = ("none", "minor", "major", "invalid", "undefined")

console = Console()


def show_times(story: Story) -> None:
    """Print how long each phase took, in all and per PV, one protocol beside the other."""
    table = Table(title="Channel Access and pvAccess, one client", box=SIMPLE_HEAD)
    table.add_column("what", no_wrap=True)
    for heading in ("number", "CA ms", "µs each", "PVA ms", "µs each"):
        table.add_column(heading, justify="right")
    for name in dict.fromkeys(phase.name for phase in story.phases):
        phases = {phase.protocol: phase for phase in story.phases if phase.name == name}
        cells = [cell for protocol in PROTOCOLS for cell in _times(phases[protocol])]
        table.add_row(name, f"{phases['ca'].operations:,}", *cells)
    console.print(table)
    for protocol in PROTOCOLS:
        console.print(
            f"{protocol.upper()} watched for {WATCH_SECONDS:g} s: {len(story.waves[protocol])} updates of the beam,"
            f" {len(story.ticks[protocol])} of the counter"
        )


def show_readings(story: Story) -> None:
    """Print a PV of each kind."""
    table = Table(title="Readings, with the time by the IOC's clock", box=SIMPLE_HEAD)
    for heading in ("PV", "value", "units", "severity", "time"):
        table.add_column(heading, no_wrap=True)
    for (protocol, pv), reading in story.readings.items():
        units = reading.metadata.units if reading.metadata is not None else None
        severity = SEVERITIES[reading.severity] if reading.severity is not None else ""
        table.add_row(f"{protocol}://{pv}", _value(reading), units or "", severity, _clock(reading))
    console.print(table)


def _times(phase: Phase) -> tuple[str, str]:
    each = f"{phase.seconds / phase.operations * 1e6:,.1f}" if phase.operations > 1 else ""
    return f"{phase.seconds * 1e3:.1f}", each


def _value(reading: Reading) -> str:
    value = reading.value
    if isinstance(value, EnumValue):
        return f"{value.label} ({int(value)})"
    if isinstance(value, np.ndarray):
        return f"{value.size:,}: {value.min():.3g} to {value.max():.3g}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _clock(reading: Reading) -> str:
    if reading.timestamp is None:
        return ""
    return datetime.fromtimestamp(reading.timestamp).strftime("%H:%M:%S.%f")[:-3]
