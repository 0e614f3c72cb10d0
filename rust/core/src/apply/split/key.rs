//! A key's shard: a hash of the text of its cells.
//!
//! Invariant: equal keys have equal hashes, in every process and on every machine. The caller routes by
//! key only where equal values have one text, so bytes are all that has to be looked at.

use xxhash_rust::xxh3::xxh3_64;

use crate::pgoutput::Cell;

/// Another number whenever a key may get another shard: rows of a crash are mended under the old one.
pub const HASH_VERSION: u32 = 1;

/// Stands for the length of a NULL.
const NULL_LENGTH: u32 = u32::MAX;

/// Hashes keys; the buffer is filled again for each.
#[derive(Debug, Default)]
pub(super) struct Hasher {
    key: Vec<u8>,
}

impl Hasher {
    /// The shard of the key in these `columns`, of `shards`. A cell that the tuple leaves out is taken from
    /// `other`. None if neither has it, or has it in binary: whose form that is cannot be told from here.
    pub(super) fn shard(
        &mut self,
        columns: &[u16],
        cells: &[Cell<'_>],
        other: &[Cell<'_>],
        shards: u32,
    ) -> Option<u32> {
        self.key.clear();
        for column in columns.iter().map(|column| usize::from(*column)) {
            let cell = match cells.get(column) {
                Some(Cell::Unchanged) | None => other.get(column),
                sent => sent,
            };
            match cell {
                Some(Cell::Null) => self.key.extend(NULL_LENGTH.to_le_bytes()),
                Some(Cell::Text(text)) => {
                    let length = u32::try_from(text.len()).ok()?;
                    self.key.extend(length.to_le_bytes());
                    self.key.extend_from_slice(text);
                }
                Some(Cell::Unchanged | Cell::Binary(_)) | None => return None,
            }
        }
        let shard = xxh3_64(&self.key).checked_rem(u64::from(shards))?;
        u32::try_from(shard).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_keeps_its_shard_from_release_to_release() {
        let shard = |cells: &[Cell<'_>]| Hasher::default().shard(&[0, 1], cells, &[], 1 << 31);
        let keys = [
            [Cell::Text(b"1"), Cell::Text(b"")],
            [Cell::Text(b"-70000"), Cell::Text(b"key")],
            [Cell::Null, Cell::Text(b"x")],
        ];
        let found: Vec<_> = keys.iter().map(|cells| shard(cells)).collect();
        // Other numbers here need another `HASH_VERSION`.
        assert_eq!(
            (HASH_VERSION, found),
            (
                1,
                vec![
                    Some(1_164_848_253),
                    Some(1_409_914_820),
                    Some(1_403_474_687)
                ]
            )
        );
    }

    #[test]
    fn cells_do_not_run_into_each_other() {
        let shard = |a, b| {
            let cells = [Cell::Text(a), Cell::Text(b)];
            Hasher::default().shard(&[0, 1], &cells, &[], u32::MAX)
        };
        assert_ne!(shard(b"ab", b"c"), shard(b"a", b"bc"));
    }

    #[test]
    fn a_cell_that_was_not_sent_is_taken_from_the_old_tuple() {
        let mut hasher = Hasher::default();
        let old = [Cell::Text(b"long")];
        let unsent = hasher.shard(&[0], &[Cell::Unchanged], &old, u32::MAX);
        assert_eq!(unsent, hasher.shard(&[0], &old, &[], u32::MAX));
        assert_eq!(hasher.shard(&[0], &[Cell::Unchanged], &[], 4), None);
        assert_eq!(hasher.shard(&[0], &[Cell::Binary(b"\0")], &[], 4), None);
        assert_eq!(hasher.shard(&[3], &old, &[], 4), None);
    }
}
