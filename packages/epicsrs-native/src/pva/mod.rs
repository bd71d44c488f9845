//! pvAccess: the only user of the PVA crate.

mod field;
mod link;
mod monitor;
mod normative;
mod operation;
mod put;
mod request;
mod selection;
mod type_name;
mod value;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use epics_base_rs::runtime::task::Reactor;
use epics_base_rs::types::PvString;
use epics_pva_rs::auth::{authnz_default_host, authnz_default_user};
use epics_pva_rs::client_native::channel::{Channel, ConnectionPool};
use epics_pva_rs::client_native::search_engine::{ClientSearchConfig, SearchEngine};
use epics_pva_rs::config::env::Config;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::error::{Error, Kind};
pub use link::PvaLink;

/// Whether this is a pvRequest.
pub fn check_request(text: &str) -> Result<(), Error> {
    request::parsed(text).map(drop)
}

/// One attempt to open a circuit and a channel on it; the next follows by itself.
const ATTEMPT: Duration = Duration::from_secs(5);
/// No message may be larger; a circuit that announces one is closed.
const MOST_BYTES: usize = 256 << 20;

/// First searches that may be unanswered at once.
const MOST_SEARCHES: usize = 1000;

/// The process's pvAccess client.
pub struct PvaContext {
    handle: Handle,
    reactor: Reactor,
    search: SearchEngine,
    pool: Arc<ConnectionPool>,
    user: PvString,
    host: PvString,
    tcp_timeout: Duration,
    /// Whose turn it is to search for the first time.
    searching: Arc<Semaphore>,
    links: Mutex<HashMap<String, Weak<PvaLink>>>,
}

impl PvaContext {
    pub async fn open(handle: Handle) -> Result<Self, Error> {
        let reactor =
            Reactor::current().ok_or_else(|| Error::new(Kind::Other, "pvAccess: opened outside of the runtime"))?;
        let config = Config::from_client_env();
        let (user, host) = (authnz_default_user(), authnz_default_host());
        let tcp_timeout = config.enforced_tcp_timeout();
        let search = SearchEngine::spawn_with_config(
            &reactor,
            ClientSearchConfig::from_config(&config),
            Vec::new(),
            config.name_servers.clone(),
            user.clone(),
            host.clone(),
            tcp_timeout,
        )
        .await
        .map_err(|e| Error::new(Kind::Other, format!("pvAccess: {e}")))?;
        let pool = ConnectionPool::new();
        pool.set_max_message_size(Some(MOST_BYTES));
        Ok(Self {
            handle,
            reactor,
            search,
            pool,
            user,
            host,
            tcp_timeout,
            searching: Arc::new(Semaphore::new(MOST_SEARCHES)),
            links: Mutex::default(),
        })
    }

    /// Close every circuit.
    pub fn close(&self) {
        self.pool.clear();
    }

    /// The one link to this PV; a new one starts to search at once.
    pub fn link(self: &Arc<Self>, name: &str) -> Arc<PvaLink> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(name).and_then(Weak::upgrade) {
            return link;
        }
        let link = PvaLink::open(self, name);
        links.insert(name.to_owned(), Arc::downgrade(&link));
        link
    }

    fn channel(&self, name: &str) -> Arc<Channel> {
        Arc::new(Channel::new(
            self.reactor.clone(),
            name.to_owned(),
            self.user.clone(),
            self.host.clone(),
            ATTEMPT,
            self.tcp_timeout,
            self.pool.clone(),
            self.search.clone(),
        ))
    }
}
