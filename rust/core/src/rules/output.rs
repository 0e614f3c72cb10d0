//! A rewritten body under construction: what stays is copied in one piece, gaps and copies are marked.
//!
//! Invariant: a walk over it finds each change at the position that it had.

use std::ops::Range;

use crate::apply::Presence;
use crate::apply::walk::{AGAIN, PRESENCE, SKIP};

#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    /// Up to where the original is dealt with.
    done: usize,
    /// Ordinals that are passed over before whatever comes next.
    skipped: u32,
}

impl Output {
    /// Takes a message of the original out; what stood before it and was not dealt with stays.
    pub(super) fn cut(&mut self, body: &[u8], message: &Range<usize>) {
        let kept = body.get(self.done..message.start).unwrap_or_default();
        if !kept.is_empty() {
            self.pass();
            self.bytes.extend_from_slice(kept);
        }
        self.done = message.end;
    }

    /// Leaves the place of a change empty.
    pub(super) fn skip(&mut self) {
        if self.skipped == u32::MAX {
            self.pass();
        }
        self.skipped += 1;
    }

    /// Marks that the next change stands where the one before it does.
    pub(super) fn again(&mut self) {
        self.push(&[AGAIN]);
    }

    /// Marks that it is not sure whether the row of the next change is there.
    pub(super) fn presence(&mut self, presence: Presence) {
        if let Some(tag) = presence.tag() {
            self.push(&[PRESENCE, tag]);
        }
    }

    /// Appends a message that `write` makes, unless that fails.
    pub(super) fn message<E>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Result<(), E>, TooLong> {
        self.pass();
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        if let Err(error) = write(&mut self.bytes) {
            return Ok(Err(error));
        }
        let length = self.bytes.len() - start - 4;
        let length = i32::try_from(length).map_err(|_| TooLong(length))?;
        if let Some(place) = self.bytes.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        Ok(Ok(()))
    }

    /// Appends a message.
    pub(super) fn push(&mut self, message: &[u8]) {
        self.pass();
        // Messages of ours are short, others were behind a length before.
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(message);
    }

    /// The rewritten body; none if it is the original.
    pub(super) fn finish(mut self, body: &[u8]) -> Option<Vec<u8>> {
        if self.done == 0 {
            return None;
        }
        self.pass();
        self.bytes
            .extend_from_slice(body.get(self.done..).unwrap_or_default());
        Some(self.bytes)
    }

    fn pass(&mut self) {
        if self.skipped > 0 {
            let count = std::mem::take(&mut self.skipped);
            let [a, b, c, d] = count.to_be_bytes();
            self.push(&[SKIP, a, b, c, d]);
        }
    }
}

/// A message that no length field can tell the length of.
#[derive(Debug, Clone, Copy)]
pub(super) struct TooLong(pub(super) usize);
