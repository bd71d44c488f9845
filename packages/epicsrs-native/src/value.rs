//! Values, alarms, times and metadata as both protocols mean them: plain data, no Python, no wire.

use std::sync::Arc;
use std::time::Instant;

/// Text as it came off the wire; usually UTF-8, never checked to be.
pub type Text = Vec<u8>;

/// An enum's labels, in the order of its indices.
pub type Choices = Arc<[Text]>;

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

#[derive(Clone)]
pub enum Value {
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float(f64),
    Text(Text),
    Array(Array),
    Enum {
        index: i64,
        choices: Option<Choices>,
    },
    /// A pvAccess structure that is no scalar, array or enum: its fields in order.
    Structure {
        id: String,
        fields: Vec<(String, Value)>,
    },
    /// An NTTable: its columns in order, each with a label.
    Table {
        id: String,
        fields: Vec<(String, Value)>,
        labels: Vec<Text>,
    },
    /// An array of several dimensions, the fastest-varying one last.
    Image {
        array: Array,
        shape: Vec<usize>,
    },
    /// Elements that are structures, unions or variants themselves.
    List(Vec<Value>),
    /// A null union or variant.
    Nothing,
}

/// How much a get fetches; each fetches what those before it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    Value,
    Time,
    Ctrl,
}

/// What a get asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    pub form: Form,
    /// At most so many elements of an array.
    pub count: Option<u32>,
    /// The last update of a running monitor will do.
    pub cached: bool,
    /// pvAccess: a pvRequest in place of the one that `form` means.
    pub request: Option<Arc<str>>,
}

/// 0 none, 1 minor, 2 major, 3 invalid, 4 undefined (PVA only). `status` is numbered per protocol.
#[derive(Clone, Debug)]
pub struct Alarm {
    pub severity: i32,
    pub status: i32,
    /// PVA only.
    pub message: Option<Text>,
}

/// Low and high.
pub type Pair = Option<(f64, f64)>;

#[derive(Clone, Debug, Default)]
pub struct Limits {
    pub display: Pair,
    pub control: Pair,
    pub warning: Pair,
    pub alarm: Pair,
}

#[derive(Clone, Debug, Default)]
pub struct Metadata {
    pub units: Option<Text>,
    pub precision: Option<i32>,
    pub choices: Option<Choices>,
    pub limits: Option<Limits>,
    pub description: Option<Text>,
}

fn bits(pair: Pair) -> Option<(u64, u64)> {
    pair.map(|(low, high)| (low.to_bits(), high.to_bits()))
}

impl Limits {
    fn same(&self, other: &Self) -> bool {
        [
            (self.display, other.display),
            (self.control, other.control),
            (self.warning, other.warning),
            (self.alarm, other.alarm),
        ]
        .iter()
        .all(|(one, two)| bits(*one) == bits(*two))
    }
}

impl Metadata {
    /// Whether they say the same; NaN is the same as NaN.
    pub fn same(&self, other: &Self) -> bool {
        let limits = match (&self.limits, &other.limits) {
            (Some(one), Some(two)) => one.same(two),
            (one, two) => one.is_none() && two.is_none(),
        };
        limits
            && self.units == other.units
            && self.precision == other.precision
            && self.choices == other.choices
            && self.description == other.description
    }
}

#[derive(Clone)]
pub struct Reading {
    pub value: Value,
    pub alarm: Option<Alarm>,
    /// Nanoseconds since the UNIX epoch, the IOC's clock.
    pub timestamp: Option<i64>,
    pub metadata: Option<Arc<Metadata>>,
    /// pvAccess: what the structure has beside all this, where its value stands for itself.
    pub fields: Option<Box<Value>>,
    /// When a subscription brought it; None for the answer to a get.
    pub received: Option<Instant>,
}

impl Reading {
    pub fn bare(value: Value) -> Self {
        Self {
            value,
            alarm: None,
            timestamp: None,
            metadata: None,
            fields: None,
            received: None,
        }
    }

    /// What the reading holds in memory beyond its own size.
    pub fn heap_bytes(&self) -> usize {
        self.value.heap_bytes()
    }
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

    fn heap_bytes(&self) -> usize {
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
    fn first(self, count: usize) -> Self {
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

impl Value {
    /// The first `count` elements of an array; a scalar as it is.
    pub fn first(self, count: usize) -> Self {
        match self {
            Self::Array(array) => Self::Array(array.first(count)),
            other => other,
        }
    }

    /// An enum with these labels; anything else as it is.
    pub fn relabelled(self, known: Option<&Choices>) -> Self {
        match self {
            Self::Enum { index, .. } if known.is_some() => Self::Enum {
                index,
                choices: known.cloned(),
            },
            other => other,
        }
    }

    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Array(array) => array.heap_bytes(),
            Self::Image { array, .. } => array.heap_bytes(),
            Self::Structure { fields, .. } | Self::Table { fields, .. } => fields
                .iter()
                .map(|(name, value)| size_of::<(String, Value)>() + name.len() + value.heap_bytes())
                .sum(),
            Self::List(values) => values.iter().map(|value| size_of::<Value>() + value.heap_bytes()).sum(),
            _ => 0,
        }
    }
}
