//! Envelopes: what the broker stores. A header, then many changes or a piece of COPY rows.
//!
//! The body of a change envelope is pgoutput as the server sent it, each message behind its u32 length,
//! so it can be read alone: a Begin stands before its first change, a Relation (behind the Types of its
//! columns) before the first change of that table. Envelopes form a chain: each tells the position where
//! the one before it ended, so a reader notices a gap by itself.
//!
//! Upstream: frames drained by the pump. Downstream: the broker, then replay at the destination.

pub mod assemble;
mod body;
mod chain;
mod fields;
pub mod header;
mod order;
pub mod read;
mod schema;
mod sizes;
mod write;

pub use assemble::{Assembler, Counters};
pub use chain::Envelope;
pub use fields::{CopyFields, Header, Kind};
pub use header::{HEADER_BYTES, body_of};
pub use read::{Messages, Placed, Reader};
pub use sizes::Sizes;
