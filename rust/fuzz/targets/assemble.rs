//! Any stream into an assembler: it refuses, or its envelopes are a chain that reads back.
//!
//! Input: u8 sizes, u8 cut, u64 commit_lsn, u8 ordinal, u8 how far end_lsn lies from commit_lsn; then a block
//! of frames, which arrives in two pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgflo_core::envelope::{Assembler, Envelope, Header, Kind, Reader, Sizes, body_of};
use pgflo_core::pgoutput::Frames;
use pgflo_core::{CoreError, Lsn, Position};

const LEAD_BYTES: usize = 12;
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Where to part the block: in front of that frame.
fn split(block: &[u8], frame_no: usize) -> (&[u8], &[u8]) {
    let offsets = Frames::new(block)
        .filter_map(Result::ok)
        .map(|(offset, _)| offset - 4);
    block.split_at(offsets.take(frame_no).last().unwrap_or(0))
}

fn run(assembler: &mut Assembler, pieces: [&[u8]; 2]) -> (Vec<Envelope>, Result<(), CoreError>) {
    let mut envelopes = Vec::new();
    for piece in pieces {
        match assembler
            .feed(piece)
            .and_then(|fed| Ok((fed, assembler.flush()?)))
        {
            Ok((fed, flushed)) => envelopes.extend(fed.into_iter().chain(flushed)),
            Err(error) => return (envelopes, Err(error)),
        }
    }
    let mark = assembler.received_lsn();
    if let Ok(envelope) = assembler.watermark(mark) {
        assert_eq!(envelope.header.kind, Kind::Watermark);
        envelopes.push(envelope);
    }
    (envelopes, Ok(()))
}

/// Parts of a body joined, with the header that they share.
fn bodies(envelopes: &[Envelope]) -> Vec<(Header, Vec<u8>)> {
    let mut joined: Vec<(Header, Vec<u8>)> = Vec::new();
    for Envelope { header, data } in envelopes {
        assert_eq!(Header::read(data, true), Ok(*header));
        assert!(header.body_bytes as usize <= MAX_BODY_BYTES);
        match joined.last_mut() {
            Some((first, body)) if header.part > 0 => {
                assert_eq!((first.prev, first.position), (header.prev, header.position));
                body.extend(body_of(data));
            }
            _ => joined.push((*header, body_of(data).to_vec())),
        }
    }
    joined
}

fuzz_target!(|input: &[u8]| {
    let Some((lead, block)) = input.split_first_chunk::<LEAD_BYTES>() else {
        return;
    };
    let [sizes, cut, lsn @ .., ordinal, distance] = *lead;
    let commit_lsn = u64::from_be_bytes(lsn);
    let start = Position::new(Lsn(commit_lsn), u64::from(ordinal));
    let end_lsn = Lsn(commit_lsn.saturating_add_signed(i64::from(distance.cast_signed())));
    let target_body_bytes = (usize::from(sizes) * 256).clamp(1, MAX_BODY_BYTES);
    let Ok(sizes) = Sizes::new(target_body_bytes, MAX_BODY_BYTES) else {
        return;
    };
    let Ok(mut assembler) = Assembler::new([7; 16], start, end_lsn, sizes) else {
        return;
    };

    let (first, second) = split(block, usize::from(cut));
    let (envelopes, outcome) = run(&mut assembler, [first, second]);
    if let Err(error) = &outcome {
        let _ = error.to_string();
        assert!(
            assembler.feed(&[]).is_err(),
            "an assembler that failed takes nothing more"
        );
    }
    let mut at = start;
    let mut end = end_lsn;
    for (header, body) in bodies(&envelopes) {
        assert_eq!(header.prev, at, "no gap in the chain");
        assert!(
            header.position >= at && header.end_lsn >= end,
            "the chain goes forward"
        );
        (at, end) = (header.position, header.end_lsn);
        // Rows are passed on unread: they alone may be malformed.
        match Reader::check(&header, &body) {
            Ok(()) | Err(CoreError::Decode(_)) => {}
            Err(error) => assert_eq!(header.kind, Kind::Watermark, "{error}"),
        }
    }
    if outcome.is_ok() && assembler.pending_bytes() == 0 {
        assert_eq!(
            (assembler.position(), assembler.end_lsn()) >= (at, end),
            true
        );
    }
});
