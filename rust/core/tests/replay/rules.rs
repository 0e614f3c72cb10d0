//! Positions, relations, shapes and parameters.

use pgflo_core::apply::{Cause, Op, Place, Refusal, Replay, Source, Step};
use pgflo_core::error::{DecodeError, Reason};
use pgflo_core::pgoutput::OldKind;
use pgflo_core::{CoreError, Position};

use crate::bodies::{Body, NO_POSITION, OID, at};
use crate::script::{Recorder, run_through, statement};

fn loaded(body: Body, prev: Position, after: Position) -> Replay<Vec<u8>> {
    let mut replay = Replay::default();
    replay.load(body.0, prev, after, None);
    replay
}

/// The steps in words: `relation 1`, `statement Insert`, …
fn told(steps: &[Step]) -> Vec<String> {
    let word = |step: &Step| match step {
        Step::Done => "done".to_owned(),
        Step::Relation(relation, _) => format!("relation {} v{}", relation.name, relation.version),
        Step::Statement(shape, _) => format!("statement {:?}", shape.op),
        Step::Truncate { relations, .. } => format!("truncate {}", relations.len()),
        Step::Message { prefix, .. } => format!("message {prefix}"),
        Step::Failed(refusal, _) => format!("failed {:?}", refusal.cause),
    };
    steps.iter().map(word).collect()
}

fn two_columns() -> Body {
    Body::default().begin(100).relation(OID, "t", &["body"])
}

fn reason_of(run: Result<Vec<Step>, CoreError>) -> Reason {
    match run {
        Err(CoreError::Decode(DecodeError { reason, .. })) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn changes_are_sent_in_order_and_the_caller_is_asked_once_per_relation_and_shape() {
    let body = two_columns()
        .insert(OID, "1 a")
        .insert(OID, "2 -")
        .delete(OID, "1 -")
        .commit(100);
    let mut replay = loaded(body, NO_POSITION, NO_POSITION);
    let mut executor = Recorder::default();
    let steps = run_through(&mut replay, &mut executor, 2).unwrap();
    assert_eq!(
        told(&steps),
        ["relation t v1", "statement Insert", "statement Delete"]
    );
    assert_eq!(
        executor.sent,
        ["Insert1(1 a)", "Insert1(2 -)", "Delete2(1 -)"]
    );
    let ordinals: Vec<u64> = executor
        .places
        .iter()
        .map(|place| place.position.ordinal)
        .collect();
    assert_eq!(
        (ordinals, replay.changes(), replay.position()),
        (vec![1, 2, 3], 3, at(100, 3))
    );
    assert_eq!(executor.finished, steps.len() + 1);
}

#[test]
fn changes_up_to_the_reached_position_are_skipped_and_their_relation_is_not_announced() {
    let body = two_columns()
        .insert(OID, "1 a")
        .insert(OID, "2 b")
        .commit(100);
    let body = body
        .begin(200)
        .relation(OID + 1, "u", &["body"])
        .insert(OID + 1, "3 c")
        .commit(200);
    let mut replay = loaded(body, NO_POSITION, at(100, 2));
    let mut executor = Recorder::default();
    let steps = run_through(&mut replay, &mut executor, 2).unwrap();
    assert_eq!(told(&steps), ["relation u v1", "statement Insert"]);
    assert_eq!(executor.sent, ["Insert1(3 c)"]);
    assert_eq!(replay.changes(), 1);
}

#[test]
fn a_reached_position_inside_a_transaction_splits_it() {
    let body = two_columns()
        .insert(OID, "1 a")
        .insert(OID, "2 b")
        .insert(OID, "3 c")
        .commit(100);
    let mut replay = loaded(body, NO_POSITION, at(100, 2));
    let mut executor = Recorder::default();
    run_through(&mut replay, &mut executor, 2).unwrap();
    assert_eq!(executor.sent, ["Insert1(3 c)"]);
    assert_eq!(
        executor.places,
        [Place {
            position: at(100, 3),
            relation_oid: OID
        }]
    );
}

#[test]
fn ordinals_go_on_in_a_body_that_starts_inside_its_transaction() {
    let body = two_columns()
        .insert(OID, "8 a")
        .commit(100)
        .begin(200)
        .insert(OID, "1 b")
        .commit(200);
    let mut replay = loaded(body, at(100, 7), NO_POSITION);
    let mut executor = Recorder::default();
    run_through(&mut replay, &mut executor, 2).unwrap();
    let positions: Vec<Position> = executor.places.iter().map(|place| place.position).collect();
    assert_eq!(positions, [at(100, 8), at(200, 1)]);
}

#[test]
fn a_watermark_at_the_commit_lsn_of_the_next_transaction_skips_nothing() {
    let mut replay = loaded(
        two_columns().insert(OID, "1 a").commit(100),
        at(100, 0),
        at(100, 0),
    );
    let mut executor = Recorder::default();
    run_through(&mut replay, &mut executor, 2).unwrap();
    assert_eq!((executor.sent.len(), replay.position()), (1, at(100, 1)));
}

#[test]
fn a_relation_that_comes_again_unchanged_keeps_its_version_and_statements() {
    let body = two_columns()
        .insert(OID, "1 a")
        .relation(OID, "t", &["body"])
        .insert(OID, "2 b");
    let mut replay = loaded(body.clone().commit(100), NO_POSITION, NO_POSITION);
    let mut executor = Recorder::default();
    let steps = run_through(&mut replay, &mut executor, 2).unwrap();
    assert_eq!(told(&steps), ["relation t v1", "statement Insert"]);
    // Nor does the next body ask again.
    replay.load(body.commit(100).0, NO_POSITION, NO_POSITION, None);
    assert_eq!(run_through(&mut replay, &mut executor, 2).unwrap(), []);
    assert_eq!((executor.sent.len(), replay.changes()), (4, 2));
}

#[test]
fn a_changed_relation_is_announced_in_its_next_version_and_loses_its_statements() {
    let body = two_columns()
        .insert(OID, "1 a")
        .relation(OID, "t", &["body", "more"]);
    let mut replay = loaded(
        body.insert(OID, "2 b c").commit(100),
        NO_POSITION,
        NO_POSITION,
    );
    let mut executor = Recorder::default();
    let steps = run_through(&mut replay, &mut executor, 2).unwrap();
    assert_eq!(
        told(&steps),
        [
            "relation t v1",
            "statement Insert",
            "relation t v2",
            "statement Insert"
        ]
    );
    assert_eq!(executor.sent, ["Insert1(1 a)", "Insert2(2 b)"]);
}

#[test]
fn a_relation_whose_announcement_was_lost_to_a_failure_is_announced_again() {
    let body = two_columns()
        .insert(OID, "1 a")
        .relation(OID + 1, "u", &[])
        .insert(OID + 1, "2");
    let body = body.commit(100);
    let mut replay = loaded(body.clone(), NO_POSITION, NO_POSITION);
    let mut executor = Recorder::default();
    for _ in 0..2 {
        if let Step::Statement(shape, _) = replay.run(&mut executor, false).unwrap() {
            replay
                .register(shape.id, statement("put", &[Source::New(0)]))
                .unwrap();
        }
    }
    // The refusal of the first change comes to light where the second relation would be announced.
    let place = Place {
        position: at(100, 1),
        relation_oid: OID,
    };
    executor.refuse_at_finish = Some(Refusal {
        place,
        cause: Cause::Rows(0),
    });
    assert_eq!(
        told(&[replay.run(&mut executor, false).unwrap()]),
        ["failed Rows(0)"]
    );
    replay.load(body.0, NO_POSITION, NO_POSITION, None);
    assert_eq!(
        told(&[replay.run(&mut executor, false).unwrap()]),
        ["relation u v1"]
    );
}

#[test]
fn a_failed_body_has_to_be_loaded_again() {
    let mut replay = loaded(
        two_columns().insert(OID, "1 a").commit(100),
        NO_POSITION,
        NO_POSITION,
    );
    let mut executor = Recorder {
        rows: [0].into(),
        ..Recorder::default()
    };
    let steps = run_through(&mut replay, &mut executor, 2).unwrap();
    assert_eq!(told(&steps).last().unwrap(), "failed Rows(0)");
    assert!(matches!(
        replay.run(&mut executor, false),
        Err(CoreError::Envelope(_))
    ));
}

#[test]
fn shapes_differ_by_old_tuple_and_by_the_columns_that_were_not_sent() {
    let body = two_columns()
        .update(OID, None, "1 a")
        .update(OID, None, "1 ?")
        .update(OID, Some(("K", "1 -")), "2 a")
        .update(OID, Some(("O", "1 b")), "2 ?")
        .update(OID, None, "3 ?")
        .commit(100);
    let mut replay = loaded(body, NO_POSITION, NO_POSITION);
    let mut executor = Recorder::default();
    let steps = run_through(&mut replay, &mut executor, 2).unwrap();
    let shapes = steps.iter().filter_map(|step| match step {
        Step::Statement(shape, _) => Some((shape.op, shape.old, shape.unchanged.clone())),
        _ => None,
    });
    assert_eq!(
        shapes.collect::<Vec<_>>(),
        [
            (Op::Update, None, vec![]),
            (Op::Update, None, vec![1]),
            (Op::Update, Some(OldKind::Key), vec![]),
            (Op::Update, Some(OldKind::Row), vec![1]),
        ]
    );
    assert_eq!(executor.sent.last().unwrap(), "Update2(3)");
}

#[test]
fn parameters_come_from_where_the_statement_says() {
    let body = two_columns().update(OID, Some(("O", "1 #old")), "2 ?");
    let body = body.update(OID, Some(("O", "1 #old")), "2 new");
    let mut replay = loaded(body.commit(100), NO_POSITION, NO_POSITION);
    let mut executor = Recorder::default();
    let sources = [
        Source::NewOrOld(1),
        Source::New(0),
        Source::Old(0),
        Source::Old(1),
    ];
    loop {
        match replay.run(&mut executor, false).unwrap() {
            Step::Done => break,
            Step::Statement(shape, _) => {
                replay
                    .register(shape.id, statement("put", &sources))
                    .unwrap();
            }
            _ => {}
        }
    }
    assert_eq!(executor.sent, ["put(#old 2 1 #old)", "put(new 2 1 #old)"]);
}

#[test]
fn a_statement_that_asks_for_what_a_change_lacks_is_refused_when_it_is_registered() {
    let asked = |body: Body| {
        let mut replay = loaded(two_columns(), NO_POSITION, NO_POSITION);
        replay.load(
            [two_columns().0, body.0].concat(),
            NO_POSITION,
            NO_POSITION,
            None,
        );
        replay.run(&mut Recorder::default(), false).unwrap();
        match replay.run(&mut Recorder::default(), false).unwrap() {
            Step::Statement(shape, _) => (replay, shape.id),
            step => panic!("{step:?}"),
        }
    };
    let refused = |body: Body, source: Source| {
        let (mut replay, id) = asked(body);
        replay.register(id, statement("put", &[source])).is_err()
    };
    let (insert, delete) = (
        Body::default().insert(OID, "1 a"),
        Body::default().delete(OID, "1 -"),
    );
    let update = Body::default().update(OID, None, "1 ?");
    assert!(refused(insert.clone(), Source::New(2)));
    assert!(refused(insert.clone(), Source::Old(0)));
    assert!(refused(delete.clone(), Source::New(0)));
    assert!(refused(update.clone(), Source::New(1)));
    assert!(refused(update.clone(), Source::NewOrOld(1)));
    assert!(!refused(update, Source::NewOrOld(0)));
    assert!(!refused(delete, Source::NewOrOld(0)));
    let (mut replay, id) = asked(insert);
    assert!(replay.register(id + 1, statement("put", &[])).is_err());
    replay.forget(OID);
    assert!(replay.register(id, statement("put", &[])).is_err());
}

#[test]
fn forgotten_statements_are_asked_for_again_under_a_new_number() {
    let body = two_columns().insert(OID, "1 a").commit(100);
    let mut replay = loaded(body.clone(), NO_POSITION, NO_POSITION);
    let mut executor = Recorder::default();
    run_through(&mut replay, &mut executor, 2).unwrap();
    replay.forget(OID + 1);
    replay.load(body.clone().0, NO_POSITION, NO_POSITION, None);
    assert_eq!(run_through(&mut replay, &mut executor, 2).unwrap(), []);
    replay.forget_all();
    replay.load(body.0, NO_POSITION, NO_POSITION, None);
    assert_eq!(
        told(&run_through(&mut replay, &mut executor, 2).unwrap()),
        ["statement Insert"]
    );
    assert_eq!(
        executor.sent,
        ["Insert1(1 a)", "Insert1(1 a)", "Insert2(1 a)"]
    );
}

#[test]
fn a_shape_with_nothing_to_do_counts_its_changes_and_sends_nothing() {
    let mut replay = loaded(
        two_columns().insert(OID, "1 a").commit(100),
        NO_POSITION,
        NO_POSITION,
    );
    let mut executor = Recorder::default();
    replay.run(&mut executor, false).unwrap();
    let Step::Statement(shape, _) = replay.run(&mut executor, false).unwrap() else {
        panic!()
    };
    let mut nothing = statement("", &[]);
    nothing.call = None;
    replay.register(shape.id, nothing).unwrap();
    assert_eq!(replay.run(&mut executor, false).unwrap(), Step::Done);
    assert_eq!((executor.sent.len(), replay.changes()), (0, 1));
}

#[test]
fn a_truncate_is_handed_over_once_its_tables_are_known_and_has_an_ordinal() {
    let body = two_columns()
        .relation(OID + 1, "u", &[])
        .truncate(&[OID, OID + 1]);
    let mut replay = loaded(
        body.insert(OID, "1 a").commit(100),
        NO_POSITION,
        NO_POSITION,
    );
    let mut executor = Recorder::default();
    let steps = run_through(&mut replay, &mut executor, 2).unwrap();
    assert_eq!(
        told(&steps),
        [
            "relation t v1",
            "relation u v1",
            "truncate 2",
            "statement Insert"
        ]
    );
    let Step::Truncate {
        cascade,
        restart_identity,
        place,
        ..
    } = steps[2]
    else {
        panic!()
    };
    assert_eq!(
        (cascade, restart_identity, place.position),
        (false, true, at(100, 1))
    );
    assert_eq!(
        (executor.places[0].position, replay.changes()),
        (at(100, 2), 2)
    );
}

#[test]
fn only_a_transactional_message_is_handed_over_and_has_an_ordinal() {
    let body = two_columns()
        .logical(false)
        .logical(true)
        .insert(OID, "1 a")
        .commit(100);
    let mut replay = loaded(body.logical(false), NO_POSITION, NO_POSITION);
    let mut executor = Recorder::default();
    let steps = run_through(&mut replay, &mut executor, 2).unwrap();
    assert_eq!(
        told(&steps),
        ["message note", "relation t v1", "statement Insert"]
    );
    assert_eq!(
        (executor.places[0].position, replay.position()),
        (at(100, 2), at(100, 2))
    );
}

#[test]
fn a_body_that_contradicts_itself_is_refused_before_the_change_is_sent() {
    let outside = Body::default()
        .relation(OID, "t", &["body"])
        .insert(OID, "1 a");
    for (body, reason) in [
        (outside, Reason::OutsideTransaction),
        (Body::default().commit(100), Reason::OutsideTransaction),
        (
            two_columns().commit(100).insert(OID, "1 a"),
            Reason::OutsideTransaction,
        ),
        (
            two_columns().begin(200),
            Reason::InsideTransaction(at(100, 0).commit_lsn),
        ),
        (
            Body::default().begin(9).insert(OID, "1 a"),
            Reason::UnknownRelation(OID),
        ),
        (
            Body::default().begin(9).truncate(&[OID]),
            Reason::UnknownRelation(OID),
        ),
        (
            two_columns().insert(OID, "1"),
            Reason::OtherColumns {
                columns: 2,
                found: 1,
            },
        ),
        (
            two_columns().delete(OID, "1 2 3"),
            Reason::OtherColumns {
                columns: 2,
                found: 3,
            },
        ),
        (
            two_columns().update(OID, Some(("O", "1 ?")), "1 a"),
            Reason::UnknownTag {
                field: "cell",
                value: b'u',
            },
        ),
        (
            Body::default().begin(9).commit(9).begin(8),
            Reason::NotIncreasing {
                commit_lsn: at(8, 0).commit_lsn,
                floor_lsn: at(9, 0).commit_lsn,
            },
        ),
    ] {
        let mut executor = Recorder::default();
        let mut replay = loaded(body, NO_POSITION, NO_POSITION);
        assert_eq!(
            reason_of(run_through(&mut replay, &mut executor, 2)),
            reason
        );
        assert_eq!(executor.sent, [""; 0]);
    }
}

#[test]
fn ordinals_that_belong_to_others_are_passed_inside_a_transaction_only() {
    let skip = [b"~", &5_u32.to_be_bytes()[..]].concat();
    let body = two_columns()
        .insert(OID, "1 a")
        .message(&skip)
        .insert(OID, "2 b")
        .commit(100);
    let mut executor = Recorder::default();
    run_through(
        &mut loaded(body, NO_POSITION, NO_POSITION),
        &mut executor,
        2,
    )
    .unwrap();
    let places = executor.places.iter().map(|place| place.position);
    assert_eq!(places.collect::<Vec<_>>(), [at(100, 1), at(100, 7)]);

    for (body, reason) in [
        (Body::default().message(&skip), Reason::OutsideTransaction),
        (
            Body::default().begin(100).message(b"~\0"),
            Reason::UnexpectedEnd { needed: 4, left: 1 },
        ),
    ] {
        let mut replay = loaded(body, NO_POSITION, NO_POSITION);
        let run = run_through(&mut replay, &mut Recorder::default(), 2);
        assert_eq!(reason_of(run), reason);
    }
}
