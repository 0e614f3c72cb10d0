//! `Assembler`: frames of a replication stream into envelopes, one call per block.

use std::sync::Mutex;

use pgflo_core::envelope::{self as core, Sizes};
use pgflo_core::{CoreError, Lsn, Position};
use pyo3::prelude::*;

use crate::boundary::{self, Bytes};
use crate::envelope::{Envelope, incarnation};

/// See the core's `envelope::assemble`.
#[pyclass(frozen, module = "pgflo._core")]
pub struct Assembler {
    inner: Mutex<core::Assembler>,
}

impl Assembler {
    /// Runs `work` on the core's own object.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut core::Assembler) -> Result<T, CoreError> + Send,
    ) -> PyResult<T> {
        boundary::locked(
            py,
            &self.inner,
            "the assembler stopped at an earlier panic",
            work,
        )
    }

    fn tell<T: Send>(
        &self,
        py: Python<'_>,
        what: impl FnOnce(&core::Assembler) -> T + Send,
    ) -> PyResult<T> {
        self.with(py, |assembler| Ok(what(assembler)))
    }
}

#[pymethods]
impl Assembler {
    #[new]
    #[pyo3(signature = (incarnation, position, end_lsn, *, target_body_bytes = 262_144, max_body_bytes = 917_504, layout = 0))]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = incarnation_argument)] incarnation: [u8; 16],
        position: (u64, u64),
        end_lsn: u64,
        target_body_bytes: usize,
        max_body_bytes: usize,
        layout: u32,
    ) -> PyResult<Self> {
        let position = Position::new(Lsn(position.0), position.1);
        let inner = boundary::run(py, || {
            let sizes = Sizes::new(target_body_bytes, max_body_bytes)?;
            core::Assembler::new(incarnation, position, Lsn(end_lsn), sizes)
        })?
        .with_layout(layout);
        Ok(Self {
            inner: Mutex::new(inner),
        })
    }

    /// Take a block of frames, give the envelopes that got full.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "arguments are extracted from Python, by value"
    )]
    fn feed(&self, py: Python<'_>, block: Bytes) -> PyResult<Vec<Envelope>> {
        let envelopes = self.with(py, |assembler| assembler.feed(block.as_ref()))?;
        Ok(handed_over(py, envelopes))
    }

    /// Finish what is pending now, if it ends at a commit.
    fn flush(&self, py: Python<'_>) -> PyResult<Vec<Envelope>> {
        let envelopes = self.with(py, core::Assembler::flush)?;
        Ok(handed_over(py, envelopes))
    }

    /// Make the envelope that says: nothing more up to `lsn`.
    fn watermark(&self, py: Python<'_>, lsn: u64) -> PyResult<Envelope> {
        let envelope = self.with(py, |assembler| assembler.watermark(Lsn(lsn)))?;
        Ok(Envelope::new(py, &envelope))
    }

    /// When the server sent the last keepalive since the last call that asked for an answer.
    fn take_reply_request(&self, py: Python<'_>) -> PyResult<Option<i64>> {
        self.with(py, |assembler| Ok(assembler.take_reply_request()))
    }

    #[getter]
    fn received_lsn(&self, py: Python<'_>) -> PyResult<u64> {
        self.tell(py, |assembler| assembler.received_lsn().0)
    }

    #[getter]
    fn keepalive_lsn(&self, py: Python<'_>) -> PyResult<u64> {
        self.tell(py, |assembler| assembler.keepalive_lsn().0)
    }

    #[getter]
    fn end_lsn(&self, py: Python<'_>) -> PyResult<u64> {
        self.tell(py, |assembler| assembler.end_lsn().0)
    }

    #[getter]
    fn commit_lsn(&self, py: Python<'_>) -> PyResult<u64> {
        self.tell(py, |assembler| assembler.position().commit_lsn.0)
    }

    #[getter]
    fn ordinal(&self, py: Python<'_>) -> PyResult<u64> {
        self.tell(py, |assembler| assembler.position().ordinal)
    }

    #[getter]
    fn in_transaction(&self, py: Python<'_>) -> PyResult<bool> {
        self.tell(py, core::Assembler::is_in_transaction)
    }

    #[getter]
    fn pending_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        self.tell(py, core::Assembler::pending_bytes)
    }

    #[getter]
    fn pending_at_commit(&self, py: Python<'_>) -> PyResult<bool> {
        self.tell(py, core::Assembler::is_pending_at_commit)
    }

    #[getter]
    fn frames(&self, py: Python<'_>) -> PyResult<u64> {
        self.tell(py, |assembler| assembler.counters().frames)
    }

    #[getter]
    fn changes(&self, py: Python<'_>) -> PyResult<u64> {
        self.tell(py, |assembler| assembler.counters().changes)
    }

    #[getter]
    fn commits(&self, py: Python<'_>) -> PyResult<u64> {
        self.tell(py, |assembler| assembler.counters().commits)
    }
}

/// Moves finished envelopes into Python one by one, so that only one of them exists twice.
fn handed_over(py: Python<'_>, envelopes: Vec<core::Envelope>) -> Vec<Envelope> {
    envelopes
        .into_iter()
        .map(|envelope| Envelope::new(py, &envelope))
        .collect()
}

/// The `incarnation` argument of every constructor here.
pub fn incarnation_argument(argument: &Bound<'_, PyAny>) -> PyResult<[u8; 16]> {
    let bytes: Bytes = argument.extract()?;
    boundary::run(argument.py(), || incarnation(bytes.as_ref()))
}
