//! What a put sends over pvAccess.

use epics_pva_rs::proto::BitSet;
use epics_pva_rs::pvdata::encode::default_value_for;
use epics_pva_rs::pvdata::{FieldDesc, PvField, PvStructure, ScalarType, ScalarValue, TypedScalarArray};

use super::operation::Operation;
use super::type_name::type_name;
use super::value::to_field;
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
            sent.push(("value.index".to_owned(), index(value, fields, operation).await?));
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
        (Value::Structure { .. } | Value::Table { .. }, other) => {
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
        let Some((_, desc)) = fields.iter().find(|(known, _)| *known == name) else {
            let known: Vec<_> = fields.iter().map(|(known, _)| known).collect();
            return Err(Error::value(format!("{name:?} is none of its fields {known:?}")));
        };
        let path = if path.is_empty() {
            name
        } else {
            format!("{path}.{name}")
        };
        collect(path, value, desc, sent)?;
    }
    Ok(())
}

/// The columns of a table are equally long (normative types, NTTable).
fn check_columns(sent: &[(String, PvField)]) -> Result<(), Error> {
    let lengths: Vec<(&str, usize)> = sent
        .iter()
        .filter_map(|(path, field)| match field {
            PvField::ScalarArrayTyped(array) => Some((path.rsplit('.').next().unwrap_or(path), array.len())),
            _ => None,
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
    let found = choices.iter().position(|choice| *choice == label).ok_or_else(|| {
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
