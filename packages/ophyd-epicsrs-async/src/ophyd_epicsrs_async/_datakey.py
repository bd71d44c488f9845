"""The DataKey that describes a signal."""

from math import isfinite

from event_model import DataKey, Limits, LimitsRange
from ophyd_async.core import SignalMetadata, make_datakey

from epicsrs_native import Metadata, Reading

from ._converter import Converter
from ._shape import Kind


def datakey(converter: Converter, reading: Reading, source: str) -> DataKey:
    """Describe a signal by a reading with `form="ctrl"`: dtype and present shape, units, precision, limits, choices."""
    metadata = SignalMetadata() if reading.metadata is None else _metadata(converter, reading.metadata)
    return make_datakey(converter.datatype, converter.read(reading.value), source, metadata)


def _metadata(converter: Converter, metadata: Metadata) -> SignalMetadata:
    described = SignalMetadata()
    if converter.choices is not None and metadata.choices is not None:
        described["choices"] = list(metadata.choices)
    if converter.kind not in {Kind.INTEGER, Kind.FLOAT} or converter.datatype is bool:
        return described
    if metadata.units is not None and converter.datatype is not str:
        described["units"] = metadata.units
    if metadata.precision is not None and converter.kind is Kind.FLOAT and converter.datatype is not int:
        described["precision"] = metadata.precision
    if limits := _limits(metadata):
        described["limits"] = limits
    return described


def _limits(metadata: Metadata) -> Limits:
    limits = Limits()
    if metadata.limits is not None:
        for name in ("alarm", "control", "display", "warning"):
            if limits_range := _range(getattr(metadata.limits, name)):
                limits[name] = limits_range
    return limits


def _range(pair: tuple[float, float] | None) -> LimitsRange | None:
    """None where nobody has set it: EPICS then says (0, 0) or NaN. An end that is no number is a side without limit."""
    if pair is None or pair == (0, 0):
        return None
    low, high = (end if isfinite(end) else None for end in pair)
    return None if low is None and high is None else LimitsRange(low=low, high=high)
