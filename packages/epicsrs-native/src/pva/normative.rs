//! Readings, by the normative types of the EPICS 7 specification.

use std::sync::Arc;

use epics_pva_rs::pvdata::{FieldDesc, PvField, PvStructure, ScalarValue, TypedScalarArray};

use super::value::{choices, field, integer, nested, scalar};
use crate::value::{Alarm, Form, Limits, Metadata, Pair, Reading, Text, Value};

/// Whether a structure's `value` is what a reading's value is: a scalar, an array or an enum.
pub fn has_plain_value(desc: &FieldDesc) -> bool {
    let FieldDesc::Structure { fields, .. } = desc else {
        return true;
    };
    fields.iter().any(|(name, desc)| {
        name == "value"
            && match desc {
                FieldDesc::Scalar(_) | FieldDesc::ScalarArray(_) => true,
                FieldDesc::Structure { struct_id, .. } => struct_id == "enum_t",
                _ => false,
            }
    })
}

/// A whole reply; `plain` as `has_plain_value` says.
pub fn reading(of: &PvField, plain: bool, form: Form) -> Reading {
    let PvField::Structure(top) = of else {
        return Reading::bare(field(of));
    };
    let (value, fields) = if plain {
        (top.get_field("value").map_or(Value::Nothing, field), None)
    } else if let Some(table) = table(top) {
        (table, None)
    } else if let Some(image) = image(top) {
        (image, Some(nested(&around(top))))
    } else {
        (nested(top), None)
    };
    let mut reading = Reading::bare(value);
    reading.fields = fields.map(Box::new);
    if form == Form::Value {
        return reading;
    }
    reading.alarm = structure(top, "alarm").and_then(|alarm| {
        Some(Alarm {
            severity: i32::try_from(integer(alarm.get_field("severity"))?).ok()?,
            status: i32::try_from(integer(alarm.get_field("status")).unwrap_or_default()).ok()?,
            message: string(alarm.get_field("message")),
        })
    });
    reading.timestamp = structure(top, "timeStamp").and_then(time);
    if form == Form::Ctrl {
        reading.metadata = Some(Arc::new(metadata(top)));
    }
    reading
}

/// An NTTable: its columns, whose lengths agree, and a label for each.
fn table(top: &PvStructure) -> Option<Value> {
    if !top.struct_id.starts_with("epics:nt/NTTable:") {
        return None;
    }
    let labels = match top.get_field("labels") {
        Some(PvField::ScalarArrayTyped(TypedScalarArray::String(labels))) => {
            labels.iter().map(|label| label.as_bytes().to_vec()).collect()
        }
        _ => Vec::new(),
    };
    match nested(structure(top, "value")?) {
        Value::Structure { fields, .. } => Some(Value::Table {
            id: top.struct_id.clone(),
            fields,
            labels,
        }),
        _ => None,
    }
}

/// An NTNDArray's elements in their shape; a compressed one is its bytes as they are.
fn image(top: &PvStructure) -> Option<Value> {
    if !top.struct_id.starts_with("epics:nt/NTNDArray:") {
        return None;
    }
    let Value::Array(array) = top.get_field("value").map(field)? else {
        return None;
    };
    let Some(PvField::StructureArray(dimensions)) = top.get_field("dimension") else {
        return Some(Value::Array(array));
    };
    // NTNDArray lists the fastest-varying dimension first; numpy lists it last.
    let shape: Option<Vec<usize>> = dimensions
        .iter()
        .rev()
        .map(|dimension| usize::try_from(integer(dimension.as_ref()?.get_field("size"))?).ok())
        .collect();
    let compressed = structure(top, "codec")
        .and_then(|codec| string(codec.get_field("name")))
        .is_some_and(|name| !name.is_empty());
    match shape {
        Some(shape) if !compressed && fills(&shape, array.len()) => Some(Value::Image { array, shape }),
        _ => Some(Value::Array(array)),
    }
}

/// Whether it is the shape of so many elements, in more dimensions than one and not more than numpy has.
fn fills(shape: &[usize], elements: usize) -> bool {
    // numpy multiplies the sizes of an empty array as well, all but the zeros, and the bytes of an element.
    let most = usize::MAX >> 4;
    let counted = shape
        .iter()
        .try_fold(1_usize, |product, size| product.checked_mul((*size).max(1)))
        .is_some_and(|product| product <= most);
    (2..=32).contains(&shape.len()) && counted && shape.iter().product::<usize>() == elements
}

/// What a structure has beside what a reading says already.
fn around(top: &PvStructure) -> PvStructure {
    let said = ["value", "alarm", "timeStamp", "display"];
    PvStructure {
        struct_id: top.struct_id.clone(),
        fields: top
            .fields
            .iter()
            .filter(|(name, _)| !said.contains(&name.as_str()))
            .cloned()
            .collect(),
    }
}

/// A structure that nobody stamped has 0, which is no time.
fn time(stamp: &PvStructure) -> Option<i64> {
    let seconds = integer(stamp.get_field("secondsPastEpoch"))?;
    let nanoseconds = integer(stamp.get_field("nanoseconds"))?;
    if seconds == 0 && nanoseconds == 0 {
        return None;
    }
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

fn pair(of: &PvStructure, low: &str, high: &str) -> Pair {
    Some((number(of.get_field(low))?, number(of.get_field(high))?))
}

fn metadata(top: &PvStructure) -> Metadata {
    let display = structure(top, "display");
    let control = structure(top, "control");
    let alarm = structure(top, "valueAlarm");
    let limits = Limits {
        display: display.and_then(|d| pair(d, "limitLow", "limitHigh")),
        control: control.and_then(|c| pair(c, "limitLow", "limitHigh")),
        warning: alarm.and_then(|a| pair(a, "lowWarningLimit", "highWarningLimit")),
        alarm: alarm.and_then(|a| pair(a, "lowAlarmLimit", "highAlarmLimit")),
    };
    let any = limits
        .display
        .or(limits.control)
        .or(limits.warning)
        .or(limits.alarm)
        .is_some();
    let value = structure(top, "value");
    Metadata {
        units: display.and_then(|d| string(d.get_field("units"))),
        precision: display.and_then(|d| i32::try_from(integer(d.get_field("precision"))?).ok()),
        choices: value.filter(|v| v.struct_id == "enum_t").and_then(choices),
        limits: any.then_some(limits),
        description: display.and_then(|d| string(d.get_field("description"))),
    }
}

fn number(field: Option<&PvField>) -> Option<f64> {
    match field {
        Some(PvField::Scalar(value)) => match scalar(value) {
            Value::Int(i) => Some(i as f64),
            Value::UInt(u) => Some(u as f64),
            Value::Float(f) => Some(f),
            _ => None,
        },
        _ => None,
    }
}

fn string(field: Option<&PvField>) -> Option<Text> {
    match field {
        Some(PvField::Scalar(ScalarValue::String(text))) => Some(text.as_bytes().to_vec()),
        _ => None,
    }
}

fn structure<'a>(of: &'a PvStructure, name: &str) -> Option<&'a PvStructure> {
    match of.get_field(name) {
        Some(PvField::Structure(inner)) => Some(inner),
        _ => None,
    }
}
