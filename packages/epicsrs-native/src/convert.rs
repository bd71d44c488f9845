//! Values and errors, from Rust to Python.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyList, PyString, PyTuple, PyType};

use crate::array::Array;
use crate::error::{Error, Kind};
use crate::lend::lend;
use crate::value::{Choices, Value};

fn class<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyType>>,
    module: &str,
    name: &str,
) -> PyResult<&'py Bound<'py, PyType>> {
    cell.import(py, module, name)
}

/// The Python exception of an error, with the PV in its message and as `pv`.
pub fn exception(py: Python<'_>, pv: &str, error: &Error) -> PyErr {
    let message = format!("{pv}: {error}");
    static NOT_CONNECTED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static REPLY_TIMEOUT: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static REMOTE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static DENIED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static OTHER: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let (cell, name) = match error.kind {
        Kind::Value => return PyValueError::new_err(message),
        Kind::Type => return PyTypeError::new_err(message),
        Kind::NotConnected => (&NOT_CONNECTED, "NotConnectedError"),
        Kind::ReplyTimeout => (&REPLY_TIMEOUT, "ReplyTimeoutError"),
        Kind::Remote => (&REMOTE, "RemoteError"),
        Kind::AccessDenied => (&DENIED, "AccessDeniedError"),
        Kind::Other => (&OTHER, "EpicsError"),
    };
    let class = match class(py, cell, "epicsrs_native.errors", name) {
        Ok(class) => class,
        Err(error) => return error,
    };
    let made = match error.kind {
        Kind::Remote | Kind::AccessDenied => class.call1((message, pv, error.words.as_ref().unwrap_or(&error.text))),
        _ => class.call1((message, pv)),
    };
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// Text that is no UTF-8 keeps its bytes as surrogates (PEP 383).
pub fn text<'py>(py: Python<'py>, text: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match std::str::from_utf8(text) {
        Ok(text) => Ok(PyString::new(py, text).into_any()),
        Err(_) => PyBytes::new(py, text).call_method1("decode", ("utf-8", "surrogateescape")),
    }
}

pub fn choices<'py>(py: Python<'py>, choices: &Choices) -> PyResult<Bound<'py, PyTuple>> {
    let labels = choices
        .iter()
        .map(|label| text(py, label))
        .collect::<PyResult<Vec<_>>>()?;
    PyTuple::new(py, labels)
}

pub fn to_python(py: Python<'_>, value: Value) -> PyResult<Py<PyAny>> {
    Ok(match value {
        Value::Bool(x) => PyBool::new(py, x).to_owned().into_any().unbind(),
        Value::Int(x) => x.into_pyobject(py)?.into_any().unbind(),
        Value::UInt(x) => x.into_pyobject(py)?.into_any().unbind(),
        Value::Float(x) => PyFloat::new(py, x).into_any().unbind(),
        Value::Text(x) => text(py, &x)?.unbind(),
        Value::Array(array) => elements(py, array)?,
        Value::Enum { index, choices } => {
            static ENUM_VALUE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
            let label = choices.as_ref().and_then(|c| c.get(usize::try_from(index).ok()?));
            let label = label.map(|label| text(py, label)).transpose()?;
            class(py, &ENUM_VALUE, "epicsrs_native.values", "EnumValue")?
                .call1((index, label))?
                .unbind()
        }
        Value::Structure { id, fields } => {
            static STRUCTURE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
            class(py, &STRUCTURE, "epicsrs_native.values", "Structure")?
                .call1((dict(py, fields)?, id))?
                .unbind()
        }
        Value::Table { id, fields, labels } => {
            static TABLE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
            let labels = choices(py, &labels.into())?;
            class(py, &TABLE, "epicsrs_native.values", "Table")?
                .call1((dict(py, fields)?, id, labels))?
                .unbind()
        }
        Value::Image { array, shape } => {
            let flat = elements(py, array)?;
            flat.call_method1(py, "reshape", (PyTuple::new(py, shape)?,))?
        }
        Value::List(values) => {
            let values = values
                .into_iter()
                .map(|value| to_python(py, value))
                .collect::<PyResult<Vec<_>>>()?;
            PyList::new(py, values)?.into_any().unbind()
        }
        Value::Nothing => py.None(),
    })
}

fn dict(py: Python<'_>, fields: Vec<(String, Value)>) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in fields {
        dict.set_item(name, to_python(py, value)?)?;
    }
    Ok(dict)
}

fn elements(py: Python<'_>, array: Array) -> PyResult<Py<PyAny>> {
    match array {
        Array::Bool(a) => lend(py, a),
        Array::I8(a) => lend(py, a),
        Array::U8(a) => lend(py, a),
        Array::I16(a) => lend(py, a),
        Array::U16(a) => lend(py, a),
        Array::I32(a) => lend(py, a),
        Array::U32(a) => lend(py, a),
        Array::I64(a) => lend(py, a),
        Array::U64(a) => lend(py, a),
        Array::F32(a) => lend(py, a),
        Array::F64(a) => lend(py, a),
        Array::Text(a) => {
            let texts = a.iter().map(|t| text(py, t)).collect::<PyResult<Vec<_>>>()?;
            Ok(PyList::new(py, texts)?.into_any().unbind())
        }
    }
}
