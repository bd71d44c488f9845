//! Top-level [`PvaServer`] runtime: spawns UDP responder + TCP listener.

// RTEMS-EXEC-MODEL-ALLOW(19): this file does not build on the exec backend -
// server_native/mod.rs declares it under #[cfg(tokio_backend)] mod runtime;.
use std::net::SocketAddr;
use std::sync::Arc;

use crate::error::{PvaError, PvaResult};

use super::search_engine::ServerInterfaces;
use super::serv_iface::tcp_bind_addresses;
use super::source::{ChannelInvalidator, ChannelSource, ChannelSourceObj, DynSource};
use super::udp::{SearchReplier, random_guid, serve_udp};
use crate::sock_attach::can_ipv6;

// The config record moved to [`super::config`] so the protocol layer can name
// it without inheriting this module's host-only gate. Re-exported here so
// every `server_native::runtime::PvaServerConfig` path keeps resolving.
pub use super::config::{DEFAULT_MAX_MESSAGE_SIZE, PvaServerConfig};

/// Run a native PVA server forever.
///
/// The server spawns:
///
/// - UDP search responder on `config.udp_port` (also emits beacons every
///   15 s)
/// - TCP listener on `config.tcp_port` (handles connections concurrently)
pub async fn run_pva_server<S>(source: Arc<S>, config: PvaServerConfig) -> PvaResult<()>
where
    S: ChannelSource + 'static,
{
    run_pva_server_reporting(source, config, |_| {}).await
}

/// Like [`run_pva_server`], but invokes `on_started` once with a cheap,
/// shareable [`ServerReportHandle`] *after* the listeners are bound — so
/// the actually-bound TCP/TLS ports (which may differ from the requested
/// ones under the ephemeral-fallback path) are already known. The
/// callback runs synchronously between `start()` and `wait()`, before any
/// `.await`, so the handle is published the instant the server is live.
///
/// This is the seam the iocsh `pvxsr` command rides on: the native
/// `PvaServer` is born here and consumed by `wait()`, so a shell command
/// running inside the server has no other way to reach the report state.
///
/// It is also the only way to run a server on a **kernel-assigned** port and
/// learn the number: with `udp_port`/`tcp_port` = 0, `start()` binds and the
/// handle reports what it got, so a caller never has to guess a port or
/// probe-then-rebind one. `epics-oracle-rs`'s differential harness rides this
/// seam for exactly that reason.
pub async fn run_pva_server_reporting<S, F>(
    source: Arc<S>,
    config: PvaServerConfig,
    on_started: F,
) -> PvaResult<()>
where
    S: ChannelSource + 'static,
    F: FnOnce(ServerReportHandle),
{
    serve_reporting(PvaServer::start(source, config)?, on_started).await
}

/// [`run_pva_server_reporting`] for a server already started, as from
/// [`BoundPvaServer::start`].
pub async fn serve_reporting<F>(server: PvaServer, on_started: F) -> PvaResult<()>
where
    F: FnOnce(ServerReportHandle),
{
    on_started(server.report_handle());
    server.wait().await
}

/// [`super::serv_iface::bind_serv_ifaces`], registered with tokio.
fn bind_serv_ifaces(
    addrs: impl IntoIterator<Item = SocketAddr>,
    port: u16,
) -> PvaResult<(Vec<tokio::net::TcpListener>, u16)> {
    let (listeners, port) = super::serv_iface::bind_serv_ifaces(addrs, port)?;
    let listeners = listeners
        .into_iter()
        .map(|l| {
            l.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(l)
        })
        .collect::<std::io::Result<_>>()?;
    Ok((listeners, port))
}

/// Handle to a running PVA server returned by [`PvaServer::start`].
///
/// Holds the JoinHandles for the UDP responder and TCP listener tasks
/// plus a shutdown channel. Use [`PvaServer::stop`] for graceful
/// shutdown — accept loop exits immediately so no new connections, and
/// existing per-client handler tasks unwind on their next read/write
/// (TCP keepalive plus the read-loop's `op_timeout` bound the stragglers).
/// [`PvaServer::wait`] blocks until both tasks have observed the
/// shutdown and returned.
pub struct PvaServer {
    /// Wrapped in Option so consuming methods (`run`, `wait`) can
    /// `.take()` the handles while leaving the struct intact for
    /// the Drop impl below.
    /// The search responders of both families and the beacons, ended
    /// together ([`serve_udp`]).
    udp_handle: Option<tokio::task::JoinHandle<PvaResult<()>>>,
    tcp_handle: Option<tokio::task::JoinHandle<PvaResult<()>>>,
    /// Held only for the Drop impl. JoinHandle can't be cloned and
    /// `run`/`wait` may have already taken it, so Drop uses these
    /// AbortHandles to reach the live task either way.
    udp_abort: tokio::task::AbortHandle,
    tcp_abort: tokio::task::AbortHandle,
    /// The v4 responder's, down from the start when no v4 entry bound one.
    udp_alive: Liveness,
    /// The v6 responder's, `None` when no v6 entry bound one.
    udp_v6_alive: Option<Liveness>,
    /// Effective config the server is running under. Captured at
    /// `start()` so `client_config` can hand back a builder
    /// pre-pointed at the actual bound TCP port without re-reading env
    /// vars (which may have changed since startup).
    effective_config: PvaServerConfig,
    /// [`pvxs_config_text`] of the bound server.
    pvxs_config: Arc<str>,
    /// The served registry, for the `pvxsr` source list.
    source: DynSource,
    /// The `__builtin` store in [`Self::source`].
    builtin: Arc<super::SharedSource>,
    /// Bound TCP socket address — useful when the configured port was
    /// 0, or the requested port was taken, and the OS picked one. This
    /// is the actually-bound port (`start()` stamps it back from
    /// `first_listener.local_addr()`), not the requested value —
    /// query [`Self::report`] for it, never assume `config.tcp_port`.
    bound_tcp_port: u16,
    /// Bound dedicated-TLS port, advertised as the `"tls"` SEARCH endpoint.
    /// Equals [`Self::bound_tcp_port`] when TLS shares the plaintext port
    /// (no separate listener) and is meaningless when TLS is disabled.
    bound_tls_port: u16,
    /// Programmatic interrupt for [`Self::run`]. Not used by `wait()`.
    interrupt: Arc<tokio::sync::Notify>,
    /// Per-peer book-keeping registry shared with `run_tcp_server`'s
    /// per-connection task. The accept loop registers an entry
    /// on connect; the connection task updates `last_rx_at` and
    /// `channels` periodically; the entry is removed on disconnect.
    /// `PvaServer::report()` snapshots the registry to surface per-
    /// connection diagnostics (pvxs `Server::report()` parity at the
    /// "live peers + channel counts" level).
    pub(crate) peers: Arc<crate::server_native::peers::PeerRegistry>,
}

impl Drop for PvaServer {
    /// Abort the listener tasks when the server value is dropped.
    /// Without this the bound TCP/UDP sockets and their accept loops
    /// outlive the PvaServer struct, leaking ports across test runs
    /// and surviving panics in the binary's main task. Per-connection
    /// handler tasks unwind on their next IO call.
    ///
    /// Unconditional: `run`/`wait` move the JoinHandles into their own
    /// future, so a caller that aborts that future (a cancelled run
    /// task) would otherwise leave the listener and responder bound
    /// with nobody to stop them. The AbortHandles reach the live task
    /// either way, and aborting one that already finished is a no-op.
    fn drop(&mut self) {
        self.udp_abort.abort();
        self.tcp_abort.abort();
        self.interrupt.notify_waiters();
    }
}

impl PvaServer {
    /// Convenience factory: a loopback-only server with auto-picked
    /// free ports. Mirrors pvxs `Config::isolated().build()`. Useful
    /// for self-contained tests where a UDP-discoverable production
    /// config would interfere with concurrent runs.
    pub fn isolated<S>(source: Arc<S>) -> PvaResult<Self>
    where
        S: ChannelSource + 'static,
    {
        // Both ports stay 0 and `Self::start` does the binding, so the
        // socket that serves clients is the one the binder is still
        // holding. The pre-bind-read-drop this replaces handed back a
        // number it had stopped owning: anything on the box could take
        // the port between the drop and the responder's own bind. TCP
        // was moved off that shape earlier; UDP kept it on the grounds
        // that the responder task owned the socket lifecycle, which
        // stopped being true once `start` began binding the search
        // socket itself and stamping the kernel's answer onto
        // `config.udp_port`.
        //
        // The window mattered more here than a lost bind would: the
        // search socket sets SO_REUSEPORT unconditionally, so a
        // collision does not fail — a second server binds the same
        // number and the two answer searches at random, with no error
        // to detect afterwards. `bind_udp`'s own contract says the port
        // must be read back and never probed; this was the one caller
        // still probing it.
        Self::start(source, PvaServerConfig::isolated())
    }

    /// Spawn the UDP responder and TCP listener; return a handle.
    ///
    /// # Errors
    ///
    /// Returns [`PvaError::Io`] if the TCP listener cannot be bound —
    /// e.g. the requested `bind_ip` is not a local address, or the
    /// requested port is taken and not eligible for the ephemeral
    /// fallback (the fallback covers `AddrInUse` / `PermissionDenied`
    /// on a non-zero requested port only). A bind failure returns
    /// `Err` rather than aborting the process.
    ///
    /// The user-supplied `source` is wrapped in a
    /// [`super::CompositeSource`] together with the built-in
    /// [`super::server_info::ServerInfoSource`]. The diagnostic source
    /// goes in at `"__server"`, `order = -1`, where pvxs keeps its
    /// internals (src/server.cpp:542-546); the hand-in source goes in at
    /// `order = 0`, the default `Server::addSource` gives an application
    /// source (pvxs/server.h:116-118), so it sits strictly behind the
    /// internals as QSRV's own sources do (ioc/singlesourcehooks.cpp:158,
    /// ioc/groupsourcehooks.cpp:219). The consequence, and it is pvxs's:
    /// the channel named `server` is claimed by the diagnostic source
    /// (serversource.cpp:30-33) even when the user source hosts a PV of
    /// that name, which is what keeps `pvxlist` — an RPC to that very
    /// channel name (tools/list.cpp:159-161) — answering. Every other
    /// name falls through to the user source, since the built-in one
    /// claims nothing else.
    pub fn start<S>(source: Arc<S>, config: PvaServerConfig) -> PvaResult<Self>
    where
        S: ChannelSource + 'static,
    {
        Self::bind(config)?.start(source)
    }

    /// Bind the search socket(s) and the TCP listener(s) without serving on
    /// them: pvxs's `Server` between its constructor (`server.cpp:385-500`,
    /// listeners disabled) and `start()`. The ports are final here, ephemeral
    /// and fallen-back ones included, and a held search port fails here.
    pub fn bind(config: PvaServerConfig) -> PvaResult<BoundPvaServer> {
        let mut config = config;
        // `EPICS_PVAS_INTF_ADDR_LIST` expanded once, for TCP, UDP and beacons.
        let interfaces = ServerInterfaces::resolve(
            &config.interfaces,
            &config.beacon_destinations,
            config.auto_beacon,
        )?;
        // Empty → single `bind_ip` default; see [`tcp_bind_addresses`].
        let tcp_bind = tcp_bind_addresses(
            &interfaces.addrs,
            config.bind_ip,
            config.tcp_port,
            can_ipv6(),
        );

        // Robustness: bind the TCP listener(s) synchronously here so the
        // actually-bound port is observable to client_config() before
        // start() returns. The previous design spawned the accept task
        // and trusted `config.tcp_port` (which is 0 for ephemeral
        // pickers), leaving a race window where a concurrent test
        // could grab a freshly-released port between `pick_port`'s
        // drop and the accept task's bind. tokio's
        // `std::net::TcpListener::bind` is sync; we then promote it
        // to a non-blocking tokio listener after spawning.
        //
        // Multi-server-on-one-host: when the requested port is taken
        // (e.g. an existing PVA IOC already bound 5075), fall back
        // to ephemeral (port 0) once and let the OS pick, through
        // `bind_serv_iface`. The actually-bound port flows out via
        // `bound_tcp_port`, which the UDP responder advertises in
        // SEARCH_RESPONSE / beacons, so clients still find us. UDP
        // 5076 is already SO_REUSEPORT-shareable across local PVA
        // processes (epics-base-rs/net/async_udp_v4.rs:620), so the
        // remaining bottleneck was just the TCP single-bind.
        //
        // With a multi-interface list only the FIRST listener may fall back;
        // the others bind their own port (see [`bind_serv_ifaces`]).
        let (mut tcp_listeners, bound_tcp_port) =
            bind_serv_ifaces(tcp_bind.iter().copied(), config.tcp_port)?;
        // Single bound-port source of truth: stamp the actually-bound
        // port back onto `config` so every consumer of `config.tcp_port`
        // — the TCP-circuit SEARCH_RESPONSE (handle_tcp_search), beacons,
        // report(), and client_config() — advertises the live listener
        // port, not the requested value. pvxs writes the TCP SEARCH
        // server port from the bound interface address
        // (`iface->bind_addr.port()`, serverchan.cpp:238-242). Without
        // this, a `tcp_port = 0` or occupied-port fallback made UDP
        // discovery advertise the real port while TCP-circuit SEARCH
        // handed out 0 or the occupied requested port. The ephemeral
        // fallback above already consumed the original `tcp_port`, so
        // overwriting it here is safe.
        config.tcp_port = bound_tcp_port;

        // Dedicated TLS listener(s), on `tls_port` beside the plaintext ones.
        // pvxs 1.5.3 has no TLS, so nothing here has a 1.5.3 counterpart.
        // Without a distinct listener a deployment that sets
        // EPICS_PVAS_TLS_PORT — or a client addressed straight at the TLS
        // port via a name server — could not reach the server, since the
        // Rust server otherwise only listens on `tcp_port`. The listener
        // runs the same first-byte dispatch as the plaintext one
        // (`run_tcp_server_on_listener`): a TLS ClientHello is upgraded; a
        // plaintext peer is served plain unless `disable_plaintext` refuses
        // it. `bound_tls_port` is the port advertised as the `"tls"` endpoint.
        //
        // Skip the extra bind when the requested TLS port resolves to the
        // already-bound plaintext port (an explicit collision): the shared
        // listener already serves TLS via the peek, and a second bind on the
        // same (addr, port) would fail with AddrInUse.
        let bound_tls_port = if config.tls.is_some() && config.tls_port != bound_tcp_port {
            // Bound like the plaintext interfaces, `tls_port` in place of
            // each entry's TCP port.
            let tls_bind = tcp_bind
                .iter()
                .map(|a| SocketAddr::new(a.ip(), config.tls_port));
            let (tls_listeners, tls_port) = bind_serv_ifaces(tls_bind, config.tls_port)?;
            tcp_listeners.extend(tls_listeners);
            tls_port
        } else {
            // No separate TLS listener: when TLS is enabled the shared
            // plaintext port serves it (peek dispatch), so the advertised
            // TLS endpoint is that port. When TLS is disabled the value is
            // inert (never advertised — see `protocol` below).
            bound_tcp_port
        };
        // Single bound-port source of truth for the TLS endpoint, mirroring
        // the `config.tcp_port = bound_tcp_port` stamp above. Only meaningful
        // when TLS is enabled; left untouched otherwise so a disabled-TLS
        // server's report keeps the configured value rather than aliasing the
        // plaintext port.
        if config.tls.is_some() {
            config.tls_port = bound_tls_port;
        }

        // Bind the search socket synchronously here, for the same reason the
        // TCP listener is bound above rather than inside its task: with
        // `udp_port = 0` the kernel picks the number, and a bind performed
        // inside the spawned responder would publish it nowhere — `report()`,
        // beacons, and `client_config()` would all advertise 0. Binding here
        // and stamping the result back onto `config` keeps a single
        // bound-port source of truth (pvxs does the same read-back at
        // `src/server.cpp:426`).
        // Each family's socket is bound here as well, on the same number,
        // so a start that cannot hold both fails here.
        let requested_udp_port = config.udp_port;
        let udp = crate::server_native::udp::bind_udp(config.udp_port, &interfaces)?;
        config.udp_port = udp.port;
        // After the sockets, as pvxs draws it (`server.cpp:497-539`).
        // `?` and not a fallback: a host with no entropy source must fail to
        // start rather than advertise a guessable identity — see `random_guid`
        // for why every consumer of a GUID collision degrades silently, which
        // makes this the last moment the problem is visible.
        let guid = random_guid()?;
        // The TCP-circuit SEARCH handler reads this guid out of the
        // per-connection config copy, so it is stamped on before any copy.
        config.guid = guid;
        let pvxs_config = pvxs_config_text(&config, &interfaces, requested_udp_port).into();
        // pvxs's collector reads from its bind (`udp_collector.cpp:169`), so
        // the responders do too, answering nothing until `start`.
        let beacons = super::beacon::beacon_destinations(
            config.beacon_destinations.clone(),
            config.auto_beacon,
            &interfaces.bcast_ifaces(),
            udp.port,
        );
        let (udp_alive, v4_guard) = Liveness::guarded();
        let (udp_v6_alive, v6_guard) = Liveness::guarded();
        let udp_v6_alive = udp.v6.is_some().then_some(udp_v6_alive);
        let (udp_start, started) = tokio::sync::watch::channel(None);
        let udp_handle = tokio::spawn(serve_udp(
            udp,
            config.ignore_addrs.clone(),
            started,
            beacons,
            super::beacon::BeaconCycle::new(
                config.beacon_period,
                config.beacon_period_long,
                config.beacon_burst_count,
            ),
            v4_guard,
            v6_guard,
        ));
        Ok(BoundPvaServer {
            config,
            pvxs_config,
            guid,
            tcp_listeners,
            bound_tcp_port,
            bound_tls_port,
            udp_handle,
            udp_start,
            udp_alive,
            udp_v6_alive,
            builtin: Arc::new(super::SharedSource::new()),
        })
    }

    /// Build a [`crate::client_native::context::PvaClient`] pointed at
    /// this server on loopback. Mirrors pvxs `Server::clientConfig` —
    /// useful for self-contained tests where you want a client that
    /// talks to the in-process server without UDP discovery.
    ///
    /// Loopback family matches the server's `bind_ip` family (PR #205
    /// IPv6 Stage 1): a v6-bound server hands out a `[::1]:port`
    /// client target, a v4-bound server hands out `127.0.0.1:port`.
    /// Otherwise a v6 listener on `[::1]` would be unreachable from
    /// the test client.
    ///
    /// The one server method whose *return type* is a client — so it is the
    /// one that gates with the client (design doc §9 phase 6, item 2). Use
    /// [`Self::tcp_addr`] on a server-only build; that is what this
    /// hands the builder anyway.
    #[cfg(feature = "client")]
    pub fn client_config(&self) -> crate::client_native::context::PvaClient {
        let loopback = match self.effective_config.bind_ip {
            std::net::IpAddr::V4(_) => std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            std::net::IpAddr::V6(_) => std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        };
        let addr = SocketAddr::new(loopback, self.bound_tcp_port);
        crate::client_native::context::PvaClient::builder()
            .server_addr(addr)
            .build()
    }

    /// Effective config snapshot. pvxs `Server::config` parity.
    pub fn config(&self) -> &PvaServerConfig {
        &self.effective_config
    }

    /// Loopback address the TCP listener actually bound to. Useful
    /// for tests that want a raw TCP socket against the server
    /// (e.g. wire-level interop tests that bypass the client
    /// stack). Mirrors pvxs `Server::bound_tcp_addr`.
    pub fn tcp_addr(&self) -> SocketAddr {
        let loopback = match self.effective_config.bind_ip {
            std::net::IpAddr::V4(_) => std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            std::net::IpAddr::V6(_) => std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        };
        SocketAddr::new(loopback, self.bound_tcp_port)
    }

    /// Loopback address the dedicated TLS listener bound to, or `None`
    /// when TLS is disabled. When TLS shares the plaintext port (no
    /// separate listener) this equals [`Self::tcp_addr`]. Useful for
    /// raw-socket interop tests that drive a TLS ClientHello at the
    /// advertised `"tls"` endpoint.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        // Only present when TLS is configured.
        self.effective_config.tls.as_ref()?;
        let loopback = match self.effective_config.bind_ip {
            std::net::IpAddr::V4(_) => std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            std::net::IpAddr::V6(_) => std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        };
        Some(SocketAddr::new(loopback, self.bound_tls_port))
    }

    /// Block on this server until it stops, SIGINT/SIGTERM is received,
    /// or [`Self::interrupt`] is called. pvxs `Server::run` for CLI
    /// daemons. Returns Ok on graceful shutdown, Err if a subsystem
    /// task panicked or exited abnormally.
    pub async fn run(mut self) -> PvaResult<()> {
        let interrupt = self.interrupt.clone();
        let ctrl_c = async {
            let _ = tokio::signal::ctrl_c().await;
        };
        let udp = self.udp_handle.take().expect("PvaServer::run called twice");
        let tcp = self.tcp_handle.take().expect("PvaServer::run called twice");
        tokio::select! {
            _ = ctrl_c => Ok(()),
            _ = interrupt.notified() => Ok(()),
            r = udp => match r {
                Ok(res) => res,
                Err(e) if e.is_cancelled() => Ok(()),
                Err(e) => Err(crate::error::PvaError::Protocol(format!("udp task panic: {e}"))),
            },
            r = tcp => match r {
                Ok(res) => res,
                Err(e) if e.is_cancelled() => Ok(()),
                Err(e) => Err(crate::error::PvaError::Protocol(format!("tcp task panic: {e}"))),
            },
        }
    }

    /// Trip [`Self::run`] from another task. Mirrors pvxs
    /// `Server::interrupt`.
    pub fn interrupt(&self) {
        self.interrupt.notify_waiters();
    }

    /// Snapshot summary-level diagnostics. pvxs `Server::report`
    /// counterpart: server liveness/config plus per-peer connection
    /// counters and per-channel tx/rx byte counters (see
    /// [`crate::server_native::PeerSnapshot::channels_detail`]).
    pub fn report(&self) -> ServerReport {
        self.report_zeroed(false)
    }

    /// like [`Self::report`] but, when `zero` is true, resets each peer's
    /// connection byte counters AND every per-channel tx/rx counter after
    /// the snapshot — pvxs `Server::report(bool zero)` (src/server.cpp:256-272),
    /// so a subsequent report returns the deltas since this one. Channel
    /// membership and credentials are not reset.
    pub fn report_zeroed(&self, zero: bool) -> ServerReport {
        // Liveness from the owned TCP JoinHandle (a `None` handle — taken by
        // `run`/`wait` — reads as not-alive) and the responders' guards.
        // `ServerReportHandle::report` resolves the same booleans; both
        // feed the single [`assemble_report`] builder so the struct shape
        // can never drift between the two paths.
        assemble_report(ReportFields {
            tcp_port: self.bound_tcp_port,
            udp_port: self.effective_config.udp_port,
            tls_port: self.bound_tls_port,
            tls_enabled: self.effective_config.tls.is_some(),
            ignore_addrs: self.effective_config.ignore_addrs.len(),
            beacon_period_secs: self.effective_config.beacon_period.as_secs(),
            udp_alive: self.udp_alive.alive(),
            udp_v6_alive: self.udp_v6_alive.as_ref().is_some_and(Liveness::alive),
            tcp_alive: self
                .tcp_handle
                .as_ref()
                .map(|h| !h.is_finished())
                .unwrap_or(false),
            peers: &self.peers,
            zero,
        })
    }

    /// The `__builtin` store: pvxs's `Server::addPV` / `removePV`.
    pub fn builtin(&self) -> &Arc<super::SharedSource> {
        &self.builtin
    }

    /// A cheap, cloneable handle that reproduces [`Self::report`] from
    /// outside this server's owning task.
    ///
    /// It captures the shared peer registry (`Arc`), the bound
    /// ports/config scalars, and the per-task `AbortHandle`s. Unlike a
    /// `&PvaServer` it stays valid after `run`/`wait` have consumed the
    /// `PvaServer` value — which is exactly the iocsh `pvxsr` situation:
    /// the native server is created and `wait()`-consumed deep inside
    /// [`run_pva_server`], two layers below the shell registration point,
    /// so the report state is otherwise unreachable from the shell.
    /// Liveness reads the same `AbortHandle`s that `Drop`/[`Self::stop`]
    /// act on, equivalent to the JoinHandle `is_finished` that
    /// [`Self::report_zeroed`] reads for the same tasks.
    pub fn report_handle(&self) -> ServerReportHandle {
        ServerReportHandle {
            bound_tcp_port: self.bound_tcp_port,
            udp_port: self.effective_config.udp_port,
            bound_tls_port: self.bound_tls_port,
            tls_enabled: self.effective_config.tls.is_some(),
            ignore_addrs: self.effective_config.ignore_addrs.len(),
            beacon_period_secs: self.effective_config.beacon_period.as_secs(),
            pvxs_config: self.pvxs_config.clone(),
            peers: self.peers.clone(),
            builtin: self.builtin.clone(),
            running: Some(Running {
                source: self.source.clone(),
                tcp_alive: finished_reads_down(self.tcp_abort.clone()),
                udp_alive: self.udp_alive.clone(),
                udp_v6_alive: self.udp_v6_alive.clone(),
            }),
        }
    }

    /// Stop accepting new connections. Aborts both background tasks;
    /// per-client tasks already spawned continue independently and
    /// unwind on their next failed I/O. Mirrors pvxs `Server::stop`
    /// (src/server.cpp:616) at the "no new connections" granularity. For
    /// hard-stop semantics drop the entire `PvaServer` instead.
    pub fn stop(&self) {
        self.tcp_abort.abort();
        self.udp_abort.abort();
    }

    /// Block until either task returns. Either subsystem exiting is
    /// treated as fatal — an Err here means the server is no longer
    /// serving even if `stop()` wasn't called.
    pub async fn wait(mut self) -> PvaResult<()> {
        // select! drops the losing branch's JoinHandle, but
        // dropping a JoinHandle does NOT abort the task. Without an
        // explicit abort, a UDP-side panic leaves the TCP listener
        // orphaned (and vice versa). Use the per-server AbortHandles
        // (also held by Drop) to abort the loser regardless of which
        // branch fires first.
        let udp_abort = self.udp_abort.clone();
        let tcp_abort = self.tcp_abort.clone();
        let udp = self
            .udp_handle
            .take()
            .expect("PvaServer::wait called twice");
        let tcp = self
            .tcp_handle
            .take()
            .expect("PvaServer::wait called twice");
        tokio::select! {
            r = udp => {
                tcp_abort.abort();
                match r {
                    Ok(res) => res,
                    Err(e) if e.is_cancelled() => Ok(()),
                    Err(e) => Err(crate::error::PvaError::Protocol(format!("udp task panic: {e}"))),
                }
            },
            r = tcp => {
                udp_abort.abort();
                match r {
                    Ok(res) => res,
                    Err(e) if e.is_cancelled() => Ok(()),
                    Err(e) => Err(crate::error::PvaError::Protocol(format!("tcp task panic: {e}"))),
                }
            },
        }
    }
}

/// A [`PvaServer`] bound by [`PvaServer::bind`] that serves nothing yet. Its
/// listeners queue connections until [`Self::start`]; its search sockets are
/// read from the bind, forwarding a local unicast SEARCH and answering none,
/// as pvxs's collector is until `Server::Pvt::start` (`server.cpp:555`).
/// Dropping it closes the search sockets.
pub struct BoundPvaServer {
    config: PvaServerConfig,
    /// [`pvxs_config_text`] of the bound server.
    pvxs_config: Arc<str>,
    guid: [u8; 12],
    tcp_listeners: Vec<tokio::net::TcpListener>,
    bound_tcp_port: u16,
    bound_tls_port: u16,
    /// The search responders, reading since the bind ([`serve_udp`]).
    udp_handle: tokio::task::JoinHandle<PvaResult<()>>,
    /// Their started state, sent once by [`Self::start`].
    udp_start: tokio::sync::watch::Sender<Option<SearchReplier>>,
    udp_alive: Liveness,
    udp_v6_alive: Option<Liveness>,
    builtin: Arc<super::SharedSource>,
}

impl BoundPvaServer {
    /// The TCP port the listeners hold — the requested one, or the fallback.
    pub fn bound_tcp_port(&self) -> u16 {
        self.bound_tcp_port
    }

    /// The `__builtin` store: pvxs's `Server::addPV` / `removePV`, which
    /// take PVs before `start` too.
    pub fn builtin(&self) -> &Arc<super::SharedSource> {
        &self.builtin
    }

    /// The report of a server that has not started: pvxs's `Stopped`, with
    /// only the internal sources and no peers.
    pub fn report_handle(&self) -> ServerReportHandle {
        ServerReportHandle {
            bound_tcp_port: self.bound_tcp_port,
            udp_port: self.config.udp_port,
            bound_tls_port: self.bound_tls_port,
            tls_enabled: self.config.tls.is_some(),
            ignore_addrs: self.config.ignore_addrs.len(),
            beacon_period_secs: self.config.beacon_period.as_secs(),
            pvxs_config: self.pvxs_config.clone(),
            peers: crate::server_native::peers::PeerRegistry::new(),
            builtin: self.builtin.clone(),
            running: None,
        }
    }

    /// Serve `source` on the bound sockets; see [`PvaServer::start`].
    pub fn start<S>(self, source: Arc<S>) -> PvaResult<PvaServer>
    where
        S: ChannelSource + 'static,
    {
        let BoundPvaServer {
            config,
            pvxs_config,
            guid,
            tcp_listeners,
            bound_tcp_port,
            bound_tls_port,
            udp_handle,
            udp_start,
            udp_alive,
            udp_v6_alive,
            builtin,
        } = self;
        // The live per-peer registry is created up-front so the
        // built-in server-info source can report connection counts.
        let peers = crate::server_native::peers::PeerRegistry::new();

        // The reserved `__server` composition — the same one
        // `BlockingPvaServer::bind` performs. Written once in
        // `server_info::compose_with_server_info`, because two copies of a
        // composition rule is how the blocking driver came to have no
        // server meta-channel at all.
        let user_source: DynSource = source as Arc<dyn ChannelSourceObj>;
        let dyn_source = super::server_info::compose_with_server_info(user_source, builtin.clone())
            .map_err(|e| PvaError::Protocol(format!("PvaServer::start: {e}")))?;
        let report_source = dyn_source.clone();

        // One server-wide channel-invalidation fan-out. A source that can
        // invalidate a channel out of band (the PVA gateway, on an operator
        // `<prefix>:drop` / `:flush`) publishes the affected PV name(s) here;
        // every per-connection task holds a receiver and force-disconnects any
        // channel it currently serves under those names with a server-initiated
        // DESTROY_CHANNEL — the downstream effect of pva2pva's cache-entry
        // `channel->destroy()` fanout. Lossless by construction (per-connection
        // unbounded queues + one batch per removal command, see
        // [`ChannelInvalidator`]); per-connection receivers are minted at
        // accept from this clone.
        let channel_invalidator = ChannelInvalidator::new();
        dyn_source.set_channel_invalidator(channel_invalidator.clone());

        let protocol: &'static str = if config.tls.is_some() { "tls" } else { "tcp" };
        // The port advertised for `protocol` in SEARCH replies / beacons.
        // pvxs returns `tls_port` for a protoTLS reply and `tcp_port`
        // otherwise (src/server.cpp:849-857); on a TLS server clients are
        // therefore steered to the dedicated TLS listener bound above.
        let advertised_tcp_port = if config.tls.is_some() {
            bound_tls_port
        } else {
            bound_tcp_port
        };
        // pvxs's search listeners and beacon timer (`server.cpp:555-599`).
        // A send fails only when the responders have ended, which
        // `udp_handle` reports.
        let _ = udp_start.send(Some(SearchReplier {
            source: dyn_source.clone(),
            tcp_port: advertised_tcp_port,
            guid,
            protocol,
        }));
        // One accept loop per bound interface, supervised by a single
        // task so the `PvaServer` keeps its single-handle shape (Drop /
        // run / wait / report / stop are unchanged). The supervisor owns
        // the per-listener `run_tcp_server_on_listener` futures in a
        // JoinSet: the first listener to return Err ends the service and
        // dropping the supervisor future (PvaServer::stop →
        // `tcp_abort.abort()`) aborts every accept loop together. With
        // the default empty interface list this is exactly one listener,
        // identical to the previous single-bind behaviour.
        let tcp_source = dyn_source;
        let tcp_config = config.clone();
        let tcp_peers = peers.clone();
        let tcp_invalidator = channel_invalidator;
        let tcp_handle = tokio::spawn(async move {
            let mut set: tokio::task::JoinSet<PvaResult<()>> = tokio::task::JoinSet::new();
            for listener in tcp_listeners {
                set.spawn(crate::server_native::tcp::run_tcp_server_on_listener(
                    tcp_source.clone(),
                    listener,
                    tcp_config.clone(),
                    tcp_peers.clone(),
                    tcp_invalidator.clone(),
                ));
            }
            while let Some(joined) = set.join_next().await {
                match joined {
                    Ok(Ok(())) => continue,
                    Ok(Err(e)) => return Err(e),
                    Err(e) if e.is_cancelled() => return Ok(()),
                    Err(e) => {
                        return Err(crate::error::PvaError::Protocol(format!(
                            "tcp listener task panic: {e}"
                        )));
                    }
                }
            }
            Ok(())
        });

        let udp_abort = udp_handle.abort_handle();
        let tcp_abort = tcp_handle.abort_handle();
        Ok(PvaServer {
            udp_handle: Some(udp_handle),
            tcp_handle: Some(tcp_handle),
            udp_abort,
            tcp_abort,
            udp_alive,
            udp_v6_alive,
            effective_config: config,
            pvxs_config,
            source: report_source,
            builtin,
            bound_tcp_port,
            bound_tls_port,
            interrupt: Arc::new(tokio::sync::Notify::new()),
            peers,
        })
    }
}

use super::report::{Liveness, ReportFields, Running, assemble_report, pvxs_config_text};
pub use super::report::{ServerReport, ServerReportHandle};

/// A tokio task's [`Liveness`]: up until its `AbortHandle` reads finished.
fn finished_reads_down(abort: tokio::task::AbortHandle) -> Liveness {
    Liveness::new(move || !abort.is_finished())
}

#[cfg(test)]
mod tcp_fallback_tests {
    //! pvxs parity for multi-server-on-one-host: when the requested
    //! `tcp_port` is already taken, fall back to ephemeral so a
    //! second IOC on the same machine doesn't panic on startup.
    //! Mirrors pvxs `serverconn.cpp:442-450` (EADDRINUSE → setPort(0),
    //! single retry).
    use super::*;
    use crate::server_native::SharedSource;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    // `Duration` left this module with `PvaServerConfig` (now `super::config`);
    // the config-building tests below still spell it out.
    use std::time::Duration;

    /// When the requested TCP port is already bound, `PvaServer::start`
    /// must fall back to ephemeral instead of panicking. The actually-
    /// bound port is observable via `report().tcp_port` and is what
    /// SEARCH_RESPONSE / beacons advertise to clients.
    #[tokio::test]
    async fn second_server_falls_back_to_ephemeral_when_port_taken() {
        // Pin a port by binding it ourselves and holding the listener
        // open for the duration of the test. The PvaServer below will
        // ask for the same port and must NOT panic.
        let blocker = std::net::TcpListener::bind("127.0.0.1:0").expect("blocker bind");
        let blocked_port = blocker.local_addr().expect("blocker addr").port();

        let source = Arc::new(SharedSource::new());
        let config = PvaServerConfig {
            tcp_port: blocked_port,
            udp_port: 0,
            bind_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            auto_beacon: false,
            beacon_destinations: Vec::new(),
            ..Default::default()
        };

        // The pre-fix code would panic here; now the requested port
        // being taken triggers the ephemeral fallback, not a panic.
        let server = PvaServer::start(source, config).expect("fallback must not error");
        let report = server.report();
        assert_ne!(
            report.tcp_port, blocked_port,
            "fallback must hand out a different port"
        );
        assert_ne!(
            report.tcp_port, 0,
            "bound port must be a concrete OS-assigned port, not the sentinel"
        );
        // Sanity: blocker is still alive on its port.
        assert_eq!(
            blocker.local_addr().expect("blocker addr").port(),
            blocked_port,
        );

        drop(server);
        drop(blocker);
    }

    /// pvxs `serverchan.cpp:241`: a TCP SEARCH reply names the port of the
    /// listener the connection came in on, not one server-wide number.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_tcp_search_reply_names_the_port_it_arrived_on() {
        use crate::server_native::SharedPV;
        use crate::server_native::blocking::tests::{tcp_search_port, two_port_config};
        let (server, other) = named_port::on_a_named_port(|other| {
            let config = PvaServerConfig {
                udp_port: 0,
                ..two_port_config(other)
            };
            let source = SharedSource::new();
            source.add("dut", SharedPV::new());
            match PvaServer::start(Arc::new(source), config) {
                Ok(server) => Some((server, other)),
                Err(PvaError::Io(e)) if epics_base_rs::net::port_held(&e) => None,
                Err(e) => panic!("start the PVA server: {e}"),
            }
        });
        let first = server.report().tcp_port;
        assert_ne!(first, other);
        for (ip, port) in [
            (Ipv4Addr::LOCALHOST, first),
            (Ipv4Addr::new(127, 0, 0, 2), other),
        ] {
            assert_eq!(tcp_search_port(SocketAddr::from((ip, port))), port);
        }
    }

    /// The fallback says so in pvxs's words, at WARN: softIocPVX 1.5.3 on a
    /// taken `EPICS_PVAS_SERVER_PORT` prints `WARN pvxs.tcp.setup Server
    /// unable to bind port 37823, falling back to [::]:33673`
    /// (`serverconn.cpp:463-465`).
    #[tokio::test]
    async fn port_fallback_warns_in_pvxs_words() {
        let blocker = std::net::TcpListener::bind("127.0.0.1:0").expect("blocker bind");
        let blocked_port = blocker.local_addr().expect("blocker addr").port();
        let config = PvaServerConfig {
            tcp_port: blocked_port,
            udp_port: 0,
            bind_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            auto_beacon: false,
            beacon_destinations: Vec::new(),
            ..Default::default()
        };
        let (server, logged) = pvxs_logged(|| {
            PvaServer::start(Arc::new(SharedSource::new()), config).expect("fallback")
        });
        let bound = server.report().tcp_port;
        assert_eq!(
            logged,
            format!(
                "WARN pvxs.tcp.setup Server unable to bind port {blocked_port}, falling back to 127.0.0.1:{bound}\n"
            )
        );
        drop(server);
        drop(blocker);
    }

    /// A bind no fallback recovers says so at ERROR before the server fails:
    /// softIocPVX 1.5.3 with `EPICS_PVAS_INTF_ADDR_LIST=10.99.99.99` prints
    /// `ERR pvxs.tcp.setup Bind to 10.99.99.99:5075 fails with 99`
    /// (`serverconn.cpp:451-454`). The suffix follows pvxs's flag, so a later
    /// interface, bound without a fallback, reads "after fallback": with
    /// `EPICS_PVAS_INTF_ADDR_LIST="192.0.2.1 127.0.0.1"` and port 5291 it
    /// prints `Bind to 192.0.2.1:5291 fails after fallback with 99`.
    #[tokio::test]
    async fn unrecovered_bind_logs_pvxs_err_line() {
        // TEST-NET-1 (RFC 5737) is never a local address.
        let unassigned = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let held = named_port::HeldPort::tcp();
        let port = held.port;
        let errno = std::net::TcpListener::bind((unassigned, port))
            .unwrap_err()
            .raw_os_error()
            .unwrap();
        let start = |interfaces: Vec<SocketAddr>| {
            let config = PvaServerConfig {
                tcp_port: port,
                udp_port: 0,
                bind_ip: unassigned,
                interfaces: interfaces.into_iter().map(Into::into).collect(),
                auto_beacon: false,
                beacon_destinations: Vec::new(),
                ..Default::default()
            };
            pvxs_logged(|| PvaServer::start(Arc::new(SharedSource::new()), config).err())
        };

        let (err, logged) = start(Vec::new());
        assert!(err.is_some());
        assert_eq!(
            logged,
            format!("ERR pvxs.tcp.setup Bind to 192.0.2.1:{port} fails with {errno}\n")
        );

        let (err, logged) = start(vec![
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0),
            SocketAddr::new(unassigned, 0),
        ]);
        assert!(err.is_some());
        assert_eq!(
            logged,
            format!(
                "ERR pvxs.tcp.setup Bind to 192.0.2.1:{port} fails after fallback with {errno}\n"
            )
        );
    }

    /// The first interface is the lowest by pvxs's printed text, not the
    /// first listed: softIocPVX 1.5.3 with `EPICS_PVAS_SERVER_PORT=5291`
    /// prints `Bind to 192.0.2.1:5291 fails after fallback with 99` for
    /// `"192.0.2.1 127.0.0.1"` (127.0.0.1 bound first) and `Bind to
    /// 10.99.99.99:5291 fails with 99` for `"9.9.9.9 10.99.99.99"` (text, not
    /// numeric, order).
    #[tokio::test]
    #[serial_test::serial(epics_env)]
    async fn interface_list_binds_in_pvxs_sorted_order() {
        let held = named_port::HeldPort::tcp();
        let port = held.port;
        let errno = std::net::TcpListener::bind(("192.0.2.1", port))
            .unwrap_err()
            .raw_os_error()
            .unwrap();
        let start = |list: &str| {
            // SAFETY: `serial(epics_env)` holds every env-touching test off.
            unsafe {
                std::env::set_var("EPICS_PVAS_INTF_ADDR_LIST", list);
                std::env::set_var("EPICS_PVAS_SERVER_PORT", port.to_string());
            }
            let config = PvaServerConfig::default().with_env().unwrap();
            unsafe {
                std::env::remove_var("EPICS_PVAS_INTF_ADDR_LIST");
                std::env::remove_var("EPICS_PVAS_SERVER_PORT");
            }
            let config = PvaServerConfig {
                udp_port: 0,
                auto_beacon: false,
                beacon_destinations: Vec::new(),
                ..config
            };
            pvxs_logged(|| PvaServer::start(Arc::new(SharedSource::new()), config).err())
        };

        let (err, logged) = start("192.0.2.1 127.0.0.1");
        assert!(err.is_some());
        assert_eq!(
            logged,
            format!(
                "ERR pvxs.tcp.setup Bind to 192.0.2.1:{port} fails after fallback with {errno}\n"
            )
        );
        let (err, logged) = start("9.9.9.9 192.0.2.1");
        assert!(err.is_some());
        assert_eq!(
            logged,
            format!("ERR pvxs.tcp.setup Bind to 192.0.2.1:{port} fails with {errno}\n")
        );
    }

    /// A later interface binds its own port; only a 0 would take the first
    /// one's bound port (`server.cpp:479-480`). softIocPVX 1.5.3, port 5281
    /// held on 127.0.0.1, list `127.0.0.1 192.0.2.1`: `WARN … falling back
    /// to 127.0.0.1:43377` then `ERR Bind to 192.0.2.1:5281 fails after
    /// fallback with 99`; port 5291, list `192.0.2.1:6000 127.0.0.1`:
    /// `ERR Bind to 192.0.2.1:6000 fails after fallback with 99`.
    #[tokio::test]
    #[serial_test::serial(epics_env)]
    async fn later_interfaces_bind_their_own_port() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let errno = std::net::TcpListener::bind(("192.0.2.1", port))
            .unwrap_err()
            .raw_os_error()
            .unwrap();
        let start = |list: &str, port: u16| {
            // SAFETY: `serial(epics_env)` holds every env-touching test off.
            unsafe {
                std::env::set_var("EPICS_PVAS_INTF_ADDR_LIST", list);
                std::env::set_var("EPICS_PVAS_SERVER_PORT", port.to_string());
            }
            let config = PvaServerConfig::default().with_env().unwrap();
            unsafe {
                std::env::remove_var("EPICS_PVAS_INTF_ADDR_LIST");
                std::env::remove_var("EPICS_PVAS_SERVER_PORT");
            }
            let config = PvaServerConfig {
                udp_port: 0,
                auto_beacon: false,
                beacon_destinations: Vec::new(),
                ..config
            };
            pvxs_logged(|| PvaServer::start(Arc::new(SharedSource::new()), config).err())
        };

        let (err, logged) = start("127.0.0.1 192.0.2.1", port);
        assert!(err.is_some());
        let (warn, err_line) = logged.split_once('\n').unwrap();
        assert!(
            warn.starts_with(&format!(
                "WARN pvxs.tcp.setup Server unable to bind port {port}, falling back to 127.0.0.1:"
            )),
            "{logged}"
        );
        assert_eq!(
            err_line,
            format!(
                "ERR pvxs.tcp.setup Bind to 192.0.2.1:{port} fails after fallback with {errno}\n"
            )
        );
        drop(held);

        let (err, logged) = start("192.0.2.1:6000 127.0.0.1", port);
        assert!(err.is_some());
        assert_eq!(
            logged,
            format!(
                "ERR pvxs.tcp.setup Bind to 192.0.2.1:6000 fails after fallback with {errno}\n"
            )
        );
    }

    /// A wildcard does not swallow a specific entry: softIocPVX 1.5.3 with
    /// `127.0.0.1 0.0.0.0:7000` binds 127.0.0.1:5383, then fails on the
    /// wildcard with `ERR Bind to [::]:5383 fails after fallback with 98` and
    /// serves no PVA.
    // Linux only. Windows binds a plain wildcard beside a specific address,
    // and Darwin's BSD stack binds it under `SO_REUSEADDR`, which pvxs sets
    // there too (`evutil_make_listen_socket_reuseable`), so softIocPVX binds
    // both on those platforms.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    #[serial_test::serial(epics_env)]
    async fn wildcard_entry_binds_after_a_specific_one() {
        let held = named_port::HeldPort::tcp();
        let port = held.port;
        // The server's own 127.0.0.1 listener refuses its wildcard.
        let in_use = libc::EADDRINUSE;
        // SAFETY: `serial(epics_env)` holds every env-touching test off.
        unsafe {
            std::env::set_var("EPICS_PVAS_INTF_ADDR_LIST", "127.0.0.1 0.0.0.0:7000");
            std::env::set_var("EPICS_PVAS_SERVER_PORT", port.to_string());
        }
        let config = PvaServerConfig::default().with_env().unwrap();
        unsafe {
            std::env::remove_var("EPICS_PVAS_INTF_ADDR_LIST");
            std::env::remove_var("EPICS_PVAS_SERVER_PORT");
        }
        let config = PvaServerConfig {
            udp_port: 0,
            auto_beacon: false,
            beacon_destinations: Vec::new(),
            ..config
        };
        let (err, logged) =
            pvxs_logged(|| PvaServer::start(Arc::new(SharedSource::new()), config).err());
        assert!(err.is_some());
        assert_eq!(
            logged,
            format!("ERR pvxs.tcp.setup Bind to [::]:{port} fails after fallback with {in_use}\n")
        );
    }

    /// The pvxs log lines `f` prints, each without its timestamp.
    fn pvxs_logged<T>(f: impl FnOnce() -> T) -> (T, String) {
        use epics_base_rs::runtime::log;
        let heard = Arc::new(std::sync::Mutex::new(String::new()));
        let sink = heard.clone();
        let id = log::errlog_add_listener(move |m| {
            if let Some((_time, line)) = m.split_once(' ') {
                sink.lock().unwrap().push_str(line);
            }
        });
        let out = f();
        log::errlog_flush();
        log::errlog_remove_listener(id);
        let logged = heard.lock().unwrap().clone();
        (out, logged)
    }

    /// `init_canIPv6`'s lines are `pvxs.sock`'s, Info for `NO` (below the
    /// default Warn) and Warn for a value it does not know.
    #[test]
    #[serial_test::serial(epics_env)]
    fn ipv6_probe_logs_on_pvxs_sock() {
        let probe = |v: &str| {
            unsafe { std::env::set_var("PVXS_ENABLE_IPV6", v) };
            let got = pvxs_logged(crate::sock_attach::probe_ipv6);
            unsafe { std::env::remove_var("PVXS_ENABLE_IPV6") };
            got
        };
        assert_eq!(probe("NO"), (false, String::new()));
        let (_, logged) = probe("maybe");
        assert_eq!(
            logged,
            "WARN pvxs.sock PVXS_ENABLE_IPV6=maybe ignoring unrecognized\n"
        );
    }

    /// `PvaServer::report_handle()` produces a detached handle whose
    /// `report()` mirrors `PvaServer::report()` field-for-field on a live
    /// server. This is the property the iocsh `pvxsr` command rides on:
    /// the handle outlives the `PvaServer` value that `run`/`wait`
    /// consume, so it must report the same thing the server would.
    #[tokio::test]
    async fn report_handle_mirrors_live_server_report() {
        let source = Arc::new(SharedSource::new());
        let config = PvaServerConfig {
            tcp_port: 0,
            udp_port: 0,
            bind_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            auto_beacon: false,
            beacon_destinations: Vec::new(),
            ..Default::default()
        };
        let server = PvaServer::start(source, config).expect("server must start");

        let direct = server.report();
        let via_handle = server.report_handle().report();

        assert_eq!(via_handle.tcp_port, direct.tcp_port);
        assert_eq!(via_handle.udp_port, direct.udp_port);
        assert_eq!(via_handle.tls_port, direct.tls_port);
        assert_eq!(via_handle.tls_enabled, direct.tls_enabled);
        assert_eq!(via_handle.beacon_period_secs, direct.beacon_period_secs);
        assert_eq!(via_handle.ignore_addrs, direct.ignore_addrs);
        assert_eq!(via_handle.peer_count, direct.peer_count);
        assert_eq!(via_handle.tcp_alive, direct.tcp_alive);
        assert_eq!(via_handle.udp_alive, direct.udp_alive);
        assert_eq!(via_handle.udp_v6_alive, direct.udp_v6_alive);
        assert!(
            via_handle.tcp_alive,
            "tcp task must be live on a fresh server"
        );

        // A clone keeps answering after the PvaServer value is gone — the
        // ports are immutable scalars captured at bind, and the call must
        // not panic even though the backing tasks have been aborted.
        let detached = server.report_handle();
        drop(server);
        let post = detached.report();
        assert_eq!(
            post.tcp_port, direct.tcp_port,
            "handle ports stay fixed after the server value drops"
        );
    }

    /// `run_pva_server_reporting` fires `on_started` with a usable
    /// `ServerReportHandle` the instant the listeners bind — before
    /// `wait()` — which is exactly how the wrapper publishes the handle to
    /// the iocsh `pvxsr` command.
    #[tokio::test]
    async fn run_pva_server_reporting_publishes_handle_at_bind() {
        let source = Arc::new(SharedSource::new());
        let config = PvaServerConfig {
            tcp_port: 0,
            udp_port: 0,
            bind_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            auto_beacon: false,
            beacon_destinations: Vec::new(),
            ..Default::default()
        };
        let (tx, rx) = tokio::sync::oneshot::channel();
        let server_task = tokio::spawn(run_pva_server_reporting(source, config, move |handle| {
            let _ = tx.send(handle);
        }));

        let handle = tokio::time::timeout(Duration::from_secs(2), rx)
            .await
            .expect("handle must be published promptly")
            .expect("callback must send the handle");
        let report = handle.report();
        assert!(report.tcp_alive, "server reports live right after bind");
        assert_ne!(
            report.tcp_port, 0,
            "bound TCP port is concrete, not the sentinel"
        );

        server_task.abort();
        let _ = server_task.await;
    }

    /// epics-base PR #205 IPv6 Stage 1 — `PvaServerConfig::bind_ip`
    /// accepts `IpAddr::V6` and the TCP listener binds successfully.
    /// Verifies the change is genuinely IPv6-capable rather than just
    /// type-compatible.
    #[tokio::test]
    async fn binds_ipv6_loopback_listener() {
        use std::net::Ipv6Addr;
        let source = Arc::new(SharedSource::new());
        let config = PvaServerConfig {
            tcp_port: 0,
            udp_port: 0,
            bind_ip: IpAddr::V6(Ipv6Addr::LOCALHOST),
            auto_beacon: false,
            beacon_destinations: Vec::new(),
            ..Default::default()
        };
        let server = PvaServer::start(source, config).expect("v6 listener must start");
        let report = server.report();
        assert!(report.tcp_port != 0, "v6 listener must bind a port");

        // Confirm we can dial the IPv6 listener — the bind type is
        // really v6, not silently downgraded to v4.
        let addr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), report.tcp_port);
        let connect =
            tokio::time::timeout(Duration::from_secs(2), tokio::net::TcpStream::connect(addr))
                .await
                .expect("connect timed out");
        let _stream = connect.expect("IPv6 TCP connect must succeed");
        drop(server);
    }

    /// Boundary — a *configured* `udp_port` keeps SO_REUSEADDR, so two PVA
    /// processes on one host can still both answer v6 SEARCHes on the
    /// well-known port.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_configured_v6_responder_port_still_allows_co_bind() {
        use crate::nt::typed::TypedNT;
        use socket2::{Domain, Protocol, Socket, Type};
        use std::net::{Ipv6Addr, SocketAddrV6};

        // Take a port from the OS and hand the number back as a *configured*
        // one, so the test never guesses at a free port. The server binds it
        // on UDP4 and on UDP6, so it is taken where it is free on both.
        let udp_port = (0..64)
            .find_map(|_| {
                // The v6 number, then the same number on v4: free on both.
                let v6 = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).ok()?;
                v6.set_only_v6(true).ok()?;
                v6.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0).into())
                    .ok()?;
                let p = v6.local_addr().ok()?.as_socket()?.port();
                std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, p)).ok()?;
                Some(p)
            })
            .expect("a udp port free on both families");

        let pv = crate::server_native::SharedPV::new();
        pv.open(f64::descriptor(), f64::to_pv_field(&1.0)).unwrap();
        let source = Arc::new(SharedSource::new());
        source.add("V6:CONFIGURED:PV", pv);

        let config = PvaServerConfig {
            tcp_port: 0,
            udp_port,
            bind_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            auto_beacon: false,
            beacon_destinations: Vec::new(),
            interfaces: ["127.0.0.1", "[::1]"]
                .map(|t| crate::config::Endpoint::parse(t, 0).unwrap())
                .to_vec(),
            ..Default::default()
        };
        let server = PvaServer::start(source, config).expect("v6 udp server must start");
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(
            server.report().udp_v6_alive,
            "the v6 responder must be running"
        );

        let peer = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).expect("socket");
        peer.set_only_v6(true).expect("v6 only");
        // What a second IOC really binds with: the whole `PortUse::Shared`
        // set. `SO_REUSEADDR` alone is enough for this on Linux and is not on
        // macOS/BSD, where an exact-duplicate datagram bind needs both ends to
        // carry `SO_REUSEPORT` — so a peer holding half of it measured the
        // host's kernel rather than the responder's options.
        peer.set_reuse_address(true).expect("reuse addr");
        #[cfg(unix)]
        peer.set_reuse_port(true).expect("reuse port");
        let addr = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, udp_port, 0, 0);
        assert!(
            peer.bind(&addr.into()).is_ok(),
            "a configured v6 responder port {udp_port} must stay co-bindable; \
             a second IOC on this host has to receive the same v6 SEARCHes"
        );
        drop(server);
    }

    /// A v6 entry in the interface list opens the `[::]:udp_port` SEARCH
    /// responder. We send a hand-
    /// rolled SEARCH datagram from a v6 client socket against
    /// `[::1]:udp_port` and verify the server's SEARCH_RESPONSE
    /// arrives back with the right tcp_port + GUID-length payload.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn udp_v6_responder_answers_v6_search() {
        use crate::nt::typed::TypedNT;
        use crate::proto::{ByteOrder, Command, PvaHeader, ReadExt, WriteExt};
        use std::io::Cursor;
        use std::net::Ipv6Addr;
        use tokio::net::UdpSocket as TokioUdp;

        let pv = crate::server_native::SharedPV::new();
        pv.open(f64::descriptor(), f64::to_pv_field(&1.0)).unwrap();
        let source = Arc::new(SharedSource::new());
        source.add("V6:UDP:PV", pv);

        // Ephemeral, then read back: the v6 responder binds
        // `[::]:udp_port` from the config `start` stamps, so a probed
        // number would be one nobody held between the drop and the bind.
        let config = PvaServerConfig {
            tcp_port: 0,
            udp_port: 0,
            bind_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            auto_beacon: false,
            beacon_destinations: Vec::new(),
            interfaces: ["127.0.0.1", "[::1]"]
                .map(|t| crate::config::Endpoint::parse(t, 0).unwrap())
                .to_vec(),
            ..Default::default()
        };
        let server = PvaServer::start(source, config).expect("v6 udp server must start");
        let server_tcp_port = server.report().tcp_port;
        let udp_port = server.report().udp_port;
        // Wait briefly for the v6 listener to bind.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let report = server.report();
        assert!(
            report.udp_v6_alive,
            "udp_v6 responder must be alive for a v6 interface"
        );

        // Hand-roll a SEARCH frame asking for `V6:UDP:PV`. The
        // server replies with a SEARCH_RESPONSE containing
        // tcp_port + "tcp" protocol when the PV name matches.
        let client = TokioUdp::bind("[::1]:0").await.expect("v6 client bind");
        let mut payload = Vec::new();
        payload.put_u32(0xABCD_0001, ByteOrder::Little); // seq
        payload.put_u8(0); // flags
        payload.extend_from_slice(&[0u8; 3]); // reserved
        // 16-byte reply addr = ::1
        payload.extend_from_slice(&Ipv6Addr::LOCALHOST.octets());
        let reply_port = client.local_addr().unwrap().port();
        payload.put_u16(reply_port, ByteOrder::Little);
        // 1 protocol = "tcp"
        payload.extend_from_slice(&crate::proto::encode_size(1, ByteOrder::Little));
        crate::proto::encode_string_into("tcp", ByteOrder::Little, &mut payload);
        // 1 query: cid=0x1234, name = V6:UDP:PV
        payload.put_u16(1, ByteOrder::Little);
        payload.put_u32(0x1234, ByteOrder::Little);
        crate::proto::encode_string_into("V6:UDP:PV", ByteOrder::Little, &mut payload);
        let header = PvaHeader::application(
            true,
            ByteOrder::Little,
            Command::Search.code(),
            payload.len() as u32,
        );
        let mut frame = Vec::new();
        header.write_into(&mut frame);
        frame.extend_from_slice(&payload);

        let server_v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), udp_port);
        client
            .send_to(&frame, server_v6)
            .await
            .expect("send v6 SEARCH");

        // Receive SEARCH_RESPONSE.
        let mut rx = vec![0u8; 64 * 1024];
        let (n, peer) = tokio::time::timeout(Duration::from_secs(2), client.recv_from(&mut rx))
            .await
            .expect("v6 SEARCH_RESPONSE timed out")
            .expect("recv_from ok");
        assert!(n >= PvaHeader::SIZE, "response too short: {n}");
        // Replies arrive on the v6 unicast loopback path, source
        // address may be the link-local equivalent. Accept any v6.
        assert!(matches!(peer.ip(), IpAddr::V6(_)));
        let mut cur = Cursor::new(&rx[..n]);
        let hdr = PvaHeader::decode(&mut cur).expect("hdr decode");
        assert_eq!(
            hdr.command,
            Command::SearchResponse.code(),
            "expected SEARCH_RESPONSE"
        );
        // Confirm the payload mentions our server's tcp_port (16-byte
        // address + 2-byte port at offset 12+4+16 = 32, accounting
        // for guid+seq+addr layout). Cheaper: decode after guid.
        let mut p = Cursor::new(&rx[PvaHeader::SIZE..n]);
        let _guid = p.get_bytes(12).expect("guid");
        let _seq = p.get_u32(hdr.flags.byte_order()).expect("seq");
        let _addr16 = p.get_bytes(16).expect("addr16");
        let advertised_tcp = p.get_u16(hdr.flags.byte_order()).expect("tcp_port");
        assert_eq!(
            advertised_tcp, server_tcp_port,
            "SEARCH_RESPONSE must advertise server's actual TCP port"
        );

        drop(server);
    }

    /// End-to-end IPv6 PVA round-trip — start a server on `[::1]`,
    /// add a PV, build a client via `client_config()` (which now
    /// hands out a v6 loopback target to match the server family),
    /// and pvget the value. Proves the full PVA stack — TCP listener,
    /// handshake, channel creation, GET — works over IPv6.
    ///
    /// Drives a real client, so it rides the `client` feature.
    #[cfg(feature = "client")]
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn pvget_round_trip_over_ipv6_loopback() {
        use crate::nt::typed::TypedNT;
        use std::net::Ipv6Addr;
        // Plain NTScalar<double> source, matching the typed_nt
        // `pvget_typed_primitive_f64` shape.
        let pv = crate::server_native::SharedPV::new();
        let value: f64 = 42.5;
        pv.open(f64::descriptor(), f64::to_pv_field(&value))
            .unwrap();
        let source = Arc::new(SharedSource::new());
        source.add("V6:LOOP", pv);
        let config = PvaServerConfig {
            tcp_port: 0,
            udp_port: 0,
            bind_ip: IpAddr::V6(Ipv6Addr::LOCALHOST),
            auto_beacon: false,
            beacon_destinations: Vec::new(),
            ..Default::default()
        };
        let server = PvaServer::start(source, config).expect("v6 loopback server must start");
        let client = server.client_config();

        let got: f64 =
            tokio::time::timeout(Duration::from_secs(5), client.pvget_typed::<f64>("V6:LOOP"))
                .await
                .expect("pvget timed out over IPv6")
                .expect("pvget must succeed over IPv6");
        assert_eq!(got, value, "round-trip value must match over IPv6");
        drop(server);
    }

    /// A TCP bind failure that is NOT eligible for the ephemeral
    /// fallback (the fallback only covers `AddrInUse` / `PermissionDenied`
    /// on a non-zero requested port) must surface as `Err(PvaError)`
    /// rather than aborting the process. Binding to an address that is
    /// not assigned to any local interface yields `AddrNotAvailable`,
    /// which is outside the fallback set, so `start` returns `Err`.
    #[epics_macros_rs::epics_test]
    async fn start_returns_err_on_unbindable_address() {
        let source = Arc::new(SharedSource::new());
        let config = PvaServerConfig {
            tcp_port: 5075,
            udp_port: 0,
            // 192.0.2.0/24 is the TEST-NET-1 documentation range
            // (RFC 5737); it is never assigned to a local interface,
            // so binding it fails with AddrNotAvailable.
            bind_ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            auto_beacon: false,
            beacon_destinations: Vec::new(),
            ..Default::default()
        };
        let result = PvaServer::start(source, config);
        assert!(
            result.is_err(),
            "bind to an unassigned address must return Err, not panic",
        );
        assert!(
            matches!(result, Err(crate::error::PvaError::Io(_))),
            "TCP bind failure must surface as PvaError::Io",
        );
    }

    /// A second server asking for an already-bound port with the
    /// ephemeral fallback eligible must succeed (fallback), and the
    /// happy/fallback paths both return `Ok` — `start` never panics.
    #[tokio::test]
    async fn start_returns_ok_when_port_taken_with_fallback() {
        let blocker = std::net::TcpListener::bind("127.0.0.1:0").expect("blocker bind");
        let blocked_port = blocker.local_addr().expect("blocker addr").port();

        let source = Arc::new(SharedSource::new());
        let config = PvaServerConfig {
            tcp_port: blocked_port,
            udp_port: 0,
            bind_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            auto_beacon: false,
            beacon_destinations: Vec::new(),
            ..Default::default()
        };
        let result = PvaServer::start(source, config);
        assert!(
            result.is_ok(),
            "an in-use port must trigger the ephemeral fallback, returning Ok",
        );
        drop(result);
        drop(blocker);
    }

    /// Sanity: when the requested port IS available, no fallback is
    /// triggered and the server gets exactly what it asked for.
    #[tokio::test]
    async fn requested_port_used_when_available() {
        let held = named_port::HeldPort::tcp();
        let target = held.port;

        let source = Arc::new(SharedSource::new());
        let config = PvaServerConfig {
            tcp_port: target,
            udp_port: 0,
            bind_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            auto_beacon: false,
            beacon_destinations: Vec::new(),
            ..Default::default()
        };

        let server = PvaServer::start(source, config).expect("server must start");
        let report = server.report();
        assert_eq!(report.tcp_port, target);
        drop(server);
    }

    /// `udp_port = 0` must report the port the kernel actually assigned.
    ///
    /// This is the property a caller that cannot guess a port depends on
    /// (`epics-oracle-rs` boots its Rust PVA side this way and prints the
    /// number for the harness to aim clients at). It is load-bearing for PVA
    /// specifically: the search socket sets `SO_REUSEPORT`, so two servers
    /// sharing a port bind *without any error* and then answer searches at
    /// random — there is no failure to detect afterwards, so the port must be
    /// read back from the bind rather than predicted. Before the bind moved
    /// into `start()`, the responder bound inside its own task and `report()`
    /// handed back the requested `0`.
    #[tokio::test]
    async fn ephemeral_udp_port_is_reported_not_left_zero() {
        let source = Arc::new(SharedSource::new());
        let config = PvaServerConfig {
            tcp_port: 0,
            udp_port: 0,
            bind_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            interfaces: vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0).into()],
            auto_beacon: false,
            beacon_destinations: Vec::new(),
            ..Default::default()
        };
        let server = PvaServer::start(source, config).expect("server must start");
        let report = server.report();
        assert_ne!(
            report.udp_port, 0,
            "udp_port = 0 must be resolved to the kernel-assigned port and reported",
        );
        // The reported port must be the one actually held: nothing else may
        // take it while the responder is alive, so a bind that only another
        // socket on the number refuses succeeding here would mean the report
        // named a port the server is not on.
        assert!(
            named_port::udp_port_is_held(report.udp_port),
            "reported UDP port {} is not actually held by the server",
            report.udp_port,
        );
        drop(server);
    }

    /// `EPICS_PVAS_INTF_ADDR_LIST` empty → fall back to a specific
    /// `bind_ip`.
    #[test]
    fn tcp_bind_addresses_empty_list_uses_bind_ip() {
        let bind_ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(
            tcp_bind_addresses(&[], bind_ip, 5075, true),
            vec![SocketAddr::new(bind_ip, 0)]
        );
    }

    /// A loopback-only server interface list binds TCP only to loopback —
    /// no wildcard / non-loopback address is produced.
    #[test]
    fn tcp_bind_addresses_loopback_only_binds_loopback_only() {
        let lo = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 5075);
        let addrs = tcp_bind_addresses(&[lo], IpAddr::V4(Ipv4Addr::UNSPECIFIED), 5075, true);
        assert_eq!(addrs, vec![lo]);
        assert!(
            addrs.iter().all(|a| a.ip().is_loopback()),
            "loopback-only interface list produced a non-loopback bind addr: {addrs:?}"
        );
    }

    /// Multiple specific interfaces → one listener per interface (each
    /// kernel-constrained to its own address); a port-less one takes the
    /// server's port, a ported one keeps its own.
    #[test]
    fn tcp_bind_addresses_multi_interface_binds_each() {
        let a = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
        let b = SocketAddr::new(Ipv4Addr::new(192, 168, 1, 5).into(), 6000);
        let addrs = tcp_bind_addresses(
            &[SocketAddr::new(a, 0), b],
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            5300,
            true,
        );
        assert_eq!(addrs, vec![SocketAddr::new(a, 5300), b]);
    }

    /// pvxs adds no multicast entry to its TCP listener set
    /// (`server.cpp:413-418`, `!isMCast`).
    #[test]
    fn tcp_bind_addresses_skips_multicast() {
        let lo = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let addrs = tcp_bind_addresses(
            &[
                SocketAddr::new(Ipv4Addr::new(224, 0, 2, 3).into(), 0),
                SocketAddr::new(lo, 0),
            ],
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            5382,
            true,
        );
        assert_eq!(addrs, vec![SocketAddr::new(lo, 5382)]);
    }

    /// The wildcard listeners pvxs binds for any wildcard entry and for the
    /// default list (`server.cpp:441-458`), after the specific ones and on
    /// port 0: `[::]` alone on Linux, `0.0.0.0` then `[::]` elsewhere,
    /// `0.0.0.0` without IPv6.
    #[test]
    fn tcp_bind_addresses_wildcard_listeners_follow_pvxs() {
        let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let any6 = if cfg!(target_os = "linux") {
            vec![v6]
        } else {
            vec![v4, v6]
        };
        let specific = SocketAddr::new(Ipv4Addr::new(192, 168, 1, 5).into(), 5075);
        let lo = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let wild4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7000));
        let wild6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let cases: [(&[SocketAddr], IpAddr, bool, Vec<SocketAddr>); 6] = [
            (&[], v4.ip(), true, any6.clone()),
            (&[], v4.ip(), false, vec![v4]),
            (&[wild6], lo, true, any6.clone()),
            (&[wild4, wild6], lo, true, any6.clone()),
            (
                &[specific, wild4],
                lo,
                true,
                [vec![specific], any6].concat(),
            ),
            (&[specific, wild6], lo, false, vec![specific, v4]),
        ];
        for (interfaces, bind_ip, can_ipv6, want) in cases {
            assert_eq!(
                tcp_bind_addresses(interfaces, bind_ip, 5075, can_ipv6),
                want,
                "{interfaces:?} can_ipv6={can_ipv6}"
            );
        }
    }

    /// End-to-end: a server constrained to loopback starts, binds, and is
    /// reachable on loopback (the constrained bind path is wired through
    /// `start()`, not just the helper).
    #[tokio::test]
    async fn server_with_loopback_interface_list_starts_and_is_reachable() {
        let source = Arc::new(SharedSource::new());
        let config = PvaServerConfig {
            tcp_port: 0,
            udp_port: 0,
            bind_ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            interfaces: vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0).into()],
            auto_beacon: false,
            beacon_destinations: Vec::new(),
            ..Default::default()
        };
        let server = PvaServer::start(source, config).expect("loopback-constrained server starts");
        let report = server.report();
        assert!(report.tcp_port != 0, "must bind a real port");
        let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), report.tcp_port);
        let connect =
            tokio::time::timeout(Duration::from_secs(2), tokio::net::TcpStream::connect(addr))
                .await
                .expect("connect timed out");
        let _stream = connect.expect("loopback TCP connect must succeed");
        drop(server);
    }
}

#[cfg(test)]
mod sr9_message_size_tests {
    //! The inbound message-size cap defaults to
    //! [`DEFAULT_MAX_MESSAGE_SIZE`], **not** to pvxs's unbounded `None`.
    //!
    //! This module previously asserted the opposite ("must be unbounded
    //! (None), not a fixed cap"), on pvxs parity grounds. That parity
    //! argument was incomplete: pvxs affords an uncapped RX path because a
    //! failed allocation there is a `bad_alloc` caught per connection
    //! (`conn.cpp:307-335`), whereas in Rust an infallible `Vec` growth
    //! reaches `handle_alloc_error` and aborts the IOC. The growth path is
    //! now fallible too (`crate::peer_buf`), so both halves of pvxs's
    //! behaviour are reachable — but on an RTEMS target whose whole heap is
    //! a few hundred MiB, "unbounded" and "the machine" are the same number,
    //! so the *default* is a ceiling and `None` stays available as the
    //! explicit opt-out.
    use super::*;

    #[test]
    fn default_message_size_is_capped() {
        assert_eq!(
            PvaServerConfig::default().max_message_size,
            Some(DEFAULT_MAX_MESSAGE_SIZE),
            "default server config must carry the default ceiling"
        );
        // `isolated()` inherits the default via `..Default::default()`.
        assert_eq!(
            PvaServerConfig::isolated().max_message_size,
            Some(DEFAULT_MAX_MESSAGE_SIZE)
        );
        // `with_env()` neither introduces nor removes a cap.
        assert_eq!(
            PvaServerConfig::default()
                .with_env()
                .unwrap()
                .max_message_size,
            Some(DEFAULT_MAX_MESSAGE_SIZE)
        );
    }

    /// The cap is a default, not a policy nailed shut: pvxs-exact unbounded
    /// behaviour stays one field away.
    #[test]
    fn unbounded_is_still_expressible() {
        let cfg = PvaServerConfig {
            max_message_size: None,
            ..Default::default()
        };
        assert_eq!(cfg.max_message_size, None);
    }

    /// A ceiling below the largest frame the protocol layer will accept would
    /// make the two limits disagree about which one refused a message.
    #[test]
    fn the_default_ceiling_admits_a_realistic_array() {
        // 1M doubles — an NTScalarArray waveform an IOC can genuinely be
        // asked to accept — must fit under whatever the default config
        // actually serves, not merely under the constant.
        let cap = PvaServerConfig::default()
            .max_message_size
            .expect("the default config must carry a ceiling");
        assert!(
            cap >= 1024 * 1024 * 8,
            "default ceiling {cap} refuses a 1M-element double array"
        );
    }
}

#[cfg(test)]
mod with_env_preserve_tests {
    //! pvxs `Config::applyEnv` parity (`config.cpp:397-437`): `with_env`
    //! overrides a field only when a backing env var is *present*; an
    //! absent var must leave the caller-supplied value intact. Pre-fix
    //! Rust assigned every field unconditionally from a default-returning
    //! helper, so an empty environment reset ports / auto-beacon back to
    //! the LAN-facing defaults — and broke the `isolated()` contract.
    use super::*;
    // `Duration` left this module with `PvaServerConfig` (now `super::config`).
    use std::time::Duration;

    /// Clear the env vars a test depends on, run `f`, then restore them.
    /// nextest isolates each test in its own process, but we still save +
    /// restore so a `cargo test` (thread-shared) run stays coherent.
    fn with_cleared_env<R>(vars: &[&str], f: impl FnOnce() -> R) -> R {
        let saved: Vec<(String, Option<String>)> = vars
            .iter()
            .map(|v| ((*v).to_string(), std::env::var(v).ok()))
            .collect();
        for v in vars {
            unsafe { std::env::remove_var(v) };
        }
        let out = f();
        for (k, val) in saved {
            match val {
                Some(s) => unsafe { std::env::set_var(&k, s) },
                None => unsafe { std::env::remove_var(&k) },
            }
        }
        out
    }

    const PORT_VARS: &[&str] = &[
        "EPICS_PVAS_SERVER_PORT",
        "EPICS_PVA_SERVER_PORT",
        "EPICS_PVAS_BROADCAST_PORT",
        "EPICS_PVA_BROADCAST_PORT",
    ];

    #[test]
    #[serial_test::serial(epics_env)]
    fn with_env_preserves_caller_fields_when_vars_absent() {
        with_cleared_env(PORT_VARS, || {
            let cfg = PvaServerConfig {
                tcp_port: 12345,
                udp_port: 11111,
                ..Default::default()
            }
            .with_env()
            .unwrap();
            assert_eq!(
                cfg.tcp_port, 12345,
                "absent server-port var must not reset tcp_port"
            );
            assert_eq!(
                cfg.udp_port, 11111,
                "absent broadcast-port var must not reset udp_port"
            );
        });
    }

    #[test]
    #[serial_test::serial(epics_env)]
    fn with_env_overrides_only_the_present_var() {
        with_cleared_env(PORT_VARS, || {
            unsafe { std::env::set_var("EPICS_PVAS_SERVER_PORT", "6789") };
            let cfg = PvaServerConfig {
                tcp_port: 12345,
                udp_port: 11111,
                ..Default::default()
            }
            .with_env()
            .unwrap();
            assert_eq!(
                cfg.tcp_port, 6789,
                "present EPICS_PVAS_SERVER_PORT must override tcp_port"
            );
            assert_eq!(
                cfg.udp_port, 11111,
                "absent broadcast-port var must leave udp_port"
            );
        });
    }

    /// `with_env` derives `idle_timeout` from `EPICS_PVA_CONN_TMO` through
    /// the same owner as the client (`env::effective_tcp_timeout_secs`):
    /// the 4/3 scale, then pvxs `enforceTimeout` — floor AND upper reset.
    /// A configured 7e18 is ACCEPTED by `parse_timeout` (<= time_t::max)
    /// but its scaled form (≈9.33e18) crosses time_t::max, so pvxs falls
    /// back to 40 s. Pre-fix this site applied only the floor and armed the
    /// inactivity reaper with a ~3e11-year window (R17-34).
    #[test]
    #[serial_test::serial(epics_env)]
    fn with_env_idle_timeout_applies_both_enforce_timeout_bounds() {
        with_cleared_env(&["EPICS_PVA_CONN_TMO"], || {
            let base = PvaServerConfig {
                idle_timeout: Duration::from_secs(45),
                ..Default::default()
            };

            // Absent → caller value preserved.
            assert_eq!(
                base.clone().with_env().unwrap().idle_timeout,
                Duration::from_secs(45)
            );

            // Default-shaped value: 30 × 4/3 = 40 s.
            unsafe { std::env::set_var("EPICS_PVA_CONN_TMO", "30") };
            assert_eq!(
                base.clone().with_env().unwrap().idle_timeout,
                Duration::from_secs_f64(40.0)
            );

            // Below the floor: 1.0 × 4/3 = 1.333 → 2 s.
            unsafe { std::env::set_var("EPICS_PVA_CONN_TMO", "1.0") };
            assert_eq!(
                base.clone().with_env().unwrap().idle_timeout,
                Duration::from_secs_f64(2.0)
            );

            // Upper reset: scaled >= time_t::max → 40 s.
            unsafe { std::env::set_var("EPICS_PVA_CONN_TMO", "7e18") };
            assert_eq!(
                base.with_env().unwrap().idle_timeout,
                Duration::from_secs_f64(40.0),
                "scaled CONN_TMO >= time_t::max must reset to pvxs's 40s default"
            );
        });
    }

    const TLS_PORT_VARS: &[&str] = &["EPICS_PVAS_TLS_PORT", "EPICS_PVA_TLS_PORT"];

    /// `EPICS_PVAS_TLS_PORT` overrides `tls_port`; with only the shared
    /// `EPICS_PVA_TLS_PORT` set that form wins (pvxs `config.cpp:495`, `tls`
    /// `b3a10bf0`, `PickOne{EPICS_PVAS_TLS_PORT, EPICS_PVA_TLS_PORT}`); an
    /// absent var preserves the caller value.
    #[test]
    #[serial_test::serial(epics_env)]
    fn with_env_tls_port_pvas_first_then_shared_then_preserve() {
        with_cleared_env(TLS_PORT_VARS, || {
            // Absent → caller value preserved.
            let cfg = PvaServerConfig {
                tls_port: 5555,
                ..Default::default()
            }
            .with_env()
            .unwrap();
            assert_eq!(cfg.tls_port, 5555, "absent TLS-port var must not reset");

            // Shared form alone is honoured.
            unsafe { std::env::set_var("EPICS_PVA_TLS_PORT", "5077") };
            let cfg = PvaServerConfig::default().with_env().unwrap();
            assert_eq!(cfg.tls_port, 5077, "shared EPICS_PVA_TLS_PORT must apply");

            // Server-specific form takes precedence over the shared form.
            unsafe { std::env::set_var("EPICS_PVAS_TLS_PORT", "5078") };
            let cfg = PvaServerConfig::default().with_env().unwrap();
            assert_eq!(
                cfg.tls_port, 5078,
                "EPICS_PVAS_TLS_PORT must win over EPICS_PVA_TLS_PORT"
            );
        });
    }

    /// `applyEnv` appends each list to the caller's and orders the whole list,
    /// keyed by the config's own ports.
    #[test]
    #[serial_test::serial(epics_env)]
    fn with_env_appends_address_lists_to_the_callers() {
        let vars = [
            "EPICS_PVAS_INTF_ADDR_LIST",
            "EPICS_PVAS_IGNORE_ADDR_LIST",
            "EPICS_PVAS_BEACON_ADDR_LIST",
            "EPICS_PVA_ADDR_LIST",
            "EPICS_PVAS_SERVER_PORT",
            "EPICS_PVA_SERVER_PORT",
            "EPICS_PVAS_BROADCAST_PORT",
            "EPICS_PVA_BROADCAST_PORT",
        ];
        with_cleared_env(&vars, || {
            unsafe {
                std::env::set_var("EPICS_PVAS_INTF_ADDR_LIST", "10.0.0.1 10.0.0.3");
                std::env::set_var("EPICS_PVAS_IGNORE_ADDR_LIST", "10.0.0.1");
                std::env::set_var("EPICS_PVAS_BEACON_ADDR_LIST", "10.0.0.1 10.0.0.3:7");
            }
            let sa = |s: &str| s.parse::<std::net::SocketAddr>().unwrap();
            let cfg = PvaServerConfig {
                udp_port: 6000,
                interfaces: vec![sa("10.0.0.2:0").into(), sa("10.0.0.1:0").into()],
                ignore_addrs: vec![(sa("10.0.0.2:0").ip(), 0)],
                beacon_destinations: vec![sa("10.0.0.2:6000").into()],
                ..Default::default()
            }
            .with_env()
            .unwrap();
            let addrs = |eps: &[crate::config::Endpoint]| {
                eps.iter().map(|e| e.addr.to_string()).collect::<Vec<_>>()
            };
            assert_eq!(
                addrs(&cfg.interfaces),
                ["10.0.0.1:0", "10.0.0.2:0", "10.0.0.3:0"]
            );
            let ignore: Vec<_> = cfg
                .ignore_addrs
                .iter()
                .map(|(ip, _)| ip.to_string())
                .collect();
            assert_eq!(ignore, ["10.0.0.1", "10.0.0.2"]);
            assert_eq!(
                addrs(&cfg.beacon_destinations),
                ["10.0.0.1:6000", "10.0.0.2:6000", "10.0.0.3:7"]
            );
        });
    }

    #[test]
    #[serial_test::serial(epics_env)]
    fn isolated_with_env_stays_isolated_in_empty_env() {
        let vars = [
            "EPICS_PVAS_SERVER_PORT",
            "EPICS_PVA_SERVER_PORT",
            "EPICS_PVAS_BROADCAST_PORT",
            "EPICS_PVA_BROADCAST_PORT",
            "EPICS_PVAS_AUTO_BEACON_ADDR_LIST",
            "EPICS_PVA_AUTO_ADDR_LIST",
        ];
        with_cleared_env(&vars, || {
            let cfg = PvaServerConfig::isolated().with_env().unwrap();
            assert_eq!(
                cfg.tcp_port, 0,
                "isolated().with_env().unwrap() must keep the ephemeral tcp_port"
            );
            assert_eq!(
                cfg.udp_port, 0,
                "isolated().with_env().unwrap() must keep the ephemeral udp_port"
            );
            assert!(
                !cfg.auto_beacon,
                "isolated().with_env().unwrap() must keep auto_beacon off"
            );
        });
    }
}

/// The binder owns the socket and reports the number.
///
/// Stated over the source rather than over an outcome, because the outcome is
/// unobservable: the search socket sets `SO_REUSEPORT`, so the collision this
/// prevents does not fail a bind — the second server takes the same number and
/// the two answer searches at random, with no error afterwards to assert on.
/// What can be asserted is the shape `bind_udp`'s contract asks for, that no
/// port reaches `start` from a socket the caller has already let go.
#[cfg(test)]
mod ports_are_read_back_not_probed {
    /// `isolated()` hands `start` a config and nothing else. Needles are
    /// assembled with `concat!` so this module's own text cannot satisfy the
    /// check it performs.
    #[test]
    fn isolated_binds_no_socket_of_its_own() {
        let prod =
            source_guard::production(include_str!("runtime.rs"), source_guard::Comments::Strip);
        let start = prod
            .find("pub fn isolated<S>")
            .expect("PvaServer::isolated is still in the production slice");
        let end = prod[start..]
            .find("pub fn start<S>")
            .expect("start still follows isolated")
            + start;
        let body = &prod[start..end];
        for needle in [
            concat!("UdpSocket", "::bind("),
            concat!("TcpListener", "::bind("),
            concat!("TcpStream", "::connect("),
        ] {
            assert!(
                !body.contains(needle),
                "PvaServer::isolated opens a socket of its own (`{needle}`); the \
                 port it then reports is one it has stopped holding, and a PVA \
                 search-port collision is silent because the socket sets \
                 SO_REUSEPORT"
            );
        }
    }

    /// The ephemeral sentinel is what `isolated()` relies on, so pin it: if
    /// `PvaServerConfig::isolated()` ever grew a fixed port the guard above
    /// would still pass while every isolated server shared one number.
    #[test]
    fn the_isolated_config_asks_for_ephemeral_ports() {
        let cfg = super::PvaServerConfig::isolated();
        assert_eq!(cfg.tcp_port, 0);
        assert_eq!(cfg.udp_port, 0);
    }
}

#[cfg(test)]
mod pvxs_report_tests {
    use super::*;
    use crate::server_native::SharedSource;

    /// pvxs `operator<<(Server)` before and after `start`: `config()` with the
    /// bound ports, then the source map, which a nested registry joins.
    #[tokio::test]
    async fn a_bound_server_reports_its_config_and_the_server_source() {
        let bound = PvaServer::bind(PvaServerConfig::isolated()).expect("bind");
        let handle = bound.report_handle();
        assert!(!handle.is_running());
        let tcp = bound.bound_tcp_port();
        let udp = handle.report().udp_port;
        assert_eq!(
            handle.pvxs_config(),
            format!(
                "EPICS_PVAS_AUTO_BEACON_ADDR_LIST=NO\n\
                 EPICS_PVAS_BEACON_ADDR_LIST=\n\
                 EPICS_PVAS_BROADCAST_PORT={udp}\n\
                 EPICS_PVAS_IGNORE_ADDR_LIST=\n\
                 EPICS_PVAS_INTF_ADDR_LIST=127.0.0.1\n\
                 EPICS_PVAS_SERVER_PORT={tcp}\n"
            )
        );
        assert_eq!(
            handle.source_list(),
            [("__builtin".to_owned(), -1), ("__server".to_owned(), -1)]
        );

        let app = crate::server_native::CompositeSource::new();
        app.add_source("qsrvSingle", Arc::new(SharedSource::new()), 0)
            .unwrap();
        app.add_source("qsrvGroup", Arc::new(SharedSource::new()), 1)
            .unwrap();
        let server = bound.start(app).expect("start");
        let handle = server.report_handle();
        assert!(handle.is_running());
        assert_eq!(
            handle.source_list(),
            [
                ("__builtin".to_owned(), -1),
                ("__server".to_owned(), -1),
                ("qsrvSingle".to_owned(), 0),
                ("qsrvGroup".to_owned(), 1),
            ]
        );
    }

    /// pvxs `Server::addPV` / `removePV` (`src/server.cpp:174-191`): the PV is
    /// served from `__builtin`, and the beacon's change count moves.
    #[tokio::test]
    async fn an_added_pv_is_served_from_the_builtin_store() {
        let server = PvaServer::start(Arc::new(SharedSource::new()), PvaServerConfig::isolated())
            .expect("start");
        let before = server.source.beacon_change();
        assert!(!server.source.has_pv(b"B").await);
        server
            .builtin()
            .try_add("B", crate::server_native::SharedPV::new())
            .unwrap();
        assert!(server.source.has_pv(b"B").await);
        assert_ne!(server.source.beacon_change(), before);
        server.builtin().remove("B");
        assert!(!server.source.has_pv(b"B").await);
    }
}
