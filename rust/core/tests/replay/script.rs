//! Bodies written by hand, and an executor that writes down what it is told.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};

use pgflo_core::apply::{
    Call, Cause, Executor, Param, Place, Refusal, Replay, Shape, Source, Statement, Step,
};
use pgflo_core::{CoreError, Lsn, Position};

pub const OID: u32 = 70_000;
pub const NO_POSITION: Position = Position::new(Lsn(0), 0);

pub fn at(commit_lsn: u64, ordinal: u64) -> Position {
    Position::new(Lsn(commit_lsn), ordinal)
}

/// A body that grows message by message.
#[derive(Clone, Default)]
pub struct Body(pub Vec<u8>);

impl Body {
    pub fn message(mut self, bytes: &[u8]) -> Self {
        self.0
            .extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn begin(self, commit_lsn: u64) -> Self {
        self.message(&[b"B", &commit_lsn.to_be_bytes()[..], &[0; 12]].concat())
    }

    pub fn commit(self, commit_lsn: u64) -> Self {
        let lsns = [commit_lsn.to_be_bytes(), (commit_lsn + 8).to_be_bytes()].concat();
        self.message(&[b"C\0", &lsns[..], &[0; 8]].concat())
    }

    /// A relation with one key column `id` and further columns of these names.
    pub fn relation(self, oid: u32, name: &str, further: &[&str]) -> Self {
        let mut bytes = [
            b"R",
            &oid.to_be_bytes()[..],
            b"public\0",
            name.as_bytes(),
            b"\0d",
        ]
        .concat();
        bytes.extend(u16::try_from(further.len() + 1).unwrap().to_be_bytes());
        for (number, column) in ["id"].iter().chain(further).enumerate() {
            bytes.push(u8::from(number == 0));
            bytes.extend([column.as_bytes(), b"\0"].concat());
            bytes.extend([25_u32.to_be_bytes(), (-1_i32).to_be_bytes()].concat());
        }
        self.message(&bytes)
    }

    pub fn insert(self, oid: u32, new: &str) -> Self {
        self.message(&[b"I", &oid.to_be_bytes()[..], b"N", &tuple(new)].concat())
    }

    pub fn update(self, oid: u32, old: Option<(&str, &str)>, new: &str) -> Self {
        let old = old.map_or(Vec::new(), |(kind, old)| {
            [kind.as_bytes(), &tuple(old)].concat()
        });
        self.message(&[b"U", &oid.to_be_bytes()[..], &old, b"N", &tuple(new)].concat())
    }

    pub fn delete(self, oid: u32, old: &str) -> Self {
        self.message(&[b"D", &oid.to_be_bytes()[..], b"K", &tuple(old)].concat())
    }

    pub fn truncate(self, oids: &[u32]) -> Self {
        let count = u32::try_from(oids.len()).unwrap().to_be_bytes();
        let oids: Vec<u8> = oids.iter().flat_map(|oid| oid.to_be_bytes()).collect();
        self.message(&[b"T", &count[..], &[2], &oids].concat())
    }

    pub fn logical(self, transactional: bool) -> Self {
        let flags = u8::from(transactional);
        self.message(
            &[
                b"M",
                &[flags][..],
                &[0; 8],
                b"note\0",
                &2_u32.to_be_bytes(),
                b"hi",
            ]
            .concat(),
        )
    }
}

/// Cells by letters: `-` null, `?` unchanged, `#x` binary x, anything else text.
fn tuple(cells: &str) -> Vec<u8> {
    let cells: Vec<&str> = cells.split(' ').collect();
    let mut bytes = u16::try_from(cells.len()).unwrap().to_be_bytes().to_vec();
    for cell in cells {
        let (kind, value) = match cell {
            "-" => (b'n', None),
            "?" => (b'u', None),
            _ => cell
                .strip_prefix('#')
                .map_or((b't', Some(cell)), |value| (b'b', Some(value))),
        };
        bytes.push(kind);
        if let Some(value) = value {
            bytes.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
            bytes.extend(value.as_bytes());
        }
    }
    bytes
}

/// Writes statements down; answers them from `rows`, then with one row each.
#[derive(Default)]
pub struct Recorder {
    pub sent: Vec<String>,
    pub places: Vec<Place>,
    pub rows: VecDeque<u64>,
    pub refuse_at_finish: Option<Refusal>,
    pub finished: usize,
}

impl Recorder {
    fn note(&mut self, statement: &CStr, params: &[Param<'_>], place: Place) {
        let params = params.iter().map(|param| match param {
            Param::Null => "-".to_owned(),
            Param::Text(value) => String::from_utf8_lossy(value).into_owned(),
            Param::Binary(value) => format!("#{}", String::from_utf8_lossy(value)),
        });
        let params: Vec<String> = params.collect();
        self.sent.push(format!(
            "{}({})",
            statement.to_str().unwrap(),
            params.join(" ")
        ));
        self.places.push(place);
    }
}

impl Executor for Recorder {
    fn submit(&mut self, name: &CStr, params: &[Param<'_>], place: Place) -> Result<(), Refusal> {
        self.note(name, params, place);
        match self.rows.pop_front() {
            None | Some(1) => Ok(()),
            Some(rows) => Err(Refusal {
                place,
                cause: Cause::Rows(rows),
            }),
        }
    }

    fn execute(&mut self, name: &CStr, params: &[Param<'_>], place: Place) -> Result<u64, Refusal> {
        self.note(name, params, place);
        Ok(self.rows.pop_front().unwrap_or(1))
    }

    fn finish(&mut self) -> Result<(), Refusal> {
        self.finished += 1;
        self.refuse_at_finish.take().map_or(Ok(()), Err)
    }
}

pub fn call(name: &str, params: &[Source]) -> Call {
    Call {
        name: CString::new(name).unwrap(),
        params: params.to_vec(),
    }
}

pub fn statement(name: &str, params: &[Source]) -> Statement {
    Statement {
        call: Some(call(name, params)),
        fallback: None,
        conflict: None,
    }
}

/// A statement that takes all there is: `I1(…)` for shape 1.
pub fn everything(shape: &Shape, columns: u16) -> Statement {
    let new = (0..columns).filter(|column| {
        shape.op != pgflo_core::apply::Op::Delete && !shape.unchanged.contains(column)
    });
    let old = (0..columns).filter(|_| shape.old.is_some());
    let params: Vec<_> = new.map(Source::New).chain(old.map(Source::Old)).collect();
    statement(&format!("{:?}{}", shape.op, shape.id), &params)
}

/// Runs to the end, answering everything with `everything`; gives the steps but the last.
pub fn run_through(
    replay: &mut Replay<Vec<u8>>,
    executor: &mut Recorder,
    columns: u16,
) -> Result<Vec<Step>, CoreError> {
    let mut steps = Vec::new();
    loop {
        match replay.run(executor, false)? {
            Step::Done => return Ok(steps),
            failed @ Step::Failed(..) => {
                steps.push(failed);
                return Ok(steps);
            }
            step => {
                if let Step::Statement(shape, _) = &step {
                    let _ = replay.register(shape.id, everything(shape, columns));
                }
                steps.push(step);
            }
        }
    }
}
