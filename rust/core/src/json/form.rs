//! Which JSON a type's values become, by the type's OID.
//!
//! Only types that every server has under the same OID are known: those of its initial catalog. Everything
//! else is text.

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

/// Form of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One value.
    Single(Scalar),
    /// An array of them, of any number of dimensions.
    Array {
        /// Form of its elements.
        element: Scalar,
        /// What stands between them.
        delimiter: u8,
    },
}

const INT2_VECTOR: u32 = 22;
const OID_VECTOR: u32 = 30;
const BOX_ARRAY: u32 = 1020;

/// Finds the form of a type.
pub(super) const fn form_of(type_oid: u32) -> Form {
    match element_of(type_oid) {
        Some(element_oid) => Form::Array {
            element: scalar_of(element_oid),
            delimiter: if type_oid == BOX_ARRAY { b';' } else { b',' },
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
    const TEXT: u32 = 25;
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
        | 3905 | 3907 | 3909 | 3911 | 3913 | 3927 | 6150..=6153 | 6155 | 6157 => TEXT,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_told_by_their_own_type_and_boxes_have_another_delimiter() {
        let array = |element, delimiter| Form::Array { element, delimiter };
        assert_eq!(form_of(1007), array(Scalar::Number, b','));
        assert_eq!(form_of(1020), array(Scalar::Text, b';'));
        assert_eq!(form_of(1006), array(Scalar::NumberVector, b','));
        assert_eq!(form_of(22), Form::Single(Scalar::NumberVector));
        assert_eq!(form_of(3802), Form::Single(Scalar::Json));
    }

    #[test]
    fn types_of_the_source_alone_are_text() {
        for type_oid in [0, 26, 600, 2950, 9999, 16_384, u32::MAX] {
            assert_eq!(form_of(type_oid), Form::Single(Scalar::Text));
        }
    }
}
