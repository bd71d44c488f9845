//! The two ways to wait: `block` for a thread, `awaitable` for an event loop.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{AbortHandle, Abortable};
use pyo3::intern;
use pyo3::prelude::*;

use crate::arguments::Limit;
use crate::convert::exception;
use crate::driver::Driver;
use crate::error::{Error, Kind};
use crate::event_loop::Asked;
use crate::guard;
use crate::link::Link;
use crate::outcome::Outcome;
use crate::panics;
use crate::queue::Queue;

/// A blocked thread looks for signals this often.
pub const SLICE: Duration = Duration::from_millis(50);

/// Whose call it is.
pub struct Caller<'a> {
    pub driver: &'a Arc<Driver>,
    pub pv: &'a Arc<str>,
    /// The one link that the call is about.
    pub link: Option<&'a Link>,
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
/// A call that is alone in its loop's turn sends what can be sent before this returns; those of a crowd do so together, at
/// the turn's end, or before whatever the thread sends otherwise. The awaitable may be thrown away: the call goes on.
/// Cancelling it withdraws the call.
pub fn awaitable<'py>(
    py: Python<'py>,
    caller: &Caller<'_>,
    limit: Limit,
    call: impl Future<Output = Result<Outcome, Error>> + Send + 'static,
) -> PyResult<Bound<'py, PyAny>> {
    let asked = Asked::now(py)?;
    let together = asked.together(py, caller.driver)?;
    let operation = asked.operation;
    let (withdraw, registration) = AbortHandle::new_pair();
    let mut answer = Answer {
        queue: asked.queue,
        pv: caller.pv.clone(),
        operation: Some(operation.clone().unbind()),
    };
    let link = caller.link.cloned();
    let job = async move {
        let call = AssertUnwindSafe(call).catch_unwind();
        answer.give(match within(limit, call).await {
            Some(Ok(result)) => result,
            Some(Err(panic)) => Err(panics::error(&*panic)),
            None => Err(limit.late(link.as_ref())),
        });
    };
    let job = Box::pin(Abortable::new(job, registration).map(drop));
    if !caller.driver.start_job(job, together) {
        operation.setattr(intern!(py, "ticket"), Ticket(withdraw))?;
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

pub async fn within<F: Future>(limit: Limit, call: F) -> Option<F::Output> {
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

/// Run what must not fail by a panic; a panic becomes an error and is counted.
pub fn guarded<T>(run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(panics::error(&*panic)))
}
