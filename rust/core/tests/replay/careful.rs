//! Careful replay: what is done and counted when a statement finds no row.

use pgflo_core::apply::{Cause, Conflict, Conflicts, Replay, Source, Statement, Step};

use crate::bodies::{Body, NO_POSITION, OID};
use crate::script::{Recorder, call, statement};

/// Replays one insert whose statement touches `rows`, and whose fallback touches the next of them.
fn replayed(answer: Statement, rows: &[u64]) -> (Step, Conflicts, Vec<String>) {
    let body = Body::default()
        .begin(100)
        .relation(OID, "t", &[])
        .insert(OID, "1")
        .commit(100);
    let mut replay = Replay::default();
    replay.load(body.0, NO_POSITION, NO_POSITION, None);
    let mut executor = Recorder {
        rows: rows.iter().copied().collect(),
        ..Recorder::default()
    };
    replay.run(&mut executor, true).unwrap();
    let Step::Statement(shape, _) = replay.run(&mut executor, true).unwrap() else {
        panic!()
    };
    assert!(shape.careful);
    replay.register(shape.id, answer).unwrap();
    let step = replay.run(&mut executor, true).unwrap();
    (step, replay.conflicts().clone(), executor.sent)
}

fn with_fallback(conflict: Option<Conflict>) -> Statement {
    let fallback = Some(call("second", &[Source::New(0)]));
    Statement {
        fallback,
        conflict,
        ..statement("first", &[Source::New(0)])
    }
}

fn without_fallback(conflict: Option<Conflict>) -> Statement {
    Statement {
        conflict,
        ..statement("first", &[])
    }
}

fn cause(step: Step) -> Cause {
    match step {
        Step::Failed(refusal, _) => refusal.cause,
        step => panic!("{step:?}"),
    }
}

#[test]
fn one_row_is_what_is_expected_and_needs_no_fallback() {
    let (step, conflicts, sent) = replayed(with_fallback(Some(Conflict::InsertExists)), &[1]);
    assert_eq!((step, conflicts), (Step::Done, Conflicts::default()));
    assert_eq!(sent, ["first(1)"]);
}

#[test]
fn no_row_runs_the_fallback_and_counts_the_conflict() {
    let (step, conflicts, sent) = replayed(with_fallback(Some(Conflict::InsertExists)), &[0, 1]);
    assert_eq!(
        (step, conflicts.of(Conflict::InsertExists)),
        (Step::Done, 1)
    );
    assert_eq!(sent, ["first(1)", "second(1)"]);
}

#[test]
fn a_fallback_that_does_not_touch_one_row_fails_and_counts_nothing() {
    for rows in [0, 2] {
        let (step, conflicts, _) =
            replayed(with_fallback(Some(Conflict::UpdateMissing)), &[0, rows]);
        assert_eq!(
            (cause(step), conflicts),
            (Cause::Rows(rows), Conflicts::default())
        );
    }
}

#[test]
fn without_a_fallback_only_a_missing_row_to_delete_is_passed_over() {
    let (step, conflicts, _) = replayed(without_fallback(Some(Conflict::DeleteMissing)), &[0]);
    assert_eq!(
        (step, conflicts.of(Conflict::DeleteMissing)),
        (Step::Done, 1)
    );
    for conflict in [
        None,
        Some(Conflict::InsertExists),
        Some(Conflict::UpdateMissing),
    ] {
        let (step, conflicts, _) = replayed(without_fallback(conflict), &[0]);
        assert_eq!(
            (cause(step), conflicts),
            (Cause::Rows(0), Conflicts::default())
        );
    }
}

#[test]
fn more_than_one_row_fails_with_or_without_a_fallback() {
    let (step, _, sent) = replayed(with_fallback(Some(Conflict::UpdateMissing)), &[2]);
    assert_eq!((cause(step), sent.len()), (Cause::Rows(2), 1));
    let (step, ..) = replayed(without_fallback(Some(Conflict::DeleteMissing)), &[2]);
    assert_eq!(cause(step), Cause::Rows(2));
}

#[test]
fn careful_and_pipelined_changes_of_one_form_are_different_shapes() {
    let body = Body::default()
        .begin(100)
        .relation(OID, "t", &[])
        .insert(OID, "1")
        .commit(100);
    let mut replay = Replay::default();
    let mut executor = Recorder::default();
    let mut shapes = Vec::new();
    for careful in [false, true] {
        replay.load(body.clone().0, NO_POSITION, NO_POSITION, None);
        loop {
            match replay.run(&mut executor, careful).unwrap() {
                Step::Done => break,
                Step::Statement(shape, _) => {
                    shapes.push((shape.id, shape.careful));
                    replay
                        .register(shape.id, statement("put", &[Source::New(0)]))
                        .unwrap();
                }
                _ => {}
            }
        }
    }
    assert_eq!(shapes, [(1, false), (2, true)]);
}
