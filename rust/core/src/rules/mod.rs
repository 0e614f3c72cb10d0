//! Rules and routing: what becomes of a source's rows before a sink sees them.
//!
//! A [`Spec`] holds what was written down, a [`RuleSet`] compiles it for one relation after the other into a
//! [`Program`], which cannot fail for a reason of configuration. A program rewrites: [`Rewriter`] turns a
//! body of pgoutput messages into another one, [`CopyRewriter`] COPY rows into COPY rows. Whoever comes
//! behind sees destination tables only.
//!
//! Upstream: the writer, with bodies of the stream and parts of the copy. Downstream: net effects, replay,
//! COPY. Invariants: a change keeps its position; one that is dropped leaves a gap, copies of one change
//! share a position; a relation that a program no longer fits stops with its first change.

mod cells;
mod compile;
mod copy;
mod fate;
mod filter;
mod near;
mod output;
mod program;
mod replace;
mod rewrite;
mod set;
mod spec;
mod transform;
mod trial;

pub use copy::{CopyRewriter, Piece};
pub use fate::Fate;
pub use program::{Program, Routed};
pub use rewrite::{Counts, Rewriter, Rewritten};
pub use set::RuleSet;
pub use spec::{
    Action, Condition, Mistake, Name, Operations, Operator, Route, Rule, RuleError, Spec, Table,
    TypeHint,
};
pub use trial::Trial;
