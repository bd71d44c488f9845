//! The process's client as Python sees it.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::PyString;

use crate::channel::Channel;
use crate::client::Client;
use crate::convert::exception;
use crate::{delivery, guard, logging, panics, runtime};

static CONTEXT: Mutex<Option<Py<Context>>> = Mutex::new(None);

/// The process's one client of Channel Access and pvAccess, opened at first use with the EPICS_CA_* and EPICS_PVA_*
/// variables of that moment.
#[pyclass(frozen, module = "epicsrs_native._native")]
pub struct Context(Arc<Client>);

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
    let opened = Py::new(py, Context(client))?;
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
        let client = context.get().0.clone();
        py.detach(|| client.close());
    }
    delivery::close_all();
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
        if self.0.closed() {
            return Err(pyo3::exceptions::PyValueError::new_err(format!(
                "{name}: this context is closed by shutdown_all(); get_context() opens a new one"
            )));
        }
        // Its thread hands on what the network code logs.
        py.import("epicsrs_native.delivery")?.call_method0("get_delivery")?;
        let shown = if name.is_empty() { "''" } else { &name };
        let link = py
            .detach(|| runtime::guarded(|| self.0.link(&name)))
            .map_err(|error| exception(py, shown, &error))?;
        Ok(Channel::new(&name, self.0.clone(), link))
    }

    fn __repr__(&self) -> String {
        format!("Context({})", if self.0.closed() { "closed" } else { "open" })
    }
}
