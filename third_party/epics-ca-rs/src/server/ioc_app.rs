//! IOC Application — re-exported from epics-base-rs with CA protocol runner.

pub use epics_base_rs::server::ioc_app::*;
