//! Numerics, compared digit by digit: no precision is lost, and nothing is allocated for a cell.

use std::cmp::Ordering;

/// Longest constant, written out: the type itself holds no more digits.
const MAX_DIGITS: usize = 150_000;

/// A numeric as text says it, without zeros that mean nothing. Its order is the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numeric<'a> {
    NegativeInfinity,
    Finite {
        is_negative: bool,
        /// Before the point, without leading zeros.
        whole: &'a [u8],
        /// Behind it, without trailing zeros.
        fraction: &'a [u8],
    },
    Infinity,
    NotANumber,
}

impl<'a> Numeric<'a> {
    /// Reads digits with a sign and a point.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        let (is_negative, unsigned) = match text.split_first()? {
            (b'-', rest) => (true, rest),
            (b'+', rest) => (false, rest),
            _ => (false, text),
        };
        if unsigned.eq_ignore_ascii_case(b"nan") && unsigned.len() == text.len() {
            return Some(Self::NotANumber);
        }
        if unsigned.eq_ignore_ascii_case(b"infinity") || unsigned.eq_ignore_ascii_case(b"inf") {
            return Some(if is_negative {
                Self::NegativeInfinity
            } else {
                Self::Infinity
            });
        }
        let point = unsigned.iter().position(|byte| *byte == b'.');
        let (whole, fraction) = match point {
            Some(point) => {
                let (whole, rest) = unsigned.split_at(point);
                (whole, rest.get(1..).unwrap_or_default())
            }
            None => (unsigned, &[][..]),
        };
        let is_digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
        if whole.is_empty() && fraction.is_empty() || !is_digits(whole) || !is_digits(fraction) {
            return None;
        }
        let whole_starts = whole.iter().position(|byte| *byte != b'0');
        let whole = whole
            .get(whole_starts.unwrap_or(whole.len())..)
            .unwrap_or_default();
        let fraction_ends = fraction.iter().rposition(|byte| *byte != b'0');
        let fraction = fraction
            .get(..fraction_ends.map_or(0, |last| last + 1))
            .unwrap_or_default();
        Some(Self::Finite {
            // There is one zero.
            is_negative: is_negative && !(whole.is_empty() && fraction.is_empty()),
            whole,
            fraction,
        })
    }
}

impl Ord for Numeric<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let (
            Self::Finite {
                is_negative,
                whole,
                fraction,
            },
            Self::Finite {
                is_negative: is_other_negative,
                whole: other_whole,
                fraction: other_fraction,
            },
        ) = (self, other)
        else {
            return rank(self).cmp(&rank(other));
        };
        if is_negative != is_other_negative {
            return is_other_negative.cmp(is_negative);
        }
        let size = whole
            .len()
            .cmp(&other_whole.len())
            .then_with(|| whole.cmp(other_whole))
            .then_with(|| fraction.cmp(other_fraction));
        if *is_negative { size.reverse() } else { size }
    }
}

impl PartialOrd for Numeric<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

const fn rank(numeric: &Numeric<'_>) -> u8 {
    match numeric {
        Numeric::NegativeInfinity => 0,
        Numeric::Finite { .. } => 1,
        Numeric::Infinity => 2,
        Numeric::NotANumber => 3,
    }
}

/// A constant written out without its exponent; none if it is no numeric.
pub(super) fn canonical(text: &str) -> Option<Vec<u8>> {
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else {
        return Numeric::parse(text.as_bytes()).map(|_| text.as_bytes().to_vec());
    };
    Numeric::parse(mantissa.as_bytes())?;
    let exponent: i32 = exponent.parse().ok()?;
    let places = usize::try_from(exponent.unsigned_abs()).ok()?;
    if places + mantissa.len() > MAX_DIGITS {
        return None;
    }
    let sign = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
    let (whole, fraction) = sign.split_once('.').unwrap_or((sign, ""));
    let mut digits = vec![b'0'; if exponent < 0 { places } else { 0 }];
    digits.extend([whole.as_bytes(), fraction.as_bytes()].concat());
    digits.extend(vec![b'0'; if exponent < 0 { 0 } else { places }]);
    // Moving the point to the left by as many digits as were put in front leaves it where it was.
    let point = whole.len() + if exponent < 0 { 0 } else { places };
    digits.insert(point, b'.');
    if mantissa.starts_with('-') {
        digits.insert(0, b'-');
    }
    Some(digits)
}
