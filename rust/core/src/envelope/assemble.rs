//! Frames of a replication stream into a chain of envelopes.
//!
//! Upstream: blocks drained by the pump. Downstream: the publisher, in order. `order` tells where a change
//! stands and whether it is new; `write` puts it into a body; here frames become messages.
//!
//! A Begin is held back until its transaction has a change to carry, so a transaction of nothing, or one
//! whose changes the chain already holds, leaves no envelope and only moves `end_lsn`. An envelope is cut
//! at a commit once it has reached its target size; inside a transaction only when the next change would
//! not fit. The next one then starts with the Begin again. A change that does not even fit alone makes a
//! body in parts.
//!
//! Invariants: each envelope starts where the one before it ended; every change behind the start position
//! is in exactly one of them; memory is one envelope and the largest row; no message costs an allocation.
//! After an error the assembler refuses further work: it has taken a part of its block, and what is
//! missing could not be told.
//!
//! Example: the chain ends inside a transaction of 5 changes at `(0/50, 3)`, then the process dies. Started
//! again there, the source sends the transaction from its start: changes 1 to 3 are skipped, the next
//! envelope holds Begin, 4, 5, Commit and leads from `(0/50, 3)` to `(0/50, 5)`.

use super::chain::Envelope;
use super::order::Order;
use super::sizes::Sizes;
use super::write::Writer;
use crate::error::{CoreError, DecodeError, EnvelopeError, MessageKind, Reason};
use crate::lsn::{Lsn, Position};
use crate::pgoutput::cursor::Cursor;
use crate::pgoutput::frame::DATA_PREFIX_BYTES;
use crate::pgoutput::{Commit, Frame, Frames, Message};

/// What was counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames read.
    pub frames: u64,
    /// Changes assembled; skipped ones do not count.
    pub changes: u64,
    /// Commits read, skipped and empty ones included.
    pub commits: u64,
}

/// See the module.
pub struct Assembler {
    order: Order,
    writer: Writer,
    received_lsn: Lsn,
    keepalive_lsn: Lsn,
    reply_request_us: Option<i64>,
    counters: Counters,
    has_failed: bool,
}

impl Assembler {
    /// Continues the chain behind an envelope that ended at `position` with `end_lsn`.
    ///
    /// A position with an ordinal and a commit LSN at or above `end_lsn` lies inside an open transaction.
    ///
    /// # Errors
    /// A position without an ordinal holds no commit: `end_lsn` cannot be above it.
    pub fn new(
        incarnation: [u8; 16],
        position: Position,
        end_lsn: Lsn,
        sizes: Sizes,
    ) -> Result<Self, EnvelopeError> {
        if position.ordinal == 0 && end_lsn > position.commit_lsn {
            return Err(EnvelopeError::BadSetting(
                "end_lsn is above a position that holds no change",
            ));
        }
        Ok(Self {
            order: Order::new(position, end_lsn),
            writer: Writer::new(incarnation, position, end_lsn, sizes),
            received_lsn: end_lsn,
            keepalive_lsn: Lsn::default(),
            reply_request_us: None,
            counters: Counters::default(),
            has_failed: false,
        })
    }

    /// Marks the chain from here on with the layout of the group's tables.
    #[must_use]
    pub const fn with_layout(mut self, layout: u32) -> Self {
        self.writer.set_layout(layout);
        self
    }

    /// Takes a block of frames, gives the envelopes that got full. Copies each message once.
    pub fn feed(&mut self, block: &[u8]) -> Result<Vec<Envelope>, CoreError> {
        self.refuse_after_error()?;
        self.has_failed = true;
        for frame in Frames::new(block) {
            let (offset, payload) = frame?;
            self.take_frame(payload)
                .map_err(|error| error.shifted(offset))?;
        }
        let envelopes = self.writer.finished()?;
        self.has_failed = false;
        Ok(envelopes)
    }

    /// Finishes what is pending, if it ends at a commit.
    pub fn flush(&mut self) -> Result<Vec<Envelope>, CoreError> {
        self.refuse_after_error()?;
        if self.is_pending_at_commit() {
            self.writer.cut();
        }
        Ok(self.writer.finished()?)
    }

    /// Makes the envelope that says: nothing more up to `lsn`.
    pub fn watermark(&mut self, lsn: Lsn) -> Result<Envelope, CoreError> {
        self.refuse_after_error()?;
        let obstacles = [
            (self.pending_bytes() > 0, "changes are pending"),
            (self.is_in_transaction(), "a transaction is open"),
            (
                lsn <= self.writer.chain_end_lsn(),
                "the chain is there already",
            ),
            (lsn < self.end_lsn(), "a later commit has been seen"),
            (
                lsn > self.received_lsn,
                "the source has not been seen there",
            ),
        ];
        if let Some((_, because)) = obstacles.into_iter().find(|(stands, _)| *stands) {
            return Err(EnvelopeError::NoWatermark { lsn, because }.into());
        }
        self.order.watermark(lsn);
        Ok(self.writer.watermark(lsn)?)
    }

    /// Highest WAL position seen; at first the start's `end_lsn`.
    #[must_use]
    pub const fn received_lsn(&self) -> Lsn {
        self.received_lsn
    }

    /// End of WAL that the last keepalive told.
    #[must_use]
    pub const fn keepalive_lsn(&self) -> Lsn {
        self.keepalive_lsn
    }

    /// End of the last commit, pending and empty ones included.
    #[must_use]
    pub const fn end_lsn(&self) -> Lsn {
        self.order.end_lsn()
    }

    /// Where assembling stands, pending changes included.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.writer.position()
    }

    /// Whether a Begin waits for its Commit, or the chain was taken over inside a transaction.
    #[must_use]
    pub const fn is_in_transaction(&self) -> bool {
        self.order.is_in_transaction()
    }

    /// Bytes of body that no finished envelope holds.
    #[must_use]
    pub const fn pending_bytes(&self) -> usize {
        self.writer.pending_bytes()
    }

    /// Whether something is pending and ends at a commit.
    #[must_use]
    pub const fn is_pending_at_commit(&self) -> bool {
        self.writer.is_pending_at_commit()
    }

    /// The last keepalive since the last call that wanted an answer: the server's clock at its sending,
    /// in µs since 2000-01-01.
    pub const fn take_reply_request(&mut self) -> Option<i64> {
        self.reply_request_us.take()
    }

    /// What was counted since the start.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    const fn refuse_after_error(&self) -> Result<(), EnvelopeError> {
        if self.has_failed {
            return Err(EnvelopeError::Finished(
                "the assembler stopped at an earlier error",
            ));
        }
        Ok(())
    }

    #[inline]
    fn take_frame(&mut self, payload: &[u8]) -> Result<(), DecodeError> {
        self.counters.frames += 1;
        match Frame::decode(payload)? {
            Frame::Data {
                data_start_lsn,
                wal_end_lsn,
                message,
                ..
            } => {
                self.received_lsn = self.received_lsn.max(data_start_lsn).max(wal_end_lsn);
                self.take_message(message)
                    .map_err(|error| error.shifted(DATA_PREFIX_BYTES))
            }
            Frame::Keepalive {
                wal_end_lsn,
                send_time_us,
                reply_requested,
            } => {
                self.received_lsn = self.received_lsn.max(wal_end_lsn);
                self.keepalive_lsn = wal_end_lsn;
                if reply_requested {
                    self.reply_request_us = Some(send_time_us);
                }
                Ok(())
            }
        }
    }

    #[inline]
    fn take_message(&mut self, message: &[u8]) -> Result<(), DecodeError> {
        let kind = message.first().copied();
        let taken = match kind {
            // Rows are not walked here: whoever applies them decodes every cell.
            Some(b'I' | b'U' | b'D') => {
                row_relation(message).and_then(|oid| self.take_change(&[oid], message))
            }
            _ => self.take_other(&Message::decode(message)?, message),
        };
        taken.map_err(|reason| DecodeError {
            offset: 0,
            message_kind: MessageKind(kind),
            reason,
        })
    }

    fn take_other(&mut self, decoded: &Message<'_>, message: &[u8]) -> Result<(), Reason> {
        match decoded {
            Message::Begin(begin) => {
                self.order.begin(begin.final_lsn)?;
                self.writer.begin(message);
                Ok(())
            }
            Message::Commit(commit) => self.take_commit(commit, message),
            Message::Origin(_) => {
                self.order.origin()?;
                self.writer.origin(message);
                Ok(())
            }
            Message::Relation(relation) => {
                self.writer.relation(relation, message);
                Ok(())
            }
            Message::Type(announced) => {
                self.writer.announced_type(announced, message);
                Ok(())
            }
            Message::Insert(insert) => self.take_change(&[insert.relation_oid], message),
            Message::Update(update) => self.take_change(&[update.relation_oid], message),
            Message::Delete(delete) => self.take_change(&[delete.relation_oid], message),
            Message::Truncate(truncate) => {
                let relation_oids: Vec<u32> = truncate.relation_oids().collect();
                self.take_change(&relation_oids, message)
            }
            Message::Logical(logical) if logical.transactional => self.take_change(&[], message),
            // Stands outside of every transaction: no position, so no place in the chain.
            Message::Logical(_) => Ok(()),
        }
    }

    /// A message that has an ordinal.
    #[inline]
    fn take_change(&mut self, relation_oids: &[u32], message: &[u8]) -> Result<(), Reason> {
        if let Some(position) = self.order.change()? {
            self.writer.change(position, relation_oids, message)?;
            self.counters.changes += 1;
        }
        Ok(())
    }

    fn take_commit(&mut self, commit: &Commit, message: &[u8]) -> Result<(), Reason> {
        let is_rest = self.order.commit(commit)?;
        self.counters.commits += 1;
        self.received_lsn = self.received_lsn.max(commit.end_lsn);
        self.writer
            .commit(commit, message, self.order.end_lsn(), is_rest)
    }
}

/// The relation of an Insert, Update or Delete; checks the first tuple's tag, not the tuples.
#[inline]
fn row_relation(message: &[u8]) -> Result<u32, Reason> {
    let mut cursor = Cursor::new(message);
    let kind = cursor.u8()?;
    let relation_oid = cursor.u32()?;
    match (kind, cursor.u8()?) {
        (b'I' | b'U', b'N') | (b'U' | b'D', b'K' | b'O') => Ok(relation_oid),
        (_, value) => Err(Reason::UnknownTag {
            field: "tuple",
            value,
        }),
    }
}
