//! From rules and routes to the program of one relation.
//!
//! Invariant: every mistake is found, not only the first; a program that is made cannot fail for a reason
//! of configuration.

use std::collections::HashMap;

use memchr::memmem::Finder;

use super::filter::{Filter, Test};
use super::near::nearest;
use super::program::{Part, Program, Routed};
use super::set::RuleSet;
use super::spec::{Action, Condition, Mistake, Name, Operations, Operator, Route, Rule};
use super::transform::{How, Transform};
use crate::apply::{Op, Relation};
use crate::value::{Constant, Type};

/// `name`: a type for names of objects, text to everybody else.
const NAME_OID: u32 = 19;
const PADDED_OID: u32 = 1042;
/// Types from here on are not built in.
const FIRST_OWN_OID: u32 = 10_000;
/// All columns are the identity.
const FULL: u8 = b'f';

pub(super) fn compile(set: &mut RuleSet, relation: &Relation) -> Result<Program, Vec<Mistake>> {
    let name = Name {
        schema: relation.schema.clone(),
        name: relation.name.clone(),
    };
    let known = set.table(relation.oid).cloned();
    let root = known.as_ref().and_then(|table| table.root.clone());
    let rules = applying(set, relation, &name, root.as_ref());
    let mut compiler = Compiler {
        set,
        relation,
        name: &name,
        mistakes: Vec::new(),
        filters: Vec::new(),
        transforms: relation.columns.iter().map(|_| Vec::new()).collect(),
        excluded: HashMap::new(),
    };
    compiler.refuse_strangers(known.is_some());
    for (number, rule) in &rules {
        compiler.rule(*number, rule);
    }
    let routes = compiler.routes(root.as_ref());
    let Compiler {
        mistakes,
        filters,
        transforms,
        ..
    } = compiler;
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let everywhere = rules.iter().filter(|(_, rule)| rule.table.is_none());
    let bound = everywhere.map(|(number, _)| *number);
    set.bound.entry(relation.oid).or_default().extend(bound);
    let is_key = |key: bool| key && relation.replica_identity != FULL;
    Ok(Program {
        source: name,
        column_names: relation.columns.iter().map(|c| c.name.clone()).collect(),
        key: relation.columns.iter().map(|c| is_key(c.key)).collect(),
        filters,
        transforms,
        routes,
    })
}

/// The rules that concern a relation, with their numbers.
fn applying(
    set: &RuleSet,
    relation: &Relation,
    name: &Name,
    root: Option<&Name>,
) -> Vec<(usize, Rule)> {
    let bound = set.bound.get(&relation.oid);
    let concerns = |(number, rule): &(usize, &Rule)| match &rule.table {
        Some(table) => table == name || Some(table) == root,
        None => {
            bound.is_some_and(|bound| bound.contains(number))
                || relation.columns.iter().any(|c| c.name == rule.column)
        }
    };
    let rules = set.spec.rules.iter().enumerate();
    rules
        .filter(concerns)
        .map(|(number, rule)| (number, rule.clone()))
        .collect()
}

struct Compiler<'a> {
    set: &'a mut RuleSet,
    relation: &'a Relation,
    name: &'a Name,
    mistakes: Vec<Mistake>,
    filters: Vec<Filter>,
    transforms: Vec<Vec<Transform>>,
    /// Columns that are left out, and the rule that says so.
    excluded: HashMap<usize, String>,
}

impl Compiler<'_> {
    fn mistake(&mut self, label: &str, text: String) {
        self.mistakes.push(Mistake {
            label: label.to_owned(),
            text,
        });
    }

    /// A table that the group's record does not know may be a new partition of one that has rules.
    fn refuse_strangers(&mut self, is_known: bool) {
        if is_known {
            return;
        }
        let spec = &self.set.spec;
        let named = spec
            .rules
            .iter()
            .filter_map(|rule| Some((rule.table.as_ref()?, &rule.label)));
        let named = named.chain(
            spec.routes
                .iter()
                .map(|route| (&route.source, &route.label)),
        );
        let is_root = |name: &Name| {
            spec.tables
                .iter()
                .any(|table| table.root.as_ref() == Some(name))
        };
        let is_named = named.clone().any(|(name, _)| name == self.name);
        let root = named.clone().find(|(name, _)| is_root(name));
        if let Some((root, label)) = root.filter(|_| !is_named) {
            let text = format!(
                "{} came after the group was made and may be a partition of {root}: name it here too",
                self.name
            );
            let label = label.clone();
            self.mistake(&label, text);
        }
        if self.set.is_private(self.relation.oid) {
            let text = format!(
                "{} has an OID that stands for another table here",
                self.name
            );
            self.mistake("routing", text);
        }
    }

    /// The number of a column, or a mistake.
    fn column(&mut self, label: &str, column: &str) -> Option<usize> {
        let names = || self.relation.columns.iter().map(|c| c.name.as_str());
        if let Some(number) = names().position(|name| name == column) {
            return Some(number);
        }
        let meant = nearest(column, names());
        let meant = meant.map_or(String::new(), |near| format!("; did you mean \"{near}\"?"));
        let text = format!("{} has no column \"{column}\"{meant}", self.name);
        self.mistake(label, text);
        None
    }

    fn rule(&mut self, number: usize, rule: &Rule) {
        let Some(column) = self.column(&rule.label, &rule.column) else {
            return;
        };
        match &rule.action {
            Action::Filter {
                operator,
                value,
                allow_empty_deletes,
            } => {
                let value = value.as_deref();
                if let Some(test) = self.test(&rule.label, column, *operator, value) {
                    self.filters.push(Filter {
                        column,
                        test,
                        operations: rule.operations,
                        drops_empty_deletes: *allow_empty_deletes == Some(false),
                        rule: number,
                    });
                }
            }
            Action::Mask {
                mask_char,
                allow_key,
            } => self.transform(number, rule, column, How::Mask(*mask_char), *allow_key),
            Action::Regex {
                pattern,
                replace,
                allow_key,
            } => match How::regex(pattern, replace) {
                Ok(how) => self.transform(number, rule, column, how, *allow_key),
                Err(why) => {
                    self.mistake(&rule.label, format!("the pattern cannot be used: {why}"));
                }
            },
            Action::Exclude => {
                if self.is_key(column) {
                    let text = format!(
                        "\"{}\" belongs to the replica identity of {}: without it no row is found",
                        rule.column, self.name
                    );
                    self.mistake(&rule.label, text);
                }
                self.excluded.insert(column, rule.label.clone());
            }
        }
    }

    fn transform(&mut self, number: usize, rule: &Rule, column: usize, how: How, allow_key: bool) {
        let (base_oid, is_string) = self.string_type(column);
        if !is_string {
            let text = format!("\"{}\" is not of a text type", rule.column);
            self.mistake(&rule.label, text);
        }
        if self.is_key(column) && !allow_key {
            let text = format!(
                "\"{}\" belongs to the replica identity of {}: rows would be told apart by what the \
                 rule makes of it; say `allow_key: true` if that is wanted",
                rule.column, self.name
            );
            self.mistake(&rule.label, text);
        }
        if self.is_key(column) && rule.operations != Operations::ALL {
            let text = format!(
                "\"{}\" is a key: the rule must hold for all operations",
                rule.column
            );
            self.mistake(&rule.label, text);
        }
        if let Some(transforms) = self.transforms.get_mut(column) {
            transforms.push(Transform {
                how,
                operations: rule.operations,
                is_padded: base_oid == PADDED_OID,
                rule: number,
            });
        }
    }

    fn is_key(&self, column: usize) -> bool {
        let column = self.relation.columns.get(column);
        self.relation.replica_identity != FULL && column.is_some_and(|column| column.key)
    }

    fn type_oid(&self, column: usize) -> u32 {
        self.relation.columns.get(column).map_or(0, |c| c.type_oid)
    }

    /// The type beneath domains, and whether its values are character strings.
    fn string_type(&self, column: usize) -> (u32, bool) {
        let oid = self.type_oid(column);
        match self.set.spec.types.get(&oid) {
            Some(hint) => (hint.base_oid, hint.is_string),
            None => (
                oid,
                matches!(oid, NAME_OID | PADDED_OID) || Type::of(oid) == Some(Type::Text),
            ),
        }
    }

    /// The type by which a column is compared.
    fn compared_type(&self, column: usize) -> Option<Type> {
        let oid = self.type_oid(column);
        match self.set.spec.types.get(&oid) {
            Some(hint) if hint.is_enum => Some(Type::Text),
            Some(hint) if hint.base_oid < FIRST_OWN_OID => Type::of(hint.base_oid),
            Some(_) => None,
            None => Type::of(oid),
        }
    }

    fn test(
        &mut self,
        label: &str,
        column: usize,
        operator: Operator,
        value: Option<&str>,
    ) -> Option<Test> {
        let column_name = self
            .relation
            .columns
            .get(column)
            .map_or("", |c| c.name.as_str());
        let made = match (operator, value, self.compared_type(column)) {
            (Operator::Eq, None, _) => Ok(Test::IsNull(true)),
            (Operator::Ne, None, _) => Ok(Test::IsNull(false)),
            (operator, None, _) => {
                let word = operator.word();
                Err(format!(
                    "{word} with NULL is never true: only eq and ne take `value: null`"
                ))
            }
            (_, _, None) => Err(format!(
                "\"{column_name}\" is of a type that filters do not compare"
            )),
            (Operator::Contains, Some(value), Some(of)) if of.is_text() => Ok(Test::Contains(
                of,
                Box::new(Finder::new(value).into_owned()),
            )),
            (Operator::Contains, ..) => Err(format!(
                "contains needs a text column, which \"{column_name}\" is not"
            )),
            (operator, Some(value), Some(of)) => Constant::parse(of, value)
                .map(|constant| Test::Order(operator, constant))
                .ok_or_else(|| format!("\"{value}\" is no value of the type of \"{column_name}\"")),
        };
        made.map_err(|text| self.mistake(label, text)).ok()
    }

    fn routes(&mut self, root: Option<&Name>) -> Vec<Routed> {
        let routes: Vec<(usize, Route)> = self
            .set
            .routes(self.name, root)
            .into_iter()
            .map(|(number, route)| (number, route.clone()))
            .collect();
        if routes.is_empty() {
            return vec![self.routed(None, self.relation.oid)];
        }
        let goes_home = |route: &Route| route.destination.as_ref().is_none_or(|to| to == self.name);
        let own = routes
            .iter()
            .position(|(_, route)| goes_home(route))
            .unwrap_or(0);
        let mut found: Vec<Routed> = Vec::new();
        let mut private = 0;
        for (place, (number, route)) in routes.iter().enumerate() {
            let oid = if place == own {
                self.relation.oid
            } else {
                private += 1;
                self.set.private_oid(self.relation.oid, private)
            };
            let made = self.routed(Some((*number, route)), oid);
            if found.iter().any(|other| other.name == made.name) {
                let text = format!(
                    "{} goes to {} by another route already",
                    self.name, made.name
                );
                self.mistake(&route.label, text);
            }
            found.push(made);
        }
        found
    }

    fn routed(&mut self, route: Option<(usize, &Route)>, oid: u32) -> Routed {
        let when = route.map_or_else(Vec::new, |(number, route)| {
            let rule = self.set.spec.rules.len() + number;
            let conditions = route.when.iter();
            conditions
                .filter_map(|condition| self.when(condition, rule))
                .collect()
        });
        let columns = self.columns(route.map(|(_, route)| route));
        let name = route.and_then(|(_, route)| route.destination.clone());
        let name = name.unwrap_or_else(|| self.name.clone());
        let operations = route.map_or(Operations::ALL, |(_, route)| route.operations);
        let is_filtered = |op| self.filters.iter().all(|filter| filter.operations.has(op));
        let is_transformed = |column: usize| {
            self.transforms
                .get(column)
                .is_some_and(|all| !all.is_empty())
        };
        Routed {
            oid,
            parts: Part::all(columns.iter().map(|(number, _)| *number), is_transformed),
            transformed: (0..self.relation.columns.len())
                .filter(|column| is_transformed(*column))
                .collect(),
            is_certain: operations == Operations::ALL
                && is_filtered(Op::Insert)
                && is_filtered(Op::Update),
            sharers: self.set.others(&name, self.relation.oid),
            operations,
            when,
            rule: route.map(|(number, _)| self.set.spec.rules.len() + number),
            keeps_cells: columns
                .iter()
                .map(|(number, _)| *number)
                .eq(0..self.relation.columns.len())
                && !columns.iter().any(|(number, _)| is_transformed(*number)),
            message: self.describe(oid, &name, &columns),
            name,
            columns,
        }
    }

    fn when(&mut self, condition: &Condition, rule: usize) -> Option<Filter> {
        let column = self.column(&condition.label, &condition.column)?;
        let value = condition.value.as_deref();
        let test = self.test(&condition.label, column, condition.operator, value)?;
        Some(Filter {
            column,
            test,
            operations: Operations::ALL,
            drops_empty_deletes: false,
            rule,
        })
    }

    /// The columns of a destination: those that are not left out, under their names there.
    fn columns(&mut self, route: Option<&Route>) -> Vec<(usize, String)> {
        let mut renamed: HashMap<usize, &str> = HashMap::new();
        if let Some(route) = route {
            for (source, destination) in &route.columns {
                let Some(number) = self.column(&route.label, source) else {
                    continue;
                };
                if let Some(by) = self.excluded.get(&number) {
                    let text = format!("\"{source}\" is mapped, but left out by {by}");
                    self.mistake(&route.label, text);
                }
                if renamed.insert(number, destination).is_some() {
                    let text = format!("\"{source}\" is mapped twice");
                    self.mistake(&route.label, text);
                }
            }
        }
        let mut columns: Vec<(usize, String)> = Vec::new();
        for (number, column) in self.relation.columns.iter().enumerate() {
            if self.excluded.contains_key(&number) {
                continue;
            }
            let name = renamed.get(&number).copied().unwrap_or(&column.name);
            if let Some(route) = route
                && columns.iter().any(|(_, other)| other == name)
            {
                let text = format!("two columns go to \"{name}\"");
                self.mistakes.push(Mistake {
                    label: route.label.clone(),
                    text,
                });
            }
            columns.push((number, name.to_owned()));
        }
        columns
    }

    /// The Relation message of a destination.
    fn describe(&self, oid: u32, name: &Name, columns: &[(usize, String)]) -> Vec<u8> {
        let mut message = vec![b'R'];
        message.extend(oid.to_be_bytes());
        for part in [&name.schema, &name.name] {
            message.extend(part.bytes().chain([0]));
        }
        message.push(self.relation.replica_identity);
        // A part of the relation's own columns, whose count fitted.
        message.extend(
            u16::try_from(columns.len())
                .unwrap_or_default()
                .to_be_bytes(),
        );
        for (number, name) in columns {
            let Some(column) = self.relation.columns.get(*number) else {
                continue;
            };
            message.push(u8::from(column.key));
            message.extend(name.bytes().chain([0]));
            message.extend(column.type_oid.to_be_bytes());
            message.extend(column.typmod.to_be_bytes());
        }
        message
    }
}
