//! Values of SQL types in `PostgreSQL`'s text form: constants of rules, compared with cells as the server
//! compares them.
//!
//! Upstream: rules, which name a constant, and cells of the stream and of the copy, written under the
//! settings that sessions pin (ISO dates, UTC). Downstream: filters. Invariants: a constant that parses
//! compares with every text that the type's output function writes; what no such function writes has no
//! order, and is told as such.

mod datetime;
mod number;
mod numeric;
mod text;
mod uuid;

use std::cmp::Ordering;

use self::datetime::{Moment, Zone};
use self::numeric::Numeric;

/// A type that rules can compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `int2`, `int4`, `int8`, `oid`: whole numbers within these bounds.
    Integer(i64, i64),
    /// `numeric`.
    Numeric,
    /// `float4`.
    Float4,
    /// `float8`.
    Float8,
    /// `text`, `varchar`, and enums, which are compared by their labels' text.
    Text,
    /// `char(n)`: blanks at the end mean nothing.
    Padded,
    /// `bool`.
    Bool,
    /// `date`.
    Date,
    /// `time`.
    Time,
    /// `timestamp`.
    Timestamp,
    /// `timestamptz`; what names no zone is UTC.
    TimestampTz,
    /// `uuid`.
    Uuid,
}

impl Type {
    /// The type of an OID that is the same on every server; none if rules cannot compare it.
    #[must_use]
    pub const fn of(oid: u32) -> Option<Self> {
        Some(match oid {
            16 => Self::Bool,
            20 => Self::Integer(i64::MIN, i64::MAX),
            21 => Self::Integer(-32_768, 32_767),
            23 => Self::Integer(-2_147_483_648, 2_147_483_647),
            26 => Self::Integer(0, 4_294_967_295),
            25 | 1043 => Self::Text,
            700 => Self::Float4,
            701 => Self::Float8,
            1042 => Self::Padded,
            1082 => Self::Date,
            1083 => Self::Time,
            1114 => Self::Timestamp,
            1184 => Self::TimestampTz,
            1700 => Self::Numeric,
            2950 => Self::Uuid,
            _ => return None,
        })
    }

    /// Whether a part of its values can be looked for.
    #[must_use]
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Padded)
    }
}

/// A constant of a [`Type`].
#[derive(Debug, Clone, PartialEq)]
pub struct Constant(Kind);

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Integer(i64),
    Numeric(Numeric<Box<[u8]>>),
    Float4(f32),
    Float8(f64),
    Text(Box<[u8]>),
    Padded(Box<[u8]>),
    Bool(bool),
    Date(Moment),
    Time(i64),
    Timestamp(Moment, Zone),
    Uuid([u8; 16]),
}

impl Constant {
    /// Reads a constant as the server's input function would; none if it is no value of the type.
    #[must_use]
    pub fn parse(of: Type, text: &str) -> Option<Self> {
        let plain = text.trim();
        Some(Self(match of {
            Type::Integer(least, most) => {
                let number = number::integer(plain.as_bytes())?;
                (least..=most)
                    .contains(&number)
                    .then_some(Kind::Integer(number))?
            }
            Type::Numeric => Kind::Numeric(Numeric::parse(&numeric::canonical(plain)?)?.owned()),
            Type::Float4 => Kind::Float4(number::float4_constant(plain)?),
            Type::Float8 => Kind::Float8(number::float8_constant(plain)?),
            Type::Text => Kind::Text(text.as_bytes().into()),
            Type::Padded => Kind::Padded(text::without_padding(text.as_bytes()).into()),
            Type::Bool => Kind::Bool(boolean(plain)?),
            Type::Date => Kind::Date(datetime::date(plain.as_bytes())?),
            Type::Time => Kind::Time(datetime::time(plain.as_bytes())?),
            Type::Timestamp => Kind::Timestamp(
                datetime::timestamp(plain.as_bytes(), Zone::Ignored)?,
                Zone::Ignored,
            ),
            Type::TimestampTz => Kind::Timestamp(
                datetime::timestamp(plain.as_bytes(), Zone::Counted)?,
                Zone::Counted,
            ),
            Type::Uuid => Kind::Uuid(uuid::parse(plain.as_bytes())?),
        }))
    }

    /// How a cell's text stands to the constant. None: it is no output of the type.
    #[must_use]
    pub fn compare(&self, cell: &[u8]) -> Option<Ordering> {
        match &self.0 {
            Kind::Integer(constant) => Some(number::integer(cell)?.cmp(constant)),
            Kind::Numeric(constant) => Some(Numeric::parse(cell)?.order(constant)),
            Kind::Float4(constant) => Some(number::order_float4(number::float4(cell)?, *constant)),
            Kind::Float8(constant) => Some(number::order_float8(number::float8(cell)?, *constant)),
            Kind::Text(constant) => Some(cell.cmp(constant)),
            Kind::Padded(constant) => Some(text::without_padding(cell).cmp(constant)),
            Kind::Bool(constant) => match cell {
                b"t" => Some(true.cmp(constant)),
                b"f" => Some(false.cmp(constant)),
                _ => None,
            },
            Kind::Date(constant) => Some(datetime::date(cell)?.cmp(constant)),
            Kind::Time(constant) => Some(datetime::time(cell)?.cmp(constant)),
            Kind::Timestamp(constant, zone) => {
                Some(datetime::timestamp(cell, *zone)?.cmp(constant))
            }
            Kind::Uuid(constant) => Some(uuid::parse(cell)?.cmp(constant)),
        }
    }
}

/// The text in which a part is looked for.
#[must_use]
pub fn searched(of: Type, cell: &[u8]) -> &[u8] {
    if of == Type::Padded {
        text::without_padding(cell)
    } else {
        cell
    }
}

/// What the server takes for a boolean, in full and as YAML writes it.
fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "t" | "true" | "y" | "yes" | "on" | "1" => Some(true),
        "f" | "false" | "n" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(oid: u32, cell: &str, constant: &str) -> Option<Ordering> {
        let of = Type::of(oid).unwrap();
        Constant::parse(of, constant)
            .unwrap()
            .compare(cell.as_bytes())
    }

    fn refused(oid: u32, constants: &[&str]) {
        let of = Type::of(oid).unwrap();
        for constant in constants {
            assert_eq!(Constant::parse(of, constant), None, "{oid}: {constant}");
        }
    }

    #[test]
    fn whole_numbers_are_compared_within_their_type() {
        assert_eq!(order(23, "-5", "18"), Some(Ordering::Less));
        assert_eq!(
            order(20, "9223372036854775807", "9223372036854775806"),
            Some(Ordering::Greater)
        );
        assert_eq!(order(26, "4294967295", "4294967295"), Some(Ordering::Equal));
        assert_eq!(order(23, "", "18"), None);
        refused(21, &["32768", "1.0", "", "1e3", "x"]);
        refused(26, &["-1"]);
    }

    #[test]
    fn numerics_are_compared_exactly() {
        let equal = Some(Ordering::Equal);
        assert_eq!(order(1700, "1.10", "1.1"), equal);
        assert_eq!(order(1700, "-0.00", "0"), equal);
        assert_eq!(order(1700, "1200", "1.2e3"), equal);
        assert_eq!(order(1700, "0.0012", "12e-4"), equal);
        assert_eq!(
            order(
                1700,
                "100000000000000000000000000000000.1",
                "100000000000000000000000000000000.2"
            ),
            Some(Ordering::Less)
        );
        assert_eq!(order(1700, "-10", "-9.99"), Some(Ordering::Less));
        assert_eq!(order(1700, "NaN", "Infinity"), Some(Ordering::Greater));
        assert_eq!(order(1700, "-Infinity", "-1e300"), Some(Ordering::Less));
        assert_eq!(order(1700, "1x", "1"), None);
        refused(1700, &["", ".", "1e", "1e999999999", "0x10", "--1"]);
    }

    #[test]
    fn floats_have_nan_at_the_end_and_one_zero() {
        let (equal, greater) = (Some(Ordering::Equal), Some(Ordering::Greater));
        assert_eq!(order(701, "NaN", "Infinity"), greater);
        assert_eq!(order(701, "NaN", "nan"), equal);
        assert_eq!(order(701, "-0", "0"), equal);
        assert_eq!(order(700, "0.1", "0.1"), equal);
        assert_eq!(order(701, "1e+300", "inf"), Some(Ordering::Less));
        refused(701, &["1e400", "1e-400", "x", ""]);
        refused(700, &["1e40", "1e-60"]);
    }

    #[test]
    fn text_is_compared_by_bytes_and_padding_means_nothing() {
        assert_eq!(order(25, "a ", "a"), Some(Ordering::Greater));
        assert_eq!(order(1042, "a   ", "a"), Some(Ordering::Equal));
        assert_eq!(order(25, "ä", "z"), Some(Ordering::Greater));
        assert_eq!(order(16, "t", "false"), Some(Ordering::Greater));
        assert_eq!(order(16, "x", "false"), None);
    }

    #[test]
    fn moments_are_compared_across_zones_centuries_and_infinity() {
        let (less, equal, greater) = (
            Some(Ordering::Less),
            Some(Ordering::Equal),
            Some(Ordering::Greater),
        );
        assert_eq!(order(1082, "0044-03-15 BC", "0001-01-01"), less);
        assert_eq!(order(1082, "infinity", "294276-12-31"), greater);
        assert_eq!(order(1082, "-infinity", "4713-01-01 BC"), less);
        assert_eq!(
            order(1114, "2024-02-29 23:59:59.5", "2024-02-29T23:59:59.500000"),
            equal
        );
        assert_eq!(
            order(1184, "2024-01-01 00:00:00+00", "2024-01-01 02:00+02"),
            equal
        );
        assert_eq!(order(1184, "2024-01-01 00:00:00+00", "2024-01-01"), equal);
        assert_eq!(
            order(1184, "2024-01-01 00:00:00+00", "2023-12-31T19:30:00-0430"),
            equal
        );
        assert_eq!(
            order(
                1184,
                "2024-01-01 00:00:00.000001+00",
                "2024-01-01T00:00:00Z"
            ),
            greater
        );
        assert_eq!(order(1083, "24:00:00", "23:59:59.999999"), greater);
        refused(
            1082,
            &["2023-02-29", "2024-13-01", "yesterday", "2024-1", ""],
        );
        refused(1083, &["25:00", "12", "12:60"]);
        refused(1114, &["2024-01-01 00:00:00.1234567", "2024-01-01 x"]);
    }

    #[test]
    fn uuids_are_compared_whatever_their_spelling() {
        let low = "0b8bbcd8-98ab-4cf8-9d1c-3d1f7d0a5b11";
        assert_eq!(order(2950, low, &low.to_uppercase()), Some(Ordering::Equal));
        assert_eq!(
            order(2950, low, &format!("{{{}}}", low.replace('-', ""))),
            Some(Ordering::Equal)
        );
        assert_eq!(
            order(2950, low, "ffffffff-ffff-ffff-ffff-ffffffffffff"),
            Some(Ordering::Less)
        );
        refused(
            2950,
            &["", "0b8bbcd8", "zzzzzzzz-ffff-ffff-ffff-ffffffffffff"],
        );
    }
}
