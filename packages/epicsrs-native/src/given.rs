//! What Python gave to a put, as it is; whether it fits is the link's to say.

use numpy::{PyArray1, PyArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use crate::array::{Array, Elements};
use crate::exact::{self, Fit, Number};
use crate::value::{Text, Value};

/// No structure of EPICS is nested as deeply; what contains itself is.
const DEEPEST: usize = 32;

pub fn from_python(pv: &str, given: &Bound<'_, PyAny>) -> PyResult<Value> {
    if given.is_none() {
        return Err(refused(pv, given, "is nothing that EPICS can hold"));
    }
    read(pv, given, 0)
}

fn read(pv: &str, given: &Bound<'_, PyAny>, depth: usize) -> PyResult<Value> {
    if depth > DEEPEST {
        return Err(PyValueError::new_err(format!(
            "{pv}: a value nested more than {DEEPEST} levels deep"
        )));
    }
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
        let items = given.try_iter()?.map(|item| read(pv, &item?, depth + 1));
        return together(pv, items.collect::<PyResult<_>>()?);
    }
    if let Ok(given) = given.cast::<PyDict>() {
        return structure(pv, given, depth);
    }
    if given.is_none() {
        return Ok(Value::Nothing);
    }
    if given.hasattr("dtype")? && given.hasattr("tolist")? {
        return numpy(pv, given, depth);
    }
    Err(refused(pv, given, "is nothing that EPICS can hold"))
}

/// Fields by name, of a structure or of a table's columns.
fn structure(pv: &str, given: &Bound<'_, PyDict>, depth: usize) -> PyResult<Value> {
    // A copy: what its elements run, or another thread, may change it meanwhile.
    let given = given.copy()?;
    let fields = given.iter().map(|(name, value)| match name.cast::<PyString>() {
        Ok(name) => Ok((name.to_str()?.to_owned(), read(pv, &value, depth + 1)?)),
        Err(_) => Err(refused(pv, &name, "is no field's name")),
    });
    Ok(Value::Structure {
        id: String::new(),
        fields: fields.collect::<PyResult<_>>()?,
    })
}

/// The elements of a list: an array where one type holds them all exactly, else a list of several kinds of things.
fn together(pv: &str, values: Vec<Value>) -> PyResult<Value> {
    if values.iter().all(|value| matches!(value, Value::Text(_))) {
        let texts = values.into_iter().filter_map(|value| match value {
            Value::Text(text) => Some(text),
            _ => None,
        });
        return Ok(Value::Array(Array::Text(texts.collect())));
    }
    let plain = |value: &Value| matches!(value, Value::Bool(_) | Value::Int(_) | Value::UInt(_) | Value::Float(_));
    if !values.iter().all(plain) {
        return Ok(Value::List(values));
    }
    let booleans = values.iter().all(|value| matches!(value, Value::Bool(_)));
    let numbers: Vec<Number> = values.iter().filter_map(|value| exact::number(value).ok()).collect();
    let floats = numbers.iter().any(|number| matches!(number, Number::Float(_)));
    let array = if booleans {
        fitted(&numbers).map(Array::Bool)
    } else if floats {
        fitted(&numbers).map(Array::F64)
    } else {
        fitted(&numbers)
            .map(Array::I64)
            .or_else(|| fitted(&numbers).map(Array::U64))
    };
    array.map(Value::Array).ok_or_else(|| {
        let shown: Vec<String> = numbers.iter().map(|number| number.show()).collect();
        PyValueError::new_err(format!(
            "{pv}: no EPICS type holds all of [{}] exactly",
            shorten(&shown.join(", "))
        ))
    })
}

fn fitted<T: Fit>(numbers: &[Number]) -> Option<Elements<T>> {
    let fitted = numbers.iter().map(|number| T::fit(*number));
    fitted.collect::<Option<Vec<T>>>().map(exact::elements)
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

/// A numpy scalar or array.
fn numpy(pv: &str, given: &Bound<'_, PyAny>, depth: usize) -> PyResult<Value> {
    let dtype = given.getattr("dtype")?;
    let kind: char = dtype.getattr("kind")?.extract()?;
    if matches!(kind, 'M' | 'm') {
        return Err(refused(pv, given, "is nothing that EPICS can hold"));
    }
    if given.hasattr("mask")? && given.getattr("mask")?.call_method0("any")?.is_truthy()? {
        return Err(PyValueError::new_err(format!("{pv}: a masked element is no value")));
    }
    let shape: Vec<usize> = given.getattr("shape")?.extract()?;
    match shape.len() {
        0 => {
            return match given.call_method0("item")? {
                item if item.hasattr("dtype")? => Err(refused(pv, given, "is nothing that EPICS can hold")),
                item => read(pv, &item, depth + 1),
            };
        }
        1 => {}
        _ => {
            return match numpy(pv, &given.call_method0("ravel")?, depth + 1)? {
                Value::Array(array) => Ok(Value::Image { array, shape }),
                other => Ok(other),
            };
        }
    }
    let flags = given.getattr("flags")?;
    if !flags.getattr("c_contiguous")?.is_truthy()? || !flags.getattr("aligned")?.is_truthy()? {
        return numpy(pv, &given.call_method0("copy")?, depth + 1);
    }
    macro_rules! typed {
        ($($type:ty => $array:ident),*) => {$(
            if let Ok(array) = given.cast::<PyArray1<$type>>() {
                let elements = array.readonly().as_slice()?.to_vec();
                return Ok(Value::Array(Array::$array(exact::elements(elements))));
            }
        )*};
    }
    typed!(f64 => F64, f32 => F32, i32 => I32, u32 => U32, i64 => I64, u64 => U64, i16 => I16, u16 => U16, i8 => I8,
        u8 => U8, bool => Bool);
    match kind {
        'U' => read(pv, &given.call_method0("tolist")?, depth + 1),
        // Another byte order, or half precision, which a float holds exactly.
        'f' if dtype.getattr("itemsize")?.extract::<usize>()? == 2 => {
            numpy(pv, &given.call_method1("astype", ("float32",))?, depth + 1)
        }
        'f' | 'i' | 'u' if !dtype.getattr("isnative")?.extract::<bool>()? => numpy(
            pv,
            &given.call_method1("astype", (dtype.call_method1("newbyteorder", ("=",))?,))?,
            depth + 1,
        ),
        _ => Err(PyTypeError::new_err(format!(
            "{pv}: an array of {dtype}, which EPICS cannot hold"
        ))),
    }
}
