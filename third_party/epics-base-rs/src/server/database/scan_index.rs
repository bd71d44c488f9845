use std::collections::BTreeSet;
use std::sync::Arc;

use crate::server::record::{PiniMode, RecordCell, ScanList, ScanType};

use super::PvDatabase;
use crate::types::RecordName;

/// The scan buckets themselves. `bucket` is private to THIS module, so no
/// other file in `database` can open a bucket and write it — the only
/// transitions are [`PvDatabase::add_to_scan_list`] and
/// [`PvDatabase::delete_from_scan_list`], which is C's arrangement:
/// `addToList`/`deleteFromList` are `static` in `dbScan.c` and `scanAdd` /
/// `scanDelete` (`dbScan.c:240`/`:308` at R7.0.10) are the whole public
/// surface.
/// One scan list's records, and the revision that says whether they are still
/// the ones a cursor last saw.
///
/// The two live together because the revision is only meaningful as a
/// statement about these keys: [`ScanCursor`] walks the list as it stood at a
/// revision, and the only thing that can invalidate that is a record entering,
/// leaving, or being re-keyed within THIS bucket. Every such transition goes
/// through [`ScanBucket::transition`], which moves the revision itself, so a
/// bucket cannot change without saying so.
///
/// The revision sits OUTSIDE the mutex because that is what lets an ordinary
/// sweep step skip the mutex entirely: while the bucket still reads the value
/// the cursor holds, the cursor's copy of the list is the list. It is written
/// only under the mutex and published `Release`, so a cursor that sees a new
/// value and then takes the mutex sees the keys that produced it.
struct ScanBucket {
    revision: std::sync::atomic::AtomicU64,
    /// Cumulative over-runs of this list — C `periodic_scan_list::overruns`
    /// (`dbScan.c:95`), which `scanppl` prints beside the list it belongs to
    /// (`dbScan.c:408-409`). Part of the bucket, so counting one is a store
    /// into memory the scan thread's own sweep already touched, never a
    /// first-use allocation on that thread. Only the periodic scan threads
    /// write it.
    overruns: std::sync::atomic::AtomicU64,
    entries: crate::runtime::sync::PriorityInheritanceMutex<Bucket>,
}

/// The keys themselves, and the ordered form a cursor walks.
struct Bucket {
    keys: BTreeSet<super::ScanKey>,
    /// `keys` in order, materialised on the first ask after a transition and
    /// shared with every ask until the next one. Written only by
    /// [`ScanBucket::transition`] and [`ScanBucket::snapshot`].
    ordered: Option<Arc<[super::ScanKey]>>,
}

impl ScanBucket {
    fn new() -> Self {
        Self {
            revision: std::sync::atomic::AtomicU64::new(0),
            overruns: std::sync::atomic::AtomicU64::new(0),
            entries: crate::runtime::sync::PriorityInheritanceMutex::new(
                Bucket {
                    keys: BTreeSet::new(),
                    ordered: None,
                },
                crate::runtime::sync::CMutex::ScanList,
            ),
        }
    }

    /// The ONE way this bucket's keys change — C keeps `addToList` and
    /// `deleteFromList` `static` in `dbScan.c` for the same reason.
    ///
    /// Moving the revision and dropping the now-stale ordered form are this
    /// method's own writes rather than the caller's, so neither can be
    /// forgotten and the bucket cannot announce a change while still handing
    /// out the keys from before it. The revision moves on every call whether
    /// or not the closure changed anything: an insert of an equal key is the
    /// re-key case, and a cursor standing on the old key has to be told.
    fn transition(&self, f: impl FnOnce(&mut BTreeSet<super::ScanKey>)) {
        let mut entries = self.entries.lock();
        f(&mut entries.keys);
        entries.ordered = None;
        self.revision
            .fetch_add(1, std::sync::atomic::Ordering::Release);
    }

    /// The keys in order, and the revision they are the keys at.
    fn snapshot(&self) -> (u64, Arc<[super::ScanKey]>) {
        let mut entries = self.entries.lock();
        if entries.ordered.is_none() {
            let ordered: Arc<[super::ScanKey]> = entries.keys.iter().cloned().collect();
            entries.ordered = Some(ordered);
        }
        (
            // Read under the mutex, beside the keys it describes. A
            // transition landing after this returns is one the cursor meets
            // on its next step, which is where C meets it too.
            self.revision.load(std::sync::atomic::Ordering::Relaxed),
            entries.ordered.clone().expect("just materialised"),
        )
    }
}

pub(super) struct ScanIndex {
    /// One bucket per scan list. Sized from the LOADED `menuScan`
    /// ([`ScanList::count`]), not from a compile-time rate list, and built on
    /// first use rather than at construction: the site's `menuScan.dbd` is
    /// loaded after the database object exists, so sizing this eagerly would
    /// freeze the menu before the loader could install one. C reaches the same
    /// point by ordering — `dbLoadDatabase`, then `iocInit` → `initPeriodic`
    /// sizes `papPeriodic`.
    buckets: std::sync::OnceLock<Box<[ScanBucket]>>,
    /// C `pevent_list`: every event handle `eventNameToHandle` has created.
    events: EventTable,
}

impl ScanIndex {
    pub(super) fn new() -> Self {
        Self {
            buckets: std::sync::OnceLock::new(),
            events: EventTable::new(),
        }
    }

    /// The bucket holding `list`'s records. Total — see [`ScanList::slot`].
    fn bucket(&self, list: ScanList) -> &ScanBucket {
        &self
            .buckets
            .get_or_init(|| (0..ScanList::count()).map(|_| ScanBucket::new()).collect())
            .as_ref()[list.slot()]
    }

    /// This list's over-run counter, which its bucket owns.
    fn overrun(&self, list: ScanList) -> &std::sync::atomic::AtomicU64 {
        &self.bucket(list).overruns
    }
}

impl PvDatabase {
    /// C `addToList` (`dbScan.c:1074` at R7.0.10) — the ONE place a record
    /// enters a scan bucket.
    ///
    /// C keeps it `static` so that `scanAdd` is the only way in; the port's
    /// equivalent is [`ScanBucket::transition`], which this and
    /// [`Self::delete_from_scan_list`] are the only callers of. It takes the
    /// bucket lock itself, exactly as C takes `psl->lock`, and takes no
    /// registration lock: L46 belongs to
    /// whichever owner called — [`Self::update_scan_index`], which acquires it,
    /// or `add_record`, which is already inside it. Both used to open-code the
    /// bucket write instead, which is how a transition could bypass its owner.
    ///
    /// A SCAN that names no list (`Passive`, or an index outside `menuScan`)
    /// keys no bucket — C `scanAdd` refuses the same two, the latter with
    /// "scanAdd detected illegal SCAN value".
    pub(super) fn add_to_scan_list(
        &self,
        scan: ScanType,
        phas: i16,
        record_type: &'static str,
        load_order: u64,
        name: impl Into<crate::types::RecordName>,
    ) {
        let name = name.into();
        let Some(list) = scan.scan_list() else {
            return;
        };
        // Resolved once here, where a record enters the list, instead of once
        // per record per sweep inside the process frame.
        let handle = self.get_record_no_resolve(&name);
        self.inner.scan_index.bucket(list).transition(|keys| {
            keys.insert(super::ScanKey::new(
                phas,
                record_type,
                load_order,
                name,
                handle,
            ));
        });
    }

    /// C `deleteFromList` (`dbScan.c:1096` at R7.0.10) — the ONE place a
    /// record leaves a scan bucket. Same ownership rules as
    /// [`Self::add_to_scan_list`].
    ///
    /// Matches by record name alone: PHAS and load-order may be stale relative
    /// to the entry actually present, and a stale secondary key would leave a
    /// phantom entry behind.
    pub(super) fn delete_from_scan_list(&self, scan: ScanType, name: &[u8]) {
        let Some(list) = scan.scan_list() else {
            return;
        };
        self.inner
            .scan_index
            .bucket(list)
            .transition(|keys| keys.retain(|k| *k.name != *name));
    }

    /// Update scan index when a record's SCAN or PHAS field changes.
    ///
    /// Takes `registration_mutex` so the read of
    /// the records map (to verify the record still exists) and the
    /// scan_index mutation are atomic vs. concurrent `remove_record`.
    ///
    /// The `new_scan` / `new_phas` parameters
    /// the caller passes are advisory only. After acquiring the
    /// mutex we read the LIVE record's current scan/phas and insert
    /// based on those. Pre-fix a put-then-update sequence could
    /// race a remove+re-add of the same name: the caller's
    /// `new_scan` reflected the old (now-removed) record's value;
    /// inserting that under the fresh record's name produced a
    /// stale scan-index entry pointing at a wrong scan rate. The
    /// live-read makes the index strictly reflect the record's
    /// current state at insert time.
    ///
    /// **Synchronous.** It had exactly two suspension points and neither was a
    /// real one: the `registration_mutex` acquisition (L46) and two
    /// `scan_index` write acquisitions (L8b) — both awaited before step 4.
    /// Both are blocking PI mutexes now, so the whole scan-index update is a
    /// bounded critical
    /// section — which is what lets it run *inside* the L1 record-gate window
    /// without putting an `.await` there. C reaches `scanAdd`/`scanDelete`
    /// (`dbScan.c:241-330`) the same way, from inside `dbPut` under
    /// `dbScanLock`.
    pub fn update_scan_index(
        &self,
        name: impl AsRef<[u8]>,
        old_scan: ScanType,
        _new_scan: ScanType,
        old_phas: i16,
        _new_phas: i16,
    ) {
        let name = name.as_ref();
        let _ = old_phas; // entry matched by name; PHAS not needed.
        // The LIVE record's SCAN/PHAS are read under L46 so that the map
        // check and the index mutation are one transaction against a
        // concurrent `remove_record`. Record data is behind the record's
        // lock set, which sits ABOVE L46, so the set is taken first — a
        // re-entry for every caller, which holds it already (C reaches
        // `scanAdd` from `dbPut` under `dbScanLock`) — and the map is
        // re-read under the gate to prove the handle locked is the handle
        // registered. A remove+re-add between the two reads is retried
        // against the fresh record.
        let (rec_arc, _record_gate, _gate) = loop {
            let rec_arc = self.inner.records.read().get(name).cloned();
            let record_gate = rec_arc.as_ref().map(|rec| self.lock_instance(rec));
            let gate = self.lock_registration("update_scan_index");
            let live = self.inner.records.read().get(name).cloned();
            match (&rec_arc, &live) {
                (Some(locked), Some(live)) if Arc::ptr_eq(locked, live) => {}
                (None, None) => {}
                _ => continue,
            }
            break (rec_arc, record_gate, gate);
        };
        // 1) Remove the OLD entry the caller knew about — even if
        // remove_record already swept it.
        self.delete_from_scan_list(old_scan, name);
        // 2) Re-insert from the LIVE record's state. If concurrent
        // remove+re-add replaced the Arc with a fresh one whose
        // scan differs from the caller's `_new_scan`, we re-insert
        // based on the fresh record's state. The fresh record's
        // own `add_record` call also registered its scan index, so
        // duplicate-insertion of the same (phas, name) pair into
        // the same scan bucket is a no-op (`BTreeSet::insert`
        // returns false on present key).
        let Some(rec_arc) = rec_arc else {
            return;
        };
        // C `scanAdd` creates the record's event handle (dbScan.c:333). That
        // allocates, so EVNT — DBF_STRING size(40) — is copied out on the
        // stack and the handle is made once the locks are down.
        let mut evnt = [0u8; 40];
        let mut evnt_len = None;
        let (cur_scan, cur_phas, cur_type) = {
            let inst = rec_arc.read();
            let bytes = inst.common.text.evnt.as_bytes();
            if inst.common.scan == ScanType::Event
                && bytes.len() <= evnt.len()
                && self
                    .inner
                    .scan_index
                    .events
                    .built
                    .load(std::sync::atomic::Ordering::Acquire)
            {
                evnt[..bytes.len()].copy_from_slice(bytes);
                evnt_len = Some(bytes.len());
            }
            (
                inst.common.scan,
                inst.common.phas,
                inst.record.record_type(),
            )
        };
        // Re-use the record's own load-order sequence so the scan-index
        // secondary key stays stable across SCAN/PHAS edits. A record loaded
        // before should always scan before a later-loaded record at the same
        // PHAS.
        self.add_to_scan_list(cur_scan, cur_phas, cur_type, rec_arc.load_order(), name);
        drop(_gate);
        drop(_record_gate);
        if let Some(len) = evnt_len {
            self.event_name_to_handle(&evnt[..len]);
        }
    }

    /// Count one over-run for `scan`'s list — C `ppsl->overruns++`
    /// (`dbScan.c:827`). The periodic scan thread for that rate is the only
    /// caller; a SCAN value naming no list has no counter to move.
    pub(crate) fn record_scan_overrun(&self, scan: ScanType) {
        if let Some(list) = scan.scan_list() {
            self.inner
                .scan_index
                .overrun(list)
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// How many times `list`'s sweep has run past its deadline since boot —
    /// what C's `scanppl` prints as `(%lu over-runs)` (`dbScan.c:408-409`).
    pub(crate) fn scan_overruns(&self, list: crate::server::record::ScanList) -> u64 {
        self.inner
            .scan_index
            .overrun(list)
            .load(std::sync::atomic::Ordering::Relaxed)
    }

    /// A **snapshot** of a scan list, in C's order: PHAS, then DBD
    /// record-type order, then `.db` load order — see `ScanKey`. The stable
    /// same-PHAS FIFO is `addToList`; the order it is a FIFO over is
    /// `buildScanLists`, and both are in the key.
    ///
    /// For reporting and counting only (`scanppl`, `dbstat`). A sweep that
    /// PROCESSES the list must not use this: `dbProcess` can change the SCAN
    /// field of an arbitrary number of records, so a snapshot processes
    /// records the list no longer holds. `Self::scan_list_once` is the sweep.
    ///
    /// A SCAN value that names no list (`Passive`, or an index outside
    /// `menuScan`) holds no records — there is no such bucket to look up.
    pub async fn records_for_scan(&self, scan_type: ScanType) -> Vec<RecordName> {
        let Some(list) = scan_type.scan_list() else {
            return Vec::new();
        };
        // One bucket's lock, held for the clone alone. C `scanList`
        // (`dbScan.c:1007-1051`) also releases `psl->lock` around every
        // `dbProcess` — but it releases it holding a cursor INTO the list and
        // re-reads `ellNext` under the lock on the next step, so the two are
        // not the same construction and this must not be read as parity with
        // it. Detaching from the list is only sound because nothing here
        // processes; [`Self::scan_list_once`] is what C's `scanList` is.
        self.inner
            .scan_index
            .bucket(list)
            .snapshot()
            .1
            .iter()
            .map(|k| k.name.clone())
            .collect()
    }

    /// C `eventNameToHandle` for a name some caller holds: creates the event
    /// if it does not exist yet. `None` names no event.
    pub(crate) fn event_name_to_handle(&self, name: &[u8]) {
        if let Some(event) = EventName::of(name) {
            self.inner.scan_index.events.handle(event);
        }
    }

    /// The events C's `scanpel` walks, newest first as `pevent_list` is
    /// (`dbScan.c:530-531`), each with its `SCAN = "Event"` records in
    /// scan-list order. An event no record scans on has an empty list.
    pub(crate) fn event_lists(&self) -> Vec<(Box<[u8]>, Vec<RecordName>)> {
        let mut events: Vec<(Box<[u8]>, Vec<RecordName>)> = self
            .inner
            .scan_index
            .events
            .created
            .lock()
            .iter()
            .rev()
            .map(|label| (label.clone(), Vec::new()))
            .collect();
        let keys = self
            .inner
            .scan_index
            .bucket(ScanType::Event.scan_list().expect("Event is a scan list"))
            .snapshot()
            .1;
        for key in keys.iter() {
            let Some(rec) = key.handle.clone().or_else(|| self.get_record(&key.name)) else {
                continue;
            };
            let Some(event) =
                EventName::of(rec.read().common.text.evnt.as_bytes()).map(|e| e.to_bytes())
            else {
                continue;
            };
            if let Some((_, names)) = events.iter_mut().find(|(label, _)| *label == event) {
                names.push(key.name.clone());
            }
        }
        events
    }

    /// The `iocInit` share of `pevent_list`, in C's order: `initDatabase`'s
    /// `init_record` pass first — an event record's VAL (eventRecord.c:102)
    /// and a calcout's OEVT (calcoutRecord.c:213) — then `buildScanLists`'
    /// `scanAdd` of every `SCAN = "Event"` record (dbScan.c:333), each pass in
    /// record-type then load order.
    pub(super) fn build_event_table(&self) {
        // Out of the map before any record lock: `update_scan_index` takes a
        // record's lock and then the map.
        let cells: Vec<Arc<RecordCell>> = self.inner.records.read().values().cloned().collect();
        let mut records: Vec<(&'static str, u64, Arc<RecordCell>)> = cells
            .into_iter()
            .map(|rec| {
                let key = super::ScanKey::new(
                    0,
                    rec.read().record.record_type(),
                    rec.load_order(),
                    "",
                    None,
                );
                (key.record_type, key.load_order, rec)
            })
            .collect();
        records.sort_by_key(|(record_type, load_order, _)| (*record_type, *load_order));
        for (_, _, rec) in &records {
            let field = match rec.read().record.record_type() {
                "event" => "VAL",
                "calcout" => "OEVT",
                _ => continue,
            };
            let name = rec.read().resolve_field(field);
            if let Some(crate::types::EpicsValue::String(name)) = name {
                self.event_name_to_handle(name.as_bytes());
            }
        }
        for (_, _, rec) in &records {
            let evnt = {
                let inst = rec.read();
                (inst.common.scan == ScanType::Event).then(|| inst.common.text.evnt.clone())
            };
            if let Some(evnt) = evnt {
                self.event_name_to_handle(evnt.as_bytes());
            }
        }
        self.inner
            .scan_index
            .events
            .built
            .store(true, std::sync::atomic::Ordering::Release);
    }

    /// The scan key `name` would be inserted under RIGHT NOW — its live PHAS,
    /// record type and load-order sequence. `None` if the record is gone.
    fn live_scan_key(&self, name: &RecordName) -> Option<super::ScanKey> {
        let rec = self.get_record_no_resolve(name)?;
        let (phas, record_type) = {
            let inst = rec.read();
            (inst.common.phas, inst.record.record_type())
        };
        let load_order = rec.load_order();
        Some(super::ScanKey::new(
            phas,
            record_type,
            load_order,
            name,
            Some(rec),
        ))
    }

    /// A cursor over `list` as it stands at each step — see [`ScanCursor`].
    pub(crate) fn scan_cursor(&self, list: ScanList) -> ScanCursor<'_> {
        ScanCursor {
            bucket: self.inner.scan_index.bucket(list),
            snapshot: None,
            next: 0,
            revision: 0,
        }
    }

    /// Sweep one scan list, processing every record still in it — C `scanList`
    /// (`dbScan.c:998-1051`), the single owner of "walk a scan list and
    /// process it". Every driver goes through here: the periodic threads, and
    /// the event lists, whose `eventCallback` (`dbScan.c:459-465`) is a bare
    /// `scanList` call.
    pub(crate) async fn scan_list_once(&self, list: ScanList) {
        self.scan_list_sweep(list, "event scan");
    }

    /// The sweep itself, for a caller that already owns a thread — the
    /// periodic leaders. `facility` names that thread in the message a
    /// panicking record produces.
    ///
    /// Synchronous because nothing in it awaits: the cursor step and
    /// `dbProcess` are both sync, and the periodic leaders are plain threads
    /// with no executor to drive a future on.
    pub(crate) fn scan_list_sweep(&self, list: ScanList, facility: &str) {
        let mut cursor = self.scan_cursor(list);
        // One set for the whole sweep. `run_process_frame` owns the unwind and
        // takes its own marker back out on every exit, so the set is empty
        // again when a record's cascade returns — reusing it is the same set a
        // fresh `HashSet::new()` would be, minus the table allocation each
        // record was paying for its first insert.
        let mut visited = crate::server::database::ProcStack::new();
        while let Some((name, rec)) = cursor.next(self) {
            // A panicking record costs that record, not the rest of the
            // sweep — and a frame that unwound left its marker behind, so the
            // set it poisoned is replaced rather than carried on.
            let ok = crate::runtime::background::facility::run_isolated(facility, || {
                let _ = match rec {
                    Some(rec) => self.process_record_with_links_resolved(name, rec, &mut visited),
                    None => self.process_record_with_links_sync(name, &mut visited),
                };
            });
            if !ok {
                visited = crate::server::database::ProcStack::new();
                continue;
            }
            debug_assert!(
                visited.is_empty(),
                "a returned process frame left its cycle marker behind"
            );
        }
    }

    /// How many records are on `scan`'s list — C `ellCount(&psl->list)`,
    /// which `spawnHelpers` reads to pick the rate its reserve serves
    /// (`dbScan.c:1304`).
    pub(crate) fn scan_list_len(&self, scan: ScanType) -> usize {
        scan.scan_list().map_or(0, |list| {
            self.inner.scan_index.bucket(list).snapshot().1.len()
        })
    }

    /// The snapshot one parallel periodic pass claims its slots out of — C
    /// `snapshotList` (`dbScan.c:1158-1181`).
    ///
    /// A pass that may be worked by more than one thread cannot walk the live
    /// list the way [`Self::scan_list_once`] does: a claim has to name a
    /// *position*, and the bucket is an ordered set with no stable index. So
    /// the pass takes the list once, as C's does, and pays for that where C
    /// pays — at each record, by asking whether it is still on this list
    /// before processing it ([`Self::process_scan_slot`]).
    ///
    /// Costs no copy: the bucket already materialises its order as a shared
    /// `Arc<[ScanKey]>` for [`ScanCursor`], and this is that same value. C
    /// `dbCalloc`s a `scan_slot` array per rate and refills it every pass —
    /// still on the leader, even after it moved the *allocation* to
    /// `addToList` and `spawnHelpers` (`snapNext`, `dbScan.c:129-130`). The
    /// port does not copy that double-buffer: the one build it leaves on a
    /// leader happens once per list change, where C's refill happens every
    /// pass, and moving the build to the mutator would make a bulk SCAN
    /// rewrite quadratic on the thread doing it.
    pub(crate) fn scan_pass_snapshot(&self, list: ScanList) -> ScanPassSnapshot {
        ScanPassSnapshot(self.inner.scan_index.bucket(list).snapshot().1)
    }

    /// Process one claimed slot of a pass — C `runSlots`' body
    /// (`dbScan.c:1122-1132`).
    ///
    /// The SCAN re-check is C's, and it is what makes a snapshot sound: the
    /// record may have left this list since the snapshot was taken — its own
    /// processing can do that — and a pass must not process a record the list
    /// no longer holds, which is the one thing a live walk gives for free.
    ///
    /// One divergence, stated rather than folded in: C holds `dbScanLock`
    /// across the check and the `dbProcess`, so no SCAN write can land between
    /// them. Here the check reads the record under its own read lock and the
    /// process takes the record's gate for itself, because
    /// [`Self::process_record_with_links_resolved`] is the single owner of that
    /// gate and the gate is not reentrant. The window that leaves is the one
    /// [`Self::scan_list_once`] already has — its cursor hands out a record
    /// that is in the list as of that step and processes it without the gate —
    /// so a parallel pass is no weaker here than the sequential one it
    /// replaces.
    pub(crate) fn process_scan_slot(
        &self,
        snapshot: &ScanPassSnapshot,
        slot: usize,
        scan: ScanType,
        visited: &mut crate::server::database::ProcStack,
    ) {
        let Some(key) = snapshot.0.get(slot) else {
            return;
        };
        // The key carries the instance the list was built with; a key whose
        // record has since been replaced falls back to the name, which is what
        // the sequential sweep's `process_record_with_links_sync` arm is for.
        let fallback;
        let rec = match &key.handle {
            Some(rec) => rec,
            None => match self.get_record_no_resolve(&key.name) {
                Some(rec) => {
                    fallback = rec;
                    &fallback
                }
                None => return,
            },
        };
        if rec.read().common.scan != scan {
            return;
        }
        let _ = self.process_record_with_links_resolved(&key.name, rec, visited);
    }

    /// Get all record names whose `PINI` is **exactly** `mode`.
    ///
    /// C matches the menu index with `!=` (`iocInit.c:598`
    /// `if (precord->pini != pphase->pini) return;`), so each `menuPini`
    /// choice selects a disjoint set of records driven by a *different* pass:
    /// `YES` at `initialProcess()` (`iocInit.c:656`), `RUN`/`RUNNING`/`PAUSE`/
    /// `PAUSED` from `piniProcessHook` (`iocInit.c:629-646`). A `PINI=RUN`
    /// record must NOT be processed by the `YES` pass.
    ///
    /// Snapshot the records map under the outer
    /// read lock, then drop it before fanning out per-record reads.
    /// Pre-fix the outer `records.read()` lock was held across every
    /// `rec.read().await` — under contention with a pending
    /// `add_record` (which now takes the registration_mutex →
    /// records.write()), startup could stall while every PINI
    /// record was inspected serially.
    pub async fn pini_records(&self, mode: PiniMode) -> Vec<RecordName> {
        let mut result = Vec::new();
        for (name, rec) in self.iterate_records() {
            if rec.read().common.pini == mode.to_u16() as i16 {
                result.push(name);
            }
        }
        result
    }

    /// Every record in C's `iterateRecords` order (`iocInit.c:484-506`): the
    /// record types as `recordTypeList` holds them, each type's records in
    /// `.db` load order. An IOC loads its expanded `.dbd`, whose record types
    /// are name-sorted (see `contributed_dbd::record_types`), so the type
    /// order is `strcmp` order — `aSub` before `aai` — for a type no vendored
    /// `.dbd` declares as well.
    ///
    /// Snapshots the map under the records read lock and releases it before the
    /// caller takes any per-record lock. Both sort keys live on the cell, so no
    /// record lock is taken to sort.
    pub(super) fn iterate_records(&self) -> Vec<(RecordName, std::sync::Arc<RecordCell>)> {
        let mut keyed: Vec<_> = {
            let records = self.inner.records.read();
            records
                .iter()
                .map(|(n, r)| (r.rdes().record_type, r.load_order(), n.clone(), r.clone()))
                .collect()
        };
        keyed.sort_unstable_by(|a, b| (a.0, a.1, &a.2).cmp(&(b.0, b.1, &b.2)));
        keyed
            .into_iter()
            .map(|(_, _, name, rec)| (name, rec))
            .collect()
    }

    /// C `piniProcess` (`iocInit.c:608-627`) — process every record whose
    /// `PINI` is exactly `mode`, **in ascending `PHAS` order**, each with its
    /// full link chain.
    ///
    /// The single owner of "run a PINI pass": `initialProcess()` calls it with
    /// [`PiniMode::Yes`], and `piniProcessHook` with the RUN, RUNNING, PAUSE
    /// and PAUSED modes from the lifecycle transitions. Every driver goes
    /// through here, so neither the pass selection nor the phase ordering can
    /// diverge between them. Synchronous, as the hooks that call it are;
    /// [`Self::pini_process`] is its async spelling.
    ///
    /// The sweep is C's, not a pre-sorted list: each pass over the database
    /// processes the records at the current phase and, while doing so, finds
    /// the *next* lowest `PHAS` still ahead of it. C spells this out
    /// (`iocInit.c:614-619`) — "PHAS fields can be changed at runtime, so we
    /// have to look for the lowest value of PHAS each time" — so a record whose
    /// phase is raised by an earlier PINI record's processing is still picked
    /// up in the correct later pass, which a snapshot-and-sort would miss.
    pub async fn pini_process(&self, mode: PiniMode) {
        self.pini_pass(mode);
    }

    /// C `piniProcess` (`iocInit.c:608-627`); see [`Self::pini_process`].
    pub(crate) fn pini_pass(&self, mode: PiniMode) {
        // C `dbScan.h:34-35`: MAX_PHASE = SHRT_MAX, MIN_PHASE = SHRT_MIN. The
        // phase cursors are `int` (`phaseData_t`), so `MAX_PHASE + 1` — the
        // "no further phase found" sentinel — does not overflow.
        const MIN_PHASE: i32 = i16::MIN as i32;
        const NO_NEXT_PHASE: i32 = i16::MAX as i32 + 1;

        let mut next = MIN_PHASE;
        loop {
            let this = next;
            next = NO_NEXT_PHASE;
            // `doRecordPini` (`iocInit.c:592-606`) over the record list. PINI
            // and PHAS are read at the moment the record is visited, not
            // snapshotted up front, so a PHAS that an earlier record's
            // processing changed is honoured — the reason C re-scans rather
            // than sorting once.
            // See `scan_list_once`: one set per sweep, emptied by each frame's
            // own unwind.
            let mut visited = crate::server::database::ProcStack::new();
            for (name, rec) in self.iterate_records() {
                let (pini, phas) = {
                    let instance = rec.read();
                    (instance.common.pini, i32::from(instance.common.phas))
                };
                if pini != mode.to_u16() as i16 {
                    continue;
                }
                if phas == this {
                    let _ = self.process_record_with_links_resolved(&name, &rec, &mut visited);
                    debug_assert!(
                        visited.is_empty(),
                        "a returned process frame left its cycle marker behind"
                    );
                } else if phas > this && phas < next {
                    next = phas;
                }
            }
            if next == NO_NEXT_PHASE {
                return;
            }
        }
    }

    /// Process all records with `SCAN=Event`, regardless of `EVNT`.
    ///
    /// Back-compat entry point for the iocsh `postEvent` command,
    /// whose handler currently drops the numeric event argument.
    /// Prefer [`Self::post_event_named`] for C-correct per-event
    /// routing — see `dbScan.c:548-552` `post_event` →
    /// `postEvent(pevent_list[event])`.
    pub async fn post_event(&self) {
        // C `postEvent` (`dbScan.c:536-539`): an event posted while the
        // facility is not running queues nothing at all.
        if !self.inner.scan_ctl.is_running() {
            return;
        }
        if let Some(list) = ScanType::Event.scan_list() {
            self.scan_list_once(list).await;
        }
    }

    /// Process only the `SCAN=Event` records whose `EVNT` resolves to
    /// `event_name`. Mirrors C `dbScan.c` event routing: each
    /// `event_list` (`eventNameToHandle`) holds exactly the records
    /// whose `EVNT` matches, and `postEvent` walks only that list.
    ///
    /// Event-name matching follows `eventNameToHandle` (`dbScan.c:469`):
    /// surrounding whitespace is trimmed, and a numeric string with an
    /// integer part in `[1,255]` is normalised to its integer form so
    /// `"5"`, `" 5 "` and `"5.0"` all name the same event.
    pub async fn post_event_named(&self, event_name: impl AsRef<[u8]>) {
        // `eventNameToHandle` returns NULL for "0"/empty — no event.
        let Some(want) = EventName::of(event_name.as_ref()) else {
            return;
        };
        // The handle is created whether or not the post then runs: the event
        // record (devEventSoft.c:82) and iocsh `postEvent`
        // (dbIocRegister.c:478) call `eventNameToHandle` before `postEvent`.
        self.inner.scan_index.events.handle(want);
        // C `postEvent` (`dbScan.c:538-539`).
        if !self.inner.scan_ctl.is_running() {
            return;
        }
        let Some(list) = ScanType::Event.scan_list() else {
            return;
        };
        // Same live cursor as every other sweep: C keeps one `scan_list` per
        // (event, priority) and `eventCallback` hands it to `scanList`
        // (`dbScan.c:459-465`), so a record whose SCAN changes mid-sweep leaves
        // the walk here exactly as it does on a periodic list. The port keeps
        // one Event list and filters by EVNT at the cursor instead.
        let mut cursor = self.scan_cursor(list);
        // See `scan_list_once`: one set per sweep, emptied by each frame's own
        // unwind.
        let mut visited = crate::server::database::ProcStack::new();
        while let Some((name, rec)) = cursor.next(self) {
            // Read the record's EVNT and compare against the posted
            // event name. Records that do not match are skipped — a
            // record configured `EVNT=5` only fires on event 5.
            // Borrowed when the list carries the cell; owned only when the key
            // predates its record and the name has to be resolved.
            let fallback;
            let rec = match rec {
                Some(rec) => rec,
                None => match self.get_record(name) {
                    Some(rec) => {
                        fallback = rec;
                        &fallback
                    }
                    None => continue,
                },
            };
            if EventName::of(rec.read().common.text.evnt.as_bytes()) != Some(want) {
                continue;
            }
            let _ = self.process_record_with_links_resolved(name, rec, &mut visited);
            debug_assert!(
                visited.is_empty(),
                "a returned process frame left its cycle marker behind"
            );
        }
    }
}

/// C `pevent_list` (`dbScan.c:118-121`): the event handles in creation order.
/// A handle is never freed, so the table only grows, and its labels are C's —
/// a numbered event is named by `%i` (`dbScan.c:517`).
struct EventTable {
    /// `pevent_list[1..255]`, as "created" flags: a post of a numbered event
    /// that exists answers from here without the lock.
    numbered: [std::sync::atomic::AtomicBool; 256],
    /// C `event_lock` and the chain it guards, oldest first.
    created: crate::runtime::sync::PriorityInheritanceMutex<Vec<Box<[u8]>>>,
    /// Set once `ioc_init` has run C's `buildScanLists` share of the table;
    /// before it, a SCAN change is a load-time edit that pass will meet.
    built: std::sync::atomic::AtomicBool,
}

impl EventTable {
    fn new() -> Self {
        Self {
            numbered: std::array::from_fn(|_| std::sync::atomic::AtomicBool::new(false)),
            created: crate::runtime::sync::PriorityInheritanceMutex::new(
                Vec::new(),
                crate::runtime::sync::CMutex::ScanEvent,
            ),
            built: std::sync::atomic::AtomicBool::new(false),
        }
    }

    /// C `eventNameToHandle`'s find-or-create (`dbScan.c:493-532`). A
    /// numbered event that exists answers from its flag alone.
    #[inline]
    fn handle(&self, event: EventName<'_>) {
        if let EventName::Number(n) = event
            && self.numbered[n as usize].load(std::sync::atomic::Ordering::Acquire)
        {
            return;
        }
        self.create(event);
    }

    #[cold]
    fn create(&self, event: EventName<'_>) {
        use std::sync::atomic::Ordering;
        let mut created = self.created.lock();
        match event {
            EventName::Number(n) => {
                if !self.numbered[n as usize].load(Ordering::Relaxed) {
                    created.push(n.to_string().into_bytes().into());
                    self.numbered[n as usize].store(true, Ordering::Release);
                }
            }
            EventName::Named(name) => {
                if !created.iter().any(|c| **c == *name) {
                    created.push(name.into());
                }
            }
        }
    }
}

/// One periodic pass's view of its scan list — C `ppsl->snap`, the `scan_slot`
/// array (`dbScan.c:103-106`, `:124`).
///
/// Opaque on purpose: a slot index means nothing except against the snapshot
/// it was claimed from, so the only things a holder can do with one are ask
/// its PHAS and hand it back to [`PvDatabase::process_scan_slot`].
pub(crate) struct ScanPassSnapshot(Arc<[super::ScanKey]>);

impl ScanPassSnapshot {
    /// How many slots the pass has to hand out.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// A list with no records at all — C's `if (ppsl->snapLen == 0) return`
    /// (`dbScan.c:1196-1197`).
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The PHAS a pass groups slot `slot` by.
    ///
    /// The key's PHAS, not the record's live one. C copies `prec->phas` into
    /// the slot at snapshot time (`dbScan.c:1177`) and groups by that, which
    /// can disagree with the order the list is in: the list is ordered by the
    /// PHAS each record was inserted under, so a PHAS written since then makes
    /// C's groups non-contiguous and splits one PHAS across two groups — each
    /// of which then gets its own barrier, which is a slower pass rather than
    /// a wrong one. The key's PHAS is the value the order is built from, so a
    /// group is contiguous by construction.
    pub(crate) fn phas(&self, slot: usize) -> i16 {
        self.0[slot].phas
    }
}

/// A cursor over a LIVE scan list — C `scanList`'s `pse` (`dbScan.c:998-1051`).
///
/// The invariant: **the sweep observes the list, it does not own a copy of it.**
/// C re-reads `ellNext(&pse->node)` under `psl->lock` on every step and carries
/// a cursor-repair walk that exists precisely because `dbProcess` can change
/// the SCAN field of an arbitrary number of records mid-sweep. A snapshot taken
/// once at the top of the tick processes records the list no longer holds.
///
/// The cursor does hold the list in a `snapshot`, and that does not weaken the
/// invariant, because the bucket's revision is what the snapshot is read
/// through: the revision moves on every transition ([`ScanBucket::transition`]),
/// so while it still reads what the cursor holds, no record has entered, left
/// or been re-keyed and the snapshot IS the live list. The moment it differs
/// the snapshot is discarded and the place re-found. What that buys is the
/// step: an index, against a bucket lock, an ordered-set lookup and a key
/// clone per record per sweep to learn that a list nothing had touched still
/// held what it held.
///
/// The port's list is an ordered set, not a linked list, so "my element left
/// the list" has one answer instead of C's three: the next key strictly greater
/// than where the cursor stood. That subsumes C's prev/next repair
/// (`dbScan.c:1030-1044`) — and, because the position is a key rather than a
/// pointer, it has no counterpart to C's "too many changes, wait till the next
/// period" (`:1045-1048`), which is an artefact of losing the place rather than
/// a scanning rule.
///
/// The step re-reads the last record's CURRENT key before advancing, so a
/// record that moved within this list (its own processing changed its PHAS) is
/// advanced from where it is now — C's `pse->pscan_list == psl` branch
/// (`:1023-1029`).
pub(crate) struct ScanCursor<'a> {
    /// The list's bucket, found once at the top of the sweep: a step is an
    /// index and one revision load, with no bucket lookup behind it.
    bucket: &'a ScanBucket,
    /// The list as it stood at [`Self::revision`]; `None` before the first
    /// step, which is the one state in which there is no place to keep.
    snapshot: Option<Arc<[super::ScanKey]>>,
    /// Index into `snapshot` of the entry the next step hands out. The entry
    /// before it is where the cursor stands.
    next: usize,
    /// The bucket revision `snapshot` was taken at.
    revision: u64,
}

impl ScanCursor<'_> {
    /// Where the cursor stands: the entry the last step handed out.
    fn standing(&self) -> Option<&super::ScanKey> {
        self.snapshot.as_ref()?.get(self.next.checked_sub(1)?)
    }

    /// Take the list again and re-find the place in it — C's cursor repair
    /// (`dbScan.c:1023-1044`), now paid once per transition rather than once
    /// per record.
    ///
    /// The record last handed out may have moved WITHIN this list, its own
    /// processing having changed its PHAS, so its key is rebuilt from live
    /// state before the resume point is looked up. `live_scan_key` reads the
    /// records map and the record itself, so no bucket lock is held across it.
    #[cold]
    #[inline(never)]
    fn resync(&mut self, db: &PvDatabase) {
        let was = self.standing().cloned();
        let live = was.as_ref().and_then(|w| db.live_scan_key(&w.name));
        let (revision, snapshot) = self.bucket.snapshot();
        let resume = match live {
            // The rebuilt key is the resume point only if THIS list is where
            // the record landed; one whose SCAN moved it to another list
            // resumes the sweep from where it stood.
            Some(k) if snapshot.binary_search(&k).is_ok() => Some(k),
            _ => was,
        };
        // The next key strictly greater than the resume point — C's
        // `ellNext`, and the same answer for a record that left the list as
        // for one that is still in it.
        self.next = resume.map_or(0, |r| snapshot.partition_point(|k| *k <= r));
        self.revision = revision;
        self.snapshot = Some(snapshot);
    }

    /// The next record still in the list, or `None` at its end: the name, and
    /// the instance the list holds beside it (`None` only for a key whose
    /// record has since been dropped).
    ///
    /// Takes no lock while the list is unchanged, and the bucket lock for the
    /// re-find alone when it is — never across processing, as C releases
    /// `psl->lock` around every `dbProcess`.
    #[allow(clippy::type_complexity)]
    #[inline]
    pub(crate) fn next(&mut self, db: &PvDatabase) -> Option<(&[u8], Option<&Arc<RecordCell>>)> {
        if self.snapshot.is_none()
            || self
                .bucket
                .revision
                .load(std::sync::atomic::Ordering::Acquire)
                != self.revision
        {
            self.resync(db);
        }
        let snap = self.snapshot.as_ref()?;
        let n = self.next;
        // A record's DRAM misses (cell, then what it points at, then what
        // that names) are serial inside its own cycle; started here, records
        // ahead, they overlap the current one's (rs2001 tail).
        if let Some(rec) = snap.get(n + 3).and_then(|k| k.handle.as_ref()) {
            rec.prefetch_cell();
        }
        if let Some(rec) = snap.get(n + 2).and_then(|k| k.handle.as_ref()) {
            rec.prefetch_lock_record();
        }
        if let Some(rec) = snap.get(n + 1).and_then(|k| k.handle.as_ref()) {
            rec.prefetch_targets();
        }
        let key = snap.get(n)?;
        if let Some(rec) = key.handle.as_ref() {
            rec.prefetch_cell();
            rec.prefetch_lock_record();
            rec.prefetch_targets();
        }
        self.next += 1;
        Some((&key.name, key.handle.as_ref()))
    }
}

/// The event an EPICS event name resolves to, borrowed from the name —
/// C `eventNameToHandle`'s identity (`dbScan.c:469-533`):
/// * leading/trailing whitespace is stripped;
/// * a string that parses as a number with an integer part in `[1,255]` is
///   that event number (so `"5"`, `" 5 "` and `"5.0"` from a calc record name
///   one event);
/// * anything that resolves to event 0, and an empty name, is no event —
///   C's `eventNameToHandle` returns NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventName<'a> {
    Number(u8),
    /// The bytes C `strcmp`s against `pevent_list`, as the name spelled them.
    Named(&'a [u8]),
}

impl<'a> EventName<'a> {
    pub(crate) fn of(name: &'a [u8]) -> Option<Self> {
        let is_space = |b: &u8| crate::runtime::stdlib::c_isspace(*b as char);
        let start = name.iter().position(|b| !is_space(b))?;
        let end = name.iter().rposition(|b| !is_space(b))? + 1;
        let trimmed = &name[start..end];
        // C `epicsParseDouble`: `strtod`'s grammar, so `0x10` is event 16. A
        // non-ASCII byte is never part of a number, so such a name is not one.
        if let Ok(num) = std::str::from_utf8(trimmed)
            .map_err(|_| ())
            .and_then(|t| crate::runtime::stdlib::epics_parse_double(t).map_err(|_| ()))
            && (0.0..256.0).contains(&num)
        {
            // `(0.0..256.0)` holds, so the integer part fits `u8`.
            return match num as u8 {
                0 => None,
                n => Some(Self::Number(n)),
            };
        }
        // Numeric but outside [0,256): matched literally.
        Some(Self::Named(trimmed))
    }

    /// The label C gives the handle: `%i` for a number (`dbScan.c:517`),
    /// the name's own bytes otherwise.
    pub(crate) fn to_bytes(self) -> Box<[u8]> {
        match self {
            Self::Number(n) => n.to_string().into_bytes().into(),
            Self::Named(s) => s.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::EventName;
    use super::PvDatabase;
    use crate::server::record::ScanType;

    /// A frame names on its `LockRecord` what the record's next cycle reads —
    /// the OUT link's `DbLink`, each monitor's queue and slot — and clears
    /// what the record no longer has, so the walk is never handed a dropped
    /// one's address.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[epics_macros_rs::epics_test]
    async fn a_frame_names_its_next_cycles_reads_for_the_walk() {
        use crate::server::record::{DbLink, EventMask, ParsedLink};
        use crate::types::{DbFieldType, EpicsValue};
        const COUNTS: usize = 2 * std::mem::size_of::<usize>();

        let (db, _) = crate::server::ioc_builder::IocBuilder::new()
            .db_string(
                r#"record(ao, "A") {} record(ao, "T") { field(OUT, "A PP") }"#,
                &std::collections::HashMap::new(),
            )
            .expect("db")
            .build()
            .await
            .expect("ioc");
        let t = db.get_record("T").unwrap();
        let h = t.lock_record().hints();
        let body = (&*t.read().record as *const dyn crate::server::record::Record)
            .cast::<u8>()
            .addr();
        let named = |p: usize, len, align| {
            let h = crate::server::record::Hint::default();
            h.set(core::ptr::without_provenance(p), len, align);
            h.named()
        };
        assert_eq!(
            h.body.named().0,
            named(body, 1, 1).0,
            "registration names the body"
        );

        let reader = t
            .write()
            .add_subscriber("VAL", 1, DbFieldType::Double, EventMask::VALUE.bits())
            .expect("monitor");
        let mut stack = crate::server::database::ProcStack::new();
        db.process_record_with_links_sync(b"T", &mut stack).unwrap();
        {
            let inst = t.read();
            let ParsedLink::Db(link) = inst.parsed_out.link() else {
                panic!("OUT is a DB link");
            };
            let at = std::sync::Arc::as_ptr(link).cast::<u8>().addr() - COUNTS;
            assert_eq!(
                h.out[1].named(),
                named(
                    at,
                    std::mem::size_of::<DbLink>() + COUNTS,
                    std::mem::align_of::<DbLink>().max(std::mem::align_of::<usize>())
                )
            );
        }
        assert_ne!(h.posts[0][0].named().1, 0, "the monitor's queue");
        assert_ne!(h.posts[0][1].named().1, 0, "the monitor's slot");
        assert_eq!(h.posts[1][0].named(), (0, 0), "one monitor, one pair");

        t.write().remove_subscriber(reader.id());
        db.process_record_with_links_sync(b"T", &mut stack).unwrap();
        assert_eq!(
            h.posts[0].each_ref().map(|h| h.named()),
            [(0, 0); 2],
            "a removed monitor names no queue or slot"
        );

        db.put_record_field_from_ca("T", "OUT", EpicsValue::String(String::new().into()))
            .await
            .unwrap();
        db.process_record_with_links_sync(b"T", &mut stack).unwrap();
        assert_eq!(h.out[1].named(), (0, 0), "a cleared OUT names no DbLink");
    }

    /// The cycle guard belongs to the frame that inserted it, and a frame
    /// that does not run must not insert one. The set is ONE per sweep
    /// (`scan_list_once`), so a marker left behind by a name that is no
    /// longer in the database reads as "already on this stack" for every
    /// later entry in that sweep — silencing every forward link onto it.
    #[test]
    fn a_frame_that_finds_no_record_leaves_no_cycle_marker() {
        let db = PvDatabase::new();
        let mut visited = crate::server::database::ProcStack::new();

        let result = db.process_record_with_links_sync(b"NO:SUCH:RECORD", &mut visited);

        assert!(
            result.is_err(),
            "a name the database does not hold is an error"
        );
        assert!(
            visited.is_empty(),
            "the frame left its cycle marker behind: {visited:?}"
        );
    }

    /// The ordering rule, stated as the thing that must hold rather than as
    /// the record shape that once broke it: **`update_scan_index` takes L46
    /// itself, so no caller may hold L46 when calling it.**
    ///
    /// A caller that breaks it used to park on itself forever, because
    /// `PriorityInheritanceMutex` is not reentrant. The failure reached CI as
    /// a 120-second timeout on whatever test happened to register a record —
    /// a shape that reads as a load flake and hides which caller is at fault.
    /// This pins the replacement: the violating call panics, immediately, and
    /// names both ends.
    ///
    /// Deliberately expressed with a bare `lock_registration` + direct
    /// `update_scan_index` pair and no record, no SIML and no SCAN field: the
    /// rule belongs to the caller/owner contract, not to the one composition
    /// (`add_loaded_record` → `rec_gbl_init_simm` → `apply_simm_scan_swap`)
    /// that first exposed it. Any future tail added under a registration gate
    /// trips this the same way.
    #[test]
    fn a_caller_holding_l46_cannot_reach_the_scan_index_owner() {
        let db = PvDatabase::new();
        let held = db.lock_registration("a_test_standing_in_for_a_registration_entry_point");

        let violation = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            db.update_scan_index(b"ANY", ScanType::Passive, ScanType::SEC01, 0, 0);
        }));

        let payload = violation
            .expect_err("holding L46 across update_scan_index must panic, not park the thread");
        let msg = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("");
        assert!(
            msg.contains("not reentrant") && msg.contains("update_scan_index"),
            "the panic must name the rule and the violating site, got: {msg}"
        );
        drop(held);
    }

    /// The other side of the same boundary — with no gate held, the owner
    /// takes L46 itself and completes. Without this case the test above would
    /// still pass if `update_scan_index` panicked unconditionally.
    #[test]
    fn the_scan_index_owner_takes_l46_itself_when_no_caller_holds_it() {
        let db = PvDatabase::new();
        db.update_scan_index(b"ANY", ScanType::Passive, ScanType::SEC01, 0, 0);
    }

    /// The gate is released on drop, including by unwinding out of a panic
    /// between acquisitions. A leaked flag would make every later
    /// registration on this thread panic and turn the tripwire into its own
    /// outage.
    #[test]
    fn the_registration_gate_clears_on_drop_and_on_unwind() {
        let db = PvDatabase::new();
        drop(db.lock_registration("first"));
        let _second = db.lock_registration("second");
        drop(_second);

        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _g = db.lock_registration("panics_while_held");
            panic!("unwind with the gate live");
        }));
        drop(db.lock_registration("after_unwind"));
    }

    /// A cursor skips its repair walk for as long as the bucket revision it
    /// carries still matches, so the revision has to move on every transition
    /// that can invalidate a key it holds — including an insert of a key the
    /// bucket already has, which is how a re-key that keeps the same PHAS
    /// arrives.
    #[test]
    fn every_scan_bucket_transition_moves_the_revision() {
        let db = PvDatabase::new();
        let list = ScanType::SEC01.scan_list().expect("1 second names a list");
        let revision = || {
            db.inner
                .scan_index
                .bucket(list)
                .revision
                .load(std::sync::atomic::Ordering::Relaxed)
        };

        let empty = revision();
        db.add_to_scan_list(ScanType::SEC01, 0, "calc", 0, "R:ONE");
        let added = revision();
        assert_ne!(added, empty, "an insert is a transition");

        db.add_to_scan_list(ScanType::SEC01, 0, "calc", 0, "R:ONE");
        let re_added = revision();
        assert_ne!(
            re_added, added,
            "re-inserting a key the bucket already holds is a transition too"
        );

        db.delete_from_scan_list(ScanType::SEC01, b"R:ONE");
        assert_ne!(revision(), re_added, "a removal is a transition");
    }

    /// The scan key holds its record STRONGLY, so the key leaving the bucket
    /// is the only thing that frees the record. `remove_record` must take it
    /// out, or a periodic record is kept alive by the list forever.
    #[epics_macros_rs::epics_test]
    async fn removing_a_periodic_record_frees_it() {
        let db = PvDatabase::new();
        db.add_record(
            "SCAN:GONE",
            Box::new(crate::server::records::calc::CalcRecord::new("VAL+1")),
        )
        .await
        .unwrap();
        let _ = db
            .get_record("SCAN:GONE")
            .unwrap()
            .write()
            .set_scan(ScanType::SEC01);
        db.add_to_scan_list(ScanType::SEC01, 0, "calc", 0, "SCAN:GONE");
        let cell = db.get_record("SCAN:GONE").unwrap();

        assert!(db.remove_record("SCAN:GONE").await);

        // The record table keeps the cell; nothing else may.
        assert_eq!(
            std::sync::Arc::strong_count(&cell),
            2,
            "the scan bucket's key outlived the removal"
        );
    }

    #[test]
    fn event_name_numeric_normalisation() {
        let of = |n: &str| {
            EventName::of(n.as_bytes()).map(|e| String::from_utf8(e.to_bytes().into()).unwrap())
        };
        // Whitespace trimmed, numeric forms canonicalised.
        assert_eq!(EventName::of(b" 5 "), Some(EventName::Number(5)));
        assert_eq!(EventName::of(b"5.0"), Some(EventName::Number(5)));
        assert_eq!(of("5"), Some("5".into()));
        assert_eq!(EventName::of(b"255.9"), Some(EventName::Number(255)));
        // Event 0 / empty → no event.
        assert_eq!(of("0"), None);
        assert_eq!(of("0.5"), None);
        assert_eq!(of(""), None);
        assert_eq!(of("   "), None);
        // Symbolic name preserved.
        assert_eq!(of("myEvent"), Some("myEvent".into()));
        assert_eq!(of(" myEvent "), Some("myEvent".into()));
        // Numeric out of [0,256) is treated literally.
        assert_eq!(of("999"), Some("999".into()));
        assert_eq!(of("256"), Some("256".into()));
        // `strtod`'s grammar: hexadecimal, and an infinity or NaN is a name.
        assert_eq!(EventName::of(b"0x10"), Some(EventName::Number(16)));
        assert_eq!(of("0x10"), Some("16".into()));
        assert_eq!(of("inf"), Some("inf".into()));
        assert_eq!(of("nan"), Some("nan".into()));
    }
}
