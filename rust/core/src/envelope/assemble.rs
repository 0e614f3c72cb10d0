//! Frames of a replication stream into a chain of envelopes.
//!
//! Upstream: blocks drained by the pump. Downstream: the publisher, in order.
//!
//! A Begin is held back until its transaction has a change to carry, so a transaction of nothing, or one
//! whose changes the chain already holds, leaves no envelope and only moves `end_lsn`. An envelope is cut
//! at a commit once it has reached its target size; inside a transaction only when the next change would
//! not fit. The next one then starts with the Begin again. A change that does not even fit alone makes a
//! body in parts.
//!
//! Invariants: each envelope starts where the one before it ended; every change behind the start position
//! is in exactly one of them; memory is one envelope and the largest row. After an error the assembler
//! refuses further work: it has taken a part of its block, and what is missing could not be told.
//!
//! Example: the chain ends inside a transaction of 5 changes at `(0/50, 3)`, then the process dies. Started
//! again there, the source sends the transaction from its start: changes 1 to 3 are skipped, the next
//! envelope holds Begin, 4, 5, Commit and leads from `(0/50, 3)` to `(0/50, 5)`.

use super::body::{Body, framed_bytes};
use super::header::{Header, Kind};
use super::schema::Schema;
use crate::error::{CoreError, DecodeError, EnvelopeError, MessageKind, Reason};
use crate::lsn::{Lsn, Position};
use crate::pgoutput::cursor::Cursor;
use crate::pgoutput::frame::DATA_PREFIX_BYTES;
use crate::pgoutput::{Begin, Commit, Frame, Frames, Message};

/// Room kept for the Commit of a transaction: it never needs an envelope of its own.
const COMMIT_FRAMED_BYTES: usize = 4 + 26;
/// Below this an envelope holds little more than a Begin and a Relation.
const LEAST_MAX_BODY_BYTES: usize = 1024;
/// The most that a NATS server can be made to take in one message.
const MOST_MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// When bodies are cut, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    target_body_bytes: usize,
    max_body_bytes: usize,
}

impl Sizes {
    /// Checks both against each other and against what a broker can carry.
    pub const fn new(
        target_body_bytes: usize,
        max_body_bytes: usize,
    ) -> Result<Self, EnvelopeError> {
        if target_body_bytes == 0 || target_body_bytes > max_body_bytes {
            return Err(EnvelopeError::BadSetting(
                "target_body_bytes must be from 1 to max_body_bytes",
            ));
        }
        if max_body_bytes < LEAST_MAX_BODY_BYTES || max_body_bytes > MOST_MAX_BODY_BYTES {
            return Err(EnvelopeError::BadSetting(
                "max_body_bytes must be from 1 KiB to 64 MiB",
            ));
        }
        Ok(Self {
            target_body_bytes,
            max_body_bytes,
        })
    }

    /// Size that a body is cut at.
    #[must_use]
    pub const fn target_body_bytes(self) -> usize {
        self.target_body_bytes
    }

    /// Size that no body exceeds.
    #[must_use]
    pub const fn max_body_bytes(self) -> usize {
        self.max_body_bytes
    }
}

/// A finished envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Its header, as it stands in `data`.
    pub header: Header,
    /// Header and body.
    pub data: Vec<u8>,
}

/// The transaction whose Begin came last.
#[derive(Debug, Clone, Copy)]
struct Transaction {
    final_lsn: Lsn,
    /// Changes that came.
    ordinal: u64,
    /// Changes up to here are in the chain already.
    skip_through: u64,
    /// Whether its Begin stands in the present body.
    is_written: bool,
}

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
    incarnation: [u8; 16],
    sizes: Sizes,
    /// Where the chain stood when we took it over.
    start: Position,
    /// Whether that lies inside a transaction whose rest has not come yet.
    start_is_open: bool,
    /// No transaction may commit below: end of the last commit seen, or our last watermark.
    floor_lsn: Lsn,
    transaction: Option<Transaction>,
    begin: Vec<u8>,
    origin: Vec<u8>,
    schema: Schema,
    body: Body,
    body_changes: u64,
    body_commit_time_us: i64,
    /// Where the last finished envelope ended.
    chain: Position,
    chain_end_lsn: Lsn,
    position: Position,
    end_lsn: Lsn,
    received_lsn: Lsn,
    keepalive_lsn: Lsn,
    reply_requested: bool,
    counters: Counters,
    cut: Vec<(Header, Vec<Vec<u8>>)>,
    has_failed: bool,
}

impl Assembler {
    /// Continues the chain behind an envelope that ended at `position` with `end_lsn`.
    ///
    /// A position with an ordinal and a commit LSN at or above `end_lsn` lies inside an open transaction.
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
            incarnation,
            sizes,
            start: position,
            start_is_open: position.ordinal > 0 && position.commit_lsn >= end_lsn,
            floor_lsn: Lsn::default(),
            transaction: None,
            begin: Vec::new(),
            origin: Vec::new(),
            schema: Schema::new(),
            body: Body::new(sizes.max_body_bytes),
            body_changes: 0,
            body_commit_time_us: 0,
            chain: position,
            chain_end_lsn: end_lsn,
            position,
            end_lsn,
            received_lsn: end_lsn,
            keepalive_lsn: Lsn::default(),
            reply_requested: false,
            counters: Counters::default(),
            cut: Vec::new(),
            has_failed: false,
        })
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
        let envelopes = self.finished()?;
        self.has_failed = false;
        Ok(envelopes)
    }

    /// Finishes what is pending, if it ends at a commit.
    pub fn flush(&mut self) -> Result<Vec<Envelope>, CoreError> {
        self.refuse_after_error()?;
        if self.is_pending_at_commit() {
            self.cut();
        }
        Ok(self.finished()?)
    }

    /// Makes the envelope that says: nothing more up to `lsn`.
    pub fn watermark(&mut self, lsn: Lsn) -> Result<Envelope, CoreError> {
        self.refuse_after_error()?;
        let obstacles = [
            (!self.body.is_empty(), "changes are pending"),
            (self.is_in_transaction(), "a transaction is open"),
            (lsn <= self.chain_end_lsn, "the chain is there already"),
            (lsn < self.end_lsn, "a later commit has been seen"),
            (
                lsn > self.received_lsn,
                "the source has not been seen there",
            ),
        ];
        if let Some((_, because)) = obstacles.into_iter().find(|(stands, _)| *stands) {
            return Err(EnvelopeError::NoWatermark { lsn, because }.into());
        }
        self.position = Position::new(lsn, 0);
        self.end_lsn = lsn;
        self.floor_lsn = lsn;
        let header = self.next_header(Kind::Watermark);
        Ok(seal(header, Body::new(0).take())?.remove(0))
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
        self.end_lsn
    }

    /// Where assembling stands, pending changes included.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// Whether a Begin waits for its Commit, or the chain was taken over inside a transaction.
    #[must_use]
    pub const fn is_in_transaction(&self) -> bool {
        self.transaction.is_some() || self.start_is_open
    }

    /// Bytes of body that no finished envelope holds.
    #[must_use]
    pub const fn pending_bytes(&self) -> usize {
        self.body.len()
    }

    /// Whether something is pending and ends at a commit.
    #[must_use]
    pub fn is_pending_at_commit(&self) -> bool {
        !self.body.is_empty()
            && !self
                .transaction
                .is_some_and(|transaction| transaction.is_written)
    }

    /// Whether a keepalive wanted an answer since the last call.
    pub const fn take_reply_request(&mut self) -> bool {
        std::mem::replace(&mut self.reply_requested, false)
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
                reply_requested,
                ..
            } => {
                self.received_lsn = self.received_lsn.max(wal_end_lsn);
                self.keepalive_lsn = wal_end_lsn;
                self.reply_requested |= reply_requested;
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
            Message::Begin(begin) => self.take_begin(begin, message),
            Message::Commit(commit) => self.take_commit(commit, message),
            Message::Origin(_) => self.take_origin(message),
            Message::Relation(relation) => {
                self.schema.keep_relation(relation, message);
                Ok(())
            }
            Message::Type(announced) => {
                self.schema.keep_type(announced, message);
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

    fn take_begin(&mut self, begin: &Begin, message: &[u8]) -> Result<(), Reason> {
        if let Some(open) = self.transaction {
            return Err(Reason::InsideTransaction(open.final_lsn));
        }
        let commit_lsn = begin.final_lsn;
        let is_new = commit_lsn > self.start.commit_lsn;
        let floor_lsn = if is_new {
            self.floor_lsn.max(self.end_lsn)
        } else {
            self.floor_lsn
        };
        if commit_lsn < floor_lsn {
            return Err(Reason::NotIncreasing {
                commit_lsn,
                floor_lsn,
            });
        }
        if is_new && self.start_is_open {
            return Err(Reason::MissingRest {
                expected: self.start,
                found: commit_lsn,
            });
        }
        let skip_through = match commit_lsn.cmp(&self.start.commit_lsn) {
            std::cmp::Ordering::Less => u64::MAX,
            std::cmp::Ordering::Equal => self.start.ordinal,
            std::cmp::Ordering::Greater => 0,
        };
        self.transaction = Some(Transaction {
            final_lsn: commit_lsn,
            ordinal: 0,
            skip_through,
            is_written: false,
        });
        self.begin.clear();
        self.begin.extend_from_slice(message);
        self.origin.clear();
        Ok(())
    }

    fn take_origin(&mut self, message: &[u8]) -> Result<(), Reason> {
        let transaction = self.transaction.ok_or(Reason::OutsideTransaction)?;
        if transaction.ordinal > 0 {
            return Err(Reason::LateOrigin);
        }
        self.origin.clear();
        self.origin.extend_from_slice(message);
        Ok(())
    }

    /// A message that has an ordinal.
    #[inline]
    fn take_change(&mut self, relation_oids: &[u32], message: &[u8]) -> Result<(), Reason> {
        let transaction = self
            .transaction
            .as_mut()
            .ok_or(Reason::OutsideTransaction)?;
        transaction.ordinal += 1;
        if transaction.ordinal <= transaction.skip_through {
            return Ok(());
        }
        let at = Position::new(transaction.final_lsn, transaction.ordinal);
        if transaction.skip_through > 0 && !self.start_is_open {
            return Err(Reason::OtherChanges {
                recorded: self.start,
                found: at.ordinal,
            });
        }
        let mut needed_bytes = framed_bytes(message);
        if !transaction.is_written {
            needed_bytes += framed_bytes(&self.begin) + framed_bytes(&self.origin);
        }
        for oid in relation_oids {
            needed_bytes += self.schema.missing_bytes(*oid)?;
        }
        let full_bytes = self.body.len() + needed_bytes + COMMIT_FRAMED_BYTES;
        if full_bytes > self.sizes.max_body_bytes && !self.body.is_empty() {
            self.cut();
        }
        self.write_begin()?;
        for oid in relation_oids {
            self.schema.write(*oid, &mut self.body)?;
        }
        self.body.push(message)?;
        self.position = at;
        self.body_changes += 1;
        self.counters.changes += 1;
        Ok(())
    }

    /// Writes the Begin of the present transaction unless it stands in this body.
    #[inline]
    fn write_begin(&mut self) -> Result<(), Reason> {
        let transaction = self
            .transaction
            .as_mut()
            .ok_or(Reason::OutsideTransaction)?;
        if !transaction.is_written {
            transaction.is_written = true;
            self.body.push(&self.begin)?;
            if !self.origin.is_empty() {
                self.body.push(&self.origin)?;
            }
        }
        Ok(())
    }

    fn take_commit(&mut self, commit: &Commit, message: &[u8]) -> Result<(), Reason> {
        let transaction = self.transaction.ok_or(Reason::OutsideTransaction)?;
        let Commit {
            commit_lsn,
            end_lsn,
            commit_time_us,
        } = *commit;
        if commit_lsn != transaction.final_lsn || end_lsn <= commit_lsn {
            return Err(Reason::OtherCommit {
                commit_lsn,
                end_lsn,
                final_lsn: transaction.final_lsn,
            });
        }
        let is_start = commit_lsn == self.start.commit_lsn && self.start.ordinal > 0;
        if is_start && transaction.ordinal < self.start.ordinal {
            return Err(Reason::OtherChanges {
                recorded: self.start,
                found: transaction.ordinal,
            });
        }
        self.counters.commits += 1;
        self.floor_lsn = end_lsn;
        self.received_lsn = self.received_lsn.max(end_lsn);
        self.end_lsn = self.end_lsn.max(end_lsn);
        if transaction.is_written || (is_start && self.start_is_open) {
            // Only a chain taken over behind the last change of a transaction lacks its Begin here.
            self.write_begin()?;
            self.body.push(message)?;
            self.body_commit_time_us = commit_time_us;
        }
        self.start_is_open &= !is_start;
        self.transaction = None;
        if self.body.len() >= self.sizes.target_body_bytes {
            self.cut();
        }
        Ok(())
    }

    /// Ends the present body here. Its envelopes are sealed by [`Assembler::finished`].
    fn cut(&mut self) {
        let mut header = self.next_header(Kind::Changes);
        header.changes = std::mem::take(&mut self.body_changes);
        header.commit_time_us = std::mem::take(&mut self.body_commit_time_us);
        if let Some(transaction) = &mut self.transaction {
            header.transaction_open = transaction.is_written;
            transaction.is_written = false;
        }
        self.schema.start_envelope();
        self.cut.push((header, self.body.take()));
    }

    /// The header of an envelope from the end of the chain to the present position, which becomes its end.
    fn next_header(&mut self, kind: Kind) -> Header {
        let mut header = Header::new(kind, self.incarnation);
        header.prev = std::mem::replace(&mut self.chain, self.position);
        header.position = self.position;
        header.end_lsn = self.end_lsn;
        self.chain_end_lsn = self.end_lsn;
        header
    }

    fn finished(&mut self) -> Result<Vec<Envelope>, EnvelopeError> {
        let mut envelopes = Vec::with_capacity(self.cut.len());
        for (header, pieces) in self.cut.drain(..) {
            envelopes.extend(seal(header, pieces)?);
        }
        Ok(envelopes)
    }
}

/// Puts `header` before each piece of a body.
fn seal(mut header: Header, pieces: Vec<Vec<u8>>) -> Result<Vec<Envelope>, EnvelopeError> {
    header.parts = u32::try_from(pieces.len()).map_err(|_| EnvelopeError::TooLarge)?;
    let numbered = (0..header.parts).zip(pieces);
    let sealed = numbered.map(|(part, mut data)| {
        header.part = part;
        header.seal(&mut data)?;
        Ok(Envelope { header, data })
    });
    sealed.collect()
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
