//! What tables and types look like.
//!
//! ```text
//! Relation: u32 oid, schema, name, u8 replica_identity, i16 column_count,
//!           then per column: u8 flags (1 = key), name, u32 type_oid, i32 typmod
//! Type:     u32 oid, schema, name
//! ```
//! An empty schema means `pg_catalog`. A Relation describes the table as it was at that point of the
//! WAL and comes again after any invalidation, changed or not.

use super::cursor::Cursor;
use crate::error::Reason;

/// Types below have the same OID on every server; only those from here on are announced by a Type.
pub const FIRST_ANNOUNCED_TYPE_OID: u32 = 10_000;

/// What changes of a table look like from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relation<'a> {
    /// OID at the source.
    pub oid: u32,
    /// Schema; empty for `pg_catalog`.
    pub schema: &'a str,
    /// Name without schema.
    pub name: &'a str,
    /// `d` default, `n` nothing, `f` full, `i` index.
    pub replica_identity: u8,
    column_count: u16,
    columns: &'a [u8],
}

/// A column of a [`Relation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column<'a> {
    /// Whether it belongs to the replica identity.
    pub key: bool,
    /// Its name.
    pub name: &'a str,
    /// OID of its type at the source.
    pub type_oid: u32,
    /// Type modifier; -1 for none.
    pub typmod: i32,
}

impl<'a> Relation<'a> {
    pub(super) fn decode(body: &mut Cursor<'a>) -> Result<Self, Reason> {
        let oid = body.u32()?;
        let schema = body.name()?;
        let name = body.name()?;
        let replica_identity = match body.u8()? {
            identity @ (b'd' | b'n' | b'f' | b'i') => identity,
            value => {
                return Err(Reason::UnknownTag {
                    field: "replica identity",
                    value,
                });
            }
        };
        let column_count = body.count()?;
        let columns = body.rest();
        for _ in 0..column_count {
            Column::decode(body)?;
        }
        Ok(Self {
            oid,
            schema,
            name,
            replica_identity,
            column_count,
            columns,
        })
    }

    /// How many columns it has.
    #[must_use]
    pub const fn column_count(&self) -> u16 {
        self.column_count
    }

    /// Its columns, in the order of the tuples' cells.
    pub fn columns(&self) -> impl Iterator<Item = Column<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.columns);
        // `decode` has walked them all: none is missing.
        (0..self.column_count).map_while(move |_| Column::decode(&mut cursor).ok())
    }
}

impl<'a> Column<'a> {
    fn decode(body: &mut Cursor<'a>) -> Result<Self, Reason> {
        let key = match body.u8()? {
            0 => false,
            1 => true,
            value => {
                return Err(Reason::UnknownTag {
                    field: "column flags",
                    value,
                });
            }
        };
        Ok(Self {
            key,
            name: body.name()?,
            type_oid: body.u32()?,
            typmod: body.i32()?,
        })
    }
}

/// The name of a type that is not built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type<'a> {
    /// OID at the source.
    pub oid: u32,
    /// Schema; empty for `pg_catalog`.
    pub schema: &'a str,
    /// Name without schema.
    pub name: &'a str,
}

impl<'a> Type<'a> {
    pub(super) fn decode(body: &mut Cursor<'a>) -> Result<Self, Reason> {
        Ok(Self {
            oid: body.u32()?,
            schema: body.name()?,
            name: body.name()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<(Relation<'_>, Vec<Column<'_>>), Reason> {
        let relation = Relation::decode(&mut Cursor::new(bytes))?;
        Ok((relation, relation.columns().collect()))
    }

    #[test]
    fn names_identity_and_columns_are_read() {
        let bytes =
            b"\0\0\0\x07s\0t\0f\0\x02\x01a\0\0\0\0\x17\xFF\xFF\xFF\xFF\0b\0\0\0\0\x19\0\0\0\x05";
        let (relation, columns) = decode(bytes).unwrap();
        assert_eq!(
            (relation.oid, relation.schema, relation.name),
            (7, "s", "t")
        );
        assert_eq!(
            (relation.replica_identity, relation.column_count()),
            (b'f', 2)
        );
        let first = Column {
            key: true,
            name: "a",
            type_oid: 23,
            typmod: -1,
        };
        let second = Column {
            key: false,
            name: "b",
            type_oid: 25,
            typmod: 5,
        };
        assert_eq!(columns, [first, second]);
    }

    #[test]
    fn counts_that_lie_and_unknown_tags_are_refused() {
        let refusal = |bytes| decode(bytes).map(|_| ());
        assert_eq!(
            refusal(b"\0\0\0\x07s\0t\0d\xFF\xFE"),
            Err(Reason::NegativeLength(-2))
        );
        let short = Reason::UnexpectedEnd { needed: 1, left: 0 };
        assert_eq!(refusal(b"\0\0\0\x07s\0t\0d\x7F\xFF"), Err(short));
        let identity = Reason::UnknownTag {
            field: "replica identity",
            value: b'x',
        };
        assert_eq!(refusal(b"\0\0\0\x07s\0t\0x\0\0"), Err(identity));
        let flags = Reason::UnknownTag {
            field: "column flags",
            value: 2,
        };
        assert_eq!(refusal(b"\0\0\0\x07s\0t\0d\0\x01\x02"), Err(flags));
        assert_eq!(refusal(b"\0\0\0\x07s\0t"), Err(Reason::UnterminatedString));
    }
}
