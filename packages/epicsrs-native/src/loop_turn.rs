//! What an event loop has asked for since it was last answered.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[derive(Default)]
pub struct LoopTurn {
    called: AtomicUsize,
    /// Calls are held until the loop says that its turn is over.
    held: AtomicBool,
}

impl LoopTurn {
    /// Count a call; how many there were before it since the loop was answered.
    pub fn call(&self) -> usize {
        self.called.fetch_add(1, Ordering::Relaxed)
    }

    pub fn answered(&self) {
        self.called.store(0, Ordering::Relaxed);
    }

    pub fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
    }

    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    pub fn end(&self) {
        self.held.store(false, Ordering::Relaxed);
    }
}
