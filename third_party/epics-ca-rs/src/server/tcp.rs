// Every `#[tokio::test]` in this file drives the async CA TCP server — the
// tokio::net accept front-end and the tasks it spawns — so none of them can be
// gated out of the exec-backend suite without gating out the server's own
// coverage. Each carries its own census marker on the line above it, vouching
// for that one test: checked to run and pass under
// `EPICS_RS_BUILD_EXEC_BACKEND=thread` on the tokio driver.
//
// The count sits beside the test rather than in one total up here because a
// total is invalidated by an edit anywhere in a 10,000-line file, and the
// number that then disagrees is nowhere near the line that broke it.
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
// These `tokio::io` traits/wrappers are used only by the async accept/read
// front-end (`handle_client`, `drain_and_flush`); the shared read helper takes
// a `tokio::io::AsyncReadExt` bound by full path. Gated to `tokio_backend`,
// with the rest of the async front-end.
#[cfg(tokio_backend)]
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter};
// `tokio::net::TcpListener` (and the `socket2` keepalive setup) back only the
// async accept path; a reactor-free build serves TCP through
// `server::blocking` (`std::net`), so the accept front-end is gated out there.
#[cfg(tokio_backend)]
use tokio::net::TcpListener;
use tokio::sync::broadcast;

/// Optional application-level idle timeout before forcibly closing a TCP
/// client. Disabled by default — OS-level TCP keepalive (set in `accept_loop`,
/// 15s idle + 5s probes) is the primary half-open detector and matches C
/// epics-base rsrv (`caservertask.c:1457-1463` sets `SO_KEEPALIVE` and
/// refuses the connection if it fails; C has no application-level idle timeout
/// at all — the socket option is its only half-open detector).
///
/// A C client receiving a continuous monitor stream may never send
/// `CA_PROTO_ECHO` (libca resets its echo timer on every received frame from
/// the server), so an inactivity timeout based purely on incoming reads
/// produces false-positive disconnects on healthy connections. Operators who
/// want a defensive cap (e.g., NAT environments where TCP keepalive is
/// unreliable) can set `EPICS_CAS_INACTIVITY_TMO` to a positive value;
/// values < 30 are clamped to 30 to avoid pathological short timeouts.
pub(crate) fn inactivity_timeout() -> Option<Duration> {
    static RESOLVED: std::sync::OnceLock<Option<Duration>> = std::sync::OnceLock::new();
    *RESOLVED.get_or_init(resolve_inactivity_timeout)
}

/// The uncached resolution behind [`inactivity_timeout`].
fn resolve_inactivity_timeout() -> Option<Duration> {
    crate::estdlib::env_double("EPICS_CAS_INACTIVITY_TMO")
        .ok()
        .filter(|v| *v > 0.0)
        .map(|v| crate::estdlib::duration_from_secs(v.max(30.0)))
}

/// Read into `buf` with an optional idle cap. If `cap` is `None`, the read
/// is unbounded (matches C `recv()` blocking semantics in `camsgtask.c`);
/// if `cap` is `Some(d)`, returns `Err(d)` after `d` of inactivity.
#[cfg(tokio_backend)]
async fn read_with_optional_timeout<R: tokio::io::AsyncReadExt + Unpin>(
    reader: &mut R,
    buf: &mut [u8],
    cap: Option<Duration>,
) -> Result<std::io::Result<usize>, Duration> {
    match cap {
        None => Ok(reader.read(buf).await),
        Some(d) => match tokio::time::timeout(d, reader.read(buf)).await {
            Ok(r) => Ok(r),
            Err(_) => Err(d),
        },
    }
}

/// Parse an opt-in resource cap from an env value. `None` (variable
/// unset, empty, or unparseable) means **unbounded** — C rsrv imposes
/// no per-client channel count limit in `claim_ciu_action`
/// (`camessage.c:1182-1291`) and no per-channel subscription count
/// limit in `event_add_action` (`camessage.c:1762-1866`); both refuse
/// only on genuine memory exhaustion (`casCreateChannel` /
/// `freeListCalloc` / `db_add_event` returning NULL → `ECA_ALLOCMEM`),
/// never on a fixed count. A default cap diverged from this: a single
/// legitimate client (e.g. `caget` over a 5000-PV database) creating
/// more than the cap on one circuit was refused with `ECA_ALLOCMEM`,
/// producing a hard latency cliff at the cap boundary. A present value
/// clamps to `>= 1` (a zero cap would refuse every request).
fn parse_opt_cap(raw: Option<String>) -> Option<usize> {
    raw.and_then(|s| s.parse::<usize>().ok()).map(|n| n.max(1))
}

/// Optional per-client channel cap (`EPICS_CAS_MAX_CHANNELS`).
/// Default-unbounded (C `claim_ciu_action` parity); opt-in only.
fn max_channels_per_client() -> Option<usize> {
    parse_opt_cap(epics_base_rs::runtime::env::get_lossy(
        "EPICS_CAS_MAX_CHANNELS",
    ))
}

/// Optional per-channel subscription cap (`EPICS_CAS_MAX_SUBS_PER_CHAN`).
/// Default-unbounded (C `event_add_action` parity); opt-in only.
fn max_subs_per_channel() -> Option<usize> {
    parse_opt_cap(epics_base_rs::runtime::env::get_lossy(
        "EPICS_CAS_MAX_SUBS_PER_CHAN",
    ))
}

#[cfg(test)]
mod cap_parse_tests {
    use super::parse_opt_cap;

    /// C rsrv parity: with the env var unset there is **no** cap, so a
    /// legitimate client can create unboundedly many channels /
    /// subscriptions on one circuit. This is the regression guard for
    /// the 4096-channel (and 100-subscription) latency cliff: the prior
    /// code returned a fixed default (`4096` / `100`) here.
    #[test]
    fn unset_env_is_unbounded() {
        assert_eq!(parse_opt_cap(None), None);
    }

    /// An unparseable / empty value is treated as "no valid cap
    /// configured" → unbounded, consistent with unset.
    #[test]
    fn unparseable_or_empty_is_unbounded() {
        assert_eq!(parse_opt_cap(Some(String::new())), None);
        assert_eq!(parse_opt_cap(Some("not-a-number".into())), None);
    }

    /// An explicit value still opts into a cap and clamps to `>= 1` so a
    /// stray `0` cannot refuse every request.
    #[test]
    fn explicit_value_caps_and_clamps_to_one() {
        assert_eq!(parse_opt_cap(Some("4096".into())), Some(4096));
        assert_eq!(parse_opt_cap(Some("1".into())), Some(1));
        assert_eq!(parse_opt_cap(Some("0".into())), Some(1));
    }
}

/// Per-socket send timeout. Without this, a client that stops
/// reading (frozen GUI, dead viewer holding the socket open) causes
/// every server `write` to block once the kernel send buffer fills,
/// stalling the whole per-client dispatcher task.
///
/// **This has no C counterpart.** `SO_SNDTIMEO` appears nowhere in epics-base,
/// and rsrv's `create_tcp_client` sets only `TCP_NODELAY` and `SO_KEEPALIVE`
/// (`caservertask.c:1445-1490` — the `SO_SNDBUF`/`SO_RCVBUF` pair below them is
/// inside `#if 0` and has been since 1998, so it is not set either);
/// `cas_send_bs_msg`
/// then loops on a blocking `send()` under `SEND_LOCK` with no bound at all
/// (`caserverio.c:43`), and it is the keepalive probe that eventually ends such
/// a client. So the 5 s here is this port's own choice and
/// `EPICS_CAS_SEND_TMO` its own knob — [`crate::estdlib`] classifies it as
/// exactly that, a variable outside C's `ENV_PARAM` table.
#[cfg(tokio_backend)]
fn send_timeout() -> Duration {
    static RESOLVED: std::sync::OnceLock<Duration> = std::sync::OnceLock::new();
    *RESOLVED.get_or_init(resolve_send_timeout)
}

/// The uncached resolution behind [`send_timeout`]. Resolving once per
/// process keeps a rejected value from re-printing its diagnostic on every
/// client connect.
#[cfg(tokio_backend)]
fn resolve_send_timeout() -> Duration {
    crate::estdlib::env_double("EPICS_CAS_SEND_TMO")
        .ok()
        .map(|v| crate::estdlib::duration_from_secs(v.max(0.1)))
        .unwrap_or(Duration::from_secs(5))
}

/// Cap on `TlsAcceptor::accept` duration. Without this
/// a peer that completes TCP but stalls during ClientHello holds a
/// connection slot until OS-level keepalive (15s/5s probes) reaps it
/// (~30s); coordinated peers can tie up listener resources. Default
/// 10 s, override via `EPICS_CAS_TLS_HANDSHAKE_TMO`. Floored at 1s.
///
/// `tokio_backend` as well as the TLS feature: its only callers are in
/// `handle_client`'s accept path, which is the async front-end, so with the
/// feature on and the reactor-free backend selected this function had no
/// caller left at all.
#[cfg(all(feature = "experimental-rust-tls", tokio_backend))]
fn tls_handshake_timeout() -> Duration {
    static RESOLVED: std::sync::OnceLock<Duration> = std::sync::OnceLock::new();
    *RESOLVED.get_or_init(|| {
        crate::estdlib::env_double("EPICS_CAS_TLS_HANDSHAKE_TMO")
            .ok()
            .map(|v| crate::estdlib::duration_from_secs(v.max(1.0)))
            .unwrap_or(Duration::from_secs(10))
    })
}

/// Connection lifecycle event broadcast by the TCP listener.
///
/// Marked `#[non_exhaustive]` so subsequent variants (e.g. per-monitor
/// events) can be added without breaking downstream `match` arms.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ServerConnectionEvent {
    /// New client connection accepted.
    Connected(SocketAddr),
    /// Client connection closed.
    Disconnected(SocketAddr),
    /// `CA_PROTO_CREATE_CHAN` succeeded for `pv_name` on `peer`. The
    /// `cid` is the client-supplied channel id from the request — pass
    /// it through to consumers so multiple channels for the same
    /// `(peer, pv_name)` pair don't collapse into one refcount slot.
    /// Used by the CA gateway to drive per-PV `Inactive` → `Active`
    /// transitions (see `ca_gateway::cache::GwPvEntry::add_subscriber`).
    ChannelCreated {
        peer: SocketAddr,
        pv_name: Arc<[u8]>,
        cid: u32,
    },
    /// `CA_PROTO_CLEAR_CHANNEL` (or implicit teardown) closed a channel
    /// for `pv_name` on `peer`. The `cid` matches the corresponding
    /// [`Self::ChannelCreated`] event one-to-one. Reverse of that event.
    ChannelCleared {
        peer: SocketAddr,
        pv_name: Arc<[u8]>,
        cid: u32,
    },
    /// `CA_PROTO_EVENT_ADD` accepted; a new subscription is live.
    /// Drives `ServerStats::subscriptions_opened_total` (PR #592's
    /// `caServerSubscriptionCount`).
    ///
    /// `mask` is the validated `DBE_*` event-select mask the client
    /// requested (`1..=255`). The CA gateway consults `mask & DBE_PROPERTY`
    /// to decide, in no-cache mode, whether to spawn the upstream property
    /// monitor for this PV — mirroring C ca-gateway gating `propMonitor()`
    /// on `needPosting() && client_mask == DBE_PROPERTY`
    /// (`gatePv.cc:1749-1752`).
    SubscriptionOpened {
        peer: SocketAddr,
        pv_name: Arc<[u8]>,
        sub_id: u32,
        mask: u16,
    },
    /// `CA_PROTO_EVENT_CANCEL` or channel teardown closed a
    /// subscription. Drives `ServerStats::subscriptions_closed_total`.
    /// Subtract from the opened counter for the live subscription
    /// count.
    SubscriptionClosed {
        peer: SocketAddr,
        pv_name: Arc<[u8]>,
        sub_id: u32,
    },
}

use super::LongStringMode;
use crate::protocol::*;
use crate::server::outbox::{FrameSink, Outbox};
pub(crate) use epics_base_rs::server::database::dbr_delivery::prepare_read;
// The accumulator is shared with the blocking driver, but this file's only
// user of it is the async `handle_client`; same gate as that fn, which is
// `tokio_backend` and not the target. Every reactor-free build reaches the
// same primitive from `server::blocking` — the two embedded targets, and a
// host `exec_backend` build with them.
#[cfg(tokio_backend)]
use crate::server::recv::{Admit, Gate, RecvAccumulator};
// `OutboxDrain` is consumed only by the async `drain_and_flush`; same gate.
use crate::server::frame::{FrameBuf, size_dbr_reply};
#[cfg(tokio_backend)]
use crate::server::outbox::OutboxDrain;
use epics_base_rs::error::CaResult;
#[cfg(tokio_backend)]
use epics_base_rs::server::database::channel_io::get_read_snapshot;
use epics_base_rs::server::database::channel_io::{
    CreateRefusal, get_full_snapshot, read_ack_state, try_get_read_snapshot_local,
};
// The accept backoff is shared with the blocking driver, but this file's only
// user of it is the async `accept_loop`; same gate as that fn. Reactor-free
// builds reach the same primitive from `server::blocking`.
#[cfg(tokio_backend)]
use epics_base_rs::runtime::accept::AcceptBackoff;
use epics_base_rs::server::access_security::{AccessLevel, AccessSecurityConfig};
use epics_base_rs::server::database::PvDatabase;
use epics_base_rs::server::database::filters::ChannelCreateError;
use epics_base_rs::server::pv::{IoBlocked, WriteEnd};
use epics_base_rs::types::{DbFieldType, EpicsValue, encode_dbr_into, native_type_for_dbr};

pub(crate) use epics_base_rs::server::database::channel_io::ChannelTarget;

/// The CA status a *database put* reports to the client.
///
/// C decides this by LAYER, not by which database error came back:
/// `write_action` (`rsrv/camessage.c:773-789`) answers a failed
/// `dbChannel_put` with `ECA_PUTFAIL` whatever the `dbStatus` was, and
/// `write_notify_reply` (`camessage.c:1386-1390`) maps every
/// `status != notifyOK` to the same `ECA_PUTFAIL`. The type errors —
/// `ECA_BADTYPE` — belong to the gates ABOVE the put (`caNetConvert`,
/// `camessage.c:753-766`; the standalone `INVALID_DB_REQ` gate above it is
/// not at the pin — `4128a7c07` adds it), which run first and tear the
/// connection down; a *value* that the field's converter refuses is not a
/// wire-type error and can never be reported as one.
///
/// Constructing the reply status only through this type is what keeps that
/// true. [`CaError::to_eca_status`](epics_base_rs::error::CaError::to_eca_status)
/// is the CLIENT-side table and is deliberately wider: it also answers for
/// libca's own local statuses — `ECA_TIMEOUT`, `ECA_TOLARGE`, `ECA_BADTYPE`
/// — which by the time rsrv reaches `dbChannel_put` have already been
/// answered by the gates above it. Every error left at this point is a
/// database refusal, so this table has only the access gate to distinguish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct PutStatus(u32);

impl PutStatus {
    /// The put reached the database and was accepted.
    const OK: Self = Self(ECA_NORMAL);

    /// The status for a put the database refused.
    fn of_failure(err: &epics_base_rs::error::CaError) -> Self {
        use epics_base_rs::error::CaError;
        Self(match err {
            // C reports the channel's own write refusal from `rsrvCheckPut`,
            // above the put: measured on the C softIoc, `caput REC.STAT 3`
            // (a `special(SPC_NOMOD)` field) answers "Write access denied".
            CaError::ReadOnlyField(_) => ECA_NOWTACCESS,
            // Not an rsrv case — its database is local — but this server also
            // backs the CA gateway, whose shadow PV can be destroyed under a
            // write; its channel is going too.
            CaError::Disconnected | CaError::Shutdown | CaError::Io(_) => ECA_DISCONN,
            // Every way the database can refuse a put — a value the field's
            // converter rejects, a menu string that names no choice, a
            // record-side veto, the status a plain put's process cycle
            // returned — is C's `dbStatus < 0`. A second put-callback
            // for the record is not among them: the database queues it on the
            // record's restart list, so [`PutNotifySlot`] is this server's only
            // source of ECA_PUTCBINPROG and it answers a timed-out predecessor.
            _ => ECA_PUTFAIL,
        })
    }

    /// The status of a completed put, ready for the wire.
    fn eca(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod put_status_tests {
    //! The boundary this type exists to hold: a refusal from INSIDE the
    //! database put is `ECA_PUTFAIL` no matter which error the record layer
    //! raised, while the refusal from ABOVE it keeps its own status.
    //!
    //! Measured on the C softIoc (`record(ai,"MEAS:A") {}`):
    //! `caput MEAS:A.PHAS 32768` and `caput MEAS:A.RVAL notanumber` both print
    //! "Channel write request failed" (`ECA_PUTFAIL`), while
    //! `caput MEAS:A.STAT 3` — a `special(SPC_NOMOD)` field — prints
    //! "Write access denied" (`ECA_NOWTACCESS`).

    use super::*;
    use epics_base_rs::error::{CaError, DbStatus};

    /// Every way the database can refuse a value is C's `dbStatus < 0`, and
    /// C answers all of them with one status. In particular none of them may
    /// answer `ECA_BADTYPE`: the wire type was already accepted by the gate
    /// above (C `caNetConvert`), so "the data type specified is invalid" is a
    /// statement the put path is not entitled to make.
    #[test]
    fn every_database_refusal_is_putfail_and_never_badtype() {
        let refusals = [
            CaError::InvalidValue("32768 overflows DBF_SHORT".into()),
            CaError::TypeMismatch("string into a numeric field".into()),
            CaError::UnsupportedType(epics_base_rs::types::DBR_STRING),
            CaError::BadField("S_db_badField".into()),
            CaError::BadChoice("S_db_badChoice".into()),
            CaError::PutDisabled("DISP".into()),
            CaError::FieldNotFound("NOSUCH".into()),
            // A positive status too: `dbChannel_put` folds every non-zero
            // `dbPutField` status to -1 before rsrv tests `< 0`
            // (`db_access.c:980`).
            CaError::ProcessStatus(DbStatus::new(-1).unwrap()),
            CaError::ProcessStatus(DbStatus::new((514 << 16) | 5).unwrap()),
        ];
        for err in &refusals {
            let status = PutStatus::of_failure(err).eca();
            assert_ne!(
                status, ECA_BADTYPE,
                "{err:?}: the wire type passed `caNetConvert` — a value the field \
                 refuses is not a type error"
            );
            assert_eq!(
                status, ECA_PUTFAIL,
                "{err:?}: C `write_action` answers every failed dbChannel_put with \
                 ECA_PUTFAIL (camessage.c:781-789)"
            );
        }
    }

    /// The refusal C reports from `rsrvCheckPut`, above the put.
    #[test]
    fn a_field_the_channel_cannot_write_stays_nowtaccess() {
        assert_eq!(
            PutStatus::of_failure(&CaError::ReadOnlyField("STAT".into())).eca(),
            ECA_NOWTACCESS
        );
    }

    /// An accepted put is not a failure status.
    #[test]
    fn an_accepted_put_is_normal() {
        assert_eq!(PutStatus::OK.eca(), ECA_NORMAL);
    }
}

/// How long C lets a channel's previous put-callback stay busy before it
/// gives up on it — `epicsEventWaitWithTimeout(client->blockSem, 60.0)` in
/// `write_notify_action` (`camessage.c:1668`). Reaching it is the ONLY
/// condition under which this layer emits ECA_PUTCBINPROG.
const PUT_NOTIFY_BLOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Who owns one in-flight put-callback's single client reply — and, with it,
/// that put's put-log bracket.
///
/// C carries both on `pciu->pPutNotify`: `busy` says the put-callback is still
/// outstanding, and `asWritePvt` is the `asTrapWriteWithData` handle whichever
/// path answers the request must close — `camessage.c:1691-1703` lifts it out
/// of the record and calls `asTrapWriteAfter` itself. Holding them in one cell
/// is what stops a reply and its bracket from being closed by different paths:
/// [`claim`](Self::claim) hands out both together, once.
///
/// "Still busy" is the negation of "reply claimed", so it is one atomic with
/// one meaning rather than a `busy` flag and a `responded` flag that can
/// disagree.
struct PutNotifyCompletion {
    replied: AtomicBool,
    trap_guard: std::sync::Mutex<Option<epics_base_rs::server::access_security::TrapWriteGuard>>,
    /// Sender of the "this put-callback is answered" signal the channel's next
    /// WRITE_NOTIFY waits on. [`claim`](Self::claim) moves it into the
    /// [`PutNotifyReply`] it hands out, so the successor is released when that
    /// token dies — which is AFTER the reply it owns has been written. C
    /// signals `client->blockSem` from the tail of `write_notify_reply`
    /// (`camessage.c:1460`), once every queued reply is committed, for exactly
    /// that reason: a successor woken at claim time can put its own reply on
    /// the socket ahead of the predecessor's.
    settled: std::sync::Mutex<Option<tokio::sync::watch::Sender<()>>>,
}

/// Proof that its holder owns a put-callback's one client reply, carrying the
/// two things that must be released with it: the put-log bracket C closes with
/// `asTrapWriteAfter`, and the signal that frees the channel's waiting
/// successor. Dropping it without completing the guard fires the guard's
/// cancel AfterWrite, the balance C gets from `asTrapWriteAfter` on a
/// cancelled put.
///
/// Both ride in the token rather than being released by whoever remembers to,
/// so every path that can own a reply — the completion tail, the
/// overdue-predecessor supersede, an unwind between the claim and the frame —
/// releases them exactly once.
struct PutNotifyReply {
    trap_guard: Option<epics_base_rs::server::access_security::TrapWriteGuard>,
    /// Dropped, never sent: the waiter asks only whether this token died.
    /// Carrying no value is what lets a sender dropped un-sent — a cancelled
    /// notify, an unwind, a registration torn down with its channel — end the
    /// wait exactly as a reply does.
    _settled: Option<tokio::sync::watch::Sender<()>>,
}

impl PutNotifyCompletion {
    /// The completion and the handle a successor on the same channel waits on.
    /// One call because the two ends of that signal are only ever created
    /// together; the receiver goes to the registration this completion is
    /// installed with ([`InFlightPutNotify::settled`]).
    fn new(
        trap_guard: Option<epics_base_rs::server::access_security::TrapWriteGuard>,
    ) -> (Arc<Self>, tokio::sync::watch::Receiver<()>) {
        let (settled, wait) = tokio::sync::watch::channel(());
        (
            Arc::new(Self {
                replied: AtomicBool::new(false),
                trap_guard: std::sync::Mutex::new(trap_guard),
                settled: std::sync::Mutex::new(Some(settled)),
            }),
            wait,
        )
    }

    /// Take this put-callback's reply. `None` for every caller after the
    /// first, so one ioid can never draw two replies.
    fn claim(&self) -> Option<PutNotifyReply> {
        if self.replied.swap(true, Ordering::AcqRel) {
            return None;
        }
        Some(PutNotifyReply {
            trap_guard: self
                .trap_guard
                .lock()
                .expect("put-notify trap guard poisoned")
                .take(),
            _settled: self
                .settled
                .lock()
                .expect("put-notify settle signal poisoned")
                .take(),
        })
    }
}

/// A channel's registered in-flight `CA_PROTO_WRITE_NOTIFY` put-callback — C
/// `pciu->pPutNotify` once `busy = TRUE` (`camessage.c:1729`).
struct InFlightPutNotify {
    completion: Arc<PutNotifyCompletion>,
    /// Reply shape the overdue branch echoes: C
    /// `putNotifyErrorReply(client, &pPutNotify->msg, ECA_PUTCBINPROG)`
    /// (`camessage.c:1701`) frames it from the SAVED request, never from the
    /// one that just arrived.
    reply: WriteNotifyReply,
    /// When it was registered — `camessage.c:1668` measures its 60 s
    /// `blockSem` wait from here.
    busy_since: std::time::Instant,
    /// Closes once this put-callback's reply has been written, or once its
    /// completion is destroyed without one; nothing is ever sent on it. The
    /// channel's next WRITE_NOTIFY waits on a clone while this stays
    /// registered, so the re-run it is postponed into tests the same signal.
    settled: tokio::sync::watch::Receiver<()>,
}

/// The wait a WRITE_NOTIFY is postponed on while its channel's previous
/// put-callback is unanswered: C's `blockSem` wait, measured from when the
/// predecessor registered.
pub(crate) struct PutNotifyWait {
    settled: tokio::sync::watch::Receiver<()>,
    deadline: std::time::Instant,
}

impl PutNotifyWait {
    async fn signalled(&mut self) {
        // `changed` returns only once every sender is gone: nothing is sent.
        let _ = epics_base_rs::runtime::task::timeout(
            self.deadline
                .saturating_duration_since(std::time::Instant::now()),
            self.settled.changed(),
        )
        .await;
    }
}

/// What a postponed request waits for before it runs again, and where it
/// runs again from.
///
/// A request handler never waits: the blocking driver holds its client lock
/// across the handler, and the event thread needs that lock to retire a
/// destroyed channel, so a wait in there can stall the very reply it waits
/// for. Each wait is returned as one of these instead and taken by the driver
/// with the client let go — pcas lets `casClientMutex` go with the request
/// held (casStrmClient.cc:115-125), and C rsrv lets `putNotifyLock` go before
/// its `blockSem` wait (camessage.c:1711-1712).
pub(crate) enum Blocked {
    /// The PV ended no IO yet (pcas `S_casApp_postponeAsyncIO`). The request
    /// runs again from the top, gates included, as pcas re-processes it
    /// (casStrmClient.cc:1133-1167).
    Pv(IoBlocked),
    /// The channel's previous put-callback is unanswered (C `blockSem`). The
    /// put resumes at that wait with what its gates admitted.
    PutNotify(PutNotifyWait, AdmittedPut),
}

impl Blocked {
    pub(crate) async fn signalled(&mut self) {
        match self {
            Self::Pv(blocked) => blocked.signalled().await,
            Self::PutNotify(wait, _) => wait.signalled().await,
        }
    }

    /// The admitted put a [`Self::PutNotify`] resumes with; `None` runs the
    /// request again from the top.
    pub(crate) fn into_resume(self) -> Option<AdmittedPut> {
        match self {
            Self::Pv(_) => None,
            Self::PutNotify(_, put) => Some(put),
        }
    }
}

/// A write that passed every gate of [`serve_write_head`] — SID, type, count
/// clamp, write access, size — on arrival. Only that function makes one, so a
/// put callback resumed from its channel's put-callback wait through
/// [`write_admitted`] meets none of them again: C `write_notify_action` runs
/// `rsrvCheckPut` once, before its `blockSem` wait (camessage.c:1687, :1712),
/// and an access change during the wait does not refuse it.
pub(crate) struct AdmittedPut {
    grant: crate::server::access_token::WriteGranted,
    kind: AdmittedKind,
}

enum AdmittedKind {
    /// DBR_PUT_ACKT / DBR_PUT_ACKS on a record channel; `count` is clamped.
    AlarmAck {
        ack: epics_base_rs::server::record::AlarmAck,
        value: u16,
        count: u32,
    },
    /// Any other buffer type; `count` is clamped.
    Value {
        wire_type: AcceptedWriteType,
        count: u32,
    },
}

/// Single owner of a channel's in-flight put-callback registration, and of the
/// one rule this layer has about ECA_PUTCBINPROG.
///
/// C `write_notify_action` (`camessage.c:1660-1706`) does not refuse a
/// WRITE_NOTIFY that arrives while the channel's previous put-callback is
/// still busy, and it does not run it either: the client's receive thread
/// WAITS on `client->blockSem` until the predecessor has been answered. Only
/// when that wait runs out does it `dbNotifyCancel` the predecessor and send
/// ECA_PUTCBINPROG, addressed to the PREDECESSOR's saved `msg`
/// (`camessage.c:1701` — the sole site that status has in all of rsrv). The
/// arriving request is never the one refused.
///
/// That wait is the whole of the ordering guarantee for two put-callbacks on
/// ONE channel: the second is not submitted until the first's reply is out, so
/// there is no race for the outbox for anything downstream to decide. Two on
/// one *record* are a different pair, ordered by the database's restart list.
///
/// So the rule here is "emit only on C's timeout path": a predecessor that
/// settles within [`PUT_NOTIFY_BLOCK_TIMEOUT`] draws no frame at all.
/// A second put-callback is not a database-level refusal either — the database
/// queues it on the record's restart list — so this slot is the server's only
/// source of the status.
///
/// Both receive loops reach this through [`serve_write_head`], which also
/// performs the registration, so neither can serialise on its own terms.
#[derive(Clone, Default)]
pub(crate) struct PutNotifySlot {
    inner: Arc<std::sync::Mutex<Option<InFlightPutNotify>>>,
}

impl PutNotifySlot {
    /// Register a freshly forked put-callback as the channel's in-flight one,
    /// replacing whatever the slot held — C overwrites the single
    /// `pciu->pPutNotify` the same way.
    fn install(&self, inflight: InFlightPutNotify) {
        *self.inner.lock().expect("put-notify slot poisoned") = Some(inflight);
    }

    /// C `write_notify_action`'s serialisation block (`camessage.c:1660-1706`),
    /// run before this WRITE_NOTIFY's first side effect. `None` lets the
    /// arriving request proceed: nothing is registered, the predecessor is
    /// answered, or it has outstayed [`PUT_NOTIFY_BLOCK_TIMEOUT`] and has just
    /// drawn ECA_PUTCBINPROG for its own ioid. `Some` postpones the request
    /// ([`Blocked::PutNotify`]) until one of those holds; it then resumes
    /// here, C's `while (busy)` loop, and not at its gates.
    ///
    /// The held request parks everything behind it, which is what C's
    /// `epicsEventWaitWithTimeout` does to the client's receive thread — so a
    /// `CA_PROTO_ECHO` queued behind a second put-callback is answered late on
    /// both. The database below is reached only once this returns `None`.
    ///
    /// `peer` and `paddr` are what C's `log_header` prints for a timed-out
    /// predecessor: the client and the address of the channel the saved `msg`
    /// addresses.
    fn serialize(
        &self,
        writer: &Outbox,
        peer: &str,
        paddr: usize,
        client_minor: u16,
    ) -> CaResult<Option<PutNotifyWait>> {
        let reg = {
            let mut slot = self.inner.lock().expect("put-notify slot poisoned");
            match slot.take() {
                // Nothing registered — C's `else` arm, which allocates a fresh
                // `pPutNotify` and sends nothing.
                None => return Ok(None),
                // `has_changed` errs once every sender is gone: a reply token
                // that died after its frame was written, or a completion
                // destroyed without one (a cancelled notify, a registration
                // torn down with its channel). The deadline is measured from
                // when the predecessor registered rather than from this
                // arrival, so a channel cannot extend C's 60 s by writing
                // again.
                Some(reg)
                    if reg.settled.has_changed().is_ok()
                        && reg.busy_since.elapsed() < PUT_NOTIFY_BLOCK_TIMEOUT =>
                {
                    let wait = PutNotifyWait {
                        settled: reg.settled.clone(),
                        deadline: reg.busy_since + PUT_NOTIFY_BLOCK_TIMEOUT,
                    };
                    *slot = Some(reg);
                    return Ok(Some(wait));
                }
                Some(reg) => reg,
            }
        };
        // Deregistered either way, and `claim` tells the two apart: a
        // predecessor that answered itself has spent its reply and draws
        // nothing — C's second `busy` re-test under `putNotifyLock`
        // (`camessage.c:1684-1686`) — while the timed-out one is still
        // claimable, which is this layer's sole source of ECA_PUTCBINPROG.
        let Some(reply_token) = reg.completion.claim() else {
            return Ok(None);
        };
        // C logs the saved `msg`, copied after the count clamp
        // (`camessage.c:1775`), before the frame (`:1742-1745`).
        let mut msg = reg.reply.req_hdr;
        if msg.extended_count.is_some() {
            msg.extended_count = Some(reg.reply.write_count);
        } else {
            msg.count = reg.reply.write_count as u16;
        }
        print_log_header(
            peer,
            &msg,
            "put call back time out",
            0,
            Some(std::ptr::without_provenance(paddr)),
        );
        // Dropping the token un-completed closes the put-log bracket with the
        // guard's cancel AfterWrite — C `asTrapWriteAfter(asWritePvtTmp)`.
        drop(reply_token);
        send_put_notify_response(
            writer,
            NotifyReplyKind::Error,
            reg.reply.write_type,
            reg.reply.write_count,
            ECA_PUTCBINPROG,
            reg.reply.ioid,
            ReplyContext {
                req_hdr: reg.reply.req_hdr,
                client_minor,
            },
        )?;
        Ok(None)
    }
}

struct ChannelEntry {
    target: ChannelTarget,
    cid: u32,
    /// PV name as the client originally requested it (with any
    /// `.FIELD` suffix). Retained so the `ChannelCleared` lifecycle
    /// event can emit the same name as `ChannelCreated`, and shared with
    /// every lifecycle event rather than copied into it.
    pv_name: Arc<[u8]>,
    /// Raw channel-filter JSON suffix the client appended after the
    /// record (epics-base 3.15.7). `None` for ordinary channels;
    /// `Some` when the client requested `REC.{"dbnd":{"d":0.5}}`
    /// etc. Validated by `try_parse_filter_chain` at
    /// `CA_PROTO_CREATE_CHAN` (a bad suffix is rejected with
    /// `CREATE_CH_FAIL` and no `ChannelEntry` is stored), then re-parsed
    /// per delivery via `ChannelEntry::filter_chain` so each subscriber
    /// and the READ path get a fresh stateful chain.
    filter_suffix: Option<String>,
    /// Single owner of this channel's in-flight `CA_PROTO_WRITE_NOTIFY`
    /// put-callback registration — C `pciu->pPutNotify`, one per channel
    /// (`rsrv/camessage.c:1660-1732`). Registered and consulted by
    /// [`serve_write_head`], so both receive loops get the same rule. See
    /// [`PutNotifySlot`]. `Arc`-backed so the completion path and a later
    /// request share it without re-borrowing `state.channels`.
    put_notify_slot: PutNotifySlot,
    /// long-string boundary conversion this channel applies on every
    /// GET/monitor delivery (and the matching native-type override set
    /// at channel-create time). `DollarChar` = client appended `$` to a
    /// string or link field (C `dbAccess.c:682-701`): delivered as a
    /// `DBR_CHAR` array. `NativeString` = plain access to a
    /// long-string *record* field (lsi/lso VAL & OVAL, printf VAL),
    /// which C `cvt_dbaddr` presents as a scalar `DBF_STRING`. `Plain`
    /// for every other channel.
    long_string_mode: LongStringMode,
    /// Final (post-filter) element count announced to the client at
    /// `CA_PROTO_CREATE_CHAN` — the port's `dbChannelFinalElements`
    /// equivalent. Every request's wire element count is clamped to this
    /// ceiling on READ / READ_NOTIFY / EVENT_ADD so an oversized
    /// `m_count` cannot drive the reply zero-fill
    /// (`size_dbr_reply` / the steady-state monitor
    /// producer) past the channel's real capacity. Mirrors epics-base
    /// PR #934's `if (mp->m_count > dbChannelFinalElements(pciu->dbch))
    /// mp->m_count = dbChannelFinalElements(pciu->dbch);` clamp. This is
    /// the channel's true capacity (NELM), NOT the live value length
    /// (`snapshot.value.count()`, which is NORD for a partially-filled
    /// waveform) — clamping to the live length would truncate a
    /// legitimate `caget -# NELM` on a dynamic waveform.
    final_element_count: u32,
    /// The field's own element count, C `paddr->no_elements`: what an
    /// autosize request reads, whatever the filters make of the log
    /// (`camessage.c:512-514`).
    field_element_count: u32,
    /// The subscriptions installed on this channel, by monitor id — C
    /// `pciu->eventq`, the per-channel `event_ext` list `clear_channel_reply`
    /// drains (`camessage.c:1890-1903`).
    ///
    /// The channel, not a driver's own registry, owns this association: the
    /// async server keeps its producers in `ClientState::subscriptions` and
    /// the blocking driver keeps its own map, so deriving "which monitors
    /// does this channel have" from either one made CLEAR_CHANNEL a no-op for
    /// the other driver's subscriptions. The [`MonitorGate`](crate::server::outbox::MonitorGate)
    /// is stored with the id because revoking it is the one teardown step
    /// that must happen before the delete-confirmed echo is queued, and it is
    /// driver-neutral.
    /// In install order, as C `pciu->eventq`: a sub_id may be installed twice
    /// and EVENT_CANCEL takes the first.
    subscriptions: Vec<ChannelMonitor>,
}

/// One monitor as its channel knows it: what CLEAR_CHANNEL and an access
/// re-evaluation need, whichever driver holds the producer.
pub(crate) struct ChannelMonitor {
    pub sub_id: u32,
    /// Its gate and read-access flag.
    pub monitor: Arc<CircuitMonitor>,
    pub id: epics_base_rs::server::event_queue::AttachId,
}

impl ChannelEntry {
    fn refusal_channel(&self) -> RefusalChannel<'_> {
        RefusalChannel::new(&self.cid, &self.target)
    }

    /// parse a FRESH channel-filter chain from this channel's
    /// stored `.{...}` suffix. A fresh chain per call is REQUIRED:
    /// stateful filters (`dbnd` last-value, `dec` counter, `sync` state)
    /// must not share state across the READ path and each monitor
    /// subscriber, nor across two subscribers on one channel.
    ///
    /// Uses the STRICT `try_parse_filter_chain`. The suffix stored on a
    /// `ChannelEntry` was already validated by the same strict parser at
    /// `CA_PROTO_CREATE_CHAN` (a `ChannelEntry` exists only if its suffix
    /// parsed — a bad suffix is rejected with `CREATE_CH_FAIL` and no
    /// entry is inserted). Parsing is deterministic, so this re-parse
    /// always succeeds; the empty fallback is unreachable, kept only so a
    /// delivery path never panics. This holds the invariant by
    /// construction — delivery never silently downgrades to an unfiltered
    /// stream the way the permissive parser would.
    ///
    /// This is the single owner of filter parsing for every delivery
    /// path — READ / READ_NOTIFY, the monitor initial snapshot, and
    /// monitor updates — so the chain is applied uniformly instead of
    /// only on the record-field `EVENT_ADD` path (the prior gap).
    fn filter_chain(&self) -> epics_base_rs::server::database::filters::FilterChain {
        epics_base_rs::server::database::channel_io::filter_chain_of(self.filter_suffix.as_deref())
    }
}

struct SubscriptionEntry {
    sub_id: u32,
    target: ChannelTarget,
    channel_sid: u32,
    data_type: u16,
    /// Original requested element count from the EVENT_ADD that
    /// installed this subscription. C `event_add_action` stores
    /// `pevext->msg.m_count`; monitor delivery and the
    /// EVENT_CANCEL ack both echo it.
    data_count: u32,
    /// Its gate is revoked before this subscription's cancel confirmation is
    /// queued, so no monitor frame for it can follow that confirmation — C's
    /// `db_cancel_event` barrier, minus the wait. See
    /// [`MonitorGate`](crate::server::outbox::MonitorGate).
    monitor: Arc<CircuitMonitor>,
    /// The monitor's slot on the circuit's queue (C `evSubscrip`). Dropping
    /// it is C `db_cancel_event`: the slot and its queued entries go at once.
    reader: epics_base_rs::server::event_queue::EventReader,
}

/// The circuit's minor version, C `client->minor_version_number`: VERSION and
/// CREATE_CHAN write it, and every frame reads it as it is built
/// (`cas_copy_in_header`, `caserverio.c:266-270`), a deferred one included.
#[derive(Clone)]
pub(crate) struct CircuitMinor(Arc<std::sync::atomic::AtomicU16>);

impl CircuitMinor {
    pub(crate) fn new(minor: u16) -> Self {
        Self(Arc::new(std::sync::atomic::AtomicU16::new(minor)))
    }

    pub(crate) fn get(&self) -> u16 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, minor: u16) {
        self.0.store(minor, Ordering::Relaxed);
    }
}

/// Per-circuit CA server state. `pub(crate)` so the blocking
/// thread-per-client driver (`crate::server::blocking`, the RTEMS CA
/// server front-end) can construct one and drive [`dispatch_message`]
/// against it exactly as the async `handle_client` loop does — the two
/// front-ends share this state and the dispatch handlers verbatim.
pub(crate) struct ClientState {
    channels: HashMap<u32, ChannelEntry>,
    /// Keyed by slot, never sub_id, which a client may install twice.
    subscriptions: HashMap<epics_base_rs::server::event_queue::AttachId, SubscriptionEntry>,
    channel_access: HashMap<u32, AccessLevel>,
    /// per-SID write-trap mask of the ACF rule that resolved
    /// the channel's access level. Kept parallel to `channel_access`
    /// (same key set, inserted/removed together) because the trap
    /// flag has no `CA_PROTO_ACCESS_RIGHTS` wire representation — it
    /// is consumed only by TRAPWRITE put-logging dispatch, never
    /// diffed for access-rights transition frames. Mirrors C
    /// `pasgclient->trapMask` (`asLibRoutines.c:1048`).
    channel_trap: HashMap<u32, bool>,
    /// Monitor ids [`destroy_channel`] retired but could not finish tearing
    /// down, because the delivery machinery lives in the driver's own
    /// registry. Drained by the driver after each dispatch — see
    /// [`ClientState::take_retired_subscriptions`]. Empty for the async
    /// server, which owns `subscriptions` and finishes in place.
    retired_subscriptions: Vec<epics_base_rs::server::event_queue::AttachId>,
    /// Each sid [`retire_destroyed_channels`] retired with
    /// `CA_PROTO_SERVER_DISCONN`, and its channel's element count. A request
    /// still naming one crossed that frame, and gets [`answer_pcas_refusal`];
    /// every other unknown sid keeps rsrv's answer. Freed with the circuit.
    retired: HashMap<u32, u32>,
    /// This circuit's access-security host identity. See [`HostIdentity`]
    /// — the variant, not a runtime check at the write site, decides
    /// whether `CA_PROTO_HOST_NAME` may replace it.
    hostname: HostIdentity,
    /// C `client_name_action` keeps the `CLIENT_NAME` bytes as sent.
    username: Vec<u8>,
    /// Authentication method for ACF `METHOD()` clause matching.
    /// `"x509"` for mTLS-authenticated peers (epics-base PR #641);
    /// `"ca"` (or empty for backwards compat) for plaintext peers.
    /// ACF rules without a `METHOD()` clause ignore this field
    /// — the legacy `check_access_asl()` codepath continues to work.
    auth_method: String,
    /// Authority for ACF `AUTHORITY()` clause matching. mTLS peers
    /// carry their cert's *issuer* DN here so rules like
    /// `RULE(1, WRITE) { METHOD("x509") AUTHORITY("CN=ops-ca, …") }`
    /// can pin write access to certs minted by a specific CA.
    /// Empty for plaintext peers.
    auth_authority: String,
    acf: epics_base_rs::server::access_security::AcfCell,
    /// record database, for resolving ACF `INP*` links to live
    /// values when evaluating CALC-gated rules in `compute_access`.
    db: Arc<PvDatabase>,
    tcp_port: u16,
    minor: CircuitMinor,
    /// C `client->evuser` (`rsrv/server.h`): this circuit's event user — the
    /// owner of `flowCtrlMode` (EVENTS_OFF/EVENTS_ON) and of the event queue
    /// every subscription on this circuit posts into (`db_init_events`).
    event_user: Arc<epics_base_rs::server::event_queue::EventUser>,
    /// One-shot flag — set when channels.len() crosses 90% of the
    /// per-client cap. Prevents log spam on every subsequent
    /// CREATE_CHAN once the warning has fired.
    channel_limit_warned: bool,
    /// Peer address as a string, retained for audit events.
    peer: String,
    /// Optional audit logger. When None the audit hot path is a single
    /// branch test and no allocation.
    audit: Option<crate::audit::AuditLogger>,
    /// Capability-token verifier shared across all clients on this
    /// listener. When set, CLIENT_NAME payloads beginning with `cap:`
    /// are verified before the resolved subject is used as the ACF
    /// username.
    #[cfg(feature = "cap-tokens")]
    cap_token_verifier: Option<Arc<crate::cap_token::TokenVerifier>>,
    /// TLS channel binding (SHA-256 of the peer's leaf certificate DER)
    /// for this connection. `Some(..)` only when the peer connected
    /// over mTLS and presented a client certificate; `None` for
    /// plaintext circuits. A cap-token presented over a plaintext
    /// circuit (`None`) is rejected by `TokenVerifier::verify` —
    /// mTLS-gating, so a stolen token cannot be replayed off-channel.
    #[cfg(feature = "cap-tokens")]
    tls_channel_binding: Option<crate::cap_token::ChannelBinding>,
    /// This circuit's one put-callback completion owner — C's per-client
    /// `putNotifyQue` and the single `write_notify_reply` drain that empties
    /// it. `None` until the first WRITE_NOTIFY forks async, because most
    /// circuits never have one. See [`WriteNotifyQueue`].
    write_notify_queue: Option<WriteNotifyQueue>,
    /// This circuit's GETs that could not answer at once. See
    /// [`ParkedReads`].
    #[cfg(tokio_backend)]
    parked_reads: ParkedReads,
    /// This circuit's event task — C `event_task`, the one consumer of
    /// `event_user`. `None` until the first EVENT_ADD. See
    /// [`run_circuit_monitors`].
    circuit_monitors: Option<CircuitMonitors>,
    /// Server-wide stats handle, cloned into each monitor's context so the
    /// `subscription_events_posted` / `subscription_events_processed`
    /// counters (PCAS `caServer` parity, feeding the gateway's
    /// `serverPostRate` / `serverEventRate`) advance from the delivery
    /// layer. `None` in unit tests that drive the TCP path without a
    /// full `ServerStats` wired up.
    stats: Option<Arc<super::stats::ServerStats>>,
}

/// The access-security host identity of one CA circuit, and — by
/// construction — whether the client may still set it.
///
/// C keeps this in `client->pHostName` and decides at accept time, from
/// the global `asCheckClientIP` (`asLibRoutines.c:34`, default 0), which
/// of two things that pointer means:
///
/// * `asCheckClientIP == 0` (**C's default**) — `create_tcp_client` leaves
///   it NULL and `host_name_action` stores whatever name the client sends
///   in `CA_PROTO_HOST_NAME`, unconditionally (`camessage.c:849-872`).
///   Until then the identity is `""` (`camessage.c:1245-1250` passes
///   `pHostName ? pHostName : ""` to `asAddClient`), which matches no HAG.
///   HAG entries are host *names* in this mode, so this is the identity
///   `HOST(...)` rules are written against.
/// * `asCheckClientIP == 1` — `create_tcp_client` fills it with the peer's
///   dotted-quad IP (`caservertask.c:1425-1439`) and `host_name_action`
///   returns early without storing the claimed name
///   (`camessage.c:838-844`).
///
/// The port adds a third source with no C counterpart: an mTLS-verified
/// certificate identity, which likewise cannot be overwritten by a
/// client-supplied name.
///
/// Modelling this as two variants rather than a `String` plus an "is it
/// allowed to change?" check at the write site is what makes the illegal
/// transition unrepresentable: [`Self::claim`] is the only writer, and it
/// is a no-op on a [`Self::Pinned`] identity.
#[derive(Debug, Clone, PartialEq, Eq)]
enum HostIdentity {
    /// C's default: the name the client claims. Empty until
    /// `CA_PROTO_HOST_NAME` arrives.
    Claimed(Vec<u8>),
    /// Derived from the connection itself — the peer IP under
    /// `asCheckClientIP`, or an mTLS-verified cert identity. A
    /// client-supplied name never replaces it.
    Pinned(Vec<u8>),
}

impl HostIdentity {
    /// The identity bytes ACF/HAG matching runs against.
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Claimed(h) | Self::Pinned(h) => h,
        }
    }

    /// Apply a `CA_PROTO_HOST_NAME` claim. Returns whether it was taken —
    /// `false` on a [`Self::Pinned`] identity, which is C's
    /// `host_name_action` early return under `asCheckClientIP`.
    fn claim(&mut self, name: Vec<u8>) -> bool {
        match self {
            Self::Claimed(h) => {
                *h = name;
                true
            }
            Self::Pinned(_) => false,
        }
    }
}

impl ClientState {
    /// Link a new subscription onto its channel — C `event_add_action`
    /// appending the `event_ext` to `pciu->eventq` (`camessage.c:1846`).
    ///
    /// The single owner of the channel→monitor association, so both drivers
    /// register through it and [`destroy_channel`] can cancel a cleared
    /// channel's monitors without knowing which registry holds them.
    pub(crate) fn link_subscription(&mut self, sid: u32, monitor: ChannelMonitor) {
        if let Some(chan) = self.channels.get_mut(&sid) {
            chan.subscriptions.push(monitor);
        }
    }

    /// The monitor EVENT_CANCEL addresses: the first on the channel's eventq
    /// with this sub_id (C `event_cancel_reply`, `camessage.c:2057-2063`).
    pub(crate) fn find_subscription(
        &self,
        sid: u32,
        sub_id: u32,
    ) -> Option<epics_base_rs::server::event_queue::AttachId> {
        self.channels
            .get(&sid)?
            .subscriptions
            .iter()
            .find(|m| m.sub_id == sub_id)
            .map(|m| m.id)
    }

    /// Unlink a cancelled subscription from its channel — C
    /// `event_cancel_reply`'s `ellDelete` on `pciu->eventq`
    /// (`camessage.c:2019`).
    pub(crate) fn unlink_subscription(
        &mut self,
        sid: u32,
        id: epics_base_rs::server::event_queue::AttachId,
    ) {
        if let Some(chan) = self.channels.get_mut(&sid)
            && let Some(at) = chan.subscriptions.iter().position(|m| m.id == id)
        {
            chan.subscriptions.remove(at);
        }
    }

    /// Take the monitor ids a channel retirement cancelled that this
    /// `ClientState` could not finish tearing down.
    ///
    /// [`destroy_channel`] revokes every gate and completes the teardown for
    /// the subscriptions it owns (`self.subscriptions`, the async server's).
    /// A driver that keeps its producers elsewhere — the blocking one hands
    /// readers to its event thread — drains this after every dispatch and
    /// finishes its own half. Empty for the async server.
    pub(crate) fn take_retired_subscriptions(
        &mut self,
    ) -> Vec<epics_base_rs::server::event_queue::AttachId> {
        std::mem::take(&mut self.retired_subscriptions)
    }

    pub(crate) fn new(
        acf: epics_base_rs::server::access_security::AcfCell,
        tcp_port: u16,
        db: Arc<PvDatabase>,
    ) -> Self {
        Self {
            channels: HashMap::new(),
            subscriptions: HashMap::new(),
            channel_access: HashMap::new(),
            channel_trap: HashMap::new(),
            retired_subscriptions: Vec::new(),
            retired: HashMap::new(),
            hostname: HostIdentity::Claimed(Vec::new()),
            username: Vec::new(),
            auth_method: String::new(),
            auth_authority: String::new(),
            acf,
            db,
            tcp_port,
            minor: CircuitMinor::new(0),
            event_user: Arc::new(epics_base_rs::server::event_queue::EventUser::new()),
            channel_limit_warned: false,
            peer: String::new(),
            audit: None,
            #[cfg(feature = "cap-tokens")]
            cap_token_verifier: None,
            #[cfg(feature = "cap-tokens")]
            tls_channel_binding: None,
            write_notify_queue: None,
            #[cfg(tokio_backend)]
            parked_reads: ParkedReads::default(),
            circuit_monitors: None,
            stats: None,
        }
    }

    /// This circuit's put-callback completion owner, started on the first
    /// WRITE_NOTIFY that forks async and reused by every one after it.
    ///
    /// Starting it lazily keeps a circuit that never issues a put-callback —
    /// the overwhelming majority — at zero extra tasks, and starting it HERE
    /// rather than at each fork is what makes it the single owner: there is
    /// no second place a completion could be settled from.
    fn write_notify_queue(
        &mut self,
        outbox: &Outbox,
        reactor: &epics_base_rs::runtime::task::Reactor,
    ) -> &WriteNotifyQueue {
        self.write_notify_queue.get_or_insert_with(|| {
            let (tx, rx) = tokio::sync::mpsc::unbounded_channel();
            let task = reactor
                .spawn(run_write_notify_queue(
                    rx,
                    outbox.clone(),
                    self.minor.clone(),
                ))
                .abort_handle();
            WriteNotifyQueue { tx, task }
        })
    }

    /// Start this circuit's event task if it is not running. Lazily, as
    /// [`Self::write_notify_queue`] is, and for the same single-owner reason.
    fn start_circuit_monitors(
        &mut self,
        outbox: &Outbox,
        reactor: &epics_base_rs::runtime::task::Reactor,
    ) {
        if self.circuit_monitors.is_none() {
            let task = reactor
                .spawn(run_circuit_monitors(
                    self.event_user.clone(),
                    outbox.clone(),
                    self.minor.clone(),
                ))
                .abort_handle();
            self.circuit_monitors = Some(CircuitMonitors { task });
        }
    }

    /// Decide this circuit's ACF host identity + mTLS auth context, once,
    /// from the connection itself. C decides the same in `create_tcp_client`
    /// (`caservertask.c:1425-1439`). Extracted from `handle_client` so the
    /// async loop and the blocking thread-per-client driver
    /// (`crate::server::blocking`) derive identity byte-identically. See
    /// [`HostIdentity`].
    pub(crate) fn apply_connection_identity(
        &mut self,
        peer: SocketAddr,
        initial_hostname: Option<String>,
        tls_authority: Option<String>,
    ) {
        self.hostname = match initial_hostname {
            // Port extension, no C counterpart: an mTLS-verified cert identity
            // outranks both of C's modes and no client-supplied name replaces
            // it.
            Some(verified) => HostIdentity::Pinned(verified.into_bytes()),
            // C `asCheckClientIP == 1`: the peer's address is the identity and
            // CA_PROTO_HOST_NAME is ignored.
            None if epics_base_rs::server::access_security::as_check_client_ip() => {
                HostIdentity::Pinned(peer.ip().to_string().into_bytes())
            }
            // C's default: NULL `pHostName` — i.e. `""` to `asAddClient` —
            // until the client claims a name over CA_PROTO_HOST_NAME.
            None => HostIdentity::Claimed(Vec::new()),
        };
        // PR #641: surface the mTLS authentication context to the ACF
        // check. Plaintext peers stay with empty fields — every legacy
        // rule (no METHOD/AUTHORITY clause) ignores them.
        if let Some(authority) = tls_authority {
            self.auth_method = "x509".to_string();
            self.auth_authority = authority;
        }
        self.peer = peer.to_string();
    }

    /// The negotiated CA minor protocol version of the peer. Needed by the
    /// blocking driver's receive loop, which feeds it to the shared gate
    /// (`RecvAccumulator::next_message`) and to its error replies
    /// (`send_ca_error`) from outside this module.
    pub(crate) fn client_minor_version(&self) -> u16 {
        self.minor.get()
    }

    /// The circuit's minor cell, for the owners that frame its deferred
    /// replies.
    pub(crate) fn circuit_minor(&self) -> CircuitMinor {
        self.minor.clone()
    }

    /// C `vsend_err`'s `m_cid` (`camessage.c:162-191`): the client's cid of
    /// the live channel a channel request names, the request's own cid for a
    /// SEARCH, and `0xffffffff` for anything else.
    pub(crate) fn send_err_cid(&self, hdr: &CaHeader) -> u32 {
        match hdr.cmmd {
            CA_PROTO_EVENT_ADD
            | CA_PROTO_EVENT_CANCEL
            | CA_PROTO_READ
            | CA_PROTO_READ_NOTIFY
            | CA_PROTO_WRITE
            | CA_PROTO_WRITE_NOTIFY => self
                .channels
                .get(&hdr.cid)
                .map_or(0xFFFF_FFFF, |entry| entry.cid),
            CA_PROTO_SEARCH => hdr.cid,
            _ => 0xFFFF_FFFF,
        }
    }

    /// C `MPTOPCIU` for [`print_log_header`]: the channel `sid` names on
    /// this circuit, as an address.
    pub(crate) fn channel_addr(&self, sid: u32) -> Option<*const ()> {
        self.channels
            .get(&sid)
            .map(|entry| std::ptr::from_ref(entry).cast())
    }

    /// [`Self::audit`] for channel `sid`, naming it `REC.FIELD`. The name is
    /// built only when an audit logger is installed.
    fn audit_channel(&self, event: &str, sid: u32, value: &str, result: &str) {
        if self.audit.is_some() {
            let pv = self.channels.get(&sid).map(|e| e.target.audit_name());
            self.audit(event, pv.as_deref().unwrap_or_default(), value, result);
        }
    }

    /// The circuit's event user, for the event task that drains it.
    pub(crate) fn event_user(&self) -> Arc<epics_base_rs::server::event_queue::EventUser> {
        self.event_user.clone()
    }

    fn audit(&self, event: &str, pv: impl AsRef<[u8]>, value: &str, result: &str) {
        if let Some(ref logger) = self.audit {
            logger.log(crate::audit::AuditEvent {
                event,
                peer: &self.peer,
                // The audit log is Rust-only JSON, which needs text.
                user: &String::from_utf8_lossy(&self.username),
                host: &String::from_utf8_lossy(self.hostname.as_bytes()),
                pv: &String::from_utf8_lossy(pv.as_ref()),
                value,
                result,
            });
        }
    }

    /// C `claim_ciu_action` (`camessage.c:1027-1042`): one process-wide
    /// `bucketID++` from 0, skipping an id still in use — here also one this
    /// circuit retired, which a request in flight can still name.
    fn alloc_sid(&self) -> u32 {
        static BUCKET_ID: AtomicU32 = AtomicU32::new(0);
        loop {
            let sid = BUCKET_ID.fetch_add(1, Ordering::Relaxed);
            if !self.channels.contains_key(&sid) && !self.retired.contains_key(&sid) {
                return sid;
            }
        }
    }

    /// Return the type-state-wrapped access token for a
    /// SID. Op handlers MUST consult this — direct reads of the
    /// underlying `channel_access` HashMap bypass the typed gate
    /// and recreate the missed-path defects fixed in rounds 38-39.
    /// Missing SIDs map to a "denied" token so a corrupted
    /// channel-table state can never silently grant access.
    fn lookup_access(&self, sid: u32) -> crate::server::access_token::CaAccessChecked {
        use crate::server::access_token::CaAccessChecked;
        match self.channel_access.get(&sid).copied() {
            Some(level) => {
                // the trap mask is kept in a parallel map
                // populated alongside `channel_access`. A missing
                // entry means the rule carried no trap option.
                let rule_was_trap = self.channel_trap.get(&sid).copied().unwrap_or(false);
                CaAccessChecked::from_level(level, rule_was_trap)
            }
            None => CaAccessChecked::denied(),
        }
    }

    /// Evaluate `cfg`'s rules for `asg_name`.
    ///
    /// The rule walk and the CALC results both belong to `epics-base-rs`:
    /// `AccessSecurityConfig::compute_rules` reads the results its `INP*`
    /// watcher published, as C's `asComputePvt` reads `pasgrule->result`.
    /// This server used to carry its own evaluator, and then its own link
    /// reads; both drifted from C.
    fn access_for_asg(
        &self,
        cfg: &AccessSecurityConfig,
        asg_name: &str,
        asl: u8,
    ) -> (AccessLevel, bool) {
        cfg.compute_for_name(
            asg_name,
            self.hostname.as_bytes(),
            &self.username,
            &[],
            asl,
            &self.auth_method,
            &self.auth_authority,
        )
    }

    /// Compute access rights bits for a channel target, together with
    /// the write-trap mask of the ACF rule that resolved the level
    ///. The trap flag is `false` for `SimplePv`/`RecordField`
    /// targets whose access was not resolved through a `TRAPWRITE`
    /// rule — including the no-ACF permissive fallback.
    async fn compute_access(&self, target: &ChannelTarget) -> (u32, bool) {
        match target {
            ChannelTarget::SimplePv(pv) => {
                // a gateway shadow PV carries an access
                // hook routing the decision through the gateway's own
                // ACF (`.pvlist` ASG + `AccessConfig::can_read/write`)
                // for this downstream `(user, host)`. When present it
                // is authoritative for this PV — the server's own ACF
                // never saw the `.pvlist` ASG, so consulting `self.acf`
                // with a hardcoded "DEFAULT" would mis-report read
                // access. The gateway audits/traps writes in its own
                // write hook, so no TRAPWRITE rule resolves here.
                if let Some(hook) = pv.access_hook() {
                    let decision = hook(&self.username, self.hostname.as_bytes());
                    let bits = match (decision.read, decision.write) {
                        (_, true) => 3,
                        (true, false) => 1,
                        (false, false) => 0,
                    };
                    return (bits, false);
                }
                let policy = self.acf.load_full();
                if let Some(ref acf_cfg) = policy {
                    // Simple PVs have no per-record ASL field; treat
                    // them as ASL=0 so the most-restrictive rule
                    // applies. Matches the C IOC's behaviour for
                    // names that never went through `dbAddMember`.
                    // PR #641: pass auth method/authority so
                    // METHOD("x509") / AUTHORITY(<issuer>) rules
                    // can gate mTLS-authenticated peers. CALC
                    // rules are evaluated against resolved INP* links.
                    let (level, rule_was_trap) = self.access_for_asg(acf_cfg, "DEFAULT", 0);
                    let bits = match level {
                        AccessLevel::ReadWrite => 3,
                        AccessLevel::Read => 1,
                        AccessLevel::NoAccess => 0,
                    };
                    (bits, rule_was_trap)
                } else {
                    // No ACF attached: permissive ReadWrite, no rule
                    // resolved access, so no TRAPWRITE applies.
                    (3, false)
                }
            }
            ChannelTarget::RecordField { record, field: f } => {
                // extract is_ro/asg/asl and DROP the record
                // read-guard before resolving ACF INP* links, so a CALC
                // input pointing back at this record can't re-acquire the
                // same lock.
                let (is_ro, asg, asl) = {
                    let instance = record.read();
                    // C `rsrvCheckPut` (rsrv/camessage.c:2540-2551):
                    //
                    //     /* SPC_NOMOD fields are always unwritable */
                    //     if (dbChannelSpecial(pciu->dbch) == SPC_NOMOD) return 0;
                    //
                    // and its `0` clears the ACCESS_RIGHTS write bit at
                    // camessage.c:1123-1125. The declaration has one owner
                    // (`RecordInstance::is_no_mod`), shared with the `dbPut`
                    // gate — reading `field_list().read_only` alone here saw
                    // neither the dbCommon NOMOD set (NAME/STAT/SEVR/ACKS/…,
                    // which no record's field_list declares) nor the
                    // state-raised NOMOD of `Record::field_no_mod` (compress
                    // VAL under BALG=LIFO), so the server advertised WRITE on
                    // fields it would then refuse.
                    let is_ro = instance.is_no_mod(f);
                    (
                        is_ro,
                        instance.common.access_group().to_string(),
                        instance.common.asl,
                    )
                };
                // Read-only field-ness must AND
                // with ACF, never replace it. Pre-fix the read-only
                // branch returned `Read`(1) unconditionally — a
                // peer whose ACF resolved to `NoAccess` could still
                // READ / EVENT_ADD on every read-only field because
                // the cached access_rights skipped the ACF check
                // entirely. Now ACF runs first; the read-only flag
                // only strips the WRITE bit from the result.
                let policy = self.acf.load_full();
                let (acf_level, rule_was_trap) = if let Some(ref acf_cfg) = policy {
                    // Thread the per-record ASL so
                    // `RULE(N, …)` gates correctly. PR #641: method/
                    // authority for mTLS rules. CALC rules are
                    // evaluated against resolved INP* links.
                    self.access_for_asg(acf_cfg, &asg, asl)
                } else {
                    (AccessLevel::ReadWrite, false)
                };
                let bits = match (acf_level, is_ro) {
                    (AccessLevel::NoAccess, _) => 0,
                    (AccessLevel::Read, _) => 1,
                    (AccessLevel::ReadWrite, true) => 1,
                    (AccessLevel::ReadWrite, false) => 3,
                };
                // The trap mask reflects the rule that granted access;
                // a read-only field stripping the WRITE bit does not
                // change which rule matched.
                (bits, rule_was_trap)
            }
        }
    }
}

/// TCP listeners that are already bound and listening, one per
/// `EPICS_CAS_INTF_ADDR_LIST` entry, all sharing one port.
///
/// This type is the server's readiness guarantee: it can only be
/// produced by [`bind_tcp_listeners`], and every `CaServer`
/// construction path produces one before handing the server back. A
/// bound-and-listening socket already completes TCP handshakes in the
/// kernel, so a client that connects before `CaServer::run()` is even
/// polled is queued rather than refused — owning a `CaServer` implies
/// "listening", with no readiness handshake for the caller to get
/// wrong.
#[cfg(tokio_backend)]
#[derive(Clone)]
pub struct BoundTcp {
    listeners: Vec<(Arc<TcpListener>, std::net::Ipv4Addr)>,
    port: u16,
}

#[cfg(tokio_backend)]
impl BoundTcp {
    /// The port every listener in this set is bound to. This is the
    /// port SEARCH replies and beacons advertise — it differs from the
    /// requested port when the ephemeral fallback fired.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The interfaces this set listens on. `rsrv_grab_tcp` deletes an address
    /// that is no interface of this host from `casIntfAddrList`
    /// (`caservertask.c:225-226`), so this is the list the UDP responders take.
    pub(crate) fn interfaces(&self) -> Vec<std::net::Ipv4Addr> {
        self.listeners.iter().map(|(_, ip)| *ip).collect()
    }

    /// Close the listener of every interface not in `keep`. An interface whose
    /// UDP bind failed is dropped whole in C: `cleanup:` frees the conf with
    /// its TCP socket (`caservertask.c:744-749`).
    pub(crate) fn retain_interfaces(&mut self, keep: &[std::net::Ipv4Addr]) {
        self.listeners.retain(|(_, ip)| keep.contains(ip));
    }
}

/// Bind one TCP listener per `EPICS_CAS_INTF_ADDR_LIST` interface.
///
/// Tries the configured port first; falls back to an ephemeral port
/// (port 0) for the whole set if any interface finds it in use.
///
/// C `rsrv_init` (caservertask.c:604-750) iterates `casIntfAddrList`
/// and spawns one `CAS-TCP` accept thread per entry, all bound to the
/// same TCP port. Binding to a *specific* interface IP (vs
/// `INADDR_ANY`) and binding to a *different* specific IP on the same
/// port is allowed by POSIX; only two 0.0.0.0 binds collide. Empty
/// list → single `0.0.0.0` listener (default).
///
/// The first successful bind decides the port and every other interface
/// takes it; `bind_tcp_set` holds what a failing interface does.
#[cfg(tokio_backend)]
pub async fn bind_tcp_listeners(port: u16) -> CaResult<BoundTcp> {
    let intf_addrs = rsrv_intf_addrs()?;

    let (listeners, bound_port) = bind_tcp_set(intf_addrs, port).await?;
    announce_tcp_port(port, bound_port);
    Ok(BoundTcp {
        listeners,
        port: bound_port,
    })
}

/// C's line for an address that is no interface (`caservertask.c:222`);
/// `ipAddrToDottedIP` prints `a.b.c.d:port` (`osiSock.c:168-170`).
fn skipping_line(ip: std::net::Ipv4Addr, port: u16) -> String {
    format!("Skipping {ip}:{port} which is not an interface address")
}

/// The interfaces RSRV binds: `EPICS_CAS_INTF_ADDR_LIST`, or the wildcard
/// when it is empty.
pub(crate) fn rsrv_intf_addrs() -> CaResult<Vec<std::net::Ipv4Addr>> {
    let cfg = super::addr_list::from_env()?;
    Ok(if cfg.intf_addrs.is_empty() {
        vec![std::net::Ipv4Addr::UNSPECIFIED]
    } else {
        cfg.intf_addrs
    })
}

#[cfg(tokio_backend)]
async fn bind_tcp_set(
    intf_addrs: Vec<std::net::Ipv4Addr>,
    port: u16,
) -> CaResult<(Vec<(Arc<TcpListener>, std::net::Ipv4Addr)>, u16)> {
    // `TcpListener::bind`, spelled out so the bind is the synchronous call
    // the shared rule takes.
    bind_tcp_set_with(
        intf_addrs,
        port,
        |addr| {
            let socket = tokio::net::TcpSocket::new_v4()?;
            #[cfg(not(windows))]
            socket.set_reuseaddr(true)?;
            socket.bind(addr.into())?;
            Ok(Arc::new(socket.listen(1024)?))
        },
        |l| Ok(l.local_addr()?.port()),
    )
    .map_err(Into::into)
}

/// `rsrv_grab_tcp` (`caservertask.c:155-267`): bind every interface on one
/// port. `EADDRINUSE` or `EACCES` on any interface closes the whole set and
/// starts over on one OS-picked port; an interface that is no address of this
/// host (`EADDRNOTAVAIL`) is dropped with C's line and the set restarted on an
/// OS-picked port too (`:266`); any other error fails. C loops until it succeeds; the OS-picked
/// restarts are bounded here.
///
/// Generic over the listener so the async server and the blocking driver bind
/// their sets by the one rule.
pub(crate) fn bind_tcp_set_with<L>(
    mut intf_addrs: Vec<std::net::Ipv4Addr>,
    port: u16,
    mut bind: impl FnMut(std::net::SocketAddrV4) -> std::io::Result<L>,
    port_of: impl Fn(&L) -> std::io::Result<u16>,
) -> std::io::Result<(Vec<(L, std::net::Ipv4Addr)>, u16)> {
    const OS_PICKED_TRIES: usize = 16;
    let mut want = port;
    let mut os_picked = 0;
    'set: loop {
        if intf_addrs.is_empty() {
            // `cantProceed("Error: RSRV has empty interface list ...")`,
            // `caservertask.c:271`.
            return Err(std::io::Error::new(
                std::io::ErrorKind::AddrNotAvailable,
                "RSRV has empty interface list: the CA server can't function \
                 without binding to at least one network interface",
            ));
        }
        let mut listeners: Vec<(L, std::net::Ipv4Addr)> = Vec::new();
        for (i, ip) in intf_addrs.iter().enumerate() {
            match bind(std::net::SocketAddrV4::new(*ip, want)) {
                Ok(l) => {
                    if want == 0 {
                        // The first socket picks the number for the rest.
                        want = port_of(&l)?;
                    }
                    listeners.push((l, *ip));
                }
                Err(e) if e.kind() == std::io::ErrorKind::AddrNotAvailable => {
                    // `ipAddrToDottedIP` prints `a.b.c.d:port` (`osiSock.c:168-170`).
                    println!("{}", skipping_line(*ip, want));
                    intf_addrs.remove(i);
                    // C leaves `ok = 0`, so the next pass starts on port 0
                    // (`caservertask.c:266`).
                    want = 0;
                    continue 'set;
                }
                Err(e)
                    if epics_base_rs::net::bind_falls_back(&e) && os_picked < OS_PICKED_TRIES =>
                {
                    os_picked += 1;
                    want = 0;
                    continue 'set;
                }
                Err(e) => return Err(e),
            }
        }
        return Ok((listeners, want));
    }
}

/// What C does the moment it knows which TCP port the server actually got
/// (`caservertask.c:578-595`): tell the operator when it is not the port they
/// configured, and publish it as `RSRV_SERVER_PORT` either way.
///
/// The port did neither. A `softIoc` whose configured TCP port was taken came
/// up silently on a random one — its SEARCH replies pointed at a port nobody
/// had been told about, and any `st.cmd` that reads `RSRV_SERVER_PORT` (the
/// documented way to learn it) got nothing.
///
/// `configured == 0` is the caller asking for an ephemeral port outright
/// (`softioc-rs --port 0`); C cannot express that — `envGetInetPortConfigParam`
/// rejects any port at or below 5000 — so getting one back is what was asked
/// for, not a fallback, and C's warning has nothing to say about it.
pub(crate) fn announce_tcp_port(configured: u16, bound: u16) {
    if configured != 0 && bound != configured {
        // C `caservertask.c:585-590`, five `errlogPrintf` lines, verbatim —
        // including the trailing comma on line 2 and the missing period on
        // line 5. Captured from the compiled `softIoc` with its configured TCP
        // port held by another process.
        let w = epics_base_rs::runtime::log::erl_warning();
        epics_libcom_rs::stderr_println!("cas {w}: Configured TCP port was unavailable.");
        epics_libcom_rs::stderr_println!("cas {w}: Using dynamically assigned TCP port {bound},");
        epics_libcom_rs::stderr_println!(
            "cas {w}: but now two or more servers share the same UDP port."
        );
        epics_libcom_rs::stderr_println!(
            "cas {w}: Depending on your IP kernel this server may not be"
        );
        epics_libcom_rs::stderr_println!(
            "cas {w}: reachable with UDP unicast (a host's IP in EPICS_CA_ADDR_LIST)"
        );
    }
    // C `caservertask.c:594`: `epicsEnvSet("RSRV_SERVER_PORT", buf)`,
    // unconditional — the variable always names the port the server ended up
    // on, which is the only reason a startup script can find a `--port 0` IOC.
    //
    // SAFETY: C's `epicsEnvSet` is the same process-wide `putenv`, called from
    // `rsrv_init` during IOC startup. This runs on the same startup path,
    // before the server has spawned the tasks that read the environment.
    unsafe { std::env::set_var("RSRV_SERVER_PORT", bound.to_string()) };
}

/// Serve CA connections on listeners already bound by
/// [`bind_tcp_listeners`].
///
/// The TCP path does NOT touch the beacon ramp. C `rsrv` sets the ramp's
/// initial period once, when `rsrv_online_notify_task` starts
/// (`online_notify.c:66` `delay = 0.02`), and restarts it in exactly one other
/// place: the `beacon_ctl == ctlPause` wait loop (`online_notify.c:126-129`).
/// A client connect or disconnect never restarts it — accepting a connection
/// is not a server state change other clients need to hear about. This port has
/// no `ctlPause` equivalent (no `iocPause` lifecycle), so the ramp's only reset
/// is its own start, and the beacon-reset signal is reachable solely through
/// [`CaServer::trigger_beacon_anomaly`](super::ca_server::CaServer::trigger_beacon_anomaly)
/// — the ca-gateway's `generateBeaconAnomaly` analogue.
#[cfg(tokio_backend)]
#[allow(clippy::too_many_arguments)]
pub async fn run_tcp_listener(
    db: Arc<PvDatabase>,
    bound: BoundTcp,
    acf: epics_base_rs::server::access_security::AcfCell,
    acf_reload_tx: broadcast::Sender<()>,
    conn_events: Option<broadcast::Sender<ServerConnectionEvent>>,
    audit: Option<crate::audit::AuditLogger>,
    drain: Arc<std::sync::atomic::AtomicBool>,
    // PR #592 dbServerStats: per-connection byte counters feed the
    // `casr` iocsh command's `bytes in=… out=…` line. Optional so unit
    // tests of the TCP path don't need a full ServerStats wired up.
    stats: Option<Arc<super::stats::ServerStats>>,
    #[cfg(feature = "experimental-rust-tls")] tls: Option<
        Arc<std::sync::RwLock<Arc<tokio_rustls::rustls::ServerConfig>>>,
    >,
    #[cfg(feature = "cap-tokens")] cap_token_verifier: Option<Arc<crate::cap_token::TokenVerifier>>,
) -> CaResult<()> {
    let BoundTcp {
        listeners,
        port: actual_port,
    } = bound;

    // One accept-loop task per bound interface. When the parent
    // `run_tcp_listener` future is dropped (CaServer shutdown via
    // `tcp_abort.abort()`), this JoinSet is dropped which aborts all
    // accept loops as a unit. First task to error wins; the rest
    // are aborted via JoinSet::Drop.
    let mut accept_tasks: tokio::task::JoinSet<CaResult<()>> = tokio::task::JoinSet::new();

    // ASG-field-change forwarder. C
    // `database/src/ioc/as/asDbLib.c:107-110,144` `asSpcAsCallback`
    // is wired by `asInitCommon` as the per-record `ASG` field
    // special callback and re-evaluates access rights for every
    // affected client on `dbPut record.ASG NEW_ASG`. Re-using the
    // existing `acf_reload_tx` broadcast is coarser than libca's
    // per-client dispatch but the downstream `oldaccess != access`
    // filter in `reeval_access_rights` keeps wire traffic bounded.
    //
    // the forwarder is spawned INTO the `accept_tasks`
    // JoinSet so it's cancelled together with the accept loops on
    // `run_tcp_listener` cancellation. Pre-fix Rust did
    // `tokio::spawn(...)` and dropped the JoinHandle, leaving the
    // task running forever (its `recv()` loop only exits on
    // `RecvError::Closed`, which the process-lifetime `OnceLock`
    // Sender can never raise). Long-running processes that restart
    // their CA server (test fixtures, fault-tolerant supervisors)
    // accumulated one zombie forwarder per restart cycle, each
    // holding a stale `acf_reload_tx_t` clone.
    {
        let mut asg_rx = epics_base_rs::server::access_security::subscribe_asg_changes();
        let acf_reload_tx_t = acf_reload_tx.clone();
        accept_tasks.spawn(async move {
            loop {
                match asg_rx.recv().await {
                    Ok(()) => {
                        let _ = acf_reload_tx_t.send(());
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(n)) => {
                        // Coalesce lagged events into one re-eval; the
                        // downstream `oldaccess != access` filter
                        // makes a single re-eval sufficient.
                        tracing::debug!(
                            target: "epics_ca_rs::server::tcp",
                            lagged = n,
                            "ASG-change notifier lagged — issuing one coalesced re-eval"
                        );
                        let _ = acf_reload_tx_t.send(());
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => break,
                }
            }
            Ok(())
        });
    }

    for (listener, intf) in listeners {
        let db_t = db.clone();
        let acf_t = acf.clone();
        let acf_reload_tx_t = acf_reload_tx.clone();
        let conn_events_t = conn_events.clone();
        let audit_t = audit.clone();
        let drain_t = drain.clone();
        let stats_t = stats.clone();
        #[cfg(feature = "experimental-rust-tls")]
        let tls_t = tls.clone();
        #[cfg(feature = "cap-tokens")]
        let cap_token_verifier_t = cap_token_verifier.clone();
        accept_tasks.spawn(async move {
            accept_loop(
                listener,
                intf,
                actual_port,
                db_t,
                acf_t,
                acf_reload_tx_t,
                conn_events_t,
                audit_t,
                drain_t,
                stats_t,
                #[cfg(feature = "experimental-rust-tls")]
                tls_t,
                #[cfg(feature = "cap-tokens")]
                cap_token_verifier_t,
            )
            .await
        });
    }

    // Wait for the first error (or for all loops to exit cleanly via
    // drain). On error, JoinSet::Drop aborts the surviving loops.
    while let Some(res) = accept_tasks.join_next().await {
        match res {
            Ok(Ok(())) => continue,
            Ok(Err(e)) => return Err(e),
            Err(join_err) if join_err.is_cancelled() => continue,
            Err(join_err) => {
                return Err(epics_base_rs::error::CaError::Io(std::io::Error::new(
                    std::io::ErrorKind::Other,
                    join_err.to_string(),
                )));
            }
        }
    }
    Ok(())
}

/// Per-interface accept loop. Owned by `run_tcp_listener` via a
/// `JoinSet` — one task per `EPICS_CAS_INTF_ADDR_LIST` entry. Drains
/// when the shared `drain` flag is set; otherwise spawns a
/// `handle_client` task into the local `conn_tasks` `JoinSet` per
/// accepted connection.
///
/// `intf` is the bound interface IP; recorded on accept-error logs so
/// multi-NIC hosts can tell which listener saw the failure. The
/// `actual_port` parameter is the TCP port shared across all
/// listeners (decided in `bind_tcp_listeners`).
#[cfg(tokio_backend)]
#[allow(clippy::too_many_arguments)]
async fn accept_loop(
    listener: Arc<TcpListener>,
    intf: std::net::Ipv4Addr,
    actual_port: u16,
    db: Arc<PvDatabase>,
    acf: epics_base_rs::server::access_security::AcfCell,
    acf_reload_tx: broadcast::Sender<()>,
    conn_events: Option<broadcast::Sender<ServerConnectionEvent>>,
    audit: Option<crate::audit::AuditLogger>,
    drain: Arc<std::sync::atomic::AtomicBool>,
    stats: Option<Arc<super::stats::ServerStats>>,
    #[cfg(feature = "experimental-rust-tls")] tls: Option<
        Arc<std::sync::RwLock<Arc<tokio_rustls::rustls::ServerConfig>>>,
    >,
    #[cfg(feature = "cap-tokens")] cap_token_verifier: Option<Arc<crate::cap_token::TokenVerifier>>,
) -> CaResult<()> {
    // track per-connection tasks in a JoinSet so they're
    // aborted as a unit when this accept-loop future is dropped (e.g.
    // CaServer shutdown via tcp_abort.abort()). Without this, every
    // per-conn task ran detached and lingered until its internal
    // idle/op timeout. The select! arm on `conn_tasks.join_next()`
    // also reaps completed tasks so the set doesn't accumulate
    // finished JoinHandles.
    let mut conn_tasks: tokio::task::JoinSet<()> = tokio::task::JoinSet::new();
    // C's per-interface `req_server` registers with the watchdog before its
    // accept loop (`caservertask.c:67`). Unbounded: the loop parks in `accept`,
    // and C's watchdog likewise reports nothing for a thread blocked there.
    let _watched = epics_base_rs::runtime::taskwd::taskwd_insert(
        format!("CAS-TCP {intf}:{actual_port}"),
        epics_base_rs::runtime::taskwd::CheckIn::Unbounded,
        None,
    );
    let mut backoff = AcceptBackoff::new();

    loop {
        // Drain mode: stop accepting new connections. Existing
        // connections continue to be served by their own tasks; the
        // CaServer::run() loop coordinates the grace period and the
        // ultimate exit.
        if drain.load(std::sync::atomic::Ordering::Acquire) {
            tracing::info!(intf = %intf, "TCP listener: drain mode set, exiting accept loop");
            return Ok(());
        }
        let (stream, peer) = tokio::select! {
            biased;
            // Was `res?`. A single transient failure — `ECONNABORTED` from a
            // client that resets between SYN and accept is routine on a busy
            // network — returned from the whole loop, and this interface
            // stopped accepting CA circuits for the life of the server. Same
            // primitive as the three other accept loops.
            res = listener.accept() => match res {
                Ok(accepted) => {
                    backoff.accepted();
                    accepted
                }
                Err(e) => {
                    tracing::warn!(intf = %intf, error = %e, "CA accept failed");
                    tokio::time::sleep(backoff.failed()).await;
                    continue;
                }
            },
            // Drain finished connection tasks. Returns None when the
            // set is empty — that branch resolves immediately, but
            // `biased` makes the listener arm preferred so we never
            // starve incoming accepts.
            Some(_) = conn_tasks.join_next() => continue,
        };
        // Reap finished connection tasks promptly. The select! arm on
        // `conn_tasks.join_next()` only fires when `listener.accept()`
        // is Pending, but `biased` makes the accept arm strictly
        // preferred — so under a sustained connect storm completed
        // `JoinHandle`s would accumulate in the set unbounded. A
        // non-blocking `try_join_next` drain after every accept caps
        // the set at the count of genuinely in-flight connections.
        while conn_tasks.try_join_next().is_some() {}
        if drain.load(std::sync::atomic::Ordering::Acquire) {
            tracing::info!(peer = %peer, "drain mode: rejecting new connection");
            drop(stream);
            continue;
        }
        tracing::info!(peer = %peer, intf = %intf, "CA client connected");
        metrics::counter!("ca_server_accepts_total").increment(1);
        metrics::gauge!("ca_server_clients_active").increment(1.0);
        let db = db.clone();
        let acf = acf.clone();
        if let Some(tx) = &conn_events {
            let _ = tx.send(ServerConnectionEvent::Connected(peer));
        }
        let conn_events = conn_events.clone();
        let acf_reload_rx = acf_reload_tx.subscribe();
        let audit = audit.clone();
        let stats_for_client = stats.clone();
        // Read the latest server config under the RwLock so a
        // concurrent reload_tls() takes effect for the *next* accept
        // without restarting the listener. Cheap read lock — only
        // contended against rare reload write locks.
        #[cfg(feature = "experimental-rust-tls")]
        let tls_acceptor = tls.as_ref().and_then(|slot| {
            slot.read()
                .ok()
                .map(|guard| tokio_rustls::TlsAcceptor::from(guard.clone()))
        });

        // Enable OS-level TCP keepalive on accepted socket so half-open
        // connections (e.g. NAT timeout, gateway down) are detected within
        // ~30s. Mirrors client-side keepalive in client/transport.rs.
        {
            let sock = socket2::SockRef::from(&stream);
            let keepalive = socket2::TcpKeepalive::new()
                .with_time(Duration::from_secs(15))
                .with_interval(Duration::from_secs(5));
            let _ = sock.set_keepalive(true);
            let _ = sock.set_tcp_keepalive(&keepalive);
            // SO_SNDTIMEO is set as a defence-in-depth — this port's own
            // 5 s, not C's; rsrv sets no send timeout anywhere (see
            // `send_timeout`) — but on a non-blocking tokio socket the
            // kernel does NOT
            // apply it — a stuck client where the kernel send buffer
            // fills would still leave `poll_write` Pending forever.
            //
            // This used to name the `tokio::time::timeout` wrapping
            // `dispatch_message` as "the actual stall guard". It is not one:
            // `dispatch_message` takes `&Outbox` and cannot touch the socket,
            // so no socket stall can make it late. Every server write now
            // happens in `drain_and_flush` at the bottom of the read loop,
            // which is not wrapped. **The hosted driver therefore has no stall
            // guard**, which happens to match the blocking driver and C — both
            // block in the write for as long as the peer takes. Whether to
            // keep that or restore a bound is an open decision, not an
            // oversight to patch silently.
            let _ = sock.set_write_timeout(Some(send_timeout()));
        }
        let _ = stream.set_nodelay(true);

        #[cfg(feature = "cap-tokens")]
        let cap_token_verifier_for_client = cap_token_verifier.clone();
        conn_tasks.spawn(async move {
            // TLS dispatch: when configured, wrap the accepted TCP
            // stream in a TlsAcceptor handshake. The client cert (if
            // any) is harvested afterwards for mTLS identity.
            let result: CaResult<()> = {
                #[cfg(feature = "experimental-rust-tls")]
                {
                    if let Some(acceptor) = tls_acceptor {
                        // cap the TLS handshake. A peer that
                        // completes TCP but stalls during ClientHello
                        // would otherwise hold a connection slot until
                        // OS keepalive reaps it (~30s).
                        let hs =
                            tokio::time::timeout(tls_handshake_timeout(), acceptor.accept(stream))
                                .await;
                        match hs {
                            Err(_) => {
                                tracing::warn!(peer = %peer,
                                    timeout = ?tls_handshake_timeout(),
                                    "TLS handshake timed out");
                                Err(epics_base_rs::error::CaError::Protocol(
                                    "TLS handshake timeout".into(),
                                ))
                            }
                            Ok(Ok(tls_stream)) => {
                                // Extract verified peer identity + issuer
                                // from the client certificate, if presented.
                                let leaf_cert = tls_stream
                                    .get_ref()
                                    .1
                                    .peer_certificates()
                                    .and_then(|chain| chain.first().cloned());
                                let (identity, authority) = leaf_cert
                                    .as_ref()
                                    .map(|cert| {
                                        (
                                            crate::tls::identity_from_cert(cert),
                                            crate::tls::issuer_from_cert(cert),
                                        )
                                    })
                                    .map(|(id, auth)| (Some(id), auth))
                                    .unwrap_or((None, None));
                                // TLS channel binding: SHA-256 of the
                                // peer's leaf certificate DER. Threaded
                                // into `handle_client` so cap-token
                                // verification is bound to this circuit.
                                #[cfg(feature = "cap-tokens")]
                                let tls_channel_binding = leaf_cert.as_ref().map(|cert| {
                                    crate::cap_token::ChannelBinding::from_peer_cert_der(
                                        cert.as_ref(),
                                    )
                                });
                                if let Some(ref id) = identity {
                                    tracing::info!(
                                        peer = %peer,
                                        identity = %id,
                                        authority = authority.as_deref().unwrap_or("<none>"),
                                        "mTLS identity verified"
                                    );
                                }
                                handle_client(
                                    tls_stream,
                                    peer,
                                    db,
                                    acf,
                                    acf_reload_rx,
                                    actual_port,
                                    identity,
                                    authority,
                                    audit,
                                    conn_events.clone(),
                                    stats_for_client.clone(),
                                    #[cfg(feature = "cap-tokens")]
                                    cap_token_verifier_for_client.clone(),
                                    #[cfg(feature = "cap-tokens")]
                                    tls_channel_binding,
                                )
                                .await
                            }
                            Ok(Err(e)) => {
                                tracing::warn!(peer = %peer, error = %e,
                                    "TLS handshake failed");
                                Err(epics_base_rs::error::CaError::Io(e))
                            }
                        }
                    } else {
                        handle_client(
                            stream,
                            peer,
                            db,
                            acf,
                            acf_reload_rx,
                            actual_port,
                            None,
                            None,
                            audit,
                            conn_events.clone(),
                            stats_for_client.clone(),
                            #[cfg(feature = "cap-tokens")]
                            cap_token_verifier_for_client.clone(),
                            // Plaintext circuit: no channel binding.
                            #[cfg(feature = "cap-tokens")]
                            None,
                        )
                        .await
                    }
                }
                #[cfg(not(feature = "experimental-rust-tls"))]
                {
                    handle_client(
                        stream,
                        peer,
                        db,
                        acf,
                        acf_reload_rx,
                        actual_port,
                        None,
                        None,
                        audit,
                        conn_events.clone(),
                        stats_for_client.clone(),
                        #[cfg(feature = "cap-tokens")]
                        cap_token_verifier_for_client.clone(),
                        // No TLS compiled in: never a channel binding.
                        #[cfg(feature = "cap-tokens")]
                        None,
                    )
                    .await
                }
            };
            if let Some(tx) = &conn_events {
                let _ = tx.send(ServerConnectionEvent::Disconnected(peer));
            }
            metrics::gauge!("ca_server_clients_active").decrement(1.0);
            metrics::counter!("ca_server_disconnects_total").increment(1);
            if let Err(e) = result {
                // Suppress normal disconnection errors (client closed connection)
                let is_disconnect = matches!(
                    e,
                    epics_base_rs::error::CaError::Io(ref io) if is_peer_disconnect(io.kind())
                );
                if is_disconnect {
                    tracing::debug!(peer = %peer, "client disconnected");
                } else {
                    tracing::warn!(peer = %peer, error = %e, "client handler error");
                }
            } else {
                tracing::debug!(peer = %peer, "client disconnected cleanly");
            }
        });
    }
}

/// A socket error that means the peer went away (closed or reset the
/// connection) rather than a genuine server-side failure.
///
/// Single owner of the peer-vanished classification: the client loop's
/// socket I/O break sites and the accept-loop logger must all consult
/// this predicate, so a client that disappears mid-write is uniformly a
/// *disconnect* (loop result `Ok`, audit reason "ok"), never a server
/// error. RSRV behaves the same way — a send failure terminates
/// `camsgtask` as a client disconnect, not an IOC error. Before the
/// outbox migration the spawned monitor tasks swallowed their own
/// EPIPEs; with every write centralized in the client loop, the loop
/// itself must classify them.
pub(crate) fn is_peer_disconnect(kind: std::io::ErrorKind) -> bool {
    matches!(
        kind,
        std::io::ErrorKind::ConnectionReset
            | std::io::ErrorKind::BrokenPipe
            | std::io::ErrorKind::UnexpectedEof
    )
}

/// Drain every frame currently queued in the connection outbox into the
/// socket buffer (in arrival order) and flush once. This is the single-owner
/// drain that replaces every former out-of-band `writer.lock().await` write.
/// Returns the number of wire bytes written, for `ServerStats::bytes_out`.
///
/// It is *not* the only place server bytes reach the socket, and the comment
/// that used to say so was wrong: `handle_client` writes the unsolicited
/// `CA_PROTO_VERSION` greeting directly before the loop starts, and the
/// out-of-band monitor arm writes its first frame directly before draining the
/// rest. What is genuinely single-owner is the *policy* those three share —
/// `sock`'s innermost writer is a [`crate::server::send::RetryTransientAsync`],
/// so all three inherit C's transient-failure handling without a branch.
///
/// Batching is preserved: a whole dispatch burst (or a run of monitor
/// frames) is written back-to-back before the single `flush`, so N framed
/// replies still collapse to one TCP write.
#[cfg(tokio_backend)]
async fn drain_and_flush<W: AsyncWrite + Unpin>(
    sock: &mut BufWriter<W>,
    drain: &mut OutboxDrain,
) -> std::io::Result<u64> {
    let mut total = 0u64;
    while let Some(frame) = drain.try_next() {
        sock.write_all(&frame).await?;
        total += frame.len() as u64;
    }
    sock.flush().await?;
    Ok(total)
}

/// A postponed request, held by the connection loop until what it waits
/// for signals.
#[cfg(tokio_backend)]
struct PostponedRequest {
    hdr: CaHeader,
    payload: Vec<u8>,
    blocked: Blocked,
}

#[cfg(tokio_backend)]
impl PostponedRequest {
    /// The held request's signal; never, with none held.
    async fn signalled(held: &mut Option<Self>) {
        match held {
            Some(held) => held.blocked.signalled().await,
            None => std::future::pending().await,
        }
    }
}

/// Handle one CA client over the supplied stream.
///
/// `initial_hostname` is the verified peer identity from the TLS
/// handshake (mTLS only). When `Some`, it takes precedence over
/// `peer.ip()` for the `state.hostname` ACF key — the
/// cryptographically authenticated identity is always more
/// trustworthy than the network address.
#[cfg(tokio_backend)]
#[allow(clippy::too_many_arguments)]
async fn handle_client<S>(
    stream: S,
    peer: SocketAddr,
    db: Arc<PvDatabase>,
    acf: epics_base_rs::server::access_security::AcfCell,
    mut acf_reload_rx: broadcast::Receiver<()>,
    tcp_port: u16,
    initial_hostname: Option<String>,
    // PR #641 — mTLS issuer DN of the peer's cert. `Some(...)` only
    // when the peer was authenticated via mTLS; gets paired with
    // `auth_method = "x509"` on the ClientState so ACF
    // METHOD()/AUTHORITY() rules can gate by issuer.
    tls_authority: Option<String>,
    audit: Option<crate::audit::AuditLogger>,
    conn_events: Option<broadcast::Sender<ServerConnectionEvent>>,
    // PR #592 dbServerStats: bytes_in/bytes_out counters. Incremented
    // post-read (per accepted UDP/TCP buffer) and at each BufWriter
    // flush (by inspecting `BufWriter::buffer().len()` before flush).
    // `None` skips all counter bookkeeping — used by the unit-test
    // dispatch fixtures that don't spin up a full CaServer.
    stats: Option<Arc<super::stats::ServerStats>>,
    #[cfg(feature = "cap-tokens")] cap_token_verifier: Option<Arc<crate::cap_token::TokenVerifier>>,
    // TLS channel binding (SHA-256 of the peer's leaf cert DER),
    // computed at the mTLS accept site. `None` for plaintext peers —
    // a cap-token presented on a `None` circuit is rejected by
    // `TokenVerifier::verify`, so the token is cryptographically
    // bound to the TLS channel it was issued for.
    #[cfg(feature = "cap-tokens")] tls_channel_binding: Option<crate::cap_token::ChannelBinding>,
) -> CaResult<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // The async server's own executor, minted once per circuit at the driver
    // entry rather than per subscription. `handle_client` is spawned by the
    // accept loop, so a reactor is always entered here; every monitor producer
    // this circuit starts is spawned on it, carried in
    // `SubscriptionDelivery::AsyncSpawn`.
    let conn_reactor = epics_base_rs::runtime::task::Reactor::current()
        .expect("handle_client is spawned by the CA accept loop, which runs on the server runtime");
    // C registers each client's thread in `casAttachThreadToClient`
    // (`caservertask.c:1323`) and removes it when the circuit ends. Here the
    // circuit is a task rather than a thread, so the entry is dropped when this
    // future completes or is aborted, which is the same lifetime.
    let _watched = epics_base_rs::runtime::taskwd::taskwd_insert(
        format!("CAS-client {peer}"),
        epics_base_rs::runtime::taskwd::CheckIn::Unbounded,
        None,
    );
    let (reader, write_half) = tokio::io::split(stream);
    // The connection loop is the SOLE owner of the socket writer — no
    // `Arc<Mutex<..>>`, so no other task can write the socket. Bigger
    // BufWriter so a 100-PV batched response burst (~3 KB) fits without
    // auto-flushing mid-batch. The dispatch hot-path no longer writes the
    // socket at all: handlers push framed bytes into `outbox`, and this
    // loop drains that outbox into `sock` and flushes once per outer read
    // iteration — turning N small TCP writes into one. Default 8 KB was hit
    // at ~330 responses; 64 KB covers the common bulk_caget(100) case with
    // headroom for follow-on monitor events queued in the same tick.
    // The write half is wrapped before it is buffered, so `BufWriter`'s spill,
    // `write_all`, and `flush` all sit above C's transient-failure policy: an
    // `ENOBUFS` burst parks this circuit for 15 s and retries, where the bare
    // `write_all` used to return `Err` and `?` used to disconnect the client.
    // See `crate::server::send`.
    let mut sock = BufWriter::with_capacity(
        64 * 1024,
        crate::server::send::RetryTransientAsync::new(write_half),
    );
    // The single per-connection outbox. `outbox` is the cloneable producer
    // handle every emit site holds (dispatch handlers in this task, plus
    // the spawned monitor / put-notify tasks); `outbox_drain` is owned only
    // here. See `super::outbox` for the invariant this establishes.
    let (outbox, mut outbox_drain) = crate::server::outbox::channel();
    let mut state = ClientState::new(acf, tcp_port, db.clone());
    state.stats = stats.clone();
    #[cfg(feature = "cap-tokens")]
    {
        state.cap_token_verifier = cap_token_verifier;
        state.tls_channel_binding = tls_channel_binding;
    }
    // The circuit's ACF host identity + mTLS auth context are decided once,
    // here — C decides them in `create_tcp_client`
    // (`caservertask.c:1425-1439`) for the same reason. Shared with the
    // blocking thread-per-client driver (`crate::server::blocking`) so both
    // server front-ends derive identity identically. See `HostIdentity`.
    state.apply_connection_identity(peer, initial_hostname, tls_authority);
    state.audit = audit;
    state.audit("connect", "", "", "ok");

    // C `rsrv/caservertask.c::create_tcp_client:1525` calls
    // `rsrv_version_reply(client)` immediately after `db_start_events`,
    // so the server's first wire frame on any new TCP connection is
    // an unsolicited `CA_PROTO_VERSION` (cmmd=0, count=
    // CA_MINOR_PROTOCOL_REVISION, all other fields zero). libca's
    // `tcpRecvWatchdog::messageArrivalNotify` uses every received
    // frame as a liveness beat; without this, the server's first byte
    // is delayed until the client sends its own CA_PROTO_VERSION,
    // which can drift slow handshakes toward CA_ECHO_TIMEOUT. Also
    // restores wire-trace parity with rsrv (the first byte from the
    // server matches).
    {
        // Pre-loop, single-task: the owner writes the unsolicited VERSION
        // greeting directly to its own socket buffer.
        let mut hdr = CaHeader::new(CA_PROTO_VERSION);
        hdr.count = CA_MINOR_VERSION;
        sock.write_all(&hdr.to_bytes()).await?;
        sock.flush().await?;
    }

    let mut reader = reader;

    let mut buf = vec![0u8; 8192];
    let mut accumulated = RecvAccumulator::new();
    let inactivity = inactivity_timeout();

    // CRITICAL: every exit path from the read loop — graceful EOF
    // (`break`), propagated I/O / protocol error, rate-limit disconnect,
    // send-timeout disconnect — MUST pass through the single teardown
    // block below (subscription cancel, write-notify abort,
    // SubscriptionClosed / ChannelCleared emission). Previously the
    // in-loop `return Ok(())` / `return Err(..)` sites bypassed the
    // teardown, leaking write-notify tasks and inflating consumer
    // refcounts permanently after any non-graceful disconnect.
    //
    // The loop is wrapped in a labeled block: in-loop exits use
    // `break 'client_loop <CaResult>` so control always reaches the
    // teardown, and the captured result is returned only afterwards.
    //
    // `disconnect_reason` carries the specific cause (rate_limited /
    // send_timeout / error / ok) to the single post-teardown audit
    // call — replacing the per-path `state.audit("disconnect", ..)`
    // calls that previously had to live next to each `return`.
    let mut disconnect_reason: &str = "ok";
    // Wake-up for database removals. Subscribed here rather than plumbed in
    // from the accept loop because this task already owns the `Arc<PvDatabase>`
    // the sender lives in, so the receiver cannot outlive its sender and the
    // `Closed` arm below is unreachable while the circuit is up.
    let mut pv_destroyed_rx = db.pv_destroyed_events();
    // The request a PV postponed, held with everything behind it until the PV
    // signals (pcas `ioBlockedList`). Monitors, replies and the other arms
    // keep running meanwhile, as pcas keeps sending to a blocked client.
    let mut postponed: Option<PostponedRequest> = None;
    let loop_result: CaResult<()> = 'client_loop: {
        loop {
            // A postponed client's bytes wait in the buffer, which takes only
            // what it has room for: pcas stops reading once its in-buffer is
            // full (`casStreamOS::recvCB`), so sending on cannot overflow it.
            let room = match postponed {
                Some(_) => buf.len().min(accumulated.room()),
                None => buf.len(),
            };
            // Bound read with inactivity timeout so a fully-silent half-open
            // connection eventually gets cleaned up even if OS keepalive failed.
            // Race the read against ACF reload notifications so a `reload_acf*()`
            // call promptly re-pushes CA_PROTO_ACCESS_RIGHTS for every open
            // channel — RSRV's `sendAllUpdateAS` analog.
            let read = tokio::select! {
                biased;
                reload = acf_reload_rx.recv() => {
                    match reload {
                        Ok(()) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {
                            // Lagged is fine — even one missed notification still
                            // means "rules changed", so we always recompute. A
                            // re-push failure must still pass through teardown.
                            if let Err(e) = reeval_access_rights(&mut state, &outbox).await {
                                break 'client_loop Err(e);
                            }
                            // reeval pushed the ACCESS_RIGHTS / denial frames into
                            // the outbox; drain them to the socket now so the
                            // re-evaluation reaches the client promptly (RSRV
                            // flushes these immediately).
                            if let Err(e) = drain_and_flush(&mut sock, &mut outbox_drain).await {
                                if is_peer_disconnect(e.kind()) {
                                    break 'client_loop Ok(());
                                }
                                break 'client_loop Err(e.into());
                            }
                            continue;
                        }
                        Err(tokio::sync::broadcast::error::RecvError::Closed) => {
                            // Sender dropped — the server is going away.
                            break 'client_loop Ok(());
                        }
                    }
                }
                // A PV or record left the database. Retire every channel on
                // this circuit that served it — CAS `casPV` destruction, which
                // ca-gateway drives with `delete vc` on upstream death
                // (`gatePv.cc:600-601`). Raced against the socket read for the
                // same reason the ACF arm is: an idle `camonitor` must learn of
                // the disconnect without first sending us a frame.
                destroyed = pv_destroyed_rx.recv() => {
                    match destroyed {
                        Ok(()) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {
                            // Lagged is harmless: one missed wake still means
                            // "re-check what you serve", and the sweep tests
                            // every channel, not a name the message carried.
                            if sweep_destroyed_channels(
                                &mut state,
                                peer,
                                conn_events.as_ref(),
                                &outbox,
                            )
                            .await
                                > 0
                            {
                                if let Err(e) = drain_and_flush(&mut sock, &mut outbox_drain).await {
                                    if is_peer_disconnect(e.kind()) {
                                        break 'client_loop Ok(());
                                    }
                                    break 'client_loop Err(e.into());
                                }
                            }
                            continue;
                        }
                        Err(tokio::sync::broadcast::error::RecvError::Closed) => {
                            // Unreachable while this task holds `db`; treat it
                            // the way the ACF arm treats a dropped sender.
                            break 'client_loop Ok(());
                        }
                    }
                }
                // A parked GET's fetch settled. Ahead of the socket read, so a
                // client that keeps sending cannot hold its own replies back.
                settled = state.parked_reads.next_settled() => {
                    if let Err(e) = answer_parked_reads(&mut state, &outbox, settled) {
                        let _ = drain_and_flush(&mut sock, &mut outbox_drain).await;
                        print_forcing_disconnect(peer);
                        break 'client_loop Err(e);
                    }
                    match drain_and_flush(&mut sock, &mut outbox_drain).await {
                        Ok(out) => {
                            if let Some(ref s) = stats {
                                s.bytes_out.fetch_add(out, std::sync::atomic::Ordering::Relaxed);
                            }
                        }
                        Err(e) if is_peer_disconnect(e.kind()) => break 'client_loop Ok(()),
                        Err(e) => break 'client_loop Err(e.into()),
                    }
                    continue;
                }
                // The postponing PV ended an IO: serve the held request again
                // (`casStreamIOWakeup::expire` → `processMsg`). A destroy's
                // signal can beat its broadcast, so its channels retire
                // first, as pcas drains the `channelDestroyEvent`s queued
                // with the canceled IO before that timer fires.
                () = PostponedRequest::signalled(&mut postponed), if postponed.is_some() => {
                    sweep_destroyed_channels(&mut state, peer, conn_events.as_ref(), &outbox).await;
                    None
                }
                read = read_with_optional_timeout(&mut reader, &mut buf[..room], inactivity), if room > 0 => {
                    match read {
                        Ok(Ok(n)) => Some(n),
                        Ok(Err(e)) if is_peer_disconnect(e.kind()) => break 'client_loop Ok(()),
                        Ok(Err(e)) => break 'client_loop Err(e.into()),
                        Err(idle) => {
                            // Inactivity timeout — close the connection.
                            // Disabled by default (matches C rsrv); fires only
                            // when EPICS_CAS_INACTIVITY_TMO is set explicitly.
                            tracing::warn!(
                                target: "epics_ca_rs::server",
                                peer = %state.peer,
                                idle_secs = idle.as_secs(),
                                "CA server: client idle, closing"
                            );
                            break 'client_loop Ok(());
                        }
                    }
                }
                // Out-of-band frame produced by a spawned monitor / put-notify
                // task while this loop was idle on the socket read. This arm is
                // last (biased) so socket reads keep priority; under a steady
                // read stream these frames still flush via the per-burst drain
                // at the bottom of the loop, so they are never starved.
                frame = outbox_drain.recv() => {
                    match frame {
                        Some(frame) => {
                            let first = frame.len() as u64;
                            if let Err(e) = sock.write_all(&frame).await {
                                if is_peer_disconnect(e.kind()) {
                                    break 'client_loop Ok(());
                                }
                                break 'client_loop Err(e.into());
                            }
                            match drain_and_flush(&mut sock, &mut outbox_drain).await {
                                Ok(rest) => {
                                    if let Some(ref s) = stats {
                                        s.bytes_out.fetch_add(
                                            first + rest,
                                            std::sync::atomic::Ordering::Relaxed,
                                        );
                                    }
                                }
                                Err(e) if is_peer_disconnect(e.kind()) => {
                                    break 'client_loop Ok(());
                                }
                                Err(e) => break 'client_loop Err(e.into()),
                            }
                            continue;
                        }
                        // Unreachable while this loop still holds `outbox`; a
                        // `None` would mean every producer handle was dropped.
                        None => break 'client_loop Ok(()),
                    }
                }
            };
            if let Some(n) = read {
                if n == 0 {
                    break 'client_loop Ok(());
                }

                // PR #592 dbServerStats: bytes_in mirrors RSRV's
                // `caServerBytes_in`. Counted on every successful read of `n`
                // wire bytes, regardless of whether the inner dispatch
                // accepts or rejects the message.
                if let Some(ref s) = stats {
                    s.bytes_in
                        .fetch_add(n as u64, std::sync::atomic::Ordering::Relaxed);
                }

                // Chaos: optional stall + simulated read drop. Compiles to a
                // single branch when EPICS_CA_RS_CHAOS is unset.
                if crate::chaos::enabled() {
                    crate::chaos::maybe_stall().await;
                    if crate::chaos::should_drop_read() {
                        continue;
                    }
                }

                // The single growth point. `accept` runs C's drain preamble
                // (`camessage.c:2374-2385` — bytes owed to an already-refused
                // message are discarded before any header parsing) and enforces
                // the accumulation ceiling before appending.
                match accumulated.accept(&buf[..n]) {
                    Admit::Parse => {}
                    Admit::Draining => continue,
                    Admit::Overflow(cap) => {
                        log_circuit(&state.peer, format_args!("receive buffer past {cap} bytes"));
                        break 'client_loop Ok(());
                    }
                }
                if postponed.is_some() {
                    continue;
                }
            }

            // Every protocol gate between "a header parsed" and "dispatch
            // this message" belongs to `RecvAccumulator::next_message`, which
            // the blocking driver's loop calls too. Neither loop can see the
            // individual tests, reorder them, skip one, or move the parse
            // cursor itself — which is what stopped these two loops carrying
            // two hand-maintained lists that drift.
            let mut parsed_any = false;
            loop {
                // Only the signalled arm gets here with a request held, and
                // only after its sweep has retired what was destroyed.
                let (hdr, payload, resume) = match postponed.take() {
                    Some(held) => (held.hdr, held.payload, held.blocked.into_resume()),
                    None => match accumulated.next_message(state.client_minor_version()) {
                        Gate::NeedMore => break,
                        Gate::Deliver { hdr, payload } => (hdr, payload, None),
                        Gate::Refuse(err) => {
                            // C `RSRV_OK`: the peer keeps every channel and
                            // subscription it holds; only this message is lost.
                            parsed_any = true;
                            report_gate_error(&outbox, &state, peer, &err);
                            let _ = drain_and_flush(&mut sock, &mut outbox_drain).await;
                            continue;
                        }
                        Gate::TearDown { error, reason } => {
                            // C `RSRV_ERROR`: send what C sends, then close.
                            if let Some(err) = error {
                                report_gate_error(&outbox, &state, peer, &err);
                            }
                            let _ = drain_and_flush(&mut sock, &mut outbox_drain).await;
                            print_forcing_disconnect(peer);
                            break 'client_loop Err(reason);
                        }
                        Gate::Discard => {
                            // The rate policy dropped it. The cursor is already
                            // past the message, so this is just the next one.
                            parsed_any = true;
                            continue;
                        }
                        Gate::RateLimited { strikes } => {
                            log_circuit(
                                &state.peer,
                                format_args!("rate limit: {strikes} messages discarded in a row"),
                            );
                            disconnect_reason = "rate_limited";
                            break 'client_loop Ok(());
                        }
                    },
                };
                parsed_any = true;

                let delivery = SubscriptionDelivery::AsyncSpawn(conn_reactor.clone());
                let dispatched = match resume {
                    Some(put) => {
                        resume_dispatch(&hdr, &payload, put, &mut state, &db, &outbox, delivery)
                            .await
                    }
                    None => {
                        dispatch_message(
                            &hdr,
                            &payload,
                            &mut state,
                            &db,
                            &outbox,
                            peer,
                            conn_events.as_ref(),
                            delivery,
                        )
                        .await
                    }
                };
                match dispatched {
                    Ok(Dispatched::Done) => {}
                    Ok(Dispatched::Postponed(blocked)) => {
                        postponed = Some(PostponedRequest {
                            hdr,
                            payload,
                            blocked,
                        });
                        break;
                    }
                    Err(e) => {
                        // Regression defence: dispatch_message no longer
                        // flushes per response (batched at the bottom of
                        // this outer loop). On a propagated dispatch
                        // error, exit-via-`?` would drop the BufWriter
                        // before the outer flush fires, so any responses
                        // queued by earlier successful handlers in this
                        // batch — or by an error-path `send_cmd_error`
                        // call inside the failing handler — would be
                        // lost. Best-effort flush before propagating so
                        // the client sees them; ignore errors here
                        // because the underlying TCP is most likely
                        // already broken (which is why dispatch failed).
                        let _ = drain_and_flush(&mut sock, &mut outbox_drain).await;
                        print_forcing_disconnect(peer);
                        break 'client_loop Err(e);
                    }
                }
            }

            if parsed_any {
                // Batched flush: dispatch_message pushed all responses for
                // this read iteration into the outbox without touching the
                // socket. Drain them into the BufWriter and flush once now so
                // the kernel sees a single TCP write per inbound burst. Cuts
                // e2e_bulk_get_many(100) from ~225µs → batched single write
                // (server-side throughput floor was ~2.2µs/PV due to
                // per-message flush; this collapses it to one syscall).
                //
                // The drain also picks up any monitor / put-notify frames
                // pushed by spawned tasks during this dispatch burst, so those
                // ride out on the same syscall.
                //
                // Errors here mean the TCP write stalled / peer closed —
                // surface as the read loop's normal disconnect path.
                //
                // PR #592 dbServerStats: bytes_out mirrors RSRV's
                // `caServerBytes_out`. `drain_and_flush` returns the exact
                // wire-byte count that left on this syscall. CA-over-TLS counts
                // post-decrypt plaintext since the rustls layer wraps the
                // BufWriter externally — matches what the comment on
                // ServerStats::bytes_out already documents.
                match drain_and_flush(&mut sock, &mut outbox_drain).await {
                    Ok(pending_out) => {
                        if let Some(ref s) = stats {
                            s.bytes_out
                                .fetch_add(pending_out, std::sync::atomic::Ordering::Relaxed);
                        }
                    }
                    Err(e) if is_peer_disconnect(e.kind()) => break 'client_loop Ok(()),
                    Err(e) => break 'client_loop Err(e.into()),
                }
            }
        }
    };

    // Cleanup: cancel all subscriptions. PR #592 dbServerStats —
    // emit `SubscriptionClosed` for each so the running close-count
    // matches the open-count when a client disconnects without
    // explicit EVENT_CANCEL (TCP RST, network drop, panic). Without
    // this, `active_subscriptions` reports a permanent leak after
    // every ungraceful disconnect.
    let pending_subs: Vec<SubscriptionEntry> =
        state.subscriptions.drain().map(|(_, s)| s).collect();
    for sub in pending_subs {
        let sub_id = sub.sub_id;
        sub.monitor.gate.revoke();
        let id = sub.reader.id();
        drop(sub.reader);
        match &sub.target {
            ChannelTarget::SimplePv(pv) => {
                pv.remove_subscriber(id);
            }
            ChannelTarget::RecordField { record, .. } => {
                record.write().remove_subscriber(id);
            }
        }
        if let Some(tx) = &conn_events {
            let pv_name = state
                .channels
                .get(&sub.channel_sid)
                .map(|e| e.pv_name.clone())
                .unwrap_or_default();
            let _ = tx.send(ServerConnectionEvent::SubscriptionClosed {
                peer,
                pv_name,
                sub_id,
            });
        }
    }

    // Stop the circuit's put-callback completion owner here rather than at
    // the end of the scope, so the owner is gone before the events below are
    // emitted. Dropping it is what aborts it — see `impl Drop for
    // WriteNotifyQueue`.
    drop(state.write_notify_queue.take());
    drop(state.circuit_monitors.take());

    // Emit a `ChannelCleared` event for every channel still open at
    // disconnect time. Without this, a client that drops without
    // sending `CA_PROTO_CLEAR_CHANNEL` (TCP RST, network drop, panic)
    // leaks its channel refcount in any consumer that uses these
    // events for refcounting (e.g. ca_gateway's per-PV `Active` →
    // `Inactive` transition). Done here so the events fire BEFORE
    // the listener emits `Disconnected(peer)`, preserving the
    // ordering invariant "clears precede disconnect".
    if let Some(tx) = &conn_events {
        for (_sid, entry) in state.channels.drain() {
            let _ = tx.send(ServerConnectionEvent::ChannelCleared {
                peer,
                pv_name: entry.pv_name,
                cid: entry.cid,
            });
        }
    }

    // Audit with the outcome the loop exited on, then return that
    // outcome. The teardown above ran unconditionally regardless of
    // whether `loop_result` is Ok or Err. An Err exit that did not set
    // a more specific reason is reported as "error".
    if loop_result.is_err() && disconnect_reason == "ok" {
        disconnect_reason = "error";
    }
    state.audit("disconnect", "", "", disconnect_reason);
    loop_result
}

/// The single owner of "this channel is gone".
///
/// Index cleanup (channel table, access token, trap mask),
/// pending put-callback drain (C `rsrvFreePutNotify`, `camessage.c:1889`)
/// and subscription cancel all live here, so the two events that retire a
/// channel — the client asking with `CA_PROTO_CLEAR_CHANNEL`, and the
/// database destroying what the channel serves — cannot drift apart by one
/// of them growing a cleanup step the other lacks.
///
/// Returns the removed entry, or `None` when the SID names no channel.
/// The caller owns the wire reply, which is the one thing that differs:
/// `CLEAR_CHANNEL` echoes the request, destruction sends
/// `CA_PROTO_SERVER_DISCONN`.
fn destroy_channel(
    state: &mut ClientState,
    sid: u32,
    peer: SocketAddr,
    conn_events: Option<&broadcast::Sender<ServerConnectionEvent>>,
) -> Option<ChannelEntry> {
    let entry = state.channels.remove(&sid)?;
    state.channel_access.remove(&sid);
    state.channel_trap.remove(&sid);
    if let Some(tx) = conn_events {
        let _ = tx.send(ServerConnectionEvent::ChannelCleared {
            peer,
            pv_name: entry.pv_name.clone(),
            cid: entry.cid,
        });
    }

    // C parity: `clear_channel_reply` calls `rsrvFreePutNotify`
    // (`rsrv/camessage.c:1889`) to drain this channel's pending
    // put-callbacks. Without it a stuck async record could later emit a
    // stale WRITE_NOTIFY response carrying the cleared channel's ioid —
    // confusing the client's ioid demultiplex.
    if let Some(queue) = &state.write_notify_queue {
        queue.free_channel(sid);
    }
    #[cfg(tokio_backend)]
    state.parked_reads.free_channel(sid);

    // Clean up subscriptions that belong to this channel. The list comes
    // from the channel itself (C walks `pciu->eventq`), so this holds for
    // whichever driver installed them; the async server finds each one in
    // `state.subscriptions` and finishes here, and what it does not find is
    // left for the driver that owns it via `retired_subscriptions`.
    for monitor in &entry.subscriptions {
        // Before the caller queues CLEAR_CHANNEL's delete-confirmed echo
        // (or SERVER_DISCONN): `task.abort()` only lands at the task's next
        // await point, so without this a delivery already past `recv()`
        // would be enqueued after the confirmation. C `clear_channel_reply`
        // calls `db_cancel_event` for every pevext on the channel before
        // SEND_LOCK (`camessage.c:1890-1903`).
        monitor.monitor.gate.revoke();
    }
    for monitor in &entry.subscriptions {
        let Some(sub) = state.subscriptions.remove(&monitor.id) else {
            // Not this registry's: the blocking driver holds the producer.
            // It drains this after the dispatch that retired the channel and
            // before the echo reaches the socket.
            state.retired_subscriptions.push(monitor.id);
            continue;
        };
        {
            let sub_id = sub.sub_id;
            let id = sub.reader.id();
            drop(sub.reader);
            match &sub.target {
                ChannelTarget::SimplePv(pv) => {
                    pv.remove_subscriber(id);
                }
                ChannelTarget::RecordField { record, .. } => {
                    record.write().remove_subscriber(id);
                }
            }
            if let Some(tx) = conn_events {
                let _ = tx.send(ServerConnectionEvent::SubscriptionClosed {
                    peer,
                    pv_name: entry.pv_name.clone(),
                    sub_id,
                });
            }
        }
    }
    Some(entry)
}

/// Retire every channel on this circuit whose target the database has
/// destroyed, answering each with `CA_PROTO_SERVER_DISCONN`.
///
/// The CAS `casPV` deletion path: ca-gateway drops the downstream virtual
/// channel outright when its upstream dies (`gatePvData::death` →
/// `delete vc`, `gatePv.cc:600-601`) rather than posting one more event on
/// a channel it keeps alive, so the client's monitor STOPS and `camonitor`
/// reports the disconnect instead of latching the last value at NO_ALARM.
///
/// Returns the number of channels retired.
///
/// `tokio_backend`-only, so the docs that mention it — `server_disconn_frame`'s
/// below — name it in a code span: those items are compiled on every target and
/// an intra-doc link to this one resolves in no embedded configuration.
#[cfg(tokio_backend)]
async fn sweep_destroyed_channels(
    state: &mut ClientState,
    peer: SocketAddr,
    conn_events: Option<&broadcast::Sender<ServerConnectionEvent>>,
    writer: &Outbox,
) -> usize {
    let cids = retire_destroyed_channels(state, peer, conn_events).await;
    for &cid in &cids {
        writer.push(server_disconn_frame(cid));
    }
    cids.len()
}

/// Both drivers' half of retiring the channels whose target the database has
/// destroyed: the writes still owed on them are answered by the circuit's
/// write-completion owner ([`take_owed_writes`]), then each channel is torn
/// down and its sid kept for [`pcas_verify_request`]. Returns the client cids,
/// each owed a [`server_disconn_frame`] by the driver that stages its frames.
///
/// A postponed request runs again only after this, on either driver: pcas
/// drains the `channelDestroyEvent`s queued with the canceled IO before the
/// IO's wakeup fires, so the re-run finds the channel gone.
pub(crate) async fn retire_destroyed_channels(
    state: &mut ClientState,
    peer: SocketAddr,
    conn_events: Option<&broadcast::Sender<ServerConnectionEvent>>,
) -> Vec<u32> {
    let gone: Vec<u32> = state
        .channels
        .iter()
        .filter(|(_, entry)| entry.target.is_destroyed())
        .map(|(&sid, _)| sid)
        .collect();
    // Before `destroy_channel`, whose `free_channel` drops them unanswered.
    // The blocking driver has no queue here: this runs on its event thread,
    // which holds the writes and answers them as it stages each retirement.
    #[cfg(tokio_backend)]
    if let Some(queue) = &state.write_notify_queue {
        if !gone.is_empty() {
            queue.retire(gone.clone()).await;
        }
    }
    let mut cids = Vec::with_capacity(gone.len());
    for sid in gone {
        if let Some(entry) = destroy_channel(state, sid, peer, conn_events) {
            state.retired.insert(sid, entry.final_element_count);
            cids.push(entry.cid);
        }
    }
    cids
}

/// The wire bytes retiring one channel.
///
/// `cid` is the CLIENT's id for the channel — what libca demultiplexes
/// `CA_PROTO_SERVER_DISCONN` on (`cac::verifyAndDisconnectChan` looks it up in
/// `chanTable`, `modules/ca/src/client/cac.cpp:1168-1181` at R7.0.10) — not
/// the server's SID. Both drivers build the frame here so neither can grow its
/// own idea of which id it carries: the async server's connection loop through
/// `sweep_destroyed_channels`, the blocking driver's event thread through
/// [`retire_channel`].
fn server_disconn_frame(cid: u32) -> Vec<u8> {
    let mut resp = CaHeader::new(CA_PROTO_SERVER_DISCONN);
    resp.cid = cid;
    resp.to_bytes().to_vec()
}

/// What [`dispatch_message`] did with a request.
pub(crate) enum Dispatched {
    /// Served; any reply is queued to the outbox.
    Done,
    /// Postponed ([`WriteHeadOutcome::Postponed`]): the caller holds it, and
    /// every request after it, until [`Blocked`] signals, then dispatches it
    /// again.
    Postponed(Blocked),
}

#[allow(clippy::too_many_arguments)] // the `delivery` model is the 8th
pub(crate) async fn dispatch_message(
    hdr: &CaHeader,
    payload: &[u8],
    state: &mut ClientState,
    db: &Arc<PvDatabase>,
    writer: &Outbox,
    peer: SocketAddr,
    conn_events: Option<&broadcast::Sender<ServerConnectionEvent>>,
    // How this driver wants a fresh subscription delivered. The async server
    // passes `AsyncSpawn` with its own executor; the blocking driver passes
    // `HandOff` and never routes CA_PROTO_EVENT_ADD here at all
    // (`command_drives_without_spawn`), so its own event thread owns delivery.
    delivery: SubscriptionDelivery,
) -> CaResult<Dispatched> {
    // The "client version too old" (ECA_DEFUNCT) gate is not here: it is
    // `RecvAccumulator::next_message`'s, shared with the blocking driver.
    // C runs it at `camessage.c:2427` — before the alignment test at 2520 —
    // and it needs the receive buffer's drain bookkeeping
    // (`client->recvBytesToDrain`) to swallow the rest of the rejected
    // message. Running it here would put it after alignment, giving a
    // pre-V44 peer the V44+ peer's ECA_INTERNAL disconnect for the same
    // bytes.

    match hdr.cmmd {
        CA_PROTO_VERSION => {
            // C `tcp_version_action` (camessage.c:366-369): rejects
            // clients whose minor version < CA_MINIMUM_SUPPORTED_VERSION
            // (=4) with RSRV_ERROR, which tears the connection down.
            // Without this gate, an ancient client could complete the
            // VERSION handshake and proceed to CREATE_CHAN with a
            // wire format we no longer fully support — silently
            // diverging from C IOC behaviour.
            if !declares_supported_version(hdr) {
                return Err(epics_base_rs::error::CaError::Protocol(format!(
                    "unsupported CA minor version {} (matches C tcp_version_action drop)",
                    hdr.actual_count()
                )));
            }
            // C `tcp_version_action` (`rsrv/camessage.c:371-373`) drops
            // the connection (`return RSRV_ERROR`) when the client's
            // requested priority (`m_dataType`) exceeds
            // `CA_PROTO_PRIORITY_MAX` (= 99u in `caProto.h:71`). The
            // priority drives the IOC's per-client epicsThread
            // scheduling-priority assignment downstream, so a value
            // outside the legal 0..=99 range is rejected hard rather
            // than silently clamped.
            const CA_PROTO_PRIORITY_MAX: u16 = 99;
            if hdr.data_type > CA_PROTO_PRIORITY_MAX {
                return Err(epics_base_rs::error::CaError::Protocol(format!(
                    "VERSION priority {} > {} (matches C tcp_version_action drop)",
                    hdr.data_type, CA_PROTO_PRIORITY_MAX
                )));
            }
            // No reply: C's one VERSION is `rsrv_version_reply` at connect
            // (`caservertask.c:1525`), which each driver sends before its loop.
            state.minor.set(crate::protocol::declared_minor(hdr));
        }

        CA_PROTO_HOST_NAME => {
            // C `camessage.c::host_name_action` (line ~795 onward)
            // rejects HOST_NAME messages that arrive after the first
            // channel has been created — once the client claims any
            // channel, the host identity is fixed for the connection.
            // Reuse the same wire response: CA_PROTO_ERROR with
            // ECA_INTERNAL and a descriptive message.
            if !state.channels.is_empty() {
                send_ca_error(
                    writer,
                    hdr,
                    ECA_INTERNAL,
                    0xFFFF_FFFF,
                    "attempts to use protocol to set host name \
                     after creating first channel ignored by server",
                    state.client_minor_version(),
                )?;
                return Ok(Dispatched::Done);
            }
            // C `camessage.c:824-825`: `size = strnlen(pName, m_postsize)
            // + 1; if (size > 512 || size > m_postsize) reject`.
            // The second condition rejects payloads with no null
            // terminator within m_postsize bytes (strnlen returns
            // m_postsize, then +1 overflows). Rust's
            // `position(|&b| b == 0)` returns Some(idx) for
            // terminated names and `None` (mapped to payload.len())
            // for unterminated ones — check explicitly so we don't
            // silently accept unterminated names that C would
            // reject as "very long".
            let null_pos = payload.iter().position(|&b| b == 0);
            let end = null_pos.unwrap_or(payload.len());
            if null_pos.is_none() || end >= 512 {
                // C `host_name_action` (camessage.c:823-836): a name
                // longer than 511 bytes is a protocol violation —
                // send_err + return RSRV_ERROR (disconnect). The
                // post-claim freeze branch above returns RSRV_OK
                // (recoverable misuse), but the size cap is a
                // wire-malformation reject.
                log_request(state, hdr, "bad (very long) host name");
                send_ca_error(
                    writer,
                    hdr,
                    ECA_INTERNAL,
                    0xFFFF_FFFF,
                    "bad (very long) host name",
                    state.client_minor_version(),
                )?;
                return Err(epics_base_rs::error::CaError::Protocol(
                    "HOST_NAME exceeds 511-byte cap (matches C host_name_action RSRV_ERROR)".into(),
                ));
            }

            // C `host_name_action` (`camessage.c:797-878`) stores the
            // client-supplied name **unconditionally** — the whole of C's
            // gating is the `asCheckClientIP` early return above it
            // (`:839-843`), which this port models as a pinned identity.
            // So: hand the claim to `HostIdentity`, which takes it only if
            // the identity is not pinned to the peer address or an
            // mTLS-verified cert.
            //
            // This is C's trust model, quirk included: rsrv believes the
            // name and leaves verification to the operator, who is expected
            // to set `asCheckClientIP=1` on an untrusted network. A HOST()
            // rule in an .acf therefore grants exactly what it grants under
            // C. Pre-R7-16 the port defaulted to the peer IP behind a
            // fictitious `EPICS_CAS_USE_HOST_NAMES` knob (no such variable
            // exists anywhere in epics-base), so a `HOST(node)` HAG that
            // granted WRITE under C granted nothing here.
            let claimed = payload[..end].to_vec();
            if state.hostname.claim(claimed.clone()) {
                // Re-evaluate access rights for all existing channels.
                reeval_access_rights(state, writer).await?;
            } else {
                let claimed = String::from_utf8_lossy(&claimed);
                tracing::debug!(
                    peer = %peer,
                    claimed_host = %claimed,
                    identity = %String::from_utf8_lossy(state.hostname.as_bytes()),
                    "HOST_NAME ignored: identity is pinned (asCheckClientIP or mTLS)"
                );
                state.audit("host_name", "", &claimed, "ignored_pinned");
            }
        }

        CA_PROTO_CLIENT_NAME => {
            // C `camessage.c::client_name_action` rejects CLIENT_NAME
            // after the first channel has been created (line ~898).
            if !state.channels.is_empty() {
                send_ca_error(
                    writer,
                    hdr,
                    ECA_INTERNAL,
                    0xFFFF_FFFF,
                    "attempts to use protocol to set user name \
                     after creating first channel ignored by server",
                    state.client_minor_version(),
                )?;
                return Ok(Dispatched::Done);
            }
            // C `camessage.c:911-912`: same 512-byte cap as host
            // name, AND same null-termination requirement. C
            // computes `size = strnlen(pName, m_postsize) + 1`
            // then rejects on `size > m_postsize`, which catches
            // names with no null terminator within m_postsize
            // bytes. Match by treating "no null found" as a
            // reject.
            let null_pos = payload.iter().position(|&b| b == 0);
            let end = null_pos.unwrap_or(payload.len());
            if null_pos.is_none() || end >= 512 {
                // C `client_name_action` (camessage.c:910-923): same
                // 511-byte cap as host_name; send_err + RSRV_ERROR
                // (disconnect). Post-claim freeze branch returns
                // RSRV_OK; size cap returns RSRV_ERROR.
                log_request(state, hdr, "a very long user name was specified");
                send_ca_error(
                    writer,
                    hdr,
                    ECA_INTERNAL,
                    0xFFFF_FFFF,
                    "a very long user name was specified",
                    state.client_minor_version(),
                )?;
                return Err(epics_base_rs::error::CaError::Protocol(
                    "CLIENT_NAME exceeds 511-byte cap (matches C client_name_action RSRV_ERROR)"
                        .into(),
                ));
            }
            let raw = payload[..end].to_vec();
            // When a capability-token verifier is configured AND the
            // payload arrives in `cap:<token>` form, verify the token
            // and store the resolved subject. Unverifiable tokens are
            // logged and replaced with a fixed `unverified` sentinel
            // that ACF rules can deliberately deny. Plain (non-`cap:`)
            // usernames pass through unchanged for backwards compat.
            #[cfg(feature = "cap-tokens")]
            {
                // M1: TokenVerifier::verify expects the full `cap:`-
                // prefixed form (it strips the prefix internally).
                // The previous double-strip yielded MissingPrefix on
                // every well-formed token; cap-tokens was non-
                // functional whenever a verifier was configured.
                state.username = match (&state.cap_token_verifier, raw.starts_with(b"cap:")) {
                    // A token is base64 after the prefix, so non-UTF-8 bytes
                    // fail verification like any other malformed token.
                    (Some(v), true) => match std::str::from_utf8(&raw)
                        .map_err(|_| crate::cap_token::TokenError::Malformed)
                        .and_then(|t| v.verify(t, state.tls_channel_binding.as_ref()))
                    {
                        Ok(claims) => {
                            tracing::debug!(peer = %state.peer, sub = %claims.sub,
                                "cap-token verified");
                            // propagate auth_method / authority so
                            // ACF rules of the form
                            // `RULE(1, WRITE) { METHOD("cap-token")
                            //                   AUTHORITY("ops-issuer-1") }`
                            // can scope by authenticator subsystem and
                            // issuer key id. Pre-fix only `state.username
                            // = claims.sub` was set, leaving auth_method
                            // empty (or `"x509"` if mTLS is also active),
                            // so cap-token METHOD/AUTHORITY clauses
                            // could not match a verified token.
                            state.auth_method = "cap-token".to_string();
                            state.auth_authority = claims.iss.clone();
                            claims.sub.into_bytes()
                        }
                        Err(e) => {
                            // Do NOT fold the raw token into the username:
                            // it then lands in the ACF identity and the
                            // audit log. A structurally valid but rejected
                            // token (aud/binding/expiry mismatch) is a real
                            // bearer credential, and a garbage token is
                            // attacker-controlled bytes — neither belongs
                            // there. A fixed sentinel is enough for ACF to
                            // deny; the reason is in the warn log.
                            tracing::warn!(peer = %state.peer, error = %e,
                                "cap-token verification failed");
                            b"unverified".to_vec()
                        }
                    },
                    _ => raw,
                };
            }
            #[cfg(not(feature = "cap-tokens"))]
            {
                state.username = raw;
            }
            // Re-evaluate access rights for all existing channels
            reeval_access_rights(state, writer).await?;
        }

        CA_PROTO_CREATE_CHAN => {
            // C `claim_ciu_action` (camessage.c:1235-1239): logged, circuit kept.
            if hdr.actual_postsize() <= 1 {
                log_request(state, hdr, crate::server::udp::EMPTY_PV_NAME);
                return Ok(Dispatched::Done);
            }
            // C `rsrv/camessage.c:1196` `claim_ciu_action` writes
            // `client->minor_version_number = mp->m_available;`
            // UNCONDITIONALLY, then rejects the channel outright if the
            // result is below 4.4 (`if (!CA_V44(...)) return RSRV_ERROR;`).
            // The protocol comment there is explicit: "The available field
            // is used (abused) here to communicate the minor version number
            // starting with CA 4.1. The field was set to zero prior to 4.1."
            // So a conformant libca client always carries its true version
            // in CREATE_CHAN `m_available` (== the VERSION `m_count` it
            // already handshook), and for such a client this upgrade-only
            // write is IDENTICAL to C's unconditional one — both leave the
            // negotiated version in place. The two differ only for a
            // non-conformant peer whose `m_available` is *lower* than the
            // version it handshook, where C downgrades-then-rejects and we
            // instead keep the handshook version; we deliberately do NOT
            // copy C's downgrade+reject for that malformed case (see the
            // 2026-07-01 R2-55 disposition). The upgrade path itself
            // (v4.4 handshake → v4.13 CREATE_CHAN) is applied here, which
            // downstream `CA_V49` extended-form framing (nElem >= 0xffff)
            // then honours; pre-fix Rust ignored `hdr.available` entirely,
            // so a peer using the upgrade pattern saw truncated large arrays.
            let claimed = crate::protocol::minor_from(hdr.available);
            if claimed > state.client_minor_version() {
                state.minor.set(claimed);
            }

            // C `claim_ciu_action` (`rsrv/camessage.c`) forces
            // `pName[mp->m_postsize - 1] = '\0'` after rejecting
            // `m_postsize <= 1`. Effect: an unterminated name of
            // exactly `postsize` non-NUL bytes is treated as a
            // `postsize - 1` byte name. Pre-fix Rust used all
            // `payload.len()` bytes on the unterminated path, so a
            // malformed peer could resolve a different name than
            // rsrv would.
            let scan_end = payload.len().saturating_sub(1);
            let end = payload[..scan_end]
                .iter()
                .position(|&b| b == 0)
                .unwrap_or(scan_end);
            let client_cid = hdr.cid;
            let pv_name = &payload[..end];
            // C `claim_ciu_action` (`camessage.c:1242-1251`): a channel
            // `dbChannel_create` refuses is CREATE_CH_FAIL, and the sid is
            // claimed only after it succeeds (`casCreateChannel`).
            let created = epics_base_rs::server::database::channel_io::channel_create(
                db,
                pv_name,
                Some(peer),
            )
            .await;
            let epics_base_rs::server::database::channel_io::DbAccessChannel {
                target,
                filter_suffix,
                native_type: dbr_type,
                final_element_count: element_count,
                field_element_count,
                long_string_mode,
            } = match created {
                Ok(channel) => channel,
                Err(refusal) => {
                    let mut fail = CaHeader::new(CA_PROTO_CREATE_CH_FAIL);
                    fail.cid = client_cid;
                    writer.push(fail.to_bytes().to_vec());
                    let reason = match refusal {
                        CreateRefusal::NotFound
                        | CreateRefusal::Channel(ChannelCreateError::NotFound) => Some("not_found"),
                        CreateRefusal::Channel(ChannelCreateError::Filter(_)) => {
                            Some("filter_parse_fail")
                        }
                        CreateRefusal::Refused => None,
                    };
                    if let Some(reason) = reason {
                        state.audit("create_chan", pv_name, "", reason);
                    }
                    return Ok(Dispatched::Done);
                }
            };
            let sid = state.alloc_sid();

            // DoS guard: refuse new channels once an opt-in per-client
            // cap is hit, where C's `casCreateChannel` fails: after
            // `dbChannel_create`, with `RECORD_NAME(dbch)`
            // (`camessage.c:1264`). Default-unbounded (`None`) — C
            // `claim_ciu_action` imposes no per-client channel count
            // limit (see `max_channels_per_client`). When no cap is configured the
            // whole block is inert, so a legitimate large-fan-out client
            // (e.g. `caget` over thousands of PVs on one circuit) is never
            // refused at a fixed boundary.
            if let Some(cap) = max_channels_per_client() {
                // Pre-warning at 90% — fired once per crossing, not once per
                // CREATE_CHAN, to avoid log spam.
                let warn_threshold = (cap * 9) / 10;
                if !state.channel_limit_warned && state.channels.len() >= warn_threshold {
                    log_request(
                        state,
                        hdr,
                        &format!(
                            "approaching the channel limit: {} of {cap}",
                            state.channels.len()
                        ),
                    );
                    metrics::counter!("ca_server_channel_limit_warnings_total").increment(1);
                    state.channel_limit_warned = true;
                }
                if state.channels.len() >= cap {
                    metrics::counter!("ca_server_channel_limit_rejects_total").increment(1);
                    log_request(state, hdr, "no memory to create new channel");
                    // C parity: `claim_ciu_action` (rsrv/camessage.c:1256-1271)
                    // routes channel-allocation failure through
                    // `send_err(mp, ECA_ALLOCMEM, …)`, NOT
                    // CREATE_CH_FAIL. CREATE_CH_FAIL is reserved for the
                    // `dbChannel_create` (PV/field not found) branch
                    // (camessage.c:1242-1251). libca
                    // `exceptionRespAction` surfaces the ECA_ALLOCMEM
                    // status to the user-level callback so the client
                    // knows "server out of resources" vs CREATE_CH_FAIL's
                    // "PV does not exist on this server" — the existing
                    // Rust path conflated the two, leading clients to
                    // remove our address from their resolution cache on
                    // a transient server saturation. Per `vsend_err`'s
                    // switch, CA_PROTO_CREATE_CHAN falls to `default`
                    // and uses `0xffffffff` for `m_cid`.
                    send_ca_error(
                        writer,
                        hdr,
                        ECA_ALLOCMEM,
                        u32::MAX,
                        target.rsrv_record_name(),
                        state.client_minor_version(),
                    )?;
                    // C `claim_ciu_action` (camessage.c:1256-1271): when
                    // the server's channel-allocation pool is exhausted,
                    // send_err(ECA_ALLOCMEM) is followed by RSRV_ERROR
                    // which tears the connection down. The Rust per-
                    // client cap is the closest analogue: same root
                    // cause (this client requested more channels than
                    // the server is willing to hold) and the same
                    // ECA_ALLOCMEM wire byte. Match C by dropping the
                    // connection so a misbehaving client doesn't sit
                    // and spam CREATE_CHAN frames against a saturated
                    // cap; the next reconnect re-baselines.
                    return Err(epics_base_rs::error::CaError::Protocol(
                        "CREATE_CHAN per-client cap reached \
                             (matches C claim_ciu_action ECA_ALLOCMEM + RSRV_ERROR)"
                            .into(),
                    ));
                }
            }

            let (access, rule_was_trap) = state.compute_access(&target).await;
            let access_level = match access {
                3 => AccessLevel::ReadWrite,
                1 => AccessLevel::Read,
                _ => AccessLevel::NoAccess,
            };

            let shared_name: Arc<[u8]> = pv_name.into();
            state.channels.insert(
                sid,
                ChannelEntry {
                    target,
                    cid: client_cid,
                    pv_name: shared_name.clone(),
                    filter_suffix: filter_suffix.clone(),
                    put_notify_slot: PutNotifySlot::default(),
                    long_string_mode,
                    // The post-filter capacity computed above and
                    // announced in the CREATE_CHAN reply — the ceiling
                    // a later request's element count is clamped to.
                    final_element_count: element_count,
                    field_element_count,
                    subscriptions: Vec::new(),
                },
            );
            state.channel_access.insert(sid, access_level);
            // keep the trap-mask map in lockstep with
            // `channel_access` so `lookup_access` always finds a
            // consistent pair for this SID.
            state.channel_trap.insert(sid, rule_was_trap);

            let mut ar = CaHeader::new(CA_PROTO_ACCESS_RIGHTS);
            ar.cid = client_cid;
            ar.available = access;

            // C `claim_ciu_reply` (camessage.c:1157-1164): clients
            // whose minor version is below CA_V49 (= 9) cannot parse
            // extended-form headers. For those peers, `nElem` is
            // capped at 0xfffe so the CREATE_CHAN reply stays in
            // normal-form (16-byte) layout; V4.9+ clients receive
            // the true count via the extended header.
            let nelem = if state.client_minor_version() < 9 && element_count >= 0xffff {
                0xfffe
            } else {
                element_count
            };
            let mut resp = CaHeader::new(CA_PROTO_CREATE_CHAN);
            resp.data_type = dbr_type.ca_wire_type();
            resp.cid = client_cid;
            resp.available = sid;
            resp.set_payload_size(0, nelem, state.client_minor_version())
                .expect("nelem is capped at 0xfffe for pre-V49 clients above");

            // Two independent, complete frames (ACCESS_RIGHTS then
            // CREATE_CHAN); push in order. FIFO drain preserves the
            // access-rights-before-create ordering C emits.
            writer.push(ar.to_bytes().to_vec());
            writer.push(resp.to_bytes_extended().to_vec());

            let result = match access_level {
                AccessLevel::NoAccess => "denied",
                _ => "ok",
            };
            state.audit("create_chan", pv_name, "", result);

            // Notify subscribers (e.g. ca_gateway tracking PV → client
            // attachments for `Active`/`Inactive` state transitions).
            // `cid` is included so consumers can refcount per
            // (peer, pv_name, cid) — same client opening N channels
            // to the same PV must increment N times.
            if let Some(tx) = &conn_events {
                let _ = tx.send(ServerConnectionEvent::ChannelCreated {
                    peer,
                    pv_name: shared_name,
                    cid: client_cid,
                });
            }
        }

        CA_PROTO_READ | CA_PROTO_READ_NOTIFY => {
            let is_notify = hdr.cmmd == CA_PROTO_READ_NOTIFY;
            let sid = hdr.cid;
            let ioid = hdr.available;
            let requested_type = hdr.data_type;
            let mut requested_count = hdr.actual_count();

            // A simple PV's channel is PCAS's, which verifies the request
            // before anything else (`readAction`, `readNotifyAction`).
            if let Err(refusal) =
                pcas_verify_request(state, hdr, state.client_minor_version() >= 13)
            {
                return answer_pcas_refusal(writer, hdr, state, refusal).map(|()| Dispatched::Done);
            }

            // the two read commands differ in WHERE the
            // `INVALID_DB_REQ(m_dataType)` type check sits relative to
            // the channel lookup.
            //
            // C `read_notify_action` (`rsrv/camessage.c:695-697`) checks
            // the type BEFORE the lookup and returns RSRV_ERROR with no
            // wire frame, so READ_NOTIFY is handled here, silently.
            //
            // C `read_action` (`rsrv/camessage.c:601-616`) resolves the
            // channel FIRST (`if(!pciu){logBadId;return}` — `logBadId`
            // sends an ECA_INTERNAL "Bad Resource ID" frame with a
            // cid=0xFFFFFFFF sentinel) and only THEN, if the type is
            // invalid, sends ECA_BADTYPE carrying the channel's real cid
            // + record name. So the deprecated-READ bad-type frame must
            // be gated on the channel existing: it is emitted below,
            // after the lookup, never with a `u32::MAX` sentinel here.
            // Otherwise an unknown SID + bad type drew a spurious
            // ECA_BADTYPE where C sends the bad-SID ECA_INTERNAL frame.
            //
            // `LAST_BUFFER_TYPE = 38` (caProto.h); request types above
            // that are not encodable.
            const LAST_BUFFER_TYPE: u16 = 38;
            if is_notify && requested_type > LAST_BUFFER_TYPE {
                return Err(epics_base_rs::error::CaError::Protocol(format!(
                    "READ_NOTIFY with unsupported DBR type {} > LAST_BUFFER_TYPE \
                     (matches C read_notify_action INVALID_DB_REQ RSRV_ERROR)",
                    requested_type
                )));
            }

            let entry = match state.channels.get(&sid) {
                Some(e) => e,
                None => {
                    // C `read_action` (camessage.c:608-611) and
                    // `read_notify_action` (707-711) bad-SID:
                    // `if (!pciu) { logBadId; return RSRV_ERROR; }`.
                    // `logBadId` (camessage.c:307-320) is NOT log-only —
                    // it calls `send_err(ECA_INTERNAL, "Bad Resource ID
                    // at %s.%d")`, buffering a CA_PROTO_ERROR frame that
                    // camsgtask.c:142-143 flushes ("flush any queued messages
                    // before shutdown") before the disconnect. Since
                    // `MPTOPCIU` returned NULL, `vsend_err` stamps
                    // cid=0xFFFFFFFF (camessage.c:162-168). So C emits one
                    // ECA_INTERNAL frame, then drops the connection.
                    send_bad_resource_id(
                        writer,
                        hdr,
                        if hdr.cmmd == CA_PROTO_READ_NOTIFY {
                            LogBadId::ReadNotify
                        } else {
                            LogBadId::Read
                        },
                        state,
                    )?;
                    return Err(epics_base_rs::error::CaError::Protocol(format!(
                        "READ on unknown SID {} (matches C read_action logBadId + RSRV_ERROR)",
                        sid
                    )));
                }
            };

            // PR #934 (epics-base) parity: clamp the wire element count to
            // the channel's final element count so an oversized `m_count`
            // cannot drive the reply zero-fill (`size_dbr_reply`)
            // past the channel's real capacity. C `read_action`
            // (`camessage.c`) / `read_notify_action`:
            // `if (mp->m_count > dbChannelFinalElements(pciu->dbch))
            //     mp->m_count = dbChannelFinalElements(pciu->dbch);`.
            // `requested_count == 0` is autosize and is preserved untouched.
            if requested_count != 0 && requested_count > entry.final_element_count {
                requested_count = entry.final_element_count;
            }

            // Deprecated READ: C `read_action` (`rsrv/camessage.c:616-619`)
            // checks `INVALID_DB_REQ` AFTER resolving the channel and
            // BEFORE the access check, sending ECA_BADTYPE with the
            // channel's real cid + record name (`vsend_err` uses
            // `pciu->cid`). READ_NOTIFY already returned above (its type
            // check is pre-lookup and silent), so reaching here with a
            // bad type means the deprecated READ command.
            // `LAST_BUFFER_TYPE = 38`.
            if requested_type > LAST_BUFFER_TYPE {
                let record_name = entry.target.rsrv_record_name();
                send_ca_error(
                    writer,
                    hdr,
                    ECA_BADTYPE,
                    entry.cid,
                    record_name,
                    state.client_minor_version(),
                )?;
                return Err(epics_base_rs::error::CaError::Protocol(format!(
                    "READ with unsupported DBR type {} > LAST_BUFFER_TYPE \
                     (matches C read_action INVALID_DB_REQ ECA_BADTYPE)",
                    requested_type
                )));
            }

            // C `read_action` and `read_reply` frame the header from the
            // request before the access check and the get
            // (`camessage.c:629-638`, `:510-528`); a READ_NOTIFY autosize
            // stands for every element of the field.
            let item_count = match requested_count {
                0 if is_notify => entry.field_element_count,
                n => n,
            };
            if crate::server::frame::header_refused(
                requested_type,
                item_count,
                state.client_minor_version(),
            ) {
                return send_16k_array_client_err(
                    writer,
                    hdr,
                    entry.refusal_channel(),
                    if is_notify {
                        UnloadedReply::ReadReply
                    } else {
                        UnloadedReply::Read
                    },
                    item_count,
                    state.client_minor_version(),
                )
                .map(|()| Dispatched::Done);
            }

            // Type-state:
            // `state.lookup_access(sid)` is the only path to the
            // access cache. `require_read()` returns a witness on
            // success and an `AccessDenied` carrying the matching
            // ECA code on failure — no `if access ==` ad-hoc
            // comparison, no missing-entry default to argue about.
            let _read_grant = match state.lookup_access(sid).require_read() {
                Ok(g) => g,
                Err(denied) => {
                    if is_notify {
                        // C `read_notify_action` →
                        // `read_reply` → `no_read_access_event`
                        // (`rsrv/camessage.c:450-480`) builds a
                        // CA_PROTO_READ_NOTIFY frame with the
                        // ORIGINAL requested count and a
                        // `dbr_size_n`-sized zero payload, abusing
                        // `m_cid` to carry the ECA status. Pre-fix
                        // Rust used `send_cmd_error` which always
                        // emits `count = 0` + zero-byte payload — a
                        // libca-style client validating callback
                        // metadata saw the wrong shape for the same
                        // no-read-access `caget` path. The helper
                        // mirrors the C wire format.
                        send_no_read_access_event(
                            writer,
                            entry.refusal_channel(),
                            StatusEvent {
                                cmd: CA_PROTO_READ_NOTIFY,
                                data_type: requested_type,
                                count: requested_count,
                                available: ioid,
                                eca_status: denied.eca_code(),
                            },
                            ReplyContext {
                                req_hdr: *hdr,
                                client_minor: state.client_minor_version(),
                            },
                        )?;
                    } else {
                        // C `read_action` (`rsrv/camessage.c:636-642`)
                        // sends `send_err(mp, ECA_NORDACCESS, client,
                        // RECORD_NAME(pciu->dbch))` — i.e.
                        // CA_PROTO_ERROR — for the deprecated
                        // CA_PROTO_READ on read denial. Pre-fix Rust
                        // silently returned, so a libca client saw a
                        // timeout instead of the C error callback.
                        // outer cid is `pciu->cid` per
                        // `vsend_err` (camessage.c:162-165).
                        let record_name = entry.target.rsrv_record_name();
                        send_ca_error(
                            writer,
                            hdr,
                            denied.eca_code(),
                            entry.cid,
                            record_name,
                            state.client_minor_version(),
                        )?;
                    }
                    return Ok(Dispatched::Done);
                }
            };

            let read = ReadRequest {
                hdr: *hdr,
                count: requested_count,
            };
            // PCAS `readAction` (`casStrmClient.cc:450-480`): a read the PV
            // answers now is replied to now; one it cannot — a no-cache
            // gateway GET, or a gateway PV still waiting for its first event
            // (`S_casApp_asyncCompletion`) — completes later through
            // `casAsyncReadIOI`, and the circuit serves its next request
            // meanwhile. A channel with a read still parked parks this one
            // too, so one channel's replies leave in request order.
            #[cfg(tokio_backend)]
            if let Some(reactor) = delivery.spawn_on() {
                if !state.parked_reads.holds(sid) {
                    if let Some(snapshot) = try_get_read_snapshot_local(db, &entry.target) {
                        return answer_read(
                            writer,
                            &read,
                            entry,
                            Ok(snapshot),
                            state.client_minor_version(),
                        )
                        .map(|()| Dispatched::Done);
                    }
                }
                let db = Arc::clone(db);
                let target = entry.target.clone();
                state.parked_reads.park(reactor, sid, read, async move {
                    get_read_snapshot(&db, &target).await
                });
                return Ok(Dispatched::Done);
            }
            // Only gateway PVs (read hook, pending) park, and the gateway is
            // tokio-only as C's is PROD_HOST (ca-gateway/src/Makefile:93), so
            // a HandOff driver refuses a read it cannot answer now.
            let Some(snapshot) = try_get_read_snapshot_local(db, &entry.target) else {
                return Err(epics_base_rs::error::CaError::Protocol(
                    "READ went async on a hand-off driver, which has no completion owner".into(),
                ));
            };
            answer_read(
                writer,
                &read,
                entry,
                Ok(snapshot),
                state.client_minor_version(),
            )?;
        }

        CA_PROTO_WRITE | CA_PROTO_WRITE_NOTIFY => {
            // Thin caller: the shared wire logic (SID/type/access gates, payload
            // convert, the DB write, trap-write bracket, sync/error replies) lives
            // in `serve_write_head` — ONE copy, shared with the blocking RTEMS
            // driver. Only the async-completion handling differs per front-end:
            // here the async server spawns a task to await the record's chain and
            // send the deferred WRITE_NOTIFY reply; the blocking driver hands the
            // receiver to its event thread. Wire behavior is unchanged.
            let outcome = serve_write_head(hdr, payload, state, db, writer).await?;
            return queue_write_outcome(outcome, state, writer, &delivery);
        }

        CA_PROTO_EVENT_ADD => {
            // Thin caller: the parity logic lives in `register_subscription`
            // (shared with the blocking RTEMS driver). Async mode enables the
            // monitor on the circuit's event task and this arm records it in
            // `state.subscriptions`.
            let sid = hdr.cid;
            if let Some(reactor) = delivery.spawn_on() {
                state.start_circuit_monitors(writer, reactor);
            }
            let channel_sub_count = || {
                state
                    .subscriptions
                    .values()
                    .filter(|s| s.channel_sid == sid)
                    .count()
            };
            match register_subscription(
                hdr,
                payload,
                state,
                writer,
                delivery.clone(),
                channel_sub_count,
            )
            .await?
            {
                SubscriptionOutcome::HandedOff(_) => {
                    unreachable!(
                        "a driver that passes HandOff must not route EVENT_ADD through \
                         dispatch_message; it has no event thread here to multiplex on"
                    )
                }
                // The destruction's wake-up runs the sweep that retires it.
                SubscriptionOutcome::Refused | SubscriptionOutcome::ChannelGone => {}
                SubscriptionOutcome::Circuit(s) => {
                    // C `event_add_action` links the new `event_ext` onto
                    // `pciu->eventq` (`camessage.c:1846`): the channel is what
                    // knows its monitors, so CLEAR_CHANNEL can cancel them.
                    state.link_subscription(
                        s.channel_sid,
                        ChannelMonitor {
                            sub_id: s.sub_id,
                            monitor: s.monitor.clone(),
                            id: s.reader.id(),
                        },
                    );
                    state.subscriptions.insert(
                        s.reader.id(),
                        SubscriptionEntry {
                            sub_id: s.sub_id,
                            target: s.target,
                            channel_sid: s.channel_sid,
                            data_type: s.data_type,
                            data_count: s.data_count,
                            monitor: s.monitor,
                            reader: s.reader,
                        },
                    );
                    if let Some(tx) = conn_events {
                        let pv_name = state
                            .channels
                            .get(&s.channel_sid)
                            .map(|e| e.pv_name.clone())
                            .unwrap_or_default();
                        let _ = tx.send(ServerConnectionEvent::SubscriptionOpened {
                            peer,
                            pv_name,
                            sub_id: s.sub_id,
                            mask: s.mask,
                        });
                    }
                }
            }
        }

        CA_PROTO_EVENT_CANCEL => {
            // Thin caller: the bad-SID / bad-mon-id / cancel-ACK wire logic lives
            // in `cancel_subscription_reply` (shared with the blocking driver).
            // On success this arm performs the async teardown (abort the producer
            // task, drop the subscriber, emit the close event).
            let sub_id = hdr.available;
            let sub_info = state
                .find_subscription(hdr.cid, sub_id)
                .and_then(|id| state.subscriptions.get(&id).map(|s| (id, s)))
                .map(|(id, s)| CancelInfo {
                    id,
                    channel_sid: s.channel_sid,
                    data_type: s.data_type,
                    data_count: s.data_count,
                    monitor: s.monitor.clone(),
                });
            let id = cancel_subscription_reply(hdr, state, writer, sub_info)?;
            // C `event_cancel_reply` unlinks the `event_ext` from
            // `pciu->eventq` before `db_cancel_event` (`camessage.c:2061`).
            state.unlink_subscription(hdr.cid, id);
            if let Some(sub) = state.subscriptions.remove(&id) {
                let id = sub.reader.id();
                drop(sub.reader);
                match &sub.target {
                    ChannelTarget::SimplePv(pv) => {
                        pv.remove_subscriber(id);
                    }
                    ChannelTarget::RecordField { record, .. } => {
                        record.write().remove_subscriber(id);
                    }
                }
                if let Some(tx) = conn_events {
                    let pv_name = state
                        .channels
                        .get(&sub.channel_sid)
                        .map(|e| e.pv_name.clone())
                        .unwrap_or_default();
                    let _ = tx.send(ServerConnectionEvent::SubscriptionClosed {
                        peer,
                        pv_name,
                        sub_id,
                    });
                }
            }
        }

        CA_PROTO_EVENTS_OFF | CA_PROTO_EVENTS_ON => {
            // C `db_event_flow_ctrl_mode_on/off` on this circuit's event user
            // (`camessage.c:425-440`). Under EVENTS_OFF each post replaces the
            // monitor's last queued entry in place and readers suspend once the
            // queue holds no duplicates — the queue owns both rules.
            if hdr.cmmd == CA_PROTO_EVENTS_OFF {
                state.event_user.flow_ctrl_on();
            } else {
                state.event_user.flow_ctrl_off();
            }
        }

        CA_PROTO_READ_SYNC => {
            // C `read_sync_reply` (camessage.c:2053-2067): server
            // echoes the request header back with cmmd=CA_PROTO_READ_SYNC,
            // m_postsize=0, and the request's m_dataType / m_count /
            // m_cid / m_available preserved. libca client treats this
            // as ECHO (`cac.cpp:72-73`: "legacy READ_SYNC used as
            // echo with legacy server" — dispatched through
            // echoRespAction). Without the reply, a client using
            // READ_SYNC as a keepalive probe (legacy V3 / pre-V4.3
            // protocol behavior) sees no response and may trigger
            // its connection-timeout watchdog.
            //
            // The outer batched flush still fires, so any prior queued
            // responses ship along with this echo — preserving the
            // barrier semantic. Pre-fix Rust silently no-op-ed; this
            // restores wire parity.
            let Ok(frame) = copy_in_header(
                CA_PROTO_READ_SYNC,
                hdr.data_type,
                hdr.actual_count(),
                hdr.cid,
                hdr.available,
                &[],
                state.client_minor_version(),
            ) else {
                // `read_sync_reply` (`camessage.c:2111-2116`).
                return Err(epics_base_rs::error::CaError::Protocol(format!(
                    "READ_SYNC count {} needs an extended header (C read_sync_reply RSRV_ERROR)",
                    hdr.actual_count()
                )));
            };
            writer.push(frame);
        }

        CA_PROTO_ECHO => {
            // C `tcp_echo_action` (`rsrv/camessage.c:405-420`) echoes
            // the *full* request back to the client — same m_cmmd,
            // m_postsize, m_dataType, m_count, m_cid, m_available, and
            // the m_postsize-byte payload. Real clients (libca
            // `tcpiiu::echoRequest`) issue zero-payload echos with
            // every field zero, in which case our previous
            // `CaHeader::new(CA_PROTO_ECHO).to_bytes()` happened to be
            // byte-identical to C. But a diagnostic / probe client
            // that sends ECHO with a marker payload (e.g. to measure
            // RTT or to verify the server isn't a TCP transparent
            // proxy) gets a stripped, all-zero reply from us — wire
            // divergence that breaks the documented round-trip
            // semantics.
            //
            // Abort-safety: header and payload are ONE frame in a single
            // `push`, so a `send_timeout` cancel can never enqueue an orphan
            // header for the connection loop to write.
            //
            // A pre-V49 client's 16-bit count of 0xffff needs the extended
            // form it cannot parse; C sends nothing and keeps the circuit
            // (`camessage.c:416-424`).
            if let Ok(frame) = copy_in_header(
                CA_PROTO_ECHO,
                hdr.data_type,
                hdr.actual_count(),
                hdr.cid,
                hdr.available,
                payload,
                state.client_minor_version(),
            ) {
                writer.push(frame);
            }
        }

        CA_PROTO_SEARCH => {
            // C `search_reply_tcp` (`camessage.c:2238-2241`) gates on the
            // SEARCH frame's own `m_count` and answers `RSRV_ERROR`, which
            // tears the circuit down. The searcher's version rides in the
            // frame because a SEARCH is not bound to the handshake that
            // opened the circuit; reading the negotiated version here served
            // an ancient searcher a v4.13 reply it cannot parse whenever some
            // other peer's handshake had raised the circuit.
            if !declares_supported_version(hdr) {
                return Err(epics_base_rs::error::CaError::Protocol(format!(
                    "TCP SEARCH declaring minor {} (< {CA_MINIMUM_SUPPORTED_VERSION}) — \
                     C search_reply_tcp RSRV_ERROR parity",
                    hdr.actual_count()
                )));
            }
            // C `search_reply_tcp` (rsrv/camessage.c:2297-2301) rejects
            // SEARCH whose `m_postsize <= 1` with `log_header` and returns
            // RSRV_OK, so an empty-name SEARCH burst cannot drive
            // `db.has_name("")` per frame nor a NOT_FOUND reply.
            if hdr.postsize <= 1 {
                log_request(state, hdr, crate::server::udp::EMPTY_PV_NAME);
                return Ok(Dispatched::Done);
            }
            // C `search_reply_tcp` forces NUL at postsize-1.
            let scan_end = payload.len().saturating_sub(1);
            let end = payload[..scan_end]
                .iter()
                .position(|&b| b == 0)
                .unwrap_or(scan_end);
            let pv_name = &payload[..end];

            // Thread the connection peer into the existence check just
            // like TCP CREATE_CHANNEL (`find_entry_from(.., Some(peer))`)
            // and UDP SEARCH (`has_name_from(.., Some(src))`). Without it
            // the CA gateway resolver received `peer: None` and skipped
            // host-scoped `.pvlist` `DENY FROM host` admission, so a denied
            // host's TCP SEARCH could resolve (and lazily instantiate) a
            // PV the pvlist forbids — parity with C `pvExistTest` passing
            // the client host to `gateAs::findEntry`.
            if db.has_name_from(pv_name, Some(peer)).await {
                // C parity: `search_reply_tcp`
                // (`rsrv/camessage.c:2275-2277`) sends:
                //   m_postsize  = 0  (no payload — TCP search reply
                //                 carries no minor-version trailer,
                //                 unlike UDP)
                //   m_dataType  = ca_server_port (carries the port)
                //   m_count     = 0
                //   m_cid       = ~0U (INADDR_BROADCAST — tells client
                //                 to use TCP peer addr as server IP;
                //                 libca `tcpiiu::searchRespNotify`
                //                 explicitly checks `msg.m_cid !=
                //                 INADDR_BROADCAST` and falls back to
                //                 `this->address()` on the sentinel)
                //   m_available = client's m_available (the cid)
                //
                // The previous code wrote `m_cid = 0` (INADDR_ANY) and
                // an 8-byte minor-version payload. C libca client at
                // `tcpiiu.cpp:2209` treats anything != INADDR_BROADCAST
                // as a literal IP, so `m_cid = 0` would surface as a
                // server at 0.0.0.0:port — unroutable. With this fix
                // the reply is now byte-equivalent to the C softIoc.
                let mut resp = CaHeader::new(CA_PROTO_SEARCH);
                resp.data_type = state.tcp_port;
                resp.set_payload_size(0, 0, state.client_minor_version())
                    .expect("a zero-payload, zero-count reply is never extended");
                resp.cid = u32::MAX; // ~0U — "use TCP peer addr"
                resp.available = hdr.available;

                writer.push(resp.to_bytes().to_vec());
            } else if hdr.data_type == CA_DO_REPLY {
                // Explicit negative reply requested — send NOT_FOUND so
                // the client doesn't have to wait for a search timeout.
                //
                // C parity: `search_fail_reply` (rsrv/camessage.c:2075-2089)
                // copies the request's `m_dataType`/`m_count`/`m_cid`/
                // `m_available` verbatim into the response. The previous
                // Rust path overwrote `count` with the server's
                // CA_MINOR_VERSION and `cid` with the request's
                // `m_available` (which happens to equal `m_cid` for
                // libca search frames, but the parity intent is
                // "echo m_cid"). With this fix the reply is byte-
                // equivalent to a C softIoc fail reply.
                match copy_in_header(
                    CA_PROTO_NOT_FOUND,
                    hdr.data_type,
                    hdr.actual_count(),
                    hdr.cid,
                    hdr.available,
                    &[],
                    state.client_minor_version(),
                ) {
                    Ok(frame) => writer.push(frame),
                    // `camessage.c:2133-2139`, `__FILE__`/`__LINE__` as softIoc
                    // prints them; the circuit stays.
                    Err(ExtendedHeaderUnsupported) => epics_base_rs::runtime::log::errlog_printf(
                        "../rsrv/camessage.c at 2138: should always get sufficient space for \
                         search fail reply?\n",
                    ),
                }
            }
            // Otherwise silent — clients without CA_DO_REPLY treat absence
            // as "this server doesn't have it" and move on.
        }

        CA_PROTO_CLEAR_CHANNEL => {
            let sid = hdr.cid;
            let cid = hdr.available;
            // C `clear_channel_reply` (camessage.c:1883-1887)
            // disconnects on a bad SID via `logBadId` + RSRV_ERROR;
            // `logBadId` emits an ECA_INTERNAL "Bad Resource ID" frame
            // (cid=0xFFFFFFFF) flushed before the close. Channels in this
            // Rust state are per-client by construction, so the "foreign
            // channel" sub-case of the C check (`pciu->client != client`)
            // can't happen — the only failure mode is unknown SID.
            // Pre-fix Rust silently skipped without disconnecting,
            // so a probing peer could send CLEAR_CHANNEL on random
            // SIDs indefinitely.
            if !state.channels.contains_key(&sid) {
                if let Some(&elements) = state.retired.get(&sid) {
                    let refusal = PcasRefusal {
                        status: ECA_BADCHID,
                        cid: 0xFFFF_FFFF,
                        elements,
                    };
                    return answer_pcas_refusal(writer, hdr, state, refusal)
                        .map(|()| Dispatched::Done);
                }
                send_bad_resource_id(writer, hdr, LogBadId::ClearChannel, state)?;
                return Err(epics_base_rs::error::CaError::Protocol(format!(
                    "CLEAR_CHANNEL on unknown SID {} (matches C clear_channel_reply logBadId + RSRV_ERROR)",
                    sid
                )));
            }
            if destroy_channel(state, sid, peer, conn_events).is_some() {
                let Ok(frame) = copy_in_header(
                    CA_PROTO_CLEAR_CHANNEL,
                    hdr.data_type,
                    hdr.actual_count(),
                    sid,
                    cid,
                    &[],
                    state.client_minor_version(),
                ) else {
                    // `clear_channel_reply` (`camessage.c:1966-1971`); the
                    // teardown takes the rest of the circuit's channels.
                    return Err(epics_base_rs::error::CaError::Protocol(format!(
                        "CLEAR_CHANNEL count {} needs an extended header (C clear_channel_reply \
                         RSRV_ERROR)",
                        hdr.actual_count()
                    )));
                };
                writer.push(frame);
            }
        }

        _ => {
            // The arms above are every `is_legal_tcp_command` opcode and the
            // receive gate tears down the rest, so only a routing table that
            // fell behind the protocol lands here; C has no such opcode, and
            // its answer to any unhandled one is `bad_tcp_cmd_action`.
            return Err(refuse_bad_tcp_command(
                writer,
                hdr,
                peer,
                state.channel_addr(hdr.cid),
                state.client_minor_version(),
            ));
        }
    }

    Ok(Dispatched::Done)
}
/// What a WRITE / WRITE_NOTIFY head left for the async server's loop: an
/// async put callback goes on the circuit's completion queue.
fn queue_write_outcome(
    outcome: WriteHeadOutcome,
    state: &mut ClientState,
    writer: &Outbox,
    delivery: &SubscriptionDelivery,
) -> CaResult<Dispatched> {
    match outcome {
        WriteHeadOutcome::Done => {}
        WriteHeadOutcome::Postponed(blocked) => return Ok(Dispatched::Postponed(blocked)),
        WriteHeadOutcome::AsyncPending(pending) => {
            // Registration and the ECA_PUTCBINPROG rule both live in
            // `serve_write_head`; all this loop owes the put-callback is
            // to put it on the circuit's completion queue. Waiting for
            // it, and framing the reply, belong to that queue's single
            // owner — one task per put-callback is what left two
            // completions that reported together to race for the outbox.
            match delivery.spawn_on() {
                Some(reactor) => state.write_notify_queue(writer, reactor).queue(pending),
                None => {
                    // The shipped blocking driver never gets here: it
                    // answers WRITE/WRITE_NOTIFY in its own arm and
                    // hands the completion to its event thread, which
                    // is why WRITE_NOTIFY is absent from
                    // `command_drives_without_spawn`. A HandOff caller
                    // that does route it here has no completion owner
                    // at all, so the put-callback could never be
                    // answered — same class as that driver's own
                    // "WRITE head not blockable" refusal.
                    return Err(epics_base_rs::error::CaError::Protocol(
                        "WRITE_NOTIFY went async on a hand-off driver, which has no \
                         completion owner"
                            .into(),
                    ));
                }
            }
        }
    }
    Ok(Dispatched::Done)
}

/// Serve the put callback a [`Blocked::PutNotify`] held, from where it was
/// held ([`resume_write`]), as [`dispatch_message`] serves a fresh one.
pub(crate) async fn resume_dispatch(
    hdr: &CaHeader,
    payload: &[u8],
    put: AdmittedPut,
    state: &mut ClientState,
    db: &Arc<PvDatabase>,
    writer: &Outbox,
    delivery: SubscriptionDelivery,
) -> CaResult<Dispatched> {
    let outcome = resume_write(hdr, payload, put, state, db, writer).await?;
    queue_write_outcome(outcome, state, writer, &delivery)
}

/// A wire `data_type` that a `CA_PROTO_WRITE` / `CA_PROTO_WRITE_NOTIFY` may
/// legally carry, split by what this server can do with it.
///
/// The out-of-range case is deliberately not a variant: [`Self::classify`]
/// returns `None` for it, so a value of this type only exists once the frame
/// has passed C's protocol bound and the circuit is no longer at risk.
///
/// C's bound is `LAST_BUFFER_TYPE` (= `DBR_CLASS_NAME`, 38), applied in
/// `write_notify_action` (`rsrv/camessage.c:1647`, spelled `m_dataType >
/// LAST_BUFFER_TYPE` at the pin and `INVALID_DB_REQ` after `4128a7c07`) and by
/// `caNetConvert` (`ca/src/client/convert.cpp:1421`) on the `write_action`
/// path. Anything above it is a protocol violation and RSRV drops the circuit;
/// anything at or below it keeps the circuit whatever the put then does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AcceptedWriteType {
    /// 0..=6 — a native DBR the payload decoder converts directly.
    Native(DbFieldType),
    /// 7..=34 — a value preceded by metadata (`DBR_STS_*`, `DBR_TIME_*`,
    /// `DBR_GR_*`, `DBR_CTRL_*`), carrying the base native type it decodes to.
    ///
    /// On `CA_PROTO_WRITE` C writes these: `dbChannel_put`
    /// (`db/db_access.c:820`) skips the metadata header and puts the `.value`
    /// member, discarding the status/severity/timestamp the client sent —
    /// which are unwritable by any path anyway (`.TIME` is `DBF_NOACCESS`,
    /// `STAT`/`SEVR`/`UTAG` are `SPC_NOMOD`). On `CA_PROTO_WRITE_NOTIFY` even
    /// C fails the put: `mapOldType` (`db_access.c:986-1023`) maps only the native
    /// types and returns -1 for these, which `db_put_process` turns into
    /// `notifyError` → `ECA_PUTFAIL`.
    Compound,
    /// 35/36 (`DBR_PUT_ACKT`, `DBR_PUT_ACKS`) to a simple PV; a record's
    /// never reach the classifier — the alarm-acknowledge branch takes them.
    AlarmAck(epics_base_rs::server::record::AlarmAck),
    /// 37/38 (`DBR_STSACK_STRING`, `DBR_CLASS_NAME`) — inside C's protocol
    /// bound but outside `dbChannel_put`'s switch, so its `default:` arm
    /// returns -1 and the put fails on both opcodes.
    MetadataOnly,
}

/// The text of the error a write the access check refused carries: rsrv's
/// record name (camessage.c:771-781), pcas's fixed string
/// (casStrmClient.cc:1067-1077).
fn write_denied_text(target: &ChannelTarget) -> &[u8] {
    match target {
        ChannelTarget::SimplePv(_) => b"write access denied",
        ChannelTarget::RecordField { record, .. } => record.name(),
    }
}

/// The status a simple PV's server fails a put of `data_type` with before the
/// PV sees the value: pcas `write()` refuses every buffer with a metadata
/// header (`dbr_value_offset`, casStrmClient.cc:2419-2422), and ca-gateway's
/// `write()` a class name (gateVc.cc:1446-1458).
fn simple_pv_refusal(data_type: u16) -> Option<epics_base_rs::error::DbStatus> {
    use epics_base_rs::error::DbStatus;
    use epics_base_rs::types::{
        DBR_CLASS_NAME, DBR_CTRL_DOUBLE, DBR_STS_STRING, DBR_STSACK_STRING,
    };
    match data_type {
        DBR_STS_STRING..=DBR_CTRL_DOUBLE | DBR_STSACK_STRING => Some(DbStatus::CAS_BAD_TYPE),
        DBR_CLASS_NAME => Some(DbStatus::CAS_APP_NO_SUPPORT),
        _ => None,
    }
}

impl AcceptedWriteType {
    /// `None` for a `data_type` above C's `LAST_BUFFER_TYPE` — the caller must
    /// answer `ECA_BADTYPE` and drop, as RSRV does.
    fn classify(data_type: u16) -> Option<Self> {
        if let Ok(native) = DbFieldType::from_u16(data_type) {
            return Some(Self::Native(native.wire_carrier()));
        }
        use epics_base_rs::server::record::AlarmAck;
        match data_type {
            epics_base_rs::types::DBR_PUT_ACKT => return Some(Self::AlarmAck(AlarmAck::Transient)),
            epics_base_rs::types::DBR_PUT_ACKS => return Some(Self::AlarmAck(AlarmAck::Severity)),
            _ => {}
        }
        if data_type > epics_base_rs::types::LAST_BUFFER_TYPE {
            return None;
        }
        // `native_type_for_dbr` names a base type for every code up to the
        // bound, so the upper limit — not the lookup — is what separates the
        // types `dbChannel_put` writes from the ones it drops into `default:`.
        Some(match epics_base_rs::types::native_type_for_dbr(data_type) {
            Ok(_) if data_type <= epics_base_rs::types::DBR_CTRL_DOUBLE => Self::Compound,
            _ => Self::MetadataOnly,
        })
    }

    /// The value this WRITE payload puts, in the carrier `dbChannel_put`
    /// gives it. `None` for [`Self::MetadataOnly`]: those buffers carry no
    /// value member.
    ///
    /// Both arms take the carrier from
    /// [`DbFieldType::wire_carrier`](epics_base_rs::types::DbFieldType::wire_carrier)
    /// — `classify` composes it for the native codes and `decode_dbr` for
    /// the compound ones — so the CHAR row cannot answer differently here
    /// than it does on the client's read and monitor paths.
    ///
    /// That row is where C's two maps disagree: `dbChannel_put`
    /// (`db/db_access.c:820-983`) puts `oldDBR_CHAR` — and each of its
    /// `STS_`/`TIME_`/`GR_`/`CTRL_` compounds, and `mapOldType` (`:986-1023`) on
    /// the WRITE_NOTIFY path — as `DBR_UCHAR`, so the widening row it
    /// reaches is `putUcharLong` (`dbConvert.c`, `PUT` body
    /// `*pdst = (typeb) *psrc`) and 0xC8 widens to 200; the signed
    /// `putCharLong` is unreachable from CA.
    fn decode(self, data_type: u16, payload: &[u8], count: usize) -> Option<CaResult<EpicsValue>> {
        Some(match self {
            Self::Native(native) => EpicsValue::from_bytes_array(native, payload, count),
            // C `dbChannel_put`'s per-type arms are a header skip plus a put
            // of the base type. `decode_dbr` performs exactly that skip — one
            // owner for the compound layouts, shared with the read/monitor
            // path, and bounds-checked where C casts the struct unchecked.
            Self::Compound => epics_base_rs::types::decode_dbr(data_type, payload, count)
                .map(|snapshot| snapshot.value),
            Self::AlarmAck(_) => EpicsValue::from_bytes_array(DbFieldType::Short, payload, count),
            Self::MetadataOnly => return None,
        })
    }
}

/// What the put stage does with a frame that has cleared both gates.
///
/// Both variants are *put results*, reached only after the trap-write bracket
/// is armed: C runs `asTrapWriteWithData` before `dbChannel_put` /
/// `dbProcessNotify` unconditionally (`rsrv/camessage.c:768-773`, `:1795-1802`), so
/// a put-log listener sees the attempt whether or not the buffer type has a
/// put arm. Deciding refusal *here* rather than at the type gate is what keeps
/// that bracket around it.
enum PutPlan {
    /// Hand `write` to the record or PV. The decoded value carries its own
    /// native type — the buffer's own for a native put, the compound buffer's
    /// base type once `decode_dbr` has skipped its metadata header — so no
    /// separate type travels with it.
    Write {
        write: epics_base_rs::server::pv::PvWrite,
    },
    /// `dbChannel_put` has no arm for this buffer type, so the put fails with
    /// `ECA_PUTFAIL` on either opcode. `logged_value` is what the put-log
    /// renders: C hands `asTrapWriteWithData` the converted payload, which
    /// carries a value for a compound buffer and none for the metadata-only
    /// types.
    Refuse { logged_value: Option<EpicsValue> },
    /// A simple PV's put fails with this status before the PV sees the
    /// value ([`simple_pv_refusal`]).
    Fail(epics_base_rs::error::DbStatus),
}

/// The shared synchronous head of `CA_PROTO_WRITE` / `CA_PROTO_WRITE_NOTIFY`.
///
/// This is the whole wire path both front-ends run in ONE copy: the SID /
/// DBR-type / write-access gates (in the C-observable order per opcode), the
/// alarm-acknowledge (ACKT/ACKS) branch, the payload conversion, the
/// trap-write bracket, the database/PV write, and every synchronous reply or
/// error frame. It drives the write to the point C `dbProcessNotify` forks
/// sync-vs-async and returns that fork as a typed [`WriteHeadOutcome`]:
///
/// * [`WriteHeadOutcome::Done`] — fully handled; any reply/error is already
///   queued to `writer` (sync WRITE_NOTIFY reply, fire-and-forget WRITE,
///   ACKT/ACKS, and all refusal/error frames).
/// * [`WriteHeadOutcome::AsyncPending`] — a WRITE_NOTIFY whose record chain is
///   still running. The caller queues it with the ONE owner that awaits
///   [`PendingWriteNotify::rx`] and sends the deferred reply via
///   [`finish_write_notify`] — [`run_write_notify_queue`] on the async server,
///   [`run_event_task`] on the blocking RTEMS driver. The message thread MUST
///   NOT block on `rx` — C `camsgtask` never waits for the put-callback it
///   just forked.
/// * [`WriteHeadOutcome::Postponed`] — the PV, or a PREDECESSOR put-callback
///   still busy on the same channel ([`PutNotifySlot::serialize`], C's
///   `blockSem`), holds the request before its first side effect. The caller
///   waits it out with the client let go, then calls this again for the PV
///   ([`Blocked::Pv`]) and [`resume_write`] for the put callback.
///
/// `state` is borrowed shared: the per-channel `put_notify_slot` is `Arc`-
/// backed, so the supersede/install of an in-flight put-callback needs no
/// `&mut`. The async server's connection-scoped bookkeeping
/// (`write_notify_queue`, the `responded` token) stays in its arm.
pub(crate) async fn serve_write_head(
    hdr: &CaHeader,
    payload: &[u8],
    state: &ClientState,
    db: &Arc<PvDatabase>,
    writer: &Outbox,
) -> CaResult<WriteHeadOutcome> {
    let sid = hdr.cid;
    let ioid = hdr.available;
    let is_notify = hdr.cmmd == CA_PROTO_WRITE_NOTIFY;

    // A simple PV's channel is PCAS's, which verifies the request before
    // anything else (`writeAction`, `writeNotifyAction`).
    if let Err(refusal) = pcas_verify_request(state, hdr, false) {
        return answer_pcas_refusal(writer, hdr, state, refusal).map(|()| WriteHeadOutcome::Done);
    }

    // DBR_PUT_ACKT (35) and DBR_PUT_ACKS (36) are alarm-acknowledge
    // writes — payload is a single u16 routed to the record's
    // ACKT/ACKS field. Handle before the regular DbFieldType
    // dispatch so we don't reject the type as unsupported. A simple PV's
    // is pcas's: an ordinary `write()` of an ackt/acks gdd
    // (casStrmClient.cc:2499-2520), which the general path makes.
    let simple_pv = matches!(
        state.channels.get(&sid).map(|e| &e.target),
        Some(ChannelTarget::SimplePv(_))
    );
    if (hdr.data_type == epics_base_rs::types::DBR_PUT_ACKT
        || hdr.data_type == epics_base_rs::types::DBR_PUT_ACKS)
        && !simple_pv
    {
        let entry = match state.channels.get(&sid) {
            Some(e) => e,
            None => {
                // C `write_action` (camessage.c:735-739) +
                // `write_notify_action` (camessage.c:1641-1645):
                // `if (!pciu) { logBadId; return RSRV_ERROR; }`.
                // `logBadId` emits an ECA_INTERNAL "Bad Resource
                // ID" frame (cid=0xFFFFFFFF), flushed before the
                // disconnect — same family as the EVENT_ADD bad-SID
                // and the matching READ branch below.
                send_bad_resource_id(
                    writer,
                    hdr,
                    if is_notify {
                        LogBadId::WriteNotify
                    } else {
                        LogBadId::Write
                    },
                    state,
                )?;
                return Err(epics_base_rs::error::CaError::Protocol(format!(
                    "WRITE (ACKT/ACKS) on unknown SID {} \
                             (matches C write_action logBadId + RSRV_ERROR)",
                    sid
                )));
            }
        };
        // epics-base #934 (4128a7c07): both write actions clamp `m_count`
        // to `dbChannelFinalElements`, then cross-check
        // `dbr_size_n(m_dataType, m_count)` against `m_postsize` — a short
        // frame is a silent RSRV_ERROR. The size check runs BEFORE the
        // access gate on the deprecated WRITE (`write_action`) and AFTER
        // it on WRITE_NOTIFY (`write_notify_action`).
        // `dbr_size_n(PUT_ACKT/ACKS, n)` is the bare u16 array. The count
        // reaches the sizer unclamped: `dbr_size_n`'s special arm is
        // `(COUNT) < 0` (`db_access.h:533-534`), and `mp->m_count` is
        // unsigned, so the arm is unreachable on the wire and a count of
        // zero sizes `dbr_size[t] + (0-1)*dbr_value_size[t]` — zero bytes
        // for `PUT_ACKT`/`PUT_ACKS`, not one element.
        let mut ack_count = hdr.actual_count();
        if ack_count > entry.final_element_count {
            ack_count = entry.final_element_count;
        }
        let ack_size = epics_base_rs::types::dbr_buffer_size(
            hdr.data_type,
            epics_base_rs::types::DbFieldType::Short,
            ack_count as usize,
        );
        let ack_size_check = || -> CaResult<()> {
            if ack_size > payload.len() {
                return Err(epics_base_rs::error::CaError::Protocol(format!(
                    "WRITE (ACKT/ACKS) payload {} bytes < dbr_size_n {} \
                     (matches C size > m_postsize silent RSRV_ERROR)",
                    payload.len(),
                    ack_size
                )));
            }
            Ok(())
        };
        if !is_notify {
            ack_size_check()?;
        }
        // Alarm-acknowledge PUTs travel
        // the same WRITE wire opcodes but pre-fix bypassed
        // the access_rights check that the regular WRITE
        // path performs below. ACKT/ACKS mutate alarm-handler
        // state — a `NoAccess` peer could silence alarms on
        // any record they could open. Mirror the regular
        // WRITE gate.
        // Type-state: alarm-ack PUTs go
        // through the same gate as regular WRITE. Token's
        // `require_write` returns the matching ECA code on
        // denial.
        let entry_cid = entry.cid;
        let write_grant = match state.lookup_access(sid).require_write() {
            Ok(g) => g,
            Err(denied) => {
                if is_notify {
                    send_put_notify_response(
                        writer,
                        NotifyReplyKind::Error,
                        hdr.data_type,
                        ack_count,
                        denied.eca_code(),
                        ioid,
                        ReplyContext {
                            req_hdr: *hdr,
                            client_minor: state.client_minor_version(),
                        },
                    )?;
                } else {
                    // C `write_action` (`rsrv/camessage.c:741-748`)
                    // sends `send_err(mp, ECA_NOWTACCESS, client,
                    // RECORD_NAME(pciu->dbch))` even for the no-
                    // notify WRITE. DBR_PUT_ACKT/DBR_PUT_ACKS
                    // travel the same WRITE opcodes, so this
                    // branch covers alarm-acknowledge PUTs too.
                    // outer cid is `pciu->cid`.
                    send_ca_error(
                        writer,
                        hdr,
                        denied.eca_code(),
                        entry_cid,
                        write_denied_text(&entry.target),
                        state.client_minor_version(),
                    )?;
                }
                return Ok(WriteHeadOutcome::Done);
            }
        };
        // WRITE_NOTIFY runs the size cross-check here — after the access
        // gate — matching C `write_notify_action`'s order (a denied peer
        // gets ECA_NOWTACCESS; the size check never runs for it).
        if is_notify {
            ack_size_check()?;
        }
        // C's gate sizes `dbr_size_n(PUT_ACKT, 0)` as zero bytes, so a
        // zero-count frame passes it with an empty payload — and then
        // `dbPut` hands `putAckt(paddr, pbuffer, 1, 1, 0)`
        // (`dbAccess.c:1334`) a buffer with nothing in it, reading two
        // bytes of whatever follows in RSRV's receive buffer. That read is
        // out of bounds in C and this port does not reproduce it: a frame
        // that declares no elements acknowledges with 0, the same value the
        // port supplied before the #934 size gate landed.
        let value_u16 = match payload {
            [hi, lo, ..] => u16::from_be_bytes([*hi, *lo]),
            _ => 0,
        };
        // C dispatches alarm acknowledgement on the DBR *request type*
        // inside `dbPut` (`dbAccess.c:1333-1336`), ABOVE the SPC_NOMOD
        // gate that refuses an ordinary put to ACKT/ACKS — the client
        // acknowledges through its normal (VAL) channel, and the field
        // the channel names only feeds the DISP gate. Routing this as a
        // field put to "ACKT"/"ACKS" would now be refused with
        // S_db_noMod, exactly as `caput REC.ACKS 2` is.
        let ack = if hdr.data_type == epics_base_rs::types::DBR_PUT_ACKT {
            epics_base_rs::server::record::AlarmAck::Transient
        } else {
            epics_base_rs::server::record::AlarmAck::Severity
        };
        let put = AdmittedPut {
            grant: write_grant,
            kind: AdmittedKind::AlarmAck {
                ack,
                value: value_u16,
                count: ack_count,
            },
        };
        return write_admitted(hdr, payload, put, entry, state, db, writer).await;
    }

    // C `write_action` (`rsrv/camessage.c:735-739`) and
    // `write_notify_action` (`camessage.c:1641-1645`) call
    // `MPTOPCIU(mp)` BEFORE any DBR-type check, so a bad SID
    // path goes through `logBadId` + RSRV_ERROR — emitting the
    // ECA_INTERNAL "Bad Resource ID" frame (cid=0xFFFFFFFF)
    // regardless of whether the type is also invalid. Pre-fix
    // Rust ran the type check first and emitted an ECA_BADTYPE
    // error frame for the SID+type combo where rsrv sends the
    // bad-SID ECA_INTERNAL frame instead. Reorder to match C.
    let entry = match state.channels.get(&sid) {
        Some(e) => e,
        None => {
            // Same C logBadId + RSRV_ERROR family as the
            // ACKT/ACKS branch above and the READ branch: an
            // ECA_INTERNAL "Bad Resource ID" frame (cid=0xFFFFFFFF)
            // is buffered then flushed ahead of the disconnect.
            send_bad_resource_id(
                writer,
                hdr,
                if is_notify {
                    LogBadId::WriteNotify
                } else {
                    LogBadId::Write
                },
                state,
            )?;
            return Err(epics_base_rs::error::CaError::Protocol(format!(
                "WRITE on unknown SID {} (matches C write_action logBadId + RSRV_ERROR)",
                sid
            )));
        }
    };
    // channel-scoped CA_PROTO_ERROR replies must echo
    // `pciu->cid` (the CLIENT cid the libca peer allocated),
    // not the server-side SID we received in `hdr.cid`. C
    // `vsend_err` (`rsrv/camessage.c:150-160`) looks up the
    // `channel_in_use` and uses its `cid` field for the outer
    // error header.
    let entry_cid = entry.cid;

    // Post-#934 (epics-base 4128a7c07) BOTH opcodes gate the TYPE first,
    // then clamp `m_count` to `dbChannelFinalElements`, then cross-check
    // `dbr_size_n(m_dataType, m_count)` against `m_postsize`; only the
    // reply shapes and the size-vs-access order still differ:
    //
    // * `write_notify_action`: type (`putNotifyErrorReply` ECA_BADTYPE →
    //   RSRV_ERROR/drop), clamp, access (ECA_NOWTACCESS → RSRV_OK/keep),
    //   size cross-check (silent RSRV_ERROR/drop).
    // * `write_action`: type (`log_header` only — SILENT RSRV_ERROR/drop;
    //   #934 moved this ahead of the access gate, which pre-#934 ran
    //   first with no standalone type check), clamp, size cross-check
    //   (silent RSRV_ERROR/drop), access (ECA_NOWTACCESS → RSRV_OK/keep).
    //
    // The observable both-fail case therefore inverted with #934: a
    // deprecated WRITE carrying a bad type to a channel the peer cannot
    // write is now a silent drop, not ECA_NOWTACCESS + keep.
    //
    // A type-state WRITE gate: `lookup_access` is the only path to the
    // cache; the witness ensures the matching ECA code reaches the wire.
    let wire_type = match AcceptedWriteType::classify(hdr.data_type) {
        Some(t) => t,
        None => {
            // A peer sending a DBR above `LAST_BUFFER_TYPE` has a
            // corrupted dispatcher or is probing, so C drops. A compound
            // type is BELOW that bound and therefore never reaches here.
            log_request(
                state,
                hdr,
                if is_notify {
                    "bad put notify data type"
                } else {
                    "bad put data type"
                },
            );
            if is_notify {
                // C `putNotifyErrorReply` (camessage.c:1482-1502)
                // preserves `m_dataType`/`m_count` from the request —
                // the count is pre-clamp here, as in C.
                send_put_notify_response(
                    writer,
                    NotifyReplyKind::Error,
                    hdr.data_type,
                    hdr.actual_count(),
                    ECA_BADTYPE,
                    ioid,
                    ReplyContext {
                        req_hdr: *hdr,
                        client_minor: state.client_minor_version(),
                    },
                )?;
            }
            // `write_action` sends nothing after its `log_header`.
            return Err(epics_base_rs::error::CaError::Protocol(format!(
                "{} with unsupported DBR type {} (matches C INVALID_DB_REQ RSRV_ERROR)",
                if is_notify { "WRITE_NOTIFY" } else { "WRITE" },
                hdr.data_type
            )));
        }
    };

    // #934 count clamp. C mutates `mp->m_count` in place, so the size
    // cross-check, the payload decode, the DB put and every later reply
    // echo all see the clamped count.
    let mut write_count = hdr.actual_count();
    if write_count > entry.final_element_count {
        write_count = entry.final_element_count;
    }

    // `dbr_size_n(m_dataType, m_count)` vs `m_postsize` (`payload` is
    // the postsize-long buffer). The count reaches the sizer unclamped:
    // `dbr_size_n`'s special arm is `(COUNT) < 0` (`db_access.h:533-534`)
    // and `mp->m_count` is unsigned, so a zero-length array write sizes
    // `dbr_size[t] + (0-1)*dbr_value_size[t]` = 0 and passes against an
    // empty payload. Clamping to one element instead made every
    // `caput -a PV 0` a short frame, and a short frame is RSRV_ERROR —
    // the port dropped the circuit where C accepts the put.
    //
    // Scalar DBR_STRING is checked for a NUL within the received bytes
    // instead (camessage.c:761-766, :1696-1701): libca frames it as
    // `CA_MESSAGE_ALIGN(strlen + 1)` (comQueSend.cpp:332-341), not 40 bytes.
    let size_check = || -> CaResult<()> {
        if hdr.data_type == epics_base_rs::types::DBR_STRING && write_count == 1 {
            if payload.contains(&0) {
                return Ok(());
            }
            return Err(epics_base_rs::error::CaError::Protocol(format!(
                "scalar DBR_STRING payload of {} bytes has no NUL \
                 (matches C epicsStrnLen >= m_postsize RSRV_ERROR)",
                payload.len()
            )));
        }
        let native = epics_base_rs::types::native_type_for_dbr(hdr.data_type)?;
        let size =
            epics_base_rs::types::dbr_buffer_size(hdr.data_type, native, write_count as usize);
        if size > payload.len() {
            return Err(epics_base_rs::error::CaError::Protocol(format!(
                "WRITE payload {} bytes < dbr_size_n {} for type {} count {} \
                 (matches C size > m_postsize silent RSRV_ERROR)",
                payload.len(),
                size,
                hdr.data_type,
                write_count
            )));
        }
        Ok(())
    };

    let write_grant = if is_notify {
        let write_grant = match state.lookup_access(sid).require_write() {
            Ok(g) => g,
            Err(denied) => {
                // route through the refinement helper so
                // large-array put-callbacks refused by ACF carry
                // the extended-form count instead of the u16
                // marker. The echoed type is the REQUEST's
                // (`putNotifyErrorReply` preserves `m_dataType`,
                // camessage.c:1482-1502); the count is the CLAMPED
                // one — C reads the mutated `mp->m_count`.
                send_put_notify_response(
                    writer,
                    NotifyReplyKind::Error,
                    hdr.data_type,
                    write_count,
                    denied.eca_code(),
                    ioid,
                    ReplyContext {
                        req_hdr: *hdr,
                        client_minor: state.client_minor_version(),
                    },
                )?;
                state.audit_channel("caput", sid, "", "denied");
                return Ok(WriteHeadOutcome::Done);
            }
        };
        size_check()?;
        write_grant
    } else {
        size_check()?;
        // C `write_action` emits `send_err(mp, ECA_NOWTACCESS, ...)` and
        // returns RSRV_OK (keep). Without surfacing this the Rust server
        // dropped denied PROTO_WRITEs silently — libca's
        // `cac::exception` never fired, so a `caput` from a read-only
        // peer looked like it had succeeded even though the value never
        // reached the DB.
        match state.lookup_access(sid).require_write() {
            Ok(g) => g,
            Err(denied) => {
                send_ca_error(
                    writer,
                    hdr,
                    denied.eca_code(),
                    entry_cid,
                    write_denied_text(&entry.target),
                    state.client_minor_version(),
                )?;
                state.audit_channel("caput", sid, "", "denied");
                return Ok(WriteHeadOutcome::Done);
            }
        }
    };

    let put = AdmittedPut {
        grant: write_grant,
        kind: AdmittedKind::Value {
            wire_type,
            count: write_count,
        },
    };
    write_admitted(hdr, payload, put, entry, state, db, writer).await
}

/// Resume `put`, held at its channel's put-callback wait, where it was held.
///
/// Its channel can have been retired while it waited — never cleared, as the
/// circuit reads nothing behind a held request. It is then answered as a
/// request arriving after the retirement is: ECA_BADCHID, circuit kept.
pub(crate) async fn resume_write(
    hdr: &CaHeader,
    payload: &[u8],
    put: AdmittedPut,
    state: &ClientState,
    db: &Arc<PvDatabase>,
    writer: &Outbox,
) -> CaResult<WriteHeadOutcome> {
    if let Some(entry) = state.channels.get(&hdr.cid) {
        return write_admitted(hdr, payload, put, entry, state, db, writer).await;
    }
    match retired_refusal(state, hdr.cid) {
        Some(refusal) => {
            answer_pcas_refusal(writer, hdr, state, refusal).map(|()| WriteHeadOutcome::Done)
        }
        None => Err(epics_base_rs::error::CaError::Protocol(format!(
            "held WRITE_NOTIFY on SID {} lost a channel that was not retired",
            hdr.cid
        ))),
    }
}

/// The rest of an admitted write, from C `write_notify_action`'s wait on the
/// channel's previous put callback (`camessage.c:1660-1706`) on: entered once
/// from [`serve_write_head`], and again from [`resume_write`] each time that
/// wait holds it.
async fn write_admitted(
    hdr: &CaHeader,
    payload: &[u8],
    put: AdmittedPut,
    entry: &ChannelEntry,
    state: &ClientState,
    db: &Arc<PvDatabase>,
    writer: &Outbox,
) -> CaResult<WriteHeadOutcome> {
    let sid = hdr.cid;
    let ioid = hdr.available;
    let is_notify = hdr.cmmd == CA_PROTO_WRITE_NOTIFY;

    // Serialise against this channel's previous put-callback here — after
    // the SID/type/access checks and *before* any side effect (payload
    // conversion, trap-write `BeforeWrite` dispatch, the database/PV write,
    // the alarm acknowledgement, or the async device kickoff). C
    // `write_notify_action` reaches the same boundary, after `rsrvCheckPut`
    // and before `caNetConvert` / `asTrapWriteWithData` / `dbProcessNotify`,
    // and a DBR_PUT_ACKT/ACKS put callback travels it too. This request is
    // postponed here while the channel's previous put-callback is still
    // busy — C blocks the client's receive thread on `blockSem` — and only a
    // predecessor past that deadline is cancelled and answered
    // ECA_PUTCBINPROG, for its own ioid. The deprecated fire-and-forget
    // CA_PROTO_WRITE path is not serialised in C, so it is left untouched.
    if is_notify {
        if let Some(wait) = entry.put_notify_slot.serialize(
            writer,
            &state.peer,
            std::ptr::from_ref(entry).addr(),
            state.client_minor_version(),
        )? {
            return Ok(WriteHeadOutcome::Postponed(Blocked::PutNotify(wait, put)));
        }
    }

    let entry_cid = entry.cid;
    let (wire_type, write_count) = match put.kind {
        AdmittedKind::Value { wire_type, count } => (wire_type, count),
        AdmittedKind::AlarmAck { ack, value, count } => {
            let result = match &entry.target {
                ChannelTarget::RecordField { record, field } => {
                    let name: &[u8] = record.name();
                    // Alarm-ack puts are immediate in C even for the
                    // notify variant — `rsrv/camessage.c` writes ACKT/
                    // ACKS via `dbPutField` and replies straight away,
                    // never building a putNotify. Neither mode here
                    // awaits a completion receiver, so park nothing.
                    db.put_alarm_ack_from_ca(name, field, ack, value).await
                }
                ChannelTarget::SimplePv(_) => Err(epics_base_rs::error::CaError::Protocol(
                    "PUT_ACKT/PUT_ACKS only valid on record-backed channels".to_string(),
                )),
            };
            if is_notify {
                let eca = match &result {
                    Ok(()) => PutStatus::OK,
                    Err(e) => PutStatus::of_failure(e),
                };
                send_put_notify_response(
                    writer,
                    NotifyReplyKind::Completion,
                    hdr.data_type,
                    count,
                    eca.eca(),
                    ioid,
                    ReplyContext {
                        req_hdr: *hdr,
                        client_minor: state.client_minor_version(),
                    },
                )?;
            } else if let Err(e) = &result {
                // deprecated CA_PROTO_WRITE for DBR_PUT_ACKT/
                // DBR_PUT_ACKS must surface put failure via
                // CA_PROTO_ERROR per C `write_action`
                // (`rsrv/camessage.c:781-789`). Pre-fix the
                // non-notify alarm-ack path silently swallowed
                // record-side write errors so the libca peer never
                // saw the failure.
                let record_name = entry.target.rsrv_record_name();
                let eca = PutStatus::of_failure(e);
                send_ca_error(
                    writer,
                    hdr,
                    eca.eca(),
                    entry_cid,
                    record_name,
                    state.client_minor_version(),
                )?;
            }
            return Ok(WriteHeadOutcome::Done);
        }
    };

    // The text a refused request carries in its `CA_PROTO_ERROR`: C sends
    // `RECORD_NAME(pciu->dbch)`, the record without its field.
    let rsrv_name = entry.target.rsrv_record_name();
    // The record a deferred put-callback parks a notify on, captured under the
    // same `entry` borrow. C keeps it as `pciu->pPutNotify`'s
    // `dbChannel` for exactly one purpose: `rsrvFreePutNotify` needs something
    // to hand `dbNotifyCancel` when the client dies still busy
    // (`camessage.c:1630-1638`). See [`PendingWriteNotify`]'s `Drop`.
    let notify_record = match &entry.target {
        ChannelTarget::SimplePv(_) => None,
        ChannelTarget::RecordField { record, .. } => Some(record.name().clone()),
    };

    // the write-trap mask of the ACF rule that
    // authorised this write. C `asTrapWriteWithData`
    // (`rsrv/camessage.c:768-771`) consults
    // `pasgclient->trapMask` so a `NOTRAPWRITE` rule — or a
    // rule with no trap option — is not reported to
    // put-logging listeners. Pre-fix Rust hard-coded
    // `rule_was_trap: true` for every accepted write.
    let rule_was_trap = put.grant.rule_was_trap();

    // The CLAMPED full 32-bit count flows to the decode, the put and the
    // reply echo (pre-fix the echo used `hdr.count`, which is the 0
    // marker for extended requests and therefore lost the count on large
    // array put-callbacks; then the raw wire count, which #934 clamps).
    let count = write_count as usize;

    // Whatever the buffer type carries, only the value reaches the
    // record. The metadata a compound put brings along is discarded —
    // as it is in C, and as it must be: `.TIME` is `DBF_NOACCESS` and
    // `STAT`/`SEVR`/`UTAG` are `SPC_NOMOD`, so no client can set them
    // through any path.
    //
    // The refusals below land HERE, at the put, rather than at the type
    // gate — which is why those gates kept their C-observable positions:
    // a compound WRITE_NOTIFY to a channel the peer cannot write must
    // still report ECA_NOWTACCESS from the access gate, must still
    // supersede the channel's in-flight put-callback (both done above),
    // and must still be bracketed by the trap-write pair below, as C's
    // unconditional `asTrapWriteWithData` does. ECA_PUTFAIL is C's answer
    // on either opcode — `send_err(mp, ECA_PUTFAIL, ...)` + RSRV_OK
    // (`camessage.c:781-789`) and `notifyError` → `ECA_PUTFAIL`
    // (`camessage.c:1386-1388`) — and neither drops the circuit.

    // A malformed payload is a protocol violation on every buffer type: C
    // sizes the frame against `dbr_size_n` of the WIRE type and returns
    // RSRV_ERROR before it looks at the put. Neither of those two gates is at
    // the pin: `4128a7c07` adds the `write_notify_action` one and PR #944 the
    // `write_action` one, which is not merged upstream at all — at `R7.0.10`
    // only `caNetConvert` failure (`camessage.c:753-766`) drops the circuit.
    // This port carries both, so they are named by commit. One closure so
    // that drop rule cannot fork between the native and compound decoders.
    //
    // A decode failure is C's `caNetConvert` failure (`camessage.c:788`,
    // `:1788`), which logs where the size checks above stay silent. Neither
    // can run: `size_check` guarantees every length the decoders test, and
    // caNetConvert refuses only the types the type gate already dropped.
    let value_or_drop = |decoded: CaResult<EpicsValue>| -> CaResult<EpicsValue> {
        if decoded.is_ok() {
            return decoded;
        }
        log_request(state, hdr, "invalid data type");
        if is_notify {
            // Same `putNotifyErrorReply` shape; count post-clamp, as C's
            // mutated `mp->m_count` is at this point.
            send_put_notify_response(
                writer,
                NotifyReplyKind::Error,
                hdr.data_type,
                write_count,
                ECA_BADTYPE,
                ioid,
                ReplyContext {
                    req_hdr: *hdr,
                    client_minor: state.client_minor_version(),
                },
            )?;
        } else {
            send_ca_error(
                writer,
                hdr,
                ECA_BADTYPE,
                entry_cid,
                rsrv_name,
                state.client_minor_version(),
            )?;
        }
        Err(epics_base_rs::error::CaError::Protocol(format!(
            "WRITE payload conversion failed for type {} count {} (matches C caNetConvert RSRV_ERROR)",
            hdr.data_type, count
        )))
    };

    let simple_refusal = match &entry.target {
        ChannelTarget::SimplePv(_) => simple_pv_refusal(hdr.data_type),
        ChannelTarget::RecordField { .. } => None,
    };
    let plan = match simple_refusal {
        // Refused before the payload is converted, as pcas does.
        Some(status) => PutPlan::Fail(status),
        None => match wire_type.decode(hdr.data_type, payload, count) {
            // C's `default:` arm on either opcode; these buffers carry no value
            // member for the put-log to render.
            None => PutPlan::Refuse { logged_value: None },
            Some(decoded) => {
                let value = value_or_drop(decoded)?;
                if is_notify && wire_type == AcceptedWriteType::Compound {
                    // `mapOldType` (`db_access.c:986-1023`) maps only the native
                    // types, so this one reaches `notifyError`.
                    PutPlan::Refuse {
                        logged_value: Some(value),
                    }
                } else {
                    use epics_base_rs::server::pv::PvWrite;
                    PutPlan::Write {
                        write: match wire_type {
                            AcceptedWriteType::AlarmAck(ack) => PvWrite::AlarmAck(ack, value),
                            _ => PvWrite::Value(value),
                        },
                    }
                }
            }
        },
    };

    // Stringify the value once for the audit log; skipped when
    // audit is off. Use the truncated renderer so a malicious
    // peer can't pin the dispatch task on `format!`-ing a
    // peer-controlled array of millions of elements.
    //
    // TRAPWRITE listeners also need a string form. We
    // render once when *either* audit or a trap-write listener
    // is registered; the truncated form is cheap and lets
    // listeners avoid touching the raw `EpicsValue`.
    let trap_listeners_active = epics_base_rs::server::access_security::has_trap_write_listeners();
    let display_value = if state.audit.is_some() || trap_listeners_active {
        match &plan {
            PutPlan::Write {
                write:
                    epics_base_rs::server::pv::PvWrite::Value(value)
                    | epics_base_rs::server::pv::PvWrite::AlarmAck(_, value),
            } => value.display_truncated(64),
            PutPlan::Refuse { logged_value } => logged_value
                .as_ref()
                .map(|v| v.display_truncated(64))
                .unwrap_or_default(),
            PutPlan::Fail(_) => String::new(),
        }
    } else {
        String::new()
    };

    // One RAII guard owns this put's BeforeWrite/AfterWrite
    // pair. `begin` fires BeforeWrite now; the matching
    // AfterWrite fires from `complete` (the synchronous paths
    // and the async completion task, once the real status is
    // known) or — if neither runs because the put was aborted
    // first, a superseding WRITE_NOTIFY or a client teardown
    // calling `abort` on the completion task — from the guard's
    // Drop. This makes the C invariant hold by construction:
    // every `asTrapWriteWithData` is matched by exactly one
    // `asTrapWriteAfter` on all rsrv exit paths — completion
    // (`camessage.c:1400`), still-busy teardown
    // (`rsrvFreePutNotify`, :1620), and supersede-cancel
    // (`write_notify_action`, :1700). Pre-fix the AfterWrite was
    // an explicit dispatch that the abort paths skipped, leaving
    // a BeforeWrite with no match in the put-log.
    //
    // BeforeWrite still sits here (not inside each write arm):
    // C `asTrapWriteWithData` (`camessage.c:768-771`) fires
    // before `dbChannel_put`, and narrowing the bracket into the
    // match arms would not remove the pre-storage over-log
    // (RecordField pre-rejections happen inside the called
    // function) without a deeper refactor.
    let mut trap_guard = trap_listeners_active.then(|| {
        epics_base_rs::server::access_security::TrapWriteGuard::begin(
            epics_base_rs::server::access_security::TrapWriteFields {
                pv_name: state
                    .channels
                    .get(&sid)
                    .map(|e| e.target.audit_name())
                    .unwrap_or_default(),
                user: state.username.clone(),
                host: state.hostname.as_bytes().to_vec(),
                peer: state.peer.clone(),
                value_str: display_value.clone(),
                // C `asTrapWriteWithData` (`camessage.c:768-771`) logs
                // `mp->m_dataType` — the type the client SENT, which for a
                // compound put differs from the base type the record took.
                dbr_type: hdr.data_type,
                no_elements: write_count,
                event_id: epics_base_rs::server::access_security::next_trap_write_event_id(),
                rule_was_trap,
                // C carries no status on the cancelled-put
                // `asTrapWriteAfter`; this Rust enrichment marks
                // the supersede / teardown tail so listeners can
                // tell it from a clean completion.
                cancel_status: "cancel".to_string(),
            },
        )
    });

    // Where the write's end is: known now (reply inline), or with the
    // owner that awaits the record's chain or the PV's write IO.
    //
    // `audit_result` is decided alongside the put rather than re-derived from
    // its error, so the reason C had for failing a refused buffer type — no
    // `dbChannel_put` arm, as opposed to a value the field rejected — survives
    // into both the audit line and the trap-write AfterWrite status.
    //
    // A refused put callback can still be pending: its record processed
    // (`db_put_process` returns 1), so the PUTFAIL waits for that process.
    use epics_base_rs::server::pv::PutStarted;
    let (tail, write_result, audit_result): (WriteTail, CaResult<()>, &str) = match plan {
        PutPlan::Refuse { .. } => (
            WriteTail::Now(WriteEnded::Done),
            Err(epics_base_rs::error::CaError::UnsupportedType(
                hdr.data_type,
            )),
            "dbr-type-not-puttable",
        ),
        PutPlan::Fail(status) => (
            WriteTail::Now(WriteEnded::Refused(status)),
            Ok(()),
            "dbr-type-not-puttable",
        ),
        PutPlan::Write { write } => {
            let put = epics_base_rs::server::database::channel_io::put(
                db,
                &entry.target,
                entry.long_string_mode,
                write,
                is_notify,
                || epics_base_rs::server::pv::WriteContext {
                    user: state.username.clone(),
                    host: state.hostname.as_bytes().to_vec(),
                    peer: state.peer.clone(),
                },
            );
            let result = crate::server::current_client::attached(
                &state.username,
                state.hostname.as_bytes(),
                put,
            )
            .await;
            let (tail, result) = match result {
                Ok(PutStarted::Started(completion)) => (WriteTail::chain(completion), Ok(())),
                Ok(PutStarted::Posted(end)) => (WriteTail::posted(end), Ok(())),
                Ok(PutStarted::Failed(status)) => {
                    (WriteTail::Now(WriteEnded::Refused(status)), Ok(()))
                }
                // Neither audited nor answered: the request runs again
                // whole, as pcas re-processes it (casStreamOS.cc:255-283).
                Ok(PutStarted::Postponed(blocked)) => {
                    return Ok(WriteHeadOutcome::Postponed(Blocked::Pv(blocked)));
                }
                Err(refused) => (WriteTail::chain(refused.completion), Err(refused.error)),
            };
            let failed = result.is_err()
                || matches!(
                    tail,
                    WriteTail::Now(
                        WriteEnded::Aborted | WriteEnded::Refused(_) | WriteEnded::Failed(_)
                    ) | WriteTail::Posted(WriteEnded::Failed(_), _)
                );
            let tag = if failed { "fail" } else { "ok" };
            (tail, result, tag)
        }
    };

    state.audit_channel("caput", sid, &display_value, audit_result);

    // SYNCHRONOUS write paths (no async record completion
    // pending): fire AfterWrite now with the known status via
    // the guard. The async path instead hands the guard to the
    // completion task so AfterWrite reflects real device-side
    // completion timing (C `write_notify_reply:1400`).
    let needs_async_after = is_notify && matches!(tail, WriteTail::Later(_));
    if !needs_async_after {
        if let Some(guard) = &mut trap_guard {
            guard.complete(audit_result);
        }
    }

    // C `write_action` (`rsrv/camessage.c:781-789`):
    // even the deprecated fire-and-forget `CA_PROTO_WRITE`
    // surfaces a failed `dbChannel_put` to the client via
    // `send_err(mp, ECA_PUTFAIL, ...)`. Pre-fix Rust dropped
    // the failure silently for the non-notify path, so a
    // `caput` against a read-only-by-rule field that bypassed
    // earlier access checks (e.g. record-side `PutDisabled`)
    // looked successful to the libca peer even though the
    // value never reached the DB. is_notify already replies
    // via WRITE_NOTIFY below.
    if !is_notify {
        if let Err(e) = &write_result {
            let eca = PutStatus::of_failure(e);
            send_ca_error(
                writer,
                hdr,
                eca.eca(),
                entry_cid,
                rsrv_name,
                state.client_minor_version(),
            )?;
        }
    }

    // CA_PROTO_WRITE (cmd=4) is fire-and-forget — no response. A
    // WRITE_NOTIFY replies inline when the write settled synchronously;
    // when the record's process cycle or the PV's write IO is still running
    // it hands what to await back to the caller. C `write_notify_action`
    // never blocks the message thread on the put-callback — completion is
    // delivered later (`dbNotify.c` callDone on a background thread) — so
    // the caller decides HOW to await it (async server: a spawned task;
    // blocking driver: its event thread).
    let reply = if is_notify {
        let eca_status = match &write_result {
            Ok(_) => PutStatus::OK,
            Err(e) => PutStatus::of_failure(e),
        }
        .eca();
        DeferredReply::WriteNotify {
            reply: WriteNotifyReply {
                // C `write_notify_reply` (`camessage.c:1386-1403`) frames the
                // completion from the saved request header, so the echoed
                // type is always the one the client SENT — the same value as
                // the native type for a native put, and the only available
                // answer for the compound and refused ones.
                write_type: hdr.data_type,
                write_count,
                ioid,
                req_hdr: *hdr,
            },
            eca_status,
            cid: entry_cid,
        }
    } else {
        // A plain WRITE goes async only when a simple PV held it (a gateway
        // PV not ready yet), and still owes the error its failure sends then,
        // as PCAS `writeResponse` (`casStrmClient.cc:1112-1128`).
        DeferredReply::WriteFailure {
            req_hdr: *hdr,
            cid: entry_cid,
            name: rsrv_name.to_vec(),
        }
    };
    let rx = match tail {
        // The trap-write bracket closed above, with the audit status.
        WriteTail::Now(ended) => {
            reply.send(ended, &mut None, writer, state.client_minor_version())?;
            return Ok(WriteHeadOutcome::Done);
        }
        WriteTail::Posted(ended, end) => {
            reply.send(ended, &mut None, writer, state.client_minor_version())?;
            drop(end);
            return Ok(WriteHeadOutcome::Done);
        }
        WriteTail::Later(rx) => rx,
    };
    // The trap-write bracket moves into the completion token rather than
    // travelling with the receiver, so that whichever path answers this ioid
    // closes it — C keeps `asWritePvt` on `pciu->pPutNotify` for the same
    // reason.
    let (completion, settled) = PutNotifyCompletion::new(trap_guard.take());
    // Register HERE, in the head both receive loops run, not in the caller:
    // an unregistered channel silently opts out of the serialisation above,
    // which is exactly how the two loops came to answer a concurrent
    // put-callback differently. A simple PV's put callback is a PCAS one
    // (`writeNotifyAction`, `casStrmClient.cc:1133-1190`), which no later
    // request waits on.
    if let (Some(_), DeferredReply::WriteNotify { reply, .. }) = (&notify_record, &reply) {
        entry.put_notify_slot.install(InFlightPutNotify {
            completion: completion.clone(),
            reply: *reply,
            busy_since: std::time::Instant::now(),
            settled,
        });
    }
    Ok(WriteHeadOutcome::AsyncPending(PendingWriteNotify {
        rx,
        reply,
        completion,
        sid,
        cancel: notify_record.map(|record| (db.clone(), record)),
    }))
}

/// Everything the deferred WRITE_NOTIFY completion reply echoes: the framed
/// type/count, the request ioid, and the request header. Not the minor: C
/// frames the reply at the circuit's as it stands then (`write_notify_reply`,
/// `camessage.c:1438`). One value so the shared completion tail and the
/// in-flight-slot install pass a single descriptor rather than four loose
/// scalars. `Copy` so it can be captured by an `async move` completion task
/// and still be read by the in-flight-slot install afterwards.
#[derive(Clone, Copy)]
pub(crate) struct WriteNotifyReply {
    pub write_type: u16,
    pub write_count: u32,
    pub ioid: u32,
    pub req_hdr: CaHeader,
}

/// Send a WRITE_NOTIFY completion reply and fire the deferred trap-write
/// AfterWrite — the single shared tail both the async server's completion
/// task and the blocking driver's event thread run once the record's chain
/// settles. `final_status` is the put's real completion status
/// (`eca_status` on success, `ECA_PUTFAIL` if the completion sender was
/// dropped). Keeping this in one place keeps the deferred-reply bytes and the
/// put-log AfterWrite status identical across both front-ends. `exception`
/// goes out right behind the reply, in the same push, as pcas sends both
/// under the client lock.
pub(crate) fn finish_write_notify(
    trap_guard: &mut Option<epics_base_rs::server::access_security::TrapWriteGuard>,
    final_status: u32,
    reply: &WriteNotifyReply,
    writer: &impl FrameSink,
    client_minor: u16,
    exception: Option<Vec<u8>>,
) -> CaResult<()> {
    // AfterWrite at real device-side completion. `status` carries "ok" for
    // ECA_NORMAL or the ECA-code form otherwise so listeners can filter
    // failed puts. `complete` disarms the guard so its later Drop is a no-op.
    if let Some(guard) = trap_guard {
        let status_s = if final_status == ECA_NORMAL {
            "ok".to_string()
        } else {
            format!("eca:0x{:04x}", final_status)
        };
        guard.complete(&status_s);
    }
    let Some(mut frame) = put_notify_response_frame(
        NotifyReplyKind::Completion,
        reply.write_type,
        reply.write_count,
        final_status,
        reply.ioid,
        client_minor,
    ) else {
        return Ok(());
    };
    if let Some(exception) = exception {
        frame.extend_from_slice(&exception);
    }
    writer.push(frame);
    Ok(())
}

/// The sync-vs-async fork [`serve_write_head`] returns (C `dbProcessNotify`).
pub(crate) enum WriteHeadOutcome {
    /// Fully handled; any reply/error is already queued to the outbox.
    Done,
    /// A WRITE_NOTIFY whose record chain is still running; the caller awaits
    /// the receiver and replies via [`finish_write_notify`].
    AsyncPending(PendingWriteNotify),
    /// The PV, or the channel's previous put-callback, postponed the write:
    /// the circuit reads no further request until it signals, then serves
    /// this one again as the [`Blocked`] says (pcas
    /// `S_casApp_postponeAsyncIO`, casStrmClient.cc:115-125).
    Postponed(Blocked),
}

/// What a deferred write waits on: a record's chain (C `dbNotify`), or a
/// simple PV's write IO, which posts a status (pcas `casAsyncIOI`).
/// Cancel-safe.
pub(crate) enum PutEnd {
    Chain(tokio::sync::oneshot::Receiver<()>),
    Posted(WriteEnd),
}

/// How a deferred write ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum WriteEnded {
    Done,
    /// The chain's sender was dropped un-fired: processing aborted.
    Aborted,
    /// The PV failed the write at once with this status (pcas `write()`).
    Refused(epics_base_rs::error::DbStatus),
    /// The PV's write IO posted this failure.
    Failed(epics_base_rs::error::DbStatus),
}

impl std::future::Future for PutEnd {
    type Output = WriteEnded;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<WriteEnded> {
        match &mut *self {
            Self::Chain(rx) => std::pin::Pin::new(rx).poll(cx).map(|chain| match chain {
                Ok(()) => WriteEnded::Done,
                Err(_) => WriteEnded::Aborted,
            }),
            Self::Posted(end) => std::pin::Pin::new(end).poll(cx).map(|status| match status {
                Ok(()) => WriteEnded::Done,
                Err(status) => WriteEnded::Failed(status),
            }),
        }
    }
}

impl PutEnd {
    /// How this write ended, or how it ends now that its channel is retired
    /// under it: `~gateVcData` posts every write still held or in flight
    /// `S_casApp_canceledAsyncIO` (gateVc.cc:426-433).
    fn end_now(&mut self) -> WriteEnded {
        match self {
            Self::Chain(rx) => match rx.try_recv() {
                Ok(()) => WriteEnded::Done,
                Err(_) => WriteEnded::Aborted,
            },
            Self::Posted(end) => match end.try_end() {
                Some(Ok(())) => WriteEnded::Done,
                Some(Err(status)) => WriteEnded::Failed(status),
                None => WriteEnded::Failed(epics_base_rs::error::DbStatus::CANCELED_ASYNC_IO),
            },
        }
    }
}

/// Where a write's end is: known when the head returns, or with the owner
/// that awaits it.
enum WriteTail {
    Now(WriteEnded),
    /// Write IO the PV posted before the head returned. Its end, which
    /// signals the PV's postponed writes, goes after the answer
    /// (`cbFuncAsyncIO`, casAsyncWriteIOI.cpp:50-63).
    Posted(WriteEnded, WriteEnd),
    Later(PutEnd),
}

impl WriteTail {
    fn chain(completion: epics_base_rs::server::record::ProcessCompletion) -> Self {
        match completion.into_handle() {
            Some(rx) => Self::Later(PutEnd::Chain(rx)),
            None => Self::Now(WriteEnded::Done),
        }
    }

    /// Write IO the PV posted before the head returns is answered inline, as
    /// pcas answers `S_casApp_success`.
    fn posted(mut end: WriteEnd) -> Self {
        match end.try_end() {
            Some(Ok(())) => Self::Posted(WriteEnded::Done, end),
            Some(Err(status)) => Self::Posted(WriteEnded::Failed(status), end),
            None => Self::Later(PutEnd::Posted(end)),
        }
    }
}

/// One in-flight async `CA_PROTO_WRITE_NOTIFY` handed back by
/// [`serve_write_head`] for the caller to await. The channel registration is
/// already done by the head, so all a receive loop owes this value is
/// [`settle`](Self::settle) once `rx` reports. `sid` is the async server's
/// connection-scoped task tracking (`CA_PROTO_CLEAR_CHANNEL` drains by it);
/// the blocking driver ignores it and awaits `rx` on its event thread.
pub(crate) struct PendingWriteNotify {
    pub rx: PutEnd,
    reply: DeferredReply,
    completion: Arc<PutNotifyCompletion>,
    pub sid: u32,
    /// What the `Drop` below needs to cancel this notify: the database and the
    /// record it parked on. `None` for a simple PV, which has no `dbCommon`
    /// and so no `ppn` slot to release. C carries the equivalent as
    /// `pciu->pPutNotify`'s `dbChannel`.
    cancel: Option<(Arc<PvDatabase>, epics_base_rs::types::RecordName)>,
}

/// What a write sends once it ends.
enum DeferredReply {
    /// A WRITE_NOTIFY's completion reply: `eca_status` on success,
    /// ECA_PUTFAIL on failure.
    WriteNotify {
        reply: WriteNotifyReply,
        eca_status: u32,
        cid: u32,
    },
    /// A plain WRITE's: an ECA_PUTFAIL error on failure, nothing on success.
    WriteFailure {
        req_hdr: CaHeader,
        cid: u32,
        name: Vec<u8>,
    },
}

impl DeferredReply {
    fn send(
        &self,
        ended: WriteEnded,
        trap_guard: &mut Option<epics_base_rs::server::access_security::TrapWriteGuard>,
        writer: &impl FrameSink,
        client_minor: u16,
    ) -> CaResult<()> {
        match self {
            DeferredReply::WriteNotify {
                reply,
                eca_status,
                cid,
            } => {
                let (final_status, exception) = match ended {
                    WriteEnded::Done => (*eca_status, None),
                    WriteEnded::Aborted => (ECA_PUTFAIL, None),
                    // pcas `writeNotifyResponse` sends the status's text after
                    // the reply, at most once (casStrmClient.cc:1213-1233).
                    WriteEnded::Refused(status) | WriteEnded::Failed(status) => (
                        ECA_PUTFAIL,
                        Some(build_ca_error_frame(
                            &reply.req_hdr,
                            ECA_NOCONVERT,
                            *cid,
                            &*status.text(),
                            client_minor,
                        )),
                    ),
                };
                finish_write_notify(
                    trap_guard,
                    final_status,
                    reply,
                    writer,
                    client_minor,
                    exception,
                )?;
            }
            DeferredReply::WriteFailure { req_hdr, cid, name } => {
                // pcas answers a failed write with its status's text:
                // `writeActionSendFailureStatus` at once, `writeResponse`,
                // which also logs it, when write IO posts it
                // (casStrmClient.cc:1007-1028, 1112-1128).
                let (eca, status) = match ended {
                    WriteEnded::Done => return Ok(()),
                    WriteEnded::Aborted => {
                        return send_ca_error(
                            writer,
                            req_hdr,
                            ECA_PUTFAIL,
                            *cid,
                            name.as_slice(),
                            client_minor,
                        );
                    }
                    // The S_cas_noMemory and S_cas_noConvert that
                    // `writeActionSendFailureStatus` also maps never arise here.
                    WriteEnded::Refused(status) => {
                        let eca = if status == epics_base_rs::error::DbStatus::CAS_BAD_TYPE {
                            ECA_BADTYPE
                        } else {
                            ECA_PUTFAIL
                        };
                        (eca, status)
                    }
                    WriteEnded::Failed(status) => {
                        let symbol = if status.get() > 0 {
                            status.text()
                        } else {
                            "".into()
                        };
                        epics_base_rs::runtime::log::errlog_vprintf(format_args!(
                            "{symbol} filename=\"../casStrmClient.cc\" line number=1119  write failed\n"
                        ));
                        (ECA_PUTFAIL, status)
                    }
                };
                send_ca_error(writer, req_hdr, eca, *cid, &*status.text(), client_minor)?;
            }
        }
        Ok(())
    }
}

/// C `rsrvFreePutNotify` (`rsrv/camessage.c:1630-1638`): a client torn down
/// with `pNotify->busy` still set has its put-callback cancelled, which frees
/// every record the notify owns and hands each one to its restart-list head.
///
/// A `Drop`, not a call at the teardown site, because this is a strong state
/// transition — the record's slot is claimed on the client's behalf the moment
/// the notify installs — and every exit path after it must release: a closed
/// socket, a read error, a cancelled task, an unwind. One finalizer covers them
/// all, and the alternative is a release that holds only on the paths someone
/// remembered.
///
/// Ordering matters: `rx.close()` FIRST, because
/// `PvDatabase::cancel_unanswerable_notify` recognises a dead notify by the
/// sender having no receiver left, and `Drop::drop` runs before the struct's
/// own fields are dropped. Without the close, the receiver is still alive at
/// the moment the database is asked, and the cancel finds nothing to do.
///
/// A completion that already `settle`d is a no-op here: its wait-set fired, so
/// the sender is spent and the record's slot is long since empty.
impl Drop for PendingWriteNotify {
    fn drop(&mut self) {
        let Some((db, record)) = self.cancel.as_ref() else {
            return;
        };
        if let PutEnd::Chain(rx) = &mut self.rx {
            rx.close();
        }
        db.cancel_unanswerable_notify(record);
    }
}

impl PendingWriteNotify {
    /// The client's id for the channel this write is on.
    fn cid(&self) -> u32 {
        match self.reply {
            DeferredReply::WriteNotify { cid, .. } | DeferredReply::WriteFailure { cid, .. } => cid,
        }
    }

    /// Answer this put-callback now that its record chain has reported — the
    /// ONE completion tail both receive loops run, so neither can decide on
    /// its own whether a reply is still owed.
    ///
    /// `ended` is how the write ended: an aborted chain surfaces as
    /// ECA_PUTFAIL so the client never sees a false success — C rsrv.
    ///
    /// `commit` is how THIS driver gets the queued reply into the circuit's
    /// wire order, and it is a parameter rather than something the caller runs
    /// afterwards because the channel's next put-callback is released by the
    /// reply token dying — which happens here, after `commit` has returned. C
    /// signals `blockSem` only after `cas_commit_msg`
    /// (`camessage.c:1452-1460`), and for the same reason: a successor
    /// released before the commit can reach the socket first. On the async
    /// server the shared outbox this pushed to IS the single writer's queue,
    /// so its `commit` has nothing to do; the blocking driver stages into a
    /// private outbox and has to drain it under the send lock. `false` reports
    /// the peer gone.
    pub(crate) fn settle(
        &mut self,
        ended: WriteEnded,
        writer: &impl FrameSink,
        client_minor: u16,
        commit: impl FnOnce() -> bool,
    ) -> CaResult<bool> {
        // Losing the claim means a predecessor-timeout supersede already
        // answered this ioid with ECA_PUTCBINPROG and closed its put-log
        // bracket with it. One ioid, one reply.
        let Some(mut owned) = self.completion.claim() else {
            return Ok(commit());
        };
        self.reply
            .send(ended, &mut owned.trap_guard, writer, client_minor)?;
        // `owned` — and with it the successor's release — dies at the end of
        // this scope, after the commit.
        Ok(commit())
    }
}

/// How [`register_subscription`] wires delivery of a freshly-registered
/// subscription. The async TCP server enables it on the circuit's event task
/// ([`run_circuit_monitors`]); the blocking (RTEMS) driver has no async runtime, so it takes the raw
/// [`EventReader`](epics_base_rs::server::event_queue::EventReader) and multiplexes every subscription on one event thread.
#[derive(Clone)]
pub(crate) enum SubscriptionDelivery {
    /// C `event_add_action` async path: the circuit's event task, started on
    /// the carried executor, delivers. The capability rides in the variant so a driver
    /// with no reactor cannot ask for a spawn — the illegal pairing is
    /// unrepresentable rather than checked.
    ///
    /// `handle_client`, the async accept front-end, is the only thing that
    /// builds one, and it does not exist on the embedded targets — so
    /// neither does this variant there, and the same rule ("no async
    /// front-end, no spawn") holds by construction on both.
    ///
    /// Which is also why `spawn_on`, `SubscriptionOutcome::Circuit` and
    /// `register_subscription` name it in a code span rather than linking it:
    /// all three are compiled on every target and this variant is not, so an
    /// intra-doc link to it resolves in no embedded configuration.
    #[cfg(tokio_backend)]
    AsyncSpawn(epics_base_rs::runtime::task::Reactor),
    /// Blocking driver: return the reader; the caller drives delivery.
    HandOff,
}

impl SubscriptionDelivery {
    /// The executor the circuit's tasks belong on, or `None` when the caller
    /// drives delivery itself. Always `None` on the embedded targets, which
    /// have no `AsyncSpawn` to ask with.
    fn spawn_on(&self) -> Option<&epics_base_rs::runtime::task::Reactor> {
        match self {
            #[cfg(tokio_backend)]
            SubscriptionDelivery::AsyncSpawn(reactor) => Some(reactor),
            SubscriptionDelivery::HandOff => None,
        }
    }
}

/// The result of [`register_subscription`].
pub(crate) enum SubscriptionOutcome {
    /// `SubscriptionDelivery::AsyncSpawn`: the monitor is attached to the
    /// circuit's event queue; the caller records it in its subscription map.
    Circuit(CircuitSubscription),
    /// [`SubscriptionDelivery::HandOff`]: the live reader plus the metadata the
    /// caller needs to frame deliveries; no task was spawned.
    HandedOff(RegisteredSubscription),
    /// PCAS `verifyRequest` refused it; [`answer_pcas_refusal`] has answered
    /// and the circuit stays.
    Refused,
    /// The channel's PV is destroyed and the channel not yet retired. Nothing
    /// is sent: as PCAS queues its `channelDestroyEvent` behind a request it
    /// has accepted, the retirement's own `CA_PROTO_SERVER_DISCONN` is the
    /// answer, staged by the sweep the destruction's wake-up runs on either
    /// driver ([`retire_destroyed_channels`]).
    ChannelGone,
}

/// Everything the async caller needs to record a spawned subscription and emit
/// its `SubscriptionOpened` event.
pub(crate) struct CircuitSubscription {
    pub reader: epics_base_rs::server::event_queue::EventReader,
    pub monitor: Arc<CircuitMonitor>,
    pub target: ChannelTarget,
    pub channel_sid: u32,
    pub sub_id: u32,
    pub data_type: u16,
    pub data_count: u32,
    pub mask: u16,
}

/// A registered-but-not-spawned subscription handed to the blocking driver's
/// event thread. Carries the live [`EventReader`](epics_base_rs::server::event_queue::EventReader) plus everything
/// [`run_event_task`] needs to frame deliveries byte-identically to the async
/// producer.
pub(crate) struct RegisteredSubscription {
    pub reader: epics_base_rs::server::event_queue::EventReader,
    pub target: ChannelTarget,
    pub channel_sid: u32,
    pub sub_id: u32,
    pub data_type: u16,
    pub data_count: u32,
    pub monitor: Arc<CircuitMonitor>,
}

/// The subscription metadata [`cancel_subscription_reply`] needs, looked up by
/// the caller in its own registry (`state.subscriptions` for async,
/// the blocking-side map for the RTEMS driver).
pub(crate) struct CancelInfo {
    /// The install the cancel found, handed back on confirmation.
    pub id: epics_base_rs::server::event_queue::AttachId,
    pub channel_sid: u32,
    pub data_type: u16,
    pub data_count: u32,
    /// Its gate is revoked by [`cancel_subscription_reply`] immediately
    /// before it queues the delete-confirmed echo, so the revoke-then-confirm
    /// order lives in the shared helper and neither driver can get it wrong
    /// on its own.
    pub monitor: Arc<CircuitMonitor>,
}

/// Validate and register a CA subscription (C `event_add_action`,
/// `rsrv/camessage.c:1762-1866`): the caps / dedup / DBR-type / mask /
/// PR-#934 count-clamp / access / filter-chain parity logic plus the
/// initial `db_post_single_event` snapshot, extracted so the async TCP
/// dispatch and the blocking (RTEMS) driver share ONE copy. It performs
/// no `state.subscriptions` mutation and emits no connection events — the
/// caller owns those. In `SubscriptionDelivery::AsyncSpawn` mode it returns
/// [`SubscriptionOutcome::Circuit`]; in [`SubscriptionDelivery::HandOff`]
/// mode it returns the live
/// [`EventReader`](epics_base_rs::server::event_queue::EventReader) as [`SubscriptionOutcome::HandedOff`], so
/// the blocking driver's single event thread can multiplex it (the driver
/// has no async runtime to spawn onto). `channel_sub_count` is read from the
/// caller's own subscription registry so the per-channel cap consults the
/// right map.
pub(crate) async fn register_subscription(
    hdr: &CaHeader,
    payload: &[u8],
    state: &ClientState,
    writer: &Outbox,
    mode: SubscriptionDelivery,
    channel_sub_count: impl Fn() -> usize,
) -> CaResult<SubscriptionOutcome> {
    let sid = hdr.cid;
    let sub_id = hdr.available;
    let requested_type = hdr.data_type;
    // store the request's element count so each monitor
    // delivery and the EVENT_CANCEL ack can echo it (matches
    // C `event_add_action` capturing `pevext->msg` for later
    // `read_reply` / `event_cancel_reply` use).
    let mut requested_count = hdr.actual_count();

    // A simple PV's channel is PCAS's, which verifies the request before
    // anything else (`eventAddAction`).
    if let Err(refusal) = pcas_verify_request(state, hdr, state.client_minor_version() >= 13) {
        return answer_pcas_refusal(writer, hdr, state, refusal)
            .map(|()| SubscriptionOutcome::Refused);
    }

    let native_type = match native_type_for_dbr(requested_type) {
        Ok(t) => t,
        Err(_) => {
            // C `event_add_action` (camessage.c:1769-1771):
            // `INVALID_DB_REQ` (data_type > LAST_BUFFER_TYPE = 38)
            // returns RSRV_ERROR with NO error reply — the
            // connection just drops. Unlike WRITE / READ where
            // C emits CA_PROTO_ERROR + drops, EVENT_ADD is
            // silent. Match that wire shape: no send, just
            // disconnect. Clients see EOF without an ECA hint;
            // this matches C IOC behaviour exactly.
            return Err(epics_base_rs::error::CaError::Protocol(format!(
                "EVENT_ADD with unsupported DBR type {} (matches C event_add_action silent drop)",
                requested_type
            )));
        }
    };

    // C `event_add_action` (epics-base #934, 4128a7c07):
    // `INVALID_DB_REQ(m_dataType) || m_postsize < sizeof(*pmi)` is ONE
    // silent pre-lookup gate — a truncated `struct mon_info` (16 bytes:
    // three f32 dead-band fields, u16 mask, u16 pad) is RSRV_ERROR with
    // no reply frame, exactly like the bad-type arm above. Pre-fix a
    // short payload was accepted with a DBE_VALUE|DBE_ALARM default
    // mask C never applies.
    if payload.len() < 16 {
        return Err(epics_base_rs::error::CaError::Protocol(format!(
            "EVENT_ADD with truncated mon_info payload ({} < 16 bytes; matches C event_add_action silent drop)",
            payload.len()
        )));
    }
    let mask = u16::from_be_bytes([payload[12], payload[13]]);
    let entry = match state.channels.get(&sid) {
        Some(e) => e,
        None => {
            // C `event_add_action` (camessage.c:1773-1777):
            // `logBadId` + RSRV_ERROR on missing channel.
            // `logBadId` emits an ECA_INTERNAL "Bad Resource ID"
            // frame (cid=0xFFFFFFFF) before the disconnect — the
            // genuinely-silent EVENT_ADD path is only the
            // pre-lookup INVALID_DB_REQ (bad-TYPE) branch above,
            // which returns RSRV_ERROR with no send. This MUST run
            // before the mask==0 ALLOCMEM check below: in C the
            // missing-channel branch precedes the `db_add_event`
            // NULL (select==0) path, so an unknown SID draws the
            // ECA_INTERNAL frame regardless of mask.
            send_bad_resource_id(writer, hdr, LogBadId::EventAdd, state)?;
            return Err(epics_base_rs::error::CaError::Protocol(format!(
                "EVENT_ADD on unknown SID {} (matches C event_add_action logBadId + RSRV_ERROR)",
                sid
            )));
        }
    };

    // DoS guard: cap subscriptions per channel, where C's `event_ext`
    // allocation fails: after `MPTOPCIU`, with `RECORD_NAME(dbch)`
    // (`camessage.c:1840-1851`). Default-unbounded
    // (`None`) — C `event_add_action` imposes no per-channel
    // subscription count limit (see `max_subs_per_channel`). The
    // O(n) count is only paid when an opt-in cap is configured.
    if let Some(cap) = max_subs_per_channel() {
        let subs_for_channel = channel_sub_count();
        if subs_for_channel >= cap {
            return Err(refuse_install(
                writer,
                hdr,
                state,
                entry,
                InstallFailure::EventExt,
            ));
        }
    }

    // PR #934 (epics-base) parity: clamp the wire element count to
    // the channel's final element count BEFORE it is stored on the
    // subscription (`SubscriptionEntry::data_count`), so neither the
    // initial snapshot (`size_dbr_reply`) nor every
    // steady-state monitor delivery (the producer in `monitor.rs`)
    // can zero-fill past the channel's real capacity. C
    // `event_add_action`:
    // `if (mp->m_count > dbChannelFinalElements(pciu->dbch))
    //     mp->m_count = dbChannelFinalElements(pciu->dbch);`.
    // `requested_count == 0` is autosize and is preserved untouched.
    if requested_count != 0 && requested_count > entry.final_element_count {
        requested_count = entry.final_element_count;
    }

    // C `db_add_event` (dbEvent.c:437-439) returns NULL when
    // `select == 0 || select > UCHAR_MAX`, which propagates as
    // ECA_ALLOCMEM + disconnect (`camessage.c:1812-1823`). A zero mask
    // installs a subscription that never triggers; a mask above
    // UCHAR_MAX (the CA wire mask is a `u16`, so 256..=65535 is
    // reachable) is not a valid event select. Reject both immediately.
    // This is the `db_add_event` NULL path, which in C only runs for
    // a *valid* channel (after the missing-channel check above), so
    // `entry.cid` is always known here — no `u32::MAX` fallback.
    if mask == 0 || mask > u16::from(u8::MAX) {
        return Err(refuse_install(
            writer,
            hdr,
            state,
            entry,
            InstallFailure::DbAddEvent,
        ));
    }
    let long_string_mode = entry.long_string_mode;
    // C's `dbChannel` order whatever the JSON order: the pre chain runs on
    // the post, the post chain as each event is read (`dbEvent.c:901,923`,
    // `:984-985`).
    let (pre_chain, post_chain) = entry.filter_chain().split();
    let stage = super::DeliveryStage::new(
        &entry.target,
        post_chain,
        long_string_mode,
        entry.field_element_count,
        requested_type,
    );
    // Captured with them and for the same reason: the blocking driver's event
    // thread addresses its retirement frame by the CLIENT's cid, and the
    // `entry` borrow is released before the hand-off is built.
    let entry_cid = entry.cid;

    // EVENT_ADD must also consult the
    // channel's access_rights. A NoAccess peer mounting a
    // subscription would receive every value update —
    // identical leak to the `subscribe_raw` ACF
    // bypass on the PVA side. C IOC's `event_add_NoAccess`
    // returns ECA_NORDACCESS for the same reason.
    // Type-state EVENT_ADD gate. This closed the
    // missing per-op check; the typed `require_read` shape
    // is the path every future MONITOR-class op should
    // mirror.
    // C `event_add_action` (`rsrv/camessage.c:1762-1866`)
    // installs the event unconditionally and conditionally
    // enables it via `db_event_enable` only when
    // `asCheckGet(pciu->asClientPVT)` allows reads; on no-read
    // access the subscription stays installed but disabled
    // and the initial event is `no_read_access_event`. Pre-fix
    // Rust returned `ECA_NORDACCESS` here without installing —
    // a subscription opened while denied was permanently
    // absent, so a later ACF reload that granted access could
    // not re-arm anything. Capture access as a flag and let
    // the install path below populate the `denied` gate so
    // `reeval_access_rights` can flip it later (Bug 4 parity).
    let access_denied = state.lookup_access(sid).require_read().is_err();

    let target = entry.target.clone();
    // C `pevext`, handed to `db_add_event` as `user_arg`: every entry of this
    // monitor, the initial one included, is framed from it. C stores the
    // EVENT_ADD request (`pevext->msg`) with it, so each delivery is framed for
    // this client's negotiated version and echoes this header if unbuildable.
    // Its gate is revoked by whichever teardown confirms the cancellation
    // (C `db_cancel_event`).
    let monitor = Arc::new(CircuitMonitor {
        gate: crate::server::outbox::MonitorGate::open(),
        denied: AtomicBool::new(access_denied),
        ended: AtomicBool::new(false),
        data_type: requested_type,
        sub_id,
        data_count: requested_count,
        stats: state.stats.clone(),
        stage,
        target: target.clone(),
        req_hdr: *hdr,
        cid: entry_cid,
        db: state.db.clone(),
    });
    let context: epics_base_rs::server::event_queue::DeliveryContext = monitor.clone();
    // C `event_add_action` queues the initial value with
    // `db_post_single_event` (`camessage.c:1904`), through the monitor's own
    // pre-chain and into the circuit's ring, so EVENTS_OFF holds it like any
    // update and `read_reply` answers it with `no_read_access_event` when
    // read access is denied.
    let Ok(rx) = epics_base_rs::server::database::channel_io::add_event(
        &state.db,
        &target,
        &state.event_user,
        sub_id,
        native_type,
        mask,
        &context,
        pre_chain,
    ) else {
        if target.is_destroyed() {
            return Ok(SubscriptionOutcome::ChannelGone);
        }
        return Err(refuse_install(
            writer,
            hdr,
            state,
            entry,
            InstallFailure::DbAddEvent,
        ));
    };

    if mode.spawn_on().is_none() {
        return Ok(SubscriptionOutcome::HandedOff(RegisteredSubscription {
            reader: rx,
            target,
            channel_sid: sid,
            sub_id,
            data_type: requested_type,
            data_count: requested_count,
            monitor,
        }));
    }
    Ok(SubscriptionOutcome::Circuit(CircuitSubscription {
        reader: rx,
        monitor,
        target,
        channel_sid: sid,
        sub_id,
        data_type: requested_type,
        data_count: requested_count,
        mask,
    }))
}

/// Shared EVENT_CANCEL wire logic (C `event_cancel_reply`,
/// `rsrv/camessage.c:2035-2102`): validates the addressed channel and monitor
/// id and queues the cancel acknowledgement. Returns the install's id once
/// the ACK is queued — the caller then performs its (driver-specific)
/// teardown. Bad SID / bad mon-id already pushed the
/// CA_PROTO_ERROR frame and return `Err` (C `RSRV_ERROR` → the circuit ends).
/// `sub_info` is the addressed subscription as seen in the caller's registry.
pub(crate) fn cancel_subscription_reply(
    hdr: &CaHeader,
    state: &ClientState,
    writer: &Outbox,
    sub_info: Option<CancelInfo>,
) -> CaResult<epics_base_rs::server::event_queue::AttachId> {
    let sub_id = hdr.available;
    let req_channel_sid = hdr.cid;
    // C `event_cancel_reply` resolves the channel first (`MPTOPCIU`); an unknown
    // channel id draws `logBadId` (ECA_INTERNAL "Bad Resource ID") + RSRV_ERROR.
    let (entry_cid, entry_pv_name) = match state.channels.get(&req_channel_sid) {
        Some(entry) => (entry.cid, entry.target.rsrv_record_name()),
        None if state.retired.contains_key(&req_channel_sid) => {
            // PCAS `eventCancelAction` (`casStrmClient.cc:2252-2258`): unlike
            // the other requests, `logBadId` and the end of the circuit.
            pcas_log_bad_id(writer, hdr, state, 2257)?;
            return Err(epics_base_rs::error::CaError::Protocol(format!(
                "EVENT_CANCEL on retired SID {req_channel_sid} (PCAS eventCancelAction \
                 S_cas_badResourceId)"
            )));
        }
        None => {
            send_bad_resource_id(writer, hdr, LogBadId::EventCancel, state)?;
            return Err(epics_base_rs::error::CaError::Protocol(format!(
                "EVENT_CANCEL on unknown SID {} (matches C event_cancel_reply \
                 logBadId + RSRV_ERROR)",
                req_channel_sid
            )));
        }
    };
    // C walks the channel's eventq for a matching sub-id, which is where the
    // caller found `sub_info` ([`ClientState::find_subscription`]); one not on
    // it draws ECA_BADMONID + RSRV_ERROR.
    let Some(info) = sub_info else {
        tracing::debug!(
            sub_id,
            sid = req_channel_sid,
            "EVENT_CANCEL sub-id not on this channel; ECA_BADMONID"
        );
        send_ca_error(
            writer,
            hdr,
            ECA_BADMONID,
            entry_cid,
            entry_pv_name,
            state.client_minor_version(),
        )?;
        return Err(epics_base_rs::error::CaError::Protocol(format!(
            "EVENT_CANCEL sub-id {} not on sid {} (matches C event_cancel_reply \
             'not on this channel's eventq' RSRV_ERROR)",
            sub_id, req_channel_sid
        )));
    };
    // Stop the producer BEFORE the confirmation is queued. C
    // `event_cancel_reply` calls `db_cancel_event` (`camessage.c:2081`), which
    // nulls `user_sub` under LOCKEVQUE and waits out any in-flight callback,
    // and only then takes SEND_LOCK for the echo — so no monitor frame for
    // this subscription can follow it. Revoking here is that ordering, and it
    // is in the shared helper so both drivers get it from the one place; the
    // caller's own teardown (abort the task, drop the subscriber) may then run
    // at its leisure, because nothing it races with can still emit.
    info.monitor.gate.revoke();
    // C `event_cancel_reply` (`camessage.c:2089-2095`): echo the stored
    // EVENT_ADD request — m_dataType / m_count / m_cid (the SID) / m_available —
    // with a zero payload. A pre-V49 client's 16-bit count of 0xffff needs the
    // extended form, which ends the circuit.
    let Ok(frame) = copy_in_header(
        CA_PROTO_EVENT_ADD,
        info.data_type,
        info.data_count,
        info.channel_sid,
        sub_id,
        &[],
        state.client_minor_version(),
    ) else {
        return Err(epics_base_rs::error::CaError::Protocol(format!(
            "EVENT_CANCEL count {} needs an extended header (C event_cancel_reply RSRV_ERROR)",
            info.data_count
        )));
    };
    writer.push(frame);
    Ok(info.id)
}

/// One subscription's delivery context for the blocking driver's event thread —
/// the fields [`run_event_task`] needs to frame updates byte-identically to the
/// async server's event task ([`run_circuit_monitors`]).
pub(crate) struct MonitorDelivery {
    pub reader: epics_base_rs::server::event_queue::EventReader,
    pub target: ChannelTarget,
}

/// Control messages from the blocking dispatch thread to its single event
/// thread. Mirrors C: `event_add` hands the new subscription to the client's
/// one `event_task`, `event_cancel` removes it. Dropping the sender is the
/// disconnect signal (C `db_close_events`).
pub(crate) enum EventTaskControl {
    Add(Box<MonitorDelivery>),
    Cancel(epics_base_rs::server::event_queue::AttachId),
    /// A WRITE_NOTIFY whose record chain went async ([`serve_write_head`]
    /// returned [`WriteHeadOutcome::AsyncPending`]). The event thread awaits its
    /// completion receiver alongside the monitor readers and sends the deferred
    /// reply under the send lock — so the message thread never blocks on the
    /// put-callback (C `camsgtask`) and there is ONE owner of async socket
    /// writes (the event thread), never a third writer.
    WriteComplete(Box<PendingWriteNotify>),
    /// Retire the circuit's destroyed channels now and answer once their
    /// frames are staged. A request a destruction postponed runs again only
    /// after this, so its reply follows the `CA_PROTO_SERVER_DISCONN`: pcas
    /// drains the `channelDestroyEvent`s queued with the canceled IO before
    /// the IO's wakeup fires. Dropped unanswered if the peer is gone.
    Sweep(tokio::sync::oneshot::Sender<()>),
}

/// What one `select` cycle of [`run_event_task`] resolved to.
enum EventStep {
    /// The circuit's oldest entry, the monitor it is for, and C's
    /// `eventsRemaining`. Not boxed: a step lives on this task's stack for
    /// one turn, and a box is one allocation per delivered event.
    Delivered(bool),
    /// Subscription `idx`'s producer is gone and its entries are delivered.
    Ended(usize),
    /// The database destroyed something since the last sweep.
    Destroyed,
    /// A control message (`None` = the dispatch thread dropped the sender).
    Control(Option<EventTaskControl>),
    /// Pending write-completion `idx` ended.
    WriteDone(usize, WriteEnded),
}

/// Wait for the next in-flight put-callback to report, and say which one did.
///
/// The ONE copy of the rule both receive loops apply to a circuit's queue of
/// in-flight `CA_PROTO_WRITE_NOTIFY` completions. The queue is in the order
/// the requests arrived and `select_all` polls it in that order, so two
/// put-callbacks whose receivers are both ready reach the wire in the order
/// they were requested — C's per-client `putNotifyQue` FIFO
/// (`rsrv/camessage.c:1342` appends, `:1376` pops). Both owners route through
/// here so neither can acquire an order of its own: [`run_event_task`] for the
/// blocking driver, [`run_write_notify_queue`] for the async server.
///
/// An empty queue never reports, so a caller can `select` this against its
/// control channel without a special case.
async fn next_settled_write_notify(pending: &mut [PendingWriteNotify]) -> (WriteEnded, usize) {
    use futures_util::future::{pending as never_ready, select_all};

    if pending.is_empty() {
        return never_ready().await;
    }
    let rxs: Vec<_> = pending.iter_mut().map(|p| Box::pin(&mut p.rx)).collect();
    let (res, idx, _rest) = select_all(rxs).await;
    (res, idx)
}

/// Take every write `pending` owes a channel the database destroyed, in
/// arrival order, each with how it ended or ends now.
///
/// The other half of the rule [`next_settled_write_notify`] keeps: C posts a
/// dying vc's writes (`~gateVcData`, gateVc.cc:426-433) onto the client's
/// queue before `~casPV` queues the channel's destroy, so each is answered
/// ahead of `CA_PROTO_SERVER_DISCONN` — after it, libca would give the
/// put-callback ECA_DISCONN instead. Both owners retire through here.
fn take_owed_writes(
    pending: &mut Vec<PendingWriteNotify>,
    owed: impl Fn(&PendingWriteNotify) -> bool,
) -> Vec<(PendingWriteNotify, WriteEnded)> {
    let (taken, kept) = std::mem::take(pending).into_iter().partition(owed);
    *pending = kept;
    taken
        .into_iter()
        .map(|mut p: PendingWriteNotify| {
            let ended = p.rx.end_now();
            (p, ended)
        })
        .collect()
}

/// Await the next event across every active subscription, every pending
/// write-completion, and the control channel, in one `select`. C's `event_task`
/// blocks on one semaphore per `event_user`; here the per-subscription
/// [`EventReader`](epics_base_rs::server::event_queue::EventReader)s and the WRITE_NOTIFY completion oneshots are multiplexed with
/// `select_all`, and the control channel lets the dispatch thread add/cancel
/// subscriptions, hand over write completions, and signal shutdown.
/// `EventReader::recv` is cancel-safe and an unfired oneshot polled by `&mut`
/// retains its state, so the losing futures are simply dropped and rebuilt next
/// cycle. An empty collection is stood in for by a never-ready `pending()` so the
/// `select` shape stays uniform.
async fn next_event_step(
    events: &epics_base_rs::server::event_queue::EventUser,
    subs: &mut [MonitorDelivery],
    pending_writes: &mut [PendingWriteNotify],
    destroyed: &mut impl DestroyedChannels,
    control: &mut tokio::sync::mpsc::UnboundedReceiver<EventTaskControl>,
    slot: &mut Option<epics_base_rs::server::event_queue::CircuitEvent>,
) -> EventStep {
    use epics_base_rs::server::event_queue::CircuitEvent;
    use futures_util::future::{Either, select};

    // C `event_read`: the circuit's oldest entry, whichever monitor it is for,
    // framed from its slot's context — its `Add` may still be in the control
    // queue. A monitor not in `subs` yet has no end to report: `Add` drops a
    // destroyed target's reader.
    let readers = std::future::poll_fn(|cx| {
        loop {
            std::task::ready!(events.poll_next_into(cx, slot));
            match slot {
                Some(CircuitEvent::Event { remaining, .. }) => {
                    return std::task::Poll::Ready(EventStep::Delivered(*remaining));
                }
                Some(CircuitEvent::Ended(id)) => {
                    let id = *id;
                    *slot = None;
                    if let Some(idx) = subs.iter().position(|s| s.reader.id() == id) {
                        return std::task::Poll::Ready(EventStep::Ended(idx));
                    }
                }
                None => unreachable!("a ready poll fills the slot"),
            }
        }
    });
    let writes = next_settled_write_notify(pending_writes);
    let gone = destroyed.destroyed();
    let ctrl = control.recv();
    tokio::pin!(readers, writes, gone, ctrl);

    match select(select(select(readers, writes), gone), ctrl).await {
        Either::Left((Either::Left((Either::Left((step, _writes)), _gone)), _ctrl)) => step,
        Either::Left((Either::Left((Either::Right(((res, idx), _readers)), _gone)), _ctrl)) => {
            EventStep::WriteDone(idx, res)
        }
        Either::Left((Either::Right(((), _)), _ctrl)) => EventStep::Destroyed,
        Either::Right((ctrl_msg, _)) => EventStep::Control(ctrl_msg),
    }
}

/// [`run_event_task`]'s hold on the circuit's channel table, for the blocking
/// driver, whose dispatch thread is parked in `read` and cannot take a
/// wake-up.
///
/// pcas retires a destroyed channel from its event system, under the client
/// mutex the request path holds for each batch (`casEventSys::process`,
/// `casEventSys.cc:85-123`, run by `eventSysProcess`,
/// `casCoreClient.h:173-177`): `channelDestroyEventNotify` takes the channel
/// out of the table and commits its `CA_PROTO_SERVER_DISCONN` in one step
/// (`casStrmClient.cc:2171-2209`), monitored or not. libca fails every IO on
/// it with `ECA_DISCONN` (`cac::disconnectAllIO`,
/// `modules/ca/src/client/cac.cpp:676-694` at R7.0.10).
pub(crate) trait DestroyedChannels {
    /// Resolves once the database has destroyed something since it last did.
    async fn destroyed(&mut self);
    /// With the table held, retire every channel whose target is destroyed
    /// ([`retire_destroyed_channels`]) and hand their client cids to `stage`
    /// before letting go. `false` reports the peer gone.
    async fn retire(&mut self, stage: impl FnOnce(Vec<u32>) -> bool) -> bool;
}

/// A blocking driver's client under its lock, as [`ClientDestroys`] retires
/// against it. Synchronous, so the driver's own code awaits nothing.
pub(crate) trait LockedClient {
    fn state(&mut self) -> &mut ClientState;
    /// Channels were just retired: send the replies queued ahead of their
    /// `CA_PROTO_SERVER_DISCONN`s and drop their subscriptions. `false`
    /// reports the peer gone.
    fn channels_retired(&mut self) -> bool;
}

/// The blocking driver's [`DestroyedChannels`]: the database's destroy
/// wake-up, and the client lock to retire under.
pub(crate) struct ClientDestroys<C> {
    pub(crate) client: Arc<tokio::sync::Mutex<C>>,
    pub(crate) wake: broadcast::Receiver<()>,
    pub(crate) peer: SocketAddr,
}

impl<C: LockedClient> DestroyedChannels for ClientDestroys<C> {
    async fn destroyed(&mut self) {
        match self.wake.recv().await {
            // A missed wake still means "re-check what you serve".
            Ok(()) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            // The client holds the database, the sender's owner, until the
            // event thread is joined.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }

    async fn retire(&mut self, stage: impl FnOnce(Vec<u32>) -> bool) -> bool {
        let mut client = self.client.lock().await;
        let cids = retire_destroyed_channels(client.state(), self.peer, None).await;
        if !cids.is_empty() && !client.channels_retired() {
            return false;
        }
        stage(cids)
    }
}

/// The channels a test says were destroyed, by client cid; none by default.
#[cfg(test)]
#[derive(Clone, Default)]
pub(crate) struct DestroyedCids(Arc<std::sync::Mutex<Vec<u32>>>, Arc<tokio::sync::Notify>);

#[cfg(test)]
impl DestroyedCids {
    /// Destroy the channel `cid`, and wake the sweep as the database would.
    pub(crate) fn destroy(&self, cid: u32) {
        self.destroy_unannounced(cid);
        self.1.notify_one();
    }

    /// Destroy the channel `cid` without the wake-up yet: the window between
    /// a PV's destroy and the database's signal.
    pub(crate) fn destroy_unannounced(&self, cid: u32) {
        self.0.lock().unwrap().push(cid);
    }
}

#[cfg(test)]
impl DestroyedChannels for DestroyedCids {
    async fn destroyed(&mut self) {
        self.1.notified().await;
    }
    async fn retire(&mut self, stage: impl FnOnce(Vec<u32>) -> bool) -> bool {
        let cids = std::mem::take(&mut *self.0.lock().unwrap());
        stage(cids)
    }
}

/// Apply one control message to the event thread's own lists. A
/// [`EventTaskControl::Sweep`] is handed back, to be answered after the sweep.
fn take_control(
    msg: EventTaskControl,
    subs: &mut Vec<MonitorDelivery>,
    pending_writes: &mut Vec<PendingWriteNotify>,
) -> Option<tokio::sync::oneshot::Sender<()>> {
    match msg {
        // Accepted against a live PV that may have died since: the reader
        // has no stream left, and the sweep retires its channel.
        EventTaskControl::Add(d) => {
            if !d.target.is_destroyed() {
                subs.push(*d);
            }
        }
        EventTaskControl::Cancel(id) => subs.retain(|s| s.reader.id() != id),
        EventTaskControl::WriteComplete(p) => pending_writes.push(*p),
        EventTaskControl::Sweep(ack) => return Some(ack),
    }
    None
}

/// Retire every channel the database destroyed on this circuit. With the
/// table held, what the dispatch thread handed over before letting go of it
/// is taken first, so a write it accepted on a dying channel is answered
/// ahead of that channel's `CA_PROTO_SERVER_DISCONN`. `false` reports the
/// peer gone.
async fn retire_destroyed(
    destroyed: &mut impl DestroyedChannels,
    control: &mut tokio::sync::mpsc::UnboundedReceiver<EventTaskControl>,
    subs: &mut Vec<MonitorDelivery>,
    pending_writes: &mut Vec<PendingWriteNotify>,
    sink: &mut impl EventSink,
    client_minor: u16,
) -> bool {
    destroyed
        .retire(|cids| {
            let mut acks = Vec::new();
            while let Ok(msg) = control.try_recv() {
                acks.extend(take_control(msg, subs, pending_writes));
            }
            for cid in cids {
                if !retire_channel(cid, pending_writes, sink, client_minor) {
                    return false;
                }
            }
            for ack in acks {
                let _ = ack.send(());
            }
            true
        })
        .await
}

/// The blocking driver's retirement of channel `cid`: answer every write still
/// owed on it, then stage its `CA_PROTO_SERVER_DISCONN`. `false` reports the
/// peer gone.
fn retire_channel(
    cid: u32,
    pending_writes: &mut Vec<PendingWriteNotify>,
    sink: &mut impl EventSink,
    client_minor: u16,
) -> bool {
    {
        let to = StageNow::new(&mut *sink);
        for (mut p, ended) in take_owed_writes(pending_writes, |p| p.cid() == cid) {
            // An unshippable reply (16k-array boundary) is dropped, as
            // `WriteDone` drops it.
            if let Ok(false) = p.settle(ended, &to, client_minor, || !to.gone.get()) {
                return false;
            }
        }
        if to.gone.get() {
            return false;
        }
    }
    sink.stage(&server_disconn_frame(cid)).is_ok()
}

/// [`run_event_task`]'s side of the client's send buffer — C `client->send`
/// under `SEND_LOCK`, which the dispatch thread appends its replies to as
/// well, so the order of the two writers' frames is the order they were
/// staged in.
pub(crate) trait EventSink {
    /// C `cas_copy_in_header` + `cas_commit_msg`: append one complete frame,
    /// first sending what is buffered when the frame does not fit.
    fn stage(&mut self, frame: &[u8]) -> std::io::Result<()>;
    /// C `cas_copy_in_header` … `cas_commit_msg` with the payload converted in
    /// between: `build` appends one frame of about `len_hint` bytes to the
    /// buffer it is given and returns it, unchanged to drop the frame. This
    /// default builds it apart and stages the copy.
    fn stage_with(
        &mut self,
        len_hint: usize,
        build: impl FnOnce(Vec<u8>) -> Vec<u8>,
    ) -> std::io::Result<()> {
        let frame = build(Vec::with_capacity(len_hint));
        if frame.is_empty() {
            return Ok(());
        }
        self.stage(&frame)
    }
    /// C `cas_send_bs_msg`: put everything staged on the wire.
    fn send(&mut self) -> std::io::Result<()>;
}

/// [`run_event_task`]'s [`FrameSink`]: a monitor update is built straight into
/// the client's send buffer and any other frame staged as it is sealed, so
/// the event thread's frames join the one ordered reply stream the dispatch
/// thread stages into, in build order.
struct StageNow<'a, S: EventSink> {
    sink: std::cell::RefCell<&'a mut S>,
    /// A stage failed: the peer is gone and later frames are dropped.
    gone: std::cell::Cell<bool>,
}

impl<'a, S: EventSink> StageNow<'a, S> {
    fn new(sink: &'a mut S) -> Self {
        Self {
            sink: std::cell::RefCell::new(sink),
            gone: std::cell::Cell::new(false),
        }
    }
}

impl<S: EventSink> FrameSink for StageNow<'_, S> {
    fn frame_with(
        &self,
        hdr_len: usize,
        len_hint: usize,
        _credit: crate::server::outbox::Credit,
        build: impl FnOnce(&mut crate::server::frame::FrameBuf) -> Option<CaHeader>,
    ) {
        if self.gone.get() {
            return;
        }
        let staged = self.sink.borrow_mut().stage_with(len_hint, |buf| {
            let mut frame = crate::server::frame::FrameBuf::over(buf, hdr_len);
            match build(&mut frame) {
                Some(hdr) => frame.seal_in_place(&hdr),
                None => frame.abandon(),
            }
        });
        if staged.is_err() {
            self.gone.set(true);
        }
    }

    // The socket, not credit, bounds this thread.
    fn push_with(
        &self,
        frame: impl Into<crate::server::frame::PooledFrame>,
        _credit: crate::server::outbox::Credit,
    ) {
        let frame: crate::server::frame::PooledFrame = frame.into();
        if !self.gone.get() && self.sink.borrow_mut().stage(&frame).is_err() {
            self.gone.set(true);
        }
    }
}

/// [`run_event_task`]'s one exit path for staged frames: whatever ends the
/// task — clean disconnect, a failed stage, the future dropped — what is
/// staged still goes out, as it did when every frame was written at once.
struct FlushOnExit<S: EventSink>(S);

impl<S: EventSink> Drop for FlushOnExit<S> {
    fn drop(&mut self) {
        let _ = self.0.send();
    }
}

/// The blocking (RTEMS) driver's monitor event thread — the analogue of C
/// `event_task` (`dbEvent.c:1016`): ONE second thread per client that blocks
/// on the client's monitor event queue and, when `db_post_events` posts an
/// update, frames it and writes it to the client's TCP socket under the same
/// send lock the dispatch thread holds (C `client->lock`, `server.h:83`).
/// `db_post_events` stays enqueue-only; this thread is the sole consumer.
///
/// It takes the circuit's queued entries in post order
/// ([`EventUser::poll_next`](epics_base_rs::server::event_queue::EventUser::poll_next)) for the subscriptions the dispatch thread
/// adds via the control channel on EVENT_ADD and removes on EVENT_CANCEL, and
/// frames each delivery with [`super::monitor::send_event`] — the same builder
/// the async `deliver_monitor_event` uses — so a blocking-driver monitor update
/// is byte-identical to the async server's. The record-field DBR_CLASS_NAME
/// override (C `event_add_action` populates `record_type` per event) is applied
/// here for parity with the async `deliver_record_field_event`.
///
/// It is ALSO the single owner of async WRITE_NOTIFY completion writes: the
/// dispatch thread, forbidden from blocking on a put-callback (C `camsgtask`),
/// hands each [`PendingWriteNotify`] here via [`EventTaskControl::WriteComplete`];
/// this thread awaits the completion oneshot in the same `select` and, when it
/// fires, sends the deferred reply via [`PendingWriteNotify::settle`] under the
/// send lock. So there is no third socket writer — monitors and write
/// completions share this one owner. A destroyed channel's retirement is
/// staged here too, through [`DestroyedChannels`], behind the writes it owes.
///
/// Frames are staged into the client's send buffer and sent at the end of a
/// drained queue, or once nothing more is ready (see [`EventSink`]); on the
/// first error (peer gone) the thread exits. It returns when the control sender is dropped (clean disconnect) so
/// the dispatch thread can join it.
pub(crate) async fn run_event_task(
    events: Arc<epics_base_rs::server::event_queue::EventUser>,
    mut control: tokio::sync::mpsc::UnboundedReceiver<EventTaskControl>,
    mut destroyed: impl DestroyedChannels,
    sink: impl EventSink,
    minor: CircuitMinor,
) {
    let mut subs: Vec<MonitorDelivery> = Vec::new();
    // WRITE_NOTIFYs whose record chain went async, awaiting completion.
    let mut pending_writes: Vec<PendingWriteNotify> = Vec::new();
    // The shared `send_event` / `send_put_notify_response` builders stage
    // through a [`StageNow`].
    let mut sink = FlushOnExit(sink);
    // The circuit's oldest entry, moved here from its ring slot once and
    // framed in place; emptied before the next poll.
    let mut slot = None;
    loop {
        // C `read_reply` sends a delivered frame only `if (!eventsRemaining)`
        // (`camessage.c:525`, `:536`, `:593`), below. The frames the other
        // arms stage go out when the task is about to wait, never per frame
        // and never on a timer.
        let step = {
            let next = next_event_step(
                &events,
                &mut subs,
                &mut pending_writes,
                &mut destroyed,
                &mut control,
                &mut slot,
            );
            let mut next = std::pin::pin!(next);
            std::future::poll_fn(|cx| match next.as_mut().poll(cx) {
                std::task::Poll::Pending => match sink.0.send() {
                    Ok(()) => std::task::Poll::Pending,
                    Err(_) => std::task::Poll::Ready(None),
                },
                ready => ready.map(Some),
            })
            .await
        };
        let Some(step) = step else { break };
        match step {
            // Dispatch thread dropped the control sender: clean disconnect.
            EventStep::Control(None) => break,
            EventStep::Control(Some(msg)) => {
                let Some(ack) = take_control(msg, &mut subs, &mut pending_writes) else {
                    continue;
                };
                if !retire_destroyed(
                    &mut destroyed,
                    &mut control,
                    &mut subs,
                    &mut pending_writes,
                    &mut sink.0,
                    minor.get(),
                )
                .await
                {
                    break;
                }
                let _ = ack.send(());
            }
            EventStep::Destroyed => {
                if !retire_destroyed(
                    &mut destroyed,
                    &mut control,
                    &mut subs,
                    &mut pending_writes,
                    &mut sink.0,
                    minor.get(),
                )
                .await
                {
                    break;
                }
            }
            // The subscription went away — EVENT_CANCEL, CLEAR_CHANNEL — or
            // the PV behind it was destroyed, whose channel the sweep that
            // destruction wakes retires. Either way only the reader goes.
            EventStep::Ended(idx) => {
                subs.remove(idx);
            }
            EventStep::Delivered(remaining) => {
                use epics_base_rs::server::event_queue::CircuitEvent;
                use std::borrow::Cow;
                // The update is framed from the slot it was polled into; only a
                // post chain, which rewrites the log, takes it out.
                let Some(CircuitEvent::Event { context, event, .. }) = &slot else {
                    unreachable!("a delivered step leaves its event in the slot")
                };
                let step = match context.downcast_ref::<CircuitMonitor>() {
                    Some(m) if m.stage.is_identity() => Some(deliver_update(
                        m,
                        Cow::Borrowed(event),
                        &mut sink.0,
                        minor.get(),
                    )),
                    Some(_) => {
                        let Some(CircuitEvent::Event { context, event, .. }) = slot.take() else {
                            unreachable!()
                        };
                        let m = context
                            .downcast_ref::<CircuitMonitor>()
                            .expect("downcast above");
                        Some(deliver_update(
                            m,
                            Cow::Owned(event),
                            &mut sink.0,
                            minor.get(),
                        ))
                    }
                    None => None,
                };
                slot = None;
                let Some(step) = step else { continue };
                match step {
                    // Cancelled mid-flight: the frame is dropped and the
                    // reader stays in `subs` until the `Cancel` control
                    // message that follows the confirmation removes it. C
                    // runs no callback for it, so it sends nothing either.
                    None => {}
                    Some(DeliverStep::Delivered) => {
                        if !remaining && sink.0.send().is_err() {
                            break;
                        }
                    }
                    Some(DeliverStep::PeerGone) => break,
                }
            }
            EventStep::WriteDone(idx, res) => {
                // A deferred WRITE_NOTIFY's record chain settled. Send its
                // completion reply under the send lock through the SAME shared
                // tail the async server's completion task runs
                // (`PendingWriteNotify::settle`), so the deferred-reply bytes and
                // the decision about whether a reply is still owed are one copy,
                // not two.
                let mut p = pending_writes.remove(idx);
                // Staging INSIDE `settle` is what keeps this driver's two
                // writers in order: they meet only in the shared send buffer,
                // and the dispatch thread, released by this reply, would
                // otherwise be free to stage its own put-callback's reply
                // ahead of it.
                let to = StageNow::new(&mut sink.0);
                let committed = p.settle(res, &to, minor.get(), || !to.gone.get());
                match committed {
                    // Encoding the reply failed (16k-array boundary): the reply
                    // is unshippable, drop this completion and keep serving.
                    Err(_) => continue,
                    Ok(false) => break,
                    Ok(true) => {}
                }
            }
        }
    }
}

/// Test shim: the frame a monitor entry carrying `snapshot` gets, built by
/// the one builder every entry, the initial value included, goes through.
#[cfg(test)]
fn send_monitor_snapshot(
    writer: &Outbox,
    sub_id: u32,
    data_type: u16,
    requested_count: u32,
    snapshot: &epics_base_rs::server::snapshot::Snapshot,
    reply: ReplyContext,
) -> CaResult<()> {
    let mut read = snapshot.clone();
    super::monitor::send_event(
        RefusalChannel::UNNAMED,
        data_type,
        requested_count,
        sub_id,
        super::monitor::Update::of_read(&mut read),
        writer,
        crate::server::outbox::Credit::none(),
        &super::DeliveryStage::plain(),
        reply.client_minor,
        &reply.req_hdr,
    );
    Ok(())
}

/// Re-evaluate and re-send CA_PROTO_ACCESS_RIGHTS for all open channels.
/// Called when hostname or username changes (e.g. ACF reload).
///
/// Tracks the *transition* per channel because the C behaviour is
/// asymmetric: a read-access loss must push a single
/// `no_read_access_event` frame and silence subsequent deliveries,
/// while a read-access gain must re-enable deliveries and push one
/// current snapshot. C `casAccessRightsCB`
/// (`rsrv/camessage.c:1039-1107`) walks the channel's `eventq` and
/// calls `db_event_disable` / `db_event_enable` plus
/// `db_post_single_event` — the subscription itself is never
/// removed. Pre-fix Rust permanently destroyed the subscription
/// on a NoAccess transition (`state.subscriptions.remove +
/// task.abort`), so a later ACF reload that restored read access
/// left an orphaned camonitor: the C-equivalent re-arm never
/// happened, and the subscriber's callback receiver went silent
/// until the client noticed and re-subscribed manually.
async fn reeval_access_rights(state: &mut ClientState, writer: &Outbox) -> CaResult<()> {
    if state.channels.is_empty() {
        return Ok(());
    }
    let chan_info: Vec<(u32, u32, ChannelTarget)> = state
        .channels
        .iter()
        .map(|(&sid, entry)| (sid, entry.cid, entry.target.clone()))
        .collect();

    // (sid, old_level, new_level) — old defaults to NoAccess for a
    // sid the access cache has not seen before (parity with the
    // pre-fix `insert`-without-comparison behaviour for freshly
    // created channels).
    //
    // C `libcom/src/as/asLibRoutines.c:1047-1051` fires
    // `pclient->pcallback(... asClientCOAR)` (the COAR callback
    // that calls `casAccessRightsCB` → `access_rights_reply`)
    // ONLY when `oldaccess != access`. An ACF reload that leaves
    // every channel at the same level emits zero ACCESS_RIGHTS
    // frames in C. Pre-fix Rust unconditionally pushed a frame per
    // channel, generating an O(N) burst per connection on routine
    // reloads (typo fix, new UAG that doesn't intersect, etc.).
    // Mirror C: only emit on actual transition.
    let mut transitions: Vec<(u32, AccessLevel, AccessLevel)> = Vec::new();
    for (sid, cid, target) in chan_info {
        let (new_access, new_rule_was_trap) = state.compute_access(&target).await;
        let new_level = match new_access {
            3 => AccessLevel::ReadWrite,
            1 => AccessLevel::Read,
            _ => AccessLevel::NoAccess,
        };
        let old_level = state
            .channel_access
            .insert(sid, new_level)
            .unwrap_or(AccessLevel::NoAccess);
        // an ACF reload can change which rule grants
        // access (e.g. a new TRAPWRITE rule), so the trap mask
        // must be refreshed alongside the level.
        state.channel_trap.insert(sid, new_rule_was_trap);
        if old_level == new_level {
            continue;
        }
        transitions.push((sid, old_level, new_level));
        // Each CA_PROTO_ACCESS_RIGHTS frame is a complete header; push it
        // into the outbox for the connection loop to drain and flush.
        let mut ar = CaHeader::new(CA_PROTO_ACCESS_RIGHTS);
        ar.cid = cid;
        ar.available = new_access;
        writer.push(ar.to_bytes().to_vec());
    }

    fn has_read(level: AccessLevel) -> bool {
        matches!(level, AccessLevel::ReadWrite | AccessLevel::Read)
    }

    for (sid, old_level, new_level) in transitions {
        let old_read = has_read(old_level);
        let new_read = has_read(new_level);
        if old_read == new_read {
            continue;
        }
        // The channel's own monitor list, so a monitor the blocking driver
        // holds is re-armed as well as one on the async circuit.
        let Some(entry) = state.channels.get(&sid) else {
            continue;
        };
        if entry.subscriptions.is_empty() {
            continue;
        }
        // C `casAccessRightsCB` (`camessage.c:1114-1122`): a monitor losing
        // read access posts a single event, which `read_reply` answers with
        // `no_read_access_event`, and is then disabled; one regaining it is
        // enabled and then posts the current value. Both posts take the
        // monitor's pre-chain and ring like any update.
        for monitor in &entry.subscriptions {
            monitor.monitor.denied.store(!new_read, Ordering::Release);
            let id = monitor.id;
            match &entry.target {
                ChannelTarget::SimplePv(pv) => {
                    if new_read {
                        pv.set_subscriber_active(id, true);
                    }
                    pv.post_single_event(id);
                    if !new_read {
                        pv.set_subscriber_active(id, false);
                    }
                }
                ChannelTarget::RecordField { record, field } => {
                    if new_read {
                        record.write().set_subscriber_active(id, true);
                    }
                    epics_base_rs::server::database::channel_io::post_single_event(
                        &state.db, record, field, id,
                    );
                    if !new_read {
                        record.write().set_subscriber_active(id, false);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Which C function frames a WRITE_NOTIFY reply. A count a pre-V49 client
/// cannot take is sent as nothing in both, under different reports.
#[derive(Clone, Copy)]
enum NotifyReplyKind {
    /// `putNotifyErrorReply`.
    Error,
    /// `write_notify_reply`, the put's completion.
    Completion,
}

impl NotifyReplyKind {
    fn unframed_report(self) -> &'static str {
        match self {
            // `camessage.c:1527`, `__FILE__`/`__LINE__` as softIoc prints them.
            NotifyReplyKind::Error => {
                "../rsrv/camessage.c at 1528: should always get sufficient space for put \
                 notify error reply\n"
            }
            // `camessage.c:1444`.
            NotifyReplyKind::Completion => "CA server corrupted - put call back(s) discarded\n",
        }
    }
}

/// C `cas_copy_in_header` (`caserverio.c:250-326`) for a reply that echoes a
/// request: `count` is the request's annex `m_count` when it had one, and the
/// header goes extended when the count or `payload` needs 32 bits. `Err` is
/// C's `ECA_16KARRAYCLIENT`, which each C handler answers in its own way.
fn copy_in_header(
    cmmd: u16,
    data_type: u16,
    count: u32,
    cid: u32,
    available: u32,
    payload: &[u8],
    client_minor: u16,
) -> Result<Vec<u8>, ExtendedHeaderUnsupported> {
    let mut hdr = CaHeader::new(cmmd);
    hdr.data_type = data_type;
    hdr.cid = cid;
    hdr.available = available;
    hdr.set_payload_size(payload.len(), count, client_minor)?;
    let mut frame = hdr.to_bytes_extended().to_vec();
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// CA_PROTO_WRITE_NOTIFY reply with extended-form
/// count support. C `putNotifyErrorReply` / `write_notify_reply`
/// (`rsrv/camessage.c:1482-1502` / `1407-1410`) call
/// `cas_copy_in_header` with `mp->m_count` / `msgtmp.m_count` from
/// `caHdrLargeArray`, which is the decoded 32-bit count for
/// extended requests and re-emits in extended form when needed.
/// Pre-fix Rust set `resp.count = hdr.count as u16` and serialised
/// with `to_bytes()`, so a `ca_array_put_callback()` on a
/// `>= 0xFFFF`-element array received a normal-form Rust reply
/// with `count = 0` (the extended marker) where rsrv preserves
/// the count with an extended header.
fn send_put_notify_response(
    writer: &impl FrameSink,
    kind: NotifyReplyKind,
    data_type: u16,
    count: u32,
    eca_status: u32,
    ioid: u32,
    reply: ReplyContext,
) -> CaResult<()> {
    if let Some(frame) =
        put_notify_response_frame(kind, data_type, count, eca_status, ioid, reply.client_minor)
    {
        writer.push(frame);
    }
    Ok(())
}

/// The frame [`send_put_notify_response`] sends; `None`, reported, when the
/// count cannot be framed at `client_minor`.
fn put_notify_response_frame(
    kind: NotifyReplyKind,
    data_type: u16,
    count: u32,
    eca_status: u32,
    ioid: u32,
    client_minor: u16,
) -> Option<Vec<u8>> {
    let mut resp = CaHeader::new(CA_PROTO_WRITE_NOTIFY);
    resp.data_type = data_type;
    // postsize = 0 (WRITE_NOTIFY replies have no payload);
    // set_payload_size promotes to extended form when count >= 0xFFFF.
    if resp.set_payload_size(0, count, client_minor).is_err() {
        epics_base_rs::runtime::log::errlog_printf(kind.unframed_report());
        return None;
    }
    resp.cid = eca_status;
    resp.available = ioid;
    Some(resp.to_bytes_extended().to_vec())
}

/// C `send_err` then `log_header` for a message the receive gate refused.
pub(crate) fn report_gate_error(
    outbox: &Outbox,
    state: &ClientState,
    peer: impl std::fmt::Display,
    err: &crate::server::recv::GateError,
) {
    let _ = send_ca_error(
        outbox,
        &err.hdr,
        err.status,
        state.send_err_cid(&err.hdr),
        &err.diagnostic,
        state.client_minor_version(),
    );
    print_log_header(
        peer,
        &err.hdr,
        err.context,
        err.mnum,
        state.channel_addr(err.hdr.cid),
    );
}

/// C `log_header` (`camessage.c:282-307`), which every receive-gate refusal
/// prints after its `send_err`. `paddr` is the channel `m_cid` names on this
/// circuit, as `MPTOPCIU` finds it; glibc prints a NULL one as `(nil)`.
pub(crate) fn print_log_header(
    peer: impl std::fmt::Display,
    hdr: &CaHeader,
    context: &str,
    mnum: u32,
    paddr: Option<*const ()>,
) {
    use epics_base_rs::runtime::log::errlog_vprintf;
    let paddr = paddr.map_or_else(|| "(nil)".to_string(), |p| format!("{p:p}"));
    errlog_vprintf(format_args!("CAS: request from {peer} => {context}\n"));
    errlog_vprintf(format_args!(
        "CAS: Request from {peer} => cmmd={} cid={:#x} type={} count={} postsize={}\n",
        hdr.cmmd,
        hdr.cid,
        hdr.data_type,
        hdr.actual_count(),
        hdr.actual_postsize()
    ));
    errlog_vprintf(format_args!(
        "CAS: Request from {peer} =>   available={:#x} \tN={mnum} paddr={paddr}\n",
        hdr.available
    ));
}

/// `log_header`'s first line for a refusal of this port's own that has no
/// request header to print, on the errlog beside C's so `eltc 0` silences it.
pub(crate) fn log_circuit(peer: impl std::fmt::Display, context: impl std::fmt::Display) {
    epics_base_rs::runtime::log::errlog_vprintf(format_args!(
        "CAS: request from {peer} => {context}\n"
    ));
}

/// C `log_header` from a message handler, which passes `mnum` 0 and finds
/// the channel by `MPTOPCIU`.
fn log_request(state: &ClientState, hdr: &CaHeader, context: &str) {
    print_log_header(&state.peer, hdr, context, 0, state.channel_addr(hdr.cid));
}

/// C `bad_tcp_cmd_action` for an opcode a driver does not route: the
/// gate's frame and `log_header` lines; the caller ends the circuit.
pub(crate) fn refuse_bad_tcp_command(
    writer: &Outbox,
    hdr: &CaHeader,
    peer: SocketAddr,
    paddr: Option<*const ()>,
    client_minor: u16,
) -> epics_base_rs::error::CaError {
    let err = crate::server::recv::GateError::bad_tcp_command(*hdr);
    let _ = send_ca_error(
        writer,
        hdr,
        err.status,
        0xFFFF_FFFF,
        &err.diagnostic,
        client_minor,
    );
    print_log_header(peer, &err.hdr, err.context, err.mnum, paddr);
    epics_base_rs::error::CaError::Protocol(format!("unrouted TCP command {}", hdr.cmmd))
}

/// C `camsgtask.c:151`: the line every RSRV_ERROR from message handling
/// prints as it ends the circuit, whichever handler refused.
pub(crate) fn print_forcing_disconnect(peer: SocketAddr) {
    epics_base_rs::runtime::log::errlog_vprintf(format_args!(
        "CAS: forcing disconnect from {peer}\n"
    ));
}

/// C `read_reply` without read access (`camessage.c:534-535`): a monitor
/// entry is answered with `no_read_access_event`. While denied the subscriber
/// is disabled, so what reaches here is the single-event post the access
/// change queued, and entries queued before it. The frame is sized from the
/// subscription's own count, so an autosize request is denied with count 0
/// (`event_add_action` `camessage.c:1853-1858`, `no_read_access_event`
/// `:473-475`), not read_reply's `no_elements`.
pub(crate) fn send_denied_event(m: &CircuitMonitor, outbox: &impl FrameSink, minor: u16) {
    if refuse_unframeable_update(
        outbox,
        m.refusal_channel(),
        m.data_type,
        m.data_count,
        &m.stage,
        minor,
        &m.req_hdr,
    ) {
        return;
    }
    let _ = send_no_read_access_event(
        outbox,
        m.refusal_channel(),
        StatusEvent {
            cmd: CA_PROTO_EVENT_ADD,
            data_type: m.data_type,
            count: m.data_count,
            available: m.sub_id,
            eca_status: ECA_NORDACCESS,
        },
        m.reply(minor),
    );
}

/// Send a `no_read_access_event`-shaped reply: same wire frame as the
/// original READ_NOTIFY / EVENT_ADD command, with `m_cid` carrying the
/// ECA status and a `dbr_buffer_size`-sized zero payload. C
/// `no_read_access_event` (`rsrv/camessage.c:450-480`) and `read_reply`
/// (`camessage.c:540-557`) use this shape for READ_NOTIFY denials and
/// dbChannel_get failures — preserving the requested count and DBR
/// type so libca-style clients see the correct callback metadata even
/// on the error path.
/// C `read_reply` on a subscription update whose `dbChannel_get` failed
/// (`camessage.c:545-561`): a zeroed update, count 0 when autosized, with
/// `m_cid = ECA_GETFAIL`. The subscription stays.
pub(crate) fn send_get_fail_event(
    writer: &impl FrameSink,
    chan: RefusalChannel<'_>,
    data_type: u16,
    data_count: u32,
    sub_id: u32,
    reply: ReplyContext,
) {
    let _ = send_no_read_access_event(
        writer,
        chan,
        StatusEvent {
            cmd: CA_PROTO_EVENT_ADD,
            data_type,
            count: data_count,
            available: sub_id,
            eca_status: ECA_GETFAIL,
        },
        reply,
    );
}

/// The header fields of a zero-filled status update; `eca_status` rides in
/// `m_cid`, as C `read_reply` frames a refused read.
#[derive(Clone, Copy)]
pub(crate) struct StatusEvent {
    pub cmd: u16,
    pub data_type: u16,
    pub count: u32,
    pub available: u32,
    pub eca_status: u32,
}

fn send_no_read_access_event(
    writer: &impl FrameSink,
    chan: RefusalChannel<'_>,
    ev: StatusEvent,
    reply: ReplyContext,
) -> CaResult<()> {
    let (request_hdr, client_minor) = (&reply.req_hdr, reply.client_minor);
    match status_event_frame(ev, client_minor) {
        Some(frame) => {
            writer.push(frame);
            Ok(())
        }
        None => send_16k_array_client_err(
            writer,
            request_hdr,
            chan,
            UnloadedReply::ReadReply,
            ev.count,
            client_minor,
        ),
    }
}

/// The [`send_no_read_access_event`] frame, or `None` when `count` does not
/// fit the peer's header.
pub(crate) fn status_event_frame(ev: StatusEvent, client_minor: u16) -> Option<Vec<u8>> {
    let StatusEvent {
        cmd,
        data_type,
        count,
        available,
        eca_status,
    } = ev;
    let native = epics_base_rs::types::native_type_for_dbr(data_type)
        .unwrap_or(epics_base_rs::types::DbFieldType::Char);
    let payload_size = epics_base_rs::types::dbr_buffer_size(data_type, native, count as usize);
    let padded_size = align8(payload_size);
    let mut hdr = CaHeader::new(cmd);
    hdr.set_payload_size(padded_size, count, client_minor)
        .ok()?;
    hdr.data_type = data_type;
    hdr.cid = eca_status;
    hdr.available = available;
    let hdr_bytes = hdr.to_bytes_extended();
    // Build header + zero payload as one contiguous frame so a
    // task abort can only land at a frame boundary (same abort-
    // safety invariant as `send_event`).
    let mut frame = Vec::with_capacity(hdr_bytes.len() + padded_size);
    frame.extend_from_slice(&hdr_bytes);
    frame.resize(frame.len() + padded_size, 0);
    Some(frame)
}

/// Why a READ / READ_NOTIFY reply could not be framed. The two variants
/// mirror C's two framing-time failures; the async dispatch handler maps
/// each to its C-parity wire response (see the `build_read_reply` call site).
#[derive(Debug)]
enum ReadReplyError {
    /// `encode_dbr` rejected the requested DBR type — the direct parallel of
    /// C `read_action`'s `INVALID_DB_REQ(m_dataType)` (`camessage.c:616-620`).
    /// The deprecated READ answers `ECA_BADTYPE`; READ_NOTIFY stays silent.
    BadType,
    /// The framed payload needs the extended (24-byte) header but the client
    /// is pre-V49 and cannot parse it — C answers `ECA_16KARRAYCLIENT` and
    /// keeps the circuit (`camessage.c:622-631`). `count` is the header's.
    Oversize { count: u32 },
    /// `dbChannel_get`'s conversion returned a non-zero status — C
    /// `read_reply` answers with a zeroed payload and `m_cid = ECA_GETFAIL`
    /// (`camessage.c:540-557`), keeping the circuit. Distinct from
    /// [`Self::BadType`], which is a request the server can never serve and
    /// which tears the connection down.
    GetFail,
}

/// Sans-io core of the READ / READ_NOTIFY reply: turn a fully-materialized
/// snapshot plus the request parameters into the exact wire frame (extended
/// header + 8-aligned DBR payload), with no socket, database, or async.
///
/// The async dispatch handler is responsible for every I/O step first —
/// channel lookup, access checks, fetching the snapshot and applying the
/// filter chain, long-string mode, and STSACK / CLASS_NAME field reads. Once
/// the snapshot is finished, the wire bytes are a pure function of it and of
/// (`requested_type`, `requested_count`, `is_notify`, `cid`, `ioid`,
/// `client_minor`), which is exactly this function. That makes the READ
/// reply byte-production testable against a hand-built snapshot with no
/// socket in the loop.
// The send buffer joins seven request parameters that are all genuinely
// independent; grouping them into a single-use struct to satisfy the lint would
// hide the sans-io signature this function exists to expose.
#[allow(clippy::too_many_arguments)]
fn build_read_reply(
    pool: &std::sync::Arc<crate::server::frame::FramePool>,
    requested_type: u16,
    requested_count: u32,
    is_notify: bool,
    snapshot: &epics_base_rs::server::snapshot::Snapshot,
    cid: u32,
    ioid: u32,
    client_minor: u16,
) -> Result<crate::server::frame::PooledFrame, ReadReplyError> {
    // Header space reserved up front, payload encoded straight into it — see
    // `server::frame` for the C `cas_copy_in_header` shape this ports.
    let mut frame = FrameBuf::acquire(pool, 0);
    match encode_dbr_into(frame.dst(), requested_type, snapshot) {
        Ok(()) => {}
        Err(epics_base_rs::error::CaError::GetConvertFailed(_)) => {
            return Err(ReadReplyError::GetFail);
        }
        Err(_) => return Err(ReadReplyError::BadType),
    }
    // C `read_reply` (`rsrv/camessage.c:507-571`) keeps
    // the request count in the header and zero-fills the
    // payload when fewer elements are returned than requested
    // (`autosize = mp->m_count == 0` is the exception:
    // request count 0 means "all available"; otherwise the
    // response carries the requested count and pads with
    // zeros). Pre-fix Rust dropped the requested count on
    // a short array, so a `ca_array_get_callback(type,
    // count > native, ...)` saw a shorter response from
    // Rust than from rsrv.
    let actual_count = snapshot.value.count() as u32;
    // ORDER MATTERS: the deprecated-READ count==0 branch MUST
    // precede the DBR_CLASS_NAME normalization. C `read_action`
    // (rsrv/camessage.c:622-645) sizes EVERY type — including
    // DBR_CLASS_NAME — with `dbr_size_n(type, m_count)` and writes
    // the header count as `m_count` VERBATIM, with no class-name
    // special case. `dbr_size_n(DBR_CLASS_NAME, 0) = dbr_size[38]
    // - dbr_value_size[38] = 40 - 40 = 0`, so a deprecated READ of
    // DBR_CLASS_NAME at count==0 ships count=0 and a 0-byte
    // payload. Only the READ_NOTIFY / EVENT_ADD path (`read_reply`)
    // forces the fixed 40-byte class string at count 1 (CA-268).
    let element_count = if !is_notify && requested_count == 0 {
        // The deprecated synchronous CA_PROTO_READ (cmd 3) does
        // NOT treat m_count==0 as autosize. C `read_action`
        // (rsrv/camessage.c:622-645) sizes the reply with
        // `dbr_size_n(type, m_count)`, writes the header count as
        // `m_count`, and calls `dbChannel_get(.., m_count, ..)`
        // — all VERBATIM. Only `read_reply` (READ_NOTIFY /
        // EVENT_ADD, camessage.c:504-509) interprets m_count==0 as
        // "all available elements". So a deprecated READ with
        // count==0 must ship count=0 and a value-less payload of
        // `dbr_size_n(type, 0)` bytes == the type's metadata only
        // (0 bytes for a plain DBR type; the STS/TIME/GR/CTRL
        // header for a compound type, since `dbr_size_n(t,0)` ==
        // `dbr_size[t] - dbr_value_size[t]`). Pre-fix Rust shared
        // the autosize path for both opcodes and returned the full
        // native array with count=actual_native_count, diverging
        // from rsrv on both the wire count field and the payload
        // length.
        match epics_base_rs::types::native_type_for_dbr(requested_type) {
            Ok(native) => {
                // `dbr_buffer_size(.., 0)` equals `dbr_size_n(t, 0)`
                // for every type EXCEPT DBR_CLASS_NAME, where it
                // reports the fixed 40-byte string (the count>=1
                // framing size) rather than `dbr_size_n(38,0)=0`.
                // Use 0 for CLASS_NAME to match C's value-less
                // count==0 payload.
                let meta_size = if requested_type == epics_base_rs::types::DBR_CLASS_NAME {
                    0
                } else {
                    epics_base_rs::types::dbr_buffer_size(requested_type, native, 0)
                };
                if frame.payload_len() > meta_size {
                    frame.truncate_payload(meta_size);
                }
                0
            }
            // Unreachable for a type that already encoded above
            // (<= LAST_BUFFER_TYPE). If it ever weren't, fall back
            // to the autosize sizing so the header count still
            // matches the payload rather than shipping count=0
            // with a value-bearing body.
            // Unreachable for a type that already encoded above
            // (<= LAST_BUFFER_TYPE), and unreachable for
            // DBR_CLASS_NAME (whose native lookup succeeds). If it
            // ever weren't, fall through to the shared sizing so the
            // header count still matches the payload rather than
            // shipping count=0 with a value-bearing body.
            Err(_) => size_dbr_reply(&mut frame, requested_type, actual_count, requested_count),
        }
    } else {
        // Every other count — including DBR_CLASS_NAME's fixed single
        // element — is the shared `read_reply` sizing. Only the
        // deprecated-READ count==0 case above deviates from it.
        size_dbr_reply(&mut frame, requested_type, actual_count, requested_count)
    };
    // Deprecated CA_PROTO_READ (cmd 3) contracts a scalar
    // DBR_STRING payload to its NUL-terminated length before the
    // 8-byte alignment. C `read_action` (rsrv/camessage.c:666-680)
    // recomputes `payloadSize = epicsStrnLen(pStr, 40) + 1` for
    // `DBR_STRING && m_count == 1` when a NUL is found within the
    // 40-byte slot (otherwise it force-terminates byte 39 and keeps
    // the full 40), then `cas_commit_msg` (caserverio.c:350-366)
    // aligns the shortened size to 8 and rewrites m_postsize while
    // leaving the header count at 1. So `"OK"` commits an 8-byte
    // payload, not the fixed 40-byte slot. READ_NOTIFY / EVENT_ADD
    // never run this branch — C `read_reply` keeps the full slot —
    // so gate on `!is_notify`. `element_count == 1` is the scalar
    // case; arrays / count!=1 keep their full per-element slots.
    if !is_notify && requested_type == epics_base_rs::types::DBR_STRING && element_count == 1 {
        // epicsStrnLen(pStr, 40): the first NUL index, capped at the
        // 40-byte slot. Trim to value + its NUL only when a NUL
        // exists within the slot; the encoder always NUL-bounds a
        // scalar string at <= 39 chars (value.rs to_bytes), so the
        // no-NUL else-branch C guards against cannot arise here and
        // the full 40-byte slot is kept untouched if it ever did.
        let slot = frame.payload_len().min(40);
        if let Some(nul) = frame.payload()[..slot].iter().position(|&b| b == 0) {
            frame.truncate_payload(nul + 1);
        }
    }
    frame.align_payload();

    // For deprecated CA_PROTO_READ (cmd=3), the response carries
    // the *client-side* CID (`pciu->cid` in C `read_action`
    // — `camessage.c:623-624` passes `pciu->cid`, NOT
    // `pciu->sid`, to `cas_copy_in_header`). Modern libca's
    // `readRespAction` demuxes by ioid (`m_available`) and
    // ignores `m_cid` for READ responses, but pre-3.14 clients
    // and stricter wire validators (Wireshark CA dissector,
    // packet-level fuzzers) cross-check the field. Notify
    // clients (cmd=15) get ECA_NORMAL since READ_NOTIFY's cid
    // slot carries status, not the channel CID.
    let mut resp = if is_notify {
        let mut r = CaHeader::new(CA_PROTO_READ_NOTIFY);
        r.cid = ECA_NORMAL;
        r
    } else {
        let mut r = CaHeader::new(CA_PROTO_READ);
        r.cid = cid;
        r
    };
    // C client TCP parser requires 8-byte aligned postsize.
    // C `read_action` (`camessage.c:625-631`): a reply needing the
    // extended header for a pre-V49 client is not framed — the server
    // answers ECA_16KARRAYCLIENT and keeps the circuit.
    if resp
        .set_payload_size(frame.payload_len(), element_count, client_minor)
        .is_err()
    {
        return Err(ReadReplyError::Oversize {
            count: element_count,
        });
    }
    resp.data_type = requested_type;
    resp.available = ioid;

    // Abort-safety: `seal` yields the whole READ/READ_NOTIFY frame as ONE
    // contiguous buffer so the caller can hand it to the outbox in a
    // single `push`. A `send_timeout` cancel can only land at a frame
    // boundary — a partial frame can never be enqueued, so it can never
    // reach the connection loop's socket writer and mis-frame the
    // following messages. Same shape as the monitor path (`monitor.rs`).
    Ok(frame.seal(&resp))
}

/// Send a CA_PROTO_ERROR response with the original header echoed
/// into the payload and an error message.
///
/// Layout follows C `vsend_err` (`rsrv/camessage.c:139-245`):
///   * outer `m_cid` carries the *channel client cid* (i.e. the
///     client-side identifier of the channel the error relates to),
///     or `0xFFFFFFFF` for commands that aren't channel-scoped.
///   * outer `m_available` carries the ECA status code.
///   * payload is the original request header followed by a
///     NUL-terminated diagnostic string.
///
/// The previous implementation put the ECA status in `m_cid` and left
/// `m_available` zero, so libca's `exceptionRespAction`
/// (`cac.cpp:1116`) — which reads the status from `hdr.m_available` —
/// would surface every server-emitted CA_PROTO_ERROR as ECA_NORMAL
/// (status 0), silently masking the failure.
/// C `vsend_err` (rsrv/camessage.c:147,215-223) allocates a fixed
/// 512-byte buffer for the entire reply (outer header + echoed
/// request header + diagnostic + NUL), and `epicsVsnprintf` truncates
/// the formatted diagnostic if it would overflow. Mirror that bound
/// so a buggy caller (or future translated message catalog) can't
/// ship a CA_PROTO_ERROR whose payload exceeds the libca per-server
/// recv buffer or the extended-header threshold. 480 = 512 −
/// 2*sizeof(caHdr) matches the diagnostic budget C grants
/// `epicsVsnprintf`.
const CA_PROTO_ERROR_MAX_DIAG_LEN: usize = 480;

/// The two facts every reply needs about the request it answers, and they
/// are never meaningful apart: the request header C keeps for the reply
/// (`pevext->msg` for a subscription, the in-flight request for a
/// one-shot) and the peer's minor protocol version, which decides whether
/// the reply may use the extended (24-byte) header at all
/// (`caserverio.c:266-270` — a pre-V49 peer gets ECA_16KARRAYCLIENT
/// instead).
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplyContext {
    pub(crate) req_hdr: CaHeader,
    pub(crate) client_minor: u16,
}

/// One async monitor's delivery context — C `user_sub`/`user_arg` — handed
/// to the circuit's event task with each queued entry
/// ([`attach_with`](epics_base_rs::server::event_queue::attach_with)).
///
/// The one owner of the subscription's gate and access flag: the channel, the
/// circuit's registry and the cancel path hold this `Arc`, not copies of them.
/// Every field an update reads comes first, on one 64-byte line (C's
/// `event_ext` is freelist-allocated and walked in order instead); see the
/// `circuit_monitor_layout` test.
#[repr(C, align(64))]
pub(crate) struct CircuitMonitor {
    pub(crate) gate: crate::server::outbox::MonitorGate,
    /// C `asCheckGet` as `read_reply` sees it; flipped by
    /// [`reeval_access_rights`].
    pub(crate) denied: AtomicBool,
    /// The monitor's frame could not be built; its later entries are dropped.
    /// Only the event task touches it.
    pub(crate) ended: AtomicBool,
    pub(crate) data_type: u16,
    pub(crate) sub_id: u32,
    pub(crate) data_count: u32,
    pub(crate) stats: Option<Arc<super::stats::ServerStats>>,
    pub(crate) stage: super::DeliveryStage,
    pub(crate) target: ChannelTarget,
    // Cold: read only to refuse an update or by an option read.
    /// The EVENT_ADD request, echoed by a refusal.
    pub(crate) req_hdr: CaHeader,
    /// The client's id for the channel, which a refusal carries.
    pub(crate) cid: u32,
    /// The database a record-field delivery reads its options from.
    pub(crate) db: Arc<PvDatabase>,
}

#[cfg(test)]
pub(crate) static LIVE_OPTION_READS: std::sync::atomic::AtomicUsize =
    std::sync::atomic::AtomicUsize::new(0);

impl CircuitMonitor {
    /// The channel's options at delivery, through the door the monitor's
    /// initial value takes; a monitor never reads through a gateway read
    /// hook (`SimplePv::read_snapshot`). CLASS_NAME is the record's type.
    pub(crate) fn live_options(&self) -> Option<epics_base_rs::server::snapshot::Snapshot> {
        #[cfg(test)]
        LIVE_OPTION_READS.fetch_add(1, Ordering::Relaxed);
        let mut snap = get_full_snapshot(&self.db, &self.target)?;
        if self.data_type == epics_base_rs::types::DBR_STSACK_STRING {
            read_ack_state(&self.target, &mut snap.alarm);
        }
        if self.data_type == epics_base_rs::types::DBR_CLASS_NAME {
            if let ChannelTarget::RecordField { record, .. } = &self.target {
                snap.class_name = Some(record.read().record.record_type().to_string());
            }
        }
        Some(snap)
    }

    pub(crate) fn refusal_channel(&self) -> RefusalChannel<'_> {
        RefusalChannel::new(&self.cid, &self.target)
    }

    /// The reply context a refusal frames, assembled only on that path, at
    /// the minor its delivery read.
    pub(crate) fn reply(&self, client_minor: u16) -> ReplyContext {
        ReplyContext {
            req_hdr: self.req_hdr,
            client_minor,
        }
    }
}

#[cfg(test)]
mod circuit_monitor_layout {
    use super::*;
    use std::mem::{align_of, offset_of, size_of};

    #[test]
    fn every_field_an_update_reads_is_on_the_first_line() {
        assert_eq!(align_of::<CircuitMonitor>(), 64);
        let ends = [
            (
                "gate",
                offset_of!(CircuitMonitor, gate) + size_of::<crate::server::outbox::MonitorGate>(),
            ),
            ("denied", offset_of!(CircuitMonitor, denied) + 1),
            ("ended", offset_of!(CircuitMonitor, ended) + 1),
            ("data_type", offset_of!(CircuitMonitor, data_type) + 2),
            ("sub_id", offset_of!(CircuitMonitor, sub_id) + 4),
            ("data_count", offset_of!(CircuitMonitor, data_count) + 4),
            (
                "stats",
                offset_of!(CircuitMonitor, stats)
                    + size_of::<Option<Arc<super::super::stats::ServerStats>>>(),
            ),
            (
                "stage",
                offset_of!(CircuitMonitor, stage) + size_of::<super::super::DeliveryStage>(),
            ),
            (
                "target",
                offset_of!(CircuitMonitor, target) + size_of::<ChannelTarget>(),
            ),
        ];
        for (field, end) in ends {
            assert!(end <= 64, "{field} ends at byte {end}");
        }
    }
}

/// C `event_task` for the async server: the one consumer of this circuit's
/// event queues, so monitor updates reach the outbox in the order they were
/// posted across every monitor on the circuit, as `event_read` walks the
/// ring (`dbEvent.c:957-1006`).
pub(crate) async fn run_circuit_monitors(
    events: Arc<epics_base_rs::server::event_queue::EventUser>,
    outbox: Outbox,
    minor: CircuitMinor,
) {
    use epics_base_rs::server::event_queue::CircuitEvent;
    loop {
        // An ended stream needs nothing here: the connection loop retires a
        // destroyed channel itself (`sweep_destroyed_channels`).
        let CircuitEvent::Event { context, event, .. } =
            std::future::poll_fn(|cx| events.poll_next(cx)).await
        else {
            continue;
        };
        let Some(m) = context.downcast_ref::<CircuitMonitor>() else {
            continue;
        };
        if m.ended.load(Ordering::Relaxed) {
            continue;
        }
        match &m.target {
            ChannelTarget::SimplePv(_) => {
                super::monitor::deliver_monitor_event(m, event, &outbox, minor.get()).await
            }
            ChannelTarget::RecordField { .. } => {
                deliver_record_field_event(m, event, &outbox, minor.get()).await
            }
        }
    }
}

/// Deliver one queued entry of a record-field monitor.
async fn deliver_record_field_event(
    m: &CircuitMonitor,
    event: epics_base_rs::server::pv::MonitorEvent,
    outbox: &Outbox,
    minor: u16,
) {
    // One subscription update committed for delivery this cycle
    // (post-coalesce). PCAS `subscriptionEventsPosted` parity —
    // counted before the read-access gate so a suppressed
    // delivery reads as posted-but-not-processed, the same
    // `serverPostRate` > `serverEventRate` divergence the gateway
    // expects.
    if let Some(ref s) = m.stats {
        s.subscription_events_posted.fetch_add(1, Ordering::Relaxed);
    }
    if m.denied.load(Ordering::Acquire) {
        m.gate.deliver(|| send_denied_event(m, outbox, minor));
        return;
    }
    if refuse_unframeable_update(
        outbox,
        m.refusal_channel(),
        m.data_type,
        m.data_count,
        &m.stage,
        minor,
        &m.req_hdr,
    ) {
        return;
    }
    let mut read = None;
    let Some(update) = super::monitor::with_live_options(
        m.data_type,
        std::borrow::Cow::Owned(event),
        &mut read,
        || m.live_options(),
    ) else {
        send_get_fail_event(
            outbox,
            m.refusal_channel(),
            m.data_type,
            m.data_count,
            m.sub_id,
            m.reply(minor),
        );
        return;
    };
    // The post chain and the long-string conversion, a per-subscription
    // rewrite of a snapshot every other subscriber shares, so it takes the
    // copy-on-write path — and only when it has something to write, so an
    // identity stage (the common case) never copies.
    let mut log = None;
    let Some(delivery) = update.prepare(&m.stage, m.data_count, &mut log) else {
        return;
    };
    // Header space reserved up front, payload encoded straight into
    // it — see `server::frame` for the C `cas_copy_in_header` shape
    // this ports.
    let mut frame = FrameBuf::acquire(outbox.pool(), 0);
    if delivery.encode_dbr_into(frame.dst(), m.data_type).is_err() {
        send_get_fail_event(
            outbox,
            m.refusal_channel(),
            m.data_type,
            m.data_count,
            m.sub_id,
            m.reply(minor),
        );
        return;
    }
    // CA-268: an EVENT_ADD with explicit `count=1` on a waveform
    // gets one element, not the live N; `size_dbr_reply` owns the
    // request-count rule.
    let element_count = size_dbr_reply(&mut frame, m.data_type, delivery.count(), m.data_count);
    frame.align_payload();

    let mut ev = CaHeader::new(CA_PROTO_EVENT_ADD);
    // C client TCP parser requires 8-byte aligned postsize.
    // C `read_reply` (`camessage.c:515-524`): a pre-V49 client that
    // cannot parse the extended header gets ECA_16KARRAYCLIENT
    // instead of a de-syncing frame.
    if ev
        .set_payload_size(frame.payload_len(), element_count, minor)
        .is_err()
    {
        let _ = send_16k_array_client_err(
            outbox,
            &m.req_hdr,
            m.refusal_channel(),
            UnloadedReply::ReadReply,
            element_count,
            minor,
        );
        return;
    }
    ev.data_type = m.data_type;
    ev.cid = 1; // ECA_NORMAL
    ev.available = m.sub_id;

    // Back-pressure, taken once this event is known to become a
    // frame (`super::outbox` invariant). With the outbox full this
    // parks the circuit's event task and later posts coalesce in the
    // ring instead of queueing.
    let credit = outbox.reserve().await;
    // `seal` yields the whole EVENT_ADD frame as ONE contiguous
    // buffer, handed to the outbox with a single synchronous
    // `push_with`, so the disconnect abort can only land at a frame
    // boundary. The enqueue happens inside the gate, so a cancel
    // confirmation queued after `revoke` cannot be overtaken by this
    // frame (C `db_cancel_event` before SEND_LOCK).
    if m.gate
        .deliver(|| outbox.push_with(frame.seal(&ev), credit))
        .is_some()
    {
        // Frame handed to the outbox — PCAS
        // `subscriptionEventsProcessed` parity (gateway
        // `serverEventRate`).
        if let Some(ref s) = m.stats {
            s.subscription_events_processed
                .fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The connection loop's handle on its [`run_circuit_monitors`] task.
/// Dropping it aborts the task, for the reason [`WriteNotifyQueue`]'s drop
/// does.
/// The options a record-field update encodes are read at delivery, as
/// `dbGet` reads them (`dbAccess.c:336-414`); the event supplies value,
/// alarm, time and utag only.
#[cfg(test)]
mod denied_event_frame {
    use super::*;
    use epics_base_rs::types::{DBR_DOUBLE, DBR_TIME_DOUBLE};

    /// A count-0 EVENT_ADD without read access is answered with count 0 and a
    /// `dbr_size_n(type, 0)` body. softIoc R7.0.10 with `RULE(1,NONE)`, a raw
    /// client's reply on an ai and a 4-element waveform alike:
    ///
    /// ```text
    /// dbr=6:  cmd=1 postsize=0  type=6  count=0 cid(status)=0x170
    /// dbr=20: cmd=1 postsize=16 type=20 count=0 cid(status)=0x170 body=0*16
    /// ```
    #[epics_macros_rs::epics_test]
    async fn an_autosize_denial_is_count_0_with_a_zero_count_body() {
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(ai, "X") { field(VAL, "1.5") }
record(waveform, "W") { field(FTVL, "DOUBLE") field(NELM, "4") }"#,
                &std::collections::HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        for name in ["X", "W"] {
            for (data_type, postsize) in [(DBR_DOUBLE, 0), (DBR_TIME_DOUBLE, 16)] {
                let target = ChannelTarget::RecordField {
                    record: db.get_record(name).unwrap(),
                    field: "VAL".into(),
                };
                let m = super::delivery_reads_options::monitor(&db, target, data_type);
                let (outbox, mut drain) = crate::server::outbox::channel();
                send_denied_event(&m, &outbox, crate::protocol::CA_MINOR_VERSION);
                let frame = drain.try_next().expect("one frame");
                let word = |i: usize| u16::from_be_bytes([frame[i], frame[i + 1]]);
                assert_eq!(
                    (word(0), word(2), word(4), word(6)),
                    (CA_PROTO_EVENT_ADD, postsize, data_type, 0),
                    "{name} dbr={data_type}"
                );
                assert_eq!(
                    u32::from_be_bytes(frame[8..12].try_into().unwrap()),
                    ECA_NORDACCESS
                );
                assert_eq!(frame.len(), 16 + postsize as usize);
                assert!(frame[16..].iter().all(|&b| b == 0));
            }
        }
    }
}

#[cfg(test)]
mod delivery_reads_options {
    use super::*;
    use epics_base_rs::server::pv::MonitorEvent;
    use epics_base_rs::server::recgbl::EventMask;
    use epics_base_rs::server::snapshot::Snapshot;
    use epics_base_rs::types::{
        DBR_CLASS_NAME, DBR_CTRL_DOUBLE, DBR_DOUBLE, DBR_GR_DOUBLE, DBR_STS_DOUBLE,
        DBR_TIME_DOUBLE, DBR_TIME_STRING, EpicsValue, decode_dbr,
    };

    async fn ai_db() -> Arc<PvDatabase> {
        let db = Arc::new(PvDatabase::new());
        db.add_record(
            "X",
            Box::new(epics_base_rs::server::records::ai::AiRecord::new(1.0)),
        )
        .await
        .unwrap();
        db.put_pv("X.PREC", EpicsValue::Short(4)).await.unwrap();
        db.put_pv("X.EGU", EpicsValue::String("mm".into()))
            .await
            .unwrap();
        db
    }

    pub(super) fn monitor(
        db: &Arc<PvDatabase>,
        target: ChannelTarget,
        data_type: u16,
    ) -> CircuitMonitor {
        CircuitMonitor {
            target,
            db: db.clone(),
            cid: 0,
            sub_id: 1,
            data_type,
            data_count: 0,
            denied: AtomicBool::new(false),
            gate: crate::server::outbox::MonitorGate::open(),
            stage: super::super::DeliveryStage::plain(),
            req_hdr: CaHeader::new(CA_PROTO_EVENT_ADD),
            stats: None,
            ended: AtomicBool::new(false),
        }
    }

    fn field(db: &PvDatabase) -> ChannelTarget {
        ChannelTarget::RecordField {
            record: db.get_record("X").unwrap(),
            field: "VAL".into(),
        }
    }

    /// X's live snapshot with what the poster saw: PREC 0, EGU "in", and
    /// the value, alarm, time and utag given.
    fn posted(db: &PvDatabase, value: f64, status: u16, severity: u16) -> MonitorEvent {
        let mut snap = get_full_snapshot(db, &field(db)).unwrap();
        let display = snap.display.as_mut().unwrap();
        display.precision = 0;
        display.units = "in".into();
        snap.value = EpicsValue::Double(value);
        snap.alarm.status = status;
        snap.alarm.severity = severity;
        snap.timestamp = epics_base_rs::types::WallTime::from_unix(1_700_000_000, 500);
        snap.user_tag = 5;
        MonitorEvent::read_log(&mut snap, EventMask::VALUE)
    }

    async fn deliver(m: &CircuitMonitor, event: MonitorEvent) -> Snapshot {
        let (outbox, mut drain) = crate::server::outbox::channel();
        match &m.target {
            ChannelTarget::SimplePv(_) => {
                crate::server::monitor::deliver_monitor_event(
                    m,
                    event,
                    &outbox,
                    crate::protocol::CA_MINOR_VERSION,
                )
                .await
            }
            ChannelTarget::RecordField { .. } => {
                deliver_record_field_event(m, event, &outbox, crate::protocol::CA_MINOR_VERSION)
                    .await
            }
        }
        let frame = drain.try_next().expect("one frame");
        assert_eq!(u16::from_be_bytes([frame[0], frame[1]]), CA_PROTO_EVENT_ADD);
        let count = u16::from_be_bytes([frame[6], frame[7]]) as usize;
        decode_dbr(m.data_type, &frame[16..], count).unwrap()
    }

    #[epics_macros_rs::epics_test]
    async fn a_ctrl_update_carries_the_records_prec_not_the_events() {
        let db = ai_db().await;
        let m = monitor(&db, field(&db), DBR_CTRL_DOUBLE);
        let got = deliver(&m, posted(&db, 1.5, 0, 0)).await;
        assert_eq!(got.precision(), Some(4));
        assert_eq!(got.value, EpicsValue::Double(1.5));
    }

    /// A value-mode `ts` log is a DBF_ULONG, so `dbGet` turns DBR_PRECISION
    /// off and keeps units and limits (`dbAccess.c:387-394`). softIoc
    /// R7.0.10, `caget -d DBR_CTRL_DOUBLE 'T.VAL{"ts":{"num":"sec"}}'` on an
    /// ai with PREC 3, EGU mm, HOPR 10, LOPR -10: `Units: mm`,
    /// `Precision: 0`, `Hi disp limit: 10`; `{"num":"dbl"}`: `Precision: 3`.
    #[epics_macros_rs::epics_test]
    async fn a_ts_seconds_ctrl_update_carries_no_prec() {
        use epics_base_rs::server::database::filters::{
            FilterChain,
            ts::{TimestampFilter, TsMode},
        };
        let db = ai_db().await;
        db.put_pv("X.HOPR", EpicsValue::Double(10.0)).await.unwrap();
        for (mode, prec) in [(TsMode::Seconds, 0), (TsMode::Double, 4)] {
            let mut chain = FilterChain::new();
            chain.push(Arc::new(TimestampFilter::with_mode(mode)));
            let mut m = monitor(&db, field(&db), DBR_CTRL_DOUBLE);
            m.stage = super::super::DeliveryStage::new(
                &m.target,
                chain,
                super::super::LongStringMode::Plain,
                1,
                DBR_CTRL_DOUBLE,
            );
            let got = deliver(&m, posted(&db, 1.5, 0, 0)).await;
            assert_eq!(got.precision(), Some(prec), "{mode:?}");
            let display = got.display.as_ref().unwrap();
            assert_eq!(display.units, "mm", "{mode:?}");
            assert_eq!(display.upper_disp_limit, 10.0, "{mode:?}");
        }
    }

    /// A string conversion reads the record's PREC too (`getDoubleString`).
    #[epics_macros_rs::epics_test]
    async fn a_time_string_update_formats_with_the_records_prec() {
        let db = ai_db().await;
        let m = monitor(&db, field(&db), DBR_TIME_STRING);
        let got = deliver(&m, posted(&db, 1.5, 0, 0)).await;
        assert_eq!(got.value, EpicsValue::String("1.5000".into()));
    }

    #[epics_macros_rs::epics_test]
    async fn a_time_update_reads_nothing_from_the_record() {
        let db = ai_db().await;
        let m = monitor(&db, field(&db), DBR_TIME_DOUBLE);
        let before = LIVE_OPTION_READS.load(Ordering::Relaxed);
        for v in 0..5 {
            deliver(&m, posted(&db, f64::from(v), 0, 0)).await;
        }
        assert_eq!(LIVE_OPTION_READS.load(Ordering::Relaxed) - before, 0);
    }

    /// `caput X.EGU` posts no DBE_PROPERTY on an ai, yet the next GR update
    /// carries the new units, as `getOptions` reads them at delivery.
    #[epics_macros_rs::epics_test]
    async fn a_gr_update_after_an_egu_put_carries_the_new_units() {
        let db = ai_db().await;
        let m = monitor(&db, field(&db), DBR_GR_DOUBLE);
        let event = posted(&db, 2.0, 0, 0);
        db.put_pv("X.EGU", EpicsValue::String("km".into()))
            .await
            .unwrap();
        let got = deliver(&m, event).await;
        assert_eq!(
            got.units().map(|u| u.as_str_lossy().into_owned()),
            Some("km".into())
        );
    }

    #[epics_macros_rs::epics_test]
    async fn a_class_name_update_carries_the_record_type_and_a_simple_pv_none() {
        let db = ai_db().await;
        let m = monitor(&db, field(&db), DBR_CLASS_NAME);
        let got = deliver(&m, posted(&db, 2.0, 0, 0)).await;
        assert_eq!(got.class_name.as_deref(), Some("ai"));

        let pv = Arc::new(epics_base_rs::server::pv::ProcessVariable::new(
            "S",
            EpicsValue::Double(0.0),
        ));
        let m = monitor(&db, ChannelTarget::SimplePv(pv.clone()), DBR_CLASS_NAME);
        let (outbox, mut drain) = crate::server::outbox::channel();
        let event = MonitorEvent::read_log(&mut pv.snapshot(), EventMask::VALUE);
        crate::server::monitor::deliver_monitor_event(
            &m,
            event,
            &outbox,
            crate::protocol::CA_MINOR_VERSION,
        )
        .await;
        let frame = drain.try_next().expect("one frame");
        assert_eq!(&frame[16..56], &[0u8; 40][..]);
    }

    /// A STSACK update carries the record's ACKT/ACKS (`dbAccess.c:361-362`),
    /// whatever the event holds. softIoc R7.0.10, `caget -d
    /// DBR_STSACK_STRING` after PINI on the same records:
    ///
    /// ```text
    /// X   Status: HIHI  Severity: MAJOR    Ack transient?: YES  Ack severity: MAJOR
    /// SI  Status: LINK  Severity: INVALID  Ack transient?: YES  Ack severity: INVALID
    /// ```
    #[epics_macros_rs::epics_test]
    async fn a_stsack_update_carries_the_records_ackt_and_acks() {
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(ai, "X") { field(HIHI, "5") field(HHSV, "MAJOR") field(VAL, "10") }
record(stringin, "SI") { field(SIMM, "YES") field(SIOL, "abc") field(SIMS, "MAJOR") }"#,
                &std::collections::HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        for (name, want) in [("X", (1, 2)), ("SI", (1, 3))] {
            db.process_record(name)
                .await
                .or_else(epics_base_rs::error::CaError::unless_process_status)
                .unwrap();
            let target = ChannelTarget::RecordField {
                record: db.get_record(name).unwrap(),
                field: "VAL".into(),
            };
            let mut snap = get_full_snapshot(&db, &target).unwrap();
            snap.alarm.ackt = Some(0);
            snap.alarm.acks = Some(0);
            let event = MonitorEvent::read_log(&mut snap, EventMask::ALARM);
            let m = monitor(&db, target, epics_base_rs::types::DBR_STSACK_STRING);
            let (outbox, mut drain) = crate::server::outbox::channel();
            deliver_record_field_event(&m, event, &outbox, crate::protocol::CA_MINOR_VERSION).await;
            let frame = drain.try_next().expect("one frame");
            let word = |i: usize| u16::from_be_bytes([frame[16 + i], frame[17 + i]]);
            assert_eq!((word(4), word(6)), want, "{name} ackt/acks");
        }
    }

    /// Value, status, severity and time are the posted ones on every class,
    /// whatever the record holds by delivery.
    #[epics_macros_rs::epics_test]
    async fn value_alarm_and_time_are_the_events_on_every_class() {
        let db = ai_db().await;
        let event = posted(&db, 7.0, 3, 1);
        db.put_pv("X.VAL", EpicsValue::Double(9.0)).await.unwrap();
        for data_type in [
            DBR_DOUBLE,
            DBR_STS_DOUBLE,
            DBR_TIME_DOUBLE,
            DBR_GR_DOUBLE,
            DBR_CTRL_DOUBLE,
        ] {
            let m = monitor(&db, field(&db), data_type);
            let got = deliver(&m, event.clone()).await;
            assert_eq!(got.value, EpicsValue::Double(7.0), "{data_type}");
            if data_type != DBR_DOUBLE {
                assert_eq!(
                    (got.alarm.status, got.alarm.severity),
                    (3, 1),
                    "{data_type}"
                );
            }
            if data_type == DBR_TIME_DOUBLE {
                assert_eq!(got.timestamp, event.time());
            }
        }
        // utag rides no CA DBR, so it is held at the source.
        let m = monitor(&db, field(&db), DBR_CTRL_DOUBLE);
        let mut read = None;
        crate::server::monitor::with_live_options(
            m.data_type,
            std::borrow::Cow::Owned(event),
            &mut read,
            || m.live_options(),
        )
        .unwrap();
        let read = read.expect("a CTRL update encodes the channel read");
        assert_eq!(read.user_tag, 5);
    }
}

struct CircuitMonitors {
    task: epics_base_rs::runtime::task::TaskAbortHandle,
}

impl Drop for CircuitMonitors {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a READ / READ_NOTIFY keeps while its snapshot is fetched: the request
/// header, and its element count after the gates' clamp.
#[derive(Clone, Copy)]
pub(crate) struct ReadRequest {
    hdr: CaHeader,
    count: u32,
}

/// A GET's snapshot, as `get_read_snapshot` gives it.
type ReadResult =
    Result<Option<epics_base_rs::server::snapshot::Snapshot>, epics_base_rs::error::CaError>;

/// PCAS `casAsyncReadIOI`: this circuit's GETs that could not answer at once,
/// each answered by the connection loop when its fetch settles.
///
/// One channel's replies leave in request order, so a fetch that settles
/// ahead of an earlier one on its channel waits for it. A channel retired with
/// reads still parked takes them unanswered, as `casChannelI`'s destructor
/// does with `destroyAllIO`.
#[cfg(tokio_backend)]
pub(crate) struct ParkedReads {
    /// Per channel, in request order.
    channels: HashMap<u32, std::collections::VecDeque<ParkedRead>>,
    settled_tx: tokio::sync::mpsc::UnboundedSender<SettledRead>,
    settled_rx: tokio::sync::mpsc::UnboundedReceiver<SettledRead>,
    next_token: u64,
}

#[cfg(tokio_backend)]
struct ParkedRead {
    token: u64,
    read: ReadRequest,
    fetch: epics_base_rs::runtime::task::TaskAbortHandle,
    /// The fetch's result, held while an earlier read of the channel is
    /// still unanswered.
    settled: Option<ReadResult>,
}

/// A parked read leaves by being answered, by its channel's retirement or
/// with the circuit; each drops it, and this stops its fetch on all three.
#[cfg(tokio_backend)]
impl Drop for ParkedRead {
    fn drop(&mut self) {
        self.fetch.abort();
    }
}

#[cfg(tokio_backend)]
struct SettledRead {
    sid: u32,
    token: u64,
    result: ReadResult,
}

#[cfg(tokio_backend)]
impl Default for ParkedReads {
    fn default() -> Self {
        let (settled_tx, settled_rx) = tokio::sync::mpsc::unbounded_channel();
        Self {
            channels: HashMap::new(),
            settled_tx,
            settled_rx,
            next_token: 0,
        }
    }
}

#[cfg(tokio_backend)]
impl ParkedReads {
    /// Whether a read of `sid` is still unanswered.
    fn holds(&self, sid: u32) -> bool {
        self.channels.contains_key(&sid)
    }

    /// Park `read` at the tail of its channel, its snapshot fetched by `fetch`
    /// on `reactor`.
    fn park(
        &mut self,
        reactor: &epics_base_rs::runtime::task::Reactor,
        sid: u32,
        read: ReadRequest,
        fetch: impl std::future::Future<Output = ReadResult> + Send + 'static,
    ) {
        use futures_util::FutureExt;
        let token = self.next_token;
        self.next_token += 1;
        let tx = self.settled_tx.clone();
        let task = reactor.spawn(async move {
            // A fetch that panicked still settles, or every later read of its
            // channel would wait behind it.
            let result = std::panic::AssertUnwindSafe(fetch)
                .catch_unwind()
                .await
                .unwrap_or_else(|_| {
                    Err(epics_base_rs::error::CaError::Protocol(
                        "GET fetch panicked".into(),
                    ))
                });
            let _ = tx.send(SettledRead { sid, token, result });
        });
        self.channels.entry(sid).or_default().push_back(ParkedRead {
            token,
            read,
            fetch: task.abort_handle(),
            settled: None,
        });
    }

    /// The next fetch to settle. Cancel-safe; pending while nothing is parked.
    async fn next_settled(&mut self) -> SettledRead {
        match self.settled_rx.recv().await {
            Some(settled) => settled,
            // `settled_tx` lives in `self`, so the channel never closes.
            None => std::future::pending().await,
        }
    }

    /// Record `settled`, and take every read of its channel it lets answer,
    /// in request order.
    fn settle(&mut self, settled: SettledRead) -> Vec<(ReadRequest, ReadResult)> {
        let Some(queue) = self.channels.get_mut(&settled.sid) else {
            return Vec::new();
        };
        let Some(parked) = queue.iter_mut().find(|p| p.token == settled.token) else {
            return Vec::new();
        };
        parked.settled = Some(settled.result);
        let mut ready = Vec::new();
        while let Some(result) = queue.front_mut().and_then(|p| p.settled.take()) {
            let parked = queue.pop_front().expect("front was just read");
            ready.push((parked.read, result));
        }
        if queue.is_empty() {
            self.channels.remove(&settled.sid);
        }
        ready
    }

    /// PCAS `destroyAllIO`: `sid`'s parked reads go unanswered.
    fn free_channel(&mut self, sid: u32) {
        self.channels.remove(&sid);
    }
}

/// PCAS `casAsyncReadIOI::cbFuncAsyncIO`: answer what a settled fetch lets
/// answer, from the channel as it stands now.
#[cfg(tokio_backend)]
fn answer_parked_reads(
    state: &mut ClientState,
    writer: &Outbox,
    settled: SettledRead,
) -> CaResult<()> {
    let sid = settled.sid;
    let ready = state.parked_reads.settle(settled);
    let Some(entry) = state.channels.get(&sid) else {
        return Ok(());
    };
    for (read, result) in ready {
        answer_read(writer, &read, entry, result, state.client_minor_version())?;
    }
    Ok(())
}

/// What the async server's connection loop tells its put-callback completion
/// owner.
enum WriteNotifyQueueMsg {
    /// A freshly forked put-callback joins the tail of the queue.
    Queue(Box<PendingWriteNotify>),
    /// `CA_PROTO_CLEAR_CHANNEL` freed this channel, so drop its still-pending
    /// put-callbacks unanswered — C `clear_channel_reply` calls
    /// `rsrvFreePutNotify` for the same reason (`rsrv/camessage.c:1889`),
    /// because a stuck async record must not later emit a completion carrying
    /// a cleared channel's ioid into the client's ioid demultiplex.
    FreeChannel(u32),
    /// The database destroyed these channels' targets: answer every write
    /// still owed on them ([`take_owed_writes`]), then report back, so the
    /// connection loop sends `CA_PROTO_SERVER_DISCONN` after the answers.
    #[cfg(tokio_backend)]
    Retire(Vec<u32>, tokio::sync::oneshot::Sender<()>),
}

/// The connection loop's handle on its [`run_write_notify_queue`] owner.
struct WriteNotifyQueue {
    tx: tokio::sync::mpsc::UnboundedSender<WriteNotifyQueueMsg>,
    task: epics_base_rs::runtime::task::TaskAbortHandle,
}

impl WriteNotifyQueue {
    /// Hand a forked put-callback to the owner, at the tail.
    ///
    /// A send that finds the owner gone drops the value here, which drops its
    /// completion token with the put-log bracket still inside — the same
    /// cancel AfterWrite dropping the queue produces.
    fn queue(&self, pending: PendingWriteNotify) {
        let _ = self.tx.send(WriteNotifyQueueMsg::Queue(Box::new(pending)));
    }

    /// C `rsrvFreePutNotify` (`rsrv/camessage.c:1889`).
    fn free_channel(&self, sid: u32) {
        let _ = self.tx.send(WriteNotifyQueueMsg::FreeChannel(sid));
    }

    /// Answer what `sids` are owed, returning once the answers are queued.
    #[cfg(tokio_backend)]
    async fn retire(&self, sids: Vec<u32>) {
        let (done, answered) = tokio::sync::oneshot::channel();
        if self
            .tx
            .send(WriteNotifyQueueMsg::Retire(sids, done))
            .is_ok()
        {
            let _ = answered.await;
        }
    }
}

/// Connection teardown: a stuck async record (motor hung, asyn device
/// unresponsive) would otherwise hold the owner and its captured [`Outbox`]
/// handle forever after the client disconnects.
///
/// This is a `Drop` rather than a `shutdown()` the teardown path calls
/// because the handle is the only thing that can stop the owner: every way
/// the circuit can end — the teardown below, an error return further up,
/// `handle_client`'s future being dropped — drops `ClientState`, and only
/// this reaches the abort on all of them. The explicit call it replaces sat
/// on one path.
impl Drop for WriteNotifyQueue {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One queued update of `m`, framed into the send buffer under its gate:
/// `None` when EVENT_CANCEL confirmed it while in flight.
fn deliver_update(
    m: &CircuitMonitor,
    event: std::borrow::Cow<'_, epics_base_rs::server::pv::MonitorEvent>,
    sink: &mut impl EventSink,
    client_minor: u16,
) -> Option<DeliverStep> {
    // Read before the gate, which a cancel can hold this thread
    // in; `None` is a failed get, framed inside it.
    let mut read = None;
    let source =
        super::monitor::with_live_options(m.data_type, event, &mut read, || m.live_options());
    // The gate spans BUILD AND STAGING here, not just the enqueue
    // as on the async path: this driver's frames reach the wire
    // through the client's send buffer, shared with the dispatch
    // thread, so that is where the cancel confirmation could
    // overtake them. Holding it across
    // the stage can park the dispatch thread inside `revoke`, which
    // is what C does too: `db_cancel_event` blocks in
    // `db_sync_event` while the event task is inside a callback
    // that is itself writing under SEND_LOCK.
    //
    // `None` from `deliver` means EVENT_CANCEL confirmed this
    // subscription while the update was in flight; C discards
    // every log still queued for a cancelled subscription
    // (`user_sub == NULL` under LOCKEVQUE), so dropping it is the
    // C answer, not an approximation of one.
    m.gate.deliver(|| {
        // C `db_event_get_field`: one subscription update committed
        // this cycle (PCAS `subscriptionEventsPosted`), counted
        // before the read-access gate.
        if let Some(ref s) = m.stats {
            s.subscription_events_posted.fetch_add(1, Ordering::Relaxed);
        }
        let to = StageNow::new(sink);
        let denied = m.denied.load(Ordering::Acquire);
        if denied {
            send_denied_event(m, &to, client_minor);
        } else if let Some(update) = source {
            super::monitor::send_event(
                m.refusal_channel(),
                m.data_type,
                m.data_count,
                m.sub_id,
                update,
                &to,
                crate::server::outbox::Credit::none(),
                &m.stage,
                client_minor,
                &m.req_hdr,
            );
        } else {
            send_get_fail_event(
                &to,
                m.refusal_channel(),
                m.data_type,
                m.data_count,
                m.sub_id,
                m.reply(client_minor),
            );
        }
        if to.gone.get() {
            return DeliverStep::PeerGone;
        }
        // Frame written (PCAS `subscriptionEventsProcessed`).
        if !denied {
            if let Some(ref s) = m.stats {
                s.subscription_events_processed
                    .fetch_add(1, Ordering::Relaxed);
            }
        }
        DeliverStep::Delivered
    })
}

/// What one gated monitor delivery decided, so the decision can leave the
/// gate's critical section before `subs` is mutated (`deliver` borrows it).
enum DeliverStep {
    /// The frame went out, or was suppressed by the read-access gate.
    Delivered,
    /// The socket write failed; the client is gone.
    PeerGone,
}

/// One step of the put-callback completion owner's loop, in the shape
/// [`next_event_step`] uses for the same reason: the `select` borrows the
/// queue, so the decision has to leave the borrow before the queue is
/// mutated.
enum WriteNotifyStep {
    /// The connection loop spoke; `None` means it is gone.
    Control(Option<WriteNotifyQueueMsg>),
    /// The queue entry at this index reported, with what its receiver yielded.
    Settled(usize, WriteEnded),
}

async fn next_write_notify_step(
    pending: &mut [PendingWriteNotify],
    control: &mut tokio::sync::mpsc::UnboundedReceiver<WriteNotifyQueueMsg>,
) -> WriteNotifyStep {
    use futures_util::future::{Either, select};

    let settled = next_settled_write_notify(pending);
    let ctrl = control.recv();
    tokio::pin!(settled, ctrl);

    match select(settled, ctrl).await {
        Either::Left(((res, idx), _ctrl)) => WriteNotifyStep::Settled(idx, res),
        Either::Right((msg, _settled)) => WriteNotifyStep::Control(msg),
    }
}

/// Single owner of one async-server circuit's `CA_PROTO_WRITE_NOTIFY`
/// completion replies — the async loop's counterpart to the queue
/// [`run_event_task`] already keeps for the blocking driver.
///
/// C settles every one of a client's put-callbacks from one place: the
/// database's completion callback appends to the per-client `putNotifyQue`
/// (`write_notify_done_callback`, `rsrv/camessage.c:1342`) and the single
/// `write_notify_reply` drain pops it and commits the frame
/// (`camessage.c:1376-1422`), so the wire order is the queue order. The async
/// server used to `tokio::spawn` one task per put-callback instead, and two
/// completions that reported together then reached the outbox in whatever
/// order the multi-thread scheduler happened to run their tasks — measured at
/// 40 reversals in 300 runs of two same-channel put-callbacks with the runtime
/// pinned to two CPUs, and 0 in 800 on an idle 96-CPU box, which is why it
/// surfaced as an intermittent full-workspace failure rather than as a bug.
///
/// Order here is completion order with arrival order as the tie-break, which
/// is what C's FIFO gives. It is *arrival* order exactly when C makes it so:
/// two put-callbacks contending on one record are serialised by the database's
/// restart list (C `restartCheck`, `dbNotify.c:156-169`) before either
/// receiver can fire, and two on one channel are the same record. Two
/// put-callbacks on unrelated records are unordered in C too.
///
/// Ends when the connection drops its sender. Whatever is still queued is
/// dropped unanswered, firing each completion token's cancel AfterWrite — C
/// `asTrapWriteAfter` on a put-callback that never got to reply.
async fn run_write_notify_queue(
    mut control: tokio::sync::mpsc::UnboundedReceiver<WriteNotifyQueueMsg>,
    outbox: Outbox,
    minor: CircuitMinor,
) {
    let mut pending: Vec<PendingWriteNotify> = Vec::new();
    loop {
        match next_write_notify_step(&mut pending, &mut control).await {
            WriteNotifyStep::Control(None) => break,
            WriteNotifyStep::Control(Some(WriteNotifyQueueMsg::Queue(p))) => pending.push(*p),
            WriteNotifyStep::Control(Some(WriteNotifyQueueMsg::FreeChannel(sid))) => {
                pending.retain(|p| p.sid != sid)
            }
            #[cfg(tokio_backend)]
            WriteNotifyStep::Control(Some(WriteNotifyQueueMsg::Retire(sids, done))) => {
                for (mut p, ended) in take_owed_writes(&mut pending, |p| sids.contains(&p.sid)) {
                    let _ = p.settle(ended, &outbox, minor.get(), || true);
                }
                let _ = done.send(());
            }
            WriteNotifyStep::Settled(idx, res) => {
                // Settling removes the entry, so the queue is bounded by what
                // is genuinely in flight — no reaping pass to keep it so.
                let mut p = pending.remove(idx);
                // An unshippable reply (16k-array boundary) is dropped, as it
                // is on the blocking driver's owner; the circuit keeps serving.
                // The commit is a no-op: `outbox` is the one writer task's
                // queue, so the push `settle` made is already the wire order.
                let _ = p.settle(res, &outbox, minor.get(), || true);
            }
        }
    }
}

/// A `CA_PROTO_ERROR` diagnostic. C `vsend_err` formats it with `%s`, so a
/// record name goes on the wire as its bytes.
pub(crate) trait CaDiag {
    fn write_to(&self, out: &mut Vec<u8>);
}

impl CaDiag for [u8] {
    fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl CaDiag for str {
    fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
}

impl CaDiag for String {
    fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
}

impl CaDiag for std::fmt::Arguments<'_> {
    fn write_to(&self, out: &mut Vec<u8>) {
        std::io::Write::write_fmt(out, *self).expect("writing to a Vec cannot fail");
    }
}

impl<T: CaDiag + ?Sized> CaDiag for &T {
    fn write_to(&self, out: &mut Vec<u8>) {
        (**self).write_to(out);
    }
}

impl<A: CaDiag, B: CaDiag, C: CaDiag> CaDiag for (A, B, C) {
    fn write_to(&self, out: &mut Vec<u8>) {
        self.0.write_to(out);
        self.1.write_to(out);
        self.2.write_to(out);
    }
}

/// C `read_reply` frames an update's header from the request before it checks
/// access or reads (`camessage.c:510-528`), so an autosize request stands for
/// every element of the field whatever the value holds. `true` when that
/// header is refused and the refusal has been queued in the update's place.
pub(crate) fn refuse_unframeable_update(
    outbox: &impl FrameSink,
    chan: RefusalChannel<'_>,
    data_type: u16,
    data_count: u32,
    stage: &super::DeliveryStage,
    client_minor: u16,
    // Read only when the update is refused.
    req_hdr: &CaHeader,
) -> bool {
    let count = stage.item_count(data_count);
    if !crate::server::frame::header_refused(data_type, count, client_minor) {
        return false;
    }
    let _ = send_16k_array_client_err(
        outbox,
        req_hdr,
        chan,
        UnloadedReply::ReadReply,
        count,
        client_minor,
    );
    true
}

/// The channel a refusal names, as C `send_err` does: `pciu->cid` in `m_cid`
/// and `RECORD_NAME` in the context. Both are read only when a refusal is
/// reported, as C reads them only inside `send_err`: a monitor update builds
/// one of these per post, and an eager read cost the event thread a line.
#[derive(Clone, Copy)]
pub(crate) struct RefusalChannel<'a> {
    cid: &'a u32,
    target: Option<&'a ChannelTarget>,
}

impl<'a> RefusalChannel<'a> {
    pub(crate) fn new(cid: &'a u32, target: &'a ChannelTarget) -> Self {
        Self {
            cid,
            target: Some(target),
        }
    }

    /// No channel: cid 0 and an empty name.
    #[cfg(test)]
    pub(crate) const UNNAMED: RefusalChannel<'static> = RefusalChannel {
        cid: &0,
        target: None,
    };

    fn pv(&self) -> &'a [u8] {
        self.target.map_or(b"", ChannelTarget::rsrv_record_name)
    }
}

/// Which C reply a refused frame was: the two `send_err` texts differ.
#[derive(Clone, Copy)]
pub(crate) enum UnloadedReply {
    /// `read_action` (`camessage.c:632-638`).
    Read,
    /// `read_reply` (`camessage.c:516-528`), for an update and a READ_NOTIFY.
    /// Its check precedes the access check, so a denied reply draws this text
    /// and `no_read_access_event`'s own is never reached.
    ReadReply,
}

/// The reply to one READ / READ_NOTIFY whose snapshot is in hand: C
/// `read_action` / `read_reply` past `dbChannel_get`, and PCAS `readResponse`
/// / `readNotifyResponse` for one that completed through `ParkedReads`. One
/// function, so a read answered late cannot answer differently from one
/// answered at once.
fn answer_read(
    writer: &Outbox,
    read: &ReadRequest,
    entry: &ChannelEntry,
    snapshot: ReadResult,
    client_minor: u16,
) -> CaResult<()> {
    let hdr = &read.hdr;
    let is_notify = hdr.cmmd == CA_PROTO_READ_NOTIFY;
    let requested_type = hdr.data_type;
    let requested_count = read.count;
    let ioid = hdr.available;
    let snapshot = match snapshot {
        Ok(s) => s,
        // The PV died under the read: C's `delete vc` drops it
        // unanswered (gatePv.cc:599) and the channel retires with
        // SERVER_DISCONN.
        Err(_) if entry.target.is_destroyed() => return Ok(()),
        Err(e) => {
            tracing::debug!(error = %e, "ca server: read hook (no-cache get) failed");
            if is_notify {
                // C `read_reply` get-failure branch
                // (`rsrv/camessage.c:540-557`): on
                // `dbChannel_get_count() < 0` it keeps the
                // CA_PROTO_READ_NOTIFY reply, abuses `m_cid` to
                // carry ECA_GETFAIL, and commits a
                // `dbr_size_n(type, count)` ZEROED body at the
                // requested count (autosize `m_count==0` resets
                // count to 0 and sizes `dbr_size_n(type, 0)`).
                // Same abused-cid wire shape as the no-read-access
                // frame, so it shares the builder below; the prior
                // `send_cmd_error` emitted `count=0` + an empty
                // body, which diverged from the C wire form.
                send_no_read_access_event(
                    writer,
                    entry.refusal_channel(),
                    StatusEvent {
                        cmd: CA_PROTO_READ_NOTIFY,
                        data_type: requested_type,
                        count: requested_count,
                        available: ioid,
                        eca_status: ECA_GETFAIL,
                    },
                    ReplyContext {
                        req_hdr: *hdr,
                        client_minor,
                    },
                )?;
            } else {
                let record_name = entry.target.rsrv_record_name();
                send_ca_error(
                    writer,
                    hdr,
                    ECA_GETFAIL,
                    entry.cid,
                    record_name,
                    client_minor,
                )?;
            }
            return Ok(());
        }
    };
    let Some(snapshot) = snapshot else {
        if is_notify {
            // No snapshot (no-cache shadow PV with no upstream
            // value): surface ECA_BADCHID through the same C
            // `read_reply` abused-cid frame as the get-failure
            // branch above — requested count + `dbr_size_n` zeroed
            // body — not the prior `count=0`/empty `send_cmd_error`.
            send_no_read_access_event(
                writer,
                entry.refusal_channel(),
                StatusEvent {
                    cmd: CA_PROTO_READ_NOTIFY,
                    data_type: requested_type,
                    count: requested_count,
                    available: ioid,
                    eca_status: ECA_BADCHID,
                },
                ReplyContext {
                    req_hdr: *hdr,
                    client_minor,
                },
            )?;
        }
        return Ok(());
    };
    // run the channel filter chain on the read value
    // before DBR encoding. epics-base `dbChannelRunPreChain`
    // (db_access.c:160-168 / dbChannel.c:641-648) runs the same
    // pre-chain on a filtered read channel. `apply_to_read_snapshot`
    // uses read context, so stream-only filters (`dec`/`sync`)
    // pass through while `arr`/`ts`/`dbnd` transform; an empty
    // chain (no suffix / malformed) is the identity. Applied
    // BEFORE the requested-count truncate so the client's `-#`
    // count caps the FILTERED result, matching C (arr slices
    // first, then the count limits).
    // C's `dbChannel` order whatever the JSON order: the pre chain,
    // then the post chain on a `$` channel's char image.
    // `Err` is a request type `dbGet` refuses (`S_db_badDbrtype`).
    let snapshot = prepare_read(
        &entry.target,
        entry.filter_chain(),
        entry.long_string_mode,
        entry.field_element_count,
        requested_type,
        requested_count,
        snapshot,
    );

    // Sans-io boundary: `snapshot` is now fully materialized — the
    // filter chain, long-string mode, and the STSACK / CLASS_NAME
    // field reads (all above) are the only I/O this command needs.
    // `build_read_reply` turns the finished snapshot and the request
    // parameters into the exact wire frame as a pure, socket-free
    // computation; the connection loop's outbox owner is the only
    // code that touches the socket. Emit by pushing the bytes.
    let reply = snapshot
        .map_err(|_| ReadReplyError::GetFail)
        .and_then(|snapshot| {
            build_read_reply(
                writer.pool(),
                requested_type,
                requested_count,
                is_notify,
                &snapshot,
                entry.cid,
                ioid,
                client_minor,
            )
        });
    match reply {
        Ok(frame) => writer.push(frame),
        Err(ReadReplyError::BadType) => {
            // C `read_action` (camessage.c:616-620) checks
            // `INVALID_DB_REQ(m_dataType)` (type >
            // LAST_BUFFER_TYPE = 38) BEFORE any DB lookup and
            // returns `RSRV_ERROR` which tears the connection
            // down. Other read-path failures (cas_copy_in_header
            // budget, access denied, dbChannel_get, caNetConvert
            // host-net) all return RSRV_OK and keep the
            // connection — those don't apply here.
            //
            // Rust `encode_dbr` failure with `UnsupportedType`
            // is the direct parallel of INVALID_DB_REQ —
            // emit the error + drop the connection.
            //
            // C `read_notify_action`
            // (`rsrv/camessage.c:695-697`) returns
            // `RSRV_ERROR` on `INVALID_DB_REQ` WITHOUT
            // emitting any wire frame — only the deprecated
            // `read_action` (camessage.c:616-620) calls
            // `send_err(ECA_BADTYPE)` here. Pre-fix Rust
            // sent a CA_PROTO_READ_NOTIFY error frame for
            // the notify path too, an extra wire frame
            // before EOF that rsrv never produces. Mirror C:
            // notify path is silent; only the deprecated
            // READ path emits CA_PROTO_ERROR.
            // outer cid is `pciu->cid`.
            if !is_notify {
                send_ca_error(
                    writer,
                    hdr,
                    ECA_BADTYPE,
                    entry.cid,
                    entry.target.rsrv_record_name(),
                    client_minor,
                )?;
            }
            return Err(epics_base_rs::error::CaError::Protocol(format!(
                "READ with unsupported DBR type {} (matches C read_action RSRV_ERROR)",
                requested_type
            )));
        }
        Err(ReadReplyError::GetFail) => {
            // C `read_reply`'s `dbChannel_get_count() < 0` branch
            // (`camessage.c:540-557`) — the same wire shape the
            // read-hook failure above emits, reached here because the
            // conversion itself refused the field.
            if is_notify {
                return send_no_read_access_event(
                    writer,
                    entry.refusal_channel(),
                    StatusEvent {
                        cmd: CA_PROTO_READ_NOTIFY,
                        data_type: requested_type,
                        count: requested_count,
                        available: ioid,
                        eca_status: ECA_GETFAIL,
                    },
                    ReplyContext {
                        req_hdr: *hdr,
                        client_minor,
                    },
                );
            }
            return send_ca_error(
                writer,
                hdr,
                ECA_GETFAIL,
                entry.cid,
                entry.target.rsrv_record_name(),
                client_minor,
            );
        }
        Err(ReadReplyError::Oversize { count }) => {
            // C client TCP parser requires 8-byte aligned postsize.
            // C `read_action` (`camessage.c:622-631`): a reply needing
            // the extended header for a pre-V49 client is not framed —
            // the server answers ECA_16KARRAYCLIENT and keeps the
            // circuit.
            return send_16k_array_client_err(
                writer,
                hdr,
                entry.refusal_channel(),
                if is_notify {
                    UnloadedReply::ReadReply
                } else {
                    UnloadedReply::Read
                },
                count,
                client_minor,
            );
        }
    }
    Ok(())
}

/// C `read_reply` and `read_action`: when `cas_copy_in_header` refuses to
/// frame a reply because the client is pre-CA_V49 and the payload/count needs
/// the 24-byte extended header (`caserverio.c:266-270` returns
/// `ECA_16KARRAYCLIENT`), the server does NOT put the frame on the wire. It
/// answers CA_PROTO_ERROR with that status, echoing the request header, and
/// keeps the circuit. `count` is the element count the refused header carried.
pub(crate) fn send_16k_array_client_err(
    writer: &impl FrameSink,
    request_hdr: &CaHeader,
    chan: RefusalChannel<'_>,
    reply: UnloadedReply,
    count: u32,
    client_minor: u16,
) -> CaResult<()> {
    let what = match reply {
        UnloadedReply::Read => "read",
        UnloadedReply::ReadReply => "read (or subscription update)",
    };
    send_ca_error(
        writer,
        request_hdr,
        ECA_16KARRAYCLIENT,
        *chan.cid,
        (
            format_args!("server unable to load {what} response into protocol buffer PV=\""),
            chan.pv(),
            format_args!(
                "\" dbf={} count={count} avail={} max bytes={}",
                request_hdr.data_type,
                request_hdr.available,
                crate::protocol::max_array_bytes_buffer(),
            ),
        ),
        client_minor,
    )
}

/// The rsrv handler whose `logBadId` (`camessage.c:60-61`) refused a request
/// naming no channel of this client.
#[derive(Clone, Copy)]
pub(crate) enum LogBadId {
    Read,
    ReadNotify,
    Write,
    WriteNotify,
    EventAdd,
    ClearChannel,
    EventCancel,
}

/// C `logBadIdWithFileAndLineno` (`camessage.c:312-325`): `log_header`,
/// then ECA_INTERNAL, cid 0xffffffff, and the `__FILE__.__LINE__` of the
/// handler's `logBadId` as softIoc 8f5015b66 sends them.
pub(crate) fn send_bad_resource_id(
    writer: &Outbox,
    hdr: &CaHeader,
    site: LogBadId,
    state: &ClientState,
) -> CaResult<()> {
    log_request(state, hdr, "bad resource ID");
    let ctx = match site {
        LogBadId::Read => "Bad Resource ID at ../rsrv/camessage.c.614",
        LogBadId::ReadNotify => "Bad Resource ID at ../rsrv/camessage.c.709",
        LogBadId::Write => "Bad Resource ID at ../rsrv/camessage.c.749",
        LogBadId::WriteNotify => "Bad Resource ID at ../rsrv/camessage.c.1674",
        LogBadId::EventAdd => "Bad Resource ID at ../rsrv/camessage.c.1825",
        LogBadId::ClearChannel => "Bad Resource ID at ../rsrv/camessage.c.1939",
        LogBadId::EventCancel => "Bad Resource ID at ../rsrv/camessage.c.2048",
    };
    send_ca_error(
        writer,
        hdr,
        ECA_INTERNAL,
        0xFFFF_FFFF,
        ctx,
        state.client_minor_version(),
    )
}

/// What PCAS `verifyRequest` (`casStrmClient.cc:401-431`) refused a request
/// on a simple PV's channel with.
#[derive(Debug, Clone, Copy)]
struct PcasRefusal {
    /// ECA_BADCHID, ECA_BADTYPE or ECA_BADCOUNT.
    status: u32,
    /// The channel's client cid; `invalidResID` for a retired one.
    cid: u32,
    /// The channel's element count.
    elements: u32,
}

/// PCAS `verifyRequest`, which READ, READ_NOTIFY, WRITE, WRITE_NOTIFY and
/// EVENT_ADD run before anything else. `Ok` also for a sid that names no
/// simple PV's channel, live or retired here: rsrv's order holds for it.
/// `allowdyn` admits a count of zero.
fn pcas_verify_request(
    state: &ClientState,
    hdr: &CaHeader,
    allowdyn: bool,
) -> Result<(), PcasRefusal> {
    let entry = match state.channels.get(&hdr.cid) {
        Some(entry) if matches!(entry.target, ChannelTarget::SimplePv(_)) => entry,
        Some(_) => return Ok(()),
        None => return retired_refusal(state, hdr.cid).map_or(Ok(()), Err),
    };
    let count = hdr.actual_count();
    let status = if hdr.data_type > epics_base_rs::types::LAST_BUFFER_TYPE {
        ECA_BADTYPE
    } else if count > entry.final_element_count || (!allowdyn && count == 0) {
        ECA_BADCOUNT
    } else {
        return Ok(());
    };
    Err(PcasRefusal {
        status,
        cid: entry.cid,
        elements: entry.final_element_count,
    })
}

/// PCAS's refusal of a request naming a channel this server retired: its
/// `chanTable` lookup misses (ECA_BADCHID, `invalidResID`).
fn retired_refusal(state: &ClientState, sid: u32) -> Option<PcasRefusal> {
    state.retired.get(&sid).map(|&elements| PcasRefusal {
        status: ECA_BADCHID,
        cid: 0xFFFF_FFFF,
        elements,
    })
}

/// PCAS's answer to a request its `chanTable` lookup or `verifyRequest`
/// refused, which each `casStrmClient.cc` (v4.13.3) handler reports with the
/// circuit kept. EVENT_CANCEL, which ends it, is
/// [`cancel_subscription_reply`]'s.
fn answer_pcas_refusal(
    writer: &Outbox,
    hdr: &CaHeader,
    state: &ClientState,
    refusal: PcasRefusal,
) -> CaResult<()> {
    let minor = state.client_minor_version();
    let PcasRefusal {
        status,
        cid,
        elements,
    } = refusal;
    let reply = |frame: Result<Vec<u8>, ExtendedHeaderUnsupported>| {
        writer.push(frame.map_err(|_| {
            epics_base_rs::error::CaError::Protocol(format!(
                "refused SID {}: reply needs the extended header",
                hdr.cid
            ))
        })?);
        Ok(())
    };
    match hdr.cmmd {
        // `readAction`, `writeAction` (`:456-466`, `:1041-1049`); the write's
        // says get.
        CA_PROTO_READ | CA_PROTO_WRITE => {
            send_ca_error(writer, hdr, status, cid, "get request", minor)
        }
        // `eventAddAction` (`:2016-2025`): no context string at all.
        CA_PROTO_EVENT_ADD => {
            writer.push(error_frame(hdr, status, cid, Vec::new(), minor));
            Ok(())
        }
        // `readNotifyFailureResponse` (`:749-762`): `dbr_size_n` zeros, the
        // status in `m_cid`. PCAS sizes them from the request's count alone,
        // bounded only by `malloc` (`clientBufMemoryManager::allocate`), so
        // one request asks it for up to 4 GiB; that C defect is not copied,
        // and the count stops at the channel's, as a live read's does.
        CA_PROTO_READ_NOTIFY => {
            let count = hdr.actual_count().min(elements);
            let zeros = vec![0; align8(dbr_size_n(hdr.data_type, count))];
            reply(copy_in_header(
                CA_PROTO_READ_NOTIFY,
                hdr.data_type,
                count,
                status,
                hdr.available,
                &zeros,
                minor,
            ))
        }
        // `writeNotifyResponseECA_XXX` (`:1240-1251`).
        CA_PROTO_WRITE_NOTIFY => reply(copy_in_header(
            CA_PROTO_WRITE_NOTIFY,
            hdr.data_type,
            hdr.actual_count(),
            status,
            hdr.available,
            &[],
            minor,
        )),
        // `clearChannelAction` (`:2127-2152`): the confirmation, then `logBadId`.
        CA_PROTO_CLEAR_CHANNEL => {
            reply(copy_in_header(
                CA_PROTO_CLEAR_CHANNEL,
                hdr.data_type,
                hdr.actual_count(),
                hdr.cid,
                hdr.available,
                &[],
                minor,
            ))?;
            pcas_log_bad_id(writer, hdr, state, 2151)
        }
        cmmd => unreachable!("command {cmmd} names no channel"),
    }
}

/// PCAS `logBadIdWithFileAndLineno` (`casStrmClient.cc:2925-2950`) for the
/// `logBadId` at `line`, with `__FILE__` as the pcas module build spells it.
fn pcas_log_bad_id(
    writer: &Outbox,
    hdr: &CaHeader,
    state: &ClientState,
    line: u32,
) -> CaResult<()> {
    use std::io::Write;
    const FILE: &str = "../../../../src/pcas/generic/casStrmClient.cc";
    epics_base_rs::runtime::log::errlog_vprintf(format_args!(
        "CAS: bad resource id in \"{FILE}\" at line {line}\n"
    ));
    // `caServerI::dumpMsg` (`caServerI.cc:312-321`) puts this one on stderr.
    let mut request = b"CAS Request: ".to_vec();
    request.extend_from_slice(&state.username);
    request.extend_from_slice(b" on ");
    request.extend_from_slice(state.hostname.as_bytes());
    let _ = writeln!(
        request,
        ": cmd={} cid={} typ={} cnt={} psz={} avail={:x}",
        hdr.cmmd,
        hdr.cid,
        hdr.data_type,
        hdr.actual_count(),
        hdr.actual_postsize(),
        hdr.available
    );
    let _ = epics_libcom_rs::runtime::log::StagedStderr.write_all(&request);
    send_ca_error(
        writer,
        hdr,
        ECA_BADCHID,
        0xFFFF_FFFF,
        format_args!("Bad Resource ID={} detected at {FILE}.{line}", hdr.cid),
        state.client_minor_version(),
    )
}

/// C `dbr_size_n` (`db_access.h:533-534`), whose unsigned arithmetic makes a
/// count of 0 `dbr_size - dbr_value_size`. A `data_type` above 38, where
/// PCAS's ECA_BADTYPE reply reads past `dbr_size`, sizes nothing.
fn dbr_size_n(data_type: u16, count: u32) -> usize {
    let Ok(native) = epics_base_rs::types::native_type_for_dbr(data_type) else {
        return 0;
    };
    let size = epics_base_rs::types::dbr_buffer_size(data_type, native, 1);
    let value_size = native.element_size();
    match count {
        0 => size - value_size,
        n => size + (n as usize - 1) * value_size,
    }
}

/// The two `event_add_action` install failures, each `log_header`, an
/// `ECA_ALLOCMEM` frame and `RSRV_ERROR`; this port's subscription caps
/// fail at the same stages.
#[derive(Clone, Copy)]
enum InstallFailure {
    /// The `event_ext` allocation (`camessage.c:1840-1851`).
    EventExt,
    /// `db_add_event` returning NULL (`camessage.c:1868-1877`).
    DbAddEvent,
}

/// C's answer to an [`InstallFailure`]; the caller ends the circuit.
fn refuse_install(
    writer: &Outbox,
    hdr: &CaHeader,
    state: &ClientState,
    entry: &ChannelEntry,
    failure: InstallFailure,
) -> epics_base_rs::error::CaError {
    let pv = entry.target.rsrv_record_name();
    let (context, before, after) = match failure {
        InstallFailure::EventExt => ("no memory to add subscription", "", ""),
        InstallFailure::DbAddEvent => (
            "no memory to add subscription to db",
            "subscription install into record ",
            " failed",
        ),
    };
    log_request(state, hdr, context);
    let _ = send_ca_error(
        writer,
        hdr,
        ECA_ALLOCMEM,
        entry.cid,
        (before, pv, after),
        state.client_minor_version(),
    );
    epics_base_rs::error::CaError::Protocol(format!(
        "EVENT_ADD on {}: {context}",
        String::from_utf8_lossy(pv)
    ))
}

/// Push a `CA_PROTO_ERROR` reply into the connection outbox. The connection
/// loop is the sole owner that drains the outbox to the socket, so this
/// only builds one framed message and enqueues it — see
/// [`build_ca_error_frame`]. Synchronous: enqueueing is a pure buffer
/// push with no I/O, so callers do not `.await` it.
pub(crate) fn send_ca_error(
    writer: &impl FrameSink,
    original_hdr: &CaHeader,
    eca_status: u32,
    chan_cid: u32,
    message: impl CaDiag,
    client_minor: u16,
) -> CaResult<()> {
    writer.push(build_ca_error_frame(
        original_hdr,
        eca_status,
        chan_cid,
        message,
        client_minor,
    ));
    Ok(())
}

/// Build the contiguous wire bytes of a `CA_PROTO_ERROR` reply
/// (response header + echoed request header + diagnostic string). Pure and
/// socket-free — the connection loop writes the returned frame.
pub(crate) fn build_ca_error_frame(
    original_hdr: &CaHeader,
    eca_status: u32,
    chan_cid: u32,
    message: impl CaDiag,
    client_minor: u16,
) -> Vec<u8> {
    // Formatted straight into the one buffer `pad_string` used to allocate, so
    // a `format_args!` context costs nothing beyond it. Cut at a byte count,
    // as `epicsVsnprintf` does.
    let mut error_msg_bytes = Vec::new();
    message.write_to(&mut error_msg_bytes);
    error_msg_bytes.truncate(CA_PROTO_ERROR_MAX_DIAG_LEN);
    error_msg_bytes.push(0);
    error_frame(
        original_hdr,
        eca_status,
        chan_cid,
        error_msg_bytes,
        client_minor,
    )
}

/// [`build_ca_error_frame`] from the diagnostic's bytes, NUL included: PCAS
/// `sendErr` (`casStrmClient.cc:2807-2829`) sends none for a NULL format.
fn error_frame(
    original_hdr: &CaHeader,
    eca_status: u32,
    chan_cid: u32,
    mut error_msg_bytes: Vec<u8>,
    client_minor: u16,
) -> Vec<u8> {
    error_msg_bytes.resize(align8(error_msg_bytes.len()), 0);
    // C `vsend_err` (`rsrv/camessage.c:201-223`) picks the echo's form from
    // the request's ACTUAL size and count — `(m_postsize >= 0xffff ||
    // m_count >= 0xffff) && CA_V49(minor)` — never from the form the request
    // arrived in. Those are different questions in both directions: a
    // normal-form request may carry `m_count == 0xffff`, and an extended
    // request may declare a size and count that both fit in 16 bits.
    //
    // `set_payload_size` is that rule's owner already, which is why the echo
    // is re-derived through it rather than asking the parsed header whether
    // it happened to carry an annex.
    let mut echo = *original_hdr;
    let orig_bytes = match echo.set_payload_size(
        original_hdr.actual_postsize(),
        original_hdr.actual_count(),
        client_minor,
    ) {
        Ok(()) => echo.to_bytes_extended().to_vec(),
        // A pre-V49 peer has no code to parse the 8-byte annex, so C does not
        // withhold the reply: it keeps the 16-byte form and truncates the two
        // fields to `u16` (`htons((ca_uint16_t) curp->m_postsize)`,
        // `camessage.c:215-223`).
        Err(ExtendedHeaderUnsupported) => {
            echo.postsize = original_hdr.actual_postsize() as u16;
            echo.count = original_hdr.actual_count() as u16;
            echo.extended_postsize = None;
            echo.extended_count = None;
            echo.to_bytes().to_vec()
        }
    };
    // payload_size must use the echo header's ACTUAL byte length (16 or 24
    // for extended), not the constant CaHeader::SIZE=16.
    let payload_size = orig_bytes.len() + error_msg_bytes.len();

    let mut resp = CaHeader::new(CA_PROTO_ERROR);
    // A CA_PROTO_ERROR body is a header echo plus a bounded diagnostic
    // string, so it can never reach 0xffff; `set_payload_size` cannot fail
    // here for any peer version.
    resp.set_payload_size(payload_size, 0, client_minor)
        .expect("CA_PROTO_ERROR payload is bounded well below 0xffff");
    resp.cid = chan_cid;
    resp.available = eca_status;

    // Abort-safety: a CA_PROTO_ERROR reply is response-header +
    // echoed-request-header + diagnostic string. Build all three as ONE
    // contiguous frame and issue a single `write_all` so a `send_timeout`
    // cancel cannot leave a partial frame (orphan header) in the shared
    // BufWriter and mis-frame every following message.
    //
    // For a V49 client the echoed request header is emitted in extended form
    // when the original request used the extended layout: a 16-byte header
    // with `m_postsize = 0xffff` plus an 8-byte annex carrying the full
    // 32-bit postsize / count. libca `cac::exceptionRespAction`
    // (`modules/ca/src/client/cac.cpp:1092-1102`) parses the annex first when
    // it sees the 0xffff marker, then walks the diag string from the
    // post-annex offset — so an extended READ/WRITE error round-trips
    // byte-for-byte with libca. `orig_bytes` (computed above) already carries
    // the version-correct 16- or 24-byte form.
    let resp_bytes = resp.to_bytes_extended();
    let mut frame = Vec::with_capacity(resp_bytes.len() + orig_bytes.len() + error_msg_bytes.len());
    frame.extend_from_slice(&resp_bytes);
    frame.extend_from_slice(&orig_bytes);
    frame.extend_from_slice(&error_msg_bytes);
    frame
}

#[cfg(test)]
mod write_notify_queue_tests {
    //! The circuit's put-callback completion queue: what decides the ORDER two
    //! completions reach the wire in, and what `CA_PROTO_CLEAR_CHANNEL` takes
    //! out of it.

    use super::{
        CA_PROTO_SERVER_DISCONN, CA_PROTO_WRITE_NOTIFY, CaHeader, PendingWriteNotify,
        PutNotifyCompletion, WriteNotifyQueueMsg, WriteNotifyReply, WriteNotifyStep,
        next_settled_write_notify, next_write_notify_step, run_write_notify_queue,
    };

    fn ioid(p: &PendingWriteNotify) -> u32 {
        match &p.reply {
            super::DeferredReply::WriteNotify { reply, .. } => reply.ioid,
            super::DeferredReply::WriteFailure { .. } => panic!("a put callback"),
        }
    }

    /// One in-flight put-callback plus the sender that ends it, as
    /// `serve_write_head` would have handed it over.
    fn pending(sid: u32, ioid: u32) -> (PendingWriteNotify, tokio::sync::oneshot::Sender<()>) {
        let (tx, rx) = tokio::sync::oneshot::channel();
        let p = PendingWriteNotify {
            rx: super::PutEnd::Chain(rx),
            reply: super::DeferredReply::WriteNotify {
                reply: WriteNotifyReply {
                    write_type: 6,
                    write_count: 1,
                    ioid,
                    req_hdr: CaHeader::new(CA_PROTO_WRITE_NOTIFY),
                },
                eca_status: crate::protocol::ECA_NORMAL,
                cid: 1,
            },
            completion: PutNotifyCompletion::new(None).0,
            sid,
            // A simple-PV put: nothing parks a notify, so nothing to cancel.
            cancel: None,
        };
        (p, tx)
    }

    /// A channel's next put-callback is released by [`PendingWriteNotify::settle`]
    /// only AFTER the driver's commit has run, because on the blocking driver
    /// the commit — not the outbox push — is what fixes the wire order.
    // RTEMS-EXEC-MODEL-ALLOW(1): measured — passes under
    // `EPICS_RS_BUILD_EXEC_BACKEND=thread`; it awaits nothing and needs no
    // reactor.
    #[tokio::test]
    async fn the_commit_runs_before_the_successor_is_released() {
        let (outbox, _drain) = crate::server::outbox::channel();
        let (completion, settled) = PutNotifyCompletion::new(None);
        let mut p = PendingWriteNotify {
            rx: super::PutEnd::Chain(tokio::sync::oneshot::channel().1),
            reply: super::DeferredReply::WriteNotify {
                reply: WriteNotifyReply {
                    write_type: 6,
                    write_count: 1,
                    ioid: 0x1111,
                    req_hdr: CaHeader::new(CA_PROTO_WRITE_NOTIFY),
                },
                eca_status: crate::protocol::ECA_NORMAL,
                cid: 1,
            },
            completion,
            sid: 1,
            cancel: None,
        };
        let committed = p.settle(
            super::WriteEnded::Done,
            &outbox,
            crate::protocol::CA_MINOR_VERSION,
            || {
                assert!(
                    settled.has_changed().is_ok(),
                    "the successor must still be waiting while the reply is being committed"
                );
                true
            },
        );
        assert!(
            committed.expect("encode"),
            "the commit reported the peer live"
        );
        assert!(
            settled.has_changed().is_err(),
            "and released once it is committed"
        );
    }

    /// The ioid of every WRITE_NOTIFY frame the outbox holds, in wire order.
    fn completions(drain: &mut crate::server::outbox::OutboxDrain) -> Vec<u32> {
        let mut out = Vec::new();
        while let Some(frame) = drain.try_next() {
            let f = frame.to_vec();
            if u16::from_be_bytes([f[0], f[1]]) == CA_PROTO_WRITE_NOTIFY {
                out.push(u32::from_be_bytes([f[12], f[13], f[14], f[15]]));
            }
        }
        out
    }

    /// The whole point of the queue: when two put-callbacks report together,
    /// the one that was REQUESTED first is the one that leaves first.
    ///
    /// Both receivers are already fired here, so the choice is decided purely
    /// by queue position — C's `putNotifyQue` FIFO. The async server used to
    /// have no queue at all: each completion had its own task, and this
    /// choice belonged to the scheduler.
    // RTEMS-EXEC-MODEL-ALLOW(1): async CA TCP server test; green on the exec
    // backend.
    #[tokio::test]
    async fn two_ready_completions_leave_in_queue_order() {
        let (p_first, tx_first) = pending(1, 0x1111);
        let (p_second, tx_second) = pending(1, 0x2222);
        tx_first.send(()).expect("first receiver alive");
        tx_second.send(()).expect("second receiver alive");

        let mut queue = vec![p_first, p_second];
        let (res, idx) = next_settled_write_notify(&mut queue).await;
        assert_eq!(
            res,
            super::WriteEnded::Done,
            "the receiver fired, so the chain reported"
        );
        assert_eq!(idx, 0, "the first-requested put-callback reports first");
        assert_eq!(ioid(&queue[idx]), 0x1111);
    }

    /// And it follows the queue, not the ioid: reverse the arrival order and
    /// the wire order reverses with it. Without this the case above would also
    /// pass on an implementation that happened to sort.
    // RTEMS-EXEC-MODEL-ALLOW(1): async CA TCP server test; green on the exec
    // backend.
    #[tokio::test]
    async fn queue_order_is_what_decides_it_not_the_ioid() {
        let (p_second, tx_second) = pending(1, 0x2222);
        let (p_first, tx_first) = pending(1, 0x1111);
        tx_second.send(()).expect("second receiver alive");
        tx_first.send(()).expect("first receiver alive");

        let mut queue = vec![p_second, p_first];
        let (_res, idx) = next_settled_write_notify(&mut queue).await;
        assert_eq!(ioid(&queue[idx]), 0x2222);
    }

    /// An empty queue never reports, so its owner can wait on the control
    /// channel in the same `select` without a special case.
    // RTEMS-EXEC-MODEL-ALLOW(1): async CA TCP server test; green on the exec
    // backend.
    #[tokio::test]
    async fn an_empty_queue_never_reports() {
        let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel::<WriteNotifyQueueMsg>();
        tx.send(WriteNotifyQueueMsg::FreeChannel(7))
            .expect("owner alive");
        let step = next_write_notify_step(&mut [], &mut rx).await;
        assert!(
            matches!(
                step,
                WriteNotifyStep::Control(Some(WriteNotifyQueueMsg::FreeChannel(7)))
            ),
            "an empty queue must not win the select"
        );
    }

    /// `CA_PROTO_CLEAR_CHANNEL` takes out the cleared channel's pending
    /// put-callbacks and nothing else — C `rsrvFreePutNotify`
    /// (`rsrv/camessage.c:1889`). The dropped ones answer nothing, so a stuck
    /// record cannot later emit a completion carrying a freed channel's ioid.
    // RTEMS-EXEC-MODEL-ALLOW(1): async CA TCP server test; green on the exec
    // backend.
    #[tokio::test]
    async fn clearing_a_channel_drops_only_that_channels_put_callbacks() {
        let (outbox, mut drain) = crate::server::outbox::channel();
        let (tx, rx) = tokio::sync::mpsc::unbounded_channel();
        let owner = tokio::spawn(run_write_notify_queue(
            rx,
            outbox,
            super::CircuitMinor::new(crate::protocol::CA_MINOR_VERSION),
        ));

        // Straight down the control channel rather than through a
        // `WriteNotifyQueue`: the wrapper aborts its owner when it drops, and
        // this case needs the owner to reach the END of its queue so the
        // completions it settled can be read back.
        let send = |msg| tx.send(msg).expect("owner alive");

        // The cleared channel's two put-callbacks are still in flight — their
        // senders are held un-fired for the whole test, which is the case the
        // clear exists for: a record that has not reported and may never.
        let (p_cleared, _stuck) = pending(10, 0xAAAA);
        let (p_kept, tx_kept) = pending(20, 0xBBBB);
        let (p_cleared_2, _stuck_2) = pending(10, 0xCCCC);
        send(WriteNotifyQueueMsg::Queue(Box::new(p_cleared)));
        send(WriteNotifyQueueMsg::Queue(Box::new(p_kept)));
        send(WriteNotifyQueueMsg::Queue(Box::new(p_cleared_2)));
        // Ordered behind the three queue messages on the same channel, so the
        // owner has all three in hand when it runs.
        send(WriteNotifyQueueMsg::FreeChannel(10));
        tx_kept.send(()).expect("receiver alive");

        drop(tx);
        owner.await.expect("owner ends when its sender is dropped");
        assert_eq!(completions(&mut drain), vec![0xBBBB]);
    }

    /// The owner ends with the circuit. A put-callback still queued when the
    /// client goes answers nothing.
    // RTEMS-EXEC-MODEL-ALLOW(1): async CA TCP server test; green on the exec
    // backend.
    #[tokio::test]
    async fn the_owner_ends_when_the_connection_drops_its_sender() {
        let (outbox, mut drain) = crate::server::outbox::channel();
        let (tx, rx) = tokio::sync::mpsc::unbounded_channel();
        let owner = tokio::spawn(run_write_notify_queue(
            rx,
            outbox,
            super::CircuitMinor::new(crate::protocol::CA_MINOR_VERSION),
        ));
        let (p, _tx_never_fires) = pending(1, 0xD00D);
        tx.send(WriteNotifyQueueMsg::Queue(Box::new(p)))
            .expect("owner alive");
        drop(tx);
        owner.await.expect("owner ends when its sender is dropped");
        assert!(completions(&mut drain).is_empty());
    }

    /// What the event task asked of its sink, with each staged frame's
    /// command and `available` and whether the put-callback behind it was
    /// still held then; stages fail once `refuse` is set.
    #[derive(Clone, Default)]
    struct Staged {
        log: std::sync::Arc<std::sync::Mutex<Vec<(u16, u32, bool)>>>,
        successor: Option<tokio::sync::watch::Receiver<()>>,
        refuse: bool,
    }

    impl super::EventSink for Staged {
        fn stage(&mut self, frame: &[u8]) -> std::io::Result<()> {
            let held = self
                .successor
                .as_ref()
                .is_some_and(|s| s.has_changed().is_ok());
            self.log.lock().unwrap().push((
                u16::from_be_bytes([frame[0], frame[1]]),
                u32::from_be_bytes(frame[12..16].try_into().unwrap()),
                held,
            ));
            if self.refuse {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        }
        fn send(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Hand `p` to the blocking driver's event task, with `destroyed` the
    /// channels a destroy left, and run the task until it waits.
    fn settle_on_event_task(
        p: PendingWriteNotify,
        sink: Staged,
        destroyed: super::DestroyedCids,
    ) -> bool {
        use std::future::Future;
        let (ctl_tx, ctl_rx) = tokio::sync::mpsc::unbounded_channel();
        ctl_tx
            .send(super::EventTaskControl::WriteComplete(Box::new(p)))
            .unwrap();
        let user = std::sync::Arc::new(epics_base_rs::server::event_queue::EventUser::new());
        let mut task = std::pin::pin!(super::run_event_task(
            user,
            ctl_rx,
            destroyed,
            sink,
            crate::server::tcp::CircuitMinor::new(crate::protocol::CA_MINOR_VERSION)
        ));
        let ended = task
            .as_mut()
            .poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
            .is_ready();
        drop(ctl_tx);
        ended
    }

    /// A completion whose stage is refused ends the event task: `settle`'s
    /// commit reports the peer gone, though the sink's sends still succeed.
    #[test]
    fn a_refused_completion_stage_ends_the_event_task() {
        let (p, tx) = pending(1, 0x1111);
        tx.send(()).unwrap();
        let sink = Staged {
            refuse: true,
            ..Staged::default()
        };
        assert!(
            settle_on_event_task(p, sink.clone(), super::DestroyedCids::default()),
            "the control sender is still held, so only the refused stage can end it"
        );
        assert_eq!(
            *sink.log.lock().unwrap(),
            [(CA_PROTO_WRITE_NOTIFY, 0x1111, false)]
        );
    }

    /// A put-callback handed over before a destroy's sweep takes the client
    /// lock is answered ahead of its channel's `CA_PROTO_SERVER_DISCONN`,
    /// though the wake-up is polled before the control queue: the sweep
    /// takes what is queued first. pcas has one `out` buffer, and the reply
    /// is in it before `channelDestroyEventNotify` commits the disconnect
    /// (`casStrmClient.cc:2171-2209`).
    #[test]
    fn a_write_handed_over_before_a_sweep_is_answered_ahead_of_the_retirement() {
        let (p, _never_fires) = pending(1, 0x2222);
        let destroyed = super::DestroyedCids::default();
        destroyed.destroy(1);
        let sink = Staged::default();
        assert!(!settle_on_event_task(p, sink.clone(), destroyed));
        assert_eq!(
            *sink.log.lock().unwrap(),
            [
                (CA_PROTO_WRITE_NOTIFY, 0x2222, false),
                (CA_PROTO_SERVER_DISCONN, 0, false)
            ]
        );
    }

    /// The event task stages a completion before the channel's next
    /// put-callback is released, so the dispatch thread's reply to that one
    /// cannot be staged ahead of it (C signals `blockSem` after
    /// `cas_commit_msg`, `camessage.c:1452-1460`).
    #[test]
    fn a_completion_is_staged_before_its_successor_is_released() {
        let (completion, settled) = PutNotifyCompletion::new(None);
        let (tx, rx) = tokio::sync::oneshot::channel();
        tx.send(()).unwrap();
        let p = PendingWriteNotify {
            rx: super::PutEnd::Chain(rx),
            reply: super::DeferredReply::WriteNotify {
                reply: WriteNotifyReply {
                    write_type: 6,
                    write_count: 1,
                    ioid: 0x1111,
                    req_hdr: CaHeader::new(CA_PROTO_WRITE_NOTIFY),
                },
                eca_status: crate::protocol::ECA_NORMAL,
                cid: 1,
            },
            completion,
            sid: 1,
            cancel: None,
        };
        let sink = Staged {
            successor: Some(settled.clone()),
            ..Staged::default()
        };
        assert!(!settle_on_event_task(
            p,
            sink.clone(),
            super::DestroyedCids::default()
        ));
        assert_eq!(
            *sink.log.lock().unwrap(),
            [(CA_PROTO_WRITE_NOTIFY, 0x1111, true)],
            "staged while the successor was held"
        );
        assert!(settled.has_changed().is_err(), "and released after");
    }
}

#[cfg(test)]
mod put_notify_serialize_tests {
    //! The boundaries of the ONE rule this layer has about ECA_PUTCBINPROG:
    //! a channel's registered put-callback draws the status only once it has
    //! outstayed C's `blockSem` wait, and it draws it for its own ioid
    //! (`putNotifyErrorReply(client, &pPutNotify->msg, ECA_PUTCBINPROG)`,
    //! `camessage.c:1701`). One case per boundary — registered vs not,
    //! inside the wait vs past it, still busy vs already answered.
    use super::{
        ECA_NORMAL, ECA_PUTCBINPROG, InFlightPutNotify, PUT_NOTIFY_BLOCK_TIMEOUT,
        PutNotifyCompletion, PutNotifySlot, ReplyContext, WriteNotifyReply,
        send_put_notify_response,
    };
    use crate::server::outbox::{Outbox, OutboxDrain};
    use epics_base_rs::runtime::task::{block_on_sync, timeout};
    use std::time::{Duration, Instant};

    /// Drive the gate as a driver does: wait out each postponement, then
    /// run it again. `park_on`, since no runtime is entered here — the same
    /// way the blocking driver waits.
    fn serialize(slot: &PutNotifySlot, outbox: &Outbox) {
        while let Some(mut wait) = slot
            .serialize(outbox, "", 0, crate::protocol::CA_MINOR_VERSION)
            .expect("serialize")
        {
            block_on_sync(wait.signalled()).expect("no async runtime on this thread");
        }
    }

    fn live_outbox() -> (Outbox, OutboxDrain) {
        crate::server::outbox::channel()
    }

    /// Every frame pushed to the outbox, in push order (one push == one
    /// complete frame).
    fn drain_frames(drain: &mut OutboxDrain) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while let Some(f) = drain.try_next() {
            frames.push(f.to_vec());
        }
        frames
    }

    fn reply_shape(ioid: u32) -> WriteNotifyReply {
        WriteNotifyReply {
            write_type: epics_base_rs::types::DBR_LONG,
            write_count: 1,
            ioid,
            req_hdr: crate::protocol::CaHeader::new(crate::protocol::CA_PROTO_WRITE_NOTIFY),
        }
    }

    /// A slot holding one registered put-callback, registered `age` ago and
    /// never answered.
    fn slot_registered_for(ioid: u32, age: Duration) -> PutNotifySlot {
        let (completion, settled) = PutNotifyCompletion::new(None);
        let slot = PutNotifySlot::default();
        slot.install(InFlightPutNotify {
            completion,
            reply: reply_shape(ioid),
            busy_since: Instant::now() - age,
            settled,
        });
        slot
    }

    /// The ECA status and ioid a WRITE_NOTIFY-shaped reply frame carries:
    /// param1 at `[8..12]`, param2 at `[12..16]`.
    fn status_and_ioid(frame: &[u8]) -> (u32, u32) {
        (
            u32::from_be_bytes([frame[8], frame[9], frame[10], frame[11]]),
            u32::from_be_bytes([frame[12], frame[13], frame[14], frame[15]]),
        )
    }

    /// Boundary: nothing registered. C reaches the `else` arm and allocates a
    /// fresh `pPutNotify` without sending anything.
    #[test]
    fn an_unregistered_channel_draws_no_frame() {
        let (outbox, mut drain) = live_outbox();
        serialize(&PutNotifySlot::default(), &outbox);
        assert!(drain_frames(&mut drain).is_empty());
    }

    /// Boundary: registered, still busy, still inside the wait. C's
    /// `epicsEventWaitWithTimeout` has not returned, so the arriving request
    /// has not reached its first side effect — the gate postpones it, and
    /// the postponement does not end while the predecessor is busy.
    #[test]
    fn a_predecessor_inside_the_wait_holds_the_arrival() {
        let (outbox, mut drain) = live_outbox();
        let slot = slot_registered_for(0x1234, PUT_NOTIFY_BLOCK_TIMEOUT / 2);
        let mut wait = slot
            .serialize(&outbox, "", 0, crate::protocol::CA_MINOR_VERSION)
            .expect("serialize")
            .expect("the arrival must not proceed while the channel's put-callback is busy");
        assert!(
            block_on_sync(timeout(Duration::from_millis(200), wait.signalled()))
                .expect("no async runtime on this thread")
                .is_err(),
            "nor run again while it stays busy"
        );
        assert!(
            slot.inner.lock().unwrap().is_some(),
            "it stays registered for the re-run to test again"
        );
        assert!(
            drain_frames(&mut drain).is_empty(),
            "C sends nothing while the blockSem wait is still running"
        );
    }

    /// The wait ends when the predecessor's reply does — and the reply is on
    /// the outbox first, which is the ordering the gate exists for. Answering
    /// from another thread is the real shape: the completion tail runs on the
    /// write-notify queue task (async server) or the event thread (blocking
    /// driver), never on the receive loop that waits here.
    #[test]
    fn the_predecessors_reply_precedes_the_arrivals() {
        let (outbox, mut drain) = live_outbox();
        let (completion, settled) = PutNotifyCompletion::new(None);
        let slot = PutNotifySlot::default();
        slot.install(InFlightPutNotify {
            completion: completion.clone(),
            reply: reply_shape(0x1111),
            busy_since: Instant::now(),
            settled,
        });

        let answerer = {
            let outbox = outbox.clone();
            std::thread::spawn(move || {
                // Long enough that the gate below is parked, not merely
                // entered; the assertion holds either way, this is what makes
                // the parked path the one measured.
                std::thread::sleep(Duration::from_millis(50));
                let _owned = completion.claim().expect("the completion path replies");
                send_put_notify_response(
                    &outbox,
                    super::NotifyReplyKind::Completion,
                    epics_base_rs::types::DBR_LONG,
                    1,
                    ECA_NORMAL,
                    0x1111,
                    ReplyContext {
                        req_hdr: crate::protocol::CaHeader::new(
                            crate::protocol::CA_PROTO_WRITE_NOTIFY,
                        ),
                        client_minor: crate::protocol::CA_MINOR_VERSION,
                    },
                )
                .expect("push the predecessor reply");
                // `_owned` dies here, AFTER the push — that drop is the wake.
            })
        };
        serialize(&slot, &outbox);
        // What the released request does next, standing in for its own put.
        send_put_notify_response(
            &outbox,
            super::NotifyReplyKind::Completion,
            epics_base_rs::types::DBR_LONG,
            1,
            ECA_NORMAL,
            0x2222,
            ReplyContext {
                req_hdr: crate::protocol::CaHeader::new(crate::protocol::CA_PROTO_WRITE_NOTIFY),
                client_minor: crate::protocol::CA_MINOR_VERSION,
            },
        )
        .expect("push the arrival's reply");
        answerer.join().expect("answerer");

        let ioids: Vec<u32> = drain_frames(&mut drain)
            .iter()
            .map(|f| status_and_ioid(f).1)
            .collect();
        assert_eq!(
            ioids,
            vec![0x1111, 0x2222],
            "the predecessor's reply must already be queued when the arrival proceeds"
        );
    }

    /// Boundary: registered and past the wait. C cancels it and answers the
    /// SAVED request — `&pPutNotify->msg`, not the arriving one.
    #[test]
    fn an_overdue_predecessor_draws_putcbinprog_for_its_own_ioid() {
        let (outbox, mut drain) = live_outbox();
        let slot = slot_registered_for(0x1234, PUT_NOTIFY_BLOCK_TIMEOUT);
        serialize(&slot, &outbox);

        let frames = drain_frames(&mut drain);
        assert_eq!(frames.len(), 1, "exactly one reply");
        assert_eq!(
            status_and_ioid(&frames[0]),
            (ECA_PUTCBINPROG, 0x1234),
            "the timed-out predecessor's ioid hears ECA_PUTCBINPROG"
        );
        assert!(
            slot.inner.lock().unwrap().is_none(),
            "and it is deregistered, so it cannot be answered twice"
        );
    }

    /// Boundary: registered, past the wait, but already answered by its own
    /// completion. C re-tests `busy` under `putNotifyLock` before replying
    /// (`camessage.c:1684-1686`); a put that finished keeps its real reply.
    #[test]
    fn an_already_answered_predecessor_draws_no_second_frame() {
        let (outbox, mut drain) = live_outbox();
        let (completion, settled) = PutNotifyCompletion::new(None);
        assert!(completion.claim().is_some(), "the completion path replies");
        let slot = PutNotifySlot::default();
        slot.install(InFlightPutNotify {
            completion,
            reply: reply_shape(0x55),
            busy_since: Instant::now() - PUT_NOTIFY_BLOCK_TIMEOUT,
            settled,
        });

        serialize(&slot, &outbox);
        assert!(
            drain_frames(&mut drain).is_empty(),
            "no second reply for an already-answered ioid"
        );
    }

    /// A settled predecessor is deregistered on the way past, so the slot
    /// tracks "may still be busy" and nothing else. Its reply is already
    /// spent, so the wait returns at once rather than running out C's 60 s.
    #[test]
    fn a_settled_predecessor_is_deregistered() {
        let (outbox, _drain) = live_outbox();
        let (completion, settled) = PutNotifyCompletion::new(None);
        completion.claim();
        let slot = PutNotifySlot::default();
        slot.install(InFlightPutNotify {
            completion,
            reply: reply_shape(0x55),
            busy_since: Instant::now(),
            settled,
        });
        serialize(&slot, &outbox);
        assert!(slot.inner.lock().unwrap().is_none());
    }

    /// `claim` hands out the reply and the put-log bracket together, once —
    /// the property that keeps a reply and its `asTrapWriteAfter` from being
    /// closed by different paths.
    #[test]
    fn claim_grants_a_single_reply_owner() {
        let (completion, settled) = PutNotifyCompletion::new(None);
        assert!(completion.claim().is_some(), "the first caller owns it");
        assert!(completion.claim().is_none(), "every later caller does not");
        // The token the first caller took has been dropped, which is what the
        // channel's successor waits for — C `epicsEventSignal(blockSem)`.
        assert!(
            settled.has_changed().is_err(),
            "answering a put-callback releases the channel's next one"
        );
    }

    /// Cancelling an overdue predecessor fires its cancel AfterWrite, so the
    /// put-log carries a balanced Before/After — C `asTrapWriteAfter` on the
    /// cancelled put (`camessage.c:1700`). The bracket rides in the
    /// completion token, so it goes wherever the reply goes.
    #[test]
    fn an_overdue_predecessor_closes_its_put_log_bracket() {
        use epics_base_rs::server::access_security::{
            TrapWriteFields, TrapWriteGuard, TrapWriteOp, next_trap_write_event_id,
            register_trap_write_listener,
        };
        use std::sync::{Arc, Mutex};

        // The listener registry is process-global; filter to this test's pv.
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = events.clone();
        let _handle = register_trap_write_listener(Arc::new(move |msg| {
            if msg.pv_name == b"overdue:trap" {
                sink.lock()
                    .unwrap()
                    .push((msg.op, msg.status.map(str::to_owned)));
            }
        }));

        let guard = TrapWriteGuard::begin(TrapWriteFields {
            pv_name: b"overdue:trap".to_vec(),
            user: b"u".to_vec(),
            host: b"h".to_vec(),
            peer: "h:5064".to_string(),
            value_str: "1".to_string(),
            dbr_type: epics_base_rs::types::DBR_LONG,
            no_elements: 1,
            event_id: next_trap_write_event_id(),
            rule_was_trap: true,
            cancel_status: "cancel".to_string(),
        });
        let (completion, settled) = PutNotifyCompletion::new(Some(guard));
        let slot = PutNotifySlot::default();
        slot.install(InFlightPutNotify {
            completion,
            reply: reply_shape(0x77),
            busy_since: Instant::now() - PUT_NOTIFY_BLOCK_TIMEOUT,
            settled,
        });

        serialize(&slot, &live_outbox().0);

        assert_eq!(
            events.lock().unwrap().clone(),
            vec![
                (TrapWriteOp::BeforeWrite, None),
                (TrapWriteOp::AfterWrite, Some("cancel".to_string())),
            ]
        );
    }
}

#[cfg(all(test, tokio_backend))]
mod postponed_put_resume_tests {
    //! A put callback held behind its channel's predecessor resumes where it
    //! was held: rsrv `write_notify_action` runs `rsrvCheckPut` once, before
    //! the `blockSem` wait (camessage.c:1687, :1712), so what changes while
    //! it waits does not refuse it.
    use super::non_graceful_disconnect_teardown_tests::{
        create_chan_frame, read_create_chan_sid, version_frame,
    };
    use super::*;
    use epics_base_rs::error::CaError;
    use epics_base_rs::server::access_security::{new_acf_cell, parse_acf};
    use epics_base_rs::server::database::PvDatabase;
    use epics_base_rs::server::record::{FieldDesc, ProcessOutcome, Record, RecordProcessResult};
    use epics_base_rs::types::{DbFieldType, EpicsValue};
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    static FIELDS: &[FieldDesc] = &[FieldDesc::new("VAL", DbFieldType::Double, false)];

    /// Its first process goes async and ends on `complete_async_record`, so
    /// the first put callback holds the channel until the test lets it go.
    struct AsyncOnce {
        val: f64,
        pending: bool,
    }

    impl Record for AsyncOnce {
        fn record_type(&self) -> &'static str {
            "asynconce_resume"
        }

        fn process(&mut self) -> CaResult<ProcessOutcome> {
            if std::mem::take(&mut self.pending) {
                Ok(ProcessOutcome {
                    result: RecordProcessResult::AsyncPending,
                    actions: Vec::new(),
                    device_did_compute: false,
                    status: Ok(()),
                })
            } else {
                Ok(ProcessOutcome::complete())
            }
        }

        fn get_field(&self, name: &str) -> Option<EpicsValue> {
            (name == "VAL").then_some(EpicsValue::Double(self.val))
        }

        fn put_field(&mut self, name: &str, value: EpicsValue) -> CaResult<()> {
            match (name, value) {
                ("VAL", EpicsValue::Double(v)) => {
                    self.val = v;
                    Ok(())
                }
                _ => Err(CaError::FieldNotFound(name.to_string())),
            }
        }

        fn declared_fields(&self) -> &'static [FieldDesc] {
            FIELDS
        }

        fn process_passive_fields(&self) -> &'static [&'static str] {
            &["VAL"]
        }
    }

    fn write_notify_frame(sid: u32, ioid: u32, value: f64) -> Vec<u8> {
        let mut h = CaHeader::new(CA_PROTO_WRITE_NOTIFY);
        h.data_type = epics_base_rs::types::DBR_DOUBLE;
        h.count = 1;
        h.cid = sid;
        h.available = ioid;
        h.set_payload_size(8, 1, crate::protocol::CA_MINOR_VERSION)
            .expect("modern peer");
        let mut f = h.to_bytes().to_vec();
        f.extend_from_slice(&value.to_be_bytes());
        f
    }

    /// The next frame's header.
    async fn next_header(client: &mut tokio::io::DuplexStream) -> CaHeader {
        let mut frame = vec![0u8; CaHeader::SIZE];
        tokio::time::timeout(Duration::from_secs(5), client.read_exact(&mut frame))
            .await
            .expect("answered")
            .expect("header");
        let (h, _) = CaHeader::from_bytes_extended(&frame).expect("header parses");
        let mut body = vec![0u8; h.actual_postsize()];
        client.read_exact(&mut body).await.expect("body");
        h
    }

    /// A circuit with one channel open on `name`, an async-once record; the
    /// ACF reload sender stands in for `asInit`.
    async fn open_circuit(
        db: &Arc<PvDatabase>,
        acf: epics_base_rs::server::access_security::AcfCell,
        name: &str,
    ) -> (
        tokio::io::DuplexStream,
        broadcast::Sender<()>,
        tokio::task::JoinHandle<CaResult<()>>,
        u32,
    ) {
        db.add_record(
            name,
            Box::new(AsyncOnce {
                val: 0.0,
                pending: true,
            }),
        )
        .await
        .expect("add record");
        let (acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (mut client, server_io) = tokio::io::duplex(8192);
        let handle = tokio::spawn({
            let db = db.clone();
            async move {
                handle_client(
                    server_io,
                    "127.0.0.1:55312".parse().unwrap(),
                    db,
                    acf,
                    acf_reload_rx,
                    5064,
                    None,
                    None,
                    None,
                    None,
                    None,
                    #[cfg(feature = "cap-tokens")]
                    None,
                    #[cfg(feature = "cap-tokens")]
                    None,
                )
                .await
            }
        });
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(1, name))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        (client, acf_reload_tx, handle, sid)
    }

    /// Put callback ioid 1 in flight on `sid`, and ioid 2 held behind it.
    async fn hold_second_put(client: &mut tokio::io::DuplexStream, sid: u32) {
        for (ioid, value) in [(1, 1.0), (2, 2.0)] {
            client
                .write_all(&write_notify_frame(sid, ioid, value))
                .await
                .expect("write_notify");
            client.flush().await.expect("flush");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// reviewer10's probe: WRITE is revoked while ioid 2 waits behind ioid 1.
    /// Both were granted when they arrived, so both are written and answered
    /// ECA_NORMAL; ioid 2 is not refused ECA_NOWTACCESS on its resumption.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_put_callback_granted_before_its_wait_survives_a_revoke_during_it() {
        let db = Arc::new(PvDatabase::new());
        let acf = new_acf_cell(Some(parse_acf("ASG(DEFAULT) { RULE(1, WRITE) }").unwrap()));
        let (mut client, acf_reload_tx, handle, sid) =
            open_circuit(&db, acf.clone(), "PR:ASY").await;
        hold_second_put(&mut client, sid).await;

        acf.store(Some(Arc::new(
            parse_acf("ASG(DEFAULT) { RULE(1, READ) }").unwrap(),
        )));
        acf_reload_tx.send(()).expect("circuit listening");
        let rights = next_header(&mut client).await;
        assert_eq!(
            (rights.cmmd, rights.available),
            (CA_PROTO_ACCESS_RIGHTS, 1),
            "the revoke reached the circuit while ioid 2 waited"
        );
        db.complete_async_record("PR:ASY").await.expect("completed");

        let mut answered = Vec::new();
        while answered.len() < 2 {
            let h = next_header(&mut client).await;
            match h.cmmd {
                CA_PROTO_WRITE_NOTIFY => answered.push((h.cid, h.available)),
                cmmd => assert_eq!(cmmd, CA_PROTO_ACCESS_RIGHTS),
            }
        }
        assert_eq!(answered, [(ECA_NORMAL, 1), (ECA_NORMAL, 2)]);
        assert_eq!(db.get_pv("PR:ASY").unwrap(), EpicsValue::Double(2.0));
        drop((client, acf_reload_tx));
        handle.abort();
    }

    /// A put callback whose channel is retired while it waits is answered as
    /// a request arriving after the retirement is: ECA_BADCHID, behind the
    /// `CA_PROTO_SERVER_DISCONN`, with the circuit kept.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_put_callback_whose_channel_retires_during_its_wait_is_refused_badchid() {
        let db = Arc::new(PvDatabase::new());
        let acf = new_acf_cell(Some(parse_acf("ASG(DEFAULT) { RULE(1, WRITE) }").unwrap()));
        let (mut client, acf_reload_tx, handle, sid) = open_circuit(&db, acf, "PR:RET").await;
        hold_second_put(&mut client, sid).await;

        assert!(db.remove_record("PR:RET").await, "record was registered");
        let mut frames = Vec::new();
        loop {
            let h = next_header(&mut client).await;
            frames.push((h.cmmd, h.cid, h.available));
            if (h.cmmd, h.available) == (CA_PROTO_WRITE_NOTIFY, 2) {
                break;
            }
        }
        assert_eq!(
            frames,
            [
                (CA_PROTO_WRITE_NOTIFY, ECA_PUTFAIL, 1),
                (CA_PROTO_SERVER_DISCONN, 1, 0),
                (CA_PROTO_WRITE_NOTIFY, ECA_BADCHID, 2),
            ]
        );

        client
            .write_all(&CaHeader::new(CA_PROTO_ECHO).to_bytes())
            .await
            .expect("echo");
        client.flush().await.expect("flush");
        assert_eq!(next_header(&mut client).await.cmmd, CA_PROTO_ECHO);
        drop((client, acf_reload_tx));
        handle.abort();
    }
}

#[cfg(test)]
mod ca_diag_tests {
    use super::{CA_PROTO_ERROR_MAX_DIAG_LEN, build_ca_error_frame};
    use crate::protocol::{CA_MINOR_VERSION, CA_PROTO_READ_NOTIFY, CaHeader, ECA_INTERNAL};

    /// The diagnostic a `CA_PROTO_ERROR` frame carries, up to its NUL.
    fn diag(message: impl super::CaDiag) -> Vec<u8> {
        let frame = build_ca_error_frame(
            &CaHeader::new(CA_PROTO_READ_NOTIFY),
            ECA_INTERNAL,
            0,
            message,
            CA_MINOR_VERSION,
        );
        let body = &frame[2 * CaHeader::SIZE..];
        body[..body.iter().position(|b| *b == 0).unwrap()].to_vec()
    }

    #[test]
    fn passes_through_short_message() {
        assert_eq!(diag("channel limit reached"), b"channel limit reached");
    }

    #[test]
    fn truncates_oversize_to_limit() {
        let s = "x".repeat(CA_PROTO_ERROR_MAX_DIAG_LEN + 100);
        assert_eq!(diag(&s), s.as_bytes()[..CA_PROTO_ERROR_MAX_DIAG_LEN]);
    }

    /// `epicsVsnprintf` cuts at a byte count, inside a UTF-8 sequence too.
    #[test]
    fn truncation_is_by_bytes() {
        let mut s = "a".repeat(479);
        s.push('\u{e9}');
        assert_eq!(diag(&s), s.as_bytes()[..480]);
    }

    /// A record name goes out as its bytes, as `%s` prints it.
    #[test]
    fn a_record_name_is_sent_as_its_bytes() {
        let name: &[u8] = b"nu\xe9b";
        assert_eq!(
            diag(("subscription install into record ", name, " failed")),
            b"subscription install into record nu\xe9b failed"
        );
    }
}

#[cfg(tokio_backend)]
#[cfg(test)]
mod multi_nic_listener_tests {
    //! C-parity regression: `run_tcp_listener` must honour every entry
    //! in `EPICS_CAS_INTF_ADDR_LIST`, not just the first.
    //!
    //! C `rsrv_init` (caservertask.c:604-750) iterates `casIntfAddrList`
    //! and spawns one accept thread per entry, all on the same TCP
    //! port. The previous Rust implementation bound only the first
    //! interface, so a server configured with `INTF_ADDR_LIST="A B"`
    //! silently dropped TCP accepts on interface B.
    use super::*;
    use epics_base_rs::server::database::PvDatabase;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;
    use tokio::net::TcpStream;
    use tokio::sync::broadcast;

    /// Bind an ephemeral listener set and spawn `run_tcp_listener` on it
    /// against a per-test database; return the (port, abort-handle).
    /// Honours whatever EPICS_CAS_INTF_ADDR_LIST is currently set in the
    /// process env (caller manages it).
    async fn start_listener() -> (u16, tokio::task::JoinHandle<()>) {
        let db = Arc::new(PvDatabase::new());
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (acf_reload_tx, _) = broadcast::channel::<()>(4);
        let drain = Arc::new(AtomicBool::new(false));
        let bound = bind_tcp_listeners(0).await.expect("listener bound");
        let port = bound.port();
        let handle = tokio::spawn(async move {
            let _ = run_tcp_listener(
                db,
                bound,
                acf,
                acf_reload_tx,
                None,
                None,
                drain,
                None,
                #[cfg(feature = "experimental-rust-tls")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await;
        });
        (port, handle)
    }

    /// R18-22, the half a stderr capture cannot see: C publishes the port the
    /// server ACTUALLY bound as `RSRV_SERVER_PORT` (`caservertask.c:593-594`),
    /// unconditionally — which is the only way a startup script can find an
    /// IOC that was given an ephemeral port. The port never set it, so
    /// `RSRV_SERVER_PORT` was unset in every Rust IOC that ever ran.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[serial_test::serial]
    async fn the_bound_tcp_port_is_published_as_rsrv_server_port() {
        // SAFETY: gated by `serial_test::serial`.
        unsafe { std::env::remove_var("RSRV_SERVER_PORT") };
        let bound = bind_tcp_listeners(0).await.expect("listener bound");
        assert_eq!(
            std::env::var("RSRV_SERVER_PORT").ok(),
            Some(bound.port().to_string())
        );
    }

    /// Confirm `INTF_ADDR_LIST=127.0.0.1` results in a listener that
    /// accepts on 127.0.0.1. This is the "single specific IP" path
    /// which already worked before — the test guards against a
    /// regression in the refactor.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[serial_test::serial]
    async fn single_specific_intf_binds_and_accepts() {
        let saved = std::env::var("EPICS_CAS_INTF_ADDR_LIST").ok();
        // SAFETY: gated by `serial_test::serial`; restored before return.
        unsafe { std::env::set_var("EPICS_CAS_INTF_ADDR_LIST", "127.0.0.1") };

        let (port, listener_task) = start_listener().await;
        // Connect — TCP handshake completes only if the listener bound
        // to 127.0.0.1 and is accepting.
        let stream = tokio::time::timeout(
            Duration::from_secs(2),
            TcpStream::connect(("127.0.0.1", port)),
        )
        .await
        .expect("connect within timeout")
        .expect("connect succeeded");
        drop(stream);

        listener_task.abort();
        let _ = listener_task.await;

        // SAFETY: same `serial_test::serial` scope.
        unsafe {
            match saved {
                Some(v) => std::env::set_var("EPICS_CAS_INTF_ADDR_LIST", v),
                None => std::env::remove_var("EPICS_CAS_INTF_ADDR_LIST"),
            }
        }
    }

    /// Two-entry `INTF_ADDR_LIST`: the first valid interface decides
    /// the port; the second must bind on the same port. Use
    /// `127.0.0.1` for both — POSIX rejects two identical
    /// (addr,port) binds, so the second bind on the same loopback IP
    /// fails. The contract is that a failed *subsequent* bind is
    /// logged-and-skipped (matching C `cleanup: continue;`), and the
    /// listener as a whole still serves the first interface.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[serial_test::serial]
    async fn duplicate_intf_subsequent_skipped_not_fatal() {
        let saved = std::env::var("EPICS_CAS_INTF_ADDR_LIST").ok();
        // SAFETY: gated by `serial_test::serial`.
        unsafe { std::env::set_var("EPICS_CAS_INTF_ADDR_LIST", "127.0.0.1 127.0.0.1") };

        let (port, listener_task) = start_listener().await;
        // First listener still accepts.
        let stream = tokio::time::timeout(
            Duration::from_secs(2),
            TcpStream::connect(("127.0.0.1", port)),
        )
        .await
        .expect("connect within timeout")
        .expect("connect succeeded — first listener serves");
        drop(stream);

        listener_task.abort();
        let _ = listener_task.await;

        // SAFETY: same scope.
        unsafe {
            match saved {
                Some(v) => std::env::set_var("EPICS_CAS_INTF_ADDR_LIST", v),
                None => std::env::remove_var("EPICS_CAS_INTF_ADDR_LIST"),
            }
        }
    }

    /// Empty list → falls back to single 0.0.0.0 bind (default).
    /// Asserts the empty-list path didn't regress.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[serial_test::serial]
    async fn empty_intf_list_binds_wildcard() {
        let saved = std::env::var("EPICS_CAS_INTF_ADDR_LIST").ok();
        // SAFETY: gated by `serial_test::serial`.
        unsafe { std::env::remove_var("EPICS_CAS_INTF_ADDR_LIST") };

        let (port, listener_task) = start_listener().await;
        // 0.0.0.0 binds accept connections on every local IP including
        // 127.0.0.1.
        let stream = tokio::time::timeout(
            Duration::from_secs(2),
            TcpStream::connect(("127.0.0.1", port)),
        )
        .await
        .expect("connect within timeout")
        .expect("connect succeeded");
        drop(stream);

        listener_task.abort();
        let _ = listener_task.await;

        // SAFETY: same scope.
        unsafe {
            if let Some(v) = saved {
                std::env::set_var("EPICS_CAS_INTF_ADDR_LIST", v);
            }
        }
    }
}

#[cfg(tokio_backend)]
#[cfg(test)]
mod pre_v49_peer_tests {
    //! R6-18 — the server must never speak the extended (24-byte) CA
    //! header to a peer that has not announced CA_V49, in either
    //! direction:
    //!
    //! * receive: `m_postsize == 0xffff` from a pre-V49 peer is NOT an
    //!   extended marker. C reads it as a plain header with a 65,535-byte
    //!   body (`camessage.c:2421-2424` else-branch), so `msgsize = 65551` fails
    //!   the `msgsize & 0x7` test at `camessage.c:2452` →
    //!   ECA_INTERNAL "CAS: Missaligned protocol rejected" + disconnect.
    //! * send: an error echo for a pre-V49 peer is the 16-byte form
    //!   (`vsend_err`, `camessage.c:215-223`).
    use super::single_write_all_framing_tests::{drain_frames, live_outbox};
    use super::*;
    use epics_base_rs::server::database::PvDatabase;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// The ACF-reload sender must outlive the handler: `handle_client`
    /// treats a closed reload channel as "server shutting down" and exits
    /// its read loop, so a dropped sender would end the session before the
    /// first byte is parsed. Hand it back to the caller.
    async fn spawn_handler() -> (
        tokio::io::DuplexStream,
        broadcast::Sender<()>,
        tokio::task::JoinHandle<CaResult<()>>,
    ) {
        let db = Arc::new(PvDatabase::new());
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (client_io, server_io) = tokio::io::duplex(64 * 1024);
        let peer: SocketAddr = "127.0.0.1:55987".parse().unwrap();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                None,
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });
        (client_io, acf_reload_tx, handle)
    }

    /// Read from `client` until a `CA_PROTO_ERROR` frame appears, and
    /// return its ECA status. The server emits an unsolicited VERSION
    /// greeting on connect, so the error frame is never at offset zero —
    /// walk the header chain.
    async fn read_until_error(
        client: &mut tokio::io::DuplexStream,
        peer_minor: u16,
    ) -> Option<(u32, String)> {
        let mut rx: Vec<u8> = Vec::new();
        let mut buf = vec![0u8; 512];
        loop {
            let mut offset = 0;
            while offset + CaHeader::SIZE <= rx.len() {
                let (hdr, consumed) =
                    CaHeader::from_bytes_for_peer(&rx[offset..], CA_MINOR_VERSION)
                        .expect("server frames parse");
                if hdr.cmmd == CA_PROTO_ERROR {
                    let body_start = offset + consumed;
                    let body_end = body_start + hdr.actual_postsize();
                    if body_end > rx.len() {
                        break; // body still in flight
                    }
                    // Body = echoed request header (16 or 24 bytes) + the
                    // NUL-terminated diagnostic string.
                    let body = &rx[body_start..body_end];
                    // The echoed request header is 24 bytes only for a V49
                    // peer (`vsend_err`, camessage.c:201-223) — a pre-V49
                    // echo is 16 bytes even when its truncated postsize
                    // happens to read 0xffff, which is precisely why the
                    // real client keys this off its own version, not off
                    // the bytes.
                    let echo_len = if crate::protocol::ca_v49(peer_minor) && body.len() >= 24 {
                        24
                    } else {
                        16
                    };
                    let diag = String::from_utf8_lossy(&body[echo_len..])
                        .trim_end_matches('\0')
                        .to_string();
                    return Some((hdr.available, diag));
                }
                let msg_len = consumed + hdr.actual_postsize();
                if offset + msg_len > rx.len() {
                    break;
                }
                offset += msg_len;
            }
            let n = match tokio::time::timeout(Duration::from_secs(2), client.read(&mut buf)).await
            {
                Ok(Ok(0)) | Err(_) => return None,
                Ok(Ok(n)) => n,
                Ok(Err(_)) => return None,
            };
            rx.extend_from_slice(&buf[..n]);
        }
    }

    /// A peer that identifies as CA minor 8 (V44+, so it is not the
    /// "too old" ECA_DEFUNCT case, but pre-V49) sends a header with
    /// `m_postsize == 0xffff`. C never treats that as an extended
    /// marker for this peer, so it becomes a 65,535-byte body →
    /// misaligned → ECA_INTERNAL + disconnect. Pre-fix Rust parsed the
    /// annex unconditionally and happily accepted the frame.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn pre_v49_extended_marker_rejected_as_misaligned() {
        let (mut client, _acf_reload_tx, handle) = spawn_handler().await;

        let mut ver = CaHeader::new(CA_PROTO_VERSION);
        ver.count = 8; // V44 <= 8 < V49
        client
            .write_all(&ver.to_bytes())
            .await
            .expect("write version");

        // Extended-form READ_NOTIFY, exactly as a V49 peer would frame a
        // 200,000-element read. All 24 bytes are present, so the only
        // thing that can reject it is the version gate.
        let mut hdr = CaHeader::new(CA_PROTO_READ_NOTIFY);
        hdr.set_payload_size(0, 200_000, CA_MINOR_VERSION)
            .expect("frame it as a V49 peer would");
        client
            .write_all(&hdr.to_bytes_extended())
            .await
            .expect("write extended header");
        client.flush().await.expect("flush");

        let (eca, diag) = read_until_error(&mut client, 8)
            .await
            .expect("server must reply CA_PROTO_ERROR");
        assert_eq!(
            diag, "CAS: Missaligned protocol rejected",
            "C reads the pre-V49 0xffff postsize as a 65,551-byte message and \
             rejects it at the alignment test (camessage.c:2452)"
        );
        assert_eq!(
            eca, ECA_INTERNAL,
            "C sends ECA_INTERNAL for a misaligned message"
        );

        let res = tokio::time::timeout(Duration::from_secs(2), handle)
            .await
            .expect("handler exits")
            .expect("join ok");
        assert!(
            res.is_err(),
            "C disconnects the client after the misaligned rejection"
        );
    }

    /// A V49 peer sending the SAME bytes is served normally — the
    /// rejection above must be attributable to the version gate, not to
    /// the frame itself. The read targets a non-existent channel, so the
    /// reply is ECA_BADCHID / a channel error, never ECA_INTERNAL.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn v49_peer_extended_marker_accepted() {
        let (mut client, _acf_reload_tx, handle) = spawn_handler().await;

        let mut ver = CaHeader::new(CA_PROTO_VERSION);
        ver.count = CA_MINOR_VERSION;
        client
            .write_all(&ver.to_bytes())
            .await
            .expect("write version");

        let mut hdr = CaHeader::new(CA_PROTO_READ_NOTIFY);
        hdr.set_payload_size(0, 200_000, CA_MINOR_VERSION)
            .expect("V49 peer accepts the extended header");
        client
            .write_all(&hdr.to_bytes_extended())
            .await
            .expect("write extended header");
        client.flush().await.expect("flush");

        // The read targets a channel that was never created, so C answers
        // with its bad-resource-id error and drops the circuit either way.
        // What must differ is WHY: the V49 peer's header is parsed as an
        // extended header, never rejected as a misaligned plain one.
        let (_eca, diag) = read_until_error(&mut client, CA_MINOR_VERSION)
            .await
            .expect("server replies with an error for the unknown sid");
        assert_ne!(
            diag, "CAS: Missaligned protocol rejected",
            "a V49 peer's extended header must be parsed, not rejected as misaligned"
        );
        drop(client);
        let _ = tokio::time::timeout(Duration::from_secs(2), handle).await;
    }

    /// C `vsend_err` (`camessage.c:201-223`) echoes the request header in
    /// extended form only when `CA_V49(minor)`. For a pre-V49 peer the
    /// echo is the plain 16-byte header — a 24-byte echo would de-sync a
    /// client with no annex parser.
    #[epics_macros_rs::epics_test]
    async fn pre_v49_error_echo_is_sixteen_bytes() {
        let (outbox, mut drain) = live_outbox();
        let mut original = CaHeader::new(CA_PROTO_READ_NOTIFY);
        original
            .set_payload_size(0, 0x1_0000, CA_MINOR_VERSION)
            .expect("extended original");
        assert!(original.is_extended());

        send_ca_error(
            &outbox,
            &original,
            ECA_INTERNAL,
            0xFFFF_FFFF,
            "boom",
            8, // pre-V49 peer
        )
        .expect("send_ca_error succeeds");

        let frames = drain_frames(&mut drain);
        let frame = &frames[0];
        let diag = pad_string("boom");
        assert_eq!(
            frame.len(),
            CaHeader::SIZE + 16 + diag.len(),
            "pre-V49 echo must be the 16-byte header form"
        );
        let echo_postsize = u16::from_be_bytes([frame[18], frame[19]]);
        assert_eq!(
            echo_postsize, 0,
            "the echoed 16-bit postsize is the truncated original \
             (C: htons((ca_uint16_t) curp->m_postsize))"
        );
    }

    /// The same error to a V49 peer keeps the 24-byte extended echo.
    #[epics_macros_rs::epics_test]
    async fn v49_error_echo_is_twenty_four_bytes() {
        let (outbox, mut drain) = live_outbox();
        let mut original = CaHeader::new(CA_PROTO_READ_NOTIFY);
        original
            .set_payload_size(0, 0x1_0000, CA_MINOR_VERSION)
            .expect("extended original");

        send_ca_error(
            &outbox,
            &original,
            ECA_INTERNAL,
            0xFFFF_FFFF,
            "boom",
            CA_MINOR_VERSION,
        )
        .expect("send_ca_error succeeds");

        let frames = drain_frames(&mut drain);
        let frame = &frames[0];
        let diag = pad_string("boom");
        assert_eq!(
            frame.len(),
            CaHeader::SIZE + 24 + diag.len(),
            "V49 echo carries the 8-byte annex"
        );
    }

    /// C `vsend_err` chooses the echo's form from the request's real size
    /// and count, and its condition is an OR over BOTH
    /// (`camessage.c:210-211`). A normal-form request carrying
    /// `m_count == 0xffff` therefore gets the 24-byte echo, even though it
    /// arrived in 16 bytes with no annex of its own.
    ///
    /// The port asked the parsed header whether it had arrived extended, so
    /// this request was echoed in 16 bytes: eight bytes shorter than a C
    /// softIoc's answer to the identical frame, with the diagnostic starting
    /// at a different offset.
    #[epics_macros_rs::epics_test]
    async fn a_max_count_request_in_normal_form_is_echoed_extended() {
        let (outbox, mut drain) = live_outbox();
        // Normal form on the wire: no annex, `m_count` at its 16-bit ceiling.
        let mut original = CaHeader::new(CA_PROTO_EVENT_ADD);
        original.count = 0xFFFF;
        assert!(!original.is_extended(), "the request arrived in 16 bytes");

        send_ca_error(
            &outbox,
            &original,
            ECA_INTERNAL,
            0xFFFF_FFFF,
            "boom",
            CA_MINOR_VERSION,
        )
        .expect("send_ca_error succeeds");

        let frames = drain_frames(&mut drain);
        let frame = &frames[0];
        let diag = pad_string("boom");
        assert_eq!(
            frame.len(),
            CaHeader::SIZE + 24 + diag.len(),
            "m_count >= 0xffff alone selects the extended echo"
        );
        assert_eq!(
            u16::from_be_bytes([frame[18], frame[19]]),
            0xFFFF,
            "the echo carries the extended marker C writes"
        );
        assert_eq!(
            u16::from_be_bytes([frame[22], frame[23]]),
            0,
            "C zeroes the 16-bit m_count when the annex carries the real one"
        );
        assert_eq!(
            u32::from_be_bytes([frame[36], frame[37], frame[38], frame[39]]),
            0xFFFF,
            "the annex carries the request's real count"
        );
    }

    /// The converse, from the same OR: an extended request whose real size
    /// and count both fit in 16 bits is echoed in the SHORT form, because C
    /// reads the values and not the layout they arrived in.
    #[epics_macros_rs::epics_test]
    async fn an_extended_request_with_small_values_is_echoed_short() {
        let (outbox, mut drain) = live_outbox();
        // Extended on the wire, but neither value needs the annex.
        let mut original = CaHeader::new(CA_PROTO_READ_NOTIFY);
        original.postsize = 0xFFFF;
        original.extended_postsize = Some(8);
        original.extended_count = Some(3);
        assert!(original.is_extended(), "the request arrived in 24 bytes");

        send_ca_error(
            &outbox,
            &original,
            ECA_INTERNAL,
            0xFFFF_FFFF,
            "boom",
            CA_MINOR_VERSION,
        )
        .expect("send_ca_error succeeds");

        let frames = drain_frames(&mut drain);
        let frame = &frames[0];
        let diag = pad_string("boom");
        assert_eq!(
            frame.len(),
            CaHeader::SIZE + 16 + diag.len(),
            "neither value reaches 0xffff, so C echoes the 16-byte form"
        );
        assert_eq!(
            u16::from_be_bytes([frame[18], frame[19]]),
            8,
            "the echoed postsize is the request's real one, not the marker"
        );
        assert_eq!(
            u16::from_be_bytes([frame[22], frame[23]]),
            3,
            "the echoed count is the request's real one"
        );
    }

    /// A response too large for the 16-bit header cannot be framed for a
    /// pre-V49 peer. C `read_reply` / `read_action` answer with
    /// `send_err(ECA_16KARRAYCLIENT)` (`camessage.c:622-631`) rather than
    /// emitting an extended header the peer cannot parse.
    #[epics_macros_rs::epics_test]
    async fn oversize_reply_to_pre_v49_peer_is_eca_16karrayclient() {
        use epics_base_rs::server::snapshot::Snapshot;
        use epics_base_rs::types::{DBR_LONG, EpicsValue};

        let (outbox, mut drain) = live_outbox();
        // 20,000 LONG elements = 80,000 payload bytes → needs the
        // extended header (>= 0xffff).
        let values: Vec<i32> = vec![7; 20_000];
        let snapshot = Snapshot::new(
            EpicsValue::LongArray(values.into()),
            0,
            0,
            std::time::SystemTime::UNIX_EPOCH,
        );
        let req = CaHeader::new(CA_PROTO_READ_NOTIFY);

        send_monitor_snapshot(
            &outbox,
            9,
            DBR_LONG,
            20_000,
            &snapshot,
            ReplyContext {
                req_hdr: req,
                client_minor: 8,
            },
        )
        .expect("the error reply itself must succeed");

        let frames = drain_frames(&mut drain);
        let frame = &frames[0];
        let cmmd = u16::from_be_bytes([frame[0], frame[1]]);
        let eca = u32::from_be_bytes([frame[12], frame[13], frame[14], frame[15]]);
        assert_eq!(cmmd, CA_PROTO_ERROR, "pre-V49 peer gets an error, not data");
        assert_eq!(
            eca, ECA_16KARRAYCLIENT,
            "C answers an unframeable large array with ECA_16KARRAYCLIENT"
        );
    }
}

#[cfg(tokio_backend)]
#[cfg(test)]
mod extended_header_split_tests {
    //! C-parity regression: a TCP segment that ends in the middle of an
    //! extended-form header (16..24 bytes, `m_postsize == 0xffff`) must
    //! make the framing loop *wait* for the rest of the header, not
    //! disconnect the client. C `rsrv/camessage.c:2412-2415` does
    //! `status = RSRV_OK; break;` for this partial-header case.
    use super::*;
    use epics_base_rs::server::database::PvDatabase;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt;

    /// Feed exactly 20 bytes of an extended-form header (a 16-byte base
    /// header with `postsize == 0xFFFF`, plus 4 of the 8 extended
    /// bytes) and assert `handle_client` does NOT return early with an
    /// error: it must block awaiting the remaining 4 bytes. Pre-fix,
    /// `from_bytes_extended` returned `Err("extended header
    /// incomplete")` and the `?` closed the connection.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn partial_extended_header_waits_not_disconnects() {
        let db = Arc::new(PvDatabase::new());
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);

        // A ONE-byte pipe, so the write below cannot outrun the handler. On a
        // roomier pipe the whole prefix lands in the buffer at once and the
        // handler may parse it in a single read — the 20-byte state under test
        // would never occur, and the test would pass without entering it.
        let (client_io, server_io) = tokio::io::duplex(1);
        let peer: SocketAddr = "127.0.0.1:55123".parse().unwrap();

        let mut handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                None,
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });

        // Build a CA_PROTO_READ_NOTIFY header in extended form:
        // postsize=0xFFFF marks extended; write only 20 of the 24
        // header bytes so the framing loop sees a partial ext header.
        let mut hdr = CaHeader::new(CA_PROTO_READ_NOTIFY);
        hdr.postsize = 0xFFFF;
        let base = hdr.to_bytes();
        let mut prefix = base.to_vec();
        // 4 of the 8 extended bytes (extended postsize = 0).
        prefix.extend_from_slice(&[0u8, 0, 0, 0]);
        assert_eq!(prefix.len(), 20);

        // Identify as V49 first: C only parses the extended annex when
        // `CA_V49(client->minor_version_number)` (`camessage.c:2410`), so
        // the partial-annex wait is reachable only for a V49 peer. A
        // pre-V49 peer sending the same bytes is rejected — see
        // `pre_v49_extended_marker_rejected_as_misaligned`.
        let mut ver = CaHeader::new(CA_PROTO_VERSION);
        ver.count = CA_MINOR_VERSION;
        let mut stream = ver.to_bytes().to_vec();
        stream.extend_from_slice(&prefix);
        assert_eq!(stream.len(), 36);

        /// What this absence claim can observe: the handler returning, or the
        /// pipe having drained past the point where it would have.
        #[derive(Debug)]
        enum Seen {
            HandlerReturned,
            PrefixDrained,
        }

        // The barrier is the pipe draining: through a 1-byte buffer this write
        // completes only once the handler has taken 35 of the 36 bytes, so it
        // has parsed the VERSION and been round the partial-annex branch at
        // 16, 17, 18 and 19 prefix bytes and chosen to read on. A handler that
        // returned stops reading, the write stalls, and its return arrives
        // first. A window only ever proved the return was slower than it.
        // The pipe is bidirectional and both directions share the 1-byte
        // buffer, so the server's VERSION greeting would wedge it the moment
        // nobody reads: keep the reverse direction moving in its own task.
        let (mut client_rd, mut client_wr) = tokio::io::split(client_io);
        let reply_drain = tokio::spawn(async move {
            use tokio::io::AsyncReadExt as _;
            let mut sink = [0u8; 256];
            while matches!(client_rd.read(&mut sink).await, Ok(n) if n > 0) {}
        });

        fact_budget::barrier::until_async(
            "handle_client returned on a partial extended header — must wait \
             for more bytes (C camessage.c RSRV_OK; break)",
            |s: &Seen| matches!(s, Seen::HandlerReturned),
            |s: &Seen| matches!(s, Seen::PrefixDrained),
            async |remaining| {
                tokio::time::timeout(remaining, async {
                    tokio::select! {
                        biased;
                        _ = &mut handle => Some(Seen::HandlerReturned),
                        w = client_wr.write_all(&stream) => match w {
                            Ok(()) => Some(Seen::PrefixDrained),
                            // The handler dropped its end mid-write: the same
                            // event as it returning, seen from this side.
                            Err(_) => Some(Seen::HandlerReturned),
                        },
                    }
                })
                .await
                .ok()?
            },
        )
        .await;

        // Close the write half: a clean EOF on a partial frame must
        // resolve to Ok(()), never an Err.
        client_wr.shutdown().await.expect("shut the write half");
        let res = tokio::time::timeout(Duration::from_secs(2), handle)
            .await
            .expect("handle_client completes after EOF")
            .expect("join ok");
        assert!(
            res.is_ok(),
            "clean EOF after partial extended header must be Ok, got {res:?}"
        );
        reply_drain.abort();
    }
}

#[cfg(test)]
mod host_identity_tests {
    //! R7-16: the ACF host identity of a circuit.
    //!
    //! C rsrv's default (`asCheckClientIP == 0`, `asLibRoutines.c:34`) is to
    //! store the hostname the client claims over `CA_PROTO_HOST_NAME`
    //! unconditionally (`camessage.c:849-872`) and match HAGs against that
    //! name (`asLibRoutines.c:1031`). The port instead keyed ACF on the peer
    //! IP unless a fictitious `EPICS_CAS_USE_HOST_NAMES=YES` was set — a
    //! variable that does not exist anywhere in epics-base — so a
    //! `HOST(node)` rule that granted WRITE under C granted nothing here.
    use super::*;

    #[test]
    fn claimed_identity_takes_the_client_supplied_name() {
        // C's default path: `create_tcp_client` leaves pHostName NULL, so
        // the identity is "" until the client claims one.
        let mut id = HostIdentity::Claimed(Vec::new());
        assert_eq!(
            id.as_bytes(),
            b"",
            "no claim yet — C passes \"\" to asAddClient"
        );

        assert!(id.claim("opi-01.lab".into()), "a claimed identity takes it");
        assert_eq!(
            id.as_bytes(),
            b"opi-01.lab",
            "C stores the client-supplied name unconditionally (camessage.c:849-872)"
        );
        // `host_name_action` keeps the name's bytes as the client sent them.
        assert!(id.claim(b"opi\xff".to_vec()));
        assert_eq!(id.as_bytes(), b"opi\xff");
    }

    #[test]
    fn pinned_identity_ignores_the_client_supplied_name() {
        // C's `asCheckClientIP == 1` path: the peer IP is the identity and
        // `host_name_action` returns early without storing the claim
        // (camessage.c:838-844). The port's mTLS identity is pinned the
        // same way.
        let mut id = HostIdentity::Pinned("10.0.0.7".into());
        assert!(
            !id.claim("privileged-console".into()),
            "a pinned identity refuses the claim"
        );
        assert_eq!(
            id.as_bytes(),
            b"10.0.0.7",
            "a client cannot spoof its way past a pinned identity"
        );
    }

    /// The connection-setup decision, made where C makes it
    /// (`create_tcp_client`, `caservertask.c:1425-1439`). Reproduces the
    /// same three-way match `handle_client` runs, pinning the mapping from
    /// (mTLS identity, asCheckClientIP) to variant.
    #[test]
    fn identity_source_is_decided_once_at_connection_setup() {
        use epics_base_rs::server::access_security::{as_check_client_ip, set_as_check_client_ip};

        let peer: SocketAddr = "192.168.4.9:44321".parse().unwrap();
        let decide = |verified: Option<String>| match verified {
            Some(v) => HostIdentity::Pinned(v.into_bytes()),
            None if as_check_client_ip() => {
                HostIdentity::Pinned(peer.ip().to_string().into_bytes())
            }
            None => HostIdentity::Claimed(Vec::new()),
        };

        // C default: claimable, empty until CA_PROTO_HOST_NAME.
        set_as_check_client_ip(false);
        assert_eq!(decide(None), HostIdentity::Claimed(Vec::new()));

        // asCheckClientIP=1: pinned to the peer's dotted-quad address.
        set_as_check_client_ip(true);
        assert_eq!(
            decide(None),
            HostIdentity::Pinned("192.168.4.9".into()),
            "C fills pHostName with the peer IP (caservertask.c:1432)"
        );

        // An mTLS-verified identity outranks both modes.
        assert_eq!(
            decide(Some("CN=alice".into())),
            HostIdentity::Pinned("CN=alice".into())
        );
        set_as_check_client_ip(false);
        assert_eq!(
            decide(Some("CN=alice".into())),
            HostIdentity::Pinned("CN=alice".into()),
            "the cert identity is pinned regardless of asCheckClientIP"
        );
    }
}

#[cfg(tokio_backend)]
#[cfg(test)]
mod oversize_request_tests {
    //! R7-18: an oversize inbound request must NOT tear the circuit down.
    //!
    //! C `camessage.c:2471-2488` answers a message it cannot buffer with
    //! `send_err(ECA_TOLARGE)`, sets `recvBytesToDrain` to skip the body,
    //! and returns `RSRV_OK` — the circuit and every channel and
    //! subscription on it survive. The port used to `break 'client_loop
    //! Err(..)` here, so one oversize array caput destroyed the whole
    //! client. Server-side sibling of the client-side R6-21 fix.
    use super::*;
    use epics_base_rs::server::database::PvDatabase;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// End-to-end: an oversize extended-form request draws ECA_TOLARGE,
    /// its body is drained, and the circuit keeps serving — the ECHO that
    /// follows the oversize body is answered.
    ///
    /// The bound is only a *bound* when `EPICS_CA_AUTO_ARRAY_BYTES` is off:
    /// that is the sole configuration in which C's server allocates a fixed
    /// `rsrvSizeofLargeBufTCP` buffer and answers ECA_TOLARGE past it
    /// (`caservertask.c:535-541`, `camessage.c:2471-2488`). With it ON — the
    /// compiled default — C grows the buffer to whatever the peer announced and
    /// refuses nothing, so an oversize request is not a thing that exists.
    ///
    /// This test used to set `EPICS_CA_MAX_ARRAY_BYTES` **alone** and expect a
    /// refusal, which pinned the defect it was written under: that variable was
    /// also standing in as the port's DoS cap, so it bounded a path C does not
    /// bound with it. It sets both parameters now, and takes the ceiling from
    /// [`crate::protocol::max_frame_body_bytes`] rather than assuming the raw
    /// env value is the ceiling — C floors it at `MAX_TCP` and adds the 24-byte
    /// extended header, so a 4 KiB request really yields a 16 KiB buffer.
    ///
    /// nextest runs each test in its own process, so the env mutation is
    /// contained.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn oversize_request_draws_eca_tolarge_and_keeps_the_circuit() {
        // SAFETY: nextest gives each test its own process; no other thread
        // in it reads the environment concurrently at this point.
        unsafe {
            std::env::set_var("EPICS_CA_AUTO_ARRAY_BYTES", "NO");
            std::env::set_var("EPICS_CA_MAX_ARRAY_BYTES", "4096");
        }
        let ceiling = crate::protocol::max_frame_body_bytes();
        assert_eq!(
            ceiling,
            crate::protocol::MAX_TCP,
            "C rounds a sub-MAX_TCP EPICS_CA_MAX_ARRAY_BYTES up to MAX_TCP"
        );

        let db = Arc::new(PvDatabase::new());
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (client_io, server_io) = tokio::io::duplex(64 * 1024);
        let peer: SocketAddr = "127.0.0.1:55124".parse().unwrap();

        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                None,
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });

        let mut client = client_io;

        // Identify as V49 — C only reads the extended annex for a V49 peer.
        let mut ver = CaHeader::new(CA_PROTO_VERSION);
        ver.count = CA_MINOR_VERSION;
        client.write_all(&ver.to_bytes()).await.unwrap();

        // Extended-form WRITE with a body one element past the ceiling.
        let ext_post: u32 = (ceiling + 8) as u32;
        let mut hdr = CaHeader::new(CA_PROTO_WRITE);
        hdr.postsize = 0xFFFF;
        let mut frame = hdr.to_bytes().to_vec();
        frame.extend_from_slice(&ext_post.to_be_bytes());
        frame.extend_from_slice(&1u32.to_be_bytes()); // extended count
        client.write_all(&frame).await.unwrap();
        client.flush().await.unwrap();

        // Read one whole CA frame (header + declared payload) so the next
        // read starts on a frame boundary.
        async fn read_frame(c: &mut tokio::io::DuplexStream) -> [u8; 16] {
            let mut hdr = [0u8; 16];
            tokio::time::timeout(Duration::from_secs(2), c.read_exact(&mut hdr))
                .await
                .expect("server must answer, not hang")
                .expect("server must answer, not close the circuit");
            let postsize = u16::from_be_bytes([hdr[2], hdr[3]]) as usize;
            if postsize > 0 {
                let mut body = vec![0u8; postsize];
                c.read_exact(&mut body).await.expect("frame body");
            }
            hdr
        }

        // Skip the VERSION handshake frames, then the ECA_TOLARGE error
        // must come back on the wire — not an EOF.
        let reply = loop {
            let f = read_frame(&mut client).await;
            if u16::from_be_bytes([f[0], f[1]]) != CA_PROTO_VERSION {
                break f;
            }
        };
        assert_eq!(
            u16::from_be_bytes([reply[0], reply[1]]),
            CA_PROTO_ERROR,
            "oversize request must draw a CA_PROTO_ERROR"
        );
        assert_eq!(
            u32::from_be_bytes([reply[12], reply[13], reply[14], reply[15]]),
            ECA_TOLARGE,
            "C answers an unbufferable request with ECA_TOLARGE (camessage.c:2476)"
        );

        // The circuit must still be up: pre-fix this had already been torn
        // down with a Protocol error.
        assert!(
            !handle.is_finished(),
            "an oversize request must not close the circuit (C keeps serving)"
        );

        // Ship the oversize body — the server drains it — then an ECHO.
        // The ECHO is only answered if the drain consumed exactly the body.
        client
            .write_all(&vec![0u8; ext_post as usize])
            .await
            .unwrap();
        let echo = CaHeader::new(CA_PROTO_ECHO);
        client.write_all(&echo.to_bytes()).await.unwrap();
        client.flush().await.unwrap();

        let echo_reply = read_frame(&mut client).await;
        assert_eq!(
            u16::from_be_bytes([echo_reply[0], echo_reply[1]]),
            CA_PROTO_ECHO,
            "the message after a drained oversize body must be parsed normally — \
             the drain must consume the body exactly, no more and no less"
        );

        handle.abort();
    }
}

#[cfg(tokio_backend)]
#[cfg(test)]
mod non_graceful_disconnect_teardown_tests {
    //! CRITICAL regression: every exit path out of `handle_client`'s
    //! read loop — not just the graceful `break` — must run the single
    //! teardown block (subscription cancel + `SubscriptionClosed`
    //! emission + write-notify abort + `ChannelCleared` emission).
    //!
    //! Before the fix, an in-loop `return Err(..)` (misaligned payload,
    //! payload-too-large, dispatch error, send-timeout, rate-limit
    //! disconnect, batched-flush error) bypassed the teardown. A client
    //! that established a subscription and then disconnected
    //! non-gracefully (TCP RST, malformed frame) would leave its
    //! `SubscriptionClosed` event unfired forever — inflating consumer
    //! refcounts that key off these events (e.g. ca_gateway).
    use super::*;
    use epics_base_rs::server::database::PvDatabase;
    use epics_base_rs::types::EpicsValue;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Build a CA_PROTO_VERSION request (minor version 13).
    pub(super) fn version_frame() -> Vec<u8> {
        let mut h = CaHeader::new(CA_PROTO_VERSION);
        h.count = CA_MINOR_VERSION;
        h.to_bytes().to_vec()
    }

    /// Build a CA_PROTO_CREATE_CHAN request for `pv_name` with the
    /// given client cid. Payload is the 8-aligned, NUL-terminated name.
    pub(super) fn create_chan_frame(cid: u32, pv_name: impl AsRef<[u8]>) -> Vec<u8> {
        let name = crate::protocol::pad_bytes(pv_name.as_ref());
        let mut h = CaHeader::new(CA_PROTO_CREATE_CHAN);
        h.cid = cid;
        h.available = CA_MINOR_VERSION as u32;
        h.set_payload_size(name.len(), 0, crate::protocol::CA_MINOR_VERSION)
            .expect("modern peer accepts the extended header");
        let mut frame = h.to_bytes().to_vec();
        frame.extend_from_slice(&name);
        frame
    }

    /// Build a CA_PROTO_EVENT_ADD request: subscribe `sub_id` on `sid`.
    /// Payload is the 16-byte monitor request (low/high/to f32 + mask).
    pub(super) fn event_add_frame(sid: u32, sub_id: u32) -> Vec<u8> {
        let mut h = CaHeader::new(CA_PROTO_EVENT_ADD);
        h.data_type = epics_base_rs::types::DBR_TIME_DOUBLE;
        h.count = 1;
        h.cid = sid;
        h.available = sub_id;
        h.set_payload_size(16, 1, crate::protocol::CA_MINOR_VERSION)
            .expect("modern peer accepts the extended header");
        let mut frame = h.to_bytes().to_vec();
        frame.extend_from_slice(&0f32.to_be_bytes());
        frame.extend_from_slice(&0f32.to_be_bytes());
        frame.extend_from_slice(&0f32.to_be_bytes());
        frame.extend_from_slice(&3u16.to_be_bytes()); // mask: value+alarm
        frame.extend_from_slice(&0u16.to_be_bytes()); // pad
        frame
    }

    /// Drain `rx` for up to `timeout`, returning the first event that
    /// satisfies `pred`, or `None` on timeout.
    pub(super) async fn await_event(
        rx: &mut broadcast::Receiver<ServerConnectionEvent>,
        timeout: Duration,
        mut pred: impl FnMut(&ServerConnectionEvent) -> bool,
    ) -> Option<ServerConnectionEvent> {
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
            if remaining.is_zero() {
                return None;
            }
            match tokio::time::timeout(remaining, rx.recv()).await {
                Ok(Ok(ev)) => {
                    if pred(&ev) {
                        return Some(ev);
                    }
                }
                Ok(Err(broadcast::error::RecvError::Lagged(_))) => continue,
                Ok(Err(broadcast::error::RecvError::Closed)) | Err(_) => return None,
            }
        }
    }

    /// Read from `client` until a CA_PROTO_CREATE_CHAN response frame is
    /// seen, then return its server-assigned sid (`m_available`). The
    /// EVENT_ADD request must address the channel by this sid, not by
    /// the client cid.
    pub(super) async fn read_create_chan_sid<R: tokio::io::AsyncRead + Unpin>(
        client: &mut R,
        timeout: Duration,
    ) -> u32 {
        let mut acc: Vec<u8> = Vec::new();
        let mut buf = [0u8; 512];
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
            assert!(
                !remaining.is_zero(),
                "timed out waiting for CREATE_CHAN response"
            );
            let n = tokio::time::timeout(remaining, client.read(&mut buf))
                .await
                .expect("read within timeout")
                .expect("read ok");
            assert!(n > 0, "server closed before CREATE_CHAN response");
            acc.extend_from_slice(&buf[..n]);
            let mut offset = 0;
            while offset + CaHeader::SIZE <= acc.len() {
                let (hdr, hdr_size) = CaHeader::from_bytes_extended(&acc[offset..])
                    .expect("server response header parses");
                let msg_len = hdr_size + hdr.actual_postsize();
                if offset + msg_len > acc.len() {
                    break;
                }
                if hdr.cmmd == CA_PROTO_CREATE_CHAN {
                    return hdr.available;
                }
                offset += msg_len;
            }
        }
    }

    /// Read frames until a CREATE_CHAN (success) or CREATE_CH_FAIL response
    /// is seen, then return that header so the caller can distinguish the
    /// two outcomes and inspect the advertised type/count.
    pub(super) async fn read_create_chan_result<R: tokio::io::AsyncRead + Unpin>(
        client: &mut R,
        timeout: Duration,
    ) -> CaHeader {
        let mut acc: Vec<u8> = Vec::new();
        let mut buf = [0u8; 512];
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
            assert!(
                !remaining.is_zero(),
                "timed out waiting for CREATE_CHAN result"
            );
            let n = tokio::time::timeout(remaining, client.read(&mut buf))
                .await
                .expect("read within timeout")
                .expect("read ok");
            assert!(n > 0, "server closed before CREATE_CHAN result");
            acc.extend_from_slice(&buf[..n]);
            let mut offset = 0;
            while offset + CaHeader::SIZE <= acc.len() {
                let (hdr, hdr_size) = CaHeader::from_bytes_extended(&acc[offset..])
                    .expect("server response header parses");
                let msg_len = hdr_size + hdr.actual_postsize();
                if offset + msg_len > acc.len() {
                    break;
                }
                if hdr.cmmd == CA_PROTO_CREATE_CHAN || hdr.cmmd == CA_PROTO_CREATE_CH_FAIL {
                    return hdr;
                }
                offset += msg_len;
            }
        }
    }

    /// A CA name is bytes: softIoc R7.0.10 serves `caget` on a record named
    /// `nu\xe9b` and answers its UTF-8 spelling `not found`, on SEARCH (UDP
    /// and TCP) and on CREATE_CHAN alike.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_latin1_name_is_found_and_its_utf8_spelling_is_not() {
        use epics_base_rs::server::records::stringin::StringinRecord;
        const LATIN1: &[u8] = b"nu\xe9b";
        const UTF8: &[u8] = b"nu\xc3\xa9b";

        let db = Arc::new(PvDatabase::new());
        db.add_record(LATIN1, Box::new(StringinRecord::new("d")))
            .await
            .expect("add stringin record");

        let search = |cid: u32, name: &[u8]| {
            let padded = crate::protocol::pad_bytes(name);
            let mut h = CaHeader::new(CA_PROTO_SEARCH);
            h.data_type = CA_DO_REPLY;
            h.count = CA_MINOR_VERSION;
            h.cid = cid;
            h.available = cid;
            h.postsize = padded.len() as u16;
            [h.to_bytes().as_slice(), &padded].concat()
        };
        let peer: SocketAddr = "127.0.0.1:55225".parse().unwrap();
        for (name, found) in [(LATIN1, true), (UTF8, false)] {
            let mut batch = crate::server::udp::SearchReplyBatch::default();
            let mut ready = Vec::new();
            crate::server::udp::parse_search_datagram(
                &[version_frame(), search(1, name)].concat(),
                &db,
                5064,
                peer,
                &mut batch,
                &mut ready,
            )
            .await;
            let replied = !ready.is_empty() || batch.shape_trailing().is_some();
            assert_eq!(replied, found, "UDP SEARCH {name:?}");
        }

        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (conn_tx, mut conn_rx) = broadcast::channel::<ServerConnectionEvent>(64);
        let (client_io, server_io) = tokio::io::duplex(4096);
        let server_db = db.clone();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                server_db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                Some(conn_tx),
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });
        let mut client = client_io;
        client.write_all(&version_frame()).await.expect("version");

        for (cid, name, want) in [(1, LATIN1, CA_PROTO_SEARCH), (2, UTF8, CA_PROTO_NOT_FOUND)] {
            client.write_all(&search(cid, name)).await.expect("search");
            let hdr = read_reply(&mut client, &[CA_PROTO_SEARCH, CA_PROTO_NOT_FOUND]).await;
            assert_eq!(hdr.cmmd, want, "TCP SEARCH {name:?}");
        }

        for (cid, name, want) in [
            (0xA1, LATIN1, CA_PROTO_CREATE_CHAN),
            (0xA2, UTF8, CA_PROTO_CREATE_CH_FAIL),
        ] {
            client
                .write_all(&create_chan_frame(cid, name))
                .await
                .expect("create_chan");
            let hdr = read_create_chan_result(&mut client, Duration::from_secs(3)).await;
            assert_eq!(hdr.cmmd, want, "CREATE_CHAN {name:?}");
        }
        let created = await_event(&mut conn_rx, Duration::from_secs(3), |ev| {
            matches!(ev, ServerConnectionEvent::ChannelCreated { .. })
        })
        .await;
        assert!(
            matches!(
                created,
                Some(ServerConnectionEvent::ChannelCreated { ref pv_name, .. }) if **pv_name == *LATIN1
            ),
            "{created:?}"
        );

        drop(client);
        handle.abort();
    }

    /// The next reply whose command is one of `cmmds`.
    async fn read_reply<R: tokio::io::AsyncRead + Unpin>(
        client: &mut R,
        cmmds: &[u16],
    ) -> CaHeader {
        loop {
            let mut head = [0u8; CaHeader::SIZE];
            tokio::time::timeout(Duration::from_secs(3), client.read_exact(&mut head))
                .await
                .expect("reply within timeout")
                .expect("read ok");
            let hdr = CaHeader::from_bytes(&head).expect("header parses");
            let mut body = vec![0u8; hdr.postsize as usize];
            client.read_exact(&mut body).await.expect("body");
            if cmmds.contains(&hdr.cmmd) {
                return hdr;
            }
        }
    }

    /// Regression: a record-level `$` long-string channel — `REC$` with no
    /// explicit `.FIELD` — must resolve and create as a CHAR[40] channel.
    /// C dbChannel.c:486-505 strips the `$` modifier AFTER the record/field
    /// name lookup (`dbEntryToAddr`, `:478`), so it applies to the default
    /// VAL field. The port
    /// previously stripped `$` only from an explicit `.FIELD`, leaving it on
    /// the record key so `find_entry_from` missed the record and returned
    /// CREATE_CH_FAIL where C serves the field's long string.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn record_level_dollar_creates_long_string_channel() {
        use epics_base_rs::server::records::stringin::StringinRecord;

        let db = Arc::new(PvDatabase::new());
        db.add_record("longstr:rec", Box::new(StringinRecord::new("hello")))
            .await
            .expect("add stringin record");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (conn_tx, _conn_rx) = broadcast::channel::<ServerConnectionEvent>(64);

        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = "127.0.0.1:55223".parse().unwrap();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                Some(conn_tx),
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });

        let mut client = client_io;
        client.write_all(&version_frame()).await.expect("version");
        // Record-level `$`: no explicit `.FIELD`.
        client
            .write_all(&create_chan_frame(0xAA, "longstr:rec$"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush create_chan");

        let hdr = read_create_chan_result(&mut client, Duration::from_secs(3)).await;
        assert_eq!(
            hdr.cmmd, CA_PROTO_CREATE_CHAN,
            "record-level `REC$` must create the channel, not CREATE_CH_FAIL"
        );
        // A `$` long string is served as CHAR[40] (DbFieldType::Char == 4).
        assert_eq!(hdr.data_type, 4, "long-string channel advertises DBR_CHAR");
        assert_eq!(hdr.count, 40, "long-string channel advertises 40 elements");

        drop(client);
        handle.abort();
    }

    /// Regression: a `$` long-string channel on a string SimplePv must
    /// advertise CHAR[40], not the native DBR_STRING/1. The channel stores
    /// `long_string` and every delivery path runs `apply_long_string` to
    /// emit CHAR[40], so the SimplePv arm must override the advertised
    /// type/count to match — like the RecordField arm and C
    /// dbChannel.c:486-505.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn simple_pv_dollar_advertises_char_array() {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("longstr:simple", EpicsValue::String("hi".into()))
            .await
            .expect("add string pv");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (conn_tx, _conn_rx) = broadcast::channel::<ServerConnectionEvent>(64);

        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = "127.0.0.1:55224".parse().unwrap();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                Some(conn_tx),
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });

        let mut client = client_io;
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(0xA1, "longstr:simple$"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush create_chan");

        let hdr = read_create_chan_result(&mut client, Duration::from_secs(3)).await;
        assert_eq!(
            hdr.cmmd, CA_PROTO_CREATE_CHAN,
            "string SimplePv `$` must create the channel"
        );
        assert_eq!(hdr.data_type, 4, "long-string SimplePv advertises DBR_CHAR");
        assert_eq!(hdr.count, 40, "long-string SimplePv advertises 40 elements");

        drop(client);
        handle.abort();
    }

    /// A SimplePv monitor whose get fails keeps its subscription, as softIoc
    /// does for `stringin GF "abc"` under a DBR_DOUBLE count-0 EVENT_ADD
    /// (`camessage.c:545-561`): two zeroed count-0 ECA_GETFAIL updates for
    /// "abc" and "def", then the value of "1.5".
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn simple_pv_failed_get_keeps_the_monitor() {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("gf:simple", EpicsValue::String("abc".into()))
            .await
            .expect("add string pv");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = "127.0.0.1:55226".parse().unwrap();
        let server_db = db.clone();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                server_db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                None,
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });

        let mut client = client_io;
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(0xA2, "gf:simple"))
            .await
            .expect("create_chan");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        let mut add = event_add_frame(sid, 7);
        add[4..6].copy_from_slice(&epics_base_rs::types::DBR_DOUBLE.to_be_bytes());
        add[6..8].copy_from_slice(&0u16.to_be_bytes());
        client.write_all(&add).await.expect("event_add");

        async fn next_event_add(c: &mut tokio::io::DuplexStream) -> Vec<u8> {
            loop {
                let mut frame = vec![0u8; 16];
                tokio::time::timeout(Duration::from_secs(3), c.read_exact(&mut frame))
                    .await
                    .expect("an EVENT_ADD within 3 s")
                    .expect("read header");
                let size = u16::from_be_bytes([frame[2], frame[3]]) as usize;
                frame.resize(16 + size, 0);
                c.read_exact(&mut frame[16..]).await.expect("read body");
                if u16::from_be_bytes([frame[0], frame[1]]) == CA_PROTO_EVENT_ADD {
                    return frame;
                }
            }
        }
        let get_fail = vec![0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 152, 0, 0, 0, 7];
        assert_eq!(next_event_add(&mut client).await, get_fail);
        let pv = db.find_pv("gf:simple").expect("simple pv");
        pv.set(EpicsValue::String("def".into()));
        assert_eq!(next_event_add(&mut client).await, get_fail);
        pv.set(EpicsValue::String("1.5".into()));
        let value = next_event_add(&mut client).await;
        assert_eq!(&value[2..12], &[0, 8, 0, 6, 0, 1, 0, 0, 0, 1]);
        assert_eq!(&value[16..], &1.5f64.to_be_bytes());

        drop(client);
        handle.abort();
    }

    /// Regression: a `$` long-string channel on a non-string SimplePv must
    /// be rejected with CREATE_CH_FAIL — C dbChannel.c:500-503 returns
    /// S_dbLib_fieldNotFound for a `$` modifier on a field that is neither
    /// DBF_STRING nor a link, matching the RecordField arm.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn simple_pv_dollar_on_non_string_fails() {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("num:simple", EpicsValue::Double(1.0))
            .await
            .expect("add double pv");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (conn_tx, _conn_rx) = broadcast::channel::<ServerConnectionEvent>(64);

        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = "127.0.0.1:55225".parse().unwrap();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                Some(conn_tx),
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });

        let mut client = client_io;
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(0xA2, "num:simple$"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush create_chan");

        let hdr = read_create_chan_result(&mut client, Duration::from_secs(3)).await;
        assert_eq!(
            hdr.cmmd, CA_PROTO_CREATE_CH_FAIL,
            "`$` on a non-string SimplePv must be rejected with CREATE_CH_FAIL"
        );

        drop(client);
        handle.abort();
    }

    /// A CREATE_CHAN that skipped the search still finds a field by its
    /// declared spelling only (C `dbFindFieldPart`'s `strncmp`).
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lower_case_field_fails_create_chan() {
        use epics_base_rs::server::records::stringin::StringinRecord;

        let db = Arc::new(PvDatabase::new());
        db.add_record("spell:rec", Box::new(StringinRecord::new("abc")))
            .await
            .expect("add stringin record");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);

        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = "127.0.0.1:55226".parse().unwrap();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                None,
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });

        let mut client = client_io;
        client.write_all(&version_frame()).await.expect("version");
        for (cid, name, cmmd) in [
            (0xB0, "spell:rec.VAL", CA_PROTO_CREATE_CHAN),
            (0xB1, "spell:rec.val", CA_PROTO_CREATE_CH_FAIL),
            (0xB2, "spell:rec.val$", CA_PROTO_CREATE_CH_FAIL),
        ] {
            client
                .write_all(&create_chan_frame(cid, name))
                .await
                .expect("create_chan");
            client.flush().await.expect("flush create_chan");
            let hdr = read_create_chan_result(&mut client, Duration::from_secs(3)).await;
            assert_eq!(hdr.cmmd, cmmd, "{name}");
        }

        drop(client);
        handle.abort();
    }

    /// rsrv looks the CREATE_CHAN name up by its bytes, so `a\xff` does not
    /// find a PV named `a\u{FFFD}`.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_non_utf8_create_chan_name_is_not_decoded_lossily() {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("a\u{FFFD}", EpicsValue::Double(1.0))
            .await
            .expect("add pv");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);

        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = "127.0.0.1:55227".parse().unwrap();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                None,
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });

        let mut client = client_io;
        client.write_all(&version_frame()).await.expect("version");
        for (cid, name, cmmd) in [
            (0xC0, "a\u{FFFD}".as_bytes(), CA_PROTO_CREATE_CHAN),
            (0xC1, b"a\xff".as_slice(), CA_PROTO_CREATE_CH_FAIL),
        ] {
            client
                .write_all(&create_chan_frame(cid, name))
                .await
                .expect("create_chan");
            client.flush().await.expect("flush create_chan");
            let hdr = read_create_chan_result(&mut client, Duration::from_secs(3)).await;
            assert_eq!(hdr.cmmd, cmmd, "{name:?}");
        }

        drop(client);
        handle.abort();
    }

    /// A client that opens a subscription and then sends a misaligned
    /// frame (postsize not 8-aligned) MUST still have its
    /// `SubscriptionClosed` event emitted. The misaligned frame drives
    /// the `break 'client_loop Err(..)` path that previously bypassed
    /// the teardown block.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn misaligned_frame_after_subscribe_still_emits_subscription_closed() {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("teardown:test:pv", EpicsValue::Double(1.0))
            .await
            .expect("add pv");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (conn_tx, mut conn_rx) = broadcast::channel::<ServerConnectionEvent>(64);

        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = "127.0.0.1:55222".parse().unwrap();

        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                Some(conn_tx),
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });

        let mut client = client_io;
        // Establish the channel first; read back the server-assigned sid.
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(0xAA, "teardown:test:pv"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush create_chan");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        // Now subscribe, addressing the channel by its server sid.
        client
            .write_all(&event_add_frame(sid, 0xBB))
            .await
            .expect("event_add");
        client.flush().await.expect("flush event_add");

        // The server must accept the subscription before we test the
        // teardown — otherwise the test would pass vacuously.
        let opened = await_event(&mut conn_rx, Duration::from_secs(3), |ev| {
            matches!(ev, ServerConnectionEvent::SubscriptionOpened { .. })
        })
        .await;
        assert!(
            matches!(opened, Some(ServerConnectionEvent::SubscriptionOpened { sub_id, .. }) if sub_id == 0xBB),
            "subscription must open before the disconnect test (got {opened:?})"
        );

        // Now send a definitively malformed frame: a header whose
        // postsize is not 8-byte aligned. The server rejects it with
        // ECA_INTERNAL and `break 'client_loop Err(..)` — a NON-graceful
        // exit. Before the fix this `return Err` bypassed the teardown.
        let mut bad = CaHeader::new(CA_PROTO_READ_NOTIFY);
        bad.postsize = 5; // not a multiple of 8 — misaligned
        client
            .write_all(&bad.to_bytes())
            .await
            .expect("misaligned frame");
        client.flush().await.expect("flush misaligned");

        // The teardown MUST emit SubscriptionClosed for sub_id 0xBB even
        // though the connection ended via the error path.
        let closed = await_event(&mut conn_rx, Duration::from_secs(3), |ev| {
            matches!(ev, ServerConnectionEvent::SubscriptionClosed { .. })
        })
        .await;
        assert!(
            matches!(closed, Some(ServerConnectionEvent::SubscriptionClosed { sub_id, .. }) if sub_id == 0xBB),
            "SubscriptionClosed must fire on a non-graceful (error-path) \
             disconnect — teardown was bypassed (got {closed:?})"
        );

        // The handler returns Err for the misaligned-frame path.
        let res = tokio::time::timeout(Duration::from_secs(2), handle)
            .await
            .expect("handle_client completes")
            .expect("join ok");
        assert!(
            res.is_err(),
            "misaligned frame must close the connection with Err, got {res:?}"
        );
        drop(client);
    }

    /// Control case: a graceful EOF disconnect must ALSO emit
    /// `SubscriptionClosed` (the path that always worked) — guards
    /// against the restructure regressing the `break` path.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn graceful_eof_after_subscribe_emits_subscription_closed() {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("teardown:test:pv2", EpicsValue::Double(1.0))
            .await
            .expect("add pv");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (conn_tx, mut conn_rx) = broadcast::channel::<ServerConnectionEvent>(64);

        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = "127.0.0.1:55223".parse().unwrap();

        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                Some(conn_tx),
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });

        let mut client = client_io;
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(0xCC, "teardown:test:pv2"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush create_chan");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        client
            .write_all(&event_add_frame(sid, 0xDD))
            .await
            .expect("event_add");
        client.flush().await.expect("flush event_add");

        let opened = await_event(&mut conn_rx, Duration::from_secs(3), |ev| {
            matches!(ev, ServerConnectionEvent::SubscriptionOpened { .. })
        })
        .await;
        assert!(opened.is_some(), "subscription must open");

        // Graceful close: drop the write half → server reads EOF →
        // `break 'client_loop Ok(())`.
        drop(client);

        let closed = await_event(&mut conn_rx, Duration::from_secs(3), |ev| {
            matches!(ev, ServerConnectionEvent::SubscriptionClosed { .. })
        })
        .await;
        assert!(
            matches!(closed, Some(ServerConnectionEvent::SubscriptionClosed { sub_id, .. }) if sub_id == 0xDD),
            "SubscriptionClosed must fire on graceful EOF too (got {closed:?})"
        );

        let res = tokio::time::timeout(Duration::from_secs(2), handle)
            .await
            .expect("handle_client completes")
            .expect("join ok");
        assert!(res.is_ok(), "graceful EOF must be Ok, got {res:?}");
    }
}

#[cfg(tokio_backend)]
#[cfg(test)]
mod write_gate_order_tests {
    //! Both the deprecated `CA_PROTO_WRITE` (cmd 4) and
    //! `CA_PROTO_WRITE_NOTIFY` (cmd 19) run their DBR-type gate BEFORE
    //! their write-access gate. What differs is what the peer is told when
    //! the type fails, and that is observable when BOTH gates would fail:
    //!
    //! * `write_action`: TYPE first, and a bad type is `log_header` +
    //!   RSRV_ERROR with no frame at all — the access gate at
    //!   `camessage.c:741-751` is never reached, so the peer sees silence
    //!   and a dropped connection. That order is not the one at the pin:
    //!   `R7.0.10` runs the access gate first and reaches the type only
    //!   through `caNetConvert` (`:753-766`). `4128a7c07` (141 commits past
    //!   the tag, on `7.0`) lifts the standalone `INVALID_DB_REQ` above it,
    //!   and this port carries that, so the citation names the commit
    //!   rather than a line the pinned revision does not have.
    //! * `write_notify_action` (rsrv/camessage.c:1647-1651): TYPE first
    //!   too — this half IS at the pin, spelled `m_dataType >
    //!   LAST_BUFFER_TYPE` rather than `INVALID_DB_REQ` — and it answers
    //!   `putNotifyErrorReply(ECA_BADTYPE)` before RSRV_ERROR, so the peer
    //!   sees the status and then the drop.
    //!
    //! Neither opcode answers ECA_NOWTACCESS in that case. These two tests
    //! pin each opcode's outcome.
    use super::non_graceful_disconnect_teardown_tests::{
        create_chan_frame, read_create_chan_sid, version_frame,
    };
    use super::*;
    use epics_base_rs::server::access_security::parse_acf;
    use epics_base_rs::server::database::PvDatabase;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// An unsupported DBR type code: far above `LAST_BUFFER_TYPE`, and
    /// neither `DBR_PUT_ACKT` (35) nor `DBR_PUT_ACKS` (36) — so it falls
    /// through to the regular `DbFieldType::from_u16` gate and fails it.
    const BAD_DBR_TYPE: u16 = 9999;

    /// Build a write frame (`cmmd` = `CA_PROTO_WRITE` or
    /// `CA_PROTO_WRITE_NOTIFY`) addressed to `sid`, carrying `data_type`
    /// and an 8-byte (one DBR_DOUBLE) payload. `count == 1`.
    fn write_frame(cmmd: u16, sid: u32, ioid: u32, data_type: u16) -> Vec<u8> {
        let mut h = CaHeader::new(cmmd);
        h.data_type = data_type;
        h.count = 1;
        h.cid = sid;
        h.available = ioid;
        h.set_payload_size(8, 1, crate::protocol::CA_MINOR_VERSION)
            .expect("modern peer accepts the extended header");
        let mut frame = h.to_bytes().to_vec();
        frame.extend_from_slice(&0f64.to_be_bytes());
        frame
    }

    /// Read frames from `client` until one whose command is `want_cmmd`
    /// is seen; return it. Times out (panics) otherwise.
    async fn read_frame_of_cmmd<R: tokio::io::AsyncRead + Unpin>(
        client: &mut R,
        want_cmmd: u16,
        timeout: Duration,
    ) -> CaHeader {
        let mut acc: Vec<u8> = Vec::new();
        let mut buf = [0u8; 512];
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
            assert!(
                !remaining.is_zero(),
                "timed out waiting for cmmd {want_cmmd}"
            );
            let n = tokio::time::timeout(remaining, client.read(&mut buf))
                .await
                .expect("read within timeout")
                .expect("read ok");
            assert!(n > 0, "server closed before cmmd {want_cmmd}");
            acc.extend_from_slice(&buf[..n]);
            let mut offset = 0;
            while offset + CaHeader::SIZE <= acc.len() {
                let (hdr, hdr_size) =
                    CaHeader::from_bytes_extended(&acc[offset..]).expect("response header parses");
                let msg_len = hdr_size + hdr.actual_postsize();
                if offset + msg_len > acc.len() {
                    break;
                }
                if hdr.cmmd == want_cmmd {
                    return hdr;
                }
                offset += msg_len;
            }
        }
    }

    /// Spawn `handle_client` over a duplex pair with a read-only ACF
    /// (`RULE(0, READ)` — unconditional, write denied to every peer) and
    /// a single `ao` `caput:ro`: a simple PV's channel follows pcas. Returns the client half, the
    /// join handle, and the ACF-reload sender — the caller MUST keep the
    /// sender alive for the test's duration: the read loop polls
    /// `acf_reload_rx.recv()` biased-first, and a dropped sender resolves
    /// to `Closed`, which makes `handle_client` exit `Ok(())` before it
    /// ever reads a client frame.
    async fn spawn_read_only_server(
        peer_port: u16,
    ) -> (
        tokio::io::DuplexStream,
        tokio::task::JoinHandle<CaResult<()>>,
        broadcast::Sender<()>,
    ) {
        let db = Arc::new(PvDatabase::new());
        db.add_record(
            "caput:ro",
            Box::new(epics_base_rs::server::records::ao::AoRecord::new(0.0)),
        )
        .await
        .expect("add record");
        let cfg = parse_acf("ASG(DEFAULT) { RULE(0, READ) }").expect("parse acf");
        let acf = epics_base_rs::server::access_security::new_acf_cell(Some(cfg));
        let (acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);

        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = format!("127.0.0.1:{peer_port}").parse().unwrap();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                None,
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });
        (client_io, handle, acf_reload_tx)
    }

    /// Drive version + create-chan and return the server-assigned sid.
    async fn handshake(client: &mut tokio::io::DuplexStream) -> u32 {
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(0xC1, "caput:ro"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush create_chan");
        read_create_chan_sid(client, Duration::from_secs(3)).await
    }

    /// Deprecated `CA_PROTO_WRITE`, access-denied AND bad type: post-#934
    /// (epics-base 4128a7c07) C `write_action` checks the TYPE first —
    /// `INVALID_DB_REQ` is `log_header` + RSRV_ERROR with NO frame, so
    /// the access gate (and its ECA_NOWTACCESS reply) is never reached.
    /// Pre-#934 C ran access first and replied ECA_NOWTACCESS + keep,
    /// which the pre-fix code mirrored.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn deprecated_write_bad_type_drops_silently_before_access() {
        let (mut client, mut handle, _acf_reload_tx) = spawn_read_only_server(55330).await;
        let sid = handshake(&mut client).await;

        client
            .write_all(&write_frame(CA_PROTO_WRITE, sid, 0x42, BAD_DBR_TYPE))
            .await
            .expect("write");
        client.flush().await.expect("flush write");

        // RSRV_ERROR with no reply — the connection drops without a frame.
        let res = tokio::time::timeout(Duration::from_secs(2), &mut handle)
            .await
            .expect("handle_client completes after WRITE bad type")
            .expect("join ok");
        assert!(
            res.is_err(),
            "deprecated WRITE bad type must DROP the connection \
             (C write_action INVALID_DB_REQ RSRV_ERROR), got {res:?}"
        );
        let mut rest = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut client, &mut rest)
            .await
            .expect("read to EOF");
        assert!(
            rest.is_empty(),
            "C write_action sends nothing before this RSRV_ERROR, got {} bytes",
            rest.len()
        );

        drop(client);
    }

    /// `CA_PROTO_WRITE_NOTIFY`, same access-denied + bad type: C
    /// `write_notify_action` checks the TYPE FIRST → ECA_BADTYPE +
    /// RSRV_ERROR (drop). The error rides a `CA_PROTO_WRITE_NOTIFY` reply
    /// (`m_cid` = ECA status). This pins the opposite ordering so a future
    /// "unify the two opcodes" refactor cannot silently re-invert either.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn write_notify_bad_type_reports_badtype_and_drops_conn() {
        let (mut client, handle, _acf_reload_tx) = spawn_read_only_server(55331).await;
        let sid = handshake(&mut client).await;

        client
            .write_all(&write_frame(CA_PROTO_WRITE_NOTIFY, sid, 0x43, BAD_DBR_TYPE))
            .await
            .expect("write_notify");
        client.flush().await.expect("flush write_notify");

        let reply =
            read_frame_of_cmmd(&mut client, CA_PROTO_WRITE_NOTIFY, Duration::from_secs(3)).await;
        // send_put_notify_response carries the ECA status in `m_cid`.
        assert_eq!(
            reply.cid, ECA_BADTYPE,
            "WRITE_NOTIFY must report the type error first (ECA_BADTYPE), \
             not access (ECA_NOWTACCESS={ECA_NOWTACCESS}); got {}",
            reply.cid
        );

        // RSRV_ERROR after ECA_BADTYPE — the connection must drop.
        let res = tokio::time::timeout(Duration::from_secs(2), handle)
            .await
            .expect("handle_client completes after WRITE_NOTIFY bad type")
            .expect("join ok");
        assert!(
            res.is_err(),
            "WRITE_NOTIFY bad type must DROP the connection (C write_notify_action RSRV_ERROR), \
             got {res:?}"
        );

        drop(client);
    }
}

#[cfg(tokio_backend)]
#[cfg(test)]
mod deprecated_read_autosize_tests {
    //! The deprecated synchronous CA_PROTO_READ (cmd 3) does NOT
    //! autosize a zero element count. C `read_action`
    //! (rsrv/camessage.c:622-645) sizes the reply with
    //! `dbr_size_n(type, m_count)`, writes the header count as `m_count`,
    //! and calls `dbChannel_get(.., m_count, ..)` — all verbatim. Only
    //! `read_reply` (READ_NOTIFY / EVENT_ADD, camessage.c:504-509) treats
    //! `m_count == 0` as "all available elements". So a deprecated READ
    //! with count==0 against a 3-element waveform must reply count=0 with
    //! a value-less payload, while a READ_NOTIFY with count==0 autosizes
    //! to the full 3-element array.
    use super::non_graceful_disconnect_teardown_tests::{
        create_chan_frame, read_create_chan_sid, version_frame,
    };
    use super::*;
    use epics_base_rs::server::database::PvDatabase;
    use epics_base_rs::types::{DBR_DOUBLE, EpicsValue};
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Build a READ / READ_NOTIFY request for `sid` at `data_type` with
    /// the given element `count` (0 means "autosize" only on the NOTIFY
    /// opcode). No payload.
    fn read_request(cmmd: u16, sid: u32, ioid: u32, data_type: u16, count: u32) -> Vec<u8> {
        let mut h = CaHeader::new(cmmd);
        h.data_type = data_type;
        h.cid = sid;
        h.available = ioid;
        h.set_payload_size(0, count, crate::protocol::CA_MINOR_VERSION)
            .expect("modern peer accepts the extended header");
        h.to_bytes_extended().to_vec()
    }

    /// Read frames until one whose command is `want_cmmd` arrives; return
    /// its header. Panics on timeout / EOF.
    async fn read_frame_of_cmmd<R: tokio::io::AsyncRead + Unpin>(
        client: &mut R,
        want_cmmd: u16,
        timeout: Duration,
    ) -> CaHeader {
        let mut acc: Vec<u8> = Vec::new();
        let mut buf = [0u8; 512];
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
            assert!(
                !remaining.is_zero(),
                "timed out waiting for cmmd {want_cmmd}"
            );
            let n = tokio::time::timeout(remaining, client.read(&mut buf))
                .await
                .expect("read within timeout")
                .expect("read ok");
            assert!(n > 0, "server closed before cmmd {want_cmmd}");
            acc.extend_from_slice(&buf[..n]);
            let mut offset = 0;
            while offset + CaHeader::SIZE <= acc.len() {
                let (hdr, hdr_size) =
                    CaHeader::from_bytes_extended(&acc[offset..]).expect("response header parses");
                let msg_len = hdr_size + hdr.actual_postsize();
                if offset + msg_len > acc.len() {
                    break;
                }
                if hdr.cmmd == want_cmmd {
                    return hdr;
                }
                offset += msg_len;
            }
        }
    }

    /// Spawn `handle_client` over a duplex pair with a permissive (no
    /// ACF) server holding one waveform SimplePv `rd:arr` of `elems`.
    /// Returns the client half, the join handle, and the ACF-reload
    /// sender — the caller MUST keep the sender alive (a dropped sender
    /// makes the biased-first `acf_reload_rx.recv()` resolve `Closed`,
    /// exiting `handle_client` before it reads a client frame).
    async fn spawn_array_server(
        peer_port: u16,
        elems: Vec<f64>,
    ) -> (
        tokio::io::DuplexStream,
        tokio::task::JoinHandle<CaResult<()>>,
        broadcast::Sender<()>,
    ) {
        // A waveform: a simple PV's channel follows pcas, not rsrv.
        let db = Arc::new(PvDatabase::new());
        db.add_record(
            "rd:arr",
            Box::new(
                epics_base_rs::server::records::waveform::WaveformRecord::new(
                    elems.len() as i32,
                    epics_base_rs::types::DbFieldType::Double,
                ),
            ),
        )
        .await
        .expect("add waveform record");
        db.put_pv("rd:arr", EpicsValue::DoubleArray(elems.into()))
            .await
            .expect("seed waveform");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);

        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = format!("127.0.0.1:{peer_port}").parse().unwrap();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                None,
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });
        (client_io, handle, acf_reload_tx)
    }

    async fn handshake(client: &mut tokio::io::DuplexStream) -> u32 {
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(0xD1, "rd:arr"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush create_chan");
        read_create_chan_sid(client, Duration::from_secs(3)).await
    }

    /// Deprecated CA_PROTO_READ (cmd 3), count==0 against a 3-element
    /// DBR_DOUBLE waveform: C ships count=0 + a value-less (0-byte for a
    /// plain DBR type) payload. Pre-fix Rust autosized to count=3 + 24
    /// payload bytes.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn deprecated_read_count0_ships_verbatim_zero() {
        let (mut client, handle, _acf_reload_tx) =
            spawn_array_server(55340, vec![1.0, 2.0, 3.0]).await;
        let sid = handshake(&mut client).await;

        client
            .write_all(&read_request(CA_PROTO_READ, sid, 0x11, DBR_DOUBLE, 0))
            .await
            .expect("read");
        client.flush().await.expect("flush read");

        let resp = read_frame_of_cmmd(&mut client, CA_PROTO_READ, Duration::from_secs(3)).await;
        assert_eq!(
            resp.actual_count(),
            0,
            "deprecated READ must echo m_count==0 verbatim (no autosize); got {}",
            resp.actual_count()
        );
        assert_eq!(
            resp.actual_postsize(),
            0,
            "deprecated READ count==0 of a plain DBR_DOUBLE ships a value-less \
             (dbr_size_n(type,0)==0) payload; got {} bytes",
            resp.actual_postsize()
        );

        drop(client);
        handle.abort();
    }

    /// Contrast: CA_PROTO_READ_NOTIFY (cmd 15), count==0 against the same
    /// waveform DOES autosize to the full 3-element array (C `read_reply`,
    /// camessage.c:507-509). Pins that the fix did not touch the NOTIFY
    /// autosize path.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn read_notify_count0_autosizes_to_full_array() {
        let (mut client, handle, _acf_reload_tx) =
            spawn_array_server(55341, vec![1.0, 2.0, 3.0]).await;
        let sid = handshake(&mut client).await;

        client
            .write_all(&read_request(
                CA_PROTO_READ_NOTIFY,
                sid,
                0x12,
                DBR_DOUBLE,
                0,
            ))
            .await
            .expect("read_notify");
        client.flush().await.expect("flush read_notify");

        let resp =
            read_frame_of_cmmd(&mut client, CA_PROTO_READ_NOTIFY, Duration::from_secs(3)).await;
        assert_eq!(
            resp.actual_count(),
            3,
            "READ_NOTIFY count==0 must autosize to the full native array; got {}",
            resp.actual_count()
        );
        assert_eq!(
            resp.actual_postsize(),
            24,
            "READ_NOTIFY count==0 ships all 3 DBR_DOUBLE elements (3*8=24 bytes); got {}",
            resp.actual_postsize()
        );

        drop(client);
        handle.abort();
    }

    /// Build a CA_PROTO_EVENT_ADD subscribing `sub_id` on `sid` with an
    /// explicit element `count` (the stock `event_add_frame` pins count=1).
    fn event_add_request_count(sid: u32, sub_id: u32, count: u32) -> Vec<u8> {
        let mut h = CaHeader::new(CA_PROTO_EVENT_ADD);
        h.data_type = DBR_DOUBLE;
        h.cid = sid;
        h.available = sub_id;
        h.set_payload_size(16, count, crate::protocol::CA_MINOR_VERSION)
            .expect("modern peer accepts the extended header");
        let mut frame = h.to_bytes_extended().to_vec();
        frame.extend_from_slice(&0f32.to_be_bytes());
        frame.extend_from_slice(&0f32.to_be_bytes());
        frame.extend_from_slice(&0f32.to_be_bytes());
        frame.extend_from_slice(&3u16.to_be_bytes()); // mask: value+alarm
        frame.extend_from_slice(&0u16.to_be_bytes()); // pad
        frame
    }

    /// Build a fire-and-forget CA_PROTO_WRITE of `values` so a test can
    /// seed a waveform's NORD below its NELM before reading it back.
    fn write_doubles_request(sid: u32, values: &[f64]) -> Vec<u8> {
        let mut h = CaHeader::new(CA_PROTO_WRITE);
        h.data_type = DBR_DOUBLE;
        h.cid = sid;
        h.available = 0;
        let mut body = Vec::with_capacity(values.len() * 8);
        for v in values {
            body.extend_from_slice(&v.to_be_bytes());
        }
        h.set_payload_size(
            body.len(),
            values.len() as u32,
            crate::protocol::CA_MINOR_VERSION,
        )
        .expect("modern peer accepts the extended header");
        let mut frame = h.to_bytes_extended().to_vec();
        frame.extend_from_slice(&body);
        frame
    }

    /// Spawn `handle_client` over a duplex pair holding one waveform record
    /// `wf:rec` of buffer capacity `nelm` (NELM). A partial write leaves
    /// NORD < NELM, so this fixture separates the two — the clamp ceiling
    /// must be NELM, never the live NORD.
    async fn spawn_waveform_server(
        peer_port: u16,
        nelm: i32,
    ) -> (
        tokio::io::DuplexStream,
        tokio::task::JoinHandle<CaResult<()>>,
        broadcast::Sender<()>,
    ) {
        use epics_base_rs::server::records::waveform::WaveformRecord;
        use epics_base_rs::types::DbFieldType;
        let db = Arc::new(PvDatabase::new());
        db.add_record(
            "wf:rec",
            Box::new(WaveformRecord::new(nelm, DbFieldType::Double)),
        )
        .await
        .expect("add waveform record");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = format!("127.0.0.1:{peer_port}").parse().unwrap();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                None,
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });
        (client_io, handle, acf_reload_tx)
    }

    /// SECURITY — epics-base PR #934 (Item 2) parity. An oversized wire
    /// element count on READ_NOTIFY must clamp to the channel's final
    /// element count, never drive the reply zero-fill
    /// (`size_dbr_reply`) to a `count * element_size`
    /// allocation. Pre-fix an extended-header count of 0xFFFFFFFF on a
    /// DBR_DOUBLE channel sized the reply to ~34 GB and the `Vec` zero-fill
    /// aborted the whole process — a remote, unauthenticated DoS.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn read_notify_oversized_count_clamps_to_channel_capacity() {
        let (mut client, handle, _acf_reload_tx) =
            spawn_array_server(55342, vec![1.0, 2.0, 3.0]).await;
        let sid = handshake(&mut client).await;

        client
            .write_all(&read_request(
                CA_PROTO_READ_NOTIFY,
                sid,
                0x21,
                DBR_DOUBLE,
                0xFFFF_FFFF,
            ))
            .await
            .expect("read_notify");
        client.flush().await.expect("flush read_notify");

        let resp =
            read_frame_of_cmmd(&mut client, CA_PROTO_READ_NOTIFY, Duration::from_secs(3)).await;
        assert_eq!(
            resp.actual_count(),
            3,
            "0xFFFFFFFF must clamp to the 3-element channel capacity, not the wire count; got {}",
            resp.actual_count()
        );
        assert_eq!(
            resp.actual_postsize(),
            24,
            "clamped reply ships exactly 3 DBR_DOUBLE elements (24 bytes), not a count-sized \
             buffer; got {}",
            resp.actual_postsize()
        );

        drop(client);
        handle.abort();
    }

    /// SECURITY — same PR #934 clamp on the EVENT_ADD path. The count is
    /// clamped BEFORE it is stored on the subscription, so both the initial
    /// snapshot and every steady-state monitor delivery (the producer in
    /// `monitor.rs`, a second copy of the unbounded zero-fill) are bounded.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn event_add_oversized_count_clamps_to_channel_capacity() {
        let (mut client, handle, _acf_reload_tx) =
            spawn_array_server(55343, vec![1.0, 2.0, 3.0]).await;
        let sid = handshake(&mut client).await;

        client
            .write_all(&event_add_request_count(sid, 0x31, 0xFFFF_FFFF))
            .await
            .expect("event_add");
        client.flush().await.expect("flush event_add");

        let resp =
            read_frame_of_cmmd(&mut client, CA_PROTO_EVENT_ADD, Duration::from_secs(3)).await;
        assert_eq!(
            resp.actual_count(),
            3,
            "EVENT_ADD 0xFFFFFFFF must clamp to the 3-element capacity; got {}",
            resp.actual_count()
        );
        assert_eq!(
            resp.actual_postsize(),
            24,
            "clamped monitor frame ships 3 DBR_DOUBLE elements (24 bytes); got {}",
            resp.actual_postsize()
        );

        drop(client);
        handle.abort();
    }

    /// SECURITY + parity boundary — the clamp ceiling is the channel's
    /// final element count (NELM, buffer capacity), NOT the live value
    /// length (NORD). A dynamic waveform (NELM=8) written to only 3
    /// elements (NORD=3) must still frame a `caget -# 8` at 8 padded
    /// elements — a NORD ceiling would wrongly truncate it to 3 — while an
    /// oversized 0xFFFFFFFF request clamps to 8, not 3.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn read_notify_count_clamps_to_waveform_nelm_not_nord() {
        let (mut client, handle, _acf_reload_tx) = spawn_waveform_server(55344, 8).await;
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(0xE1, "wf:rec"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush create_chan");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;

        // Seed NORD=3 (< NELM=8) with a fire-and-forget WRITE.
        client
            .write_all(&write_doubles_request(sid, &[1.0, 2.0, 3.0]))
            .await
            .expect("write");
        client.flush().await.expect("flush write");

        // A request AT the NELM ceiling (8 > NORD 3) pads up to 8 — proving
        // the ceiling is NELM, not NORD (which would truncate to 3).
        client
            .write_all(&read_request(
                CA_PROTO_READ_NOTIFY,
                sid,
                0x41,
                DBR_DOUBLE,
                8,
            ))
            .await
            .expect("read at nelm");
        client.flush().await.expect("flush read at nelm");
        let at_nelm =
            read_frame_of_cmmd(&mut client, CA_PROTO_READ_NOTIFY, Duration::from_secs(3)).await;
        assert_eq!(
            at_nelm.actual_count(),
            8,
            "count=8 (NELM) must pad up from NORD=3, not clamp to 3; got {}",
            at_nelm.actual_count()
        );
        assert_eq!(
            at_nelm.actual_postsize(),
            64,
            "8 DBR_DOUBLE elements = 64 bytes; got {}",
            at_nelm.actual_postsize()
        );

        // An oversized request clamps to NELM (8), never NORD (3).
        client
            .write_all(&read_request(
                CA_PROTO_READ_NOTIFY,
                sid,
                0x42,
                DBR_DOUBLE,
                0xFFFF_FFFF,
            ))
            .await
            .expect("read oversized");
        client.flush().await.expect("flush read oversized");
        let oversized =
            read_frame_of_cmmd(&mut client, CA_PROTO_READ_NOTIFY, Duration::from_secs(3)).await;
        assert_eq!(
            oversized.actual_count(),
            8,
            "0xFFFFFFFF must clamp to NELM=8, not NORD=3; got {}",
            oversized.actual_count()
        );
        assert_eq!(
            oversized.actual_postsize(),
            64,
            "clamped to 8 DBR_DOUBLE elements = 64 bytes; got {}",
            oversized.actual_postsize()
        );

        drop(client);
        handle.abort();
    }
}

#[cfg(test)]
mod single_write_all_framing_tests {
    //! BUG 4: GET/READ_NOTIFY, introspection (`send_monitor_snapshot`)
    //! and CA_PROTO_ERROR (`send_ca_error`) replies must reach the wire as
    //! ONE contiguous frame. A split across two writes lets a `send_timeout`
    //! cancel land between header and payload, leaving an orphan header that
    //! mis-frames every following message. A true cancel-race is
    //! non-deterministic; this asserts the structural property that makes
    //! the race impossible: exactly one pushed frame per reply. The outbox
    //! makes this stronger than the old shared-`BufWriter` invariant — each
    //! emit site builds one `Vec<u8>` and `push`es it as an atomic unit, so
    //! "one push == one frame" holds by construction, not by discipline.
    use super::*;
    use crate::server::outbox::{Outbox, OutboxDrain};

    /// Build a live outbox + its drain for a test emit site.
    pub(super) fn live_outbox() -> (Outbox, OutboxDrain) {
        crate::server::outbox::channel()
    }

    /// Drain every frame pushed to the outbox, in push order. Each push is
    /// one complete contiguous frame, so `frames.len()` is exactly the
    /// former `write_all` count this module asserts on.
    pub(super) fn drain_frames(drain: &mut OutboxDrain) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while let Some(f) = drain.try_next() {
            frames.push(f.to_vec());
        }
        frames
    }

    /// `send_ca_error` builds response-header + echoed-request-header +
    /// diagnostic string. All three must leave in a single `write_all`.
    #[epics_macros_rs::epics_test]
    async fn send_ca_error_writes_single_frame() {
        let (outbox, mut drain) = live_outbox();
        let original = CaHeader::new(CA_PROTO_READ_NOTIFY);

        send_ca_error(
            &outbox,
            &original,
            ECA_INTERNAL,
            0xFFFF_FFFF,
            "CAS: Missaligned protocol rejected",
            crate::protocol::CA_MINOR_VERSION,
        )
        .expect("send_ca_error succeeds");

        let batches = drain_frames(&mut drain);
        assert_eq!(
            batches.len(),
            1,
            "send_ca_error must issue exactly one write_all (got {} batches: {:?})",
            batches.len(),
            batches.iter().map(|b| b.len()).collect::<Vec<_>>(),
        );
        // The one batch must be the complete frame: response header +
        // 16-byte echoed request header + padded diagnostic string.
        let frame = &batches[0];
        let payload_size = u16::from_be_bytes([frame[2], frame[3]]) as usize;
        assert_eq!(
            16 + payload_size,
            frame.len(),
            "CA_PROTO_ERROR header-declared size must match the contiguous frame",
        );
    }

    /// READ_NOTIFY get-failure / no-snapshot wire shape: C `read_reply`
    /// `status < 0` branch (`rsrv/camessage.c:540-557`) keeps the
    /// CA_PROTO_READ_NOTIFY reply at the requested count, abuses `m_cid`
    /// to carry the ECA status, and commits a `dbr_size_n(type, count)`
    /// ZEROED body. The pre-fix `send_cmd_error` shipped `count=0` + an
    /// empty body; this locks the corrected `send_no_read_access_event`
    /// shape the get-failure and no-snapshot paths now use.
    #[epics_macros_rs::epics_test]
    async fn read_notify_get_failure_frame_keeps_count_and_zero_body() {
        let (outbox, mut drain) = live_outbox();
        let requested_count = 3u32;
        // DBR_TIME_DOUBLE = compound type with 16-byte metadata, so the
        // get-failure body is non-empty even though every byte is zero —
        // exactly where `count=0`/empty diverged from C.
        send_no_read_access_event(
            &outbox,
            RefusalChannel::UNNAMED,
            StatusEvent {
                cmd: CA_PROTO_READ_NOTIFY,
                data_type: epics_base_rs::types::DBR_TIME_DOUBLE,
                count: requested_count,
                available: 0x4242_4242, // ioid echoed into m_available
                eca_status: ECA_GETFAIL,
            },
            ReplyContext {
                req_hdr: CaHeader::new(CA_PROTO_READ_NOTIFY),
                client_minor: crate::protocol::CA_MINOR_VERSION,
            },
        )
        .expect("send_no_read_access_event succeeds");

        let batches = drain_frames(&mut drain);
        assert_eq!(batches.len(), 1, "one contiguous write_all");
        let frame = &batches[0];
        let hdr = CaHeader::from_bytes(&frame[..16]).expect("parse READ_NOTIFY header");
        assert_eq!(hdr.cmmd, CA_PROTO_READ_NOTIFY, "stays a READ_NOTIFY reply");
        assert_eq!(hdr.data_type, epics_base_rs::types::DBR_TIME_DOUBLE);
        assert_eq!(
            hdr.actual_count(),
            requested_count,
            "C preserves the requested count, not 0"
        );
        assert_eq!(hdr.cid, ECA_GETFAIL, "m_cid abused to carry the ECA status");
        assert_eq!(hdr.available, 0x4242_4242);

        // body = dbr_size_n(type, count), 8-aligned, all zero.
        let native =
            epics_base_rs::types::native_type_for_dbr(epics_base_rs::types::DBR_TIME_DOUBLE)
                .expect("native type");
        let body_size = epics_base_rs::types::dbr_buffer_size(
            epics_base_rs::types::DBR_TIME_DOUBLE,
            native,
            requested_count as usize,
        );
        let padded = align8(body_size);
        assert!(
            padded > 0,
            "compound DBR get-failure body must be non-empty"
        );
        assert_eq!(
            hdr.actual_postsize(),
            padded,
            "m_postsize is dbr_size_n(type, count), not 0"
        );
        assert_eq!(
            frame.len(),
            16 + padded,
            "single frame = header + zero body"
        );
        assert!(
            frame[16..].iter().all(|&b| b == 0),
            "the get-failure body is entirely zero-filled"
        );
    }

    /// Regression: when the original request used an extended
    /// 24-byte header, the outer CA_PROTO_ERROR reply must declare
    /// `m_postsize = 24 + diag_len`, not `16 + diag_len`.
    #[epics_macros_rs::epics_test]
    async fn send_ca_error_extended_original_declares_correct_payload_size() {
        let (outbox, mut drain) = live_outbox();
        // Build an extended original header: set_payload_size triggers
        // extended form when count >= 0xFFFF.
        let mut original = CaHeader::new(CA_PROTO_READ_NOTIFY);
        original
            .set_payload_size(0, 0x1_0000, crate::protocol::CA_MINOR_VERSION)
            .expect("V49 peer accepts the extended header"); // count >= 0xFFFF → extended (24 bytes)
        assert!(
            original.is_extended(),
            "test requires an extended original header"
        );

        send_ca_error(
            &outbox,
            &original,
            ECA_INTERNAL,
            0xFFFF_FFFF,
            "Regression test",
            crate::protocol::CA_MINOR_VERSION,
        )
        .expect("send_ca_error succeeds");

        let batches = drain_frames(&mut drain);
        assert_eq!(batches.len(), 1, "must issue exactly one write_all");
        let frame = &batches[0];
        // Outer CA_PROTO_ERROR response header is normal form (payload < 0xFFFF);
        // m_postsize lives at bytes [2..4].
        let declared = u16::from_be_bytes([frame[2], frame[3]]) as usize;
        assert_eq!(
            16 + declared,
            frame.len(),
            "declared m_postsize must account for the full payload (echo hdr + diag)"
        );
        // With an extended original, the echoed header contributes 24 bytes.
        // Any diagnostic shorter than 0xFFFF − 24 keeps the outer header normal.
        // Echo header occupies frame bytes [16..40]; those 24 bytes must round-trip
        // the extended marker (postsize field = 0xFFFF at echo-hdr offset 2..4).
        let echo_postsize = u16::from_be_bytes([frame[18], frame[19]]);
        assert_eq!(
            echo_postsize, 0xFFFF,
            "echoed request header must preserve the extended marker (m_postsize = 0xFFFF)"
        );
    }

    /// `send_monitor_snapshot` (the introspection EVENT_ADD reply) must
    /// emit header + padded payload as a single `write_all`.
    #[epics_macros_rs::epics_test]
    async fn send_monitor_snapshot_writes_single_frame() {
        use epics_base_rs::server::snapshot::Snapshot;
        use epics_base_rs::types::{DBR_LONG, EpicsValue};

        let (outbox, mut drain) = live_outbox();
        let snapshot = Snapshot::new(
            EpicsValue::Long(123),
            0,
            0,
            std::time::SystemTime::UNIX_EPOCH,
        );

        // requested_count 0 = autosize: frame the live element count.
        send_monitor_snapshot(
            &outbox,
            9,
            DBR_LONG,
            0,
            &snapshot,
            ReplyContext {
                req_hdr: CaHeader::new(CA_PROTO_EVENT_ADD),
                client_minor: crate::protocol::CA_MINOR_VERSION,
            },
        )
        .expect("send_monitor_snapshot succeeds");

        let batches = drain_frames(&mut drain);
        assert_eq!(
            batches.len(),
            1,
            "send_monitor_snapshot must issue exactly one write_all (got {} batches: {:?})",
            batches.len(),
            batches.iter().map(|b| b.len()).collect::<Vec<_>>(),
        );
    }

    /// an initial monitor snapshot for an EVENT_ADD whose
    /// request count exceeds the live element count must be framed at
    /// the requested count with a zero-padded payload — the same
    /// shape the READ path and later monitor updates use. Pre-fix the
    /// initial frame was framed at `snapshot.value.count()`, so a
    /// client saw a count/size discontinuity inside one subscription.
    #[epics_macros_rs::epics_test]
    async fn ex_r9_initial_snapshot_pads_over_requested_count() {
        use epics_base_rs::server::snapshot::Snapshot;
        use epics_base_rs::types::{DBR_LONG, DbFieldType, EpicsValue};

        // Live PV holds 3 LONG elements; the client requested 8.
        let snapshot = Snapshot::new(
            EpicsValue::LongArray(vec![10, 20, 30].into()),
            0,
            0,
            std::time::SystemTime::UNIX_EPOCH,
        );
        let requested_count = 8u32;

        let (outbox, mut drain) = live_outbox();
        send_monitor_snapshot(
            &outbox,
            9,
            DBR_LONG,
            requested_count,
            &snapshot,
            ReplyContext {
                req_hdr: CaHeader::new(CA_PROTO_EVENT_ADD),
                client_minor: crate::protocol::CA_MINOR_VERSION,
            },
        )
        .expect("send_monitor_snapshot succeeds");

        let batches = drain_frames(&mut drain);
        assert_eq!(batches.len(), 1, "exactly one contiguous frame");
        let frame = &batches[0];

        // Standard 16-byte CA header: count 8 and the resulting
        // payload both fit under the 0xFFFF extended-form threshold.
        let postsize = u16::from_be_bytes([frame[2], frame[3]]) as usize;
        let count = u16::from_be_bytes([frame[6], frame[7]]) as u32;
        assert_eq!(
            count, requested_count,
            "the initial monitor frame must carry the REQUESTED \
             element count (8), not the live count (3)"
        );

        // DBR_LONG is a plain type (no metadata); the payload must
        // hold the requested element count of value bytes, zero-
        // padded for the elements the PV does not have.
        let elem = DbFieldType::Long.element_size();
        let value_bytes = requested_count as usize * elem;
        assert!(
            postsize >= value_bytes,
            "payload ({postsize}) must be padded to at least the \
             requested {requested_count} elements ({value_bytes} bytes)"
        );
        // The three live elements come first, then zero padding.
        let body = &frame[16..16 + postsize];
        assert_eq!(&body[0..4], &10i32.to_be_bytes(), "element 0 preserved");
        assert_eq!(&body[8..12], &30i32.to_be_bytes(), "element 2 preserved");
        assert!(
            body[3 * elem..value_bytes].iter().all(|&b| b == 0),
            "over-requested elements must be zero-filled"
        );
    }

    /// a request count SMALLER than the live element count
    /// still truncates — `send_monitor_snapshot` must own both
    /// directions of the count contract.
    #[epics_macros_rs::epics_test]
    async fn ex_r9_initial_snapshot_truncates_under_requested_count() {
        use epics_base_rs::server::snapshot::Snapshot;
        use epics_base_rs::types::{DBR_LONG, EpicsValue};

        let snapshot = Snapshot::new(
            EpicsValue::LongArray(vec![1, 2, 3, 4, 5].into()),
            0,
            0,
            std::time::SystemTime::UNIX_EPOCH,
        );
        let (outbox, mut drain) = live_outbox();
        send_monitor_snapshot(
            &outbox,
            9,
            DBR_LONG,
            2,
            &snapshot,
            ReplyContext {
                req_hdr: CaHeader::new(CA_PROTO_EVENT_ADD),
                client_minor: crate::protocol::CA_MINOR_VERSION,
            },
        )
        .expect("send_monitor_snapshot succeeds");

        let frames = drain_frames(&mut drain);
        let frame = &frames[0];
        let count = u16::from_be_bytes([frame[6], frame[7]]) as u32;
        assert_eq!(count, 2, "under-requested count must truncate to 2");
    }

    /// `requested_count == 0` is autosize — the frame keeps the
    /// live element count, unchanged behaviour.
    #[epics_macros_rs::epics_test]
    async fn ex_r9_autosize_keeps_live_count() {
        use epics_base_rs::server::snapshot::Snapshot;
        use epics_base_rs::types::{DBR_LONG, EpicsValue};

        let snapshot = Snapshot::new(
            EpicsValue::LongArray(vec![7, 8, 9, 10].into()),
            0,
            0,
            std::time::SystemTime::UNIX_EPOCH,
        );
        let (outbox, mut drain) = live_outbox();
        send_monitor_snapshot(
            &outbox,
            9,
            DBR_LONG,
            0,
            &snapshot,
            ReplyContext {
                req_hdr: CaHeader::new(CA_PROTO_EVENT_ADD),
                client_minor: crate::protocol::CA_MINOR_VERSION,
            },
        )
        .expect("send_monitor_snapshot succeeds");

        let frames = drain_frames(&mut drain);
        let frame = &frames[0];
        let count = u16::from_be_bytes([frame[6], frame[7]]) as u32;
        assert_eq!(count, 4, "autosize (count==0) keeps the live count");
    }
}

#[cfg(tokio_backend)]
#[cfg(test)]
mod bfr7_event_context_filter_tests {
    //! a CA monitor initial single-event post
    //! (`db_post_single_event`, `rsrv/camessage.c:1853`) runs the
    //! channel filter chain in EVENT context (`db_create_event_log` →
    //! `dbfl_context_event`), NOT in one-shot READ context. `dec`/`sync`
    //! therefore decimate/gate the initial event, and a chain that drops
    //! the post sends NO initial `EVENT_ADD` frame (C
    //! `db_queue_event_log` fires only `if(pLog)`) — never an unfiltered
    //! fallback.
    //!
    //! These drive the full `handle_client` EVENT_ADD path; the
    //! deterministic context split (read bypasses `sync`, event gates it)
    //! is also unit-proven in
    //! `epics_base_rs::server::database::filters` tests.
    use super::non_graceful_disconnect_teardown_tests::{
        await_event, create_chan_frame, event_add_frame, read_create_chan_sid, version_frame,
    };
    use super::*;
    use epics_base_rs::server::database::PvDatabase;
    use epics_base_rs::types::EpicsValue;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Read frames from `client` for `window`, returning the
    /// `(cmd, postsize)` of every COMPLETE CA frame observed. Used to
    /// assert presence/absence of an initial `CA_PROTO_EVENT_ADD` data
    /// frame.
    async fn collect_frames<R: tokio::io::AsyncRead + Unpin>(
        client: &mut R,
        window: Duration,
    ) -> Vec<(u16, usize)> {
        let mut acc: Vec<u8> = Vec::new();
        let mut frames: Vec<(u16, usize)> = Vec::new();
        let mut buf = [0u8; 512];
        let deadline = tokio::time::Instant::now() + window;
        loop {
            let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
            if remaining.is_zero() {
                break;
            }
            match tokio::time::timeout(remaining, client.read(&mut buf)).await {
                Ok(Ok(0)) => break, // EOF
                Ok(Ok(n)) => {
                    acc.extend_from_slice(&buf[..n]);
                    let mut offset = 0;
                    while offset + CaHeader::SIZE <= acc.len() {
                        let Ok((hdr, hdr_size)) = CaHeader::from_bytes_extended(&acc[offset..])
                        else {
                            break;
                        };
                        let msg_len = hdr_size + hdr.actual_postsize();
                        if offset + msg_len > acc.len() {
                            break;
                        }
                        frames.push((hdr.cmmd, hdr.actual_postsize()));
                        offset += msg_len;
                    }
                    acc.drain(0..offset);
                }
                Ok(Err(_)) | Err(_) => break,
            }
        }
        frames
    }

    /// Spawn `handle_client` over a duplex socket; returns the client
    /// half, the join handle, the connection-event receiver, and the
    /// ACF-reload sender. The caller MUST keep the sender alive for the
    /// connection's lifetime — dropping it closes the ACF-reload
    /// broadcast, which `handle_client` treats as a shutdown signal.
    fn spawn_server(
        db: Arc<PvDatabase>,
        port: u16,
    ) -> (
        tokio::io::DuplexStream,
        tokio::task::JoinHandle<CaResult<()>>,
        broadcast::Receiver<ServerConnectionEvent>,
        broadcast::Sender<()>,
    ) {
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (conn_tx, conn_rx) = broadcast::channel::<ServerConnectionEvent>(64);
        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                Some(conn_tx),
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });
        (client_io, handle, conn_rx, acf_reload_tx)
    }

    /// Open a subscription on `pv_name` and return every frame the
    /// server emits in the `window` after the subscription opens.
    /// Asserts the subscription actually opened so a missing initial
    /// frame is never a vacuous pass.
    async fn subscribe_and_collect(pv_name: &str, port: u16) -> Vec<(u16, usize)> {
        subscribe_then_put(pv_name, port, &[]).await
    }

    /// [`subscribe_and_collect`] plus values written to the PV once the
    /// subscription is open, so a test can observe what the filter chain
    /// does to the monitor stream and not only to the initial post.
    async fn subscribe_then_put(pv_name: &str, port: u16, then_put: &[f64]) -> Vec<(u16, usize)> {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("bfr7:pv", EpicsValue::Double(42.0))
            .await
            .expect("add pv");
        let put_db = Arc::clone(&db);
        let (mut client, handle, mut conn_rx, _acf_reload_tx) = spawn_server(db, port);

        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(0xA1, pv_name))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush create_chan");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;

        client
            .write_all(&event_add_frame(sid, 0xB1))
            .await
            .expect("event_add");
        client.flush().await.expect("flush event_add");

        let opened = await_event(&mut conn_rx, Duration::from_secs(3), |ev| {
            matches!(ev, ServerConnectionEvent::SubscriptionOpened { .. })
        })
        .await;
        assert!(
            matches!(opened, Some(ServerConnectionEvent::SubscriptionOpened { sub_id, .. }) if sub_id == 0xB1),
            "subscription must open (else the no-initial-frame assertion is vacuous): got {opened:?}"
        );

        for v in then_put {
            put_db
                .put_pv_and_post("bfr7:pv", EpicsValue::Double(*v))
                .await
                .expect("put bfr7:pv");
        }

        let frames = collect_frames(&mut client, Duration::from_millis(700)).await;
        drop(client);
        let _ = tokio::time::timeout(Duration::from_secs(2), handle).await;
        frames
    }

    /// Regression: a `sync` filter gating `while` a never-set
    /// state drops the initial monitor post in EVENT context, so the
    /// server sends NO `CA_PROTO_EVENT_ADD` data frame. Pre-fix the
    /// initial post ran in READ context, where
    /// `sync` is bypassed, so an initial frame WAS sent — this test
    /// fails against that behaviour.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn event_context_sync_gate_suppresses_initial_event() {
        // `sync.c`'s `parse_ok` resolves the state with `dbStateFind`, so
        // the state has to be declared for the channel to open at all; it
        // is simply never set.
        epics_base_rs::server::database::filters::db_state_registry()
            .get_or_create("BFR7:NEVERSET");
        let pv = r#"bfr7:pv.{"sync":{"while":"BFR7:NEVERSET"}}"#;
        let frames = subscribe_and_collect(pv, 55301).await;
        let event_adds: Vec<_> = frames
            .iter()
            .filter(|(cmd, _)| *cmd == CA_PROTO_EVENT_ADD)
            .collect();
        assert!(
            event_adds.is_empty(),
            "the event-context `sync` gate must suppress the \
             initial EVENT_ADD post — no fallback to the unfiltered \
             value (got {event_adds:?})"
        );
    }

    /// Control: an unfiltered channel still sends exactly one initial
    /// `CA_PROTO_EVENT_ADD` data frame — proving the harness/timing is
    /// sound and the suppression above is the filter's doing, not a
    /// dropped read.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn plain_channel_sends_initial_event() {
        let frames = subscribe_and_collect("bfr7:pv", 55302).await;
        let event_adds = frames
            .iter()
            .filter(|(cmd, _)| *cmd == CA_PROTO_EVENT_ADD)
            .count();
        assert!(
            event_adds >= 1,
            "control: an unfiltered channel must send an initial \
             EVENT_ADD frame (got frames {frames:?})"
        );
    }

    /// The monitor stream runs through the decimator: C forwards window
    /// slot 0 and drops the rest (`filters/decimate.c:67` in `filter()`,
    /// `if (i++ == 0)`), so
    /// with `n=2` the first of two value changes is sent and the second is
    /// not. The initial post carries its own chain (see
    /// `ChannelEntry::filter_chain`) and takes slot 0 of that one, so three
    /// posts reach the client as two frames.
    ///
    /// `offset` is deliberately absent: `decimate.c`'s opts table defines
    /// `n` alone, so the port's old `offset` extension — which is what let
    /// an earlier version of this test suppress the initial post — no
    /// longer parses.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn event_context_decimator_drops_the_second_update() {
        let pv = r#"bfr7:pv.{"dec":{"n":2}}"#;
        let frames = subscribe_then_put(pv, 55303, &[43.0, 44.0]).await;
        let event_adds: Vec<_> = frames
            .iter()
            .filter(|(cmd, _)| *cmd == CA_PROTO_EVENT_ADD)
            .collect();
        assert_eq!(
            event_adds.len(),
            2,
            "initial post plus the first update; the second update is \
             decimated away: got {frames:?}"
        );
    }
}

#[cfg(tokio_backend)]
#[cfg(test)]
mod r46_zero_mask_event_add_tests {
    //! EVENT_ADD with mask=0 must be rejected with CA_PROTO_ERROR
    //! (ECA_ALLOCMEM) + connection close.
    //!
    //! C reference: `db_add_event` (dbEvent.c:437-439) returns NULL when
    //! `select==0`; `event_add_action` (camessage.c:1814-1822) then calls
    //! `send_err(ECA_ALLOCMEM)` and returns `RSRV_ERROR`, closing the
    //! connection.  Previously the Rust server silently installed a dead
    //! subscription whose `Subscriber::accepts` always returned false, so
    //! no events ever arrived after the initial snapshot.
    use super::non_graceful_disconnect_teardown_tests::{
        create_chan_frame, read_create_chan_sid, version_frame,
    };
    use super::*;
    use epics_base_rs::server::database::PvDatabase;
    use epics_base_rs::types::EpicsValue;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Build a CA_PROTO_EVENT_ADD request with mask=0 (the defect input).
    fn event_add_zero_mask_frame(sid: u32, sub_id: u32) -> Vec<u8> {
        let mut h = CaHeader::new(CA_PROTO_EVENT_ADD);
        h.data_type = epics_base_rs::types::DBR_TIME_DOUBLE;
        h.count = 1;
        h.cid = sid;
        h.available = sub_id;
        h.set_payload_size(16, 1, crate::protocol::CA_MINOR_VERSION)
            .expect("modern peer accepts the extended header");
        let mut frame = h.to_bytes().to_vec();
        frame.extend_from_slice(&0f32.to_be_bytes());
        frame.extend_from_slice(&0f32.to_be_bytes());
        frame.extend_from_slice(&0f32.to_be_bytes());
        frame.extend_from_slice(&0u16.to_be_bytes()); // mask = 0 — the defect input
        frame.extend_from_slice(&0u16.to_be_bytes()); // pad
        frame
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn zero_mask_event_add_replies_eca_allocmem_and_disconnects() {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("r46:pv", EpicsValue::Double(0.0))
            .await
            .expect("add pv");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (conn_tx, _conn_rx) = broadcast::channel::<ServerConnectionEvent>(64);

        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = "127.0.0.1:55400".parse().unwrap();

        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                Some(conn_tx),
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });

        let mut client = client_io;
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(1, "r46:pv"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush create_chan");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;

        // Send the defect input: EVENT_ADD with mask=0.
        client
            .write_all(&event_add_zero_mask_frame(sid, 0xC0DE))
            .await
            .expect("zero-mask event_add");
        client.flush().await.expect("flush zero-mask event_add");

        // Read server output until EOF; expect at least one CA_PROTO_ERROR
        // frame before the connection closes.
        let mut acc: Vec<u8> = Vec::new();
        let mut buf = [0u8; 256];
        let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
        loop {
            let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
            assert!(
                !remaining.is_zero(),
                "timed out waiting for server to close"
            );
            match tokio::time::timeout(remaining, client.read(&mut buf)).await {
                Ok(Ok(0)) => break, // EOF — server closed
                Ok(Ok(n)) => acc.extend_from_slice(&buf[..n]),
                Ok(Err(_)) | Err(_) => break,
            }
        }

        // Scan the accumulated bytes for a CA_PROTO_ERROR frame.
        let mut got_error = false;
        let mut offset = 0;
        while offset + CaHeader::SIZE <= acc.len() {
            if let Ok((hdr, hdr_size)) = CaHeader::from_bytes_extended(&acc[offset..]) {
                if hdr.cmmd == CA_PROTO_ERROR {
                    got_error = true;
                    break;
                }
                let msg_len = hdr_size + hdr.actual_postsize();
                if msg_len == 0 {
                    break;
                }
                offset += msg_len;
            } else {
                break;
            }
        }
        assert!(
            got_error,
            "zero-mask EVENT_ADD must produce a CA_PROTO_ERROR (ECA_ALLOCMEM) \
             reply before the connection closes (received {} bytes: {acc:?})",
            acc.len()
        );

        // The handler must exit with Err (RSRV_ERROR path, not graceful EOF).
        let res = tokio::time::timeout(Duration::from_secs(2), handle)
            .await
            .expect("handle_client completes after zero-mask rejection")
            .expect("join ok");
        assert!(
            res.is_err(),
            "zero-mask EVENT_ADD must close the connection with Err \
             (matches C RSRV_ERROR), got {res:?}"
        );
    }

    /// Build a CA_PROTO_EVENT_ADD request with an arbitrary `mask`.
    fn event_add_mask_frame(sid: u32, sub_id: u32, mask: u16) -> Vec<u8> {
        let mut h = CaHeader::new(CA_PROTO_EVENT_ADD);
        h.data_type = epics_base_rs::types::DBR_TIME_DOUBLE;
        h.count = 1;
        h.cid = sid;
        h.available = sub_id;
        h.set_payload_size(16, 1, crate::protocol::CA_MINOR_VERSION)
            .expect("modern peer accepts the extended header");
        let mut frame = h.to_bytes().to_vec();
        frame.extend_from_slice(&0f32.to_be_bytes());
        frame.extend_from_slice(&0f32.to_be_bytes());
        frame.extend_from_slice(&0f32.to_be_bytes());
        frame.extend_from_slice(&mask.to_be_bytes());
        frame.extend_from_slice(&0u16.to_be_bytes()); // pad
        frame
    }

    /// Regression: a mask above UCHAR_MAX (256, reachable because the CA
    /// wire mask is a `u16`) must be rejected exactly like mask==0. C
    /// `db_add_event` (dbEvent.c:437) returns NULL for
    /// `select == 0 || select > UCHAR_MAX`, which `event_add_action` turns
    /// into ECA_ALLOCMEM + RSRV_ERROR (camessage.c:1812-1823). The previous
    /// guard checked only mask==0, so a mask in 256..=65535 silently
    /// installed a never-firing subscription.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn over_max_mask_event_add_replies_eca_allocmem_and_disconnects() {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("r46:pv", EpicsValue::Double(0.0))
            .await
            .expect("add pv");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (conn_tx, _conn_rx) = broadcast::channel::<ServerConnectionEvent>(64);

        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = "127.0.0.1:55402".parse().unwrap();

        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                Some(conn_tx),
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });

        let mut client = client_io;
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(1, "r46:pv"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush create_chan");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;

        // mask = 256 — one past UCHAR_MAX.
        client
            .write_all(&event_add_mask_frame(sid, 0xC0DE, 256))
            .await
            .expect("over-max event_add");
        client.flush().await.expect("flush over-max event_add");

        let mut acc: Vec<u8> = Vec::new();
        let mut buf = [0u8; 256];
        let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
        loop {
            let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
            assert!(
                !remaining.is_zero(),
                "timed out waiting for server to close"
            );
            match tokio::time::timeout(remaining, client.read(&mut buf)).await {
                Ok(Ok(0)) => break, // EOF — server closed
                Ok(Ok(n)) => acc.extend_from_slice(&buf[..n]),
                Ok(Err(_)) | Err(_) => break,
            }
        }

        let mut got_error = false;
        let mut offset = 0;
        while offset + CaHeader::SIZE <= acc.len() {
            if let Ok((hdr, hdr_size)) = CaHeader::from_bytes_extended(&acc[offset..]) {
                if hdr.cmmd == CA_PROTO_ERROR {
                    got_error = true;
                    break;
                }
                let msg_len = hdr_size + hdr.actual_postsize();
                if msg_len == 0 {
                    break;
                }
                offset += msg_len;
            } else {
                break;
            }
        }
        assert!(
            got_error,
            "mask>UCHAR_MAX EVENT_ADD must produce a CA_PROTO_ERROR (ECA_ALLOCMEM) \
             reply before the connection closes (received {} bytes: {acc:?})",
            acc.len()
        );

        let res = tokio::time::timeout(Duration::from_secs(2), handle)
            .await
            .expect("handle_client completes after over-max-mask rejection")
            .expect("join ok");
        assert!(
            res.is_err(),
            "mask>UCHAR_MAX EVENT_ADD must close the connection with Err \
             (matches C RSRV_ERROR), got {res:?}"
        );
    }

    /// Guard-ordering regression: an EVENT_ADD carrying an unknown/stale
    /// SID *and* mask==0 must emit the bad-SID `ECA_INTERNAL` "Bad
    /// Resource ID" frame, NOT the spurious `ECA_ALLOCMEM` mask frame. In
    /// C `event_add_action` the missing-channel branch (`if (!pciu) {
    /// logBadId; return RSRV_ERROR; }`, camessage.c:1773-1777) runs
    /// *before* the `db_add_event` NULL (select==0) ALLOCMEM path
    /// (camessage.c:1812-1823). `logBadId` (camessage.c:307-320) sends
    /// `send_err(ECA_INTERNAL, "Bad Resource ID")` with the cid=0xFFFFFFFF
    /// sentinel (MPTOPCIU→NULL), flushed by camsgtask.c:142-143 before the
    /// disconnect — so an unknown SID draws ECA_INTERNAL regardless of
    /// mask. The defective guard ran the mask==0 check before the channel
    /// lookup and replied `CA_PROTO_ERROR(ECA_ALLOCMEM, m_cid=0xFFFF_FFFF)`
    /// here.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn unknown_sid_zero_mask_event_add_sends_bad_resource_id() {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("r46:pv", EpicsValue::Double(0.0))
            .await
            .expect("add pv");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (conn_tx, _conn_rx) = broadcast::channel::<ServerConnectionEvent>(64);

        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = "127.0.0.1:55401".parse().unwrap();

        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                Some(conn_tx),
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });

        let mut client = client_io;
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(1, "r46:pv"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush create_chan");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;

        // Target a SID the server never assigned: unknown/stale channel.
        let unknown_sid = sid.wrapping_add(0xDEAD);
        assert_ne!(
            unknown_sid, sid,
            "test must use a SID distinct from the real one"
        );
        client
            .write_all(&event_add_zero_mask_frame(unknown_sid, 0xC0DE))
            .await
            .expect("unknown-sid zero-mask event_add");
        client
            .flush()
            .await
            .expect("flush unknown-sid zero-mask event_add");

        // Read server output until EOF; the unknown SID must produce the
        // bad-SID `ECA_INTERNAL` frame, then the server closes.
        let acc = drain_to_eof(&mut client, Duration::from_secs(3)).await;

        // The first CA_PROTO_ERROR frame must be the bad-SID ECA_INTERNAL
        // ("Bad Resource ID") frame with the 0xFFFFFFFF cid sentinel — NOT
        // the mask-path ECA_ALLOCMEM frame the defective guard emitted.
        let err = first_ca_proto_error(&acc).unwrap_or_else(|| {
            panic!(
                "EVENT_ADD on an unknown SID with mask=0 must emit the bad-SID \
                 ECA_INTERNAL frame (C logBadId), but no CA_PROTO_ERROR was emitted \
                 (received {} bytes: {acc:?})",
                acc.len()
            )
        });
        assert_eq!(
            err.available, ECA_INTERNAL,
            "Guard ordering: unknown-SID EVENT_ADD must reply ECA_INTERNAL \
             (bad-SID logBadId), not ECA_ALLOCMEM (mask path); got eca={:#x}",
            err.available
        );
        assert_eq!(
            err.cid, 0xFFFF_FFFF,
            "bad-SID ECA_INTERNAL frame echoes the 0xFFFFFFFF cid sentinel \
             (MPTOPCIU→NULL ⇒ vsend_err cid=0xffffffff), got {:#x}",
            err.cid
        );

        // The handler still closes the connection with Err (RSRV_ERROR).
        let res = tokio::time::timeout(Duration::from_secs(2), handle)
            .await
            .expect("handle_client completes after unknown-sid event_add")
            .expect("join ok");
        assert!(
            res.is_err(),
            "Guard ordering: unknown-SID EVENT_ADD must close the connection with \
             Err (matches C RSRV_ERROR), got {res:?}"
        );
    }

    /// Build a deprecated CA_PROTO_READ (cmd=3) request addressing
    /// `sid` with DBR `data_type`, element `count`, and read `ioid`.
    fn read_frame(sid: u32, data_type: u16, count: u16, ioid: u32) -> Vec<u8> {
        let mut h = CaHeader::new(CA_PROTO_READ);
        h.data_type = data_type;
        h.count = count;
        h.cid = sid;
        h.available = ioid;
        h.to_bytes().to_vec()
    }

    /// Read all server output until EOF (server closed) or `timeout`.
    async fn drain_to_eof<R: tokio::io::AsyncRead + Unpin>(
        client: &mut R,
        timeout: Duration,
    ) -> Vec<u8> {
        let mut acc: Vec<u8> = Vec::new();
        let mut buf = [0u8; 256];
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
            assert!(
                !remaining.is_zero(),
                "timed out waiting for server to close"
            );
            match tokio::time::timeout(remaining, client.read(&mut buf)).await {
                Ok(Ok(0)) => break,
                Ok(Ok(n)) => acc.extend_from_slice(&buf[..n]),
                Ok(Err(_)) | Err(_) => break,
            }
        }
        acc
    }

    /// Scan `acc` for the first CA_PROTO_ERROR frame and return its
    /// parsed header, or `None` if there is none.
    fn first_ca_proto_error(acc: &[u8]) -> Option<CaHeader> {
        let mut offset = 0;
        while offset + CaHeader::SIZE <= acc.len() {
            if let Ok((hdr, hdr_size)) = CaHeader::from_bytes_extended(&acc[offset..]) {
                if hdr.cmmd == CA_PROTO_ERROR {
                    return Some(hdr);
                }
                let msg_len = hdr_size + hdr.actual_postsize();
                if msg_len == 0 {
                    break;
                }
                offset += msg_len;
            } else {
                break;
            }
        }
        None
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn deprecated_read_unknown_sid_bad_type_sends_bad_resource_id() {
        // C `read_action` (`rsrv/camessage.c:601-616`) resolves the
        // channel BEFORE checking the DBR type, so an unknown SID takes
        // the bad-SID `logBadId` branch even when the requested type is
        // also invalid. `logBadId` (camessage.c:307-320) sends
        // ECA_INTERNAL ("Bad Resource ID", cid=0xFFFFFFFF), flushed by
        // camsgtask.c:142-143 before the disconnect — NOT the post-lookup
        // ECA_BADTYPE. Pre-fix Rust checked the type first and emitted a
        // spurious ECA_BADTYPE(cid=0xFFFFFFFF) ahead of the lookup.
        let db = Arc::new(PvDatabase::new());
        db.add_pv("a41:pv", EpicsValue::Double(0.0))
            .await
            .expect("add pv");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (conn_tx, _conn_rx) = broadcast::channel::<ServerConnectionEvent>(64);

        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = "127.0.0.1:55411".parse().unwrap();

        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                Some(conn_tx),
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });

        let mut client = client_io;
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(1, "a41:pv"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush create_chan");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;

        let unknown_sid = sid.wrapping_add(0xDEAD);
        assert_ne!(
            unknown_sid, sid,
            "test must use a SID distinct from the real one"
        );
        // Bad DBR type (99 > LAST_BUFFER_TYPE = 38) on the unknown SID.
        client
            .write_all(&read_frame(unknown_sid, 99, 1, 0x4141))
            .await
            .expect("read unknown sid bad type");
        client.flush().await.expect("flush read");

        let acc = drain_to_eof(&mut client, Duration::from_secs(3)).await;
        let err = first_ca_proto_error(&acc).unwrap_or_else(|| {
            panic!(
                "deprecated READ on an unknown SID with a bad type must emit the \
                 bad-SID ECA_INTERNAL frame (C read_action logBadId), but no \
                 CA_PROTO_ERROR was emitted (received {} bytes: {acc:?})",
                acc.len()
            )
        });
        assert_eq!(
            err.available, ECA_INTERNAL,
            "unknown-SID READ takes the bad-SID logBadId branch (ECA_INTERNAL), \
             not the post-lookup ECA_BADTYPE; got eca={:#x}",
            err.available
        );
        assert_eq!(
            err.cid, 0xFFFF_FFFF,
            "bad-SID ECA_INTERNAL frame echoes the 0xFFFFFFFF cid sentinel, got {:#x}",
            err.cid
        );

        let res = tokio::time::timeout(Duration::from_secs(2), handle)
            .await
            .expect("handle_client completes after unknown-sid read")
            .expect("join ok");
        assert!(
            res.is_err(),
            "unknown-SID READ must close the connection with Err (C RSRV_ERROR), got {res:?}"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn deprecated_read_known_sid_bad_type_sends_badtype_with_real_cid() {
        // with a VALID channel, C `read_action`
        // (`rsrv/camessage.c:616-619`) sends ECA_BADTYPE carrying the
        // channel's real cid (`pciu->cid`) + record name — never the
        // 0xFFFFFFFF sentinel the pre-fix code used. An `ao`: a simple PV's
        // channel follows pcas.
        let db = Arc::new(PvDatabase::new());
        db.add_record(
            "a41:pv",
            Box::new(epics_base_rs::server::records::ao::AoRecord::new(0.0)),
        )
        .await
        .expect("add record");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (conn_tx, _conn_rx) = broadcast::channel::<ServerConnectionEvent>(64);

        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = "127.0.0.1:55412".parse().unwrap();

        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                Some(conn_tx),
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });

        let mut client = client_io;
        client.write_all(&version_frame()).await.expect("version");
        // create_chan client cid = 1; the BADTYPE error must echo it.
        client
            .write_all(&create_chan_frame(1, "a41:pv"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush create_chan");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;

        // Bad DBR type (99 > LAST_BUFFER_TYPE = 38) on the VALID sid.
        client
            .write_all(&read_frame(sid, 99, 1, 0x4242))
            .await
            .expect("read known sid bad type");
        client.flush().await.expect("flush read");

        let acc = drain_to_eof(&mut client, Duration::from_secs(3)).await;
        let err = first_ca_proto_error(&acc)
            .expect("deprecated READ with a valid SID + bad type must emit a CA_PROTO_ERROR");
        assert_eq!(
            err.available, ECA_BADTYPE,
            "status must be ECA_BADTYPE, got {:#x}",
            err.available
        );
        assert_ne!(
            err.cid,
            u32::MAX,
            "BADTYPE cid must be the channel's real cid, not the 0xFFFFFFFF sentinel"
        );
        assert_eq!(
            err.cid, 1,
            "BADTYPE cid must echo the create_chan client cid (pciu->cid)"
        );

        let res = tokio::time::timeout(Duration::from_secs(2), handle)
            .await
            .expect("handle_client completes after known-sid bad-type read")
            .expect("join ok");
        assert!(
            res.is_err(),
            "bad-type READ must close the connection with Err (C RSRV_ERROR), got {res:?}"
        );
    }
}

#[cfg(test)]
mod send_tmo_env_tests {
    //! Per-boundary coverage of the server's env-derived timeouts (R15-16).
    //!
    //! `EPICS_CAS_SEND_TMO=inf` used to panic `send_timeout()` on the
    //! FIRST client connect, taking the whole server down — a remotely
    //! triggerable DoS on a misconfigured host.
    use super::resolve_inactivity_timeout;
    #[cfg(tokio_backend)]
    use super::resolve_send_timeout;
    use std::time::Duration;

    /// SAFETY: gated by `serial_test::serial`; restored before return.
    fn with_env(name: &str, value: Option<&str>, f: impl FnOnce()) {
        let saved = std::env::var(name).ok();
        unsafe {
            match value {
                Some(v) => std::env::set_var(name, v),
                None => std::env::remove_var(name),
            }
        }
        f();
        unsafe {
            match saved {
                Some(v) => std::env::set_var(name, v),
                None => std::env::remove_var(name),
            }
        }
    }

    #[cfg(tokio_backend)]
    #[test]
    #[serial_test::serial]
    fn send_tmo_boundaries() {
        let default = Duration::from_secs(5);
        let cases: &[(Option<&str>, Duration)] = &[
            (None, default),
            (Some(""), default),
            (Some("2.5"), Duration::from_millis(2500)),
            (Some(" 2.5 "), Duration::from_millis(2500)),
            (Some("0x10"), Duration::from_secs(16)),
            // Never-expiring send deadline instead of an abort.
            (Some("inf"), Duration::MAX),
            // Rejected by `epicsScanDouble` → default.
            (Some("1e400"), default),
            (Some("abc"), default),
            (Some("2x"), default),
            // Floor: sub-0.1 s (and NaN, which `f64::max` discards) clamp up.
            (Some("0.01"), Duration::from_millis(100)),
            (Some("0"), Duration::from_millis(100)),
            (Some("nan"), Duration::from_millis(100)),
        ];
        for (raw, want) in cases {
            with_env("EPICS_CAS_SEND_TMO", *raw, || {
                assert_eq!(
                    resolve_send_timeout(),
                    *want,
                    "EPICS_CAS_SEND_TMO={raw:?} must resolve to {want:?}"
                );
            });
        }
    }

    #[test]
    #[serial_test::serial]
    fn inactivity_tmo_boundaries() {
        let cases: &[(Option<&str>, Option<Duration>)] = &[
            // Disabled by default; an unparseable value keeps it disabled.
            (None, None),
            (Some(""), None),
            (Some("abc"), None),
            (Some("1e400"), None),
            // NaN fails the `> 0.0` gate, as every C comparison against it does.
            (Some("nan"), None),
            (Some("0"), None),
            (Some("-1"), None),
            // Positive values are honoured, floored at 30 s.
            (Some("60"), Some(Duration::from_secs(60))),
            (Some("1"), Some(Duration::from_secs(30))),
            (Some("0x40"), Some(Duration::from_secs(64))),
            (Some("inf"), Some(Duration::MAX)),
        ];
        for (raw, want) in cases {
            with_env("EPICS_CAS_INACTIVITY_TMO", *raw, || {
                assert_eq!(
                    resolve_inactivity_timeout(),
                    *want,
                    "EPICS_CAS_INACTIVITY_TMO={raw:?} must resolve to {want:?}"
                );
            });
        }
    }
}

#[cfg(test)]
mod read_reply_sans_io_tests {
    //! Sans-io proof for the READ / READ_NOTIFY reply: `build_read_reply`
    //! produces the exact wire frame from a hand-built [`Snapshot`] and the
    //! request parameters, with NO socket, NO `DuplexStream`, NO database,
    //! and NO async. Every assertion here inspects the returned frame's bytes
    //! directly. This is the increment-1 demonstration that the reply's
    //! byte production is a pure function of `(snapshot, request)` — the
    //! whole point of the sans-io split. The frame buffer it borrows is an
    //! allocator, not I/O: a test supplies its own.
    use super::*;
    use epics_base_rs::server::snapshot::Snapshot;
    use epics_base_rs::types::{DBR_LONG, DBR_STRING, EpicsValue};

    fn pool() -> std::sync::Arc<crate::server::frame::FramePool> {
        std::sync::Arc::new(crate::server::frame::FramePool::new())
    }

    fn scalar_long(v: i32) -> Snapshot {
        Snapshot::new(EpicsValue::Long(v), 0, 0, std::time::SystemTime::UNIX_EPOCH)
    }

    /// A refused get conversion is `ReadReplyError::GetFail`, which the
    /// dispatch answers with C's zeroed ECA_GETFAIL frame
    /// (`camessage.c:540-556`) and a live circuit — NOT `BadType`, which tears
    /// the connection down for a request the server can never serve.
    #[test]
    fn unparseable_string_field_read_as_double_is_err_getfail() {
        let snap = Snapshot::new(
            EpicsValue::String("hello".into()),
            0,
            0,
            std::time::SystemTime::UNIX_EPOCH,
        );
        let err = build_read_reply(
            &pool(),
            epics_base_rs::types::DBR_DOUBLE,
            1,
            true,
            &snap,
            0,
            0x11,
            CA_MINOR_VERSION,
        )
        .expect_err("a string that is not a number cannot be served as DBR_DOUBLE");
        assert!(matches!(err, ReadReplyError::GetFail));

        // A parseable one still frames normally.
        let ok = Snapshot::new(
            EpicsValue::String("3.125".into()),
            0,
            0,
            std::time::SystemTime::UNIX_EPOCH,
        );
        let frame = build_read_reply(
            &pool(),
            epics_base_rs::types::DBR_DOUBLE,
            1,
            true,
            &ok,
            0,
            0x11,
            CA_MINOR_VERSION,
        )
        .expect("a numeric string frames");
        assert_eq!(f64::from_be_bytes(frame[16..24].try_into().unwrap()), 3.125);
    }

    /// A `DBF_CHAR` waveform read as `DBR_STRING` ships one MAX_STRING_SIZE
    /// slot per element, so the declared count and the body agree: C
    /// `getCharString` (`dbConvert.c:417-437`) gives `m_count = 10` with
    /// `m_postsize = 400`. The collapsed conversion declared ten elements over
    /// a 40-byte body, and `size_dbr_reply` cannot repair that — it resizes
    /// only when the requested count differs from the live one, which here it
    /// does not.
    #[test]
    fn read_notify_char_waveform_as_string_is_forty_bytes_per_element() {
        let snap = Snapshot::new(
            EpicsValue::CharArray(b"ABCDEFGHIJ".to_vec().into()),
            0,
            0,
            std::time::SystemTime::UNIX_EPOCH,
        );
        let frame = build_read_reply(
            &pool(),
            DBR_STRING,
            0, // notify autosize -> the live count, 10
            true,
            &snap,
            0,
            0x99,
            CA_MINOR_VERSION,
        )
        .expect("char waveform as DBR_STRING frames");

        let hdr = CaHeader::from_bytes(&frame[..16]).expect("parse header");
        assert_eq!(hdr.count, 10, "one element per waveform byte");
        assert_eq!(hdr.postsize, 400, "ten MAX_STRING_SIZE slots");
        assert_eq!(frame.len(), 16 + 400);
        assert_eq!(&frame[16..18], b"65", "element 0 is cvtCharToString('A')");
        assert_eq!(&frame[16 + 360..16 + 362], b"74", "element 9 is 'J'");
    }

    /// A scalar READ_NOTIFY frame is header + the 8-aligned value payload,
    /// with the notify opcode, `cid == ECA_NORMAL` (the status slot), the
    /// echoed ioid, and count 1.
    #[test]
    fn read_notify_scalar_long_is_header_plus_padded_value() {
        let frame = build_read_reply(
            &pool(),
            DBR_LONG,
            0, // notify autosize → live count (scalar ⇒ 1)
            true,
            &scalar_long(0x0102_0304),
            0xAAAA_BBBB, // ignored for notify (cid slot carries status)
            0x1234_5678,
            CA_MINOR_VERSION,
        )
        .expect("scalar long read reply frames");

        assert_eq!(frame.len(), 16 + 8, "16-byte header + 8-aligned i32 body");
        let hdr = CaHeader::from_bytes(&frame[..16]).expect("parse header");
        assert_eq!(hdr.cmmd, CA_PROTO_READ_NOTIFY);
        assert_eq!(hdr.data_type, DBR_LONG);
        assert_eq!(hdr.actual_count(), 1);
        assert_eq!(hdr.cid, ECA_NORMAL, "notify cid slot is ECA_NORMAL");
        assert_eq!(hdr.available, 0x1234_5678, "ioid echoed into m_available");
        assert_eq!(hdr.actual_postsize(), 8);
        assert_eq!(&frame[16..20], &0x0102_0304i32.to_be_bytes(), "value bytes");
        assert_eq!(&frame[20..24], &[0, 0, 0, 0], "alignment padding is zero");
    }

    /// The deprecated synchronous CA_PROTO_READ carries the READ opcode and
    /// the channel's client-side CID (`pciu->cid`), not `ECA_NORMAL`.
    #[test]
    fn deprecated_read_uses_channel_cid_and_read_opcode() {
        let frame = build_read_reply(
            &pool(),
            DBR_LONG,
            1, // non-zero ⇒ ordinary scalar, not the count==0 metadata path
            false,
            &scalar_long(42),
            0x00C0_FFEE,
            0x9,
            CA_MINOR_VERSION,
        )
        .expect("deprecated scalar read frames");

        let hdr = CaHeader::from_bytes(&frame[..16]).expect("parse header");
        assert_eq!(hdr.cmmd, CA_PROTO_READ, "deprecated READ opcode");
        assert_eq!(
            hdr.cid, 0x00C0_FFEE,
            "deprecated READ echoes the channel CID"
        );
        assert_eq!(hdr.actual_count(), 1);
        assert_eq!(&frame[16..20], &42i32.to_be_bytes());
    }

    /// A deprecated CA_PROTO_READ with `m_count == 0` is NOT autosize: C
    /// sizes it with `dbr_size_n(type, 0)`, so a plain type ships count 0
    /// and a zero-length body (header only).
    #[test]
    fn deprecated_read_count_zero_ships_header_only_for_plain_type() {
        let frame = build_read_reply(
            &pool(),
            DBR_LONG,
            0,
            false,
            &scalar_long(7),
            0x1,
            0x2,
            CA_MINOR_VERSION,
        )
        .expect("count==0 deprecated read frames");

        assert_eq!(frame.len(), 16, "plain-type count==0 body is empty");
        let hdr = CaHeader::from_bytes(&frame[..16]).expect("parse header");
        assert_eq!(hdr.cmmd, CA_PROTO_READ);
        assert_eq!(hdr.actual_count(), 0, "count==0 stays 0 (not autosize)");
        assert_eq!(hdr.actual_postsize(), 0);
    }

    /// A short array framed at a LARGER requested count keeps the requested
    /// count in the header and zero-fills the missing elements.
    #[test]
    fn read_notify_array_pads_to_requested_count() {
        let snap = Snapshot::new(
            EpicsValue::LongArray(vec![10, 20, 30].into()),
            0,
            0,
            std::time::SystemTime::UNIX_EPOCH,
        );
        let frame = build_read_reply(&pool(), DBR_LONG, 5, true, &snap, 0, 0x7, CA_MINOR_VERSION)
            .expect("padded array frames");

        let hdr = CaHeader::from_bytes(&frame[..16]).expect("parse header");
        assert_eq!(hdr.actual_count(), 5, "header carries the requested count");
        // 5 * 4 = 20 value bytes, 8-aligned to 24.
        assert_eq!(hdr.actual_postsize(), 24);
        assert_eq!(frame.len(), 16 + 24);
        assert_eq!(&frame[16..20], &10i32.to_be_bytes(), "element 0");
        assert_eq!(&frame[20..24], &20i32.to_be_bytes(), "element 1");
        assert_eq!(&frame[24..28], &30i32.to_be_bytes(), "element 2");
        assert!(
            frame[28..].iter().all(|&b| b == 0),
            "over-requested elements + alignment are zero-filled"
        );
    }

    /// An array framed at a SMALLER requested count truncates to it.
    #[test]
    fn read_notify_array_truncates_under_requested_count() {
        let snap = Snapshot::new(
            EpicsValue::LongArray(vec![1, 2, 3, 4, 5].into()),
            0,
            0,
            std::time::SystemTime::UNIX_EPOCH,
        );
        let frame = build_read_reply(&pool(), DBR_LONG, 2, true, &snap, 0, 0x7, CA_MINOR_VERSION)
            .expect("truncated array frames");

        let hdr = CaHeader::from_bytes(&frame[..16]).expect("parse header");
        assert_eq!(hdr.actual_count(), 2, "count truncated to the requested 2");
        assert_eq!(frame.len(), 16 + 8, "2 * 4 = 8, already 8-aligned");
        assert_eq!(&frame[16..20], &1i32.to_be_bytes());
        assert_eq!(&frame[20..24], &2i32.to_be_bytes());
    }

    /// A reply that needs the extended (24-byte) header cannot be framed for
    /// a pre-V49 client — `build_read_reply` reports `Oversize`, which the
    /// dispatch handler maps to ECA_16KARRAYCLIENT.
    #[test]
    fn oversize_array_to_pre_v49_client_is_err_oversize() {
        let snap = Snapshot::new(
            EpicsValue::LongArray(vec![7; 20_000].into()), // 80 000 bytes > 0xFFFF
            0,
            0,
            std::time::SystemTime::UNIX_EPOCH,
        );
        let err = build_read_reply(&pool(), DBR_LONG, 20_000, true, &snap, 0, 0x7, 8)
            .expect_err("pre-V49 client cannot frame an extended reply");
        assert!(matches!(err, ReadReplyError::Oversize { .. }));
    }

    /// An unencodable DBR type is `BadType` (C `INVALID_DB_REQ`), which the
    /// handler turns into ECA_BADTYPE (deprecated READ) or a silent drop
    /// (READ_NOTIFY).
    #[test]
    fn unsupported_dbr_type_is_err_badtype() {
        let err = build_read_reply(
            &pool(),
            99,
            1,
            false,
            &scalar_long(0),
            0x1,
            0x2,
            CA_MINOR_VERSION,
        )
        .expect_err("type 99 > LAST_BUFFER_TYPE cannot encode");
        assert!(matches!(err, ReadReplyError::BadType));
    }

    /// Deprecated scalar DBR_STRING contracts to its NUL-terminated length
    /// (value + NUL, 8-aligned), not the fixed 40-byte slot — C `read_action`
    /// `epicsStrnLen(pStr, 40) + 1`.
    #[test]
    fn deprecated_scalar_string_contracts_to_nul_terminated_length() {
        let snap = Snapshot::new(
            EpicsValue::String(epics_base_rs::types::PvString::from("OK")),
            0,
            0,
            std::time::SystemTime::UNIX_EPOCH,
        );
        let frame = build_read_reply(
            &pool(),
            DBR_STRING,
            1,
            false,
            &snap,
            0x1,
            0x2,
            CA_MINOR_VERSION,
        )
        .expect("scalar string frames");
        let hdr = CaHeader::from_bytes(&frame[..16]).expect("parse header");
        // "OK" + NUL = 3 bytes, 8-aligned to 8 — not the 40-byte slot.
        assert_eq!(
            hdr.actual_postsize(),
            8,
            "contracted to value + NUL, 8-aligned"
        );
        assert_eq!(&frame[16..18], b"OK");
        assert_eq!(frame[18], 0, "NUL terminator");
    }
}

#[cfg(test)]
mod destroyed_channel_teardown_tests {
    //! BR-3: when the database destroys what a channel serves, the channel
    //! is RETIRED — `CA_PROTO_SERVER_DISCONN` on the wire and the monitor
    //! stops — instead of staying connected and taking one more event.
    //!
    //! C ca-gateway does exactly this on upstream death: `gatePvData::death`
    //! deletes the downstream virtual channel (`delete vc; vc = NULL;`,
    //! gatePv.cc:600-601), which is what makes `camonitor` report the
    //! disconnect. Posting an INVALID/LINK_ALARM event instead leaves the
    //! channel connected, so the client latches the last value.
    #[cfg(tokio_backend)]
    use super::non_graceful_disconnect_teardown_tests::{
        create_chan_frame, event_add_frame, read_create_chan_sid, version_frame,
    };
    use super::*;
    use epics_base_rs::server::database::PvDatabase;
    use epics_base_rs::types::EpicsValue;
    use std::sync::Arc;
    use std::time::Duration;
    #[cfg(tokio_backend)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Read frames until one carries `cmmd`, returning its header.
    #[cfg(tokio_backend)]
    async fn read_until_cmmd<R: tokio::io::AsyncRead + Unpin>(
        client: &mut R,
        cmmd: u16,
        timeout: Duration,
    ) -> CaHeader {
        let mut acc: Vec<u8> = Vec::new();
        let mut buf = [0u8; 1024];
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
            assert!(!remaining.is_zero(), "timed out waiting for command {cmmd}");
            let n = tokio::time::timeout(remaining, client.read(&mut buf))
                .await
                .expect("read within timeout")
                .expect("read ok");
            assert!(n > 0, "server closed before command {cmmd}");
            acc.extend_from_slice(&buf[..n]);
            let mut offset = 0;
            while offset + CaHeader::SIZE <= acc.len() {
                let (hdr, hdr_size) =
                    CaHeader::from_bytes_extended(&acc[offset..]).expect("header parses");
                let msg_len = hdr_size + hdr.actual_postsize();
                if offset + msg_len > acc.len() {
                    break;
                }
                if hdr.cmmd == cmmd {
                    return hdr;
                }
                offset += msg_len;
            }
            acc.drain(..offset);
        }
    }

    #[cfg(tokio_backend)]
    /// The ACF sender is handed back, not dropped: `handle_client` treats a
    /// closed ACF broadcast as "the server is going away" and ends the
    /// circuit, so a helper that let it fall out of scope would close every
    /// connection before the first frame.
    fn spawn_server(
        db: Arc<PvDatabase>,
        peer: SocketAddr,
    ) -> (
        tokio::io::DuplexStream,
        broadcast::Receiver<ServerConnectionEvent>,
        broadcast::Sender<()>,
        tokio::task::JoinHandle<CaResult<()>>,
    ) {
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (conn_tx, conn_rx) = broadcast::channel::<ServerConnectionEvent>(64);
        let (client_io, server_io) = tokio::io::duplex(8192);
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                Some(conn_tx),
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });
        (client_io, conn_rx, acf_reload_tx, handle)
    }

    /// The wire half: destroying a simple PV retires its channel with
    /// `CA_PROTO_SERVER_DISCONN` carrying the CLIENT's cid, on an idle
    /// circuit that sends nothing to prompt it.
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn destroying_a_simple_pv_sends_server_disconn_for_its_cid() {
        const CID: u32 = 0x0BAD_C0DE;
        let db = Arc::new(PvDatabase::new());
        db.add_pv("BR3:val", EpicsValue::Double(1.0))
            .await
            .expect("add pv");
        let peer: SocketAddr = "127.0.0.1:55301".parse().unwrap();
        let (mut client, mut conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);

        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(CID, "BR3:val"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        client
            .write_all(&event_add_frame(sid, 1))
            .await
            .expect("event_add");
        client.flush().await.expect("flush");
        // The initial monitor event proves the subscription is live before
        // the destruction, so the disconnect below cannot be mistaken for a
        // subscription that never started.
        read_until_cmmd(&mut client, CA_PROTO_EVENT_ADD, Duration::from_secs(3)).await;

        db.remove_simple_pv("BR3:val").await.expect("was there");

        let hdr =
            read_until_cmmd(&mut client, CA_PROTO_SERVER_DISCONN, Duration::from_secs(3)).await;
        assert_eq!(
            hdr.cid, CID,
            "SERVER_DISCONN carries the client's cid, which is what libca \
             demultiplexes on — not the server's sid"
        );

        let cleared = super::non_graceful_disconnect_teardown_tests::await_event(
            &mut conn_rx,
            Duration::from_secs(3),
            |ev| matches!(ev, ServerConnectionEvent::ChannelCleared { cid, .. } if *cid == CID),
        )
        .await;
        assert!(
            cleared.is_some(),
            "the destruction sweep must route through the same teardown owner \
             as CLEAR_CHANNEL, so it emits ChannelCleared too"
        );

        drop(client);
        handle.abort();
    }

    /// A GET parked on a pending PV that is then destroyed gets no reply:
    /// C's `delete vc` drops the vc's queued reads (gatePv.cc:599-601), and
    /// the channel's SERVER_DISCONN is what the client sees.
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_get_parked_on_a_pending_pv_that_dies_is_not_answered() {
        const CID: u32 = 0x0BAD_F00D;
        let db = Arc::new(PvDatabase::new());
        db.add_simple_pv(
            epics_base_rs::server::pv::ProcessVariable::new("BR3:pending", EpicsValue::Double(1.0))
                .pending(),
        )
        .await
        .expect("add pv");
        let peer: SocketAddr = "127.0.0.1:55303".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);

        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(CID, "BR3:pending"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        let mut get = CaHeader::new(CA_PROTO_READ_NOTIFY);
        get.data_type = epics_base_rs::types::DBR_DOUBLE;
        get.count = 1;
        get.cid = sid;
        get.available = 1;
        client
            .write_all(&get.to_bytes())
            .await
            .expect("read_notify");
        client.flush().await.expect("flush");
        tokio::time::sleep(Duration::from_millis(200)).await;

        db.remove_simple_pv("BR3:pending").await.expect("was there");

        let mut acc: Vec<u8> = Vec::new();
        let mut buf = [0u8; 1024];
        'frames: loop {
            let n = tokio::time::timeout(Duration::from_secs(3), client.read(&mut buf))
                .await
                .expect("SERVER_DISCONN within 3 s")
                .expect("read ok");
            assert!(n > 0, "server closed before SERVER_DISCONN");
            acc.extend_from_slice(&buf[..n]);
            let mut offset = 0;
            while offset + CaHeader::SIZE <= acc.len() {
                let (hdr, hdr_size) =
                    CaHeader::from_bytes_extended(&acc[offset..]).expect("header parses");
                let msg_len = hdr_size + hdr.actual_postsize();
                if offset + msg_len > acc.len() {
                    break;
                }
                assert_ne!(
                    hdr.cmmd, CA_PROTO_READ_NOTIFY,
                    "a destroyed PV answered the parked GET"
                );
                if hdr.cmmd == CA_PROTO_SERVER_DISCONN {
                    assert_eq!(hdr.cid, CID);
                    break 'frames;
                }
                offset += msg_len;
            }
            acc.drain(..offset);
        }

        drop(client);
        handle.abort();
    }

    #[cfg(tokio_backend)]
    fn read_notify_frame(sid: u32, ioid: u32) -> Vec<u8> {
        let mut get = CaHeader::new(CA_PROTO_READ_NOTIFY);
        get.data_type = epics_base_rs::types::DBR_DOUBLE;
        get.count = 1;
        get.cid = sid;
        get.available = ioid;
        get.to_bytes().to_vec()
    }

    /// A database holding one pending PV, `AR4:pending`, and one ready one,
    /// `AR4:val`; the pending PV is handed back to ready it.
    #[cfg(tokio_backend)]
    async fn parked_read_db() -> (
        Arc<PvDatabase>,
        Arc<epics_base_rs::server::pv::ProcessVariable>,
    ) {
        let db = Arc::new(PvDatabase::new());
        db.add_simple_pv(
            epics_base_rs::server::pv::ProcessVariable::new("AR4:pending", EpicsValue::Double(1.0))
                .pending(),
        )
        .await
        .expect("add pv");
        db.add_pv("AR4:val", EpicsValue::Double(2.0))
            .await
            .expect("add pv");
        let Some(epics_base_rs::server::database::PvEntry::Simple(pending)) =
            db.find_entry("AR4:pending").await
        else {
            panic!("AR4:pending is a simple PV");
        };
        (db, pending)
    }

    #[cfg(tokio_backend)]
    fn ready_snapshot() -> epics_base_rs::server::snapshot::Snapshot {
        epics_base_rs::server::snapshot::Snapshot::new(
            EpicsValue::Double(9.0),
            0,
            0,
            std::time::SystemTime::now(),
        )
    }

    /// Dispatch one frame as the async server does.
    #[cfg(tokio_backend)]
    async fn dispatch_async(
        state: &mut ClientState,
        db: &Arc<PvDatabase>,
        outbox: &Outbox,
        frame: Vec<u8>,
    ) -> CaResult<()> {
        let (hdr, hdr_size) =
            CaHeader::from_bytes_for_peer(&frame, state.client_minor_version()).unwrap();
        dispatch_message(
            &hdr,
            &frame[hdr_size..],
            state,
            db,
            outbox,
            "127.0.0.1:55305".parse().unwrap(),
            None,
            SubscriptionDelivery::AsyncSpawn(
                epics_base_rs::runtime::task::Reactor::current().expect("a runtime"),
            ),
        )
        .await
        .map(|_| ())
    }

    /// The ioids of every READ_NOTIFY reply queued so far.
    #[cfg(tokio_backend)]
    fn read_notify_ioids(drain: &mut crate::server::outbox::OutboxDrain) -> Vec<u32> {
        let mut ioids = Vec::new();
        while let Some(f) = drain.try_next() {
            if u16::from_be_bytes([f[0], f[1]]) == CA_PROTO_READ_NOTIFY {
                ioids.push(u32::from_be_bytes([f[12], f[13], f[14], f[15]]));
            }
        }
        ioids
    }

    /// A circuit with one channel on `AR4:pending`, whose sid is returned.
    #[cfg(tokio_backend)]
    async fn circuit_on_pending(
        db: &Arc<PvDatabase>,
    ) -> (ClientState, Outbox, crate::server::outbox::OutboxDrain, u32) {
        let mut state = ClientState::new(
            epics_base_rs::server::access_security::new_acf_cell(None),
            5064,
            db.clone(),
        );
        let (outbox, drain) = crate::server::outbox::channel();
        for frame in [version_frame(), create_chan_frame(1, "AR4:pending")] {
            dispatch_async(&mut state, db, &outbox, frame)
                .await
                .expect("served");
        }
        let sid = *state.channels.keys().next().expect("the channel");
        (state, outbox, drain, sid)
    }

    /// PCAS `casAsyncReadIOI`: a GET that cannot answer now leaves the circuit
    /// serving. A second channel's GET is answered while the first waits, and
    /// the first is answered when its PV readies.
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_parked_get_leaves_the_circuit_serving() {
        let (db, pending) = parked_read_db().await;
        let peer: SocketAddr = "127.0.0.1:55304".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);

        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(1, "AR4:pending"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let parked_sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        client
            .write_all(&create_chan_frame(2, "AR4:val"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let live_sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;

        client
            .write_all(&read_notify_frame(parked_sid, 1))
            .await
            .expect("read_notify");
        client
            .write_all(&read_notify_frame(live_sid, 2))
            .await
            .expect("read_notify");
        client.flush().await.expect("flush");
        let hdr = read_until_cmmd(&mut client, CA_PROTO_READ_NOTIFY, Duration::from_secs(3)).await;
        assert_eq!(
            hdr.available, 2,
            "the second channel's GET is answered while the first waits"
        );

        pending.make_ready(ready_snapshot());
        let hdr = read_until_cmmd(&mut client, CA_PROTO_READ_NOTIFY, Duration::from_secs(3)).await;
        assert_eq!(
            hdr.available, 1,
            "the parked GET is answered when its PV readies"
        );
        assert_eq!(hdr.cid, ECA_NORMAL, "with its value");

        drop(client);
        handle.abort();
    }

    /// Every frame header read until `until` of them carry a command in
    /// `want`.
    #[cfg(tokio_backend)]
    async fn read_headers_until<R: tokio::io::AsyncRead + Unpin>(
        client: &mut R,
        want: &[u16],
        until: usize,
    ) -> Vec<CaHeader> {
        let mut acc: Vec<u8> = Vec::new();
        let mut buf = [0u8; 1024];
        let mut seen: Vec<CaHeader> = Vec::new();
        while seen.iter().filter(|h| want.contains(&h.cmmd)).count() < until {
            let n = tokio::time::timeout(Duration::from_secs(3), client.read(&mut buf))
                .await
                .expect("read within timeout")
                .expect("read ok");
            assert!(n > 0, "server closed");
            acc.extend_from_slice(&buf[..n]);
            let mut offset = 0;
            while offset + CaHeader::SIZE <= acc.len() {
                let (hdr, hdr_size) =
                    CaHeader::from_bytes_extended(&acc[offset..]).expect("header parses");
                let msg_len = hdr_size + hdr.actual_postsize();
                if offset + msg_len > acc.len() {
                    break;
                }
                seen.push(hdr);
                offset += msg_len;
            }
            acc.drain(..offset);
        }
        seen
    }

    /// A one-DBR_DOUBLE `cmmd` write to `sid`.
    #[cfg(tokio_backend)]
    fn put_frame(cmmd: u16, sid: u32, ioid: u32) -> Vec<u8> {
        let mut put = CaHeader::new(cmmd);
        put.data_type = epics_base_rs::types::DBR_DOUBLE;
        put.count = 1;
        put.cid = sid;
        put.available = ioid;
        put.postsize = 8;
        let mut frame = put.to_bytes().to_vec();
        frame.extend_from_slice(&5f64.to_be_bytes());
        frame
    }

    /// A write to a PV that is not ready waits for it off the circuit, and
    /// completes as ca-gateway posts it from `vcNew` (gateVc.cc:956,
    /// 984-1012): a put callback with its reply, a plain write that fails with
    /// PCAS `writeResponse`'s ECA_PUTFAIL error.
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_write_to_a_pending_pv_waits_for_it_off_the_circuit() {
        use epics_base_rs::server::pv::WriteForward;
        let (db, pending) = parked_read_db().await;
        let sent = Arc::new(std::sync::Mutex::new(Vec::new()));
        pending.set_write_hook(Arc::new({
            let sent = sent.clone();
            move |_value, _ctx| {
                let sent = sent.clone();
                Box::pin(async move {
                    // A put callback completes; a plain write fails.
                    let forward: WriteForward = Box::new(move |done| {
                        sent.lock().unwrap().push(done.is_some());
                        let done = done.ok_or(epics_base_rs::error::CaError::Disconnected)?;
                        done.succeed();
                        Ok(())
                    });
                    Ok(forward)
                })
            }
        }));
        let peer: SocketAddr = "127.0.0.1:55306".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);

        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(1, "AR4:pending"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let held_sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        client
            .write_all(&create_chan_frame(2, "AR4:val"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let live_sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;

        for frame in [
            put_frame(CA_PROTO_WRITE, held_sid, 0),
            put_frame(CA_PROTO_WRITE_NOTIFY, held_sid, 7),
            read_notify_frame(live_sid, 2),
        ] {
            client.write_all(&frame).await.expect("request");
        }
        client.flush().await.expect("flush");
        let early = read_headers_until(&mut client, &[CA_PROTO_READ_NOTIFY], 1).await;
        assert!(
            early
                .iter()
                .all(|h| h.cmmd != CA_PROTO_ERROR && h.cmmd != CA_PROTO_WRITE_NOTIFY),
            "both writes wait for the PV, and the other channel answers"
        );
        assert!(
            sent.lock().unwrap().is_empty(),
            "nothing sent while pending"
        );

        pending.make_ready(ready_snapshot());
        let done = read_headers_until(&mut client, &[CA_PROTO_ERROR, CA_PROTO_WRITE_NOTIFY], 2)
            .await
            .into_iter()
            .filter(|h| h.cmmd == CA_PROTO_ERROR || h.cmmd == CA_PROTO_WRITE_NOTIFY)
            .map(|h| match h.cmmd {
                CA_PROTO_ERROR => (h.cmmd, h.cid, h.available),
                _ => (h.cmmd, h.available, h.cid),
            })
            .collect::<Vec<_>>();
        assert_eq!(
            done,
            [
                (CA_PROTO_ERROR, 1, ECA_PUTFAIL),
                (CA_PROTO_WRITE_NOTIFY, 7, ECA_NORMAL)
            ]
        );
        assert_eq!(
            *sent.lock().unwrap(),
            [false, true],
            "sent in arrival order"
        );

        drop(client);
        handle.abort();
    }

    /// With ca-gateway's `maxSimlWriteIO` (100) put callbacks in flight, the
    /// next write is postponed and the circuit serves nothing behind it until
    /// one ends; then the write goes, and the request after it is answered
    /// (gateVc.cc:1483, casStrmClient.cc:115-125).
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_postponed_write_holds_the_circuit_until_the_pv_signals() {
        use epics_base_rs::server::pv::WriteForward;
        let (db, pv) = parked_read_db().await;
        pv.make_ready(ready_snapshot());
        let open = Arc::new(std::sync::Mutex::new(Vec::new()));
        pv.set_write_hook(Arc::new({
            let open = open.clone();
            move |_value, _ctx| {
                let open = open.clone();
                Box::pin(async move {
                    let forward: WriteForward = Box::new(move |done| {
                        open.lock().unwrap().extend(done);
                        Ok(())
                    });
                    Ok(forward)
                })
            }
        }));
        let peer: SocketAddr = "127.0.0.1:55307".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);

        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(1, "AR4:pending"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let write_sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        client
            .write_all(&create_chan_frame(2, "AR4:val"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let read_sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;

        for ioid in 1..=101 {
            client
                .write_all(&put_frame(CA_PROTO_WRITE_NOTIFY, write_sid, ioid))
                .await
                .expect("write_notify");
        }
        client
            .write_all(&read_notify_frame(read_sid, 500))
            .await
            .expect("read_notify");
        client.flush().await.expect("flush");
        let mut buf = [0u8; 64];
        assert!(
            tokio::time::timeout(Duration::from_millis(500), client.read(&mut buf))
                .await
                .is_err(),
            "nothing is answered behind the postponed write"
        );
        assert_eq!(open.lock().unwrap().len(), 100, "the 101st is not sent");

        let first = open.lock().unwrap().remove(0);
        first.succeed();
        let answered: Vec<_> = read_headers_until(
            &mut client,
            &[CA_PROTO_WRITE_NOTIFY, CA_PROTO_READ_NOTIFY],
            2,
        )
        .await
        .into_iter()
        .filter(|h| h.cmmd == CA_PROTO_WRITE_NOTIFY || h.cmmd == CA_PROTO_READ_NOTIFY)
        .map(|h| (h.cmmd, h.available))
        .collect();
        assert_eq!(
            answered,
            [(CA_PROTO_WRITE_NOTIFY, 1), (CA_PROTO_READ_NOTIFY, 500)]
        );
        assert_eq!(open.lock().unwrap().len(), 100, "the 101st went");

        drop(client);
        handle.abort();
    }

    /// A put callback the PV posts failed is answered ECA_PUTFAIL, then once
    /// with the status's text as an ECA_NOCONVERT exception, whether it fails
    /// sending or later (casStrmClient.cc:1213-1233).
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_failed_put_callback_sends_its_status_text_once() {
        use epics_base_rs::error::DbStatus;
        use epics_base_rs::server::pv::WriteForward;
        let (db, pv) = parked_read_db().await;
        pv.make_ready(ready_snapshot());
        let open = Arc::new(std::sync::Mutex::new(Vec::new()));
        pv.set_write_hook(Arc::new({
            let open = open.clone();
            let calls = Arc::new(AtomicU32::new(0));
            move |_value, _ctx| {
                let (open, first) = (open.clone(), calls.fetch_add(1, Ordering::SeqCst) == 0);
                Box::pin(async move {
                    // The first is not sent; the rest stay in flight.
                    let forward: WriteForward = Box::new(move |done| {
                        if first {
                            return Err(epics_base_rs::error::CaError::Disconnected);
                        }
                        open.lock().unwrap().extend(done);
                        Ok(())
                    });
                    Ok(forward)
                })
            }
        }));
        let peer: SocketAddr = "127.0.0.1:55309".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);

        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(1, "AR4:pending"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let write_sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        client
            .write_all(&create_chan_frame(2, "AR4:val"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let read_sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;

        // (command, ioid or cid, status, diagnostic) of each answer, in order.
        async fn answers(
            client: &mut tokio::io::DuplexStream,
            n: usize,
        ) -> Vec<(u16, u32, u32, String)> {
            let mut got = Vec::new();
            while got.len() < n {
                let frame = next_frame(client).await.expect("answered");
                let (h, size) = CaHeader::from_bytes_extended(&frame).expect("header");
                let answer = match h.cmmd {
                    CA_PROTO_WRITE_NOTIFY => (h.cmmd, h.available, h.cid, String::new()),
                    CA_PROTO_READ_NOTIFY => (h.cmmd, h.available, 0, String::new()),
                    CA_PROTO_ERROR => {
                        let diag = &frame[size + CaHeader::SIZE..];
                        let end = diag.iter().position(|&b| b == 0).unwrap_or(diag.len());
                        let diag = String::from_utf8_lossy(&diag[..end]).into_owned();
                        (h.cmmd, h.cid, h.available, diag)
                    }
                    _ => continue,
                };
                got.push(answer);
            }
            got
        }

        for frame in [
            put_frame(CA_PROTO_WRITE_NOTIFY, write_sid, 1),
            put_frame(CA_PROTO_WRITE_NOTIFY, write_sid, 2),
            read_notify_frame(read_sid, 500),
        ] {
            client.write_all(&frame).await.expect("request");
        }
        client.flush().await.expect("flush");
        let unsent = String::from("Error (65535,65535)");
        assert_eq!(
            answers(&mut client, 3).await,
            [
                (CA_PROTO_WRITE_NOTIFY, 1, ECA_PUTFAIL, String::new()),
                (CA_PROTO_ERROR, 1, ECA_NOCONVERT, unsent),
                (CA_PROTO_READ_NOTIFY, 500, 0, String::new()),
            ]
        );

        let in_flight = open.lock().unwrap().pop().expect("in flight");
        in_flight.fail(DbStatus::CANCELED_ASYNC_IO);
        assert_eq!(
            answers(&mut client, 2).await,
            [
                (CA_PROTO_WRITE_NOTIFY, 2, ECA_PUTFAIL, String::new()),
                (CA_PROTO_ERROR, 1, ECA_NOCONVERT, "Error (523,7)".into()),
            ]
        );
        client
            .write_all(&read_notify_frame(read_sid, 501))
            .await
            .expect("read_notify");
        client.flush().await.expect("flush");
        assert_eq!(
            answers(&mut client, 1).await,
            [(CA_PROTO_READ_NOTIFY, 501, 0, String::new())],
            "one exception"
        );

        drop(client);
        handle.abort();
    }

    /// A plain write a simple PV fails is answered ECA_PUTFAIL with its
    /// status's text: at once when it cannot be sent, and, logged, when a
    /// held one fails later (casStrmClient.cc:1007-1028, 1112-1128).
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_failed_plain_write_sends_its_status_text() {
        use epics_base_rs::server::pv::WriteForward;
        let logged = Arc::new(std::sync::Mutex::new(Vec::new()));
        let listener = epics_base_rs::runtime::log::errlog_add_listener({
            let logged = logged.clone();
            move |line| {
                if line.contains("casStrmClient") {
                    logged.lock().unwrap().push(line.to_string());
                }
            }
        });
        let (db, pending) = parked_read_db().await;
        pending.set_write_hook(Arc::new(|_value, _ctx| {
            Box::pin(async move {
                let forward: WriteForward =
                    Box::new(|_done| Err(epics_base_rs::error::CaError::Disconnected));
                Ok(forward)
            })
        }));
        let peer: SocketAddr = "127.0.0.1:55310".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);

        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(1, "AR4:pending"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        client
            .write_all(&create_chan_frame(2, "AR4:val"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let live_sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;

        // (cid, status, diagnostic) of the next error.
        async fn error(client: &mut tokio::io::DuplexStream) -> (u32, u32, String) {
            loop {
                let frame = next_frame(client).await.expect("answered");
                let (h, size) = CaHeader::from_bytes_extended(&frame).expect("header");
                if h.cmmd != CA_PROTO_ERROR {
                    continue;
                }
                let diag = &frame[size + CaHeader::SIZE..];
                let end = diag.iter().position(|&b| b == 0).unwrap_or(diag.len());
                return (
                    h.cid,
                    h.available,
                    String::from_utf8_lossy(&diag[..end]).into(),
                );
            }
        }
        let unsent = (1, ECA_PUTFAIL, String::from("Error (65535,65535)"));

        for frame in [
            put_frame(CA_PROTO_WRITE, sid, 0),
            read_notify_frame(live_sid, 2),
        ] {
            client.write_all(&frame).await.expect("request");
        }
        client.flush().await.expect("flush");
        let early = read_headers_until(&mut client, &[CA_PROTO_READ_NOTIFY], 1).await;
        assert!(early.iter().all(|h| h.cmmd != CA_PROTO_ERROR), "held");
        pending.make_ready(ready_snapshot());
        assert_eq!(error(&mut client).await, unsent, "held, then failed");
        epics_base_rs::runtime::log::errlog_flush();
        assert_eq!(
            *logged.lock().unwrap(),
            [" filename=\"../casStrmClient.cc\" line number=1119  write failed\n"]
        );

        client
            .write_all(&put_frame(CA_PROTO_WRITE, sid, 0))
            .await
            .expect("write");
        client.flush().await.expect("flush");
        assert_eq!(error(&mut client).await, unsent, "failed at once");
        epics_base_rs::runtime::log::errlog_flush();
        assert_eq!(logged.lock().unwrap().len(), 1, "unlogged");

        epics_base_rs::runtime::log::errlog_remove_listener(listener);
        drop(client);
        handle.abort();
    }

    /// Every frame up to and including the first `last`, as (cmmd, cid,
    /// available, body): an error's diagnostic text, any other frame's payload.
    #[cfg(tokio_backend)]
    async fn answers_until(
        client: &mut tokio::io::DuplexStream,
        last: u16,
    ) -> Vec<(u16, u32, u32, Vec<u8>)> {
        let mut seen = Vec::new();
        loop {
            let frame = next_frame(client).await.expect("answered");
            let (h, size) = CaHeader::from_bytes_extended(&frame).expect("header");
            let mut body = frame[size..].to_vec();
            if h.cmmd == CA_PROTO_ERROR {
                body.drain(..CaHeader::SIZE);
                body.truncate(body.iter().position(|&b| b == 0).unwrap_or(body.len()));
            }
            seen.push((h.cmmd, h.cid, h.available, body));
            if h.cmmd == last {
                return seen;
            }
        }
    }

    /// A simple PV's put of a buffer with a metadata header fails
    /// S_cas_badType before the PV sees it, and of a class name ca-gateway's
    /// S_casApp_noSupport: a plain write is answered by
    /// `writeActionSendFailureStatus`, a put callback by `writeNotifyResponse`
    /// (casStrmClient.cc:1007-1028, 1213-1233, 2419-2422; gateVc.cc:1446-1458).
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_simple_pv_refuses_a_put_with_metadata_as_pcas() {
        use epics_base_rs::types::{DBR_CLASS_NAME, DBR_STS_DOUBLE, DBR_TIME_DOUBLE};
        let (db, _pending) = parked_read_db().await;
        let peer: SocketAddr = "127.0.0.1:55396".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);

        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(1, "AR4:val"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        let typed = |cmmd: u16, data_type: u16, ioid: u32| {
            let mut put = CaHeader::new(cmmd);
            put.data_type = data_type;
            put.count = 1;
            put.cid = sid;
            put.available = ioid;
            put.postsize = 40;
            let mut frame = put.to_bytes().to_vec();
            frame.extend_from_slice(&[0; 40]);
            frame
        };
        for frame in [
            typed(CA_PROTO_WRITE, DBR_TIME_DOUBLE, 0),
            typed(CA_PROTO_WRITE_NOTIFY, DBR_STS_DOUBLE, 7),
            typed(CA_PROTO_WRITE, DBR_CLASS_NAME, 0),
            read_notify_frame(sid, 9),
        ] {
            client.write_all(&frame).await.expect("request");
        }
        client.flush().await.expect("flush");

        let bad_type = b"Error (521,14)".to_vec();
        assert_eq!(
            answers_until(&mut client, CA_PROTO_READ_NOTIFY).await,
            [
                (CA_PROTO_ERROR, 1, ECA_BADTYPE, bad_type.clone()),
                (CA_PROTO_WRITE_NOTIFY, ECA_PUTFAIL, 7, Vec::new()),
                (CA_PROTO_ERROR, 1, ECA_NOCONVERT, bad_type),
                (CA_PROTO_ERROR, 1, ECA_PUTFAIL, b"Error (523,4)".to_vec()),
                (
                    CA_PROTO_READ_NOTIFY,
                    ECA_NORMAL,
                    9,
                    2f64.to_be_bytes().to_vec()
                ),
            ]
        );

        drop(client);
        handle.abort();
    }

    /// A simple PV's write the access check refuses carries pcas's text, an
    /// alarm acknowledgement's too; a put callback is answered NOWTACCESS
    /// with no exception (casStrmClient.cc:1067-1077, 1157-1161).
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_simple_pv_write_denied_carries_pcas_text() {
        use epics_base_rs::server::pv::AccessDecision;
        use epics_base_rs::types::{DBR_DOUBLE, DBR_PUT_ACKT};
        let (db, pv) = parked_read_db().await;
        pv.make_ready(ready_snapshot());
        pv.set_access_hook(Arc::new(|_user, _host| AccessDecision {
            read: true,
            write: false,
        }));
        let peer: SocketAddr = "127.0.0.1:55397".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);

        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(1, "AR4:pending"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        let typed = |cmmd: u16, data_type: u16, ioid: u32| {
            let mut put = CaHeader::new(cmmd);
            put.data_type = data_type;
            put.count = 1;
            put.cid = sid;
            put.available = ioid;
            put.postsize = 8;
            let mut frame = put.to_bytes().to_vec();
            frame.extend_from_slice(&[0; 8]);
            frame
        };
        for frame in [
            typed(CA_PROTO_WRITE, DBR_DOUBLE, 0),
            typed(CA_PROTO_WRITE, DBR_PUT_ACKT, 0),
            typed(CA_PROTO_WRITE_NOTIFY, DBR_DOUBLE, 7),
            read_notify_frame(sid, 9),
        ] {
            client.write_all(&frame).await.expect("request");
        }
        client.flush().await.expect("flush");

        let denied = b"write access denied".to_vec();
        assert_eq!(
            answers_until(&mut client, CA_PROTO_READ_NOTIFY).await,
            [
                (CA_PROTO_ERROR, 1, ECA_NOWTACCESS, denied.clone()),
                (CA_PROTO_ERROR, 1, ECA_NOWTACCESS, denied),
                (CA_PROTO_WRITE_NOTIFY, ECA_NOWTACCESS, 7, Vec::new()),
                (
                    CA_PROTO_READ_NOTIFY,
                    ECA_NORMAL,
                    9,
                    9f64.to_be_bytes().to_vec()
                ),
            ]
        );

        drop(client);
        handle.abort();
    }

    /// A simple PV whose write hook refuses is answered as pcas answers a
    /// `write()` that returns the status: a plain write with its text, a put
    /// callback with ECA_PUTFAIL and its text after (casStrmClient.cc:1007-1028,
    /// 1180-1187, 1213-1233).
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_write_hook_refusal_is_answered_as_pcas() {
        use epics_base_rs::error::DbStatus;
        use epics_base_rs::server::pv::WriteForward;
        use epics_base_rs::types::DBR_DOUBLE;
        let (db, pv) = parked_read_db().await;
        pv.make_ready(ready_snapshot());
        pv.set_write_hook(Arc::new(|_value, _ctx| {
            Box::pin(async { Err::<WriteForward, _>(DbStatus::CAS_NO_WRITE) })
        }));
        let peer: SocketAddr = "127.0.0.1:55395".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);

        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(1, "AR4:pending"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        let typed = |cmmd: u16, ioid: u32| {
            let mut put = CaHeader::new(cmmd);
            put.data_type = DBR_DOUBLE;
            put.count = 1;
            put.cid = sid;
            put.available = ioid;
            put.postsize = 8;
            let mut frame = put.to_bytes().to_vec();
            frame.extend_from_slice(&2f64.to_be_bytes());
            frame
        };
        for frame in [
            typed(CA_PROTO_WRITE, 0),
            typed(CA_PROTO_WRITE_NOTIFY, 7),
            read_notify_frame(sid, 9),
        ] {
            client.write_all(&frame).await.expect("request");
        }
        client.flush().await.expect("flush");

        let no_write = b"Error (521,20)".to_vec();
        assert_eq!(
            answers_until(&mut client, CA_PROTO_READ_NOTIFY).await,
            [
                (CA_PROTO_ERROR, 1, ECA_PUTFAIL, no_write.clone()),
                (CA_PROTO_WRITE_NOTIFY, ECA_PUTFAIL, 7, Vec::new()),
                (CA_PROTO_ERROR, 1, ECA_NOCONVERT, no_write),
                (
                    CA_PROTO_READ_NOTIFY,
                    ECA_NORMAL,
                    9,
                    9f64.to_be_bytes().to_vec()
                ),
            ]
        );

        drop(client);
        handle.abort();
    }

    /// An alarm acknowledgement to a simple PV is a `write()` like any other,
    /// so one with no write hook gets pcas's own `casPV::write` status
    /// (casPV.cc:107-110), answered as every refused write is.
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_alarm_ack_to_a_simple_pv_is_a_write() {
        use epics_base_rs::types::{DBR_PUT_ACKS, DBR_PUT_ACKT};
        let (db, pv) = parked_read_db().await;
        pv.make_ready(ready_snapshot());
        let peer: SocketAddr = "127.0.0.1:55391".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);

        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(1, "AR4:pending"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        let typed = |cmmd: u16, data_type: u16, ioid: u32| {
            let mut put = CaHeader::new(cmmd);
            put.data_type = data_type;
            put.count = 1;
            put.cid = sid;
            put.available = ioid;
            put.postsize = 8;
            let mut frame = put.to_bytes().to_vec();
            frame.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
            frame
        };
        for frame in [
            typed(CA_PROTO_WRITE, DBR_PUT_ACKT, 0),
            typed(CA_PROTO_WRITE_NOTIFY, DBR_PUT_ACKS, 7),
            read_notify_frame(sid, 9),
        ] {
            client.write_all(&frame).await.expect("request");
        }
        client.flush().await.expect("flush");

        let no_support = b"Error (523,4)".to_vec();
        assert_eq!(
            answers_until(&mut client, CA_PROTO_READ_NOTIFY).await,
            [
                (CA_PROTO_ERROR, 1, ECA_PUTFAIL, no_support.clone()),
                (CA_PROTO_WRITE_NOTIFY, ECA_PUTFAIL, 7, Vec::new()),
                (CA_PROTO_ERROR, 1, ECA_NOCONVERT, no_support),
                (
                    CA_PROTO_READ_NOTIFY,
                    ECA_NORMAL,
                    9,
                    9f64.to_be_bytes().to_vec()
                ),
            ]
        );

        drop(client);
        handle.abort();
    }

    /// A client that sends on behind a postponed write is kept: the circuit
    /// stops reading once its buffer is full, as pcas does
    /// (`casStreamOS::recvCB`), and serves it all when the PV signals.
    ///
    /// nextest runs each test in its own process, so the env mutation that
    /// bounds the buffer is contained.
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_sending_on_behind_a_postponed_write_is_kept() {
        use epics_base_rs::server::pv::WriteForward;
        // SAFETY: nextest gives each test its own process; no other thread
        // in it reads the environment concurrently at this point.
        unsafe {
            std::env::set_var("EPICS_CA_AUTO_ARRAY_BYTES", "NO");
            std::env::set_var("EPICS_CA_MAX_ARRAY_BYTES", "4096");
        }
        let (db, pv) = parked_read_db().await;
        pv.make_ready(ready_snapshot());
        let open = Arc::new(std::sync::Mutex::new(Vec::new()));
        pv.set_write_hook(Arc::new({
            let open = open.clone();
            move |_value, _ctx| {
                let open = open.clone();
                Box::pin(async move {
                    let forward: WriteForward = Box::new(move |done| {
                        open.lock().unwrap().extend(done);
                        Ok(())
                    });
                    Ok(forward)
                })
            }
        }));
        let peer: SocketAddr = "127.0.0.1:55308".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);

        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(1, "AR4:pending"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let write_sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        client
            .write_all(&create_chan_frame(2, "AR4:val"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let read_sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        for ioid in 1..=101 {
            client
                .write_all(&put_frame(CA_PROTO_WRITE_NOTIFY, write_sid, ioid))
                .await
                .expect("write_notify");
        }

        // More than the receive buffer and the pipe between them hold.
        let ceiling = crate::server::recv::RecvAccumulator::new().accumulation_ceiling();
        let reads = ((ceiling + 8192) / 16 + 64) as u32;
        let (mut rd, mut wr) = tokio::io::split(client);
        let writer = tokio::spawn(async move {
            for ioid in 0..reads {
                wr.write_all(&read_notify_frame(read_sid, ioid))
                    .await
                    .expect("read_notify");
            }
            wr.flush().await.expect("flush");
            wr
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!writer.is_finished(), "the circuit stopped reading");
        assert!(!handle.is_finished(), "and kept the client");

        open.lock().unwrap().remove(0).succeed();
        let answered = read_headers_until(&mut rd, &[CA_PROTO_READ_NOTIFY], reads as usize)
            .await
            .iter()
            .filter(|h| h.cmmd == CA_PROTO_READ_NOTIFY)
            .count();
        assert_eq!(
            answered, reads as usize,
            "every request behind it is served"
        );
        let wr = writer.await.expect("writer");

        drop((rd, wr));
        handle.abort();
    }

    /// Every frame up to and including the first `last`, as (cmmd, cid,
    /// available).
    #[cfg(tokio_backend)]
    async fn frames_until(client: &mut tokio::io::DuplexStream, last: u16) -> Vec<(u16, u32, u32)> {
        let mut seen = Vec::new();
        loop {
            let frame = next_frame(client).await.expect("answered");
            let (h, _) = CaHeader::from_bytes_extended(&frame).expect("header");
            seen.push((h.cmmd, h.cid, h.available));
            if h.cmmd == last {
                return seen;
            }
        }
    }

    /// A held plain write that is sent is not answered: pcas `writeResponse`
    /// answers only a failure (casStrmClient.cc:1112-1128), so the put
    /// callback held behind it is the next frame.
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_held_plain_write_that_is_sent_is_not_answered() {
        use epics_base_rs::server::pv::WriteForward;
        let (db, pending) = parked_read_db().await;
        pending.set_write_hook(Arc::new(|_value, _ctx| {
            Box::pin(async {
                let forward: WriteForward = Box::new(|done| {
                    if let Some(done) = done {
                        done.succeed();
                    }
                    Ok(())
                });
                Ok(forward)
            })
        }));
        let peer: SocketAddr = "127.0.0.1:55397".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);
        client.write_all(&version_frame()).await.expect("version");
        let mut sids = Vec::new();
        for (cid, name) in [(1, "AR4:pending"), (2, "AR4:val")] {
            client
                .write_all(&create_chan_frame(cid, name))
                .await
                .expect("create_chan");
            client.flush().await.expect("flush");
            sids.push(read_create_chan_sid(&mut client, Duration::from_secs(3)).await);
        }
        let [sid, live_sid] = sids[..] else {
            unreachable!()
        };
        for frame in [
            put_frame(CA_PROTO_WRITE, sid, 0),
            put_frame(CA_PROTO_WRITE_NOTIFY, sid, 7),
            read_notify_frame(live_sid, 2),
        ] {
            client.write_all(&frame).await.expect("request");
        }
        client.flush().await.expect("flush");
        read_headers_until(&mut client, &[CA_PROTO_READ_NOTIFY], 1).await;
        pending.make_ready(ready_snapshot());

        assert_eq!(
            frames_until(&mut client, CA_PROTO_WRITE_NOTIFY).await,
            [(CA_PROTO_WRITE_NOTIFY, ECA_NORMAL, 7)]
        );
        drop(client);
        handle.abort();
    }

    /// The writes a pending PV holds when it is destroyed are answered before
    /// its channel is retired: `~gateVcData` posts each
    /// `S_casApp_canceledAsyncIO` (gateVc.cc:426-433) ahead of `~casPV`'s
    /// channel destroy. Past `CA_PROTO_SERVER_DISCONN` libca would give the put
    /// callback ECA_DISCONN.
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn held_writes_on_a_destroyed_pv_are_answered_before_it_retires() {
        use epics_base_rs::server::pv::WriteForward;
        let (db, pending) = parked_read_db().await;
        pending.set_write_hook(Arc::new(|_value, _ctx| {
            Box::pin(async {
                let forward: WriteForward = Box::new(|done| {
                    if let Some(done) = done {
                        done.succeed();
                    }
                    Ok(())
                });
                Ok(forward)
            })
        }));
        let peer: SocketAddr = "127.0.0.1:55399".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);
        client.write_all(&version_frame()).await.expect("version");
        let mut sids = Vec::new();
        for (cid, name) in [(1, "AR4:pending"), (2, "AR4:val")] {
            client
                .write_all(&create_chan_frame(cid, name))
                .await
                .expect("create_chan");
            client.flush().await.expect("flush");
            sids.push(read_create_chan_sid(&mut client, Duration::from_secs(3)).await);
        }
        let [sid, live_sid] = sids[..] else {
            unreachable!()
        };
        for frame in [
            put_frame(CA_PROTO_WRITE, sid, 0),
            put_frame(CA_PROTO_WRITE_NOTIFY, sid, 7),
            read_notify_frame(live_sid, 2),
        ] {
            client.write_all(&frame).await.expect("request");
        }
        client.flush().await.expect("flush");
        // Both writes are held once the READ behind them is answered.
        read_headers_until(&mut client, &[CA_PROTO_READ_NOTIFY], 1).await;
        db.remove_simple_pv("AR4:pending").await.expect("was there");

        assert_eq!(
            frames_until(&mut client, CA_PROTO_SERVER_DISCONN).await,
            [
                (CA_PROTO_ERROR, 1, ECA_PUTFAIL),
                (CA_PROTO_WRITE_NOTIFY, ECA_PUTFAIL, 7),
                (CA_PROTO_ERROR, 1, ECA_NOCONVERT),
                (CA_PROTO_SERVER_DISCONN, 1, 0),
            ]
        );
        drop(client);
        handle.abort();
    }

    /// A put callback in flight on a PV that is destroyed is answered
    /// canceled before its channel is retired, as `~gateVcData` posts its
    /// `pendWio` (gateVc.cc:430-433), not dropped unanswered.
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_put_callback_in_flight_on_a_destroyed_pv_is_answered_before_it_retires() {
        use epics_base_rs::server::pv::WriteForward;
        let (db, pending) = parked_read_db().await;
        pending.make_ready(ready_snapshot());
        let open = Arc::new(std::sync::Mutex::new(Vec::new()));
        pending.set_write_hook(Arc::new({
            let open = open.clone();
            move |_value, _ctx| {
                let open = open.clone();
                Box::pin(async move {
                    let forward: WriteForward = Box::new(move |done| {
                        open.lock().unwrap().extend(done);
                        Ok(())
                    });
                    Ok(forward)
                })
            }
        }));
        let peer: SocketAddr = "127.0.0.1:55398".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(1, "AR4:pending"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        client
            .write_all(&put_frame(CA_PROTO_WRITE_NOTIFY, sid, 7))
            .await
            .expect("write_notify");
        client.flush().await.expect("flush");
        tokio::time::timeout(Duration::from_secs(3), async {
            while open.lock().unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("sent upstream");
        db.remove_simple_pv("AR4:pending").await.expect("was there");

        assert_eq!(
            frames_until(&mut client, CA_PROTO_SERVER_DISCONN).await,
            [
                (CA_PROTO_WRITE_NOTIFY, ECA_PUTFAIL, 7),
                (CA_PROTO_ERROR, 1, ECA_NOCONVERT),
                (CA_PROTO_SERVER_DISCONN, 1, 0),
            ]
        );
        drop(client);
        handle.abort();
    }

    /// A write postponed on a PV that is destroyed runs again only after its
    /// channel is retired, and is refused ECA_BADCHID: pcas sends the
    /// `channelDestroyEvent` queued with the canceled IO before
    /// `casStreamIOWakeup` re-runs it (casEventSys.cc:85-123). The destroy's
    /// wake-up is held back until the re-run is answered, so the broadcast
    /// arm cannot retire the channel first.
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_write_postponed_on_a_destroyed_pv_runs_again_after_it_retires() {
        use epics_base_rs::server::pv::WriteForward;
        let (db, pending) = parked_read_db().await;
        pending.make_ready(ready_snapshot());
        let open = Arc::new(std::sync::Mutex::new(Vec::new()));
        pending.set_write_hook(Arc::new({
            let open = open.clone();
            move |_value, _ctx| {
                let open = open.clone();
                Box::pin(async move {
                    let forward: WriteForward = Box::new(move |done| {
                        open.lock().unwrap().extend(done);
                        Ok(())
                    });
                    Ok(forward)
                })
            }
        }));
        let peer: SocketAddr = "127.0.0.1:55311".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(1, "AR4:pending"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        for ioid in 1..=101 {
            client
                .write_all(&put_frame(CA_PROTO_WRITE_NOTIFY, sid, ioid))
                .await
                .expect("write_notify");
        }
        client.flush().await.expect("flush");
        let mut buf = [0u8; 64];
        assert!(
            tokio::time::timeout(Duration::from_millis(500), client.read(&mut buf))
                .await
                .is_err(),
            "the 101st is postponed"
        );
        assert_eq!(open.lock().unwrap().len(), 100);
        let (go, held) = std::sync::mpsc::channel::<()>();
        let remover = std::thread::spawn({
            let db = db.clone();
            move || {
                let _armed = epics_base_rs::server::database::destroy_signal_hook::arm(move || {
                    let _ = held.recv();
                });
                epics_base_rs::runtime::task::block_on_sync(db.remove_simple_pv("AR4:pending"))
                    .expect("no async runtime on this thread")
                    .expect("was there");
            }
        });

        let mut seen = Vec::new();
        loop {
            let frames = frames_until(&mut client, CA_PROTO_WRITE_NOTIFY).await;
            let rerun = frames.last().is_some_and(|&(.., ioid)| ioid == 101);
            seen.extend(frames);
            if rerun {
                break;
            }
        }
        assert!(
            !remover.is_finished(),
            "the re-run was answered while the destroy's wake-up was held back"
        );
        let retired = seen
            .iter()
            .position(|&(cmmd, ..)| cmmd == CA_PROTO_SERVER_DISCONN)
            .unwrap_or_else(|| panic!("the channel is retired before the re-run, got {seen:?}"));
        let canceled: Vec<_> = seen[..retired]
            .iter()
            .filter(|&&(cmmd, ..)| cmmd == CA_PROTO_WRITE_NOTIFY)
            .map(|&(_, status, ioid)| (status, ioid))
            .collect();
        assert_eq!(
            canceled,
            (1..=100)
                .map(|ioid| (ECA_PUTFAIL, ioid))
                .collect::<Vec<_>>(),
            "the put callbacks in flight, canceled, and not the postponed one"
        );
        assert_eq!(
            seen[retired..],
            [
                (CA_PROTO_SERVER_DISCONN, 1, 0),
                (CA_PROTO_WRITE_NOTIFY, ECA_BADCHID, 101)
            ]
        );
        go.send(()).expect("the hook waits");
        remover.join().expect("removed");
        drop(client);
        handle.abort();
    }

    /// A GET behind a parked one on its channel waits for it, even when it
    /// could answer at once: one channel's replies leave in request order.
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_get_behind_a_parked_one_on_its_channel_answers_after_it() {
        let (db, pending) = parked_read_db().await;
        let (mut state, outbox, mut drain, sid) = circuit_on_pending(&db).await;

        dispatch_async(&mut state, &db, &outbox, read_notify_frame(sid, 1))
            .await
            .expect("parked");
        pending.make_ready(ready_snapshot());
        dispatch_async(&mut state, &db, &outbox, read_notify_frame(sid, 2))
            .await
            .expect("served");
        assert_eq!(
            read_notify_ioids(&mut drain),
            Vec::<u32>::new(),
            "the second GET waits for the first"
        );

        let mut answered = Vec::new();
        while answered.len() < 2 {
            let settled =
                tokio::time::timeout(Duration::from_secs(3), state.parked_reads.next_settled())
                    .await
                    .expect("a parked GET settles");
            answer_parked_reads(&mut state, &outbox, settled).expect("answered");
            answered.extend(read_notify_ioids(&mut drain));
        }
        assert_eq!(answered, [1, 2]);
        assert!(!state.parked_reads.holds(sid), "the channel has none left");
    }

    /// The settle rules alone: a fetch that settles ahead of an earlier one on
    /// its channel is held until that one settles, and one whose channel was
    /// freed is dropped.
    #[cfg(tokio_backend)]
    #[tokio::test]
    async fn a_read_settled_out_of_order_waits_for_the_earlier_one() {
        let reactor = epics_base_rs::runtime::task::Reactor::current().expect("a runtime");
        let mut parked = ParkedReads::default();
        for ioid in [1, 2] {
            let mut hdr = CaHeader::new(CA_PROTO_READ_NOTIFY);
            hdr.available = ioid;
            parked.park(
                &reactor,
                7,
                ReadRequest { hdr, count: 1 },
                std::future::pending::<ReadResult>(),
            );
        }
        let settled = |token| SettledRead {
            sid: 7,
            token,
            result: Ok(None),
        };
        assert!(
            parked.settle(settled(1)).is_empty(),
            "the second waits for the first"
        );
        let ready: Vec<u32> = parked
            .settle(settled(0))
            .iter()
            .map(|(read, _)| read.hdr.available)
            .collect();
        assert_eq!(ready, [1, 2]);
        assert!(!parked.holds(7));

        // A fetch already settling when its channel is freed answers nothing.
        let mut hdr = CaHeader::new(CA_PROTO_READ_NOTIFY);
        hdr.available = 3;
        parked.park(
            &reactor,
            7,
            ReadRequest { hdr, count: 1 },
            std::future::pending::<ReadResult>(),
        );
        parked.free_channel(7);
        assert!(parked.settle(settled(2)).is_empty());
    }

    /// PCAS `destroyAllIO`: clearing a channel stops its parked GET, which is
    /// never answered. On one thread, so the fetch cannot be mid-poll when
    /// the clear aborts it.
    #[cfg(tokio_backend)]
    #[tokio::test]
    async fn clearing_a_channel_drops_its_parked_get() {
        let (db, pending) = parked_read_db().await;
        let (mut state, outbox, mut drain, sid) = circuit_on_pending(&db).await;

        dispatch_async(&mut state, &db, &outbox, read_notify_frame(sid, 1))
            .await
            .expect("parked");
        let mut clear = CaHeader::new(CA_PROTO_CLEAR_CHANNEL);
        clear.cid = sid;
        clear.available = 1;
        dispatch_async(&mut state, &db, &outbox, clear.to_bytes().to_vec())
            .await
            .expect("cleared");
        assert!(
            !state.parked_reads.holds(sid),
            "the channel's reads went with it"
        );
        pending.make_ready(ready_snapshot());

        assert!(
            tokio::time::timeout(
                Duration::from_millis(500),
                state.parked_reads.next_settled()
            )
            .await
            .is_err(),
            "the cleared channel's fetch was stopped"
        );
        assert_eq!(read_notify_ioids(&mut drain), Vec::<u32>::new());
    }

    /// A driver with no loop to answer a parked GET refuses it rather than
    /// leave it unanswered, as it refuses an async WRITE_NOTIFY.
    #[cfg(tokio_backend)]
    #[tokio::test]
    async fn a_hand_off_driver_refuses_a_get_that_must_park() {
        let (db, _pending) = parked_read_db().await;
        let (mut state, outbox, mut drain, sid) = circuit_on_pending(&db).await;

        let frame = read_notify_frame(sid, 1);
        let (hdr, hdr_size) =
            CaHeader::from_bytes_for_peer(&frame, state.client_minor_version()).unwrap();
        let res = dispatch_message(
            &hdr,
            &frame[hdr_size..],
            &mut state,
            &db,
            &outbox,
            "127.0.0.1:55306".parse().unwrap(),
            None,
            SubscriptionDelivery::HandOff,
        )
        .await;
        assert!(
            matches!(res, Err(epics_base_rs::error::CaError::Protocol(_))),
            "refused"
        );
        assert_eq!(read_notify_ioids(&mut drain), Vec::<u32>::new());
    }

    /// The same rule for a record-backed channel: one uniform sweep, not a
    /// simple-PV special case.
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn destroying_a_record_sends_server_disconn_for_its_cid() {
        use epics_base_rs::server::records::stringin::StringinRecord;

        const CID: u32 = 0x0BAD_BEEF;
        let db = Arc::new(PvDatabase::new());
        db.add_record("BR3:rec", Box::new(StringinRecord::new("hello")))
            .await
            .expect("add record");
        let peer: SocketAddr = "127.0.0.1:55302".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);

        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(CID, "BR3:rec"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let _sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;

        assert!(db.remove_record("BR3:rec").await, "record was registered");

        let hdr =
            read_until_cmmd(&mut client, CA_PROTO_SERVER_DISCONN, Duration::from_secs(3)).await;
        assert_eq!(hdr.cid, CID);

        drop(client);
        handle.abort();
    }

    /// C `claim_ciu_action` takes each sid from `bucketID++`
    /// (`camessage.c:1027-1042`), so a retired channel's sid does not come
    /// back for the next channel, and a request already in flight when
    /// `CA_PROTO_SERVER_DISCONN` left cannot land on it.
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_retired_sid_is_not_handed_to_the_next_channel() {
        const GONE: u32 = 0x2222_2222;
        const NEXT: u32 = 0x3333_3333;
        let db = Arc::new(PvDatabase::new());
        db.add_pv("BR3:gone", EpicsValue::Double(1.0))
            .await
            .expect("add pv");
        db.add_pv("BR3:next", EpicsValue::Double(2.0))
            .await
            .expect("add pv");
        let peer: SocketAddr = "127.0.0.1:55304".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);

        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(GONE, "BR3:gone"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let retired = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        db.remove_simple_pv("BR3:gone").await.expect("was there");
        read_until_cmmd(&mut client, CA_PROTO_SERVER_DISCONN, Duration::from_secs(3)).await;

        client
            .write_all(&create_chan_frame(NEXT, "BR3:next"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let next = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        assert_ne!(next, retired, "the retired sid names the next channel");

        drop(client);
        handle.abort();
    }

    /// A channel on a PV that was NOT destroyed survives the sweep — the
    /// wake-up carries no name, so the sweep has to be the thing that
    /// discriminates, and it must discriminate by target identity.
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_untouched_channel_survives_a_neighbours_destruction() {
        const KEEP: u32 = 0x1111_1111;
        let db = Arc::new(PvDatabase::new());
        db.add_pv("BR3:gone", EpicsValue::Double(1.0))
            .await
            .expect("add pv");
        db.add_pv("BR3:keep", EpicsValue::Double(2.0))
            .await
            .expect("add pv");
        let peer: SocketAddr = "127.0.0.1:55303".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);

        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(KEEP, "BR3:keep"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;

        db.remove_simple_pv("BR3:gone").await.expect("was there");

        // The surviving channel still serves: an EVENT_ADD on it answers with a
        // monitor event, which a retired channel could not do.
        client
            .write_all(&event_add_frame(sid, 9))
            .await
            .expect("event_add");
        client.flush().await.expect("flush");
        let hdr = read_until_cmmd(&mut client, CA_PROTO_EVENT_ADD, Duration::from_secs(3)).await;
        assert_eq!(hdr.available, 9, "the surviving channel's monitor answers");

        drop(client);
        handle.abort();
    }

    /// A subscription handed to the event thread AFTER its channel was
    /// retired stages nothing: the sweep retired the channel, once.
    ///
    /// A client can see an EVENT_ADD's initial snapshot, destroy the PV, and
    /// have the `Add` reach the event thread after the retirement. A second
    /// `CA_PROTO_SERVER_DISCONN` for one cid makes libca re-run
    /// `cac::disconnectChannel` on a channel already moved to its search
    /// list. Forced here by sending the second `Add` only once the first
    /// frame is out.
    // RTEMS-EXEC-MODEL-ALLOW(1): the late-hand race is driven entirely through
    // the server's own frame path on the test runtime; green on the exec
    // backend.
    #[tokio::test]
    async fn a_late_handed_subscription_does_not_retire_the_channel_again() {
        use epics_base_rs::server::event_queue::EventUser;
        use epics_base_rs::server::recgbl::EventMask;
        use epics_base_rs::types::DbFieldType;

        const CID: u32 = 0x0BAD_1A7E;
        let db = Arc::new(PvDatabase::new());
        db.add_pv("BR3:LATEADD", EpicsValue::Double(1.0))
            .await
            .expect("add_pv");
        let pv = db.find_pv("BR3:LATEADD").expect("just added");

        let user = Arc::new(EventUser::new());
        let mask = (EventMask::VALUE | EventMask::LOG).bits();
        let mut readers = Vec::new();
        for sub_id in [1u32, 2] {
            readers.push(
                pv.add_subscriber_on(
                    &user,
                    sub_id,
                    DbFieldType::Double,
                    mask,
                    epics_base_rs::server::event_queue::no_context(),
                )
                .expect("under the per-PV cap"),
            );
        }
        // Both readers exist before the death, which is the only order that
        // can produce one: `add_subscriber_on` refuses a destroyed PV.
        db.remove_simple_pv("BR3:LATEADD")
            .await
            .expect("was registered");

        let delivery = |reader: epics_base_rs::server::event_queue::EventReader| {
            Box::new(MonitorDelivery {
                reader,
                target: ChannelTarget::SimplePv(pv.clone()),
            })
        };
        let destroyed = DestroyedCids::default();
        destroyed.destroy(CID);

        let (ctl_tx, ctl_rx) = tokio::sync::mpsc::unbounded_channel();
        let (frame_tx, mut frame_rx) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
        struct Frames(tokio::sync::mpsc::UnboundedSender<Vec<u8>>);
        impl EventSink for Frames {
            fn stage(&mut self, bytes: &[u8]) -> std::io::Result<()> {
                let _ = self.0.send(bytes.to_vec());
                Ok(())
            }
            fn send(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let task = tokio::spawn(run_event_task(
            user.clone(),
            ctl_rx,
            destroyed,
            Frames(frame_tx),
            crate::server::tcp::CircuitMinor::new(crate::protocol::CA_MINOR_VERSION),
        ));

        let mut readers = readers.into_iter();
        ctl_tx
            .send(EventTaskControl::Add(delivery(readers.next().unwrap())))
            .expect("event task is running");

        // Wait for the retirement, so the second `Add` is guaranteed to
        // arrive after it.
        let first = tokio::time::timeout(Duration::from_secs(5), frame_rx.recv())
            .await
            .expect("the sweep retires the channel")
            .expect("the event task holds the sender");
        assert_eq!(
            u16::from_be_bytes([first[0], first[1]]),
            CA_PROTO_SERVER_DISCONN
        );

        ctl_tx
            .send(EventTaskControl::Add(delivery(readers.next().unwrap())))
            .expect("event task is running");
        drop(ctl_tx);
        task.await.expect("event task ends when the sender drops");

        let mut extra: Vec<Vec<u8>> = Vec::new();
        while let Ok(frame) = frame_rx.try_recv() {
            extra.push(frame);
        }
        assert!(
            extra.is_empty(),
            "a channel is retired once, whenever its subscriptions turn up: {extra:?}"
        );
    }

    /// What an [`EventSink`] was asked to do, by frame command.
    #[derive(Debug, PartialEq)]
    enum Op {
        Stage(u16),
        Send,
    }

    struct Record(tokio::sync::mpsc::UnboundedSender<Op>);

    impl EventSink for Record {
        fn stage(&mut self, bytes: &[u8]) -> std::io::Result<()> {
            let _ = self
                .0
                .send(Op::Stage(u16::from_be_bytes([bytes[0], bytes[1]])));
            Ok(())
        }
        fn send(&mut self) -> std::io::Result<()> {
            let _ = self.0.send(Op::Send);
            Ok(())
        }
    }

    /// C `read_reply` sends only once `eventsRemaining` is 0
    /// (`camessage.c:593-594`): frames that are ready together are staged
    /// together and go out in ONE send, made when the event thread is about
    /// to wait. `k` channels one sweep retires are `k` ready frames; the
    /// boundary is one frame against several.
    // RTEMS-EXEC-MODEL-ALLOW(1): drives `run_event_task` on the test runtime
    // with a recording sink, no socket.
    #[tokio::test]
    async fn ready_frames_are_staged_and_sent_once_before_the_event_thread_waits() {
        use epics_base_rs::server::event_queue::EventUser;
        use epics_base_rs::server::recgbl::EventMask;
        use epics_base_rs::types::DbFieldType;

        for k in [1u32, 3] {
            let db = Arc::new(PvDatabase::new());
            let user = Arc::new(EventUser::new());
            let mask = (EventMask::VALUE | EventMask::LOG).bits();
            let (ctl_tx, ctl_rx) = tokio::sync::mpsc::unbounded_channel();
            let destroyed = DestroyedCids::default();
            for cid in 0..k {
                let name = format!("BATCH:{k}:{cid}");
                db.add_pv(&name, EpicsValue::Double(1.0))
                    .await
                    .expect("add_pv");
                let pv = db.find_pv(&name).expect("just added");
                let reader = pv
                    .add_subscriber_on(
                        &user,
                        cid + 1,
                        DbFieldType::Double,
                        mask,
                        epics_base_rs::server::event_queue::no_context(),
                    )
                    .expect("under the per-PV cap");
                db.remove_simple_pv(&name).await.expect("was registered");
                destroyed.destroy(cid);
                ctl_tx
                    .send(EventTaskControl::Add(Box::new(MonitorDelivery {
                        reader,
                        target: ChannelTarget::SimplePv(pv),
                    })))
                    .expect("receiver is held");
            }

            let (op_tx, mut op_rx) = tokio::sync::mpsc::unbounded_channel();
            let task = tokio::spawn(run_event_task(
                user.clone(),
                ctl_rx,
                destroyed,
                Record(op_tx),
                crate::server::tcp::CircuitMinor::new(crate::protocol::CA_MINOR_VERSION),
            ));
            let mut ops = Vec::new();
            loop {
                let op = tokio::time::timeout(Duration::from_secs(5), op_rx.recv())
                    .await
                    .expect("the event thread sends before it waits")
                    .expect("the event thread holds the sink");
                let sent = op == Op::Send;
                ops.push(op);
                if sent {
                    break;
                }
            }
            let mut want: Vec<Op> = (0..k).map(|_| Op::Stage(CA_PROTO_SERVER_DISCONN)).collect();
            want.push(Op::Send);
            assert_eq!(ops, want, "{k} ready frames: staged, then one send");

            drop(ctl_tx);
            task.await.expect("event task ends when the sender drops");
        }
    }

    /// A frame staged just before the control sender drops still reaches
    /// the wire: the task ends without ever waiting, so only its exit path
    /// can send it.
    // RTEMS-EXEC-MODEL-ALLOW(1): drives `run_event_task` on the test runtime
    // with a recording sink, no socket.
    #[tokio::test]
    async fn r3_probe_staged_frames_reach_the_wire_when_the_control_sender_drops() {
        use epics_base_rs::server::event_queue::EventUser;

        // The retirement and the sender's drop are both pending before the
        // task first runs, so it stages the retirement and then sees `None`.
        let destroyed = DestroyedCids::default();
        destroyed.destroy(7);
        let (ctl_tx, ctl_rx) = tokio::sync::mpsc::unbounded_channel::<EventTaskControl>();
        drop(ctl_tx);

        let (op_tx, mut op_rx) = tokio::sync::mpsc::unbounded_channel();
        run_event_task(
            Arc::new(EventUser::new()),
            ctl_rx,
            destroyed,
            Record(op_tx),
            crate::server::tcp::CircuitMinor::new(crate::protocol::CA_MINOR_VERSION),
        )
        .await;
        let mut ops = Vec::new();
        while let Ok(op) = op_rx.try_recv() {
            ops.push(op);
        }
        assert_eq!(ops, [Op::Stage(CA_PROTO_SERVER_DISCONN), Op::Send]);
    }

    /// One CA header as the wire carries it.
    #[cfg(tokio_backend)]
    fn wire_hdr(
        cmmd: u16,
        postsize: u16,
        data_type: u16,
        count: u16,
        cid: u32,
        available: u32,
    ) -> Vec<u8> {
        let mut h = CaHeader::new(cmmd);
        h.postsize = postsize;
        h.data_type = data_type;
        h.count = count;
        h.cid = cid;
        h.available = available;
        h.to_bytes().to_vec()
    }

    /// The `CA_PROTO_ERROR` echoing `request`'s header, with `diag` if any.
    #[cfg(tokio_backend)]
    fn error_reply(request: &[u8], status: u32, diag: Option<&str>) -> Vec<u8> {
        let mut body = request[..CaHeader::SIZE].to_vec();
        if let Some(diag) = diag {
            body.extend_from_slice(diag.as_bytes());
            body.push(0);
        }
        body.resize(align8(body.len()), 0);
        let mut frame = wire_hdr(CA_PROTO_ERROR, body.len() as u16, 0, 0, u32::MAX, status);
        frame.extend_from_slice(&body);
        frame
    }

    /// The next whole frame, or `None` once the server has closed.
    #[cfg(tokio_backend)]
    async fn next_frame<R: tokio::io::AsyncRead + Unpin>(client: &mut R) -> Option<Vec<u8>> {
        let mut frame = vec![0u8; CaHeader::SIZE];
        let read = tokio::time::timeout(Duration::from_secs(3), client.read_exact(&mut frame))
            .await
            .expect("a frame or the close within 3 s");
        read.ok()?;
        let postsize = usize::from(u16::from_be_bytes([frame[2], frame[3]]));
        frame.resize(CaHeader::SIZE + postsize, 0);
        client
            .read_exact(&mut frame[CaHeader::SIZE..])
            .await
            .expect("frame body");
        Some(frame)
    }

    /// A circuit whose channel on `name` the server has retired, and its
    /// sid. The ACF sender is held: its drop ends the circuit.
    #[cfg(tokio_backend)]
    async fn retired_circuit(
        db: &Arc<PvDatabase>,
        name: &str,
        peer: SocketAddr,
    ) -> (
        tokio::io::DuplexStream,
        (tokio::task::JoinHandle<CaResult<()>>, broadcast::Sender<()>),
        u32,
    ) {
        db.add_pv(name, EpicsValue::Double(1.0))
            .await
            .expect("add pv");
        let (mut client, _conn_rx, acf_tx, handle) = spawn_server(db.clone(), peer);
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(0x4444_4444, name))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        db.remove_simple_pv(name).await.expect("was there");
        read_until_cmmd(&mut client, CA_PROTO_SERVER_DISCONN, Duration::from_secs(3)).await;
        (client, (handle, acf_tx), sid)
    }

    /// The br3 race: the gateway's EVENT_ADD crosses the
    /// `CA_PROTO_SERVER_DISCONN` retiring its channel. PCAS `eventAddAction`
    /// answers ECA_BADCHID and keeps the circuit (`casStrmClient.cc:2023`);
    /// rsrv's bad-resource-id disconnect cost the gateway ~10 s to reconnect.
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_event_add_crossing_server_disconn_keeps_the_circuit() {
        let db = Arc::new(PvDatabase::new());
        let peer: SocketAddr = "127.0.0.1:55305".parse().unwrap();
        let (mut client, handle, sid) = retired_circuit(&db, "BR3:race", peer).await;

        let add = event_add_frame(sid, 1);
        client.write_all(&add).await.expect("event_add");
        assert_eq!(
            next_frame(&mut client).await,
            Some(error_reply(&add, ECA_BADCHID, None))
        );
        client
            .write_all(&wire_hdr(CA_PROTO_ECHO, 0, 0, 0, 0, 0))
            .await
            .expect("echo");
        let echo = next_frame(&mut client).await.expect("the circuit is kept");
        assert_eq!(u16::from_be_bytes([echo[0], echo[1]]), CA_PROTO_ECHO);

        drop(client);
        handle.0.abort();
    }

    /// Each request on a retired sid, answered as PCAS v4.13.3 `excas`
    /// answers a sid its `chanTable` does not hold (captured on the wire).
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn each_request_on_a_retired_sid_gets_the_pcas_answer() {
        const FILE: &str = "../../../../src/pcas/generic/casStrmClient.cc";
        let logged = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = logged.clone();
        let listener = epics_base_rs::runtime::log::errlog_add_listener(move |line| {
            if line.contains(FILE) {
                sink.lock().unwrap().push(line.to_string());
            }
        });
        let db = Arc::new(PvDatabase::new());
        let peer: SocketAddr = "127.0.0.1:55306".parse().unwrap();
        let (mut client, handle, sid) = retired_circuit(&db, "BR3:pcas", peer).await;
        let double = 1.0f64.to_be_bytes();
        let mut mon_info = vec![0u8; 16];
        mon_info[12..14].copy_from_slice(&5u16.to_be_bytes());
        let with = |hdr: Vec<u8>, payload: &[u8]| [hdr, payload.to_vec()].concat();
        let get = Some("get request");
        let bad_id = |line| format!("Bad Resource ID={sid} detected at {FILE}.{line}");

        let read = wire_hdr(CA_PROTO_READ, 0, 6, 1, sid, 7);
        let write = with(wire_hdr(CA_PROTO_WRITE, 8, 6, 1, sid, 7), &double);
        let add = with(wire_hdr(CA_PROTO_EVENT_ADD, 16, 6, 1, sid, 9), &mon_info);
        let clear = wire_hdr(CA_PROTO_CLEAR_CHANNEL, 0, 0, 0, sid, 0x55);
        // `verifyRequest` looks the sid up before it reads the type.
        let add_bad_type = with(wire_hdr(CA_PROTO_EVENT_ADD, 16, 39, 1, sid, 9), &mon_info);
        let cases: [(Vec<u8>, Vec<Vec<u8>>); 9] = [
            (read.clone(), vec![error_reply(&read, ECA_BADCHID, get)]),
            (
                wire_hdr(CA_PROTO_READ_NOTIFY, 0, 6, 1, sid, 7),
                vec![with(
                    wire_hdr(CA_PROTO_READ_NOTIFY, 8, 6, 1, ECA_BADCHID, 7),
                    &[0; 8],
                )],
            ),
            (
                wire_hdr(CA_PROTO_READ_NOTIFY, 0, 0, 1, sid, 7),
                vec![with(
                    wire_hdr(CA_PROTO_READ_NOTIFY, 40, 0, 1, ECA_BADCHID, 7),
                    &[0; 40],
                )],
            ),
            (write.clone(), vec![error_reply(&write, ECA_BADCHID, get)]),
            (
                with(wire_hdr(CA_PROTO_WRITE_NOTIFY, 8, 6, 1, sid, 7), &double),
                vec![wire_hdr(CA_PROTO_WRITE_NOTIFY, 0, 6, 1, ECA_BADCHID, 7)],
            ),
            (add.clone(), vec![error_reply(&add, ECA_BADCHID, None)]),
            (
                wire_hdr(CA_PROTO_READ_NOTIFY, 0, 39, 1, sid, 7),
                vec![wire_hdr(CA_PROTO_READ_NOTIFY, 0, 39, 1, ECA_BADCHID, 7)],
            ),
            (
                add_bad_type.clone(),
                vec![error_reply(&add_bad_type, ECA_BADCHID, None)],
            ),
            (
                clear.clone(),
                vec![
                    clear.clone(),
                    error_reply(&clear, ECA_BADCHID, Some(&bad_id(2151))),
                ],
            ),
        ];
        for (request, want) in cases {
            client.write_all(&request).await.expect("request");
            for frame in want {
                assert_eq!(next_frame(&mut client).await, Some(frame), "{request:02x?}");
            }
        }
        // `eventCancelAction` alone ends the circuit.
        let cancel = wire_hdr(CA_PROTO_EVENT_CANCEL, 0, 6, 1, sid, 9);
        client.write_all(&cancel).await.expect("event_cancel");
        assert_eq!(
            next_frame(&mut client).await,
            Some(error_reply(&cancel, ECA_BADCHID, Some(&bad_id(2257))))
        );
        assert_eq!(
            next_frame(&mut client).await,
            None,
            "closed after EVENT_CANCEL"
        );
        epics_base_rs::runtime::log::errlog_remove_listener(listener);
        assert_eq!(
            *logged.lock().unwrap(),
            [2151, 2257].map(|line| format!("CAS: bad resource id in \"{FILE}\" at line {line}\n"))
        );
        handle.0.abort();
    }

    /// A request on a simple PV's channel that PCAS `verifyRequest`
    /// (`casStrmClient.cc:401-431`) refuses for its type or count gets the
    /// handler's answer with the channel's cid, and the circuit is kept. The
    /// channel holds one element; READ_NOTIFY and EVENT_ADD admit a count of
    /// zero from a v4.13 client, the writes never.
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_pcas_verify_refuses_on_a_simple_pv_keeps_the_circuit() {
        const CID: u32 = 0x4444_4444;
        let db = Arc::new(PvDatabase::new());
        db.add_pv("BR3:verify", EpicsValue::Double(1.0))
            .await
            .expect("add pv");
        let peer: SocketAddr = "127.0.0.1:55392".parse().unwrap();
        let (mut client, _conn_rx, _acf_tx, handle) = spawn_server(db.clone(), peer);
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(CID, "BR3:verify"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;

        let double = 1.0f64.to_be_bytes();
        let two = [double, double].concat();
        let mut mon_info = vec![0u8; 16];
        mon_info[12..14].copy_from_slice(&5u16.to_be_bytes());
        let with = |hdr: Vec<u8>, payload: &[u8]| [hdr, payload.to_vec()].concat();
        // `sendErr` names the channel's cid.
        let refused = |request: &[u8], status: u32, diag: Option<&str>| {
            let mut frame = error_reply(request, status, diag);
            frame[8..12].copy_from_slice(&CID.to_be_bytes());
            frame
        };
        let get = Some("get request");

        let read_type = wire_hdr(CA_PROTO_READ, 0, 39, 1, sid, 7);
        let write_type = with(wire_hdr(CA_PROTO_WRITE, 8, 39, 1, sid, 7), &double);
        let write_zero = wire_hdr(CA_PROTO_WRITE, 0, 6, 0, sid, 7);
        let add_type = with(wire_hdr(CA_PROTO_EVENT_ADD, 16, 39, 1, sid, 9), &mon_info);
        let add_two = with(wire_hdr(CA_PROTO_EVENT_ADD, 16, 6, 2, sid, 9), &mon_info);
        let cases: [(Vec<u8>, Vec<u8>); 10] = [
            (read_type.clone(), refused(&read_type, ECA_BADTYPE, get)),
            (
                wire_hdr(CA_PROTO_READ_NOTIFY, 0, 39, 1, sid, 7),
                wire_hdr(CA_PROTO_READ_NOTIFY, 0, 39, 1, ECA_BADTYPE, 7),
            ),
            // The zeros stop at the channel's count, as `answer_pcas_refusal`
            // says.
            (
                wire_hdr(CA_PROTO_READ_NOTIFY, 0, 6, 2, sid, 7),
                with(
                    wire_hdr(CA_PROTO_READ_NOTIFY, 8, 6, 1, ECA_BADCOUNT, 7),
                    &[0; 8],
                ),
            ),
            (
                wire_hdr(CA_PROTO_READ_NOTIFY, 0, 6, 0, sid, 7),
                with(
                    wire_hdr(CA_PROTO_READ_NOTIFY, 8, 6, 1, ECA_NORMAL, 7),
                    &double,
                ),
            ),
            (write_type.clone(), refused(&write_type, ECA_BADTYPE, get)),
            (write_zero.clone(), refused(&write_zero, ECA_BADCOUNT, get)),
            (
                with(wire_hdr(CA_PROTO_WRITE_NOTIFY, 16, 6, 2, sid, 7), &two),
                wire_hdr(CA_PROTO_WRITE_NOTIFY, 0, 6, 2, ECA_BADCOUNT, 7),
            ),
            (
                wire_hdr(CA_PROTO_WRITE_NOTIFY, 0, 6, 0, sid, 7),
                wire_hdr(CA_PROTO_WRITE_NOTIFY, 0, 6, 0, ECA_BADCOUNT, 7),
            ),
            (add_type.clone(), refused(&add_type, ECA_BADTYPE, None)),
            (add_two.clone(), refused(&add_two, ECA_BADCOUNT, None)),
        ];
        for (request, want) in cases {
            client.write_all(&request).await.expect("request");
            assert_eq!(next_frame(&mut client).await, Some(want), "{request:02x?}");
        }
        client
            .write_all(&wire_hdr(CA_PROTO_ECHO, 0, 0, 0, 0, 0))
            .await
            .expect("echo");
        let echo = next_frame(&mut client).await.expect("the circuit is kept");
        assert_eq!(u16::from_be_bytes([echo[0], echo[1]]), CA_PROTO_ECHO);

        drop(client);
        handle.abort();
    }

    /// A sid this circuit never issued still gets softIoc's answer beside a
    /// retired one: ECA_INTERNAL "Bad Resource ID" and the disconnect.
    #[cfg(tokio_backend)]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_garbage_sid_beside_a_retired_one_gets_the_softioc_answer() {
        let db = Arc::new(PvDatabase::new());
        let peer: SocketAddr = "127.0.0.1:55307".parse().unwrap();
        let (mut client, handle, _retired) = retired_circuit(&db, "BR3:garbage", peer).await;

        let add = event_add_frame(0xFFFF_FFF0, 1);
        client.write_all(&add).await.expect("event_add");
        assert_eq!(
            next_frame(&mut client).await,
            Some(error_reply(
                &add,
                ECA_INTERNAL,
                Some("Bad Resource ID at ../rsrv/camessage.c.1825")
            ))
        );
        assert_eq!(
            next_frame(&mut client).await,
            None,
            "softIoc ends the circuit"
        );
        handle.0.abort();
    }

    /// An EVENT_ADD on a channel whose PV is destroyed but not yet swept
    /// sends nothing: the sweep's `CA_PROTO_SERVER_DISCONN` answers it, as
    /// PCAS's queued `channelDestroyEvent` follows a request it accepted.
    #[cfg(tokio_backend)]
    #[tokio::test]
    async fn an_event_add_on_an_unswept_destroyed_channel_is_left_to_the_retirement() {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("BR3:unswept", EpicsValue::Double(1.0))
            .await
            .expect("add pv");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let mut state = ClientState::new(acf, 5064, db.clone());
        let (outbox, mut drain) = crate::server::outbox::channel();
        let peer: SocketAddr = "127.0.0.1:55308".parse().unwrap();
        let version = CaHeader::from_bytes(&version_frame()).expect("header");
        let create = create_chan_frame(0x1234, "BR3:unswept");
        let create_hdr = CaHeader::from_bytes(&create).expect("header");
        for (hdr, payload) in [(version, &[][..]), (create_hdr, &create[CaHeader::SIZE..])] {
            dispatch_message(
                &hdr,
                payload,
                &mut state,
                &db,
                &outbox,
                peer,
                None,
                SubscriptionDelivery::HandOff,
            )
            .await
            .expect("dispatch");
        }
        let sid = *state.channels.keys().next().expect("the channel");
        while drain.try_next().is_some() {}
        db.remove_simple_pv("BR3:unswept").await.expect("was there");

        let add = event_add_frame(sid, 1);
        let outcome = register_subscription(
            &CaHeader::from_bytes(&add).expect("header"),
            &add[CaHeader::SIZE..],
            &state,
            &outbox,
            SubscriptionDelivery::HandOff,
            || 0,
        )
        .await;
        assert!(matches!(outcome, Ok(SubscriptionOutcome::ChannelGone)));
        assert!(drain.try_next().is_none(), "nothing on the wire");
    }

    /// [`EventTaskControl::Sweep`] is answered after the retirements it
    /// finds are staged, though no wake-up announced them: a postponing PV is
    /// signalled by its destroy before the destroy's wake-up is sent, and the
    /// request it held must run again behind the `CA_PROTO_SERVER_DISCONN`.
    // RTEMS-EXEC-MODEL-ALLOW(1): drives `run_event_task` on the test runtime
    // with a recording sink, no socket.
    #[tokio::test]
    async fn a_sweep_request_is_answered_after_the_retirements_it_finds() {
        use epics_base_rs::server::event_queue::EventUser;

        /// Records each staged frame with whether the sweep was answered yet.
        struct AckSeen {
            swept: tokio::sync::oneshot::Receiver<()>,
            staged: Vec<(u16, bool)>,
        }
        impl EventSink for &mut AckSeen {
            fn stage(&mut self, bytes: &[u8]) -> std::io::Result<()> {
                let answered = self.swept.try_recv().is_ok();
                self.staged
                    .push((u16::from_be_bytes([bytes[0], bytes[1]]), answered));
                Ok(())
            }
            fn send(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }

        let destroyed = DestroyedCids::default();
        destroyed.destroy_unannounced(7);
        let (ack, swept) = tokio::sync::oneshot::channel();
        let mut sink = AckSeen {
            swept,
            staged: Vec::new(),
        };
        let (ctl_tx, ctl_rx) = tokio::sync::mpsc::unbounded_channel();
        ctl_tx
            .send(EventTaskControl::Sweep(ack))
            .expect("receiver is held");
        drop(ctl_tx);
        run_event_task(
            Arc::new(EventUser::new()),
            ctl_rx,
            destroyed,
            &mut sink,
            crate::server::tcp::CircuitMinor::new(crate::protocol::CA_MINOR_VERSION),
        )
        .await;
        assert_eq!(sink.staged, [(CA_PROTO_SERVER_DISCONN, false)]);
        assert!(sink.swept.try_recv().is_ok(), "the sweep is answered");
    }
}

#[cfg(tokio_backend)]
#[cfg(test)]
mod cancel_confirmation_ordering_tests {
    //! C `event_cancel_reply` (`rsrv/camessage.c:2022-2040`) runs
    //! `db_cancel_event` — which nulls `pevent->user_sub` under LOCKEVQUE and
    //! waits out any callback already in progress — BEFORE it takes SEND_LOCK
    //! to write the delete-confirmed echo. So a CA client can never see an
    //! `EVENT_ADD` update for a subscription after that subscription's cancel
    //! confirmation, and every update still queued for it is discarded.
    //!
    //! The port's producer runs on its own task, `abort()` only lands at the
    //! next await point, and the confirmation used to be pushed before the
    //! teardown ran at all — so an update could be enqueued behind the echo.
    //! [`MonitorGate`](crate::server::outbox::MonitorGate) is the barrier;
    //! this exercises it through the real dispatch path over a socket.
    use super::non_graceful_disconnect_teardown_tests::{
        create_chan_frame, event_add_frame, read_create_chan_sid, version_frame,
    };
    use super::*;
    use epics_base_rs::server::database::PvDatabase;
    use epics_base_rs::types::EpicsValue;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Build a CA_PROTO_EVENT_CANCEL for `sub_id` on `sid`, echoing the
    /// EVENT_ADD's type/count as libca does.
    fn event_cancel_frame(sid: u32, sub_id: u32) -> Vec<u8> {
        let mut h = CaHeader::new(CA_PROTO_EVENT_CANCEL);
        h.data_type = epics_base_rs::types::DBR_TIME_DOUBLE;
        h.count = 1;
        h.cid = sid;
        h.available = sub_id;
        h.to_bytes().to_vec()
    }

    /// Split a byte stream into (cmmd, available, payload_len) triples.
    fn frames(acc: &[u8]) -> Vec<(u16, u32, usize)> {
        let mut out = Vec::new();
        let mut off = 0;
        while off + CaHeader::SIZE <= acc.len() {
            let Ok((hdr, hdr_size)) = CaHeader::from_bytes_extended(&acc[off..]) else {
                break;
            };
            let len = hdr_size + hdr.actual_postsize();
            if off + len > acc.len() {
                break;
            }
            out.push((hdr.cmmd, hdr.available, hdr.actual_postsize()));
            off += len;
        }
        out
    }

    /// A monitor update MUST NOT follow its own EVENT_CANCEL confirmation.
    ///
    /// The confirmation is the zero-payload `CA_PROTO_EVENT_ADD` echo; a real
    /// delivery on a DBR_TIME_DOUBLE monitor always carries a payload, so the
    /// two are distinguishable on the wire. Each round posts a burst while the
    /// cancel is in flight, which is the window the barrier closes: without it
    /// the event task is inside a delivery when the connection loop queues
    /// the echo, and the frame lands behind it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_monitor_update_follows_its_cancel_confirmation() {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("cancel:mon", EpicsValue::Double(0.0))
            .await
            .expect("add pv");
        let pv = db.find_pv("cancel:mon").expect("pv present");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);

        let (client_io, server_io) = tokio::io::duplex(1 << 20);
        let peer: SocketAddr = "127.0.0.1:55931".parse().unwrap();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                None,
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });

        let mut client = client_io;
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(0xC1, "cancel:mon"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;

        // One subscription per round, so a round's cancel cannot be confused
        // with the next round's deliveries.
        const ROUNDS: u32 = 40;
        for sub_id in 1..=ROUNDS {
            client
                .write_all(&event_add_frame(sid, sub_id))
                .await
                .expect("event_add");
            client.flush().await.expect("flush add");
            // Let the subscription install and its initial value go out.
            tokio::task::yield_now().await;
            // Post while the cancel is on its way: this is what puts the
            // producer inside a delivery at the moment the echo is queued.
            for i in 0..64 {
                pv.set(EpicsValue::Double(f64::from(i)));
            }
            client
                .write_all(&event_cancel_frame(sid, sub_id))
                .await
                .expect("event_cancel");
            client.flush().await.expect("flush cancel");

            // Read until this round's confirmation has been seen and the
            // stream has gone quiet, so a late frame has had its chance.
            let mut acc: Vec<u8> = Vec::new();
            let mut buf = [0u8; 8192];
            let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
            loop {
                let seen = frames(&acc);
                let confirmed = seen
                    .iter()
                    .any(|&(c, a, len)| c == CA_PROTO_EVENT_ADD && a == sub_id && len == 0);
                let remaining = if confirmed {
                    Duration::from_millis(50)
                } else {
                    deadline.saturating_duration_since(tokio::time::Instant::now())
                };
                assert!(
                    confirmed || !remaining.is_zero(),
                    "round {sub_id}: no EVENT_CANCEL confirmation within the deadline"
                );
                match tokio::time::timeout(remaining, client.read(&mut buf)).await {
                    Ok(Ok(0)) => break,
                    Ok(Ok(n)) => acc.extend_from_slice(&buf[..n]),
                    Ok(Err(e)) => panic!("round {sub_id}: read error {e}"),
                    // Quiet for the settle window after the confirmation.
                    Err(_) if confirmed => break,
                    Err(_) => panic!("round {sub_id}: timed out before the confirmation"),
                }
            }

            let seen = frames(&acc);
            let confirm_at = seen
                .iter()
                .position(|&(c, a, len)| c == CA_PROTO_EVENT_ADD && a == sub_id && len == 0)
                .unwrap_or_else(|| panic!("round {sub_id}: confirmation never arrived"));
            let late = seen[confirm_at + 1..]
                .iter()
                .find(|&&(c, a, len)| c == CA_PROTO_EVENT_ADD && a == sub_id && len > 0);
            assert!(
                late.is_none(),
                "round {sub_id}: monitor update {late:?} arrived after its own \
                 EVENT_CANCEL confirmation; C `db_cancel_event` makes that \
                 impossible (frames: {seen:?})"
            );
        }

        drop(client);
        handle.abort();
    }
    /// Under overflow a CA client must still converge on the newest value,
    /// and must not be handed one frame per post.
    ///
    /// C never drops a value monitor's update on a full ring: the quota
    /// reserves a free slot (`dbEvent.c:833`) and `db_queue_event_log`
    /// replaces the monitor's LAST queued entry in place once the ring is
    /// within `EVENTSPERQUE` of full (`dbEvent.c:812-852`), so a client that
    /// stops reading sees fewer frames, never a gap and never a stale tail.
    /// The port's producer is a task per subscription rather than C's one
    /// event task, so this drives the whole path — outbox credit, the parked
    /// producer, the ring's replace branch — and asserts the two properties a
    /// client can actually observe.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_that_stops_reading_still_converges_on_the_newest_value() {
        const POSTS: u32 = 5_000;

        let db = Arc::new(PvDatabase::new());
        db.add_pv("overflow:mon", EpicsValue::Double(0.0))
            .await
            .expect("add pv");
        let pv = db.find_pv("overflow:mon").expect("pv present");
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);

        // Small enough that the server's writer blocks almost at once, which
        // is what parks the producer and pushes the backlog into the ring.
        let (client_io, server_io) = tokio::io::duplex(4096);
        let peer: SocketAddr = "127.0.0.1:55932".parse().unwrap();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                None,
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });

        let mut client = client_io;
        client.write_all(&version_frame()).await.expect("version");
        client
            .write_all(&create_chan_frame(0xE1, "overflow:mon"))
            .await
            .expect("create_chan");
        client.flush().await.expect("flush");
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;

        let sub_id = 7;
        client
            .write_all(&event_add_frame(sid, sub_id))
            .await
            .expect("event_add");
        client.flush().await.expect("flush add");

        // Wait for the initial `db_post_single_event` snapshot, so the burst
        // below is measured against a subscription that is actually attached.
        let mut acc: Vec<u8> = Vec::new();
        let mut buf = [0u8; 8192];
        while !acc
            .windows(2)
            .any(|w| u16::from_be_bytes([w[0], w[1]]) == CA_PROTO_EVENT_ADD)
        {
            let n = tokio::time::timeout(Duration::from_secs(3), client.read(&mut buf))
                .await
                .expect("initial monitor value within the deadline")
                .expect("read ok");
            assert!(n > 0, "server closed before the initial monitor value");
            acc.extend_from_slice(&buf[..n]);
        }

        // Post without reading a byte. The producer parks on outbox credit
        // after the first few frames; every later post coalesces in the ring.
        for i in 1..=POSTS {
            pv.set(EpicsValue::Double(f64::from(i)));
            if i % 256 == 0 {
                tokio::task::yield_now().await;
            }
        }

        // Now read until the stream goes quiet.
        loop {
            match tokio::time::timeout(Duration::from_millis(300), client.read(&mut buf)).await {
                Ok(Ok(0)) | Err(_) => break,
                Ok(Ok(n)) => acc.extend_from_slice(&buf[..n]),
                Ok(Err(e)) => panic!("read error {e}"),
            }
        }

        // Decode every DBR_TIME_DOUBLE monitor payload: status/severity/stamp
        // occupy the first 16 bytes, the value the last 8.
        let mut values: Vec<f64> = Vec::new();
        let mut off = 0;
        while off + CaHeader::SIZE <= acc.len() {
            let Ok((hdr, hdr_size)) = CaHeader::from_bytes_extended(&acc[off..]) else {
                break;
            };
            let len = hdr_size + hdr.actual_postsize();
            if off + len > acc.len() {
                break;
            }
            if hdr.cmmd == CA_PROTO_EVENT_ADD
                && hdr.available == sub_id
                && hdr.actual_postsize() == 24
            {
                let body = &acc[off + hdr_size..off + len];
                values.push(f64::from_be_bytes(body[16..24].try_into().unwrap()));
            }
            off += len;
        }

        assert!(!values.is_empty(), "the subscription delivered nothing");
        assert_eq!(
            values[0], 0.0,
            "delivery starts at the EVENT_ADD snapshot, not partway in"
        );
        // Replacing the LAST queued entry never reorders what is already
        // queued, so the values a client sees are monotonic even though most
        // of them were coalesced away. A side slot holding "the newest" would
        // break this by delivering a newer value ahead of a queued older one.
        assert!(
            values.windows(2).all(|w| w[0] < w[1]),
            "monitor values must arrive in post order, got {values:?}"
        );
        assert_eq!(
            *values.last().unwrap(),
            f64::from(POSTS),
            "a coalescing queue must still leave the client on the newest \
             value; got {:?} (last 8 of {})",
            &values[values.len().saturating_sub(8)..],
            values.len()
        );
        // Bound: C's ring is 144 entries with 4 reserved for this monitor, and
        // the outbox holds 64 more. Anything near POSTS means nothing
        // coalesced and the server queued one frame per post.
        assert!(
            values.len() < 1_000,
            "{POSTS} posts produced {} frames — the ring is not coalescing",
            values.len()
        );

        drop(client);
        handle.abort();
    }
}

#[cfg(test)]
mod snapshot_scan_lock_tests {
    //! The CA server's record-field snapshot reads (initial monitor event,
    //! one-shot GET, access re-post) serialise against `dbPutField` through the
    //! record's `dbScanLock` analogue (L1), exactly as C's `dbGet`/
    //! `db_post_single_event` do — so a snapshot can never capture a put's new
    //! VAL beside the pre-put TIME.

    use epics_base_rs::server::database::PvDatabase;
    use epics_base_rs::server::database::channel_io::record_field_snapshot_scan_locked;
    use epics_base_rs::server::records::ai::AiRecord;
    use epics_base_rs::types::EpicsValue;
    use std::sync::{Arc, Barrier};
    use std::time::Duration;

    /// A put commits VAL under one record write-lock and stamps TIME under a
    /// SECOND — `put_record_field_from_ca_body` drops the put guard between them
    /// (`field_io.rs`), and only L1, held across the whole put+process by
    /// `acquire_put_gate`, spans both. A snapshot that took only the record's
    /// `RwLock` reads VAL and TIME atomically w.r.t. each other but not w.r.t.
    /// the put: landing in that gap it captures the new VAL with the stale TIME
    /// — the torn `(newVAL, oldTIME)` initial subscription event this fix
    /// closes. The reader below is released the instant the writer has committed
    /// the new VAL under L1 but not yet stamped TIME; taking L1,
    /// `record_field_snapshot_scan_locked` must block behind the whole put and
    /// so observe the post-stamp `(newVAL, newTIME)`, never the tear. Without
    /// the L1 acquisition it reads straight through the open window and the
    /// timestamp assertion fails.
    #[epics_macros_rs::epics_test]
    async fn initial_snapshot_never_tears_val_from_time_across_a_put() {
        let db = Arc::new(PvDatabase::new());
        db.add_record("SCAN:ai", Box::new(AiRecord::new(1.0)))
            .await
            .unwrap();
        let rec = db.get_record("SCAN:ai").expect("record");

        // Capture how the snapshot renders each of the two stamps, so the
        // assertion names the exact `WallTime` a torn read could not produce —
        // independent of whatever `set_val` does to `common.time`.
        let t0 = epics_base_rs::types::WallTime::from_unix(1_000, 0);
        let t1 = epics_base_rs::types::WallTime::from_unix(2_000, 0);
        let stamp = |t: epics_base_rs::types::WallTime| {
            rec.write().common.time = t;
            record_field_snapshot_scan_locked(&db, &rec, "VAL", false)
                .expect("snapshot")
                .timestamp
        };
        let stale_ts = stamp(t0);
        let fresh_ts = stamp(t1);
        assert_ne!(stale_ts, fresh_ts, "the two stamps must render differently");

        // Pre-race state: old VAL, old TIME.
        {
            let mut inst = rec.write();
            inst.record.set_val(EpicsValue::Double(1.0)).unwrap();
            inst.common.time = t0;
        }

        let barrier = Arc::new(Barrier::new(2));
        let writer = {
            let db = db.clone();
            let rec = rec.clone();
            let barrier = barrier.clone();
            std::thread::spawn(move || {
                // L1 spans lock A .. lock B, as `acquire_put_gate` does.
                let _l1 = db.lock_record("SCAN:ai");
                {
                    // lock A: VAL only.
                    rec.write().record.set_val(EpicsValue::Double(2.0)).unwrap();
                }
                // New VAL committed, TIME still t0, L1 held: open the window.
                barrier.wait();
                // Widen it so an L1-less reader would certainly land inside.
                std::thread::sleep(Duration::from_millis(100));
                {
                    // lock B: TIME stamp, closing the put.
                    rec.write().common.time = t1;
                }
                // _l1 dropped here.
            })
        };

        barrier.wait();
        let snap =
            record_field_snapshot_scan_locked(&db, &rec, "VAL", false).expect("raced snapshot");
        writer.join().expect("writer thread");

        assert_eq!(
            snap.value,
            EpicsValue::Double(2.0),
            "the put's new VAL is visible"
        );
        assert_eq!(
            snap.timestamp, fresh_ts,
            "the snapshot must carry the put's stamped TIME, not the pre-put one \
             — L1 serialises the read behind the whole put+process"
        );
    }
}

#[cfg(tokio_backend)]
#[cfg(test)]
mod string_as_enum_getfail_tests {
    //! A scalar `DBF_STRING` read as `DBR_ENUM` goes through `cvt_st_e`
    //! (`dbFastLinkConv.c:247`), which needs the record's `put_enum_str`;
    //! stringin has none, so `dbChannel_get` fails and RSRV answers
    //! ECA_GETFAIL. Every expectation below is softIoc R7.0.10-146-g8f5015b66
    //! serving `record(stringin,"SI"){field(VAL,"abc")}` and
    //! `record(stringin,"SN"){field(VAL,"3")}` to a raw socket.
    use super::non_graceful_disconnect_teardown_tests::{
        create_chan_frame, read_create_chan_sid, version_frame,
    };
    use super::*;
    use epics_base_rs::server::database::PvDatabase;
    use epics_base_rs::server::records::stringin::StringinRecord;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const DBR_FLOAT: u16 = 2;
    const DBR_ENUM: u16 = 3;
    const DBR_STS_ENUM: u16 = 10;
    const DBR_CTRL_ENUM: u16 = 31;

    fn request(cmmd: u16, sid: u32, ioid: u32, data_type: u16, body: &[u8]) -> Vec<u8> {
        let mut h = CaHeader::new(cmmd);
        h.data_type = data_type;
        h.cid = sid;
        h.available = ioid;
        h.set_payload_size(body.len(), 1, crate::protocol::CA_MINOR_VERSION)
            .unwrap();
        let mut frame = h.to_bytes_extended().to_vec();
        frame.extend_from_slice(body);
        frame
    }

    /// EVENT_ADD body: three zero deadbands, mask DBE_VALUE | DBE_ALARM.
    const EVENT_ADD_BODY: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0];

    async fn next_frame(
        client: &mut tokio::io::DuplexStream,
        acc: &mut Vec<u8>,
    ) -> (CaHeader, Vec<u8>) {
        loop {
            if acc.len() >= CaHeader::SIZE {
                let (hdr, hdr_size) = CaHeader::from_bytes_extended(acc).unwrap();
                let len = hdr_size + hdr.actual_postsize();
                if acc.len() >= len {
                    let payload = acc[hdr_size..len].to_vec();
                    acc.drain(..len);
                    return (hdr, payload);
                }
            }
            let mut buf = [0u8; 1024];
            let n = tokio::time::timeout(Duration::from_secs(3), client.read(&mut buf))
                .await
                .expect("reply within 3 s")
                .unwrap();
            assert!(n > 0, "server closed the circuit");
            acc.extend_from_slice(&buf[..n]);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stringin_read_as_dbr_enum_is_getfail() {
        let db = Arc::new(PvDatabase::new());
        db.add_record("SI", Box::new(StringinRecord::new("abc")))
            .await
            .unwrap();
        db.add_record("SN", Box::new(StringinRecord::new("3")))
            .await
            .unwrap();
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (mut client, server_io) = tokio::io::duplex(1 << 16);
        let peer: SocketAddr = "127.0.0.1:55360".parse().unwrap();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                None,
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });
        client.write_all(&version_frame()).await.unwrap();
        for (cid, name, float_value) in [(1, "SI", None), (2, "SN", Some(3.0f32))] {
            client
                .write_all(&create_chan_frame(cid, name))
                .await
                .unwrap();
            client.flush().await.unwrap();
            let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
            let mut acc = Vec::new();

            client
                .write_all(&request(CA_PROTO_READ, sid, 7, DBR_ENUM, &[]))
                .await
                .unwrap();
            let (hdr, payload) = next_frame(&mut client, &mut acc).await;
            assert_eq!(
                (hdr.cmmd, hdr.cid, hdr.available),
                (CA_PROTO_ERROR, cid, ECA_GETFAIL),
                "{name} READ"
            );
            assert_eq!(&payload[16..], format!("{name}\0\0\0\0\0\0").as_bytes());

            for (cmmd, dt, size) in [
                (CA_PROTO_READ_NOTIFY, DBR_ENUM, 8),
                (CA_PROTO_READ_NOTIFY, DBR_STS_ENUM, 8),
                (CA_PROTO_READ_NOTIFY, DBR_CTRL_ENUM, 424),
                (CA_PROTO_EVENT_ADD, DBR_ENUM, 8),
            ] {
                let body: &[u8] = if cmmd == CA_PROTO_EVENT_ADD {
                    &EVENT_ADD_BODY
                } else {
                    &[]
                };
                client
                    .write_all(&request(cmmd, sid, 10 * cid, dt, body))
                    .await
                    .unwrap();
                let (hdr, payload) = next_frame(&mut client, &mut acc).await;
                assert_eq!(
                    (hdr.cmmd, hdr.data_type, hdr.cid, payload.len()),
                    (cmmd, dt, ECA_GETFAIL, size),
                    "{name} cmd {cmmd} type {dt}"
                );
                assert!(
                    payload.iter().all(|&b| b == 0),
                    "{name} cmd {cmmd} type {dt}"
                );
            }

            client
                .write_all(&request(CA_PROTO_READ_NOTIFY, sid, 9, DBR_FLOAT, &[]))
                .await
                .unwrap();
            let (hdr, payload) = next_frame(&mut client, &mut acc).await;
            match float_value {
                None => assert_eq!(hdr.cid, ECA_GETFAIL, "{name} DBR_FLOAT"),
                Some(v) => assert_eq!(
                    (hdr.cid, &payload[..4]),
                    (ECA_NORMAL, &v.to_be_bytes()[..]),
                    "{name} DBR_FLOAT"
                ),
            }

            // The update a put fans out to the DBR_ENUM subscription is the
            // same zeroed GETFAIL, and the subscription survives it.
            for text in [b"xyz", b"uvw"] {
                let mut value = [0u8; 40];
                value[..3].copy_from_slice(text);
                client
                    .write_all(&request(CA_PROTO_WRITE, sid, 0, 0, &value))
                    .await
                    .unwrap();
                let (hdr, payload) = next_frame(&mut client, &mut acc).await;
                assert_eq!(
                    (hdr.cmmd, hdr.cid, hdr.available, payload),
                    (CA_PROTO_EVENT_ADD, ECA_GETFAIL, 10 * cid, vec![0; 8]),
                    "{name} update"
                );
            }
        }
        handle.abort();
    }

    /// A bi's DESC read as `DBR_ENUM` answers the state its `put_enum_str`
    /// names, or a number below `no_str`; anything else is GETFAIL, on a
    /// READ_NOTIFY and on each monitor update. softIoc stores the state into
    /// `B.VAL` and replies the unwritten buffer — a defect not copied: the
    /// reply carries the index and `B.VAL` stays 0.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_state_name_read_as_dbr_enum_is_its_index() {
        use epics_base_rs::server::record::Record;
        use epics_base_rs::server::records::bi::BiRecord;
        use epics_base_rs::types::DBR_TIME_ENUM;
        let db = Arc::new(PvDatabase::new());
        let mut bi = BiRecord::new(0);
        bi.put_field("ZNAM", EpicsValue::String("Low".into()))
            .unwrap();
        bi.put_field("ONAM", EpicsValue::String("High".into()))
            .unwrap();
        db.add_record("B", Box::new(bi)).await.unwrap();
        db.put_pv("B.DESC", EpicsValue::String("High".into()))
            .await
            .unwrap();
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (mut client, server_io) = tokio::io::duplex(1 << 16);
        let peer: SocketAddr = "127.0.0.1:55361".parse().unwrap();
        let served = db.clone();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                served,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                None,
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });
        client.write_all(&version_frame()).await.unwrap();
        client
            .write_all(&create_chan_frame(1, "B.DESC"))
            .await
            .unwrap();
        client.flush().await.unwrap();
        let sid = read_create_chan_sid(&mut client, Duration::from_secs(3)).await;
        let mut acc = Vec::new();

        for (dt, at) in [(DBR_ENUM, 0), (DBR_TIME_ENUM, 14)] {
            client
                .write_all(&request(CA_PROTO_READ_NOTIFY, sid, 3, dt, &[]))
                .await
                .unwrap();
            let (hdr, payload) = next_frame(&mut client, &mut acc).await;
            assert_eq!(
                (hdr.cid, &payload[at..at + 2]),
                (ECA_NORMAL, &1u16.to_be_bytes()[..]),
                "type {dt}"
            );
        }

        client
            .write_all(&request(
                CA_PROTO_EVENT_ADD,
                sid,
                10,
                DBR_ENUM,
                &EVENT_ADD_BODY,
            ))
            .await
            .unwrap();
        let (hdr, payload) = next_frame(&mut client, &mut acc).await;
        assert_eq!((hdr.cid, &payload[..2]), (ECA_NORMAL, &[0, 1][..]));
        for (text, want) in [(&b"Low"[..], Some(0u16)), (b"7", None), (b"1", Some(1))] {
            let mut value = [0u8; 40];
            value[..text.len()].copy_from_slice(text);
            client
                .write_all(&request(CA_PROTO_WRITE, sid, 0, 0, &value))
                .await
                .unwrap();
            let (hdr, payload) = next_frame(&mut client, &mut acc).await;
            match want {
                Some(i) => assert_eq!(
                    (hdr.cid, &payload[..2]),
                    (ECA_NORMAL, &i.to_be_bytes()[..]),
                    "{text:?}"
                ),
                None => assert_eq!((hdr.cid, payload), (ECA_GETFAIL, vec![0; 8]), "{text:?}"),
            }
        }
        assert_eq!(db.get_pv("B").unwrap(), EpicsValue::Enum(0));
        handle.abort();
    }
}

#[cfg(tokio_backend)]
#[cfg(test)]
mod link_field_read_tests {
    //! `dbGet` reads a link field through `getLinkValue` and an attribute
    //! through `getAttrValue` (`dbAccess.c:817-895,944-952`), whatever the
    //! text: `DBR_STRING` and `DBR_CHAR` take the text, a link's `DBR_DOUBLE`
    //! is NaN, every other type is `S_db_badDbrtype`. softIoc
    //! R7.0.10-146-g8f5015b66 with AO, `AI.INP "AO"`, `AK.INP "5"`:
    //! `caget -d DBR_DOUBLE AI.INP` and `AK.INP` read nan, `-d DBR_FLOAT
    //! AK.INP` fails, `-d DBR_CHAR AI.INP` and `AI.RTYP` read 0, `-# 12 -d
    //! DBR_DOUBLE AI.INP$` reads `nan 0 0 ...`, `-# 12 -d DBR_LONG AI.INP$`
    //! fails; a DBR_DOUBLE monitor of AI.INP posts nan.
    use super::non_graceful_disconnect_teardown_tests::{
        create_chan_frame, read_create_chan_sid, version_frame,
    };
    use super::*;
    use epics_base_rs::types::{DBR_DOUBLE, DBR_STRING};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const DBR_FLOAT: u16 = 2;
    const DBR_CHAR: u16 = 4;
    const DBR_LONG: u16 = 5;

    fn request(cmmd: u16, sid: u32, ioid: u32, data_type: u16, count: u32, body: &[u8]) -> Vec<u8> {
        let mut h = CaHeader::new(cmmd);
        h.data_type = data_type;
        h.cid = sid;
        h.available = ioid;
        h.set_payload_size(body.len(), count, crate::protocol::CA_MINOR_VERSION)
            .unwrap();
        let mut frame = h.to_bytes_extended().to_vec();
        frame.extend_from_slice(body);
        frame
    }

    /// EVENT_ADD body: three zero deadbands, mask DBE_VALUE | DBE_ALARM.
    const EVENT_ADD_BODY: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0];

    async fn next_frame(
        client: &mut tokio::io::DuplexStream,
        acc: &mut Vec<u8>,
    ) -> (CaHeader, Vec<u8>) {
        loop {
            if acc.len() >= CaHeader::SIZE {
                let (hdr, hdr_size) = CaHeader::from_bytes_extended(acc).unwrap();
                let len = hdr_size + hdr.actual_postsize();
                if acc.len() >= len {
                    let payload = acc[hdr_size..len].to_vec();
                    acc.drain(..len);
                    return (hdr, payload);
                }
            }
            let mut buf = [0u8; 4096];
            let n = tokio::time::timeout(Duration::from_secs(3), client.read(&mut buf))
                .await
                .expect("reply within 3 s")
                .unwrap();
            assert!(n > 0, "server closed the circuit");
            acc.extend_from_slice(&buf[..n]);
        }
    }

    fn double(payload: &[u8], i: usize) -> f64 {
        f64::from_be_bytes(payload[8 * i..8 * i + 8].try_into().unwrap())
    }

    #[epics_macros_rs::epics_test]
    async fn a_link_or_attribute_reads_as_get_link_value() {
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(ao, "AO") { field(VAL, "2") }
record(ai, "AI") { field(INP, "AO") }
record(ai, "AK") { field(INP, "5") }"#,
                &std::collections::HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (mut client, server_io) = tokio::io::duplex(1 << 16);
        let peer: SocketAddr = "127.0.0.1:55361".parse().unwrap();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                None,
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });
        client.write_all(&version_frame()).await.unwrap();
        let mut sids = Vec::new();
        for (cid, name) in [(1, "AI.INP"), (2, "AK.INP"), (3, "AI.INP$"), (4, "AI.RTYP")] {
            client
                .write_all(&create_chan_frame(cid, name))
                .await
                .unwrap();
            client.flush().await.unwrap();
            sids.push(read_create_chan_sid(&mut client, Duration::from_secs(3)).await);
        }
        let [inp, konst, dollar, rtyp] = sids[..] else {
            unreachable!()
        };
        let mut acc = Vec::new();
        let mut read = async |sid, data_type, count| {
            client
                .write_all(&request(
                    CA_PROTO_READ_NOTIFY,
                    sid,
                    9,
                    data_type,
                    count,
                    &[],
                ))
                .await
                .unwrap();
            let (hdr, payload) = next_frame(&mut client, &mut acc).await;
            (hdr.cid, payload)
        };

        let (status, payload) = read(inp, DBR_DOUBLE, 1).await;
        assert!(
            status == ECA_NORMAL && double(&payload, 0).is_nan(),
            "AI.INP DBR_DOUBLE"
        );
        let (status, payload) = read(konst, DBR_DOUBLE, 1).await;
        assert!(
            status == ECA_NORMAL && double(&payload, 0).is_nan(),
            "AK.INP DBR_DOUBLE"
        );
        assert_eq!(
            read(konst, DBR_FLOAT, 1).await,
            (ECA_GETFAIL, vec![0; 8]),
            "AK.INP DBR_FLOAT"
        );
        assert_eq!(
            read(inp, DBR_CHAR, 1).await,
            (ECA_NORMAL, vec![0; 8]),
            "AI.INP DBR_CHAR"
        );
        assert_eq!(
            read(rtyp, DBR_CHAR, 1).await,
            (ECA_NORMAL, vec![0; 8]),
            "AI.RTYP DBR_CHAR"
        );

        let (status, payload) = read(dollar, DBR_STRING, 12).await;
        let mut text = b"AO NPP NMS".to_vec();
        text.resize(12 * 40, 0);
        assert_eq!((status, payload), (ECA_NORMAL, text), "AI.INP$ DBR_STRING");
        let (status, payload) = read(dollar, DBR_DOUBLE, 12).await;
        assert!(
            status == ECA_NORMAL && double(&payload, 0).is_nan(),
            "AI.INP$ DBR_DOUBLE"
        );
        assert_eq!(&payload[8..], &[0; 88][..], "AI.INP$ DBR_DOUBLE pad");
        assert_eq!(
            read(dollar, DBR_LONG, 12).await,
            (ECA_GETFAIL, vec![0; 48]),
            "AI.INP$ DBR_LONG"
        );

        for (sub, data_type) in [(20, DBR_DOUBLE), (21, DBR_LONG)] {
            client
                .write_all(&request(
                    CA_PROTO_EVENT_ADD,
                    inp,
                    sub,
                    data_type,
                    1,
                    &EVENT_ADD_BODY,
                ))
                .await
                .unwrap();
            let (hdr, payload) = next_frame(&mut client, &mut acc).await;
            assert_eq!((hdr.cmmd, hdr.available), (CA_PROTO_EVENT_ADD, sub));
            match data_type {
                DBR_DOUBLE => assert!(
                    hdr.cid == ECA_NORMAL && double(&payload, 0).is_nan(),
                    "DBR_DOUBLE monitor"
                ),
                _ => assert_eq!(
                    (hdr.cid, payload),
                    (ECA_GETFAIL, vec![0; 8]),
                    "DBR_LONG monitor"
                ),
            }
        }
        handle.abort();
    }
}

#[cfg(tokio_backend)]
#[cfg(test)]
mod scalar_string_without_nul_tests {
    //! The six raw-socket rows of softIoc 8f5015b66 (qa's long-string pins):
    //! a DBR_STRING count-1 put whose 40-byte body holds no NUL, then an
    //! ECHO. C answers neither, drops the circuit (camessage.c:764, :1696)
    //! and keeps `"x"` (LEN 2 on an lso).
    use super::non_graceful_disconnect_teardown_tests::{create_chan_frame, version_frame};
    use super::*;
    use epics_base_rs::server::database::PvDatabase;
    use epics_base_rs::server::records::lso::LsoRecord;
    use epics_base_rs::server::records::stringout::StringoutRecord;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Every errlog line that starts with `CAS: forcing`.
    fn forcing_lines() -> (
        std::sync::Arc<std::sync::Mutex<Vec<String>>>,
        epics_base_rs::runtime::log::ErrlogListenerId,
    ) {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = seen.clone();
        let id = epics_base_rs::runtime::log::errlog_add_listener(move |line| {
            if line.starts_with("CAS: forcing") {
                sink.lock().unwrap().push(line.to_string());
            }
        });
        (seen, id)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_40_byte_string_put_without_a_nul_drops_the_circuit() {
        let (seen, listener) = forcing_lines();
        for (port, name, cmmd) in [
            (55370, "L41", CA_PROTO_WRITE_NOTIFY),
            (55371, "L128", CA_PROTO_WRITE_NOTIFY),
            (55372, "SO", CA_PROTO_WRITE_NOTIFY),
            (55373, "L41", CA_PROTO_WRITE),
            (55374, "L128", CA_PROTO_WRITE),
            (55375, "SO", CA_PROTO_WRITE),
        ] {
            let db = Arc::new(PvDatabase::new());
            for (rec, sizv) in [("L41", 41), ("L128", 128)] {
                let mut lso = LsoRecord::new("");
                lso.sizv = sizv;
                db.add_record(rec, Box::new(lso)).await.unwrap();
                // After init_record, which empties VAL as C's calloc does.
                db.put_pv(rec, EpicsValue::String("x".into()))
                    .await
                    .unwrap();
            }
            db.add_record("SO", Box::new(StringoutRecord::new("x")))
                .await
                .unwrap();
            let acf = epics_base_rs::server::access_security::new_acf_cell(None);
            let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
            let (mut client, server_io) = tokio::io::duplex(1 << 16);
            let peer: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
            let served = db.clone();
            let handle = tokio::spawn(async move {
                handle_client(
                    server_io,
                    peer,
                    served,
                    acf,
                    acf_reload_rx,
                    5064,
                    None,
                    None,
                    None,
                    None,
                    None,
                    #[cfg(feature = "cap-tokens")]
                    None,
                    #[cfg(feature = "cap-tokens")]
                    None,
                )
                .await
            });

            let mut put = CaHeader::new(cmmd);
            put.data_type = 0;
            put.cid = 1;
            put.available = 9;
            put.set_payload_size(40, 1, crate::protocol::CA_MINOR_VERSION)
                .unwrap();
            let mut frames = version_frame();
            frames.extend_from_slice(&create_chan_frame(1, name));
            frames.extend_from_slice(&put.to_bytes_extended());
            frames.extend_from_slice(&b"abcdefghij".repeat(4));
            frames.extend_from_slice(&CaHeader::new(CA_PROTO_ECHO).to_bytes_extended());
            client.write_all(&frames).await.unwrap();

            let res = tokio::time::timeout(Duration::from_secs(3), handle)
                .await
                .expect("the circuit closes")
                .unwrap();
            assert!(res.is_err(), "{name} cmd {cmmd}: RSRV_ERROR");
            epics_base_rs::runtime::log::errlog_flush();
            assert_eq!(
                std::mem::take(&mut *seen.lock().unwrap()),
                vec![format!("CAS: forcing disconnect from 127.0.0.1:{port}\n")],
                "{name} cmd {cmmd}"
            );
            let mut wire = Vec::new();
            client.read_to_end(&mut wire).await.unwrap();
            let mut cmds = Vec::new();
            while let Ok((hdr, size)) = CaHeader::from_bytes_extended(&wire) {
                cmds.push(hdr.cmmd);
                wire.drain(..size + hdr.actual_postsize());
            }
            assert!(
                !cmds.contains(&cmmd) && !cmds.contains(&CA_PROTO_ECHO),
                "{name} cmd {cmmd}: no reply, got {cmds:?}"
            );
            let val = match db.get_pv(name).unwrap() {
                EpicsValue::String(s) => s.to_string(),
                EpicsValue::CharArray(b) => {
                    String::from_utf8_lossy(b.split(|&c| c == 0).next().unwrap()).into_owned()
                }
                v => format!("{v:?}"),
            };
            assert_eq!(val, "x", "{name} cmd {cmmd}");
            if name != "SO" {
                assert_eq!(
                    db.get_pv(format!("{name}.LEN")).unwrap().to_f64(),
                    Some(2.0),
                    "{name} cmd {cmmd}"
                );
            }
        }
        epics_base_rs::runtime::log::errlog_remove_listener(listener);
    }

    /// The receive gate's refusals end the circuit with the same line:
    /// softIoc 8f5015b66 answers an ECHO with postsize 4 with
    /// "CAS: Missaligned protocol rejected", prints `log_header`'s three
    /// lines and then the disconnect. N=1 counts the VERSION read with it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_receive_gate_teardown_prints_forcing_disconnect() {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = seen.clone();
        let listener = epics_base_rs::runtime::log::errlog_add_listener(move |line| {
            if line.starts_with("CAS: ") && line.contains("127.0.0.1:55376") {
                sink.lock().unwrap().push(line.to_string());
            }
        });
        let db = Arc::new(PvDatabase::new());
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_reload_tx, acf_reload_rx) = broadcast::channel::<()>(4);
        let (mut client, server_io) = tokio::io::duplex(1 << 16);
        let peer: SocketAddr = "127.0.0.1:55376".parse().unwrap();
        let handle = tokio::spawn(async move {
            handle_client(
                server_io,
                peer,
                db,
                acf,
                acf_reload_rx,
                5064,
                None,
                None,
                None,
                None,
                None,
                #[cfg(feature = "cap-tokens")]
                None,
                #[cfg(feature = "cap-tokens")]
                None,
            )
            .await
        });
        let mut frames = version_frame();
        let mut echo = CaHeader::new(CA_PROTO_ECHO);
        echo.postsize = 4;
        echo.data_type = 7;
        echo.count = 3;
        echo.cid = 0x1234;
        echo.available = 0x55;
        frames.extend_from_slice(&echo.to_bytes());
        frames.extend_from_slice(b"abcd");
        client.write_all(&frames).await.unwrap();
        let res = tokio::time::timeout(Duration::from_secs(3), handle)
            .await
            .expect("the circuit closes")
            .unwrap();
        assert!(res.is_err());
        epics_base_rs::runtime::log::errlog_flush();
        assert_eq!(
            *seen.lock().unwrap(),
            [
                "CAS: request from 127.0.0.1:55376 => CAS: Missaligned protocol rejected\n",
                "CAS: Request from 127.0.0.1:55376 => cmmd=23 cid=0x1234 type=7 count=3 postsize=4\n",
                "CAS: Request from 127.0.0.1:55376 =>   available=0x55 \tN=1 paddr=(nil)\n",
                "CAS: forcing disconnect from 127.0.0.1:55376\n",
            ]
        );
        epics_base_rs::runtime::log::errlog_remove_listener(listener);
    }
}

#[cfg(all(test, tokio_backend))]
mod circuit_event_order_tests {
    //! C `event_read` delivers a circuit's monitors in the order their posts
    //! were queued (`dbEvent.c:957-1006`), not one monitor's backlog after
    //! another's.
    use super::non_graceful_disconnect_teardown_tests::{
        create_chan_frame, event_add_frame, read_create_chan_sid, version_frame,
    };
    use super::*;
    use epics_base_rs::server::database::PvDatabase;
    use epics_base_rs::types::EpicsValue;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// The monitor ids of the next `n` EVENT_ADD frames, in wire order.
    async fn event_add_ids(client: &mut tokio::io::DuplexStream, n: usize) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut acc: Vec<u8> = Vec::new();
        let mut buf = [0u8; 1024];
        while ids.len() < n {
            let got = tokio::time::timeout(Duration::from_secs(3), client.read(&mut buf))
                .await
                .expect("read within timeout")
                .expect("read ok");
            assert!(got > 0, "server closed after {ids:?}");
            acc.extend_from_slice(&buf[..got]);
            let mut offset = 0;
            while offset + CaHeader::SIZE <= acc.len() {
                let (hdr, hdr_size) =
                    CaHeader::from_bytes_extended(&acc[offset..]).expect("header parses");
                let len = hdr_size + hdr.actual_postsize();
                if offset + len > acc.len() {
                    break;
                }
                if hdr.cmmd == CA_PROTO_EVENT_ADD {
                    ids.push(hdr.available);
                }
                offset += len;
            }
            acc.drain(..offset);
        }
        ids
    }

    /// Posts to two monitors of one circuit, interleaved before the server
    /// runs again, reach the wire interleaved. A task per monitor drained
    /// each monitor's whole backlog in turn: 1, 1, 2, 2.
    #[tokio::test]
    async fn interleaved_posts_on_two_monitors_reach_the_wire_in_post_order() {
        let db = Arc::new(PvDatabase::new());
        for name in ["ORD:a", "ORD:b"] {
            db.add_pv(name, EpicsValue::Double(0.0))
                .await
                .expect("add pv");
        }
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let (_acf_tx, acf_rx) = broadcast::channel::<()>(4);
        let (mut client, server_io) = tokio::io::duplex(8192);
        let server = tokio::spawn(handle_client(
            server_io,
            "127.0.0.1:55401".parse().unwrap(),
            db.clone(),
            acf,
            acf_rx,
            5064,
            None,
            None,
            None,
            None,
            None,
            #[cfg(feature = "cap-tokens")]
            None,
            #[cfg(feature = "cap-tokens")]
            None,
        ));

        client.write_all(&version_frame()).await.expect("version");
        let mut sids = Vec::new();
        for (cid, name) in [(1, "ORD:a"), (2, "ORD:b")] {
            client
                .write_all(&create_chan_frame(cid, name))
                .await
                .expect("create_chan");
            client.flush().await.expect("flush");
            sids.push(read_create_chan_sid(&mut client, Duration::from_secs(3)).await);
        }
        for (sub_id, sid) in [(1, sids[0]), (2, sids[1])] {
            client
                .write_all(&event_add_frame(sid, sub_id))
                .await
                .expect("event_add");
        }
        client.flush().await.expect("flush");
        assert_eq!(
            event_add_ids(&mut client, 2).await,
            [1, 2],
            "initial values"
        );

        let a = db.find_pv("ORD:a").expect("added");
        let b = db.find_pv("ORD:b").expect("added");
        a.set(EpicsValue::Double(1.0));
        b.set(EpicsValue::Double(1.0));
        a.set(EpicsValue::Double(2.0));
        b.set(EpicsValue::Double(2.0));
        assert_eq!(event_add_ids(&mut client, 4).await, [1, 2, 1, 2]);

        drop(client);
        server.abort();
    }
}

#[cfg(test)]
mod access_change_walk_tests {
    //! C `casAccessRightsCB` walks the channel's own `pciu->eventq`
    //! (`camessage.c:1111-1126`), so a monitor whose producer the blocking
    //! driver holds, outside `ClientState::subscriptions`, is re-armed too.
    use super::*;
    use crate::protocol::{CA_MINOR_VERSION, CA_PROTO_VERSION, pad_string};
    use epics_base_rs::server::database::PvDatabase;
    use epics_base_rs::server::event_queue::CircuitEvent;
    use epics_base_rs::server::pv::LogValue;
    use epics_base_rs::types::EpicsValue;
    use futures_util::FutureExt;

    const ACF: &str = "UAG(ops) { ops }\nASG(DEFAULT) {\n    RULE(1, READ) { UAG(ops) }\n    RULE(1, WRITE) { UAG(ops) }\n}\n";

    fn frames(drain: &mut crate::server::outbox::OutboxDrain) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| drain.try_next().map(|f| f.to_vec())).collect()
    }

    /// The next queued entry, with the read-access verdict the event thread
    /// reads from its delivery context when it frames it.
    fn next_event(state: &ClientState) -> Option<(bool, f64)> {
        let events = state.event_user();
        std::future::poll_fn(|cx| events.poll_next(cx))
            .now_or_never()
            .map(|e| match e {
                CircuitEvent::Event { context, event, .. } => {
                    let m = context
                        .downcast_ref::<CircuitMonitor>()
                        .expect("a CA monitor");
                    match event.value() {
                        LogValue::Val(EpicsValue::Double(v)) => {
                            (m.denied.load(Ordering::Acquire), v)
                        }
                        v => panic!("unexpected value {v:?}"),
                    }
                }
                CircuitEvent::Ended(_) => panic!("monitor ended"),
            })
    }

    fn access_rights(frame: &[u8]) -> (u32, u32) {
        assert_eq!(
            u16::from_be_bytes([frame[0], frame[1]]),
            CA_PROTO_ACCESS_RIGHTS
        );
        (
            u32::from_be_bytes(frame[8..12].try_into().unwrap()),
            u32::from_be_bytes(frame[12..16].try_into().unwrap()),
        )
    }

    /// Through `hand_off_subscription`, not `handle_client_blocking`: nothing
    /// reaches `reeval_access_rights` on that driver once a channel exists
    /// (HOST_NAME and CLIENT_NAME are refused after the first channel, and it
    /// has no ACF-reload listener), so this pins its link, not the wire.
    // RTEMS-EXEC-MODEL-ALLOW(5): all five run and pass under
    // `EPICS_RS_BUILD_EXEC_BACKEND=thread`.
    #[tokio::test]
    async fn an_access_change_reaches_a_monitor_held_outside_the_async_registry() {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("AR:VAL", EpicsValue::Double(1.5)).await.unwrap();
        let acf = epics_base_rs::server::access_security::new_acf_cell(Some(
            epics_base_rs::server::access_security::parse_acf(ACF).unwrap(),
        ));
        let mut state = ClientState::new(acf, 5064, db.clone());
        state.username = "ops".into();
        let (outbox, mut drain) = crate::server::outbox::channel();
        let peer: SocketAddr = "127.0.0.1:55990".parse().unwrap();

        let mut version = CaHeader::new(CA_PROTO_VERSION);
        version.count = CA_MINOR_VERSION;
        let name = pad_string("AR:VAL");
        let mut create = CaHeader::new(CA_PROTO_CREATE_CHAN);
        create.cid = 0x1234;
        create.available = CA_MINOR_VERSION as u32;
        create.postsize = name.len() as u16;
        for (hdr, payload) in [(version, Vec::new()), (create, name)] {
            dispatch_message(
                &hdr,
                &payload,
                &mut state,
                &db,
                &outbox,
                peer,
                None,
                SubscriptionDelivery::HandOff,
            )
            .await
            .unwrap();
        }
        let sid = *state.channels.keys().next().unwrap();

        // The blocking driver's registration: linked on the channel, the
        // reader kept by the caller rather than in `state.subscriptions`.
        let mut add = CaHeader::new(CA_PROTO_EVENT_ADD);
        add.data_type = epics_base_rs::types::DBR_DOUBLE;
        add.count = 1;
        add.cid = sid;
        add.available = 0xAB;
        let mut mon_info = vec![0u8; 16];
        mon_info[12..14].copy_from_slice(&5u16.to_be_bytes());
        let Ok(SubscriptionOutcome::HandedOff(r)) = register_subscription(
            &add,
            &mon_info,
            &state,
            &outbox,
            SubscriptionDelivery::HandOff,
            || 0,
        )
        .await
        else {
            panic!("EVENT_ADD refused");
        };
        let (ev_tx, mut ev_rx) = tokio::sync::mpsc::unbounded_channel();
        let mut blk_subs = std::collections::HashMap::new();
        crate::server::blocking::hand_off_subscription(&mut state, &mut blk_subs, &ev_tx, r);
        let Some(EventTaskControl::Add(_delivery)) = ev_rx.recv().await else {
            panic!("the reader goes to the event thread");
        };
        assert!(state.subscriptions.is_empty());
        let _ = frames(&mut drain);
        assert_eq!(next_event(&state), Some((false, 1.5)), "initial value");

        // Revoke: AR 0, then one post, delivered as `no_read_access_event`.
        state.username = "nobody".into();
        reeval_access_rights(&mut state, &outbox).await.unwrap();
        let out = frames(&mut drain);
        assert_eq!(out.len(), 1);
        assert_eq!(access_rights(&out[0]), (0x1234, 0));
        assert_eq!(
            next_event(&state),
            Some((true, 1.5)),
            "the revoke's single post"
        );

        // Restore: AR 3, then the current value.
        state.username = "ops".into();
        reeval_access_rights(&mut state, &outbox).await.unwrap();
        let out = frames(&mut drain);
        assert_eq!(out.len(), 1);
        assert_eq!(access_rights(&out[0]), (0x1234, 3));
        assert_eq!(next_event(&state), Some((false, 1.5)), "the restore frame");
        assert_eq!(next_event(&state), None);
    }
    /// `host_name_action` stores the HOST_NAME bytes as sent, and asCompute
    /// compares a HAG host with them byte for byte.
    #[tokio::test]
    async fn a_non_utf8_host_name_reaches_the_acf_check_byte_for_byte() {
        use epics_base_rs::server::access_security::{AccessLevel, new_acf_cell, parse_acf};
        let db = Arc::new(PvDatabase::new());
        let mut state = ClientState::new(new_acf_cell(None), 5064, db.clone());
        let (outbox, _drain) = crate::server::outbox::channel();
        let payload = b"h\xff\0\0\0\0\0\0".to_vec();
        let mut hdr = CaHeader::new(CA_PROTO_HOST_NAME);
        hdr.postsize = payload.len() as u16;
        dispatch_message(
            &hdr,
            &payload,
            &mut state,
            &db,
            &outbox,
            "127.0.0.1:55991".parse().unwrap(),
            None,
            SubscriptionDelivery::HandOff,
        )
        .await
        .unwrap();
        assert_eq!(state.hostname.as_bytes(), b"h\xff");
        let access = |acf: &[u8]| {
            state
                .access_for_asg(&parse_acf(acf).unwrap(), "DEFAULT", 0)
                .0
        };
        let rule = b"ASG(DEFAULT) {\n    RULE(1, WRITE) { HAG(hs) }\n}\n";
        let exact = [b"HAG(hs) { \"h\xff\" }\n".as_slice(), rule].concat();
        let lossy = [b"HAG(hs) { \"h\xef\xbf\xbd\" }\n".as_slice(), rule].concat();
        assert_eq!(access(&exact), AccessLevel::ReadWrite);
        assert_eq!(access(&lossy), AccessLevel::NoAccess);
    }

    /// `search_reply_tcp` looks the name up by its bytes (camessage.c:2221),
    /// so `a\xff` does not find a PV named `a\u{FFFD}`.
    #[tokio::test]
    async fn a_non_utf8_tcp_search_name_is_not_decoded_lossily() {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("a\u{FFFD}", EpicsValue::Double(1.0))
            .await
            .expect("add pv");
        let mut state = ClientState::new(
            epics_base_rs::server::access_security::new_acf_cell(None),
            5064,
            db.clone(),
        );
        let (outbox, mut drain) = crate::server::outbox::channel();
        for (name, want) in [
            ("a\u{FFFD}".as_bytes(), CA_PROTO_SEARCH),
            (b"a\xff".as_slice(), CA_PROTO_NOT_FOUND),
        ] {
            let mut payload = name.to_vec();
            payload.resize(name.len().next_multiple_of(8) + 8, 0);
            let mut hdr = CaHeader::new(CA_PROTO_SEARCH);
            hdr.postsize = payload.len() as u16;
            hdr.data_type = CA_DO_REPLY;
            hdr.count = CA_MINOR_VERSION;
            dispatch_message(
                &hdr,
                &payload,
                &mut state,
                &db,
                &outbox,
                "127.0.0.1:55991".parse().unwrap(),
                None,
                SubscriptionDelivery::HandOff,
            )
            .await
            .unwrap();
            let out = frames(&mut drain);
            assert_eq!(out.len(), 1, "{name:?}");
            assert_eq!(u16::from_be_bytes([out[0][0], out[0][1]]), want, "{name:?}");
        }
    }

    #[tokio::test]
    async fn a_non_utf8_client_name_reaches_the_acf_check_byte_for_byte() {
        use epics_base_rs::server::access_security::{AccessLevel, new_acf_cell, parse_acf};
        // The member is what a lossy decode of the name would produce.
        let acf =
            "UAG(ops) { \"op\u{fffd}\" }\nASG(DEFAULT) {\n    RULE(1, WRITE) { UAG(ops) }\n}\n";
        let db = Arc::new(PvDatabase::new());
        let mut state = ClientState::new(
            new_acf_cell(Some(parse_acf(acf).unwrap())),
            5064,
            db.clone(),
        );
        let (outbox, _drain) = crate::server::outbox::channel();
        let payload = b"op\xff\0\0\0\0\0".to_vec();
        let mut hdr = CaHeader::new(CA_PROTO_CLIENT_NAME);
        hdr.postsize = payload.len() as u16;
        dispatch_message(
            &hdr,
            &payload,
            &mut state,
            &db,
            &outbox,
            "127.0.0.1:55991".parse().unwrap(),
            None,
            SubscriptionDelivery::HandOff,
        )
        .await
        .unwrap();
        assert_eq!(state.username, b"op\xff");
        assert_eq!(
            state
                .access_for_asg(&parse_acf(acf).unwrap(), "DEFAULT", 0)
                .0,
            AccessLevel::NoAccess
        );
        // The member spelled with the same bytes is the one that matches.
        let exact: &[u8] =
            b"UAG(ops) { \"op\xff\" }\nASG(DEFAULT) {\n    RULE(1, WRITE) { UAG(ops) }\n}\n";
        assert_eq!(
            state
                .access_for_asg(&parse_acf(exact).unwrap(), "DEFAULT", 0)
                .0,
            AccessLevel::ReadWrite
        );
    }
}

#[cfg(test)]
mod unrouted_command_tests {
    use super::*;
    use epics_base_rs::server::database::PvDatabase;

    /// The `_` arm answers with the frame the receive gate sends for an
    /// illegal opcode, which `an_illegal_command_names_the_damaged_request`
    /// pins against softIoc, and ends the circuit.
    #[tokio::test]
    async fn an_unrouted_command_is_answered_as_bad_tcp_cmd_action() {
        let db = Arc::new(PvDatabase::new());
        let mut state = ClientState::new(
            epics_base_rs::server::access_security::new_acf_cell(None),
            5064,
            db.clone(),
        );
        state.minor.set(13);
        let (outbox, mut drain) = crate::server::outbox::channel();
        let mut hdr = CaHeader::new(5);
        hdr.cid = 7;
        hdr.available = 9;
        let res = dispatch_message(
            &hdr,
            &[],
            &mut state,
            &db,
            &outbox,
            "127.0.0.1:55991".parse().unwrap(),
            None,
            SubscriptionDelivery::HandOff,
        )
        .await;
        assert!(res.is_err());
        let frames: Vec<Vec<u8>> =
            std::iter::from_fn(|| drain.try_next().map(|f| f.to_vec())).collect();
        assert_eq!(
            frames,
            [build_ca_error_frame(
                &hdr,
                ECA_INTERNAL,
                0xFFFF_FFFF,
                "invalid (damaged?) request code from TCP",
                13
            )]
        );
    }
}

#[cfg(test)]
mod clear_channel_revoke_tests {
    //! C `clear_channel_reply` runs `db_cancel_event` for every monitor on
    //! the channel before it writes the delete-confirmed echo
    //! (`camessage.c:1890-1903`), so no update can follow the confirmation.
    use super::*;
    use crate::protocol::{CA_MINOR_VERSION, CA_PROTO_VERSION, pad_string};
    use epics_base_rs::server::database::PvDatabase;
    use epics_base_rs::types::EpicsValue;

    // RTEMS-EXEC-MODEL-ALLOW(1): measured — passes under
    // `EPICS_RS_BUILD_EXEC_BACKEND=thread`; nothing it awaits needs a reactor.
    #[tokio::test]
    async fn clear_channel_closes_its_monitors_gate_before_the_echo() {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("CC:VAL", EpicsValue::Double(1.5)).await.unwrap();
        let acf = epics_base_rs::server::access_security::new_acf_cell(None);
        let mut state = ClientState::new(acf, 5064, db.clone());
        let (outbox, mut drain) = crate::server::outbox::channel();
        let peer: SocketAddr = "127.0.0.1:55991".parse().unwrap();

        let mut version = CaHeader::new(CA_PROTO_VERSION);
        version.count = CA_MINOR_VERSION;
        let name = pad_string("CC:VAL");
        let mut create = CaHeader::new(CA_PROTO_CREATE_CHAN);
        create.cid = 0x1234;
        create.available = CA_MINOR_VERSION as u32;
        create.postsize = name.len() as u16;
        for (hdr, payload) in [(version, Vec::new()), (create, name)] {
            dispatch_message(
                &hdr,
                &payload,
                &mut state,
                &db,
                &outbox,
                peer,
                None,
                SubscriptionDelivery::HandOff,
            )
            .await
            .unwrap();
        }
        let sid = *state.channels.keys().next().unwrap();

        let mut add = CaHeader::new(CA_PROTO_EVENT_ADD);
        add.data_type = epics_base_rs::types::DBR_DOUBLE;
        add.count = 1;
        add.cid = sid;
        add.available = 0xAB;
        let mut mon_info = vec![0u8; 16];
        mon_info[12..14].copy_from_slice(&5u16.to_be_bytes());
        let Ok(SubscriptionOutcome::HandedOff(r)) = register_subscription(
            &add,
            &mon_info,
            &state,
            &outbox,
            SubscriptionDelivery::HandOff,
            || 0,
        )
        .await
        else {
            panic!("EVENT_ADD refused");
        };
        let (ev_tx, _ev_rx) = tokio::sync::mpsc::unbounded_channel();
        let mut blk_subs = std::collections::HashMap::new();
        crate::server::blocking::hand_off_subscription(&mut state, &mut blk_subs, &ev_tx, r);
        let monitor = state.channels[&sid].subscriptions[0].monitor.clone();
        assert!(monitor.gate.deliver(|| ()).is_some(), "a live monitor");
        while drain.try_next().is_some() {}

        let mut clear = CaHeader::new(CA_PROTO_CLEAR_CHANNEL);
        clear.cid = sid;
        clear.available = 0x1234;
        dispatch_message(
            &clear,
            &[],
            &mut state,
            &db,
            &outbox,
            peer,
            None,
            SubscriptionDelivery::HandOff,
        )
        .await
        .unwrap();
        let echo = drain.try_next().expect("the delete-confirmed echo");
        assert_eq!(
            u16::from_be_bytes([echo[0], echo[1]]),
            CA_PROTO_CLEAR_CHANNEL
        );
        assert!(
            monitor.gate.deliver(|| ()).is_none(),
            "a delivery after the echo was queued must not emit"
        );
    }
}

#[cfg(test)]
#[cfg(tokio_backend)]
mod bind_tcp_set_tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
    const LO2: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

    fn ports(l: &[(Arc<TcpListener>, Ipv4Addr)]) -> Vec<(Ipv4Addr, u16)> {
        l.iter()
            .map(|(l, ip)| (*ip, l.local_addr().unwrap().port()))
            .collect()
    }

    /// A requested number held on any interface moves the whole set to one
    /// OS-picked number (`caservertask.c:266`), not just the first interface.
    #[tokio::test]
    async fn a_requested_port_held_on_a_later_interface_moves_every_interface() {
        let held = std::net::TcpListener::bind((LO2, 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        let (listeners, bound) = bind_tcp_set(vec![LO, LO2], port).await.expect("bind");
        assert_ne!(bound, port);
        assert_eq!(ports(&listeners), [(LO, bound), (LO2, bound)]);
        // The first interface's socket on the old number was released.
        std::net::TcpListener::bind((LO, port)).expect("old number free on LO");
    }

    /// Skipping an address that is no interface restarts the set on an
    /// OS-picked number, not the requested one (`caservertask.c:266`).
    #[tokio::test]
    async fn skipping_an_address_that_is_not_an_interface_restarts_on_port_zero() {
        // Held, so the number is the test's own and an OS pick never repeats it.
        let held = named_port::HeldPort::tcp();
        // Without the skip the set takes the number, so a move below is the skip's.
        let (listeners, bound) = bind_tcp_set(vec![LO], held.port).await.expect("bind");
        assert_eq!(bound, held.port);
        drop(listeners);
        let (_, bound) = bind_tcp_set(vec![Ipv4Addr::new(192, 0, 2, 1), LO], held.port)
            .await
            .expect("bind");
        assert_ne!(bound, held.port);
    }

    /// An address that is no interface of this host is skipped; the rest
    /// serve.
    #[tokio::test]
    async fn an_address_that_is_not_an_interface_is_skipped() {
        // 192.0.2.1 (TEST-NET-1) is on no interface of this host.
        let (listeners, bound) = bind_tcp_set(vec![LO, Ipv4Addr::new(192, 0, 2, 1)], 0)
            .await
            .expect("bind");
        assert_eq!(ports(&listeners), [(LO, bound)]);
    }

    #[test]
    fn the_skip_line_carries_the_port_as_ipaddrtodottedip_prints_it() {
        assert_eq!(
            skipping_line(Ipv4Addr::new(192, 0, 2, 1), 5064),
            "Skipping 192.0.2.1:5064 which is not an interface address"
        );
    }

    #[tokio::test]
    async fn an_empty_set_fails() {
        let r = bind_tcp_set(vec![Ipv4Addr::new(192, 0, 2, 1)], 0).await;
        assert!(r.is_err());
    }
}
