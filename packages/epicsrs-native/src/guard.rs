//! The two ends of a process's life that a client must survive: fork and exit.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// How long the interpreter's exit waits for callbacks that still run.
const LAST_WAIT: Duration = Duration::from_millis(200);

static FORKED: AtomicBool = AtomicBool::new(false);
/// The thread that runs the exit hooks: the only one that may come back to Python from then on.
static EXITING: OnceLock<ThreadId> = OnceLock::new();
static AWAY: AtomicUsize = AtomicUsize::new(0);
static PARKED: AtomicUsize = AtomicUsize::new(0);
/// Threads in a call of ours that runs Python code, which lets go of the GIL and takes it again.
static INSIDE: AtomicUsize = AtomicUsize::new(0);
/// How long the interpreter's exit waits for them: an import takes its time.
const LONGEST_IMPORT: Duration = Duration::from_secs(1);

pub fn forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// Refuse every use of a client that this process inherited.
///
/// A thread that calls during the interpreter's exit stays away from then on: it is a daemon, and it dies with the process.
pub fn check(py: Python<'_>, pv: &str) -> PyResult<()> {
    if forked() {
        let name = if pv.is_empty() { "epicsrs_native" } else { pv };
        return Err(PyRuntimeError::new_err(format!(
            "{name}: used before fork; use spawn (multiprocessing.set_start_method(\"spawn\"))"
        )));
    }
    if leaving() {
        py.detach(stay_away);
    }
    Ok(())
}

fn leaving() -> bool {
    EXITING.get().is_some_and(|thread| *thread != thread::current().id())
}

/// Run `wait` without the GIL. A thread that would come back to an interpreter that is being finalized stays away: taking
/// the GIL then ends the thread in the middle of Rust frames.
pub fn away<T: Send>(py: Python<'_>, wait: impl FnOnce() -> T + Send) -> T {
    AWAY.fetch_add(1, Ordering::SeqCst);
    let output = py.detach(|| {
        let output = wait();
        if leaving() {
            PARKED.fetch_add(1, Ordering::SeqCst);
            stay_away();
        }
        output
    });
    AWAY.fetch_sub(1, Ordering::SeqCst);
    output
}

/// Run Python code for which the interpreter's exit waits: taking the GIL again in the middle of it would end the thread.
pub fn inside<T>(call: impl FnOnce() -> T) -> T {
    struct Left;
    impl Drop for Left {
        fn drop(&mut self) {
            INSIDE.fetch_sub(1, Ordering::SeqCst);
        }
    }
    INSIDE.fetch_add(1, Ordering::SeqCst);
    let _left = Left;
    call()
}

fn stay_away() {
    loop {
        thread::park();
    }
}

/// In the child of a fork.
#[pyfunction]
pub fn _forked() {
    FORKED.store(true, Ordering::Relaxed);
}

/// At the interpreter's exit, after the deliveries have been closed: let the threads that wait here leave or stay away.
#[pyfunction]
pub fn _exit(py: Python<'_>) {
    if forked() {
        return;
    }
    crate::queue::close_all();
    py.detach(|| {
        // Whoever drains a delivery returns from it, to whom waits for that thread.
        let end = Instant::now() + LAST_WAIT;
        while crate::delivery::drained_by() > 0 && Instant::now() < end {
            thread::park_timeout(Duration::from_millis(2));
        }
    });
    let _ = EXITING.set(thread::current().id());
    py.detach(|| {
        let end = Instant::now() + LAST_WAIT;
        while AWAY.load(Ordering::SeqCst) > PARKED.load(Ordering::SeqCst) && Instant::now() < end {
            thread::park_timeout(Duration::from_millis(2));
        }
        let end = Instant::now() + LONGEST_IMPORT;
        while INSIDE.load(Ordering::SeqCst) > 0 && Instant::now() < end {
            thread::park_timeout(Duration::from_millis(2));
        }
    });
}

/// Have Python tell us of both ends; once per process.
pub fn install(py: Python<'_>) -> PyResult<()> {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if INSTALLED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    let module = py.import("epicsrs_native._native")?;
    let at_fork = pyo3::types::PyDict::new(py);
    at_fork.set_item("after_in_child", module.getattr("_forked")?)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&at_fork))?;
    py.import("atexit")?
        .call_method1("register", (module.getattr("_exit")?,))?;
    Ok(())
}
