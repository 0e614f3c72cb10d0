//! One libpq connection, borrowed from psycopg for the length of a call.
//!
//! Invariant: a `Connection` is used by one thread at a time (`&mut self` here, a mutex in the Python
//! class) and only while its owner has not closed it (the Python class asks the owner before each
//! call). psycopg must not touch the connection during a call: whoever drains it owns it.
//! Downstream: `drain.rs` reads COPY data, `pipeline.rs` sends statements.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::NonNull;

use crate::error::PumpError;
use crate::libpq::{Libpq, PgConn};

/// A libpq connection that somebody else opened and will close.
pub struct Connection {
    libpq: Libpq,
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
        let libpq = Libpq::find(libpq_path, libpq_version)?;
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
