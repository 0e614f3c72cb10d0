//! Net effects: what an epoch's changes leave of each row, as blocks for a few statements.
//!
//! Upstream: the bodies of an epoch. Downstream: COPY for inserts, arrays for updates and deletes, run by
//! the caller. What a row went through inside the epoch is not told: two updates are one, an insert that
//! is deleted again is a delete that must find nothing.
//!
//! | file | owns |
//! |---|---|
//! | `scan` | the walk over the bodies |
//! | `intake` | one change: its relation, its keys, its rule |
//! | `rows` | the rules by which changes of a row become one |
//! | `keys` | which row a key means, now and before the epoch |
//! | `emit` | rows to groups, one group a statement |
//! | `encode` | cells as COPY text and as elements of an array literal |
//!
//! Invariants:
//! - The groups, run in their order (deletes, updates, inserts), leave the rows that replaying the
//!   changes one by one leaves, or one of their statements fails or reports another count than expected.
//!   In that case the caller rolls back and replays. Nothing in here is needed for being right.
//!   One difference is meant: values that a row held only inside the epoch are never written, so that a
//!   constraint of the destination alone (CHECK, a further unique key) does not see them.
//! - Whatever the rules do not cover makes the epoch unfit, or its table slow; replay takes it then.

mod emit;
mod encode;
mod intake;
mod keys;
mod rows;
mod scan;

pub use emit::{Group, Kind};
pub use scan::{Net, NetStep, Route, Unfit};
