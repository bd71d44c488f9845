//! The one way from the network to Python: a bounded queue, drained by its owner.
//!
//! A monitor's updates wait in its lane; the queue holds one token for each, so that the updates of all lanes keep the
//! order of the wire and a lane that overflows drops its own oldest without anything being moved.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::error::Error;
use crate::event_loop::is_operation;
use crate::events::Event;
use crate::loop_turn::LoopTurn;
use crate::outcome::{Outcome, finish, outcome};
use crate::reading::Reading;
use crate::subscription::{Subscriber, Turn};
use crate::watch::Watcher;

/// Taken at once by the owner: one GIL take for so many.
const BATCH: usize = 512;
/// Stale tokens are swept out when they are more than half of the queue, and at least so many.
const SWEEP: usize = 1024;

pub enum Item {
    /// The oldest update of this subscriber's lane.
    Update(Arc<Subscriber>),
    /// Somebody awaits the next update of this subscriber's lane.
    Next(Turn, Py<PyAny>),
    Event(Arc<Watcher>, Event),
    Call(Py<PyAny>, Py<PyTuple>),
    Completion(Py<PyAny>, Arc<str>, Box<Result<Outcome, Error>>),
}

impl Item {
    fn is_awaited(&self) -> bool {
        matches!(self, Self::Next(..) | Self::Completion(..))
    }
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    stale: usize,
    waiting: usize,
    /// The loop has been told and has not drained yet.
    woken: bool,
    closed: bool,
}

#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    ready: Condvar,
    /// What an event loop watches: ours to write, the loop's to read.
    wake: OnceLock<(UnixStream, UnixStream)>,
    pub turn: LoopTurn,
}

static QUEUES: Mutex<Vec<Weak<Queue>>> = Mutex::new(Vec::new());
/// The default delivery's, whose thread also hands on log records.
static DEFAULT: Mutex<Option<Weak<Queue>>> = Mutex::new(None);

/// Something waits beside the queues for the default delivery's thread.
pub fn wake_default() {
    let queue = DEFAULT.lock().as_ref().and_then(Weak::upgrade);
    if let Some(queue) = queue {
        // Whoever has looked and found nothing waits by now, or will find it.
        drop(queue.state.lock());
        queue.ready.notify_all();
    }
}

pub fn default_is_open() -> bool {
    let queue = DEFAULT.lock().as_ref().and_then(Weak::upgrade);
    queue.is_some_and(|queue| !queue.closed())
}

/// Close every delivery of the process.
pub fn close_all() {
    let queues = std::mem::take(&mut *QUEUES.lock());
    for queue in queues.iter().filter_map(Weak::upgrade) {
        queue.close();
    }
}

impl Queue {
    pub fn new() -> Arc<Self> {
        let queue = Arc::new(Self::default());
        let mut all = QUEUES.lock();
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&queue));
        queue
    }

    pub fn closed(&self) -> bool {
        self.state.lock().closed
    }

    /// How much waits, stale tokens left out.
    pub fn pending(&self) -> usize {
        let state = self.state.lock();
        state.items.len().saturating_sub(state.stale)
    }

    /// Whether it is the default delivery's.
    pub fn is_default(&self) -> bool {
        DEFAULT
            .lock()
            .as_ref()
            .is_some_and(|queue| std::ptr::eq(queue.as_ptr(), self))
    }

    pub fn make_default(self: &Arc<Self>) {
        *DEFAULT.lock() = Some(Arc::downgrade(self));
    }

    /// What becomes readable when something is due.
    pub fn descriptor(&self) -> io::Result<RawFd> {
        if let Some((_, theirs)) = self.wake.get() {
            return Ok(theirs.as_raw_fd());
        }
        let (ours, theirs) = UnixStream::pair()?;
        for end in [&ours, &theirs] {
            end.set_nonblocking(true)?;
        }
        let (_, theirs) = self.wake.get_or_init(|| (ours, theirs));
        let descriptor = theirs.as_raw_fd();
        let mut state = self.state.lock();
        if !state.items.is_empty() {
            self.wake(&mut state);
        }
        Ok(descriptor)
    }

    pub fn call(&self, function: Py<PyAny>, arguments: Py<PyTuple>) {
        self.push(Item::Call(function, arguments));
    }

    fn push(&self, item: Item) {
        let mut state = self.state.lock();
        // Who awaits something is told, whatever has been closed meanwhile.
        if state.closed && !item.is_awaited() {
            return;
        }
        state.items.push_back(item);
        self.wake(&mut state);
    }

    fn wake(&self, state: &mut State) {
        if state.waiting > 0 {
            self.ready.notify_one();
        }
        if let Some((ours, _)) = self.wake.get()
            && !state.woken
        {
            state.woken = true;
            // A full socket has woken the loop already.
            let _ = (&*ours).write(&[1]);
        }
    }

    /// One more update has been pushed to the subscriber's lane, and so many of its oldest dropped.
    pub fn updated(&self, subscriber: &Arc<Subscriber>, stale: usize) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.items.push_back(Item::Update(subscriber.clone()));
        state.stale += stale;
        if state.stale > SWEEP && state.stale > state.items.len() / 2 {
            sweep(&mut state);
        }
        self.wake(&mut state);
    }

    pub fn next(&self, turn: Turn, operation: Py<PyAny>) {
        self.push(Item::Next(turn, operation));
    }

    pub fn event(&self, watcher: Arc<Watcher>, event: Event) {
        self.push(Item::Event(watcher, event));
    }

    pub fn complete(&self, operation: Py<PyAny>, pv: Arc<str>, result: Result<Outcome, Error>) {
        self.push(Item::Completion(operation, pv, Box::new(result)));
    }

    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.stale = 0;
        let (awaited, thrown) = state.items.drain(..).partition::<VecDeque<_>, _>(Item::is_awaited);
        state.items = awaited;
        self.ready.notify_all();
        self.wake(&mut state);
        drop(state);
        drop(thrown);
    }

    /// Nobody can drain it any more: what waits is thrown away, which may hold what holds this.
    pub fn abandon(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.stale = 0;
        let thrown = std::mem::take(&mut state.items);
        drop(state);
        drop(thrown);
    }

    /// Up to a batch of what is due; stale tokens count for nothing.
    pub fn pop(&self) -> (Vec<Due>, bool) {
        // Dropped behind the lock: with a callback anything may run.
        let mut gone = Vec::new();
        self.turn.answered();
        let mut state = self.state.lock();
        if let Some((_, theirs)) = self.wake.get()
            && state.woken
        {
            state.woken = false;
            let mut byte = [0; 1];
            let _ = (&*theirs).read(&mut byte);
        }
        let mut due = Vec::with_capacity(state.items.len().min(BATCH));
        while due.len() < BATCH {
            match state.items.pop_front() {
                None => break,
                Some(Item::Update(subscriber)) => match subscriber.lane.redeem() {
                    Some(reading) => due.push(Due::Update(subscriber, reading)),
                    None => {
                        state.stale = state.stale.saturating_sub(1);
                        gone.push(subscriber);
                    }
                },
                Some(other) => due.push(Due::Item(other)),
            }
        }
        if !state.items.is_empty() {
            self.wake(&mut state);
        }
        (due, state.closed)
    }

    /// Wait until something is due or the time is over.
    pub fn wait(&self, limit: Option<Duration>, also: impl Fn() -> bool) {
        let end = limit.map(|limit| Instant::now() + limit);
        let mut state = self.state.lock();
        while state.items.is_empty() && !state.closed && !also() {
            state.waiting += 1;
            let over = match end {
                Some(end) => self.ready.wait_until(&mut state, end).timed_out(),
                None => {
                    self.ready.wait(&mut state);
                    false
                }
            };
            state.waiting -= 1;
            if over {
                return;
            }
        }
    }
}

fn sweep(state: &mut State) {
    let mut stale = 0;
    state.items.retain(|item| match item {
        Item::Update(subscriber) => {
            let gone = subscriber.lane.discard_stale();
            stale += usize::from(gone);
            !gone
        }
        _ => true,
    });
    state.stale = state.stale.saturating_sub(stale);
}

pub enum Due {
    Update(Arc<Subscriber>, Arc<crate::value::Reading>),
    Item(Item),
}

impl Due {
    /// Whose it is; "" where it belongs to no PV.
    pub fn pv(&self) -> Arc<str> {
        match self {
            Self::Update(subscriber, _) | Self::Item(Item::Next(Turn(subscriber), _) | Item::Update(subscriber)) => {
                subscriber.pv.clone()
            }
            Self::Item(Item::Completion(_, pv, _)) => pv.clone(),
            Self::Item(Item::Event(watcher, _)) => watcher.pv.clone(),
            Self::Item(Item::Call(..)) => "".into(),
        }
    }

    /// What Python has to call; None where nothing is left to do.
    pub fn into_python(self, py: Python<'_>) -> PyResult<Option<Bound<'_, PyTuple>>> {
        match self {
            Self::Update(subscriber, reading) => {
                let Some((callback, subscription)) = subscriber.callback(py) else {
                    return Ok(None);
                };
                let reading = Arc::try_unwrap(reading).unwrap_or_else(|shared| (*shared).clone());
                let arguments = (Reading::new(py, reading)?,).into_pyobject(py)?;
                Ok(Some((callback, arguments, subscription).into_pyobject(py)?))
            }
            Self::Item(Item::Event(watcher, event)) => watcher.call(py, &event),
            Self::Item(Item::Call(function, arguments)) => {
                Ok(Some((function, arguments, py.None()).into_pyobject(py)?))
            }
            Self::Item(Item::Next(turn, operation)) => {
                turn.0.answer(py, operation.bind(py))?;
                Ok(None)
            }
            Self::Item(Item::Completion(operation, pv, result)) => {
                let operation = operation.bind(py);
                if is_operation(operation) {
                    return finish(py, operation, &pv, *result).map(|()| None);
                }
                // In its turn among the callbacks of the batch.
                let settle = operation.getattr(intern!(py, "settle"))?;
                Ok(Some((settle, outcome(py, &pv, *result), py.None()).into_pyobject(py)?))
            }
            Self::Item(Item::Update(_)) => Ok(None),
        }
    }
}
