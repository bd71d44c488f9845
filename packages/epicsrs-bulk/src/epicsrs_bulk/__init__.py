"""Many PVs at once on epicsrs-native: reads as columns, and flyers."""

import epicsrs_native

epicsrs_native.require_abi(1, 0, "epicsrs-bulk")

from epicsrs_bulk._channels import close_channels, keep_channels
from epicsrs_bulk._coherence import incoherent
from epicsrs_bulk._columns import Column
from epicsrs_bulk._deadtime import Corrected, icr_ocr, nonparalyzable, paralyzable, xspress3
from epicsrs_bulk._errors import (
    FlightDataError,
    FlightError,
    FlightStoppedError,
    FlightTimeoutError,
    ShortWaveformError,
)
from epicsrs_bulk._growing import read_until, read_until_async
from epicsrs_bulk._monitor_flyer import MonitorFlyer
from epicsrs_bulk._read import BulkRead, PvReading, bulk_read, bulk_read_async
from epicsrs_bulk._resample import resample
from epicsrs_bulk._times import ClockCounts, ConstantInterval, RecordTime, TimeWaveform
from epicsrs_bulk._trace import Trace
from epicsrs_bulk._validation import fast_event_page_validation
from epicsrs_bulk._waveform_flyer import WaveformFlyer

__all__ = [
    "BulkRead",
    "ClockCounts",
    "Column",
    "ConstantInterval",
    "Corrected",
    "FlightDataError",
    "FlightError",
    "FlightStoppedError",
    "FlightTimeoutError",
    "MonitorFlyer",
    "PvReading",
    "RecordTime",
    "ShortWaveformError",
    "TimeWaveform",
    "Trace",
    "WaveformFlyer",
    "bulk_read",
    "bulk_read_async",
    "close_channels",
    "fast_event_page_validation",
    "icr_ocr",
    "incoherent",
    "keep_channels",
    "nonparalyzable",
    "paralyzable",
    "read_until",
    "read_until_async",
    "resample",
    "xspress3",
]
