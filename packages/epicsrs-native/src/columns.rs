//! The readings of many PVs as columns.

use std::sync::Arc;

use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::convert::{exception, to_python};
use crate::error::Error;
use crate::lend::import_numpy;
use crate::value::{Reading, Value};

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

/// What a column keeps of one PV: of a reading, a fifth of its size.
pub struct Row {
    cell: Cell,
    timestamp_ns: i64,
    severity: i32,
    status: i32,
}

enum Cell {
    Float(f64),
    Integer(i64),
    Other(Box<Value>),
    Failed(Box<Error>),
}

impl From<Result<Reading, Error>> for Row {
    fn from(result: Result<Reading, Error>) -> Self {
        match result {
            Ok(reading) => {
                let alarm = reading.alarm.as_ref();
                let (severity, status) = alarm.map_or((NO_ALARM, NO_ALARM), |alarm| (alarm.severity, alarm.status));
                Self {
                    timestamp_ns: reading.timestamp.unwrap_or(NO_TIME),
                    severity,
                    status,
                    cell: match reading.value {
                        Value::Float(x) => Cell::Float(x),
                        Value::Int(x) => Cell::Integer(x),
                        other => Cell::Other(Box::new(other)),
                    },
                }
            }
            Err(error) => Self {
                cell: Cell::Failed(Box::new(error)),
                timestamp_ns: NO_TIME,
                severity: NO_ALARM,
                status: NO_ALARM,
            },
        }
    }
}

impl Columns {
    pub fn new(py: Python<'_>, pvs: &[Arc<str>], rows: Vec<Row>) -> PyResult<Self> {
        import_numpy(py)?;
        let timestamp_ns = PyArray1::from_iter(py, rows.iter().map(|row| row.timestamp_ns)).unbind();
        let severity = PyArray1::from_iter(py, rows.iter().map(|row| row.severity)).unbind();
        let status = PyArray1::from_iter(py, rows.iter().map(|row| row.status)).unbind();
        let error = PyDict::new(py);
        for (pv, row) in pvs.iter().zip(&rows) {
            if let Cell::Failed(failed) = &row.cell {
                error.set_item(&**pv, exception(py, pv, failed).into_value(py))?;
            }
        }
        Ok(Self {
            value: values(py, rows)?,
            timestamp_ns,
            severity,
            status,
            error: error.unbind(),
        })
    }
}

/// An array where every PV is a number of one kind, a list else.
fn values(py: Python<'_>, rows: Vec<Row>) -> PyResult<Py<PyAny>> {
    if let Some(floats) = rows.iter().map(float).collect() {
        return Ok(PyArray1::from_vec(py, floats).into_any().unbind());
    }
    if let Some(integers) = rows.iter().map(integer).collect() {
        return Ok(PyArray1::from_vec(py, integers).into_any().unbind());
    }
    let list = PyList::empty(py);
    for row in rows {
        list.append(match row.cell {
            Cell::Float(x) => to_python(py, Value::Float(x))?,
            Cell::Integer(x) => to_python(py, Value::Int(x))?,
            Cell::Other(value) => to_python(py, *value)?,
            Cell::Failed(_) => py.None(),
        })?;
    }
    Ok(list.into_any().unbind())
}

fn float(row: &Row) -> Option<f64> {
    match &row.cell {
        Cell::Float(x) => Some(*x),
        Cell::Failed(_) => Some(f64::NAN),
        _ => None,
    }
}

/// No integer says that there is none: one failed PV makes the column a list.
fn integer(row: &Row) -> Option<i64> {
    match &row.cell {
        Cell::Integer(x) => Some(*x),
        Cell::Other(value) => match **value {
            Value::Enum { index, .. } => Some(index),
            _ => None,
        },
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
