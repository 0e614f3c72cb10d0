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

    /// A tuple that `decode` has seen before: `cells` begins with the first of them.
    pub(crate) const fn again(cell_count: u16, cells: &'a [u8]) -> Self {
        Self { cell_count, cells }
    }

    /// Where its first cell stands in the buffer that it was decoded from.
    pub(crate) fn offset_in(&self, buffer: &[u8]) -> Option<usize> {
        let offset = (self.cells.as_ptr() as usize).checked_sub(buffer.as_ptr() as usize)?;
        (offset <= buffer.len()).then_some(offset)
    }

    /// What begins with its cells, as they were sent; where they end [`Self::places`] tells.
    pub(crate) const fn bytes(&self) -> &'a [u8] {
        self.cells
    }

    /// Appends where each cell begins in [`Self::bytes`], and where the last one ends.
    pub(crate) fn places(&self, places: &mut Vec<usize>) {
        let mut cursor = Cursor::new(self.cells);
        places.reserve(usize::from(self.cell_count) + 1);
        for _ in 0..self.cell_count {
            places.push(cursor.offset());
            // `decode` has walked them all: none is missing.
            if Cell::decode(&mut cursor).is_err() {
                break;
            }
        }
        places.push(cursor.offset());
    }

    /// The cell that begins at one of [`Self::places`].
    pub(crate) fn cell_at(&self, place: usize) -> Option<Cell<'a>> {
        let mut cursor = Cursor::new(self.cells.get(place..)?);
        Cell::decode(&mut cursor).ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<Vec<Cell<'_>>, Reason> {
        let mut cursor = Cursor::new(bytes);
        let tuple = Tuple::decode(&mut cursor)?;
        cursor.finish()?;
        assert_eq!(tuple.cells().count(), usize::from(tuple.cell_count()));
        Ok(tuple.cells().collect())
    }

    #[test]
    fn text_and_binary_are_told_apart_cell_by_cell() {
        let cells = decode(b"\0\x05nut\0\0\0\x02abb\0\0\0\x01ct\0\0\0\0");
        let expected = [
            Cell::Null,
            Cell::Unchanged,
            Cell::Text(b"ab"),
            Cell::Binary(b"c"),
            Cell::Text(b""),
        ];
        assert_eq!(cells, Ok(expected.to_vec()));
    }

    #[test]
    fn cells_are_found_by_their_places() {
        let bytes = b"\0\x03nt\0\0\0\x02abu";
        let mut cursor = Cursor::new(bytes);
        let tuple = Tuple::decode(&mut cursor).unwrap();
        let mut places = Vec::new();
        tuple.places(&mut places);
        assert_eq!(places, [0, 1, 8, 9]);
        let cells: Vec<_> = places
            .iter()
            .filter_map(|place| tuple.cell_at(*place))
            .collect();
        assert_eq!(cells, [Cell::Null, Cell::Text(b"ab"), Cell::Unchanged]);
        assert_eq!(tuple.bytes().get(..9), bytes.get(2..));
    }

    #[test]
    fn counts_and_lengths_that_lie_are_refused() {
        assert_eq!(
            decode(b""),
            Err(Reason::UnexpectedEnd { needed: 2, left: 0 })
        );
        assert_eq!(decode(b"\xFF\xFF"), Err(Reason::NegativeLength(-1)));
        assert_eq!(
            decode(b"\x7F\xFFn"),
            Err(Reason::UnexpectedEnd { needed: 1, left: 0 })
        );
        assert_eq!(
            decode(b"\0\x01t\xFF\xFF\xFF\xFF"),
            Err(Reason::NegativeLength(-1))
        );
        let absurd = usize::try_from(i32::MAX).unwrap();
        let refused = Reason::UnexpectedEnd {
            needed: absurd,
            left: 1,
        };
        assert_eq!(decode(b"\0\x01b\x7F\xFF\xFF\xFFx"), Err(refused));
        assert_eq!(decode(b"\0\0x"), Err(Reason::TrailingBytes(1)));
        let unknown = Reason::UnknownTag {
            field: "cell",
            value: b'x',
        };
        assert_eq!(decode(b"\0\x01x"), Err(unknown));
    }
}
