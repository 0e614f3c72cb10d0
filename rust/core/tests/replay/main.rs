//! Replay by its rules: what is sent, in which order, and when the caller is asked.

mod any_bytes;
mod careful;
mod rules;
mod script;
