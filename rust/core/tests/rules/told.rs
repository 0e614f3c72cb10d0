//! Specifications in a few words, and rewritten bodies in words.

use pgflo_core::apply::Op;
use pgflo_core::pgoutput::{Cell, Message, Tuple};
use pgflo_core::rules::{
    Action, Condition, Name, Operations, Operator, Rewriter, Rewritten, Route, Rule, RuleSet, Spec,
    Table,
};
use pgflo_core::{CoreError, Position};

use crate::bodies::{Body, NO_POSITION, OID};

pub fn name(name: &str) -> Name {
    Name {
        schema: "public".to_owned(),
        name: name.to_owned(),
    }
}

pub fn rule(column: &str, action: Action) -> Rule {
    Rule {
        table: Some(name("t")),
        column: column.to_owned(),
        operations: Operations::ALL,
        label: format!("rule {column}"),
        action,
    }
}

pub fn filter(column: &str, operator: Operator, value: &str) -> Rule {
    rule(
        column,
        Action::Filter {
            operator,
            value: Some(value.to_owned()),
            allow_empty_deletes: None,
        },
    )
}

pub fn mask(column: &str) -> Rule {
    rule(
        column,
        Action::Mask {
            mask_char: '*',
            allow_key: false,
        },
    )
}

pub fn only(rule: Rule, operations: &[Op]) -> Rule {
    Rule {
        operations: Operations::of(operations),
        ..rule
    }
}

pub fn route(to: &str, columns: &[(&str, &str)], when: Option<(&str, &str)>) -> Route {
    let when = when.map(|(column, value)| Condition {
        column: column.to_owned(),
        operator: Operator::Eq,
        value: Some(value.to_owned()),
        label: format!("when {column}"),
    });
    Route {
        source: name("t"),
        destination: Some(name(to)),
        columns: columns
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect(),
        operations: Operations::ALL,
        when: when.into_iter().collect(),
        label: format!("route to {to}"),
    }
}

/// A specification for the table `t`, and a table `u` that nothing concerns.
pub fn spec(rules: Vec<Rule>, routes: Vec<Route>) -> Spec {
    let table = |oid, table| Table {
        oid,
        name: name(table),
        root: None,
    };
    Spec {
        rules,
        routes,
        tables: vec![table(OID, "t"), table(OID + 1, "u")],
        ..Spec::default()
    }
}

/// `t` with the key `id` and these further columns, inside a transaction.
pub fn table(further: &[&str]) -> Body {
    Body::default().begin(100).relation(OID, "t", further)
}

pub fn rewritten(spec: Spec, body: &Body, after: Position) -> Result<Rewritten, CoreError> {
    Rewriter::new(RuleSet::new(spec)).rewrite(&body.0, NO_POSITION, after)
}

/// What becomes of changes behind a table's definition, in words.
pub fn made(spec: Spec, body: Body) -> Vec<String> {
    let body = body.commit(100);
    let rewritten = rewritten(spec, &body, NO_POSITION).unwrap();
    let words = words(rewritten.body.as_ref().unwrap_or(&body.0));
    words
        .into_iter()
        .filter(|word| !matches!(word.as_str(), "begin" | "commit"))
        .collect()
}

/// `R+0 t(id,v)`, `I+0 (1 a)`, `~1`, …: OIDs by their distance from `OID`, or from the largest one.
pub fn words(body: &[u8]) -> Vec<String> {
    let mut rest = body;
    let mut words = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap();
        let (message, behind) = behind.split_at(length);
        words.push(word(message));
        rest = behind;
    }
    words
}

fn word(message: &[u8]) -> String {
    match message {
        [b'~', count @ ..] => format!("~{}", u32::from_be_bytes(count.try_into().unwrap())),
        [b'=' | b'?', ..] => String::from_utf8(message.to_vec()).unwrap(),
        _ => match Message::decode(message).unwrap() {
            Message::Begin(_) => "begin".to_owned(),
            Message::Commit(_) => "commit".to_owned(),
            Message::Relation(relation) => {
                let columns: Vec<&str> = relation.columns().map(|column| column.name).collect();
                format!(
                    "R{} {}({})",
                    oid(relation.oid),
                    relation.name,
                    columns.join(",")
                )
            }
            Message::Insert(insert) => {
                format!("I{} {}", oid(insert.relation_oid), cells(insert.new))
            }
            Message::Update(update) => {
                let old = update
                    .old
                    .map(|(kind, old)| format!("{}{} ", char::from(kind.tag()), cells(old)));
                let old = old.unwrap_or_default();
                format!("U{} {old}{}", oid(update.relation_oid), cells(update.new))
            }
            Message::Delete(delete) => {
                let tag = char::from(delete.old_kind.tag());
                format!("D{} {tag}{}", oid(delete.relation_oid), cells(delete.old))
            }
            Message::Truncate(truncate) => {
                let oids: Vec<String> = truncate.relation_oids().map(oid).collect();
                format!("T {}", oids.join(" "))
            }
            other => format!("{other:?}"),
        },
    }
}

fn oid(oid: u32) -> String {
    if oid > u32::MAX / 2 {
        format!("-{}", u32::MAX - oid)
    } else {
        format!("+{}", oid - OID)
    }
}

fn cells(tuple: Tuple<'_>) -> String {
    let cells: Vec<String> = tuple
        .cells()
        .map(|cell| match cell {
            Cell::Null => "-".to_owned(),
            Cell::Unchanged => "?".to_owned(),
            Cell::Text(text) | Cell::Binary(text) => String::from_utf8(text.to_vec()).unwrap(),
        })
        .collect();
    format!("({})", cells.join(" "))
}
