//! What replay knows of each relation: its definition, its version, the statements for its shapes.
//!
//! Invariant: a definition that comes again unchanged changes nothing; one that differs gets the next
//! version, loses its statements, and is announced again before its next change.

use std::collections::HashMap;
use std::sync::Arc;

use super::presence::Presence;
use super::statement::{Op, Shape, Statement};
use crate::pgoutput::{self, OldKind};

/// What an empty schema name means on the wire.
const CATALOG_SCHEMA: &str = "pg_catalog";

/// A table as the source described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// OID at the source.
    pub oid: u32,
    /// 1 for the first definition seen, one more for every other one.
    pub version: u32,
    /// Schema.
    pub schema: String,
    /// Name without schema.
    pub name: String,
    /// `d` default, `n` nothing, `f` full, `i` index.
    pub replica_identity: u8,
    /// Its columns, in the order of the cells.
    pub columns: Vec<Column>,
}

/// A column of a [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// OID of its type at the source.
    pub type_oid: u32,
    /// Type modifier, −1 for none.
    pub typmod: i32,
    /// Whether it belongs to the replica identity.
    pub key: bool,
}

impl Relation {
    pub(crate) fn new(described: &pgoutput::Relation<'_>, version: u32) -> Self {
        let schema = if described.schema.is_empty() {
            CATALOG_SCHEMA
        } else {
            described.schema
        };
        let columns = described.columns().map(|column| Column {
            name: column.name.to_owned(),
            type_oid: column.type_oid,
            typmod: column.typmod,
            key: column.key,
        });
        Self {
            oid: described.oid,
            version,
            schema: schema.to_owned(),
            name: described.name.to_owned(),
            replica_identity: described.replica_identity,
            columns: columns.collect(),
        }
    }
}

/// All relations seen.
#[derive(Debug, Default)]
pub(super) struct Relations {
    known: HashMap<u32, Known>,
    last_shape_id: u32,
}

/// One relation and its statements.
#[derive(Debug)]
pub(super) struct Known {
    /// The message that described it, to notice a change.
    message: Vec<u8>,
    pub(super) relation: Arc<Relation>,
    /// Whether the caller was told of this version.
    pub(super) announced: bool,
    shapes: Vec<Answered>,
}

/// A shape that was met, and the caller's answer once there is one.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) shape: Shape,
    pub(super) statement: Option<Statement>,
}

impl Relations {
    /// Takes a Relation message: `message` are its bytes, `described` what they say.
    pub(super) fn describe(&mut self, message: &[u8], described: &pgoutput::Relation<'_>) {
        let version = match self.known.get(&described.oid) {
            Some(known) if known.message == message => return,
            Some(known) => known.relation.version.saturating_add(1),
            None => 1,
        };
        let known = Known {
            message: message.to_vec(),
            relation: Arc::new(Relation::new(described, version)),
            announced: false,
            shapes: Vec::new(),
        };
        self.known.insert(described.oid, known);
    }

    /// The relation of that OID, if it was described.
    pub(super) fn get(&self, oid: u32) -> Option<&Known> {
        self.known.get(&oid)
    }

    /// Notes that the caller knows the present version.
    pub(super) fn announce(&mut self, oid: u32) {
        if let Some(known) = self.known.get_mut(&oid) {
            known.announced = true;
        }
    }

    /// Gives a new shape its number and keeps it, without a statement, with its relation.
    pub(super) fn meet(&mut self, shape: Shape) -> Shape {
        self.last_shape_id = self.last_shape_id.wrapping_add(1);
        let shape = Shape {
            id: self.last_shape_id,
            ..shape
        };
        if let Some(known) = self.known.get_mut(&shape.relation_oid) {
            known.shapes.push(Answered {
                shape: shape.clone(),
                statement: None,
            });
        }
        shape
    }

    /// The entry of a shape by its number.
    pub(super) fn shape_mut(&mut self, id: u32) -> Option<&mut Answered> {
        self.known
            .values_mut()
            .flat_map(|known| &mut known.shapes)
            .find(|entry| entry.shape.id == id)
    }

    /// Drops the statements of one relation.
    pub(super) fn forget(&mut self, oid: u32) {
        if let Some(known) = self.known.get_mut(&oid) {
            known.shapes.clear();
        }
    }

    /// Drops the statements of all relations.
    pub(super) fn forget_all(&mut self) {
        for known in self.known.values_mut() {
            known.shapes.clear();
        }
    }
}

impl Known {
    /// The entry for a change of that form. A relation has few, so they are simply compared.
    pub(super) fn answered(
        &self,
        op: Op,
        old: Option<OldKind>,
        unchanged: &[u16],
        careful: bool,
        presence: Presence,
    ) -> Option<&Answered> {
        self.shapes.iter().find(|entry| {
            let shape = &entry.shape;
            shape.op == op
                && shape.old == old
                && shape.careful == careful
                && shape.presence == presence
                && shape.unchanged == unchanged
        })
    }
}
