//! Rows to groups: what one statement can do at once.
//!
//! Deletes of a table are one group; keys where no row may be found are another. Updates are grouped by relation, by the columns that are set, and by
//! whether the key is among them. Inserts are grouped by relation and keep the order in which their rows
//! came. Deletes and updates are sorted by key, so that the destination touches each page once. Rows that
//! rules may have kept out until now are groups of their own: deletes of any count, and puts.
//!
//! Invariant: `expected` is how many rows the statement touches if the destination was as the source
//! was: each of them, or none. A sum of both would let a row too few and a row too many pass.

use super::encode::{ArrayText, copy_cell, copy_end};
use super::keys::{Key, Keys};
use super::rows::{Bodies, Row, Rows};
use super::scan::Route;
use crate::pgoutput::Cell;

/// What a group does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `data`: an array for each key column.
    Delete,
    /// `data`: an array for each key column, of the keys that the rows have so far; then one for each of
    /// `columns`, of the values that they get.
    Update,
    /// `data`: an array for each of `columns`, the key's among them. A row that is there is updated.
    Put,
    /// `data`: rows of COPY's text format with `columns`.
    Insert,
}

/// Work for one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What it does.
    pub kind: Kind,
    /// The relation whose numbers `columns` are.
    pub relation_oid: u32,
    /// The columns that are written; none for a delete.
    pub columns: Vec<u16>,
    /// Rows in `data`.
    pub rows: u64,
    /// Rows that the statement must touch; none: however many there are.
    pub expected: Option<u64>,
    /// See [`Kind`].
    pub data: Vec<Vec<u8>>,
}

/// Makes the groups, in the order in which they are to run: deletes, updates, inserts. `wanted` gives
/// OID and route of a relation by its number, and none if replay takes it. None: a cell had no text.
pub(super) fn groups<'r>(
    rows: &'r Rows,
    bodies: &(impl Bodies + ?Sized),
    wanted: impl Fn(usize) -> Option<(u32, &'r Route)>,
) -> Option<Vec<Group>> {
    let mut plan = Plan::default();
    for row in &rows.all {
        let Some(of) = wanted(row.relation) else {
            continue;
        };
        match (row.is_alive, row.origin) {
            (false, None) => {} // its key is among those it left
            (false, Some(origin)) if row.is_unsure => delete(&mut plan.unsure, of, origin),
            (false, Some(origin)) => delete(&mut plan.deletes, of, origin),
            (true, None) => plan.insert(of, row),
            (true, Some(_)) if row.is_unsure && is_whole(row, &rows.keys, bodies) => {
                plan.put(of, row);
            }
            (true, Some(origin)) => plan.update(of, row, row.is_moved(&rows.keys), origin, bodies),
        }
    }
    for (relation, key) in &rows.left {
        if let Some(of) = wanted(*relation) {
            delete(&mut plan.absent_rows, of, *key);
        }
    }
    plan.encode(&rows.keys, bodies)
}

#[derive(Default)]
struct Plan<'r> {
    deletes: Vec<Deletes<'r>>,
    /// Deletes that must find nothing. They run when the others have.
    absent_rows: Vec<Deletes<'r>>,
    /// Deletes that may find something or not.
    unsure: Vec<Deletes<'r>>,
    puts: Vec<Puts<'r>>,
    updates: Vec<Updates<'r>>,
    inserts: Vec<Inserts<'r>>,
    /// Filled again for every update.
    absent: Vec<u16>,
}

struct Deletes<'r> {
    of: (u32, &'r Route),
    keys: Vec<Key>,
}

fn delete<'r>(deletes: &mut Vec<Deletes<'r>>, of: (u32, &'r Route), key: Key) {
    let target = of.1.target;
    let found = deletes.iter_mut().find(|d| d.of.1.target == target);
    match found {
        Some(deletes) => deletes.keys.push(key),
        None => deletes.push(Deletes {
            of,
            keys: vec![key],
        }),
    }
}

struct Updates<'r> {
    of: (u32, &'r Route),
    is_move: bool,
    /// Columns that no tuple of the epoch holds.
    absent: Vec<u16>,
    rows: Vec<(Key, &'r Row)>,
}

/// Rows that are there in the end, whether they were before or not.
struct Puts<'r> {
    of: (u32, &'r Route),
    rows: Vec<&'r Row>,
}

struct Inserts<'r> {
    of: (u32, &'r Route),
    rows: Vec<&'r Row>,
}

impl<'r> Plan<'r> {
    fn update(
        &mut self,
        of: (u32, &'r Route),
        row: &'r Row,
        is_move: bool,
        origin: Key,
        bodies: &(impl Bodies + ?Sized),
    ) {
        self.absent.clear();
        for (column, cell) in cells_of(row, bodies) {
            if cell == Cell::Unchanged {
                self.absent.push(column);
            }
        }
        let found = self
            .updates
            .iter()
            .position(|u| u.of.0 == of.0 && u.is_move == is_move && u.absent == self.absent);
        let place = found.unwrap_or_else(|| {
            self.updates.push(Updates {
                of,
                is_move,
                absent: self.absent.clone(),
                rows: Vec::new(),
            });
            self.updates.len() - 1
        });
        if let Some(updates) = self.updates.get_mut(place) {
            updates.rows.push((origin, row));
        }
    }

    fn put(&mut self, of: (u32, &'r Route), row: &'r Row) {
        match self.puts.iter_mut().find(|puts| puts.of.0 == of.0) {
            Some(puts) => puts.rows.push(row),
            None => self.puts.push(Puts {
                of,
                rows: vec![row],
            }),
        }
    }

    fn insert(&mut self, of: (u32, &'r Route), row: &'r Row) {
        let found = self.inserts.iter().position(|i| i.of.0 == of.0);
        let place = found.unwrap_or_else(|| {
            self.inserts.push(Inserts {
                of,
                rows: Vec::new(),
            });
            self.inserts.len() - 1
        });
        if let Some(inserts) = self.inserts.get_mut(place) {
            inserts.rows.push(row);
        }
    }

    fn encode(self, keys: &Keys, bodies: &(impl Bodies + ?Sized)) -> Option<Vec<Group>> {
        let all = |rows| Some(rows);
        let deletes = self.deletes.into_iter().map(|d| d.encode(keys, all));
        let unsure = self.unsure.into_iter().map(|d| d.encode(keys, |_| None));
        let absent_rows = self
            .absent_rows
            .into_iter()
            .map(|d| d.encode(keys, |_| Some(0)));
        let puts = self.puts.into_iter().map(|puts| puts.encode(keys, bodies));
        let updates = self
            .updates
            .into_iter()
            .map(|updates| updates.encode(keys, bodies))
            .filter(|group| !group.as_ref().is_some_and(|g| g.columns.is_empty()));
        let inserts = self.inserts.into_iter().map(|i| i.encode(bodies));
        let deletes = deletes.chain(unsure).chain(absent_rows);
        deletes.chain(updates).chain(puts).chain(inserts).collect()
    }
}

impl Deletes<'_> {
    /// `expected` gives how many rows must be there, of so many.
    fn encode(mut self, keys: &Keys, expected: impl Fn(u64) -> Option<u64>) -> Option<Group> {
        self.keys
            .sort_unstable_by(|a, b| keys.bytes(*a).cmp(keys.bytes(*b)));
        let mut arrays = key_arrays(self.of.1);
        for key in &self.keys {
            push_key(&mut arrays, keys, *key)?;
        }
        let rows = count(self.keys.len());
        Some(Group {
            kind: Kind::Delete,
            relation_oid: self.of.0,
            columns: Vec::new(),
            rows,
            expected: expected(rows),
            data: arrays.into_iter().map(ArrayText::finish).collect(),
        })
    }
}

impl Updates<'_> {
    fn encode(mut self, keys: &Keys, bodies: &(impl Bodies + ?Sized)) -> Option<Group> {
        let route = self.of.1;
        let columns = self.columns();
        self.rows
            .sort_unstable_by(|(a, _), (b, _)| keys.bytes(*a).cmp(keys.bytes(*b)));
        let mut key_arrays = key_arrays(route);
        let mut arrays: Vec<ArrayText> = columns.iter().map(|c| array_of(route, *c)).collect();
        for (origin, row) in &self.rows {
            push_key(&mut key_arrays, keys, *origin)?;
            let mut wanted = columns.iter().zip(&mut arrays).peekable();
            for (column, cell) in cells_of(row, bodies) {
                if let Some((_, array)) = wanted.next_if(|(number, _)| **number == column) {
                    array.push(cell).then_some(())?;
                }
            }
        }
        let rows = count(self.rows.len());
        Some(Group {
            kind: Kind::Update,
            relation_oid: self.of.0,
            columns,
            rows,
            expected: Some(rows),
            data: key_arrays
                .into_iter()
                .chain(arrays)
                .map(ArrayText::finish)
                .collect(),
        })
    }

    /// What is set: all that is known, and the key only where it changes.
    fn columns(&self) -> Vec<u16> {
        let route = self.of.1;
        let is_key = |column: &u16| route.key.as_ref().is_some_and(|key| key.contains(column));
        let written = route.written.iter().copied();
        written
            .filter(|column| !self.absent.contains(column) && (self.is_move || !is_key(column)))
            .collect()
    }
}

impl Puts<'_> {
    fn encode(mut self, keys: &Keys, bodies: &(impl Bodies + ?Sized)) -> Option<Group> {
        let route = self.of.1;
        self.rows
            .sort_unstable_by(|a, b| keys.bytes(a.key).cmp(keys.bytes(b.key)));
        let mut arrays: Vec<ArrayText> =
            route.written.iter().map(|c| array_of(route, *c)).collect();
        for row in &self.rows {
            let mut wanted = route.written.iter().zip(&mut arrays).peekable();
            for (column, cell) in cells_of(row, bodies) {
                if let Some((_, array)) = wanted.next_if(|(number, _)| **number == column) {
                    array.push(cell).then_some(())?;
                }
            }
        }
        let rows = count(self.rows.len());
        Some(Group {
            kind: Kind::Put,
            relation_oid: self.of.0,
            columns: route.written.clone(),
            rows,
            expected: Some(rows),
            data: arrays.into_iter().map(ArrayText::finish).collect(),
        })
    }
}

impl Inserts<'_> {
    fn encode(self, bodies: &(impl Bodies + ?Sized)) -> Option<Group> {
        let route = self.of.1;
        let mut text = Vec::new();
        for row in &self.rows {
            let mut wanted = route.written.iter().copied().peekable();
            let mut is_first = true;
            for (column, cell) in cells_of(row, bodies) {
                if wanted.next_if_eq(&column).is_some() {
                    copy_cell(&mut text, cell, is_first).then_some(())?;
                    is_first = false;
                }
            }
            copy_end(&mut text);
        }
        let rows = count(self.rows.len());
        Some(Group {
            kind: Kind::Insert,
            relation_oid: self.of.0,
            columns: route.written.clone(),
            rows,
            expected: Some(rows),
            data: vec![text],
        })
    }
}

/// Whether the row kept its key, and the epoch tells all of it.
fn is_whole(row: &Row, keys: &Keys, bodies: &(impl Bodies + ?Sized)) -> bool {
    !row.is_moved(keys) && cells_of(row, bodies).all(|(_, cell)| cell != Cell::Unchanged)
}

/// The row's present cells by number; unchanged ones only where no tuple of the epoch holds them.
fn cells_of<'b>(
    row: &Row,
    bodies: &'b (impl Bodies + ?Sized),
) -> impl Iterator<Item = (u16, Cell<'b>)> {
    let newest = row.newest.map(|at| bodies.tuple(at));
    let cells = newest.into_iter().flat_map(|tuple| tuple.cells());
    (0_u16..).zip(cells).map(|(column, cell)| {
        let held = match cell {
            Cell::Unchanged => carried(row, column, bodies),
            _ => None,
        };
        (column, held.unwrap_or(cell))
    })
}

fn carried<'b>(row: &Row, column: u16, bodies: &'b (impl Bodies + ?Sized)) -> Option<Cell<'b>> {
    let (_, holder) = row.carried.iter().find(|(carried, _)| *carried == column)?;
    bodies.tuple(*holder).cells().nth(usize::from(column))
}

fn key_arrays(route: &Route) -> Vec<ArrayText> {
    let columns = route.key.iter().flatten();
    columns.map(|column| array_of(route, *column)).collect()
}

fn array_of(route: &Route, column: u16) -> ArrayText {
    let delimiter = route.delimiters.get(usize::from(column));
    ArrayText::new(delimiter.copied().unwrap_or(b','))
}

fn push_key(arrays: &mut [ArrayText], keys: &Keys, key: Key) -> Option<()> {
    let mut cells = keys.cells(key);
    for array in arrays {
        array.push(Cell::Text(cells.next()?)).then_some(())?;
    }
    Some(())
}

/// A length as a count of rows.
fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
