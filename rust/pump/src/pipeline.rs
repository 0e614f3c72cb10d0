//! Prepared statements in order, thousands in flight, over libpq's pipeline mode.
//!
//! Upstream: replay (`pgflo_core::apply`). Downstream: the server. Invariants:
//! - never a deadlock: whenever we wait, we read what the server sends and write what we hold, and the
//!   server has been asked to send its answers;
//! - memory stays bounded: at most `WINDOW_STATEMENTS` unanswered statements, and before the next one
//!   is queued libpq holds less than `UNSENT_BYTES` that are not written;
//! - the earliest refusal wins, and after it nothing more is sent but the sync that ends the pipeline;
//! - the connection leaves pipeline mode before anybody else sees it, on every way out.

use std::collections::VecDeque;
use std::ffi::CStr;

use pgflo_core::apply::{Cause, Executor, Param, Place, Refusal};

use crate::answer::{Answer, Status};
use crate::connection::Connection;
use crate::params::ParamArrays;
use crate::wait::{Interest, Readiness, wait};

/// Statements without an answer. Enough to keep the server busy while we prepare the next ones; each
/// costs about 100 bytes here and in libpq.
const WINDOW_STATEMENTS: usize = 4096;
/// After so many statements, or so many bytes, we write, ask for answers and read those that came.
const TURN_STATEMENTS: usize = 256;
const UNSENT_BYTES: usize = 64 * 1024;

/// A connection in the hands of replay. Pipeline mode is entered by the first statement.
pub struct Pipeline<'c> {
    connection: &'c mut Connection,
    arrays: ParamArrays,
    in_flight: VecDeque<Awaited>,
    syncs: usize,
    refusal: Option<Refusal>,
    /// Row count of the last statement run by `execute`.
    counted_rows: Option<u64>,
    turn_statements: usize,
    turn_bytes: usize,
    /// The "no more results" of the last answered statement has not been read yet.
    inside_results: bool,
    /// Statements were queued since the last sync.
    unsynced: bool,
    mode: Mode,
    was_nonblocking: bool,
}

/// What the connection is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// As psycopg left it, or as it gets it back.
    Ordinary,
    /// Pipeline mode, by the first statement.
    Pipelined,
    /// Broken: nothing more can be expected of it.
    Lost,
}

/// A statement without an answer.
struct Awaited {
    place: Place,
    /// Any row count will do: the caller looks at it.
    any_count: bool,
}

impl<'c> Pipeline<'c> {
    /// Borrows an idle connection. Sends nothing.
    pub fn new(connection: &'c mut Connection) -> Self {
        let was_nonblocking = connection.is_nonblocking();
        Self {
            connection,
            arrays: ParamArrays::default(),
            in_flight: VecDeque::new(),
            syncs: 0,
            refusal: None,
            counted_rows: None,
            turn_statements: 0,
            turn_bytes: 0,
            inside_results: false,
            unsynced: false,
            mode: Mode::Ordinary,
            was_nonblocking,
        }
    }

    /// Keeps a refusal if it is the earliest so far.
    fn record(&mut self, place: Place, cause: Cause) {
        let earlier = self
            .refusal
            .as_ref()
            .is_some_and(|known| known.place.position <= place.position);
        if !earlier {
            self.refusal = Some(Refusal { place, cause });
        }
    }

    /// The connection is of no use any more: blames the oldest statement without an answer.
    fn lose(&mut self) {
        let place = self.in_flight.front().map(|awaited| awaited.place);
        self.in_flight.clear();
        self.syncs = 0;
        self.mode = Mode::Lost;
        match place {
            Some(place) => self.record(place, Cause::Lost),
            None if self.refusal.is_none() => self.record(Place::default(), Cause::Lost),
            None => {}
        }
    }

    fn outcome(&self) -> Result<(), Refusal> {
        self.refusal.clone().map_or(Ok(()), Err)
    }

    fn enter(&mut self) -> bool {
        if self.mode == Mode::Ordinary
            && self.connection.set_nonblocking(true)
            && self.connection.enter_pipeline_mode()
        {
            self.mode = Mode::Pipelined;
        }
        self.mode == Mode::Pipelined
    }

    /// Queues one statement.
    fn send(
        &mut self,
        statement: &CStr,
        params: &[Param<'_>],
        awaited: Awaited,
    ) -> Result<(), Refusal> {
        self.outcome()?;
        let place = awaited.place;
        if !self.enter() {
            self.in_flight.push_back(awaited);
            self.lose();
            return self.outcome();
        }
        match self.arrays.fill(params) {
            Ok(arrays) => {
                self.turn_statements += 1;
                self.turn_bytes += arrays.bytes;
                let sent = self.connection.send_query_prepared(statement, &arrays);
                self.in_flight.push_back(awaited);
                self.unsynced = true;
                if !sent {
                    self.read();
                    self.lose();
                }
            }
            Err(sqlstate) => {
                self.record(
                    place,
                    Cause::Server {
                        sqlstate: sqlstate.to_owned(),
                        constraint: String::new(),
                        column: String::new(),
                    },
                );
            }
        }
        self.outcome()
    }

    /// Ends what was queued with a sync and waits until all of it is answered.
    fn sync(&mut self) {
        if !self.unsynced || self.mode != Mode::Pipelined {
            return;
        }
        if !self.connection.pipeline_sync() {
            return self.lose();
        }
        self.syncs += 1;
        self.settle(|pipeline, _| pipeline.in_flight.is_empty() && pipeline.syncs == 0);
        self.unsynced = false;
    }

    /// Leaves pipeline mode and gives libpq its waiting habit back. Called on every way out.
    fn leave(&mut self) {
        self.sync();
        if self.mode == Mode::Ordinary {
            return;
        }
        let left = self.connection.exit_pipeline_mode();
        let restored = self.connection.set_nonblocking(self.was_nonblocking);
        if self.mode == Mode::Pipelined && !(left && restored) {
            self.lose();
        }
        self.mode = Mode::Ordinary;
    }

    /// Writes, asks for answers, and reads until `enough` is content with what is left unanswered and
    /// unwritten. Does not wait if it is content at once.
    fn settle(&mut self, enough: impl Fn(&Self, bool) -> bool) {
        self.turn_statements = 0;
        self.turn_bytes = 0;
        if self.syncs == 0 && !self.connection.send_flush_request() {
            return self.lose();
        }
        loop {
            let written = self.connection.flush();
            let read = self.connection.consume_input();
            self.read();
            let (Some(unsent), true) = (written, read) else {
                return self.lose();
            };
            if enough(self, unsent) {
                return;
            }
            let interest = if unsent {
                Interest::ReadOrWrite
            } else {
                Interest::Read
            };
            if wait(self.connection, interest, None) == Readiness::Broken {
                return self.lose();
            }
        }
    }

    /// Takes the answers that have arrived.
    fn read(&mut self) {
        while (!self.in_flight.is_empty() || self.syncs > 0) && !self.connection.is_busy() {
            match self.connection.get_result() {
                Some(answer) => {
                    self.inside_results = answer.status() != Status::Sync;
                    self.take(&answer);
                }
                // One "no more results" follows each statement, and none a sync; one too many means that
                // libpq expects nothing more although we do.
                None if self.inside_results => self.inside_results = false,
                None => return self.lose(),
            }
        }
    }

    /// Books one answer.
    fn take(&mut self, answer: &Answer) {
        let status = answer.status();
        if status == Status::Sync {
            self.syncs = self.syncs.saturating_sub(1);
            return;
        }
        let Some(awaited) = self.in_flight.pop_front() else {
            return self.lose();
        };
        match status {
            Status::Done => {
                let rows = answer.rows().unwrap_or(0);
                if awaited.any_count {
                    self.counted_rows = Some(rows);
                } else if rows != 1 {
                    self.record(awaited.place, Cause::Rows(rows));
                }
            }
            Status::Error => match answer.sqlstate() {
                Some(sqlstate) => {
                    self.record(
                        awaited.place,
                        Cause::Server {
                            sqlstate,
                            constraint: answer.constraint().unwrap_or_default(),
                            column: answer.column().unwrap_or_default(),
                        },
                    );
                }
                None => self.record(awaited.place, Cause::Lost),
            },
            // What follows an error until the next sync; the error has been booked.
            Status::Skipped => {}
            Status::Sync | Status::Unexpected => self.record(awaited.place, Cause::Lost),
        }
    }
}

impl Executor for Pipeline<'_> {
    fn submit(
        &mut self,
        statement: &CStr,
        params: &[Param<'_>],
        place: Place,
    ) -> Result<(), Refusal> {
        self.send(
            statement,
            params,
            Awaited {
                place,
                any_count: false,
            },
        )?;
        if self.turn_statements >= TURN_STATEMENTS || self.turn_bytes >= UNSENT_BYTES {
            self.settle(|pipeline, unsent| {
                pipeline.refusal.is_some()
                    || (!unsent && pipeline.in_flight.len() <= WINDOW_STATEMENTS)
            });
        }
        self.outcome()
    }

    fn execute(
        &mut self,
        statement: &CStr,
        params: &[Param<'_>],
        place: Place,
    ) -> Result<u64, Refusal> {
        self.counted_rows = None;
        self.send(
            statement,
            params,
            Awaited {
                place,
                any_count: true,
            },
        )?;
        self.sync();
        self.outcome()?;
        self.counted_rows.ok_or(Refusal {
            place,
            cause: Cause::Lost,
        })
    }

    fn finish(&mut self) -> Result<(), Refusal> {
        self.leave();
        self.outcome()
    }
}

impl Drop for Pipeline<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}
