"""Draw the figures of a JSON file: ``uv run integration/benchmarks/chart.py figures.json figures.svg``."""

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from archive import Entry, read
from environments import OURS, RAW, READY, SOFT
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory
from row import HEADINGS
from table import number

# Colour and shape of each client; colours of Okabe and Ito, told apart by every kind of eye.
STYLES: dict[str, dict[str, Any]] = {
    "raw": {"color": "#777777", "marker": "d"},
    "ophyd-epicsrs": {"color": "#E69F00", "marker": "s"},
    "pyepics": {"color": "#0072B2", "marker": "^"},
    "aioca": {"color": "#56B4E9", "marker": "v"},
    "p4p": {"color": "#CC79A7", "marker": "o"},
    "caproto": {"color": "#009E73", "marker": "v"},
    "stock": {"color": "#0072B2", "marker": "o"},
    READY: {"color": "#777777", "marker": "d"},
    SOFT: {"color": "#777777", "marker": "d"},
}
# Lines of the row, so that equal figures do not hide each other.
OFFSETS = {"pyepics": -0.14, "aioca": 0.14, "p4p": 0.14, "ophyd-epicsrs": -0.04, "caproto": 0.14}
NAMES = {"raw": "raw socket (C)", "stock": "aioca and p4p"}
EDGE = {"markeredgecolor": "white", "markeredgewidth": 0.6}
MET, MISSED = "#009E73", "#D55E00"
LINE = 0.235  # inches of each figure
# What lies beyond stands on the edge.
LIMITS = (0.05, 1000.0)
# Where the columns at the right begin, in widths of the panel.
GOAL, REACHED = 1.015, 1.225


def draw(rows: list[Entry], target: Path) -> None:
    """One line a figure: how many times ours each client's is, on a logarithmic scale."""
    lines = _lines(rows)
    figure, axes = plt.subplots(figsize=(12, LINE * len(lines) + 1.5), layout="constrained")
    for y, line in enumerate(lines):
        _heading(axes, y, line) if isinstance(line, str) else _line(axes, y, line)
    axes.set(xscale="log", xlim=LIMITS, ylim=(len(lines) - 0.4, -0.6))
    axes.set_xticks([0.1, 1, 10, 100, 1000], ["0.1", "1", "10", "100", "1000"])
    axes.set_xlabel("times epicsrs; to the right: slower, later, fewer per second, or more memory and processor time")
    ticks = [(y, _label(line)) for y, line in enumerate(lines) if not isinstance(line, str)]
    axes.set_yticks([y for y, _ in ticks], [label for _, label in ticks], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.axvline(1, color="black", linewidth=1.4, zorder=2)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    clients = {_style(client) for line in lines if not isinstance(line, str) for client in line["clients"]}
    figure.legend(handles=_legend(clients), loc="outside upper center", ncols=4, frameon=False, fontsize=8.5)
    # No date and fixed ids: the same figures give the same file.
    mpl.rcParams["svg.hashsalt"] = "figures"
    figure.savefig(target, dpi=130, bbox_inches="tight", metadata={"Date": None} if target.suffix == ".svg" else None)
    plt.close(figure)


def _lines(rows: list[Entry]) -> list[str | Entry]:
    """Headings and, below each, its figures of which we have one."""
    lines: list[str | Entry] = []
    for group, heading in HEADINGS.items():
        figures = [figure for row in rows if row["group"] == group for figure in row["figures"]]
        figures = [figure for figure in figures if _worse(figure, OURS)]
        lines += [heading, *figures] if figures else []
    return lines


def _heading(axes: Axes, y: int, heading: str) -> None:
    beside = blended_transform_factory(axes.transAxes, axes.transData)
    axes.text(-0.005, y, heading, transform=beside, ha="right", va="center", fontsize=9.5, fontweight="bold")
    if y == 0:
        axes.text(GOAL, y, "goal", transform=beside, va="center", fontsize=9.5, fontweight="bold")
        axes.text(REACHED, y, "reached", transform=beside, va="center", fontsize=9.5, fontweight="bold")


def _line(axes: Axes, y: int, figure: Entry) -> None:
    if y % 2:
        axes.axhspan(y - 0.5, y + 0.5, color="#f5f5f5", zorder=0, linewidth=0)
    ours = _worse(figure, OURS)
    for client in figure["clients"]:
        ratio = _worse(figure, client) / ours
        if client != OURS and ratio > 0:
            style = STYLES[_style(client)]
            height = y + OFFSETS.get(client, 0.0)
            axes.plot(_within(ratio), height, markersize=7.5, zorder=4, clip_on=False, **EDGE, **style)
    goal = figure["goal"]
    if goal is None or goal["reached"] is None:
        return
    color = MET if goal["met"] else MISSED
    # Where our figure would be if it were just the goal.
    just = goal["limit"] / goal["reached"] if not figure["more_is_better"] else goal["reached"] / goal["limit"]
    axes.plot([_within(just)] * 2, [y - 0.42, y + 0.42], color=color, linewidth=3, zorder=3, alpha=0.85)
    beside = blended_transform_factory(axes.transAxes, axes.transData)
    axes.text(GOAL, y, goal["words"], transform=beside, va="center", fontsize=8)
    verdict = number(goal["reached"]) + ("" if goal["met"] else ", missed")
    weight = "normal" if goal["met"] else "bold"
    axes.text(REACHED, y, verdict, transform=beside, va="center", fontsize=8, color=color, fontweight=weight)


def _within(ratio: float) -> float:
    return min(max(ratio, LIMITS[0]), LIMITS[1])


def _worse(figure: Entry, client: str) -> float:
    """A client's median so that more is worse; 0 where there is none."""
    median = figure["clients"].get(client, {}).get("median") or 0.0
    return 1 / median if figure["more_is_better"] and median else median


def _label(figure: Entry) -> str:
    return f"{figure['title']}: {number(figure['clients'][OURS]['median'])} {figure['unit']}".rstrip()


def _style(client: str) -> str:
    return "raw" if client in RAW else client


def _legend(clients: set[str]) -> list[Line2D]:
    def entry(label: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle="none", label=label, markersize=7, **style)

    return [
        Line2D([], [], color="black", linewidth=1.4, label="epicsrs (its figure stands at the left)"),
        entry("goal, met", color=MET, marker="|", markeredgewidth=3),
        entry("goal, missed (left of the line)", color=MISSED, marker="|", markeredgewidth=3),
        *(entry(NAMES.get(client, client), **EDGE, **style) for client, style in STYLES.items() if client in clients),
    ]


def main() -> None:
    """Read, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figures", type=Path, help="what run.py --json wrote")
    parser.add_argument("picture", type=Path, help="SVG or PNG, by its name")
    parser.add_argument("--rows", nargs="+", default=["*"], metavar="ROW", help="rows by name or pattern: 'ophyd_*'")
    options = parser.parse_args()
    draw(read(options.figures, options.rows)[1], options.picture)


if __name__ == "__main__":
    main()
