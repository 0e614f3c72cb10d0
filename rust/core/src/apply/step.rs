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

/// What careful replay met since the body was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conflicts {
    /// Inserts of rows that were there.
    pub insert_exists: u64,
    /// Updates of rows that were not.
    pub update_missing: u64,
    /// Deletes of rows that were not.
    pub delete_missing: u64,
}

impl Conflicts {
    pub(super) const fn count(&mut self, conflict: Conflict) {
        match conflict {
            Conflict::InsertExists => self.insert_exists += 1,
            Conflict::UpdateMissing => self.update_missing += 1,
            Conflict::DeleteMissing => self.delete_missing += 1,
        }
    }
}
