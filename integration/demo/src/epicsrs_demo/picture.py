"""The runs as one picture, drawn from what the catalog has of them."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from epicsrs_demo.crowd import PROTOCOLS
from epicsrs_demo.deadtime import Regions
from epicsrs_demo.frames import Frames
from epicsrs_demo.latency import CALLS, Kind
from epicsrs_demo.stored import Stored

BLUE, RED, GREEN, DARK = "#1f6fb4", "#d1495b", "#2a9d8f", "#3a3a3a"
RUN_COLOURS = {"step": BLUE, "energy": "#e9a23b", "frames": "#7b5ea7", "fly": RED}
LAYER_COLOURS = {"channel": GREEN, "ophyd": "#e9a23b", "ophyd_async": "#7b5ea7"}
PROTOCOL_NAMES = {"ca": "Channel Access", "pva": "pvAccess"}
# A few of the reads wait for a busy machine, and would squeeze the rest.
SHOWN_PERCENT = 99.5


def draw(runs: dict[str, Stored], frames: Frames, regions: Regions, path: Path) -> None:
    """Draw the scans, a frame, the beam current and the latencies as a PNG."""
    # A Figure without pyplot draws with Agg and needs no display.
    figure = Figure(figsize=(16, 13), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.1))
    figure.suptitle("One RunEngine, one EPICS client: ophyd, ophyd-async and fly scans", fontsize=18, weight="bold")
    grid = figure.add_gridspec(3, 6, height_ratios=(1.1, 1.2, 0.9))
    _draw_steps(figure.add_subplot(grid[0, :2]), runs["step"])
    _draw_energies(figure.add_subplot(grid[0, 2:4]), runs["energy"])
    _draw_frame(figure.add_subplot(grid[0, 4:]), runs["frames"], frames)
    flight = grid[1, :4].subgridspec(2, 1, height_ratios=(3, 1))
    counts = figure.add_subplot(flight[0])
    _draw_flight(counts, figure.add_subplot(flight[1], sharex=counts), runs["fly"], regions)
    _draw_current(figure.add_subplot(grid[1, 4:]), runs)
    latencies = iter(grid[2, :].subgridspec(1, 4))
    for kind in CALLS:
        for protocol in PROTOCOLS:
            _draw_latency(figure.add_subplot(next(latencies)), runs["latency"], protocol, kind)
    figure.savefig(path, dpi=110)


def _draw_steps(axes: Axes, run: Stored) -> None:
    data = run.stream("primary").data
    for key, colour in (("It", BLUE), ("If", RED), ("diode", GREEN)):
        normal = data[key] / (data["I0"] if key != "diode" else 1.0)
        label = f"{key} / I0" if key != "diode" else "diode"
        axes.plot(data["sample_x"], normal / normal.max(), "o-", markersize=4, linewidth=1, color=colour, label=label)
    axes.set_ylim(0, 1.28)
    _label(axes, "Step scan, ophyd: motor and scaler", f"sample x / {run.units('sample_x')}", "part of the highest")
    axes.legend(ncols=3, loc="upper center")


def _draw_energies(axes: Axes, run: Stored) -> None:
    data = run.stream("primary").data
    axes.plot(data["energy"], data["analyser"], "o-", markersize=4, linewidth=1, color=BLUE, label="analyser")
    axes.set_ylim(top=axes.get_ylim()[1] * 1.2)
    angle = axes.twinx()
    angle.plot(data["energy"], data["theta"], "-", linewidth=1.2, color=RED, label="Bragg angle")
    angle.set_ylabel(f"Bragg angle / {run.units('theta')}", color=RED)
    angle.tick_params(axis="y", colors=RED)
    angle.spines["top"].set_visible(False)
    _label(axes, "Energy scan, ophyd: monochromator", f"energy / {run.units('energy') or 'keV'}", "analyser / counts")
    axes.spines["right"].set_visible(True)
    axes.legend(handles=[*axes.lines, *angle.lines], loc="upper center", ncols=2)


def _draw_frame(axes: Axes, run: Stored, frames: Frames) -> None:
    number = len(frames.images) // 4
    image = axes.imshow(frames.images[number], cmap="magma", origin="lower")
    axes.plot(*frames.spots.T, "+", color="#7fdbca", markersize=7, markeredgewidth=1.3)
    axes.figure.colorbar(image, ax=axes, shrink=0.85, label="counts")
    place = run.stream("primary").data["spot_x"][number]
    title = f"Frame {number + 1} of {len(frames.images)}, ophyd-async: motor at {place:.0f} pixels"
    _label(axes, title, "column; + the spot in each frame", "row")
    axes.grid(visible=False)


def _draw_flight(axes: Axes, below: Axes, run: Stored, regions: Regions) -> None:
    x, region = regions.encoder, 0
    raw, corrected, true = (counts[:, region] for counts in (regions.raw, regions.corrected, regions.true))
    axes.plot(x, true, color="#f4b6bd", linewidth=6, solid_capstyle="round", label="truly came")
    axes.plot(x, corrected, color=RED, linewidth=1.2, label="corrected")
    axes.plot(x, raw, color=BLUE, linewidth=1.2, label="counted")
    rows, count = regions.raw.shape
    _label(
        axes, f"Fly scan, epicsrs-bulk: {rows} rows of {count} regions in one HDF5 file; region 1", "", "counts a row"
    )
    axes.tick_params(labelbottom=False)
    axes.legend(loc="upper right")
    times = run.stream("primary").data["fly_time_ns"] / 1e9
    dead = 1 - 1 / regions.factor.max()
    axes.text(
        0.012,
        0.95,
        f"{times[-1] - times[0]:.2f} s by the detector's clock\ndead time up to {dead:.0%}",
        transform=axes.transAxes,
        va="top",
    )
    below.plot(x, corrected - true, ".", markersize=2.5, color=RED)
    _label(below, "", f"encoder / {run.units('encoder')}", "corrected\n– true")


def _draw_current(axes: Axes, runs: dict[str, Stored]) -> None:
    start = runs["step"].start["time"]
    patches: list[Patch] = []
    for name, colour in RUN_COLOURS.items():
        current = runs[name].stream("ring_current_monitor")
        times = current.timestamps["ring_current"] - start
        axes.plot(times, current.data["ring_current"], ".-", markersize=2.5, linewidth=0.8, color=DARK)
        axes.axvspan(times[0], times[-1], color=colour, alpha=0.2, linewidth=0)
        patches.append(Patch(color=colour, alpha=0.35, label=runs[name].start["title"]))
    low, high = axes.get_ylim()
    axes.set_ylim(top=high + (high - low) * 0.45)
    axes.legend(handles=patches, loc="upper right")
    units = runs["step"].units("ring_current")
    _label(axes, "Beam current, watched during each scan", "seconds by the IOC's clock", units)


def _draw_latency(axes: Axes, run: Stored, protocol: str, kind: Kind) -> None:
    data = run.stream("primary").data
    columns = {layer: data[f"{protocol}_{kind}_{layer}"].ravel() * 1e6 for layer in CALLS[kind]}
    least = min(float(times.min()) for times in columns.values())
    most = max(float(np.percentile(times, SHOWN_PERCENT)) for times in columns.values())
    bins = np.geomspace(least, most, 50).tolist()
    for layer, times in columns.items():
        label = f"{CALLS[kind][layer]}, median {np.median(times):.0f} µs"
        axes.hist(times, bins=bins, color=LAYER_COLOURS[layer], alpha=0.75, label=label)
    # Room for the legend.
    axes.set_ylim(top=axes.get_ylim()[1] * 1.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    title, each = {"read": ("One read", "reads"), "update": ("One monitor update", "updates")}[kind]
    _label(axes, f"{title}, {PROTOCOL_NAMES[protocol]}", "µs", each)
    axes.legend(fontsize="small")


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, weight="bold")
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
