//! Splitting by its rules, and for any history.

#[cfg(test)]
#[path = "../bodies/mod.rs"]
#[allow(dead_code, reason = "replay's tests use all of it")]
mod bodies;
#[cfg(test)]
#[path = "../replay/script.rs"]
#[allow(dead_code, reason = "replay's tests use all of it")]
mod script;

#[cfg(test)]
mod any_history;
#[cfg(test)]
mod rules;
