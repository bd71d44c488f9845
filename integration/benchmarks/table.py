"""Results for a terminal and for a file."""

from typing import Any

from bench import Result
from environments import OURS
from rich.console import Console
from rich.table import Table
from rows import Figure

# Wide enough where there is no terminal to ask.
WIDTH = 140


def show(results: list[Result]) -> None:
    """Print a line for each figure, in a table for each set of clients that were compared."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    for protocol, heading in (("ca", "Channel Access"), ("pva", "pvAccess"), ("start", "Fresh processes")):
        chosen = [result for result in results if result.row.key.partition("_")[0] == protocol]
        if chosen:
            console.print(_table(heading, chosen))
    for result in results:
        for client, error in result.errors.items():
            console.print(f"{result.row.key}, {client}: {error}", markup=False)


def as_json(results: list[Result]) -> list[dict[str, Any]]:
    """Every repetition of every figure, with medians, ratios and goals."""
    return [_figure_json(result, figure) for result in results for figure in result.row.figures]


def _table(heading: str, results: list[Result]) -> Table:
    clients = list(dict.fromkeys(client for result in results for client in result.row.clients))
    # The raw client beside ours, although not every row has it.
    clients.sort(key=lambda client: (client != OURS, not client.startswith("raw")))
    table = Table("figure", title=f"{heading}: median (lowest - highest), xN: ours / this", show_lines=True)
    for client in clients:
        table.add_column(client, justify="right")
    for column in ("goal", "reached", "met"):
        table.add_column(column)
    for result in results:
        for figure in result.row.figures:
            cells = [_cell(result, client, figure) for client in clients]
            table.add_row(_title(figure), *cells, *_verdict(result, figure))
    return table


def _title(figure: Figure) -> str:
    return f"{figure.title}, {figure.unit}" if figure.unit else figure.title


def _cell(result: Result, client: str, figure: Figure) -> str:
    failed = "failed" if client in result.errors else ""
    values = result.values(client, figure)
    median = result.value(client, figure)
    if median is None:
        return failed
    ratio = result.ratio(OURS, figure, (client,)) if client != OURS else None
    by = "" if ratio is None else f" x{_number(ratio)}"
    spread = f"\n({_number(min(values))} - {_number(max(values))})" if len(values) > 1 else ""
    return f"{_number(median)}{by}{spread}\n{failed}".rstrip()


def _verdict(result: Result, figure: Figure) -> tuple[str, str, str]:
    goal = figure.goal
    if goal is None:
        return "", "", ""
    limit = f"{'≥' if figure.more_is_better else '≤'} {_number(goal.limit)}"
    if goal.against:
        limit += f" x {goal.against[0]}" if len(goal.against) == 1 else " x best peer"
    reached = result.ratio(OURS, figure, goal.against) if goal.against else result.value(OURS, figure)
    met = {True: "yes", False: "NO", None: ""}[result.meets(OURS, figure, goal)]
    return limit, "" if reached is None else _number(reached), met


def _figure_json(result: Result, figure: Figure) -> dict[str, Any]:
    clients = {
        client: {
            "median": result.value(client, figure),
            "repetitions": result.values(client, figure),
            "ours_by_this": result.ratio(OURS, figure, (client,)),
            "error": result.errors.get(client),
        }
        for client in result.row.clients
    }
    goal = figure.goal
    return {
        "row": result.row.key,
        "figure": figure.title,
        "unit": figure.unit,
        "clients": clients,
        "goal": None if goal is None else {"limit": goal.limit, "against": goal.against},
        "met": None if goal is None else result.meets(OURS, figure, goal),
    }


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.01 or value == 0 else "< 0.01"
