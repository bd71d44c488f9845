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
        // Whoever comes here has found the gate closed, or nobody has looked yet.
        let place = self.line.join(|| queued() < MOST_FRAMES).await?;
        while queued() >= MOST_FRAMES {
            tokio::time::sleep(PAUSE).await;
        }
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn few_pass_while_the_circuit_is_full() {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let gate = Gate::default();
        let full = || MOST_FRAMES;
        let mut waiting = Vec::new();
        for _ in 0..10 * LOOK {
            if !gate.is_open(full) {
                let mut place = Box::pin(gate.pass(full));
                assert!(place.as_mut().now_or_never().is_none());
                waiting.push(place);
            }
        }
        assert!(waiting.len() >= 9 * LOOK);
    }
}
