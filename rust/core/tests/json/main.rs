//! Changes and copied rows as JSON lines: by rules, and for any bytes.

#[cfg(test)]
#[path = "../bodies/mod.rs"]
#[allow(dead_code, reason = "replay's tests use all of it")]
mod bodies;

#[cfg(test)]
mod any_bytes;
#[cfg(test)]
mod rules;
