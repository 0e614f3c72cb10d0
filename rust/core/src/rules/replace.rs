//! A regular expression and what stands in place of its matches.
//!
//! Upstream: `transform`. Invariant: the answers are those of the `regex` crate's `replace_all`; only that
//! the replacement is read once, and that groups are found into a buffer that is used again.

use regex::{CaptureLocations, Regex, RegexBuilder};

/// Bytes of a compiled expression, and of what is remembered while it runs.
const MAX_REGEX_BYTES: usize = 1024 * 1024;

/// Longest expression, and longest replacement.
const MAX_PATTERN_BYTES: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Replace {
    regex: Regex,
    parts: Vec<Part>,
    /// The replacement tells of other groups than the whole match.
    has_groups: bool,
}

/// A part of a replacement.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// What this group matched.
    Group(usize),
}

impl Replace {
    /// Compiles an expression. The error tells what is wrong with it, in one line.
    pub(super) fn new(pattern: &str, replacement: &str) -> Result<Self, String> {
        if pattern.len().max(replacement.len()) > MAX_PATTERN_BYTES {
            return Err(format!("it is longer than {MAX_PATTERN_BYTES} bytes"));
        }
        let built = RegexBuilder::new(pattern)
            .size_limit(MAX_REGEX_BYTES)
            .dfa_size_limit(MAX_REGEX_BYTES)
            .build();
        match built {
            Ok(regex) => {
                let parts = parts(replacement, &regex);
                let tells_group = |part: &Part| matches!(part, Part::Group(1..));
                Ok(Self {
                    has_groups: parts.iter().any(tells_group),
                    parts,
                    regex,
                })
            }
            Err(regex::Error::CompiledTooBig(_)) => Err("it is too large when compiled".to_owned()),
            Err(error) => {
                let told = error.to_string();
                let last = told.lines().last().unwrap_or_default();
                Err(last.trim_start_matches("error: ").to_owned())
            }
        }
    }

    /// Appends `text`, each match replaced. `groups` is kept from one call to the next.
    pub(super) fn apply(
        &self,
        text: &str,
        groups: &mut Option<CaptureLocations>,
        out: &mut Vec<u8>,
    ) {
        let groups = groups.get_or_insert_with(|| self.regex.capture_locations());
        let (mut at, mut done) = (0, 0);
        let mut last_end = None;
        while at <= text.len() {
            let found = if self.has_groups {
                self.regex.captures_read_at(groups, text, at)
            } else {
                self.regex.find_at(text, at)
            };
            let Some(found) = found else { break };
            if found.is_empty() && last_end == Some(found.end()) {
                // Nothing right behind a match is no match: the next character is.
                let next = text.get(at..).and_then(|rest| rest.chars().next());
                at += next.map_or(1, char::len_utf8);
                continue;
            }
            out.extend_from_slice(between(text, done, found.start()));
            for part in &self.parts {
                let (start, end) = match part {
                    Part::Text(text) => {
                        out.extend_from_slice(text.as_bytes());
                        continue;
                    }
                    Part::Group(0) => (found.start(), found.end()),
                    Part::Group(number) => groups.get(*number).unwrap_or_default(),
                };
                out.extend_from_slice(between(text, start, end));
            }
            (at, done) = (found.end(), found.end());
            last_end = Some(found.end());
        }
        out.extend_from_slice(between(text, done, text.len()));
    }
}

fn between(text: &str, start: usize, end: usize) -> &[u8] {
    text.as_bytes().get(start..end).unwrap_or_default()
}

/// Reads a replacement: `$1`, `$name` (as long as letters, digits and `_` go), `${name}`, `$$`. A group that
/// is not there is nothing; any other `$` is itself.
fn parts(replacement: &str, regex: &Regex) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = replacement;
    while let Some((before, behind)) = rest.split_once('$') {
        text.push_str(before);
        rest = behind;
        if let Some(behind) = rest.strip_prefix('$') {
            text.push('$');
            rest = behind;
        } else if let Some((name, behind)) = reference(rest) {
            rest = behind;
            let named = || regex.capture_names().position(|own| own == Some(name));
            let group = name.parse().ok().or_else(named);
            if let Some(group) = group.filter(|number| *number < regex.captures_len()) {
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(Part::Group(group));
            }
        } else {
            text.push('$');
        }
    }
    text.push_str(rest);
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    parts
}

/// The name or number at the start of what stands behind a `$`, and what follows it.
fn reference(behind: &str) -> Option<(&str, &str)> {
    if let Some(braced) = behind.strip_prefix('{') {
        return braced.split_once('}');
    }
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let end = behind.find(|letter| !is_of_name(letter));
    let split = behind.split_at(end.unwrap_or(behind.len()));
    (!split.0.is_empty()).then_some(split)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replaced(pattern: &str, replacement: &str, text: &str) -> String {
        let replace = Replace::new(pattern, replacement).unwrap();
        let (mut groups, mut out) = (None, Vec::new());
        replace.apply(text, &mut groups, &mut out);
        // What one text left in the buffers is nothing to the next.
        let first = std::mem::take(&mut out);
        replace.apply(text, &mut groups, &mut out);
        assert_eq!(out, first);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn groups_stand_in_the_replacement_and_every_match_is_replaced() {
        for (pattern, replacement, text, expected) in [
            (
                r"^(\d{3})(\d{3})(\d{4})$",
                "($1) $2-$3",
                "5551234567",
                "(555) 123-4567",
            ),
            (r"(?P<letter>[a-z])\d", "${letter}#", "a1b2c", "a#b#c"),
            ("b*", "-", "abäb", "-a-ä-"),
            ("x", "$$1", "axa", "a$1a"),
        ] {
            assert_eq!(replaced(pattern, replacement, text), expected);
        }
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
            let refused = Replace::new(pattern, "").unwrap_err();
            assert!(!refused.is_empty() && !refused.contains('\n'), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn what_is_replaced_is_what_the_crate_replaces(
            pattern in r"\^?(\(a\*\)|\((\?P<n>)?[abä.]\)|\(b\|(ä)?\)|a\?|b\*|\\b|.\+\?){1,4}\$?",
            replacement in r"(\$|\$\$|\$[0-9n]|\$\{[0-9nm]?\}|\$\{|\$1_|[a ä}])*",
            text in "[abä \u{1F600}]{0,12}",
        ) {
            let Ok(regex) = Regex::new(&pattern) else { return Ok(()) };
            let expected = regex.replace_all(&text, replacement.as_str());
            prop_assert_eq!(replaced(&pattern, &replacement, &text), expected);
        }
    }
}
