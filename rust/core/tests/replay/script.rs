//! An executor that writes down what it is told, and answers to whatever replay asks.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};

use pgflo_core::CoreError;
use pgflo_core::apply::{
    Call, Cause, Executor, Param, Place, Refusal, Replay, Shape, Source, Statement, Step,
};

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
