//! What `monitor` returns, and what it does with updates.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use pyo3::exceptions::{PyStopAsyncIteration, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use tokio::sync::watch;

use crate::client::Opened;
use crate::convert::exception;
use crate::error::Error;
use crate::event_loop::Asked;
use crate::feed::{Feed, Joined, Sink, Wish};
use crate::guard;
use crate::lane::{Capacity, Lane, Pushed};
use crate::link::Link;
use crate::queue::Queue;
use crate::reading::Reading;
use crate::value;

/// How far a subscription has come.
#[derive(Clone, Debug)]
enum Stage {
    Waiting,
    Running,
    Failed(Error),
}

/// Who awaits the next update.
#[derive(Default)]
struct Awaited {
    /// With the loop's queue to answer through.
    reader: Option<(Arc<Queue>, Py<PyAny>)>,
    /// The one before it is being answered.
    turn: bool,
}

/// Held while one reader is answered; the next has its turn when this is dropped.
pub struct Turn(pub Arc<Subscriber>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.awaited.lock().turn = false;
        self.0.wake_reader();
    }
}

pub struct Subscriber {
    myself: Weak<Self>,
    pub pv: Arc<str>,
    link: Link,
    feed: Arc<Feed>,
    pub lane: Lane,
    queue: Arc<Queue>,
    /// Whether it has a callback; else it is iterated.
    called: bool,
    /// Let go of when it is closed: what it belongs to may hold this.
    callback: Mutex<Option<Py<PyAny>>>,
    /// The Python object; held while open, so that a subscription lives until it is closed.
    handle: Mutex<Option<Py<Subscription>>>,
    id: AtomicU64,
    stage: watch::Sender<Stage>,
    awaited: Mutex<Awaited>,
}

impl Subscriber {
    /// Join the link's feed; the updates come from now on, or from when the channel connects.
    pub fn open(
        py: Python<'_>,
        pv: Arc<str>,
        link: Link,
        wish: &Wish,
        queue: Arc<Queue>,
        callback: Option<Py<PyAny>>,
        capacity: Capacity,
    ) -> PyResult<Py<Subscription>> {
        let subscriber = Arc::new_cyclic(|myself| Self {
            myself: myself.clone(),
            pv,
            feed: link.feeds().of(wish),
            link: link.clone(),
            lane: Lane::new(capacity),
            queue,
            called: callback.is_some(),
            callback: Mutex::new(callback),
            handle: Mutex::default(),
            id: AtomicU64::new(0),
            stage: watch::Sender::new(Stage::Waiting),
            awaited: Mutex::default(),
        });
        let handle = Py::new(py, Subscription(subscriber.clone()))?;
        *subscriber.handle.lock() = Some(handle.clone_ref(py));
        let taker = subscriber.clone();
        let sink: Sink = Arc::new(move |update| taker.take(update));
        match subscriber.feed.join(sink) {
            Joined::First(id) => {
                subscriber.id.store(id, Ordering::SeqCst);
                link.subscribe(subscriber.feed.clone());
            }
            Joined::Later(id) => subscriber.id.store(id, Ordering::SeqCst),
        }
        Ok(handle)
    }

    /// On the network's side: queue, never wait.
    fn take(self: &Arc<Self>, update: Result<&Arc<value::Reading>, &Error>) {
        match update {
            Ok(reading) => {
                self.queued(self.lane.push(reading.clone()));
                self.moved_to(Stage::Running);
            }
            Err(error) => {
                self.moved_to(Stage::Failed(error.clone()));
                self.link.events().report(error.clone());
                self.wake_reader();
            }
        }
    }

    fn moved_to(&self, stage: Stage) {
        if !matches!((&*self.stage.borrow(), &stage), (Stage::Running, Stage::Running)) {
            self.stage.send_replace(stage);
        }
    }

    fn queued(self: &Arc<Self>, pushed: Pushed) {
        match pushed {
            Pushed::Queued { stale } if self.called => self.queue.updated(self, stale),
            Pushed::Queued { .. } => self.wake_reader(),
            Pushed::Ignored => {}
        }
    }

    /// Whether there is something to answer a reader with.
    fn is_due(&self) -> bool {
        !self.lane.is_empty() || self.lane.closed() || matches!(*self.stage.borrow(), Stage::Failed(_))
    }

    fn wake_reader(&self) {
        if let Some((turn, queue, operation)) = self.next_turn() {
            queue.next(turn, operation);
        }
    }

    /// The reader, where it is its turn and something is due.
    fn next_turn(&self) -> Option<(Turn, Arc<Queue>, Py<PyAny>)> {
        let mut awaited = self.awaited.lock();
        if awaited.turn || !self.is_due() {
            return None;
        }
        let myself = self.myself.upgrade()?;
        let (queue, operation) = awaited.reader.take()?;
        awaited.turn = true;
        Some((Turn(myself), queue, operation))
    }

    /// Resolves when the first update has come, or the server has refused.
    pub async fn started(self: Arc<Self>) -> Result<(), Error> {
        let mut stages = self.stage.subscribe();
        match stages
            .wait_for(|stage| !matches!(stage, Stage::Waiting))
            .await
            .as_deref()
        {
            Ok(Stage::Failed(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// The callback with the object that stands for it; None where it is closed.
    pub fn callback(&self, py: Python<'_>) -> Option<(Py<PyAny>, Py<Subscription>)> {
        let handle = self.handle.lock().as_ref().map(|handle| handle.clone_ref(py))?;
        Some((self.callback.lock().as_ref()?.clone_ref(py), handle))
    }

    fn busy(&self) -> PyErr {
        PyValueError::new_err(format!("{}: its next reading is awaited already", self.pv))
    }

    /// Give the next update to who awaits it, in the loop's thread.
    pub fn answer(self: &Arc<Self>, py: Python<'_>, operation: &Bound<'_, PyAny>) -> PyResult<()> {
        if !claim(operation)? {
            return Ok(());
        }
        if let Some(reading) = self.lane.take() {
            let reading = Arc::try_unwrap(reading).unwrap_or_else(|shared| (*shared).clone());
            match Reading::new(py, reading) {
                Ok(reading) => operation.call_method1("set_result", (reading,))?,
                Err(error) => operation.call_method1("set_exception", (error.into_value(py),))?,
            };
        } else if let Stage::Failed(error) = &*self.stage.borrow() {
            operation.call_method1("set_exception", (exception(py, &self.pv, error).into_value(py),))?;
        } else if self.lane.closed() {
            operation.call_method1("set_exception", (PyStopAsyncIteration::new_err(()).into_value(py),))?;
        }
        Ok(())
    }
}

impl Opened for Subscriber {
    fn end(&self) {
        if self.lane.close() {
            self.feed.leave(self.id.load(Ordering::SeqCst));
            let (handle, callback) = (self.handle.lock().take(), self.callback.lock().take());
            drop((handle, callback));
            self.wake_reader();
        }
    }
}

/// Whether an operation still waits for its result; another thread may cancel a Submitted until it is claimed.
fn claim(operation: &Bound<'_, PyAny>) -> PyResult<bool> {
    match operation.getattr_opt("set_running_or_notify_cancel")? {
        Some(claim) => claim.call0()?.extract(),
        None => Ok(!operation
            .call_method0(intern!(operation.py(), "done"))?
            .extract::<bool>()?),
    }
}

/// A running monitor; it lives until it is closed or its channel's client is shut down.
///
/// For type checkers `Subscription[Metadata]` brings readings with metadata, `Subscription[None]` without.
#[pyclass(frozen, generic, module = "epicsrs_native._native")]
pub struct Subscription(pub Arc<Subscriber>);

impl Drop for Subscription {
    fn drop(&mut self) {
        if guard::forked() {
            // Its locks may have been held by a thread that this process does not have.
            std::mem::forget(self.0.clone());
        }
    }
}

#[pymethods]
impl Subscription {
    /// The name the channel was made with.
    #[getter]
    fn pv(&self) -> &str {
        &self.0.pv
    }

    /// Whether it has been closed.
    #[getter]
    fn closed(&self) -> bool {
        guard::forked() || self.0.lane.closed()
    }

    /// Whether it is paused.
    #[getter]
    fn paused(&self) -> bool {
        !guard::forked() && self.0.lane.paused()
    }

    /// How many updates were dropped because the callback or the iteration was too slow, or a pause left only the last.
    #[getter]
    fn dropped(&self) -> u64 {
        // In a forked child its lock may be held by a thread that is not there.
        if guard::forked() { 0 } else { self.0.lane.dropped() }
    }

    /// Hold updates back until `resume`; only the last is kept.
    fn pause(&self, py: Python<'_>) -> PyResult<()> {
        guard::check(py, &self.0.pv)?;
        self.0.lane.pause();
        Ok(())
    }

    /// Deliver again, first the last update that came during the pause.
    fn resume(&self, py: Python<'_>) -> PyResult<()> {
        guard::check(py, &self.0.pv)?;
        self.0.queued(self.0.lane.resume());
        Ok(())
    }

    /// End it: no callback starts after this returns.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        guard::check(py, &self.0.pv)?;
        self.0.end();
        Ok(())
    }

    fn __aiter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// The next reading; ends when the subscription is closed.
    fn __anext__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let subscriber = &self.0;
        if subscriber.called {
            return Err(PyValueError::new_err(format!(
                "{}: this subscription has a callback",
                subscriber.pv
            )));
        }
        guard::check(py, &subscriber.pv)?;
        let before = subscriber
            .awaited
            .lock()
            .reader
            .as_ref()
            .map(|(_, before)| before.clone_ref(py));
        if let Some(before) = &before
            && !before.call_method0(py, "done")?.extract(py)?
        {
            return Err(subscriber.busy());
        }
        let Asked { queue, operation, .. } = Asked::now(py)?;
        let mut awaited = subscriber.awaited.lock();
        let is_before = |present: &Py<PyAny>| before.as_ref().is_some_and(|before| present.is(before));
        // Another thread came first.
        if awaited.reader.as_ref().is_some_and(|(_, present)| !is_before(present)) {
            drop(awaited);
            return Err(subscriber.busy());
        }
        // First the reader, then the look: an update in between finds the reader.
        let gone = awaited.reader.replace((queue, operation.clone().unbind()));
        drop(awaited);
        drop(gone);
        if let Some((turn, queue, next)) = subscriber.next_turn() {
            if next.is(&operation) {
                subscriber.answer(py, &operation)?;
            } else {
                queue.next(turn, next);
            }
        }
        Ok(operation)
    }

    fn __repr__(&self) -> String {
        let state = if self.closed() { "closed" } else { "open" };
        format!("Subscription({:?}, {state}, dropped={})", &*self.0.pv, self.dropped())
    }
}
