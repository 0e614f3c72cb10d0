//! Arrays as `array_out` prints them: `{1,NULL,"a\"b"}`, `{{1,2},{3,4}}`, `[0:1]={7,8}`.
//!
//! Bounds are not shown: JSON has none, and `to_jsonb` leaves them out.

use super::form::Form;
use super::value::{push_null, push_value};
use crate::error::Reason;

/// What an array literal may have of dimensions; PostgreSQL has six.
const MAX_DEPTH: usize = 6;

/// Appends an array. False if the text is none: what was appended then means nothing.
///
/// # Errors
/// A text that is not UTF-8.
pub(super) fn push_array(
    out: &mut Vec<u8>,
    element: &Form,
    delimiter: u8,
    text: &[u8],
) -> Result<bool, Reason> {
    let mut parser = Parser {
        rest: behind_bounds(text),
        element,
        delimiter,
        scratch: Vec::new(),
    };
    parser.push_all(out)
}

/// Passes `[0:1][-1:0]=`.
fn behind_bounds(text: &[u8]) -> &[u8] {
    if text.first() != Some(&b'[') {
        return text;
    }
    let sign = text.iter().position(|byte| *byte == b'=');
    sign.and_then(|at| text.get(at + 1..)).unwrap_or_default()
}

struct Parser<'a> {
    rest: &'a [u8],
    element: &'a Form,
    delimiter: u8,
    scratch: Vec<u8>,
}

impl Parser<'_> {
    fn push_all(&mut self, out: &mut Vec<u8>) -> Result<bool, Reason> {
        if !self.eat(b'{') {
            return Ok(false);
        }
        out.push(b'[');
        let mut depth = 1;
        // Whether a value, or the end of an empty array, comes next.
        let mut wants_value = true;
        let mut is_empty = true;
        while depth > 0 {
            if self.eat(b'}') {
                if wants_value && !is_empty {
                    return Ok(false);
                }
                out.push(b']');
                depth -= 1;
                (wants_value, is_empty) = (false, false);
            } else if !wants_value {
                if !self.eat(self.delimiter) {
                    return Ok(false);
                }
                out.push(b',');
                wants_value = true;
            } else if self.eat(b'{') {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Ok(false);
                }
                out.push(b'[');
                is_empty = true;
            } else {
                if !self.push_element(out)? {
                    return Ok(false);
                }
                (wants_value, is_empty) = (false, false);
            }
        }
        Ok(self.rest.is_empty())
    }

    fn eat(&mut self, byte: u8) -> bool {
        let rest = self.rest.strip_prefix(&[byte]);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn push_element(&mut self, out: &mut Vec<u8>) -> Result<bool, Reason> {
        if self.eat(b'"') {
            if !self.unquote() {
                return Ok(false);
            }
            push_value(out, self.element, &self.scratch)?;
            return Ok(true);
        }
        let ends = |byte: &u8| *byte == self.delimiter || *byte == b'}';
        let Some(text) = self
            .rest
            .iter()
            .position(ends)
            .and_then(|end| self.rest.get(..end))
        else {
            return Ok(false);
        };
        self.rest = self.rest.get(text.len()..).unwrap_or_default();
        match text {
            b"" => return Ok(false),
            b"NULL" => push_null(out),
            text => push_value(out, self.element, text)?,
        }
        Ok(true)
    }

    /// Takes the rest of a quoted element into `scratch`. False if it does not end.
    fn unquote(&mut self) -> bool {
        self.scratch.clear();
        loop {
            let is_special = |byte: &u8| matches!(byte, b'"' | b'\\');
            let Some(plain) = self.rest.iter().position(is_special) else {
                return false;
            };
            let (before, rest) = self.rest.split_at_checked(plain).unwrap_or_default();
            self.scratch.extend_from_slice(before);
            match rest {
                [b'\\', byte, rest @ ..] => {
                    self.scratch.push(*byte);
                    self.rest = rest;
                }
                [b'"', rest @ ..] => {
                    self.rest = rest;
                    return true;
                }
                _ => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::form::Scalar;

    fn array(element: Scalar, text: &str) -> Option<String> {
        let mut out = Vec::new();
        let element = Form::Single(element);
        let is_array = push_array(&mut out, &element, b',', text.as_bytes()).unwrap();
        is_array.then(|| String::from_utf8(out).unwrap())
    }

    fn texts(text: &str) -> Option<String> {
        array(Scalar::Text, text)
    }

    #[test]
    fn null_is_told_from_its_name_and_quotes_are_taken_off() {
        let expected = r#"[null,"NULL","","a\"b\\","x"]"#;
        assert_eq!(
            texts(r#"{NULL,"NULL","","a\"b\\",x}"#).as_deref(),
            Some(expected)
        );
    }

    #[test]
    fn dimensions_nest_and_bounds_are_left_out() {
        assert_eq!(
            array(Scalar::Number, "{{1,2},{3,4}}").as_deref(),
            Some("[[1,2],[3,4]]")
        );
        assert_eq!(
            array(Scalar::Number, "[0:1][2:2]={{7},{8}}").as_deref(),
            Some("[[7],[8]]")
        );
        assert_eq!(array(Scalar::Number, "{}").as_deref(), Some("[]"));
    }

    #[test]
    fn elements_have_the_form_of_their_type() {
        assert_eq!(
            array(Scalar::Json, r#"{"{\"a\": 1}",2}"#).as_deref(),
            Some(r#"[{"a": 1},2]"#)
        );
        assert_eq!(
            array(Scalar::Timestamp, r#"{"2024-01-01 00:00:00"}"#).as_deref(),
            Some(r#"["2024-01-01T00:00:00"]"#)
        );
        assert_eq!(
            array(Scalar::Bool, "{t,f}").as_deref(),
            Some("[true,false]")
        );
    }

    #[test]
    fn what_is_no_array_is_refused() {
        for text in [
            "",
            "1",
            "{",
            "}",
            "{1",
            "{1,}",
            "{,1}",
            "{1}}",
            "{1} ",
            "{\"a}",
            "{\"a\\",
            "[0:1]",
            "{{1},}",
            "{\"a\"b}",
            "{{{{{{{1}}}}}}}",
            "{1{2}}",
        ] {
            assert_eq!(texts(text), None, "{text}");
        }
    }
}
