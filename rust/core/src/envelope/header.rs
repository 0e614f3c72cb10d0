//! The header of an envelope, byte by byte. All numbers are big-endian and unsigned unless said.
//!
//! ```text
//! offset bytes field                                          changes  watermark  copy
//!      0     4 magic "pgfl"                                      x         x       x
//!      4     1 format, 1                                         x         x       x
//!      5     1 kind: 1 changes, 2 watermark, 3 copy              x         x       x
//!      6     2 flags: 1 transaction_open, 2 final, 4 binary      1               2, 4
//!      8     4 body_bytes                                        x         0       x
//!     12     4 CRC-32C of the header with these bytes zero,
//!              then the body                                     x         x       x
//!     16    16 incarnation                                       x         x       x
//!     32     8 prev_commit_lsn: where the previous one ended     x         x
//!     40     8 prev_ordinal                                      x         x
//!     48     8 commit_lsn: where this one ends                   x         x
//!     56     8 ordinal                                           x         0
//!     64     8 end_lsn of the last whole commit up to there      x         x
//!     72     8 commit_time_us of the last commit in the body,
//!              signed, since 2000-01-01                          x
//!     80     8 changes in the body, all parts together           x
//!     88     4 part: which piece of the body this is             x         0       0
//!     92     4 parts: pieces of the body                         x         1       1
//!     96     4 relation_oid                                                        x
//!    100     4 range_no                                                            x
//!    104     4 attempt                                                             x
//!    108     4 part_no                                                             x
//!    112     8 snapshot_lsn                                                        x
//!    120     8 rows                                                                x
//!    128     8 total_rows (final part only)                                        x
//!    136     4 layout: of the group's tables when it was
//!              published                                         x         x
//! ```
//!
//! What a kind does not use is 0. A body that is too large for one envelope comes in `parts` pieces which
//! concatenate; they share every field but `part`, `body_bytes` and the checksum.

use super::fields::{Header, Kind};
use crate::error::{EnvelopeError, Reason};
use crate::lsn::{Lsn, Position};
use crate::pgoutput::cursor::Cursor;

/// Length of a header; the body starts here.
pub const HEADER_BYTES: usize = 140;
const MAGIC: [u8; 4] = *b"pgfl";
const FORMAT: u8 = 1;
const CHECKSUM_OFFSET: usize = 12;
const FLAG_TRANSACTION_OPEN: u16 = 1;
const FLAG_FINAL: u16 = 2;
const FLAG_BINARY: u16 = 4;

impl Header {
    /// Writes this header over the first [`HEADER_BYTES`] of `envelope`, whose rest is the body, with
    /// length and checksum. One pass over the body.
    pub fn seal(&mut self, envelope: &mut [u8]) -> Result<(), EnvelopeError> {
        let length = envelope.len();
        let (place, body) = envelope
            .split_at_mut_checked(HEADER_BYTES)
            .ok_or(EnvelopeError::TooShort(length))?;
        self.body_bytes = u32::try_from(body.len()).map_err(|_| EnvelopeError::TooLarge)?;
        let unsigned = self.encode(0);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&unsigned), body);
        place.copy_from_slice(&self.encode(checksum));
        Ok(())
    }

    fn encode(&self, checksum: u32) -> Vec<u8> {
        let flag = |set: bool, bit: u16| if set { bit } else { 0 };
        let flags = flag(self.transaction_open, FLAG_TRANSACTION_OPEN)
            | flag(self.copy.is_final, FLAG_FINAL)
            | flag(self.copy.is_binary, FLAG_BINARY);
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(MAGIC);
        bytes.extend([FORMAT, self.kind as u8]);
        bytes.extend(flags.to_be_bytes());
        bytes.extend(self.body_bytes.to_be_bytes());
        bytes.extend(checksum.to_be_bytes());
        bytes.extend(self.incarnation);
        for position in [self.prev, self.position] {
            bytes.extend(position.commit_lsn.0.to_be_bytes());
            bytes.extend(position.ordinal.to_be_bytes());
        }
        bytes.extend(self.end_lsn.0.to_be_bytes());
        bytes.extend(self.commit_time_us.to_be_bytes());
        bytes.extend(self.changes.to_be_bytes());
        let copy = self.copy;
        for number in [
            self.part,
            self.parts,
            copy.relation_oid,
            copy.range_no,
            copy.attempt,
            copy.part_no,
        ] {
            bytes.extend(number.to_be_bytes());
        }
        for number in [copy.snapshot_lsn.0, copy.rows, copy.total_rows] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend(self.layout.to_be_bytes());
        bytes
    }

    /// Reads and checks the header of one whole envelope. With `verify` the checksum too: one pass over it.
    pub fn read(envelope: &[u8], verify: bool) -> Result<Self, EnvelopeError> {
        let too_short = EnvelopeError::TooShort(envelope.len());
        let (head, body) = envelope.split_at_checked(HEADER_BYTES).ok_or(too_short)?;
        // Decoding a header of full length cannot run out of bytes.
        let (header, checksum) = Self::decode(head).map_err(|_: Reason| too_short)??;
        if usize::try_from(header.body_bytes) != Ok(body.len()) {
            return Err(EnvelopeError::OtherLength {
                told: header.body_bytes,
                found: body.len(),
            });
        }
        if verify && checksum != checksum_of(head, body) {
            return Err(EnvelopeError::Checksum);
        }
        header.check()?;
        Ok(header)
    }

    /// Outer error: bytes are missing. Inner error: they are not ours.
    fn decode(head: &[u8]) -> Result<Result<(Self, u32), EnvelopeError>, Reason> {
        let mut cursor = Cursor::new(head);
        if cursor.take(MAGIC.len())? != MAGIC {
            return Ok(Err(EnvelopeError::NotAnEnvelope));
        }
        let format = cursor.u8()?;
        if format != FORMAT {
            return Ok(Err(EnvelopeError::UnknownFormat(format)));
        }
        let kind = match Kind::from_byte(cursor.u8()?) {
            Ok(kind) => kind,
            Err(error) => return Ok(Err(error)),
        };
        let flags = cursor.u16()?;
        let allowed = match kind {
            Kind::Changes => FLAG_TRANSACTION_OPEN,
            Kind::Watermark => 0,
            Kind::Copy => FLAG_FINAL | FLAG_BINARY,
        };
        if flags & !allowed != 0 {
            return Ok(Err(EnvelopeError::UnknownFlags(flags)));
        }
        let mut header = Self::new(kind, [0; 16]);
        header.transaction_open = flags & FLAG_TRANSACTION_OPEN != 0;
        header.copy.is_final = flags & FLAG_FINAL != 0;
        header.copy.is_binary = flags & FLAG_BINARY != 0;
        header.body_bytes = cursor.u32()?;
        let checksum = cursor.u32()?;
        header.incarnation.copy_from_slice(cursor.take(16)?);
        header.prev = Position::new(Lsn(cursor.u64()?), cursor.u64()?);
        header.position = Position::new(Lsn(cursor.u64()?), cursor.u64()?);
        header.end_lsn = Lsn(cursor.u64()?);
        header.commit_time_us = cursor.i64()?;
        header.changes = cursor.u64()?;
        header.part = cursor.u32()?;
        header.parts = cursor.u32()?;
        header.copy.relation_oid = cursor.u32()?;
        header.copy.range_no = cursor.u32()?;
        header.copy.attempt = cursor.u32()?;
        header.copy.part_no = cursor.u32()?;
        header.copy.snapshot_lsn = Lsn(cursor.u64()?);
        header.copy.rows = cursor.u64()?;
        header.copy.total_rows = cursor.u64()?;
        header.layout = cursor.u32()?;
        cursor.finish()?;
        Ok(Ok((header, checksum)))
    }
}

fn checksum_of(head: &[u8], body: &[u8]) -> u32 {
    let (before, rest) = head
        .split_at_checked(CHECKSUM_OFFSET)
        .unwrap_or((head, &[]));
    let (_, after) = rest
        .split_at_checked(size_of::<u32>())
        .unwrap_or((rest, &[]));
    let parts = [&[0; size_of::<u32>()], after, body];
    parts.iter().fold(crc32c::crc32c(before), |checksum, part| {
        crc32c::crc32c_append(checksum, part)
    })
}

/// The body of an envelope; empty if it has not even a header.
#[must_use]
pub fn body_of(envelope: &[u8]) -> &[u8] {
    envelope.get(HEADER_BYTES..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::fields::CopyFields;
    use super::*;

    fn sealed(mut header: Header, body: &[u8]) -> (Header, Vec<u8>) {
        let mut envelope = vec![0; HEADER_BYTES];
        envelope.extend(body);
        header.seal(&mut envelope).unwrap();
        (header, envelope)
    }

    fn changes() -> Header {
        Header {
            prev: Position::new(Lsn(1), 2),
            position: Position::new(Lsn(3), 4),
            end_lsn: Lsn(5),
            transaction_open: true,
            commit_time_us: -6,
            changes: 1,
            part: 8,
            parts: 9,
            layout: 10,
            ..Header::new(Kind::Changes, *b"0123456789abcdef")
        }
    }

    fn copy() -> Header {
        let copy = CopyFields {
            relation_oid: 1,
            range_no: 2,
            attempt: 3,
            part_no: 4,
            snapshot_lsn: Lsn(5),
            rows: 6,
            total_rows: 7,
            is_final: true,
            is_binary: true,
        };
        Header {
            copy,
            ..Header::new(Kind::Copy, [9; 16])
        }
    }

    #[test]
    fn every_field_reads_back_as_written() {
        let watermark = Header {
            position: Position::new(Lsn(5), 0),
            end_lsn: Lsn(5),
            ..Header::new(Kind::Watermark, [1; 16])
        };
        for (header, body) in [
            (changes(), b"body".as_slice()),
            (copy(), b"rows"),
            (watermark, b""),
        ] {
            let (header, envelope) = sealed(header, body);
            assert_eq!(Header::read(&envelope, true), Ok(header));
            assert_eq!(body_of(&envelope), body);
        }
    }

    #[test]
    fn a_change_of_any_single_bit_is_noticed() {
        let (_, envelope) = sealed(changes(), b"body");
        for byte in 0..envelope.len() {
            for bit in 0..8 {
                let mut damaged = envelope.clone();
                *damaged.get_mut(byte).unwrap() ^= 1 << bit;
                assert!(
                    Header::read(&damaged, true).is_err(),
                    "byte {byte} bit {bit}"
                );
            }
        }
    }

    #[test]
    fn a_short_or_long_envelope_is_refused() {
        let (_, mut envelope) = sealed(changes(), b"body");
        for length in 0..envelope.len() {
            assert!(
                Header::read(envelope.get(..length).unwrap(), false).is_err(),
                "{length}"
            );
        }
        envelope.push(0);
        assert_eq!(
            Header::read(&envelope, false),
            Err(EnvelopeError::OtherLength { told: 4, found: 5 })
        );
    }

    #[test]
    fn contradicting_fields_are_refused() {
        let cases = [
            (
                Header {
                    position: Position::default(),
                    ..changes()
                },
                "position",
            ),
            (
                Header {
                    part: 9,
                    ..changes()
                },
                "part",
            ),
            (
                Header {
                    copy: copy().copy,
                    transaction_open: false,
                    ..changes()
                },
                "copy fields",
            ),
            (
                Header {
                    prev: Position::new(Lsn(0), 1),
                    ..copy()
                },
                "position of a copy",
            ),
            (
                Header {
                    changes: 1,
                    ..copy()
                },
                "changes",
            ),
        ];
        for (header, what) in cases {
            let mut header = header;
            header.copy.is_final = header.kind == Kind::Copy;
            header.copy.is_binary = header.kind == Kind::Copy;
            let (_, envelope) = sealed(header, b"");
            assert_eq!(
                Header::read(&envelope, true),
                Err(EnvelopeError::Contradiction(what))
            );
        }
    }

    #[test]
    fn an_unknown_format_kind_or_flag_is_refused() {
        let (_, envelope) = sealed(changes(), b"");
        let with = |offset: usize, byte: u8| {
            let mut other = envelope.clone();
            *other.get_mut(offset).unwrap() = byte;
            Header::read(&other, false)
        };
        assert_eq!(with(0, b'P'), Err(EnvelopeError::NotAnEnvelope));
        assert_eq!(with(4, 2), Err(EnvelopeError::UnknownFormat(2)));
        assert_eq!(with(5, 0), Err(EnvelopeError::UnknownKind(0)));
        assert_eq!(with(7, 4), Err(EnvelopeError::UnknownFlags(4)));
    }
}
