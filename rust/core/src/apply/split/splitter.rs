//! The splitter itself: walks the bodies of an epoch and hands every change to its slice.
//!
//! It works in one of two ways. To split: a change goes to its key's shard, unless it is a barrier. To
//! gather, after a crash that left the shards' rows at different positions: what each shard lacks, in
//! source order, in one slice; a barrier moved all rows at once, so every shard lacks it or none does.

use std::sync::Arc;

use super::key::Hasher;
use super::slice::Slice;
use super::table::{Route, Tables};
use crate::apply::change::Change;
use crate::apply::presence::Presence;
use crate::apply::relations::Relation;
use crate::apply::walk::{Next, Walk};
use crate::error::{CoreError, EnvelopeError, Reason};
use crate::lsn::Position;
use crate::pgoutput::{Cell, Message};

/// Splits bodies of type `B`, and remembers tables and their routes from epoch to epoch.
#[derive(Debug)]
pub struct Splitter<B> {
    shards: u32,
    /// To gather: what each shard has.
    rows: Option<Vec<Position>>,
    body: Option<B>,
    walk: Walk,
    after: Position,
    tables: Tables,
    slices: Vec<Slice>,
    hasher: Hasher,
    /// The Begin of the transaction that the walk stands in.
    begin: Vec<u8>,
    /// Number of the epoch.
    epoch: u64,
    is_begun: bool,
    is_barrier: bool,
}

/// An epoch, split.
#[derive(Debug, PartialEq, Eq)]
pub struct Slices {
    /// By shard; None where it has no change. When gathering there is one.
    pub bodies: Vec<Option<Vec<u8>>>,
    /// The epoch must be applied as it came, by one writer, while all shards stand where it begins.
    pub is_barrier: bool,
}

/// Cells of one change; filled again for each.
#[derive(Default)]
struct Scratch<'a> {
    new: Vec<Cell<'a>>,
    old: Vec<Cell<'a>>,
}

/// What becomes of a change.
enum Place {
    Shard(u32),
    Barrier,
    /// The caller has to give its table a route first.
    Unknown(Arc<Relation>),
}

impl<B: AsRef<[u8]>> Splitter<B> {
    /// Splits for so many shards.
    ///
    /// # Errors
    /// A number of shards that is not from 1 to 1024.
    pub fn new(shards: u32) -> Result<Self, EnvelopeError> {
        Self::made(shards, None)
    }

    /// Gathers what shards that stand at these `rows` lack.
    ///
    /// # Errors
    /// A number of rows that is not from 1 to 1024.
    pub fn gather(rows: Vec<Position>) -> Result<Self, EnvelopeError> {
        let shards = u32::try_from(rows.len()).unwrap_or_default();
        Self::made(shards, Some(rows))
    }

    fn made(shards: u32, rows: Option<Vec<Position>>) -> Result<Self, EnvelopeError> {
        if !(1..=1024).contains(&shards) {
            return Err(EnvelopeError::BadSetting("from 1 to 1024 shards"));
        }
        let slices = if rows.is_some() { 1 } else { shards };
        Ok(Self {
            shards,
            rows,
            body: None,
            walk: Walk::default(),
            after: Position::default(),
            tables: Tables::default(),
            slices: (0..slices).map(|_| Slice::default()).collect(),
            hasher: Hasher::default(),
            begin: Vec::new(),
            epoch: 1,
            is_begun: false,
            is_barrier: false,
        })
    }

    /// Takes the next body of the epoch. The chain stood at `prev` before it; changes up to `after` are
    /// left out.
    pub fn load(&mut self, body: B, prev: Position, after: Position) {
        self.body = Some(body);
        self.walk = Walk::new(prev);
        self.after = after;
        if !self.is_begun {
            self.is_begun = true;
            for slice in &mut self.slices {
                slice.start(prev);
            }
        }
    }

    /// Gives a table a route, for its present definition.
    ///
    /// # Errors
    /// A table that was never described; a shard or a column that is not there.
    pub fn route(&mut self, relation_oid: u32, route: Route) -> Result<(), EnvelopeError> {
        let unknown = EnvelopeError::BadSetting("no table of that OID is known");
        let columns = self.tables.get(relation_oid).ok_or(unknown)?;
        let columns = columns.relation.columns.len();
        match &route {
            Route::Whole(shard) if *shard >= self.shards => {
                return Err(EnvelopeError::BadSetting("there is no such shard"));
            }
            Route::Key(key) if key.is_empty() || key.iter().any(|n| usize::from(*n) >= columns) => {
                return Err(EnvelopeError::BadSetting("a key of columns it has"));
            }
            _ => {}
        }
        self.tables.route(relation_oid, route);
        Ok(())
    }

    /// Drops all routes; they are asked for again.
    pub fn forget(&mut self) {
        self.tables.forget();
    }

    /// Splits the body until it is done, or until a table needs a route, which is given. Behind a barrier
    /// the rest of the epoch is not looked at.
    ///
    /// # Errors
    /// A body that is malformed, or none loaded.
    pub fn run(&mut self) -> Result<Option<Arc<Relation>>, CoreError> {
        let body = self
            .body
            .take()
            .ok_or(EnvelopeError::Finished("no body is loaded"))?;
        let asked = self.advance(body.as_ref())?;
        if asked.is_some() {
            self.body = Some(body);
        }
        Ok(asked)
    }

    /// Takes the slices and begins the next epoch.
    pub fn take(&mut self) -> Slices {
        self.body = None;
        self.is_begun = false;
        self.epoch += 1;
        Slices {
            bodies: self.slices.iter_mut().map(Slice::take).collect(),
            is_barrier: std::mem::take(&mut self.is_barrier),
        }
    }

    fn advance(&mut self, body: &[u8]) -> Result<Option<Arc<Relation>>, CoreError> {
        let mut scratch = Scratch::default();
        while let Some(next) = self.walk.peek(body)? {
            if self.is_barrier {
                return Ok(None);
            }
            match next.message {
                Message::Begin(_) => {
                    self.begin.clear();
                    self.begin.extend_from_slice(next.bytes);
                }
                Message::Commit(commit) => {
                    for slice in &mut self.slices {
                        slice.commit(commit.commit_lsn, next.bytes);
                    }
                }
                Message::Relation(described) => {
                    self.tables
                        .describe(next.bytes, &described, self.slices.len());
                }
                message if message.is_change() && self.walk.next_position() > self.after => {
                    let placed = self.place(message, &mut scratch);
                    match placed.map_err(|reason| self.walk.error(&next, reason))? {
                        Some(Place::Unknown(relation)) => return Ok(Some(relation)),
                        Some(place) => self.put(&next, &place),
                        None => {}
                    }
                }
                _ => {}
            }
            self.walk.pass(&next)?;
        }
        Ok(None)
    }

    /// Finds a change's place; none for a message, which changes no table.
    fn place<'a>(
        &mut self,
        message: Message<'a>,
        scratch: &mut Scratch<'a>,
    ) -> Result<Option<Place>, Reason> {
        if let Message::Truncate(truncate) = message {
            let unknown = |oid: &u32| self.tables.get(*oid).is_none();
            return match truncate.relation_oids().find(unknown) {
                Some(oid) => Err(Reason::UnknownRelation(oid)),
                None => Ok(Some(Place::Barrier)),
            };
        }
        let Some(change) = Change::of(message, Presence::Sure) else {
            return Ok(None);
        };
        let oid = change.relation_oid;
        let table = self.tables.get(oid).ok_or(Reason::UnknownRelation(oid))?;
        let place = match &table.route {
            None => Place::Unknown(Arc::clone(&table.relation)),
            Some(Route::Whole(shard)) => Place::Shard(*shard),
            Some(Route::Barrier) => Place::Barrier,
            Some(Route::Key(columns)) => {
                scratch.fill(&change, columns);
                scratch.place(&mut self.hasher, columns, self.shards)
            }
        };
        Ok(Some(place))
    }

    /// Puts a change where it belongs.
    fn put(&mut self, next: &Next<'_>, place: &Place) {
        let position = self.walk.next_position();
        let lacks = |row: &Position| position > *row;
        let number = match (&self.rows, place) {
            (None, Place::Barrier) => {
                self.is_barrier = true;
                None
            }
            (None, Place::Shard(shard)) => Some(*shard),
            (Some(rows), Place::Barrier) => rows.iter().all(lacks).then_some(GATHERED),
            (Some(rows), Place::Shard(shard)) => {
                let row = rows.get(index(*shard));
                row.is_some_and(lacks).then_some(GATHERED)
            }
            (_, Place::Unknown(_)) => None,
        };
        let Some((number, slice)) = number.map(index).and_then(|number| {
            let slice = self.slices.get_mut(number);
            slice.map(|slice| (number, slice))
        }) else {
            return;
        };
        for_each_table(&next.message, |oid| {
            self.tables.describe_in(oid, number, slice, self.epoch);
        });
        slice.change(&self.begin, position, next.bytes);
    }
}

/// The one slice of gathering.
const GATHERED: u32 = 0;

fn index(shard: u32) -> usize {
    usize::try_from(shard).unwrap_or(usize::MAX)
}

/// Names the tables that a change needs described.
fn for_each_table(message: &Message<'_>, mut describe: impl FnMut(u32)) {
    match message {
        Message::Insert(insert) => describe(insert.relation_oid),
        Message::Update(update) => describe(update.relation_oid),
        Message::Delete(delete) => describe(delete.relation_oid),
        Message::Truncate(truncate) => truncate.relation_oids().for_each(describe),
        _ => {}
    }
}

impl<'a> Scratch<'a> {
    /// Lays out the cells up to the last one of the key.
    fn fill(&mut self, change: &Change<'a>, columns: &[u16]) {
        let last = columns.iter().max().copied().unwrap_or_default();
        let count = usize::from(last) + 1;
        self.new.clear();
        self.old.clear();
        if let Some(new) = change.new {
            self.new.extend(new.cells().take(count));
        }
        if let Some((_, old)) = change.old {
            self.old.extend(old.cells().take(count));
        }
    }

    /// The shard of the key; a barrier if it moves from one to another, or cannot be told.
    fn place(&self, hasher: &mut Hasher, columns: &[u16], shards: u32) -> Place {
        let mut shard = |cells: &[Cell<'_>], other| hasher.shard(columns, cells, other, shards);
        let before = (!self.old.is_empty()).then(|| shard(&self.old, &[]));
        let after = (!self.new.is_empty()).then(|| shard(&self.new, &self.old));
        match (before, after) {
            (Some(Some(before)), Some(Some(after))) if before == after => Place::Shard(after),
            (Some(Some(shard)), None) | (None, Some(Some(shard))) => Place::Shard(shard),
            _ => Place::Barrier,
        }
    }
}
