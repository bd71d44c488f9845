//! The concurrency, timing, logging and OS-facing primitives an IOC is built
//! on — C `libCom`'s `epicsThread` / `epicsTime` / `errlog` / `envDefs` half.
//!
//! # The two backends
//!
//! [`task`]'s spawn/sleep/interval seam has two mutually exclusive backends,
//! selected by this crate's `build.rs` into one `cfg` rather than repeated as a
//! target/feature predicate at each of the ~two dozen seam sites:
//!
//! * `tokio_backend` — the tokio runtime. The hosted default.
//! * `exec_backend` — the std-thread [`background`] executor (callback pool +
//!   delayed timer + scanOnce worker). Unconditional on RTEMS, which has no
//!   tokio reactor, and host-selectable through
//!   `EPICS_RS_BUILD_EXEC_BACKEND=thread` for a Linux blocking-front-end
//!   deployment that wants the same
//!   runtime-free backend.
//!
//! [`crate::EXEC_BACKEND`] states which one this build got, so a crate above
//! can pin its own copy of the predicate to it.

pub mod accept;
pub mod background;
pub mod blocking_io;
pub mod build_info;
pub mod cant_proceed;
pub mod crt_errno;
pub mod env;
pub mod env_table;
pub mod epics_string;
pub mod exit;
#[cfg(test)]
mod fresh_process;
pub mod fs;
pub mod general_time;
pub mod interrupt_accept;
pub mod ioc_role;
pub mod json_string;
pub mod log;
pub mod log_client;
pub mod mac_lib;
pub mod net;
pub mod offload;
// `select(2)` over raw fds, and `libc` for the calls: nothing in it exists
// on Windows, whose hosted server keeps the tokio reactor.
#[cfg(unix)]
pub mod readiness;
pub mod scanf;
pub mod socket;
pub mod stdio;
pub mod stdlib;
pub mod supervise;
pub mod sync;
pub mod task;
pub mod taskwd;
pub mod time;
pub mod version;
pub mod worker_pool;

// Re-export tokio::select! macro through the runtime facade.
pub use tokio::select;
