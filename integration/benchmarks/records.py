"""The benchmark's database: what the IOC serves."""

CROWD_SIZE = 1000
# ao, for single reads and writes
SINGLE = "bench:single"
# ao, written by the raw client while monitors are measured
SOURCE = "bench:source"
# ao that a put only reaches through its whole chain: ORDER.C counts values that did not follow the last one,
# ORDER.B is the last value, ORDER.D the number of values
PUTS = "bench:puts"
ORDER = "bench:order"
# no such record
ABSENT = "bench:absent"

# calc, each counting at 10 Hz
CROWD = [f"bench:crowd:{index}" for index in range(CROWD_SIZE)]


def database() -> str:
    """The database as EPICS text."""
    crowd = (f'record(calc, "{pv}") {{ field(CALC, "VAL+1") field(SCAN, ".1 second") }}' for pv in CROWD)
    return "\n".join([*crowd, SINGLES])


SINGLES = f"""
record(ao, "{SINGLE}") {{ field(VAL, "1.5") field(PINI, "YES") field(EGU, "mm") field(PREC, "3") }}
record(ao, "{SOURCE}") {{ field(PINI, "YES") }}
record(ao, "{PUTS}") {{ field(FLNK, "{ORDER}") }}
record(calc, "{ORDER}") {{ field(INPA, "{PUTS}") field(CALC, "C:=C+(A#B+1);B:=A;D:=D+1;C") }}
"""
