//! The rewriter: bodies of pgoutput messages into bodies of pgoutput messages, through programs.
//!
//! Upstream: whole logical bodies, as they came or as slices. Downstream: net effects and replay.
//! Invariants: a body without a relation that rules concern comes back as it is; a change up to `after` is
//! neither looked at nor counted; a relation whose program cannot be made stops with its first change, and
//! nothing of it passes.

use super::cells::{Cells, NotText, Scratch, Side, Which};
use super::fate::{Fate, Rows, fate};
use super::filter::Unreadable;
use super::output::Output;
use super::program::{Program, Routed};
use super::set::RuleSet;
use super::spec::{Mistake, Name, RuleError};
use crate::apply::walk::{Next, Walk};
use crate::apply::{Op, Relation};
use crate::error::{CoreError, Reason};
use crate::lsn::Position;
use crate::pgoutput::{self, Message, OldKind, Truncate, Tuple};
use std::collections::HashMap;

/// How many rows each rule dropped and changed, by its number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(Vec<(u64, u64)>);

impl Counts {
    pub(super) fn of(rules: usize) -> Self {
        Self(vec![(0, 0); rules])
    }

    pub(super) fn dropped(&mut self, rule: usize) {
        if let Some(count) = self.0.get_mut(rule) {
            count.0 += 1;
        }
    }

    pub(super) fn changed(&mut self, rule: usize) {
        if let Some(count) = self.0.get_mut(rule) {
            count.1 += 1;
        }
    }

    /// Numbers of rules that did something, each with the rows that it dropped and changed.
    pub fn told(&self) -> impl Iterator<Item = (usize, u64, u64)> {
        let counts = self.0.iter().enumerate();
        counts
            .map(|(rule, (dropped, changed))| (rule, *dropped, *changed))
            .filter(|(_, dropped, changed)| dropped + changed > 0)
    }
}

/// A body behind the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// None: it is what it was.
    pub body: Option<Vec<u8>>,
    /// Changes in it that stand behind `after`.
    pub changes: u64,
    /// What rules did.
    pub counts: Counts,
}

/// Rewrites one body after the other; remembers relations between them.
#[derive(Debug)]
pub struct Rewriter {
    set: RuleSet,
    known: HashMap<u32, Known>,
}

/// A relation and what becomes of its changes.
#[derive(Debug)]
struct Known {
    /// The message that described it, to notice a change.
    message: Vec<u8>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No rule concerns it.
    Free,
    Ruled(Box<Ruled>),
    /// Rules do not fit it.
    Unfit(Box<(Name, Vec<Mistake>)>),
}

/// A program and what it is run with.
#[derive(Debug)]
struct Ruled {
    program: Program,
    scratch: Scratch,
}

/// An insert, update or delete.
struct Change<'a> {
    oid: u32,
    op: Op,
    old: Option<(OldKind, Tuple<'a>)>,
    new: Option<Tuple<'a>>,
}

impl<'a> Change<'a> {
    const fn of(message: &Message<'a>) -> Option<Self> {
        Some(match message {
            Message::Insert(insert) => Self {
                oid: insert.relation_oid,
                op: Op::Insert,
                old: None,
                new: Some(insert.new),
            },
            Message::Update(update) => Self {
                oid: update.relation_oid,
                op: Op::Update,
                old: update.old,
                new: Some(update.new),
            },
            Message::Delete(delete) => Self {
                oid: delete.relation_oid,
                op: Op::Delete,
                old: Some((delete.old_kind, delete.old)),
                new: None,
            },
            _ => return None,
        })
    }
}

/// The rows of a change, filled again for each.
#[derive(Default)]
struct Buffers<'a> {
    new: Cells<'a>,
    old: Cells<'a>,
}

/// Why a change cannot be rewritten.
enum Refused {
    /// The rules do not fit it.
    Rules(String),
    /// It is malformed.
    Reason(Reason),
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self::Reason(reason)
    }
}

impl Rewriter {
    /// Rewrites by these rules.
    #[must_use]
    pub fn new(set: RuleSet) -> Self {
        Self {
            set,
            known: HashMap::new(),
        }
    }

    /// Rewrites a body. The chain stood at `prev` before it; changes up to `after` become a gap.
    ///
    /// # Errors
    /// A body that is malformed, or rules that do not fit what it holds.
    pub fn rewrite(
        &mut self,
        body: &[u8],
        prev: Position,
        after: Position,
    ) -> Result<Rewritten, CoreError> {
        let rules = self.set.labels().count();
        let mut pass = Pass {
            body,
            walk: Walk::new(prev),
            output: Output::default(),
            counts: Counts::of(rules),
            changes: 0,
        };
        let mut buffers = Buffers::default();
        while let Some(next) = pass.walk.peek(body)? {
            match next.message {
                Message::Relation(described) => self.describe(&mut pass, &next, &described),
                message if !message.is_change() => {}
                Message::Truncate(truncate) => {
                    let is_new = pass.walk.next_position() > after;
                    self.truncate(&mut pass, &next, &truncate, is_new)?;
                }
                message => {
                    let is_new = pass.walk.next_position() > after;
                    match Change::of(&message) {
                        Some(change) => {
                            self.change(&mut pass, &next, &change, is_new, &mut buffers)?;
                        }
                        None => pass.changes += u64::from(is_new),
                    }
                }
            }
            pass.walk.pass(&next)?;
        }
        Ok(Rewritten {
            body: pass.output.finish(body),
            changes: pass.changes,
            counts: pass.counts,
        })
    }

    fn describe(
        &mut self,
        pass: &mut Pass<'_>,
        next: &Next<'_>,
        described: &pgoutput::Relation<'_>,
    ) {
        let is_known = self
            .known
            .get(&described.oid)
            .is_some_and(|known| known.message == next.bytes);
        if !is_known {
            let relation = Relation::new(described, 1);
            let state = match self.set.compile(&relation) {
                Ok(program) if program.is_empty() => State::Free,
                Ok(program) => State::Ruled(Box::new(Ruled {
                    scratch: Scratch::of(&program),
                    program,
                })),
                Err(mistakes) => {
                    let name = Name {
                        schema: relation.schema,
                        name: relation.name,
                    };
                    State::Unfit(Box::new((name, mistakes)))
                }
            };
            let message = next.bytes.to_vec();
            self.known.insert(described.oid, Known { message, state });
        }
        match self.known.get(&described.oid).map(|known| &known.state) {
            Some(State::Ruled(ruled)) => {
                pass.output.cut(pass.body, &next.span());
                for routed in &ruled.program.routes {
                    pass.output.push(&routed.message);
                }
            }
            Some(State::Unfit(_)) => pass.output.cut(pass.body, &next.span()),
            Some(State::Free) | None => {}
        }
    }

    /// The program of a relation; none if no rule concerns it.
    fn ruled(
        &mut self,
        pass: &Pass<'_>,
        next: &Next<'_>,
        oid: u32,
    ) -> Result<Option<&mut Ruled>, CoreError> {
        match self.known.get_mut(&oid).map(|known| &mut known.state) {
            Some(State::Free) => Ok(None),
            Some(State::Ruled(ruled)) => Ok(Some(ruled)),
            Some(State::Unfit(unfit)) => Err(RuleError {
                table: unfit.0.clone(),
                position: Some(pass.walk.next_position()),
                mistakes: unfit.1.clone(),
            }
            .into()),
            None => Err(pass.walk.error(next, Reason::UnknownRelation(oid)).into()),
        }
    }

    fn change<'a>(
        &mut self,
        pass: &mut Pass<'a>,
        next: &Next<'a>,
        change: &Change<'a>,
        is_new: bool,
        buffers: &mut Buffers<'a>,
    ) -> Result<(), CoreError> {
        if !is_new {
            pass.output.cut(pass.body, &next.span());
            pass.output.skip();
            return Ok(());
        }
        let Some(ruled) = self.ruled(pass, next, change.oid)? else {
            pass.changes += 1;
            return Ok(());
        };
        pass.change(next, ruled, change, buffers)
            .map_err(|refused| match refused {
                Refused::Reason(reason) => pass.walk.error(next, reason).into(),
                Refused::Rules(text) => RuleError {
                    table: ruled.program.source.clone(),
                    position: Some(pass.walk.next_position()),
                    mistakes: vec![Mistake {
                        label: "rules".to_owned(),
                        text,
                    }],
                }
                .into(),
            })
    }

    /// A TRUNCATE empties every destination that takes deletes, unless others' rows are in there too.
    fn truncate(
        &mut self,
        pass: &mut Pass<'_>,
        next: &Next<'_>,
        truncate: &Truncate<'_>,
        is_new: bool,
    ) -> Result<(), CoreError> {
        if !is_new {
            pass.output.cut(pass.body, &next.span());
            pass.output.skip();
            return Ok(());
        }
        let mut oids = Vec::new();
        let mut is_ruled = false;
        for oid in truncate.relation_oids() {
            let Some(Ruled { program, .. }) = self.ruled(pass, next, oid)? else {
                oids.push(oid);
                continue;
            };
            is_ruled = true;
            for routed in &program.routes {
                if !routed.operations.has(Op::Delete) {
                    if let Some(rule) = routed.rule {
                        pass.counts.dropped(rule);
                    }
                    continue;
                }
                let is_whole = |other: &u32| truncate.relation_oids().any(|oid| oid == *other);
                if !routed.sharers.iter().all(is_whole) {
                    return Err(RuleError {
                        table: program.source.clone(),
                        position: Some(pass.walk.next_position()),
                        mistakes: vec![Mistake {
                            label: "routing".to_owned(),
                            text: format!(
                                "TRUNCATE would empty {}, where other tables' rows are too",
                                routed.name
                            ),
                        }],
                    }
                    .into());
                }
                oids.push(routed.oid);
            }
        }
        if !is_ruled {
            pass.changes += 1;
            return Ok(());
        }
        pass.output.cut(pass.body, &next.span());
        if oids.is_empty() {
            pass.output.skip();
            return Ok(());
        }
        pass.changes += 1;
        // Tables of the source times their routes: few.
        let count = u32::try_from(oids.len()).unwrap_or(u32::MAX);
        let options = u8::from(truncate.cascade) | u8::from(truncate.restart_identity) << 1;
        let mut message = vec![b'T'];
        message.extend(count.to_be_bytes());
        message.push(options);
        message.extend(oids.iter().flat_map(|oid| oid.to_be_bytes()));
        pass.output.push(&message);
        Ok(())
    }
}

/// One body on its way.
struct Pass<'a> {
    body: &'a [u8],
    walk: Walk,
    output: Output,
    counts: Counts,
    changes: u64,
}

impl<'a> Pass<'a> {
    /// Takes a change along each of its routes.
    fn change(
        &mut self,
        next: &Next<'a>,
        Ruled { program, scratch }: &mut Ruled,
        change: &Change<'a>,
        buffers: &mut Buffers<'a>,
    ) -> Result<(), Refused> {
        let program: &Program = program;
        let columns = program.key.len();
        let old_tuple = change.old.map(|(_, old)| old);
        for tuple in old_tuple.iter().chain(&change.new) {
            let found = usize::from(tuple.cell_count());
            if found != columns {
                return Err(Reason::OtherColumns { columns, found }.into());
            }
        }
        buffers.new.fill(change.new);
        buffers.old.fill(old_tuple);
        let rows = Rows {
            old: change.old.map(|(kind, _)| (kind, &buffers.old)),
            new: &buffers.new,
        };
        let unreadable = |Unreadable { column }| {
            let name = program.column_names.get(column).map_or("", String::as_str);
            Refused::Rules(format!("the value of \"{name}\" is none of its type"))
        };
        let mut is_cut = false;
        let (mut passed, mut counted) = (0_u64, false);
        for routed in &program.routes {
            let (op, presence) = match fate(program, routed, change.op, rows).map_err(unreadable)? {
                Fate::Dropped(rule) => {
                    if let Some(rule) = rule {
                        self.counts.dropped(rule);
                    }
                    continue;
                }
                Fate::Applied(op, presence) => (op, presence),
            };
            passed += 1;
            let stays = routed.keeps_cells && op == change.op && program.routes.len() == 1;
            if stays && presence == crate::apply::Presence::Sure {
                self.changes += 1;
                return Ok(());
            }
            if !is_cut {
                self.output.cut(self.body, &next.span());
                is_cut = true;
            }
            if passed > 1 {
                self.output.again();
            }
            self.output.presence(presence);
            if stays {
                self.output.push(next.bytes);
                continue;
            }
            // Once for each change, by the first row that is made of it.
            let counts = (!counted && op != Op::Delete).then_some(&mut self.counts);
            counted |= counts.is_some();
            let written = self.output.message(|out| {
                write(
                    out,
                    (program, routed),
                    (change.op, op),
                    rows,
                    scratch,
                    counts,
                )
            });
            match written {
                Ok(Ok(())) => {}
                Ok(Err(NotText { column })) => {
                    let name = program.column_names.get(column).map_or("", String::as_str);
                    return Err(Refused::Rules(format!(
                        "the value of \"{name}\" is no text"
                    )));
                }
                Err(too_long) => return Err(Reason::TooLong(too_long.0).into()),
            }
        }
        if passed == 0 {
            self.output.cut(self.body, &next.span());
            self.output.skip();
        }
        self.changes += passed;
        Ok(())
    }
}

/// Writes a change as the operation that it has become.
fn write(
    out: &mut Vec<u8>,
    (program, routed): (&Program, &Routed),
    (was, op): (Op, Op),
    rows: Rows<'_, Cells<'_>>,
    scratch: &mut Scratch,
    counts: Option<&mut Counts>,
) -> Result<(), NotText> {
    let to = (program, routed);
    out.push(match op {
        Op::Insert => b'I',
        Op::Update => b'U',
        Op::Delete => b'D',
    });
    out.extend_from_slice(&routed.oid.to_be_bytes());
    match (op, rows.old) {
        (Op::Insert, _) | (Op::Update, None) => {}
        (_, Some((kind, old))) => {
            out.push(kind.tag());
            scratch.tuple(out, to, (old, Which::All), Side::Old, None)?;
        }
        (Op::Delete, None) => {
            // The key did not change: it stands in the new row.
            out.push(OldKind::Key.tag());
            let key = Which::Key(&program.key);
            scratch.tuple(out, to, (rows.new, key), Side::Old, None)?;
        }
    }
    if op != Op::Delete {
        out.push(b'N');
        let which = match rows.old {
            Some((OldKind::Row, old)) if op == Op::Insert => Which::Or(old),
            _ => Which::All,
        };
        scratch.tuple(out, to, (rows.new, which), Side::New(was), counts)?;
    }
    Ok(())
}
