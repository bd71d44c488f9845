//! What Python sees of a reading, its metadata and a channel's info.

use std::sync::Arc;
use std::time::Instant;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::convert::{choices, text, to_python};
use crate::lend::uncollected;
use crate::{link, value};

/// A PV's value, alarm and time at one moment.
///
/// For type checkers `Reading[Metadata]` has metadata, `Reading[None]` has none, `Reading` may have.
#[pyclass(frozen, generic, module = "epicsrs_native._native")]
pub struct Reading {
    value: Py<PyAny>,
    alarm: Option<value::Alarm>,
    timestamp: Option<i64>,
    metadata: Option<Arc<value::Metadata>>,
    fields: Option<Py<PyAny>>,
    received: Option<Instant>,
}

impl Reading {
    pub fn new(py: Python<'_>, reading: value::Reading) -> PyResult<Py<Self>> {
        let value = to_python(py, reading.value)?;
        let made = Bound::new(
            py,
            Self {
                value,
                alarm: reading.alarm,
                timestamp: reading.timestamp,
                metadata: reading.metadata,
                fields: reading.fields.map(|fields| to_python(py, *fields)).transpose()?,
                received: reading.received,
            },
        )?;
        uncollected(&made);
        Ok(made.unbind())
    }
}

#[pymethods]
impl Reading {
    /// The value in the record's units: int, float, str, bool, EnumValue, a read-only numpy array or a list of str. Over
    /// pvAccess also a Table, an array of several dimensions (NTNDArray, shape as numpy has it, C order; compressed
    /// ones are their bytes, shape (n,)), and a Structure for anything else.
    #[getter]
    fn value(&self, py: Python<'_>) -> Py<PyAny> {
        self.value.clone_ref(py)
    }

    /// Seconds since the UNIX epoch by the IOC's clock; None where the server sent no time.
    #[getter]
    fn timestamp(&self) -> Option<f64> {
        self.timestamp.map(|t| t as f64 * 1e-9)
    }

    /// Nanoseconds since the UNIX epoch by the IOC's clock, exact.
    #[getter]
    fn timestamp_ns(&self) -> Option<i64> {
        self.timestamp
    }

    /// 0 none, 1 minor, 2 major, 3 invalid, 4 undefined (pvAccess only); None where it was not fetched.
    #[getter]
    fn severity(&self) -> Option<i32> {
        self.alarm.as_ref().map(|a| a.severity)
    }

    /// The alarm's cause, numbered per protocol (Channel Access: alarm.h; pvAccess: the alarm_t of the normative types).
    #[getter]
    fn status(&self) -> Option<i32> {
        self.alarm.as_ref().map(|a| a.status)
    }

    /// The alarm's message; pvAccess only, None on Channel Access.
    #[getter]
    fn message<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.alarm
            .as_ref()
            .and_then(|a| a.message.as_ref())
            .map(|m| text(py, m))
            .transpose()
    }

    /// Units, precision, choices and limits, as they were when the reading came; with `form="ctrl"`.
    #[getter]
    fn metadata(&self) -> Option<Metadata> {
        self.metadata.clone().map(Metadata)
    }

    /// What an NTNDArray has beside its value, alarm and time: attributes, unique id, codec, dimensions; else None.
    #[getter]
    fn fields(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.fields.as_ref().map(|fields| fields.clone_ref(py))
    }

    /// Seconds since a monitor received it, by this machine's clock; None for the answer to a request.
    #[getter]
    fn age(&self) -> Option<f64> {
        self.received.map(|received| received.elapsed().as_secs_f64())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let value = self.value.bind(py).repr()?;
        let time = self
            .timestamp
            .map_or_else(|| "None".to_owned(), |t| format!("{:.6}", t as f64 * 1e-9));
        let severity = self
            .alarm
            .as_ref()
            .map_or_else(|| "None".to_owned(), |a| a.severity.to_string());
        Ok(format!("Reading({value}, timestamp={time}, severity={severity})"))
    }
}

/// What a server says of a PV beside its value; None where it says nothing.
#[pyclass(frozen, module = "epicsrs_native._native")]
pub struct Metadata(Arc<value::Metadata>);

#[pymethods]
impl Metadata {
    /// Engineering units (EGU).
    #[getter]
    fn units<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.units.as_ref().map(|u| text(py, u)).transpose()
    }

    /// Digits behind the decimal point (PREC).
    #[getter]
    fn precision(&self) -> Option<i32> {
        self.0.precision
    }

    /// An enum's labels in the order of their indices.
    #[getter]
    fn choices<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        self.0.choices.as_ref().map(|c| choices(py, c)).transpose()
    }

    /// The four pairs of limits.
    #[getter]
    fn limits(&self) -> Option<Limits> {
        self.0.limits.clone().map(Limits)
    }

    /// The record's description (DESC); pvAccess only.
    #[getter]
    fn description<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.0.description.as_ref().map(|d| text(py, d)).transpose()
    }

    /// Equal when they say the same; NaN is the same as NaN.
    fn __eq__(&self, other: &Self) -> bool {
        self.0.same(&other.0)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let shown = |value: Option<Bound<'_, PyAny>>| match value {
            Some(value) => value.repr().map(|r| r.to_string()),
            None => Ok("None".to_owned()),
        };
        let precision = self.0.precision.map_or_else(|| "None".to_owned(), |p| p.to_string());
        Ok(format!(
            "Metadata(units={}, precision={precision}, choices={})",
            shown(self.units(py)?)?,
            shown(self.choices(py)?.map(Bound::into_any))?
        ))
    }
}

/// Pairs of (low, high) in the record's units; None where the server has none.
#[pyclass(frozen, module = "epicsrs_native._native")]
pub struct Limits(value::Limits);

#[pymethods]
impl Limits {
    /// What a display should span (LOPR, HOPR).
    #[getter]
    fn display(&self) -> value::Pair {
        self.0.display
    }

    /// What may be put (DRVL, DRVH).
    #[getter]
    fn control(&self) -> value::Pair {
        self.0.control
    }

    /// Beyond which the alarm is minor (LOW, HIGH).
    #[getter]
    fn warning(&self) -> value::Pair {
        self.0.warning
    }

    /// Beyond which the alarm is major (LOLO, HIHI).
    #[getter]
    fn alarm(&self) -> value::Pair {
        self.0.alarm
    }

    /// Equal when all pairs are; NaN is the same as NaN.
    fn __eq__(&self, other: &Self) -> bool {
        self.0.same(&other.0)
    }

    fn __repr__(&self) -> String {
        let shown =
            |pair: value::Pair| pair.map_or_else(|| "None".to_owned(), |(low, high)| format!("({low}, {high})"));
        format!(
            "Limits(display={}, control={}, warning={}, alarm={})",
            shown(self.0.display),
            shown(self.0.control),
            shown(self.0.warning),
            shown(self.0.alarm)
        )
    }
}

/// Where a channel is connected to and what it carries.
#[pyclass(frozen, module = "epicsrs_native._native")]
pub struct Info {
    pv: String,
    protocol: &'static str,
    info: link::Info,
    structure: Option<Py<PyAny>>,
}

impl Info {
    pub fn new(py: Python<'_>, pv: &str, protocol: &'static str, mut info: link::Info) -> PyResult<Self> {
        let structure = info.structure.take().map(|structure| to_python(py, structure));
        Ok(Self {
            pv: pv.to_owned(),
            protocol,
            info,
            structure: structure.transpose()?,
        })
    }
}

#[pymethods]
impl Info {
    /// The name the channel was made with.
    #[getter]
    fn pv(&self) -> &str {
        &self.pv
    }

    /// "ca" or "pva".
    #[getter]
    fn protocol(&self) -> &str {
        self.protocol
    }

    /// The server's address and port.
    #[getter]
    fn address(&self) -> &str {
        &self.info.address
    }

    /// The server's own type of the value: "double", "enum", "string" …; an array over pvAccess is "double[]".
    #[getter]
    fn r#type(&self) -> &str {
        &self.info.type_name
    }

    /// The most elements it can hold; None over pvAccess, which does not say.
    #[getter]
    fn count(&self) -> Option<u64> {
        self.info.count
    }

    /// Whether this client may read it; None over pvAccess, which does not say.
    #[getter]
    fn readable(&self) -> Option<bool> {
        self.info.readable
    }

    /// Whether this client may write it; None over pvAccess, which does not say.
    #[getter]
    fn writable(&self) -> Option<bool> {
        self.info.writable
    }

    /// "connected"; over Channel Access also "unresponsive": the circuit is open and its server does not answer, not even
    /// an echo, and the channel is down until it does. The rest is what was known last.
    #[getter]
    fn circuit(&self) -> &str {
        self.info.circuit
    }

    /// pvAccess: the types of all fields of the channel's structure, by name, nested; None on Channel Access.
    #[getter]
    fn structure(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.structure.as_ref().map(|structure| structure.clone_ref(py))
    }

    fn __repr__(&self) -> String {
        format!(
            "Info({:?}, {} {} at {})",
            self.pv, self.protocol, self.info.type_name, self.info.address
        )
    }
}
