//! COPY rows on their way from one server to the other.
//!
//! | file | owns |
//! |---|---|
//! | `pack` | rows, unparsed, into envelopes |
//! | `text` | what stands behind a backslash |
//! | `binary` | rows of the binary format as rows of the text format, for whoever reads values |

pub mod binary;
pub mod pack;
pub(crate) mod text;

pub use binary::{BinaryToText, has_text};
pub use pack::CopyPacker;
