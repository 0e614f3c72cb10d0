//! Everything pgflo does per row, without Python and without unsafe code.
//!
//! Upstream: `pgflo-pump` drains frames and rows from libpq. Downstream: `pgflo-py` hands the results
//! to Python, which publishes and applies them. Invariant: no input panics, loops without end or makes
//! us allocate more than a small multiple of its own size; what is wrong becomes a [`CoreError`].
#![forbid(unsafe_code)]

pub mod apply;
pub mod copy;
pub mod envelope;
pub mod error;
pub mod json;
pub mod lsn;
pub mod pgoutput;
pub mod rules;
pub mod value;

pub use error::CoreError;
pub use lsn::{Lsn, Position};
