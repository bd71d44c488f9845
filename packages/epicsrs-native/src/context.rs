//! The process's client as Python sees it.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::{PyDict, PyString};

use crate::arguments::{self, Limit, Timeout};
use crate::bulk::Bulk;
use crate::channel::Channel;
use crate::client::Client;
use crate::convert::exception;
use crate::{config, guard, logging, panics, queue, runtime};

static CONTEXT: Mutex<Option<Py<Context>>> = Mutex::new(None);

/// The process's one client of Channel Access and pvAccess, opened at first use with the EPICS_CA_* and EPICS_PVA_*
/// variables of that moment.
#[pyclass(frozen, module = "epicsrs_native._native")]
pub struct Context {
    client: Arc<Client>,
    /// As they were when the client was opened.
    parameters: Vec<(&'static str, String)>,
}

/// Configure the process's client before it is opened, in place of environment variables.
///
/// Args:
///     settings: EPICS_CA_* and EPICS_PVA_* parameters by their names: address lists and name servers as a str or a
///         list of str, ports and numbers as numbers, switches as bool; None for "not set". What is not named is the
///         environment's, which is read and never written. A later call replaces the earlier one.
///
/// Raises:
///     ValueError, TypeError: An unknown parameter, or a value that is none.
///     RuntimeError: The client is open; after `shutdown_all()` it can be configured again.
#[pyfunction]
#[pyo3(signature = (**settings))]
pub fn configure(py: Python<'_>, settings: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
    guard::check(py, "")?;
    let values = config::read(settings)?;
    // Held until they are given: a client that another thread opens meanwhile has them.
    let context = CONTEXT.lock_py_attached(py);
    if context.is_some() {
        return Err(PyRuntimeError::new_err(
            "the client is open already: configure() comes before the first get_context(), or after shutdown_all()",
        ));
    }
    config::give(values);
    Ok(())
}

/// The process's context, made at the first call.
///
/// Raises:
///     EpicsError: The client cannot be started.
#[pyfunction]
pub fn get_context(py: Python<'_>) -> PyResult<Py<Context>> {
    guard::check(py, "")?;
    let mut context = CONTEXT.lock_py_attached(py);
    if let Some(context) = &*context {
        return Ok(context.clone_ref(py));
    }
    guard::install(py)?;
    panics::install();
    logging::install();
    logging::mirror(py)?;
    let client = Client::start().map_err(|error| exception(py, "epicsrs_native", &error))?;
    let parameters = config::effective();
    let opened = Py::new(py, Context { client, parameters })?;
    *context = Some(opened.clone_ref(py));
    Ok(opened)
}

/// Close every channel and delivery of the process now; what waits ends with an error. The next `get_context` opens a
/// fresh client.
#[pyfunction]
pub fn shutdown_all(py: Python<'_>) -> PyResult<()> {
    guard::check(py, "")?;
    let context = CONTEXT.lock_py_attached(py).take();
    if let Some(context) = context {
        let client = context.get().client.clone();
        py.detach(|| client.close());
    }
    queue::close_all();
    Ok(())
}

/// How many panics of the network code were caught; each became an EpicsError or ended a background task.
#[pyfunction]
pub fn caught_panic_count() -> u64 {
    panics::caught()
}

#[pymethods]
impl Context {
    /// A channel to a PV: its name, bare or with `ca://` for Channel Access, `pva://` for pvAccess.
    ///
    /// Returns at once; the search starts in the background. Channels of one PV share what lies below.
    ///
    /// Raises:
    ///     ValueError: A name that no server can have: empty, not ASCII, over 1000 bytes, or of another scheme.
    ///     EpicsError: The client cannot be started, for example with a bad address list.
    fn channel(&self, py: Python<'_>, pv: &Bound<'_, PyAny>) -> PyResult<Channel> {
        let Ok(name) = pv.cast::<PyString>() else {
            return Err(PyTypeError::new_err(format!(
                "a PV's name must be a str, not {}",
                pv.repr()?
            )));
        };
        let name = name.to_string_lossy();
        logging::mirror(py)?;
        guard::check(py, &name)?;
        if self.client.closed() {
            return Err(pyo3::exceptions::PyValueError::new_err(format!(
                "{name}: this context is closed by shutdown_all(); get_context() opens a new one"
            )));
        }
        // Its thread hands on what the network code logs.
        if !queue::default_is_open() {
            py.import("epicsrs_native.delivery")?.call_method0("get_delivery")?;
        }
        let shown = if name.is_empty() { "''" } else { &name };
        let link = py
            .detach(|| runtime::guarded(|| self.client.link(&name)))
            .map_err(|error| exception(py, shown, &error))?;
        Ok(Channel::new(&name, self.client.clone(), link))
    }

    /// The EPICS_CA_* and EPICS_PVA_* parameters that were set when the client was opened, by `configure` or by the
    /// environment; EPICS' own defaults hold for all others.
    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let config = PyDict::new(py);
        for (name, value) in &self.parameters {
            config.set_item(name, value)?;
        }
        Ok(config)
    }

    /// Wait until a server serves each PV.
    ///
    /// Args:
    ///     channels: Open channels of this context, of both protocols.
    ///     timeout: Seconds for all of them together; None waits for ever.
    ///
    /// Returns:
    ///     One entry for each channel in their order: None where it is connected, else its NotConnectedError.
    ///
    /// Raises:
    ///     ValueError, TypeError: A channel that is closed or none, or a timeout that is none.
    #[pyo3(signature = (channels, *, timeout = Timeout::Usual), text_signature = "($self, channels, *, timeout=5.0)")]
    fn connect_many(&self, py: Python<'_>, channels: &Bound<'_, PyAny>, timeout: Timeout<'_>) -> PyResult<Py<PyAny>> {
        let bulk = Bulk::parse(py, &self.client, channels)?;
        let limit = Limit::parse(bulk.name(), &timeout)?;
        bulk.block(py, bulk.connect(limit))
    }

    /// Awaitable twin of `connect_many`.
    #[pyo3(signature = (channels, *, timeout = Timeout::Usual), text_signature = "($self, channels, *, timeout=5.0)")]
    fn connect_many_async<'py>(
        &self,
        py: Python<'py>,
        channels: &Bound<'py, PyAny>,
        timeout: Timeout<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bulk = Bulk::parse(py, &self.client, channels)?;
        let limit = Limit::parse(bulk.name(), &timeout)?;
        bulk.awaitable(py, bulk.connect(limit))
    }

    /// Read many PVs, all of them asked before the first answers: one flush for each circuit.
    ///
    /// Args:
    ///     channels: Open channels of this context, of both protocols, scalars and arrays of any length.
    ///     form: "value", "time" or "ctrl", as for `Channel.get`.
    ///     count: At most so many elements of each array; all it has without.
    ///     columns: True gives Columns in place of a list of Readings.
    ///     timeout: Seconds for all of them together; None waits for ever.
    ///
    /// Returns:
    ///     One entry for each channel in their order: its Reading, or the EpicsError that kept it from being read; or
    ///     Columns with the same.
    ///
    /// Raises:
    ///     ValueError, TypeError: A channel that is closed or none; a form, count or timeout that is none.
    #[pyo3(
        signature = (channels, *, form = "time", count = None, columns = false, timeout = Timeout::Usual),
        text_signature = "($self, channels, *, form='time', count=None, columns=False, timeout=5.0)"
    )]
    fn get_many(
        &self,
        py: Python<'_>,
        channels: &Bound<'_, PyAny>,
        form: &str,
        count: Option<Bound<'_, PyAny>>,
        columns: bool,
        timeout: Timeout<'_>,
    ) -> PyResult<Py<PyAny>> {
        let bulk = Bulk::parse(py, &self.client, channels)?;
        let limit = Limit::parse(bulk.name(), &timeout)?;
        let fetch = arguments::fetch(bulk.name(), form, count.as_ref())?;
        bulk.block(py, bulk.get(fetch, columns, limit))
    }

    /// Awaitable twin of `get_many`: one future for all of them.
    #[pyo3(
        signature = (channels, *, form = "time", count = None, columns = false, timeout = Timeout::Usual),
        text_signature = "($self, channels, *, form='time', count=None, columns=False, timeout=5.0)"
    )]
    fn get_many_async<'py>(
        &self,
        py: Python<'py>,
        channels: &Bound<'py, PyAny>,
        form: &str,
        count: Option<Bound<'py, PyAny>>,
        columns: bool,
        timeout: Timeout<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bulk = Bulk::parse(py, &self.client, channels)?;
        let limit = Limit::parse(bulk.name(), &timeout)?;
        let fetch = arguments::fetch(bulk.name(), form, count.as_ref())?;
        bulk.awaitable(py, bulk.get(fetch, columns, limit))
    }

    /// Write many PVs, all of them sent before the first answers, in the order of the channels.
    ///
    /// Args:
    ///     channels: Open channels of this context, of both protocols.
    ///     values: One for each channel, as for `Channel.put`.
    ///     wait: True waits until every record has finished processing; False as for `Channel.put`.
    ///     timeout: Seconds for all of them together; None waits for ever.
    ///
    /// Returns:
    ///     One entry for each channel in their order: None where it was written, else the EpicsError, or the ValueError
    ///     or TypeError of a value that the server's type cannot hold.
    ///
    /// Raises:
    ///     ValueError, TypeError: A channel that is closed or none, not as many values as channels, or a value that
    ///         EPICS cannot hold; nothing is sent then.
    #[pyo3(
        signature = (channels, values, *, wait = true, timeout = Timeout::Usual),
        text_signature = "($self, channels, values, *, wait=True, timeout=5.0)"
    )]
    fn put_many(
        &self,
        py: Python<'_>,
        channels: &Bound<'_, PyAny>,
        values: &Bound<'_, PyAny>,
        wait: bool,
        timeout: Timeout<'_>,
    ) -> PyResult<Py<PyAny>> {
        let bulk = Bulk::parse(py, &self.client, channels)?;
        let limit = Limit::parse(bulk.name(), &timeout)?;
        bulk.block(py, bulk.put(bulk.values(values)?, wait, limit))
    }

    /// Awaitable twin of `put_many`: one future for all of them.
    #[pyo3(
        signature = (channels, values, *, wait = true, timeout = Timeout::Usual),
        text_signature = "($self, channels, values, *, wait=True, timeout=5.0)"
    )]
    fn put_many_async<'py>(
        &self,
        py: Python<'py>,
        channels: &Bound<'py, PyAny>,
        values: &Bound<'py, PyAny>,
        wait: bool,
        timeout: Timeout<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bulk = Bulk::parse(py, &self.client, channels)?;
        let limit = Limit::parse(bulk.name(), &timeout)?;
        bulk.awaitable(py, bulk.put(bulk.values(values)?, wait, limit))
    }

    fn __repr__(&self) -> String {
        format!("Context({})", if self.client.closed() { "closed" } else { "open" })
    }
}
