//! The way to one circuit's writer: in order, and never more than it can hold.

use std::time::Duration;

use super::line::{Line, Place};

/// The crate reports a disconnect that is none from 4096 queued frames on; threads that pass at once may each add a few.
const MOST_FRAMES: usize = 2000;

/// How long the writer is given before the queue is looked at again.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Default)]
pub struct Gate(Line);

impl Gate {
    /// Wait until the circuit has room; while the answer is held, nobody who came later passes.
    pub async fn pass(&self, queued: impl Fn() -> usize) -> Option<Place<'_>> {
        let place = self.0.join(|| queued() < MOST_FRAMES).await?;
        while queued() >= MOST_FRAMES {
            tokio::time::sleep(PAUSE).await;
        }
        Some(place)
    }
}
