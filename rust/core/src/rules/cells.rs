//! Cells on their way out: transformed, mapped to the destination's columns.
//!
//! Upstream: `rewrite` and `copy`, which know the fate of a row. Downstream: tuples and COPY rows.

use super::program::{Program, Routed};
use super::rewrite::Counts;
use crate::apply::Op;
use crate::pgoutput::Cell;

/// Buffers that are filled again for every cell.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    now: Vec<u8>,
    next: Vec<u8>,
}

/// Whose values a tuple holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The row behind the change, made by this operation.
    New(Op),
    /// The row before it, as the destination has it: everything that may be transformed is.
    Old,
}

/// A text that a transformation cannot take.
#[derive(Debug, Clone, Copy)]
pub(super) struct NotText {
    pub(super) column: usize,
}

impl Scratch {
    /// The text that the destination gets for a cell's; none if no rule changes it.
    pub(super) fn transformed(
        &mut self,
        program: &Program,
        column: usize,
        text: &[u8],
        side: Side,
        counts: Option<&mut Counts>,
    ) -> Result<Option<&[u8]>, NotText> {
        let transforms = program
            .transforms
            .get(column)
            .map_or(&[][..], Vec::as_slice);
        let concerned = transforms.iter().filter(|transform| match side {
            Side::New(op) => transform.operations.has(op),
            Side::Old => true,
        });
        let mut counts = counts;
        let mut is_changed = false;
        for transform in concerned {
            self.next.clear();
            let text = if is_changed {
                self.now.as_slice()
            } else {
                text
            };
            if !transform.apply(text, &mut self.next) {
                return Err(NotText { column });
            }
            if let Some(counts) = counts.as_deref_mut() {
                counts.changed(transform.rule);
            }
            std::mem::swap(&mut self.now, &mut self.next);
            is_changed = true;
        }
        Ok(is_changed.then_some(self.now.as_slice()))
    }

    /// Appends a tuple's cells as a destination's columns want them; what was not sent is taken from
    /// `instead`, if that is given.
    pub(super) fn tuple(
        &mut self,
        out: &mut Vec<u8>,
        (program, routed): (&Program, &Routed),
        cells: &[Cell<'_>],
        instead: Option<&[Cell<'_>]>,
        side: Side,
        mut counts: Option<&mut Counts>,
    ) -> Result<(), NotText> {
        // Not more than the source's, which fitted.
        let count = u16::try_from(routed.columns.len()).unwrap_or_default();
        out.extend_from_slice(&count.to_be_bytes());
        for (column, _) in &routed.columns {
            let cell = match cells.get(*column).copied().unwrap_or(Cell::Null) {
                Cell::Unchanged => instead
                    .and_then(|cells| cells.get(*column).copied())
                    .unwrap_or(Cell::Unchanged),
                cell => cell,
            };
            match cell {
                Cell::Null => out.push(b'n'),
                Cell::Unchanged => out.push(b'u'),
                Cell::Binary(value) => {
                    if program
                        .transforms
                        .get(*column)
                        .is_some_and(|all| !all.is_empty())
                    {
                        return Err(NotText { column: *column });
                    }
                    put(out, b'b', value);
                }
                Cell::Text(text) => {
                    let changed =
                        self.transformed(program, *column, text, side, counts.as_deref_mut())?;
                    put(out, b't', changed.unwrap_or(text));
                }
            }
        }
        Ok(())
    }
}

/// Appends a value behind its length. A message that has grown too long is refused as a whole.
fn put(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag);
    out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(value);
}
