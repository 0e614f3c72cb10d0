//! One change into the rows: its relation, its keys, its rule.
//!
//! Upstream: `scan` walks. Downstream: `rows`. Invariant: a table is either collected or left to replay, for
//! a whole epoch; one that turns out slow in the middle of it drops what was collected.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::keys::{Key, Keys};
use super::rows::{Contradiction, Put, Rows, TupleAt};
use super::scan::Route;
use crate::apply::presence::Presence;
use crate::apply::relations::Relation;
use crate::error::Reason;
use crate::pgoutput::{self, Cell, Message, Tuple};

/// A relation and what becomes of its changes.
#[derive(Debug)]
pub(super) struct Known {
    /// The message that described it, to notice a change.
    message: Vec<u8>,
    pub(super) relation: Arc<Relation>,
    pub(super) route: Option<Route>,
    /// Its number in this epoch, once a change has met it.
    pub(super) number: Option<usize>,
}

/// A relation of this epoch.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) oid: u32,
    pub(super) changes: u64,
}

/// What became of a change.
pub(super) enum Outcome {
    Taken,
    /// The caller has to say what becomes of this relation.
    Asks(Arc<Relation>),
    Contradicts,
}

/// An insert, update or delete.
pub(super) struct Change<'a> {
    oid: u32,
    is_insert: bool,
    presence: Presence,
    old: Option<Tuple<'a>>,
    new: Option<Tuple<'a>>,
}

impl<'a> Change<'a> {
    /// The change in a message, if it is one of a row.
    pub(super) fn of(message: Message<'a>, presence: Presence) -> Option<Self> {
        let (oid, old, new) = match message {
            Message::Insert(insert) => (insert.relation_oid, None, Some(insert.new)),
            Message::Update(update) => {
                let old = update.old.map(|(_, old)| old);
                (update.relation_oid, old, Some(update.new))
            }
            Message::Delete(delete) => (delete.relation_oid, Some(delete.old), None),
            _ => return None,
        };
        Some(Self {
            oid,
            is_insert: matches!(message, Message::Insert(_)),
            presence,
            old,
            new,
        })
    }
}

/// Where changes of one body go.
pub(super) struct Intake<'n, B> {
    pub(super) relations: &'n mut HashMap<u32, Known>,
    pub(super) met: &'n mut Vec<Met>,
    /// Destination tables that replay has to take.
    pub(super) slow: &'n mut HashSet<u32>,
    pub(super) rows: &'n mut Rows,
    pub(super) bodies: &'n [B],
    /// The body that changes come from.
    pub(super) body: usize,
}

impl<B: AsRef<[u8]>> Intake<'_, B> {
    /// Takes a description. False if it changes a relation that changes of this epoch belong to.
    pub(super) fn describe(&mut self, message: &[u8], described: &pgoutput::Relation<'_>) -> bool {
        let version = match self.relations.get(&described.oid) {
            Some(known) if known.message == message => return true,
            Some(known) if known.number.is_some() => return false,
            Some(known) => known.relation.version.saturating_add(1),
            None => 1,
        };
        let known = Known {
            message: message.to_vec(),
            relation: Arc::new(Relation::new(described, version)),
            route: None,
            number: None,
        };
        self.relations.insert(described.oid, known);
        true
    }

    /// Takes one change.
    ///
    /// # Errors
    /// A relation that was not described, or a tuple that does not fit its description.
    pub(super) fn take(&mut self, change: &Change<'_>) -> Result<Outcome, Reason> {
        let known = self
            .relations
            .get_mut(&change.oid)
            .ok_or(Reason::UnknownRelation(change.oid))?;
        let Some(route) = &known.route else {
            return Ok(Outcome::Asks(Arc::clone(&known.relation)));
        };
        let columns = known.relation.columns.len();
        for tuple in change.old.iter().chain(&change.new) {
            let found = usize::from(tuple.cell_count());
            if found != columns {
                return Err(Reason::OtherColumns { columns, found });
            }
        }
        let number = *known.number.get_or_insert(self.met.len());
        match self.met.get_mut(number) {
            Some(met) => met.changes += 1,
            None => self.met.push(Met {
                oid: change.oid,
                changes: 1,
            }),
        }
        if route.slow {
            self.slow.insert(route.target);
        }
        if !self.slow.is_empty() && self.slow.contains(&route.target) {
            return Ok(Outcome::Taken);
        }
        let new = match change.new {
            Some(new) => Some(place(self.bodies, self.body, &new).ok_or(Reason::Empty)?),
            None => None,
        };
        Ok(
            match collect(self.rows, self.bodies, route, number, change, new) {
                Collected::Yes => Outcome::Taken,
                Collected::Slow => {
                    self.slow.insert(route.target);
                    Outcome::Taken
                }
                Collected::Contradicts => Outcome::Contradicts,
            },
        )
    }
}

/// Where a tuple stands.
fn place<B: AsRef<[u8]>>(bodies: &[B], body: usize, tuple: &Tuple<'_>) -> Option<TupleAt> {
    Some(TupleAt {
        body,
        offset: tuple.offset_in(bodies.get(body)?.as_ref())?,
        cell_count: tuple.cell_count(),
    })
}

enum Collected {
    Yes,
    /// Only replay can tell the rows of this table.
    Slow,
    Contradicts,
}

impl From<Result<(), Contradiction>> for Collected {
    fn from(result: Result<(), Contradiction>) -> Self {
        result.map_or(Self::Contradicts, |()| Self::Yes)
    }
}

fn collect<B: AsRef<[u8]>>(
    rows: &mut Rows,
    bodies: &[B],
    route: &Route,
    number: usize,
    change: &Change<'_>,
    new: Option<TupleAt>,
) -> Collected {
    let Some(columns) = &route.key else {
        return match (change.old, new) {
            (None, Some(new)) if change.is_insert => {
                rows.append(number, new);
                Collected::Yes
            }
            _ => Collected::Slow,
        };
    };
    if change.presence != Presence::Sure {
        return unsure(rows, bodies, route, columns, number, change, new);
    }
    let target = route.target;
    match (change.old, change.new.zip(new)) {
        (None, Some((tuple, new))) if change.is_insert => {
            match key_of(&mut rows.keys, target, columns, tuple, None) {
                Some(key) => rows.insert(number, key, new).into(),
                None => Collected::Contradicts,
            }
        }
        (old, Some((tuple, new))) => {
            if !route.updates {
                return Collected::Slow;
            }
            let new_key = key_of(&mut rows.keys, target, columns, tuple, old);
            let old_key = match old {
                Some(old) => key_of(&mut rows.keys, target, columns, old, None),
                None => new_key,
            };
            match old_key.zip(new_key) {
                Some(keys) => rows.update(number, keys, new, bodies).into(),
                None => Collected::Contradicts,
            }
        }
        (Some(old), None) => match key_of(&mut rows.keys, target, columns, old, None) {
            Some(key) => rows.delete(number, key).into(),
            None => Collected::Contradicts,
        },
        (None, None) => Collected::Contradicts,
    }
}

/// A change whose row may be there or not.
fn unsure<B: AsRef<[u8]>>(
    rows: &mut Rows,
    bodies: &[B],
    route: &Route,
    columns: &[u16],
    number: usize,
    change: &Change<'_>,
    new: Option<TupleAt>,
) -> Collected {
    let target = route.target;
    match (change.presence, change.old, change.new.zip(new)) {
        (Presence::Maybe, Some(old), None) => {
            match key_of(&mut rows.keys, target, columns, old, None) {
                Some(key) => {
                    rows.remove(number, key);
                    Collected::Yes
                }
                None => Collected::Contradicts,
            }
        }
        (Presence::Maybe, old, Some((tuple, new))) if route.updates => {
            let new_key = key_of(&mut rows.keys, target, columns, tuple, old);
            let old_key = match old {
                Some(old) => key_of(&mut rows.keys, target, columns, old, None),
                None => new_key,
            };
            let Some((old_key, new_key)) = old_key.zip(new_key) else {
                return Collected::Contradicts;
            };
            let is_whole = tuple.cells().all(|cell| cell != Cell::Unchanged);
            match rows.put(number, (old_key, new_key), new, is_whole, bodies) {
                Put::Done => Collected::Yes,
                Put::Slow => Collected::Slow,
                Put::Contradicts => Collected::Contradicts,
            }
        }
        // Only the destination knows what becomes of the row, and what follows depends on that.
        _ => Collected::Slow,
    }
}

/// The key in a tuple; cells that it leaves out (unchanged TOAST) are those of `instead`.
fn key_of<'a>(
    keys: &mut Keys,
    target: u32,
    columns: &[u16],
    tuple: Tuple<'a>,
    instead: Option<Tuple<'a>>,
) -> Option<Key> {
    keys.intern(
        target,
        columns.iter().map(|column| {
            let column = usize::from(*column);
            let cell = match tuple.cells().nth(column)? {
                Cell::Unchanged => instead?.cells().nth(column)?,
                cell => cell,
            };
            match cell {
                Cell::Text(text) => Some(text),
                _ => None,
            }
        }),
    )
}
