//! Awaitable calls from a thread without an event loop: `Delivery.submit`.

use std::cell::RefCell;
use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use crate::delivery::DeliveryQueue;
use crate::queue::Queue;

thread_local! {
    /// Where the awaitable call that this thread starts now has to be answered, in place of its running loop.
    static TARGET: RefCell<Option<(Arc<Queue>, Py<PyAny>)>> = const { RefCell::new(None) };
}

/// Taken back when the call has started, whatever has become of it.
struct Aimed;

impl Drop for Aimed {
    fn drop(&mut self) {
        TARGET.take();
    }
}

/// The queue and the future that the call in progress is for, where it came through `submit`.
pub fn target(py: Python<'_>) -> Option<(Arc<Queue>, Bound<'_, PyAny>)> {
    TARGET.with_borrow(|target| {
        let (queue, submitted) = target.as_ref()?;
        Some((queue.clone(), submitted.bind(py).clone()))
    })
}

/// Call an `…_async` method so that its result comes through the delivery.
pub fn submit<'py>(
    py: Python<'py>,
    delivery: &Bound<'py, DeliveryQueue>,
    call: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
    keywords: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    static SUBMITTED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let (name, queue) = (delivery.get().name(), &delivery.get().queue);
    if queue.closed() {
        return Err(PyValueError::new_err(format!("{name}: this delivery is closed")));
    }
    let class = SUBMITTED.get_or_try_init(py, || {
        PyResult::Ok(py.import("epicsrs_native.submitted")?.getattr("Submitted")?.unbind())
    })?;
    let submitted = class.bind(py).call1((delivery,))?;
    TARGET.set(Some((queue.clone(), submitted.clone().unbind())));
    let aimed = Aimed;
    let started = call.call(arguments, keywords)?;
    drop(aimed);
    if started.is(&submitted) {
        return Ok(submitted);
    }
    Err(PyTypeError::new_err(format!(
        "{name}: only a channel's, a context's or a subscription's awaitable call can be submitted, not {call}"
    )))
}
