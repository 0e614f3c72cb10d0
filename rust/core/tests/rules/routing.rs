//! Routes: other names, several destinations, several sources.

use pgflo_core::apply::Op;
use pgflo_core::rules::{Operations, Operator, Route};

use crate::bodies::{NO_POSITION, OID};
use crate::told::{filter, made, mask, name, rewritten, route, spec, table};

#[test]
fn a_renamed_table_keeps_its_cells_and_gets_its_names() {
    let renamed = spec(
        vec![],
        vec![route("customers", &[("id", "customer_id")], None)],
    );
    let body = table(&["v"]).insert(OID, "1 a").truncate(&[OID]);
    assert_eq!(
        made(renamed, body),
        ["R+0 customers(customer_id,v)", "I+0 (1 a)", "T +0"]
    );
}

#[test]
fn a_change_goes_to_each_destination_that_takes_it_under_one_position() {
    let split = || {
        spec(
            vec![],
            vec![
                route("t", &[], None),
                route("t_eu", &[], Some(("v", "eu"))),
                route("t_us", &[("v", "region")], Some(("v", "us"))),
            ],
        )
    };
    let body = table(&["v"])
        .insert(OID, "1 eu")
        .insert(OID, "2 us")
        .update(OID, Some(("O", "1 eu")), "1 us")
        .truncate(&[OID]);
    let expected = [
        "R+0 t(id,v)",
        "R-0 t_eu(id,v)",
        "R-1 t_us(id,region)",
        "I+0 (1 eu)",
        "=",
        "I-0 (1 eu)",
        "I+0 (2 us)",
        "=",
        "I-1 (2 us)",
        "U+0 O(1 eu) (1 us)",
        "=",
        "D-0 O(1 eu)",
        "=",
        "I-1 (1 us)",
        "T +0 -0 -1",
    ];
    assert_eq!(made(split(), body), expected);
    let body = table(&["v"]).insert(OID, "1 eu").commit(100);
    assert_eq!(rewritten(split(), &body, NO_POSITION).unwrap().changes, 2);
}

#[test]
fn filters_hold_for_every_route_and_a_row_is_counted_as_changed_once() {
    let rules = vec![filter("v", Operator::Ne, "x"), mask("v")];
    let routes = vec![route("a", &[], None), route("b", &[], None)];
    let body = table(&["v"])
        .insert(OID, "1 x")
        .insert(OID, "2 yes")
        .commit(100);
    let rewritten = rewritten(spec(rules, routes), &body, NO_POSITION).unwrap();
    let told: Vec<_> = rewritten.counts.told().collect();
    assert_eq!(told, [(0, 2, 0), (1, 0, 1)]);
}

#[test]
fn a_row_that_moves_to_another_route_is_counted_as_changed_there() {
    let routes = vec![
        route("t_eu", &[], Some(("v", "eu"))),
        route("t_us", &[], Some(("v", "us"))),
    ];
    let body = table(&["v"])
        .update(OID, Some(("O", "1 eu")), "1 us")
        .commit(100);
    let rewritten = rewritten(spec(vec![mask("v")], routes), &body, NO_POSITION).unwrap();
    let told: Vec<_> = rewritten.counts.told().collect();
    assert_eq!(told, [(0, 0, 1)]);
}

#[test]
fn operations_that_a_route_does_not_take_are_dropped() {
    let archive = || Route {
        operations: Operations::of(&[Op::Insert, Op::Update]),
        ..route("archive", &[], None)
    };
    let body = table(&["v"])
        .insert(OID, "1 a")
        .update(OID, None, "1 b")
        .delete(OID, "1 -")
        .truncate(&[OID]);
    let expected = [
        "R+0 archive(id,v)",
        "?m",
        "I+0 (1 a)",
        "?m",
        "U+0 (1 b)",
        "~2",
    ];
    assert_eq!(made(spec(vec![], vec![archive()]), body), expected);
}

#[test]
fn a_truncate_of_one_of_several_sources_is_refused_and_of_all_of_them_is_done() {
    let both = || {
        let from = |source: &str| Route {
            source: name(source),
            ..route("all", &[], None)
        };
        spec(vec![], vec![from("t"), from("u")])
    };
    let body = || table(&[]).relation(OID + 1, "u", &[]);
    let one = body().truncate(&[OID]).commit(100);
    let refused = rewritten(both(), &one, NO_POSITION)
        .unwrap_err()
        .to_string();
    assert_eq!(
        refused,
        "rules do not fit public.t at 0/64#1; routing: TRUNCATE would empty public.all, where other \
         tables' rows are too"
    );
    let all = body().truncate(&[OID, OID + 1]);
    assert_eq!(made(both(), all), ["R+0 all(id)", "R+1 all(id)", "T +0 +1"]);
}
