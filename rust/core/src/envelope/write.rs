//! Changes into bodies: where they are cut, and what stands in each so that it can be read alone.
//!
//! Upstream: the assembler, which knows where a change stands and that it is new. Downstream: the chain.
//! Invariants: a body holds the Begin of every transaction it has a part of, and describes every table it
//! changes; it ends at a commit unless the next change would make it too large; only a change that does
//! not fit alone makes it exceed the maximum, and then it comes in parts.

use super::body::{Body, framed_bytes};
use super::chain::{Chain, Envelope, seal};
use super::fields::{Header, Kind};
use super::header::HEADER_BYTES;
use super::schema::Schema;
use super::sizes::Sizes;
use crate::error::{EnvelopeError, Reason};
use crate::lsn::{Lsn, Position};
use crate::pgoutput::{Commit, Relation, Type};

/// Room kept for the Commit of a transaction: it never needs an envelope of its own.
const COMMIT_FRAMED_BYTES: usize = 4 + 26;

/// The end of the chain and the body behind it.
pub(super) struct Writer {
    sizes: Sizes,
    schema: Schema,
    chain: Chain,
    /// Where writing stands, the present body included.
    position: Position,
    /// End of the last whole commit up to there.
    end_lsn: Lsn,
    /// The last Begin and its Origin (or nothing), as they came.
    begin: Vec<u8>,
    origin: Vec<u8>,
    /// Whether they stand in the present body.
    begin_is_written: bool,
    body: Body,
    body_changes: u64,
    body_commit_time_us: i64,
    /// Bodies that are finished but for their headers.
    cut: Vec<(Header, Vec<Vec<u8>>)>,
}

impl Writer {
    pub(super) fn new(
        incarnation: [u8; 16],
        position: Position,
        end_lsn: Lsn,
        sizes: Sizes,
    ) -> Self {
        Self {
            sizes,
            schema: Schema::new(),
            chain: Chain::new(incarnation, position, end_lsn),
            position,
            end_lsn,
            begin: Vec::new(),
            origin: Vec::new(),
            begin_is_written: false,
            body: Body::new(sizes.max_body_bytes()),
            body_changes: 0,
            body_commit_time_us: 0,
            cut: Vec::new(),
        }
    }

    /// Marks what is written from now on with a layout.
    pub(super) const fn set_layout(&mut self, layout: u32) {
        self.chain.layout = layout;
    }

    pub(super) const fn position(&self) -> Position {
        self.position
    }

    /// What the last finished envelope lets its publisher confirm.
    pub(super) const fn chain_end_lsn(&self) -> Lsn {
        self.chain.end_lsn()
    }

    pub(super) const fn pending_bytes(&self) -> usize {
        self.body.len()
    }

    /// Whether the present body holds something and ends at a commit.
    pub(super) const fn is_pending_at_commit(&self) -> bool {
        !self.body.is_empty() && !self.begin_is_written
    }

    /// Keeps a Begin for when its transaction has something to write.
    pub(super) fn begin(&mut self, message: &[u8]) {
        self.begin.clear();
        self.begin.extend_from_slice(message);
        self.origin.clear();
    }

    /// Keeps the Origin of the last Begin.
    pub(super) fn origin(&mut self, message: &[u8]) {
        self.origin.clear();
        self.origin.extend_from_slice(message);
    }

    pub(super) fn relation(&mut self, relation: &Relation<'_>, message: &[u8]) {
        self.schema.keep_relation(relation, message);
    }

    pub(super) fn announced_type(&mut self, announced: &Type<'_>, message: &[u8]) {
        self.schema.keep_type(announced, message);
    }

    /// Writes a change of those tables, which stands at `position`.
    #[inline]
    pub(super) fn change(
        &mut self,
        position: Position,
        relation_oids: &[u32],
        message: &[u8],
    ) -> Result<(), Reason> {
        let mut needed_bytes = framed_bytes(message);
        if !self.begin_is_written {
            needed_bytes += framed_bytes(&self.begin) + framed_bytes(&self.origin);
        }
        for oid in relation_oids {
            needed_bytes += self.schema.missing_bytes(*oid)?;
        }
        let full_bytes = self.body.len() + needed_bytes + COMMIT_FRAMED_BYTES;
        if full_bytes > self.sizes.max_body_bytes() && !self.body.is_empty() {
            self.cut();
        }
        self.write_begin()?;
        for oid in relation_oids {
            self.schema.write(*oid, &mut self.body)?;
        }
        self.body.push(message)?;
        self.position = position;
        self.body_changes += 1;
        Ok(())
    }

    /// Writes the Commit of a transaction that has something in this body, or whose Begin stands in the
    /// chain without it (`is_rest`). Any other one only moves the end of what is whole to `end_lsn`.
    pub(super) fn commit(
        &mut self,
        commit: &Commit,
        message: &[u8],
        end_lsn: Lsn,
        is_rest: bool,
    ) -> Result<(), Reason> {
        if self.begin_is_written || is_rest {
            // Only a chain taken over behind the last change of a transaction lacks its Begin here.
            self.write_begin()?;
            self.body.push(message)?;
            self.body_commit_time_us = commit.commit_time_us;
            self.begin_is_written = false;
        }
        self.end_lsn = end_lsn;
        if self.body.len() >= self.sizes.target_body_bytes() {
            self.cut();
        }
        Ok(())
    }

    /// Writes the last Begin unless it stands in this body.
    #[inline]
    fn write_begin(&mut self) -> Result<(), Reason> {
        if !self.begin_is_written {
            self.begin_is_written = true;
            self.body.push(&self.begin)?;
            if !self.origin.is_empty() {
                self.body.push(&self.origin)?;
            }
        }
        Ok(())
    }

    /// Ends the present body here. Its header is written by [`Writer::finished`].
    pub(super) fn cut(&mut self) {
        let linked = self.chain.link(Kind::Changes, self.position, self.end_lsn);
        let header = Header {
            changes: std::mem::take(&mut self.body_changes),
            commit_time_us: std::mem::take(&mut self.body_commit_time_us),
            transaction_open: std::mem::take(&mut self.begin_is_written),
            ..linked
        };
        self.schema.start_envelope();
        self.cut.push((header, self.body.take()));
    }

    /// The envelope of a watermark. The present body must be empty.
    pub(super) fn watermark(&mut self, lsn: Lsn) -> Result<Envelope, EnvelopeError> {
        self.position = Position::new(lsn, 0);
        self.end_lsn = lsn;
        let mut header = self.chain.link(Kind::Watermark, self.position, lsn);
        let mut data = vec![0; HEADER_BYTES];
        header.seal(&mut data)?;
        Ok(Envelope { header, data })
    }

    /// Seals and takes out the envelopes that were cut.
    pub(super) fn finished(&mut self) -> Result<Vec<Envelope>, EnvelopeError> {
        let mut envelopes = Vec::with_capacity(self.cut.len());
        for (header, pieces) in self.cut.drain(..) {
            envelopes.extend(seal(header, pieces)?);
        }
        Ok(envelopes)
    }
}
