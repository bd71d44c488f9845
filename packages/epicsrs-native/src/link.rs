//! One connection to one PV, whatever the protocol: every operation is dispatched here, once.

use std::sync::Arc;

use crate::ca::CaLink;
use crate::error::Error;
use crate::events::Events;
use crate::feed::{Feed, Feeds};
use crate::pva::PvaLink;
use crate::value::{Fetch, Form, Reading, Value};

#[derive(Clone)]
pub enum Link {
    Ca(Arc<CaLink>),
    Pva(Arc<PvaLink>),
}

/// What a server says of a channel.
#[derive(Clone)]
pub struct Info {
    pub address: String,
    pub type_name: String,
    pub count: Option<u64>,
    pub readable: Option<bool>,
    pub writable: Option<bool>,
    /// "connected", or "unresponsive".
    pub circuit: &'static str,
    /// pvAccess: the types of all fields.
    pub structure: Option<Value>,
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

    pub fn feeds(&self) -> &Feeds {
        match self {
            Self::Ca(link) => link.feeds(),
            Self::Pva(link) => link.feeds(),
        }
    }

    /// What keeps a channel down, where something is known of it.
    pub fn trouble(&self) -> Option<String> {
        match self {
            Self::Ca(link) => link.trouble(),
            Self::Pva(link) => link
                .refusal()
                .map(|words| format!("the server refused the channel: {words}")),
        }
    }

    pub async fn connect(self) -> Result<(), Error> {
        self.events().wait_connected().await;
        Ok(())
    }

    pub async fn get(self, fetch: Fetch) -> Result<Reading, Error> {
        if let Some(reading) = self.cached(&fetch)? {
            return Ok(reading);
        }
        let string = fetch.string;
        let mut reading = match self {
            Self::Ca(link) => link.get(fetch.form, fetch.count).await,
            // On the heap: a call of the other arm is not to carry its size.
            Self::Pva(link) => Box::pin(async move { link.get(fetch).await }).await,
        }?;
        if string {
            reading.value = reading.value.into_string()?;
        }
        Ok(reading)
    }

    /// What a running monitor of the connected channel has brought, where that will do.
    pub fn cached(&self, fetch: &Fetch) -> Result<Option<Reading>, Error> {
        let Some(last) = fetch.cached.then(|| self.feeds().last(fetch.form)).flatten() else {
            return Ok(None);
        };
        let mut reading = match fetch.form {
            Form::Value => Reading {
                received: last.received,
                ..Reading::bare(last.value.clone())
            },
            Form::Time => Reading {
                metadata: None,
                ..(*last).clone()
            },
            Form::Ctrl => (*last).clone(),
        };
        if let Some(count) = fetch.count {
            reading.value = reading.value.first(count as usize);
        }
        if fetch.string {
            reading.value = reading.value.into_string()?;
        }
        Ok(Some(reading))
    }

    pub async fn put(self, value: Value, wait: bool, request: Option<Arc<str>>) -> Result<(), Error> {
        match self {
            Self::Ca(link) => link.put(value, wait).await,
            Self::Pva(link) => Box::pin(async move { link.put(value, wait, request).await }).await,
        }
    }

    pub async fn info(self) -> Result<Info, Error> {
        match self {
            Self::Ca(link) => link.info().await,
            Self::Pva(link) => link.info().await,
        }
    }

    /// Open the feed's subscription on the wire, now or when the channel connects.
    pub fn subscribe(&self, feed: Arc<Feed>) {
        match self {
            Self::Ca(link) => link.subscribe(feed),
            Self::Pva(link) => link.subscribe(feed),
        }
    }
}
