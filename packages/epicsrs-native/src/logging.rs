//! What the network code logs, for Python's logging: `epicsrs.ca`, `epicsrs.pva`, `epicsrs.native`.
//!
//! Events wait in a bounded queue until the default delivery's thread hands them on: no network thread takes the GIL.

use std::collections::VecDeque;
use std::fmt::{Debug, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry;

/// Beyond it the oldest records are dropped and counted.
const MOST: usize = 1000;

/// Python's level of the logger `epicsrs`, mirrored: what is below it is not even formatted.
static LEVEL: AtomicU8 = AtomicU8::new(30);
static RECORDS: Mutex<VecDeque<Record>> = Mutex::new(VecDeque::new());
static DROPPED: AtomicU64 = AtomicU64::new(0);

struct Record {
    logger: &'static str,
    level: u8,
    text: String,
}

/// Python's numbers (logging.DEBUG …); trace is finer than anything Python has a name for.
fn number(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}

fn logger(target: &str) -> &'static str {
    if target.starts_with("epics_ca_rs") {
        "epicsrs.ca"
    } else if target.starts_with("epics_pva_rs") {
        "epicsrs.pva"
    } else {
        "epicsrs.native"
    }
}

struct ToPython;

impl<S: Subscriber> Layer<S> for ToPython {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        number(metadata.level()) >= LEVEL.load(Ordering::Relaxed)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let metadata = event.metadata();
        let record = Record {
            logger: logger(metadata.target()),
            level: number(metadata.level()),
            text: text.message + &text.fields,
        };
        let mut records = RECORDS.lock();
        if records.len() == MOST {
            records.pop_front();
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        records.push_back(record);
        drop(records);
        crate::queue::wake_default();
    }
}

/// An event as one line: its message, then its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a String does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// Take the crates' events from now on; once per process.
pub fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // Another subscriber can only be one of this module's: no other code sets one.
        let _ = tracing::subscriber::set_global_default(registry().with(ToPython));
    });
}

/// Read Python's level again.
pub fn mirror(py: Python<'_>) -> PyResult<()> {
    let logging = py.import("sys")?.getattr("modules")?.get_item("logging").ok();
    // Nobody has configured what nobody has imported, or is importing in this moment.
    let level: i64 = match logging.map(|l| l.getattr_opt("getLogger")).transpose()?.flatten() {
        Some(logger) => logger
            .call1(("epicsrs",))?
            .call_method0("getEffectiveLevel")?
            .extract()?,
        None => 30,
    };
    LEVEL.store(u8::try_from(level.max(0)).unwrap_or(u8::MAX), Ordering::Relaxed);
    Ok(())
}

pub fn pending() -> bool {
    !RECORDS.lock().is_empty()
}

/// What hands the waiting records to Python's logging, with its arguments; None where none wait.
///
/// It is for Python to call: a thread that logs while the interpreter is finalized is ended where it is, which must not
/// be above Rust frames.
pub fn due(py: Python<'_>) -> PyResult<Option<Bound<'_, PyTuple>>> {
    let records = std::mem::take(&mut *RECORDS.lock());
    if records.is_empty() {
        return Ok(None);
    }
    mirror(py)?;
    let hand_on = py.import("epicsrs_native.delivery")?.getattr("hand_on")?;
    let records: Vec<_> = records.into_iter().map(|r| (r.logger, r.level, r.text)).collect();
    let arguments = (records, DROPPED.swap(0, Ordering::Relaxed)).into_pyobject(py)?;
    Ok(Some((hand_on, arguments, py.None()).into_pyobject(py)?))
}
