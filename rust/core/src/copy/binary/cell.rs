//! The text of a cell, by the type of its column.
//!
//! Invariant: what is appended is escaped for COPY's text format; a cell that its type's send function
//! does not write has no text.

use super::{calendar, number};
use crate::copy::text::push_escaped;

/// A type whose binary form is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CellType {
    Bool,
    Bytea,
    Int2,
    Int4,
    Int8,
    Oid,
    /// `text` and its like, `json`: the bytes are the text.
    Text,
    Jsonb,
    Float4,
    Float8,
    Numeric,
    Uuid,
    Date,
    Time,
    Timetz,
    Timestamp,
    Timestamptz,
    Interval,
}

/// Version byte that a `jsonb` starts with.
const JSONB_VERSION: u8 = 1;

impl CellType {
    /// The type with this OID, of those that are built in.
    pub(super) const fn of(oid: u32) -> Option<Self> {
        Some(match oid {
            16 => Self::Bool,
            17 => Self::Bytea,
            20 => Self::Int8,
            21 => Self::Int2,
            23 => Self::Int4,
            26 => Self::Oid,
            // name, text, json, bpchar, varchar
            19 | 25 | 114 | 1042 | 1043 => Self::Text,
            700 => Self::Float4,
            701 => Self::Float8,
            1082 => Self::Date,
            1083 => Self::Time,
            1114 => Self::Timestamp,
            1184 => Self::Timestamptz,
            1186 => Self::Interval,
            1266 => Self::Timetz,
            1700 => Self::Numeric,
            2950 => Self::Uuid,
            3802 => Self::Jsonb,
            _ => return None,
        })
    }

    /// A number for messages.
    pub(super) const fn number(self) -> u8 {
        self as u8
    }

    /// Appends the text of `cell`. None, and something of it appended, if it is no value of the type.
    pub(super) fn push_text(self, cell: &[u8], out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Bool => match cell {
                [0] => out.push(b'f'),
                [1] => out.push(b't'),
                _ => return None,
            },
            Self::Bytea => push_bytea(cell, out),
            Self::Int2 => push_int(i16::from_be_bytes(whole(cell)?).into(), out),
            Self::Int4 => push_int(i32::from_be_bytes(whole(cell)?).into(), out),
            Self::Int8 => push_int(i64::from_be_bytes(whole(cell)?), out),
            Self::Oid => push_int(u32::from_be_bytes(whole(cell)?).into(), out),
            Self::Text => push_escaped(out, cell),
            Self::Jsonb => match cell.split_first() {
                Some((&JSONB_VERSION, text)) => push_escaped(out, text),
                _ => return None,
            },
            Self::Float4 => number::push_float4(f32::from_be_bytes(whole(cell)?), out),
            Self::Float8 => number::push_float8(f64::from_be_bytes(whole(cell)?), out),
            Self::Numeric => number::push_numeric(cell, out)?,
            Self::Uuid => push_uuid(whole(cell)?, out),
            Self::Date => calendar::push_date(i32::from_be_bytes(whole(cell)?), out),
            Self::Time => calendar::push_time(i64::from_be_bytes(whole(cell)?), out)?,
            Self::Timetz => {
                let (time, zone) = cell.split_first_chunk::<8>()?;
                let west_s = i32::from_be_bytes(whole(zone)?);
                calendar::push_timetz(i64::from_be_bytes(*time), west_s, out)?;
            }
            Self::Timestamp => calendar::push_timestamp(i64::from_be_bytes(whole(cell)?), b"", out),
            Self::Timestamptz => {
                calendar::push_timestamp(i64::from_be_bytes(whole(cell)?), b"+00", out);
            }
            Self::Interval => {
                let (time, rest) = cell.split_first_chunk::<8>()?;
                let (days, months) = rest.split_first_chunk::<4>()?;
                calendar::push_interval(
                    i64::from_be_bytes(*time),
                    i32::from_be_bytes(*days),
                    i32::from_be_bytes(whole(months)?),
                    out,
                );
            }
        }
        Some(())
    }
}

/// All of `cell`, if it has the length of the type.
fn whole<const N: usize>(cell: &[u8]) -> Option<[u8; N]> {
    cell.try_into().ok()
}

/// Appends a whole number.
pub(super) fn push_int(value: i64, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    push_digits(value.unsigned_abs(), 1, out);
}

/// Appends a number with at least `width` digits.
pub(super) fn push_digits(mut value: u64, width: usize, out: &mut Vec<u8>) {
    let begun = out.len();
    loop {
        let digit = u8::try_from(value % 10).unwrap_or_default();
        out.push(b'0' + digit);
        value /= 10;
        if value == 0 {
            break;
        }
    }
    while out.len() - begun < width {
        out.push(b'0');
    }
    if let Some(digits) = out.get_mut(begun..) {
        digits.reverse();
    }
}

/// Appends `\x` and two hexadecimal digits a byte; the backslash is escaped.
fn push_bytea(cell: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\\\x");
    push_hex(cell, out);
}

fn push_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let digit = |half: u8| DIGITS.get(usize::from(half)).copied().unwrap_or_default();
    for byte in bytes {
        out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
}

fn push_uuid(cell: [u8; 16], out: &mut Vec<u8>) {
    for (number, byte) in cell.iter().enumerate() {
        if matches!(number, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        push_hex(&[*byte], out);
    }
}
