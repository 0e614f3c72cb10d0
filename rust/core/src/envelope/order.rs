//! Where the changes of a stream stand, and whether the chain holds them already.
//!
//! Invariant: transactions come whole and in commit order, each at or behind the end of the one before.
//! What is at or before the start position is skipped, change by change; it must be the same again, since
//! ordinals mean nothing otherwise. A chain that was taken over inside a transaction goes on with its rest
//! and with nothing else.

use std::cmp::Ordering;

use crate::error::Reason;
use crate::lsn::{Lsn, Position};
use crate::pgoutput::Commit;

pub(super) struct Order {
    /// Where the chain stood when it was taken over.
    start: Position,
    /// Whether that lies inside a transaction whose rest has not come yet.
    start_is_open: bool,
    /// No transaction may commit below: end of the last commit seen, or our last watermark.
    floor_lsn: Lsn,
    /// End of the last commit that is in the chain, pending, or empty.
    end_lsn: Lsn,
    transaction: Option<Transaction>,
}

/// The transaction whose Begin came last.
struct Transaction {
    final_lsn: Lsn,
    /// Changes that came.
    ordinal: u64,
    /// Changes up to here are in the chain already.
    skip_through: u64,
}

impl Order {
    pub(super) fn new(start: Position, end_lsn: Lsn) -> Self {
        Self {
            start,
            start_is_open: start.ordinal > 0 && start.commit_lsn >= end_lsn,
            floor_lsn: Lsn::default(),
            end_lsn,
            transaction: None,
        }
    }

    pub(super) const fn end_lsn(&self) -> Lsn {
        self.end_lsn
    }

    /// Whether a Begin waits for its Commit, or the rest of a transaction has to come.
    pub(super) const fn is_in_transaction(&self) -> bool {
        self.transaction.is_some() || self.start_is_open
    }

    pub(super) fn begin(&mut self, commit_lsn: Lsn) -> Result<(), Reason> {
        if let Some(open) = &self.transaction {
            return Err(Reason::InsideTransaction(open.final_lsn));
        }
        let is_behind_start = commit_lsn > self.start.commit_lsn;
        let floor_lsn = if is_behind_start {
            self.floor_lsn.max(self.end_lsn)
        } else {
            self.floor_lsn
        };
        if commit_lsn < floor_lsn {
            return Err(Reason::NotIncreasing {
                commit_lsn,
                floor_lsn,
            });
        }
        if is_behind_start && self.start_is_open {
            return Err(Reason::MissingRest {
                expected: self.start,
                found: commit_lsn,
            });
        }
        let skip_through = match commit_lsn.cmp(&self.start.commit_lsn) {
            Ordering::Less => u64::MAX,
            Ordering::Equal => self.start.ordinal,
            Ordering::Greater => 0,
        };
        self.transaction = Some(Transaction {
            final_lsn: commit_lsn,
            ordinal: 0,
            skip_through,
        });
        Ok(())
    }

    /// An Origin stands directly behind its Begin.
    pub(super) fn origin(&self) -> Result<(), Reason> {
        let transaction = self
            .transaction
            .as_ref()
            .ok_or(Reason::OutsideTransaction)?;
        if transaction.ordinal > 0 {
            Err(Reason::LateOrigin)
        } else {
            Ok(())
        }
    }

    /// The position of the next change; `None` if the chain holds it.
    #[inline]
    pub(super) fn change(&mut self) -> Result<Option<Position>, Reason> {
        let transaction = self
            .transaction
            .as_mut()
            .ok_or(Reason::OutsideTransaction)?;
        transaction.ordinal += 1;
        let ordinal = transaction.ordinal;
        if ordinal <= transaction.skip_through {
            return Ok(None);
        }
        if transaction.skip_through > 0 && !self.start_is_open {
            return Err(Reason::OtherChanges {
                recorded: self.start,
                found: ordinal,
            });
        }
        Ok(Some(Position::new(transaction.final_lsn, ordinal)))
    }

    /// Ends the transaction. Whether it is the one that the chain was taken over in.
    pub(super) fn commit(&mut self, commit: &Commit) -> Result<bool, Reason> {
        let transaction = self.transaction.take().ok_or(Reason::OutsideTransaction)?;
        let Commit {
            commit_lsn,
            end_lsn,
            ..
        } = *commit;
        let final_lsn = transaction.final_lsn;
        if commit_lsn != final_lsn || end_lsn <= commit_lsn {
            return Err(Reason::OtherCommit {
                commit_lsn,
                end_lsn,
                final_lsn,
            });
        }
        let is_start = commit_lsn == self.start.commit_lsn && self.start.ordinal > 0;
        if is_start && transaction.ordinal < self.start.ordinal {
            return Err(Reason::OtherChanges {
                recorded: self.start,
                found: transaction.ordinal,
            });
        }
        self.floor_lsn = end_lsn;
        self.end_lsn = self.end_lsn.max(end_lsn);
        let was_rest = is_start && self.start_is_open;
        self.start_is_open &= !is_start;
        Ok(was_rest)
    }

    /// Promises that nothing more will come below `lsn`, from outside of any transaction.
    pub(super) const fn watermark(&mut self, lsn: Lsn) {
        self.floor_lsn = lsn;
        self.end_lsn = lsn;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(commit_lsn: u64, ordinal: u64) -> Position {
        Position::new(Lsn(commit_lsn), ordinal)
    }

    fn end(commit_lsn: u64, end_lsn: u64) -> Commit {
        Commit {
            commit_lsn: Lsn(commit_lsn),
            end_lsn: Lsn(end_lsn),
            commit_time_us: 0,
        }
    }

    /// The changes of a transaction that are new, and whether it was the rest of the start's.
    fn transaction(
        order: &mut Order,
        lsn: u64,
        changes: u64,
    ) -> Result<(Vec<Position>, bool), Reason> {
        order.begin(Lsn(lsn))?;
        let mut new = vec![];
        for _ in 0..changes {
            new.extend(order.change()?);
        }
        Ok((new, order.commit(&end(lsn, lsn + 10))?))
    }

    #[test]
    fn a_transaction_at_the_very_lsn_of_a_start_or_watermark_is_new() {
        let mut order = Order::new(at(100, 0), Lsn(100));
        assert_eq!(
            transaction(&mut order, 100, 1),
            Ok((vec![at(100, 1)], false))
        );
        order.watermark(Lsn(200));
        assert_eq!(
            transaction(&mut order, 200, 1),
            Ok((vec![at(200, 1)], false))
        );
        assert_eq!(order.end_lsn(), Lsn(210));
    }

    #[test]
    fn what_the_chain_holds_is_skipped_change_by_change() {
        let mut order = Order::new(at(100, 2), Lsn(90));
        assert!(order.is_in_transaction());
        assert_eq!(transaction(&mut order, 50, 3), Ok((vec![], false)));
        assert_eq!(
            transaction(&mut order, 100, 3),
            Ok((vec![at(100, 3)], true))
        );
        assert!(!order.is_in_transaction());
        assert_eq!(
            transaction(&mut order, 110, 1),
            Ok((vec![at(110, 1)], false))
        );
    }

    #[test]
    fn a_finished_transaction_that_comes_again_moves_nothing() {
        let mut order = Order::new(at(100, 2), Lsn(110));
        assert_eq!(transaction(&mut order, 100, 2), Ok((vec![], false)));
        assert_eq!(order.end_lsn(), Lsn(110));
    }

    #[test]
    fn a_transaction_that_comes_again_with_other_changes_is_refused() {
        for (end_lsn, changes, found) in [(110, 1, 1), (110, 3, 3), (90, 1, 1)] {
            let mut order = Order::new(at(100, 2), Lsn(end_lsn));
            let refused = Reason::OtherChanges {
                recorded: at(100, 2),
                found,
            };
            assert_eq!(transaction(&mut order, 100, changes), Err(refused));
        }
    }

    #[test]
    fn another_transaction_in_place_of_the_rest_is_refused() {
        let mut order = Order::new(at(100, 2), Lsn(90));
        let refused = Reason::MissingRest {
            expected: at(100, 2),
            found: Lsn(120),
        };
        assert_eq!(transaction(&mut order, 120, 1), Err(refused));
    }

    #[test]
    fn a_transaction_below_the_end_of_what_came_before_is_refused() {
        let refused = |lsn, floor| {
            Err(Reason::NotIncreasing {
                commit_lsn: Lsn(lsn),
                floor_lsn: Lsn(floor),
            })
        };
        let mut order = Order::new(at(0, 0), Lsn(0));
        assert!(transaction(&mut order, 100, 1).is_ok());
        assert_eq!(order.begin(Lsn(109)), refused(109, 110));
        order.watermark(Lsn(150));
        assert_eq!(order.begin(Lsn(149)), refused(149, 150));
        // Also among those that are skipped, and just behind a start that tells its own end.
        let mut order = Order::new(at(500, 1), Lsn(510));
        assert!(transaction(&mut order, 100, 1).is_ok());
        assert_eq!(order.begin(Lsn(100)), refused(100, 110));
        assert_eq!(order.begin(Lsn(505)), refused(505, 510));
    }

    #[test]
    fn messages_out_of_their_transaction_are_refused() {
        let mut order = Order::new(at(0, 0), Lsn(0));
        assert_eq!(order.change(), Err(Reason::OutsideTransaction));
        assert_eq!(order.origin(), Err(Reason::OutsideTransaction));
        assert_eq!(order.commit(&end(1, 2)), Err(Reason::OutsideTransaction));
        assert_eq!(order.begin(Lsn(100)), Ok(()));
        assert_eq!(
            order.begin(Lsn(200)),
            Err(Reason::InsideTransaction(Lsn(100)))
        );
        assert_eq!(order.origin(), Ok(()));
        assert_eq!(order.change(), Ok(Some(at(100, 1))));
        assert_eq!(order.origin(), Err(Reason::LateOrigin));
    }

    #[test]
    fn a_commit_that_contradicts_its_begin_is_refused() {
        for (commit_lsn, end_lsn) in [(101, 120), (100, 100), (100, 99)] {
            let mut order = Order::new(at(0, 0), Lsn(0));
            assert_eq!(order.begin(Lsn(100)), Ok(()));
            let refusal = order.commit(&end(commit_lsn, end_lsn));
            assert!(matches!(refusal, Err(Reason::OtherCommit { .. })));
        }
    }
}
