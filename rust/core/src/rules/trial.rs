//! One row through a program, for eyes: what becomes of it on each route, and by which rules.
//!
//! Upstream: `pgflo rules test`. Invariant: the answers are those of `rewrite` and of `copy`.

use super::cells::{NotText, Scratch, Side};
use super::fate::{Fate, Rows, fate};
use super::filter::Unreadable;
use super::program::Program;
use super::rewrite::Counts;
use super::spec::{Mistake, RuleError};
use crate::apply::Op;
use crate::pgoutput::{Cell, OldKind};

/// What becomes of a row on one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The operation, or the rule that drops it.
    pub fate: Fate,
    /// Values by column of the destination, for what is inserted or updated; none for NULL.
    pub values: Vec<Option<Vec<u8>>>,
}

impl Program {
    /// Tries a change. `rules` is the number of rules that are counted.
    ///
    /// # Errors
    /// A value that is none of its type.
    pub fn trial(
        &self,
        op: Op,
        old: Option<(OldKind, &[Cell<'_>])>,
        new: &[Cell<'_>],
        rules: usize,
    ) -> Result<(Vec<Trial>, Counts), RuleError> {
        let row = Rows { old, new };
        let mut counts = Counts::of(rules);
        let mut scratch = Scratch::of(self);
        let mut trials = Vec::new();
        let mut counted = false;
        for routed in &self.routes {
            let fate = fate(self, routed, op, row)
                .map_err(|Unreadable { column }| self.refusal(column, "none of its type"))?;
            let mut values = Vec::new();
            match fate {
                Fate::Dropped(Some(rule)) => counts.dropped(rule),
                Fate::Dropped(None) | Fate::Applied(Op::Delete, _) => {}
                Fate::Applied(..) => {
                    for (column, _) in &routed.columns {
                        values.push(match row.after(*column) {
                            None | Some(Cell::Unchanged | Cell::Null) => None,
                            Some(Cell::Text(text) | Cell::Binary(text)) => {
                                let counts = (!counted).then_some(&mut counts);
                                let changed = scratch
                                    .transformed(self, *column, text, Side::New(op), counts)
                                    .map_err(|NotText { column }| {
                                        self.refusal(column, "no text")
                                    })?;
                                Some(changed.unwrap_or(text).to_vec())
                            }
                        });
                    }
                    counted = true;
                }
            }
            trials.push(Trial { fate, values });
        }
        Ok((trials, counts))
    }

    /// A value that a rule cannot take.
    pub(super) fn refusal(&self, column: usize, what: &str) -> RuleError {
        let name = self.column_names.get(column).map_or("", String::as_str);
        RuleError {
            table: self.source.clone(),
            position: None,
            mistakes: vec![Mistake {
                label: "rules".to_owned(),
                text: format!("the value of \"{name}\" is {what}"),
            }],
        }
    }
}
