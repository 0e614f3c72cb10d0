//! What is made of a text: masked, or rewritten by a regular expression.
//!
//! Invariant: time is linear in the text. The expression has no look-around and no back-references, and
//! its automaton is bounded when it is compiled.

use regex::{Regex, RegexBuilder};

use super::spec::Operations;

/// Bytes of a compiled expression, and of what is remembered while it runs.
const MAX_REGEX_BYTES: usize = 1024 * 1024;

/// Longest expression, and longest replacement.
pub(super) const MAX_PATTERN_BYTES: usize = 4096;

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
    Regex(Box<Regex>, String),
}

impl How {
    /// Compiles an expression. The error tells what is wrong with it, in one line.
    pub(super) fn regex(pattern: &str, replace: &str) -> Result<Self, String> {
        if pattern.len().max(replace.len()) > MAX_PATTERN_BYTES {
            return Err(format!("it is longer than {MAX_PATTERN_BYTES} bytes"));
        }
        let built = RegexBuilder::new(pattern)
            .size_limit(MAX_REGEX_BYTES)
            .dfa_size_limit(MAX_REGEX_BYTES)
            .build();
        match built {
            Ok(regex) => Ok(Self::Regex(Box::new(regex), replace.to_owned())),
            Err(regex::Error::CompiledTooBig(_)) => Err("it is too large when compiled".to_owned()),
            Err(error) => {
                let told = error.to_string();
                let last = told.lines().last().unwrap_or_default();
                Err(last.trim_start_matches("error: ").to_owned())
            }
        }
    }
}

impl Transform {
    /// Appends what becomes of `text` to `out`. False: it is not UTF-8.
    pub(super) fn apply(&self, text: &[u8], out: &mut Vec<u8>) -> bool {
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
            How::Regex(regex, replace) => {
                out.extend_from_slice(regex.replace_all(text, replace.as_str()).as_bytes());
            }
        }
        true
    }
}

/// First and last character stay; one or two are masked whole.
fn mask(text: &str, mask_char: char, out: &mut Vec<u8>) {
    let count = text.chars().count();
    let mut buffer = [0; 4];
    let masked = mask_char.encode_utf8(&mut buffer).as_bytes();
    for (number, character) in text.chars().enumerate() {
        if count > 2 && (number == 0 || number == count - 1) {
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            out.extend_from_slice(masked);
        }
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
        assert!(transform.apply(text.as_bytes(), &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn first_and_last_character_stay_and_short_texts_are_masked_whole() {
        for (text, masked) in [
            ("alice", "a***e"),
            ("äöü", "ä*ü"),
            ("ab", "**"),
            ("a", "*"),
            ("", ""),
        ] {
            assert_eq!(applied(How::Mask('*'), text), masked);
        }
        assert_eq!(applied(How::Mask('█'), "abc"), "a█c");
    }

    #[test]
    fn groups_stand_in_the_replacement_and_every_match_is_replaced() {
        let how = How::regex(r"^(\d{3})(\d{3})(\d{4})$", "($1) $2-$3").unwrap();
        assert_eq!(applied(how, "5551234567"), "(555) 123-4567");
        let how = How::regex(r"(?P<letter>[a-z])\d", "${letter}#").unwrap();
        assert_eq!(applied(how, "a1b2c"), "a#b#c");
    }

    #[test]
    fn an_expression_that_cannot_be_bounded_is_refused_in_one_line() {
        for pattern in [
            "(",
            r"(a)\1",
            "(?=a)",
            "a{1000}{1000}{1000}",
            &"a".repeat(5000),
        ] {
            let refused = How::regex(pattern, "").unwrap_err();
            assert!(!refused.is_empty() && !refused.contains('\n'), "{refused}");
        }
    }
}
