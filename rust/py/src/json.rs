//! `JsonScribe`, `JsonRows`, `Events`: changes and copied rows as JSON lines, one call per body.
//!
//! Upstream: the writers of sinks that take lines. Downstream: `pgflo_core::json`.

use std::collections::HashMap;
use std::sync::Mutex;

use pgflo_core::json::{self, CopiedTable, Lines, RowScribe, Scribe, Shape, Types};
use pgflo_core::{CoreError, Lsn};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::assembler::incarnation_argument;
use crate::boundary::{self, Bytes};
use crate::replay::position;

const STOPPED: &str = "the JSON scribe stopped at an earlier panic";

/// Lines of one body.
#[pyclass(frozen, module = "pgflo._core")]
pub struct Events {
    lines: Lines,
}

/// A request as Python gets it: lane, id, body, lines in it.
type Request<'py> = (Option<u64>, String, Bound<'py, PyBytes>, usize);

#[pymethods]
impl Events {
    #[getter]
    fn data<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.lines.data)
    }

    #[getter]
    const fn count(&self) -> u64 {
        self.lines.count
    }

    /// Cuts marked lines into requests.
    fn requests<'py>(
        &self,
        py: Python<'py>,
        batch: usize,
        lanes: u64,
    ) -> PyResult<Vec<Request<'py>>> {
        let made = boundary::run(py, || {
            Ok::<_, CoreError>(json::requests(&self.lines, batch, lanes))
        })?;
        let given = made.into_iter().map(|request| {
            let id = String::from_utf8_lossy(&request.id).into_owned();
            let body = PyBytes::new(py, &request.body);
            (request.lane, id, body, request.count)
        });
        Ok(given.collect())
    }
}

/// See the core's `json::changes`.
#[pyclass(frozen, module = "pgflo._core")]
pub struct JsonScribe {
    inner: Mutex<Scribe>,
    is_marked: bool,
}

/// A type as Python tells it: its kind, the type beneath, what stands between elements, attributes.
type Made = (String, u32, char, Vec<(String, u32)>);

fn shape((kind, beneath, delimiter, attributes): Made) -> PyResult<Shape> {
    match kind.as_str() {
        "composite" => Ok(Shape::Composite(attributes)),
        "domain" => Ok(Shape::Domain(beneath)),
        "array" => Ok(Shape::Array {
            element: beneath,
            delimiter: u8::try_from(delimiter)
                .map_err(|_| PyValueError::new_err("a delimiter is a byte"))?,
        }),
        _ => Err(PyValueError::new_err(format!("no kind of type: {kind}"))),
    }
}

#[pymethods]
impl JsonScribe {
    #[new]
    #[pyo3(signature = (group, incarnation, keys, types, *, marked = false))]
    fn new(
        group: &str,
        #[pyo3(from_py_with = incarnation_argument)] incarnation: [u8; 16],
        keys: HashMap<u32, Vec<String>>,
        types: HashMap<u32, Made>,
        marked: bool,
    ) -> PyResult<Self> {
        let shapes = types
            .into_iter()
            .map(|(oid, made)| Ok((oid, shape(made)?)))
            .collect::<PyResult<_>>()?;
        let scribe = Scribe::new(group, incarnation, keys).with_types(Types::new(shapes));
        Ok(Self {
            inner: Mutex::new(scribe),
            is_marked: marked,
        })
    }

    /// Prints the changes of a body.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "arguments are extracted from Python, by value"
    )]
    fn changes(
        &self,
        py: Python<'_>,
        body: Bytes,
        prev: (u64, u64),
        after: (u64, u64),
    ) -> PyResult<Events> {
        let (prev, after) = (position(prev), position(after));
        let lines = boundary::locked(py, &self.inner, STOPPED, |scribe| {
            let mut lines = new_lines(self.is_marked);
            scribe.write(body.as_ref(), prev, after, &mut lines)?;
            Ok(lines)
        })?;
        Ok(Events { lines })
    }

    /// Begins a range of a table that is copied.
    #[expect(
        clippy::too_many_arguments,
        reason = "the table and the range, each by its name"
    )]
    #[pyo3(signature = (oid, schema, name, columns, key, *, snapshot_lsn, range_no, source = None, route = 0))]
    fn rows(
        &self,
        py: Python<'_>,
        oid: u32,
        schema: String,
        name: String,
        columns: Vec<(String, u32)>,
        key: Vec<String>,
        snapshot_lsn: u64,
        range_no: u32,
        source: Option<(String, String)>,
        route: u64,
    ) -> PyResult<JsonRows> {
        let table = CopiedTable {
            oid,
            schema,
            name,
            columns,
            key,
            source,
            route,
        };
        let rows = boundary::locked(py, &self.inner, STOPPED, |scribe| {
            Ok(RowScribe::new(scribe, &table, Lsn(snapshot_lsn), range_no))
        })?;
        Ok(JsonRows {
            inner: Mutex::new(rows),
            is_marked: self.is_marked,
        })
    }
}

/// See the core's `json::rows`.
#[pyclass(frozen, module = "pgflo._core")]
pub struct JsonRows {
    inner: Mutex<RowScribe>,
    is_marked: bool,
}

#[pymethods]
impl JsonRows {
    /// Prints the rows that end in the next piece.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "arguments are extracted from Python, by value"
    )]
    fn feed(&self, py: Python<'_>, piece: Bytes) -> PyResult<Events> {
        let lines = boundary::locked(py, &self.inner, STOPPED, |rows| {
            let mut lines = new_lines(self.is_marked);
            rows.feed(piece.as_ref(), &mut lines)?;
            Ok(lines)
        })?;
        Ok(Events { lines })
    }

    /// Says that there is no more; gives the number of rows.
    fn finish(&self, py: Python<'_>) -> PyResult<u64> {
        boundary::locked(py, &self.inner, STOPPED, |rows| {
            rows.finish()?;
            Ok(rows.rows())
        })
    }
}

fn new_lines(is_marked: bool) -> Lines {
    if is_marked {
        Lines::marked()
    } else {
        Lines::new()
    }
}
