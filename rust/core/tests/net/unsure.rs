//! Rows that rules may have kept out of the destination until now.

use pgflo_core::apply::Unfit;

use crate::bodies::{Body, OID};
use crate::told::left;

/// A table of `id` (the key) and `v`.
fn table() -> Body {
    Body::default().begin(100).relation(OID, "t", &["v"])
}

fn maybe(body: Body) -> Body {
    body.note("?m")
}

fn assert_left(body: Body, expected: &[&str]) {
    assert_eq!(left(body.commit(100)).unwrap(), expected);
}

#[test]
fn a_row_that_may_be_there_is_put_and_one_that_may_not_is_deleted_without_a_count() {
    assert_left(
        maybe(maybe(table()).update(OID, None, "1 a")).delete(OID, "2 -"),
        &["delete any {2}", "put[0, 1] {1} {\"a\"}"],
    );
    assert_left(
        maybe(table()).insert(OID, "1 a"),
        &["put[0, 1] {1} {\"a\"}"],
    );
}

#[test]
fn a_row_that_stays_out_of_the_set_is_deleted_once() {
    let twice = maybe(maybe(table()).delete(OID, "1 -")).delete(OID, "1 -");
    assert_left(twice, &["delete any {1}"]);
}

#[test]
fn what_follows_a_put_is_sure_of_its_row() {
    assert_left(
        maybe(table())
            .update(OID, None, "1 a")
            .update(OID, None, "1 b"),
        &["put[0, 1] {1} {\"b\"}"],
    );
    assert_left(
        maybe(table()).update(OID, None, "1 a").delete(OID, "1 -"),
        &["delete any {1}"],
    );
    assert_left(
        maybe(maybe(table()).delete(OID, "1 -")).update(OID, None, "1 b"),
        &["delete any {1}", "insert[0, 1] 1 b;"],
    );
    assert_left(
        maybe(table().insert(OID, "1 a")).delete(OID, "1 -"),
        &["delete none {1}"],
    );
}

#[test]
fn a_put_whose_value_was_not_sent_must_find_its_row() {
    assert_left(maybe(table()).update(OID, None, "1 ?"), &[]);
    let table = Body::default().begin(100).relation(OID, "t", &["v", "w"]);
    assert_left(
        maybe(table).update(OID, None, "1 a ?"),
        &["update[1] {1} {\"a\"}"],
    );
}

#[test]
fn what_only_the_destination_can_tell_is_left_to_replay() {
    assert_left(table().note("?s").update(OID, None, "1 a"), &[]);
    assert_left(table().note("?u").update(OID, None, "1 a"), &[]);
    assert_left(maybe(table()).update(OID, Some(("K", "1 -")), "2 a"), &[]);
}

#[test]
fn a_put_that_contradicts_what_came_before_is_left_to_replay() {
    let body = table()
        .delete(OID, "1 -")
        .insert(OID, "2 a")
        .note("?m")
        .update(OID, Some(("K", "1 -")), "2 b");
    assert_eq!(left(body.commit(100)), Err(Unfit::Contradiction));
}
