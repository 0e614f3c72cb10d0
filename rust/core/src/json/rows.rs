//! COPY text rows of one range as lines.
//!
//! Upstream: the bodies of copy envelopes, cut anywhere. Invariant: a row has the same number, and so the
//! same id, in every attempt: a range is read in the order of its blocks.
//!
//! ```text
//! row: cells with tabs between them, then a line feed; \N is NULL; \b \f \n \r \t \v and \\ are escapes
//! ```

use memchr::{memchr, memchr_iter};

use super::changes::{Scribe, push_route};
use super::lines::{ID_START, Lines};
use super::table::{Described, Table, id_name};
use super::text::push_decimal;
use crate::copy::text::push_unescaped;
use crate::error::{DecodeError, Reason};
use crate::lsn::Lsn;
use crate::pgoutput::Cell;

/// A table that is copied, as the group's record has it.
#[derive(Debug, Clone, Default)]
pub struct CopiedTable {
    /// OID at the source.
    pub oid: u32,
    /// Schema.
    pub schema: String,
    /// Name without schema.
    pub name: String,
    /// Names and type OIDs of the columns, in the order of the cells.
    pub columns: Vec<(String, u32)>,
    /// Names of the key's columns.
    pub key: Vec<String>,
    /// Schema and name at the source, where rules give it others: ids name that.
    pub source: Option<(String, String)>,
    /// Which of the destinations that rules give its rows this is, from 0.
    pub route: u64,
}

/// Prints the rows of one range.
#[derive(Debug)]
pub struct RowScribe {
    table: Table,
    /// A line up to the row's number.
    start: Vec<u8>,
    /// A line behind the row.
    end: Vec<u8>,
    rows: u64,
    route: u64,
    /// The beginning of a row whose end has not come.
    pending: Vec<u8>,
    scratch: Vec<u8>,
    offset: usize,
}

impl RowScribe {
    /// Begins with the first row of a range.
    #[must_use]
    pub fn new(scribe: &Scribe, table: &CopiedTable, snapshot_lsn: Lsn, range_no: u32) -> Self {
        let columns = table.columns.iter().map(|(name, type_oid)| Described {
            name,
            type_oid: *type_oid,
            is_key: table.key.contains(name),
        });
        let mut start = scribe.start().to_vec();
        start.extend_from_slice(b"s:");
        start.extend_from_slice(&match &table.source {
            Some((schema, name)) => id_name(schema, name),
            None => id_name(&table.schema, &table.name),
        });
        let route = table.route;
        let table = Table::new(
            table.oid,
            &table.schema,
            &table.name,
            columns,
            scribe.types(),
        );
        start.extend_from_slice(format!(":{snapshot_lsn}:{range_no}:").as_bytes());
        let mut end = b",\"snapshot\":true,\"commit_lsn\":\"".to_vec();
        end.extend_from_slice(snapshot_lsn.to_string().as_bytes());
        end.extend_from_slice(b"\",\"ordinal\":0");
        end.extend_from_slice(scribe.end());
        Self {
            table,
            start,
            end,
            rows: 0,
            route,
            pending: Vec::new(),
            scratch: Vec::new(),
            offset: 0,
        }
    }

    /// Rows printed.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Appends the rows that end in the next piece.
    ///
    /// # Errors
    /// A row of another number of cells, a value that is not UTF-8. Nothing may be fed after that.
    pub fn feed(&mut self, mut piece: &[u8], lines: &mut Lines) -> Result<(), DecodeError> {
        while let Some(end) = memchr(b'\n', piece) {
            let (row, rest) = piece.split_at_checked(end).unwrap_or_default();
            if self.pending.is_empty() {
                self.row(row, lines)?;
            } else {
                let mut whole = std::mem::take(&mut self.pending);
                whole.extend_from_slice(row);
                self.row(&whole, lines)?;
            }
            piece = rest.get(1..).unwrap_or_default();
        }
        self.pending.extend_from_slice(piece);
        Ok(())
    }

    /// Says that there is no more.
    ///
    /// # Errors
    /// A row without its end.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let reason = Reason::UnexpectedEnd { needed: 1, left: 0 };
        Err(DecodeError::outside(self.offset, reason))
    }

    fn row(&mut self, row: &[u8], lines: &mut Lines) -> Result<(), DecodeError> {
        let mut unescaped = std::mem::take(&mut self.scratch);
        let written = self.line(row, &mut unescaped, lines);
        self.scratch = unescaped;
        written.map_err(|reason| DecodeError::outside(self.offset, reason))?;
        self.offset += row.len() + 1;
        Ok(())
    }

    fn line(
        &mut self,
        row: &[u8],
        unescaped: &mut Vec<u8>,
        lines: &mut Lines,
    ) -> Result<(), Reason> {
        let bounds = unescape(row, unescaped);
        let mut cells = Vec::with_capacity(self.table.columns.len());
        if !(self.table.columns.is_empty() && row.is_empty()) {
            cells.extend(bounds.iter().map(|cell| match cell {
                Some((start, end)) => Cell::Text(unescaped.get(*start..*end).unwrap_or_default()),
                None => Cell::Null,
            }));
        }
        let (columns, found) = (self.table.columns.len(), cells.len());
        if found != columns {
            return Err(Reason::OtherColumns { columns, found });
        }
        self.rows += 1;
        let out = &mut lines.data;
        let id_at = out.len() + ID_START.len();
        out.extend_from_slice(&self.start);
        push_decimal(out, self.rows);
        push_route(out, self.route);
        let id_bytes = out.len() - id_at;
        out.extend_from_slice(b"\",\"op\":\"insert\"");
        out.extend_from_slice(&self.table.head);
        if self.table.has_key {
            out.extend_from_slice(b",\"key\":");
            self.table.push_row(out, &cells, |column| column.is_key)?;
        }
        out.extend_from_slice(b",\"new\":");
        self.table.push_row(out, &cells, |_| true)?;
        out.extend_from_slice(&self.end);
        let order = lines.is_marked().then(|| self.table.order(&cells));
        lines.end_line(id_bytes, order);
        Ok(())
    }
}

/// Splits a row into cells, none for NULL; their bytes lie in `unescaped`.
fn unescape(row: &[u8], unescaped: &mut Vec<u8>) -> Vec<Option<(usize, usize)>> {
    unescaped.clear();
    let mut cells = Vec::new();
    let mut cell_start = 0;
    for end in memchr_iter(b'\t', row).chain([row.len()]) {
        let cell = row.get(cell_start..end).unwrap_or_default();
        cell_start = end + 1;
        if cell == b"\\N" {
            cells.push(None);
            continue;
        }
        let start = unescaped.len();
        push_unescaped(unescaped, cell);
        cells.push(Some((start, unescaped.len())));
    }
    cells
}
