//! What the bulk calls of a Context are given: channels of one client, and what they give back.

use std::future::Future;
use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMapping, PyString};

use crate::arguments::Limit;
use crate::channel::Channel;
use crate::client::Client;
use crate::error::Error;
use crate::given::from_python;
use crate::link::Link;
use crate::many::{each, read};
use crate::outcome::{Outcome, Results};
use crate::runtime::{Caller, awaitable, block};
use crate::value::{Fetch, Value};

/// The channels of one call, checked.
pub struct Bulk {
    client: Arc<Client>,
    /// What an error of the whole call names.
    name: Arc<str>,
    pvs: Arc<Vec<Arc<str>>>,
    links: Arc<Vec<Link>>,
}

impl Bulk {
    pub fn parse(py: Python<'_>, client: &Arc<Client>, channels: &Bound<'_, PyAny>) -> PyResult<Self> {
        let (mut pvs, mut links) = (Vec::new(), Vec::new());
        for given in channels.try_iter()? {
            let given = given?;
            let Ok(channel) = given.cast::<Channel>() else {
                return Err(PyTypeError::new_err(format!(
                    "channels must be Channels of this context, not {}",
                    given.repr()?
                )));
            };
            let channel = channel.get();
            links.push(channel.link(py)?);
            if !Arc::ptr_eq(channel.client(), client) {
                return Err(PyValueError::new_err(format!(
                    "{}: this channel is of another context",
                    channel.pv()
                )));
            }
            pvs.push(channel.pv().clone());
        }
        let name = match pvs.as_slice() {
            [] => "no channel".into(),
            [only] => only.clone(),
            [first, others @ ..] => format!("{first} and {} others", others.len()).into(),
        };
        Ok(Self {
            client: client.clone(),
            name,
            pvs: Arc::new(pvs),
            links: Arc::new(links),
        })
    }

    /// One value for each channel.
    pub fn values(&self, values: &Bound<'_, PyAny>) -> PyResult<Vec<Value>> {
        let single = values.is_instance_of::<PyString>()
            || values.is_instance_of::<PyBytes>()
            || values.is_instance_of::<PyMapping>();
        if single || !values.hasattr("__iter__")? {
            return Err(PyTypeError::new_err(format!(
                "{}: values must be as many values as channels, not {}",
                self.name,
                values.get_type().name()?
            )));
        }
        let values: Vec<_> = values.try_iter()?.collect::<PyResult<_>>()?;
        if values.len() != self.pvs.len() {
            return Err(PyValueError::new_err(format!(
                "{}: {} values for {} channels",
                self.name,
                values.len(),
                self.pvs.len()
            )));
        }
        let each = self.pvs.iter().zip(&values);
        each.map(|(pv, value)| from_python(pv, value)).collect()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn caller(&self) -> Caller<'_> {
        Caller {
            driver: &self.client.driver,
            pv: &self.name,
            link: None,
        }
    }

    /// Wait for all of it; its own deadline ends it.
    pub fn block(
        &self,
        py: Python<'_>,
        call: impl Future<Output = Result<Outcome, Error>> + Send,
    ) -> PyResult<Py<PyAny>> {
        block(py, &self.caller(), Limit::forever(), call)?.into_python(py)
    }

    pub fn awaitable<'py>(
        &self,
        py: Python<'py>,
        call: impl Future<Output = Result<Outcome, Error>> + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>> {
        awaitable(py, &self.caller(), Limit::forever(), call)
    }

    pub fn connect(&self, limit: Limit) -> impl Future<Output = Result<Outcome, Error>> + Send + use<> {
        let pvs = self.pvs.clone();
        let all = each(self.links.clone(), limit, |_, link| link.connect());
        async move { Ok(nothings(pvs, all.await)) }
    }

    pub fn get(
        &self,
        fetch: Fetch,
        columns: bool,
        limit: Limit,
    ) -> impl Future<Output = Result<Outcome, Error>> + Send + use<> {
        let (pvs, links) = (self.pvs.clone(), self.links.clone());
        async move {
            Ok(if columns {
                Outcome::Columns(pvs, read(links, fetch, limit).await)
            } else {
                Outcome::Readings(Results(pvs, read(links, fetch, limit).await))
            })
        }
    }

    pub fn put(
        &self,
        values: Vec<Value>,
        wait: bool,
        limit: Limit,
    ) -> impl Future<Output = Result<Outcome, Error>> + Send + use<> {
        let pvs = self.pvs.clone();
        let all = each(self.links.clone(), limit, move |place, link| {
            let value = values.get(place).cloned();
            link.put(value.unwrap_or(Value::Nothing), wait, None)
        });
        async move { Ok(nothings(pvs, all.await)) }
    }
}

fn nothings(pvs: Arc<Vec<Arc<str>>>, results: Vec<Result<(), Error>>) -> Outcome {
    Outcome::Nothings(Results(pvs, results))
}
