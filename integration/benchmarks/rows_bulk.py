"""Rows of many PVs at once and of large values."""

from environments import OURS
from records import ARRAY, ARRAY_SIZE, BULK, BULK_SIZE
from row import PEERS_CA, PEERS_PVA, Figure, Goal, Row
from server import FRAMES, OVERSIZED

# The receive limit, and what else a client may need meanwhile.
HOSTILE_MIB = 256 + 32


def bulk_rows(share: float) -> list[Row]:
    """The rows in the order of the table; ``share`` is how long the tasks are."""
    return [*_bulk(share), *_cold(), *_arrays(share), *_frames(share), *_oversized()]


def _bulk(share: float) -> list[Row]:
    def row(protocol: str, clients: tuple[str, ...], size: int, goal: Goal | None = None) -> Row:
        task = {"task": "bulk", "pv": f"{protocol}://{BULK}", "size": size, "calls": round(1e5 / size + 10)}
        figure = Figure("p50", f"{protocol.upper()} bulk read of {size:,}, per PV", "µs", goal)
        return Row(f"{protocol}_bulk_{size}", {**task, "seconds": share}, (OURS, *clients), (figure,))

    ca = ("raw_ca", *PEERS_CA)
    return [
        row("ca", ca, 100),
        row("ca", ca, 1000, Goal(0.7)),
        row("ca", ca, 10_000, Goal(1.0)),
        row("pva", ("raw_pva", *PEERS_PVA), 1000, Goal(1.8, ("raw_pva",))),
    ]


def _cold() -> list[Row]:
    def row(key: str, title: str, task: str, clients: tuple[str, ...], goal: Goal) -> Row:
        protocol = key.partition("_")[0]
        figures = (
            Figure("ms", f"{title}, {BULK_SIZE:,} names", "ms", goal),
            Figure("kib", f"{protocol.upper()} memory of each of them", "KiB", Goal(1.2, clients)),
        )
        arguments = {"task": task, "pv": f"{protocol}://{BULK}", "size": BULK_SIZE}
        return Row(key, arguments, (OURS, *clients), figures, place="fresh")

    return [
        row("ca_cold", "CA cold connect", "connect_all", PEERS_CA, Goal(150.0, always=True)),
        row("pva_cold", "PVA cold, names to values", "read_all", PEERS_PVA, Goal(0.6, ("p4p",))),
    ]


def _arrays(share: float) -> list[Row]:
    def row(protocol: str, clients: tuple[str, ...], goal: Goal) -> Row:
        title = f"{protocol.upper()} get of 1 M doubles"
        figures = (
            Figure("mb_per_second", title, "MB/s", goal, more_is_better=True),
            Figure("cpu", f"{title}, CPU per get", "ms"),
        )
        task = {"task": "array", "pv": f"{protocol}://{ARRAY}", "size": ARRAY_SIZE, "count": round(60 * share)}
        return Row(f"{protocol}_array", task, (OURS, *clients), figures)

    return [
        row("ca", PEERS_CA, Goal(1.5, ("pyepics",))),
        row("pva", PEERS_PVA, Goal(0.95, ("p4p",))),
    ]


def _frames(share: float) -> list[Row]:
    figures = (
        Figure("cpu", "PVA 8 MiB images, CPU per frame", "ms", Goal(0.85, ("p4p",))),
        Figure("per_second", "PVA 8 MiB images, frames delivered", "/s", more_is_better=True),
    )
    task = {"task": "frames", "pv": f"pva://{FRAMES}", "seconds": 3.0 * share}
    # ophyd-epicsrs gives the elements without their shape.
    return [Row("pva_frames", task, (OURS, "p4p"), figures, server="frames")]


def _oversized() -> list[Row]:
    result: list[Row] = []
    for protocol, peers in (("ca", PEERS_CA), ("pva", PEERS_PVA)):
        title = f"{protocol.upper()} reply of 512 MiB"
        figures = (
            Figure("ms", f"{title}, until the call ends", "ms", Goal(1000.0)),
            Figure("mib", f"{title}, memory taken", "MiB", Goal(HOSTILE_MIB)),
        )
        task = {"task": "oversized", "pv": f"{protocol}://{OVERSIZED}"}
        server = "hostile_ca" if protocol == "ca" else "hostile_pva"
        result.append(Row(f"{protocol}_oversized", task, (OURS, *peers), figures, server=server, place="fresh"))
    return result
