//! The EPICS parameters of the process's client: from the environment, or from the program in its place.

use epics_libcom_rs::runtime::env;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

/// What a parameter's value looks like.
#[derive(Clone, Copy)]
enum Kind {
    /// Addresses, host[:port] each, with spaces between.
    List,
    Port,
    /// A number above 0.
    Number,
    /// YES or NO.
    Switch,
}

/// Those that the client reads (CA Reference Manual, «Environment variables»; pvxs, «Configuration»).
const PARAMETERS: [(&str, Kind); 17] = [
    ("EPICS_CA_ADDR_LIST", Kind::List),
    ("EPICS_CA_AUTO_ADDR_LIST", Kind::Switch),
    ("EPICS_CA_NAME_SERVERS", Kind::List),
    ("EPICS_CA_SERVER_PORT", Kind::Port),
    ("EPICS_CA_REPEATER_PORT", Kind::Port),
    ("EPICS_CA_CONN_TMO", Kind::Number),
    ("EPICS_CA_MAX_SEARCH_PERIOD", Kind::Number),
    ("EPICS_CA_MAX_ARRAY_BYTES", Kind::Number),
    ("EPICS_CA_AUTO_ARRAY_BYTES", Kind::Switch),
    ("EPICS_CA_MCAST_TTL", Kind::Number),
    ("EPICS_PVA_ADDR_LIST", Kind::List),
    ("EPICS_PVA_AUTO_ADDR_LIST", Kind::Switch),
    ("EPICS_PVA_NAME_SERVERS", Kind::List),
    ("EPICS_PVA_INTF_ADDR_LIST", Kind::List),
    ("EPICS_PVA_BROADCAST_PORT", Kind::Port),
    ("EPICS_PVA_SERVER_PORT", Kind::Port),
    ("EPICS_PVA_CONN_TMO", Kind::Number),
];

/// A parameter's name and its value; None is as if it were not set.
type Setting = (String, Option<String>);

/// What Python gave, checked.
pub fn read(settings: Option<&Bound<'_, PyDict>>) -> PyResult<Vec<Setting>> {
    let mut values = Vec::new();
    for (name, given) in settings.iter().flat_map(|settings| settings.iter()) {
        let name: String = name.extract()?;
        let Some((_, kind)) = PARAMETERS.iter().find(|(known, _)| *known == name) else {
            let known: Vec<&str> = PARAMETERS.iter().map(|(known, _)| *known).collect();
            return Err(PyValueError::new_err(format!("{name} is none of {}", known.join(", "))));
        };
        let value = if given.is_none() {
            None
        } else {
            Some(text(&name, *kind, &given)?)
        };
        values.push((name, value));
    }
    Ok(values)
}

/// Take these values in place of the environment's.
pub fn give(values: Vec<Setting>) {
    env::give(values);
}

fn text(name: &str, kind: Kind, given: &Bound<'_, PyAny>) -> PyResult<String> {
    let wrong = |what| PyTypeError::new_err(format!("{name} must be {what}, not {given:?}"));
    let flag = given.is_instance_of::<PyBool>();
    match kind {
        Kind::Switch if flag => Ok(if given.is_truthy()? { "YES" } else { "NO" }.to_owned()),
        Kind::Switch => Err(wrong("True or False")),
        Kind::List if given.is_instance_of::<PyString>() => given.extract(),
        Kind::List if given.is_instance_of::<PyList>() || given.is_instance_of::<PyTuple>() => {
            let addresses: Vec<String> = given.extract().map_err(|_| wrong("a str or a list of str"))?;
            Ok(addresses.join(" "))
        }
        Kind::List => Err(wrong("a str or a list of str")),
        Kind::Port => match given.extract::<u16>() {
            Ok(port) if port > 0 && !flag => Ok(port.to_string()),
            _ if given.is_instance_of::<PyInt>() && !flag => {
                Err(PyValueError::new_err(format!("{name}: {given:?} is no port")))
            }
            _ => Err(wrong("a port's number")),
        },
        Kind::Number if flag => Err(wrong("a number")),
        Kind::Number if given.is_instance_of::<PyInt>() || given.is_instance_of::<PyFloat>() => {
            let number: f64 = given.extract()?;
            if number > 0.0 && number.is_finite() {
                return Ok(given.str()?.to_string());
            }
            Err(PyValueError::new_err(format!("{name}: {given:?} is not above 0")))
        }
        Kind::Number => Err(wrong("a number")),
    }
}

/// The parameters that are set, with their values.
pub fn effective() -> Vec<(&'static str, String)> {
    let value = |(name, _): &(&'static str, Kind)| env::get_lossy(name).map(|value| (*name, value));
    PARAMETERS.iter().filter_map(value).collect()
}
