//! Any body and any COPY rows through one rule: refused, or rewritten into what can be walked again.
//!
//! Input: u8 action, u8 operator, u8 what the column's type is taken for, u8 length of the constant; then
//! constant and body.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use pgflo_core::apply::{Column, Net, Op, Relation};
use pgflo_core::rules::{
    Action, CopyRewriter, Operations, Operator, Rewriter, Rule, RuleSet, Spec, TypeHint,
};
use pgflo_core::{Lsn, Position};

const LEAD_BYTES: usize = 4;
const TYPES: [u32; 12] = [16, 20, 23, 25, 700, 701, 1042, 1082, 1083, 1184, 1700, 2950];

fn operator(number: u8) -> Operator {
    match number % 7 {
        0 => Operator::Eq,
        1 => Operator::Ne,
        2 => Operator::Lt,
        3 => Operator::Lte,
        4 => Operator::Gt,
        5 => Operator::Gte,
        _ => Operator::Contains,
    }
}

fn action(kind: u8, operator_no: u8, constant: &str) -> Action {
    match kind % 4 {
        0 => Action::Filter {
            operator: operator(operator_no),
            value: Some(constant.to_owned()),
            allow_empty_deletes: Some(kind > 127),
        },
        1 => Action::Mask {
            mask_char: constant.chars().next().unwrap_or('*'),
            allow_key: true,
        },
        2 => Action::Regex {
            pattern: constant.to_owned(),
            replace: "<$0>".to_owned(),
            allow_key: true,
        },
        _ => Action::Exclude,
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((lead, rest)) = input.split_first_chunk::<LEAD_BYTES>() else {
        return;
    };
    let [kind, operator_no, of, length] = *lead;
    let Some((constant, body)) = rest.split_at_checked(usize::from(length)) else {
        return;
    };
    let constant = String::from_utf8_lossy(constant);
    let hint = TypeHint {
        base_oid: TYPES[usize::from(of) % TYPES.len()],
        is_enum: false,
        is_string: true,
    };
    let rule = Rule {
        table: None,
        column: "v".to_owned(),
        operations: Operations::of(&[Op::Insert, Op::Update]),
        action: action(kind, operator_no, &constant),
        label: String::new(),
    };
    let mut set = RuleSet::new(Spec {
        rules: vec![rule],
        types: [(25, hint)].into(),
        ..Spec::default()
    });
    let start = Position::new(Lsn(1), 0);
    if let Ok(rewritten) = Rewriter::new(set.clone()).rewrite(body, start, start) {
        let mut net = Net::<Vec<u8>>::default();
        net.load(vec![(rewritten.body.unwrap_or_default(), start)], start);
        net.run().expect("what was rewritten can be walked");
    }
    let columns = ["id", "v"].map(|name| Column {
        name: name.to_owned(),
        type_oid: 25,
        typmod: -1,
        key: false,
    });
    let relation = Relation {
        oid: 1,
        version: 1,
        schema: "public".to_owned(),
        name: "t".to_owned(),
        replica_identity: b'd',
        columns: columns.to_vec(),
    };
    if let Ok(program) = set.compile(&relation) {
        let mut rewriter = CopyRewriter::new(Arc::new(program), 1);
        if rewriter.feed(body).is_ok() {
            let _ = rewriter.finish();
        }
    }
});
