//! Text.

/// What stands before the blanks that `char(n)` is filled up with.
pub(super) fn without_padding(text: &[u8]) -> &[u8] {
    let last = text.iter().rposition(|byte| *byte != b' ');
    text.get(..last.map_or(0, |last| last + 1))
        .unwrap_or_default()
}
