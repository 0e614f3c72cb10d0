//! Everything pgflo does per row, without Python and without unsafe code.
#![forbid(unsafe_code)]
