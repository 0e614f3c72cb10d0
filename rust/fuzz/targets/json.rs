//! Any body, and any rows of a copy, into JSON lines: refused, or whole lines with ids that marks know.
//!
//! Input: u8 what it is (even: a body, odd: rows), u8 columns of the table, u8 piece length; then the bytes.
#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use pgflo_core::json::{CopiedTable, Lines, RowScribe, Scribe, Shape, Types, requests};
use pgflo_core::{Lsn, Position};

/// Types of every form.
const TYPES: [u32; 14] = [
    16, 23, 701, 3802, 1114, 1184, 22, 1007, 1009, 3807, 1185, 1006, PAIR, PAIRS,
];
const PAIR: u32 = 20_000;
const PAIRS: u32 = 20_001;

/// A composite type and the array of it.
fn own_types() -> Types {
    let fields = [("a", 23), ("b", 1009)].map(|(name, oid)| (name.to_owned(), oid));
    let pairs = Shape::Array {
        element: PAIR,
        delimiter: b',',
    };
    Types::new(HashMap::from([
        (PAIR, Shape::Composite(fields.to_vec())),
        (PAIRS, pairs),
    ]))
}

fn check(lines: &Lines) {
    let text = std::str::from_utf8(&lines.data).expect("lines are UTF-8");
    assert_eq!(text.split_inclusive('\n').count() as u64, lines.count);
    for line in text.lines() {
        assert!(line.starts_with("{\"id\":\"shop:") && line.ends_with('}'));
    }
    let made = requests(lines, 3, 4);
    let count: usize = made.iter().map(|request| request.count).sum();
    assert_eq!(count as u64, lines.count);
}

fuzz_target!(|input: &[u8]| {
    let [what, columns, piece_bytes, bytes @ ..] = input else {
        return;
    };
    let mut scribe = Scribe::new("shop", [7; 16], HashMap::new()).with_types(own_types());
    let mut lines = Lines::marked();
    if what % 2 == 0 {
        let start = Position::new(Lsn(0), 0);
        if scribe.write(bytes, start, start, &mut lines).is_ok() {
            check(&lines);
        }
        return;
    }
    let names = TYPES.iter().cycle().take(usize::from(*columns));
    let table = CopiedTable {
        columns: names.map(|oid| (oid.to_string(), *oid)).collect(),
        ..CopiedTable::default()
    };
    let mut rows = RowScribe::new(&scribe, &table, Lsn(1), 0);
    for piece in bytes.chunks(usize::from(*piece_bytes).max(1)) {
        if rows.feed(piece, &mut lines).is_err() {
            return;
        }
    }
    check(&lines);
});
