//! Replay by its rules: what is sent, in which order, and when the caller is asked.

#[cfg(test)]
mod any_bytes;
#[cfg(test)]
#[path = "../bodies/mod.rs"]
mod bodies;
#[cfg(test)]
mod careful;
#[cfg(test)]
mod notes;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod script;
