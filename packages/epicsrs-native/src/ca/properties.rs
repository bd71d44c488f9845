//! A channel's properties: units, precision, choices and limits, as its server tells them now.

use std::sync::Arc;

use crate::feed::Feed;
use crate::value::{Choices, Form, Metadata, Reading};

/// What is known on the present connection, and the updates that wait for it.
#[derive(Default)]
pub enum Properties {
    /// Nobody has asked.
    #[default]
    Unknown,
    Asked(Vec<(Arc<Feed>, Reading)>),
    Known(Arc<Metadata>),
}

impl Properties {
    pub fn choices(&self) -> Option<Choices> {
        match self {
            Self::Known(metadata) => metadata.choices.clone().filter(|choices| !choices.is_empty()),
            _ => None,
        }
    }

    /// An update has come: hand it on, or keep it until it can say all that it should.
    pub fn pass(&mut self, feed: &Arc<Feed>, reading: Reading, enumerated: bool) {
        match self {
            Self::Asked(waiting) if enumerated || feed.wish.form == Form::Ctrl => waiting.push((feed.clone(), reading)),
            Self::Known(metadata) => feed.update(dressed(feed, reading, metadata)),
            _ => feed.update(reading),
        }
    }

    /// They are known now: the updates that waited go out, in order.
    pub fn know(&mut self, metadata: Arc<Metadata>) -> News {
        match std::mem::replace(self, Self::Known(metadata.clone())) {
            Self::Known(before) if before.same(&metadata) => News::None,
            Self::Known(_) => News::Changed,
            Self::Unknown => News::First,
            Self::Asked(waited) => {
                for (feed, reading) in waited {
                    feed.update(dressed(&feed, reading, &metadata));
                }
                News::First
            }
        }
    }
}

/// What is new about properties that have come.
pub enum News {
    /// The first on this connection.
    First,
    Changed,
    None,
}

fn dressed(feed: &Feed, mut reading: Reading, metadata: &Arc<Metadata>) -> Reading {
    reading.value = reading.value.relabelled(metadata.choices.as_ref());
    reading.metadata = (feed.wish.form == Form::Ctrl).then(|| metadata.clone());
    reading
}
