//! Which JSON a type's values become, for types that every server has under the same OID: those of its
//! initial catalog. Everything else is text.
//!
//! Downstream: `types`, which traces the source's own types back to these.

use super::text::push_name;

/// Form of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    /// A JSON string of the text.
    Text,
    /// `t` or `f`.
    Bool,
    /// A number; a string where JSON has none (NaN, Infinity).
    Number,
    /// JSON itself.
    Json,
    /// Date and time with a blank between them.
    Timestamp,
    /// The same with the zone's offset, of which zero minutes are left out.
    TimestampTz,
    /// Numbers with blanks between them.
    NumberVector,
    /// Texts with blanks between them.
    TextVector,
}

/// Form of a column, or of what a value is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// One value.
    Single(Scalar),
    /// An array of them, of any number of dimensions.
    Array {
        /// Form of its elements.
        element: Box<Form>,
        /// What stands between them.
        delimiter: u8,
    },
    /// An object of these fields.
    Composite(Box<[Field]>),
}

/// A field of a composite type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    /// `"name":`
    pub(super) label: Vec<u8>,
    pub(super) form: Form,
}

impl Field {
    pub(super) fn new(name: &str, form: Form) -> Self {
        let mut label = Vec::new();
        push_name(&mut label, name);
        label.push(b':');
        Self { label, form }
    }
}

/// A string of what was printed.
pub(super) const TEXT: Form = Form::Single(Scalar::Text);

const INT2_VECTOR: u32 = 22;
const OID_VECTOR: u32 = 30;
const TEXT_OID: u32 = 25;
const BOX_ARRAY: u32 = 1020;
/// What stands between the elements of arrays of boxes, which have commas themselves.
const BOX_DELIMITER: u8 = b';';

/// Finds the form of a type.
pub(super) fn builtin_form(type_oid: u32) -> Form {
    match element_of(type_oid) {
        Some(element_oid) => Form::Array {
            element: Box::new(Form::Single(scalar_of(element_oid))),
            delimiter: if type_oid == BOX_ARRAY {
                BOX_DELIMITER
            } else {
                b','
            },
        },
        None => Form::Single(scalar_of(type_oid)),
    }
}

const fn scalar_of(type_oid: u32) -> Scalar {
    match type_oid {
        16 => Scalar::Bool,
        // int8, int2, int4, float4, float8, numeric
        20 | 21 | 23 | 700 | 701 | 1700 => Scalar::Number,
        // json, jsonb
        114 | 3802 => Scalar::Json,
        1114 => Scalar::Timestamp,
        1184 => Scalar::TimestampTz,
        INT2_VECTOR => Scalar::NumberVector,
        OID_VECTOR => Scalar::TextVector,
        _ => Scalar::Text,
    }
}

/// The element type of an array type, as far as it matters: all that become strings are the same.
const fn element_of(type_oid: u32) -> Option<u32> {
    Some(match type_oid {
        1000 => 16,
        1016 => 20,
        1005 => 21,
        1007 => 23,
        1021 => 700,
        1022 => 701,
        1231 => 1700,
        199 => 114,
        3807 => 3802,
        1115 => 1114,
        1185 => 1184,
        1006 => INT2_VECTOR,
        1013 => OID_VECTOR,
        // xml, line, cidr, circle, macaddr8, money, bytea, "char", name, reg*, text, tid, xid, cid
        143 | 629 | 651 | 719 | 775 | 791 | 1001..=1003 | 1008..=1012
        // bpchar, varchar, point, lseg, path, box, polygon, oid, aclitem, macaddr, inet
        | 1014 | 1015 | 1017..=1020 | 1027 | 1028 | 1034 | 1040 | 1041
        // date, time, interval, cstring, timetz, bit, varbit, xid8
        | 1182 | 1183 | 1187 | 1263 | 1270 | 1561 | 1563 | 271
        // refcursor, reg*, txid_snapshot, uuid, pg_lsn
        | 2201 | 2207..=2211 | 2949 | 2951 | 3221
        // tsvector, gtsvector, tsquery, regconfig, regdictionary, jsonpath, reg*, pg_snapshot
        | 3643..=3645 | 3735 | 3770 | 4073 | 4090 | 4097 | 4192 | 5039
        // ranges and multiranges
        | 3905 | 3907 | 3909 | 3911 | 3913 | 3927 | 6150..=6153 | 6155 | 6157 => TEXT_OID,
        _ => return None,
    })
}

/// Finds a type of the catalog's own schema by its name; none where all that is to know is that it is text.
pub(super) fn builtin_named(name: &str) -> Option<u32> {
    Some(match name {
        "bool" => 16,
        "bytea" => 17,
        "int8" => 20,
        "int2" => 21,
        "int2vector" => INT2_VECTOR,
        "int4" => 23,
        "text" => TEXT_OID,
        "oid" => 26,
        "oidvector" => OID_VECTOR,
        "json" => 114,
        "float4" => 700,
        "float8" => 701,
        "varchar" => 1043,
        "date" => 1082,
        "timestamp" => 1114,
        "timestamptz" => 1184,
        "numeric" => 1700,
        "uuid" => 2950,
        "jsonb" => 3802,
        _ => return None,
    })
}

/// Finds the element type and delimiter of an array type of the catalog's own schema by its name.
pub(super) fn builtin_array_named(name: &str) -> Option<(u32, u8)> {
    let element = name.strip_prefix('_')?;
    let delimiter = if element == "box" {
        BOX_DELIMITER
    } else {
        b','
    };
    Some((builtin_named(element).unwrap_or(TEXT_OID), delimiter))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(element: Scalar, delimiter: u8) -> Form {
        Form::Array {
            element: Box::new(Form::Single(element)),
            delimiter,
        }
    }

    #[test]
    fn arrays_are_told_by_their_own_type_and_boxes_have_another_delimiter() {
        assert_eq!(builtin_form(1007), array(Scalar::Number, b','));
        assert_eq!(builtin_form(1020), array(Scalar::Text, b';'));
        assert_eq!(builtin_form(1006), array(Scalar::NumberVector, b','));
        assert_eq!(builtin_form(22), Form::Single(Scalar::NumberVector));
        assert_eq!(builtin_form(3802), Form::Single(Scalar::Json));
    }

    #[test]
    fn types_of_the_source_alone_are_text() {
        for type_oid in [0, 26, 600, 2950, 9999, 16_384, u32::MAX] {
            assert_eq!(builtin_form(type_oid), TEXT);
        }
    }

    #[test]
    fn names_lead_to_the_same_types_as_their_oids() {
        assert_eq!(builtin_named("numeric"), Some(1700));
        assert_eq!(builtin_named("inet"), None);
        assert_eq!(builtin_array_named("_jsonb"), Some((3802, b',')));
        assert_eq!(builtin_array_named("_box"), Some((TEXT_OID, b';')));
        assert_eq!(builtin_array_named("_inet"), Some((TEXT_OID, b',')));
        assert_eq!(builtin_array_named("int4"), None);
    }
}
