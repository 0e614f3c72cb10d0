//! One pgoutput message of any kind.
//!
//! Invariant: a decoded message was consumed to its last byte; unknown kinds are errors, since what we
//! do not understand we would lose.

use super::change::{Delete, Insert, Update};
use super::cursor::Cursor;
use super::logical::Logical;
use super::relation::{Relation, Type};
use super::transaction::{Begin, Commit, Origin};
use super::truncate::Truncate;
use crate::error::{DecodeError, MessageKind, Reason};

/// A message, borrowed from its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// `B`
    Begin(Begin),
    /// `C`
    Commit(Commit),
    /// `O`
    Origin(Origin<'a>),
    /// `R`
    Relation(Relation<'a>),
    /// `Y`
    Type(Type<'a>),
    /// `I`
    Insert(Insert<'a>),
    /// `U`
    Update(Update<'a>),
    /// `D`
    Delete(Delete<'a>),
    /// `T`
    Truncate(Truncate<'a>),
    /// `M`
    Logical(Logical<'a>),
}

impl<'a> Message<'a> {
    /// Decodes one whole message, type byte first. O(bytes), no allocation.
    ///
    /// # Errors
    /// Offsets count from the type byte.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(bytes);
        Self::read(&mut cursor).map_err(|reason| DecodeError {
            offset: cursor.offset(),
            message_kind: MessageKind(bytes.first().copied()),
            reason,
        })
    }

    fn read(cursor: &mut Cursor<'a>) -> Result<Self, Reason> {
        let message = match cursor.u8().map_err(|_| Reason::Empty)? {
            b'B' => Self::Begin(Begin::decode(cursor)?),
            b'C' => Self::Commit(Commit::decode(cursor)?),
            b'O' => Self::Origin(Origin::decode(cursor)?),
            b'R' => Self::Relation(Relation::decode(cursor)?),
            b'Y' => Self::Type(Type::decode(cursor)?),
            b'I' => Self::Insert(Insert::decode(cursor)?),
            b'U' => Self::Update(Update::decode(cursor)?),
            b'D' => Self::Delete(Delete::decode(cursor)?),
            b'T' => Self::Truncate(Truncate::decode(cursor)?),
            b'M' => Self::Logical(Logical::decode(cursor)?),
            kind => return Err(Reason::UnknownKind(kind)),
        };
        cursor.finish()?;
        Ok(message)
    }

    /// Whether it has an ordinal: I, U, D, T and transactional M.
    #[must_use]
    pub const fn is_change(&self) -> bool {
        match self {
            Self::Insert(_) | Self::Update(_) | Self::Delete(_) | Self::Truncate(_) => true,
            Self::Logical(message) => message.transactional,
            _ => false,
        }
    }
}
