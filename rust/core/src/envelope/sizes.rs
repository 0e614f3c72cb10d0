//! When bodies are cut.

use crate::error::EnvelopeError;

/// Below this an envelope holds little more than a Begin and a Relation.
const LEAST_MAX_BODY_BYTES: usize = 1024;
/// The most that a NATS server can be made to take in one message.
const MOST_MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// Sizes of bodies, in bytes, headers not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    target_body_bytes: usize,
    max_body_bytes: usize,
}

impl Sizes {
    /// Checks both against each other and against what a broker can carry.
    pub const fn new(
        target_body_bytes: usize,
        max_body_bytes: usize,
    ) -> Result<Self, EnvelopeError> {
        if target_body_bytes == 0 || target_body_bytes > max_body_bytes {
            return Err(EnvelopeError::BadSetting(
                "target_body_bytes must be from 1 to max_body_bytes",
            ));
        }
        if max_body_bytes < LEAST_MAX_BODY_BYTES || max_body_bytes > MOST_MAX_BODY_BYTES {
            return Err(EnvelopeError::BadSetting(
                "max_body_bytes must be from 1 KiB to 64 MiB",
            ));
        }
        Ok(Self {
            target_body_bytes,
            max_body_bytes,
        })
    }

    /// Size that a body is cut at.
    #[must_use]
    pub const fn target_body_bytes(self) -> usize {
        self.target_body_bytes
    }

    /// Size that no body exceeds.
    #[must_use]
    pub const fn max_body_bytes(self) -> usize {
        self.max_body_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_envelope_can_have_are_refused() {
        for (target, max) in [
            (0, 4096),
            (4097, 4096),
            (1, 1023),
            (1, MOST_MAX_BODY_BYTES + 1),
        ] {
            assert!(matches!(
                Sizes::new(target, max),
                Err(EnvelopeError::BadSetting(_))
            ));
        }
        assert!(Sizes::new(1, 1024).is_ok());
    }
}
