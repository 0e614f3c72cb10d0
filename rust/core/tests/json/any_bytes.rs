//! No body and no row panics; what is printed is whole lines, and ids stand where marks say.

use std::collections::HashMap;

use pgflo_core::Lsn;
use pgflo_core::json::{CopiedTable, Lines, RowScribe, Scribe, Shape, Types, requests};
use proptest::prelude::*;

use crate::bodies::{Body, NO_POSITION, OID};

const PAIR: u32 = 20_000;
const PAIRS: u32 = 20_001;
/// Types of every form: bool, int4, float8, jsonb, timestamptz, int2vector, arrays of most of them, own ones.
const TYPES: [u32; 13] = [
    16, 23, 701, 3802, 1184, 22, 1007, 1009, 3807, 1185, 1006, PAIR, PAIRS,
];

fn scribe() -> Scribe {
    let fields = [("a", 23), ("b", 1009)].map(|(name, oid)| (name.to_owned(), oid));
    let pairs = Shape::Array {
        element: PAIR,
        delimiter: b',',
    };
    let shapes = HashMap::from([(PAIR, Shape::Composite(fields.to_vec())), (PAIRS, pairs)]);
    Scribe::new("shop", [7; 16], HashMap::new()).with_types(Types::new(shapes))
}

fn check(lines: &Lines) {
    let text = std::str::from_utf8(&lines.data).unwrap();
    let whole: Vec<&str> = text.split_inclusive('\n').collect();
    assert_eq!(whole.len() as u64, lines.count);
    assert_eq!(whole.len(), lines.marks.len());
    for line in &whole {
        assert!(line.starts_with("{\"id\":\"shop:07070707:") && line.ends_with("}\n"));
    }
    for (batch, lanes) in [(1, 1), (3, 1), (2, 4)] {
        let requests = requests(lines, batch, lanes);
        let count: usize = requests.iter().map(|request| request.count).sum();
        assert_eq!(count, whole.len());
        assert!(
            requests
                .iter()
                .all(|request| request.id.starts_with(b"shop:"))
        );
    }
}

fn print(body: &[u8]) {
    let mut lines = Lines::marked();
    if scribe()
        .write(body, NO_POSITION, NO_POSITION, &mut lines)
        .is_ok()
    {
        check(&lines);
    }
}

fn body() -> Vec<u8> {
    Body::default()
        .begin(100)
        .relation(OID, "t", &["body"])
        .insert(OID, "1 a")
        .update(OID, Some(("K", "1 -")), "2 ?")
        .update(OID, Some(("O", "2 a")), "2 ?")
        .delete(OID, "6 -")
        .truncate(&[OID])
        .logical(true)
        .commit(100)
        .0
}

/// A row of one column for each type, all of the same text.
fn row(text: &str) -> Vec<u8> {
    let columns = TYPES
        .iter()
        .zip('a'..)
        .map(|(oid, name)| (name.to_string(), *oid));
    let table = CopiedTable {
        columns: columns.collect(),
        ..CopiedTable::default()
    };
    let escaped = text
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('\t', "\\t");
    let mut cells = vec![escaped; TYPES.len()].join("\t").into_bytes();
    cells.push(b'\n');
    let mut lines = Lines::marked();
    RowScribe::new(&scribe(), &table, Lsn(1), 0)
        .feed(&cells, &mut lines)
        .unwrap();
    check(&lines);
    lines.data
}

#[test]
fn bodies_cut_anywhere_end_in_an_error_or_at_a_message() {
    let body = body();
    for length in 0..=body.len() {
        print(&body[..length]);
    }
}

proptest! {
    #[test]
    fn damaged_bodies_are_refused_or_printed(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut damaged = body();
        for (place, byte) in damage {
            let place = place.index(damaged.len());
            damaged[place] = byte;
        }
        print(&damaged);
    }

    #[test]
    fn any_text_is_a_value_of_any_type(text in "[^\\x00]{0,12}") {
        row(&text);
    }

    #[test]
    fn anything_like_an_array_is_a_value_of_any_type(text in r#"[\[\]0-9:=]{0,6}[{},"\\ a1N]{0,16}"#) {
        row(&text);
    }

    #[test]
    fn anything_like_a_composite_is_a_value_of_any_type(text in r#"[{(][(){},"\\ a1N]{0,16}[)}]?"#) {
        row(&text);
    }

    #[test]
    fn any_bytes_are_refused_or_printed(
        rows in prop::collection::vec(any::<u8>(), 0..200), columns in 0_usize..4
    ) {
        print(&rows);
        let table = CopiedTable {
            columns: vec![("a".to_owned(), 25); columns],
            ..CopiedTable::default()
        };
        let mut lines = Lines::marked();
        if RowScribe::new(&scribe(), &table, Lsn(1), 0).feed(&rows, &mut lines).is_ok() {
            check(&lines);
        }
    }
}
