//! The chain of envelopes: each starts where the one before it ended.

use super::fields::{Header, Kind};
use crate::error::EnvelopeError;
use crate::lsn::{Lsn, Position};

/// A finished envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Its header, as it stands in `data`.
    pub header: Header,
    /// Header and body.
    pub data: Vec<u8>,
}

/// The end of the chain.
pub(super) struct Chain {
    incarnation: [u8; 16],
    /// Of the group's tables, as its envelopes tell it.
    pub(super) layout: u32,
    position: Position,
    end_lsn: Lsn,
}

impl Chain {
    pub(super) const fn new(incarnation: [u8; 16], position: Position, end_lsn: Lsn) -> Self {
        Self {
            incarnation,
            layout: 0,
            position,
            end_lsn,
        }
    }

    /// What the last envelope lets its publisher confirm.
    pub(super) const fn end_lsn(&self) -> Lsn {
        self.end_lsn
    }

    /// The header of the next envelope, which ends at `position`: from now on the end of the chain.
    pub(super) fn link(&mut self, kind: Kind, position: Position, end_lsn: Lsn) -> Header {
        let prev = std::mem::replace(&mut self.position, position);
        self.end_lsn = end_lsn;
        Header {
            prev,
            position,
            end_lsn,
            layout: self.layout,
            ..Header::new(kind, self.incarnation)
        }
    }
}

/// Puts `header` over the room left in front of each piece of a body. One pass over the bytes.
pub(super) fn seal(
    mut header: Header,
    pieces: Vec<Vec<u8>>,
) -> Result<Vec<Envelope>, EnvelopeError> {
    header.parts = u32::try_from(pieces.len()).map_err(|_| EnvelopeError::TooLarge)?;
    let sealed = (0..header.parts).zip(pieces).map(|(part, mut data)| {
        header.part = part;
        header.seal(&mut data)?;
        Ok(Envelope { header, data })
    });
    sealed.collect()
}
