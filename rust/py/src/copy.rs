//! `CopyPacker`: COPY rows into copy envelopes. `BinaryToText`: rows of one format as rows of the other.
//! One call per block.

use std::sync::Mutex;

use pgflo_core::envelope::{CopyFields, Sizes};
use pgflo_core::error::EnvelopeError;
use pgflo_core::{CoreError, Lsn, copy as core};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::assembler::incarnation_argument;
use crate::boundary::{self, Bytes};

/// See the core's `copy::pack`.
#[pyclass(frozen, module = "pgflo._core")]
pub struct CopyPacker {
    inner: Mutex<core::CopyPacker>,
}

impl CopyPacker {
    /// Runs `work` on the core's own object.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut core::CopyPacker) -> Result<T, EnvelopeError> + Send,
    ) -> PyResult<T> {
        let stopped = "the packer stopped at an earlier panic";
        boundary::locked(py, &self.inner, stopped, |packer| Ok(work(packer)?))
    }
}

#[pymethods]
impl CopyPacker {
    #[new]
    #[pyo3(signature = (
        incarnation, relation_oid, snapshot_lsn, range_no, attempt, *,
        target_body_bytes, max_body_bytes, binary = false
    ))]
    #[expect(
        clippy::too_many_arguments,
        reason = "three of them are named, the rest is the range's name"
    )]
    fn new(
        py: Python<'_>,
        #[pyo3(from_py_with = incarnation_argument)] incarnation: [u8; 16],
        relation_oid: u32,
        snapshot_lsn: u64,
        range_no: u32,
        attempt: u32,
        target_body_bytes: usize,
        max_body_bytes: usize,
        binary: bool,
    ) -> PyResult<Self> {
        let snapshot_lsn = Lsn(snapshot_lsn);
        let fields = CopyFields {
            relation_oid,
            snapshot_lsn,
            range_no,
            attempt,
            is_binary: binary,
            ..CopyFields::default()
        };
        let sizes = boundary::run(py, || Sizes::new(target_body_bytes, max_body_bytes))?;
        Ok(Self {
            inner: Mutex::new(core::CopyPacker::new(incarnation, fields, sizes)),
        })
    }

    /// Take whole rows, give the envelopes that got full.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "arguments are extracted from Python, by value"
    )]
    fn feed<'py>(
        &self,
        py: Python<'py>,
        rows: Bytes,
        row_count: u64,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let envelopes = self.with(py, |packer| packer.feed(rows.as_ref(), row_count))?;
        Ok(envelopes
            .into_iter()
            .map(|envelope| PyBytes::new(py, &envelope))
            .collect())
    }

    /// Give the final part.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let envelope = self.with(py, core::CopyPacker::finish)?;
        Ok(PyBytes::new(py, &envelope))
    }

    #[getter]
    fn rows(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |packer| Ok(packer.rows()))
    }

    #[getter]
    fn bytes(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |packer| Ok(packer.bytes()))
    }
}

/// See the core's `copy::binary`.
#[pyclass(frozen, module = "pgflo._core")]
pub struct BinaryToText {
    inner: Mutex<core::BinaryToText>,
}

impl BinaryToText {
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut core::BinaryToText) -> Result<T, CoreError> + Send,
    ) -> PyResult<T> {
        let stopped = "the conversion stopped at an earlier panic";
        boundary::locked(py, &self.inner, stopped, work)
    }
}

#[pymethods]
impl BinaryToText {
    #[new]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "arguments are extracted from Python, by value"
    )]
    fn new(py: Python<'_>, type_oids: Vec<u32>) -> PyResult<Self> {
        let inner = boundary::run(py, || {
            core::BinaryToText::new(&type_oids).ok_or(EnvelopeError::BadSetting(
                "a column's type has no known binary form",
            ))
        })?;
        Ok(Self {
            inner: Mutex::new(inner),
        })
    }

    /// Take a part, give the rows that are whole now.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "arguments are extracted from Python, by value"
    )]
    fn feed<'py>(&self, py: Python<'py>, part: Bytes) -> PyResult<Bound<'py, PyBytes>> {
        let rows = self.with(py, |inner| Ok(inner.feed(part.as_ref())?))?;
        Ok(PyBytes::new(py, &rows))
    }

    /// See that the range is whole.
    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |inner| Ok(inner.finish()?))
    }
}

/// Whether `BinaryToText` knows all these types.
#[pyfunction]
#[expect(
    clippy::needless_pass_by_value,
    reason = "arguments are extracted from Python, by value"
)]
pub fn has_binary_form(py: Python<'_>, type_oids: Vec<u32>) -> PyResult<bool> {
    boundary::run(py, || Ok::<_, CoreError>(core::has_text(&type_oids)))
}
