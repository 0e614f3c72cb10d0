//! `decode_messages`: a body as Python tuples, for eyes and tests. Slow on purpose.

use pgflo_core::envelope::Messages;
use pgflo_core::error::DecodeError;
use pgflo_core::pgoutput::{Cell, Message, Tuple};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::boundary::{self, Bytes};

type Cells<'py> = Vec<(&'static str, Option<Bound<'py, PyBytes>>)>;

/// Decode every message of a whole logical body.
#[pyfunction]
#[expect(
    clippy::needless_pass_by_value,
    reason = "arguments are extracted from Python, by value"
)]
pub fn decode_messages(py: Python<'_>, body: Bytes) -> PyResult<Vec<Bound<'_, PyTuple>>> {
    let body = body.as_ref();
    let decode = || {
        Messages::new(body)
            .map(|read| read.map(|(_, message)| message))
            .collect()
    };
    let messages: Vec<Message<'_>> = boundary::run::<_, DecodeError>(py, decode)?;
    messages
        .iter()
        .map(|message| message_tuple(py, message))
        .collect()
}

fn message_tuple<'py>(py: Python<'py>, message: &Message<'_>) -> PyResult<Bound<'py, PyTuple>> {
    match message {
        Message::Begin(begin) => {
            ("B", begin.final_lsn.0, begin.commit_time_us, begin.xid).into_pyobject(py)
        }
        Message::Commit(commit) => (
            "C",
            commit.commit_lsn.0,
            commit.end_lsn.0,
            commit.commit_time_us,
        )
            .into_pyobject(py),
        Message::Origin(origin) => ("O", origin.origin_lsn.0, origin.name).into_pyobject(py),
        Message::Relation(relation) => {
            let identity = char::from(relation.replica_identity).to_string();
            let columns: Vec<(bool, &str, u32, i32)> = relation
                .columns()
                .map(|column| (column.key, column.name, column.type_oid, column.typmod))
                .collect();
            (
                "R",
                relation.oid,
                relation.schema,
                relation.name,
                identity,
                columns,
            )
                .into_pyobject(py)
        }
        Message::Type(announced) => {
            ("Y", announced.oid, announced.schema, announced.name).into_pyobject(py)
        }
        Message::Insert(insert) => {
            ("I", insert.relation_oid, cells(py, &insert.new)).into_pyobject(py)
        }
        Message::Update(update) => {
            let tag = update.old.map_or(String::new(), |(kind, _)| {
                char::from(kind.tag()).to_string()
            });
            let old = update.old.map(|(_, tuple)| cells(py, &tuple));
            ("U", update.relation_oid, tag, old, cells(py, &update.new)).into_pyobject(py)
        }
        Message::Delete(delete) => {
            let tag = char::from(delete.old_kind.tag()).to_string();
            ("D", delete.relation_oid, tag, cells(py, &delete.old)).into_pyobject(py)
        }
        Message::Truncate(truncate) => {
            let relation_oids: Vec<u32> = truncate.relation_oids().collect();
            (
                "T",
                truncate.cascade,
                truncate.restart_identity,
                relation_oids,
            )
                .into_pyobject(py)
        }
        Message::Logical(logical) => {
            let content = PyBytes::new(py, logical.content);
            (
                "M",
                logical.transactional,
                logical.lsn.0,
                logical.prefix,
                content,
            )
                .into_pyobject(py)
        }
    }
}

fn cells<'py>(py: Python<'py>, tuple: &Tuple<'_>) -> Cells<'py> {
    let cell = |cell| match cell {
        Cell::Null => ("n", None),
        Cell::Unchanged => ("u", None),
        Cell::Text(bytes) => ("t", Some(PyBytes::new(py, bytes))),
        Cell::Binary(bytes) => ("b", Some(PyBytes::new(py, bytes))),
    };
    tuple.cells().map(cell).collect()
}
