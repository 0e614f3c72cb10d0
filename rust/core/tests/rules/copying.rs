//! COPY rows through programs, cut anywhere.

use std::sync::Arc;

use pgflo_core::apply::{Column, Relation};
use pgflo_core::rules::{Action, CopyRewriter, Operator, Program, RuleSet, Spec};

use crate::bodies::OID;
use crate::told::{filter, mask, route, rule, spec};

fn program(spec: Spec) -> Arc<Program> {
    let columns = ["id", "v", "w"]
        .iter()
        .enumerate()
        .map(|(number, name)| Column {
            name: (*name).to_owned(),
            type_oid: 25,
            typmod: -1,
            key: number == 0,
        });
    let relation = Relation {
        oid: OID,
        version: 1,
        schema: "public".to_owned(),
        name: "t".to_owned(),
        replica_identity: b'd',
        columns: columns.collect(),
    };
    Arc::new(RuleSet::new(spec).compile(&relation).unwrap())
}

/// What each route gets, when the rows come in these parts.
fn copied(program: &Arc<Program>, parts: &[&[u8]]) -> Vec<(String, u64)> {
    let mut rewriter = CopyRewriter::new(Arc::clone(program), 8);
    let mut all = vec![(Vec::new(), 0); program.routes().len()];
    for part in parts {
        for (piece, (data, rows)) in rewriter.feed(part).unwrap().into_iter().zip(&mut all) {
            data.extend(piece.data);
            *rows += piece.rows;
        }
    }
    rewriter.finish().unwrap();
    let text = |data| String::from_utf8(data).unwrap();
    all.into_iter()
        .map(|(data, rows)| (text(data), rows))
        .collect()
}

const ROWS: &[u8] = b"1\talice\tx\n2\t\\N\tx\n3\ta\\tb\tx\\\\y\n4\tbob\t\\N\n";

#[test]
fn rows_are_filtered_masked_and_cut_wherever_parts_end() {
    let rules = vec![
        mask("v"),
        filter("v", Operator::Ne, "bob"),
        rule("id", Action::Exclude),
    ];
    let mut free = spec(rules, vec![]);
    free.rules[2].column = "w".to_owned();
    let program = program(free);
    let expected = vec![("1\ta***e\n3\ta*b\n".to_owned(), 2)];
    assert_eq!(copied(&program, &[ROWS]), expected);
    for cut in 0..=ROWS.len() {
        let (first, second) = ROWS.split_at(cut);
        assert_eq!(copied(&program, &[first, b"", second]), expected);
    }
}

#[test]
fn every_route_gets_its_rows_and_what_no_rule_touches_stays_as_it_came() {
    let routes = vec![
        route("a", &[("v", "x")], None),
        route("b", &[], Some(("v", "a\tb"))),
    ];
    let program = program(spec(vec![], routes));
    let all = String::from_utf8(ROWS.to_vec()).unwrap();
    let expected = vec![(all, 4), ("3\ta\\tb\tx\\\\y\n".to_owned(), 1)];
    assert_eq!(copied(&program, &[ROWS]), expected);
    assert!(!program.copies_as_is());
}

#[test]
fn a_program_that_only_renames_lets_rows_pass_unparsed() {
    assert!(program(spec(vec![], vec![route("a", &[("v", "x")], None)])).copies_as_is());
    assert!(!program(spec(vec![mask("v")], vec![])).copies_as_is());
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let program = program(spec(vec![filter("v", Operator::Eq, "a")], vec![]));
    let mut rewriter = CopyRewriter::new(Arc::clone(&program), 1);
    rewriter.feed(b"1\t2\n").unwrap_err();
    let mut rewriter = CopyRewriter::new(program, 1);
    rewriter.feed(b"1\t2").unwrap();
    rewriter.finish().unwrap_err();
}
