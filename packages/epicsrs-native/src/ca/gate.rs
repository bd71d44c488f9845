//! The way to one circuit's writer: in order, and never more than it can hold.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::line::{Line, Place};

/// The crate reports a disconnect that is none from 4096 queued frames on; threads that pass at once may each add a few.
const MOST_FRAMES: usize = 2000;

/// How long the writer is given before the queue is looked at again.
pub const PAUSE: Duration = Duration::from_millis(1);

/// The queue is looked at for every so many requests: a look costs as much as a tenth of a request.
const LOOK: usize = 32;

#[derive(Default)]
pub struct Gate {
    line: Line,
    passed: AtomicUsize,
}

impl Gate {
    /// Whether one may pass at once.
    pub fn is_open(&self, queued: impl Fn() -> usize) -> bool {
        self.line.is_empty() && (!self.looks() || queued() < MOST_FRAMES)
    }

    fn looks(&self) -> bool {
        self.passed.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK)
    }

    /// Wait until the circuit has room; while the answer is held, nobody who came later passes.
    pub async fn pass(&self, queued: impl Fn() -> usize) -> Option<Place<'_>> {
        let look = self.looks();
        let place = self.line.join(|| !look || queued() < MOST_FRAMES).await?;
        while queued() >= MOST_FRAMES {
            tokio::time::sleep(PAUSE).await;
        }
        Some(place)
    }
}
