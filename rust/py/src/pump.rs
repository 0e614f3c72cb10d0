//! `Pump`: COPY data out of the libpq connection that psycopg opened, one call per block.
//!
//! Invariant: the connection is used by one call at a time and never after psycopg closed it: the
//! `PGconn` object that owns it is kept alive and asked before every call.

use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use pgflo_pump::{Connection, DrainState, Drained, Layout, PumpError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::boundary;
use crate::error::{Raise, raise_plain};

/// The block is full; there may be more.
pub const PUMP_MORE: u8 = 0;
/// Nothing more right now.
pub const PUMP_IDLE: u8 = 1;
/// The COPY ended.
pub const PUMP_END: u8 = 2;
/// The connection broke.
pub const PUMP_FAILED: u8 = 3;

/// A libpq connection under psycopg's ownership.
#[pyclass(frozen, module = "pgflo._core")]
pub struct Pump {
    connection: Mutex<Connection>,
    address: usize,
    owner: Py<PyAny>,
}

#[pymethods]
impl Pump {
    #[new]
    #[pyo3(signature = (pgconn_ptr, socket, libpq_path, libpq_version, owner))]
    fn new(
        py: Python<'_>,
        pgconn_ptr: usize,
        socket: i32,
        libpq_path: &str,
        libpq_version: i32,
        owner: Py<PyAny>,
    ) -> PyResult<Self> {
        let connection = boundary::run(py, || {
            Connection::adopt(pgconn_ptr, socket, libpq_path, libpq_version)
        })?;
        Ok(Self {
            connection: Mutex::new(connection),
            address: pgconn_ptr,
            owner,
        })
    }

    /// Length-prefixed frames and the state.
    fn drain<'py>(
        &self,
        py: Python<'py>,
        max_bytes: usize,
        timeout_ms: u32,
    ) -> PyResult<(Bound<'py, PyBytes>, u8)> {
        let drained = self.take(py, Layout::Frames, max_bytes, timeout_ms)?;
        Ok((PyBytes::new(py, &drained.bytes), code(drained.state)))
    }

    /// Concatenated rows, their number and the state.
    fn drain_rows<'py>(
        &self,
        py: Python<'py>,
        max_bytes: usize,
        timeout_ms: u32,
    ) -> PyResult<(Bound<'py, PyBytes>, u64, u8)> {
        let drained = self.take(py, Layout::Rows, max_bytes, timeout_ms)?;
        Ok((
            PyBytes::new(py, &drained.bytes),
            drained.messages,
            code(drained.state),
        ))
    }
}

impl Raise for PumpError {
    fn raise(self, py: Python<'_>) -> PyErr {
        raise_plain(py, &self.to_string())
    }
}

impl Pump {
    /// The connection for one call, after its owner said that it is still open.
    pub(crate) fn connection(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, Connection>> {
        let address: Option<usize> = self.owner.bind(py).getattr("pgconn_ptr")?.extract()?;
        if address != Some(self.address) {
            return Err(raise_plain(py, "the connection was closed"));
        }
        match self.connection.try_lock() {
            Ok(connection) => Ok(connection),
            // A call that panicked left libpq's own state whole: it is not ours to judge.
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {
                Err(raise_plain(py, "the connection is in use by another call"))
            }
        }
    }

    fn take(
        &self,
        py: Python<'_>,
        layout: Layout,
        max_bytes: usize,
        timeout_ms: u32,
    ) -> PyResult<Drained> {
        let mut connection = self.connection(py)?;
        let timeout = Duration::from_millis(timeout_ms.into());
        let connection = &mut *connection;
        boundary::run(py, || {
            Ok::<_, PumpError>(connection.drain(layout, max_bytes, timeout))
        })
    }
}

fn code(state: DrainState) -> u8 {
    match state {
        DrainState::More => PUMP_MORE,
        DrainState::Idle => PUMP_IDLE,
        DrainState::End => PUMP_END,
        DrainState::Failed => PUMP_FAILED,
    }
}
