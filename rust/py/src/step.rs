//! `Step` and what it shows: why replay returned, in Python's words.
//!
//! Upstream: `pgflo_core::apply::Step`. Downstream: the worker, which answers it.

use pgflo_core::Position;
use pgflo_core::apply::{
    self, CONNECTION_FAILURE, Cause, Conflict, Conflicts, Op, Place, Presence,
};
use pgflo_core::pgoutput::OldKind;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::boundary::Bytes;

/// Values of `Step.kind`: the body is applied.
pub const STEP_DONE: u8 = 0;
/// A relation is new or changed.
pub const STEP_RELATION: u8 = 1;
/// A shape has no statement yet.
pub const STEP_STATEMENT: u8 = 2;
/// A TRUNCATE stands here.
pub const STEP_TRUNCATE: u8 = 3;
/// A transactional logical message stands here.
pub const STEP_MESSAGE: u8 = 4;
/// A change could not be applied.
pub const STEP_FAILED: u8 = 5;

/// `Step.matched_rows` where no row count is the trouble.
const NOT_COUNTED: i64 = -1;

/// A column of a relation as the source describes it.
#[pyclass(frozen, get_all, eq, module = "pgflo._core")]
#[derive(PartialEq, Eq)]
pub struct Column {
    name: String,
    type_oid: u32,
    typmod: i32,
    key: bool,
}

/// A relation as the source describes it.
#[pyclass(frozen, get_all, module = "pgflo._core")]
pub struct Relation {
    oid: u32,
    version: u32,
    schema: String,
    name: String,
    replica_identity: char,
    columns: Vec<Py<Column>>,
}

/// What a statement must do.
#[pyclass(frozen, get_all, module = "pgflo._core")]
pub struct Shape {
    id: u32,
    relation_oid: u32,
    op: char,
    old: &'static str,
    unchanged: Py<PyTuple>,
    careful: bool,
    presence: &'static str,
}

/// Why `Replay.run` returned.
#[pyclass(frozen, get_all, module = "pgflo._core")]
pub struct Step {
    kind: u8,
    relation: Option<Py<Relation>>,
    shape: Option<Py<Shape>>,
    truncated: Vec<Py<Relation>>,
    cascade: bool,
    restart_identity: bool,
    prefix: String,
    content: Py<PyBytes>,
    commit_lsn: u64,
    ordinal: u64,
    sqlstate: String,
    constraint: String,
    column: String,
    matched_rows: i64,
    changes: u64,
    conflicts: Vec<(u32, &'static str, u64, (u64, u64))>,
}

/// How far replay is.
pub struct Tally {
    /// The last change dealt with or skipped.
    pub position: Position,
    /// Changes since `load`.
    pub changes: u64,
    /// What careful replay met since `load`.
    pub conflicts: Conflicts,
}

impl Tally {
    /// Reads it off.
    pub fn of(replay: &apply::Replay<Bytes>) -> Self {
        Self {
            position: replay.position(),
            changes: replay.changes(),
            conflicts: replay.conflicts().clone(),
        }
    }
}

impl Step {
    fn bare(py: Python<'_>, kind: u8, position: Position, tally: &Tally) -> Self {
        let conflicts = tally.conflicts.met().iter().map(|met| {
            let kind = match met.conflict {
                Conflict::InsertExists => "insert_exists",
                Conflict::UpdateMissing => "update_missing",
                Conflict::DeleteMissing => "delete_missing",
            };
            let Place {
                position,
                relation_oid,
            } = met.first;
            let first = (position.commit_lsn.0, position.ordinal);
            (relation_oid, kind, met.changes, first)
        });
        Self {
            kind,
            relation: None,
            shape: None,
            truncated: Vec::new(),
            cascade: false,
            restart_identity: false,
            prefix: String::new(),
            content: PyBytes::new(py, &[]).unbind(),
            commit_lsn: position.commit_lsn.0,
            ordinal: position.ordinal,
            sqlstate: String::new(),
            constraint: String::new(),
            column: String::new(),
            matched_rows: NOT_COUNTED,
            changes: tally.changes,
            conflicts: conflicts.collect(),
        }
    }

    /// Shows a step of the core.
    pub fn new(py: Python<'_>, step: apply::Step, tally: &Tally) -> PyResult<Self> {
        let bare = |kind, position| Self::bare(py, kind, position, tally);
        Ok(match step {
            apply::Step::Done => bare(STEP_DONE, tally.position),
            apply::Step::Relation(relation, place) => Self {
                relation: Some(described(py, &relation)?),
                ..bare(STEP_RELATION, place.position)
            },
            apply::Step::Statement(shape, place) => Self {
                shape: Some(shaped(py, &shape)?),
                ..bare(STEP_STATEMENT, place.position)
            },
            apply::Step::Truncate {
                relations,
                cascade,
                restart_identity,
                place,
            } => Self {
                truncated: relations
                    .iter()
                    .map(|relation| described(py, relation))
                    .collect::<PyResult<_>>()?,
                cascade,
                restart_identity,
                ..bare(STEP_TRUNCATE, place.position)
            },
            apply::Step::Message {
                prefix,
                content,
                place,
            } => Self {
                prefix,
                content: PyBytes::new(py, &content).unbind(),
                ..bare(STEP_MESSAGE, place.position)
            },
            apply::Step::Failed(refusal, relation) => {
                let relation = relation
                    .map(|relation| described(py, &relation))
                    .transpose()?;
                let failed = Self {
                    relation,
                    ..bare(STEP_FAILED, refusal.place.position)
                };
                failed.because(refusal.cause)
            }
        })
    }

    fn because(self, cause: Cause) -> Self {
        match cause {
            Cause::Rows(rows) => Self {
                matched_rows: i64::try_from(rows).unwrap_or(i64::MAX),
                ..self
            },
            Cause::Server {
                sqlstate,
                constraint,
                column,
            } => Self {
                sqlstate,
                constraint,
                column,
                ..self
            },
            Cause::Lost => Self {
                sqlstate: CONNECTION_FAILURE.to_owned(),
                ..self
            },
        }
    }
}

pub fn described(py: Python<'_>, relation: &apply::Relation) -> PyResult<Py<Relation>> {
    let columns = relation.columns.iter().map(|column| {
        let apply::Column {
            name,
            type_oid,
            typmod,
            key,
        } = column.clone();
        Py::new(
            py,
            Column {
                name,
                type_oid,
                typmod,
                key,
            },
        )
    });
    let relation = Relation {
        oid: relation.oid,
        version: relation.version,
        schema: relation.schema.clone(),
        name: relation.name.clone(),
        replica_identity: char::from(relation.replica_identity),
        columns: columns.collect::<PyResult<_>>()?,
    };
    Py::new(py, relation)
}

/// What is known of a row, in a word.
pub const fn presence(presence: Presence) -> &'static str {
    match presence {
        Presence::Sure => "",
        Presence::Maybe => "maybe",
        Presence::Stays => "stays",
        Presence::Undecided => "undecided",
    }
}

fn shaped(py: Python<'_>, shape: &apply::Shape) -> PyResult<Py<Shape>> {
    let op = match shape.op {
        Op::Insert => 'I',
        Op::Update => 'U',
        Op::Delete => 'D',
    };
    let old = match shape.old {
        None => "",
        Some(OldKind::Key) => "K",
        Some(OldKind::Row) => "O",
    };
    let unchanged = PyTuple::new(py, &shape.unchanged)?.unbind();
    let presence = presence(shape.presence);
    let (id, relation_oid, careful) = (shape.id, shape.relation_oid, shape.careful);
    Py::new(
        py,
        Shape {
            id,
            relation_oid,
            op,
            old,
            unchanged,
            careful,
            presence,
        },
    )
}
