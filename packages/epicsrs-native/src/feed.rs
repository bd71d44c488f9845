//! One subscription on the wire, shared by all who monitor the channel.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Error;
use crate::value::Reading;

/// Takes updates on the network's side: it only queues.
pub type Sink = Arc<dyn Fn(Result<&Arc<Reading>, &Error>) + Send + Sync>;

#[derive(Default)]
struct State {
    sinks: Vec<(u64, Sink)>,
    next: u64,
    last: Option<Arc<Reading>>,
    failed: Option<Error>,
    /// What keeps the subscription on the wire; dropping it cancels.
    wire: Option<Box<dyn Any + Send>>,
    closed: bool,
}

/// A channel's feed; empty until the first sink joins.
#[derive(Default)]
pub struct Feed(Mutex<State>);

/// What a sink found when it joined.
pub enum Joined {
    /// The first: the caller opens the subscription on the wire.
    First(u64),
    Later(u64),
}

impl Feed {
    /// Add a sink; one that comes late is given the last update, in order with those that follow.
    pub fn join(&self, sink: Sink) -> Joined {
        let mut state = self.0.lock();
        state.next += 1;
        let id = state.next;
        let first = state.sinks.is_empty();
        if first {
            state.closed = false;
            state.failed = None;
            state.last = None;
        }
        if let Some(last) = &state.last {
            sink(Ok(last));
        }
        if let Some(error) = &state.failed {
            sink(Err(error));
        }
        state.sinks.push((id, sink));
        if first { Joined::First(id) } else { Joined::Later(id) }
    }

    /// Remove a sink; the last one closes the subscription on the wire.
    pub fn leave(&self, id: u64) {
        let mut state = self.0.lock();
        state.sinks.retain(|(other, _)| *other != id);
        if state.sinks.is_empty() {
            state.closed = true;
            state.last = None;
            let wire = state.wire.take();
            // Dropped outside of the lock: it may call back into the protocol.
            drop(state);
            drop(wire);
        }
    }

    /// Keep what holds the subscription open, unless everybody left while it was opened.
    pub fn opened(&self, wire: Box<dyn Any + Send>) {
        let mut state = self.0.lock();
        if !state.closed {
            state.wire = Some(wire);
        }
    }

    pub fn is_open(&self) -> bool {
        !self.0.lock().sinks.is_empty()
    }

    pub fn update(&self, reading: Reading) {
        let mut state = self.0.lock();
        state.failed = None;
        let reading = Arc::new(reading);
        for (_, sink) in &state.sinks {
            sink(Ok(&reading));
        }
        state.last = Some(reading);
    }

    pub fn fail(&self, error: &Error) {
        let mut state = self.0.lock();
        for (_, sink) in &state.sinks {
            sink(Err(error));
        }
        state.failed = Some(error.clone());
    }

    /// The channel went down: what was last is no longer the present.
    pub fn went_down(&self) {
        self.0.lock().last = None;
    }
}
