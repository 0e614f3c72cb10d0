//! Instructions of everything that is done per row or per byte. `benches/gate` compares the counts.
//!
//! Inputs are small: callgrind counts the same for few rows as for many, only sooner. Each bench ends by
//! asserting that its work was done, so that none can get fast by refusing its input.
#![allow(
    missing_docs,
    reason = "the macros of gungraun make items without documentation"
)]

mod streams;

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use pgflo_core::apply::split::{Route as ShardRoute, Splitter};
use pgflo_core::apply::{
    Call, Executor, Net, NetStep, Param, Place, Refusal, Relation, Replay, Route, Source,
    Statement, Step,
};
use pgflo_core::copy::CopyPacker;
use pgflo_core::envelope::{
    Assembler, CopyFields, Envelope, HEADER_BYTES, Header, Kind, Messages, Sizes, body_of,
};
use pgflo_core::json::{CopiedTable, Lines, RowScribe, Scribe};
use pgflo_core::pgoutput::Message;
use pgflo_core::rules::{Action, Operations, Operator, Rewriter, Rule, RuleSet, Spec, TypeHint};
use pgflo_core::{CoreError, Lsn, Position};

const INCARNATION: [u8; 16] = *b"instructions....";
const TARGET_BODY_BYTES: usize = 256 * 1024;
const MAX_BODY_BYTES: usize = 896 * 1024;
const PGBENCH_TRANSACTIONS: u32 = 500;
const PGBENCH_CHANGES: u64 = 2000;
const INSERTED_ROWS: u64 = 2000;
/// What a read from the socket brings.
const PIECE_BYTES: usize = 64 * 1024;

fn start() -> Position {
    Position::new(Lsn(streams::START_LSN), 0)
}

fn assemble_block(block: &[u8]) -> Result<(Vec<Envelope>, u64), CoreError> {
    let sizes = Sizes::new(TARGET_BODY_BYTES, MAX_BODY_BYTES)?;
    let mut assembler = Assembler::new(INCARNATION, start(), start().commit_lsn, sizes)?;
    let mut envelopes = assembler.feed(block)?;
    envelopes.extend(assembler.flush()?);
    Ok((envelopes, assembler.counters().changes))
}

fn pgbench() -> Vec<u8> {
    streams::pgbench(PGBENCH_TRANSACTIONS)
}

fn inserts() -> Vec<u8> {
    streams::inserts(4, 500)
}

/// The first envelope of the stream, which holds all of it.
fn envelope_of(block: &[u8]) -> Vec<u8> {
    let (mut envelopes, _) = assemble_block(block).unwrap_or_default();
    assert_eq!(envelopes.len(), 1, "the stream fits into one envelope");
    envelopes
        .pop()
        .map(|envelope| envelope.data)
        .unwrap_or_default()
}

fn copied_envelope() -> Vec<u8> {
    let mut envelope = vec![7; HEADER_BYTES + TARGET_BODY_BYTES];
    let sealed = Header::new(Kind::Copy, INCARNATION).seal(&mut envelope);
    assert!(sealed.is_ok(), "the envelope is well formed");
    envelope
}

#[library_benchmark]
#[bench::pgbench(pgbench(), PGBENCH_CHANGES)]
#[bench::inserts(inserts(), INSERTED_ROWS)]
fn assemble(block: Vec<u8>, changes: u64) -> Result<Vec<Envelope>, CoreError> {
    let (envelopes, found) = assemble_block(black_box(&block))?;
    assert_eq!(found, changes);
    Ok(envelopes)
}

#[library_benchmark]
#[bench::pgbench(envelope_of(&pgbench()), PGBENCH_CHANGES)]
#[bench::inserts(envelope_of(&inserts()), INSERTED_ROWS)]
fn decode_body(envelope: Vec<u8>, changes: u64) -> Result<usize, CoreError> {
    let mut found = 0;
    let mut bytes = 0;
    for message in Messages::new(black_box(body_of(&envelope))) {
        let (_, message) = message?;
        found += u64::from(message.is_change());
        if let Message::Insert(pgflo_core::pgoutput::Insert { new, .. })
        | Message::Update(pgflo_core::pgoutput::Update { new, .. }) = message
        {
            bytes += new
                .cells()
                .map(|cell| size_of_val(&black_box(cell)))
                .sum::<usize>();
        }
    }
    assert_eq!(found, changes);
    Ok(bytes)
}

#[library_benchmark]
#[bench::verified(copied_envelope(), true)]
#[bench::unverified(copied_envelope(), false)]
fn read_header(envelope: Vec<u8>, verify: bool) -> Result<Header, CoreError> {
    Ok(Header::read(black_box(&envelope), verify)?)
}

#[library_benchmark]
#[bench::pieces(vec![7; 8 * PIECE_BYTES])]
fn pack_copy(rows: Vec<u8>) -> Result<usize, CoreError> {
    let sizes = Sizes::new(TARGET_BODY_BYTES, MAX_BODY_BYTES)?;
    let mut packer = CopyPacker::new(INCARNATION, CopyFields::default(), sizes);
    let mut packed_bytes = 0;
    for piece in black_box(&rows).chunks(PIECE_BYTES) {
        packed_bytes += packer
            .feed(piece, 500)?
            .iter()
            .map(|envelope| body_of(envelope).len())
            .sum::<usize>();
    }
    packed_bytes += body_of(&packer.finish()?).len();
    assert_eq!(packed_bytes, rows.len());
    Ok(packed_bytes)
}

/// Takes statements and does nothing: what remains is ours.
struct Nowhere {
    submitted: u64,
}

impl Executor for Nowhere {
    fn submit(
        &mut self,
        statement: &CStr,
        params: &[Param<'_>],
        _place: Place,
    ) -> Result<(), Refusal> {
        black_box((statement, params));
        self.submitted += 1;
        Ok(())
    }

    fn execute(
        &mut self,
        statement: &CStr,
        params: &[Param<'_>],
        place: Place,
    ) -> Result<u64, Refusal> {
        self.submit(statement, params, place).map(|()| 1)
    }

    fn finish(&mut self) -> Result<(), Refusal> {
        Ok(())
    }
}

/// A statement of all columns, as for an update by key.
fn statement(columns: u16) -> Statement {
    let params = (0..columns).map(Source::New).collect();
    Statement {
        call: Some(Call {
            name: CString::default(),
            params,
        }),
        fallback: None,
        conflict: None,
    }
}

#[library_benchmark]
#[bench::pgbench(envelope_of(&pgbench()), PGBENCH_CHANGES)]
#[bench::inserts(envelope_of(&inserts()), INSERTED_ROWS)]
fn replay(envelope: Vec<u8>, changes: u64) -> Result<u64, CoreError> {
    let mut executor = Nowhere { submitted: 0 };
    let mut replay = Replay::default();
    replay.load(body_of(&envelope), start(), start(), None);
    let mut columns = 0;
    loop {
        match replay.run(&mut executor, false)? {
            Step::Done => break,
            Step::Relation(relation, _) => {
                columns = u16::try_from(relation.columns.len()).unwrap_or(0);
            }
            Step::Statement(shape, _) => replay.register(shape.id, statement(columns))?,
            other => assert!(matches!(other, Step::Done), "nothing else is in the stream"),
        }
    }
    assert_eq!((executor.submitted, replay.changes()), (changes, changes));
    Ok(executor.submitted)
}

#[library_benchmark]
#[bench::pgbench(envelope_of(&pgbench()), PGBENCH_CHANGES)]
#[bench::inserts(envelope_of(&inserts()), INSERTED_ROWS)]
fn split(envelope: Vec<u8>, changes: u64) -> Result<usize, CoreError> {
    // By the first column, for four shards.
    let mut splitter = Splitter::new(4)?;
    let body = black_box(body_of(&envelope));
    splitter.load(body, start(), start());
    while let Some(relation) = splitter.run()? {
        splitter.route(relation.oid, ShardRoute::Key(vec![0]))?;
    }
    let slices = splitter.take();
    let bytes = slices.bodies.iter().flatten().map(Vec::len).sum::<usize>();
    assert!(!slices.is_barrier && bytes > body.len() && changes > 0);
    Ok(bytes)
}

/// Every table by its first column, `pgbench_history` without a key.
fn route(relation: &Relation) -> Route {
    let columns = u16::try_from(relation.columns.len()).unwrap_or(0);
    Route {
        target: relation.oid,
        key: (relation.name != "pgbench_history").then(|| vec![0]),
        written: (0..columns).collect(),
        delimiters: vec![b','; usize::from(columns)],
        updates: true,
        slow: false,
    }
}

#[library_benchmark]
#[bench::pgbench(envelope_of(&pgbench()), PGBENCH_CHANGES)]
#[bench::inserts(envelope_of(&inserts()), INSERTED_ROWS)]
fn net_effect(envelope: Vec<u8>, changes: u64) -> Result<u64, CoreError> {
    let mut net = Net::default();
    net.load(vec![(black_box(body_of(&envelope)), start())], start());
    while let NetStep::Relation(relation, _) = net.run()? {
        net.answer(relation.oid, route(&relation))?;
    }
    let groups = black_box(net.groups()?);
    assert_eq!((net.changes(), net.slow_changes()), (changes, 0));
    Ok(groups.iter().map(|group| group.rows).sum())
}

/// A filter that passes every row, and a mask and a regular expression for one text of each.
fn rule_set(filtered: &str, masked: &str) -> RuleSet {
    let rule = |column: &str, action| Rule {
        table: None,
        column: column.to_owned(),
        operations: Operations::ALL,
        action,
        label: column.to_owned(),
    };
    let rules = vec![
        rule(
            filtered,
            Action::Filter {
                operator: Operator::Gte,
                value: Some("0".to_owned()),
                allow_empty_deletes: None,
            },
        ),
        rule(
            masked,
            Action::Mask {
                mask_char: '*',
                allow_key: false,
            },
        ),
        rule(
            masked,
            Action::Regex {
                pattern: r"^(\*+)$".to_owned(),
                replace: "<$1>".to_owned(),
                allow_key: false,
            },
        ),
    ];
    // What stands for a document is a text as well.
    let text = TypeHint {
        base_oid: 25,
        is_enum: false,
        is_string: true,
    };
    RuleSet::new(Spec {
        rules,
        types: [(3802, text)].into(),
        ..Spec::default()
    })
}

#[library_benchmark]
#[bench::pgbench(envelope_of(&pgbench()), rule_set("bid", "filler"), PGBENCH_CHANGES)]
#[bench::inserts(envelope_of(&inserts()), rule_set("id", "payload"), INSERTED_ROWS)]
fn rewrite(envelope: Vec<u8>, rules: RuleSet, changes: u64) -> Result<u64, CoreError> {
    let mut rewriter = Rewriter::new(rules);
    let rewritten = rewriter.rewrite(black_box(body_of(&envelope)), start(), start())?;
    assert_eq!(rewritten.changes, changes);
    assert!(rewritten.body.is_some(), "the rules concern the stream");
    Ok(rewritten.changes)
}

fn scribe() -> Scribe {
    Scribe::new("shop", INCARNATION, HashMap::new())
}

#[library_benchmark]
#[bench::pgbench(envelope_of(&pgbench()), PGBENCH_CHANGES)]
#[bench::inserts(envelope_of(&inserts()), INSERTED_ROWS)]
fn json_changes(envelope: Vec<u8>, changes: u64) -> Result<usize, CoreError> {
    let mut lines = Lines::new();
    scribe().write(black_box(body_of(&envelope)), start(), start(), &mut lines)?;
    assert_eq!(lines.count, changes);
    Ok(lines.data.len())
}

/// The same rows as `inserts`, as COPY prints them.
fn copied_rows() -> Vec<u8> {
    let row = |id: u64| {
        format!(
            "{id}\t{}\t2026-11-05 10:00:00.123456\t{{\"kind\": \"click\", \"page\": \"/item/{id}\"}}\n",
            id % 1000
        )
    };
    (0..INSERTED_ROWS).map(row).collect::<String>().into_bytes()
}

#[library_benchmark]
#[bench::inserts(copied_rows())]
fn json_rows(rows: Vec<u8>) -> Result<usize, CoreError> {
    let columns = [("id", 20), ("account", 20), ("at", 1114), ("payload", 3802)];
    let table = CopiedTable {
        columns: columns.map(|(name, oid)| (name.to_owned(), oid)).to_vec(),
        key: vec!["id".to_owned()],
        ..CopiedTable::default()
    };
    let mut scribe = RowScribe::new(&scribe(), &table, Lsn(1), 0);
    let mut lines = Lines::new();
    for piece in black_box(&rows).chunks(PIECE_BYTES) {
        scribe.feed(piece, &mut lines)?;
    }
    assert_eq!(lines.count, INSERTED_ROWS);
    Ok(lines.data.len())
}

library_benchmark_group!(
    name = hot_paths,
    benchmarks = [
        assemble,
        decode_body,
        read_header,
        pack_copy,
        replay,
        split,
        net_effect,
        json_changes,
        json_rows,
        rewrite
    ]
);
main!(library_benchmark_groups = hot_paths);
