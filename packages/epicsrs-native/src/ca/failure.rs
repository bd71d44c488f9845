//! What the CA crate and its servers say went wrong, as ours.

use epics_base_rs::error::{CaError, eca};
use epics_base_rs::types::DbFieldType;
use epics_ca_rs::client::CaChannel;
use epics_ca_rs::protocol::max_recv_body_bytes;

use crate::error::{Error, Kind};

pub fn kind_of(status: u32) -> Kind {
    if status == eca::ECA_NORDACCESS || status == eca::ECA_NOWTACCESS {
        Kind::AccessDenied
    } else {
        Kind::Remote
    }
}

/// Why a request was not sent.
pub enum Refusal {
    Down,
    Error(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<CaError> for Refusal {
    fn from(error: CaError) -> Self {
        match error {
            CaError::Disconnected => Self::Down,
            other => Self::Error(failure(other)),
        }
    }
}

pub fn read_refusal(channel: &CaChannel, error: CaError) -> Refusal {
    denied(
        error,
        channel.access_rights().read,
        "the server does not let this client read it",
    )
}

pub fn write_refusal(channel: &CaChannel, error: CaError) -> Refusal {
    denied(
        error,
        channel.access_rights().write,
        "the server does not let this client write it",
    )
}

/// The crate checks the rights before it sends, and says so in words only.
fn denied(error: CaError, allowed: bool, text: &str) -> Refusal {
    match error {
        CaError::Protocol(_) if !allowed => Error::new(Kind::AccessDenied, text).into(),
        other => other.into(),
    }
}

pub fn failure(error: CaError) -> Error {
    match error {
        CaError::Disconnected | CaError::Shutdown | CaError::Io(_) => Error::lost(),
        CaError::ServerError(status) | CaError::WriteFailed(status) => match status {
            eca::ECA_DISCONN => Error::lost(),
            eca::ECA_TOLARGE => Error::new(
                Kind::Other,
                format!(
                    "its value is larger than the receive limit of {} bytes (EPICS_CA_MAX_ARRAY_BYTES)",
                    max_recv_body_bytes().unwrap_or(usize::MAX)
                ),
            ),
            _ => Error::refused(kind_of(status), "", eca::eca_message(status)),
        },
        other => Error::new(Kind::Other, other.to_string()),
    }
}

/// The DBF names of db_access.h.
pub fn type_name(native: DbFieldType) -> &'static str {
    match native {
        DbFieldType::String => "string",
        DbFieldType::Short => "short",
        DbFieldType::Float => "float",
        DbFieldType::Enum => "enum",
        DbFieldType::Char => "char",
        DbFieldType::Long => "long",
        DbFieldType::Double => "double",
        _ => "unknown",
    }
}
