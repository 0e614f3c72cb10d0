//! Composite values as `record_out` prints them: `(1,"a ""b""",)`.
//!
//! A field of which nothing is printed is NULL; quotes stand around what is empty or has special characters,
//! and inside of them quotes and backslashes are doubled.

use memchr::memchr2;

use super::form::Field;
use super::value::{push_null, push_value};
use crate::error::Reason;

/// Appends an object of the fields. False if the text is no such value: what was appended then means nothing.
///
/// # Errors
/// A text that is not UTF-8.
pub(super) fn push_composite(
    out: &mut Vec<u8>,
    fields: &[Field],
    text: &[u8],
) -> Result<bool, Reason> {
    let Some(mut rest) = text.strip_prefix(b"(") else {
        return Ok(false);
    };
    let mut unquoted = Vec::new();
    out.push(b'{');
    for (number, field) in fields.iter().enumerate() {
        if number > 0 {
            let Some(behind) = rest.strip_prefix(b",") else {
                return Ok(false);
            };
            rest = behind;
            out.push(b',');
        }
        out.extend_from_slice(&field.label);
        match rest {
            [b',' | b')', ..] => push_null(out),
            [b'"', quoted @ ..] => {
                let Some(behind) = unquote(quoted, &mut unquoted) else {
                    return Ok(false);
                };
                push_value(out, &field.form, &unquoted)?;
                rest = behind;
            }
            _ => {
                let end = memchr2(b',', b')', rest).unwrap_or_default();
                let Some((plain, behind)) = rest.split_at_checked(end).filter(|_| end > 0) else {
                    return Ok(false);
                };
                push_value(out, &field.form, plain)?;
                rest = behind;
            }
        }
    }
    out.push(b'}');
    Ok(rest == b")")
}

/// Takes what stands up to the closing quote into `unquoted`; gives what stands behind it. None: it is not
/// closed.
fn unquote<'a>(mut quoted: &'a [u8], unquoted: &mut Vec<u8>) -> Option<&'a [u8]> {
    unquoted.clear();
    loop {
        let (plain, special) = quoted.split_at_checked(memchr2(b'"', b'\\', quoted)?)?;
        unquoted.extend_from_slice(plain);
        quoted = match special {
            [b'"', b'"', rest @ ..] => {
                unquoted.push(b'"');
                rest
            }
            [b'\\', byte, rest @ ..] => {
                unquoted.push(*byte);
                rest
            }
            [b'"', rest @ ..] => return Some(rest),
            _ => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::form::{Form, Scalar, TEXT};

    fn object(forms: Vec<Form>, text: &str) -> Option<String> {
        let fields: Vec<Field> = forms
            .into_iter()
            .zip('a'..)
            .map(|(form, name)| Field::new(&name.to_string(), form))
            .collect();
        let mut out = Vec::new();
        let is_whole = push_composite(&mut out, &fields, text.as_bytes()).unwrap();
        is_whole.then(|| String::from_utf8(out).unwrap())
    }

    fn texts(text: &str) -> Option<String> {
        object(vec![TEXT, TEXT], text)
    }

    #[test]
    fn null_is_told_from_empty_and_quotes_are_taken_off() {
        assert_eq!(texts("(,)").as_deref(), Some(r#"{"a":null,"b":null}"#));
        assert_eq!(
            texts(r#"("",NULL)"#).as_deref(),
            Some(r#"{"a":"","b":"NULL"}"#)
        );
        assert_eq!(
            texts(r#"("x,""(y)\\"," ")"#).as_deref(),
            Some(r#"{"a":"x,\"(y)\\","b":" "}"#)
        );
        assert_eq!(object(vec![], "()").as_deref(), Some("{}"));
        assert_eq!(object(vec![TEXT], "()").as_deref(), Some(r#"{"a":null}"#));
    }

    #[test]
    fn fields_have_the_form_of_their_type_and_nest() {
        let number = || Form::Single(Scalar::Number);
        let array = Form::Array {
            element: Box::new(number()),
            delimiter: b',',
        };
        let inner = Form::Composite(Box::new([Field::new("x", TEXT), Field::new("y", array)]));
        assert_eq!(
            object(
                vec![number(), inner],
                r#"(1.50,"(""a """"b"",""{1,NULL}"")")"#
            )
            .as_deref(),
            Some(r#"{"a":1.50,"b":{"x":"a \"b","y":[1,null]}}"#)
        );
    }

    #[test]
    fn what_has_not_as_many_fields_or_does_not_end_is_refused() {
        for text in [
            "",
            "1",
            "(",
            "()",
            "(1)",
            "(1,2",
            "(1,2,3)",
            "(1,2) ",
            "(\"1,2)",
            "(1,\"2\"3)",
            "(1,2)(",
            "(\"1\\",
        ] {
            assert_eq!(texts(text), None, "{text}");
        }
    }
}
