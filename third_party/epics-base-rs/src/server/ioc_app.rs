// RTEMS-EXEC-MODEL-ALLOW(1): a sync test that hand-builds its own tokio runtime; runs and passes in the exec-backend suite.
//! IOC Application — st.cmd-style startup for Rust IOCs.
//!
//! Provides a 2-phase IOC lifecycle matching the C++ EPICS pattern:
//!
//! **Phase 1 (pre-init):** Execute startup script (`st.cmd`)
//!   - `epicsEnvSet`, `dbLoadRecords`, custom driver config commands
//!
//! **Phase 2 (iocInit):** Wire device support, start protocol server
//!
//! **Phase 3 (post-init):** Interactive iocsh REPL
//!   - `dbl`, `dbgf`, `dbpf`, `dbpr`, custom commands
//!
//! # Example
//!
//! ```rust,ignore
//! IocApplication::new()
//!     .port(5064)
//!     .register_device_support("ai", &MY_DEVICE, || Box::new(MyDeviceSupport::new()))
//!     .register_startup_command(my_config_command())
//!     .startup_script("st.cmd")
//!     .run(my_protocol_runner)
//!     .await
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::error::{CaError, CaResult};
use crate::runtime::net::cas_server_port;
use crate::server::record::{self, ContextSubroutineFn, Record, Subroutine};

use crate::server::database::PvDatabase;
use crate::server::device_support::DeviceSupport;
use crate::server::iocsh::{self, registry::CommandDef};
use crate::server::{DeviceSupportFactory, access_security, autosave};
use autosave::startup::AutosaveStartupConfig;

/// IOC lifecycle init-hook subsystem — Rust port of epics-base
/// `libcom/src/iocsh/initHooks.{c,h}`.
///
/// C code registers a callback via `initHookRegister()` and the IOC
/// fires `initHookAnnounce(state)` at fixed points during
/// `iocBuild()` / `iocRun()`. Ported code (autosave pass-0/pass-1
/// restore, areaDetector plugins, sequencer programs, caPutLog,
/// devIocStats) all hang behaviour off these announcements.
///
/// Both Rust build paths ([`IocApplication::run`] and
/// [`crate::server::ioc_builder::IocBuilder::build`]) announce the
/// states they reach in the same order C does.
pub mod init_hooks {
    use std::sync::{Arc, Mutex};

    /// Initialization stages, mirroring C's `initHookState` enum
    /// (`initHooks.h`). Only the states this IOC can actually reach are
    /// modelled, and the order of the modelled variants matches C exactly.
    ///
    /// The pause block and the reachable half of the shutdown block are
    /// here because [`super::ioc_pause`] and [`super::ioc_shutdown`] make
    /// those transitions real. Still absent, because the port has no such
    /// transition to announce them from: the two `dbUnitTest` states. The
    /// two states C marks deprecated are modelled: C's first `iocRun` still
    /// announces them (`iocInit.c:262-263`, `:270-271`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub enum InitHookState {
        /// Start of iocBuild() / iocInit().
        AtIocBuild,
        /// Database sanity checks passed.
        AtBeginning,
        /// Callbacks, generalTime & taskwd init.
        AfterCallbackInit,
        /// CA links init.
        AfterCaLinkInit,
        /// Driver support init.
        AfterInitDrvSup,
        /// Record support init.
        AfterInitRecSup,
        /// Device support init pass 0 (also autosave pass 0).
        AfterInitDevSup,
        /// Records and locksets init (also autosave pass 1).
        AfterInitDatabase,
        /// Device support init pass 1.
        AfterFinishDevSup,
        /// Scan, AS, ProcessNotify init.
        AfterScanInit,
        /// Records with PINI = YES processed.
        AfterInitialProcess,
        /// RSRV (CA server) init.
        AfterCaServerInit,
        /// End of iocBuild().
        AfterIocBuilt,
        /// Start of iocRun().
        AtIocRun,
        /// Scan tasks and CA links running.
        AfterDatabaseRunning,
        /// RSRV (CA server) running.
        AfterCaServerRunning,
        /// End of iocRun() / iocInit().
        AfterIocRunning,

        /// Start of iocPause().
        AtIocPause,
        /// Protocol servers paused.
        AfterCaServerPaused,
        /// CA links and scan tasks paused.
        AfterDatabasePaused,
        /// End of iocPause().
        AfterIocPaused,

        /// Start of iocShutdown().
        AtShutdown,
        /// Links disabled/deleted.
        AfterCloseLinks,
        /// Scan tasks stopped.
        AfterStopScan,
        /// Callback tasks stopped.
        AfterStopCallback,
        /// CA links stopped.
        AfterStopLinks,
        /// Resource cleanup about to happen.
        BeforeFree,
        /// End of iocShutdown().
        AfterShutdown,

        /// Only announced once. Deprecated in favor of AfterDatabaseRunning.
        AfterInterruptAccept,
        /// Only announced once. Deprecated in favor of AfterIocRunning.
        AtEnd,
    }

    impl InitHookState {
        /// Printable representation — mirrors C `initHookName()`.
        pub fn name(&self) -> &'static str {
            match self {
                InitHookState::AtIocBuild => "initHookAtIocBuild",
                InitHookState::AtBeginning => "initHookAtBeginning",
                InitHookState::AfterCallbackInit => "initHookAfterCallbackInit",
                InitHookState::AfterCaLinkInit => "initHookAfterCaLinkInit",
                InitHookState::AfterInitDrvSup => "initHookAfterInitDrvSup",
                InitHookState::AfterInitRecSup => "initHookAfterInitRecSup",
                InitHookState::AfterInitDevSup => "initHookAfterInitDevSup",
                InitHookState::AfterInitDatabase => "initHookAfterInitDatabase",
                InitHookState::AfterFinishDevSup => "initHookAfterFinishDevSup",
                InitHookState::AfterScanInit => "initHookAfterScanInit",
                InitHookState::AfterInitialProcess => "initHookAfterInitialProcess",
                InitHookState::AfterCaServerInit => "initHookAfterCaServerInit",
                InitHookState::AfterIocBuilt => "initHookAfterIocBuilt",
                InitHookState::AtIocRun => "initHookAtIocRun",
                InitHookState::AfterDatabaseRunning => "initHookAfterDatabaseRunning",
                InitHookState::AfterCaServerRunning => "initHookAfterCaServerRunning",
                InitHookState::AfterIocRunning => "initHookAfterIocRunning",
                InitHookState::AtIocPause => "initHookAtIocPause",
                InitHookState::AfterCaServerPaused => "initHookAfterCaServerPaused",
                InitHookState::AfterDatabasePaused => "initHookAfterDatabasePaused",
                InitHookState::AfterIocPaused => "initHookAfterIocPaused",
                InitHookState::AtShutdown => "initHookAtShutdown",
                InitHookState::AfterCloseLinks => "initHookAfterCloseLinks",
                InitHookState::AfterStopScan => "initHookAfterStopScan",
                InitHookState::AfterStopCallback => "initHookAfterStopCallback",
                InitHookState::AfterStopLinks => "initHookAfterStopLinks",
                InitHookState::BeforeFree => "initHookBeforeFree",
                InitHookState::AfterShutdown => "initHookAfterShutdown",
                InitHookState::AfterInterruptAccept => "initHookAfterInterruptAccept",
                InitHookState::AtEnd => "initHookAtEnd",
            }
        }
    }

    /// Application callback type — Rust equivalent of C's
    /// `initHookFunction`. Invoked once per announced state. `Arc`
    /// so [`init_hook_announce`] can snapshot the list and drop the
    /// lock before invoking callbacks (C holds its list mutex only
    /// during traversal, never across the callback).
    pub type InitHookFunction = Arc<dyn Fn(InitHookState) + Send + Sync>;

    static HOOKS: Mutex<Vec<InitHookFunction>> = Mutex::new(Vec::new());

    /// Register a function for initHook notifications — Rust port of
    /// C `initHookRegister()`. The callback is invoked for every
    /// subsequently-announced state. Registration is process-global,
    /// matching C's single `functionList`.
    ///
    /// Unlike C (which dedups by function pointer) closures cannot be
    /// compared for identity, so every call adds a distinct callback;
    /// callers must register each hook once.
    pub fn init_hook_register(func: InitHookFunction) {
        HOOKS.lock().unwrap().push(func);
    }

    /// Announce an init-hook state to all registered callbacks —
    /// Rust port of C `initHookAnnounce()`. Called only by the IOC
    /// build paths at the fixed lifecycle points.
    ///
    /// The callback list is snapshotted (cheap `Arc` clones) and the
    /// lock released before any callback runs, so a hook that calls
    /// [`init_hook_register`] from inside the callback cannot
    /// deadlock. Hooks registered during an announce are not invoked
    /// for that same state — matching C's snapshot-of-`ellFirst`
    /// traversal semantics.
    pub fn init_hook_announce(state: InitHookState) {
        let snapshot: Vec<InitHookFunction> = HOOKS.lock().unwrap().clone();
        for cb in snapshot {
            cb(state);
        }
    }

    /// Forget all registered callbacks. Test-only — mirrors C
    /// `initHookFree()`. Lets unit tests run in isolation without
    /// leaking process-global hook state into each other.
    #[cfg(test)]
    pub fn init_hook_free() {
        HOOKS.lock().unwrap().clear();
    }
}

pub use init_hooks::{InitHookFunction, InitHookState, init_hook_announce, init_hook_register};

/// The IOC's run state — C `enum iocStateEnum` (`iocInit.h:17-19`
/// @R7.0.10) and the file-static `iocState` every transition in
/// `iocInit.c` guards on.
///
/// Modelled as a state, not as a set of booleans, for the reason C keeps
/// one cell: `iocRun` and `iocPause` are legal only from particular
/// states, and each answers a wrong one with a diagnostic rather than
/// doing half the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IocState {
    /// C `iocVoid` — nothing built, or shut down again.
    Void,
    /// C `iocBuilding` — inside the build phase.
    Building,
    /// C `iocBuilt` — quiescent: the database exists, nothing scans.
    Built,
    /// C `iocRunning`.
    Running,
    /// C `iocPaused` — built and populated, record processing frozen.
    Paused,
}

/// C `iocBuildMode` (`iocInit.c:77-79`): whether `iocRun`, `iocPause` and
/// `iocShutdown` drive the protocol servers, and whether `iocShutdown` frees
/// what the build made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BuildMode {
    /// C `buildServers`: `iocBuild`'s mode, and the one every `iocShutdown`
    /// leaves behind (`iocInit.c:761`).
    #[default]
    Servers,
    /// C `buildIsolated` (`iocBuildIsolated`, `iocInit.c:232-247`), the build
    /// C's `testdb` boots: no server is initialised or run, a CA link reaches
    /// only this database (`dbCaLinkInitIsolated`), and `iocShutdown` also
    /// removes DB links and frees the build, so the process can build again.
    Isolated,
}

/// The IOC lifecycle's single owner.
///
/// C keeps `iocState` in one file-static and lets only `iocBuild`,
/// `iocRun`, `iocPause` and `iocShutdown` write it. This holds the same
/// cell plus the one resource whose lifetime is the IOC's rather than any
/// caller's: the scan owner. It used to be a local in
/// [`IocApplication::run_to_completion`], which is why nothing but
/// returning from `run` could stop scanning — and why there was no
/// `iocShutdown` to call.
struct Lifecycle {
    state: IocState,
    /// Alive from the `iocRun` transition until `iocShutdown`. `iocPause`
    /// does NOT drop it: C's `scanPause` leaves the periodic threads
    /// running and merely stops them scanning, which is what lets
    /// `iocRun` resume the rates in phase.
    scan: Option<crate::server::scan::ScanOwner>,
    /// The database `iocBuild` built, from [`initial_process`] until
    /// `iocShutdown` — C's `pdbbase` as `piniProcess` walks it.
    db: Option<Arc<PvDatabase>>,
    /// C `iocBuildMode`: written by a build that succeeds and reset by
    /// `iocShutdown`.
    mode: BuildMode,
}

static LIFECYCLE: Mutex<Lifecycle> = Mutex::new(Lifecycle {
    state: IocState::Void,
    scan: None,
    db: None,
    mode: BuildMode::Servers,
});

fn lifecycle() -> std::sync::MutexGuard<'static, Lifecycle> {
    LIFECYCLE.lock().unwrap_or_else(|e| e.into_inner())
}

/// The `scanCtl` cell of the database this IOC's build published: C's one
/// `scanCtl`, reached the way C reaches it, through the IOC's own database.
/// `None` before `initial_process` has published one, when nothing exists
/// for `scanRun`/`scanPause`/`scanStop` to act on.
fn ioc_scan_control() -> Option<Arc<crate::server::scan::ScanControl>> {
    lifecycle()
        .db
        .as_ref()
        .map(|db| Arc::clone(db.scan_control()))
}

/// C `getIocState` (`iocInit.c:100-103`).
pub fn get_ioc_state() -> IocState {
    lifecycle().state
}

/// Record a lifecycle transition. Private, and the only writer of the
/// state cell — the whole point of having one owner.
fn set_ioc_state(state: IocState) {
    lifecycle().state = state;
}

/// Hand the scan owner to the lifecycle — called once per build, by
/// [`initial_process`].
fn adopt_scan_owner(owner: crate::server::scan::ScanOwner) {
    // Replacing an existing owner drops the old one (joining its thread)
    // AFTER the lock is released, so a second `run` in one process cannot
    // deadlock against the join.
    let previous = lifecycle().scan.replace(owner);
    drop(previous);
}

/// C `iocRun` (`iocInit.c:246-276`): bring a built or paused IOC to the
/// running state. Returns C's status — 0 on success, -1 when the IOC is in
/// neither state.
///
/// The port's `iocRun` covers C's `scanRun` and `dbRunServers` halves.
/// `dbCaRun` has no analogue here: the link sets ([`crate::server::database::LinkSet`])
/// carry no lifecycle methods, so external links keep running across a
/// pause — see [`ioc_pause`]. The first run's connect-time CP pass sits
/// between the two halves, in `run_built`.
pub fn ioc_run() -> i32 {
    match ioc_run_begin() {
        Some(running) => {
            running.finish();
            0
        }
        None => -1,
    }
}

/// `iocRun` up to and including `scanRun`; [`IocRunStarted::finish`] is the
/// rest. `None` when the IOC is neither built nor paused.
fn ioc_run_begin() -> Option<IocRunStarted> {
    let from = get_ioc_state();
    if from != IocState::Paused && from != IocState::Built {
        crate::runtime::log::errlog_vprintf(format_args!(
            "iocRun: {} IOC not paused\n",
            crate::runtime::log::erl_warning()
        ));
        return None;
    }
    init_hook_announce(InitHookState::AtIocRun);

    if let Some(ctl) = ioc_scan_control() {
        ctl.run();
    }
    Some(IocRunStarted { from })
}

/// An `iocRun` past `scanRun`, where C runs `dbCaRun` (`iocInit.c:260`).
#[must_use]
struct IocRunStarted {
    from: IocState,
}

impl IocRunStarted {
    fn finish(self) {
        init_hook_announce(InitHookState::AfterDatabaseRunning);
        if self.from == IocState::Built {
            init_hook_announce(InitHookState::AfterInterruptAccept);
        }

        if lifecycle().mode == BuildMode::Servers {
            crate::server::db_server::db_run_servers();
            init_hook_announce(InitHookState::AfterCaServerRunning);
        }

        if self.from == IocState::Built {
            init_hook_announce(InitHookState::AtEnd);
        }

        crate::runtime::log::errlog_printf(if self.from == IocState::Built {
            "iocRun: All initialization complete\n"
        } else {
            "iocRun: IOC restarted\n"
        });
        set_ioc_state(IocState::Running);
        init_hook_announce(InitHookState::AfterIocRunning);
    }
}

/// C `iocPause` (`iocInit.c:278-300`): freeze record processing without
/// tearing anything down. Returns 0, or -1 when the IOC is not running.
///
/// What freezes is exactly what C's `scanCtl` gate covers — periodic
/// scanning, `postEvent`, and I/O Intr callbacks. `scanOnce` is not gated
/// in C either, so a `dbpf` from the paused shell still processes its
/// record; and this port additionally leaves CA/PVA link input running,
/// because there is no `dbCaPause` to call.
pub fn ioc_pause() -> i32 {
    if get_ioc_state() != IocState::Running {
        crate::runtime::log::errlog_vprintf(format_args!(
            "iocPause: {} IOC not running\n",
            crate::runtime::log::erl_warning()
        ));
        return -1;
    }
    init_hook_announce(InitHookState::AtIocPause);

    if lifecycle().mode == BuildMode::Servers {
        crate::server::db_server::db_pause_servers();
        init_hook_announce(InitHookState::AfterCaServerPaused);
    }

    if let Some(ctl) = ioc_scan_control() {
        ctl.pause();
    }
    init_hook_announce(InitHookState::AfterDatabasePaused);

    set_ioc_state(IocState::Paused);
    crate::runtime::log::errlog_printf("iocPause: IOC suspended\n");
    init_hook_announce(InitHookState::AfterIocPaused);
    0
}

/// C `iocShutdown` (`iocInit.c:722-763`): stop the IOC and return it to
/// [`IocState::Void`]. Idempotent — C returns 0 immediately when already
/// void, which is what makes it safe on every exit path.
///
/// C reaches this from `epicsAtExit(exitDatabase)` (`iocInit.c:580`), and
/// so does the port: every `iocBuild` registers it there, so the scan
/// threads stop at the exit callbacks
/// however the IOC was built.
///
/// Of an isolated build's free branch (`:745-757`) only
/// `initHookBeforeFree`, `scanCleanup` and `callbackCleanup` are here; the
/// records, lock sets, access security and iocsh are not freed.
pub fn ioc_shutdown() -> i32 {
    if get_ioc_state() == IocState::Void {
        return 0;
    }
    init_hook_announce(InitHookState::AtShutdown);
    let mode = lifecycle().mode;

    let db = lifecycle().db.clone();
    if let Some(db) = &db {
        db.close_links(mode == BuildMode::Isolated);
    }
    drop(db);
    init_hook_announce(InitHookState::AfterCloseLinks);

    // Dropping the owner is C's `scanStop`: it trips the facility to
    // `ctlExit` and joins the owner thread, which joins the scan threads. Taken out from under the lock
    // first so the join happens with the lifecycle unlocked.
    let owner = lifecycle().scan.take();
    drop(owner);
    // The rest of `scanStop` (`dbScan.c:178-180`): the `scanOnce` worker
    // drains its queue and is joined.
    crate::runtime::task::background_scan_once_stop();
    let db = lifecycle().db.take();
    // A parked owner — the database was claimed by another start — trips
    // nothing on drop, so the published database's facility stops here.
    if let Some(db) = &db {
        db.scan_control().stop();
    }
    init_hook_announce(InitHookState::AfterStopScan);
    crate::runtime::task::background_callback_stop();
    init_hook_announce(InitHookState::AfterStopCallback);

    if mode != BuildMode::Isolated {
        crate::server::db_server::db_stop_servers();
    }

    // Held to here so the `dbCaLink` worker, which exits once its database
    // drops, is stopped by `dbCaShutdown` and not by the scan stop.
    if let Some(db) = &db {
        db.ca_link_shutdown();
    }
    drop(db);
    init_hook_announce(InitHookState::AfterStopLinks);

    if mode == BuildMode::Isolated {
        init_hook_announce(InitHookState::BeforeFree);
        // `scanCleanup` frees nothing here: the `scanOnce` ring was reset by
        // `scanStop`'s join above, and the periodic and I/O Intr lists are
        // the database's, freed when it drops.
        crate::runtime::task::background_callback_cleanup();
        crate::server::iocsh::as_shutdown();
        crate::server::iocsh::iocsh_free();
    }

    {
        let mut life = lifecycle();
        life.state = IocState::Void;
        life.mode = BuildMode::Servers;
    }
    init_hook_announce(InitHookState::AfterShutdown);
    0
}

// ── QSRV `dbLoadGroup` startup queue ──────────────────────────────────
//
// `dbLoadGroup("file.json", "macros")` is the pvxs/QSRV iocsh command that
// adds DB group definitions before `iocInit`. pvxs registers it from its
// `epicsExportRegistrar` (ioc/groupsourcehooks.cpp:233-244, run before the
// startup script) and its only startup-time effect is to *queue* the file:
// the JSON is parsed and the group built only later, by `processGroups()`
// at `initHookAfterInitDatabase` (groupsourcehooks.cpp:99-188 append to
// `IOCGroupConfig::groupConfigFiles`; :192-213 process them).
//
// epics-rs has no link-time registrar, and the served `BridgeProvider`
// (the QSRV group source) is created by the PVA protocol runner *after*
// the startup script has already executed. So the iocsh `dbLoadGroup`
// command itself must live in this base layer — the owner of the startup
// shell — while the group *semantics* (JSON parse, macLib expansion,
// serving) stay entirely in the QSRV bridge: this command only records the
// request, and the QSRV runner drains [`take_group_load_requests`] and
// applies each entry to the provider it serves. A non-QSRV runner simply
// never drains the queue, so the command is a harmless no-op there.

/// One queued `dbLoadGroup(filename, macros)` invocation, recorded during
/// st.cmd for the QSRV protocol runner to apply to the served provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLoadRequest {
    pub filename: String,
    pub macros: String,
}

static GROUP_LOAD_REQUESTS: std::sync::LazyLock<Mutex<Vec<GroupLoadRequest>>> =
    std::sync::LazyLock::new(|| Mutex::new(Vec::new()));

/// Drain every queued `dbLoadGroup` request, in invocation order. The
/// QSRV protocol runner calls this once before the PVA server accepts
/// connections — the epics-rs iocRun-handoff equivalent of pvxs running
/// `processGroups()` at `initHookAfterInitDatabase`.
pub fn take_group_load_requests() -> Vec<GroupLoadRequest> {
    std::mem::take(&mut *GROUP_LOAD_REQUESTS.lock().unwrap())
}

/// Build the `dbLoadGroup <jsonFilename> [<macros>]` startup command.
///
/// Mirrors pvxs `dbLoadGroup` (ioc/groupsourcehooks.cpp:99-188): a leading
/// `-` removes a previously queued identity (`-*` clears all, `-file`
/// removes the matching `(filename, macros)` entry); otherwise the pair is
/// appended after first erasing any prior entry of the same identity (pvxs
/// erases the matching entry before re-appending, :174-179 erase and
/// :181-183 re-append). The file is
/// opened here only to surface pvxs's early "Error opening" diagnostic at
/// the st.cmd line; the JSON parse and macLib expansion happen later in the
/// QSRV runner when the queue is drained.
///
/// The QSRV runner registers it as pvxs's `group_enable()` does, only when
/// QSRV2 is enabled; its queue is consumed via [`take_group_load_requests`].
pub fn db_load_group_startup_command() -> CommandDef {
    use crate::server::iocsh::registry::{
        ArgDesc, ArgType, ArgValue, CommandContext, CommandOutcome,
    };
    CommandDef::new(
        "dbLoadGroup",
        vec![
            ArgDesc {
                name: "filename",
                arg_type: ArgType::String,
            },
            ArgDesc {
                name: "macros",
                arg_type: ArgType::String,
            },
        ],
        "dbLoadGroup <jsonFilename> [<macros>]",
        move |args: &[ArgValue], ctx: &CommandContext| {
            let filename = match args.first() {
                Some(ArgValue::String(s)) => s.to_str()?.to_owned(),
                _ => return Err("dbLoadGroup: missing filename".into()),
            };
            let macros = match args.get(1) {
                Some(ArgValue::String(s)) => s.to_str()?.to_owned(),
                _ => String::new(),
            };
            let mut queue = GROUP_LOAD_REQUESTS.lock().unwrap();
            // Leading `-`: removal by identity, applied to the queue (pvxs
            // groupsourcehooks.cpp:140-179 — never touches the filesystem).
            // pvxs prints nothing on any success path.
            if let Some(rest) = filename.strip_prefix('-') {
                if rest == "*" {
                    queue.clear();
                } else {
                    queue.retain(|r| !(r.filename == rest && r.macros == macros));
                }
                return Ok(CommandOutcome::Continue);
            }
            // pvxs opens the file at command time and answers a failure with
            // a bare `fprintf` plus `iocshSetError` (groupsourcehooks.cpp:47,
            // :149-151), not showError's framing. The QSRV runner re-reads
            // and parses.
            if std::fs::File::open(&filename).is_err() {
                ctx.eprintln(&format!("Error opening \"{filename}\""));
                return Ok(CommandOutcome::Failed);
            }
            // Re-load of the same identity first drops the prior queue entry
            // (pvxs erases the matching `(fname, macros)` before appending).
            queue.retain(|r| !(r.filename == filename && r.macros == macros));
            queue.push(GroupLoadRequest { filename, macros });
            Ok(CommandOutcome::Continue)
        },
    )
}

/// Context passed to dynamic device support factories during iocInit wiring.
pub struct DeviceSupportContext<'a> {
    /// The record type name (`"ao"`, `"calcout"`, ...). C's `device()` lines
    /// are declared per record type, so a factory that stands in for a set of
    /// them needs the type to refuse a DTYP its `.dbd` never declared for it.
    pub record_type: &'a str,
    pub dtyp: &'a str,
    pub inp: &'a str,
    pub out: &'a str,
}

/// Dynamic device support factory: given a context, returns device support if recognized.
pub type DynamicDeviceSupportFactory =
    Box<dyn Fn(&DeviceSupportContext) -> Option<Box<dyn DeviceSupport>> + Send + Sync>;

/// An async external link-set installer, registered on an
/// [`IocApplication`] via [`IocApplication::register_link_type`]
/// and invoked by [`IocApplication::run`] at C `dbCaLinkInit`, just before
/// `initHookAfterCaLinkInit` — BEFORE [`PvDatabase::setup_cp_links`] warms
/// Passive CP holders.
///
/// The installer receives the live database, registers its external
/// [`crate::server::database::LinkSet`] (e.g. the `ca` set from
/// `epics-ca-rs`'s `calink`, the `pva` set from the bridge's `pvalink`),
/// and returns any iocsh commands it owns. Those go straight onto the
/// process's one command table — C `iocshRegister` from a registrar the
/// `initHookAfterCaLinkInit` point reaches — so they are callable from the
/// script line after `iocInit` and from the prompt alike.
/// Registering the link set here — not inside the Phase-3 protocol runner
/// — is what makes a Passive holder of an external CP/CPP link warm at
/// iocInit: `setup_cp_links`'s `resolve_external_pv` open path is a no-op
/// unless the matching link set is already installed.
/// An async consumer of `initHookAfterInitDatabase`, handed the database and
/// the IOC's one ACF cell. See [`IocApplication::register_after_init_database`].
pub type AfterInitDatabaseHook = Box<
    dyn FnOnce(
            Arc<PvDatabase>,
            access_security::AcfCell,
        ) -> std::pin::Pin<Box<dyn std::future::Future<Output = ()> + Send + 'static>>
        + Send
        + 'static,
>;

pub type LinkSetInstaller = Box<
    dyn FnOnce(
            Arc<PvDatabase>,
        ) -> std::pin::Pin<
            Box<dyn std::future::Future<Output = Vec<CommandDef>> + Send + 'static>,
        > + Send
        + 'static,
>;

/// The ports a server init binds ([`IocApplication::register_server_init`]),
/// as the protocol runner would be given them in [`IocRunConfig`].
#[derive(Debug, Clone, Copy)]
pub struct ServerInitArgs {
    pub port: u16,
    pub tcp_port: Option<u16>,
}

/// C `dbServer.init` (`dbServer.h`), which `dbInitServers()` calls inside
/// `iocBuild` (`iocInit.c:222`): the server binds here, so a port it cannot
/// have fails `iocInit` instead of a later `iocRun`. What it returns is handed
/// to the protocol runner through [`IocRunConfig::servers`].
type ServerInit = Box<
    dyn FnOnce(
            ServerInitArgs,
        ) -> std::pin::Pin<
            Box<
                dyn std::future::Future<Output = CaResult<Box<dyn std::any::Any + Send>>>
                    + Send
                    + 'static,
            >,
        > + Send
        + 'static,
>;

/// What each [`IocApplication::register_server_init`] init produced, by the
/// name it was registered under.
#[derive(Default)]
pub struct InitializedServers(Vec<(&'static str, Box<dyn std::any::Any + Send>)>);

impl InitializedServers {
    pub(crate) fn push(&mut self, name: &'static str, state: Box<dyn std::any::Any + Send>) {
        self.0.push((name, state));
    }

    /// The layer each init that ran belongs to.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.iter().map(|&(name, _)| name)
    }

    /// Take the state `name`'s init produced. `None` when no such init ran —
    /// a runner given an `IocRunConfig` by hand binds for itself.
    pub fn take<T: 'static>(&mut self, name: &str) -> Option<T> {
        let at = self
            .0
            .iter()
            .position(|(n, state)| *n == name && state.is::<T>())?;
        self.0.swap_remove(at).1.downcast().ok().map(|state| *state)
    }
}

/// Configuration passed to the protocol runner after IOC initialization.
///
/// Contains all the pieces needed to start a protocol-specific server
/// (e.g., CA or PVA) with an interactive shell.
pub struct IocRunConfig {
    pub db: Arc<PvDatabase>,
    /// UDP discovery port — clients SEARCH here. Defaults to
    /// `EPICS_CA_SERVER_PORT` or 5064.
    pub port: u16,
    /// Optional TCP-listen port override. `None` means "use `port`".
    /// `Some(p)` lets multiple IOCs on one host bind unique TCP ports
    /// (epics-base PR #69, `EPICS_CAS_SERVER_PORT`) while keeping the
    /// canonical UDP discovery port.
    pub tcp_port: Option<u16>,
    /// The IOC's single live Access Security policy cell, seeded from
    /// [`IocApplication::acf`] and shared with the startup/interactive
    /// iocsh shells (whose `asInit` stores into it). A protocol runner
    /// must hand this cell to every server it builds — never re-wrap
    /// the config in a fresh cell — so a later `asInit`/ACF reload
    /// reaches all of them at once.
    pub acf: access_security::AcfCell,
    pub autosave_config: Option<(autosave::SaveSetConfig, autosave::SaveStrategy)>,
    pub autosave_manager: Option<Arc<autosave::AutosaveManager>>,
    pub shell_commands: Vec<CommandDef>,
    /// Retained for API compatibility. [`IocApplication::run`] now
    /// drains `register_after_init` hooks itself at the
    /// `initHookAfterIocRunning` point, so this is always handed to
    /// the protocol runner EMPTY. A runner must not execute it
    /// (doing so is a no-op on the empty vec, but the hooks have
    /// already run).
    pub after_init_hooks: Vec<Box<dyn FnOnce() + Send>>,
    /// What the [`IocApplication::register_server_init`] inits bound at
    /// `dbInitServers`.
    pub servers: InitializedServers,
}

impl IocRunConfig {
    /// A protocol runner's tail once its servers serve: autosave on the
    /// current reactor, then the interactive iocsh on the `_main_` thread
    /// with `server_commands`, this config's `shell_commands` and the
    /// autosave commands, until the shell ends. The exec runners' one copy
    /// of what `CaServer::run_with_shell` and `PvaServer::run_with_shell` do.
    pub async fn run_shell(self, server_commands: Vec<CommandDef>) -> CaResult<()> {
        let autosave = if let Some(mgr) = self.autosave_manager {
            mgr.start(self.db.clone())
        } else if let Some((cfg, method)) = self.autosave_config {
            let mgr = autosave::AutosaveBuilder::new()
                .add_set(cfg, method)
                .build()
                .await;
            Arc::new(mgr).start(self.db.clone())
        } else {
            None
        };

        let bridge = crate::runtime::task::BlockingBridge::capture();
        let (db, acf, shell_commands) = (self.db, self.acf, self.shell_commands);
        let started = crate::runtime::task::run_on_main_thread(move || {
            let shell = iocsh::IocShell::new_with_acf(db, bridge, acf);
            for cmd in server_commands.into_iter().chain(shell_commands) {
                shell.register(cmd);
            }
            shell.run_main_prompt()
        });
        let result = match started {
            Err(e) => Err(CaError::InvalidValue(format!(
                "could not start the _main_ thread: {e}"
            ))),
            Ok(rx) => match rx.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(e)) => {
                    crate::stderr_println!("shell error: {e}");
                    Err(CaError::InvalidValue(e))
                }
                Err(_) => {
                    crate::stderr_println!("shell thread dropped unexpectedly");
                    Err(CaError::InvalidValue("shell thread dropped".to_string()))
                }
            },
        };
        if let Some(h) = autosave {
            h.abort();
        }
        result
    }
}

/// The two independent questions C softMain asks between the startup script
/// and the end of `main`: whether to call `iocInit()` at all
/// (`softMain.cpp:239`), and what this process does when it reaches its own
/// tail (`:247`).
///
/// C sets `loadedDb` only from `-d` and `-x`, and calls `iocInit()` only
/// when it is true. Everything a running IOC has — the scan threads, PINI,
/// and RSRV, which starts inside `iocRun` — therefore exists only on that
/// arm; a `softIoc` given no database reaches its `iocsh(NULL)` prompt
/// having built nothing and having opened no port. This port ran the whole
/// lifecycle unconditionally, so a bare `softioc-rs` bound 5064 and served
/// an empty database where C serves nothing at all.
///
/// The two booleans are orthogonal in C and so are they here. `interactive`
/// used to live inside a `Skip` variant, on the reasoning that it "means
/// nothing on the `Run` arm, where the protocol runner owns the tail" — and
/// that is false the moment `iocInit()` fails, because C then never reaches
/// `iocRun`, never starts a server, and falls through to exactly the same
/// tail (`softMain.cpp:239-245`, measured: `-S` with an unreadable ACF stays
/// alive and listens on nothing). A struct is what lets the failure arm ask
/// C's `-S` question; the constructors keep call sites from reading as a
/// bare pair of bools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IocInitDecision {
    /// C's `loadedDb` (`softMain.cpp:239`).
    run: bool,
    /// C's `-S` (`softMain.cpp:137`, `:202-203`): the `iocsh(NULL)` prompt
    /// at `:250`, or the `epicsThreadSleep(1000.0)` spin at `:264`.
    interactive: bool,
}

impl IocInitDecision {
    /// C's `loadedDb` arm (`softMain.cpp:239-245`): build the IOC, run it,
    /// and hand it to the protocol runner, which owns the tail from there.
    /// `interactive` is still C's `-S` and is what the tail falls back to
    /// when the build fails and the runner is never called.
    pub fn run(interactive: bool) -> Self {
        Self {
            run: true,
            interactive,
        }
    }

    /// C's other arm. `iocInit()` is not called, so there is no server to
    /// hand anything to and the protocol runner is NOT invoked — that is
    /// the whole content of the difference, and passing a runner a flag to
    /// obey would put it back in the hands of the caller who cannot see
    /// this decision. The process goes straight to C's tail
    /// (`softMain.cpp:247-268`), whose prompt may still type `iocInit`.
    pub fn skip(interactive: bool) -> Self {
        Self {
            run: false,
            interactive,
        }
    }
}

/// How an [`IocApplication::run_outcome`] that did not fail ended.
///
/// The two are one `Ok(())` to a C `main`, and stay one in
/// [`IocApplication::run`]: a script that never says `iocInit` is a custom
/// `main`'s `iocsh(st.cmd); iocsh(NULL)`, which exits 0 at the prompt's EOF
/// without calling the protocol runner. Anything that asserts inside the
/// runner has to tell them apart, or it passes without having run.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunOutcome {
    /// `iocRun` ran, so the protocol runner was started.
    Served,
    /// `iocInit` never completed, so the protocol runner was never called.
    NeverInitialised,
}

/// Which phase of C softIoc's `main` a failed [`IocApplication::run_phased`]
/// was in.
///
/// C runs the whole boot inside one `try` whose `catch` exits 2, and reaches
/// its serving phase — `iocsh(NULL)`, or the non-interactive spin — only after
/// that block closes, exiting 1 when the shell fails (`softMain.cpp:247-279`).
/// A single flat error type cannot carry that difference, and a caller that
/// reconstructs it by reading the message is guessing at something already
/// known here, where the failure happens.
#[derive(Debug)]
pub enum IocRunFailure {
    /// The startup script returned non-zero. C wraps this as `Error in
    /// <path>` (`softMain.cpp:231`), so the path travels with the failure
    /// rather than being re-derived from the caller's own argv.
    StartupScript {
        /// The `st.cmd` as the caller named it.
        path: String,
        /// What the shell reported.
        reason: String,
    },
    /// A pre-script command line returned non-zero. C `softMain.cpp:192-198`
    /// runs `-d` as `errIf(dbLoadRecords(...), "")` — an EMPTY message, so
    /// the catch block prints nothing and the command's own diagnostic is
    /// the whole report. The line travels with the failure for the same
    /// reason the script path does above.
    StartupCommand {
        /// The line as this application queued it.
        line: String,
        /// What the shell reported.
        reason: String,
    },
    /// Any other failure before the protocol runner starts — inline records,
    /// autosave restore, `iocInit`. C's catch block.
    Startup(CaError),
    /// The protocol runner itself, past the point C's `try` block ends.
    Serving(CaError),
}

/// The lifecycle's default phase: every `?` inside it is a boot step, which
/// is why only the two exceptions are written out by hand.
impl From<CaError> for IocRunFailure {
    fn from(e: CaError) -> Self {
        IocRunFailure::Startup(e)
    }
}

impl From<IocRunFailure> for CaError {
    fn from(failure: IocRunFailure) -> Self {
        match failure {
            IocRunFailure::StartupScript { reason, .. }
            | IocRunFailure::StartupCommand { reason, .. } => CaError::InvalidValue(reason),
            IocRunFailure::Startup(e) | IocRunFailure::Serving(e) => e,
        }
    }
}

impl std::fmt::Display for IocRunFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            IocRunFailure::StartupScript { reason, .. }
            | IocRunFailure::StartupCommand { reason, .. } => write!(f, "{reason}"),
            IocRunFailure::Startup(e) | IocRunFailure::Serving(e) => write!(f, "{e}"),
        }
    }
}

/// The exact bytes `iocBuild_2` hands `errlogPrintf` when `asInit()` fails
/// (`iocInit.c:188-190`).
///
/// C's literal is
///
/// ```c
/// ERL_ERROR " iocBuild: asInit Failed.\n"
///     ANSI_MAGENTA(" The IOC has not been started.") "\n"
/// ```
///
/// so the reset closes BEFORE the second newline and the message ends with
/// one — a terminator this had to carry itself once `console_fallback`
/// started writing the caller's bytes verbatim, as C's
/// `fprintf(console, "%s", …)` (`errlog.c:795`) does.
///
/// `paints` is [`crate::runtime::log::errlog_console_paints`]: unlike the
/// `fprintf(stderr, …)` diagnostics, this one goes through errlog's pump,
/// where `errlogStripANSI` takes BOTH spans off together when the console is
/// not a terminal.
///
/// A function so the bytes can be pinned against a measured `softIoc` run
/// without capturing the process stderr, the way `format_show_error` pins
/// `iocsh.cpp`'s.
fn as_init_failed_message(paints: bool) -> String {
    let (error, magenta, reset) = if paints {
        (crate::runtime::log::ERL_ERROR, "\x1b[35;1m", "\x1b[0m")
    } else {
        ("ERROR", "", "")
    };
    format!("{error} iocBuild: asInit Failed.\n{magenta} The IOC has not been started.{reset}\n")
}

/// C softMain's whole pre-`iocInit` sequence, on one shell: the command
/// lines argv built, in argv order, then the startup script.
///
/// Free rather than a method because it runs on the startup thread, where
/// the application struct has already been taken apart.
fn run_startup_phase(
    shell: &iocsh::IocShell,
    lines: &[String],
    script: Option<&str>,
) -> Result<(), IocRunFailure> {
    // softMain runs argv's steps on `_main_`, which is not ok to block
    // (`osdThread.c:406`), and outside any `iocshBody`: their errlog lines
    // come out after the loader's own stderr. The script's scope raises it.
    for line in lines {
        shell
            .execute_line_reported(line)
            .map_err(|reason| IocRunFailure::StartupCommand {
                line: line.clone(),
                reason,
            })?;
    }
    if let Some(script) = script {
        // The iocshLoad mirror: C `iocsh(pathname)` is
        // `iocshLoad(pathname, NULL)`, which also records
        // IOCSH_STARTUP_SCRIPT (epics-base#469).
        shell
            .execute_script_with_macros(script, &Default::default())
            .map_err(|reason| IocRunFailure::StartupScript {
                path: script.to_string(),
                reason,
            })?;
    }
    Ok(())
}

/// Where softMain stands once its `iocInit()` has returned.
enum SoftMainEnd {
    /// The IOC is running; what is left is waiting on its servers.
    Running(RunningIoc),
    /// It is not, and the tail is the prompt or the forever spin
    /// (`softMain.cpp:247-268`).
    NotRunning {
        interactive: bool,
    },
    Failed(IocRunFailure),
}

/// softMain from `iocsh(st.cmd)` to the return of its own `iocInit()`
/// (`softMain.cpp:231-245`), run as one job on `_main_`.
fn soft_main_to_ioc_init(
    db: Arc<PvDatabase>,
    bridge: crate::runtime::task::BlockingBridge,
    acf: access_security::AcfCell,
    startup_lines: &[String],
    startup_script: Option<&str>,
    ioc_init_gate: Option<Box<dyn FnOnce() -> IocInitDecision + Send>>,
) -> SoftMainEnd {
    // One shell for the queued lines and the script because C uses one iocsh
    // context too: a `dbLoadRecords` from `-d` and one from the script are
    // the same call, so a `dbPutAttribute` or `dbLoadTemplate` queued here
    // must be visible to the script exactly as it is to a later script line.
    let has_script = startup_script.is_some();
    if has_script || !startup_lines.is_empty() {
        let shell = iocsh::IocShell::new_with_acf(db, bridge.clone(), acf);
        if let Err(e) = run_startup_phase(&shell, startup_lines, startup_script) {
            return SoftMainEnd::Failed(e);
        }
    }

    // C softMain's turn between `iocsh(st.cmd)` and `iocInit()`
    // (`softMain.cpp:236-245`). Outside the `if` above because C asks its
    // question whatever the flags were — a `softIoc` with neither a script
    // nor a `-d` still reaches this line, and is exactly the case that must
    // NOT build.
    // `None` is an application that never installed the gate, and that is
    // not the same as answering `Run`: such a caller is not C softMain, has
    // not answered C's `-S`, and owns no tail of its own — the protocol
    // runner is the whole of its tail. It therefore gets a failed build as an
    // `Err` rather than a shell it never asked for.
    let decision = ioc_init_gate.map(|gate| gate());
    // With no gate this is the `main` of every IOC but softIoc:
    // `iocsh(st.cmd)` then `iocsh(NULL)`, which builds nothing the script did
    // not. Without a script it is a programmatic `main` — queued lines are
    // its own `dbLoadRecords()` calls — whose `iocInit()` is this `run`.
    let gate_run = decision.map_or(!has_script, |d| d.run);
    let interactive = decision.is_none_or(|d| d.interactive);
    // Finish whatever the startup script left undone. Each arm is a state the
    // script could have stopped in, and the value it carries is this `run`'s
    // only claim on the transition out of it.
    let outcome = match take_lifecycle() {
        // The script spelled neither `iocInit` nor `iocBuild`, so this is the
        // turn that decides whether the IOC is built at all.
        Some(IocLifecycle::Armed(build, signal)) => {
            if !gate_run {
                // Still armed: an `iocInit` typed at the tail's prompt is C's
                // same `iocInit()`, and starts RSRV through this build.
                put_lifecycle(IocLifecycle::Armed(build, signal));
                return SoftMainEnd::NotRunning { interactive };
            }
            match bridge.block_on(build.perform_build(
                |line: &str| crate::epics_println!("{line}"),
                |line: &str| crate::stderr_println!("{line}"),
            )) {
                Err(e) => return SoftMainEnd::Failed(e.into()),
                Ok(BuildOutcome::Built(built)) => {
                    run_and_drain(built, &bridge, None);
                    match take_lifecycle() {
                        Some(IocLifecycle::Running(running)) => Ok(running),
                        _ => unreachable!(
                            "an iocRun leaves the IOC running, and every lifecycle line \
                             refuses from that state"
                        ),
                    }
                }
                Ok(BuildOutcome::AsInitFailed) => {
                    if decision.is_some() {
                        soft_main_ioc_init_failed();
                    }
                    Err(())
                }
            }
        }
        // The script spelled `iocBuild` and never `iocRun`. softMain's
        // `iocInit()` sees `iocBuild_1` refuse from a state that is not
        // `iocVoid`, and the IOC stays built and quiescent at the prompt,
        // where an `iocRun` still runs it.
        Some(IocLifecycle::Built(built)) => {
            if decision.is_some_and(|d| d.run) {
                soft_main_ioc_init_refused();
            }
            put_lifecycle(IocLifecycle::Built(built));
            return SoftMainEnd::NotRunning { interactive };
        }
        // The script's `iocInit`, or its `iocBuild` and `iocRun`, already did
        // it. There is no second build to gate and no second decision to
        // take: the script asked for the IOC to be built and run, which is
        // what makes every line after those — and the protocol runner — see a
        // running IOC.
        // softMain's own `iocInit()` still runs on `-d`, and `iocBuild_1`
        // refuses it from any state but `iocVoid`.
        Some(IocLifecycle::Running(running)) => {
            if decision.is_some_and(|d| d.run) {
                soft_main_ioc_init_refused();
            }
            Ok(running)
        }
        Some(IocLifecycle::AsInitFailed) => {
            if decision.is_some_and(|d| d.run) {
                soft_main_ioc_init_refused();
            }
            Err(())
        }
        Some(IocLifecycle::Failed(e)) => return SoftMainEnd::Failed(e.into()),
        None => unreachable!(
            "the lifecycle owner is armed before the startup script runs and \
             every transition puts a state back"
        ),
    };
    match outcome {
        Ok(running) => SoftMainEnd::Running(running),
        // `iocBuild_2` returns -1, so `iocBuild` does, so `iocInit()` does —
        // and a non-zero `iocInit()` is REPORTED, not fatal: C
        // `softMain.cpp:239-243` prints one line and falls through to the
        // same tail the never-built arm takes. Measured against
        // R7.0.10.1-DEV with an unreadable ACF: interactive reaches the
        // prompt and exits 0 on EOF, `-S` stays alive and listens on nothing,
        // because `iocRun` — which starts RSRV — never ran.
        Err(()) => match decision {
            Some(decision) => SoftMainEnd::NotRunning {
                interactive: decision.interactive,
            },
            None => SoftMainEnd::Failed(IocRunFailure::Startup(CaError::InvalidValue(
                "iocBuild: asInit Failed.".into(),
            ))),
        },
    }
}

/// C softMain's tail for a process whose `iocInit()` never ran
/// (`softMain.cpp:247-268`): the interactive shell, or the forever spin.
///
/// Nothing here starts a server, and that is the point — RSRV is started by
/// `iocRun` (`rsrv_run`, `caservertask.c`), so a C `softIoc` on this arm has
/// no listener and answers no search until the prompt types `iocInit`. That
/// line performs the build this `run` left armed, which starts the protocol
/// runner as the script's `iocInit` does; the runner's own shell ends with
/// this one (`IocShell::run_main_prompt`), and the server ends with it.
///
/// Free rather than a method for the same reason [`run_startup_phase`] is:
/// the application struct has already been taken apart by here.
async fn run_uninitialized_tail(
    db: Arc<PvDatabase>,
    bridge: crate::runtime::task::BlockingBridge,
    acf: access_security::AcfCell,
    interactive: bool,
    mut cannot_proceed_rx: crate::runtime::sync::oneshot::Receiver<()>,
) -> Result<(), IocRunFailure> {
    if !interactive {
        // C `softMain.cpp:264-265`: `while (true) epicsThreadSleep(1000.0);`
        // — the process exists to be killed. A future that never completes
        // is the same forever and parks instead of holding a thread.
        std::future::pending::<()>().await;
        unreachable!("a pending future never completes");
    }

    // This IS the process on this arm, so a `_main_` that will not start is a
    // boot failure and not something to carry on without.
    let rx = crate::runtime::task::run_on_main_thread(move || {
        iocsh::IocShell::new_with_acf(db, bridge, acf).run_main_prompt()
    })
    .map_err(|e| CaError::InvalidValue(format!("could not start the _main_ thread: {e}")))?;

    let shell = tokio::select! {
        shell = rx => shell,
        () = cannot_proceed(&mut cannot_proceed_rx) => {
            return match take_lifecycle() {
                Some(IocLifecycle::Failed(e)) => Err(e.into()),
                _ => unreachable!("a shell signals only after putting its build error"),
            };
        }
    };
    match shell {
        Ok(Ok(())) => Ok(()),
        // C `softMain.cpp:253-256`: a non-zero `iocsh(NULL)` is
        // `epicsExit(1)`, which is this port's serving-phase status.
        Ok(Err(e)) => Err(IocRunFailure::Serving(CaError::InvalidValue(e))),
        Err(_) => Err(IocRunFailure::Serving(CaError::InvalidValue(
            "shell thread dropped".into(),
        ))),
    }
}

/// Everything C's `iocBuild()` needs, and the only implementation of that
/// transition in this crate.
///
/// **Invariant: the build and the run each happen exactly once per
/// [`IocApplication::run`], and both are complete before the line after
/// `iocInit` in the startup script executes.** [`IocLifecycle`] is the owner
/// that enforces it, by consuming the value that stands for the state each
/// transition starts from. This one is armed before the script runs and
/// consumed by whichever entry point reaches it first — the script's own
/// `iocInit` or `iocBuild` line, or [`IocApplication::run_to_completion`] when
/// the script spelled neither. Because there is one implementation and one
/// consumption, `iocInit` has a single meaning on both paths.
///
/// It used to have two. The shell's `iocInit` closed the record-load phase and
/// nothing else, while the real build ran after the whole script — so every
/// line a real `st.cmd` puts after `iocInit` (`dbpf`, `dbl`, `dbtr`,
/// `asSetFilename`, `seq`) ran against an IOC with no device support, no scan
/// threads and no PINI, and a script-loaded database never reached the protocol
/// runner at all: `softioc-rs -S st.cmd` listed its records from `dbl` and
/// served none of them to a CA client.
/// The protocol runner, type-erased so the lifecycle can carry it.
///
/// [`IocApplication::run`] takes it as a generic closure; it has to reach
/// [`BuiltIoc::run`], which is inside the lifecycle owner and cannot be
/// generic over it.
type ProtocolRunner = Box<
    dyn FnOnce(
            IocRunConfig,
        ) -> std::pin::Pin<
            Box<dyn std::future::Future<Output = CaResult<()>> + Send + 'static>,
        > + Send
        + 'static,
>;

/// What [`BuiltIoc::run`] needs to start the servers, carried from
/// [`IocApplication::run_to_completion`] through the build untouched.
struct ProtocolStart {
    /// The runtime the runner is spawned onto. `BuiltIoc::run` is reached from
    /// the startup-script thread through `BlockingBridge::block_on`, which is
    /// not a runtime thread, so the reactor has to be carried rather than
    /// looked up.
    bridge: crate::runtime::task::BlockingBridge,
    port: u16,
    tcp_port: Option<u16>,
    acf: access_security::AcfCell,
    autosave_config: Option<(autosave::SaveSetConfig, autosave::SaveStrategy)>,
    runner: ProtocolRunner,
}

/// The started protocol runner, and the only handle to it.
///
/// **Once the runner has been spawned, no path may leave
/// [`IocApplication::run_to_completion`] without this value having joined or
/// stopped the task.** C needs no such rule: `rsrv_run` starts threads the
/// process owns until `epicsExit`, and softMain's exits all run through it.
/// Here the runner is one task with one outcome, and the outcome is this
/// `run`'s return value, so it needs exactly one owner.
///
/// [`Self::wait`] and [`Self::shut_down`] are that owner's two answers; `Drop`
/// is the backstop for the paths that reach neither — a `?` in the
/// `afterIocRunning` drain below, a panic unwinding through `run_to_completion`,
/// a startup thread that failed after the script had already run `iocInit`.
struct ProtocolServer {
    handle: crate::runtime::task::TaskHandle<CaResult<()>>,
    /// The outcome [`Self::await_serving`] collected because the runner
    /// finished before its layers announced. Held rather than reported on the
    /// spot so the outcome still leaves through the one owner.
    finished: Option<Result<(), IocRunFailure>>,
    /// False once the outcome has been taken, so `Drop` does not abort a task
    /// that has already been accounted for.
    live: bool,
}

impl ProtocolServer {
    /// The runner's own outcome. Cancel-safe: dropping this future (the signal
    /// arms of the `select!` below) leaves `self.live` set, so the guard or
    /// [`Self::shut_down`] still owns the task.
    async fn wait(&mut self) -> Result<(), IocRunFailure> {
        if let Some(collected) = self.finished.take() {
            return collected;
        }
        let joined = (&mut self.handle).await;
        self.live = false;
        Self::outcome(joined)
    }

    /// C `iocRun`'s ordering, which the port has to wait for where C gets it
    /// for free: return once the runner serves — some layer, and every layer
    /// registered at `dbInitServers()` (`iocInit.c:265`), has announced
    /// (`db_server::announce_serving`, the port's `rsrv_run` return) — or once
    /// the runner has finished first.
    ///
    /// Both arms are terminal — a runner is either serving or done — so this
    /// is not a check that can be left waiting on a runner that forgot to
    /// signal. A runner that serves nothing resolves through the second arm,
    /// which is what every `async { Ok(()) }` in the tests does.
    async fn await_serving(&mut self, mark: crate::server::db_server::ServingMark) {
        tokio::select! {
            biased;
            joined = &mut self.handle => {
                self.live = false;
                self.finished = Some(Self::outcome(joined));
            }
            () = crate::server::db_server::serving_after(&mark) => {}
        }
    }

    /// The join result as the failure `run_to_completion` reports.
    fn outcome(
        joined: Result<CaResult<()>, crate::runtime::task::TaskJoinError>,
    ) -> Result<(), IocRunFailure> {
        match joined {
            Ok(res) => res.map_err(IocRunFailure::Serving),
            // A panic in the runner reached `run_to_completion` as an unwind
            // before it was spawned, which skipped `run_phased`'s
            // `call_at_exits`. As a value it takes the same exit every other
            // serving failure does.
            Err(e) => Err(IocRunFailure::Serving(CaError::InvalidValue(format!(
                "protocol runner did not finish: {e}"
            )))),
        }
    }

    /// Stop the runner and wait until it is gone — what dropping the awaited
    /// future used to do, made explicit now that the task outlives the await.
    async fn shut_down(mut self) {
        // A runner already joined is accounted for, and its handle spent.
        if std::mem::replace(&mut self.live, false) {
            self.handle.abort();
            let _ = (&mut self.handle).await;
        }
    }
}

impl Drop for ProtocolServer {
    fn drop(&mut self) {
        if self.live {
            self.handle.abort();
        }
    }
}

/// Drops whatever this `run` armed and did not consume.
///
/// The window is [`arm_build`] to the `take_lifecycle` that finishes the
/// script's work: the startup script performs the build AND the run inside
/// itself, so a failure of the startup thread — or a panic anywhere in that
/// window — can return with an [`IocLifecycle::Running`], and its live
/// [`ProtocolServer`], still parked in the static. C has no such window
/// because its `iocInit()` and its `iocsh()` are statements in one `main`.
struct ArmedLifecycle;

impl Drop for ArmedLifecycle {
    fn drop(&mut self) {
        drop(take_lifecycle());
    }
}

struct IocBuild {
    db: Arc<PvDatabase>,
    acf: access_security::AcfCell,
    autosave_config: Option<(autosave::SaveSetConfig, autosave::SaveStrategy)>,
    autosave_startup: Option<Arc<Mutex<AutosaveStartupConfig>>>,
    link_set_installers: Vec<LinkSetInstaller>,
    after_init_database_hooks: Vec<AfterInitDatabaseHook>,
    after_init_hooks: Vec<Box<dyn FnOnce() + Send>>,
    /// Run at `dbInitServers`, in registration order.
    server_inits: Vec<(&'static str, ServerInit)>,
    protocol: ProtocolStart,
}

/// The IOC C `iocBuild()` leaves behind: [`IocState::Built`], quiescent, with
/// everything [`BuiltIoc::run`] needs to make it run.
struct BuiltIoc {
    db: Arc<PvDatabase>,
    autosave_manager: Option<Arc<autosave::AutosaveManager>>,
    /// Holds the save task a `create_*_set` started, before or after this.
    autosave_startup: Option<Arc<Mutex<AutosaveStartupConfig>>>,
    /// Drained by the run half, at C's `initHookAfterIocRunning` point.
    after_init_hooks: Vec<Box<dyn FnOnce() + Send>>,
    /// The [`ServerInit`]s' state: C's servers are initialised by
    /// `dbInitServers()` in `iocBuild` (`iocInit.c:222`), which
    /// [`IocBuild::perform_build`] ran, and only *started* by `dbRunServers()`
    /// in `iocRun` (`:265-267`), which is the runner's.
    servers: InitializedServers,
    /// Carried, not used: everything the runner needs to start.
    protocol: ProtocolStart,
}

/// What the run transition leaves for the phases after it: the running
/// servers, and nothing else. The autosave manager and the port numbers used
/// to be carried across it so Phase 3 could assemble an [`IocRunConfig`]; that
/// assembly is now [`BuiltIoc::run`]'s, at C's `dbRunServers` point.
struct RunningIoc {
    server: ProtocolServer,
}

/// Where [`IocBuild::perform_build`] stops.
enum BuildOutcome {
    /// Boxed for the reason [`IocLifecycle::Armed`] is: `BuiltIoc` carries the
    /// database, the after-init hooks and the whole [`ProtocolStart`], and the
    /// other variant carries nothing.
    Built(Box<BuiltIoc>),
    /// `asInit` returned non-zero, so the build stopped there. Nothing here
    /// re-words the reason, which `asInitFile` has already written.
    AsInitFailed,
}

/// One value, one lifecycle — and the whole of this `run`'s claim on it.
///
/// Each variant is a state C names, and each transition **consumes** the value
/// standing for the state it starts from, so "exactly once" is carried by
/// ownership rather than by a runtime `if already_built`: after
/// [`IocBuild::perform_build`] there is no `IocBuild` left to build again, and
/// after [`BuiltIoc::run`] there is no `BuiltIoc` left to run again.
enum IocLifecycle {
    /// Armed before the startup script; C's `iocVoid`.
    /// Boxed: `IocBuild` carries the whole database and every registry, and
    /// the other variants are a fraction of its size.
    Armed(Box<IocBuild>, CannotProceed),
    /// C's `iocBuilt`. Boxed for the same reason [`Self::Armed`] is.
    Built(Box<BuiltIoc>),
    /// C's `iocRunning`.
    Running(RunningIoc),
    /// The build stopped at a failed `asInit`.
    AsInitFailed,
    /// A transition returned an error, held for `run_to_completion` to report.
    Failed(CaError),
}

/// The single cell. The IOC lifecycle it belongs to is already process-global
/// (see [`set_ioc_state`]), so this is scoped the same way.
static LIFECYCLE_OWNER: Mutex<Option<IocLifecycle>> = Mutex::new(None);

/// Sent by a shell whose build failed, once [`IocLifecycle::Failed`] holds
/// the error. C `cantProceed` suspends the thread that ran `iocInit`, so no
/// later line runs at any script depth; the port parks that thread too, and
/// this is how the lifecycle owner, which would otherwise wait for the shell
/// to return, learns it never will.
type CannotProceed = crate::runtime::sync::oneshot::Sender<()>;

/// Resolves when a shell's build has failed; never when the build succeeded
/// or ran off the shell, which drop the sender. Callable again after the
/// startup phase's select already saw the channel close.
async fn cannot_proceed(rx: &mut crate::runtime::sync::oneshot::Receiver<()>) {
    if rx.is_terminated() || rx.await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn arm_build(build: IocBuild, cannot_proceed: CannotProceed) {
    *LIFECYCLE_OWNER.lock().unwrap() = Some(IocLifecycle::Armed(Box::new(build), cannot_proceed));
}

fn take_lifecycle() -> Option<IocLifecycle> {
    LIFECYCLE_OWNER.lock().unwrap().take()
}

fn put_lifecycle(state: IocLifecycle) {
    *LIFECYCLE_OWNER.lock().unwrap() = Some(state);
}

/// What an iocsh build line did.
pub(crate) enum ShellTransition {
    /// This call performed the build.
    Done,
    /// It performed it and the build failed; the line fails with it.
    Failed,
    /// This `run` owns a lifecycle, but past `iocVoid` — a second `iocBuild`.
    Refused,
    /// This IOC has no [`IocApplication`] lifecycle to drive: every
    /// `CaServerBuilder` binary and every bare [`PvDatabase`] shell.
    NotOurs,
}

/// The iocsh `iocBuild` line, and the build half of `iocInit`.
pub(crate) fn build_from_shell(
    bridge: &crate::runtime::task::BlockingBridge,
    out: &dyn Fn(&str),
    err: &dyn Fn(&str),
) -> ShellTransition {
    match take_lifecycle() {
        None => ShellTransition::NotOurs,
        Some(IocLifecycle::Armed(build, signal)) => {
            match bridge.block_on(build.perform_build(out, err)) {
                Ok(BuildOutcome::Built(built)) => {
                    put_lifecycle(IocLifecycle::Built(built));
                    ShellTransition::Done
                }
                Ok(BuildOutcome::AsInitFailed) => {
                    put_lifecycle(IocLifecycle::AsInitFailed);
                    ShellTransition::Failed
                }
                Err(e) => {
                    // C `cantProceed` (`rsrv_init`, `caservertask.c:752`); the
                    // lifecycle owner returns the error instead of hanging (user
                    // sign-off 2026-10-14). `epicsThreadResume` must not let the
                    // script run on.
                    let park = crate::runtime::task::ForeverPark::begin();
                    put_lifecycle(IocLifecycle::Failed(e));
                    let _ = signal.send(());
                    park.park()
                }
            }
        }
        Some(other) => {
            put_lifecycle(other);
            ShellTransition::Refused
        }
    }
}

/// softMain's line for a non-zero `iocInit()` it called itself
/// (`softMain.cpp:241-243`); a script's failed `iocInit` line prints none.
fn soft_main_ioc_init_failed() {
    crate::stderr_println!("{} during iocInit()", crate::runtime::log::ERL_ERROR);
}

/// softMain's `iocInit()` on an IOC the script already took past `iocVoid`.
fn soft_main_ioc_init_refused() {
    crate::runtime::log::errlog_printf(&build_refusal());
    soft_main_ioc_init_failed();
}

/// C `iocBuild_1`'s refusal (`iocInit.c:117-120`), which every caller of the
/// build shares because C has one `iocBuild_1` and reaches it from both
/// `iocBuild()` and `iocInit()` — which is why the sentence names `iocBuild`
/// even when `iocInit` is the line that failed.
///
/// It is a function because the port had three copies of it, one per arm that
/// could refuse, and a duplicated diagnostic drifts the moment one copy is
/// touched.
pub(crate) fn build_refusal() -> String {
    format!(
        "iocBuild: {} IOC can only be initialized from uninitialized or \
         stopped state\n",
        if crate::runtime::log::errlog_console_paints() {
            crate::runtime::log::ERL_ERROR
        } else {
            "ERROR"
        }
    )
}

/// The states C `iocBuild` announces, in its `initHookAnnounce` order
/// (`iocInit.c:123-206`).
pub(crate) const BUILD_HOOK_STATES: [InitHookState; 13] = [
    InitHookState::AtIocBuild,
    InitHookState::AtBeginning,
    InitHookState::AfterCallbackInit,
    InitHookState::AfterCaLinkInit,
    InitHookState::AfterInitDrvSup,
    InitHookState::AfterInitRecSup,
    InitHookState::AfterInitDevSup,
    InitHookState::AfterInitDatabase,
    InitHookState::AfterFinishDevSup,
    InitHookState::AfterScanInit,
    InitHookState::AfterInitialProcess,
    InitHookState::AfterCaServerInit,
    InitHookState::AfterIocBuilt,
];

/// The support pass C `iocBuild_2` runs just before announcing `state`:
/// `initDrvSup`, `initDevSup` and `finishDevSup` (`iocInit.c:167-183`). A
/// build that announces nothing still runs it.
fn build_step(state: InitHookState) {
    match state {
        InitHookState::AfterInitDrvSup => crate::server::driver_support::init_drv_sup(),
        InitHookState::AfterInitDevSup => crate::server::record::init_dev_sup(),
        InitHookState::AfterFinishDevSup => crate::server::record::finish_dev_sup(),
        _ => {}
    }
}

/// C `iocBuild_1` and `iocBuild_3`, and the init hooks `iocBuild` announces,
/// for every build path: [`IocApplication`]'s, the bare shell's
/// `iocBuild`/`iocInit` and
/// [`IocBuilder::build_ioc`](crate::server::ioc_builder::IocBuilder::build_ioc).
///
/// C has one `iocBuild`, so a driver's hook runs whatever built the IOC.
/// The states are announced only through [`Self::until`], which walks
/// [`BUILD_HOOK_STATES`] in order, so no path can skip or reorder one. A
/// value of this type is [`IocState::Building`]: only [`Self::begin`] makes
/// one, so record work done while holding it is after that line by
/// construction.
pub(crate) struct BuildSequence {
    walk: BuildWalk,
    /// [`Self::ca_link_init`] has run, so `initHookAfterCaLinkInit` may be
    /// announced.
    links: bool,
    /// What [`Self::finish`] records as C `iocBuildMode`.
    mode: BuildMode,
}

/// The walk over [`BUILD_HOOK_STATES`] every build makes, announcing or
/// not: each state reached runs its [`build_step`], in order, once.
pub(crate) struct BuildWalk {
    next: usize,
}

impl BuildWalk {
    pub(crate) fn new() -> Self {
        Self { next: 0 }
    }

    /// Every state not yet passed up to and including `state`, each
    /// yielded after its [`build_step`]. Panics on a state already passed.
    pub(crate) fn until(
        &mut self,
        state: InitHookState,
    ) -> impl Iterator<Item = InitHookState> + '_ {
        let end = BUILD_HOOK_STATES[self.next..]
            .iter()
            .position(|s| *s == state)
            .map(|i| self.next + i + 1)
            .unwrap_or_else(|| panic!("{} reached out of iocBuild order", state.name()));
        std::iter::from_fn(move || {
            (self.next < end).then(|| {
                let state = BUILD_HOOK_STATES[self.next];
                self.next += 1;
                build_step(state);
                state
            })
        })
    }
}

impl BuildSequence {
    /// C `iocBuild_1` (`iocInit.c:116-148`): refused from any state but
    /// `iocVoid`; otherwise `initHookAtIocBuild`, `Starting iocInit` on the
    /// errlog (`:129`), `initHookAtBeginning`, then `coreRelease()`, whose
    /// `printf` (`misc/epicsRelease.c:23-27`) is the build's only stdout
    /// write (`:147`), then `iocBuilding` — after both announces, so their
    /// observers read the state the IOC came from.
    pub(crate) fn begin(out: impl Fn(&str)) -> Option<Self> {
        Self::begin_mode(BuildMode::Servers, out)
    }

    /// [`Self::begin`] for C `iocBuild` (`Servers`) or `iocBuildIsolated`.
    pub(crate) fn begin_mode(mode: BuildMode, out: impl Fn(&str)) -> Option<Self> {
        if get_ioc_state() != IocState::Void {
            crate::runtime::log::errlog_printf(&build_refusal());
            return None;
        }
        let mut build = Self {
            walk: BuildWalk::new(),
            links: false,
            mode,
        };
        build.reach(InitHookState::AtIocBuild);
        // C raises the caller to ok-to-block here (`iocInit.c:125-127`).
        crate::runtime::task::set_thread_ok_to_block(true);
        crate::runtime::log::errlog_printf("Starting iocInit\n");
        build.reach(InitHookState::AtBeginning);
        for line in crate::server::iocsh::misc_commands::core_release_block() {
            out(&line);
        }
        set_ioc_state(IocState::Building);
        // `taskwdInit(); callbackInit();` (`iocInit.c:150-151`), the one
        // place every build constructs and arms the callback bands. The
        // position is `callbackSetQueueSize`'s and `callbackParallelThreads`'s
        // contract: both refuse once the pool exists (`callback.c:106-109`,
        // `:162-165`), since the pool reads their knobs when it is built.
        crate::runtime::task::background_init();
        Some(build)
    }

    /// Announce every state not yet announced up to and including `state`,
    /// each as the iterator yields it, so a caller can run its own work for
    /// a state before the next is announced. Panics on a state already
    /// passed.
    pub(crate) fn until(
        &mut self,
        state: InitHookState,
    ) -> impl Iterator<Item = InitHookState> + '_ {
        let next = self.walk.next;
        let end = BUILD_HOOK_STATES[next..]
            .iter()
            .position(|s| *s == state)
            .map(|i| next + i + 1)
            .unwrap_or_else(|| panic!("{} announced out of iocBuild order", state.name()));
        assert!(
            self.links || !BUILD_HOOK_STATES[next..end].contains(&InitHookState::AfterCaLinkInit),
            "initHookAfterCaLinkInit announced before dbCaLinkInit"
        );
        self.walk.until(state).inspect(|state| {
            if *state == InitHookState::AfterInitDatabase {
                // C `initDatabase` ends with `epicsAtExit(exitDatabase,
                // NULL)` (`iocInit.c:580`), whose body is `iocShutdown`.
                crate::runtime::exit::at_exit("iocShutdown", || {
                    ioc_shutdown();
                });
            }
            init_hook_announce(*state)
        })
    }

    /// [`Self::until`] for a caller with nothing of its own to run.
    pub(crate) fn reach(&mut self, state: InitHookState) {
        self.until(state).for_each(drop);
    }

    /// C `dbCaLinkInit` (`iocInit.c:217`): after `iocBuild_1`'s
    /// `initHookAfterCallbackInit` and before `iocBuild_2` announces
    /// `initHookAfterCaLinkInit` (`:165`), whose observers find the
    /// `dbCaLink` worker up and every link set installed. Panics when
    /// `initHookAfterCallbackInit` is not the last state announced.
    pub(crate) async fn ca_link_init(
        &mut self,
        db: &Arc<PvDatabase>,
        installers: Vec<LinkSetInstaller>,
    ) {
        assert_eq!(
            BUILD_HOOK_STATES.get(self.walk.next),
            Some(&InitHookState::AfterCaLinkInit),
            "dbCaLinkInit out of iocBuild order"
        );
        if self.mode == BuildMode::Isolated {
            // `dbCaLinkInitIsolated` (`dbCa.c:357-360`).
            db.ca_link_isolate();
        }
        db.ca_link_init();
        install_link_sets(db, installers).await;
        self.links = true;
    }

    /// C `iocBuild_3` (`iocInit.c:201-207`): the states left through
    /// `initHookAfterCaServerInit`, then `iocBuilt`, then
    /// `initHookAfterIocBuilt`, whose observers read `iocBuilt`. A build
    /// that fails before this leaves `iocBuilding`, as C's does.
    pub(crate) fn finish(mut self) {
        if self.walk.next < BUILD_HOOK_STATES.len() - 1 {
            self.reach(InitHookState::AfterCaServerInit);
        }
        set_ioc_state(IocState::Built);
        self.reach(InitHookState::AfterIocBuilt);
        // Last, as C sets it after `iocBuild_3` returns (`iocInit.c:229`,
        // `:246`).
        lifecycle().mode = self.mode;
    }
}

/// The link-set half of C `dbCaLinkInit`: every external link set is
/// registered before any record initialises, and each installer's iocsh
/// commands go onto the process's command table. An `iocBuild` runs it
/// through [`BuildSequence::ca_link_init`].
pub(crate) async fn install_link_sets(db: &Arc<PvDatabase>, installers: Vec<LinkSetInstaller>) {
    for installer in installers {
        for cmd in installer(db.clone()).await {
            iocsh::register_command(cmd);
        }
    }
}

/// The link half of C `initDatabase` for both IOC build paths, after the
/// records have initialised and before the `iocInit` barrier.
pub(crate) async fn init_links(db: &PvDatabase) {
    // C `dbInitLink`'s locality decision, committed once for the whole
    // database now that every record has loaded: a `Db` link naming a
    // record this IOC does not have becomes a `Ca` link
    // (`dbLink.c:118-130` falling through `dbDbInitLink`'s
    // `S_db_notFound`, `dbDbLink.c:94-96`). Runs BEFORE `setup_cp_links`
    // for C's reason — `initPVLinks` initialises links before anything
    // consumes them — and it is a one-shot: C guards re-entry with
    // `DBLINK_FLAG_INITIALIZED` (`dbLink.c:96-100`), so a record added
    // later at runtime does not un-convert a link already made external.
    db.initialize_link_locality().await;
    db.setup_cp_links().await;
    // Open the rest of the external links at init, as C does. Every
    // non-local `PV_LINK` reaches `dbCaAddLink` from `dbInitLink`
    // (`dbLink.c:118-130`) regardless of direction or CP/CPP policy, so a
    // C IOC's first scan finds an already-connecting channel.
    // `setup_cp_links` above covers only the CP/CPP subset; without this
    // pass every other external `INP`/`OUT`/`DOL`/`TSEL`/`SDIS`/`INPA..`
    // link pays one cold scan cycle to stage its own open. Runs here — the
    // same init phase, after link parsing and before scan start — and
    // after `setup_cp_links` so the `Db`→`Ca` rewrite it applies to
    // non-local CP holders is already visible to the enumeration.
    db.setup_external_link_opens().await;
}

/// C `initDatabase` (`iocInit.c:179`), which every `iocBuild` runs: an
/// `IocApplication`'s, an `IocBuilder`'s and the bare shell's. The record
/// init passes, the property posts, the links when `open_links`, then the
/// `iocInit` barrier. [`scan_init`] follows it, after
/// `initHookAfterInitDatabase` and `finishDevSup`.
///
/// A database whose scan lists are built has had all of this before its
/// shell typed `iocInit` (`CaServerBuilder` builds first), and only crosses
/// the barrier again, which is idempotent. An `IocBuilder` owns the database
/// it builds and a shell build holds the IOC lifecycle, so nothing races the
/// check.
///
/// `err` is the building thread's stderr, used only by the record init
/// passes, which run before this returns.
pub(crate) fn init_database(
    db: &Arc<PvDatabase>,
    open_links: bool,
    err: &dyn Fn(&str),
) -> impl std::future::Future<Output = ()> + Send + 'static {
    let fresh = !db.scan_control().lists_built();
    if fresh {
        db.drain_deferred_record_inits(err);
    }
    let db = db.clone();
    async move {
        if fresh {
            if open_links {
                init_links(&db).await;
            }
        }
        db.ioc_init().await;
    }
}

/// C `scanInit`'s list joins (`iocInit.c:186`), which every `iocBuild` runs
/// after `finishDevSup`, so a dset's `get_ioint_info(0)` sees what autosave
/// pass 1 restored and its `init(after)`. A database whose lists are built
/// has had it.
pub(crate) async fn scan_init(db: &Arc<PvDatabase>) {
    if !db.scan_control().lists_built() {
        setup_io_intr(db.clone()).await;
    }
}

/// C `scanInit` and `initialProcess()` (`iocInit.c:186`, `:194-195`,
/// `:653-657`): the PINI=YES pass, the last record work of `iocBuild_2`, the
/// registration of `piniProcessHook` (`:630-651`), which runs the RUN,
/// RUNNING, PAUSE and PAUSED passes from every `iocRun` and `iocPause` after
/// it, and the scan threads, which scan nothing until `iocRun`'s `scanRun`
/// opens the database's gate. Every build path publishes its database here,
/// so every `iocRun` has threads to release.
///
/// Must run inside the runtime the scan threads drive records on.
pub(crate) fn initial_process(db: &Arc<PvDatabase>) {
    // C's `initHookRegister` ignores a function already registered, so a
    // rebuild after `iocShutdown` still has one hook.
    static PINI_HOOK: std::sync::Once = std::sync::Once::new();
    PINI_HOOK.call_once(|| init_hook_register(Arc::new(pini_process_hook)));
    let previous = lifecycle().db.replace(Arc::clone(db));
    drop(previous);
    db.pini_pass(crate::server::record::PiniMode::Yes);
    db.mark_pini_done();
    // After PINI is published, so the owner skips its own pass.
    adopt_scan_owner(crate::server::scan::ScanOwner::start_running(Arc::clone(
        db,
    )));
}

/// C `piniProcessHook` (`iocInit.c:630-651`), over the database the current
/// build published rather than one captured at registration.
fn pini_process_hook(state: InitHookState) {
    use crate::server::record::PiniMode;
    let mode = match state {
        InitHookState::AtIocRun => PiniMode::Run,
        InitHookState::AfterIocRunning => PiniMode::Running,
        InitHookState::AtIocPause => PiniMode::Pause,
        InitHookState::AfterIocPaused => PiniMode::Paused,
        _ => return,
    };
    let db = lifecycle().db.clone();
    if let Some(db) = db {
        db.pini_pass(mode);
    }
}

/// C `iocRun` over an IOC whose build ran [`initial_process`] — the one
/// run body for [`IocApplication`] and
/// [`BareIoc`](crate::server::ioc_builder::BareIoc). False when `iocRun`
/// refused, which it has already reported.
pub(crate) async fn run_built(db: &Arc<PvDatabase>) -> bool {
    // C `iocInit` is `iocBuild() || iocRun()` (iocInit.c:107-110): the same
    // `iocRun` the shell's runs.
    let Some(running) = ioc_run_begin() else {
        return false;
    };
    // C `dbCaRun` (`iocInit.c:260`): the CP/CPP links' connect-time
    // process, after `scanRun` and before the `iocRun` line.
    db.process_cp_links_on_connect().await;
    running.finish();
    true
}

/// C `iocBuild` for the bare shell's `iocBuild`/`iocInit`: the record-load
/// close, then [`initial_process`], inside [`BuildSequence`]. False when
/// `iocBuild_1` refused. `out` is the building thread's stdout.
pub(crate) async fn build_without_application(db: &Arc<PvDatabase>, out: impl Fn(&str)) -> bool {
    let Some(mut build) = BuildSequence::begin(out) else {
        return false;
    };
    build.reach(InitHookState::AfterCallbackInit);
    build.ca_link_init(db, Vec::new()).await;
    build.reach(InitHookState::AfterInitDevSup);
    init_database(db, true, &|line| crate::stderr_println!("{line}")).await;
    build.reach(InitHookState::AfterInitDatabase);
    db.scan_control().finish_dev_sup();
    build.reach(InitHookState::AfterFinishDevSup);
    scan_init(db).await;
    build.reach(InitHookState::AfterScanInit);
    initial_process(db);
    build.reach(InitHookState::AfterInitialProcess);
    build.finish();
    true
}

/// The iocsh `iocRun` line, and the run half of `iocInit`: C `iocRun()`, then
/// the `afterIocRunning` lines its `initHookAfterIocRunning` runs. False when
/// `iocRun` refused, which it has already reported.
///
/// Out of `iocBuilt` with this `run`'s build to consume, that build runs.
/// Otherwise — out of `iocPaused`, or in a `CaServerBuilder` binary's shell,
/// which has no [`IocApplication`] build — the plain [`ioc_run`] does.
pub(crate) fn run_from_shell(ctx: &crate::server::iocsh::registry::CommandContext) -> bool {
    match take_lifecycle() {
        Some(IocLifecycle::Built(built)) => {
            run_and_drain(built, ctx.bridge(), Some(ctx));
            return true;
        }
        Some(other) => put_lifecycle(other),
        None => {}
    }
    if ioc_run() != 0 {
        return false;
    }
    run_after_ioc_running(ctx.db(), ctx.bridge(), ctx.acf(), Some(ctx));
    true
}

/// C `iocRun` from `iocBuilt`, through to the end of the
/// `initHookAfterIocRunning` announce, where `afterIocRunningHook` runs the
/// queued lines (`afterIocRunning.c:38-56`). The lines run after the run's
/// `block_on` has returned, because each blocks on the runtime itself, and
/// with the lifecycle already `Running`, as C's `iocState` is by then.
/// `caller` is the shell whose `iocInit` line this is, `None` for softMain's
/// own `iocInit()`.
fn run_and_drain(
    built: Box<BuiltIoc>,
    bridge: &crate::runtime::task::BlockingBridge,
    caller: Option<&crate::server::iocsh::registry::CommandContext>,
) {
    let db = built.db.clone();
    let acf = built.protocol.acf.clone();
    put_lifecycle(IocLifecycle::Running(bridge.block_on(built.run())));
    run_after_ioc_running(&db, bridge, &acf, caller);
}

/// C `afterIocRunningHook` (`afterIocRunning.c:43-55`): each queued line
/// echoed, run through `iocshCmd`, and named if it failed. The shell reads the
/// same command table every other shell does, so a site-specific name like
/// `motorReport` is addressable from the queue with no re-registration.
///
/// The lines write where `caller`'s `iocInit` line writes, redirect and all,
/// since C runs them on that thread. The hook's echoes are plain `printf`s,
/// and no epicsStdio.h reaches `afterIocRunning.c`, so no redirect takes them.
fn run_after_ioc_running(
    db: &Arc<PvDatabase>,
    bridge: &crate::runtime::task::BlockingBridge,
    acf: &access_security::AcfCell,
    caller: Option<&crate::server::iocsh::registry::CommandContext>,
) {
    use crate::runtime::log::{ANSI_ESC_GREEN, ANSI_ESC_RESET, ERL_ERROR};
    let out = |line: &[u8]| match caller {
        Some(ctx) => ctx.console_println_bytes(line),
        None => stdout_line(line),
    };
    let mut shell = None;
    db.drain_after_ioc_running(|line| {
        let shell = shell.get_or_insert_with(|| {
            iocsh::IocShell::new_with_acf(db.clone(), bridge.clone(), acf.clone())
        });
        out(&[
            format!("{ANSI_ESC_GREEN}afterIocRunning:{ANSI_ESC_RESET} ").as_bytes(),
            &line,
        ]
        .concat());
        let outcome = match caller {
            Some(ctx) => shell.nested_iocsh_cmd(ctx, &line),
            None => shell.iocsh_cmd(&line),
        };
        // C's non-zero `iocshCmd`: the line's own diagnostic is already out.
        if !matches!(
            outcome,
            Ok(iocsh::registry::CommandOutcome::Continue | iocsh::registry::CommandOutcome::Exit)
        ) {
            out(&[
                format!("{ERL_ERROR} afterIocRunning: command '").as_bytes(),
                &line,
                b"' failed to run",
            ]
            .concat());
        }
    });
}

/// C's raw `stdout`, for softMain's own `iocInit()`, which has no shell.
fn stdout_line(line: &[u8]) {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(line);
    let _ = stdout.write_all(b"\n");
}

impl IocBuild {
    /// C `iocBuild()` (`iocInit.c:210-231`), ending where `iocBuild_3` does:
    /// [`IocState::Built`], the quiescent state [`BuiltIoc::run`] is legal
    /// from. `initHookAfterIocBuilt` is announced on this half, as
    /// `iocBuild_3` announces it (`iocInit.c:201-207`).
    ///
    /// `out` and `err` are the building thread's stdout and stderr, where the
    /// epicsStdio files C's build runs (`coreRelease`, `asDbLib`,
    /// `asInitFile`) write: the shell's, redirected, for an `iocInit` line.
    async fn perform_build(self, out: impl Fn(&str), err: impl Fn(&str)) -> CaResult<BuildOutcome> {
        let Self {
            db,
            acf,
            autosave_config,
            autosave_startup,
            link_set_installers,
            after_init_database_hooks,
            after_init_hooks,
            server_inits,
            protocol,
        } = self;

        // Collect restore paths and builder from startup config (scoped mutex lock)
        let (pass0_files, pass1_files) = if let Some(ref config) = autosave_startup {
            let cfg = config.lock().unwrap();
            (cfg.boot_restores(false), cfg.boot_restores(true))
        } else {
            (Vec::new(), Vec::new())
        };

        // initHooks subsystem (C `iocInit.c` / `initHooks.c` parity).
        //
        // Autosave pass-0 / pass-1 restore are no longer hard-coded
        // into the build flow: they are registered here as ordinary
        // init hooks (C autosave registers `initHookAfterInitDevSup`
        // for pass 0 and `initHookAfterInitDatabase` for pass 1).
        // Any third-party `init_hook_register` callback also fires at
        // the matching `init_hook_announce` point below. Because the
        // restore work is async and the C-parity `InitHookFunction`
        // is sync, autosave restores live in this local async-hook
        // table; `announce` below fires *both* tables.
        type AsyncHook = Box<
            dyn FnOnce()
                    -> std::pin::Pin<Box<dyn std::future::Future<Output = ()> + Send + 'static>>
                + Send
                + 'static,
        >;
        let mut lifecycle_hooks: Vec<(InitHookState, AsyncHook)> = Vec::new();

        // Register pass-0 restore as an `AfterInitDevSup` hook.
        {
            let db_p0 = db.clone();
            let files = pass0_files.clone();
            lifecycle_hooks.push((
                InitHookState::AfterInitDevSup,
                Box::new(move || {
                    Box::pin(async move {
                        // `reboot_restore` logs its own failure, as C's.
                        for item in &files {
                            let _ =
                                autosave::reboot_restore(&db_p0, item, autosave::RestorePass::Zero)
                                    .await;
                        }
                    })
                }),
            ));
        }
        // Register pass-1 restore + SaveSetConfig restore as an
        // `AfterInitDatabase` hook.
        {
            let db_p1 = db.clone();
            let files = pass1_files.clone();
            let cfg_path = autosave_config.as_ref().map(|(c, _)| c.save_path.clone());
            lifecycle_hooks.push((
                InitHookState::AfterInitDatabase,
                Box::new(move || {
                    Box::pin(async move {
                        // `reboot_restore` logs its own failure, as C's.
                        for item in &files {
                            let _ =
                                autosave::reboot_restore(&db_p1, item, autosave::RestorePass::One)
                                    .await;
                        }
                        if let Some(path) = cfg_path {
                            if let Err(e) = autosave::restore_from_file(
                                &db_p1,
                                &path,
                                autosave::RestorePass::One,
                            )
                            .await
                            {
                                crate::runtime::log::errlog_vprintf(format_args!(
                                    "autosave restore warning: {} - {e}\n",
                                    path.display()
                                ));
                            }
                        }
                    })
                }),
            ));
        }

        // C registers these with `initHookRegister`, after autosave's.
        for hook in after_init_database_hooks {
            let (db, acf) = (db.clone(), acf.clone());
            lifecycle_hooks.push((
                InitHookState::AfterInitDatabase,
                Box::new(move || hook(db, acf)),
            ));
        }

        // C `iocBuild_1`. `IocLifecycle::Armed` is only ever the IOC's first
        // build, so the refusal is unreachable here.
        let Some(mut build) = BuildSequence::begin(&out) else {
            return Err(CaError::InvalidValue(build_refusal()));
        };

        // Fire an init-hook state: the C-parity sync `init_hook_*`
        // callbacks first, then the local async lifecycle hooks
        // (autosave restore). Drains every lifecycle hook matching
        // `state` out of the table so each fires exactly once.
        macro_rules! announce {
            ($state:expr) => {{
                for state in build.until($state) {
                    let mut i = 0;
                    while i < lifecycle_hooks.len() {
                        if lifecycle_hooks[i].0 == state {
                            let (_, hook) = lifecycle_hooks.remove(i);
                            hook().await;
                        } else {
                            i += 1;
                        }
                    }
                }
            }};
        }
        // C `scanInit` leaves the facility at `ctlPause` (`dbScan.c:199`)
        // and `iocRun`'s `scanRun` is what starts it, so nothing an
        // in-flight build wires up — an I/O Intr callback, a posted event
        // — can process a record before `initHookAfterInterruptAccept`.
        // A database's scan control is created paused, so the build has
        // nothing to close.
        // Both of this IOC's access-security watchers spawn on the pool
        // `BuildSequence::begin`'s `callbackInit` just built (C `asCaStart`,
        // reached from `asInitCommon`, `asDbLib.c:147`). They are the reason
        // moving `background_init` alone changed nothing: the cell used to be
        // created watching, and that spawn built the pool before the script
        // ran.
        access_security::start_acf_watchers(&db, &acf);
        announce!(InitHookState::AfterCallbackInit);

        // External link-set installers run at C `dbCaLinkInit`, before
        // `initHookAfterCaLinkInit` is announced — so every external link set is
        // registered on the database BEFORE `setup_cp_links` (Phase 2b,
        // below) warms Passive CP/CPP holders. A link set registered later
        // (e.g. inside the Phase-3 protocol runner) is too late: the warm's
        // `resolve_external_pv` open path no-ops when no matching link set
        // is installed, so a Passive holder of an external CP link never
        // opens its monitor and never processes on a remote change. Each
        // installer also yields its iocsh commands (`dbcaxr`, …),
        // registered on the process's command table the moment they exist —
        // C `iocshRegister` from a registrar reached by `initHookAfterCaLinkInit`.
        // This is the point that made the table have to be one: the startup
        // shell was constructed before this line, so a per-shell table could
        // never carry these names into the script, however they were handed
        // around afterwards.
        build.ca_link_init(&db, link_set_installers).await;
        announce!(InitHookState::AfterCaLinkInit);

        announce!(InitHookState::AfterInitDrvSup);
        announce!(InitHookState::AfterInitRecSup);

        // Phase 2b: iocInit. C order is initDevSup() → initHookAfterInitDevSup
        // (autosave pass 0) → initDatabase() (per-record init_record, where
        // devMotorAsyn's init_controller runs).
        //
        // C's `initDatabase` runs HERE, as a whole-database pass that binds each
        // record's dset and only then runs its `init_record`
        // (`drain_deferred_record_inits` → per record `attach_device_support`
        // ahead of `run_init_pass0`). The record was published at
        // `dbLoadRecords` but its init deferred to this point, because a
        // record's device-support PORT can be configured by a startup command
        // AFTER the `dbLoadRecords` that created it (ADCore's
        // `NDTimeSeriesConfigure` builds the `*_TS` port), so binding the dset
        // at load would bind it against a port that does not exist yet. The
        // pass runs before `setup_io_intr` (C's `scanInit`) so a dset is bound
        // before I/O Intr wiring reads it. A pass0-restored field still lands as
        // a plain pre-init field write (C dbPut before init_record): this hook
        // fires before the startup script's `iocInit` line, and the records it
        // restores were loaded before that.
        announce!(InitHookState::AfterInitDevSup);

        // C: initDatabase() then initHookAfterInitDatabase (autosave
        // pass 1). The registered hook performs pass-1 + SaveSetConfig
        // restore.
        //
        // The `iocInit` barrier runs as part of initDatabase: every record the
        // startup script loaded now exists, so the link-status classifications
        // queued during the load run here, against the complete database. A
        // no-op when the script already spelled `iocInit` out.
        init_database(&db, true, &err).await;
        announce!(InitHookState::AfterInitDatabase);
        db.scan_control().finish_dev_sup();
        announce!(InitHookState::AfterFinishDevSup);
        scan_init(&db).await;

        // C `iocBuild_2` (`iocInit.c:186-191`): `scanInit()`, then `asInit()`,
        // then `initHookAfterScanInit`. THIS is the second caller of
        // `asInitCommon`, and the port had only the iocsh command — so
        // `softioc-rs` queued a literal `asInit` line to stand in for it,
        // which ran before the startup script rather than after it and left
        // an `st.cmd` that names its own ACF with access security off.
        //
        // A non-zero `asInit` fails the build in C, and the two lines it then
        // writes are [`as_init_failed_message`]. Nothing here re-words the
        // REASON: C `asInitFile` reports an unreadable or unparseable ACF
        // itself, on stderr, and hands `asInitCommon` only a status
        // (`asLibRoutines.c:174-190`), which is why `as_init` returns an
        // outcome and not a message.
        let as_init = crate::server::iocsh::as_init(&acf, &err);
        if let Some(message) = as_init.message() {
            out(message);
        }
        if as_init.failed() {
            crate::runtime::log::errlog_printf(&as_init_failed_message(
                crate::runtime::log::errlog_console_paints(),
            ));
            // `iocBuild_2` returns -1, so `iocBuild` does, so `iocInit()`
            // does — and a non-zero `iocInit()` is REPORTED, not fatal:
            // C `softMain.cpp:239-243` prints one line and falls through to
            // the same tail the never-built arm takes. Measured against
            // R7.0.10.1-DEV with an unreadable ACF: interactive reaches the
            // prompt and exits 0 on EOF, `-S` stays alive and listens on
            // nothing, because `iocRun` — which starts RSRV — never ran.
            //
            // The line is softMain's, and softMain's tail already lives here
            // ([`run_uninitialized_tail`]); a return channel out of
            // `run_phased` would only move the same bytes further from the
            // moment C writes them, which is before the shell starts.
            // Straight to stderr as C's `std::cerr` is, so `ERL_ERROR`'s
            // escapes survive a non-terminal stream exactly as C's do.
            return Ok(BuildOutcome::AsInitFailed);
        }

        announce!(InitHookState::AfterScanInit);

        // Phase 2b.6: process PINI=YES records BEFORE the protocol
        // runner can accept client connections (H2 — match C's
        // iocBuild ordering: initialProcess() runs inside iocBuild,
        // before iocRun starts the CA server). Without this, a CA
        // client connecting in the first moments after IOC start
        // could `caget` a PINI record's UDF/default value instead of
        // its processed value. C guarantees this cannot happen.
        initial_process(&db);
        announce!(InitHookState::AfterInitialProcess);

        // The manager the script's first `create_*_set` started, if one ran
        // before `iocInit`; C has no save task until then.
        let autosave_manager = autosave_startup
            .as_ref()
            .and_then(|config| config.lock().unwrap().manager.clone());

        // C `dbInitServers()` (`iocInit.c:222`): each server binds here, so a
        // port it cannot have fails this build and no later `st.cmd` line
        // runs. Started by the runner at `iocRun`.
        let mut servers = InitializedServers::default();
        let args = ServerInitArgs {
            port: protocol.port,
            tcp_port: protocol.tcp_port,
        };
        for (name, init) in server_inits {
            servers.push(name, init(args).await?);
        }
        announce!(InitHookState::AfterCaServerInit);
        // C `iocBuild` ends here, and the IOC is quiescent — `iocBuilt` is
        // the state `iocRun` below is legal from.
        build.finish();

        Ok(BuildOutcome::Built(Box::new(BuiltIoc {
            db,
            autosave_manager,
            autosave_startup,
            after_init_hooks,
            servers,
            protocol,
        })))
    }
}

impl BuiltIoc {
    /// C `iocRun()` (`iocInit.c:250-277`) over the IOC this value owns.
    ///
    /// Consuming `self` is what keeps the transition exactly once: a
    /// `BuiltIoc` is produced only by [`IocBuild::perform_build`] and
    /// destroyed only here, so a second `iocRun` has no built IOC to run and
    /// the question never becomes a runtime check.
    async fn run(self) -> RunningIoc {
        let Self {
            db,
            autosave_manager,
            autosave_startup,
            after_init_hooks,
            servers,
            protocol,
        } = self;

        // `perform_build` left the IOC built, so this `iocRun` cannot refuse.
        run_built(&db).await;

        // H3: drain `after_init_hooks` HERE — a guaranteed drain
        // point inside `run`. These were previously moved into
        // `IocRunConfig.after_init_hooks` and silently dropped
        // unless the external protocol runner remembered to execute
        // the vector. `register_after_init` promises "run after
        // iocInit completes"; PINI is done and the database is
        // built, so this is the correct C `initHookAfterIocRunning`
        // equivalent point. The `IocRunConfig.after_init_hooks`
        // field is now always handed over EMPTY (kept for API
        // compatibility) so a runner cannot double-run them.
        for hook in after_init_hooks {
            hook();
        }

        // C `iocRun` starts the servers HERE — `if (iocBuildMode ==
        // buildServers) { dbRunServers(); initHookAnnounce(
        // initHookAfterCaServerRunning); }` (`iocInit.c:265-268`), which
        // reaches `rsrv_run` (`caservertask.c:766-771`) and RETURNS, leaving
        // the CA server threads listening while softMain goes on to its
        // interactive `iocsh`. The port had the runner awaited by
        // `run_to_completion` instead, so the servers could not exist until
        // the whole startup script had finished: measured, a `st.cmd` of
        // `iocInit` then `casr` printed nothing and `ss` showed no listening
        // socket where C shows one.
        //
        // Spawned rather than awaited, for the same reason `rsrv_run` returns:
        // this transition is a statement in the middle of a script, not the
        // tail of the process. `ProtocolServer` is what keeps that from being
        // a detached task.
        let ProtocolStart {
            bridge,
            port,
            tcp_port,
            acf,
            autosave_config,
            runner,
        } = protocol;
        let config = IocRunConfig {
            db,
            port,
            tcp_port,
            acf,
            autosave_config,
            autosave_manager,
            // Retained for the runners that build an `IocRunConfig` by hand
            // (`run_ca_ioc`, `run_pva_ioc`, `softioc-rs`): it is how THEY get
            // their own `casr`/`dbcaxr` onto the table. `IocApplication::run`
            // has already registered everything it owns on the process's one
            // command table, so it hands the field over EMPTY rather than
            // asking the runner to register the same names again.
            shell_commands: Vec::new(),
            // Drained above. Handed over empty so a protocol runner that still
            // inspects the field cannot double-run the hooks.
            after_init_hooks: Vec::new(),
            servers,
        };
        // C's `iocRun` does not return until every layer is up, because
        // `dbRunServers()` is a plain call: `rsrv_run` flips the control words
        // and returns (`caservertask.c:766-771`) over sockets `dbInitServers()`
        // bound one phase earlier. Spawning the runner alone does not
        // reproduce that — the next script line would race the runner's own
        // bind and its `casr` registration, and a measured `ss` of 1 was a race
        // that happened to win. So the counters are sampled BEFORE the spawn
        // and awaited after it: the serve entry of each protocol server
        // announces (see [`crate::server::db_server::announce_serving`]), and
        // this line is where C's ordering is restored — for every layer
        // `dbInitServers()` started, since CA alone up left a `pvxsr` on the
        // next line without QSRV's sources.
        let mark = crate::server::db_server::serving_mark(config.servers.names());
        let serve = runner(config);
        let mut server = ProtocolServer {
            handle: bridge.spawn(async move {
                let result = serve.await;
                // The task the first `create_*_set` started (save_restore.c:
                // 2335-2351), stopped and waited for as C's at-exit
                // save_restoreShutdown does (:771-775).
                let task = autosave_startup.and_then(|c| c.lock().unwrap().take_task());
                if let Some(task) = task {
                    task.abort();
                    task.await;
                }
                result
            }),
            finished: None,
            live: true,
        };
        server.await_serving(mark).await;

        RunningIoc { server }
    }
}

/// IOC Application with st.cmd-style startup support.
pub struct IocApplication {
    port: u16,
    /// Optional TCP listen port override. `None` means "share with UDP
    /// discovery port". Set via [`Self::tcp_port`] or the
    /// `EPICS_CAS_SERVER_PORT` env var (resolved at run time).
    tcp_port: Option<u16>,
    device_factories: HashMap<String, DeviceSupportFactory>,
    dynamic_device_factory: Option<DynamicDeviceSupportFactory>,
    record_factories: HashMap<String, super::RecordFactory>,
    subroutine_registry: HashMap<String, Arc<Subroutine>>,
    acf: Option<access_security::AccessSecurityConfig>,
    autosave_config: Option<(autosave::SaveSetConfig, autosave::SaveStrategy)>,
    autosave_startup: Option<Arc<Mutex<AutosaveStartupConfig>>>,
    /// Every iocsh command this application contributes, in registration
    /// order. One list because there is one command table: the two public
    /// `register_*` methods differ only in the name a caller reads, and a
    /// command that existed in one shell and not the other was the defect
    /// they encoded.
    commands: Vec<CommandDef>,
    startup_script: Option<String>,
    /// Command lines run on the startup shell BEFORE the startup script,
    /// in the order queued. C `softMain.cpp:192-198,216-222` builds the
    /// same list out of `-d` and `-x` while it is still reading argv, so
    /// the records they load are already in the database when the script's
    /// first line runs.
    startup_lines: Vec<String>,
    /// Simple PVs added via the declarative builder.
    inline_pvs: Vec<(String, crate::types::EpicsValue)>,
    /// Records added via the declarative builder (Phase 7).
    inline_records: Vec<(String, Box<dyn Record>)>,
    /// Callbacks invoked after iocInit completes (e.g., start pollers).
    after_init_hooks: Vec<Box<dyn FnOnce() + Send>>,
    /// Async external link-set installers (CA links via `epics-ca-rs`'s
    /// `calink`, PVA links via the bridge's `pvalink`). Fired at C
    /// `dbCaLinkInit` in [`Self::run`] — before `setup_cp_links`
    /// — so a Passive holder of an external CP link warms at iocInit.
    link_set_installers: Vec<LinkSetInstaller>,
    /// The link types those installers serve ([`Self::register_link_type`]),
    /// declared on the database the moment it exists.
    json_link_types: Vec<String>,
    /// Async `initHookAfterInitDatabase` consumers
    /// ([`Self::register_after_init_database`]).
    after_init_database_hooks: Vec<AfterInitDatabaseHook>,
    /// C softMain's own turn between the startup script and `iocInit`
    /// ([`Self::before_ioc_init`]). `None` is a custom `main`: the script's
    /// own `iocInit` is the only build, or `run` builds when there is no script.
    ioc_init_gate: Option<Box<dyn FnOnce() -> IocInitDecision + Send>>,
    /// [`Self::register_server_init`].
    server_inits: Vec<(&'static str, ServerInit)>,
}

impl IocApplication {
    pub fn new() -> Self {
        // No context-free built-in device support: every base builtin
        // (`Soft Timestamp`, `stdio`, `Db State`, `getenv`) needs the record's
        // INST_IO `INP`/`OUT`, which only the dynamic factory's
        // `DeviceSupportContext` carries — so all base builtins are dispatched
        // below, and this static map starts empty (users register their own
        // context-free device support into it via `register_device_support`).
        let device_factories: HashMap<String, DeviceSupportFactory> = HashMap::new();
        Self {
            // SERVER-side port: caservertask.c:492-499 honours
            // EPICS_CAS_SERVER_PORT > EPICS_CA_SERVER_PORT > 5064.
            port: cas_server_port(),
            tcp_port: None,
            device_factories,
            // The base built-in device support — all needing the runtime
            // context (INP/OUT). Pre-registered as the base of the
            // dynamic-factory chain so a user's
            // `register_dynamic_device_support` factory takes priority and
            // falls through to here.
            dynamic_device_factory: Some(Box::new(
                crate::server::builtin_devices::builtin_dynamic_factory,
            )),
            record_factories: HashMap::new(),
            subroutine_registry: HashMap::new(),
            acf: None,
            autosave_config: None,
            autosave_startup: None,
            commands: Vec::new(),
            startup_script: None,
            startup_lines: Vec::new(),
            inline_pvs: Vec::new(),
            inline_records: Vec::new(),
            after_init_hooks: Vec::new(),
            link_set_installers: Vec::new(),
            json_link_types: Vec::new(),
            after_init_database_hooks: Vec::new(),
            ioc_init_gate: None,
            server_inits: Vec::new(),
        }
    }

    /// Set the UDP discovery port (default: 5064).
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Set the TCP listen port independently from the UDP discovery
    /// port (epics-base PR #69, `EPICS_CAS_SERVER_PORT`). Multiple IOCs
    /// on one host can each bind a unique TCP port while sharing the
    /// canonical 5064 UDP search port. When unset, the IOC resolves it
    /// at run time from `EPICS_CAS_SERVER_PORT`; if that's also unset,
    /// the TCP listener inherits [`Self::port`].
    pub fn tcp_port(mut self, port: u16) -> Self {
        self.tcp_port = Some(port);
        self
    }

    /// Register a device support: its factory under `devsup.choice`, and
    /// `devsup` as a row of `record_type`'s device menu.
    pub fn register_device_support<F>(
        mut self,
        record_type: &str,
        devsup: &'static crate::server::record::DevSup,
        factory: F,
    ) -> Self
    where
        F: Fn() -> Box<dyn DeviceSupport> + Send + Sync + 'static,
    {
        crate::server::record::register_device_object_row(record_type, devsup);
        self.device_factories
            .insert(devsup.choice.to_string(), Box::new(factory));
        self
    }

    /// Register a dynamic device support factory.
    ///
    /// Called as a fallback when a record's DTYP doesn't match any
    /// statically registered factory. The closure receives the DTYP name
    /// and returns `Some(device_support)` if it can handle that DTYP.
    ///
    /// Multiple calls are chained: new factory is tried first, then existing.
    ///
    /// `devices` are the `device()` lines the factory serves, added to the
    /// device menus now: a `.db` may name only a menu choice.
    pub fn register_dynamic_device_support<F>(
        mut self,
        devices: &[(&str, &'static [crate::server::record::DevSup])],
        factory: F,
    ) -> Self
    where
        F: Fn(&DeviceSupportContext) -> Option<Box<dyn DeviceSupport>> + Send + Sync + 'static,
    {
        for (record_type, rows) in devices {
            crate::server::record::register_device_menu(record_type, rows);
        }
        if let Some(existing) = self.dynamic_device_factory.take() {
            self.dynamic_device_factory = Some(Box::new(move |ctx: &DeviceSupportContext| {
                factory(ctx).or_else(|| existing(ctx))
            }));
        } else {
            self.dynamic_device_factory = Some(Box::new(factory));
        }
        self
    }

    /// Register an iocsh command on this application.
    ///
    /// C has one command table and one `iocshRegister`, so a registered name
    /// is callable from `st.cmd` and from the `epics>` prompt alike; this
    /// method and [`Self::register_shell_command`] are the same registration
    /// and are kept apart only because callers spell both.
    pub fn register_startup_command(mut self, cmd: CommandDef) -> Self {
        self.commands.push(cmd);
        self
    }

    /// [`Self::register_startup_command`] under its other name. Registering a
    /// command twice, once through each, is the workaround the two shells used
    /// to need and now displaces the name with itself.
    pub fn register_shell_command(mut self, cmd: CommandDef) -> Self {
        self.commands.push(cmd);
        self
    }

    /// The commands this application registers, in registration order.
    ///
    /// This is the surface a startup script is executed against — a command
    /// missing here is a fatal unknown command in `st.cmd`, before `iocInit`.
    /// Exposed so a pre-configured IOC (e.g. `AdIoc`) can be checked against
    /// the script it promises to run without booting a server. `CommandDef` is
    /// `Clone`, so a caller may also install these on an [`iocsh::IocShell`] of
    /// its own to exercise a script.
    pub fn startup_commands(&self) -> &[CommandDef] {
        &self.commands
    }

    /// Register a callback to run after iocInit completes.
    ///
    /// Use this to start pollers and other periodic tasks that should
    /// not run during st.cmd execution or autosave restore.
    ///
    /// [`Self::run`] guarantees these fire — they are drained inside
    /// `run` at the `initHookAfterIocRunning` point (after PINI
    /// processing, before handoff to the protocol runner). They are
    /// NOT delegated to the protocol runner, so a custom runner does
    /// not need to remember to drain them.
    pub fn register_after_init(mut self, hook: impl FnOnce() + Send + 'static) -> Self {
        self.after_init_hooks.push(Box::new(hook));
        self
    }

    /// Add the link type `key` and the installer of its link set: C's
    /// `link(key, jlif)` line in the `.dbd` and the registrar that binds its
    /// support, which a C binary links together. The type is declared and
    /// bound before any startup line loads a `.db`, so a link of this type
    /// loads; one call for both means no binary can accept a link it has no
    /// set to service.
    ///
    /// The installer is invoked by [`Self::run`] at C `dbCaLinkInit`, just
    /// before `initHookAfterCaLinkInit` — BEFORE
    /// [`PvDatabase::setup_cp_links`] warms Passive CP holders. It
    /// registers its external [`crate::server::database::LinkSet`] on the
    /// live database and returns any iocsh commands it owns, which [`Self::run`]
    /// registers on the process's command table as it receives them.
    ///
    /// This is the seam that makes external record links resolve by
    /// construction: registering the link set inside the Phase-3 protocol
    /// runner is too late, because `setup_cp_links`'s `resolve_external_pv`
    /// warm has already run and found no matching link set, so a Passive
    /// holder of an external CP/CPP link never opens its monitor. A
    /// IOC runner wires `epics_ca_rs::calink::calink_link_set_install`
    /// here under `"ca"` so CA links resolve with no further setup.
    ///
    /// # Panics
    ///
    /// When `key` already has an installer: a type has one link set, and a
    /// head adding one its runner already installs would install two. In
    /// [`Self::run`] when this port implements no JSON link type `key`.
    pub fn register_link_type<F, Fut>(mut self, key: &str, installer: F) -> Self
    where
        F: FnOnce(Arc<PvDatabase>) -> Fut + Send + 'static,
        Fut: std::future::Future<Output = Vec<CommandDef>> + Send + 'static,
    {
        assert!(
            !self.json_link_types.iter().any(|k| k == key),
            "link type '{key}' already has its link set installer"
        );
        self.json_link_types.push(key.to_string());
        self.link_set_installers
            .push(Box::new(move |db| Box::pin(installer(db))));
        self
    }

    /// Register a server's `dbServer.init`, run by `iocInit` at C's
    /// `dbInitServers()` point; an `Err` fails `iocInit`. The runner takes
    /// what it returned from [`IocRunConfig::servers`] under `name`.
    ///
    /// # Panics
    ///
    /// When `name` is already registered.
    pub fn register_server_init<F, Fut, T>(mut self, name: &'static str, init: F) -> Self
    where
        F: FnOnce(ServerInitArgs) -> Fut + Send + 'static,
        Fut: std::future::Future<Output = CaResult<T>> + Send + 'static,
        T: Send + 'static,
    {
        assert!(
            !self.server_inits.iter().any(|(n, _)| *n == name),
            "server '{name}' already has its init"
        );
        self.server_inits.push((
            name,
            Box::new(move |args| {
                Box::pin(async move {
                    init(args)
                        .await
                        .map(|state| Box::new(state) as Box<dyn std::any::Any + Send>)
                })
            }),
        ));
        self
    }

    /// Register an async `initHookAfterInitDatabase` consumer, run inside
    /// `iocBuild` before `scanInit` and `initialProcess`: pvxs's
    /// `processGroups` is one (iochooks.cpp:355), so a group file that throws
    /// aborts before any scan or PINI.
    pub fn register_after_init_database<F, Fut>(mut self, hook: F) -> Self
    where
        F: FnOnce(Arc<PvDatabase>, access_security::AcfCell) -> Fut + Send + 'static,
        Fut: std::future::Future<Output = ()> + Send + 'static,
    {
        self.after_init_database_hooks
            .push(Box::new(move |db, acf| Box::pin(hook(db, acf))));
        self
    }

    /// C softMain's own turn between the startup script and `iocInit`
    /// (`softMain.cpp:236-245`).
    ///
    /// The one instant at which a caller can both observe that the script
    /// has finished and decide whether the IOC initialises at all — C has
    /// it because `iocsh(st.cmd)` and `iocInit()` are two statements in its
    /// `main`, and this port had collapsed them into one call. Unset is C's
    /// custom `main` (`iocsh(st.cmd); iocsh(NULL)`): a startup script that
    /// never says `iocInit` leaves the IOC uninitialised at the prompt, and
    /// an application with no script is built by `run`.
    ///
    /// The gate runs on the lifecycle's own task, after the startup shell
    /// has been joined, so anything it prints lands between the script's
    /// last line and the build's first.
    pub fn before_ioc_init(
        mut self,
        gate: impl FnOnce() -> IocInitDecision + Send + 'static,
    ) -> Self {
        self.ioc_init_gate = Some(Box::new(gate));
        self
    }

    /// Set the startup script path (executed before iocInit).
    pub fn startup_script(mut self, path: &str) -> Self {
        self.startup_script = Some(path.to_string());
        self
    }

    /// Queue one iocsh command line to run before the startup script.
    ///
    /// The pre-`iocInit` half of C's argv handling: `-d file.db` IS
    /// `dbLoadRecords("file.db", "macros")` called before `iocsh(st.cmd)`,
    /// and `-a`/`-x` are the same shape. Expressing those flags as lines on
    /// the startup shell keeps ONE loader — the command the script would
    /// have called itself — instead of a second implementation reachable
    /// only from the command line. A line that fails ends the boot with
    /// [`IocRunFailure::StartupCommand`], C's `errIf(..., "")`.
    pub fn startup_line(mut self, line: &str) -> Self {
        self.startup_lines.push(line.to_string());
        self
    }

    /// Register a record type factory (e.g., "motor", "asyn").
    /// Avoids the global registry — factories are passed to IocBuilder.
    pub fn register_record_type<F>(mut self, type_name: &str, factory: F) -> Self
    where
        F: Fn() -> Box<dyn Record> + Send + Sync + 'static,
    {
        let factory: super::RecordFactory = Box::new(factory);
        super::db_loader::snapshot_declared_fields(type_name, &factory);
        self.record_factories.insert(type_name.to_string(), factory);
        self
    }

    /// Register a subroutine function by name (for sub/aSub records).
    /// The closure returns the C `long` status (`Ok(0)` normal, `Ok(n<0)`
    /// raises `SOFT_ALARM`/`BRSV`; `aSub` publishes it as `VAL`).
    pub fn register_subroutine<F>(mut self, name: &str, func: F) -> Self
    where
        F: Fn(&mut dyn Record) -> CaResult<i64> + Send + Sync + 'static,
    {
        self.subroutine_registry.insert(
            name.to_string(),
            Arc::new(Subroutine::Plain(Box::new(func))),
        );
        self
    }

    /// [`Self::register_subroutine`] for a routine that also needs its
    /// record's name, `dpvt` or database ([`Subroutine::Context`]).
    pub fn register_context_subroutine(mut self, name: &str, func: ContextSubroutineFn) -> Self {
        self.subroutine_registry
            .insert(name.to_string(), Arc::new(Subroutine::Context(func)));
        self
    }

    /// Configure autosave with one save set and its save method.
    pub fn autosave(
        mut self,
        config: autosave::SaveSetConfig,
        method: autosave::SaveStrategy,
    ) -> Self {
        self.autosave_config = Some((config, method));
        self
    }

    /// Configure autosave startup (C-compatible iocsh commands).
    ///
    /// When set, autosave iocsh commands (`set_requestfile_path`, `create_monitor_set`,
    /// `set_pass0_restoreFile`, etc.) are registered as startup commands and populate
    /// the config during st.cmd execution. After iocInit, the config is consumed to
    /// build an `AutosaveManager`.
    pub fn autosave_startup(mut self, config: Arc<Mutex<AutosaveStartupConfig>>) -> Self {
        // `$(AUTOSAVE)` as C's envPaths sets it, for
        // `$(AUTOSAVE)/db/save_restoreStatus.db`.
        crate::runtime::env::set_default_path(
            "AUTOSAVE",
            concat!(env!("CARGO_MANIFEST_DIR"), "/autosave"),
        );
        // `$(CALC)`, for the calc records' `*_settings.req` in `$(CALC)/db`.
        crate::runtime::env::set_default_path("CALC", concat!(env!("CARGO_MANIFEST_DIR"), "/calc"));
        self.autosave_startup = Some(config);
        self
    }

    /// Configure access security.
    pub fn acf(mut self, config: access_security::AccessSecurityConfig) -> Self {
        self.acf = Some(config);
        self
    }

    // --- Declarative IOC Builder (Phase 7) ---

    /// Add a typed record to the IOC (no .db file needed).
    ///
    /// ```rust,ignore
    /// IocApplication::new()
    ///     .record("sensor:temp", AiRecord::new(0.0))
    ///     .record("heater:sp", AoRecord::new(0.0))
    ///     .run(my_runner).await
    /// ```
    pub fn record(mut self, name: &str, record: impl Record) -> Self {
        self.inline_records
            .push((name.to_string(), Box::new(record)));
        self
    }

    /// Add a pre-boxed record.
    pub fn record_boxed(mut self, name: &str, record: Box<dyn Record>) -> Self {
        self.inline_records.push((name.to_string(), record));
        self
    }

    /// Add a simple PV, created before the startup script runs.
    ///
    /// Same instant as [`Self::record`], and before it, which is the order
    /// `IocBuilder::build` uses for the same two sources.
    pub fn pv(mut self, name: &str, initial: crate::types::EpicsValue) -> Self {
        self.inline_pvs.push((name.to_string(), initial));
        self
    }

    /// Run the full IOC lifecycle: startup script -> iocInit -> the tail.
    ///
    /// The `protocol_runner` closure receives an [`IocRunConfig`] containing the
    /// fully initialized database, port, and configuration. It is responsible for
    /// starting the protocol-specific server (e.g., CA, PVA) and the interactive
    /// shell. It is SPAWNED by `BuiltIoc::run`, at C's `iocRun` ->
    /// `dbRunServers()` point (`iocInit.c:265-267`), so the servers are up
    /// while the rest of the startup script runs; this function then waits for
    /// it the way softMain waits on its `iocsh(NULL)`.
    /// Every way out of the IOC — the runner finishing, a signal, a failure
    /// during load or `iocInit` — runs the process's exit callbacks before
    /// returning. That is C's arrangement: `softIoc`'s `main` reaches all six
    /// of its exits through `epicsExit(status)` (`softMain.cpp:167`, `:172`,
    /// `:251`, `:265`, `:270`, `:277`), and `epicsExit` runs the list first
    /// (`epicsExit.c:172-177`).
    ///
    /// A SIGTERM or SIGINT does not return: once the callbacks have run, the
    /// process is killed by that signal, as a C IOC with no handler is.
    ///
    /// This wrapper is where that becomes structural rather than remembered:
    /// the whole lifecycle sits in `Self::run_to_completion`, whose every
    /// `?` returns *here*, so no exit path can be added later that skips the
    /// teardown. Ports registered themselves at creation
    /// (`asyn`'s `create_port_runtime`, C's `registerPort` at
    /// `asynManager.c:2097`), so this is where a driver's `Drop` finally runs
    /// and its device gets the goodbye it is owed.
    ///
    /// [`crate::runtime::exit::call_at_exits`] runs the list once per process,
    /// so a second `run` — a test that boots two IOCs — tears down what the
    /// first left, not what the first already tore down.
    pub async fn run<F, Fut>(self, protocol_runner: F) -> CaResult<()>
    where
        F: FnOnce(IocRunConfig) -> Fut + Send + 'static,
        Fut: std::future::Future<Output = CaResult<()>> + Send + 'static,
    {
        self.run_outcome(protocol_runner).await.map(|_| ())
    }

    /// [`Self::run`], reporting whether the protocol runner was ever called.
    pub async fn run_outcome<F, Fut>(self, protocol_runner: F) -> CaResult<RunOutcome>
    where
        F: FnOnce(IocRunConfig) -> Fut + Send + 'static,
        Fut: std::future::Future<Output = CaResult<()>> + Send + 'static,
    {
        self.run_with_exits(protocol_runner)
            .await
            .map_err(CaError::from)
    }

    /// [`Self::run`], reporting which phase of the lifecycle failed.
    ///
    /// For a caller that has to reproduce C softIoc's exit statuses, where
    /// the same `CaError` means 2 before the protocol runner starts and 1
    /// after it (`softMain.cpp:247-279`). Everything else wants [`Self::run`],
    /// which throws the phase away.
    pub async fn run_phased<F, Fut>(self, protocol_runner: F) -> Result<(), IocRunFailure>
    where
        F: FnOnce(IocRunConfig) -> Fut + Send + 'static,
        Fut: std::future::Future<Output = CaResult<()>> + Send + 'static,
    {
        self.run_with_exits(protocol_runner).await.map(|_| ())
    }

    /// The one entry to [`Self::run_to_completion`], so every public `run`
    /// runs the exit callbacks.
    async fn run_with_exits<F, Fut>(self, protocol_runner: F) -> Result<RunOutcome, IocRunFailure>
    where
        F: FnOnce(IocRunConfig) -> Fut + Send + 'static,
        Fut: std::future::Future<Output = CaResult<()>> + Send + 'static,
    {
        crate::runtime::task::adopt_current_runtime();
        super::shutdown_signal::set_application_owns();
        let result = self.run_to_completion(protocol_runner).await;
        crate::runtime::exit::call_at_exits();
        super::shutdown_signal::exit_if_received();
        result
    }

    /// The IOC lifecycle itself. Private, and reached only through
    /// [`Self::run_with_exits`], because leaving it by any route has to run
    /// the exit callbacks and only that wrapper does.
    async fn run_to_completion<F, Fut>(
        self,
        protocol_runner: F,
    ) -> Result<RunOutcome, IocRunFailure>
    where
        F: FnOnce(IocRunConfig) -> Fut + Send + 'static,
        Fut: std::future::Future<Output = CaResult<()>> + Send + 'static,
    {
        let db = Arc::new(PvDatabase::new());
        // Everything from here to the `db.ioc_init()` barrier below is C's
        // pre-`iocInit` load: inline records, then the `st.cmd`'s
        // `dbLoadRecords` calls. Records created in it queue their link-status
        // classification instead of running it against a database that is still
        // being built (R18-92).
        db.begin_load()
            .expect("a database created a line ago has not run iocInit");

        let bridge = crate::runtime::task::BlockingBridge::capture();

        let Self {
            port,
            tcp_port,
            device_factories,
            dynamic_device_factory,
            record_factories,
            mut subroutine_registry,
            acf,
            autosave_config,
            autosave_startup,
            mut commands,
            startup_script,
            startup_lines,
            inline_pvs,
            inline_records,
            after_init_hooks,
            link_set_installers,
            json_link_types,
            after_init_database_hooks,
            ioc_init_gate,
            server_inits,
        } = self;
        for key in &json_link_types {
            db.declare_link_type(key);
        }

        // The IOC's single live policy cell, created BEFORE the startup
        // script runs so the script's `asInit` and the servers built
        // afterwards observe the same store (upstream issue #667
        // adjacent: a config that only lands in a shell-local copy is
        // access security silently OFF).
        // The cell only. Its two watcher tasks — the ASG `INP*` monitor and
        // the HAG DNS refresher — run on the callback pool, so starting them
        // here would build that pool before the script's first line and take
        // `callbackSetQueueSize` away from it; `perform_build` starts them at
        // C's `callbackInit` point instead. Nothing serves this database
        // until Phase 3, so the unwatched window is not one in which a
        // client can hold a stale grant.
        let acf = access_security::new_acf_cell(acf);

        // Register record type factories with global registry so dbLoadRecords
        // (called from st.cmd) can find them. This bridges the injected factories
        // to the global registry that the iocsh dbLoadRecords command uses.
        for (name, factory) in record_factories {
            super::db_loader::register_record_type(&name, factory);
        }

        // Register autosave startup commands if configured
        if let Some(ref config) = autosave_startup {
            let cmds = AutosaveStartupConfig::register_startup_commands(config.clone());
            commands.extend(cmds);
            // C asSupport.dbd's `configMenuRegistrar`.
            for (name, func) in crate::server::autosave::config_menu::subroutines(config.clone()) {
                subroutine_registry
                    .entry(name.to_string())
                    .or_insert_with(|| Arc::new(Subroutine::Context(func)));
            }
        }

        // C has every command registered before it reads a script: the
        // registrars run from `registerRecordDeviceDriver` and `dbLoadDatabase`,
        // which softMain calls before `iocsh(st.cmd)` (`softMain.cpp:181-232`).
        // One registration onto the one table, so each of the shells below —
        // the script's, the `afterIocRunning` queue's, the interactive tail's,
        // the protocol runner's — has the name without being handed it.
        for cmd in commands {
            iocsh::register_command(cmd);
        }

        // C's device support table and its function registry are
        // process-global and complete BEFORE the first `dbLoadRecords`: the
        // registrars run from `registerRecordDeviceDriver`, which softMain
        // calls before `iocsh(st.cmd)` (`softMain.cpp:181-232`). Install both
        // on the database at that same point, because the record creation sink
        // now consults them at C's positions — the dset bound ahead of
        // `init_record(0)`, the SNAM resolved inside pass 1. Applying them
        // afterwards, in a second whole-database pass, is exactly what let
        // every record type's `init_record` run the tail C's early returns
        // skip.
        db.install_device_support_resolver(device_support_resolver(
            device_factories,
            dynamic_device_factory,
        ));
        db.install_subroutine_registry(subroutine_registry).await;

        // Add inline PVs then inline records — `IocBuilder::build`'s order
        // for the same two sources, and before the script for C's reason:
        // everything argv named is in the database when the script starts.
        for (name, value) in inline_pvs {
            db.add_pv(&name, value).await?;
        }
        for (name, record) in inline_records {
            db.add_record(&name, record).await?;
        }

        // Arm the build BEFORE the script runs. That is what gives `iocInit`
        // one meaning: the script's own `iocInit` line performs this build, so
        // the line after it — a `dbpf`, a `dbl`, an `asSetFilename` — runs
        // against an IOC that has device support, scan threads and PINI behind
        // it. When the script never spells `iocInit`, only the gate's
        // `IocInitDecision::run` — or having no script at all — builds.
        let (cannot_proceed_tx, mut cannot_proceed_rx) = crate::runtime::sync::oneshot::channel();
        arm_build(
            IocBuild {
                db: db.clone(),
                acf: acf.clone(),
                autosave_config: autosave_config.clone(),
                autosave_startup,
                link_set_installers,
                after_init_database_hooks,
                after_init_hooks,
                server_inits,
                // C parity (`caservertask.c:492-500`): the server-side env var
                // EPICS_CAS_SERVER_PORT sets `ca_server_port`, and `ca_udp_port =
                // ca_server_port` — so UDP and TCP bind the same value unless the
                // Rust-extension `.tcp_port(...)` explicitly splits them. The
                // `port` field already incorporates the CAS / CA / default
                // precedence via `cas_server_port()` (see `IocApplication::new`);
                // `tcp_port` stays `Some(...)` only when the caller explicitly
                // invoked `.tcp_port(...)`.
                protocol: ProtocolStart {
                    bridge: bridge.clone(),
                    port,
                    tcp_port,
                    acf: acf.clone(),
                    autosave_config,
                    runner: Box::new(move |config| Box::pin(protocol_runner(config))),
                },
            },
            cannot_proceed_tx,
        );
        // Ahead of `_armed`, so it closes after the runner is gone.
        let _prompt = iocsh::SoftMainPromptSpan::open().map_err(|e| {
            CaError::InvalidValue(format!("could not start the _main_ thread: {e}"))
        })?;
        // From here the static can hold a running IOC, and a running IOC owns
        // a spawned protocol runner. Nothing may return past this line without
        // that value being dropped.
        let _armed = ArmedLifecycle;

        // Phases 1 and 2: softMain from `iocsh(st.cmd)` to the return of its
        // own `iocInit()` (`softMain.cpp:231-245`), as one job on `_main_`.
        // One job because C runs those statements in sequence on one thread:
        // the protocol runner that an `iocInit` starts queues its
        // `iocsh(NULL)` behind this job, so the prompt cannot open before the
        // script, the gate's `iocInit()` and the `afterIocRunning` lines that
        // `iocInit` runs have all returned. On a thread, not this task,
        // because iocsh commands `block_on`, which panics inside the runtime.
        let soft_main = {
            let (db, bridge, acf) = (db.clone(), bridge.clone(), acf.clone());
            crate::runtime::task::run_on_main_thread(move || {
                soft_main_to_ioc_init(
                    db,
                    bridge,
                    acf,
                    &startup_lines,
                    startup_script.as_deref(),
                    ioc_init_gate,
                )
            })
            .map_err(|e| CaError::InvalidValue(format!("could not start the _main_ thread: {e}")))?
        };
        // A parked shell never answers; its error is in the lifecycle.
        let end = tokio::select! {
            end = soft_main => {
                end.map_err(|_| CaError::InvalidValue("startup thread dropped".into()))?
            }
            () = cannot_proceed(&mut cannot_proceed_rx) => match take_lifecycle() {
                Some(IocLifecycle::Failed(e)) => return Err(e.into()),
                _ => unreachable!("a shell signals only after putting its build error"),
            },
        };
        // Held as a live local across everything below: the runner is already
        // serving, and a `?` from here on must stop it. `ProtocolServer`'s
        // `Drop` is what makes that true of a return this function does not
        // yet have.
        let mut server = match end {
            SoftMainEnd::Running(running) => running.server,
            SoftMainEnd::NotRunning { interactive } => {
                let ended =
                    run_uninitialized_tail(db, bridge, acf, interactive, cannot_proceed_rx).await;
                // An `iocInit` typed at the prompt started a runner, which
                // queues a prompt of its own; stopped and joined here, it can
                // queue none after `_prompt` closes.
                let outcome = match take_lifecycle() {
                    Some(IocLifecycle::Running(running)) => {
                        running.server.shut_down().await;
                        RunOutcome::Served
                    }
                    _ => RunOutcome::NeverInitialised,
                };
                return ended.map(|()| outcome);
            }
            SoftMainEnd::Failed(e) => return Err(e),
        };

        // Phase 3: what softMain does once `iocInit()` has returned — wait for
        // the process to be told to stop. The servers have been running since
        // the `iocInit` line (see `BuiltIoc::run`); what is left here is the
        // runner's own tail, which for `run_ca_ioc` and `run_pva_ioc` is the
        // interactive `iocsh(NULL)` of `softMain.cpp:250`.
        //
        // Race it against SIGTERM/SIGINT so a `kill` stops the servers and
        // reaches the exit callbacks; `run_with_exits` then re-raises the signal so
        // the process ends killed by it, as a C IOC does.
        use super::shutdown_signal::{ShutdownSignal, recv};
        let sigterm = recv(ShutdownSignal::Terminate);
        let ctrl_c = recv(ShutdownSignal::Interrupt);

        let outcome = tokio::select! {
            biased;
            // Runner takes priority: if it completes naturally
            // before any signal arrives, propagate its result. This is the
            // one arm that is past C's `try` block, so it is the one arm
            // whose failure is not the catch block's.
            res = server.wait() => Some(res),
            _ = ctrl_c => {
                tracing::debug!(target: "epics_base_rs::ioc_app", "SIGINT received, shutting down IOC");
                None
            }
            _ = sigterm => {
                tracing::debug!(target: "epics_base_rs::ioc_app", "SIGTERM received, shutting down IOC");
                None
            }
        };
        match outcome {
            Some(res) => res.map(|()| RunOutcome::Served),
            // The signal arms dropped `ProtocolServer::wait` without taking the
            // outcome, so the task is still this value's to stop. Awaiting the
            // abort — rather than letting `Drop` fire it — is what keeps the
            // process's exit callbacks, which `run_with_exits` runs the moment this
            // returns, from racing a server that is still on a socket.
            None => {
                server.shut_down().await;
                Ok(RunOutcome::Served)
            }
        }
    }
}

/// The process-wide device support table, seen the way C's `dbDTYPtoDevSup`
/// sees it: a DTYP plus the record's links in, a dset (or nothing) out.
///
/// Held by [`PvDatabase`] rather than by the two builders because C's table is
/// global and filled by registrars BEFORE any record exists, while the port's
/// factories used to reach the records only after the whole database had been
/// built — which is what put dset resolution after `init_record`.
pub type DeviceSupportResolver =
    Arc<dyn Fn(&DeviceSupportContext) -> Option<Box<dyn DeviceSupport>> + Send + Sync>;

/// Fold the two registration shapes a builder collects — the DTYP-keyed
/// context-free factories and the single dynamic factory — into the one
/// lookup [`PvDatabase`] holds. DTYP-keyed first, dynamic as the fallback:
/// the priority `attach_device_support` had. Both are asked for the choice
/// that serves the record's DTYP, so the init bind and a device-link put
/// pass the field as stored and an empty one finds row 0
/// (`dbDTYPtoDevSup`, `dbAccess.c:1052-1054`).
pub(crate) fn device_support_resolver(
    factories: HashMap<String, DeviceSupportFactory>,
    dynamic_factory: Option<DynamicDeviceSupportFactory>,
) -> DeviceSupportResolver {
    Arc::new(move |ctx: &DeviceSupportContext| {
        let ctx = &DeviceSupportContext {
            dtyp: crate::server::record::served_choice(ctx.record_type, ctx.dtyp),
            ..*ctx
        };
        if let Some(factory) = factories.get(ctx.dtyp) {
            Some(factory())
        } else if let Some(dyn_factory) = dynamic_factory.as_ref() {
            dyn_factory(ctx)
        } else {
            None
        }
    })
}

/// C `iocInit.c::doInitRecord0`'s `precord->dset = pdevSup ? pdevSup->pdset :
/// NULL` (`:530-533`), and the refusal every `<rec>Record.c init_record` makes
/// when that comes back NULL, for one record. Returns whether a device
/// attached.
///
/// **The single owner**, for the reason [`wire_subroutine`] is one:
/// `IocBuilder` wires its records as it installs them and `IocApplication`
/// wires them from the database afterwards, and the two had already diverged —
/// the builder route reported a missing DTYP not at all, so an IOC built
/// through it booted in silence holding records that can never process. A DTYP
/// nobody registered is the same broken record on both.
///
/// Called by [`PvDatabase::add_record`] — the creation sink — BEFORE the
/// record's init passes, which is the whole point: C binds the dset first and
/// every record type's `init_record` opens by testing it. It binds only; the
/// driver's own `init_record` half runs from inside the passes
/// ([`crate::server::device_support::init_device_support`]).
pub(crate) fn attach_device_support(
    instance: &mut record::RecordInstance,
    name: &str,
    resolve: Option<&DeviceSupportResolver>,
) -> bool {
    let dtyp = instance.common.dtyp.as_str().to_string();
    if instance
        .common
        .dtyp
        .bind(instance.record.record_type())
        .is_some()
    {
        // A soft channel needs no dset. Its `"Async Soft Channel"` variant
        // still owns an `add_record`, but that is C's `doResolveLinks` moment,
        // which sits BETWEEN the two init passes — so the init owner runs it,
        // not this one.
        return false;
    }
    // A device address is text to its support; a name's bytes reach no
    // dset through this context.
    let (inp, out) = (
        instance.common.text.inp.as_str_lossy(),
        instance.common.text.out.as_str_lossy(),
    );
    let ctx = DeviceSupportContext {
        record_type: instance.record.record_type(),
        dtyp: &dtyp,
        inp: &inp,
        out: &out,
    };
    let dev_opt = resolve.and_then(|resolve| resolve(&ctx));
    let Some(dev) = dev_opt else {
        // C's per-record line, the one a site greps for by `recGblRecordError`
        // and the one that carries the status. Silent for a record type that
        // needs no device support — the table is the gate.
        crate::server::recgbl::rec_gbl_no_device_support(instance.record.record_type(), name);
        return false;
    };
    // The BIND half only (set_record_info → apply_record_info → attach). The
    // driver's `init()` is C's `pdset->common.init_record`, which runs from
    // inside `init_record` — after the dset test this line's outcome answers.
    crate::server::device_support::attach_device_to_record(instance, dev);
    true
}

/// C `subRecord.c`/`aSubRecord.c` `init_record`'s name resolution
/// (`subRecord.c:107-130`, `aSubRecord.c:139-160`), for one record.
///
/// **The single owner**, for the reason [`setup_io_intr`] is one: `IocBuilder`
/// wires its records as it installs them and `IocApplication` wires them from
/// the database afterwards, and while each spelt this out for itself a
/// diagnostic added to one route was missing from the other. A `sub` record
/// whose SNAM names nothing is exactly the same broken record on both.
///
/// Both misses are `fprintf(stderr, "%s.SNAM " ERL_ERROR " function '%s' not
/// found\n", ...)` in C — stderr, not the errlog, which is why this does not
/// call [`rec_gbl_record_error`]. Whose stderr differs: aSubRecord.c includes
/// `epicsStdio.h` (the building thread's, `err`), subRecord.c does not (the
/// console). The INAM half was
/// worded `iocInit: <name>.INAM function ... not found` here and the SNAM half
/// was not written at all, so an IOC that booted with an unresolved SNAM said
/// nothing and then processed the record as a no-op.
///
/// Returns whether C's `init_record` REACHED ITS TAIL — `false` is C's `return
/// S_db_BadSub` (either miss) and C's `prec->pact = TRUE; return 0` (an empty
/// `sub` SNAM), both of which skip everything below them. The init owner
/// ([`record::RecordInstance::run_init_pass1`]) calls this from inside pass 1
/// and honours the answer, so the tail is unreachable by construction rather
/// than by a per-record-type opt-out.
///
/// [`rec_gbl_record_error`]: crate::server::recgbl::rec_gbl_record_error
pub(crate) fn wire_subroutine(
    instance: &mut record::RecordInstance,
    name: &str,
    registry: &HashMap<String, Arc<Subroutine>>,
    err: &dyn Fn(&str),
) -> bool {
    // Both `sub` and `aSub` resolve their subroutine from SNAM via the
    // function registry at init (C `registryFunctionFind`).
    let rt = instance.record.record_type();
    if rt != "sub" && rt != "aSub" {
        return true;
    }
    let erl = crate::runtime::log::ERL_ERROR;
    // aSubRecord.c includes epicsStdio.h, so its misses go to the building
    // thread's stderr; subRecord.c does not, so its go to the console.
    let miss = |line: String| {
        if rt == "aSub" {
            err(&line)
        } else {
            crate::stderr_println!("{line}")
        }
    };
    // INAM: invoke the init routine exactly once at init, before SNAM
    // resolution (C `init_record`: `registryFunctionFind(inam)` then
    // `(*psubroutine)(prec)`, return value discarded).
    //
    // A name that does not RESOLVE is C's `return S_db_BadSub`
    // (`subRecord.c:110-114`, `aSubRecord.c:141-146`) — an early return, so
    // everything below is skipped and the record keeps a null `sadr` however
    // good its SNAM is. The routine's own status is discarded, so a routine
    // that ran and failed is not an early return.
    if let Some(crate::types::EpicsValue::String(inam_field)) = instance.record.get_field("INAM") {
        let inam = inam_field.as_str_lossy();
        if !inam.is_empty() {
            let Some(init_fn) = registry.get(inam.as_ref()) else {
                miss(format!("{name}.INAM {erl} function '{inam}' not found"));
                return false;
            };
            // `subRecord.c:116`, `aSubRecord.c:143`: the status is dropped
            // and nothing is printed, whatever the routine returned.
            let init_fn = init_fn.clone();
            let _ = instance.call_subroutine(&init_fn);
        }
    }
    // C resolves SNAM at init only for a record that will USE the resolution:
    // `subRecord.c:123` always, `aSubRecord.c:151-158` only under `LFLG ==
    // IGNORE`, because an `LFLG == READ` aSub reads its name from SUBL every
    // cycle and resolves it there (`apply_asub_dynamic_sub`). That rule
    // already had an owner — the record's own `is_subroutine_name_field`,
    // which the put path gates on — so this asks it instead of re-deriving
    // "sub or aSub" and reporting a miss C never went looking for.
    if instance.record.is_subroutine_name_field("SNAM")
        && let Some(crate::types::EpicsValue::String(snam_field)) =
            instance.record.get_field("SNAM")
    {
        let snam = snam_field.as_str_lossy();
        if snam.is_empty() {
            // C `subRecord.c:118-122` — `epicsPrintf`, which is `errlogPrintf`
            // (`errlog.h:90`), then `prec->pact = TRUE` and `return 0`. Both
            // halves are this line's, because both are inside C's
            // `init_record`: an INAM that failed above returned before them,
            // so a record whose INAM missed is NOT parked however empty its
            // SNAM is (softIoc-measured: `PACT: 0`). `aSubRecord.c:152` tests
            // `snam[0] != 0` and neither reports nor returns, so it falls
            // through to the tail below.
            instance.subroutine = None;
            if rt == "sub" {
                crate::runtime::log::errlog_vprintf(format_args!("{name}.SNAM is empty\n"));
                instance.enter_pact();
                return false;
            }
        } else {
            // C `init_record`'s `prec->sadr = registryFunctionFind(...)`,
            // assigned whatever the lookup returned, and `return S_db_BadSub`
            // when that is NULL (`subRecord.c:125-129`, `aSubRecord.c:155-158`)
            // — the second early return past the tail.
            instance.subroutine = registry.get(snam.as_ref()).cloned();
            if instance.subroutine.is_none() {
                miss(format!("{name}.SNAM {erl} function '{snam}' not found"));
                return false;
            }
        }
    }
    // C's init tail: the lines BELOW every early return above, reached only by
    // a record whose INAM and SNAM both resolved. That placement is the whole
    // point — an unresolved name means C never seeds, and `dbpr REC 4` on
    // `record(sub,"X"){field(SNAM,"noSuchSub") field(VAL,"5")}` reads back
    // `MLST: 0 ALST: 0 LALM: 0` on softIoc R7.0.10 while the port read 5.
    // It lives here rather than in `SubRecord::init_record` / the generic
    // `seed_deadband_tracking` because both of those run before this function,
    // where the resolution's outcome is not yet known.
    match rt {
        // `subRecord.c:130-132`: `prec->mlst = prec->alst = prec->lalm =
        // prec->val`, so the first `monitor()` posts nothing for a value that
        // has not moved since init.
        "sub" => {
            if let Some(val) = instance.record.get_field("VAL") {
                for field in ["MLST", "ALST", "LALM"] {
                    let _ = instance.record.put_field(field, val.clone());
                }
            }
        }
        // `aSubRecord.c:163`: `prec->oval = prec->val`, so the first
        // `monitor()` posts VAL only if it moved since init.
        //
        // `aSubRecord.c:162`: `strcpy(prec->onam, prec->snam)`. That seed is
        // what gives `fetch_values`' `strcmp(prec->snam, prec->onam)` (`:261`)
        // its meaning — "the SUBL link delivered a name different from the one
        // this record booted with", not "different from the empty string".
        // Without it an `LFLG=READ` aSub whose SUBL is a constant re-resolved
        // its own boot-time SNAM on the first cycle and bound the subroutine C
        // deliberately leaves NULL.
        _ => {
            if let Some(snam_field) = instance.record.get_field("SNAM") {
                let _ = instance.record.put_field("ONAM", snam_field);
            }
            if let Some(val) = instance.record.get_field("VAL") {
                let _ = instance.record.put_field("OVAL", val);
            }
        }
    }
    true
}

/// C `scanAdd`'s `menuScanI_O_Intr` failure exit (`dbScan.c:272-293`): a record
/// whose device support cannot supply an interrupt source is reported with
/// `recGblRecordError` and **demoted to `menuScanPassive`** — it never joins the
/// I/O Intr scan list, and `caget REC.SCAN` reads back `Passive`.
///
/// The demotion is a SCAN transition like any other, so it goes through
/// `RecordInstance::set_scan` — the single owner, which drives the C
/// `scanDelete` → `get_ioint_info(1)` hook and hands back the delta for
/// `update_scan_index`, so the record also leaves the `IoIntr` scan bucket that
/// `scanpiol` and `dbla` report from.
///
/// `message` is C's `pmessage` verbatim, trailing space included (`None` for
/// a hook that declined, which C demotes without a line), and the
/// report goes through [`rec_gbl_record_error`] rather than being spelt out
/// here. Both matter to a site: C's line is `recGblRecordError: <message>
/// <errSym> PV: <name>` and it goes to the *errlog*, so an operator grepping
/// `recGblRecordError` or reading the IOC log server sees a demoted record.
/// The port used to print its own sentence straight to `stderr`, which
/// reaches neither. C names no record's new SCAN and neither does this — the
/// demotion is `scanAdd`'s documented behaviour, not news.
///
/// [`rec_gbl_record_error`]: crate::server::recgbl::rec_gbl_record_error
async fn demote_io_intr_to_passive(db: &PvDatabase, name: &[u8], message: Option<&str>) {
    let Some(rec_arc) = db.get_record(name) else {
        return;
    };
    let result = rec_arc.write().demote_io_intr_scan();
    if matches!(result, record::CommonFieldPutResult::NoChange) {
        return;
    }
    if let record::CommonFieldPutResult::ScanChanged {
        old_scan,
        new_scan,
        phas,
    } = result
    {
        db.update_scan_index(name, old_scan, new_scan, phas, phas);
    }
    // C passes `-1`, for which `errSymLookup` is skipped and the slot is
    // empty (`recGbl.c:65-70`) — hence the doubled space in C's own output.
    if let Some(message) = message {
        crate::server::recgbl::rec_gbl_record_error("", &String::from_utf8_lossy(name), message);
    }
}

/// Set up I/O Intr scanning for records with SCAN="I/O Intr".
///
/// The single owner of that wiring, reached through [`scan_init`] by every
/// build path, so the C `scanAdd` failure paths cannot be present on one
/// startup route and absent on another.
pub(crate) async fn setup_io_intr(db: Arc<PvDatabase>) -> usize {
    db.scan_control().build_lists();
    // `buildScanLists` order (`dbScan.c:1054-1076`), so the refusals print in C's.
    let all_names = db.iterate_record_names().await;
    let io_intr_recs: Vec<(crate::types::RecordName, Arc<record::RecordCell>)> = {
        let mut recs = Vec::new();
        for name in &all_names {
            if let Some(arc) = db.get_record(name) {
                recs.push((name.clone(), arc));
            }
        }
        recs
    };

    let mut count = 0;
    // Records that reached one of C `scanAdd`'s I/O Intr failure exits. The
    // demotion runs after the loop: it takes the registration mutex and the
    // records map (`update_scan_index`), which must not be entered while this
    // loop holds a record's write guard.
    let mut demote: Vec<(crate::types::RecordName, Option<&'static str>)> = Vec::new();
    for (name, rec_arc) in io_intr_recs {
        let mut inst = rec_arc.write();
        // Wire poll feedback when the record is on I/O Intr scan, OR when the
        // device drives processing from its own callback independently of the
        // SCAN menu (motorRecord statusCallback; asyn readback records, PRs
        // #60/#208). The device's decision is authoritative — the SCAN check
        // alone would suppress callbacks for a SCAN="Passive" motor, breaking
        // the pp(TRUE) dbPutField re-process gate.
        let independent = inst
            .device
            .as_ref()
            .is_some_and(|d| d.io_intr_scan_independent());
        let on_io_intr = inst.common.scan == record::ScanType::IoIntr;
        if !on_io_intr && !independent {
            continue;
        }
        if let Some(dev) = inst.device.as_mut() {
            dev.bind_interrupt_gate(db.scan_control().interrupt_gate());
            dev.bind_dev_sup_gate(db.scan_control().dev_sup_gate());
        }
        if !on_io_intr {
            if inst.wire_io_intr_pump() {
                count += 1;
            }
            continue;
        }
        let add = inst.scan_add_io_intr();
        let (mut inst, added) = db.settle_scan_add(&rec_arc, inst, add);
        match added {
            Ok(()) => {
                count += 1;
                if !inst.record.io_intr_scan_add() {
                    demote.push((name, None));
                }
            }
            Err(message) => demote.push((name, message)),
        }
    }
    for (name, message) in demote {
        demote_io_intr_to_passive(&db, &name, message).await;
    }
    count
}

/// The task behind [`record::RecordInstance::wire_io_intr_pump`]: each wake
/// the device sends is C `scanIoRequest` on the list the record joined.
pub(crate) fn spawn_io_intr_pump(
    db: PvDatabase,
    rec_name: crate::types::RecordName,
    rec: Arc<record::RecordCell>,
    mut intr_rx: crate::runtime::sync::mpsc::Receiver<()>,
    // C keeps one I/O Intr scan list per band and fires `callbackRequest` on
    // the band the record joined — `callbackSetPriority(prio,
    // &piosl->callback)` (`dbScan.c:597`), with `scanAdd` filing the record
    // under `precord->prio`. This pump is per record, so the record's own
    // band is the list it would be on.
    prio: crate::runtime::task::CallbackPriority,
    direct: bool,
    independent: bool,
) -> crate::runtime::task::BackgroundTaskHandle<()> {
    let mut turns = db.register_io_intr_pump(&rec);
    crate::runtime::task::spawn_background(prio, async move {
        // One interrupt's pass.
        let pump = async || {
            // C `scanIoRequest` (`dbScan.c:616-618`): an I/O Intr callback
            // queues nothing while the scan facility is not running, which is
            // what `interruptAccept` buys a building or paused IOC. A
            // device's own `dbProcess` passes no such gate.
            if !direct && !db.scan_control().is_running() {
                return;
            }
            // Process if the device drives SCAN-independently, or the record
            // is still on I/O Intr scan.
            if !independent && rec.read().common.scan != record::ScanType::IoIntr {
                return;
            }
            let mut visited = crate::server::database::ProcStack::new();
            // Driver-callback cycle: an output (`asyn:READBACK`) record reads
            // the value back into VAL and skips the device write; input
            // records are unaffected.
            let _ = db.process_record_readback(&rec_name, &mut visited).await;
        };
        // A turn is served after the interrupts queued when it was taken, so
        // a first event behind them sees what they did.
        loop {
            tokio::select! {
                biased;
                Some(turn) = turns.recv() => {
                    for _ in 0..intr_rx.len() {
                        if intr_rx.recv().await.is_none() {
                            break;
                        }
                        pump().await;
                    }
                    let _ = turn.send(());
                }
                woke = intr_rx.recv() => match woke {
                    Some(()) => pump().await,
                    None => break,
                },
            }
        }
    })
}

#[cfg(test)]
mod io_intr_scan_add_tests {
    use super::setup_io_intr;
    use crate::server::database::PvDatabase;
    use crate::server::record::ScanType;
    use crate::server::records::ai::AiRecord;
    use std::sync::Arc;

    /// R6-8 — C `scanAdd` (`dbScan.c:272-282`): a `SCAN="I/O Intr"` record with
    /// no device object (here a soft ai, whose C dset has no `get_ioint_info`)
    /// is reported with `recGblRecordError` and **demoted to `menuScanPassive`**. It must not be
    /// left claiming I/O Intr, and must not stay in the I/O Intr scan bucket
    /// that `scanpiol` reports from.
    #[epics_macros_rs::epics_test]
    async fn io_intr_without_device_support_is_demoted_to_passive() {
        let db = Arc::new(PvDatabase::new());
        db.add_record("NODEV", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        {
            let rec = db.get_record("NODEV").unwrap();
            let mut inst = rec.write();
            inst.common.scan = ScanType::IoIntr;
        }
        db.update_scan_index(b"NODEV", ScanType::Passive, ScanType::IoIntr, 0, 0);
        assert_eq!(
            db.records_for_scan(ScanType::IoIntr).await,
            vec!["NODEV".to_string()],
            "precondition: the record starts in the I/O Intr bucket"
        );

        let wired = setup_io_intr(db.clone()).await;
        assert_eq!(wired, 0, "no device support ⇒ nothing to wire");

        // C: `precord->scan = menuScanPassive` — `caget NODEV.SCAN` reads Passive.
        let rec = db.get_record("NODEV").unwrap();
        assert_eq!(
            rec.read().common.scan,
            ScanType::Passive,
            "an unusable I/O Intr record must be demoted to Passive"
        );
        assert!(
            db.records_for_scan(ScanType::IoIntr).await.is_empty(),
            "and must leave the I/O Intr scan list"
        );
    }

    /// R6-8 — C `scanAdd` (`dbScan.c:278-293`): device support that supplies no
    /// interrupt source is demoted to Passive.
    #[epics_macros_rs::epics_test]
    async fn io_intr_with_device_but_no_interrupt_source_is_demoted_to_passive() {
        use crate::error::CaResult;
        use crate::server::device_support::DeviceSupport;
        use crate::server::record::Record;

        /// Device support with the default `io_intr_receiver` (→ `None`).
        struct NoIntrDevice;
        impl DeviceSupport for NoIntrDevice {
            fn write(&mut self, _record: &mut dyn Record) -> CaResult<()> {
                Ok(())
            }
            fn dtyp(&self) -> &str {
                "NoIntr"
            }
        }

        let db = Arc::new(PvDatabase::new());
        db.add_record("NOINTR", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        {
            let rec = db.get_record("NOINTR").unwrap();
            let mut inst = rec.write();
            inst.common.scan = ScanType::IoIntr;
            inst.device = Some(Box::new(NoIntrDevice));
        }
        db.update_scan_index(b"NOINTR", ScanType::Passive, ScanType::IoIntr, 0, 0);

        let wired = setup_io_intr(db.clone()).await;
        assert_eq!(wired, 0, "no interrupt source ⇒ nothing to wire");

        let rec = db.get_record("NOINTR").unwrap();
        {
            let inst = rec.read();
            assert_eq!(
                inst.common.scan,
                ScanType::Passive,
                "device support with no interrupt source must demote SCAN to Passive"
            );
            assert!(
                inst.device.is_some(),
                "the demotion must not drop the record's device support"
            );
        }
        assert!(db.records_for_scan(ScanType::IoIntr).await.is_empty());
    }

    /// A device that hands out a pulse receiver and also has a callback under
    /// its record's lock, counting both.
    mod callback_dev {
        use crate::error::CaResult;
        use crate::runtime::sync::mpsc;
        use crate::server::device_support::{
            DevicePost, DeviceReadOutcome, DeviceSupport, DeviceUdf, IoIntrAction,
        };
        use crate::server::record::{CommonFields, Record};
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::sync::{Arc, Mutex};

        pub struct Seen {
            pub callbacks: AtomicUsize,
            pub answer: Mutex<IoIntrAction>,
            pub callback_thread: Mutex<Option<std::thread::ThreadId>>,
            pub read_thread: Mutex<Option<std::thread::ThreadId>>,
            pub log: Mutex<Vec<&'static str>>,
            /// Run inside the callback, under the record's lock.
            pub inside: Mutex<Option<Box<dyn FnOnce() + Send>>>,
            /// Posted by the callback.
            pub post: Mutex<Option<DevicePost>>,
        }
        impl Default for Seen {
            fn default() -> Self {
                Seen {
                    callbacks: AtomicUsize::new(0),
                    answer: Mutex::new(IoIntrAction::Skip),
                    callback_thread: Mutex::default(),
                    read_thread: Mutex::default(),
                    log: Mutex::default(),
                    inside: Mutex::default(),
                    post: Mutex::default(),
                }
            }
        }
        pub struct CallbackDev {
            pub seen: Arc<Seen>,
            pub pulses: Option<mpsc::Receiver<()>>,
            pub posts: Vec<DevicePost>,
        }
        impl DeviceSupport for CallbackDev {
            fn dtyp(&self) -> &str {
                "Callback"
            }
            fn io_intr_receiver(&mut self) -> Option<mpsc::Receiver<()>> {
                self.pulses.take()
            }
            fn io_intr_scan_independent(&self) -> bool {
                true
            }
            fn io_intr_callback(
                &mut self,
                _record: &mut dyn Record,
                _common: &mut CommonFields,
            ) -> IoIntrAction {
                self.seen.callbacks.fetch_add(1, Ordering::SeqCst);
                *self.seen.callback_thread.lock().unwrap() = Some(std::thread::current().id());
                self.seen.log.lock().unwrap().push("callback");
                if let Some(inside) = self.seen.inside.lock().unwrap().take() {
                    inside();
                }
                self.posts.extend(self.seen.post.lock().unwrap().take());
                *self.seen.answer.lock().unwrap()
            }
            fn take_device_posts(&mut self) -> Vec<DevicePost> {
                std::mem::take(&mut self.posts)
            }
            fn read(&mut self, _record: &mut dyn Record) -> CaResult<DeviceReadOutcome> {
                *self.seen.read_thread.lock().unwrap() = Some(std::thread::current().id());
                self.seen.log.lock().unwrap().push("read");
                Ok(DeviceReadOutcome::computed(DeviceUdf::Defined))
            }
            fn write(&mut self, _record: &mut dyn Record) -> CaResult<()> {
                Ok(())
            }
        }
    }

    async fn callback_db(
        pulses: Option<crate::runtime::sync::mpsc::Receiver<()>>,
    ) -> (Arc<PvDatabase>, Arc<callback_dev::Seen>) {
        let db = Arc::new(PvDatabase::new());
        db.add_record("CB", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        let seen = Arc::new(callback_dev::Seen::default());
        let rec = db.get_record("CB").unwrap();
        let mut inst = rec.write();
        inst.common.dtyp = "Callback".into();
        inst.device = Some(Box::new(callback_dev::CallbackDev {
            seen: seen.clone(),
            pulses,
            posts: Vec::new(),
        }));
        drop(inst);
        (db, seen)
    }

    /// A pulse is C's `scanIoRequest`: it processes the record and runs no
    /// device code under the lock first (dbScan.c:604-627).
    #[epics_macros_rs::epics_test]
    async fn a_pulse_processes_without_the_device_callback() {
        let (pulse, pulses) = crate::runtime::sync::mpsc::channel(1);
        let (db, seen) = callback_db(Some(pulses)).await;
        assert_eq!(setup_io_intr(db.clone()).await, 1);
        db.scan_control().run();

        pulse.send(()).await.unwrap();
        while seen.log.lock().unwrap().is_empty() {
            crate::runtime::task::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(*seen.log.lock().unwrap(), ["read"]);
        assert_eq!(seen.callbacks.load(std::sync::atomic::Ordering::SeqCst), 0);
    }

    /// devEtherIP's check callbacks and devMotorAsyn's `asynCallback` take
    /// `dbScanLock` on the driver thread and run there (drvEtherIP.c:819-823,
    /// devMotorAsyn.c:717-726): the callback waits for the lock, runs on the
    /// caller's thread, and a `Process` answer is `dbProcess` before the lock
    /// is let go, so a thread waiting for it sees the pass done; `ScanOnce`
    /// processes on the `scanOnce` thread instead.
    #[epics_macros_rs::epics_test]
    async fn the_device_callback_runs_on_the_driver_thread_inside_one_hold() {
        use std::sync::atomic::Ordering;
        let (db, seen) = callback_db(None).await;
        let handle = db.async_handle();
        use crate::server::device_support::IoIntrRun;
        let driver = |handle: crate::server::database::AsyncDbHandle| {
            let t = std::thread::spawn(move || handle.run_io_intr_callback("CB"));
            let id = t.thread().id();
            assert_eq!(t.join().unwrap(), IoIntrRun::Ran);
            id
        };

        // Before finishDevSup nothing runs, and the caller is told.
        assert_eq!(handle.run_io_intr_callback("CB"), IoIntrRun::Refused);
        assert_eq!(seen.callbacks.load(Ordering::SeqCst), 0);
        db.scan_control().finish_dev_sup();
        assert_eq!(handle.run_io_intr_callback("NONE"), IoIntrRun::Refused);

        // Skip: the callback ran on the driver thread and nothing processed.
        let id = driver(handle.clone());
        assert_eq!(*seen.callback_thread.lock().unwrap(), Some(id));
        assert_eq!(*seen.log.lock().unwrap(), ["callback"]);

        // Held elsewhere: the driver thread waits for the lock.
        let held = db.lock_record("CB");
        let waiting = std::thread::spawn({
            let handle = handle.clone();
            move || handle.run_io_intr_callback("CB")
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(
            seen.callbacks.load(Ordering::SeqCst),
            1,
            "ran under a held lock"
        );
        drop(held);
        waiting.join().unwrap();
        assert_eq!(seen.callbacks.load(Ordering::SeqCst), 2);

        // Process: a thread that asks for the lock from inside the callback
        // gets it only after the pass.
        seen.log.lock().unwrap().clear();
        *seen.answer.lock().unwrap() = crate::server::device_support::IoIntrAction::Process;
        let (asked, asking) = std::sync::mpsc::channel();
        let (other_tx, other) = std::sync::mpsc::channel();
        *seen.inside.lock().unwrap() = Some(Box::new({
            let db = db.clone();
            let seen = seen.clone();
            move || {
                let _ = other_tx.send(std::thread::spawn(move || {
                    asked.send(()).unwrap();
                    let _gate = db.lock_record("CB");
                    seen.log.lock().unwrap().push("other");
                }));
                asking.recv().unwrap();
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }));
        let id = driver(handle.clone());
        other.recv().unwrap().join().unwrap();
        assert_eq!(*seen.log.lock().unwrap(), ["callback", "read", "other"]);
        assert_eq!(*seen.read_thread.lock().unwrap(), Some(id));

        // ScanOnce: the pass runs on the scanOnce thread.
        seen.log.lock().unwrap().clear();
        *seen.answer.lock().unwrap() = crate::server::device_support::IoIntrAction::ScanOnce;
        let id = driver(handle);
        while seen.log.lock().unwrap().len() < 2 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(*seen.log.lock().unwrap(), ["callback", "read"]);
        assert_ne!(*seen.read_thread.lock().unwrap(), Some(id));
    }

    /// devAsynInt32's `interruptCallbackEnum*` re-keys the states and posts
    /// DBE_PROPERTY on VAL under `dbScanLock` (devAsynInt32.c:712-766): what
    /// the callback posts reaches a monitor before the call returns.
    #[epics_macros_rs::epics_test]
    async fn a_post_the_device_callback_makes_goes_out_inside_the_hold() {
        use crate::server::database::db_access::DbSubscription;
        use crate::server::recgbl::EventMask;
        let (db, seen) = callback_db(None).await;
        db.scan_control().finish_dev_sup();
        let mut sub = DbSubscription::subscribe_with_mask(&db, "CB", 0, EventMask::PROPERTY.bits())
            .await
            .unwrap();
        while sub.try_recv_event().is_ok() {}
        *seen.post.lock().unwrap() = Some(crate::server::device_support::DevicePost {
            field: "VAL",
            mask: EventMask::PROPERTY,
            value: crate::types::EpicsValue::Double(0.0),
        });
        let handle = db.async_handle();
        std::thread::spawn(move || handle.run_io_intr_callback("CB"))
            .join()
            .unwrap();
        assert!(sub.try_recv_event().is_ok(), "no PROPERTY event");
        assert_eq!(*seen.log.lock().unwrap(), ["callback"]);
    }

    /// `setEnums` from an enum callback re-keys the states under the hold
    /// (devAsynInt32.c:712-766): the next read of the record's metadata has
    /// the new labels, and the one PROPERTY post goes out before the call
    /// returns.
    #[epics_macros_rs::epics_test]
    async fn a_property_put_from_the_callback_reaches_the_metadata() {
        use crate::server::database::db_access::DbSubscription;
        use crate::server::device_support::{IoIntrAction, PropertyPost};
        use crate::server::recgbl::EventMask;
        let db = Arc::new(PvDatabase::new());
        db.add_record(
            "EN",
            Box::new(crate::server::records::mbbi::MbbiRecord::new(0)),
        )
        .await
        .unwrap();
        db.scan_control().finish_dev_sup();
        let mut sub = DbSubscription::subscribe_with_mask(&db, "EN", 0, EventMask::PROPERTY.bits())
            .await
            .unwrap();
        while sub.try_recv_event().is_ok() {}
        let handle = db.async_handle();
        std::thread::spawn(move || {
            handle.run_io_intr_callback_with("EN", |held| {
                held.put_property(PropertyPost {
                    writes: vec![(
                        "ZRST".into(),
                        crate::types::EpicsValue::String("LABEL".into()),
                    )],
                    post_field: "VAL".into(),
                })
                .unwrap();
                IoIntrAction::Skip
            })
        })
        .join()
        .unwrap();
        assert!(sub.try_recv_event().is_ok(), "no PROPERTY event");
        let snap = db
            .get_record("EN")
            .unwrap()
            .read()
            .snapshot_for_field("VAL")
            .unwrap();
        assert_eq!(snap.enums.unwrap().strings[0].as_str_lossy(), "LABEL");
    }

    /// A port without `ASYN_CANBLOCK` runs devMotorAsyn's `asynCallback`
    /// inline from the dset write, and the driver's `statusCallback` from
    /// inside its write (devMotorAsyn.c:641, 717-726, 755-762): on the
    /// processing thread, under a recursive `dbScanLock`.
    mod inline_status_dev {
        use crate::error::CaResult;
        use crate::server::database::{AsyncDbHandle, DeviceDoneSource, HeldInstance};
        use crate::server::device_support::{DevicePost, DeviceSupport, IoIntrAction, WriteStart};
        use crate::server::recgbl::EventMask;
        use crate::server::record::{CommonFields, Record};
        use crate::server::records::ao::AoRecord;
        use crate::types::EpicsValue;
        use std::sync::{Arc, Mutex};

        pub struct InlineStatusDev {
            pub handle: AsyncDbHandle,
            /// The status the driver calls back with after a write, one
            /// callback each.
            pub statuses: Vec<i32>,
            pub lends: bool,
            pub log: Arc<Mutex<Vec<String>>>,
            /// The parameter the port's callback hands the device.
            pub param: Arc<Mutex<i32>>,
            pub posts: Vec<DevicePost>,
        }

        impl InlineStatusDev {
            fn write_to_port(&mut self) {
                self.log.lock().unwrap().push("write".into());
                for &value in &self.statuses {
                    let param = self.param.clone();
                    self.handle.run_io_intr_callback_with("SP", move |held| {
                        held.with_device(|record, common, dev| {
                            *param.lock().unwrap() = value;
                            dev.io_intr_callback(record, common)
                        })
                        .unwrap_or(IoIntrAction::Skip)
                    });
                }
                self.log.lock().unwrap().push("write returns".into());
            }
        }

        impl DeviceSupport for InlineStatusDev {
            fn dtyp(&self) -> &str {
                "InlineStatus"
            }
            fn io_intr_callback(
                &mut self,
                record: &mut dyn Record,
                _common: &mut CommonFields,
            ) -> IoIntrAction {
                let value = *self.param.lock().unwrap();
                self.log.lock().unwrap().push(format!("callback {value}"));
                record
                    .as_any_mut()
                    .and_then(|any| any.downcast_mut::<AoRecord>())
                    .unwrap()
                    .rbv = value;
                self.posts.push(DevicePost {
                    field: "RBV",
                    mask: EventMask::VALUE,
                    value: EpicsValue::Long(value),
                });
                IoIntrAction::Skip
            }
            fn take_device_posts(&mut self) -> Vec<DevicePost> {
                std::mem::take(&mut self.posts)
            }
            fn lends_held(&self) -> bool {
                self.lends
            }
            fn write_begin_held(
                &mut self,
                _held: &HeldInstance<'_>,
                _done: &DeviceDoneSource<'_>,
            ) -> CaResult<WriteStart> {
                self.write_to_port();
                Ok(WriteStart::Completed)
            }
            fn write(&mut self, _record: &mut dyn Record) -> CaResult<()> {
                self.write_to_port();
                Ok(())
            }
        }
    }

    /// A status callback from inside the write lands as under C's recursive
    /// `dbScanLock`: once the dset call returns, in the order the driver
    /// called back, each value posted ahead of the cycle's monitor.
    async fn inline_status_lands(lends: bool) {
        use crate::server::database::db_access::DbSubscription;
        use crate::server::recgbl::EventMask;
        let db = Arc::new(PvDatabase::new());
        db.add_record(
            "SP",
            Box::new(crate::server::records::ao::AoRecord::new(1.0)),
        )
        .await
        .unwrap();
        let log = Arc::new(std::sync::Mutex::new(Vec::new()));
        {
            let rec = db.get_record("SP").unwrap();
            let mut inst = rec.write();
            inst.common.dtyp = "InlineStatus".into();
            inst.device = Some(Box::new(inline_status_dev::InlineStatusDev {
                handle: db.async_handle(),
                statuses: vec![7, 9],
                lends,
                log: log.clone(),
                param: Arc::default(),
                posts: Vec::new(),
            }));
        }
        db.scan_control().finish_dev_sup();
        let mut sub =
            DbSubscription::subscribe_with_mask(&db, "SP.RBV", 0, EventMask::VALUE.bits())
                .await
                .unwrap();
        while sub.try_recv_event().is_ok() {}

        db.process_record("SP").await.unwrap();

        assert_eq!(
            *log.lock().unwrap(),
            ["write", "write returns", "callback 7", "callback 9"]
        );
        let rec = db.get_record("SP").unwrap();
        let rbv = rec.read().record.get_field("RBV");
        assert_eq!(rbv, Some(crate::types::EpicsValue::Long(9)));
        let mut posted = Vec::new();
        while let Ok(event) = sub.try_recv_event() {
            posted.push(event.value().as_value().and_then(|v| v.to_f64()));
        }
        // Each callback's post, then the cycle's own: the readback landed
        // ahead of `monitor`, which posts RBV as it changed (aoRecord.c:544).
        assert_eq!(posted, [Some(7.0), Some(9.0), Some(9.0)]);
    }

    #[epics_macros_rs::epics_test]
    async fn a_status_callback_from_inside_the_write_lands() {
        inline_status_lands(false).await;
    }

    #[epics_macros_rs::epics_test]
    async fn a_status_callback_from_inside_a_lent_write_lands() {
        inline_status_lands(true).await;
    }

    /// A callback owed from outside any dset call, here a driver thread's own
    /// hold of the record, runs when that hold lets the set go: the queue is
    /// empty whenever the set is free.
    #[epics_macros_rs::epics_test]
    async fn a_callback_owed_outside_a_dset_call_runs_before_the_set_is_let_go() {
        use crate::server::device_support::IoIntrAction;
        let (db, _seen) = callback_db(None).await;
        db.scan_control().finish_dev_sup();
        let handle = db.async_handle();
        let log = Arc::new(std::sync::Mutex::new(Vec::new()));
        std::thread::spawn({
            let log = log.clone();
            move || {
                handle.with_instance("CB", |_, _| {
                    let inner = log.clone();
                    let run = handle.run_io_intr_callback_with("CB", move |held| {
                        held.with(|_, _| inner.lock().unwrap().push("callback"));
                        IoIntrAction::Skip
                    });
                    assert_eq!(run, crate::server::device_support::IoIntrRun::Owed);
                    log.lock().unwrap().push("hold ends");
                });
                log.lock().unwrap().push("returned");
            }
        })
        .join()
        .unwrap();
        assert_eq!(*log.lock().unwrap(), ["hold ends", "callback", "returned"]);
    }

    /// The demotion is scoped to the failure exits: a record that was never on
    /// I/O Intr is untouched by the pass.
    #[epics_macros_rs::epics_test]
    async fn a_passive_record_is_not_touched_by_the_io_intr_pass() {
        let db = Arc::new(PvDatabase::new());
        db.add_record("PASV", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        let wired = setup_io_intr(db.clone()).await;
        assert_eq!(wired, 0);
        let rec = db.get_record("PASV").unwrap();
        assert_eq!(rec.read().common.scan, ScanType::Passive);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use source_guard::{Comments, production};
    use std::sync::Mutex as StdMutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Serialises the initHooks tests — `HOOKS` is process-global, so
    /// two tests announcing at once would observe each other's
    /// callbacks. The state machine here is small; a mutex is enough.
    static INIT_HOOK_TEST_LOCK: StdMutex<()> = StdMutex::new(());

    /// `iocInit.c:188-190`, byte for byte, terminator included.
    ///
    /// Measured on stderr from `softIoc` R7.0.10.1-DEV with an unreadable
    /// ACF, redirected to a FILE — so this is the stripped form, which is
    /// what `errlogStripANSI` leaves when the console is not a terminal:
    ///
    /// ```text
    /// ERROR iocBuild: asInit Failed.$
    ///  The IOC has not been started.$
    /// ```
    ///
    /// (`cat -A`, so `$` is the newline.) Both lines are terminated; the
    /// second's `\n` sits OUTSIDE `ANSI_MAGENTA(...)`, after the reset.
    #[test]
    fn the_as_init_failure_lines_are_c_s() {
        assert_eq!(
            as_init_failed_message(false),
            "ERROR iocBuild: asInit Failed.\n The IOC has not been started.\n"
        );
        assert_eq!(
            as_init_failed_message(true),
            format!(
                "{} iocBuild: asInit Failed.\n\u{1b}[35;1m The IOC has not been \
                 started.\u{1b}[0m\n",
                crate::runtime::log::ERL_ERROR
            )
        );
    }

    /// # Invariant
    ///
    /// MUST: every iocsh body this module runs — the startup script with the
    /// `afterIocRunning` queue its `iocInit` drains, and the `iocsh(NULL)`
    /// prompts — run as a job on the one `_main_` thread
    /// (`runtime::task::run_on_main_thread`), as C runs them on one thread in
    /// `main`'s statement order. MUST NOT: a thread of its own for any of
    /// them; a second thread is a second `_main_` row, and a prompt that can
    /// open before the script has returned.
    ///
    /// The band that thread takes is pinned beside it, in libcom's
    /// `the_main_thread_takes_the_iocsh_band`. Source inspection, because the
    /// defect is a route that is *present*; `thread_census.rs` forbids a
    /// thread here by any other route.
    #[test]
    fn iocsh_bodies_run_on_the_one_main_thread() {
        let prod = production(include_str!("ioc_app.rs"), Comments::Strip);

        assert_eq!(
            prod.matches("MandatoryThread::new(").count(),
            0,
            "an iocsh body on a thread of its own is a second `_main_`"
        );
        assert_eq!(
            prod.matches("run_on_main_thread(").count(),
            3,
            "the soft-main job, the uninitialised tail and \
             `IocRunConfig::run_shell`"
        );
        assert_eq!(
            prod.matches("name_current_thread(").count(),
            0,
            "naming without banding leaves the thread one level above idle on \
             the target; the `MandatoryThread` prologue is the whole of it"
        );
        assert_eq!(
            prod.matches("apply_to_current_thread(").count(),
            0,
            "banding without naming leaves an RTEMS-anonymous thread"
        );
    }

    /// `epicsThread.h:86` — the band libcom's `_main_` guard pins is C's
    /// constant.
    #[test]
    fn the_iocsh_band_is_epics_thread_priority_iocsh() {
        assert_eq!(crate::runtime::task::ThreadPriority::Iocsh.value(), 91);
    }

    /// The `dbLoadGroup` startup command queues `(filename, macros)`
    /// pairs (NOT bound to any provider), with pvxs removal
    /// semantics applied to the queue (`-file` by identity, `-*` clears),
    /// and a re-load of the same identity nets to a single entry. The QSRV
    /// runner later drains [`take_group_load_requests`] to build the
    /// served provider.
    #[test]
    fn dbloadgroup_startup_command_queues_and_removes() {
        // Process-global queue: drain any leftover so this test is isolated.
        let _ = take_group_load_requests();

        let rt = tokio::runtime::Runtime::new().unwrap();
        let db = Arc::new(PvDatabase::new());
        let bridge = {
            let _guard = rt.enter();
            crate::runtime::task::BlockingBridge::capture()
        };
        let shell = iocsh::IocShell::new(db, bridge);
        shell.register(db_load_group_startup_command());

        // Two distinct group files (the command probes existence early).
        let tmpdir = tempfile::tempdir().expect("fixture root");
        let a = tmpdir.path().join("qsrv_q_a.json");
        let b = tmpdir.path().join("qsrv_q_b.json");
        std::fs::write(&a, "{}").unwrap();
        std::fs::write(&b, "{}").unwrap();

        shell
            .execute_line(format!("dbLoadGroup(\"{}\")", a.display()))
            .unwrap();
        shell
            .execute_line(format!("dbLoadGroup(\"{}\",\"M=1\")", b.display()))
            .unwrap();
        // Re-load of the same identity nets to one entry (pvxs erases first).
        shell
            .execute_line(format!("dbLoadGroup(\"{}\")", a.display()))
            .unwrap();

        // Missing file: softIocPVX 1.5.3 writes `Error opening "nosuch.json"`
        // to stderr at the st.cmd line and marks the line failed.
        let err = tmpdir.path().join("err");
        assert!(matches!(
            shell.execute_line(format!(
                "dbLoadGroup(\"/no/such/group.json\") 2> {}",
                crate::server::iocsh::script_token(&err)
            )),
            Ok(crate::server::iocsh::registry::CommandOutcome::Failed)
        ));
        assert_eq!(
            std::fs::read_to_string(&err).unwrap(),
            "Error opening \"/no/such/group.json\"\n"
        );

        // `-file` removes only the matching identity (a, macros="").
        shell
            .execute_line(format!("dbLoadGroup(\"-{}\")", a.display()))
            .unwrap();

        let reqs = take_group_load_requests();
        assert_eq!(reqs.len(), 1, "only the (b, M=1) entry must remain");
        assert_eq!(reqs[0].filename, b.to_string_lossy());
        assert_eq!(reqs[0].macros, "M=1");

        // `-*` clears the whole queue.
        shell
            .execute_line(format!("dbLoadGroup(\"{}\")", b.display()))
            .unwrap();
        shell.execute_line("dbLoadGroup(\"-*\")").unwrap();
        assert!(
            take_group_load_requests().is_empty(),
            "dbLoadGroup(\"-*\") must clear the queue"
        );

        let _ = std::fs::remove_file(&a);
        let _ = std::fs::remove_file(&b);
    }

    /// H1 regression: a callback registered via `init_hook_register`
    /// fires for every announced state, and `init_hook_announce`
    /// delivers states in the order they were announced.
    #[test]
    fn init_hook_register_and_announce_in_order() {
        let _guard = INIT_HOOK_TEST_LOCK.lock().unwrap();
        init_hooks::init_hook_free();

        let seen: Arc<StdMutex<Vec<InitHookState>>> = Arc::new(StdMutex::new(Vec::new()));
        let seen_cb = seen.clone();
        init_hook_register(Arc::new(move |state| {
            seen_cb.lock().unwrap().push(state);
        }));

        // Announce a subset in C order.
        let order = [
            InitHookState::AtIocBuild,
            InitHookState::AfterInitDevSup,
            InitHookState::AfterInitDatabase,
            InitHookState::AfterInitialProcess,
            InitHookState::AfterIocRunning,
        ];
        for &s in &order {
            init_hook_announce(s);
        }

        let got = seen.lock().unwrap().clone();
        assert_eq!(got, order, "hooks must fire in announce order");

        init_hooks::init_hook_free();
    }

    /// H1 regression: a hook that registers ANOTHER hook from inside
    /// its callback must not deadlock, and the newly-registered hook
    /// is not invoked for the in-progress state (C snapshot
    /// semantics).
    #[test]
    fn init_hook_reentrant_register_does_not_deadlock() {
        let _guard = INIT_HOOK_TEST_LOCK.lock().unwrap();
        init_hooks::init_hook_free();

        let inner_calls = Arc::new(AtomicUsize::new(0));
        let inner_for_outer = inner_calls.clone();
        init_hook_register(Arc::new(move |_state| {
            // Register a second hook from inside the callback.
            let inner = inner_for_outer.clone();
            init_hook_register(Arc::new(move |_s| {
                inner.fetch_add(1, Ordering::SeqCst);
            }));
        }));

        // First announce: outer hook runs, registers inner. Inner is
        // NOT called for this state.
        init_hook_announce(InitHookState::AtIocBuild);
        assert_eq!(inner_calls.load(Ordering::SeqCst), 0);

        // Second announce: both outer and the inner(s) run.
        init_hook_announce(InitHookState::AfterIocRunning);
        assert!(inner_calls.load(Ordering::SeqCst) >= 1);

        init_hooks::init_hook_free();
    }

    /// H1: state name strings match C `initHookName()`.
    #[test]
    fn init_hook_state_names_match_c() {
        assert_eq!(InitHookState::AtIocBuild.name(), "initHookAtIocBuild");
        assert_eq!(
            InitHookState::AfterInitDevSup.name(),
            "initHookAfterInitDevSup"
        );
        assert_eq!(
            InitHookState::AfterInitDatabase.name(),
            "initHookAfterInitDatabase"
        );
        assert_eq!(
            InitHookState::AfterIocRunning.name(),
            "initHookAfterIocRunning"
        );
    }

    #[epics_macros_rs::epics_test]
    async fn test_ioc_application_empty() {
        // An empty IocApplication with no script or records should start and stop cleanly
        // We can't easily test run() because it blocks on REPL, so test the wiring functions
        let db = Arc::new(PvDatabase::new());
        assert_eq!(db.records_with_device_support().await, 0);
    }

    #[epics_macros_rs::epics_test]
    async fn test_wire_device_support_no_dtyp() {
        use crate::server::records::ai::AiRecord;

        let db = Arc::new(PvDatabase::new());
        db.install_device_support_resolver(device_support_resolver(HashMap::new(), None));
        db.add_record("TEST", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();

        // No DTYP set, so the record is a soft channel and binds no dset.
        assert_eq!(db.records_with_device_support().await, 0);
    }

    /// Regression: `wire_device_support` (the IocApplication
    /// startup-script device-support attach path) MUST forward
    /// info(...) tags to the driver via `apply_record_info`. An earlier fix
    /// only patched the IocBuilder path; without this fix, IOCs
    /// loaded entirely through iocsh `dbLoadRecords` lose every
    /// `info()` tag the driver depends on (e.g. asyn `asyn:READBACK`).
    #[epics_macros_rs::epics_test]
    async fn wire_device_support_forwards_info_tags_to_driver() {
        static ROW: crate::server::record::DevSup = crate::server::record::DevSup {
            name: "devTest",
            choice: "TestRecording",
            link_type: crate::server::record::DbLinkType::Constant,
            dset: crate::server::record::Dset::new(6, &[3], false),
        };
        crate::server::record::register_device_row("ai", &ROW);
        use crate::server::device_support::{DeviceReadOutcome, DeviceSupport};
        use crate::server::record::ScanType;
        use crate::server::records::ai::AiRecord;
        use std::sync::{Arc as StdArc, Mutex as StdMutex};

        // Recording device support — captures the info map it received
        // via apply_record_info so the test can assert on its contents.
        struct RecordingDev {
            seen: StdArc<StdMutex<HashMap<String, String>>>,
        }
        impl DeviceSupport for RecordingDev {
            fn write(&mut self, _record: &mut dyn crate::server::record::Record) -> CaResult<()> {
                Ok(())
            }
            fn dtyp(&self) -> &str {
                "TestRecording"
            }
            fn read(
                &mut self,
                _record: &mut dyn crate::server::record::Record,
            ) -> CaResult<DeviceReadOutcome> {
                Ok(DeviceReadOutcome::ok())
            }
            fn apply_record_info(&mut self, info: &HashMap<String, String>) {
                let mut g = self.seen.lock().unwrap();
                *g = info.clone();
            }
            fn set_record_info(&mut self, _name: &str, _scan: ScanType) {}
        }

        let seen = StdArc::new(StdMutex::new(HashMap::<String, String>::new()));
        let seen_factory = seen.clone();
        let mut factories: HashMap<String, DeviceSupportFactory> = HashMap::new();
        factories.insert(
            "TestRecording".to_string(),
            Box::new(move || {
                Box::new(RecordingDev {
                    seen: seen_factory.clone(),
                })
            }),
        );

        let db = Arc::new(PvDatabase::new());
        db.install_device_support_resolver(device_support_resolver(factories, None));
        // DTYP and the info(...) tags arrive WITH the record, because the bind
        // now happens at creation — C's `doInitRecord0`, which reads the field
        // set `dbLoadRecords` already wrote.
        db.add_loaded_record(
            "AI:WITH:INFO",
            Box::new(AiRecord::new(0.0)),
            crate::server::database::RecordLoad {
                common_fields: vec![(
                    "DTYP".to_string(),
                    crate::types::EpicsValue::String("TestRecording".into()),
                )],
                info_tags: vec![
                    ("asyn:READBACK".to_string(), "1".to_string()),
                    ("Q:group".to_string(), "demo".to_string()),
                ],
            },
        )
        .await
        .unwrap();
        assert_eq!(
            db.records_with_device_support().await,
            1,
            "device support must have attached"
        );

        // The recording driver should have observed both tags via
        // apply_record_info — proves the hook fires from the
        // IocApplication batch-wiring path too.
        let observed = seen.lock().unwrap().clone();
        assert_eq!(observed.get("asyn:READBACK").map(String::as_str), Some("1"));
        assert_eq!(observed.get("Q:group").map(String::as_str), Some("demo"));
    }

    /// Regression: `wire_device_support` must bind records in **database load
    /// order**, the order C's `initDevSup` walks
    /// (`dbFirstRecord`/`dbNextRecord`). Real device support depends on it:
    /// epics-modules/opcua's element records refuse to init unless their
    /// `opcuaItem` record bound first (`linkParser.cpp:226-234`), and the
    /// shipped databases guarantee that only by declaring the item record
    /// first. This walked `all_record_names()` when that returned `HashMap`
    /// keys, so binding ran in hash order — not load order, and not even
    /// stable across runs of the same binary.
    #[epics_macros_rs::epics_test]
    async fn wire_device_support_binds_in_database_load_order() {
        static ROW: crate::server::record::DevSup = crate::server::record::DevSup {
            name: "devTest",
            choice: "SeqDev",
            link_type: crate::server::record::DbLinkType::InstIo,
            dset: crate::server::record::Dset::new(6, &[3], false),
        };
        crate::server::record::register_device_row("ai", &ROW);
        use crate::server::device_support::{DeviceReadOutcome, DeviceSupport};
        use crate::server::records::ai::AiRecord;
        use std::sync::{Arc as StdArc, Mutex as StdMutex};

        struct NoopDev;
        impl DeviceSupport for NoopDev {
            fn write(&mut self, _record: &mut dyn crate::server::record::Record) -> CaResult<()> {
                Ok(())
            }
            fn dtyp(&self) -> &str {
                "SeqDev"
            }
            fn read(
                &mut self,
                _record: &mut dyn crate::server::record::Record,
            ) -> CaResult<DeviceReadOutcome> {
                Ok(DeviceReadOutcome::ok())
            }
        }

        // A fixed permutation of 0..24 — load order is deliberately neither
        // lexical nor hash order, so a pass cannot be a coincidence.
        let names: Vec<String> = (0..24)
            .map(|i: usize| format!("LOAD:{:02}", (i * 7 + 3) % 24))
            .collect();

        let wired: StdArc<StdMutex<Vec<String>>> = StdArc::new(StdMutex::new(Vec::new()));
        let captured = wired.clone();
        let dynamic: Option<DynamicDeviceSupportFactory> =
            Some(Box::new(move |ctx: &DeviceSupportContext| {
                captured
                    .lock()
                    .unwrap()
                    .push(ctx.inp.trim_start_matches('@').to_string());
                Some(Box::new(NoopDev) as Box<dyn DeviceSupport>)
            }));

        let db = Arc::new(PvDatabase::new());
        db.install_device_support_resolver(device_support_resolver(HashMap::new(), dynamic));
        for name in &names {
            db.add_loaded_record(
                name,
                Box::new(AiRecord::new(0.0)),
                crate::server::database::RecordLoad::from_common_fields(vec![
                    (
                        "DTYP".to_string(),
                        crate::types::EpicsValue::String("SeqDev".into()),
                    ),
                    // `DeviceSupportContext` carries the links, not the record
                    // name; echoing the name through INP is how the test
                    // observes which record is being wired.
                    (
                        "INP".to_string(),
                        crate::types::EpicsValue::String(format!("@{name}").into()),
                    ),
                ]),
            )
            .await
            .unwrap();
        }
        assert_eq!(db.records_with_device_support().await, names.len());

        let wired = std::mem::take(&mut *wired.lock().unwrap());
        assert_eq!(
            wired, names,
            "device support must bind in database load order (C initDevSup), \
             not HashMap hash order"
        );
    }

    /// Regression: an `asyn:READBACK` OUTPUT record processed because of a
    /// driver interrupt callback must READ the callback value back into VAL
    /// and MUST NOT write it to the driver. Writing it re-asserts the
    /// setpoint and re-triggers the driver — the AD `Acquire` loop where a
    /// single `Acquire 1` produced ~6 acquisitions (`ArrayCounter` ≈ 6,
    /// `Acquire` stuck at 1). C `devAsynInt32.c::processBo` takes the
    /// `newOutputCallbackValue` readback branch and never calls
    /// `processCallbackOutput`'s `write()` on a callback cycle; a
    /// put/FLNK/scan cycle still writes the setpoint.
    #[epics_macros_rs::epics_test]
    async fn readback_output_cycle_reads_back_and_skips_device_write() {
        use crate::server::device_support::{DeviceReadOutcome, DeviceSupport};
        use crate::server::record::ScanType;
        use crate::server::records::bo::BoRecord;
        use crate::types::EpicsValue;
        use std::sync::Arc as StdArc;
        use std::sync::atomic::{AtomicUsize, Ordering};

        // Mock asyn-style readback device: read() pushes the driver's
        // callback value into VAL; write() counts how often the framework
        // asked it to push VAL back out to the driver.
        struct ReadbackDev {
            writes: StdArc<AtomicUsize>,
            readback_val: u16,
        }
        impl DeviceSupport for ReadbackDev {
            fn dtyp(&self) -> &str {
                "TestReadback"
            }
            // asyn:READBACK records follow driver-side changes regardless of
            // SCAN (PRs #60/#208) — the trait flag the I/O Intr wiring keys on.
            fn io_intr_scan_independent(&self) -> bool {
                true
            }
            // ...and take the C `newOutputCallbackValue` readback branch on
            // callback cycles (never re-write the setpoint). Devices that do
            // not declare this — e.g. devMotorAsyn — still write on callback
            // passes; that default-false path has its own regression tests.
            fn output_callback_readback(&self) -> bool {
                true
            }
            fn read(
                &mut self,
                record: &mut dyn crate::server::record::Record,
            ) -> CaResult<DeviceReadOutcome> {
                record.set_val(EpicsValue::Enum(self.readback_val))?;
                Ok(DeviceReadOutcome::computed(
                    crate::server::device_support::DeviceUdf::Defined,
                ))
            }
            fn write(&mut self, _record: &mut dyn crate::server::record::Record) -> CaResult<()> {
                self.writes.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            fn set_record_info(&mut self, _name: &str, _scan: ScanType) {}
        }

        let writes = StdArc::new(AtomicUsize::new(0));
        let db = Arc::new(PvDatabase::new());
        // bo VAL starts at 1 — the setpoint (e.g. Acquire=1).
        db.add_record("BO:RBK", Box::new(BoRecord::new(1)))
            .await
            .unwrap();
        {
            let rec = db.get_record("BO:RBK").unwrap();
            let mut inst = rec.write();
            // Non-soft DTYP so the read stage is eligible to run.
            inst.common.dtyp = "TestReadback".into();
            inst.device = Some(Box::new(ReadbackDev {
                writes: writes.clone(),
                readback_val: 0,
            }));
        }

        // Driver-callback cycle: the driver reported Acquire=0 (acquisition
        // done). The record must read 0 back into VAL and must NOT write.
        {
            let mut visited = crate::server::database::ProcStack::new();
            db.process_record_readback("BO:RBK", &mut visited)
                .await
                .unwrap();
        }
        {
            let rec = db.get_record("BO:RBK").unwrap();
            let inst = rec.read();
            assert_eq!(
                inst.record.get_field("VAL"),
                Some(EpicsValue::Enum(0)),
                "readback cycle must pull the driver callback value (0) into VAL"
            );
        }
        assert_eq!(
            writes.load(Ordering::SeqCst),
            0,
            "readback cycle must NOT write VAL back to the driver (no re-trigger)"
        );

        // Put/scan cycle: a normal process still writes the setpoint to the
        // driver exactly once (device_callback == false).
        {
            let rec = db.get_record("BO:RBK").unwrap();
            let mut inst = rec.write();
            inst.record.put_field("VAL", EpicsValue::Enum(1)).unwrap();
        }
        {
            let mut visited = crate::server::database::ProcStack::new();
            db.process_record_with_links("BO:RBK", &mut visited)
                .await
                .unwrap();
        }
        assert_eq!(
            writes.load(Ordering::SeqCst),
            1,
            "a put/scan cycle must write the setpoint to the driver exactly once"
        );
    }
}

#[cfg(test)]
mod lifecycle_tests {
    //! The `iocState` boundaries, one case per legal and illegal edge —
    //! C `iocInit.c`'s guards (`iocRun` :247, `iocPause` :279,
    //! `iocShutdown` :723), not one case per narrative.
    //!
    //! Every case drives the process-global lifecycle, which is what C's
    //! file-static `iocState` is; nextest gives each test its own process,
    //! so they do not share it.

    use super::*;
    use crate::server::scan::ScanCtl;

    /// BOUNDARY: `iocVoid`. C refuses both transitions from it — `iocRun`
    /// because the state is neither `iocBuilt` nor `iocPaused`
    /// (`iocInit.c:247-250`), `iocPause` because it is not `iocRunning`
    /// (`:279-282`) — and leaves the state alone.
    #[test]
    fn a_void_ioc_refuses_run_and_pause() {
        assert_eq!(get_ioc_state(), IocState::Void);
        assert_eq!(ioc_run(), -1, "iocRun from iocVoid is C's -1");
        assert_eq!(ioc_pause(), -1, "iocPause from iocVoid is C's -1");
        assert_eq!(get_ioc_state(), IocState::Void, "a refusal changes nothing");
    }

    /// BOUNDARY: `iocShutdown` from `iocVoid` returns 0 without announcing
    /// anything (`iocInit.c:723`). That early return is what makes it safe
    /// on every exit path, including one that never built an IOC.
    #[test]
    fn shutting_down_a_void_ioc_is_a_success() {
        assert_eq!(ioc_shutdown(), 0);
        assert_eq!(get_ioc_state(), IocState::Void);
    }

    /// The bare bring-up: `iocBuild_1`, `iocBuild_3`, then the `ioc_run` the
    /// shell's command calls. Returns the database the build published,
    /// whose cell the lifecycle drives.
    async fn build_and_run() -> Arc<PvDatabase> {
        let db = Arc::new(PvDatabase::new());
        build_and_run_on(&db).await;
        db
    }

    /// [`build_and_run`] over a database the test already loaded.
    async fn build_and_run_on(db: &Arc<PvDatabase>) {
        assert!(build_without_application(db, |line| println!("{line}")).await);
        assert_eq!(get_ioc_state(), IocState::Built);
        assert_eq!(ioc_run(), 0);
    }

    /// The bare shell's `iocBuild` announces C's build hooks in C's order
    /// (`iocInit.c:123-206`), as `IocApplication` and `build_ioc` do.
    #[epics_macros_rs::epics_test]
    async fn a_bare_build_walks_c_build_hooks() {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        init_hook_register(Arc::new(move |state: InitHookState| {
            log.lock().unwrap().push(state.name());
        }));
        build_and_run().await;
        let seen = seen.lock().unwrap();
        let end = seen
            .iter()
            .position(|n| *n == "initHookAfterIocBuilt")
            .expect("announced")
            + 1;
        assert_eq!(
            seen[..end],
            [
                "initHookAtIocBuild",
                "initHookAtBeginning",
                "initHookAfterCallbackInit",
                "initHookAfterCaLinkInit",
                "initHookAfterInitDrvSup",
                "initHookAfterInitRecSup",
                "initHookAfterInitDevSup",
                "initHookAfterInitDatabase",
                "initHookAfterFinishDevSup",
                "initHookAfterScanInit",
                "initHookAfterInitialProcess",
                "initHookAfterCaServerInit",
                "initHookAfterIocBuilt",
            ]
        );
    }

    /// BOUNDARY: `iocBuild_1` from anything but `iocVoid` refuses and moves
    /// nothing (`iocInit.c:116-121`), so a second bring-up in one process
    /// cannot say `Starting iocInit` twice.
    #[epics_macros_rs::epics_test]
    async fn a_second_bare_build_is_refused() {
        build_and_run().await;
        assert!(BuildSequence::begin(|line| println!("{line}")).is_none());
        assert_eq!(get_ioc_state(), IocState::Running);
    }

    /// BOUNDARY: a held [`BuildSequence`] is `iocBuilding`, and one never
    /// finished leaves the state there, as a failed C `iocBuild` does.
    #[test]
    fn an_unfinished_bare_build_stays_building() {
        let _unfinished: BuildSequence =
            BuildSequence::begin(|line| println!("{line}")).expect("void");
        assert_eq!(get_ioc_state(), IocState::Building);
        assert_eq!(get_ioc_state(), IocState::Building);
        assert_eq!(ioc_run(), -1, "iocRun from iocBuilding is C's -1");
    }

    /// The full walk, and the scan gate at each stop.
    #[epics_macros_rs::epics_test]
    async fn the_lifecycle_walks_void_running_paused_running_void() {
        let db = build_and_run().await;
        let scan_ctl = || db.scan_control().ctl();
        assert_eq!(get_ioc_state(), IocState::Running);
        assert_eq!(scan_ctl(), ScanCtl::Run);

        assert_eq!(ioc_pause(), 0);
        assert_eq!(get_ioc_state(), IocState::Paused);
        assert_eq!(
            scan_ctl(),
            ScanCtl::Pause,
            "iocPause must close the gate every asynchronous scan source reads"
        );

        assert_eq!(ioc_run(), 0);
        assert_eq!(get_ioc_state(), IocState::Running);
        assert_eq!(scan_ctl(), ScanCtl::Run);

        assert_eq!(ioc_shutdown(), 0);
        assert_eq!(get_ioc_state(), IocState::Void);
        assert_eq!(scan_ctl(), ScanCtl::Exit);
    }

    /// BOUNDARY: the illegal repeat of each transition. C answers a second
    /// `iocPause` with "IOC not running" and a second `iocRun` with "IOC
    /// not paused", both -1, and neither moves the state.
    #[epics_macros_rs::epics_test]
    async fn a_repeated_transition_is_refused_from_its_own_end_state() {
        build_and_run().await;
        assert_eq!(ioc_run(), -1, "already running");
        assert_eq!(get_ioc_state(), IocState::Running);

        assert_eq!(ioc_pause(), 0);
        assert_eq!(ioc_pause(), -1, "already paused");
        assert_eq!(get_ioc_state(), IocState::Paused);
    }

    /// `iocShutdown` lets go of the database `initialProcess` published, so
    /// the next build's `initial_process` is not handed the old one's
    /// leftovers and the old one's records are freed.
    #[epics_macros_rs::epics_test]
    async fn shutdown_releases_the_published_database() {
        let mut build = BuildSequence::begin(|line| println!("{line}")).expect("void");
        let db = Arc::new(PvDatabase::new());
        build.reach(InitHookState::AfterCallbackInit);
        build.ca_link_init(&db, Vec::new()).await;
        initial_process(&db);
        build.finish();
        assert_eq!(ioc_run(), 0);
        let published = Arc::downgrade(&db);
        drop(db);
        assert!(published.strong_count() > 0, "the lifecycle holds it");

        assert_eq!(ioc_shutdown(), 0);
        // No wait: the `scan-%g` threads holding it are joined, as C's
        // `scanStop` joins them (`dbScan.c:173-176`).
        assert_eq!(published.strong_count(), 0);
    }

    /// C `initDatabase` puts `iocShutdown` on the exit callbacks
    /// (`iocInit.c:580`) whatever ran `iocBuild`: the bare shell's build
    /// too.
    #[epics_macros_rs::epics_test]
    async fn a_bare_build_is_shut_down_by_the_exit_callbacks() {
        build_and_run().await;
        crate::runtime::exit::call_at_exits();
        assert_eq!(get_ioc_state(), IocState::Void);
    }

    /// A bare build in `mode`, run, then shut down.
    async fn build_run_and_shut_down(mode: BuildMode) {
        let mut build = BuildSequence::begin_mode(mode, |line| println!("{line}")).expect("void");
        let db = Arc::new(PvDatabase::new());
        build.reach(InitHookState::AfterCallbackInit);
        build.ca_link_init(&db, Vec::new()).await;
        initial_process(&db);
        build.finish();
        assert_eq!(ioc_run(), 0);
        assert_eq!(ioc_shutdown(), 0);
    }

    /// `asInit`'s `firstTime` across a shutdown, for `mode`.
    async fn as_init_after_a_shutdown(mode: BuildMode) -> crate::server::iocsh::AsInitOutcome {
        use crate::server::iocsh::{AsInitOutcome, as_init};
        let acf = crate::server::access_security::new_acf_cell(None);
        assert_eq!(as_init(&acf, &|_| {}), AsInitOutcome::NeverEnabled);
        assert_eq!(as_init(&acf, &|_| {}), AsInitOutcome::NotActive);
        build_run_and_shut_down(mode).await;
        as_init(&acf, &|_| {})
    }

    /// C `asShutdown` (`iocInit.c:754`, `asDbLib.c:157-164`): an isolated
    /// shutdown puts `firstTime` back, so the next IOC's bare `asInit` is the
    /// first one again.
    #[epics_macros_rs::epics_test]
    async fn an_isolated_shutdown_resets_as_init_s_first_time() {
        assert_eq!(
            as_init_after_a_shutdown(BuildMode::Isolated).await,
            crate::server::iocsh::AsInitOutcome::NeverEnabled
        );
    }

    /// `asShutdown` is on the isolated branch only (`iocInit.c:745`).
    #[epics_macros_rs::epics_test]
    async fn a_servers_shutdown_keeps_as_init_s_first_time() {
        assert_eq!(
            as_init_after_a_shutdown(BuildMode::Servers).await,
            crate::server::iocsh::AsInitOutcome::NotActive
        );
    }

    /// C resets `iocBuildMode` at the end of `iocShutdown` (`iocInit.c:761`)
    /// because only a build that succeeds sets it (`:229`): a Servers build
    /// that fails after an isolated IOC shut down is shut down as Servers.
    #[epics_macros_rs::epics_test]
    async fn a_failed_build_after_an_isolated_ioc_shuts_down_as_servers() {
        build_run_and_shut_down(BuildMode::Isolated).await;
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        init_hook_register(Arc::new(move |state: InitHookState| {
            log.lock().unwrap().push(state);
        }));
        // A build that fails before `iocBuild_3` never finishes.
        BuildSequence::begin(|line| println!("{line}")).expect("void");
        assert_eq!(get_ioc_state(), IocState::Building);
        assert_eq!(ioc_shutdown(), 0);
        let seen = seen.lock().unwrap();
        assert!(seen.contains(&InitHookState::AfterShutdown));
        assert!(!seen.contains(&InitHookState::BeforeFree), "{seen:?}");
    }

    /// Did a shutdown in `mode` leave a command and a variable this IOC
    /// registered?
    async fn iocsh_tables_after_a_shutdown(mode: BuildMode) -> (bool, bool) {
        use crate::server::iocsh::registry::{CommandDef, CommandOutcome};
        use crate::server::iocsh::vars::{VarAccess, VarDef, register_variable, variable_names};
        crate::server::iocsh::register_command(CommandDef::new(
            "tstFreeCmd",
            Vec::new(),
            "",
            |_: &[crate::server::iocsh::registry::ArgValue],
             _: &crate::server::iocsh::registry::CommandContext| {
                Ok(CommandOutcome::Continue)
            },
        ));
        register_variable(VarDef {
            name: "tstFreeVar",
            access: VarAccess::Int {
                get: || 0,
                set: |_| {},
            },
        });
        build_run_and_shut_down(mode).await;
        let registry = crate::server::iocsh::command_registry().read().unwrap();
        assert!(registry.get("dbl").is_some(), "the base set is born in");
        assert!(
            variable_names().contains(&"seqDLYlimit"),
            "and the seeded knobs"
        );
        (
            registry.get("tstFreeCmd").is_some(),
            variable_names().contains(&"tstFreeVar"),
        )
    }

    /// C `iocshFree` (`iocInit.c:757`): an isolated shutdown leaves the next
    /// IOC no command or variable a registrar of this one added.
    #[epics_macros_rs::epics_test]
    async fn an_isolated_shutdown_frees_the_iocsh_tables() {
        assert_eq!(
            iocsh_tables_after_a_shutdown(BuildMode::Isolated).await,
            (false, false)
        );
    }

    /// `iocshFree` is on the isolated branch only.
    #[epics_macros_rs::epics_test]
    async fn a_servers_shutdown_keeps_the_iocsh_tables() {
        assert_eq!(
            iocsh_tables_after_a_shutdown(BuildMode::Servers).await,
            (true, true)
        );
    }

    /// An exit callback armed before `initDatabase` ends runs after the
    /// `iocShutdown` it arms (`iocInit.c:580`), one armed after it runs
    /// before: softIoc's `AfterInitDevSup` `epicsAtExit` sees `iocVoid`.
    #[epics_macros_rs::epics_test]
    async fn exit_callbacks_armed_inside_the_build_run_around_ioc_shutdown() {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        init_hook_register(Arc::new(move |state: InitHookState| {
            if matches!(
                state,
                InitHookState::AfterInitDevSup | InitHookState::AfterFinishDevSup
            ) {
                let log = Arc::clone(&log);
                crate::runtime::exit::at_exit("probe", move || {
                    log.lock().unwrap().push((state.name(), get_ioc_state()));
                });
            }
        }));
        build_and_run().await;
        crate::runtime::exit::call_at_exits();
        assert_eq!(
            *seen.lock().unwrap(),
            [
                ("initHookAfterFinishDevSup", IocState::Running),
                ("initHookAfterInitDevSup", IocState::Void),
            ]
        );
    }

    /// BOUNDARY: `iocShutdown` from `iocPaused`. C shuts down from any
    /// non-void state, not only from running.
    #[epics_macros_rs::epics_test]
    async fn a_paused_ioc_can_be_shut_down() {
        build_and_run().await;
        assert_eq!(ioc_pause(), 0);
        assert_eq!(ioc_shutdown(), 0);
        assert_eq!(get_ioc_state(), IocState::Void);
    }

    /// The gate is what `iocPause` buys: C `postEvent` queues nothing while
    /// the facility is not running (`dbScan.c:536-539`), so a `SCAN="Event"`
    /// record does not process on a paused IOC and does again once it runs.
    #[epics_macros_rs::epics_test]
    async fn a_paused_ioc_does_not_process_its_event_records() {
        use crate::error::CaResult;
        use crate::server::record::{FieldDesc, ProcessOutcome, Record, ScanType};
        use crate::types::EpicsValue;
        use std::sync::atomic::{AtomicUsize, Ordering};

        /// Counts its own `process()` calls.
        struct CountProbe(Arc<AtomicUsize>);

        impl Record for CountProbe {
            fn record_type(&self) -> &'static str {
                "ioc_pause_probe"
            }
            fn process(&mut self) -> CaResult<ProcessOutcome> {
                self.0.fetch_add(1, Ordering::SeqCst);
                Ok(ProcessOutcome::complete())
            }
            fn get_field(&self, _name: &str) -> Option<EpicsValue> {
                None
            }
            fn put_field(&mut self, _name: &str, _value: EpicsValue) -> CaResult<()> {
                Ok(())
            }
            fn declared_fields(&self) -> &'static [FieldDesc] {
                &[]
            }
        }

        let runs = Arc::new(AtomicUsize::new(0));
        let db = Arc::new(PvDatabase::new());
        db.add_record("EV", Box::new(CountProbe(Arc::clone(&runs))))
            .await
            .unwrap();
        {
            let rec = db.get_record("EV").unwrap();
            rec.write().common.scan = ScanType::Event;
        }
        db.update_scan_index(b"EV", ScanType::Passive, ScanType::Event, 0, 0);

        build_and_run_on(&db).await;
        db.post_event().await;
        let while_running = runs.load(Ordering::SeqCst);
        assert_eq!(while_running, 1, "a running IOC processes its Event list");

        assert_eq!(ioc_pause(), 0);
        db.post_event().await;
        assert_eq!(
            runs.load(Ordering::SeqCst),
            while_running,
            "a posted event must not process anything while the IOC is paused"
        );

        assert_eq!(ioc_run(), 0);
        db.post_event().await;
        assert_eq!(
            runs.load(Ordering::SeqCst),
            while_running + 1,
            "iocRun must reopen the gate"
        );
    }
}
