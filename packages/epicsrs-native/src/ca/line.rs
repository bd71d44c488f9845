//! First come, first served: requests that have to wait go before all that come later.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard};

#[derive(Default)]
pub struct Line {
    waiting: AtomicUsize,
    // Fair: tokio's mutex serves in the order of the first poll.
    turn: Mutex<()>,
}

/// Whose turn it is; nobody passes until it is dropped.
pub struct Place<'a> {
    _turn: MutexGuard<'a, ()>,
    // Dropped last: until then the others line up behind.
    _waiting: Waiting<'a>,
}

/// Counts a request that waits, also when its future is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Line {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0
    }

    /// None where nobody waits and the way is free; else the place, when all who came before have gone.
    pub async fn join(&self, free: impl Fn() -> bool) -> Option<Place<'_>> {
        if self.is_empty() && free() {
            return None;
        }
        let waiting = Waiting::new(&self.waiting);
        Some(Place {
            _turn: self.turn.lock().await,
            _waiting: waiting,
        })
    }
}
