//! What is made of a text: masked, or rewritten by a regular expression.
//!
//! Invariant: time is linear in the text. An expression has no look-around and no back-references, and
//! its automaton is bounded when it is compiled.

use regex::CaptureLocations;

use super::replace::Replace;
use super::spec::Operations;

/// A compiled transformation of one column.
#[derive(Debug)]
pub(super) struct Transform {
    pub(super) how: How,
    pub(super) operations: Operations,
    /// Blanks at the end are no part of the value.
    pub(super) is_padded: bool,
    /// Number of the rule that it was made of.
    pub(super) rule: usize,
}

#[derive(Debug)]
pub(super) enum How {
    Mask(char),
    Regex(Box<Replace>),
}

impl How {
    /// Compiles an expression. The error tells what is wrong with it, in one line.
    pub(super) fn regex(pattern: &str, replace: &str) -> Result<Self, String> {
        Ok(Self::Regex(Box::new(Replace::new(pattern, replace)?)))
    }
}

impl Transform {
    /// Appends what becomes of `text` to `out`. False: it is not UTF-8. `groups` is this transformation's own.
    pub(super) fn apply(
        &self,
        text: &[u8],
        groups: &mut Option<CaptureLocations>,
        out: &mut Vec<u8>,
    ) -> bool {
        let Ok(text) = std::str::from_utf8(text) else {
            return false;
        };
        let text = if self.is_padded {
            text.trim_end_matches(' ')
        } else {
            text
        };
        match &self.how {
            How::Mask(mask_char) => mask(text, *mask_char, out),
            How::Regex(replace) => replace.apply(text, groups, out),
        }
        true
    }
}

/// First and last character stay; one or two are masked whole.
fn mask(text: &str, mask_char: char, out: &mut Vec<u8>) {
    let mut inner = text.chars();
    let ends = (inner.next(), inner.next_back());
    let inner = inner.as_str();
    if let (Some(first), Some(last)) = ends
        && !inner.is_empty()
    {
        out.extend_from_slice(first.encode_utf8(&mut [0; 4]).as_bytes());
        repeat(mask_char, inner.chars().count(), out);
        out.extend_from_slice(last.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        repeat(mask_char, text.chars().count(), out);
    }
}

fn repeat(mask_char: char, count: usize, out: &mut Vec<u8>) {
    let mut buffer = [0; 4];
    match mask_char.encode_utf8(&mut buffer).as_bytes() {
        [byte] => out.resize(out.len() + count, *byte),
        bytes => (0..count).for_each(|_| out.extend_from_slice(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(how: How, text: &str) -> String {
        let transform = Transform {
            how,
            operations: Operations::ALL,
            is_padded: false,
            rule: 0,
        };
        let mut out = Vec::new();
        assert!(transform.apply(text.as_bytes(), &mut None, &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn first_and_last_character_stay_and_short_texts_are_masked_whole() {
        for (text, masked) in [
            ("alice", "a***e"),
            ("äöü", "ä*ü"),
            ("äb", "**"),
            ("ab", "**"),
            ("a", "*"),
            ("", ""),
        ] {
            assert_eq!(applied(How::Mask('*'), text), masked);
        }
        assert_eq!(applied(How::Mask('█'), "abc"), "a█c");
        assert_eq!(applied(How::Mask('█'), "ü"), "█");
    }
}
