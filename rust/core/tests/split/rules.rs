//! Places, barriers, slices, one rule at a time.

use pgflo_core::Position;
use pgflo_core::apply::split::{Route, Slices, Splitter};
use pgflo_core::apply::{Replay, Step};
use pgflo_core::error::{CoreError, EnvelopeError, Reason};

use crate::bodies::{Body, NO_POSITION, OID, at};
use crate::script::{Recorder, run_through};

/// Splits bodies that follow each other; every table goes by its first column.
pub fn split(splitter: &mut Splitter<Vec<u8>>, bodies: &[(Body, Position)]) -> Slices {
    let mut after = NO_POSITION;
    for (number, (body, _)) in bodies.iter().enumerate() {
        let prev = match number {
            0 => NO_POSITION,
            number => bodies[number - 1].1,
        };
        splitter.load(body.0.clone(), prev, after);
        while let Some(relation) = splitter.run().unwrap() {
            splitter.route(relation.oid, Route::Key(vec![0])).unwrap();
        }
        after = bodies[number].1;
    }
    splitter.take()
}

fn one(splitter: &mut Splitter<Vec<u8>>, body: Body) -> Slices {
    split(splitter, &[(body, NO_POSITION)])
}

/// What a writer does with a slice: its statements, and where each stands.
pub fn replayed(slice: &[u8]) -> Vec<(Position, String)> {
    let mut replay = Replay::default();
    let mut executor = Recorder::default();
    replay.load(slice.to_vec(), NO_POSITION, NO_POSITION, None);
    let steps = run_through(&mut replay, &mut executor, 2).unwrap();
    assert!(!steps.iter().any(|step| matches!(step, Step::Failed(..))));
    let places = executor.places.iter().map(|place| place.position);
    places.zip(executor.sent).collect()
}

fn positions(slice: Option<&Vec<u8>>) -> Vec<Position> {
    let changes = slice.map(|slice| replayed(slice)).unwrap_or_default();
    changes.into_iter().map(|(position, _)| position).collect()
}

fn table() -> Body {
    Body::default().begin(100).relation(OID, "t", &["body"])
}

/// Two keys that have different shards of two.
fn apart() -> (String, String) {
    let shard = |key: &str| {
        let body = table().insert(OID, &format!("{key} x")).commit(100);
        let slices = one(&mut Splitter::new(2).unwrap(), body);
        slices.bodies.iter().position(Option::is_some).unwrap()
    };
    let other = (2..1000).find(|key| shard(&key.to_string()) != shard("1"));
    ("1".to_owned(), other.unwrap().to_string())
}

#[test]
fn changes_of_one_key_stand_in_one_slice_at_their_own_positions() {
    let (a, b) = apart();
    let body = table()
        .insert(OID, &format!("{a} x"))
        .insert(OID, &format!("{b} x"))
        .logical(true)
        .update(OID, None, &format!("{a} y"))
        .commit(100)
        .begin(200)
        .delete(OID, &format!("{b} -"))
        .commit(200);
    let slices = one(&mut Splitter::new(2).unwrap(), body);
    assert!(!slices.is_barrier);
    let mut found: Vec<_> = slices
        .bodies
        .iter()
        .map(|slice| positions(slice.as_ref()))
        .collect();
    found.sort();
    assert_eq!(
        found,
        [vec![at(100, 1), at(100, 4)], vec![at(100, 2), at(200, 1)]]
    );
}

#[test]
fn a_key_that_moves_to_another_shard_is_a_barrier_and_one_that_does_not_is_none() {
    let (a, b) = apart();
    let moved = |old: (&str, &str), new: &str| {
        let body = table().update(OID, Some(old), new).commit(100);
        one(&mut Splitter::new(2).unwrap(), body).is_barrier
    };
    assert!(moved(("K", &format!("{a} -")), &format!("{b} x")));
    assert!(moved(("O", &format!("{a} x")), &format!("{b} x")));
    assert!(!moved(("O", &format!("{a} x")), &format!("{a} y")));
    // A key that was not sent is the old one.
    assert!(!moved(("K", &format!("{a} -")), "? y"));
}

#[test]
fn a_truncate_and_a_key_that_cannot_be_told_are_barriers() {
    for body in [
        table().truncate(&[OID]),
        table().insert(OID, "#b x"),
        table().update(OID, None, "? x"),
    ] {
        let slices = one(&mut Splitter::new(4).unwrap(), body.commit(100));
        assert!(slices.is_barrier);
    }
}

#[test]
fn a_table_goes_where_it_is_routed_and_is_asked_for_once_per_definition() {
    let body = || table().insert(OID, "1 x").insert(OID, "2 x").commit(100);
    let mut splitter = Splitter::new(3).unwrap();
    splitter.load(body().0, NO_POSITION, NO_POSITION);
    let asked = splitter.run().unwrap().unwrap();
    assert_eq!((asked.oid, asked.version), (OID, 1));
    splitter.route(OID, Route::Whole(2)).unwrap();
    assert_eq!(splitter.run().unwrap(), None);
    let bodies = splitter.take().bodies;
    assert_eq!((&bodies[0], &bodies[1]), (&None, &None));
    assert_eq!(positions(bodies[2].as_ref()), [at(100, 1), at(100, 2)]);

    splitter.load(body().0, NO_POSITION, NO_POSITION);
    assert_eq!(splitter.run().unwrap(), None);
    splitter.take();
    splitter.route(OID, Route::Barrier).unwrap();
    splitter.load(body().0, NO_POSITION, NO_POSITION);
    assert_eq!(splitter.run().unwrap(), None);
    assert!(splitter.take().is_barrier);
    splitter.forget();
    splitter.load(body().0, NO_POSITION, NO_POSITION);
    assert_eq!(splitter.run().unwrap().unwrap().version, 1);
    splitter.take();

    let altered = Body::default()
        .begin(100)
        .relation(OID, "t", &["body", "more"]);
    splitter.load(altered.insert(OID, "1 x y").0, NO_POSITION, NO_POSITION);
    assert_eq!(splitter.run().unwrap().unwrap().version, 2);
}

#[test]
fn a_route_to_what_is_not_there_is_refused() {
    let mut splitter = Splitter::new(2).unwrap();
    let refused = |result| matches!(result, Err(EnvelopeError::BadSetting(_)));
    assert!(refused(splitter.route(OID, Route::Barrier)));
    splitter.load(table().insert(OID, "1 x").0, NO_POSITION, NO_POSITION);
    splitter.run().unwrap();
    for route in [Route::Whole(2), Route::Key(vec![]), Route::Key(vec![0, 2])] {
        assert!(refused(splitter.route(OID, route)));
    }
    assert!(Splitter::<Vec<u8>>::new(0).is_err());
    assert!(Splitter::<Vec<u8>>::gather(vec![]).is_err());
    assert!(Splitter::<Vec<u8>>::new(1025).is_err());
}

#[test]
fn a_transaction_that_goes_on_in_the_next_body_is_begun_once_and_its_overlap_left_out() {
    let first = table().insert(OID, "1 a").insert(OID, "1 b");
    // As another publisher cut it: it begins inside of what came before.
    let second = table()
        .insert(OID, "1 b")
        .insert(OID, "1 c")
        .commit(100)
        .begin(200)
        .insert(OID, "1 d")
        .commit(200);
    let mut splitter = Splitter::new(1).unwrap();
    splitter.load(first.0, NO_POSITION, NO_POSITION);
    assert!(splitter.run().unwrap().is_some());
    splitter.route(OID, Route::Key(vec![0])).unwrap();
    assert!(splitter.run().unwrap().is_none());
    splitter.load(second.0, at(100, 1), at(100, 2));
    assert!(splitter.run().unwrap().is_none());
    let slices = splitter.take();
    let found = positions(slices.bodies[0].as_ref());
    assert_eq!(found, [at(100, 1), at(100, 2), at(100, 3), at(200, 1)]);
}

#[test]
fn an_epoch_that_begins_inside_a_transaction_keeps_its_ordinals() {
    let mut splitter = Splitter::new(1).unwrap();
    let body = table().insert(OID, "1 a").insert(OID, "1 b").commit(100);
    splitter.load(body.0, at(100, 7), at(100, 8));
    splitter.run().unwrap();
    splitter.route(OID, Route::Key(vec![0])).unwrap();
    splitter.run().unwrap();
    let slice = splitter.take().bodies.remove(0).unwrap();
    let mut replay = Replay::default();
    let mut executor = Recorder::default();
    replay.load(slice, at(100, 7), at(100, 8), None);
    run_through(&mut replay, &mut executor, 2).unwrap();
    assert_eq!(executor.places[0].position, at(100, 9));
    assert_eq!(executor.places.len(), 1);
}

#[test]
fn gathering_gives_what_each_shard_lacks_and_barriers_that_all_of_them_lack() {
    let (a, b) = apart();
    let body = || {
        table()
            .insert(OID, &format!("{a} x"))
            .insert(OID, &format!("{b} x"))
            .commit(100)
            .begin(200)
            .update(OID, None, &format!("{a} y"))
            .update(OID, None, &format!("{b} y"))
            .update(OID, Some(("K", &format!("{a} -"))), &format!("{b} z"))
            .commit(200)
    };
    let whole = one(
        &mut Splitter::new(2).unwrap(),
        table().insert(OID, &format!("{a} x")),
    );
    let of_a = whole.bodies.iter().position(Option::is_some).unwrap();
    let mut rows = vec![at(100, 1), at(100, 1)];
    rows[of_a] = at(200, 2);
    let slices = one(&mut Splitter::gather(rows).unwrap(), body());
    assert_eq!(slices.bodies.len(), 1);
    assert!(!slices.is_barrier);
    let found = positions(slices.bodies[0].as_ref());
    assert_eq!(found, [at(100, 2), at(200, 2), at(200, 3)]);
    let rows = vec![at(200, 3), at(200, 3)];
    let slices = one(&mut Splitter::gather(rows).unwrap(), body());
    assert_eq!(slices.bodies, [None]);
}

#[test]
fn a_change_of_a_table_never_described_is_refused() {
    let mut splitter = Splitter::new(2).unwrap();
    for body in [
        Body::default().begin(100).insert(OID, "1"),
        Body::default().begin(100).truncate(&[OID]),
    ] {
        splitter.load(body.0, NO_POSITION, NO_POSITION);
        let Err(CoreError::Decode(error)) = splitter.run() else {
            panic!()
        };
        assert_eq!(error.reason, Reason::UnknownRelation(OID));
    }
    let nothing_loaded = splitter.run();
    assert!(matches!(nothing_loaded, Err(CoreError::Envelope(_))));
}
