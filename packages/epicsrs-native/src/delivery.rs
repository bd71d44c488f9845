//! The queue behind a Delivery, as Python sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::arguments::{Limit, Timeout};
use crate::guard;
use crate::logging;
use crate::queue::Queue;
use crate::runtime::SLICE;
use crate::submitted::submit;

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

/// The queue behind a Delivery.
#[pyclass(frozen, subclass, weakref, module = "epicsrs_native._native")]
pub struct DeliveryQueue {
    name: String,
    pub queue: Arc<Queue>,
}

impl Drop for DeliveryQueue {
    fn drop(&mut self) {
        if guard::forked() {
            std::mem::forget(self.queue.clone());
        } else {
            self.queue.abandon();
        }
    }
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
        guard::forked() || self.queue.closed()
    }

    /// How much waits to be taken: updates, events, results and calls.
    #[getter]
    fn pending(&self) -> usize {
        // In a forked child its lock may be held by a thread that is not there.
        if guard::forked() { 0 } else { self.queue.pending() }
    }

    /// Have `function(*args)` run where this delivery is drained, after what is queued already; never dropped.
    #[pyo3(signature = (function, *args))]
    fn call(&self, py: Python<'_>, function: Py<PyAny>, args: Py<PyTuple>) -> PyResult<()> {
        guard::check(py, &self.name)?;
        self.queue.call(function, args);
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
        let logs = self.queue.is_default();
        let _taking = Taking::new();
        loop {
            let records = if logs { logging::due(py)? } else { None };
            let (due, closed) = self.queue.pop();
            if !due.is_empty() || records.is_some() {
                let calls = PyList::new(py, records)?;
                for one in due {
                    let pv = one.pv();
                    match one.into_python(py) {
                        Ok(Some(call)) => calls.append(call)?,
                        Ok(None) => {}
                        // It is logged in its turn, and the rest of the batch goes on.
                        Err(error) => calls.append((unreadable(py)?, (&*pv, error.into_value(py)), py.None()))?,
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
    fn hand_on_logs(&self, py: Python<'_>) -> PyResult<()> {
        guard::check(py, &self.name)?;
        self.queue.make_default();
        Ok(())
    }

    /// A descriptor that becomes readable when something is due, for an event loop to watch.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        guard::check(py, &self.name)?;
        self.queue.descriptor().map_err(|e| PyOSError::new_err(e.to_string()))
    }

    /// Close it: what waits is thrown away, what comes later as well, and whoever drains it returns.
    fn close(&self) {
        if !guard::forked() {
            self.queue.close();
        }
    }
}

/// Logs what could not be made into Python.
fn unreadable(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("epicsrs_native.delivery")?.getattr("unreadable")
}

fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    let threading = py.import("threading")?;
    threading
        .call_method0("current_thread")?
        .eq(threading.call_method0("main_thread")?)
}
