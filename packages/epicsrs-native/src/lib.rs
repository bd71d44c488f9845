//! EPICS for Python: Channel Access and pvAccess in one client.
#![deny(unsafe_code)]

use pyo3::prelude::*;

mod arguments;
mod array;
mod bulk;
mod ca;
mod channel;
mod client;
mod columns;
mod config;
mod context;
mod convert;
mod delivery;
mod driver;
mod error;
mod event_loop;
mod events;
mod exact;
mod feed;
mod given;
mod guard;
mod lane;
mod lend;
mod link;
mod logging;
mod loop_turn;
mod many;
mod outcome;
mod panics;
mod pump;
mod pva;
mod queue;
mod reading;
mod runtime;
mod submitted;
mod subscription;
mod value;
mod watch;

/// glibc gives each large buffer back to the kernel: three times the CPU for an array of 8 MB.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// (major, minor) of the version in Cargo.toml: what adapters stand on.
const fn abi() -> (u32, u32) {
    (
        number(env!("CARGO_PKG_VERSION_MAJOR")),
        number(env!("CARGO_PKG_VERSION_MINOR")),
    )
}

const fn number(digits: &str) -> u32 {
    match u32::from_str_radix(digits, 10) {
        Ok(number) => number,
        Err(_) => 0,
    }
}

#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::channel::Channel;
    #[pymodule_export]
    use crate::columns::Columns;
    #[pymodule_export]
    use crate::context::{Context, caught_panic_count, configure, get_context, shutdown_all};
    #[pymodule_export]
    use crate::delivery::DeliveryQueue;
    #[pymodule_export]
    use crate::guard::{_exit, _forked};
    #[pymodule_export]
    use crate::reading::{Info, Limits, Metadata, Reading};
    #[pymodule_export]
    use crate::runtime::Ticket;
    #[pymodule_export]
    use crate::subscription::Subscription;
    #[pymodule_export]
    use crate::watch::Watch;
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("ABI", crate::abi())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
