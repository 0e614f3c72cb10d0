//! COPY rows through a program: the same answers as for an INSERT in the stream.
//!
//! Upstream: parts of a range in COPY's text format, cut wherever that is in a row. Downstream: COPY of each
//! destination. Invariants: rows keep their order; what is not a whole row yet is held back; a program that
//! changes nothing is not asked for, so that its rows pass unparsed.

use std::sync::Arc;

use memchr::memchr;

use super::cells::{NotText, Scratch, Side};
use super::fate::{Fate, Row, fate};
use super::filter::Unreadable;
use super::program::Program;
use super::rewrite::Counts;
use crate::apply::Op;
use crate::copy::text::{push_escaped, push_unescaped};
use crate::error::{CoreError, EnvelopeError};
use crate::pgoutput::Cell;

/// Longest row that is held back, in bytes: the server takes none that is longer.
const MAX_ROW_BYTES: usize = 1 << 30;

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
            program,
            tail: Vec::new(),
            scratch: Scratch::default(),
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
        let mut work = Work::default();
        if !self.tail.is_empty() {
            let Some(end) = memchr(b'\n', rest) else {
                self.hold(rest)?;
                return Ok(pieces);
            };
            let (head, behind) = rest.split_at(end);
            self.hold(head)?;
            let row = std::mem::take(&mut self.tail);
            self.row(&row, &mut pieces, &mut work)?;
            rest = behind.get(1..).unwrap_or_default();
        }
        while let Some(end) = memchr(b'\n', rest) {
            let (row, behind) = rest.split_at(end);
            self.row(row, &mut pieces, &mut work)?;
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

    fn row(&mut self, row: &[u8], pieces: &mut [Piece], work: &mut Work) -> Result<(), CoreError> {
        self.rows += 1;
        let program = Arc::clone(&self.program);
        work.part(row, &self.touched);
        if work.fields.len() != program.column_names.len() {
            return Err(EnvelopeError::Contradiction("the columns of a row").into());
        }
        let cells: Vec<Cell<'_>> = work.cells(row).collect();
        let whole = Row {
            old: None,
            new: &cells,
        };
        let mut passed = false;
        for (routed, piece) in program.routes.iter().zip(pieces) {
            let found = fate(&program, routed, Op::Insert, whole);
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
            if routed.keeps_cells {
                piece.data.extend_from_slice(row);
                piece.data.push(b'\n');
                continue;
            }
            for (place, (column, _)) in routed.columns.iter().enumerate() {
                if place > 0 {
                    piece.data.push(b'\t');
                }
                let counts = (!passed).then_some(&mut self.counts);
                let changed = match cells.get(*column) {
                    Some(Cell::Text(text)) => self
                        .scratch
                        .transformed(&program, *column, text, Side::New(Op::Insert), counts)
                        .map_err(|NotText { column }| program.refusal(column, "no text"))?,
                    _ => None,
                };
                match changed {
                    Some(text) => push_escaped(&mut piece.data, text),
                    None => piece.data.extend_from_slice(work.raw(row, *column)),
                }
            }
            piece.data.push(b'\n');
            passed = true;
        }
        Ok(())
    }
}

/// One row, taken apart; filled again for each.
#[derive(Default)]
struct Work {
    /// Where the fields stand in the row.
    fields: Vec<(usize, usize)>,
    /// Where a field stands in `plain` without its escapes, if it has any that matter.
    unescaped: Vec<Option<(usize, usize)>>,
    plain: Vec<u8>,
}

impl Work {
    fn part(&mut self, row: &[u8], touched: &[bool]) {
        self.fields.clear();
        self.unescaped.clear();
        self.plain.clear();
        let mut start = 0;
        loop {
            let rest = row.get(start..).unwrap_or_default();
            let length = memchr(b'\t', rest).unwrap_or(rest.len());
            let field = rest.get(..length).unwrap_or_default();
            let is_touched = touched.get(self.fields.len()).copied().unwrap_or_default();
            let is_plain = !is_touched || field == b"\\N" || memchr(b'\\', field).is_none();
            self.unescaped.push((!is_plain).then(|| {
                let begin = self.plain.len();
                push_unescaped(&mut self.plain, field);
                (begin, self.plain.len())
            }));
            self.fields.push((start, start + length));
            if length == rest.len() {
                return;
            }
            start += length + 1;
        }
    }

    fn raw<'r>(&self, row: &'r [u8], column: usize) -> &'r [u8] {
        let (start, end) = self.fields.get(column).copied().unwrap_or_default();
        row.get(start..end).unwrap_or_default()
    }

    fn cells<'w>(&'w self, row: &'w [u8]) -> impl Iterator<Item = Cell<'w>> {
        let fields = self.fields.iter().zip(&self.unescaped);
        fields.map(|((start, end), unescaped)| {
            let raw = row.get(*start..*end).unwrap_or_default();
            match unescaped {
                Some((start, end)) => Cell::Text(self.plain.get(*start..*end).unwrap_or_default()),
                None if raw == b"\\N" => Cell::Null,
                None => Cell::Text(raw),
            }
        })
    }
}
