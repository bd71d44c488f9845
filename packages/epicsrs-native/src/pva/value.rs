//! PVA fields <-> Value, whatever structure they stand in.

use std::sync::Arc;

use epics_base_rs::types::PvString;
use epics_pva_rs::pvdata::{FieldDesc, PvArray, PvField, PvStructure, ScalarType, ScalarValue, TypedScalarArray};

use super::type_name::type_name;
use crate::error::Error;
use crate::exact;
use crate::value::{Array, Choices, Elements, Value};

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

/// What a put sends for a `value` of this type; enums are the caller's.
pub fn to_field(value: Value, desc: &FieldDesc) -> Result<PvField, Error> {
    match desc {
        FieldDesc::Scalar(kind) => Ok(PvField::Scalar(to_scalar(value, *kind)?)),
        FieldDesc::ScalarArray(kind) => Ok(PvField::ScalarArrayTyped(to_array(value, *kind)?)),
        other => Err(Error::wrong_type(format!(
            "a put to the server's {} is not supported",
            type_name(other)
        ))),
    }
}

fn to_scalar(value: Value, kind: ScalarType) -> Result<ScalarValue, Error> {
    Ok(match kind {
        ScalarType::Boolean => ScalarValue::Boolean(exact::scalar(&value)?),
        ScalarType::Byte => ScalarValue::Byte(exact::scalar(&value)?),
        ScalarType::Short => ScalarValue::Short(exact::scalar(&value)?),
        ScalarType::Int => ScalarValue::Int(exact::scalar(&value)?),
        ScalarType::Long => ScalarValue::Long(exact::scalar(&value)?),
        ScalarType::UByte => ScalarValue::UByte(exact::scalar(&value)?),
        ScalarType::UShort => ScalarValue::UShort(exact::scalar(&value)?),
        ScalarType::UInt => ScalarValue::UInt(exact::scalar(&value)?),
        ScalarType::ULong => ScalarValue::ULong(exact::scalar(&value)?),
        ScalarType::Float => ScalarValue::Float(exact::scalar(&value)?),
        ScalarType::Double => ScalarValue::Double(exact::scalar(&value)?),
        ScalarType::String => ScalarValue::String(PvString::from_bytes(exact::text(value)?)),
    })
}

fn to_array(value: Value, kind: ScalarType) -> Result<TypedScalarArray, Error> {
    Ok(match kind {
        ScalarType::Boolean => TypedScalarArray::Boolean(exact::array(&value)?.into()),
        ScalarType::Byte => TypedScalarArray::Byte(exact::array(&characters(value))?.into()),
        ScalarType::UByte => TypedScalarArray::UByte(exact::array(&characters(value))?.into()),
        ScalarType::Short => TypedScalarArray::Short(exact::array(&value)?.into()),
        ScalarType::Int => TypedScalarArray::Int(exact::array(&value)?.into()),
        ScalarType::Long => TypedScalarArray::Long(exact::array(&value)?.into()),
        ScalarType::UShort => TypedScalarArray::UShort(exact::array(&value)?.into()),
        ScalarType::UInt => TypedScalarArray::UInt(exact::array(&value)?.into()),
        ScalarType::ULong => TypedScalarArray::ULong(exact::array(&value)?.into()),
        ScalarType::Float => TypedScalarArray::Float(exact::array(&value)?.into()),
        ScalarType::Double => TypedScalarArray::Double(exact::array(&value)?.into()),
        ScalarType::String => {
            TypedScalarArray::String(exact::texts(value)?.into_iter().map(PvString::from_bytes).collect())
        }
    })
}

/// Text becomes characters with a NUL behind them, as EPICS long strings are kept.
fn characters(value: Value) -> Value {
    match value {
        Value::Text(mut text) => {
            text.push(0);
            Value::Array(Array::U8(exact::elements(text)))
        }
        other => other,
    }
}
