//! Rules that do not fit: all mistakes at once, and no row that passes meanwhile.

use pgflo_core::apply::{Column, Relation};
use pgflo_core::rules::{Action, Operator, Rule, RuleSet, Spec, Table};

use crate::bodies::{NO_POSITION, OID, at};
use crate::told::{filter, mask, name, rewritten, route, rule, spec, table};

fn relation(columns: &[(&str, u32)]) -> Relation {
    let columns = columns
        .iter()
        .enumerate()
        .map(|(number, (name, type_oid))| Column {
            name: (*name).to_owned(),
            type_oid: *type_oid,
            typmod: -1,
            key: number == 0,
        });
    Relation {
        oid: OID,
        version: 1,
        schema: "public".to_owned(),
        name: "t".to_owned(),
        replica_identity: b'd',
        columns: columns.collect(),
    }
}

fn mistakes(spec: Spec) -> Vec<String> {
    let relation = relation(&[("id", 23), ("email", 25), ("age", 23), ("data", 3802)]);
    let refused = RuleSet::new(spec).compile(&relation).unwrap_err();
    refused
        .into_iter()
        .map(|mistake| format!("{}: {}", mistake.label, mistake.text))
        .collect()
}

#[test]
fn every_mistake_is_told_and_none_hides_another() {
    let rules = vec![
        mask("emial"),
        mask("age"),
        mask("id"),
        filter("age", Operator::Gte, "18.5"),
        filter("age", Operator::Contains, "1"),
        filter("data", Operator::Eq, "{}"),
        rule(
            "age",
            Action::Filter {
                operator: Operator::Lt,
                value: None,
                allow_empty_deletes: None,
            },
        ),
        rule(
            "email",
            Action::Regex {
                pattern: "(".to_owned(),
                replace: String::new(),
                allow_key: false,
            },
        ),
        rule("id", Action::Exclude),
    ];
    let routes = vec![
        route(
            "a",
            &[("emial", "mail"), ("age", "email")],
            Some(("ag", "1")),
        ),
        route("a", &[], None),
    ];
    let expected = [
        "rule emial: public.t has no column \"emial\"; did you mean \"email\"?",
        "rule age: \"age\" is not of a text type",
        "rule id: \"id\" is not of a text type",
        "rule id: \"id\" belongs to the replica identity of public.t: rows would be told apart by what \
         the rule makes of it; say `allow_key: true` if that is wanted",
        "rule age: \"18.5\" is no value of the type of \"age\"",
        "rule age: contains needs a text column, which \"age\" is not",
        "rule data: \"data\" is of a type that filters do not compare",
        "rule age: lt with NULL is never true: only eq and ne take `value: null`",
        "rule email: the pattern cannot be used: unclosed group",
        "rule id: \"id\" belongs to the replica identity of public.t: without it no row is found",
        "when ag: public.t has no column \"ag\"; did you mean \"age\"?",
        "route to a: public.t has no column \"emial\"; did you mean \"email\"?",
        "route to a: two columns go to \"email\"",
        "route to a: public.t goes to public.a by another route already",
    ];
    assert_eq!(mistakes(spec(rules, routes)), expected);
}

#[test]
fn a_rule_for_every_table_skips_those_without_its_column_and_is_not_forgotten() {
    let everywhere = Rule {
        table: None,
        ..mask("email")
    };
    let mut set = RuleSet::new(spec(vec![everywhere], vec![]));
    let without = relation(&[("id", 23), ("mail", 25)]);
    assert!(set.compile(&without).unwrap().is_empty());
    let with = relation(&[("id", 23), ("email", 25)]);
    assert!(!set.compile(&with).unwrap().is_empty());
    // The column got another name: what was masked must not pass under it.
    set.compile(&without).unwrap_err();
}

#[test]
fn a_column_that_vanished_stops_with_the_first_change_behind_it() {
    let body = table(&["email"])
        .insert(OID, "1 alice")
        .relation(OID, "t", &["mail"])
        .insert(OID, "2 bobby")
        .commit(100);
    let masked = || spec(vec![mask("email")], vec![]);
    let refused = rewritten(masked(), &body, NO_POSITION)
        .unwrap_err()
        .to_string();
    assert_eq!(
        refused,
        "rules do not fit public.t at 0/64#2; rule email: public.t has no column \"email\"; did you \
         mean \"mail\"?"
    );
    assert_eq!(rewritten(masked(), &body, at(100, 2)).unwrap().changes, 0);
}

#[test]
fn a_table_that_the_group_does_not_know_may_be_a_partition_that_has_rules() {
    let mut parted = spec(vec![mask("email")], vec![]);
    parted.tables = vec![Table {
        oid: OID + 5,
        name: name("t_1"),
        root: Some(name("t")),
    }];
    let body = table(&[])
        .relation(OID + 6, "t_2", &["email"])
        .insert(OID + 6, "1 alice");
    let refused = rewritten(parted, &body.commit(100), NO_POSITION)
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("may be a partition of public.t"),
        "{refused}"
    );
}
