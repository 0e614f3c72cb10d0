//! UUIDs: 32 hex digits, hyphens between groups of four, braces around all of it or not.

pub(super) fn parse(text: &[u8]) -> Option<[u8; 16]> {
    let text = match text {
        [b'{', inner @ .., b'}'] => inner,
        _ => text,
    };
    let mut digits = 0_usize;
    let mut number = 0_u128;
    for byte in text {
        if *byte == b'-' {
            if digits == 0 || !digits.is_multiple_of(4) || digits == 32 {
                return None;
            }
            continue;
        }
        let digit = char::from(*byte).to_digit(16)?;
        digits += 1;
        if digits > 32 {
            return None;
        }
        number = number << 4 | u128::from(digit);
    }
    (digits == 32).then_some(number.to_be_bytes())
}
