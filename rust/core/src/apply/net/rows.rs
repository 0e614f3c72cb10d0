//! The rules by which the changes of a row become one.
//!
//! A row is followed by the key it has: an UPDATE that changes the key takes the row along, so that
//! chains and swaps come out as moves from the key before the epoch to the key after it. A row that the
//! epoch has not seen yet is taken to be at the destination (UPDATE, DELETE) or not to be there (INSERT);
//! the statements' row counts tell whether that was right.
//!
//! Invariant: a row's values are those of its newest tuple; what that one left out (unchanged TOAST) is
//! carried from an earlier one, or stays as it is at the destination.

use super::keys::{Holder, Key, Keys};
use crate::pgoutput::{Cell, Tuple};

/// A tuple in one of the epoch's bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TupleAt {
    pub(super) body: usize,
    /// Of its first cell.
    pub(super) offset: usize,
    pub(super) cell_count: u16,
}

/// Where tuples are read again.
pub(super) trait Bodies {
    fn tuple(&self, at: TupleAt) -> Tuple<'_>;
}

/// What is left of a row.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Number of the relation that its newest tuple belongs to.
    pub(super) relation: usize,
    /// The key under which the destination has it; none if the epoch made it.
    pub(super) origin: Option<Key>,
    /// The key it has now, or had when it was deleted.
    pub(super) key: Key,
    /// Nobody had this key before in the epoch: nothing may stand there at the destination.
    is_key_new: bool,
    /// Its newest tuple; none if it was only deleted.
    pub(super) newest: Option<TupleAt>,
    /// Columns that the newest tuple left out, and the tuple that holds each.
    pub(super) carried: Vec<(u16, TupleAt)>,
    pub(super) is_alive: bool,
    /// The destination may have it or not: nothing that the epoch holds tells.
    pub(super) is_unsure: bool,
}

/// What became of a row that may be there or not.
pub(super) enum Put {
    Done,
    /// Only replay can do it.
    Slow,
    Contradicts,
}

/// A change that contradicts those before it: a row twice, or one that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Contradiction;

/// All rows of an epoch, in the order in which it first touched them.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) keys: Keys,
    pub(super) all: Vec<Row>,
    /// New keys that their rows did not keep: (relation, key). That nothing stands there at the
    /// destination is told by no statement for a row.
    pub(super) left: Vec<(usize, Key)>,
}

impl Rows {
    pub(super) fn clear(&mut self) {
        self.keys.clear();
        self.all.clear();
        self.left.clear();
    }

    /// A new row of a table without a key.
    pub(super) fn append(&mut self, relation: usize, new: TupleAt) {
        self.all.push(Row {
            relation,
            origin: None,
            key: Key::default(),
            is_key_new: false,
            newest: Some(new),
            carried: Vec::new(),
            is_alive: true,
            is_unsure: false,
        });
    }

    /// A new row.
    pub(super) fn insert(
        &mut self,
        relation: usize,
        key: Key,
        new: TupleAt,
    ) -> Result<(), Contradiction> {
        let is_key_new = self.arrive(key)?;
        self.push(Row {
            relation,
            origin: None,
            key,
            is_key_new,
            newest: Some(new),
            carried: Vec::new(),
            is_alive: true,
            is_unsure: false,
        });
        Ok(())
    }

    /// A row that is there from now on, whether it was before or not. `is_whole`: its tuple tells all.
    pub(super) fn put(
        &mut self,
        relation: usize,
        (old_key, new_key): (Key, Key),
        new: TupleAt,
        is_whole: bool,
        bodies: &(impl Bodies + ?Sized),
    ) -> Put {
        let done = |result: Result<(), Contradiction>| match result {
            Ok(()) => Put::Done,
            Err(Contradiction) => Put::Contradicts,
        };
        let is_moved = self.keys.bytes(old_key) != self.keys.bytes(new_key);
        match self.keys.holder(old_key) {
            Some(Holder::Row(number)) => {
                // Where it came from is not sure, and a row that moves is looked for there.
                if is_moved && self.all.get(number).is_none_or(|row| row.is_unsure) {
                    return Put::Slow;
                }
                done(self.update(relation, (old_key, new_key), new, bodies))
            }
            Some(Holder::Nobody) if is_whole => done(self.insert(relation, new_key, new)),
            None if !is_moved => {
                let number = self.push(Row {
                    relation,
                    origin: Some(old_key),
                    key: old_key,
                    is_key_new: false,
                    newest: Some(new),
                    carried: Vec::new(),
                    is_alive: true,
                    is_unsure: true,
                });
                self.keys.give(old_key, Holder::Row(number));
                Put::Done
            }
            Some(Holder::Nobody) | None => Put::Slow,
        }
    }

    /// A row that is gone from now on, if it was there at all.
    pub(super) fn remove(&mut self, relation: usize, key: Key) {
        let number = match self.keys.holder(key) {
            Some(Holder::Nobody) => return,
            Some(Holder::Row(number)) => number,
            None => self.push(Row {
                relation,
                origin: Some(key),
                key,
                is_key_new: false,
                newest: None,
                carried: Vec::new(),
                is_alive: true,
                is_unsure: true,
            }),
        };
        self.keys.give(key, Holder::Nobody);
        if let Some(row) = self.all.get_mut(number) {
            row.is_alive = false;
            if row.is_key_new {
                self.left.push((row.relation, row.key));
            }
        }
    }

    /// A row that changed, and maybe its key.
    pub(super) fn update(
        &mut self,
        relation: usize,
        (old_key, new_key): (Key, Key),
        new: TupleAt,
        bodies: &(impl Bodies + ?Sized),
    ) -> Result<(), Contradiction> {
        let number = self.meet(relation, old_key)?;
        let is_moved = self.keys.bytes(old_key) != self.keys.bytes(new_key);
        let is_key_new = is_moved && self.arrive(new_key)?;
        let Some(row) = self.all.get_mut(number) else {
            return Err(Contradiction);
        };
        if row.relation != relation {
            // Other columns under other numbers: what is carried would be another column's.
            return Err(Contradiction);
        }
        row.take(new, bodies);
        if is_moved {
            if row.is_key_new {
                self.left.push((relation, row.key));
            }
            row.key = new_key;
            row.is_key_new = is_key_new;
            self.keys.give(old_key, Holder::Nobody);
            self.keys.give(new_key, Holder::Row(number));
        }
        Ok(())
    }

    /// A row that is gone.
    pub(super) fn delete(&mut self, relation: usize, key: Key) -> Result<(), Contradiction> {
        let number = self.meet(relation, key)?;
        self.keys.give(key, Holder::Nobody);
        let row = self.all.get_mut(number).ok_or(Contradiction)?;
        row.is_alive = false;
        if row.is_key_new {
            self.left.push((row.relation, row.key));
        }
        Ok(())
    }

    /// Whether a key that a row comes to is new to the epoch.
    fn arrive(&self, key: Key) -> Result<bool, Contradiction> {
        match self.keys.holder(key) {
            Some(Holder::Row(_)) => Err(Contradiction),
            held => Ok(held.is_none()),
        }
    }

    /// The row of a key: one that the epoch knows, or one of the destination, seen for the first time.
    fn meet(&mut self, relation: usize, key: Key) -> Result<usize, Contradiction> {
        match self.keys.holder(key) {
            Some(Holder::Row(number)) => Ok(number),
            Some(Holder::Nobody) => Err(Contradiction),
            None => Ok(self.push(Row {
                relation,
                origin: Some(key),
                key,
                is_key_new: false,
                newest: None,
                carried: Vec::new(),
                is_alive: true,
                is_unsure: false,
            })),
        }
    }

    fn push(&mut self, row: Row) -> usize {
        let number = self.all.len();
        self.keys.give(row.key, Holder::Row(number));
        self.all.push(row);
        number
    }
}

impl Row {
    /// Whether the destination has it under another key than it has now.
    pub(super) fn is_moved(&self, keys: &Keys) -> bool {
        self.origin
            .is_some_and(|origin| keys.bytes(origin) != keys.bytes(self.key))
    }

    /// Takes newer values over.
    fn take(&mut self, new: TupleAt, bodies: &(impl Bodies + ?Sized)) {
        let mut carried = Vec::new();
        for (column, cell) in (0_u16..).zip(bodies.tuple(new).cells()) {
            if cell == Cell::Unchanged
                && let Some(holder) = self.holder_of(column, bodies)
            {
                carried.push((column, holder));
            }
        }
        self.carried = carried;
        self.newest = Some(new);
    }

    /// The tuple of this epoch that holds a column's present value.
    fn holder_of(&self, column: u16, bodies: &(impl Bodies + ?Sized)) -> Option<TupleAt> {
        let newest = self.newest?;
        match bodies.tuple(newest).cells().nth(usize::from(column)) {
            Some(Cell::Unchanged) | None => self
                .carried
                .iter()
                .find(|(carried, _)| *carried == column)
                .map(|(_, holder)| *holder),
            Some(_) => Some(newest),
        }
    }
}
