//! [`ChannelSource`] implementation backed by an epics-rs [`PvDatabase`].
//!
//! Builds NTScalar and NTScalarArray `PvField` values directly from
//! `Snapshot`s, with full alarm/timeStamp/display metadata.

use epics_base_rs::types::RecordName;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::channel_shape::{ChannelShape, ChannelValue};
use crate::nt::NTScalar;
use crate::pvdata::{FieldDesc, PvField, PvStructure, ScalarType, ScalarValue, TypedScalarArray};
use crate::server_native::source::{PutOptions, RecordPutKind, SourceRead};
use crate::server_native::{ChannelSource, OpError};
use epics_base_rs::server::database::char_view::{
    ChannelAddr, CharServed, DollarView, long_string_field_text,
};

use crate::server_native::source::{MonitorStream, UpstreamMonitor};
use epics_base_rs::server::database::filters::{ChannelName, FilterChain, db_channel_create};
use epics_base_rs::server::database::{PvDatabase, PvEntry};
use epics_base_rs::server::pv::MonitorEvent;
use epics_base_rs::server::recgbl::{alarm_condition_string, alarm_status};
use epics_base_rs::server::snapshot::Snapshot;
use epics_base_rs::types::{EpicsValue, WallTime};

/// Shared, mutable ACF cell — an alias for the base type, so the PVA server,
/// the CA server and the gateway all share one cell type. Lock-free:
/// `PvaServer::reload_acf_from` (and the `/reload-acf` introspection endpoint
/// behind it) publishes a new policy, and every `PvDatabaseSource` ACF check
/// takes an `Arc` snapshot rather than a read guard.
pub type AcfCell = epics_base_rs::server::access_security::AcfCell;

/// The per-channel object pvxs has as one `dbChannel` and the QSRV bridge
/// has as `BridgeChannel`: one resolution of the client's name, and the
/// filter chains that hang off it, shared by every operation the channel
/// serves.
///
/// The chains are why it exists. `dbnd.c`'s `filter()` runs on a read log
/// exactly as on an event log — it has no `dbfl_context_read` bypass, unlike
/// `dec`/`sync`/`utag` — and `recGblCheckDeadband` (`recGbl.c:364-369`)
/// writes `*poldval = newval` whenever `delta > deadband`, whatever the
/// mask. So in C a GET through a `.{"dbnd":…}` channel advances the
/// monitor's baseline even though the read itself is dropped and falls back
/// to the unfiltered field (`iocsource.cpp:79-80`). Resolving the name per
/// operation gave every GET a fresh `NaN` baseline and left the monitor's
/// untouched.
struct NativeChannel {
    cn: ChannelName,
    /// The chain C keeps on the `dbChannel`: one-shot reads and the value
    /// subscription share this ONE instance, so their filter state is one
    /// state.
    value_filters: FilterChain,
    /// An INDEPENDENT re-parse of the same suffix for the PROPERTY
    /// subscription. pvxs builds `pPropertiesChannel` from the same filtered
    /// name (`singlesrcsubscriptionctx.cpp:24`) and `dbChannelCreate`
    /// re-parses the suffix per channel (`dbChannel.c:471`), so the two
    /// dbChannels own separate filter instances.
    property_filters: FilterChain,
}

/// Per-peer channel objects, keyed `(peer, name)`.
///
/// The key matches the QSRV bridge's `QsrvPvStore::channel_cache`, which is
/// the sibling source's answer to the same problem; two CREATE_CHANNELs for
/// one name on one connection therefore share an object where pvxs would
/// give each its own `dbChannel`. Entries die in
/// [`ChannelSource::notify_channel_close`], which the wire layer fires for
/// explicit DESTROY_CHANNEL and for connection teardown alike.
type NativeChannelCache =
    Arc<parking_lot::Mutex<HashMap<SocketAddr, HashMap<RecordName, Arc<NativeChannel>>>>>;

/// Resolve `name` into its channel object, minting it on first use.
///
/// The single owner of that mint: no operation may build a
/// [`FilterChain`] of its own, because a chain built outside this function
/// is by construction unshared with the channel's other operations.
fn channel_for(
    db: &PvDatabase,
    cache: &NativeChannelCache,
    name: &[u8],
    peer: SocketAddr,
) -> Option<Arc<NativeChannel>> {
    if let Some(hit) = cache.lock().get(&peer).and_then(|m| m.get(name)).cloned() {
        return Some(hit);
    }
    let (cn, value_filters) = resolve_channel(db, name)?;
    let (_, property_filters) = resolve_channel(db, name)?;
    let ch = Arc::new(NativeChannel {
        cn,
        value_filters,
        property_filters,
    });
    cache
        .lock()
        .entry(peer)
        .or_default()
        .insert(RecordName::from(name), ch.clone());
    Some(ch)
}

/// Native `ChannelSource` over a `PvDatabase`.
pub struct PvDatabaseSource {
    db: Arc<PvDatabase>,
    /// The type-state access gate is the only ACF
    /// surface on this source. The gate holds an `Arc` clone of
    /// the caller's `AcfCell` (so hot-swap via that cell is
    /// visible) plus a per-name `(ASG, ASL)` resolver that reads
    /// the live record's `common.text.asg` / `common.asl`. Wire-layer
    /// `*_checked` ops cannot run without an `AccessChecked` minted
    /// here.
    gate: epics_base_rs::server::access_security::AccessGate,
    /// See [`NativeChannelCache`].
    channels: NativeChannelCache,
    /// Every record monitor's two subscriptions attach here; see
    /// [`RecordEvents`].
    events: Arc<RecordEvents>,
}

impl PvDatabaseSource {
    /// A record monitor's update stream and the STOP gate over the two
    /// subscriptions it owns; a mailbox SharedPV has no gate.
    async fn open_monitor(
        &self,
        checked: epics_base_rs::server::access_security::AccessChecked,
        ctx: crate::server_native::ChannelContext,
        opts: crate::server_native::source::MonitorOptions,
        gate_seeds: bool,
    ) -> Option<(
        MonitorStream<crate::server_native::source::MonitorUpdate>,
        Option<crate::server_native::source::MonitorGate>,
    )> {
        let db = self.db.clone();
        let cache = self.channels.clone();
        let peer = ctx.peer;
        if !checked.allows_read() {
            return None;
        }
        let name = checked.pv_name().clone();
        // Both chains come off the channel object, which owns the
        // value/property split: the value chain is the SAME instance the
        // GET path runs, and the property chain is the independent
        // re-parse pvxs's `pPropertiesChannel` carries.
        let ch = channel_for(&db, &cache, &name, peer)?;
        let cn = &ch.cn;
        let value_filters = &ch.value_filters;
        let property_filters = &ch.property_filters;
        // A mailbox SharedPV posts a wholly-assigned value and has no
        // record events to classify — keep the unmarked default.
        let PvEntry::Record(rec) = channel_entry(&db, cn).await? else {
            return self
                .subscribe_checked_opts(checked, ctx, opts)
                .await
                .map(|s| (crate::server_native::source::plain_monitor_updates(s), None));
        };
        // The channel's shape is settled ONCE, here, exactly as pvxs
        // settles it once per `dbChannel`: every event this stream yields
        // is then rendered in it, so a one-element array field's updates
        // are the scalars its descriptor advertised.
        let render =
            record_channel_render(&ChannelAddr::of(&db, &rec, &cn.field)?, cn, value_filters)?;

        let is_value_field = epics_base_rs::server::database::is_value_field(&cn.field);
        let door = MetaDoor::new(
            db.clone(),
            rec,
            cn.field.clone(),
            render,
            property_filters.clone(),
        );
        // A post is held by this monitor's ring or by the server's queue
        // behind it, each bounded by the negotiated limit.
        let held = opts.queue_size.saturating_mul(2);
        let (stream, halves) = attach_record_pair(
            &self.events,
            &db,
            RecordPair {
                path: &cn.record_path,
                value_mask: opts.dbe,
                filters: [value_filters, property_filters],
                dollar: render.dollar(),
                limit: opts.queue_size as usize,
            },
            || {
                let mut ring = PostRing::new(held, door.read()?);
                // Only a stream the gate seeds has a first post to wait for; the
                // ungated one carries updates alone (`subscribe_checked_opts_marked`).
                let mut prime = gate_seeds.then(|| Prime::new(is_value_field));
                Some(move |ev: MonitorEvent| {
                    use epics_base_rs::server::recgbl::EventMask;
                    // A value-half event never carries PROPERTY, a property-half
                    // event always does (`pLog->mask = caEventMask & select`).
                    let property = ev.mask().intersects(EventMask::PROPERTY);
                    let update =
                        marked_update(&mut ring, render.shape(ev), door.nsec_mask, || door.read());
                    Prime::gate(&mut prime, property, update)
                })
            },
        )
        .map_err(|why| report_subscribe_refused(why, peer, &name))
        .ok()
        .flatten()?;
        // STOP takes both halves off the record, so posts made while
        // stopped are never queued: pvxs `onStart(false)` ⇒
        // `db_event_disable` (`singlesource.cpp:170-179`, `dbEvent.c:524`).
        // START is pvxs's `enable()` on each half, which also posts the
        // half's current value under its own mask: that pair is the
        // monitor's first update, so its leaves follow `DBE`.
        let gate = crate::server_native::source::MonitorGate::new(move |active| {
            let halves = halves.clone();
            let db = db.clone();
            async move {
                for h in &halves {
                    if active {
                        h.enable(&db).await;
                    } else {
                        h.set_active(false).await;
                    }
                }
            }
        });
        Some((stream, Some(gate)))
    }

    pub fn new(db: Arc<PvDatabase>) -> Self {
        let acf: AcfCell = epics_base_rs::server::access_security::new_acf_cell(None);
        let gate = Self::build_gate(db.clone(), acf, None);
        Self {
            db,
            gate,
            channels: Default::default(),
            events: Arc::new(record_events()),
        }
    }

    /// Build with ACF enforcement. Mirrors what `PvaServer::run`
    /// installs from its builder-supplied ACF — every PUT goes
    /// through `check_access_method` against the record's `ASG`.
    pub fn new_with_acf(db: Arc<PvDatabase>, acf: AcfCell) -> Self {
        let gate = Self::build_gate(db.clone(), acf, None);
        Self {
            db,
            gate,
            channels: Default::default(),
            events: Arc::new(record_events()),
        }
    }

    /// Build with an externally-supplied
    /// `acl_version` counter. `PvaServer` shares the same `Arc` so
    /// its `reload_acf_from` / `clear_acf` can bump the version
    /// that this source's gate exposes, forcing monitor tasks
    /// spawned on top of this source to re-check on their next
    /// event.
    pub fn new_with_acf_and_version(
        db: Arc<PvDatabase>,
        acf: AcfCell,
        acl_version: Arc<std::sync::atomic::AtomicU64>,
    ) -> Self {
        let gate = Self::build_gate(db.clone(), acf, Some(acl_version));
        Self {
            db,
            gate,
            channels: Default::default(),
            events: Arc::new(record_events()),
        }
    }

    fn build_gate(
        db: Arc<PvDatabase>,
        acf: AcfCell,
        acl_version: Option<Arc<std::sync::atomic::AtomicU64>>,
    ) -> epics_base_rs::server::access_security::AccessGate {
        use epics_base_rs::server::access_security::{AccessGate, AsgAslResolver};
        let resolver: AsgAslResolver = Arc::new(move |pv_name| {
            let db = db.clone();
            Box::pin(async move {
                // The ASG must come off the record the CHANNEL addresses,
                // so the name is resolved the same way every operation on
                // it resolves it; a `$` or filter-suffixed name used to miss
                // the record entirely and fall through to DEFAULT/ASL 0.
                let base = match resolve_channel(&db, &pv_name) {
                    Some((cn, _filters)) => cn.record,
                    None => return ("DEFAULT".to_string(), 0u8),
                };
                if let Some(rec) = db.get_record(&base) {
                    let inst = rec.read();
                    return (inst.common.access_group().to_string(), inst.common.asl);
                }
                ("DEFAULT".to_string(), 0u8)
            })
        });
        match acl_version {
            Some(v) => AccessGate::required_with_version(acf, resolver, v),
            None => AccessGate::required(acf, resolver),
        }
    }

    pub fn database(&self) -> &Arc<PvDatabase> {
        &self.db
    }

    // the ASG/ASL resolution moved into the AccessGate
    // builder (`Self::build_gate`). The duplicate `resolve_asg`
    // method that the deleted `*_ctx` overrides used is now gone.
}

// ── EpicsValue → PvField (NTScalar / NTScalarArray) ─────────────────────

/// The NT shape QSRV declares for a non-`DBR_ENUM` channel.
///
/// pvxs builds every such prototype with
/// `nt::NTScalar{valueType, display=true, control=true, valueAlarm=true,
/// form=true}` (`ioc/singlesource.cpp:196-204`) — all four flags on,
/// unconditionally. [`crate::nt::NTScalar`] is this crate's port of
/// `NTScalar::build()` (`src/nt.cpp:37-115`) and therefore the single owner
/// of what that expands to: the `isnumeric` gate that drops `control` /
/// `valueAlarm` / the display limits for a string value, the limits typed
/// with `value.scalarOf()` rather than a hard-coded double, `display.form`,
/// and the Float64 `hysteresis`.
///
/// This function exists so the served value and the advertised type are
/// projections of ONE configuration. The shape was previously hand-rolled
/// here, in parallel with that builder, and had drifted from it on four
/// counts at once (no `display.form`, `uint8_t` `hysteresis`, `double`
/// limits on integer records, and a full numeric `display`/`control`/
/// `valueAlarm` on string records).
fn nt_scalar(value_type: ScalarType, is_array: bool) -> NTScalar {
    let mut nt = if is_array {
        NTScalar::array(value_type)
    } else {
        NTScalar::new(value_type)
    };
    nt.display = true;
    nt.control = true;
    nt.value_alarm = true;
    nt.form = true;
    nt
}

/// What fixes a channel's NT value tree: the value leaf's shape and the
/// property leaves the channel serves. Every snapshot with one `NtShape`
/// fills the same leaves, so a tree filled from one is a correct start for
/// the next — what lets [`PostRing`] fill in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NtShape {
    value: NtValue,
    properties: epics_base_rs::server::snapshot::PropertySupport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NtValue {
    /// pvxs single-record QSRV builds an NTEnum prototype whenever the
    /// backing DBR type is DBR_ENUM (`ioc/singlesource.cpp:200-204`), and
    /// `NTEnum::build()` defines `value` as an `enum_t { index, choices }`
    /// (`src/nt.cpp:121-131`). A Rust `EpicsValue::Enum` *is* that DBR_ENUM
    /// scalar, so it surfaces as `epics:nt/NTEnum:1.0`, not as a bare
    /// numeric NTScalar.
    Enum,
    Scalar(ScalarType),
    Array(ScalarType),
}

impl NtShape {
    fn of(snap: &Snapshot) -> Self {
        Self::new(&snap.value, snap.properties)
    }

    /// The shape a `value` takes on a channel serving `properties`.
    fn new(
        value: &EpicsValue,
        properties: epics_base_rs::server::snapshot::PropertySupport,
    ) -> Self {
        // Same single owner as the value leaf (`crate::leaf_convert`), so the
        // NT's `value` member and the type its limits are cut from agree by
        // construction.
        let value = match value {
            EpicsValue::Enum(_) => NtValue::Enum,
            v => match crate::leaf_convert::epics_value_to_field_desc_leaf(v) {
                FieldDesc::Scalar(t) => NtValue::Scalar(t),
                FieldDesc::ScalarArray(t) => NtValue::Array(t),
                // `epics_value_to_field_desc_leaf` returns only those two
                // variants for an `EpicsValue`; a string scalar is the
                // conservative shape if that ever changes.
                _ => NtValue::Scalar(ScalarType::String),
            },
        };
        Self { value, properties }
    }

    fn desc(self) -> FieldDesc {
        match self.value {
            NtValue::Enum => nt_enum_desc(),
            NtValue::Scalar(t) => nt_scalar(t, false).build(),
            NtValue::Array(t) => nt_scalar(t, true).build(),
        }
    }
}

/// `snap` served, its time split along `nsec_mask`, the record's
/// `Q:time:tag` mask (0 for a mailbox PV, which has no record).
fn snapshot_to_pv_field(snap: &Snapshot, nsec_mask: u64) -> PvField {
    let mut v = crate::pvdata::encode::default_value_for(&NtShape::of(snap).desc());
    fill_nt(&mut v, snap, nsec_mask);
    v
}

/// The value and the introspection are one [`NtShape`], so they stay in
/// lockstep (pvxs `ioc/singlesource.cpp:200-204`, `src/nt.cpp:121-131`).
fn snapshot_to_field_desc(snap: &Snapshot) -> FieldDesc {
    NtShape::of(snap).desc()
}

/// Fill every leaf `snap` serves into `v`, a tree of `NtShape::of(snap)`.
fn fill_nt(v: &mut PvField, snap: &Snapshot, nsec_mask: u64) {
    let layout = NtLayout::new(NtShape::of(snap));
    fill_nt_meta(v, layout.shape, snap);
    fill_nt_event(v, &layout.event, &LogLeaves::of_snapshot(snap, nsec_mask));
}

/// An [`NtShape`] with the positions of the leaves an event assigns, resolved
/// from its descriptor when the layout is built. pvxs flattens dotted member
/// names into offsets when a type is built (`type.cpp:270-277`) and still looks
/// each one up per assignment (`data.cpp:833`); here the per-event fill only
/// indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NtLayout {
    shape: NtShape,
    event: EventLeaves,
}

impl NtLayout {
    fn new(shape: NtShape) -> Self {
        Self {
            shape,
            event: EventLeaves::of(&shape.desc()),
        }
    }
}

/// Where a tree of one descriptor keeps each event leaf; `None` for a leaf the
/// descriptor does not declare, pvxs's `if(auto x = node["…"])` no-op.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EventLeaves {
    /// `value`, or `value.index` on an NTEnum.
    value: Option<LeafAt>,
    severity: Option<LeafAt>,
    status: Option<LeafAt>,
    message: Option<LeafAt>,
    seconds: Option<LeafAt>,
    nanoseconds: Option<LeafAt>,
    user_tag: Option<LeafAt>,
}

impl EventLeaves {
    fn of(desc: &FieldDesc) -> Self {
        let value = match LeafAt::resolve(desc, "value.index") {
            Some(at) => Some(at),
            None => LeafAt::resolve(desc, "value"),
        };
        Self {
            value,
            severity: LeafAt::resolve(desc, "alarm.severity"),
            status: LeafAt::resolve(desc, "alarm.status"),
            message: LeafAt::resolve(desc, "alarm.message"),
            seconds: LeafAt::resolve(desc, "timeStamp.secondsPastEpoch"),
            nanoseconds: LeafAt::resolve(desc, "timeStamp.nanoseconds"),
            user_tag: LeafAt::resolve(desc, "timeStamp.userTag"),
        }
    }
}

/// A leaf one or two members below the root, by member index. Valid for a
/// tree built from the descriptor it was resolved against:
/// [`default_value_for`](crate::pvdata::encode::default_value_for) keeps the
/// descriptor's member order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LeafAt {
    top: usize,
    sub: Option<usize>,
}

impl LeafAt {
    fn resolve(desc: &FieldDesc, path: &str) -> Option<Self> {
        fn index(desc: &FieldDesc, name: &str) -> Option<(usize, FieldDesc)> {
            let FieldDesc::Structure { fields, .. } = desc else {
                return None;
            };
            fields
                .into_iter()
                .enumerate()
                .find(|(_, (n, _))| n == name)
                .map(|(i, (_, d))| (i, d.clone()))
        }
        let (top, rest) = match path.split_once('.') {
            Some((top, rest)) => (top, Some(rest)),
            None => (path, None),
        };
        let (top, child) = index(desc, top)?;
        let sub = match rest {
            Some(name) => Some(index(&child, name)?.0),
            None => None,
        };
        Some(Self { top, sub })
    }

    fn get(self, v: &mut PvField) -> Option<&mut PvField> {
        let PvField::Structure(s) = v else {
            return None;
        };
        let top = &mut s.fields.get_mut(self.top)?.1;
        match self.sub {
            None => Some(top),
            Some(i) => match top {
                PvField::Structure(s) => s.fields.get_mut(i).map(|(_, v)| v),
                _ => None,
            },
        }
    }

    fn set_scalar(at: Option<Self>, v: &mut PvField, val: ScalarValue) {
        if let Some(PvField::Scalar(slot)) = at.and_then(|at| at.get(v)) {
            *slot = val;
        }
    }
}

/// The leaves a log carries: the value, alarm and time `dbGet` reads off a
/// field log rather than the record (`dbAccess.c:936-1020`).
struct LogLeaves<'a> {
    value: &'a EpicsValue,
    stat: u16,
    sevr: u16,
    amsg: &'a str,
    /// The raw stamp, as `db_create_field_log` copies it (`dbEvent.c:710`)
    /// and the chain left it.
    time: WallTime,
    utag: i32,
    /// The channel's `Q:time:tag` mask, split off `time` only as the
    /// `timeStamp` is filled ([`fill_timestamp`]).
    nsec_mask: u64,
}

impl<'a> LogLeaves<'a> {
    fn of_snapshot(snap: &'a Snapshot, nsec_mask: u64) -> Self {
        Self {
            value: &snap.value,
            stat: snap.alarm.status,
            sevr: snap.alarm.severity,
            amsg: &snap.alarm.amsg,
            time: snap.timestamp,
            utag: snap.user_tag,
            nsec_mask,
        }
    }

    /// `ev`'s leaves, its value being `value` ([`logged_value`]).
    fn of_event(ev: &'a MonitorEvent, value: &'a EpicsValue, nsec_mask: u64) -> Self {
        Self {
            value,
            stat: ev.stat(),
            sevr: ev.sevr(),
            amsg: ev.amsg(),
            time: ev.time(),
            utag: ev.utag(),
            nsec_mask,
        }
    }
}

/// The leaves a value event assigns — pvxs `IOCSource::get` under
/// `UpdateType::Value | Alarm` (`iocsource.cpp:338-358`): value, alarm and
/// timeStamp, nothing a metadata read supplies. Each is written into the
/// leaf `v` already holds, so a scalar event allocates nothing.
fn fill_nt_event(v: &mut PvField, at: &EventLeaves, log: &LogLeaves) {
    match log.value {
        EpicsValue::Enum(index) => {
            LeafAt::set_scalar(at.value, v, ScalarValue::Int(i32::from(*index)))
        }
        other => {
            if let Some(slot) = at.value.and_then(|at| at.get(v)) {
                *slot = crate::leaf_convert::epics_value_to_pv_leaf(other);
            }
        }
    }
    fill_alarm(v, at, log.stat, log.sevr, log.amsg);
    fill_timestamp(v, at, log.time, log.utag, log.nsec_mask);
}

/// The leaves a metadata read assigns — `getProperties` under
/// `UpdateType::Property` (`iocsource.cpp:334-336`) plus the form menu
/// `IOCSource::initialize` sets — from `meta`, into a tree of `shape`.
fn fill_nt_meta(v: &mut PvField, shape: NtShape, meta: &Snapshot) {
    match shape.value {
        NtValue::Enum => fill_nt_enum_meta(v, meta),
        NtValue::Scalar(_) | NtValue::Array(_) => fill_nt_scalar_meta(v, meta),
    }
}

/// Populate the NTScalar tree `v`'s metadata leaves from `snap`.
///
/// The DESCRIPTOR is the shape's only owner: `v` starts as
/// [`default_value_for`](crate::pvdata::encode::default_value_for) of it —
/// a value matching the descriptor leaf for leaf — and this overwrites
/// only the leaves this channel serves, coercing each to the type the
/// descriptor declared. A leaf the shape does not carry (`display.limitLow`
/// on a string NT) is simply not found, which is exactly pvxs's own
/// `if(auto x = node["…"])` no-op (`iocsource.cpp:275-310`).
///
/// **Which leaves those are is decided once**, by
/// [`property_leaves`](crate::nt::property_leaves) — the same call, on the
/// same input, that [`read_leaves`] and [`marked_update`] use to mark them.
/// Writing and marking are therefore one decision, not two predicates that
/// have to be kept in step. The predicate they used to differ on was real:
/// this filled a group whenever its metadata BLOCK existed and marked it
/// whenever the `rset` SLOT existed, and `record_instance.rs` gives every
/// record-backed channel a `DisplayInfo` (it mints one for `DESC`), so the
/// fill was in truth ungated — an `ai.RVAL` channel, whose `precision` bit
/// `narrowed_to_field` clears for a `DBF_LONG` field while the record-level
/// cache has already stored `PREC`, carried the record's precision in a leaf
/// the channel does not supply.
///
/// The block's `Option`-ness says where the numbers live, never whether to
/// serve them: `PropertySupport` is the declared answer to that
/// (`snapshot.rs`), and `route_field_metadata` mints the block whenever it
/// sets a bit. So an absent block defaults its values here rather than
/// suppressing a leaf the channel claims.
///
/// The leaves left at their descriptor default are the ones pvxs also never
/// fills on this path — `control.minStep`, `valueAlarm.active`, the four
/// `*Severity`, `hysteresis`. They are declared, and zero, and the GET reply
/// leaves them unmarked (`read_checked`), so no client reads a zero as
/// authoritative.
fn fill_nt_scalar_meta(v: &mut PvField, snap: &Snapshot) {
    let d = snap.display.clone().unwrap_or_default();
    let c = snap.control.clone().unwrap_or_default();
    for leaf in crate::nt::property_leaves(snap.properties) {
        write_property_leaf(v, leaf, &d, &c);
    }

    // `IOCSource::initialize` (`iocsource.cpp:39-65`) fills the form menu and
    // index for every Scalar mapping — the two leaves a read assigns that no
    // DBE class posts, and so the two `property_leaves` does not carry.
    // `form.index` is already narrowed to the served field: the record zeroes
    // `display.form` for any non-VAL field (`record_instance.rs:5165-5169`),
    // which is `iocsource.cpp:53`'s `dbIsValueField` gate.
    set_leaf(
        v,
        "display.form.index",
        PvField::Scalar(ScalarValue::Int(i32::from(d.form))),
    );
    set_leaf(
        v,
        "display.form.choices",
        PvField::ScalarArray(
            crate::nt::FORM_CHOICES
                .iter()
                .map(|c| ScalarValue::String((*c).into()))
                .collect(),
        ),
    );
}

/// Assign the one leaf `leaf` names, from wherever its value is stored.
///
/// Split from [`property_leaves`](crate::nt::property_leaves) because the two
/// answer different questions — that one says WHICH leaves this channel
/// serves, this one says what each HOLDS — and joined by `fill_nt_scalar_meta`
/// walking the first and asking this for the value. Returns whether the leaf
/// was recognised, which is what `every_property_leaf_has_a_writer` asserts
/// over every property mask: a leaf added to `property_leaves` with no arm
/// here would otherwise reach a client marked but never written.
///
/// `value.choices` is the NTEnum shape's leaf, filled by [`fill_nt_enum_meta`]
/// from the snapshot's own enum block; it is recognised and skipped so that
/// coverage assertion stays exact.
fn write_property_leaf(
    v: &mut PvField,
    leaf: &str,
    d: &epics_base_rs::server::snapshot::DisplayInfo,
    c: &epics_base_rs::server::snapshot::ControlInfo,
) -> bool {
    match leaf {
        "display.units" => set_leaf(
            v,
            leaf,
            PvField::Scalar(ScalarValue::String(d.units.clone())),
        ),
        "display.precision" => set_leaf(
            v,
            leaf,
            PvField::Scalar(ScalarValue::Int(i32::from(d.precision))),
        ),
        // pvxs `iocsource.cpp:307-310` assigns DESC with no option gate at
        // all, so `property_leaves` always names it and this always writes it.
        "display.description" => set_leaf(
            v,
            leaf,
            PvField::Scalar(ScalarValue::String(d.description.clone())),
        ),
        "display.limitLow" => set_numeric(v, leaf, d.lower_disp_limit),
        "display.limitHigh" => set_numeric(v, leaf, d.upper_disp_limit),
        "control.limitLow" => set_numeric(v, leaf, c.lower_ctrl_limit),
        "control.limitHigh" => set_numeric(v, leaf, c.upper_ctrl_limit),
        // `iocsource.cpp:299-303`, DBR_AL_DOUBLE. The four live on
        // `DisplayInfo` because that mirrors C's `dbr_gr_double` packing,
        // which the CA encoder depends on.
        "valueAlarm.lowAlarmLimit" => set_numeric(v, leaf, d.lower_alarm_limit),
        "valueAlarm.lowWarningLimit" => set_numeric(v, leaf, d.lower_warning_limit),
        "valueAlarm.highWarningLimit" => set_numeric(v, leaf, d.upper_warning_limit),
        "valueAlarm.highAlarmLimit" => set_numeric(v, leaf, d.upper_alarm_limit),
        "value.choices" => {}
        _ => return false,
    }
    true
}

/// Resolve a dotted field path to its leaf, or `None` when the shape does not
/// carry it — pvxs's `if(auto x = node["…"])` guard.
fn leaf_mut<'a>(v: &'a mut PvField, path: &str) -> Option<&'a mut PvField> {
    let mut cur = v;
    for name in path.split('.') {
        let PvField::Structure(s) = cur else {
            return None;
        };
        cur = s.get_field_mut(name)?;
    }
    Some(cur)
}

/// Assign `val` at `path`. A path the shape does not carry is a no-op.
fn set_leaf(v: &mut PvField, path: &str, val: PvField) {
    if let Some(slot) = leaf_mut(v, path) {
        *slot = val;
    }
}

/// Assign a stored `f64` metadata limit at `path`, coerced to the type the
/// DESCRIPTOR declared for that leaf.
///
/// pvxs types `display`/`control`/`valueAlarm` limits with `value.scalarOf()`
/// (`src/nt.cpp:61-104`), so a `longin` gets `int32_t` limits and an `ai` gets
/// `double` ones. Coercing to the slot's existing variant — which
/// `default_value_for` cut from the descriptor — keeps that typing decision
/// where it belongs, in [`crate::nt::NTScalar`], and out of this function.
fn set_numeric(v: &mut PvField, path: &str, val: f64) {
    let Some(PvField::Scalar(slot)) = leaf_mut(v, path) else {
        return;
    };
    // pvxs `Value::copyIn` (`data.cpp:551-578`) casts the double to the
    // store's 64-bit integer FIRST, then truncates to the leaf's declared
    // width. Rust's `as` saturates where the C++ cast overflows, so a limit
    // that does not fit — `recGblGetAlarmDouble`'s NaN, or
    // `getMaxRangeValues`' 2^64 for a DBF_UINT64 field — landed on a
    // different number than the one QSRV2 serves.
    use crate::pvdata::cpp_cast::{double_to_i64, double_to_u64};
    *slot = match slot {
        ScalarValue::Boolean(_) => ScalarValue::Boolean(val != 0.0),
        ScalarValue::Byte(_) => ScalarValue::Byte(double_to_i64(val) as i8),
        ScalarValue::Short(_) => ScalarValue::Short(double_to_i64(val) as i16),
        ScalarValue::Int(_) => ScalarValue::Int(double_to_i64(val) as i32),
        ScalarValue::Long(_) => ScalarValue::Long(double_to_i64(val)),
        ScalarValue::UByte(_) => ScalarValue::UByte(double_to_u64(val) as u8),
        ScalarValue::UShort(_) => ScalarValue::UShort(double_to_u64(val) as u16),
        ScalarValue::UInt(_) => ScalarValue::UInt(double_to_u64(val) as u32),
        ScalarValue::ULong(_) => ScalarValue::ULong(double_to_u64(val)),
        ScalarValue::Float(_) => ScalarValue::Float(val as f32),
        ScalarValue::Double(_) => ScalarValue::Double(val),
        // A string leaf is never a numeric limit: pvxs's `isnumeric` gate
        // means a string NT declares no limit fields at all.
        ScalarValue::String(_) => return,
    };
}

/// pvxs `NTEnum::build()` (`src/nt.cpp:117-134`): `epics:nt/NTEnum:1.0`
/// with `value` an `enum_t { index: Int32, choices: StringA }`, plus
/// `alarm`, `timeStamp`, and a description-only `display`. Distinct from
/// the NTScalar shape: no `control`/`valueAlarm`, and `display` carries
/// only `description`.
fn nt_enum_desc() -> FieldDesc {
    FieldDesc::Structure {
        struct_id: "epics:nt/NTEnum:1.0".into(),
        fields: vec![
            (
                "value".into(),
                FieldDesc::Structure {
                    struct_id: "enum_t".into(),
                    fields: vec![
                        ("index".into(), FieldDesc::Scalar(ScalarType::Int)),
                        ("choices".into(), FieldDesc::ScalarArray(ScalarType::String)),
                    ]
                    .into(),
                },
            ),
            ("alarm".into(), alarm_desc()),
            ("timeStamp".into(), timestamp_desc()),
            (
                "display".into(),
                FieldDesc::Structure {
                    struct_id: String::new(),
                    fields: vec![("description".into(), FieldDesc::Scalar(ScalarType::String))]
                        .into(),
                },
            ),
        ]
        .into(),
    }
}

/// Fill an NTEnum tree's metadata leaves. `value.choices` comes
/// from `Snapshot.enums.strings` (pvxs fills it from the DBR enum metadata,
/// `ioc/iocsource.cpp:274-285`); an enum snapshot with no choice metadata
/// yields an empty `choices` array, matching pvxs when the menu is empty.
///
/// pvxs NTEnum `display` is the anonymous `Struct("display", {description})`
/// — description only, no limits/units/precision, narrower than the NTScalar
/// display.
fn fill_nt_enum_meta(v: &mut PvField, snap: &Snapshot) {
    // `value.choices` is `getProperties`' DBR_ENUM_STRS leaf
    // (`iocsource.cpp:277-285`), so the fill reads the same option bit
    // `property_leaves` reads to mark it rather than "do we happen to hold a
    // label table" — the two must not be able to answer differently.
    let choices: Vec<ScalarValue> = snap
        .enums
        .as_ref()
        .filter(|_| snap.properties.enum_strs)
        .map(|e| {
            e.strings
                .iter()
                .map(|s| ScalarValue::String(s.clone()))
                .collect()
        })
        .unwrap_or_default();
    let description = snap
        .display
        .as_ref()
        .map(|d| d.description.clone())
        .unwrap_or_default();

    set_leaf(v, "value.choices", PvField::ScalarArray(choices));
    set_leaf(
        v,
        "display.description",
        PvField::Scalar(ScalarValue::String(description)),
    );
}

fn alarm_desc() -> FieldDesc {
    FieldDesc::Structure {
        struct_id: "alarm_t".into(),
        fields: vec![
            ("severity".into(), FieldDesc::Scalar(ScalarType::Int)),
            ("status".into(), FieldDesc::Scalar(ScalarType::Int)),
            ("message".into(), FieldDesc::Scalar(ScalarType::String)),
        ]
        .into(),
    }
}

fn timestamp_desc() -> FieldDesc {
    FieldDesc::Structure {
        struct_id: "time_t".into(),
        fields: vec![
            (
                "secondsPastEpoch".into(),
                FieldDesc::Scalar(ScalarType::Long),
            ),
            ("nanoseconds".into(), FieldDesc::Scalar(ScalarType::Int)),
            ("userTag".into(), FieldDesc::Scalar(ScalarType::Int)),
        ]
        .into(),
    }
}

fn fill_alarm(v: &mut PvField, at: &EventLeaves, stat: u16, sevr: u16, amsg: &str) {
    LeafAt::set_scalar(at.severity, v, ScalarValue::Int(sevr as i32));
    // pvxs `iocsource.cpp:187-223`: PVA `alarm.status` carries the alarm
    // *class* (NONE/DEVICE/DRIVER/RECORD/DB/UNDEFINED, 0–6), not the raw
    // EPICS condition code. Map before emitting so native clients never
    // see e.g. `LINK_ALARM = 14` in a field whose NT contract is 0–6.
    LeafAt::set_scalar(at.status, v, ScalarValue::Int(alarm_status_class(stat)));
    // pvxs `iocsource.cpp:230-236`, exactly:
    //     if((options & DBR_AMSG) && meta.amsg[0])
    //         node["alarm.message"] = meta.amsg;
    //     else
    //         node["alarm.message"] = meta.status && stsmsg ? stsmsg : "";
    // A non-empty carried amsg (the record's `common.amsg`) wins; else the
    // alarm condition string for a non-zero status; else "". Only
    // mbboDirect sets a UDF amsg ("UDFS", `mbboDirectRecord.c:191`); every
    // other record raises UDF via plain `recGblSetSevr` (empty namsg), so
    // its empty amsg falls through here to the "UDF" condition string —
    // which is what pvxs serves for those records too.
    let message = if !amsg.is_empty() {
        amsg
    } else if stat == alarm_status::NO_ALARM {
        ""
    } else {
        alarm_condition_string(stat)
    };
    // Into the leaf's own buffer, which keeps the longest message it held —
    // C's `amsg` is a fixed 40 bytes.
    if let Some(PvField::Scalar(ScalarValue::String(s))) = at.message.and_then(|at| at.get(v)) {
        let mut buf = std::mem::take(s).into_bytes();
        buf.clear();
        buf.extend_from_slice(message.as_bytes());
        *s = buf.into();
    }
}

/// Map a raw EPICS `epicsAlarmCondition` (0–21, `alarm.h`) to the PVA
/// `alarm_t.status` **status class** (NONE/DEVICE/DRIVER/RECORD/DB,
/// otherwise UNDEFINED). PVA NT alarm status is a class field in the
/// 0–6 range, not the raw DB condition code — mirrors pvxs
/// `ioc/iocsource.cpp:187-223`. The same mapping exists in the QSRV
/// bridge path (`epics_bridge_rs::qsrv::pvif::alarm_status_class`); the
/// two are kept in lock-step until a shared home for the condition→class
/// table lands in `epics_base_rs::server::recgbl` alongside
/// [`alarm_condition_string`].
fn alarm_status_class(condition: u16) -> i32 {
    use alarm_status as a;
    match condition {
        a::NO_ALARM => 0, // NONE
        a::READ_ALARM
        | a::WRITE_ALARM
        | a::HIHI_ALARM
        | a::HIGH_ALARM
        | a::LOLO_ALARM
        | a::LOW_ALARM
        | a::STATE_ALARM
        | a::COS_ALARM
        | a::HW_LIMIT_ALARM => 1, // DEVICE
        a::COMM_ALARM | a::TIMEOUT_ALARM | a::UDF_ALARM => 2, // DRIVER
        a::CALC_ALARM | a::SCAN_ALARM | a::LINK_ALARM | a::SOFT_ALARM | a::BAD_SUB_ALARM => 3, // RECORD
        a::DISABLE_ALARM | a::SIMM_ALARM | a::READ_ACCESS_ALARM | a::WRITE_ACCESS_ALARM => 4,  // DB
        _ => 6, // UNDEFINED
    }
}

/// The one place a served PVA `timeStamp` takes the `Q:time:tag` split:
/// pvxs splits it while filling the reply (`iocsource.cpp:239-248`), after
/// the chain read the whole nanoseconds.
fn fill_timestamp(v: &mut PvField, at: &EventLeaves, time: WallTime, utag: i32, nsec_mask: u64) {
    // pvxs `iocsource.cpp:240-248`: `timeStamp` carries the record's
    // acquisition time and userTag, NOT the serialization wall-clock.
    // `time` is the acquisition `WallTime` (POSIX epoch; the codec already
    // added POSIX_TIME_AT_EPICS_EPOCH on decode). Using `now()` here
    // overwrote the acquisition time with serialization time and zeroed
    // the userTag on every record-backed GET/MONITOR.
    let (time, utag) = epics_base_rs::server::snapshot::split_nsec(time, utag, nsec_mask);
    let dur = time.since_unix_epoch();
    LeafAt::set_scalar(at.seconds, v, ScalarValue::Long(dur.as_secs() as i64));
    LeafAt::set_scalar(
        at.nanoseconds,
        v,
        ScalarValue::Int(dur.subsec_nanos() as i32),
    );
    LeafAt::set_scalar(at.user_tag, v, ScalarValue::Int(utag));
}

/// The leaves one QSRV read assigns into its `cloneEmpty()` — the exact set
/// a GET reply / PUT readback / monitor seed frames.
///
/// pvxs runs `IOCSource::initialize` then `IOCSource::get(…, Everything, …)`
/// for every single-record read (`singlesource.cpp:283`), which is:
///
/// * [`property_leaves`](crate::nt::property_leaves) — `getProperties`
///   (`iocsource.cpp:253-310`), gated by what the record type supplies;
/// * `timeStamp` + `alarm` + `value` — `getTimeAlarm` / `getScalarValue`
///   (`iocsource.cpp:331-352`);
/// * `display.form.choices`, and `display.form.index` only for a channel on
///   the record's VAL field (`if(dbIsValueField(…))`, `iocsource.cpp:54`) —
///   `initialize`, the one leaf pair a read assigns that no DB event posts.
///
/// A returned path the NT does not carry matches nothing downstream, which is
/// pvxs's `if(auto x = node["…"])` no-op: `value.choices` on a plain scalar,
/// `display.form.*` on a string or NTEnum.
fn read_leaves(snap: &Snapshot, is_value_field: bool) -> Vec<String> {
    // A read IS `IOCSource::get(…, UpdateType::Everything, …)` — the same
    // event-class rule with every class set — so it composes from the one
    // owner rather than listing the leaves a second time. `Everything` is
    // pvxs's own name for `DBE_VALUE|DBE_ALARM|DBE_PROPERTY` (`iocsource.h:40`).
    //
    // An NTEnum's value is a STRUCT, so marking bare `value` would mark both
    // its children — `index` AND `choices` — making the choice list ride the
    // value's own mark and bypass the option bit that owns it. pvxs assigns
    // the enum value through `value.index` alone (`iocsource.cpp:589-593`);
    // `value.choices` is `getProperties`' leaf, gated on `DBR_ENUM_STRS`
    // (already in `property_leaves`). A DTYP whose record type declares no
    // `device()` takes C's `goto nostrs` (`dbAccess.c:176-179`), which clears
    // that bit — so the leaf must be OMITTED, not sent as `{0}[]`. That is the
    // distinction `dbAccess.c:205` draws: *"option data not available.
    // distinct from no_str==0"*.
    let mut leaves = crate::nt::event_leaves(
        epics_base_rs::server::recgbl::EventMask::VALUE
            | epics_base_rs::server::recgbl::EventMask::ALARM
            | epics_base_rs::server::recgbl::EventMask::PROPERTY,
        snap.properties,
        matches!(&snap.value, EpicsValue::Enum(_)),
    );
    leaves.push("display.form.choices".into());
    if is_value_field {
        leaves.push("display.form.index".into());
    }
    leaves
}

// ── ChannelSource impl ────────────────────────────────────────────────────

/// The channel a client-supplied name addresses on this source and the
/// filter chain it asked for, or `None` when this source will serve none.
///
/// The one place a raw channel name becomes a record, a field and a
/// [`FilterChain`], so every operation on the channel — create, read, put,
/// monitor and the ASG lookup — agrees on what it addressed. It is
/// C's `dbChannelCreate` ([`db_channel_create`]), whose NULL pvxs answers
/// at create. `{}` is a valid no-filter request and yields an empty chain.
///
/// Filters are read-side. C runs the pre/post chains from `dbChannelGet`
/// and from the event queue, never from `dbChannelPut`, so the PUT path
/// resolves the name and drops the chain on the floor.
fn resolve_channel(db: &PvDatabase, name: &[u8]) -> Option<(ChannelName, FilterChain)> {
    let channel = db_channel_create(db, name).ok()?;
    Some((channel.name, channel.chain))
}

/// The database entry a resolved channel addresses.
///
/// A mailbox [`PvEntry::Simple`] is the pvxs `SharedPV` server API: it has
/// no `dbChannel`, no field log and no filter machinery, and pvxs finds it
/// by exact name in the source's map, so a filtered name matches nothing
/// there. Refusing it here keeps that answer rather than peeling the
/// suffix off and serving the mailbox raw under a name the client believes
/// it filtered.
async fn channel_entry(db: &PvDatabase, cn: &ChannelName) -> Option<PvEntry> {
    let entry = db.find_entry(&cn.record_path).await?;
    if cn.json_suffix.is_some() && matches!(entry, PvEntry::Simple(_)) {
        return None;
    }
    Some(entry)
}

#[cfg(test)]
async fn snapshot_for(db: &PvDatabase, name: &[u8]) -> Option<Snapshot> {
    let (cn, filters) = resolve_channel(db, name)?;
    channel_snapshot(db, &cn, &filters)
        .await
        .map(|(snap, _)| snap)
}

/// One read of an already-resolved channel, with its chain applied in read
/// context.
///
/// pvxs wraps every QSRV GET in a `LocalFieldLog` and runs the pre/post
/// chain before serialization (`singlesource.cpp:286-292`,
/// `localfieldlog.cpp:15-27`), so a GET on a filtered channel returns the
/// same transformed value the monitor does. A chain that DROPS the read
/// leaves `pFieldLog` NULL, and `IOCSource::get` then reads the live field
/// through `dbChannelGet(…, nullptr)` (`iocsource.cpp:79-80`, `:127-128`) —
/// so `dbnd` refusing a sub-deadband read suppresses a monitor update but
/// never a GET. That fallback is the reason this cannot simply propagate
/// the `None`.
///
/// Returned with the record's `Q:time:tag` mask (0 for a mailbox PV), for
/// the serving step alone: the snapshot keeps the raw stamp the chain read.
async fn channel_snapshot(
    db: &PvDatabase,
    cn: &ChannelName,
    filters: &FilterChain,
) -> Option<(Snapshot, u64)> {
    let mut snap = match channel_entry(db, cn).await? {
        // A mailbox SharedPV has no field to address; `$` re-views a
        // string as a character array, so it is the same value and only
        // the eligibility gate applies (C `dbChannel.c:486-505`).
        PvEntry::Simple(pv) => {
            let snap = pv.snapshot();
            if cn.string_view && !matches!(snap.value, EpicsValue::String(_)) {
                return None;
            }
            snap
        }
        PvEntry::Record(rec) => {
            // The snapshot door resolves a link-backed field's metadata from
            // the LINK TARGET's record, so it must hold no record lock of its
            // own. A `$` channel reads the field's own value too: its char
            // image and its text are both cut from that ([`PvaDollar::render`]).
            let addr = ChannelAddr::of(db, &rec, &cn.field)?;
            let render = record_channel_render(&addr, cn, filters)?;
            let snap = record_snapshot(db, &rec, &cn.field, render, filters)?;
            return Some((snap, rec.qtime_nsec_mask()));
        }
    };
    read_snapshot_chain(filters, &mut snap);
    Some((snap, 0))
}

/// [`channel_snapshot`]'s record arm, which takes no `await`: a record
/// monitor reads its metadata here at subscribe and on each `DBE_PROPERTY`
/// post, as pvxs's property callback reads `getProperties`
/// (`singlesource.cpp:97-102`).
fn record_snapshot(
    db: &PvDatabase,
    rec: &Arc<epics_base_rs::server::record::RecordCell>,
    field: &str,
    render: ChannelRender,
    filters: &FilterChain,
) -> Option<Snapshot> {
    let mut snap = db.channel_snapshot_for_field(rec, field, false)?;
    render.read(&mut snap, filters);
    Some(snap)
}

/// `filters` in read context on the whole snapshot, the log `dbGet` reads
/// its value, time and options off (`dbAccess.c:341-348`): a `ts` value
/// mode stamps the field's own time and narrows the properties to the type
/// it leaves. A chain that drops the read leaves the unfiltered field.
fn read_snapshot_chain(filters: &FilterChain, snap: &mut Snapshot) {
    if !filters.is_empty()
        && let Some(read) = filters.apply_to_read_snapshot(snap.clone())
    {
        *snap = read;
    }
}

/// What a record channel serves its field's value as — pvxs's
/// `getChannelValueType` (`ioc/iocsource.cpp:619-643`), settled once per
/// channel.
///
/// A `SharedPV` never reaches it: a mailbox has no `dbChannel`, so it has no
/// `special(SPC_DBADDR)` field and its value's own count is the answer by
/// construction.
#[derive(Clone, Copy, PartialEq)]
enum ChannelRender {
    /// The value in the channel's [`ChannelShape`].
    Shaped(ChannelShape),
    /// A long string with no room past `MAX_STRING_SIZE + 1`: pvxs keeps its
    /// `DBF_STRING` (`ioc/channel.cpp:58-60`), the buffer read to its NUL.
    LongStringField,
    /// A channel read through its char address: `$`, or
    /// [`ChannelValue::Text`].
    Dollar(DollarView),
}

impl ChannelRender {
    /// The event rewrite every post on this channel takes before its fill.
    fn shape(self, ev: MonitorEvent) -> MonitorEvent {
        match self {
            ChannelRender::LongStringField => long_string_field_shaped(ev),
            ChannelRender::Dollar(d) => match d.served() {
                CharServed::Scalar(_) => scalar_shaped(ev),
                CharServed::Array(_) => ev,
                CharServed::Text => text_shaped(d, ev),
            },
            ChannelRender::Shaped(ChannelShape::Scalar) => scalar_shaped(ev),
            ChannelRender::Shaped(ChannelShape::Array) => ev,
        }
    }

    /// A read of the channel through its chain `filters`: rendered ahead
    /// of the chain, finished and shaped after it, as `dbChannelGet` reads
    /// the log the chain made of the render, and the chain's `arr` may have
    /// left a scalar's count.
    fn read(self, snap: &mut Snapshot, filters: &FilterChain) {
        match self {
            ChannelRender::Shaped(shape) => {
                read_snapshot_chain(filters, snap);
                shape.shape(snap);
            }
            ChannelRender::LongStringField => {
                snap.value = long_string_field_text(take_value(snap));
                read_snapshot_chain(filters, snap);
            }
            ChannelRender::Dollar(dollar) => {
                let image = dollar.render(take_value(snap));
                snap.value = image.clone();
                read_snapshot_chain(filters, snap);
                snap.value = dollar.finish(image, take_value(snap));
                if dollar.scalar() {
                    ChannelShape::Scalar.shape(snap);
                }
            }
        }
    }

    /// A monitor subscription's `$` view on this channel, so the post chain
    /// sees the char image and the stream is left only the text.
    fn dollar(self) -> Option<DollarView> {
        match self {
            ChannelRender::Dollar(view) => Some(view),
            _ => None,
        }
    }
}

fn take_value(snap: &mut Snapshot) -> EpicsValue {
    std::mem::replace(&mut snap.value, EpicsValue::Long(0))
}

/// [`ChannelRender`] of the record channel `cn` addressed `addr` through its
/// value chain `filters`, or `None` where C refuses its `$`
/// (`S_dbLib_fieldNotFound`, `dbChannel.c:486-505`).
fn record_channel_render(
    addr: &ChannelAddr,
    cn: &ChannelName,
    filters: &FilterChain,
) -> Option<ChannelRender> {
    if cn.string_view {
        return addr
            .dollar_view(&cn.field, filters)
            .map(ChannelRender::Dollar);
    }
    Some(match ChannelValue::of_addr(addr, &cn.field, filters) {
        ChannelValue::Shaped(shape) => ChannelRender::Shaped(shape),
        ChannelValue::Text(dollar) => ChannelRender::Dollar(dollar),
        ChannelValue::LongStringField => ChannelRender::LongStringField,
    })
}

/// The descriptor a read of the record channel addressed `addr` and rendered
/// `render` serves, with no read: the prototype pvxs builds in `onCreate`
/// from `dbChannelFinalFieldType` and `dbChannelFinalElements`
/// (`ioc/singlesource.cpp:189-206`), which takes no lock.
fn record_channel_desc(
    addr: &ChannelAddr,
    render: ChannelRender,
    filters: &FilterChain,
) -> FieldDesc {
    use epics_base_rs::types::DbFieldType;
    let (served, array) = match render {
        ChannelRender::Shaped(shape) => (
            filters.final_field_type(addr.value_type()),
            shape.is_array(),
        ),
        ChannelRender::LongStringField => (
            filters.final_field_type(DbFieldType::String),
            filters.final_element_count(1) != 1,
        ),
        ChannelRender::Dollar(dollar) => match dollar.served() {
            CharServed::Text => (DbFieldType::String, false),
            CharServed::Scalar(t) => (t, false),
            CharServed::Array(t) => (t, true),
        },
    };
    let prototype = if array {
        EpicsValue::from_bytes_array(served, &[], 0).expect("an empty array decodes for every type")
    } else {
        crate::channel_shape::zero_of(served)
    };
    NtShape::new(
        &prototype,
        epics_base_rs::server::snapshot::PropertySupport::NONE,
    )
    .desc()
}

/// What CREATE_CHANNEL answers for `name`: the descriptor its reads serve,
/// or `None` where pvxs refuses the channel. A record channel is answered
/// from its address and takes no lock, as `onCreate` takes none.
async fn channel_desc(db: &PvDatabase, name: &[u8]) -> Option<FieldDesc> {
    let (cn, filters) = resolve_channel(db, name)?;
    if let PvEntry::Record(rec) = channel_entry(db, &cn).await? {
        let addr = ChannelAddr::of(db, &rec, &cn.field)?;
        let render = record_channel_render(&addr, &cn, &filters)?;
        return Some(record_channel_desc(&addr, render, &filters));
    }
    let (snap, _) = channel_snapshot(db, &cn, &filters).await?;
    Some(snapshot_to_field_desc(&snap))
}

impl ChannelSource for PvDatabaseSource {
    fn access(&self) -> &epics_base_rs::server::access_security::AccessGate {
        &self.gate
    }

    /// Drop this peer's channel object for `name`, so its filter state dies
    /// with the channel exactly as `dbChannelDelete` frees the filter pvt
    /// (`dbChannel.c:714-725`). The wire layer fires this once per opened
    /// channel, for explicit DESTROY_CHANNEL and connection teardown alike.
    fn notify_channel_close(&self, name: &[u8], ctx: &crate::server_native::ChannelContext) {
        let mut cache = self.channels.lock();
        if let Some(by_name) = cache.get_mut(&ctx.peer) {
            by_name.remove(name);
            if by_name.is_empty() {
                cache.remove(&ctx.peer);
            }
        }
    }

    fn list_pvs(&self) -> Vec<RecordName> {
        let mut names = self.db.all_record_names();
        names.extend(self.db.all_simple_pv_names());
        // Aliases are independently addressable channel names —
        // a PVA client doing channelList must see them so it can
        // connect by alias. has_name and find_entry already
        // resolve aliases on the server side.
        names.extend(self.db.all_alias_names());
        names
    }

    /// pvxs `SingleSource::show` (`ioc/singlesource.cpp:480-485`): every
    /// record node, aliases included (`:398-404`), and no simple PV.
    fn show(&self) -> crate::server_native::source::SourceShow {
        let mut names = self.db.all_record_names();
        names.extend(self.db.all_alias_names());
        crate::server_native::source::SourceShow {
            kind: "IOC",
            names,
            nested: false,
        }
    }

    /// Whether this source will SERVE a channel for `name` — the CREATE gate.
    ///
    /// Stricter than [`Self::searchable`] on purpose, and the asymmetry is
    /// pvxs's. `SingleSource::onSearch` claims a name whenever `dbChannelTest`
    /// resolves it (`ioc/singlesource.cpp:467-472`) — a pure dbd name lookup
    /// (`dbFindRecordPart` + `dbFindFieldPart`, `dbChannel.c:311-343`) with no
    /// type check at all. `onCreate` then builds the value prototype OUTSIDE
    /// its `try`/`catch` (`singlesource.cpp:427-459`), so a field whose DBR
    /// type has no NT — `DBF_NOACCESS` maps to `TypeCode::Null`, which
    /// `NTScalar::build()` refuses — throws past `onCreate`, the source never
    /// claims the channel, and the server answers `Refused to create Channel`
    /// (`src/serverchan.cpp:328-351`). Measured against `softIocPVX`:
    /// `ORACLE:AI.MLOK` is searched successfully and then refused.
    ///
    /// So existence is answered per-FIELD here, not per-record: `has_name` is
    /// the search-side lookup and stops at the record (`database/mod.rs`, "for
    /// UDP search"). Addressing the field is the same gate the CA server
    /// applies at its own CREATE_CHANNEL — `channel_create` refuses a field
    /// no channel reads, which answers `CREATE_CH_FAIL`
    /// (`epics-ca-rs/src/server/tcp.rs:3082-3100`) — so both protocols
    /// refuse an unservable field at create rather than claiming it and
    /// failing later with "field introspection unavailable". Neither takes
    /// the record's lock, as `dbChannelCreate` and `onCreate` take none.
    ///
    /// A simple PV has no field to narrow, so it resolves exactly as before.
    fn has_pv(&self, name: &[u8]) -> impl std::future::Future<Output = bool> + Send {
        let db = self.db.clone();
        let name = RecordName::from(name);
        async move { channel_desc(&db, &name).await.is_some() }
    }

    /// Whether `name` is SEARCH-advertised — deliberately the looser,
    /// record-level [`PvDatabase::has_name`] rather than [`Self::has_pv`].
    ///
    /// pvxs claims at search everything `dbChannelTest` resolves and only
    /// refuses at create (see [`Self::has_pv`]), so a channel that cannot be
    /// served must still be ANSWERED — otherwise the client never sends
    /// CREATE_CHANNEL and a prompt "Refused to create Channel" degrades into a
    /// silent search timeout, which is a different divergence, not a fix.
    /// Keeping `has_name` here also keeps the search reply cheap: no snapshot
    /// is built for a broadcast that may match nothing.
    fn searchable(&self, name: &[u8]) -> impl std::future::Future<Output = bool> + Send {
        let db = self.db.clone();
        let name = RecordName::from(name);
        async move { db.has_name(&name).await }
    }

    fn get_introspection(
        &self,
        name: &[u8],
    ) -> impl std::future::Future<Output = Option<FieldDesc>> + Send {
        let db = self.db.clone();
        let name = RecordName::from(name);
        async move { channel_desc(&db, &name).await }
    }

    fn get_value(&self, name: &[u8]) -> impl std::future::Future<Output = Option<PvField>> + Send {
        let db = self.db.clone();
        let name = RecordName::from(name);
        async move {
            let (cn, filters) = resolve_channel(&db, &name)?;
            let (snap, nsec_mask) = channel_snapshot(&db, &cn, &filters).await?;
            Some(snapshot_to_pv_field(&snap, nsec_mask))
        }
    }

    /// The one READ-gated read of this source; every wire path takes it.
    ///
    /// The token is the only ACF gate on the read path: the wire layer mints
    /// it and hands it over without inspecting it (`tcp.rs` `:5079` GET,
    /// `:7365` monitor seed, `:7506` PUT readback), so the check belongs
    /// here. It also decides whether a read may move the channel's `dbnd`
    /// baseline — a client the ASG denies must not disturb the reference
    /// value the monitor compares against.
    ///
    /// Declares the leaves a QSRV read ASSIGNS, so the GET reply frames only
    /// those.
    ///
    /// pvxs reads into a `cloneEmpty()` and frames it with
    /// `to_wire_valid` (`serverget.cpp:104`), so a leaf nobody assigned never
    /// reaches the wire even though introspection declares it. The port's
    /// `PvField` has no unassigned state, so the subset has to be stated —
    /// and without this override the default said "all of them", which put
    /// `control.minStep`, `valueAlarm.active`, the four `valueAlarm.*Severity`
    /// and `valueAlarm.hysteresis` in front of every Delta client, none of
    /// which pvxs ever assigns.
    ///
    /// The leaf set is the same one the QSRV bridge frames, from the same
    /// owner ([`crate::nt::property_leaves`]) and the same input: the
    /// [`PropertySupport`](epics_base_rs::server::snapshot::PropertySupport)
    /// the DB layer already narrowed to the addressed field. Whether a record
    /// supplies display limits is the record type's answer, not this
    /// source's.
    fn read_checked(
        &self,
        checked: epics_base_rs::server::access_security::AccessChecked,
        ctx: crate::server_native::ChannelContext,
    ) -> impl std::future::Future<Output = Option<SourceRead>> + Send {
        let db = self.db.clone();
        let cache = self.channels.clone();
        let peer = ctx.peer;
        async move {
            if !checked.allows_read() {
                return None;
            }
            let name = checked.pv_name().clone();
            // The channel's own chain, not one minted for this GET: C runs
            // the read through the same `dbChannel` the monitor uses, which
            // is what lets a read move `dbnd`'s baseline (see
            // [`NativeChannel`]).
            let ch = channel_for(&db, &cache, &name, peer)?;
            let (snap, nsec_mask) = channel_snapshot(&db, &ch.cn, &ch.value_filters).await?;
            let value = snapshot_to_pv_field(&snap, nsec_mask);
            Some(SourceRead::marked(
                value,
                read_leaves(
                    &snap,
                    epics_base_rs::server::database::is_value_field(&ch.cn.field),
                ),
            ))
        }
    }

    /// The value half of [`Self::read_checked`], for the trait's value-only
    /// consumers: `put_delta_checked`'s prior-value merge and
    /// `CompositeSource`'s owner-resolving forward. No wire reply is framed
    /// from it — GET, the PUT readback and the monitor seed all take
    /// `read_checked` and frame its marks.
    ///
    /// Delegating instead of snapshotting again leaves this source one READ
    /// gate and one channel-resolution site, so a value read here cannot
    /// differ from the one the wire serves, and a gate written into only one
    /// of two bodies cannot be a hole in the other. The default would drop
    /// `ctx` for the legacy ctx-less `get_value` and resolve a chain of its
    /// own, which is why the method is overridden at all.
    async fn get_value_checked(
        &self,
        checked: epics_base_rs::server::access_security::AccessChecked,
        ctx: crate::server_native::ChannelContext,
    ) -> Option<PvField> {
        self.read_checked(checked, ctx).await.map(|r| r.value)
    }

    fn put_value(
        &self,
        name: &[u8],
        value: PvField,
    ) -> impl std::future::Future<Output = Result<(), OpError>> + Send {
        let db = self.db.clone();
        let name = RecordName::from(name);
        async move {
            // The WRITE gate ran in `put_value_checked` before reaching
            // here, so every failure below is operational (Failed), not a
            // denial.
            //
            // A simple (non-record) PV is a pvxs-style mailbox SharedPV: a
            // full-structure PUT updates the *whole* current value — value,
            // alarm and timeStamp together — not just the `value` leaf
            // (pvxs `serverget.cpp:488-490` hands `onPut` the full decoded
            // Value; `SharedPV::post()` assigns the entire posted value,
            // `sharedpv.cpp:417-432`). Persisting only the value dropped any
            // client-supplied alarm/timeStamp, so a later GET reconstructed
            // them from local defaults. A record-backed channel keeps the
            // field-write path: the record owns its alarm/time through
            // processing, and the client cannot stamp them.
            let Some((cn, filters)) = resolve_channel(&db, &name) else {
                return Err(OpError::failed(format!("PUT: no such PV '{name}'")));
            };
            match channel_entry(&db, &cn).await {
                Some(PvEntry::Simple(pv)) => {
                    let prior = pv.snapshot();
                    let snap = pv_field_to_snapshot(&value, &prior).ok_or_else(|| {
                        OpError::failed("PUT value not representable as EpicsValue")
                    })?;
                    pv.set_snapshot(snap);
                    Ok(())
                }
                // A record-backed channel is an EXTERNAL client put, so it
                // owes C `dbPutField` (`dbAccess.c:1242-1282`), not `dbPut`:
                // the DISP/no-mod gates, the field write, the device write,
                // the Passive process and the monitor post. `put_pv` is the
                // `dbPut` analogue — it writes the field and stops, so a
                // passive record took the value but never processed: UDF
                // stayed set, the timestamp stayed at the EPICS epoch, and
                // no monitor event was ever posted. The CA server already
                // routes its external puts here (`epics-ca-rs`
                // `tcp.rs:3866`); PVA must too.
                //
                // The `_no_notify` entry is the one that means `dbPutField`:
                // C builds a `putNotify` only in `dbPutNotify` (WRITE_NOTIFY).
                // This PUT is non-blocking and has no receiver to await, and
                // parking a wait-set whose receiver is dropped would occupy
                // `RecordInstance::notify` until the record's async work ends.
                Some(PvEntry::Record(rec)) => {
                    let epics = record_put_value(&db, &rec, &cn, &value, &filters)?;
                    put_record_field(&db, &cn, epics, &PutOptions::default()).await
                }
                // Name not in the database: report it rather than falling
                // through to a write that would silently find nothing.
                None => Err(OpError::failed(format!("PUT: no such PV '{name}'"))),
            }
        }
    }

    /// Serve a PUT the way pvxs's `SingleSource::onPut` does: honour the
    /// INIT pvRequest's `record._options.process` / `.block`, and bracket
    /// the backing record write with the EPICS `asTrapWrite` put-logging
    /// hook — the audit surface caPutLog and every site put-logger
    /// attach to.
    ///
    /// pvxs opens a `SecurityLogger` for EVERY QSRV put, in
    /// `IOCSource::doPreProcessing` (`ioc/iocsource.cpp:362-375`,
    /// `ioc/securitylogger.h:29-58`), which `SingleSource::onPut`
    /// (`ioc/singlesource.cpp:354-360`) and the group source
    /// (`ioc/groupsource.cpp:594-602`) both run through. This source is
    /// the PVA-only IOC's production put path and had no bracket at all,
    /// so a `pvput` against it was silently unaudited while the same
    /// write over CA — or over PVA through the QSRV bridge — logged.
    ///
    /// The bracket itself is not written here: it is the workspace's one
    /// put-log owner, [`epics_base_rs::server::access_security::put_with_trap`],
    /// which the QSRV bridge also calls. Only a record-backed channel is
    /// audited — a mailbox `SharedPV` has no `dbChannel` and no ASG, and
    /// pvxs opens no `SecurityLogger` for one either.
    ///
    /// The two `doPreProcessing` gates above the logger — `SPC_ATTRIBUTE`
    /// (`S_db_noMod`) and `DISP` (`S_db_putDisabled`) — are already owned
    /// by `put_record_field_from_ca_no_notify`'s body (`epics-base-rs`
    /// `field_io.rs`, `check_no_mod` / `check_put_disabled`), so they hold
    /// for this path without being restated.
    fn put_value_checked(
        &self,
        checked: epics_base_rs::server::access_security::AccessChecked,
        value: PvField,
        ctx: crate::server_native::ChannelContext,
    ) -> impl std::future::Future<Output = Result<(), OpError>> + Send {
        let db = self.db.clone();
        async move {
            if !checked.allows_write() {
                return Err(crate::server_native::source::put_denied(&checked, &ctx));
            }
            let name = checked.pv_name().clone();
            let Some((cn, filters)) = resolve_channel(&db, &name) else {
                return Err(OpError::failed(format!("PUT: no such PV '{name}'")));
            };
            let Some(PvEntry::Record(rec)) = channel_entry(&db, &cn).await else {
                return self.put_value(&name, value).await;
            };
            // pvxs reads `record._options.process` / `.block` off the INIT
            // pvRequest inside `onPut` (`singlesource.cpp:347-352`) and
            // routes the write on them; this source used to write
            // unconditionally through the Passive no-notify entry, so
            // `process=false` still processed, `process=true` never forced,
            // and `block=true` replied before processing finished.
            let opts = put_options_from_ctx(&ctx);
            put_record(
                &db,
                &checked,
                &ctx,
                (&cn, &filters),
                &rec,
                RecordPut::Write(value),
                &opts,
            )
            .await
        }
    }

    /// A record channel's PUT takes the value pvxs's `SingleSource::onPut`
    /// receives, not the trait default's read-merge-write.
    ///
    /// pvxs decodes every EXEC into a freshly built value
    /// (`Value::Helper::build(op->type)` + `from_wire_valid`,
    /// `serverget.cpp:466-469`), so an unmarked leaf is its type default, and
    /// the non-blocking put writes `value` (an NTEnum's `value.index`) whether
    /// marked or not (`singlesource.cpp:371-380`, `iocsource.cpp:589-591`).
    /// A blocking put whose `value` is unmarked is `processRequest`
    /// (`singlesource.cpp:363-364`), which `dbNotify.c:233-252` answers with
    /// neither a write nor a process; a non-blocking one whose unmarked
    /// `value` is a numeric array writes nothing (`putArray` of a null array)
    /// and still post-processes. A mailbox `SharedPV` keeps the merge.
    fn put_delta_checked(
        &self,
        checked: epics_base_rs::server::access_security::AccessChecked,
        desc: Arc<FieldDesc>,
        changed: crate::proto::BitSet,
        delta: &PvField,
        ctx: crate::server_native::ChannelContext,
    ) -> impl std::future::Future<Output = Result<(), OpError>> + Send {
        use crate::pvdata::encode::{default_value_for, fill_unmarked_from_prior, prune_to_marked};
        let db = self.db.clone();
        let delta = delta.clone();
        async move {
            if !checked.allows_write() {
                return Err(crate::server_native::source::put_denied(&checked, &ctx));
            }
            let entry = match resolve_channel(&db, checked.pv_name()) {
                Some((cn, filters)) => channel_entry(&db, &cn).await.map(|e| (cn, e, filters)),
                None => None,
            };
            let Some((cn, PvEntry::Record(rec), filters)) = entry else {
                let prior = self.get_value_checked(checked.clone(), ctx.clone()).await;
                let merged = match prior {
                    Some(prior) => fill_unmarked_from_prior(&desc, &changed, 0, delta, &prior),
                    None => delta,
                };
                return self.put_value_checked(checked, merged, ctx).await;
            };
            let opts = put_options_from_ctx(&ctx);
            let value_marked = matches!(
                prune_to_marked(&desc, &changed, 0, &delta),
                Some(PvField::Structure(s)) if s.get_field("value").is_some()
            );
            let put = match RecordPutKind::decide(&desc, value_marked, &opts) {
                RecordPutKind::Nothing => RecordPut::Nothing,
                RecordPutKind::PostProcess => RecordPut::PostProcess,
                RecordPutKind::Write => RecordPut::Write(fill_unmarked_from_prior(
                    &desc,
                    &changed,
                    0,
                    delta,
                    &default_value_for(&desc),
                )),
            };
            put_record(&db, &checked, &ctx, (&cn, &filters), &rec, put, &opts).await
        }
    }

    // the legacy `get_value_ctx` / `subscribe_ctx` /
    // `put_value_ctx` overrides were deleted. The trait's
    // `*_checked` defaults already enforce the AccessChecked level
    // before delegating to the ctx-less variants here, and the
    // gate (built by `Self::build_gate`) reads the ASG/ASL from
    // the record itself — so this source no longer carries any
    // duplicate ACF logic.

    fn is_writable(&self, name: &[u8]) -> impl std::future::Future<Output = bool> + Send {
        let db = self.db.clone();
        let name = RecordName::from(name);
        async move { db.has_name(&name).await }
    }

    /// pvxs's `SingleSource::onSubscribe` reads `record._options.DBE`
    /// through the THROWING `Value::as<T>()` (`singlesource.cpp:117-140`),
    /// so this source owns both outcomes of that read: an array-typed
    /// `DBE` that no `copyOut` scalar arm converts fails the operation,
    /// and a present `DBE` selecting nothing in the value class draws the
    /// `selects empty mask` warning (`:128-130`) before the `VALUE|ALARM`
    /// fallback serves it. The wire layer runs this at INIT and drains
    /// `ctx.log` on the Ok path, so the client sees the warning ahead of
    /// the INIT reply, which is pvxs's order.
    ///
    /// DEVIATION from C++, deliberate — CBUG-C2: pvxs lets the throw
    /// unwind into `conn.cpp:277-282`'s `bev.reset()`, dropping every
    /// other channel on the circuit. Here it is an [`OpError`], so only
    /// this MONITOR fails.
    ///
    /// Scoped to record-backed names, because that is the only pvxs
    /// source that reads `DBE`: a mailbox [`PvEntry::Simple`] is the
    /// `SharedPV` server API, whose `onSubscribe` reads no
    /// `record._options` at all.
    fn check_monitor_request(
        &self,
        checked: &epics_base_rs::server::access_security::AccessChecked,
        ctx: &crate::server_native::ChannelContext,
    ) -> impl std::future::Future<Output = Result<(), crate::server_native::source::OpError>> + Send
    {
        let db = self.db.clone();
        let name = checked.pv_name().clone();
        let pv_request = ctx.pv_request.clone();
        // The op's `RemoteLogger` sink — drained by the wire layer after
        // this hook returns Ok, before the INIT reply.
        let log = ctx.log.clone();
        async move {
            let Some(PvField::Structure(req)) = pv_request else {
                return Ok(());
            };
            let Some((cn, _filters)) = resolve_channel(&db, &name) else {
                return Ok(());
            };
            if !matches!(channel_entry(&db, &cn).await, Some(PvEntry::Record(_))) {
                return Ok(());
            }
            crate::server_native::source::dbe_mask_from_pv_request(&req, &log)?;
            Ok(())
        }
    }

    /// A record-backed monitor UPDATE marks only the leaves its own `DBE_*`
    /// class covers, which is what `MonitorUpdate::marked` exists to say.
    ///
    /// pvxs reads each event's real mask from `pDbFieldLog->mask`
    /// (`singlesource.cpp:80-84`) and hands it to `IOCSource::get` as the
    /// `UpdateType`, so a value post assigns value+timeStamp while the
    /// metadata leaves are assigned only by the separate `DBE_PROPERTY`
    /// subscription (`:162-166`). The default `marked: None` framed the full
    /// mask on every update, so the port put display/control/valueAlarm on
    /// the wire for every value change — a strict superset of C.
    ///
    /// [`crate::nt::event_leaves`] is the single owner of that rule; this
    /// method only supplies the per-event mask it keys on.
    async fn subscribe_checked_opts_marked(
        &self,
        checked: epics_base_rs::server::access_security::AccessChecked,
        ctx: crate::server_native::ChannelContext,
        opts: crate::server_native::source::MonitorOptions,
    ) -> Option<MonitorStream<crate::server_native::source::MonitorUpdate>> {
        self.open_monitor(checked, ctx, opts, false)
            .await
            .map(|(stream, _)| stream)
    }

    async fn subscribe_seeded(
        &self,
        checked: epics_base_rs::server::access_security::AccessChecked,
        ctx: crate::server_native::ChannelContext,
        opts: crate::server_native::source::MonitorOptions,
    ) -> Option<
        crate::server_native::source::SubscriptionSeed<crate::server_native::source::MonitorUpdate>,
    > {
        let (updates, on_start) = self
            .open_monitor(checked.clone(), ctx.clone(), opts, true)
            .await?;
        // A record monitor's gate seeds it (see `open_monitor`); a mailbox
        // has no gate and is seeded by a read.
        let initial = match on_start {
            Some(_) => None,
            None => self.read_checked(checked, ctx).await,
        };
        Some(crate::server_native::source::SubscriptionSeed {
            initial,
            updates,
            on_start,
        })
    }

    fn subscribe(
        &self,
        name: &[u8],
    ) -> impl std::future::Future<Output = Option<MonitorStream<PvField>>> + Send {
        let db = self.db.clone();
        let events = self.events.clone();
        let name = RecordName::from(name);
        async move {
            let (cn, filters) = resolve_channel(&db, &name)?;
            let entry = channel_entry(&db, &cn).await?;
            match entry {
                PvEntry::Simple(pv) => {
                    // Register the live subscriber BEFORE reading the
                    // initial snapshot so a PUT racing between the two is
                    // delivered through the stream, not missed. pvxs
                    // `SharedPV::post()` fans every later value out to its
                    // stored subscribers (`sharedpv.cpp:417-440`); the
                    // simple-PV `PvSubscription` is the same mechanism —
                    // `ProcessVariable::set` -> `notify_subscribers`.
                    use epics_base_rs::server::pv::PvSubscription;
                    match PvSubscription::subscribe(pv.clone()).await {
                        Ok(sub) => {
                            let initial = snapshot_to_pv_field(&pv.snapshot(), 0);
                            // The seed rides on the stream and is handed out
                            // ahead of the subscription's own events, exactly
                            // as the bridge's `tx.send(initial)` did before it
                            // entered the loop. Dropping the stream drops
                            // `sub`, whose `Drop` removes the subscriber slot
                            // from the ProcessVariable.
                            Some(MonitorStream::Upstream(
                                UpstreamMonitor::from_pv(sub, event_field).with_seed(initial),
                            ))
                        }
                        Err(_) => {
                            // Per-PV subscriber cap reached: still honour the
                            // connect-time read so the client at least sees
                            // the current value, then end the stream.
                            let (tx, rx) = mpsc::channel::<PvField>(1);
                            let _ = tx.send(snapshot_to_pv_field(&pv.snapshot(), 0)).await;
                            Some(MonitorStream::Channel(rx))
                        }
                    }
                }
                PvEntry::Record(rec) => {
                    let addr = ChannelAddr::of(&db, &rec, &cn.field)?;
                    let render = record_channel_render(&addr, &cn, &filters)?;
                    // The mask is the one `DbSubscription::subscribe_filtered`
                    // picks for the unclassified entry (`db_access.rs:297`).
                    // The metadata is not the event's: it is read once both
                    // halves are live and reread on each post of the
                    // `DBE_PROPERTY` half, whose posts yield no value of
                    // their own.
                    use epics_base_rs::server::recgbl::EventMask;
                    let (_, property_filters) = resolve_channel(&db, &name)?;
                    let door = MetaDoor::new(
                        db.clone(),
                        rec,
                        cn.field.clone(),
                        render,
                        property_filters.clone(),
                    );
                    attach_record_pair(
                        &events,
                        &db,
                        RecordPair {
                            path: &cn.record_path,
                            value_mask: (EventMask::VALUE | EventMask::LOG).bits(),
                            filters: [&filters, &property_filters],
                            dollar: render.dollar(),
                            limit: PLAIN_QUEUE_LIMIT,
                        },
                        || {
                            let mut meta = door.read()?;
                            let mut layout = None;
                            Some(move |ev| {
                                plain_record_field(
                                    &mut meta,
                                    &mut layout,
                                    render.shape(ev),
                                    door.nsec_mask,
                                    || door.read(),
                                )
                            })
                        },
                    )
                    .ok()
                    .flatten()
                    .map(|(stream, _)| stream)
                }
            }
        }
    }
}

/// pvxs's line for a `db_add_event` that returned NULL: subscriptionctx.h:48
/// throws "Failed to create db subscription" out of `onSubscribe`, and
/// servermon.cpp:598 logs it at ERR. A missing record is not that refusal.
fn report_subscribe_refused(
    why: epics_base_rs::server::pv::SubscribeRefused,
    peer: std::net::SocketAddr,
    name: &RecordName,
) {
    if why == epics_base_rs::server::pv::SubscribeRefused::CapReached {
        crate::pvxs_log::log(
            crate::pvxs_log::TCP_SETUP,
            crate::pvxs_log::Level::Err,
            format_args!(
                "Client {peer} Monitor \"{name}\" onSubscribe() error: \
                 Failed to create db subscription"
            ),
        );
    }
}

/// The source a [`PvDatabaseSource`]'s record monitors attach to: one
/// `event_user` drained by one thread, pvxs's `qsrvSingle`
/// (`ioc/singlesource.cpp:396-416`). A post wakes the drain only when it
/// finds it parked; a private subscription per monitor made every post a
/// wake of that monitor's reader.
type RecordEvents = epics_base_rs::server::database::db_access::DbEventSource<RecordDelivery>;

fn record_events() -> RecordEvents {
    use epics_base_rs::runtime::task::{StackSizeClass, ThreadPriority};
    epics_base_rs::server::database::db_access::DbEventSource::new(
        "qsrvSingle",
        ThreadPriority::Custom(17),
        StackSizeClass::Medium,
    )
}

/// The queue limit of a monitor opened through the plain `subscribe`, which
/// negotiates none: pvxs's `MonitorOp::limit` default (`servermon.cpp:66`).
const PLAIN_QUEUE_LIMIT: usize = 4;

/// One record subscription's delivery on the [`RecordEvents`] drain.
struct RecordDelivery(Box<dyn RecordSink>);

trait RecordSink: Send + Sync {
    fn deliver(&self, ev: MonitorEvent);
    fn ended(&self);
}

impl epics_base_rs::server::database::db_access::EventDelivery for RecordDelivery {
    fn deliver(&self, ev: MonitorEvent) -> impl std::future::Future<Output = ()> + Send {
        self.0.deliver(ev);
        std::future::ready(())
    }

    fn ended(&self) {
        self.0.ended();
    }
}

/// A monitor's transform, shared by its two halves: a property post must
/// reach the value half's state. `None` until the monitor is set up.
type SharedMap<T> =
    Arc<parking_lot::Mutex<Option<Box<dyn FnMut(MonitorEvent) -> Option<T> + Send>>>>;

/// One half of a record monitor: its entries through the shared transform
/// into the monitor's ring. Each half holds its own producer endpoint, so
/// the ring ends once both halves have.
struct RingHalf<T> {
    map: SharedMap<T>,
    out: parking_lot::Mutex<Option<crate::server_native::shared_pv::MonitorOutbox<T>>>,
}

impl<T: crate::server_native::shared_pv::SquashTail + Send + 'static> RecordSink for RingHalf<T> {
    fn deliver(&self, ev: MonitorEvent) {
        let update = match self.map.lock().as_mut() {
            Some(map) => map(ev),
            None => None,
        };
        if let Some(update) = update
            && let Some(out) = self.out.lock().as_ref()
        {
            out.post(update, false);
        }
    }

    fn ended(&self) {
        self.out.lock().take();
    }
}

/// What [`attach_record_pair`] subscribes: the channel's record path, the
/// value half's mask, the value and property chains, the `$` view and the
/// ring's limit.
struct RecordPair<'a> {
    path: &'a [u8],
    value_mask: u16,
    filters: [&'a FilterChain; 2],
    dollar: Option<DollarView>,
    limit: usize,
}

/// pvxs's TWO subscriptions for one record channel, not their union
/// (`singlesource.cpp:155-167`): the value half on `value_mask`, the
/// property half on a bare `DBE_PROPERTY` whatever `DBE` said, each its own
/// subscriber slot with its own `filters` chain, so a queued value post
/// cannot swallow the metadata post behind it. Both feed one ring of
/// `limit`, through the transform `setup` builds. Both halves attach
/// disabled and are enabled once it is armed (`singlesource.cpp:147-180`),
/// so the shared drain never waits on one subscribe's record read.
fn attach_record_pair<T, F>(
    events: &RecordEvents,
    db: &PvDatabase,
    pair: RecordPair<'_>,
    setup: impl FnOnce() -> Option<F>,
) -> Result<
    Option<(
        MonitorStream<T>,
        [epics_base_rs::server::database::db_access::SubscriptionActivation; 2],
    )>,
    epics_base_rs::server::pv::SubscribeRefused,
>
where
    T: crate::server_native::shared_pv::SquashTail + Send + 'static,
    F: FnMut(MonitorEvent) -> Option<T> + Send + 'static,
{
    use crate::server_native::shared_pv::MonitorRing;
    let RecordPair {
        path,
        value_mask,
        filters,
        dollar,
        limit,
    } = pair;
    let (out, ring) = MonitorRing::bounded(limit);
    let map: SharedMap<T> = Arc::default();
    let half = |out| {
        RecordDelivery(Box::new(RingHalf {
            map: map.clone(),
            out: parking_lot::Mutex::new(Some(out)),
        }))
    };
    let mask = [
        value_mask,
        epics_base_rs::server::recgbl::EventMask::PROPERTY.bits(),
    ];
    let value = events.attach_disabled(
        db,
        path,
        mask[0],
        Some(filters[0]),
        dollar,
        half(out.clone()),
    )?;
    let property =
        events.attach_disabled(db, path, mask[1], Some(filters[1]), dollar, half(out))?;
    let Some(transform) = setup() else {
        return Ok(None);
    };
    *map.lock() = Some(Box::new(transform));
    value.enable();
    property.enable();
    let halves = [value.activation_handle(), property.activation_handle()];
    Ok(Some((
        MonitorStream::Ring(ring.holding([value, property])),
        halves,
    )))
}

/// pvxs's per-subscription `currentValue` (`singlesource.cpp:54-67`), kept
/// as a ring so a post shares its value with the monitor queue instead of
/// carrying a tree of its own: each event is filled in place into a slot no
/// queued post still holds.
///
/// `cap` is the negotiated queue limit plus one. When the next event is
/// mapped the queue holds at most `limit` posts — a squash frees the tail's
/// slot only after that push — so a free slot exists by construction. Slots
/// are built on first need rather than at subscribe, so a client's
/// `queueSize` preallocates nothing it does not fill.
///
/// The metadata leaves come from `meta`, the channel's GET-door read, never
/// from an event: a slot rewrites them only when it last held an older read.
struct PostRing {
    meta: Snapshot,
    /// The leaf set of each event class, for `meta`'s properties and the
    /// last event's value kind.
    marks: crate::nt::EventMarks,
    /// Bumped by every [`Self::set_meta`]; a slot carries the generation it
    /// was last given.
    meta_gen: u64,
    layout: Option<NtLayout>,
    slots: Vec<(Arc<PvField>, u64)>,
    next: usize,
    cap: usize,
}

impl PostRing {
    fn new(queue_limit: u32, meta: Snapshot) -> Self {
        Self {
            marks: crate::nt::EventMarks::new(
                meta.properties,
                matches!(meta.value, EpicsValue::Enum(_)),
            ),
            meta,
            meta_gen: 1,
            layout: None,
            slots: Vec::new(),
            next: 0,
            cap: (queue_limit as usize).saturating_add(1),
        }
    }

    fn set_meta(&mut self, meta: Snapshot) {
        self.meta = meta;
        self.meta_gen += 1;
    }

    /// The leaves an event of `mask` on a value like `value` marks.
    fn marks(
        &mut self,
        mask: epics_base_rs::server::recgbl::EventMask,
        value: &EpicsValue,
    ) -> Option<crate::server_native::Marks> {
        let is_enum = matches!(value, EpicsValue::Enum(_));
        if !self.marks.is_for(self.meta.properties, is_enum) {
            self.marks = crate::nt::EventMarks::new(self.meta.properties, is_enum);
        }
        self.marks.get(mask).map(|set| Arc::clone(set).into())
    }

    fn post(&mut self, ev: &LogLeaves) -> crate::server_native::PostValue {
        let shape = NtShape::new(ev.value, self.meta.properties);
        let layout = match self.layout {
            Some(layout) if layout.shape == shape => layout,
            _ => {
                self.slots.clear();
                self.next = 0;
                *self.layout.insert(NtLayout::new(shape))
            }
        };
        let n = self.slots.len();
        let free = (0..n)
            .map(|k| (self.next + k) % n)
            .find(|&i| Arc::get_mut(&mut self.slots[i].0).is_some());
        let i = match free {
            Some(i) => i,
            None if n < self.cap => {
                let tree = crate::pvdata::encode::default_value_for(&shape.desc());
                self.slots.push((Arc::new(tree), 0));
                n
            }
            // Only a consumer holding more posts than it negotiated gets here.
            None => return fresh_tree(&layout, &self.meta, ev).into(),
        };
        let (slot, slot_gen) = &mut self.slots[i];
        let v = Arc::get_mut(slot).expect("a free slot is unshared");
        if *slot_gen != self.meta_gen {
            fill_nt_meta(v, shape, &self.meta);
            *slot_gen = self.meta_gen;
        }
        fill_nt_event(v, &layout.event, ev);
        self.next = i + 1;
        Arc::clone(slot).into()
    }
}

/// A tree of `shape` holding `meta`'s metadata and `ev`'s value, alarm and
/// time.
fn fresh_tree(layout: &NtLayout, meta: &Snapshot, ev: &LogLeaves) -> PvField {
    let mut v = crate::pvdata::encode::default_value_for(&layout.shape.desc());
    fill_nt_meta(&mut v, layout.shape, meta);
    fill_nt_event(&mut v, &layout.event, ev);
    v
}

/// A record channel's metadata door, as a record monitor holds it: the
/// channel's own record, field, render and property-half filter chain.
struct MetaDoor {
    db: Arc<PvDatabase>,
    rec: Arc<epics_base_rs::server::record::RecordCell>,
    field: String,
    render: ChannelRender,
    filters: FilterChain,
    /// The record's `Q:time:tag` mask, resolved once as pvxs resolves
    /// `MappingInfo::nsecMask` once per channel (`typeutils.cpp:79-88`).
    nsec_mask: u64,
}

impl MetaDoor {
    fn new(
        db: Arc<PvDatabase>,
        rec: Arc<epics_base_rs::server::record::RecordCell>,
        field: String,
        render: ChannelRender,
        filters: FilterChain,
    ) -> Self {
        let nsec_mask = rec.qtime_nsec_mask();
        Self {
            db,
            rec,
            field,
            render,
            filters,
            nsec_mask,
        }
    }

    /// Takes the record's read lock for the read alone, on the source's
    /// drain or the subscribing task, neither holding another record lock.
    fn read(&self) -> Option<Snapshot> {
        record_snapshot(&self.db, &self.rec, &self.field, self.render, &self.filters)
    }
}

/// pvxs's first monitor post waits for an event from each half
/// (`singlesource.cpp:61-63`) and carries every leaf assigned meanwhile,
/// from the `display.form` pair `IOCSource::initialize` assigns on.
struct Prime {
    value: bool,
    property: bool,
    marked: Vec<String>,
}

impl Prime {
    fn new(is_value_field: bool) -> Self {
        let mut marked = vec!["display.form.choices".to_string()];
        if is_value_field {
            marked.push("display.form.index".into());
        }
        Self {
            value: false,
            property: false,
            marked,
        }
    }

    /// `update` as the client sees it: held back, with its leaves kept,
    /// until both halves have delivered; then the first post with them all.
    fn gate(
        prime: &mut Option<Self>,
        property: bool,
        update: Option<crate::server_native::source::MonitorUpdate>,
    ) -> Option<crate::server_native::source::MonitorUpdate> {
        let Some(p) = prime else {
            return update;
        };
        if property {
            p.property = true;
        } else {
            p.value = true;
        }
        let mut update = update?;
        for leaf in update
            .marked
            .take()
            .map(crate::server_native::source::Marks::into_vec)
            .unwrap_or_default()
        {
            if !p.marked.contains(&leaf) {
                p.marked.push(leaf);
            }
        }
        if !(p.value && p.property) {
            return None;
        }
        update.marked = prime.take().map(|p| p.marked.into());
        Some(update)
    }
}

/// The per-event transform of a record-backed marked monitor.
///
/// A `DBE_PROPERTY` post rereads the metadata through `read_meta`; a value
/// post takes only value, alarm and time from the event (pvxs
/// `IOCSource::get`, `iocsource.cpp:334-358`).
///
/// `None` (the bridge's `continue`) is an event whose `DBE_*` class marks no
/// leaf — no wire meaning, since C would have assigned none either.
fn marked_update(
    ring: &mut PostRing,
    ev: MonitorEvent,
    nsec_mask: u64,
    mut read_meta: impl FnMut() -> Option<Snapshot>,
) -> Option<crate::server_native::source::MonitorUpdate> {
    use epics_base_rs::server::recgbl::EventMask;
    if ev.mask().intersects(EventMask::PROPERTY)
        && let Some(meta) = read_meta()
    {
        ring.set_meta(meta);
    }
    let mut held = None;
    let value = logged_value(&ev, &mut held, &mut read_meta)?;
    let marked = ring.marks(ev.mask(), value)?;
    Some(crate::server_native::source::MonitorUpdate {
        value: ring.post(&LogLeaves::of_event(&ev, value, nsec_mask)),
        marked: Some(marked),
        type_changed: false,
        overrun: Vec::new(),
    })
}

/// The plain record `subscribe`'s transform: a `DBE_PROPERTY` post (from
/// the property half) rereads the metadata and yields nothing; a value post
/// yields the whole value, its metadata from the last read.
fn plain_record_field(
    meta: &mut Snapshot,
    layout: &mut Option<NtLayout>,
    ev: MonitorEvent,
    nsec_mask: u64,
    mut read_meta: impl FnMut() -> Option<Snapshot>,
) -> Option<PvField> {
    use epics_base_rs::server::recgbl::EventMask;
    if ev.mask().intersects(EventMask::PROPERTY) {
        if let Some(m) = read_meta() {
            *meta = m;
        }
        return None;
    }
    let mut held = None;
    let value = logged_value(&ev, &mut held, &mut read_meta)?;
    let shape = NtShape::new(value, meta.properties);
    let layout = match *layout {
        Some(layout) if layout.shape == shape => layout,
        _ => *layout.insert(NtLayout::new(shape)),
    };
    Some(fresh_tree(
        &layout,
        meta,
        &LogLeaves::of_event(&ev, value, nsec_mask),
    ))
}

/// `ev`'s value, kept in `held` when the log has no copy to lend: a scalar
/// by value, or a `dbfl_type_ref` log's field, read at delivery through the
/// channel's door as `dbGet` reads it (`dbAccess.c:936-940`). `None` when
/// that read fails.
fn logged_value<'a>(
    ev: &'a MonitorEvent,
    held: &'a mut Option<EpicsValue>,
    door: impl FnOnce() -> Option<Snapshot>,
) -> Option<&'a EpicsValue> {
    use epics_base_rs::server::pv::LogValue;
    Some(match ev.value() {
        LogValue::Owned(v) => v,
        LogValue::Val(v) => held.insert(v),
        LogValue::Ref => held.insert(door()?.value),
    })
}

/// A mailbox PV's monitor transform: every delivered read yields its whole
/// value, the PV's metadata read at delivery included.
fn event_field(snap: Snapshot) -> Option<PvField> {
    Some(snapshot_to_pv_field(&snap, 0))
}

/// `ev` with its snapshot's chars decoded to the text `view` serves
/// ([`DollarView::text`]), in a new `Snapshot` for the reason
/// [`scalar_shaped`] gives.
fn text_shaped(
    view: DollarView,
    mut ev: epics_base_rs::server::pv::MonitorEvent,
) -> epics_base_rs::server::pv::MonitorEvent {
    if matches!(
        ev.value().as_value(),
        Some(EpicsValue::CharArray(_) | EpicsValue::UCharArray(_))
    ) {
        let value = ev.replace_value(EpicsValue::Long(0));
        ev.replace_value(view.text(value));
    }
    ev
}

/// [`text_shaped`] for a [`ChannelRender::LongStringField`].
fn long_string_field_shaped(
    mut ev: epics_base_rs::server::pv::MonitorEvent,
) -> epics_base_rs::server::pv::MonitorEvent {
    if matches!(
        ev.value().as_value(),
        Some(EpicsValue::CharArray(_) | EpicsValue::UCharArray(_))
    ) {
        let value = ev.replace_value(EpicsValue::Long(0));
        ev.replace_value(long_string_field_text(value));
    }
    ev
}

/// `ev` with its snapshot collapsed to the one element the channel serves.
///
/// `replace_value` copies the post first: every other subscriber it reached
/// still holds it, and a channel's shape is not theirs to inherit.
fn scalar_shaped(
    mut ev: epics_base_rs::server::pv::MonitorEvent,
) -> epics_base_rs::server::pv::MonitorEvent {
    let collapsed = ev
        .value()
        .as_value()
        .and_then(|v| ChannelShape::Scalar.collapsed(v));
    if let Some(value) = collapsed {
        ev.replace_value(value);
    }
    ev
}

// ── PvField → EpicsValue (PUT path) ────────────────────────────────────

/// `write` inside the `asTrapWrite` put-log bracket pvxs's `SecurityLogger`
/// opens for every record put ([`epics_base_rs::server::access_security::put_with_trap`]).
async fn trapped_put<F, Fut>(
    db: &PvDatabase,
    checked: &epics_base_rs::server::access_security::AccessChecked,
    ctx: &crate::server_native::ChannelContext,
    cn: &ChannelName,
    rec: &epics_base_rs::server::record::RecordCell,
    epics: EpicsValue,
    write: F,
) -> Result<(), OpError>
where
    F: FnOnce(EpicsValue) -> Fut,
    Fut: std::future::Future<Output = Result<(), OpError>>,
{
    use epics_base_rs::server::access_security as acs;
    // pvxs logs `dbChannelFinalFieldType(pChan)`, i.e. the DBF of the
    // addressed field, not the type the client sent. This source keeps no
    // per-channel state, so the field is resolved here — and only when an
    // event would actually be dispatched, since resolving it clones the
    // field's current value.
    let dbr_type = if acs::trap_write_armed(checked.rule_was_trap()) {
        ChannelAddr::of(db, rec, &cn.field)
            .map(|addr| addr.channel_field_type(cn.string_view) as u16)
            .unwrap_or_default()
    } else {
        0
    };
    let peer = ctx.peer.to_string();
    let meta = acs::TrapWriteMeta {
        pv_name: checked.pv_name(),
        user: ctx.creds.account.as_bytes(),
        host: &ctx.creds.host,
        peer: &peer,
        dbr_type,
    };
    acs::put_with_trap(checked.rule_was_trap(), meta, epics, write).await
}

/// What a record channel's PUT does to the record.
enum RecordPut {
    /// Write this value, then process as the options ask.
    Write(PvField),
    /// Write nothing and post-process: pvxs's `putArray` of a null array.
    PostProcess,
    /// Write nothing, process nothing, reply once the record is free:
    /// pvxs's blocking `processRequest`.
    Nothing,
}

/// The record arm of every PUT, inside the put-log bracket. A put that
/// writes nothing logs the field as it stands, which is what the record
/// holds afterwards; `doPreProcessing`'s DISP gate still runs.
async fn put_record(
    db: &PvDatabase,
    checked: &epics_base_rs::server::access_security::AccessChecked,
    ctx: &crate::server_native::ChannelContext,
    (cn, filters): (&ChannelName, &FilterChain),
    rec: &epics_base_rs::server::record::RecordCell,
    put: RecordPut,
    opts: &PutOptions,
) -> Result<(), OpError> {
    let failed = |e: epics_base_rs::error::CaError| OpError::failed(e.to_string());
    let current = || {
        let value = rec.read().client_field_value(&cn.field);
        value.unwrap_or(EpicsValue::Long(0))
    };
    let put = async move {
        match put {
            RecordPut::Write(value) => {
                let (epics, char_address) = record_put_value(db, rec, cn, &value, filters)?;
                trapped_put(db, checked, ctx, cn, rec, epics, |v| {
                    put_record_field(db, cn, (v, char_address), opts)
                })
                .await
            }
            RecordPut::PostProcess => {
                trapped_put(db, checked, ctx, cn, rec, current(), |_| async {
                    db.process_field_from_client(&cn.record, &cn.field, opts.process)
                        .await
                        .map_err(failed)
                })
                .await
            }
            RecordPut::Nothing => {
                trapped_put(db, checked, ctx, cn, rec, current(), |_| async {
                    db.notify_unwritten_from_client(&cn.record, &cn.field)
                        .await
                        .map_err(failed)
                })
                .await
            }
        }
    };
    // pvxs's `CurrentOp` spans a put that does not wait
    // (`singlesource.cpp:371`); a blocking one went to `dbProcessNotify`.
    if opts.block {
        put.await
    } else {
        super::current_op::attached(ctx, put).await
    }
}

/// The record-arm backing write of a PVA PUT, shared by the ctx-less
/// [`ChannelSource::put_value`] and the audited `put_value_checked`.
///
/// A record-backed channel is an EXTERNAL client put, so it owes C
/// `dbPutField` (`dbAccess.c:1242-1282`), not `dbPut`: the DISP/no-mod
/// gates, the field write, the device write, the process the client's
/// `record._options.process` asked for and the monitor post.
/// [`PvDatabase::put_field_from_client`] is the one owner of that routing
/// — the QSRV bridge channel reaches the same entry — so the two PVA
/// servers cannot disagree about what `process=false` or `block=true`
/// means.
async fn put_record_field(
    db: &PvDatabase,
    cn: &ChannelName,
    (epics, char_address): (EpicsValue, bool),
    opts: &PutOptions,
) -> Result<(), OpError> {
    // The char address is the `$` name's.
    let field = if char_address {
        std::borrow::Cow::Owned(format!("{}$", cn.field))
    } else {
        std::borrow::Cow::Borrowed(cn.field.as_str())
    };
    db.put_field_from_client(&cn.record, &field, epics, opts.process, opts.block)
        .await
        .map_err(|e| OpError::failed(e.to_string()))
}

/// Read the PUT INIT pvRequest's `record._options.process` / `.block`.
///
/// pvxs reads both inside `onPut` from the INIT pvRequest, never from the
/// data-phase value (`ioc/singlesource.cpp:347-352`); the wire layer hands
/// that request down as `ChannelContext::pv_request`. An unsupported
/// `process` value is reported to the client through the operation's
/// `RemoteLog` by the shared parser, exactly as `setForceProcessingFlag`
/// does (`ioc/iocsource.cpp:446-447`).
fn put_options_from_ctx(ctx: &crate::server_native::ChannelContext) -> PutOptions {
    match ctx.pv_request.as_ref() {
        Some(PvField::Structure(s)) => PutOptions::from_pv_request(s, &ctx.log),
        _ => PutOptions::default(),
    }
}

/// A record channel's PUT payload as the value its field's put path takes,
/// and whether it goes through the field's char address. A string put to a
/// `$` channel or a [`ChannelValue::Text`] one is `putLongString`,
/// `dbPut(DBR_CHAR, str, strlen+1)` (`ioc/iocsource.cpp:511`), and a char
/// array put to a `$` channel is the same `dbPut(DBR_CHAR)`. Any other string
/// is `putScalar`'s `DBR_STRING`, `strncpy`'d into a `MAX_STRING_SIZE`
/// buffer first (`ioc/iocsource.cpp:499-500`).
fn record_put_value(
    db: &PvDatabase,
    rec: &epics_base_rs::server::record::RecordCell,
    cn: &ChannelName,
    value: &PvField,
    filters: &FilterChain,
) -> Result<(EpicsValue, bool), OpError> {
    use epics_base_rs::server::database::char_view::pva_char_request;
    let epics = put_payload_to_epics(value)?;
    // A char array is the `int8_t[]` only a `$` channel serves.
    let chars = match &epics {
        EpicsValue::CharArray(_) | EpicsValue::UCharArray(_) if !cn.string_view => None,
        v => pva_char_request(v),
    };
    if let Some(chars) = chars {
        if cn.string_view {
            return Ok((chars, true));
        }
        if let Some(addr) = ChannelAddr::of(db, rec, &cn.field)
            && let ChannelValue::Text(view) = ChannelValue::of_addr(&addr, &cn.field, filters)
            && !view.scalar()
        {
            // Only a field pvxs reshaped takes its chars by the `$` name; a
            // `DBF_CHAR` one already is them.
            return Ok((chars, addr.re_view().is_some()));
        }
    }
    let epics = match epics {
        EpicsValue::String(text) => {
            let bytes = text.as_bytes();
            EpicsValue::String(epics_base_rs::types::PvString::from_bytes(
                &bytes[..bytes.len().min(39)],
            ))
        }
        other => other,
    };
    Ok((epics, false))
}

/// Decode a record PUT payload down to the [`EpicsValue`] the field takes.
fn put_payload_to_epics(value: &PvField) -> Result<EpicsValue, OpError> {
    let scalar = extract_put_value_leaf(value)
        .ok_or_else(|| OpError::failed("PUT missing 'value' field"))?;
    pv_field_to_epics(&scalar)
        .ok_or_else(|| OpError::failed("PUT value not representable as EpicsValue"))
}

/// Extract the value leaf of a PUT `PvField`: the `value` member of an
/// NT structure, or the field itself for a bare scalar/array. An NTEnum
/// PUT carries `value` as an `enum_t { index, choices }`; pvxs writes
/// through `value.index` (`ioc/iocsource.cpp:589-593`).
fn extract_put_value_leaf(value: &PvField) -> Option<PvField> {
    match value {
        PvField::Structure(s) => match s.get_field("value") {
            Some(PvField::Structure(inner)) => inner.get_field("index").cloned(),
            other => other.cloned(),
        },
        other => Some(other.clone()),
    }
}

/// Read an integer-typed scalar field of a structure as `i64`, tolerating
/// whatever integer width the client encoded (NTScalar spec uses `int`
/// for alarm severity/status/userTag and `long` for secondsPastEpoch).
fn scalar_field_i64(s: &PvStructure, field: &str) -> Option<i64> {
    match s.get_field(field)? {
        PvField::Scalar(sv) => match sv {
            ScalarValue::Byte(x) => Some(i64::from(*x)),
            ScalarValue::Short(x) => Some(i64::from(*x)),
            ScalarValue::Int(x) => Some(i64::from(*x)),
            ScalarValue::Long(x) => Some(*x),
            ScalarValue::UByte(x) => Some(i64::from(*x)),
            ScalarValue::UShort(x) => Some(i64::from(*x)),
            ScalarValue::UInt(x) => Some(i64::from(*x)),
            ScalarValue::ULong(x) => i64::try_from(*x).ok(),
            _ => None,
        },
        _ => None,
    }
}

/// Build a full `Snapshot` from a mailbox PUT's NT structure: value plus
/// any explicitly-supplied `alarm` (severity/status) and `timeStamp`
/// (secondsPastEpoch/nanoseconds/userTag). Sub-fields the client did not
/// supply carry over from `prior` (which, after the delta merge, already
/// reflects the last posted value for unmarked members).
fn pv_field_to_snapshot(value: &PvField, prior: &Snapshot) -> Option<Snapshot> {
    let leaf = extract_put_value_leaf(value)?;
    let epics = pv_field_to_epics(&leaf)?;
    let mut snap = prior.clone();
    snap.value = epics;
    if let PvField::Structure(s) = value {
        if let Some(PvField::Structure(alarm)) = s.get_field("alarm") {
            if let Some(sev) = scalar_field_i64(alarm, "severity") {
                snap.alarm.severity = sev as u16;
            }
            if let Some(status) = scalar_field_i64(alarm, "status") {
                snap.alarm.status = status as u16;
            }
        }
        if let Some(PvField::Structure(ts)) = s.get_field("timeStamp") {
            if let (Some(secs), nanos) = (
                scalar_field_i64(ts, "secondsPastEpoch"),
                scalar_field_i64(ts, "nanoseconds").unwrap_or(0),
            ) {
                if secs >= 0 {
                    let nanos = nanos.clamp(0, 999_999_999) as u32;
                    // Inject the exact wire integers; a `SystemTime` would
                    // round `nanos` to 100 ns on Windows, dropping the low
                    // nsec a PVA PUT's `timeStamp.nanoseconds` carries.
                    snap.timestamp = WallTime::from_unix(secs as u64, nanos);
                }
            }
            if let Some(tag) = scalar_field_i64(ts, "userTag") {
                snap.user_tag = tag as i32;
            }
        }
    }
    Some(snap)
}

fn pv_field_to_epics(field: &PvField) -> Option<EpicsValue> {
    match field {
        PvField::Scalar(sv) => Some(scalar_to_epics(sv)),
        PvField::ScalarArray(items) => scalar_array_to_epics(items),
        // the PVA wire decoder delivers a decoded scalar array
        // as the refcount-shared `ScalarArrayTyped` form, not the
        // generic `ScalarArray`. Convert it directly from the typed
        // variant — never erase the element tag through
        // `to_scalar_values()` first. The earlier code did exactly
        // that and then recovered the type from the slice's first
        // element, so an empty typed array (`double[] {}`, `string[]
        // {}`) lost its type and was rejected, even though
        // `TypedScalarArray` still carries its `ScalarType` at length
        // zero. A PVA client could therefore not clear a waveform by
        // PUTing an empty typed array. pvxs encodes/decodes scalar
        // arrays by descriptor type, not by inspecting the first
        // element (`dataencode.cpp:315-352`), so a zero-length typed
        // array keeps its element type.
        PvField::ScalarArrayTyped(t) => Some(typed_array_to_epics(t)),
        _ => None,
    }
}

/// Convert a wire-decoded [`TypedScalarArray`] directly to the matching
/// [`EpicsValue`] array, preserving the element type at every length
/// (including zero). The per-variant element mapping mirrors
/// [`scalar_to_epics`] exactly, so a typed array and a scalar of the
/// same PVA type land in the same `EpicsValue` family — there is no
/// length boundary where the rule changes.
fn typed_array_to_epics(t: &TypedScalarArray) -> EpicsValue {
    match t {
        TypedScalarArray::Double(a) => EpicsValue::DoubleArray(a.to_shared()),
        TypedScalarArray::Float(a) => EpicsValue::FloatArray(a.to_shared()),
        TypedScalarArray::Int(a) => EpicsValue::LongArray(a.to_shared()),
        TypedScalarArray::Long(a) => EpicsValue::Int64Array(a.to_shared()),
        // PVA `uint`/`uint[]` carries the full `epicsUInt32` range; the
        // Rust value model has no unsigned-32 scalar, so `Int64Array`
        // is the lossless carrier (same rule as the scalar `UInt` arm).
        TypedScalarArray::UInt(a) => EpicsValue::Int64Array(a.iter().map(|x| *x as i64).collect()),
        // PVA `ulong[]` → `UInt64Array` keeps the full unsigned 64-bit width.
        TypedScalarArray::ULong(a) => EpicsValue::UInt64Array(a.to_shared()),
        TypedScalarArray::Short(a) => EpicsValue::ShortArray(a.to_shared()),
        // Byte/UByte → Char (bit-preserving), UShort/Boolean → Enum —
        // the same element rules `scalar_to_epics` applies to the
        // corresponding scalars.
        TypedScalarArray::Byte(a) => EpicsValue::CharArray(a.iter().map(|x| *x as u8).collect()),
        TypedScalarArray::UByte(a) => EpicsValue::CharArray(a.to_shared()),
        TypedScalarArray::UShort(a) => EpicsValue::EnumArray(a.to_shared()),
        TypedScalarArray::Boolean(a) => {
            EpicsValue::EnumArray(a.iter().map(|b| u16::from(*b)).collect())
        }
        TypedScalarArray::String(a) => EpicsValue::StringArray(a.to_shared()),
    }
}

fn scalar_array_to_epics(items: &[ScalarValue]) -> Option<EpicsValue> {
    if items.is_empty() {
        return None;
    }
    match &items[0] {
        ScalarValue::Double(_) => Some(EpicsValue::DoubleArray(
            items
                .iter()
                .filter_map(|v| match v {
                    ScalarValue::Double(x) => Some(*x),
                    _ => None,
                })
                .collect(),
        )),
        ScalarValue::Int(_) => Some(EpicsValue::LongArray(
            items
                .iter()
                .filter_map(|v| match v {
                    ScalarValue::Int(x) => Some(*x),
                    _ => None,
                })
                .collect(),
        )),
        ScalarValue::Long(_) => Some(EpicsValue::Int64Array(
            items
                .iter()
                .filter_map(|v| match v {
                    ScalarValue::Long(x) => Some(*x),
                    _ => None,
                })
                .collect(),
        )),
        // PVA `uint[]` has no array arm here, so a `DBF_ULONG`
        // waveform PUT fell through to `None` and was rejected as
        // "PUT value not representable as EpicsValue". Mirror the
        // scalar `UInt -> Int64` rule: `Int64Array` carries the full
        // `epicsUInt32` range of every element losslessly.
        ScalarValue::UInt(_) => Some(EpicsValue::Int64Array(
            items
                .iter()
                .filter_map(|v| match v {
                    ScalarValue::UInt(x) => Some(*x as i64),
                    _ => None,
                })
                .collect(),
        )),
        ScalarValue::Float(_) => Some(EpicsValue::FloatArray(
            items
                .iter()
                .filter_map(|v| match v {
                    ScalarValue::Float(x) => Some(*x),
                    _ => None,
                })
                .collect(),
        )),
        // PVA `ulong[]` has no array arm here, so a
        // `DBF_UINT64` waveform PUT fell through to `None` and was
        // rejected as "PUT value not representable as EpicsValue".
        // Preserve the unsigned 64-bit elements as
        // `EpicsValue::UInt64Array`; `convert_to(DBF_UINT64)` is
        // then a no-op and any other array target still coerces.
        ScalarValue::ULong(_) => Some(EpicsValue::UInt64Array(
            items
                .iter()
                .filter_map(|v| match v {
                    ScalarValue::ULong(x) => Some(*x),
                    _ => None,
                })
                .collect(),
        )),
        _ => None,
    }
}

fn scalar_to_epics(v: &ScalarValue) -> EpicsValue {
    match v {
        ScalarValue::Boolean(b) => EpicsValue::Enum(if *b { 1 } else { 0 }),
        ScalarValue::Byte(x) => EpicsValue::Char(*x as u8),
        ScalarValue::Short(x) => EpicsValue::Short(*x),
        ScalarValue::Int(x) => EpicsValue::Long(*x),
        ScalarValue::Long(x) => EpicsValue::Int64(*x),
        ScalarValue::UByte(x) => EpicsValue::Char(*x),
        ScalarValue::UShort(x) => EpicsValue::Enum(*x),
        // PVA `uint` is unsigned 32-bit. Casting it through `i32`
        // sign-flips `0x8000_0000..=0xffff_ffff` to negative before
        // `PvDatabase::put_pv` can coerce to the target field. The
        // Rust value model has no unsigned-32 scalar; `Int64` carries
        // the full `epicsUInt32` range losslessly, matching the
        // `DBF_ULONG` convention used by the `ts` filter
        // (`server/database/filters/ts.rs`) and pvxs's
        // `uint32_t -> uint64_t` storage (`pvxs/src/pvxs/data.h:64-67`).
        ScalarValue::UInt(x) => EpicsValue::Int64(*x as i64),
        // PVA `ulong` is unsigned 64-bit. Narrowing it to
        // `EpicsValue::Long` (i32) here drops the upper 32 bits before
        // `PvDatabase::put_pv` can coerce to the target `DBF_UINT64`
        // field. Preserve the full width as `EpicsValue::UInt64`; the
        // database's `convert_to(DBF_UINT64)` is then a no-op
        // (`db_field_type()` already matches), and any other target
        // field type still coerces faithfully from the unsigned value.
        ScalarValue::ULong(x) => EpicsValue::UInt64(*x),
        ScalarValue::Float(x) => EpicsValue::Float(*x),
        ScalarValue::Double(x) => EpicsValue::Double(*x),
        ScalarValue::String(s) => EpicsValue::String(s.clone()),
    }
}

#[allow(unused_imports)]
use crate::error::PvaError;

#[cfg(test)]
#[path = "post_ring_alloc_tests.rs"]
mod post_ring_alloc_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server_native::ChannelContext;
    use epics_base_rs::server::access_security::parse_acf;
    use epics_base_rs::server::snapshot::PropertySupport;
    use epics_base_rs::types::PvString;

    fn make_ctx(host: &str, account: &str, method: &str) -> ChannelContext {
        use std::net::{IpAddr, Ipv4Addr, SocketAddr};
        ChannelContext {
            peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1)), 0),
            creds: std::sync::Arc::new(crate::server_native::config::ClientCredentials {
                account: account.into(),
                method: method.to_string(),
                host: host.to_string(),
                authority: String::new(),
                roles: Vec::new(),
            }),
            pv_request: None,
            log: Default::default(),
        }
    }

    /// Test-only compat layer that reproduces the
    /// pre-refactor `*_ctx` shape on top of the new gate +
    /// `*_checked` typed API. Production callers in `tcp.rs` go
    /// through the gate directly; only these regression tests
    /// retain the legacy call shape for clarity.
    trait PvaSourceTestExt {
        async fn put_value_ctx(
            &self,
            pv: &str,
            value: PvField,
            ctx: ChannelContext,
        ) -> Result<(), String>;
        async fn get_value_ctx(&self, pv: &str, ctx: ChannelContext) -> Option<PvField>;
        async fn subscribe_ctx(
            &self,
            pv: &str,
            ctx: ChannelContext,
        ) -> Option<MonitorStream<PvField>>;
    }

    impl PvaSourceTestExt for PvDatabaseSource {
        async fn put_value_ctx(
            &self,
            pv: &str,
            value: PvField,
            ctx: ChannelContext,
        ) -> Result<(), String> {
            let checked = self
                .access()
                .check(
                    pv,
                    &ctx.creds.host,
                    &ctx.creds.account,
                    &ctx.creds.method,
                    "",
                )
                .await;
            self.put_value_checked(checked, value, ctx)
                .await
                .map_err(|e| e.message)
        }
        async fn get_value_ctx(&self, pv: &str, ctx: ChannelContext) -> Option<PvField> {
            let checked = self
                .access()
                .check(
                    pv,
                    &ctx.creds.host,
                    &ctx.creds.account,
                    &ctx.creds.method,
                    "",
                )
                .await;
            self.get_value_checked(checked, ctx).await
        }
        async fn subscribe_ctx(
            &self,
            pv: &str,
            ctx: ChannelContext,
        ) -> Option<MonitorStream<PvField>> {
            let checked = self
                .access()
                .check(
                    pv,
                    &ctx.creds.host,
                    &ctx.creds.account,
                    &ctx.creds.method,
                    "",
                )
                .await;
            self.subscribe_checked(checked, ctx).await
        }
    }

    fn pv_double(v: f64) -> PvField {
        // Top-level scalar PvField — put_value / put_value_ctx accept
        // both NTScalar and bare scalar.
        PvField::Scalar(ScalarValue::Double(v))
    }

    /// The seven leaves the NT declares but pvxs never assigns on a read.
    /// Marking any of them tells a client a fabricated zero is authoritative.
    const NEVER_MARKED: [&str; 7] = [
        "control.minStep",
        "valueAlarm.active",
        "valueAlarm.lowAlarmSeverity",
        "valueAlarm.lowWarningSeverity",
        "valueAlarm.highWarningSeverity",
        "valueAlarm.highAlarmSeverity",
        "valueAlarm.hysteresis",
    ];

    fn leaves_for(props: PropertySupport, is_value_field: bool) -> Vec<String> {
        let mut snap = Snapshot::new(EpicsValue::Double(0.0), 0, 0, std::time::UNIX_EPOCH);
        snap.properties = props;
        read_leaves(&snap, is_value_field)
    }

    fn enum_leaves_for(props: PropertySupport) -> Vec<String> {
        let mut snap = Snapshot::new(EpicsValue::Enum(0), 0, 0, std::time::UNIX_EPOCH);
        snap.properties = props;
        read_leaves(&snap, false)
    }

    /// An NTEnum's `value` is a STRUCT. Marking bare `value` would mark both
    /// children, carrying `choices` in on the value's mark and bypassing the
    /// `DBR_ENUM_STRS` bit that owns it. pvxs assigns the enum through
    /// `value.index` (`iocsource.cpp:589-593`), so the mark must be the index
    /// leaf — never the parent.
    #[test]
    fn an_enum_read_marks_the_index_leaf_not_the_value_parent() {
        let leaves = enum_leaves_for(PropertySupport::NONE);
        assert!(
            leaves.contains(&"value.index".to_string()),
            "the enum value must be marked through its index leaf, got {leaves:?}"
        );
        assert!(
            !leaves.contains(&"value".to_string()),
            "marking the `value` parent would drag `choices` in with it: {leaves:?}"
        );
    }

    /// C `dbAccess.c:176-179`: a `DTYP` whose record type declares no
    /// `device()` has `ftPvt == NULL` and takes `goto nostrs`, clearing
    /// `DBR_ENUM_STRS`. QSRV2 then OMITS `value.choices` rather than sending it
    /// empty — `dbAccess.c:205`: *"option data not available. distinct from
    /// no_str==0"*. Measured: `ORACLE:CALC.DTYP` shipped `{0}[]` where C sends
    /// nothing.
    #[test]
    fn an_enum_with_no_enum_strs_omits_choices_entirely() {
        let leaves = enum_leaves_for(PropertySupport::NONE);
        // Both halves are load-bearing: a bare `value` mark COVERS
        // `value.choices` without ever naming it, which is exactly how the
        // measured `{0}[]` shipped. Asserting only the absence of the
        // `value.choices` string passes on the defective code.
        assert!(
            !leaves.contains(&"value.choices".to_string()),
            "no DBR_ENUM_STRS => the choices leaf is not marked: {leaves:?}"
        );
        assert!(
            !leaves.contains(&"value".to_string()),
            "nor may it be covered by a mark on the `value` parent: {leaves:?}"
        );
    }

    /// The other side of the same distinction: `ai` DOES declare device
    /// support, so its `DTYP` supplies the bit and both leaves are marked.
    #[test]
    fn an_enum_that_supplies_enum_strs_marks_index_and_choices() {
        let leaves = enum_leaves_for(PropertySupport {
            enum_strs: true,
            ..PropertySupport::NONE
        });
        assert!(leaves.contains(&"value.index".to_string()));
        assert!(leaves.contains(&"value.choices".to_string()));
    }

    /// A plain scalar's `value` IS the leaf — it must keep its bare mark; the
    /// index split is the enum shape's alone.
    #[test]
    fn a_scalar_read_still_marks_the_bare_value_leaf() {
        let leaves = leaves_for(PropertySupport::NUMERIC, true);
        assert!(leaves.contains(&"value".to_string()));
        assert!(!leaves.contains(&"value.index".to_string()));
    }

    /// The invariant, over every one of the 64 possible rset support masks:
    /// a read never marks a leaf `getProperties` does not assign.
    #[test]
    fn a_read_never_marks_the_seven_unassigned_leaves() {
        for bits in 0u8..64 {
            let props = PropertySupport {
                units: bits & 1 != 0,
                precision: bits & 2 != 0,
                graphic_double: bits & 4 != 0,
                control_double: bits & 8 != 0,
                alarm_double: bits & 16 != 0,
                enum_strs: bits & 32 != 0,
            };
            for vf in [true, false] {
                let leaves = leaves_for(props, vf);
                for n in NEVER_MARKED {
                    assert!(
                        !leaves.contains(&n.to_string()),
                        "mask {bits:06b} (is_value_field={vf}) marked {n}",
                    );
                }
            }
        }
    }

    /// `ai`: every rset slot present, `DBF_DOUBLE` VAL. Pinned against the
    /// `softIocPVX` delta the oracle measured for `record(ai,"…"){}`.
    #[test]
    fn full_numeric_record_marks_the_measured_pvxs_leaf_set() {
        let mut got = leaves_for(PropertySupport::NUMERIC, true);
        got.sort();
        let mut want: Vec<String> = [
            "value",
            "alarm",
            "timeStamp",
            "display.limitLow",
            "display.limitHigh",
            "display.description",
            "display.units",
            "display.precision",
            "display.form.index",
            "display.form.choices",
            "control.limitLow",
            "control.limitHigh",
            "valueAlarm.lowAlarmLimit",
            "valueAlarm.lowWarningLimit",
            "valueAlarm.highWarningLimit",
            "valueAlarm.highAlarmLimit",
        ]
        .iter()
        .map(|s| s.to_string())
        .collect();
        want.sort();
        assert_eq!(got, want);
    }

    /// `longin`: the narrowed mask arrives with `precision: false` because
    /// `dbGet` clears `DBR_PRECISION` for a non-float field, so no
    /// `display.precision` is marked even though the NT declares it.
    /// Measured: pvxs prints no `display.precision` for a `longin`.
    #[test]
    fn integer_record_marks_limits_but_not_precision() {
        let leaves = leaves_for(
            PropertySupport {
                precision: false,
                ..PropertySupport::NUMERIC
            },
            true,
        );
        assert!(leaves.contains(&"display.limitLow".to_string()));
        assert!(!leaves.contains(&"display.precision".to_string()));
    }

    /// `stringin`/`stringout`: no rset property slot at all, so the only
    /// display leaf marked is `description` — NOT `units`, which the string
    /// NT declares. Measured: pvxs prints `display.description` alone.
    #[test]
    fn record_with_no_property_slots_marks_only_description() {
        let leaves = leaves_for(PropertySupport::NONE, true);
        assert!(leaves.contains(&"display.description".to_string()));
        assert!(!leaves.contains(&"display.units".to_string()));
        assert!(!leaves.contains(&"display.limitLow".to_string()));
        assert!(!leaves.contains(&"control.limitLow".to_string()));
    }

    /// `display.form.index` is `initialize`'s VAL-only leaf
    /// (`if(dbIsValueField(…))`, `iocsource.cpp:54`): a channel on `REC.RVAL`
    /// gets the choices but not the index. `choices` is marked either way.
    #[test]
    fn form_index_is_marked_only_for_a_val_channel() {
        let val = leaves_for(PropertySupport::NUMERIC, true);
        assert!(val.contains(&"display.form.index".to_string()));
        assert!(val.contains(&"display.form.choices".to_string()));

        let rval = leaves_for(PropertySupport::NUMERIC, false);
        assert!(!rval.contains(&"display.form.index".to_string()));
        assert!(rval.contains(&"display.form.choices".to_string()));
    }

    /// An enum record (`bi`/`mbbi`) supplies `DBR_ENUM_STRS`, so the read
    /// marks `value.choices` — the leaf the NTEnum shape carries and the
    /// plain-scalar shape does not.
    #[test]
    fn enum_record_marks_value_choices() {
        let leaves = leaves_for(
            PropertySupport {
                enum_strs: true,
                ..PropertySupport::NONE
            },
            true,
        );
        assert!(leaves.contains(&"value.choices".to_string()));
    }

    /// Look up a scalar sub-field of a timeStamp/display/valueAlarm meta
    /// structure by name, for the NT-meta synthesizer regression tests.
    fn scalar(s: &PvStructure, name: &str) -> ScalarValue {
        match &s
            .fields
            .iter()
            .find(|(n, _)| n == name)
            .unwrap_or_else(|| panic!("missing field {name}"))
            .1
        {
            PvField::Scalar(v) => v.clone(),
            other => panic!("field {name} is not a scalar: {other:?}"),
        }
    }

    /// The `name` sub-structure of the tree `snap` fills.
    fn event_struct(snap: &Snapshot, name: &str) -> PvStructure {
        let PvField::Structure(root) = snapshot_to_pv_field(snap, 0) else {
            panic!("an NT root");
        };
        match root.get_field(name) {
            Some(PvField::Structure(s)) => s.clone(),
            other => panic!("{name} must be a structure, got {other:?}"),
        }
    }

    /// Names of `desc`'s immediate children, or panic if it is not a struct.
    fn child_names(desc: &FieldDesc) -> Vec<String> {
        let FieldDesc::Structure { fields, .. } = desc else {
            panic!("expected a structure, got {desc:?}");
        };
        fields.iter().map(|(n, _)| n.clone()).collect()
    }

    fn child<'a>(desc: &'a FieldDesc, name: &str) -> &'a FieldDesc {
        let FieldDesc::Structure { fields, .. } = desc else {
            panic!("expected a structure, got {desc:?}");
        };
        &fields
            .iter()
            .find(|(n, _)| n == name)
            .unwrap_or_else(|| panic!("missing member {name}"))
            .1
    }

    fn desc_of(v: EpicsValue) -> FieldDesc {
        snapshot_to_field_desc(&Snapshot::new(v, 0, 0, std::time::UNIX_EPOCH))
    }

    /// `display.form` — pvxs has emitted it for every numeric NTScalar since
    /// 1.2.0, because QSRV passes `form=true` (`ioc/singlesource.cpp:203`,
    /// `src/nt.cpp:67-77`). Measured absent from the port against
    /// `softIocPVX` on `ai`.
    #[test]
    fn numeric_nt_declares_display_form_enum() {
        let desc = desc_of(EpicsValue::Double(0.0));
        let display = child(&desc, "display");
        assert_eq!(
            child_names(display),
            [
                "limitLow",
                "limitHigh",
                "description",
                "units",
                "precision",
                "form"
            ],
        );
        let form = child(display, "form");
        let FieldDesc::Structure { struct_id, .. } = form else {
            panic!("form must be a structure");
        };
        assert_eq!(struct_id, "enum_t");
        assert!(matches!(
            child(form, "index"),
            FieldDesc::Scalar(ScalarType::Int)
        ));
        assert!(matches!(
            child(form, "choices"),
            FieldDesc::ScalarArray(ScalarType::String)
        ));
    }

    /// `valueAlarm.hysteresis` is `Float64` — `src/nt.cpp:109`. The port
    /// declared `uint8_t`, which is a different wire type in the same slot.
    #[test]
    fn value_alarm_hysteresis_is_double() {
        let desc = desc_of(EpicsValue::Double(0.0));
        let va = child(&desc, "valueAlarm");
        assert!(matches!(
            child(va, "hysteresis"),
            FieldDesc::Scalar(ScalarType::Double)
        ));
    }

    /// pvxs cuts every limit from `value.scalarOf()` (`Member(scalar,
    /// "limitLow")`, `src/nt.cpp:61-104`), so a `longin` advertises `int32_t`
    /// limits — not the `double` the port hard-coded. Measured against
    /// `softIocPVX`: `display.limitLow int32_t = 0`.
    #[test]
    fn integer_nt_limits_take_the_value_type() {
        let desc = desc_of(EpicsValue::Long(0));
        for (parent, leaf) in [
            ("display", "limitLow"),
            ("display", "limitHigh"),
            ("control", "limitLow"),
            ("control", "minStep"),
            ("valueAlarm", "lowAlarmLimit"),
            ("valueAlarm", "highAlarmLimit"),
        ] {
            assert!(
                matches!(
                    child(child(&desc, parent), leaf),
                    FieldDesc::Scalar(ScalarType::Int)
                ),
                "{parent}.{leaf} must be int32_t for a DBF_LONG value",
            );
        }
        // ...but hysteresis is Float64 regardless of the value type, and
        // precision stays Int32.
        assert!(matches!(
            child(child(&desc, "valueAlarm"), "hysteresis"),
            FieldDesc::Scalar(ScalarType::Double)
        ));
        assert!(matches!(
            child(child(&desc, "display"), "precision"),
            FieldDesc::Scalar(ScalarType::Int)
        ));
    }

    /// pvxs's `isnumeric` gate (`src/nt.cpp:55`): a string value carries
    /// `display = {description, units}` and NO `control` / `valueAlarm` at
    /// all. The port declared the full numeric shape for `stringin`/
    /// `stringout`, which is what made those two cases diverge.
    #[test]
    fn string_nt_omits_control_value_alarm_and_numeric_display() {
        let desc = desc_of(EpicsValue::String("x".into()));
        let names = child_names(&desc);
        assert_eq!(names, ["value", "alarm", "timeStamp", "display"]);
        assert_eq!(
            child_names(child(&desc, "display")),
            ["description", "units"]
        );
    }

    /// A numeric ARRAY is the same `NTScalar::build()` with an array value
    /// type, so it keeps `control`/`valueAlarm` with ELEMENT-typed limits
    /// (pvxs `src/nt.cpp:44-112`). The port dropped both for every array.
    #[test]
    fn numeric_array_nt_keeps_control_and_value_alarm() {
        let desc = desc_of(EpicsValue::LongArray(vec![1, 2].into()));
        let FieldDesc::Structure { struct_id, .. } = &desc else {
            panic!("expected a structure");
        };
        assert_eq!(struct_id, "epics:nt/NTScalarArray:1.0");
        assert_eq!(
            child_names(&desc),
            [
                "value",
                "alarm",
                "timeStamp",
                "display",
                "control",
                "valueAlarm"
            ],
        );
        assert!(matches!(
            child(child(&desc, "control"), "limitLow"),
            FieldDesc::Scalar(ScalarType::Int)
        ));
    }

    /// The served value and the advertised type are projections of one
    /// configuration, so every leaf of one must exist, with the same type, in
    /// the other. This is the invariant the two hand-rolled builders could
    /// not hold.
    #[test]
    fn value_and_introspection_agree_for_every_value_kind() {
        for v in [
            EpicsValue::Double(1.0),
            EpicsValue::Long(1),
            EpicsValue::Short(1),
            EpicsValue::Char(1),
            EpicsValue::String("s".into()),
            EpicsValue::DoubleArray(vec![1.0].into()),
            EpicsValue::StringArray(vec!["s".into()].into()),
        ] {
            let snap = Snapshot::new(v.clone(), 0, 0, std::time::UNIX_EPOCH);
            let desc = snapshot_to_field_desc(&snap);
            let value = snapshot_to_pv_field(&snap, 0);
            crate::pvdata::value_matches_descriptor(&value, &desc)
                .unwrap_or_else(|e| panic!("value/desc mismatch for {v:?}: {e}"));
        }
    }

    /// `display.form.choices` carries the fixed seven-entry `Q:form` menu —
    /// `IOCSource::initialize` (`iocsource.cpp:39-65`). Measured on the C
    /// side for `ai`; the port sent an empty array.
    #[test]
    fn form_choices_carry_the_qform_menu() {
        let snap = Snapshot::new(EpicsValue::Double(0.0), 0, 0, std::time::UNIX_EPOCH);
        let PvField::Structure(root) = snapshot_to_pv_field(&snap, 0) else {
            panic!("NT must be a structure");
        };
        let PvField::Structure(display) = root.get_field("display").expect("display") else {
            panic!("display must be a structure");
        };
        let PvField::Structure(form) = display.get_field("form").expect("form") else {
            panic!("form must be a structure");
        };
        let PvField::ScalarArray(choices) = form.get_field("choices").expect("choices") else {
            panic!("choices must be a scalar array");
        };
        let got: Vec<String> = choices
            .iter()
            .map(|c| match c {
                ScalarValue::String(s) => s.to_string(),
                other => panic!("choice not a string: {other:?}"),
            })
            .collect();
        assert_eq!(
            got,
            [
                "Default",
                "String",
                "Binary",
                "Decimal",
                "Hex",
                "Exponential",
                "Engineering"
            ],
        );
    }

    /// `display.form.index` is the position of the channel's `Q:form` tag in
    /// that menu (`iocsource.cpp:54-61`), not a constant 0. The VAL-only
    /// rule is applied upstream by the record
    /// (`record_instance.rs:4742-4746`), so what reaches here is already
    /// narrowed and this source must simply publish it.
    #[test]
    fn form_index_follows_the_snapshot_qform_tag() {
        use epics_base_rs::server::snapshot::DisplayInfo;
        for (form, expect) in [(0i16, 0i32), (4, 4), (6, 6)] {
            let mut snap = Snapshot::new(EpicsValue::Double(0.0), 0, 0, std::time::UNIX_EPOCH);
            snap.display = Some(DisplayInfo {
                form,
                ..Default::default()
            });
            let PvField::Structure(root) = snapshot_to_pv_field(&snap, 0) else {
                panic!("NT must be a structure");
            };
            let PvField::Structure(display) = root.get_field("display").expect("display") else {
                panic!("display must be a structure");
            };
            let PvField::Structure(f) = display.get_field("form").expect("form") else {
                panic!("form must be a structure");
            };
            assert!(
                matches!(f.get_field("index"), Some(PvField::Scalar(ScalarValue::Int(i))) if *i == expect),
                "Q:form {form} must publish index {expect}, got {:?}",
                f.get_field("index")
            );
        }
    }

    #[test]
    fn fill_timestamp_uses_snapshot_acquisition_time_and_user_tag() {
        // pvxs `iocsource.cpp:240-248`: timeStamp carries the record's
        // acquisition time + userTag, not the serialization wall-clock.
        // Inject the exact (secs, nsec); a `SystemTime` rounds 123_456_789 to
        // 100 ns on Windows before `fill_timestamp` ever reads it.
        let ts = WallTime::from_unix(1_700_000_000, 123_456_789);
        let mut snap = Snapshot::new(EpicsValue::Double(1.0), 0, 0, ts);
        snap.user_tag = 42;
        let t = event_struct(&snap, "timeStamp");
        assert!(matches!(
            scalar(&t, "secondsPastEpoch"),
            ScalarValue::Long(1_700_000_000)
        ));
        assert!(matches!(
            scalar(&t, "nanoseconds"),
            ScalarValue::Int(123_456_789)
        ));
        assert!(matches!(scalar(&t, "userTag"), ScalarValue::Int(42)));
    }

    /// The eleven `getProperties` leaves an NTScalar(double) carries, paired
    /// with the sentinel each holds when the channel supplies its group.
    #[cfg(test)]
    fn sentinel_property_leaves() -> Vec<(&'static str, ScalarValue)> {
        vec![
            ("display.units", ScalarValue::String("SNT".into())),
            ("display.precision", ScalarValue::Int(7)),
            ("display.description", ScalarValue::String("DSC".into())),
            ("display.limitLow", ScalarValue::Double(-91.0)),
            ("display.limitHigh", ScalarValue::Double(91.0)),
            ("control.limitLow", ScalarValue::Double(-51.0)),
            ("control.limitHigh", ScalarValue::Double(51.0)),
            ("valueAlarm.lowAlarmLimit", ScalarValue::Double(-81.0)),
            ("valueAlarm.lowWarningLimit", ScalarValue::Double(-71.0)),
            ("valueAlarm.highWarningLimit", ScalarValue::Double(71.0)),
            ("valueAlarm.highAlarmLimit", ScalarValue::Double(81.0)),
        ]
    }

    #[cfg(test)]
    fn sentinel_snapshot(props: PropertySupport) -> Snapshot {
        use epics_base_rs::server::snapshot::{ControlInfo, DisplayInfo};
        let mut snap = Snapshot::new(EpicsValue::Double(1.0), 0, 0, std::time::UNIX_EPOCH);
        snap.properties = props;
        snap.display = Some(DisplayInfo {
            units: "SNT".into(),
            precision: 7,
            description: "DSC".into(),
            upper_disp_limit: 91.0,
            lower_disp_limit: -91.0,
            upper_alarm_limit: 81.0,
            upper_warning_limit: 71.0,
            lower_warning_limit: -71.0,
            lower_alarm_limit: -81.0,
            form: 0,
        });
        snap.control = Some(ControlInfo {
            upper_ctrl_limit: 51.0,
            lower_ctrl_limit: -51.0,
        });
        snap
    }

    #[cfg(test)]
    fn all_property_masks() -> Vec<PropertySupport> {
        (0u8..64)
            .map(|bits| PropertySupport {
                units: bits & 1 != 0,
                precision: bits & 2 != 0,
                graphic_double: bits & 4 != 0,
                control_double: bits & 8 != 0,
                alarm_double: bits & 16 != 0,
                enum_strs: bits & 32 != 0,
            })
            .collect()
    }

    /// The fill writes EXACTLY the leaves `property_leaves` marks — no more.
    ///
    /// This is the invariant that used to hold only by coincidence. The fill
    /// gated on `snap.display.is_some()`, the mark on `props.alarm_double`
    /// and friends, and they agreed only because every producer sets the bits
    /// as `display.is_some()`. They disagree the moment a bit is clear while
    /// the block exists, which `narrowed_to_field` does routinely: an
    /// `ai.RVAL` channel clears `precision` for its `DBF_LONG` field after
    /// the record-level cache has stored `PREC`. On the old code every mask
    /// below wrote all eleven leaves, so the record's numbers sat in leaves
    /// the channel does not supply. Nothing marks those leaves, so no native
    /// wire frame carried them; the wrong numbers rode in the value every
    /// unmarked consumer reads — the trait's value-only `get_value_checked`,
    /// and through it `put_delta_checked`'s prior-value merge.
    #[test]
    fn the_fill_writes_exactly_the_leaves_property_leaves_marks() {
        for props in all_property_masks() {
            let snap = sentinel_snapshot(props);
            let marked: Vec<&str> = crate::nt::property_leaves(props);
            let mut root = snapshot_to_pv_field(&snap, 0);
            for (path, sentinel) in sentinel_property_leaves() {
                let Some(PvField::Scalar(got)) = leaf_mut(&mut root, path) else {
                    panic!("{path} must exist on an NTScalar(double)");
                };
                if marked.contains(&path) {
                    assert_eq!(
                        *got, sentinel,
                        "{path} is marked for {props:?} but does not carry the channel's value"
                    );
                } else {
                    let default = match sentinel {
                        ScalarValue::String(_) => ScalarValue::String(Default::default()),
                        ScalarValue::Int(_) => ScalarValue::Int(0),
                        _ => ScalarValue::Double(0.0),
                    };
                    assert_eq!(
                        *got, default,
                        "{path} is NOT marked for {props:?}, so it must keep the descriptor \
                         default rather than the record's number"
                    );
                }
            }
        }
    }

    /// An NTEnum channel whose `DBR_ENUM_STRS` bit is clear serves no label
    /// list even when the snapshot happens to carry one.
    ///
    /// The same dual gate as the NTScalar limits: `property_leaves` marks
    /// `value.choices` under `props.enum_strs`, and `build_nt_enum` used to
    /// fill it whenever `snap.enums` was `Some`. `dbGet` clears the bit for a
    /// DTYP whose record type declares no `device()` (C's `goto nostrs`,
    /// `dbAccess.c:176-179`), which is `dbAccess.c:205`'s *"option data not
    /// available, distinct from no_str==0"*.
    #[test]
    fn an_enum_channel_that_does_not_supply_labels_serves_no_choices() {
        use epics_base_rs::server::snapshot::EnumInfo;
        let mut snap = Snapshot::new(EpicsValue::Enum(1), 0, 0, std::time::UNIX_EPOCH);
        snap.enums = Some(EnumInfo::new(vec!["OFF".into(), "ON".into()]));
        assert!(!snap.properties.enum_strs);
        let PvField::Structure(s) = snapshot_to_pv_field(&snap, 0) else {
            panic!("NTEnum must be a structure");
        };
        let Some(PvField::Structure(value)) = s.get_field("value") else {
            panic!("value must be an enum_t");
        };
        let Some(PvField::ScalarArray(choices)) = value.get_field("choices") else {
            panic!("choices must be a scalar array");
        };
        assert!(
            choices.is_empty(),
            "the channel does not supply DBR_ENUM_STRS, so the labels must \
             not be filled: {choices:?}"
        );
    }

    /// Every leaf `property_leaves` can name has an arm in
    /// [`write_property_leaf`], so a marked leaf is always a written one.
    ///
    /// Without this the two lists drift silently: a leaf added to
    /// `property_leaves` would reach clients marked but never assigned,
    /// which is a zero a Delta client reads as authoritative.
    #[test]
    fn every_property_leaf_has_a_writer() {
        use epics_base_rs::server::snapshot::{ControlInfo, DisplayInfo};
        let (d, c) = (DisplayInfo::default(), ControlInfo::default());
        for props in all_property_masks() {
            for leaf in crate::nt::property_leaves(props) {
                let mut v = snapshot_to_pv_field(&sentinel_snapshot(props), 0);
                assert!(
                    write_property_leaf(&mut v, leaf, &d, &c),
                    "{leaf} is marked for {props:?} but has no writer"
                );
            }
        }
    }

    /// A channel that CLAIMS a group and carries no metadata block still
    /// writes every leaf it marks.
    ///
    /// `alarm_double: true` with `display: None` is the producer the two
    /// gates could not agree on: `property_leaves` marks the four
    /// `valueAlarm.*Limit`, and the old fill — keyed on the block — assigned
    /// none of them. It is value-identical to the fixed code today, because
    /// `DisplayInfo::default()` and the descriptor default are both zero, so
    /// this pins the RULE rather than a byte: the block's `Option`-ness says
    /// where the numbers live, never whether the leaf is served. C has no
    /// such state at all — `dbGet` clears the option bit for a NULL slot
    /// (`dbAccess.c:336-427`), so "supplied but absent" cannot arise there,
    /// and a producer that constructs it is the bug, not this path.
    #[test]
    fn a_claimed_group_with_no_metadata_block_is_still_written() {
        let mut snap = Snapshot::new(EpicsValue::Double(1.0), 0, 0, std::time::UNIX_EPOCH);
        snap.properties = PropertySupport::NUMERIC;
        assert!(snap.display.is_none() && snap.control.is_none());

        let marked = read_leaves(&snap, true);
        let mut root = snapshot_to_pv_field(&snap, 0);
        for (path, _) in sentinel_property_leaves() {
            assert!(
                marked.iter().any(|m| m == path),
                "{path} must be marked for a channel declaring every numeric slot"
            );
            let Some(PvField::Scalar(_)) = leaf_mut(&mut root, path) else {
                panic!("{path} must exist and be assigned, not skipped");
            };
        }
        let Some(PvField::Scalar(hi)) = leaf_mut(&mut root, "valueAlarm.highAlarmLimit") else {
            panic!("highAlarmLimit");
        };
        assert_eq!(*hi, ScalarValue::Double(0.0));
    }

    #[test]
    fn build_value_alarm_uses_display_alarm_limits() {
        // pvxs `iocsource.cpp:300-303`: valueAlarm limits come from
        // DBR_AL_DOUBLE (DisplayInfo alarm/warning limits), not 0.0.
        use epics_base_rs::server::snapshot::DisplayInfo;
        let mut snap = Snapshot::new(EpicsValue::Double(1.0), 0, 0, std::time::UNIX_EPOCH);
        // The rset slot, not the presence of the block, is what decides the
        // four leaves are served — `property_leaves` reads this bit and so
        // does the fill.
        snap.properties.alarm_double = true;
        snap.display = Some(DisplayInfo {
            lower_alarm_limit: -10.0,
            lower_warning_limit: -5.0,
            upper_warning_limit: 5.0,
            upper_alarm_limit: 10.0,
            ..Default::default()
        });
        let PvField::Structure(root) = snapshot_to_pv_field(&snap, 0) else {
            panic!("NT must be a structure");
        };
        let PvField::Structure(v) = root.get_field("valueAlarm").expect("valueAlarm") else {
            panic!("valueAlarm must be a structure");
        };
        let get = |name: &str| match scalar(v, name) {
            ScalarValue::Double(x) => x,
            other => panic!("{name} not Double: {other:?}"),
        };
        assert_eq!(get("lowAlarmLimit"), -10.0);
        assert_eq!(get("lowWarningLimit"), -5.0);
        assert_eq!(get("highWarningLimit"), 5.0);
        assert_eq!(get("highAlarmLimit"), 10.0);
    }

    #[test]
    fn build_display_emits_description() {
        // pvxs `iocsource.cpp:306-308`: display.description carries the
        // record DESC; in Rust it is DisplayInfo.description, not "".
        use epics_base_rs::server::snapshot::DisplayInfo;
        let mut snap = Snapshot::new(EpicsValue::Double(1.0), 0, 0, std::time::UNIX_EPOCH);
        // DESC has no option gate (`iocsource.cpp:307-310`); EGU has one.
        snap.properties.units = true;
        snap.display = Some(DisplayInfo {
            description: "chamber pressure".into(),
            units: "Torr".into(),
            ..Default::default()
        });
        let PvField::Structure(root) = snapshot_to_pv_field(&snap, 0) else {
            panic!("NT must be a structure");
        };
        let PvField::Structure(d) = root.get_field("display").expect("display") else {
            panic!("display must be a structure");
        };
        assert!(matches!(
            scalar(d, "description"),
            ScalarValue::String(s) if s == "chamber pressure"
        ));
        assert!(matches!(
            scalar(d, "units"),
            ScalarValue::String(s) if s == "Torr"
        ));
    }

    #[test]
    fn fill_alarm_message_is_condition_string() {
        // pvxs `iocsource.cpp:226,236`: alarm.message is the condition
        // string for a non-zero status, "" for NO_ALARM.
        let mut snap = Snapshot::new(EpicsValue::Double(1.0), 0, 0, std::time::UNIX_EPOCH);
        snap.alarm.status = alarm_status::HIHI_ALARM;
        snap.alarm.severity = 2;
        let a = event_struct(&snap, "alarm");
        assert!(matches!(
            scalar(&a, "message"),
            ScalarValue::String(s) if s == "HIHI"
        ));

        // NO_ALARM keeps an empty message.
        let ok = Snapshot::new(EpicsValue::Double(1.0), 0, 0, std::time::UNIX_EPOCH);
        let a = event_struct(&ok, "alarm");
        assert!(matches!(
            scalar(&a, "message"),
            ScalarValue::String(s) if s.is_empty()
        ));

        // A tree that held "HIHI" and is filled in place again with NO_ALARM
        // serves "", not the old message's bytes.
        let mut v = snapshot_to_pv_field(&snap, 0);
        let layout = NtLayout::new(NtShape::of(&ok));
        fill_nt_event(&mut v, &layout.event, &LogLeaves::of_snapshot(&ok, 0));
        assert_eq!(v, snapshot_to_pv_field(&ok, 0));
    }

    /// Every event leaf resolves, on every NT shape, to the member the dotted
    /// path names in a tree built from that shape.
    #[test]
    fn event_leaves_resolve_to_the_named_member() {
        let values = [
            EpicsValue::Double(1.0),
            EpicsValue::Enum(1),
            EpicsValue::String(PvString::from("s")),
            EpicsValue::DoubleArray(vec![1.0, 2.0].into()),
        ];
        for value in &values {
            for properties in [PropertySupport::NONE, PropertySupport::NUMERIC] {
                let shape = NtShape::new(value, properties);
                let layout = NtLayout::new(shape);
                let mut tree = crate::pvdata::encode::default_value_for(&shape.desc());
                let value_path = match value {
                    EpicsValue::Enum(_) => "value.index",
                    _ => "value",
                };
                let at = layout.event;
                for (at, path) in [
                    (at.value, value_path),
                    (at.severity, "alarm.severity"),
                    (at.status, "alarm.status"),
                    (at.message, "alarm.message"),
                    (at.seconds, "timeStamp.secondsPastEpoch"),
                    (at.nanoseconds, "timeStamp.nanoseconds"),
                    (at.user_tag, "timeStamp.userTag"),
                ] {
                    let at = at.unwrap_or_else(|| panic!("{shape:?}: {path} unresolved"));
                    let by_index: *const PvField = at.get(&mut tree).expect(path);
                    let by_name: *const PvField = leaf_mut(&mut tree, path).expect(path);
                    assert_eq!(by_index, by_name, "{shape:?}: {path}");
                }
            }
        }
    }

    #[test]
    fn fill_alarm_prefers_carried_amsg_over_condition_string() {
        // pvxs `iocsource.cpp:230-236`: a non-empty carried amsg wins over
        // the synthesized condition string. mbboDirect raises UDF with the
        // bespoke "UDFS" (`mbboDirectRecord.c:191`), so an undefined
        // mbboDirect serves alarm.message = "UDFS", NOT the "UDF" condition.
        let mut snap = Snapshot::new(EpicsValue::Enum(0), 0, 0, std::time::UNIX_EPOCH);
        snap.alarm.status = alarm_status::UDF_ALARM;
        snap.alarm.severity = 3;
        snap.alarm.amsg = "UDFS".to_string();
        let a = event_struct(&snap, "alarm");
        assert!(
            matches!(scalar(&a, "message"), ScalarValue::String(s) if s == "UDFS"),
            "non-empty carried amsg must win over the UDF condition string"
        );

        // Empty amsg with a non-zero status falls back to the condition
        // string — how every non-mbboDirect UDF record (empty namsg from
        // plain recGblSetSevr) serves "UDF".
        let mut generic = Snapshot::new(EpicsValue::Double(0.0), 0, 0, std::time::UNIX_EPOCH);
        generic.alarm.status = alarm_status::UDF_ALARM;
        generic.alarm.severity = 3;
        assert!(generic.alarm.amsg.is_empty());
        let a = event_struct(&generic, "alarm");
        assert!(
            matches!(scalar(&a, "message"), ScalarValue::String(s) if s == "UDF"),
            "empty amsg must fall back to the condition string"
        );

        // Empty amsg with NO_ALARM stays "".
        let ok = Snapshot::new(EpicsValue::Double(1.0), 0, 0, std::time::UNIX_EPOCH);
        let a = event_struct(&ok, "alarm");
        assert!(matches!(scalar(&a, "message"), ScalarValue::String(s) if s.is_empty()));
    }

    #[test]
    fn fill_alarm_status_is_pva_class_not_raw_condition() {
        // pvxs `iocsource.cpp:187-223`: emit the alarm *class* (0–6), not
        // the raw EPICS condition. A `LINK_ALARM = 14` must surface as
        // class 3 (RECORD), never 14.
        let mut snap = Snapshot::new(EpicsValue::Double(1.0), 0, 0, std::time::UNIX_EPOCH);
        snap.alarm.status = alarm_status::LINK_ALARM;
        let a = event_struct(&snap, "alarm");
        assert!(
            matches!(scalar(&a, "status"), ScalarValue::Int(3)),
            "LINK_ALARM (14) must map to status class 3 (RECORD)"
        );

        // Whole condition→class table, one representative per class.
        assert_eq!(alarm_status_class(alarm_status::NO_ALARM), 0); // NONE
        assert_eq!(alarm_status_class(alarm_status::HIGH_ALARM), 1); // DEVICE
        assert_eq!(alarm_status_class(alarm_status::HW_LIMIT_ALARM), 1); // DEVICE
        assert_eq!(alarm_status_class(alarm_status::COMM_ALARM), 2); // DRIVER
        assert_eq!(alarm_status_class(alarm_status::UDF_ALARM), 2); // DRIVER
        assert_eq!(alarm_status_class(alarm_status::CALC_ALARM), 3); // RECORD
        assert_eq!(alarm_status_class(alarm_status::SCAN_ALARM), 3); // RECORD
        assert_eq!(alarm_status_class(alarm_status::DISABLE_ALARM), 4); // DB
        assert_eq!(alarm_status_class(alarm_status::WRITE_ACCESS_ALARM), 4); // DB
        // Out-of-range / unmapped → UNDEFINED.
        assert_eq!(alarm_status_class(99), 6);
    }

    #[test]
    fn enum_snapshot_builds_nt_enum_value_and_desc() {
        // pvxs `ioc/singlesource.cpp:200-204`: a DBR_ENUM scalar surfaces
        // as `epics:nt/NTEnum:1.0` with `value.index` + `value.choices`,
        // not a numeric NTScalar.
        use epics_base_rs::server::snapshot::EnumInfo;
        let mut snap = Snapshot::new(EpicsValue::Enum(1), 0, 0, std::time::UNIX_EPOCH);
        snap.properties.enum_strs = true;
        snap.enums = Some(EnumInfo::new(vec!["OFF".into(), "ON".into()]));

        // value: NTEnum struct id + nested enum_t { index, choices }.
        let PvField::Structure(s) = snapshot_to_pv_field(&snap, 0) else {
            panic!("NTEnum value must be a structure");
        };
        assert_eq!(s.struct_id, "epics:nt/NTEnum:1.0");
        // pvxs NTEnum carries no control/valueAlarm.
        assert!(s.get_field("control").is_none(), "NTEnum has no control");
        assert!(
            s.get_field("valueAlarm").is_none(),
            "NTEnum has no valueAlarm"
        );
        let Some(PvField::Structure(value)) = s.get_field("value") else {
            panic!("NTEnum.value must be an enum_t structure");
        };
        assert_eq!(value.struct_id, "enum_t");
        assert!(matches!(
            value.get_field("index"),
            Some(PvField::Scalar(ScalarValue::Int(1)))
        ));
        let Some(PvField::ScalarArray(choices)) = value.get_field("choices") else {
            panic!("NTEnum.value.choices must be a scalar array");
        };
        assert_eq!(
            choices,
            &vec![
                ScalarValue::String("OFF".into()),
                ScalarValue::String("ON".into())
            ]
        );

        // descriptor must stay in lockstep with the value shape.
        let FieldDesc::Structure {
            struct_id, fields, ..
        } = snapshot_to_field_desc(&snap)
        else {
            panic!("NTEnum descriptor must be a structure");
        };
        assert_eq!(struct_id, "epics:nt/NTEnum:1.0");
        let value_desc = &fields.iter().find(|(n, _)| n == "value").unwrap().1;
        let FieldDesc::Structure {
            struct_id: vid,
            fields: vfields,
            ..
        } = value_desc
        else {
            panic!("NTEnum value descriptor must be a structure");
        };
        assert_eq!(vid, "enum_t");
        assert!(matches!(
            vfields.iter().find(|(n, _)| n == "index").unwrap().1,
            FieldDesc::Scalar(ScalarType::Int)
        ));
        assert!(matches!(
            vfields.iter().find(|(n, _)| n == "choices").unwrap().1,
            FieldDesc::ScalarArray(ScalarType::String)
        ));

        // An enum snapshot with no choice metadata yields empty choices,
        // not a panic or a missing field.
        let bare = Snapshot::new(EpicsValue::Enum(0), 0, 0, std::time::UNIX_EPOCH);
        let PvField::Structure(bs) = snapshot_to_pv_field(&bare, 0) else {
            panic!("structure");
        };
        let Some(PvField::Structure(bv)) = bs.get_field("value") else {
            panic!("enum_t");
        };
        assert!(matches!(
            bv.get_field("choices"),
            Some(PvField::ScalarArray(c)) if c.is_empty()
        ));
    }

    /// `DBF_CHAR` is signed on the pvAccess wire: pvxs `fromDbrType` maps
    /// `DBR_CHAR -> TypeCode::Int8` and `DBR_UCHAR -> TypeCode::UInt8`
    /// (`ioc/typeutils.cpp:32-35`). A `Char` value of 200 (0xC8) must serve as
    /// the signed byte −56 with a `byte` descriptor, not unsigned 200/`ubyte`
    /// — while the unsigned `UChar` twin stays `ubyte`/200. Both the value and
    /// the descriptor path are covered so they cannot drift apart.
    #[test]
    fn dbf_char_serves_as_signed_byte_uchar_stays_unsigned() {
        let ts = std::time::UNIX_EPOCH;

        // Scalar DBF_CHAR → signed byte (value + descriptor).
        let snap = Snapshot::new(EpicsValue::Char(200), 0, 0, ts);
        let PvField::Structure(s) = snapshot_to_pv_field(&snap, 0) else {
            panic!("NTScalar value must be a structure");
        };
        let Some(PvField::Scalar(ScalarValue::Byte(b))) = s.get_field("value") else {
            panic!(
                "DBF_CHAR value must be a signed byte scalar, got {:?}",
                s.get_field("value")
            );
        };
        assert_eq!(*b, -56, "DBF_CHAR 200 must serve as signed byte −56");
        let FieldDesc::Structure { fields, .. } = snapshot_to_field_desc(&snap) else {
            panic!("NTScalar descriptor must be a structure");
        };
        assert!(
            matches!(
                fields.iter().find(|(n, _)| n == "value").unwrap().1,
                FieldDesc::Scalar(ScalarType::Byte)
            ),
            "DBF_CHAR descriptor must be signed `byte`"
        );

        // Scalar DBF_UCHAR → unsigned byte (the untouched twin).
        let usnap = Snapshot::new(EpicsValue::UChar(200), 0, 0, ts);
        let PvField::Structure(us) = snapshot_to_pv_field(&usnap, 0) else {
            panic!("structure");
        };
        let Some(PvField::Scalar(ScalarValue::UByte(u))) = us.get_field("value") else {
            panic!("DBF_UCHAR value must be an unsigned byte scalar");
        };
        assert_eq!(*u, 200, "DBF_UCHAR must stay unsigned 200");

        // Array DBF_CHAR[] → signed byte[], element-wise (value + descriptor).
        let asnap = Snapshot::new(EpicsValue::CharArray(vec![200, 0, 127].into()), 0, 0, ts);
        let PvField::Structure(a) = snapshot_to_pv_field(&asnap, 0) else {
            panic!("structure");
        };
        let Some(PvField::ScalarArrayTyped(TypedScalarArray::Byte(arr))) = a.get_field("value")
        else {
            panic!("DBF_CHAR[] value must be a signed byte array");
        };
        assert_eq!(
            arr.as_slice(),
            &[-56i8, 0, 127],
            "DBF_CHAR[] must serve as signed byte[]"
        );
        let FieldDesc::Structure {
            fields: afields, ..
        } = snapshot_to_field_desc(&asnap)
        else {
            panic!("structure");
        };
        assert!(
            matches!(
                afields.iter().find(|(n, _)| n == "value").unwrap().1,
                FieldDesc::ScalarArray(ScalarType::Byte)
            ),
            "DBF_CHAR[] descriptor must be signed `byte[]`"
        );
    }

    #[test]
    fn non_utf8_units_and_enum_choices_survive_pva_metadata_encoder() {
        // pvxs serialises wire strings verbatim (`pvaproto.h:403`). EPICS
        // EGU (`display.units`) and enum state labels (`value.choices`) are
        // raw record bytes with no UTF-8 guarantee, so a non-UTF-8 EGU or
        // choice must reach the wire unmangled. The metadata boundary
        // (DisplayInfo.units / EnumInfo.strings) must be byte-preserving,
        // not a lossy `String` round-trip.
        use crate::proto::buffer::ByteOrder;
        use crate::pvdata::encode::{decode_scalar_value, encode_scalar_value};
        use epics_base_rs::server::snapshot::{DisplayInfo, EnumInfo};
        use std::io::Cursor;

        // 0xFF/0x00/0xFE/0x80 make this byte sequence invalid UTF-8, so a
        // `String` conversion anywhere on the path would mangle it.
        let raw = vec![0xFFu8, 0x00, 0xFE, b'd', b'e', b'g', 0x80];

        // Encode a String scalar to the wire and decode it back.
        let round_trip = |sv: &ScalarValue| -> ScalarValue {
            let mut buf = Vec::new();
            encode_scalar_value(sv, ByteOrder::Little, &mut buf);
            let mut cur = Cursor::new(buf.as_slice());
            decode_scalar_value(ScalarType::String, &mut cur, ByteOrder::Little).unwrap()
        };

        // display.units boundary: producer struct, then wire round-trip.
        let mut snap = Snapshot::new(EpicsValue::Double(1.0), 0, 0, std::time::UNIX_EPOCH);
        snap.properties.units = true;
        snap.display = Some(DisplayInfo {
            units: PvString::from_bytes(raw.clone()),
            ..Default::default()
        });
        let PvField::Structure(root) = snapshot_to_pv_field(&snap, 0) else {
            panic!("NT must be a structure");
        };
        let PvField::Structure(d) = root.get_field("display").expect("display") else {
            panic!("display must be a structure");
        };
        let ScalarValue::String(units) = scalar(d, "units") else {
            panic!("units must be a string scalar");
        };
        assert_eq!(
            units.as_bytes(),
            raw.as_slice(),
            "units bytes lost at the producer->struct boundary"
        );
        let ScalarValue::String(units_wire) = round_trip(&ScalarValue::String(units.clone()))
        else {
            panic!("decoded units must stay a string");
        };
        assert_eq!(
            units_wire.as_bytes(),
            raw.as_slice(),
            "units bytes mangled by the wire encoder"
        );

        // value.choices boundary: producer struct, then wire round-trip.
        let mut esnap = Snapshot::new(EpicsValue::Enum(0), 0, 0, std::time::UNIX_EPOCH);
        esnap.properties.enum_strs = true;
        esnap.enums = Some(EnumInfo::new(vec![PvString::from_bytes(raw.clone())]));
        let PvField::Structure(s) = snapshot_to_pv_field(&esnap, 0) else {
            panic!("NTEnum value must be a structure");
        };
        let Some(PvField::Structure(value)) = s.get_field("value") else {
            panic!("NTEnum.value must be a structure");
        };
        let Some(PvField::ScalarArray(choices)) = value.get_field("choices") else {
            panic!("choices must be a scalar array");
        };
        let ScalarValue::String(choice) = &choices[0] else {
            panic!("choice must be a string scalar");
        };
        assert_eq!(
            choice.as_bytes(),
            raw.as_slice(),
            "enum choice bytes lost at the producer->struct boundary"
        );
        let ScalarValue::String(choice_wire) = round_trip(&ScalarValue::String(choice.clone()))
        else {
            panic!("decoded choice must stay a string");
        };
        assert_eq!(
            choice_wire.as_bytes(),
            raw.as_slice(),
            "enum choice bytes mangled by the wire encoder"
        );
    }

    /// The live shape of the defect the property gate closes: a channel on
    /// `ai.RVAL`.
    ///
    /// `populate_display_info` caches the record's PREC once, at record
    /// level; `assign_property_support` then clears `precision` for the
    /// DBF_LONG field (`dbAccess.c:386-395` gates `DBR_PRECISION` on
    /// `DBF_FLOAT`/`DBF_DOUBLE`), and `route_field_metadata`'s
    /// `recGblGetPrec` tail runs only for float/double fields, so nothing
    /// clears the cached 4. Measured on this record: `RVAL` arrives with
    /// `props.precision == false` and `display.precision == Some(4)`.
    ///
    /// Filling on the block meant storing that 4 where pvxs, reading into a
    /// `cloneEmpty()`, assigns nothing. The marks keep it off the native
    /// wire — GET, the PUT readback and the monitor seed all frame
    /// `read_checked`, not the value-only `get_value_checked` an earlier
    /// revision of this comment named — so what the assertion below pins is
    /// the value itself: a leaf the channel does not supply must hold the
    /// descriptor default, not the record's number.
    #[epics_macros_rs::epics_test]
    async fn an_rval_channel_does_not_serve_the_records_precision() {
        use std::collections::HashMap;
        let (database, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(ai, "P:AI") { field(PREC, "4") field(EGU, "mm") }"#,
                &HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        let rec = database.get_record("P:AI").expect("record");
        let snap = rec.read().snapshot_for_field("RVAL").expect("snapshot");
        assert!(!snap.properties.precision, "RVAL supplies no DBR_PRECISION");
        assert_eq!(
            snap.display.as_ref().map(|d| d.precision),
            Some(4),
            "the record-level cache still holds PREC, which is what made this bite"
        );

        let mut root = snapshot_to_pv_field(&snap, 0);
        let Some(PvField::Scalar(got)) = leaf_mut(&mut root, "display.precision") else {
            panic!("display.precision must exist on the NT");
        };
        assert_eq!(
            *got,
            ScalarValue::Int(0),
            "a channel that supplies no precision must not carry the record's"
        );
        assert!(
            !read_leaves(&snap, false)
                .iter()
                .any(|l| l == "display.precision"),
            "and it must not be marked either"
        );
    }

    #[epics_macros_rs::epics_test]
    async fn put_nt_enum_dereferences_value_index() {
        // pvxs `ioc/iocsource.cpp:589-593`: an NTEnum PUT is dereferenced
        // through `value.index`. A round trip through the native source
        // must land the index on the backing enum record.
        use epics_base_rs::server::records::mbbi::MbbiRecord;

        let db = Arc::new(PvDatabase::new());
        db.add_record("ENUM:PV", Box::new(MbbiRecord::new(0)))
            .await
            .unwrap();
        let src = PvDatabaseSource::new(db.clone());

        // NTEnum-shaped PUT carrying value.index = 1.
        let mut value = PvStructure::new("enum_t");
        value
            .fields
            .push(("index".into(), PvField::Scalar(ScalarValue::Int(1))));
        let mut nt = PvStructure::new("epics:nt/NTEnum:1.0");
        nt.fields.push(("value".into(), PvField::Structure(value)));

        src.put_value_ctx(
            "ENUM:PV",
            PvField::Structure(nt),
            make_ctx("127.0.0.1", "anon", "ca"),
        )
        .await
        .expect("NTEnum PUT must succeed");

        // Read back: value.index must reflect the put.
        let got = src
            .get_value_ctx("ENUM:PV", make_ctx("127.0.0.1", "anon", "ca"))
            .await
            .expect("GET must return a value");
        let PvField::Structure(s) = got else {
            panic!("expected NTEnum structure");
        };
        let Some(PvField::Structure(v)) = s.get_field("value") else {
            panic!("expected enum_t value");
        };
        assert!(
            matches!(
                v.get_field("index"),
                Some(PvField::Scalar(ScalarValue::Int(1)))
            ),
            "NTEnum PUT must land on value.index"
        );
    }

    /// The search/create gates by boundary, one case per boundary rather than
    /// per scenario. `searchable` is the dbd-name question (pvxs
    /// `dbChannelTest`); `has_pv` is the can-this-be-served question (pvxs
    /// `getValuePrototype`). The two answers must differ exactly on a name
    /// whose record exists but whose field cannot be served.
    ///
    /// Measured against `softIocPVX` on `record(ai,"ORACLE:AI")`:
    /// `pvxget ORACLE:AI.MLOK` → `Refused to create Channel`, i.e. the search
    /// WAS answered (a refusal can only follow a CREATE_CHANNEL, which only
    /// follows a successful search) and the create was refused.
    #[epics_macros_rs::epics_test]
    async fn search_claims_every_dbd_name_but_create_gates_on_a_servable_field() {
        use epics_base_rs::server::records::ai::AiRecord;

        let db = Arc::new(PvDatabase::new());
        db.add_record("ORACLE:AI", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        db.add_pv("SIMPLE:PV", EpicsValue::Double(1.0))
            .await
            .unwrap();
        let src = PvDatabaseSource::new(db.clone());

        // Boundary: record base name — servable (VAL), both gates true.
        assert!(src.searchable(b"ORACLE:AI").await);
        assert!(src.has_pv(b"ORACLE:AI").await);

        // Boundary: an explicitly addressed servable field.
        assert!(src.searchable(b"ORACLE:AI.EGU").await);
        assert!(src.has_pv(b"ORACLE:AI.EGU").await);

        // Boundary: THE case. `MLOK` is `DBF_NOACCESS` in ai.dbd (a mutex, so
        // this port models no field for it). The record resolves, so search
        // must still answer; the field has no value, so create must refuse.
        // This is the one name where the two gates disagree.
        assert!(
            src.searchable(b"ORACLE:AI.MLOK").await,
            "a DBF_NOACCESS field's record resolves, so pvxs answers the \
             SEARCH — withholding it would replace `Refused to create \
             Channel` with a client timeout"
        );
        assert!(
            !src.has_pv(b"ORACLE:AI.MLOK").await,
            "a DBF_NOACCESS field has no NT, so CREATE_CHANNEL must be refused \
             rather than claimed and later failed with `field introspection \
             unavailable`"
        );

        // Boundary: `$` on a field that does not take it. softIocPVX on
        // `record(ai,"DL:AI")` / a DOUBLE waveform `DL:WF`: `pvxget DL:AI.VAL$`
        // and `DL:WF.VAL$` → `Refused to create Channel`; `DL:AI.NOSUCH$` gets
        // no answer.
        db.add_record(
            "DL:WF",
            Box::new(
                epics_base_rs::server::records::waveform::WaveformRecord::new(
                    4,
                    epics_base_rs::types::DbFieldType::Double,
                ),
            ),
        )
        .await
        .unwrap();
        for name in ["ORACLE:AI.VAL$", "DL:WF.VAL$"] {
            assert!(src.searchable(name.as_bytes()).await, "{name}");
            assert!(!src.has_pv(name.as_bytes()).await, "{name}");
        }
        assert!(!src.searchable(b"ORACLE:AI.NOSUCH$").await);

        // Boundary: a record that does not exist at all — neither gate.
        assert!(!src.searchable(b"NO:SUCH:RECORD").await);
        assert!(!src.has_pv(b"NO:SUCH:RECORD").await);

        // Boundary: a simple PV has no field to narrow, so the stricter create
        // gate must not change its answer.
        assert!(src.searchable(b"SIMPLE:PV").await);
        assert!(src.has_pv(b"SIMPLE:PV").await);
    }

    /// Regression: a monitor on a *simple* native PV must observe later
    /// PUTs, not just the connect-time snapshot. Pre-fix the `Simple` arm
    /// sent one snapshot and dropped the channel, so a PVA PUT through the
    /// same server never reached the monitor. pvxs `SharedPV::post()` fans
    /// every update out to its stored subscribers (`sharedpv.cpp:417-440`).
    /// The `value` leaf of a monitor frame, whether the source framed a bare
    /// scalar or a full NT structure.
    fn monitor_double(field: &PvField) -> Option<f64> {
        match field {
            PvField::Scalar(ScalarValue::Double(v)) => Some(*v),
            PvField::Structure(s) => match s.get_field("value") {
                Some(PvField::Scalar(ScalarValue::Double(v))) => Some(*v),
                _ => None,
            },
            _ => None,
        }
    }

    #[epics_macros_rs::epics_test]
    async fn simple_pv_monitor_observes_later_puts() {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("SIMPLE:MON", EpicsValue::Double(1.0))
            .await
            .unwrap();
        let src = PvDatabaseSource::new(db.clone());

        let mut rx = src
            .subscribe_ctx("SIMPLE:MON", make_ctx("127.0.0.1", "anon", "ca"))
            .await
            .expect("subscribe to simple PV");

        // Connect-time snapshot.
        let first = rx.recv().await.expect("initial monitor snapshot");
        assert_eq!(monitor_double(&first), Some(1.0));

        // A PVA PUT through the same source must reach the monitor.
        src.put_value_ctx(
            "SIMPLE:MON",
            pv_double(2.0),
            make_ctx("127.0.0.1", "anon", "ca"),
        )
        .await
        .expect("PUT must succeed");

        let updated =
            epics_base_rs::runtime::task::timeout(std::time::Duration::from_secs(2), rx.recv())
                .await
                .expect("monitor must receive the PUT update within 2s")
                .expect("monitor stream still open");
        assert_eq!(
            monitor_double(&updated),
            Some(2.0),
            "simple-PV monitor must observe the PUT, not only the initial snapshot"
        );
    }

    /// A mailbox PV's monitor reads the PV's metadata at delivery, as its
    /// GET does: metadata installed after subscribe reaches the next update.
    #[epics_macros_rs::epics_test]
    async fn a_simple_pv_monitor_reads_its_metadata_at_delivery() {
        use epics_base_rs::server::pv::PvMetadata;
        use epics_base_rs::server::snapshot::DisplayInfo;

        let db = Arc::new(PvDatabase::new());
        db.add_pv("SIMPLE:META", EpicsValue::Double(1.0))
            .await
            .unwrap();
        let src = PvDatabaseSource::new(db.clone());
        let mut rx = src
            .subscribe_ctx("SIMPLE:META", make_ctx("127.0.0.1", "anon", "ca"))
            .await
            .expect("subscribe to simple PV");
        rx.recv().await.expect("initial monitor snapshot");

        db.find_pv("SIMPLE:META")
            .expect("the PV")
            .set_metadata(PvMetadata {
                display: Some(DisplayInfo {
                    units: "um".into(),
                    ..Default::default()
                }),
                control: None,
                enums: None,
            });
        src.put_value_ctx(
            "SIMPLE:META",
            pv_double(2.0),
            make_ctx("127.0.0.1", "anon", "ca"),
        )
        .await
        .expect("PUT must succeed");
        let updated =
            epics_base_rs::runtime::task::timeout(std::time::Duration::from_secs(2), rx.recv())
                .await
                .expect("monitor must receive the PUT update within 2s")
                .expect("monitor stream still open");
        let PvField::Structure(root) = &updated else {
            panic!("an NTScalar root")
        };
        let units = match root.get_field("display") {
            Some(PvField::Structure(d)) => d.get_field("units").cloned(),
            _ => None,
        };
        assert_eq!(
            units,
            Some(PvField::Scalar(ScalarValue::String("um".into()))),
            "the update carries the metadata read at delivery"
        );
    }

    /// Regression: PVA PUT must be gated through ACF when
    /// the source was built with ACF enforcement. Pre-fix the PVA
    /// server stored ACF only as `#[allow(dead_code)]` and never
    /// called `check_access*` — every client could PUT regardless
    /// of UAG/HAG/RULE configuration.
    #[epics_macros_rs::epics_test]
    async fn put_value_ctx_denies_when_acf_writeable_rule_unmet() {
        use epics_base_rs::server::records::ai::AiRecord;

        // ACF: only `admin` user on `host:lab` may WRITE.
        let acf_text = r#"
UAG(admins) { admin }
HAG(lab) { lab-pc1 }
ASG(SECURE) {
    RULE(1, READ)
    RULE(1, WRITE) { UAG(admins) HAG(lab) }
}
"#;
        let acf = parse_acf(acf_text).unwrap();

        let db = Arc::new(PvDatabase::new());
        db.add_record("AI:SECURE", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        // Mark the record as belonging to the SECURE ASG.
        let rec = db.get_record("AI:SECURE").unwrap();
        rec.write().common.text.asg = "SECURE".to_string();

        let source = PvDatabaseSource::new_with_acf(
            db.clone(),
            epics_base_rs::server::access_security::new_acf_cell(Some(acf)),
        );

        // Allowed: admin from lab-pc1 — must succeed.
        source
            .put_value_ctx(
                "AI:SECURE",
                pv_double(1.0),
                make_ctx("lab-pc1", "admin", "anonymous"),
            )
            .await
            .expect("admin/lab-pc1 must be allowed to PUT");

        // Denied: regular user from a non-lab host — must fail with
        // a recognisable error.
        let err = source
            .put_value_ctx(
                "AI:SECURE",
                pv_double(2.0),
                make_ctx("intruder-pc", "guest", "anonymous"),
            )
            .await
            .expect_err("non-admin must be denied");
        assert!(
            err.contains("denied by access security"),
            "denial reason must be visible: {err:?}",
        );
    }

    /// Regression: ACF must also gate READ. A peer with
    /// NoAccess on the record's ASG must observe the same shape as
    /// "PV not found" (None) — the wire layer surfaces this as
    /// ECA_NORDACCESS-equivalent.
    #[epics_macros_rs::epics_test]
    async fn get_value_ctx_denies_when_acf_no_access() {
        use epics_base_rs::server::records::ai::AiRecord;

        // ACF: only members of `ops` UAG may READ, denying everyone
        // else (no fall-through RULE).
        let acf_text = r#"
UAG(ops) { alice }
ASG(LOCKED) {
    RULE(1, READ) { UAG(ops) }
}
"#;
        let acf = parse_acf(acf_text).unwrap();

        let db = Arc::new(PvDatabase::new());
        db.add_record("AI:LOCKED", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        let rec = db.get_record("AI:LOCKED").unwrap();
        rec.write().common.text.asg = "LOCKED".to_string();

        let source = PvDatabaseSource::new_with_acf(
            db.clone(),
            epics_base_rs::server::access_security::new_acf_cell(Some(acf)),
        );

        // alice gets a value back.
        let v = source
            .get_value_ctx("AI:LOCKED", make_ctx("h", "alice", "anonymous"))
            .await;
        assert!(v.is_some(), "alice must be allowed to read");

        // intruder gets None — same shape as unknown PV, surfaced as
        // an access-denied at the wire layer.
        let v = source
            .get_value_ctx("AI:LOCKED", make_ctx("h", "intruder", "anonymous"))
            .await;
        assert!(v.is_none(), "intruder must be denied at READ time");
    }

    /// subscribe_ctx must also deny when peer has
    /// NoAccess.
    #[epics_macros_rs::epics_test]
    async fn subscribe_ctx_denies_when_acf_no_access() {
        use epics_base_rs::server::records::ai::AiRecord;

        let acf_text = r#"
UAG(ops) { alice }
ASG(LOCKED) {
    RULE(1, READ) { UAG(ops) }
}
"#;
        let acf = parse_acf(acf_text).unwrap();

        let db = Arc::new(PvDatabase::new());
        db.add_record("AI:MON", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        let rec = db.get_record("AI:MON").unwrap();
        rec.write().common.text.asg = "LOCKED".to_string();

        let source = PvDatabaseSource::new_with_acf(
            db.clone(),
            epics_base_rs::server::access_security::new_acf_cell(Some(acf)),
        );

        let rx = source
            .subscribe_ctx("AI:MON", make_ctx("h", "alice", "anonymous"))
            .await;
        assert!(rx.is_some(), "alice MONITOR must be allowed");

        let rx = source
            .subscribe_ctx("AI:MON", make_ctx("h", "intruder", "anonymous"))
            .await;
        assert!(rx.is_none(), "intruder MONITOR must be denied");
    }

    /// Regression: AcfCell swap takes effect on the next
    /// ACF check. A subsequent PUT after the swap must use the new
    /// policy. Proves the RwLock-backed reload path actually
    /// influences the source's behaviour (the reload path plumbs
    /// `PvaServer::reload_acf_from` to write into this cell).
    #[epics_macros_rs::epics_test]
    async fn acf_swap_takes_effect_on_next_put() {
        use epics_base_rs::server::records::ai::AiRecord;

        // Initial: deny everyone.
        let lockdown = parse_acf(
            r#"
ASG(SECURE) {
    RULE(1, READ)
}
"#,
        )
        .unwrap();
        let cell: AcfCell = epics_base_rs::server::access_security::new_acf_cell(Some(lockdown));

        let db = Arc::new(PvDatabase::new());
        db.add_record("AI:LIVE", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        let rec = db.get_record("AI:LIVE").unwrap();
        rec.write().common.text.asg = "SECURE".to_string();

        let source = PvDatabaseSource::new_with_acf(db.clone(), cell.clone());

        // First put: denied (READ-only ASG).
        assert!(
            source
                .put_value_ctx(
                    "AI:LIVE",
                    pv_double(1.0),
                    make_ctx("h", "anyone", "anonymous"),
                )
                .await
                .is_err(),
            "initial policy must deny PUT"
        );

        // Hot-swap: open up WRITE for everyone.
        let permissive = parse_acf(
            r#"
ASG(SECURE) {
    RULE(1, READ)
    RULE(1, WRITE)
}
"#,
        )
        .unwrap();
        cell.store(Some(Arc::new(permissive)));

        // Second put: succeeds under the new policy.
        source
            .put_value_ctx(
                "AI:LIVE",
                pv_double(2.0),
                make_ctx("h", "anyone", "anonymous"),
            )
            .await
            .expect("post-swap policy must allow PUT");
    }

    /// When the source is built without ACF, behaviour
    /// matches the old `put_value` path — every PUT succeeds.
    #[epics_macros_rs::epics_test]
    async fn put_value_ctx_allows_when_no_acf() {
        use epics_base_rs::server::records::ai::AiRecord;

        let db = Arc::new(PvDatabase::new());
        db.add_record("AI:OPEN", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();

        let source = PvDatabaseSource::new(db.clone());
        source
            .put_value_ctx(
                "AI:OPEN",
                pv_double(7.0),
                make_ctx("anywhere", "anyone", "anonymous"),
            )
            .await
            .expect("PUT must succeed when no ACF is attached");
    }

    /// Type-state-gated GET. The wire-layer flow mints an
    /// [`AccessChecked`] via `source.access().check(...)`; the source
    /// then sees `NoAccess` in the token level and returns `None`.
    /// Previously every GET handler had to *remember* to call the
    /// ACF check by hand — now the trait method signature forces it.
    #[epics_macros_rs::epics_test]
    async fn get_value_checked_denies_when_no_access() {
        use crate::server_native::source::ChannelSource;
        use epics_base_rs::server::records::ai::AiRecord;

        let acf = parse_acf(
            r#"
UAG(ops) { alice }
ASG(LOCKED) {
    RULE(0, READ) { UAG(ops) }
}
"#,
        )
        .unwrap();

        let db = Arc::new(PvDatabase::new());
        db.add_record("AI:LOCKED", Box::new(AiRecord::new(7.5)))
            .await
            .unwrap();
        db.get_record("AI:LOCKED").unwrap().write().common.text.asg = "LOCKED".into();

        let source = PvDatabaseSource::new_with_acf(
            db.clone(),
            epics_base_rs::server::access_security::new_acf_cell(Some(acf)),
        );

        // Allowed peer: gate mints a ReadWrite/Read token → source
        // returns the value.
        let checked_ok = source
            .access()
            .check("AI:LOCKED", "anyhost", "alice", "anonymous", "")
            .await;
        let val = source
            .get_value_checked(checked_ok, make_ctx("anyhost", "alice", "anonymous"))
            .await;
        assert!(val.is_some(), "alice must see the value");

        // Denied peer: gate mints a NoAccess token → source returns
        // None even though the underlying PV exists.
        let checked_deny = source
            .access()
            .check("AI:LOCKED", "anyhost", "intruder", "anonymous", "")
            .await;
        let val = source
            .get_value_checked(checked_deny, make_ctx("anyhost", "intruder", "anonymous"))
            .await;
        assert!(val.is_none(), "intruder must be denied via type-state gate");
    }

    /// The same denial on the path the wire actually takes.
    ///
    /// Every native GET, PUT readback and monitor seed calls
    /// `read_checked` ([`crate::server_native::tcp`] `:5079`, `:7365`,
    /// `:7506`), never `get_value_checked`; the wire layer mints the
    /// `AccessChecked` and hands it over without inspecting it, so the token
    /// the source is given is the only ACF gate on that path.
    #[epics_macros_rs::epics_test]
    async fn a_denied_client_gets_no_value_from_the_read_path() {
        use crate::server_native::source::ChannelSource;
        use epics_base_rs::server::records::ai::AiRecord;

        let acf = parse_acf(
            r#"
UAG(ops) { alice }
ASG(LOCKED) {
    RULE(0, READ) { UAG(ops) }
}
"#,
        )
        .unwrap();

        let db = Arc::new(PvDatabase::new());
        db.add_record("AI:LOCKED", Box::new(AiRecord::new(7.5)))
            .await
            .unwrap();
        db.get_record("AI:LOCKED").unwrap().write().common.text.asg = "LOCKED".into();

        let source = PvDatabaseSource::new_with_acf(
            db.clone(),
            epics_base_rs::server::access_security::new_acf_cell(Some(acf)),
        );

        let checked_ok = source
            .access()
            .check("AI:LOCKED", "anyhost", "alice", "anonymous", "")
            .await;
        assert!(
            source
                .read_checked(checked_ok, make_ctx("anyhost", "alice", "anonymous"))
                .await
                .is_some(),
            "alice must see the value"
        );

        let checked_deny = source
            .access()
            .check("AI:LOCKED", "anyhost", "intruder", "anonymous", "")
            .await;
        let read = source
            .read_checked(checked_deny, make_ctx("anyhost", "intruder", "anonymous"))
            .await;
        assert!(
            read.is_none(),
            "intruder must be denied on the read path too; got {:?}",
            read.map(|r| r.value)
        );
    }

    /// softIocPVX 1.5.3 on `record(ai, "T")`: `pvxget 'T.VAL{"ts":{"num":
    /// "sec"}}'` serves `value uint32_t` and no `display.precision`, while
    /// `{"num":"dbl"}` serves `value double` and `display.precision`. pvxs
    /// reads the options at the type the filters leave the log
    /// (`dbAccess.c:341-348,387-394`).
    #[epics_macros_rs::epics_test]
    async fn a_ts_value_mode_reads_its_options_at_the_type_it_serves() {
        use crate::server_native::source::ChannelSource;
        use epics_base_rs::server::records::ai::AiRecord;

        let db = Arc::new(PvDatabase::new());
        db.add_record("T", Box::new(AiRecord::new(1.0)))
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db.clone());
        let ctx = make_ctx("anyhost", "alice", "anonymous");
        for (name, uint, precision) in [
            (r#"T.VAL{"ts":{"num":"sec"}}"#, true, false),
            (r#"T.VAL{"ts":{"num":"dbl"}}"#, false, true),
        ] {
            let checked = source
                .access()
                .check(name, "anyhost", "alice", "anonymous", "")
                .await;
            let mut read = source
                .read_checked(checked, ctx.clone())
                .await
                .expect("served");
            let marked = read.marked.clone().unwrap_or_default();
            assert_eq!(
                marked.iter().any(|l| l == "display.precision"),
                precision,
                "{name}: {marked:?}"
            );
            let value = leaf_mut(&mut read.value, "value").expect("value");
            assert_eq!(
                matches!(value, PvField::Scalar(ScalarValue::UInt(_))),
                uint,
                "{name}: {value:?}"
            );
        }
    }

    /// A `ts` value mode reads the record's time, the time `dbGet`'s read log
    /// was created with (`dbEvent.c:704-713`), while `{"ts":{}}` stamps the
    /// read with the clock (`ts.c:138-163`).
    #[epics_macros_rs::epics_test]
    async fn a_ts_get_reads_the_time_its_read_log_holds() {
        use crate::server_native::source::ChannelSource;
        use epics_base_rs::server::records::ai::AiRecord;

        let db = Arc::new(PvDatabase::new());
        db.add_record("T", Box::new(AiRecord::new(1.0)))
            .await
            .unwrap();
        db.get_record("T").unwrap().write().common.time = epics_base_rs::types::WallTime::UNIX_EPOCH
            + std::time::Duration::new(1_000_000_000, 333_333_333);
        let source = PvDatabaseSource::new(db.clone());
        let ctx = make_ctx("anyhost", "alice", "anonymous");
        let get = async |name: &str, path: &str| {
            let checked = source
                .access()
                .check(name, "anyhost", "alice", "anonymous", "")
                .await;
            let mut read = source
                .read_checked(checked, ctx.clone())
                .await
                .expect("served");
            leaf_mut(&mut read.value, path).expect(path).clone()
        };
        assert_eq!(
            get(r#"T.VAL{"ts":{"num":"nsec"}}"#, "value").await,
            PvField::Scalar(ScalarValue::UInt(333_333_333))
        );
        let PvField::Scalar(ScalarValue::Long(sec)) =
            get(r#"T.VAL{"ts":{}}"#, "timeStamp.secondsPastEpoch").await
        else {
            panic!("timeStamp.secondsPastEpoch");
        };
        assert!(
            sec > 1_000_000_000,
            "the read's clock, not the record's: {sec}"
        );
    }

    /// softIocPVX prints `dbChannelCreate: Channel filter 'bad' not found`
    /// once per create of `Y.VAL{"bad":{}}` (`pvxget` makes two creates and
    /// two lines), and refuses the channel.
    #[epics_macros_rs::epics_test]
    async fn create_with_an_unknown_filter_prints_the_line_once() {
        use crate::server_native::source::ChannelSource;
        use epics_base_rs::server::records::ai::AiRecord;

        let db = Arc::new(PvDatabase::new());
        db.add_record("Y", Box::new(AiRecord::new(2.0)))
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db.clone());
        let heard = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
        let sink = heard.clone();
        let id = epics_base_rs::runtime::log::errlog_add_listener(move |m| {
            sink.lock().unwrap().push(m.to_string());
        });
        assert!(!source.has_pv(br#"Y.VAL{"bad":{}}"#).await);
        epics_base_rs::runtime::log::errlog_flush();
        epics_base_rs::runtime::log::errlog_remove_listener(id);
        let lines = heard.lock().unwrap().clone();
        let n = lines
            .iter()
            .filter(|l| l.contains("dbChannelCreate: Channel filter 'bad' not found"))
            .count();
        assert_eq!(n, 1, "{lines:?}");
    }

    /// A GET through a `dbnd` channel must move the baseline that channel's
    /// monitor compares against.
    ///
    /// `dbnd.c`'s `filter()` has no `dbfl_context_read` bypass — unlike
    /// `dec`/`sync`/`utag` — and `recGblCheckDeadband` (`recGbl.c:364-369`)
    /// writes `*poldval = newval` whenever `delta > deadband`, whatever the
    /// mask, so the read advances `my->last` and is then dropped for want of
    /// `DBE_VALUE`, leaving `IOCSource::get` to serve the unfiltered field
    /// (`iocsource.cpp:79-80`). Resolving the name per operation gave every
    /// GET a chain of its own and left the monitor's baseline at `NaN`.
    #[epics_macros_rs::epics_test]
    async fn a_get_moves_the_dbnd_baseline_its_monitor_reads() {
        use crate::server_native::source::ChannelSource;
        use epics_base_rs::server::recgbl::EventMask;
        use epics_base_rs::server::records::ai::AiRecord;

        let db = Arc::new(PvDatabase::new());
        db.add_record("AI:DBND", Box::new(AiRecord::new(100.0)))
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db.clone());
        let name = r#"AI:DBND.VAL{"dbnd":{"d":10}}"#;
        let ctx = make_ctx("anyhost", "alice", "anonymous");
        let checked = source
            .access()
            .check(name, "anyhost", "alice", "anonymous", "")
            .await;
        assert!(
            source.read_checked(checked, ctx.clone()).await.is_some(),
            "the GET must be served (dbnd drops the read, so it falls back to the raw field)"
        );

        // A `DBE_VALUE` post of `v` through `chain`.
        fn passes(chain: &FilterChain, v: f64) -> bool {
            let mut post = epics_base_rs::server::snapshot::Snapshot::new(
                EpicsValue::Double(v),
                0,
                0,
                std::time::SystemTime::UNIX_EPOCH,
            );
            chain
                .apply(
                    epics_base_rs::server::database::filters::FilteredMonitorEvent::new(
                        epics_base_rs::server::pv::MonitorEvent::read_log(
                            &mut post,
                            EventMask::VALUE,
                        ),
                    ),
                )
                .is_some()
        }
        let ch = channel_for(&source.db, &source.channels, name.as_bytes(), ctx.peer)
            .expect("the GET minted the channel");
        assert!(
            !passes(&ch.value_filters, 105.0),
            "a 5.0 move inside the 10.0 band must be dropped against the baseline the GET set"
        );
        assert!(
            passes(&ch.value_filters, 120.0),
            "a 20.0 move outside the band must still pass"
        );

        // Control, so this test carries its own fails-first evidence: a chain
        // minted per operation — the pre-fix shape — still holds the `NaN`
        // baseline `parse_ok` seeded (`dbnd.c:61`) and passes the same 105.0.
        let (_, per_operation) = resolve_channel(&db, name.as_bytes()).unwrap();
        assert!(
            passes(&per_operation, 105.0),
            "control: a chain built per operation has no baseline to compare against"
        );
    }

    /// One object per (peer, name), a different one per peer, and none at all
    /// once the channel closes — the lifetime `dbChannelCreate` /
    /// `dbChannelDelete` give the filter pvt.
    #[epics_macros_rs::epics_test]
    async fn the_channel_object_is_per_peer_and_dies_with_the_channel() {
        use crate::server_native::source::ChannelSource;
        use epics_base_rs::server::records::ai::AiRecord;

        let db = Arc::new(PvDatabase::new());
        db.add_record("AI:SHARED", Box::new(AiRecord::new(1.0)))
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db.clone());
        let name = r#"AI:SHARED.VAL{"dbnd":{"d":1}}"#;

        let mut ctx_a = make_ctx("hosta", "alice", "anonymous");
        ctx_a.peer = "127.0.0.1:5001".parse().unwrap();
        let mut ctx_b = make_ctx("hostb", "bob", "anonymous");
        ctx_b.peer = "127.0.0.1:5002".parse().unwrap();

        let first = channel_for(&source.db, &source.channels, name.as_bytes(), ctx_a.peer).unwrap();
        let again = channel_for(&source.db, &source.channels, name.as_bytes(), ctx_a.peer).unwrap();
        assert!(
            Arc::ptr_eq(&first, &again),
            "every operation of one peer's channel shares the one object"
        );
        let other = channel_for(&source.db, &source.channels, name.as_bytes(), ctx_b.peer).unwrap();
        assert!(
            !Arc::ptr_eq(&first, &other),
            "a second peer's channel owns its own filter state"
        );

        source.notify_channel_close(name.as_bytes(), &ctx_a);
        assert!(
            source.channels.lock().get(&ctx_a.peer).is_none(),
            "closing the channel drops the peer's map entirely once empty"
        );
        assert!(
            source.channels.lock().contains_key(&ctx_b.peer),
            "the other peer's channel is untouched"
        );
    }

    /// Regression: a native PVA scalar `ulong` PUT into a
    /// `DBF_UINT64`-backed PV must preserve the full unsigned 64-bit
    /// range. Pre-fix `scalar_to_epics` collapsed `ScalarValue::ULong`
    /// to `EpicsValue::Long(x as i32)`, discarding the upper 32 bits
    /// before `PvDatabase::put_pv` coerced to the target field.
    #[epics_macros_rs::epics_test]
    async fn mr_r21_scalar_ulong_put_preserves_full_u64() {
        let db = Arc::new(PvDatabase::new());
        // A simple PV stores the value verbatim (`pv.set`), with no
        // field-type coercion — so it isolates the source-layer
        // conversion under test.
        db.add_pv("UL:SCALAR", EpicsValue::UInt64(0)).await.unwrap();

        let source = PvDatabaseSource::new(db.clone());

        // A value above the signed 32-bit range that also exercises
        // the high word: 0xDEAD_BEEF_0000_0001.
        let big: u64 = 0xDEAD_BEEF_0000_0001;
        source
            .put_value_ctx(
                "UL:SCALAR",
                PvField::Scalar(ScalarValue::ULong(big)),
                make_ctx("h", "anyone", "anonymous"),
            )
            .await
            .expect("ulong PUT must succeed");

        let snap = snapshot_for(&db, b"UL:SCALAR").await.unwrap();
        assert_eq!(
            snap.value,
            EpicsValue::UInt64(big),
            "scalar ulong PUT must round-trip the full u64, got {:?}",
            snap.value,
        );
    }

    /// Regression: a native PVA `ulong[]` PUT into a
    /// `DBF_UINT64`-backed waveform must round-trip. Pre-fix
    /// `pv_field_to_epics` had no `ScalarValue::ULong` array arm, so
    /// the PUT fell through to `None` and was rejected as
    /// "PUT value not representable as EpicsValue".
    #[epics_macros_rs::epics_test]
    async fn mr_r24_ulong_array_put_preserves_full_u64() {
        use epics_base_rs::server::records::waveform::WaveformRecord;
        use epics_base_rs::types::DbFieldType;

        let db = Arc::new(PvDatabase::new());
        db.add_record(
            "UL:WF",
            Box::new(WaveformRecord::new(4, DbFieldType::UInt64)),
        )
        .await
        .unwrap();

        let source = PvDatabaseSource::new(db.clone());

        // Two of the four elements exceed i64::MAX, so any narrowing
        // to a signed type would corrupt them.
        let values: Vec<u64> = vec![1, 0xDEAD_BEEF_0000_0001, u64::MAX, 0];
        let put = PvField::ScalarArray(values.iter().map(|v| ScalarValue::ULong(*v)).collect());
        source
            .put_value_ctx("UL:WF", put, make_ctx("h", "anyone", "anonymous"))
            .await
            .expect("ulong[] PUT must succeed");

        let snap = snapshot_for(&db, b"UL:WF").await.unwrap();
        assert_eq!(
            snap.value,
            EpicsValue::UInt64Array(values.into()),
            "ulong[] PUT must round-trip the full u64 elements, got {:?}",
            snap.value,
        );
    }

    /// a real PVA wire `ulong[]` PUT decodes to
    /// `PvField::ScalarArrayTyped`, not the hand-built untyped
    /// `ScalarArray` that `mr_r24` used. Before the fix
    /// `pv_field_to_epics` had only a `ScalarArray` arm, so the
    /// wire-decoded form fell through to `None` and the PUT was
    /// rejected as "PUT value not representable as EpicsValue".
    #[epics_macros_rs::epics_test]
    async fn pf_r2_wire_typed_ulong_array_put_preserves_full_u64() {
        use crate::pvdata::TypedScalarArray;
        use epics_base_rs::server::records::waveform::WaveformRecord;
        use epics_base_rs::types::DbFieldType;

        let db = Arc::new(PvDatabase::new());
        db.add_record(
            "UL:WFT",
            Box::new(WaveformRecord::new(4, DbFieldType::UInt64)),
        )
        .await
        .unwrap();
        let source = PvDatabaseSource::new(db.clone());

        let values: Vec<u64> = vec![1, 0xDEAD_BEEF_0000_0001, u64::MAX, 0];
        // Wire-decoded shape: `decode_pv_field` produces the typed,
        // refcount-shared array — not `PvField::ScalarArray`.
        let put = PvField::ScalarArrayTyped(TypedScalarArray::ULong(values.as_slice().into()));
        source
            .put_value_ctx("UL:WFT", put, make_ctx("h", "anyone", "anonymous"))
            .await
            .expect("wire-decoded ulong[] PUT must succeed");

        let snap = snapshot_for(&db, b"UL:WFT").await.unwrap();
        assert_eq!(
            snap.value,
            EpicsValue::UInt64Array(values.into()),
            "wire-decoded ulong[] PUT must round-trip the full u64 elements, got {:?}",
            snap.value,
        );
    }

    /// Regression: a native PVA scalar `uint` PUT above `i32::MAX`
    /// must not sign-flip. Pre-fix `scalar_to_epics` mapped
    /// `ScalarValue::UInt(x)` to `EpicsValue::Long(x as i32)`, so
    /// `0x8000_0000..=0xffff_ffff` was stored as a negative value.
    /// `Int64` is the lossless `epicsUInt32` carrier.
    #[epics_macros_rs::epics_test]
    async fn pva_03_scalar_uint_put_preserves_full_u32() {
        let db = Arc::new(PvDatabase::new());
        // A simple PV stores the value verbatim, isolating the
        // source-layer conversion under test (no field coercion).
        db.add_pv("UI:SCALAR", EpicsValue::Int64(0)).await.unwrap();

        let source = PvDatabaseSource::new(db.clone());

        // Above signed-32 range: 0x8000_0001 = 2_147_483_649.
        let big: u32 = 0x8000_0001;
        source
            .put_value_ctx(
                "UI:SCALAR",
                PvField::Scalar(ScalarValue::UInt(big)),
                make_ctx("h", "anyone", "anonymous"),
            )
            .await
            .expect("uint PUT must succeed");

        let snap = snapshot_for(&db, b"UI:SCALAR").await.unwrap();
        assert_eq!(
            snap.value,
            EpicsValue::Int64(i64::from(big)),
            "scalar uint PUT must carry the full epicsUInt32 range, got {:?}",
            snap.value,
        );
    }

    /// Regression: a native PVA `uint[]` PUT was rejected outright —
    /// `scalar_array_to_epics` had no `ScalarValue::UInt` arm, so the
    /// PUT fell through to `None` ("PUT value not representable as
    /// EpicsValue"). `Int64Array` carries every `epicsUInt32` element.
    #[epics_macros_rs::epics_test]
    async fn pva_03_uint_array_put_preserves_full_u32() {
        use epics_base_rs::server::records::waveform::WaveformRecord;
        use epics_base_rs::types::DbFieldType;

        let db = Arc::new(PvDatabase::new());
        db.add_record(
            "UI:WF",
            Box::new(WaveformRecord::new(4, DbFieldType::Int64)),
        )
        .await
        .unwrap();

        let source = PvDatabaseSource::new(db.clone());

        // Two elements exceed i32::MAX; any cast through i32 corrupts them.
        let values: Vec<u32> = vec![1, 0x8000_0001, u32::MAX, 0];
        let put = PvField::ScalarArray(values.iter().map(|v| ScalarValue::UInt(*v)).collect());
        source
            .put_value_ctx("UI:WF", put, make_ctx("h", "anyone", "anonymous"))
            .await
            .expect("uint[] PUT must succeed");

        let snap = snapshot_for(&db, b"UI:WF").await.unwrap();
        assert_eq!(
            snap.value,
            EpicsValue::Int64Array(values.iter().map(|v| i64::from(*v)).collect()),
            "uint[] PUT must round-trip the full epicsUInt32 elements, got {:?}",
            snap.value,
        );
    }

    /// a real PVA wire `uint[]` PUT decodes to
    /// `PvField::ScalarArrayTyped`; it must reach the same `Int64Array`
    /// conversion as the untyped form rather than being rejected.
    #[epics_macros_rs::epics_test]
    async fn pva_03_wire_typed_uint_array_put_preserves_full_u32() {
        use crate::pvdata::TypedScalarArray;
        use epics_base_rs::server::records::waveform::WaveformRecord;
        use epics_base_rs::types::DbFieldType;

        let db = Arc::new(PvDatabase::new());
        db.add_record(
            "UI:WFT",
            Box::new(WaveformRecord::new(4, DbFieldType::Int64)),
        )
        .await
        .unwrap();
        let source = PvDatabaseSource::new(db.clone());

        let values: Vec<u32> = vec![1, 0x8000_0001, u32::MAX, 0];
        let put = PvField::ScalarArrayTyped(TypedScalarArray::UInt(values.as_slice().into()));
        source
            .put_value_ctx("UI:WFT", put, make_ctx("h", "anyone", "anonymous"))
            .await
            .expect("wire-decoded uint[] PUT must succeed");

        let snap = snapshot_for(&db, b"UI:WFT").await.unwrap();
        assert_eq!(
            snap.value,
            EpicsValue::Int64Array(values.iter().map(|v| i64::from(*v)).collect()),
            "wire-decoded uint[] PUT must round-trip the full epicsUInt32 elements, got {:?}",
            snap.value,
        );
    }

    /// A native PVA
    /// scalar `uint` PUT into a signed `DBF_LONG` field must truncate
    /// (C/pvxs `static_cast`: `uint32 0xffffffff -> int32 -1`,
    /// `testdata.cpp:596`), not saturate. The `uint` carrier is `Int64`;
    /// pre-fix `convert_to(DBF_LONG)` round-tripped through f64 and clamped
    /// `4294967295.0` to `i32::MAX` (2147483647) instead of yielding -1.
    #[epics_macros_rs::epics_test]
    async fn r0604_uint_scalar_put_truncates_into_signed_longout() {
        use epics_base_rs::server::records::longout::LongoutRecord;

        let db = Arc::new(PvDatabase::new());
        db.add_record("UI:LO", Box::new(LongoutRecord::new(0)))
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db.clone());

        source
            .put_value_ctx(
                "UI:LO",
                PvField::Scalar(ScalarValue::UInt(0xffff_ffff)),
                make_ctx("h", "anyone", "anonymous"),
            )
            .await
            .expect("uint PUT must succeed");

        let snap = snapshot_for(&db, b"UI:LO").await.unwrap();
        assert_eq!(
            snap.value,
            EpicsValue::Long(-1),
            "uint 0xffffffff into DBF_LONG must truncate to -1, got {:?}",
            snap.value,
        );
    }

    /// A native PVA
    /// `uint[]` PUT into a signed `waveform(FTVL=LONG)` must truncate each
    /// element (pvxs `convertCast` `Dest(S[i])`, `sharedarray.cpp:160-166`).
    /// `{1, 2, 0xffffffff}` lands as `{1, 2, -1}`; pre-fix the last element
    /// saturated to `i32::MAX` through the f64 round-trip.
    #[epics_macros_rs::epics_test]
    async fn r0604_uint_array_put_truncates_into_signed_long_waveform() {
        use epics_base_rs::server::records::waveform::WaveformRecord;
        use epics_base_rs::types::DbFieldType;

        let db = Arc::new(PvDatabase::new());
        db.add_record(
            "UI:WFL",
            Box::new(WaveformRecord::new(3, DbFieldType::Long)),
        )
        .await
        .unwrap();
        let source = PvDatabaseSource::new(db.clone());

        let values: Vec<u32> = vec![1, 2, 0xffff_ffff];
        let put = PvField::ScalarArray(values.iter().map(|v| ScalarValue::UInt(*v)).collect());
        source
            .put_value_ctx("UI:WFL", put, make_ctx("h", "anyone", "anonymous"))
            .await
            .expect("uint[] PUT must succeed");

        let snap = snapshot_for(&db, b"UI:WFL").await.unwrap();
        assert_eq!(
            snap.value,
            EpicsValue::LongArray(vec![1, 2, -1].into()),
            "uint[] {{1,2,0xffffffff}} into FTVL=LONG must truncate to {{1,2,-1}}, got {:?}",
            snap.value,
        );
    }

    /// PVA-04 regression: a wire-decoded *empty* typed scalar array must
    /// PUT successfully and clear the waveform. Pre-fix the typed array
    /// was erased to `Vec<ScalarValue>` and its element type recovered
    /// from `items[0]`; an empty slice has no first element, so the PUT
    /// was rejected before the database could set NORD to zero. The
    /// element type now comes from the `TypedScalarArray` tag, which is
    /// present at length zero. Covers `double[]`, `string[]`, and an
    /// integer array per the finding.
    #[epics_macros_rs::epics_test]
    async fn pva_04_empty_typed_double_array_put_clears_waveform() {
        use epics_base_rs::server::records::waveform::WaveformRecord;
        use epics_base_rs::types::DbFieldType;

        let db = Arc::new(PvDatabase::new());
        db.add_record(
            "EMPTY:DBL",
            Box::new(WaveformRecord::new(4, DbFieldType::Double)),
        )
        .await
        .unwrap();
        let source = PvDatabaseSource::new(db.clone());

        let put = PvField::ScalarArrayTyped(TypedScalarArray::Double(Vec::<f64>::new().into()));
        source
            .put_value_ctx("EMPTY:DBL", put, make_ctx("h", "anyone", "anonymous"))
            .await
            .expect("empty double[] PUT must be accepted, not rejected");

        let snap = snapshot_for(&db, b"EMPTY:DBL").await.unwrap();
        assert_eq!(
            snap.value,
            EpicsValue::DoubleArray(vec![].into()),
            "empty double[] PUT must clear the waveform to zero elements, got {:?}",
            snap.value,
        );
    }

    #[epics_macros_rs::epics_test]
    async fn pva_04_empty_typed_string_array_put_accepted() {
        // `WaveformRecord` has no DBF_STRING storage, so a string array
        // lives on a simple PV, which stores the value verbatim and thus
        // isolates the source-layer typed-array conversion under test.
        let db = Arc::new(PvDatabase::new());
        db.add_pv(
            "EMPTY:STR",
            EpicsValue::StringArray(vec!["seed".into(), "other".into()].into()),
        )
        .await
        .unwrap();
        let source = PvDatabaseSource::new(db.clone());

        let put =
            PvField::ScalarArrayTyped(TypedScalarArray::String(Vec::<PvString>::new().into()));
        source
            .put_value_ctx("EMPTY:STR", put, make_ctx("h", "anyone", "anonymous"))
            .await
            .expect("empty string[] PUT must be accepted, not rejected");

        let snap = snapshot_for(&db, b"EMPTY:STR").await.unwrap();
        assert_eq!(
            snap.value,
            EpicsValue::StringArray(vec![].into()),
            "empty string[] PUT must store zero string elements, got {:?}",
            snap.value,
        );
    }

    #[epics_macros_rs::epics_test]
    async fn pva_04_empty_typed_int_array_put_clears_waveform() {
        use epics_base_rs::server::records::waveform::WaveformRecord;
        use epics_base_rs::types::DbFieldType;

        let db = Arc::new(PvDatabase::new());
        db.add_record(
            "EMPTY:INT",
            Box::new(WaveformRecord::new(4, DbFieldType::Long)),
        )
        .await
        .unwrap();
        let source = PvDatabaseSource::new(db.clone());

        // PVA `int` (i32) → `EpicsValue::LongArray` (the i32 array family).
        let put = PvField::ScalarArrayTyped(TypedScalarArray::Int(Vec::<i32>::new().into()));
        source
            .put_value_ctx("EMPTY:INT", put, make_ctx("h", "anyone", "anonymous"))
            .await
            .expect("empty int[] PUT must be accepted, not rejected");

        let snap = snapshot_for(&db, b"EMPTY:INT").await.unwrap();
        assert_eq!(
            snap.value,
            EpicsValue::LongArray(vec![].into()),
            "empty int[] PUT must clear the waveform to zero elements, got {:?}",
            snap.value,
        );
    }

    /// Regression: a full NTScalar PUT with explicit alarm + timeStamp
    /// into a simple PV must round-trip those fields on a later GET.
    /// Pre-fix `put_value` extracted only the `value` leaf and dropped
    /// alarm/timeStamp, so a later GET rebuilt them from local defaults
    /// (NO_ALARM + wall-clock-now). pvxs mailbox SharedPV assigns the
    /// whole posted value (`sharedpv.cpp:417-432`).
    #[epics_macros_rs::epics_test]
    async fn pva_60_simple_pv_put_persists_alarm_and_timestamp() {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("MB:PV", EpicsValue::Double(0.0)).await.unwrap();
        let source = PvDatabaseSource::new(db.clone());

        let mut put = PvStructure::new("epics:nt/NTScalar:1.0");
        put.fields
            .push(("value".into(), PvField::Scalar(ScalarValue::Double(42.5))));
        let mut alarm = PvStructure::new("alarm_t");
        alarm
            .fields
            .push(("severity".into(), PvField::Scalar(ScalarValue::Int(2)))); // MAJOR
        alarm
            .fields
            .push(("status".into(), PvField::Scalar(ScalarValue::Int(3))));
        put.fields.push(("alarm".into(), PvField::Structure(alarm)));
        let mut ts = PvStructure::new("time_t");
        ts.fields.push((
            "secondsPastEpoch".into(),
            PvField::Scalar(ScalarValue::Long(1_600_000_000)),
        ));
        ts.fields.push((
            "nanoseconds".into(),
            PvField::Scalar(ScalarValue::Int(123_456_789)),
        ));
        ts.fields
            .push(("userTag".into(), PvField::Scalar(ScalarValue::Int(7))));
        put.fields
            .push(("timeStamp".into(), PvField::Structure(ts)));

        source
            .put_value_ctx(
                "MB:PV",
                PvField::Structure(put),
                make_ctx("h", "anyone", "anonymous"),
            )
            .await
            .expect("full NTScalar PUT must succeed");

        // Read the snapshot back; the simple PV must have persisted the
        // client-supplied alarm + timeStamp, not local defaults.
        let snap = snapshot_for(&db, b"MB:PV").await.unwrap();
        assert_eq!(snap.value, EpicsValue::Double(42.5), "value");
        assert_eq!(snap.alarm.severity, 2, "alarm.severity persisted");
        assert_eq!(snap.alarm.status, 3, "alarm.status persisted");
        assert_eq!(snap.user_tag, 7, "timeStamp.userTag persisted");
        let dur = snap.timestamp.since_unix_epoch();
        assert_eq!(dur.as_secs(), 1_600_000_000, "secondsPastEpoch persisted");
        assert_eq!(dur.subsec_nanos(), 123_456_789, "nanoseconds persisted");
    }

    /// The per-record ASL must gate `RULE(N, …)`
    /// rules. With `RULE(0, READ) RULE(1, WRITE)`, an ASL=0 record
    /// must be read-only (the WRITE rule does NOT apply when
    /// `record_asl < 1`), and an ASL=1 record must be writable.
    /// Pre-fix every record was treated as ASL=0 by the PVA path,
    /// so even an ASL=1 record fell under WRITE… but more subtly,
    /// an ASL=0 record ALSO got WRITE because `record_asl=0 ≤
    /// rule.level=1`. The fix doesn't change the equality bound;
    /// it threads the real ASL so `RULE(N, …)` with `record_asl > N`
    /// now skips the rule.
    #[epics_macros_rs::epics_test]
    async fn asl_gate_skips_rules_above_record_asl() {
        use epics_base_rs::server::records::ai::AiRecord;

        // RULE(2, WRITE) — only applies when record_asl ≤ 2.
        // RULE(0, READ) — always applies.
        let acf = parse_acf(
            r#"
ASG(DEFAULT) {
    RULE(0, READ)
    RULE(2, WRITE)
}
"#,
        )
        .unwrap();

        let db = Arc::new(PvDatabase::new());
        // High-ASL record: should be locked out of WRITE because
        // record_asl(3) > rule.level(2). Pre-fix the call site
        // always passed 0 and the rule was always applicable.
        db.add_record("AI:LOCKED", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        // ASL is a u8; the parser clamps to 0/1 via put_common_field,
        // but the underlying field accepts any u8 — set it directly
        // for the test to exercise the gate above C's 0/1 range.
        db.get_record("AI:LOCKED").unwrap().write().common.asl = 3;

        db.add_record("AI:OPEN", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        // OPEN keeps the default ASL=0; the WRITE rule applies.

        let source = PvDatabaseSource::new_with_acf(
            db.clone(),
            epics_base_rs::server::access_security::new_acf_cell(Some(acf)),
        );

        // Locked: WRITE rule skipped (record_asl 3 > rule.level 2),
        // so only READ applies — PUT must be denied.
        assert!(
            source
                .put_value_ctx(
                    "AI:LOCKED",
                    pv_double(1.0),
                    make_ctx("h", "anyone", "anonymous")
                )
                .await
                .is_err(),
            "ASL=3 record must NOT match RULE(2, WRITE)",
        );

        // Open: WRITE rule applies (record_asl 0 ≤ rule.level 2),
        // so PUT succeeds.
        source
            .put_value_ctx(
                "AI:OPEN",
                pv_double(2.0),
                make_ctx("h", "anyone", "anonymous"),
            )
            .await
            .expect("ASL=0 record must match RULE(2, WRITE)");
    }

    /// An external PVA PUT on a record-backed channel owes C `dbPutField`,
    /// not `dbPut`: a PASSIVE record must process on the put. Routing it
    /// through `put_pv` landed the value but never processed — UDF stayed
    /// set and no monitor event was posted, which is the whole
    /// `--phase pva-monitor` "0 update(s) after the seed" pattern.
    ///
    /// UDF is the witness that discriminates the two routes: `dbPut` writes
    /// the field and stops, so only a real process cycle clears it.
    #[epics_macros_rs::epics_test]
    async fn external_put_on_a_passive_record_processes_it() {
        use epics_base_rs::server::records::calc::CalcRecord;

        let db = Arc::new(PvDatabase::new());
        // CALC="A" with VAL driven by the put: processing recomputes VAL and
        // clears UDF. SCAN defaults to Passive.
        db.add_record("CALC:PUT", Box::new(CalcRecord::new("A")))
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db.clone());
        let ctx = make_ctx("localhost", "op", "ca");

        assert_eq!(
            db.get_pv("CALC:PUT.UDF").expect("UDF get"),
            EpicsValue::UChar(1),
            "a record that has never processed is UDF"
        );

        let checked = source
            .access()
            .check(
                "CALC:PUT.A",
                &ctx.creds.host,
                &ctx.creds.account,
                &ctx.creds.method,
                "",
            )
            .await;
        let mut put = PvStructure::new("epics:nt/NTScalar:1.0");
        put.fields
            .push(("value".into(), PvField::Scalar(ScalarValue::Double(3.0))));
        source
            .put_value_checked(checked, PvField::Structure(put), ctx.clone())
            .await
            .expect("PUT must succeed");

        assert_eq!(
            db.get_pv("CALC:PUT.UDF").expect("UDF get"),
            EpicsValue::UChar(0),
            "an external PUT owes dbPutField, which processes a PASSIVE record \
             and clears UDF — `put_pv` (dbPut) would leave it set"
        );
        assert_eq!(
            db.get_pv("CALC:PUT.VAL").expect("VAL get"),
            EpicsValue::Double(3.0),
            "processing must evaluate CALC=\"A\" into VAL"
        );
    }

    /// A record-process monitor update marks value/alarm/timeStamp and NOT
    /// the metadata leaves: pvxs assigns those only from the separate
    /// `DBE_PROPERTY` subscription (`singlesource.cpp:162-167`), so putting
    /// display/control/valueAlarm on every value update is a strict superset
    /// of C — the whole `--phase pva-monitor` `update_events` pattern.
    #[epics_macros_rs::epics_test]
    async fn a_process_update_marks_value_alarm_time_not_the_metadata_leaves() {
        use epics_base_rs::server::records::ai::AiRecord;

        let db = Arc::new(PvDatabase::new());
        // `ai` supplies every rset property slot, so a full-mask update would
        // mark display/control/valueAlarm — this record makes the superset
        // visible if it comes back.
        db.add_record("AI:MON", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db.clone());
        let ctx = make_ctx("localhost", "op", "ca");
        let checked = source
            .access()
            .check(
                "AI:MON",
                &ctx.creds.host,
                &ctx.creds.account,
                &ctx.creds.method,
                "",
            )
            .await;

        let mut rx = source
            .subscribe_checked_opts_marked(checked, ctx, Default::default())
            .await
            .expect("record subscribe");

        // Drive one process cycle through the external-put owner.
        db.put_record_field_from_ca_no_notify("AI:MON", "VAL", EpicsValue::Double(1.0))
            .await
            .expect("put");

        let update =
            epics_base_rs::runtime::task::timeout(std::time::Duration::from_secs(2), rx.recv())
                .await
                .expect("an update must post within 2s")
                .expect("stream open");
        let marked = update.marked.expect("a record update declares its marks");

        assert!(
            marked.iter().any(|m| m == "value"),
            "a DBE_VALUE post marks value, got {marked:?}"
        );
        assert!(
            marked.iter().any(|m| m == "timeStamp"),
            "getTimeAlarm always assigns timeStamp, got {marked:?}"
        );
        for leaf in marked.iter() {
            assert!(
                !leaf.starts_with("display.")
                    && !leaf.starts_with("control.")
                    && !leaf.starts_with("valueAlarm."),
                "a process update must mark no metadata leaf — those are the \
                 DBE_PROPERTY subscription's — but it marked {leaf}"
            );
        }
    }

    /// STOP takes both subscriptions off the record, so a post made while
    /// stopped is never queued: pvxs `onStart(false)` ⇒ `db_event_disable`
    /// (`singlesource.cpp:170-179`, `dbEvent.c:524`), which unlinks the event
    /// from `mlis`. START and RESUME post the current value instead
    /// (`subscriptionctx.h:56-57`; pinned in `monitor_seed_mask.rs`).
    #[epics_macros_rs::epics_test]
    async fn a_stopped_record_monitor_drops_posts_until_resumed() {
        use epics_base_rs::server::records::ai::AiRecord;

        let db = Arc::new(PvDatabase::new());
        db.add_record("AI:GATE", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db.clone());
        let ctx = make_ctx("localhost", "op", "ca");
        let checked = source
            .access()
            .check(
                "AI:GATE",
                &ctx.creds.host,
                &ctx.creds.account,
                &ctx.creds.method,
                "",
            )
            .await;
        let seed = source
            .subscribe_seeded(checked, ctx, Default::default())
            .await
            .expect("record subscribe");
        let gate = seed.on_start.expect("a record monitor carries a STOP gate");
        let mut rx = seed.updates;
        let put = |v: f64| {
            let db = db.clone();
            async move {
                db.put_record_field_from_ca_no_notify("AI:GATE", "VAL", EpicsValue::Double(v))
                    .await
                    .expect("put");
            }
        };
        let value = |u: crate::server_native::source::MonitorUpdate| match &*u.value {
            PvField::Structure(top) => top.get_field("value").cloned(),
            other => panic!("expected an NTScalar, got {other:?}"),
        };
        let quiet = std::time::Duration::from_millis(300);
        let within = std::time::Duration::from_secs(2);

        let double = |v: f64| Some(PvField::Scalar(ScalarValue::Double(v)));

        gate.set_active(true).await;
        let u = epics_base_rs::runtime::task::timeout(within, rx.recv())
            .await
            .expect("START posts the current value");
        assert_eq!(value(u.expect("open")), double(0.0));
        put(1.0).await;
        let u = epics_base_rs::runtime::task::timeout(within, rx.recv())
            .await
            .expect("a started monitor posts");
        assert_eq!(value(u.expect("open")), double(1.0));

        gate.set_active(false).await;
        put(2.0).await;
        put(2.5).await;
        gate.set_active(true).await;
        // RESUME is `enable()` again: each half posts the current value.
        for half in ["value", "property"] {
            let u = epics_base_rs::runtime::task::timeout(within, rx.recv())
                .await
                .unwrap_or_else(|_| panic!("RESUME posts the {half} half's current value"));
            assert_eq!(value(u.expect("open")), double(2.5));
        }
        assert!(
            epics_base_rs::runtime::task::timeout(quiet, rx.recv())
                .await
                .is_err(),
            "a post made while stopped must not be delivered, on RESUME or after"
        );

        put(3.0).await;
        let u = epics_base_rs::runtime::task::timeout(within, rx.recv())
            .await
            .expect("a resumed monitor posts");
        assert_eq!(value(u.expect("open")), double(3.0));
    }

    /// The record's post carries its raw stamp (`dbEvent.c:710`); the PVA
    /// monitor serves it split along the `Q:time:tag` mask its channel read
    /// once (pvxs `singlesrcsubscriptionctx.h:28-30`, `iocsource.cpp:239-248`).
    #[epics_macros_rs::epics_test]
    async fn a_qtime_tag_record_monitor_serves_the_split_stamp() {
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(ai, "AI:QTAG") { info(Q:time:tag, "nsec:lsb:20") }"#,
                &HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        let rec = db.get_record("AI:QTAG").unwrap();
        let source = PvDatabaseSource::new(db.clone());
        let ctx = make_ctx("localhost", "op", "ca");
        let checked = source
            .access()
            .check(
                "AI:QTAG",
                &ctx.creds.host,
                &ctx.creds.account,
                &ctx.creds.method,
                "",
            )
            .await;
        let mut rx = source
            .subscribe_checked_opts_marked(checked, ctx, Default::default())
            .await
            .expect("record subscribe");
        // A tag set after subscribe is not the channel's: pvxs reads it once.
        rec.write().set_info("Q:time:tag", "nsec:lsb:4");

        db.put_record_field_from_ca_no_notify("AI:QTAG", "VAL", EpicsValue::Double(2.0))
            .await
            .expect("put");
        let update =
            epics_base_rs::runtime::task::timeout(std::time::Duration::from_secs(2), rx.recv())
                .await
                .expect("an update must post within 2s")
                .expect("stream open");

        let raw = rec.read().common.time;
        let mask = (1u32 << 20) - 1;
        let PvField::Structure(top) = &*update.value else {
            panic!("an NTScalar is a structure");
        };
        let Some(PvField::Structure(ts)) = top.get_field("timeStamp") else {
            panic!("an NTScalar carries timeStamp");
        };
        assert!(matches!(
            scalar(ts, "secondsPastEpoch"),
            ScalarValue::Long(s) if s == raw.unix_secs() as i64
        ));
        assert!(matches!(
            scalar(ts, "nanoseconds"),
            ScalarValue::Int(n) if n as u32 == raw.subsec_nanos() & !mask
        ));
        assert!(matches!(
            scalar(ts, "userTag"),
            ScalarValue::Int(t) if t as u32 == raw.subsec_nanos() & mask
        ));
    }

    /// The filter chain reads a `Q:time:tag` record's whole nanoseconds;
    /// pvxs splits the tag off only where it serves the timeStamp
    /// (`iocsource.cpp:248-254`), after the chain ran. `{"ts":{}}` restamps
    /// with the current time, which is split the same way.
    #[epics_macros_rs::epics_test]
    async fn a_qtime_tag_record_get_splits_the_stamp_after_the_chain() {
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(ai, "AI:QTS") { info(Q:time:tag, "nsec:lsb:20") }"#,
                &HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        db.get_record("AI:QTS").unwrap().write().common.time =
            epics_base_rs::types::WallTime::UNIX_EPOCH
                + std::time::Duration::new(1_000_000_000, 333_333_333);
        let source = PvDatabaseSource::new(db.clone());
        let ctx = make_ctx("localhost", "op", "ca");
        let get = |name: &'static str| {
            let (source, ctx) = (&source, ctx.clone());
            async move {
                let checked = source
                    .access()
                    .check(
                        name,
                        &ctx.creds.host,
                        &ctx.creds.account,
                        &ctx.creds.method,
                        "",
                    )
                    .await;
                let read = source.read_checked(checked, ctx).await.expect(name);
                let PvField::Structure(top) = read.value else {
                    panic!("{name}: an NTScalar is a structure");
                };
                top
            }
        };
        let mask = (1u32 << 20) - 1;
        let stamp = |top: &PvStructure| {
            let Some(PvField::Structure(ts)) = top.get_field("timeStamp") else {
                panic!("an NTScalar carries timeStamp");
            };
            let (ScalarValue::Int(n), ScalarValue::Int(t)) =
                (scalar(ts, "nanoseconds"), scalar(ts, "userTag"))
            else {
                panic!("timeStamp: {ts:?}");
            };
            (n as u32, t as u32)
        };

        let top = get(r#"AI:QTS.VAL{"ts":{"num":"nsec"}}"#).await;
        let (restamped, _) = stamp(&get(r#"AI:QTS.VAL{"ts":{}}"#).await);

        // One comparison, so a failure shows every path at once.
        assert_eq!(
            [
                (
                    "ts value mode",
                    top.get_field("value")
                        == Some(&PvField::Scalar(ScalarValue::UInt(333_333_333))),
                ),
                (
                    "stamp",
                    stamp(&top) == (333_333_333 & !mask, 333_333_333 & mask),
                ),
                ("restamped time", restamped & mask == 0),
            ]
            .into_iter()
            .filter(|(_, ok)| !ok)
            .map(|(path, _)| path)
            .collect::<Vec<_>>(),
            Vec::<&str>::new()
        );
    }

    /// pvxs reads a channel's `Q:time:tag` with no lock (`typeutils.cpp:79-88`),
    /// so a monitor's door on a record another thread holds is built at once.
    #[epics_macros_rs::epics_test]
    async fn a_held_records_qtime_mask_is_read_without_its_lock() {
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(ai, "AI:QHELD") { info(Q:time:tag, "nsec:lsb:20") }"#,
                &HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        let rec = db.get_record("AI:QHELD").unwrap();
        let (held_tx, held_rx) = std::sync::mpsc::channel();
        let (go_tx, go_rx) = std::sync::mpsc::channel::<()>();
        let holder = {
            let h = db.async_handle();
            std::thread::spawn(move || {
                h.with_record("AI:QHELD", |_| {
                    held_tx.send(()).unwrap();
                    go_rx.recv().unwrap();
                })
            })
        };
        held_rx.recv().unwrap();
        let door = std::thread::spawn(move || {
            MetaDoor::new(
                db,
                rec,
                "VAL".into(),
                ChannelRender::Shaped(ChannelShape::Scalar),
                FilterChain::new(),
            )
            .nsec_mask
        });
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !door.is_finished() && std::time::Instant::now() < deadline {
            epics_base_rs::runtime::task::sleep(std::time::Duration::from_millis(10)).await;
        }
        let built = door.is_finished();
        go_tx.send(()).unwrap();
        holder.join().unwrap();
        assert!(built, "MetaDoor::new waited for the record's holder");
        assert_eq!(door.join().unwrap(), (1 << 20) - 1);
    }

    /// The mask the cell settled at load is the one the record's info tag
    /// gives under its lock, on every boundary of pvxs's parse.
    #[epics_macros_rs::epics_test]
    async fn the_lock_free_qtime_mask_is_the_one_read_under_the_lock() {
        let tags = [
            "nsec:lsb:20",
            "nsec:lsb: 4 ",
            "nsec:lsb:31",
            "nsec:lsb:0",
            "nsec:lsb:64",
            "NSEC:LSB:4",
            "nsec:lsb:4x",
            "nsec:lsb:2147483648",
        ];
        let mut text: String = tags
            .iter()
            .enumerate()
            .map(|(i, tag)| format!("record(ai, \"Q{i}\") {{ info(Q:time:tag, \"{tag}\") }}\n"))
            .collect();
        text.push_str("record(ai, \"QNONE\") {}\n");
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(&text, &HashMap::new())
            .unwrap()
            .build()
            .await
            .unwrap();
        for name in (0..tags.len())
            .map(|i| format!("Q{i}"))
            .chain(["QNONE".into()])
        {
            let rec = db.get_record(&name).unwrap();
            assert_eq!(
                rec.qtime_nsec_mask(),
                rec.read().qtime_nsec_mask(),
                "{name}"
            );
        }
        assert_eq!(
            db.get_record("Q0").unwrap().qtime_nsec_mask(),
            (1 << 20) - 1
        );
    }

    /// Every record monitor of one source attaches to its one `qsrvSingle`
    /// drain (`singlesource.cpp:396-416`), which ends with the last monitor:
    /// two monitors run one drain thread, and both see their own record.
    #[epics_macros_rs::epics_test]
    async fn record_monitors_share_the_sources_one_drain() {
        use epics_base_rs::server::records::ai::AiRecord;

        let db = Arc::new(PvDatabase::new());
        for name in ["AI:A", "AI:B"] {
            db.add_record(name, Box::new(AiRecord::new(0.0)))
                .await
                .unwrap();
        }
        let source = PvDatabaseSource::new(db.clone());
        let ctx = make_ctx("localhost", "op", "ca");
        let mut streams = Vec::new();
        for name in ["AI:A", "AI:B"] {
            let checked = source
                .access()
                .check(
                    name,
                    &ctx.creds.host,
                    &ctx.creds.account,
                    &ctx.creds.method,
                    "",
                )
                .await;
            streams.push(
                source
                    .subscribe_checked_opts_marked(checked, ctx.clone(), Default::default())
                    .await
                    .expect("record subscribe"),
            );
        }
        assert_eq!(source.events.live_drains(), 1, "two monitors, one drain");

        for (name, v) in [("AI:A", 1.0), ("AI:B", 2.0)] {
            db.put_record_field_from_ca_no_notify(name, "VAL", EpicsValue::Double(v))
                .await
                .expect("put");
        }
        for (rx, v) in streams.iter_mut().zip([1.0, 2.0]) {
            let update =
                epics_base_rs::runtime::task::timeout(std::time::Duration::from_secs(2), rx.recv())
                    .await
                    .expect("an update must post within 2s")
                    .expect("stream open");
            assert_eq!(
                extract_put_value_leaf(&update.value),
                Some(PvField::Scalar(ScalarValue::Double(v)))
            );
        }

        drop(streams);
        for _ in 0..200 {
            if source.events.live_drains() == 0 {
                return;
            }
            epics_base_rs::runtime::task::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the drain outlived its last monitor");
    }

    /// A subscribe whose metadata read waits behind its record's writer holds
    /// nothing the shared drain needs: both halves stay disabled until the
    /// transform is armed (`singlesource.cpp:147-180`), so the record's post
    /// queues nothing and a second monitor on the source still receives its.
    #[epics_macros_rs::epics_test]
    async fn a_subscribe_waiting_on_its_record_does_not_stall_the_drain() {
        use epics_base_rs::server::recgbl::EventMask;
        use epics_base_rs::server::records::ai::AiRecord;
        use std::sync::mpsc::channel;

        let db = Arc::new(PvDatabase::new());
        for name in ["AI:A", "AI:B"] {
            db.add_record(name, Box::new(AiRecord::new(0.0)))
                .await
                .unwrap();
        }
        // One set per record, as iocInit leaves two unlinked records.
        db.build_lock_sets();
        let source = PvDatabaseSource::new(db.clone());
        let ctx = make_ctx("localhost", "op", "ca");
        let checked = source
            .access()
            .check(
                "AI:B",
                &ctx.creds.host,
                &ctx.creds.account,
                &ctx.creds.method,
                "",
            )
            .await;
        let mut b = source
            .subscribe_checked_opts_marked(checked, ctx.clone(), Default::default())
            .await
            .expect("record subscribe");

        let rec_a = db.get_record("AI:A").unwrap();
        let (entered, entered_rx) = channel();
        let (locked, locked_rx) = channel();
        let (release, release_rx) = channel::<()>();
        let (posted, posted_rx) = channel();
        let subscriber = {
            let (events, db, rec_a) = (source.events.clone(), db.clone(), rec_a.clone());
            std::thread::spawn(move || {
                let chain = FilterChain::new();
                let stream = attach_record_pair(
                    &events,
                    &db,
                    RecordPair {
                        path: b"AI:A",
                        value_mask: (EventMask::VALUE | EventMask::ALARM).bits(),
                        filters: [&chain, &chain],
                        dollar: None,
                        limit: 4,
                    },
                    || {
                        entered.send(()).unwrap();
                        locked_rx.recv().unwrap();
                        // The GET-door read, behind the writer.
                        drop(rec_a.read());
                        Some(|_| None::<PvField>)
                    },
                );
                assert!(matches!(stream, Ok(Some(_))));
            })
        };
        let writer = std::thread::spawn(move || {
            entered_rx.recv().unwrap();
            let mut held = rec_a.write();
            locked.send(()).unwrap();
            held.notify_field("VAL", EventMask::VALUE);
            posted.send(()).unwrap();
            release_rx.recv().unwrap();
        });

        // AI:A's post is queued ahead of AI:B's.
        posted_rx.recv().unwrap();
        db.get_record("AI:B")
            .unwrap()
            .write()
            .notify_field("VAL", EventMask::VALUE);
        let update =
            epics_base_rs::runtime::task::timeout(std::time::Duration::from_secs(2), b.recv())
                .await
                .map(|u| u.expect("stream open"));
        release.send(()).unwrap();
        writer.join().unwrap();
        subscriber.join().unwrap();
        update.expect("AI:B's post must reach its monitor within 2s");
    }

    /// A metadata change reaches the client through the GET door, not the
    /// event: `EGU` posts `DBE_PROPERTY`, the property half rereads, and both
    /// that post and every value post after it carry the new units.
    #[epics_macros_rs::epics_test]
    async fn an_egu_put_reaches_updates_through_the_metadata_door() {
        use epics_base_rs::server::records::ai::AiRecord;

        let db = Arc::new(PvDatabase::new());
        db.add_record("AI:EGU", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db.clone());
        let ctx = make_ctx("localhost", "op", "ca");
        let checked = source
            .access()
            .check(
                "AI:EGU",
                &ctx.creds.host,
                &ctx.creds.account,
                &ctx.creds.method,
                "",
            )
            .await;
        let mut rx = source
            .subscribe_checked_opts_marked(checked, ctx, Default::default())
            .await
            .expect("record subscribe");
        let units = |u: &crate::server_native::MonitorUpdate| {
            let PvField::Structure(root) = &*u.value else {
                panic!("an NTScalar root")
            };
            match root.get_field("display").and_then(|d| match d {
                PvField::Structure(d) => d.get_field("units"),
                _ => None,
            }) {
                Some(PvField::Scalar(ScalarValue::String(s))) => s.to_string(),
                other => panic!("display.units: {other:?}"),
            }
        };
        let next = async |rx: &mut MonitorStream<crate::server_native::MonitorUpdate>| {
            epics_base_rs::runtime::task::timeout(std::time::Duration::from_secs(2), rx.recv())
                .await
                .expect("an update must post within 2s")
                .expect("stream open")
        };

        db.put_record_field_from_ca_no_notify("AI:EGU", "EGU", EpicsValue::String("mm".into()))
            .await
            .expect("put EGU");
        let property = next(&mut rx).await;
        assert!(
            property
                .marked
                .as_ref()
                .is_some_and(|m| m.iter().any(|l| l == "display.units")),
            "the EGU post marks display.units"
        );
        assert_eq!(units(&property), "mm");

        db.put_record_field_from_ca_no_notify("AI:EGU", "VAL", EpicsValue::Double(1.0))
            .await
            .expect("put VAL");
        let value = next(&mut rx).await;
        assert_eq!(
            units(&value),
            "mm",
            "a value post keeps the last read's units"
        );
    }

    /// The event-class rule keys on the event's OWN mask, so the alarm triple
    /// rides `DBE_ALARM` only. Measured on `softIocPVX`: a driven `longin`
    /// posts value+alarm+timeStamp on update 1 (UDF -> NO_ALARM changed the
    /// alarm) and value+timeStamp on updates 2 and 3.
    #[test]
    fn the_alarm_leaf_rides_dbe_alarm_not_every_update() {
        use epics_base_rs::server::recgbl::EventMask;
        use epics_base_rs::server::snapshot::PropertySupport;

        let props = PropertySupport::NUMERIC;

        // A value-only post (what a record's monitor() sends when the alarm
        // did not change): DBE_VALUE|DBE_LOG.
        let value_only = crate::nt::event_leaves(EventMask::VALUE | EventMask::LOG, props, false);
        assert_eq!(
            value_only,
            vec!["timeStamp".to_string(), "value".to_string()],
            "a value post marks timeStamp+value — no alarm, no metadata"
        );

        // The same post with the alarm changed.
        let with_alarm = crate::nt::event_leaves(
            EventMask::VALUE | EventMask::LOG | EventMask::ALARM,
            props,
            false,
        );
        assert_eq!(
            with_alarm,
            vec![
                "timeStamp".to_string(),
                "alarm".to_string(),
                "value".to_string()
            ],
            "DBE_ALARM adds the alarm leaf and nothing else"
        );

        // A property post marks the metadata and NOT value/timeStamp.
        let property = crate::nt::event_leaves(EventMask::PROPERTY, props, false);
        assert!(
            property.iter().any(|l| l == "display.limitLow")
                && property.iter().any(|l| l == "control.limitLow"),
            "a DBE_PROPERTY post marks the getProperties leaves, got {property:?}"
        );
        assert!(
            !property.iter().any(|l| l == "value" || l == "timeStamp"),
            "a property-only post assigns no value/timeStamp, got {property:?}"
        );
    }

    // ── UpstreamMonitor boundaries ─────────────────────────────────────
    //
    // The three monitor bridge tasks became `MonitorStream::Upstream`
    // adapters that own the subscription and apply the transform on pull.
    // Three boundaries the deleted tasks used to hold, one test each:
    // the seed ordering, the empty-mask filter, and Empty-vs-Disconnected
    // on the non-blocking path (the whole reason the adapters exist).

    /// The `PvSubscription` bridge sent the connect-time snapshot before
    /// entering its loop. The adapter must hand the same value out first —
    /// and, unlike the task, without the consumer awaiting anything: this
    /// is the property that lets an RTEMS operation thread drain a monitor
    /// without a reactor.
    #[epics_macros_rs::epics_test]
    async fn the_upstream_seed_is_the_first_item_and_needs_no_await() {
        use tokio::sync::mpsc::error::TryRecvError;

        let db = Arc::new(PvDatabase::new());
        db.add_pv("SEED:MON", EpicsValue::Double(7.0))
            .await
            .unwrap();
        let src = PvDatabaseSource::new(db.clone());

        let mut rx = src
            .subscribe_ctx("SEED:MON", make_ctx("127.0.0.1", "anon", "ca"))
            .await
            .expect("subscribe to simple PV");

        let first = rx.try_recv().expect("the seed is available with no await");
        assert_eq!(
            monitor_double(&first),
            Some(7.0),
            "the first item is the connect-time snapshot"
        );
        assert!(
            matches!(rx.try_recv(), Err(TryRecvError::Empty)),
            "after the seed and before any post the stream is Empty, not \
             Disconnected — the producer is alive"
        );
    }

    /// The marked bridge's `if marked.is_empty() { continue; }`. The adapter
    /// expresses it as `map -> None`, so the filter has to survive as a
    /// property of the transform itself.
    #[test]
    fn an_event_whose_class_marks_nothing_is_filtered_out() {
        use epics_base_rs::server::recgbl::EventMask;
        use epics_base_rs::server::snapshot::Snapshot;

        let mk = |mask: EventMask| {
            epics_base_rs::server::pv::MonitorEvent::read_log(
                &mut Snapshot::new(EpicsValue::Double(1.0), 0, 0, std::time::SystemTime::now()),
                mask,
            )
        };

        let mut ring = PostRing::new(
            4,
            Snapshot::new(EpicsValue::Double(1.0), 0, 0, std::time::SystemTime::now()),
        );
        assert!(
            marked_update(&mut ring, mk(EventMask::from_bits(0)), 0, || None).is_none(),
            "a class that marks no leaf has no wire meaning — C assigns none \
             either, so it must not reach the client as an update"
        );
        let value = marked_update(&mut ring, mk(EventMask::VALUE), 0, || None)
            .expect("a DBE_VALUE post is an update");
        assert!(
            value
                .marked
                .expect("a record update declares its marks")
                .iter()
                .any(|m| m == "value"),
            "the positive control: a marking event still comes through"
        );
    }

    /// Value pairs whose second post changes the NT shape.
    fn shape_changes() -> [(EpicsValue, EpicsValue); 2] {
        [
            (EpicsValue::Double(1.0), EpicsValue::Enum(2)),
            (EpicsValue::Enum(1), EpicsValue::Double(5.0)),
        ]
    }

    /// A shape change between two posts on one `PostRing` serves the tree a
    /// fresh ring serves for the second post — the new shape's tree, filled
    /// through its own member indices. A scalar slot takes any scalar, so a
    /// value check alone passes a stale layout.
    #[test]
    fn post_ring_serves_the_new_shape_across_a_shape_change() {
        use epics_base_rs::server::snapshot::Snapshot;
        let snap = |v: &EpicsValue| Snapshot::new(v.clone(), 0, 0, std::time::UNIX_EPOCH);
        for (first, second) in shape_changes() {
            let mut ring = PostRing::new(4, snap(&first));
            ring.post(&LogLeaves::of_snapshot(&snap(&first), 0));
            let served = ring
                .post(&LogLeaves::of_snapshot(&snap(&second), 0))
                .into_owned();
            let fresh = PostRing::new(4, snap(&first))
                .post(&LogLeaves::of_snapshot(&snap(&second), 0))
                .into_owned();
            assert_eq!(served, fresh, "{first:?} then {second:?}");
        }
    }

    /// The same for the plain record transform, which keeps its layout
    /// across events.
    #[test]
    fn plain_record_field_serves_the_new_shape_across_a_shape_change() {
        use epics_base_rs::server::recgbl::EventMask;
        use epics_base_rs::server::snapshot::Snapshot;
        let snap = |v: &EpicsValue| Snapshot::new(v.clone(), 0, 0, std::time::UNIX_EPOCH);
        let ev = |v: &EpicsValue| {
            epics_base_rs::server::pv::MonitorEvent::read_log(&mut snap(v), EventMask::VALUE)
        };
        for (first, second) in shape_changes() {
            let mut meta = snap(&first);
            let mut layout = None;
            plain_record_field(&mut meta, &mut layout, ev(&first), 0, || None)
                .expect("a value post yields a value");
            let served = plain_record_field(&mut meta, &mut layout, ev(&second), 0, || None);
            let fresh = plain_record_field(&mut snap(&first), &mut None, ev(&second), 0, || None);
            assert!(served.is_some(), "a value post yields a value");
            assert_eq!(served, fresh, "{first:?} then {second:?}");
        }
    }

    /// A record monitor with nothing posted yet reports `Empty` (park), and
    /// only reports `Disconnected` when the producer is really gone. Getting
    /// this backwards would make an RTEMS drain loop tear down every idle
    /// monitor, which is why the mapping is spelled once in `from_queue_err`.
    #[epics_macros_rs::epics_test]
    async fn an_idle_record_monitor_is_empty_not_disconnected() {
        use epics_base_rs::server::records::ai::AiRecord;
        use tokio::sync::mpsc::error::TryRecvError;

        let db = Arc::new(PvDatabase::new());
        db.add_record("AI:IDLE", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db.clone());
        let ctx = make_ctx("localhost", "op", "ca");
        let checked = source
            .access()
            .check(
                "AI:IDLE",
                &ctx.creds.host,
                &ctx.creds.account,
                &ctx.creds.method,
                "",
            )
            .await;

        let mut rx = source
            .subscribe_checked_opts_marked(checked, ctx, Default::default())
            .await
            .expect("record subscribe");

        assert!(
            matches!(rx.try_recv(), Err(TryRecvError::Empty)),
            "an armed record monitor with no post yet is Empty"
        );

        db.put_record_field_from_ca_no_notify("AI:IDLE", "VAL", EpicsValue::Double(1.0))
            .await
            .expect("put");
        epics_base_rs::runtime::task::timeout(std::time::Duration::from_secs(2), rx.recv())
            .await
            .expect("an update must post within 2s")
            .expect("stream open");
    }

    /// asTrapWrite parity: a PVA PUT served by the NATIVE source must
    /// fire the EPICS put-logging hook when the matched ACF rule carries
    /// `TRAPWRITE`, exactly as the QSRV bridge and the CA server already
    /// do (pvxs `IOCSource::doPreProcessing` builds a `SecurityLogger`
    /// for every put, `ioc/iocsource.cpp:362-375`). Before the fix this
    /// source had no bracket anywhere, so a `pvput` against the PVA-only
    /// IOC was silently unaudited.
    #[epics_macros_rs::epics_test]
    async fn native_put_emits_trap_write_when_rule_is_trapped() {
        use epics_base_rs::server::access_security::{TrapWriteOp, register_trap_write_listener};
        use epics_base_rs::server::records::ai::AiRecord;
        use std::sync::Mutex;

        let acf = parse_acf(
            r#"
ASG(AUDIT) {
    RULE(1, READ)
    RULE(1, WRITE, TRAPWRITE)
}
"#,
        )
        .unwrap();

        let db = Arc::new(PvDatabase::new());
        db.add_record("AI:AUDIT", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        db.get_record("AI:AUDIT").unwrap().write().common.text.asg = "AUDIT".to_string();

        let source = PvDatabaseSource::new_with_acf(
            db.clone(),
            epics_base_rs::server::access_security::new_acf_cell(Some(acf)),
        );

        // Filter by PV so the assertion holds even under a single-process
        // `cargo test` where another test's put shares the registry.
        type Seen = Arc<Mutex<Vec<(TrapWriteOp, Option<String>, Vec<u8>, String, u32)>>>;
        let seen: Seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let _handle = register_trap_write_listener(Arc::new(move |msg| {
            if msg.pv_name == b"AI:AUDIT" {
                sink.lock().unwrap().push((
                    msg.op,
                    msg.status.map(str::to_string),
                    msg.user.to_vec(),
                    msg.value_str.to_string(),
                    msg.no_elements,
                ));
            }
        }));

        source
            .put_value_ctx("AI:AUDIT", pv_double(7.5), make_ctx("lab-pc1", "op", "ca"))
            .await
            .expect("PUT must succeed");

        let got = seen.lock().unwrap().clone();
        assert_eq!(
            got.len(),
            2,
            "a TRAPWRITE-matched PUT owes exactly one Before/After pair: {got:?}"
        );
        assert_eq!(got[0].0, TrapWriteOp::BeforeWrite);
        assert_eq!(got[0].1, None, "BeforeWrite carries no status");
        assert_eq!(got[1].0, TrapWriteOp::AfterWrite);
        assert_eq!(got[1].1, Some("ok".to_string()), "successful put -> ok");
        assert_eq!(got[0].2, b"op", "the authenticated account is logged");
        assert_eq!(got[0].4, 1, "scalar put -> no_elements = 1");
        assert!(
            got[0].3.contains("7.5"),
            "the written value must reach the log: {:?}",
            got[0].3
        );
    }

    /// pvxs's `SecurityLogger` logs `dbChannelFinalFieldType`
    /// (`ioc/securitylogger.h:43-50`), `DBR_CHAR` on a char address: an lso
    /// VAL with `SIZV` 64 is one under `$` and, reshaped, without it.
    #[epics_macros_rs::epics_test]
    async fn native_put_logs_a_char_address_as_dbr_char() {
        use epics_base_rs::server::access_security::{TrapWriteOp, register_trap_write_listener};
        use epics_base_rs::types::DbFieldType;
        use std::sync::Mutex;

        let acf =
            parse_acf("ASG(AUDIT) {\n RULE(1, READ)\n RULE(1, WRITE, TRAPWRITE)\n}\n").unwrap();
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(lso, "LS:T") { field(SIZV, "64") field(ASG, "AUDIT") }"#,
                &HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        let source = PvDatabaseSource::new_with_acf(
            db,
            epics_base_rs::server::access_security::new_acf_cell(Some(acf)),
        );
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let _handle = register_trap_write_listener(Arc::new(move |msg| {
            if msg.op == TrapWriteOp::BeforeWrite && msg.pv_name.starts_with(b"LS:T") {
                sink.lock()
                    .unwrap()
                    .push((msg.pv_name.to_vec(), msg.dbr_type));
            }
        }));
        for name in ["LS:T.VAL", "LS:T.VAL$"] {
            source
                .put_value_ctx(
                    name,
                    PvField::Scalar(ScalarValue::String("hi".into())),
                    make_ctx("lab-pc1", "op", "ca"),
                )
                .await
                .expect(name);
        }
        let char = DbFieldType::Char as u16;
        assert_eq!(
            *seen.lock().unwrap(),
            [(b"LS:T.VAL".to_vec(), char), (b"LS:T.VAL$".to_vec(), char)]
        );
    }

    /// The gate half: a rule with no `TRAPWRITE` option dispatches
    /// nothing, and the write still lands (C `asActive && trapMask`,
    /// `asLib.h:57-60`).
    #[epics_macros_rs::epics_test]
    async fn native_put_emits_nothing_when_rule_is_not_trapped() {
        use epics_base_rs::server::access_security::register_trap_write_listener;
        use epics_base_rs::server::records::ai::AiRecord;
        use std::sync::atomic::{AtomicUsize, Ordering};

        let acf = parse_acf(
            r#"
ASG(PLAIN) {
    RULE(1, READ)
    RULE(1, WRITE)
}
"#,
        )
        .unwrap();

        let db = Arc::new(PvDatabase::new());
        db.add_record("AI:PLAIN", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        db.get_record("AI:PLAIN").unwrap().write().common.text.asg = "PLAIN".to_string();

        let source = PvDatabaseSource::new_with_acf(
            db.clone(),
            epics_base_rs::server::access_security::new_acf_cell(Some(acf)),
        );

        let hits = Arc::new(AtomicUsize::new(0));
        let sink = hits.clone();
        let _handle = register_trap_write_listener(Arc::new(move |msg| {
            if msg.pv_name == b"AI:PLAIN" {
                sink.fetch_add(1, Ordering::Relaxed);
            }
        }));

        source
            .put_value_ctx("AI:PLAIN", pv_double(3.25), make_ctx("lab-pc1", "op", "ca"))
            .await
            .expect("PUT must succeed");

        assert_eq!(
            hits.load(Ordering::Relaxed),
            0,
            "a rule without TRAPWRITE must dispatch no put-log event"
        );
        let v = db
            .get_record("AI:PLAIN")
            .unwrap()
            .read()
            .resolve_field("VAL")
            .and_then(|v| v.to_f64())
            .unwrap();
        assert_eq!(v, 3.25, "the write itself must still land");
    }

    /// Build a PUT INIT pvRequest carrying `record._options.<pairs>` — the
    /// shape `pvput -r 'record[process=false]'` puts on the wire.
    fn options_request(pairs: &[(&str, PvField)]) -> PvField {
        let mut options = PvStructure::new("");
        for (k, v) in pairs {
            options.fields.push(((*k).to_string(), v.clone()));
        }
        let mut record = PvStructure::new("");
        record
            .fields
            .push(("_options".to_string(), PvField::Structure(options)));
        let mut root = PvStructure::new("");
        root.fields
            .push(("record".to_string(), PvField::Structure(record)));
        PvField::Structure(root)
    }

    fn ctx_with_options(pairs: &[(&str, PvField)]) -> ChannelContext {
        let mut ctx = make_ctx("lab-pc1", "op", "ca");
        ctx.pv_request = Some(options_request(pairs));
        ctx
    }

    /// A record that has never processed still carries the EPICS epoch in
    /// `TIME`; a processing cycle stamps it from the wall clock. That is the
    /// discriminator every `record._options.process` case below reads.
    fn has_processed(db: &PvDatabase, record: &str) -> bool {
        let rec = db.get_record(record).expect("record");
        let t = rec.read().common.time;
        t.unix_secs() > 700_000_000
    }

    async fn ai_db(name: &str) -> Arc<PvDatabase> {
        use epics_base_rs::server::records::ai::AiRecord;
        let db = Arc::new(PvDatabase::new());
        db.add_record(name, Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        db
    }

    fn val_of(db: &PvDatabase, record: &str) -> f64 {
        db.get_record(record)
            .unwrap()
            .read()
            .resolve_field("VAL")
            .and_then(|v| v.to_f64())
            .unwrap()
    }

    /// An NTEnum PUT to `MB` (an mbbo at index 2) whose wire delta carries a
    /// stale index 1 and marks `value.index` only when `mark_index` is set.
    async fn enum_delta_put(mark_index: bool, ctx: ChannelContext) -> Arc<PvDatabase> {
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(mbbo, "MB") { field(ZRST, "A") field(ONST, "B") field(TWST, "C") field(VAL, "2") }"#,
                &std::collections::HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db.clone());
        let desc = Arc::new(source.get_introspection(b"MB").await.expect("desc"));
        let mut delta = crate::pvdata::encode::default_value_for(&desc);
        if let PvField::Structure(root) = &mut delta
            && let Some(PvField::Structure(value)) = root.get_field_mut("value")
        {
            value.set("index", PvField::Scalar(ScalarValue::Int(1)));
        }
        // NTEnum bits: 0 root, 1 value, 2 value.index.
        let mut changed = crate::proto::BitSet::new();
        if mark_index {
            changed.set(2);
        }
        let checked = source
            .access()
            .check(
                "MB",
                &ctx.creds.host,
                &ctx.creds.account,
                &ctx.creds.method,
                "",
            )
            .await;
        source
            .put_delta_checked(checked, desc, changed, &delta, ctx)
            .await
            .expect("PUT must succeed");
        db
    }

    fn mb_index(db: &PvDatabase) -> f64 {
        val_of(db, "MB")
    }

    /// pvxs builds each EXEC's value fresh and its non-blocking put writes
    /// `value.index` marked or not (`serverget.cpp:466-469`,
    /// `singlesource.cpp:371-380`): an unmarked index lands as 0, never as the
    /// record's prior index nor the stale delta slot.
    #[epics_macros_rs::epics_test]
    async fn unmarked_enum_index_put_writes_zero() {
        let db = enum_delta_put(false, make_ctx("lab-pc1", "op", "ca")).await;
        assert_eq!(mb_index(&db), 0.0);
    }

    #[epics_macros_rs::epics_test]
    async fn marked_enum_index_put_writes_the_index() {
        let db = enum_delta_put(true, make_ctx("lab-pc1", "op", "ca")).await;
        assert_eq!(mb_index(&db), 1.0);
    }

    /// A blocking put with `value` unmarked is `processRequest`
    /// (`singlesource.cpp:363-364`): `dbNotify.c:233-252` neither writes nor
    /// processes.
    #[epics_macros_rs::epics_test]
    async fn blocking_unmarked_enum_put_neither_writes_nor_processes() {
        let ctx = ctx_with_options(&[("block", PvField::Scalar(ScalarValue::Boolean(true)))]);
        let db = enum_delta_put(false, ctx).await;
        assert_eq!(mb_index(&db), 2.0);
        assert!(!has_processed(&db, "MB"));
    }

    /// A blocking `processRequest` on a PACT record waits on its restart list
    /// (`dbNotify.c:225-231`), so the reply comes only once the cycle ends.
    #[epics_macros_rs::epics_test]
    async fn blocking_unmarked_put_on_a_busy_record_waits_for_it() {
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(calcout, "CO") { field(ODLY, "0.3") field(CALC, "1") }"#,
                &std::collections::HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        let mut visited = epics_base_rs::server::database::ProcStack::new();
        db.process_record_with_links("CO", &mut visited)
            .await
            .unwrap();
        let busy = || db.get_record("CO").unwrap().read().is_processing();
        assert!(busy(), "ODLY holds the record PACT");
        let source = PvDatabaseSource::new(db.clone());
        let desc = Arc::new(source.get_introspection(b"CO").await.expect("desc"));
        let delta = crate::pvdata::encode::default_value_for(&desc);
        let ctx = ctx_with_options(&[("block", PvField::Scalar(ScalarValue::Boolean(true)))]);
        let checked = source
            .access()
            .check(
                "CO",
                &ctx.creds.host,
                &ctx.creds.account,
                &ctx.creds.method,
                "",
            )
            .await;
        source
            .put_delta_checked(checked, desc, crate::proto::BitSet::new(), &delta, ctx)
            .await
            .expect("PUT must succeed");
        assert!(!busy(), "the reply came while the record was still PACT");
    }

    #[epics_macros_rs::epics_test]
    async fn blocking_marked_enum_put_writes_and_processes() {
        let ctx = ctx_with_options(&[("block", PvField::Scalar(ScalarValue::Boolean(true)))]);
        let db = enum_delta_put(true, ctx).await;
        assert_eq!(mb_index(&db), 1.0);
        assert!(has_processed(&db, "MB"));
    }

    /// pvxs's `putArray` drops a null array before any `dbPut`
    /// (`iocsource.cpp:542-543`) and `doPostProcessing` still runs, so a put
    /// marking nothing leaves a waveform's elements and processes it.
    #[epics_macros_rs::epics_test]
    async fn unmarked_array_put_writes_nothing_and_processes() {
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(waveform, "WF") { field(FTVL, "DOUBLE") field(NELM, "4") }"#,
                &std::collections::HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        db.put_pv("WF", EpicsValue::DoubleArray(vec![1.0, 2.0, 3.0].into()))
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db.clone());
        let desc = Arc::new(source.get_introspection(b"WF").await.expect("desc"));
        let delta = crate::pvdata::encode::default_value_for(&desc);
        let ctx = make_ctx("lab-pc1", "op", "ca");
        let checked = source
            .access()
            .check(
                "WF",
                &ctx.creds.host,
                &ctx.creds.account,
                &ctx.creds.method,
                "",
            )
            .await;
        source
            .put_delta_checked(checked, desc, crate::proto::BitSet::new(), &delta, ctx)
            .await
            .expect("PUT must succeed");
        let val = db.get_record("WF").unwrap().read().resolve_field("VAL");
        assert_eq!(val.map(|v| v.count()), Some(3), "elements untouched");
        assert!(has_processed(&db, "WF"));
    }

    /// `record[process=false]` — pvxs `setForceProcessingFlag` maps it to
    /// `TriState::False`, and `doPostProcessing` then processes nothing
    /// (`ioc/singlesource.cpp:348-352`, `ioc/iocsource.cpp:397-403`). The
    /// native source ignored the option entirely and always took the
    /// Passive `dbPutField` route, so a passive record processed anyway —
    /// FLNK fired, monitors posted, TIME advanced.
    #[epics_macros_rs::epics_test]
    async fn put_option_process_false_writes_without_processing() {
        let db = ai_db("AI:NOPROC").await;
        let source = PvDatabaseSource::new(db.clone());
        source
            .put_value_ctx(
                "AI:NOPROC",
                pv_double(5.0),
                ctx_with_options(&[("process", PvField::Scalar(ScalarValue::Boolean(false)))]),
            )
            .await
            .expect("PUT must succeed");

        assert_eq!(val_of(&db, "AI:NOPROC"), 5.0, "the field is still written");
        assert!(
            !has_processed(&db, "AI:NOPROC"),
            "process=false must write the field only — the record must not process"
        );
    }

    /// The other side of the same boundary: with no `process` option the
    /// same passive record DOES process, so the assertion above is about
    /// the option and not about the record being inert.
    #[epics_macros_rs::epics_test]
    async fn put_without_process_option_still_processes_a_passive_record() {
        let db = ai_db("AI:DEFPROC").await;
        let source = PvDatabaseSource::new(db.clone());
        source
            .put_value_ctx(
                "AI:DEFPROC",
                pv_double(5.0),
                make_ctx("lab-pc1", "op", "ca"),
            )
            .await
            .expect("PUT must succeed");
        assert!(
            has_processed(&db, "AI:DEFPROC"),
            "a pp(TRUE) field on a Passive record processes by default"
        );
    }

    /// `record[process=true]` forces a cycle on a record the Passive rule
    /// would leave alone — pvxs `doPostProcessing(forceProcessing == True)`
    /// (`ioc/iocsource.cpp:397-421`). A periodically-scanned record is the
    /// boundary: `dbPutField`'s own test requires `scan == 0`.
    #[epics_macros_rs::epics_test]
    async fn put_option_process_true_forces_a_scanned_record() {
        use epics_base_rs::server::record::ScanType;

        let db = ai_db("AI:FORCE").await;
        db.get_record("AI:FORCE").unwrap().write().common.scan = ScanType::SEC1;
        let source = PvDatabaseSource::new(db.clone());
        source
            .put_value_ctx(
                "AI:FORCE",
                pv_double(5.0),
                ctx_with_options(&[("process", PvField::Scalar(ScalarValue::Boolean(true)))]),
            )
            .await
            .expect("PUT must succeed");
        assert!(
            has_processed(&db, "AI:FORCE"),
            "process=true must force the cycle a SCAN=1 second record would not take"
        );
    }

    /// `record[process=true,block=true]` is `dbProcessNotify`'s
    /// `putProcessRequest` (`ioc/singlesource.cpp:361-368`), which processes
    /// only for PROC or a pp field of a Passive record (`dbNotify.c:243-247`):
    /// the value lands and a scanned record is left alone.
    #[epics_macros_rs::epics_test]
    async fn blocking_put_with_process_true_leaves_a_scanned_record_alone() {
        use epics_base_rs::server::record::ScanType;

        let db = ai_db("AI:BLOCK").await;
        db.get_record("AI:BLOCK").unwrap().write().common.scan = ScanType::SEC1;
        let source = PvDatabaseSource::new(db.clone());
        source
            .put_value_ctx(
                "AI:BLOCK",
                pv_double(5.0),
                ctx_with_options(&[
                    ("process", PvField::Scalar(ScalarValue::Boolean(true))),
                    ("block", PvField::Scalar(ScalarValue::Boolean(true))),
                ]),
            )
            .await
            .expect("PUT must succeed");
        assert_eq!(val_of(&db, "AI:BLOCK"), 5.0);
        assert!(!has_processed(&db, "AI:BLOCK"));
    }

    /// Drive `f` in place until it parks — poll it, and keep polling for as
    /// long as it asks to be woken again.
    fn drive_until_parked<F: std::future::Future + Unpin>(f: &mut F) -> std::task::Poll<F::Output> {
        use std::sync::atomic::{AtomicBool, Ordering};
        use std::task::{Context, Poll, Wake, Waker};

        struct Woken(AtomicBool);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }

        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        for _ in 0..64 {
            woken.0.store(false, Ordering::SeqCst);
            match std::pin::Pin::new(&mut *f).poll(&mut cx) {
                Poll::Ready(v) => return Poll::Ready(v),
                Poll::Pending if !woken.0.load(Ordering::SeqCst) => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        panic!("the put never parked");
    }

    async fn busy_db(name: &str) -> Arc<PvDatabase> {
        use epics_base_rs::server::records::busy::BusyRecord;
        let db = Arc::new(PvDatabase::new());
        db.add_record(name, Box::new(BusyRecord::default()))
            .await
            .unwrap();
        db
    }

    /// `record[block=true]` is the one PVA operation that can outlive the
    /// client that asked for it, and the transport already knows how to end
    /// it: the PUT EXEC body is spawned and its abort handle kept on the op
    /// (`server_native::tcp::finish_exec_data_task`), so DESTROY_CHANNEL and
    /// connection teardown alike drop `ChannelState::ops`, abort the task and
    /// drop this future mid-await. Dropping the future here is that abort.
    ///
    /// What the drop must do is release the record. `busy` at VAL=1 withholds
    /// `recGblFwdLink` by contract (`busyRecord.c:271`), so the completion
    /// never comes on its own, and a SECOND client is already parked on the
    /// restart list — nothing arrives afterwards to test ownership, so a
    /// release that ran only at the next put's arrival would never run and
    /// the queued client would wait forever. C reaches the same release from
    /// `rsrvFreePutNotify` -> `dbNotifyCancel` (`rsrv/camessage.c:1630-1638`).
    #[epics_macros_rs::epics_test]
    async fn an_aborted_blocking_put_hands_the_record_to_the_queued_client() {
        use epics_base_rs::types::EpicsValue;

        let db = busy_db("BUSY:ABORT").await;
        let source = PvDatabaseSource::new(db.clone());
        let block = [("block", PvField::Scalar(ScalarValue::Boolean(true)))];
        let val = || {
            db.get_record("BUSY:ABORT")
                .unwrap()
                .read()
                .record
                .get_field("VAL")
        };

        let mut first =
            Box::pin(source.put_value_ctx("BUSY:ABORT", pv_double(1.0), ctx_with_options(&block)));
        assert!(
            drive_until_parked(&mut first).is_pending(),
            "VAL=1 withholds the callback, so the blocking PUT cannot reply"
        );
        assert!(
            db.get_record("BUSY:ABORT").unwrap().read().has_notify(),
            "the first client owns the record's put-notify slot"
        );

        let mut second =
            Box::pin(source.put_value_ctx("BUSY:ABORT", pv_double(0.0), ctx_with_options(&block)));
        assert!(
            drive_until_parked(&mut second).is_pending(),
            "the second client queues behind the first"
        );
        assert_eq!(
            val(),
            Some(EpicsValue::Enum(1)),
            "a queued put-notify writes nothing until it is replayed"
        );

        drop(first); // the op is aborted: DESTROY_CHANNEL or connection teardown

        second.await.expect("the queued PUT must complete");
        assert_eq!(
            val(),
            Some(EpicsValue::Enum(0)),
            "restartCheck hands the record over, and the queued client then writes"
        );
    }

    /// pvxs reports an unusable `record._options.process` to the client
    /// (`ioc/iocsource.cpp:446-447` `logRemote(Warn, "Ignoring unsupported
    /// ...")`) and keeps the passive default. The native source emitted no
    /// diagnostic at all because it never read the option.
    #[epics_macros_rs::epics_test]
    async fn put_option_unsupported_process_value_warns_the_client() {
        let db = ai_db("AI:BADOPT").await;
        let source = PvDatabaseSource::new(db.clone());
        let ctx = ctx_with_options(&[(
            "process",
            PvField::Scalar(ScalarValue::String("maybe".into())),
        )]);
        let log = ctx.log.clone();
        source
            .put_value_ctx("AI:BADOPT", pv_double(5.0), ctx)
            .await
            .expect("an unusable option keeps the passive default, it does not fail the PUT");

        let msgs = log.take();
        assert_eq!(msgs.len(), 1, "exactly one diagnostic: {msgs:?}");
        assert!(
            msgs[0].message.contains("Ignoring unsupported"),
            "pvxs's wording must reach the client: {:?}",
            msgs[0].message
        );
        assert!(
            has_processed(&db, "AI:BADOPT"),
            "the unusable value keeps the Passive default, so the record still processes"
        );
    }

    /// Subscribe `name` with the DBE the pvRequest options ask for, through
    /// the same `resolve_dbe` the wire layer runs at MONITOR INIT.
    async fn dbe_monitor(
        source: &PvDatabaseSource,
        name: &str,
        options: &[(&str, PvField)],
    ) -> MonitorStream<crate::server_native::source::MonitorUpdate> {
        use crate::server_native::source::MonitorOptions;
        let ctx = ctx_with_options(options);
        let checked = source
            .access()
            .check(
                name,
                &ctx.creds.host,
                &ctx.creds.account,
                &ctx.creds.method,
                "",
            )
            .await;
        let opts = MonitorOptions {
            dbe: MonitorOptions::resolve_dbe(ctx.pv_request.as_ref()),
            ..Default::default()
        };
        source
            .subscribe_checked_opts_marked(checked, ctx, opts)
            .await
            .expect("record subscribe")
    }

    /// A record field whose subscriber cap is full refuses the monitor with
    /// pvxs's line: subscriptionctx.h:48 throws "Failed to create db
    /// subscription" out of `onSubscribe`, servermon.cpp:598 logs it at ERR.
    #[epics_macros_rs::epics_test]
    async fn a_full_subscriber_cap_refuses_the_monitor_with_pvxss_line() {
        use crate::server_native::source::MonitorOptions;
        use epics_base_rs::server::records::ai::AiRecord;
        let db = Arc::new(PvDatabase::new());
        db.add_record("AI:CAP", Box::new(AiRecord::new(0.0)))
            .await
            .unwrap();
        let rec = db.get_record("AI:CAP").unwrap();
        let held: Vec<_> = (1..)
            .map_while(|sid| {
                rec.write()
                    .add_subscriber("VAL", sid, epics_base_rs::types::DbFieldType::Double, 1)
                    .ok()
            })
            .collect();
        assert!(!held.is_empty());
        let source = PvDatabaseSource::new(db.clone());
        let ctx = make_ctx("h", "alice", "anonymous");
        let peer = ctx.peer;
        let checked = source
            .access()
            .check("AI:CAP", "h", "alice", "anonymous", "")
            .await;
        let heard = Arc::new(std::sync::Mutex::new(String::new()));
        let sink = heard.clone();
        let listener = epics_base_rs::runtime::log::errlog_add_listener(move |m| {
            if let Some((_time, line)) = m.split_once(' ') {
                sink.lock().unwrap().push_str(line);
            }
        });
        let opened = source
            .subscribe_checked_opts_marked(checked, ctx, MonitorOptions::default())
            .await;
        assert!(opened.is_none(), "the cap refuses the monitor");
        epics_base_rs::runtime::log::errlog_flush();
        epics_base_rs::runtime::log::errlog_remove_listener(listener);
        assert_eq!(
            *heard.lock().unwrap(),
            format!(
                "ERR pvxs.tcp.setup Client {peer} Monitor \"AI:CAP\" onSubscribe() error: Failed to create db subscription\n"
            )
        );
    }

    /// pvxs opens the value subscription with the client's
    /// `record._options.DBE` (`singlesource.cpp:117-160`), so a
    /// `DBE="ALARM"` monitor is woken by alarm transitions and by nothing
    /// else. The native source subscribed with a FIXED
    /// `VALUE|LOG|ALARM|PROPERTY` mask, so it served every value change to
    /// a client that asked for alarms only.
    ///
    /// Both monitors are fed by the same `db_post_events` dispatch, so the
    /// default one arriving proves the post happened — no timing margin is
    /// involved in the alarm-only one staying empty.
    #[epics_macros_rs::epics_test]
    async fn a_dbe_alarm_monitor_is_not_woken_by_a_value_only_post() {
        use tokio::sync::mpsc::error::TryRecvError;

        let db = ai_db("AI:DBEALARM").await;
        let source = PvDatabaseSource::new(db.clone());
        let mut alarm_only = dbe_monitor(
            &source,
            "AI:DBEALARM",
            &[("DBE", PvField::Scalar(ScalarValue::String("ALARM".into())))],
        )
        .await;
        let mut every_class = dbe_monitor(&source, "AI:DBEALARM", &[]).await;

        // First cycle: UDF -> NO_ALARM changes the alarm, so the record's
        // post carries DBE_ALARM and both monitors are woken.
        db.put_record_field_from_ca_no_notify("AI:DBEALARM", "VAL", EpicsValue::Double(1.0))
            .await
            .expect("put");
        for rx in [&mut every_class, &mut alarm_only] {
            epics_base_rs::runtime::task::timeout(std::time::Duration::from_secs(2), rx.recv())
                .await
                .expect("the alarm transition must post within 2s")
                .expect("stream open");
        }

        // Second cycle: the alarm does not move, so the post is
        // DBE_VALUE|DBE_LOG — outside the alarm-only selection.
        db.put_record_field_from_ca_no_notify("AI:DBEALARM", "VAL", EpicsValue::Double(2.0))
            .await
            .expect("put");
        epics_base_rs::runtime::task::timeout(
            std::time::Duration::from_secs(2),
            every_class.recv(),
        )
        .await
        .expect("the default DBE_VALUE|DBE_ALARM monitor takes a value post")
        .expect("stream open");
        assert!(
            matches!(alarm_only.try_recv(), Err(TryRecvError::Empty)),
            "DBE=\"ALARM\" selects DBE_ALARM alone; a value-only post must not \
             reach that monitor"
        );
    }

    /// The property half of the pair is unconditional — pvxs opens the
    /// second subscription with `DBE_PROPERTY` whatever `DBE` selected
    /// (`singlesource.cpp:162-167`), so narrowing the value half must not
    /// cost a metadata update.
    #[epics_macros_rs::epics_test]
    async fn a_narrow_dbe_still_receives_the_property_subscription() {
        let db = ai_db("AI:DBEPROP").await;
        let source = PvDatabaseSource::new(db.clone());
        let mut rx = dbe_monitor(
            &source,
            "AI:DBEPROP",
            &[("DBE", PvField::Scalar(ScalarValue::String("ALARM".into())))],
        )
        .await;

        // EGU is a DBE_PROPERTY field: writing it posts on the property
        // class alone.
        db.put_pv("AI:DBEPROP.EGU", EpicsValue::String("mm".into()))
            .await
            .expect("put EGU");

        let update =
            epics_base_rs::runtime::task::timeout(std::time::Duration::from_secs(2), rx.recv())
                .await
                .expect("a DBE_PROPERTY post must reach every monitor")
                .expect("stream open");
        let marked = update.marked.expect("a record update declares its marks");
        assert!(
            marked.iter().any(|m| m.starts_with("display.")),
            "a property post marks the getProperties leaves, got {marked:?}"
        );
    }

    /// pvxs opens TWO subscriptions per single channel, never their union
    /// (`singlesource.cpp:155-167`). The difference is observable the
    /// moment the value stream has a backlog: on a by-reference channel —
    /// an array VAL — the subscriber queue latches latest-only
    /// (`event_queue.rs:436-438`), so a union subscription collapsed the
    /// arriving `DBE_PROPERTY` post onto the value post already queued and
    /// the client got ONE update, learning about the metadata change only
    /// as extra marks on a value event. Two queues cannot do that to each
    /// other.
    #[epics_macros_rs::epics_test]
    async fn a_property_post_is_not_collapsed_onto_a_queued_value_post() {
        use epics_base_rs::server::records::waveform::WaveformRecord;
        use epics_base_rs::types::DbFieldType;

        let db = Arc::new(PvDatabase::new());
        db.add_record(
            "WF:SPLIT",
            Box::new(WaveformRecord::new(4, DbFieldType::Long)),
        )
        .await
        .unwrap();
        let source = PvDatabaseSource::new(db.clone());
        let mut rx = dbe_monitor(&source, "WF:SPLIT", &[]).await;

        // Post a value change and then a metadata change WITHOUT draining
        // in between, so both are pending when the client next pulls.
        db.put_record_field_from_ca_no_notify(
            "WF:SPLIT",
            "VAL",
            EpicsValue::LongArray(vec![1, 2, 3, 4].into()),
        )
        .await
        .expect("put VAL");
        db.put_pv("WF:SPLIT.EGU", EpicsValue::String("mm".into()))
            .await
            .expect("put EGU");

        let mut marked_sets = Vec::new();
        for nth in 0..2 {
            let update =
                epics_base_rs::runtime::task::timeout(std::time::Duration::from_secs(2), rx.recv())
                    .await
                    .unwrap_or_else(|_| {
                        panic!(
                            "the value post and the property post are separate \
                             subscriptions, so both must arrive; update {nth} did not \
                             (so far: {marked_sets:?})"
                        )
                    })
                    .expect("stream open");
            marked_sets.push(update.marked.expect("a record update declares its marks"));
        }

        assert!(
            marked_sets
                .iter()
                .any(|m| m.iter().any(|l| l == "value")
                    && !m.iter().any(|l| l.starts_with("display."))),
            "one update is the value post alone, got {marked_sets:?}"
        );
        assert!(
            marked_sets
                .iter()
                .any(|m| m.iter().any(|l| l.starts_with("display."))
                    && !m.iter().any(|l| l == "value")),
            "the other is the property post alone, got {marked_sets:?}"
        );
    }

    /// `check_monitor_request` is the port's INIT half of pvxs's
    /// `onSubscribe`, so the native source owns the throwing half of its
    /// `DBE` read: an array-typed `DBE` reaches `Value::as<uint8_t>()`,
    /// which has no scalar arm for array storage. pvxs turns that into a
    /// circuit reset; the port answers this one operation with an error
    /// (CBUG-C2). Before the fix the native source read no `DBE` at all,
    /// so the malformed option was served as if absent.
    #[epics_macros_rs::epics_test]
    async fn an_array_typed_dbe_fails_the_native_monitor_init() {
        use crate::pvdata::TypedScalarArray;

        let db = ai_db("AI:DBEBAD").await;
        let source = PvDatabaseSource::new(db.clone());
        let ctx = ctx_with_options(&[(
            "DBE",
            PvField::ScalarArrayTyped(TypedScalarArray::Int(vec![1].into())),
        )]);
        let checked = source
            .access()
            .check(
                "AI:DBEBAD",
                &ctx.creds.host,
                &ctx.creds.account,
                &ctx.creds.method,
                "",
            )
            .await;
        assert!(
            source.check_monitor_request(&checked, &ctx).await.is_err(),
            "an array-typed DBE must fail this MONITOR, not be served as absent"
        );

        // A mailbox PV is the `SharedPV` server API, whose `onSubscribe`
        // reads no `record._options` — the same malformed option is served.
        db.add_pv("MAILBOX:DBEBAD", EpicsValue::Double(1.0))
            .await
            .unwrap();
        let mut mailbox_ctx = ctx.clone();
        mailbox_ctx.pv_request = ctx.pv_request.clone();
        let mailbox_checked = source
            .access()
            .check(
                "MAILBOX:DBEBAD",
                &ctx.creds.host,
                &ctx.creds.account,
                &ctx.creds.method,
                "",
            )
            .await;
        assert!(
            source
                .check_monitor_request(&mailbox_checked, &mailbox_ctx)
                .await
                .is_ok(),
            "only a record-backed channel reads DBE; a SharedPV name must not \
             gain a new failure"
        );
    }

    /// The other outcome pvxs's `onSubscribe` owns: a present `DBE` that
    /// selects nothing in the value class is honoured by the `VALUE|ALARM`
    /// fallback, but the client is told first (`singlesource.cpp:128-131`).
    /// `LOG` is not one of the three recognized spellings — only `ARCHIVE`
    /// selects that bit.
    #[epics_macros_rs::epics_test]
    async fn a_dbe_selecting_an_empty_mask_warns_the_client() {
        let db = ai_db("AI:DBEEMPTY").await;
        let source = PvDatabaseSource::new(db.clone());
        let ctx = ctx_with_options(&[("DBE", PvField::Scalar(ScalarValue::String("LOG".into())))]);
        let checked = source
            .access()
            .check(
                "AI:DBEEMPTY",
                &ctx.creds.host,
                &ctx.creds.account,
                &ctx.creds.method,
                "",
            )
            .await;
        source
            .check_monitor_request(&checked, &ctx)
            .await
            .expect("an empty selection is served by the fallback, not refused");

        let logged = ctx.log.take();
        assert_eq!(logged.len(), 1, "exactly one diagnostic, got {logged:?}");
        assert_eq!(logged[0].level, crate::proto::MessageType::Warning);
        assert!(
            logged[0].message.contains("selects empty mask"),
            "pvxs reports the empty selection before falling back, got {:?}",
            logged[0].message
        );
    }

    // ── Channel-name resolution: `$`, `{json}` and `[range]` ──

    /// `REC.DESC$` connects and serves the field's `DBR_CHAR` image, the text
    /// and its NUL, as `int8_t[]`. `dbChannelCreate` made the field
    /// `DBF_CHAR` before pvxs looks (`dbAccess.c:682-701`), so its format
    /// stays `Default` (`ioc/iocsource.cpp:633`); `softIocPVX` 1.5.3 serves
    /// `REC.DESC$` of an empty DESC as `{1}[0]`.
    #[epics_macros_rs::epics_test]
    async fn a_dollar_string_channel_serves_its_char_image() {
        let db = ai_db("AI:LS").await;
        db.get_record("AI:LS").unwrap().write().common.text.desc = "a description".into();
        let source = PvDatabaseSource::new(db.clone());

        assert!(
            source.has_pv(b"AI:LS.DESC$").await,
            "`$` on a DBF_STRING field must create the channel"
        );
        let value = source.get_value(b"AI:LS.DESC$").await.expect("a value");
        let PvField::Structure(s) = &value else {
            panic!("expected an NTScalarArray structure, got {value:?}");
        };
        assert_eq!(
            s.get_field("value"),
            Some(&crate::leaf_convert::epics_value_to_pv_leaf(
                &EpicsValue::CharArray(b"a description\0".to_vec().into())
            )),
        );
    }

    /// The records the `$` pins below read, as `softIocPVX` 1.5.3 loaded them.
    async fn dollar_db() -> (Arc<PvDatabase>, PvDatabaseSource) {
        use std::collections::HashMap;
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"
                record(lso, "LZ:O") { field(SIZV, "64") }
                record(lso, "LZ:F") { field(SIZV, "64") info(Q:form, "String") }
                record(lso, "LZ:S") { field(SIZV, "20") }
                record(lsi, "LZ:J") { field(SIZV, "64") }
                record(waveform, "LZ:W") { field(FTVL, "STRING") field(NELM, "4") }
                record(calcout, "LZ:C") { field(INPA, "LZ:J") }
                "#,
                &HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db.clone());
        (db, source)
    }

    fn dollar_value(v: Option<PvField>) -> Option<PvField> {
        match v {
            Some(PvField::Structure(s)) => s.get_field("value").cloned(),
            other => panic!("expected an NT structure, got {other:?}"),
        }
    }

    fn dollar_chars(b: &[u8]) -> Option<PvField> {
        Some(crate::leaf_convert::epics_value_to_pv_leaf(
            &EpicsValue::CharArray(b.to_vec().into()),
        ))
    }

    fn dollar_text(t: &str) -> Option<PvField> {
        Some(PvField::Scalar(ScalarValue::String(t.into())))
    }

    async fn dollar_put(source: &PvDatabaseSource, name: &str, value: PvField) {
        source
            .put_value_ctx(name, value, make_ctx("127.0.0.1", "anon", "ca"))
            .await
            .expect("PUT must succeed");
    }

    /// A CHAR waveform's VAL tagged `info(Q:form, "String")` is pvxs's
    /// `TypeCode::String` without `$` (`ioc/iocsource.cpp:633`): a string
    /// NTScalar, no limits or form, and a string put is `putLongString`'s
    /// `strlen + 1` chars (`:601-603`) — ADCore's `NDAttributesFile` idiom.
    #[epics_macros_rs::epics_test]
    async fn a_q_form_string_char_array_serves_text() {
        use std::collections::HashMap;
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"
                record(waveform, "QF:W") { field(FTVL, "CHAR") field(NELM, "16") info(Q:form, "String") }
                record(waveform, "QF:U") { field(FTVL, "UCHAR") field(NELM, "16") info(Q:form, "String") }
                record(waveform, "QF:1") { field(FTVL, "CHAR") field(NELM, "1") info(Q:form, "String") }
                record(waveform, "QF:N") { field(FTVL, "CHAR") field(NELM, "16") }
                record(lso, "QF:S") { field(SIZV, "41") info(Q:form, "String") }
                "#,
                &HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db.clone());

        dollar_put(
            &source,
            "QF:W",
            PvField::Scalar(ScalarValue::String("abc".into())),
        )
        .await;
        let nord = db
            .get_record("QF:W")
            .unwrap()
            .read()
            .client_field_value("NORD");
        assert_eq!(nord.and_then(|v| v.to_f64()), Some(4.0), "strlen + 1");

        let Some(PvField::Structure(s)) = source.get_value(b"QF:W").await else {
            panic!("expected an NTScalar");
        };
        assert_eq!(s.get_field("value"), dollar_text("abc").as_ref());
        let Some(PvField::Structure(display)) = s.get_field("display") else {
            panic!("a string NTScalar keeps display.description/units");
        };
        assert!(display.get_field("limitLow").is_none());
        assert!(display.get_field("form").is_none());
        assert!(s.get_field("control").is_none());

        // Not `DBR_CHAR`, not `isArray`, no tag: each keeps its `int8_t`/
        // `uint8_t` value, as `softIocPVX` 1.5.3 serves them.
        for (name, array) in [("QF:U", true), ("QF:1", false), ("QF:N", true)] {
            let Some(PvField::Structure(s)) = source.get_value(name.as_bytes()).await else {
                panic!("{name}: expected an NT structure");
            };
            let value = s.get_field("value");
            let served_array = matches!(
                value,
                Some(PvField::ScalarArray(_) | PvField::ScalarArrayTyped(_))
            );
            let served_number =
                matches!(value, Some(PvField::Scalar(v)) if !matches!(v, ScalarValue::String(_)));
            assert!(
                if array { served_array } else { served_number },
                "{name}: {value:?}"
            );
        }

        // A long string pvxs leaves `DBR_STRING` (`ioc/channel.cpp:56-60`) is
        // `putScalar`'s 39-char `strncpy`, not `putLongString`, under any form.
        let long = "y".repeat(45);
        dollar_put(
            &source,
            "QF:S",
            PvField::Scalar(ScalarValue::String(long.as_str().into())),
        )
        .await;
        assert_eq!(
            dollar_value(source.get_value(b"QF:S").await),
            dollar_text(&long[..39])
        );
    }

    /// A `Q:form` long string's chars are sliced by `arr` before the text is
    /// read (`getArrayValue`, `ioc/iocsource.cpp:122-136`), by GET and by
    /// monitor alike. `softIocPVX` 1.5.3 serves each one char shorter, for
    /// the NUL it forces into the last element (`:134`).
    #[epics_macros_rs::epics_test]
    async fn a_q_form_string_reads_the_sliced_chars() {
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(waveform, "QC:W") { field(FTVL, "CHAR") field(NELM, "8") info(Q:form, "String") }
                   record(lso, "QC:S") { field(SIZV, "64") }"#,
                &std::collections::HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db.clone());
        let channels = [
            ("QC:W", "ABCDEFGH"),
            (r#"QC:W.{"arr":{"e":3}}"#, "ABCD"),
            (r#"QC:W.{"arr":{"s":1}}"#, "BCDEFGH"),
            ("QC:S", "ABCDEFGH"),
            (r#"QC:S.{"arr":{"e":3}}"#, "ABCD"),
            (r#"QC:S.{"arr":{"s":1}}"#, "BCDEFGH"),
        ];
        let mut monitors = Vec::new();
        for (name, _) in channels {
            monitors.push(source.subscribe(name.as_bytes()).await.expect(name));
        }
        db.put_pv_and_post("QC:W", EpicsValue::CharArray(b"ABCDEFGH".to_vec().into()))
            .await
            .unwrap();
        db.put_pv_and_post("QC:S", EpicsValue::String("ABCDEFGH".into()))
            .await
            .unwrap();
        for ((name, want), mut mon) in channels.into_iter().zip(monitors) {
            let posted = epics_base_rs::runtime::task::timeout(
                std::time::Duration::from_secs(5),
                mon.recv(),
            )
            .await
            .expect("a monitor update");
            assert_eq!(dollar_value(posted), dollar_text(want), "monitor {name}");
            assert_eq!(
                dollar_value(source.get_value(name.as_bytes()).await),
                dollar_text(want),
                "GET {name}"
            );
        }
    }

    /// A `$` GET per shape, each the `pvxget -r value` answer of
    /// `softIocPVX` 1.5.3 over the same records after `pvxput LZ:O world`,
    /// `LZ:F world`, `LZ:S abc` and `LZ:W '["abc","de"]'`.
    #[epics_macros_rs::epics_test]
    async fn a_dollar_get_serves_what_softiocpvx_serves() {
        let (_db, source) = dollar_db().await;
        for (name, text) in [
            ("LZ:O.VAL", "world"),
            ("LZ:F.VAL", "world"),
            ("LZ:S.VAL", "abc"),
        ] {
            dollar_put(
                &source,
                name,
                PvField::Scalar(ScalarValue::String(text.into())),
            )
            .await;
        }
        dollar_put(
            &source,
            "LZ:W.VAL",
            crate::leaf_convert::epics_value_to_pv_leaf(&EpicsValue::StringArray(
                vec!["abc".into(), "de".into()].into(),
            )),
        )
        .await;
        let cases = [
            ("LZ:O.VAL$", dollar_chars(b"world\0")),
            ("LZ:O.DESC$", dollar_chars(b"\0")),
            ("LZ:O.RTYP$", dollar_chars(b"lso\0")),
            ("LZ:S.VAL$", dollar_chars(b"abc\0")),
            ("LZ:J.VAL$", dollar_chars(b"")),
            ("LZ:W.VAL$", dollar_chars(b"ab")),
            ("LZ:F.VAL$", dollar_text("world")),
            ("LZ:C.INPA$", dollar_text("LZ:J NPP NMS")),
        ];
        for (name, want) in cases {
            assert_eq!(
                dollar_value(source.get_value(name.as_bytes()).await),
                want,
                "{name}"
            );
        }
    }

    /// An `arr` slice of a `$` channel: `softIocPVX` 1.5.3 over
    /// `record(stringin,"FS"){field(VAL,"hello")}`, `pvxget -r value`.
    #[epics_macros_rs::epics_test]
    async fn a_dollar_arr_slice_serves_what_softiocpvx_serves() {
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(stringin, "FS") { field(VAL, "hello") }"#,
                &std::collections::HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db);
        let cases = [
            (r#"FS.VAL${"arr":{"s":1,"e":3}}"#, dollar_chars(b"el\0")),
            (r#"FS.VAL${"arr":{"s":-3}}"#, dollar_chars(b"\0")),
            (r#"FS.VAL${"arr":{"s":1,"e":-1}}"#, dollar_chars(b"ello\0")),
            (r#"FS.VAL${"arr":{"s":3,"e":8}}"#, dollar_chars(b"lo\0")),
            (
                r#"FS.VAL${"arr":{"s":1,"e":3,"i":2}}"#,
                dollar_chars(b"e\0"),
            ),
        ];
        for (name, want) in cases {
            assert_eq!(
                dollar_value(source.get_value(name.as_bytes()).await),
                want,
                "{name}"
            );
        }
    }

    /// A long string whose failed device read left its NUL past `LEN`
    /// (devlsiStream.c): pvxs keeps a SIZV 41 VAL the `DBF_STRING`
    /// `cvt_dbaddr` made it, read to the buffer's NUL, and re-views a SIZV
    /// 100 VAL as its `LEN` chars (`ioc/channel.cpp:58-67`).
    #[epics_macros_rs::epics_test]
    async fn a_long_string_reads_past_len_only_without_the_re_view() {
        use epics_base_rs::server::records::lsi::LsiRecord;
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(lsi, "A") { field(SIZV, "41") field(MPST, "Always") }
                record(lsi, "B") { field(SIZV, "100") field(MPST, "Always") }"#,
                &std::collections::HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        for (name, read) in [("A", b"abcdef".to_vec()), ("B", vec![b'x'; 50])] {
            let cell = db.get_record(name).unwrap();
            let mut inst = cell.write();
            let lsi = inst
                .record
                .as_any_mut()
                .and_then(|a| a.downcast_mut::<LsiRecord>())
                .unwrap();
            lsi.val.set_text(b"o");
            let sizv = lsi.sizv as usize;
            lsi.val.scan_in_place(sizv, |buf| {
                buf[..read.len()].copy_from_slice(&read);
                buf[read.len()] = 0;
                None
            });
        }
        let source = PvDatabaseSource::new(db.clone());
        for (name, want) in [("A.VAL", "abcdef"), ("B.VAL", "xx")] {
            let want = Some(PvField::Scalar(ScalarValue::String(want.into())));
            assert_eq!(
                dollar_value(source.get_value(name.as_bytes()).await),
                want,
                "pvget {name}"
            );
            let mut mon = source.subscribe(name.as_bytes()).await.expect("subscribes");
            // MPST Always: the cycle posts VAL, which reads no new text.
            db.put_record_field_from_ca(&name[..1], "PROC", EpicsValue::Short(1))
                .await
                .unwrap();
            let first = epics_base_rs::runtime::task::timeout(
                std::time::Duration::from_secs(5),
                mon.recv(),
            )
            .await
            .expect("an event");
            assert_eq!(dollar_value(first), want, "pvmonitor {name}");
        }
    }

    /// A one-element `arr` slice is a scalar channel: `softIocPVX` 1.5.3's
    /// `pvxget` over `FS` = "hello", `W` = `[1,2,3]` and `LS` = "hey", and
    /// `pvxmonitor 'FS.VAL${"arr":{"s":1,"e":1}}'` over `pvxput FS world`,
    /// `FS ab`, `FS x`.
    #[epics_macros_rs::epics_test]
    async fn a_one_element_arr_slice_serves_what_softiocpvx_serves() {
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(stringin, "FS") { field(VAL, "hello") }
                record(waveform, "W") { field(FTVL, "LONG") field(NELM, "5") }
                record(lsi, "LS") { field(SIZV, "20") }"#,
                &std::collections::HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db);
        dollar_put(
            &source,
            "W.VAL",
            crate::leaf_convert::epics_value_to_pv_leaf(&EpicsValue::LongArray(
                vec![1, 2, 3].into(),
            )),
        )
        .await;
        let string = |t: &str| PvField::Scalar(ScalarValue::String(t.into()));
        dollar_put(&source, "LS.VAL", string("hey")).await;
        let cases = [
            (r#"FS.VAL${"arr":{"s":1,"e":1}}"#, ScalarValue::Byte(101)),
            (r#"LS.VAL${"arr":{"s":1,"e":1}}"#, ScalarValue::Byte(101)),
            (r#"W.VAL{"arr":{"s":1,"e":1}}"#, ScalarValue::Int(2)),
        ];
        for (name, want) in cases {
            let Some(FieldDesc::Structure { fields, .. }) =
                source.get_introspection(name.as_bytes()).await
            else {
                panic!("{name}: no NT descriptor");
            };
            let desc = fields.iter().find(|(n, _)| n == "value").map(|(_, d)| d);
            assert_eq!(desc, Some(&FieldDesc::Scalar(want.scalar_type())), "{name}");
            assert_eq!(
                dollar_value(source.get_value(name.as_bytes()).await),
                Some(PvField::Scalar(want)),
                "{name}"
            );
        }
        let mut mon = source
            .subscribe(br#"FS.VAL${"arr":{"s":1,"e":1}}"#)
            .await
            .expect("subscribes");
        for (put, want) in [("world", 111), ("ab", 98), ("x", 0)] {
            dollar_put(&source, "FS.VAL", string(put)).await;
            let posted = epics_base_rs::runtime::task::timeout(
                std::time::Duration::from_secs(5),
                mon.recv(),
            )
            .await
            .expect("a monitor update");
            assert_eq!(
                dollar_value(posted),
                Some(PvField::Scalar(ScalarValue::Byte(want))),
                "{put}"
            );
        }
    }

    /// A link's or an attribute's `$` through `arr` is its text re-read at
    /// the slice's count, from the start: `softIocPVX` 1.5.3's `pvxget`,
    /// `LK.INP` being `FS NPP NMS`.
    #[epics_macros_rs::epics_test]
    async fn a_dollar_link_arr_slice_serves_what_softiocpvx_serves() {
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(stringin, "FS") { field(VAL, "hello") }
                record(stringin, "LK") { field(INP, "FS NPP") }"#,
                &std::collections::HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db);
        let byte = |b| Some(PvField::Scalar(ScalarValue::Byte(b)));
        let cases = [
            ("LK.INP$", dollar_text("FS NPP NMS")),
            (r#"LK.INP${"arr":{"s":0,"e":1}}"#, dollar_text("F")),
            (r#"LK.INP${"arr":{"s":0,"e":2}}"#, dollar_text("FS")),
            (r#"LK.INP${"arr":{"s":1,"e":3}}"#, dollar_text("FS")),
            (r#"LK.INP${"arr":{"s":1,"e":1}}"#, byte(0)),
            (r#"LK.INP${"arr":{"s":0,"e":5}}"#, dollar_text("FS NP")),
            (r#"LK.INP${"arr":{"s":2}}"#, dollar_text("FS NPP NMS")),
            ("FS.RTYP$", dollar_chars(b"stringin\0")),
            (r#"FS.RTYP${"arr":{"s":1,"e":3}}"#, dollar_chars(b"st\0")),
            (r#"FS.RTYP${"arr":{"s":1,"e":1}}"#, byte(0)),
            (r#"FS.RTYP${"arr":{"s":0,"e":0}}"#, byte(0)),
        ];
        for (name, want) in cases {
            assert_eq!(
                dollar_value(source.get_value(name.as_bytes()).await),
                want,
                "{name}"
            );
        }
    }

    /// A char view whose chain left one element, or whose `ts` replaced the
    /// log, serves what the channel advertises: one `DBR_CHAR`, or the log,
    /// which `dbGet` reads in place of the link's text because the link
    /// route is taken on the log's type (`dbAccess.c:928-929,945`).
    /// softIocPVX 1.5.3 serves `LK.INP{"arr":{"s":0,"e":0}}` as `int8_t 0`
    /// and `LK.NAME{"arr":{"s":0,"e":0}}` as `int8_t 76`. An attribute's log
    /// is read too, which C does not do (`CharSource::after`).
    #[epics_macros_rs::epics_test]
    async fn a_char_view_through_a_retyping_chain_serves_the_log() {
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(stringin, "FS") { field(VAL, "hello") field(PINI, "YES") }
                record(stringin, "LK") { field(INP, "FS NPP") field(PINI, "YES") }"#,
                &std::collections::HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        db.ioc_init().await;
        let source = PvDatabaseSource::new(db);
        let read = async |name: &str| {
            let Some(FieldDesc::Structure { fields, .. }) =
                source.get_introspection(name.as_bytes()).await
            else {
                panic!("{name}: no NT descriptor");
            };
            let desc = fields
                .into_iter()
                .find(|(n, _)| n == "value")
                .map(|(_, d)| d);
            (desc, dollar_value(source.get_value(name.as_bytes()).await))
        };
        let byte = |b| Some(PvField::Scalar(ScalarValue::Byte(b)));
        for (name, want) in [
            (r#"LK.INP{"arr":{"s":0,"e":0}}"#, byte(0)),
            (r#"LK.NAME{"arr":{"s":0,"e":0}}"#, byte(b'L' as i8)),
        ] {
            assert_eq!(
                read(name).await,
                (Some(FieldDesc::Scalar(ScalarType::Byte)), want),
                "{name}"
            );
        }
        for (chain, desc) in [
            (
                r#"{"ts":{"num":"ts"}}"#,
                FieldDesc::ScalarArray(ScalarType::UInt),
            ),
            (
                r#"{"ts":{"num":"dbl"}}"#,
                FieldDesc::Scalar(ScalarType::Double),
            ),
            (
                r#"{"ts":{"str":"epics"}}"#,
                FieldDesc::Scalar(ScalarType::String),
            ),
        ] {
            for (rec, fields) in [
                ("LK", &["INP$", "INP", "DESC$", "NAME", "NAME$"][..]),
                ("FS", &["RTYP$", "RTYP"][..]),
            ] {
                let reference = format!("{rec}.VAL{chain}");
                let want = read(&reference).await;
                assert_eq!(want.0.as_ref(), Some(&desc), "{reference}");
                for field in fields {
                    let name = format!("{rec}.{field}{chain}");
                    assert_eq!(read(&name).await, want, "{name}");
                }
            }
        }
    }

    /// A `$` monitor per shape: `softIocPVX` 1.5.3's `pvxmonitor -r value`
    /// over `pvxput LZ:O again`, `LZ:W '["xyz"]'`, `LZ:F again`.
    #[epics_macros_rs::epics_test]
    async fn a_dollar_monitor_serves_what_softiocpvx_serves() {
        let (_db, source) = dollar_db().await;
        let string = |t: &str| PvField::Scalar(ScalarValue::String(t.into()));
        let strings = |t: &[&str]| {
            crate::leaf_convert::epics_value_to_pv_leaf(&EpicsValue::StringArray(
                t.iter().map(|s| (*s).into()).collect::<Vec<_>>().into(),
            ))
        };
        let cases = [
            (
                "LZ:O.VAL",
                string("world"),
                string("again"),
                dollar_chars(b"again\0"),
            ),
            (
                "LZ:W.VAL",
                strings(&["abc", "de"]),
                strings(&["xyz"]),
                dollar_chars(b"x"),
            ),
            (
                "LZ:F.VAL",
                string("world"),
                string("again"),
                dollar_text("again"),
            ),
        ];
        for (name, first, second, want) in cases {
            dollar_put(&source, name, first).await;
            let mut mon = source
                .subscribe(format!("{name}$").as_bytes())
                .await
                .expect("subscribes");
            dollar_put(&source, name, second).await;
            let posted = epics_base_rs::runtime::task::timeout(
                std::time::Duration::from_secs(5),
                mon.recv(),
            )
            .await
            .expect("a monitor update");
            assert_eq!(dollar_value(posted), want, "{name}$");
        }
    }

    /// A `$` monitor slices the char image, as its GET does: `softIocPVX`
    /// 1.5.3's `pvxmonitor 'FS.VAL${"arr":{"s":1,"e":3}}'` over `pvxput FS
    /// world`, `FS ab`, `FS x`.
    #[epics_macros_rs::epics_test]
    async fn a_dollar_arr_monitor_serves_what_softiocpvx_serves() {
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(stringin, "FS") { field(VAL, "hello") }"#,
                &std::collections::HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db);
        let mut mon = source
            .subscribe(br#"FS.VAL${"arr":{"s":1,"e":3}}"#)
            .await
            .expect("subscribes");
        for (put, want) in [("world", &b"or\0"[..]), ("ab", b"b\0"), ("x", b"\0")] {
            dollar_put(
                &source,
                "FS.VAL",
                PvField::Scalar(ScalarValue::String(put.into())),
            )
            .await;
            let posted = epics_base_rs::runtime::task::timeout(
                std::time::Duration::from_secs(5),
                mon.recv(),
            )
            .await
            .expect("a monitor update");
            assert_eq!(dollar_value(posted), dollar_chars(want), "{put}");
        }
    }

    /// An `int8_t[]` put to a `$` channel is `dbPut(DBR_CHAR)`, its NUL
    /// supplied when absent: `softIocPVX` 1.5.3, `pvxput 'LZ:O.VAL$'
    /// '[104,105,0]'` reads back `"hi"` and `{3}[104,105,0]`, and
    /// `'[106,107]'` reads back `"jk"` and `{3}[106,107,0]`.
    #[epics_macros_rs::epics_test]
    async fn a_dollar_char_put_is_a_dbr_char_put() {
        let (_db, source) = dollar_db().await;
        for (put, text, chars) in [(&b"hi\0"[..], "hi", &b"hi\0"[..]), (b"jk", "jk", b"jk\0")] {
            dollar_put(&source, "LZ:O.VAL$", dollar_chars(put).unwrap()).await;
            assert_eq!(
                dollar_value(source.get_value(b"LZ:O.VAL").await),
                dollar_text(text)
            );
            assert_eq!(
                dollar_value(source.get_value(b"LZ:O.VAL$").await),
                dollar_chars(chars)
            );
        }
    }

    /// Put 45 characters to `LS:O.VAL` of an lso with `sizv`, return `LEN`.
    async fn long_string_put_len(sizv: u16) -> f64 {
        use std::collections::HashMap;
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                &format!(r#"record(lso, "LS:O") {{ field(SIZV, "{sizv}") }}"#),
                &HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        let source = PvDatabaseSource::new(db.clone());
        source
            .put_value_ctx(
                "LS:O.VAL",
                PvField::Scalar(ScalarValue::String("x".repeat(45).into())),
                make_ctx("127.0.0.1", "anon", "ca"),
            )
            .await
            .expect("PUT must succeed");
        let len = db.get_record("LS:O").unwrap().read().resolve_field("LEN");
        len.and_then(|v| v.to_f64()).expect("LEN")
    }

    /// pvxs re-views an lso VAL whose `SIZV` exceeds 41 as a char array
    /// (`ioc/channel.cpp:56-72`), so a string PUT is `putLongString` and 45
    /// characters store with `LEN` 46 — `softIocPVX` 1.5.3 live.
    #[epics_macros_rs::epics_test]
    async fn a_long_string_put_fills_sizv() {
        assert_eq!(long_string_put_len(64).await, 46.0);
    }

    /// A plain lso VAL is a `pvString` whatever its `SIZV`, on a GET and on a
    /// monitor, never-written included. `softIocPVX` 1.5.3, `pvxget` on
    /// `record(lso,"LS41"){field(SIZV,"41")}` and the same at 64:
    /// `value string = ""`, then `"abc"` after `pvxput LS41.VAL abc`.
    #[epics_macros_rs::epics_test]
    async fn a_plain_long_string_channel_serves_its_text() {
        use std::collections::HashMap;
        let text = |v: Option<PvField>| match v {
            Some(PvField::Structure(s)) => s.get_field("value").cloned(),
            other => panic!("expected an NTScalar, got {other:?}"),
        };
        let string = |t: &str| Some(PvField::Scalar(ScalarValue::String(t.into())));
        for sizv in [41u16, 64] {
            let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
                .db_string(
                    &format!(r#"record(lso, "LS:O") {{ field(SIZV, "{sizv}") }}"#),
                    &HashMap::new(),
                )
                .unwrap()
                .build()
                .await
                .unwrap();
            let source = PvDatabaseSource::new(db.clone());
            assert_eq!(
                text(source.get_value(b"LS:O.VAL").await),
                string(""),
                "{sizv}"
            );
            let mut mon = source.subscribe(b"LS:O.VAL").await.expect("subscribes");
            source
                .put_value_ctx(
                    "LS:O.VAL",
                    PvField::Scalar(ScalarValue::String("abc".into())),
                    make_ctx("127.0.0.1", "anon", "ca"),
                )
                .await
                .expect("PUT must succeed");
            assert_eq!(
                text(source.get_value(b"LS:O.VAL").await),
                string("abc"),
                "{sizv}"
            );
            let posted =
                epics_base_rs::runtime::task::timeout(std::time::Duration::from_secs(5), async {
                    loop {
                        let v = text(mon.recv().await);
                        if v != string("") {
                            return v;
                        }
                    }
                })
                .await
                .expect("a monitor update");
            assert_eq!(posted, string("abc"), "{sizv}");
        }
    }

    /// At `SIZV` 41 pvxs leaves VAL a `DBF_STRING` scalar, so the PUT is
    /// `putScalar`'s `DBR_STRING` and stores 39 characters, `LEN` 40 —
    /// `softIocPVX` 1.5.3 live.
    #[epics_macros_rs::epics_test]
    async fn a_long_string_put_at_sizv_41_is_a_dbr_string_put() {
        assert_eq!(long_string_put_len(41).await, 40.0);
    }

    /// The record answers its long-string VAL's capacity as C's `cvt_dbaddr`
    /// does, one element; the channel must still take pvxs's long-string
    /// shape and serve the whole text as one `pvString`.
    #[epics_macros_rs::epics_test]
    async fn a_long_string_val_with_one_dbaddr_element_is_served_as_its_text() {
        use epics_base_rs::server::record::FieldDeclaration;
        use std::collections::HashMap;
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(lso, "LS:G") { field(SIZV, "64") }"#,
                &HashMap::new(),
            )
            .unwrap()
            .build()
            .await
            .unwrap();
        db.put_record_field_from_ca_no_notify(
            "LS:G",
            "VAL",
            EpicsValue::CharArray(
                b"a string past forty characters, served whole\0"
                    .to_vec()
                    .into(),
            ),
        )
        .await
        .unwrap();
        {
            let rec = db.get_record("LS:G").unwrap();
            assert_eq!(rec.read().record.field_native_count("VAL"), Some(1));
            let addr = ChannelAddr::of(&db, &rec, "VAL").unwrap();
            assert!(
                crate::channel_shape::ChannelShape::of_addr(&addr, &FilterChain::new()).is_array(),
                "pvxs's long-string channel is a char array"
            );
        }
        let source = PvDatabaseSource::new(db);
        let value = source.get_value(b"LS:G").await.expect("a value");
        let PvField::Structure(s) = &value else {
            panic!("expected an NTScalar structure, got {value:?}");
        };
        assert_eq!(
            s.get_field("value"),
            Some(&PvField::Scalar(ScalarValue::String(
                "a string past forty characters, served whole".into()
            ))),
        );
    }

    /// `$` on a field that is not a string is `S_dbLib_fieldNotFound`, which
    /// aborts channel creation (C `dbChannel.c:486-505`) — the eligibility
    /// rule is the record's (`resolve_string_view_field`), not this source's.
    #[epics_macros_rs::epics_test]
    async fn a_dollar_on_an_ineligible_field_is_refused() {
        let db = ai_db("AI:NOLS").await;
        let source = PvDatabaseSource::new(db);
        assert!(
            !source.has_pv(b"AI:NOLS.VAL$").await,
            "`$` on a DBF_DOUBLE field must refuse the channel"
        );
    }

    /// A link field is served as a `pvString` scalar, the same shape pvxs
    /// arrives at by a longer route.
    ///
    /// pvxs promotes `DBF_INLINK..DBF_FWDLINK` at channel-creation time —
    /// `no_elements = PVLINK_STRINGSZ`, `field_size = 1`,
    /// `dbr_field_type = DBR_CHAR`, `form = "String"`
    /// (`ioc/channel.cpp:69-74`) — and `getChannelValueType` then reads that
    /// `form` back to collapse the char array to one string:
    /// `final_field_type==DBR_CHAR && isArray && format()=="String"` returns
    /// `TypeCode::String` (`ioc/iocsource.cpp:635-636`). The promotion is
    /// therefore a means, and `pvString` is the end.
    ///
    /// This port stores link fields as strings to begin with
    /// (`record_instance.rs:2574-2603`), so it reaches the same end without
    /// the char-array detour. What the detour additionally buys pvxs is a
    /// 1024-byte cap; a DB link that long is not representable in the
    /// `.db` grammar, so the cap has nothing to clip and no promotion step
    /// is added here to reproduce it.
    ///
    /// The `form="String"` half of that promotion never reaches
    /// `display.form.index`, on either side, for two independent reasons:
    /// pvxs applies `chan.format()` to the leaf only for a VAL field
    /// (`iocsource.cpp:54-59`, `dbIsValueField`), and `NTScalar::build`
    /// declares `display.form` only inside its `display && isnumeric` arm
    /// (`src/nt.cpp:58-77`) — a string value takes the `!isnumeric` arm
    /// (`:78-85`), which carries `description` and `units` and nothing else.
    /// So the leaf is not merely 0 here, it is absent, and that is what the
    /// C++ shape says too.
    #[epics_macros_rs::epics_test]
    async fn a_link_field_is_served_as_a_string_scalar() {
        let db = ai_db("AI:LNK").await;
        {
            let rec = db.get_record("AI:LNK").unwrap();
            let mut inst = rec.write();
            inst.common.text.inp = "OTHER:PV CP MS".into();
            inst.common.text.flnk = "NEXT:REC".into();
        }
        let source = PvDatabaseSource::new(db.clone());

        for (field, expect) in [("INP", "OTHER:PV CP MS"), ("FLNK", "NEXT:REC")] {
            let name = format!("AI:LNK.{field}");
            assert!(
                source.has_pv(name.as_bytes()).await,
                "{name} must create a channel (pvxs channel.cpp:69-74 promotes it)"
            );
            let value = source.get_value(name.as_bytes()).await.expect("a value");
            let PvField::Structure(s) = &value else {
                panic!("expected an NTScalar structure for {name}, got {value:?}");
            };
            assert_eq!(
                s.get_field("value"),
                Some(&PvField::Scalar(ScalarValue::String(expect.into()))),
                "{name} must serve the link text as one pvString"
            );
            assert_eq!(
                s.get_field("display.form.index"),
                None,
                "a string NTScalar declares no display.form at all (nt.cpp:78-85)"
            );
        }
    }

    /// A four-element waveform seeded with `[10, 20, 30, 40]`, for the
    /// channel-filter tests below.
    async fn wf_db(name: &str) -> Arc<PvDatabase> {
        use epics_base_rs::server::records::waveform::WaveformRecord;
        use epics_base_rs::types::DbFieldType;

        let db = Arc::new(PvDatabase::new());
        db.add_record(name, Box::new(WaveformRecord::new(4, DbFieldType::Long)))
            .await
            .unwrap();
        db.put_record_field_from_ca_no_notify(
            name,
            "VAL",
            EpicsValue::LongArray(vec![10, 20, 30, 40].into()),
        )
        .await
        .expect("seed VAL");
        db
    }

    /// The `value` leaf of an NT structure, as an `i32` slice.
    fn int_value_leaf(field: &PvField) -> Vec<i32> {
        let PvField::Structure(s) = field else {
            panic!("expected an NT structure, got {field:?}");
        };
        match s.get_field("value") {
            Some(PvField::ScalarArrayTyped(TypedScalarArray::Int(a))) => a.to_vec(),
            Some(PvField::ScalarArray(v)) => v
                .iter()
                .map(|e| match e {
                    ScalarValue::Int(i) => *i,
                    other => panic!("expected int elements, got {other:?}"),
                })
                .collect(),
            other => panic!("expected an int array `value` leaf, got {other:?}"),
        }
    }

    /// A channel name carrying a filter is SERVED, with the filter applied.
    ///
    /// The refusal this replaced was forced by the single union
    /// subscription: with one subscriber slot there was nowhere to hang a
    /// per-channel chain, so every filtered name had to be turned away.
    /// The value and property subscriptions are separate slots now, each
    /// with its own chain, and the read path runs the same chain in read
    /// context the way pvxs's `LocalFieldLog` does
    /// (`singlesource.cpp:286-292`).
    #[epics_macros_rs::epics_test]
    async fn a_filtered_channel_name_is_served_with_its_slice() {
        let db = wf_db("WF:FILT").await;
        let source = PvDatabaseSource::new(db);
        let name = r#"WF:FILT.{"arr":{"s":1,"e":2}}"#;
        assert!(
            source.has_pv(name.as_bytes()).await,
            "a parseable filter must connect"
        );
        let value = source
            .get_value(name.as_bytes())
            .await
            .expect("GET on a filtered channel");
        assert_eq!(
            int_value_leaf(&value),
            vec![20, 30],
            "the GET must return the slice the client asked for, not the raw array"
        );
    }

    /// The other half of the coin flip this replaced: a suffix whose JSON
    /// happens to contain a `.` used to be refused only because the
    /// last-dot split tore it apart, while an undotted one connected raw.
    /// Both are decided by the filter parser now.
    ///
    /// `dbnd` is also the read-context case that must NOT suppress a GET:
    /// pvxs leaves `pFieldLog` NULL when the chain drops the read log and
    /// `IOCSource::get` then reads the live field.
    #[epics_macros_rs::epics_test]
    async fn a_dotted_filter_suffix_is_served_and_never_suppresses_the_read() {
        let db = ai_db("AI:FILT2").await;
        let source = PvDatabaseSource::new(db);
        let name = r#"AI:FILT2.{"dbnd":{"d":0.5}}"#;
        assert!(
            source.has_pv(name.as_bytes()).await,
            "a dotted suffix parses like any other"
        );
        assert!(
            source.get_value(name.as_bytes()).await.is_some(),
            "a deadband filter gates the monitor stream, never the one-shot read"
        );
    }

    /// `[range]` is the same surface: `split_channel_name` folds it into a
    /// leading `arr` filter (C `dbChannel.c:507-510`), so it slices here
    /// exactly as the JSON form does.
    #[epics_macros_rs::epics_test]
    async fn a_range_suffixed_channel_name_is_served_as_an_arr_filter() {
        let db = wf_db("WF:RANGE").await;
        let source = PvDatabaseSource::new(db);
        let value = source
            .get_value(b"WF:RANGE.VAL[1:2]")
            .await
            .expect("GET on a range-suffixed channel");
        assert_eq!(
            int_value_leaf(&value),
            vec![20, 30],
            "the legacy range modifier is an `arr` filter and slices the read"
        );
    }

    /// The one refusal C keeps: a syntactically-present suffix that will
    /// not parse. `chf_parse` stops on an unknown filter name
    /// (`dbChannel.c:179`) and `dbChannelCreate` reaches `finish:`, where
    /// `dbChannelDelete(chan); chan = NULL` (`:514-527`) — base never
    /// connects a channel whose filter it could not build, because serving
    /// it raw would silently drop the semantics the client asked for.
    #[epics_macros_rs::epics_test]
    async fn an_unparseable_filter_suffix_is_still_refused() {
        let db = wf_db("WF:BADF").await;
        let source = PvDatabaseSource::new(db);
        assert!(
            !source.has_pv(br#"WF:BADF.{"nosuchfilter":{}}"#).await,
            "an unknown filter name must refuse the channel, not connect it raw"
        );
    }

    /// A mailbox `SharedPV` has no `dbChannel`, no field log and no filter
    /// machinery; pvxs finds one by exact name in its source map, so a
    /// filtered name matches nothing there. Refusing keeps that answer
    /// instead of peeling the suffix off and serving the mailbox raw.
    #[epics_macros_rs::epics_test]
    async fn a_filtered_mailbox_name_is_refused() {
        let db = Arc::new(PvDatabase::new());
        db.add_pv("MB:FILT", EpicsValue::Double(1.0)).await.unwrap();
        let source = PvDatabaseSource::new(db);
        assert!(
            source.has_pv(b"MB:FILT").await,
            "the mailbox itself is served"
        );
        assert!(
            !source.has_pv(br#"MB:FILT.{"arr":{"s":0,"e":1}}"#).await,
            "a mailbox has no filter machinery, so a filtered name addresses nothing"
        );
    }

    /// The monitor half: the chain rides on the VALUE subscription's own
    /// subscriber slot, so every update the client pulls is already
    /// sliced. This is what the union subscription could not do — there
    /// was one slot for both event classes and no place to attach a chain
    /// that must not see `DBE_PROPERTY` events.
    #[epics_macros_rs::epics_test]
    async fn a_filtered_monitor_applies_the_chain_to_its_value_stream() {
        let db = wf_db("WF:MFILT").await;
        let source = PvDatabaseSource::new(db.clone());
        let mut rx = dbe_monitor(&source, r#"WF:MFILT.{"arr":{"s":1,"e":2}}"#, &[]).await;

        db.put_record_field_from_ca_no_notify(
            "WF:MFILT",
            "VAL",
            EpicsValue::LongArray(vec![1, 2, 3, 4].into()),
        )
        .await
        .expect("put VAL");

        loop {
            let update =
                epics_base_rs::runtime::task::timeout(std::time::Duration::from_secs(2), rx.recv())
                    .await
                    .expect("the value post must arrive within 2s")
                    .expect("stream open");
            let marks = update
                .marked
                .clone()
                .expect("a record update declares its marks");
            if !marks.iter().any(|m| m == "value") {
                // the DBE_PROPERTY subscription's own post — not this test's
                continue;
            }
            assert_eq!(
                int_value_leaf(&update.value),
                vec![2, 3],
                "the monitor update must carry the slice, not the raw array"
            );
            break;
        }
    }

    /// A refused channel is still SEARCH-advertised, so the client sends
    /// CREATE_CHANNEL and hears the refusal instead of timing out — the same
    /// asymmetry `has_pv` already documents for an unservable field.
    #[epics_macros_rs::epics_test]
    async fn a_filtered_channel_name_is_still_searchable() {
        let db = ai_db("AI:SRCH").await;
        let source = PvDatabaseSource::new(db);
        assert!(
            source.searchable(br#"AI:SRCH.{"arr":{"s":0}}"#).await,
            "search claims what dbChannelTest resolves; the refusal belongs at \
             create, where the client can be told"
        );
    }

    /// Every base record type, with the char and long-string shapes pvxs
    /// reshapes and a one-element buffer of each kind.
    const EVERY_TYPE: &str = r#"
record(ai, "ai") {}
record(bi, "bi") { field(ZNAM, "z") field(ONAM, "o") }
record(stringin, "stringin") { info(Q:form, "String") }
record(stringout, "stringout") {}
record(longin, "longin") {}
record(int64in, "int64in") {}
record(lsi, "lsi") { field(SIZV, "100") }
record(lso, "lso") { field(SIZV, "20") info(Q:form, "String") }
record(lsi, "lsi41") { field(SIZV, "41") }
record(mbbo, "mbbo") { field(ZRST, "zero") field(ONST, "one") }
record(mbbiDirect, "mbbiDirect") {}
record(event, "event") {}
record(printf, "printf") { field(SIZV, "60") }
record(waveform, "wfS") { field(FTVL, "STRING") field(NELM, "4") }
record(waveform, "wfC") { field(FTVL, "CHAR") field(NELM, "16") info(Q:form, "String") }
record(waveform, "wfC1") { field(FTVL, "CHAR") field(NELM, "1") info(Q:form, "String") }
record(waveform, "wfUC") { field(FTVL, "UCHAR") field(NELM, "16") }
record(waveform, "wfD") { field(FTVL, "DOUBLE") field(NELM, "8") }
record(waveform, "wfE") { field(FTVL, "ENUM") field(NELM, "1") }
record(aai, "aai") { field(FTVL, "STRING") field(NELM, "2") }
record(aai, "aai1") { field(FTVL, "DOUBLE") field(NELM, "1") }
record(subArray, "subArray") { field(FTVL, "FLOAT") field(MALM, "10") field(NELM, "4") }
record(calc, "calc") { field(CALC, "A+1") info(Q:form, "String") }
record(seq, "seq") {}
record(compress, "compress") { field(NSAM, "6") }
record(histogram, "histogram") { field(NELM, "5") }
record(aSub, "aSub") {
    field(FTA, "STRING") field(NOA, "4")
    field(FTB, "CHAR") field(NOB, "10")
    field(FTVA, "DOUBLE") field(NOVA, "3")
}
record(state, "state") {}
record(ai, "linked") { field(INP, "ai.VAL CP") info(Q:form, "String") }
"#;

    async fn every_type() -> Arc<PvDatabase> {
        let (db, _) = epics_base_rs::server::ioc_builder::IocBuilder::new()
            .db_string(EVERY_TYPE, &std::collections::HashMap::new())
            .unwrap()
            .build()
            .await
            .unwrap();
        db.ioc_init().await;
        db
    }

    /// `onCreate` builds its prototype without locking the record
    /// (`ioc/singlesource.cpp:189-206`), so a CREATE_CHANNEL on a record
    /// another thread holds is answered at once.
    #[epics_macros_rs::epics_test]
    async fn a_held_record_is_introspected_without_waiting_for_the_hold() {
        use std::sync::mpsc;
        use std::time::{Duration, Instant};
        let db = every_type().await;
        let h = db.async_handle();
        let (held_tx, held_rx) = mpsc::channel();
        let (go_tx, go_rx) = mpsc::channel::<()>();
        let holder = std::thread::spawn(move || {
            h.with_record("ai", |_| {
                h.with_record("lso", |_| {
                    h.with_record("wfC", |_| {
                        held_tx.send(()).unwrap();
                        go_rx.recv().unwrap();
                    })
                })
            })
        });
        held_rx.recv().unwrap();
        let ask = |name: &'static str| {
            let source = PvDatabaseSource::new(db.clone());
            std::thread::spawn(move || {
                epics_libcom_rs::runtime::task::test_block_on(async move {
                    let has = source.has_pv(name.as_bytes()).await;
                    let desc = source.get_introspection(name.as_bytes()).await;
                    has && desc.is_some()
                })
            })
        };
        let asked = [ask("ai"), ask("lso.VAL"), ask("wfC"), ask("lso.VAL$")];
        let deadline = Instant::now() + Duration::from_secs(10);
        while !asked.iter().all(|t| t.is_finished()) {
            assert!(
                Instant::now() < deadline,
                "CREATE_CHANNEL waited for the hold"
            );
            epics_libcom_rs::runtime::task::sleep(Duration::from_millis(10)).await;
        }
        go_tx.send(()).unwrap();
        holder.join().unwrap();
        for t in asked {
            assert!(t.join().unwrap());
        }
    }

    /// [`channel_desc`] answers with no lock the descriptor of what a read
    /// under the lock serves: every field of every base type, with `$` and
    /// without, through each filter shape.
    #[epics_macros_rs::epics_test]
    async fn the_lock_free_desc_is_the_one_read_under_the_lock() {
        use epics_base_rs::server::record::FieldDeclaration;
        let db = every_type().await;
        let chains = [
            "",
            r#"{"arr":{"s":1,"e":2}}"#,
            r#"{"arr":{"s":0,"e":0}}"#,
            r#"{"ts":{"num":"dbl"}}"#,
            r#"{"ts":{"num":"ts"}}"#,
            r#"{"ts":{"str":"epics"}}"#,
        ];
        let names = EVERY_TYPE
            .lines()
            .filter(|l| l.starts_with("record("))
            .filter_map(|l| l.split('"').nth(1));
        let mut differ = Vec::new();
        for rec in names {
            let fields = db.get_record(rec).unwrap().read().record.field_list();
            let fields = fields
                .iter()
                .chain(epics_base_rs::server::record::dbd_generated::DB_COMMON_FIELDS)
                .map(|f| f.name)
                .chain(["RTYP", "NOPE"]);
            for field in fields {
                for dollar in ["", "$"] {
                    for chain in chains {
                        let name = format!("{rec}.{field}{dollar}{chain}");
                        let free = channel_desc(&db, name.as_bytes()).await;
                        let held = snapshot_for(&db, name.as_bytes())
                            .await
                            .map(|s| snapshot_to_field_desc(&s));
                        if free != held {
                            differ.push(format!("{name}: {free:?} != {held:?}"));
                        }
                    }
                }
            }
        }
        assert!(differ.is_empty(), "{}", differ.join("\n"));
    }

    /// `dbGetAttributePart`'s descriptor is one `DBF_STRING`
    /// (`dbStaticLib.c:1268-1271`): `X.RTYP` is an NTScalar string on create
    /// and read, and the trap-write log's `dbChannelFinalFieldType` is
    /// `DBR_STRING`.
    #[epics_macros_rs::epics_test]
    async fn an_attribute_is_one_string() {
        let db = every_type().await;
        let source = PvDatabaseSource::new(db.clone());
        let rec = db.get_record("ai").unwrap();
        for (field, want) in [("RTYP", "ai"), ("VERS", "none specified")] {
            let name = format!("ai.{field}");
            let desc = source.get_introspection(name.as_bytes()).await.unwrap();
            let FieldDesc::Structure { fields, .. } = &desc else {
                panic!("{desc:?}");
            };
            assert_eq!(
                fields.iter().find(|(n, _)| n == "value").map(|(_, d)| d),
                Some(&FieldDesc::Scalar(ScalarType::String)),
                "{name}"
            );
            let Some(PvField::Structure(served)) = source.get_value(name.as_bytes()).await else {
                panic!("{name}");
            };
            assert_eq!(
                served.get_field("value"),
                Some(&PvField::Scalar(ScalarValue::String(want.into()))),
                "{name}"
            );
            assert_eq!(
                ChannelAddr::of(&db, &rec, field).map(|a| a.channel_field_type(false)),
                Some(epics_base_rs::types::DbFieldType::String),
                "{name}"
            );
        }
    }
}
