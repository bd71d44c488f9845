//! PVA fields -> Value, whatever structure they stand in.

use std::sync::Arc;

use epics_pva_rs::pvdata::{PvArray, PvField, PvStructure, ScalarValue, TypedScalarArray};

use crate::array::{Array, Elements};
use crate::value::{Choices, Value};

fn shared<T: Send + Sync + 'static>(array: &PvArray<T>) -> Elements<T> {
    Arc::new(array.clone())
}

pub fn scalar(value: &ScalarValue) -> Value {
    match value {
        ScalarValue::Boolean(x) => Value::Bool(*x),
        ScalarValue::Byte(x) => Value::Int(i64::from(*x)),
        ScalarValue::Short(x) => Value::Int(i64::from(*x)),
        ScalarValue::Int(x) => Value::Int(i64::from(*x)),
        ScalarValue::Long(x) => Value::Int(*x),
        ScalarValue::UByte(x) => Value::Int(i64::from(*x)),
        ScalarValue::UShort(x) => Value::Int(i64::from(*x)),
        ScalarValue::UInt(x) => Value::Int(i64::from(*x)),
        ScalarValue::ULong(x) => Value::UInt(*x),
        ScalarValue::Float(x) => Value::Float(f64::from(*x)),
        ScalarValue::Double(x) => Value::Float(*x),
        ScalarValue::String(x) => Value::Text(x.as_bytes().to_vec()),
    }
}

pub fn array(array: &TypedScalarArray) -> Array {
    match array {
        TypedScalarArray::Boolean(a) => Array::Bool(shared(a)),
        TypedScalarArray::Byte(a) => Array::I8(shared(a)),
        TypedScalarArray::UByte(a) => Array::U8(shared(a)),
        TypedScalarArray::Short(a) => Array::I16(shared(a)),
        TypedScalarArray::UShort(a) => Array::U16(shared(a)),
        TypedScalarArray::Int(a) => Array::I32(shared(a)),
        TypedScalarArray::UInt(a) => Array::U32(shared(a)),
        TypedScalarArray::Long(a) => Array::I64(shared(a)),
        TypedScalarArray::ULong(a) => Array::U64(shared(a)),
        TypedScalarArray::Float(a) => Array::F32(shared(a)),
        TypedScalarArray::Double(a) => Array::F64(shared(a)),
        TypedScalarArray::String(a) => Array::Text(a.iter().map(|s| s.as_bytes().to_vec()).collect()),
    }
}

/// Any field; an `enum_t` becomes an enum wherever it stands.
pub fn field(of: &PvField) -> Value {
    match of {
        PvField::Scalar(value) => scalar(value),
        PvField::ScalarArrayTyped(values) => Value::Array(array(values)),
        PvField::ScalarArray(values) => Value::List(values.iter().map(scalar).collect()),
        PvField::Structure(structure) => enumeration(structure).unwrap_or_else(|| nested(structure)),
        PvField::StructureArray(items) => Value::List(
            items
                .iter()
                .map(|item| item.as_ref().map_or(Value::Nothing, nested))
                .collect(),
        ),
        PvField::Union { value, .. } => field(value),
        PvField::UnionArray(items) => Value::List(
            items
                .iter()
                .map(|item| item.as_ref().map_or(Value::Nothing, |i| field(&i.value)))
                .collect(),
        ),
        PvField::Variant(variant) => field(&variant.value),
        PvField::VariantArray(items) => Value::List(
            items
                .iter()
                .map(|item| item.as_ref().map_or(Value::Nothing, |i| field(&i.value)))
                .collect(),
        ),
        PvField::Null => Value::Nothing,
    }
}

pub fn nested(structure: &PvStructure) -> Value {
    Value::Structure {
        id: structure.struct_id.clone(),
        fields: structure
            .fields
            .iter()
            .map(|(name, value)| (name.clone(), field(value)))
            .collect(),
    }
}

fn enumeration(structure: &PvStructure) -> Option<Value> {
    if structure.struct_id != "enum_t" {
        return None;
    }
    let index = integer(structure.get_field("index"))?;
    Some(Value::Enum {
        index,
        choices: choices(structure),
    })
}

pub fn choices(structure: &PvStructure) -> Option<Choices> {
    match structure.get_field("choices") {
        Some(PvField::ScalarArrayTyped(TypedScalarArray::String(labels))) => {
            Some(labels.iter().map(|label| label.as_bytes().to_vec()).collect())
        }
        _ => None,
    }
}

pub fn integer(field: Option<&PvField>) -> Option<i64> {
    match field {
        Some(PvField::Scalar(value)) => match scalar(value) {
            Value::Int(i) => Some(i),
            Value::UInt(u) => i64::try_from(u).ok(),
            _ => None,
        },
        _ => None,
    }
}
