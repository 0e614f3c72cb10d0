//! What the worker notes in bodies: gaps, copies of one change, rows that may be there or not.

use pgflo_core::apply::{Presence, Replay, Step};
use pgflo_core::{CoreError, Position};

use crate::bodies::{Body, NO_POSITION, OID, at};
use crate::script::{Recorder, everything, run_through};

fn positions(body: Body, after: Position) -> Result<Vec<Position>, CoreError> {
    let mut replay = Replay::default();
    replay.load(body.0, NO_POSITION, after, None);
    let mut executor = Recorder::default();
    run_through(&mut replay, &mut executor, 1)?;
    Ok(executor.places.iter().map(|place| place.position).collect())
}

fn table() -> Body {
    Body::default().begin(100).relation(OID, "t", &[])
}

#[test]
fn copies_of_a_change_share_its_position_and_gaps_keep_those_of_others() {
    let body = table()
        .note("~2")
        .insert(OID, "1")
        .note("=")
        .insert(OID, "2")
        .note("=")
        .insert(OID, "3")
        .insert(OID, "4")
        .note("~1")
        .insert(OID, "5")
        .commit(100);
    let (third, fourth, sixth) = (at(100, 3), at(100, 4), at(100, 6));
    assert_eq!(
        positions(body.clone(), NO_POSITION).unwrap(),
        [third, third, third, fourth, sixth]
    );
    // All copies are applied, or none.
    assert_eq!(positions(body.clone(), at(100, 2)).unwrap().len(), 5);
    assert_eq!(positions(body, third).unwrap(), [fourth, sixth]);
}

#[test]
fn a_note_about_a_row_is_told_with_the_shape_of_its_change_only() {
    let body = table()
        .note("?m")
        .insert(OID, "1")
        .insert(OID, "2")
        .note("?s")
        .update(OID, None, "3")
        .commit(100);
    let mut replay = Replay::default();
    replay.load(body.0, NO_POSITION, NO_POSITION, None);
    let mut executor = Recorder::default();
    let mut met = Vec::new();
    loop {
        match replay.run(&mut executor, false).unwrap() {
            Step::Done => break,
            Step::Statement(shape, _) => {
                met.push(shape.presence);
                replay.register(shape.id, everything(&shape, 1)).unwrap();
            }
            _ => {}
        }
    }
    assert_eq!(met, [Presence::Maybe, Presence::Sure, Presence::Stays]);
}

#[test]
fn notes_that_are_none_are_refused() {
    for body in [
        table().note("="),
        table().note("?x"),
        table().note("?"),
        table().note("?mm"),
        table().note("==").insert(OID, "1"),
        Body::default().note("~1"),
        Body::default().note("?m"),
    ] {
        positions(body, NO_POSITION).unwrap_err();
    }
}
