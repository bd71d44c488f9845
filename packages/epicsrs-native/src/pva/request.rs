//! pvRequests: which fields, and how the record is treated.

use std::borrow::Cow;
use std::sync::Arc;

use epics_pva_rs::client_native::server_conn::ServerConn;
use epics_pva_rs::proto::{ByteOrder, Command};
use epics_pva_rs::pv_request::PvRequestExpr;

use crate::error::Error;
use crate::value::Form;

/// What a get or a put is initialised for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Request {
    /// `whole`: every field, for a structure without a plain value.
    Get {
        form: Form,
        whole: bool,
    },
    Put {
        block: bool,
        whole: bool,
    },
    /// In the caller's words.
    GetAs(Arc<str>),
    PutAs(Arc<str>),
}

impl Request {
    pub fn command(&self) -> Command {
        match self {
            Self::Get { .. } | Self::GetAs(_) => Command::Get,
            Self::Put { .. } | Self::PutAs(_) => Command::Put,
        }
    }

    /// The same for every field, where that is something else.
    pub fn widened(&self) -> Option<Self> {
        match self {
            Self::Get { form, whole: false } => Some(Self::Get {
                form: *form,
                whole: true,
            }),
            Self::Put { block, whole: false } => Some(Self::Put {
                block: *block,
                whole: true,
            }),
            _ => None,
        }
    }

    fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Get { form, whole } => format!("field({})", fields(*form, *whole)).into(),
            Self::Put { block, whole } => {
                let fields = if *whole { "" } else { "value" };
                let options = if *block { "record[block=true]" } else { "" };
                format!("{options}field({fields})").into()
            }
            Self::GetAs(text) | Self::PutAs(text) => (&**text).into(),
        }
    }

    pub fn encode(&self, server: &ServerConn) -> Result<Vec<u8>, Error> {
        encode(&self.text(), server)
    }
}

/// What a form fetches; nothing named is everything.
pub fn fields(form: Form, whole: bool) -> &'static str {
    match form {
        Form::Value if !whole => "value",
        Form::Time if !whole => "value,alarm,timeStamp",
        _ => "",
    }
}

/// A pvRequest in the byte order of its server.
pub fn encode(text: &str, server: &ServerConn) -> Result<Vec<u8>, Error> {
    Ok(parsed(text)?.encode(matches!(server.byte_order(), ByteOrder::Big)))
}

/// A pvRequest in words.
pub fn parsed(text: &str) -> Result<PvRequestExpr, Error> {
    PvRequestExpr::parse(text).map_err(|e| Error::value(format!("request {text:?} is no pvRequest: {e}")))
}
