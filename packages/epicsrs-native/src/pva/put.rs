//! What a put sends over pvAccess.

use epics_pva_rs::proto::BitSet;
use epics_pva_rs::pvdata::encode::default_value_for;
use epics_pva_rs::pvdata::{FieldDesc, PvField, PvStructure, ScalarType, ScalarValue, TypedScalarArray};

use super::operation::Operation;
use super::value;
use crate::error::Error;
use crate::exact;
use crate::value::Value;

/// The structure that a put sends, with the field that it sets.
pub async fn shape(value: Value, operation: &mut Operation) -> Result<(PvField, BitSet), Error> {
    let desc = operation.desc.clone();
    let FieldDesc::Structure { fields, .. } = &*desc else {
        let mut changed = BitSet::new();
        changed.set(0);
        return Ok((value::to_field(value, &desc)?, changed));
    };
    let Some((_, of_value)) = fields.iter().find(|(name, _)| name == "value") else {
        return Err(Error::wrong_type("the server's structure has no value to put to"));
    };
    let (path, field) = match of_value {
        FieldDesc::Structure { struct_id, fields } if struct_id == "enum_t" => {
            ("value.index", index(value, fields, operation).await?)
        }
        plain => ("value", value::to_field(value, plain)?),
    };
    let mut top = default_value_for(&desc);
    set(&mut top, path, field);
    let mut changed = BitSet::new();
    if let Some(bit) = desc.bit_for_path(path) {
        changed.set(bit);
    }
    Ok((top, changed))
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
        return value::to_field(Value::Int(i64::from(index)), &of_index);
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
