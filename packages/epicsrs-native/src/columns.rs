//! The readings of many PVs as columns.

use std::sync::Arc;

use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::convert::{exception, to_python};
use crate::error::Error;
use crate::lend::import_numpy;
use crate::value::{Reading, Value};

/// Each PV with what came of it.
pub type Results = Vec<(Arc<str>, Result<Reading, Error>)>;

/// numpy's "not a time", which datetime64[ns] shows as NaT.
const NO_TIME: i64 = i64::MIN;
/// Where there is no alarm: the read failed, or the server's structure has none.
const NO_ALARM: i32 = -1;

/// One row for each PV of `Context.get_many(columns=True)`, in the order of the channels.
#[pyclass(frozen, module = "epicsrs_native._native")]
pub struct Columns {
    value: Py<PyAny>,
    timestamp_ns: Py<PyArray1<i64>>,
    severity: Py<PyArray1<i32>>,
    status: Py<PyArray1<i32>>,
    error: Py<PyDict>,
}

impl Columns {
    pub fn new(py: Python<'_>, results: Results) -> PyResult<Self> {
        import_numpy(py)?;
        let times = results.iter().map(|(_, result)| time(result));
        let timestamp_ns = PyArray1::from_iter(py, times).unbind();
        let severity = PyArray1::from_iter(py, results.iter().map(|(_, result)| alarm(result).0)).unbind();
        let status = PyArray1::from_iter(py, results.iter().map(|(_, result)| alarm(result).1)).unbind();
        let error = PyDict::new(py);
        for (pv, result) in &results {
            if let Err(failed) = result {
                error.set_item(&**pv, exception(py, pv, failed).into_value(py))?;
            }
        }
        Ok(Self {
            value: values(py, results)?,
            timestamp_ns,
            severity,
            status,
            error: error.unbind(),
        })
    }
}

fn time(result: &Result<Reading, Error>) -> i64 {
    result
        .as_ref()
        .ok()
        .and_then(|reading| reading.timestamp)
        .unwrap_or(NO_TIME)
}

fn alarm(result: &Result<Reading, Error>) -> (i32, i32) {
    let alarm = result.as_ref().ok().and_then(|reading| reading.alarm.as_ref());
    alarm.map_or((NO_ALARM, NO_ALARM), |alarm| (alarm.severity, alarm.status))
}

/// An array where every PV is a number of one kind, a list else.
fn values(py: Python<'_>, results: Results) -> PyResult<Py<PyAny>> {
    if let Some(floats) = all(&results, float) {
        return Ok(PyArray1::from_vec(py, floats).into_any().unbind());
    }
    if let Some(integers) = all(&results, integer) {
        return Ok(PyArray1::from_vec(py, integers).into_any().unbind());
    }
    let list = PyList::empty(py);
    for (_, result) in results {
        match result {
            Ok(reading) => list.append(to_python(py, reading.value)?)?,
            Err(_) => list.append(py.None())?,
        }
    }
    Ok(list.into_any().unbind())
}

fn all<T>(results: &Results, one: impl Fn(&Result<Reading, Error>) -> Option<T>) -> Option<Vec<T>> {
    results.iter().map(|(_, result)| one(result)).collect()
}

fn float(result: &Result<Reading, Error>) -> Option<f64> {
    match result {
        Ok(Reading {
            value: Value::Float(x), ..
        }) => Some(*x),
        Ok(_) => None,
        Err(_) => Some(f64::NAN),
    }
}

/// No integer says that there is none: one failed PV makes the column a list.
fn integer(result: &Result<Reading, Error>) -> Option<i64> {
    match &result.as_ref().ok()?.value {
        Value::Int(x) | Value::Enum { index: x, .. } => Some(*x),
        _ => None,
    }
}

#[pymethods]
impl Columns {
    /// The values in each record's units: a float64 array, shape (n,), where every PV is a float (NaN for one that
    /// failed), an int64 array where every PV is an integer or an enum (its index); else a list, None for one that
    /// failed, numpy arrays for waveforms.
    #[getter]
    fn value(&self, py: Python<'_>) -> Py<PyAny> {
        self.value.clone_ref(py)
    }

    /// Nanoseconds since the UNIX epoch by each IOC's clock: an int64 array, shape (n,); -2^63, which numpy's
    /// datetime64[ns] shows as NaT, where there is no time.
    #[getter]
    fn timestamp_ns(&self, py: Python<'_>) -> Py<PyArray1<i64>> {
        self.timestamp_ns.clone_ref(py)
    }

    /// 0 none, 1 minor, 2 major, 3 invalid, 4 undefined (pvAccess only): an int32 array, shape (n,); -1 where there is
    /// none.
    #[getter]
    fn severity(&self, py: Python<'_>) -> Py<PyArray1<i32>> {
        self.severity.clone_ref(py)
    }

    /// The alarms' causes, numbered per protocol: an int32 array, shape (n,); -1 where there is none.
    #[getter]
    fn status(&self, py: Python<'_>) -> Py<PyArray1<i32>> {
        self.status.clone_ref(py)
    }

    /// The exception of each PV that failed, by its name; empty where all were read.
    #[getter]
    fn error(&self, py: Python<'_>) -> Py<PyDict> {
        self.error.clone_ref(py)
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.value.bind(py).len()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!(
            "Columns({} PVs, {} failed)",
            self.__len__(py)?,
            self.error.bind(py).len()
        ))
    }
}
