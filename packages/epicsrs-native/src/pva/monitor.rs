//! A channel's monitor on the wire.

use std::sync::Arc;

use epics_pva_rs::client_native::ops_v2::{MonitorConnEvent, MonitorFlow, MonitorTermination, op_monitor_handle_raw};
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

/// Ends the monitor with the feed.
pub struct Watching(pub AbortHandle);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Run the monitor, over reconnects, until the feed is closed or the server ends it.
pub async fn watch(link: Arc<PvaLink>, plain: bool) {
    let (updated, moved) = (Arc::downgrade(&link), Arc::downgrade(&link));
    let Ok(request) = monitor_request(&link, plain) else {
        return;
    };
    let handle = op_monitor_handle_raw(
        link.channel.clone(),
        request,
        MonitorFlow {
            pipeline: false,
            queue_size: QUEUE,
            ack_at: QUEUE,
        },
        move |_, field| {
            if let Some(link) = updated.upgrade() {
                link.feed().update(value::reading(field, plain, Form::Time));
            }
        },
        move |event| {
            if let (MonitorConnEvent::Disconnected, Some(link)) = (event, moved.upgrade()) {
                link.feed().went_down();
            }
        },
    );
    let weak = Arc::downgrade(&link);
    drop(link);
    let end = handle.wait_terminal().await;
    if let Some(link) = weak.upgrade() {
        link.feed().fail(&match end {
            MonitorTermination::Failed(error) => failure(error),
            MonitorTermination::Ended => Error::new(Kind::Remote, "the server ended the monitor"),
        });
    }
}

/// Not pipelined: pvxs 1.5.3 stops for good when the window is used up, until the record is posted again.
fn monitor_request(link: &PvaLink, plain: bool) -> Result<Vec<u8>, Error> {
    let fields = if plain { "value,alarm,timeStamp" } else { "" };
    let big_endian = link
        .channel
        .try_get_active()
        .is_some_and(|(server, _)| matches!(server.byte_order(), ByteOrder::Big));
    PvRequestExpr::parse(&format!("record[queueSize={QUEUE}]field({fields})"))
        .map(|request| request.encode(big_endian))
        .map_err(|e| Error::new(Kind::Other, format!("{e:?}")))
}
