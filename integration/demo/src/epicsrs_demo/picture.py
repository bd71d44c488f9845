"""The story as one picture."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from epicsrs_demo.records import SINE
from epicsrs_demo.story import PROTOCOLS, Protocol, Story
from epicsrs_native import Reading

COLOURS: dict[Protocol, str] = {"ca": "tab:blue", "pva": "tab:orange"}
NAMES: dict[Protocol, str] = {"ca": "Channel Access", "pva": "pvAccess"}
# The slowest hundredth of the reads would squeeze the histogram.
SHOWN_PERCENT = 99


def draw(story: Story, path: Path) -> None:
    """Draw the watched sine wave, the latency of single reads and the time of each phase as a PNG."""
    # A Figure without pyplot draws with Agg and needs no display.
    figure = Figure(figsize=(13, 8), layout="constrained")
    top, bottom = figure.subfigures(2, 1)
    wave, latency = top.subplots(1, 2)
    _draw_wave(wave, story)
    _draw_latency(latency, story)
    _draw_times(bottom.subplots(), story)
    figure.savefig(path, dpi=120)


def _draw_wave(axes: Axes, story: Story) -> None:
    start = min(stamp for readings in story.waves.values() for stamp in _stamps(readings))
    styles = {"ca": {"marker": "o", "markersize": 9, "fillstyle": "none"}, "pva": {"marker": ".", "linewidth": 0.8}}
    for protocol in PROTOCOLS:
        readings = story.waves[protocol]
        times = np.array(_stamps(readings)) - start
        values = [reading.value for reading in readings]
        axes.plot(times, values, color=COLOURS[protocol], label=NAMES[protocol], **styles[protocol])
    metadata = story.readings["ca", SINE].metadata
    axes.set(title=f"{SINE}, watched on both protocols", xlabel="seconds by the IOC's clock")
    axes.set_ylabel(metadata.units if metadata is not None and metadata.units else "")
    axes.legend()


def _draw_latency(axes: Axes, story: Story) -> None:
    end = max(float(np.percentile(story.latencies[protocol], SHOWN_PERCENT)) for protocol in PROTOCOLS) * 1e6
    bins = np.linspace(0, end, 100).tolist()
    for protocol in PROTOCOLS:
        times = np.array(story.latencies[protocol]) * 1e6
        label = f"{NAMES[protocol]}, median {np.median(times):.0f} µs"
        axes.hist(times, bins=bins, color=COLOURS[protocol], alpha=0.7, label=label)
    axes.set(title="One read at a time, each from the IOC", xlabel="µs", ylabel="reads")
    axes.legend()


def _draw_times(axes: Axes, story: Story) -> None:
    names = list(dict.fromkeys(phase.name for phase in story.phases))
    height = 0.4
    for protocol, offset in zip(PROTOCOLS, (-height / 2, height / 2), strict=True):
        phases = [phase for phase in story.phases if phase.protocol == protocol]
        places = [names.index(phase.name) + offset for phase in phases]
        bars = axes.barh(
            places, [phase.seconds for phase in phases], height, color=COLOURS[protocol], label=NAMES[protocol]
        )
        axes.bar_label(bars, [f" {phase.seconds * 1e3:.1f} ms" for phase in phases])
    counts = {phase.name: phase.operations for phase in story.phases}
    axes.set_yticks(range(len(names)), [f"{name}\n{counts[name]:,} x" if counts[name] > 1 else name for name in names])
    axes.set(title="Time for each part", xlabel="seconds", xscale="log")
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.legend()


def _stamps(readings: list[Reading]) -> list[float]:
    return [reading.timestamp for reading in readings if reading.timestamp is not None]
