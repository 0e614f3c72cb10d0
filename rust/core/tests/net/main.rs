//! Net effects by their rules: what an epoch leaves of each row, and when replay has to take it.

#[cfg(test)]
mod any_bytes;
#[cfg(test)]
#[path = "../bodies/mod.rs"]
mod bodies;
#[cfg(test)]
mod epochs;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod told;
#[cfg(test)]
mod unsure;
