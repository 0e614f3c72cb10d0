//! Tables emptied together.
//!
//! ```text
//! Truncate: i32 relation_count, u8 options (1 = CASCADE, 2 = RESTART IDENTITY), u32 oid × count
//! ```

use super::cursor::Cursor;
use crate::error::Reason;

const CASCADE: u8 = 1;
const RESTART_IDENTITY: u8 = 2;
/// Behind the type byte and the count.
const OPTIONS_OFFSET: usize = 5;

/// Tables emptied together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncate<'a> {
    /// Whether the statement said CASCADE.
    pub cascade: bool,
    /// Whether the statement said RESTART IDENTITY.
    pub restart_identity: bool,
    oids: &'a [u8],
}

impl<'a> Truncate<'a> {
    pub(super) fn decode(body: &mut Cursor<'a>) -> Result<Self, Reason> {
        let count = body.length()?;
        let options = body.u8()?;
        if options & !(CASCADE | RESTART_IDENTITY) != 0 {
            return Err(Reason::UnknownTag {
                field: "truncate options",
                value: options,
            });
        }
        // Borrowed, not collected: the count is input, and a lie must not allocate gigabytes.
        let oids = body.take(count.saturating_mul(size_of::<u32>()))?;
        let [cascade, restart_identity] = [CASCADE, RESTART_IDENTITY].map(|bit| options & bit != 0);
        Ok(Self {
            cascade,
            restart_identity,
            oids,
        })
    }

    /// The same message for other tables; `bytes` is the whole of it, type byte first.
    #[must_use]
    pub fn encode(bytes: &[u8], oids: &[u32]) -> Vec<u8> {
        let options = bytes.get(OPTIONS_OFFSET).copied().unwrap_or_default();
        let count = u32::try_from(oids.len()).unwrap_or(u32::MAX);
        let mut message = vec![b'T'];
        message.extend(count.to_be_bytes());
        message.push(options);
        message.extend(oids.iter().flat_map(|oid| oid.to_be_bytes()));
        message
    }

    /// The tables, in the server's order.
    #[must_use]
    pub fn relation_oids(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        let (oids, _) = self.oids.as_chunks::<4>();
        oids.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<(Vec<u32>, bool, bool), Reason> {
        let truncate = Truncate::decode(&mut Cursor::new(bytes))?;
        let relation_oids = truncate.relation_oids().collect();
        Ok((relation_oids, truncate.cascade, truncate.restart_identity))
    }

    #[test]
    fn all_tables_and_both_options_are_read() {
        assert_eq!(
            decode(b"\0\0\0\x02\x02\0\0\0\x07\0\0\0\x08"),
            Ok((vec![7, 8], false, true))
        );
        assert_eq!(decode(b"\0\0\0\0\x01"), Ok((vec![], true, false)));
    }

    #[test]
    fn counts_that_lie_and_unknown_options_are_refused() {
        assert_eq!(
            decode(b"\xFF\xFF\xFF\xFF\0"),
            Err(Reason::NegativeLength(-1))
        );
        let absurd = usize::try_from(i32::MAX).unwrap() * 4;
        let refused = Reason::UnexpectedEnd {
            needed: absurd,
            left: 4,
        };
        assert_eq!(decode(b"\x7F\xFF\xFF\xFF\0\0\0\0\x07"), Err(refused));
        let unknown = Reason::UnknownTag {
            field: "truncate options",
            value: 4,
        };
        assert_eq!(decode(b"\0\0\0\0\x04"), Err(unknown));
    }
}
