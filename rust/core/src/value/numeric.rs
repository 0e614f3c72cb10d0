//! Numerics, compared digit by digit: no precision is lost, and nothing is allocated for a cell.

use std::cmp::Ordering;

/// Longest constant, written out: the type itself holds no more digits.
const MAX_DIGITS: usize = 150_000;

/// A numeric as text says it, without zeros that mean nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numeric<Digits> {
    NegativeInfinity,
    Finite {
        is_negative: bool,
        /// Before the point, without leading zeros.
        whole: Digits,
        /// Behind it, without trailing zeros.
        fraction: Digits,
    },
    Infinity,
    NotANumber,
}

impl<'a> Numeric<&'a [u8]> {
    /// Reads digits with a sign and a point.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        let (is_negative, unsigned) = match text.split_first()? {
            (b'-', rest) => (true, rest),
            (b'+', rest) => (false, rest),
            _ => (false, text),
        };
        let mut point = unsigned.len();
        for (place, byte) in unsigned.iter().enumerate() {
            match byte {
                b'0'..=b'9' => {}
                b'.' if point == unsigned.len() => point = place,
                _ => return Self::word(unsigned, is_negative, unsigned.len() == text.len()),
            }
        }
        let (mut whole, fraction) = unsigned.split_at(point);
        let mut fraction = fraction.get(1..).unwrap_or_default();
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        while let Some((b'0', rest)) = whole.split_first() {
            whole = rest;
        }
        while let Some((b'0', rest)) = fraction.split_last() {
            fraction = rest;
        }
        Some(Self::Finite {
            // There is one zero.
            is_negative: is_negative && !(whole.is_empty() && fraction.is_empty()),
            whole,
            fraction,
        })
    }

    fn word(unsigned: &[u8], is_negative: bool, is_bare: bool) -> Option<Self> {
        if unsigned.eq_ignore_ascii_case(b"nan") && is_bare {
            Some(Self::NotANumber)
        } else if unsigned.eq_ignore_ascii_case(b"infinity")
            || unsigned.eq_ignore_ascii_case(b"inf")
        {
            Some(if is_negative {
                Self::NegativeInfinity
            } else {
                Self::Infinity
            })
        } else {
            None
        }
    }

    /// The same with digits of its own.
    pub(super) fn owned(&self) -> Numeric<Box<[u8]>> {
        match *self {
            Self::NegativeInfinity => Numeric::NegativeInfinity,
            Self::Finite {
                is_negative,
                whole,
                fraction,
            } => Numeric::Finite {
                is_negative,
                whole: whole.into(),
                fraction: fraction.into(),
            },
            Self::Infinity => Numeric::Infinity,
            Self::NotANumber => Numeric::NotANumber,
        }
    }

    /// How it stands to another one, as the server says it.
    pub(super) fn order(&self, other: &Numeric<Box<[u8]>>) -> Ordering {
        let (
            Self::Finite {
                is_negative,
                whole,
                fraction,
            },
            Numeric::Finite {
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
            .then_with(|| (**whole).cmp(other_whole))
            .then_with(|| (**fraction).cmp(other_fraction));
        if *is_negative { size.reverse() } else { size }
    }
}

const fn rank<Digits>(numeric: &Numeric<Digits>) -> u8 {
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
