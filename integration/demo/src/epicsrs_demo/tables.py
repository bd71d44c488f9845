"""What came of it, as tables for a terminal."""

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from epicsrs_demo.crowd import PROTOCOLS, Phase
from epicsrs_demo.deadtime import Regions
from epicsrs_demo.latency import CALLS
from epicsrs_demo.parts import Parts
from epicsrs_demo.stored import Stored

# Region n has 1/n of the counts of the first.
TOLD_REGIONS = (1, 2, 8, 48)


def show_crowd(console: Console, phases: list[Phase]) -> None:
    """Print how long each bulk operation took, in all and per PV, one protocol beside the other."""
    table = _table("epicsrs-native alone", "what", "PVs", "CA ms", "µs each", "PVA ms", "µs each")
    for name in dict.fromkeys(phase.name for phase in phases):
        beside = {phase.protocol: phase for phase in phases if phase.name == name}
        cells: list[str] = []
        for protocol in PROTOCOLS:
            seconds, operations = beside[protocol].seconds, beside[protocol].operations
            cells += [f"{seconds * 1e3:.1f}", f"{seconds / operations * 1e6:,.1f}"]
        table.add_row(name, f"{beside['ca'].operations:,}", *cells)
    console.print(table)


def show_runs(console: Console, runs: list[Stored]) -> None:
    """Print what the catalog has of each run."""
    table = _table(
        "Runs of one RunEngine, as read back from Tiled", "run", "PVs", "events", "documents", "seconds", "MB"
    )
    for run in runs:
        events = sum(run.stop["num_events"].values())
        table.add_row(
            run.start["title"],
            str(len(run.sources)),
            f"{events:,}",
            f"{run.documents:,}",
            f"{run.stop['time'] - run.start['time']:.2f}",
            f"{sum(stream.bytes for stream in run.streams.values()) / 1e6:.2f}",
        )
    console.print(table)


def show_regions(console: Console, regions: Regions) -> None:
    """Print what the detector's dead time took from the fly scan, and what is left of that after the correction."""
    rows, count = regions.raw.shape
    title = f"Dead time of {count} regions, {rows} rows each; the worst row in %"
    table = _table(title, "region", "counted", "corrected", "truly came", "counted off", "corrected off")
    for region in TOLD_REGIONS:
        raw, corrected, true = (part[:, region - 1] for part in (regions.raw, regions.corrected, regions.true))
        off = (f"{np.abs(counts / true - 1).max() * 100:.3f}" for counts in (raw, corrected))
        table.add_row(str(region), *(f"{part.sum():,.0f}" for part in (raw, corrected, true)), *off)
    console.print(table)


def show_latencies(console: Console, run: Stored) -> None:
    """Print the median time of one read, and of one update of a monitor, through each layer."""
    columns = run.stream("primary").data
    titles = {
        "read": "One read of the same PV, by each in turn",
        "update": "One update of it, IOC's time stamp to callback",
    }
    for kind, layers in CALLS.items():
        count = columns[f"ca_{kind}_channel"].size
        table = _table(f"{titles[kind]}; median of {count}, µs", "", *layers.values())
        for protocol in PROTOCOLS:
            medians = [np.median(columns[f"{protocol}_{kind}_{layer}"]) * 1e6 for layer in layers]
            table.add_row(protocol.upper(), *(f"{median:,.0f}" for median in medians))
        console.print(table)


def show_parts(console: Console, parts: Parts) -> None:
    """Print how long each part of the demo took."""
    table = _table("What took how long", "part", "seconds")
    for name, seconds in parts.seconds.items():
        table.add_row(name, f"{seconds:.2f}")
    table.add_section()
    table.add_row("all of it", f"{sum(parts.seconds.values()):.2f}")
    console.print(table)


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right")
    return table
