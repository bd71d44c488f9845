//! A channel's monitor on the wire.

use std::borrow::Cow;
use std::sync::{Arc, Weak};

use epics_pva_rs::client_native::ops_v2::{MonitorFlow, MonitorTermination, SubscriptionHandle, op_monitor_handle_raw};
use tokio::task::AbortHandle;

use super::link::PvaLink;
use super::normative;
use super::operation::failure;
use super::request::{encode, fields};
use super::selection::Selection;
use crate::error::{Error, Kind};
use crate::feed::{Feed, Wish};

/// Updates that wait at the server, and again here, before the last two are merged into one.
const QUEUE: u32 = 1000;

/// Ends the monitor when it is dropped.
pub struct Watching(pub AbortHandle);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Run the monitor of the present connection.
pub async fn watch(link: Weak<PvaLink>, feed: Arc<Feed>) {
    let Some(up) = link.upgrade() else { return };
    let started = start(&up, &feed).await;
    drop(up);
    let end = match started {
        Ok(handle) => match handle.wait_terminal().await {
            MonitorTermination::Failed(error) => failure(error),
            MonitorTermination::Ended => Error::new(Kind::Remote, "the server ended the monitor"),
        },
        Err(error) => error,
    };
    // A connection that was lost is the keeper's to tell.
    if end.kind != Kind::NotConnected {
        feed.fail(&end);
    }
}

async fn start(link: &Arc<PvaLink>, feed: &Arc<Feed>) -> Result<SubscriptionHandle, Error> {
    let plain = normative::has_plain_value(&link.description().await?);
    let (server, _) = link.channel.try_get_active().ok_or_else(Error::lost)?;
    let request = encode(&request(&feed.wish, plain), &server)?;
    let selection = Selection::of(feed.wish.request.as_deref())?;
    let feed = feed.clone();
    Ok(op_monitor_handle_raw(
        link.channel.clone(),
        request,
        MonitorFlow {
            pipeline: false,
            queue_size: QUEUE,
            ack_at: QUEUE,
        },
        move |desc, field| feed.update(selection.reading(desc, field, feed.wish.form)),
        |_| {},
    ))
}

/// Not pipelined: the crate's window against pvxs 1.5.3 can stop a stream until the record is posted again.
fn request(wish: &Wish, plain: bool) -> Cow<'_, str> {
    match &wish.request {
        Some(request) => (&**request).into(),
        None => format!("record[queueSize={QUEUE}]field({})", fields(wish.form, !plain)).into(),
    }
}
