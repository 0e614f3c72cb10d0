//! Why replay returned to its caller.

use std::sync::Arc;

use super::executor::{Place, Refusal};
use super::relations::Relation;
use super::statement::{Conflict, Shape};

/// What the caller has to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the body is done.
    Done,
    /// Look at a relation that is new or changed; its first change in this version comes next.
    Relation(Arc<Relation>, Place),
    /// Register a statement for a shape that comes next.
    Statement(Shape, Place),
    /// Empty these tables; replay goes on behind it.
    Truncate {
        /// The tables, in the server's order.
        relations: Vec<Arc<Relation>>,
        /// The source said CASCADE.
        cascade: bool,
        /// The source said RESTART IDENTITY.
        restart_identity: bool,
        /// Where it stands.
        place: Place,
    },
    /// A transactional logical message; replay goes on behind it.
    Message {
        /// Whom it is for.
        prefix: String,
        /// What it says.
        content: Vec<u8>,
        /// Where it stands.
        place: Place,
    },
    /// A change was refused; what was sent since the caller's last savepoint must be rolled back.
    Failed(Refusal, Option<Arc<Relation>>),
}

/// What careful replay met since the body was loaded: kinds of conflicts, relation by relation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conflicts(Vec<Met>);

/// Conflicts of one kind that changes of one relation met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Met {
    /// What was met.
    pub conflict: Conflict,
    /// The first change that met it.
    pub first: Place,
    /// How many did.
    pub changes: u64,
}

impl Conflicts {
    /// One entry for each relation and kind, in the order in which they were met.
    #[must_use]
    pub fn met(&self) -> &[Met] {
        &self.0
    }

    /// How many changes of all relations met that.
    #[must_use]
    pub fn of(&self, conflict: Conflict) -> u64 {
        let same = self.0.iter().filter(|met| met.conflict == conflict);
        same.map(|met| met.changes).sum()
    }

    pub(super) fn count(&mut self, conflict: Conflict, place: Place) {
        let known = self
            .0
            .iter_mut()
            .find(|met| met.conflict == conflict && met.first.relation_oid == place.relation_oid);
        match known {
            Some(met) => met.changes += 1,
            None => self.0.push(Met {
                conflict,
                first: place,
                changes: 1,
            }),
        }
    }
}
