//! Dates, times of day and points in time, as the server writes them under `datestyle = ISO`.
//!
//! Constants may be written a little more freely: `T` between date and time, no seconds, any offset.

/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// A date or a point in time. Points in time are microseconds, dates are days: only like is compared with
/// like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Moment {
    Past,
    At(i64),
    Future,
}

/// What an offset from UTC means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zone {
    /// Nothing: a `timestamp` drops it.
    Ignored,
    /// It leads to UTC.
    Counted,
}

/// A date, in days since 1970.
pub(super) fn date(text: &[u8]) -> Option<Moment> {
    if let Some(infinite) = infinite(text) {
        return Some(infinite);
    }
    let (text, is_bc) = era(text);
    let (days, rest) = day(text, is_bc)?;
    rest.is_empty().then_some(Moment::At(days))
}

/// A time of day, in microseconds; 24:00 is one.
pub(super) fn time(text: &[u8]) -> Option<i64> {
    let (us, rest) = clock(text)?;
    rest.is_empty().then_some(us)
}

/// A point in time, in microseconds since 1970.
pub(super) fn timestamp(text: &[u8], zone: Zone) -> Option<Moment> {
    if let Some(infinite) = infinite(text) {
        return Some(infinite);
    }
    let (text, is_bc) = era(text);
    let (days, rest) = day(text, is_bc)?;
    let (clock_us, rest) = match rest.split_first() {
        None => (0, rest),
        Some((b' ' | b'T' | b't', rest)) => clock(rest)?,
        Some(_) => return None,
    };
    let offset_us = offset(rest)?;
    let local_us = days.checked_mul(DAY_US)?.checked_add(clock_us)?;
    Some(Moment::At(match zone {
        Zone::Ignored => local_us,
        Zone::Counted => local_us.checked_sub(offset_us)?,
    }))
}

fn infinite(text: &[u8]) -> Option<Moment> {
    if text.eq_ignore_ascii_case(b"infinity") {
        Some(Moment::Future)
    } else if text.eq_ignore_ascii_case(b"-infinity") {
        Some(Moment::Past)
    } else {
        None
    }
}

/// What stands before ` BC`, and whether that does.
fn era(text: &[u8]) -> (&[u8], bool) {
    match text.strip_suffix(b" BC") {
        Some(before) => (before, true),
        None => (text, false),
    }
}

/// `YYYY-MM-DD` at the start of a text, as days since 1970; years may have more digits.
fn day(text: &[u8], is_bc: bool) -> Option<(i64, &[u8])> {
    let (year, rest) = number(text, 4, 7)?;
    let (month, rest) = number(rest.strip_prefix(b"-")?, 2, 2)?;
    let (day, rest) = number(rest.strip_prefix(b"-")?, 2, 2)?;
    if year == 0 {
        return None;
    }
    // 1 BC is the year 0.
    let year = if is_bc { 1 - year } else { year };
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        _ => return None,
    };
    (1..=length)
        .contains(&day)
        .then(|| (days_since_1970(year, month, day), rest))
}

/// Counts years from March, so that a leap day is the last day of one, in eras of 400 years.
const fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// `HH:MM[:SS[.ffffff]]` at the start of a text, in microseconds.
fn clock(text: &[u8]) -> Option<(i64, &[u8])> {
    let (hours, rest) = number(text, 2, 2)?;
    let (minutes, mut rest) = number(rest.strip_prefix(b":")?, 2, 2)?;
    let (mut seconds, mut fraction_us) = (0, 0);
    if let Some(behind) = rest.strip_prefix(b":") {
        (seconds, rest) = number(behind, 2, 2)?;
        if let Some(behind) = rest.strip_prefix(b".") {
            let digits = behind
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
            let (fraction, behind) = number(behind, 1, 6)?;
            let places = u32::try_from(6_usize.checked_sub(digits)?).ok()?;
            fraction_us = fraction * 10_i64.pow(places);
            rest = behind;
        }
    }
    let us = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + fraction_us;
    (minutes < 60 && seconds <= 60 && us <= DAY_US).then_some((us, rest))
}

/// `Z`, `±HH`, `±HHMM`, `±HH:MM` or `±HH:MM:SS`, or nothing, in microseconds.
fn offset(text: &[u8]) -> Option<i64> {
    let text = text.strip_prefix(b" ").unwrap_or(text);
    let (is_west, rest) = match text.split_first() {
        None | Some((b'Z' | b'z', [])) => return Some(0),
        Some((b'+', rest)) => (false, rest),
        Some((b'-', rest)) => (true, rest),
        Some(_) => return None,
    };
    let (hours, mut rest) = number(rest, 2, 2)?;
    let mut parts = [0, 0];
    for part in &mut parts {
        if rest.is_empty() {
            break;
        }
        (*part, rest) = number(rest.strip_prefix(b":").unwrap_or(rest), 2, 2)?;
    }
    let [minutes, seconds] = parts;
    let us = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000;
    let is_one = rest.is_empty() && hours < 16 && minutes < 60 && seconds < 60;
    is_one.then_some(if is_west { -us } else { us })
}

/// A number of `least` to `most` digits at the start of a text.
fn number(text: &[u8], least: usize, most: usize) -> Option<(i64, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let digits = digits.min(most);
    if digits < least {
        return None;
    }
    let (digits, rest) = text.split_at_checked(digits)?;
    let number = digits
        .iter()
        .fold(0_i64, |number, digit| number * 10 + i64::from(digit - b'0'));
    Some((number, rest))
}
