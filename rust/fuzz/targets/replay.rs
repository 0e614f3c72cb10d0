//! Any body into replay: it refuses, or applies each change behind the reached position once, in order.
//!
//! Input: u8 careful, u8 answers of the destination, u64 and u64 position reached; then a body.
#![no_main]

use std::collections::HashSet;
use std::ffi::{CStr, CString};

use libfuzzer_sys::fuzz_target;
use pgflo_core::apply::{
    Call, Cause, Conflict, Executor, Op, Param, Place, Refusal, Replay, Shape, Source, Statement,
    Step,
};
use pgflo_core::envelope::Reader;
use pgflo_core::{Lsn, Position};

const LEAD_BYTES: usize = 18;

/// A destination that answers by the bits of a byte.
struct Destination {
    answers: u8,
    after: Position,
    last: Position,
}

impl Destination {
    fn answer(&mut self) -> bool {
        self.answers = self.answers.rotate_left(1);
        self.answers & 1 == 0
    }

    fn met(&mut self, place: Place) {
        assert!(
            place.position > self.after,
            "what is there is not applied again"
        );
        assert!(place.position >= self.last, "source order");
        self.last = place.position;
    }
}

impl Executor for Destination {
    fn submit(&mut self, _: &CStr, _: &[Param<'_>], place: Place) -> Result<(), Refusal> {
        assert!(place.position > self.last, "a change is submitted once");
        self.met(place);
        if self.answers == 0xA5 {
            return Err(Refusal {
                place,
                cause: Cause::Rows(2),
            });
        }
        Ok(())
    }

    fn execute(&mut self, _: &CStr, _: &[Param<'_>], place: Place) -> Result<u64, Refusal> {
        self.met(place);
        Ok(u64::from(self.answer()))
    }

    fn finish(&mut self) -> Result<(), Refusal> {
        Ok(())
    }
}

/// A statement of all columns that changes of that shape carry.
fn statement(shape: &Shape, columns: u16) -> Statement {
    let sent = |column: &u16| shape.op != Op::Delete && !shape.unchanged.contains(column);
    let new = (0..columns).filter(sent).map(Source::New);
    let old = (0..columns)
        .filter(|_| shape.old.is_some())
        .map(Source::Old);
    let call = || {
        Some(Call {
            name: CString::default(),
            params: new.clone().chain(old.clone()).collect(),
        })
    };
    let conflict = match shape.op {
        Op::Insert => Conflict::InsertExists,
        Op::Update => Conflict::UpdateMissing,
        Op::Delete => Conflict::DeleteMissing,
    };
    let fallback = if shape.careful && shape.op != Op::Delete {
        call()
    } else {
        None
    };
    Statement {
        call: call(),
        fallback,
        conflict: shape.careful.then_some(conflict),
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((lead, body)) = input.split_first_chunk::<LEAD_BYTES>() else {
        return;
    };
    let [careful, answers, lsns @ ..] = *lead;
    let [lsn, ordinal] = [0, 8].map(|at| {
        lsns[at..at + 8]
            .iter()
            .fold(0, |n, byte| n << 8 | u64::from(*byte))
    });
    let after = Position::new(Lsn(lsn), ordinal);
    let start = Position::new(Lsn(1), 0);
    let mut destination = Destination {
        answers,
        after,
        last: Position::default(),
    };
    let mut replay = Replay::default();
    replay.load(body, start, after, None);
    let mut columns = std::collections::HashMap::new();
    let mut asked = HashSet::new();
    let outcome = loop {
        match replay.run(&mut destination, careful & 1 == 1) {
            Ok(Step::Relation(relation, _)) => {
                let count = u16::try_from(relation.columns.len()).unwrap_or(0);
                columns.insert(relation.oid, count);
            }
            Ok(Step::Statement(shape, _)) => {
                assert!(asked.insert(shape.id), "a shape is asked for once");
                let count = columns.get(&shape.relation_oid).copied().unwrap_or(0);
                let registered = replay.register(shape.id, statement(&shape, count));
                assert!(registered.is_ok(), "all of these values are carried");
            }
            Ok(Step::Truncate { place, .. } | Step::Message { place, .. }) => {
                destination.met(place)
            }
            Ok(step) => break Ok(step),
            Err(error) => break Err(error.to_string()),
        }
    };
    if outcome != Ok(Step::Done) {
        assert!(
            replay.run(&mut destination, false).is_err(),
            "a failed body must be loaded again"
        );
        return;
    }
    let mut reader = Reader::new(body, start);
    if reader.by_ref().all(|placed| placed.is_ok()) {
        assert_eq!(
            reader.position(),
            replay.position(),
            "replay counts as the reader does"
        );
    }
});
