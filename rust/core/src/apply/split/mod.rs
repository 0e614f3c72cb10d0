//! Splitting: the bodies of an epoch into one body for each shard, by the key of what they change.
//!
//! Upstream: the worker's dispatcher, with whole bodies of change envelopes one after the other.
//! Downstream: writers, which replay a slice as they replay any body. Invariants: every change stands in
//! exactly one slice, at its own position; changes of one key stand in one slice, in source order; what no
//! single shard can do alone makes the epoch a barrier, and is in no slice.

mod key;
mod slice;
mod splitter;
mod table;

pub use key::HASH_VERSION;
pub(super) use slice::Slice;
pub use splitter::{Slices, Splitter};
pub use table::Route;
