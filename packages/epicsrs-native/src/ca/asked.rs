//! A read of one channel that has been sent, and what becomes of its answer.

use std::pin::Pin;
use std::sync::Arc;

use epics_base_rs::error::CaError;
use epics_base_rs::server::snapshot::Snapshot;
use epics_base_rs::types::DbFieldType;
use epics_ca_rs::client::{CaChannel, ReqCount};

use super::failure::{Refusal, failure, read_refusal};
use super::value;
use crate::error::Error;
use crate::value::{Choices, Form, Reading};

/// The server's answer to a request that has been sent.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, CaError>> + Send>>;

pub struct Asked {
    native: DbFieldType,
    array: bool,
    answer: Answer<Snapshot>,
    ctrl: Option<Answer<Snapshot>>,
}

impl Asked {
    /// Send the request.
    pub fn of(channel: &CaChannel, form: Form, count: Option<u32>) -> Result<Self, Refusal> {
        let native = channel.native_field_type()?;
        let most = channel.element_count()?;
        // Without a value to speak of, one element is the least that can be asked.
        let count = count.filter(|n| *n < most);
        let count = count.map_or(ReqCount::Autosize(0), |n| ReqCount::Fixed(n.max(1)));
        let ask = |dbr, count| match channel.get_callback(dbr, count) {
            Ok(answer) => Ok(Box::pin(answer) as Answer<Snapshot>),
            Err(error) => Err(read_refusal(channel, error)),
        };
        let dbr = match form {
            Form::Value => native as u16,
            Form::Time | Form::Ctrl => native.time_dbr_type(),
        };
        let answer = ask(dbr, count)?;
        // DBR_CTRL has no time: value, alarm and time come from DBR_TIME, both in one flush.
        let ctrl = (form == Form::Ctrl)
            .then(|| ask(native.ctrl_dbr_type(), ReqCount::Fixed(1)))
            .transpose()?;
        Ok(Self {
            native,
            array: most > 1,
            answer,
            ctrl,
        })
    }

    /// The answer; `known` are the choices of the channel, for an enum.
    pub async fn answered(self, form: Form, known: impl FnOnce() -> Option<Choices>) -> Result<Reading, Error> {
        let Self {
            native,
            array,
            answer,
            ctrl,
        } = self;
        let known = || if native == DbFieldType::Enum { known() } else { None };
        match ctrl {
            None => {
                let reading = value::reading(answer.await.map_err(failure)?, array, known());
                Ok(match form {
                    Form::Value => Reading::bare(reading.value),
                    Form::Time | Form::Ctrl => reading,
                })
            }
            Some(ctrl) => {
                let (snapshot, ctrl) = Box::pin(both(answer, ctrl)).await?;
                let metadata = value::metadata(&ctrl, native);
                let choices = metadata.choices.clone().or_else(known);
                Ok(Reading {
                    metadata: Some(Arc::new(metadata)),
                    ..value::reading(snapshot, array, choices)
                })
            }
        }
    }
}

async fn both(answer: Answer<Snapshot>, ctrl: Answer<Snapshot>) -> Result<(Snapshot, Snapshot), Error> {
    Ok((answer.await.map_err(failure)?, ctrl.await.map_err(failure)?))
}
