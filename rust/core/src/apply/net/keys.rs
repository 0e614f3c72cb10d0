//! Keys of rows, and which row each of them means at this point of the epoch.
//!
//! A key is kept as its target and its cells, each behind its length, in one arena: equal keys are equal
//! bytes. Two texts that the destination calls equal (`1.0` and `1.00`) are two keys here; that is sound,
//! since the source always names a row by the text that is stored.
//!
//! Invariant: a slot exists for each key that the epoch has mentioned, and for no other.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use hashbrown::HashTable;

/// Bytes of the length in front of each cell, and of the target in front of them all.
const NUMBER_BYTES: usize = 4;

/// A key in the arena. The default one is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Key {
    start: usize,
    end: usize,
}

/// The row that a key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// No row has this key: it was deleted, or moved away.
    Nobody,
    /// The row of this number.
    Row(usize),
}

#[derive(Debug)]
struct Slot {
    key: Key,
    holder: Holder,
}

/// All keys of an epoch.
#[derive(Debug, Default)]
pub(super) struct Keys {
    arena: Vec<u8>,
    slots: Vec<Slot>,
    table: HashTable<usize>,
    hasher: RandomState,
}

impl Keys {
    pub(super) fn clear(&mut self) {
        self.arena.clear();
        self.slots.clear();
        self.table.clear();
    }

    /// Writes a key into the arena. None: a cell has no value, which a key's never lacks.
    pub(super) fn intern<'a>(
        &mut self,
        target: u32,
        cells: impl Iterator<Item = Option<&'a [u8]>>,
    ) -> Option<Key> {
        let start = self.arena.len();
        self.arena.extend_from_slice(&target.to_be_bytes());
        for cell in cells {
            let length = cell.and_then(|cell| u32::try_from(cell.len()).ok());
            let (Some(cell), Some(length)) = (cell, length) else {
                self.arena.truncate(start);
                return None;
            };
            self.arena.extend_from_slice(&length.to_be_bytes());
            self.arena.extend_from_slice(cell);
        }
        let end = self.arena.len();
        Some(Key { start, end })
    }

    /// The key's bytes. They sort by target, then by the first cell's length: whole numbers sort as
    /// numbers, and rows that are stored together mostly come together.
    pub(super) fn bytes(&self, key: Key) -> &[u8] {
        self.arena.get(key.start..key.end).unwrap_or_default()
    }

    /// The key's cells.
    pub(super) fn cells(&self, key: Key) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes(key).get(NUMBER_BYTES..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first_chunk::<NUMBER_BYTES>()?;
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            let (cell, behind) = behind.split_at_checked(length)?;
            rest = behind;
            Some(cell)
        })
    }

    /// Who holds the key; none if the epoch has not mentioned it.
    pub(super) fn holder(&self, key: Key) -> Option<Holder> {
        let bytes = self.bytes(key);
        let hash = self.hasher.hash_one(bytes);
        let slot = self.table.find(hash, |slot| self.is(*slot, bytes))?;
        self.slots.get(*slot).map(|slot| slot.holder)
    }

    /// Notes who holds the key from now on.
    pub(super) fn give(&mut self, key: Key, holder: Holder) {
        let bytes = self.bytes(key);
        let hash = self.hasher.hash_one(bytes);
        let found = self.table.find(hash, |slot| self.is(*slot, bytes)).copied();
        if let Some(slot) = found.and_then(|slot| self.slots.get_mut(slot)) {
            slot.holder = holder;
            return;
        }
        let (arena, slots, hasher) = (&self.arena, &self.slots, &self.hasher);
        let rehash = |slot: &usize| {
            let key = slots.get(*slot).map_or(key, |slot| slot.key);
            hasher.hash_one(arena.get(key.start..key.end).unwrap_or_default())
        };
        self.table.insert_unique(hash, slots.len(), rehash);
        self.slots.push(Slot { key, holder });
    }

    fn is(&self, slot: usize, bytes: &[u8]) -> bool {
        self.slots
            .get(slot)
            .is_some_and(|slot| self.bytes(slot.key) == bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(keys: &mut Keys, target: u32, cells: &[&'static str]) -> Key {
        let cells = cells.iter().map(|cell| Some(cell.as_bytes()));
        keys.intern(target, cells).unwrap()
    }

    #[test]
    fn equal_keys_have_one_holder_and_others_their_own() {
        let mut keys = Keys::default();
        let first = key(&mut keys, 1, &["a", "bc"]);
        let again = key(&mut keys, 1, &["a", "bc"]);
        let parted_otherwise = key(&mut keys, 1, &["ab", "c"]);
        let elsewhere = key(&mut keys, 2, &["a", "bc"]);
        assert_eq!(keys.holder(first), None);
        keys.give(first, Holder::Row(7));
        assert_eq!(keys.holder(again), Some(Holder::Row(7)));
        assert_eq!(keys.holder(parted_otherwise), None);
        assert_eq!(keys.holder(elsewhere), None);
        keys.give(again, Holder::Nobody);
        assert_eq!(keys.holder(first), Some(Holder::Nobody));
    }

    #[test]
    fn many_keys_are_told_apart_and_give_their_cells_back() {
        let mut keys = Keys::default();
        let made: Vec<Key> = (0..5000_u32)
            .map(|number| {
                let text = number.to_string();
                let made = keys.intern(3, [Some(text.as_bytes()), Some(b"")].into_iter());
                made.unwrap()
            })
            .collect();
        for (row, key) in made.iter().enumerate() {
            keys.give(*key, Holder::Row(row));
        }
        for (row, key) in made.iter().enumerate() {
            assert_eq!(keys.holder(*key), Some(Holder::Row(row)));
            let cells: Vec<&[u8]> = keys.cells(*key).collect();
            assert_eq!(cells, [row.to_string().as_bytes(), b""]);
        }
    }

    #[test]
    fn a_key_without_a_value_is_none() {
        let mut keys = Keys::default();
        assert_eq!(keys.intern(1, [Some(&b"a"[..]), None].into_iter()), None);
        let made = key(&mut keys, 1, &["b"]);
        assert_eq!(keys.cells(made).collect::<Vec<_>>(), [b"b"]);
    }
}
