"""The runs as one picture, drawn from the documents that were read back."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from epicsrs_demo.crowd import PROTOCOLS
from epicsrs_demo.documents import RunDocuments
from epicsrs_demo.latency import LAYERS

IT, FLUO, RING = "#1f6fb4", "#d1495b", "#3a3a3a"
LAYER_COLOURS = dict(zip(LAYERS, ("#2a9d8f", "#e9a23b", "#7b5ea7"), strict=True))
PROTOCOL_NAMES = {"ca": "Channel Access", "pva": "pvAccess"}
# A few of the reads wait for a busy machine, and would squeeze the rest.
SHOWN_PERCENT = 99.5


def draw(runs: list[RunDocuments], path: Path) -> None:
    """Draw the scans, the beam current and the latencies as a PNG."""
    by_name = {run.start["scan"]: run for run in runs}
    scans = [run for run in runs if run.start["scan"] != "latency"]
    # A Figure without pyplot draws with Agg and needs no display.
    figure = Figure(figsize=(14, 9), layout="constrained")
    figure.suptitle("One RunEngine, one EPICS client: ophyd, ophyd-async and fly scans", fontsize=16, weight="bold")
    grid = figure.add_gridspec(2, 6, height_ratios=(1.15, 1))
    steps = figure.add_subplot(grid[0, :3])
    _draw_steps(steps, by_name["step-ophyd"], by_name["step-ophyd-async"])
    _draw_flight(figure.add_subplot(grid[0, 3:], sharex=steps, sharey=steps), by_name["fly-bulk"])
    _draw_current(figure.add_subplot(grid[1, :2]), scans)
    for place, protocol in zip((slice(2, 4), slice(4, 6)), PROTOCOLS, strict=True):
        _draw_latency(figure.add_subplot(grid[1, place]), by_name["latency"], protocol)
    figure.savefig(path, dpi=120)


def _draw_steps(axes: Axes, sync: RunDocuments, other: RunDocuments) -> None:
    for run, separator, style, size in ((sync, "_", "o", 9), (other, "-", "x", 5)):
        data = run.stream("primary").data
        layer = run.start["title"].split(", ")[1]
        for key, colour in (("it", IT), ("fluo", FLUO)):
            axes.plot(
                data["stage"],
                data[f"detectors{separator}{key}"] / data[f"detectors{separator}i0"],
                style,
                markersize=size,
                fillstyle="none",
                color=colour,
                label=f"{key} / i0, {layer}",
            )
    _label(axes, "Step scans: the same stage through both adapters", f"stage / {sync.units('stage')}", "counts / i0")
    axes.legend()


def _draw_flight(axes: Axes, run: RunDocuments) -> None:
    rows = run.stream("primary")
    stage, times = rows.data["stage"], rows.timestamps["stage"]
    for key, colour in (("it", IT), ("fluo", FLUO)):
        ratio = rows.data[key] / rows.data["i0"]
        axes.plot(stage, ratio, ".-", markersize=3, linewidth=0.7, color=colour, label=f"{key} / i0")
    seconds = times - times[0]
    top = axes.secondary_xaxis(
        "top", functions=(lambda x: np.interp(x, stage, seconds), lambda t: np.interp(t, seconds, stage))
    )
    top.set_ticks(np.arange(0, seconds[-1], 0.5).tolist())
    top.set_xlabel("seconds by the IOC's clock")
    _label(axes, f"Fly scan: {len(stage)} rows in one EventPage", f"encoder / {run.units('stage')}", "counts / i0")
    axes.legend()


def _draw_current(axes: Axes, runs: list[RunDocuments]) -> None:
    start = min(run.start["time"] for run in runs)
    for number, run in enumerate(runs):
        current = run.stream("ring_current_monitor")
        times = current.timestamps["ring_current"] - start
        axes.plot(times, current.data["ring_current"], ".-", markersize=4, linewidth=0.8, color=RING)
        axes.axvspan(times[0], times[-1], color=f"C{number}", alpha=0.15, linewidth=0)
        place = (times[0] + times[-1]) / 2
        title = run.start["title"].replace(", ", "\n")
        axes.text(place, 0.97, title, transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=9)
    axes.margins(y=0.2)
    _label(axes, "Beam current, watched", "seconds by the IOC's clock", runs[0].units("ring_current"))


def _draw_latency(axes: Axes, run: RunDocuments, protocol: str) -> None:
    columns = {layer: run.stream("primary").data[f"{protocol}_{layer}"].ravel() * 1e6 for layer in LAYERS}
    least = min(float(times.min()) for times in columns.values())
    most = max(float(np.percentile(times, SHOWN_PERCENT)) for times in columns.values())
    bins = np.geomspace(least, most, 70).tolist()
    for layer, times in columns.items():
        label = f"{LAYERS[layer]}, median {np.median(times):.0f} µs"
        axes.hist(times, bins=bins, color=LAYER_COLOURS[layer], alpha=0.75, label=label)
    # Room for the legend.
    axes.set_ylim(top=axes.get_ylim()[1] * 1.4)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    _label(axes, f"One read, {PROTOCOL_NAMES[protocol]}", "µs", "reads")
    axes.legend()


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, weight="bold")
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
