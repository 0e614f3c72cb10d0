//! Histories of a source, and what a walsender would say about them.
//!
//! Upstream: proptest draws a [`History`]. Downstream: tests feed [`wire::connection`]'s frames to the assembler
//! and compare what comes back with [`History::changes`]. Invariant: two connections say the same changes
//! in the same order, however each of them repeats relations and keepalives.

use pgflo_core::{Lsn, Position};
use proptest::prelude::*;

pub mod wire;

/// A change as it was made, and which version of its table it needs.
#[derive(Debug, Clone)]
pub enum Change {
    /// An Insert, Update or Delete with that many bytes of text.
    Row {
        kind: u8,
        oid: u32,
        version: u32,
        text_bytes: usize,
    },
    /// A Truncate of tables at those versions.
    Truncate { tables: Vec<(u32, u32)> },
    /// A transactional logical message.
    Logical { content_bytes: usize },
}

#[derive(Debug, Clone)]
pub struct Transaction {
    pub commit_lsn: Lsn,
    pub end_lsn: Lsn,
    pub has_origin: bool,
    pub changes: Vec<Change>,
}

#[derive(Debug, Clone)]
pub struct History {
    pub transactions: Vec<Transaction>,
}

/// A change where it stands, as it must come out of the envelopes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub position: Position,
    pub message: Vec<u8>,
    /// Tables with the version that a reader must know by then.
    pub tables: Vec<(u32, u32)>,
    /// Whether its transaction came from elsewhere.
    pub has_origin: bool,
}

impl Change {
    pub fn tables(&self) -> Vec<(u32, u32)> {
        match self {
            Self::Row { oid, version, .. } => vec![(*oid, *version)],
            Self::Truncate { tables } => tables.clone(),
            Self::Logical { .. } => vec![],
        }
    }

    /// `number` makes the message unlike any other of the history.
    pub fn encode(&self, number: u64) -> Vec<u8> {
        let mut message = vec![];
        match self {
            Self::Row {
                kind,
                oid,
                text_bytes,
                ..
            } => {
                message.push(*kind);
                message.extend(oid.to_be_bytes());
                let mut text = number.to_string().into_bytes();
                text.resize(text.len() + text_bytes, b'x');
                if *kind != b'I' {
                    message.push(b'K');
                    message.extend(wire::tuple(&[Some(&text), None]));
                }
                if *kind != b'D' {
                    message.push(b'N');
                    message.extend(wire::tuple(&[Some(&text), None]));
                }
            }
            Self::Truncate { tables } => {
                message.push(b'T');
                message.extend(u32::try_from(tables.len()).unwrap().to_be_bytes());
                message.push(3);
                message.extend(tables.iter().flat_map(|(oid, _)| oid.to_be_bytes()));
            }
            Self::Logical { content_bytes } => message = wire::logical(1, number, *content_bytes),
        }
        message
    }
}

impl History {
    /// Every change behind `after`.
    pub fn changes(&self, after: Position) -> Vec<Expected> {
        let mut number = 0;
        let mut all = vec![];
        for transaction in &self.transactions {
            for (ordinal, change) in (1..).zip(&transaction.changes) {
                number += 1;
                let position = Position::new(transaction.commit_lsn, ordinal);
                let message = change.encode(number);
                let (tables, has_origin) = (change.tables(), transaction.has_origin);
                all.push(Expected {
                    position,
                    message,
                    tables,
                    has_origin,
                });
            }
        }
        all.retain(|expected| expected.position > after);
        all
    }

    /// The last change, or the start.
    pub fn end(&self) -> Position {
        let last = self
            .transactions
            .iter()
            .rev()
            .find(|one| !one.changes.is_empty());
        let count = |one: &Transaction| u64::try_from(one.changes.len()).unwrap();
        last.map_or(START, |one| Position::new(one.commit_lsn, count(one)))
    }
}

/// Where every history starts.
pub const START: Position = Position::new(Lsn(100), 0);

/// Mostly small; sometimes larger than the smallest envelope, sometimes than several of them.
fn content_bytes() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0..60_usize, 2 => 200..1100_usize, 1 => 1100..5000_usize]
}

fn change() -> impl Strategy<Value = Change> {
    let row = (
        prop_oneof![Just(b'I'), Just(b'U'), Just(b'D')],
        1..5_u32,
        content_bytes(),
    );
    prop_oneof![
        10 => row.prop_map(|(kind, oid, text_bytes)| Change::Row { kind, oid, version: 0, text_bytes }),
        1 => proptest::collection::btree_set(1..5_u32, 1..4)
            .prop_map(|oids| Change::Truncate { tables: oids.into_iter().map(|oid| (oid, 0)).collect() }),
        1 => content_bytes().prop_map(|content_bytes| Change::Logical { content_bytes }),
    ]
}

/// Up to eight transactions, some of nothing, some larger than many envelopes; tables change now and then.
pub fn history() -> impl Strategy<Value = History> {
    let changes = prop_oneof![
        2 => Just(0..1_usize), 6 => Just(1..6), 1 => Just(20..60)
    ]
    .prop_flat_map(|count| proptest::collection::vec((change(), any::<u8>()), count));
    let transaction = (changes, 0..3_u64, 1..3_u64, any::<bool>());
    proptest::collection::vec(transaction, 0..8).prop_map(|drawn| {
        let mut end_lsn = START.commit_lsn;
        let mut versions = [0_u32; 5];
        let mut transactions = vec![];
        for (changes, gap, record_bytes, has_origin) in drawn {
            let commit_lsn = Lsn(end_lsn.0 + gap);
            end_lsn = Lsn(commit_lsn.0 + record_bytes);
            let mut settled = vec![];
            for (mut change, chance) in changes {
                let alter = |oid: u32, version: &mut u32, newest: &mut [u32; 5]| {
                    let slot = &mut newest[oid as usize];
                    *slot += u32::from(chance % 16 == 1);
                    *version = *slot;
                };
                match &mut change {
                    Change::Row { oid, version, .. } => alter(*oid, version, &mut versions),
                    Change::Truncate { tables } => {
                        for (oid, version) in tables {
                            alter(*oid, version, &mut versions);
                        }
                    }
                    Change::Logical { .. } => {}
                }
                settled.push(change);
            }
            transactions.push(Transaction {
                commit_lsn,
                end_lsn,
                has_origin,
                changes: settled,
            });
        }
        History { transactions }
    })
}
