//! Subscriptions on the wire, each shared by all who monitor the channel in the same way.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::error::Error;
use crate::value::{Form, Metadata, Reading};

/// Takes updates on the network's side: it only queues.
pub type Sink = Arc<dyn Fn(Result<&Arc<Reading>, &Error>) + Send + Sync>;

/// Without it a monitor is not told of new values (caeventmask.h).
pub const DBE_VALUE: u16 = 1;

/// What a monitor asks of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub form: Form,
    /// Channel Access: the events that make an update (DBE bits of caeventmask.h).
    pub mask: u16,
    /// An array of characters is the text in it.
    pub string: bool,
    /// pvAccess: a pvRequest in place of the one that `form` means.
    pub request: Option<Arc<str>>,
}

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

/// One subscription; on the wire while somebody takes its updates.
pub struct Feed {
    pub wish: Wish,
    state: Mutex<State>,
}

/// What a sink found when it joined.
pub enum Joined {
    /// The first: the caller opens the subscription on the wire.
    First(u64),
    Later(u64),
}

/// A channel's feeds.
#[derive(Default)]
pub struct Feeds(Mutex<Vec<Arc<Feed>>>);

impl Feeds {
    /// The one feed for this wish.
    pub fn of(&self, wish: &Wish) -> Arc<Feed> {
        let mut feeds = self.0.lock();
        if let Some(feed) = feeds.iter().find(|feed| feed.wish == *wish) {
            return feed.clone();
        }
        let feed = Arc::new(Feed {
            wish: wish.clone(),
            state: Mutex::default(),
        });
        feeds.push(feed.clone());
        feed
    }

    /// Those that somebody takes updates of.
    pub fn open(&self) -> Vec<Arc<Feed>> {
        self.0.lock().iter().filter(|feed| feed.is_open()).cloned().collect()
    }

    /// The last update that has what `form` fetches, of a running monitor that is told each value.
    pub fn last(&self, form: Form) -> Option<Arc<Reading>> {
        let feeds = self.0.lock();
        let serves =
            |wish: &Wish| wish.request.is_none() && !wish.string && wish.form >= form && wish.mask & DBE_VALUE != 0;
        let mut serving = feeds.iter().filter(|feed| serves(&feed.wish));
        serving.find_map(|feed| feed.state.lock().last.clone())
    }

    pub fn went_down(&self) {
        for feed in self.0.lock().iter() {
            feed.went_down();
        }
    }
}

impl Feed {
    /// Add a sink; one that comes late is given the last update, in order with those that follow.
    pub fn join(&self, sink: Sink) -> Joined {
        let mut state = self.state.lock();
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
        let mut state = self.state.lock();
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
        let mut state = self.state.lock();
        let gone = if state.closed {
            Some(wire)
        } else {
            state.wire.replace(wire)
        };
        drop(state);
        drop(gone);
    }

    pub fn is_open(&self) -> bool {
        !self.state.lock().sinks.is_empty()
    }

    pub fn update(&self, mut reading: Reading) {
        reading.received = Some(Instant::now());
        if self.wish.string {
            reading.value = match reading.value.into_string() {
                Ok(text) => text,
                Err(error) => return self.fail(&error),
            };
        }
        send(&mut self.state.lock(), reading);
    }

    /// The properties changed, and the value did not.
    pub fn refresh(&self, metadata: &Arc<Metadata>) {
        let mut state = self.state.lock();
        let Some(last) = &state.last else { return };
        let mut reading = (**last).clone();
        reading.metadata = Some(metadata.clone());
        reading.value = reading.value.relabelled(metadata.choices.as_ref());
        send(&mut state, reading);
    }

    pub fn fail(&self, error: &Error) {
        let mut state = self.state.lock();
        for (_, sink) in &state.sinks {
            sink(Err(error));
        }
        state.failed = Some(error.clone());
    }

    /// The channel went down: what was last is no longer the present.
    fn went_down(&self) {
        self.state.lock().last = None;
    }
}

fn send(state: &mut State, reading: Reading) {
    state.failed = None;
    let reading = Arc::new(reading);
    for (_, sink) in &state.sinks {
        sink(Ok(&reading));
    }
    state.last = Some(reading);
}
