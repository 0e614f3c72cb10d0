//! One insert, update or delete: find its shape, pick the parameters, hand the statement over.
//!
//! Upstream: `replay.rs`, which says where the change stands. Downstream: an [`Executor`].

use std::sync::Arc;

use super::executor::{Cause, Executor, Param, Place, Refusal};
use super::presence::Presence;
use super::relations::{Known, Relations};
use super::statement::{Conflict, Op, Shape, Statement};
use super::step::Step;
use crate::error::Reason;
use crate::pgoutput::{Cell, Message, OldKind, Tuple};

/// What becomes of a change.
pub(super) enum Outcome {
    /// Handed over; in careful mode also done, with what was met.
    Applied(Option<Conflict>),
    /// The caller is needed before it.
    Asks(Step),
    /// The caller does it; replay goes on behind it.
    Hands(Step),
    /// This change or an earlier one was refused.
    Refused(Refusal),
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// An insert, update or delete.
pub(super) struct Change<'a> {
    pub(super) relation_oid: u32,
    op: Op,
    pub(super) old: Option<(OldKind, Tuple<'a>)>,
    pub(super) new: Option<Tuple<'a>>,
    pub(super) presence: Presence,
}

/// Lists that are filled again for every change.
#[derive(Default)]
pub(super) struct Scratch<'a> {
    new: Vec<Cell<'a>>,
    old: Vec<Cell<'a>>,
    unchanged: Vec<u16>,
    params: Vec<Param<'a>>,
}

impl<'a> Change<'a> {
    /// The change in a message, if it is one of a row.
    pub(super) const fn of(message: Message<'a>, presence: Presence) -> Option<Self> {
        Some(match message {
            Message::Insert(insert) => Self {
                relation_oid: insert.relation_oid,
                op: Op::Insert,
                old: None,
                new: Some(insert.new),
                presence,
            },
            Message::Update(update) => Self {
                relation_oid: update.relation_oid,
                op: Op::Update,
                old: update.old,
                new: Some(update.new),
                presence,
            },
            Message::Delete(delete) => Self {
                relation_oid: delete.relation_oid,
                op: Op::Delete,
                old: Some((delete.old_kind, delete.old)),
                new: None,
                presence,
            },
            _ => return None,
        })
    }

    /// Takes one change as far as it goes.
    ///
    /// # Errors
    /// A relation that was not described, or a tuple that does not fit its description.
    pub(super) fn apply(
        &self,
        relations: &mut Relations,
        scratch: &mut Scratch<'a>,
        executor: &mut impl Executor,
        place: Place,
        careful: bool,
    ) -> Result<Outcome, Reason> {
        let oid = self.relation_oid;
        let known = relations.get(oid).ok_or(Reason::UnknownRelation(oid))?;
        if !known.announced {
            return Ok(Outcome::Asks(Step::Relation(
                Arc::clone(&known.relation),
                place,
            )));
        }
        self.lay_out(known, scratch)?;
        let old = self.old.map(|(kind, _)| kind);
        let Some(answered) =
            known.answered(self.op, old, &scratch.unchanged, careful, self.presence)
        else {
            let unchanged = scratch.unchanged.clone();
            let columns = known.relation.columns.len();
            let shape = Shape {
                id: 0,
                relation_oid: oid,
                op: self.op,
                old,
                unchanged,
                careful,
                presence: self.presence,
                columns,
            };
            return Ok(Outcome::Asks(Step::Statement(relations.meet(shape), place)));
        };
        match &answered.statement {
            None => Ok(Outcome::Asks(Step::Statement(
                answered.shape.clone(),
                place,
            ))),
            Some(statement) if careful => carefully(statement, scratch, executor, place),
            Some(statement) => swiftly(statement, scratch, executor, place),
        }
    }

    /// Lays the cells out by number and notes which new ones were not sent.
    fn lay_out(&self, known: &Known, scratch: &mut Scratch<'a>) -> Result<(), Reason> {
        let columns = known.relation.columns.len();
        let fits = |tuple: Tuple<'_>| {
            let found = usize::from(tuple.cell_count());
            if found == columns {
                Ok(())
            } else {
                Err(Reason::OtherColumns { columns, found })
            }
        };
        scratch.new.clear();
        scratch.old.clear();
        scratch.unchanged.clear();
        if let Some(new) = self.new {
            fits(new)?;
            scratch.new.extend(new.cells());
        }
        if let Some((_, old)) = self.old {
            fits(old)?;
            scratch.old.extend(old.cells());
        }
        let sent = |cell: &Cell<'_>| !matches!(cell, Cell::Unchanged);
        if !scratch.new.iter().all(sent) {
            let numbered = (0_u16..).zip(&scratch.new);
            let missing = numbered
                .filter(|(_, cell)| !sent(cell))
                .map(|(number, _)| number);
            scratch.unchanged.extend(missing);
        }
        Ok(())
    }
}

/// Sends the statement and does not wait for it.
fn swiftly(
    statement: &Statement,
    scratch: &mut Scratch<'_>,
    executor: &mut impl Executor,
    place: Place,
) -> Result<Outcome, Reason> {
    if let Some(call) = &statement.call {
        call.pick(&scratch.new, &scratch.old, &mut scratch.params)?;
        if let Err(refusal) = executor.submit(&call.name, &scratch.params, place) {
            return Ok(refusal.into());
        }
    }
    Ok(Outcome::Applied(None))
}

/// Runs the statement; where it finds no row, does what the caller said for that.
fn carefully(
    statement: &Statement,
    scratch: &mut Scratch<'_>,
    executor: &mut impl Executor,
    place: Place,
) -> Result<Outcome, Reason> {
    let Some(call) = &statement.call else {
        return Ok(Outcome::Applied(None));
    };
    call.pick(&scratch.new, &scratch.old, &mut scratch.params)?;
    let rows = match executor.execute(&call.name, &scratch.params, place) {
        Ok(rows) => rows,
        Err(refusal) => return Ok(refusal.into()),
    };
    match (rows, &statement.fallback) {
        (1, _) => Ok(Outcome::Applied(None)),
        (0, Some(fallback)) => {
            fallback.pick(&scratch.new, &scratch.old, &mut scratch.params)?;
            Ok(
                match executor.execute(&fallback.name, &scratch.params, place) {
                    Ok(1) => Outcome::Applied(statement.conflict),
                    Ok(rows) => Refusal {
                        place,
                        cause: Cause::Rows(rows),
                    }
                    .into(),
                    Err(refusal) => refusal.into(),
                },
            )
        }
        (0, None) if statement.conflict == Some(Conflict::DeleteMissing) => {
            Ok(Outcome::Applied(statement.conflict))
        }
        (rows, _) => Ok(Refusal {
            place,
            cause: Cause::Rows(rows),
        }
        .into()),
    }
}
