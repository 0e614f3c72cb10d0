//! `Splitter`: the bodies of an epoch into one body for each shard. `sift`: a body without what copies hold.
//!
//! Upstream: the worker's dispatcher, which also says where each table goes. Downstream:
//! `pgflo_core::apply`, and writers, which replay the slices.

use std::collections::HashMap;
use std::sync::Mutex;

use pgflo_core::apply::split::{self, Route};
use pgflo_core::{CoreError, Lsn, apply};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::boundary::{self, Bytes};
use crate::replay::position;
use crate::step::{Relation, described};

/// See the core's `apply::split`.
#[pyclass(frozen, module = "pgflo._core")]
pub struct Splitter {
    inner: Mutex<split::Splitter<Bytes>>,
}

type Slices<'py> = (Vec<Option<Bound<'py, PyBytes>>>, bool);

#[pymethods]
impl Splitter {
    #[new]
    #[pyo3(signature = (shards, rows = None))]
    fn new(py: Python<'_>, shards: u32, rows: Option<Vec<(u64, u64)>>) -> PyResult<Self> {
        let inner = boundary::run(py, || match rows {
            None => split::Splitter::new(shards),
            Some(rows) => split::Splitter::gather(rows.into_iter().map(position).collect()),
        })?;
        Ok(Self {
            inner: Mutex::new(inner),
        })
    }

    /// Takes the next whole body of the epoch.
    fn load(
        &self,
        py: Python<'_>,
        body: Bytes,
        prev: (u64, u64),
        after: (u64, u64),
    ) -> PyResult<()> {
        self.with(py, |splitter| {
            splitter.load(body, position(prev), position(after));
            Ok(())
        })
    }

    /// Splits until the body is done, or a table needs a route.
    fn run(&self, py: Python<'_>) -> PyResult<Option<Py<Relation>>> {
        let asked = self.with(py, split::Splitter::run)?;
        asked.map(|relation| described(py, &relation)).transpose()
    }

    /// Gives a table a route.
    #[pyo3(signature = (relation_oid, *, key = None, shard = None))]
    fn route(
        &self,
        py: Python<'_>,
        relation_oid: u32,
        key: Option<Vec<u16>>,
        shard: Option<u32>,
    ) -> PyResult<()> {
        let route = match (key, shard) {
            (Some(columns), _) => Route::Key(columns),
            (None, Some(shard)) => Route::Whole(shard),
            (None, None) => Route::Barrier,
        };
        self.with(py, |splitter| Ok(splitter.route(relation_oid, route)?))
    }

    /// Drops all routes.
    fn forget(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |splitter| {
            splitter.forget();
            Ok(())
        })
    }

    /// Takes the slices and whether the epoch is a barrier, and begins the next epoch.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Slices<'py>> {
        let slices = self.with(py, |splitter| Ok(splitter.take()))?;
        let bodies = slices.bodies.into_iter();
        let bodies = bodies.map(|body| body.map(|body| PyBytes::new(py, &body)));
        Ok((bodies.collect(), slices.is_barrier))
    }
}

impl Splitter {
    /// Runs `work` on the core's own object.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut split::Splitter<Bytes>) -> Result<T, CoreError> + Send,
    ) -> PyResult<T> {
        boundary::locked(
            py,
            &self.inner,
            "the splitter stopped at an earlier panic",
            work,
        )
    }
}

/// Leaves out what the tables' copies hold already; None: nothing.
#[pyfunction]
#[expect(
    clippy::needless_pass_by_value,
    reason = "arguments are extracted from Python, by value"
)]
pub fn sift(
    py: Python<'_>,
    body: Bytes,
    prev: (u64, u64),
    snapshots: HashMap<u32, u64>,
) -> PyResult<Option<Py<PyBytes>>> {
    let sifted = boundary::run(py, || {
        let snapshots: HashMap<u32, Lsn> = snapshots
            .into_iter()
            .map(|(oid, lsn)| (oid, Lsn(lsn)))
            .collect();
        apply::sift(body.as_ref(), position(prev), &snapshots)
    })?;
    Ok(sifted.map(|body| PyBytes::new(py, &body).unbind()))
}
