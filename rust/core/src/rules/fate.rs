//! What becomes of a change on one of its routes: row movement in and out of the filtered set.
//!
//! Invariant: whatever follows, the destination holds the rows that filters pass. Where a change does not
//! say whether its row was in the set, it is told so: the destination knows.

use super::cells::Row;
use super::filter::{Unreadable, Verdict, judge};
use super::program::{Program, Routed};
use crate::apply::{Op, Presence};
use crate::pgoutput::{Cell, OldKind};

/// What becomes of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing, by this rule.
    Dropped(Option<usize>),
    /// It is applied as this operation.
    Applied(Op, Presence),
}

/// The rows of a change.
#[derive(Debug)]
pub(super) struct Rows<'r, R: ?Sized> {
    pub(super) old: Option<(OldKind, &'r R)>,
    pub(super) new: &'r R,
}

impl<R: ?Sized> Clone for Rows<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R: ?Sized> Copy for Rows<'_, R> {}

impl<'r, R: Row + ?Sized> Rows<'r, R> {
    /// A value before the change, if the change tells it.
    fn before(&self, program: &Program, column: usize) -> Option<Cell<'r>> {
        let is_key = program.key.get(column).copied().unwrap_or_default();
        match self.old {
            Some((OldKind::Row, old)) => old.cell(column),
            Some((OldKind::Key, old)) if is_key => old.cell(column),
            // The key is sent if it changes.
            None if is_key => self.new.cell(column),
            _ => None,
        }
    }

    /// A value behind the change, if the change tells it.
    pub(super) fn after(&self, column: usize) -> Option<Cell<'r>> {
        match (self.new.cell(column), self.old) {
            (Some(Cell::Unchanged), Some((OldKind::Row, old))) => old.cell(column),
            (cell, _) => cell,
        }
    }
}

/// Decides.
pub(super) fn fate(
    program: &Program,
    routed: &Routed,
    op: Op,
    row: Rows<'_, impl Row + ?Sized>,
) -> Result<Fate, Unreadable> {
    if !routed.operations.has(op) {
        return Ok(Fate::Dropped(routed.rule));
    }
    match op {
        Op::Insert => inserted(program, routed, row),
        Op::Update => updated(program, routed, row),
        Op::Delete => deleted(program, routed, row),
    }
}

const fn presence(routed: &Routed) -> Presence {
    if routed.is_certain {
        Presence::Sure
    } else {
        Presence::Maybe
    }
}

fn inserted(
    program: &Program,
    routed: &Routed,
    row: Rows<'_, impl Row + ?Sized>,
) -> Result<Fate, Unreadable> {
    let filters = program.filters(routed, Op::Insert);
    Ok(match judge(filters, |column| row.after(column))? {
        Verdict::Fails(rule) => Fate::Dropped(Some(rule)),
        Verdict::Passes | Verdict::Unknown => Fate::Applied(Op::Insert, presence(routed)),
    })
}

fn updated(
    program: &Program,
    routed: &Routed,
    row: Rows<'_, impl Row + ?Sized>,
) -> Result<Fate, Unreadable> {
    let filters = program.filters(routed, Op::Update);
    let before = judge(filters.clone(), |column| row.before(program, column))?;
    let after = judge(filters.clone(), |column| row.after(column))?;
    let is_certain = routed.is_certain;
    Ok(match (before, after) {
        (Verdict::Fails(_), Verdict::Fails(rule)) if is_certain => Fate::Dropped(Some(rule)),
        (Verdict::Passes, Verdict::Fails(_)) => Fate::Applied(Op::Delete, presence(routed)),
        (_, Verdict::Fails(_)) => Fate::Applied(Op::Delete, Presence::Maybe),
        (Verdict::Fails(_), Verdict::Passes) if is_certain => {
            Fate::Applied(Op::Insert, Presence::Sure)
        }
        (Verdict::Passes, Verdict::Passes) => Fate::Applied(Op::Update, presence(routed)),
        (_, Verdict::Passes) => Fate::Applied(Op::Update, Presence::Maybe),
        (_, Verdict::Unknown) => {
            let known = filters.filter(|filter| {
                let cell = row.after(filter.column);
                !matches!(cell, None | Some(Cell::Unchanged))
            });
            // What was not sent did not change: if nothing else did, neither did the answer.
            let known_before = judge(known, |column| row.before(program, column))?;
            let stays = known_before == Verdict::Passes;
            Fate::Applied(
                Op::Update,
                if stays {
                    Presence::Stays
                } else {
                    Presence::Undecided
                },
            )
        }
    })
}

fn deleted(
    program: &Program,
    routed: &Routed,
    row: Rows<'_, impl Row + ?Sized>,
) -> Result<Fate, Unreadable> {
    let filters = program.filters(routed, Op::Delete);
    let verdict = judge(filters.clone(), |column| row.before(program, column))?;
    Ok(match verdict {
        Verdict::Fails(rule) => Fate::Dropped(Some(rule)),
        Verdict::Unknown => {
            let drops = filters.into_iter().find(|filter| {
                filter.drops_empty_deletes && row.before(program, filter.column).is_none()
            });
            match drops {
                Some(filter) => Fate::Dropped(Some(filter.rule)),
                None => Fate::Applied(Op::Delete, Presence::Maybe),
            }
        }
        Verdict::Passes => {
            // A filter that lets all deletes pass kept some rows out.
            let all = program.filters.iter().all(|f| f.operations.has(Op::Delete));
            let presence = if all {
                presence(routed)
            } else {
                Presence::Maybe
            };
            Fate::Applied(Op::Delete, presence)
        }
    })
}
