//! Panics of the crates below: counted, logged with their place, and never Python's to see.

use std::any::Any;
use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Kind};

static CAUGHT: AtomicU64 = AtomicU64::new(0);

/// Count and log every panic of this module's threads instead of printing it.
pub fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        panic::set_hook(Box::new(|info| {
            CAUGHT.fetch_add(1, Ordering::Relaxed);
            let place = info
                .location()
                .map_or_else(|| "unknown".to_owned(), ToString::to_string);
            tracing::error!(%place, "panic: {}", words(info.payload()));
        }));
    });
}

pub fn caught() -> u64 {
    CAUGHT.load(Ordering::Relaxed)
}

/// The error of a call that panicked.
pub fn error(panic: &(dyn Any + Send)) -> Error {
    Error::new(Kind::Other, format!("internal error: {}", words(panic)))
}

fn words(payload: &dyn Any) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
