//! Values, alarms, times and metadata as both protocols mean them: plain data, no Python, no wire.

use std::sync::Arc;
use std::time::Instant;

use crate::array::Array;
use crate::error::Error;

/// Text as it came off the wire; usually UTF-8, never checked to be.
pub type Text = Vec<u8>;

/// An enum's labels, in the order of its indices.
pub type Choices = Arc<[Text]>;

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
    /// An array of characters is the text in it.
    pub string: bool,
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
    pub fn same(&self, other: &Self) -> bool {
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

impl Value {
    /// The first `count` elements of an array; a scalar as it is.
    pub fn first(self, count: usize) -> Self {
        match self {
            Self::Array(array) => Self::Array(array.first(count)),
            other => other,
        }
    }

    /// The element of an array of one, for a scalar; anything else as it is.
    pub fn single(self) -> Self {
        match self {
            Self::Array(array) if array.len() == 1 => array.into_values().pop().unwrap_or(Self::Nothing),
            other => other,
        }
    }

    /// The text in an array of characters, up to the first NUL (a long string); text as it is.
    pub fn into_string(self) -> Result<Self, Error> {
        let bytes: Text = match &self {
            Self::Text(_) => return Ok(self),
            Self::Array(Array::U8(a)) => (**a).as_ref().to_vec(),
            Self::Array(Array::I8(a)) => (**a).as_ref().iter().map(|c| c.cast_unsigned()).collect(),
            other => {
                return Err(Error::wrong_type(format!(
                    "its value is {}, and string=True reads text and arrays of characters only",
                    other.kind()
                )));
            }
        };
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Ok(Self::Text(bytes.get(..end).unwrap_or_default().to_vec()))
    }

    /// What it is, for an error.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a bool",
            Self::Int(_) | Self::UInt(_) => "an int",
            Self::Float(_) => "a float",
            Self::Text(_) => "text",
            Self::Array(_) => "an array",
            Self::Enum { .. } => "an enum (its label is text)",
            Self::Structure { .. } => "a structure",
            Self::Table { .. } => "a table",
            Self::Image { .. } => "an image",
            Self::List(_) => "a list of several kinds of things",
            Self::Nothing => "nothing",
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
            Self::Array(array) => array.size(),
            Self::Image { array, .. } => array.size(),
            Self::Structure { fields, .. } | Self::Table { fields, .. } => fields
                .iter()
                .map(|(name, value)| size_of::<(String, Value)>() + name.len() + value.heap_bytes())
                .sum(),
            Self::List(values) => values.iter().map(|value| size_of::<Value>() + value.heap_bytes()).sum(),
            _ => 0,
        }
    }
}
