use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket as StdUdpSocket};

use tokio::net::UdpSocket;

use crate::protocol::*;

use crate::repeater_clients::*;

/// Run the CA repeater daemon. Equivalent to
/// `run_repeater_with_debug(0)`.
pub async fn run_repeater() -> io::Result<()> {
    run_repeater_with_debug(0).await
}

/// Run the CA repeater daemon with an explicit debug level.
///
/// C `ca_repeater` takes no argument at the R7.0.10 pin; the level is
/// `e271752158dd` ("Added -d option to caRepeater, sets debug level"),
/// which gives it a `setDebug` parameter assigning a file-static
/// `debug`:
/// - level 0: nothing. Every `debugPrintf` in `repeater.cpp` is silent
///   in a stock C repeater — compiled out at the pin, and post-tag
///   sent to `/dev/null` by `caRepeater.cpp` unless `-d`/`-v` — so
///   `DebugGate` has no variant for it.
/// - level 1: "CA Repeater: Attached and initialized", "New client",
///   "Verified N active clients", "Client on port N refused message",
///   "Deleted client on port N" — the sites C guards with `if (debug)`
///   plus the four it leaves unguarded, which reach a terminal only
///   with `-d` anyway.
/// - level 2: also per-beacon "Sent to port N" and per-client
///   "Client on port N is alive" verification, C `if (debug > 1)`.
///
/// Which stream a line takes is `Diag`'s business, not this level's:
/// `debugPrintf` is stdout, `fprintf(stderr, …)` is stderr, and
/// `errlogPrintf` is the errlog queue. `ca-repeater-rs -v` keeps all
/// three connected; without `-v` fds 0/1/2 are `dup2`'d to `/dev/null`
/// and the stream ones are discarded, as C `caRepeater` does.
///
/// Binds to UDP 5065, accepts client registrations, and fans out beacons.
///
/// `Ok(())` is C `ca_repeater`'s `return` from a `void` function: the
/// daemon stopped after saying why. A socket it could not create or bind
/// is reported here, not handed to the caller to re-interpret.
pub async fn run_repeater_with_debug(debug: u8) -> io::Result<()> {
    use socket2::{Domain, Protocol, Socket, Type};
    let diag = Diag::new(debug);
    // C folds socket creation and bind into one `makeSocket` errno
    // (`repeater.cpp:91-126`), so a failure at either step reaches the same
    // pair of diagnostics at `:513-531`.
    let sock = match Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)) {
        Ok(s) => s,
        Err(e) => {
            diag.stderr(format_args!(
                "{C_FILE}: Unable to create repeater socket because \"{}\" - fatal",
                sock_err_string(&e)
            ));
            return Ok(());
        }
    };
    // libcom commit 51191e6: Linux defaults IP_MULTICAST_ALL=1, which would
    // give the repeater multicast traffic for groups it never joined.
    // No-op on non-Linux.
    #[cfg(target_os = "linux")]
    {
        let _ = sock.set_multicast_all_v4(false);
    }
    sock.set_nonblocking(true)?;
    // libca `repeater.cpp:499` resolves the bind port through
    // `envGetInetPortConfigParam(&EPICS_CA_REPEATER_PORT, …)`. Mirror
    // that so sites that override the port via env (e.g. to coexist
    // with a parallel C caRepeater on the default 5065) reach our
    // daemon. The default remains 5065 when the env var is unset.
    let port = repeater_port();
    let bind_addr = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    // Singleton-per-host bind. libca `repeater.cpp` makeSocket() binds
    // with NO reuse option set, so a second repeater process gets
    // EADDRINUSE and exits (`repeater.cpp:505-510`); ca-repeater-rs
    // treats that error as "another repeater is already running". The
    // bind must therefore be exclusive — do not enable SO_REUSEPORT
    // here: `epicsSocketEnableAddressUseForDatagramFanout` (the
    // SO_REUSEPORT fanout helper) is never called for the repeater, and
    // enabling it would let two repeaters join the kernel UDP fanout
    // group and split client registration / beacon delivery between
    // them. CA server UDP sockets keep fanout (server/udp.rs) so
    // multiple IOCs share the CA port; the repeater daemon port does not.
    //
    // C `ca_repeater` decides what a bind failure MEANS right here and
    // returns from its void function either way (`repeater.cpp:501-519`):
    // EADDRINUSE is the ordinary "someone else got there first" and prints
    // on stdout, anything else is fatal and prints on stderr. Handing the
    // bare `io::Error` up made the caller re-derive that — and `caget-rs`,
    // whose in-process fallback discards the result entirely, derived
    // nothing. Reporting here and returning `Ok(())` is C's `return`.
    let bind_sa: socket2::SockAddr = bind_addr.into();
    if let Err(e) = sock.bind(&bind_sa) {
        if e.kind() == io::ErrorKind::AddrInUse {
            diag.printf(
                DebugGate::Debug,
                format_args!("CA Repeater: Exiting, a repeater is already running"),
            );
        } else {
            diag.stderr(format_args!(
                "{C_FILE}: Unable to create repeater socket because \"{}\" - fatal",
                sock_err_string(&e)
            ));
        }
        return Ok(());
    }
    // Only after a successful exclusive bind does C enable SO_REUSEADDR
    // (`epicsSocketEnableAddressReuseDuringTimeWaitState`) so THIS daemon
    // can rebind across a restart. POSIX-only — WINSOCK SO_REUSEADDR has
    // different (port-hijack) semantics, so the C helper is a no-op on
    // Windows.
    #[cfg(not(windows))]
    let _ = sock.set_reuse_address(true);

    // ca commit 97bf917: join every multicast (224.0.0.0/4) beacon address
    // from EPICS_CAS_BEACON_ADDR_LIST (or EPICS_CA_ADDR_LIST as fallback) so
    // multicast-configured sites actually receive the beacons they fan out.
    // Errors are reported but non-fatal — broadcast/unicast beacons still work.
    join_beacon_multicast_groups(&sock, port, diag);

    let std_sock: StdUdpSocket = sock.into();
    let socket = UdpSocket::from_std(std_sock)?;
    // pvxs `udp_collector.cpp` parity: opt the kernel into
    // SO_RXQ_OVFL so a sustained beacon-fanout backlog surfaces as
    // a debug log instead of silent loss. No-op on non-Linux.
    if let Err(e) = epics_base_rs::net::enable_so_rxq_ovfl_for_socket(&socket) {
        tracing::trace!(
            target: "epics_ca_rs::repeater",
            error = %e,
            "SO_RXQ_OVFL enable failed (non-fatal)"
        );
    }

    // C `repeater.cpp:571`, a `debugPrintf` inside no `if (debug)`.
    // Unguarded is not the same as printed: at the pin `repeater.cpp`
    // defines no `DEBUG`, so the macro expands to nothing, and after
    // `e271752158dd` adds `#define DEBUG` the line still goes to
    // `caRepeater.cpp`'s `/dev/null` unless `-d`/`-v`. This port ran it
    // in-process on a CA client's own stdout, so it needs the gate more
    // than C does, not less.
    diag.printf(
        DebugGate::Debug,
        format_args!("CA Repeater: Attached and initialized"),
    );

    let mut clients: HashMap<u16, RepeaterClient> = HashMap::new();
    let mut buf = [0u8; 4096];
    let mut prev_drops: u32 = 0;

    loop {
        // C `repeater.cpp:577-593`: a recv error never exits the repeater —
        // `ECONNREFUSED` (Linux ICMP bug) and `ECONNRESET` (Windows KB263823)
        // are silently skipped, anything else is logged, and the loop always
        // continues. A repeater client that vanished between our fan-out send
        // and this recv otherwise killed the whole repeater.
        let (len, src, drops) =
            match epics_base_rs::net::recv_from_with_drop_count_socket(&socket, &mut buf).await {
                Ok(v) => v,
                Err(e) => {
                    if !matches!(
                        e.kind(),
                        std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::ConnectionReset
                    ) {
                        // C `repeater.cpp:590` is `fprintf(stderr, …)`, and
                        // stderr is where `caRepeater -v` leaves it. A
                        // `tracing::warn!` reached nobody in a daemon that
                        // installs no subscriber.
                        diag.stderr(format_args!(
                            "CA Repeater: unexpected UDP recv err: {}",
                            sock_err_string(&e)
                        ));
                    }
                    continue;
                }
            };
        if drops != 0 && drops != prev_drops {
            tracing::debug!(
                target: "epics_ca_rs::repeater",
                prev = prev_drops,
                drops,
                "CA repeater UDP socket buffer overflow"
            );
        }
        prev_drops = drops;

        // C CA clients send a zero-length UDP packet for repeater
        // registration (backward compat with pre-3.12 repeaters).
        //
        // C `register_new_client` (`repeater.cpp:364-366` the
        // non-AF_INET reject, `:371-414` the non-loopback bind test)
        // applies the same locality gate to BOTH the zero-length
        // legacy form and `CA_PROTO_REPEATER_REGISTER`. Pre-fix
        // Rust registered any zero-length datagram regardless of
        // source.
        //
        // C accepts loopback OR any source IP that belongs
        // to a local interface (the bind-test compatibility quirk
        // for clients alternating between loopback and the first
        // non-loopback interface). Use the same `is_local_source`
        // helper as `CA_PROTO_REPEATER_REGISTER` so a site-local
        // legacy client registering from e.g. `192.168.x.y` is
        // accepted, matching C.
        if len == 0 {
            if !is_local_source(src, diag) {
                tracing::warn!(
                    src = %src,
                    "caRepeater: zero-length registration from non-local source rejected"
                );
                metrics::counter!("ca_repeater_register_non_loopback_rejects_total").increment(1);
                continue;
            }
            register_client(&mut clients, src, diag);
            continue;
        }

        // Intentional divergence from C: `repeater.cpp:601-625` only
        // special-cases `size >= sizeof(caHdr)` (16) and `size == 0`, so
        // a 1–15-byte sub-header datagram falls through to `fanOut` and
        // is forwarded verbatim. We drop it instead — a runt datagram
        // carries no decodable CA header, every registered (loopback)
        // client would discard it on receipt anyway, and no legitimate
        // sender emits one; dropping here avoids waking every client
        // with an undecodable packet.
        if len < CaHeader::SIZE {
            continue;
        }

        let Ok(hdr) = CaHeader::from_bytes(&buf[..len]) else {
            continue;
        };

        let action = decode_datagram(&buf[..len], &hdr, src);
        if action.register {
            // C `register_new_client` rejects REPEATER_REGISTER from
            // non-AF_INET peers (repeater.cpp:364-366) and, for
            // non-loopback sources, requires `bind()` to the source
            // address to succeed (repeater.cpp:371-414, proving the
            // IP belongs to a local interface). The intent: the
            // repeater and its clients must be on the same host —
            // beacon fan-out from a remote peer would silently
            // expose PV existence to unauthorised observers via the
            // registered-clients list.
            //
            // We accept loopback OR any source IP that belongs to a
            // local interface (C bind-test compatibility,
            // `repeater.cpp::register_new_client` accepts a
            // non-loopback source if `bind()` to that address
            // succeeds locally). C still needs that second arm: at
            // R7.0.10 `caRepeaterRegistrationMessage` alternates the
            // registration destination by attempt number — loopback
            // on even attempts, `osiLocalAddr` (the first
            // non-loopback local address) on odd ones
            // (`udpiiu.cpp:494-515`) — so a registration legitimately
            // arrives from a non-loopback local address.
            if !is_local_source(src, diag) {
                tracing::warn!(
                    src = %src,
                    "caRepeater: REPEATER_REGISTER from non-local source rejected"
                );
                metrics::counter!("ca_repeater_register_non_loopback_rejects_total").increment(1);
                continue;
            }
            register_client(&mut clients, src, diag);
        }
        if let Some(data) = action.fanout {
            fan_out(&mut clients, src, &data);
        }
    }
}

/// Try to register with an existing repeater. If none is running, spawn one
/// as a background process using the current executable's `ca-repeater` binary,
/// then register again.
/// `repeater_port` is the client's single resolution of
/// `EPICS_CA_REPEATER_PORT` (C `udpiiu::repeaterPort`, `udpiiu.cpp:168`) —
/// both the pre-spawn and the post-spawn attempt reuse it.
pub async fn ensure_repeater(repeater_port: u16) {
    if try_register(repeater_port).await.is_ok() {
        return;
    }

    // No repeater running — spawn one
    spawn_repeater();

    // Give it a moment to start, then register
    epics_base_rs::runtime::task::sleep(std::time::Duration::from_millis(50)).await;
    let _ = try_register(repeater_port).await;
}

/// Send a REPEATER_REGISTER to localhost:5065 and wait for CONFIRM.
async fn try_register(repeater_port: u16) -> Result<(), ()> {
    let socket = UdpSocket::bind("0.0.0.0:0").await.map_err(|_| ())?;
    // SO_RXQ_OVFL opt-in for diagnostic parity with the long-running
    // repeater; the brief CONFIRM wait below ignores the counter
    // (just one packet expected) but enables it so any future reuse
    // of this socket inherits the same diagnostic surface. No-op
    // on non-Linux.
    let _ = epics_base_rs::net::enable_so_rxq_ovfl_for_socket(&socket);

    let local_ip = match socket.local_addr().ok() {
        Some(SocketAddr::V4(v4)) => *v4.ip(),
        _ => Ipv4Addr::LOCALHOST,
    };

    let mut hdr = CaHeader::new(CA_PROTO_REPEATER_REGISTER);
    hdr.available = u32::from_be_bytes(local_ip.octets());

    // Client REGISTER target: the port the caller resolved once (C
    // `udpiiu::repeaterPort`, `udpiiu.cpp:168`), so the register attempt
    // and the daemon bind agree and a misconfigured value is diagnosed
    // once per process rather than once per attempt.
    let repeater_addr = SocketAddrV4::new(Ipv4Addr::LOCALHOST, repeater_port);
    socket
        .send_to(&hdr.to_bytes(), repeater_addr)
        .await
        .map_err(|_| ())?;

    // Wait for confirm with short timeout
    let mut buf = [0u8; 64];
    let result = tokio::time::timeout(std::time::Duration::from_millis(200), async {
        loop {
            let (len, _, _drops) =
                epics_base_rs::net::recv_from_with_drop_count_socket(&socket, &mut buf)
                    .await
                    .map_err(|_| ())?;
            if len >= CaHeader::SIZE {
                if let Ok(resp) = CaHeader::from_bytes(&buf[..len]) {
                    if resp.cmmd == CA_PROTO_REPEATER_CONFIRM {
                        return Ok::<(), ()>(());
                    }
                }
            }
        }
    })
    .await;

    match result {
        Ok(Ok(())) => Ok(()),
        _ => Err(()),
    }
}

/// Spawn the repeater as a detached background process.
/// Falls back to an in-process repeater thread if the binary is not found.
fn spawn_repeater() {
    let exe = std::env::current_exe().unwrap_or_default();
    // The sibling binary carries the platform executable suffix: on Windows
    // it is `ca-repeater-rs.exe`. Joining the bare stem made `bin.exists()`
    // always false there, so every client fell through to the in-process
    // repeater fallback — which re-resolves `EPICS_CA_REPEATER_PORT` (and
    // re-prints its diagnostics into the client's own stderr) instead of
    // spawning the shared daemon C `caStartRepeaterIfNotInstalled` starts.
    let repeater_bin = exe
        .parent()
        .map(|p| p.join(format!("ca-repeater-rs{}", std::env::consts::EXE_SUFFIX)));

    // Try external binary first
    if let Some(ref bin) = repeater_bin {
        if bin.exists() && spawn_detached(bin) {
            return;
        }
    }

    // Fallback: run repeater in-process on a background thread.
    // This ensures beacon reception works even without the external binary.
    std::thread::spawn(|| {
        // C's in-process fallback is `caRepeaterThread` (`repeater.cpp:632`),
        // which registers with the watchdog before entering `ca_repeater()`.
        // Unbounded: the loop parks on `recv_from`, and a host with no CA
        // traffic is quiet rather than wedged.
        let _watched = epics_base_rs::runtime::taskwd::taskwd_insert(
            "CAC-repeater",
            epics_base_rs::runtime::taskwd::CheckIn::Unbounded,
            None,
        );
        let rt = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("repeater runtime");
        let _ = rt.block_on(run_repeater());
    });
}

/// The daemon `osiSpawnDetachedProcess` starts, with null stdio. It outlives
/// us, so a capturing ancestor's pipe it held (a shell `$(caput …)`, nextest)
/// would see no EOF until it exits.
///
/// Windows: no handle inherited, as C (WIN32/osdProcess.c:67-79). `Command`
/// passes every inheritable handle we hold, among them a pipe our own parent
/// gave us that is not our stdio.
#[cfg(windows)]
fn spawn_detached(bin: &std::path::Path) -> bool {
    use std::os::windows::ffi::OsStrExt;
    use std::ptr::null;
    use windows_sys::Win32::Foundation::{CloseHandle, FALSE};
    use windows_sys::Win32::System::Threading::{
        CREATE_NEW_PROCESS_GROUP, CreateProcessW, DETACHED_PROCESS, PROCESS_INFORMATION,
        STARTF_USESTDHANDLES, STARTUPINFOW,
    };

    let app: Vec<u16> = bin.as_os_str().encode_wide().chain([0]).collect();
    // argv[0], quoted for a path with spaces; CreateProcessW may write to it.
    let mut cmdline: Vec<u16> = "\""
        .encode_utf16()
        .chain(bin.as_os_str().encode_wide())
        .chain("\"\0".encode_utf16())
        .collect();
    // SAFETY: both are plain C structs, valid all-zero.
    let mut startup: STARTUPINFOW = unsafe { std::mem::zeroed() };
    let mut info: PROCESS_INFORMATION = unsafe { std::mem::zeroed() };
    startup.cb = std::mem::size_of::<STARTUPINFOW>() as u32;
    // Null standard handles, not our handle values copied unopened.
    startup.dwFlags = STARTF_USESTDHANDLES;
    // SAFETY: `app` and `cmdline` are NUL-terminated and outlive the call,
    // which reads `startup` and writes `info`.
    let created = unsafe {
        CreateProcessW(
            app.as_ptr(),
            cmdline.as_mut_ptr(),
            null(),
            null(),
            FALSE,
            CREATE_NEW_PROCESS_GROUP | DETACHED_PROCESS,
            null(),
            null(),
            &startup,
            &mut info,
        )
    };
    if created == 0 {
        return false;
    }
    // SAFETY: the call returned both handles to us; each is closed once.
    unsafe {
        CloseHandle(info.hProcess);
        CloseHandle(info.hThread);
    }
    true
}

/// Unix: every descriptor past stdio closes at exec, as C closes them
/// (posix/osdProcess.c:110-126); std marks its own CLOEXEC, not those our
/// parent left us. Marked rather than closed, so std's exec-error pipe works.
#[cfg(not(windows))]
fn spawn_detached(bin: &std::path::Path) -> bool {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    // SAFETY: sysconf has no preconditions.
    let open_max = unsafe { libc::sysconf(libc::_SC_OPEN_MAX) }.clamp(0, libc::c_int::MAX as _);
    let mut cmd = Command::new(bin);
    cmd.stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: the hook only calls fcntl, which is async-signal-safe.
    unsafe {
        cmd.pre_exec(move || {
            for fd in 3..open_max as libc::c_int {
                libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
            }
            Ok(())
        });
    }
    cmd.spawn().is_ok()
}

/// C reports a bind-test socket it cannot create exactly once
/// (`repeater.cpp:372-388`, the `static bool init`), so an exhausted fd
/// table gives one line rather than one per registration datagram.
static BIND_TEST_SOCKET_REPORTED: std::sync::atomic::AtomicBool =
    std::sync::atomic::AtomicBool::new(false);

/// C `repeater.cpp::register_new_client` accepts a registration
/// when the source IP is loopback OR when `bind()` to that address
/// succeeds locally (the 3.13-era compatibility quirk that allows
/// clients which alternate between loopback and the first non-
/// loopback interface). Pre-fix Rust simplified to loopback-only.
///
/// C splits the probe into two steps that mean different things: making
/// the test socket (`makeSocket(PORT_ANY, true, …)` — a failure is
/// reported on stderr, `:388-393`) and binding it to the source address
/// (a failure is the answer "not a local address", and is silent,
/// `:416-419`). The port had one `StdUdpSocket::bind(…).is_ok()`, so a
/// host out of file descriptors rejected every registration and said
/// nothing. Keep C's two steps — but a socket per probe, not C's single
/// re-bound `static testSock`, which cannot take a second distinct
/// non-loopback source.
pub(crate) fn is_local_source(src: SocketAddr, diag: Diag) -> bool {
    use std::sync::atomic::Ordering;

    if src.ip().is_loopback() {
        return true;
    }
    // C `register_new_client` rejects non-AF_INET (IPv6) explicitly.
    let SocketAddr::V4(v4) = src else {
        return false;
    };

    // `makeSocket(PORT_ANY, …)` returns before its `reuseAddr` block, so
    // C sets no reuse option on this socket either.
    let sock = match socket2::Socket::new(
        socket2::Domain::IPV4,
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    ) {
        Ok(sock) => sock,
        Err(e) => {
            if !BIND_TEST_SOCKET_REPORTED.swap(true, Ordering::Relaxed) {
                diag.stderr(format_args!(
                    "{C_FILE}: Unable to create repeater bind test socket because \"{}\"",
                    sock_err_string(&e)
                ));
            }
            return false;
        }
    };
    let probe: socket2::SockAddr = SocketAddrV4::new(*v4.ip(), 0).into();
    sock.bind(&probe).is_ok()
}

#[cfg(all(test, windows))]
mod windows_tests {
    /// A start that fails falls back to the in-process repeater, which no
    /// leak check tells apart from the daemon.
    #[test]
    fn a_detached_start_with_no_inherited_handle_runs_the_program() {
        let root = std::env::var_os("SystemRoot").expect("SystemRoot");
        let whoami = std::path::Path::new(&root).join(r"System32\whoami.exe");
        assert!(super::spawn_detached(&whoami));
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    /// fd 1 / fd 2 capture for the two daemon tests below.
    ///
    /// It sits beside its callers.  It lived in `repeater_clients` while both
    /// modules carried the same target gate; once `repeater` narrowed to
    /// `tokio_backend` the borrow ran the wrong way — the module that compiles
    /// away first is this one, so a helper left over there is stranded with no
    /// caller at all.
    ///
    /// Gated once, on the tests module. `capture_streams` dups and swaps this
    /// process's fds 1 and 2, so it is unix-only, and every test here goes
    /// through it. Carrying the `#[cfg]` on the function instead left the
    /// module inhabited on Windows and an ungated `use` of a name that was
    /// configured out (E0432); carrying it per item left the module's
    /// `use super::*` with nothing to feed there.
    mod stream_capture {
        /// Serialises the fd-swapping capture below: fds 1 and 2 are
        /// process-global, so two of these running at once would cross-read.
        static STREAM_CAPTURE: std::sync::Mutex<()> = std::sync::Mutex::new(());

        /// Run `f` with fd 1 and fd 2 redirected to pipes, and return what each
        /// received.
        ///
        /// WHICH stream a `repeater.cpp` diagnostic takes is half of what this
        /// module got wrong: `debugPrintf` is `::printf` (stdout) wherever the
        /// facility is compiled in — `#define DEBUG` before `iocinf.h`, added
        /// post-R7.0.10 in `e271752158dd` — while the port emitted every line
        /// on stderr. Asserting the bytes alone would not have caught that, so
        /// the tests assert the stream too. The other half was WHETHER it takes
        /// one at all; `repeater_is_silent_at_debug_zero` covers that.
        pub(crate) fn capture_streams<F: FnOnce() -> R, R>(f: F) -> (R, String, String) {
            use std::io::{Read, Write};
            use std::os::fd::FromRawFd;

            let _serial = STREAM_CAPTURE
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);

            // SAFETY: plain fd bookkeeping on this process's own fds 1 and 2.
            // The lock above makes this the only thread swapping them.
            let (saved_out, saved_err, mut out_r, mut err_r) = unsafe {
                let saved_out = libc::dup(1);
                let saved_err = libc::dup(2);
                let mut op = [0i32; 2];
                let mut ep = [0i32; 2];
                assert_eq!(libc::pipe(op.as_mut_ptr()), 0, "stdout pipe");
                assert_eq!(libc::pipe(ep.as_mut_ptr()), 0, "stderr pipe");
                libc::dup2(op[1], 1);
                libc::dup2(ep[1], 2);
                libc::close(op[1]);
                libc::close(ep[1]);
                (
                    saved_out,
                    saved_err,
                    std::fs::File::from_raw_fd(op[0]),
                    std::fs::File::from_raw_fd(ep[0]),
                )
            };

            let value = f();
            let _ = std::io::stdout().flush();
            let _ = std::io::stderr().flush();

            // SAFETY: restores the two fds saved above and releases the
            // duplicates; dropping the pipes' write ends is what ends the reads.
            unsafe {
                libc::dup2(saved_out, 1);
                libc::dup2(saved_err, 2);
                libc::close(saved_out);
                libc::close(saved_err);
            }

            let mut out = String::new();
            let mut err = String::new();
            out_r.read_to_string(&mut out).expect("captured stdout");
            err_r.read_to_string(&mut err).expect("captured stderr");
            (value, out, err)
        }
    }

    /// C `repeater.cpp:505-510`: a repeater that loses the race for the
    /// port says so with a `debugPrintf` — stdout — and then returns. The
    /// port propagated a bare `AddrInUse` instead, which `caget-rs`'s
    /// in-process fallback discards with `let _ =`. The line needs `-d`:
    /// C leaves this site outside any `if (debug)`, but the facility is
    /// shut at level 0 either way, so the test asserts both halves.
    // RTEMS-EXEC-MODEL-ALLOW(1): builds and enters its own current-thread
    // runtime rather than taking an ambient one; green on the exec
    // backend.
    #[test]
    fn second_repeater_says_one_is_already_running_on_stdout() {
        // Hold the port so the daemon's exclusive bind must fail.
        let held = StdUdpSocket::bind("0.0.0.0:0").expect("hold bind");
        let port = held.local_addr().expect("hold addr").port();
        // SAFETY: nextest runs each test in its own process.
        unsafe { std::env::set_var("EPICS_CA_REPEATER_PORT", port.to_string()) };

        let rt = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("test runtime");

        let (quiet, quiet_out, _) =
            stream_capture::capture_streams(|| rt.block_on(run_repeater_with_debug(0)));
        assert!(quiet.is_ok(), "a lost bind race is not an error: {quiet:?}");
        assert!(
            quiet_out.is_empty(),
            "the `debugPrintf` facility is shut at debug 0 — a CA client tool \
             runs this repeater in-process, so its stdout must stay clean; \
             got {quiet_out:?}"
        );

        let (result, out, err) =
            stream_capture::capture_streams(|| rt.block_on(run_repeater_with_debug(1)));

        assert!(
            result.is_ok(),
            "C returns from its void `ca_repeater` after reporting; the port \
             must not hand the bind error up instead: {result:?}"
        );
        let line = "CA Repeater: Exiting, a repeater is already running";
        assert!(
            out.lines().any(|l| l == line),
            "stdout must carry {line:?} verbatim; got {out:?}"
        );
        assert!(
            !err.contains(line),
            "the line is a `debugPrintf`, i.e. C `::printf`; got stderr {err:?}"
        );
        drop(held);
    }

    /// A `run_repeater_with_debug(debug)` on a port nothing else holds, sent
    /// REGISTERs until it CONFIRMs, with the streams that one daemon wrote and
    /// the registered client's port.
    ///
    /// No port can be reserved for the daemon: the probe has to be dropped
    /// before the daemon binds, and in that window another socket on the box
    /// can take the number, after which the daemon's exclusive bind loses and
    /// it returns (`repeater.cpp:505-510`). That daemon finishing before any
    /// CONFIRM is the lost bind, and the attempt is made again on a fresh
    /// port. The client is bound first so the probe cannot hand it the port.
    ///
    /// `verifyClients` bind-tests the client's own address, and C's order is
    /// confirm-then-sweep (`repeater.cpp:443-476`) — so the socket stays open
    /// past the CONFIRM, for 250 ms in which the sweep prints its line.
    // RTEMS-EXEC-MODEL-ALLOW(1): the runtime both callers share; the
    // module is tokio_backend-only (lib.rs), so it never builds on the
    // exec backend.
    fn registered_repeater(debug: u8) -> (bool, String, String, u16) {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicBool, Ordering};
        use std::time::{Duration, Instant};

        let client = Arc::new(StdUdpSocket::bind("127.0.0.1:0").expect("client bind"));
        client
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("client read timeout");
        let client_port = client.local_addr().expect("client addr").port();
        let rt = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("test runtime");

        for _ in 0..5 {
            let free_port = StdUdpSocket::bind("127.0.0.1:0")
                .expect("probe bind")
                .local_addr()
                .expect("probe addr")
                .port();
            // `run_repeater_with_debug` binds `repeater_port()`, C
            // `envGetInetPortConfigParam(&EPICS_CA_REPEATER_PORT, …)`, so this
            // is the only way to keep the test off a host repeater on 5065.
            // SAFETY: nextest runs each test in its own process.
            unsafe { std::env::set_var("EPICS_CA_REPEATER_PORT", free_port.to_string()) };

            let (attempt, out, err) = stream_capture::capture_streams(|| {
                let client = Arc::clone(&client);
                rt.block_on(async move {
                    let mut repeater = tokio::spawn(run_repeater_with_debug(debug));
                    let stop = Arc::new(AtomicBool::new(false));
                    let stopped = Arc::clone(&stop);
                    // Re-send until the CONFIRM arrives: the first REGISTER
                    // can predate the daemon's bind, and a lost datagram must
                    // not turn into a flake.
                    let mut confirm = tokio::task::spawn_blocking(move || {
                        let register = CaHeader::new(CA_PROTO_REPEATER_REGISTER).to_bytes();
                        let deadline = Instant::now() + Duration::from_secs(5);
                        let mut buf = [0u8; 64];
                        while Instant::now() < deadline && !stopped.load(Ordering::Relaxed) {
                            let _ = client.send_to(&register, ("127.0.0.1", free_port));
                            if let Ok((n, _)) = client.recv_from(&mut buf)
                                && n >= CaHeader::SIZE
                                && let Ok(h) = CaHeader::from_bytes(&buf[..n])
                                && h.cmmd == CA_PROTO_REPEATER_CONFIRM
                            {
                                return true;
                            }
                        }
                        false
                    });
                    tokio::select! {
                        // Stopped before the next attempt, whose CONFIRM it
                        // would otherwise read off the shared client.
                        _ = &mut repeater => {
                            stop.store(true, Ordering::Relaxed);
                            let _ = confirm.await;
                            None
                        }
                        confirmed = &mut confirm => {
                            tokio::time::sleep(Duration::from_millis(250)).await;
                            repeater.abort();
                            Some(confirmed.unwrap_or(false))
                        }
                    }
                })
            });
            if let Some(confirmed) = attempt {
                return (confirmed, out, err, client_port);
            }
        }
        panic!("the repeater lost its port bind five times");
    }

    /// The `debugPrintf` facility is shut at debug 0, on the path where
    /// that matters: a full registration, which fires the banner, `New
    /// client on port %u` and `Verified %u active clients` — the three
    /// lines the sibling test reads at `-d 1`.
    ///
    /// `ensure_repeater` runs this daemon on a background thread inside
    /// whichever CA client tool could not find a `caRepeater` binary, so
    /// anything it writes to stdout is written into that tool's data
    /// channel. C never does: at R7.0.10 `repeater.cpp` defines no
    /// `DEBUG` and the macro expands to nothing, and after
    /// `e271752158dd` `caRepeater.cpp` `dup2`s stdout to `/dev/null`
    /// unless `-d`/`-v`. C's `fprintf(stderr, …)` sites are ungated and
    /// stay ungated here, so only stdout is asserted.
    #[test]
    fn repeater_is_silent_at_debug_zero() {
        let (confirmed, out, err, _) = registered_repeater(0);

        assert!(
            confirmed,
            "the repeater never confirmed the registration; captured stdout \
             {out:?} stderr {err:?}"
        );
        assert!(
            out.is_empty(),
            "a repeater at debug 0 must write nothing to stdout — it shares \
             one with the CA client tool that started it; got {out:?}"
        );
    }

    /// The bytes and the stream of three `repeater.cpp` diagnostics, taken
    /// off a live `run_repeater_with_debug` at `-d 1` — at level 0 the
    /// facility is shut, which `repeater_is_silent_at_debug_zero` covers.
    ///
    /// * `CA Repeater: Attached and initialized` — `repeater.cpp:571`, a
    ///   `debugPrintf` inside no `if (debug)`. The port put it on stderr.
    /// * `New client on port %u` — `repeater.cpp:133`, the `repeaterClient`
    ///   constructor, `#ifdef DEBUG` at the pin and `if (debug)` after
    ///   `e271752158dd`.
    /// * `Verified %u active clients` — post-pin, added by `e271752158dd`
    ///   at the tail of `verifyClients` (`repeater.cpp:310-325` at
    ///   R7.0.10), and that is the only function in the file that prints
    ///   it; the port also printed it from `fanOut` and from a
    ///   registration wrapper.
    #[test]
    fn repeater_diagnostics_carry_c_bytes_on_c_streams() {
        let (confirmed, out, err, client_port) = registered_repeater(1);

        assert!(
            confirmed,
            "the repeater never confirmed the registration; captured stdout {out:?} stderr {err:?}"
        );

        let banner = "CA Repeater: Attached and initialized";
        let new_client = format!("New client on port {client_port}");
        let verified = "Verified 1 active clients";

        for line in [banner, new_client.as_str(), verified] {
            assert!(
                out.lines().any(|l| l == line),
                "stdout must carry {line:?} verbatim; got {out:?}"
            );
            assert!(
                !err.contains(line),
                "{line:?} is a `debugPrintf`, i.e. C `::printf` — it must not \
                 reach stderr; got {err:?}"
            );
        }
    }

    /// A pipe our parent left us without CLOEXEC reads EOF once we close it,
    /// though the daemon outlives us.
    #[test]
    fn a_detached_daemon_holds_no_descriptor_past_stdio() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let daemon = dir.path().join("daemon");
        std::fs::write(&daemon, "#!/bin/sh\nexec sleep 3\n").unwrap();
        std::fs::set_permissions(&daemon, std::fs::Permissions::from_mode(0o755)).unwrap();

        let mut fds = [0; 2];
        // SAFETY: `fds` has room for both ends; pipe(2) leaves them inheritable.
        assert_eq!(unsafe { libc::pipe(fds.as_mut_ptr()) }, 0);
        assert!(spawn_detached(&daemon));
        let mut hup = libc::pollfd {
            fd: fds[0],
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: both fds are ours; `hup` is one valid pollfd.
        let ready = unsafe {
            libc::close(fds[1]);
            let ready = libc::poll(&mut hup, 1, 1000);
            libc::close(fds[0]);
            ready
        };
        assert_eq!(ready, 1, "the daemon holds the write end");
    }
}
