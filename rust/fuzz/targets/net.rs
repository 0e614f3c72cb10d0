//! Any two bodies into net effects: they are refused, unfit, or become groups that are what they say.
//!
//! Input: u8 columns of a key, u8 what routes are like, u64 and u64 position reached, u16 length of the
//! first body; then both bodies.
#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use pgflo_core::apply::{Kind, Net, NetStep, Relation, Route};
use pgflo_core::envelope::Reader;
use pgflo_core::{Lsn, Position};

const LEAD_BYTES: usize = 20;

fn route(relation: &Relation, key_columns: u8, traits: u8) -> Route {
    let columns = u16::try_from(relation.columns.len()).unwrap_or(0);
    let key = (0..columns.min(u16::from(key_columns))).collect();
    Route {
        target: if traits & 1 == 1 { 1 } else { relation.oid },
        key: (columns > 0 && key_columns > 0).then_some(key),
        // A generated column is not written.
        written: (0..columns)
            .filter(|n| *n != 1 || traits & 2 == 0)
            .collect(),
        delimiters: vec![b','; usize::from(columns)],
        updates: traits & 4 == 0,
        slow: traits & 8 != 0 && relation.oid & 1 == 1,
    }
}

/// Elements of an array literal; none if it is not one.
fn elements(array: &[u8]) -> Option<u64> {
    let inner = array.strip_prefix(b"{")?.strip_suffix(b"}")?;
    let (mut count, mut quoted, mut escaped) = (u64::from(!inner.is_empty()), false, false);
    for byte in inner {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => count += 1,
            b'{' | b'}' | b'\\' if !quoted => return None,
            _ => {}
        }
    }
    (!quoted && !escaped).then_some(count)
}

fuzz_target!(|input: &[u8]| {
    let Some((lead, rest)) = input.split_first_chunk::<LEAD_BYTES>() else {
        return;
    };
    let [key_columns, traits, lsns @ .., high, low] = *lead;
    let [lsn, ordinal] = [0, 8].map(|at| {
        lsns[at..at + 8]
            .iter()
            .fold(0, |n, byte| n << 8 | u64::from(*byte))
    });
    let after = Position::new(Lsn(lsn), ordinal);
    let start = Position::new(Lsn(1), 0);
    let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
    let (first, second) = rest.split_at(length);
    let mut reader = Reader::new(first, start);
    reader.by_ref().for_each(drop);

    let mut net = Net::default();
    net.load(vec![(first, start), (second, reader.position())], after);
    let mut columns = HashMap::new();
    let done = loop {
        match net.run() {
            Ok(NetStep::Relation(relation, position)) => {
                assert!(position > after, "what is there asks for nothing");
                let route = route(&relation, key_columns, traits);
                columns.insert(relation.oid, route.clone());
                assert!(
                    net.answer(relation.oid, route).is_ok(),
                    "it names its columns"
                );
            }
            Ok(NetStep::Done) => break true,
            Ok(NetStep::Unfit(_)) | Err(_) => break false,
        }
    };
    if !done {
        assert!(net.groups().is_ok_and(|groups| groups.is_empty()));
        return;
    }
    assert!(net.slow_changes() <= net.changes());
    let Ok(groups) = net.groups() else {
        return; // a value without its text
    };
    let rows: u64 = groups.iter().map(|group| group.rows).sum();
    // A move and a delete behind it leave two keys to look at.
    assert!(rows <= 2 * (net.changes() - net.slow_changes()));
    for group in groups {
        let route = &columns[&group.relation_oid];
        let keys = route.key.as_ref().map_or(0, Vec::len);
        let arrays = match group.kind {
            Kind::Insert => {
                let lines = group.data[0].iter().filter(|byte| **byte == b'\n').count();
                assert_eq!((lines as u64, group.data.len()), (group.rows, 1));
                assert_eq!(
                    (group.expected, &group.columns),
                    (Some(group.rows), &route.written)
                );
                continue;
            }
            Kind::Delete => keys,
            Kind::Update => keys + group.columns.len(),
            Kind::Put => group.columns.len(),
        };
        assert!(
            group.expected == Some(group.rows)
                || (group.kind == Kind::Delete && group.expected.is_none_or(|rows| rows == 0))
        );
        assert_eq!(group.data.len(), arrays);
        for array in &group.data {
            assert_eq!(elements(array), Some(group.rows));
        }
    }
});
