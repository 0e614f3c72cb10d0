//! `Header`, `read_header` and `Envelope`: envelopes as Python sees them.

use pgflo_core::envelope::{self as core, Kind};
use pgflo_core::error::EnvelopeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::boundary::{self, Bytes};

pub const KIND_CHANGES: u8 = Kind::Changes as u8;
pub const KIND_WATERMARK: u8 = Kind::Watermark as u8;
pub const KIND_COPY: u8 = Kind::Copy as u8;

/// What stands in front of a body.
#[pyclass(frozen, eq, module = "pgflo._core")]
#[derive(PartialEq, Eq)]
pub struct Header(core::Header);

#[pymethods]
impl Header {
    #[getter]
    const fn kind(&self) -> u8 {
        self.0.kind as u8
    }

    #[getter]
    fn incarnation<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.incarnation)
    }

    #[getter]
    const fn prev_commit_lsn(&self) -> u64 {
        self.0.prev.commit_lsn.0
    }

    #[getter]
    const fn prev_ordinal(&self) -> u64 {
        self.0.prev.ordinal
    }

    #[getter]
    fn prev_end_lsn(&self) -> u64 {
        self.0.prev_end_lsn().0
    }

    #[getter]
    const fn commit_lsn(&self) -> u64 {
        self.0.position.commit_lsn.0
    }

    #[getter]
    const fn ordinal(&self) -> u64 {
        self.0.position.ordinal
    }

    #[getter]
    const fn end_lsn(&self) -> u64 {
        self.0.end_lsn.0
    }

    #[getter]
    const fn transaction_open(&self) -> bool {
        self.0.transaction_open
    }

    #[getter]
    const fn part(&self) -> u32 {
        self.0.part
    }

    #[getter]
    const fn parts(&self) -> u32 {
        self.0.parts
    }

    #[getter]
    const fn changes(&self) -> u64 {
        self.0.changes
    }

    #[getter]
    const fn commit_time_us(&self) -> i64 {
        self.0.commit_time_us
    }

    #[getter]
    const fn relation_oid(&self) -> u32 {
        self.0.copy.relation_oid
    }

    #[getter]
    const fn snapshot_lsn(&self) -> u64 {
        self.0.copy.snapshot_lsn.0
    }

    #[getter]
    const fn range_no(&self) -> u32 {
        self.0.copy.range_no
    }

    #[getter]
    const fn attempt(&self) -> u32 {
        self.0.copy.attempt
    }

    #[getter]
    const fn part_no(&self) -> u32 {
        self.0.copy.part_no
    }

    #[getter]
    const fn r#final(&self) -> bool {
        self.0.copy.is_final
    }

    #[getter]
    const fn binary(&self) -> bool {
        self.0.copy.is_binary
    }

    #[getter]
    const fn rows(&self) -> u64 {
        self.0.copy.rows
    }

    #[getter]
    const fn total_rows(&self) -> u64 {
        self.0.copy.total_rows
    }

    #[getter]
    const fn layout(&self) -> u32 {
        self.0.layout
    }

    #[getter]
    const fn body_bytes(&self) -> u32 {
        self.0.body_bytes
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// Read and check the header of one whole envelope.
#[pyfunction]
#[pyo3(signature = (envelope, *, verify = true))]
#[expect(
    clippy::needless_pass_by_value,
    reason = "arguments are extracted from Python, by value"
)]
pub fn read_header(py: Python<'_>, envelope: Bytes, verify: bool) -> PyResult<Header> {
    boundary::run(py, || core::Header::read(envelope.as_ref(), verify)).map(Header)
}

/// A finished envelope of the change stream.
#[pyclass(frozen, module = "pgflo._core")]
pub struct Envelope {
    header: core::Header,
    #[pyo3(get)]
    data: Py<PyBytes>,
}

impl Envelope {
    /// Moves a finished envelope into Python. Copies its bytes once.
    pub fn new(py: Python<'_>, envelope: &core::Envelope) -> Self {
        Self {
            header: envelope.header,
            data: PyBytes::new(py, &envelope.data).unbind(),
        }
    }
}

#[pymethods]
impl Envelope {
    #[getter]
    const fn kind(&self) -> u8 {
        self.header.kind as u8
    }

    #[getter]
    const fn commit_lsn(&self) -> u64 {
        self.header.position.commit_lsn.0
    }

    #[getter]
    const fn ordinal(&self) -> u64 {
        self.header.position.ordinal
    }

    #[getter]
    const fn end_lsn(&self) -> u64 {
        self.header.end_lsn.0
    }

    #[getter]
    const fn transaction_open(&self) -> bool {
        self.header.transaction_open
    }

    #[getter]
    const fn changes(&self) -> u64 {
        self.header.changes
    }

    #[getter]
    const fn part(&self) -> u32 {
        self.header.part
    }

    #[getter]
    const fn parts(&self) -> u32 {
        self.header.parts
    }
}

/// The 16 bytes of a UUID.
pub fn incarnation(bytes: &[u8]) -> Result<[u8; 16], EnvelopeError> {
    bytes
        .try_into()
        .map_err(|_| EnvelopeError::BadSetting("an incarnation has 16 bytes"))
}
