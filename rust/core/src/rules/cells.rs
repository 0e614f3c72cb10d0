//! Cells of a row: found by number on their way in, transformed and mapped on their way out.
//!
//! Upstream: `rewrite`, `copy` and `trial`, which know the fate of a row. Downstream: tuples and COPY rows.
//! Invariant: what no rule changes is copied as it stands, neighbours together.

use std::ops::Range;

use regex::CaptureLocations;

use super::program::{Part, Program, Routed};
use super::rewrite::Counts;
use super::transform::Transform;
use crate::apply::Op;
use crate::pgoutput::{Cell, Tuple};

/// Where a row's cells are found by number.
pub(super) trait Row {
    /// A cell; none where the row does not tell it.
    fn cell(&self, column: usize) -> Option<Cell<'_>>;
}

impl Row for [Cell<'_>] {
    fn cell(&self, column: usize) -> Option<Cell<'_>> {
        self.get(column).copied()
    }
}

/// The cells of a tuple and where each of them stands. Filled again for every tuple.
#[derive(Debug, Default)]
pub(super) struct Cells<'a> {
    tuple: Option<Tuple<'a>>,
    /// Where each cell begins, and where the last one ends.
    places: Vec<usize>,
}

impl<'a> Cells<'a> {
    /// Takes another tuple; none has no cells.
    pub(super) fn fill(&mut self, tuple: Option<Tuple<'a>>) {
        self.places.clear();
        self.tuple = tuple;
        if let Some(tuple) = tuple {
            tuple.places(&mut self.places);
        }
    }

    /// Cells as they stand in the tuple.
    fn raw(&self, columns: &Range<usize>) -> &'a [u8] {
        let start = self.places.get(columns.start);
        let bytes = start
            .zip(self.places.get(columns.end))
            .and_then(|(start, end)| self.tuple?.bytes().get(*start..*end));
        bytes.unwrap_or_default()
    }
}

impl Row for Cells<'_> {
    fn cell(&self, column: usize) -> Option<Cell<'_>> {
        self.tuple?.cell_at(*self.places.get(column)?)
    }
}

/// Buffers that are filled again for every cell. They belong to one program.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    now: Vec<u8>,
    next: Vec<u8>,
    /// For each transformation of a column, in their order: what its expression found.
    groups: Vec<Vec<Option<CaptureLocations>>>,
}

/// A buffer that one value has grown beyond this is not kept: a program lives as long as its relation.
const KEPT_BYTES: usize = 1024 * 1024;

/// Whose values a tuple holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The row behind the change, made by this operation.
    New(Op),
    /// The row before it, as the destination has it: everything that may be transformed is.
    Old,
}

/// Which cells of a tuple go.
#[derive(Clone, Copy)]
pub(super) enum Which<'t, 'a> {
    All,
    /// Those that were not sent are taken from here.
    Or(&'t Cells<'a>),
    /// Those of the key; NULL stands for the others.
    Key(&'t [bool]),
}

/// A text that a transformation cannot take.
#[derive(Debug, Clone, Copy)]
pub(super) struct NotText {
    pub(super) column: usize,
}

impl Scratch {
    /// Buffers for a program's cells.
    pub(super) fn of(program: &Program) -> Self {
        let transforms = program.transforms.iter();
        Self {
            groups: transforms.map(|all| vec![None; all.len()]).collect(),
            ..Self::default()
        }
    }

    /// The text that the destination gets for a cell's; none if no rule changes it.
    pub(super) fn transformed(
        &mut self,
        program: &Program,
        column: usize,
        text: &[u8],
        side: Side,
        counts: Option<&mut Counts>,
    ) -> Result<Option<&[u8]>, NotText> {
        let mut made = std::mem::take(&mut self.now);
        made.clear();
        let is_changed = self.transform(&mut made, program, column, text, side, counts);
        self.now = made;
        Ok(is_changed?.then_some(self.now.as_slice()))
    }

    /// Appends the text that the destination gets for a cell's. False: no rule changes it.
    fn transform(
        &mut self,
        out: &mut Vec<u8>,
        program: &Program,
        column: usize,
        text: &[u8],
        side: Side,
        mut counts: Option<&mut Counts>,
    ) -> Result<bool, NotText> {
        let transforms = program.transforms.get(column);
        let groups = self.groups.get_mut(column);
        let (Some(transforms), Some(groups)) = (transforms, groups) else {
            return Ok(false);
        };
        let is_concerned = |(transform, _): &(&Transform, _)| match side {
            Side::New(op) => transform.operations.has(op),
            Side::Old => true,
        };
        let start = out.len();
        let mut is_changed = false;
        for (transform, groups) in transforms.iter().zip(groups).filter(is_concerned) {
            let before = if is_changed {
                // Another one has written already: what it wrote is the text.
                self.next.clear();
                self.next
                    .extend_from_slice(out.get(start..).unwrap_or_default());
                out.truncate(start);
                self.next.as_slice()
            } else {
                text
            };
            if !transform.apply(before, groups, out) {
                return Err(NotText { column });
            }
            is_changed = true;
            if let Some(counts) = counts.as_deref_mut()
                && out.get(start..) != Some(before)
            {
                counts.changed(transform.rule);
            }
        }
        if self.next.capacity() > KEPT_BYTES {
            self.next = Vec::new();
        }
        Ok(is_changed)
    }

    /// Appends a tuple's cells as a destination's columns want them.
    pub(super) fn tuple(
        &mut self,
        out: &mut Vec<u8>,
        (program, routed): (&Program, &Routed),
        (cells, which): (&Cells<'_>, Which<'_, '_>),
        side: Side,
        mut counts: Option<&mut Counts>,
    ) -> Result<(), NotText> {
        // Not more than the source's, which fitted.
        let count = u16::try_from(routed.columns.len()).unwrap_or_default();
        out.extend_from_slice(&count.to_be_bytes());
        for part in &routed.parts {
            match (part, which) {
                (Part::Kept(columns), Which::All) => out.extend_from_slice(cells.raw(columns)),
                (Part::Kept(columns), _) => {
                    for column in columns.clone() {
                        match chosen(cells, which, column) {
                            Some(from) => out.extend_from_slice(from.raw(&(column..column + 1))),
                            None => out.push(b'n'),
                        }
                    }
                }
                (Part::Transformed(column), _) => {
                    let cell = chosen(cells, which, *column).and_then(|from| from.cell(*column));
                    self.cell(out, program, *column, cell, side, counts.as_deref_mut())?;
                }
            }
        }
        Ok(())
    }

    fn cell(
        &mut self,
        out: &mut Vec<u8>,
        program: &Program,
        column: usize,
        cell: Option<Cell<'_>>,
        side: Side,
        counts: Option<&mut Counts>,
    ) -> Result<(), NotText> {
        let text = match cell {
            None | Some(Cell::Null) => {
                out.push(b'n');
                return Ok(());
            }
            Some(Cell::Unchanged) => {
                out.push(b'u');
                return Ok(());
            }
            Some(Cell::Binary(_)) => return Err(NotText { column }),
            Some(Cell::Text(text)) => text,
        };
        out.extend_from_slice(b"t\0\0\0\0");
        let start = out.len();
        if !self.transform(out, program, column, text, side, counts)? {
            out.extend_from_slice(text);
        }
        // A message that has grown too long is refused as a whole.
        let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
        if let Some(place) = out.get_mut(start - 4..start) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }
}

/// Where a column's cell is taken from; none: it is NULL.
fn chosen<'t, 'a>(
    cells: &'t Cells<'a>,
    which: Which<'t, 'a>,
    column: usize,
) -> Option<&'t Cells<'a>> {
    match which {
        Which::Or(instead) if cells.cell(column) == Some(Cell::Unchanged) => Some(instead),
        Which::Key(key) if !key.get(column).copied().unwrap_or_default() => None,
        _ => Some(cells),
    }
}
