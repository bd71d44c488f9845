//! What the `on_…` calls return, and what they do with events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::client::Opened;
use crate::convert::exception;
use crate::events::Event;
use crate::guard;
use crate::link::Link;
use crate::queue::Queue;

/// Which events a watcher wants.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Connection,
    Access,
    Refusals,
}

pub struct Watcher {
    pub pv: Arc<str>,
    link: Link,
    wanted: Wanted,
    /// Let go of when it is closed: what it belongs to may hold this.
    callback: Mutex<Option<Py<PyAny>>>,
    queue: Arc<Queue>,
    handle: Mutex<Option<Py<Watch>>>,
    id: AtomicU64,
    closed: AtomicBool,
}

impl Watcher {
    pub fn open(
        py: Python<'_>,
        pv: Arc<str>,
        link: Link,
        queue: Arc<Queue>,
        callback: Py<PyAny>,
        wanted: Wanted,
    ) -> PyResult<Py<Watch>> {
        let watcher = Arc::new(Self {
            pv,
            link: link.clone(),
            wanted,
            callback: Mutex::new(Some(callback)),
            queue,
            handle: Mutex::default(),
            id: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        });
        let handle = Py::new(py, Watch(watcher.clone()))?;
        *watcher.handle.lock() = Some(handle.clone_ref(py));
        let taker = watcher.clone();
        let id = link.events().listen(Arc::new(move |event| taker.take(event)));
        watcher.id.store(id, Ordering::SeqCst);
        Ok(handle)
    }

    fn take(self: &Arc<Self>, event: &Event) {
        let wanted = match event {
            Event::Connection(_) => Wanted::Connection,
            Event::Access(..) => Wanted::Access,
            Event::Refused(_) => Wanted::Refusals,
        };
        if wanted == self.wanted && !self.closed.load(Ordering::Acquire) {
            self.queue.event(self.clone(), event.clone());
        }
    }

    pub fn call<'py>(&self, py: Python<'py>, event: &Event) -> PyResult<Option<pyo3::Bound<'py, PyTuple>>> {
        let handle = self.handle.lock().as_ref().map(|handle| handle.clone_ref(py));
        let callback = self.callback.lock().as_ref().map(|callback| callback.clone_ref(py));
        let (Some(handle), Some(callback)) = (handle, callback) else {
            return Ok(None);
        };
        let arguments = match event {
            Event::Connection(up) => (*up,).into_pyobject(py)?,
            Event::Access(read, write) => (*read, *write).into_pyobject(py)?,
            Event::Refused(error) => (exception(py, &self.pv, error).into_value(py),).into_pyobject(py)?,
        };
        Ok(Some((callback, arguments, handle).into_pyobject(py)?))
    }
}

impl Opened for Watcher {
    fn end(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.link.events().forget(self.id.load(Ordering::SeqCst));
            let (handle, callback) = (self.handle.lock().take(), self.callback.lock().take());
            drop((handle, callback));
        }
    }
}

/// A callback for connection, access or error events; it lives until it is closed.
#[pyclass(frozen, module = "epicsrs_native._native")]
pub struct Watch(pub Arc<Watcher>);

impl Drop for Watch {
    fn drop(&mut self) {
        if guard::forked() {
            std::mem::forget(self.0.clone());
        }
    }
}

#[pymethods]
impl Watch {
    /// The name the channel was made with.
    #[getter]
    fn pv(&self) -> &str {
        &self.0.pv
    }

    /// Whether it has been closed.
    #[getter]
    fn closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// End it: no callback starts after this returns.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        guard::check(py, &self.0.pv)?;
        self.0.end();
        Ok(())
    }
}
