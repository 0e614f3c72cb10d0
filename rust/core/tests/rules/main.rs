//! Rules by what they make of bodies and of COPY rows.

#[cfg(test)]
mod any_bytes;
#[cfg(test)]
#[path = "../bodies/mod.rs"]
mod bodies;
#[cfg(test)]
mod copying;
#[cfg(test)]
mod mistakes;
#[cfg(test)]
mod movement;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod told;
