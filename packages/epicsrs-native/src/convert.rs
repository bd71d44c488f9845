//! Values and errors between Rust and Python.

use numpy::{PyArray1, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType};

use crate::error::{Error, Kind};
use crate::exact;
use crate::lend::lend;
use crate::value::{Array, Choices, Text, Value};

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

/// What a caller gave to a put, as it is; whether it fits is the link's to say.
pub fn from_python(pv: &str, given: &Bound<'_, PyAny>) -> PyResult<Value> {
    if let Ok(x) = given.cast::<PyBool>() {
        return Ok(Value::Bool(x.is_true()));
    }
    if given.is_instance_of::<PyInt>() {
        return whole(pv, given);
    }
    if let Ok(x) = given.cast::<PyFloat>() {
        return Ok(Value::Float(x.value()));
    }
    if let Ok(x) = given.cast::<PyString>() {
        return Ok(Value::Text(bytes_of(pv, x)?));
    }
    if let Ok(x) = given.cast::<PyBytes>() {
        return Ok(Value::Array(Array::U8(exact::elements(x.as_bytes().to_vec()))));
    }
    if let Ok(x) = given.cast::<PyByteArray>() {
        return Ok(Value::Array(Array::U8(exact::elements(x.to_vec()))));
    }
    if given.is_instance_of::<PyList>() || given.is_instance_of::<PyTuple>() {
        return sequence(pv, given);
    }
    if let Ok(given) = given.cast::<PyDict>() {
        return structure(pv, given);
    }
    if given.hasattr("dtype")? && given.hasattr("tolist")? {
        return numpy(pv, given);
    }
    Err(refused(pv, given, "is nothing that EPICS can hold"))
}

/// Fields by name, of a structure or of a table's columns.
fn structure(pv: &str, given: &Bound<'_, PyDict>) -> PyResult<Value> {
    let fields = given.iter().map(|(name, value)| match name.cast::<PyString>() {
        Ok(name) => Ok((name.to_str()?.to_owned(), from_python(pv, &value)?)),
        Err(_) => Err(refused(pv, &name, "is no field's name")),
    });
    Ok(Value::Structure {
        id: String::new(),
        fields: fields.collect::<PyResult<_>>()?,
    })
}

fn refused(pv: &str, given: &Bound<'_, PyAny>, why: &str) -> PyErr {
    let shown = given
        .repr()
        .map_or_else(|_| "a value".to_owned(), |r| shorten(&r.to_string()));
    PyTypeError::new_err(format!("{pv}: {shown} of type {} {why}", type_of(given)))
}

fn type_of(given: &Bound<'_, PyAny>) -> String {
    given
        .get_type()
        .name()
        .map_or_else(|_| "unknown".to_owned(), |name| name.to_string())
}

/// Enough of a repr to know the value by.
fn shorten(shown: &str) -> String {
    const MOST: usize = 80;
    if shown.chars().count() <= MOST {
        return shown.to_owned();
    }
    shown.chars().take(MOST).chain("…".chars()).collect()
}

fn whole(pv: &str, given: &Bound<'_, PyAny>) -> PyResult<Value> {
    if let Ok(x) = given.extract::<i64>() {
        return Ok(Value::Int(x));
    }
    match given.extract::<u64>() {
        Ok(x) => Ok(Value::UInt(x)),
        Err(_) => Err(PyValueError::new_err(format!(
            "{pv}: {} is larger than any EPICS integer",
            given
                .repr()
                .map_or_else(|_| "an int".to_owned(), |r| shorten(&r.to_string()))
        ))),
    }
}

fn bytes_of(pv: &str, given: &Bound<'_, PyString>) -> PyResult<Text> {
    if let Ok(text) = given.to_str() {
        return Ok(text.as_bytes().to_vec());
    }
    match given.call_method1("encode", ("utf-8", "surrogateescape")) {
        Ok(bytes) => Ok(bytes.cast::<PyBytes>()?.as_bytes().to_vec()),
        Err(_) => Err(PyValueError::new_err(format!(
            "{pv}: {} is no text that can be sent",
            given.repr()?
        ))),
    }
}

fn sequence(pv: &str, given: &Bound<'_, PyAny>) -> PyResult<Value> {
    let items = given.try_iter()?.collect::<PyResult<Vec<_>>>()?;
    if items.is_empty() {
        return Ok(Value::Array(Array::Text(Vec::new())));
    }
    if items.iter().all(|item| item.is_instance_of::<PyString>()) {
        let texts = items
            .iter()
            .map(|item| bytes_of(pv, item.cast::<PyString>()?))
            .collect::<PyResult<Vec<_>>>()?;
        return Ok(Value::Array(Array::Text(texts)));
    }
    if items.iter().any(|item| item.is_instance_of::<PyString>()) {
        return Err(refused(pv, given, "mixes strings and numbers"));
    }
    if items
        .iter()
        .all(|item| item.is_instance_of::<PyInt>() && !item.is_instance_of::<PyBool>())
    {
        return integers(pv, &items);
    }
    numpy(pv, &given.py().import("numpy")?.call_method1("asarray", (given,))?)
}

/// Not through numpy, which makes floats of integers that share no type.
fn integers(pv: &str, items: &[Bound<'_, PyAny>]) -> PyResult<Value> {
    if let Ok(signed) = items.iter().map(|item| item.extract()).collect::<PyResult<Vec<i64>>>() {
        return Ok(Value::Array(Array::I64(exact::elements(signed))));
    }
    match items.iter().map(|item| item.extract()).collect::<PyResult<Vec<u64>>>() {
        Ok(unsigned) => Ok(Value::Array(Array::U64(exact::elements(unsigned)))),
        Err(_) => Err(PyValueError::new_err(format!(
            "{pv}: a list of integers that no EPICS type holds together"
        ))),
    }
}

/// A numpy scalar or array.
fn numpy(pv: &str, given: &Bound<'_, PyAny>) -> PyResult<Value> {
    let dimensions: usize = given.getattr("ndim")?.extract()?;
    if dimensions == 0 {
        return match given.call_method0("item")? {
            item if item.hasattr("dtype")? => Err(refused(pv, given, "is nothing that EPICS can hold")),
            item => from_python(pv, &item),
        };
    }
    if dimensions > 1 {
        return Err(PyValueError::new_err(format!(
            "{pv}: an array of {dimensions} dimensions, EPICS arrays have one"
        )));
    }
    macro_rules! typed {
        ($($type:ty => $array:ident),*) => {$(
            if let Ok(array) = given.cast::<PyArray1<$type>>() {
                let array: PyReadonlyArray1<'_, $type> = array.readonly();
                return Ok(Value::Array(Array::$array(exact::elements(array.as_array().to_vec()))));
            }
        )*};
    }
    typed!(f64 => F64, f32 => F32, i32 => I32, u32 => U32, i64 => I64, u64 => U64, i16 => I16, u16 => U16, i8 => I8,
        u8 => U8, bool => Bool);
    let dtype = given.getattr("dtype")?;
    match dtype.getattr("kind")?.extract::<char>()? {
        'U' => sequence(pv, &given.call_method0("tolist")?),
        // Another byte order, or half precision, which a float holds exactly.
        'f' if dtype.getattr("itemsize")?.extract::<usize>()? == 2 => {
            numpy(pv, &given.call_method1("astype", ("float32",))?)
        }
        'f' | 'i' | 'u' if !dtype.getattr("isnative")?.extract::<bool>()? => numpy(
            pv,
            &given.call_method1("astype", (dtype.call_method1("newbyteorder", ("=",))?,))?,
        ),
        _ => Err(PyTypeError::new_err(format!(
            "{pv}: an array of {dtype}, which EPICS cannot hold"
        ))),
    }
}
