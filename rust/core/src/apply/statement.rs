//! Shapes of changes, and the prepared statements that the caller gives for them.
//!
//! Invariant: a statement is checked against its shape when it is registered, so that picking its
//! parameters cannot fail for a reason of configuration.

use std::ffi::CString;

use super::executor::Param;
use super::presence::Presence;
use crate::error::{EnvelopeError, Reason};
use crate::pgoutput::{Cell, OldKind};

/// What a change does to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A new row.
    Insert,
    /// A changed row.
    Update,
    /// A row that is gone.
    Delete,
}

/// Everything a statement depends on besides the values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Its number; never used again for another one.
    pub id: u32,
    /// Which relation, in the version announced last.
    pub relation_oid: u32,
    /// What the change does.
    pub op: Op,
    /// What its old tuple holds, if it has one.
    pub old: Option<OldKind>,
    /// Numbers of the columns whose new value was not sent, ascending, from 0.
    pub unchanged: Vec<u16>,
    /// Whether it is for careful replay.
    pub careful: bool,
    /// What changes of this shape know of their rows.
    pub presence: Presence,
    pub(super) columns: usize,
}

/// Where a parameter comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The new tuple.
    New(u16),
    /// The old tuple.
    Old(u16),
    /// The new tuple, or the old one where the new value was not sent.
    NewOrOld(u16),
}

/// A prepared statement and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Name of the prepared statement on the connection.
    pub name: CString,
    /// Its parameters, in order.
    pub params: Vec<Source>,
}

/// What careful replay may find at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// The row to insert is there.
    InsertExists,
    /// The row to update is not.
    UpdateMissing,
    /// The row to delete is not.
    DeleteMissing,
}

/// What the caller wants done for a shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What runs; nothing for changes that the destination does not want.
    pub call: Option<Call>,
    /// Careful replay: what runs when the first one finds no row.
    pub fallback: Option<Call>,
    /// Careful replay: how finding no row is counted.
    pub conflict: Option<Conflict>,
}

impl Statement {
    pub(super) fn check(&self, shape: &Shape) -> Result<(), EnvelopeError> {
        let calls = [&self.call, &self.fallback];
        calls
            .into_iter()
            .flatten()
            .flat_map(|call| &call.params)
            .try_for_each(|source| shape.has(*source))
    }
}

impl Shape {
    /// Whether changes of this shape carry what `source` asks for.
    fn has(&self, source: Source) -> Result<(), EnvelopeError> {
        let (Source::New(column) | Source::Old(column) | Source::NewOrOld(column)) = source;
        let has_new = self.op != Op::Delete && !self.unchanged.contains(&column);
        let has_old = self.old.is_some();
        let carried = match source {
            Source::New(_) => has_new,
            Source::Old(_) => has_old,
            Source::NewOrOld(_) => has_new || has_old,
        };
        if usize::from(column) >= self.columns {
            Err(EnvelopeError::BadSetting(
                "the statement asks for a column that the relation lacks",
            ))
        } else if carried {
            Ok(())
        } else {
            Err(EnvelopeError::BadSetting(
                "the statement asks for a value that the change lacks",
            ))
        }
    }
}

impl Call {
    /// Picks the parameters of one change.
    ///
    /// # Errors
    /// An old tuple that leaves values out, which the server never sends.
    pub(super) fn pick<'a>(
        &self,
        new: &[Cell<'a>],
        old: &[Cell<'a>],
        params: &mut Vec<Param<'a>>,
    ) -> Result<(), Reason> {
        params.clear();
        for source in &self.params {
            let (cells, column) = match *source {
                Source::New(column) => (new, column),
                Source::Old(column) => (old, column),
                Source::NewOrOld(column) => match new.get(usize::from(column)) {
                    None | Some(Cell::Unchanged) => (old, column),
                    Some(_) => (new, column),
                },
            };
            params.push(match cells.get(usize::from(column)) {
                Some(Cell::Null) => Param::Null,
                Some(Cell::Text(value)) => Param::Text(value),
                Some(Cell::Binary(value)) => Param::Binary(value),
                Some(Cell::Unchanged) | None => {
                    return Err(Reason::UnknownTag {
                        field: "cell",
                        value: b'u',
                    });
                }
            });
        }
        Ok(())
    }
}
