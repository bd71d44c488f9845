use super::calc_compile;
use crate::error::{CaError, CaResult};
use crate::server::record::{
    CycleCell, CycleRead, CycleValue, FieldSlot, InputFetchPolicy, ProcessOutcome, Record,
};
use crate::types::{EpicsValue, PvString};

/// The calc-family input fields `A..U`, in `LA..LU` order.
pub(crate) const CALC_INPUT_FIELDS: [&str; crate::calc::CALC_NARGS] = [
    "A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N", "O", "P", "Q", "R", "S",
    "T", "U",
];

/// Calc record — evaluates CALC expression with inputs A-U.
///
/// Matches epics-base PR #655 (12 → 21 inputs, A-L → A-U).
pub struct CalcRecord {
    pub val: f64,
    pub calc: String,
    // Display/engineering
    pub egu: PvString,
    pub prec: i16,
    pub hopr: f64,
    pub lopr: f64,
    // Alarm/monitor
    pub adel: f64,
    pub mdel: f64,
    pub lalm: f64,
    pub alst: f64,
    pub mlst: f64,
    // Input link strings (INPA..INPU)
    inpa: PvString,
    inpb: PvString,
    inpc: PvString,
    inpd: PvString,
    inpe: PvString,
    inpf: PvString,
    inpg: PvString,
    inph: PvString,
    inpi: PvString,
    inpj: PvString,
    inpk: PvString,
    inpl: PvString,
    inpm: PvString,
    inpn: PvString,
    inpo: PvString,
    inpp: PvString,
    inpq: PvString,
    inpr: PvString,
    inps: PvString,
    inpt: PvString,
    inpu: PvString,
    /// Bit `i` set ⟺ `INP<i>` is non-empty. Written only by
    /// [`Self::set_inp_link`], the single writer of the 21 texts, so
    /// [`Record::set_input_link_slots`] answers off it without touching them.
    inp_set: u64,
    /// [`Record::input_links_generation`]: moved on by [`Self::set_inp_link`],
    /// the one writer of `INPA..INPU` (private fields — nothing else can
    /// store a text without going through it).
    inp_generation: u64,
    // Input values A-U
    pub vars: [f64; crate::calc::CALC_NARGS],
    // Previous values LA-LU (saved after each process)
    pub prev: [f64; crate::calc::CALC_NARGS],
    // The inputs this cycle's `advance_prev_inputs` found apart from LA..LU,
    // bit i for input i; zero on a cycle that ran no advance.
    input_changes: u32,
    // This cycle's `calcPerform` outcome (C `calcRecord.c:121-123`). A per-cycle
    // fact, not record state: `check_alarms` — the owner of this record's alarm
    // transitions — consumes it, so it cannot outlive the cycle that set it.
    calc_alarm: bool,
    // This cycle's `fetch_values()` outcome, pushed by the framework through
    // `set_fetch_gate_failed`. C `calcRecord.c::process` (120) runs
    // `calcPerform` only `if (fetch_values(prec) == 0)`, so a failed input link
    // freezes VAL and UDF and raises no CALC_ALARM — while everything after the
    // calc (LA..LU advance, alarms, monitors, forward link) still runs.
    fetch_gate_failed: bool,
    // This cycle ran `calcPerform` and it SUCCEEDED — the one condition under
    // which C writes `prec->udf` (`calcRecord.c:124`, the `else` of the
    // `calcPerform` test, itself inside the `fetch_values` gate at `:120`).
    // Consumed by `check_alarms`, which owns the write; a cycle that never sets
    // it leaves UDF frozen, which is what the gated arms of C do.
    value_computed: bool,
    // Alarm-range time-constant filter (epics-base calcRecord.c::checkAlarms).
    // AFTC > 0 enables an exponential smoothing of the integer alarmRange
    // (1=Lolo..5=Hihi) so transient excursions don't immediately alarm.
    // AFVL is the filter accumulator state (sign encodes rounding hysteresis).
    pub aftc: f64,
    pub afvl: f64,
    // C `RPCL`. Always a program: an empty or uncompilable CALC carries C's
    // empty `END_EXPRESSION` postfix, which `calcPerform` refuses to run — the
    // record then alarms on every process. See [`calc_compile`].
    rpcl: crate::calc::Rpcl<CALC_RPCL_SIZE>,
    // C `prec->name`, handed over at creation by `set_async_context`. Only the
    // record knows it, which is why C prints its bad-CALC report from
    // `init_record`/`special` and not from `postfix()`.
    name: Option<crate::types::RecordName>,
    // The refused CALC put's report, made by `special` under the put's hold
    // and taken by the put's owner through `take_put_report`.
    put_report: Option<crate::server::recgbl::PutReport>,
}

/// `calcRecord.dbd` `rpcl[INFIX_TO_POSTFIX_SIZE(160)]`.
const CALC_RPCL_SIZE: usize = crate::calc::infix_to_postfix_size(160);

impl Default for CalcRecord {
    fn default() -> Self {
        Self {
            val: 0.0,
            calc: String::new(),
            egu: PvString::new(),
            prec: 0,
            hopr: 0.0,
            lopr: 0.0,
            adel: 0.0,
            mdel: 0.0,
            lalm: 0.0,
            alst: 0.0,
            mlst: 0.0,
            inpa: PvString::new(),
            inpb: PvString::new(),
            inpc: PvString::new(),
            inpd: PvString::new(),
            inpe: PvString::new(),
            inpf: PvString::new(),
            inpg: PvString::new(),
            inph: PvString::new(),
            inpi: PvString::new(),
            inpj: PvString::new(),
            inpk: PvString::new(),
            inpl: PvString::new(),
            inpm: PvString::new(),
            inpn: PvString::new(),
            inpo: PvString::new(),
            inpp: PvString::new(),
            inpq: PvString::new(),
            inpr: PvString::new(),
            inps: PvString::new(),
            inpt: PvString::new(),
            inpu: PvString::new(),
            inp_set: 0,
            inp_generation: 0,
            vars: [0.0; crate::calc::CALC_NARGS],
            prev: [0.0; crate::calc::CALC_NARGS],
            input_changes: 0,
            calc_alarm: false,
            fetch_gate_failed: false,
            value_computed: false,
            aftc: 0.0,
            afvl: 0.0,
            rpcl: crate::calc::Rpcl::empty(),
            name: None,
            put_report: None,
        }
    }
}

impl CalcRecord {
    /// Construct with a CALC expression, compiled. RPCL is a function of CALC,
    /// so a constructor that sets one must set the other — otherwise the record
    /// carries a CALC it has no program for, and `process` has to guess. (C has
    /// no such window: `init_record` compiles before the record can be
    /// processed.)
    pub fn new(calc: &str) -> Self {
        let mut rec = Self {
            calc: calc.to_string(),
            ..Default::default()
        };
        calc_compile::postfix_into(&rec.calc, &mut rec.rpcl);
        rec
    }

    /// The record's own report of a CALC it could not compile from
    /// `init_record` (`calcRecord.c:105-110`); `special` makes the same pair
    /// as a put report. It carries `prec->name`,
    /// which is why C prints it here rather than inside `postfix()`.
    fn report_bad_calc(&self, compiled: &calc_compile::CalcCompile, pmessage: &str) {
        // C `precord ? precord->name : "Unknown"`, reached here only if a
        // record compiled before `set_async_context` ran.
        let name = self
            .name
            .as_ref()
            .map_or("Unknown".into(), |n| n.to_str_lossy());
        compiled.report_in_expression(&name, pmessage, "CALC", &self.calc);
    }

    /// Advance LA..LU to A..U. C `calcRecord.c::monitor` (lines 417-423) does
    /// it inside the per-field change test
    /// (`if (*pnew != *pprev || monitor_mask & DBE_ALARM)`), i.e. only for
    /// inputs that actually changed — so LA..LU means "value of the input as of
    /// the last time a monitor was posted for it".
    ///
    /// `monitor()` runs on EVERY cycle, including one where `fetch_values()`
    /// failed and the calc was skipped (C gates only the `calcPerform` block,
    /// calcRecord.c:119-125), so both paths through `process()` come through
    /// here.
    fn advance_prev_inputs(&mut self) {
        let mut changes = 0;
        for (i, (new, prev)) in self.vars.iter().zip(self.prev.iter_mut()).enumerate() {
            if *new != *prev {
                *prev = *new;
                changes |= 1 << i;
            }
        }
        self.input_changes = changes;
    }

    pub fn get_inp_link(&self, idx: usize) -> &[u8] {
        match idx {
            0 => self.inpa.as_bytes(),
            1 => self.inpb.as_bytes(),
            2 => self.inpc.as_bytes(),
            3 => self.inpd.as_bytes(),
            4 => self.inpe.as_bytes(),
            5 => self.inpf.as_bytes(),
            6 => self.inpg.as_bytes(),
            7 => self.inph.as_bytes(),
            8 => self.inpi.as_bytes(),
            9 => self.inpj.as_bytes(),
            10 => self.inpk.as_bytes(),
            11 => self.inpl.as_bytes(),
            12 => self.inpm.as_bytes(),
            13 => self.inpn.as_bytes(),
            14 => self.inpo.as_bytes(),
            15 => self.inpp.as_bytes(),
            16 => self.inpq.as_bytes(),
            17 => self.inpr.as_bytes(),
            18 => self.inps.as_bytes(),
            19 => self.inpt.as_bytes(),
            20 => self.inpu.as_bytes(),
            _ => b"",
        }
    }

    fn inp_link_mut(&mut self, idx: usize) -> Option<&mut PvString> {
        match idx {
            0 => Some(&mut self.inpa),
            1 => Some(&mut self.inpb),
            2 => Some(&mut self.inpc),
            3 => Some(&mut self.inpd),
            4 => Some(&mut self.inpe),
            5 => Some(&mut self.inpf),
            6 => Some(&mut self.inpg),
            7 => Some(&mut self.inph),
            8 => Some(&mut self.inpi),
            9 => Some(&mut self.inpj),
            10 => Some(&mut self.inpk),
            11 => Some(&mut self.inpl),
            12 => Some(&mut self.inpm),
            13 => Some(&mut self.inpn),
            14 => Some(&mut self.inpo),
            15 => Some(&mut self.inpp),
            16 => Some(&mut self.inpq),
            17 => Some(&mut self.inpr),
            18 => Some(&mut self.inps),
            19 => Some(&mut self.inpt),
            20 => Some(&mut self.inpu),
            _ => None,
        }
    }

    /// The single writer of `INPA..INPU`: stores the text and keeps `inp_set`
    /// in step. A slot past `INPU` is ignored, as [`Self::get_inp_link`]
    /// ignores it on the read side.
    pub fn set_inp_link(&mut self, slot: usize, text: impl Into<PvString>) {
        let Some(link) = self.inp_link_mut(slot) else {
            return;
        };
        *link = text.into();
        let wired = !link.is_empty();
        let bit = 1u64 << slot;
        if wired {
            self.inp_set |= bit;
        } else {
            self.inp_set &= !bit;
        }
        self.inp_generation += 1;
    }

    fn put_inp_link(
        &mut self,
        slot: usize,
        field: &'static str,
        value: EpicsValue,
    ) -> CaResult<()> {
        match value {
            EpicsValue::String(s) => {
                self.set_inp_link(slot, s);
                Ok(())
            }
            _ => Err(CaError::TypeMismatch(field.into())),
        }
    }

    /// Get input link strings for external processing.
    pub fn input_links(&self) -> [&[u8]; 21] {
        [
            &self.inpa, &self.inpb, &self.inpc, &self.inpd, &self.inpe, &self.inpf, &self.inpg,
            &self.inph, &self.inpi, &self.inpj, &self.inpk, &self.inpl, &self.inpm, &self.inpn,
            &self.inpo, &self.inpp, &self.inpq, &self.inpr, &self.inps, &self.inpt, &self.inpu,
        ]
        .map(PvString::as_bytes)
    }

    pub fn set_var(&mut self, idx: usize, val: f64) {
        if let Some(slot) = self.vars.get_mut(idx) {
            *slot = val;
        }
    }
}

/// `A`..`U` → 0..21, the index C's `calcPerform` uses into `&prec->a`.
fn var_index(name: &str) -> Option<usize> {
    match name.as_bytes() {
        [c @ b'A'..=b'U'] => Some(usize::from(c - b'A')),
        _ => None,
    }
}

use crate::server::record::dbd_generated::slots::calc as slots;

// `A`..`U` then `LA`..`LU`, contiguous in `calcRecord.dbd`: the
// `get_slot_f64` / `put_slot_f64` overrides index both blocks off `A`.
const _: () = assert!(
    slots::U.0 - slots::A.0 + 1 == crate::calc::CALC_NARGS as u16
        && slots::LA.0 == slots::U.0 + 1
        && slots::LU.0 - slots::LA.0 + 1 == crate::calc::CALC_NARGS as u16
);

/// `LA`..`LU` → 0..21, the same index into the previous-value block.
fn prev_index(name: &str) -> Option<usize> {
    match name.as_bytes() {
        [b'L', c @ b'A'..=b'U'] => Some(usize::from(c - b'A')),
        _ => None,
    }
}

impl Record for CalcRecord {
    /// C `monitor()` posts every input A..U when the alarm moved, changed or
    /// not: `if (*pnew != *pprev || monitor_mask & DBE_ALARM)` with
    /// `monitor_mask | DBE_VALUE | DBE_LOG` (calcRecord.c:418-420).
    fn alarm_cycle_monitored_fields(&self) -> crate::server::record::DeclaredFields {
        &const {
            crate::server::record::declared_set(
                crate::server::record::dbd_generated::CALC_FIELDS,
                CALC_INPUT_FIELDS,
            )
        }
    }

    /// C `monitor()` posts A..U against LA..LU, the record's own copies
    /// (calcRecord.c:415-423); `advance_prev_inputs` made the comparison.
    fn take_cycle_posted_fields(&mut self) -> crate::server::record::CycleMarks {
        use crate::server::record::{CycleMarks, CyclePostMask, uniform_post_table};
        static POSTS: [(crate::server::record::FieldIx, CyclePostMask); crate::calc::CALC_NARGS] =
            uniform_post_table(
                crate::server::record::dbd_generated::CALC_FIELDS,
                &CALC_INPUT_FIELDS,
                CyclePostMask::MonitorValueLog,
            );
        CycleMarks::of(&POSTS, u128::from(std::mem::take(&mut self.input_changes)))
    }

    fn fields_posted_only_when_marked(&self) -> &'static [&'static str] {
        &CALC_INPUT_FIELDS
    }

    /// `monitor()` posts VAL and A..U alone; LA..LU are written, never
    /// posted (calcRecord.c:415-423).
    fn process_posted_fields(&self) -> Option<crate::server::record::DeclaredFields> {
        static POSTED: [crate::server::record::FieldIx; 22] = crate::server::record::declared_set(
            crate::server::record::dbd_generated::CALC_FIELDS,
            [
                "VAL", "A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N", "O",
                "P", "Q", "R", "S", "T", "U",
            ],
        );
        Some(&POSTED)
    }

    /// The walk takes this cycle's A..U marks only when there are any.
    fn cycle_marked_fields(&self) -> bool {
        self.input_changes != 0
    }

    fn alarm_cycle_posts_value_log(&self) -> bool {
        true
    }

    fn acts_before_process(&self) -> bool {
        false
    }

    fn cycle_hooks(&self) -> crate::server::record::CycleHooks {
        crate::server::record::CycleHooks::INPUT_FETCH
    }

    fn has_array_monitor_post(&self) -> bool {
        false
    }

    fn record_type(&self) -> &'static str {
        "calc"
    }

    /// `calcRecord.c:161-167` `get_linkNumber` — `A`..`U` and `LA`..`LU` both
    /// read their units/precision/graphic/alarm from `INPA`..`INPU`.
    fn link_backed_metadata_field(&self, field: &str) -> Option<String> {
        crate::server::record::calc_class_link_backed_metadata_field(field)
    }

    fn init_record(&mut self, pass: u8) -> CaResult<()> {
        if pass == 1 {
            // C `calcRecord.c::init_record:105-110`, after the pass-0 return at
            // :98 — postfix() into RPCL; a
            // failure is logged (errlog + recGblRecordError) but does NOT abort
            // the record's init (`return 0`). Only `special()` refuses.
            //
            // Unconditional, exactly as in C: an empty CALC is `CALC_ERR_NULL_ARG`
            // there, and the empty program it leaves in RPCL is what makes the
            // record alarm on every process. Skipping the compile for an empty
            // CALC left the port with no program and no alarm.
            let compiled = calc_compile::postfix_into(&self.calc, &mut self.rpcl);
            self.report_bad_calc(&compiled, "calc: init_record: Illegal CALC field");
        }
        Ok(())
    }

    /// C `calcRecord.c::special` (lines 139-155). `SPC_CALC` re-compiles RPCL
    /// from the CALC string `dbPut` has already stored, and on failure returns
    /// `S_db_badField` — so the client's write FAILS while the bad expression
    /// stays stored and RPCL is left empty. calcout/scalcout/acalcout make the
    /// opposite choice (store the status in CLCV, accept the put); both
    /// dispositions run off the one compile owner, `calc_compile`.
    fn special(
        &mut self,
        field: &str,
        after: bool,
        _common: &crate::server::record::CommonFields,
    ) -> CaResult<()> {
        if !after || !field.eq_ignore_ascii_case("CALC") {
            return Ok(());
        }
        let compiled = calc_compile::postfix_into(&self.calc, &mut self.rpcl);
        self.put_report =
            compiled.put_report_in_expression("calc: Illegal CALC field", "CALC", &self.calc);
        let failed = compiled.error_str().is_some();
        if failed {
            return Err(CaError::BadField("calc: Illegal CALC field".into()));
        }
        Ok(())
    }

    fn take_put_report(&mut self) -> Option<crate::server::recgbl::PutReport> {
        self.put_report.take()
    }

    /// C hands the record its own name at `dbDefineRecord`; the port hands it
    /// over here. `special()` needs it to name the PV it is refusing.
    fn set_async_context(
        &mut self,
        name: crate::types::RecordName,
        _db: crate::server::database::AsyncDbHandle,
    ) {
        self.name = Some(name);
    }

    fn process(&mut self) -> CaResult<ProcessOutcome> {
        self.input_changes = 0;
        // C `calcRecord.c::process` (119-125):
        //
        // ```c
        // if (fetch_values(prec) == 0) {
        //     if (calcPerform(&prec->a, &prec->val, prec->rpcl)) {
        //         recGblSetSevr(prec, CALC_ALARM, INVALID_ALARM);
        //     } else
        //         prec->udf = isnan(prec->val);
        // }
        // ```
        //
        // A failed input link skips the whole calc: VAL and UDF freeze at the
        // previous cycle's values and CALC_ALARM is neither raised nor cleared.
        // The rest of the cycle is NOT skipped — the LA..LU advance below, the
        // alarm check, the monitors and the forward link all still run, and the
        // inputs that did read still refresh (C's fetch loop does not abort).
        if self.fetch_gate_failed {
            self.advance_prev_inputs();
            return Ok(ProcessOutcome::complete());
        }

        // C `calcRecord.c:121-123` — `calcPerform` runs unconditionally, and a
        // -1 is CALC_ALARM/INVALID with VAL left at its previous value. RPCL is
        // always a program, so there is no "no expression" case to improvise
        // around: an empty or uncompilable CALC IS the empty program, and the
        // engine fails it every cycle.
        // C `calcPerform(&prec->a, &prec->val, rpcl)`: the engine runs on the
        // record's own A..U, so a store opcode IS the field write and lands
        // before the result and before LA..LU advance — `monitor()` sees the
        // stored A against the old LA and posts it, as for an input that
        // changed. `presult = &val` makes the `VAL` token (`FETCH_VAL`,
        // calcPerform.c:73-74) push the *previous* VAL, seeded here from
        // `self.val` before it is overwritten below; otherwise `CALC="VAL+1"`
        // reads 0 every cycle instead of incrementing.
        let outcome = crate::calc::eval_in_place(&self.rpcl, &mut self.vars, self.val);
        match outcome {
            Ok(v) => {
                self.val = v;
                // C `:124` `else prec->udf = isnan(prec->val)` — this arm, and
                // only this arm, defines the record.
                self.value_computed = true;
            }
            Err(_) => self.calc_alarm = true,
        }
        self.advance_prev_inputs();

        // AFVL housekeeping — C `calcRecord.c::checkAlarms` always drives
        // AFVL to 0 when the alarm-range filter is inactive: on UDF
        // (line 302 `prec->afvl = 0`) and whenever `aftc <= 0` (the
        // local `afvl` stays 0 since the `aftc > 0` block is skipped, so
        // line 382 `prec->afvl = afvl` stores 0). The framework's AFTC
        // filter only *maintains* AFVL while `aftc > 0`; without this a
        // stale non-zero accumulator survives an AFTC→0 retune and would
        // mis-seed the filter if AFTC is later re-enabled.
        if self.aftc <= 0.0 || self.val.is_nan() {
            self.afvl = 0.0;
        }
        Ok(ProcessOutcome::complete())
    }

    /// C reads `prec->inpa..inpu` off the record and copies nothing; the generic
    /// `get_field` path hands back an owned `EpicsValue` per link, which is
    /// 21 clones on every cycle of a record that wires none of them.
    fn link_text_ref(&self, link_field: &str) -> Option<&[u8]> {
        // INPA..INPU differ in their last byte alone, so the cycle's 21 asks
        // cost one shape test and one indexed branch instead of 21 name
        // compares.
        let [b'I', b'N', b'P', slot] = *link_field.as_bytes() else {
            return None;
        };
        Some(match slot {
            b'A' => self.inpa.as_bytes(),
            b'B' => self.inpb.as_bytes(),
            b'C' => self.inpc.as_bytes(),
            b'D' => self.inpd.as_bytes(),
            b'E' => self.inpe.as_bytes(),
            b'F' => self.inpf.as_bytes(),
            b'G' => self.inpg.as_bytes(),
            b'H' => self.inph.as_bytes(),
            b'I' => self.inpi.as_bytes(),
            b'J' => self.inpj.as_bytes(),
            b'K' => self.inpk.as_bytes(),
            b'L' => self.inpl.as_bytes(),
            b'M' => self.inpm.as_bytes(),
            b'N' => self.inpn.as_bytes(),
            b'O' => self.inpo.as_bytes(),
            b'P' => self.inpp.as_bytes(),
            b'Q' => self.inpq.as_bytes(),
            b'R' => self.inpr.as_bytes(),
            b'S' => self.inps.as_bytes(),
            b'T' => self.inpt.as_bytes(),
            b'U' => self.inpu.as_bytes(),
            _ => return None,
        })
    }

    /// C `monitor()` and `checkAlarms` read these as struct members. `calc`
    /// declares no OVAL and no HYST (`calcRecord.dbd.pod`).
    fn cycle_cell(&self, cell: CycleCell) -> CycleRead {
        match cell {
            CycleCell::Val => CycleRead::Value(CycleValue::Double(self.val)),
            CycleCell::Mdel => CycleRead::Value(CycleValue::Double(self.mdel)),
            CycleCell::Adel => CycleRead::Value(CycleValue::Double(self.adel)),
            CycleCell::Mlst => CycleRead::Value(CycleValue::Double(self.mlst)),
            CycleCell::Alst => CycleRead::Value(CycleValue::Double(self.alst)),
            CycleCell::Lalm => CycleRead::Value(CycleValue::Double(self.lalm)),
            CycleCell::Aftc => CycleRead::Value(CycleValue::Double(self.aftc)),
            CycleCell::Afvl => CycleRead::Value(CycleValue::Double(self.afvl)),
            CycleCell::Oval | CycleCell::Hyst => CycleRead::Absent,
        }
    }

    fn put_cycle_cell(&mut self, cell: CycleCell, value: CycleValue) -> CaResult<()> {
        match (cell, value) {
            (CycleCell::Lalm, CycleValue::Double(v)) => self.lalm = v,
            (CycleCell::Alst, CycleValue::Double(v)) => self.alst = v,
            (CycleCell::Mlst, CycleValue::Double(v)) => self.mlst = v,
            (CycleCell::Afvl, CycleValue::Double(v)) => self.afvl = v,
            (cell, value) => return self.put_field(cell.name(), value.into()),
        }
        Ok(())
    }

    fn get_field(&self, name: &str) -> Option<EpicsValue> {
        if let Some(i) = var_index(name) {
            return Some(EpicsValue::Double(self.vars[i]));
        }
        if let Some(i) = prev_index(name) {
            return Some(EpicsValue::Double(self.prev[i]));
        }
        match name {
            "VAL" => Some(EpicsValue::Double(self.val)),
            "CALC" => Some(EpicsValue::String(self.calc.clone().into())),
            "EGU" => Some(EpicsValue::String(self.egu.clone())),
            "PREC" => Some(EpicsValue::Short(self.prec)),
            "HOPR" => Some(EpicsValue::Double(self.hopr)),
            "LOPR" => Some(EpicsValue::Double(self.lopr)),
            "ADEL" => Some(EpicsValue::Double(self.adel)),
            "MDEL" => Some(EpicsValue::Double(self.mdel)),
            "AFTC" => Some(EpicsValue::Double(self.aftc)),
            "AFVL" => Some(EpicsValue::Double(self.afvl)),
            "LALM" => Some(EpicsValue::Double(self.lalm)),
            "ALST" => Some(EpicsValue::Double(self.alst)),
            "MLST" => Some(EpicsValue::Double(self.mlst)),
            "INPA" => Some(EpicsValue::String(self.inpa.clone().into())),
            "INPB" => Some(EpicsValue::String(self.inpb.clone().into())),
            "INPC" => Some(EpicsValue::String(self.inpc.clone().into())),
            "INPD" => Some(EpicsValue::String(self.inpd.clone().into())),
            "INPE" => Some(EpicsValue::String(self.inpe.clone().into())),
            "INPF" => Some(EpicsValue::String(self.inpf.clone().into())),
            "INPG" => Some(EpicsValue::String(self.inpg.clone().into())),
            "INPH" => Some(EpicsValue::String(self.inph.clone().into())),
            "INPI" => Some(EpicsValue::String(self.inpi.clone().into())),
            "INPJ" => Some(EpicsValue::String(self.inpj.clone().into())),
            "INPK" => Some(EpicsValue::String(self.inpk.clone().into())),
            "INPL" => Some(EpicsValue::String(self.inpl.clone().into())),
            "INPM" => Some(EpicsValue::String(self.inpm.clone().into())),
            "INPN" => Some(EpicsValue::String(self.inpn.clone().into())),
            "INPO" => Some(EpicsValue::String(self.inpo.clone().into())),
            "INPP" => Some(EpicsValue::String(self.inpp.clone().into())),
            "INPQ" => Some(EpicsValue::String(self.inpq.clone().into())),
            "INPR" => Some(EpicsValue::String(self.inpr.clone().into())),
            "INPS" => Some(EpicsValue::String(self.inps.clone().into())),
            "INPT" => Some(EpicsValue::String(self.inpt.clone().into())),
            "INPU" => Some(EpicsValue::String(self.inpu.clone().into())),
            _ => None,
        }
    }

    fn put_field(&mut self, name: &str, value: EpicsValue) -> CaResult<()> {
        if let Some(i) = var_index(name) {
            return match value.to_f64() {
                Some(f) => {
                    self.vars[i] = f;
                    Ok(())
                }
                None => Err(CaError::TypeMismatch(name.into())),
            };
        }
        match name {
            "VAL" => match value {
                EpicsValue::Double(v) => {
                    self.val = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch("VAL".into())),
            },
            // C `dbPut` stores the string first and only then runs
            // `special(SPC_CALC)`, which is what re-compiles RPCL and decides
            // whether the put is accepted. `Self::special` owns both — a bad
            // expression must still be stored here (C stores it) so that
            // `caget calc.CALC` reads back what the client wrote.
            "CALC" => match value {
                EpicsValue::String(s) => {
                    self.calc = s.as_str_lossy().into_owned();
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch("CALC".into())),
            },
            "EGU" => match value {
                EpicsValue::String(s) => {
                    self.egu.set_bytes(s.as_bytes());
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "PREC" => match value {
                EpicsValue::Short(v) => {
                    self.prec = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "HOPR" => match value {
                EpicsValue::Double(v) => {
                    self.hopr = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "LOPR" => match value {
                EpicsValue::Double(v) => {
                    self.lopr = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "ADEL" => match value {
                EpicsValue::Double(v) => {
                    self.adel = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "MDEL" => match value {
                EpicsValue::Double(v) => {
                    self.mdel = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "AFTC" => match value {
                EpicsValue::Double(v) => {
                    self.aftc = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "AFVL" => match value {
                EpicsValue::Double(v) => {
                    self.afvl = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "LALM" => match value {
                EpicsValue::Double(v) => {
                    self.lalm = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "ALST" => match value {
                EpicsValue::Double(v) => {
                    self.alst = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "MLST" => match value {
                EpicsValue::Double(v) => {
                    self.mlst = v;
                    Ok(())
                }
                _ => Err(CaError::TypeMismatch(name.into())),
            },
            "INPA" => self.put_inp_link(0, "INPA", value),
            "INPB" => self.put_inp_link(1, "INPB", value),
            "INPC" => self.put_inp_link(2, "INPC", value),
            "INPD" => self.put_inp_link(3, "INPD", value),
            "INPE" => self.put_inp_link(4, "INPE", value),
            "INPF" => self.put_inp_link(5, "INPF", value),
            "INPG" => self.put_inp_link(6, "INPG", value),
            "INPH" => self.put_inp_link(7, "INPH", value),
            "INPI" => self.put_inp_link(8, "INPI", value),
            "INPJ" => self.put_inp_link(9, "INPJ", value),
            "INPK" => self.put_inp_link(10, "INPK", value),
            "INPL" => self.put_inp_link(11, "INPL", value),
            "INPM" => self.put_inp_link(12, "INPM", value),
            "INPN" => self.put_inp_link(13, "INPN", value),
            "INPO" => self.put_inp_link(14, "INPO", value),
            "INPP" => self.put_inp_link(15, "INPP", value),
            "INPQ" => self.put_inp_link(16, "INPQ", value),
            "INPR" => self.put_inp_link(17, "INPR", value),
            "INPS" => self.put_inp_link(18, "INPS", value),
            "INPT" => self.put_inp_link(19, "INPT", value),
            "INPU" => self.put_inp_link(20, "INPU", value),
            _ => Err(CaError::FieldNotFound(name.to_string())),
        }
    }

    /// C `calcRecord.c:103`: every CONSTANT input link is loaded into its value
    /// field ONCE, at `init_record` (`recGblInitConstantLink(plink,
    /// DBF_DOUBLE, pvalue)`); `dbGetLink` then delivers nothing for it on
    /// every later process, so a client's `caput REC.A 99` stands.
    fn constant_init_links(&self) -> Vec<crate::server::record::ConstantInitLink> {
        crate::server::record::seed_input_links(
            self.multi_input_links(),
            crate::server::record::SeedGuard::LoadLink,
        )
    }

    /// Answered off `inp_set`, which [`Self::set_inp_link`] keeps in step with
    /// the 21 `INPA..INPU` texts, so the cycle touches none of them.
    /// See [`Record::set_input_link_slots`].
    fn set_input_link_slots(&self) -> Option<(u64, u64)> {
        Some((self.inp_set, 0))
    }

    fn input_links_generation(&self) -> Option<u64> {
        Some(self.inp_generation)
    }

    crate::slot_map!(crate::server::record::dbd_generated::slots::calc;
        fields:
        VAL => val,
        EGU => egu,
        PREC => prec,
        HOPR => hopr,
        LOPR => lopr,
        AFTC => aftc,
        ADEL => adel,
        MDEL => mdel,
        A => vars[0],
        B => vars[1],
        C => vars[2],
        D => vars[3],
        E => vars[4],
        F => vars[5],
        G => vars[6],
        H => vars[7],
        I => vars[8],
        J => vars[9],
        K => vars[10],
        L => vars[11],
        M => vars[12],
        N => vars[13],
        O => vars[14],
        P => vars[15],
        Q => vars[16],
        R => vars[17],
        S => vars[18],
        T => vars[19],
        U => vars[20],
        LA => prev[0],
        LB => prev[1],
        LC => prev[2],
        LD => prev[3],
        LE => prev[4],
        LF => prev[5],
        LG => prev[6],
        LH => prev[7],
        LI => prev[8],
        LJ => prev[9],
        LK => prev[10],
        LL => prev[11],
        LM => prev[12],
        LN => prev[13],
        LO => prev[14],
        LP => prev[15],
        LQ => prev[16],
        LR => prev[17],
        LS => prev[18],
        LT => prev[19],
        LU => prev[20],
        AFVL => afvl,
        LALM => lalm,
        ALST => alst,
        MLST => mlst;
        custom: CALC, INPA, INPB, INPC, INPD, INPE, INPF, INPG, INPH, INPI, INPJ, INPK, INPL,
            INPM, INPN, INPO, INPP, INPQ, INPR, INPS, INPT, INPU;
        spill: HIHI, LOLO, HIGH, LOW, HHSV, LLSV, HSV, LSV, HYST);

    /// `slot_ref`'s value with no call per link read: the default's
    /// out-of-line `slot_ref` cost calc-link +29 instr/cycle.
    fn get_slot_f64(&self, slot: FieldSlot) -> Option<f64> {
        const N: usize = crate::calc::CALC_NARGS;
        let i = usize::from(slot.0.wrapping_sub(slots::A.0));
        if i < N {
            Some(self.vars[i])
        } else if i < 2 * N {
            Some(self.prev[i - N])
        } else if slot == slots::VAL {
            Some(self.val)
        } else {
            self.slot_ref(slot)?.to_f64()
        }
    }

    /// `A`..`U` only: the multi-input fetch is the one caller.
    fn put_slot_f64(&mut self, slot: FieldSlot, value: f64) -> bool {
        let i = usize::from(slot.0.wrapping_sub(slots::A.0));
        match self.vars.get_mut(i) {
            Some(v) => {
                *v = value;
                true
            }
            None => false,
        }
    }

    /// What `put_field` stores for `A`..`L`, without the three by-name
    /// lookups that precede it on the default path.
    fn put_multi_input_f64(&mut self, field: &'static str, value: f64) -> CaResult<()> {
        match var_index(field) {
            Some(i) => {
                self.vars[i] = value;
                Ok(())
            }
            None => self.put_field_internal(field, EpicsValue::Double(value)),
        }
    }

    fn multi_input_links(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("INPA", "A"),
            ("INPB", "B"),
            ("INPC", "C"),
            ("INPD", "D"),
            ("INPE", "E"),
            ("INPF", "F"),
            ("INPG", "G"),
            ("INPH", "H"),
            ("INPI", "I"),
            ("INPJ", "J"),
            ("INPK", "K"),
            ("INPL", "L"),
            ("INPM", "M"),
            ("INPN", "N"),
            ("INPO", "O"),
            ("INPP", "P"),
            ("INPQ", "Q"),
            ("INPR", "R"),
            ("INPS", "S"),
            ("INPT", "T"),
            ("INPU", "U"),
        ]
    }

    /// C `calcRecord.c::fetch_values` (427-443) reads every INP link and keeps
    /// the FIRST failing status; `process` (120) gates `calcPerform` on it.
    fn input_fetch_policy(&self) -> InputFetchPolicy {
        InputFetchPolicy::ReadAllGateOnFailure
    }

    fn set_fetch_gate_failed(&mut self, failed: bool) {
        self.fetch_gate_failed = failed;
    }

    /// C `calcRecord.c::process` writes `prec->udf` only inside the
    /// `fetch_values` gate AND only on the `calcPerform` success arm (`:120-124`),
    /// so a cycle whose input link failed, or whose CALC errored, leaves UDF at
    /// its previous value and keeps CALC_ALARM's INVALID standing alone. The
    /// framework's per-cycle blanket re-derived it from VAL on those cycles and
    /// reported a never-computed record as defined. The write lives on the
    /// success arm now — see [`Self::check_alarms`].
    fn clears_udf(&self) -> bool {
        false
    }

    /// C `calcRecord.c:121-123` — a failed `calcPerform` is
    /// `recGblSetSevr(prec, CALC_ALARM, INVALID_ALARM)`, raised in `process()`
    /// BEFORE `checkAlarms(prec)` runs its UDF guard (`:300-303`). So when a
    /// broken CALC leaves VAL undefined, C reports CALC_ALARM, not UDF_ALARM:
    /// `recGblSetSevr` is MAXIMIZE (strict `>`), and both are INVALID.
    ///
    /// Consuming the flag makes it a per-cycle fact: a cycle whose input fetch
    /// failed runs no `calcPerform` (`:120`) and therefore raises nothing — the
    /// stale flag used to re-raise CALC_ALARM on every gated cycle.
    fn check_alarms(&mut self, common: &mut crate::server::record::CommonFields) {
        // C `calcRecord.c:124` — `prec->udf = isnan(prec->val)`, written by the
        // successful `calcPerform` and by nothing else. Applied here because
        // `check_alarms` is the record's only hook holding `CommonFields`, and
        // it runs before `recGblCheckUDF`, matching C's `process` → `checkAlarms`
        // order.
        if std::mem::take(&mut self.value_computed) {
            common.udf = self.value_is_undefined() as u8;
        }
        if std::mem::take(&mut self.calc_alarm) {
            // C `calcRecord.c:122` uses PLAIN `recGblSetSevr(prec, CALC_ALARM,
            // INVALID_ALARM)` — a NULL message (empty namsg). PVA then serves
            // the "CALC" condition string (iocsource.cpp:230-236), which is
            // exactly what pvxs QSRV2 serves. No fabricated amsg literal.
            crate::server::recgbl::rec_gbl_set_sevr(
                common,
                crate::server::recgbl::alarm_status::CALC_ALARM,
                crate::server::record::AlarmSeverity::Invalid,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The `VAL` token in a CALC expression must read the *previous* result
    /// value (C `calcPerform` `FETCH_VAL` with `presult = &val`), so a
    /// self-referential `CALC="VAL+1"` counts up. Before the prev_val seed it
    /// read 0 every cycle and stuck at 1.
    #[test]
    fn calc_val_token_reads_previous_val() {
        let mut rec = CalcRecord::new("VAL+1");
        rec.init_record(0).unwrap();
        rec.process().unwrap();
        assert_eq!(rec.val, 1.0);
        rec.process().unwrap();
        assert_eq!(rec.val, 2.0);
        rec.process().unwrap();
        assert_eq!(rec.val, 3.0);
    }

    /// RPCL holds `postfix()`'s bytes: FETCH_VAL, LITERAL_INT 1, ADD, END.
    #[test]
    fn rpcl_is_the_c_postfix() {
        let rec = CalcRecord::new("VAL+1");
        assert_eq!(rec.rpcl.as_ref()[..8], [3, 2, 1, 0, 0, 0, 50, 0]);
    }

    /// A program longer than C's 560-byte RPCL is a failed compile, not a
    /// longer buffer.
    #[test]
    fn a_program_past_the_rpcl_size_fails_to_compile() {
        let long = vec!["1.5"; 60].join("+");
        let mut rpcl = crate::calc::Rpcl::<CALC_RPCL_SIZE>::empty();
        let compiled = calc_compile::postfix_into(&long, &mut rpcl);
        assert_eq!(compiled.status, calc_compile::POSTFIX_ERR);
        assert!(rpcl.is_empty());
        let fits = vec!["1.5"; 56].join("+");
        let compiled = calc_compile::postfix_into(&fits, &mut rpcl);
        assert_eq!(compiled.status, calc_compile::POSTFIX_OK);
        assert!(!rpcl.is_empty());
    }
}
