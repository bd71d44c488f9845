"""What is compared: each row's task, clients, figures and goals (the numbers to reach, column "first")."""

from environments import OURS
from records import ABSENT, CROWD, ORDER, PUTS, SINGLE, SOURCE
from row import PEERS_CA, PEERS_PVA, Figure, Goal, Row
from rows_bulk import bulk_rows
from rows_layers import layer_rows


def rows(quick: bool) -> list[Row]:
    """All rows in the order of the table; ``quick`` makes the tasks a fifth as long."""
    share = 0.2 if quick else 1.0
    clients = [*_gets(share), *_awaits(share), *bulk_rows(share), *_puts(share), *_monitors(share), *_processes()]
    return [*clients, *layer_rows(share)]


def _gets(share: float) -> list[Row]:
    ca, pva = ("raw_ca", "ophyd-epicsrs", "pyepics"), ("raw_pva", *PEERS_PVA)

    def row(
        key: str, title: str, count: int, *, goal: Goal | None = None, gap: float = 0.0, one_core: bool = False
    ) -> Row:
        protocol = key.partition("_")[0]
        task = {"task": "get", "pv": f"{protocol}://{SINGLE}", "count": round(count * share), "gap": gap}
        figures = (Figure("p50", f"{title}, p50", "µs", goal), Figure("p99", f"{title}, p99", "µs"))
        return Row(key, task, (OURS, *(ca if protocol == "ca" else pva)), figures, one_core=one_core)

    return [
        row("ca_get", "CA get", 10_000),
        row("ca_get_one_core", "CA get, all on one core", 10_000, goal=Goal(1.4, ("raw_ca",)), one_core=True),
        row("ca_get_1ms", "CA get, gaps of 1 ms", 1000, goal=Goal(2.5, ("raw_ca",)), gap=1e-3),
        row("ca_get_20ms", "CA get, gaps of 20 ms", 100, goal=Goal(1.6, ("raw_ca",)), gap=20e-3),
        row("pva_get", "PVA get", 5000, goal=Goal(0.8, PEERS_PVA)),
        row("pva_get_one_core", "PVA get, all on one core", 5000, goal=Goal(1.6, ("raw_pva",)), one_core=True),
    ]


def _awaits(share: float) -> list[Row]:
    def single(protocol: str, clients: tuple[str, ...], limit: float) -> Row:
        task = {"task": "await_get", "pv": f"{protocol}://{SINGLE}", "count": round(5000 * share)}
        figure = Figure("p50", f"{protocol.upper()} await get, p50", "µs", Goal(limit, ("ophyd-epicsrs",)))
        return Row(f"{protocol}_await", task, (OURS, *clients), (figure,))

    def crowd(protocol: str, clients: tuple[str, ...], goal: Goal | None) -> Row:
        task = {"task": "gather", "pvs": [f"{protocol}://{pv}" for pv in CROWD]}
        figure = Figure("p50", f"{protocol.upper()} gather of 1000 gets, per get", "µs", goal)
        return Row(f"{protocol}_gather", task, (OURS, *clients), (figure,))

    awaitable_ca = ("ophyd-epicsrs", "aioca")
    return [
        single("ca", awaitable_ca, 0.5),
        single("pva", PEERS_PVA, 0.8),
        crowd("ca", awaitable_ca, Goal(5.0)),
        crowd("pva", PEERS_PVA, None),
    ]


def _puts(share: float) -> list[Row]:
    count = round(20_000 * share)

    def many(key: str, title: str, clients: tuple[str, ...], awaitable: bool) -> Row:
        task = {"task": "puts", "pv": f"ca://{PUTS}", "order": f"ca://{ORDER}", "count": count, "awaitable": awaitable}
        figure = Figure("per_second", title, "/s", Goal(100_000), more_is_better=True)
        return Row(key, task, (OURS, *clients), (figure,))

    def answered(protocol: str, clients: tuple[str, ...], goal: Goal) -> Row:
        task = {"task": "put", "pv": f"{protocol}://{SINGLE}", "count": round(5000 * share)}
        figure = Figure("p50", f"{protocol.upper()} put with completion, p50", "µs", goal)
        return Row(f"{protocol}_put", task, (OURS, *clients), (figure,))

    return [
        many("ca_puts", "CA put without waiting, in order", ("raw_ca", "ophyd-epicsrs", "pyepics"), False),
        many("ca_puts_async", "CA put_async never awaited, in order", ("ophyd-epicsrs", "aioca"), True),
        answered("ca", ("raw_ca", *PEERS_CA), Goal(0.8, PEERS_CA)),
        # ophyd-epicsrs is answered before the record has been processed, so it is no measure here.
        answered("pva", PEERS_PVA, Goal(0.6, ("p4p",))),
    ]


def _monitors(share: float) -> list[Row]:
    result: list[Row] = []
    # Rates around what the clients can take: beyond it the source only takes their processor time.
    ca, pva = (5.0, 90_000.0, (50_000, 100_000, 150_000)), (25.0, 20_000.0, (10_000, 20_000, 40_000))
    for protocol, peers, (cpu, rate, sources) in (("ca", PEERS_CA, ca), ("pva", PEERS_PVA, pva)):
        name, clients = protocol.upper(), (OURS, *peers)
        one = {"pv": f"{protocol}://{SOURCE}", "seconds": 1.5 * share}
        crowd = (
            Figure("cpu", f"{name} 1000 monitors at 10 Hz, CPU per update", "µs", Goal(cpu)),
            Figure("threads", f"{name} 1000 monitors, threads besides the main one", "", Goal(4)),
        )
        delivered = Figure("per_second", f"{name} one monitor, updates delivered", "/s", Goal(rate), True)
        late = Figure("p50", f"{name} monitor latency at 1 kHz, p50", "µs", Goal(1.0, peers))
        # The raw CA client receives as many as the source writes.
        watchers = (OURS, "raw_ca", *peers) if protocol == "ca" else clients
        task = {"task": "monitors", "pvs": [f"{protocol}://{pv}" for pv in CROWD], "seconds": 2.0 * share}
        result += [
            Row(f"{protocol}_monitors", task, clients, crowd),
            Row(f"{protocol}_delivered", {"task": "delivered", **one}, watchers, (delivered,), sources=sources),
            Row(f"{protocol}_latency", {"task": "latency", **one}, clients, (late,), sources=(1000,)),
        ]
    return result


def _processes() -> list[Row]:
    result: list[Row] = []
    for protocol, peers in (("ca", PEERS_CA), ("pva", PEERS_PVA)):
        for operation in ("get", "put", "connect"):
            pv = ABSENT if operation == "connect" else SINGLE
            task = {"task": "interrupt", "operation": operation, "pv": f"{protocol}://{pv}"}
            figure = Figure("ms", f"{protocol.upper()} Ctrl-C in {operation}", "ms", Goal(200.0))
            key = f"{protocol}_interrupt_{operation}"
            result.append(Row(key, task, (OURS, *peers), (figure,), place="interrupt"))
    figures = (
        Figure("ms", "import and context", "ms", Goal(5.0)),
        Figure("threads", "threads after it, besides the main one", "", Goal(4)),
    )
    clients = (OURS, "ophyd-epicsrs", "pyepics", "aioca", "p4p")
    return [*result, Row("start", {}, clients, figures, place="start")]
