use crate::server::record::{CycleCell, CycleRead, CycleValue, OutView};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crate::error::{CaError, CaResult};
use crate::server::record::{
    DelayedCallback, DelayedCallbackOutcome, FieldMetadataOverride, MENU_SIMM, ProcessAction,
    ProcessOutcome, Record,
};
use crate::types::{EpicsValue, PvString};

/// Binary output record matching C boRecord behavior.
/// VAL is converted to RVAL using MASK before writing to hardware.
pub struct BoRecord {
    pub val: u16,
    // RVAL/ORAW/RBV/ORBV/MASK are DBF_ULONG (boRecord.dbd.pod:252/256/299/
    // 303/261): unsigned 32-bit raw/readback/mask words. C stores epicsUInt32,
    // so high-bit masks (e.g. 0x80000000) must round-trip without sign loss.
    pub rval: u32,
    pub oraw: u32, // old raw value for monitor
    pub rbv: u32,  // readback value
    pub orbv: u32, // old readback value
    pub mask: u32, // hardware mask from device support
    // Strings
    pub znam: PvString,
    pub onam: PvString,
    // Alarm
    pub zsv: i16,
    pub osv: i16,
    pub cosv: i16,
    pub lalm: u16, // last alarm value (for COS alarm)
    // Monitor
    pub mlst: u16, // last monitored value
    // Output control
    pub omsl: i16,     // 0=supervisory, 1=closed_loop
    pub dol: PvString, // desired output location link
    pub high: f64,     // seconds to hold output high (toggle delay)
    // Invalid output
    pub ivoa: i16, // 0=Continue, 1=Don't drive, 2=Set to IVOV
    pub ivov: u16, // invalid output value
    // Simulation
    pub simm: i16,
    pub siml: PvString,
    pub siol: PvString,
    pub sims: i16,
    pub sdly: f64,
    /// Set by `set_device_did_compute(true)` when a device readback has
    /// already produced both RVAL and VAL (`apply_raw_readback`). One-shot:
    /// `process()` then skips the forward `VAL -> RVAL` `val_to_rval()` that
    /// would recompute RVAL from VAL and discard the readback — C `processBo`
    /// sets `rval`/`val` from the callback and returns without re-converting
    /// (devAsynInt32.c:1201-1204 / devAsynUInt32Digital.c:730-733).
    skip_convert: bool,
}

impl Default for BoRecord {
    fn default() -> Self {
        Self {
            val: 0,
            rval: 0,
            oraw: 0,
            rbv: 0,
            orbv: 0,
            mask: 0,
            znam: PvString::new(),
            onam: PvString::new(),
            zsv: 0,
            osv: 0,
            cosv: 0,
            lalm: 0,
            mlst: 0,
            omsl: 0,
            dol: PvString::new(),
            high: 0.0,
            ivoa: 0,
            ivov: 0,
            simm: 0,
            siml: PvString::new(),
            siol: PvString::new(),
            sims: 0,
            sdly: -1.0,
            skip_convert: false,
        }
    }
}

impl BoRecord {
    pub fn new(val: u16) -> Self {
        Self {
            val,
            ..Default::default()
        }
    }

    /// Convert VAL to RVAL using MASK (C: convert val to rval)
    fn val_to_rval(&mut self) {
        if self.mask != 0 {
            if self.val == 0 {
                self.rval = 0;
            } else {
                self.rval = self.mask;
            }
        } else {
            self.rval = self.val as u32;
        }
    }
}

/// C `boRecord.c:85` `int boHIGHprecision = 2;` — the precision
/// `get_precision` serves for `HIGH`, the seconds-to-hold-1 field.
static BO_HIGH_PRECISION: AtomicI32 = AtomicI32::new(2);

/// The iocsh knob `boHIGHprecision`, read and written by `var`.
pub(crate) fn bo_high_precision() -> i32 {
    BO_HIGH_PRECISION.load(Ordering::Relaxed)
}

/// See [`bo_high_precision`].
pub(crate) fn set_bo_high_precision(value: i32) {
    BO_HIGH_PRECISION.store(value, Ordering::Relaxed);
}

/// C `boRecord.c:87` `double boHIGHlimit = 100000;` — the control upper
/// `get_control_double` (`:310-318`) serves for `HIGH`, over a literal `0.0`
/// lower.
static BO_HIGH_LIMIT: AtomicU64 = AtomicU64::new(100000f64.to_bits());

/// The iocsh knob `boHIGHlimit`, read and written by `var`.
pub(crate) fn bo_high_limit() -> f64 {
    f64::from_bits(BO_HIGH_LIMIT.load(Ordering::Relaxed))
}

/// See [`bo_high_limit`].
pub(crate) fn set_bo_high_limit(value: f64) {
    BO_HIGH_LIMIT.store(value.to_bits(), Ordering::Relaxed);
}

impl Record for BoRecord {
    // The menus are stored as `i16` and served as ENUM, so they stay General.
    crate::slot_map!(crate::server::record::dbd_generated::slots::bo;
        fields:
        VAL => val,
        HIGH => high,
        ZNAM => znam,
        ONAM => onam,
        RVAL => rval,
        SDLY => sdly,
        IVOV => ivov,
        ORAW => oraw,
        MASK => mask,
        RBV => rbv,
        ORBV => orbv,
        MLST => mlst,
        LALM => lalm;
        custom: OMSL, DOL, ZSV, OSV, COSV, SIOL, SIML, SIMM, SIMS, IVOA;
        spill: OUT, RPVT, WDPT, OLDSIMM, SSCN, SIMPVT);

    fn acts_before_process(&self) -> bool {
        false
    }

    fn cycle_hooks(&self) -> crate::server::record::CycleHooks {
        crate::server::record::CycleHooks::NONE
    }

    fn record_type(&self) -> &'static str {
        "bo"
    }

    /// devboStream.c reads and writes the `boRecord` members itself.
    fn as_any_mut(&mut self) -> Option<&mut dyn std::any::Any> {
        Some(self)
    }

    /// devBoSoft.c, devBoSoftRaw.c and devBoSoftCallback.c return `dbPutLink`'s status.
    fn process_status_rule(&self) -> crate::server::record::ProcessStatusRule {
        crate::server::record::ProcessStatusRule::io(crate::server::record::SoftStatus {
            plain: true,
            raw: true,
            async_: true,
        })
        .with_dol(crate::server::record::DolStatus::UntilWrite)
    }

    /// C `boRecord.c:191-205`: the scalar `dbGetLink(&prec->dol, ..., &val, 0, 0)`
    /// under `dol.type != CONSTANT && omsl == menuOmslclosed_loop`.
    fn fetches_dol_closed_loop(&self) -> bool {
        true
    }

    /// The closed-loop DOL is read at `DBR_USHORT` (`boRecord.c:197`), so a source
    /// that request cannot convert is a failed read.
    fn input_link_request(&self, link_field: &str) -> crate::server::record::InputLinkRequest {
        crate::server::record::InputLinkRequest::As(match link_field {
            "DOL" => crate::server::record::LinkReadAs::UShort,
            _ => crate::server::record::LinkReadAs::Native,
        })
    }

    /// `HIGH` is bo's only DBF_DOUBLE field, and both metadata literals in the
    /// rset are its: `get_units` (`:294-299`) answers `"s"` and `get_precision`
    /// (`:301-308`) answers `boHIGHprecision`; every other field falls to
    /// `recGblGetPrec`.
    ///
    /// Over PVA, `nt::qsrv_marks::property_leaves` gates `display.precision` on
    /// its own `DBR_PRECISION` slot, so this transcribed value (2) reaches the
    /// wire even though bo's rset serves no graphic limits for `HIGH`. pvxs
    /// agrees from 1.5.3: `getProperties` nested the precision assignment inside
    /// the `DBR_GR_DOUBLE` branch until `8d9455a` "ioc: serve display.precision
    /// independent of DBR_GR_DOUBLE" (later than this crate's pvxs pin), so
    /// `softIocPVX` printed `display.units "s"` and no `display.precision` at all
    /// for `bo.HIGH`. Measured on 1.5.3: the leaf is now served, and the oracle
    /// row that carried the difference was retired.
    ///
    /// `get_control_double` (`boRecord.c:310-318` — the nearer citation above
    /// is pvxs, so this one names its file) is the same one-field shape and DOES
    /// reach the wire: `HIGH` alone takes `0.0 .. boHIGHlimit`, and every other
    /// field — `LALM` and `MLST` included — falls to `recGblGetControlDouble`.
    /// That is why `bo` lists nothing in
    /// [`control_explicit_field`](crate::server::record::RecordInstance): the
    /// one field the rset lists is answered here, by a literal, not by the
    /// record's HOPR/LOPR.
    fn field_metadata_override(&self, field: &str) -> Option<FieldMetadataOverride> {
        field
            .eq_ignore_ascii_case("HIGH")
            .then(|| FieldMetadataOverride {
                units: Some("s".into()),
                precision: Some(bo_high_precision() as i16),
                ctrl_limits: Some((bo_high_limit(), 0.0)),
                ..Default::default()
            })
    }

    /// C `boRecord.c:192-205`: `process()` clears `udf` to FALSE only on a
    /// successful closed-loop DOL fetch (`if (RTN_SUCCESS(status)) prec->udf =
    /// FALSE;`); the no-DOL arm reads the current VAL and leaves `udf` alone, so
    /// `checkAlarms` (`:371-372`) raises UDF_ALARM every cycle for a bare record.
    /// `udf` is never re-derived from the stored VAL, so bo opts out of the
    /// framework's blanket per-cycle clear. The definers are a direct VAL put
    /// (`dbPut`, `field_io.rs`) and the DOL-apply site (`processing.rs`).
    fn clears_udf(&self) -> bool {
        false
    }

    /// C `boRecord.c:371` tests `if (prec->udf == TRUE)` — exact-one. Combined
    /// with `clears_udf() == false`, a direct `caput X.UDF 255` (or `-1`,
    /// stored `255`) leaves `udf == 255` at `checkAlarms`, and `255 != TRUE`,
    /// so C raises NO UDF_ALARM — STAT/SEVR stay `NO_ALARM`. See
    /// [`Record::udf_alarm_on_exact_one`].
    fn udf_alarm_on_exact_one(&self) -> bool {
        true
    }

    /// C `devBoSoftRaw::write_bo` (`devBoSoftRaw.c:47-54`):
    /// `dbPutLink(&prec->out, DBR_LONG, &prec->rval, 1)` — the RAW word
    /// (`VAL ? MASK : 0`), not the `VAL` that `devBoSoft` writes.
    /// C `devBoSoftRaw.c::write_bo` (65): `dbPutLink(&prec->out, DBR_LONG,
    /// &prec->rval, 1)`. RVAL is DBF_ULONG; C hands its bit pattern to a
    /// DBR_LONG put, so the cast is C's reinterpretation, not a range clamp.
    fn raw_soft_output_value(&self) -> Option<EpicsValue> {
        Some(EpicsValue::Long(self.rval as i32))
    }

    fn raw_soft_output_view(&self) -> Option<OutView<'_>> {
        Some(OutView::Num(CycleValue::Long(self.rval as i32)))
    }

    /// C `boRecord.c:230-238` (R7.0.10) is `prec->val = prec->ivov;` followed
    /// by the record's OWN `/* convert val to rval */` block, MASK rule and
    /// all:
    ///
    /// ```c
    ///     prec->val=prec->ivov;
    ///     if ( prec->mask != 0 ) {
    ///         if(prec->val==0) prec->rval = 0;
    ///         else prec->rval = prec->mask;
    ///     } else prec->rval = (epicsUInt32)prec->val;
    /// ```
    ///
    /// so RVAL is never IVOV itself — it is IVOV run through the same
    /// conversion an ordinary cycle uses. Writing `RVAL = IVOV` directly
    /// reproduced only C's `else` branch, so a `bo` with a non-zero MASK drove
    /// the bare state index onto the wire instead of the mask word. Record
    /// support never assigns MASK — `boRecord.c` only reads it, at `:167`,
    /// `:208` and `:234` — device support does
    /// (`devAsynUInt32Digital.c::initBo:699,710`, asyn `R4-45-74-g731d616e`:
    /// `pr->mask = pPvt->mask`).
    fn apply_invalid_output_value(&mut self, ivov: EpicsValue) -> CaResult<()> {
        // IVOV is DBF_USHORT (boRecord.dbd.pod:372); VAL is the binary enum.
        let v: u16 = match &ivov {
            EpicsValue::UShort(e) => *e,
            EpicsValue::Enum(e) => *e,
            EpicsValue::Short(s) => *s as u16,
            other => return Err(CaError::TypeMismatch(format!("bo IVOV: {other:?}"))),
        };
        self.put_field("VAL", EpicsValue::Enum(v))?;
        self.val_to_rval();
        Ok(())
    }

    /// C `boRecord.c:146-149`:
    /// `if (recGblInitConstantLink(&prec->dol, DBF_USHORT, &ival)) {
    ///      prec->val = !!ival; prec->udf = FALSE; }`
    /// — the constant loads into a temporary and VAL takes its BOOLEAN, so
    /// `field(DOL,"5")` leaves VAL=1. Declared for the init-seed owner, which
    /// applies the `!!` and clears UDF.
    fn constant_init_links(&self) -> Vec<crate::server::record::ConstantInitLink> {
        vec![crate::server::record::ConstantInitLink::dol_to_bool_val(
            "DOL", "VAL",
        )]
    }

    /// C `boRecord.c:167-170,174-175` (R7.0.10) — the derived half of the init
    /// tail: convert VAL to RVAL through MASK, then `oraw = rval; orbv = rbv`.
    fn init_record_tail(&mut self, _: &mut crate::server::record::CommonFields) {
        self.val_to_rval();
        self.oraw = self.rval;
        self.orbv = self.rbv;
    }

    /// `devBoSoft`/`devBoSoftRaw` `init_record` return 2 (`devBoSoft.c:46-49`).
    fn soft_dset_init(&self) -> crate::server::device_support::DsetInit {
        crate::server::device_support::DsetInit::DoNotConvert
    }

    /// C `boRecord.c:158-162`: `if(prec->rval==0) prec->val = 0; else
    /// prec->val = 1; prec->udf = FALSE;`
    fn dset_init_convert(&mut self) -> Option<bool> {
        self.val = u16::from(self.rval != 0);
        Some(false)
    }

    /// C `boRecord.c:172-173` — `mlst = lalm = val`, the tracker half of the
    /// same tail. (C assigns `mlst` twice, once on each side of the convert at
    /// `:165` and `:172`; only the second is reachable.) bo seeds no ALST: it
    /// has no ADEL.
    fn seed_deadband_tracking(&mut self, _dset_init: crate::server::device_support::DsetInit) {
        self.mlst = self.val;
        self.lalm = self.val;
    }

    /// C `boRecord.c:411-420` posts RVAL and RBV with `monitor_mask |
    /// DBE_VALUE | DBE_LOG` outside the `if (monitor_mask)` that gates VAL.
    fn fields_posted_with_value_mask(
        &self,
    ) -> &'static [(&'static str, crate::server::record::ValuePostGate)] {
        use crate::server::record::ValuePostGate::OnChangeForced;
        &[("RVAL", OnChangeForced), ("RBV", OnChangeForced)]
    }

    /// `monitor()` decides RVAL and RBV from the record's own `oraw` and
    /// `orbv`, so the framework keeps no published copy of them.
    fn fields_posted_only_when_marked(&self) -> &'static [&'static str] {
        &["RVAL", "RBV"]
    }

    /// `monitor()` posts VAL, RVAL and RBV alone (`boRecord.c:398-421`).
    fn process_posted_fields(&self) -> Option<crate::server::record::DeclaredFields> {
        Some(
            &const {
                crate::server::record::declared_set(
                    crate::server::record::dbd_generated::BO_FIELDS,
                    ["VAL", "RVAL", "RBV"],
                )
            },
        )
    }

    /// VAL is the deadband field and RVAL/RBV are decided from `oraw`/`orbv`.
    fn answers_own_posts(&self) -> bool {
        true
    }

    /// C `if(prec->oraw!=prec->rval) { ...; prec->oraw = prec->rval; }`
    /// (`boRecord.c:411-415`) and its RBV twin, minus the post. Outside init,
    /// `monitor()` is the only writer of `oraw`/`orbv`: a client that put
    /// RVAL is left holding its own value when the cycle converts back to
    /// the old one.
    fn take_secondary_value_changes(
        &mut self,
        _value_mask: crate::server::recgbl::EventMask,
    ) -> crate::server::record::SecondaryTake {
        if self.oraw == self.rval && self.orbv == self.rbv {
            return crate::server::record::SecondaryTake::NONE;
        }
        let rval = crate::server::record::SecondaryTake::advance(&mut self.oraw, self.rval);
        let rbv = crate::server::record::SecondaryTake::advance(&mut self.orbv, self.rbv);
        crate::server::record::SecondaryTake::unguarded(u64::from(rval) | u64::from(rbv) << 1)
    }

    fn process(&mut self) -> CaResult<ProcessOutcome> {
        // DOL/OMSL: a real (DB/CA/PVA) link is fetched and applied to VAL
        // by the framework before process(). A *constant* DOL is applied
        // once at init_record (`recGblInitConstantLink` parity) and is NOT
        // re-sourced here; C `boRecord.c:192` gates the fetch on
        // `!dbLinkIsConstant`, so a client caput to VAL is never clobbered
        // by the constant every cycle.

        // Convert val to rval using mask — unless a device readback
        // (`apply_raw_readback`) already set both RVAL and VAL, in which case
        // skip the forward convert that would recompute RVAL from VAL and
        // discard the readback. One-shot (C `processBo` readback returns
        // without re-converting; a normal process always converts).
        if !self.skip_convert {
            self.val_to_rval();
        }
        self.skip_convert = false;

        Ok(ProcessOutcome {
            result: crate::server::record::RecordProcessResult::Complete,
            actions: Vec::new(),
            device_did_compute: false,
            status: Ok(()),
        })
    }

    /// HIGH one-shot: C `boRecord.c:257-262` arms `callbackRequestDelayed`
    /// on every pass past `writeValue` that leaves VAL at 1, and the timer —
    /// never a process cycle — is what drives the momentary output back to
    /// Done. Arming is therefore idempotent and carries no record state: a
    /// caput, a FLNK or a periodic scan landing inside the window re-arms and
    /// moves the deadline out, exactly as C does, instead of consuming the
    /// pulse.
    fn after_write_actions(&self) -> crate::server::record::ProcessActions {
        let mut actions = crate::server::record::ProcessActions::new();
        if self.val == 1 && self.high > 0.0 {
            actions.push(ProcessAction::DelayedCallbackAfter(
                crate::runtime::time::duration_from_secs(self.high),
                DelayedCallback::ONLY,
            ));
        }
        actions
    }

    fn acts_after_write(&self) -> bool {
        true
    }

    /// C `boRecord.c::myCallbackFunc` (:105-118) — the HIGH timer's own body,
    /// and the only writer of the one-shot's `prec->val = 0` (`rg 'prec->val =
    /// 0' boRecord.c` returns :116 here, :160 the RVAL convert and :364
    /// `put_enum_str`).
    fn delayed_callback_fire(
        &mut self,
        _callback: DelayedCallback,
        pact: bool,
    ) -> DelayedCallbackOutcome {
        if !pact {
            self.val = 0;
            return DelayedCallbackOutcome::Reprocess;
        }
        // Mid-async-cycle: C changes nothing and waits another full HIGH.
        // The conversion is `runtime::time::duration_from_secs`, the same one
        // `process()` arms with, so `self.high` cannot mean two deadlines in
        // two adjacent functions: a HIGH past `Duration`'s range (`caput
        // REC.HIGH 1e300`, which C ACCEPTS) becomes `Duration::MAX`, C's
        // queued callback that no comparison ever reaches. `Drop` is then left
        // with its one meaning — the one-shot is no longer live — instead of
        // also standing for "the delay would not fit".
        match (self.val == 1 && self.high > 0.0)
            .then(|| crate::runtime::time::duration_from_secs(self.high))
        {
            Some(delay) => DelayedCallbackOutcome::Rearm(delay),
            None => DelayedCallbackOutcome::Drop,
        }
    }

    fn set_device_did_compute(&mut self, did: bool) {
        self.skip_convert = did;
    }

    /// Device readback (`asyn:READBACK` / SCAN="I/O Intr" / init seed): store
    /// the raw and resolve VAL to 0/1, mirroring C `processBo`/`initBo`
    /// (devAsynInt32.c:1202-1203,1187 / devAsynUInt32Digital.c:731-732,716).
    /// RVAL is the value the dset stores (masked or not, per the dset) and VAL
    /// is `(RVAL != 0)`. Returns `true` so the store reports `computed` and the
    /// framework skips the forward convert (via `set_device_did_compute`).
    fn apply_raw_readback(&mut self, raw: i32) -> bool {
        self.rval = raw as u32;
        self.val = if self.rval != 0 { 1 } else { 0 };
        true
    }

    /// C `boRecord.c::checkAlarms` (`:366-387`) — the UDF alarm FIRST, then the
    /// STATE alarm (ZSV for VAL=0, OSV for VAL=1), then COS (COSV). The udf
    /// raise must lead: C `recGblSetSevr` overrides STAT/SEVR only when the new
    /// severity is strictly greater (recGbl.c:242 `if (nsev < new_sevr)`), so on
    /// a fresh record with `UDFS == ZSV == INVALID` the equal-severity STATE
    /// alarm cannot displace the UDF that was set first — STAT stays UDF. Unlike
    /// `bi`, C bo does NOT early-return on UDF, so STATE/COS still evaluate.
    /// Raising it here (idempotent with the framework's `rec_gbl_check_udf`,
    /// which runs after this hook) is what puts UDF ahead of STATE.
    fn check_alarms(&mut self, common: &mut crate::server::record::CommonFields) {
        use crate::server::recgbl::{self, alarm_status};
        use crate::server::record::AlarmSeverity;

        // C `boRecord.c:371` — `if (prec->udf == TRUE)` (exact-one, see
        // `udf_alarm_on_exact_one`), raised before STATE, with no early return.
        if recgbl::udf_alarm_active(common.udf, true) {
            recgbl::rec_gbl_set_sevr(
                common,
                alarm_status::UDF_ALARM,
                AlarmSeverity::from_u16(common.udfs as u16),
            );
        }

        // STATE/COS use the RAW severity ordinal (ZSV/OSV/COSV are DBF_MENU
        // stored raw i16): C `recGblSetSevr(prec, STATE_ALARM, prec->zsv)`
        // compares the raw `epicsEnum16`, so an out-of-range `ZSV=4`/`65535`
        // numerically exceeds a prior UDF's INVALID(3) and overrides it. See
        // `rec_gbl_set_sevr_raw`. VAL is 0/1, so the branch picks ZSV or OSV.
        let val = self.val;
        let state_sev = if val == 0 { self.zsv } else { self.osv };
        recgbl::rec_gbl_set_sevr_raw(common, alarm_status::STATE_ALARM, state_sev as u16);
        if val != self.lalm {
            recgbl::rec_gbl_set_sevr_raw(common, alarm_status::COS_ALARM, self.cosv as u16);
            self.lalm = val;
        }
    }

    fn link_text_ref(&self, link_field: &str) -> Option<&[u8]> {
        match link_field {
            "DOL" => Some(self.dol.as_bytes()),
            "SIML" => Some(self.siml.as_bytes()),
            "SIOL" => Some(self.siol.as_bytes()),
            _ => None,
        }
    }

    fn simm_cells(&self) -> Option<crate::server::record::SimmCells> {
        Some(crate::server::record::SimmCells {
            simm: self.simm,
            sims: self.sims,
            sdly: self.sdly,
        })
    }

    fn cycle_cell(&self, cell: CycleCell) -> CycleRead {
        match cell {
            CycleCell::Val => CycleRead::Value(CycleValue::Enum(self.val)),
            CycleCell::Mlst => CycleRead::Value(CycleValue::UShort(self.mlst)),
            CycleCell::Lalm => CycleRead::Value(CycleValue::UShort(self.lalm)),
            _ => CycleRead::Absent,
        }
    }

    fn put_cycle_cell(&mut self, cell: CycleCell, value: CycleValue) -> CaResult<()> {
        match (cell, value) {
            (CycleCell::Lalm, CycleValue::UShort(v)) => self.lalm = v,
            (CycleCell::Mlst, CycleValue::UShort(v)) => self.mlst = v,
            (cell, value) => return self.put_field(cell.name(), value.into()),
        }
        Ok(())
    }

    fn get_field(&self, name: &str) -> Option<EpicsValue> {
        match name {
            "VAL" => Some(EpicsValue::Enum(self.val)),
            "RVAL" => Some(EpicsValue::ULong(self.rval)),
            "ORAW" => Some(EpicsValue::ULong(self.oraw)),
            "RBV" => Some(EpicsValue::ULong(self.rbv)),
            "ORBV" => Some(EpicsValue::ULong(self.orbv)),
            "MASK" => Some(EpicsValue::ULong(self.mask)),
            "ZNAM" => Some(EpicsValue::String(self.znam.clone())),
            "ONAM" => Some(EpicsValue::String(self.onam.clone())),
            "ZSV" => Some(EpicsValue::Short(self.zsv)),
            "OSV" => Some(EpicsValue::Short(self.osv)),
            "COSV" => Some(EpicsValue::Short(self.cosv)),
            "LALM" => Some(EpicsValue::UShort(self.lalm)),
            "MLST" => Some(EpicsValue::UShort(self.mlst)),
            "OMSL" => Some(EpicsValue::Short(self.omsl)),
            "DOL" => Some(EpicsValue::String(self.dol.clone().into())),
            "HIGH" => Some(EpicsValue::Double(self.high)),
            "IVOA" => Some(EpicsValue::Short(self.ivoa)),
            "IVOV" => Some(EpicsValue::UShort(self.ivov)),
            "SIMM" => Some(EpicsValue::Short(self.simm)),
            "SIML" => Some(EpicsValue::String(self.siml.clone().into())),
            "SIOL" => Some(EpicsValue::String(self.siol.clone().into())),
            "SIMS" => Some(EpicsValue::Short(self.sims)),
            "SDLY" => Some(EpicsValue::Double(self.sdly)),
            _ => None,
        }
    }

    fn put_field(&mut self, name: &str, value: EpicsValue) -> CaResult<()> {
        match name {
            "VAL" => match value {
                EpicsValue::Enum(v) => {
                    self.val = v;
                    Ok(())
                }
                EpicsValue::Long(v) => {
                    self.val = v as u16;
                    Ok(())
                }
                EpicsValue::Short(v) => {
                    self.val = v as u16;
                    Ok(())
                }
                // C rset `put_enum_str` (boRecord.c), reached from
                // `dbConvert.c::putStringEnum` — one converter, shared with the
                // framework's put paths (see `Record::enum_str_state`).
                EpicsValue::String(ref s) => {
                    let resolved =
                        crate::server::record::resolve_enum_state_string("VAL", &*self, s)?;
                    if let EpicsValue::Enum(v) = resolved {
                        self.val = v;
                    }
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            // RVAL/MASK are DBF_ULONG: a client put arrives as ULong, internal
            // / device-support callers may still pass Long (same bit pattern).
            "RVAL" => match value {
                EpicsValue::ULong(v) => {
                    self.rval = v;
                    Ok(())
                }
                EpicsValue::Long(v) => {
                    self.rval = v as u32;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "MASK" => match value {
                EpicsValue::ULong(v) => {
                    self.mask = v;
                    Ok(())
                }
                EpicsValue::Long(v) => {
                    self.mask = v as u32;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "ZNAM" => match value {
                EpicsValue::String(v) => {
                    self.znam.set_bytes(v.as_bytes());
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "ONAM" => match value {
                EpicsValue::String(v) => {
                    self.onam.set_bytes(v.as_bytes());
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "ZSV" => match value {
                EpicsValue::Short(v) => {
                    self.zsv = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "OSV" => match value {
                EpicsValue::Short(v) => {
                    self.osv = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "COSV" => match value {
                EpicsValue::Short(v) => {
                    self.cosv = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            // LALM/MLST are DBF_USHORT: accept a client UShort put, tolerate an
            // internal Enum (same u16 value).
            "LALM" => match value {
                EpicsValue::UShort(v) => {
                    self.lalm = v;
                    Ok(())
                }
                EpicsValue::Enum(v) => {
                    self.lalm = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "MLST" => match value {
                EpicsValue::UShort(v) => {
                    self.mlst = v;
                    Ok(())
                }
                EpicsValue::Enum(v) => {
                    self.mlst = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "OMSL" => match value {
                EpicsValue::Short(v) => {
                    self.omsl = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "DOL" => match value {
                EpicsValue::String(v) => {
                    self.dol = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "HIGH" => match value {
                EpicsValue::Double(v) => {
                    self.high = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "IVOA" => match value {
                EpicsValue::Short(v) => {
                    self.ivoa = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            // IVOV is DBF_USHORT: accept a client UShort put, tolerate Enum.
            "IVOV" => match value {
                EpicsValue::UShort(v) => {
                    self.ivov = v;
                    Ok(())
                }
                EpicsValue::Enum(v) => {
                    self.ivov = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "SIMM" => match value {
                EpicsValue::Short(v) => {
                    self.simm = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "SIML" => match value {
                EpicsValue::String(v) => {
                    self.siml = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "SIOL" => match value {
                EpicsValue::String(v) => {
                    self.siol = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "SIMS" => match value {
                EpicsValue::Short(v) => {
                    self.sims = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "SDLY" => match value {
                EpicsValue::Double(v) => {
                    self.sdly = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            _ => Err(CaError::FieldNotFound(name.into())),
        }
    }

    /// `SIMM` is `DBF_MENU menu(menuSimm)` (`boRecord.dbd.pod`): the binary
    /// records carry the three-choice NO/YES/RAW simulation menu. Served as
    /// `DBR_ENUM` with these labels. `SIMS`/`OLDSIMM`/`OMSL`/`IVOA` are
    /// shared menus resolved centrally.
    fn menu_field_choices(&self, field: &str) -> Option<&'static [&'static str]> {
        match field {
            "SIMM" => Some(MENU_SIMM),
            _ => None,
        }
    }

    /// C rset `get_enum_strs`/`put_enum_str` (boRecord.c) — ZNAM/ONAM.
    fn enum_state_strings(&self) -> Option<Vec<PvString>> {
        Some(crate::server::record::binary_enum_states(
            &self.znam, &self.onam,
        ))
    }

    fn enum_str_state(&self, name: &PvString) -> Option<u16> {
        crate::server::record::binary_enum_str_state(&self.znam, &self.onam, name)
    }

    /// C `get_enum_str` (boRecord.c:320-339): VAL 0 -> ZNAM, 1 -> ONAM, and any
    /// other index -> `"Illegal_Value"`. Slot 1 is indexed even when ONAM is
    /// empty, so it renders empty — the `no_str` trim in `enum_state_strings`
    /// is the LABEL list's, not this read's.
    fn enum_slots(&self) -> Option<crate::server::record::EnumSlots<'_>> {
        Some(crate::server::record::EnumSlots::Binary([
            &self.znam, &self.onam,
        ]))
    }

    /// C `boRecord.c:395-400` `monitor()`: `if (prec->mlst != prec->val) { events |=
    /// DBE_VALUE | DBE_LOG; prec->mlst = prec->val; }` — compared and
    /// committed HERE, at C's position, never captured during `process()`.
    fn monitor_value_changed(&mut self) -> Option<bool> {
        let changed = self.mlst != self.val;
        if changed {
            self.mlst = self.val;
        }
        Some(changed)
    }

    fn uses_monitor_deadband(&self) -> bool {
        false
    }
}
