//! The rule set of a sink: compiles programs, and keeps what programs of different tables share.
//!
//! Invariants: the OIDs by which destinations are known are the same in every process that is given the
//! same specification, and none is a table's of the group; a rule for every table that once applied to one
//! is not forgotten when that table changes.

use std::collections::{HashMap, HashSet};

use super::compile;
use super::program::Program;
use super::spec::{Mistake, Name, Route, Spec, Table};
use crate::apply::Relation;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct RuleSet {
    pub(super) spec: Spec,
    /// By the table's OID and the number of its route.
    private_oids: HashMap<(u32, usize), u32>,
    next_oid: u32,
    /// Rules for every table that apply to a table, by its OID.
    pub(super) bound: HashMap<u32, HashSet<usize>>,
    /// Tables of the group, by destination.
    sharers: HashMap<Name, Vec<u32>>,
}

impl RuleSet {
    /// Takes a specification over.
    #[must_use]
    pub fn new(mut spec: Spec) -> Self {
        spec.tables.sort_by_key(|table| table.oid);
        let mut set = Self {
            spec,
            next_oid: u32::MAX,
            ..Self::default()
        };
        let tables = set.spec.tables.clone();
        for table in &tables {
            let routes = set.routes(&table.name, table.root.as_ref());
            let destinations: Vec<Name> = if routes.is_empty() {
                vec![table.name.clone()]
            } else {
                let destination = |(_, route): &(usize, &Route)| {
                    route
                        .destination
                        .clone()
                        .unwrap_or_else(|| table.name.clone())
                };
                routes.iter().map(destination).collect()
            };
            for destination in destinations {
                let sharers = set.sharers.entry(destination).or_default();
                if !sharers.contains(&table.oid) {
                    sharers.push(table.oid);
                }
            }
        }
        for table in &tables {
            let routes = set.routes(&table.name, table.root.as_ref()).len();
            for number in 1..routes {
                set.private_oid(table.oid, number);
            }
        }
        set
    }

    /// Where each rule and then each route was written.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        let rules = self.spec.rules.iter().map(|rule| rule.label.as_str());
        rules.chain(self.spec.routes.iter().map(|route| route.label.as_str()))
    }

    /// Compiles what becomes of a relation.
    ///
    /// # Errors
    /// All that does not fit it.
    pub fn compile(&mut self, relation: &Relation) -> Result<Program, Vec<Mistake>> {
        compile::compile(self, relation)
    }

    /// A table of the group.
    pub(super) fn table(&self, oid: u32) -> Option<&Table> {
        let place = self
            .spec
            .tables
            .binary_search_by_key(&oid, |table| table.oid);
        place.ok().and_then(|place| self.spec.tables.get(place))
    }

    /// Routes of a table or of its root, with their numbers.
    pub(super) fn routes(&self, name: &Name, root: Option<&Name>) -> Vec<(usize, &Route)> {
        let routes = self.spec.routes.iter().enumerate();
        routes
            .filter(|(_, route)| route.source == *name || Some(&route.source) == root)
            .collect()
    }

    /// Other tables of the group that go to a destination.
    pub(super) fn others(&self, destination: &Name, oid: u32) -> Vec<u32> {
        let sharers = self.sharers.get(destination).into_iter().flatten();
        sharers.copied().filter(|other| *other != oid).collect()
    }

    /// By what a further destination of a table is known.
    pub(super) fn private_oid(&mut self, oid: u32, number: usize) -> u32 {
        if let Some(known) = self.private_oids.get(&(oid, number)) {
            return *known;
        }
        while self.table(self.next_oid).is_some() {
            self.next_oid -= 1;
        }
        let private = self.next_oid;
        self.next_oid -= 1;
        self.private_oids.insert((oid, number), private);
        private
    }

    /// Whether an OID stands for a further destination.
    pub(super) fn is_private(&self, oid: u32) -> bool {
        self.private_oids.values().any(|private| *private == oid)
    }
}
