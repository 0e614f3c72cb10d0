//! Floats and numeric.
//!
//! Invariant: a float's text reads back as the same float, in the notation that the server chooses; a
//! numeric's text is the server's, with every digit of its scale.

use super::cell::push_digits;

/// Digits up to which the server writes a `float8` without an exponent.
const FLOAT8_DIGITS: i32 = 15;
/// The same of a `float4`.
const FLOAT4_DIGITS: i32 = 6;
/// A number below 10 to this power gets an exponent.
const LEAST_FIXED_POWER: i32 = -4;

/// Appends a `float4`.
pub(super) fn push_float4(value: f32, out: &mut Vec<u8>) {
    if !push_special(value.into(), out) {
        push_shortest(&format!("{value:e}"), FLOAT4_DIGITS, out);
    }
}

/// Appends a `float8`.
pub(super) fn push_float8(value: f64, out: &mut Vec<u8>) {
    if !push_special(value, out) {
        push_shortest(&format!("{value:e}"), FLOAT8_DIGITS, out);
    }
}

/// Appends what is no number; false for a number.
fn push_special(value: f64, out: &mut Vec<u8>) -> bool {
    let text: &[u8] = match value {
        _ if value.is_nan() => b"NaN",
        _ if value == f64::INFINITY => b"Infinity",
        _ if value == f64::NEG_INFINITY => b"-Infinity",
        _ => return false,
    };
    out.extend_from_slice(text);
    true
}

/// Appends a number whose shortest digits are given as `-d.ddde-x`.
fn push_shortest(scientific: &str, most_digits: i32, out: &mut Vec<u8>) {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let unsigned = mantissa.strip_prefix('-').unwrap_or(mantissa);
    if unsigned.len() < mantissa.len() {
        out.push(b'-');
    }
    if !(LEAST_FIXED_POWER..most_digits).contains(&exponent) {
        out.extend_from_slice(unsigned.as_bytes());
        out.push(b'e');
        out.push(if exponent < 0 { b'-' } else { b'+' });
        push_digits(exponent.unsigned_abs().into(), 2, out);
        return;
    }
    let digits = unsigned.bytes().filter(|byte| *byte != b'.');
    if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.extend((exponent + 1..0).map(|_| b'0'));
        out.extend(digits);
        return;
    }
    let before = usize::try_from(exponent).unwrap_or_default() + 1;
    let mut count = 0;
    for digit in digits {
        if count == before {
            out.push(b'.');
        }
        out.push(digit);
        count += 1;
    }
    out.extend((count..before).map(|_| b'0'));
}

const NEGATIVE: u16 = 0x4000;
const NOT_A_NUMBER: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;
/// Decimal digits in one digit of a numeric.
const GROUP_DIGITS: i32 = 4;
const GROUP_BASE: u16 = 10_000;
/// Most digits behind the point that the server allows.
const MOST_SCALE: u16 = 0x3FFF;

/// Appends a `numeric`; none if the bytes are none.
pub(super) fn push_numeric(cell: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (head, groups) = cell.split_first_chunk::<8>()?;
    let [count, weight, sign, scale] = [0, 2, 4, 6].map(|at| field(head, at));
    let are_digits = |pair: &[u8]| field(pair, 0) < GROUP_BASE;
    if groups.len() != usize::from(count) * 2 || !groups.chunks(2).all(are_digits) {
        return None;
    }
    if scale > MOST_SCALE {
        return None;
    }
    match sign {
        0 => {}
        NEGATIVE => out.push(b'-'),
        NOT_A_NUMBER | INFINITY | NEGATIVE_INFINITY => {
            let text: &[u8] = match sign {
                INFINITY => b"Infinity",
                NEGATIVE_INFINITY => b"-Infinity",
                _ => b"NaN",
            };
            out.extend_from_slice(text);
            return Some(());
        }
        _ => return None,
    }
    let weight = i32::from(weight.cast_signed());
    let group = |number: i32| -> u64 {
        let at = usize::try_from(number).ok().map(|number| number * 2);
        let found = at.and_then(|at| groups.get(at..at + 2));
        found.map_or(0, |pair| field(pair, 0).into())
    };
    if weight < 0 {
        out.push(b'0');
    }
    for number in 0..=weight {
        let width = if number == 0 { 1 } else { 4 };
        push_digits(group(number), width, out);
    }
    if scale > 0 {
        out.push(b'.');
        let end = out.len() + usize::from(scale);
        let mut number = weight + 1;
        if weight < 0 {
            // Groups between the point and the first one that is stored are zero.
            number = 0;
            let zeros = (-1 - weight).saturating_mul(GROUP_DIGITS);
            let zeros = usize::try_from(zeros).unwrap_or_default().min(scale.into());
            out.extend(std::iter::repeat_n(b'0', zeros));
        }
        while out.len() < end {
            push_digits(group(number), 4, out);
            number += 1;
        }
        out.truncate(end);
    }
    Some(())
}

fn field(bytes: &[u8], at: usize) -> u16 {
    let pair = bytes.get(at..).and_then(|rest| rest.first_chunk::<2>());
    pair.map_or(0, |pair| u16::from_be_bytes(*pair))
}
