"""The demo's database: what the IOC serves."""

SCALARS = [f"demo:position:{index}" for index in range(1000)]
WAVEFORMS = [f"demo:profile:{index}" for index in range(4)]
COUNTER = "demo:counter"
SINE = "demo:beam"
MODE = "demo:mode"
SLOW = "demo:slow"

SLOW_SECONDS = 0.5
PROFILE_LENGTH = 2000


def database() -> str:
    """The database as EPICS text: 1,000 scalars, waveforms, a counter, a sine wave, an enum, a slow record."""
    scalars = (
        f'record(ao, "{pv}") {{ field(VAL, "{index / 10}") field(EGU, "mm") field(PREC, "3") field(PINI, "YES") }}'
        for index, pv in enumerate(SCALARS)
    )
    waveforms = (
        f'record(waveform, "{pv}") {{ field(FTVL, "DOUBLE") field(NELM, "{PROFILE_LENGTH}") field(EGU, "counts") }}'
        for pv in WAVEFORMS
    )
    return "\n".join([*scalars, *waveforms, SINGLES])


SINGLES = f"""
record(calc, "{COUNTER}") {{ field(CALC, "VAL+1") field(SCAN, ".1 second") }}
# 0.5 Hz, in alarm near its top
record(calc, "{SINE}") {{
    field(CALC, "A:=A+PI/10;50+40*SIN(A)") field(SCAN, ".1 second") field(EGU, "mA") field(PREC, "2")
    field(HIGH, "80") field(HSV, "MINOR")
}}
record(mbbo, "{MODE}") {{
    field(ZRST, "Idle") field(ONST, "Align") field(TWST, "Measure") field(PINI, "YES")
}}
# busy until the delayed output has run
record(ao, "{SLOW}") {{ field(EGU, "mm") field(PREC, "3") field(FLNK, "{SLOW}:delay") }}
record(calcout, "{SLOW}:delay") {{
    field(INPA, "{SLOW}") field(CALC, "A") field(ODLY, "{SLOW_SECONDS}") field(OUT, "{SLOW}:done PP")
}}
record(ao, "{SLOW}:done") {{ }}
"""
