//! Where transactions start, end and come from.
//!
//! ```text
//! Begin:  u64 final_lsn, i64 commit_time_us, u32 xid
//! Commit: u8 flags (0), u64 commit_lsn, u64 end_lsn, i64 commit_time_us
//! Origin: u64 origin_lsn, name; directly behind the Begin
//! ```
//! `final_lsn` equals the Commit's `commit_lsn`; what may be confirmed at the source is `end_lsn`.

use super::cursor::Cursor;
use crate::error::Reason;
use crate::lsn::Lsn;

/// Start of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// Start of the transaction's commit record.
    pub final_lsn: Lsn,
    /// Time of the commit, µs since 2000-01-01.
    pub commit_time_us: i64,
    /// Transaction number.
    pub xid: u32,
}

impl Begin {
    pub(super) fn decode(body: &mut Cursor<'_>) -> Result<Self, Reason> {
        Ok(Self {
            final_lsn: Lsn(body.u64()?),
            commit_time_us: body.i64()?,
            xid: body.u32()?,
        })
    }
}

/// End of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Start of the commit record.
    pub commit_lsn: Lsn,
    /// End of the commit record.
    pub end_lsn: Lsn,
    /// Time of the commit, µs since 2000-01-01.
    pub commit_time_us: i64,
}

impl Commit {
    pub(super) fn decode(body: &mut Cursor<'_>) -> Result<Self, Reason> {
        match body.u8()? {
            0 => {}
            value => {
                return Err(Reason::UnknownTag {
                    field: "commit flags",
                    value,
                });
            }
        }
        Ok(Self {
            commit_lsn: Lsn(body.u64()?),
            end_lsn: Lsn(body.u64()?),
            commit_time_us: body.i64()?,
        })
    }
}

/// Where a transaction that the source itself received came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Commit LSN at the origin.
    pub origin_lsn: Lsn,
    /// Name of the origin.
    pub name: &'a str,
}

impl<'a> Origin<'a> {
    pub(super) fn decode(body: &mut Cursor<'a>) -> Result<Self, Reason> {
        Ok(Self {
            origin_lsn: Lsn(body.u64()?),
            name: body.name()?,
        })
    }
}
