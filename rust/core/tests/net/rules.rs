//! The rules by which the changes of one row become one.

use pgflo_core::apply::{Relation, Route, Unfit};

use crate::bodies::{Body, OID};
use crate::told::{left, left_by, route};

/// A table of `id` (the key), `v` and `w`.
fn table() -> Body {
    Body::default().begin(100).relation(OID, "t", &["v", "w"])
}

/// The key is columns 0 and 1.
fn by_two(relation: &Relation) -> Route {
    Route {
        key: Some(vec![0, 1]),
        ..route(relation)
    }
}

fn assert_left(body: Body, expected: &[&str]) {
    assert_eq!(left(body.commit(100)).unwrap(), expected);
}

fn assert_contradicts(body: Body) {
    assert_eq!(left(body.commit(100)), Err(Unfit::Contradiction));
}

#[test]
fn one_change_is_left_as_it_is() {
    assert_left(table().insert(OID, "1 a -"), &["insert[0, 1, 2] 1 a \\N;"]);
    assert_left(
        table().update(OID, None, "1 a b"),
        &["update[1, 2] {1} {\"a\"} {\"b\"}"],
    );
    assert_left(table().delete(OID, "1 - -"), &["delete {1}"]);
    assert_left(table(), &[]);
}

#[test]
fn two_updates_are_one_with_the_newest_values() {
    assert_left(
        table()
            .update(OID, None, "1 a b")
            .update(OID, None, "2 x y")
            .update(OID, None, "1 c -"),
        &["update[1, 2] {1,2} {\"c\",\"x\"} {NULL,\"y\"}"],
    );
}

#[test]
fn a_value_that_the_newest_update_left_out_is_carried_from_an_earlier_one() {
    assert_left(
        table()
            .update(OID, None, "1 a big")
            .update(OID, None, "1 b ?")
            .update(OID, None, "1 c ?"),
        &["update[1, 2] {1} {\"c\"} {\"big\"}"],
    );
    assert_left(
        table()
            .update(OID, None, "1 first ?")
            .update(OID, None, "1 ? big")
            .update(OID, None, "1 ? ?"),
        &["update[1, 2] {1} {\"first\"} {\"big\"}"],
    );
}

#[test]
fn a_carried_value_gives_way_to_a_newer_one() {
    assert_left(
        table()
            .update(OID, None, "1 a old")
            .update(OID, None, "1 b ?")
            .update(OID, None, "1 c new")
            .update(OID, None, "1 d ?"),
        &["update[1, 2] {1} {\"d\"} {\"new\"}"],
    );
    assert_left(
        table()
            .update(OID, None, "1 a old")
            .update(OID, None, "1 b ?")
            .update(OID, None, "1 c -"),
        &["update[1, 2] {1} {\"c\"} {NULL}"],
    );
}

#[test]
fn a_value_that_no_update_holds_is_not_written() {
    assert_left(
        table()
            .update(OID, None, "1 a ?")
            .update(OID, None, "1 b ?"),
        &["update[1] {1} {\"b\"}"],
    );
}

#[test]
fn updates_are_parted_by_the_columns_that_they_leave_out() {
    assert_left(
        table()
            .update(OID, None, "1 a ?")
            .update(OID, None, "2 b c")
            .update(OID, None, "3 d ?"),
        &[
            "update[1] {1,3} {\"a\",\"d\"}",
            "update[1, 2] {2} {\"b\"} {\"c\"}",
        ],
    );
}

#[test]
fn an_update_that_has_nothing_to_set_is_no_group() {
    assert_left(table().update(OID, None, "1 ? ?"), &[]);
    let body = Body::default().begin(100).relation(OID, "t", &[]);
    assert_left(body.update(OID, None, "1"), &[]);
}

#[test]
fn an_insert_that_is_updated_is_an_insert_of_the_newest_values() {
    assert_left(
        table()
            .insert(OID, "1 a big")
            .update(OID, None, "1 b ?")
            .update(OID, None, "1 - ?"),
        &["insert[0, 1, 2] 1 \\N big;"],
    );
}

#[test]
fn an_insert_that_is_deleted_is_a_delete_that_finds_none() {
    assert_left(
        table()
            .insert(OID, "1 a b")
            .update(OID, None, "1 c d")
            .delete(OID, "1 - -"),
        &["delete none {1}"],
    );
}

#[test]
fn an_update_that_is_deleted_is_a_delete() {
    assert_left(
        table().update(OID, None, "1 a b").delete(OID, "1 - -"),
        &["delete {1}"],
    );
}

#[test]
fn a_delete_that_is_inserted_again_is_both() {
    assert_left(
        table().delete(OID, "1 - -").insert(OID, "1 a b"),
        &["delete {1}", "insert[0, 1, 2] 1 a b;"],
    );
}

#[test]
fn a_row_that_comes_and_goes_again_and_again_is_deleted_once() {
    assert_left(
        table()
            .delete(OID, "1 - -")
            .insert(OID, "1 a b")
            .delete(OID, "1 - -")
            .insert(OID, "1 c d")
            .delete(OID, "1 - -"),
        &["delete {1}"],
    );
    assert_left(
        table()
            .insert(OID, "1 a b")
            .delete(OID, "1 - -")
            .insert(OID, "1 c d")
            .delete(OID, "1 - -")
            .insert(OID, "1 e f"),
        &["delete none {1}", "insert[0, 1, 2] 1 e f;"],
    );
}

#[test]
fn nothing_of_a_deleted_row_is_carried_into_the_one_that_follows() {
    assert_left(
        table()
            .update(OID, None, "1 a big")
            .delete(OID, "1 - -")
            .insert(OID, "1 b small")
            .update(OID, None, "1 c ?"),
        &["delete {1}", "insert[0, 1, 2] 1 c small;"],
    );
}

#[test]
fn deletes_and_updates_are_sorted_by_key_and_inserts_keep_their_order() {
    assert_left(
        table()
            .delete(OID, "10 - -")
            .delete(OID, "9 - -")
            .update(OID, None, "30 a a")
            .update(OID, None, "4 b b")
            .insert(OID, "20 c c")
            .insert(OID, "5 d d"),
        &[
            "delete {9,10}",
            "update[1, 2] {4,30} {\"b\",\"a\"} {\"b\",\"a\"}",
            "insert[0, 1, 2] 20 c c;5 d d;",
        ],
    );
}

// --- keys that change

#[test]
fn a_changed_key_moves_the_row_from_where_the_destination_has_it() {
    assert_left(
        table().update(OID, Some(("K", "1 - -")), "2 a b"),
        &["update[0, 1, 2] {1} {2} {\"a\"} {\"b\"}"],
    );
    assert_left(
        table()
            .update(OID, None, "1 a big")
            .update(OID, Some(("K", "1 - -")), "2 b ?"),
        &["update[0, 1, 2] {1} {2} {\"b\"} {\"big\"}"],
    );
}

#[test]
fn a_whole_old_row_with_the_same_key_moves_nothing() {
    assert_left(
        table().update(OID, Some(("O", "1 x y")), "1 a b"),
        &["update[1, 2] {1} {\"a\"} {\"b\"}"],
    );
}

#[test]
fn a_chain_of_moves_is_one_move_and_nothing_may_stand_on_its_way() {
    assert_left(
        table().update(OID, Some(("K", "1 - -")), "2 a b").update(
            OID,
            Some(("K", "2 - -")),
            "3 c ?",
        ),
        &["delete none {2}", "update[0, 1, 2] {1} {3} {\"c\"} {\"b\"}"],
    );
}

#[test]
fn a_row_that_moves_there_and_back_is_updated_in_its_place() {
    assert_left(
        table().update(OID, Some(("K", "1 - -")), "2 a b").update(
            OID,
            Some(("K", "2 - -")),
            "1 c d",
        ),
        &["delete none {2}", "update[1, 2] {1} {\"c\"} {\"d\"}"],
    );
}

#[test]
fn rows_that_follow_each_other_move_at_once() {
    assert_left(
        table().update(OID, Some(("K", "2 - -")), "3 a a").update(
            OID,
            Some(("K", "1 - -")),
            "2 b b",
        ),
        &["update[0, 1, 2] {1,2} {2,3} {\"b\",\"a\"} {\"b\",\"a\"}"],
    );
}

#[test]
fn rows_that_swap_their_keys_move_at_once() {
    assert_left(
        table()
            .update(OID, Some(("K", "1 - -")), "9 a a")
            .update(OID, Some(("K", "2 - -")), "1 b b")
            .update(OID, Some(("K", "9 - -")), "2 a a"),
        &[
            "delete none {9}",
            "update[0, 1, 2] {1,2} {2,1} {\"a\",\"b\"} {\"a\",\"b\"}",
        ],
    );
}

#[test]
fn a_moved_insert_is_an_insert_and_nothing_may_stand_where_it_was_first() {
    assert_left(
        table()
            .insert(OID, "1 a big")
            .update(OID, Some(("K", "1 - -")), "2 b ?"),
        &["delete none {1}", "insert[0, 1, 2] 2 b big;"],
    );
}

#[test]
fn a_moved_row_that_is_deleted_is_deleted_where_the_destination_has_it() {
    assert_left(
        table()
            .update(OID, Some(("K", "1 - -")), "2 a b")
            .delete(OID, "2 - -"),
        &["delete {1}", "delete none {2}"],
    );
    assert_left(
        table()
            .insert(OID, "1 a b")
            .update(OID, Some(("K", "1 - -")), "2 a b")
            .delete(OID, "2 - -"),
        &["delete none {1,2}"],
    );
}

#[test]
fn a_key_that_a_row_left_is_free_for_others() {
    assert_left(
        table()
            .update(OID, Some(("K", "1 - -")), "2 a a")
            .insert(OID, "1 b b"),
        &[
            "update[0, 1, 2] {1} {2} {\"a\"} {\"a\"}",
            "insert[0, 1, 2] 1 b b;",
        ],
    );
    assert_left(
        table()
            .delete(OID, "2 - -")
            .update(OID, Some(("K", "1 - -")), "2 a a"),
        &["delete {2}", "update[0, 1, 2] {1} {2} {\"a\"} {\"a\"}"],
    );
}

#[test]
fn a_key_that_the_destination_had_is_not_emptied_for_what_came_and_went_there() {
    // The row of key 1 is at the destination when the deletes run, and moves away only then.
    assert_left(
        table()
            .update(OID, Some(("K", "1 - -")), "5 a a")
            .insert(OID, "1 b b")
            .delete(OID, "1 - -"),
        &["update[0, 1, 2] {1} {5} {\"a\"} {\"a\"}"],
    );
    assert_left(
        table()
            .update(OID, Some(("K", "1 - -")), "5 a a")
            .insert(OID, "1 b b")
            .update(OID, Some(("K", "1 - -")), "6 b b")
            .update(OID, Some(("K", "5 - -")), "1 ? ?"),
        &[
            "delete none {5}",
            "update[1, 2] {1} {\"a\"} {\"a\"}",
            "insert[0, 1, 2] 6 b b;",
        ],
    );
}

#[test]
fn deletes_that_must_find_rows_and_those_that_must_not_are_counted_apart() {
    assert_left(
        table()
            .insert(OID, "1 a b")
            .delete(OID, "1 - -")
            .delete(OID, "2 - -"),
        &["delete {2}", "delete none {1}"],
    );
}

// --- keys of several columns

#[test]
fn a_key_of_two_columns_is_found_by_both() {
    let body = table()
        .update(OID, None, "1 a x")
        .update(OID, None, "1 b y")
        .update(OID, Some(("K", "1 b -")), "2 b ?")
        .delete(OID, "3 c -")
        .commit(100);
    assert_eq!(
        left_by(body, by_two).unwrap(),
        [
            "delete {3} {\"c\"}",
            "update[2] {1} {\"a\"} {\"x\"}",
            "update[0, 1, 2] {1} {\"b\"} {2} {\"b\"} {\"y\"}",
        ]
    );
}

#[test]
fn a_key_cell_that_was_left_out_is_that_of_the_old_key() {
    let body = table()
        .update(OID, Some(("K", "1 big -")), "2 ? x")
        .update(OID, Some(("K", "2 big -")), "2 ? y")
        .commit(100);
    assert_eq!(
        left_by(body, by_two).unwrap(),
        ["update[0, 2] {1} {\"big\"} {2} {\"y\"}"]
    );
}

#[test]
fn a_key_cell_that_was_left_out_is_carried_into_an_insert() {
    let body = table()
        .insert(OID, "1 big x")
        .update(OID, Some(("K", "1 big -")), "2 ? y")
        .commit(100);
    assert_eq!(
        left_by(body, by_two).unwrap(),
        ["delete none {1} {\"big\"}", "insert[0, 1, 2] 2 big y;"]
    );
}

#[test]
fn a_key_that_is_not_in_the_change_contradicts() {
    let contradicts = |body: Body| {
        let found = left_by(body.commit(100), by_two);
        assert_eq!(found, Err(Unfit::Contradiction));
    };
    contradicts(table().update(OID, None, "1 ? x"));
    contradicts(table().insert(OID, "1 - x"));
    contradicts(table().delete(OID, "1 - -"));
    contradicts(table().update(OID, Some(("K", "1 - -")), "1 a x"));
    contradicts(table().insert(OID, "1 #binary x"));
}

// --- changes that cannot be

#[test]
fn a_row_twice_contradicts() {
    assert_contradicts(table().insert(OID, "1 a b").insert(OID, "1 c d"));
    assert_contradicts(table().update(OID, None, "1 a b").insert(OID, "1 c d"));
    assert_contradicts(
        table()
            .insert(OID, "1 a b")
            .update(OID, Some(("K", "2 - -")), "1 c d"),
    );
    assert_contradicts(table().update(OID, None, "1 a b").update(
        OID,
        Some(("K", "2 - -")),
        "1 c d",
    ));
}

#[test]
fn a_row_that_is_gone_contradicts() {
    let gone = table().delete(OID, "1 - -");
    assert_contradicts(gone.clone().delete(OID, "1 - -"));
    assert_contradicts(gone.clone().update(OID, None, "1 a b"));
    assert_contradicts(gone.update(OID, Some(("K", "1 - -")), "2 a b"));
    let moved = table().update(OID, Some(("K", "1 - -")), "2 a b");
    assert_contradicts(moved.clone().update(OID, None, "1 a b"));
    assert_contradicts(moved.delete(OID, "1 - -"));
}

// --- values

#[test]
fn values_are_written_so_that_the_server_reads_them_back() {
    let odd = "a\"b\\c,{}\n";
    assert_left(
        table().insert(OID, &format!("1 {odd} NULL")),
        &["insert[0, 1, 2] 1 a\"b\\\\c,{}\\n NULL;"],
    );
    assert_left(
        table().update(OID, None, "1 a\"b\\c,{} NULL"),
        &["update[1, 2] {1} {\"a\\\"b\\\\c,{}\"} {\"NULL\"}"],
    );
    assert_left(table().delete(OID, "NULL - -"), &["delete {\"NULL\"}"]);
    assert_left(table().delete(OID, " - -"), &["delete {\"\"}"]);
}

#[test]
fn elements_are_parted_as_their_type_wants_it() {
    let by_semicolon = |relation: &Relation| Route {
        delimiters: vec![b',', b';', b','],
        ..route(relation)
    };
    let body = table()
        .update(OID, None, "1 (1,1) 3")
        .update(OID, None, "2 (2,2) 4")
        .commit(100);
    assert_eq!(
        left_by(body, by_semicolon).unwrap(),
        ["update[1, 2] {1,2} {\"(1,1)\";\"(2,2)\"} {3,4}"]
    );
}

#[test]
fn columns_that_are_not_written_are_left_out() {
    let without = |relation: &Relation| Route {
        written: vec![0, 2],
        ..route(relation)
    };
    let body = table()
        .insert(OID, "1 generated a")
        .update(OID, None, "2 generated b")
        .commit(100);
    assert_eq!(
        left_by(body, without).unwrap(),
        ["update[2] {2} {\"b\"}", "insert[0, 2] 1 a;"]
    );
}
