//! What splitting knows of each table: its definition, its route, which slices have the definition.
//!
//! Invariant: a table has no route that was not given for its present definition.

use std::collections::HashMap;
use std::sync::Arc;

use super::slice::Slice;
use crate::apply::relations::Relation;
use crate::pgoutput;

/// Where a table's changes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// By hash of these columns, numbered from 0, in the order in which they are hashed.
    Key(Vec<u16>),
    /// All to one shard.
    Whole(u32),
    /// Nowhere alone: each is a barrier.
    Barrier,
}

#[derive(Debug)]
pub(super) struct Table {
    /// The message that described it.
    message: Vec<u8>,
    pub(super) relation: Arc<Relation>,
    pub(super) route: Option<Route>,
    /// By slice: the epoch whose slice has the definition.
    described_in: Vec<u64>,
}

/// All tables seen.
#[derive(Debug, Default)]
pub(super) struct Tables {
    known: HashMap<u32, Table>,
}

impl Tables {
    /// Takes a Relation message; one that comes again unchanged changes nothing.
    pub(super) fn describe(
        &mut self,
        message: &[u8],
        described: &pgoutput::Relation<'_>,
        slices: usize,
    ) {
        let version = match self.known.get(&described.oid) {
            Some(table) if table.message == message => return,
            Some(table) => table.relation.version.saturating_add(1),
            None => 1,
        };
        let table = Table {
            message: message.to_vec(),
            relation: Arc::new(Relation::new(described, version)),
            route: None,
            described_in: vec![0; slices],
        };
        self.known.insert(described.oid, table);
    }

    pub(super) fn get(&self, oid: u32) -> Option<&Table> {
        self.known.get(&oid)
    }

    /// Gives the present definition a route, or another one. Whether the table is known.
    pub(super) fn route(&mut self, oid: u32, route: Route) -> bool {
        self.known
            .get_mut(&oid)
            .map(|table| table.route = Some(route))
            .is_some()
    }

    /// Drops all routes.
    pub(super) fn forget(&mut self) {
        for table in self.known.values_mut() {
            table.route = None;
        }
    }

    /// Puts the definition into a slice of `epoch`, unless it is there.
    pub(super) fn describe_in(&mut self, oid: u32, number: usize, slice: &mut Slice, epoch: u64) {
        let Some(table) = self.known.get_mut(&oid) else {
            return;
        };
        if let Some(described) = table.described_in.get_mut(number)
            && *described != epoch
        {
            *described = epoch;
            slice.push(&table.message);
        }
    }
}
