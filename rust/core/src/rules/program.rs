//! A program: rules and routes, compiled for one relation in one version. Immutable.

use std::ops::Range;

use super::filter::Filter;
use super::spec::{Name, Operations};
use super::transform::Transform;
use crate::apply::Op;

/// What becomes of a relation's rows.
#[derive(Debug)]
pub struct Program {
    /// The relation at the source.
    pub(super) source: Name,
    /// Its columns, for messages.
    pub(super) column_names: Vec<String>,
    /// By column: whether it belongs to the replica identity. Under FULL none is told.
    pub(super) key: Vec<bool>,
    /// Filters of all routes.
    pub(super) filters: Vec<Filter>,
    /// By column of the source.
    pub(super) transforms: Vec<Vec<Transform>>,
    pub(super) routes: Vec<Routed>,
}

/// What becomes of neighbouring columns.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// They go as they are.
    Kept(Range<usize>),
    /// It is transformed.
    Transformed(usize),
}

/// A destination of a relation.
#[derive(Debug)]
pub struct Routed {
    /// By which the rows behind the program name it: the source's own for the first one.
    pub oid: u32,
    /// The table.
    pub name: Name,
    /// Columns that it gets, in this order: number at the source, name at the destination.
    pub columns: Vec<(usize, String)>,
    /// The same columns, those that are kept in runs.
    pub(super) parts: Vec<Part>,
    /// Numbers of columns that are transformed.
    pub transformed: Vec<usize>,
    /// Whether the destination has exactly the rows that filters pass: every operation that makes or moves
    /// one is taken and filtered.
    pub is_certain: bool,
    /// Other tables of the group that go there too.
    pub(super) sharers: Vec<u32>,
    /// Operations at the source that it takes.
    pub operations: Operations,
    pub(super) when: Vec<Filter>,
    /// Number of the route, for counting; none without one.
    pub(super) rule: Option<usize>,
    /// Every column goes, in its place, as it is.
    pub(super) keeps_cells: bool,
    /// The message that describes it.
    pub(super) message: Vec<u8>,
}

impl Part {
    /// Columns in ascending order, in runs. `is_transformed` tells those that are not kept.
    pub(super) fn all(
        columns: impl Iterator<Item = usize>,
        is_transformed: impl Fn(usize) -> bool,
    ) -> Vec<Self> {
        let mut parts = Vec::new();
        for column in columns {
            match parts.last_mut() {
                _ if is_transformed(column) => parts.push(Self::Transformed(column)),
                Some(Self::Kept(run)) if run.end == column => run.end += 1,
                _ => parts.push(Self::Kept(column..column + 1)),
            }
        }
        parts
    }
}

impl Program {
    /// Where rows go.
    #[must_use]
    pub fn routes(&self) -> &[Routed] {
        &self.routes
    }

    /// Whether a destination is another table than rows go to without a route.
    #[must_use]
    pub fn is_renamed(&self, routed: &Routed) -> bool {
        routed.name != self.source
    }

    /// Whether rows and table stay as they are.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let whole = |routed: &Routed| {
            routed.keeps_cells
                && !self.is_renamed(routed)
                && routed.is_certain
                && routed.sharers.is_empty()
                && routed.rule.is_none()
        };
        self.filters.is_empty() && self.routes.iter().all(whole) && self.routes.len() == 1
    }

    /// Whether copied rows pass unparsed, if to another table.
    #[must_use]
    pub fn copies_as_is(&self) -> bool {
        let as_is = |routed: &Routed| {
            routed.keeps_cells && routed.when.is_empty() && routed.operations.has(Op::Insert)
        };
        let is_filtered = self
            .filters
            .iter()
            .any(|filter| filter.operations.has(Op::Insert));
        !is_filtered && self.routes.len() == 1 && self.routes.iter().all(as_is)
    }

    /// Columns whose values rules look at.
    pub(super) fn touches(&self, column: usize) -> bool {
        let filters = self
            .filters
            .iter()
            .chain(self.routes.iter().flat_map(|routed| &routed.when));
        filters.into_iter().any(|filter| filter.column == column)
            || self
                .transforms
                .get(column)
                .is_some_and(|transforms| !transforms.is_empty())
    }

    /// The filters of a route that concern an operation.
    pub(super) fn filters<'p>(
        &'p self,
        routed: &'p Routed,
        op: Op,
    ) -> impl Iterator<Item = &'p Filter> + Clone {
        self.filters
            .iter()
            .filter(move |filter| filter.operations.has(op))
            .chain(&routed.when)
    }
}
