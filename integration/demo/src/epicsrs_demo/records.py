"""What the demo adds to the records of the beamline."""

PREFIX = "bl:"
SCALARS = [f"{PREFIX}position:{index}" for index in range(1000)]

# Grains on the sample, by the place of its motor m1: what the fly-scan counter's detector sees, in events a second.
GRAINS = "2E5+4E6*EXP(-(((A+2.2)/.5)**2))+2.4E6*EXP(-(((A-1.2)/1.1)**2))"


def database() -> str:
    """The database as EPICS text, with macro P for the prefix: 1,000 scalars, and a sample with grains."""
    scalars = (
        f'record(ao, "$(P){pv.removeprefix(PREFIX)}") '
        f'{{ field(VAL, "{index / 10}") field(EGU, "mm") field(PREC, "3") field(PINI, "YES") }}'
        for index, pv in enumerate(SCALARS)
    )
    sample = (
        f'record(calcout, "$(P)sample") {{ field(INPA, "$(P)m1.RBV CP") field(CALC, "{GRAINS}") '
        'field(OUT, "$(P)mcs1:TrueRate PP") field(PINI, "YES") field(EGU, "1/s") }'
    )
    return "\n".join([*scalars, sample, ""])
