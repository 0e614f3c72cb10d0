//! What a change knows of its row at the destination, where rules keep rows out.
//!
//! Upstream: `rules`, which writes it in front of a change. Downstream: net effects and replay.

use crate::error::Reason;

/// Whether the row of a change is at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Presence {
    /// As the operation says.
    #[default]
    Sure,
    /// It may be there or not; behind an insert or update it is, behind a delete it is not.
    Maybe,
    /// It may be there or not, and stays so: only if it is there it is updated.
    Stays,
    /// It should be there. If it is not, nobody can tell whether it should be.
    Undecided,
}

impl Presence {
    /// Its byte; the usual one has none.
    #[must_use]
    pub const fn tag(self) -> Option<u8> {
        match self {
            Self::Sure => None,
            Self::Maybe => Some(b'm'),
            Self::Stays => Some(b's'),
            Self::Undecided => Some(b'u'),
        }
    }

    pub(super) const fn of(tag: u8) -> Result<Self, Reason> {
        match tag {
            b'm' => Ok(Self::Maybe),
            b's' => Ok(Self::Stays),
            b'u' => Ok(Self::Undecided),
            value => Err(Reason::UnknownTag {
                field: "presence",
                value,
            }),
        }
    }
}
