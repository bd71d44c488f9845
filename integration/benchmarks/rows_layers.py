"""Rows of ophyd's control layers and of ophyd-async's backends."""

from environments import OURS, READY, SOFT
from records import ARRAY, ARRAY_SIZE, BULK, CROWD, SINGLE
from row import Figure, Goal, Row
from server import CAMERA

# ophyd's control layers, and ophyd-async's own backends: aioca and p4p.
OPHYD = ("pyepics", "caproto", "ophyd-epicsrs")
ASYNC = ("stock", "ophyd-epicsrs")
# Another program's figure is reached where chance decides which of two equal ones is higher.
EQUAL = 1.05
SIGNALS = 1000


def layer_rows(share: float) -> list[Row]:
    """The rows in the order of the tables; ``share`` is how long the tasks are."""
    return [*_ophyd_connects(), *_ophyd_calls(share), *_async("ca", share), *_async("pva", share), _imports()]


def _ophyd_connects() -> list[Row]:
    def row(key: str, task: dict[str, object], *figures: Figure, server: str = "ioc") -> Row:
        return Row(f"ophyd_{key}", task, (OURS, *OPHYD), figures, server=server, place="fresh")

    device = (
        Figure("ms", "areaDetector of 1215 lazy signals, wait_for_connection", "ms", Goal(1000.0)),
        Figure("ms", "the same beside ophyd-epicsrs", "ms", Goal(0.6, ("ophyd-epicsrs",))),
        Figure("cpu", "the same, processor time", "ms"),
    )
    monitored = (
        Figure("ms", "3000 monitored signals, made and connected", "ms", Goal(1500.0)),
        Figure("cpu", "the same, processor time", "ms"),
        Figure("threads", "3000 monitored signals, threads over idle", "", Goal(4)),
    )
    few = (
        Figure("ms", "200 signals, made and connected", "ms", Goal(0.2, ("pyepics",))),
        Figure("cpu", "the same, processor time", "ms"),
    )
    return [
        row("device", {"task": "device", "prefix": CAMERA}, *device, server="camera"),
        row("monitored", {"task": "connect", "pv": f"ca://{BULK}", "size": 3000, "monitored": True}, *monitored),
        row("connect", {"task": "connect", "pv": f"ca://{BULK}", "size": 200, "monitored": False}, *few),
    ]


def _ophyd_calls(share: float) -> list[Row]:
    def row(
        key: str, title: str, task: str, count: int, goal: Goal, clients: tuple[str, ...] = OPHYD, **more: object
    ) -> Row:
        arguments = {"task": task, "pv": f"ca://{SINGLE}", "count": round(count * share), **more}
        return Row(f"ophyd_{key}", arguments, (OURS, *clients), (Figure("p50", f"{title}, p50", "µs", goal),))

    third, least = Goal(1 / 3, ("pyepics",)), (READY, *OPHYD)
    monitors = Row(
        "ophyd_monitors",
        {"task": "monitors", "pvs": [f"ca://{pv}" for pv in CROWD[:300]], "seconds": share},
        (OURS, *OPHYD),
        (Figure("cpu", "300 monitored signals at 10 Hz, CPU per update", "µs", Goal(1.0, ("pyepics",))),),
        place="fresh",
    )
    return [
        row("get", "get", "get", 3000, third),
        row("cached", "get of a monitored signal", "cached", 20_000, Goal(1.5, (READY,)), least),
        row("read", "read", "read", 3000, third),
        row("put", "put(wait=True)", "put", 2000, Goal(0.5, ("pyepics",))),
        row("set", "set().wait() by put completion", "set_and_wait", 2000, Goal(EQUAL, OPHYD), put_complete=True),
        row("set_poll", "set().wait() by reading back", "set_and_wait", 1000, Goal(EQUAL, OPHYD), put_complete=False),
        monitors,
    ]


def _async(protocol: str, share: float) -> list[Row]:
    name, pv, many = protocol.upper(), f"{protocol}://{SINGLE}", f"{protocol}://{BULK}"

    def row(key: str, task: dict[str, object], *figures: Figure, fresh: bool = False, soft: bool = False) -> Row:
        clients = (OURS, *ASYNC, SOFT) if soft else (OURS, *ASYNC)
        return Row(f"async_{protocol}_{key}", task, clients, figures, place="fresh" if fresh else "worker")

    def figure(key: str, title: str, unit: str, limit: float, against: tuple[str, ...] = ASYNC) -> Figure:
        return Figure(key, f"{name} {title}", unit, Goal(limit, against))

    def timed(task: str, count: int) -> dict[str, object]:
        return {"task": task, "pv": pv, "count": round(count * share)}

    pvs = [f"{many}{index}" for index in range(SIGNALS)]
    array = {"task": "await_array", "pv": f"{protocol}://{ARRAY}", "size": ARRAY_SIZE, "seconds": 0.5 * share}
    stock = ("stock",)
    return [
        row(
            "crowd",
            {"task": "crowd", "pv": many, "size": SIGNALS},
            figure("ms", "1000 signals, made and connected", "ms", 0.8),
            Figure("cpu", f"{name} the same, processor time", "ms"),
            figure("threads", "1000 monitored signals, threads over idle", "", 4, ()),
            figure("mib", "1000 monitored signals, memory of the process", "MiB", 1.1, stock),
            fresh=True,
        ),
        row(
            "gather",
            {"task": "gather", "pvs": pvs},
            figure("p50", "gather of 1000 get_value, each", "µs", 0.5),
            soft=True,
        ),
        row("get", timed("await_get", 3000), figure("p50", "get_value, p50", "µs", 0.8), soft=True),
        row(
            "cached",
            timed("await_cached", 20_000),
            figure("p50", "get_value of a monitored signal, p50", "µs", EQUAL, stock),
        ),
        row("set", timed("put", 2000), figure("p50", "set, p50", "µs", 0.8)),
        row(
            "array",
            array,
            figure("get", "get_value of 1 M doubles", "ms", EQUAL, stock),
            figure("put", "set of 1 M doubles", "ms", EQUAL, stock),
        ),
    ]


def _imports() -> Row:
    figures = (
        Figure("added", "import, after that of ophyd_async.epics.core", "ms", Goal(30.0)),
        Figure("ms", "both imports", "ms"),
    )
    return Row("async_start", {}, (OURS, *ASYNC), figures, place="start")
