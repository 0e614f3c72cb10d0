//! One libpq connection, borrowed from psycopg for the length of a call.
//!
//! Invariant: a `Connection` is used by one thread at a time (`&mut self` here, a mutex in the Python
//! class) and only while its owner has not closed it (the Python class asks the owner before each
//! call). psycopg must not touch the connection during a call: whoever drains it owns it.
//! Downstream: `drain.rs` reads COPY data, `pipeline.rs` sends statements.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::answer::Answer;
use crate::error::PumpError;
use crate::libpq::{Libpq, PgConn};
use crate::params::Arrays;

/// A libpq connection that somebody else opened and will close.
pub struct Connection {
    libpq: Arc<Libpq>,
    conn: NonNull<PgConn>,
}

// SAFETY: libpq ties a PGconn to no thread; it only demands that two threads never use it at the same
// time, which `&mut self` on every method ensures.
unsafe impl Send for Connection {}

/// What `PQgetCopyData` has to say.
pub(crate) enum CopyData {
    /// A whole message.
    Message(CopyBuffer),
    /// No whole message is buffered.
    NotReady,
    /// The COPY is over, well or badly: the result tells.
    End,
    /// The connection is not in a COPY, or it is broken.
    Failed,
}

impl Connection {
    /// Takes over the connection at `address`, made by the libpq that was loaded from `libpq_path`.
    ///
    /// The address must be what psycopg reports for an open connection; it cannot be verified further
    /// than by the version of the library and the socket number, which guard against a second libpq in
    /// the process and against a connection that was closed since.
    ///
    /// # Errors
    /// See [`PumpError`]; the caller then reads through psycopg instead.
    pub fn adopt(
        address: usize,
        socket: i32,
        libpq_path: &str,
        libpq_version: i32,
    ) -> Result<Self, PumpError> {
        let libpq = Arc::new(Libpq::find(libpq_path, libpq_version)?);
        let conn = NonNull::new(std::ptr::with_exposed_provenance_mut::<PgConn>(address)).ok_or(
            PumpError::OtherSocket {
                expected: socket,
                found: -1,
            },
        )?;
        let connection = Self { libpq, conn };
        let found = connection.socket();
        if found == socket && found >= 0 {
            Ok(connection)
        } else {
            Err(PumpError::OtherSocket {
                expected: socket,
                found,
            })
        }
    }

    /// File number of the socket, −1 once the connection is broken.
    pub(crate) fn socket(&self) -> c_int {
        // SAFETY: the connection is open (invariant of this file) and belongs to this libpq.
        unsafe { (self.libpq.socket)(self.conn.as_ptr()) }
    }

    /// Whether bytes may be waiting in the encryption layer, where poll(2) does not see them:
    /// `Some(true)` they are, `Some(false)` they are not, `None` cannot be known.
    pub(crate) fn has_hidden_input(&self) -> Option<bool> {
        // SAFETY: the connection is open; the name is NUL-terminated; the answer is null or the SSL*.
        let ssl = unsafe { (self.libpq.ssl_struct)(self.conn.as_ptr(), c"OpenSSL".as_ptr()) };
        if !ssl.is_null() {
            let pending = self.libpq.ssl_pending?;
            // SAFETY: `ssl` is the live SSL object of this connection and `pending` is a function of the
            // OpenSSL that made it.
            return Some(unsafe { pending(ssl.cast_const()) } > 0);
        }
        // SAFETY: the connection is open.
        let wrapped = unsafe { (self.libpq.gss_in_use)(self.conn.as_ptr()) } != 0;
        if wrapped { None } else { Some(false) }
    }

    /// Reads what the socket has into libpq's buffer. False: the connection is broken.
    pub(crate) fn consume_input(&mut self) -> bool {
        // SAFETY: the connection is open.
        unsafe { (self.libpq.consume_input)(self.conn.as_ptr()) == 1 }
    }

    /// The next COPY message out of libpq's buffer, without waiting.
    pub(crate) fn copy_data(&mut self) -> CopyData {
        let mut data: *mut c_char = std::ptr::null_mut();
        // SAFETY: the connection is open; `data` is a valid place for the address of the message.
        let length = unsafe { (self.libpq.get_copy_data)(self.conn.as_ptr(), &raw mut data, 1) };
        match (usize::try_from(length), NonNull::new(data)) {
            (Ok(length), Some(data)) if length > 0 => CopyData::Message(CopyBuffer {
                data,
                length,
                freemem: self.libpq.freemem,
            }),
            (Ok(_), _) => CopyData::NotReady,
            (Err(_), _) if length == -1 => CopyData::End,
            (Err(_), _) => CopyData::Failed,
        }
    }
}

/// The part of a connection that sends prepared statements and reads their results.
impl Connection {
    /// Whether libpq may make the caller wait for the socket.
    pub(crate) fn is_nonblocking(&self) -> bool {
        // SAFETY: the connection is open.
        unsafe { (self.libpq.is_nonblocking)(self.conn.as_ptr()) == 1 }
    }

    /// Lets libpq wait for the socket, or not. False: refused.
    pub(crate) fn set_nonblocking(&mut self, nonblocking: bool) -> bool {
        // SAFETY: the connection is open.
        unsafe { (self.libpq.set_nonblocking)(self.conn.as_ptr(), c_int::from(nonblocking)) == 0 }
    }

    /// Enters pipeline mode. False: the connection is busy.
    pub(crate) fn enter_pipeline_mode(&mut self) -> bool {
        // SAFETY: the connection is open.
        unsafe { (self.libpq.enter_pipeline_mode)(self.conn.as_ptr()) == 1 }
    }

    /// Leaves pipeline mode. False: results are missing or unread.
    pub(crate) fn exit_pipeline_mode(&mut self) -> bool {
        // SAFETY: the connection is open.
        unsafe { (self.libpq.exit_pipeline_mode)(self.conn.as_ptr()) == 1 }
    }

    /// Marks the end of what fails together, and makes the server answer all before it.
    pub(crate) fn pipeline_sync(&mut self) -> bool {
        // SAFETY: the connection is open.
        unsafe { (self.libpq.pipeline_sync)(self.conn.as_ptr()) == 1 }
    }

    /// Makes the server send the answers that it has.
    pub(crate) fn send_flush_request(&mut self) -> bool {
        // SAFETY: the connection is open.
        unsafe { (self.libpq.send_flush_request)(self.conn.as_ptr()) == 1 }
    }

    /// Writes what libpq holds. `Some(true)`: some of it has to wait for the socket; `None`: broken.
    pub(crate) fn flush(&mut self) -> Option<bool> {
        // SAFETY: the connection is open.
        match unsafe { (self.libpq.flush)(self.conn.as_ptr()) } {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// Queues a prepared statement; results come as text. False: broken, or too large.
    pub(crate) fn send_query_prepared(&mut self, statement: &CStr, params: &Arrays<'_>) -> bool {
        // SAFETY: the connection is open, the name is NUL-terminated, each array has `count` elements,
        // text values are NUL-terminated and binary ones have their length beside them. libpq copies
        // all of it before it returns.
        let sent = unsafe {
            (self.libpq.send_query_prepared)(
                self.conn.as_ptr(),
                statement.as_ptr(),
                params.count,
                params.values.as_ptr(),
                params.lengths.as_ptr(),
                params.formats.as_ptr(),
                0,
            )
        };
        sent == 1
    }

    /// Whether reading a result would have to wait for the socket.
    pub(crate) fn is_busy(&mut self) -> bool {
        // SAFETY: the connection is open.
        unsafe { (self.libpq.is_busy)(self.conn.as_ptr()) == 1 }
    }

    /// The next result; none at the end of a statement's results. Waits if `is_busy`.
    pub(crate) fn get_result(&mut self) -> Option<Answer> {
        // SAFETY: the connection is open.
        let result = NonNull::new(unsafe { (self.libpq.get_result)(self.conn.as_ptr()) })?;
        Some(Answer {
            libpq: Arc::clone(&self.libpq),
            result,
        })
    }
}

/// A COPY message in memory that libpq allocated.
pub(crate) struct CopyBuffer {
    data: NonNull<c_char>,
    length: usize,
    freemem: unsafe extern "C" fn(*mut c_void),
}

impl CopyBuffer {
    /// The message.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: PQgetCopyData returned `length` initialised bytes at `data`, which stay ours until
        // they are freed in `drop`.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr().cast::<u8>(), self.length) }
    }
}

impl Drop for CopyBuffer {
    fn drop(&mut self) {
        // SAFETY: `data` came from PQgetCopyData and is freed once, by the same library.
        unsafe { (self.freemem)(self.data.as_ptr().cast::<c_void>()) }
    }
}
