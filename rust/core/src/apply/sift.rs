//! Sifting: changes that a table's copy holds already, left out of a body.
//!
//! Upstream: the worker, for tables whose snapshot is younger than the change stream's start. Downstream:
//! whatever takes a body. Invariant: what stays keeps its position, since gaps in the ordinals say how
//! many changes are missing; a change stays if its transaction is not in the table's snapshot, that is, if
//! it committed at or behind the snapshot's consistent point.

use std::collections::HashMap;

use super::split::Slice;
use super::walk::Walk;
use crate::error::DecodeError;
use crate::lsn::{Lsn, Position};
use crate::pgoutput::{Message, Truncate};

/// Leaves out changes of tables that committed before the LSN given for them. None: there is none.
///
/// # Errors
/// A body that is malformed.
pub fn sift<S: std::hash::BuildHasher>(
    body: &[u8],
    prev: Position,
    snapshots: &HashMap<u32, Lsn, S>,
) -> Result<Option<Vec<u8>>, DecodeError> {
    let mut walk = Walk::new(prev);
    let mut kept = Slice::default();
    kept.start(prev);
    let mut begin: &[u8] = &[];
    let mut left_out = false;
    while let Some(next) = walk.peek(body)? {
        let position = walk.next_position();
        let holds = |oid: u32| {
            let snapshot_lsn = snapshots.get(&oid);
            snapshot_lsn.is_some_and(|lsn| position.commit_lsn < *lsn)
        };
        match next.message {
            Message::Begin(_) => begin = next.bytes,
            Message::Commit(commit) => kept.commit(commit.commit_lsn, next.bytes),
            Message::Relation(_) | Message::Type(_) => kept.push(next.bytes),
            Message::Insert(insert) if holds(insert.relation_oid) => left_out = true,
            Message::Update(update) if holds(update.relation_oid) => left_out = true,
            Message::Delete(delete) if holds(delete.relation_oid) => left_out = true,
            Message::Truncate(truncate) if truncate.relation_oids().any(holds) => {
                left_out = true;
                let oids: Vec<u32> = truncate
                    .relation_oids()
                    .filter(|oid| !holds(*oid))
                    .collect();
                if !oids.is_empty() {
                    kept.change(begin, position, &Truncate::encode(next.bytes, &oids));
                }
            }
            message if message.is_change() => kept.change(begin, position, next.bytes),
            _ => {}
        }
        walk.pass(&next)?;
    }
    Ok(left_out.then(|| kept.take().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &mut Vec<u8>, bytes: &[&[u8]]) {
        let bytes = bytes.concat();
        body.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
        body.extend(bytes);
    }

    fn begin(body: &mut Vec<u8>, lsn: u64) {
        message(body, &[b"B", &lsn.to_be_bytes(), &[0; 12]]);
    }

    fn commit(body: &mut Vec<u8>, lsn: u64) {
        let (at, end) = (lsn.to_be_bytes(), (lsn + 1).to_be_bytes());
        message(body, &[b"C\0", &at, &end, &[0; 8]]);
    }

    fn insert(body: &mut Vec<u8>, oid: u32) {
        message(body, &[b"I", &oid.to_be_bytes(), b"N", &[0, 1], b"n"]);
    }

    fn truncate(body: &mut Vec<u8>, oids: &[u32]) {
        let count = u32::try_from(oids.len()).unwrap().to_be_bytes();
        let oids: Vec<u8> = oids.iter().flat_map(|oid| oid.to_be_bytes()).collect();
        message(body, &[b"T", &count, &[2], &oids]);
    }

    /// What a walk finds: position, and the tables concerned.
    fn found(body: &[u8], prev: Position) -> Vec<(u64, u64, Vec<u32>)> {
        let mut walk = Walk::new(prev);
        let mut found = Vec::new();
        while let Some(next) = walk.peek(body).unwrap() {
            let Position {
                commit_lsn,
                ordinal,
            } = walk.next_position();
            match next.message {
                Message::Insert(insert) => {
                    found.push((commit_lsn.0, ordinal, vec![insert.relation_oid]));
                }
                Message::Truncate(truncate) => {
                    assert!(truncate.restart_identity);
                    found.push((commit_lsn.0, ordinal, truncate.relation_oids().collect()));
                }
                _ => {}
            }
            walk.pass(&next).unwrap();
        }
        found
    }

    /// Continues a transaction at (10, 3), then two more.
    fn body() -> Vec<u8> {
        let mut body = Vec::new();
        begin(&mut body, 10);
        insert(&mut body, 1);
        insert(&mut body, 2);
        commit(&mut body, 10);
        begin(&mut body, 20);
        truncate(&mut body, &[1, 2]);
        truncate(&mut body, &[1]);
        insert(&mut body, 1);
        insert(&mut body, 2);
        commit(&mut body, 20);
        begin(&mut body, 30);
        insert(&mut body, 1);
        commit(&mut body, 30);
        body
    }

    #[test]
    fn what_stays_keeps_its_position() {
        let prev = Position::new(Lsn(10), 3);
        let snapshots = HashMap::from([(1, Lsn(30))]);
        let sifted = sift(&body(), prev, &snapshots).unwrap().unwrap();
        assert_eq!(
            found(&sifted, prev),
            vec![
                (10, 5, vec![2]),
                (20, 1, vec![2]),
                (20, 4, vec![2]),
                (30, 1, vec![1])
            ]
        );
        // Once more finds nothing to leave out, and reads the gaps.
        assert_eq!(sift(&sifted, prev, &snapshots), Ok(None));
    }

    #[test]
    fn a_body_without_such_changes_is_left_alone() {
        let prev = Position::new(Lsn(10), 3);
        let snapshots = HashMap::from([(1, Lsn(10)), (3, Lsn(99))]);
        assert_eq!(sift(&body(), prev, &snapshots), Ok(None));
    }

    #[test]
    fn a_body_may_lose_all_its_changes() {
        let mut body = Vec::new();
        begin(&mut body, 10);
        insert(&mut body, 1);
        commit(&mut body, 10);
        let snapshots = HashMap::from([(1, Lsn(11))]);
        let sifted = sift(&body, Position::default(), &snapshots);
        assert_eq!(sifted, Ok(Some(Vec::new())));
    }

    #[test]
    fn a_body_that_is_cut_short_is_refused() {
        let whole = body();
        let snapshots = HashMap::from([(1, Lsn(30))]);
        let cut = whole.get(..whole.len() - 3).unwrap();
        assert!(sift(cut, Position::new(Lsn(10), 3), &snapshots).is_err());
    }
}
