//! Values in COPY's text format: which bytes stand behind a backslash, and by which letter.
//!
//! Used by whoever writes rows (net effects, rules, `binary`) or reads them (rules, JSON lines). Invariant:
//! what one function writes the other reads back; the letters are those that the server writes.

use memchr::memchr;

/// Appends a value, escaped.
pub(crate) fn push_escaped(out: &mut Vec<u8>, text: &[u8]) {
    push_escaped_by(out, text, letter);
}

/// Appends text with a backslash and a letter for each byte that has one; what lies between in one go.
pub(crate) fn push_escaped_by(out: &mut Vec<u8>, text: &[u8], letter: impl Fn(u8) -> Option<u8>) {
    let mut rest = text;
    while let Some(place) = rest.iter().position(|byte| letter(*byte).is_some()) {
        let (before, from) = rest.split_at(place);
        out.extend_from_slice(before);
        let Some((byte, behind)) = from.split_first() else {
            return;
        };
        out.push(b'\\');
        out.extend(letter(*byte));
        rest = behind;
    }
    out.extend_from_slice(rest);
}

/// Appends what an escaped value means. A backslash at the end, which no server writes, is itself.
pub(crate) fn push_unescaped(out: &mut Vec<u8>, field: &[u8]) {
    let mut rest = field;
    while let Some(place) = memchr(b'\\', rest) {
        let (before, from) = rest.split_at(place);
        out.extend_from_slice(before);
        let Some((letter, behind)) = from.get(1..).and_then(<[u8]>::split_first) else {
            rest = from;
            break;
        };
        out.push(meaning(*letter));
        rest = behind;
    }
    out.extend_from_slice(rest);
}

/// What stands for a byte that COPY would take for its own.
const fn letter(byte: u8) -> Option<u8> {
    match byte {
        b'\\' => Some(b'\\'),
        b'\t' => Some(b't'),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        0x08 => Some(b'b'),
        0x0b => Some(b'v'),
        0x0c => Some(b'f'),
        _ => None,
    }
}

const fn meaning(letter: u8) -> u8 {
    match letter {
        b't' => b'\t',
        b'n' => b'\n',
        b'r' => b'\r',
        b'b' => 0x08,
        b'v' => 0x0b,
        b'f' => 0x0c,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_reads_back_as_it_was_written() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        let (mut escaped, mut back) = (Vec::new(), Vec::new());
        push_escaped(&mut escaped, &all);
        assert!(!escaped.contains(&b'\t') && !escaped.contains(&b'\n'));
        push_unescaped(&mut back, &escaped);
        assert_eq!(back, all);
    }

    #[test]
    fn a_backslash_at_the_end_is_itself() {
        let mut back = Vec::new();
        push_unescaped(&mut back, b"a\\");
        assert_eq!(back, b"a\\");
    }
}
