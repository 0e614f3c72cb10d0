//! Rows of COPY's binary format as rows of its text format.
//!
//! Upstream: parts of a range that was copied in binary, cut wherever that is in a row. Downstream: what
//! reads values (rules, JSON lines), and destinations whose column has another type than the source's.
//! | file | owns |
//! |---|---|
//! | `cell` | which types there are, and the text of each |
//! | `calendar` | dates, times and intervals |
//! | `number` | floats and numeric |
//!
//! Invariants: the rows are those that COPY writes in text under the settings that sessions pin, except
//! for floats, which read back as the same number; their order stays; what is not a whole row yet is held
//! back. Bytes that the format does not allow are refused, never guessed.

mod calendar;
mod cell;
mod number;

use self::cell::CellType;
use crate::error::{DecodeError, Reason};
use crate::pgoutput::cursor::Cursor;

/// What a binary COPY starts with, before its flags.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Flags and length of the extension.
const AFTER_SIGNATURE_BYTES: usize = 8;
/// Number of cells that says: no more rows.
const TRAILER: i16 = -1;
/// Length of a cell that says: NULL.
const NULL: i32 = -1;

/// Whether rows of columns of these types can be turned into text.
#[must_use]
pub fn has_text(type_oids: &[u32]) -> bool {
    type_oids.iter().all(|oid| CellType::of(*oid).is_some())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Header,
    Rows,
    Ended,
}

/// See the module. One for each attempt at a range.
#[derive(Debug)]
pub struct BinaryToText {
    types: Vec<CellType>,
    stage: Stage,
    /// The beginning of what is not whole yet: less than the header, or one row.
    held: Vec<u8>,
    /// Bytes taken before `held`.
    taken: usize,
}

impl BinaryToText {
    /// Begins a range whose columns have these types, by OID; none if one of them is not known here.
    #[must_use]
    pub fn new(type_oids: &[u32]) -> Option<Self> {
        let types: Option<Vec<CellType>> = type_oids.iter().map(|oid| CellType::of(*oid)).collect();
        Some(Self {
            types: types?,
            stage: Stage::Header,
            held: Vec::new(),
            taken: 0,
        })
    }

    /// Takes the next part; gives the rows that are whole now. Memory: the part twice, and one row.
    ///
    /// # Errors
    /// Bytes that are no binary COPY of such columns; by their place in the range.
    pub fn feed(&mut self, part: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let joined;
        let bytes = if self.held.is_empty() {
            part
        } else {
            self.held.extend_from_slice(part);
            joined = std::mem::take(&mut self.held);
            &joined
        };
        let mut text = Vec::with_capacity(bytes.len());
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let at = self.taken + done;
            let step = match self.stage {
                Stage::Header => {
                    header(rest).map(|length| length.inspect(|_| self.stage = Stage::Rows))
                }
                Stage::Rows => self.row(rest, &mut text),
                Stage::Ended => Err((0, Reason::TrailingBytes(rest.len()))),
            };
            match step.map_err(|(offset, reason)| DecodeError::outside(at + offset, reason))? {
                Some(length) => done += length,
                None => break,
            }
        }
        self.taken += done;
        self.held = bytes.get(done..).unwrap_or_default().to_vec();
        Ok(text)
    }

    /// Sees that the range ended as a binary COPY does.
    ///
    /// # Errors
    /// It ended earlier.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.stage == Stage::Ended {
            return Ok(());
        }
        let ended = Reason::UnexpectedEnd {
            needed: self.held.len() + 1,
            left: self.held.len(),
        };
        Err(DecodeError::outside(self.taken, ended))
    }

    /// Appends the first row of `rest` if it is whole; tells its length.
    fn row(&mut self, rest: &[u8], text: &mut Vec<u8>) -> Step {
        let begun = text.len();
        let mut cursor = Cursor::new(rest);
        let read = self.cells(&mut cursor, text);
        match read {
            Ok(true) => {
                text.push(b'\n');
                Ok(Some(cursor.offset()))
            }
            Ok(false) => {
                self.stage = Stage::Ended;
                Ok(Some(cursor.offset()))
            }
            Err(Reason::UnexpectedEnd { .. }) => {
                text.truncate(begun);
                Ok(None)
            }
            Err(reason) => Err((cursor.offset(), reason)),
        }
    }

    /// Appends the cells of a row; false for the trailer.
    fn cells(&self, cursor: &mut Cursor<'_>, text: &mut Vec<u8>) -> Result<bool, Reason> {
        let count = cursor.u16()?.cast_signed();
        if count == TRAILER {
            return Ok(false);
        }
        if usize::try_from(count) != Ok(self.types.len()) {
            return Err(Reason::OtherColumns {
                columns: self.types.len(),
                found: usize::try_from(count).unwrap_or_default(),
            });
        }
        for (number, cell_type) in self.types.iter().enumerate() {
            if number > 0 {
                text.push(b'\t');
            }
            let length = cursor.i32()?;
            if length == NULL {
                text.extend_from_slice(b"\\N");
                continue;
            }
            let length = usize::try_from(length).map_err(|_| Reason::NegativeLength(length))?;
            let cell = cursor.take(length)?;
            cell_type.push_text(cell, text).ok_or(Reason::UnknownTag {
                field: "value of a binary cell of type",
                value: cell_type.number(),
            })?;
        }
        Ok(true)
    }
}

/// Length of what was read, nothing if it is not whole; or where it went wrong.
type Step = Result<Option<usize>, (usize, Reason)>;

/// Length of the header that `rest` starts with.
fn header(rest: &[u8]) -> Step {
    let seen = rest.len().min(SIGNATURE.len());
    if rest.get(..seen) != SIGNATURE.get(..seen) {
        return Err((
            0,
            Reason::UnknownTag {
                field: "signature of a binary COPY",
                value: rest.first().copied().unwrap_or_default(),
            },
        ));
    }
    let mut cursor = Cursor::new(rest);
    let read = cursor
        .take(SIGNATURE.len() + AFTER_SIGNATURE_BYTES)
        .map(|whole| whole.split_at(SIGNATURE.len()).1);
    match read {
        // No flag and no extension is in use.
        Ok(after) if after.iter().all(|byte| *byte == 0) => Ok(Some(cursor.offset())),
        Ok(_) => Err((
            SIGNATURE.len(),
            Reason::UnknownTag {
                field: "flags of a binary COPY",
                value: 1,
            },
        )),
        Err(_) => Ok(None),
    }
}
