//! The fields that a caller's own pvRequest asks for.

use epics_pva_rs::pvdata::{FieldDesc, PvField, PvStructure};

use super::normative;
use super::request::parsed;
use crate::error::Error;
use crate::value::{Form, Reading};

/// What a pvRequest selects. pvxs answers with the whole structure, in which all but these fields have no meaning.
pub struct Selection(Vec<String>);

impl Selection {
    /// None selects everything.
    pub fn of(request: Option<&str>) -> Result<Self, Error> {
        Ok(Self(match request {
            Some(text) => parsed(text)?.fields,
            None => Vec::new(),
        }))
    }

    /// The reading of a reply.
    pub fn reading(&self, desc: &FieldDesc, field: &PvField, form: Form) -> Reading {
        let plain = normative::has_plain_value(desc);
        match field {
            PvField::Structure(top) if !self.0.is_empty() => {
                let paths: Vec<&str> = self.0.iter().map(String::as_str).collect();
                let kept = kept(top, &paths);
                let plain = plain && kept.get_field("value").is_some();
                normative::reading(&PvField::Structure(kept), plain, form)
            }
            whole => normative::reading(whole, plain, form),
        }
    }
}

fn kept(structure: &PvStructure, paths: &[&str]) -> PvStructure {
    let mut kept = structure.clone();
    kept.fields.retain_mut(|(name, field)| {
        let mut inner = Vec::new();
        for path in paths {
            match path.split_once('.') {
                None if path == name => return true,
                Some((first, rest)) if first == name => inner.push(rest),
                _ => {}
            }
        }
        if let PvField::Structure(below) = field
            && !inner.is_empty()
        {
            *below = self::kept(below, &inner);
        }
        !inner.is_empty()
    });
    kept
}
