//! Why a connection cannot be pumped. Never carries what the server sent.

/// A failure to take over a connection, or a libpq that answers outside its documentation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PumpError {
    /// The path holds a NUL byte, or no library of that path is loaded in this process.
    #[error("libpq is not loaded from {path}")]
    NotLoaded {
        /// Where the library was expected.
        path: String,
    },
    /// The library lacks a function: it is older than `PostgreSQL` 14, or not libpq.
    #[error("libpq lacks {symbol}")]
    MissingSymbol {
        /// Name of the function.
        symbol: &'static str,
    },
    /// The loaded library has another version than the one psycopg reports.
    #[error("libpq has version {found}, psycopg uses {expected}")]
    OtherVersion {
        /// `PQlibVersion()` as psycopg tells it.
        expected: i32,
        /// `PQlibVersion()` of the library found.
        found: i32,
    },
    /// The address does not lead to the connection with that socket.
    #[error("the connection has socket {found}, psycopg reports {expected}")]
    OtherSocket {
        /// File number as psycopg tells it.
        expected: i32,
        /// File number found.
        found: i32,
    },
    /// libpq refused a call that must work in the present state.
    #[error("libpq refused {call}")]
    Refused {
        /// Name of the function.
        call: &'static str,
    },
}
