//! What a call gives back, and the operation that is told.

use std::sync::Arc;

use pyo3::exceptions::PyBaseException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::client::Opened;
use crate::columns::{Columns, Row};
use crate::convert::exception;
use crate::error::Error;
use crate::reading::{Info, Reading};
use crate::subscription::Subscription;
use crate::{link, value};

/// What a call gives back.
pub enum Outcome {
    Nothing,
    Reading(value::Reading),
    Info(Arc<str>, &'static str, link::Info),
    Subscription(Py<Subscription>),
    Nothings(Results<()>),
    Readings(Results<value::Reading>),
    Columns(Arc<Vec<Arc<str>>>, Vec<Row>),
}

/// What came of a bulk call: the PVs, and a result for each.
pub struct Results<T>(pub Arc<Vec<Arc<str>>>, pub Vec<Result<T, Error>>);

impl<T> Results<T> {
    fn list(self, py: Python<'_>, one: impl Fn(T) -> PyResult<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        let Self(pvs, results) = self;
        let results = pvs.iter().zip(results).map(|(pv, result)| match result {
            Ok(result) => one(result),
            Err(error) => Ok(exception(py, pv, &error).into_value(py).into_any()),
        });
        let list = PyList::new(py, results.collect::<PyResult<Vec<_>>>()?)?;
        Ok(list.into_any().unbind())
    }
}

impl Outcome {
    pub fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match self {
            Self::Nothing => py.None(),
            Self::Reading(reading) => Reading::new(py, reading)?.into_any(),
            Self::Info(pv, protocol, info) => Py::new(py, Info::new(py, &pv, protocol, info)?)?.into_any(),
            Self::Subscription(subscription) => subscription.into_any(),
            Self::Nothings(results) => results.list(py, |()| Ok(py.None()))?,
            Self::Readings(results) => results.list(py, |reading| Ok(Reading::new(py, reading)?.into_any()))?,
            Self::Columns(pvs, rows) => Py::new(py, Columns::new(py, &pvs, rows)?)?.into_any(),
        })
    }
}

/// Set an operation's result, unless it has been cancelled.
pub fn finish(py: Python<'_>, operation: &Bound<'_, PyAny>, pv: &str, result: Result<Outcome, Error>) -> PyResult<()> {
    if operation.call_method0(intern!(py, "done"))?.extract()? {
        // Nobody has a handle to what was opened for a call that was cancelled.
        if let Ok(Outcome::Subscription(subscription)) = result {
            subscription.get().0.end();
        }
        return Ok(());
    }
    match outcome(py, pv, result) {
        (Some(value), None) => operation.call_method1(intern!(py, "set_result"), (value,)),
        (_, error) => operation.call_method1(intern!(py, "set_exception"), (error,)),
    }
    .map(drop)
}

/// A result's value, or else its exception.
pub fn outcome(
    py: Python<'_>,
    pv: &str,
    result: Result<Outcome, Error>,
) -> (Option<Py<PyAny>>, Option<Py<PyBaseException>>) {
    match result
        .map_err(|error| exception(py, pv, &error))
        .and_then(|outcome| outcome.into_python(py))
    {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error.into_value(py))),
    }
}
