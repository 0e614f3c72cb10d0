//! The messages of a change envelope's body, decoded, and where each of them stands.
//!
//! Upstream: the broker (parts of a body joined). Downstream: replay, inspection, tests.
//! Invariant: the positions told here are those that the assembler counted.

use super::fields::Header;
use crate::error::{CoreError, DecodeError, EnvelopeError, MessageKind, Reason};
use crate::lsn::{Lsn, Position};
use crate::pgoutput::{Frames, Message};

/// Walks the messages of a whole logical body. Gives each with the offset of its type byte; ends behind the
/// first error.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    frames: Frames<'a>,
}

impl<'a> Messages<'a> {
    /// Walks `body` from its start.
    #[must_use]
    pub const fn new(body: &'a [u8]) -> Self {
        Self {
            frames: Frames::new(body),
        }
    }

    fn fail<T>(&mut self, error: DecodeError) -> Result<T, DecodeError> {
        self.frames = Frames::new(&[]);
        Err(error)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<(usize, Message<'a>), DecodeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (offset, bytes) = match self.frames.next()? {
            Ok(piece) => piece,
            Err(error) => return Some(self.fail(error)),
        };
        Some(match Message::decode(bytes) {
            Ok(message) => Ok((offset, message)),
            Err(error) => self.fail(error.shifted(offset)),
        })
    }
}

/// A message and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed<'a> {
    /// Of a change: its own position. Of any other message: that of the last change before it.
    pub position: Position,
    /// Offset of its type byte in the body.
    pub offset: usize,
    /// The message.
    pub message: Message<'a>,
}

/// Walks the messages of a body that continues the chain at a position, and keeps count.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    messages: Messages<'a>,
    prev: Position,
    position: Position,
    open_lsn: Option<Lsn>,
    has_failed: bool,
}

impl<'a> Reader<'a> {
    /// Reads `body`, which starts where the previous one ended.
    #[must_use]
    pub const fn new(body: &'a [u8], prev: Position) -> Self {
        Self {
            messages: Messages::new(body),
            prev,
            position: prev,
            open_lsn: None,
            has_failed: false,
        }
    }

    /// Where reading stands.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// Commit LSN of the transaction that reading stands in.
    #[must_use]
    pub const fn open_lsn(&self) -> Option<Lsn> {
        self.open_lsn
    }

    fn place(&mut self, message: &Message<'_>) -> Result<(), Reason> {
        match (message, self.open_lsn) {
            (Message::Begin(begin), None) => {
                // The rest of the transaction that the previous envelope ended in, or a new one.
                let is_rest = begin.final_lsn == self.prev.commit_lsn && self.position == self.prev;
                if !is_rest {
                    if begin.final_lsn <= self.position.commit_lsn {
                        let (commit_lsn, floor_lsn) = (begin.final_lsn, self.position.commit_lsn);
                        return Err(Reason::NotIncreasing {
                            commit_lsn,
                            floor_lsn,
                        });
                    }
                    self.position = Position::new(begin.final_lsn, 0);
                }
                self.open_lsn = Some(begin.final_lsn);
            }
            (Message::Begin(_), Some(open_lsn)) => return Err(Reason::InsideTransaction(open_lsn)),
            (Message::Commit(commit), Some(final_lsn)) => {
                if commit.commit_lsn != final_lsn {
                    let (commit_lsn, end_lsn) = (commit.commit_lsn, commit.end_lsn);
                    return Err(Reason::OtherCommit {
                        commit_lsn,
                        end_lsn,
                        final_lsn,
                    });
                }
                self.open_lsn = None;
            }
            (Message::Relation(_) | Message::Type(_), _) => {}
            (_, None) => return Err(Reason::OutsideTransaction),
            (change, Some(_)) => self.position.ordinal += u64::from(change.is_change()),
        }
        Ok(())
    }

    /// Reads a whole body to its end and compares that with what the header tells.
    pub fn check(header: &Header, body: &'a [u8]) -> Result<(), CoreError> {
        let mut reader = Self::new(body, header.prev);
        let mut changes = 0;
        for placed in reader.by_ref() {
            changes += u64::from(placed?.message.is_change());
        }
        if reader.position != header.position {
            let (told, found) = (header.position, reader.position);
            return Err(EnvelopeError::OtherEnd { told, found }.into());
        }
        if (reader.open_lsn.is_some(), changes) != (header.transaction_open, header.changes) {
            return Err(EnvelopeError::Contradiction("changes").into());
        }
        Ok(())
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Placed<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        let (offset, message) = match self.messages.next()? {
            Ok(read) => read,
            Err(error) => return Some(Err(error)),
        };
        let placed = self.place(&message).map(|()| Placed {
            position: self.position,
            offset,
            message,
        });
        self.has_failed = placed.is_err();
        Some(placed.map_err(|reason| DecodeError {
            offset,
            message_kind: MessageKind(None),
            reason,
        }))
    }
}
