//! A value: the text that its type's output function printed → JSON.
//!
//! A text that is not of the form that its type promises becomes a string as it is: that is what is known.

use super::array::push_array;
use super::composite::push_composite;
use super::form::{Form, Scalar};
use super::text::{is_number, push_string};
use crate::error::Reason;

const NULL: &[u8] = b"null";

/// Appends SQL NULL.
pub(super) fn push_null(out: &mut Vec<u8>) {
    out.extend_from_slice(NULL);
}

/// Appends a column's value.
///
/// # Errors
/// A text that is not UTF-8.
pub(super) fn push_value(out: &mut Vec<u8>, form: &Form, text: &[u8]) -> Result<(), Reason> {
    let start = out.len();
    let is_whole = match form {
        Form::Single(scalar) => return push_scalar(out, *scalar, text),
        Form::Array { element, delimiter } => push_array(out, element, *delimiter, text)?,
        Form::Composite(fields) => push_composite(out, fields, text)?,
    };
    if is_whole {
        return Ok(());
    }
    out.truncate(start);
    push_string(out, text)
}

/// Appends a single value.
fn push_scalar(out: &mut Vec<u8>, scalar: Scalar, text: &[u8]) -> Result<(), Reason> {
    match (scalar, text) {
        (Scalar::Bool, b"t") => out.extend_from_slice(b"true"),
        (Scalar::Bool, b"f") => out.extend_from_slice(b"false"),
        (Scalar::Number, number) if is_number(number) => out.extend_from_slice(number),
        (Scalar::Json, json) => return push_json(out, json),
        (Scalar::Timestamp | Scalar::TimestampTz, moment) => {
            push_moment(out, scalar == Scalar::TimestampTz, moment)?;
        }
        (Scalar::NumberVector, vector) => return push_vector(out, Scalar::Number, vector),
        (Scalar::TextVector, vector) => return push_vector(out, Scalar::Text, vector),
        _ => push_string(out, text)?,
    }
    Ok(())
}

/// Line feeds of a `json` are white space: in its strings they are escaped.
fn push_json(out: &mut Vec<u8>, json: &[u8]) -> Result<(), Reason> {
    std::str::from_utf8(json).map_err(|_| Reason::NotUtf8)?;
    let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let start = out.len();
    out.extend_from_slice(json);
    if json.iter().any(is_break) {
        for byte in out.iter_mut().skip(start).filter(|byte| is_break(byte)) {
            *byte = b' ';
        }
    }
    Ok(())
}

/// `2024-02-29 12:30:00+02` → `"2024-02-29T12:30:00+02:00"`; `infinity` stays as it is.
fn push_moment(out: &mut Vec<u8>, has_zone: bool, moment: &[u8]) -> Result<(), Reason> {
    let Some((date, time)) = halves(moment, b' ') else {
        return push_string(out, moment);
    };
    let (time, era) = match halves(time, b' ') {
        Some((time, era)) => (time, Some(era)),
        None => (time, None),
    };
    let start = out.len();
    for part in [date, b"T", time] {
        out.extend_from_slice(part);
    }
    let zone = time.iter().rposition(|byte| matches!(byte, b'+' | b'-'));
    if has_zone && zone.is_some_and(|at| time.len() - at == "+00".len()) {
        out.extend_from_slice(b":00");
    }
    if let Some(era) = era {
        out.push(b' ');
        out.extend_from_slice(era);
    }
    let text = out.split_off(start);
    push_string(out, &text)
}

fn halves(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let blank = text.iter().position(|byte| *byte == at)?;
    Some((text.get(..blank)?, text.get(blank + 1..)?))
}

fn push_vector(out: &mut Vec<u8>, element: Scalar, vector: &[u8]) -> Result<(), Reason> {
    out.push(b'[');
    let mut is_first = true;
    for text in vector.split(|byte| *byte == b' ').filter(|t| !t.is_empty()) {
        if !std::mem::take(&mut is_first) {
            out.push(b',');
        }
        push_scalar(out, element, text)?;
    }
    out.push(b']');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::form::builtin_form;

    fn json(type_oid: u32, text: &str) -> String {
        let mut out = Vec::new();
        push_value(&mut out, &builtin_form(type_oid), text.as_bytes()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_are_written_as_the_server_wrote_them_and_others_are_strings() {
        assert_eq!(json(1700, "-1.50"), "-1.50");
        assert_eq!(json(701, "1e-05"), "1e-05");
        assert_eq!(json(701, "-Infinity"), "\"-Infinity\"");
        assert_eq!(json(1700, "NaN"), "\"NaN\"");
        assert_eq!(json(26, "7"), "\"7\"");
    }

    #[test]
    fn moments_get_their_t_and_zones_their_minutes() {
        assert_eq!(
            json(1114, "2024-02-29 12:30:00.5"),
            "\"2024-02-29T12:30:00.5\""
        );
        assert_eq!(
            json(1184, "2024-02-29 12:30:00+00"),
            "\"2024-02-29T12:30:00+00:00\""
        );
        assert_eq!(
            json(1184, "2024-02-29 12:30:00-03:30"),
            "\"2024-02-29T12:30:00-03:30\""
        );
        assert_eq!(
            json(1184, "0044-03-15 12:00:00+00 BC"),
            "\"0044-03-15T12:00:00+00:00 BC\""
        );
        assert_eq!(json(1184, "-infinity"), "\"-infinity\"");
        assert_eq!(json(1082, "0044-03-15 BC"), "\"0044-03-15 BC\"");
    }

    #[test]
    fn json_is_embedded_in_one_line() {
        assert_eq!(
            json(114, "{\"a\":\r\n [1.10, null]}"),
            "{\"a\":   [1.10, null]}"
        );
        assert_eq!(json(3802, "\"x\""), "\"x\"");
    }

    #[test]
    fn booleans_and_vectors_have_their_forms() {
        assert_eq!(
            (json(16, "t").as_str(), json(16, "f").as_str()),
            ("true", "false")
        );
        assert_eq!(json(22, "1 2 3"), "[1,2,3]");
        assert_eq!(json(30, "1 2"), "[\"1\",\"2\"]");
        assert_eq!(json(22, ""), "[]");
    }

    #[test]
    fn a_text_of_another_form_than_its_type_promises_stays_text() {
        assert_eq!(json(16, "yes"), "\"yes\"");
        assert_eq!(json(1007, "1,2"), "\"1,2\"");
        assert_eq!(json(1114, "now"), "\"now\"");
    }
}
