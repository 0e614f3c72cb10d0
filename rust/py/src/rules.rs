//! `RuleSet`, `Program`, `Rewriter`, `CopyRewriter`: rules and routing on their way into the core.
//!
//! Upstream: specifications that `pgflo.rules` has read from files, bodies and copy parts from the writers.
//! Downstream: `pgflo_core::rules`. Invariant: what a program is asked to do, it does for a whole body or
//! part in one call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use pgflo_core::apply::{self, Op};
use pgflo_core::pgoutput::{Cell, OldKind};
use pgflo_core::rules::{
    self, Action, Fate, Mistake, Name, Operations, Operator, RuleError, Spec, TypeHint,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::boundary::{self, Bytes};
use crate::replay::position;

/// `pgflo.rules.spec.Condition`.
#[derive(FromPyObject)]
struct Condition {
    label: String,
    column: String,
    operator: String,
    value: Option<String>,
}

/// `pgflo.rules.spec.Rule`.
#[derive(FromPyObject)]
struct Rule {
    label: String,
    table: Option<(String, String)>,
    column: String,
    operations: Vec<String>,
    kind: String,
    operator: String,
    value: Option<String>,
    allow_empty_deletes: Option<bool>,
    mask_char: char,
    pattern: String,
    replace: String,
    allow_key: bool,
}

/// `pgflo.rules.spec.Route`.
#[derive(FromPyObject)]
struct Route {
    label: String,
    source: (String, String),
    destination: Option<(String, String)>,
    columns: Vec<(String, String)>,
    operations: Vec<String>,
    when: Vec<Condition>,
}

/// `pgflo.rules.spec.GroupTable`.
#[derive(FromPyObject)]
struct GroupTable {
    oid: u32,
    schema: String,
    name: String,
    root: Option<(String, String)>,
}

fn name((schema, name): (String, String)) -> Name {
    Name { schema, name }
}

fn operations(words: &[String]) -> PyResult<Operations> {
    let ops: PyResult<Vec<Op>> = words
        .iter()
        .map(|word| match word.as_str() {
            "INSERT" => Ok(Op::Insert),
            "UPDATE" => Ok(Op::Update),
            "DELETE" => Ok(Op::Delete),
            _ => Err(PyValueError::new_err("unknown operation")),
        })
        .collect();
    Ok(Operations::of(&ops?))
}

fn operator(word: &str) -> PyResult<Operator> {
    Ok(match word {
        "eq" => Operator::Eq,
        "ne" => Operator::Ne,
        "lt" => Operator::Lt,
        "lte" => Operator::Lte,
        "gt" => Operator::Gt,
        "gte" => Operator::Gte,
        "contains" => Operator::Contains,
        _ => return Err(PyValueError::new_err("unknown operator")),
    })
}

impl Rule {
    fn read(self) -> PyResult<rules::Rule> {
        let action = match self.kind.as_str() {
            "filter" => Action::Filter {
                operator: operator(&self.operator)?,
                value: self.value,
                allow_empty_deletes: self.allow_empty_deletes,
            },
            "mask" => Action::Mask {
                mask_char: self.mask_char,
                allow_key: self.allow_key,
            },
            "regex" => Action::Regex {
                pattern: self.pattern,
                replace: self.replace,
                allow_key: self.allow_key,
            },
            "exclude_column" => Action::Exclude,
            _ => return Err(PyValueError::new_err("unknown kind of rule")),
        };
        Ok(rules::Rule {
            table: self.table.map(name),
            column: self.column,
            operations: operations(&self.operations)?,
            action,
            label: self.label,
        })
    }
}

impl Route {
    fn read(self) -> PyResult<rules::Route> {
        let when = self.when.into_iter().map(|condition| {
            Ok(rules::Condition {
                column: condition.column,
                operator: operator(&condition.operator)?,
                value: condition.value,
                label: condition.label,
            })
        });
        Ok(rules::Route {
            source: name(self.source),
            destination: self.destination.map(name),
            columns: self.columns,
            operations: operations(&self.operations)?,
            when: when.collect::<PyResult<_>>()?,
            label: self.label,
        })
    }
}

/// See the core's `rules`.
#[pyclass(frozen, module = "pgflo._core")]
pub struct RuleSet {
    inner: Mutex<rules::RuleSet>,
}

/// What becomes of one relation's rows.
#[pyclass(frozen, module = "pgflo._core")]
pub struct Program(Arc<rules::Program>);

/// A destination of a relation.
#[pyclass(frozen, get_all, module = "pgflo._core")]
pub struct Routed {
    oid: u32,
    schema: String,
    name: String,
    is_renamed: bool,
    columns: Vec<(usize, String)>,
    transformed: Vec<usize>,
    takes_inserts: bool,
    is_certain: bool,
}

type Types = HashMap<u32, (u32, bool, bool)>;
type Columns = Vec<(String, u32, i32, bool)>;
type Counted = Vec<(usize, u64, u64)>;
type Tried = (
    &'static str,
    &'static str,
    Option<usize>,
    Vec<Option<String>>,
);

#[pymethods]
impl RuleSet {
    #[new]
    fn new(
        py: Python<'_>,
        rules: Vec<Rule>,
        routes: Vec<Route>,
        tables: Vec<GroupTable>,
        types: Types,
    ) -> PyResult<Self> {
        let rules = rules.into_iter().map(Rule::read).collect::<PyResult<_>>()?;
        let routes = routes
            .into_iter()
            .map(Route::read)
            .collect::<PyResult<_>>()?;
        let tables = tables.into_iter().map(|table| rules::Table {
            oid: table.oid,
            name: name((table.schema, table.name)),
            root: table.root.map(name),
        });
        let types = types
            .into_iter()
            .map(|(oid, (base_oid, is_enum, is_string))| {
                let hint = TypeHint {
                    base_oid,
                    is_enum,
                    is_string,
                };
                (oid, hint)
            });
        let spec = Spec {
            rules,
            routes,
            tables: tables.collect(),
            types: types.collect(),
        };
        let set = boundary::run(py, || {
            Ok::<_, pgflo_core::CoreError>(rules::RuleSet::new(spec))
        })?;
        Ok(Self {
            inner: Mutex::new(set),
        })
    }

    /// Where each rule, then each route was written.
    #[getter]
    fn labels(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.with(py, |set| Ok(set.labels().map(str::to_owned).collect()))
    }

    /// Compiles what becomes of a relation.
    fn compile(
        &self,
        py: Python<'_>,
        oid: u32,
        table: (String, String),
        replica_identity: char,
        columns: Columns,
    ) -> PyResult<Program> {
        let columns = columns
            .into_iter()
            .map(|(name, type_oid, typmod, key)| apply::Column {
                name,
                type_oid,
                typmod,
                key,
            });
        let (schema, name) = table;
        let relation = apply::Relation {
            oid,
            version: 1,
            schema,
            name,
            replica_identity: u8::try_from(replica_identity).unwrap_or(b'd'),
            columns: columns.collect(),
        };
        let program = self.with(py, |set| {
            set.compile(&relation)
                .map_err(|mistakes| refused(&relation, mistakes).into())
        })?;
        Ok(Program(Arc::new(program)))
    }
}

fn cells(values: &[Option<String>]) -> Vec<Cell<'_>> {
    let values = values.iter();
    values
        .map(|value| {
            let text = value.as_ref().map(String::as_bytes);
            text.map_or(Cell::Null, Cell::Text)
        })
        .collect()
}

fn refused(relation: &apply::Relation, mistakes: Vec<Mistake>) -> RuleError {
    RuleError {
        table: name((relation.schema.clone(), relation.name.clone())),
        position: None,
        mistakes,
    }
}

impl RuleSet {
    /// Runs `work` on the core's own object.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut rules::RuleSet) -> Result<T, pgflo_core::CoreError> + Send,
    ) -> PyResult<T> {
        boundary::locked(py, &self.inner, "rules stopped at an earlier panic", work)
    }
}

#[pymethods]
impl Program {
    /// Where rows go.
    #[getter]
    fn routes(&self) -> Vec<Routed> {
        let routes = self.0.routes().iter();
        routes
            .map(|routed| Routed {
                oid: routed.oid,
                schema: routed.name.schema.clone(),
                name: routed.name.name.clone(),
                is_renamed: self.0.is_renamed(routed),
                columns: routed.columns.clone(),
                transformed: routed.transformed.clone(),
                takes_inserts: routed.operations.has(Op::Insert),
                is_certain: routed.is_certain,
            })
            .collect()
    }

    /// Whether rows and table stay as they are.
    #[getter]
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tries one change: for each route the operation (empty: dropped) and what is known of the row, the
    /// rule that drops it, and values by column.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "arguments are extracted from Python, by value"
    )]
    fn trial(
        &self,
        py: Python<'_>,
        op: char,
        old: Option<(bool, Vec<Option<String>>)>,
        new: Vec<Option<String>>,
        rules: usize,
    ) -> PyResult<(Vec<Tried>, Counted)> {
        let op = match op {
            'I' => Op::Insert,
            'U' => Op::Update,
            _ => Op::Delete,
        };
        let tried = boundary::run(py, || {
            let kind = |is_row: bool| if is_row { OldKind::Row } else { OldKind::Key };
            let old = old
                .as_ref()
                .map(|(is_row, old)| (kind(*is_row), cells(old)));
            let old = old.as_ref().map(|(kind, old)| (*kind, old.as_slice()));
            let tried = self.0.trial(op, old, &cells(&new), rules);
            tried.map_err(pgflo_core::CoreError::from)
        });
        let (trials, counts) = tried?;
        let shown = trials.into_iter().map(|trial| {
            let (op, presence, rule) = match trial.fate {
                Fate::Dropped(rule) => ("", "", rule),
                Fate::Applied(op, presence) => (
                    match op {
                        Op::Insert => "INSERT",
                        Op::Update => "UPDATE",
                        Op::Delete => "DELETE",
                    },
                    crate::step::presence(presence),
                    None,
                ),
            };
            let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
            let values = trial.values.into_iter();
            let values = values.map(|value| value.map(text)).collect();
            (op, presence, rule, values)
        });
        Ok((shown.collect(), counts.told().collect()))
    }

    /// Whether copied rows pass unparsed, if to another table.
    #[getter]
    fn copies_as_is(&self) -> bool {
        self.0.copies_as_is()
    }
}

/// Rewrites bodies.
#[pyclass(frozen, module = "pgflo._core")]
pub struct Rewriter {
    inner: Mutex<rules::Rewriter>,
}

type Rewritten<'py> = (Option<Bound<'py, PyBytes>>, u64, Counted);

#[pymethods]
impl Rewriter {
    #[new]
    fn new(py: Python<'_>, rules: &RuleSet) -> PyResult<Self> {
        let set = rules.with(py, |set| Ok(set.clone()))?;
        Ok(Self {
            inner: Mutex::new(rules::Rewriter::new(set)),
        })
    }

    /// Rewrites a body; None in place of it: it stays as it is.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "arguments are extracted from Python, by value"
    )]
    fn rewrite<'py>(
        &self,
        py: Python<'py>,
        body: Bytes,
        prev: (u64, u64),
        after: (u64, u64),
    ) -> PyResult<Rewritten<'py>> {
        let rewritten = boundary::locked(
            py,
            &self.inner,
            "rewriting stopped at an earlier panic",
            |rewriter| rewriter.rewrite(body.as_ref(), position(prev), position(after)),
        )?;
        let body = rewritten.body.map(|body| PyBytes::new(py, &body));
        Ok((body, rewritten.changes, rewritten.counts.told().collect()))
    }
}

/// Takes the rows of one range through a program.
#[pyclass(frozen, module = "pgflo._core")]
pub struct CopyRewriter {
    inner: Mutex<rules::CopyRewriter>,
}

#[pymethods]
impl CopyRewriter {
    #[new]
    fn new(program: &Program, rules: usize) -> Self {
        let program = Arc::clone(&program.0);
        Self {
            inner: Mutex::new(rules::CopyRewriter::new(program, rules)),
        }
    }

    /// Takes the next part; gives data and number of rows for each route.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "arguments are extracted from Python, by value"
    )]
    fn feed<'py>(&self, py: Python<'py>, part: Bytes) -> PyResult<Vec<(Bound<'py, PyBytes>, u64)>> {
        let pieces = self.with(py, |rewriter| rewriter.feed(part.as_ref()))?;
        let pieces = pieces.into_iter();
        Ok(pieces
            .map(|piece| (PyBytes::new(py, &piece.data), piece.rows))
            .collect())
    }

    /// Ends the range: rows taken, and what rules did.
    fn finish(&self, py: Python<'_>) -> PyResult<(u64, Counted)> {
        let (rows, counts) = self.with(py, rules::CopyRewriter::finish)?;
        Ok((rows, counts.told().collect()))
    }
}

impl CopyRewriter {
    /// Runs `work` on the core's own object.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut rules::CopyRewriter) -> Result<T, pgflo_core::CoreError> + Send,
    ) -> PyResult<T> {
        boundary::locked(
            py,
            &self.inner,
            "the copy stopped at an earlier panic",
            work,
        )
    }
}
