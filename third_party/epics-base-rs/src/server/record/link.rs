use std::borrow::Cow;

use crate::error::{CaError, CaResult, CalcSaid, LinkRefusal, LinkWhy};
use crate::runtime::json_string::{decode_json_string, decode_json_string_token};
use crate::runtime::stdlib::{c_isspace, scanf_long};
use crate::server::database::LinkSerial;
use crate::server::recgbl::ReportString;
use crate::server::record::AlarmSeverity;
use crate::types::{DbFieldType, DbfLinkClass, EpicsValue, PvString};

/// Link processing policy for input/output links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkProcessPolicy {
    NoProcess,
    #[default]
    ProcessPassive,
    /// CP (`pvlOptCP`): subscribe to source; when source changes, process
    /// this record unconditionally (`dbCa.c:958-962` adds `CA_DBPROCESS`
    /// regardless of `precord->scan`).
    ChannelProcess,
    /// CPP (`pvlOptCPP`): like `ChannelProcess`, but on a source change
    /// process this record only when its `SCAN` is `Passive` — C gates the
    /// `CA_DBPROCESS` action on `precord->scan == 0` (`dbCa.c:825`, `:959`, `:1034`).
    ChannelProcessPassive,
}

impl LinkProcessPolicy {
    /// For a CP (`ChannelProcess`) or CPP (`ChannelProcessPassive`) link,
    /// returns `Some(passive_only)`: `false` for CP (always process the
    /// link-holder when the source changes), `true` for CPP (process it
    /// only when it is Passive). Returns `None` for every other policy, so
    /// CP-link registration can filter in one match.
    pub fn cp_passive_only(self) -> Option<bool> {
        match self {
            LinkProcessPolicy::ChannelProcess => Some(false),
            LinkProcessPolicy::ChannelProcessPassive => Some(true),
            _ => None,
        }
    }
}

/// Which bus a hardware link names — C's `dbLinkInfo::ltype` for the `@` and
/// `#` forms, decided by `dbParseLink` (`dbStaticLib.c:2296-2331`) and by
/// nothing downstream.
///
/// One variant per bus C's identifier-letter table can produce, because the
/// bus is what the letters MEAN. Collapsing every `#` form into one kind left
/// each consumer to either re-derive the bus from the raw text or print a
/// default, and both happened: `dbpr` printed `VME_IO` for a CAMAC link while
/// `dbReportDeviceConfig` carried a second copy of the whole table.
///
/// There is deliberately no "unrecognised bus" variant. C answers an
/// unmatched identifier with `goto fail` (`:2331`), so such text is a parse
/// failure and never becomes a link at all — see `try_parse_hw_link`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HwLinkKind {
    /// `@dev arg1 arg2 ...` — `INST_IO`. The most common form, used by
    /// asyn-based device support.
    InstIo,
    /// `#Cn Sn [@parm]` — `VME_IO`; C's `"CS"`. C/S = card/signal.
    VmeIo,
    /// `#Bn Cn Nn [An [Fn]] [@parm]` — `CAMAC_IO`; C's `"BCN"`, `"BCNA"`,
    /// `"BCNF"` and `"BCNAF"`.
    CamacIo,
    /// `#Rn Mn Dn En` — `RF_IO`; C's `"RMDE"`, and the one `#` form that must
    /// carry no `@parm` at all (`dbStaticLib.c:2333-2343`).
    RfIo,
    /// `#Ln An Cn Sn [@parm]` — `AB_IO`; C's `"LACS"`.
    AbIo,
    /// `#Ln An [@parm]` — `GPIB_IO`; C's `"LA"`.
    GpibIo,
    /// `#Ln Nn Pn Sn [@parm]` — `BITBUS_IO`; C's `"LNPS"`.
    BitbusIo,
    /// `#Ln Bn Gn [@parm]` — `BBGPIB_IO`; C's `"LBG"`.
    BbgpibIo,
    /// `#Vn Cn Sn [@parm]` or `#Vn Sn [@parm]` — `VXI_IO`; C's `"VCS"` and
    /// `"VS"`.
    VxiIo,
}

impl HwLinkKind {
    /// The `link.h` type `dbParseLink` sets for this bus — the single place
    /// the mapping lives, so `dbpr`'s type word and `dbCanSetLink`'s
    /// compatibility test cannot disagree.
    #[must_use]
    pub fn db_link_type(self) -> DbLinkType {
        match self {
            HwLinkKind::InstIo => DbLinkType::InstIo,
            HwLinkKind::VmeIo => DbLinkType::VmeIo,
            HwLinkKind::CamacIo => DbLinkType::CamacIo,
            HwLinkKind::RfIo => DbLinkType::RfIo,
            HwLinkKind::AbIo => DbLinkType::AbIo,
            HwLinkKind::GpibIo => DbLinkType::GpibIo,
            HwLinkKind::BitbusIo => DbLinkType::BitbusIo,
            HwLinkKind::BbgpibIo => DbLinkType::BbgpibIo,
            HwLinkKind::VxiIo => DbLinkType::VxiIo,
        }
    }
}

/// Where a `VXI_IO` link's address comes from — C's `vxiio.flag`
/// (`link.h:166-173`, `VXIDYNAMIC`/`VXISTATIC` at `:63-64`) made explicit.
///
/// C keeps `frame`, `slot` and `la` side by side and lets `flag` say which
/// two of the three are meaningful, so `dbGetString` has to branch on the
/// flag before it can read the numbers (`dbStaticLib.c:1997-2005`). Here the
/// address IS the choice, so the unread member cannot be observed and the
/// renderer has nothing to test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VxiAddr {
    /// C `VXIDYNAMIC` — the `#Vn Cn Sn` form (`"VCS"`), addressed by slot.
    Dynamic { frame: i16, slot: i16 },
    /// C `VXISTATIC` — the `#Vn Sn` form (`"VS"`), addressed by logical
    /// address.
    Static { la: i16 },
}

/// Hardware link as parsed from a record's INP/OUT field — C's hardware
/// members of `union value` (`link.h:100-173`), one variant per bus.
///
/// **The numbers are the link.** C never keeps the text a hardware link was
/// written as: `dbParseLink` scans it into `hwnums[5]`, `dbSetLinkHW`
/// distributes those into the per-bus struct (`dbStaticLib.c:2453-2529`) and
/// every reader afterwards goes through `dbGetString`, which re-renders from
/// the struct with that bus's format (`:1953-2006`). So `#C0x10 S-2` reads
/// back as `#C16 S-2 @` — base normalised, `@parm` present though empty —
/// and no reader can see the original spelling. Storing the text beside the
/// parse would give the field two sources of truth and let them disagree;
/// here [`HwLink::render`] is the only way to get text out.
///
/// The integer widths are C's, not `i64`: `vmeio`/`camacio`/`rfio`/`abio`/
/// `gpibio`/`vxiio` hold `short` and `bitbusio`/`bbgpibio` hold
/// `unsigned char`, while `hwnums` is `int`, so the assignment truncates and
/// the renderer prints the truncated value — `#L300 N2 P3 S4` is bitbus link
/// 44. Carrying the wide value and narrowing at each printer would put that
/// rule in every reader instead of in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HwLink {
    /// `@…` — `INST_IO`. C stores everything after the `@` verbatim
    /// (`dbStaticLib.c:2266-2274`), leading blanks included, so `@ dev`
    /// round-trips as `@ dev`.
    InstIo { string: String },
    /// `#Cn Sn [@parm]` — `VME_IO`.
    VmeIo {
        card: i16,
        signal: i16,
        parm: String,
    },
    /// `#Bn Cn Nn [An [Fn]] [@parm]` — `CAMAC_IO`.
    CamacIo {
        b: i16,
        c: i16,
        n: i16,
        a: i16,
        f: i16,
        parm: String,
    },
    /// `#Rn Mn Dn En` — `RF_IO`, the one bus with no parm at all.
    RfIo {
        cryo: i16,
        micro: i16,
        dataset: i16,
        element: i16,
    },
    /// `#Ln An Cn Sn [@parm]` — `AB_IO`.
    AbIo {
        link: i16,
        adapter: i16,
        card: i16,
        signal: i16,
        parm: String,
    },
    /// `#Ln An [@parm]` — `GPIB_IO`.
    GpibIo { link: i16, addr: i16, parm: String },
    /// `#Ln Nn Pn Sn [@parm]` — `BITBUS_IO`.
    BitbusIo {
        link: u8,
        node: u8,
        port: u8,
        signal: u8,
        parm: String,
    },
    /// `#Ln Bn Gn [@parm]` — `BBGPIB_IO`.
    BbgpibIo {
        link: u8,
        bbaddr: u8,
        gpibaddr: u8,
        parm: String,
    },
    /// `#Vn Cn Sn [@parm]` or `#Vn Sn [@parm]` — `VXI_IO`.
    VxiIo {
        addr: VxiAddr,
        signal: i16,
        parm: String,
    },
}

impl HwLink {
    /// Which bus this link names.
    #[must_use]
    pub fn kind(&self) -> HwLinkKind {
        match self {
            HwLink::InstIo { .. } => HwLinkKind::InstIo,
            HwLink::VmeIo { .. } => HwLinkKind::VmeIo,
            HwLink::CamacIo { .. } => HwLinkKind::CamacIo,
            HwLink::RfIo { .. } => HwLinkKind::RfIo,
            HwLink::AbIo { .. } => HwLinkKind::AbIo,
            HwLink::GpibIo { .. } => HwLinkKind::GpibIo,
            HwLink::BitbusIo { .. } => HwLinkKind::BitbusIo,
            HwLink::BbgpibIo { .. } => HwLinkKind::BbgpibIo,
            HwLink::VxiIo { .. } => HwLinkKind::VxiIo,
        }
    }

    /// The text C prints for this link — the hardware arm of `dbGetString`
    /// (`dbStaticLib.c:1953-2006`), format for format.
    ///
    /// The single owner of "hardware link → text": `dbpr`, `dbgf`, the CA
    /// server's string read-back and `dbReportDeviceConfig` all reach it,
    /// because in C they all reach `dbGetString`.
    #[must_use]
    pub fn render(&self) -> String {
        match self {
            HwLink::InstIo { string } => format!("@{string}"),
            HwLink::VmeIo { card, signal, parm } => format!("#C{card} S{signal} @{parm}"),
            HwLink::CamacIo {
                b,
                c,
                n,
                a,
                f,
                parm,
            } => format!("#B{b} C{c} N{n} A{a} F{f} @{parm}"),
            HwLink::RfIo {
                cryo,
                micro,
                dataset,
                element,
            } => format!("#R{cryo} M{micro} D{dataset} E{element}"),
            HwLink::AbIo {
                link,
                adapter,
                card,
                signal,
                parm,
            } => format!("#L{link} A{adapter} C{card} S{signal} @{parm}"),
            HwLink::GpibIo { link, addr, parm } => format!("#L{link} A{addr} @{parm}"),
            HwLink::BitbusIo {
                link,
                node,
                port,
                signal,
                parm,
            } => format!("#L{link} N{node} P{port} S{signal} @{parm}"),
            HwLink::BbgpibIo {
                link,
                bbaddr,
                gpibaddr,
                parm,
            } => format!("#L{link} B{bbaddr} G{gpibaddr} @{parm}"),
            HwLink::VxiIo {
                addr: VxiAddr::Dynamic { frame, slot },
                signal,
                parm,
            } => format!("#V{frame} C{slot} S{signal} @{parm}"),
            HwLink::VxiIo {
                addr: VxiAddr::Static { la },
                signal,
                parm,
            } => format!("#V{la} S{signal} @{parm}"),
        }
    }
}

/// A CONSTANT link: its text and the value it decodes to, decoded once when
/// the link is parsed — C decodes at `dbInitLink` and never again, so every
/// read of a constant is a copy, not a re-parse of the text.
#[derive(Debug)]
pub struct ConstantLink {
    text: String,
    value: EpicsValue,
    /// `Some` for a `{const: …}` link: the value `lnkConst` parsed, which its
    /// `loadArray` converts by its own type instead of handing the text to
    /// `dbPutConvertJSON` as `dbConstLink` does.
    json: Option<LnkConst>,
}

/// `const_link.type` and its value (`lnkConst.c:26-38`), one variant per
/// state the yajl callbacks can leave it in; `Empty` is `a0`, `[]`.
#[derive(Debug, Clone, PartialEq)]
enum LnkConst {
    Integer(i64),
    Double(f64),
    String(String),
    Integers(Vec<i64>),
    Doubles(Vec<f64>),
    Strings(Vec<String>),
    Empty,
}

/// Why a constant link's `loadArray` stored nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConstLoadError {
    /// `S_db_badField`: an empty constant, `{const:[]}`, or text
    /// `dbPutConvertJSON` refuses. `devSASoft.c:106` treats it as "no INP".
    BadField,
    /// A scalar string's `cvt_st_*` status (`lnkConst.c:490-492`).
    Conversion,
}

/// `dbValueSize(DBR_STRING) - 1`, the `cvt_st_st` cut under a NULL `paddr`.
const DBR_STRING_CAPACITY: usize = 39;

impl LnkConst {
    /// The yajl callbacks `lnkConst_integer` / `_double` / `_string` /
    /// `_boolean` over the link's value. `None` is a value they refuse: null,
    /// a map, a nested array, strings mixed with numbers, or an integer yajl
    /// overflows on.
    fn of(v: &serde_json::Value) -> Option<Self> {
        use serde_json::Value as J;
        let int = |v: &J| match v {
            J::Bool(b) => Some(i64::from(*b)),
            J::Number(n) => n.as_i64(),
            _ => None,
        };
        let real = |v: &J| match v {
            J::Number(n) if n.is_f64() => n.as_f64(),
            v => int(v).map(|i| i as f64),
        };
        Some(match v {
            J::String(s) => Self::String(s.clone()),
            J::Array(items) if items.is_empty() => Self::Empty,
            J::Array(items) => {
                if let Some(v) = items.iter().map(int).collect::<Option<Vec<_>>>() {
                    Self::Integers(v)
                } else if let Some(v) = items.iter().map(real).collect::<Option<Vec<_>>>() {
                    // `lnkConst_double` promotes an `ai64` array to `af64`.
                    Self::Doubles(v)
                } else {
                    Self::Strings(
                        items
                            .iter()
                            .map(|v| v.as_str().map(str::to_owned))
                            .collect::<Option<_>>()?,
                    )
                }
            }
            v => match (int(v), real(v)) {
                (Some(i), _) => Self::Integer(i),
                (None, Some(d)) => Self::Double(d),
                (None, None) => return None,
            },
        })
    }

    /// C `lnkConst_loadArray` (`lnkConst.c:451-541`): every element through
    /// `dbFastPutConvertRoutine[its own type][dbrType]` with a NULL `paddr`.
    fn load_array(&self, dbr_type: DbFieldType, nreq: usize) -> Result<EpicsValue, ConstLoadError> {
        // `cvt_st_e` dereferences the NULL `paddr`; a choice loads as the
        // index it is.
        let row = match dbr_type {
            DbFieldType::Enum => DbFieldType::UShort,
            t => t,
        };
        let head = |n: usize| n.min(nreq);
        let mut loaded = match self {
            Self::Integer(i) => integers_into(row, std::slice::from_ref(i)),
            Self::Double(d) => doubles_into(row, std::slice::from_ref(d)),
            // The long-string branch: a `strncpy` of `nReq` bytes, NUL
            // forced into the last, NORD counting the NUL.
            Self::String(s) if row == DbFieldType::Char => {
                let bytes = s.as_bytes();
                let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
                let mut chars = bytes[..end.min(nreq.saturating_sub(1))].to_vec();
                if nreq > 0 {
                    chars.push(0);
                }
                return Ok(EpicsValue::CharArray(chars.into()));
            }
            Self::String(s) => match strings_into(row, std::slice::from_ref(s)) {
                (loaded, true) => loaded,
                (_, false) => return Err(ConstLoadError::Conversion),
            },
            Self::Integers(v) => integers_into(row, &v[..head(v.len())]),
            Self::Doubles(v) => doubles_into(row, &v[..head(v.len())]),
            // The array arm ignores each `conv` status: a refused element
            // keeps the calloc'd buffer's zero.
            Self::Strings(v) => strings_into(row, &v[..head(v.len())]).0,
            Self::Empty => return Err(ConstLoadError::BadField),
        };
        loaded.truncate(nreq);
        Ok(loaded.into_type(dbr_type))
    }
}

impl LnkConst {
    /// C `lnkConst_loadScalar` (`lnkConst.c:358-417`): the value, or an
    /// array's element 0, through `dbFastPutConvertRoutine[its own
    /// type][dbrType]`, so a JSON double takes the C cast (`{const:5e9}` into
    /// `DBF_LONG` is `INT_MIN`) and only a string can refuse.
    fn load_scalar(&self, dbr_type: DbFieldType) -> Result<EpicsValue, ConstLoadError> {
        let row = match dbr_type {
            DbFieldType::Enum => DbFieldType::UShort,
            t => t,
        };
        let strings = |v: &[String]| match strings_into(row, v) {
            (loaded, true) => Ok(loaded),
            (_, false) => Err(ConstLoadError::Conversion),
        };
        let loaded = match self {
            Self::Integer(i) => integers_into(row, std::slice::from_ref(i)),
            Self::Integers(v) => integers_into(row, &v[..1]),
            Self::Double(d) => doubles_into(row, std::slice::from_ref(d)),
            Self::Doubles(v) => doubles_into(row, &v[..1]),
            Self::String(s) => strings(std::slice::from_ref(s))?,
            Self::Strings(v) => strings(&v[..1])?,
            Self::Empty => return Err(ConstLoadError::BadField),
        };
        loaded
            .into_type(dbr_type)
            .first_element()
            .ok_or(ConstLoadError::BadField)
    }
}

/// `cvtInt64ToString` / `cvt_q_*`.
fn integers_into(row: DbFieldType, v: &[i64]) -> EpicsValue {
    if row == DbFieldType::String {
        return EpicsValue::StringArray(v.iter().map(|i| PvString::from(i.to_string())).collect());
    }
    EpicsValue::Int64Array(v.to_vec().into()).into_type(row)
}

/// `cvt_d_*`; `cvt_d_st` finds no rset under the NULL `paddr` and keeps its
/// precision of 6.
fn doubles_into(row: DbFieldType, v: &[f64]) -> EpicsValue {
    if row == DbFieldType::String {
        return EpicsValue::StringArray(
            v.iter()
                .map(|d| dbr_string(crate::types::codec::cvt_double_to_string(*d, 6).as_bytes()))
                .collect(),
        );
    }
    EpicsValue::DoubleArray(v.to_vec().into()).into_type(row)
}

/// `cvt_st_*`, and whether every element converted; a refused element is 0.
fn strings_into(row: DbFieldType, v: &[String]) -> (EpicsValue, bool) {
    use crate::types::c_parse::{Converted, NumericField, put_string};
    let Some(numeric) = NumericField::of(row) else {
        return (
            EpicsValue::StringArray(v.iter().map(|s| dbr_string(s.as_bytes())).collect()),
            true,
        );
    };
    let mut converted = true;
    let elems: Vec<Option<EpicsValue>> = v
        .iter()
        .map(|s| match put_string("INP", numeric, s) {
            Ok(Converted::Stored(x)) => Some(x),
            Ok(Converted::Unchanged) => None,
            Err(_) => {
                converted = false;
                None
            }
        })
        .collect();
    macro_rules! pack {
        ($array:ident, $scalar:ident) => {
            EpicsValue::$array(
                elems
                    .into_iter()
                    .map(|e| match e {
                        Some(EpicsValue::$scalar(x)) => x,
                        _ => Default::default(),
                    })
                    .collect(),
            )
        };
    }
    let packed = match numeric {
        NumericField::Char => pack!(CharArray, Char),
        NumericField::UChar => pack!(UCharArray, UChar),
        NumericField::Short => pack!(ShortArray, Short),
        NumericField::UShort => pack!(UShortArray, UShort),
        NumericField::Long => pack!(LongArray, Long),
        NumericField::ULong => pack!(ULongArray, ULong),
        NumericField::Int64 => pack!(Int64Array, Int64),
        NumericField::UInt64 => pack!(UInt64Array, UInt64),
        NumericField::Float => pack!(FloatArray, Float),
        NumericField::Double => pack!(DoubleArray, Double),
    };
    (packed, converted)
}

fn dbr_string(bytes: &[u8]) -> PvString {
    PvString::from_bytes(&bytes[..bytes.len().min(DBR_STRING_CAPACITY)])
}

impl ConstantLink {
    /// The C `dbConstLoadScalar` / `dbConstLoadArray` pair
    /// (`dbConstLink.c:152-199`), which is what a record's `init_record` gets
    /// out of a constant link through `dbLoadLink` / `dbLoadLinkArray`.
    ///
    /// A bracketed constant (`[1, 2, 3]`) is an ARRAY: C hands the text to
    /// `dbPutConvertJSON`, which yields `nRequest` elements. Yielding the
    /// bracket text as a String instead left every array-valued constant link
    /// (`field(INP, "[1,2,3]")` on an aai/waveform, a constant closed-loop aao
    /// DOL) delivering a nonsense string to a typed array buffer.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let value = if let Some(inner) = text
            .trim()
            .strip_prefix('[')
            .and_then(|body| body.strip_suffix(']'))
        {
            constant_array_value(inner)
        } else if let Some(v) = parse_c_double(&text) {
            EpicsValue::Double(v)
        } else {
            EpicsValue::String(text.clone().into())
        };
        Self {
            text,
            value,
            json: None,
        }
    }

    /// C `dbLoadLinkArray` on a constant link: `lnkConst_loadArray` for a
    /// `{const: …}` link, else `dbConstLoadArray` (`dbConstLink.c:194-212`),
    /// the text through `dbPutConvertJSON`. The value is `dbr_type`-typed and
    /// its length is the `*pnReq` C returns.
    pub fn load_array(
        &self,
        dbr_type: DbFieldType,
        nreq: usize,
    ) -> Result<EpicsValue, ConstLoadError> {
        if let Some(json) = &self.json {
            return json.load_array(dbr_type, nreq);
        }
        if self.text.is_empty() {
            return Err(ConstLoadError::BadField);
        }
        let row = match dbr_type {
            DbFieldType::Enum => DbFieldType::UShort,
            t => t,
        };
        crate::server::db_convert_json::db_put_convert_json(&self.text, row, nreq)
            .map_err(|_| ConstLoadError::BadField)
    }

    /// `lnkConst_loadScalar` for a `{const: …}` link; `None` for a
    /// `dbConstLink` one, whose load is its text.
    pub(crate) fn load_json_scalar(
        &self,
        dbr_type: DbFieldType,
    ) -> Option<Result<EpicsValue, ConstLoadError>> {
        self.json.as_ref().map(|json| json.load_scalar(dbr_type))
    }

    /// C `lnkConst_report` (`lnkConst.c:286-347`) over the value its yajl
    /// callbacks parsed, so the type word is the callback's: `true` is an
    /// integer and `[1, 2.5]` doubles. Nothing for a `dbConstLink` text,
    /// which is no JSON link.
    pub(crate) fn report(&self, level: i32, indent: usize) -> Vec<String> {
        use epics_libcom_rs::cfmt::CFloat;
        let Some(json) = &self.json else {
            return Vec::new();
        };
        let pad = " ".repeat(indent);
        let (dtype, items): (&str, Vec<String>) = match json {
            LnkConst::Integer(i) => return vec![format!("{pad}'const': integer {i}")],
            LnkConst::Double(d) => return vec![format!("{pad}'const': double {}", CFloat(*d).g())],
            LnkConst::String(s) => return vec![format!("{pad}'const': string \"{s}\"")],
            // `a0` is not `> a0`, so it takes the scalar arm to `default:`.
            LnkConst::Empty => return vec![format!("{pad}'const': bug -- type=4")],
            LnkConst::Integers(v) => ("integer", v.iter().map(i64::to_string).collect()),
            LnkConst::Doubles(v) => (
                "double",
                v.iter().map(|d| CFloat(*d).g().to_string()).collect(),
            ),
            LnkConst::Strings(v) => ("string", v.iter().map(|s| format!("\"{s}\"")).collect()),
        };
        let plural = if items.len() > 1 { "s" } else { "" };
        let head = format!("{pad}'const': array of {} {dtype}{plural}", items.len());
        if level < 2 {
            return vec![head];
        }
        vec![head, format!("{pad}  [{}]", items.join(", "))]
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// C `dbLoadLinkLS` over this constant: `lnkConst_loadLS` for a
    /// `{const: …}` link, which loads only its string forms
    /// (`lnkConst.c:419-449`), else `dbConstLoadLS` ([`load_link_ls`]).
    pub(crate) fn load_ls(&self) -> Option<LsLoad> {
        match &self.json {
            Some(LnkConst::String(s)) => Some(LsLoad::Text(s.clone())),
            Some(LnkConst::Strings(v)) => v.first().cloned().map(LsLoad::Text),
            Some(_) => None,
            None => load_link_ls(&self.text),
        }
    }

    /// Whether this is a `{const: …}` link, loaded by `lnkConst` rather than
    /// `dbConstLink`.
    pub fn is_json(&self) -> bool {
        self.json.is_some()
    }

    pub fn value(&self) -> &EpicsValue {
        &self.value
    }
}

/// Equal by text and source: the value is a function of them, and comparing
/// the value would make a `nan` constant unequal to itself.
impl PartialEq for ConstantLink {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.json == other.json
    }
}

/// Parsed link — distinguishes constants, DB links, CA/PVA links, and empty.
#[derive(Clone, Debug, PartialEq)]
pub enum ParsedLink {
    None,
    /// Shared for the same reason as `Db`: the link is immutable once parsed.
    Constant(std::sync::Arc<ConstantLink>),
    /// C `dbRemoveLink` left the field with no `lset` and nothing added it
    /// back (`dbAccess.c:1167-1188`): `dbLinkIsDefined` is false and
    /// `dbLinkIsConstant` true (`dbLink.c:215-225`), a read is `dbGetLink`'s
    /// silent -1 and a put `S_db_noLSET` (`dbLink.c:336-337`, `:440-441`).
    /// The record keeps the text, and `plink->type` is what the remove left:
    /// `PV_LINK` for a DB or CA link (`dbDbLink.c:132`, `dbCa.c:441`), the
    /// parsed type for any other. No parse makes this. Declared beside
    /// `None` and `Constant`, so the three `dbLinkIsConstant` variants take
    /// adjacent niche values and [`is_constant`] stays one range compare.
    ///
    /// [`is_constant`]: crate::server::recgbl::simm::is_constant
    Removed(DbLinkType),
    /// Shared, not owned: a parsed DB link is immutable after `parse_link_v2`
    /// and the cycle clones the record's `parsed_inp` every process, so the
    /// clone is one atomic increment instead of the link's three heap copies,
    /// and the enum moves as 16 bytes instead of `DbLink`'s 160.
    Db(std::sync::Arc<DbLink>),
    Ca(CaLink),
    /// PVA (`pvalink`) link whose payload is a verbatim channel name —
    /// the string shorthand `{pva:"name"}`. Per pvxs `pva_parse_string` (pvxs/ioc/pvalink_jlif.cpp:143-149) a
    /// string pvalink IS the channel name: any `?`/`&` in it is link
    /// DATA, not option syntax. The structured JSON longhand with
    /// options is [`ParsedLink::PvaJson`] instead, so this variant's
    /// name has exactly one meaning (a channel name) on every path.
    Pva(PvaChannelLink),
    /// PVA (`pvalink`) link parsed from the structured JSON longhand
    /// `{pva:{pv:"name", field:"f", proc:"CP", …}}`. Carries the options
    /// as structured JLink members so the pvalink consumer reconstructs
    /// the `PvaLinkConfig` from map keys (pvxs/ioc/pvalink_jlif.cpp:69-196), not
    /// from a `?key=value` URI query that pvxs never parses. See
    /// [`PvaJsonLink`]. Boxed so `ParsedLink` stays within 64 bytes.
    PvaJson(Box<PvaJsonLink>),
    /// `@dev arg1 …` or `#Cn Sn` hardware link (epics-base PR #213).
    Hw(HwLink),
    /// epics-base PR `e3c9d590` / `20404003`: a `lnkCalc` JSON link
    /// computes a result from one or more input PV values + a calc
    /// expression, optionally pulling its timestamp from one of the
    /// inputs. JSON form:
    /// `{calc: {expr:"A*B", args:[{pva:"record"}, 1.5], time:"a"}}`
    /// — `time` is the input letter whose timestamp the result should
    /// carry, upper or lower case, `A` through the [`CALC_NARGS`](crate::calc::CALC_NARGS)th
    /// letter (`lnkCalc.c:180-186`). `time` may be omitted (no timestamp
    /// passthrough).
    Calc(Box<CalcLink>),
    /// `{state:"NAME"}` / `{state:"!NAME"}` — a one-element `DBF_SHORT`
    /// view of a process-global named boolean (C `lnkState.c`). See
    /// [`StateLink`].
    State(StateLink),
}

/// A `{state:…}` JSON link (C `lnkState.c`, `link(state, lnkStateIf)` at
/// `links.dbd.pod:171`).
///
/// The link reads and writes one named boolean in the `dbState` registry —
/// the same registry the `sync` channel filter
/// ([`db_state_registry`](crate::server::database::filters::sync::db_state_registry))
/// and the `Db State` device support already share, so all three observe
/// the same bit.
///
/// `invert` is one flag on the LINK, not a property of a direction: C xors
/// `slink->invert` into the value it hands a reader (`lnkState.c:148`) and
/// into the bit a writer sets (`:199`), so a `!` link reads back what it
/// wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateLink {
    /// The state name, with any leading `!` already removed.
    pub name: String,
    /// C `slink->invert`.
    pub invert: bool,
    /// C `slink->val`, which only the report reads.
    pub val: StateVal,
}

/// C `slink->val` (`lnkState.c:151`, `:203`): the bit the link last read or
/// was last asked to write. Link state, not configuration: every two compare
/// equal, and every clone of the parse shares it.
#[derive(Clone, Debug, Default)]
pub struct StateVal(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl StateVal {
    fn get(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn set(&self, v: bool) {
        self.0.store(v, std::sync::atomic::Ordering::Relaxed);
    }
}

impl PartialEq for StateVal {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for StateVal {}

impl StateLink {
    /// C `lnkState_string` (`lnkState.c:79-89`): a leading `!` inverts, but
    /// only `if (len > 1 && val[0] == '!')` — the one-character value `"!"`
    /// names a state called `!` and is not an inversion of the empty name.
    #[must_use]
    pub fn from_link_value(value: &str) -> Self {
        match value.strip_prefix('!') {
            Some(name) if !name.is_empty() => Self {
                name: name.to_string(),
                invert: true,
                val: StateVal::default(),
            },
            _ => Self {
                name: value.to_string(),
                invert: false,
                val: StateVal::default(),
            },
        }
    }

    /// The bit a reader sees: C `lnkState_getValue` (`lnkState.c:148`)
    /// computes `slink->invert ^ dbStateGet(slink->state)` into `slink->val`.
    #[must_use]
    pub fn read(&self, raw: bool) -> bool {
        let v = self.invert ^ raw;
        self.val.set(v);
        v
    }

    /// The bit a writer stores: C `lnkState_putValue` (`lnkState.c:196-200`)
    /// keeps the caller's truth value in `slink->val` and xors `invert` into
    /// what it hands `dbStateSet`/`dbStateClear`.
    #[must_use]
    pub fn write(&self, value: bool) -> bool {
        self.val.set(value);
        self.invert ^ value
    }

    /// C `lnkState_report` (`lnkState.c:99-105`).
    pub(crate) fn report(&self, indent: usize) -> Vec<String> {
        vec![format!(
            "{:indent$}'state': \"{}\" = {}{}",
            "",
            self.name,
            if self.invert { "! " } else { "" },
            if self.val.get() { "TRUE" } else { "FALSE" },
        )]
    }

    /// What C `lnkState_putValue` (`lnkState.c:153-203`) does with `value`.
    ///
    /// An array is its element 0 alone: past the `nRequest == 0` return the
    /// arms read `*pbuffer`. `DBR_STRING` is textual — "Only \"\" and \"0\"
    /// are FALSE" — so `"0.0"` is TRUE. A scalar `Enum` is TRUE when nonzero:
    /// it is what bo and mbbo hand over, and C passes those as `DBR_USHORT`.
    /// Only an `FTVL=ENUM` array reaches C as `DBR_ENUM`, which has no arm.
    #[must_use]
    pub fn put_of(value: &crate::types::EpicsValue) -> StatePut {
        use crate::types::EpicsValue as V;
        if value.is_empty_array() {
            return StatePut::Nothing;
        }
        if matches!(value, V::EnumArray(_)) {
            return StatePut::BadDbrType;
        }
        // Borrowed: the put runs under the writer's hold.
        let text = match value {
            V::String(s) => Some(s),
            V::StringArray(a) => a.first(),
            _ => None,
        };
        if let Some(s) = text {
            let b = s.as_bytes();
            let (b0, b1) = (b.first().copied(), b.get(1).copied());
            return StatePut::Truth(
                b0.is_some_and(|c| c != 0) && (b0 != Some(b'0') || b1.is_some_and(|c| c != 0)),
            );
        }
        let element = value.first_element();
        element
            .as_ref()
            .unwrap_or(value)
            .to_f64()
            .map_or(StatePut::BadDbrType, |v| StatePut::Truth(v != 0.0))
    }
}

/// [`StateLink::put_of`]: the three ways C `lnkState_putValue` leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatePut {
    /// Drive the bit from this truth value, before `invert`.
    Truth(bool),
    /// `nRequest == 0` (`lnkState.c:154-155`): status 0, nothing written.
    Nothing,
    /// No arm for the DBR class: `S_db_badDbrtype`.
    BadDbrType,
}

/// A single JLink option value, preserving the JSON value KIND parsed
/// from a `{pva:{...}}` longhand option.
///
/// pvxs's pvalink JLink callback table dispatches strictly by JSON type:
/// `pva_parse_null`/`pva_parse_bool`/`pva_parse_integer`/`pva_parse_string`
/// are wired to distinct slots and the real/double slot is `NULL`
/// (pvxs `ioc/pvalink_jlif.cpp:286-300`), so JSON reals are unsupported.
/// Critically, a JSON boolean (`pipeline:true`) and a JSON string
/// (`pipeline:"yes"`) reach DIFFERENT callbacks and are NOT
/// interchangeable: a string value on a boolean-only key falls through
/// `pva_parse_string`'s unknown-key branch and is ignored
/// (`pvxs/ioc/pvalink_jlif.cpp:189-191`), and a string `proc:"true"` is likewise
/// ignored because only `CP`/`CPP`/`PP`/`NPP`/empty are recognized
/// strings (`:156-170`). Collapsing every option to its text form erases
/// that distinction, so this enum carries the kind through to the pvalink
/// consumer, which reproduces pvxs's per-type dispatch exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JlinkValue {
    /// JSON `null` — `pva_parse_null` (`proc`→Default, `sevr`→NMS,
    /// `local`→false; pvxs/ioc/pvalink_jlif.cpp:69-88).
    Null,
    /// JSON boolean — `pva_parse_bool` (pvxs/ioc/pvalink_jlif.cpp:90-122).
    Bool(bool),
    /// JSON integer — `pva_parse_integer` (`Q`, `monorder`;
    /// pvxs/ioc/pvalink_jlif.cpp:124-141).
    Int(i64),
    /// JSON string — `pva_parse_string` (`pv`, `field`, and the `proc`/
    /// `sevr` enum strings; pvxs/ioc/pvalink_jlif.cpp:143-197).
    Str(String),
}

/// A PVA (`pvalink`) external link parsed from the structured JSON
/// longhand `{pva:{pv:"name", field:"f", proc:"CP", …}}`.
///
/// pvxs parses pvalink options only as JLink map keys / typed values
/// (pvxs/ioc/pvalink_jlif.cpp:69-196): booleans (`pipeline`/`time`/`retry`/
/// `local`/`atomic`), integers (`Q`/`monorder`), strings (`field`/
/// `proc`/`sevr`). There is no `?key=value` URI query parser in the
/// JLink callback table (pvxs/ioc/pvalink_jlif.cpp:286-300). Preserving the
/// options as structured pairs here keeps that provenance: the consumer
/// reads JLink members directly instead of re-parsing a synthetic query
/// string (which is exactly the non-pvxs syntax this representation
/// avoids).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PvaJsonLink {
    /// Channel name from the `pv` member.
    pub pv: String,
    /// Every member but the string `pv` name, in source order with
    /// repeats kept (pvxs applies each as it arrives) and original key case
    /// (`field`, `proc`, `sevr`, `Q`, `pipeline`, `time`, `retry`,
    /// `local`, `atomic`, `monorder`, …) and original JSON value KIND
    /// ([`JlinkValue`]). Empty when the map carried only `pv` — in that
    /// case [`parse_link_v2`] yields a plain [`ParsedLink::Pva`] rather
    /// than this variant.
    pub options: Box<[(String, JlinkValue)]>,
    /// [`Self::link_identity_key`], made once by [`Self::new`].
    identity: Box<str>,
    open: OpenLatch,
    /// Bound when the link is a forward link.
    pub forward: ForwardSlot,
}

// Every link read moves and clones `ParsedLink`s; at 72 bytes dfanout paid
// +4.6 instr/cycle in register spills (wpab2, 7f5939070).
const _: () = assert!(std::mem::size_of::<ParsedLink>() <= 64);

impl PvaJsonLink {
    pub fn new(pv: String, options: Vec<(String, JlinkValue)>) -> Self {
        let identity = pvajson_identity_key(&pv, &options);
        Self {
            pv,
            options: options.into_boxed_slice(),
            identity: identity.into_boxed_str(),
            open: OpenLatch::default(),
            forward: ForwardSlot::default(),
        }
    }

    /// Stable per-link identity key for the base→bridge link-set
    /// boundary — `pv` plus a canonical encoding of this link's options.
    ///
    /// Two structured `{pva:{pv:"SRC",…}}` links to the SAME PV that
    /// differ only by options (`field`, `Q`, `pipeline`, …) are distinct
    /// links and must keep distinct `pvaLinkConfig`s (pvxs
    /// `ioc/pvalink.h:65` — config is per-`pvaLink`; the shared channel
    /// is keyed separately by `(channelName, pvRequest)`,
    /// `ioc/pvalink.h:116`). The pvalink resolver caches each link's
    /// config under the string it is handed at resolve time; handing it
    /// the bare `pv` collapses every same-PV link onto one cache slot
    /// (last-writer-wins). This key restores per-link identity while the
    /// resolver still shares channels by bare PV + `(pipeline, Q)`.
    ///
    /// Delegates to [`pvajson_identity_key`] so the bridge can compute
    /// the identical key from the same `(pv, options)` at registration.
    pub fn link_identity_key(&self) -> &str {
        &self.identity
    }
}

/// An external link's identity and the state C keeps on its `caLink`: a
/// [`LinkSerial`] no other link has, set once its open is staged — the one
/// `CA_CONNECT` `dbCaAddLink` queues per `caLink` (`dbCa.c:397-401`) — and
/// set again once `dbCaRemoveLink` removed it (`dbCa.c:431-446`). It lives on
/// the parse because the parse is the `caLink` — a relink makes a new one,
/// which opens again — and it is what lets a cycle on a link that is down read
/// state instead of staging again. Not part of the parse's value, and shared
/// by every clone of the parse. Behind an `Arc` so `ParsedLink` holds no cell
/// inline (see [`ForwardSlot`]).
#[derive(Debug, Default)]
pub struct OpenLatch(std::sync::Arc<LinkCell>);

#[derive(Debug, Default)]
struct LinkCell {
    serial: LinkSerial,
    opened: std::sync::atomic::AtomicBool,
    removed: std::sync::atomic::AtomicBool,
    /// `pvlOptCP | pvlOptCPP` in C's `pv_link.pvlMask`.
    processes_holder: bool,
    /// The `pvlOptInpNative` `dbInitLink`/`dbAddLink` set (`dbLink.c:125-126`,
    /// `:180-181`): a `DBF_INLINK`.
    input: bool,
}

impl OpenLatch {
    /// The latch of a CA link in a field of `ftype`, parsed with `policy`.
    pub fn ca(policy: LinkProcessPolicy, ftype: LinkFieldType) -> Self {
        Self(std::sync::Arc::new(LinkCell {
            processes_holder: policy.cp_passive_only().is_some(),
            input: ftype == LinkFieldType::In,
            ..LinkCell::default()
        }))
    }

    /// A CP or CPP link: its events may process its holder.
    pub fn processes_holder(&self) -> bool {
        self.0.processes_holder
    }

    /// A `DBF_INLINK`: monitored from its connect. Any other CA link is
    /// monitored from its first read (`dbCa.c:455-457`).
    pub fn is_input(&self) -> bool {
        self.0.input
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.opened.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn set(&self) {
        self.0
            .opened
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }

    pub fn serial(&self) -> LinkSerial {
        self.0.serial
    }

    /// `dbCaRemoveLink` ran: an lset that keeps state per link must not
    /// create any for it from here on.
    pub fn is_removed(&self) -> bool {
        self.0.removed.load(std::sync::atomic::Ordering::Acquire)
    }

    pub(crate) fn remove(&self) {
        self.0
            .removed
            .store(true, std::sync::atomic::Ordering::Release);
    }
}

impl Clone for OpenLatch {
    fn clone(&self) -> Self {
        Self(std::sync::Arc::clone(&self.0))
    }
}

impl PartialEq for OpenLatch {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for OpenLatch {}

/// The link set an external link is addressed to. Typed rather than read
/// back from the name: C hands `dbCaAddLink` any PV name verbatim, so no
/// spelling of a name may select another set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkSetTarget {
    /// A `CA_LINK`: a `PV_LINK` no local record serves, or `{ca:…}`.
    Ca,
    /// A `{pva:…}` link, serviced by pvxs's `lsetPVX`.
    Pva,
}

impl LinkSetTarget {
    /// The scheme the set is registered under.
    pub fn scheme(self) -> &'static str {
        match self {
            LinkSetTarget::Ca => "ca",
            LinkSetTarget::Pva => "pva",
        }
    }
}

/// An external link as a cycle addresses it: its link set, its boundary
/// name and its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExternalRef<'a> {
    pub lset: LinkSetTarget,
    pub name: &'a [u8],
    pub open: &'a OpenLatch,
}

/// Separator byte between the bare `pv` and the encoded options in a
/// [`pvajson_identity_key`]. ASCII Unit Separator (`\u{1f}`); a JSON string
/// can carry it, so every field of the key is escaped (see
/// `PVAJSON_IDENTITY_ESC`) and a raw separator in a key is always one.
/// Shared so base (the key producer) and the bridge resolver (the key
/// consumer) cannot drift.
pub const PVAJSON_IDENTITY_SEP: char = '\u{1f}';

/// Escape inside a [`pvajson_identity_key`] field: `ESC 0` is the escape
/// itself, `ESC 1` the separator, and in an option key `ESC 2` is `=`.
const PVAJSON_IDENTITY_ESC: char = '\u{1e}';

fn push_identity_field(key: &mut String, field: &str, escape_eq: bool) {
    for c in field.chars() {
        match c {
            PVAJSON_IDENTITY_ESC => key.push_str("\u{1e}0"),
            PVAJSON_IDENTITY_SEP => key.push_str("\u{1e}1"),
            '=' if escape_eq => key.push_str("\u{1e}2"),
            c => key.push(c),
        }
    }
}

fn identity_field(field: &str) -> Option<Cow<'_, str>> {
    if !field.contains(PVAJSON_IDENTITY_ESC) {
        return Some(Cow::Borrowed(field));
    }
    let mut out = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        out.push(if c != PVAJSON_IDENTITY_ESC {
            c
        } else {
            match chars.next()? {
                '0' => PVAJSON_IDENTITY_ESC,
                '1' => PVAJSON_IDENTITY_SEP,
                '2' => '=',
                _ => return None,
            }
        });
    }
    Some(Cow::Owned(out))
}

/// Build the stable link-identity key for a structured pvalink from its
/// `pv` and parsed JLink options — see [`PvaJsonLink::link_identity_key`].
///
/// The encoding is INTERNAL to the base↔bridge link-set boundary and is
/// deliberately NOT pvxs link syntax and NOT a `?key=value` user URI:
/// the escaped `pv`, then each option as `key=kind:value`, every one led
/// by [`PVAJSON_IDENTITY_SEP`]. Sorting makes the key canonical regardless
/// of option order. A link with no options whose `pv` needs no escape is
/// keyed by the bare `pv`, the identity it shares with `{pva:"pv"}`.
pub fn pvajson_identity_key(pv: &str, options: &[(String, JlinkValue)]) -> String {
    let mut key = String::with_capacity(pv.len());
    push_identity_field(&mut key, pv, false);
    if options.is_empty() {
        if key.len() != pv.len() {
            key.push(PVAJSON_IDENTITY_SEP);
        }
        return key;
    }
    let mut pairs: Vec<String> = options
        .iter()
        .map(|(k, v)| {
            let mut p = String::new();
            push_identity_field(&mut p, k, true);
            match v {
                JlinkValue::Null => p.push_str("=n"),
                JlinkValue::Bool(b) => p.push_str(if *b { "=b:true" } else { "=b:false" }),
                JlinkValue::Int(n) => p.push_str(&format!("=i:{n}")),
                JlinkValue::Str(s) => {
                    p.push_str("=s:");
                    push_identity_field(&mut p, s, false);
                }
            }
            p
        })
        .collect();
    pairs.sort();
    key.reserve(pairs.iter().map(|p| p.len() + 1).sum());
    for p in &pairs {
        key.push(PVAJSON_IDENTITY_SEP);
        key.push_str(p);
    }
    key
}

/// [`pvajson_identity_key`] read back into the `pv` and options it was made
/// from, so a link set configures a structured link from the key every call
/// hands it, whatever path opened the link. `None` for a key with no
/// separator, which names a bare `pv`.
pub fn pvajson_identity_parts(key: &str) -> Option<(Cow<'_, str>, Vec<(String, JlinkValue)>)> {
    let (pv, rest) = key.split_once(PVAJSON_IDENTITY_SEP)?;
    let options = if rest.is_empty() {
        Vec::new()
    } else {
        rest.split(PVAJSON_IDENTITY_SEP)
            .map(|p| {
                let (k, v) = p.split_once('=')?;
                let v = match v.split_once(':') {
                    None if v == "n" => JlinkValue::Null,
                    Some(("b", b)) => JlinkValue::Bool(b.parse().ok()?),
                    Some(("i", n)) => JlinkValue::Int(n.parse().ok()?),
                    Some(("s", s)) => JlinkValue::Str(identity_field(s)?.into_owned()),
                    _ => return None,
                };
                Some((identity_field(k)?.into_owned(), v))
            })
            .collect::<Option<Vec<_>>>()?
    };
    Some((identity_field(pv)?, options))
}

/// One element of a `lnkCalc` `args` array.
///
/// C gives each slot two producers and one index: `lnkCalc_integer` and
/// `lnkCalc_double` write a bare number straight into `arg[nArgs++]`
/// (`lnkCalc.c:141`, `:161`), while an embedded JSON link takes
/// `inp[nArgs++]` (`lnkCalc.c:353`) and overwrites `arg[i]` from
/// `dbGetLink` at read time (`lnkCalc.c:585`). A slot is a value or a
/// link and never both, which is why this is a sum type rather than a
/// name string that some parse steps happen to fill in.
#[derive(Clone, Debug, PartialEq)]
pub enum CalcArg {
    /// A numeric literal, held for the life of the link. C leaves the
    /// matching `inp[i]` zeroed, i.e. a CONSTANT link, and `dbGetLink` on
    /// a constant delivers nothing (`dbConstLink.c:219-225`
    /// `*pnRequest = 0`), so nothing ever overwrites `arg[i]`.
    Literal(f64),
    /// An embedded JSON link — `{pva:"record"}`, `{const:2}`, a nested
    /// `{calc:…}`. Read once per evaluation, no processing.
    Link(Box<ParsedLink>),
}

/// Configuration for a `lnkCalc` link.
#[derive(Clone, Debug, PartialEq)]
pub struct CalcLink {
    /// Calc expression in epics-base postfix syntax — e.g. `"A+B*2"`,
    /// `"MAX(A,B,C)"`. Variables A.. bind to `args` by position, up to
    /// [`CALC_NARGS`](crate::calc::CALC_NARGS). An input link always has
    /// one (`lnkCalc.c:305-308`); an output link without one puts the
    /// value it was given (`lnkCalc.c:674-675`).
    pub expr: Option<String>,
    /// C `post_major` / `post_minor` (`lnkCalc.c:208-215`): a non-zero
    /// result raises LINK/MAJOR or LINK/MINOR on the record.
    pub major: Option<String>,
    pub minor: Option<String>,
    /// C `clink->out` (`lnkCalc.c:355-357`), the child link an output
    /// link puts its result through; `None` on an input link.
    pub out: Option<std::sync::Arc<ParsedLink>>,
    /// Input arguments. Each `args[i]` is resolved at link-read time and
    /// bound to the calc engine's variable slot at index `i` (0→A, 1→B,
    /// …). At most [`CALC_NARGS`](crate::calc::CALC_NARGS) of them — C stops the parse at the
    /// limit rather than truncating (`lnkCalc.c:135-139`).
    pub args: Vec<CalcArg>,
    /// C `clink->tinp` (`lnkCalc.c:184`) as its letter: the input whose
    /// timestamp and userTag the reading record adopts. Normalised to upper
    /// case and bounded by [`CALC_NARGS`](crate::calc::CALC_NARGS) (`lnkCalc.c:180-186`), so it
    /// indexes `args` directly. `None` is C's `tinp = -1` —
    /// `lnkCalc_getTimestampTag` returns -1 and the consumer keeps its own
    /// `apply_timestamp` time.
    pub time_source: Option<char>,
    /// C `clink->val`: the last result, which `VAL` reads in the next
    /// evaluation; `clink->arg`, which a failed input read leaves as it
    /// was; and `clink->time`/`utag`, which only a good read of the `time`
    /// input changes.
    pub val: CalcVal,
    /// C `clink->prec` and `clink->units` (`lnkCalc.c:95`, `:125-127`,
    /// `:172-174`): 15 and none unless the link sets them.
    pub prec: i16,
    pub units: Option<String>,
}

/// One `dbjlr` line and where C prints it: base's lnk*.c and dbJLink.c
/// print with plain `printf`, on the console; pvxs's `pva_report` with
/// `epicsStdio.h`'s `printf`, which `cmd > f` redirects.
pub(crate) enum ReportLine {
    Console(String),
    Stdout(String),
}

impl CalcLink {
    /// C `lnkCalc_report` (`lnkCalc.c:377-425`): the expression and the last
    /// result; from level 1 the alarm the last evaluation raised, the alarm
    /// expressions, the timestamp input, each argument with its child link's
    /// report, and the output link's.
    pub(crate) fn report(
        &self,
        db: &crate::server::database::PvDatabase,
        level: i32,
        indent: usize,
    ) -> Vec<ReportLine> {
        use crate::types::DbfLinkClass;
        use epics_libcom_rs::cfmt::CFloat;
        let pad = " ".repeat(indent);
        // `%.*g` takes a negative precision as omitted.
        let prec = usize::try_from(self.prec).unwrap_or(6);
        let mut out = vec![ReportLine::Console(format!(
            "{pad}'calc': \"{}\" = {:.prec$} {}",
            self.expr.as_deref().unwrap_or("(null)"),
            CFloat(self.val.get()).g(),
            self.units.as_deref().unwrap_or(""),
        ))];
        if level <= 0 {
            return out;
        }
        let sevr = self.val.post_sevr();
        if sevr != AlarmSeverity::NoAlarm {
            // C's output-link `minor` copies "post_major error" into the link
            // (`lnkCalc.c:696`); the record gets "post_minor error", as here.
            let amsg = if sevr == AlarmSeverity::Major {
                "post_major error"
            } else {
                "post_minor error"
            };
            out.push(ReportLine::Console(format!(
                "{pad}  Alarm: {}, {}, \"{amsg}\"",
                crate::server::record::dbd_generated::MENU_ALARM_SEVR[sevr as usize],
                crate::server::recgbl::alarm_condition_string(
                    crate::server::recgbl::alarm_status::LINK_ALARM
                ),
            )));
        }
        if let Some(major) = &self.major {
            out.push(ReportLine::Console(format!(
                "{pad}  Major expression: \"{major}\""
            )));
        }
        if let Some(minor) = &self.minor {
            out.push(ReportLine::Console(format!(
                "{pad}  Minor expression: \"{minor}\""
            )));
        }
        if let Some(letter) = self.time_source {
            let time = crate::server::builtin_devices::timestamp::epics_time_to_strftime_in(
                40,
                "%Y-%m-%d %H:%M:%S.%09f",
                self.val.stamp().0,
            );
            out.push(ReportLine::Console(format!(
                "{pad}  Timestamp input {letter}: {time}"
            )));
        }
        for (i, arg) in self.args.iter().enumerate() {
            let (value, child) = match arg {
                CalcArg::Literal(n) => (*n, None),
                CalcArg::Link(link) => (self.val.arg(i), Some(link)),
            };
            let letter = char::from(b'A' + i as u8);
            out.push(ReportLine::Console(format!(
                "{pad}  Input {letter}: {}",
                CFloat(value).g()
            )));
            if let Some(child) = child {
                out.extend(child.jlink_report(
                    db,
                    Some(DbfLinkClass::InLink),
                    level - 1,
                    indent + 4,
                ));
            }
        }
        if let Some(link) = &self.out {
            out.push(ReportLine::Console(format!("{pad}  Output:")));
            out.extend(link.jlink_report(db, Some(DbfLinkClass::OutLink), level - 1, indent + 4));
        }
        out
    }
}

/// C `clink->arg`, `time`, `utag`, `val` and `sevr` (`lnkCalc.c:53`,
/// `:65-68`): what one
/// evaluation leaves for the next. Link state, not configuration: every two
/// compare equal, and every clone of the parse shares it. Behind an `Arc` so
/// `ParsedLink` holds no cell inline (see [`ForwardSlot`]).
#[derive(Default)]
pub struct CalcVal(std::sync::Arc<[std::sync::atomic::AtomicU64; CalcVal::SEVR + 1]>);

impl CalcVal {
    pub fn get(&self) -> f64 {
        self.load(0)
    }

    pub fn set(&self, val: f64) {
        self.store(0, val);
    }

    /// `clink->arg[i]`.
    pub(crate) fn arg(&self, i: usize) -> f64 {
        self.load(1 + i)
    }

    pub(crate) fn set_arg(&self, i: usize, val: f64) {
        self.store(1 + i, val);
    }

    /// C `clink->sevr` (`lnkCalc.c:587-626`): what the last evaluation's
    /// `major` or `minor` raised, which only the report reads.
    pub(crate) fn post_sevr(&self) -> AlarmSeverity {
        let sevr = self.0[Self::SEVR].load(std::sync::atomic::Ordering::Relaxed);
        AlarmSeverity::from_u16(sevr as u16)
    }

    pub(crate) fn set_post_sevr(&self, sevr: AlarmSeverity) {
        self.0[Self::SEVR].store(sevr as u64, std::sync::atomic::Ordering::Relaxed);
    }

    const TIME: usize = 1 + crate::calc::engine::CALC_NARGS;
    const UTAG: usize = Self::TIME + 1;
    const SEVR: usize = Self::UTAG + 1;
    /// The time slot counts nanoseconds from the EPICS epoch, wrapping, so
    /// the zeroed slot is `{0,0}` and every `WallTime` round-trips.
    const EPICS_EPOCH_NANOS: u64 =
        crate::runtime::general_time::EPICS_EPOCH_UNIX_SECS * 1_000_000_000;

    /// `clink->time` and `clink->utag`, `{0,0}` and 0 until the `time`
    /// input first reads.
    pub(crate) fn stamp(&self) -> (crate::types::WallTime, u64) {
        use std::sync::atomic::Ordering::Relaxed;
        let unix = self.0[Self::TIME]
            .load(Relaxed)
            .wrapping_add(Self::EPICS_EPOCH_NANOS);
        (
            crate::types::WallTime::from_unix(unix / 1_000_000_000, (unix % 1_000_000_000) as u32),
            self.0[Self::UTAG].load(Relaxed),
        )
    }

    pub(crate) fn set_stamp(&self, time: crate::types::WallTime, utag: u64) {
        use std::sync::atomic::Ordering::Relaxed;
        let unix = u64::try_from(time.since_unix_epoch().as_nanos()).unwrap_or(u64::MAX);
        self.0[Self::TIME].store(unix.wrapping_sub(Self::EPICS_EPOCH_NANOS), Relaxed);
        self.0[Self::UTAG].store(utag, Relaxed);
    }

    fn load(&self, slot: usize) -> f64 {
        f64::from_bits(self.0[slot].load(std::sync::atomic::Ordering::Relaxed))
    }

    fn store(&self, slot: usize, val: f64) {
        self.0[slot].store(val.to_bits(), std::sync::atomic::Ordering::Relaxed);
    }
}

impl Clone for CalcVal {
    fn clone(&self) -> Self {
        Self(std::sync::Arc::clone(&self.0))
    }
}

impl PartialEq for CalcVal {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// `clink->val` as `lnkCalc_report` prints a value (`lnkCalc.c:382`), `%g`.
impl std::fmt::Debug for CalcVal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", epics_libcom_rs::cfmt::CFloat(self.get()).g())
    }
}

/// Monitor propagation policy for links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MonitorSwitch {
    /// NMS: Do not propagate alarm severity from link source.
    #[default]
    NoMaximize,
    /// MS: Maximize alarm severity from link source into this record.
    Maximize,
    /// MSS: Maximize severity, set status from source.
    MaximizeStatus,
    /// MSI: Maximize severity if source is invalid.
    MaximizeIfInvalid,
}

/// A database link to another record's field.
///
/// The name is PRIVATE, and deliberately: it has two readings that are not
/// the same string, and a caller that can reach the field can only pick one
/// of them by accident. [`Self::pvname`] is the unsplit name C keeps in
/// `plink->value.pv_link.pvname`; [`Self::target`] is that name resolved
/// into record, field and filter. For `src.[2]` the first is `src.[2]` and
/// the second is (`src`, `VAL`, `arr`) — reading the raw halves gets a
/// "record" of `src.[2]` and a "field" of `VAL`, which is what made the
/// local lookup miss, `dbInitLink` locality rewrite the link as CA and the
/// link never connect. Callers now have to say which meaning they want.
#[derive(Clone, Debug, PartialEq)]
pub struct DbLink {
    /// The record half of the modifier-stripped link text, as
    /// [`split_record_field`] divided it — NOT the addressed record: a name
    /// whose remainder is not a field identifier (`src.[2]`, `A.B.C`) keeps
    /// the whole string here, exactly as C leaves it until
    /// `dbChannelCreate` walks the filter.
    record: crate::types::RecordName,
    /// The field half of the same split, or `VAL` when the name carried
    /// none — again the split, not the addressed field: `src.NORD[2]` leaves
    /// `VAL` here while the channel it names addresses `NORD`.
    field: String,
    pub policy: LinkProcessPolicy,
    pub monitor_switch: MonitorSwitch,
    /// [`Self::pvname`] resolved, computed ONCE here because
    /// [`Self::new`] is the only way to make a `DbLink` — so the two cannot
    /// drift, and no reader pays for the resolution.
    ///
    /// It used to be re-derived on every [`Self::target`] call: the name
    /// reassembled out of the halves above and handed back to
    /// `parse_channel_name`, five string allocations to recover a split this
    /// struct had already made. A process cycle asks it several times per
    /// link — the value read, the self-link test, the out-target resolve —
    /// where C dereferences a `dbAddr` it filled in at `dbInitLink`.
    channel: crate::server::database::filters::ChannelName,
    /// Whether [`Self::target`] addresses `VAL`, whose local name is the
    /// record's own and so cannot be a simple PV shadowing the field.
    target_is_val: bool,
    /// [`Self::pvname`], assembled once: a target that is not local is read
    /// through it every cycle.
    pvname: crate::types::RecordName,
    /// The latch of the external open a target that is not local takes.
    open: OpenLatch,
    /// C's `dbAddr` from `dbDbInitLink`: the local record and field this
    /// link resolved to, so a read does no name work. Not part of the link's
    /// identity — a clone starts empty and equality ignores it.
    addr: DbAddrCell,
}

/// `record` for a default-`VAL` split, `record.FIELD` otherwise.
fn reassemble<'a>(record: &'a [u8], field: &str) -> std::borrow::Cow<'a, [u8]> {
    if field == "VAL" {
        std::borrow::Cow::Borrowed(record)
    } else {
        std::borrow::Cow::Owned([record, b".", field.as_bytes()].concat())
    }
}

/// What a [`DbLink`]'s target name answers at one name-map revision.
pub(crate) enum DbLinkAnswer {
    /// A local record — C's `dbAddr`.
    Local(super::record_instance::ResolvedTarget),
    /// A simple PV spelling the target `REC.FLD`, which shadows the field.
    Shadowed(std::sync::Arc<crate::server::pv::ProcessVariable>),
    /// A name this IOC serves, but no readable record field; the by-name
    /// path decides.
    Absent,
    /// Not served here: C `dbInitLink` hands it to `dbCaAddLink`
    /// (`dbLink.c:118-130`), and so is settled like an address.
    External,
}

/// The settled [`DbLinkAnswer`] of a [`DbLink`], stamped with the name-map
/// revision it was resolved under and re-resolved once that moves (records,
/// aliases and simple PVs can come and go after `iocInit` here, unlike C).
///
/// Two caches, because a link target handle never outlives its target's map
/// entry and only the reader's `INP` is reached by the sweep that enforces
/// it. `owned` (any link, any caller) keeps a `Weak`, so no record is held
/// by a link no sweep reaches. `lent` ([`DbLink::lend_addr`], reachable only
/// through `RecordInstance::lend_inp_addr` and [`DbLink::lend_out_addr`])
/// keeps strong handles, which
/// [`DbLink::release_addr`] drops when the target is removed or the reader
/// destroyed; until then it keeps every target it has published — one per
/// retarget, not per read — since a lent one may still be borrowed.
struct DbAddrCell {
    owned: parking_lot::Mutex<Option<CachedDbAddr>>,
    /// The name-map revision `current` answers for; `u64::MAX` for none.
    revision: std::sync::atomic::AtomicU64,
    /// The newest entry of `lent`, or null when the answer at `revision` is
    /// not a local record.
    current: std::sync::atomic::AtomicPtr<super::record_instance::ResolvedTarget>,
    lent: parking_lot::Mutex<Vec<std::sync::Arc<super::record_instance::ResolvedTarget>>>,
    /// C `dbDbInitLink`'s `precord` for a forward link: the target's
    /// record-table index, bound when the link is initialised or put
    /// (`dbInitLink` / `dbAddLink`) and only read by a dispatch; `0` unbound.
    forward: std::sync::atomic::AtomicU32,
}

impl Default for DbAddrCell {
    fn default() -> Self {
        Self {
            owned: parking_lot::Mutex::new(None),
            revision: std::sync::atomic::AtomicU64::new(NO_REVISION),
            current: std::sync::atomic::AtomicPtr::new(std::ptr::null_mut()),
            lent: parking_lot::Mutex::new(Vec::new()),
            forward: std::sync::atomic::AtomicU32::new(0),
        }
    }
}

const NO_REVISION: u64 = u64::MAX;

struct CachedDbAddr {
    answer: CachedAnswer,
    revision: u64,
}

enum CachedAnswer {
    Local {
        rec: std::sync::Weak<super::record_instance::RecordCell>,
        name: crate::types::RecordName,
        put: super::record_instance::PutAddr,
        f64_slot: Option<super::record_trait::FieldSlot>,
        final_no_elements: u32,
    },
    Shadowed(std::sync::Arc<crate::server::pv::ProcessVariable>),
    Absent,
    External,
}

impl Clone for DbAddrCell {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for DbAddrCell {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl std::fmt::Debug for DbAddrCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DbAddrCell")
    }
}

impl DbLink {
    /// Bind this forward link to its local target, as `dbDbInitLink` sets
    /// `precord`; only the init pass and a link put bind.
    pub(crate) fn bind_forward(&self, target: crate::server::database::RecordIdx) {
        self.addr
            .forward
            .store(target.raw(), std::sync::atomic::Ordering::Relaxed);
    }

    /// The target [`Self::bind_forward`] bound, `None` before a bind.
    #[inline(always)]
    pub(crate) fn forward(&self) -> Option<crate::server::database::RecordIdx> {
        crate::server::database::RecordIdx::from_raw(
            self.addr.forward.load(std::sync::atomic::Ordering::Relaxed),
        )
    }

    /// The answer at name-map `revision`: the cached one while the maps are
    /// at the revision it was resolved under, else `resolve`'s, cached.
    pub(crate) fn answer(
        &self,
        revision: u64,
        resolve: impl FnOnce() -> DbLinkAnswer,
    ) -> DbLinkAnswer {
        if let Some(cached) = &*self.addr.owned.lock()
            && cached.revision == revision
        {
            match &cached.answer {
                CachedAnswer::Local {
                    rec,
                    name,
                    put,
                    f64_slot,
                    final_no_elements,
                } => {
                    if let Some(rec) = rec.upgrade() {
                        return DbLinkAnswer::Local(super::record_instance::ResolvedTarget {
                            rec,
                            name: name.clone(),
                            put: *put,
                            f64_slot: *f64_slot,
                            final_no_elements: *final_no_elements,
                        });
                    }
                }
                CachedAnswer::Shadowed(pv) => return DbLinkAnswer::Shadowed(pv.clone()),
                CachedAnswer::Absent => return DbLinkAnswer::Absent,
                CachedAnswer::External => return DbLinkAnswer::External,
            }
        }
        let answer = resolve();
        let cached = match &answer {
            DbLinkAnswer::Local(target) => CachedAnswer::Local {
                rec: std::sync::Arc::downgrade(&target.rec),
                name: target.name.clone(),
                put: target.put,
                f64_slot: target.f64_slot,
                final_no_elements: target.final_no_elements,
            },
            DbLinkAnswer::Shadowed(pv) => CachedAnswer::Shadowed(pv.clone()),
            DbLinkAnswer::Absent => CachedAnswer::Absent,
            DbLinkAnswer::External => CachedAnswer::External,
        };
        *self.addr.owned.lock() = Some(CachedDbAddr {
            answer: cached,
            revision,
        });
        answer
    }

    /// The local target of [`Self::answer`], lent instead of cloned: on a
    /// hit two loads and a compare, no lock and no refcount — C's `dbAddr`
    /// dereference. A settled non-local answer is a hit too, so it is not
    /// re-resolved each read. The handle is strong (see [`DbAddrCell`]).
    ///
    /// # Safety
    ///
    /// [`Self::release_addr`] must not run while the returned borrow lives.
    /// Private, so the lenders are
    /// [`super::record_instance::RecordInstance::lend_inp_addr`], whose
    /// `&mut` reader excludes `release_addr`'s callers, and
    /// [`Self::lend_out_addr`], whose `&SetGuard` does.
    #[inline(always)]
    unsafe fn lend_addr(
        &self,
        revision: u64,
        resolve: impl FnOnce() -> DbLinkAnswer,
    ) -> Option<&super::record_instance::ResolvedTarget> {
        use std::sync::atomic::Ordering::Acquire;
        if self.addr.revision.load(Acquire) == revision {
            let at = self.addr.current.load(Acquire);
            // SAFETY: a non-null `current` points into `lent`, which only
            // `release_addr` empties, and the caller excludes that.
            return (!at.is_null()).then(|| unsafe { &*at });
        }
        // SAFETY: as above, for the entry the miss publishes.
        self.publish_lent(revision, resolve)
            .map(|at| unsafe { &*std::sync::Arc::as_ptr(&at) })
    }

    /// An output link's local target lent for as long as the writer holds
    /// `held`, the set of the record that owns this link: C's `dbAddr` of
    /// `dbDbPutValue`. `None` is no settled local answer; the caller takes
    /// [`Self::answer`]'s owned route for it.
    ///
    /// Sound because `release_addr` runs only from
    /// `RecordInstance::release_link_addrs`, with the link's owner taken by
    /// a full acquire: `held` keeps that from every other thread, and this
    /// thread cannot reach it from inside a frame.
    #[inline(always)]
    pub(crate) fn lend_out_addr<'g>(
        &'g self,
        _held: &'g crate::server::database::SetGuard,
        revision: u64,
        resolve: impl FnOnce() -> DbLinkAnswer,
    ) -> Option<&'g super::record_instance::ResolvedTarget> {
        // SAFETY: see above; the borrow is tied to `held`.
        unsafe { self.lend_addr(revision, resolve) }
    }

    /// Resolve (outside the cell lock: `resolve` takes record locks) and
    /// publish the answer to `lent`. The same record re-resolved under a moved
    /// revision keeps its entry, since its field address is a function of
    /// the record.
    #[cold]
    #[inline(never)]
    fn publish_lent(
        &self,
        revision: u64,
        resolve: impl FnOnce() -> DbLinkAnswer,
    ) -> Option<std::sync::Arc<super::record_instance::ResolvedTarget>> {
        use std::sync::atomic::Ordering::Release;
        let DbLinkAnswer::Local(target) = resolve() else {
            self.addr.current.store(std::ptr::null_mut(), Release);
            self.addr.revision.store(revision, Release);
            return None;
        };
        let mut lent = self.addr.lent.lock();
        let entry = match lent.last() {
            Some(last) if std::sync::Arc::ptr_eq(&last.rec, &target.rec) => last.clone(),
            _ => {
                let entry = std::sync::Arc::new(target);
                lent.push(entry.clone());
                entry
            }
        };
        self.addr
            .current
            .store(std::sync::Arc::as_ptr(&entry).cast_mut(), Release);
        self.addr.revision.store(revision, Release);
        Some(entry)
    }

    /// Drop every lent target the cell holds — the [`DbAddrCell`] half of the
    /// rule that a link target handle never outlives its target's map
    /// entry.
    ///
    /// # Safety
    ///
    /// No borrow from [`Self::lend_addr`] may be live: call it only with
    /// the reader that lends this link exclusively borrowed.
    pub(crate) unsafe fn release_addr(&self) {
        use std::sync::atomic::Ordering::Release;
        let mut lent = self.addr.lent.lock();
        self.addr.current.store(std::ptr::null_mut(), Release);
        // A null `current` at a live revision is a settled answer, so the
        // emptied cell must answer for none.
        self.addr.revision.store(NO_REVISION, Release);
        lent.clear();
    }

    /// Build a DB link from the modifier-stripped PV name, applying C
    /// `dbNameToAddr`'s record/field split (`split_record_field`) and its
    /// "absent field name" fallback to `VAL` (`dbFindFieldPart`,
    /// `dbStaticLib.c:1802-1811`).
    ///
    /// The only way to make a `DbLink`, so the split and the fallback have
    /// one implementation rather than one per construction site, and a
    /// `record`/`field` pair that the split could never have produced is
    /// not constructible.
    pub fn new(
        pvname: impl AsRef<[u8]>,
        policy: LinkProcessPolicy,
        monitor_switch: MonitorSwitch,
    ) -> Self {
        let pvname = pvname.as_ref();
        let (record, field) = match split_record_field(pvname) {
            Some((record, field)) => (record, field),
            None => (pvname, "VAL".to_string()),
        };
        let record = crate::types::RecordName::from(record);
        // From the REASSEMBLED name, not the caller's: `src.VAL` and `src`
        // split alike but are not the same `record_path`, and `pvname` is
        // what every reader of this link addresses.
        let pvname: crate::types::RecordName = match reassemble(&record, &field) {
            std::borrow::Cow::Borrowed(_) => record.clone(),
            std::borrow::Cow::Owned(name) => name.into(),
        };
        let channel = crate::server::database::filters::parse_channel_name(&pvname);
        let target_is_val = channel.field == "VAL";
        Self {
            record,
            field,
            policy,
            monitor_switch,
            channel,
            target_is_val,
            pvname,
            open: OpenLatch::default(),
            addr: DbAddrCell::default(),
        }
    }

    /// The UNSPLIT name, verbatim: `record` for a default-`VAL` link,
    /// `record.FIELD` otherwise.
    ///
    /// This is the string C keeps in `plink->value.pv_link.pvname` and hands
    /// to `dbChannelCreate` (`dbDbLink.c:94`) and, when that fails, to
    /// `dbCaAddLink` (`dbLink.c:128`) — so the DB-link target name and the
    /// CA channel name a non-local target falls through to are the same
    /// string by construction, not by two sites agreeing to build it alike.
    /// Ask for it when the CA/PVA boundary is what you are feeding, or when
    /// you want a per-link identity; ask [`Self::target`] for anything that
    /// resolves against this IOC's record map.
    pub fn pvname(&self) -> &crate::types::RecordName {
        &self.pvname
    }

    /// [`Self::pvname`] as an external link: C `dbInitLink` makes a target
    /// this IOC does not hold a CA link (`dbLink.c:118-130`).
    pub fn external(&self) -> ExternalRef<'_> {
        ExternalRef {
            lset: LinkSetTarget::Ca,
            name: &self.pvname,
            open: &self.open,
        }
    }

    /// The record, field and channel filter [`Self::pvname`] addresses.
    ///
    /// The split itself is not made here.
    /// [`parse_channel_name`](crate::server::database::filters::parse_channel_name)
    /// owns it for CA CREATE_CHANNEL and both PVA sources, and owning it
    /// for links too is what keeps "where does the name stop and the
    /// filter begin" one answer instead of four.
    pub fn target(&self) -> &crate::server::database::filters::ChannelName {
        &self.channel
    }

    /// [`Self::target`]'s field as the link text spells it: `ChannelName`
    /// upper-cases its `field`, and `dbFindFieldPart` compares the name as
    /// written. The `$` modifier is not part of the name.
    pub(crate) fn field_as_written(&self) -> &str {
        let field = crate::server::database::parse_pv_name(&self.channel.record_path).1;
        field.strip_suffix('$').unwrap_or(field)
    }

    /// Whether [`Self::target`]'s field is `VAL` (see `target_is_val`).
    pub(crate) fn target_is_val(&self) -> bool {
        self.target_is_val
    }
}

/// A Channel Access / PV Access external link to a remote PV.
///
/// carries the parsed `MS`/`NMS`/`MSI`/`MSS` maximize-
/// severity policy alongside the PV name, so the alarm gate is applied
/// at the record-processing boundary (uniform with [`DbLink`]) rather
/// than discarded as syntax. Mirrors the C link option parsed by
/// `dbStaticLib.c:2375` and applied by `recGbl.c:263-281`. The PV name never
/// carries trailing modifier tokens (they are stripped during parse);
/// it is the name as written, which C hands `dbCaAddLink` verbatim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaLink {
    pub pv: crate::types::RecordName,
    pub monitor_switch: MonitorSwitch,
    /// Link-processing policy carried by this link's parsed modifier. When
    /// it is `CP`/`CPP` the link set processes the holder on each monitor
    /// event (C `dbCa.c:958-962` `CA_DBPROCESS`); every `CP`/`CPP` PV link is
    /// a `CaLink`, local target or not (`dbLink.c:118-122`). `"OTHER:PV CP
    /// CA"` is `pvlOptCA` alone (`dbStaticLib.c:2369-2373`): no CP policy.
    pub policy: LinkProcessPolicy,
    /// C `pvlOptFWD`: a `DBF_FWDLINK` whose PV names a PROC field, the only
    /// CA forward link dbCa's `scanForward` puts through (`dbLink.c:131-136`,
    /// `:186-191`; `dbCa.c:643-648`). See [`ca_forward_flag`].
    pub fwd: bool,
    pub open: OpenLatch,
    /// Spelled `{ca:…}`. That JSON link type is this port's only (C base
    /// registers none), typed `JSON_LINK` by C's braces rule
    /// (`dbStaticLib.c:2280-2287`), so `dbInitLink` never makes it a
    /// `CA_LINK` ([`ParsedLink::link_type_after_init`]).
    pub json: bool,
}

/// C's `pvlOptFWD` test for a CA link in a field of type `ftype`:
/// `strrchr(pvname, '.')` then `strstr(pperiod, "PROC")`.
pub fn ca_forward_flag(ftype: LinkFieldType, pv: &[u8]) -> bool {
    ftype == LinkFieldType::Fwd
        && pv
            .iter()
            .rposition(|&b| b == b'.')
            .is_some_and(|dot| has_modifier(&pv[dot..], b"PROC"))
}

/// What C `dbScanFwdLink` hands an external forward link's lset, borrowed
/// from the parse ([`ParsedLink::external_forward`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalForward<'a> {
    /// dbCa: put 1 through `link` when `fwd` ([`CaLink::fwd`]), else nothing.
    Ca { link: ExternalRef<'a>, fwd: bool },
    /// The `pva` lset's `scanForward`, through the handle the link was
    /// opened with.
    Pva(&'a ForwardSlot),
}

/// An external forward link's `scanForward` handle: C's `plink->lset` plus
/// what `openLink` stored in the link, set by `PvDatabase`'s binding owner
/// when the link is opened (lset registration, `iocInit`, `dbAddLink`) and
/// only read by a dispatch. Empty means no lset has opened the link, which
/// a dispatch skips: C `dbScanFwdLink` calls `scanForward` only when
/// `plink->lset` is set (`dbLink.c:475-481`), and raises nothing.
///
/// Set once: C opens a link once (`DBLINK_FLAG_INITIALIZED`,
/// `dbLink.c:96-100`), so the first bind wins, and every clone of the link
/// shares it. It is the link's state, not its identity: two parses of one
/// text are equal whatever is bound.
///
/// The cell sits behind the `Arc` so that `ParsedLink` holds no
/// `UnsafeCell` inline: a `!Freeze` `ParsedLink` loses `noalias readonly` on
/// every `&ParsedLink`, and dfanout's link read paid +5.9 instr/cycle in
/// reloads across calls (wpab2, c54f1c92d).
#[derive(Clone, Default)]
pub struct ForwardSlot(std::sync::Arc<std::sync::OnceLock<Handle>>);

type Handle = Box<dyn crate::server::database::LinkForward>;

impl ForwardSlot {
    /// Open the link with `open` unless it is open already.
    pub(crate) fn bind(&self, open: impl FnOnce() -> Handle) {
        self.0.get_or_init(open);
    }

    /// C `dbScanFwdLink` → `lset->scanForward(plink)`.
    #[inline]
    pub fn scan_forward(&self) -> Result<(), crate::server::database::LinkForwardRefused> {
        match self.0.get() {
            Some(handle) => handle.scan_forward(),
            None => Ok(()),
        }
    }

    pub fn is_bound(&self) -> bool {
        self.0.get().is_some()
    }
}

impl std::fmt::Debug for ForwardSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_bound() {
            "ForwardSlot(bound)"
        } else {
            "ForwardSlot"
        })
    }
}

impl PartialEq for ForwardSlot {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ForwardSlot {}

/// [`ParsedLink::Pva`]'s channel name and the [`ForwardSlot`] it is opened
/// into when it is a forward link. Derefs to the channel name.
#[derive(Clone, PartialEq, Eq)]
pub struct PvaChannelLink {
    name: Box<str>,
    open: OpenLatch,
    pub forward: ForwardSlot,
}

impl PvaChannelLink {
    pub fn new(name: impl AsRef<str>) -> Self {
        Self {
            name: name.as_ref().into(),
            open: OpenLatch::default(),
            forward: ForwardSlot::default(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Default for PvaChannelLink {
    fn default() -> Self {
        Self::new("")
    }
}

impl std::ops::Deref for PvaChannelLink {
    type Target = str;
    fn deref(&self) -> &str {
        self.name()
    }
}

impl std::fmt::Display for PvaChannelLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::fmt::Debug for PvaChannelLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self.name(), f)
    }
}

impl From<String> for PvaChannelLink {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

impl From<&str> for PvaChannelLink {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl CaLink {
    /// CA link with the default (`NoMaximize`) alarm policy and no
    /// CP/CPP processing — the shape used by callers that have only a
    /// bare PV name (JSON `{ca:…}` links carry no plaintext modifier).
    pub fn new(pv: impl Into<crate::types::RecordName>) -> Self {
        Self {
            pv: pv.into(),
            monitor_switch: MonitorSwitch::NoMaximize,
            policy: LinkProcessPolicy::NoProcess,
            fwd: false,
            open: OpenLatch::default(),
            json: false,
        }
    }

    /// A JSON `{ca:…}` link in a field of `ftype`: [`Self::new`]'s shape.
    fn json(pv: impl Into<crate::types::RecordName>, ftype: LinkFieldType) -> Self {
        Self {
            open: OpenLatch::ca(LinkProcessPolicy::NoProcess, ftype),
            json: true,
            ..Self::new(pv)
        }
    }
}

/// Discriminated link *type* — the Rust analogue of the C
/// `link.h` `pv_link` / `constantStr` discrimination
/// (`modules/database/src/ioc/dbStatic/link.h:28-39`):
///
/// ```text
/// #define CONSTANT  0   -> LinkType::Constant
/// #define PV_LINK   1   -> (unresolved; resolves to Db or Ca)
/// #define JSON_LINK 8   -> LinkType::Json
/// #define DB_LINK   10  -> LinkType::Db
/// #define CA_LINK   11  -> LinkType::Ca
/// ```
///
/// C device support inspects `prec->inp.type` to decide behaviour —
/// e.g. `devEpidSoft.c:110` (`if (pepid->inp.type == CONSTANT)`),
/// `devEpidSoftCallback.c:116` (`if (ptriglink->type != CA_LINK)`).
/// This enum is [`ParsedLink::link_type_after_init`] as a record's
/// `process()` and its device support see it, through
/// [`OutTarget::link_type`](crate::server::record::OutTarget::link_type).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// `CONSTANT` — a literal numeric/string value, or an unset link
    /// (`dbStaticLib.c:2346-2349`). C `link.h` `#define CONSTANT 0`.
    Constant,
    /// `DB_LINK` — a reference to a record.field in *this* IOC's
    /// database. C `link.h` `#define DB_LINK 10`.
    Db,
    /// `CA_LINK` — a reference to a PV reached over Channel Access (a
    /// remote PV, or a link carrying `CA`/`CP`/`CPP`). C `link.h`
    /// `#define CA_LINK 11`.
    Ca,
    /// `JSON_LINK` — any link spelled in braces: `{const:…}`, `{pva:…}`,
    /// `{calc:…}`, `{state:…}`, `{ca:…}`. C `link.h` `#define JSON_LINK 8`.
    Json,
    /// Any other C type: a hardware (`@dev …` / `#Cn Sn`) link, or the
    /// `PV_LINK` a removed DB or CA link keeps. Kept distinct so a caller is
    /// never forced to mis-classify it.
    Other,
}

/// The link type a `device()` declaration demands, and the type a link's *text*
/// parses to — C's `link.h` discriminants, which are the two sides
/// `dbCanSetLink` compares.
///
/// This is deliberately NOT [`LinkType`]. `LinkType` is the *runtime* kind of an
/// established link (a `PV_LINK` becomes `DB_LINK` or `CA_LINK` once the target
/// is looked up at `iocInit`); `DbLinkType` is the *static* kind the `.dbd` and
/// the `.db` text agree on at load time, before any lookup has happened. Fusing
/// them is what makes a link field mean two things at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DbLinkType {
    /// `CONSTANT` — a literal, or an unset link. Also what C expects of every
    /// link field that is *not* the device link (`INP`/`OUT`), because those
    /// have no `devSup` and `dbCanSetLink` defaults `expected_type` to
    /// `CONSTANT` (`dbStaticLib.c:2403`).
    Constant,
    /// `PV_LINK` — `record.FLD` / `pv MS PP`. Not yet resolved to DB vs CA.
    PvLink,
    /// `JSON_LINK` — `{const:1}`, `{calc:{...}}`, `{pva:{...}}`.
    JsonLink,
    /// `VME_IO` — `#Cn Sn @parm`.
    VmeIo,
    /// `CAMAC_IO`, `AB_IO`, … — declared by some device supports, never parsed
    /// into a distinct [`ParsedLink`] variant by this port.
    CamacIo,
    AbIo,
    GpibIo,
    BitbusIo,
    /// `MACRO_LINK` and `PN_LINK` — declarable by a `device()` line, never
    /// what `dbParseLink` yields, so `dbCanSetLink` refuses every text.
    MacroLink,
    PnLink,
    /// `INST_IO` — `@dev arg …`. The form every asyn-based device support uses.
    InstIo,
    BbgpibIo,
    RfIo,
    VxiIo,
    /// `DB_LINK` — a `PV_LINK` that `dbInitLink` resolved to a record in THIS
    /// database (`dbLink.c:112-120`). Never produced by
    /// [`ParsedLink::db_link_type`]: `dbParseLink` cannot see locality, so it
    /// stops at `PV_LINK` and only [`ParsedLink::link_type_after_init`]
    /// reaches this.
    DbLink,
    /// `CA_LINK` — a `PV_LINK` that `dbInitLink` sent to Channel Access,
    /// either because the target is not local or because the link asked for
    /// `CA`/`CP`/`CPP` (`dbLink.c:112-125`). Same note as [`Self::DbLink`].
    CaLink,
}

impl DbLinkType {
    /// The C name, for the error message C prints.
    pub fn c_name(self) -> &'static str {
        match self {
            DbLinkType::Constant => "CONSTANT",
            DbLinkType::PvLink => "PV_LINK",
            DbLinkType::JsonLink => "JSON_LINK",
            DbLinkType::VmeIo => "VME_IO",
            DbLinkType::CamacIo => "CAMAC_IO",
            DbLinkType::AbIo => "AB_IO",
            DbLinkType::GpibIo => "GPIB_IO",
            DbLinkType::BitbusIo => "BITBUS_IO",
            DbLinkType::MacroLink => "MACRO_LINK",
            DbLinkType::PnLink => "PN_LINK",
            DbLinkType::InstIo => "INST_IO",
            DbLinkType::BbgpibIo => "BBGPIB_IO",
            DbLinkType::RfIo => "RF_IO",
            DbLinkType::VxiIo => "VXI_IO",
            DbLinkType::DbLink => "DB_LINK",
            DbLinkType::CaLink => "CA_LINK",
        }
    }

    /// The `device()` line's link-type word, against C's `pamaplinkType`
    /// (`dbStaticLib.c:64-81`); `None` for a word C refuses.
    pub(crate) fn from_c_name(name: &str) -> Option<Self> {
        const ALL: [DbLinkType; 16] = [
            DbLinkType::Constant,
            DbLinkType::PvLink,
            DbLinkType::JsonLink,
            DbLinkType::VmeIo,
            DbLinkType::CamacIo,
            DbLinkType::AbIo,
            DbLinkType::GpibIo,
            DbLinkType::BitbusIo,
            DbLinkType::MacroLink,
            DbLinkType::PnLink,
            DbLinkType::InstIo,
            DbLinkType::BbgpibIo,
            DbLinkType::RfIo,
            DbLinkType::VxiIo,
            DbLinkType::DbLink,
            DbLinkType::CaLink,
        ];
        ALL.into_iter().find(|t| t.c_name() == name)
    }

    /// What C renders a link of this type with an EMPTY payload as — the state
    /// `dbInitRecordLinks` leaves every link in before it looks at the text
    /// (`dbStaticLib.c:2185-2212`), and the state a link it refuses is left in,
    /// because that pass frees `plink->text` on every arm (`:2229`).
    ///
    /// The strings are C's own `dbGetStringNum` formats (`:1953-2006`) with
    /// every numeric field zero: `#V0 C0 S0 @` because a zeroed `vxiio.flag`
    /// is `VXIDYNAMIC` (`link.h:52`). `DB_LINK`/`CA_LINK` are runtime
    /// identities of a `PV_LINK` and no `device()` line can declare them, so
    /// they answer for the empty `PV_LINK` they came from.
    #[must_use]
    pub fn empty_link_text(self) -> &'static str {
        match self {
            DbLinkType::Constant | DbLinkType::JsonLink => "",
            DbLinkType::PvLink | DbLinkType::DbLink | DbLinkType::CaLink => "",
            DbLinkType::VmeIo => "#C0 S0 @",
            DbLinkType::CamacIo => "#B0 C0 N0 A0 F0 @",
            DbLinkType::AbIo => "#L0 A0 C0 S0 @",
            DbLinkType::GpibIo => "#L0 A0 @",
            DbLinkType::BitbusIo => "#L0 N0 P0 S0 @",
            DbLinkType::InstIo => "@",
            DbLinkType::BbgpibIo => "#L0 B0 G0 @",
            DbLinkType::RfIo => "#R0 M0 D0 E0",
            DbLinkType::VxiIo => "#V0 C0 S0 @",
            // Zeroed `macro_link` / `pv_link`; a reader sees the PN_LINK one
            // as ` NMS` (`render_pn_link`).
            DbLinkType::MacroLink | DbLinkType::PnLink => "",
        }
    }

    /// `dbCanSetLink` (`dbStaticLib.c:2400-2419`), verbatim: the parsed type may
    /// be installed on a field whose device declares `self` iff they are equal,
    /// or both are drawn from the interchangeable
    /// `{CONSTANT, JSON_LINK, PV_LINK}` set — those three are what
    /// `dbPutString` will happily re-parse into one another at runtime, so C
    /// lets the `.db` pick any of them.
    ///
    /// Every hardware type is therefore exact-match only: an `INST_IO` device
    /// support gets `@…` or nothing.
    pub fn accepts(self, parsed: DbLinkType) -> bool {
        if self == parsed {
            return true;
        }
        let soft = |t: DbLinkType| {
            matches!(
                t,
                DbLinkType::Constant | DbLinkType::JsonLink | DbLinkType::PvLink
            )
        };
        soft(self) && soft(parsed)
    }
}

/// The link type the `.dbd` declares for one link field of one record — C's
/// `dbCanSetLink` `expected_type` (`dbStaticLib.c:2403`).
///
/// `None` means *no declaration exists*, not "no constraint": the record type
/// has device support but no vendored `device()` line for it (`motor`,
/// `scaler`, `epid`, … — their device support registers at runtime), or its
/// `DTYP` names a device no vendored `.dbd` declares (`asynInt32` on an `ai`). C has a `devSup` there and this
/// port does not, so there is nothing to compare and nothing is invented.
///
/// `dtyp` is the record's DTYP text, or `None` when the `.db` never spelled it —
/// which is NOT "no device": `DTYP` is a `DBF_DEVICE` menu index and its default
/// is 0, so the record is bound to the FIRST device its `.dbd` declares. C
/// rejects `record(ai,"X") { field(INP,"@instio parm") }` on exactly that
/// ground (measured on the built 7.0.10.1-DEV `softIoc`).
pub fn declared_link_type(
    record_type: &str,
    dtyp: Option<&str>,
    upper_field: &str,
) -> Option<DbLinkType> {
    // C `dbLexRoutines.c:571`: only INP/OUT are device links. Every other link
    // field has no `devSup`, so `dbCanSetLink` expects CONSTANT — which is why
    // the C IOC refuses `field(SDIS,"@instio parm")` on any record type.
    if !matches!(upper_field, "INP" | "OUT") {
        return Some(DbLinkType::Constant);
    }
    // C `dbInitRecordLinks` (`dbStaticLib.c:2187-2193`): a type with no
    // device support has no `devSup`, so its INP/OUT expects CONSTANT too.
    if super::has_no_device_support(record_type) {
        return Some(DbLinkType::Constant);
    }
    // The whole `devList`: base's rows, then every contributed one — a
    // registered support's and a loaded `device()` line's alike.
    super::dev_sup_of(record_type, dtyp.unwrap_or("")).map(|row| row.link_type)
}

/// C `dbParseLink` (`dbStaticLib.c:2626`) — the only half of the link gate a
/// **db-load** runs. `dbPutString` on a link field parses the text and stores
/// it; whether the link FITS the record's device support is never asked there.
///
/// Two failure arms, both C's: a brace-delimited link naming no registered
/// jlink type, and a `#` form whose identifier letters name no bus. A third
/// is the port's own: `check_pva_channel_name`.
pub fn check_link_text(
    record_type: &str,
    upper_field: &str,
    text: impl AsRef<[u8]>,
) -> CaResult<()> {
    let Some(class) = crate::types::dbf_link_class(record_type, upper_field) else {
        return Ok(());
    };
    let ftype = LinkFieldType::for_class(class);
    let bytes = text.as_ref();
    // Both arms read a JSON or hardware form; a record name's bytes do not
    // reach either, so the lossy view refuses what the bytes would.
    let text = String::from_utf8_lossy(bytes);
    let text = text.as_ref();
    check_json_link_text(text, ftype)?;
    check_hw_link_text(text)?;
    check_pva_channel_name(bytes, ftype)
}

/// DEVIATION, deliberate. A pva channel name holding [`PVAJSON_IDENTITY_SEP`]
/// is refused as `S_dbLib_badField`, silently, so a name can never be read as
/// a structured link's identity key. An empty name is taken at load and at
/// a put, as C takes it: `pva_parse_string` stores it
/// (`pvxs/ioc/pvalink_jlif.cpp:147-148`) and `pvaOpenLink` opens nothing
/// (`pvxs/ioc/pvalink_lset.cpp:97-98`).
fn check_pva_channel_name(text: &[u8], ftype: LinkFieldType) -> CaResult<()> {
    match parse_link_field(text, ftype) {
        ParsedLink::Pva(name) if name.contains(PVAJSON_IDENTITY_SEP) => {
            Err(CaError::BadLink(LinkRefusal::new(LinkWhy::ValueRejected(
                crate::server::recgbl::ReportString::new("pva"),
            ))))
        }
        _ => Ok(()),
    }
}

/// C `dbCanSetLink` (`dbStaticLib.c:2400-2419`), the rule alone: may a link of
/// the type this text parses to be installed on a field whose device support
/// declares another?
///
/// `None` when it fits, when the field is not a link field, or when no
/// vendored `device()` line declares a type to enforce (see
/// [`declared_link_type`]). `Some((declared, parsed))` is the pair C names in
/// its diagnostic, in that order.
pub fn link_type_mismatch(
    record_type: &str,
    dtyp: Option<&str>,
    upper_field: &str,
    text: impl AsRef<[u8]>,
) -> Option<(DbLinkType, DbLinkType)> {
    let class = crate::types::dbf_link_class(record_type, upper_field)?;
    let expected = declared_link_type(record_type, dtyp, upper_field)?;
    let parsed = parse_link_field(text, LinkFieldType::for_class(class)).db_link_type();
    (!expected.accepts(parsed)).then_some((expected, parsed))
}

/// C's `dbInitRecordLinks` refusal (`dbStaticLib.c:2223-2224`) minus the
/// severity word, which the caller supplies. `None` when the link fits.
///
/// This is the `iocInit` half: C asks `dbCanSetLink` once, over the record as
/// loaded, which is why a `.db` may spell `INP` before `DTYP` and still bind.
pub fn link_type_refusal(
    record_name: &str,
    record_type: &str,
    dtyp: Option<&str>,
    upper_field: &str,
    text: impl AsRef<[u8]>,
) -> Option<String> {
    let text = text.as_ref();
    let mismatch = link_type_mismatch(record_type, dtyp, upper_field, text)?;
    Some(refusal_line(record_name, upper_field, text, mismatch))
}

/// The wording, owned once. `subject` is what C prints in front of the field
/// name: the record's NAME at `iocInit`, which is the only place C prints this
/// line at all. The runtime seam ([`check_link_assignment`]) passes the record
/// TYPE instead — `RecordInstance` stores no name, and C prints nothing there
/// in any case (`dbPutFieldLink` returns `S_dbLib_badField` silently,
/// `dbAccess.c:1132-1135`), so that text is the port's own diagnostic and not
/// a line any C IOC emits.
fn refusal_line(
    subject: &str,
    upper_field: &str,
    text: &[u8],
    (expected, parsed): (DbLinkType, DbLinkType),
) -> String {
    let text = String::from_utf8_lossy(text);
    format!(
        "{subject}.{upper_field}: can't initialize link type {} with \"{text}\" (type {})",
        expected.c_name(),
        parsed.c_name(),
    )
}

/// C `dbPutFieldLink`'s gate (`dbAccess.c:1094-1135`): a link written at
/// RUNTIME is parsed and then held to `dbCanSetLink`, and a failure of either
/// refuses the put with the link left exactly as it was. Both halves in one
/// call because that seam wants both; the db-load path takes
/// [`check_link_text`] alone and the `iocInit` pass [`link_type_refusal`]
/// alone.
pub fn check_link_assignment(
    record_type: &str,
    dtyp: Option<&str>,
    upper_field: &str,
    text: impl AsRef<[u8]>,
) -> CaResult<()> {
    let text = text.as_ref();
    check_link_text(record_type, upper_field, text)?;
    match link_type_mismatch(record_type, dtyp, upper_field, text) {
        None => Ok(()),
        Some(mismatch) => Err(CaError::InvalidValue(refusal_line(
            record_type,
            upper_field,
            text,
            mismatch,
        ))),
    }
}

impl ParsedLink {
    /// A DB link, shared behind the `Arc` [`ParsedLink::Db`] carries.
    pub fn db(link: DbLink) -> Self {
        ParsedLink::Db(std::sync::Arc::new(link))
    }

    /// The static [`DbLinkType`] this link's text parses to — C's
    /// `dbLinkInfo::ltype` as `dbParseLink` sets it.
    ///
    /// `ParsedLink::None` is `CONSTANT` because that is what C's parser makes of
    /// the empty string, and C rejects `field(INP,"")` on an `INST_IO` device
    /// for exactly that reason (measured on the built 7.0.10.1-DEV `softIoc`).
    /// A link the `.db` never mentions at all is a different thing — C never
    /// reaches `dbCanSetLink` for it (`if (!plink->text) continue;`,
    /// `dbStaticLib.c:2213`) — and so it must not be handed to this function.
    ///
    /// Total, because [`HwLinkKind`] now names every bus C's identifier table
    /// can produce: a `#` form outside that table is a parse failure, not a
    /// link of unknown type, so there is no case left that cannot answer.
    ///
    /// JSON is decided by the braces alone (`dbStaticLib.c:2280-2287`), not by
    /// what the JSON describes, so `{const:1}`, `{pva:"X"}` and `{ca:"X"}` are
    /// `JSON_LINK` while `1` and `X` are not.
    #[must_use]
    pub fn db_link_type(&self) -> DbLinkType {
        match self {
            ParsedLink::None => DbLinkType::Constant,
            ParsedLink::Constant(c) if !c.is_json() => DbLinkType::Constant,
            ParsedLink::Removed(ty) => *ty,
            ParsedLink::Db(_) => DbLinkType::PvLink,
            ParsedLink::Ca(c) if !c.json => DbLinkType::PvLink,
            ParsedLink::Constant(_)
            | ParsedLink::Ca(_)
            | ParsedLink::Pva(_)
            | ParsedLink::PvaJson(_)
            | ParsedLink::Calc(_)
            | ParsedLink::State(_) => DbLinkType::JsonLink,
            ParsedLink::Hw(hw) => hw.kind().db_link_type(),
        }
    }

    /// C `plink->type == CONSTANT`. `dbInitLink` neither makes nor unmakes a
    /// `CONSTANT` (`dbLink.c:92-130`), so the parse answers it before and
    /// after locality. Not `dbLinkIsConstant`, which is also true of a
    /// `{const:…}` link and a removed one
    /// ([`is_constant`](crate::server::recgbl::simm::is_constant)).
    pub fn is_constant_type(&self) -> bool {
        self.db_link_type() == DbLinkType::Constant
    }

    /// C `plink->type` after `dbInitLink` (`dbLink.c:92-130`) and after every
    /// `dbAddLink` (`:146-191`): the one value every `plink->type` test and
    /// `dbpr`'s type word (`dbTest.c:1205-1224`) read.
    ///
    /// `self` must be the stored link, past the database's locality pass
    /// (`PvDatabase::relink`), which is where a `PV_LINK` naming no local
    /// record became a CA channel. What is left is C's other `CA_LINK` rule:
    /// a `PV_LINK` carrying `CA`, `CP` or `CPP` is sent to `dbCaAddLink`.
    /// Every other type is the parse's.
    pub fn link_type_after_init(&self) -> DbLinkType {
        match self.db_link_type() {
            DbLinkType::PvLink => match self {
                ParsedLink::Db(_) => DbLinkType::DbLink,
                ParsedLink::Ca(_) => DbLinkType::CaLink,
                // A removed DB or CA link: `dbDbRemoveLink` / `dbCaRemoveLink`
                // leave `PV_LINK` (`dbDbLink.c:132`, `dbCa.c:441`).
                _ => DbLinkType::PvLink,
            },
            other => other,
        }
    }

    /// [`Self::link_type_after_init`] in the record-facing [`LinkType`].
    pub fn link_type(&self) -> LinkType {
        match self.link_type_after_init() {
            DbLinkType::Constant => LinkType::Constant,
            DbLinkType::DbLink => LinkType::Db,
            DbLinkType::CaLink => LinkType::Ca,
            DbLinkType::JsonLink => LinkType::Json,
            _ => LinkType::Other,
        }
    }

    /// The constant's value — see [`ConstantLink::new`].
    pub fn constant_value(&self) -> Option<EpicsValue> {
        if let ParsedLink::Constant(c) = self {
            Some(c.value().clone())
        } else {
            None
        }
    }

    /// A CONSTANT link holding `text`.
    pub fn constant(text: impl Into<String>) -> Self {
        ParsedLink::Constant(std::sync::Arc::new(ConstantLink::new(text)))
    }

    /// A `{const: <value>}` link, `value` being the JSON text. A quoted string
    /// is a yajl string — its escapes are decoded here (`lnkConst.c:199`
    /// receives the DECODED bytes from `yajl_parser.c:273-281`); a bare token
    /// is taken verbatim, as is an array. `{const:""}` is a constant too: its
    /// `sc40` loads like any string (`cvt_st_d` of "" is 0, a CHAR array gets
    /// the lone NUL), unlike an empty CONSTANT link `dbConstLoad*` refuses.
    pub fn json_constant(value: &str) -> Self {
        let decoded = decode_json_string_token(value).unwrap_or_else(|| value.to_string());
        let json = serde_json::from_str(value)
            .ok()
            .and_then(|v| LnkConst::of(&v));
        let mut constant = ConstantLink::new(decoded);
        constant.json = json;
        ParsedLink::Constant(std::sync::Arc::new(constant))
    }

    /// C `dbJLinkReport` (`dbJLink.c:468-471`): the link type's own
    /// `report`, for a type whose jlif has one, and nothing otherwise. A
    /// `pva` link's is its lset's; `class` is the holding field's.
    pub(crate) fn jlink_report(
        &self,
        db: &crate::server::database::PvDatabase,
        class: Option<crate::types::DbfLinkClass>,
        level: i32,
        indent: usize,
    ) -> Vec<ReportLine> {
        let console = |lines: Vec<String>| lines.into_iter().map(ReportLine::Console).collect();
        match self {
            ParsedLink::Constant(c) => console(c.report(level, indent)),
            ParsedLink::Calc(c) => c.report(db, level, indent),
            ParsedLink::State(st) => console(st.report(indent)),
            ParsedLink::Pva(_) | ParsedLink::PvaJson(_) => self
                .external()
                .into_iter()
                .flat_map(|link| db.external_link_report(link, class, level, indent))
                .map(ReportLine::Stdout)
                .collect(),
            _ => Vec::new(),
        }
    }

    /// True iff this link is a hardware (`@dev …` / `#Cn Sn`) link.
    pub fn is_hw(&self) -> bool {
        matches!(self, ParsedLink::Hw(_))
    }

    /// True iff this link's lset implements `putValue`, so C `dbPutLink`
    /// (`dbLink.c:434-448`) reaches a put: a DB, CA or PVA link,
    /// `lnkState_putValue` (`lnkState.c:153-203`) and `lnkCalc_putValue`
    /// (`lnkCalc.c:631-703`, slotted at `:781`). `Constant`/`Hw`/`None`
    /// are not writable targets. The OUT-link write stage in
    /// `processing.rs` drives a value only into these.
    pub fn is_writable_out_link(&self) -> bool {
        matches!(
            self,
            ParsedLink::Db(_)
                | ParsedLink::Ca(_)
                | ParsedLink::Pva(_)
                | ParsedLink::PvaJson(_)
                | ParsedLink::State(_)
                | ParsedLink::Calc(_)
        )
    }

    /// This link as a forward link's external target, or `None` when it is
    /// not one. Borrowed from the parse, so dispatch allocates nothing.
    pub fn external_forward(&self) -> Option<ExternalForward<'_>> {
        match self {
            ParsedLink::Ca(ca) => Some(ExternalForward::Ca {
                link: ExternalRef {
                    lset: LinkSetTarget::Ca,
                    name: ca.pv.as_bytes(),
                    open: &ca.open,
                },
                fwd: ca.fwd,
            }),
            ParsedLink::Pva(p) => Some(ExternalForward::Pva(&p.forward)),
            ParsedLink::PvaJson(j) => Some(ExternalForward::Pva(&j.forward)),
            _ => None,
        }
    }

    /// Boundary identity string for an external (`Ca`/`Pva`/`PvaJson`)
    /// link, else `None` — the key the database hands the link-set when
    /// resolving / writing / forwarding this link.
    ///
    /// For `Ca` and `Pva` this is the channel name verbatim. For `PvaJson`
    /// it is the per-link identity key
    /// ([`PvaJsonLink::link_identity_key`]), NOT the bare `pv`:
    /// two structured links to the same PV that differ by options must
    /// resolve to their own per-link config, so the boundary key must
    /// carry that identity (the resolver shares the channel by
    /// `(pv, pipeline, queue_size)`, not by bare PV, matching pvxs, whose
    /// channel cache is keyed by `(channelName, printed pvRequest)` —
    /// `ioc/pvalink.h:65,116`). Callers feed the result to the
    /// link-set, which is the only consumer; nothing relies on this
    /// returning the bare PV name.
    pub fn external_pv_name(&self) -> Option<&[u8]> {
        self.external().map(|e| e.name)
    }

    /// [`Self::external_pv_name`] with the latch of the link's one open —
    /// what a cycle hands the database, so a link that is down is read from
    /// state. Both were fixed by the parse.
    pub fn external(&self) -> Option<ExternalRef<'_>> {
        match self {
            ParsedLink::Ca(ca) => Some(ExternalRef {
                lset: LinkSetTarget::Ca,
                name: &ca.pv,
                open: &ca.open,
            }),
            ParsedLink::Pva(name) => Some(ExternalRef {
                lset: LinkSetTarget::Pva,
                name: name.name.as_bytes(),
                open: &name.open,
            }),
            ParsedLink::PvaJson(j) => Some(ExternalRef {
                lset: LinkSetTarget::Pva,
                name: j.identity.as_bytes(),
                open: &j.open,
            }),
            _ => None,
        }
    }

    /// The link-set scheme that must be REGISTERED on the database before
    /// this link can be serviced at all, or `None` when nothing needs to be
    /// installed for it.
    ///
    /// Parsing a link and being able to service it are two different facts,
    /// and this is the second one. The first is `{pva:…}` loading at all,
    /// which needs the database to declare the type (`LinkList`) as C needs
    /// `pvxs7x.dbd`'s `link()` line. A declared type can still reach iocInit
    /// with no link set installed; `PvDatabase::db_init_link_locality` asks
    /// this and refuses it rather than letting the lset dispatch hand the
    /// name to whatever OTHER lset is registered.
    ///
    /// `Ca` deliberately answers `None`. The parse erases the difference
    /// between `{ca:{pv:"X"}}`, the `X CA` modifier and the `dbInitLink`
    /// non-local fallthrough — all three are `Ca(CaLink{pv:"X"})` — and the
    /// last two must keep working with no lset registered, through the
    /// database's own `ca` link set.
    /// There is no C rule to match either: `ca` has no `link()` line in base
    /// or in pvxs, so it is this port's own extension.
    pub fn required_link_set_scheme(&self) -> Option<&'static str> {
        match self {
            // Produced only by `{pva:…}` — see the `pva` row of
            // `IMPLEMENTED_JSON_LINK_TYPES`, whose `lsetPVX` is what
            // `epics-bridge-rs` installs as the `"pva"` link set.
            ParsedLink::Pva(_) | ParsedLink::PvaJson(_) => Some("pva"),
            _ => None,
        }
    }

    /// Maximize-severity policy carried by this link's parsed modifier.
    /// `Db`/`Ca` links carry an explicit [`MonitorSwitch`]; PVA links
    /// keep their `sevr` as link data (a `Pva` channel-name string or a
    /// `PvaJson` `sevr` option) for the pvalink lset to apply, so they
    /// report `None` here (the lset gate stands in). Used by record
    /// processing to apply the MS/NMS/MSI/MSS gate at the fold boundary.
    pub fn monitor_switch(&self) -> Option<MonitorSwitch> {
        match self {
            ParsedLink::Db(db) => Some(db.monitor_switch),
            ParsedLink::Ca(ca) => Some(ca.monitor_switch),
            _ => None,
        }
    }
}

/// A link value's shape at the pvxs JLink root (parse depth 0): a JSON string
/// is the channel name, a map carries the longhand options, and a null, bool
/// or integer is ignored, leaving the name empty
/// (`pvxs/ioc/pvalink_jlif.cpp:69-139`). A real or an array stops the parse
/// (`parse_double` / `parse_start_array` are NULL), so
/// [`classify_pva_root_value`] returns `None` for them.
enum PvaRootValue<'a> {
    /// `{ ... }` longhand options map (handed to the sub-object parser).
    Object(&'a str),
    /// `"name"` / `'name'` string shorthand — exactly one matching quote
    /// pair stripped, contents kept verbatim (no semantic-character trim).
    StringName(&'a str),
    /// A `null`, `true`/`false` or integer token, which sets nothing.
    Ignored,
}

/// Classify a root `pva`/`ca` link value by JSON shape: a JSON object, a
/// (single- or double-) quoted string, or a token the pvxs root callbacks
/// ignore — `pva_parse_null`/`bool`/`integer` act only at depth 1
/// (pvxs/ioc/pvalink_jlif.cpp:69-139). A real or an array is `None`.
fn classify_pva_root_value(value: &str) -> Option<PvaRootValue<'_>> {
    let v = value.trim();
    if v.starts_with('{') {
        return Some(PvaRootValue::Object(v));
    }
    // A JSON integer, as yajl's grammar spells one; overflow is refused
    // before any parse reaches here (`dbJLinkInit: parse error`).
    let digits = v.strip_prefix('-').unwrap_or(v);
    let integer = !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && !(digits.len() > 1 && digits.starts_with('0'))
        && v.parse::<i64>().is_ok();
    if integer || matches!(v, "null" | "true" | "false") {
        return Some(PvaRootValue::Ignored);
    }
    for quote in ['"', '\''] {
        if let Some(rest) = v.strip_prefix(quote) {
            if let Some(inner) = rest.strip_suffix(quote) {
                return Some(PvaRootValue::StringName(inner));
            }
        }
    }
    None
}

/// Try to recognize a JSON-style link option (epics-base PR #86).
///
/// epics-base accepts inline JSON link options like `{ca: {pv: "foo"}}`,
/// `{pva: {pv: "foo"}}`, `{const: 1.5}`. The parser is JSON5-leaning
/// (unquoted keys, single quotes) — we accept that subset here using a
/// lightweight prepass that lowercases the leading key, then hands the
/// inner body to `serde_json::Value`.
///
/// Returns `Some(parsed)` when the string is a recognized JSON link;
/// `None` lets the caller fall through to legacy plain-text parsing.
/// The elements of a bracketed constant link, C `dbPutConvertJSON` on the
/// text `dbConstLoadArray` hands it (`dbConstLink.c:177-199`).
///
/// Numeric elements produce a `DoubleArray` — the record lands it in its own
/// typed buffer afterwards (C converts INTO `bptr` with `dbFastConvert`, so
/// the element type is the record's FTVL, never the link's). Any non-numeric
/// element makes the whole literal a string array (a `CHAR` waveform seeded
/// with names, `["one","two"]`). An empty `[]` is zero elements — C yields
/// `nRequest = 0`, i.e. NORD stays 0.
fn constant_array_value(inner: &str) -> EpicsValue {
    // C hands the WHOLE bracketed text to `dbPutConvertJSON`
    // (`dbConstLink.c:207`), which is the same converter `dbpf` calls — so
    // the two paths accept and refuse the same literals, and a quoted
    // element's escapes are decoded by that one parser rather than by a
    // second comma-splitter here.
    let json = format!("[{inner}]");
    // C passes the record's `FTVL`; this port types the value afterwards
    // (see `ConstantLink::new`), so the two element kinds C's
    // callbacks admit are tried in turn — a string element is legal only
    // into `DBF_STRING` (`dbConvertJSON.c:78-82`), which is exactly the
    // "all numeric, else strings" split this used to reach by parsing twice.
    use crate::types::DbFieldType;
    for target in [DbFieldType::Double, DbFieldType::String] {
        if let Ok(v) =
            crate::server::db_convert_json::db_put_convert_json(&json, target, usize::MAX)
        {
            return v;
        }
    }
    // C errlogs and returns `S_db_badField`, leaving `dbLoadLinkArray` to
    // report the link uninitialized so the field keeps its default
    // (`dbConstLink.c:208-211`). Zero elements is that state; the diagnostic
    // line has no route out of this signature.
    EpicsValue::DoubleArray(Vec::new().into())
}

/// C `epicsParseDouble(pstr, &value, NULL)` — the ONE test that decides whether
/// a link string is a number, and the ONE conversion that turns it into a value.
/// `dbParseLink` uses it to classify (`dbStaticLib.c:2346-2349`) and
/// `dbConstLink.c`'s `cvt_st_*` family uses the same C library parse to load, so
/// the two must agree: whatever classifies as CONSTANT must also load.
///
/// It is `strtod` under the hood, which accepts a HEX literal — `dbConstLink.c:34`:
/// *"constants may contain hex numbers, whereas database conversions can't"*.
/// softIoc: `field(DOL,"0x1f")` reports `DOL : CONSTANT 0x1f` and comes up at
/// VAL=31; `field(INP,"0x10")` on an ai loads VAL=16. Trailing text is rejected
/// (C passes a NULL units pointer → `S_stdlib_extraneous`), which is what keeps
/// `"5 PP"` a PV link rather than a constant.
///
/// So this is [`crate::runtime::stdlib::epics_parse_double`] and nothing else — C's ONE
/// `epicsParseDouble`, shared with the CA env-knob parser. A hand-rolled
/// re-implementation drifted from it on three families, all probed on softIoc
/// 7.0.10:
///
/// ```text
/// field(INP,"0x1p4")                -> CONSTANT, VAL=16               (hex float)
/// field(INP,"0xffffffffffffffffff") -> CONSTANT, VAL=4.72236648e+21   (wide hex)
/// field(INP,"1e400")                -> CA_LINK, UDF=1                 (ERANGE)
/// field(INP,"1e-320")               -> CA_LINK, UDF=1                 (ERANGE)
/// ```
///
/// The ERANGE half is what makes the difference structural rather than
/// cosmetic: `epicsParseDouble` returns a NON-ZERO status for `1e400`, so C's
/// `dbParseLink` (`dbStaticLib.c:2346-2349`) never reaches CONSTANT — the
/// literal becomes a PV link, and the record stays UDF. The pre-fix port made
/// it a defined record holding `inf`.
pub fn parse_c_double(s: &str) -> Option<f64> {
    crate::runtime::stdlib::epics_parse_double(s).ok()
}

/// What C's `dbLoadLinkLS` (dbLink.c:244) delivers into a long-string VAL.
///
/// `loadLS` is a lset entry of its own — NOT `recGblInitConstantLink` — and only
/// two lsets implement it, with different results:
///
/// * a plain CONSTANT link (`dbConstLink.c:178` `dbConstLoadLS`) runs the link
///   text through `dbLSConvertJSON`, and
/// * a JSON `{const:…}` link (`lnkConst.c:419` `lnkConst_loadLS`) copies its
///   string value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LsLoad {
    /// The link delivered a string: copy it into VAL (truncated at `SIZV-1`),
    /// `LEN = strlen + 1`.
    Text(String),
    /// C's number case. `dbLSConvertJSON` (dbConvertJSON.c:191-236) never calls
    /// `yajl_complete_parse`, so a bare number is still a pending token when the
    /// parse ends: NO callback fires, the destination buffer is untouched, and
    /// `*plen = pdest - pdest + 1` makes `LEN = 1`. That is what defines an
    /// `lso` with `field(DOL,"5")` while leaving `VAL` empty (softIoc: VAL "",
    /// LEN 1, UDF 0). An empty `[]` ends the same way.
    LenOnly,
}

/// C `dbLoadLinkLS` over a link field's `.db` text — the long-string half of the
/// init-time constant load. `None` when the link loads nothing: a PV link (no
/// `loadLS` at init), an empty link, or a JSON `{const:…}` whose value is not a
/// string (`lnkConst_loadLS` returns `S_db_badField` for the numeric types).
///
/// softIoc (EPICS 7.0.10, linux-x86_64), `dbgf` after `iocInit`:
///
/// ```text
/// record(lso,"L1"){field(DOL,"5")}              VAL ""         LEN 1  UDF 0
/// record(lso,"L2"){field(DOL,{const:"hello"})}  VAL "hello"    LEN 6  UDF 0
/// record(lsi,"L3"){field(INP,{const:"hi there"})} VAL "hi there" LEN 9 UDF 0
/// record(lsi,"L4"){field(INP,"5")}              VAL ""         LEN 1  UDF 0
/// ```
pub fn load_link_ls(text: impl AsRef<[u8]>) -> Option<LsLoad> {
    // A constant is JSON to C (`dbLSConvertJSON`, `{const:…}`), and yajl
    // refuses text that is not UTF-8, so such a link loads nothing.
    let s = std::str::from_utf8(text.as_ref()).ok()?.trim();
    if s.is_empty() {
        return None;
    }
    // JSON link: only `{const:…}` has a `loadLS`, and only its string forms
    // (`sc40`, and `ac40`'s first element) deliver text.
    //
    // Through the dialect first, as `parse_json_link` does. C reaches this
    // text through `dbJLinkParse` → yajl (`dbJLink.c:402-406`), so the link
    // body is already comment-free and its keys already lexed by the time
    // `lnkConst`'s callbacks see it; reading the raw `.db` bytes here meant
    // `{const: /*why*/ "hi"}` loaded nothing at all.
    if s.starts_with('{') && s.ends_with('}') {
        let normalized = crate::json5::relaxed_to_strict(s).ok()?;
        let value = json_const_value(&normalized)?;
        return json_string_value(value).map(LsLoad::Text);
    }
    // Plain link: `loadLS` exists only on the CONSTANT lset (a number or a
    // `[…]`, `dbStaticLib.c:2346-2356`), which hands the text to
    // `dbLSConvertJSON` whatever it is.
    let bracketed = s.starts_with('[') && s.ends_with(']');
    if !bracketed && parse_c_double(s).is_none() {
        return None;
    }
    match crate::server::db_convert_json::db_ls_convert_json(s).ok()? {
        Some(text) => Some(LsLoad::Text(text.as_str_lossy().into_owned())),
        None => Some(LsLoad::LenOnly),
    }
}

/// The raw (un-dequoted) value text of a `{const: …}` JSON link, or `None` when
/// `s` is some other JSON link.
pub(crate) fn json_const_value(s: &str) -> Option<&str> {
    let inner = s[1..s.len() - 1].trim_start();
    let (key, rest) = inner.split_once(':')?;
    let key = key.trim().trim_matches('"');
    if key != "const" {
        return None;
    }
    Some(rest.trim().trim_end_matches(',').trim())
}

/// The JSON string a `{const:…}` link carries, DECODED — `"hi"` and the
/// string-array shorthand `["hi", …]` (C `ac40`, whose `loadLS` takes element 0).
/// A numeric value is not a string: `lnkConst_loadLS`'s `default` arm returns
/// `S_db_badField`, so nothing is loaded and LEN stays 0 — and so does an empty
/// `[]` (`a0`).
///
/// The decode is yajl's, not this function's: a `{…}` value's escapes are
/// translated by `dbJLinkParse` → yajl, never by the `.db` lexer
/// ([`decode_json_string_token`]). An array goes through the same yajl scan,
/// because a comma inside an element (`["a,b"]`) is not a separator.
fn json_string_value(value: &str) -> Option<String> {
    let v = value.trim();
    if v.starts_with('[') {
        let first = crate::server::db_convert_json::db_ls_convert_json(v).ok()??;
        return Some(first.as_str_lossy().into_owned());
    }
    decode_json_string_token(v)
}

/// The JSON link types this port has a jlif for — what a C binary has LINKED,
/// as `(key, jlif)`: the `jlif` objects `registerRecordDeviceDriver` can hand
/// `registryJLinkAdd`. Base's `const`/`calc`/`state` are
/// `links.dbd.pod:39,79,171`, and `pva` is pvxs's `link("pva", "lsetPVX")`
/// (`ioc/pvxs7x.dbd:2`).
///
/// `ca` has no `link()` line in base or pvxs — it is this port's own
/// extension, kept because `.db` files in this workspace already use it, and
/// `lnkCaIf` is therefore this port's own symbol name rather than one quoted
/// from upstream.
///
/// Whether a database then FINDS a type is not this table's question: that is
/// the database's [`LinkList`].
pub(crate) const IMPLEMENTED_JSON_LINK_TYPES: [(&str, &str); 5] = [
    ("const", "lnkConstIf"),
    ("calc", "lnkCalcIf"),
    ("state", "lnkStateIf"),
    ("pva", "lsetPVX"),
    ("ca", "lnkCaIf"),
];

/// The base types every database starts with: the build's `link()` lines
/// (`softIoc.dbd`), which `registerAllRecordDeviceDrivers` binds before any
/// `.db` loads. In `dbdExpand.pl`'s order — sorted by jlif
/// (`DBD/Output.pm:92-95`). `pva` is not one: a binary adds it.
const BASE_JSON_LINK_TYPES: [&str; 4] = ["ca", "calc", "const", "state"];

/// One `linkSup` node: C keeps `name` and `jlif_name` side by side
/// (`dbLexRoutines.c:883-900`) and `dbDumpLink` prints both
/// (`dbStaticLib.c:1099-1102`). Both strings are declaration TEXT, stored
/// verbatim; `bound` is `plinkSup->pjlif != NULL`.
#[derive(Clone)]
pub(crate) struct LinkSup {
    pub(crate) key: String,
    pub(crate) jlif_name: String,
    bound: bool,
}

/// A database's `pdbbase->linkList`, in insertion order — `dbLinkType`
/// `ellAdd`s and `dbWriteLinkFP` walks the list unsorted.
///
/// It belongs to the database, not the process: two databases in one process
/// (every test, every builder) must not see each other's declarations.
#[derive(Clone)]
pub(crate) struct LinkList {
    sups: Vec<LinkSup>,
}

impl LinkList {
    /// What a database holds before its first `dbLoadDatabase`.
    pub(crate) fn base() -> Self {
        let mut list = Self { sups: Vec::new() };
        for key in BASE_JSON_LINK_TYPES {
            let jlif = implemented_jlif(key).expect("a base type is implemented");
            list.declare(key, jlif);
            list.bind(key);
        }
        list
    }

    /// C `dbLinkType` (`dbLexRoutines.c:883-900`): a key already in the list
    /// is dropped, anything else appends.
    pub(crate) fn declare(&mut self, key: &str, jlif_name: &str) {
        if self.find(key).is_none() {
            self.sups.push(LinkSup {
                key: key.to_string(),
                jlif_name: jlif_name.to_string(),
                bound: false,
            });
        }
    }

    /// C `registryJLinkAdd` (`registryJLinks.c:16-23`): binds support only to
    /// a type the list already declares, and says whether it did.
    pub(crate) fn bind(&mut self, key: &str) -> bool {
        match self.sups.iter_mut().find(|s| s.key == key) {
            Some(sup) => {
                sup.bound = true;
                true
            }
            None => false,
        }
    }

    pub(crate) fn entries(&self) -> &[LinkSup] {
        &self.sups
    }

    fn find(&self, key: &str) -> Option<&LinkSup> {
        // `dbFindLinkSup` is a `gphFind`: the name matches case-sensitively.
        self.sups.iter().find(|s| s.key == key)
    }
}

/// The `jlif` this port carries for `key`, if it carries one.
pub(crate) fn implemented_jlif(key: &str) -> Option<&'static str> {
    IMPLEMENTED_JSON_LINK_TYPES
        .iter()
        .find(|(k, _)| *k == key)
        .map(|(_, jlif)| *jlif)
}

/// Who answers C's `dbFindLinkSup` for one parse.
#[derive(Clone, Copy)]
pub(crate) enum LinkLookup<'a> {
    /// A database's `linkList`: the load and put gates of that database.
    Database(&'a LinkList),
    /// No database — the text is re-read after its database admitted it, or
    /// built by a caller that has none. Only whether this port implements
    /// the type is asked.
    Implemented,
}

/// JSON link types epics-base registers that this port has not implemented.
/// They are rejected like an unknown type — the point of rejecting at all is
/// that a missing implementation must be visible rather than silently
/// degrading into a PV-name link — but the diagnostic says which it is.
/// `debug` and `trace` are lset WRAPPERS: their jlif takes a child link and
/// their lset forwards every call to the child's after logging
/// (`lnkDebug.c` / `lnkTrace.c`). This port dispatches a link by its
/// [`ParsedLink`] variant rather than through a per-link lset vtable, so
/// there is nothing for a wrapper to substitute itself into — porting them
/// needs the vtable first, not a new variant.
const UNPORTED_C_JSON_LINK_TYPES: &[&str] = &["debug", "trace"];

/// What a link field's text is, read as a JSON link — the port's
/// `dbJLinkParse` (`dbJLink.c:379-445`).
///
/// The three states exist because two of them used to be one. A single
/// `Option` conflated "this text is not brace-delimited, try the other link
/// syntaxes" with "this IS a JSON link and it is bad", so the second fell
/// through `parse_link_field`'s remaining tests and came out as a PV link
/// whose name was the JSON text — a channel that can never connect.
pub enum JsonLinkParse {
    /// Not brace-delimited: C's `dbParseLink` never calls `dbJLinkParse`
    /// (`dbStaticLib.c:2280`), so the other link syntaxes still apply.
    NotJson,
    /// A JSON link this port serves.
    Parsed(ParsedLink),
    /// Brace-delimited and unusable. C stops the parse (`jlif_stop`), which
    /// `dbJLinkParse` turns into `S_db_badField` and `dbParseLink` into
    /// `S_dbLib_badField` — the field never loads. The refusal carries the
    /// line C's `dbJLinkInit` prints, when C prints one.
    Rejected(LinkRefusal),
}

/// What the first map key of a brace-delimited link body is — C's `link_name`
/// in `dbjl_map_key` (`dbJLink.c:260`), plus the two ways there isn't one.
enum JsonLinkKey<'a> {
    /// The link type name, unquoted and trimmed.
    Named(&'a str),
    /// An empty map. yajl parses `{}` without error, so `dbJLinkParse` returns
    /// 0 with a NULL `product` and `dbParseLink` stores `JSON_LINK` with no
    /// jlink (`dbStaticLib.c:2281-2285`) — a link that does nothing.
    Empty,
    /// Not JSON yajl would accept, so `dbJLinkParse` comes back
    /// `yajl_status_error` → `S_db_badField` (`dbJLink.c:426-438`).
    Malformed,
}

fn json_link_key(s: &str) -> JsonLinkKey<'_> {
    let inner = s[1..s.len() - 1].trim();
    if inner.is_empty() {
        return JsonLinkKey::Empty;
    }
    let Some((key_raw, _)) = inner.split_once(':') else {
        return JsonLinkKey::Malformed;
    };
    let key = key_raw.trim().trim_matches('"');
    if key.is_empty() {
        JsonLinkKey::Malformed
    } else {
        JsonLinkKey::Named(key)
    }
}

/// The first map key of `prefix`, the text of a link up to where the parse
/// stopped, if a whole key and its `:` precede that point.
fn key_before(prefix: &str) -> Option<String> {
    let normalized = crate::json5::relaxed_to_strict(prefix).ok()?;
    let (key_raw, _) = normalized.strip_prefix('{')?.split_once(':')?;
    let key = key_raw.trim().trim_matches('"');
    (!key.is_empty()).then(|| key.to_string())
}

/// The refusal for a link type key `lookup` does not serve — C `dbjl_map_key`
/// (`dbJLink.c:262-275`): a key the list lacks, then a key with no support.
fn unknown_link_type(key: impl AsRef<str>, lookup: LinkLookup<'_>) -> Option<LinkRefusal> {
    let key = key.as_ref();
    if UNPORTED_C_JSON_LINK_TYPES.contains(&key) {
        return Some(LinkRefusal::new(LinkWhy::Unported(
            crate::server::recgbl::ReportString::new(key),
        )));
    }
    let bound = match lookup {
        LinkLookup::Database(list) => list.find(key).map(|sup| sup.bound),
        LinkLookup::Implemented => implemented_jlif(key).map(|_| true),
    };
    let key = crate::server::recgbl::ReportString::new(key);
    match bound {
        None => Some(LinkRefusal::new(LinkWhy::NotFound(key))),
        Some(false) => Some(LinkRefusal::new(LinkWhy::NotLoaded(key))),
        Some(true) => None,
    }
}

/// Read a link field's text as a JSON link — the single owner of "is this a
/// JSON link, and is it usable".
///
/// C `dbParseLink` (`dbStaticLib.c:2280-2286`) treats ANY brace-delimited
/// link text as JSON with no escape hatch, and hands it to `dbJLinkParse`;
/// an unregistered first key is `errlogPrintf("dbJLinkInit: Link type '%s'
/// not found")` plus `jlif_stop` (`dbJLink.c:262-268`), and a registered
/// type whose own callbacks refuse the value stops the parse the same way.
/// Both come back here as [`JsonLinkParse::Rejected`], so brace-delimited
/// text never reaches PV-name parsing on any path.
pub fn parse_json_link(s: &str, ftype: LinkFieldType) -> JsonLinkParse {
    parse_json_link_in(s, ftype, LinkLookup::Implemented)
}

/// [`parse_json_link`] with `dbFindLinkSup` answered by `lookup`, for every
/// key the text names — the first and each embedded one.
pub(crate) fn parse_json_link_in(
    s: &str,
    ftype: LinkFieldType,
    lookup: LinkLookup<'_>,
) -> JsonLinkParse {
    let s = s.trim();
    if !s.starts_with('{') || !s.ends_with('}') || s.len() < 2 {
        return JsonLinkParse::NotJson;
    }
    if let Some(refusal) = jlink_syntax_refusal(s, ftype, lookup) {
        return JsonLinkParse::Rejected(refusal);
    }
    // Read the link type from the NORMALIZED text. A comment is whitespace in
    // this dialect, so `{/*which*/calc:{…}}` names the type `calc`, but
    // `json_link_key` splits on the first `:` and would take the comment as
    // part of the key.
    let normalized = match crate::json5::relaxed_to_strict(s) {
        Ok(normalized) => normalized,
        Err(e) => {
            // yajl hands `dbjl_map_key` the key before it reaches the
            // unterminated comment, so an unknown type is reported first.
            let crate::json5::Json5Error::UnterminatedBlockComment { offset } = e;
            if let Some(refusal) =
                key_before(&s[..offset]).and_then(|k| unknown_link_type(k, lookup))
            {
                return JsonLinkParse::Rejected(refusal);
            }
            return JsonLinkParse::Rejected(LinkRefusal::new(LinkWhy::UnterminatedComment(offset)));
        }
    };
    let key = match json_link_key(&normalized) {
        JsonLinkKey::Named(key) => key,
        JsonLinkKey::Empty => return JsonLinkParse::Parsed(ParsedLink::None),
        JsonLinkKey::Malformed => {
            return JsonLinkParse::Rejected(LinkRefusal::new(LinkWhy::NoTypeKey));
        }
    };
    if let Some(refusal) = unknown_link_type(key, lookup) {
        return JsonLinkParse::Rejected(refusal);
    }
    // The body reader splits on `:` and matches barewords too, so it needs the
    // same normalized text.
    match try_parse_json_link_body(&normalized, ftype, lookup) {
        Some(parsed) => JsonLinkParse::Parsed(parsed),
        // DEVIATION, deliberate. A registered type whose jlif merely IGNORES a
        // token it does not want (pvxs `pva_parse_integer` at
        // `pvxs/ioc/pvalink_jlif.cpp:123-141` logs and returns `jlif_continue`) loads in
        // C as a link with no channel name. The port cannot build the link the
        // text asked for, and the only other outcome reachable from here is the
        // PV-name link this whole function exists to prevent, so it refuses and
        // says which type refused.
        None => JsonLinkParse::Rejected(LinkRefusal::new(LinkWhy::ValueRejected(
            crate::server::recgbl::ReportString::new(key),
        ))),
    }
}

/// The link field type `dbjl_start_map` hands the next key's `alloc_jlink`
/// (`parser->dbfType`, `dbJLink.c:197-209`).
type ChildSlot = Option<LinkFieldType>;

/// What a `parse_start_map` answers (`jlif_key_result`, `dbJLink.h`).
enum MapStart {
    Stop,
    Continue,
    Child(LinkFieldType),
}

/// The one refusal a callback records before it stops the parse.
type Said = Option<LinkRefusal>;

/// One open jlink on `dbjl`'s stack: its type's key, its parse callbacks and
/// its `parseDepth`.
struct Jlink {
    key: crate::server::recgbl::ReportString,
    jlif: Jlif,
    depth: u32,
}

/// The parse halves of the registered `jlif`s. A callback slot C leaves NULL
/// is `CALL_OR_STOP`, a stop with no word (`dbJLink.c:58`).
enum Jlif {
    Const(LnkConstParse),
    Calc(LnkCalcParse),
    /// `lnkStateIf` fills only `parse_string` (`lnkState.c:226-232`).
    State,
    /// pvxs `lsetPVX` leaves `parse_double` and `parse_start_array` NULL
    /// (`pvxs/ioc/pvalink_jlif.cpp:286-304`); every filled callback logs what
    /// it does not know and continues.
    Pva,
    /// A type whose callbacks the port does not model (`ca`): its value is
    /// only checked as JSON.
    Opaque,
}

impl Jlif {
    /// `pjlif->alloc_jlink(parser->dbfType)`: the refusals that depend on the
    /// link field's type (`lnkConst.c:50-53`, `lnkCalc.c:81-84`,
    /// `lnkState.c:54-57`) say their own line.
    fn alloc(key: &str, ftype: LinkFieldType) -> Result<Self, LinkRefusal> {
        let failed = |key, said| Err(LinkRefusal::new(LinkWhy::AllocFailed { key, said }));
        match (key, ftype) {
            ("const", LinkFieldType::Out | LinkFieldType::Fwd) => {
                failed("const", "lnkConst: Only works with input links")
            }
            ("calc", LinkFieldType::Fwd) => failed("calc", "lnkCalc: No support for forward links"),
            ("state", LinkFieldType::Fwd) => failed("state", "lnkState: DBF_FWDLINK not supported"),
            ("const", _) => Ok(Self::Const(LnkConstParse {
                shape: ConstShape::S0,
            })),
            ("calc", _) => Ok(Self::Calc(LnkCalcParse::new(ftype))),
            ("state", _) => Ok(Self::State),
            ("pva", _) => Ok(Self::Pva),
            _ => Ok(Self::Opaque),
        }
    }

    fn null(&mut self) -> bool {
        matches!(self, Self::Pva | Self::Opaque)
    }

    fn boolean(&mut self, said: &mut Said) -> bool {
        match self {
            Self::Const(c) => c.number(said),
            Self::Pva | Self::Opaque => true,
            Self::Calc(_) | Self::State => false,
        }
    }

    fn integer(&mut self, value: i64, said: &mut Said) -> bool {
        match self {
            Self::Const(c) => c.number(said),
            Self::Calc(c) => c.integer(value, said),
            Self::Pva | Self::Opaque => true,
            Self::State => false,
        }
    }

    fn double(&mut self, value: f64, said: &mut Said) -> bool {
        match self {
            Self::Const(c) => c.number(said),
            Self::Calc(c) => c.double(value, said),
            Self::Opaque => true,
            Self::Pva | Self::State => false,
        }
    }

    fn string(&mut self, bytes: &[u8], said: &mut Said) -> bool {
        match self {
            Self::Const(c) => c.string(said),
            Self::Calc(c) => c.string(bytes, said),
            Self::State | Self::Pva | Self::Opaque => true,
        }
    }

    fn start_map(&mut self, said: &mut Said) -> MapStart {
        match self {
            Self::Calc(c) => c.start_map(said),
            Self::Pva | Self::Opaque => MapStart::Continue,
            Self::Const(_) | Self::State => MapStart::Stop,
        }
    }

    fn map_key(&mut self, key: &[u8], said: &mut Said) -> bool {
        match self {
            Self::Calc(c) => c.map_key(key, said),
            Self::Pva | Self::Opaque => true,
            Self::Const(_) | Self::State => false,
        }
    }

    fn end_map(&mut self, said: &mut Said) -> bool {
        match self {
            Self::Calc(c) => c.end_map(said),
            Self::Pva | Self::Opaque => true,
            Self::Const(_) | Self::State => false,
        }
    }

    fn start_array(&mut self, said: &mut Said) -> bool {
        match self {
            Self::Const(c) => c.start_array(said),
            Self::Calc(c) => c.start_array(said),
            Self::Opaque => true,
            Self::Pva | Self::State => false,
        }
    }

    fn end_array(&mut self) -> bool {
        match self {
            Self::Calc(c) => c.end_array(),
            Self::Const(_) | Self::Opaque => true,
            Self::Pva | Self::State => false,
        }
    }

    /// `parent->pif->end_child`, which only lnkCalc fills.
    fn end_child(&mut self, said: &mut Said) {
        if let Self::Calc(c) = self {
            c.end_child(said);
        }
    }
}

/// C `dbjl_callbacks` (`dbJLink.c:56-376`): the stack of open jlinks, each
/// fed by its own type's callbacks, a child allocated with the link field
/// type its parent's `parse_start_map` asked for.
struct Dbjl<'a> {
    lookup: LinkLookup<'a>,
    stack: Vec<Jlink>,
    slot: ChildSlot,
    /// What stopped the parse, if a callback or `dbjl` itself said why.
    said: Said,
}

impl Dbjl<'_> {
    /// `dbjl_value`: a value that leaves its link at depth 0 completes it,
    /// and the parent's `end_child` takes it.
    fn value(&mut self, ok: bool) -> bool {
        if !ok {
            return false;
        }
        if self.stack.last().is_some_and(|top| top.depth == 0) {
            self.stack.pop();
            if let Some(parent) = self.stack.last_mut() {
                parent.jlif.end_child(&mut self.said);
            }
        }
        true
    }

    fn top(&mut self) -> Option<(&mut Jlink, &mut Said)> {
        self.stack.last_mut().map(|top| (top, &mut self.said))
    }
}

impl crate::server::db_convert_json::Callbacks for Dbjl<'_> {
    fn null(&mut self) -> bool {
        let ok = self.top().is_some_and(|(top, _)| top.jlif.null());
        self.value(ok)
    }
    fn boolean(&mut self, _value: bool) -> bool {
        let ok = self.top().is_some_and(|(top, said)| top.jlif.boolean(said));
        self.value(ok)
    }
    fn integer(&mut self, value: i64) -> bool {
        let ok = self
            .top()
            .is_some_and(|(top, said)| top.jlif.integer(value, said));
        self.value(ok)
    }
    fn double(&mut self, value: f64) -> bool {
        let ok = self
            .top()
            .is_some_and(|(top, said)| top.jlif.double(value, said));
        self.value(ok)
    }
    fn string(&mut self, bytes: &[u8]) -> bool {
        let ok = self
            .top()
            .is_some_and(|(top, said)| top.jlif.string(bytes, said));
        self.value(ok)
    }
    fn start_map(&mut self) -> bool {
        let Some((top, said)) = self.top() else {
            return true;
        };
        top.depth += 1;
        match top.jlif.start_map(said) {
            MapStart::Stop => false,
            MapStart::Continue => true,
            MapStart::Child(ftype) => {
                self.slot = Some(ftype);
                true
            }
        }
    }
    fn map_key(&mut self, key: &[u8]) -> bool {
        let Some(ftype) = self.slot.take() else {
            return match self.top() {
                Some((top, said)) => top.jlif.map_key(key, said),
                None => {
                    let key = String::from_utf8_lossy(key);
                    self.said = Some(LinkRefusal::new(LinkWhy::SecondKey(
                        crate::server::recgbl::ReportString::new(&key),
                    )));
                    false
                }
            };
        };
        let key = String::from_utf8_lossy(key);
        if let Some(refusal) = unknown_link_type(&*key, self.lookup) {
            self.said = Some(refusal);
            return false;
        }
        match Jlif::alloc(&key, ftype) {
            Ok(jlif) => {
                let key = crate::server::recgbl::ReportString::new(&key);
                self.stack.push(Jlink {
                    key,
                    jlif,
                    depth: 0,
                });
                true
            }
            Err(refusal) => {
                self.said = Some(refusal);
                false
            }
        }
    }
    fn end_map(&mut self) -> bool {
        let Some((top, said)) = self.top() else {
            return true;
        };
        top.depth -= 1;
        let ok = top.jlif.end_map(said);
        self.value(ok)
    }
    fn start_array(&mut self) -> bool {
        self.top().is_some_and(|(top, said)| {
            top.depth += 1;
            top.jlif.start_array(said)
        })
    }
    fn end_array(&mut self) -> bool {
        let ok = self.top().is_some_and(|(top, _)| {
            top.depth -= 1;
            top.jlif.end_array()
        });
        self.value(ok)
    }
}

/// C `dbJLinkParse` (`dbJLink.c:379-445`) as a gate: text yajl rejects is
/// reported with yajl's rendered error; a callback's stop prints only what
/// the callbacks said.
fn jlink_syntax_refusal(
    s: &str,
    ftype: LinkFieldType,
    lookup: LinkLookup<'_>,
) -> Option<LinkRefusal> {
    use crate::server::db_convert_json::{Parser, Status};

    let txt = s.as_bytes();
    let mut parser = Parser::new(Dbjl {
        lookup,
        stack: Vec::new(),
        slot: Some(ftype),
        said: None,
    });
    let mut status = parser.parse(txt);
    if status == Status::Ok {
        status = parser.finish();
    }
    match status {
        Status::Ok => None,
        // A stop with no word is still a refusal: the top link's type
        // refused its value, or there was no link to take it.
        Status::ClientCanceled => Some(parser.ctx.said.take().unwrap_or_else(|| {
            LinkRefusal::new(match parser.ctx.stack.last() {
                Some(top) => LinkWhy::ValueRejected(top.key),
                None => LinkWhy::NoTypeKey,
            })
        })),
        Status::Error => Some(LinkRefusal::new(LinkWhy::Yajl(parser.error(txt)))),
    }
}

/// The shape C `lnkConst`'s callbacks (`lnkConst.c:91-262`) have built so
/// far: its `type` with the element kind folded to number or string, which is
/// all that decides a refusal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ConstShape {
    S0,
    Scalar,
    A0,
    Numbers,
    Strings,
}

/// `lnkConstIf`'s parse half. A boolean is `lnkConst_integer`; `parse_null`
/// and `parse_start_map` are NULL, so they stop without a word.
struct LnkConstParse {
    shape: ConstShape,
}

impl LnkConstParse {
    fn mixed(said: &mut Said) -> bool {
        *said = Some(LinkRefusal::new(LinkWhy::ConstStop(Some(
            "lnkConst: Mixed data types in array\n",
        ))));
        false
    }

    fn number(&mut self, said: &mut Said) -> bool {
        match self.shape {
            ConstShape::S0 => self.shape = ConstShape::Scalar,
            ConstShape::A0 | ConstShape::Numbers => self.shape = ConstShape::Numbers,
            ConstShape::Strings => return Self::mixed(said),
            ConstShape::Scalar => return false,
        }
        true
    }

    fn string(&mut self, said: &mut Said) -> bool {
        match self.shape {
            ConstShape::S0 => self.shape = ConstShape::Scalar,
            ConstShape::A0 | ConstShape::Strings => self.shape = ConstShape::Strings,
            ConstShape::Numbers => return Self::mixed(said),
            ConstShape::Scalar => return false,
        }
        true
    }

    fn start_array(&mut self, said: &mut Said) -> bool {
        if self.shape != ConstShape::S0 {
            *said = Some(LinkRefusal::new(LinkWhy::ConstStop(Some(
                "lnkConst: Embedded array value\n",
            ))));
            return false;
        }
        self.shape = ConstShape::A0;
        true
    }
}

/// `calc_link.pstate` (`lnkCalc.c:43-51`), numbered as C prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum CalcPs {
    Init = 0,
    Expr,
    Major,
    Minor,
    Args,
    Out,
    Prec,
    Units,
    Time,
    Error,
}

/// `lnkCalcIf`'s parse half (`lnkCalc.c:122-370`): the state it keeps that
/// decides a refusal.
struct LnkCalcParse {
    ftype: LinkFieldType,
    pstate: CalcPs,
    nargs: usize,
    expr: bool,
    major: bool,
    minor: bool,
    units: bool,
    out: bool,
}

impl LnkCalcParse {
    fn new(ftype: LinkFieldType) -> Self {
        Self {
            ftype,
            pstate: CalcPs::Init,
            nargs: 0,
            expr: false,
            major: false,
            minor: false,
            units: false,
            out: false,
        }
    }

    /// One more `arg[nArgs++]` / `inp[nArgs++]`, refused at the limit.
    fn take_arg(&mut self, said: &mut Said) -> bool {
        if self.nargs == crate::calc::CALC_NARGS {
            calc_stop(said, CalcSaid::TooManyArgs);
            return false;
        }
        self.nargs += 1;
        true
    }

    fn integer(&mut self, value: i64, said: &mut Said) -> bool {
        match self.pstate {
            CalcPs::Prec => true,
            CalcPs::Args => self.take_arg(said),
            _ => {
                calc_stop(said, CalcSaid::UnexpectedInteger(value));
                false
            }
        }
    }

    fn double(&mut self, value: f64, said: &mut Said) -> bool {
        if self.pstate != CalcPs::Args {
            let g = epics_libcom_rs::cfmt::CFloat(value).g().to_string();
            calc_stop(said, CalcSaid::UnexpectedDouble(ReportString::new(&g)));
            return false;
        }
        self.take_arg(said)
    }

    fn string(&mut self, bytes: &[u8], said: &mut Said) -> bool {
        let text = String::from_utf8_lossy(bytes);
        match self.pstate {
            CalcPs::Units => {
                self.units = true;
                true
            }
            CalcPs::Time => {
                let letter = text.bytes().next().map(|b| b.to_ascii_uppercase());
                match letter {
                    Some(l)
                        if text.len() == 1
                            && l.is_ascii_uppercase()
                            && usize::from(l - b'A') < crate::calc::CALC_NARGS =>
                    {
                        true
                    }
                    _ => {
                        calc_stop(said, CalcSaid::BadTime(ReportString::new(&text)));
                        false
                    }
                }
            }
            CalcPs::Expr | CalcPs::Major | CalcPs::Minor => {
                match self.pstate {
                    CalcPs::Expr => self.expr = true,
                    CalcPs::Major => self.major = true,
                    _ => self.minor = true,
                }
                match crate::calc::compile(&text) {
                    Ok(_) => true,
                    Err(e) => {
                        let why = crate::calc::calc_error_str(e.code()).unwrap_or("Unknown error");
                        calc_stop(said, CalcSaid::BadExpr(why));
                        false
                    }
                }
            }
            _ => {
                calc_stop(said, CalcSaid::UnexpectedString(ReportString::new(&text)));
                false
            }
        }
    }

    fn start_map(&mut self, said: &mut Said) -> MapStart {
        match self.pstate {
            CalcPs::Args => MapStart::Child(LinkFieldType::In),
            CalcPs::Out => MapStart::Child(LinkFieldType::Out),
            CalcPs::Init => MapStart::Continue,
            _ => {
                calc_stop(said, CalcSaid::UnexpectedMap);
                MapStart::Stop
            }
        }
    }

    fn map_key(&mut self, key: &[u8], said: &mut Said) -> bool {
        let next = match key {
            b"out" if self.ftype == LinkFieldType::Out && !self.out => Some(CalcPs::Out),
            b"expr" if !self.expr => Some(CalcPs::Expr),
            b"args" if self.nargs == 0 => Some(CalcPs::Args),
            b"prec" => Some(CalcPs::Prec),
            b"time" => Some(CalcPs::Time),
            b"major" if !self.major => Some(CalcPs::Major),
            b"minor" if !self.minor => Some(CalcPs::Minor),
            b"units" if !self.units => Some(CalcPs::Units),
            _ => None,
        };
        match next {
            Some(pstate) => {
                self.pstate = pstate;
                true
            }
            None => {
                let key = String::from_utf8_lossy(key);
                calc_stop(said, CalcSaid::UnknownKey(ReportString::new(&key)));
                false
            }
        }
    }

    fn end_map(&mut self, said: &mut Said) -> bool {
        if self.pstate == CalcPs::Error {
            return false;
        }
        if self.ftype == LinkFieldType::In && !self.expr {
            calc_stop(said, CalcSaid::NoExpr);
            return false;
        }
        if self.ftype == LinkFieldType::Out && !self.out {
            calc_stop(said, CalcSaid::NoOut);
            return false;
        }
        true
    }

    fn start_array(&mut self, said: &mut Said) -> bool {
        if self.pstate != CalcPs::Args {
            calc_stop(said, CalcSaid::UnexpectedArray);
            return false;
        }
        true
    }

    fn end_array(&mut self) -> bool {
        self.pstate != CalcPs::Error
    }

    fn end_child(&mut self, said: &mut Said) {
        match self.pstate {
            CalcPs::Args => {
                if !self.take_arg(said) {
                    self.pstate = CalcPs::Error;
                }
            }
            CalcPs::Out => self.out = true,
            ps => {
                calc_stop(said, CalcSaid::UnexpectedChild(ps as i32));
                self.pstate = CalcPs::Error;
            }
        }
    }
}

fn calc_stop(said: &mut Said, why: CalcSaid) {
    *said = Some(LinkRefusal::new(LinkWhy::CalcStop(why)));
}

/// C `dbParseLink`'s JSON arm as a validation gate: `Err` exactly when the
/// text is a brace-delimited link C would refuse to load
/// (`dbStaticLib.c:2281-2283` → `S_dbLib_badField`).
pub fn check_json_link_text(text: &str, ftype: LinkFieldType) -> CaResult<()> {
    check_json_link_text_in(text, ftype, LinkLookup::Implemented)
}

/// [`check_json_link_text`] against `lookup`.
pub(crate) fn check_json_link_text_in(
    text: &str,
    ftype: LinkFieldType,
    lookup: LinkLookup<'_>,
) -> CaResult<()> {
    match parse_json_link_in(text, ftype, lookup) {
        JsonLinkParse::Rejected(refusal) => Err(CaError::BadLink(refusal)),
        JsonLinkParse::NotJson | JsonLinkParse::Parsed(_) => Ok(()),
    }
}

/// C `dbParseLink`'s `#` arm as the same kind of gate: `Err` exactly when the
/// identifier letters name no bus, which is `goto fail` → `S_dbLib_badField`
/// (`dbStaticLib.c:2296-2331`).
///
/// Measured on softIoc R7.0.10, a `.db` carrying `field(INP,"#nonsense")` is
/// refused while the file loads — `Can't set 'H:BAD.INP' to '#nonsense'  :
/// Bad Field value` — and `dbgf H:BAD.INP` then reads back `""`. Without this
/// the port stored the text and served it, because the refused parse comes
/// back as an unset CONSTANT that the device's declared CONSTANT accepts.
fn check_hw_link_text(text: &str) -> CaResult<()> {
    let text = text.trim();
    if text.starts_with('#') && try_parse_hw_link(text).is_none() {
        return Err(CaError::BadLink(LinkRefusal::new(LinkWhy::NoBus)));
    }
    Ok(())
}

/// Read a link body that has ALREADY been through
/// [`crate::json5::relaxed_to_strict`]. Every key here is quoted and every
/// comment is gone, so the `:` split below is safe.
fn try_parse_json_link_body(
    s: &str,
    ftype: LinkFieldType,
    lookup: LinkLookup<'_>,
) -> Option<ParsedLink> {
    let s = s.trim();
    if !s.starts_with('{') || !s.ends_with('}') {
        return None;
    }
    // First key: scan until ':' or end. Trim outer braces, accept
    // optional whitespace + optional quote around the key.
    let inner = &s[1..s.len() - 1];
    let inner_trim = inner.trim_start();
    let (key_raw, rest) = match inner_trim.split_once(':') {
        Some((k, r)) => (k.trim(), r.trim()),
        None => return None,
    };
    let key = key_raw.trim_matches('"');
    match key {
        "const" => Some(ParsedLink::json_constant(rest.trim_end_matches(',').trim())),
        "ca" | "pva" => {
            // pvxs accepts the link value in two forms (pvxs/ioc/pvalink_jlif.cpp:24-31
            // documents the string shorthand; pva_parse_string at :143-149
            // takes a string value at depth 0 as the channel name and a `pv`
            // string inside a map):
            //   shorthand  { pva: "name" }             — string IS the channel
            //              name verbatim; any `?`/`&` in it is link DATA, not
            //              option syntax (pvxs/ioc/pvalink_jlif.cpp:143-149).
            //   longhand   { pva: { pv: "name", ... } } — map with a `pv`
            //              member; the other keys are STRUCTURED JLink options
            //              (pvxs/ioc/pvalink_jlif.cpp:69-196), preserved as such so the
            //              pvalink bridge reconstructs PvaLinkConfig from map
            //              keys rather than from a synthetic `?key=value` query
            //              (which pvxs has no parser for — :286-300).
            // For CA only the PV name matters (CA links bypass pvalink).
            //
            // Branch on the value's JSON shape so the recognized string
            // shorthand is routed to the PVA/CA resolver instead of falling
            // through to legacy DB parsing (which would treat the raw JSON
            // text as a record name).
            let value = rest.trim_end_matches(',').trim();
            // Classify the root value by JSON shape. A bare `true`/`5`/
            // `null` names no channel in pvxs, so a pva link keeps the empty
            // name; it is never coerced into a literal PV name.
            match classify_pva_root_value(value)? {
                PvaRootValue::Ignored if key == "ca" => None,
                // DEVIATION at process only: softIocPVX takes the link at load
                // and at a put, then segfaults at the record's first process
                // (`pvaDoLocked` on the never-opened channel,
                // `pvalink_lset.cpp:702`); the port reads it unconnected.
                PvaRootValue::Ignored => Some(ParsedLink::Pva(PvaChannelLink::new(""))),
                PvaRootValue::Object(obj) => {
                    if key == "ca" {
                        // JSON CA links carry no plain-text MS modifier and
                        // ignore pvalink options; take only the PV name.
                        // Alarm policy defaults to NoMaximize.
                        Some(ParsedLink::Ca(CaLink::json(
                            extract_pv_and_opts_from_subobject(obj)?.0?,
                            ftype,
                        )))
                    } else {
                        // PVA longhand: keep the options as structured JLink
                        // members.
                        // A map with no `pv` leaves pvxs's name empty, as
                        // `pv:""` does (`pvalink_jlif.cpp:147-148`).
                        let (pv, options) = extract_pv_and_opts_from_subobject(obj)?;
                        let pv = pv.unwrap_or_default();
                        if options.is_empty() {
                            Some(ParsedLink::Pva(PvaChannelLink::new(pv)))
                        } else {
                            Some(ParsedLink::PvaJson(Box::new(PvaJsonLink::new(pv, options))))
                        }
                    }
                }
                PvaRootValue::StringName(name) => {
                    // String shorthand: the contents are the verbatim channel
                    // name. Do NOT split `?` — it is link data (pvxs treats a
                    // string pvalink as the channel name in full). It is still a
                    // yajl string, so its escapes are decoded by the one owner.
                    let name = decode_json_string(name.trim());
                    if key == "ca" {
                        Some(ParsedLink::Ca(CaLink::json(name, ftype)))
                    } else {
                        Some(ParsedLink::Pva(PvaChannelLink::new(name)))
                    }
                }
            }
        }
        "state" => {
            // `lnkStateIf` fills only the `parse_string` slot
            // (`lnkState.c:226-232`). Every other value kind lands on a NULL
            // callback, and a NULL callback "is equivalent to providing a
            // routine that always returns jlif_stop" (`dbJLink.h:3-5`, via
            // `CALL_OR_STOP`), so `{state:1}` and `{state:{…}}` are refused
            // where `{state:"X"}` loads.
            let value = rest.trim_end_matches(',').trim();
            let text = decode_json_string_token(value)?;
            Some(ParsedLink::State(StateLink::from_link_value(&text)))
        }
        "calc" => {
            // C `lnkCalc_map_key` (`lnkCalc.c:247-296`) knows expr, args,
            // prec, time, major, minor, units and out.
            let body = rest.trim();
            if !body.ends_with('}') {
                return None;
            }
            // Already strict: `parse_json_link` normalized the whole text
            // through `crate::json5` before dispatching here.
            let val: serde_json::Value = serde_json::from_str(body).ok()?;
            let obj = val.as_object()?;
            // `jlink_syntax_refusal` has already held an input link to an
            // `expr` and an output link to an `out` (`lnkCalc_end_map`).
            let text = |key| match obj.get(key) {
                None => Some(None),
                Some(v) => v.as_str().map(|s| Some(s.to_string())),
            };
            let expr = text("expr")?;
            let major = text("major")?;
            let minor = text("minor")?;
            // `lnkCalc_start_map` asks for `jlif_key_child_outlink`
            // (`lnkCalc.c:236-237`).
            let out = match obj.get("out") {
                None => None,
                Some(v) => match parse_json_link_in(
                    &serde_json::to_string(v).ok()?,
                    LinkFieldType::Out,
                    lookup,
                ) {
                    JsonLinkParse::Parsed(parsed) => Some(std::sync::Arc::new(parsed)),
                    JsonLinkParse::NotJson | JsonLinkParse::Rejected(_) => return None,
                },
            };
            let args = match obj.get("args") {
                None => Vec::new(),
                Some(v) => {
                    // C has no "args must be an array" rule. `lnkCalc_start_array`
                    // (`lnkCalc.c:319-329`) only asserts the parser is in
                    // `ps_args`, and every value handler appends to
                    // `clink->arg` on that state alone —
                    // `lnkCalc_integer:121-144`, `lnkCalc_double`,
                    // `lnkCalc_end_child:341-370`. So a bare `args:5` is one
                    // argument, which is how base's own
                    // `std/rec/linkRetargetLink.db:20-23` spells it; requiring
                    // the brackets refused a link C loads.
                    let elems: &[serde_json::Value] = v
                        .as_array()
                        .map_or(std::slice::from_ref(v), |a| a.as_slice());
                    // The limit is a refusal, not a truncation
                    // (`lnkCalc.c:135-139`, `:155-159`, `:346-350` all
                    // `jlif_stop`). C's own doc says "up to 24"
                    // (`links.dbd.pod:131`) but A..U is 21 letters and
                    // `postfix.h:29` defines 21, so the code wins.
                    if elems.len() > crate::calc::CALC_NARGS {
                        return None;
                    }
                    elems
                        .iter()
                        .map(|v| json_calc_arg(v, lookup))
                        .collect::<Option<Vec<_>>>()?
                }
            };
            // C `lnkCalc_string` at `ps_time` (`lnkCalc.c:180-186`): exactly
            // one character, `toupper`ed, in `'A' ..< 'A' + CALCPERFORM_NARGS`.
            // Anything else is `jlif_stop` — an out-of-range letter refuses
            // the link rather than silently dropping the timestamp source.
            let time_source = match obj.get("time") {
                None => None,
                Some(v) => {
                    let text = v.as_str()?;
                    let mut chars = text.chars();
                    let letter = chars.next()?.to_ascii_uppercase();
                    if chars.next().is_some()
                        || !letter.is_ascii_uppercase()
                        || (letter as u8 - b'A') as usize >= crate::calc::CALC_NARGS
                    {
                        return None;
                    }
                    Some(letter)
                }
            };
            // C `lnkCalc_integer` at `ps_prec` stores into a `short`.
            let prec = match obj.get("prec") {
                None => 15,
                Some(v) => v.as_i64()? as i16,
            };
            let units = text("units")?;
            Some(ParsedLink::Calc(Box::new(CalcLink {
                expr,
                major,
                minor,
                out,
                args,
                time_source,
                val: CalcVal::default(),
                prec,
                units,
            })))
        }
        _ => None,
    }
}

/// One `args` element: a numeric literal, or an embedded JSON link.
///
/// Embedded links go back through [`parse_json_link_in`], the single owner, so a
/// nested unknown type is refused exactly as a top-level one is.
fn json_calc_arg(v: &serde_json::Value, lookup: LinkLookup<'_>) -> Option<CalcArg> {
    match v {
        serde_json::Value::Number(n) => Some(CalcArg::Literal(n.as_f64()?)),
        // `lnkCalc_start_map` asks for `jlif_key_child_inlink` (`lnkCalc.c:234-235`).
        serde_json::Value::Object(_) => {
            match parse_json_link_in(&serde_json::to_string(v).ok()?, LinkFieldType::In, lookup) {
                JsonLinkParse::Parsed(parsed) => Some(CalcArg::Link(Box::new(parsed))),
                JsonLinkParse::NotJson | JsonLinkParse::Rejected(_) => None,
            }
        }
        _ => None,
    }
}

/// Extract the `pv` name and all other key-value options from a
/// JSON-ish sub-object body. Returns `(pv_name, options)`, the name `None`
/// when the map has no string `pv` member, where `options` is every other depth-1 member as a structured `(key, value)`
/// pair in source order, repeats kept (empty when there are none). Runs on text that
/// has already been through [`crate::json5::relaxed_to_strict`], so every key
/// is quoted and every string carries strict-JSON escapes.
///
/// The options are kept STRUCTURED — not flattened into a `?k=v&…`
/// query string — so the pvalink consumer reconstructs `PvaLinkConfig`
/// from JLink map members (pvxs/ioc/pvalink_jlif.cpp:69-196), matching pvxs,
/// which has no URI-query parser in its JLink callback table
/// (pvxs/ioc/pvalink_jlif.cpp:286-300). Key case is preserved so a case-sensitive
/// key like `Q` survives, AND the JSON value KIND is preserved as a
/// [`JlinkValue`]: a quoted token is a string, a bare `true`/`false`/
/// `null` is the JSON keyword, a bare integer is an integer. pvxs
/// dispatches its pvalink callbacks strictly by this kind
/// (pvxs/ioc/pvalink_jlif.cpp:286-300), so flattening a bare `pipeline:true` and
/// a quoted `pipeline:"yes"` to the same text would let Rust honor an
/// option pvxs ignores.
fn extract_pv_and_opts_from_subobject(
    body: &str,
) -> Option<(Option<String>, Vec<(String, JlinkValue)>)> {
    use crate::server::db_convert_json::{Parser, Status};

    // yajl's member walk, not a map: pvxs applies each member as it arrives,
    // so a repeated key the later value does not fit keeps the earlier one.
    let mut parser = Parser::new(PvaMembers::default());
    let txt = body.as_bytes();
    let mut status = parser.parse(txt);
    if status == Status::Ok {
        status = parser.finish();
    }
    if status != Status::Ok {
        return None;
    }
    let PvaMembers { pv, opts, .. } = parser.ctx;
    Some((pv, opts))
}

/// pvxs's `lsetPVX` callbacks (`pvalink_jlif.cpp:69-220`) as a recorder:
/// every member at `parseDepth == 1` in source order, duplicates kept, with
/// a string `pv` taken as the name (`:143-148`). `parse_double` and
/// `parse_start_array` are NULL there, so a float or an array stops the
/// parse.
#[derive(Default)]
struct PvaMembers {
    depth: u32,
    key: Option<String>,
    pv: Option<String>,
    opts: Vec<(String, JlinkValue)>,
}

impl PvaMembers {
    fn member(&mut self, value: JlinkValue) -> bool {
        if self.depth == 1
            && let Some(key) = self.key.take()
        {
            match value {
                JlinkValue::Str(name) if key == "pv" => self.pv = Some(name),
                value => self.opts.push((key, value)),
            }
        }
        true
    }
}

impl crate::server::db_convert_json::Callbacks for PvaMembers {
    fn null(&mut self) -> bool {
        self.member(JlinkValue::Null)
    }
    fn boolean(&mut self, value: bool) -> bool {
        self.member(JlinkValue::Bool(value))
    }
    fn integer(&mut self, value: i64) -> bool {
        self.member(JlinkValue::Int(value))
    }
    fn double(&mut self, _value: f64) -> bool {
        false
    }
    fn string(&mut self, bytes: &[u8]) -> bool {
        self.member(JlinkValue::Str(String::from_utf8_lossy(bytes).into_owned()))
    }
    fn start_map(&mut self) -> bool {
        self.key = None;
        self.depth += 1;
        true
    }
    fn start_array(&mut self) -> bool {
        false
    }
    fn map_key(&mut self, key: &[u8]) -> bool {
        if self.depth == 1 {
            self.key = Some(String::from_utf8_lossy(key).into_owned());
        }
        true
    }
    fn end_map(&mut self) -> bool {
        self.depth -= 1;
        true
    }
}

/// Recognize a hardware (`@…` / `#Cn Sn …`) link — C `dbParseLink`'s two
/// hardware arms (`dbStaticLib.c:2266-2274` and `:2292-2344`).
///
/// `None` means C's `goto fail`: the identifier letters name no bus, a
/// letter has no number after it, there is trailing junk, or an `RF_IO`
/// link carries a parm. Such text is not a hardware link of unknown type,
/// it is not a link at all.
fn try_parse_hw_link(s: &str) -> Option<ParsedLink> {
    if s.is_empty() {
        return None;
    }
    match s.as_bytes()[0] {
        // C copies everything after the `@` with no further trimming — the
        // caller has already stripped the whole string's leading and
        // trailing blanks, so an inner leading blank survives.
        b'@' => Some(ParsedLink::Hw(HwLink::InstIo {
            string: s[1..].to_string(),
        })),
        b'#' => hw_scan(&s[1..]).map(ParsedLink::Hw),
        _ => None,
    }
}

/// Scan a `#` link into its bus payload — C's
/// `sscanf(target, "# %c%i %c%i %c%i %c%i %c%i %c", …)` and the identifier
/// table and distribution that follow it (`dbStaticLib.c:2296-2344`,
/// `:2453-2529`), with `text` everything after the `#`.
///
/// The scan and the distribution are one step here because in C they are one
/// decision: `hwid` picks both the link type and which slot of `hwnums` each
/// number lands in. Splitting them would put the positional rule in two
/// places, and it is the positional rule that produces C's odd corners — the
/// `"BCNF"` spelling stores its `F` number in `camacio.a` and leaves
/// `camacio.f` zero, because `dbSetLinkHW` reads `hwnums[3]` and `hwnums[4]`
/// whatever the letters were.
///
/// The numbers C does not scan are zero, not garbage: `dbParseLink` opens
/// with `memset(pinfo, 0, sizeof(*pinfo))` (`:2251`), so `#B1 C2 N3` reads
/// back as `#B1 C2 N3 A0 F0 @`.
fn hw_scan(text: &str) -> Option<HwLink> {
    // C isolates the parm at the first `@` before scanning (`:2292-2298`),
    // so `@` and everything after it is not part of the identifier. The parm
    // itself is kept verbatim to the end of the (already trailing-trimmed)
    // string.
    let (head, parm) = match text.split_once('@') {
        Some((head, parm)) => (head, Some(parm)),
        None => (text, None),
    };

    let mut hwid = String::new();
    let mut count = 0usize;
    let mut nums = [0i64; 5];
    let mut rest = head;
    loop {
        // The literal blank in C's format matches any run of whitespace,
        // including none — which is why `#C1S2` is a valid VME link.
        rest = rest.trim_start_matches(c_isspace);
        if rest.is_empty() {
            break;
        }
        // C's eleventh conversion, `junk`: a sixth identifier means
        // `ret == 11` and `ret > 10` fails.
        if count == 5 {
            return None;
        }
        let mut chars = rest.chars();
        // `%c` takes whatever byte is there; only the assembled `hwid`
        // decides, and no bus name contains a non-letter.
        let id = chars.next()?;
        // A letter with no number is C's odd `ret`.
        let (value, end) = scanf_long(chars.as_str(), 0)?;
        nums[count] = i64::from(value);
        count += 1;
        hwid.push(id);
        rest = &chars.as_str()[end..];
    }

    // C narrows `int hwnums[]` to the width of the destination member, and
    // `dbGetString` prints what was stored, so the truncation is observable.
    let s = |i: usize| nums[i] as i16;
    let u = |i: usize| nums[i] as u8;
    let parm_string = || parm.unwrap_or_default().to_string();

    Some(match hwid.as_str() {
        "CS" => HwLink::VmeIo {
            card: s(0),
            signal: s(1),
            parm: parm_string(),
        },
        "BCN" | "BCNA" | "BCNF" | "BCNAF" => HwLink::CamacIo {
            b: s(0),
            c: s(1),
            n: s(2),
            a: s(3),
            f: s(4),
            parm: parm_string(),
        },
        // `RF_IO` is the only bus with no string member at all, so a parm on
        // one is C's last `goto fail` (`dbStaticLib.c:2333-2343`).
        "RMDE" if parm.is_none() => HwLink::RfIo {
            cryo: s(0),
            micro: s(1),
            dataset: s(2),
            element: s(3),
        },
        "LACS" => HwLink::AbIo {
            link: s(0),
            adapter: s(1),
            card: s(2),
            signal: s(3),
            parm: parm_string(),
        },
        "LA" => HwLink::GpibIo {
            link: s(0),
            addr: s(1),
            parm: parm_string(),
        },
        "LNPS" => HwLink::BitbusIo {
            link: u(0),
            node: u(1),
            port: u(2),
            signal: u(3),
            parm: parm_string(),
        },
        "LBG" => HwLink::BbgpibIo {
            link: u(0),
            bbaddr: u(1),
            gpibaddr: u(2),
            parm: parm_string(),
        },
        "VCS" => HwLink::VxiIo {
            addr: VxiAddr::Dynamic {
                frame: s(0),
                slot: s(1),
            },
            signal: s(2),
            parm: parm_string(),
        },
        "VS" => HwLink::VxiIo {
            addr: VxiAddr::Static { la: s(0) },
            signal: s(1),
            parm: parm_string(),
        },
        _ => return None,
    })
}

/// The **one** process-class modifier a link carries.
///
/// C `dbParseLink` (`dbStaticLib.c:2369-2373`) resolves the process class with
/// a single `else if` chain that **assigns** (never OR-s) exactly one bit:
///
/// ```c
/// if      (strstr(pstr, "NPP")) pinfo->modifiers = 0;
/// else if (strstr(pstr, "CPP")) pinfo->modifiers = pvlOptCPP;
/// else if (strstr(pstr, "PP"))  pinfo->modifiers = pvlOptPP;
/// else if (strstr(pstr, "CA"))  pinfo->modifiers = pvlOptCA;
/// else if (strstr(pstr, "CP"))  pinfo->modifiers = pvlOptCP;
/// ```
///
/// So the classes are mutually exclusive and the *chain order* — not the token
/// order in the string — decides which one wins. `"REC CP NPP"` is NPP,
/// `"OTHER:PV CP CA"` is CA (a plain CA link that never processes its holder),
/// and `"REC PP CA"` is PP (a **local DB** link, because `dbAccess.c:1104`
/// routes to `dbDbInitLink` when none of `CA|CP|CPP` is set).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum ProcessClass {
    /// `NPP`, and the modifier-less default: C `memset`s the modifier set to
    /// zero (`dbStaticLib.c:2252`) and only an explicit token sets a bit.
    #[default]
    Npp,
    Cpp,
    Pp,
    Ca,
    Cp,
}

impl ProcessClass {
    /// `(policy, force_ca)` — how this class lands in the port's link model.
    /// `CA`, `CP` and `CPP` all make it a CA link whatever its target: C
    /// `dbInitLink` tries `dbDbInitLink` only when none of the three is set
    /// (`dbLink.c:118-122`), so a local target is served by `dbContext`.
    fn resolve(self) -> (LinkProcessPolicy, bool) {
        match self {
            Self::Npp => (LinkProcessPolicy::NoProcess, false),
            Self::Cpp => (LinkProcessPolicy::ChannelProcessPassive, true),
            Self::Pp => (LinkProcessPolicy::ProcessPassive, false),
            Self::Ca => (LinkProcessPolicy::NoProcess, true),
            Self::Cp => (LinkProcessPolicy::ChannelProcess, true),
        }
    }

    fn is_cp_or_cpp(self) -> bool {
        matches!(self, Self::Cp | Self::Cpp)
    }

    /// C `dbStaticLib.c:2369-2373` — a single `else if` chain over
    /// `strstr(pstr, …)` in the order `NPP, CPP, PP, CA, CP` that *assigns*
    /// (never OR-s) exactly one class. The order is load-bearing: `CPP` must be
    /// tested before `PP`, since `"CPP"` contains `"PP"`.
    fn from_modifier_text(mods: &[u8]) -> Self {
        if has_modifier(mods, b"NPP") {
            Self::Npp
        } else if has_modifier(mods, b"CPP") {
            Self::Cpp
        } else if has_modifier(mods, b"PP") {
            Self::Pp
        } else if has_modifier(mods, b"CA") {
            Self::Ca
        } else if has_modifier(mods, b"CP") {
            Self::Cp
        } else {
            Self::Npp
        }
    }
}

/// C's `strstr(pmod, name)` over the modifier text.
fn has_modifier(mods: &[u8], name: &[u8]) -> bool {
    mods.windows(name.len()).any(|w| w == name)
}

/// Which link *field* a link string is being parsed for — C's `ftype` argument
/// to `dbParseLink`, i.e. the `pfldDes->field_type` of the field that holds the
/// link (`dbAccess.c:1094` `dbPutFieldLink`).
///
/// The field type filters the parsed modifiers (`dbStaticLib.c:2380-2391`),
/// which is why the same text means different things in `INP` and `OUT`:
///
/// ```c
/// switch(ftype) {
/// case DBF_INLINK:  /* accept all */ break;
/// case DBF_OUTLINK:
///     if (modifiers & (pvlOptCPP|pvlOptCP))
///         errlogPrintf(ERL_WARNING ": Discarding CP/CPP modifier in CA output link …");
///     modifiers &= ~(pvlOptCPP|pvlOptCP);
///     break;
/// case DBF_FWDLINK: modifiers &= pvlOptCA; break;
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkFieldType {
    /// `DBF_INLINK` — `INP`, `INPA`…, `DOL`, `SDIS`, `TSEL`, `SIML`, … Every
    /// modifier is accepted.
    In,
    /// `DBF_OUTLINK` — `OUT`, `dfanout.OUTA`…, `sseq.LNK1`…, `SIOL`. `CP`/`CPP`
    /// is meaningless (it asks for input-side "process on change") and is
    /// discarded with a warning.
    Out,
    /// `DBF_FWDLINK` — `FLNK` (`dbCommon.dbd.pod:575`), `fanout.LNK1`…
    /// (`fanoutRecord.dbd.pod:144`). Only `CA` survives; every process and
    /// maximize-severity modifier is masked off.
    Fwd,
}

impl LinkFieldType {
    /// The link-field type of a `DBF_*LINK` field class — the one mapping
    /// between the two spellings of the same thing, so a reader that has a
    /// [`DbfLinkClass`] from the `.dbd` can reach the parser.
    pub fn for_class(class: DbfLinkClass) -> Self {
        match class {
            DbfLinkClass::InLink => Self::In,
            DbfLinkClass::OutLink => Self::Out,
            DbfLinkClass::FwdLink => Self::Fwd,
        }
    }

    /// Apply C's per-field-type modifier mask (`dbStaticLib.c:2380-2391`).
    ///
    /// Silent by design: some OUT links (`dfanout.OUTn`, `sseq.LNKn`) are
    /// re-parsed from their raw text on every process cycle, so C's one-shot
    /// load-time `errlogPrintf` cannot live here. The diagnostic is emitted at
    /// the one-shot put/load boundary via [`out_link_discards_cp`], which also
    /// has the holder record's name — the `%s.%s` half of C's message.
    fn mask(self, class: ProcessClass, ms: MonitorSwitch) -> (ProcessClass, MonitorSwitch) {
        match self {
            Self::In => (class, ms),
            // `modifiers &= ~(pvlOptCPP|pvlOptCP)`.
            Self::Out => {
                let class = if class.is_cp_or_cpp() {
                    ProcessClass::Npp
                } else {
                    class
                };
                (class, ms)
            }
            // `modifiers &= pvlOptCA` — everything except the CA bit is
            // cleared, including the maximize-severity switch.
            Self::Fwd => {
                let class = if class == ProcessClass::Ca {
                    ProcessClass::Ca
                } else {
                    ProcessClass::Npp
                };
                (class, MonitorSwitch::NoMaximize)
            }
        }
    }
}

/// The target of `s`, read as a `DBF_OUTLINK`, when it carries a `CP`/`CPP`
/// modifier that [`parse_output_link_v2`] will discard: C's `pinfo->target`,
/// the text before the first space.
///
/// Only a PV link reaches C's modifier scan, so the text first goes through
/// `dbParseLink`'s tests in its order (`dbStaticLib.c:2266-2357`): `@` INST_IO,
/// `{…}` JSON, `#` hardware, an empty or wholly numeric CONSTANT, a `[…]`
/// array CONSTANT. The modifiers resolve as the parser's do, so a target
/// whose *name* ends in `CP` is not mistaken for one.
pub fn out_link_discards_cp(s: &[u8]) -> Option<&[u8]> {
    let s = trim_link_text(s);
    let wrapped = |open: u8, close: u8| s.first() == Some(&open) && s.last() == Some(&close);
    if matches!(s.first(), None | Some(b'@' | b'#'))
        || wrapped(b'{', b'}')
        || wrapped(b'[', b']')
        || std::str::from_utf8(s).is_ok_and(|t| parse_c_double(t).is_some())
    {
        return None;
    }
    let space = s.iter().position(|&b| b == b' ')?;
    ProcessClass::from_modifier_text(&s[space + 1..])
        .is_cp_or_cpp()
        .then(|| &s[..space])
}

/// C `dbParseLink`'s warning for the `CP`/`CPP` a `DBF_OUTLINK` discards
/// (`dbStaticLib.c:2382-2387`). C prints it on every parse, so its three
/// callers each print it: the `.db` load, `iocInit`'s `dbInitRecordLinks` and a
/// runtime `dbPutFieldLink`; the port calls this at each of their counterparts.
pub(crate) fn warn_discarded_cp(record: &[u8], field: &str, ftype: LinkFieldType, text: &[u8]) {
    if ftype != LinkFieldType::Out {
        return;
    }
    if let Some(target) = out_link_discards_cp(text) {
        crate::runtime::log::errlog_vprintf(format_args!(
            "{}: Discarding CP/CPP modifier in CA output link from {}.{field} to {}.\n",
            crate::runtime::log::erl_warning(),
            String::from_utf8_lossy(record),
            String::from_utf8_lossy(target),
        ));
    }
}

/// Split a link string into its target and its modifiers, mirroring C
/// `dbParseLink` (`dbStaticLib.c:2359-2379`).
///
/// C isolates the target at the **first space** (`strchr(pstr, ' ')`; tabs do
/// not separate) and then searches the *whole* remainder with `strstr` — the
/// modifiers are not positional suffixes and need no space between them
/// (C's own comment: `"QQCPPXMSITT"` is `pvlOptCPP|pvlOptMSI`). The process
/// class is resolved by [`ProcessClass`]'s fixed precedence; the
/// maximize-severity switch is a second, independent `else if` chain
/// (`:2375-2378`) in the order `NMS, MSI, MSS, MS`, longest match first.
///
/// Returns `(target, policy, monitor_switch, force_ca)` with `ftype`'s modifier
/// mask ([`LinkFieldType::mask`]) already applied.
fn split_link_modifiers(
    s: &[u8],
    ftype: LinkFieldType,
) -> (&[u8], LinkProcessPolicy, MonitorSwitch, bool) {
    let Some(space) = s.iter().position(|&b| b == b' ') else {
        // No space ⇒ no modifier text at all ⇒ modifiers stay zeroed (NPP),
        // and every mask leaves zero at zero.
        let (policy, force_ca) = ProcessClass::default().resolve();
        return (s, policy, MonitorSwitch::NoMaximize, force_ca);
    };
    let (target, mods) = (&s[..space], &s[space + 1..]);

    // Process class — one assignment, C's fixed chain order.
    let class = ProcessClass::from_modifier_text(mods);

    // Maximize-severity switch — independent chain, longest match first.
    let ms = if has_modifier(mods, b"NMS") {
        MonitorSwitch::NoMaximize
    } else if has_modifier(mods, b"MSI") {
        MonitorSwitch::MaximizeIfInvalid
    } else if has_modifier(mods, b"MSS") {
        MonitorSwitch::MaximizeStatus
    } else if has_modifier(mods, b"MS") {
        MonitorSwitch::Maximize
    } else {
        MonitorSwitch::NoMaximize
    };

    // C filters the parsed modifiers by the holding field's type before the
    // link is ever built (`dbStaticLib.c:2380-2391`), so the mask belongs here
    // — at the single parse owner — not at each consumer.
    let (class, ms) = ftype.mask(class, ms);
    let (policy, force_ca) = class.resolve();
    (target, policy, ms, force_ca)
}

/// Parse a `DBF_INLINK` (`INP`, `INPA`…, `DOL`, `SDIS`, `TSEL`, `SIML`, …).
/// Every modifier is accepted — see [`parse_link_field`].
pub fn parse_link_v2(s: impl AsRef<[u8]>) -> ParsedLink {
    parse_link_field(s, LinkFieldType::In)
}

/// Parse a link string held by a link field of type `ftype`, applying that
/// type's C modifier mask (`dbStaticLib.c:2380-2391`). The single owner of
/// "link text → [`ParsedLink`]"; [`parse_link_v2`],
/// [`parse_output_link_v2`] and [`parse_forward_link_v2`] are its three
/// field-type entry points.
///
/// The text is bytes, as C's `dbParseLink` reads it: a record name is not
/// text, so a Latin-1 target must reach the lookup as the bytes the record
/// was loaded under.
pub fn parse_link_field(s: impl AsRef<[u8]>, ftype: LinkFieldType) -> ParsedLink {
    parse_link_bytes(s.as_ref(), ftype)
}

/// C `isspace` in the "C" locale, which `dbParseLink` trims with.
fn is_c_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

/// A link's text with the C `isspace` run `dbParseLink` strips from each end.
pub(crate) fn trim_link_text(s: &[u8]) -> &[u8] {
    let start = s.iter().position(|&b| !is_c_space(b)).unwrap_or(s.len());
    let end = s
        .iter()
        .rposition(|&b| !is_c_space(b))
        .map_or(start, |i| i + 1);
    &s[start..end]
}

fn parse_link_bytes(s: &[u8], ftype: LinkFieldType) -> ParsedLink {
    let s = trim_link_text(s);
    // Only names may be any bytes. JSON is refused by yajl unless it is
    // UTF-8 (`dbJLink.c` leaves yajl's string validation on), so C keeps
    // that link unset; the hardware payload stays text until it has a byte
    // consumer.
    let Ok(text) = std::str::from_utf8(s) else {
        if s.first() == Some(&b'{') && s.last() == Some(&b'}') {
            return ParsedLink::None;
        }
        if matches!(s.first(), Some(b'@' | b'#')) {
            return try_parse_hw_link(&String::from_utf8_lossy(s)).unwrap_or(ParsedLink::None);
        }
        return parse_name_link(s, ftype);
    };
    // JSON-style links (epics-base PR #86) — try first so a leading
    // `{` is not mistaken for a leading-special record-name warning.
    match parse_json_link(text, ftype) {
        JsonLinkParse::Parsed(parsed) => return parsed,
        // C never builds a link out of JSON it could not resolve: the put
        // fails and the field keeps its unset value. The load-time gate
        // ([`check_json_link_text`]) is what reports it; leaving an unset
        // link here is what keeps a dead PV-name link built from the raw JSON
        // text out of every path that reaches this parser without the gate.
        JsonLinkParse::Rejected(_) => return ParsedLink::None,
        JsonLinkParse::NotJson => {}
    }
    // Hardware link (epics-base PR #213). `@` starts INST_IO; `#` is
    // followed by identifier letters that name the bus. Everything else
    // falls through to legacy parsing.
    if let Some(parsed) = try_parse_hw_link(text) {
        return parsed;
    }
    if s.is_empty() {
        return ParsedLink::None;
    }
    // A `#` form the identifier table did not match is C's `goto fail`
    // (`dbStaticLib.c:2331`): `dbParseLink` returns `S_dbLib_badField`, the
    // put fails and the field keeps the unset CONSTANT link it was born
    // with. Falling through instead would build a PV link whose name starts
    // with `#`, a channel that can never connect.
    if text.starts_with('#') {
        return ParsedLink::None;
    }

    // There is NO quoted-string constant. C's `dbParseLink` has exactly three
    // tests — braces => JSON, `epicsParseDouble` => CONSTANT, otherwise PV link
    // (`dbStaticLib.c:2280-2356`) — and a quote is not a number, so link text
    // that still carries quotes after the .db lexer is a PV NAME with quotes in
    // it. softIoc (EPICS 7.0.10), `dbpr X 2` after `iocInit`:
    //
    // ```text
    // record(ai,"QA"){field(INP,"\"hello\"")}        INP: CA_LINK "hello" NPP NMS
    // record(stringin,"QS"){field(INP,"\"hello\"")}  INP: CA_LINK "hello" NPP NMS
    // record(lso,"LQ"){field(DOL,"\"hello\"")}       DOL: CA_LINK "hello" NPP NMS
    // record(ai,"QE"){field(INP,"\"\"")}             INP: CA_LINK "" NPP NMS
    // record(ai,"QN"){field(INP,"")}                 INP: CONSTANT
    // ```
    //
    // — a never-connected CA link, so the record stays UDF=1. Only the EMPTY
    // text is an unset CONSTANT link. The string constant a long-string record
    // takes is `{const:"hello"}` or a bare `["hello"]` ([`load_link_ls`]).

    // Scalar numeric constant. C `dbParseLink` (`dbStaticLib.c:2346-2349`):
    //
    //     /* Link is a constant if empty or it holds just a number */
    //     if (len == 0 || epicsParseDouble(pstr, &value, NULL) == 0) {
    //         pinfo->ltype = CONSTANT;
    //         return 0;
    //     }
    //
    // The test runs on the WHOLE stripped string, *before* the modifier scan,
    // and `epicsParseDouble` with a NULL `units` argument rejects any trailing
    // text (`S_stdlib_extraneous`, `epicsStdlib.c`). So `"5 PP"` is NOT a
    // constant in C — it is a PV_LINK to a record named `5` with the `PP`
    // modifier (verified on softIoc: `INPA: CA_LINK 5 PP NMS`). Splitting the
    // modifiers off first and then testing the head for a number turns every
    // `"<number> <modifier>"` link into a constant: `SDIS="3 NPP"` with
    // `DISV=3` would disable the record forever, and `OUT="5 PP"` would drop
    // the write instead of alarming. Keep this test above
    // `split_link_modifiers`.
    if parse_c_double(text).is_some() {
        return ParsedLink::constant(text);
    }
    parse_name_link(s, ftype)
}

/// The tail of [`parse_link_field`] that reads the text as a PV name: the
/// array constant and the modifier split, both on the name's bytes. C reads
/// no scheme (`dbStaticLib.c:2280-2356`): `ca://X` and `pva://X` are PV
/// names like any other.
fn parse_name_link(s: &[u8], ftype: LinkFieldType) -> ParsedLink {
    // Array constant. C `dbParseLink` (`dbStaticLib.c:2354-2357`), right after
    // the scalar-constant test:
    //
    //     /* Link may be an array constant */
    //     if (pstr[0] == '[' && pstr[len-1] == ']') {
    //         pinfo->ltype = CONSTANT;
    //         return 0;
    //     }
    //
    // The bracketed text is handed verbatim to `dbPutConvertJSON`
    // (`dbConstLink.c::dbConstLoadArray`) when the record loads the link at
    // init. Resolved BEFORE the modifier split for the same reason as the
    // quoted constant: `[1, 2, 3]` legitimately contains spaces, and C reaches
    // the modifier scan only after both constant tests. Note the one form that
    // is NOT a constant: `"1 2 3"` — `epicsParseDouble` rejects the trailing
    // garbage, so C parses it as a PV_LINK to a record named `1`.
    if s.starts_with(b"[") && s.ends_with(b"]") && s.len() >= 2 {
        // `dbConstLoadArray` hands the text to yajl, which refuses non-UTF-8.
        return std::str::from_utf8(s).map_or(ParsedLink::None, ParsedLink::constant);
    }

    // Isolate the target from its modifiers — see [`split_link_modifiers`].
    let (link_part, policy, ms, force_ca) = split_link_modifiers(s, ftype);

    // `CA`, `CP` or `CPP` makes the link a CA link, local target or not
    // (`dbLink.c:118-122`, `dbAccess.c:1104`). `dbParseLink` reaches the
    // modifier scan only after the constant test (`dbStaticLib.c:2347`) has
    // failed, so it is always a `PV_LINK`. The class chain assigns one of
    // the three, so `"OTHER:PV CP CA"` is `pvlOptCA` alone: a CA link that
    // never processes its holder.
    if force_ca {
        return ParsedLink::Ca(CaLink {
            pv: link_part.into(),
            monitor_switch: ms,
            policy,
            fwd: ca_forward_flag(ftype, link_part),
            open: OpenLatch::ca(policy, ftype),
            json: false,
        });
    }

    // DB link: split record from field exactly as C `dbNameToAddr`
    // (`dbAccess.c:667-671`) does, falling back to the default `VAL` field
    // when there is no dot or the remainder is not a field name (C
    // `dbFindFieldPart`'s "absent field name" branch,
    // `dbStaticLib.c:1802-1811`, which resolves to `pvalFldDes`). Both live
    // in `DbLink::new`.
    ParsedLink::db(DbLink::new(link_part, policy, ms))
}

/// Split a link target into `(record, FIELD)`, mirroring C `dbNameToAddr`
/// (`dbAccess.c:667-671`).
///
/// C terminates the *record* name at the **first** `.`
/// (`dbStaticLib.c:1548-1571` `dbFindRecordPart`: `strchr(pname, '.')`), then
/// matches the remainder against the record type's field table
/// (`dbStaticLib.c:1781-1846` `dbFindFieldPart`). That lexer accepts a field
/// name that is a C identifier — `[A-Za-z_][A-Za-z0-9_]*` — and imposes no
/// character-class or length restriction beyond it.
///
/// The port has no field table at parse time, so the identifier rule is the
/// guard. It matters that digits and `_` are accepted and that the 4-character
/// cap is gone: `mbboDirect` has `B0`…`BF`, `sseq` has `DO1`…`LNKA`, and
/// dbCommon has `OLDSIMM`/`NAMSG`. Pre-fix `'0'.is_ascii_uppercase()` was
/// `false`, so `INP="DIRECT.B0"` fell through to a link to a *record* literally
/// named `"DIRECT.B0"` — which never resolves locally, and
/// `classify_cp_link`'s `convert_to_ca` then re-routed it as an external CA
/// channel, losing lock-set atomicity, `PP` target processing and `MS`
/// severity inheritance.
///
/// The field keeps its case: `dbFindFieldPart` compares with `strncmp`
/// (`dbStaticLib.c:1822`), so `SRC.desc` names no field and the link falls
/// through to CA.
///
/// Returns `None` when there is no `.` or the remainder is not a field name,
/// which is C's "absent field name" case (the link addresses `VAL`). Keeping
/// the whole string as the record name in that case is also what preserves a
/// dotted *remote* PV name (`OTHER:PV.1:X`) for the CA-link fallback, which
/// reconstructs the channel name from `record`/`field`.
fn split_record_field(link_part: &[u8]) -> Option<(&[u8], String)> {
    let dot = link_part.iter().position(|&b| b == b'.')?;
    let (rec, field) = (&link_part[..dot], &link_part[dot + 1..]);
    let (&first, rest) = field.split_first()?;
    if !(first.is_ascii_alphabetic() || first == b'_') {
        return None;
    }
    if !rest.iter().all(|&c| c.is_ascii_alphanumeric() || c == b'_') {
        return None;
    }
    // An identifier is ASCII.
    Some((rec, String::from_utf8_lossy(field).into_owned()))
}

/// Parse a `DBF_OUTLINK` (record `OUT`, `dfanout.OUTA`…, `sseq.LNK1`…,
/// `SIOL`).
///
/// C `dbParseLink` **discards** `CP`/`CPP` on a `DBF_OUTLINK` with a startup
/// warning (`dbStaticLib.c:2382-2387`): those modifiers ask for input-side
/// "process the holder when the source changes", which is meaningless on an
/// output. Honouring them opens a monitor on the *target* and reprocesses the
/// *holder* on every target change — a processing loop (holder writes TARGET →
/// TARGET change fires CP → holder reprocesses → writes TARGET …) that cannot
/// happen on a C IOC.
///
/// A modifier-less link is NPP (`NoProcess`) in both directions — C zeroes the
/// modifier set first (`:2252`). The OUT-link target-processing decision —
/// process when the link is explicit ` PP` **or** the destination field is
/// `.PROC` — lives in the write path
/// (`PvDatabase::write_db_link_value_in`), matching C
/// `dbDbPutValue` (`dbDbLink.c:387-390`).
pub fn parse_output_link_v2(s: impl AsRef<[u8]>) -> ParsedLink {
    parse_link_field(s, LinkFieldType::Out)
}

/// Parse a `DBF_FWDLINK` (`FLNK` — `dbCommon.dbd.pod:575`; `fanout.LNK1`… —
/// `fanoutRecord.dbd.pod:144`).
///
/// C masks the modifier set to `pvlOptCA` alone (`dbStaticLib.c:2390`): a
/// forward link only triggers processing, so every process-class modifier
/// other than `CA` and every maximize-severity modifier is dropped. `CA` is
/// kept because it still decides whether the trigger crosses IOCs.
pub fn parse_forward_link_v2(s: impl AsRef<[u8]>) -> ParsedLink {
    parse_link_field(s, LinkFieldType::Fwd)
}

#[cfg(test)]
mod json_link_tests {
    //! epics-base PR #86 — JSON-style inline link options.
    use super::*;

    /// C `lnkConst_report`'s type word comes from which yajl callback
    /// the token reached, and its array arm prints the element list only
    /// from level 2 (`lnkConst.c:286-347`).
    #[test]
    fn const_link_report_names_the_json_type_it_parsed() {
        let db = crate::server::database::PvDatabase::new();
        let report = |value: &str, level| -> Vec<String> {
            ParsedLink::json_constant(value)
                .jlink_report(&db, None, level, 6)
                .into_iter()
                .map(|line| match line {
                    ReportLine::Console(text) => text,
                    ReportLine::Stdout(text) => panic!("{text} on stdout"),
                })
                .collect()
        };
        assert_eq!(report("4.25", 0), ["      'const': double 4.25"]);
        assert_eq!(report("4", 0), ["      'const': integer 4"]);
        assert_eq!(report("\"hi\"", 0), ["      'const': string \"hi\""]);
        assert_eq!(
            report("[1, 2, 3]", 0),
            ["      'const': array of 3 integers"]
        );
        assert_eq!(
            report("[1, 2, 3]", 2),
            ["      'const': array of 3 integers", "        [1, 2, 3]"]
        );
        assert_eq!(
            report("[1.5]", 2),
            ["      'const': array of 1 double", "        [1.5]"]
        );
    }

    #[test]
    fn a_calc_val_debugs_as_c_percent_g() {
        let val = CalcVal::default();
        val.set(0.1 + 0.2);
        assert_eq!(format!("{val:?}"), "0.3");
    }

    #[test]
    fn json_const_numeric() {
        assert_eq!(
            parse_link_v2("{const: 1.5}"),
            ParsedLink::json_constant("1.5")
        );
    }

    #[test]
    fn json_const_quoted_string() {
        assert_eq!(
            parse_link_v2(r#"{const: "hello"}"#),
            ParsedLink::json_constant(r#""hello""#)
        );
    }

    #[test]
    fn json_const_empty_is_a_constant() {
        // An `sc40` "" (`lnkConst.c:199`), not the empty link: it loads.
        let ParsedLink::Constant(c) = parse_link_v2(r#"{const: ""}"#) else {
            panic!("not a constant");
        };
        assert!(c.is_json() && c.text().is_empty());
    }

    #[test]
    fn json_ca_link() {
        assert_eq!(
            parse_link_v2(r#"{ca: { pv: "FOO" }}"#),
            ParsedLink::Ca(CaLink {
                json: true,
                ..CaLink::new("FOO")
            })
        );
    }

    #[test]
    fn json_pva_link() {
        assert_eq!(
            parse_link_v2(r#"{pva: { pv: "FOO:bar" }}"#),
            ParsedLink::Pva(PvaChannelLink::new("FOO:bar"))
        );
    }

    #[test]
    fn json_ca_link_unquoted_key() {
        assert_eq!(
            parse_link_v2(r#"{ca: { pv: 'BAR' }}"#),
            ParsedLink::Ca(CaLink {
                json: true,
                ..CaLink::new("BAR")
            })
        );
    }

    // pvxs string shorthand `{ pva: "PV" }` / `{ ca: "PV" }`
    // (pvxs/ioc/pvalink_jlif.cpp:24-31, :143-149). Before the fix these fell through
    // to legacy DB parsing because the value is a string, not a `{pv:...}`
    // sub-object — the link silently became a DB link to a record whose name
    // was the raw JSON text.

    #[test]
    fn json_pva_link_string_shorthand() {
        assert_eq!(
            parse_link_v2(r#"{pva: "TARGET:AI"}"#),
            ParsedLink::Pva(PvaChannelLink::new("TARGET:AI"))
        );
    }

    #[test]
    fn json_ca_link_string_shorthand() {
        assert_eq!(
            parse_link_v2(r#"{ca: "TARGET:AI"}"#),
            ParsedLink::Ca(CaLink {
                json: true,
                ..CaLink::new("TARGET:AI")
            })
        );
    }

    #[test]
    fn json_pva_link_string_shorthand_single_quotes() {
        assert_eq!(
            parse_link_v2(r#"{pva: 'invalid:pv:name'}"#),
            ParsedLink::Pva(PvaChannelLink::new("invalid:pv:name"))
        );
    }

    #[test]
    fn json_pva_link_longhand_preserves_options_structurally() {
        // The longhand map form keeps a `pv` member plus its options as
        // STRUCTURED JLink pairs (not a `?Q=4` query) so the consumer
        // reconstructs PvaLinkConfig from map keys, matching pvxs.
        assert_eq!(
            parse_link_v2(r#"{pva: { pv: "FOO:bar", Q: "4" }}"#),
            ParsedLink::PvaJson(Box::new(PvaJsonLink::new(
                "FOO:bar".to_string(),
                // `Q: "4"` is QUOTED, so its kind is a JSON string, not an
                // integer — the kind survives parsing (pvxs would later
                // ignore a string `Q`, which only accepts an integer).
                vec![("Q".to_string(), JlinkValue::Str("4".to_string()))],
            )))
        );
    }

    /// The longhand parser preserves each option's JSON value KIND, the
    /// distinction pvxs dispatches its pvalink callbacks on
    /// (pvxs/ioc/pvalink_jlif.cpp:286-300): a bare `true`/`false` is a boolean, a
    /// bare integer is an integer, a quoted token is a string. A boolean
    /// and a string spelling of the "same" value are NOT collapsed.
    #[test]
    fn json_pva_link_longhand_preserves_value_kind() {
        let link = parse_link_v2(
            r#"{pva: {pv: "X:AI", pipeline: true, retry: false, proc: "CP", Q: 4, sevr: true}}"#,
        );
        let j = match link {
            ParsedLink::PvaJson(j) => j,
            other => panic!("expected PvaJson, got {other:?}"),
        };
        assert_eq!(
            j.options.to_vec(),
            vec![
                ("pipeline".to_string(), JlinkValue::Bool(true)),
                ("retry".to_string(), JlinkValue::Bool(false)),
                ("proc".to_string(), JlinkValue::Str("CP".to_string())),
                ("Q".to_string(), JlinkValue::Int(4)),
                // `sevr: true` is a BOOLEAN, not the string "true".
                ("sevr".to_string(), JlinkValue::Bool(true)),
            ]
        );
    }

    /// A `,` or `:` inside a string is the name's, and a nested map is a
    /// `parseDepth` 2 value pvxs ignores, `pv` inside it included
    /// (`pvalink_jlif.cpp:143-148`); `pv` matches case-sensitively.
    #[test]
    fn json_pva_link_longhand_reads_strings_and_nesting_as_json() {
        let link = parse_link_v2(
            r#"{pva: {pv: "A,B:C", zzz: {pv: "D", Q: 3}, field: {x: "y,z"}, PV: "E", Q: 7}}"#,
        );
        assert_eq!(
            link,
            ParsedLink::PvaJson(Box::new(PvaJsonLink::new(
                "A,B:C".to_string(),
                vec![
                    ("PV".to_string(), JlinkValue::Str("E".to_string())),
                    ("Q".to_string(), JlinkValue::Int(7)),
                ],
            )))
        );
        assert_eq!(
            parse_link_v2(r#"{pva: {pv: "A,B"}}"#),
            ParsedLink::Pva(PvaChannelLink::new("A,B"))
        );
    }

    /// Every member reaches the lset in order, a repeated key included, so a
    /// later value pvxs ignores leaves the earlier one standing.
    #[test]
    fn json_pva_link_longhand_keeps_repeated_members_in_order() {
        let opts = |text: &str| match parse_link_v2(text) {
            ParsedLink::PvaJson(j) => (j.pv.clone(), j.options.to_vec()),
            other => panic!("{text}: {other:?}"),
        };
        let s = |v: &str| JlinkValue::Str(v.to_string());
        assert_eq!(
            opts(r#"{pva: {pv: "T:A", pv: 3}}"#),
            (
                "T:A".to_string(),
                vec![("pv".to_string(), JlinkValue::Int(3))]
            )
        );
        assert_eq!(
            opts(r#"{pva: {pv: "T:B", proc: "CP", proc: "XX"}}"#),
            (
                "T:B".to_string(),
                vec![("proc".to_string(), s("CP")), ("proc".to_string(), s("XX"))]
            )
        );
        assert_eq!(
            opts(r#"{pva: {pv: "T:C", Q: 3, Q: "a"}}"#),
            (
                "T:C".to_string(),
                vec![
                    ("Q".to_string(), JlinkValue::Int(3)),
                    ("Q".to_string(), s("a"))
                ]
            )
        );
    }

    /// pvxs's root JLink callbacks take a JSON string as the channel name and
    /// a map as the longhand; `pva_parse_null`/`bool`/`integer` ignore a
    /// root-depth value (pvxs/ioc/pvalink_jlif.cpp:69-139), so the link keeps
    /// the empty name, never one spelled after the token. softIocPVX takes
    /// it at load and at a put and segfaults at the record's first process
    /// (`pvalink_lset.cpp:702`); the port reads it unconnected. A real or an
    /// array stops the parse.
    #[test]
    fn json_pva_link_root_nonstring_is_the_empty_name() {
        // Accepted roots: string shorthand and object longhand.
        assert_eq!(
            parse_link_v2(r#"{pva: "TARGET"}"#),
            ParsedLink::Pva(PvaChannelLink::new("TARGET"))
        );
        assert_eq!(
            parse_link_v2(r#"{pva: { pv: "TARGET" }}"#),
            ParsedLink::Pva(PvaChannelLink::new("TARGET"))
        );

        for src in [
            r#"{pva: true}"#,
            r#"{pva: false}"#,
            r#"{pva: 5}"#,
            r#"{pva: -0}"#,
            r#"{pva: null}"#,
        ] {
            assert_eq!(
                parse_link_v2(src),
                ParsedLink::Pva(PvaChannelLink::new("")),
                "{src}"
            );
        }
        for src in [r#"{pva: [1,2]}"#, r#"{pva: 1.5}"#, r#"{pva: 05}"#] {
            assert_eq!(parse_link_v2(src), ParsedLink::None, "{src}");
        }

        // Same defect family on the `ca` key: a bare token must not become a
        // CA link to a literal `"true"`/`"5"` channel name.
        for src in [
            r#"{ca: true}"#,
            r#"{ca: 5}"#,
            r#"{ca: null}"#,
            r#"{ca: [1,2]}"#,
        ] {
            assert_eq!(
                parse_link_v2(src),
                ParsedLink::None,
                "non-string ca root must not become any link: {src}"
            );
        }
    }

    // Hardware links — C `dbParseLink`'s `@`/`#` arms (`dbStaticLib.c`
    // `:2266-2274`, `:2292-2344`), `dbSetLinkHW` (`:2453-2529`) and the
    // hardware arm of `dbGetString` (`:1953-2006`). One case per boundary of
    // the scan, not one per bus story.

    fn hw(text: &str) -> HwLink {
        match parse_link_v2(text) {
            ParsedLink::Hw(hw) => hw,
            other => panic!("expected Hw for {text:?}, got {other:?}"),
        }
    }

    #[test]
    fn an_inst_io_link_keeps_its_string_byte_for_byte() {
        assert_eq!(
            hw("@simDriver 0 INPUT"),
            HwLink::InstIo {
                string: "simDriver 0 INPUT".into()
            }
        );
        // PR #213: hex literals in an INST_IO payload are data, not numbers.
        assert_eq!(hw("@dev 0xFF mask=0x1A").render(), "@dev 0xFF mask=0x1A");
        // C copies from just after the `@` to the trailing-trimmed end, so a
        // blank there is part of the string.
        assert_eq!(hw("@ dev  two ").render(), "@ dev  two");
        assert_eq!(
            hw("@"),
            HwLink::InstIo {
                string: String::new()
            }
        );
    }

    #[test]
    fn a_vme_link_reads_back_from_its_numbers_not_its_text() {
        assert_eq!(
            hw("#C0x10 S-2"),
            HwLink::VmeIo {
                card: 16,
                signal: -2,
                parm: String::new(),
            }
        );
        // Base normalised and the `@parm` present though empty: this is the
        // whole point of rendering from the parse.
        assert_eq!(hw("#C0x10 S-2").render(), "#C16 S-2 @");
        assert_eq!(hw("#C010 S2").render(), "#C8 S2 @");
        assert_eq!(hw("#C1 S2 @sim").render(), "#C1 S2 @sim");
    }

    #[test]
    fn identifier_letters_need_no_blank_between_the_pairs() {
        // C's format is `"# %c%i %c%i …"`; the literal blank matches an empty
        // run, and `%i` stops at the first byte that cannot continue.
        assert_eq!(hw("#C1S2").render(), "#C1 S2 @");
        assert_eq!(hw("#  C 1   S 2").render(), "#C1 S2 @");
    }

    #[test]
    fn numbers_the_scan_never_reached_are_zero() {
        // `dbParseLink` memsets `pinfo`, so a short CAMAC spelling still has
        // all five members.
        assert_eq!(hw("#B1 C2 N3").render(), "#B1 C2 N3 A0 F0 @");
        assert_eq!(hw("#B1 C2 N3 A4").render(), "#B1 C2 N3 A4 F0 @");
        assert_eq!(hw("#B1 C2 N3 A4 F5").render(), "#B1 C2 N3 A4 F5 @");
    }

    #[test]
    fn the_camac_f_spelling_stores_its_number_in_a() {
        // Upstream, and deliberate here: `dbSetLinkHW` distributes by
        // POSITION (`hwnums[3]` → `camacio.a`), so the `"BCNF"` spelling's
        // fifth number is not the `f` member. Reproduced because the port
        // must read back what C reads back.
        assert_eq!(hw("#B1 C2 N3 F5").render(), "#B1 C2 N3 A5 F0 @");
    }

    #[test]
    fn an_rf_link_carries_no_parm_at_all() {
        assert_eq!(
            hw("#R1 M2 D3 E4"),
            HwLink::RfIo {
                cryo: 1,
                micro: 2,
                dataset: 3,
                element: 4,
            }
        );
        assert_eq!(hw("#R1 M2 D3 E4").render(), "#R1 M2 D3 E4");
        // C's last `goto fail`: RF_IO has no string member to put it in.
        assert_eq!(parse_link_v2("#R1 M2 D3 E4 @x"), ParsedLink::None);
    }

    #[test]
    fn every_remaining_bus_renders_its_own_format() {
        assert_eq!(hw("#L1 A2 C3 S4").render(), "#L1 A2 C3 S4 @");
        assert_eq!(hw("#L1 A2 @gpib").render(), "#L1 A2 @gpib");
        assert_eq!(hw("#L1 N2 P3 S4").render(), "#L1 N2 P3 S4 @");
        assert_eq!(hw("#L1 B2 G3").render(), "#L1 B2 G3 @");
    }

    #[test]
    fn a_vxi_link_is_addressed_by_slot_or_by_logical_address() {
        assert_eq!(
            hw("#V1 C2 S3"),
            HwLink::VxiIo {
                addr: VxiAddr::Dynamic { frame: 1, slot: 2 },
                signal: 3,
                parm: String::new(),
            }
        );
        assert_eq!(hw("#V1 C2 S3").render(), "#V1 C2 S3 @");
        assert_eq!(
            hw("#V7 S3 @p"),
            HwLink::VxiIo {
                addr: VxiAddr::Static { la: 7 },
                signal: 3,
                parm: "p".into(),
            }
        );
        assert_eq!(hw("#V7 S3 @p").render(), "#V7 S3 @p");
    }

    /// `%i` is glibc's under EPICS's `_GNU_SOURCE`: the C23 `0b` prefix
    /// counts, and a bare `0x`/`0b` is a matching failure, so the `ret` is
    /// odd (measured on glibc 2.43; 2.39 scanned `#C0xS2` as C=0 S=2).
    #[test]
    fn a_hw_number_is_glibc_scanf_i() {
        assert_eq!(hw("#C0b11 S2").render(), "#C3 S2 @");
        assert_eq!(parse_link_v2("#C0xS2"), ParsedLink::None);
        assert_eq!(parse_link_v2("#C-0b S2"), ParsedLink::None);
        assert_eq!(parse_link_v2("#C\u{a0}1 S2"), ParsedLink::None);
    }

    #[test]
    fn a_number_wider_than_its_bus_member_truncates_where_c_truncates() {
        // `short` members.
        assert_eq!(hw("#C70000 S1").render(), "#C4464 S1 @");
        // `unsigned char` members, printed with `%u`.
        assert_eq!(hw("#L300 N2 P3 S-1").render(), "#L44 N2 P3 S255 @");
        assert_eq!(hw("#L256 B1 G2").render(), "#L0 B1 G2 @");
    }

    #[test]
    fn the_parm_is_whatever_follows_the_first_at_sign() {
        assert_eq!(hw("#C1 S2 @ a b ").render(), "#C1 S2 @ a b");
        assert_eq!(hw("#C1 S2@x@y").render(), "#C1 S2 @x@y");
        assert_eq!(hw("#C1 S2 @").render(), "#C1 S2 @");
    }

    #[test]
    fn a_hash_form_the_identifier_table_rejects_is_not_a_link() {
        for src in [
            "#XY1 Z2",           // letters name no bus
            "#C1 S",             // odd conversion count: a letter with no number
            "#C1 S2 J3",         // odd, and the letters would not match anyway
            "#A1 B2 C3 D4 E5 F", // eleventh conversion: C's `ret > 10`
            "#C1 S2 junk",
            "#",
            "#C1 2",
        ] {
            assert_eq!(
                parse_link_v2(src),
                ParsedLink::None,
                "{src:?} must not become a link"
            );
        }
    }

    // Link-type discrimination — C `link.h` CONSTANT / DB_LINK /
    // CA_LINK (`dbStatic/link.h:28-39`).

    #[test]
    fn link_type_constant_numeric() {
        assert_eq!(parse_link_v2("3.14").link_type(), LinkType::Constant);
    }

    /// `dbParseLink` makes any braced text a `JSON_LINK` before it reads the
    /// type key (`dbStaticLib.c:2280-2287`): `{const:…}` is not `CONSTANT`,
    /// and the rs-only `{ca:…}` spelling is not `CA_LINK`.
    #[test]
    fn link_type_braces_are_json() {
        for text in [
            r#"{const: 7}"#,
            r#"{ca: { pv: "REMOTE" }}"#,
            r#"{pva: "REMOTE"}"#,
        ] {
            assert_eq!(parse_link_v2(text).link_type(), LinkType::Json, "{text}");
            assert!(!parse_link_v2(text).is_constant_type(), "{text}");
        }
    }

    /// A quoted string is NOT a constant: C's `dbParseLink` tests braces then
    /// `epicsParseDouble`, and a quote is neither — softIoc makes
    /// `field(INP,"\"hello\"")` a `CA_LINK "hello" NPP NMS`, and even
    /// `field(INP,"\"\"")` a `CA_LINK ""`. Only the empty text is an unset
    /// CONSTANT link.
    #[test]
    fn link_type_quoted_string_is_a_pv_link() {
        assert_eq!(parse_link_v2(r#""hello""#).link_type(), LinkType::Db);
        assert_eq!(parse_link_v2(r#""""#).link_type(), LinkType::Db);
    }

    /// An unset link is `CONSTANT` (`dbStaticLib.c:2347-2348`).
    #[test]
    fn link_type_empty_is_constant() {
        assert_eq!(parse_link_v2("").link_type(), LinkType::Constant);
        assert_eq!(parse_link_v2("   ").link_type(), LinkType::Constant);
    }

    #[test]
    fn link_type_db_link() {
        assert_eq!(parse_link_v2("REC.VAL").link_type(), LinkType::Db);
        assert_eq!(parse_link_v2("REC").link_type(), LinkType::Db);
        assert_eq!(parse_link_v2("REC.VAL PP").link_type(), LinkType::Db);
    }

    /// BOUNDARY: a comment inside a `.db` link body. `yajl_alloc` sets
    /// `yajl_allow_comments` (`yajl.c:77`) and `dbJLinkParse` never clears it,
    /// so a link body may carry one anywhere whitespace is legal. Measured
    /// against base's own yajl compiled standalone: `{expr:"A*B" /* c */}`
    /// parses.
    #[test]
    fn a_comment_inside_a_link_body_parses() {
        let JsonLinkParse::Parsed(ParsedLink::Calc(link)) = parse_json_link(
            r#"{calc: {expr:"A*B" /* the product */, args:[2, 3]}}"#,
            LinkFieldType::In,
        ) else {
            panic!("a comment in a link body must not stop the parse");
        };
        assert_eq!(link.expr.as_deref(), Some("A*B"));
        assert_eq!(link.args.len(), 2);
    }

    /// Base's OWN shipped test database, verbatim —
    /// `modules/database/test/std/rec/linkRetargetLink.db:20-23`, exercised by
    /// `linkRetargetLinkTest.c`. It spells the expression single-quoted (yajl
    /// lexes `'…'` with the same routine as `"…"`, `yajl_lex.c:695-699`) and
    /// its `args` UNBRACKETED, so a reader that demands either spelling cannot
    /// load a database upstream ships and tests.
    #[test]
    fn base_s_own_shipped_calc_link_parses_verbatim() {
        let JsonLinkParse::Parsed(ParsedLink::Calc(link)) = parse_json_link(
            "{calc:{\n                expr:'A+5',\n                args:5\n             }}",
            LinkFieldType::In,
        ) else {
            panic!("base's own linkRetargetLink.db calc link must parse");
        };
        assert_eq!(link.expr.as_deref(), Some("A+5"));
        assert_eq!(link.args.len(), 1, "`args:5` is ONE argument in C");
    }

    /// The scalar and the bracketed spelling are the same link. C reaches
    /// `clink->arg[clink->nArgs++] = num` from `ps_args` alone
    /// (`lnkCalc_integer`, `lnkCalc.c:120-143`); `lnkCalc_start_array`
    /// (`:319-329`) adds nothing but a state check, so the brackets are
    /// optional rather than required.
    #[test]
    fn a_scalar_args_value_is_one_argument() {
        for body in [
            "{calc:{expr:\"A+5\", args:5}}",
            "{calc:{expr:\"A+5\", args:[5]}}",
        ] {
            let JsonLinkParse::Parsed(ParsedLink::Calc(link)) =
                parse_json_link(body, LinkFieldType::In)
            else {
                panic!("{body} must parse");
            };
            assert!(
                matches!(link.args.as_slice(), [CalcArg::Literal(v)] if *v == 5.0),
                "{body} -> {:?}",
                link.args.len()
            );
        }
        // The same rule reaches an embedded link, C `lnkCalc_end_child`
        // (`lnkCalc.c:340-368`), which also appends on `ps_args` alone.
        let JsonLinkParse::Parsed(ParsedLink::Calc(link)) = parse_json_link(
            r#"{calc:{expr:"A", args:{pva:"REC:AI"}}}"#,
            LinkFieldType::In,
        ) else {
            panic!("a bare embedded link in `args` must parse");
        };
        assert!(matches!(link.args.as_slice(), [CalcArg::Link(_)]));
    }

    /// A single-quoted PV name reaches the link DEQUOTED, not with its quotes
    /// carried into the channel name.
    #[test]
    fn a_single_quoted_pv_name_is_dequoted() {
        let JsonLinkParse::Parsed(ParsedLink::Pva(pv)) =
            parse_json_link(r#"{pva: {pv: 'REC:AI.VAL'}}"#, LinkFieldType::In)
        else {
            panic!("a single-quoted pv name must parse");
        };
        assert_eq!(&*pv, "REC:AI.VAL");
        // The shorthand spelling too, where the whole value is the name.
        let JsonLinkParse::Parsed(ParsedLink::Pva(pv)) =
            parse_json_link(r"{pva: 'REC:AI.VAL'}", LinkFieldType::In)
        else {
            panic!("the single-quoted shorthand must parse");
        };
        assert_eq!(&*pv, "REC:AI.VAL");
    }

    /// BOUNDARY: a comment BEFORE the link-type key. The key reader splits on
    /// the first `:`, so an unstripped comment used to become part of the type
    /// name and the link was refused as an unknown type.
    #[test]
    fn a_comment_before_the_link_type_key_parses() {
        let JsonLinkParse::Parsed(ParsedLink::Calc(link)) =
            parse_json_link(r#"{/* which */ calc: {expr:"A+1"}}"#, LinkFieldType::In)
        else {
            panic!("a comment before the link type must not stop the parse");
        };
        assert_eq!(link.expr.as_deref(), Some("A+1"));
    }

    /// BOUNDARY: an unterminated `/*` in a link body is refused, not silently
    /// stripped to EOF.
    #[test]
    fn an_unterminated_comment_in_a_link_body_is_rejected() {
        assert!(matches!(
            parse_json_link(
                r#"{calc: {expr:"A*B" /* never closed }}"#,
                LinkFieldType::In
            ),
            JsonLinkParse::Rejected(_)
        ));
    }

    #[test]
    fn link_type_hw_is_other_and_calc_is_json() {
        assert_eq!(parse_link_v2("@dev 0 IN").link_type(), LinkType::Other);
        assert_eq!(parse_link_v2("#C0 S2").link_type(), LinkType::Other);
        // Link bodies are JSON5; strict JSON is the subset that also parses.
        assert_eq!(
            parse_link_v2(r#"{calc: {"expr": "A+1", "args": [1]}}"#).link_type(),
            LinkType::Json
        );
    }

    // Bare ` CA` modifier — C `dbStaticLib.c:2372` forces a
    // `pv_link` to a CA link (`link.h` `CA_LINK` 11).

    #[test]
    fn ca_modifier_classifies_as_ca() {
        // `REC.FIELD CA` must parse as a CA link carrying the
        // `record.field` PV name — NOT a Db link to field "FIELD CA".
        // No `MS`-class modifier → default NoMaximize.
        assert_eq!(
            parse_link_v2("REC.FIELD CA"),
            ParsedLink::Ca(CaLink::new("REC.FIELD"))
        );
        assert_eq!(parse_link_v2("REC.FIELD CA").link_type(), LinkType::Ca);
    }

    #[test]
    fn ca_modifier_bare_pv_name() {
        // No field suffix — `localPv CA` is still a CA link.
        assert_eq!(
            parse_link_v2("localPv CA"),
            ParsedLink::Ca(CaLink::new("localPv"))
        );
        assert_eq!(parse_link_v2("localPv CA").link_type(), LinkType::Ca);
    }

    #[test]
    fn ca_modifier_combined_with_ms() {
        // The MS-class switch is an INDEPENDENT chain (`dbStaticLib.c:2375`),
        // so it rides along with the CA process class in any token order.
        assert_eq!(
            parse_link_v2("REC.VAL CA MS"),
            ParsedLink::Ca(CaLink {
                pv: "REC.VAL".into(),
                monitor_switch: MonitorSwitch::Maximize,
                policy: LinkProcessPolicy::NoProcess,
                fwd: false,
                open: OpenLatch::default(),
                json: false,
            })
        );
        // `CA NMS` carries the explicit NoMaximize switch.
        assert_eq!(
            parse_link_v2("REC.VAL CA NMS"),
            ParsedLink::Ca(CaLink {
                pv: "REC.VAL".into(),
                monitor_switch: MonitorSwitch::NoMaximize,
                policy: LinkProcessPolicy::NoProcess,
                fwd: false,
                open: OpenLatch::default(),
                json: false,
            })
        );
        assert_eq!(parse_link_v2("REC.VAL CA NMS").link_type(), LinkType::Ca);
    }

    // R6-3 — the process class is ONE `else if` chain over the whole modifier
    // string (`dbStaticLib.c:2369-2373`), in the order NPP, CPP, PP, CA, CP,
    // ASSIGNING exactly one bit. The chain order decides, not the token order:
    // the pre-fix parser stripped ordered suffixes (last one wins) and let a
    // ` CA` flag coexist with a CP/PP policy.
    #[test]
    fn process_class_precedence_is_chain_order_not_token_order() {
        // "REC CP NPP" → NPP wins (modifiers = 0): no CP subscription. The
        // pre-fix suffix loop stripped " NPP" then " CP" and ended at CP,
        // registering the holder in the CP trigger registry.
        assert_eq!(
            parse_link_v2("REC CP NPP"),
            ParsedLink::db(DbLink::new(
                "REC",
                LinkProcessPolicy::NoProcess,
                MonitorSwitch::NoMaximize,
            ))
        );
        // "OTHER:PV CP CA" → CA is matched BEFORE CP, so it is pvlOptCA alone:
        // a plain CA link whose holder never processes. Pre-fix this was a Ca
        // link with policy=ChannelProcess, reprocessing the holder on every
        // remote monitor update.
        assert_eq!(
            parse_link_v2("OTHER:PV CP CA"),
            ParsedLink::Ca(CaLink {
                pv: "OTHER:PV".into(),
                monitor_switch: MonitorSwitch::NoMaximize,
                policy: LinkProcessPolicy::NoProcess,
                fwd: false,
                open: OpenLatch::default(),
                json: false,
            })
        );
        // "REC PP CA" → PP is matched BEFORE CA, so no CA|CP|CPP bit is set
        // and dbAccess.c:1104 routes to dbDbInitLink: a LOCAL DB link with PP.
        // Pre-fix this became an external CA channel.
        assert_eq!(
            parse_link_v2("REC PP CA"),
            ParsedLink::db(DbLink::new(
                "REC",
                LinkProcessPolicy::ProcessPassive,
                MonitorSwitch::NoMaximize,
            ))
        );
        // CPP is matched before PP, and CP only after CA.
        assert!(matches!(
            parse_link_v2("REC CPP"),
            ParsedLink::Ca(l) if l.policy == LinkProcessPolicy::ChannelProcessPassive
        ));
        assert!(matches!(
            parse_link_v2("REC CP"),
            ParsedLink::Ca(l) if l.policy == LinkProcessPolicy::ChannelProcess
        ));
        // Exactly one class: a modifier-less link is NPP.
        assert!(matches!(
            parse_link_v2("REC"),
            ParsedLink::Db(l) if l.policy == LinkProcessPolicy::NoProcess
        ));
    }

    // C searches the modifier text with `strstr`, so the tokens need no space
    // between them — its own comment pins `"QQCPPXMSITT"` as CPP|MSI. The
    // pre-fix suffix loop required a leading space and an exact tail match, so
    // it saw no modifiers at all here.
    #[test]
    fn modifiers_are_substring_matched_not_space_delimited() {
        assert_eq!(
            parse_link_v2("REC QQCPPXMSITT"),
            ParsedLink::Ca(CaLink {
                pv: "REC".into(),
                monitor_switch: MonitorSwitch::MaximizeIfInvalid,
                policy: LinkProcessPolicy::ChannelProcessPassive,
                fwd: false,
                open: OpenLatch::default(),
                json: false,
            })
        );
    }

    // The MS chain is longest-match-first too: NMS, MSI, MSS, MS.
    #[test]
    fn maximize_switch_precedence() {
        for (link, expect) in [
            ("REC NMS", MonitorSwitch::NoMaximize),
            ("REC MSI", MonitorSwitch::MaximizeIfInvalid),
            ("REC MSS", MonitorSwitch::MaximizeStatus),
            ("REC MS", MonitorSwitch::Maximize),
            // NMS is matched first even though the string also contains "MS".
            ("REC MS NMS", MonitorSwitch::NoMaximize),
        ] {
            match parse_link_v2(link) {
                ParsedLink::Db(db) => assert_eq!(db.monitor_switch, expect, "link {link}"),
                other => panic!("link {link}: expected Db, got {other:?}"),
            }
        }
    }

    /// No link text is a scheme. C `dbParseLink` (`dbStaticLib.c:2280-2356`)
    /// has three tests — braces, a number, else a PV link — so `pva://X` and
    /// `ca://X` are PV names, the `MS` after them a modifier, and nothing
    /// has to be installed to serve them.
    #[test]
    fn a_scheme_spelling_is_a_pv_name() {
        for (text, pv, ms) in [
            (
                "pva://TARGET:AI?field=x",
                "pva://TARGET:AI?field=x",
                MonitorSwitch::NoMaximize,
            ),
            ("ca://SR:DCCT MS", "ca://SR:DCCT", MonitorSwitch::Maximize),
        ] {
            let link = parse_link_v2(text);
            let ParsedLink::Db(db) = &link else {
                panic!("{text}: not a PV link");
            };
            assert_eq!(*db.pvname(), pv);
            assert_eq!(db.monitor_switch, ms);
            assert_eq!(link.db_link_type(), DbLinkType::PvLink);
            assert_eq!(link.required_link_set_scheme(), None);
        }
        let link = parse_link_v2("pva://X CA");
        let ext = link.external().expect("a CA link is external");
        assert_eq!((ext.lset, ext.name), (LinkSetTarget::Ca, &b"pva://X"[..]));
    }

    #[test]
    fn ca_modifier_does_not_affect_plain_db_link() {
        // A link with no ` CA` modifier stays a Db link — the fix
        // must not over-trigger on record names that merely contain
        // the letters "ca".
        assert_eq!(parse_link_v2("camera.VAL").link_type(), LinkType::Db);
        assert_eq!(parse_link_v2("REC.VAL PP").link_type(), LinkType::Db);
    }

    /// JSON pvalink options survive parse_link_v2 as STRUCTURED JLink
    /// members (pv + ordered (key,value) pairs), not as a `?key=value`
    /// URI query — pvxs has no query parser (pvxs/ioc/pvalink_jlif.cpp:286-300);
    /// options are JLink map keys (:69-196).
    #[test]
    fn br_r10_json_pva_options_preserved_in_parsed_link() {
        // All options present: field, proc (CPP), sevr (MS), Q.
        let link = parse_link_v2(
            r#"{pva: {pv: "TARGET:AI", field: "display.precision", proc: "CPP", sevr: "MS", Q: 8}}"#,
        );
        let j = match link {
            ParsedLink::PvaJson(j) => j,
            other => panic!("expected PvaJson, got {other:?}"),
        };
        assert_eq!(j.pv, "TARGET:AI", "pv must be the bare channel name");
        // No re-encoded query syntax anywhere in the channel name.
        assert!(
            !j.pv.contains('?'),
            "pv must not carry a `?` query: {}",
            j.pv
        );
        // Options preserved in source order with original key case.
        assert_eq!(
            j.options.to_vec(),
            vec![
                (
                    "field".to_string(),
                    JlinkValue::Str("display.precision".to_string())
                ),
                ("proc".to_string(), JlinkValue::Str("CPP".to_string())),
                ("sevr".to_string(), JlinkValue::Str("MS".to_string())),
                // `Q: 8` is a BARE integer — its kind is preserved as Int.
                ("Q".to_string(), JlinkValue::Int(8)),
            ]
        );
    }

    /// A PVA string shorthand keeps the channel name verbatim — a `?` in
    /// it is link DATA, not option syntax (pvxs pva_parse_string,
    /// pvxs/ioc/pvalink_jlif.cpp:143-149). It must NOT become a PvaJson with
    /// parsed options.
    #[test]
    fn json_pva_string_shorthand_keeps_query_chars_verbatim() {
        assert_eq!(
            parse_link_v2(r#"{pva: "TARGET:AI?field=x"}"#),
            ParsedLink::Pva(PvaChannelLink::new("TARGET:AI?field=x"))
        );
    }

    /// `external` addresses a PvaJson link to the `pva` set by its per-link
    /// identity key (pv + canonical options), not the bare PV — so two
    /// same-PV links that differ by options resolve to distinct configs.
    #[test]
    fn pva_json_external_link() {
        let link = parse_link_v2(r#"{pva: {pv: "TARGET:AI", proc: "CP"}}"#);
        let ext = link.external().expect("PvaJson carries a key");
        assert_eq!(ext.lset, LinkSetTarget::Pva);
        assert_eq!(ext.name, &b"TARGET:AI\x1fproc=s:CP"[..]);
        assert_eq!(link.link_type(), LinkType::Json);
        assert!(link.is_writable_out_link());
    }

    #[test]
    fn pva_json_identity_key_reads_back_into_its_options() {
        let options = vec![
            ("Q".to_string(), JlinkValue::Int(-7)),
            ("field".to_string(), JlinkValue::Str("a=b:c".into())),
            ("proc".to_string(), JlinkValue::Null),
            ("retry".to_string(), JlinkValue::Bool(true)),
        ];
        let key = pvajson_identity_key("PV:A", &options);
        assert_eq!(pvajson_identity_parts(&key), Some(("PV:A".into(), options)));
        assert_eq!(pvajson_identity_parts("PV:A"), None);
    }

    /// Every field a JSON string can fill round-trips, whatever it carries:
    /// a separator or escape in the `pv`, a key or a Str value, and `=` in a
    /// key, with or without options.
    #[test]
    fn pva_json_identity_key_round_trips_a_separator_in_any_field() {
        let options = vec![
            ("a=b\u{1f}".to_string(), JlinkValue::Int(1)),
            (
                "field".to_string(),
                JlinkValue::Str("x\u{1f}y=z\u{1e}0".into()),
            ),
        ];
        for pv in ["P\u{1f}V", "P\u{1e}1V", "PV"] {
            let key = pvajson_identity_key(pv, &options);
            assert_eq!(
                pvajson_identity_parts(&key),
                Some((pv.into(), options.clone()))
            );
        }
        let key = pvajson_identity_key("P\u{1f}V", &[]);
        assert_eq!(
            pvajson_identity_parts(&key),
            Some(("P\u{1f}V".into(), vec![]))
        );
    }

    /// Two structured links to the SAME PV differing only by options get
    /// DISTINCT identity keys (the per-link cache key); the bare PV is
    /// the prefix up to the first separator so the resolver can still
    /// recover the shared channel identity.
    #[test]
    fn pva_json_identity_key_separates_same_pv_links() {
        let a = match parse_link_v2(r#"{pva: {pv: "SRC", field: "value", Q: 64}}"#) {
            ParsedLink::PvaJson(j) => j,
            other => panic!("expected PvaJson, got {other:?}"),
        };
        let b = match parse_link_v2(r#"{pva: {pv: "SRC", field: "alarm.severity", Q: 1}}"#) {
            ParsedLink::PvaJson(j) => j,
            other => panic!("expected PvaJson, got {other:?}"),
        };
        assert_ne!(
            a.link_identity_key(),
            b.link_identity_key(),
            "same-PV links with different options must not collide"
        );
        // Both keys start with the bare PV up to the first separator.
        assert_eq!(a.link_identity_key().split('\u{1f}').next(), Some("SRC"));
        assert_eq!(b.link_identity_key().split('\u{1f}').next(), Some("SRC"));
        // Option order is canonicalized: the same options in a different
        // source order yield the same key.
        let c = match parse_link_v2(r#"{pva: {pv: "SRC", Q: 64, field: "value"}}"#) {
            ParsedLink::PvaJson(j) => j,
            other => panic!("expected PvaJson, got {other:?}"),
        };
        assert_eq!(a.link_identity_key(), c.link_identity_key());
    }

    /// Bare pvalink JSON with no extra options is unchanged.
    #[test]
    fn br_r10_json_pva_bare_pv_unchanged() {
        assert_eq!(
            parse_link_v2(r#"{pva: { pv: "FOO:bar" }}"#),
            ParsedLink::Pva(PvaChannelLink::new("FOO:bar"))
        );
    }

    #[test]
    fn json_unknown_key_falls_through_to_legacy() {
        // Unknown JSON top-level key must NOT be hijacked — leave it
        // for legacy parsing (which will likely produce None or a
        // weird Db link, but not crash).
        let result = parse_link_v2("{unknown: 42}");
        // Not Constant("42"), not Ca/Pva — must be one of the
        // legacy fall-through outcomes.
        assert!(matches!(
            result,
            ParsedLink::None | ParsedLink::Db(_) | ParsedLink::Constant(_)
        ));
    }

    /// BUG 2 — a bare OUT link defaults to NPP (`NoProcess`). C
    /// `dbDbPutValue` (dbDbLink.c:387-389) processes the target on either of
    /// two conditions, and a bare link meets neither: the link addresses the
    /// target's `PROC` field, or it carries `PP` **and** the target is Passive
    /// (`ppv_link->pvlMask & pvlOptPP && pdest->scan == 0`).
    #[test]
    fn parse_output_link_bare_is_noprocess() {
        match parse_output_link_v2("TARGET.VAL") {
            ParsedLink::Db(db) => {
                assert_eq!(db.policy, LinkProcessPolicy::NoProcess);
                assert_eq!(db.record, "TARGET");
                assert_eq!(db.field, "VAL");
            }
            other => panic!("expected Db link, got {other:?}"),
        }
    }

    /// BUG 2 — an explicit ` PP` on an OUT link keeps `ProcessPassive`.
    #[test]
    fn parse_output_link_explicit_pp_processes() {
        match parse_output_link_v2("TARGET.VAL PP") {
            ParsedLink::Db(db) => {
                assert_eq!(db.policy, LinkProcessPolicy::ProcessPassive);
            }
            other => panic!("expected Db link, got {other:?}"),
        }
    }

    /// A modifier-less OUT link to a `.PROC` field parses to the uniform
    /// `NoProcess` default like any other bare link; the target-process
    /// decision for `.PROC` lives in the write path
    /// (`write_db_link_value_in`, C `dbDbPutValue` dbDbLink.c:387-390), not
    /// in a parse-time policy. (Behaviour — that a `.PROC` write still
    /// processes the target — is covered by the database-level
    /// `*_proc_out_link_processes_target` test.)
    #[test]
    fn parse_output_link_proc_field_is_noprocess() {
        match parse_output_link_v2("TARGET.PROC") {
            ParsedLink::Db(db) => {
                assert_eq!(db.field, "PROC");
                assert_eq!(db.policy, LinkProcessPolicy::NoProcess);
            }
            other => panic!("expected Db link, got {other:?}"),
        }
    }

    /// A modifier-less **input** link defaults to NPP (`NoProcess`),
    /// matching C `dbParseLink` (`dbStaticLib.c:2252` memset→0;
    /// `pvlOptPP` set only on an explicit ` PP`). A bare INP must NOT
    /// cause `dbDbGetValue` (`dbDbLink.c:175`) to process the passive
    /// source on read.
    #[test]
    fn parse_input_link_bare_is_noprocess() {
        match parse_link_v2("SRC.VAL") {
            ParsedLink::Db(db) => {
                assert_eq!(db.policy, LinkProcessPolicy::NoProcess);
                assert_eq!(db.record, "SRC");
                assert_eq!(db.field, "VAL");
            }
            other => panic!("expected Db link, got {other:?}"),
        }
        // An explicit ` PP` input link still promotes to ProcessPassive.
        match parse_link_v2("SRC.VAL PP") {
            ParsedLink::Db(db) => assert_eq!(db.policy, LinkProcessPolicy::ProcessPassive),
            other => panic!("expected Db link, got {other:?}"),
        }
    }

    /// BUG 2 — an explicit ` NPP` OUT link is `NoProcess` (unchanged
    /// from `parse_link_v2`, but pinned here for completeness).
    #[test]
    fn parse_output_link_explicit_npp_is_noprocess() {
        match parse_output_link_v2("TARGET.VAL NPP") {
            ParsedLink::Db(db) => {
                assert_eq!(db.policy, LinkProcessPolicy::NoProcess);
            }
            other => panic!("expected Db link, got {other:?}"),
        }
    }

    /// CP and CPP parse to CA links (`dbLink.c:118-122`) with distinct
    /// policies — collapsing CPP into `ChannelProcess` loses C's
    /// `precord->scan == 0` gate (`dbCa.c:825`, `:959`, `:1034`).
    #[test]
    fn parse_cp_and_cpp_are_distinct_policies() {
        match parse_link_v2("SRC.VAL CP") {
            ParsedLink::Ca(ca) => {
                assert_eq!(ca.pv, "SRC.VAL");
                assert_eq!(ca.policy, LinkProcessPolicy::ChannelProcess)
            }
            other => panic!("expected Ca link for CP, got {other:?}"),
        }
        match parse_link_v2("SRC.VAL CPP") {
            ParsedLink::Ca(ca) => {
                assert_eq!(ca.policy, LinkProcessPolicy::ChannelProcessPassive)
            }
            other => panic!("expected Ca link for CPP, got {other:?}"),
        }
    }

    /// `cp_passive_only`: CP → `Some(false)`, CPP → `Some(true)`, others → None.
    #[test]
    fn cp_passive_only_maps_cp_and_cpp() {
        assert_eq!(
            LinkProcessPolicy::ChannelProcess.cp_passive_only(),
            Some(false)
        );
        assert_eq!(
            LinkProcessPolicy::ChannelProcessPassive.cp_passive_only(),
            Some(true)
        );
        assert_eq!(LinkProcessPolicy::ProcessPassive.cp_passive_only(), None);
        assert_eq!(LinkProcessPolicy::NoProcess.cp_passive_only(), None);
    }

    /// R6-4 — `DBF_OUTLINK` discards CP/CPP (`dbStaticLib.c:2382-2387`
    /// `modifiers &= ~(pvlOptCPP|pvlOptCP)`), so an OUT link can never report
    /// `cp_passive_only()` and can never be registered as a CP holder by
    /// `classify_cp_link`. The boundary that matters is the *combination* —
    /// C strips only the CP/CPP bit, leaving PP/CA/MS untouched.
    #[test]
    fn out_link_discards_cp_and_cpp_but_keeps_the_other_modifiers() {
        for text in ["TARGET.VAL CP", "TARGET.VAL CPP", "TARGET CP MS"] {
            match parse_output_link_v2(text) {
                ParsedLink::Db(db) => {
                    assert_eq!(
                        db.policy,
                        LinkProcessPolicy::NoProcess,
                        "{text} must lose its CP/CPP class"
                    );
                    assert_eq!(
                        db.policy.cp_passive_only(),
                        None,
                        "{text} must not be a CP holder"
                    );
                }
                other => panic!("expected Db link for {text}, got {other:?}"),
            }
        }
        // The MS bit survives the OUTLINK mask (only CP/CPP is cleared).
        match parse_output_link_v2("TARGET CP MS") {
            ParsedLink::Db(db) => assert_eq!(db.monitor_switch, MonitorSwitch::Maximize),
            other => panic!("expected Db link, got {other:?}"),
        }
        // `PP CP` — C's chain matches PP first, so there is no CP bit to strip
        // and the link stays a processing output link.
        match parse_output_link_v2("TARGET PP CP") {
            ParsedLink::Db(db) => assert_eq!(db.policy, LinkProcessPolicy::ProcessPassive),
            other => panic!("expected Db link, got {other:?}"),
        }
        // A ` CA` OUT link is still an external channel — CA is not masked.
        assert!(matches!(
            parse_output_link_v2("OTHER:PV CA"),
            ParsedLink::Ca(_)
        ));
    }

    /// The warning predicate must agree with what the parser actually discards:
    /// true exactly when the OUT mask downgrades a CP/CPP class.
    #[test]
    fn out_link_discards_cp_predicate_tracks_the_mask() {
        for text in ["TARGET CP", "TARGET CPP", "TARGET CP MS", "TARGET MSI CPP"] {
            assert!(
                out_link_discards_cp(text.as_bytes()).is_some(),
                "{text} loses its CP/CPP"
            );
        }
        for text in [
            "TARGET",            // no modifiers at all
            "TARGET PP",         // PP wins the chain
            "TARGET CA",         // CA wins the chain
            "TARGET NPP",        // NPP wins the chain
            "TARGET PP CP",      // PP is matched before CP
            "TARGETCP",          // a name that merely ends in "CP" is not a modifier
            "\"CP\"",            // quoted constant, never modifier-scanned
            "{ca: {pv: \"X\"}}", // JSON link, never modifier-scanned
        ] {
            assert!(
                out_link_discards_cp(text.as_bytes()).is_none(),
                "{text} discards nothing"
            );
        }
    }

    /// R6-4 — `DBF_FWDLINK` masks the modifier set to `pvlOptCA` alone
    /// (`dbStaticLib.c:2390`): every process class other than CA, and every
    /// maximize-severity switch, is cleared.
    #[test]
    fn fwd_link_masks_everything_except_ca() {
        for text in ["NEXT PP", "NEXT CP", "NEXT CPP", "NEXT NPP"] {
            match parse_forward_link_v2(text) {
                ParsedLink::Db(db) => {
                    assert_eq!(db.policy, LinkProcessPolicy::NoProcess, "{text}");
                    assert_eq!(db.monitor_switch, MonitorSwitch::NoMaximize, "{text}");
                }
                other => panic!("expected Db link for {text}, got {other:?}"),
            }
        }
        // MS is masked off even without a process-class modifier.
        match parse_forward_link_v2("NEXT MS") {
            ParsedLink::Db(db) => assert_eq!(db.monitor_switch, MonitorSwitch::NoMaximize),
            other => panic!("expected Db link, got {other:?}"),
        }
        // CA is the one bit that survives — a forward link may still cross IOCs.
        match parse_forward_link_v2("OTHER:REC CA MS") {
            ParsedLink::Ca(ca) => {
                assert_eq!(ca.pv, "OTHER:REC");
                assert_eq!(ca.monitor_switch, MonitorSwitch::NoMaximize);
            }
            other => panic!("expected Ca link, got {other:?}"),
        }
    }

    /// C `lnkState_string` (`lnkState.c:79-89`) with the `!` present and
    /// absent. `{state:"X"}` and `{state:"!X"}` address the SAME named bit;
    /// only the sense differs.
    #[test]
    fn a_state_link_is_a_name_plus_a_sense() {
        let plain = parse_link_field(r#"{state:"GREEN"}"#, LinkFieldType::In);
        assert_eq!(
            plain,
            ParsedLink::State(StateLink {
                name: "GREEN".into(),
                invert: false,
                val: Default::default(),
            })
        );
        let inverted = parse_link_field(r#"{state:"!GREEN"}"#, LinkFieldType::In);
        assert_eq!(
            inverted,
            ParsedLink::State(StateLink {
                name: "GREEN".into(),
                invert: true,
                val: Default::default(),
            })
        );
    }

    /// The `len > 1` half of that test, which a naive `starts_with('!')`
    /// drops: softIoc R7.0.10 on `{state:"!"}` creates a state literally
    /// named `!` (measured — `dbStateShowAll 1` lists `'!' : FALSE`), and
    /// `{state:""}` creates one named `` .
    #[test]
    fn a_lone_bang_is_a_state_name_not_an_inversion() {
        assert_eq!(
            parse_link_field(r#"{state:"!"}"#, LinkFieldType::In),
            ParsedLink::State(StateLink {
                name: "!".into(),
                invert: false,
                val: Default::default(),
            })
        );
        assert_eq!(
            parse_link_field(r#"{state:""}"#, LinkFieldType::In),
            ParsedLink::State(StateLink {
                name: String::new(),
                invert: false,
                val: Default::default(),
            })
        );
    }

    /// `lnkStateIf` fills only `parse_string`; every other value kind hits a
    /// NULL callback, which `dbJLink.h` defines as `jlif_stop`.
    #[test]
    fn only_a_string_value_builds_a_state_link() {
        for body in [
            r#"{state:1}"#,
            r#"{state:true}"#,
            r#"{state:null}"#,
            r#"{state:1.5}"#,
            r#"{state:{name:"X"}}"#,
            r#"{state:["X"]}"#,
        ] {
            assert!(
                matches!(
                    parse_json_link(body, LinkFieldType::In),
                    JsonLinkParse::Rejected(_)
                ),
                "C stops the parse for {body}"
            );
        }
    }

    /// C `lnkState_alloc` (`lnkState.c:51-55`) refuses `DBF_FWDLINK`, so the
    /// field keeps the unset link it was born with. The other two link field
    /// classes take it.
    #[test]
    fn a_state_link_is_refused_on_a_forward_link() {
        assert_eq!(
            parse_link_field(r#"{state:"GREEN"}"#, LinkFieldType::Fwd),
            ParsedLink::None
        );
        for ftype in [LinkFieldType::In, LinkFieldType::Out] {
            assert!(matches!(
                parse_link_field(r#"{state:"GREEN"}"#, ftype),
                ParsedLink::State(_)
            ));
        }
    }

    /// One flag, both directions: C xors `slink->invert` into the value it
    /// reads (`lnkState.c:148`) and into the bit it writes (`:199`), so an
    /// inverted link reads back what it wrote.
    #[test]
    fn inversion_is_one_flag_on_the_link_not_one_per_direction() {
        let inverted = StateLink {
            name: "X".into(),
            invert: true,
            val: Default::default(),
        };
        for wanted in [false, true] {
            let stored = inverted.write(wanted);
            assert_eq!(inverted.read(stored), wanted);
        }
        let plain = StateLink {
            name: "X".into(),
            invert: false,
            val: Default::default(),
        };
        assert!(plain.write(true), "no inversion: the bit passes through");
        assert!(plain.read(true), "no inversion: the bit passes through");
    }

    /// C `lnkState_putValue`'s `DBR_STRING` arm is TEXTUAL — its own comment
    /// is `Only "" and "0" are FALSE` (`lnkState.c:181-185`) — so `"hello"`
    /// and `"0.0"` are TRUE where a numeric read of them is 0 or fails.
    #[test]
    fn a_string_is_false_only_when_it_is_empty_or_exactly_zero() {
        use crate::types::EpicsValue as V;
        let t = |v: V| match StateLink::put_of(&v) {
            StatePut::Truth(t) => t,
            other => panic!("{v:?} is a truth put, got {other:?}"),
        };
        let f = |s: &str| t(V::String(s.into()));
        assert!(!f(""));
        assert!(!f("0"));
        assert!(f("0.0"));
        assert!(f("00"));
        assert!(f("hello"));
        // C reads the C string, so a NUL ends it.
        assert!(!f("0\0x"));
        assert!(!f("\0x"));
        // The numeric arms are plain `!!value`.
        assert!(!t(V::Short(0)));
        assert!(t(V::Short(-1)));
        assert!(!t(V::Double(0.0)));
        assert!(!t(V::Double(-0.0)));
        assert!(t(V::Double(-0.5)));
        assert!(t(V::Double(f64::NAN)));
        assert!(!t(V::Char(0)));
        assert!(t(V::Enum(1)));
    }

    /// Element 0 decides an array, an empty one is `nRequest == 0`, and an
    /// `FTVL=ENUM` array is the one `DBR_ENUM` put: `lnkState.c:154-190`.
    #[test]
    fn an_array_put_is_element_zero_empty_is_nothing_enum_is_refused() {
        use crate::types::EpicsValue as V;
        let p = StateLink::put_of;
        assert_eq!(
            p(&V::DoubleArray(vec![0.0, 1.0].into())),
            StatePut::Truth(false)
        );
        assert_eq!(p(&V::LongArray(vec![2, 0].into())), StatePut::Truth(true));
        assert_eq!(
            p(&V::StringArray(vec!["0".into(), "x".into()].into())),
            StatePut::Truth(false)
        );
        assert_eq!(p(&V::DoubleArray(Vec::new().into())), StatePut::Nothing);
        assert_eq!(p(&V::EnumArray(Vec::new().into())), StatePut::Nothing);
        assert_eq!(p(&V::EnumArray(vec![1].into())), StatePut::BadDbrType);
    }

    /// `dbDumpLink` reads the registry, and `dbGetString` reads the stored
    /// text: a state link is a `JSON_LINK` whose text is what the `.db`
    /// spelled, verbatim (measured — softIoc `dbgf S:GET.INP` answers
    /// `"{state:\"GREEN\"}"`).
    #[test]
    fn a_state_link_is_a_json_link() {
        let link = parse_link_field(r#"{state:"GREEN"}"#, LinkFieldType::In);
        assert_eq!(link.db_link_type(), DbLinkType::JsonLink);
        assert!(
            LinkList::base()
                .entries()
                .iter()
                .any(|s| s.key == "state" && s.jlif_name == "lnkStateIf"),
            "`link(state, lnkStateIf)` is `links.dbd.pod:171`"
        );
    }
}

impl super::record_instance::RecordInstance {
    /// The reader's own `INP` with its target lent for as long as the reader
    /// is held — the only way to a lent target. `release_addr` runs only with
    /// the reader exclusively borrowed (`RecordInstance::destroy`,
    /// `release_link_targets_to`), and no other instance holds this
    /// `Arc<DbLink>`: every `parsed_inp` is its own parse. The reader's
    /// record is lent beside it, the buffer a failed array read lands in,
    /// told the address's element count before the read.
    #[inline(always)]
    pub(crate) fn lend_inp_addr(
        &mut self,
        revision: u64,
        resolve: impl FnOnce(&DbLink) -> DbLinkAnswer,
    ) -> Option<(
        &ParsedLink,
        &super::record_instance::ResolvedTarget,
        &mut dyn super::Record,
    )> {
        let link = self.parsed_inp.link();
        let ParsedLink::Db(db) = link else {
            return None;
        };
        // SAFETY: `self` is borrowed `&mut` for the returned lifetime.
        let at = unsafe { db.lend_addr(revision, || resolve(db)) }?;
        Some((link, at, &mut *self.record))
    }
}
