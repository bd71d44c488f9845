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

/// The same for elements of every type but text, which is not shared.
macro_rules! of_each {
    ($array:expr, $a:ident => $elements:expr, $texts:expr) => {
        match $array {
            Array::Bool($a) => $elements,
            Array::I8($a) => $elements,
            Array::U8($a) => $elements,
            Array::I16($a) => $elements,
            Array::U16($a) => $elements,
            Array::I32($a) => $elements,
            Array::U32($a) => $elements,
            Array::I64($a) => $elements,
            Array::U64($a) => $elements,
            Array::F32($a) => $elements,
            Array::F64($a) => $elements,
            Array::Text($a) => $texts,
        }
    };
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
    pub fn len(&self) -> usize {
        of_each!(self, a => (**a).as_ref().len(), a.len())
    }

    /// How many bytes its elements take.
    pub fn size(&self) -> usize {
        of_each!(self, a => size_of_val((**a).as_ref()), a.iter().map(|text| text.len() + size_of::<Text>()).sum())
    }

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
        of_each!(self, a => ends_in_zero(a), a.last().is_some_and(Vec::is_empty))
    }
}
