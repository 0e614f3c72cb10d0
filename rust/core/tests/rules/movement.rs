//! Filters and transformations: which changes pass, and as what.

use pgflo_core::apply::Op;
use pgflo_core::rules::{Action, Operator, Spec};

use crate::bodies::{NO_POSITION, OID, at};
use crate::told::{filter, made, mask, only, rewritten, rule, spec, table};

fn eu() -> Spec {
    spec(vec![filter("v", Operator::Eq, "eu")], vec![])
}

#[test]
fn an_insert_passes_or_leaves_a_gap() {
    let body = table(&["v"])
        .insert(OID, "1 us")
        .insert(OID, "2 eu")
        .insert(OID, "3 -");
    assert_eq!(made(eu(), body), ["R+0 t(id,v)", "~1", "I+0 (2 eu)", "~1"]);
}

#[test]
fn without_the_old_row_an_update_puts_its_row_or_deletes_it_wherever_it_was() {
    let body = table(&["v"])
        .update(OID, None, "1 eu")
        .update(OID, None, "1 us")
        .update(OID, Some(("K", "1 -")), "2 eu")
        .update(OID, Some(("K", "1 -")), "2 us");
    let expected = [
        "R+0 t(id,v)",
        "?m",
        "U+0 (1 eu)",
        "?m",
        "D+0 K(1 -)",
        "?m",
        "U+0 K(1 -) (2 eu)",
        "?m",
        "D+0 K(1 -)",
    ];
    assert_eq!(made(eu(), body), expected);
}

#[test]
fn with_the_old_row_an_update_that_moves_is_exactly_an_insert_or_a_delete() {
    let body = table(&["v"])
        .update(OID, Some(("O", "1 eu")), "1 eu")
        .update(OID, Some(("O", "1 us")), "1 eu")
        .update(OID, Some(("O", "1 eu")), "1 us")
        .update(OID, Some(("O", "1 us")), "1 us");
    let expected = [
        "R+0 t(id,v)",
        "U+0 O(1 eu) (1 eu)",
        "I+0 (1 eu)",
        "D+0 O(1 eu)",
        "~1",
    ];
    assert_eq!(made(eu(), body), expected);
}

#[test]
fn a_row_that_enters_brings_along_what_the_update_did_not_send() {
    let body = table(&["v", "w"]).update(OID, Some(("O", "1 us long")), "1 eu ?");
    assert_eq!(made(eu(), body), ["R+0 t(id,v,w)", "I+0 (1 eu long)"]);
}

#[test]
fn a_filter_whose_value_was_not_sent_keeps_the_row_where_it_is() {
    let body = table(&["v", "w"]).update(OID, None, "1 ? b");
    assert_eq!(made(eu(), body), ["R+0 t(id,v,w)", "?s", "U+0 (1 ? b)"]);
    let both = spec(
        vec![
            filter("v", Operator::Eq, "eu"),
            filter("w", Operator::Eq, "b"),
        ],
        vec![],
    );
    // It may have entered by `w`; then what `v` is decides, which nobody knows.
    let body = table(&["v", "w"])
        .update(OID, None, "1 ? b")
        .update(OID, None, "1 ? c");
    assert_eq!(
        made(both, body),
        ["R+0 t(id,v,w)", "?u", "U+0 (1 ? b)", "?m", "D+0 K(1 - -)"]
    );
}

#[test]
fn a_filter_on_the_key_is_always_decided() {
    let body = || {
        table(&["v"])
            .update(OID, None, "1 a")
            .update(OID, None, "2 a")
            .update(OID, Some(("K", "2 -")), "1 a")
            .update(OID, Some(("K", "1 -")), "2 a")
            .delete(OID, "1 -")
            .delete(OID, "2 -")
    };
    let one = spec(vec![filter("id", Operator::Eq, "1")], vec![]);
    let expected = [
        "R+0 t(id,v)",
        "U+0 (1 a)",
        "~1",
        "I+0 (1 a)",
        "D+0 K(1 -)",
        "D+0 K(1 -)",
        "~1",
    ];
    assert_eq!(made(one, body()), expected);
}

#[test]
fn a_delete_that_does_not_carry_the_column_passes_unless_the_rule_says_otherwise() {
    let body = || table(&["v"]).delete(OID, "1 -");
    assert_eq!(made(eu(), body()), ["R+0 t(id,v)", "?m", "D+0 K(1 -)"]);
    let mut dropping = eu();
    dropping.rules[0].action = Action::Filter {
        operator: Operator::Eq,
        value: Some("eu".to_owned()),
        allow_empty_deletes: Some(false),
    };
    assert_eq!(made(dropping, body()), ["R+0 t(id,v)", "~1"]);
}

#[test]
fn operations_test_the_operation_at_the_source() {
    let inserts = spec(
        vec![only(filter("v", Operator::Eq, "eu"), &[Op::Insert])],
        vec![],
    );
    let body = table(&["v"])
        .insert(OID, "1 us")
        .insert(OID, "2 eu")
        .update(OID, None, "1 us")
        .delete(OID, "1 -");
    let expected = [
        "R+0 t(id,v)",
        "~1",
        "?m",
        "I+0 (2 eu)",
        "?m",
        "U+0 (1 us)",
        "?m",
        "D+0 K(1 -)",
    ];
    assert_eq!(made(inserts, body), expected);
}

#[test]
fn texts_are_masked_on_both_sides_and_nulls_and_unsent_values_are_let_alone() {
    let masked = spec(vec![mask("v")], vec![]);
    let body = table(&["v", "w"])
        .insert(OID, "1 alice x")
        .update(OID, None, "1 - x")
        .update(OID, Some(("O", "1 alice x")), "1 ? x");
    let expected = [
        "R+0 t(id,v,w)",
        "I+0 (1 a***e x)",
        "U+0 (1 - x)",
        "U+0 O(1 a***e x) (1 ? x)",
    ];
    assert_eq!(made(masked, body), expected);
}

#[test]
fn filters_see_what_the_source_has_and_excluded_columns_are_gone() {
    let rules = vec![
        mask("v"),
        filter("v", Operator::Eq, "alice"),
        rule("w", Action::Exclude),
    ];
    let body = table(&["v", "w"])
        .insert(OID, "1 alice x")
        .insert(OID, "2 a***e x");
    assert_eq!(
        made(spec(rules, vec![]), body),
        ["R+0 t(id,v)", "I+0 (1 a***e)", "~1"]
    );
}

#[test]
fn a_body_without_a_table_that_rules_concern_is_not_touched() {
    let body = table(&["v"])
        .relation(OID + 1, "u", &["v"])
        .insert(OID + 1, "1 us");
    let other = spec(vec![], vec![]);
    let body = body.commit(100);
    let unchanged = rewritten(other, &body, NO_POSITION).unwrap();
    assert_eq!((unchanged.body, unchanged.changes), (None, 1));
    let made = made(
        eu(),
        table(&["v"])
            .relation(OID + 1, "u", &["v"])
            .insert(OID + 1, "1 us"),
    );
    assert_eq!(made, ["R+0 t(id,v)", "R+1 u(id,v)", "I+1 (1 us)"]);
}

#[test]
fn what_was_applied_before_is_a_gap_and_is_not_counted() {
    let body = table(&["v"])
        .insert(OID, "1 us")
        .insert(OID, "2 us")
        .insert(OID, "3 eu")
        .commit(100);
    let rewritten = rewritten(eu(), &body, at(100, 1)).unwrap();
    let told: Vec<_> = rewritten.counts.told().collect();
    assert_eq!((rewritten.changes, told), (1, vec![(0, 1, 0)]));
}

#[test]
fn gaps_of_a_slice_and_messages_that_hold_an_ordinal_stay_in_their_place() {
    let body = table(&["v"])
        .note("~3")
        .insert(OID, "1 us")
        .logical(true)
        .insert(OID, "2 us")
        .insert(OID, "3 us")
        .note("~1")
        .insert(OID, "4 eu");
    let made = made(eu(), body);
    let expected = ["R+0 t(id,v)", "~3", "~1", "~2", "~1", "I+0 (4 eu)"];
    let words: Vec<&str> = made
        .iter()
        .map(String::as_str)
        .filter(|word| !word.starts_with("Logical"))
        .collect();
    assert_eq!((words.as_slice(), made.len()), (&expected[..], 7));
}
