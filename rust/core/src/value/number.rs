//! Whole numbers and floats.

use std::cmp::Ordering;

/// A whole number.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_i64, |number, byte| {
        let digit = i64::from(byte.checked_sub(b'0').filter(|digit| *digit <= 9)?);
        let tens = number.checked_mul(10)?;
        // Down from zero: the least number has no opposite.
        if is_negative {
            tens.checked_sub(digit)
        } else {
            tens.checked_add(digit)
        }
    })
}

/// What the type's output function wrote.
pub(super) fn float4(text: &[u8]) -> Option<f32> {
    spelled(std::str::from_utf8(text).ok()?)?.parse().ok()
}

/// What the type's output function wrote.
pub(super) fn float8(text: &[u8]) -> Option<f64> {
    spelled(std::str::from_utf8(text).ok()?)?.parse().ok()
}

/// A constant, which must not be too large or too small for its type.
pub(super) fn float4_constant(text: &str) -> Option<f32> {
    let number: f32 = spelled(text)?.parse().ok()?;
    fits(text, number.is_infinite(), number == 0.0).then_some(number)
}

/// A constant, which must not be too large or too small for its type.
pub(super) fn float8_constant(text: &str) -> Option<f64> {
    let number: f64 = spelled(text)?.parse().ok()?;
    fits(text, number.is_infinite(), number == 0.0).then_some(number)
}

pub(super) fn order_float4(left: f32, right: f32) -> Ordering {
    order_float8(f64::from(left), f64::from(right))
}

/// NaN equals itself and is larger than all others.
pub(super) fn order_float8(left: f64, right: f64) -> Ordering {
    left.partial_cmp(&right)
        .unwrap_or_else(|| left.is_nan().cmp(&right.is_nan()))
}

/// The text, if it is a number as `PostgreSQL` spells it.
fn spelled(text: &str) -> Option<&str> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_word = ["nan", "inf", "infinity"]
        .iter()
        .any(|word| unsigned.eq_ignore_ascii_case(word));
    (is_word || unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.'))
        .then_some(text)
}

/// Whether a number is what the text says: no other digit got lost.
fn fits(text: &str, is_infinite: bool, is_zero: bool) -> bool {
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let is_word = text.contains(['i', 'I']);
    let has_digits = mantissa.contains(|digit: char| ('1'..='9').contains(&digit));
    (is_word || !is_infinite) && !(is_zero && has_digits)
}
