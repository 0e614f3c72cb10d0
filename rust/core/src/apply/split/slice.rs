//! A part of a body under construction (one shard's slice, or what sifting keeps): an ordinary body with
//! gaps in its ordinals.
//!
//! Invariant: a walk that starts where the epoch starts finds each change at the position it has in the
//! whole. Transactions without a change of this shard are left out; one that goes on in the next body of
//! the epoch is not begun again.

use crate::apply::walk::SKIP;
use crate::lsn::{Lsn, Position};

#[derive(Debug, Default)]
pub(in crate::apply) struct Slice {
    bytes: Vec<u8>,
    /// Where a walk stands at its end.
    position: Position,
    /// The transaction that is begun and not committed in here.
    open_lsn: Option<Lsn>,
}

impl Slice {
    /// Starts where the epoch starts.
    pub(in crate::apply) const fn start(&mut self, prev: Position) {
        self.position = prev;
    }

    /// Adds a change at its place; `begin` is the Begin of its transaction.
    pub(in crate::apply) fn change(&mut self, begin: &[u8], position: Position, message: &[u8]) {
        self.open(begin, position.commit_lsn);
        let before = position.ordinal.saturating_sub(1);
        let mut others = before.saturating_sub(self.position.ordinal);
        while others > 0 {
            let count = u32::try_from(others).unwrap_or(u32::MAX);
            others -= u64::from(count);
            self.length(1 + size_of::<u32>());
            self.bytes.push(SKIP);
            self.bytes.extend(count.to_be_bytes());
        }
        self.push(message);
        self.position = position;
    }

    /// Adds the definition of a table; the next change needs it.
    pub(in crate::apply) fn push(&mut self, message: &[u8]) {
        self.length(message.len());
        self.bytes.extend_from_slice(message);
    }

    /// Ends the transaction, if it was begun in here.
    pub(in crate::apply) fn commit(&mut self, commit_lsn: Lsn, message: &[u8]) {
        if self.open_lsn == Some(commit_lsn) {
            self.push(message);
            self.open_lsn = None;
        }
    }

    /// Takes what there is and starts anew; None if there is no change.
    pub(in crate::apply) fn take(&mut self) -> Option<Vec<u8>> {
        self.open_lsn = None;
        // The next one is probably about as long.
        let next = Vec::with_capacity(self.bytes.len());
        let bytes = std::mem::replace(&mut self.bytes, next);
        (!bytes.is_empty()).then_some(bytes)
    }

    fn open(&mut self, begin: &[u8], commit_lsn: Lsn) {
        if self.open_lsn == Some(commit_lsn) {
            return;
        }
        self.push(begin);
        self.open_lsn = Some(commit_lsn);
        if commit_lsn > self.position.commit_lsn {
            self.position = Position::new(commit_lsn, 0);
        }
    }

    /// A message's length. No message is longer than the one it was read from, whose length fitted.
    fn length(&mut self, bytes: usize) {
        let length = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_be_bytes());
    }
}
