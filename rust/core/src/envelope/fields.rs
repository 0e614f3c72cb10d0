//! What a header tells, and what must hold between its fields. `header` writes and reads the bytes.

use crate::error::EnvelopeError;
use crate::lsn::{Lsn, Position};

/// What an envelope holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Changes in commit order.
    Changes = 1,
    /// Nothing: the source had nothing for us up to `end_lsn`.
    Watermark = 2,
    /// COPY rows of one attempt at one range.
    Copy = 3,
}

impl Kind {
    pub(super) const fn from_byte(byte: u8) -> Result<Self, EnvelopeError> {
        match byte {
            1 => Ok(Self::Changes),
            2 => Ok(Self::Watermark),
            3 => Ok(Self::Copy),
            other => Err(EnvelopeError::UnknownKind(other)),
        }
    }
}

/// What only copy envelopes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CopyFields {
    /// The table at the source.
    pub relation_oid: u32,
    /// Number of the range in its table.
    pub range_no: u32,
    /// Number of the attempt at the range.
    pub attempt: u32,
    /// Number of this envelope in its attempt, from 0.
    pub part_no: u32,
    /// Consistent point of the snapshot.
    pub snapshot_lsn: Lsn,
    /// Rows counted in this envelope.
    pub rows: u64,
    /// Rows of the attempt, on its final part.
    pub total_rows: u64,
    /// Whether this is the last envelope of the attempt.
    pub is_final: bool,
    /// Whether the rows are those of COPY's binary format; of its text format otherwise.
    pub is_binary: bool,
}

/// A header. `body_bytes` is set by [`Header::seal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the envelope holds.
    pub kind: Kind,
    /// The group's UUID.
    pub incarnation: [u8; 16],
    /// Where the previous envelope of the chain ended.
    pub prev: Position,
    /// Where this one ends.
    pub position: Position,
    /// End of the last whole commit up to there.
    pub end_lsn: Lsn,
    /// Whether it ends inside a transaction.
    pub transaction_open: bool,
    /// Time of the last commit in the body, µs since 2000-01-01; 0 for none.
    pub commit_time_us: i64,
    /// Ordinals in the body, all parts together.
    pub changes: u64,
    /// Which piece of the body this is.
    pub part: u32,
    /// Pieces of the body.
    pub parts: u32,
    /// Number of the layout of the group's tables under which it was published.
    pub layout: u32,
    /// Zero unless the kind is copy.
    pub copy: CopyFields,
    /// Length of the body behind this header.
    pub body_bytes: u32,
}

impl Header {
    /// A header of that kind with everything else zero: the base to build others on.
    #[must_use]
    pub fn new(kind: Kind, incarnation: [u8; 16]) -> Self {
        Self {
            kind,
            incarnation,
            prev: Position::default(),
            position: Position::default(),
            end_lsn: Lsn::default(),
            transaction_open: false,
            commit_time_us: 0,
            changes: 0,
            part: 0,
            parts: 1,
            layout: 0,
            copy: CopyFields::default(),
            body_bytes: 0,
        }
    }

    /// For a body in parts: an `end_lsn` to continue the chain with at `prev`, where it stood before that body.
    ///
    /// Such a body holds one change and never an earlier commit, so its own `end_lsn` (ended inside the
    /// transaction) or its commit (ended behind it) is as good as what the previous envelope told.
    #[must_use]
    pub fn prev_end_lsn(&self) -> Lsn {
        let end_lsn = self.end_lsn.min(self.position.commit_lsn);
        if self.prev.ordinal == 0 {
            end_lsn.min(self.prev.commit_lsn)
        } else {
            end_lsn
        }
    }

    /// What must hold between the fields, whoever wrote them.
    pub(super) fn check(&self) -> Result<(), EnvelopeError> {
        let is_copy = self.kind == Kind::Copy;
        let blank = Self::new(self.kind, self.incarnation);
        let chain_is_blank =
            (self.prev, self.position, self.end_lsn) == (blank.prev, blank.position, blank.end_lsn);
        let rules = [
            (is_copy || self.prev <= self.position, "position"),
            (!is_copy || chain_is_blank, "position of a copy"),
            (is_copy || self.copy == blank.copy, "copy fields"),
            (!is_copy || self.layout == 0, "layout of a copy"),
            (self.part < self.parts, "part"),
            (self.parts == 1 || self.changes == 1, "parts"),
            (self.kind == Kind::Changes || self.parts == 1, "parts"),
            (
                self.kind == Kind::Changes || (self.changes, self.commit_time_us) == (0, 0),
                "changes",
            ),
            (
                self.kind != Kind::Watermark || self.body_bytes == 0,
                "body of a watermark",
            ),
            (
                self.kind != Kind::Watermark || self.position == Position::new(self.end_lsn, 0),
                "watermark",
            ),
            (
                self.copy.is_final || self.copy.total_rows == 0,
                "total_rows",
            ),
            (
                !self.copy.is_final || self.copy.rows <= self.copy.total_rows,
                "total_rows",
            ),
        ];
        let broken = rules.iter().find(|(holds, _)| !holds);
        broken.map_or(Ok(()), |(_, what)| Err(EnvelopeError::Contradiction(what)))
    }
}
