//! What a walsender would send, byte by byte.

use pgflo_core::Lsn;

use super::{History, Transaction};

/// What a walsender started at `from_lsn` sends: payloads of CopyData. `noise` decides about everything that
/// the server is free in: whether it repeats a relation, sends a keepalive, a message of its own.
pub fn connection(history: &History, from_lsn: Lsn, noise: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = vec![];
    let mut noise = noise.iter().copied().chain(std::iter::repeat(0));
    let mut known = std::collections::HashMap::new();
    let mut number = 0;
    for transaction in &history.transactions {
        if transaction.commit_lsn < from_lsn {
            number += transaction.changes.len() as u64;
            continue;
        }
        match noise.next() {
            Some(n) if n % 5 == 1 => frames.push(keepalive(transaction.commit_lsn, n % 2 == 0)),
            Some(n) if n % 5 == 2 => frames.push(data(transaction.commit_lsn, &logical(0, 0, 9))),
            _ => {}
        }
        let lsn = transaction.commit_lsn;
        frames.push(data(lsn, &begin(lsn)));
        if transaction.has_origin {
            frames.push(data(lsn, &origin()));
        }
        for change in &transaction.changes {
            number += 1;
            for (oid, version) in change.tables() {
                let is_news = known.insert(oid, version) != Some(version);
                if is_news || noise.next().is_some_and(|n| n % 4 == 1) {
                    frames.push(data(Lsn(0), &announced_type(oid, version)));
                    frames.push(data(Lsn(0), &relation(oid, version)));
                }
            }
            frames.push(data(lsn, &change.encode(number)));
        }
        frames.push(data(transaction.end_lsn, &commit(transaction)));
    }
    frames
}

/// Frames as the pump hands them over.
pub fn block(frames: &[Vec<u8>]) -> Vec<u8> {
    let prefixed = |payload: &Vec<u8>| {
        let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(payload);
        bytes
    };
    frames.iter().flat_map(prefixed).collect()
}

pub fn data(lsn: Lsn, message: &[u8]) -> Vec<u8> {
    let mut frame = vec![b'w'];
    frame.extend(lsn.0.to_be_bytes());
    frame.extend(lsn.0.to_be_bytes());
    frame.extend(0_i64.to_be_bytes());
    frame.extend(message);
    frame
}

/// Says as its sending time what it says as LSN.
pub fn keepalive(lsn: Lsn, wants_reply: bool) -> Vec<u8> {
    let mut frame = vec![b'k'];
    frame.extend(lsn.0.to_be_bytes());
    frame.extend(lsn.0.to_be_bytes());
    frame.push(u8::from(wants_reply));
    frame
}

pub fn begin(final_lsn: Lsn) -> Vec<u8> {
    let mut message = vec![b'B'];
    message.extend(final_lsn.0.to_be_bytes());
    message.extend(7_i64.to_be_bytes());
    message.extend(9_u32.to_be_bytes());
    message
}

pub fn commit(transaction: &Transaction) -> Vec<u8> {
    let mut message = vec![b'C', 0];
    message.extend(transaction.commit_lsn.0.to_be_bytes());
    message.extend(transaction.end_lsn.0.to_be_bytes());
    message.extend(commit_time_us(transaction).to_be_bytes());
    message
}

/// Unlike that of any other transaction.
pub fn commit_time_us(transaction: &Transaction) -> i64 {
    transaction.commit_lsn.0.cast_signed() * 1000
}

pub fn origin() -> Vec<u8> {
    let mut message = vec![b'O'];
    message.extend(5_u64.to_be_bytes());
    message.extend(b"upstream\0");
    message
}

pub fn relation(oid: u32, version: u32) -> Vec<u8> {
    let mut message = vec![b'R'];
    message.extend(oid.to_be_bytes());
    message.extend(format!("public\0table_{oid}_version_{version}\0").into_bytes());
    message.extend([b'd', 0, 2]);
    for (key, type_oid) in [(1, 25_u32), (0, type_oid(oid))] {
        message.push(key);
        message.extend(b"column\0");
        message.extend(type_oid.to_be_bytes());
        message.extend((-1_i32).to_be_bytes());
    }
    message
}

/// Tables 1 and 2 share a type, as 3 and 4 do.
fn type_oid(oid: u32) -> u32 {
    16_384 + oid.div_ceil(2)
}

/// A type is named anew with every version of a table that uses it.
pub fn announced_type(oid: u32, version: u32) -> Vec<u8> {
    let mut message = vec![b'Y'];
    message.extend(type_oid(oid).to_be_bytes());
    message.extend(format!("public\0type_{version}\0").into_bytes());
    message
}

pub fn logical(flags: u8, number: u64, content_bytes: usize) -> Vec<u8> {
    let mut message = vec![b'M', flags];
    message.extend(number.to_be_bytes());
    message.extend(b"prefix\0");
    message.extend(u32::try_from(content_bytes).unwrap().to_be_bytes());
    message.resize(message.len() + content_bytes, b'y');
    message
}

pub fn tuple(cells: &[Option<&[u8]>]) -> Vec<u8> {
    let mut bytes = u16::try_from(cells.len()).unwrap().to_be_bytes().to_vec();
    for cell in cells {
        match cell {
            None => bytes.push(b'n'),
            Some(text) => {
                bytes.push(b't');
                bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                bytes.extend(*text);
            }
        }
    }
    bytes
}
