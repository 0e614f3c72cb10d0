//! COPY data out of a connection, many messages to a call.
//!
//! Upstream: a connection in COPY OUT or in a replication stream. Downstream: the envelope assembler
//! (frames) and the copy packer (rows). Invariant: messages come out whole, in order, each once.

use std::time::{Duration, Instant};

use crate::connection::{Connection, CopyBuffer, CopyData};
use crate::wait::{Interest, Readiness, wait};

/// Room asked for at once; larger drains grow into theirs.
const FIRST_CAPACITY_BYTES: usize = 1024 * 1024;
/// How long a call with a short timeout goes on reading one message that is not whole yet.
const LONGEST_PARTIAL: Duration = Duration::from_millis(50);
/// An encryption layer holds one packet of at most 16 KiB, and each look takes 8 KiB or all of it.
const BLIND_LOOKS: u8 = 3;
/// A look that brings less has caught up with the sender. To go on would be a look for every message,
/// and each wakes the sender's side as well: a walsender that is chased so takes half as much CPU again.
const CAUGHT_UP_BYTES: usize = 4096;
/// What COPY's binary format ends with, in a message of its own.
const BINARY_TRAILER: &[u8] = b"\xff\xff";
/// Header and trailer in one message: a binary COPY without rows.
const EMPTY_BINARY_COPY: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\xff\xff";

/// How messages are laid one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[u32 big-endian length][message]`: the replication stream, where boundaries matter. Returns as
    /// soon as nothing more is there.
    Frames,
    /// Messages only: COPY rows, which carry their own boundaries. Goes on waiting until the block is
    /// full or the time is up, since nobody waits for a single row.
    Rows,
}

/// Why a drain returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainState {
    /// The block is full, or a large message used up the time: there may be more at once.
    More,
    /// What was there is taken; the socket tells when there is more, for no byte hides in front of it.
    Idle,
    /// The COPY ended; psycopg collects its result, which may be an error.
    End,
    /// The connection broke; psycopg has its message.
    Failed,
}

/// What one call brought. The messages are good in every state.
#[derive(Debug)]
pub struct Drained {
    /// The messages, as `Layout` says.
    pub bytes: Vec<u8>,
    /// How many; a binary COPY's trailer is not a row and not counted.
    pub messages: u64,
    /// Why it returned.
    pub state: DrainState,
}

impl Drained {
    fn append(&mut self, layout: Layout, message: &CopyBuffer) {
        let message = message.bytes();
        if layout == Layout::Frames {
            // libpq counts messages in a C int, so the length always fits.
            let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
            self.bytes.extend_from_slice(&length.to_be_bytes());
        }
        self.bytes.extend_from_slice(message);
        let is_row = message != BINARY_TRAILER && message != EMPTY_BINARY_COPY;
        self.messages += u64::from(layout == Layout::Frames || is_row);
    }
}

impl Connection {
    /// How often input has to be asked for in vain before the socket alone tells whether there is any.
    fn looks_until_idle(&self) -> u8 {
        if self.has_hidden_input().is_some() {
            1
        } else {
            BLIND_LOOKS
        }
    }

    /// Whether a look that brought so many bytes had all there was, or nearly so. Not said of an
    /// encrypted connection that holds bytes or does not tell: the socket would not speak of them.
    fn has_caught_up(&self, brought_bytes: usize) -> bool {
        (1..CAUGHT_UP_BYTES).contains(&brought_bytes) && self.has_hidden_input() == Some(false)
    }

    /// Takes messages until `max_bytes` are reached (the last one may exceed it), the stream is idle or
    /// ends. Waits at most `timeout` for input; zero does not wait. Memory: the block, plus what libpq
    /// holds of the largest message.
    pub fn drain(&mut self, layout: Layout, max_bytes: usize, timeout: Duration) -> Drained {
        let started = Instant::now();
        let deadline = started + timeout;
        // A huge message that keeps coming must not keep the caller from its other duties for ever.
        let limit = started + timeout.max(LONGEST_PARTIAL);
        let mut drained = Drained {
            bytes: Vec::with_capacity(max_bytes.min(FIRST_CAPACITY_BYTES)),
            messages: 0,
            state: DrainState::Idle,
        };
        let mut looks = 0_u8;
        let mut looked_at = 0;
        drained.state = loop {
            match self.copy_data() {
                CopyData::Message(message) => {
                    drained.append(layout, &message);
                    looks = 0;
                    if drained.bytes.len() >= max_bytes {
                        break DrainState::More;
                    }
                }
                CopyData::NotReady => {
                    let brought = drained.bytes.len() - looked_at;
                    if layout == Layout::Frames && self.has_caught_up(brought) {
                        break DrainState::Idle;
                    }
                    looked_at = drained.bytes.len();
                    if looks >= self.looks_until_idle() {
                        let patient = layout == Layout::Rows || drained.messages == 0;
                        let until = if patient { deadline } else { started };
                        match wait(self, Interest::Read, Some(until)) {
                            Readiness::Ready if Instant::now() < limit => {}
                            // Not idle: the caller must not wait for a socket that may stay silent.
                            Readiness::Ready => break DrainState::More,
                            Readiness::TimedOut => break DrainState::Idle,
                            Readiness::Broken => break DrainState::Failed,
                        }
                    }
                    if !self.consume_input() {
                        break DrainState::Failed;
                    }
                    looks = looks.saturating_add(1);
                }
                CopyData::End => break DrainState::End,
                CopyData::Failed => break DrainState::Failed,
            }
        };
        drained
    }
}
