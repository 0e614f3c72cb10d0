//! `NetEffect`: an epoch's changes as arrays and COPY rows for a few statements.
//!
//! Upstream: bodies of change envelopes, and the writer's answer per relation. Downstream:
//! `pgflo_core::apply::Net` collects; Python runs a statement for each group.

use std::sync::Mutex;

use pgflo_core::CoreError;
use pgflo_core::apply::{self, Kind, NetStep, Unfit};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::boundary::{self, Bytes};
use crate::replay::position;
use crate::step::{Relation, described};

/// What becomes of a relation's changes.
#[pyclass(frozen, module = "pgflo._core")]
pub struct Route(apply::Route);

/// Work for one statement.
#[pyclass(frozen, get_all, module = "pgflo._core")]
pub struct Group {
    kind: char,
    relation_oid: u32,
    columns: Vec<u16>,
    rows: u64,
    expected: Option<u64>,
    data: Vec<Py<PyBytes>>,
}

/// Collects net effects.
#[pyclass(frozen, module = "pgflo._core")]
#[derive(Default)]
pub struct NetEffect(Mutex<apply::Net<Bytes>>);

type Body = (Bytes, (u64, u64));

#[pymethods]
impl Route {
    #[new]
    #[pyo3(signature = (target, key, written, delimiters, *, updates, slow))]
    const fn new(
        target: u32,
        key: Option<Vec<u16>>,
        written: Vec<u16>,
        delimiters: Vec<u8>,
        updates: bool,
        slow: bool,
    ) -> Self {
        Self(apply::Route {
            target,
            key,
            written,
            delimiters,
            updates,
            slow,
        })
    }
}

#[pymethods]
impl NetEffect {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Takes the bodies of an epoch.
    fn load(&self, py: Python<'_>, bodies: Vec<Body>, after: (u64, u64)) -> PyResult<()> {
        let bodies = bodies
            .into_iter()
            .map(|(body, prev)| (body, position(prev)))
            .collect();
        self.with(py, |net| {
            net.load(bodies, position(after));
            Ok(())
        })
    }

    /// Collects until the bodies are done, or a relation is to be answered, or the epoch is unfit.
    fn run(&self, py: Python<'_>) -> PyResult<(String, Option<Py<Relation>>)> {
        let why = |why: &str| Ok((why.to_owned(), None));
        match self.with(py, apply::Net::run)? {
            NetStep::Done => why("done"),
            NetStep::Relation(relation, _) => {
                Ok(("relation".to_owned(), Some(described(py, &relation)?)))
            }
            NetStep::Unfit(Unfit::Truncate) => why("truncate"),
            NetStep::Unfit(Unfit::Relation) => why("changed relation"),
            NetStep::Unfit(Unfit::Contradiction) => why("contradiction"),
        }
    }

    /// Answers a relation.
    fn answer(&self, py: Python<'_>, relation_oid: u32, route: &Route) -> PyResult<()> {
        let route = route.0.clone();
        self.with(py, |net| Ok(net.answer(relation_oid, route)?))
    }

    /// Changes met, and those of them that replay has to take.
    fn counts(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        self.with(py, |net| Ok((net.changes(), net.slow_changes())))
    }

    /// Relations that replay has to take.
    fn slow_relations(&self, py: Python<'_>) -> PyResult<Vec<u32>> {
        self.with(py, |net| Ok(net.slow_relations()))
    }

    /// What was collected, and lets go of it.
    fn take(&self, py: Python<'_>) -> PyResult<Vec<Group>> {
        let groups = self.with(py, |net| {
            let groups = net.groups()?;
            net.clear();
            Ok(groups)
        })?;
        Ok(groups.into_iter().map(|group| shown(py, group)).collect())
    }

    /// Drops relations and their routes, and what is collected.
    fn forget_all(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |net| {
            net.forget_all();
            Ok(())
        })
    }

    /// Drops what is collected.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |net| {
            net.clear();
            Ok(())
        })
    }
}

impl NetEffect {
    /// Runs `work` on the core's own object.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut apply::Net<Bytes>) -> Result<T, CoreError> + Send,
    ) -> PyResult<T> {
        boundary::locked(py, &self.0, "net effects stopped at an earlier panic", work)
    }
}

fn shown(py: Python<'_>, group: apply::Group) -> Group {
    Group {
        kind: match group.kind {
            Kind::Delete => 'D',
            Kind::Update => 'U',
            Kind::Put => 'P',
            Kind::Insert => 'I',
        },
        relation_oid: group.relation_oid,
        columns: group.columns,
        rows: group.rows,
        expected: group.expected,
        data: group
            .data
            .iter()
            .map(|data| PyBytes::new(py, data).unbind())
            .collect(),
    }
}
