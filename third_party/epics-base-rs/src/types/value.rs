use crate::error::{CaError, CaResult};

use super::DbFieldType;
use super::PvString;
use super::SharedArray;
use super::c_cast;
use super::c_parse;

/// `sizeof(union native_value)` (C `db_field_log.h:41-56`) — 8 bytes.
///
/// The widest member of that union is `epicsFloat64` / `epicsInt64`. Its
/// `char dbf_string[MAX_STRING_SIZE]` member sits behind
/// `#ifdef DB_EVENT_LOG_STRINGS`, a macro epics-base mentions only in that
/// header's own comment and `#ifdef` and defines in no makefile, header or
/// source — so no stock build has it and the union is 8 bytes wide, not 40.
/// That is what makes `dbEvent.c:493-500` compare a `DBF_STRING` field's 40
/// against 8 and get FALSE.
///
/// The cut-off C uses to decide whether a monitor event queue may hold a
/// value inline; see [`EpicsValue::queues_by_value`].
pub const NATIVE_VALUE_BYTES: usize = 8;

/// Runtime value from an EPICS PV
#[derive(Debug, Clone, PartialEq)]
pub enum EpicsValue {
    String(PvString),
    Short(i16),
    Float(f32),
    Enum(u16),
    /// An NTEnum value that still carries its `choices` labels, so a
    /// later type-aware `put_field` can pick the label-vs-index form
    /// the target dbrType requires (pvxs `pvxs/ioc/pvalink_lset.cpp:344-356`:
    /// a `DBR_STRING` target copies `choices[index]`, a numeric target
    /// takes the index). This is a TRANSIENT carrier produced only on
    /// the pvalink NTEnum link-resolver path (`pvfield_to_epics_value`);
    /// the dbrType-blind [`LinkSet::get_cached_value`](crate::server::database::LinkSet::get_cached_value)
    /// boundary cannot resolve the label itself, so the choices must
    /// survive to the record's `put_field`. Everywhere else it behaves
    /// exactly like [`Self::Enum`]: read the public `index` field for the
    /// choice index. It is never stored in a record field nor serialized
    /// to the wire (those paths normalize it to the index).
    EnumWithChoices {
        index: u16,
        choices: Vec<PvString>,
    },
    Char(u8),
    Long(i32),
    Double(f64),
    /// Internal int64 storage for int64in/int64out records.
    /// Over CA these appear as DBR_DOUBLE; over PVA they are native int64.
    Int64(i64),
    /// Internal unsigned int64 storage for C `DBF_UINT64` fields.
    /// Over CA these appear as DBR_DOUBLE (precision lost above 2^53);
    /// over PVA they are native `ulong`.
    UInt64(u64),
    /// Unsigned 16-bit storage for C `DBF_USHORT` fields (e.g. `seq`/
    /// `fanout`/`sel` `SELN`). Over CA promoted to `DBR_LONG` (u16 fits in
    /// i32); over PVA served natively as `ushort`. See [`DbFieldType::UShort`].
    UShort(u16),
    /// Unsigned 32-bit storage for C `DBF_ULONG` fields (e.g. `ts` filter
    /// `num=sec|nsec`, `printf.LEN`). Over CA promoted to `DBR_DOUBLE`
    /// like `UInt64`; over PVA served natively as `uint`. See
    /// [`DbFieldType::ULong`].
    ULong(u32),
    /// Unsigned 8-bit storage for C `DBF_UCHAR` fields (`waveform`
    /// `FTVL=UCHAR` scalar element). Distinct from the signed `Char`
    /// (epicsInt8): over CA promoted to `DBR_CHAR` (identical 1-byte wire
    /// form as `Char`); over PVA served natively as `ubyte` (UInt8, not the
    /// signed `byte`). See [`DbFieldType::UChar`].
    UChar(u8),
    // Array variants
    ShortArray(SharedArray<i16>),
    FloatArray(SharedArray<f32>),
    EnumArray(SharedArray<u16>),
    DoubleArray(SharedArray<f64>),
    LongArray(SharedArray<i32>),
    CharArray(SharedArray<u8>),
    Int64Array(SharedArray<i64>),
    /// Unsigned int64 array storage for `waveform` records with
    /// `FTVL = UINT64`. Over CA served as DBR_DOUBLE; over PVA `ulong[]`.
    UInt64Array(SharedArray<u64>),
    /// Unsigned 16-bit array storage (`DBF_USHORT` waveform / filter
    /// result). Over CA promoted to `DBR_LONG[]`; over PVA `ushort[]`.
    UShortArray(SharedArray<u16>),
    /// Unsigned 32-bit array storage (`DBF_ULONG` waveform / `ts`
    /// `num=ts` two-element result). Over CA promoted to `DBR_DOUBLE[]`;
    /// over PVA `uint[]`.
    ULongArray(SharedArray<u32>),
    /// Unsigned 8-bit array storage (`DBF_UCHAR` waveform / `aai` / `aao`,
    /// the common image/byte-buffer shape). Distinct from the signed
    /// `CharArray` (epicsInt8): over CA promoted to `DBR_CHAR[]` (identical
    /// raw bytes); over PVA `ubyte[]` (UInt8), so element 200 stays 200 not
    /// −56. See [`DbFieldType::UChar`].
    UCharArray(SharedArray<u8>),
    /// DBR_STRING with `count > 1`. Each element is at most 40 bytes
    /// per the DBR_STRING spec; the wire layout is `count * 40` bytes
    /// of NUL-padded strings. Used by `mbbo`/`mbbi` choice arrays
    /// (ZNAM..FFNAM as a single read), NTNDArray dim labels, etc.
    StringArray(SharedArray<PvString>),
}

/// A char array's text: its elements before the first NUL.
fn nul_terminated(chars: &[u8]) -> &[u8] {
    &chars[..chars.iter().position(|&c| c == 0).unwrap_or(chars.len())]
}

/// Append `arr` as big-endian DBR elements, `wire` giving each element's
/// bytes. One `resize` and a fixed-stride copy the compiler vectorises,
/// instead of a `Vec` growth check per element.
fn write_be<T: Copy, const N: usize>(dst: &mut Vec<u8>, arr: &[T], wire: impl Fn(T) -> [u8; N]) {
    let start = dst.len();
    dst.resize(start + arr.len() * N, 0);
    for (out, &v) in dst[start..].as_chunks_mut::<N>().0.iter_mut().zip(arr) {
        *out = wire(v);
    }
}

/// The first `count` complete `N`-byte big-endian elements of `data`; a
/// trailing partial element is dropped, never read.
fn read_be<T, const N: usize>(
    data: &[u8],
    count: usize,
    elem: impl Fn([u8; N]) -> T,
) -> SharedArray<T> {
    data.as_chunks::<N>()
        .0
        .iter()
        .take(count)
        .map(|c| elem(*c))
        .collect()
}

/// A numeric scalar classified once for narrowing: an integer source keeps
/// its bits through the `i64` view, so an integer target truncates to the low
/// N bits (C/pvxs `static_cast`: `uint32 0xffffffff -> int32 -1`, and
/// `getLongUInt64`: -200 -> 0xffffffffffffff38); only a float takes the
/// `c_cast` policy. `to_<ty>` is the one implementation of that row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    Int(i64),
    /// Its own case only for the `f64` view, which is unsigned.
    U64(u64),
    /// Its own case only so a `Float` target keeps it as it is.
    F32(f32),
    Float(f64),
}

impl Scalar {
    #[inline]
    fn int(self) -> Option<i64> {
        match self {
            Self::Int(i) => Some(i),
            Self::U64(u) => Some(u as i64),
            Self::F32(_) | Self::Float(_) => None,
        }
    }

    #[inline]
    pub(crate) fn to_f64(self) -> f64 {
        match self {
            Self::Int(i) => i as f64,
            Self::U64(u) => u as f64,
            Self::F32(f) => f as f64,
            Self::Float(f) => f,
        }
    }

    #[inline]
    pub(crate) fn to_f32(self) -> f32 {
        match self {
            Self::F32(f) => f,
            _ => c_cast::f64_to_f32(self.to_f64()),
        }
    }

    #[inline]
    pub(crate) fn to_i8(self) -> i8 {
        self.int()
            .map_or_else(|| c_cast::f64_to_i8(self.to_f64()), |i| i as i8)
    }

    #[inline]
    pub(crate) fn to_u8(self) -> u8 {
        self.int()
            .map_or_else(|| c_cast::f64_to_u8(self.to_f64()), |i| i as u8)
    }

    #[inline]
    pub(crate) fn to_i16(self) -> i16 {
        self.int()
            .map_or_else(|| c_cast::f64_to_i16(self.to_f64()), |i| i as i16)
    }

    /// Also the `DBF_ENUM` row: `putDoubleEnum` is the same `(epicsEnum16)`
    /// cast as `putDoubleUshort`.
    #[inline]
    pub(crate) fn to_u16(self) -> u16 {
        self.int()
            .map_or_else(|| c_cast::f64_to_u16(self.to_f64()), |i| i as u16)
    }

    #[inline]
    pub(crate) fn to_i32(self) -> i32 {
        self.int()
            .map_or_else(|| c_cast::f64_to_i32(self.to_f64()), |i| i as i32)
    }

    #[inline]
    pub(crate) fn to_u32(self) -> u32 {
        self.int()
            .map_or_else(|| c_cast::f64_to_u32(self.to_f64()), |i| i as u32)
    }

    #[inline]
    pub(crate) fn to_i64(self) -> i64 {
        self.int()
            .unwrap_or_else(|| c_cast::f64_to_i64(self.to_f64()))
    }

    #[inline]
    pub(crate) fn to_u64(self) -> u64 {
        self.int()
            .map_or_else(|| c_cast::f64_to_u64(self.to_f64()), |i| i as u64)
    }

    /// The value in a numeric `target`; `None` for `String`, the text
    /// projection, which is the caller's.
    #[inline(always)]
    fn to_field(self, target: DbFieldType) -> Option<EpicsValue> {
        Some(match target {
            DbFieldType::String => return None,
            DbFieldType::Double => EpicsValue::Double(self.to_f64()),
            DbFieldType::Float => EpicsValue::Float(self.to_f32()),
            DbFieldType::Short => EpicsValue::Short(self.to_i16()),
            DbFieldType::Enum => EpicsValue::Enum(self.to_u16()),
            // `Char` carries the epicsInt8's bits: C `(epicsInt8) d`.
            DbFieldType::Char => EpicsValue::Char(self.to_i8() as u8),
            DbFieldType::Long => EpicsValue::Long(self.to_i32()),
            DbFieldType::Int64 => EpicsValue::Int64(self.to_i64()),
            DbFieldType::UInt64 => EpicsValue::UInt64(self.to_u64()),
            DbFieldType::UShort => EpicsValue::UShort(self.to_u16()),
            DbFieldType::ULong => EpicsValue::ULong(self.to_u32()),
            DbFieldType::UChar => EpicsValue::UChar(self.to_u8()),
        })
    }
}

impl EpicsValue {
    /// The `dbrType` C passes `dbPut` for this value: the DBR code of its own
    /// storage type, numbered as `DBF_*` (`dbFldTypes.h`), not as the older
    /// CA wire type [`Self::dbr_type`] answers.
    pub const fn dbr_code(&self) -> crate::types::DbfCode {
        use crate::types::DbfCode;
        match self {
            Self::String(_) | Self::StringArray(_) => DbfCode::String,
            Self::Char(_) | Self::CharArray(_) => DbfCode::Char,
            Self::UChar(_) | Self::UCharArray(_) => DbfCode::UChar,
            Self::Short(_) | Self::ShortArray(_) => DbfCode::Short,
            Self::UShort(_) | Self::UShortArray(_) => DbfCode::UShort,
            Self::Long(_) | Self::LongArray(_) => DbfCode::Long,
            Self::ULong(_) | Self::ULongArray(_) => DbfCode::ULong,
            Self::Int64(_) | Self::Int64Array(_) => DbfCode::Int64,
            Self::UInt64(_) | Self::UInt64Array(_) => DbfCode::UInt64,
            Self::Float(_) | Self::FloatArray(_) => DbfCode::Float,
            Self::Double(_) | Self::DoubleArray(_) => DbfCode::Double,
            Self::Enum(_) | Self::EnumWithChoices { .. } | Self::EnumArray(_) => DbfCode::Enum,
        }
    }

    /// The label for an enum `index` against its `choices`:
    /// `choices[index]` when in range, else the decimal index — pvxs
    /// `pvxs/ioc/pvalink_lset.cpp:347-354` (`strncpy(choices[index])` with an
    /// `epicsSnprintf("%u", index)` out-of-range fallback). Used at the
    /// link-write boundary to render an NTEnum onto a string target.
    ///
    /// Returns the choice as a `PvString` so the raw label bytes are copied
    /// verbatim, matching C's `strncpy(choice.c_str(), …)`. Rendering an
    /// in-range choice through `String`/`as_str_lossy` here would rewrite a
    /// non-UTF-8 label with `U+FFFD` before it reached `EpicsValue::String`;
    /// the byte-faithful return keeps decode→store→re-encode lossless. The
    /// out-of-range decimal fallback is pure ASCII, so it is lossless too.
    pub fn enum_index_label(choices: &[PvString], index: u16) -> PvString {
        choices
            .get(index as usize)
            .cloned()
            .unwrap_or_else(|| PvString::from(index.to_string()))
    }

    /// Render for audit / log paths, the array element count capped to
    /// `max_elems`: a peer-controlled `LongArray` of millions of elements is
    /// never rendered whole. No C text exists for it, so a float is C `%g`.
    pub fn display_truncated(&self, max_elems: usize) -> String {
        self.text_with(max_elems, |v, _| {
            epics_libcom_rs::cfmt::CFloat(v).g().to_string()
        })
    }

    /// [`Self::text_with`] whole, a float as C `%g`: the text for a caller
    /// that prints no C conversion of its own.
    pub fn text_g(&self) -> String {
        self.display_truncated(usize::MAX)
    }

    /// The port's text for a value whose caller has no C conversion for its
    /// type: a scalar alone, an array as `[a, b, …+K more]` past `max_elems`.
    /// `real(v, is_double)` spells a float, so every caller names the C
    /// format it prints.
    pub fn text_with(&self, max_elems: usize, real: impl Fn(f64, bool) -> String) -> String {
        fn list<T>(arr: &[T], max: usize, text: impl Fn(&T) -> String) -> String {
            let parts: Vec<String> = arr.iter().take(max).map(text).collect();
            match arr.len().saturating_sub(max) {
                0 => format!("[{}]", parts.join(", ")),
                more => format!("[{}, …+{more} more]", parts.join(", ")),
            }
        }
        let max = max_elems;
        match self {
            Self::String(s) => s.as_str_lossy().into_owned(),
            Self::Float(v) => real(f64::from(*v), false),
            Self::Double(v) => real(*v, true),
            Self::Enum(v) | Self::UShort(v) => v.to_string(),
            Self::EnumWithChoices { index, .. } => index.to_string(),
            Self::Short(v) => v.to_string(),
            // DBF_CHAR is epicsInt8, DBF_UCHAR epicsUInt8.
            Self::Char(v) => (*v as i8).to_string(),
            Self::UChar(v) => v.to_string(),
            Self::Long(v) => v.to_string(),
            Self::ULong(v) => v.to_string(),
            Self::Int64(v) => v.to_string(),
            Self::UInt64(v) => v.to_string(),
            Self::ShortArray(arr) => list(arr, max, ToString::to_string),
            Self::FloatArray(arr) => list(arr, max, |v| real(f64::from(*v), false)),
            Self::EnumArray(arr) => list(arr, max, ToString::to_string),
            Self::DoubleArray(arr) => list(arr, max, |v| real(*v, true)),
            Self::LongArray(arr) => list(arr, max, ToString::to_string),
            Self::Int64Array(arr) => list(arr, max, ToString::to_string),
            Self::UInt64Array(arr) => list(arr, max, ToString::to_string),
            Self::UShortArray(arr) => list(arr, max, ToString::to_string),
            Self::ULongArray(arr) => list(arr, max, ToString::to_string),
            // DBF_UCHAR carries image/waveform numbers, not text.
            Self::UCharArray(arr) => list(arr, max, ToString::to_string),
            Self::StringArray(arr) => list(arr, max, |s| format!("{s:?}")),
            // 4× because chars are bytes.
            Self::CharArray(arr) if arr.len() > max.saturating_mul(4) => {
                format!("<binary {} bytes>", arr.len())
            }
            Self::CharArray(arr) => {
                let text = nul_terminated(arr);
                match std::str::from_utf8(text) {
                    Ok(s) => s.to_owned(),
                    Err(_) => format!("{text:?}"),
                }
            }
        }
    }

    /// Deserialize a value from raw bytes based on DBR type
    pub fn from_bytes(dbr_type: DbFieldType, data: &[u8]) -> CaResult<Self> {
        match dbr_type {
            DbFieldType::String => {
                // DBR_STRING is fixed-width 40 bytes (MAX_STRING_SIZE). A
                // peer-overflowed buffer with NUL past byte 40 must
                // still produce a ≤40-byte string per spec; otherwise
                // a downstream consumer that assumes the bound breaks.
                let bounded = &data[..data.len().min(40)];
                let end = bounded
                    .iter()
                    .position(|&b| b == 0)
                    .unwrap_or(bounded.len());
                // Preserve the bytes verbatim — no UTF-8 validation. CA
                // DBR_STRING fields are historically Latin-1 / arbitrary
                // bytes and pvxs stores them raw, so rejecting non-UTF-8
                // here would drop legal wire values.
                Ok(Self::String(PvString::from_bytes(&bounded[..end])))
            }
            DbFieldType::Short => {
                if data.len() < 2 {
                    return Err(CaError::Protocol("short data too small".into()));
                }
                Ok(Self::Short(i16::from_be_bytes([data[0], data[1]])))
            }
            DbFieldType::Float => {
                if data.len() < 4 {
                    return Err(CaError::Protocol("float data too small".into()));
                }
                Ok(Self::Float(f32::from_be_bytes([
                    data[0], data[1], data[2], data[3],
                ])))
            }
            DbFieldType::Enum => {
                if data.len() < 2 {
                    return Err(CaError::Protocol("enum data too small".into()));
                }
                Ok(Self::Enum(u16::from_be_bytes([data[0], data[1]])))
            }
            DbFieldType::Char => {
                if data.is_empty() {
                    return Err(CaError::Protocol("char data empty".into()));
                }
                Ok(Self::Char(data[0]))
            }
            DbFieldType::Long => {
                if data.len() < 4 {
                    return Err(CaError::Protocol("long data too small".into()));
                }
                Ok(Self::Long(i32::from_be_bytes([
                    data[0], data[1], data[2], data[3],
                ])))
            }
            DbFieldType::Double => {
                if data.len() < 8 {
                    return Err(CaError::Protocol("double data too small".into()));
                }
                Ok(Self::Double(f64::from_be_bytes([
                    data[0], data[1], data[2], data[3], data[4], data[5], data[6], data[7],
                ])))
            }
            DbFieldType::Int64 => {
                if data.len() < 8 {
                    return Err(CaError::Protocol("int64 data too small".into()));
                }
                Ok(Self::Int64(i64::from_be_bytes([
                    data[0], data[1], data[2], data[3], data[4], data[5], data[6], data[7],
                ])))
            }
            DbFieldType::UInt64 => {
                if data.len() < 8 {
                    return Err(CaError::Protocol("uint64 data too small".into()));
                }
                Ok(Self::UInt64(u64::from_be_bytes([
                    data[0], data[1], data[2], data[3], data[4], data[5], data[6], data[7],
                ])))
            }
            // DBF_USHORT/DBF_ULONG have no CA wire type — over the network
            // they arrive promoted (DBR_LONG / DBR_DOUBLE) and decode through
            // those arms. These native-width decoders exist for the internal
            // round-trip (`to_bytes`/`from_bytes` symmetry, tests) so the
            // match stays total over `DbFieldType` rather than swallowing the
            // unsigned widths in a catch-all.
            DbFieldType::UShort => {
                if data.len() < 2 {
                    return Err(CaError::Protocol("ushort data too small".into()));
                }
                Ok(Self::UShort(u16::from_be_bytes([data[0], data[1]])))
            }
            DbFieldType::ULong => {
                if data.len() < 4 {
                    return Err(CaError::Protocol("ulong data too small".into()));
                }
                Ok(Self::ULong(u32::from_be_bytes([
                    data[0], data[1], data[2], data[3],
                ])))
            }
            // DBF_UCHAR promotes to DBR_CHAR over CA (identical 1-byte wire
            // form), so on the network it decodes through the `Char` arm; this
            // native decoder keeps the match total and preserves the unsigned
            // interpretation for the internal round-trip.
            DbFieldType::UChar => {
                if data.is_empty() {
                    return Err(CaError::Protocol("uchar data too small".into()));
                }
                Ok(Self::UChar(data[0]))
            }
        }
    }

    /// Serialize a value to bytes for writing.
    ///
    /// Thin wrapper over [`EpicsValue::write_into`], which is the single
    /// owner of the wire layout. Prefer `write_into` on any path that
    /// already has a destination buffer: C's `dbGet` converts the field
    /// straight into the reply buffer (`dbAccess.c:1020`) and never
    /// materialises a standalone payload, so a wide array should be written
    /// once rather than built here and copied.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut buf = Vec::new();
        self.write_into(&mut buf);
        buf
    }

    /// Append this value's CA wire bytes to `dst`.
    ///
    /// The port of C `convert(paddr, pbuf, ...)` writing into the payload
    /// space `cas_copy_in_header` reserved inside the client's send buffer
    /// (`camessage.c:516` → `dbAccess.c:1020`): one materialisation of the
    /// value, in the buffer that will be written to the socket.
    pub fn write_into(&self, dst: &mut Vec<u8>) {
        match self {
            Self::String(s) => {
                let mut buf = [0u8; 40];
                let bytes = s.as_bytes();
                let len = bytes.len().min(39);
                buf[..len].copy_from_slice(&bytes[..len]);
                dst.extend_from_slice(&buf);
            }
            Self::Short(v) => dst.extend_from_slice(&v.to_be_bytes()),
            Self::Float(v) => dst.extend_from_slice(&v.to_be_bytes()),
            Self::Enum(v) => dst.extend_from_slice(&v.to_be_bytes()),
            Self::EnumWithChoices { index, .. } => dst.extend_from_slice(&index.to_be_bytes()),
            Self::Char(v) => dst.push(*v),
            Self::Long(v) => dst.extend_from_slice(&v.to_be_bytes()),
            Self::Double(v) => dst.extend_from_slice(&v.to_be_bytes()),
            // Over CA, Int64 is served as Double (8-byte f64 big-endian).
            // Precision is lost for |v| > 2^53; that is a CA protocol limitation.
            Self::Int64(v) => dst.extend_from_slice(&(*v as f64).to_be_bytes()),
            // UInt64 mirrors Int64: no CA wire type, served as DBR_DOUBLE.
            Self::UInt64(v) => dst.extend_from_slice(&(*v as f64).to_be_bytes()),
            // DBF_USHORT promotes to DBR_LONG on the wire
            // (db_convert.h `dbDBRnewToDBRold[DBR_USHORT] = DBR_LONG`); a u16
            // fits losslessly in i32. Emit 4 promoted big-endian bytes to
            // match `dbr_type()` == Long.
            Self::UShort(v) => dst.extend_from_slice(&(*v as i32).to_be_bytes()),
            // DBF_ULONG promotes to DBR_DOUBLE on the wire
            // (db_convert.h `dbDBRnewToDBRold[DBR_ULONG] = DBR_DOUBLE`),
            // mirroring UInt64. Emit 8 promoted big-endian bytes.
            Self::ULong(v) => dst.extend_from_slice(&(*v as f64).to_be_bytes()),
            // DBF_UCHAR promotes to DBR_CHAR on the wire (db_convert.h
            // `dbDBRnewToDBRold[DBR_UCHAR] = DBR_CHAR`); the raw byte is
            // identical to `Char`, only the interpretation is unsigned.
            Self::UChar(v) => dst.push(*v),
            Self::ShortArray(arr) => write_be(dst, arr, i16::to_be_bytes),
            Self::FloatArray(arr) => write_be(dst, arr, f32::to_be_bytes),
            Self::EnumArray(arr) => write_be(dst, arr, u16::to_be_bytes),
            Self::DoubleArray(arr) => write_be(dst, arr, f64::to_be_bytes),
            Self::LongArray(arr) => write_be(dst, arr, i32::to_be_bytes),
            Self::Int64Array(arr) => write_be(dst, arr, |v| (v as f64).to_be_bytes()),
            Self::UInt64Array(arr) => write_be(dst, arr, |v| (v as f64).to_be_bytes()),
            // DBF_USHORT[] promotes element-wise to DBR_LONG[] (4 bytes each).
            Self::UShortArray(arr) => write_be(dst, arr, |v| (v as i32).to_be_bytes()),
            // DBF_ULONG[] promotes element-wise to DBR_DOUBLE[] (8 bytes each).
            Self::ULongArray(arr) => write_be(dst, arr, |v| (v as f64).to_be_bytes()),
            Self::CharArray(arr) => dst.extend_from_slice(arr),
            // DBF_UCHAR[] promotes to DBR_CHAR[] over CA (identical raw bytes,
            // same as CharArray); the unsigned interpretation is carried by
            // the type, not the wire bytes.
            Self::UCharArray(arr) => dst.extend_from_slice(arr),
            Self::StringArray(arr) => {
                let start = dst.len();
                dst.resize(start + arr.len() * 40, 0);
                for (i, s) in arr.iter().enumerate() {
                    let bytes = s.as_bytes();
                    let len = bytes.len().min(39);
                    let at = start + i * 40;
                    dst[at..at + len].copy_from_slice(&bytes[..len]);
                }
            }
        }
    }

    /// Deserialize an array value from raw bytes.
    ///
    /// `count` comes directly from the wire (CA `m_count`,
    /// 16-bit native or 32-bit "extended"). A malicious peer can send
    /// `m_count = 0xFFFF_FFFF` with a tiny payload, and a naive
    /// `Vec::with_capacity(count)` allocates ~8 GiB for shorts /
    /// ~16 GiB for doubles before the bounds check inside the loop
    /// can short-circuit. Cap the allocation at `data.len() / size`
    /// so the capacity tracks the bytes that actually arrived.
    pub fn from_bytes_array(dbr_type: DbFieldType, data: &[u8], count: usize) -> CaResult<Self> {
        // P-1 (libca 8cc20393f / a7bf59079): count=0
        // is a legitimate empty-array round-trip and must NOT collapse
        // to scalar decoding. The previous `count <= 1` short-circuit
        // (a) read garbage scalar from an empty payload on GET (raised
        // CaError::Protocol "char data empty" / "...too small") and
        // (b) accepted scalar bytes for an array WRITE with count=0
        // when the server should reject. Treat count=0 as the typed
        // empty-array variant; count=1 still falls through to the
        // scalar decoder (the legitimate "scalar shaped as array of
        // one" case in CA).
        if count == 0 {
            return Ok(match dbr_type {
                DbFieldType::String => Self::StringArray(Vec::new().into()),
                DbFieldType::Short => Self::ShortArray(Vec::new().into()),
                DbFieldType::Float => Self::FloatArray(Vec::new().into()),
                DbFieldType::Enum => Self::EnumArray(Vec::new().into()),
                DbFieldType::Char => Self::CharArray(Vec::new().into()),
                DbFieldType::Long => Self::LongArray(Vec::new().into()),
                DbFieldType::Double => Self::DoubleArray(Vec::new().into()),
                DbFieldType::Int64 => Self::Int64Array(Vec::new().into()),
                DbFieldType::UInt64 => Self::UInt64Array(Vec::new().into()),
                DbFieldType::UShort => Self::UShortArray(Vec::new().into()),
                DbFieldType::ULong => Self::ULongArray(Vec::new().into()),
                DbFieldType::UChar => Self::UCharArray(Vec::new().into()),
            });
        }
        if count == 1 {
            return Self::from_bytes(dbr_type, data);
        }
        match dbr_type {
            DbFieldType::Short => Ok(Self::ShortArray(read_be(data, count, i16::from_be_bytes))),
            DbFieldType::Float => Ok(Self::FloatArray(read_be(data, count, f32::from_be_bytes))),
            DbFieldType::Enum => Ok(Self::EnumArray(read_be(data, count, u16::from_be_bytes))),
            DbFieldType::Double => Ok(Self::DoubleArray(read_be(data, count, f64::from_be_bytes))),
            DbFieldType::Long => Ok(Self::LongArray(read_be(data, count, i32::from_be_bytes))),
            DbFieldType::Int64 => Ok(Self::Int64Array(read_be(data, count, i64::from_be_bytes))),
            DbFieldType::UInt64 => Ok(Self::UInt64Array(read_be(data, count, u64::from_be_bytes))),
            // Native-width decoders (see the scalar `from_bytes` note): over
            // CA these arrive promoted as DBR_LONG[]/DBR_DOUBLE[]; these arms
            // keep the match total over `DbFieldType`.
            DbFieldType::UShort => Ok(Self::UShortArray(read_be(data, count, u16::from_be_bytes))),
            DbFieldType::ULong => Ok(Self::ULongArray(read_be(data, count, u32::from_be_bytes))),
            DbFieldType::Char => {
                let len = count.min(data.len());
                Ok(Self::CharArray(data[..len].to_vec().into()))
            }
            // DBF_UCHAR[] decodes 1 byte per element like Char (it promotes to
            // DBR_CHAR[] over CA); the bytes are copied verbatim, unsigned.
            DbFieldType::UChar => {
                let len = count.min(data.len());
                Ok(Self::UCharArray(data[..len].to_vec().into()))
            }
            DbFieldType::String => {
                // DBR_STRING is fixed-width 40 bytes per element. The
                // wire delivers `count * 40` bytes; each slot is
                // NUL-padded. Walk in 40-byte slots and strip at the
                // first NUL (if any).
                let mut arr = Vec::with_capacity(count.min(data.len() / 40));
                for i in 0..count {
                    let start = i * 40;
                    let end = start + 40;
                    if end > data.len() {
                        break;
                    }
                    let slot = &data[start..end];
                    let nul = slot.iter().position(|&b| b == 0).unwrap_or(slot.len());
                    // Bytes preserved verbatim — see the scalar DBR_STRING
                    // branch in `from_bytes`.
                    arr.push(PvString::from_bytes(&slot[..nul]));
                }
                Ok(Self::StringArray(arr.into()))
            }
        }
    }

    /// Get the DBR type for this value (CA wire type).
    /// Int64 has no CA wire type — it appears as Double over Channel Access.
    pub fn dbr_type(&self) -> DbFieldType {
        match self {
            Self::String(_) | Self::StringArray(_) => DbFieldType::String,
            Self::Short(_) | Self::ShortArray(_) => DbFieldType::Short,
            Self::Float(_) | Self::FloatArray(_) => DbFieldType::Float,
            Self::Enum(_) | Self::EnumWithChoices { .. } | Self::EnumArray(_) => DbFieldType::Enum,
            Self::Char(_) | Self::CharArray(_) => DbFieldType::Char,
            Self::Long(_) | Self::LongArray(_) => DbFieldType::Long,
            Self::Double(_) | Self::DoubleArray(_) => DbFieldType::Double,
            Self::Int64(_) | Self::Int64Array(_) => DbFieldType::Double,
            // UInt64 has no CA wire type; served as DBR_DOUBLE like Int64.
            Self::UInt64(_) | Self::UInt64Array(_) => DbFieldType::Double,
            // DBF_USHORT promotes to DBR_LONG (u16 fits in i32);
            // db_convert.h `dbDBRnewToDBRold[DBR_USHORT] = DBR_LONG`.
            Self::UShort(_) | Self::UShortArray(_) => DbFieldType::Long,
            // DBF_ULONG promotes to DBR_DOUBLE like UInt64;
            // db_convert.h `dbDBRnewToDBRold[DBR_ULONG] = DBR_DOUBLE`.
            Self::ULong(_) | Self::ULongArray(_) => DbFieldType::Double,
            // DBF_UCHAR promotes to DBR_CHAR (identical 1-byte wire form);
            // db_convert.h `dbDBRnewToDBRold[DBR_UCHAR] = DBR_CHAR`.
            Self::UChar(_) | Self::UCharArray(_) => DbFieldType::Char,
        }
    }

    /// True iff this value is an array variant, whatever its length.
    ///
    /// The port's stand-in for C's `no_elements > 1` destination test
    /// (`dbAccess.c:1345`): a record's array-valued field reads back as an
    /// array variant, a scalar field as a scalar variant.
    pub fn is_array(&self) -> bool {
        matches!(
            self,
            Self::ShortArray(_)
                | Self::FloatArray(_)
                | Self::EnumArray(_)
                | Self::DoubleArray(_)
                | Self::LongArray(_)
                | Self::Int64Array(_)
                | Self::UInt64Array(_)
                | Self::UShortArray(_)
                | Self::ULongArray(_)
                | Self::UCharArray(_)
                | Self::CharArray(_)
                | Self::StringArray(_)
        )
    }

    /// C `db_add_event`'s `useValque` test (`dbEvent.c:493-500`): may a monitor
    /// event queue hold this value *by value*, or must it keep only the latest?
    ///
    /// ```c
    /// if (dbChannelElements(chan) == 1 &&
    ///     dbChannelSpecial(chan) != SPC_DBADDR &&
    ///     dbChannelFieldSize(chan) <= sizeof(union native_value)) {
    ///     pevent->useValque = TRUE;
    /// }
    /// else {
    ///     pevent->useValque = FALSE;
    /// }
    /// ```
    ///
    /// C compares the CHANNEL's declared field size — never the bytes this
    /// particular value happens to occupy. `dbChannelFieldSize` for a
    /// `DBF_STRING` field is `MAX_STRING_SIZE` whatever the string in it
    /// says, and [`NATIVE_VALUE_BYTES`] is 8, so every string channel is
    /// by-reference in C exactly as every array field is.
    ///
    /// A by-reference log is `db_create_field_log`'s `dbfl_type_ref` branch,
    /// which copies nothing and points at the record's own field; C then
    /// refuses to queue a second one — `dbel` reports such a subscription as
    /// "queueing disabled".
    ///
    /// The port cannot store a reference (every event carries an owned
    /// [`crate::server::snapshot::Snapshot`]), so this predicate is what keeps
    /// its memory profile C's: see
    /// [`crate::server::event_queue`]'s latest-only rule. What C's surviving
    /// reference would have read at delivery is answered there by keeping the
    /// NEWEST snapshot rather than the queued one.
    pub fn queues_by_value(&self) -> bool {
        match self {
            // C: `dbChannelElements(chan) == 1` fails for every array field,
            // whatever its current element count.
            v if v.is_array() => false,
            // Not a database field at all — a transient NTEnum link carrier
            // holding a whole label vector, so it has no `dbChannelFieldSize`
            // to compare and no bound but the labels' own size.
            Self::EnumWithChoices { .. } => false,
            // C `dbChannelFieldSize(chan) <= sizeof(union native_value)`:
            // `element_size` is that declared width for a scalar field.
            v => v.db_field_type().element_size() <= NATIVE_VALUE_BYTES,
        }
    }

    /// Get the element count for this value.
    pub fn count(&self) -> u32 {
        match self {
            Self::ShortArray(arr) => arr.len() as u32,
            Self::FloatArray(arr) => arr.len() as u32,
            Self::EnumArray(arr) => arr.len() as u32,
            Self::DoubleArray(arr) => arr.len() as u32,
            Self::LongArray(arr) => arr.len() as u32,
            Self::Int64Array(arr) => arr.len() as u32,
            Self::UInt64Array(arr) => arr.len() as u32,
            Self::UShortArray(arr) => arr.len() as u32,
            Self::ULongArray(arr) => arr.len() as u32,
            Self::UCharArray(arr) => arr.len() as u32,
            Self::CharArray(arr) => arr.len() as u32,
            Self::StringArray(arr) => arr.len() as u32,
            _ => 1,
        }
    }

    /// True iff this value is an array variant with zero elements.
    /// Mirrors the C-EPICS dbPut/dbCa/dbDbGetValue empty-array guard
    /// (commits 12cfd41 / 0a1fb25 / 39c8d56): empty arrays must NOT
    /// silently coerce into scalar zero — callers should treat this
    /// as a LINK_ALARM-class condition and reject the put/get.
    pub fn is_empty_array(&self) -> bool {
        matches!(
            self,
            Self::ShortArray(arr) if arr.is_empty()
        ) || matches!(
            self,
            Self::FloatArray(arr) if arr.is_empty()
        ) || matches!(
            self,
            Self::EnumArray(arr) if arr.is_empty()
        ) || matches!(
            self,
            Self::DoubleArray(arr) if arr.is_empty()
        ) || matches!(
            self,
            Self::LongArray(arr) if arr.is_empty()
        ) || matches!(
            self,
            Self::Int64Array(arr) if arr.is_empty()
        ) || matches!(
            self,
            Self::UInt64Array(arr) if arr.is_empty()
        ) || matches!(
            self,
            Self::UShortArray(arr) if arr.is_empty()
        ) || matches!(
            self,
            Self::ULongArray(arr) if arr.is_empty()
        ) || matches!(
            self,
            Self::UCharArray(arr) if arr.is_empty()
        ) || matches!(
            self,
            Self::CharArray(arr) if arr.is_empty()
        ) || matches!(
            self,
            Self::StringArray(arr) if arr.is_empty()
        )
    }

    /// Element 0 of an array variant, as the matching **scalar** variant.
    /// Returns `None` for a scalar variant (nothing to reduce) and for an
    /// empty array (no element 0).
    ///
    /// This is C's `dbPut` clamp of a request into a one-element destination:
    /// `if (no_elements < nRequest) nRequest = no_elements;` (`dbAccess.c:1359`)
    /// followed by `dbPutConvertRoutine[...](paddr, pbuffer, nRequest = 1, ...)`,
    /// which copies the first element only. The put succeeds — the surplus
    /// elements are dropped, not an error.
    pub fn first_element(&self) -> Option<EpicsValue> {
        Some(match self {
            Self::ShortArray(a) => Self::Short(*a.first()?),
            Self::FloatArray(a) => Self::Float(*a.first()?),
            Self::EnumArray(a) => Self::Enum(*a.first()?),
            Self::DoubleArray(a) => Self::Double(*a.first()?),
            Self::LongArray(a) => Self::Long(*a.first()?),
            Self::Int64Array(a) => Self::Int64(*a.first()?),
            Self::UInt64Array(a) => Self::UInt64(*a.first()?),
            Self::UShortArray(a) => Self::UShort(*a.first()?),
            Self::ULongArray(a) => Self::ULong(*a.first()?),
            Self::UCharArray(a) => Self::UChar(*a.first()?),
            Self::CharArray(a) => Self::Char(*a.first()?),
            Self::StringArray(a) => Self::String(a.first()?.clone()),
            _ => return None,
        })
    }

    /// A copy of at most the first `max` elements of an array value; a scalar
    /// is cloned whole. Unlike `clone` + [`truncate`](Self::truncate) the cost
    /// is the elements kept, not the elements held.
    pub fn head(&self, max: usize) -> Self {
        match self {
            Self::ShortArray(arr) => Self::ShortArray(arr.head(max)),
            Self::FloatArray(arr) => Self::FloatArray(arr.head(max)),
            Self::EnumArray(arr) => Self::EnumArray(arr.head(max)),
            Self::DoubleArray(arr) => Self::DoubleArray(arr.head(max)),
            Self::LongArray(arr) => Self::LongArray(arr.head(max)),
            Self::Int64Array(arr) => Self::Int64Array(arr.head(max)),
            Self::UInt64Array(arr) => Self::UInt64Array(arr.head(max)),
            Self::UShortArray(arr) => Self::UShortArray(arr.head(max)),
            Self::ULongArray(arr) => Self::ULongArray(arr.head(max)),
            Self::UCharArray(arr) => Self::UCharArray(arr.head(max)),
            Self::CharArray(arr) => Self::CharArray(arr.head(max)),
            Self::StringArray(arr) => Self::StringArray(arr.head(max)),
            other => other.clone(),
        }
    }

    /// Truncate an array value to at most `max` elements. Scalars are unchanged.
    pub fn truncate(&mut self, max: usize) {
        match self {
            Self::ShortArray(arr) => arr.truncate(max),
            Self::FloatArray(arr) => arr.truncate(max),
            Self::EnumArray(arr) => arr.truncate(max),
            Self::DoubleArray(arr) => arr.truncate(max),
            Self::LongArray(arr) => arr.truncate(max),
            Self::Int64Array(arr) => arr.truncate(max),
            Self::UInt64Array(arr) => arr.truncate(max),
            Self::UShortArray(arr) => arr.truncate(max),
            Self::ULongArray(arr) => arr.truncate(max),
            Self::UCharArray(arr) => arr.truncate(max),
            Self::CharArray(arr) => arr.truncate(max),
            Self::StringArray(arr) => arr.truncate(max),
            _ => {}
        }
    }

    /// `head` written over the start of this array with the elements past it
    /// kept, as C's in-place convert into a record's buffer leaves them; a
    /// shared buffer is copied first. A `head` of another type, or one the
    /// array cannot hold, replaces it.
    pub fn write_head(&mut self, head: Self) {
        macro_rules! write_head {
            ($($variant:ident),+) => {
                match (self, head) {
                    $((Self::$variant(buf), Self::$variant(head)) if head.len() < buf.len() => {
                        buf.make_mut()[..head.len()].clone_from_slice(&head[..]);
                    })+
                    (buf, head) => *buf = head,
                }
            };
        }
        write_head!(
            CharArray,
            UCharArray,
            ShortArray,
            UShortArray,
            LongArray,
            ULongArray,
            Int64Array,
            UInt64Array,
            FloatArray,
            DoubleArray,
            EnumArray,
            StringArray
        );
    }

    /// Extract every element of an array variant as `f64`. Returns
    /// `None` for scalar variants. `CharArray` is not covered here —
    /// its signed-`epicsInt8` conversion is handled separately in
    /// `convert_to`.
    fn as_f64_array(&self) -> Option<Vec<f64>> {
        match self {
            Self::ShortArray(a) => Some(a.iter().map(|&v| v as f64).collect()),
            Self::FloatArray(a) => Some(a.iter().map(|&v| v as f64).collect()),
            Self::EnumArray(a) => Some(a.iter().map(|&v| v as f64).collect()),
            Self::LongArray(a) => Some(a.iter().map(|&v| v as f64).collect()),
            Self::DoubleArray(a) => Some(a.clone().to_vec()),
            Self::Int64Array(a) => Some(a.iter().map(|&v| v as f64).collect()),
            Self::UInt64Array(a) => Some(a.iter().map(|&v| v as f64).collect()),
            Self::UShortArray(a) => Some(a.iter().map(|&v| v as f64).collect()),
            Self::ULongArray(a) => Some(a.iter().map(|&v| v as f64).collect()),
            // DBF_UCHAR[] is unsigned-numeric (0..=255), so it takes the plain
            // numeric view here — unlike the signed `CharArray`, which needs
            // the epicsInt8 sign-reinterpret arm in `convert_to`.
            Self::UCharArray(a) => Some(a.iter().map(|&v| v as f64).collect()),
            // DBR_STRING → numeric IS an array conversion in C: the
            // `putString*` family (`dbConvert.c:941-1147`) runs the SAME
            // per-element scalar parse (`epicsParseInt32`/`epicsParseFloat64`,
            // `dbConvertBase` = 0 so `"0x10"` is 16) over all `nRequest`
            // elements. Taking the numeric view here makes the array path
            // element-wise-identical to the scalar `String` tail below —
            // one definition of string→numeric, not two. Without it a
            // `caput -a WV 3 7 8 9` collapsed to a single `0.0`.
            Self::StringArray(a) => Some(
                a.iter()
                    .map(|s| parse_string_to_f64(&s.as_str_lossy()).unwrap_or(0.0))
                    .collect(),
            ),
            _ => None,
        }
    }

    /// The value as `i64` when this is an integer-family scalar
    /// (`Short`/`Enum`/`Long`/`Int64`/`UInt64`), else `None`.
    ///
    /// `UInt64` reinterprets its bit pattern (`v as i64`). Narrowing an
    /// integer target off this view then keeps the low N bits — matching
    /// C/pvxs `static_cast` truncation (`uint32 0xffffffff -> int32 -1`,
    /// `convertCast` in `pvxs/src/sharedarray.cpp:160-166`), NOT the
    /// float round-trip's saturation. `Char` is intentionally excluded:
    /// it is 8-bit (no narrowing target can overflow) and `to_f64`
    /// reinterprets it as signed `epicsInt8`, a contract this view must
    /// not silently change.
    pub(crate) fn as_int_i64(&self) -> Option<i64> {
        self.num()?.int()
    }

    /// Drop the value with its tag tested inline: a numeric scalar owns
    /// nothing, and the drop glue is an out-of-line call that would only
    /// test the tag. A heap value pays the test on top of the glue, so this
    /// is for a value that is a scalar by its field's type.
    #[inline]
    pub(crate) fn release(self) {
        match self.num() {
            Some(_) => std::mem::forget(self),
            None => drop(self),
        }
    }

    /// A numeric scalar as the one [`Scalar`] every narrowing reads, and the
    /// classification [`Self::as_int_i64`] is a view of.
    #[inline]
    pub(crate) fn num(&self) -> Option<Scalar> {
        Some(match *self {
            Self::Double(v) => Scalar::Float(v),
            Self::Float(v) => Scalar::F32(v),
            Self::UInt64(v) => Scalar::U64(v),
            Self::Short(v) => Scalar::Int(v as i64),
            Self::Enum(v) | Self::UShort(v) => Scalar::Int(v as i64),
            Self::Long(v) => Scalar::Int(v as i64),
            Self::Int64(v) => Scalar::Int(v),
            Self::ULong(v) => Scalar::Int(v as i64),
            Self::Char(v) => Scalar::Int(v as i8 as i64),
            Self::UChar(v) => Scalar::Int(v as i64),
            _ => return None,
        })
    }

    /// Per-element `i64` view of an integer-family array
    /// (`ShortArray`/`EnumArray`/`LongArray`/`Int64Array`/`UInt64Array`),
    /// else `None`. Same truncation contract as [`Self::as_int_i64`].
    /// `CharArray` is excluded — it carries its own signed-`epicsInt8`
    /// conversion arm in `convert_to`.
    fn as_int_i64_array(&self) -> Option<Vec<i64>> {
        Some(match self {
            Self::ShortArray(a) => a.iter().map(|&v| v as i64).collect(),
            Self::EnumArray(a) => a.iter().map(|&v| v as i64).collect(),
            Self::LongArray(a) => a.iter().map(|&v| v as i64).collect(),
            Self::Int64Array(a) => a.clone().to_vec(),
            Self::UInt64Array(a) => a.iter().map(|&v| v as i64).collect(),
            Self::UShortArray(a) => a.iter().map(|&v| v as i64).collect(),
            Self::ULongArray(a) => a.iter().map(|&v| v as i64).collect(),
            // Unsigned-byte view (0..=255); `CharArray` stays excluded (signed).
            Self::UCharArray(a) => a.iter().map(|&v| v as i64).collect(),
            _ => return None,
        })
    }

    /// Each element's text in its own type, never through the f64 view: an
    /// int64/uint64 element above 2^53 does not survive it (C's
    /// `cvtInt64ToString` prints the exact integer). A float element is
    /// `putFloatString`/`putDoubleString` with no `get_precision` to ask, so
    /// precision 6.
    fn element_texts(&self) -> SharedArray<PvString> {
        match self {
            Self::UInt64Array(a) => a.iter().map(|v| v.to_string().into()).collect(),
            Self::FloatArray(a) => a
                .iter()
                .map(|&v| super::codec::cvt_float_to_string(v, 6).into())
                .collect(),
            Self::DoubleArray(a) => a
                .iter()
                .map(|&v| super::codec::cvt_double_to_string(v, 6).into())
                .collect(),
            _ => match self.as_int_i64_array() {
                Some(ints) => ints.iter().map(|v| v.to_string().into()).collect(),
                None => unreachable!("a StringArray is its own String target"),
            },
        }
    }

    /// Coerce to a different native type — the PUT direction, plus the
    /// whole-value text projection.
    ///
    /// This is C's put table (`dbPutConvertRoutine` /
    /// `dbFastPutConvertRoutine`) and nothing else: total, and free to collapse
    /// an array into the one text slot a `DBF_STRING` field holds. Scalars
    /// coerce through `to_f64`/`as_int_i64`; array variants coerce
    /// element-by-element into the target array variant.
    ///
    /// The GET direction is [`Self::get_convert`] and is a different function
    /// with a different contract — element-count-preserving and fallible. An
    /// earlier revision of this doc claimed `convert_to` ran "the per-type GET
    /// routine over the whole array", which is what let the two directions
    /// share one body; they do not share one in C and the differences are
    /// observable on the wire.
    pub fn convert_to(&self, target: DbFieldType) -> EpicsValue {
        match self.num().and_then(|n| n.to_field(target)) {
            Some(v) => v,
            None => self.convert_other(target),
        }
    }

    /// [`Self::convert_to`] by value: a value already of `target` moves through
    /// untouched, as C's same-type put is a plain copy, so an owned put pays
    /// no clone. The NTEnum carrier reports `Enum` but still collapses.
    #[inline]
    pub fn into_type(self, target: DbFieldType) -> EpicsValue {
        if self.db_field_type() == target && !matches!(self, Self::EnumWithChoices { .. }) {
            return self;
        }
        self.into_other_type(target)
    }

    /// [`Self::into_type`] for a value not already of `target`: one call that
    /// consumes it, where `convert_to` and a drop of the borrowed value were two.
    #[inline(never)]
    fn into_other_type(self, target: DbFieldType) -> EpicsValue {
        if let Some(v) = self.num().and_then(|n| n.to_field(target)) {
            // A numeric scalar owns nothing, so its drop is skipped, not leaked.
            std::mem::forget(self);
            return v;
        }
        self.convert_other(target)
    }

    /// [`Self::convert_to`] for every row but a numeric scalar into a numeric
    /// field, which stays out of line so that row carries no frame for these.
    #[inline(never)]
    fn convert_other(&self, target: DbFieldType) -> EpicsValue {
        // pvalink NTEnum carrier (pvxs `pvaGetValue` scalar switch,
        // `pvxs/ioc/pvalink_lset.cpp:330-360`): a DBR_STRING target stores the
        // label `choices[index]` (with the "%u" index fallback out of
        // range); EVERY other target — char/short/long/int64, the
        // unsigned widths, float/double, enum — takes the numeric index.
        // Resolve the transient here, the single value-coercion owner
        // (`set_val`'s default routes a `TypeMismatch` through this, and
        // `put_field_internal` calls it directly), so `EnumWithChoices`
        // never reaches storage or the wire. Must precede the
        // `db_field_type()==target` short-circuit: the carrier's type is
        // `Enum`, so an `Enum` target would otherwise clone it verbatim
        // instead of collapsing to a bare index.
        if let Self::EnumWithChoices { index, choices } = self {
            return match target {
                DbFieldType::String => Self::String(Self::enum_index_label(choices, *index)),
                _ => Self::Enum(*index).convert_to(target),
            };
        }
        if self.db_field_type() == target {
            return self.clone();
        }

        // Array → array conversion: map each element through the
        // numeric-array view, then materialize the target variant.
        // StringArray takes this path too — C's string→numeric is a
        // per-element array conversion (`putStringLong` and siblings),
        // not a scalar one. CharArray does NOT: it needs the signed
        // `epicsInt8` reinterpret, and to String it decodes as text.
        if let Some(nums) = self.as_f64_array() {
            // Integer-family arrays also expose a lossless `i64` element
            // view; route integer targets through it so narrowing truncates
            // (C/pvxs `static_cast`: `uint32 0xffffffff -> int32 -1`)
            // instead of saturating through f64 (which would clamp to
            // `i32::MAX`). Float/Double/String targets keep the
            // value-preserving f64 view — correct for unsigned widening
            // such as `UInt64Array -> Double`.
            let ints = self.as_int_i64_array();
            return match target {
                DbFieldType::Short => EpicsValue::ShortArray(match &ints {
                    Some(v) => v.iter().map(|&x| Scalar::Int(x).to_i16()).collect(),
                    None => nums.iter().map(|&v| Scalar::Float(v).to_i16()).collect(),
                }),
                DbFieldType::Float => EpicsValue::FloatArray(
                    nums.iter().map(|&v| Scalar::Float(v).to_f32()).collect(),
                ),
                DbFieldType::Enum => EpicsValue::EnumArray(match &ints {
                    Some(v) => v.iter().map(|&x| Scalar::Int(x).to_u16()).collect(),
                    None => nums.iter().map(|&v| Scalar::Float(v).to_u16()).collect(),
                }),
                DbFieldType::Long => EpicsValue::LongArray(match &ints {
                    Some(v) => v.iter().map(|&x| Scalar::Int(x).to_i32()).collect(),
                    None => nums.iter().map(|&v| Scalar::Float(v).to_i32()).collect(),
                }),
                DbFieldType::Double => EpicsValue::DoubleArray(nums.into()),
                DbFieldType::Int64 => EpicsValue::Int64Array(match &ints {
                    Some(v) => v.clone().into(),
                    None => nums.iter().map(|&v| Scalar::Float(v).to_i64()).collect(),
                }),
                DbFieldType::UInt64 => EpicsValue::UInt64Array(match &ints {
                    Some(v) => v.iter().map(|&x| Scalar::Int(x).to_u64()).collect(),
                    None => nums.iter().map(|&v| Scalar::Float(v).to_u64()).collect(),
                }),
                DbFieldType::UShort => EpicsValue::UShortArray(match &ints {
                    Some(v) => v.iter().map(|&x| Scalar::Int(x).to_u16()).collect(),
                    None => nums.iter().map(|&v| Scalar::Float(v).to_u16()).collect(),
                }),
                DbFieldType::ULong => EpicsValue::ULongArray(match &ints {
                    Some(v) => v.iter().map(|&x| Scalar::Int(x).to_u32()).collect(),
                    None => nums.iter().map(|&v| Scalar::Float(v).to_u32()).collect(),
                }),
                DbFieldType::Char => EpicsValue::CharArray(match &ints {
                    Some(v) => v.iter().map(|&x| Scalar::Int(x).to_i8() as u8).collect(),
                    None => nums
                        .iter()
                        .map(|&v| Scalar::Float(v).to_i8() as u8)
                        .collect(),
                }),
                // DBF_UCHAR[] narrows off the integer view (low 8 bits), the
                // unsigned twin of the Char target.
                DbFieldType::UChar => EpicsValue::UCharArray(match &ints {
                    Some(v) => v.iter().map(|&x| Scalar::Int(x).to_u8()).collect(),
                    None => nums.iter().map(|&v| Scalar::Float(v).to_u8()).collect(),
                }),
                DbFieldType::String => EpicsValue::StringArray(self.element_texts()),
            };
        }
        if let EpicsValue::CharArray(bytes) = self {
            return match target {
                DbFieldType::Short => {
                    EpicsValue::ShortArray(bytes.iter().map(|&b| b as i8 as i16).collect())
                }
                DbFieldType::Float => {
                    EpicsValue::FloatArray(bytes.iter().map(|&b| b as i8 as f32).collect())
                }
                // `getCharEnum` is `GET(char, epicsEnum16)` (`dbConvert.c:491`,
                // macro body `*pdst = (typeb) *psrc` at `:63-80`) with `psrc` a
                // SIGNED `char`, so 0xC8 lands as 65480, not 200 — the same
                // promotion the eight sibling arms do. Dropping the `as i8`
                // here also split the type against itself: the scalar row goes
                // through `to_f64`, which reads `Char` signed, so one byte gave
                // two answers depending on whether it arrived as an array.
                DbFieldType::Enum => {
                    EpicsValue::EnumArray(bytes.iter().map(|&b| b as i8 as u16).collect())
                }
                DbFieldType::Long => {
                    EpicsValue::LongArray(bytes.iter().map(|&b| b as i8 as i32).collect())
                }
                DbFieldType::Double => {
                    EpicsValue::DoubleArray(bytes.iter().map(|&b| b as i8 as f64).collect())
                }
                DbFieldType::Int64 => {
                    EpicsValue::Int64Array(bytes.iter().map(|&b| b as i8 as i64).collect())
                }
                DbFieldType::UInt64 => {
                    EpicsValue::UInt64Array(bytes.iter().map(|&b| b as i8 as u64).collect())
                }
                // epicsInt8 → epicsUInt16/epicsUInt32 sign-extends (C
                // `dbConvert` charToUshort/charToUlong promote the signed
                // source through int), so 0xFF → 0xFFFF / 0xFFFFFFFF.
                DbFieldType::UShort => {
                    EpicsValue::UShortArray(bytes.iter().map(|&b| b as i8 as u16).collect())
                }
                DbFieldType::ULong => {
                    EpicsValue::ULongArray(bytes.iter().map(|&b| b as i8 as u32).collect())
                }
                // CharArray as text: the bytes before the NUL, verbatim (no
                // UTF-8 validation), matching pvxs raw-byte storage.
                DbFieldType::String => {
                    EpicsValue::String(PvString::from_bytes(nul_terminated(bytes).to_vec()))
                }
                DbFieldType::Char => EpicsValue::CharArray(bytes.clone()),
                // epicsInt8 -> epicsUInt8 is byte-identity (C `charToUchar`
                // casts the signed source: -1/0xFF -> 255/0xFF), so the raw
                // bytes carry over unchanged into the unsigned carrier.
                DbFieldType::UChar => EpicsValue::UCharArray(bytes.clone()),
            };
        }

        // No menu-label resolution happens here. A menu label is
        // menu-SPECIFIC — "Specified" is index 1 of `menuFanout` but index 0
        // of `selSELM` — so it has exactly one resolver,
        // `record::menu_choices::resolve_menu_field_string`, and that resolver
        // needs the FIELD. `convert_to` is field-blind and total by contract
        // (see `coerce_put_value`), so any table it consulted here could only
        // guess which menu was meant, and guessed wrong across menus.
        //
        // Integer-source narrowing uses the `i64` view (C/pvxs `static_cast`
        // truncation: low N bits) so `uint 0xffffffff -> DBF_LONG` yields
        // `-1`, not the f64 round-trip's saturated `i32::MAX`. Float/double
        // sources have no integer view, so they keep the f64 path; that path
        // also serves the String/Float/Double targets for every source.
        match (target, self) {
            // String → CharArray / UCharArray, for a waveform FTVL=CHAR/UCHAR.
            (DbFieldType::Char, EpicsValue::String(s)) => {
                EpicsValue::CharArray(s.as_bytes().to_vec().into())
            }
            (DbFieldType::UChar, EpicsValue::String(s)) => {
                EpicsValue::UCharArray(s.as_bytes().to_vec().into())
            }
            // `cvt_f_st`/`cvt_d_st` with no `get_precision` to ask print at 6.
            (DbFieldType::String, EpicsValue::Float(v)) => {
                EpicsValue::String(super::codec::cvt_float_to_string(*v, 6).into())
            }
            (DbFieldType::String, EpicsValue::Double(v)) => {
                EpicsValue::String(super::codec::cvt_double_to_string(*v, 6).into())
            }
            // `cvtInt32ToString` and its siblings: an integer is its digits.
            (DbFieldType::String, _) => EpicsValue::String(
                match self.num() {
                    Some(Scalar::Int(v)) => v.to_string(),
                    Some(Scalar::U64(v)) => v.to_string(),
                    other => unreachable!("{other:?} has its own String arm"),
                }
                .into(),
            ),
            _ => self
                .num()
                .unwrap_or_else(|| Scalar::Float(self.to_f64().unwrap_or(0.0)))
                .to_field(target)
                .expect("only a String target has no scalar row"),
        }
    }

    /// Render this field in `target`'s DBR type — the GET direction.
    ///
    /// C reaches this through two tables: `dbGetConvertRoutine`
    /// (`dbConvert.c:1707`) for an array request, and
    /// `dbFastGetConvertRoutine` (`dbFastLinkConv.c:1642`) for the scalar fast
    /// path `dbAccess.c:967` takes when `offset == 0 && no_elements == 1`. Two
    /// properties separate them from the put table in [`Self::convert_to`], and
    /// both were lost while one function stood in for both directions:
    ///
    /// * **The element count is preserved.** `getCharString`
    ///   (`dbConvert.c:417-437`) advances `pdst` by `MAX_STRING_SIZE` once per
    ///   source byte, so a `DBF_CHAR` waveform read as `DBR_STRING` ships one
    ///   40-byte slot per element. Collapsing the buffer into a single slot is
    ///   the long-string *presentation*, which has its own owner
    ///   (`epics_ca_rs::server::apply_native_long_string`), not a get.
    /// * **It can fail.** The `DBF_STRING` row parses, and a non-zero status
    ///   leaves `dbChannel_get` as -1 (`db_access.c:816`); rsrv then answers the
    ///   read with a zeroed payload and `m_cid = ECA_GETFAIL`
    ///   (`camessage.c:545-561`) instead of a value.
    ///
    /// Numeric-to-numeric rows are the same conversion in both directions in C,
    /// so they delegate to `convert_to` rather than being written twice.
    pub fn get_convert(&self, target: DbFieldType) -> CaResult<EpicsValue> {
        // `getCharString` / `getUcharString` (`dbConvert.c:417-437`) advance
        // `pdst` by MAX_STRING_SIZE per source byte, so a DBF_CHAR waveform
        // read as DBR_STRING ships one 40-byte slot PER ELEMENT holding that
        // byte's decimal text — `cvtCharToString` is `cvtInt32ToString` and its
        // unsigned twin (`cvtFast.h:71-72`). The scalar rows `cvt_c_st` /
        // `cvt_uc_st` render the same text, which `convert_to`'s `Display`
        // already produces; only the arrays need their own arm, because
        // projecting the whole buffer into one slot is the long-string
        // presentation (`epics_ca_rs::server::apply_native_long_string`) and
        // never a get.
        if let Some(v) = self.num().and_then(|n| n.to_field(target)) {
            return Ok(v);
        }
        if target == DbFieldType::String {
            match self {
                Self::CharArray(bytes) => {
                    return Ok(Self::StringArray(
                        bytes
                            .iter()
                            .map(|&b| PvString::from((b as i8).to_string()))
                            .collect(),
                    ));
                }
                Self::UCharArray(bytes) => {
                    return Ok(Self::StringArray(
                        bytes
                            .iter()
                            .map(|&b| PvString::from(b.to_string()))
                            .collect(),
                    ));
                }
                _ => {}
            }
        }
        // The whole DBF_STRING row of C's GET tables parses, and returns a
        // status when the text is not a number of the requested type: the
        // scalar rows `cvt_st_c`..`cvt_st_d` (`dbFastLinkConv.c:91-244`, always
        // selected for a string field because `dbAccess.c:967-977` sees
        // `no_elements == 1`) and the array rows `getString*`
        // (`dbConvert.c:392-414` and the identical body per width).
        //
        // `convert_to` has no failure channel, so it answered a
        // `DBR_DOUBLE` read of VAL="hello" with `0.0` at NO_ALARM where C
        // answers ECA_GETFAIL and a CA-linked calc goes LINK/INVALID; and for
        // the CHAR widths it answered with the field's own text bytes, which is
        // the put projection an `FTVL=CHAR` waveform needs and stays there.
        if let Some(row) = c_parse::NumericField::of(target) {
            match self {
                Self::String(s) => return c_parse::get_string(row, &s.as_str_lossy()),
                Self::StringArray(a) => return c_parse::get_string_array(row, a),
                _ => {}
            }
        }
        // The DBR_ENUM column of that row is `getStringUshort` too
        // (`dbConvert.c:1710-1712`); one string the record's `cvt_st_e` reads
        // is the callers' (`cvt_st_e_input`).
        if target == DbFieldType::Enum && matches!(self, Self::String(_) | Self::StringArray(_)) {
            return Ok(match self.get_convert(DbFieldType::UShort)? {
                Self::UShortArray(a) => Self::EnumArray(a),
                Self::UShort(v) => Self::Enum(v),
                other => other,
            });
        }
        Ok(self.convert_to(target))
    }

    /// The `f64` a link read produces — the `DBR_DOUBLE` row of
    /// [`Self::get_convert`], so a `DBF_STRING` source obeys C's one
    /// string-to-numeric get rule at every read path: the empty string is a
    /// successful zero (`dbConvert.c` `getStringDouble`'s `if (*psrc == 0)
    /// *pdst++ = 0;`, and the identical carve-out in `dbFastLinkConv.c`
    /// `cvt_st_d`), anything else unparseable is a failed read.
    ///
    /// [`Self::to_f64`] is the OTHER rule and must not be used here: its
    /// stricter parse answers `None` for the empty string, which the link
    /// machinery turns into `LinkFetch::Failed` and a LINK/INVALID alarm,
    /// where C's status 0 means `dbGetLink` (`dbLink.c`) calls no
    /// `setLinkAlarm` at all.
    ///
    /// `None` is C's non-zero `dbGetLink` status. Array variants answer
    /// `None` exactly as `to_f64` does; callers take `first_element` first
    /// where C's one-element destination does.
    /// The `Double` taken apart, or the value back untouched. The variant
    /// owns nothing, so it is released without its destructor: that call
    /// is out of line and would only test the tag this match already did.
    #[inline]
    pub fn into_double(self) -> Result<f64, Self> {
        match self {
            Self::Double(v) => {
                std::mem::forget(self);
                Ok(v)
            }
            other => Err(other),
        }
    }

    pub fn get_convert_f64(&self) -> Option<f64> {
        match self {
            // The row C's `dbGet` picks for DBR_DOUBLE of a DBF_DOUBLE is a
            // copy (`getDoubleDouble`); the general path below clones the
            // value to convert it to what it already is.
            Self::Double(v) => Some(*v),
            _ => match self.get_convert(DbFieldType::Double) {
                Ok(Self::Double(v)) => Some(v),
                _ => None,
            },
        }
    }

    /// Return the internal DbFieldType that matches this value's variant.
    /// Unlike dbr_type(), this returns Int64 for Int64 variants (not Double).
    pub fn db_field_type(&self) -> DbFieldType {
        match self {
            Self::Double(_) => DbFieldType::Double,
            Self::Float(_) => DbFieldType::Float,
            Self::Long(_) => DbFieldType::Long,
            Self::Short(_) => DbFieldType::Short,
            Self::Enum(_) | Self::EnumWithChoices { .. } => DbFieldType::Enum,
            Self::Char(_) => DbFieldType::Char,
            Self::String(_) => DbFieldType::String,
            Self::Int64(_) | Self::Int64Array(_) => DbFieldType::Int64,
            Self::UInt64(_) | Self::UInt64Array(_) => DbFieldType::UInt64,
            Self::UShort(_) | Self::UShortArray(_) => DbFieldType::UShort,
            Self::ULong(_) | Self::ULongArray(_) => DbFieldType::ULong,
            Self::UChar(_) | Self::UCharArray(_) => DbFieldType::UChar,
            Self::CharArray(_) => DbFieldType::Char,
            Self::ShortArray(_) => DbFieldType::Short,
            Self::LongArray(_) => DbFieldType::Long,
            Self::EnumArray(_) => DbFieldType::Enum,
            Self::FloatArray(_) => DbFieldType::Float,
            Self::DoubleArray(_) => DbFieldType::Double,
            Self::StringArray(_) => DbFieldType::String,
        }
    }

    /// Project this value onto a `DBF_SHORT` field, by C's rule.
    ///
    /// `None` means the value is not numeric at all — C's `S_db_badDbrtype`.
    /// [`Self::convert_to`] coerces rather than fails, so the rejection has to be
    /// made here or a non-numeric source lands in the field as a silent 0.
    ///
    /// Use this, never `c_cast::f64_to_i16(v.to_f64())`: `to_f64` erases the
    /// source's integer-ness, and C picks its conversion routine BY the source
    /// type (`dbFastGetConvertRoutine` is a 2-D table, `dbConvert.c:1571-1638`).
    /// An integer source takes C's DEFINED modular conversion; only a float
    /// source takes the UB cast, which `c_cast` gives as x86-64's `cvttsd2si`. Going through `to_f64`
    /// forces the float rule onto both.
    pub(crate) fn to_dbf_i16(&self) -> Option<i16> {
        self.to_f64()?;
        match self.convert_to(DbFieldType::Short) {
            Self::Short(v) => Some(v),
            _ => None,
        }
    }

    /// [`Self::to_dbf_i16`] for a `DBF_LONG` field. Same rule, same reason.
    pub(crate) fn to_dbf_i32(&self) -> Option<i32> {
        self.to_f64()?;
        match self.convert_to(DbFieldType::Long) {
            Self::Long(v) => Some(v),
            _ => None,
        }
    }

    pub fn to_f64(&self) -> Option<f64> {
        match self {
            Self::Double(v) => Some(*v),
            Self::Float(v) => Some(*v as f64),
            Self::Long(v) => Some(*v as f64),
            Self::Short(v) => Some(*v as f64),
            Self::Enum(v) => Some(*v as f64),
            // NTEnum carrier: numeric coercion takes the index (pvxs
            // numeric branch), identical to `Enum`. Reached through
            // [`Self::get_convert_f64`] on the multi-input/DOL/SELN paths,
            // which pre-convert link values to f64 before applying them.
            Self::EnumWithChoices { index, .. } => Some(*index as f64),
            Self::Int64(v) => Some(*v as f64),
            Self::UInt64(v) => Some(*v as f64),
            Self::UShort(v) => Some(*v as f64),
            Self::ULong(v) => Some(*v as f64),
            // DBF_CHAR is epicsInt8 (signed) per epics-base c5012d9f73:
            // reinterpret the storage byte as i8 before widening so 0xFF → -1.0,
            // not 255.0. The CharArray storage stays u8 because that matches the
            // CA wire byte pattern; the sign only matters when promoting to f64.
            Self::Char(v) => Some((*v as i8) as f64),
            // DBF_UCHAR is epicsUInt8 (unsigned): widen the storage byte
            // directly (0xFF → 255.0), the counterpart of `Char`'s signed
            // reinterpret above.
            Self::UChar(v) => Some(*v as f64),
            // C EPICS dbConvert (88bfd6f, 2025-11-05): string-to-integer
            // conversion auto-detects hex/octal prefixes by default
            // (`dbConvertBase = 0`). Plain `s.parse::<f64>()` handles
            // decimal floats only — `"0x1A"` and `"017"` would silently
            // parse as `0.0`. Try integer auto-detect first so CA puts of
            // `"0x1A"` to a DBF_LONG field produce `26`, then fall back to
            // decimal float parse for normal numeric strings.
            Self::String(s) => parse_string_to_f64(&s.as_str_lossy()),
            _ => None,
        }
    }

    /// A `DBF_MENU` field's index, whatever numeric carrier the record type
    /// chose to answer it in.
    ///
    /// The `.dbd` fixes the field as `DBF_MENU`; whether the record struct
    /// hands it back as [`Self::Short`] — every `epics-base-rs` record type,
    /// e.g. `records/ai.rs:310` for `SIMS` — or as [`Self::Enum`] — `mca`, at
    /// `mca-rs/src/record/mod.rs:678-679`, for the same two fields
    /// `mcaRecord.dbd:386` and `:391` declare `DBF_MENU` — is an
    /// implementation detail of that record and nothing else. CA does not read
    /// it either: a menu field is typed and labelled from its NAME, through
    /// [`shared_menu_choices`](crate::server::record::shared_menu_choices)
    /// (`SIMS` at `menu_choices.rs:213`) or the record's
    /// `menu_field_choices` override.
    ///
    /// So a framework consumer must not pattern-match the carrier. One that
    /// does reads every other record's field as its `unwrap_or` default and
    /// reports nothing — which is how `mca`'s `SIMS` read as `NO_ALARM` no
    /// matter what the database set, leaving a simulated `mca` unable to raise
    /// `SIMM_ALARM` at any severity.
    pub fn to_menu_index(&self) -> Option<i16> {
        self.to_f64().map(|index| index as i16)
    }

    /// Parse a `.db` field value into an EpicsValue of the given type — the
    /// BYTE-STRING form, which is what a `.db` value actually is.
    ///
    /// A `DBF_STRING` is a byte string with a 40-byte budget, not a sequence of
    /// characters: C's escape translation writes ONE byte per `\xHH`
    /// (`epicsString.c:106`, `OUT(u)` into a `char`), so `field(VAL,"h\xffz")`
    /// is the three bytes `h`, `0xFF`, `z` — measured on softIoc, where `dbgf`
    /// prints `"h\xffz"` (one escape, not the `\xc3\xbf` a UTF-8 encoding of
    /// U+00FF would print). Going through a `&str` parse would force the value
    /// through a Rust `String` and turn that one byte into two.
    ///
    /// Every other DBF type is a number or a menu label — ASCII by
    /// construction, and a byte outside ASCII is a parse error either way. An
    /// integer width is `dbPutStringNum`'s 64-bit parse then C's cast; the
    /// floats take [`Self::parse`].
    pub fn parse_bytes(dbr_type: DbFieldType, bytes: &[u8]) -> CaResult<Self> {
        // Verbatim, as `dbPutString`'s `strncpy`: a leading or trailing space
        // is part of a DBF_STRING value.
        if dbr_type == DbFieldType::String {
            return Ok(Self::String(PvString::from_bytes(bytes)));
        }
        let text = String::from_utf8_lossy(bytes);
        // An integer width in a `.db` body or a `.dbd` `initial(...)` is C's
        // `dbPutStringNum` (64-bit parse, then C's cast), not the put row.
        match dbr_type {
            DbFieldType::Float | DbFieldType::Double => Self::parse(dbr_type, &text),
            _ if text.trim().is_empty() => Self::parse(dbr_type, &text),
            _ => crate::server::db_loader::db_put_string_num(dbr_type, &text),
        }
    }

    /// Parse a literal into an `EpicsValue` of the given type, strictly: an
    /// integer outside the width, or with a tail, is an error, never a value
    /// cast into the width. A `.db` body or `.dbd` `initial(...)` takes
    /// [`Self::parse_bytes`], which casts as `dbPutStringNum` does.
    pub fn parse(dbr_type: DbFieldType, s: &str) -> CaResult<Self> {
        // A string is verbatim, spaces included, as `dbPutString` stores it;
        // C EPICS treats empty/whitespace strings as zero for numeric fields
        let s = if dbr_type == DbFieldType::String {
            s
        } else {
            s.trim()
        };
        if s.is_empty() {
            return match dbr_type {
                DbFieldType::String => Ok(Self::String(PvString::new())),
                DbFieldType::Short => Ok(Self::Short(0)),
                DbFieldType::Float => Ok(Self::Float(0.0)),
                DbFieldType::Enum => Ok(Self::Enum(0)),
                DbFieldType::Char => Ok(Self::Char(0)),
                DbFieldType::Long => Ok(Self::Long(0)),
                DbFieldType::Double => Ok(Self::Double(0.0)),
                DbFieldType::Int64 => Ok(Self::Int64(0)),
                DbFieldType::UInt64 => Ok(Self::UInt64(0)),
                DbFieldType::UShort => Ok(Self::UShort(0)),
                DbFieldType::ULong => Ok(Self::ULong(0)),
                DbFieldType::UChar => Ok(Self::UChar(0)),
            };
        }
        match dbr_type {
            DbFieldType::String => Ok(Self::String(s.into())),
            // `dbStaticLib.c:2797` parses a `DBF_FLOAT` field with
            // `epicsParseFloat32`, the same routine `putStringFloat` uses, so
            // the narrowing gate belongs on this path too: without it `1e300`
            // loaded from a `.db` file stored `inf` while the identical
            // `caput` was refused.
            DbFieldType::Float => parse_string_to_f64(s)
                .and_then(super::c_parse::narrow_to_f32)
                .map(Self::Float)
                .ok_or_else(|| CaError::InvalidValue(format!("invalid float literal: {s}"))),
            // Every integer width is `c_parse`'s strict `epicsParse*` row
            // (`units == NULL`, base 0): a literal outside the width, or with a
            // tail, is an error — never a value cast into the width. A `.db`
            // record body is a different C rule (`dbPutStringNum`) and takes
            // [`Self::parse_bytes`]; a `caput`/`dbpf` takes the put row
            // (`c_parse::put_string`) on the server.
            DbFieldType::Short
            | DbFieldType::Enum
            | DbFieldType::Char
            | DbFieldType::Long
            | DbFieldType::Int64
            | DbFieldType::UInt64
            | DbFieldType::UShort
            | DbFieldType::ULong
            | DbFieldType::UChar => {
                // `DBF_ENUM` is the unsigned 16-bit row (`dbTest.c:678`).
                let numeric = match dbr_type {
                    DbFieldType::Enum => super::c_parse::NumericField::UShort,
                    t => super::c_parse::NumericField::of(t)
                        .expect("an integer DbFieldType has a NumericField row"),
                };
                match super::c_parse::parse_auto_base_units_null(numeric, s) {
                    Some(Self::UShort(v)) if dbr_type == DbFieldType::Enum => Ok(Self::Enum(v)),
                    Some(v) => Ok(v),
                    None => Err(CaError::InvalidValue(match dbr_type {
                        DbFieldType::Short => menu_label_hint("short", s),
                        DbFieldType::Enum => menu_label_hint("enum", s),
                        _ => format!("invalid {dbr_type:?} literal: {s}"),
                    })),
                }
            }
            DbFieldType::Double => parse_string_to_f64(s)
                .map(Self::Double)
                .ok_or_else(|| CaError::InvalidValue(format!("invalid double literal: {s}"))),
        }
    }
}

/// Convert a string value to f64 with C-style hex/octal auto-detection.
///
/// Mirrors C EPICS dbConvert (88bfd6f, 2025-11-05) where the default
/// `dbConvertBase = 0` lets `epicsParseInt*` auto-detect base 10/16/8 by
/// prefix. A signed `0x`/`0X` prefix means hex; a leading `0` followed by
/// digits means octal; everything else is parsed as a decimal float so
/// `"1.5"`, `"1e6"`, `"-3.14"` continue to work.
/// The error text for a non-numeric token reaching a field-blind
/// `DBF_SHORT`/`DBF_ENUM` parse.
///
/// A menu label does not resolve here and must not: the same label names
/// different indices in different menus, so the only correct resolver is
/// [`crate::server::record::resolve_menu_field_string`], which takes the
/// field's own choices. The hint names that owner so a caller that reached
/// this path with a label knows where the resolution belongs, rather than
/// reading "invalid enum" and adding another guess table.
fn menu_label_hint(kind: &str, s: &str) -> String {
    format!(
        "invalid {kind}: '{s}' is not a number; a menu label resolves only \
         against its own field's menu, never here"
    )
}

fn parse_string_to_f64(s: &str) -> Option<f64> {
    // C parity for `epicsParseDouble` → `epicsStrtod`
    // (libcom/src/misc/epicsStdlib.c:347-374):
    //
    //   - Strip whitespace, optional `+`/`-`.
    //   - `"0x"` prefix (case-insensitive) → `strtoll`/`strtoull`
    //     with base 16 (hex literal accepted).
    //   - Otherwise → `strtod` (decimal / scientific). Leading `0`
    //     is **NOT** treated as octal — `strtod("0377")` returns
    //     377.0, not 255.0.
    //
    // PR #678 extends the dbpf path so a string `"0xFF"` lands as
    // 255.0 on a DOUBLE/FLOAT field; the PR does NOT introduce
    // octal handling for floats (`epicsStrtod` never had any).
    // Earlier this fn accepted `"0377"` as octal 255.0 — a real
    // C-divergence that silently changed caput payloads. Removed.
    let trimmed = s.trim();
    let (sign, body) = match trimmed.strip_prefix('-') {
        Some(rest) => (-1.0f64, rest),
        None => (1.0f64, trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    if let Some(hex) = body.strip_prefix("0x").or_else(|| body.strip_prefix("0X")) {
        if let Ok(v) = u64::from_str_radix(hex, 16) {
            return Some(sign * v as f64);
        }
    }
    trimmed.parse::<f64>().ok()
}

#[cfg(test)]
mod parse_radix_tests {
    use super::*;

    /// The scalar rows' edges: a float to its own type is a copy (a
    /// subnormal is not `c_cast`'s MIN_POSITIVE), a u64 widens unsigned to
    /// a float but truncates to an integer, a float takes x86-64's `cvttsd2si`.
    #[test]
    fn scalar_rows_keep_the_source_class() {
        let sub = f32::from_bits(1);
        let v = EpicsValue::Float(sub);
        assert_eq!(v.convert_to(DbFieldType::Float), EpicsValue::Float(sub));
        assert_eq!(
            v.get_convert(DbFieldType::Float).unwrap(),
            EpicsValue::Float(sub)
        );
        let u = EpicsValue::UInt64(u64::MAX);
        assert_eq!(
            u.convert_to(DbFieldType::Double),
            EpicsValue::Double(u64::MAX as f64)
        );
        assert_eq!(u.convert_to(DbFieldType::Long), EpicsValue::Long(-1));
        assert_eq!(
            EpicsValue::Double(3e9).convert_to(DbFieldType::Long),
            EpicsValue::Long(i32::MIN)
        );
        assert_eq!(
            EpicsValue::Long(-200).convert_to(DbFieldType::UInt64),
            EpicsValue::UInt64(0xffffffffffffff38)
        );
        assert_eq!(
            EpicsValue::Char(0xff)
                .get_convert(DbFieldType::Double)
                .unwrap(),
            EpicsValue::Double(-1.0)
        );
        assert_eq!(
            EpicsValue::Short(7).convert_to(DbFieldType::String),
            EpicsValue::String("7".into())
        );
    }

    #[test]
    fn parse_hex_to_long() {
        assert_eq!(
            EpicsValue::parse(DbFieldType::Long, "0xFF").unwrap(),
            EpicsValue::Long(255)
        );
        assert_eq!(
            EpicsValue::parse(DbFieldType::Long, "0X1A").unwrap(),
            EpicsValue::Long(26)
        );
    }

    #[test]
    fn parse_octal_to_long() {
        assert_eq!(
            EpicsValue::parse(DbFieldType::Long, "0377").unwrap(),
            EpicsValue::Long(255)
        );
        assert_eq!(
            EpicsValue::parse(DbFieldType::Long, "010").unwrap(),
            EpicsValue::Long(8)
        );
    }

    #[test]
    fn parse_negative_unsigned_wraps_like_strtoul() {
        // C parity: dbStaticLib.c parses DBF_USHORT/ULONG/UINT64 via
        // epicsParseUInt16/32/64, which use strtoul/strtoull and accept a
        // leading '-', negating in wrapping unsigned arithmetic then casting
        // to the field width. areaDetector NDProcess/NDROI use TEVL="-1" for
        // a DBF_ULONG field to mean 0xFFFFFFFF.
        assert_eq!(
            EpicsValue::parse(DbFieldType::ULong, "-1").unwrap(),
            EpicsValue::ULong(0xFFFF_FFFF)
        );
        assert_eq!(
            EpicsValue::parse(DbFieldType::ULong, "-5").unwrap(),
            EpicsValue::ULong(0xFFFF_FFFB)
        );
        assert_eq!(
            EpicsValue::parse(DbFieldType::UShort, "-1").unwrap(),
            EpicsValue::UShort(0xFFFF)
        );
        assert_eq!(
            EpicsValue::parse(DbFieldType::UInt64, "-1").unwrap(),
            EpicsValue::UInt64(u64::MAX)
        );
        // Sign precedes the radix prefix, and '+' is accepted (strtoul).
        assert_eq!(
            EpicsValue::parse(DbFieldType::ULong, "-0x10").unwrap(),
            EpicsValue::ULong(0xFFFF_FFF0)
        );
        assert_eq!(
            EpicsValue::parse(DbFieldType::ULong, "+255").unwrap(),
            EpicsValue::ULong(255)
        );
        // Positive hex/decimal still parse normally (asyn devInt32.db TEVL="0xa").
        assert_eq!(
            EpicsValue::parse(DbFieldType::ULong, "0xa").unwrap(),
            EpicsValue::ULong(10)
        );
    }

    #[test]
    fn parse_hex_to_double() {
        // PR #678: dbpf to a DOUBLE field with "0xFF" must accept.
        assert_eq!(
            EpicsValue::parse(DbFieldType::Double, "0xFF").unwrap(),
            EpicsValue::Double(255.0)
        );
    }

    #[test]
    fn parse_leading_zero_to_double_is_decimal_not_octal() {
        // C parity: epicsStrtod("0377") -> 377.0 via strtod (decimal
        // with a meaningless leading zero); octal recognition lives
        // only on the int-parse path (strtol base 0). Earlier this
        // test asserted octal 255.0 — a real C-divergence.
        assert_eq!(
            EpicsValue::parse(DbFieldType::Double, "0377").unwrap(),
            EpicsValue::Double(377.0)
        );
    }

    #[test]
    fn parse_hex_to_float_with_sign() {
        assert_eq!(
            EpicsValue::parse(DbFieldType::Float, "-0x10").unwrap(),
            EpicsValue::Float(-16.0)
        );
    }

    #[test]
    fn parse_double_keeps_decimal_format() {
        // The hex/octal extension must not break plain decimals.
        assert_eq!(
            EpicsValue::parse(DbFieldType::Double, "1.5").unwrap(),
            EpicsValue::Double(1.5)
        );
        assert_eq!(
            EpicsValue::parse(DbFieldType::Double, "1e6").unwrap(),
            EpicsValue::Double(1_000_000.0)
        );
    }

    #[test]
    fn a_string_parse_keeps_its_spaces() {
        for text in [" MF", "MF ", "  a b  ", "   "] {
            let want = EpicsValue::String(text.into());
            assert_eq!(
                EpicsValue::parse_bytes(DbFieldType::String, text.as_bytes()).unwrap(),
                want
            );
            assert_eq!(EpicsValue::parse(DbFieldType::String, text).unwrap(), want);
        }
        // A number still ignores the spaces around it.
        assert_eq!(
            EpicsValue::parse_bytes(DbFieldType::Long, b" 7 ").unwrap(),
            EpicsValue::Long(7)
        );
    }

    #[test]
    fn parse_hex_to_short_and_char() {
        assert_eq!(
            EpicsValue::parse(DbFieldType::Short, "0x7F").unwrap(),
            EpicsValue::Short(127)
        );
        assert_eq!(
            EpicsValue::parse(DbFieldType::Char, "0x7F").unwrap(),
            EpicsValue::Char(127)
        );
        // 0xFF is outside `epicsInt8`: refused, where the `as u8` it used to
        // take stored 255. A `.db` body casts instead, as `dbPutStringNum` does.
        assert!(EpicsValue::parse(DbFieldType::Char, "0xFF").is_err());
        assert_eq!(
            EpicsValue::parse_bytes(DbFieldType::Char, b"0xFF").unwrap(),
            EpicsValue::Char(255)
        );
    }

    /// `parse` is the strict `epicsParse*` row: nothing outside the width is
    /// cast into it. `parse_bytes` is a `.db` body, where C's `dbPutStringNum`
    /// parses 64 bits and casts (`field(PHAS,"70000")` is 4464).
    #[test]
    fn parse_refuses_what_the_width_cannot_hold_and_a_db_body_casts_it() {
        for (t, text) in [
            (DbFieldType::Long, "2147483648"),
            (DbFieldType::Long, "-2147483649"),
            (DbFieldType::Long, "9223372036854775807"),
            (DbFieldType::Short, "32768"),
            (DbFieldType::UShort, "65536"),
            (DbFieldType::Enum, "65536"),
            (DbFieldType::UChar, "256"),
            (DbFieldType::Int64, "9223372036854775808"),
            (DbFieldType::UInt64, "18446744073709551616"),
            (DbFieldType::Long, "12abc"),
            (DbFieldType::Long, "1e3"),
        ] {
            assert!(EpicsValue::parse(t, text).is_err(), "{t:?} {text}");
        }
        assert_eq!(
            EpicsValue::parse(DbFieldType::Int64, "9223372036854775807").unwrap(),
            EpicsValue::Int64(i64::MAX)
        );
        assert_eq!(
            EpicsValue::parse(DbFieldType::UInt64, "18446744073709551615").unwrap(),
            EpicsValue::UInt64(u64::MAX)
        );
        assert_eq!(
            EpicsValue::parse_bytes(DbFieldType::Short, b"70000").unwrap(),
            EpicsValue::Short(4464)
        );
    }

    /// No C text: a real is C `%g`, an array lists its elements.
    #[test]
    fn display_truncated_prints_a_real_as_c_percent_g() {
        assert_eq!(EpicsValue::Double(0.1 + 0.2).text_g(), "0.3");
        assert_eq!(EpicsValue::Float(1e20).text_g(), "1e+20");
        assert_eq!(
            EpicsValue::DoubleArray(vec![0.1 + 0.2, 1.5, 2.0].into()).display_truncated(2),
            "[0.3, 1.5, …+1 more]"
        );
    }

    #[test]
    fn char_renders_signed_to_string() {
        // C getCharString sign-extends DBF_CHAR (epicsInt8): 0xFF -> "-1",
        // 0x80 -> "-128". A DBR_STRING GET of a scalar DBF_CHAR routes the
        // value through `convert_to`, so the rendered byte must be signed.
        let dbr_string = |v: EpicsValue| match v.convert_to(DbFieldType::String) {
            EpicsValue::String(s) => s.as_str_lossy().into_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(dbr_string(EpicsValue::Char(0xFF)), "-1");
        assert_eq!(dbr_string(EpicsValue::Char(0x80)), "-128");
        assert_eq!(dbr_string(EpicsValue::Char(0xC8)), "-56");
        assert_eq!(dbr_string(EpicsValue::Char(0x7F)), "127");
        assert_eq!(dbr_string(EpicsValue::Char(0)), "0");
        // The same byte promotes to f64 signed, so the two views agree.
        assert_eq!(EpicsValue::Char(0xFF).to_f64(), Some(-1.0));
    }
}

#[cfg(test)]
mod array_convert_tests {
    use super::*;

    /// a numeric array converted to a different DBR native type
    /// must convert element-by-element, not collapse to one scalar.
    #[test]
    fn double_array_to_short_array() {
        let v = EpicsValue::DoubleArray(vec![1.5, 2.9, -3.1].into());
        assert_eq!(
            v.convert_to(DbFieldType::Short),
            EpicsValue::ShortArray(vec![1, 2, -3].into())
        );
    }

    #[test]
    fn short_array_to_double_array() {
        let v = EpicsValue::ShortArray(vec![10, 20, 30].into());
        assert_eq!(
            v.convert_to(DbFieldType::Double),
            EpicsValue::DoubleArray(vec![10.0, 20.0, 30.0].into())
        );
    }

    #[test]
    fn long_array_to_float_array() {
        let v = EpicsValue::LongArray(vec![-1, 0, 7].into());
        assert_eq!(
            v.convert_to(DbFieldType::Float),
            EpicsValue::FloatArray(vec![-1.0, 0.0, 7.0].into())
        );
    }

    #[test]
    fn double_array_to_int64_array() {
        let v = EpicsValue::DoubleArray(vec![100.0, 200.0].into());
        assert_eq!(
            v.convert_to(DbFieldType::Int64),
            EpicsValue::Int64Array(vec![100, 200].into())
        );
    }

    /// CharArray converts element-wise as signed `epicsInt8`.
    #[test]
    fn char_array_to_short_array_signed() {
        let v = EpicsValue::CharArray(vec![0x01, 0xFF].into()); // 1, -1
        assert_eq!(
            v.convert_to(DbFieldType::Short),
            EpicsValue::ShortArray(vec![1, -1].into())
        );
    }

    /// Empty array stays an empty array of the target type (count
    /// preserved), not a scalar zero.
    #[test]
    fn empty_array_conversion_preserves_emptiness() {
        let v = EpicsValue::DoubleArray(Vec::new().into());
        assert_eq!(
            v.convert_to(DbFieldType::Short),
            EpicsValue::ShortArray(Vec::new().into())
        );
    }

    /// Same-type conversion is an identity clone.
    #[test]
    fn same_type_array_identity() {
        let v = EpicsValue::LongArray(vec![1, 2, 3].into());
        assert_eq!(v.convert_to(DbFieldType::Long), v);
    }

    /// An integer array narrowed to a signed target truncates per element
    /// (pvxs `convertCast`'s `Dest(S[i])`, `sharedarray.cpp:160-166`), it
    /// must not saturate through f64. The native PVA `uint[]` carrier is
    /// `Int64Array`, so a `uint[] {1,2,0xffffffff}` PUT into a
    /// `waveform(FTVL=LONG)` lands as `{1,2,-1}`, not `{1,2,i32::MAX}`.
    #[test]
    fn int64_array_narrows_to_signed_long_by_truncation() {
        let v = EpicsValue::Int64Array(vec![1, 2, 0xffff_ffff].into());
        assert_eq!(
            v.convert_to(DbFieldType::Long),
            EpicsValue::LongArray(vec![1, 2, -1].into())
        );
        // i16 target truncates the same way (pvxs uint32->int16 == -1).
        assert_eq!(
            v.convert_to(DbFieldType::Short),
            EpicsValue::ShortArray(vec![1, 2, -1].into())
        );
        // Float/Double targets keep the value-preserving (unsigned) view.
        assert_eq!(
            EpicsValue::UInt64Array(vec![u64::MAX].into()).convert_to(DbFieldType::Double),
            EpicsValue::DoubleArray(vec![u64::MAX as f64].into())
        );
    }
}

/// Integer-source
/// scalar narrowing must use C/pvxs `static_cast` truncation, never the
/// f64 round-trip's saturation. Values pinned against pvxs
/// `test/testdata.cpp:596-599`.
#[cfg(test)]
mod int_narrow_scalar_tests {
    use super::*;

    /// `DBF_CHAR` is epicsInt8: a double reaches it through C's
    /// `(epicsInt8) d` (`cvt_d_c`), so -1.0 is 0xff (softIoc: printf `%hhd`
    /// of an ai at -1 prints -1, `%c` writes 0xff), not the unsigned clamp's 0.
    #[test]
    fn a_signed_integer_reaches_dbf_uint64_sign_extended() {
        for v in [
            EpicsValue::Long(-200),
            EpicsValue::Short(-200),
            EpicsValue::Int64(-200),
        ] {
            assert_eq!(
                v.convert_to(DbFieldType::UInt64),
                EpicsValue::UInt64(0xffff_ffff_ffff_ff38),
                "{v:?}"
            );
        }
        assert_eq!(
            EpicsValue::Char(0xff).convert_to(DbFieldType::UInt64),
            EpicsValue::UInt64(u64::MAX)
        );
        assert_eq!(
            EpicsValue::UInt64(u64::MAX).convert_to(DbFieldType::Int64),
            EpicsValue::Int64(-1)
        );
        assert_eq!(
            EpicsValue::ULong(u32::MAX).convert_to(DbFieldType::Int64),
            EpicsValue::Int64(u32::MAX as i64)
        );
    }

    #[test]
    fn a_double_reaches_dbf_char_signed() {
        for (d, b) in [
            (-1.0, 0xff),
            (-2.7, 0xfe),
            (65.0, 65),
            (-300.0, 0xd4),
            (300.0, 0x2c),
        ] {
            assert_eq!(
                EpicsValue::Double(d).convert_to(DbFieldType::Char),
                EpicsValue::Char(b),
                "{d}"
            );
        }
        assert_eq!(
            EpicsValue::DoubleArray(vec![-1.0, 300.0].into()).convert_to(DbFieldType::Char),
            EpicsValue::CharArray(vec![0xff, 0x2c].into())
        );
    }

    #[test]
    fn uint_carrier_narrows_to_signed_by_truncation() {
        // uint32 0xffffffff (carried as Int64) -> int32 / int16 == -1.
        assert_eq!(
            EpicsValue::Int64(0xffff_ffff).convert_to(DbFieldType::Long),
            EpicsValue::Long(-1)
        );
        assert_eq!(
            EpicsValue::Int64(0xffff_ffff).convert_to(DbFieldType::Short),
            EpicsValue::Short(-1)
        );
        // uint32 0x80000000 -> int32 == i32::MIN (testdata.cpp:599).
        assert_eq!(
            EpicsValue::Int64(0x8000_0000).convert_to(DbFieldType::Long),
            EpicsValue::Long(i32::MIN)
        );
        // uint16 0xffff -> int32 widens losslessly (testdata.cpp:598).
        assert_eq!(
            EpicsValue::Enum(0xffff).convert_to(DbFieldType::Long),
            EpicsValue::Long(0xffff)
        );
        // DBF_INT64 target stays lossless: the full epicsUInt32 range.
        assert_eq!(
            EpicsValue::Int64(0xffff_ffff).convert_to(DbFieldType::Int64),
            EpicsValue::Int64(0xffff_ffff)
        );
        // Float source keeps the f64 path unchanged (out of this family).
        assert_eq!(
            EpicsValue::Double(99.9).convert_to(DbFieldType::Long),
            EpicsValue::Long(99)
        );
    }
    /// `PUT(epicsFloat64, char)` (`dbConvert.c:1631`) is a signed cast. softIoc
    /// R7.0.10.1, a CHAR waveform with `INP "[-5.5,-1.9,100.7]"` and a scalar
    /// one with `INP "-5.5"`: `fb ff 64` and `fb`. `CycleValue::convert_as`
    /// is the same row (`record_trait` tests).
    #[test]
    fn a_double_narrows_into_char_signed_dbconvert_c_1631() {
        assert_eq!(
            EpicsValue::DoubleArray(vec![-5.5, -1.9, 100.7].into()).convert_to(DbFieldType::Char),
            EpicsValue::CharArray(vec![0xfb, 0xff, 0x64].into())
        );
        assert_eq!(
            EpicsValue::Double(-5.5).convert_to(DbFieldType::Char),
            EpicsValue::Char(0xfb)
        );
    }
}

#[cfg(test)]
mod enum_with_choices_tests {
    use super::*;

    fn carrier(index: u16) -> EpicsValue {
        EpicsValue::EnumWithChoices {
            index,
            choices: vec!["Off".into(), "On".into(), "Reset".into()],
        }
    }

    /// pvxs `pvxs/ioc/pvalink_lset.cpp:330-360`, `case DBR_STRING`: a string target
    /// stores the choice LABEL, not the index. Index 2 → "Reset".
    #[test]
    fn string_target_resolves_to_label() {
        assert_eq!(
            carrier(2).convert_to(DbFieldType::String),
            EpicsValue::String("Reset".into())
        );
    }

    /// Out-of-range index falls back to the decimal index ("%u" in pvxs),
    /// not an empty string or a panic.
    #[test]
    fn string_target_out_of_range_falls_back_to_index() {
        assert_eq!(
            carrier(5).convert_to(DbFieldType::String),
            EpicsValue::String("5".into())
        );
    }

    /// Every NUMERIC target takes the bare index. One case per target type
    /// so a regression in any single width is caught in isolation.
    #[test]
    fn numeric_targets_take_index() {
        assert_eq!(
            carrier(2).convert_to(DbFieldType::Long),
            EpicsValue::Long(2)
        );
        assert_eq!(
            carrier(2).convert_to(DbFieldType::Short),
            EpicsValue::Short(2)
        );
        assert_eq!(
            carrier(2).convert_to(DbFieldType::Char),
            EpicsValue::Char(2)
        );
        assert_eq!(
            carrier(2).convert_to(DbFieldType::Int64),
            EpicsValue::Int64(2)
        );
        assert_eq!(
            carrier(2).convert_to(DbFieldType::UInt64),
            EpicsValue::UInt64(2)
        );
        assert_eq!(
            carrier(2).convert_to(DbFieldType::Float),
            EpicsValue::Float(2.0)
        );
        assert_eq!(
            carrier(2).convert_to(DbFieldType::Double),
            EpicsValue::Double(2.0)
        );
    }

    /// An ENUM target collapses the carrier to a bare `Enum(index)` — it must
    /// NOT short-circuit as an identity clone (both report `db_field_type ==
    /// Enum`), which is why `convert_to` handles the carrier before the
    /// `db_field_type()==target` check.
    #[test]
    fn enum_target_collapses_to_bare_index() {
        assert_eq!(
            carrier(2).convert_to(DbFieldType::Enum),
            EpicsValue::Enum(2)
        );
        assert_eq!(carrier(2).into_type(DbFieldType::Enum), EpicsValue::Enum(2));
    }

    /// `into_type` moves a value already of the target through with its own
    /// buffer, and converts anything else exactly as `convert_to` does.
    #[test]
    fn into_type_moves_a_same_type_value() {
        let s = EpicsValue::String("train".into());
        let EpicsValue::String(ref inner) = s else {
            unreachable!()
        };
        let ptr = inner.as_bytes().as_ptr();
        match s.into_type(DbFieldType::String) {
            EpicsValue::String(out) => assert_eq!(out.as_bytes().as_ptr(), ptr),
            other => panic!("{other:?}"),
        }
        for (v, t) in [
            (EpicsValue::Short(7), DbFieldType::String),
            (EpicsValue::Double(3e9), DbFieldType::Long),
            (EpicsValue::String("12".into()), DbFieldType::Double),
            (
                EpicsValue::DoubleArray(vec![-1.0, 300.0].into()),
                DbFieldType::Char,
            ),
        ] {
            assert_eq!(v.clone().into_type(t), v.convert_to(t), "{v:?} -> {t:?}");
        }
    }

    /// `enum_index_label` is the shared label/fallback helper.
    #[test]
    fn enum_index_label_in_and_out_of_range() {
        let choices: Vec<PvString> = vec!["Off".into(), "On".into()];
        assert_eq!(EpicsValue::enum_index_label(&choices, 1), "On");
        assert_eq!(EpicsValue::enum_index_label(&choices, 9), "9");
    }

    /// An in-range NTEnum choice label with non-UTF-8 bytes must reach
    /// `EpicsValue::String` verbatim — C copies the raw `std::string` choice
    /// with `strncpy(choice.c_str(), …)` (`pvxs/ioc/pvalink_lset.cpp:349`). A lossy
    /// `String`/`as_str_lossy` round-trip would rewrite the `0xFF` byte as the
    /// 3-byte `U+FFFD` replacement before storage. The out-of-range fallback
    /// is ASCII and stays byte-identical.
    #[test]
    fn enum_choice_label_preserves_non_utf8_bytes() {
        let choices = vec![PvString::from_bytes(vec![0xFFu8])];
        // In-range: raw byte preserved, not the 3-byte U+FFFD replacement.
        assert_eq!(
            EpicsValue::enum_index_label(&choices, 0).as_bytes(),
            &[0xFFu8]
        );
        let carrier = EpicsValue::EnumWithChoices {
            index: 0,
            choices: choices.clone(),
        };
        match carrier.convert_to(DbFieldType::String) {
            EpicsValue::String(s) => assert_eq!(s.as_bytes(), &[0xFFu8]),
            other => panic!("expected String, got {other:?}"),
        }
        // Out-of-range: ASCII decimal index.
        assert_eq!(EpicsValue::enum_index_label(&choices, 9).as_bytes(), b"9");
    }

    /// Boundaries of C's `useValque` test, one case per boundary: the widest
    /// scalar that still fits, a `DBF_STRING` field at both ends of its
    /// content range (the declared width is 40 either way, so the content
    /// decides nothing), the heap-carrying enum variant, and an array at its
    /// smallest — a one-element array is still an array field in C
    /// (`dbChannelElements` reads the declared NELM, not the current NORD).
    #[test]
    fn queues_by_value_boundaries() {
        // The union without `DB_EVENT_LOG_STRINGS` is its `epicsFloat64` /
        // `epicsInt64` member, so the widest scalar field still fits exactly.
        assert_eq!(NATIVE_VALUE_BYTES, 8);
        assert!(EpicsValue::Double(1.0).queues_by_value());
        assert!(EpicsValue::Int64(1).queues_by_value());
        assert!(EpicsValue::Char(1).queues_by_value());
        // Both are `DBF_STRING`, whose field is 40 bytes wide however short
        // its contents: C answers FALSE to both.
        assert!(!EpicsValue::String(PvString::from_bytes(vec![b'x'; 1])).queues_by_value());
        assert!(!EpicsValue::String(PvString::from_bytes(vec![b'x'; 41])).queues_by_value());
        assert!(
            !EpicsValue::EnumWithChoices {
                index: 0,
                choices: vec![],
            }
            .queues_by_value()
        );
        assert!(!EpicsValue::DoubleArray(vec![1.0].into()).queues_by_value());
        assert!(!EpicsValue::DoubleArray(vec![].into()).queues_by_value());
        assert!(!EpicsValue::CharArray(vec![0u8; 1].into()).queues_by_value());
    }
}

#[cfg(test)]
mod wire_array_tests {
    use super::*;

    /// Every numeric array variant's wire bytes are the per-element
    /// big-endian bytes of its DBR element (`Int64`/`UInt64`/`ULong`
    /// promote to DBR_DOUBLE, `UShort` to DBR_LONG), and the matching
    /// `from_bytes_array` reads them back.
    #[test]
    fn write_into_emits_big_endian_elements_and_reads_them_back() {
        fn bytes(v: &EpicsValue) -> Vec<u8> {
            let mut out = vec![0xAA; 3];
            v.write_into(&mut out);
            out.split_off(3)
        }
        let cases: Vec<(EpicsValue, Vec<u8>)> = vec![
            (
                EpicsValue::ShortArray(vec![-2, i16::MAX].into()),
                [(-2i16).to_be_bytes(), i16::MAX.to_be_bytes()].concat(),
            ),
            (
                EpicsValue::FloatArray(vec![1.5, -0.0].into()),
                [1.5f32.to_be_bytes(), (-0.0f32).to_be_bytes()].concat(),
            ),
            (
                EpicsValue::EnumArray(vec![7, u16::MAX].into()),
                [7u16.to_be_bytes(), u16::MAX.to_be_bytes()].concat(),
            ),
            (
                EpicsValue::DoubleArray(vec![f64::MIN, 2.5].into()),
                [f64::MIN.to_be_bytes(), 2.5f64.to_be_bytes()].concat(),
            ),
            (
                EpicsValue::LongArray(vec![i32::MIN, 1].into()),
                [i32::MIN.to_be_bytes(), 1i32.to_be_bytes()].concat(),
            ),
            (
                EpicsValue::Int64Array(vec![-3, 1 << 40].into()),
                [(-3f64).to_be_bytes(), ((1i64 << 40) as f64).to_be_bytes()].concat(),
            ),
            (
                EpicsValue::UInt64Array(vec![u64::MAX].into()),
                (u64::MAX as f64).to_be_bytes().to_vec(),
            ),
            (
                EpicsValue::UShortArray(vec![u16::MAX, 0].into()),
                [(u16::MAX as i32).to_be_bytes(), 0i32.to_be_bytes()].concat(),
            ),
            (
                EpicsValue::ULongArray(vec![u32::MAX].into()),
                (u32::MAX as f64).to_be_bytes().to_vec(),
            ),
        ];
        for (value, expected) in cases {
            let wire = bytes(&value);
            assert_eq!(wire, expected, "{value:?}");
            let native = [
                EpicsValue::ShortArray(vec![-2, i16::MAX].into()),
                EpicsValue::FloatArray(vec![1.5, -0.0].into()),
                EpicsValue::EnumArray(vec![7, u16::MAX].into()),
                EpicsValue::DoubleArray(vec![f64::MIN, 2.5].into()),
                EpicsValue::LongArray(vec![i32::MIN, 1].into()),
            ];
            if native.contains(&value) {
                let back =
                    EpicsValue::from_bytes_array(value.dbr_type(), &wire, value.count() as usize)
                        .unwrap();
                assert_eq!(back, value);
            }
        }
        let mut empty = Vec::new();
        EpicsValue::DoubleArray(vec![].into()).write_into(&mut empty);
        assert!(empty.is_empty());
    }

    /// `count` bounds the elements read, a shorter payload bounds them
    /// again, and a trailing partial element is never read.
    #[test]
    fn from_bytes_array_reads_complete_elements_up_to_count() {
        let wire: Vec<u8> = [1.0f64, 2.0, 3.0]
            .iter()
            .flat_map(|v| v.to_be_bytes())
            .collect();
        let read = |data: &[u8], count| match EpicsValue::from_bytes_array(
            DbFieldType::Double,
            data,
            count,
        )
        .unwrap()
        {
            EpicsValue::DoubleArray(a) => a,
            other => panic!("{other:?}"),
        };
        assert_eq!(read(&wire, 3), [1.0, 2.0, 3.0]);
        assert_eq!(read(&wire, 2), [1.0, 2.0]);
        assert_eq!(read(&wire, 5), [1.0, 2.0, 3.0]);
        assert_eq!(read(&wire[..20], 3), [1.0, 2.0]);
        assert_eq!(read(&wire[..7], 2), Vec::<f64>::new());
        let shorts: Vec<u8> = [5i16, 6, 7].iter().flat_map(|v| v.to_be_bytes()).collect();
        assert_eq!(
            EpicsValue::from_bytes_array(DbFieldType::UShort, &shorts[..5], 3).unwrap(),
            EpicsValue::UShortArray(vec![5, 6].into())
        );
    }

    #[test]
    fn array_to_string_renders_each_element_natively() {
        let texts = |v: EpicsValue| match v.convert_to(DbFieldType::String) {
            EpicsValue::StringArray(a) => a
                .iter()
                .map(|s| s.as_str_lossy().into_owned())
                .collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            texts(EpicsValue::Int64Array(
                vec![(1 << 53) + 1, i64::MIN, -2].into()
            )),
            ["9007199254740993", "-9223372036854775808", "-2"]
        );
        assert_eq!(
            texts(EpicsValue::UInt64Array(
                vec![u64::MAX, (1 << 53) + 1].into()
            )),
            ["18446744073709551615", "9007199254740993"]
        );
        assert_eq!(
            texts(EpicsValue::FloatArray(vec![1.25, 0.1, -0.0000003].into())),
            ["1.250000", "0.100000", "-0.000000"]
        );
        assert_eq!(
            texts(EpicsValue::DoubleArray(vec![66.46, 1e300].into())),
            ["66.460000", "1.000000e+300"]
        );
        assert_eq!(
            EpicsValue::Double(1.25).convert_to(DbFieldType::String),
            EpicsValue::String("1.250000".into())
        );
        assert_eq!(
            EpicsValue::Float(0.1).convert_to(DbFieldType::String),
            EpicsValue::String("0.100000".into())
        );
    }
}

/// `Scalar::to_<ty>` against spec §1.2's float → integer table: the C
/// column, read back from softIoc (epics-base 8f5015b66, x86-64).
#[cfg(test)]
mod scalar_row_tests {
    use super::*;
    use DbFieldType as T;

    const NUMERIC: [DbFieldType; 11] = [
        T::Double,
        T::Float,
        T::Char,
        T::UChar,
        T::Short,
        T::UShort,
        T::Enum,
        T::Long,
        T::ULong,
        T::Int64,
        T::UInt64,
    ];

    /// `s` in `target`, through `to_<ty>` alone.
    fn row(s: Scalar, target: DbFieldType) -> EpicsValue {
        match target {
            T::Double => EpicsValue::Double(s.to_f64()),
            T::Float => EpicsValue::Float(s.to_f32()),
            T::Char => EpicsValue::Char(s.to_i8() as u8),
            T::UChar => EpicsValue::UChar(s.to_u8()),
            T::Short => EpicsValue::Short(s.to_i16()),
            T::UShort => EpicsValue::UShort(s.to_u16()),
            T::Enum => EpicsValue::Enum(s.to_u16()),
            T::Long => EpicsValue::Long(s.to_i32()),
            T::ULong => EpicsValue::ULong(s.to_u32()),
            T::Int64 => EpicsValue::Int64(s.to_i64()),
            T::UInt64 => EpicsValue::UInt64(s.to_u64()),
            T::String => unreachable!(),
        }
    }

    const MIN32: i32 = i32::MIN;
    const MIN64: i64 = i64::MIN;
    const TWO63: u64 = 1 << 63;

    /// (source, LONG, ULONG, INT64, UINT64, the saturated value a `≠` cell
    /// replaced, by target, `""` where C and the old policy agreed).
    #[rustfmt::skip]
    const WIDE: [(f64, i32, u32, i64, u64, &str); 12] = [
        (-2.7, -2, 4294967294, -2, 18446744073709551614, "ULONG was 0, UINT64 was 0"),
        (-1.0, -1, 4294967295, -1, u64::MAX, "ULONG was 0, UINT64 was 0"),
        (3e9, MIN32, 3000000000, 3000000000, 3000000000, "LONG was 2147483647"),
        (5e9, MIN32, 705032704, 5000000000, 5000000000, "LONG was 2147483647, ULONG was 4294967295"),
        (3e10, MIN32, 4230196224, 30000000000, 30000000000, "LONG was 2147483647, ULONG was 4294967295"),
        (-3e10, MIN32, 64771072, -30000000000, 18446744043709551616, "ULONG was 0, UINT64 was 0"),
        (1e19, MIN32, 0, MIN64, 10000000000000000000, "LONG was 2147483647, ULONG was 4294967295, INT64 was i64::MAX"),
        (-1e19, MIN32, 0, MIN64, TWO63, "UINT64 was 0"),
        (f64::NAN, MIN32, 0, MIN64, TWO63, "LONG was 0, INT64 was 0, UINT64 was 0"),
        (f64::INFINITY, MIN32, 0, MIN64, 0, "LONG was 2147483647, ULONG was 4294967295, INT64 was i64::MAX, UINT64 was u64::MAX"),
        (f64::NEG_INFINITY, MIN32, 0, MIN64, TWO63, "UINT64 was 0"),
        (1e39, MIN32, 0, MIN64, 0, "LONG was 2147483647, ULONG was 4294967295, INT64 was i64::MAX, UINT64 was u64::MAX"),
    ];

    /// (source, CHAR, UCHAR, SHORT, USHORT = ENUM). Every cell agreed with the
    /// old policy: the 32-bit `cvttsd2si` step's `INT_MIN` cuts to 0.
    #[rustfmt::skip]
    const NARROW: [(f64, i8, u8, i16, u16); 13] = [
        (300.0, 44, 44, 300, 300),
        (-2.7, -2, 254, -2, 65534),
        (-1.0, -1, 255, -1, 65535),
        (3e9, 0, 0, 0, 0),
        (5e9, 0, 0, 0, 0),
        (3e10, 0, 0, 0, 0),
        (-3e10, 0, 0, 0, 0),
        (1e19, 0, 0, 0, 0),
        (-1e19, 0, 0, 0, 0),
        (f64::NAN, 0, 0, 0, 0),
        (f64::INFINITY, 0, 0, 0, 0),
        (f64::NEG_INFINITY, 0, 0, 0, 0),
        (1e39, 0, 0, 0, 0),
    ];

    #[test]
    fn scalar_casts_follow_the_c_cast_policy() {
        for (x, long, ulong, int64, uint64, was) in WIDE {
            let s = Scalar::Float(x);
            assert_eq!(s.to_i32(), long, "{x} -> LONG; {was}");
            assert_eq!(s.to_u32(), ulong, "{x} -> ULONG; {was}");
            assert_eq!(s.to_i64(), int64, "{x} -> INT64; {was}");
            assert_eq!(s.to_u64(), uint64, "{x} -> UINT64; {was}");
        }
        for (x, char, uchar, short, ushort) in NARROW {
            let s = Scalar::Float(x);
            assert_eq!(s.to_i8(), char, "{x} -> CHAR");
            assert_eq!(s.to_u8(), uchar, "{x} -> UCHAR");
            assert_eq!(s.to_i16(), short, "{x} -> SHORT");
            assert_eq!(s.to_u16(), ushort, "{x} -> USHORT / ENUM");
        }
        assert_eq!(Scalar::Float(1e39).to_f32(), f32::MAX, "1e39 -> FLOAT");
        assert_eq!(Scalar::Float(f64::INFINITY).to_f32(), f32::INFINITY);

        // An integer source truncates to the low bits.
        assert_eq!(Scalar::Int(300).to_i8(), 44);
        assert_eq!(Scalar::Int(-1).to_u32(), 0xFFFF_FFFF);
        assert_eq!(Scalar::Int(70000).to_u16(), 4464);
        assert_eq!(Scalar::Int((1 << 40) + 5).to_i32(), 5);
        assert_eq!(row(Scalar::Float(1.9), T::Enum), EpicsValue::Enum(1));
    }

    fn sources() -> Vec<Scalar> {
        let mut s: Vec<Scalar> = WIDE.iter().map(|w| Scalar::Float(w.0)).collect();
        s.extend([300.0, 1.9].map(Scalar::Float));
        s.extend([300, -1, 70000, (1 << 40) + 5, i64::MIN, i64::MAX].map(Scalar::Int));
        s.extend([u64::MAX, TWO63].map(Scalar::U64));
        s.extend([1.5, -2.7, f32::NAN, f32::INFINITY, f32::MAX].map(Scalar::F32));
        s
    }

    /// Debug, so a NaN cell compares equal to itself.
    #[test]
    fn to_field_equals_scalar_row() {
        for s in sources() {
            for t in NUMERIC {
                assert_eq!(
                    format!("{:?}", s.to_field(t).unwrap()),
                    format!("{:?}", row(s, t)),
                    "{s:?} -> {t:?}"
                );
            }
            assert_eq!(s.to_field(T::String), None);
        }
    }
}

#[cfg(test)]
mod release_tests {
    use super::*;
    use std::sync::Arc;

    /// `release` skips the destructor only of a value that owns nothing: an
    /// array's buffer share and an NTEnum carrier's labels are still freed.
    #[test]
    fn release_frees_what_the_value_owns() {
        let buf: Arc<[f64]> = Arc::from(vec![1.0, 2.0]);
        EpicsValue::DoubleArray(Arc::clone(&buf).into()).release();
        assert_eq!(Arc::strong_count(&buf), 1, "array share freed");

        let labels: Arc<[PvString]> = Arc::from(vec![PvString::from("a")]);
        EpicsValue::StringArray(Arc::clone(&labels).into()).release();
        assert_eq!(Arc::strong_count(&labels), 1, "string array share freed");

        EpicsValue::Double(1.0).release();
        EpicsValue::String(PvString::from("s")).release();
    }
}
