//! Channel Access: the only user of the CA crate.

mod asked;
mod batch;
mod failure;
mod gate;
mod line;
mod link;
mod pacer;
mod properties;
mod value;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use epics_base_rs::error::eca;
use epics_ca_rs::client::{CaClient, CaException, CaOp};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::error::{Error, Kind};
pub use batch::{Batch, ask};
use failure::kind_of;
use gate::Gate;
pub use link::CaLink;
use pacer::Pacer;

/// For the last messages to the servers.
const GOODBYE: Duration = Duration::from_millis(200);

/// The process's Channel Access client.
pub struct CaContext {
    client: CaClient,
    handle: Handle,
    pacer: Arc<Pacer>,
    gates: Mutex<HashMap<SocketAddr, Arc<Gate>>>,
    links: Arc<Mutex<HashMap<String, Weak<CaLink>>>>,
}

impl CaContext {
    pub async fn open(handle: Handle) -> Result<Self, Error> {
        let client = CaClient::new()
            .await
            .map_err(|e| Error::new(Kind::Other, format!("Channel Access: {e}")))?;
        let links = Arc::<Mutex<HashMap<String, Weak<CaLink>>>>::default();
        // The CA crate would print what nobody waits for; it belongs to the channel.
        let for_handler = links.clone();
        client.set_exception_handler(move |exception| refused(&for_handler, exception));
        Ok(Self {
            client,
            handle,
            pacer: Arc::default(),
            gates: Mutex::default(),
            links,
        })
    }

    /// Tell the servers that every channel is gone.
    pub async fn close(&self) {
        let _ = tokio::time::timeout(GOODBYE, self.client.shutdown()).await;
    }

    /// The one link to this PV; a new one starts to search at once.
    pub fn link(self: &Arc<Self>, name: &str) -> Arc<CaLink> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(name).and_then(Weak::upgrade) {
            return link;
        }
        let link = CaLink::open(self, name);
        links.insert(name.to_owned(), Arc::downgrade(&link));
        link
    }
}

/// An error that the server sent to nobody in particular: a put without wait that it refused.
fn refused(links: &Mutex<HashMap<String, Weak<CaLink>>>, exception: &CaException) {
    // Only a put has nobody who waits for its refusal.
    if exception.op != CaOp::Put {
        return;
    }
    let Some(name) = &exception.pv_name else { return };
    let link = links.lock().get(name.as_str_lossy().as_ref()).and_then(Weak::upgrade);
    if let Some(link) = link {
        let reason = exception.status.map_or_else(
            || String::from_utf8_lossy(&exception.message).into_owned(),
            |status| eca::eca_message(status).to_owned(),
        );
        let kind = kind_of(exception.status.unwrap_or_default());
        link.events().refuse(Error::refused(kind, " a put", reason));
    }
}
