//! What a put sends over pvAccess.

use epics_base_rs::types::PvString;
use epics_pva_rs::proto::BitSet;
use epics_pva_rs::pvdata::encode::default_value_for;
use epics_pva_rs::pvdata::{FieldDesc, PvField, PvStructure, ScalarType, ScalarValue, TypedScalarArray};

use super::field::{known, to_field};
use super::operation::Operation;
use super::type_name::type_name;
use crate::error::Error;
use crate::exact;
use crate::value::Value;

/// The structure that a put sends, with the fields that it sets.
pub async fn shape(value: Value, operation: &mut Operation) -> Result<(PvField, BitSet), Error> {
    let desc = operation.desc.clone();
    let FieldDesc::Structure { fields, struct_id } = &*desc else {
        let mut changed = BitSet::new();
        changed.set(0);
        return Ok((to_field(value, &desc)?, changed));
    };
    let mut sent = Vec::new();
    match fields.iter().find(|(name, _)| name == "value") {
        Some((_, FieldDesc::Structure { struct_id, fields })) if struct_id == "enum_t" => {
            sent.push((
                "value.index".to_owned(),
                index(value.single(), fields, operation).await?,
            ));
        }
        // What a get gives of a structure whose value is none of the plain kinds.
        Some((_, of_value)) if is_whole(&value, of_value) => collect(String::new(), value, &desc, &mut sent)?,
        Some((_, of_value)) if struct_id.starts_with("epics:nt/NTNDArray:") && is_elements(&value) => {
            sent = image(value, of_value, fields)?;
        }
        Some((_, of_value)) => {
            let table = struct_id.starts_with("epics:nt/NTTable:");
            collect("value".to_owned(), value, of_value, &mut sent)?;
            if table {
                check_columns(&sent)?;
            }
        }
        None => collect(String::new(), value, &desc, &mut sent)?,
    }
    let mut top = default_value_for(&desc);
    let mut changed = BitSet::new();
    for (path, field) in sent {
        set(&mut top, &path, field);
        if let Some(bit) = desc.bit_for_path(&path) {
            changed.set(bit);
        }
    }
    Ok((top, changed))
}

/// The fields that a value sets, each with its path: a scalar or an array the one at `path`, a structure those it names.
fn collect(path: String, value: Value, desc: &FieldDesc, sent: &mut Vec<(String, PvField)>) -> Result<(), Error> {
    let (given, fields) = match (value, desc) {
        (
            Value::Structure { fields: given, .. } | Value::Table { fields: given, .. },
            FieldDesc::Structure { fields, .. },
        ) => (given, fields),
        (Value::Structure { .. } | Value::Table { .. }, other)
            if !matches!(other, FieldDesc::Union { .. } | FieldDesc::Variant) =>
        {
            return Err(Error::wrong_type(format!(
                "a structure, the PV is a {}",
                type_name(other)
            )));
        }
        (value, plain) => {
            sent.push((path, to_field(value, plain)?));
            return Ok(());
        }
    };
    for (name, value) in given {
        let desc = known(fields, &name)?;
        let path = if path.is_empty() {
            name
        } else {
            format!("{path}.{name}")
        };
        collect(path, value, desc, sent)?;
    }
    Ok(())
}

/// Whether a value names its own place, "value", and is not what has that place.
fn is_whole(value: &Value, of_value: &FieldDesc) -> bool {
    let named = |fields: &[(String, Value)]| fields.iter().any(|(name, _)| name == "value");
    let within =
        matches!(of_value, FieldDesc::Structure { fields, .. } if fields.iter().any(|(name, _)| name == "value"));
    let plain = matches!(of_value, FieldDesc::Scalar(_) | FieldDesc::ScalarArray(_));
    matches!(value, Value::Structure { fields, .. } if named(fields)) && !within && !plain
}

fn is_elements(value: &Value) -> bool {
    matches!(value, Value::Array(_) | Value::Image { .. })
}

/// An NTNDArray's elements with their dimensions, uncompressed; the fastest-varying dimension first.
fn image(value: Value, of_value: &FieldDesc, fields: &[(String, FieldDesc)]) -> Result<Vec<(String, PvField)>, Error> {
    let (bytes, shape) = match &value {
        Value::Image { array, shape } => (array.size(), shape.clone()),
        Value::Array(array) => (array.size(), vec![array.len()]),
        _ => (0, Vec::new()),
    };
    let whole = |size: usize| i64::try_from(size).map_err(|_| Error::value("an image larger than EPICS counts"));
    let dimensions = shape.iter().rev().map(|size| {
        let size = Value::Int(whole(*size)?);
        Ok(Value::Structure {
            id: "dimension_t".to_owned(),
            fields: vec![
                ("size".to_owned(), size.clone()),
                ("fullSize".to_owned(), size),
                ("binning".to_owned(), Value::Int(1)),
            ],
        })
    });
    let bytes = Value::Int(whole(bytes)?);
    let elements = match value {
        Value::Image { array, .. } => Value::Array(array),
        other => other,
    };
    Ok(vec![
        ("value".to_owned(), to_field(elements, of_value)?),
        (
            "dimension".to_owned(),
            to_field(
                Value::List(dimensions.collect::<Result<_, Error>>()?),
                known(fields, "dimension")?,
            )?,
        ),
        (
            "compressedSize".to_owned(),
            to_field(bytes.clone(), known(fields, "compressedSize")?)?,
        ),
        (
            "uncompressedSize".to_owned(),
            to_field(bytes, known(fields, "uncompressedSize")?)?,
        ),
        (
            "codec.name".to_owned(),
            PvField::Scalar(ScalarValue::String(PvString::new())),
        ),
    ])
}

/// The columns of a table are equally long (normative types, NTTable).
fn check_columns(sent: &[(String, PvField)]) -> Result<(), Error> {
    let lengths: Vec<(&str, usize)> = sent
        .iter()
        .filter_map(|(path, field)| {
            let length = match field {
                PvField::ScalarArrayTyped(array) => array.len(),
                PvField::StructureArray(items) => items.len(),
                PvField::UnionArray(items) => items.len(),
                PvField::VariantArray(items) => items.len(),
                _ => return None,
            };
            Some((path.rsplit('.').next().unwrap_or(path), length))
        })
        .collect();
    if lengths
        .windows(2)
        .any(|pair| matches!(pair, [(_, one), (_, two)] if one != two))
    {
        return Err(Error::value(format!("columns of different lengths: {lengths:?}")));
    }
    Ok(())
}

fn set(top: &mut PvField, path: &str, field: PvField) {
    let mut at = top;
    for name in path.split('.') {
        let PvField::Structure(structure) = at else { return };
        let Some(inner) = structure.get_field_mut(name) else {
            return;
        };
        at = inner;
    }
    *at = field;
}

/// An enum's index: a label is looked up in the choices that the server has now.
async fn index(value: Value, fields: &[(String, FieldDesc)], operation: &mut Operation) -> Result<PvField, Error> {
    let of_index = fields
        .iter()
        .find(|(name, _)| name == "index")
        .map_or(FieldDesc::Scalar(ScalarType::Int), |(_, desc)| desc.clone());
    let Value::Text(label) = value else {
        // No record has more choices than a DBF_ENUM can count, and none has a negative one.
        let index: u16 = exact::scalar(&value)?;
        return to_field(Value::Int(i64::from(index)), &of_index);
    };
    operation.execute_put_get()?;
    let present = operation.value().await?;
    let choices = match present {
        PvField::Structure(top) => labels(&top),
        _ => Vec::new(),
    };
    // A state without a label has no name to be put by.
    let found = choices.iter().position(|choice| !label.is_empty() && *choice == label);
    let found = found.ok_or_else(|| {
        Error::value(format!(
            "{:?} is none of its choices {:?}",
            String::from_utf8_lossy(&label),
            choices.iter().map(|c| String::from_utf8_lossy(c)).collect::<Vec<_>>()
        ))
    })?;
    let found = i32::try_from(found).map_err(|_| Error::value("an enum has at most 2^31 choices"))?;
    Ok(PvField::Scalar(ScalarValue::Int(found)))
}

fn labels(top: &PvStructure) -> Vec<Vec<u8>> {
    let Some(PvField::Structure(value)) = top.get_field("value") else {
        return Vec::new();
    };
    match value.get_field("choices") {
        Some(PvField::ScalarArrayTyped(TypedScalarArray::String(labels))) => {
            labels.iter().map(|label| label.as_bytes().to_vec()).collect()
        }
        _ => Vec::new(),
    }
}
