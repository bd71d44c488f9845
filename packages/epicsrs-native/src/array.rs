//! Elements of one type, shared without copies.

use std::sync::Arc;

use crate::value::{Text, Value};

/// Elements decoded once and shared from then on: numpy borrows them.
pub type Elements<T> = Arc<dyn AsRef<[T]> + Send + Sync>;

#[derive(Clone)]
pub enum Array {
    Bool(Elements<bool>),
    I8(Elements<i8>),
    U8(Elements<u8>),
    I16(Elements<i16>),
    U16(Elements<u16>),
    I32(Elements<i32>),
    U32(Elements<u32>),
    I64(Elements<i64>),
    U64(Elements<u64>),
    F32(Elements<f32>),
    F64(Elements<f64>),
    Text(Vec<Text>),
}

fn bytes<T>(elements: &Elements<T>) -> usize {
    size_of_val((**elements).as_ref())
}

impl Array {
    pub fn len(&self) -> usize {
        match self {
            Self::Bool(a) => (**a).as_ref().len(),
            Self::I8(a) => (**a).as_ref().len(),
            Self::U8(a) => (**a).as_ref().len(),
            Self::I16(a) => (**a).as_ref().len(),
            Self::U16(a) => (**a).as_ref().len(),
            Self::I32(a) => (**a).as_ref().len(),
            Self::U32(a) => (**a).as_ref().len(),
            Self::I64(a) => (**a).as_ref().len(),
            Self::U64(a) => (**a).as_ref().len(),
            Self::F32(a) => (**a).as_ref().len(),
            Self::F64(a) => (**a).as_ref().len(),
            Self::Text(a) => a.len(),
        }
    }

    /// How many bytes its elements take.
    pub fn size(&self) -> usize {
        match self {
            Self::Bool(a) => bytes(a),
            Self::I8(a) => bytes(a),
            Self::U8(a) => bytes(a),
            Self::I16(a) => bytes(a),
            Self::U16(a) => bytes(a),
            Self::I32(a) => bytes(a),
            Self::U32(a) => bytes(a),
            Self::I64(a) => bytes(a),
            Self::U64(a) => bytes(a),
            Self::F32(a) => bytes(a),
            Self::F64(a) => bytes(a),
            Self::Text(a) => a.iter().map(|text| text.len() + size_of::<Text>()).sum(),
        }
    }
}

/// Elements of which only the first are shown.
struct First<T: 'static>(Elements<T>, usize);

impl<T: 'static> AsRef<[T]> for First<T> {
    fn as_ref(&self) -> &[T] {
        let all = (*self.0).as_ref();
        all.get(..self.1).unwrap_or(all)
    }
}

fn cut<T: Send + Sync + 'static>(elements: Elements<T>, count: usize) -> Elements<T> {
    Arc::new(First(elements, count))
}

fn ends_in_zero<T: Default + PartialEq>(elements: &Elements<T>) -> bool {
    (**elements).as_ref().last().is_some_and(|last| *last == T::default())
}

impl Array {
    /// The first `count` of them.
    pub fn first(self, count: usize) -> Self {
        match self {
            Self::Bool(a) => Self::Bool(cut(a, count)),
            Self::I8(a) => Self::I8(cut(a, count)),
            Self::U8(a) => Self::U8(cut(a, count)),
            Self::I16(a) => Self::I16(cut(a, count)),
            Self::U16(a) => Self::U16(cut(a, count)),
            Self::I32(a) => Self::I32(cut(a, count)),
            Self::U32(a) => Self::U32(cut(a, count)),
            Self::I64(a) => Self::I64(cut(a, count)),
            Self::U64(a) => Self::U64(cut(a, count)),
            Self::F32(a) => Self::F32(cut(a, count)),
            Self::F64(a) => Self::F64(cut(a, count)),
            Self::Text(mut a) => {
                a.truncate(count);
                Self::Text(a)
            }
        }
    }

    /// Each element as a value of its own.
    pub fn into_values(self) -> Vec<Value> {
        fn each<T: Copy>(elements: &Elements<T>, value: impl Fn(T) -> Value) -> Vec<Value> {
            (**elements).as_ref().iter().map(|element| value(*element)).collect()
        }
        match self {
            Self::Bool(a) => each(&a, Value::Bool),
            Self::I8(a) => each(&a, |x| Value::Int(i64::from(x))),
            Self::U8(a) => each(&a, |x| Value::Int(i64::from(x))),
            Self::I16(a) => each(&a, |x| Value::Int(i64::from(x))),
            Self::U16(a) => each(&a, |x| Value::Int(i64::from(x))),
            Self::I32(a) => each(&a, |x| Value::Int(i64::from(x))),
            Self::U32(a) => each(&a, |x| Value::Int(i64::from(x))),
            Self::I64(a) => each(&a, Value::Int),
            Self::U64(a) => each(&a, Value::UInt),
            Self::F32(a) => each(&a, |x| Value::Float(f64::from(x))),
            Self::F64(a) => each(&a, Value::Float),
            Self::Text(a) => a.into_iter().map(Value::Text).collect(),
        }
    }

    /// Whether the last element is zero or an empty text.
    pub fn ends_in_zero(&self) -> bool {
        match self {
            Self::Bool(a) => ends_in_zero(a),
            Self::I8(a) => ends_in_zero(a),
            Self::U8(a) => ends_in_zero(a),
            Self::I16(a) => ends_in_zero(a),
            Self::U16(a) => ends_in_zero(a),
            Self::I32(a) => ends_in_zero(a),
            Self::U32(a) => ends_in_zero(a),
            Self::I64(a) => ends_in_zero(a),
            Self::U64(a) => ends_in_zero(a),
            Self::F32(a) => ends_in_zero(a),
            Self::F64(a) => ends_in_zero(a),
            Self::Text(a) => a.last().is_some_and(Vec::is_empty),
        }
    }
}
