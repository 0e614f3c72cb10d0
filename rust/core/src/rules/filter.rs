//! A filter on one column, and what it says of a cell.

use std::cmp::Ordering;

use memchr::memmem::Finder;

use super::spec::{Operations, Operator};
use crate::pgoutput::Cell;
use crate::value::{Constant, Type, searched};

/// A compiled comparison.
#[derive(Debug)]
pub(super) struct Filter {
    /// Number of the column at the source.
    pub(super) column: usize,
    pub(super) test: Test,
    /// Operations at the source that it concerns.
    pub(super) operations: Operations,
    /// A delete that does not carry the column is dropped.
    pub(super) drops_empty_deletes: bool,
    /// Number of the rule that it was made of.
    pub(super) rule: usize,
}

#[derive(Debug)]
pub(super) enum Test {
    IsNull(bool),
    Order(Operator, Constant),
    Contains(Type, Box<Finder<'static>>),
}

/// What filters say of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Passes,
    /// By this rule.
    Fails(usize),
    /// A value is not known.
    Unknown,
}

/// A value that is none of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) column: usize,
}

impl Filter {
    /// Whether a value passes. A comparison with NULL is not true.
    fn passes(&self, cell: Cell<'_>) -> Result<bool, Unreadable> {
        let unreadable = Unreadable {
            column: self.column,
        };
        match (&self.test, cell) {
            (Test::IsNull(wanted), cell) => Ok((cell == Cell::Null) == *wanted),
            (_, Cell::Null) => Ok(false),
            (Test::Order(operator, constant), Cell::Text(text)) => {
                let order = constant.compare(text).ok_or(unreadable)?;
                Ok(is_met(*operator, order))
            }
            (Test::Contains(of, finder), Cell::Text(text)) => {
                Ok(finder.find(searched(*of, text)).is_some())
            }
            (_, Cell::Binary(_) | Cell::Unchanged) => Err(unreadable),
        }
    }
}

const fn is_met(operator: Operator, order: Ordering) -> bool {
    match operator {
        Operator::Eq | Operator::Contains => order.is_eq(),
        Operator::Ne => order.is_ne(),
        Operator::Lt => order.is_lt(),
        Operator::Lte => order.is_le(),
        Operator::Gt => order.is_gt(),
        Operator::Gte => order.is_ge(),
    }
}

/// What several filters say: one that fails decides, whatever others do not know.
pub(super) fn judge<'f, 'c>(
    filters: impl Iterator<Item = &'f Filter>,
    cell: impl Fn(usize) -> Option<Cell<'c>>,
) -> Result<Verdict, Unreadable> {
    let mut verdict = Verdict::Passes;
    for filter in filters {
        match cell(filter.column) {
            None | Some(Cell::Unchanged) => verdict = Verdict::Unknown,
            Some(cell) if filter.passes(cell)? => {}
            Some(_) => return Ok(Verdict::Fails(filter.rule)),
        }
    }
    Ok(verdict)
}
