//! One rule of the assembler at a time.

use pgflo_core::envelope::{Assembler, Envelope, Kind, Messages, Sizes, body_of};
use pgflo_core::error::{DecodeError, EnvelopeError, Reason};
use pgflo_core::pgoutput::Message;
use pgflo_core::{CoreError, Lsn, Position};

use crate::history::wire::{begin, block, commit, data, keepalive, logical, relation};
use crate::history::{Change, START, Transaction};

fn assembler(target_body_bytes: usize, max_body_bytes: usize) -> Assembler {
    continued(
        START,
        START.commit_lsn,
        Sizes::new(target_body_bytes, max_body_bytes).unwrap(),
    )
}

fn continued(position: Position, end_lsn: Lsn, sizes: Sizes) -> Assembler {
    Assembler::new([1; 16], position, end_lsn, sizes).unwrap()
}

fn row(text_bytes: usize) -> Vec<u8> {
    Change::Row {
        kind: b'I',
        oid: 1,
        version: 0,
        text_bytes,
    }
    .encode(0)
}

/// A transaction from `commit_lsn` to 10 behind it, with rows of those sizes.
fn transaction(commit_lsn: u64, row_bytes: &[usize]) -> Vec<Vec<u8>> {
    let end_lsn = Lsn(commit_lsn + 10);
    let commit_lsn = Lsn(commit_lsn);
    let told = Transaction {
        commit_lsn,
        end_lsn,
        has_origin: false,
        changes: vec![],
    };
    let mut frames = vec![
        data(commit_lsn, &begin(commit_lsn)),
        data(Lsn(0), &relation(1, 0)),
    ];
    frames.extend(
        row_bytes
            .iter()
            .map(|text_bytes| data(commit_lsn, &row(*text_bytes))),
    );
    frames.push(data(end_lsn, &commit(&told)));
    frames
}

/// The type bytes of a body.
fn kinds(envelope: &Envelope) -> String {
    let kind = |message: &Message<'_>| match message {
        Message::Begin(_) => 'B',
        Message::Commit(_) => 'C',
        Message::Relation(_) => 'R',
        Message::Insert(_) => 'I',
        other => panic!("{other:?}"),
    };
    Messages::new(body_of(&envelope.data))
        .map(|read| kind(&read.unwrap().1))
        .collect()
}

fn refusal(result: Result<Vec<Envelope>, CoreError>) -> DecodeError {
    match result {
        Err(CoreError::Decode(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_empty_transaction_moves_end_lsn_and_leaves_no_envelope() {
    let mut assembler = assembler(1, 1024);
    assert_eq!(assembler.feed(&block(&transaction(200, &[]))), Ok(vec![]));
    assert_eq!(assembler.flush(), Ok(vec![]));
    assert_eq!(
        (assembler.end_lsn(), assembler.position()),
        (Lsn(210), START)
    );
    let watermark = assembler.watermark(Lsn(210)).unwrap();
    assert_eq!(
        (watermark.header.kind, watermark.header.prev),
        (Kind::Watermark, START)
    );
}

#[test]
fn an_envelope_is_cut_at_the_first_commit_that_leaves_its_target() {
    let mut assembler = assembler(500, 4096);
    assert_eq!(
        assembler.feed(&block(&transaction(200, &[100]))),
        Ok(vec![])
    );
    assert!(assembler.is_pending_at_commit());
    let envelopes = assembler
        .feed(&block(&transaction(300, &[100, 100, 100])))
        .unwrap();
    let kinds: Vec<String> = envelopes.iter().map(kinds).collect();
    assert_eq!(kinds, ["BRICBIIIC"]);
    assert_eq!(envelopes[0].header.commit_time_us, 300_000);
    assert_eq!(assembler.pending_bytes(), 0);
}

#[test]
fn a_transaction_larger_than_an_envelope_starts_again_with_its_begin_in_the_next() {
    let mut assembler = assembler(1024, 1024);
    let mut frames = transaction(200, &[]);
    frames.extend(transaction(300, &[400, 400, 400]));
    let envelopes = assembler.feed(&block(&frames)).unwrap();
    assert_eq!(envelopes.iter().map(kinds).collect::<Vec<_>>(), ["BRII"]);
    let header = envelopes[0].header;
    assert!(header.transaction_open);
    assert_eq!(
        (header.position, header.end_lsn),
        (Position::new(Lsn(300), 2), Lsn(210))
    );
    let rest = assembler.flush().unwrap();
    assert_eq!(rest.iter().map(kinds).collect::<Vec<_>>(), ["BRIC"]);
    assert_eq!(
        (rest[0].header.prev, rest[0].header.end_lsn),
        (header.position, Lsn(310))
    );
}

#[test]
fn a_transaction_without_a_change_yet_does_not_keep_the_last_one_from_being_flushed() {
    let mut assembler = assembler(4096, 4096);
    let mut frames = transaction(200, &[10]);
    frames.push(data(Lsn(300), &begin(Lsn(300))));
    assert_eq!(assembler.feed(&block(&frames)), Ok(vec![]));
    assert!(assembler.is_in_transaction() && assembler.is_pending_at_commit());
    let envelopes = assembler.flush().unwrap();
    assert_eq!(envelopes.iter().map(kinds).collect::<Vec<_>>(), ["BRIC"]);
    assert!(!envelopes[0].header.transaction_open);
}

#[test]
fn a_row_larger_than_an_envelope_comes_in_parts_of_one_body_with_its_commit() {
    let mut assembler = assembler(1024, 1024);
    assert_eq!(
        assembler.feed(&block(&transaction(200, &[100]))),
        Ok(vec![])
    );
    let mut envelopes = assembler.feed(&block(&transaction(300, &[3000]))).unwrap();
    let before = envelopes.remove(0);
    assert_eq!(kinds(&before), "BRIC");
    let parts: Vec<(u32, u32)> = envelopes
        .iter()
        .map(|one| (one.header.part, one.header.parts))
        .collect();
    assert_eq!(parts, [(0, 4), (1, 4), (2, 4), (3, 4)]);
    for part in &envelopes {
        let positions = (part.header.prev, part.header.position, part.header.changes);
        assert_eq!(
            positions,
            (before.header.position, Position::new(Lsn(300), 1), 1)
        );
        assert!(body_of(&part.data).len() <= 1024);
    }
}

#[test]
fn a_chain_that_lacks_only_a_commit_is_continued_with_begin_and_commit() {
    let sizes = Sizes::new(1, 1024).unwrap();
    let at = Position::new(Lsn(300), 2);
    let mut assembler = continued(at, Lsn(210), sizes);
    let envelopes = assembler
        .feed(&block(&transaction(300, &[10, 10])))
        .unwrap();
    assert_eq!(envelopes.iter().map(kinds).collect::<Vec<_>>(), ["BC"]);
    let header = envelopes[0].header;
    assert_eq!((header.prev, header.position, header.changes), (at, at, 0));
    assert_eq!((header.end_lsn, header.transaction_open), (Lsn(310), false));
}

#[test]
fn a_message_outside_of_every_transaction_is_dropped() {
    let mut assembler = assembler(1, 1024);
    let frame = data(Lsn(500), &logical(0, 500, 3));
    assert_eq!(assembler.feed(&block(&[frame])), Ok(vec![]));
    assert_eq!(
        (assembler.pending_bytes(), assembler.position()),
        (0, START)
    );
    assert_eq!(
        (assembler.received_lsn(), assembler.end_lsn()),
        (Lsn(500), START.commit_lsn)
    );
}

#[test]
fn a_keepalive_that_wants_an_answer_is_told_once() {
    let mut assembler = assembler(1, 1024);
    assert_eq!(assembler.keepalive_lsn(), Lsn(0));
    let frames = [
        keepalive(Lsn(200), true),
        keepalive(Lsn(300), true),
        keepalive(Lsn(400), false),
    ];
    assembler.feed(&block(&frames)).unwrap();
    assert_eq!(
        (assembler.keepalive_lsn(), assembler.received_lsn()),
        (Lsn(400), Lsn(400))
    );
    assert_eq!(assembler.take_reply_request(), Some(300));
    assert_eq!(assembler.take_reply_request(), None);
}

#[test]
fn a_watermark_never_passes_over_what_is_pending_open_or_unseen() {
    let refused = |assembler: &mut Assembler, lsn| match assembler.watermark(Lsn(lsn)) {
        Err(CoreError::Envelope(EnvelopeError::NoWatermark { because, .. })) => because,
        other => panic!("{other:?}"),
    };
    let mut assembler = assembler(4096, 4096);
    assert_eq!(refused(&mut assembler, 100), "the chain is there already");
    assert_eq!(
        refused(&mut assembler, 101),
        "the source has not been seen there"
    );
    assembler.feed(&block(&transaction(200, &[]))).unwrap();
    assert_eq!(refused(&mut assembler, 209), "a later commit has been seen");
    assembler.feed(&block(&transaction(300, &[1]))).unwrap();
    assert_eq!(refused(&mut assembler, 310), "changes are pending");
    assembler.flush().unwrap();
    assert_eq!(refused(&mut assembler, 310), "the chain is there already");
    assembler
        .feed(&block(&[data(Lsn(400), &begin(Lsn(400)))]))
        .unwrap();
    assert_eq!(refused(&mut assembler, 400), "a transaction is open");
    let sizes = Sizes::new(1, 1024).unwrap();
    let mut taken_over = continued(Position::new(Lsn(300), 2), Lsn(210), sizes);
    taken_over
        .feed(&block(&[keepalive(Lsn(400), false)]))
        .unwrap();
    assert_eq!(refused(&mut taken_over, 400), "a transaction is open");
}

#[test]
fn a_transaction_behind_a_watermark_that_commits_before_it_is_refused_not_skipped() {
    let mut assembler = assembler(1, 1024);
    assembler
        .feed(&block(&[keepalive(Lsn(400), false)]))
        .unwrap();
    assembler.watermark(Lsn(400)).unwrap();
    let error = refusal(assembler.feed(&block(&transaction(399, &[1]))));
    let floor_lsn = Lsn(400);
    assert_eq!(
        error.reason,
        Reason::NotIncreasing {
            commit_lsn: Lsn(399),
            floor_lsn
        }
    );
}

#[test]
fn an_error_tells_the_message_and_its_place_in_the_block_and_ends_the_work() {
    let mut assembler = assembler(1, 1024);
    let frames = [keepalive(Lsn(1), false), data(Lsn(2), &row(0))];
    let error = refusal(assembler.feed(&block(&frames)));
    let offset = 4 + frames[0].len() + 4 + 25;
    assert_eq!(
        (error.offset, error.reason),
        (offset, Reason::OutsideTransaction)
    );
    assert_eq!(
        error.to_string(),
        format!("message 'I' at byte {offset}: outside of a transaction")
    );
    let finished = |refusal| matches!(refusal, CoreError::Envelope(EnvelopeError::Finished(_)));
    assert!(assembler.feed(&[]).is_err_and(finished));
    assert!(assembler.flush().is_err_and(finished));
    assert!(assembler.watermark(Lsn(2)).is_err_and(finished));
}

#[test]
fn a_change_of_a_table_that_was_never_described_is_refused() {
    let mut assembler = assembler(1, 1024);
    let frames = [data(Lsn(200), &begin(Lsn(200))), data(Lsn(200), &row(0))];
    assert_eq!(
        refusal(assembler.feed(&block(&frames))).reason,
        Reason::UnknownRelation(1)
    );
}

#[test]
fn a_start_without_a_change_cannot_end_behind_itself() {
    let sizes = Sizes::new(1, 1024).unwrap();
    let refused = Assembler::new([1; 16], START, Lsn(101), sizes).err();
    assert!(matches!(refused, Some(EnvelopeError::BadSetting(_))));
}
