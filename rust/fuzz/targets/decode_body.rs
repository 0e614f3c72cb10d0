//! The body of a change envelope, whatever it holds: no panic, no endless walk, nothing read twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgflo_core::envelope::{Messages, Reader};
use pgflo_core::pgoutput::{Message, Tuple};
use pgflo_core::{Lsn, Position};

fn cells(tuple: &Tuple<'_>) {
    assert_eq!(tuple.cells().count(), usize::from(tuple.cell_count()));
}

fn walk(message: &Message<'_>) {
    match message {
        Message::Relation(relation) => {
            let found = relation.columns().count();
            assert_eq!(found, usize::from(relation.column_count()));
        }
        Message::Insert(insert) => cells(&insert.new),
        Message::Update(update) => {
            cells(&update.new);
            if let Some((_, old)) = &update.old {
                cells(old);
            }
        }
        Message::Delete(delete) => cells(&delete.old),
        Message::Truncate(truncate) => {
            let oids = truncate.relation_oids();
            assert_eq!(oids.len(), oids.count());
        }
        _ => {}
    }
}

fuzz_target!(|body: &[u8]| {
    let mut end = 0;
    let mut failed = false;
    for read in Messages::new(body) {
        assert!(!failed, "a walk ends behind its first error");
        match read {
            Ok((offset, message)) => {
                assert!(
                    offset >= end + 4 && offset < body.len(),
                    "messages follow each other"
                );
                end = offset;
                walk(&message);
            }
            Err(error) => {
                failed = true;
                assert!(
                    error.offset <= body.len(),
                    "the place of an error lies in the input"
                );
                let _ = error.to_string();
            }
        }
    }
    let mut at = Position::new(Lsn(1), 0);
    for placed in Reader::new(body, at).filter_map(Result::ok) {
        assert!(placed.position >= at, "positions never fall");
        at = placed.position;
    }
});
