//! COPY rows through a program: the same answers as for an INSERT in the stream.
//!
//! Upstream: parts of a range in COPY's text format, cut wherever that is in a row. Downstream: COPY of each
//! destination. Invariants: rows keep their order; what is not a whole row yet is held back; a program that
//! changes nothing is not asked for, so that its rows pass unparsed.

use std::ops::Range;
use std::sync::Arc;

use memchr::{memchr, memchr_iter};

use super::cells::{NotText, Row, Scratch, Side};
use super::fate::{Fate, Rows, fate};
use super::filter::Unreadable;
use super::program::{Part, Program};
use super::rewrite::Counts;
use crate::apply::Op;
use crate::copy::text::{push_escaped, push_unescaped};
use crate::error::{CoreError, EnvelopeError};
use crate::pgoutput::Cell;

/// Longest row that is held back, in bytes: the server takes none that is longer.
const MAX_ROW_BYTES: usize = 1 << 30;

const NULL: &[u8] = b"\\N";

/// Rows for one destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Piece {
    /// In COPY's text format.
    pub data: Vec<u8>,
    /// How many.
    pub rows: u64,
}

/// See the module.
#[derive(Debug)]
pub struct CopyRewriter {
    program: Arc<Program>,
    /// By column: whether rules look at its values.
    touched: Vec<bool>,
    /// The beginning of a row.
    tail: Vec<u8>,
    fields: Fields,
    scratch: Scratch,
    rows: u64,
    counts: Counts,
}

impl CopyRewriter {
    /// Begins a range. `rules` is the number of rules that are counted.
    #[must_use]
    pub fn new(program: Arc<Program>, rules: usize) -> Self {
        let columns = 0..program.column_names.len();
        Self {
            touched: columns.map(|column| program.touches(column)).collect(),
            scratch: Scratch::of(&program),
            program,
            tail: Vec::new(),
            fields: Fields::default(),
            rows: 0,
            counts: Counts::of(rules),
        }
    }

    /// Takes the next part; gives what each route gets of it.
    ///
    /// # Errors
    /// Rows of another number of columns, or values that are none of their types.
    pub fn feed(&mut self, part: &[u8]) -> Result<Vec<Piece>, CoreError> {
        let mut pieces = vec![Piece::default(); self.program.routes.len()];
        let mut rest = part;
        if !self.tail.is_empty() {
            let Some(end) = memchr(b'\n', rest) else {
                self.hold(rest)?;
                return Ok(pieces);
            };
            let (head, behind) = rest.split_at(end);
            self.hold(head)?;
            let row = std::mem::take(&mut self.tail);
            self.row(&row, &mut pieces)?;
            rest = behind.get(1..).unwrap_or_default();
        }
        while let Some(end) = memchr(b'\n', rest) {
            let (row, behind) = rest.split_at(end);
            self.row(row, &mut pieces)?;
            rest = behind.get(1..).unwrap_or_default();
        }
        self.hold(rest)?;
        Ok(pieces)
    }

    /// Ends the range: rows taken, and what rules did.
    ///
    /// # Errors
    /// The last row is not whole.
    pub fn finish(&mut self) -> Result<(u64, Counts), CoreError> {
        if self.tail.is_empty() {
            Ok((self.rows, self.counts.clone()))
        } else {
            Err(EnvelopeError::Contradiction("the end of a range").into())
        }
    }

    fn hold(&mut self, rest: &[u8]) -> Result<(), CoreError> {
        if self.tail.len() + rest.len() > MAX_ROW_BYTES {
            return Err(EnvelopeError::TooLarge.into());
        }
        self.tail.extend_from_slice(rest);
        Ok(())
    }

    fn row(&mut self, row: &[u8], pieces: &mut [Piece]) -> Result<(), CoreError> {
        self.rows += 1;
        let program: &Program = &self.program;
        self.fields.part(row, &self.touched);
        if self.fields.places.len() != program.column_names.len() {
            return Err(EnvelopeError::Contradiction("the columns of a row").into());
        }
        let parted = Parted {
            row,
            fields: &self.fields,
        };
        let whole = Rows {
            old: None,
            new: &parted,
        };
        let mut passed = false;
        for (routed, piece) in program.routes.iter().zip(pieces) {
            let found = fate(program, routed, Op::Insert, whole);
            match found
                .map_err(|Unreadable { column }| program.refusal(column, "none of its type"))?
            {
                Fate::Dropped(rule) => {
                    if let Some(rule) = rule {
                        self.counts.dropped(rule);
                    }
                    continue;
                }
                Fate::Applied(..) => {}
            }
            piece.rows += 1;
            for (number, part) in routed.parts.iter().enumerate() {
                if number > 0 {
                    piece.data.push(b'\t');
                }
                let column = match part {
                    Part::Kept(columns) => {
                        piece.data.extend_from_slice(parted.raw(columns));
                        continue;
                    }
                    Part::Transformed(column) => *column,
                };
                let counts = (!passed).then_some(&mut self.counts);
                let changed = match parted.cell(column) {
                    Some(Cell::Text(text)) => self
                        .scratch
                        .transformed(program, column, text, Side::New(Op::Insert), counts)
                        .map_err(|NotText { column }| program.refusal(column, "no text"))?,
                    _ => None,
                };
                match changed {
                    Some(text) => push_escaped(&mut piece.data, text),
                    None => piece
                        .data
                        .extend_from_slice(parted.raw(&(column..column + 1))),
                }
            }
            piece.data.push(b'\n');
            passed = true;
        }
        Ok(())
    }
}

/// Where the fields of a row stand; filled again for each.
#[derive(Debug, Default)]
struct Fields {
    places: Vec<(usize, usize)>,
    /// Fields whose escapes matter: number, and where it stands in `plain` without them. Ascending.
    unescaped: Vec<(usize, Range<usize>)>,
    plain: Vec<u8>,
}

impl Fields {
    fn part(&mut self, row: &[u8], touched: &[bool]) {
        self.places.clear();
        self.unescaped.clear();
        self.plain.clear();
        let mut start = 0;
        let tabs = memchr_iter(b'\t', row).chain([row.len()]);
        for (number, end) in tabs.enumerate() {
            if touched.get(number).copied().unwrap_or_default() {
                let field = row.get(start..end).unwrap_or_default();
                if field != NULL && memchr(b'\\', field).is_some() {
                    let begin = self.plain.len();
                    push_unescaped(&mut self.plain, field);
                    self.unescaped.push((number, begin..self.plain.len()));
                }
            }
            self.places.push((start, end));
            start = end + 1;
        }
    }
}

/// A row, taken apart.
struct Parted<'r> {
    row: &'r [u8],
    fields: &'r Fields,
}

impl Parted<'_> {
    /// Neighbouring fields as they stand in the row.
    fn raw(&self, columns: &Range<usize>) -> &[u8] {
        let first = self.fields.places.get(columns.start);
        let last = self.fields.places.get(columns.end.saturating_sub(1));
        let bytes = first
            .zip(last)
            .and_then(|((start, _), (_, end))| self.row.get(*start..*end));
        bytes.unwrap_or_default()
    }
}

impl Row for Parted<'_> {
    /// Only cells that rules look at are without their escapes.
    fn cell(&self, column: usize) -> Option<Cell<'_>> {
        let unescaped = self.fields.unescaped.iter();
        for (number, plain) in unescaped {
            if *number == column {
                return self.fields.plain.get(plain.clone()).map(Cell::Text);
            }
        }
        let (start, end) = *self.fields.places.get(column)?;
        let raw = self.row.get(start..end)?;
        Some(if raw == NULL {
            Cell::Null
        } else {
            Cell::Text(raw)
        })
    }
}
