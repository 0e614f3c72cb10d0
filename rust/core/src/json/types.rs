//! Types that only the source has, traced back to types that every server has.
//!
//! Upstream: the group's record, which tells of each type of the tables' columns what it is made of; and Type
//! messages, which name the type beneath a domain, so that a domain that came while changes stream is known
//! with its first row. Downstream: `table` asks for the form of each column.
//!
//! Invariant: a type of which nothing is known is text, and so is what a type is made of too deeply.

use std::collections::HashMap;

use super::form::{Field, Form, TEXT, builtin_array_named, builtin_form, builtin_named};
use crate::pgoutput::Type;

/// Steps from a type to what it is made of, and on. The server allows no type to contain itself; a record
/// that says so must not be followed for ever.
const MAX_DEPTH: usize = 32;

/// What a type is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A domain over the type of this OID.
    Domain(u32),
    /// An array.
    Array {
        /// OID of its elements' type.
        element: u32,
        /// What stands between them.
        delimiter: u8,
    },
    /// A composite type: names and type OIDs of its attributes, in their order.
    Composite(Vec<(String, u32)>),
}

/// What is known of the source's own types.
#[derive(Debug, Default)]
pub struct Types {
    shapes: HashMap<u32, Shape>,
    version: u64,
}

impl Types {
    /// What the group's record tells, by OID.
    #[must_use]
    pub const fn new(shapes: HashMap<u32, Shape>) -> Self {
        Self { shapes, version: 0 }
    }

    /// Takes note of a type that changes have; what the record tells of it goes before.
    pub(super) fn announce(&mut self, announced: &Type<'_>) {
        // A domain is announced by the name of the type beneath it; no schema means the catalog's own.
        if !announced.schema.is_empty() || self.shapes.contains_key(&announced.oid) {
            return;
        }
        let array = builtin_array_named(announced.name)
            .map(|(element, delimiter)| Shape::Array { element, delimiter });
        if let Some(shape) = array.or_else(|| builtin_named(announced.name).map(Shape::Domain)) {
            self.shapes.insert(announced.oid, shape);
            self.version += 1;
        }
    }

    /// Grows with what is known.
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// The type beneath domains, else the type itself.
    pub(super) fn beneath(&self, mut type_oid: u32) -> u32 {
        for _ in 0..MAX_DEPTH {
            match self.shapes.get(&type_oid) {
                Some(Shape::Domain(base)) => type_oid = *base,
                _ => break,
            }
        }
        type_oid
    }

    /// Finds the form of a type's values.
    pub(super) fn form_of(&self, type_oid: u32) -> Form {
        self.form_at(type_oid, 0)
    }

    fn form_at(&self, type_oid: u32, depth: usize) -> Form {
        if depth > MAX_DEPTH {
            return TEXT;
        }
        match self.shapes.get(&type_oid) {
            None => builtin_form(type_oid),
            Some(Shape::Domain(base)) => self.form_at(*base, depth + 1),
            Some(Shape::Array { element, delimiter }) => Form::Array {
                element: Box::new(self.form_at(*element, depth + 1)),
                delimiter: *delimiter,
            },
            Some(Shape::Composite(attributes)) => {
                let fields = attributes
                    .iter()
                    .map(|(name, type_oid)| Field::new(name, self.form_at(*type_oid, depth + 1)));
                Form::Composite(fields.collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::form::Scalar;

    const DOMAIN: u32 = 20_000;
    const NUMBER: Form = Form::Single(Scalar::Number);

    fn types(shapes: &[(u32, Shape)]) -> Types {
        Types::new(shapes.iter().cloned().collect())
    }

    fn array(element: Form) -> Form {
        Form::Array {
            element: Box::new(element),
            delimiter: b',',
        }
    }

    #[test]
    fn domains_and_arrays_of_them_have_the_form_of_what_is_beneath() {
        let known = types(&[
            (DOMAIN, Shape::Domain(20_001)),
            (20_001, Shape::Domain(1700)),
            (
                20_002,
                Shape::Array {
                    element: DOMAIN,
                    delimiter: b',',
                },
            ),
            (20_003, Shape::Domain(20_002)),
            (20_004, Shape::Domain(1007)),
        ]);
        assert_eq!(known.form_of(DOMAIN), NUMBER);
        assert_eq!(known.beneath(DOMAIN), 1700);
        for type_oid in [20_002, 20_003, 20_004] {
            assert_eq!(known.form_of(type_oid), array(NUMBER));
        }
        assert_eq!((known.form_of(30_000), known.beneath(23)), (TEXT, 23));
    }

    #[test]
    fn a_composite_type_has_a_field_for_each_attribute() {
        let attributes = [("n", DOMAIN), ("inner", 20_001)];
        let known = types(&[
            (DOMAIN, Shape::Domain(23)),
            (20_001, Shape::Composite(vec![("t".to_owned(), 25)])),
            (
                20_002,
                Shape::Composite(
                    attributes
                        .map(|(name, oid)| (name.to_owned(), oid))
                        .to_vec(),
                ),
            ),
        ]);
        let inner = Form::Composite(Box::new([Field::new("t", TEXT)]));
        let fields = [Field::new("n", NUMBER), Field::new("inner", inner)];
        assert_eq!(known.form_of(20_002), Form::Composite(Box::new(fields)));
    }

    #[test]
    fn a_domain_is_known_by_its_announcement() {
        let mut known = types(&[(20_001, Shape::Domain(16))]);
        let announce = |known: &mut Types, oid, schema, name| {
            known.announce(&Type { oid, schema, name });
        };
        announce(&mut known, DOMAIN, "", "int4");
        announce(&mut known, 20_001, "", "int4");
        announce(&mut known, 20_002, "public", "int4");
        announce(&mut known, 20_003, "", "_int8");
        announce(&mut known, 20_004, "", "inet");
        let forms = [DOMAIN, 20_001, 20_002, 20_003, 20_004].map(|oid| known.form_of(oid));
        let boolean = Form::Single(Scalar::Bool);
        assert_eq!(forms, [NUMBER, boolean, TEXT, array(NUMBER), TEXT]);
        assert_eq!(known.version(), 2);
    }

    #[test]
    fn a_type_that_is_made_of_itself_is_text_in_the_end() {
        let element = Shape::Array {
            element: DOMAIN,
            delimiter: b',',
        };
        let known = types(&[(DOMAIN, element), (20_001, Shape::Domain(20_001))]);
        assert_eq!(known.form_of(20_001), TEXT);
        assert_eq!(known.beneath(20_001), 20_001);
        assert!(matches!(known.form_of(DOMAIN), Form::Array { .. }));
    }
}
