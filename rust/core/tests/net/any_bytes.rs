//! No body panics, hangs or is asked about without end, and groups say truly what they hold.

use pgflo_core::apply::{Kind, Net, NetStep};
use proptest::prelude::*;

use crate::bodies::{Body, NO_POSITION, OID, at};
use crate::told::route;

fn bodies() -> [Vec<u8>; 2] {
    let other = OID + 1;
    let first = Body::default()
        .begin(100)
        .relation(OID, "t", &["body"])
        .insert(OID, "1 a")
        .update(OID, Some(("K", "1 -")), "2 ?")
        .update(OID, None, "5 ?")
        .delete(OID, "6 -")
        .commit(100)
        .begin(200)
        .relation(other, "u", &[])
        .insert(other, "x")
        .logical(true)
        .commit(200);
    let second = Body::default()
        .begin(200)
        .relation(other, "u", &[])
        .delete(other, "x")
        .commit(200)
        .begin(300)
        .relation(OID, "t", &["body"])
        .update(OID, Some(("O", "2 a")), "3 b")
        .truncate(&[other])
        .commit(300);
    [first.0, second.0]
}

/// Collects until it is done, unfit or refused. Each relation message is asked about once at most.
fn exhaust(bodies: Vec<Vec<u8>>) {
    let steps = 3 * bodies.iter().map(Vec::len).sum::<usize>() + 3;
    let mut net = Net::default();
    let prevs = [NO_POSITION, at(200, 2), at(300, 2)];
    net.load(bodies.into_iter().zip(prevs).collect(), at(100, 1));
    for _ in 0..steps {
        match net.run() {
            Ok(NetStep::Relation(relation, _)) => {
                let mut route = route(&relation);
                // A relation without columns has no key, and now and then all share a target.
                route.key = route.key.filter(|_| !relation.columns.is_empty());
                route.target &= 1;
                net.answer(relation.oid, route).unwrap();
            }
            Ok(NetStep::Done) => return check(&net),
            Ok(NetStep::Unfit(_)) | Err(_) => {
                assert_eq!(net.groups().unwrap(), []);
                return;
            }
        }
    }
    panic!("it asked {steps} times");
}

fn check(net: &Net<Vec<u8>>) {
    let Ok(groups) = net.groups() else { return };
    assert!(net.slow_changes() <= net.changes());
    for group in groups {
        assert!(
            group.rows > 0 && (group.expected == Some(group.rows) || group.kind == Kind::Delete)
        );
        let arrays = match group.kind {
            Kind::Delete => 1,
            Kind::Update => 1 + group.columns.len(),
            Kind::Put => group.columns.len(),
            Kind::Insert => continue,
        };
        assert_eq!(group.data.len(), arrays);
        for array in group.data {
            assert!(array.starts_with(b"{") && array.ends_with(b"}"));
        }
    }
}

#[test]
fn bodies_cut_anywhere_end_in_an_error_or_at_a_message() {
    let [first, second] = bodies();
    for length in 0..=first.len() {
        exhaust(vec![first[..length].to_vec()]);
        exhaust(vec![first[..length].to_vec(), second.clone()]);
    }
    for length in 0..=second.len() {
        exhaust(vec![first.clone(), second[..length].to_vec()]);
    }
}

proptest! {
    #[test]
    fn damaged_bodies_are_refused_or_collected(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut damaged = bodies();
        for (place, byte) in damage {
            let [first, second] = &mut damaged;
            let place = place.index(first.len() + second.len());
            let found = first.iter_mut().chain(second).nth(place).unwrap();
            *found = byte;
        }
        exhaust(damaged.into());
    }

    #[test]
    fn any_bytes_are_refused_or_collected(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..3)
    ) {
        exhaust(bodies);
    }
}
