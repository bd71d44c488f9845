//! One connection to one PV, whatever the protocol: every operation is dispatched here, once.

use std::sync::Arc;

use crate::ca::CaLink;
use crate::error::Error;
use crate::events::Events;
use crate::feed::Feed;
use crate::pva::PvaLink;
use crate::value::{Form, Reading, Value};

#[derive(Clone)]
pub enum Link {
    Ca(Arc<CaLink>),
    Pva(Arc<PvaLink>),
}

/// What a server says of a channel.
#[derive(Clone, Debug)]
pub struct Info {
    pub address: String,
    pub type_name: String,
    pub count: Option<u64>,
    pub readable: Option<bool>,
    pub writable: Option<bool>,
}

impl Link {
    pub fn protocol(&self) -> &'static str {
        match self {
            Self::Ca(_) => "ca",
            Self::Pva(_) => "pva",
        }
    }

    pub fn events(&self) -> &Events {
        match self {
            Self::Ca(link) => link.events(),
            Self::Pva(link) => link.events(),
        }
    }

    pub fn feed(&self) -> &Feed {
        match self {
            Self::Ca(link) => link.feed(),
            Self::Pva(link) => link.feed(),
        }
    }

    pub async fn connect(self) -> Result<(), Error> {
        self.events().wait_connected().await;
        Ok(())
    }

    pub async fn get(self, form: Form, count: Option<u32>) -> Result<Reading, Error> {
        match self {
            Self::Ca(link) => link.get(form, count).await,
            Self::Pva(link) => link.get(form, count).await,
        }
    }

    pub async fn put(self, value: Value, wait: bool) -> Result<(), Error> {
        match self {
            Self::Ca(link) => link.put(value, wait).await,
            Self::Pva(link) => link.put(value, wait).await,
        }
    }

    pub async fn info(self) -> Result<Info, Error> {
        match self {
            Self::Ca(link) => link.info().await,
            Self::Pva(link) => link.info().await,
        }
    }

    /// Open the feed's subscription on the wire, now or when the channel connects.
    pub fn subscribe(&self) {
        match self {
            Self::Ca(link) => link.subscribe(),
            Self::Pva(link) => link.subscribe(),
        }
    }
}
