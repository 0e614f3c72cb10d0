//! The payloads of CopyData messages in a replication stream, and blocks of them.
//!
//! ```text
//! XLogData:  'w', u64 data_start_lsn, u64 wal_end_lsn, i64 send_time_us, message
//! Keepalive: 'k', u64 wal_end_lsn, i64 send_time_us, u8 reply_requested
//! Block:     (u32 length, payload)*, as the pump drains it
//! ```
//! Upstream: the pump. Downstream: the assembler.

use super::cursor::Cursor;
use crate::error::{DecodeError, MessageKind, Reason};
use crate::lsn::Lsn;

/// One CopyData payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A message of the output plugin.
    Data {
        /// WAL position that the server tells with it (0 for Relation and Type).
        data_start_lsn: Lsn,
        /// The same, or the end of WAL.
        wal_end_lsn: Lsn,
        /// Server's clock, µs since 2000-01-01.
        send_time_us: i64,
        /// The pgoutput message, type byte first.
        message: &'a [u8],
    },
    /// A sign of life.
    Keepalive {
        /// How far the server has decoded.
        wal_end_lsn: Lsn,
        /// Server's clock, µs since 2000-01-01.
        send_time_us: i64,
        /// Whether it wants a status message at once.
        reply_requested: bool,
    },
}

/// Bytes of an XLogData payload before its message.
pub const DATA_PREFIX_BYTES: usize = 25;

impl<'a> Frame<'a> {
    /// Decodes one payload. O(1): the message is not looked at.
    #[inline]
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(payload);
        Self::read(&mut cursor).map_err(|reason| DecodeError {
            offset: cursor.offset(),
            message_kind: MessageKind(payload.first().copied()),
            reason,
        })
    }

    #[inline]
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, Reason> {
        match cursor.u8().map_err(|_| Reason::Empty)? {
            b'w' => Ok(Self::Data {
                data_start_lsn: Lsn(cursor.u64()?),
                wal_end_lsn: Lsn(cursor.u64()?),
                send_time_us: cursor.i64()?,
                message: cursor.rest(),
            }),
            b'k' => {
                let frame = Self::Keepalive {
                    wal_end_lsn: Lsn(cursor.u64()?),
                    send_time_us: cursor.i64()?,
                    reply_requested: cursor.u8()? != 0,
                };
                cursor.finish()?;
                Ok(frame)
            }
            kind => Err(Reason::UnknownKind(kind)),
        }
    }
}

/// Walks a sequence of pieces, each behind its u32 length: a block of frames, or the body of a change
/// envelope. Gives each piece with its offset; ends behind the first error.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Frames<'a> {
    /// Walks `block` from its start.
    #[must_use]
    pub const fn new(block: &'a [u8]) -> Self {
        Self {
            cursor: Cursor::new(block),
        }
    }

    #[inline]
    fn read(&mut self) -> Result<(usize, &'a [u8]), Reason> {
        let length = self.cursor.u32()?;
        // On a platform where it does not fit it is beyond the end as well.
        let payload = self
            .cursor
            .take(usize::try_from(length).unwrap_or(usize::MAX))?;
        Ok((self.cursor.offset() - payload.len(), payload))
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<(usize, &'a [u8]), DecodeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.cursor.rest().is_empty() {
            return None;
        }
        let offset = self.cursor.offset();
        Some(self.read().map_err(|reason| {
            self.cursor = Cursor::new(&[]);
            DecodeError::outside(offset, reason)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keepalive() -> Vec<u8> {
        let mut payload = vec![b'k'];
        payload.extend(7_u64.to_be_bytes());
        payload.extend(9_i64.to_be_bytes());
        payload.push(1);
        payload
    }

    #[test]
    fn a_keepalive_tells_end_time_and_whether_to_answer() {
        let frame = Frame::Keepalive {
            wal_end_lsn: Lsn(7),
            send_time_us: 9,
            reply_requested: true,
        };
        assert_eq!(Frame::decode(&keepalive()), Ok(frame));
    }

    #[test]
    fn short_long_empty_and_unknown_frames_are_refused() {
        let whole = keepalive();
        for cut in 1..whole.len() {
            let error = Frame::decode(whole.get(..cut).unwrap_or_default()).unwrap_err();
            assert!(
                matches!(error.reason, Reason::UnexpectedEnd { .. }),
                "{error}"
            );
        }
        let mut long = whole;
        long.push(0);
        assert_eq!(
            Frame::decode(&long).unwrap_err().reason,
            Reason::TrailingBytes(1)
        );
        assert_eq!(Frame::decode(&[]).unwrap_err().reason, Reason::Empty);
        assert_eq!(
            Frame::decode(b"x").unwrap_err().reason,
            Reason::UnknownKind(b'x')
        );
    }

    #[test]
    fn a_length_beyond_the_block_is_an_error_and_ends_the_walk() {
        let block = [0, 0, 0, 1, b'a', 0xFF, 0xFF, 0xFF, 0xFF, b'b'];
        let mut frames = Frames::new(&block);
        assert_eq!(frames.next(), Some(Ok((4, b"a".as_slice()))));
        assert_eq!(frames.next().unwrap().unwrap_err().offset, 5);
        assert_eq!(frames.next(), None);
    }
}
