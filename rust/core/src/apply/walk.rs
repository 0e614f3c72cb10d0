//! Where replay stands in a body: the next message, its transaction, its ordinal.
//!
//! Invariant: the position is that of the last message passed; a message is passed only once it has
//! been dealt with, so that replay can return in front of it and come back.
//!
//! Slices of a body (`split`) and rewritten bodies (`rules`) hold messages that pgoutput does not have:
//!
//! | bytes | meaning |
//! |---|---|
//! | `~`, u32 count | so many ordinals of the transaction belong to others, or to changes that were dropped |
//! | `=` | the next change stands where the one before it does: both were made of one |
//! | `?`, tag | it is not sure whether the row of the next change is there: [`Presence`] |
//!
//! They are made and read inside one worker; the decoder of what servers send refuses them.

use std::ops::Range;

use super::presence::Presence;
use crate::error::{DecodeError, MessageKind, Reason};
use crate::lsn::{Lsn, Position};
use crate::pgoutput::Message;
use crate::pgoutput::cursor::Cursor;

/// Bytes of the length in front of each message.
const LENGTH_BYTES: usize = 4;

/// Type byte of the message that passes over ordinals.
pub(crate) const SKIP: u8 = b'~';

/// Type byte of the message before a change that stands where the one before it does.
pub(crate) const AGAIN: u8 = b'=';

/// Type byte of the message that says what is known of a row.
pub(crate) const PRESENCE: u8 = b'?';

/// A place between two messages of a body.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Walk {
    offset: usize,
    position: Position,
    open: bool,
    /// What is known of the next change's row.
    presence: Presence,
}

/// The message behind a [`Walk`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Next<'a> {
    pub(crate) message: Message<'a>,
    pub(crate) bytes: &'a [u8],
    end: usize,
}

impl Next<'_> {
    /// Where it stands in the body, its length in front of it included.
    pub(crate) const fn span(&self) -> Range<usize> {
        self.end - self.bytes.len() - LENGTH_BYTES..self.end
    }
}

impl Walk {
    /// The start of a body whose chain stood at `prev`.
    pub(crate) const fn new(prev: Position) -> Self {
        Self {
            offset: 0,
            position: prev,
            open: false,
            presence: Presence::Sure,
        }
    }

    /// Where the last change passed stands.
    pub(crate) const fn position(&self) -> Position {
        self.position
    }

    /// Where the next change stands, if there is one next.
    pub(crate) const fn next_position(&self) -> Position {
        Position::new(
            self.position.commit_lsn,
            self.position.ordinal.saturating_add(1),
        )
    }

    /// An error in the message behind this place.
    pub(crate) fn error(&self, next: &Next<'_>, reason: Reason) -> DecodeError {
        DecodeError {
            offset: self.offset.saturating_add(LENGTH_BYTES),
            message_kind: MessageKind(next.bytes.first().copied()),
            reason,
        }
    }

    /// What is known of the row of the change behind this place.
    pub(crate) const fn presence(&self) -> Presence {
        self.presence
    }

    /// Looks at the next message; none at the end of the body. What is private to the worker is passed.
    pub(crate) fn peek<'a>(&mut self, body: &'a [u8]) -> Result<Option<Next<'a>>, DecodeError> {
        while let Some((bytes, end)) = self.frame(body)? {
            if let Some(&(SKIP | AGAIN | PRESENCE)) = bytes.first() {
                self.note(bytes, end)?;
                continue;
            }
            let start = self.offset + LENGTH_BYTES;
            let message = Message::decode(bytes).map_err(|error| error.shifted(start))?;
            let next = Next {
                message,
                bytes,
                end,
            };
            if message.is_change() && !self.open {
                return Err(self.error(&next, Reason::OutsideTransaction));
            }
            return Ok(Some(next));
        }
        Ok(None)
    }

    /// The bytes of the next message, and where it ends.
    fn frame<'a>(&self, body: &'a [u8]) -> Result<Option<(&'a [u8], usize)>, DecodeError> {
        let rest = body.get(self.offset..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let short = |needed, left| {
            DecodeError::outside(self.offset, Reason::UnexpectedEnd { needed, left })
        };
        let (length, rest) = rest
            .split_first_chunk::<LENGTH_BYTES>()
            .ok_or_else(|| short(LENGTH_BYTES, rest.len()))?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let bytes = rest
            .get(..length)
            .ok_or_else(|| short(length, rest.len()))?;
        Ok(Some((bytes, self.offset + LENGTH_BYTES + length)))
    }

    /// Takes a message that is private to the worker. Most bodies have none.
    #[cold]
    #[inline(never)]
    fn note(&mut self, bytes: &[u8], end: usize) -> Result<(), DecodeError> {
        let Some((&kind, rest)) = bytes.split_first() else {
            return Ok(());
        };
        let mut cursor = Cursor::new(rest);
        self.noted(kind, &mut cursor)
            .and_then(|()| cursor.finish())
            .map_err(|reason| DecodeError {
                offset: self.offset.saturating_add(LENGTH_BYTES),
                message_kind: MessageKind(Some(kind)),
                reason,
            })?;
        self.offset = end;
        Ok(())
    }

    fn noted(&mut self, kind: u8, rest: &mut Cursor<'_>) -> Result<(), Reason> {
        if !self.open {
            return Err(Reason::OutsideTransaction);
        }
        let ordinal = self.position.ordinal;
        match kind {
            SKIP => {
                self.position.ordinal = ordinal.saturating_add(u64::from(rest.u32()?));
            }
            AGAIN => {
                // Behind no change there is none to share a place with.
                let value = AGAIN;
                self.position.ordinal = ordinal.checked_sub(1).ok_or(Reason::UnknownTag {
                    field: "place",
                    value,
                })?;
            }
            _ => self.presence = Presence::of(rest.u8()?)?,
        }
        Ok(())
    }

    /// Passes the next message: books begins, commits and ordinals.
    pub(crate) fn pass(&mut self, next: &Next<'_>) -> Result<(), DecodeError> {
        let passed = match next.message {
            Message::Begin(begin) => self.begin(begin.final_lsn),
            Message::Commit(_) if !self.open => Err(Reason::OutsideTransaction),
            Message::Commit(commit) if commit.commit_lsn != self.position.commit_lsn => {
                Err(Reason::OtherCommit {
                    commit_lsn: commit.commit_lsn,
                    end_lsn: commit.end_lsn,
                    final_lsn: self.position.commit_lsn,
                })
            }
            Message::Commit(_) => {
                self.open = false;
                Ok(())
            }
            message if message.is_change() => {
                self.position = self.next_position();
                Ok(())
            }
            _ => Ok(()),
        };
        passed.map_err(|reason| self.error(next, reason))?;
        self.presence = Presence::Sure;
        self.offset = next.end;
        Ok(())
    }

    /// A body that starts inside a transaction starts with that transaction's Begin: its ordinals go on.
    fn begin(&mut self, commit_lsn: Lsn) -> Result<(), Reason> {
        if self.open {
            return Err(Reason::InsideTransaction(self.position.commit_lsn));
        }
        let floor_lsn = self.position.commit_lsn;
        if commit_lsn < floor_lsn {
            return Err(Reason::NotIncreasing {
                commit_lsn,
                floor_lsn,
            });
        }
        if commit_lsn > floor_lsn {
            self.position = Position::new(commit_lsn, 0);
        }
        self.open = true;
        Ok(())
    }
}
