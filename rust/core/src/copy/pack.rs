//! COPY rows of one attempt at one range into envelopes.
//!
//! Upstream: rows drained by the pump. Downstream: the copy lane; the sink feeds the bodies to COPY IN in
//! the order of `part_no`. Invariant: the bodies concatenate to the rows that were fed, and the `rows` of
//! all envelopes add up to `total_rows` of the final one. Bodies are cut at the target size, wherever that
//! is in a row: rows are not parsed here. Holds less than one envelope.

use crate::envelope::{CopyFields, HEADER_BYTES, Header, Kind, Sizes};
use crate::error::EnvelopeError;

/// See the module.
pub struct CopyPacker {
    header: Header,
    target_piece_bytes: usize,
    pending: Vec<u8>,
    rows: u64,
    bytes: u64,
    is_finished: bool,
}

impl CopyPacker {
    /// Starts an attempt. Of `attempt`, relation, range, attempt number, snapshot and format are used.
    #[must_use]
    pub fn new(incarnation: [u8; 16], attempt: CopyFields, sizes: Sizes) -> Self {
        let CopyFields {
            relation_oid,
            range_no,
            attempt,
            snapshot_lsn,
            is_binary,
            ..
        } = attempt;
        let copy = CopyFields {
            relation_oid,
            range_no,
            attempt,
            snapshot_lsn,
            is_binary,
            ..CopyFields::default()
        };
        Self {
            header: Header {
                copy,
                ..Header::new(Kind::Copy, incarnation)
            },
            target_piece_bytes: HEADER_BYTES + sizes.target_body_bytes(),
            pending: vec![0; HEADER_BYTES],
            rows: 0,
            bytes: 0,
            is_finished: false,
        }
    }

    /// Takes `row_count` whole rows, gives the envelopes that got full. Copies each byte once.
    ///
    /// The rows are counted in the envelope that holds the last byte of this call. Bytes without rows
    /// are fine: the trailer of a binary COPY is no row.
    pub fn feed(&mut self, mut rows: &[u8], row_count: u64) -> Result<Vec<Vec<u8>>, EnvelopeError> {
        self.refuse_after_end()?;
        if rows.is_empty() && row_count > 0 {
            return Err(EnvelopeError::BadSetting("rows without bytes"));
        }
        self.rows = self
            .rows
            .checked_add(row_count)
            .ok_or(EnvelopeError::TooLarge)?;
        self.bytes += rows.len() as u64;
        let mut envelopes = Vec::new();
        loop {
            let room = self.target_piece_bytes - self.pending.len();
            let Some((now, later)) = rows.split_at_checked(room) else {
                break;
            };
            self.pending.extend_from_slice(now);
            rows = later;
            if rows.is_empty() {
                self.header.copy.rows += row_count;
                envelopes.push(self.seal()?);
                return Ok(envelopes);
            }
            envelopes.push(self.seal()?);
        }
        self.pending.extend_from_slice(rows);
        self.header.copy.rows += row_count;
        Ok(envelopes)
    }

    /// Gives the final part, of any size from 0; nothing may be fed after it.
    pub fn finish(&mut self) -> Result<Vec<u8>, EnvelopeError> {
        self.refuse_after_end()?;
        self.is_finished = true;
        self.header.copy.is_final = true;
        self.header.copy.total_rows = self.rows;
        self.seal()
    }

    /// Rows fed.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes fed.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    const fn refuse_after_end(&self) -> Result<(), EnvelopeError> {
        if self.is_finished {
            return Err(EnvelopeError::Finished(
                "the attempt has got its final part",
            ));
        }
        Ok(())
    }

    fn seal(&mut self) -> Result<Vec<u8>, EnvelopeError> {
        let mut next = Vec::with_capacity(self.pending.len());
        next.resize(HEADER_BYTES, 0);
        let mut envelope = std::mem::replace(&mut self.pending, next);
        self.header.seal(&mut envelope)?;
        self.header.copy.part_no = self
            .header
            .copy
            .part_no
            .checked_add(1)
            .ok_or(EnvelopeError::TooLarge)?;
        self.header.copy.rows = 0;
        Ok(envelope)
    }
}
