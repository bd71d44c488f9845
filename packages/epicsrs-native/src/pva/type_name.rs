//! Types as the pvAccess specification writes them.

use epics_pva_rs::pvdata::{FieldDesc, ScalarType};

use crate::value::Value;

/// A structure's fields with the type of each; None for what is none.
pub fn described(desc: &FieldDesc) -> Option<Value> {
    let FieldDesc::Structure { struct_id, fields } = desc else {
        return None;
    };
    let typed = |desc| described(desc).unwrap_or_else(|| Value::Text(type_name(desc).into_bytes()));
    Some(Value::Structure {
        id: struct_id.clone(),
        fields: fields.iter().map(|(name, desc)| (name.clone(), typed(desc))).collect(),
    })
}

/// The type as the pvAccess specification writes it: `double`, `double[]`, a structure by its id.
pub fn type_name(desc: &FieldDesc) -> String {
    let scalar = |kind: &ScalarType| match kind {
        ScalarType::Boolean => "boolean",
        ScalarType::Byte => "byte",
        ScalarType::Short => "short",
        ScalarType::Int => "int",
        ScalarType::Long => "long",
        ScalarType::UByte => "ubyte",
        ScalarType::UShort => "ushort",
        ScalarType::UInt => "uint",
        ScalarType::ULong => "ulong",
        ScalarType::Float => "float",
        ScalarType::Double => "double",
        ScalarType::String => "string",
    };
    let named = |id: &str, otherwise: &str| {
        if id.is_empty() {
            otherwise.to_owned()
        } else {
            id.to_owned()
        }
    };
    match desc {
        FieldDesc::Scalar(kind) => scalar(kind).to_owned(),
        FieldDesc::ScalarArray(kind) => format!("{}[]", scalar(kind)),
        FieldDesc::Structure { struct_id, .. } => named(struct_id, "structure"),
        FieldDesc::StructureArray { struct_id, .. } => format!("{}[]", named(struct_id, "structure")),
        FieldDesc::Union { struct_id, .. } => named(struct_id, "union"),
        FieldDesc::UnionArray { struct_id, .. } => format!("{}[]", named(struct_id, "union")),
        FieldDesc::Variant => "any".to_owned(),
        FieldDesc::VariantArray => "any[]".to_owned(),
    }
}
