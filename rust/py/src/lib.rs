//! The Python face of pgflo-core and pgflo-pump: thin classes, one boundary.
#![forbid(unsafe_code)]

use pyo3::prelude::*;

/// Native core of pgflo.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
