//! Epochs: several bodies, relations and targets, what is slow, and what replay has to take whole.

use pgflo_core::CoreError;
use pgflo_core::apply::{Net, NetStep, Relation, Route, Unfit};
use pgflo_core::error::{DecodeError, Reason};

use crate::bodies::{Body, NO_POSITION, OID, at};
use crate::told::{collected, left, left_by, route};

const OTHER: u32 = OID + 1;

fn table() -> Body {
    Body::default().begin(100).relation(OID, "t", &["v"])
}

/// Two tables whose rows go to one.
fn shared(relation: &Relation) -> Route {
    Route {
        target: 1,
        ..route(relation)
    }
}

fn both() -> Body {
    table().relation(OTHER, "u", &["v"])
}

/// `OID` is left to replay.
fn slow(relation: &Relation) -> Route {
    Route {
        slow: relation.oid == OID,
        ..route(relation)
    }
}

#[test]
fn groups_run_as_deletes_then_updates_then_inserts_table_by_table() {
    let body = both()
        .insert(OID, "1 a")
        .update(OTHER, None, "1 b")
        .delete(OID, "2 -")
        .delete(OTHER, "2 -")
        .insert(OTHER, "3 c")
        .update(OID, None, "3 d")
        .commit(100);
    assert_eq!(
        left(body).unwrap(),
        [
            "delete {2}",
            "delete+1 {2}",
            "update[1]+1 {1} {\"b\"}",
            "update[1] {3} {\"d\"}",
            "insert[0, 1] 1 a;",
            "insert[0, 1]+1 3 c;",
        ]
    );
}

#[test]
fn transactions_and_bodies_of_an_epoch_are_collected_together() {
    let mut net = Net::default();
    let first = table()
        .insert(OID, "1 a")
        .commit(100)
        .begin(200)
        .update(OID, None, "1 b")
        .commit(200);
    let second = Body::default()
        .begin(300)
        .relation(OID, "t", &["v"])
        .update(OID, None, "1 ?")
        .insert(OID, "2 c")
        .commit(300);
    let bodies = vec![(first, NO_POSITION), (second, at(200, 1))];
    let found = collected(&mut net, bodies, NO_POSITION, route);
    assert_eq!(found.unwrap(), ["insert[0, 1] 1 b;2 c;"]);
    assert_eq!((net.changes(), net.slow_changes()), (4, 0));
}

#[test]
fn nothing_is_left_over_for_the_next_epoch_but_relations() {
    let mut net = Net::default();
    let bodies = |body: &Body| vec![(body.clone().commit(100), NO_POSITION)];
    let first = table().insert(OID, "1 a").delete(OID, "2 -");
    collected(&mut net, bodies(&first), NO_POSITION, route).unwrap();
    let again = table().update(OID, None, "1 b").insert(OID, "2 c");
    let unasked = |relation: &Relation| panic!("{} is known", relation.name);
    assert_eq!(
        collected(&mut net, bodies(&again), NO_POSITION, unasked).unwrap(),
        ["update[1] {1} {\"b\"}", "insert[0, 1] 2 c;"]
    );
    net.clear();
    assert_eq!((net.groups().unwrap(), net.changes()), (vec![], 0));
    net.forget_all();
    net.load(vec![(again.commit(100).0, NO_POSITION)], NO_POSITION);
    assert!(matches!(net.run().unwrap(), NetStep::Relation(..)));
}

#[test]
fn changes_up_to_the_reached_position_are_not_collected() {
    let mut net = Net::default();
    let body = table()
        .insert(OID, "1 a")
        .insert(OID, "2 b")
        .insert(OID, "3 c")
        .commit(100);
    let bodies = vec![(body, NO_POSITION)];
    assert_eq!(
        collected(&mut net, bodies.clone(), at(100, 2), route).unwrap(),
        ["insert[0, 1] 3 c;"]
    );
    assert_eq!(net.changes(), 1);
    let unasked = |relation: &Relation| panic!("{} does not change", relation.name);
    let mut net = Net::default();
    let found = collected(&mut net, bodies, at(100, 3), unasked);
    assert_eq!((found.unwrap(), net.changes()), (vec![], 0));
}

#[test]
fn what_an_earlier_body_of_the_epoch_holds_is_not_collected_again() {
    let first = table().insert(OID, "1 a").insert(OID, "2 b").commit(100);
    let cut_anew = table()
        .insert(OID, "1 a")
        .insert(OID, "2 b")
        .insert(OID, "3 c")
        .commit(100)
        .begin(200)
        .delete(OID, "1 -")
        .commit(200);
    let mut net = Net::default();
    let bodies = vec![(first, NO_POSITION), (cut_anew, NO_POSITION)];
    assert_eq!(
        collected(&mut net, bodies, NO_POSITION, route).unwrap(),
        ["delete none {1}", "insert[0, 1] 2 b;3 c;"]
    );
    assert_eq!(net.changes(), 4);
}

#[test]
fn a_transaction_goes_on_in_the_next_body_where_the_last_one_ended() {
    let mut net = Net::default();
    let first = table().insert(OID, "1 a");
    let second = Body::default()
        .begin(100)
        .relation(OID, "t", &["v"])
        .insert(OID, "2 b")
        .commit(100);
    let bodies = vec![(first, NO_POSITION), (second, at(100, 1))];
    assert_eq!(
        collected(&mut net, bodies, at(100, 1), route).unwrap(),
        ["insert[0, 1] 2 b;"]
    );
}

#[test]
fn a_logical_message_counts_and_leaves_nothing() {
    let mut net = Net::default();
    let body = table().logical(true).insert(OID, "1 a").commit(100);
    let found = collected(&mut net, vec![(body, NO_POSITION)], at(100, 1), route);
    assert_eq!(found.unwrap(), ["insert[0, 1] 1 a;"]);
    assert_eq!(net.changes(), 1);
}

// --- relations and targets

#[test]
fn equal_keys_of_different_targets_are_different_rows() {
    let body = both().insert(OID, "1 a").insert(OTHER, "1 b").commit(100);
    assert_eq!(
        left(body).unwrap(),
        ["insert[0, 1] 1 a;", "insert[0, 1]+1 1 b;"]
    );
}

#[test]
fn relations_that_share_a_target_share_its_rows() {
    let moved = both()
        .delete(OID, "1 -")
        .insert(OTHER, "1 b")
        .update(OTHER, None, "1 c")
        .delete(OTHER, "2 -")
        .commit(100);
    assert_eq!(
        left_by(moved, shared).unwrap(),
        ["delete {1,2}", "insert[0, 1]+1 1 c;"]
    );
    for body in [
        both().insert(OID, "1 a").insert(OTHER, "1 b"),
        both().update(OID, None, "1 a").update(OTHER, None, "1 b"),
    ] {
        assert_eq!(left_by(body.commit(100), shared), Err(Unfit::Contradiction));
    }
}

#[test]
fn relations_that_share_a_target_under_different_keys_are_left_to_replay() {
    let keyed_apart = |relation: &Relation| Route {
        key: Some(vec![u16::from(relation.oid == OTHER)]),
        ..shared(relation)
    };
    let mut net = Net::default();
    let body = both()
        .update(OID, None, "1 7")
        .delete(OTHER, "- 1")
        .commit(100);
    let bodies = vec![(body, NO_POSITION)];
    let found = collected(&mut net, bodies, NO_POSITION, keyed_apart);
    assert_eq!(found.unwrap(), [""; 0]);
    assert_eq!(
        (net.slow_relations(), net.slow_changes()),
        (vec![OID, OTHER], 2)
    );
}

#[test]
fn columns_in_another_order_are_written_under_their_own_relation() {
    let swapped = Body::default()
        .begin(100)
        .relation(OID, "t", &["v", "w"])
        .relation(OTHER, "u", &["w", "v"])
        .insert(OID, "1 v w")
        .insert(OTHER, "2 w v")
        .commit(100);
    assert_eq!(
        left_by(swapped, shared).unwrap(),
        ["insert[0, 1, 2] 1 v w;", "insert[0, 1, 2]+1 2 w v;"]
    );
}

#[test]
fn a_relation_that_changes_among_its_changes_makes_the_epoch_unfit() {
    let body = table()
        .insert(OID, "1 a")
        .relation(OID, "t", &["v", "w"])
        .insert(OID, "2 b c")
        .commit(100);
    assert_eq!(left(body), Err(Unfit::Relation));
}

#[test]
fn a_relation_that_changes_before_its_changes_is_asked_for_again() {
    let mut net = Net::default();
    let first = table().insert(OID, "1 a").commit(100);
    let second = Body::default()
        .begin(200)
        .relation(OID, "t", &["v", "w"])
        .insert(OID, "2 b c")
        .commit(200);
    let one = vec![(first.clone(), NO_POSITION)];
    collected(&mut net, one, NO_POSITION, route).unwrap();
    let versions = |relation: &Relation| {
        assert_eq!((relation.version, relation.columns.len()), (2, 3));
        route(relation)
    };
    // The first body's changes are applied already, so that only the second version counts.
    let bodies = vec![(first, NO_POSITION), (second, at(100, 1))];
    assert_eq!(
        collected(&mut net, bodies, at(100, 1), versions).unwrap(),
        ["insert[0, 1, 2] 2 b c;"]
    );
}

// --- what replay takes

#[test]
fn a_slow_table_is_counted_and_leaves_no_groups() {
    let mut net = Net::default();
    let body = both()
        .insert(OID, "1 a")
        .insert(OTHER, "1 b")
        .delete(OID, "2 -")
        .commit(100);
    let found = collected(&mut net, vec![(body, NO_POSITION)], NO_POSITION, slow);
    assert_eq!(found.unwrap(), ["insert[0, 1]+1 1 b;"]);
    assert_eq!((net.changes(), net.slow_changes()), (3, 2));
    assert_eq!(net.slow_relations(), [OID]);
}

#[test]
fn contradictions_of_a_slow_table_are_left_to_replay() {
    let body = both().insert(OID, "1 a").insert(OID, "1 b").commit(100);
    assert_eq!(left_by(body, slow).unwrap(), [""; 0]);
}

#[test]
fn a_table_without_a_key_takes_inserts_and_is_slow_with_anything_else() {
    let without_key = |relation: &Relation| Route {
        key: (relation.oid == OTHER).then(|| vec![0]),
        ..route(relation)
    };
    let inserts = both().insert(OID, "1 a").insert(OID, "1 a");
    assert_eq!(
        left_by(inserts.clone().commit(100), without_key).unwrap(),
        ["insert[0, 1] 1 a;1 a;"]
    );
    for body in [
        inserts.clone().update(OID, Some(("O", "1 a")), "2 a"),
        inserts.clone().update(OID, None, "1 b"),
        inserts.delete(OID, "1 a"),
    ] {
        let mut net = Net::default();
        let body = body.insert(OTHER, "2 b").insert(OID, "3 c").commit(100);
        let bodies = vec![(body, NO_POSITION)];
        let found = collected(&mut net, bodies, NO_POSITION, without_key);
        assert_eq!(found.unwrap(), ["insert[0, 1]+1 2 b;"]);
        assert_eq!((net.changes(), net.slow_changes()), (5, 4));
    }
}

#[test]
fn a_table_that_cannot_be_updated_is_slow_with_the_first_update() {
    let fixed = |relation: &Relation| Route {
        updates: false,
        ..route(relation)
    };
    let body = table().insert(OID, "1 a").delete(OID, "2 -");
    assert_eq!(
        left_by(body.clone().commit(100), fixed).unwrap(),
        ["delete {2}", "insert[0, 1] 1 a;"]
    );
    let body = body.update(OID, None, "1 b").commit(100);
    assert_eq!(left_by(body, fixed).unwrap(), [""; 0]);
}

#[test]
fn all_relations_of_a_slow_target_are_slow() {
    let one_is_slow = |relation: &Relation| Route {
        target: 1,
        ..slow(relation)
    };
    let mut net = Net::default();
    let body = both()
        .insert(OTHER, "1 a")
        .insert(OID, "2 b")
        .insert(OTHER, "3 c")
        .commit(100);
    let bodies = vec![(body, NO_POSITION)];
    let found = collected(&mut net, bodies, NO_POSITION, one_is_slow);
    assert_eq!(found.unwrap(), [""; 0]);
    assert_eq!(
        (net.slow_relations(), net.slow_changes()),
        (vec![OID, OTHER], 3)
    );
}

#[test]
fn a_table_is_slow_for_one_epoch_only() {
    let mut net = Net::default();
    let without_key = |relation: &Relation| Route {
        key: None,
        ..route(relation)
    };
    let body = table().delete(OID, "1 -").commit(100);
    let bodies = vec![(body, NO_POSITION)];
    collected(&mut net, bodies, NO_POSITION, without_key).unwrap();
    assert_eq!(net.slow_changes(), 1);
    let body = table().insert(OID, "1 a").commit(100);
    let bodies = vec![(body, NO_POSITION)];
    assert_eq!(
        collected(&mut net, bodies, NO_POSITION, without_key).unwrap(),
        ["insert[0, 1] 1 a;"]
    );
    assert_eq!(net.slow_relations(), [0; 0]);
}

#[test]
fn a_truncate_makes_the_epoch_unfit_unless_it_is_applied_already() {
    let body = table().truncate(&[OID]).insert(OID, "1 a").commit(100);
    assert_eq!(left(body.clone()), Err(Unfit::Truncate));
    let bodies = vec![(body, NO_POSITION)];
    let found = collected(&mut Net::default(), bodies, at(100, 1), route);
    assert_eq!(found.unwrap(), ["insert[0, 1] 1 a;"]);
}

#[test]
fn an_unfit_epoch_leaves_nothing_behind() {
    let mut net = Net::default();
    let body = table().insert(OID, "1 a").truncate(&[OID]).commit(100);
    let found = collected(&mut net, vec![(body, NO_POSITION)], NO_POSITION, route);
    assert_eq!(found, Err(Unfit::Truncate));
    assert_eq!((net.groups().unwrap(), net.changes()), (vec![], 0));
}

// --- answers and bodies that do not fit

#[test]
fn an_answer_must_name_columns_that_the_relation_has() {
    let mut net = Net::default();
    net.load(
        vec![(table().insert(OID, "1 a").0, NO_POSITION)],
        NO_POSITION,
    );
    let NetStep::Relation(relation, position) = net.run().unwrap() else {
        panic!()
    };
    assert_eq!(position, at(100, 1));
    let good = route(&relation);
    for wrong in [
        Route {
            key: Some(vec![2]),
            ..good.clone()
        },
        Route {
            written: vec![0, 2],
            ..good.clone()
        },
        Route {
            delimiters: vec![b','],
            ..good.clone()
        },
    ] {
        assert!(net.answer(OID, wrong).is_err());
    }
    assert!(net.answer(OTHER, good.clone()).is_err());
    assert!(net.answer(OID, good).is_ok());
    assert_eq!(net.run().unwrap(), NetStep::Done);
}

#[test]
fn a_value_without_a_text_is_refused_when_groups_are_made() {
    for body in [
        table().insert(OID, "1 #b"),
        table().insert(OID, "1 ?"),
        table().update(OID, None, "1 #b"),
    ] {
        let mut net = Net::default();
        net.load(vec![(body.commit(100).0, NO_POSITION)], NO_POSITION);
        while let NetStep::Relation(relation, _) = net.run().unwrap() {
            net.answer(OID, route(&relation)).unwrap();
        }
        assert!(net.groups().is_err());
    }
}

#[test]
fn a_body_that_contradicts_itself_is_refused_and_leaves_nothing_behind() {
    let fault = |body: Body| {
        let mut net = Net::default();
        net.load(vec![(body.0, NO_POSITION)], NO_POSITION);
        loop {
            match net.run() {
                Ok(NetStep::Relation(relation, _)) => {
                    net.answer(relation.oid, route(&relation)).unwrap();
                }
                Err(CoreError::Decode(DecodeError { reason, .. })) => {
                    assert_eq!((net.groups().unwrap(), net.changes()), (vec![], 0));
                    return reason;
                }
                other => panic!("{other:?}"),
            }
        }
    };
    let known = table().insert(OID, "1 a");
    for (body, reason) in [
        (
            known.clone().commit(100).insert(OID, "2 b"),
            Reason::OutsideTransaction,
        ),
        (
            known.clone().insert(OTHER, "2 b"),
            Reason::UnknownRelation(OTHER),
        ),
        (
            known.clone().insert(OID, "2"),
            Reason::OtherColumns {
                columns: 2,
                found: 1,
            },
        ),
        (
            known.delete(OID, "1 2 3"),
            Reason::OtherColumns {
                columns: 2,
                found: 3,
            },
        ),
    ] {
        assert_eq!(fault(body), reason);
    }
}
