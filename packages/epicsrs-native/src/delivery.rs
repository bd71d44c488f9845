//! The one way from the network to Python: a bounded queue, drained by its owner.
//!
//! A monitor's updates wait in its lane; the queue holds one token for each, so that the updates of all lanes keep the
//! order of the wire and a lane that overflows drops its own oldest without anything being moved.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use pyo3::exceptions::{PyBaseException, PyOSError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::arguments::{Limit, Timeout};
use crate::channel::Outcome;
use crate::client::Opened;
use crate::convert::exception;
use crate::error::Error;
use crate::events::Event;
use crate::guard;
use crate::logging;
use crate::reading::Reading;
use crate::runtime::SLICE;
use crate::submitted::submit;
use crate::subscription::Subscriber;
use crate::watch::Watcher;

/// Taken at once by the owner: one GIL take for so many.
const BATCH: usize = 512;
/// Stale tokens are swept out when they are more than half of the queue, and at least so many.
const SWEEP: usize = 1024;

enum Item {
    /// The oldest update of this subscriber's lane.
    Update(Arc<Subscriber>),
    /// Somebody awaits the next update of this subscriber's lane.
    Next(Arc<Subscriber>, Py<PyAny>),
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

/// Threads that are in `take`: waiting, or making Python objects of what is due.
static TAKING: AtomicUsize = AtomicUsize::new(0);

struct Taking;

impl Taking {
    fn new() -> Self {
        TAKING.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        TAKING.fetch_sub(1, Ordering::SeqCst);
    }
}

pub fn drained_by() -> usize {
    TAKING.load(Ordering::SeqCst)
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

    pub fn next(&self, subscriber: Arc<Subscriber>, operation: Py<PyAny>) {
        self.push(Item::Next(subscriber, operation));
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

    /// Up to a batch of what is due; stale tokens count for nothing.
    fn pop(&self) -> (Vec<Due>, bool) {
        // Dropped behind the lock: with a callback anything may run.
        let mut gone = Vec::new();
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
    fn wait(&self, limit: Option<Duration>, also: impl Fn() -> bool) {
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

enum Due {
    Update(Arc<Subscriber>, Arc<crate::value::Reading>),
    Item(Item),
}

impl Due {
    /// What Python has to call; None where nothing is left to do.
    fn into_python(self, py: Python<'_>) -> PyResult<Option<Bound<'_, PyTuple>>> {
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
            Self::Item(Item::Next(subscriber, operation)) => {
                subscriber.answer(py, operation.bind(py))?;
                Ok(None)
            }
            Self::Item(Item::Completion(operation, pv, result)) => {
                let operation = operation.bind(py);
                match operation.getattr_opt(intern!(py, "settle"))? {
                    // In its turn among the callbacks of the batch.
                    Some(settle) => Ok(Some((settle, outcome(py, &pv, *result), py.None()).into_pyobject(py)?)),
                    None => finish(py, operation, &pv, *result).map(|()| None),
                }
            }
            Self::Item(Item::Update(_)) => Ok(None),
        }
    }
}

/// Set an operation's result, unless it has been cancelled.
pub fn finish(py: Python<'_>, operation: &Bound<'_, PyAny>, pv: &str, result: Result<Outcome, Error>) -> PyResult<()> {
    if operation.call_method0("done")?.extract()? {
        // Nobody has a handle to what was opened for a call that was cancelled.
        if let Ok(Outcome::Subscription(subscription)) = result {
            subscription.get().0.end();
        }
        return Ok(());
    }
    match outcome(py, pv, result) {
        (Some(value), None) => operation.call_method1("set_result", (value,)),
        (_, error) => operation.call_method1("set_exception", (error,)),
    }
    .map(drop)
}

/// A result's value, or else its exception.
fn outcome(
    py: Python<'_>,
    pv: &str,
    result: Result<Outcome, Error>,
) -> (Option<Py<PyAny>>, Option<Py<PyBaseException>>) {
    match result
        .map_err(|error| exception(py, pv, &error))
        .and_then(|outcome| outcome.into_python(py))
    {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error.into_value(py))),
    }
}

/// The queue behind a Delivery.
#[pyclass(frozen, subclass, weakref, module = "epicsrs_native._native")]
pub struct DeliveryQueue {
    name: String,
    pub queue: Arc<Queue>,
}

#[pymethods]
impl DeliveryQueue {
    #[new]
    #[pyo3(signature = (name = "epicsrs".to_owned()))]
    fn new(py: Python<'_>, name: String) -> PyResult<Self> {
        guard::check(py, &name)?;
        Ok(Self {
            name,
            queue: Queue::new(),
        })
    }

    /// The name it was given.
    #[getter]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has been closed.
    #[getter]
    fn closed(&self) -> bool {
        self.queue.state.lock().closed
    }

    /// How much waits to be taken: updates, events, results and calls.
    #[getter]
    fn pending(&self) -> usize {
        let state = self.queue.state.lock();
        state.items.len().saturating_sub(state.stale)
    }

    /// Have `function(*args)` run where this delivery is drained, after what is queued already; never dropped.
    #[pyo3(signature = (function, *args))]
    fn call(&self, py: Python<'_>, function: Py<PyAny>, args: Py<PyTuple>) -> PyResult<()> {
        guard::check(py, &self.name)?;
        self.queue.push(Item::Call(function, args));
        Ok(())
    }

    /// Start `call(*args, **kwargs)`, one of the `…_async` methods, from a thread without an event loop.
    ///
    /// What can be sent is sent before this returns, in the order of the calls, and nothing is waited for. The result
    /// comes through this delivery, in its order.
    ///
    /// Returns:
    ///     A concurrent.futures.Future: what is given to `add_done_callback` runs where this delivery is drained,
    ///     `result()` may be used in any other thread, `cancel()` withdraws the call.
    ///
    /// Raises:
    ///     TypeError: Not an awaitable method of epicsrs_native.
    ///     ValueError: The delivery is closed, or what the method itself raises.
    #[pyo3(signature = (call, *args, **kwargs))]
    fn submit<'py>(
        slf: &Bound<'py, Self>,
        py: Python<'py>,
        call: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        guard::check(py, &slf.get().name)?;
        submit(py, slf, call, args, kwargs)
    }

    /// Take what is due: (callback, arguments, source) each, the results of awaitables being set on the way.
    ///
    /// Waits until something is due or `timeout` seconds are over (an empty list); None once the delivery is closed.
    #[pyo3(signature = (*, timeout = None))]
    fn take<'py>(&self, py: Python<'py>, timeout: Option<Timeout<'py>>) -> PyResult<Option<Bound<'py, PyList>>> {
        guard::check(py, &self.name)?;
        let limit = match &timeout {
            Some(timeout) => Limit::parse(&self.name, timeout)?,
            None => Limit::forever(),
        };
        let logs = self.is_default();
        let _taking = Taking::new();
        loop {
            let records = if logs { logging::due(py)? } else { None };
            let (due, closed) = self.queue.pop();
            if !due.is_empty() || records.is_some() {
                let calls = PyList::new(py, records)?;
                for one in due {
                    if let Some(call) = one.into_python(py)? {
                        calls.append(call)?;
                    }
                }
                return Ok(Some(calls));
            }
            if closed {
                return Ok(None);
            }
            if limit.over() {
                return Ok(Some(PyList::empty(py)));
            }
            let slice = limit.slice(if is_main_thread(py)? { Some(SLICE) } else { None });
            guard::away(py, || self.queue.wait(slice, || logs && logging::pending()));
            py.check_signals()?;
        }
    }

    /// Have whoever drains this delivery hand the network code's log records on to `logging`; one delivery does.
    fn hand_on_logs(&self) {
        *DEFAULT.lock() = Some(Arc::downgrade(&self.queue));
    }

    /// A descriptor that becomes readable when something is due, for an event loop to watch.
    fn fileno(&self) -> PyResult<i32> {
        if let Some((_, theirs)) = self.queue.wake.get() {
            return Ok(theirs.as_raw_fd());
        }
        let (ours, theirs) = UnixStream::pair().map_err(|e| PyOSError::new_err(e.to_string()))?;
        for end in [&ours, &theirs] {
            end.set_nonblocking(true)
                .map_err(|e| PyOSError::new_err(e.to_string()))?;
        }
        let (_, theirs) = self.queue.wake.get_or_init(|| (ours, theirs));
        let descriptor = theirs.as_raw_fd();
        let mut state = self.queue.state.lock();
        if !state.items.is_empty() {
            self.queue.wake(&mut state);
        }
        Ok(descriptor)
    }

    /// Close it: what waits is thrown away, what comes later as well, and whoever drains it returns.
    fn close(&self) {
        self.queue.close();
    }
}

impl DeliveryQueue {
    fn is_default(&self) -> bool {
        DEFAULT
            .lock()
            .as_ref()
            .is_some_and(|queue| queue.as_ptr() == Arc::as_ptr(&self.queue))
    }
}

fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    let threading = py.import("threading")?;
    threading
        .call_method0("current_thread")?
        .eq(threading.call_method0("main_thread")?)
}
