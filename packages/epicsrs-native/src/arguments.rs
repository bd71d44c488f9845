//! What Python gave, checked: an error names the PV and the argument.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt};

use crate::error::{Error, Kind};
use crate::feed::{DBE_VALUE, Wish};
use crate::link::Link;
use crate::pva;
use crate::value::{Fetch, Form};

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
    pub fn late(&self, link: Option<&Link>) -> Error {
        let seconds = self.whole.unwrap_or_default().as_secs_f64();
        if link.is_none_or(|link| link.events().connected()) {
            Error::new(
                Kind::ReplyTimeout,
                format!("connected, but no reply within {seconds} s"),
            )
        } else {
            let text = match link.and_then(Link::trouble) {
                Some(trouble) => format!("not connected within {seconds} s: {trouble}"),
                None => format!("not connected: no server answered within {seconds} s"),
            };
            Error::new(Kind::NotConnected, text)
        }
    }
}

fn not_seconds(pv: &str, given: &Bound<'_, PyAny>) -> PyErr {
    let shown = given.repr().map_or_else(|_| "timeout".to_owned(), |r| r.to_string());
    PyTypeError::new_err(format!(
        "{pv}: timeout must be a number of seconds or None, not {shown}"
    ))
}

/// How much to fetch.
pub fn form(pv: &str, form: &str) -> PyResult<Form> {
    match form {
        "value" => Ok(Form::Value),
        "time" => Ok(Form::Time),
        "ctrl" => Ok(Form::Ctrl),
        _ => Err(PyValueError::new_err(format!(
            "{pv}: form {form:?} is none of \"value\", \"time\", \"ctrl\""
        ))),
    }
}

/// A number of elements, None for all.
pub fn count(pv: &str, given: Option<&Bound<'_, PyAny>>) -> PyResult<Option<u32>> {
    let Some(given) = given.filter(|given| !given.is_none()) else {
        return Ok(None);
    };
    whole(pv, "count", given, 0).map(|count| Some(u32::try_from(count).unwrap_or(u32::MAX)))
}

/// A whole number from `least`; beyond what a machine counts it is as good as the largest.
pub fn whole(pv: &str, what: &str, given: &Bound<'_, PyAny>, least: u64) -> PyResult<u64> {
    if given.is_instance_of::<PyBool>() || !given.hasattr("__index__")? {
        return Err(PyTypeError::new_err(format!(
            "{pv}: {what} must be a whole number, not {}",
            given.repr()?
        )));
    }
    let whole = given.call_method0("__index__")?;
    if whole.lt(least)? {
        return Err(PyValueError::new_err(format!(
            "{pv}: {what} {whole} is less than {least}"
        )));
    }
    Ok(whole.extract().unwrap_or(u64::MAX))
}

/// What a get asks for: from the server, by the form's own request.
pub fn fetch(pv: &str, how: &str, elements: Option<&Bound<'_, PyAny>>) -> PyResult<Fetch> {
    Ok(Fetch {
        form: form(pv, how)?,
        count: count(pv, elements)?,
        cached: false,
        string: false,
        request: None,
    })
}

/// A pvRequest, which only pvAccess has.
pub fn request(pv: &str, link: &Link, given: Option<&str>) -> PyResult<Option<Arc<str>>> {
    match (given, link) {
        (None, _) => Ok(None),
        (Some(text), Link::Ca(_)) => Err(PyValueError::new_err(format!(
            "{pv}: request {text:?} is of pvAccess, this channel is of Channel Access"
        ))),
        (Some(text), Link::Pva(_)) => match pva::check_request(text) {
            Ok(()) => Ok(Some(text.into())),
            Err(error) => Err(PyValueError::new_err(format!("{pv}: {error}"))),
        },
    }
}

/// DBE_VALUE and DBE_ALARM (caeventmask.h): a new value by the record's MDEL, and a new alarm.
const USUAL_MASK: u16 = DBE_VALUE | 4;
/// DBE_VALUE, DBE_LOG, DBE_ALARM and DBE_PROPERTY.
const EVERY_EVENT: u64 = 1 | 2 | 4 | 8;

/// What a monitor asks for.
pub fn wish(
    pv: &str,
    link: &Link,
    how: &str,
    mask: Option<&Bound<'_, PyAny>>,
    string: bool,
    asked: Option<&str>,
) -> PyResult<Wish> {
    let mask = match (mask, link) {
        (None, _) => USUAL_MASK,
        (Some(_), Link::Pva(_)) => {
            return Err(PyValueError::new_err(format!(
                "{pv}: mask is of Channel Access, this channel is of pvAccess"
            )));
        }
        (Some(given), Link::Ca(_)) => match whole(pv, "mask", given, 1)? {
            bits if bits <= EVERY_EVENT => bits as u16,
            bits => {
                return Err(PyValueError::new_err(format!(
                    "{pv}: mask {bits} has other bits than DBE_VALUE, DBE_LOG, DBE_ALARM and DBE_PROPERTY"
                )));
            }
        },
    };
    Ok(Wish {
        form: form(pv, how)?,
        mask,
        string,
        request: request(pv, link, asked)?,
    })
}
