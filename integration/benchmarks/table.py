"""Results for a terminal."""

from bench import Result
from environments import OURS
from rich.console import Console
from rich.table import Table
from row import HEADINGS, Figure, Goal

# Wide enough where there is no terminal to ask.
WIDTH = 140


def show(results: list[Result]) -> None:
    """Print a line for each figure, in a table for each set of clients that were compared."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    for group, heading in HEADINGS.items():
        chosen = [result for result in results if result.row.group == group]
        if chosen:
            console.print(_table(heading, chosen))
    for result in results:
        for client, error in result.errors.items():
            console.print(f"{result.row.key}, {client}: {error}", markup=False)


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
    by = "" if ratio is None else f" x{number(ratio)}"
    spread = f"\n({number(min(values))} - {number(max(values))})" if len(values) > 1 else ""
    return f"{number(median)}{by}{spread}\n{failed}".rstrip()


def _verdict(result: Result, figure: Figure) -> tuple[str, str, str]:
    goal = figure.goal
    if goal is None:
        return "", "", ""
    reached = result.reached(OURS, figure, goal)
    met = {True: "yes", False: "NO", None: ""}[result.meets(OURS, figure, goal)]
    return goal_words(goal, figure.more_is_better), "" if reached is None else number(reached), met


def goal_words(goal: Goal, more_is_better: bool) -> str:
    """A goal as it stands in a table."""
    words = f"{'≥' if more_is_better else '≤'} {number(goal.limit)}"
    if goal.against:
        words += f" x {goal.against[0]}" if len(goal.against) == 1 else " x best peer"
    return f"{words} always" if goal.always else words


def number(value: float) -> str:
    """Three digits, as many as a figure deserves."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.01 or value == 0 else "< 0.01"
