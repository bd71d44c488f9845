"""The fly scan's hardware, through epicsrs-bulk."""

from epicsrs_bulk import Column, TimeWaveform, WaveformFlyer

# Rows so far, for the progress bar.
INDEX = "demo:fly:index"
POINTS = "demo:fly:points"


def make_flyer() -> WaveformFlyer:
    """A flyer that sweeps the stage; each row has the time that the IOC's clock showed."""
    return WaveformFlyer(
        "fly",
        columns=[
            Column("demo:fly:encoder", "stage", units="mm"),
            Column("demo:fly:i0", "i0", units="counts"),
            Column("pva://demo:fly:it", "it", units="counts"),
            Column("pva://demo:fly:fluo", "fluo", units="counts"),
            Column("demo:fly:current", "current", units="mA"),
        ],
        times=TimeWaveform("demo:fly:clock", epoch="epics"),
        rows=POINTS,
        start=[("demo:fly:start", 1)],
        done=("demo:fly:busy", "Done"),
        disarm=[("demo:fly:go", 0)],
        timeout=20.0,
    )
