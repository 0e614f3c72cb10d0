//! Where something stands: log sequence numbers and positions.
//!
//! Invariant: only commit LSNs are ordered across transactions, so a change is placed by its
//! transaction's commit LSN and its ordinal inside that transaction.

use std::fmt;
use std::str::FromStr;

/// A byte position in the source's write-ahead log, printed as `PostgreSQL` does (`16/B374D848`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// A text that is not an LSN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an LSN is two hexadecimal numbers of up to 8 digits with a slash between them")]
pub struct NotAnLsn;

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = NotAnLsn;

    fn from_str(text: &str) -> Result<Self, NotAnLsn> {
        let (high, low) = text.split_once('/').ok_or(NotAnLsn)?;
        Ok(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

/// Up to 8 hexadecimal digits; the sign that `from_str_radix` would take is refused.
fn half(digits: &str) -> Result<u32, NotAnLsn> {
    if digits.starts_with('+') {
        return Err(NotAnLsn);
    }
    if digits.len() > 8 {
        return Err(NotAnLsn);
    }
    u32::from_str_radix(digits, 16).map_err(|_| NotAnLsn)
}

/// Where a change stands: the commit LSN of its transaction and its ordinal in there, from 1.
///
/// A finished transaction of n changes stands at `(commit_lsn, n)`, a watermark and the start of a
/// group at `(lsn, 0)`: before every change of a transaction that commits at that very LSN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Start of the transaction's commit record.
    pub commit_lsn: Lsn,
    /// Number of the change in its transaction.
    pub ordinal: u64,
}

impl Position {
    /// The position of change `ordinal` of the transaction that commits at `commit_lsn`.
    #[must_use]
    pub const fn new(commit_lsn: Lsn, ordinal: u64) -> Self {
        Self {
            commit_lsn,
            ordinal,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.commit_lsn, self.ordinal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_reads_back_as_printed() {
        for value in [0, 1, 0xFFFF_FFFF, 0x1_0000_0000, 0x16_B374_D848, u64::MAX] {
            assert_eq!(Lsn(value).to_string().parse(), Ok(Lsn(value)));
        }
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
    }

    #[test]
    fn what_is_not_an_lsn_is_refused() {
        for text in [
            "",
            "/",
            "1/",
            "/1",
            "1",
            "1/2/3",
            "+1/2",
            "1/-2",
            "123456789/0",
            "g/0",
            " 1/2",
            "0x1/2",
        ] {
            assert_eq!(text.parse::<Lsn>(), Err(NotAnLsn), "{text:?}");
        }
    }

    #[test]
    fn positions_order_by_commit_then_by_ordinal() {
        let at = |lsn, ordinal| Position::new(Lsn(lsn), ordinal);
        assert!(at(1, 9) < at(2, 0));
        assert!(at(2, 0) < at(2, 1));
    }
}
