//! Epochs collected under simple routes, and their groups in words.

use pgflo_core::Position;
use pgflo_core::apply::{Group, Kind, Net, NetStep, Relation, Route, Unfit};

use crate::bodies::{Body, NO_POSITION, OID};

/// Column 0 is the key, all columns are written; the destination table has the relation's own number.
pub fn route(relation: &Relation) -> Route {
    let columns = u16::try_from(relation.columns.len()).unwrap();
    Route {
        target: relation.oid,
        key: Some(vec![0]),
        written: (0..columns).collect(),
        delimiters: vec![b','; usize::from(columns)],
        updates: true,
        slow: false,
    }
}

/// What is left of bodies behind `after`.
pub fn collected(
    net: &mut Net<Vec<u8>>,
    bodies: Vec<(Body, Position)>,
    after: Position,
    route: impl Fn(&Relation) -> Route,
) -> Result<Vec<String>, Unfit> {
    let bodies = bodies.into_iter().map(|(body, prev)| (body.0, prev));
    net.load(bodies.collect(), after);
    loop {
        match net.run().unwrap() {
            NetStep::Done => return Ok(told(&net.groups().unwrap())),
            NetStep::Relation(relation, _) => {
                net.answer(relation.oid, route(&relation)).unwrap();
            }
            NetStep::Unfit(why) => return Err(why),
        }
    }
}

/// What is left of one body, which begins where nothing has been applied.
pub fn left(body: Body) -> Result<Vec<String>, Unfit> {
    left_by(body, route)
}

/// The same under another route.
pub fn left_by(body: Body, route: impl Fn(&Relation) -> Route) -> Result<Vec<String>, Unfit> {
    let bodies = vec![(body, NO_POSITION)];
    collected(&mut Net::default(), bodies, NO_POSITION, route)
}

/// Groups in words: `delete {1}`, `delete none {1}` where no row may be there, `delete any {1}` where one may, `update[1] {1} {a}`,
/// `insert[0, 1] 1 a;`. Another relation than `OID` has its distance to it: `u+1`.
pub fn told(groups: &[Group]) -> Vec<String> {
    groups.iter().map(one).collect()
}

fn one(group: &Group) -> String {
    let text = |data: &Vec<u8>| String::from_utf8(data.clone()).unwrap();
    let kind = match group.kind {
        Kind::Delete if group.expected.is_none() => "delete any".to_owned(),
        Kind::Delete if group.expected == Some(0) => "delete none".to_owned(),
        Kind::Delete => "delete".to_owned(),
        Kind::Update => format!("update{:?}", group.columns),
        Kind::Put => format!("put{:?}", group.columns),
        Kind::Insert => format!("insert{:?}", group.columns),
    };
    if group.expected.is_some_and(|rows| rows > 0) {
        assert_eq!(group.expected, Some(group.rows));
    }
    let other = match group.relation_oid - OID {
        0 => String::new(),
        distance => format!("+{distance}"),
    };
    let data: Vec<String> = group.data.iter().map(text).collect();
    let data = data.join(" ").replace('\t', " ").replace('\n', ";");
    format!("{kind}{other} {data}")
}
