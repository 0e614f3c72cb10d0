//! Any rules over any bytes: refused, or rewritten into a body that walks to the same place.

use std::sync::Arc;

use pgflo_core::apply::{Column, Net, NetStep, Op, Relation, Route};
use pgflo_core::rules::{
    Action, Condition, CopyRewriter, Operations, Operator, Rewriter, Rule, RuleSet, Spec, TypeHint,
};
use proptest::prelude::*;

use crate::bodies::{Body, NO_POSITION, OID, at};
use crate::told::{name, route, spec, table};

fn operator() -> impl Strategy<Value = Operator> {
    prop::sample::select(vec![
        Operator::Eq,
        Operator::Ne,
        Operator::Lt,
        Operator::Lte,
        Operator::Gt,
        Operator::Gte,
        Operator::Contains,
    ])
}

fn operations() -> impl Strategy<Value = Operations> {
    let all = vec![Op::Insert, Op::Update, Op::Delete];
    prop::sample::subsequence(all, 1..=3).prop_map(|ops| Operations::of(&ops))
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (
            operator(),
            prop::option::of("[a-e0-9.:-]{0,6}"),
            any::<Option<bool>>()
        )
            .prop_map(|(operator, value, allow_empty_deletes)| Action::Filter {
                operator,
                value,
                allow_empty_deletes
            }),
        any::<char>().prop_map(|mask_char| Action::Mask {
            mask_char,
            allow_key: true
        }),
        ("[a-c.*+?()|^$\\\\]{0,6}", "[a-c$1{}]{0,4}").prop_map(|(pattern, replace)| {
            Action::Regex {
                pattern,
                replace,
                allow_key: true,
            }
        }),
        Just(Action::Exclude),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let columns = prop::sample::select(vec!["id", "v", "w", "none"]);
    (columns, operations(), action(), any::<bool>()).prop_map(
        |(column, operations, action, everywhere)| Rule {
            table: (!everywhere).then(|| name("t")),
            column: column.to_owned(),
            operations,
            action,
            label: "rule".to_owned(),
        },
    )
}

/// Rules, routes, and what the types of the columns are taken for.
fn specs() -> impl Strategy<Value = Spec> {
    let base = prop::sample::select(vec![
        16_u32, 23, 25, 701, 1042, 1082, 1114, 1184, 1700, 2950,
    ]);
    let whens = prop::collection::vec((operator(), "[a-e0-9]{0,2}"), 0..3);
    (prop::collection::vec(rule(), 0..4), whens, base).prop_map(|(rules, whens, base_oid)| {
        let routes = whens.iter().enumerate().map(|(number, (operator, value))| {
            let mut route = route(&format!("r{number}"), &[("v", "x")], None);
            route.when = vec![Condition {
                column: "w".to_owned(),
                operator: *operator,
                value: Some(value.clone()),
                label: "when".to_owned(),
            }];
            route
        });
        let mut spec = spec(rules, routes.collect());
        let hint = TypeHint {
            base_oid,
            is_enum: false,
            is_string: true,
        };
        spec.types = [(25, hint)].into();
        spec
    })
}

fn body() -> Body {
    table(&["v", "w"])
        .insert(OID, "1 a 5")
        .update(OID, None, "1 ? b")
        .update(OID, Some(("K", "1 - -")), "2 #x 2024-01-01")
        .update(OID, Some(("O", "2 b -")), "3 c ?")
        .relation(OID + 1, "u", &["v"])
        .insert(OID + 1, "1 e")
        .delete(OID, "3 - -")
        .logical(true)
        .commit(100)
}

/// Nothing is collected, everything is walked over.
fn slow(relation: &Relation) -> Route {
    Route {
        target: relation.oid,
        key: None,
        written: Vec::new(),
        delimiters: vec![0; relation.columns.len()],
        updates: false,
        slow: true,
    }
}

/// Whatever becomes of the body: it can be read again, and holds as many changes as it says.
fn check(spec: Spec, body: &[u8]) {
    let mut rewriter = Rewriter::new(RuleSet::new(spec));
    for after in [NO_POSITION, at(100, 3)] {
        let Ok(rewritten) = rewriter.rewrite(body, NO_POSITION, after) else {
            continue;
        };
        let found = rewritten.body.unwrap_or_else(|| body.to_vec());
        let mut net = Net::<Vec<u8>>::default();
        net.load(vec![(found, NO_POSITION)], after);
        while let Ok(step) = net.run() {
            match step {
                NetStep::Relation(relation, _) => {
                    net.answer(relation.oid, slow(&relation)).unwrap();
                }
                NetStep::Done => {
                    assert_eq!(net.changes(), rewritten.changes);
                    break;
                }
                NetStep::Unfit(_) => break,
            }
        }
    }
}

proptest! {
    #[test]
    fn any_rules_rewrite_or_refuse(spec in specs()) {
        check(spec, &body().0);
    }

    #[test]
    fn damaged_bodies_are_rewritten_or_refused(
        spec in specs(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut damaged = body().0;
        for (place, byte) in damage {
            let place = place.index(damaged.len());
            damaged[place] = byte;
        }
        check(spec, &damaged);
    }

    #[test]
    fn any_bytes_are_copy_rows_or_refused(
        spec in specs(),
        bytes in prop::collection::vec(prop::sample::select(b"ab1\t\n\\N\xC3".to_vec()), 0..60),
        cut in any::<prop::sample::Index>(),
    ) {
        let columns = ["id", "v", "w"].map(|name| Column {
            name: name.to_owned(),
            type_oid: 25,
            typmod: -1,
            key: name == "id",
        });
        let relation = Relation {
            oid: OID,
            version: 1,
            schema: "public".to_owned(),
            name: "t".to_owned(),
            replica_identity: b'd',
            columns: columns.to_vec(),
        };
        if let Ok(program) = RuleSet::new(spec).compile(&relation) {
            let mut rewriter = CopyRewriter::new(Arc::new(program), 8);
            let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
            let _ = rewriter.feed(first).and_then(|_| rewriter.feed(second));
            let _ = rewriter.finish();
        }
    }
}
