//! No body panics, hangs or makes replay ask without end.

use pgflo_core::apply::{Replay, Step};
use proptest::prelude::*;

use crate::bodies::{Body, NO_POSITION, OID, at};
use crate::script::{Recorder, everything};

fn body() -> Vec<u8> {
    let other = OID + 1;
    Body::default()
        .begin(100)
        .relation(OID, "t", &["body"])
        .insert(OID, "1 a")
        .message(&[b"~", &3_u32.to_be_bytes()[..]].concat())
        .update(OID, Some(("K", "1 -")), "2 ?")
        .commit(100)
        .begin(200)
        .relation(other, "u", &[])
        .truncate(&[OID, other])
        .logical(true)
        .delete(other, "#x")
        .commit(200)
        .0
}

/// Runs until replay is done or refuses. Every step but these two moves it on, so their number is bound.
fn exhaust(body: Vec<u8>) {
    let steps = 3 * body.len() + 3;
    let mut replay = Replay::default();
    let mut executor = Recorder::default();
    replay.load(body, NO_POSITION, at(100, 1), None);
    for _ in 0..steps {
        match replay.run(&mut executor, false) {
            Err(_) | Ok(Step::Done | Step::Failed(..)) => return,
            Ok(Step::Statement(shape, _)) => {
                // Columns are unknown here; a statement that asks for too many is refused.
                if (0..=2).rev().all(|columns| {
                    replay
                        .register(shape.id, everything(&shape, columns))
                        .is_err()
                }) {
                    panic!("no statement fits {shape:?}");
                }
            }
            Ok(_) => {}
        }
    }
    panic!("replay asked {steps} times");
}

#[test]
fn a_body_cut_anywhere_ends_in_an_error_or_at_a_message() {
    let body = body();
    for length in 0..=body.len() {
        exhaust(body[..length].to_vec());
    }
}

proptest! {
    #[test]
    fn a_damaged_body_is_refused_or_replayed(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut body = body();
        for (place, byte) in damage {
            let place = place.index(body.len());
            body[place] = byte;
        }
        exhaust(body);
    }

    #[test]
    fn any_bytes_are_refused_or_replayed(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        exhaust(bytes);
    }
}
