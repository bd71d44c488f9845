"""The demo's database: what the IOC serves."""

from importlib.resources import files

SCALARS = [f"demo:position:{index}" for index in range(1000)]


def database() -> str:
    """The database as EPICS text: 1,000 scalars, and the beamline of records.db."""
    scalars = (
        f'record(ao, "{pv}") {{ field(VAL, "{index / 10}") field(EGU, "mm") field(PREC, "3") field(PINI, "YES") }}'
        for index, pv in enumerate(SCALARS)
    )
    beamline = files("epicsrs_demo").joinpath("records.db").read_text()
    return "\n".join([*scalars, beamline])
