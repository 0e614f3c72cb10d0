//! Dates, times and intervals, as the server writes them under `DateStyle = ISO`, `TimeZone = UTC` and
//! `IntervalStyle = postgres`.

use super::cell::{push_digits, push_int};

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;
/// Days from 1970-01-01 to 2000-01-01, where the server's clock starts.
const EPOCH_DAYS: i64 = 10_957;
/// Days from 0000-03-01 to 1970-01-01 in the Gregorian calendar.
const UNIX_EPOCH_FROM_MARCH: i64 = 719_468;
const ERA_DAYS: i64 = 146_097;

/// Appends a `date`, of days since 2000-01-01.
pub(super) fn push_date(days: i32, out: &mut Vec<u8>) {
    match days {
        i32::MAX => out.extend_from_slice(b"infinity"),
        i32::MIN => out.extend_from_slice(b"-infinity"),
        _ => {
            let is_before = push_day(days.into(), out);
            out.extend_from_slice(if is_before { b" BC" } else { b"" });
        }
    }
}

/// Appends a `time`, of microseconds since midnight; none if it is beyond a day.
pub(super) fn push_time(time_us: i64, out: &mut Vec<u8>) -> Option<()> {
    if !(0..=DAY_US).contains(&time_us) {
        return None;
    }
    push_clock(time_us.unsigned_abs(), out);
    Some(())
}

/// Appends a `timetz`; its zone is told in seconds to the west.
pub(super) fn push_timetz(time_us: i64, west_s: i32, out: &mut Vec<u8>) -> Option<()> {
    push_time(time_us, out)?;
    let east_s = i64::from(west_s).checked_neg()?;
    out.push(if east_s < 0 { b'-' } else { b'+' });
    let east_s = east_s.unsigned_abs();
    push_digits(east_s / 3600, 2, out);
    if east_s % 3600 != 0 {
        out.push(b':');
        push_digits(east_s / 60 % 60, 2, out);
    }
    if east_s % 60 != 0 {
        out.push(b':');
        push_digits(east_s % 60, 2, out);
    }
    Some(())
}

/// Appends a `timestamp`, of microseconds since 2000-01-01, with `zone` behind it.
pub(super) fn push_timestamp(time_us: i64, zone: &[u8], out: &mut Vec<u8>) {
    match time_us {
        i64::MAX => out.extend_from_slice(b"infinity"),
        i64::MIN => out.extend_from_slice(b"-infinity"),
        _ => {
            let is_before = push_day(time_us.div_euclid(DAY_US), out);
            out.push(b' ');
            push_clock(time_us.rem_euclid(DAY_US).unsigned_abs(), out);
            out.extend_from_slice(zone);
            out.extend_from_slice(if is_before { b" BC" } else { b"" });
        }
    }
}

/// Appends an `interval`.
pub(super) fn push_interval(time_us: i64, days: i32, months: i32, out: &mut Vec<u8>) {
    match (time_us, days, months) {
        (i64::MAX, i32::MAX, i32::MAX) => return out.extend_from_slice(b"infinity"),
        (i64::MIN, i32::MIN, i32::MIN) => return out.extend_from_slice(b"-infinity"),
        _ => {}
    }
    let parts = [(months / 12, "year"), (months % 12, "mon"), (days, "day")];
    let begun = out.len();
    let mut is_before = false;
    for (value, unit) in parts.into_iter().filter(|(value, _)| *value != 0) {
        if out.len() > begun {
            out.push(b' ');
        }
        if is_before && value > 0 {
            out.push(b'+');
        }
        push_int(value.into(), out);
        out.push(b' ');
        out.extend_from_slice(unit.as_bytes());
        if value != 1 {
            out.push(b's');
        }
        is_before = value < 0;
    }
    if out.len() > begun && time_us == 0 {
        return;
    }
    if out.len() > begun {
        out.push(b' ');
    }
    if time_us < 0 {
        out.push(b'-');
    } else if is_before {
        out.push(b'+');
    }
    push_clock(time_us.unsigned_abs(), out);
}

/// Appends the day; tells whether it is before Christ, which is to be written at the end.
fn push_day(days: i64, out: &mut Vec<u8>) -> bool {
    let (year, month, day) = civil(days);
    let is_before = year <= 0;
    let shown = if is_before { 1 - year } else { year };
    push_digits(shown.unsigned_abs(), 4, out);
    out.push(b'-');
    push_digits(month, 2, out);
    out.push(b'-');
    push_digits(day, 2, out);
    is_before
}

/// Year (0 is 1 BC), month and day of a day since 2000-01-01. Years begin in March here, so that the
/// leap day is the last of its year.
fn civil(days: i64) -> (i64, u64, u64) {
    let from_march = days + EPOCH_DAYS + UNIX_EPOCH_FROM_MARCH;
    let era = from_march.div_euclid(ERA_DAYS);
    let day_of_era = from_march.rem_euclid(ERA_DAYS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march_month + 2) / 5 + 1;
    let month = if from_march_month < 10 {
        from_march_month + 3
    } else {
        from_march_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month.unsigned_abs(), day.unsigned_abs())
}

/// Appends hours, minutes, seconds and as many digits of the second as there are.
fn push_clock(time_us: u64, out: &mut Vec<u8>) {
    let seconds = time_us / SECOND_US.unsigned_abs();
    push_digits(seconds / 3600, 2, out);
    out.push(b':');
    push_digits(seconds / 60 % 60, 2, out);
    out.push(b':');
    push_digits(seconds % 60, 2, out);
    let fraction = time_us % SECOND_US.unsigned_abs();
    if fraction != 0 {
        out.push(b'.');
        push_digits(fraction, 6, out);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}
