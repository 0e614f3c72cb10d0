//! `Replay`: the changes of an envelope as prepared statements on psycopg's connection.
//!
//! Upstream: bodies of change envelopes, and the worker's statements per shape. Downstream:
//! `pgflo_core::apply` decides, `pgflo_pump::Pipeline` sends. Invariant: when a call returns, the
//! connection is out of pipeline mode and nothing is in flight.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Mutex;

use pgflo_core::apply::{self, CONNECTION_FAILURE, Call, Cause, Conflict, Conflicts, Op, Source};
use pgflo_core::error::EnvelopeError;
use pgflo_core::pgoutput::OldKind;
use pgflo_core::{CoreError, Lsn, Position};
use pgflo_pump::Pipeline;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::boundary::{self, Bytes};
use crate::error::raise_plain;
use crate::pump::Pump;

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
}

/// A prepared statement and where its parameters come from.
#[pyclass(frozen, module = "pgflo._core")]
pub struct Statement(apply::Statement);

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
    matched_rows: i64,
    changes: u64,
    conflicts: BTreeMap<&'static str, u64>,
}

/// Applies changes in source order through prepared statements, pipelined on one connection.
#[pyclass(frozen, module = "pgflo._core")]
pub struct Replay {
    pump: Py<Pump>,
    replay: Mutex<apply::Replay<Bytes>>,
}

type Params = Vec<(String, u16)>;

#[pymethods]
impl Statement {
    #[new]
    #[pyo3(signature = (name, params, fallback = None, conflict = ""))]
    fn new(
        py: Python<'_>,
        name: Option<String>,
        params: Params,
        fallback: Option<(String, Params)>,
        conflict: &str,
    ) -> PyResult<Self> {
        let call = name.map(|name| call_of(py, name, params)).transpose()?;
        let fallback = fallback
            .map(|(name, params)| call_of(py, name, params))
            .transpose()?;
        let conflict = match conflict {
            "" => None,
            "insert_exists" => Some(Conflict::InsertExists),
            "update_missing" => Some(Conflict::UpdateMissing),
            "delete_missing" => Some(Conflict::DeleteMissing),
            _ => return Err(raise_plain(py, "unknown conflict")),
        };
        Ok(Self(apply::Statement {
            call,
            fallback,
            conflict,
        }))
    }
}

#[pymethods]
impl Replay {
    #[new]
    fn new(pump: Py<Pump>) -> Self {
        Self {
            pump,
            replay: Mutex::default(),
        }
    }

    /// Takes one whole logical body.
    fn load(
        &self,
        py: Python<'_>,
        body: Bytes,
        prev: (u64, u64),
        after: (u64, u64),
    ) -> PyResult<()> {
        self.with(py, |replay| {
            replay.load(body, position(prev), position(after));
            Ok(())
        })
    }

    /// Applies until the body is done or Python is needed.
    #[pyo3(signature = (*, careful))]
    fn run(&self, py: Python<'_>, careful: bool) -> PyResult<Step> {
        let mut connection = self.pump.get().connection(py)?;
        let connection = &mut *connection;
        let (step, tally) = self.with(py, |replay| {
            let step = replay.run(&mut Pipeline::new(connection), careful)?;
            Ok((step, Tally::of(replay)))
        })?;
        Step::new(py, step, &tally)
    }

    /// Answers a `STEP_STATEMENT`.
    fn register(&self, py: Python<'_>, shape_id: u32, statement: &Statement) -> PyResult<()> {
        let statement = statement.0.clone();
        self.with(py, |replay| Ok(replay.register(shape_id, statement)?))
    }

    /// Drops the statements of a relation.
    fn forget(&self, py: Python<'_>, relation_oid: u32) -> PyResult<()> {
        self.with(py, |replay| {
            replay.forget(relation_oid);
            Ok(())
        })
    }

    /// Drops all statements.
    fn forget_all(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |replay| {
            replay.forget_all();
            Ok(())
        })
    }
}

impl Replay {
    /// Runs `work` on the replay. Never waits for the interpreter while it holds the lock.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut apply::Replay<Bytes>) -> Result<T, CoreError> + Send,
    ) -> PyResult<T> {
        boundary::run(py, || {
            let broken = |_| EnvelopeError::Finished("replay stopped at an earlier panic");
            work(&mut *self.replay.lock().map_err(broken)?)
        })
    }
}

/// How far replay is.
struct Tally {
    position: Position,
    changes: u64,
    conflicts: Conflicts,
}

impl Tally {
    fn of(replay: &apply::Replay<Bytes>) -> Self {
        Self {
            position: replay.position(),
            changes: replay.changes(),
            conflicts: replay.conflicts(),
        }
    }
}

impl Step {
    fn bare(py: Python<'_>, kind: u8, position: Position, tally: &Tally) -> Self {
        let met = tally.conflicts;
        let conflicts = [
            ("insert_exists", met.insert_exists),
            ("update_missing", met.update_missing),
            ("delete_missing", met.delete_missing),
        ];
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
            matched_rows: NOT_COUNTED,
            changes: tally.changes,
            conflicts: conflicts
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }

    fn new(py: Python<'_>, step: apply::Step, tally: &Tally) -> PyResult<Self> {
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
            } => Self {
                sqlstate,
                constraint,
                ..self
            },
            Cause::Lost => Self {
                sqlstate: CONNECTION_FAILURE.to_owned(),
                ..self
            },
        }
    }
}

fn described(py: Python<'_>, relation: &apply::Relation) -> PyResult<Py<Relation>> {
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
        },
    )
}

fn call_of(py: Python<'_>, name: String, params: Params) -> PyResult<Call> {
    let params = params
        .into_iter()
        .map(|(source, column)| match source.as_str() {
            "new" => Ok(Source::New(column)),
            "old" => Ok(Source::Old(column)),
            "new_or_old" => Ok(Source::NewOrOld(column)),
            _ => Err(raise_plain(py, "unknown source of a parameter")),
        });
    let name = CString::new(name).map_err(|_| raise_plain(py, "statement name with a NUL byte"))?;
    Ok(Call {
        name,
        params: params.collect::<PyResult<_>>()?,
    })
}

const fn position((commit_lsn, ordinal): (u64, u64)) -> Position {
    Position::new(Lsn(commit_lsn), ordinal)
}
