//! Replay itself: from one message of a body to the next, asking the caller where it must.
//!
//! Upstream: a whole logical body and the position that the destination has reached. Downstream: an
//! [`Executor`]. Invariants: changes are submitted in source order, each at most once per load; none at
//! or before the reached position; none before the caller knows its relation in that version; none of
//! a relation that the caller did not ask for.

use std::sync::Arc;

use super::change::{Change, Outcome, Scratch};
use super::executor::{Executor, Place, Refusal};
use super::presence::Presence;
use super::relations::{Relation, Relations};
use super::statement::Statement;
use super::step::{Conflicts, Step};
use super::walk::Walk;
use crate::error::{CoreError, EnvelopeError, Reason};
use crate::lsn::Position;
use crate::pgoutput::{Logical, Message, Truncate};

/// Replays bodies of type `B` one after the other, and remembers relations and statements between them.
#[derive(Debug)]
pub struct Replay<B> {
    body: Option<B>,
    walk: Walk,
    after: Position,
    /// Relations whose changes are replayed; none means all.
    only: Option<Vec<u32>>,
    relations: Relations,
    changes: u64,
    conflicts: Conflicts,
}

impl<B> Default for Replay<B> {
    fn default() -> Self {
        Self {
            body: None,
            walk: Walk::default(),
            after: Position::default(),
            only: None,
            relations: Relations::default(),
            changes: 0,
            conflicts: Conflicts::default(),
        }
    }
}

impl<B: AsRef<[u8]>> Replay<B> {
    /// Takes one whole body. The chain stood at `prev` before it; changes up to `after` are skipped, and
    /// so are those of relations outside of `only` (a few, if given). Counters start anew, relations and
    /// statements stay.
    pub fn load(&mut self, body: B, prev: Position, after: Position, only: Option<Vec<u32>>) {
        self.body = Some(body);
        self.walk = Walk::new(prev);
        self.after = after;
        self.only = only;
        self.changes = 0;
        self.conflicts = Conflicts::default();
    }

    /// Changes dealt with since [`Self::load`], skipped ones not counted.
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// What careful replay met since [`Self::load`].
    pub const fn conflicts(&self) -> &Conflicts {
        &self.conflicts
    }

    /// Where replay stands: the last change it dealt with or skipped.
    pub const fn position(&self) -> Position {
        self.walk.position()
    }

    /// Registers the statement for a shape that a step asked for.
    ///
    /// # Errors
    /// A shape that was forgotten or never met; a statement that asks for values the shape lacks.
    pub fn register(&mut self, shape_id: u32, statement: Statement) -> Result<(), EnvelopeError> {
        let entry = self
            .relations
            .shape_mut(shape_id)
            .ok_or(EnvelopeError::BadSetting(
                "no shape of that number is known",
            ))?;
        statement.check(&entry.shape)?;
        entry.statement = Some(statement);
        Ok(())
    }

    /// Drops the statements of one relation; they are asked for again.
    pub fn forget(&mut self, relation_oid: u32) {
        self.relations.forget(relation_oid);
    }

    /// Drops all statements; they are asked for again.
    pub fn forget_all(&mut self) {
        self.relations.forget_all();
    }

    /// Applies changes until the body is done or the caller is needed, then waits until all of them are
    /// answered. `careful` runs them one at a time and may find no row; see [`Statement`]. After a
    /// failure or an error the body has to be loaded again.
    ///
    /// # Errors
    /// A body that is malformed, or none loaded. What was sent must be rolled back then.
    pub fn run(&mut self, executor: &mut impl Executor, careful: bool) -> Result<Step, CoreError> {
        let advanced = self.advance(executor, careful);
        // Refusals come late: whatever was reached meanwhile stands behind them.
        let step = match executor.finish() {
            Ok(()) => advanced,
            Err(refusal) => Ok(self.failed(refusal)),
        };
        match &step {
            Ok(Step::Relation(relation, _)) => self.relations.announce(relation.oid),
            Ok(Step::Failed(..)) | Err(_) => self.body = None,
            Ok(_) => {}
        }
        step
    }

    fn failed(&self, refusal: Refusal) -> Step {
        let known = self.relations.get(refusal.place.relation_oid);
        let relation = known.map(|known| Arc::clone(&known.relation));
        Step::Failed(refusal, relation)
    }

    fn advance(&mut self, executor: &mut impl Executor, careful: bool) -> Result<Step, CoreError> {
        let Self {
            body,
            walk,
            after,
            only,
            relations,
            changes,
            conflicts,
        } = self;
        let body = body
            .as_ref()
            .ok_or(EnvelopeError::Finished("no body is loaded"))?
            .as_ref();
        let mut scratch = Scratch::default();
        while let Some(next) = walk.peek(body)? {
            let position = walk.next_position();
            let is_asked = only.as_ref().is_none_or(|only| is_of(&next.message, only));
            if !next.message.is_change() || position <= *after || !is_asked {
                if let Message::Relation(described) = next.message {
                    relations.describe(next.bytes, &described);
                }
                walk.pass(&next)?;
                continue;
            }
            let outcome = match next.message {
                Message::Truncate(truncate) => truncated(relations, &truncate, position),
                Message::Logical(message) => Ok(said(&message, position)),
                message => Change::of(message, walk.presence()).map_or(
                    Ok(Outcome::Applied(None)),
                    |change| {
                        let place = Place {
                            position,
                            relation_oid: change.relation_oid,
                        };
                        change.apply(relations, &mut scratch, executor, place, careful)
                    },
                ),
            };
            match outcome.map_err(|reason| walk.error(&next, reason))? {
                Outcome::Applied(conflict) => {
                    if let (Some(conflict), Some(change)) =
                        (conflict, Change::of(next.message, walk.presence()))
                    {
                        let relation_oid = change.relation_oid;
                        conflicts.count(
                            conflict,
                            Place {
                                position,
                                relation_oid,
                            },
                        );
                    }
                    *changes += 1;
                    walk.pass(&next)?;
                }
                Outcome::Hands(step) => {
                    *changes += 1;
                    walk.pass(&next)?;
                    return Ok(step);
                }
                Outcome::Asks(step) => return Ok(step),
                Outcome::Refused(refusal) => return Ok(self.failed(refusal)),
            }
        }
        Ok(Step::Done)
    }
}

/// Whether a change is one of these relations.
fn is_of(message: &Message<'_>, only: &[u32]) -> bool {
    match message {
        Message::Truncate(truncate) => truncate.relation_oids().any(|oid| only.contains(&oid)),
        message => Change::of(*message, Presence::Sure)
            .is_some_and(|change| only.contains(&change.relation_oid)),
    }
}

/// A TRUNCATE: the caller's, once it knows all its tables.
fn truncated(
    relations: &Relations,
    truncate: &Truncate<'_>,
    position: Position,
) -> Result<Outcome, Reason> {
    let mut tables = Vec::<Arc<Relation>>::new();
    for oid in truncate.relation_oids() {
        let known = relations.get(oid).ok_or(Reason::UnknownRelation(oid))?;
        let relation = Arc::clone(&known.relation);
        if !known.announced {
            let place = Place {
                position,
                relation_oid: oid,
            };
            return Ok(Outcome::Asks(Step::Relation(relation, place)));
        }
        tables.push(relation);
    }
    Ok(Outcome::Hands(Step::Truncate {
        relations: tables,
        cascade: truncate.cascade,
        restart_identity: truncate.restart_identity,
        place: Place {
            position,
            relation_oid: 0,
        },
    }))
}

/// A transactional message: the caller's.
fn said(message: &Logical<'_>, position: Position) -> Outcome {
    Outcome::Hands(Step::Message {
        prefix: message.prefix.to_owned(),
        content: message.content.to_vec(),
        place: Place {
            position,
            relation_oid: 0,
        },
    })
}
