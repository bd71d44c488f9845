"""Write the figures of a JSON file into a page: ``uv run integration/benchmarks/markdown.py figures.json PAGE.md``."""

import argparse
from pathlib import Path

from archive import Entry, read
from environments import OURS
from row import HEADINGS
from table import number

# Load averages up to this come from the benchmark itself.
BUSY = 3.0
# What lies between them is replaced.
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def page(text: str, machine: Entry, rows: list[Entry], picture: str) -> str:
    """The page with the tables of these rows, below their picture."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page lacks {BEGIN} or {END}")
    parts = [BEGIN, _provenance(machine, rows), f"![Each client's figures as multiples of ours]({picture})"]
    for group, heading in HEADINGS.items():
        chosen = [row for row in rows if row["group"] == group]
        if chosen:
            parts += [f"### {heading}", _table(chosen)]
    return before + "\n\n".join([*parts, *_failures(rows), END]) + after


def _provenance(machine: Entry, rows: list[Entry]) -> str:
    days = sorted({row["measured"].partition("T")[0] for row in rows})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}"
    short = [row for row in rows if row["quick"]]
    warning = f" {len(short)} of {len(rows)} rows come from a short run and say little." if short else ""
    load = max(row.get("load", 0.0) for row in rows)
    busy = (
        f" The load average was up to {load:g}; a client with a thread for each monitor makes much of it by itself."
        if load > BUSY
        else ""
    )
    return f"Measured {when} on {where}.{busy}{warning}"


def _table(rows: list[Entry]) -> str:
    figures = [figure for row in rows for figure in row["figures"]]
    clients = list(dict.fromkeys(client for figure in figures for client in figure["clients"]))
    clients.sort(key=lambda client: (client != OURS, not client.startswith("raw")))
    lines = [["what", *clients, "goal", "reached"], ["---"] + ["--:"] * len(clients) + ["---", "---"]]
    for row in rows:
        for figure in row["figures"]:
            title = f"{figure['title']}, {figure['unit']}" if figure["unit"] else figure["title"]
            lines.append([title, *(_cell(row, figure, client) for client in clients), *_verdict(figure)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: Entry, figure: Entry, client: str) -> str:
    failed = "failed" if client in row["errors"] else ""
    measured = figure["clients"].get(client)
    if measured is None:
        return failed
    values = measured["repetitions"]
    spread = f" ({number(min(values))}–{number(max(values))})" if len(values) > 1 else ""
    median = number(measured["median"])
    return f"{f'**{median}**' if client == OURS else median}{spread} {failed}".rstrip()


def _verdict(figure: Entry) -> tuple[str, str]:
    goal = figure["goal"]
    if goal is None or goal["reached"] is None:
        return ("" if goal is None else goal["words"]), ""
    reached = number(goal["reached"])
    return goal["words"], reached if goal["met"] else f"**{reached}, missed**"


def _failures(rows: list[Entry]) -> list[str]:
    lines = [
        f"- {row['figures'][0]['title']}, {client}: {error}" for row in rows for client, error in row["errors"].items()
    ]
    return ["Failed:", "\n".join(lines)] if lines else []


def main() -> None:
    """Read, write; chart.py draws the picture beside the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figures", type=Path, help="what run.py --json wrote")
    parser.add_argument("page", type=Path, help=f"a Markdown file with {BEGIN} and {END}")
    parser.add_argument("--rows", nargs="+", default=["*"], metavar="ROW", help="rows by name or pattern: 'ophyd_*'")
    options = parser.parse_args()
    figures = read(options.figures, options.rows)
    text = page(options.page.read_text(), *figures, options.page.with_suffix(".svg").name)
    options.page.write_text(text)


if __name__ == "__main__":
    main()
