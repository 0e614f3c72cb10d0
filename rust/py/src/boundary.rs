//! The one way from Python into the core and back.
//!
//! Invariant: while the core works the interpreter is released, and a panic in there becomes an exception:
//! no input ends the process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use pgflo_core::CoreError;
use pgflo_core::error::EnvelopeError;
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use crate::error::{self, Raise};

/// Runs `work` with the interpreter released. Its error, or its panic, becomes an exception.
pub fn run<T, E>(py: Python<'_>, work: impl FnOnce() -> Result<T, E> + Send) -> PyResult<T>
where
    T: Send,
    E: Raise + Send,
{
    match py.detach(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(refused)) => Err(refused.raise(py)),
        // What was panicked with may quote data. The place is on stderr already.
        Err(_) => Err(error::raise_plain(
            py,
            "the core panicked: this is a bug of pgflo",
        )),
    }
}

/// Runs `work` on what a lock guards; never waits for the interpreter while it holds it. `broken` says
/// what stopped if an earlier call panicked in there.
pub fn locked<I, T>(
    py: Python<'_>,
    inner: &Mutex<I>,
    broken: &'static str,
    work: impl FnOnce(&mut I) -> Result<T, CoreError> + Send,
) -> PyResult<T>
where
    I: Send,
    T: Send,
{
    run(py, || {
        let mut inner = inner.lock().map_err(|_| EnvelopeError::Finished(broken))?;
        work(&mut inner)
    })
}

/// Bytes that a caller passed in.
pub enum Bytes {
    /// A `bytes` object, read in place.
    Shared(PyBackedBytes),
    /// A copy of any other contiguous buffer, which others could change meanwhile.
    Copied(Vec<u8>),
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Copied(bytes) => bytes,
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for Bytes {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = object.cast::<PyBytes>() {
            return Ok(Self::Shared(PyBackedBytes::from(bytes.to_owned())));
        }
        Ok(Self::Copied(
            PyBuffer::<u8>::get(&object)?.to_vec(object.py())?,
        ))
    }
}
