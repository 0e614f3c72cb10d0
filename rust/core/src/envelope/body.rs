//! The body under construction: one growing buffer with room for its header in front.
//!
//! Invariant: no piece exceeds `HEADER_BYTES + max_bytes`. Only a body that holds a message larger than an
//! envelope has more than one piece: it flows over into the next, so that it is never copied twice.

use super::header::HEADER_BYTES;
use crate::error::Reason;

pub(super) struct Body {
    full: Vec<Vec<u8>>,
    last: Vec<u8>,
    max_piece_bytes: usize,
    length_bytes: usize,
}

/// Bytes of a message behind its length.
pub(super) const fn framed_bytes(message: &[u8]) -> usize {
    size_of::<u32>() + message.len()
}

impl Body {
    pub(super) fn new(max_bytes: usize) -> Self {
        let max_piece_bytes = HEADER_BYTES + max_bytes;
        Self {
            full: Vec::new(),
            last: vec![0; HEADER_BYTES],
            max_piece_bytes,
            length_bytes: 0,
        }
    }

    /// Bytes of body, headers not counted.
    pub(super) const fn len(&self) -> usize {
        self.length_bytes
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.length_bytes == 0
    }

    /// Appends a message behind its length.
    #[inline]
    pub(super) fn push(&mut self, message: &[u8]) -> Result<(), Reason> {
        let length = u32::try_from(message.len()).map_err(|_| Reason::TooLong(message.len()))?;
        let framed_bytes = framed_bytes(message);
        self.length_bytes += framed_bytes;
        if self.last.len() + framed_bytes <= self.max_piece_bytes {
            self.last.extend_from_slice(&length.to_be_bytes());
            self.last.extend_from_slice(message);
        } else {
            self.overflow(&length.to_be_bytes());
            self.overflow(message);
        }
        Ok(())
    }

    /// Appends bytes across pieces.
    fn overflow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.last.len() == self.max_piece_bytes {
                let mut next =
                    Vec::with_capacity(self.max_piece_bytes.min(HEADER_BYTES + bytes.len()));
                next.resize(HEADER_BYTES, 0);
                self.full.push(std::mem::replace(&mut self.last, next));
            }
            let room = self.max_piece_bytes - self.last.len();
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.last.reserve_exact(now.len());
            self.last.extend_from_slice(now);
            bytes = later;
        }
    }

    /// Takes the pieces, each with `HEADER_BYTES` of zeros in front, and starts an empty body.
    pub(super) fn take(&mut self) -> Vec<Vec<u8>> {
        // The next body is probably about as long as this one.
        let mut next = Vec::with_capacity(self.last.len());
        next.resize(HEADER_BYTES, 0);
        let mut pieces = std::mem::take(&mut self.full);
        pieces.push(std::mem::replace(&mut self.last, next));
        self.length_bytes = 0;
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(pieces: &[Vec<u8>]) -> Vec<u8> {
        pieces
            .iter()
            .flat_map(|piece| piece.iter().skip(HEADER_BYTES))
            .copied()
            .collect()
    }

    #[test]
    fn a_message_larger_than_a_piece_flows_over_and_nothing_else_changes() {
        for size in 0..40_u8 {
            let mut body = Body::new(10);
            let message: Vec<u8> = (0..size).collect();
            body.push(&message).unwrap();
            assert_eq!(body.len(), 4 + message.len());
            let pieces = body.take();
            assert!(pieces.iter().all(|piece| piece.len() <= HEADER_BYTES + 10));
            assert_eq!(pieces.len(), (4 + message.len()).div_ceil(10));
            let mut expected = vec![0, 0, 0, size];
            expected.extend(message);
            assert_eq!(joined(&pieces), expected);
            assert!(body.is_empty());
        }
    }
}
