"""Many PVs at once on epicsrs-native: reads as columns, and flyers."""

from typing import TYPE_CHECKING

import epicsrs_native

epicsrs_native.require_abi(1, 0, "epicsrs-bulk")

from epicsrs_bulk._channels import close_channels, keep_channels
from epicsrs_bulk._coherence import incoherent
from epicsrs_bulk._columns import Column
from epicsrs_bulk._dead_time_column import DeadTime
from epicsrs_bulk._deadtime import Corrected, icr_ocr, nonparalyzable, paralyzable, xspress3
from epicsrs_bulk._errors import (
    FlightDataError,
    FlightError,
    FlightFileError,
    FlightStoppedError,
    FlightTimeoutError,
    ShortWaveformError,
)
from epicsrs_bulk._file_flyer import FileFlyer
from epicsrs_bulk._get import bulk_caget, bulk_get, bulk_get_async
from epicsrs_bulk._growing import read_until, read_until_async
from epicsrs_bulk._growing_flyer import GrowingFlyer
from epicsrs_bulk._local_catalog import CatalogError, LocalCatalog
from epicsrs_bulk._mongo import AsyncMongoWriter, MongoTarget
from epicsrs_bulk._monitor_flyer import MonitorFlyer
from epicsrs_bulk._put import bulk_connect, bulk_connect_async, bulk_put, bulk_put_async
from epicsrs_bulk._read import BulkRead, PvReading, bulk_read, bulk_read_async
from epicsrs_bulk._replay import ReplayReport, RunReport, replay
from epicsrs_bulk._resample import resample
from epicsrs_bulk._sink import Sink
from epicsrs_bulk._sink_errors import DeliveryError, DeliveryTimeoutError, DocumentError, JournalError, SinkError
from epicsrs_bulk._sink_health import SinkHealth
from epicsrs_bulk._snapshot import BulkSnapshot
from epicsrs_bulk._target import CallbackTarget, Target
from epicsrs_bulk._target_json_lines import JsonLinesTarget
from epicsrs_bulk._tiled import TiledTarget
from epicsrs_bulk._tiled_errors import TiledError
from epicsrs_bulk._times import ClockCounts, ConstantInterval, RecordTime, TimeWaveform
from epicsrs_bulk._trace import Trace
from epicsrs_bulk._validation import fast_event_page_validation
from epicsrs_bulk._waveform_flyer import WaveformFlyer

if TYPE_CHECKING:
    from epicsrs_bulk._detector import BulkWaveformDataLogic as BulkWaveformDataLogic

# Without BulkWaveformDataLogic, which needs ophyd-async: `import *` works without it.
__all__ = [
    "AsyncMongoWriter",
    "BulkRead",
    "BulkSnapshot",
    "CallbackTarget",
    "CatalogError",
    "ClockCounts",
    "Column",
    "ConstantInterval",
    "Corrected",
    "DeadTime",
    "DeliveryError",
    "DeliveryTimeoutError",
    "DocumentError",
    "FileFlyer",
    "FlightDataError",
    "FlightError",
    "FlightFileError",
    "FlightStoppedError",
    "FlightTimeoutError",
    "GrowingFlyer",
    "JournalError",
    "JsonLinesTarget",
    "LocalCatalog",
    "MongoTarget",
    "MonitorFlyer",
    "PvReading",
    "RecordTime",
    "ReplayReport",
    "RunReport",
    "ShortWaveformError",
    "Sink",
    "SinkError",
    "SinkHealth",
    "Target",
    "TiledError",
    "TiledTarget",
    "TimeWaveform",
    "Trace",
    "WaveformFlyer",
    "bulk_caget",
    "bulk_connect",
    "bulk_connect_async",
    "bulk_get",
    "bulk_get_async",
    "bulk_put",
    "bulk_put_async",
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
    "replay",
    "resample",
    "xspress3",
]


def __getattr__(name: str) -> object:
    if name != "BulkWaveformDataLogic":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from epicsrs_bulk._detector import BulkWaveformDataLogic
    except ModuleNotFoundError as error:
        raise ImportError(f"{name} needs ophyd-async; pip install 'epicsrs-bulk[async]' brings it") from error
    return BulkWaveformDataLogic
