//! The process's one client: a driver and the contexts of both protocols, each opened at its first channel.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::ca::CaContext;
use crate::driver::Driver;
use crate::error::{Error, Kind};
use crate::link::Link;
use crate::pva::PvaContext;

/// What is open on a client, and ends with it.
pub trait Opened: Send + Sync {
    fn end(&self);
}

/// What was opened through something and ends with it; None when that has ended.
pub struct Held(Mutex<Option<Vec<Weak<dyn Opened>>>>);

impl Default for Held {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

impl Held {
    /// Have this end with the rest, or at once where the rest has ended meanwhile.
    pub fn keep(&self, opened: &Arc<dyn Opened>) {
        let mut held = self.0.lock();
        let Some(list) = &mut *held else {
            drop(held);
            opened.end();
            return;
        };
        // What has ended leaves the list before it has to grow.
        if list.len() == list.capacity() {
            list.retain(|other| other.strong_count() > 0);
        }
        list.push(Arc::downgrade(opened));
    }

    pub fn end(&self) {
        let held = self.0.lock().take();
        for opened in held.iter().flatten().filter_map(Weak::upgrade) {
            opened.end();
        }
    }
}

pub struct Client {
    pub driver: Arc<Driver>,
    ca: Mutex<Option<Arc<CaContext>>>,
    pva: Mutex<Option<Arc<PvaContext>>>,
    closed: AtomicBool,
    pub held: Held,
}

/// A PV's protocol and the name its server knows.
pub fn parse(pv: &str) -> Result<(&'static str, &str), Error> {
    /// A search is one datagram of at most 1024 bytes with its headers (caProto.h, MAX_UDP_SEND).
    const LONGEST: usize = 1000;
    let (protocol, name) = match (pv.strip_prefix("ca://"), pv.strip_prefix("pva://")) {
        (Some(name), _) => ("ca", name),
        (_, Some(name)) => ("pva", name),
        (None, None) => ("ca", pv),
    };
    // A channel filter may hold "://" in its text, behind a brace.
    if let Some((scheme, _)) = name.split_once("://").filter(|(scheme, _)| !scheme.contains('{')) {
        return Err(Error::value(format!(
            "unknown scheme {scheme:?}; use ca://, pva:// or the bare name"
        )));
    }
    if name.is_empty() {
        return Err(Error::value("a PV's name is empty"));
    }
    if name.len() > LONGEST {
        return Err(Error::value(format!(
            "a PV's name has {} bytes, at most {LONGEST} can be searched",
            name.len()
        )));
    }
    if let Some(odd) = name.chars().find(|c| !c.is_ascii() || c.is_ascii_control()) {
        return Err(Error::value(format!("{odd:?} cannot stand in a PV's name")));
    }
    Ok((protocol, name))
}

impl Client {
    pub fn start() -> Result<Arc<Self>, Error> {
        let driver = Driver::start().map_err(|e| Error::new(Kind::Other, format!("no network thread: {e}")))?;
        Ok(Arc::new(Self {
            driver,
            ca: Mutex::default(),
            pva: Mutex::default(),
            closed: AtomicBool::new(false),
            held: Held::default(),
        }))
    }

    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.held.end();
        let (ca, pva) = (self.ca.lock().take(), self.pva.lock().take());
        if let Some(pva) = pva {
            pva.close();
        }
        if let Some(ca) = ca {
            self.driver.block_on(ca.close());
        }
        self.driver.stop();
    }

    pub fn link(&self, pv: &str) -> Result<Link, Error> {
        match parse(pv)? {
            ("pva", name) => Ok(Link::Pva(self.pva()?.link(name))),
            (_, name) => Ok(Link::Ca(self.ca()?.link(name))),
        }
    }

    fn ca(&self) -> Result<Arc<CaContext>, Error> {
        let mut ca = self.ca.lock();
        if let Some(context) = &*ca {
            return Ok(context.clone());
        }
        let handle = self.driver.handle().clone();
        let context = Arc::new(self.driver.block_on(CaContext::open(handle))?);
        *ca = Some(context.clone());
        Ok(context)
    }

    fn pva(&self) -> Result<Arc<PvaContext>, Error> {
        let mut pva = self.pva.lock();
        if let Some(context) = &*pva {
            return Ok(context.clone());
        }
        let handle = self.driver.handle().clone();
        let context = Arc::new(self.driver.block_on(PvaContext::open(handle))?);
        *pva = Some(context.clone());
        Ok(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_schemes() {
        assert_eq!(parse("X").unwrap(), ("ca", "X"));
        assert_eq!(parse("ca://X").unwrap(), ("ca", "X"));
        assert_eq!(parse("pva://X").unwrap(), ("pva", "X"));
        for bad in ["", "pva://", "http://X", "a\0b", "µ", &"x".repeat(1001)] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
