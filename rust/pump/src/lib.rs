//! Drains and feeds a libpq connection that somebody else opened: the only unsafe code of pgflo.
//!
//! Upstream: psycopg connects, encrypts, authenticates and starts the COPY; it hands over the
//! address of its `PGconn`. Downstream: `pgflo-core` turns the bytes into envelopes, or says which
//! prepared statement to send. Invariant: every call goes into the very libpq that made the
//! connection, from one thread at a time, and leaves the connection in a state psycopg can use.

mod answer;
mod connection;
mod drain;
mod error;
mod libpq;
mod params;
mod pipeline;
mod wait;

pub use connection::Connection;
pub use drain::{DrainState, Drained, Layout};
pub use error::PumpError;
pub use pipeline::Pipeline;
