//! A reader over borrowed bytes: big-endian numbers and NUL-terminated strings.
//!
//! Invariant: never reads beyond its input; every failure leaves a [`Reason`] and the offset of the
//! field that could not be read.

use crate::error::Reason;

/// What is left to read of a buffer.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            length: bytes.len(),
        }
    }

    /// Bytes read so far.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.length - self.rest.len()
    }

    /// What has not been read.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `count` bytes.
    #[inline]
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Reason> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(Reason::UnexpectedEnd {
                needed: count,
                left: self.rest.len(),
            })?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Reason> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(Reason::UnexpectedEnd {
                needed: N,
                left: self.rest.len(),
            })?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Reason> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes, unsigned.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, Reason> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes, unsigned.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, Reason> {
        self.array().map(u32::from_be_bytes)
    }

    /// Four bytes, signed.
    #[inline]
    pub fn i32(&mut self) -> Result<i32, Reason> {
        self.array().map(i32::from_be_bytes)
    }

    /// Eight bytes, unsigned.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, Reason> {
        self.array().map(u64::from_be_bytes)
    }

    /// Eight bytes, signed.
    #[inline]
    pub fn i64(&mut self) -> Result<i64, Reason> {
        self.array().map(i64::from_be_bytes)
    }

    /// A count or length of four bytes, which `PostgreSQL` writes signed.
    #[inline]
    pub fn length(&mut self) -> Result<usize, Reason> {
        let length = self.i32()?;
        usize::try_from(length).map_err(|_| Reason::NegativeLength(length))
    }

    /// A count of two bytes, which `PostgreSQL` writes signed.
    #[inline]
    pub fn count(&mut self) -> Result<u16, Reason> {
        let count = self.u16()?;
        if count > i16::MAX.unsigned_abs() {
            return Err(Reason::NegativeLength(i32::from(count.cast_signed())));
        }
        Ok(count)
    }

    /// A NUL-terminated name in UTF-8, without its NUL.
    pub fn name(&mut self) -> Result<&'a str, Reason> {
        let end = self
            .rest
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(Reason::UnterminatedString)?;
        let name = std::str::from_utf8(self.take(end)?).map_err(|_| Reason::NotUtf8)?;
        self.u8()?;
        Ok(name)
    }

    /// Fails if something is left.
    #[inline]
    pub const fn finish(&self) -> Result<(), Reason> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Reason::TrailingBytes(self.rest.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_big_endian() {
        let mut cursor = Cursor::new(&[1, 0, 2, 0, 0, 0, 3, 0xFF, 0xFF, 0xFF, 0xFE]);
        assert_eq!(
            (cursor.u8(), cursor.u16(), cursor.u32(), cursor.i32()),
            (Ok(1), Ok(2), Ok(3), Ok(-2))
        );
        assert_eq!((cursor.offset(), cursor.finish()), (11, Ok(())));
    }

    #[test]
    fn a_field_beyond_the_end_is_refused_and_nothing_is_taken() {
        let mut cursor = Cursor::new(&[1, 2, 3]);
        assert_eq!(
            cursor.u32(),
            Err(Reason::UnexpectedEnd { needed: 4, left: 3 })
        );
        assert_eq!(
            cursor.take(usize::MAX),
            Err(Reason::UnexpectedEnd {
                needed: usize::MAX,
                left: 3
            })
        );
        assert_eq!(
            (cursor.offset(), cursor.finish()),
            (0, Err(Reason::TrailingBytes(3)))
        );
    }

    #[test]
    fn negative_counts_are_refused() {
        assert_eq!(
            Cursor::new(&[0xFF; 4]).length(),
            Err(Reason::NegativeLength(-1))
        );
        assert_eq!(
            Cursor::new(&[0xFF; 2]).count(),
            Err(Reason::NegativeLength(-1))
        );
    }

    #[test]
    fn names_end_at_their_nul_and_are_utf8() {
        let mut cursor = Cursor::new(b"ab\0\0");
        assert_eq!((cursor.name(), cursor.name()), (Ok("ab"), Ok("")));
        assert_eq!(Cursor::new(b"ab").name(), Err(Reason::UnterminatedString));
        assert_eq!(Cursor::new(b"\xFF\0").name(), Err(Reason::NotUtf8));
    }
}
