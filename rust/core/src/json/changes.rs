//! A body's changes as lines.
//!
//! Upstream: bodies of change envelopes with the position where they begin. Invariant: a change is printed
//! once per call or not at all, in the order of the body; ordinals are those of the stream.
//!
//! `key` is the row's key behind the change (before it, for a delete), `old` only what the source sent. A
//! column that was not sent is not in `new` but named in `unchanged`, unless the old row has it.

use std::collections::HashMap;

use super::lines::{ID_START, Lines};
use super::moment::moment;
use super::table::{Column, Described, Table};
use super::text::{push_decimal, push_escaped, push_name};
use super::types::Types;
use crate::apply::walk::Walk;
use crate::error::{DecodeError, Reason};
use crate::lsn::Position;
use crate::pgoutput::{self, Begin, Cell, Message, OldKind, Tuple};

/// What an empty schema name means on the wire.
const CATALOG_SCHEMA: &str = "pg_catalog";
const FULL: u8 = b'f';

/// Prints changes. Keeps what it was told of tables from body to body.
#[derive(Debug)]
pub struct Scribe {
    /// `{"id":"shop:5f0c9a12:`
    start: Vec<u8>,
    /// `,"group":"shop"}` and the line feed.
    end: Vec<u8>,
    keys: HashMap<u32, Vec<String>>,
    types: Types,
    tables: HashMap<u32, Known>,
}

#[derive(Debug)]
struct Known {
    /// The message that described it, to notice a change.
    message: Vec<u8>,
    /// How much was known of types then.
    types_version: u64,
    table: Table,
}

/// What is the same for all lines of a transaction.
#[derive(Default)]
struct Transaction {
    lsn: Vec<u8>,
    /// `,"xid":742,"commit_time":"…"` and the end of the line.
    end: Vec<u8>,
}

/// A change of one row, laid out.
#[derive(Default)]
struct Row<'a> {
    op: &'static [u8],
    old_kind: Option<OldKind>,
    old: Vec<Cell<'a>>,
    new: Vec<Cell<'a>>,
}

impl Scribe {
    /// Prints for a group. `keys` names the primary keys of tables that send whole old rows.
    #[must_use]
    pub fn new(group: &str, incarnation: [u8; 16], keys: HashMap<u32, Vec<String>>) -> Self {
        let mut start = ID_START.to_vec();
        push_escaped(&mut start, group.as_bytes());
        start.push(b':');
        for byte in incarnation.iter().take(4) {
            start.extend_from_slice(format!("{byte:02x}").as_bytes());
        }
        start.push(b':');
        let mut end = b",\"group\":".to_vec();
        push_name(&mut end, group);
        end.extend_from_slice(b"}\n");
        Self {
            start,
            end,
            keys,
            types: Types::default(),
            tables: HashMap::new(),
        }
    }

    /// Prints values of these types by what they are made of.
    #[must_use]
    pub fn with_types(mut self, types: Types) -> Self {
        self.types = types;
        self
    }

    pub(super) const fn types(&self) -> &Types {
        &self.types
    }

    pub(super) fn start(&self) -> &[u8] {
        &self.start
    }

    pub(super) fn end(&self) -> &[u8] {
        &self.end
    }

    /// Appends the changes of a body behind `after`. The chain stood at `prev` before it. Gives where it
    /// stands then.
    ///
    /// # Errors
    /// A body that is malformed, a relation that was not described, a value that is not UTF-8. The lines
    /// that were appended then mean nothing.
    pub fn write(
        &mut self,
        body: &[u8],
        prev: Position,
        after: Position,
        lines: &mut Lines,
    ) -> Result<Position, DecodeError> {
        let mut walk = Walk::new(prev);
        let mut transaction = Transaction::default();
        let mut row = Row::default();
        let mut place = Place::default();
        while let Some(next) = walk.peek(body)? {
            let position = walk.next_position();
            if next.message.is_change() {
                place.move_to(position.ordinal);
            }
            let written = match next.message {
                Message::Begin(begin) => {
                    place = Place::default();
                    transaction = self.begin(&begin);
                    Ok(())
                }
                Message::Type(announced) => {
                    self.types.announce(&announced);
                    Ok(())
                }
                Message::Relation(described) => {
                    self.describe(next.bytes, &described);
                    Ok(())
                }
                Message::Truncate(truncate) if position > after => {
                    self.truncate(&truncate, &transaction, place, lines)
                }
                message if position > after => match row.lay_out(message) {
                    Some(oid) => self.row(oid, &row, &transaction, place, lines),
                    None => Ok(()),
                },
                _ => Ok(()),
            };
            written.map_err(|reason| walk.error(&next, reason))?;
            walk.pass(&next)?;
        }
        Ok(walk.position())
    }

    fn begin(&self, begin: &Begin) -> Transaction {
        let mut end = b",\"xid\":".to_vec();
        push_decimal(&mut end, u64::from(begin.xid));
        end.extend_from_slice(b",\"commit_time\":\"");
        end.extend_from_slice(moment(begin.commit_time_us).as_bytes());
        end.push(b'"');
        end.extend_from_slice(&self.end);
        Transaction {
            lsn: begin.final_lsn.to_string().into_bytes(),
            end,
        }
    }

    fn describe(&mut self, message: &[u8], described: &pgoutput::Relation<'_>) {
        let types_version = self.types.version();
        let known = self.tables.get(&described.oid);
        if known.is_some_and(|k| k.message == message && k.types_version == types_version) {
            return;
        }
        let schema = match described.schema {
            "" => CATALOG_SCHEMA,
            schema => schema,
        };
        let named = self.keys.get(&described.oid);
        let columns = described.columns().map(|column| Described {
            name: column.name,
            type_oid: column.type_oid,
            is_key: match (described.replica_identity, named) {
                (FULL, Some(key)) => key.iter().any(|name| name == column.name),
                (FULL, None) => false,
                _ => column.key,
            },
        });
        let known = Known {
            message: message.to_vec(),
            types_version,
            table: Table::new(described.oid, schema, described.name, columns, &self.types),
        };
        self.tables.insert(described.oid, known);
    }

    fn table(&self, oid: u32) -> Result<&Table, Reason> {
        let known = self.tables.get(&oid).ok_or(Reason::UnknownRelation(oid))?;
        Ok(&known.table)
    }

    fn row(
        &self,
        oid: u32,
        row: &Row<'_>,
        transaction: &Transaction,
        place: Place,
        lines: &mut Lines,
    ) -> Result<(), Reason> {
        let table = self.table(oid)?;
        let columns = table.columns.len();
        for cells in [&row.old, &row.new] {
            if !cells.is_empty() && cells.len() != columns {
                let found = cells.len();
                return Err(Reason::OtherColumns { columns, found });
            }
        }
        let out = &mut lines.data;
        let id_bytes = self.open(out, transaction, place, None, row.op, table);
        let now = if row.new.is_empty() {
            &row.old
        } else {
            &row.new
        };
        if table.has_key {
            out.extend_from_slice(b",\"key\":");
            table.push_row(out, now, |column| column.is_key)?;
        }
        if row.has_new() {
            out.extend_from_slice(b",\"new\":");
            table.push_row(out, &row.new, |_| true)?;
        }
        if let Some(kind) = row.old_kind {
            out.extend_from_slice(b",\"old\":");
            // A row identified by all its columns sends them all; else the rest was not sent.
            table.push_row(out, &row.old, |c| kind == OldKind::Row || c.is_key)?;
        }
        push_unchanged(out, &table.columns, &row.new);
        close(out, transaction, place.ordinal);
        let order = lines.is_marked().then(|| row.order(table)).flatten();
        lines.end_line(id_bytes, order);
        Ok(())
    }

    /// One line for each table; where there are several, the ids tell which.
    fn truncate(
        &self,
        truncate: &pgoutput::Truncate<'_>,
        transaction: &Transaction,
        place: Place,
        lines: &mut Lines,
    ) -> Result<(), Reason> {
        let oids = truncate.relation_oids();
        let has_several = oids.len() > 1;
        for oid in oids {
            let table = self.table(oid)?;
            let name = has_several.then_some(table.id_name.as_slice());
            let out = &mut lines.data;
            let id_bytes = self.open(out, transaction, place, name, b"truncate", table);
            close(out, transaction, place.ordinal);
            lines.end_line(id_bytes, None);
        }
        Ok(())
    }

    /// Appends the beginning of a line; gives the length of its id.
    fn open(
        &self,
        out: &mut Vec<u8>,
        transaction: &Transaction,
        place: Place,
        name: Option<&[u8]>,
        op: &[u8],
        table: &Table,
    ) -> usize {
        let id_at = out.len() + ID_START.len();
        out.extend_from_slice(&self.start);
        out.extend_from_slice(&transaction.lsn);
        out.push(b':');
        push_decimal(out, place.ordinal);
        if let Some(name) = name {
            out.push(b':');
            out.extend_from_slice(name);
        }
        push_route(out, place.route);
        let id_bytes = out.len() - id_at;
        out.extend_from_slice(b"\",\"op\":\"");
        out.extend_from_slice(op);
        out.push(b'"');
        out.extend_from_slice(&table.head);
        id_bytes
    }
}

/// A change in its transaction. Rules may make several of one, which share its ordinal.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    ordinal: u64,
    /// 0 for the first that was made of a change.
    route: u64,
}

impl Place {
    fn move_to(&mut self, ordinal: u64) {
        let is_again = ordinal == self.ordinal;
        self.route = if is_again {
            self.route.saturating_add(1)
        } else {
            0
        };
        self.ordinal = ordinal;
    }
}

/// Appends to an id which of several changes that were made of one it means: nothing for the first, then
/// 2 and so on.
pub(super) fn push_route(out: &mut Vec<u8>, route: u64) {
    if route > 0 {
        out.push(b':');
        push_decimal(out, route.saturating_add(1));
    }
}

fn close(out: &mut Vec<u8>, transaction: &Transaction, ordinal: u64) {
    out.extend_from_slice(b",\"commit_lsn\":\"");
    out.extend_from_slice(&transaction.lsn);
    out.extend_from_slice(b"\",\"ordinal\":");
    push_decimal(out, ordinal);
    out.extend_from_slice(&transaction.end);
}

fn push_unchanged(out: &mut Vec<u8>, columns: &[Column], new: &[Cell<'_>]) {
    let cells = columns.iter().zip(new);
    let unchanged = cells.filter(|(_, cell)| **cell == Cell::Unchanged);
    let mut is_first = true;
    for (column, _) in unchanged {
        let before: &[u8] = if is_first { b",\"unchanged\":[" } else { b"," };
        is_first = false;
        out.extend_from_slice(before);
        out.extend_from_slice(&column.quoted);
    }
    if !is_first {
        out.push(b']');
    }
}

impl<'a> Row<'a> {
    /// Takes the change of a row; gives its table. None for any other message.
    fn lay_out(&mut self, message: Message<'a>) -> Option<u32> {
        let (oid, op, old, new): (_, &[u8], _, _) = match message {
            Message::Insert(insert) => (insert.relation_oid, b"insert", None, Some(insert.new)),
            Message::Update(update) => {
                (update.relation_oid, b"update", update.old, Some(update.new))
            }
            Message::Delete(delete) => {
                let old = Some((delete.old_kind, delete.old));
                (delete.relation_oid, b"delete", old, None)
            }
            _ => return None,
        };
        self.op = op;
        self.old_kind = old.map(|(kind, _)| kind);
        fill(&mut self.old, old.map(|(_, tuple)| tuple));
        fill(&mut self.new, new);
        // The old row is sent whole, also where the new one says unchanged.
        for (new, old) in self.new.iter_mut().zip(&self.old) {
            let is_sent = !matches!(old, Cell::Null | Cell::Unchanged);
            if *new == Cell::Unchanged && (is_sent || self.old_kind == Some(OldKind::Row)) {
                *new = *old;
            }
        }
        Some(oid)
    }

    /// Whether there is a row behind the change, which a table without columns has as well.
    fn has_new(&self) -> bool {
        self.op != b"delete"
    }

    /// What its order is told by; none if it moves a key.
    fn order(&self, table: &Table) -> Option<u64> {
        let order = |cells: &[Cell<'_>]| table.order(cells);
        match (self.old_kind, self.has_new()) {
            (Some(_), true) => {
                let (before, after) = (order(&self.old), order(&self.new));
                (before == after).then_some(after)
            }
            (_, true) => Some(order(&self.new)),
            (_, false) => Some(order(&self.old)),
        }
    }
}

fn fill<'a>(cells: &mut Vec<Cell<'a>>, tuple: Option<Tuple<'a>>) {
    cells.clear();
    cells.extend(tuple.iter().flat_map(Tuple::cells));
}
