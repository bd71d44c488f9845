//! The two ways to wait: `block` for a thread, `awaitable` for an event loop.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{AbortHandle, Abortable};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyWeakrefMethods, PyWeakrefReference};

use crate::channel::Outcome;
use crate::convert::exception;
use crate::delivery::{DeliveryQueue, Queue};
use crate::driver::Driver;
use crate::error::{Error, Kind};
use crate::guard;
use crate::link::Link;
use crate::panics;

/// A blocked thread looks for signals this often.
pub const SLICE: Duration = Duration::from_millis(50);

/// Longer than any experiment; whoever means for ever says None.
const LONGEST: f64 = 1e9;

/// Seconds without a word of the caller.
const USUAL: Duration = Duration::from_secs(5);

/// A timeout as Python gave it, or did not.
pub enum Timeout<'py> {
    Usual,
    Given(Bound<'py, PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for Timeout<'py> {
    type Error = std::convert::Infallible;

    // Read later, when the PV is known that an error has to name.
    fn extract(given: Borrowed<'_, 'py, PyAny>) -> Result<Self, Self::Error> {
        Ok(Self::Given(given.to_owned()))
    }
}

/// A call's timeout, running from when it was read.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    whole: Option<Duration>,
    start: Instant,
}

impl Limit {
    pub fn forever() -> Self {
        Self {
            whole: None,
            start: Instant::now(),
        }
    }

    /// Seconds as Python gave them; `pv` is for the error.
    pub fn parse(pv: &str, timeout: &Timeout<'_>) -> PyResult<Self> {
        let start = Instant::now();
        let given = match timeout {
            Timeout::Usual => {
                return Ok(Self {
                    whole: Some(USUAL),
                    start,
                });
            }
            Timeout::Given(given) if given.is_none() => return Ok(Self { whole: None, start }),
            Timeout::Given(given) => given,
        };
        if given.is_instance_of::<PyBool>() {
            return Err(not_seconds(pv, given));
        }
        if !given.is_instance_of::<PyFloat>() && !given.is_instance_of::<PyInt>() && !given.hasattr("__float__")? {
            return Err(not_seconds(pv, given));
        }
        // An int beyond every float is as long as it looks.
        let seconds: f64 = match given.extract() {
            Ok(seconds) => seconds,
            Err(_) if given.is_instance_of::<PyInt>() => f64::INFINITY,
            Err(_) => return Err(not_seconds(pv, given)),
        };
        if !(0.0..=LONGEST).contains(&seconds) {
            return Err(PyValueError::new_err(format!(
                "{pv}: timeout {seconds} is not between 0 and {LONGEST:.0} seconds; None waits for ever"
            )));
        }
        Ok(Self {
            whole: Some(Duration::from_secs_f64(seconds)),
            start,
        })
    }

    /// What is left, at most `most` at a time; None for ever.
    pub fn slice(&self, most: Option<Duration>) -> Option<Duration> {
        let left = self.whole.map(|whole| whole.saturating_sub(self.start.elapsed()));
        match (left, most) {
            (Some(left), Some(most)) => Some(left.min(most)),
            (left, most) => left.or(most),
        }
    }

    pub fn over(&self) -> bool {
        self.whole.is_some_and(|whole| self.start.elapsed() >= whole)
    }

    /// The error of a call whose time is over.
    fn late(&self, link: &Link) -> Error {
        let seconds = self.whole.unwrap_or_default().as_secs_f64();
        if link.events().connected() {
            Error::new(
                Kind::ReplyTimeout,
                format!("connected, but no reply within {seconds} s"),
            )
        } else {
            Error::new(
                Kind::NotConnected,
                format!("not connected: no server answered within {seconds} s"),
            )
        }
    }
}

fn not_seconds(pv: &str, given: &Bound<'_, PyAny>) -> PyErr {
    let shown = given.repr().map_or_else(|_| "timeout".to_owned(), |r| r.to_string());
    PyTypeError::new_err(format!(
        "{pv}: timeout must be a number of seconds or None, not {shown}"
    ))
}

/// Whose call it is.
pub struct Caller<'a> {
    pub driver: &'a Arc<Driver>,
    pub pv: &'a Arc<str>,
    pub link: &'a Link,
}

/// Run `call` on this thread until it is through, its time is over or a signal handler raises; without the GIL.
///
/// Signals are looked for between slices, outside of the driver: a Python handler may itself come back here.
pub fn block<T: Send>(
    py: Python<'_>,
    caller: &Caller<'_>,
    limit: Limit,
    call: impl Future<Output = Result<T, Error>> + Send,
) -> PyResult<T> {
    wait_for(py, caller, limit, pin!(AssertUnwindSafe(call).catch_unwind()))
}

/// The same for a call that may need no reply: it then takes no driver, which a loop of such calls would keep from everybody.
pub fn at_once<T: Send>(
    py: Python<'_>,
    caller: &Caller<'_>,
    limit: Limit,
    call: impl Future<Output = Result<T, Error>> + Send,
) -> PyResult<T> {
    let mut call = pin!(AssertUnwindSafe(call).catch_unwind());
    match caller.driver.poll_now(call.as_mut()) {
        Some(done) => ended(py, caller, done),
        None => wait_for(py, caller, limit, call),
    }
}

fn wait_for<T: Send>(
    py: Python<'_>,
    caller: &Caller<'_>,
    limit: Limit,
    mut call: Pin<&mut (impl Future<Output = Caught<Result<T, Error>>> + Send)>,
) -> PyResult<T> {
    loop {
        let slice = limit.slice(Some(SLICE)).unwrap_or(SLICE);
        let waited = guard::away(py, || {
            caller
                .driver
                .block_on(async { tokio::time::timeout(slice, call.as_mut()).await })
        });
        match waited {
            Ok(done) => return ended(py, caller, done),
            Err(_) => {
                py.check_signals()?;
                if caller.driver.stopped() {
                    return Err(exception(py, caller.pv, &stopped()));
                }
                if limit.over() {
                    return Err(exception(py, caller.pv, &limit.late(caller.link)));
                }
            }
        }
    }
}

type Caught<T> = Result<T, Box<dyn Any + Send>>;

fn ended<T>(py: Python<'_>, caller: &Caller<'_>, done: Caught<Result<T, Error>>) -> PyResult<T> {
    done.unwrap_or_else(|panic| Err(panics::error(&*panic)))
        .map_err(|error| exception(py, caller.pv, &error))
}

/// Start `call` and return what awaits it on the running loop.
///
/// What can be sent is sent before this returns. The awaitable may be thrown away: the call goes on. Cancelling it
/// withdraws the call.
pub fn awaitable<'py>(
    py: Python<'py>,
    caller: &Caller<'_>,
    limit: Limit,
    call: impl Future<Output = Result<Outcome, Error>> + Send + 'static,
) -> PyResult<Bound<'py, PyAny>> {
    let (queue, operation) = loop_operation(py)?;
    let (withdraw, registration) = AbortHandle::new_pair();
    let mut answer = Answer {
        queue,
        pv: caller.pv.clone(),
        operation: Some(operation.clone().unbind()),
    };
    let link = caller.link.clone();
    let job = async move {
        let call = AssertUnwindSafe(call).catch_unwind();
        answer.give(match within(limit, call).await {
            Some(Ok(result)) => result,
            Some(Err(panic)) => Err(panics::error(&*panic)),
            None => Err(limit.late(&link)),
        });
    };
    if !caller
        .driver
        .start_job(Box::pin(Abortable::new(job, registration).map(drop)))
    {
        operation.setattr("ticket", Ticket(withdraw))?;
    }
    Ok(operation)
}

/// Answers an operation, also when its call is dropped: by its own withdrawal, which asks no more, or by the client's end.
struct Answer {
    queue: Arc<Queue>,
    pv: Arc<str>,
    operation: Option<Py<PyAny>>,
}

impl Answer {
    fn give(&mut self, result: Result<Outcome, Error>) {
        if let Some(operation) = self.operation.take() {
            self.queue.complete(operation, self.pv.clone(), result);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.give(Err(stopped()));
    }
}

fn stopped() -> Error {
    Error::new(Kind::NotConnected, "the client was closed by shutdown_all()")
}

async fn within<F: Future>(limit: Limit, call: F) -> Option<F::Output> {
    match limit.slice(None) {
        Some(left) => tokio::time::timeout(left, call).await.ok(),
        None => Some(call.await),
    }
}

/// Withdraws a call that is under way.
#[pyclass(frozen, module = "epicsrs_native._native")]
pub struct Ticket(AbortHandle);

#[pymethods]
impl Ticket {
    /// Drop the call: what has not been sent is never sent, and its reply is ignored.
    fn withdraw(&self) {
        self.0.abort();
    }
}

thread_local! {
    /// The loop that this thread asked for last, with its delivery's queue; neither is kept alive.
    static LAST_LOOP: RefCell<Option<(Py<PyWeakrefReference>, Weak<Queue>)>> = const { RefCell::new(None) };
}

/// The running loop's queue and a new operation on that loop.
pub fn loop_operation(py: Python<'_>) -> PyResult<(Arc<Queue>, Bound<'_, PyAny>)> {
    static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    static OPERATION: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let running = RUNNING.get_or_try_init(py, || {
        PyResult::Ok(py.import("asyncio")?.getattr("get_running_loop")?.unbind())
    })?;
    let event_loop = running.bind(py).call0()?;
    let operation = OPERATION.get_or_try_init(py, || {
        PyResult::Ok(py.import("epicsrs_native.operation")?.getattr("Operation")?.unbind())
    })?;
    let keywords = PyDict::new(py);
    keywords.set_item(pyo3::intern!(py, "loop"), &event_loop)?;
    let operation = operation.bind(py).call((), Some(&keywords))?;
    Ok((loop_queue(py, &event_loop)?, operation))
}

/// The queue of the running loop's delivery.
pub fn running_queue(py: Python<'_>) -> PyResult<Arc<Queue>> {
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

/// Run what must not fail by a panic; a panic becomes an error and is counted.
pub fn guarded<T>(run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(panics::error(&*panic)))
}
