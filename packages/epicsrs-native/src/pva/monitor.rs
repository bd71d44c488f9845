//! A channel's monitor on the wire.

use std::sync::{Arc, Weak};

use epics_pva_rs::client_native::ops_v2::{MonitorFlow, MonitorTermination, SubscriptionHandle, op_monitor_handle_raw};
use epics_pva_rs::proto::ByteOrder;
use epics_pva_rs::pv_request::PvRequestExpr;
use tokio::task::AbortHandle;

use super::link::PvaLink;
use super::operation::failure;
use super::value;
use crate::error::{Error, Kind};
use crate::value::Form;

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
pub async fn watch(link: Weak<PvaLink>) {
    let Some(up) = link.upgrade() else { return };
    let started = start(&up).await;
    drop(up);
    let end = match started {
        Ok(handle) => match handle.wait_terminal().await {
            MonitorTermination::Failed(error) => failure(error),
            MonitorTermination::Ended => Error::new(Kind::Remote, "the server ended the monitor"),
        },
        Err(error) => error,
    };
    // A connection that was lost is the keeper's to tell.
    if let Some(link) = link.upgrade().filter(|_| end.kind != Kind::NotConnected) {
        link.feed().fail(&end);
    }
}

async fn start(link: &Arc<PvaLink>) -> Result<SubscriptionHandle, Error> {
    let plain = value::has_plain_value(&link.description().await?);
    let request = request(link, plain)?;
    let weak = Arc::downgrade(link);
    Ok(op_monitor_handle_raw(
        link.channel.clone(),
        request,
        MonitorFlow {
            pipeline: false,
            queue_size: QUEUE,
            ack_at: QUEUE,
        },
        move |_, field| {
            if let Some(link) = weak.upgrade() {
                link.feed().update(value::reading(field, plain, Form::Time));
            }
        },
        |_| {},
    ))
}

/// Not pipelined: the crate's window against pvxs 1.5.3 can stop a stream until the record is posted again.
fn request(link: &PvaLink, plain: bool) -> Result<Vec<u8>, Error> {
    let fields = if plain { "value,alarm,timeStamp" } else { "" };
    let big_endian = link
        .channel
        .try_get_active()
        .is_some_and(|(server, _)| matches!(server.byte_order(), ByteOrder::Big));
    PvRequestExpr::parse(&format!("record[queueSize={QUEUE}]field({fields})"))
        .map(|request| request.encode(big_endian))
        .map_err(|e| Error::new(Kind::Other, format!("{e:?}")))
}
