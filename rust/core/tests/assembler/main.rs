//! The assembler, from frames to envelopes that read back. `history` draws what a source did and says it
//! as a walsender would; `any_history` holds for all of it, `rules` shows one rule at a time.

#[cfg(test)]
mod any_history;
#[cfg(test)]
mod history;
#[cfg(test)]
mod rules;
