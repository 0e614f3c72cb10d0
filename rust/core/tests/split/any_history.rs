//! Whatever a history is: its slices together are the history, and each key's changes are in order.

use std::collections::{BTreeMap, BTreeSet};

use pgflo_core::Position;
use pgflo_core::apply::split::{Route, Splitter};
use pgflo_core::pgoutput::Message;
use proptest::prelude::*;

use crate::bodies::{Body, NO_POSITION, OID, at};
use crate::rules::{replayed, split};

/// A change of a key of a table; keys never move, so that nothing is a barrier.
#[derive(Debug, Clone, Copy)]
struct Change {
    table: u32,
    kind: u8,
    key: u8,
}

fn change() -> impl Strategy<Value = Change> {
    (0..3_u32, 0..5_u8, 0..20_u8).prop_map(|(table, kind, key)| Change { table, kind, key })
}

/// Transactions, and behind which of their changes a body ends.
fn history() -> impl Strategy<Value = Vec<(Vec<Change>, BTreeSet<usize>)>> {
    let cuts = prop::collection::btree_set(1..12_usize, 0..4);
    prop::collection::vec((prop::collection::vec(change(), 0..12), cuts), 1..6)
}

fn add(body: Body, change: Change, number: usize) -> Body {
    let oid = OID + change.table;
    let key = change.key;
    match change.kind {
        0 => body.insert(oid, &format!("{key} {number}")),
        1 => body.update(oid, None, &format!("{key} {number}")),
        2 => body.update(
            oid,
            Some(("O", &format!("{key} x"))),
            &format!("{key} {number}"),
        ),
        3 => body.delete(oid, &format!("{key} -")),
        _ => body.logical(true),
    }
}

fn described(body: Body) -> Body {
    (0..3).fold(body, |body, table| {
        body.relation(OID + table, &format!("t{table}"), &["body"])
    })
}

/// The bodies with the position that each ends at.
fn bodies(history: &[(Vec<Change>, BTreeSet<usize>)]) -> Vec<(Body, Position)> {
    let mut bodies = vec![];
    let mut body = described(Body::default());
    let mut number = 0;
    let mut end = NO_POSITION;
    for ((changes, cuts), lsn) in history.iter().zip((100_u64..).step_by(100)) {
        body = body.begin(lsn);
        for (change, ordinal) in changes.iter().zip(1..) {
            number += 1;
            body = add(body, *change, number);
            end = at(lsn, ordinal);
            if cuts.contains(&usize::try_from(ordinal).unwrap()) {
                bodies.push((body, end));
                body = described(Body::default()).begin(lsn);
            }
        }
        body = body.commit(lsn);
    }
    bodies.push((body, end));
    bodies
}

/// Statement numbers depend on what a writer saw; a change is told by place and values.
fn values(changes: Vec<(Position, String)>) -> Vec<(Position, String)> {
    let strip = |text: String| text.split_once('(').unwrap().1.to_owned();
    changes
        .into_iter()
        .map(|(position, text)| (position, strip(text)))
        .collect()
}

proptest! {
    #[test]
    fn the_slices_hold_every_change_once_and_a_key_in_one_of_them(
        history in history(), shards in 1..6_u32
    ) {
        let bodies = bodies(&history);
        let whole = split(&mut Splitter::new(1).unwrap(), &bodies);
        let whole = values(whole.bodies[0].as_deref().map(replayed).unwrap_or_default());
        let expected: Vec<Position> = history
            .iter()
            .zip((100_u64..).step_by(100))
            .flat_map(|((changes, _), lsn)| {
                let rows = changes.iter().zip(1..).filter(|(change, _)| change.kind < 4);
                rows.map(move |(_, ordinal)| at(lsn, ordinal))
            })
            .collect();
        let found: Vec<Position> = whole.iter().map(|(position, _)| *position).collect();
        prop_assert_eq!(found, expected);

        let slices = split(&mut Splitter::new(shards).unwrap(), &bodies);
        prop_assert!(!slices.is_barrier);
        let mut shard_of = BTreeMap::new();
        let mut all = vec![];
        for (shard, slice) in slices.bodies.iter().enumerate() {
            let changes = values(slice.as_deref().map(replayed).unwrap_or_default());
            prop_assert!(changes.is_sorted_by_key(|(position, _)| *position));
            prop_assert!(slice.is_none() || !changes.is_empty());
            for (position, _) in &changes {
                let transaction = usize::try_from(position.commit_lsn.0 / 100 - 1).unwrap();
                let ordinal = usize::try_from(position.ordinal - 1).unwrap();
                let change = history[transaction].0[ordinal];
                // Tables share keys, and equal keys share a shard.
                let known = shard_of.entry(change.key).or_insert(shard);
                prop_assert_eq!(*known, shard);
            }
            all.extend(changes);
        }
        all.sort();
        prop_assert_eq!(all, whole);
    }

    #[test]
    fn a_damaged_body_is_refused_or_split(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        rows in prop::option::of(Just(vec![at(100, 1), at(100, 2)]))
    ) {
        let mut body = described(Body::default())
            .begin(100)
            .insert(OID, "1 a")
            .update(OID, Some(("K", "1 -")), "2 ?")
            .truncate(&[OID])
            .commit(100)
            .0;
        for (place, byte) in damage {
            let place = place.index(body.len());
            body[place] = byte;
        }
        let splitter = rows.map_or_else(|| Splitter::new(2), Splitter::gather);
        let mut splitter = splitter.unwrap();
        splitter.load(body, NO_POSITION, NO_POSITION);
        let mut asked = 0;
        while let Ok(Some(relation)) = splitter.run() {
            asked += 1;
            prop_assert!(asked < 10);
            if splitter.route(relation.oid, Route::Key(vec![0])).is_err() {
                splitter.route(relation.oid, Route::Whole(1)).unwrap();
            }
        }
        splitter.take();
    }
}

#[test]
fn what_a_server_must_not_send_is_refused_where_servers_are_read() {
    let skip = [b"~", &7_u32.to_be_bytes()[..]].concat();
    assert!(Message::decode(&skip).is_err());
}
