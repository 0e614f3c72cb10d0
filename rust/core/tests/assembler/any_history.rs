//! Every history, cut and restart that proptest thinks of.

use std::collections::HashMap;

use pgflo_core::envelope::{Assembler, Envelope, Header, Kind, Reader, Sizes, body_of};
use pgflo_core::pgoutput::{Frames, Message};
use pgflo_core::{Lsn, Position};
use proptest::prelude::*;

use crate::history::wire::{block, connection};
use crate::history::{self, Expected, History, START};

const INCARNATION: [u8; 16] = *b"incarnation-uuid";

/// Changes read back from envelopes that are checked one by one against the chain they continue.
struct ReadBack {
    position: Position,
    end_lsn: Lsn,
    changes: Vec<Expected>,
}

/// Joins the parts of each body. The parts of a body must be whole and in order.
fn logical_bodies(envelopes: &[Envelope]) -> Vec<(Header, Vec<u8>)> {
    let mut bodies: Vec<(Header, Vec<u8>)> = vec![];
    let mut next_part = 0;
    for envelope in envelopes {
        let header = Header::read(&envelope.data, true).unwrap();
        assert_eq!(header, envelope.header);
        assert_eq!(header.part, next_part);
        match bodies.last_mut() {
            Some((first, body)) if header.part > 0 => {
                let shared = Header {
                    part: 0,
                    body_bytes: first.body_bytes,
                    ..header
                };
                assert_eq!(&shared, first);
                body.extend(body_of(&envelope.data));
            }
            _ => bodies.push((header, body_of(&envelope.data).to_vec())),
        }
        next_part = (header.part + 1) % header.parts;
    }
    assert_eq!(next_part, 0);
    bodies
}

fn read_back(envelopes: &[Envelope], start: Position, end_lsn: Lsn) -> ReadBack {
    let mut back = ReadBack {
        position: start,
        end_lsn,
        changes: vec![],
    };
    for (header, body) in logical_bodies(envelopes) {
        assert_eq!(
            (header.incarnation, header.prev),
            (INCARNATION, back.position)
        );
        assert!(header.end_lsn >= back.end_lsn);
        if header.kind == Kind::Changes {
            Reader::check(&header, &body).unwrap();
            back.changes.extend(changes_of(&header, &body));
            check_lsns(&header);
        }
        back.position = header.position;
        back.end_lsn = header.end_lsn;
    }
    back
}

/// Inside a transaction `end_lsn` is not beyond it, behind its commit it is: that is how a restart tells.
fn check_lsns(header: &Header) {
    assert_eq!(
        header.position.commit_lsn >= header.end_lsn,
        header.transaction_open
    );
}

/// The changes of a body, which may use nothing that is not described in it.
fn changes_of(header: &Header, body: &[u8]) -> Vec<Expected> {
    let raw: HashMap<usize, &[u8]> = Frames::new(body).map(Result::unwrap).collect();
    let mut versions: HashMap<u32, u32> = HashMap::new();
    let mut types = vec![];
    let mut has_origin = false;
    let mut changes = vec![];
    let version = |name: &str| name.rsplit('_').next().unwrap().parse().unwrap();
    for placed in Reader::new(body, header.prev) {
        let placed = placed.unwrap();
        let oids: Vec<u32> = match placed.message {
            Message::Relation(relation) => {
                let announced = relation.columns().map(|column| column.type_oid);
                assert!(
                    announced
                        .filter(|oid| *oid >= 10_000)
                        .all(|oid| types.contains(&oid))
                );
                versions.insert(relation.oid, version(relation.name));
                continue;
            }
            Message::Type(announced) => {
                types.push(announced.oid);
                continue;
            }
            Message::Insert(insert) => vec![insert.relation_oid],
            Message::Update(update) => vec![update.relation_oid],
            Message::Delete(delete) => vec![delete.relation_oid],
            Message::Truncate(truncate) => truncate.relation_oids().collect(),
            Message::Logical(_) => vec![],
            Message::Begin(_) | Message::Origin(_) => {
                has_origin = matches!(placed.message, Message::Origin(_));
                continue;
            }
            Message::Commit(_) => continue,
        };
        let tables = oids.iter().map(|oid| (*oid, versions[oid])).collect();
        let message = raw[&placed.offset].to_vec();
        changes.push(Expected {
            position: placed.position,
            message,
            tables,
            has_origin,
        });
    }
    changes
}

fn sizes() -> impl Strategy<Value = Sizes> {
    (1024..4096_usize, 0.0..1.0_f64).prop_map(|(max, share)| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let target = (max as f64 * share) as usize + 1;
        Sizes::new(target.min(max), max).unwrap()
    })
}

/// Feeds `frames` in blocks; after each block flushes, or sets a watermark, as `steps` say.
fn assemble(
    assembler: &mut Assembler,
    mut frames: &[Vec<u8>],
    steps: &[(usize, u8)],
) -> Vec<Envelope> {
    let mut envelopes = vec![];
    let mut steps = steps.iter().copied().cycle();
    while !frames.is_empty() {
        let (count, action) = steps.next().unwrap_or((usize::MAX, 0));
        let (now, later) = frames.split_at(count.min(frames.len()));
        frames = later;
        envelopes.extend(assembler.feed(&block(now)).unwrap());
        if action > 0 {
            let flushes = assembler.is_pending_at_commit();
            let finished = assembler.flush().unwrap();
            assert_eq!(flushes, !finished.is_empty());
            envelopes.extend(finished);
        }
        // What the last keepalive promised holds until the next Begin.
        let lsn = assembler.keepalive_lsn();
        if action > 1 && !now.is_empty() && now.last().unwrap()[0] == b'k' {
            envelopes.extend(assembler.watermark(lsn));
        }
    }
    envelopes.extend(assembler.flush().unwrap());
    assert!(!assembler.is_in_transaction());
    assert_eq!(assembler.pending_bytes(), 0);
    envelopes
}

fn steps() -> impl Strategy<Value = Vec<(usize, u8)>> {
    proptest::collection::vec((1..30_usize, 0..3_u8), 1..8)
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..64)
}

/// Where a chain may stand: the start, any change, or the end of any transaction.
fn places(history: &History) -> Vec<(Position, Lsn)> {
    let mut places = vec![(START, START.commit_lsn)];
    let mut end_lsn = START.commit_lsn;
    for transaction in &history.transactions {
        let commit_lsn = transaction.commit_lsn;
        let ordinals = 1..=transaction.changes.len() as u64;
        places.extend(ordinals.map(|ordinal| (Position::new(commit_lsn, ordinal), end_lsn)));
        end_lsn = transaction.end_lsn;
        if !transaction.changes.is_empty() {
            places.push((places[places.len() - 1].0, end_lsn));
        }
    }
    places
}

proptest! {
    #[test]
    fn envelopes_hold_every_change_once_in_order_and_none_is_too_large(
        history in history::history(), sizes in sizes(), noise in noise(), steps in steps(),
    ) {
        let mut assembler = Assembler::new(INCARNATION, START, START.commit_lsn, sizes).unwrap();
        let frames = connection(&history, START.commit_lsn, &noise);
        let envelopes = assemble(&mut assembler, &frames, &steps);
        let back = read_back(&envelopes, START, START.commit_lsn);
        prop_assert_eq!(back.changes, history.changes(START));
        let count = history.changes(START).len() as u64;
        prop_assert_eq!(assembler.counters().changes, count);
        prop_assert_eq!(assembler.counters().commits, history.transactions.len() as u64);
        prop_assert_eq!(assembler.position(), back.position);
        prop_assert!(back.position >= history.end());
        let last = history.transactions.last().map_or(START.commit_lsn, |one| one.end_lsn);
        prop_assert_eq!(assembler.end_lsn(), last);
        let largest = envelopes.iter().map(|envelope| body_of(&envelope.data).len()).max();
        prop_assert!(largest.unwrap_or(0) <= sizes.max_body_bytes());
    }

    #[test]
    fn a_chain_continued_at_any_place_goes_on_with_the_next_change(
        history in history::history(), sizes in sizes(), noise in noise(), steps in steps(),
        place in any::<prop::sample::Index>(), earlier in any::<prop::sample::Index>(),
    ) {
        let places = places(&history);
        let (position, end_lsn) = places[place.index(places.len())];
        // The slot may stand at any earlier commit: a confirmation that was lost.
        let confirmed: Vec<Lsn> = places.iter().map(|at| at.1).filter(|lsn| *lsn <= end_lsn).collect();
        let from_lsn = confirmed[earlier.index(confirmed.len())];
        let mut assembler = Assembler::new(INCARNATION, position, end_lsn, sizes).unwrap();
        let is_open = position.ordinal > 0 && position.commit_lsn >= end_lsn;
        prop_assert_eq!(assembler.is_in_transaction(), is_open);
        let envelopes = assemble(&mut assembler, &connection(&history, from_lsn, &noise), &steps);
        let back = read_back(&envelopes, position, end_lsn);
        prop_assert_eq!(back.changes, history.changes(position));
        if is_open {
            prop_assert!(back.end_lsn > position.commit_lsn, "the open transaction's Commit is lost");
        }
    }

    #[test]
    fn a_process_that_dies_after_any_envelope_is_continued_by_the_next_one(
        history in history::history(), sizes in (sizes(), sizes()), noise in (noise(), noise()),
        steps in (steps(), steps()), stored in any::<prop::sample::Index>(),
    ) {
        let mut first = Assembler::new(INCARNATION, START, START.commit_lsn, sizes.0).unwrap();
        let frames = connection(&history, START.commit_lsn, &noise.0);
        let mut envelopes = assemble(&mut first, &frames, &steps.0);
        envelopes.truncate(stored.index(envelopes.len() + 1));
        // A body whose parts are not all there is written again as a whole.
        let incomplete = envelopes.last().is_some_and(|last| last.header.part + 1 < last.header.parts);
        let (position, end_lsn) = match envelopes.last().map(|last| last.header) {
            None => (START, START.commit_lsn),
            Some(last) if incomplete => (last.prev, last.prev_end_lsn()),
            Some(last) => (last.position, last.end_lsn),
        };
        while incomplete && envelopes.last().is_some_and(|last| last.header.prev == position) {
            envelopes.pop();
        }
        let mut second = Assembler::new(INCARNATION, position, end_lsn, sizes.1).unwrap();
        let frames = connection(&history, end_lsn, &noise.1);
        envelopes.extend(assemble(&mut second, &frames, &steps.1));
        let back = read_back(&envelopes, START, START.commit_lsn);
        prop_assert_eq!(back.changes, history.changes(START));
    }

    #[test]
    fn a_damaged_block_is_refused_or_read_but_never_ends_the_process(
        history in history::history(), sizes in sizes(), noise in noise(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = block(&connection(&history, START.commit_lsn, &noise));
        for (place, byte) in damage {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
        }
        let mut assembler = Assembler::new(INCARNATION, START, START.commit_lsn, sizes).unwrap();
        if assembler.feed(&bytes).is_err() {
            prop_assert!(assembler.feed(&[]).is_err());
            prop_assert!(assembler.flush().is_err());
            prop_assert!(assembler.watermark(Lsn(u64::MAX)).is_err());
        }
    }
}
