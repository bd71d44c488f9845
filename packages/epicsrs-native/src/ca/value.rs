//! DBR <-> Value.

use std::sync::Arc;

use epics_base_rs::server::snapshot::Snapshot;
use epics_base_rs::types::{DbFieldType, EpicsValue, PvString, SharedArray};
use epics_ca_rs::protocol::PutBody;

use crate::array::{Array, Elements};
use crate::error::Error;
use crate::exact;
use crate::value::{Alarm, Choices, Limits, Metadata, Reading, Text, Value};

fn shared<T: Send + Sync + 'static>(array: SharedArray<T>) -> Elements<T> {
    struct Whole<T: Send + Sync + 'static>(SharedArray<T>);
    impl<T: Send + Sync + 'static> AsRef<[T]> for Whole<T> {
        fn as_ref(&self) -> &[T] {
            &self.0
        }
    }
    Arc::new(Whole(array))
}

fn text(string: PvString) -> Text {
    string.as_bytes().to_vec()
}

/// `array` says that the channel is an array: one element, or none, stays an array.
pub fn from_dbr(value: EpicsValue, array: bool, choices: Option<Choices>) -> Value {
    let elements = |array: Array| Value::Array(array);
    match value {
        EpicsValue::String(s) if array => elements(Array::Text(vec![text(s)])),
        EpicsValue::Short(x) if array => elements(Array::I16(exact::elements(vec![x]))),
        EpicsValue::Float(x) if array => elements(Array::F32(exact::elements(vec![x]))),
        EpicsValue::Enum(x) if array => elements(Array::U16(exact::elements(vec![x]))),
        EpicsValue::Char(x) | EpicsValue::UChar(x) if array => elements(Array::U8(exact::elements(vec![x]))),
        EpicsValue::Long(x) if array => elements(Array::I32(exact::elements(vec![x]))),
        EpicsValue::Double(x) if array => elements(Array::F64(exact::elements(vec![x]))),
        EpicsValue::String(s) => Value::Text(text(s)),
        // Nobody has written it yet: the server sends no element.
        EpicsValue::StringArray(a) if !array && a.is_empty() => Value::Text(Text::new()),
        EpicsValue::Short(x) => Value::Int(i64::from(x)),
        EpicsValue::Float(x) => Value::Float(f64::from(x)),
        EpicsValue::Enum(index) | EpicsValue::EnumWithChoices { index, .. } => Value::Enum {
            index: i64::from(index),
            choices,
        },
        EpicsValue::Char(x) | EpicsValue::UChar(x) => Value::Int(i64::from(x)),
        EpicsValue::Long(x) => Value::Int(i64::from(x)),
        EpicsValue::Double(x) => Value::Float(x),
        EpicsValue::Int64(x) => Value::Int(x),
        EpicsValue::UInt64(x) => Value::UInt(x),
        EpicsValue::UShort(x) => Value::Int(i64::from(x)),
        EpicsValue::ULong(x) => Value::Int(i64::from(x)),
        EpicsValue::ShortArray(a) => elements(Array::I16(shared(a))),
        EpicsValue::FloatArray(a) => elements(Array::F32(shared(a))),
        EpicsValue::EnumArray(a) => elements(Array::U16(shared(a))),
        EpicsValue::DoubleArray(a) => elements(Array::F64(shared(a))),
        EpicsValue::LongArray(a) => elements(Array::I32(shared(a))),
        EpicsValue::CharArray(a) | EpicsValue::UCharArray(a) => elements(Array::U8(shared(a))),
        EpicsValue::Int64Array(a) => elements(Array::I64(shared(a))),
        EpicsValue::UInt64Array(a) => elements(Array::U64(shared(a))),
        EpicsValue::UShortArray(a) => elements(Array::U16(shared(a))),
        EpicsValue::ULongArray(a) => elements(Array::U32(shared(a))),
        EpicsValue::StringArray(a) => elements(Array::Text(a.iter().map(|s| s.as_bytes().to_vec()).collect())),
    }
}

pub fn choices(snapshot: &Snapshot) -> Option<Choices> {
    snapshot
        .enums
        .as_ref()
        .map(|enums| enums.strings.iter().map(|s| s.as_bytes().to_vec()).collect())
}

/// DBR_CTRL's metadata; what the type does not carry is None (a string has nothing, an enum its choices only).
pub fn metadata(snapshot: &Snapshot, native: DbFieldType) -> Metadata {
    let number = !matches!(native, DbFieldType::String | DbFieldType::Enum);
    let display = snapshot.display.as_ref().filter(|_| number);
    let control = snapshot.control.as_ref().filter(|_| number);
    // The bytes of DBR_CTRL_CHAR have no sign (dbr_char_t, db_access.h), as those of its value; the crate gives them one.
    let limit = |limit: f64| {
        if native == DbFieldType::Char && limit < 0.0 {
            limit + 256.0
        } else {
            limit
        }
    };
    let pair = |low: f64, high: f64| Some((limit(low), limit(high)));
    Metadata {
        units: display.map(|d| d.units.as_bytes().to_vec()),
        precision: display
            .filter(|_| matches!(native, DbFieldType::Float | DbFieldType::Double))
            .map(|d| i32::from(d.precision)),
        choices: choices(snapshot).filter(|_| native == DbFieldType::Enum),
        limits: display.map(|d| Limits {
            display: pair(d.lower_disp_limit, d.upper_disp_limit),
            control: control.and_then(|c| pair(c.lower_ctrl_limit, c.upper_ctrl_limit)),
            warning: pair(d.lower_warning_limit, d.upper_warning_limit),
            alarm: pair(d.lower_alarm_limit, d.upper_alarm_limit),
        }),
        description: None,
    }
}

/// A DBR_TIME snapshot. The IOC's time as it is: a record never processed says 1990-01-01.
pub fn reading(snapshot: Snapshot, array: bool, choices: Option<Choices>) -> Reading {
    let nanoseconds =
        i128::from(snapshot.timestamp.unix_secs()) * 1_000_000_000 + i128::from(snapshot.timestamp.subsec_nanos());
    Reading {
        alarm: Some(Alarm {
            severity: i32::from(snapshot.alarm.severity),
            status: i32::from(snapshot.alarm.status),
            message: None,
        }),
        timestamp: i64::try_from(nanoseconds).ok(),
        value: from_dbr(snapshot.value, array, choices),
        metadata: None,
        fields: None,
        received: None,
    }
}

/// From 1970-01-01 to 1990-01-01, the epoch of the wire.
const EPOCH: i64 = 631_152_000;

/// The one number of a DBR_TIME reply (db_access.h), without the steps of what may be any reply; None for anything else.
pub fn time_scalar(dbr: u16, data: &[u8], choices: Option<Choices>) -> Option<Reading> {
    fn at<const N: usize>(data: &[u8], start: usize) -> Option<[u8; N]> {
        data.get(start..)?.first_chunk().copied()
    }
    let value = match dbr {
        15 => Value::Int(i16::from_be_bytes(at(data, 14)?).into()),
        16 => Value::Float(f32::from_be_bytes(at(data, 12)?).into()),
        17 => Value::Enum {
            index: u16::from_be_bytes(at(data, 14)?).into(),
            choices,
        },
        18 => Value::Int(u8::from_be_bytes(at(data, 15)?).into()),
        19 => Value::Int(i32::from_be_bytes(at(data, 12)?).into()),
        20 => Value::Float(f64::from_be_bytes(at(data, 16)?)),
        _ => return None,
    };
    let seconds = i64::from(u32::from_be_bytes(at(data, 4)?)) + EPOCH;
    let nanoseconds = i64::from(u32::from_be_bytes(at(data, 8)?));
    Some(Reading {
        alarm: Some(Alarm {
            severity: u16::from_be_bytes(at(data, 2)?).into(),
            status: u16::from_be_bytes(at(data, 0)?).into(),
            message: None,
        }),
        timestamp: Some(seconds * 1_000_000_000 + nanoseconds),
        ..Reading::bare(value)
    })
}

/// What a put sends of a type: a value, or elements that are laid out already.
pub enum Sent {
    Value(EpicsValue),
    Elements(u32, PutBody),
}

/// What a put sends: the DBR type and what is of it. Labels go as DBR_STRING, which the server looks up in its own
/// choices; `choices`, where known, only refuse a label that is none.
pub fn to_dbr(value: Value, native: DbFieldType, most: u32, choices: Option<&Choices>) -> Result<(u16, Sent), Error> {
    let count = match &value {
        Value::Array(array) => array.len(),
        _ => 1,
    };
    if count > most as usize {
        return Err(Error::value(format!("{count} elements, the PV holds {most}")));
    }
    if matches!(value, Value::Array(_)) && most == 1 && count != 1 {
        return Err(Error::value(format!("{count} elements, the PV is a scalar")));
    }
    let array = most > 1;
    let value = if array { value } else { value.single() };
    let dbr = native as u16;
    let single = match native {
        DbFieldType::Short if array => return Ok((dbr, laid_out(&exact::array(&value)?, i16::to_be_bytes))),
        DbFieldType::Long if array => return Ok((dbr, laid_out(&exact::array(&value)?, i32::to_be_bytes))),
        DbFieldType::Float if array => return Ok((dbr, laid_out(&exact::array(&value)?, f32::to_be_bytes))),
        DbFieldType::Double if array => return Ok((dbr, laid_out(&exact::array(&value)?, f64::to_be_bytes))),
        DbFieldType::Char if array => return Ok((dbr, laid_out(&characters(value, most)?, u8::to_be_bytes))),
        DbFieldType::Enum if array && matches!(value, Value::Array(_)) => {
            return Ok((dbr, laid_out(&exact::array(&value)?, u16::to_be_bytes)));
        }
        DbFieldType::Short => EpicsValue::Short(exact::scalar(&value)?),
        DbFieldType::Long => EpicsValue::Long(exact::scalar(&value)?),
        DbFieldType::Float => EpicsValue::Float(exact::scalar(&value)?),
        DbFieldType::Double => EpicsValue::Double(exact::scalar(&value)?),
        DbFieldType::Char => EpicsValue::Char(exact::scalar(&value)?),
        DbFieldType::String => strings(value, array)?,
        DbFieldType::Enum => match value {
            Value::Text(label) => {
                known_label(&label, choices)?;
                return Ok((DbFieldType::String as u16, Sent::Value(string(label)?)));
            }
            other => EpicsValue::Enum(exact::scalar(&other)?),
        },
        // Channel Access has the six types above on the wire, no other.
        other => return Err(Error::wrong_type(format!("the server's type {other:?} cannot be put"))),
    };
    Ok((dbr, Sent::Value(single)))
}

fn laid_out<T: Copy + 'static, const N: usize>(elements: &Elements<T>, wire: impl Fn(T) -> [u8; N]) -> Sent {
    let elements = (**elements).as_ref();
    // Not more than `most`.
    let count = u32::try_from(elements.len()).unwrap_or(u32::MAX);
    Sent::Elements(count, PutBody::of(elements, wire))
}

fn known_label(label: &Text, choices: Option<&Choices>) -> Result<(), Error> {
    match choices {
        // A state without a label has no name to be put by.
        Some(choices) if label.is_empty() || !choices.contains(label) => Err(Error::value(format!(
            "{:?} is none of its choices {:?}",
            String::from_utf8_lossy(label),
            choices.iter().map(|c| String::from_utf8_lossy(c)).collect::<Vec<_>>()
        ))),
        _ => Ok(()),
    }
}

/// Text becomes characters with a NUL behind them where there is room, as EPICS long strings are kept.
fn characters(value: Value, most: u32) -> Result<Elements<u8>, Error> {
    match value {
        Value::Text(mut text) => {
            if text.len() > most as usize {
                return Err(Error::value(format!(
                    "{} bytes of text, the PV holds {most}",
                    text.len()
                )));
            }
            if text.len() < most as usize {
                text.push(0);
            }
            Ok(exact::elements(text))
        }
        other => exact::array(&other),
    }
}

fn string(text: Text) -> Result<EpicsValue, Error> {
    let text = exact::text(Value::Text(text))?;
    fits(&text)?;
    Ok(EpicsValue::String(PvString::from_bytes(text)))
}

/// DBR_STRING has 40 bytes, one of them for the NUL (db_access.h, MAX_STRING_SIZE).
fn fits(text: &Text) -> Result<(), Error> {
    if text.len() > 39 {
        return Err(Error::value(format!(
            "{:?} has {} bytes, a DBR_STRING holds 39",
            String::from_utf8_lossy(text),
            text.len()
        )));
    }
    Ok(())
}

fn strings(value: Value, array: bool) -> Result<EpicsValue, Error> {
    if !array {
        return string(exact::text(value)?);
    }
    let texts = exact::texts(value)?;
    texts.iter().try_for_each(fits)?;
    Ok(EpicsValue::StringArray(
        texts.into_iter().map(PvString::from_bytes).collect::<Vec<_>>().into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_label_goes_as_a_string_and_an_index_as_an_enum() {
        let choices: Choices = Arc::from(vec![b"Off".to_vec(), b"On".to_vec()]);
        let put = |value| to_dbr(value, DbFieldType::Enum, 1, Some(&choices));
        assert!(matches!(
            put(Value::Text(b"On".to_vec())),
            Ok((0, Sent::Value(EpicsValue::String(_))))
        ));
        assert!(matches!(put(Value::Int(1)), Ok((3, Sent::Value(EpicsValue::Enum(1))))));
        assert!(put(Value::Text(b"Nowhere".to_vec())).is_err_and(|e| e.kind == Kind::Value));
        assert!(put(Value::Int(-1)).is_err_and(|e| e.kind == Kind::Value));
    }

    #[test]
    fn a_string_of_forty_bytes_is_refused() {
        let put = |n| to_dbr(Value::Text(vec![b'x'; n]), DbFieldType::String, 1, None);
        assert!(put(39).is_ok());
        assert!(put(40).is_err_and(|e| e.kind == Kind::Value));
    }

    #[test]
    fn one_element_of_an_array_stays_an_array() {
        assert!(matches!(
            from_dbr(EpicsValue::Double(1.0), true, None),
            Value::Array(Array::F64(_))
        ));
        assert!(matches!(
            from_dbr(EpicsValue::Double(1.0), false, None),
            Value::Float(_)
        ));
    }
}
