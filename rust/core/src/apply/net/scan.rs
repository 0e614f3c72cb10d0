//! The walk over an epoch's bodies: which relation, which key, which rule.
//!
//! Upstream: whole logical bodies and the position that the destination has reached. Downstream: `rows`
//! collects, `emit` makes groups of it. Invariants: a change counts if it stands behind the reached
//! position; no change is taken before the caller has said what becomes of its relation in that version.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::emit::{self, Group};
use super::intake::{Change, Intake, Known, Met, Outcome};
use super::rows::{Bodies, Rows, TupleAt};
use crate::apply::relations::Relation;
use crate::apply::walk::Walk;
use crate::error::{CoreError, EnvelopeError};
use crate::lsn::Position;
use crate::pgoutput::{Message, Tuple};

/// What becomes of a relation's changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// OID of the destination table. Relations that share one share its keys.
    pub target: u32,
    /// Numbers of the columns that are a row's key, in the destination key's order. None: rows are only
    /// inserted; a change or a deletion makes the table slow.
    pub key: Option<Vec<u16>>,
    /// Numbers of the columns that are written, ascending.
    pub written: Vec<u16>,
    /// What parts the elements of an array of each column's type.
    pub delimiters: Vec<u8>,
    /// Whether UPDATE may set the written columns.
    pub updates: bool,
    /// Replay takes the table's changes in any case.
    pub slow: bool,
}

/// Why [`Net::run`] returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetStep {
    /// All bodies are taken in.
    Done,
    /// Say what becomes of this relation; its first change in this version comes next.
    Relation(Arc<Relation>, Position),
    /// Replay must take the whole epoch.
    Unfit(Unfit),
}

/// What net effects cannot tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// A TRUNCATE stands among the changes.
    Truncate,
    /// A relation changed among the changes.
    Relation,
    /// Changes contradict each other, or lack what a key needs.
    Contradiction,
}

/// Collects net effects of bodies of type `B`; remembers relations from one epoch to the next.
#[derive(Debug)]
pub struct Net<B> {
    bodies: Vec<B>,
    starts: Vec<Position>,
    body: usize,
    walk: Walk,
    after: Position,
    relations: HashMap<u32, Known>,
    /// Relations of this epoch, by the number that rows know them by.
    met: Vec<Met>,
    /// Destination tables whose changes replay has to take.
    slow: HashSet<u32>,
    rows: Rows,
    changes: u64,
}

impl<B> Default for Net<B> {
    fn default() -> Self {
        Self {
            bodies: Vec::new(),
            starts: Vec::new(),
            body: 0,
            walk: Walk::default(),
            after: Position::default(),
            relations: HashMap::new(),
            met: Vec::new(),
            slow: HashSet::new(),
            rows: Rows::default(),
            changes: 0,
        }
    }
}

impl<B: AsRef<[u8]>> Bodies for [B] {
    fn tuple(&self, at: TupleAt) -> Tuple<'_> {
        let cells = self.get(at.body).and_then(|b| b.as_ref().get(at.offset..));
        Tuple::again(at.cell_count, cells.unwrap_or_default())
    }
}

impl<B: AsRef<[u8]>> Net<B> {
    /// Takes the bodies of an epoch, each with the position before it. Changes up to `after` are
    /// skipped, and so are those that an earlier body of the epoch holds. What was collected before is dropped, relations stay.
    pub fn load(&mut self, bodies: Vec<(B, Position)>, after: Position) {
        self.clear();
        self.walk = Walk::new(bodies.first().map_or(after, |(_, prev)| *prev));
        (self.bodies, self.starts) = bodies.into_iter().unzip();
        self.after = after;
    }

    /// Drops bodies and rows; relations stay.
    pub fn clear(&mut self) {
        self.bodies.clear();
        self.starts.clear();
        self.body = 0;
        self.rows.clear();
        self.met.clear();
        self.slow.clear();
        self.changes = 0;
        for known in self.relations.values_mut() {
            known.number = None;
        }
    }

    /// Changes met since [`Self::load`], skipped ones not counted.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// Those of them that replay has to take: [`Self::slow_relations`].
    #[must_use]
    pub fn slow_changes(&self) -> u64 {
        self.slow().map(|met| met.changes).sum()
    }

    /// OIDs of the epoch's relations whose changes replay has to take, ascending.
    #[must_use]
    pub fn slow_relations(&self) -> Vec<u32> {
        let mut oids: Vec<u32> = self.slow().map(|met| met.oid).collect();
        oids.sort_unstable();
        oids
    }

    /// Answers a [`NetStep::Relation`]. A relation whose rows are told by other columns than those of
    /// another one with the same target is left to replay: the two may mean one row.
    ///
    /// # Errors
    /// A relation that was not described, or columns that it does not have.
    pub fn answer(&mut self, relation_oid: u32, mut route: Route) -> Result<(), EnvelopeError> {
        let known = self
            .relations
            .get(&relation_oid)
            .ok_or(EnvelopeError::BadSetting("no such relation is known"))?;
        let columns = known.relation.columns.len();
        let named = route.key.iter().flatten().chain(&route.written);
        let fits = named.into_iter().all(|n| usize::from(*n) < columns);
        if !fits || route.delimiters.len() != columns {
            return Err(EnvelopeError::BadSetting(
                "the route names columns that the relation lacks",
            ));
        }
        let others = self
            .relations
            .iter()
            .filter(|(oid, _)| **oid != relation_oid);
        route.slow |= others
            .filter_map(|(_, other)| Some((&other.relation, other.route.as_ref()?)))
            .any(|(other, its)| {
                its.target == route.target && !names(other, its).eq(names(&known.relation, &route))
            });
        if let Some(known) = self.relations.get_mut(&relation_oid) {
            known.route = Some(route);
        }
        Ok(())
    }

    /// Drops bodies, rows and relations; the caller is asked for each relation again.
    pub fn forget_all(&mut self) {
        self.clear();
        self.relations.clear();
    }

    /// Takes changes in until the bodies are done or the caller is needed.
    ///
    /// # Errors
    /// A body that is malformed. What was collected is dropped then.
    pub fn run(&mut self) -> Result<NetStep, CoreError> {
        let step = self.advance();
        if !matches!(step, Ok(NetStep::Done | NetStep::Relation(..))) {
            self.clear();
        }
        step
    }

    /// What was collected, as statements' worth each: deletes, then updates, then inserts.
    ///
    /// # Errors
    /// A value that has no text, which the server never sends unasked.
    pub fn groups(&self) -> Result<Vec<Group>, EnvelopeError> {
        let is_wanted = |relation: usize| {
            let met = self.met.get(relation)?;
            let route = self.route(met.oid).filter(|route| !self.is_slow(route))?;
            Some((met.oid, route))
        };
        emit::groups(&self.rows, self.bodies.as_slice(), is_wanted)
            .ok_or(EnvelopeError::BadSetting("a value came without its text"))
    }

    fn route(&self, oid: u32) -> Option<&Route> {
        self.relations
            .get(&oid)
            .and_then(|known| known.route.as_ref())
    }

    fn is_slow(&self, route: &Route) -> bool {
        self.slow.contains(&route.target)
    }

    fn slow(&self) -> impl Iterator<Item = &Met> {
        let is_slow = |met: &&Met| self.route(met.oid).is_some_and(|route| self.is_slow(route));
        self.met.iter().filter(is_slow)
    }

    fn advance(&mut self) -> Result<NetStep, CoreError> {
        while let Some(body) = self.bodies.get(self.body) {
            let mut intake = Intake {
                relations: &mut self.relations,
                met: &mut self.met,
                slow: &mut self.slow,
                rows: &mut self.rows,
                bodies: &self.bodies,
                body: self.body,
            };
            while let Some(next) = self.walk.peek(body.as_ref())? {
                let position = self.walk.next_position();
                match next.message {
                    Message::Relation(described) => {
                        if !intake.describe(next.bytes, &described) {
                            return Ok(NetStep::Unfit(Unfit::Relation));
                        }
                    }
                    message if !message.is_change() || position <= self.after => {}
                    Message::Truncate(_) => return Ok(NetStep::Unfit(Unfit::Truncate)),
                    message => {
                        let taken = Change::of(message, self.walk.presence())
                            .map_or(Ok(Outcome::Taken), |change| intake.take(&change));
                        match taken.map_err(|reason| self.walk.error(&next, reason))? {
                            Outcome::Taken => self.changes += 1,
                            Outcome::Asks(it) => return Ok(NetStep::Relation(it, position)),
                            Outcome::Contradicts => {
                                return Ok(NetStep::Unfit(Unfit::Contradiction));
                            }
                        }
                    }
                }
                self.walk.pass(&next)?;
            }
            // The next body may begin before this one's end: a publisher that came back cuts anew.
            self.after = self.after.max(self.walk.position());
            self.body += 1;
            if let Some(prev) = self.starts.get(self.body) {
                self.walk = Walk::new(*prev);
            }
        }
        Ok(NetStep::Done)
    }
}

/// Names of the columns that are a row's key; none without one.
fn names<'r>(relation: &'r Relation, route: &'r Route) -> impl Iterator<Item = &'r str> {
    let columns = route.key.iter().flatten();
    columns
        .filter_map(|number| relation.columns.get(usize::from(*number)))
        .map(|column| column.name.as_str())
}
