//! Putting a value into a server's type: exactly, or not at all.

use std::any::Any;
use std::sync::Arc;

use crate::array::{Array, Elements};
use crate::error::Error;
use crate::value::{Text, Value};

/// Any number that a caller or a server can have, without loss.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    pub fn show(self) -> String {
        match self {
            Self::Int(i) => i.to_string(),
            // As Python writes them.
            Self::Float(f) if f.is_nan() => "nan".to_owned(),
            Self::Float(f) => format!("{f:?}"),
        }
    }
}

/// A wire type that a number may fit.
pub trait Fit: Copy + Send + Sync + 'static {
    const NAME: &'static str;
    fn fit(number: Number) -> Option<Self>;
}

macro_rules! integers {
    ($($type:ty = $name:literal),*) => {$(
        impl Fit for $type {
            const NAME: &'static str = $name;
            fn fit(number: Number) -> Option<Self> {
                match number {
                    Number::Int(i) => i.try_into().ok(),
                    Number::Float(f) if f.fract() == 0.0 => (f as i128).try_into().ok(),
                    Number::Float(_) => None,
                }
            }
        }
    )*};
}
integers!(
    i8 = "int8",
    u8 = "uint8",
    i16 = "int16",
    u16 = "uint16",
    i32 = "int32",
    u32 = "uint32",
    i64 = "int64",
    u64 = "uint64"
);

impl Fit for f64 {
    const NAME: &'static str = "float64";
    fn fit(number: Number) -> Option<Self> {
        match number {
            Number::Float(f) => Some(f),
            Number::Int(i) => (i as f64 as i128 == i).then_some(i as f64),
        }
    }
}

impl Fit for f32 {
    const NAME: &'static str = "float32";
    /// A float is rounded to the nearest, as every IOC does; only what would become infinite does not fit.
    fn fit(number: Number) -> Option<Self> {
        let wide = f64::fit(number)?;
        let narrow = wide as f32;
        if let Number::Int(i) = number {
            return (narrow as i128 == i).then_some(narrow);
        }
        (narrow.is_finite() || !wide.is_finite()).then_some(narrow)
    }
}

impl Fit for bool {
    const NAME: &'static str = "bool";
    fn fit(number: Number) -> Option<Self> {
        match u8::fit(number)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

fn misfit<T: Fit>(number: Number) -> Error {
    Error::value(format!("{} does not fit the server's {}", number.show(), T::NAME))
}

/// The value as one number.
pub fn number(value: &Value) -> Result<Number, Error> {
    match value {
        Value::Bool(b) => Ok(Number::Int(i128::from(*b))),
        Value::Int(i) => Ok(Number::Int(i128::from(*i))),
        Value::UInt(u) => Ok(Number::Int(i128::from(*u))),
        Value::Float(f) => Ok(Number::Float(*f)),
        Value::Enum { index, .. } => Ok(Number::Int(i128::from(*index))),
        Value::Text(text) => Err(Error::wrong_type(format!(
            "{:?} is text, the PV is a number",
            String::from_utf8_lossy(text)
        ))),
        other => Err(misplaced(other, "a number")),
    }
}

fn misplaced(value: &Value, pv: &str) -> Error {
    match value {
        Value::Array(array) => Error::wrong_type(format!("an array of {} elements, the PV is a scalar", array.len())),
        Value::Image { shape, .. } => Error::value(format!(
            "an array of {} dimensions, the PV's arrays have one",
            shape.len()
        )),
        other => Error::wrong_type(format!("{}, the PV is {pv}", other.kind())),
    }
}

/// The value as one scalar of the server's type.
pub fn scalar<T: Fit>(value: &Value) -> Result<T, Error> {
    let number = number(value)?;
    T::fit(number).ok_or_else(|| misfit::<T>(number))
}

/// The value as text for the server.
pub fn text(value: Value) -> Result<Text, Error> {
    match value {
        // EPICS ends every string at its first NUL.
        Value::Text(text) if text.contains(&0) => Err(Error::value(format!(
            "{:?} has a NUL within",
            String::from_utf8_lossy(&text)
        ))),
        Value::Text(text) => Ok(text),
        other => match number(&other) {
            Ok(number) => Err(Error::wrong_type(format!(
                "{} is a number, the PV is a string",
                number.show()
            ))),
            Err(_) => Err(misplaced(&other, "a string")),
        },
    }
}

pub fn elements<T: Send + Sync + 'static>(values: Vec<T>) -> Elements<T> {
    Arc::new(values)
}

/// The same elements where they are of the type already.
fn each<S: Copy + 'static, T: Fit>(source: &Elements<S>, number: impl Fn(S) -> Number) -> Result<Elements<T>, Error> {
    if let Some(same) = (source as &dyn Any).downcast_ref::<Elements<T>>() {
        return Ok(same.clone());
    }
    let source = (**source).as_ref();
    let mut fitting = Vec::with_capacity(source.len());
    for (i, s) in source.iter().enumerate() {
        let number = number(*s);
        fitting.push(T::fit(number).ok_or_else(|| {
            Error::value(format!(
                "element {i}, {}, does not fit the server's {}",
                number.show(),
                T::NAME
            ))
        })?);
    }
    Ok(elements(fitting))
}

/// The value as elements of the server's type; a scalar is an array of one.
pub fn array<T: Fit>(value: &Value) -> Result<Elements<T>, Error> {
    let Value::Array(array) = value else {
        return Ok(elements(vec![scalar(value)?]));
    };
    match array {
        Array::Bool(a) => each(a, |x| Number::Int(i128::from(x))),
        Array::I8(a) => each(a, |x| Number::Int(i128::from(x))),
        Array::U8(a) => each(a, |x| Number::Int(i128::from(x))),
        Array::I16(a) => each(a, |x| Number::Int(i128::from(x))),
        Array::U16(a) => each(a, |x| Number::Int(i128::from(x))),
        Array::I32(a) => each(a, |x| Number::Int(i128::from(x))),
        Array::U32(a) => each(a, |x| Number::Int(i128::from(x))),
        Array::I64(a) => each(a, |x| Number::Int(i128::from(x))),
        Array::U64(a) => each(a, |x| Number::Int(i128::from(x))),
        Array::F32(a) => each(a, |x| Number::Float(f64::from(x))),
        Array::F64(a) => each(a, Number::Float),
        Array::Text(a) if a.is_empty() => Ok(elements(Vec::new())),
        Array::Text(_) => Err(Error::wrong_type("an array of strings, the PV has numbers")),
    }
}

/// The value as strings for the server; one string is an array of one.
pub fn texts(value: Value) -> Result<Vec<Text>, Error> {
    match value {
        Value::Array(Array::Text(texts)) => texts.into_iter().map(|one| text(Value::Text(one))).collect(),
        Value::Array(array) if array.len() == 0 => Ok(Vec::new()),
        Value::Array(_) => Err(Error::wrong_type("an array of numbers, the PV has strings")),
        other => Ok(vec![text(other)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_fit_exactly_or_not() {
        assert_eq!(i16::fit(Number::Int(32767)), Some(32767));
        assert_eq!(i16::fit(Number::Int(32768)), None);
        assert_eq!(i32::fit(Number::Float(3.0)), Some(3));
        assert_eq!(i32::fit(Number::Float(3.7)), None);
        assert_eq!(i32::fit(Number::Float(f64::NAN)), None);
        assert_eq!(i32::fit(Number::Float(f64::INFINITY)), None);
        assert_eq!(u64::fit(Number::Int(i128::from(u64::MAX))), Some(u64::MAX));
        assert_eq!(u64::fit(Number::Float(1.0e19)), Some(10_000_000_000_000_000_000));
        assert_eq!(u64::fit(Number::Float(1.0e20)), None);
    }

    #[test]
    fn floats_refuse_what_they_would_change() {
        assert_eq!(f64::fit(Number::Int(1 << 53)), Some(9_007_199_254_740_992.0));
        assert_eq!(f64::fit(Number::Int((1 << 53) + 1)), None);
        assert_eq!(f32::fit(Number::Float(1e39)), None);
        assert!(f32::fit(Number::Float(f64::NAN)).is_some_and(f32::is_nan));
    }

    #[test]
    fn elements_of_the_type_are_not_copied() {
        let given = elements(vec![1.5, 2.5]);
        let start = (*given).as_ref().as_ptr();
        let taken = array::<f64>(&Value::Array(Array::F64(given))).unwrap();
        assert_eq!((*taken).as_ref().as_ptr(), start);
        let narrow = array::<f32>(&Value::Array(Array::F64(taken))).unwrap();
        assert_eq!((*narrow).as_ref(), [1.5_f32, 2.5]);
    }

    #[test]
    fn an_empty_array_is_an_array() {
        let none = Value::Array(Array::F64(elements(Vec::new())));
        assert!((*array::<i32>(&none).unwrap()).as_ref().is_empty());
    }
}
