//! Why the core refused, and where. Never carries a row value.
//!
//! Downstream: `pgflo-py` turns each variant into the Python exception of the same name.

use std::fmt;

use crate::lsn::{Lsn, Position};
use crate::rules::RuleError;

/// A failure of the core.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// What `PostgreSQL` sent is malformed or comes in an order that it must not.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// An envelope is damaged, or an object is used out of its order.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Rules do not fit the rows that come.
    #[error(transparent)]
    Rules(#[from] RuleError),
}

/// The type byte of a pgoutput message or of a replication frame; `None` outside of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageKind(pub Option<u8>);

impl fmt::Display for MessageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .map_or(Ok(()), |kind| write!(f, "{}", kind.escape_ascii()))
    }
}

/// Bytes from `PostgreSQL` that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    /// Where in the buffer that was passed in, in bytes.
    pub offset: usize,
    /// What was being read there.
    pub message_kind: MessageKind,
    /// What is wrong.
    pub reason: Reason,
}

impl DecodeError {
    /// An error outside of any message.
    #[must_use]
    pub const fn outside(offset: usize, reason: Reason) -> Self {
        Self {
            offset,
            message_kind: MessageKind(None),
            reason,
        }
    }

    /// The same error, seen from a buffer in which the present one starts at `base`.
    #[must_use]
    pub const fn shifted(mut self, base: usize) -> Self {
        self.offset = self.offset.saturating_add(base);
        self
    }
}

impl std::error::Error for DecodeError {}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message_kind {
            MessageKind(None) => write!(f, "at byte {}: {}", self.offset, self.reason),
            kind => write!(
                f,
                "message '{kind}' at byte {}: {}",
                self.offset, self.reason
            ),
        }
    }
}

/// What is wrong with bytes from `PostgreSQL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// A field reaches beyond the end.
    #[error("{needed} bytes needed, {left} left")]
    UnexpectedEnd {
        /// Bytes that the field has.
        needed: usize,
        /// Bytes that are there.
        left: usize,
    },
    /// A frame or message of no bytes.
    #[error("nothing where a type byte belongs")]
    Empty,
    /// Bytes behind the last field.
    #[error("{0} bytes too many")]
    TrailingBytes(usize),
    /// A type byte that protocol version 1 does not have.
    #[error("unknown type byte {0:#04x}")]
    UnknownKind(u8),
    /// A byte that chooses between alternatives and chooses none of them.
    #[error("unknown {field} {value:#04x}")]
    UnknownTag {
        /// What the byte chooses.
        field: &'static str,
        /// The byte.
        value: u8,
    },
    /// A length or count below zero.
    #[error("negative length {0}")]
    NegativeLength(i32),
    /// A message longer than its length field can tell.
    #[error("{0} bytes are too many for a message")]
    TooLong(usize),
    /// A string without its NUL.
    #[error("string does not end")]
    UnterminatedString,
    /// A name or a text that is not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// A message that belongs into a transaction, outside of one.
    #[error("outside of a transaction")]
    OutsideTransaction,
    /// A Begin inside a transaction.
    #[error("transaction {0} has not been committed")]
    InsideTransaction(Lsn),
    /// An Origin that is not directly behind its Begin.
    #[error("origin behind a change")]
    LateOrigin,
    /// A Begin at or below what came before it.
    #[error("transaction {commit_lsn} comes after {floor_lsn}")]
    NotIncreasing {
        /// Commit LSN that the Begin tells.
        commit_lsn: Lsn,
        /// The least it had to be.
        floor_lsn: Lsn,
    },
    /// A Commit that contradicts its Begin, or ends before it starts.
    #[error("commit {commit_lsn} to {end_lsn} of transaction {final_lsn}")]
    OtherCommit {
        /// Start of the commit record as the Commit tells.
        commit_lsn: Lsn,
        /// Its end.
        end_lsn: Lsn,
        /// Start of the commit record as the Begin told.
        final_lsn: Lsn,
    },
    /// A change of a relation that was never described.
    #[error("relation {0} was not described")]
    UnknownRelation(u32),
    /// A tuple that does not fit the description of its relation.
    #[error("tuple of {found} cells, the relation has {columns} columns")]
    OtherColumns {
        /// Columns that the relation was described with.
        columns: usize,
        /// Cells that the tuple has.
        found: usize,
    },
    /// The chain stands inside a transaction, and another one came.
    #[error("the rest of transaction {expected} is missing, {found} came")]
    MissingRest {
        /// Where the chain stands.
        expected: Position,
        /// Commit LSN that came instead.
        found: Lsn,
    },
    /// A transaction that was already assembled came again with another number of changes.
    #[error("transaction {recorded} came again with another number of changes ({found})")]
    OtherChanges {
        /// Where it stood the first time.
        recorded: Position,
        /// Changes that came now; at least, when more are to come.
        found: u64,
    },
}

/// An envelope that is not one of ours, or a wrong use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Shorter than a header.
    #[error("{0} bytes are too few for an envelope")]
    TooShort(usize),
    /// It does not start with our magic number.
    #[error("not an envelope of pgflo")]
    NotAnEnvelope,
    /// Written by another format.
    #[error("envelope format {0} is not known to this version of pgflo")]
    UnknownFormat(u8),
    /// A kind that this format does not have.
    #[error("unknown kind of envelope {0}")]
    UnknownKind(u8),
    /// Flags that this format does not have, or that the kind must not carry.
    #[error("unknown flags {0:#06x}")]
    UnknownFlags(u16),
    /// The header tells another length than the envelope has.
    #[error("body of {found} bytes, header tells {told}")]
    OtherLength {
        /// What the header tells.
        told: u32,
        /// What is there.
        found: usize,
    },
    /// Header or body were changed on the way.
    #[error("checksum differs")]
    Checksum,
    /// A field contradicts another.
    #[error("header contradicts itself in {0}")]
    Contradiction(&'static str),
    /// The body's messages do not lead from the previous position to the told one.
    #[error("body ends at {found}, header tells {told}")]
    OtherEnd {
        /// What the header tells.
        told: Position,
        /// Where the messages lead.
        found: Position,
    },
    /// A setting out of its range.
    #[error("{0}")]
    BadSetting(&'static str),
    /// More bytes than an envelope's length field can tell.
    #[error("too large for an envelope")]
    TooLarge,
    /// A watermark that would lie about what is in the chain.
    #[error("no watermark at {lsn}: {because}")]
    NoWatermark {
        /// Where it was wanted.
        lsn: Lsn,
        /// What stands against it.
        because: &'static str,
    },
    /// A call behind an error or behind the final part.
    #[error("{0}")]
    Finished(&'static str),
}
