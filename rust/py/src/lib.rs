//! The Python face of pgflo-core and pgflo-pump: thin classes, one boundary.
#![forbid(unsafe_code)]

mod pump;

use pyo3::prelude::*;

/// Native core of pgflo.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    use crate::pump::Pump;
    #[pymodule_export]
    const PUMP_MORE: u8 = crate::pump::PUMP_MORE;
    #[pymodule_export]
    const PUMP_IDLE: u8 = crate::pump::PUMP_IDLE;
    #[pymodule_export]
    const PUMP_END: u8 = crate::pump::PUMP_END;
    #[pymodule_export]
    const PUMP_FAILED: u8 = crate::pump::PUMP_FAILED;
}
