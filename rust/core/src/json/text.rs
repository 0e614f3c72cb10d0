//! JSON strings and numbers, appended to a buffer.

use crate::error::Reason;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Whether a byte does not stand for itself in a string.
const fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Appends a text as a JSON string.
///
/// # Errors
/// Bytes that are not UTF-8: what a source in `SQL_ASCII` sends is not known to be any text.
pub(super) fn push_string(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Reason> {
    std::str::from_utf8(text).map_err(|_| Reason::NotUtf8)?;
    out.reserve(text.len() + 2);
    out.push(b'"');
    push_escaped(out, text);
    out.push(b'"');
    Ok(())
}

/// Appends a name as a JSON string.
pub(super) fn push_name(out: &mut Vec<u8>, name: &str) {
    out.push(b'"');
    push_escaped(out, name.as_bytes());
    out.push(b'"');
}

/// Appends what stands between the quotes.
pub(super) fn push_escaped(out: &mut Vec<u8>, mut text: &[u8]) {
    while let Some(plain) = text.iter().position(|byte| is_special(*byte)) {
        let (before, rest) = text.split_at_checked(plain).unwrap_or((text, &[]));
        out.extend_from_slice(before);
        let Some((byte, rest)) = rest.split_first() else {
            return;
        };
        push_escape(out, *byte);
        text = rest;
    }
    out.extend_from_slice(text);
}

fn push_escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0C => b'f',
        b'\r' => b'r',
        b'"' | b'\\' => byte,
        _ => {
            let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Appends a number in decimal digits.
pub(super) fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut used = 0;
    for place in digits.iter_mut().rev() {
        *place = b'0' + u8::try_from(number % 10).unwrap_or_default();
        used += 1;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(20 - used..).unwrap_or_default());
}

/// Whether a text is a number as JSON writes them.
pub(super) fn is_number(text: &[u8]) -> bool {
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let whole = digits(unsigned);
    if whole == 0 || (whole > 1 && unsigned.first() == Some(&b'0')) {
        return false;
    }
    let mut rest = unsigned.get(whole..).unwrap_or_default();
    if let Some(fraction) = rest.strip_prefix(b".") {
        let count = digits(fraction);
        if count == 0 {
            return false;
        }
        rest = fraction.get(count..).unwrap_or_default();
    }
    if let Some((b'e' | b'E', exponent)) = rest.split_first() {
        let exponent = match exponent.split_first() {
            Some((b'+' | b'-', digits)) => digits,
            _ => exponent,
        };
        return !exponent.is_empty() && digits(exponent) == exponent.len();
    }
    rest.is_empty()
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_quotes_and_backslashes_are_escaped_and_nothing_else() {
        let mut out = Vec::new();
        push_string(&mut out, "a\"\\/\n\r\t\u{8}\u{c}\u{1}\u{7f}ü🐘".as_bytes()).unwrap();
        let expected = "\"a\\\"\\\\/\\n\\r\\t\\b\\f\\u0001\u{7f}ü🐘\"";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn what_is_not_utf8_is_refused() {
        assert_eq!(push_string(&mut Vec::new(), b"\xFF"), Err(Reason::NotUtf8));
    }

    #[test]
    fn numbers_are_told_from_everything_else() {
        for text in [
            "0",
            "-1.50",
            "1e+100",
            "1E-05",
            "12345678901234567890",
            "0.0",
        ] {
            assert!(is_number(text.as_bytes()), "{text}");
        }
        for text in [
            "", "-", "NaN", "01", "1.", ".5", "1e", "1e+", "+1", "1 ", "Infinity", "0x1",
        ] {
            assert!(!is_number(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn decimals_are_printed_whole() {
        for number in [0, 9, 10, 4_294_967_295, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
