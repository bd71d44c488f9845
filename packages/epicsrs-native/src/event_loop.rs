//! The event loop that an awaitable call is made on, and its turns.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyWeakrefMethods, PyWeakrefReference};

use crate::delivery::DeliveryQueue;
use crate::driver::Driver;
use crate::guard;
use crate::queue::Queue;
use crate::submitted::target;

/// So few calls cost less one by one than a turn's end, which wakes the network's thread once more.
const FEW: usize = 4;

/// Where an awaitable call is answered.
pub struct Asked<'py> {
    pub queue: Arc<Queue>,
    pub operation: Bound<'py, PyAny>,
    /// The running loop; None for a call through `submit`.
    event_loop: Option<Bound<'py, PyAny>>,
}

static OPERATION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Whether it is a loop's operation, and not what `submit` returns.
pub fn is_operation(operation: &Bound<'_, PyAny>) -> bool {
    OPERATION
        .get(operation.py())
        .is_some_and(|class| operation.get_type().is(class))
}

thread_local! {
    /// The loop that this thread asked for last, with its delivery's queue; neither is kept alive.
    static LAST_LOOP: RefCell<Option<(Py<PyWeakrefReference>, Weak<Queue>)>> = const { RefCell::new(None) };
}

impl<'py> Asked<'py> {
    /// The running loop's queue and a new operation on that loop, or what `submit` says.
    pub fn now(py: Python<'py>) -> PyResult<Self> {
        static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if let Some((queue, operation)) = target(py) {
            return Ok(Self {
                queue,
                operation,
                event_loop: None,
            });
        }
        let running = RUNNING.get_or_try_init(py, || {
            PyResult::Ok(py.import("asyncio")?.getattr("get_running_loop")?.unbind())
        })?;
        let event_loop = running.bind(py).call0()?;
        let operation = OPERATION.get_or_try_init(py, || {
            PyResult::Ok(py.import("epicsrs_native.operation")?.getattr("Operation")?.unbind())
        })?;
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "loop"), &event_loop)?;
        Ok(Self {
            operation: operation.bind(py).call((), Some(&keywords))?,
            queue: loop_queue(py, &event_loop)?,
            event_loop: Some(event_loop),
        })
    }

    /// Whether the call is to go with others of this turn of the loop, at the turn's end.
    ///
    /// It goes at once where nobody else's callback is due and the loop awaits hardly any other call. (Of a loop that does
    /// not say what is due, as uvloop, the first few go at once.)
    pub fn together(&self, py: Python<'py>, driver: &Arc<Driver>) -> PyResult<bool> {
        let Some(event_loop) = &self.event_loop else {
            return Ok(false);
        };
        let turn = &self.queue.turn;
        if driver.is_blocked_on() {
            return Ok(false);
        }
        if turn.is_held() {
            return Ok(true);
        }
        if turn.call() < FEW && !others_are_due(event_loop)? {
            return Ok(false);
        }
        let end = TurnEnd(Arc::downgrade(driver), Arc::downgrade(&self.queue));
        event_loop.call_method1(intern!(py, "call_soon"), (end,))?;
        turn.hold();
        Ok(true)
    }
}

/// Whether asyncio's loop has callbacks to run in this turn or the next.
fn others_are_due(event_loop: &Bound<'_, PyAny>) -> PyResult<bool> {
    match event_loop.getattr_opt(intern!(event_loop.py(), "_ready"))? {
        Some(ready) => Ok(ready.len().is_ok_and(|due| due > 0)),
        None => Ok(false),
    }
}

/// Called by the loop when the turn is over in which calls were held.
#[pyclass(frozen, module = "epicsrs_native._native")]
struct TurnEnd(Weak<Driver>, Weak<Queue>);

#[pymethods]
impl TurnEnd {
    fn __call__(&self) {
        if guard::forked() {
            return;
        }
        if let Some(queue) = self.1.upgrade() {
            queue.turn.end();
        }
        if let Some(driver) = self.0.upgrade() {
            driver.release();
        }
    }
}

/// The queue of the running loop's delivery.
pub fn running_queue(py: Python<'_>) -> PyResult<Arc<Queue>> {
    if let Some((queue, _)) = target(py) {
        return Ok(queue);
    }
    let event_loop = py.import("asyncio")?.call_method0("get_running_loop")?;
    loop_queue(py, &event_loop)
}

fn loop_queue(py: Python<'_>, event_loop: &Bound<'_, PyAny>) -> PyResult<Arc<Queue>> {
    let known = LAST_LOOP.with_borrow(|last| {
        let (known, queue) = last.as_ref()?;
        known
            .bind(py)
            .upgrade()
            .filter(|known| known.is(event_loop))
            .and_then(|_| queue.upgrade())
            .filter(|queue| !queue.closed())
    });
    if let Some(queue) = known {
        return Ok(queue);
    }
    let delivery = py
        .import("epicsrs_native.delivery")?
        .call_method1("loop_delivery", (event_loop,))?;
    let queue = delivery.cast::<DeliveryQueue>()?.get().queue.clone();
    let weak = PyWeakrefReference::new(event_loop)?.unbind();
    LAST_LOOP.set(Some((weak, Arc::downgrade(&queue))));
    Ok(queue)
}
