//! Cells as the server reads them in bulk: rows of COPY's text format, elements of an array literal.
//!
//! Both forms go through the input function of the column's type, as the text of a single statement
//! does: what a value means does not depend on the way it takes.

use crate::copy::text::{push_escaped, push_escaped_by};
use crate::pgoutput::Cell;

/// Between two cells of a COPY row.
const COPY_DELIMITER: u8 = b'\t';
/// NULL in a COPY row.
const COPY_NULL: &[u8] = b"\\N";
/// NULL in an array literal; a text that reads like it is quoted.
const ARRAY_NULL: &[u8] = b"NULL";

/// Appends a cell to a COPY row. False for a cell that has no text.
pub(super) fn copy_cell(row: &mut Vec<u8>, cell: Cell<'_>, is_first: bool) -> bool {
    if !is_first {
        row.push(COPY_DELIMITER);
    }
    match cell {
        Cell::Null => row.extend_from_slice(COPY_NULL),
        Cell::Text(text) => push_escaped(row, text),
        Cell::Binary(_) | Cell::Unchanged => return false,
    }
    true
}

/// Ends a COPY row.
pub(super) fn copy_end(row: &mut Vec<u8>) {
    row.push(b'\n');
}

/// An array literal that grows: `{a,"b c",NULL}`.
#[derive(Debug)]
pub(super) struct ArrayText {
    text: Vec<u8>,
    delimiter: u8,
}

impl ArrayText {
    /// An array whose elements are parted as their type wants it (`,` for all but a few).
    pub(super) fn new(delimiter: u8) -> Self {
        Self {
            text: vec![b'{'],
            delimiter,
        }
    }

    /// Appends a cell. False for one that has no text.
    pub(super) fn push(&mut self, cell: Cell<'_>) -> bool {
        if self.text.len() > 1 {
            self.text.push(self.delimiter);
        }
        match cell {
            Cell::Null => self.text.extend_from_slice(ARRAY_NULL),
            Cell::Text(text) if is_plain(text) => self.text.extend_from_slice(text),
            Cell::Text(text) => {
                self.text.push(b'"');
                push_escaped_by(&mut self.text, text, array_escape);
                self.text.push(b'"');
            }
            Cell::Binary(_) | Cell::Unchanged => return false,
        }
        true
    }

    /// The whole literal.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.text.push(b'}');
        self.text
    }
}

/// Numbers and dates go without quotes, which the server reads faster.
fn is_plain(text: &[u8]) -> bool {
    !text.is_empty()
        && text
            .iter()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
}

/// What stands for a byte that would end a quoted element.
const fn array_escape(byte: u8) -> Option<u8> {
    match byte {
        b'\\' | b'"' => Some(byte),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[Cell<'_>]) -> Vec<u8> {
        let mut row = Vec::new();
        for (number, cell) in cells.iter().enumerate() {
            assert!(copy_cell(&mut row, *cell, number == 0));
        }
        copy_end(&mut row);
        row
    }

    #[test]
    fn what_copy_would_take_for_its_own_is_escaped() {
        let cells = [
            Cell::Text(b"a\tb\nc\rd\\e"),
            Cell::Null,
            Cell::Text(b""),
            Cell::Text(b"\\N"),
            Cell::Text(b"\\."),
        ];
        let expected = b"a\\tb\\nc\\rd\\\\e\t\\N\t\t\\\\N\t\\\\.\n";
        assert_eq!(row(&cells), expected);
        assert_eq!(row(&[]), b"\n");
    }

    #[test]
    fn elements_are_quoted_unless_they_are_numbers() {
        let mut array = ArrayText::new(b',');
        for cell in [
            Cell::Text(b"-12.5"),
            Cell::Text(b""),
            Cell::Null,
            Cell::Text(b"NULL"),
            Cell::Text(b"a\"b\\c,{}"),
        ] {
            assert!(array.push(cell));
        }
        assert_eq!(array.finish(), br#"{-12.5,"",NULL,"NULL","a\"b\\c,{}"}"#);
        assert_eq!(ArrayText::new(b';').finish(), b"{}");
    }

    #[test]
    fn cells_without_a_text_are_refused() {
        assert!(!ArrayText::new(b',').push(Cell::Binary(b"a")));
        assert!(!ArrayText::new(b',').push(Cell::Unchanged));
        assert!(!copy_cell(&mut Vec::new(), Cell::Unchanged, true));
    }
}
