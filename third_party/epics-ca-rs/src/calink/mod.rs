//! `calink` — Channel Access links for EPICS record INP/OUT fields.
//!
//! When a record's INP / OUT / DOL / STPL link field names a PV this IOC
//! does not have, or carries the ` CA` modifier (C `dbStaticLib.c:2372`
//! `pvlOptCA`), this module
//! resolves that link to a live CA client whose monitor keeps a cached
//! snapshot of the remote PV.
//!
//! This is the CA-side counterpart of the bridge `pvalink` module. It
//! mirrors C `dbCa.c` / `dbCaLink`: each CA link attaches one CA channel
//! and one subscription; `dbCaGetLink` (`dbCa.c:419`) is served from the
//! cached value populated by the monitor `eventCallback`
//! (`dbCa.c:891`) — a CA link is **monitor-backed**, served from
//! cache, never a synchronous per-read fetch.
//!
//! This is the network half only. A name the IOC's own database serves is
//! answered in process by the database's `ca` link set, as C `dbContext`
//! answers it ahead of libca, and never reaches this module.
//!
//! ## Why this lives in `epics-ca-rs`
//!
//! A CA-link resolver needs both halves: the database-side
//! [`epics_base_rs::server::database::LinkSet`] / `PvDatabase` AND a live
//! CA client ([`crate::client::CaClient`]). `epics-ca-rs` already depends
//! on `epics-base-rs` (`epics-ca-rs → epics-base-rs`), so it is the
//! natural home — both halves are in scope with no new dependency.
//! `epics-base-rs` itself cannot host this: a `base → ca` dependency
//! would be a cycle. The `LinkSet` trait is the seam that lets the
//! database resolve CA links without `epics-base-rs` depending on the CA
//! crate — so simply enabling `epics-ca-rs` provides CA-link resolution,
//! no separate feature opt-in.
//!
//! ## Usage
//!
//! The IOC runners (`run_ca_ioc_app`, the bridge's `run_qsrv_ioc_app`) wire
//! the link set once, at construction, via the base `register_link_type`
//! seam, so a head that runs through one never names it. The installer fires at the
//! iocInit `AfterCaLinkInit` hook — BEFORE `setup_cp_links` warms Passive
//! CP holders — so CA links (including a Passive CP/CPP holder's source)
//! resolve with no further setup:
//!
//! ```ignore
//! // `run_ca_ioc_app`, not `IocApplication::run(run_ca_ioc)`: it runs C's
//! // `rsrvRegistrar` before the startup script and installs this link set.
//! epics_ca_rs::server::run_ca_ioc_app(IocApplication::new().startup_script("st.cmd")).await
//! ```
//!
//! The lower-level [`crate::calink::install_calink_resolver`] is also available for
//! callers that drive their own database assembly (it must run before
//! `setup_cp_links`). The shared CA client is created lazily on the
//! first CA link open, so an IOC with no CA links never spins one up.

mod client_service;
mod iocsh;
mod resolver;

use std::sync::Arc;

use epics_base_rs::server::database::PvDatabase;
use epics_base_rs::server::iocsh::registry::CommandDef;

pub use iocsh::{db_dbcaxr_command, register_calink_commands};
pub use resolver::{CaLink, CaLinkError, CaLinkResolver, install_calink_resolver};

/// Async link-set installer for
/// [`epics_base_rs::server::ioc_app::IocApplication::register_link_type`].
///
/// Installs the `"ca"` link set on `db` and returns the `dbcaxr` iocsh
/// command. Registered at IOC construction, it is fired
/// by `IocApplication::run` at the `AfterCaLinkInit` hook — before
/// `setup_cp_links` warms Passive CP holders — so this is all a
/// CA-serving IOC needs to make CA links resolve: no feature opt-in, no
/// manual open calls. The shared CA client is
/// created lazily on the first link open.
pub async fn calink_link_set_install(
    db: Arc<PvDatabase>,
    reactor: epics_base_rs::runtime::task::Reactor,
) -> Vec<CommandDef> {
    let resolver = install_calink_resolver(&db, reactor).await;
    register_calink_commands(resolver)
}
