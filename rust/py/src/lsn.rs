//! LSNs between numbers and the text that `PostgreSQL` prints.

use pgflo_core::Lsn;
use pyo3::prelude::*;

use crate::boundary;

/// Read an LSN as `PostgreSQL` prints it.
#[pyfunction]
pub fn lsn_parse(py: Python<'_>, text: &str) -> PyResult<u64> {
    boundary::run(py, || text.parse::<Lsn>()).map(|lsn| lsn.0)
}

/// Print an LSN as `PostgreSQL` does.
#[pyfunction]
pub fn lsn_format(lsn: u64) -> String {
    Lsn(lsn).to_string()
}
