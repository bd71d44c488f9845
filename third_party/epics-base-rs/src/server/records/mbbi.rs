use crate::error::{CaError, CaResult};
use crate::server::record::{CycleCell, CycleRead, CycleValue};
use crate::server::record::{MENU_SIMM, ProcessOutcome, RawSoftEntry, Record};
use crate::types::{EpicsValue, PvString};

/// Multi-bit binary input record — manual Record impl for raw↔index conversion.
pub struct MbbiRecord {
    pub val: u16,
    // RVAL/ORAW/MASK are DBF_ULONG (mbbiRecord.dbd.pod:604,608,613) — u32
    // storage so high-bit (>= 2^31) raw/mask values round-trip without
    // sign loss; served as EpicsValue::ULong.
    pub rval: u32,
    pub oraw: u32,
    pub mask: u32,
    // SHFT/NOBT/MLST/LALM are DBF_USHORT (mbbiRecord.dbd.pod:633,133,618,623).
    pub shft: u16,
    pub nobt: u16,
    pub mlst: u16,
    pub lalm: u16,
    pub zrsv: i16,
    pub onsv: i16,
    pub twsv: i16,
    pub thsv: i16,
    pub frsv: i16,
    pub fvsv: i16,
    pub sxsv: i16,
    pub svsv: i16,
    pub eisv: i16,
    pub nisv: i16,
    pub tesv: i16,
    pub elsv: i16,
    pub tvsv: i16,
    pub ttsv: i16,
    pub ftsv: i16,
    pub ffsv: i16,
    pub unsv: i16,
    pub cosv: i16,
    /// Alarm filter time constant (seconds). 0 = disabled.
    /// See `BiRecord::aftc` — same low-pass filter on alarm severity.
    pub aftc: f64,
    /// Alarm filter accumulator. 0 = initial sample.
    pub afvl: f64,
    // State raw values ZRVL..FFVL are DBF_ULONG (mbbiRecord.dbd.pod:144-264).
    pub zrvl: u32,
    pub onvl: u32,
    pub twvl: u32,
    pub thvl: u32,
    pub frvl: u32,
    pub fvvl: u32,
    pub sxvl: u32,
    pub svvl: u32,
    pub eivl: u32,
    pub nivl: u32,
    pub tevl: u32,
    pub elvl: u32,
    pub tvvl: u32,
    pub ttvl: u32,
    pub ftvl: u32,
    pub ffvl: u32,
    pub zrst: PvString,
    pub onst: PvString,
    pub twst: PvString,
    pub thst: PvString,
    pub frst: PvString,
    pub fvst: PvString,
    pub sxst: PvString,
    pub svst: PvString,
    pub eist: PvString,
    pub nist: PvString,
    pub test: PvString,
    pub elst: PvString,
    pub tvst: PvString,
    pub ttst: PvString,
    pub ftst: PvString,
    pub ffst: PvString,
    pub simm: i16,
    pub siml: PvString,
    pub siol: PvString,
    // SVAL is `DBF_ULONG` (mbbiRecord.dbd.pod:299-301) — the BUFFER C's
    // `readValue` reads SIOL into (`dbGetLink(&prec->siol, DBR_ULONG,
    // &prec->sval)`, mbbiRecord.c:388) before publishing `val = sval`.
    pub sval: u32,
    pub sims: i16,
    pub sdly: f64,
    skip_convert: bool,
    /// `special()` re-labelled the state VAL sits on; the put drains it.
    label_post: bool,
    /// C's DBF_SHORT `sdef`: a `.db` value until `init_common`
    /// writes it, and C tests it as nonzero.
    pub sdef: i16,
}

impl Default for MbbiRecord {
    fn default() -> Self {
        Self {
            val: 0,
            rval: 0,
            oraw: 0,
            mask: 0,
            shft: 0,
            nobt: 0,
            mlst: 0,
            lalm: 0,
            zrsv: 0,
            onsv: 0,
            twsv: 0,
            thsv: 0,
            frsv: 0,
            fvsv: 0,
            sxsv: 0,
            svsv: 0,
            eisv: 0,
            nisv: 0,
            tesv: 0,
            elsv: 0,
            tvsv: 0,
            ttsv: 0,
            ftsv: 0,
            ffsv: 0,
            unsv: 0,
            cosv: 0,
            aftc: 0.0,
            afvl: 0.0,
            zrvl: 0,
            onvl: 0,
            twvl: 0,
            thvl: 0,
            frvl: 0,
            fvvl: 0,
            sxvl: 0,
            svvl: 0,
            eivl: 0,
            nivl: 0,
            tevl: 0,
            elvl: 0,
            tvvl: 0,
            ttvl: 0,
            ftvl: 0,
            ffvl: 0,
            zrst: PvString::new(),
            onst: PvString::new(),
            twst: PvString::new(),
            thst: PvString::new(),
            frst: PvString::new(),
            fvst: PvString::new(),
            sxst: PvString::new(),
            svst: PvString::new(),
            eist: PvString::new(),
            nist: PvString::new(),
            test: PvString::new(),
            elst: PvString::new(),
            tvst: PvString::new(),
            ttst: PvString::new(),
            ftst: PvString::new(),
            ffst: PvString::new(),
            simm: 0,
            siml: PvString::new(),
            siol: PvString::new(),
            sval: 0,
            sims: 0,
            sdly: -1.0,
            skip_convert: false,
            label_post: false,
            sdef: 0,
        }
    }
}

impl MbbiRecord {
    pub fn new(val: u16) -> Self {
        Self {
            val,
            ..Default::default()
        }
    }

    /// ZRVL..FFVL, C's `(&prec->zrvl)[i]`.
    pub fn raw_values(&self) -> [u32; 16] {
        [
            self.zrvl, self.onvl, self.twvl, self.thvl, self.frvl, self.fvvl, self.sxvl, self.svvl,
            self.eivl, self.nivl, self.tevl, self.elvl, self.tvvl, self.ttvl, self.ftvl, self.ffvl,
        ]
    }

    /// C `mbbiRecord.c::init_common` (91-105) — "check if any states are
    /// defined": TRUE as soon as one of ZRVL..FFVL is non-zero or one of
    /// ZRST..FFST is non-empty. C calls it from `init_record` AFTER the dset's
    /// `init_record` (`:135`), so SDEF is 0 while the device initialises, and
    /// from `special()` after a put to any of the 32 state fields (`:221`).
    fn init_common(&mut self) {
        let rvs = self.raw_values();
        let sts = self.state_strings();
        self.sdef = i16::from((0..16).any(|i| rvs[i] != 0 || !sts[i].is_empty()));
    }

    /// C's `if (prec->sdef)`.
    pub fn sdef(&self) -> bool {
        self.sdef != 0
    }

    /// ZRST..FFST, C's `(&prec->zrst)[i]`.
    pub fn state_strings(&self) -> [&PvString; 16] {
        [
            &self.zrst, &self.onst, &self.twst, &self.thst, &self.frst, &self.fvst, &self.sxst,
            &self.svst, &self.eist, &self.nist, &self.test, &self.elst, &self.tvst, &self.ttst,
            &self.ftst, &self.ffst,
        ]
    }

    fn raw_to_val(&self, raw: u32) -> u16 {
        if !self.sdef() {
            return raw as u16;
        }
        let rvs = self.raw_values();
        for (i, &rv) in rvs.iter().enumerate() {
            if rv == raw {
                return i as u16;
            }
        }
        65535
    }

    /// Per-state severity fields ZRSV..FFSV indexed by state 0..15.
    fn state_severities(&self) -> [i16; 16] {
        [
            self.zrsv, self.onsv, self.twsv, self.thsv, self.frsv, self.fvsv, self.sxsv, self.svsv,
            self.eisv, self.nisv, self.tesv, self.elsv, self.tvsv, self.ttsv, self.ftsv, self.ffsv,
        ]
    }
}

/// Helper macro: maps EPICS field name strings to struct fields.
macro_rules! mbb_get_field {
    // `String`-tagged fields (the SIML/SIOL link grammar) store a Rust
    // `String`; `EpicsValue::String` wraps `PvString`, so convert with
    // `.into()`.
    (@get $self:expr, $field:ident, String) => {
        Some(EpicsValue::String($self.$field.clone().into()))
    };
    // `PvStr`-tagged fields are genuine DBF_STRING state-name data
    // (`field(ZRST..FFST,DBF_STRING) size(26)` in `mbbiRecord.dbd`),
    // stored byte-for-byte in a `PvString`, so the bytes pass through
    // verbatim — a non-UTF-8 state string round-trips unchanged.
    (@get $self:expr, $field:ident, PvStr) => {
        Some(EpicsValue::String($self.$field.clone()))
    };
    (@get $self:expr, $field:ident, $variant:ident) => {
        Some(EpicsValue::$variant($self.$field.clone()))
    };
    ($self:expr, $name:expr, $( $str:literal => $field:ident : $variant:ident ),* $(,)?) => {
        match $name {
            // C `mbbiRecord.c:53` is `#define cvt_dbaddr NULL` — unlike mbbo,
            // mbbi never re-types VAL, so it is DBF_ENUM with or without a
            // state table.
            "VAL" => Some(EpicsValue::Enum($self.val)),
            // `field(SDEF,DBF_SHORT) { special(SPC_NOMOD) }`
            // (mbbiRecord.dbd.pod:628) — readable over CA, never writable.
            "SDEF" => Some(EpicsValue::Short($self.sdef)),
            $( $str => mbb_get_field!(@get $self, $field, $variant), )*
            _ => None,
        }
    };
}

macro_rules! mbb_put_field {
    // `String`-tagged fields (the SIML/SIOL link grammar) store a Rust
    // `String`; the extracted payload is a `PvString`, so convert with
    // `.as_str_lossy().into_owned()`.
    (@put $self:expr, $field:ident, String, $value:expr, $name:expr) => {
        if let EpicsValue::String(v) = $value {
            $self.$field = v;
        } else {
            return Err(CaError::TypeMismatch($name.into()));
        }
    };
    // `PvStr`-tagged fields are genuine DBF_STRING state-name data stored
    // in a `PvString`; move the wire bytes in verbatim so a non-UTF-8
    // state string is preserved.
    (@put $self:expr, $field:ident, PvStr, $value:expr, $name:expr) => {
        if let EpicsValue::String(v) = $value {
            $self.$field = v;
        } else {
            return Err(CaError::TypeMismatch($name.into()));
        }
    };
    // DBF_ULONG fields (RVAL/ORAW/MASK/ZRVL..FFVL): accept the native
    // unsigned carrier and tolerate the legacy signed `Long` that device
    // support / autosave presented before these were retyped to their true
    // unsigned dbd type (mbbiRecord.dbd.pod). The reinterpret preserves the
    // bit pattern, so a high-bit value round-trips.
    (@put $self:expr, $field:ident, ULong, $value:expr, $name:expr) => {
        $self.$field = match $value {
            EpicsValue::ULong(v) => v,
            EpicsValue::Long(v) => v as u32,
            _ => return Err(CaError::TypeMismatch($name.into())),
        };
    };
    // DBF_USHORT fields (NOBT/SHFT/MLST/LALM): accept the native unsigned
    // carrier and tolerate the legacy `Enum`/`Short` carriers.
    (@put $self:expr, $field:ident, UShort, $value:expr, $name:expr) => {
        $self.$field = match $value {
            EpicsValue::UShort(v) => v,
            EpicsValue::Enum(v) => v,
            EpicsValue::Short(v) => v as u16,
            _ => return Err(CaError::TypeMismatch($name.into())),
        };
    };
    (@put $self:expr, $field:ident, $variant:ident, $value:expr, $name:expr) => {
        if let EpicsValue::$variant(v) = $value {
            $self.$field = v;
        } else {
            return Err(CaError::TypeMismatch($name.into()));
        }
    };
    ($self:expr, $name:expr, $value:expr, $( $str:literal => $field:ident : $variant:ident ),* $(,)?) => {
        match $name {
            "VAL" => {
                match $value {
                    EpicsValue::Enum(v) => { $self.val = v; }
                    EpicsValue::Long(v) => { $self.val = v as u16; }
                    EpicsValue::Short(v) => { $self.val = v as u16; }
                    // C rset `put_enum_str` — the one string→state converter.
                    EpicsValue::String(ref s) => {
                        let resolved = crate::server::record::resolve_enum_state_string("VAL", &*$self,
                            s,
                        )?;
                        if let EpicsValue::Enum(v) = resolved { $self.val = v; }
                    }
                    _ => return Err(CaError::TypeMismatch("VAL".into())),
                }
            }
            $( $str => { mbb_put_field!(@put $self, $field, $variant, $value, $str); } )*
            _ => return Err(CaError::FieldNotFound($name.to_string())),
        }
    };
}

impl Record for MbbiRecord {
    crate::slot_map!(crate::server::record::dbd_generated::slots::mbbi;
        fields:
        RVAL => rval,
        SDEF => sdef;
        custom: VAL, NOBT, ZRVL, ONVL, TWVL, THVL, FRVL, FVVL, SXVL, SVVL, EIVL, NIVL, TEVL,
            ELVL, TVVL, TTVL, FTVL, FFVL,
            ZRST => zrst, ONST => onst, TWST => twst, THST => thst, FRST => frst, FVST => fvst,
            SXST => sxst, SVST => svst, EIST => eist, NIST => nist, TEST => test, ELST => elst,
            TVST => tvst, TTST => ttst, FTST => ftst, FFST => ffst,
            ZRSV, ONSV, TWSV, THSV, FRSV, FVSV, SXSV,
            SVSV, EISV, NISV, TESV, ELSV, TVSV, TTSV, FTSV, FFSV, AFTC, AFVL, UNSV, COSV, ORAW,
            MASK, MLST, LALM, SHFT, SIOL, SVAL, SIML, SIMM, SIMS, SDLY;
        spill: INP, OLDSIMM, SSCN, SIMPVT);

    /// `mbbiRecord.c:126` loads a constant SIOL as `DBF_USHORT` into the ULONG SVAL.
    fn siol_load_type(&self) -> Option<crate::types::DbFieldType> {
        Some(crate::types::DbFieldType::UShort)
    }

    fn acts_before_process(&self) -> bool {
        false
    }

    fn cycle_hooks(&self) -> crate::server::record::CycleHooks {
        crate::server::record::CycleHooks::WRITE_POSTED
    }

    /// `mbbiRecord.c:135`
    fn after_dset_init(&mut self) {
        self.init_common();
    }

    fn state_table_written(&mut self) {
        self.init_common();
    }

    /// `mbbiRecord.c:133-140` keeps the dset status for the return and seeds
    /// regardless of it, after the dset init has loaded RVAL.
    fn seed_deadband_tracking(&mut self, _dset_init: crate::server::device_support::DsetInit) {
        crate::server::record::seed_trackers_from_val(self);
        self.oraw = self.rval;
    }

    /// UDF belongs to the dset here, not to `process()`. C
    /// `mbbiRecord.c:168-193` assigns `prec->udf = FALSE` at `:174`, INSIDE
    /// `if (status == 0)`, and folds `2` into `0` only at `:192-193`, so a
    /// device support that wrote VAL never reaches the assignment.
    ///
    /// That is not a hole: the C dset that returns 2 writes `prec->udf`
    /// itself first — `devMbbiSoft.c:55-60` — which the port states as
    /// `DeviceUdf::Defined`.
    fn rederives_udf_on_computed_read(&self) -> bool {
        false
    }

    fn record_type(&self) -> &'static str {
        "mbbi"
    }

    /// devmbbiStream.c reads and writes the `mbbiRecord` members itself.
    fn as_any_mut(&mut self) -> Option<&mut dyn std::any::Any> {
        Some(self)
    }

    /// devMbbiSoft.c and devMbbiSoftRaw.c return `dbGetLink`'s status.
    fn process_status_rule(&self) -> crate::server::record::ProcessStatusRule {
        crate::server::record::ProcessStatusRule::io(crate::server::record::SoftStatus {
            plain: true,
            raw: true,
            async_: false,
        })
    }

    /// C `mbbiRecord.c:221-226` — the `db_post_events` inside `special()`
    /// after a `SPC_MOD` write:
    ///
    /// ```c
    /// if (fieldIndex >= mbbiRecordZRST && fieldIndex <= mbbiRecordFFST
    ///         && prec->val == fieldIndex - mbbiRecordZRST) {
    ///     db_post_events(prec, &prec->val, DBE_VALUE | DBE_LOG);
    /// }
    /// ```
    ///
    /// Re-labelling the state VAL currently sits on changes what a
    /// `DBR_*_STRING` subscriber renders without changing VAL, so C posts VAL
    /// to push the new label out; every operator display reads a `mbbi` as
    /// a string. The equality is the whole gate — editing any OTHER state's
    /// label posts nothing, because no subscriber's rendering moved.
    ///
    /// ZRVL..FFVL are `SPC_MOD` too, and C's own comment there says so, but they
    /// fall outside the index range and post nothing; they reach only
    /// `init_common` (`Self::special`).
    fn take_cycle_posted_fields(&mut self) -> crate::server::record::CycleMarks {
        const VAL_POST_NAMED: [(&str, crate::server::record::CyclePostMask); 1] =
            [("VAL", crate::server::record::CyclePostMask::ValueLog)];
        static VAL_POST: [(
            crate::server::record::FieldIx,
            crate::server::record::CyclePostMask,
        ); 1] = crate::server::record::declared_post_table(
            crate::server::record::dbd_generated::MBBI_FIELDS,
            VAL_POST_NAMED,
        );
        crate::server::record::CycleMarks::of(
            &VAL_POST,
            u128::from(std::mem::take(&mut self.label_post)),
        )
    }

    /// `SIMM` is `DBF_MENU menu(menuSimm)` (`mbbiRecord.dbd.pod`): the
    /// multibit records carry the three-choice NO/YES/RAW simulation menu.
    /// Served as `DBR_ENUM` with these labels. The state severities and
    /// `SIMS`/`OLDSIMM` are shared menus resolved centrally.
    fn menu_field_choices(&self, field: &str) -> Option<&'static [&'static str]> {
        match field {
            "SIMM" => Some(MENU_SIMM),
            _ => None,
        }
    }

    /// `devMbbiSoft.c:51` reads INP as `DBR_USHORT`, `devMbbiSoftRaw.c:55` as
    /// `DBR_LONG`, `devMbbiSoftCallback.c:62` as `DBR_ENUM`.
    fn soft_input_request(
        &self,
        soft: crate::server::device_support::SoftDtyp,
    ) -> crate::server::record::InputLinkRequest {
        use crate::server::device_support::SoftDtyp;
        use crate::server::record::{InputLinkRequest, LinkReadAs};
        InputLinkRequest::As(match soft {
            SoftDtyp::Plain => LinkReadAs::UShort,
            SoftDtyp::Raw => LinkReadAs::Long,
            SoftDtyp::Async => LinkReadAs::Enum,
        })
    }

    /// The Plain dset's `DBR_USHORT` read: VAL is that state index.
    fn soft_input_read_u16(
        &mut self,
        value: u16,
        _dpvt: &mut crate::server::device_support::Dpvt,
    ) -> CaResult<()> {
        self.val = value;
        Ok(())
    }

    fn special(
        &mut self,
        field: &str,
        after: bool,
        _common: &crate::server::record::CommonFields,
    ) -> CaResult<()> {
        // Every state string is `??ST`; a VAL put skips the name scan.
        if after && field.len() == 4 && field.as_bytes()[2..].eq_ignore_ascii_case(b"ST") {
            self.label_post =
                crate::server::record::multibit_state_string_index(field) == Some(self.val);
        }
        if after && crate::server::record::multibit_state_field(field) {
            self.init_common();
        }
        Ok(())
    }

    /// `devMbbiSoftRaw` reads INP as `DBR_LONG` but loads a constant one as
    /// `DBF_ULONG` (`devMbbiSoftRaw.c:42`), so `4294967295` loads and does not
    /// read.
    fn soft_input_load_type(
        &self,
        soft: crate::server::device_support::SoftDtyp,
    ) -> Option<crate::types::DbFieldType> {
        use crate::server::device_support::SoftDtyp;
        use crate::types::DbFieldType;
        Some(match soft {
            SoftDtyp::Raw => DbFieldType::ULong,
            SoftDtyp::Plain | SoftDtyp::Async => DbFieldType::UShort,
        })
    }

    /// C `devMbbiSoftRaw` — `recGblInitConstantLink(&prec->inp, DBF_ULONG,
    /// &prec->rval)` at init (`devMbbiSoftRaw.c:42`, unmasked), and per read
    /// `dbGetLink(pinp, DBR_LONG, &prec->rval, 0, 0)` (`:55`) followed by
    /// `prec->rval &= prec->mask` (`:74`, unconditional in MASK — unlike `bi`,
    /// whose dset masks only when MASK is non-zero). `read_mbbi` returns 0, so the
    /// record's `RVAL >> SHFT` → state-index convert then runs.
    /// `devXxxSoftRaw::init_record`'s mask (see `raw_soft_dset_mask`).
    fn init_soft_dset(&mut self, soft: crate::server::device_support::SoftDtyp) {
        if soft == crate::server::device_support::SoftDtyp::Raw {
            self.mask = super::raw_soft_dset_mask(self.mask, self.nobt == 0, self.shft);
        }
    }

    fn raw_soft_input(&mut self, entry: RawSoftEntry, value: EpicsValue) -> Option<CaResult<()>> {
        self.rval = match super::raw_soft_rval_u32("mbbi", &value) {
            Ok(rval) => rval,
            Err(e) => return Some(Err(e)),
        };
        if entry == RawSoftEntry::Read {
            self.rval &= self.mask;
        }
        Some(Ok(()))
    }

    /// C rset `get_enum_strs`/`put_enum_str` (mbbiRecord.c:251-291) — ZRST..FFST
    /// cut at the last non-empty state.
    fn enum_state_strings(&self) -> Option<Vec<PvString>> {
        Some(crate::server::record::multibit_enum_states([
            &self.zrst, &self.onst, &self.twst, &self.thst, &self.frst, &self.fvst, &self.sxst,
            &self.svst, &self.eist, &self.nist, &self.test, &self.elst, &self.tvst, &self.ttst,
            &self.ftst, &self.ffst,
        ]))
    }

    fn enum_str_state(&self, name: &PvString) -> Option<u16> {
        crate::server::record::multibit_enum_str_state(
            self.sdef(),
            [
                &self.zrst, &self.onst, &self.twst, &self.thst, &self.frst, &self.fvst, &self.sxst,
                &self.svst, &self.eist, &self.nist, &self.test, &self.elst, &self.tvst, &self.ttst,
                &self.ftst, &self.ffst,
            ],
            name,
        )
    }

    /// C `get_enum_str` (mbbiRecord.c:235-255): any `val <= 15` reads its state slot,
    /// defined or not, so an unset state renders EMPTY; past 15 it is
    /// `"Illegal Value"`. `enum_state_strings` above stops at the last
    /// non-empty state because `no_str` says how many labels are meaningful —
    /// that trim must never reach this read, or an undefined state comes back
    /// as its index, which no C IOC emits.
    fn enum_slots(&self) -> Option<crate::server::record::EnumSlots<'_>> {
        Some(crate::server::record::EnumSlots::Multibit([
            &self.zrst, &self.onst, &self.twst, &self.thst, &self.frst, &self.fvst, &self.sxst,
            &self.svst, &self.eist, &self.nist, &self.test, &self.elst, &self.tvst, &self.ttst,
            &self.ftst, &self.ffst,
        ]))
    }

    /// C `mbbiRecord.c:355-358` `monitor()`: `if (prec->mlst != prec->val) { events |=
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

    fn init_record(&mut self, pass: u8) -> CaResult<()> {
        if pass == 1 {
            // C `mbbiRecord.c:129-130`, after the pass-0 return.
            if self.mask == 0 && self.nobt > 0 && self.nobt <= 32 {
                self.mask = ((1i64 << self.nobt) - 1) as u32;
            }
        }
        Ok(())
    }

    fn process(&mut self) -> CaResult<ProcessOutcome> {
        if !self.skip_convert {
            let mut rval = self.rval;
            if self.shft > 0 {
                // C `mbbiRecord.c:175-176` does `rval >>= prec->shft`
                // on a 32-bit `epicsUInt32`. A CA-written SHFT >= 32
                // makes that shift UB in C (no crash). Rust `>>`
                // panics in debug builds; `checked_shr` mapped to 0
                // matches the defined fully-shifted-out result.
                rval = rval.checked_shr(self.shft as u32).unwrap_or(0);
            }
            self.val = self.raw_to_val(rval);
        }
        self.skip_convert = false;
        Ok(ProcessOutcome::complete())
    }

    /// C `mbbiRecord.c:363-366` posts RVAL with `events | DBE_VALUE |
    /// DBE_LOG` outside the `if (events)` that gates VAL.
    fn fields_posted_with_value_mask(
        &self,
    ) -> &'static [(&'static str, crate::server::record::ValuePostGate)] {
        &[("RVAL", crate::server::record::ValuePostGate::OnChangeForced)]
    }

    /// `monitor()` decides RVAL from the record's own `oraw`, so the
    /// framework keeps no published copy of it.
    fn fields_posted_only_when_marked(&self) -> &'static [&'static str] {
        &["RVAL"]
    }

    /// `monitor()` posts VAL and RVAL alone (`mbbiRecord.c:349-367`).
    fn process_posted_fields(&self) -> Option<crate::server::record::DeclaredFields> {
        Some(
            &const {
                crate::server::record::declared_set(
                    crate::server::record::dbd_generated::MBBI_FIELDS,
                    ["VAL", "RVAL"],
                )
            },
        )
    }

    /// C `if (prec->oraw != prec->rval) { ...; prec->oraw = prec->rval; }`
    /// (`mbbiRecord.c:363-366`), minus the post. Outside init, `monitor()` is
    /// the only writer of `oraw`.
    fn take_secondary_value_changes(
        &mut self,
        _value_mask: crate::server::recgbl::EventMask,
    ) -> crate::server::record::SecondaryTake {
        crate::server::record::SecondaryTake::unguarded(u64::from(
            crate::server::record::SecondaryTake::advance(&mut self.oraw, self.rval),
        ))
    }

    fn link_text_ref(&self, link_field: &str) -> Option<&[u8]> {
        match link_field {
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
            CycleCell::Aftc => CycleRead::Value(CycleValue::Double(self.aftc)),
            CycleCell::Afvl => CycleRead::Value(CycleValue::Double(self.afvl)),
            _ => CycleRead::Absent,
        }
    }

    fn get_field(&self, name: &str) -> Option<EpicsValue> {
        mbb_get_field!(self, name,
            "RVAL" => rval: ULong, "ORAW" => oraw: ULong, "MASK" => mask: ULong,
            "SHFT" => shft: UShort, "MLST" => mlst: UShort, "LALM" => lalm: UShort,
            "NOBT" => nobt: UShort,
            "SIMM" => simm: Short, "SIML" => siml: String, "SIOL" => siol: String,
            "SVAL" => sval: ULong, "SIMS" => sims: Short,
            "SDLY" => sdly: Double,
            "ZRSV" => zrsv: Short, "ONSV" => onsv: Short, "TWSV" => twsv: Short, "THSV" => thsv: Short,
            "FRSV" => frsv: Short, "FVSV" => fvsv: Short, "SXSV" => sxsv: Short, "SVSV" => svsv: Short,
            "EISV" => eisv: Short, "NISV" => nisv: Short, "TESV" => tesv: Short, "ELSV" => elsv: Short,
            "TVSV" => tvsv: Short, "TTSV" => ttsv: Short, "FTSV" => ftsv: Short, "FFSV" => ffsv: Short,
            "UNSV" => unsv: Short, "COSV" => cosv: Short,
            "AFTC" => aftc: Double, "AFVL" => afvl: Double,
            "ZRVL" => zrvl: ULong, "ONVL" => onvl: ULong, "TWVL" => twvl: ULong, "THVL" => thvl: ULong,
            "FRVL" => frvl: ULong, "FVVL" => fvvl: ULong, "SXVL" => sxvl: ULong, "SVVL" => svvl: ULong,
            "EIVL" => eivl: ULong, "NIVL" => nivl: ULong, "TEVL" => tevl: ULong, "ELVL" => elvl: ULong,
            "TVVL" => tvvl: ULong, "TTVL" => ttvl: ULong, "FTVL" => ftvl: ULong, "FFVL" => ffvl: ULong,
            "ZRST" => zrst: PvStr, "ONST" => onst: PvStr, "TWST" => twst: PvStr, "THST" => thst: PvStr,
            "FRST" => frst: PvStr, "FVST" => fvst: PvStr, "SXST" => sxst: PvStr, "SVST" => svst: PvStr,
            "EIST" => eist: PvStr, "NIST" => nist: PvStr, "TEST" => test: PvStr, "ELST" => elst: PvStr,
            "TVST" => tvst: PvStr, "TTST" => ttst: PvStr, "FTST" => ftst: PvStr, "FFST" => ffst: PvStr,
        )
    }

    fn put_field(&mut self, name: &str, value: EpicsValue) -> CaResult<()> {
        mbb_put_field!(self, name, value,
            "RVAL" => rval: ULong, "ORAW" => oraw: ULong, "MASK" => mask: ULong,
            "SHFT" => shft: UShort, "MLST" => mlst: UShort, "LALM" => lalm: UShort,
            "NOBT" => nobt: UShort,
            "SIMM" => simm: Short, "SIML" => siml: String, "SIOL" => siol: String,
            "SVAL" => sval: ULong, "SIMS" => sims: Short,
            "SDLY" => sdly: Double,
            "ZRSV" => zrsv: Short, "ONSV" => onsv: Short, "TWSV" => twsv: Short, "THSV" => thsv: Short,
            "FRSV" => frsv: Short, "FVSV" => fvsv: Short, "SXSV" => sxsv: Short, "SVSV" => svsv: Short,
            "EISV" => eisv: Short, "NISV" => nisv: Short, "TESV" => tesv: Short, "ELSV" => elsv: Short,
            "TVSV" => tvsv: Short, "TTSV" => ttsv: Short, "FTSV" => ftsv: Short, "FFSV" => ffsv: Short,
            "UNSV" => unsv: Short, "COSV" => cosv: Short,
            "AFTC" => aftc: Double, "AFVL" => afvl: Double,
            "ZRVL" => zrvl: ULong, "ONVL" => onvl: ULong, "TWVL" => twvl: ULong, "THVL" => thvl: ULong,
            "FRVL" => frvl: ULong, "FVVL" => fvvl: ULong, "SXVL" => sxvl: ULong, "SVVL" => svvl: ULong,
            "EIVL" => eivl: ULong, "NIVL" => nivl: ULong, "TEVL" => tevl: ULong, "ELVL" => elvl: ULong,
            "TVVL" => tvvl: ULong, "TTVL" => ttvl: ULong, "FTVL" => ftvl: ULong, "FFVL" => ffvl: ULong,
            "ZRST" => zrst: PvStr, "ONST" => onst: PvStr, "TWST" => twst: PvStr, "THST" => thst: PvStr,
            "FRST" => frst: PvStr, "FVST" => fvst: PvStr, "SXST" => sxst: PvStr, "SVST" => svst: PvStr,
            "EIST" => eist: PvStr, "NIST" => nist: PvStr, "TEST" => test: PvStr, "ELST" => elst: PvStr,
            "TVST" => tvst: PvStr, "TTST" => ttst: PvStr, "FTST" => ftst: PvStr, "FFST" => ffst: PvStr,
        );
        Ok(())
    }

    fn set_device_did_compute(&mut self, did: bool) {
        self.skip_convert = did;
    }

    fn refused_async_read_keeps_udf(&self) -> bool {
        true
    }

    fn raw_soft_read_failure_skips_convert(&self) -> bool {
        true
    }

    /// `mbbi` has an `RVAL → VAL` `convert()` step. A `Soft Channel`
    /// `mbbi` must skip it — C `devMbbiSoft.c` `read_mbbi` returns 2.
    fn soft_channel_skips_convert(&self) -> bool {
        true
    }

    /// C `mbbiRecord.c::checkAlarms` — UDF alarm, STATE alarm from the
    /// per-state severity (ZRSV..FFSV, or UNSV for an unknown state)
    /// with the AFTC alarm-range low-pass filter (2009 Codeathon
    /// `824d37811`; mbbiRecord.c:319-338), and COS alarm (COSV).
    /// C `checkAlarms:301-305` raises `UDF_ALARM/udfs`, zeroes AFVL,
    /// and returns early when `udf` is set; we mirror that (raising
    /// UDF is idempotent with the framework's `rec_gbl_check_udf`).
    ///
    /// **DEVIATION from the `R7.0.10` pin, twice, both to `c9817fa59`**
    /// (EPICS PR #817, 2026-04-01, "fix broken AFTC handling for mbbi
    /// record, also fix bug in COSV and LALM handling"; an ancestor of
    /// `origin/7.0` and of no tag). The pin is the pre-fix C and this
    /// port implements the post-fix C on both counts:
    ///
    /// 1. **AFVL writeback.** At the pin the filter computes `afvl` into
    ///    a local and never stores it, so `:323`'s `afvl = prec->afvl`
    ///    reads the 0 that only the UDF path ever writes and `:324-326`
    ///    re-seeds every cycle — C's mbbi filter is inert. `c9817fa59`
    ///    adds `prec->afvl = afvl;` at `:339`, which `self.afvl =
    ///    new_afvl` below is.
    /// 2. **LALM on a raised COS.** The pin reads `if (val ==
    ///    prec->lalm || recGblSetSevr(prec, COS_ALARM, prec->cosv))
    ///    return; prec->lalm = val;` (`:344-348`), so a COSV that
    ///    actually raises the severity short-circuits past the `lalm`
    ///    update and the NEXT transition re-fires COS against a stale
    ///    LALM. `c9817fa59` splits the test from the call, so LALM
    ///    always advances on a transition — which is what the
    ///    `if val != self.lalm` block below does.
    ///
    /// Do not "restore" either to the pin: both pin behaviours are the
    /// defects that PR fixed.
    fn check_alarms(&mut self, common: &mut crate::server::record::CommonFields) {
        use crate::server::recgbl::{self, alarm_status};
        use crate::server::record::AlarmSeverity;

        if common.udf != 0 {
            recgbl::rec_gbl_set_sevr(
                common,
                alarm_status::UDF_ALARM,
                AlarmSeverity::from_u16(common.udfs as u16),
            );
            self.afvl = 0.0;
            return;
        }
        let val = self.val;
        let raw_sev = if val > 15 {
            self.unsv
        } else {
            self.state_severities()[val as usize]
        };
        let (filtered, new_afvl) = super::alarm_filter::aftc_filter(
            raw_sev as u16,
            self.aftc,
            self.afvl,
            common.time_last.get(),
            common.time,
        );
        self.afvl = new_afvl;
        let sev = AlarmSeverity::from_u16(filtered);
        if sev != AlarmSeverity::NoAlarm {
            recgbl::rec_gbl_set_sevr(common, alarm_status::STATE_ALARM, sev);
        }
        if val != self.lalm {
            let cos_sev = AlarmSeverity::from_u16(self.cosv as u16);
            if cos_sev != AlarmSeverity::NoAlarm {
                recgbl::rec_gbl_set_sevr(common, alarm_status::COS_ALARM, cos_sev);
            }
            self.lalm = val;
        }
    }

    /// Soft Channel VAL entry — a pass-through, NOT a raw->state map. C
    /// `devMbbiSoft::read_mbbi` (devMbbiSoft.c:51) does
    /// `dbGetLink(DBR_USHORT, &prec->val); return 2`: the link value is
    /// written straight to VAL as the state index, with no mask/shift/state
    /// lookup. The asyn DEVICE raw path is the separate `apply_raw_readback`
    /// hook below, so `set_val` carries one meaning only (soft-link / SIOL-sim
    /// pass-through). A Soft Channel mbbi whose INP resolves to a numeric
    /// source is therefore no longer reverse-mapped through the state table
    /// (the prior dual meaning, which diverged from C `return 2`).
    fn set_val(&mut self, value: EpicsValue) -> CaResult<()> {
        // VAL is DBF_ENUM (mbbiRecord.dbd.pod): the state index. C reads the
        // link as DBR_USHORT, so every numeric carrier coerces to u16.
        // The numeric carriers own nothing, so their arms skip
        // `EpicsValue`'s drop, which is out of line and would run on every
        // soft read.
        let value = std::mem::ManuallyDrop::new(value);
        self.val = match *value {
            EpicsValue::Enum(v) | EpicsValue::UShort(v) => v,
            EpicsValue::ULong(v) => v as u16,
            EpicsValue::Long(v) => v as u16,
            EpicsValue::Short(v) => v as u16,
            _ => {
                // C rset `put_enum_str` (mbbiRecord.c:273-291), reached from
                // `dbConvert.c::putStringEnum` — the one string→state
                // converter (`Record::enum_str_state`).
                let EpicsValue::String(s) = std::mem::ManuallyDrop::into_inner(value) else {
                    return Err(CaError::TypeMismatch("VAL".into()));
                };
                match crate::server::record::resolve_enum_state_string("VAL", &*self, &s)? {
                    EpicsValue::Enum(v) => v,
                    _ => return Ok(()),
                }
            }
        };
        Ok(())
    }

    /// asyn device readback: a raw hardware word read through `asynInt32` or
    /// `asynUInt32Digital`. C `processMbbi` sets `rval = value & mask` on
    /// BOTH ifaces (devAsynInt32.c:1270 with the record's NOBT-derived mask /
    /// devAsynUInt32Digital.c:903 with the `@asynMask`), and mbbiRecord's
    /// convert (mbbiRecord.c:172-190) then shifts `rval >> SHFT` and resolves
    /// the state index. The hook performs the (identical) shift + lookup
    /// inline and returns `true` so the framework skips the forward convert.
    ///
    /// This is the *device-distinct* entry, separate from the Soft Channel
    /// `set_val` pass-through above — routing the device raw here is what lets
    /// `set_val` stay single-meaning. Input twin of `mbbo::apply_raw_readback`.
    fn apply_raw_readback(&mut self, raw: i32) -> bool {
        self.rval = raw as u32;
        let shifted = if self.shft > 0 {
            self.rval.checked_shr(self.shft as u32).unwrap_or(0)
        } else {
            self.rval
        };
        self.val = self.raw_to_val(shifted);
        true
    }
}
