//! What replay needs of a connection: statements out, refusals back.
//!
//! Upstream: `replay.rs` decides what to send. Downstream: the pipeline in `rust/pump`, or a recorder
//! in tests. Invariant of every implementation: statements run in the order of their calls, and the
//! refusal it reports is that of the earliest statement that was refused.

use std::ffi::CStr;

use crate::lsn::Position;

/// Which change a statement is for, for the report when it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Where the change stands.
    pub position: Position,
    /// Relation that it changes; 0 for none.
    pub relation_oid: u32,
}

/// One parameter of a prepared statement, as it came from the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Param<'a> {
    /// SQL NULL.
    Null,
    /// The type's text form, without a terminator.
    Text(&'a [u8]),
    /// The type's binary form.
    Binary(&'a [u8]),
}

/// Why a change could not be applied. Carries names only: server messages may quote row values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The change.
    pub place: Place,
    /// Why.
    pub cause: Cause,
}

/// The cause of a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The statement touched another number of rows than one.
    Rows(u64),
    /// The server reported an error.
    Server {
        /// Its SQLSTATE.
        sqlstate: String,
        /// Name of the violated constraint, or empty.
        constraint: String,
        /// Name of the column that may not be NULL, or empty.
        column: String,
    },
    /// The connection broke, or was not usable.
    Lost,
}

/// SQLSTATE under which a lost connection is reported (`connection_failure`).
pub const CONNECTION_FAILURE: &str = "08006";

/// Runs prepared statements in order.
pub trait Executor {
    /// Sends a statement that must touch exactly one row. Its outcome may be known later only; the
    /// refusal of an earlier statement may be reported here.
    ///
    /// # Errors
    /// The earliest refusal so far; nothing more may be submitted then.
    fn submit(
        &mut self,
        statement: &CStr,
        params: &[Param<'_>],
        place: Place,
    ) -> Result<(), Refusal>;

    /// Runs a statement, waits for it and gives the number of rows it touched.
    ///
    /// # Errors
    /// The earliest refusal so far.
    fn execute(
        &mut self,
        statement: &CStr,
        params: &[Param<'_>],
        place: Place,
    ) -> Result<u64, Refusal>;

    /// Waits until everything submitted is answered and hands the connection back as it was.
    ///
    /// # Errors
    /// The earliest refusal of all.
    fn finish(&mut self) -> Result<(), Refusal>;
}
