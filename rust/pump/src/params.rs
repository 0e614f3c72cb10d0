//! The parameters of one statement in the form libpq wants them: arrays of addresses.
//!
//! Invariant: the addresses point into `text` or into the caller's values and are made anew for every
//! statement, after `text` has its final size.

use std::ffi::{c_char, c_int};

use pgflo_core::apply::Param;

const TEXT_FORMAT: c_int = 0;
const BINARY_FORMAT: c_int = 1;
/// SQLSTATE that the server has for a NUL byte in a text.
const CHARACTER_NOT_IN_REPERTOIRE: &str = "22021";
/// SQLSTATE that the server has for values that are too large.
const PROGRAM_LIMIT_EXCEEDED: &str = "54000";

/// Arrays that are filled again for every statement, so that none is allocated per row.
#[derive(Default)]
pub(crate) struct ParamArrays {
    text: Vec<u8>,
    values: Vec<*const c_char>,
    lengths: Vec<c_int>,
    formats: Vec<c_int>,
}

/// The arrays for one call of `PQsendQueryPrepared`; all have `count` elements.
pub(crate) struct Arrays<'a> {
    pub(crate) count: c_int,
    pub(crate) values: &'a [*const c_char],
    pub(crate) lengths: &'a [c_int],
    pub(crate) formats: &'a [c_int],
    /// Bytes of all values together.
    pub(crate) bytes: usize,
}

impl ParamArrays {
    /// Fills the arrays.
    ///
    /// # Errors
    /// The SQLSTATE of what makes the values unsendable: a text with a NUL byte, which libpq would cut
    /// short and `PostgreSQL` cannot store, or a length beyond what libpq can count.
    pub(crate) fn fill<'a>(
        &'a mut self,
        params: &'a [Param<'a>],
    ) -> Result<Arrays<'a>, &'static str> {
        self.text.clear();
        self.values.clear();
        self.lengths.clear();
        self.formats.clear();
        let mut bytes = 0_usize;
        // libpq measures text with strlen(), so each text value gets a copy with a terminator.
        for param in params {
            if let Param::Text(value) = param {
                if value.contains(&0) {
                    return Err(CHARACTER_NOT_IN_REPERTOIRE);
                }
                self.text.extend_from_slice(value);
                self.text.push(0);
            }
        }
        let mut text = self.text.as_slice();
        for param in params {
            let (address, length, format) = match param {
                Param::Null => (std::ptr::null(), 0, TEXT_FORMAT),
                Param::Text(value) => {
                    let (this, rest) = text
                        .split_at_checked(value.len() + 1)
                        .unwrap_or((text, &[]));
                    text = rest;
                    (this.as_ptr().cast(), value.len(), TEXT_FORMAT)
                }
                // An empty value is not NULL: its address must not be null, and a slice's never is.
                Param::Binary(value) => (value.as_ptr().cast(), value.len(), BINARY_FORMAT),
            };
            bytes += length;
            self.values.push(address);
            self.lengths
                .push(c_int::try_from(length).map_err(|_| PROGRAM_LIMIT_EXCEEDED)?);
            self.formats.push(format);
        }
        Ok(Arrays {
            count: c_int::try_from(params.len()).map_err(|_| PROGRAM_LIMIT_EXCEEDED)?,
            values: &self.values,
            lengths: &self.lengths,
            formats: &self.formats,
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_terminated_and_null_has_no_address() {
        let mut arrays = ParamArrays::default();
        let filled = arrays
            .fill(&[
                Param::Text(b"ab"),
                Param::Null,
                Param::Binary(b""),
                Param::Text(b""),
            ])
            .map(|a| {
                (
                    a.count,
                    a.values.iter().map(|v| v.is_null()).collect::<Vec<_>>(),
                    a.formats.to_vec(),
                )
            });
        assert_eq!(
            filled,
            Ok((4, vec![false, true, false, false], vec![0, 0, 1, 0]))
        );
        assert_eq!(arrays.text, b"ab\0\0");
    }

    #[test]
    fn text_with_a_nul_byte_is_refused() {
        assert!(
            ParamArrays::default()
                .fill(&[Param::Text(b"a\0b")])
                .is_err()
        );
        assert!(
            ParamArrays::default()
                .fill(&[Param::Binary(b"a\0b")])
                .is_ok()
        );
    }
}
