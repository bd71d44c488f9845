//! What happens to one channel, and who wants to know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::Error;

#[derive(Clone, Debug)]
pub enum Event {
    Connection(bool),
    /// Read, write; None where the protocol cannot say.
    Access(Option<bool>, Option<bool>),
    /// A put that nobody waits for was refused, or a monitor was.
    Refused(Error),
}

/// Takes events on the network's side: it only queues.
pub type Listener = Arc<dyn Fn(&Event) + Send + Sync>;

#[derive(Default)]
struct State {
    listeners: Vec<(u64, Listener)>,
    next: u64,
    access: (Option<bool>, Option<bool>),
}

/// One channel's connection, access rights and refusals.
#[derive(Default)]
pub struct Events {
    up: AtomicBool,
    came: Notify,
    state: Mutex<State>,
    refused: AtomicU64,
}

impl Events {
    pub fn connected(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Resolves when the channel is connected.
    pub async fn wait_connected(&self) {
        loop {
            // First the ear, then the look: a connection in between is heard.
            let came = self.came.notified();
            if self.connected() {
                return;
            }
            came.await;
        }
    }

    pub fn refusals(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub fn access(&self) -> (Option<bool>, Option<bool>) {
        self.state.lock().access
    }

    /// The channel came up with these rights.
    pub fn came_up(&self, access: (Option<bool>, Option<bool>)) {
        let mut state = self.state.lock();
        if self.up.swap(true, Ordering::AcqRel) {
            return;
        }
        state.access = access;
        tell(&state, &Event::Access(access.0, access.1));
        tell(&state, &Event::Connection(true));
        self.came.notify_waiters();
    }

    pub fn went_down(&self) {
        let state = self.state.lock();
        if self.up.swap(false, Ordering::AcqRel) {
            tell(&state, &Event::Connection(false));
        }
    }

    /// The server changed the rights of a connected channel.
    pub fn access_changed(&self, access: (Option<bool>, Option<bool>)) {
        let mut state = self.state.lock();
        if self.connected() && state.access != access {
            state.access = access;
            tell(&state, &Event::Access(access.0, access.1));
        }
    }

    /// A put that nobody waits for was refused.
    pub fn refuse(&self, error: Error) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.report(error);
    }

    pub fn report(&self, error: Error) {
        tell(&self.state.lock(), &Event::Refused(error));
    }

    /// Add a listener; it is told the present state first, and nothing happens in between.
    pub fn listen(&self, listener: Listener) -> u64 {
        let mut state = self.state.lock();
        let up = self.connected();
        if up {
            listener(&Event::Access(state.access.0, state.access.1));
        }
        listener(&Event::Connection(up));
        state.next += 1;
        let id = state.next;
        state.listeners.push((id, listener));
        id
    }

    pub fn forget(&self, id: u64) {
        self.state.lock().listeners.retain(|(other, _)| *other != id);
    }
}

fn tell(state: &State, event: &Event) {
    for (_, listener) in &state.listeners {
        listener(event);
    }
}
