//! The IOC's registry of protocol server layers — C `dbServer.c`.
//!
//! C keeps one process-global list of the servers that speak a protocol on
//! the IOC's behalf (`static ELLLIST serverList`, `dbServer.c:23`) plus the
//! phase the whole set is in (`static ... state`, `:24-27`). A server layer
//! adds itself with `dbRegisterServer` — RSRV does exactly that from
//! `rsrv_register_server` (`caservertask.c:1573-1575`), handing over its own
//! `casr` as the report function — and `dbsr` then walks the list.
//!
//! That indirection is the whole point of the design: `dbsr` is *not* a CA
//! command and knows nothing about channels or clients. It prints the phase,
//! then delegates to each registered layer. Porting it as anything else makes
//! it a different command; the port's `dbsr` used to print the database's own
//! record/alias/PV population, which is a number no C `dbsr` has ever shown.
//!
//! Deliberately not ported, because nothing in this workspace calls them:
//! `dbUnregisterServer` and `dbServerStats` (C's iocStats hook), and the
//! `initialized` phase. `dbInitServers`'s bind is
//! [`crate::server::ioc_app::IocApplication::register_server_init`], run at
//! the same point of `iocBuild`; nothing reads the phase it would mark. The
//! `paused` phase IS ported: `iocPause` reaches it (see
//! [`crate::server::ioc_app::ioc_pause`]), so a `Server state: paused` line
//! now names a phase this IOC can be in.

use std::sync::{Mutex, OnceLock};

/// What a server layer prints for `dbsr <level>` — C's `dbServer.report`
/// (`dbServer.h:96`), which RSRV fills with `casr`.
///
/// The sink is the caller's, not `println!`: `dbsr` runs inside an iocsh
/// command whose stdout may be redirected (`>` / `>>`), and C gets the same
/// effect because its `printf` goes through the FILE* `startRedirect`
/// installed on the thread.
pub type ReportFn = Box<dyn Fn(u32, &dyn Fn(&str)) + Send + Sync>;

/// C `dbServer.client` (`dbServer.h:74`): the client whose request the
/// calling thread is running, named as the layer names it, or `None`.
pub type ClientFn = fn() -> Option<String>;

/// One registered protocol server layer — C `struct dbServer`
/// (`dbServer.h:73-113`), less the members no caller here uses.
pub struct DbServer {
    /// C `dbServer.name` — must contain no space (`dbServer.c:37-41`), and is
    /// what `EPICS_IOC_IGNORE_SERVERS` names.
    pub name: &'static str,
    /// C `dbServer.report`, called by `dbsr` only while the set is running.
    pub report: Option<ReportFn>,
    /// C `dbServer.client`, asked by [`db_server_client`].
    pub client: Option<ClientFn>,
}

/// The phase the whole server set is in — C's `state` and the `stateNames[]`
/// it is printed through (`dbServer.c:24-27`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerState {
    Registering,
    Running,
    Paused,
    Stopped,
}

impl ServerState {
    /// C `stateNames[]` — the exact strings `dbsr` prints.
    fn name(self) -> &'static str {
        match self {
            ServerState::Registering => "registering",
            ServerState::Running => "running",
            ServerState::Paused => "paused",
            ServerState::Stopped => "stopped",
        }
    }
}

struct Registry {
    servers: Vec<DbServer>,
    state: ServerState,
}

fn registry() -> &'static Mutex<Registry> {
    static REGISTRY: OnceLock<Mutex<Registry>> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        Mutex::new(Registry {
            servers: Vec::new(),
            state: ServerState::Registering,
        })
    })
}

/// Is `name` listed in `EPICS_IOC_IGNORE_SERVERS`?
///
/// C matches on whitespace boundaries inside one space-separated string, not
/// on a bare substring — `dbServer.c:45-58` walks `strstr` hits and accepts
/// one only when the character before is the start or a space and the
/// character after is the end or a space. So `EPICS_IOC_IGNORE_SERVERS=qsrv2`
/// does not suppress `qsrv`, and `...=rsrv qsrv2` suppresses both.
fn ignored_by_env(name: &str) -> bool {
    let Some(ignore) = crate::runtime::env::get_lossy("EPICS_IOC_IGNORE_SERVERS") else {
        return false;
    };
    ignore.split(' ').any(|tok| tok == name)
}

/// C `dbRegisterServer` (`dbServer.c:30-72`). Returns whether the layer was
/// accepted; a name suppressed by `EPICS_IOC_IGNORE_SERVERS` is a success in
/// C too (it returns 0), so the caller must not treat that as a failure.
///
/// Refuses outside the `registering` phase, on a name containing a space, and
/// on a duplicate name — each with C's own diagnostic.
pub fn db_register_server(server: DbServer) -> bool {
    admit(&mut registry().lock().unwrap(), server)
}

/// [`db_register_server`] without the lock — the whole of C's checks, so the
/// gates can be tested against a private registry the way C's file static
/// cannot be.
fn admit(reg: &mut Registry, server: DbServer) -> bool {
    if reg.state != ServerState::Registering {
        return false;
    }
    if server.name.contains(' ') {
        crate::stderr_println!("dbRegisterServer: Bad server name '{}'", server.name);
        return false;
    }
    if ignored_by_env(server.name) {
        crate::stderr_println!(
            "dbRegisterServer: Ignoring '{}', per environment",
            server.name
        );
        return true;
    }
    if reg.servers.iter().any(|s| s.name == server.name) {
        crate::stderr_println!("dbRegisterServer: Can't redefine '{}'.", server.name);
        return false;
    }
    reg.servers.push(server);
    true
}

/// C `dbRunServers` (`dbServer.c:157-169`, the `STARTSTOP` macro) — the phase
/// `dbsr` needs before it will call any layer's report.
pub fn db_run_servers() {
    registry().lock().unwrap().state = ServerState::Running;
}

/// C `dbPauseServers` (`dbServer.c:157-169`) — the phase `iocPause` leaves
/// the set in, and the one `dbsr` suppresses layer reports in alongside
/// `registering` and `stopped`.
pub fn db_pause_servers() {
    registry().lock().unwrap().state = ServerState::Paused;
}

/// C `dbStopServers` (`dbServer.c:157-169`).
pub fn db_stop_servers() {
    registry().lock().unwrap().state = ServerState::Stopped;
}

/// How many times a protocol server layer has begun serving in this process,
/// in all and per layer.
///
/// C needs no such counter. `dbInitServers()` binds every registered layer in
/// `iocBuild` (`iocInit.c:222`) and `dbRunServers()` starts them in `iocRun`
/// (`:265-267`), and both are plain calls that RETURN, so by the time
/// `iocInit()` is done the sockets are up and RSRV's `casr` is on the command
/// table — the next line of the startup script cannot see a half-started IOC.
/// The port hands that work to a protocol runner the lifecycle SPAWNS, so the
/// same proof has to travel back: [`crate::server::ioc_app`] samples these
/// counters before it starts the runner and does not let `iocInit` return until
/// the runner has moved them.
///
/// Counters and not flags, so a second IOC in one process waits for its own
/// layers rather than reading the previous one's announcements.
#[derive(Default)]
struct Counts {
    any: u64,
    layers: Vec<(&'static str, u64)>,
}

impl Counts {
    fn layer(&self, name: &str) -> u64 {
        self.layers
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(0, |&(_, count)| count)
    }
}

fn serving() -> &'static (Mutex<Counts>, tokio::sync::Notify) {
    static SERVING: OnceLock<(Mutex<Counts>, tokio::sync::Notify)> = OnceLock::new();
    SERVING.get_or_init(Default::default)
}

/// The counters to wait past: one per layer in `layers`, and the count of
/// every layer's. Sample it BEFORE the runner is started.
pub struct ServingMark(Counts);

/// Sample the counters [`serving_after`] waits past, for `layers`.
pub fn serving_mark(layers: impl IntoIterator<Item = &'static str>) -> ServingMark {
    let now = serving().0.lock().unwrap();
    ServingMark(Counts {
        any: now.any,
        layers: layers
            .into_iter()
            .map(|name| (name, now.layer(name)))
            .collect(),
    })
}

/// Announce that `layer` has bound, registered and begun serving: the port's
/// stand-in for `rsrv_run` having returned (`caservertask.c:766-771`).
///
/// **The single owner is each protocol server's serve entry** — the one
/// function that starts accepting, `CaServer::run` and the PVA server's
/// `run_with_source_inner` start callback. Announcing there and nowhere else is
/// what keeps "a layer is serving" and "its counter moved" from coming
/// apart: a caller cannot start a server by another route, because there is no
/// other route to accepting a client. The one other announcement is that same
/// entry's when pvxs's registrar bound no server: the layer's `iocRun` work is
/// then done with nothing to serve, as pvxs's start hook returns.
pub fn announce_serving(layer: &'static str) {
    {
        let mut now = serving().0.lock().unwrap();
        now.any += 1;
        match now.layers.iter_mut().find(|(n, _)| *n == layer) {
            Some((_, count)) => *count += 1,
            None => now.layers.push((layer, 1)),
        }
    }
    serving().1.notify_waiters();
}

/// Resolve once some layer, and every layer `mark` names, has called
/// [`announce_serving`] since `mark` was sampled. Returns immediately if they
/// already have.
pub async fn serving_after(ServingMark(mark): &ServingMark) {
    loop {
        // Registered before the read, so an announcement between the two is
        // delivered rather than missed.
        let notified = serving().1.notified();
        {
            let now = serving().0.lock().unwrap();
            if now.any != mark.any
                && (mark.layers.iter()).all(|&(name, count)| now.layer(name) != count)
            {
                return;
            }
        }
        notified.await;
    }
}

/// Until `mark` is passed (`None`; see [`serving_after`]), or `runner` ends
/// first (its output). A shell started beside a runner waits here, so its
/// first prompt comes after the bind as C's `iocsh` after `iocInit`.
pub async fn serving_or_ended<F: std::future::Future + Unpin>(
    mark: &ServingMark,
    runner: &mut F,
) -> Option<F::Output> {
    tokio::select! {
        biased;
        out = runner => Some(out),
        () = serving_after(mark) => None,
    }
}

/// C `dbServerClient` (`dbServer.c:114-128`): the first registered layer's
/// name for the client the calling thread serves, asked only while the set is
/// running.
pub fn db_server_client() -> Option<String> {
    client_of(&registry().lock().unwrap())
}

/// [`db_server_client`] without the lock.
fn client_of(reg: &Registry) -> Option<String> {
    if reg.state != ServerState::Running {
        return None;
    }
    reg.servers
        .iter()
        .filter_map(|s| s.client)
        .find_map(|client| client())
}

/// C `dbsr` (`dbServer.c:95-112`), verbatim in shape: the no-layers line and
/// an early return, else the state line and then one `Server '<name>'` line
/// per layer, each followed by that layer's report — and the report ONLY
/// while running.
pub fn dbsr(level: u32, out: &dyn Fn(&str)) {
    render(&registry().lock().unwrap(), level, out);
}

/// [`dbsr`] without the lock.
fn render(reg: &Registry, level: u32, out: &dyn Fn(&str)) {
    if reg.servers.is_empty() {
        out("No server layers registered with IOC");
        return;
    }
    out(&format!("Server state: {}", reg.state.name()));
    for srv in &reg.servers {
        out(&format!("Server '{}'", srv.name));
        if reg.state == ServerState::Running {
            if let Some(report) = &srv.report {
                report(level, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The env matcher is C's whitespace-bounded one, not `contains`.
    #[test]
    fn ignore_servers_matches_whole_names_only() {
        // SAFETY: single-threaded test process for this variable; the two
        // cases below are the boundaries C's strstr walk exists to separate.
        unsafe { std::env::set_var("EPICS_IOC_IGNORE_SERVERS", "qsrv2") };
        assert!(ignored_by_env("qsrv2"));
        assert!(!ignored_by_env("qsrv"), "a prefix must not be suppressed");
        assert!(!ignored_by_env("rsrv"));
        unsafe { std::env::set_var("EPICS_IOC_IGNORE_SERVERS", "rsrv qsrv2") };
        assert!(ignored_by_env("rsrv"));
        assert!(ignored_by_env("qsrv2"));
        unsafe { std::env::remove_var("EPICS_IOC_IGNORE_SERVERS") };
        assert!(!ignored_by_env("rsrv"));
    }

    /// The whole of C's `dbsr` with nothing registered — one line, and NOT
    /// the state line (`dbServer.c:99-102` returns before printing it).
    #[test]
    fn dbsr_with_no_layers_is_one_line() {
        let out = std::cell::RefCell::new(Vec::<String>::new());
        let reg = Registry {
            servers: Vec::new(),
            state: ServerState::Running,
        };
        render(&reg, 0, &|s: &str| out.borrow_mut().push(s.to_string()));
        assert_eq!(*out.borrow(), vec!["No server layers registered with IOC"]);
    }

    /// BOUNDARY: `paused`. C prints the phase from `stateNames[]`
    /// (`dbServer.c:26-27`) and suppresses the layer report in every phase
    /// but `running` (`:107`), so a paused IOC's `dbsr` names the phase and
    /// stops there. Reachable since `iocPause` exists.
    #[test]
    fn dbsr_names_the_paused_phase_and_suppresses_the_report() {
        let out = std::cell::RefCell::new(Vec::<String>::new());
        let reg = Registry {
            servers: vec![DbServer {
                name: "rsrv",
                report: Some(Box::new(|_level, o: &dyn Fn(&str)| {
                    o("Channel Access Server");
                })),
                client: None,
            }],
            state: ServerState::Paused,
        };
        render(&reg, 0, &|s: &str| out.borrow_mut().push(s.to_string()));
        assert_eq!(
            *out.borrow(),
            vec!["Server state: paused", "Server 'rsrv'"],
            "C prints no report outside the running phase"
        );
    }

    /// State line, one `Server '<name>'` per layer, report only while
    /// running — C `dbServer.c:100-111`.
    #[test]
    fn dbsr_prints_the_state_then_each_layer() {
        let out = std::cell::RefCell::new(Vec::<String>::new());
        let sink = |s: &str| out.borrow_mut().push(s.to_string());

        let mut reg = Registry {
            servers: vec![DbServer {
                name: "rsrv",
                report: Some(Box::new(|level, o: &dyn Fn(&str)| {
                    o("Channel Access Server");
                    if level >= 1 {
                        o("    detail");
                    }
                })),
                client: None,
            }],
            state: ServerState::Registering,
        };
        render(&reg, 0, &sink);
        assert_eq!(
            *out.borrow(),
            vec!["Server state: registering", "Server 'rsrv'"],
            "a layer that is not running yet contributes no report"
        );

        out.borrow_mut().clear();
        reg.state = ServerState::Running;
        render(&reg, 0, &sink);
        assert_eq!(
            *out.borrow(),
            vec![
                "Server state: running",
                "Server 'rsrv'",
                "Channel Access Server"
            ]
        );

        out.borrow_mut().clear();
        render(&reg, 1, &sink);
        assert_eq!(
            *out.borrow(),
            vec![
                "Server state: running",
                "Server 'rsrv'",
                "Channel Access Server",
                "    detail"
            ],
            "the interest level reaches the layer's own report"
        );
    }

    /// The first layer that names a client wins, and none is asked outside
    /// the running phase — C `dbServer.c:118-127`.
    #[test]
    fn the_client_is_the_first_layer_s_answer_while_running() {
        let layer = |name, client: ClientFn| DbServer {
            name,
            report: None,
            client: Some(client),
        };
        let mut reg = Registry {
            servers: vec![
                layer("rsrv", || None),
                layer("qsrv2", || Some("q2:a@p".into())),
                layer("other", || Some("other".into())),
            ],
            state: ServerState::Paused,
        };
        assert_eq!(client_of(&reg), None);
        reg.state = ServerState::Running;
        assert_eq!(client_of(&reg).as_deref(), Some("q2:a@p"));
    }

    /// A name with a space is refused, as is a duplicate — and the phase gate
    /// closes registration once the servers are running.
    #[test]
    fn registration_gates() {
        let mut reg = Registry {
            servers: Vec::new(),
            state: ServerState::Registering,
        };
        assert!(admit(
            &mut reg,
            DbServer {
                name: "rsrv",
                report: None,
                client: None
            }
        ));
        assert!(
            !admit(
                &mut reg,
                DbServer {
                    name: "rsrv",
                    report: None,
                    client: None
                }
            ),
            "a duplicate name is refused"
        );
        assert!(
            !admit(
                &mut reg,
                DbServer {
                    name: "two words",
                    report: None,
                    client: None
                }
            ),
            "a name with a space is refused"
        );
        reg.state = ServerState::Running;
        assert!(
            !admit(
                &mut reg,
                DbServer {
                    name: "qsrv2",
                    report: None,
                    client: None
                }
            ),
            "registration closes once the set is running"
        );
    }

    /// Passed only once every named layer has announced since the mark, so
    /// one layer up — or the other's announcement from before it — is not
    /// enough.
    #[test]
    fn a_mark_waits_for_every_layer_it_names() {
        let passed = |mark: &ServingMark| {
            let wait = std::pin::pin!(serving_after(mark));
            wait.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
                .is_ready()
        };
        announce_serving("mark-b");
        let mark = serving_mark(["mark-a", "mark-b"]);
        assert!(!passed(&mark));
        announce_serving("mark-a");
        assert!(!passed(&mark), "mark-b announced before the mark");
        announce_serving("mark-b");
        assert!(passed(&mark));
    }
}
