//! Rules and routes as they were written down, and what can be wrong with them.
//!
//! Upstream: files that Python has read and checked for form. Downstream: `compile`.

use std::collections::HashMap;

use crate::apply::Op;
use crate::lsn::Position;

/// Schema and name of a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// Schema.
    pub schema: String,
    /// Name without schema.
    pub name: String,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A set of operations at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operations(u8);

impl Operations {
    /// All of them.
    pub const ALL: Self = Self(7);

    /// These.
    #[must_use]
    pub fn of(operations: &[Op]) -> Self {
        Self(operations.iter().fold(0, |bits, op| bits | bit(*op)))
    }

    /// Whether `op` is one of them.
    #[must_use]
    pub const fn has(self, op: Op) -> bool {
        self.0 & bit(op) != 0
    }
}

const fn bit(op: Op) -> u8 {
    match op {
        Op::Insert => 1,
        Op::Update => 2,
        Op::Delete => 4,
    }
}

/// How a column is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Lte,
    /// Greater.
    Gt,
    /// Greater or equal.
    Gte,
    /// The text holds the constant.
    Contains,
}

impl Operator {
    /// As it is written in files.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Eq => "eq",
            Self::Ne => "ne",
            Self::Lt => "lt",
            Self::Lte => "lte",
            Self::Gt => "gt",
            Self::Gte => "gte",
            Self::Contains => "contains",
        }
    }
}

/// A comparison of a column with a constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Name of the column at the source.
    pub column: String,
    /// How.
    pub operator: Operator,
    /// With what; none: NULL.
    pub value: Option<String>,
    /// Where it was written, for people.
    pub label: String,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Rows pass that meet it.
    Filter {
        /// The operator.
        operator: Operator,
        /// The constant; none: NULL.
        value: Option<String>,
        /// What becomes of a delete that does not carry the column; dropped only if this says `false`.
        allow_empty_deletes: Option<bool>,
    },
    /// All characters but the first and the last are replaced.
    Mask {
        /// By this one.
        mask_char: char,
        /// Also in a column of the replica identity.
        allow_key: bool,
    },
    /// What a regular expression matches is replaced.
    Regex {
        /// The expression.
        pattern: String,
        /// What stands there instead.
        replace: String,
        /// Also in a column of the replica identity.
        allow_key: bool,
    },
    /// The column is left out.
    Exclude,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The table or partition root; none: every table that has the column.
    pub table: Option<Name>,
    /// Name of the column at the source.
    pub column: String,
    /// Operations at the source that it concerns.
    pub operations: Operations,
    /// What it does.
    pub action: Action,
    /// Where it was written, for people.
    pub label: String,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The table or partition root.
    pub source: Name,
    /// Where its rows go; none: where they go without a route.
    pub destination: Option<Name>,
    /// Names of columns, at the source and at the destination.
    pub columns: Vec<(String, String)>,
    /// Operations at the source that it takes.
    pub operations: Operations,
    /// Rows that it takes.
    pub when: Vec<Condition>,
    /// Where it was written, for people.
    pub label: String,
}

/// A table of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// OID at the source.
    pub oid: u32,
    /// Its name.
    pub name: Name,
    /// The partitioned table that it is a leaf of.
    pub root: Option<Name>,
}

/// What must be known of a type that is not built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeHint {
    /// For a domain the type beneath it, else the type itself.
    pub base_oid: u32,
    /// Whether that is an enum.
    pub is_enum: bool,
    /// Whether its values are character strings.
    pub is_string: bool,
}

/// All that was written down, and the group that it is for.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// In the order of the file.
    pub rules: Vec<Rule>,
    /// In the order of the file.
    pub routes: Vec<Route>,
    /// The group's tables.
    pub tables: Vec<Table>,
    /// Types that are not built in, by OID at the source.
    pub types: HashMap<u32, TypeHint>,
}

/// What is wrong with a rule or a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where that was written.
    pub label: String,
    /// What is wrong.
    pub text: String,
}

/// Rules that do not fit the table whose change comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleError {
    /// The table.
    pub table: Name,
    /// The change; none where rows are copied.
    pub position: Option<Position>,
    /// What is wrong.
    pub mistakes: Vec<Mistake>,
}

impl std::error::Error for RuleError {}

impl std::fmt::Display for RuleError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rules do not fit {}", self.table)?;
        if let Some(position) = &self.position {
            write!(f, " at {position}")?;
        }
        self.mistakes
            .iter()
            .try_for_each(|mistake| write!(f, "; {}: {}", mistake.label, mistake.text))
    }
}
