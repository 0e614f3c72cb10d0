//! Any two bodies into slices: refused, a barrier, or each change once, in its place, with its key's others.
//!
//! Input: u8 shards, u8 what routes are like, u64 and u64 position reached, u16 length of the first body;
//! then both bodies.
#![no_main]

use std::collections::HashMap;
use std::ffi::{CStr, CString};

use libfuzzer_sys::fuzz_target;
use pgflo_core::apply::split::{Route, Splitter};
use pgflo_core::apply::{
    Call, Executor, Op, Param, Place, Refusal, Relation, Replay, Shape, Source, Statement, Step,
};
use pgflo_core::envelope::Reader;
use pgflo_core::error::CoreError;
use pgflo_core::pgoutput::Message;
use pgflo_core::{Lsn, Position};

const LEAD_BYTES: usize = 20;
const START: Position = Position::new(Lsn(1), 0);

/// A change as replay hands it over: what it does to which table, and the values that it carries.
type Change = (String, Vec<Option<Vec<u8>>>);

/// Writes down what replay does.
#[derive(Default)]
struct Recorder(Vec<(Position, Change)>);

impl Executor for Recorder {
    fn submit(&mut self, name: &CStr, params: &[Param<'_>], place: Place) -> Result<(), Refusal> {
        let values = params.iter().map(|param| match param {
            Param::Null => None,
            Param::Text(value) | Param::Binary(value) => Some(value.to_vec()),
        });
        let change = (name.to_string_lossy().into_owned(), values.collect());
        self.0.push((place.position, change));
        Ok(())
    }

    fn execute(&mut self, _: &CStr, _: &[Param<'_>], _: Place) -> Result<u64, Refusal> {
        Ok(1)
    }

    fn finish(&mut self) -> Result<(), Refusal> {
        Ok(())
    }
}

/// A statement that is named by what it does, with every value that changes of that shape carry.
fn statement(shape: &Shape, columns: u16) -> Statement {
    let sent = |column: &u16| shape.op != Op::Delete && !shape.unchanged.contains(column);
    let new = (0..columns).filter(sent).map(Source::New);
    let old = (0..columns)
        .filter(|_| shape.old.is_some())
        .map(Source::Old);
    let name = format!("{:?} {}", shape.op, shape.relation_oid);
    Statement {
        call: Some(Call {
            name: CString::new(name).unwrap_or_default(),
            params: new.chain(old).collect(),
        }),
        fallback: None,
        conflict: None,
    }
}

/// What a writer does with bodies that follow each other; none if it refuses one.
fn replayed(bodies: &[&[u8]], after: Position) -> Option<Vec<(Position, Change)>> {
    let mut recorder = Recorder::default();
    let mut replay = Replay::default();
    let mut columns = HashMap::new();
    let mut prev = START;
    for body in bodies {
        replay.load(*body, prev, after, None);
        loop {
            match replay.run(&mut recorder, false) {
                Ok(Step::Relation(relation, _)) => {
                    let count = u16::try_from(relation.columns.len()).ok()?;
                    columns.insert(relation.oid, count);
                }
                Ok(Step::Statement(shape, _)) => {
                    let count = *columns.get(&shape.relation_oid)?;
                    let registered = replay.register(shape.id, statement(&shape, count));
                    assert!(registered.is_ok(), "all of these values are carried");
                }
                Ok(Step::Truncate { .. } | Step::Message { .. }) => {}
                Ok(Step::Done) => break,
                Ok(_) | Err(_) => return None,
            }
        }
        prev = replay.position();
    }
    Some(recorder.0)
}

/// How tables are spread, by the bits of a byte.
#[derive(Clone, Copy)]
struct Routes {
    shards: u32,
    traits: u8,
}

impl Routes {
    fn key_columns(self) -> usize {
        usize::from(self.traits & 3)
    }

    fn of(self, relation: &Relation) -> Route {
        let columns = relation.columns.len().min(self.key_columns());
        let columns = u16::try_from(columns).unwrap_or_default();
        if self.traits & 4 != 0 && relation.oid & 1 == 1 {
            Route::Whole(relation.oid % self.shards)
        } else if self.traits & 8 != 0 && relation.oid & 2 == 2 {
            Route::Barrier
        } else if columns == 0 {
            Route::Whole(0)
        } else {
            Route::Key((0..columns).collect())
        }
    }

    /// The slices; none where the epoch is a barrier.
    fn split<'a>(
        self,
        mut splitter: Splitter<&'a [u8]>,
        bodies: &[&'a [u8]],
        after: Position,
    ) -> Result<Option<Vec<Option<Vec<u8>>>>, CoreError> {
        let mut prev = START;
        for body in bodies {
            let mut reader = Reader::new(body, prev);
            reader.by_ref().for_each(drop);
            splitter.load(body, prev, after);
            while let Some(relation) = splitter.run()? {
                let routed = splitter.route(relation.oid, self.of(&relation));
                assert!(routed.is_ok(), "it names its columns");
            }
            prev = reader.position();
        }
        let slices = splitter.take();
        Ok((!slices.is_barrier).then_some(slices.bodies))
    }
}

/// Whether these bodies may follow each other: a transaction that is left open goes on, or ends there.
fn is_chain(first: &[u8], second: &[u8]) -> bool {
    let mut reader = Reader::new(first, START);
    if !reader.by_ref().all(|placed| placed.is_ok()) {
        return false;
    }
    let open_lsn = reader.open_lsn();
    let mut rest = Reader::new(second, reader.position());
    let begun = rest.by_ref().find_map(|placed| match placed {
        Ok(placed) => match placed.message {
            Message::Begin(begin) => Some(Ok(begin.final_lsn)),
            _ => None,
        },
        Err(error) => Some(Err(error)),
    });
    let goes_on = match (open_lsn, begun) {
        (Some(open_lsn), Some(Ok(begun_lsn))) => open_lsn == begun_lsn,
        (None, Some(Ok(_))) | (_, None) => true,
        (_, Some(Err(_))) => false,
    };
    goes_on && rest.all(|placed| placed.is_ok())
}

fuzz_target!(|input: &[u8]| {
    let Some((lead, rest)) = input.split_first_chunk::<LEAD_BYTES>() else {
        return;
    };
    let [shards, traits, lsns @ .., high, low] = *lead;
    let [lsn, ordinal] = [0, 8].map(|at| {
        lsns[at..at + 8]
            .iter()
            .fold(0, |n, byte| n << 8 | u64::from(*byte))
    });
    let after = Position::new(Lsn(lsn), ordinal);
    let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
    let (first, second) = rest.split_at(length);
    let bodies = [first, second];
    let shards = 1 + u32::from(shards % 8);
    let routes = Routes { shards, traits };

    let Ok(splitter) = Splitter::new(shards) else {
        return;
    };
    let split = routes.split(splitter, &bodies, after);
    if !is_chain(first, second) {
        return; // no such epoch is cut
    }
    let Some(whole) = replayed(&bodies, after) else {
        return; // a writer would refuse it as well
    };
    let slices = match split {
        Ok(Some(slices)) => slices,
        Ok(None) => return, // one writer gets it as it came
        Err(error) => panic!("a writer takes it, splitting does not: {error}"),
    };
    assert_eq!(slices.len(), shards as usize);

    let mut found = Vec::new();
    let mut shard_of = HashMap::new();
    for (shard, slice) in slices.iter().enumerate() {
        let Some(slice) = slice else { continue };
        let changes = replayed(&[slice], after).expect("a slice is a body");
        assert!(!changes.is_empty(), "who has no change gets no slice");
        for (position, change) in changes {
            let (name, values) = &change;
            // An update may leave key columns out.
            if !name.starts_with("Update") {
                let table = name.split(' ').nth(1);
                let key = (table, values.iter().take(routes.key_columns()));
                let key = format!("{:?} {:?}", key.0, key.1.collect::<Vec<_>>());
                assert_eq!(*shard_of.entry(key).or_insert(shard), shard, "one key");
            }
            found.push((position, change, shard));
        }
    }
    found.sort();
    let joined: Vec<_> = found
        .iter()
        .map(|(position, change, _)| (*position, change.clone()))
        .collect();
    assert_eq!(joined, whole, "together they are the whole");

    // AND what shards lack that stand apart is gathered from the same bodies.
    let rows: Vec<_> = (0..u64::from(shards))
        .map(|n| Position::new(after.commit_lsn, after.ordinal.saturating_add(n * 3)))
        .collect();
    let lacking = found
        .into_iter()
        .filter(|(position, _, shard)| *position > rows[*shard])
        .map(|(position, change, _)| (position, change));
    let lacking: Vec<_> = lacking.collect();
    let splitter = Splitter::gather(rows).expect("there are shards");
    let gathered = routes
        .split(splitter, &bodies, after)
        .expect("it was split");
    let gathered = gathered.expect("gathering meets no barrier");
    let gathered = match &gathered[0] {
        Some(slice) => replayed(&[slice], after).expect("a slice is a body"),
        None => Vec::new(),
    };
    assert_eq!(gathered, lacking, "each shard's changes behind its row");
});
