//! COPY rows on their way from one server to the other, unparsed.

pub mod pack;

pub use pack::CopyPacker;
