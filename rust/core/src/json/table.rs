//! What is the same for all lines of a table, printed once.
//!
//! Upstream: Relation messages, and the record of a table that is copied. Downstream: `changes`, `rows`.

use xxhash_rust::xxh3::Xxh3;

use super::form::Form;
use super::text::push_name;
use super::types::Types;
use super::value::{push_null, push_value};
use crate::error::Reason;
use crate::pgoutput::Cell;

/// A table as its lines need it.
#[derive(Debug)]
pub(super) struct Table {
    /// `,"schema":"public","table":"users"`
    pub(super) head: Vec<u8>,
    /// `public.users` with everything that an id must not hold percent-encoded.
    pub(super) id_name: Vec<u8>,
    pub(super) columns: Vec<Column>,
    /// Whether it has a key.
    pub(super) has_key: bool,
    /// Whether equal keys have one text, so that the text tells which changes meet.
    is_ordered_by_key: bool,
    number: u32,
}

#[derive(Debug)]
pub(super) struct Column {
    /// `"id":`
    label: Vec<u8>,
    /// `"id"`
    pub(super) quoted: Vec<u8>,
    form: Form,
    pub(super) is_key: bool,
}

/// A column as it was described.
pub(super) struct Described<'a> {
    pub(super) name: &'a str,
    pub(super) type_oid: u32,
    pub(super) is_key: bool,
}

/// Schema and name as ids tell them.
pub(super) fn id_name(schema: &str, name: &str) -> Vec<u8> {
    let mut id_name = Vec::new();
    push_safe(&mut id_name, schema);
    id_name.push(b'.');
    push_safe(&mut id_name, name);
    id_name
}

impl Table {
    pub(super) fn new<'a>(
        number: u32,
        schema: &str,
        name: &str,
        described: impl Iterator<Item = Described<'a>>,
        types: &Types,
    ) -> Self {
        let mut head = b",\"schema\":".to_vec();
        push_name(&mut head, schema);
        head.extend_from_slice(b",\"table\":");
        push_name(&mut head, name);
        let (mut has_key, mut is_ordered_by_key) = (false, true);
        let columns = described.map(|column| {
            has_key |= column.is_key;
            is_ordered_by_key &= !column.is_key || has_one_text(types.beneath(column.type_oid));
            let mut quoted = Vec::new();
            push_name(&mut quoted, column.name);
            Column {
                label: [quoted.as_slice(), b":"].concat(),
                quoted,
                form: types.form_of(column.type_oid),
                is_key: column.is_key,
            }
        });
        let columns = columns.collect();
        Self {
            head,
            id_name: id_name(schema, name),
            columns,
            has_key,
            is_ordered_by_key: is_ordered_by_key && has_key,
            number,
        }
    }

    /// Appends `{…}` of the cells that `wants` picks; what was not sent is left out.
    ///
    /// # Errors
    /// A value that is not UTF-8 or not text.
    pub(super) fn push_row(
        &self,
        out: &mut Vec<u8>,
        cells: &[Cell<'_>],
        wants: impl Fn(&Column) -> bool,
    ) -> Result<(), Reason> {
        out.push(b'{');
        let mut is_first = true;
        for (column, cell) in self.columns.iter().zip(cells) {
            if !wants(column) || *cell == Cell::Unchanged {
                continue;
            }
            if !std::mem::take(&mut is_first) {
                out.push(b',');
            }
            out.extend_from_slice(&column.label);
            match cell {
                Cell::Text(text) => push_value(out, &column.form, text)?,
                Cell::Null | Cell::Unchanged => push_null(out),
                // Never asked for; its text is the server's to know.
                Cell::Binary(_) => {
                    return Err(Reason::UnknownTag {
                        field: "cell",
                        value: b'b',
                    });
                }
            }
        }
        out.push(b'}');
        Ok(())
    }

    /// A number that changes of the same row share; changes of a table without a usable key all do.
    pub(super) fn order(&self, cells: &[Cell<'_>]) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(&self.number.to_be_bytes());
        if self.is_ordered_by_key {
            let keys = self.columns.iter().zip(cells).filter(|(c, _)| c.is_key);
            for (_, cell) in keys {
                if let Cell::Text(text) = cell {
                    hash.update(&text.len().to_be_bytes());
                    hash.update(text);
                }
            }
        }
        hash.digest()
    }
}

/// Whether equal values of a type have one text: not so for numeric, char(n) and floats.
const fn has_one_text(type_oid: u32) -> bool {
    // bool, bytea, "char", name, int8, int2, int4, text, oid, varchar, date, timestamp(tz), uuid
    matches!(
        type_oid,
        16..=21 | 23 | 25 | 26 | 1043 | 1082 | 1114 | 1184 | 2950
    )
}

/// Ids travel in headers and addresses: everything but letters, digits, `_`, `-` and `.` is encoded.
fn push_safe(out: &mut Vec<u8>, name: &str) {
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') {
            out.push(byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(type_oid: u32) -> Table {
        let column = |name, is_key, type_oid| Described {
            name,
            type_oid,
            is_key,
        };
        let columns = [column("id", true, type_oid), column("a\"b", false, 25)];
        Table::new(1, "odd.one", "täb", columns.into_iter(), &Types::default())
    }

    #[test]
    fn names_are_escaped_and_ids_are_safe() {
        let table = table(23);
        assert_eq!(
            table.head,
            ",\"schema\":\"odd.one\",\"table\":\"täb\"".as_bytes()
        );
        assert_eq!(table.id_name, b"odd%2Eone.t%C3%A4b");
    }

    #[test]
    fn rows_hold_what_was_sent() {
        let mut out = Vec::new();
        let cells = [Cell::Text(b"1"), Cell::Unchanged];
        table(23).push_row(&mut out, &cells, |_| true).unwrap();
        assert_eq!(out, b"{\"id\":1}");
        out.clear();
        let cells = [Cell::Text(b"1"), Cell::Null];
        table(23).push_row(&mut out, &cells, |c| !c.is_key).unwrap();
        assert_eq!(out, b"{\"a\\\"b\":null}");
    }

    #[test]
    fn order_is_told_by_keys_whose_equal_values_have_one_text() {
        let of = |type_oid, text: &'static [u8]| table(type_oid).order(&[Cell::Text(text)]);
        assert_ne!(of(23, b"1"), of(23, b"2"));
        assert_eq!(of(1700, b"1"), of(1700, b"1.0"));
    }
}
