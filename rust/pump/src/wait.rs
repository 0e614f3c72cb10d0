//! Waiting for a socket, whatever hides in front of it.
//!
//! poll(2) sees the socket only. Bytes that TLS has read but not handed out would be waited for in
//! vain, so they are asked for first; where they cannot be asked for (GSSAPI), waits are short.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use crate::connection::Connection;

/// Longest single wait when the encryption layer cannot tell whether it holds bytes.
const BLIND_WAIT: Duration = Duration::from_millis(5);

/// What a wait waits for besides input.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Bytes to read.
    Read,
    /// Bytes to read, or room to write.
    ReadOrWrite,
}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Readiness {
    /// Reading (or writing) may make progress, or the peer is gone and reading will say so.
    Ready,
    /// The deadline passed.
    TimedOut,
    /// There is no socket any more.
    Broken,
}

/// Waits until `connection` may make progress or `deadline` passes; `None` waits for ever. Interrupted
/// waits go on.
pub(crate) fn wait(
    connection: &Connection,
    interest: Interest,
    deadline: Option<Instant>,
) -> Readiness {
    let longest = match connection.has_hidden_input() {
        Some(true) => return Readiness::Ready,
        Some(false) => None,
        None => Some(BLIND_WAIT),
    };
    let events = match interest {
        Interest::Read => libc::POLLIN,
        Interest::ReadOrWrite => libc::POLLIN | libc::POLLOUT,
    };
    let mut waited = libc::pollfd {
        fd: connection.socket(),
        events,
        revents: 0,
    };
    if waited.fd < 0 {
        return Readiness::Broken;
    }
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let this_wait = match (left, longest) {
            (Some(left), Some(longest)) => Some(left.min(longest)),
            (left, longest) => left.or(longest),
        };
        // SAFETY: one initialised pollfd that lives through the call.
        let answer = unsafe { libc::poll(&raw mut waited, 1, poll_timeout_ms(this_wait)) };
        if answer > 0 {
            return if waited.revents & libc::POLLNVAL == 0 {
                Readiness::Ready
            } else {
                Readiness::Broken
            };
        }
        if answer < 0 && std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            return Readiness::Broken;
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Readiness::TimedOut;
        }
        if answer == 0 && longest.is_some() {
            // A short wait is over: the encryption layer may have something.
            return Readiness::Ready;
        }
    }
}

/// poll(2)'s timeout: milliseconds rounded up, so that a wait never ends before its deadline; −1 = none.
fn poll_timeout_ms(wait: Option<Duration>) -> c_int {
    wait.map_or(-1, |wait| {
        c_int::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX)
    })
}
