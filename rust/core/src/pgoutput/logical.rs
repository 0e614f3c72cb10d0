//! Logical decoding message: u8 flags (1 = transactional), u64 lsn, prefix, i32 length, content.
//!
//! A transactional one is part of its transaction and counts as a change; any other one is sent when it
//! is read, also if its transaction is rolled back, and has no place in the order of commits.

use super::cursor::Cursor;
use crate::error::Reason;
use crate::lsn::Lsn;

/// What somebody said by `pg_logical_emit_message`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logical<'a> {
    /// Whether it belongs to the transaction around it.
    pub transactional: bool,
    /// Where it stands in the WAL.
    pub lsn: Lsn,
    /// Whom it is for.
    pub prefix: &'a str,
    /// Anything.
    pub content: &'a [u8],
}

impl<'a> Logical<'a> {
    pub(super) fn decode(body: &mut Cursor<'a>) -> Result<Self, Reason> {
        let transactional = match body.u8()? {
            0 => false,
            1 => true,
            value => {
                return Err(Reason::UnknownTag {
                    field: "message flags",
                    value,
                });
            }
        };
        let lsn = Lsn(body.u64()?);
        let prefix = body.name()?;
        let length = body.length()?;
        Ok(Self {
            transactional,
            lsn,
            prefix,
            content: body.take(length)?,
        })
    }
}
