//! Reads of many channels at once: one message and one wait for each circuit, not a future for each read.

use epics_base_rs::types::{DbFieldType, decode_dbr};
use epics_ca_rs::client::{BatchRead, BatchReply};

use super::CaLink;
use super::failure::failure;
use super::value;
use crate::error::Error;
use crate::link::Link;
use crate::value::{Choices, Form, Reading};

/// Reads of one circuit that have been sent.
pub struct Batch {
    sent: BatchRead,
    form: Form,
}

/// Ask those of `links` that can be asked at once, each with its place, for all that they hold.
///
/// The others - a channel that is down, one that denies reading, a long array, a circuit without room - are in no batch.
pub fn ask<'a>(links: impl Iterator<Item = (usize, &'a CaLink)>, form: Form) -> Vec<Batch> {
    let mut links = links.peekable();
    let Some((_, first)) = links.peek() else {
        return Vec::new();
    };
    let context = first.context();
    let short = links.filter(|(_, link)| link.is_short());
    let channels = short.filter_map(|(place, link)| Some((place, link.free()?)));
    let sent = context.client.send_reads(channels, form != Form::Value).into_iter();
    sent.map(|sent| Batch { sent, form }).collect()
}

impl Batch {
    /// The links that are asked here.
    pub fn places(&self) -> impl Iterator<Item = usize> {
        self.sent.places()
    }

    /// Resolves when there is an answer to each, or its circuit is lost.
    pub async fn answered(&self) {
        self.sent.answered().await;
    }

    /// What has come, each with its place in `links`; nothing for a read that has no answer yet.
    pub fn results(self, links: &[Link], mut take: impl FnMut(usize, Result<Reading, Error>)) {
        let Self { sent, form } = self;
        sent.replies(|place, reply| {
            let choices = || match links.get(place) {
                Some(Link::Ca(link)) => link.known_choices(),
                _ => None,
            };
            take(
                place,
                reply.map_err(failure).and_then(|reply| reading(&reply, form, choices)),
            );
        });
    }
}

fn reading(reply: &BatchReply<'_>, form: Form, known: impl FnOnce() -> Option<Choices>) -> Result<Reading, Error> {
    let array = reply.element_count > 1;
    let choices = if reply.native == DbFieldType::Enum {
        known()
    } else {
        None
    };
    if !array
        && reply.count == 1
        && let Some(reading) = value::time_scalar(reply.data_type, reply.data, choices.clone())
    {
        return Ok(reading);
    }
    let snapshot = decode_dbr(reply.data_type, reply.data, reply.count as usize).map_err(failure)?;
    let reading = value::reading(snapshot, array, choices);
    Ok(match form {
        Form::Value => Reading::bare(reading.value),
        Form::Time | Form::Ctrl => reading,
    })
}
