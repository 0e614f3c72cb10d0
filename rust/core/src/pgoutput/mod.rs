//! pgoutput, protocol version 1: what a walsender says inside its frames.
//!
//! A replication stream is a sequence of CopyData payloads ([`frame`]). Most of them wrap one message:
//! Begin, any number of changes, Commit; a Relation (and the Types of its columns) before the first
//! change that needs it. Everything borrows from the input, nothing is copied.
//!
//! | byte | message | file |
//! |---|---|---|
//! | `B` `C` `O` | Begin, Commit, Origin | [`transaction`] |
//! | `R` `Y` | Relation, Type | [`relation`] |
//! | `I` `U` `D` | Insert, Update, Delete | [`change`] |
//! | `T` | Truncate | [`truncate`] |
//! | `M` | logical decoding message | [`logical`] |

pub mod change;
pub mod cursor;
pub mod frame;
pub mod logical;
pub mod message;
pub mod relation;
pub mod transaction;
pub mod truncate;
pub mod tuple;

pub use change::{Delete, Insert, OldKind, Update};
pub use frame::{Frame, Frames};
pub use logical::Logical;
pub use message::Message;
pub use relation::{Column, Relation, Type};
pub use transaction::{Begin, Commit, Origin};
pub use truncate::Truncate;
pub use tuple::{Cell, Tuple};
