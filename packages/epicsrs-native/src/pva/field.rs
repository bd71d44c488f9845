//! Value -> PVA fields, of the type that the server asks for.

use epics_base_rs::types::PvString;
use epics_pva_rs::pvdata::encode::default_value_for;
use epics_pva_rs::pvdata::{
    FieldDesc, PvArray, PvField, PvStructure, ScalarType, ScalarValue, TypedScalarArray, UnionItem, VariantValue,
};

use super::type_name::type_name;
use crate::array::Array;
use crate::error::Error;
use crate::exact;
use crate::value::Value;

/// What a put sends for a value of this type; an enum's label is the caller's to look up.
pub fn to_field(value: Value, desc: &FieldDesc) -> Result<PvField, Error> {
    match desc {
        FieldDesc::Scalar(kind) => Ok(PvField::Scalar(to_scalar(value.single(), *kind)?)),
        FieldDesc::ScalarArray(kind) => Ok(PvField::ScalarArrayTyped(to_array(value, *kind)?)),
        FieldDesc::Structure { struct_id, fields } => to_structure(value, struct_id, fields).map(PvField::Structure),
        FieldDesc::StructureArray { struct_id, fields } => {
            each(value, desc, |one| to_structure(one, struct_id, fields)).map(PvField::StructureArray)
        }
        FieldDesc::Union { variants, .. } => {
            let UnionItem {
                selector,
                variant_name,
                value,
            } = to_union(value, variants)?;
            Ok(PvField::Union {
                selector,
                variant_name,
                value: Box::new(value),
            })
        }
        FieldDesc::UnionArray { variants, .. } => {
            each(value, desc, |one| to_union(one, variants)).map(PvField::UnionArray)
        }
        FieldDesc::Variant => Ok(PvField::Variant(Box::new(to_variant(value)?))),
        FieldDesc::VariantArray => each(value, desc, to_variant).map(PvField::VariantArray),
    }
}

/// The elements of a list; nothing is an element that is not there.
fn each<T>(
    value: Value,
    desc: &FieldDesc,
    convert: impl Fn(Value) -> Result<T, Error>,
) -> Result<Vec<Option<T>>, Error> {
    let elements = match value {
        Value::List(elements) => elements,
        Value::Array(array) => array.into_values(),
        other => {
            return Err(Error::wrong_type(format!(
                "{}, the PV is a {}",
                other.kind(),
                type_name(desc)
            )));
        }
    };
    let converted = elements.into_iter().map(|element| match element {
        Value::Nothing => Ok(None),
        element => convert(element).map(Some),
    });
    converted.collect()
}

/// A structure with the fields that are given, the others at their zero.
fn to_structure(value: Value, id: &str, fields: &[(String, FieldDesc)]) -> Result<PvStructure, Error> {
    let given = match value {
        Value::Structure { fields, .. } | Value::Table { fields, .. } => fields,
        // Its choices are the server's.
        Value::Int(_) | Value::Enum { .. } if id == "enum_t" => vec![("index".to_owned(), value)],
        other => {
            return Err(Error::wrong_type(format!(
                "{}, the PV has a structure there",
                other.kind()
            )));
        }
    };
    let mut made = PvStructure::new(id);
    made.fields = fields
        .iter()
        .map(|(name, desc)| (name.clone(), default_value_for(desc)))
        .collect();
    for (name, value) in given {
        let field = to_field(value, known(fields, &name)?)?;
        if let Some(place) = made.get_field_mut(&name) {
            *place = field;
        }
    }
    Ok(made)
}

/// The type of a structure's field.
pub fn known<'a>(fields: &'a [(String, FieldDesc)], name: &str) -> Result<&'a FieldDesc, Error> {
    match fields.iter().find(|(known, _)| known == name) {
        Some((_, desc)) => Ok(desc),
        None => {
            let all: Vec<_> = fields.iter().map(|(known, _)| known).collect();
            Err(Error::value(format!("{name:?} is none of its fields {all:?}")))
        }
    }
}

/// The member that a dict of one names, or that is of the value's own type, or else the first that holds it exactly.
fn to_union(value: Value, variants: &[(String, FieldDesc)]) -> Result<UnionItem, Error> {
    let item = |selector: usize, name: &str, field| UnionItem {
        selector: i32::try_from(selector).unwrap_or(-1),
        variant_name: name.to_owned(),
        value: field,
    };
    if let Value::Structure { fields, .. } = &value
        && let [(named, inner)] = &**fields
        && let Some((selector, (name, desc))) = variants.iter().enumerate().find(|(_, (name, _))| name == named)
    {
        return Ok(item(selector, name, to_field(inner.clone(), desc)?));
    }
    let Some(own) = own_type(&value) else {
        return Ok(UnionItem {
            selector: -1,
            variant_name: String::new(),
            value: PvField::Null,
        });
    };
    let mut candidates: Vec<_> = variants.iter().enumerate().collect();
    candidates.sort_by_key(|(_, (_, desc))| *desc != own);
    candidates
        .into_iter()
        .find_map(|(selector, (name, desc))| Some(item(selector, name, to_field(value.clone(), desc).ok()?)))
        .ok_or_else(|| {
            let members: Vec<_> = variants.iter().map(|(name, _)| name).collect();
            Error::wrong_type(format!(
                "{}, which none of the union's members {members:?} holds",
                value.kind()
            ))
        })
}

/// A variant says its value's own type.
fn to_variant(value: Value) -> Result<VariantValue, Error> {
    let desc = own_type(&value);
    let value = match &desc {
        Some(desc) => to_field(value, desc)?,
        None => PvField::Null,
    };
    Ok(VariantValue { desc, value })
}

/// The type that holds a value as it is; None for nothing.
fn own_type(value: &Value) -> Option<FieldDesc> {
    Some(match value {
        Value::Bool(_) => FieldDesc::Scalar(ScalarType::Boolean),
        Value::Int(_) | Value::Enum { .. } => FieldDesc::Scalar(ScalarType::Long),
        Value::UInt(_) => FieldDesc::Scalar(ScalarType::ULong),
        Value::Float(_) => FieldDesc::Scalar(ScalarType::Double),
        Value::Text(_) => FieldDesc::Scalar(ScalarType::String),
        Value::Array(array) | Value::Image { array, .. } => FieldDesc::ScalarArray(element_type(array)),
        Value::Structure { id, fields } | Value::Table { id, fields, .. } => FieldDesc::Structure {
            struct_id: id.clone(),
            fields: fields
                .iter()
                .map(|(name, value)| (name.clone(), own_type(value).unwrap_or(FieldDesc::Variant)))
                .collect(),
        },
        Value::List(_) => FieldDesc::VariantArray,
        Value::Nothing => return None,
    })
}

fn element_type(array: &Array) -> ScalarType {
    match array {
        Array::Bool(_) => ScalarType::Boolean,
        Array::I8(_) => ScalarType::Byte,
        Array::U8(_) => ScalarType::UByte,
        Array::I16(_) => ScalarType::Short,
        Array::U16(_) => ScalarType::UShort,
        Array::I32(_) => ScalarType::Int,
        Array::U32(_) => ScalarType::UInt,
        Array::I64(_) => ScalarType::Long,
        Array::U64(_) => ScalarType::ULong,
        Array::F32(_) => ScalarType::Float,
        Array::F64(_) => ScalarType::Double,
        Array::Text(_) => ScalarType::String,
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
        ScalarType::Boolean => TypedScalarArray::Boolean(PvArray::from_owner(exact::array(&value)?)),
        ScalarType::Byte => TypedScalarArray::Byte(match value {
            Value::Text(text) => characters(text)
                .into_iter()
                .map(u8::cast_signed)
                .collect::<Vec<_>>()
                .into(),
            other => PvArray::from_owner(exact::array(&other)?),
        }),
        ScalarType::UByte => TypedScalarArray::UByte(match value {
            Value::Text(text) => characters(text).into(),
            other => PvArray::from_owner(exact::array(&other)?),
        }),
        ScalarType::Short => TypedScalarArray::Short(PvArray::from_owner(exact::array(&value)?)),
        ScalarType::Int => TypedScalarArray::Int(PvArray::from_owner(exact::array(&value)?)),
        ScalarType::Long => TypedScalarArray::Long(PvArray::from_owner(exact::array(&value)?)),
        ScalarType::UShort => TypedScalarArray::UShort(PvArray::from_owner(exact::array(&value)?)),
        ScalarType::UInt => TypedScalarArray::UInt(PvArray::from_owner(exact::array(&value)?)),
        ScalarType::ULong => TypedScalarArray::ULong(PvArray::from_owner(exact::array(&value)?)),
        ScalarType::Float => TypedScalarArray::Float(PvArray::from_owner(exact::array(&value)?)),
        ScalarType::Double => TypedScalarArray::Double(PvArray::from_owner(exact::array(&value)?)),
        ScalarType::String => {
            TypedScalarArray::String(exact::texts(value)?.into_iter().map(PvString::from_bytes).collect())
        }
    })
}

/// Text becomes characters with a NUL behind them, as EPICS long strings are kept.
fn characters(mut text: Vec<u8>) -> Vec<u8> {
    text.push(0);
    text
}
