"""The benchmark's database: what the IOC serves."""

CROWD_SIZE = 1000
BULK_SIZE = 10_000
ARRAY_SIZE = 1_000_000
# ao, for single reads and writes
SINGLE = "bench:single"
# ao, written by the raw client while monitors are measured
SOURCE = "bench:source"
# ao that a put only reaches through its whole chain: ORDER.C counts values that did not follow the last one,
# ORDER.B is the last value, ORDER.D the number of values
PUTS = "bench:puts"
ORDER = "bench:order"
# waveform of doubles, filled by fill() in workers/measurements_array.py
ARRAY = "bench:array"
# ao that nobody writes, BULK followed by a number, which is also its value
BULK = "bench:bulk:"
# no such record
ABSENT = "bench:absent"

# calc, each counting at 10 Hz
CROWD = [f"bench:crowd:{index}" for index in range(CROWD_SIZE)]


def database() -> str:
    """The database as EPICS text."""
    crowd = (f'record(calc, "{pv}") {{ field(CALC, "VAL+1") field(SCAN, ".1 second") }}' for pv in CROWD)
    bulk = (f'record(ao, "{BULK}{index}") {{ field(VAL, "{index}") field(PINI, "YES") }}' for index in range(BULK_SIZE))
    return "\n".join([*crowd, *bulk, SINGLES])


SINGLES = f"""
record(ao, "{SINGLE}") {{ field(VAL, "1.5") field(PINI, "YES") field(EGU, "mm") field(PREC, "3") }}
record(ao, "{SOURCE}") {{ field(PINI, "YES") }}
record(ao, "{PUTS}") {{ field(FLNK, "{ORDER}") }}
record(waveform, "{ARRAY}") {{ field(FTVL, "DOUBLE") field(NELM, "{ARRAY_SIZE}") }}
record(calc, "{ORDER}") {{ field(INPA, "{PUTS}") field(CALC, "C:=C+(A#B+1);B:=A;D:=D+1;C") }}
"""
