//! Our connection to one PV: every operation for a thread and for an event loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::arguments::{self, Limit, Timeout};
use crate::client::{Client, Held, Opened};
use crate::convert::exception;
use crate::delivery::DeliveryQueue;
use crate::error::Error;
use crate::event_loop::running_queue;
use crate::feed::Wish;
use crate::given::from_python;
use crate::guard;
use crate::lane::Capacity;
use crate::link::Link;
use crate::outcome::Outcome;
use crate::queue::Queue;
use crate::reading::{Info, Reading};
use crate::runtime::{Caller, at_once, awaitable, block};
use crate::subscription::{Subscriber, Subscription};
use crate::value::Fetch;
use crate::watch::{Wanted, Watch, Watcher};

/// A connection to one PV, made by `Context.channel`; channels of one PV share what lies below.
///
/// Every call waits for the connection within its `timeout` (seconds for the whole call; None waits for ever). Over
/// Channel Access the requests of one thread to one server leave in the order of the calls; over pvAccess those of one
/// channel do.
#[pyclass(frozen, module = "epicsrs_native._native")]
pub struct Channel {
    pv: Arc<str>,
    client: Arc<Client>,
    link: Link,
    closed: AtomicBool,
    /// Closed with the channel.
    held: Held,
}

impl Drop for Channel {
    fn drop(&mut self) {
        if guard::forked() {
            // Its locks may have been held by a thread that this process does not have.
            std::mem::forget((self.link.clone(), self.client.clone()));
        }
    }
}

impl Channel {
    pub fn new(pv: &str, client: Arc<Client>, link: Link) -> Self {
        Self {
            pv: pv.into(),
            client,
            link,
            closed: AtomicBool::new(false),
            held: Held::default(),
        }
    }

    pub fn pv(&self) -> &Arc<str> {
        &self.pv
    }

    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// The link, as long as it may be used.
    pub fn link(&self, py: Python<'_>) -> PyResult<Link> {
        guard::check(py, &self.pv)?;
        if self.closed.load(Ordering::Acquire) {
            return Err(PyValueError::new_err(format!("{}: this channel is closed", self.pv)));
        }
        if self.client.closed() {
            return Err(PyValueError::new_err(format!(
                "{}: this channel is closed by shutdown_all(); open a new one with get_context().channel()",
                self.pv
            )));
        }
        Ok(self.link.clone())
    }

    fn caller(&self) -> Caller<'_> {
        Caller {
            driver: &self.client.driver,
            pv: &self.pv,
            link: Some(&self.link),
        }
    }

    /// Have this end with the channel, and with the client; an error where another thread has closed them meanwhile.
    fn keep(&self, py: Python<'_>, opened: Arc<dyn Opened>) -> PyResult<()> {
        self.client.held.keep(&opened);
        self.held.keep(&opened);
        self.link(py).map(drop)
    }

    fn limit(&self, timeout: &Timeout<'_>) -> PyResult<Limit> {
        Limit::parse(&self.pv, timeout)
    }

    /// The given delivery's queue, or else `otherwise`.
    fn queue(
        &self,
        delivery: Option<&Bound<'_, PyAny>>,
        otherwise: impl FnOnce() -> PyResult<Arc<Queue>>,
    ) -> PyResult<Arc<Queue>> {
        match delivery {
            None => otherwise(),
            Some(given) => match given.cast::<DeliveryQueue>() {
                Ok(delivery) => Ok(delivery.get().queue.clone()),
                Err(_) => Err(PyTypeError::new_err(format!(
                    "{}: delivery must be a Delivery, not {given}",
                    self.pv
                ))),
            },
        }
    }

    fn fetch(
        &self,
        form: &str,
        count: Option<&Bound<'_, PyAny>>,
        cached: bool,
        string: bool,
        request: Option<&str>,
    ) -> PyResult<Fetch> {
        Ok(Fetch {
            cached,
            string,
            request: arguments::request(&self.pv, &self.link, request)?,
            ..arguments::fetch(&self.pv, form, count)?
        })
    }

    /// A subscription's bounds: 1000 updates and 64 MiB without a word of the caller.
    fn capacity(&self, updates: Option<&Bound<'_, PyAny>>, bytes: Option<&Bound<'_, PyAny>>) -> PyResult<Capacity> {
        let whole = |what, given: Option<&Bound<'_, PyAny>>, usual: usize| match given {
            None => Ok(usual),
            Some(given) => arguments::whole(&self.pv, what, given, 1).map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        };
        Ok(Capacity {
            updates: whole("queue", updates, 1000)?,
            bytes: whole("queue_bytes", bytes, 64 << 20)?,
        })
    }

    fn subscriber(
        &self,
        py: Python<'_>,
        callback: Option<Py<PyAny>>,
        wish: &Wish,
        queue: Arc<Queue>,
        capacity: Capacity,
    ) -> PyResult<Py<Subscription>> {
        if let Some(callback) = callback.as_ref().filter(|callback| !callback.bind(py).is_callable()) {
            return Err(PyTypeError::new_err(format!(
                "{}: {callback} cannot be called",
                self.pv
            )));
        }
        // It starts behind what its thread has asked for.
        self.client.driver.start_held();
        let subscription = Subscriber::open(py, self.pv.clone(), self.link(py)?, wish, queue, callback, capacity)?;
        self.keep(py, subscription.get().0.clone())?;
        Ok(subscription)
    }

    fn watch(
        &self,
        py: Python<'_>,
        callback: Py<PyAny>,
        delivery: Option<&Bound<'_, PyAny>>,
        wanted: Wanted,
    ) -> PyResult<Py<Watch>> {
        let link = self.link(py)?;
        if !callback.bind(py).is_callable() {
            return Err(PyTypeError::new_err(format!(
                "{}: {callback} cannot be called",
                self.pv
            )));
        }
        let queue = self.queue(delivery, || default_queue(py))?;
        let watch = Watcher::open(py, self.pv.clone(), link, queue, callback, wanted)?;
        self.keep(py, watch.get().0.clone())?;
        Ok(watch)
    }
}

/// The queue of native's own delivery thread.
fn default_queue(py: Python<'_>) -> PyResult<Arc<Queue>> {
    let delivery = py.import("epicsrs_native.delivery")?.call_method0("get_delivery")?;
    Ok(delivery.cast::<DeliveryQueue>()?.get().queue.clone())
}

async fn got(link: Link, fetch: Fetch) -> Result<Outcome, Error> {
    link.get(fetch).await.map(Outcome::Reading)
}

async fn done(call: impl Future<Output = Result<(), Error>>) -> Result<Outcome, Error> {
    call.await.map(|()| Outcome::Nothing)
}

async fn informed(pv: Arc<str>, link: Link) -> Result<Outcome, Error> {
    let protocol = link.protocol();
    link.info().await.map(|info| Outcome::Info(pv, protocol, info))
}

/// A subscription that did not start is closed again.
struct Starting(Option<(Arc<Subscriber>, Py<Subscription>)>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some((subscriber, _)) = self.0.take() {
            subscriber.end();
        }
    }
}

impl Starting {
    async fn started(mut self, wait: bool) -> Result<Outcome, Error> {
        if let Some((subscriber, _)) = self.0.as_ref().filter(|_| wait) {
            subscriber.clone().started().await?;
        }
        match self.0.take() {
            Some((_, subscription)) => Ok(Outcome::Subscription(subscription)),
            None => Ok(Outcome::Nothing),
        }
    }
}

#[pymethods]
impl Channel {
    /// The name the channel was made with, with its scheme where it had one.
    #[getter(pv)]
    fn shown_pv(&self) -> &str {
        &self.pv
    }

    /// "ca" or "pva".
    #[getter]
    fn protocol(&self) -> &str {
        self.link.protocol()
    }

    /// Whether a server serves the PV to us now.
    #[getter]
    fn connected(&self) -> bool {
        !guard::forked() && !self.closed() && self.link.events().connected()
    }

    /// Whether the channel was closed, by itself or by shutdown_all().
    #[getter]
    fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire) || self.client.closed()
    }

    /// How many puts with `wait=False` the server refused after they had been sent.
    #[getter]
    fn refused(&self) -> u64 {
        self.link.events().refusals()
    }

    /// Wait until a server serves the PV.
    ///
    /// Args:
    ///     timeout: Seconds for the whole call; None waits for ever.
    ///
    /// Raises:
    ///     NotConnectedError: No server answered in time.
    #[pyo3(signature = (*, timeout = Timeout::Usual), text_signature = "($self, *, timeout=5.0)")]
    fn connect(&self, py: Python<'_>, timeout: Timeout<'_>) -> PyResult<()> {
        let limit = self.limit(&timeout)?;
        block(py, &self.caller(), limit, self.link(py)?.connect())
    }

    /// Awaitable twin of `connect`.
    #[pyo3(signature = (*, timeout = Timeout::Usual), text_signature = "($self, *, timeout=5.0)")]
    fn connect_async<'py>(&self, py: Python<'py>, timeout: Timeout<'py>) -> PyResult<Bound<'py, PyAny>> {
        let limit = self.limit(&timeout)?;
        awaitable(py, &self.caller(), limit, done(self.link(py)?.connect()))
    }

    /// Read the PV now: one request to its server, so the value is newer than the call.
    ///
    /// Args:
    ///     form: "value" for the value alone, "time" with alarm and time, "ctrl" with units, precision, choices and
    ///         limits as well.
    ///     count: At most so many elements of an array; all it has without. 0 is for who wants the rest only.
    ///     cached: True takes the last update of a running monitor of this PV in place of a request, where there is one
    ///         with what `form` fetches and the channel is connected; `Reading.age` tells how old it is, None for a read.
    ///     string: True reads an array of characters (DBF_CHAR, byte, ubyte: a long string, as in `NAME.VAL$` over Channel
    ///         Access) as the str in it, up to the first NUL.
    ///     request: pvAccess only: a pvRequest, as in "field(value,alarm)" or "record[process=true]field(value)", in place
    ///         of the one that `form` means.
    ///     timeout: Seconds for the whole call; None waits for ever.
    ///
    /// Returns:
    ///     A Reading. Its value is in the record's engineering units (`metadata.units`, with `form="ctrl"`): int, float,
    ///     bool or str; an EnumValue, which is an int with a label; for an array a read-only numpy array, shape (n,), of
    ///     the n elements that the record holds now, in the server's dtype; for an array of strings a list of str.
    ///     Its timestamp is the IOC's, in seconds since the UNIX epoch.
    ///
    /// Raises:
    ///     NotConnectedError: No server answered within `timeout`, or the circuit was lost before the reply.
    ///     ReplyTimeoutError: Connected, but no reply within `timeout`.
    ///     AccessDeniedError: The server does not let this client read the PV.
    ///     RemoteError: The server refused; `reason` has its words.
    ///     ValueError, TypeError: A form, count or timeout that is none, a value that is no text with `string=True`, or a
    ///         closed channel.
    ///
    /// Source: Channel Access, CA_PROTO_READ_NOTIFY with DBR_TIME and DBR_CTRL types; pvAccess, channel get.
    #[pyo3(
        signature = (*, form = "time", count = None, cached = false, string = false, request = None, timeout = Timeout::Usual),
        text_signature = "($self, *, form='time', count=None, cached=False, string=False, request=None, timeout=5.0)"
    )]
    #[expect(clippy::too_many_arguments, reason = "Python's keyword arguments")]
    fn get(
        &self,
        py: Python<'_>,
        form: &str,
        count: Option<Bound<'_, PyAny>>,
        cached: bool,
        string: bool,
        request: Option<&str>,
        timeout: Timeout<'_>,
    ) -> PyResult<Py<Reading>> {
        let limit = self.limit(&timeout)?;
        let link = self.link(py)?;
        let fetch = self.fetch(form, count.as_ref(), cached, string, request)?;
        let cached = link.cached(&fetch).map_err(|error| exception(py, &self.pv, &error))?;
        let reading = match cached {
            Some(reading) => reading,
            None => block(py, &self.caller(), limit, link.get(fetch))?,
        };
        Reading::new(py, reading)
    }

    /// Awaitable twin of `get`.
    #[pyo3(
        signature = (*, form = "time", count = None, cached = false, string = false, request = None, timeout = Timeout::Usual),
        text_signature = "($self, *, form='time', count=None, cached=False, string=False, request=None, timeout=5.0)"
    )]
    #[expect(clippy::too_many_arguments, reason = "Python's keyword arguments")]
    fn get_async<'py>(
        &self,
        py: Python<'py>,
        form: &str,
        count: Option<Bound<'py, PyAny>>,
        cached: bool,
        string: bool,
        request: Option<&str>,
        timeout: Timeout<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let limit = self.limit(&timeout)?;
        let fetch = self.fetch(form, count.as_ref(), cached, string, request)?;
        awaitable(py, &self.caller(), limit, got(self.link(py)?, fetch))
    }

    /// Write the PV.
    ///
    /// Args:
    ///     value: In the record's units. What the server's type cannot hold exactly is refused (a float is rounded to a
    ///         float32 PV, nothing else is changed). An enum takes a label, an index or an EnumValue; an array takes a
    ///         numpy array or a sequence, a string PV a str of at most 39 bytes over Channel Access.
    ///     wait: True returns when the record has finished processing. False returns as soon as the request is queued
    ///         in its order (Channel Access; a later refusal goes to `on_error` and is counted in `refused`) or taken by
    ///         the server (pvAccess).
    ///     request: pvAccess only: a pvRequest in place of the one that `wait` means.
    ///     timeout: Seconds for the whole call, the record's processing included; None waits for ever.
    ///
    /// Raises:
    ///     NotConnectedError: No server answered within `timeout`, or the circuit was lost before the completion; the
    ///         put is not sent again.
    ///     ReplyTimeoutError: Connected, but not finished within `timeout`; the record may still be processing.
    ///     AccessDeniedError: The server does not let this client write the PV.
    ///     RemoteError: The server refused; `reason` has its words.
    ///     ValueError: The value does not fit, or a closed channel.
    ///     TypeError: The value is of a type that the PV cannot take.
    ///
    /// Source: Channel Access, CA_PROTO_WRITE_NOTIFY and CA_PROTO_WRITE; pvAccess, channel put with
    /// `record[block=true]`.
    #[pyo3(
        signature = (value, *, wait = true, request = None, timeout = Timeout::Usual),
        text_signature = "($self, value, *, wait=True, request=None, timeout=5.0)"
    )]
    fn put(
        &self,
        py: Python<'_>,
        value: &Bound<'_, PyAny>,
        wait: bool,
        request: Option<&str>,
        timeout: Timeout<'_>,
    ) -> PyResult<()> {
        let limit = self.limit(&timeout)?;
        let link = self.link(py)?;
        let request = arguments::request(&self.pv, &link, request)?;
        let value = from_python(&self.pv, value)?;
        if wait {
            block(py, &self.caller(), limit, link.put(value, wait, request))
        } else {
            at_once(py, &self.caller(), limit, link.put(value, wait, request))
        }
    }

    /// Awaitable twin of `put`; sent in the order of the calls, awaited or not.
    #[pyo3(
        signature = (value, *, wait = true, request = None, timeout = Timeout::Usual),
        text_signature = "($self, value, *, wait=True, request=None, timeout=5.0)"
    )]
    fn put_async<'py>(
        &self,
        py: Python<'py>,
        value: &Bound<'py, PyAny>,
        wait: bool,
        request: Option<&str>,
        timeout: Timeout<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let limit = self.limit(&timeout)?;
        let link = self.link(py)?;
        let request = arguments::request(&self.pv, &link, request)?;
        let value = from_python(&self.pv, value)?;
        awaitable(py, &self.caller(), limit, done(link.put(value, wait, request)))
    }

    /// Have every update of the PV delivered, the present value first.
    ///
    /// Args:
    ///     callback: Called with a Reading for each update, in the order of the wire. None makes the Subscription an
    ///         async iterator.
    ///     form: "value" (pvAccess), "time", or "ctrl": each reading has the PV's metadata as well, and a change of units,
    ///         precision, choices or limits makes an update.
    ///     mask: Channel Access only: the events that make an update, a sum of DBE_VALUE (1, a new value beyond the
    ///         record's MDEL), DBE_LOG (2, beyond ADEL), DBE_ALARM (4) and DBE_PROPERTY (8); 5 without.
    ///     string: True makes the str of an array of characters, as for `get`.
    ///     request: pvAccess only: a pvRequest, as in "record[queueSize=10]field(value)", in place of the one that `form`
    ///         means.
    ///     delivery: Where the callback runs; native's own thread without.
    ///     queue: At most so many updates wait for the callback; then the oldest is dropped and counted in
    ///         `Subscription.dropped`, the last never. 1 is latest-wins.
    ///     queue_bytes: The same for the memory that they hold.
    ///     wait: True returns when the first update has come; False at once, whenever the PV will connect.
    ///     timeout: Seconds for the whole call with `wait=True`; None waits for ever.
    ///
    /// Returns:
    ///     The Subscription; it survives reconnects and lives until it or the channel is closed.
    ///
    /// Raises:
    ///     NotConnectedError: No server answered within `timeout`.
    ///     ReplyTimeoutError: Connected, but no first update within `timeout`.
    ///     RemoteError: The server refused.
    ///     ValueError, TypeError: Bad arguments, or a closed channel.
    ///
    /// Source: Channel Access, CA_PROTO_EVENT_ADD; pvAccess, channel monitor.
    #[pyo3(
        signature = (callback = None, *, form = "time", mask = None, string = false, request = None, delivery = None, queue = None, queue_bytes = None, wait = true, timeout = Timeout::Usual),
        text_signature = "($self, callback=None, *, form='time', mask=None, string=False, request=None, delivery=None, queue=1000, queue_bytes=67108864, wait=True, timeout=5.0)"
    )]
    #[expect(clippy::too_many_arguments, reason = "Python's keyword arguments")]
    fn monitor(
        &self,
        py: Python<'_>,
        callback: Option<Py<PyAny>>,
        form: &str,
        mask: Option<Bound<'_, PyAny>>,
        string: bool,
        request: Option<&str>,
        delivery: Option<Bound<'_, PyAny>>,
        queue: Option<Bound<'_, PyAny>>,
        queue_bytes: Option<Bound<'_, PyAny>>,
        wait: bool,
        timeout: Timeout<'_>,
    ) -> PyResult<Py<Subscription>> {
        let limit = self.limit(&timeout)?;
        let wish = arguments::wish(&self.pv, &self.link(py)?, form, mask.as_ref(), string, request)?;
        let capacity = self.capacity(queue.as_ref(), queue_bytes.as_ref())?;
        let lane = self.queue(delivery.as_ref(), || default_queue(py))?;
        let subscription = self.subscriber(py, callback, &wish, lane, capacity)?;
        if wait {
            let subscriber = subscription.get().0.clone();
            let starting = Starting(Some((subscriber, subscription.clone_ref(py))));
            block(py, &self.caller(), limit, starting.started(true))?;
        }
        Ok(subscription)
    }

    /// Awaitable twin of `monitor`; without a delivery the callback runs in the running loop.
    #[pyo3(
        signature = (callback = None, *, form = "time", mask = None, string = false, request = None, delivery = None, queue = None, queue_bytes = None, wait = true, timeout = Timeout::Usual),
        text_signature = "($self, callback=None, *, form='time', mask=None, string=False, request=None, delivery=None, queue=1000, queue_bytes=67108864, wait=True, timeout=5.0)"
    )]
    #[expect(clippy::too_many_arguments, reason = "Python's keyword arguments")]
    fn monitor_async<'py>(
        &self,
        py: Python<'py>,
        callback: Option<Py<PyAny>>,
        form: &str,
        mask: Option<Bound<'py, PyAny>>,
        string: bool,
        request: Option<&str>,
        delivery: Option<Bound<'py, PyAny>>,
        queue: Option<Bound<'py, PyAny>>,
        queue_bytes: Option<Bound<'py, PyAny>>,
        wait: bool,
        timeout: Timeout<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let limit = self.limit(&timeout)?;
        let wish = arguments::wish(&self.pv, &self.link(py)?, form, mask.as_ref(), string, request)?;
        let capacity = self.capacity(queue.as_ref(), queue_bytes.as_ref())?;
        let lane = self.queue(delivery.as_ref(), || running_queue(py))?;
        let subscription = self.subscriber(py, callback, &wish, lane, capacity)?;
        let starting = Starting(Some((subscription.get().0.clone(), subscription)));
        awaitable(py, &self.caller(), limit, starting.started(wait))
    }

    /// Where the channel is connected to and what it carries.
    ///
    /// Raises:
    ///     NotConnectedError: No server answered within `timeout`.
    #[pyo3(signature = (*, timeout = Timeout::Usual), text_signature = "($self, *, timeout=5.0)")]
    fn info(&self, py: Python<'_>, timeout: Timeout<'_>) -> PyResult<Info> {
        let limit = self.limit(&timeout)?;
        let info = block(py, &self.caller(), limit, self.link(py)?.info())?;
        Info::new(py, &self.pv, self.link.protocol(), info)
    }

    /// Awaitable twin of `info`.
    #[pyo3(signature = (*, timeout = Timeout::Usual), text_signature = "($self, *, timeout=5.0)")]
    fn info_async<'py>(&self, py: Python<'py>, timeout: Timeout<'py>) -> PyResult<Bound<'py, PyAny>> {
        let limit = self.limit(&timeout)?;
        awaitable(py, &self.caller(), limit, informed(self.pv.clone(), self.link(py)?))
    }

    /// Have `callback(connected)` called with the present state at once, then once for each change.
    #[pyo3(signature = (callback, *, delivery = None))]
    fn on_connection(
        &self,
        py: Python<'_>,
        callback: Py<PyAny>,
        delivery: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<Watch>> {
        self.watch(py, callback, delivery.as_ref(), Wanted::Connection)
    }

    /// Have `callback(read, write)` called with the access rights: at once where connected, at every connection, and for
    /// each change. Over pvAccess, which does not tell, both are None.
    #[pyo3(signature = (callback, *, delivery = None))]
    fn on_access(
        &self,
        py: Python<'_>,
        callback: Py<PyAny>,
        delivery: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<Watch>> {
        self.watch(py, callback, delivery.as_ref(), Wanted::Access)
    }

    /// Have `callback(error)` called with an EpicsError that no call waits for: a put with `wait=False` or a running
    /// monitor that the server refused.
    #[pyo3(signature = (callback, *, delivery = None))]
    fn on_error(&self, py: Python<'_>, callback: Py<PyAny>, delivery: Option<Bound<'_, PyAny>>) -> PyResult<Py<Watch>> {
        self.watch(py, callback, delivery.as_ref(), Wanted::Refusals)
    }

    /// Close the channel, its subscriptions and watches. What it shares with other channels of the PV stays.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        guard::check(py, &self.pv)?;
        self.closed.store(true, Ordering::Release);
        self.held.end();
        Ok(())
    }

    fn __repr__(&self) -> String {
        let state = match (self.closed(), self.connected()) {
            (true, _) => "closed",
            (false, true) => "connected",
            (false, false) => "not connected",
        };
        format!("Channel({:?}, {state})", &*self.pv)
    }
}
