//! Rows.
//!
//! ```text
//! Tuple: i16 cell_count, then per cell one of
//!        'n' (null), 'u' (unchanged TOAST), 't' i32 length, text; 'b' i32 length, binary
//! ```
//! Which of text and binary it is is decided per cell, not per tuple.
//!
//! In a key tuple the columns outside of the key are `n`, which then does not mean SQL NULL.

use super::cursor::Cursor;
use crate::error::Reason;

/// The cells of a row, walked once and borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    cell_count: u16,
    cells: &'a [u8],
}

/// One column of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell<'a> {
    /// SQL NULL; in a key tuple also: not part of the key.
    Null,
    /// A value kept out of line (TOAST) that the change did not touch: not sent.
    Unchanged,
    /// Output of the type's output function, in UTF-8, without a NUL.
    Text(&'a [u8]),
    /// Output of the type's send function.
    Binary(&'a [u8]),
}

impl<'a> Cell<'a> {
    #[inline]
    fn decode(body: &mut Cursor<'a>) -> Result<Self, Reason> {
        match body.u8()? {
            b'n' => Ok(Self::Null),
            b'u' => Ok(Self::Unchanged),
            b't' => {
                let length = body.length()?;
                body.take(length).map(Self::Text)
            }
            b'b' => {
                let length = body.length()?;
                body.take(length).map(Self::Binary)
            }
            value => Err(Reason::UnknownTag {
                field: "cell",
                value,
            }),
        }
    }
}

impl<'a> Tuple<'a> {
    pub(super) fn decode(body: &mut Cursor<'a>) -> Result<Self, Reason> {
        let cell_count = body.count()?;
        let cells = body.rest();
        for _ in 0..cell_count {
            Cell::decode(body)?;
        }
        Ok(Self { cell_count, cells })
    }

    /// How many cells it has.
    #[must_use]
    pub const fn cell_count(&self) -> u16 {
        self.cell_count
    }

    /// The cells in the relation's column order. O(cells): keep them if they are needed by number.
    pub fn cells(&self) -> impl Iterator<Item = Cell<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.cells);
        // `decode` has walked them all: none is missing.
        (0..self.cell_count).map_while(move |_| Cell::decode(&mut cursor).ok())
    }
}
