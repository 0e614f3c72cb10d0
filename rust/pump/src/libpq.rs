//! The functions of the libpq that psycopg loaded, found by name in that very library.
//!
//! Nothing is linked: psycopg's wheel brings a libpq of its own, and a second copy of the library
//! would read the connection by another layout. `RTLD_NOLOAD` makes sure that we find the loaded one
//! or none. Downstream: `connection.rs` is the only caller.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::NonNull;

use crate::error::PumpError;

/// libpq's connection; never looked into.
#[repr(C)]
pub(crate) struct PgConn {
    _opaque: [u8; 0],
}

/// libpq's result of one statement; never looked into.
#[repr(C)]
pub(crate) struct PgResult {
    _opaque: [u8; 0],
}

/// Declares the table of functions and how each is found.
macro_rules! functions {
    ($( $name:ident : $symbol:literal, fn($($argument:ty),*) $(-> $answer:ty)?; )*) => {
        /// Addresses inside the loaded libpq. The library stays loaded: its handle is never closed.
        pub(crate) struct Libpq {
            $( pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $answer)?, )*
            /// `SSL_pending` of the OpenSSL that this libpq uses, if it uses one.
            pub(crate) ssl_pending: Option<unsafe extern "C" fn(*const c_void) -> c_int>,
        }

        impl Libpq {
            fn resolve(library: NonNull<c_void>) -> Result<Self, PumpError> {
                Ok(Self {
                    $( $name: {
                        let address = symbol(library, $symbol)
                            .ok_or(PumpError::MissingSymbol { symbol: text($symbol) })?;
                        // SAFETY: the address is that of the libpq function of this name, and the
                        // type on the left repeats its declaration in libpq-fe.h, which is a stable
                        // interface since the function appeared.
                        unsafe {
                            std::mem::transmute::<
                                NonNull<c_void>,
                                unsafe extern "C" fn($($argument),*) $(-> $answer)?,
                            >(address)
                        }
                    }, )*
                    ssl_pending: symbol(library, c"SSL_pending").map(|address| {
                        // SAFETY: dlsym searched libpq and the libraries it was linked with, so this
                        // is OpenSSL's `int SSL_pending(const SSL *)`.
                        unsafe {
                            std::mem::transmute::<
                                NonNull<c_void>,
                                unsafe extern "C" fn(*const c_void) -> c_int,
                            >(address)
                        }
                    }),
                })
            }
        }
    };
}

functions! {
    lib_version: c"PQlibVersion", fn() -> c_int;
    socket: c"PQsocket", fn(*const PgConn) -> c_int;
    ssl_struct: c"PQsslStruct", fn(*mut PgConn, *const c_char) -> *mut c_void;
    gss_in_use: c"PQgssEncInUse", fn(*mut PgConn) -> c_int;
    consume_input: c"PQconsumeInput", fn(*mut PgConn) -> c_int;
    get_copy_data: c"PQgetCopyData", fn(*mut PgConn, *mut *mut c_char, c_int) -> c_int;
    freemem: c"PQfreemem", fn(*mut c_void);
    is_nonblocking: c"PQisnonblocking", fn(*const PgConn) -> c_int;
    set_nonblocking: c"PQsetnonblocking", fn(*mut PgConn, c_int) -> c_int;
    flush: c"PQflush", fn(*mut PgConn) -> c_int;
    enter_pipeline_mode: c"PQenterPipelineMode", fn(*mut PgConn) -> c_int;
    exit_pipeline_mode: c"PQexitPipelineMode", fn(*mut PgConn) -> c_int;
    pipeline_sync: c"PQpipelineSync", fn(*mut PgConn) -> c_int;
    send_flush_request: c"PQsendFlushRequest", fn(*mut PgConn) -> c_int;
    send_query_prepared: c"PQsendQueryPrepared",
        fn(*mut PgConn, *const c_char, c_int, *const *const c_char, *const c_int, *const c_int, c_int) -> c_int;
    is_busy: c"PQisBusy", fn(*mut PgConn) -> c_int;
    get_result: c"PQgetResult", fn(*mut PgConn) -> *mut PgResult;
    result_status: c"PQresultStatus", fn(*const PgResult) -> c_int;
    result_error_field: c"PQresultErrorField", fn(*const PgResult, c_int) -> *mut c_char;
    cmd_tuples: c"PQcmdTuples", fn(*mut PgResult) -> *mut c_char;
    clear: c"PQclear", fn(*mut PgResult);
}

impl Libpq {
    /// Finds the functions in the library loaded from `path`. Loads nothing.
    ///
    /// # Errors
    /// `NotLoaded` when no such library is in this process, `MissingSymbol` when a function is absent,
    /// `OtherVersion` when its version is not `version`.
    pub(crate) fn find(path: &str, version: i32) -> Result<Self, PumpError> {
        let not_loaded = || PumpError::NotLoaded {
            path: path.to_owned(),
        };
        let c_path = CString::new(path).map_err(|_| not_loaded())?;
        // SAFETY: the path is NUL-terminated. RTLD_NOLOAD runs no initialiser: the library is there
        // already or the answer is null. The handle keeps it loaded and is never closed.
        let library = unsafe { libc::dlopen(c_path.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_NOW) };
        let functions = Self::resolve(NonNull::new(library).ok_or_else(not_loaded)?)?;
        // SAFETY: PQlibVersion takes nothing and reads a constant.
        let found = unsafe { (functions.lib_version)() };
        if found == version {
            Ok(functions)
        } else {
            Err(PumpError::OtherVersion {
                expected: version,
                found,
            })
        }
    }
}

/// Address of a function in `library` or in what it was linked with.
fn symbol(library: NonNull<c_void>, name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: the handle is open (it is never closed) and the name is NUL-terminated.
    NonNull::new(unsafe { libc::dlsym(library.as_ptr(), name.as_ptr()) })
}

/// The name for an error's text; all names above are ASCII.
fn text(name: &'static CStr) -> &'static str {
    name.to_str().unwrap_or("a function")
}
