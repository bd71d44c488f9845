pub mod c_cast;
pub mod c_parse;
pub(crate) mod codec;
mod dbr;
mod pv_string;
mod record_name;
mod value;

pub use codec::*;
pub use dbr::*;
pub use epics_libcom_rs::SharedArray;
pub use pv_string::*;
pub use record_name::RecordName;
pub use value::*;
// `WallTime` moved down into `epics-libcom-rs` with the rest of the libCom
// layer (issue #55): `runtime::time` returns it, so leaving it here would have
// made the lower crate depend on the higher one. Re-exported at its original
// `types::WallTime` path, which is what every DBR codec, filter and snapshot
// in this crate — and every downstream crate — already names.
pub use epics_libcom_rs::walltime::WallTime;
