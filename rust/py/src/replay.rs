//! `Replay`: the changes of an envelope as prepared statements on psycopg's connection.
//!
//! Upstream: bodies of change envelopes, and the worker's statements per shape. Downstream:
//! `pgflo_core::apply` decides, `pgflo_pump::Pipeline` sends. Invariant: when a call returns, the
//! connection is out of pipeline mode and nothing is in flight.

use std::ffi::CString;
use std::sync::Mutex;

use pgflo_core::apply::{self, Call, Conflict, Source};
use pgflo_core::{CoreError, Lsn, Position};
use pgflo_pump::Pipeline;
use pyo3::prelude::*;

use crate::boundary::{self, Bytes};
use crate::error::raise_plain;
use crate::pump::Pump;
use crate::step::{Step, Tally};

/// A prepared statement and where its parameters come from.
#[pyclass(frozen, module = "pgflo._core")]
pub struct Statement(apply::Statement);

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
    #[pyo3(signature = (body, prev, after, only = None))]
    fn load(
        &self,
        py: Python<'_>,
        body: Bytes,
        prev: (u64, u64),
        after: (u64, u64),
        only: Option<Vec<u32>>,
    ) -> PyResult<()> {
        self.with(py, |replay| {
            replay.load(body, position(prev), position(after), only);
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
    /// Runs `work` on the core's own object.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut apply::Replay<Bytes>) -> Result<T, CoreError> + Send,
    ) -> PyResult<T> {
        boundary::locked(py, &self.replay, "replay stopped at an earlier panic", work)
    }
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

pub const fn position((commit_lsn, ordinal): (u64, u64)) -> Position {
    Position::new(Lsn(commit_lsn), ordinal)
}
