//! One result of one statement: status, row count, and the names in an error.
//!
//! Invariant: the server's message and detail are never read, since they may quote row values.

use std::ffi::{CStr, c_int};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::libpq::{Libpq, PgResult};

/// `PG_DIAG_SQLSTATE`
const DIAG_SQLSTATE: u8 = b'C';
/// `PG_DIAG_CONSTRAINT_NAME`
const DIAG_CONSTRAINT_NAME: u8 = b'n';
/// `PG_DIAG_COLUMN_NAME`
const DIAG_COLUMN_NAME: u8 = b'c';

/// `ExecStatusType`, as far as a pipeline of prepared statements brings it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// The statement ran.
    Done,
    /// The server, or libpq itself, reports an error.
    Error,
    /// Skipped, since a statement before it failed.
    Skipped,
    /// The answer to a sync.
    Sync,
    /// Something that a statement of ours does not bring.
    Unexpected,
}

/// A result that libpq allocated.
pub(crate) struct Answer {
    pub(crate) libpq: Arc<Libpq>,
    pub(crate) result: NonNull<PgResult>,
}

impl Answer {
    /// How the statement went.
    pub(crate) fn status(&self) -> Status {
        // SAFETY: the result is live until `drop`.
        match unsafe { (self.libpq.result_status)(self.result.as_ptr()) } {
            1 | 2 => Status::Done,
            7 => Status::Error,
            10 => Status::Sync,
            11 => Status::Skipped,
            _ => Status::Unexpected,
        }
    }

    /// Rows that the statement touched; none if it is not of the kind that touches rows.
    pub(crate) fn rows(&self) -> Option<u64> {
        // SAFETY: the result is live until `drop`.
        let count = unsafe { (self.libpq.cmd_tuples)(self.result.as_ptr()) };
        // SAFETY: libpq gives null or a NUL-terminated string that lives as long as the result.
        let count = NonNull::new(count).map(|count| unsafe { CStr::from_ptr(count.as_ptr()) })?;
        count.to_str().ok()?.parse().ok()
    }

    /// SQLSTATE of an error; none if it is libpq's own (the connection broke).
    pub(crate) fn sqlstate(&self) -> Option<String> {
        self.field(DIAG_SQLSTATE)
    }

    /// Name of the violated constraint.
    pub(crate) fn constraint(&self) -> Option<String> {
        self.field(DIAG_CONSTRAINT_NAME)
    }

    /// Name of the column that an error is about: the one of a NOT NULL.
    pub(crate) fn column(&self) -> Option<String> {
        self.field(DIAG_COLUMN_NAME)
    }

    fn field(&self, code: u8) -> Option<String> {
        // SAFETY: the result is live until `drop`.
        let field =
            unsafe { (self.libpq.result_error_field)(self.result.as_ptr(), c_int::from(code)) };
        // SAFETY: libpq gives null or a NUL-terminated string that lives as long as the result.
        let field = NonNull::new(field).map(|field| unsafe { CStr::from_ptr(field.as_ptr()) })?;
        // Server names are UTF-8 here: the session's encoding is pinned.
        field.to_str().ok().map(str::to_owned)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: the result came from PQgetResult and is cleared once, by the same library.
        unsafe { (self.libpq.clear)(self.result.as_ptr()) }
    }
}
