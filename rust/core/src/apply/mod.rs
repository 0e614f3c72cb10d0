//! Replay: the changes of an envelope, in source order, as prepared statements.
//!
//! Upstream: change envelopes, whose bodies are pgoutput messages. Downstream: an [`Executor`], which
//! owns the connection. Python decides what a statement looks like; it is asked once per [`Shape`].

mod change;
mod executor;
mod net;
mod presence;
mod relations;
mod replay;
mod sift;
pub mod split;
mod statement;
mod step;
pub(crate) mod walk;

pub use executor::{CONNECTION_FAILURE, Cause, Executor, Param, Place, Refusal};
pub use net::{Group, Kind, Net, NetStep, Route, Unfit};
pub use presence::Presence;
pub use relations::{Column, Relation};
pub use replay::Replay;
pub use sift::sift;
pub use statement::{Call, Conflict, Op, Shape, Source, Statement};
pub use step::{Conflicts, Met, Step};
