//! The updates of one subscription that Python has not taken yet, at most so many and so large.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::value::Reading;

/// How much a lane holds: beyond it the oldest updates are dropped, the last never is.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    pub updates: usize,
    pub bytes: usize,
}

#[derive(Default)]
struct State {
    readings: VecDeque<Arc<Reading>>,
    bytes: usize,
    /// Tokens in the delivery whose reading has been dropped; they are its oldest.
    stale: usize,
    paused: bool,
    /// The last update that came during a pause.
    held: Option<Arc<Reading>>,
}

pub struct Lane {
    capacity: Capacity,
    state: Mutex<State>,
    dropped: AtomicU64,
    closed: AtomicBool,
}

/// What the delivery has to do for an update.
pub enum Pushed {
    /// Add a token; so many of the lane's oldest have become stale.
    Queued {
        stale: usize,
    },
    Ignored,
}

impl Lane {
    pub fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            state: Mutex::default(),
            dropped: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub fn paused(&self) -> bool {
        self.state.lock().paused
    }

    /// True the first time.
    pub fn close(&self) -> bool {
        let mut state = self.state.lock();
        state.stale += state.readings.len();
        state.readings.clear();
        state.held = None;
        !self.closed.swap(true, Ordering::AcqRel)
    }

    pub fn pause(&self) {
        self.state.lock().paused = true;
    }

    /// Queue what came last during the pause.
    pub fn resume(&self) -> Pushed {
        let mut state = self.state.lock();
        state.paused = false;
        match state.held.take() {
            Some(held) if !self.closed() => self.queued(&mut state, held),
            _ => Pushed::Ignored,
        }
    }

    pub fn push(&self, reading: Arc<Reading>) -> Pushed {
        let mut state = self.state.lock();
        if self.closed() {
            return Pushed::Ignored;
        }
        if state.paused {
            if state.held.replace(reading).is_some() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            return Pushed::Ignored;
        }
        self.queued(&mut state, reading)
    }

    fn queued(&self, state: &mut State, reading: Arc<Reading>) -> Pushed {
        state.bytes += reading.heap_bytes();
        state.readings.push_back(reading);
        let mut stale = 0;
        while state.readings.len() > 1
            && (state.readings.len() > self.capacity.updates || state.bytes > self.capacity.bytes)
        {
            if let Some(oldest) = state.readings.pop_front() {
                state.bytes -= oldest.heap_bytes();
                stale += 1;
            }
        }
        state.stale += stale;
        self.dropped.fetch_add(stale as u64, Ordering::Relaxed);
        Pushed::Queued { stale }
    }

    /// The reading that the lane's oldest token stands for; None for a stale one.
    pub fn redeem(&self) -> Option<Arc<Reading>> {
        let mut state = self.state.lock();
        if state.stale > 0 {
            state.stale -= 1;
            return None;
        }
        pop(&mut state)
    }

    /// The oldest reading, for a lane without tokens.
    pub fn take(&self) -> Option<Arc<Reading>> {
        pop(&mut self.state.lock())
    }

    pub fn is_empty(&self) -> bool {
        self.state.lock().readings.is_empty()
    }

    /// Whether the lane's oldest token is stale; it is counted as gone then.
    pub fn discard_stale(&self) -> bool {
        let mut state = self.state.lock();
        let stale = state.stale > 0;
        if stale {
            state.stale -= 1;
        }
        stale
    }
}

fn pop(state: &mut State) -> Option<Arc<Reading>> {
    let reading = state.readings.pop_front()?;
    state.bytes -= reading.heap_bytes();
    Some(reading)
}
