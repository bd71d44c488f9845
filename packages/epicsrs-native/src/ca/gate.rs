//! The way to one circuit's writer: first come, first served, and never more than it can hold.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

/// The crate reports a disconnect that is none from 4096 queued frames on; threads that pass at once may each add a few.
const MOST_FRAMES: usize = 2000;

/// How long the writer is given before the queue is looked at again.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Default)]
pub struct Gate {
    waiting: AtomicUsize,
    // Fair: tokio's mutex serves in the order of the first poll.
    turn: Mutex<()>,
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

impl Gate {
    /// Wait until the circuit has room; while the answer is held, nobody who came later passes.
    pub async fn pass(&self, queued: impl Fn() -> usize) -> Option<MutexGuard<'_, ()>> {
        if self.waiting.load(Ordering::Acquire) == 0 && queued() < MOST_FRAMES {
            return None;
        }
        let _waiting = Waiting::new(&self.waiting);
        let turn = self.turn.lock().await;
        while queued() >= MOST_FRAMES {
            tokio::time::sleep(PAUSE).await;
        }
        Some(turn)
    }
}
